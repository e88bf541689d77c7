"""The columns of a table, each an object that converts the user's numbers to the model's and back.

A column maps a number x to v (a position in its cell, or its logarithm), to t = (v − shift)/scale, and to z = f(t),
where f is piecewise linear, so that noise of one σ suits all columns, whatever their units and tails.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.kinds.transform import FAR, Transform
from ncsn.machine.messages import bar
from ncsn.validation import one_line

FEW = 20  # distinct values; a column with no more can have only these
ATOM = 0.05  # share of the rows above which a repeated value is no coincidence
UNBOUNDED = sys.float_info.max  # instead of infinity, which JSON doesn't have
LOG_GAIN = 0.1  # nats per value by which the logarithm must be closer to a Gaussian than the column itself
# Slopes of the tails against normal scores: below 1.15 times a uniform's is bounded; a Gaussian's is 1, a Laplace's 2.
BOUNDED, HEAVY = 1.15, 2.0
LOST = 1e4  # quartile ranges per standard deviation, above which an outlier leaves other values no digits
LISTED = 10  # values that an error message lists
Numbers: TypeAlias = Float64[Tensor, "b"]
Knots: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """The base of all columns.

    ``name``: the user's name.  ``shift``, ``scale`` > 0: those of t = (v − shift)/scale.
    ``knots``: t and z at the corners of f, which continues straight beyond the last ones; empty if z = t.
    ``bounds``: the smallest and the largest value of samples.
    ``categories``: for a text column, the texts that the numbers 0, 1, … stand for.
    ``date``: whether the numbers are days since 1970.
    """

    name: str
    shift: float
    scale: float
    knots: Knots = ((), ())
    bounds: tuple[float, float] = (-UNBOUNDED, UNBOUNDED)
    categories: tuple[str, ...] = ()
    date: bool = False
    summary: ClassVar[str] = ""  # describes the values in one or two words

    def __post_init__(self) -> None:
        """Reject knots that don't ascend."""
        start, end = self.knots
        if len(start) != len(end) or any(sorted({*part}) != [*part] for part in self.knots):
            raise ValueError(f"the knots of column {one_line(self.name)} must ascend")

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        """The v of x; ``place``: the position in its cell, from 0 to 1."""
        raise NotImplementedError

    def leave(self, v: Numbers) -> Numbers:
        """The x whose cell contains v."""
        raise NotImplementedError

    def log_width(self, x: Numbers, v: Numbers) -> Numbers:
        """The logarithm of |dx/dt|, where the cell of a discrete value has volume 1."""
        return torch.full_like(v, math.log(self.scale))

    @property
    def rounding(self) -> float:
        """How far a number may lie from the nearest possible sample: at least the rounding of ``forward``."""
        return 1e-9 * self.scale

    @property
    def affine(self) -> bool:
        """Whether z = (x − shift)/scale."""
        return False

    def forward(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The model's numbers z."""
        return interpolate((self.enter(x, place) - self.shift) / self.scale, self.knots)[0]

    def log_abs_det_jacobian(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The logarithm of |dz/dx|."""
        v = self.enter(x, place)
        slopes = interpolate((v - self.shift) / self.scale, self.knots)[1]
        return slopes.log() - self.log_width(x, v)

    def say(self, x: float) -> str:
        """A number as text, as the user knows it."""
        if self.categories and x in range(len(self.categories)):
            return repr(self.categories[int(x)])
        return str(np.datetime64(round(x * 86_400), "s")) if self.date and abs(x) < 1e9 else f"{x:.9g}"

    @property
    def requirement(self) -> str:
        """The end of an error message about a number that isn't ``possible``."""
        low, high = (self.say(float(f"{x:.4g}")) for x in self.reach(tensor((-FAR, FAR))).tolist())
        return f"is not between {low} and {high}, the range that training allows"

    def reach(self, z: Numbers) -> Numbers:
        """The user's numbers x, not limited to the bounds."""
        start, end = self.knots
        return self.leave(self.shift + self.scale * interpolate(z, (end, start))[0])

    def inverse(self, z: Numbers) -> Numbers:
        """The user's numbers x, within the bounds."""
        x = self.reach(z)
        return torch.where(x.isfinite(), x.clamp(*self.bounds), x) + 0.0  # no zero has a sign

    def possible(self, x: Numbers) -> Bool[Tensor, "b"]:
        """Which numbers the column can have, judging by the training data.

        Numbers between cells, or more than 30 standard deviations away, are impossible.  Unlike samples, numbers may
        lie outside the bounds, as held-out rows do, and have more decimals.
        """
        z = self.forward(x)
        back = self.reach(z)
        same = torch.isclose(back, x) | ((back - x).abs() <= self.rounding)
        return x.isnan() | (same & (z.abs() <= FAR))


@dataclass(frozen=True, kw_only=True)
class Real(Column):
    """Real numbers.

    ``log``: whether v is the logarithm.  ``decimals``: the number of decimals of samples; −1 doesn't round them.
    """

    type: Literal["real"] = "real"
    log: bool = False
    decimals: Annotated[int, Interval(ge=-1, le=6)] = -1

    @property
    def affine(self) -> bool:
        return not (self.log or self.knots[0])

    @property
    def step(self) -> float:
        """The width of the cell around each rounded number."""
        return 10.0**-self.decimals if self.decimals > 0 else 0.0

    @property
    def rounding(self) -> float:
        return max(0.51 * self.step, super().rounding)

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        v = x + self.step * (place - 0.5)
        return v.log() if self.log else v

    def leave(self, v: Numbers) -> Numbers:
        x = v.exp() if self.log else v
        places = 10.0**self.decimals
        return (x * places).round() / places if self.decimals > 0 else x

    def log_width(self, x: Numbers, v: Numbers) -> Numbers:
        return math.log(self.scale) + (v if self.log else torch.zeros_like(v))


@dataclass(frozen=True, kw_only=True)
class Integer(Column):
    """Whole numbers, each in the middle of a cell of width 1; ``least``: the smallest possible one."""

    type: Literal["integer"] = "integer"
    least: float
    summary = "whole numbers"

    @property
    def requirement(self) -> str:
        return super().requirement.replace("is not", f"is not a whole {'day' if self.date else 'number'}", 1)

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        return x + (place - 0.5)

    def leave(self, v: Numbers) -> Numbers:
        return v.round().clamp(min=self.least)


@dataclass(frozen=True, kw_only=True)
class Listed(Column):
    """A few values, with adjacent cells of width 1.

    ``values``: all of them, ascending.
    """

    type: Literal["listed"] = "listed"
    values: tuple[float, ...]
    summary = "few values"

    @property
    def requirement(self) -> str:
        allowed = self.categories or tuple(map(self.say, self.values))
        more = f", … ({len(allowed)} in all)" if len(allowed) > LISTED else ""
        return f"is not among {', '.join(allowed[:LISTED])}{more}"

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        return ((tensor(self.values) < x[:, None]).sum(1).double() + place).where(~x.isnan(), x)

    def leave(self, v: Numbers) -> Numbers:
        nearest = v.nan_to_num().floor().clamp(0, len(self.values) - 1).long()
        return tensor(self.values)[nearest].where(~v.isnan(), v)


@dataclass(frozen=True, kw_only=True)
class Atomic(Column):
    """Real numbers with a few frequent values, each of which has a cell of width ``scale`` in v.

    ``values``: the frequent ones, ascending.
    """

    type: Literal["atomic"] = "atomic"
    values: tuple[float, ...]
    summary = "frequent values"

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        values = tensor(self.values)
        below, atom = (values < x[:, None]).sum(1), (values == x[:, None]).any(1)
        return x + self.scale * (below + place * atom.double())

    def leave(self, v: Numbers) -> Numbers:
        values = tensor(self.values)
        rooms = self.scale * torch.arange(len(values), device="cpu").double()
        begun = (values + rooms <= v[:, None]).sum(1)
        atom = values[(begun - 1).clamp(min=0)]
        return torch.where(begun > 0, (v - self.scale * begun.double()).maximum(atom), v)

    def log_width(self, x: Numbers, v: Numbers) -> Numbers:
        atom = (tensor(self.values) == x[:, None]).any(1)
        return torch.full_like(v, math.log(self.scale)).masked_fill(atom, 0.0)


def tensor(values: tuple[float, ...]) -> Numbers:
    """Numbers in double precision."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def interpolate(x: Numbers, knots: Knots) -> tuple[Numbers, Numbers]:
    """Values and slopes of the piecewise linear function through the knots, which continues straight beyond them."""
    start, end = tensor(knots[0]), tensor(knots[1])
    if not len(start):
        return x, torch.ones_like(x)
    right = torch.searchsorted(start[1:-1], x.contiguous()) + 1
    x0, x1, y0, y1 = start[right - 1], start[right], end[right - 1], end[right]
    slope = (y1 - y0) / (x1 - x0)
    return y0 + slope * (x - x0), slope


AnyColumn: TypeAlias = Real | Integer | Listed | Atomic


@dataclass(frozen=True, kw_only=True)
class Field:
    """The type of a column of the user's DataFrame.

    ``label``: its label.
    ``dtype``: pandas' name of its dtype; empty for text files, where pandas chooses the dtype of samples.
    ``of``: for an object column the type of the objects, as ``pandas.api.types.infer_dtype`` returns it; for a
    categorical column the dtype of its levels.
    ``levels``: all values of a categorical column, as text.  ``ordered``: whether they have an order.
    """

    label: str | int
    dtype: str = ""
    of: str = ""
    levels: tuple[str, ...] = ()
    ordered: bool = False


@dataclass(frozen=True)
class Columns(Transform):
    """The columns of a table: d numbers for the user; for the model, marks of missing cells may follow them.

    ``single``: whether the user's numbers, and so samples, have single precision.
    ``marks``: if training has learned where values are missing, columns that are 1 where the cell in the column of the
    same name is missing, and 0 elsewhere.
    ``fields``: the types of all columns of the user's DataFrame, in its order; empty if the table was an array.
    """

    type: Literal["columns"] = field(default="columns", kw_only=True)
    columns: tuple[AnyColumn, ...] = ()
    single: bool = False
    marks: tuple[AnyColumn, ...] = ()
    fields: tuple[Field, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    def field(self, column: AnyColumn) -> Field | None:
        """The type of a column in the user's DataFrame, if there was one."""
        return next((field for field in self.fields if one_line(field.label) == column.name), None)

    @cached_property
    def marked(self) -> list[int]:
        """The indices of the columns that have marks."""
        return [self.names.index(mark.name) for mark in self.marks]

    def each(self, x: Tensor) -> list[tuple[AnyColumn, Numbers]]:
        """The columns with their numbers, in double precision on the CPU."""
        return list(zip(self.columns, x.detach().cpu().double().unbind(-1), strict=True))

    def with_marks(self, x: Tensor) -> list[tuple[AnyColumn, Numbers]]:
        """The columns with their numbers, followed by the marks with theirs."""
        gaps = [x[..., place].isnan().cpu().double() for place in self.marked]
        return [*self.each(x), *zip(self.marks, gaps, strict=True)]

    def places(self, x: Tensor, generator: torch.Generator | None) -> Sequence[Numbers | float]:
        """Random places in cells, from 0 to 1, for each column and mark; ½ without a generator."""
        count = len(self.columns) + len(self.marks)
        if generator is None:
            return [0.5] * count
        chance = torch.rand(len(x), count, generator=generator, dtype=torch.float32, device=generator.device)
        return chance.cpu().double().unbind(-1)

    def forward(self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None) -> Float[Tensor, "b e"]:
        """The user's rows as the model sees them; NaN stays NaN."""
        places = self.places(x, generator)
        parts = [column.forward(each, place) for (column, each), place in zip(self.with_marks(x), places, strict=True)]
        return torch.stack(parts, -1).to(x)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, where the cells of discrete values have volume 1.

        Averaged over its cell, the density of a discrete value is its probability.  In the middle of the cell it
        differs from that by the curvature.  Missing cells don't contribute.
        """
        parts = [
            column.log_abs_det_jacobian(each, place).masked_fill(each.isnan(), 0.0)
            for (column, each), place in zip(self.with_marks(x), self.places(x, generator), strict=True)
        ]
        return torch.stack(parts, -1).sum(-1)

    def inverse(self, z: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        """The model's rows in the user's units, in double precision if the user's were; NaN where a mark says so."""
        x, marks = self.without_marks(z), z[:, len(self.columns) :]
        for place, mark, each in zip(self.marked, self.marks, marks.detach().cpu().double().unbind(-1), strict=True):
            x[:, place].masked_fill_(mark.inverse(each).to(x.device) > 0.5, torch.nan)
        return x

    def without_marks(self, z: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        """The model's rows in the user's units, with a number in every cell, whatever the marks."""
        x = torch.stack([column.inverse(each) for column, each in self.each(z[:, : len(self.columns)])], -1)
        return x.to(z.device, z.dtype if self.single or z.device.type == "mps" else torch.float64)

    def possible(self, x: Float[Tensor, "b d"]) -> Bool[Tensor, "b d"]:
        """Which numbers the columns can have, judging by the training data; NaN, for a missing value, is possible."""
        return torch.stack([column.possible(each) for column, each in self.each(x)], -1)

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "e"], Float[Tensor, "e"], Bool[Tensor, "e"]]:
        """Shift and scale of each column and mark, and which are only shifted and scaled."""
        every = self.columns + self.marks
        shift, scale = (tensor(tuple(getattr(column, name) for column in every)) for name in ("shift", "scale"))
        return shift, scale, torch.tensor([column.affine for column in every], device="cpu")

    def place(self, example: int, channel: int) -> str:
        """A cell, for error messages."""
        return f"{self.names[channel]} (row {example + 1})"

    def check(self, x: Shaped[Tensor, "b d"], quote: Callable[[int, int], object] | None = None) -> None:
        """Raises ValueError for the first number that its column can't have, and says what is allowed.

        ``quote``: returns the user's value of a cell from the indices of row and column.
        """
        for row, i in (~self.possible(x)).nonzero()[:1].tolist():
            column = self.columns[i]
            value = column.say(float(x[row, i])) if quote is None else quote(row, i)
            name = column.name if self.fields else f"column {column.name}:"
            raise ValueError(f"{name} {value} (row {row + 1}) {column.requirement}")

    def describe(self) -> tuple[str, ...]:
        """The conversions, one line each, with their columns."""
        said = {"logarithm": [column.name for column in self.columns if isinstance(column, Real) and column.log]}
        for each in (Integer, Listed, Atomic):
            said[each.summary] = [column.name for column in self.columns if isinstance(column, each)]
        said["normal scores"] = [column.name for column in self.columns if column.knots[0]]
        return tuple(f"{kind}: {', '.join(names)}" for kind, names in said.items() if names)

    @property
    def discrete(self) -> bool:
        """Whether any column takes discrete values, which have a probability instead of a density."""
        return not all(isinstance(column, Real) for column in self.columns)


def columns_of(transform: Transform, count: int) -> Columns:
    """The columns of a transform; if it has none, columns called 0, 1, … in the model's own units."""
    if isinstance(transform, Columns):
        return transform
    return Columns(columns=tuple(Real(name=str(i), shift=0.0, scale=1.0) for i in range(count)))


def learn_columns(
    x: Float[Tensor, "n d"],
    names: Sequence[str],
    categories: Mapping[str, tuple[str, ...]] | None = None,
    dates: Sequence[str] = (),
    *,
    every: Float[Tensor, "m d"] | None = None,
) -> Columns:
    """Learn columns that give ``x`` mean 0 and standard deviation 1, or normal scores; NaN is ignored.

    Whole numbers and columns with few values get cells.  With at least twenty values, numbers that many rows share get
    cells, too, and other positive columns become logarithms if these are closer to a Gaussian.  Columns that are
    bounded, heavy-tailed or reach beyond six standard deviations are then mapped to normal scores.

    ``categories``: the texts of text columns, which are 0, 1, … in ``x``.
    ``every``: all rows of the table, including held-out ones, whose values must be possible; by default ``x``.
    Raises ValueError for constant columns, naming them.
    """
    texts, known = categories or {}, [column[~column.isnan()] for column in x.T.cpu()]
    constant = [name for name, column in zip(names, known, strict=True) if is_constant(column)]
    if constant:
        raise ValueError(f"constant columns have no density; leave out {', '.join(constant)}")
    seen = [column[~column.isnan()].double().numpy() for column in (x if every is None else every).T.cpu()]
    columns = [
        replace(
            learn_column(*each, category=each[1] in texts), categories=texts.get(each[1], ()), date=each[1] in dates
        )
        for each in bar([*zip(known, names, seen, strict=True)], "columns")
    ]
    return Columns(columns=tuple(columns), single=x.dtype == torch.float32)


def is_constant(x: Float[Tensor, "n"]) -> bool:
    """Whether numbers are constant up to rounding, so that they have no density."""
    exact = x.cpu().double()
    return not bool(exact.std() > (1e-15 if x.dtype == torch.float64 else 1e-7) * exact.mean().abs())


def learn_column(x: Float[Tensor, "n"], name: str, seen: Float64[np.ndarray, "m"], *, category: bool) -> AnyColumn:
    """Learn one column: its type, and normal scores if it needs them.  ``seen``: all numbers that must be possible."""
    few, exact = len(x) < FEW, x.double()

    def place(v: Numbers, column: AnyColumn) -> AnyColumn:
        """The column with the location and scale of v, in the precision of x."""
        shift, scale = v.mean(), v.std()
        low, middle, high = torch.from_numpy(np.quantile(v.numpy(), [0.25, 0.5, 0.75]))
        if not few and scale > LOST * (high - low) > 0:
            shift, scale = middle, high - low
        return replace(column, shift=float(shift.to(x)), scale=float(scale.to(x)))

    numbers = exact.numpy()
    column = type_of(numbers, name, np.unique(seen), single=x.dtype == torch.float32, category=category)
    if few and not isinstance(column, Integer | Listed):  # too few to tell other types from chance
        column = Real(name=name, shift=0, scale=1)
    column = place(exact, column)
    share, places = ties(numbers)
    v, low, high = (column.enter(exact, place) for place in (torch.from_numpy(places), 0.0, 1.0))
    if not isinstance(column, Atomic):  # its scale is already the width of an atom's cell
        column = place(v, column)
    widest = (0.0 if numbers.min() >= 0 else -UNBOUNDED, UNBOUNDED)
    if few:
        return replace(column, bounds=widest)
    t, low, high = ((each - column.shift) / column.scale for each in (v, low, high))
    every = isinstance(column, Listed | Atomic)
    knots, closed = normal_scores(t.numpy(), low.numpy(), high.numpy(), share, every=every)
    # Samples keep the sign, and if the minimum is within a standard deviation of zero, they don't go below it.
    logarithm = isinstance(column, Real) and column.log and column.decimals <= 0
    closed[0] |= 0 <= numbers.min() < numbers.std() and not logarithm
    ends = (float(numbers.min()), float(numbers.max()))
    bounds = (ends[0] if closed[0] else widest[0], ends[1] if closed[1] else widest[1])
    start, end = (tuple(each.tolist()) for each in knots)
    return replace(column, knots=((), ()) if start == end else (start, end), bounds=bounds)


def type_of(
    x: Float64[np.ndarray, "n"], name: str, distinct: Float64[np.ndarray, "k"], *, single: bool, category: bool
) -> AnyColumn:
    """The type of a column; its location and scale are found later.

    ``distinct``: all values that must be possible.  ``single``: whether they have single precision.
    """
    values, counts = np.unique(x, return_counts=True)
    whole = bool((distinct == distinct.round()).all() and abs(distinct).max() < 2**52)
    decimals = next((d for d in range(1, 7) if not whole and has_decimals(x, d, single=single)), -1)
    atoms = values[counts > max(5, ATOM * len(x))]
    # Whole numbers between those in the rows are possible, too, unless there are just two.
    if category or (whole and len(distinct) > 2 and distinct[-1] - distinct[0] < FEW):
        values = np.arange(0.0 if category else distinct[0], distinct[-1] + 1)
        return Listed(name=name, shift=0, scale=1, values=tuple(values.tolist()))
    if len(distinct) <= FEW and len(x) >= 5 * len(distinct):  # with fewer rows, other values may be possible
        return Listed(name=name, shift=0, scale=1, values=tuple(distinct.tolist()))
    if whole:
        return Integer(name=name, shift=0, scale=1, least=0.0 if distinct[0] >= 0 else -1e18)
    if decimals < 0 and len(atoms):
        return Atomic(name=name, shift=0, scale=1, values=tuple(atoms.tolist()))
    gain = np.log(x.std() / np.log(x).std()) - np.log(x).mean() if distinct[0] > 0 else 0
    return Real(name=name, shift=0, scale=1, decimals=decimals, log=bool(gain > LOG_GAIN))


def has_decimals(x: Float64[np.ndarray, "n"], decimals: int, *, single: bool) -> bool:
    """Whether no number has more decimals, up to the rounding of single precision."""
    rounded = np.round(x, decimals)
    if single:
        return bool((rounded.astype(np.float32) == x).all() and 10.0**-decimals > 1e-6 * abs(x).max())
    return bool((rounded == x).all())


def ties(x: Float64[np.ndarray, "n"]) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """For each row, the share of rows with the same value, and its position among them, evenly spread over (0, 1)."""
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    rank = np.empty(len(x))
    rank[np.argsort(x, kind="stable")] = np.arange(len(x))
    before = np.cumsum(counts) - counts
    return counts[index] / len(x), (rank - before[index] + 0.5) / counts[index]


def normal_scores(
    t: Float64[np.ndarray, "n"],
    low: Float64[np.ndarray, "n"],
    high: Float64[np.ndarray, "n"],
    share: Float64[np.ndarray, "n"],
    *,
    every: bool,
) -> tuple[Float64[np.ndarray, "2 k"], Bool[np.ndarray, "2"]]:
    """The knots (t and z) of a map that makes ``t`` standard normal, or the identity; and which ends are bounds.

    Knots are at equal steps in z, at the two outermost values on each side, and at the edges of cells that hold many
    rows; none lies inside a smaller cell.  Beyond the last knot, one standard deviation of z is one to four of t.

    ``low``, ``high``: the ends of each value's cell.  ``share``: the share of rows in it.
    ``every``: whether knots may lie inside every cell, because t has no scale between cells.
    """
    from scipy.special import ndtr, ndtri  # imported here, because it takes a quarter as long as torch

    n, order = len(t), np.argsort(t)
    t, low, high, share = t[order], low[order], high[order], share[order]
    heavy = (high > low) if every else (share > np.maximum(ATOM, high - low)) & (high > low)
    end = min(3.0, -ndtri(2 / n))
    tails = np.diff(np.quantile(t, ndtr([-end, 1 - end, end - 1, end])))[[0, 2]]
    short = (tails < BOUNDED * 12**0.5 * (ndtr(end) - ndtr(end - 1))) & (n >= 100)  # with fewer, it may be chance
    long = (tails > HEAVY).any() and n >= 100
    closed = short | heavy[[0, -1]]
    if not (every or long or short.any() or heavy.any() or abs(t[[0, -1]]).max() > 6):
        return np.array([[-1.0, 1.0], [-1.0, 1.0]]), closed

    grid = np.linspace(ndtri(5 / n), -ndtri(5 / n), 33 if every else min(33, n // 20))
    outer = ndtri(np.array([0.5, 1.5]) / n)
    ranks = (n * ndtr(np.concatenate([outer, grid, -outer]))).astype(int).clip(0, n - 1)
    marks = np.concatenate([np.where(heavy, t, high)[ranks], low[:1], high[-1:], low[heavy], high[heavy]])
    marks = np.unique(marks)
    marks = marks[np.append(np.diff(marks) > 1e-6, True)]
    places, index = np.unique(t, return_inverse=True)  # equal values share a knot
    below = np.bincount(index, np.arange(n) + 0.5) / np.bincount(index) / n
    z = ndtri(np.interp(marks, [low[0] - 1e-9, *places, high[-1] + 1e-9], [0.25 / n, *below, 1 - 0.25 / n]))
    fall = (ndtri(4.5 / n) - z[0]) / max(t[4] - marks[0], 1e-9), (z[-1] + ndtri(4.5 / n)) / max(marks[-1] - t[-5], 1e-9)
    first, last = np.clip(fall, 0.25, 1)
    marks = np.array([marks[0] - 1 / first, *marks, marks[-1] + 1 / last])
    return np.stack([marks, [z[0] - 1, *z, z[-1] + 1]]), closed
