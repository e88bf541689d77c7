"""The columns of a table: what is discrete becomes a code, and only numbers are placed on a line.

A column of ``Discrete`` values (text, booleans, few values) has a code for each value.  A column of ``Number`` maps a
number x to v (its logarithm, or a place in its cell), to t = (v − shift)/scale, and to z = f(t), where f is piecewise
linear, so that noise of one σ suits all columns, whatever their units and tails.  Missing cells and frequent values of
a column of numbers, which have no place on a line, are codes, too.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.data.transforms import FAR, Transform
from ncsn.machine.messages import bar
from ncsn.validation import one_line

if TYPE_CHECKING:
    import pandas

FEW = 20  # distinct values; a column with no more can have only these
DISCRETE = 10  # distinct whole numbers, up to which they are discrete
ATOM = 0.05  # share of the rows above which a repeated value is no coincidence
UNEVEN = 2.0  # standard errors; a cell with so many more or fewer rows than those beside it keeps its share
LEAST_SHARE = 0.005  # of the rows, for such a cell; at most 200 cells have it
JUMP = 0.5  # standard deviations between groups of values, between which samples have none either
DENSE = 10.0  # per standard deviation; the density in its cell above which a frequent value gets a code
UNBOUNDED = sys.float_info.max  # instead of infinity, which JSON doesn't have
LOG_GAIN = 0.1  # nats per value by which the logarithm must be closer to a Gaussian than the column itself
# Slopes of the tails against normal scores: below 1.15 times a uniform's is bounded; a Gaussian's is 1, a Laplace's 2.
BOUNDED, HEAVY = 1.15, 2.0
LOST = 1e4  # quartile ranges per standard deviation, above which an outlier leaves other values no digits
LISTED = 10  # values that an error message lists
SAME = 1e-13  # relative distance of knots that can't be told apart in double precision
Numbers: TypeAlias = Float64[Tensor, "b"]
Knots: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """The base of both types of columns.

    ``name``: the user's name.
    ``gaps``: whether cells are missing in the training data, so that samples can have missing cells, too.
    ``categories``: for a text column, the texts that the numbers 0, 1, … stand for.
    ``date``: whether the numbers are days since 1970.
    ``merged``: whether the last category stands for rare texts, and for texts that training hasn't seen.
    """

    name: str
    gaps: bool = False
    categories: tuple[str, ...] = ()
    date: bool = False
    merged: bool = False

    def say(self, x: float) -> str:
        """A number as text, as the user knows it."""
        if self.categories and x in range(len(self.categories)):
            return repr(self.categories[int(x)])
        return str(np.datetime64(round(x * 86_400), "s")) if self.date and abs(x) < 1e9 else f"{x:.9g}"


@dataclass(frozen=True, kw_only=True)
class Discrete(Column):
    """Few values, which are predicted as probabilities.

    ``values``: all of them, ascending; the code of a value is its place among them.
    """

    type: Literal["discrete"] = "discrete"
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject values that don't ascend."""
        if not self.values or sorted({*self.values}) != [*self.values]:
            raise ValueError(f"the values of column {one_line(self.name)} must ascend")

    @property
    def codes(self) -> int:
        """The number of codes."""
        return len(self.values) + self.gaps

    @property
    def requirement(self) -> str:
        """The end of an error message about a value that isn't ``possible``."""
        allowed = self.categories or tuple(map(self.say, self.values))
        more = f", … ({len(allowed)} in all)" if len(allowed) > LISTED else ""
        return f"is not among {', '.join(allowed[:LISTED])}{more}"

    def encode(self, x: Numbers) -> Numbers:
        """The codes of values; NaN stays NaN."""
        return (tensor(self.values) < x[:, None]).sum(1).double().where(~x.isnan(), x)

    def decode(self, codes: Numbers) -> Numbers:
        """The values that codes stand for; NaN for a missing cell."""
        known = codes < len(self.values)
        return tensor(self.values)[codes.where(known, 0.0).long()].where(known, torch.nan)

    def possible(self, x: Numbers) -> Bool[Tensor, "b"]:
        """Which numbers are among the values; NaN, for a missing cell, is possible."""
        return x.isnan() | (x[:, None] == tensor(self.values)).any(1)

    def nearest(self, x: Numbers) -> Numbers:
        """The nearest possible values."""
        values = tensor(self.values)
        return values[(x[:, None] - values).abs().argmin(1)].where(~x.isnan(), x)


