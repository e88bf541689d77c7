"""Constraints that all training rows of a table obey, and that samples may break.

Four kinds are looked for, because they are cheap to find: equations of columns and their logarithms (sums, differences,
products, ratios), orderings of two columns, columns that one or two discrete columns determine, and classes that are
intervals of a number.  A constraint counts only if rows that obey it by chance are implausible.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ncsn.data.columns import Column, Columns, has_decimals
from ncsn.machine.messages import log
from ncsn.validation import one_line

MIN_ROWS = 100  # from which a constraint is believed
CERTAIN = 30.0  # nats by which the rows' agreement must exceed chance
SCREENED = 2000  # rows that candidates are tested on first
MOST_COLUMNS = 100  # of a table whose constraints are looked for
ROUNDING = 1e-5  # standard deviations; numbers went through single precision
COARSE = 0.1  # standard deviations; if rounding moves sums by more, it could hide a wrong equation
FINE = 1e-3  # standard deviations; numbers of finer units may have lost their last digit to single precision
SMALL, TINY = 0.02, 1e-4  # standard deviations; effects of columns that an equation doesn't need, rounded or exact
WIDE = 3.0  # ratio of the largest to the smallest number, from which a logarithm isn't a straight line
ROWS_PER_COLUMN = 10  # in equations
OVERLAP = 0.05  # share of shuffled pairs that must break an ordering
TIGHT = 0.25  # of the median difference, below which its 5 % quantile lies if an ordering bounds it
MOST_VALUES = 50  # of columns that determine others, or that others determine
MOST_PAIRS = 20  # discrete columns, of which all pairs are tried
MOST_CLASSES, MIN_ROWS_OF_CLASS = 20, 5  # that are intervals of a number
ANNOUNCED = 5  # constraints that training prints


@runtime_checkable
class Constraint(Protocol):
    """A constraint that all training rows obey, such as "start ≤ end"."""

    @property
    def text(self) -> str:
        """The constraint as text, with the names of its columns."""

    def broken(self, rows: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, "n"]:
        """Which rows, in the user's units, break the constraint; rows that lack a cell that it needs don't."""


@dataclass(frozen=True)
class Ordering:
    """A column that is nowhere above another one; ``tolerance``: for numbers in single precision."""

    text: str
    low: int
    high: int
    tolerance: float

    def broken(self, rows: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, "n"]:
        """Which rows, in the user's units, break the constraint; rows that lack a cell that it needs don't."""
        broken: Bool[np.ndarray, " n"] = rows[:, self.low] - rows[:, self.high] > self.tolerance
        return broken


class Term(NamedTuple):
    """A coefficient times a column, or times its logarithm."""

    coefficient: float
    column: int
    log: bool


@dataclass(frozen=True)
class Equation:
    """Terms whose sum is constant; ``slack``: by how much rounding may have changed each term's column."""

    text: str
    terms: tuple[Term, ...]
    slack: tuple[float, ...]
    constant: float
    tolerance: float

    def broken(self, rows: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, "n"]:
        """Which rows, in the user's units, break the constraint; rows that lack a cell that it needs don't."""
        total = np.full(len(rows), -self.constant)
        allowed = np.full(len(rows), self.tolerance)
        with np.errstate(divide="ignore", invalid="ignore"):
            for term, slack in zip(self.terms, self.slack, strict=True):
                x = rows[:, term.column]
                total += term.coefficient * (np.log(x) if term.log else x)
                allowed += abs(term.coefficient) * slack / (x if term.log else 1.0)
        known = ~np.isnan(rows[:, [term.column for term in self.terms]]).any(1)
        broken: Bool[np.ndarray, " n"] = known & ~(abs(total) <= allowed)  # the logarithm of 0 breaks it
        return broken


@dataclass(frozen=True)
class Dependence:
    """A column that one or two others determine; combinations of their values that training lacks aren't judged.

    ``determined``: the value, or NaN, of each combination.
    """

    text: str
    determinants: tuple[int, ...]
    target: int
    determined: dict[tuple[float, ...], float]

    def broken(self, rows: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, "n"]:
        """Which rows, in the user's units, break the constraint; rows that lack a cell that it needs don't."""
        target = rows[:, self.target]
        keys = map(tuple, rows[:, self.determinants].tolist())
        expected = np.array([self.determined.get(key, np.inf) for key in keys])
        same = (target == expected) | (np.isnan(target) & np.isnan(expected))
        broken: Bool[np.ndarray, " n"] = ~same & (expected != np.inf)
        return broken


