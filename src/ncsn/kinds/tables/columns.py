"""What the columns of a table are to the model: each is an object that knows both ways.

A column takes a number x to v (its place in a cell, or its logarithm), to t = (v − shift)/scale, and to z = f(t), where
f runs straight between knots: so that noise of one σ suits all columns, whatever their units and tails.
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

FEW = 20  # values: a column of no more takes only these
ATOM = 0.05  # share of the rows: a value that is more frequent is no coincidence
UNBOUNDED = sys.float_info.max  # in the place of infinity, which JSON has not
LOG_GAIN = 0.1  # nats a value by which the logarithm must be closer to a Gaussian than the column itself
# Slopes of a tail in normal scores: a uniform's are below 1.15 of its own, a Gaussian's 1, a Laplace's 2.
BOUNDED, HEAVY = 1.15, 2.0
LISTED = 10  # values that a message names
Numbers: TypeAlias = Float64[Tensor, "b"]
Knots: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """What all columns have.

    ``name``: the user's.  ``shift``, ``scale`` > 0: of t = (v − shift)/scale.
    ``knots``: t and z between which f runs straight, and on beyond the last; empty where z = t.
    ``bounds``: the least and the largest number that samples can be.
    ``categories``: the texts that its numbers 0, 1, … stand for, if it has text.
    ``date``: whether its numbers are days since 1970.
    """

    name: str
    shift: float
    scale: float
    knots: Knots = ((), ())
    bounds: tuple[float, float] = (-UNBOUNDED, UNBOUNDED)
    categories: tuple[str, ...] = ()
    date: bool = False
    summary: ClassVar[str] = ""  # of what is special about its numbers

    def __post_init__(self) -> None:
        """Refuse knots of no ascending line."""
        start, end = self.knots
        if len(start) != len(end) or any(sorted({*part}) != [*part] for part in self.knots):
            raise ValueError(f"the knots of column {one_line(self.name)} are those of no ascending line")

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        """The number v of x; ``place``: where in its cell, from 0 to 1."""
        raise NotImplementedError

    def leave(self, v: Numbers) -> Numbers:
        """The number x whose cell v is in."""
        raise NotImplementedError

    def log_width(self, x: Numbers, v: Numbers) -> Numbers:
        """The logarithm of |dx/dt|, in which a discrete value has a volume of 1."""
        return torch.full_like(v, math.log(self.scale))

    @property
    def rounding(self) -> float:
        """How far a number may lie from the next one that samples can be."""
        return 0.0

    @property
    def affine(self) -> bool:
        """Whether z = (x − shift)/scale."""
        return False

    def forward(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The model's numbers."""
        return interpolate((self.enter(x, place) - self.shift) / self.scale, self.knots)[0]

    def log_abs_det_jacobian(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The logarithm of |dz/dx|."""
        v = self.enter(x, place)
        slopes = interpolate((v - self.shift) / self.scale, self.knots)[1]
        return slopes.log() - self.log_width(x, v)

    def say(self, x: float) -> str:
        """A number as the user knows it."""
        if self.categories and x in range(len(self.categories)):
            return repr(self.categories[int(x)])
        return str(np.datetime64(round(x * 86_400), "s")) if self.date and abs(x) < 1e9 else f"{x:.9g}"

    @property
    def requirement(self) -> str:
        """What a number that is not ``possible`` fails to be."""
        low, high = (self.say(float(f"{x:.4g}")) for x in self.reach(tensor((-FAR, FAR))).tolist())
        return f"is not between {low} and {high}, the range that training allows"

    def reach(self, z: Numbers) -> Numbers:
        """The user's numbers, also beyond the bounds."""
        start, end = self.knots
        return self.leave(self.shift + self.scale * interpolate(z, (end, start))[0])

    def inverse(self, z: Numbers) -> Numbers:
        """The user's numbers."""
        x = self.reach(z)
        return torch.where(x.isfinite(), x.clamp(*self.bounds), x) + 0.0  # no zero has a sign

    def possible(self, x: Numbers) -> Bool[Tensor, "b"]:
        """Which numbers the column can have, to judge by training.

        Not what a sample cannot be, between cells or more than 30 deviations away; but numbers may pass the ends of the
        column, as held-out rows do, and have more decimals.
        """
        z = self.forward(x)
        back = self.reach(z)
        same = torch.isclose(back, x) | ((back - x).abs() <= self.rounding)
        return x.isnan() | (same & (z.abs() <= FAR))


@dataclass(frozen=True, kw_only=True)
class Real(Column):
    """Real numbers.

    ``log``: whether v is the logarithm.  ``decimals``: how many samples keep; −1 leaves them as they are.
    """

    type: Literal["real"] = "real"
    log: bool = False
    decimals: Annotated[int, Interval(ge=-1, le=6)] = -1

    @property
    def affine(self) -> bool:
        return not (self.log or self.knots[0])

    @property
    def step(self) -> float:
        """The width of a cell, around each number of so many decimals."""
        return 10.0**-self.decimals if self.decimals > 0 else 0.0

    @property
    def rounding(self) -> float:
        return 0.51 * self.step

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
    """Whole numbers, each in a cell of width 1 around it; ``least``: the least that there can be."""

    type: Literal["integer"] = "integer"
    least: float
    summary = "whole numbers"

    @property
    def requirement(self) -> str:
        return super().requirement.replace("is not", "is no whole number", 1)

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        return x + (place - 0.5)

    def leave(self, v: Numbers) -> Numbers:
        return v.round().clamp(min=self.least)


@dataclass(frozen=True, kw_only=True)
class Listed(Column):
    """A few values, whose cells of width 1 follow one another.

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
        return (tensor(self.values) < x[:, None]).sum(1).double() + place

    def leave(self, v: Numbers) -> Numbers:
        return tensor(self.values)[v.nan_to_num().floor().clamp(0, len(self.values) - 1).long()]


@dataclass(frozen=True, kw_only=True)
class Atomic(Column):
    """Real numbers with a few frequent values: at each of these, v has as much room as one ``scale``.

    ``values``: the frequent ones, ascending.
    """

    type: Literal["atomic"] = "atomic"
    values: tuple[float, ...]
    summary = "values of their own"

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
    """Values and slopes of the line that runs straight from knot to knot, and on beyond the last."""
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
    """A column of the user's DataFrame, from which and to which numbers are converted.

    ``label``: its label there.
    ``dtype``: pandas' name of its dtype; empty where a file has text, and pandas' own choice suits what it says.
    ``of``: what the objects of an object column are, as ``pandas.api.types.infer_dtype`` says; or the dtype of the
    levels of a categorical one.
    ``levels``: all values that a categorical column may have, as text.  ``ordered``: whether they have an order.
    """

    label: str | int
    dtype: str = ""
    of: str = ""
    levels: tuple[str, ...] = ()
    ordered: bool = False


@dataclass(frozen=True)
class Columns(Transform):
    """A table's columns: d numbers to the user; to the model as many, and marks of missing cells after them.

    ``single``: whether numbers are of single precision, in which samples then are.
    ``marks``: columns of 1 where a cell of the column of the same name is missing, and 0 elsewhere; none unless
    training has learned where values are missing.
    ``fields``: all columns of the user's DataFrame, in its order; none where the table was an array.
    """

    type: Literal["columns"] = field(default="columns", kw_only=True)
    columns: tuple[AnyColumn, ...] = ()
    single: bool = False
    marks: tuple[AnyColumn, ...] = ()
    fields: tuple[Field, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns are called."""
        return tuple(column.name for column in self.columns)

    def field(self, column: AnyColumn) -> Field | None:
        """What a column is in the user's DataFrame, if there was one."""
        return next((field for field in self.fields if one_line(field.label) == column.name), None)

    @cached_property
    def marked(self) -> list[int]:
        """The places of the columns that have marks."""
        return [self.names.index(mark.name) for mark in self.marks]

    def each(self, x: Tensor) -> list[tuple[AnyColumn, Numbers]]:
        """The columns with their numbers, in double precision on the CPU."""
        return list(zip(self.columns, x.detach().cpu().double().unbind(-1), strict=True))

    def with_marks(self, x: Tensor) -> list[tuple[AnyColumn, Numbers]]:
        """The same, and then the marks."""
        gaps = [x[..., place].isnan().cpu().double() for place in self.marked]
        return [*self.each(x), *zip(self.marks, gaps, strict=True)]

    def places(self, x: Tensor, generator: torch.Generator | None) -> Sequence[Numbers | float]:
        """Random places in cells, from 0 to 1, for each column and mark; ½ without a generator."""
        count = len(self.columns) + len(self.marks)
        if generator is None:
            return [0.5] * count
        return torch.rand(len(x), count, generator=generator, device=generator.device).cpu().double().unbind(-1)

    def forward(self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None) -> Float[Tensor, "b e"]:
        """The user's rows as the model sees them; NaN stays NaN."""
        places = self.places(x, generator)
        parts = [column.forward(each, place) for (column, each), place in zip(self.with_marks(x), places, strict=True)]
        return torch.stack(parts, -1).to(x)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, of whole numbers, few values and atoms for cells of volume 1.

        So p(x) of these is their probability, if the density is averaged over the cell; taken only in the middle, it
        is off by the curvature within.  Missing cells have no volume.
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
        """The model's rows in the user's units, whether or not a mark calls a cell missing."""
        x = torch.stack([column.inverse(each) for column, each in self.each(z[:, : len(self.columns)])], -1)
        return x.to(z.device, z.dtype if self.single or z.device.type == "mps" else torch.float64)

    def possible(self, x: Float[Tensor, "b d"]) -> Bool[Tensor, "b d"]:
        """Which numbers the columns can have, to judge by training; NaN may stand for a missing one."""
        return torch.stack([column.possible(each) for column, each in self.each(x)], -1)

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "e"], Float[Tensor, "e"], Bool[Tensor, "e"]]:
        """Shift and scale of each column and mark, and which are only shifted and scaled."""
        every = self.columns + self.marks
        shift, scale = (tensor(tuple(getattr(column, name) for column in every)) for name in ("shift", "scale"))
        return shift, scale, torch.tensor([column.affine for column in every], device="cpu")

    def place(self, example: int, channel: int) -> str:
        """A cell, for error messages."""
        return f"{self.names[channel]} (row {example + 1})"

    def check(self, x: Shaped[Tensor, "b d"], told: Callable[[int, int], object] | None = None) -> None:
        """Raises ValueError for the first number that its column cannot have, and says what is allowed.

        ``told``: what the user calls a cell of a row and a column.
        """
        for row, i in (~self.possible(x)).nonzero()[:1].tolist():
            column = self.columns[i]
            value = column.say(float(x[row, i])) if told is None else told(row, i)
            name = column.name if self.fields else f"column {column.name}:"
            raise ValueError(f"{name} {value} (row {row + 1}) {column.requirement}")

    def describe(self) -> tuple[str, ...]:
        """What is done to which columns, a line each."""
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
    """The columns of a run of rows; where it has none, columns called 0, 1, … that are the model's own."""
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
    """The columns in which ``x`` has mean 0 and standard deviation 1, or normal scores; NaN says nothing.

    Columns of whole numbers and of few values have cells; from twenty numbers on, values that many rows share, too;
    other positive ones whose logarithm is closer to a Gaussian have that; and what is bounded, heavy-tailed or more
    than six deviations away then becomes its normal scores.

    ``categories``: the texts of columns of 0, 1, …, which are listed however many they are.
    ``every``: all rows of the table, held-out ones too, whose values must be possible; by default ``x``.
    Raises ValueError if a column is constant, naming it.
    """
    texts, known = categories or {}, [column[~column.isnan()] for column in x.T.cpu()]
    constant = [name for name, column in zip(names, known, strict=True) if is_constant(column)]
    if constant:
        raise ValueError(f"column {', '.join(constant)} is constant, so it has no density; leave it out")
    seen = [column[~column.isnan()].double().numpy() for column in (x if every is None else every).T.cpu()]
    columns = [
        replace(
            learn_column(*each, category=each[1] in texts), categories=texts.get(each[1], ()), date=each[1] in dates
        )
        for each in bar([*zip(known, names, seen, strict=True)], "columns")
    ]
    return Columns(columns=tuple(columns), single=x.dtype == torch.float32)