@dataclass(frozen=True, kw_only=True)
class Number(Column):
    """Numbers on a line.

    ``shift``, ``scale`` > 0: those of t = (v − shift)/scale.
    ``knots``: t and z at the corners of f, which continues straight beyond the last ones; empty if z = t.
    ``bounds``: the smallest and the largest number of samples: those of the training data.
    ``log``: whether v is the logarithm.
    ``step``, ``origin``: samples are ``origin`` plus multiples of ``step``, if that isn't 0, with this many
    ``decimals``.  Numbers that aren't, such as those of other rows, are in the cell of the nearest sample.
    ``least``: the smallest possible number.
    ``atoms``: frequent values, ascending, which have codes of their own.
    """

    type: Literal["number"] = "number"
    shift: float
    scale: float
    knots: Knots = ((), ())
    bounds: tuple[float, float] = (-UNBOUNDED, UNBOUNDED)
    log: bool = False
    step: Annotated[float, Interval(ge=0)] = 0.0
    origin: float = 0.0
    decimals: Annotated[int, Interval(ge=0, le=6)] = 0
    least: float = -UNBOUNDED
    atoms: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject knots that don't ascend."""
        start, end = self.knots
        if len(start) != len(end) or any(sorted({*values}) != [*values] for values in (start, end, self.atoms)):
            raise ValueError(f"the knots of column {one_line(self.name)} must ascend")

    @property
    def codes(self) -> int:
        """The number of codes: 0 for a number on the line, then one for each atom and for a missing cell."""
        return 1 + len(self.atoms) + self.gaps if self.atoms or self.gaps else 0

    @property
    def affine(self) -> bool:
        """Whether z = (x − shift)/scale."""
        return not (self.log or self.knots[0])

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are possible."""
        return self.step >= 1 and self.decimals == 0

    def enter(self, x: Numbers, place: Numbers | float) -> Numbers:
        """Numbers before shifting and scaling: x at ``place`` (0 to 1) in its cell of the grid, or its logarithm."""
        v = x + self.step * (place - 0.5)
        return v.log() if self.log else v

    def leave(self, v: Numbers) -> Numbers:
        """The inverse of ``enter``: v in the user's units, rounded to the column's grid."""
        x = v.exp() if self.log else v
        if not self.step:
            return x
        return (self.origin + self.step * ((x - self.origin) / self.step).round()).round(decimals=self.decimals)

    def encode(self, x: Numbers) -> Numbers:
        """The codes of numbers; NaN stays NaN."""
        codes = torch.zeros_like(x)
        if self.atoms:
            is_atom = x[:, None] == tensor(self.atoms)
            codes = torch.where(is_atom.any(1), 1 + is_atom.double().argmax(1), 0)
        return codes.double().where(~x.isnan(), x)

    def on_line(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """Where numbers are on the line, z, as if there were no atoms."""
        return interpolate((self.enter(x, place) - self.shift) / self.scale, self.knots)[0]

    def forward(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The model's numbers z; NaN for atoms."""
        return self.on_line(x, place).masked_fill(self.encode(x) > 0, torch.nan)

    def log_abs_det_jacobian(self, x: Numbers, place: Numbers | float = 0.5) -> Numbers:
        """The logarithm of |dz/dx|, where atoms and the cells of whole numbers have volume 1; 0 for missing cells."""
        v = self.enter(x, place)
        slopes = interpolate((v - self.shift) / self.scale, self.knots)[1]
        change = slopes.log() - math.log(self.scale) - (v if self.log else 0.0)
        change = change + math.log(self.step) if self.whole else change
        return change.masked_fill((self.encode(x) > 0) | x.isnan(), 0.0)

    @property
    def requirement(self) -> str:
        """The end of an error message about a number that isn't ``possible``."""
        low, high = self.reach(tensor((-FAR, FAR))).clamp(min=self.least).tolist()
        ends = f"between {self.say(float(f'{low:.4g}'))} and {self.say(float(f'{high:.4g}'))}"
        number = f"a whole {'day' if self.date else 'number'} " if self.whole else ""
        return f"is not {number}{ends}, the range that training allows"

    def reach(self, z: Numbers) -> Numbers:
        """The inverse of ``forward``, without clipping to the column's bounds."""
        start, end = self.knots
        return self.leave(self.shift + self.scale * interpolate(z, (end, start))[0])

    def inverse(self, z: Numbers) -> Numbers:
        """The inverse of ``forward``, clipped to the column's bounds; NaN and infinity stay."""
        x = self.reach(z)
        return torch.where(x.isfinite(), x.clamp(*self.bounds), x) + 0.0  # no zero has a sign

    def decode(self, z: Numbers, codes: Numbers | None = None) -> Numbers:
        """The user's numbers; atoms and missing cells where the codes, if there are any, say so."""
        if codes is None:
            return self.inverse(z)
        value_of_code = tensor((torch.nan, *self.atoms, torch.nan))
        values = value_of_code[codes.nan_to_num(len(value_of_code) - 1).long()]
        return torch.where(codes == 0, self.inverse(z), values)

    def possible(self, x: Numbers) -> Bool[Tensor, "b"]:
        """Which numbers the column can have, judging by the training data; NaN, for a missing cell, is possible.

        Numbers that aren't whole where all are, and more than 30 standard deviations away, are impossible.  Unlike
        samples, numbers may lie outside the bounds, as held-out rows do, and off the grid.
        """
        z = self.on_line(x)
        inverse = self.reach(z)
        invertible = torch.isclose(inverse, x) | ((inverse - x).abs() <= max(0.51 * self.step, 1e-9 * self.scale))
        in_range = (z.abs() <= FAR) & (x >= self.least)
        on_line = invertible & in_range & ((x == x.round()) | (not self.whole))
        return x.isnan() | (self.encode(x) > 0) | on_line


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