@dataclass(frozen=True)
class Intervals:
    """A column whose values, NaN included, are those of intervals of a number; between these, nothing is known."""

    text: str
    number: int
    target: int
    values: tuple[float, ...]
    ends: tuple[tuple[float, float], ...]

    def broken(self, rows: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, "n"]:
        """Which rows, in the user's units, break the constraint; rows that lack a cell that it needs don't."""
        x, target = rows[:, self.number], rows[:, self.target]
        broken = np.zeros(len(rows), dtype=bool)
        for value, (low, high) in zip(self.values, self.ends, strict=True):
            same = np.isnan(target) if np.isnan(value) else target == value
            broken |= (x >= low) & (x <= high) & ~same
        return broken


def find_constraints(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> list[Constraint]:
    """The constraints that all of these rows obey; none for more than 100 columns.

    ``rows``: in the user's units, NaN where a cell is missing.
    """
    if len(columns.names) > MOST_COLUMNS:
        return []
    equations = list(find_equations(columns, rows))
    members = [{term.column for term in equation.terms} for equation in equations]
    coded = [encode(x) for x in rows.T]
    constraints: list[Constraint] = [*equations]
    # An equation of two columns says more than an ordering or a dependence of them.
    for ordering in find_orderings(columns, rows):
        if not any({ordering.low, ordering.high} <= equation for equation in members):
            constraints.append(ordering)
    for dependence in find_dependences(columns, rows, coded):
        if not any(equation <= {*dependence.determinants, dependence.target} for equation in members):
            constraints.append(dependence)
    return [*constraints, *find_intervals(columns.columns, rows, coded)]


def announce_constraints(constraints: Sequence[Constraint], n: int) -> None:
    """Log what all n training rows obey, in a line each."""
    for constraint in constraints[:ANNOUNCED]:
        log.info(f"in all {n:,} training rows: {constraint.text}")
    if constraints:
        more = f" (and {len(constraints) - ANNOUNCED} more)" if len(constraints) > ANNOUNCED else ""
        log.info(
            f"samples may break this{more}: ncsn evaluate counts how often, and ncsn.with_rule draws such rows again"
        )


def is_quantity(column: Column) -> bool:
    """Whether a column has numbers or dates."""
    return not column.categories


# Equations.


def find_equations(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> Iterator[Equation]:
    """Equations of columns and logarithms, by Gram-Schmidt: each feature that earlier ones explain ends an equation.

    Candidates come from rows without gaps in columns of numbers; if these are few, only from columns without gaps.
    """
    places = [i for i, column in enumerate(columns.columns) if is_quantity(column)]
    complete = ~np.isnan(rows[:, places]).any(1)
    if complete.sum() < max(MIN_ROWS, ROWS_PER_COLUMN * len(places)):
        places = [i for i in places if not np.isnan(rows[:, i]).any()]
        complete = np.ones(len(rows), dtype=bool)
    x = rows[complete]
    if not places or len(x) < max(MIN_ROWS, ROWS_PER_COLUMN * len(places)):
        return
    logs = [
        i for i in places if not columns.columns[i].date and x[:, i].min() > 0 and x[:, i].max() > WIDE * x[:, i].min()
    ]
    units = [rounding_unit(cells) for cells in x.T]
    n = min(len(x), SCREENED)
    basis = np.full((n, 1), n**-0.5)
    kept = list[Term]()
    doubles = set[int]()  # columns that are straight lines of another one, so that their logarithms say nothing new
    for feature in [*(Term(1.0, i, log=False) for i in places), *(Term(1.0, i, log=True) for i in logs)]:
        values = values_of(feature, x)
        if feature.column in doubles or not values[:n].std():
            continue
        residual = values[:n] - basis @ (basis.T @ values[:n])
        residual -= basis @ (basis.T @ residual)  # again, because rounding leaves a trace
        unexplained = np.abs(residual).max() / values.std()
        if unexplained <= 2 * COARSE:
            same_kind = [term for term in kept if term.log == feature.log]
            equation = solve(feature, same_kind, x, units, columns) or solve(feature, kept, x, units, columns)
            if equation is not None and not equation.broken(rows).any():
                if len(equation.terms) == 2 and not feature.log:
                    doubles.add(feature.column)
                yield equation
                continue
        if unexplained > ROUNDING:
            kept.append(feature)
            basis = np.column_stack([basis, residual / np.linalg.norm(residual)])


def values_of(term: Term, x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n"]:
    """The numbers of a term's column, or their logarithms."""
    values: Float64[np.ndarray, " n"] = np.log(x[:, term.column]) if term.log else x[:, term.column]
    return values


def rounding_unit(x: Float64[np.ndarray, "n"]) -> float:
    """The unit of the last decimal that numbers have, or 0 if they have more than six decimals."""
    return next((10.0**-d for d in range(7) if has_decimals(x, d, single=False)), 0.0)


def solve(
    feature: Term,
    kept: Sequence[Term],
    x: Float64[np.ndarray, "n d"],
    units: Sequence[float],
    columns: Columns,
) -> Equation | None:
    """The shortest equation that explains a feature by others in all rows, exactly or up to their rounding."""
    y = values_of(feature, x)
    y = y - y.mean()
    predictors = [term for term in kept if term.column != feature.column]
    if not predictors:
        return None
    design = np.column_stack([values_of(term, x) for term in predictors])
    design -= design.mean(0)
    effects = np.linalg.lstsq(design / design.std(0), y, rcond=None)[0] / y.std()
    equations = list[Equation]()
    for is_rounded, negligible, most_digits in ((False, TINY, 6), (True, SMALL, 3)):
        chosen = np.abs(effects) > negligible
        terms = [term for term, is_chosen in zip(predictors, chosen, strict=True) if is_chosen]
        if not terms or len({term.column for term in terms}) < len(terms):  # a column and its own logarithm
            continue
        slopes = np.linalg.lstsq(design[:, chosen], y, rcond=None)[0].tolist()
        fine = [unit if unit <= FINE * x[:, i].std() else 0.0 for i, unit in enumerate(units)]
        slack = tuple(
            units[term.column] / 2 if is_rounded and not term.log and not fine[term.column] else fine[term.column]
            for term in (feature, *terms)
        )
        for digits in range(1, most_digits + 1):
            short = [float(f"{slope:.{digits}g}") for slope in slopes]
            weighted = [term._replace(coefficient=-slope) for term, slope in zip(terms, short, strict=True)]
            if (equation := equation_of((feature, *weighted), slack, x, columns)) is not None:
                equations.append(equation)
                break
    return min(equations, key=lambda equation: len(equation.text), default=None)


def equation_of(
    terms: tuple[Term, ...], slack: tuple[float, ...], x: Float64[np.ndarray, "n d"], columns: Columns
) -> Equation | None:
    """The equation of these terms with the shortest constant, if all rows obey it and rounding can't hide an error."""
    total = sum((term.coefficient * values_of(term, x) for term in terms), np.zeros(len(x)))
    spread = float(values_of(terms[0], x).std())
    rounding = sum(
        abs(term.coefficient) * unit * (np.mean(1 / x[:, term.column]) if term.log else 1.0)
        for term, unit in zip(terms, slack, strict=True)
    )
    if rounding > COARSE * spread or np.ptp(total) > 2 * COARSE * spread:
        return None
    middle = float(total.max() + total.min()) / 2
    constants = [0.0]
    for digits in range(1, 10):
        if all(term.log for term in terms):  # a product, whose factor is short
            constants.append(math.log(float(f"{math.exp(middle):.{digits}g}")))
        else:
            constants.append(float(f"{middle:.{digits}g}"))
    for constant in constants:
        equation = Equation(describe_equation(terms, constant, columns), terms, slack, constant, ROUNDING * spread)
        if not equation.broken(x).any():
            return equation
    return None


def describe_equation(terms: Sequence[Term], constant: float, columns: Columns) -> str:
    """An equation as text, in which both sides have positive terms; one of logarithms only is a product."""
    is_product = all(term.log for term in terms)

    def describe(term: Term) -> str:
        name, size = columns.names[term.column], abs(term.coefficient)
        if is_product:
            return name if size == 1 else f"{name}^{size:g}"
        name = f"log({name})" if term.log else name
        return name if size == 1 else f"{size:g} {name}"

    ordered = sorted(terms, key=lambda term: term.column)
    left = [describe(term) for term in ordered if term.coefficient > 0]
    right = [describe(term) for term in ordered if term.coefficient < 0]
    if is_product:
        factor = [] if right and not constant else [f"{np.exp(constant):g}"]
        return f"{' × '.join(left)} = {' × '.join([*factor, *right])}"
    if constant < 0:
        left.append(f"{-constant:g}")
    elif constant or not right:
        right.append(f"{constant:g}")
    return f"{' + '.join(left)} = {' + '.join(right or ['0'])}"


# Orderings.


def find_orderings(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> list[Ordering]:
    """Pairs of columns of numbers, or of dates, of which one is nowhere above the other; none that two others imply."""
    orderings = dict[tuple[int, int], Ordering]()
    tolerances = ROUNDING * np.nanstd(rows, 0)
    for is_date in (False, True):
        places = [i for i, column in enumerate(columns.columns) if is_quantity(column) and column.date == is_date]
        for low in places:
            with np.errstate(invalid="ignore"):
                is_above = rows[:SCREENED, [low]] > rows[:SCREENED, places] + tolerances[places]
            for high in (place for place, ever in zip(places, is_above.any(0), strict=True) if not ever):
                if high != low and is_ordered(rows[:, low], rows[:, high], tolerances[high]):
                    text = f"{columns.names[low]} ≤ {columns.names[high]}"
                    orderings[low, high] = Ordering(text, low, high, float(tolerances[high]))
    return [
        ordering
        for (low, high), ordering in orderings.items()
        if not any((low, i) in orderings and (i, high) in orderings for i in range(len(columns.names)))
    ]


def is_ordered(low: Float64[np.ndarray, "n"], high: Float64[np.ndarray, "n"], tolerance: float) -> bool:
    """Whether a column is nowhere above another, though their ranges overlap, and often close to it.

    Where two distributions merely lie apart, few differences are close to 0.
    """
    known = ~np.isnan(low) & ~np.isnan(high)
    low, high = low[known], high[known]
    if len(low) < MIN_ROWS or (low - high).max() > tolerance:
        return False
    shuffled = 1 - np.searchsorted(np.sort(low), high, side="right").mean() / len(low)  # pairs that break the ordering
    smallest, middle = np.quantile(high - low, [0.05, 0.5])
    return bool(shuffled > OVERLAP and len(low) * shuffled > CERTAIN and smallest <= TIGHT * middle)


# Columns that others determine.


class Coded(NamedTuple):
    """The distinct values of a column, NaN last if cells are missing, and the place of each row's value among them."""

    values: Float64[np.ndarray, "k"]
    codes: Int64[np.ndarray, "n"]


def encode(x: Float64[np.ndarray, "n"]) -> Coded:
    """The values and codes of a column."""
    values, codes = np.unique(x, return_inverse=True)
    return Coded(values, codes.reshape(-1))


def find_dependences(
    columns: Columns,
    rows: Float64[np.ndarray, "n d"],
    coded: Sequence[Coded],
) -> Iterator[Dependence]:
    """Columns of few values that one other column of few values determines, or two that don't do so separately."""
    few = [i for i, (values, _) in enumerate(coded) if 2 <= len(values) <= MOST_VALUES]
    code_of = {i: coded[i].codes for i in few}
    known = {i: ~np.isnan(rows[:, i]) for i in few}
    alike = np.zeros(len(rows), dtype=np.int64)
    determined = {
        (i, target)
        for i in few
        for target in few
        if i != target and is_dependence(code_of[i], code_of[target], (alike,), known[i])
    }
    for i, target in sorted(determined):
        is_implied = any((i, k) in determined and (k, target) in determined and (k, i) not in determined for k in few)
        if not is_implied and not ((target, i) in determined and target < i):
            yield dependence_of(columns, rows, (i,), target)
    if len(few) > MOST_PAIRS:
        return
    for i, j in combinations(few, 2):
        if {(i, j), (j, i)} & determined:
            continue  # the pair says no more than one of them
        pair = code_of[i] * MOST_VALUES + code_of[j]
        for target in few:
            if target in (i, j) or {(i, target), (j, target)} & determined:
                continue
            if is_dependence(pair, code_of[target], (code_of[i], code_of[j]), known[i] & known[j]):
                yield dependence_of(columns, rows, (i, j), target)


def is_dependence(
    determinant: Int64[np.ndarray, "n"],
    target: Int64[np.ndarray, "n"],
    given: Sequence[Int64[np.ndarray, "n"]],
    known: Bool[np.ndarray, "n"],
) -> bool:
    """Whether rows that agree in a ``known`` determinant always agree in the target, far beyond chance.

    By chance, each further row of a group would agree with the first one with the probability that two rows do that
    agree in what is ``given``.
    """
    first = known[:SCREENED]
    if not agree(determinant[:SCREENED][first], target[:SCREENED][first]):
        return False
    determinant, target, given = determinant[known], target[known], [codes[known] for codes in given]
    if len(target) < MIN_ROWS or not agree(determinant, target):
        return False
    repeats = len(target) - len(np.unique(determinant))
    surprise = min(-np.log(agreement(target, known)) for known in given)
    return bool(repeats >= MIN_ROWS and repeats * surprise > CERTAIN)


def agree(determinant: Int64[np.ndarray, "n"], target: Int64[np.ndarray, "n"]) -> bool:
    """Whether rows that agree in the determinant agree in the target."""
    some = np.zeros(determinant.max(initial=0) + 1, dtype=np.int64)
    some[determinant] = target
    return bool((some[determinant] == target).all())


def agreement(target: Int64[np.ndarray, "n"], given: Int64[np.ndarray, "n"]) -> float:
    """The probability that two rows agree in the target if they agree in what is given."""
    counts = np.zeros((given.max() + 1, target.max() + 1))
    np.add.at(counts, (given, target), 1.0)
    sizes = counts.sum(1)
    return float(((counts**2).sum(1) / sizes.clip(1)).sum() / len(target))


def dependence_of(
    columns: Columns, rows: Float64[np.ndarray, "n d"], determinants: tuple[int, ...], target: int
) -> Dependence:
    """The dependence that all rows obey; combinations with a missing cell aren't judged, because NaN equals nothing."""
    keys = map(tuple, rows[:, determinants].tolist())
    determined = dict(zip(keys, rows[:, target].tolist(), strict=True))
    names = " and ".join(columns.names[i] for i in determinants)
    verb = "determines" if len(determinants) == 1 else "determine"
    return Dependence(f"{names} {verb} {columns.names[target]}", determinants, target, determined)


# Classes that are intervals of a number.


def find_intervals(
    columns: Sequence[Column],
    rows: Float64[np.ndarray, "n d"],
    coded: Sequence[Coded],
) -> Iterator[Intervals]:
    """Columns of few classes that are intervals of a column with many values."""
    classes = [i for i, (values, _) in enumerate(coded) if 2 <= len(values) <= MOST_CLASSES]
    for number, column in enumerate(columns):
        if not is_quantity(column) or len(coded[number].values) <= MOST_VALUES:
            continue
        known = ~np.isnan(rows[:, number])
        x = rows[known, number]
        for target in classes:
            values, target_codes = coded[target].values, coded[target].codes[known]
            counts = np.bincount(target_codes, minlength=len(values))
            if len(x) < MIN_ROWS or counts.min() < MIN_ROWS_OF_CLASS:
                continue
            low, high = np.full(len(values), np.inf), np.full(len(values), -np.inf)
            np.minimum.at(low, target_codes, x)
            np.maximum.at(high, target_codes, x)
            order = np.argsort(low)
            if (high[order][:-1] < low[order][1:]).all():
                ends = tuple(zip(low.tolist(), high.tolist(), strict=True))
                text = f"{columns[target].name} is a class of {column.name}"
                yield Intervals(text, number, target, tuple(values.tolist()), ends)


# Panels.


def warn_of_panel(columns: Sequence[Column], rows: Float64[np.ndarray, "n d"]) -> None:
    """Log if a column seems to name subjects: many, each with several rows that always agree in other columns."""
    if len(columns) > MOST_COLUMNS:
        return
    coded = [encode(x) for x in rows.T]
    alike = np.zeros(len(rows), dtype=np.int64)
    intervals = {(found.number, found.target) for found in find_intervals(columns, rows, coded)}
    shared = dict[str, list[str]]()
    for i, (values, subject) in enumerate(coded):
        is_name = not columns[i].date and (columns[i].categories or bool((values % 1 == 0)[~np.isnan(values)].all()))
        if is_name and len(values) > MOST_VALUES and len(rows) >= 2 * len(values):
            shared[columns[i].name] = [
                columns[target].name
                for target, (target_values, target_codes) in enumerate(coded)
                if 2 <= len(target_values) <= MOST_VALUES
                and (i, target) not in intervals
                and is_dependence(subject, target_codes, (alike,), ~np.isnan(rows[:, i]))
            ]
    name = max(shared, key=lambda name: len(shared[name]), default="")
    if name and shared[name]:
        listed = one_line(", ".join(shared[name]))
        caveat = "samples don't keep the rows of a subject together, because each row is drawn independently"
        log.warning(f"rows with the same {name} always agree in {listed}: if {name} names subjects, {caveat}")