def is_constant(x: Float[Tensor, "n"]) -> bool:
    """Whether numbers have no density: constant, but for their rounding."""
    exact = x.cpu().double()
    return not bool(exact.std() > (1e-15 if x.dtype == torch.float64 else 1e-7) * exact.mean().abs())


def learn_column(x: Float[Tensor, "n"], name: str, seen: Float64[np.ndarray, "m"], *, category: bool) -> AnyColumn:
    """One column, by its type and its normal scores.  ``seen``: all numbers that it must be able to have."""

    def place(v: Numbers, column: AnyColumn) -> AnyColumn:
        """The column with the location and scale of v, in the precision of x."""
        return replace(column, shift=float(v.mean().to(x)), scale=float(v.std().to(x)))

    exact = x.double()
    numbers = exact.numpy()
    column = type_of(numbers, name, np.unique(seen), single=x.dtype == torch.float32, category=category)
    few = len(x) < FEW
    if few and not isinstance(column, Integer | Listed):  # then other types cannot be told from chance
        column = Real(name=name, shift=0, scale=1)
    column = place(exact, column)
    share, places = ties(numbers)
    v, low, high = (column.enter(exact, place) for place in (torch.from_numpy(places), 0.0, 1.0))
    if not isinstance(column, Atomic):  # whose scale is the room of an atom
        column = place(v, column)
    if few:
        return column
    t, low, high = ((each - column.shift) / column.scale for each in (v, low, high))
    every = isinstance(column, Listed | Atomic)
    knots, closed = normal_scores(t.numpy(), low.numpy(), high.numpy(), share, every=every)
    # Signs stay; and what begins within a deviation of zero does not come closer to it.
    logarithm = isinstance(column, Real) and column.log and column.decimals <= 0
    closed[0] |= 0 <= numbers.min() < numbers.std() and not logarithm
    widest = (0.0 if numbers.min() >= 0 else -UNBOUNDED, UNBOUNDED)
    ends = (float(numbers.min()), float(numbers.max()))
    bounds = (ends[0] if closed[0] else widest[0], ends[1] if closed[1] else widest[1])
    start, end = (tuple(each.tolist()) for each in knots)
    return replace(column, knots=((), ()) if start == end else (start, end), bounds=bounds)