AnyColumn: TypeAlias = Number | Discrete


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

    @property
    def name(self) -> str:
        """The name of the column."""
        return name_of(self.label)


def name_of(label: object) -> str:
    """A column's label as one printable line, because it may come from a stranger's file."""
    return one_line(label) if str(label).strip() else ""


@dataclass(frozen=True)
class Columns(Transform):
    """The columns of a table: d numbers for the user; for the model, first the numbers on a line, then the codes.

    ``single``: whether the user's numbers, and so samples, have single precision.
    ``fields``: the types of all columns of the user's DataFrame, in its order; empty if the table was an array.
    ``never``: triples of a column, a discrete column and its value in whose training rows the first is never observed.
    """

    type: Literal["columns"] = field(default="columns", kw_only=True)
    columns: tuple[AnyColumn, ...] = ()
    single: bool = False
    fields: tuple[Field, ...] = field(default=(), compare=False)
    never: tuple[tuple[str, str, float], ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    def field(self, column: AnyColumn) -> Field:
        """The type of a column in the user's DataFrame; without a dtype if there was none."""
        return self.types.get(column.name, Field(label=column.name))

    @cached_property
    def types(self) -> dict[str, Field]:
        """The types of the DataFrame's columns, by name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def numbers(self) -> list[int]:
        """The column of each of the model's numbers."""
        return [i for i, column in enumerate(self.columns) if isinstance(column, Number)]

    @cached_property
    def coded(self) -> list[int]:
        """The column of each of the model's codes."""
        return [i for i, column in enumerate(self.columns) if column.codes]

    @property
    def codes(self) -> tuple[int, ...]:
        """How many values each of the model's codes can have."""
        return tuple(self.columns[i].codes for i in self.coded)

    @property
    def gaps(self) -> tuple[int, ...]:
        """The value of each code that stands for a missing cell; −1 if no cell is missing."""
        return tuple(self.columns[i].codes - 1 if self.columns[i].gaps else -1 for i in self.coded)

    def unbind(self, x: Tensor) -> list[Numbers]:
        """The numbers of each column, in double precision on the CPU."""
        return list(x.detach().cpu().double().unbind(-1))

    def places(self, x: Tensor, generator: torch.Generator | None) -> Sequence[Numbers | float]:
        """Random places in cells, from 0 to 1, for each number; ½ without a generator."""
        count = len(self.numbers)
        if generator is None or not count:
            return [0.5] * count
        chance = torch.rand(len(x), count, generator=generator, dtype=torch.float32, device=generator.device)
        return chance.cpu().double().unbind(-1)

    def forward(self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None) -> Float[Tensor, "b e"]:
        """The user's rows as the model sees them; NaN stays NaN, and the number of an atom is NaN."""
        cells = self.unbind(x)
        z = []
        for i, place in zip(self.numbers, self.places(x, generator), strict=True):
            z.append(self.columns[i].forward(cells[i], place))  # type: ignore[union-attr]
        z += [self.columns[i].encode(cells[i]) for i in self.coded]
        return torch.stack(z, -1).to(x if x.is_floating_point() else torch.float64)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, where the cells of discrete values have volume 1.  Missing cells don't contribute.

        Averaged over its cell, the density of a whole number is its probability.
        """
        cells = self.unbind(x)
        total = torch.zeros(len(x), dtype=torch.float64, device="cpu")
        for i, place in zip(self.numbers, self.places(x, generator), strict=True):
            total = total + self.columns[i].log_abs_det_jacobian(cells[i], place)  # type: ignore[union-attr]
        return total

    def inverse(self, z: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        """The model's rows in the user's units, in double precision if the user's were; NaN for missing cells."""
        coordinates = self.unbind(z)
        numbers = dict(zip(self.numbers, coordinates[: len(self.numbers)], strict=True))
        codes = {i: code.round() for i, code in zip(self.coded, coordinates[len(self.numbers) :], strict=True)}
        cells = [
            column.decode(codes[i]) if isinstance(column, Discrete) else column.decode(numbers[i], codes.get(i))
            for i, column in enumerate(self.columns)
        ]
        x = torch.stack(cells, -1)
        return x.to(z.device, z.dtype if self.single or z.device.type == "mps" else torch.float64)

    def restore(self, z: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        unbounded = [
            replace(column, bounds=(-UNBOUNDED, UNBOUNDED)) if isinstance(column, Number) else column
            for column in self.columns
        ]
        return replace(self, columns=tuple(unbounded)).inverse(z)

    def with_gaps(self, z: Float[Tensor, "b e"]) -> Float[Tensor, "b e"]:
        """Rows in which the codes of missing cells say so, instead of being unknown."""
        numbers, codes = z[:, : len(self.numbers)], z[:, len(self.numbers) :]
        gaps = torch.tensor(self.gaps, dtype=z.dtype, device=z.device)
        return torch.cat([numbers, torch.where(codes.isnan() & (gaps >= 0), gaps, codes)], 1)

    def possible(self, x: Float[Tensor, "b d"]) -> Bool[Tensor, "b d"]:
        """Which numbers the columns can have, judging by the training data; NaN, for a missing value, is possible."""
        pairs = zip(self.columns, self.unbind(x), strict=True)
        return torch.stack([column.possible(cells) for column, cells in pairs], -1)

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"], Bool[Tensor, "d"]]:
        """Shift and scale of each column, and which are only shifted and scaled.

        Raises ValueError if there are codes, which have no shift and scale.
        """
        if self.coded:
            listed = one_line(", ".join(self.columns[i].name for i in self.coded))
            raise ValueError(
                f"columns with categories or gaps can't be exported or measured ({listed}); "
                "use run.sample(given=…) or run.impute"
            )
        columns = [column for column in self.columns if isinstance(column, Number)]
        shift = tensor(tuple(column.shift for column in columns))
        scale = tensor(tuple(column.scale for column in columns))
        return shift, scale, torch.tensor([column.affine for column in columns], device="cpu")

    def place(self, example: int, channel: int) -> str:
        """A cell, for error messages."""
        return f"{self.names[channel]} (row {example + 1})"

    def check(
        self, x: Shaped[Tensor, "b d"], cells: "Mapping[str, pandas.Series] | None" = None, *, first: int = 0
    ) -> None:
        """Raises ValueError for the first number that its column can't have, and says what is allowed.

        ``cells``: the user's columns by their names, from which the value is quoted.
        ``first``: the number of rows before these.
        """
        for row, i in (~self.possible(x)).nonzero()[:1].tolist():
            column = self.columns[i]
            cell = column.say(float(x[row, i])) if cells is None else cells[column.name].iloc[row]
            value = repr(cell) if isinstance(cell, str) and cells is not None else cell
            name = column.name if self.fields else f"column {column.name}:"
            raise ValueError(f"{name} {value} (row {first + row + 1}) {column.requirement}")

    def describe(self) -> tuple[str, ...]:
        """The conversions, one line each, with their columns."""
        numbers = [column for column in self.columns if isinstance(column, Number)]
        converted = {
            "logarithm": [column.name for column in numbers if column.log],
            "whole numbers": [column.name for column in numbers if column.whole],
            "few values": [column.name for column in self.columns if isinstance(column, Discrete)],
            "frequent values": [column.name for column in numbers if column.atoms],
            "normal scores": [column.name for column in numbers if column.knots[0]],
            "steps": [f"{column.name} ({column.step:g})" for column in numbers if column.step not in (0, 1)],
        }
        return tuple(f"{conversion}: {', '.join(names)}" for conversion, names in converted.items() if names)


def columns_of(transform: Transform, count: int) -> Columns:
    """The columns of a transform; if it has none, columns called 0, 1, … in the model's own units."""
    if isinstance(transform, Columns):
        return transform
    return Columns(columns=tuple(Number(name=str(i), shift=0.0, scale=1.0) for i in range(count)))


def select(columns: Columns, chosen: Bool[Tensor, "d"]) -> Columns:
    """The columns of a table where ``chosen`` is True, with their types in the DataFrame."""
    selected = tuple(compress(columns.columns, chosen.tolist()))
    names = [column.name for column in selected]
    fields = tuple(field for field in columns.fields if field.name in names)
    return replace(columns, columns=selected, fields=fields, never=())  # never is of whole rows


def insert_rest(row: Float64[Tensor, "1 d"], rest: Float[Tensor, "n k"]) -> Float64[Tensor, "n d"]:
    """Copies of a row, (n, d), whose missing cells are filled with the rows of ``rest``."""
    rows = row.repeat(len(rest), 1)
    rows[:, row[0].isnan()] = rest.to(rows)
    return rows


def learn_columns(
    x: Float[Tensor, "n d"], columns: Sequence[Column | str], *, every: Float[Tensor, "m d"] | None = None
) -> Columns:
    """Learn columns that give ``x`` mean 0 and standard deviation 1, or normal scores; NaN is a missing cell.

    Text, up to ten distinct whole numbers and up to twenty other values are discrete.  With at least twenty values,
    numbers that many rows share get codes, and other positive columns become logarithms if these are closer to a
    Gaussian.  Columns that are bounded, heavy-tailed, reach beyond six standard deviations or have heaps are then
    mapped to normal scores.

    ``x``: the rows to learn from, in which no column is constant.
    ``columns``: their names, or what is known of them.
    ``every``: all rows of the table, including held-out ones, whose values must be possible; by default ``x``.
    """
    every = x if every is None else every
    learned = list[AnyColumn]()
    for column, cells, all_cells in zip(bar(columns, "columns"), x.T.cpu(), every.T.cpu(), strict=True):
        if isinstance(column, str):
            column = Column(name=column)
        observed = all_cells[~all_cells.isnan()].double().numpy()
        column = replace(column, gaps=len(observed) < len(every))
        learned.append(learn_column(cells[~cells.isnan()], column, np.unique(observed)))
    return Columns(columns=tuple(learned), single=x.dtype == torch.float32)


def learn_column(x: Float[Tensor, "n"], column: Column, distinct: Float64[np.ndarray, "k"]) -> AnyColumn:
    """Learn one column: its type, and the location, scale and normal scores of numbers.

    ``x``: the numbers to learn from.  ``distinct``: all numbers that must be possible, ascending.
    """
    exact = x.double()
    whole = bool((distinct == distinct.round()).all() and np.max(abs(distinct)) < 2**52)
    extent = distinct[-1] - distinct[0] if len(distinct) > 2 else np.inf
    if column.categories or (whole and extent < DISCRETE):
        # Whole numbers between those in the rows are possible, too, unless there are just two.
        values = np.arange(0.0 if column.categories else distinct[0], distinct[-1] + 1)
        return Discrete(**vars(column), values=tuple(values.tolist()))
    most = DISCRETE if whole and extent < FEW else FEW  # the values of a range, up to a few gaps, are a sample of it
    if len(distinct) <= most and len(x) >= 5 * len(distinct):
        return Discrete(**vars(column), values=tuple(distinct.tolist()))  # with fewer rows, others may be possible
    number = learn_grid(exact.numpy(), column, distinct, whole=whole, single=x.dtype == torch.float32)
    exact = exact[number.encode(exact) == 0]  # atoms have no place on the line
    share, places = ties(exact.numpy())
    v = number.enter(exact, torch.from_numpy(places))
    low, high = number.enter(exact, 0.0), number.enter(exact, 1.0)
    shift, scale = v.mean(), v.std()
    first, middle, third = torch.from_numpy(np.quantile(v.numpy(), [0.25, 0.5, 0.75]))
    few = len(x) < FEW
    if not few and scale > LOST * (third - first) > 0:
        shift, scale = middle, third - first
    bounds = float(exact.min()), float(exact.max())
    number = replace(number, shift=float(shift.to(x)), scale=float(scale.to(x)), bounds=bounds)
    if few:
        return number
    t, left, right = (((ends - number.shift) / number.scale).numpy() for ends in (v, low, high))
    start, end = normal_scores(t, left, right, share).tolist()
    return number if start == end else replace(number, knots=(tuple(start), tuple(end)))


def learn_grid(
    x: Float64[np.ndarray, "n"], column: Column, distinct: Float64[np.ndarray, "k"], *, whole: bool, single: bool
) -> Number:
    """The grid and the atoms of a column of numbers, and whether it becomes logarithms.

    ``whole``: whether all values are whole numbers.  ``single``: whether they have single precision.
    """
    few = len(x) < FEW
    step, origin, decimals = 0.0, 0.0, 0
    fewest = next((d for d in range(7) if has_decimals(distinct, d, single=single)), None)
    # Other numbers, if they are few, can't tell a grid from chance.
    if fewest is not None and (whole or not few) and np.max(abs(distinct)) * 10.0**fewest < 2**52:
        decimals = fewest
        units = np.round(distinct * 10**decimals).astype(np.int64)
        largest = 1 if few else max(1, math.gcd(*np.diff(units).tolist()))  # the largest step that has all values
        step = largest / 10**decimals
        origin = float(units[0] % largest) / 10**decimals
    values, counts = np.unique(x, return_counts=True)
    atoms = values[counts > max(5, len(x) * max(ATOM, DENSE * step / x.std()))]
    if len(values) - len(atoms) < FEW:
        atoms = atoms[:0]
    rest = x[~np.isin(x, atoms)]
    gain = np.log(rest.std() / np.log(rest).std()) - np.log(rest).mean() if rest.min() > 0 else 0
    return Number(
        **vars(column),
        shift=0,
        scale=1,
        log=bool(not few and not whole and gain > LOG_GAIN and rest.min() > step),
        atoms=tuple(atoms.tolist()),
        least=0.0 if whole and distinct[0] >= 0 else -UNBOUNDED,
        step=step,
        origin=origin,
        decimals=decimals,
    )


def has_decimals(x: Float64[np.ndarray, "n"], decimals: int, *, single: bool) -> bool:
    """Whether no number has more decimals, up to the rounding of single precision."""
    rounded = np.round(x, decimals)
    if single:
        return bool((rounded.astype(np.float32) == x).all() and 10.0**-decimals > 1e-6 * np.max(abs(x)))
    return bool((rounded == x).all())


def ties(x: Float64[np.ndarray, "n"]) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    """For each row, the share of rows with the same value, and its position among them, evenly spread over (0, 1)."""
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    rank = np.empty(len(x))
    rank[np.argsort(x, kind="stable")] = np.arange(len(x))
    before = np.cumsum(counts) - counts
    return counts[index] / len(x), (rank - before[index] + 0.5) / counts[index]


def is_uneven(low: Float64[np.ndarray, "n"], high: Float64[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which rows are in cells with more or fewer rows than the mean of the two cells beside them, beyond chance.

    ``low``, ``high``: the ends of each row's cell, ascending.
    """
    starts, first, index, counts = np.unique(low, return_index=True, return_inverse=True, return_counts=True)
    if len(starts) < 2:
        return np.zeros(len(low), dtype=bool)
    adjacent = np.diff(starts) < 1.5 * (high - low)[first[:-1]]
    before = np.append(counts[1], np.where(adjacent, counts[:-1], 0))  # the first cell has none before it
    after = np.append(np.where(adjacent, counts[1:], 0), counts[-2])
    expected = (before + after) / 2
    uneven: Bool[np.ndarray, " k"] = abs(counts - expected) > UNEVEN * np.sqrt(counts + expected / 2)
    return uneven[index]


def normal_scores(
    t: Float64[np.ndarray, "n"],
    low: Float64[np.ndarray, "n"],
    high: Float64[np.ndarray, "n"],
    share: Float64[np.ndarray, "n"],
) -> Float64[np.ndarray, "2 k"]:
    """The knots (t and z) of a map that makes ``t`` standard normal, or the identity.

    Knots are at equal steps in z, at the two outermost values on each side, at the edges of cells that hold many rows
    or more or fewer than the cells beside them, and where values jump; none lies inside other cells.
    Beyond the last knot, one standard deviation of z is one to four of t.

    ``low``, ``high``: the ends of each value's cell.  ``share``: the share of rows in it.
    """
    from scipy.special import ndtr, ndtri  # imported here, because it takes a quarter as long as torch

    n = len(t)
    order = np.argsort(t)
    t, low, high, share = t[order], low[order], high[order], share[order]
    has_cells = high > low
    heavy = has_cells & ((share > ATOM) | ((share > LEAST_SHARE) & is_uneven(low, high)))
    end = min(3.0, -ndtri(2 / n))
    tails = np.diff(np.quantile(t, ndtr([-end, 1 - end, end - 1, end])))[[0, 2]]
    short = (tails < BOUNDED * 12**0.5 * (ndtr(end) - ndtr(end - 1))) & (n >= 100)  # with fewer, it may be chance
    long = (tails > HEAVY).any() and n >= 100
    # A tenth of the rows in a thousandth of a standard deviation, next to others far away.
    narrow = n >= 100 and np.diff(np.quantile(t, np.linspace(0, 1, 11))).min() < 1e-3
    if not (long or short.any() or heavy.any() or narrow or np.max(abs(t[[0, -1]])) > 6):
        return np.array([[-1.0, 1.0], [-1.0, 1.0]])

    grid = np.linspace(ndtri(5 / n), -ndtri(5 / n), min(33, n // 20))
    outer = ndtri(np.array([0.5, 1.5]) / n)
    ranks = (n * ndtr(np.concatenate([outer, grid, -outer]))).astype(int).clip(0, n - 1)
    few = int(ATOM * n)
    jumps = few + (np.diff(t)[few : n - 1 - few] > JUMP).nonzero()[0]
    edges = [low[:1], high[-1:], low[heavy], high[heavy], high[jumps], low[jumps + 1]]
    marks = np.unique(np.concatenate([np.where(heavy, t, high)[ranks], *edges]))
    marks = marks[np.append(np.diff(marks) > SAME * np.maximum(1, abs(marks[1:])), True)]
    places, index = np.unique(t, return_inverse=True)  # equal values share a knot
    below = np.bincount(index, np.arange(n) + 0.5) / np.bincount(index) / n
    edge = 1e-9 * max(t[-1] - t[0], 1e-300)
    z = ndtri(np.interp(marks, [low[0] - edge, *places, high[-1] + edge], [0.25 / n, *below, 1 - 0.25 / n]))
    # The slopes of z between the outermost knots and the fifth values from the ends.
    left_slope = (ndtri(4.5 / n) - z[0]) / max(t[4] - marks[0], 1e-9)
    right_slope = (z[-1] + ndtri(4.5 / n)) / max(marks[-1] - t[-5], 1e-9)
    first, last = np.maximum(1 / np.clip([left_slope, right_slope], 0.25, 1), SAME * abs(marks[[0, -1]]))
    marks = np.array([marks[0] - first, *marks, marks[-1] + last])
    return np.stack([marks, [z[0] - 1, *z, z[-1] + 1]])