def type_of(
    x: Float64[np.ndarray, "n"], name: str, distinct: Float64[np.ndarray, "k"], *, single: bool, category: bool
) -> AnyColumn:
    """The type of a column, whose location and scale are still to be found.

    ``distinct``: all values that it must be able to have.  ``single``: of single precision.
    """
    values, counts = np.unique(x, return_counts=True)
    whole = bool((distinct == distinct.round()).all() and abs(distinct).max() < 2**52)
    decimals = next((d for d in range(1, 7) if not whole and has_decimals(x, d, single=single)), -1)
    atoms = values[counts > max(5, ATOM * len(x))]
    # Of whole numbers others between may be missing among the rows, but of two alone nothing is.
    if category or (whole and len(distinct) > 2 and distinct[-1] - distinct[0] < FEW):
        values = np.arange(0.0 if category else distinct[0], distinct[-1] + 1)
        return Listed(name=name, shift=0, scale=1, values=tuple(values.tolist()))
    if len(distinct) <= FEW and len(x) >= 5 * len(distinct):  # more may be missing among the rows to train on
        return Listed(name=name, shift=0, scale=1, values=tuple(distinct.tolist()))
    if whole:
        return Integer(name=name, shift=0, scale=1, least=0.0 if distinct[0] >= 0 else -1e18)
    if decimals < 0 and len(atoms):
        return Atomic(name=name, shift=0, scale=1, values=tuple(atoms.tolist()))
    gain = np.log(x.std() / np.log(x).std()) - np.log(x).mean() if distinct[0] > 0 else 0
    return Real(name=name, shift=0, scale=1, decimals=decimals, log=bool(gain > LOG_GAIN))


def has_decimals(x: Float64[np.ndarray, "n"], decimals: int, *, single: bool) -> bool:
    """Whether no number has more decimals, but for the rounding of single precision."""
    rounded = np.round(x, decimals)
    if single:
        return bool((rounded.astype(np.float32) == x).all() and 10.0**-decimals > 1e-6 * abs(x).max())
    return bool((rounded == x).all())


def ties(x: Float64[np.ndarray, "n"]) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """The share of rows that have the same value as each; and places of these in a cell, evenly, between 0 and 1."""
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
    """The knots, t and z, of what makes ``t`` standard normal, none where t is like that; and which ends are bounds.

    At equal steps in z, at the two outermost values on each side, and at the edges of cells that a share of rows has.
    No knot lies inside a smaller cell.  Beyond the last one, a deviation of z is one to four of t.

    ``low``, ``high``: the ends of the cell of each.  ``share``: of the rows that are in it.
    ``every``: whether t has no scale between cells, so that knots may lie inside every one.
    """
    from scipy.special import ndtr, ndtri  # here, because it takes as long as a quarter of torch

    n, order = len(t), np.argsort(t)
    t, low, high, share = t[order], low[order], high[order], share[order]
    heavy = (high > low) if every else (share > np.maximum(ATOM, high - low)) & (high > low)
    end = min(3.0, -ndtri(2 / n))
    tails = np.diff(np.quantile(t, ndtr([-end, 1 - end, end - 1, end])))[[0, 2]]
    short = (tails < BOUNDED * 12**0.5 * (ndtr(end) - ndtr(end - 1))) & (n >= 100)  # of fewer that may be chance
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
    places, index = np.unique(t, return_inverse=True)  # equal ones are one knot
    below = np.bincount(index, np.arange(n) + 0.5) / np.bincount(index) / n
    z = ndtri(np.interp(marks, [low[0] - 1e-9, *places, high[-1] + 1e-9], [0.25 / n, *below, 1 - 0.25 / n]))
    fall = (ndtri(4.5 / n) - z[0]) / max(t[4] - marks[0], 1e-9), (z[-1] + ndtri(4.5 / n)) / max(marks[-1] - t[-5], 1e-9)
    first, last = np.clip(fall, 0.25, 1)
    marks = np.array([marks[0] - 1 / first, *marks, marks[-1] + 1 / last])
    return np.stack([marks, [z[0] - 1, *z, z[-1] + 1]]), closed
