"""Tables: files and frames become columns of numbers, and a column's own units become the model's."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn.data.images import arrays
from ncsn.storage import atomic
from ncsn.validation import one_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet")
FEWEST_ROWS = 100  # with fewer, a column's tails and cells are not to be told from chance
FEW = 20  # values: a column of no more takes these alone
WHOLE, LISTED = 1, 2  # kinds of cells: around whole numbers; of a few values, one after the other
LOG_GAIN = 0.1  # nats a value by which the logarithm must be nearer to a Gaussian than the column itself
BOUNDED, HEAVY = (
    0.085,
    2.0,
)  # slopes of a tail beside normal scores: a uniform's is 0.074, a Gaussian's 1, a Laplace's 2
KNOTS = 33


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, NaN where a cell is blank.  ``said``: what was left out, a line each.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    said: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The sha256 of names and numbers, in hexadecimal."""
        return hashlib.sha256(repr(self.names).encode() + np.ascontiguousarray(self.rows).data).hexdigest()

    def listed(self, where: np.ndarray) -> str:
        """The names of the columns ``where`` it holds."""
        return ", ".join(name for name, here in zip(self.names, where, strict=True) if here)

    @property
    def finite(self) -> "Table":
        """The table itself.  Raises ValueError for infinite numbers."""
        if (infinite := np.isinf(self.rows).any(0)).any():
            raise ValueError(f"columns {self.listed(infinite)} have infinite numbers; a cell without a number is blank")
        return self

    @property
    def complete(self) -> "Table":
        """What can be learned from: rows without blanks, of columns that vary.

        Raises ValueError if nothing is left, and for infinite numbers.
        """
        blank = np.isnan(self.finite.rows)
        empty = blank.all(0)
        whole = ~blank[:, ~empty].any(1)
        said = [*self.said]
        if not whole.all():
            said.append(f"{int((~whole).sum()):,} of {len(whole):,} rows have blanks, and are left out")
        rows = self.rows if whole.all() else self.rows[whole]
        if not len(rows):
            raise ValueError(f"there is no row without blanks among {len(whole):,}; training learns from whole rows")
        constant = rows.max(0) == rows.min(0)
        for what, where in (("blank", empty), ("constant", constant)):
            if where.any():
                said.append(f"{what} columns are left out: {self.listed(where)}")
        varied = ~empty & ~constant
        if not varied.any():
            raise ValueError(f"there is no column of numbers that vary; {'; '.join(said)}")
        names = tuple(name for name, here in zip(self.names, varied, strict=True) if here)
        return Table(names, rows if varied.all() else rows[:, varied], tuple(said))

    @property
    def parts(self) -> tuple["Table", "Table"]:
        """Rows to train on, and the tenth that is left to judge by, always the same."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        test, train = np.split(order, [len(order) // 10])
        return Table(self.names, self.rows[np.sort(train)], self.said), Table(self.names, self.rows[test])

    def matched(self, names: Sequence[str]) -> "Table":
        """The same rows by the columns ``names``, in their order; other columns are left out.

        Raises ValueError if a column is missing, and for infinite numbers.
        """
        if missing := [name for name in names if name not in self.names]:
            raise ValueError(f"there is no column of numbers {', '.join(missing)}; the run has {', '.join(names)}")
        others = [name for name in self.names if name not in names]
        said = [f"columns that the run does not know are left out: {', '.join(others)}"] if others else []
        rows = self.rows[:, [self.names.index(name) for name in names]]
        return Table(tuple(names), rows, (*self.said, *said)).finite


def is_table(name: str) -> bool:
    """Whether a file of this name is a table: by its suffix, or because it is one array with two axes."""
    path = Path(name)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return [array.ndim for array in arrays(path).values()] == [2]
    return path.suffix.lower() in SUFFIXES


def read_table(name: str | Path) -> Table:
    """The columns of numbers in a .csv, .tsv, .parquet, .npy or .npz; those of an array are called 0, 1, ….

    Raises ValueError if it cannot be read, if two columns have one name, or if there is none of numbers.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    if suffix not in SUFFIXES:
        found = list(arrays(path).values())
        if len(found) != 1:
            raise ValueError(f"{path} holds {len(found)} arrays; one of numbers (rows, columns) is needed")
        return table_of(found[0], str(path))
    try:
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ValueError("tables are read by pyarrow: pip install 'ncsn[tables]'") from error
    try:
        if suffix == ".parquet":
            content = parquet.read_table(path)
        else:
            # In one block, because a column has the type of its first.
            block = csv.ReadOptions(block_size=min(max(1, path.stat().st_size), 2**31 - 1))
            blanks = csv.ConvertOptions(strings_can_be_null=True)
            parsing = csv.ParseOptions(delimiter=DELIMITERS[suffix])
            content = csv.read_csv(path, block, parsing, blanks)
        kinds = [str(column.type) for column in content.columns]
        columns = [
            column.cast("float64").to_numpy()
            if kind.startswith(("int", "uint", "float", "double", "decimal"))
            else column.cast("int8").cast("float64").to_numpy()
            if kind in ("bool", "null")
            else None
            for kind, column in zip(kinds, content.columns, strict=True)
        ]
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as a table ({one_line(error)})") from error
    return table_of_columns(str(path), content.column_names, columns)


def table_of(data: Any, name: str = "the table") -> Table:
    """A DataFrame, or an array (n, d), as a table.  Raises ValueError as ``read_table``."""
    if hasattr(data, "columns"):
        columns = [data[column] for column in data.columns]
        numbers = [
            column.to_numpy(float, na_value=np.nan) if getattr(column.dtype, "kind", "O") in "buif" else None
            for column in columns
        ]
        return table_of_columns(name, [str(column) for column in data.columns], numbers)
    array = np.asarray(data)
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}; numbers (rows, columns) are needed")
    return Table(tuple(map(str, range(array.shape[1]))), array.astype(np.float64))


def table_of_columns(place: str, names: Sequence[str], columns: Sequence[np.ndarray | None]) -> Table:
    """Columns by their names; None is one of something else than numbers.  Raises ValueError as ``read_table``."""
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{place} has several columns called {', '.join(double)}; give each a name of its own")
    if [*names] != [str(i) for i in range(len(names))] and all(is_number(name) for name in names):
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; its first line must name the columns")
    numbers = {name: column for name, column in zip(names, columns, strict=True) if column is not None}
    if not numbers:
        raise ValueError(f"{place} has no column of numbers, but {', '.join(names) or 'none at all'}")
    others = [name for name in names if name not in numbers]
    said = (f"columns of something else than numbers are left out: {', '.join(others)}",) if others else ()
    return Table(tuple(numbers), np.stack([*numbers.values()], 1), said)


def is_number(text: str) -> bool:
    """Whether a column's name is a number, as in a file without a header."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_table(path: Path, names: Sequence[str], rows: np.ndarray) -> None:
    """Write rows (n, d) into a .csv, .tsv or .parquet; columns of whole numbers as integers, NaN as a blank."""
    from pyarrow import Table as Columns
    from pyarrow import array, csv, parquet

    columns = []
    for column in rows.T:
        known = column[~np.isnan(column)]
        whole = len(known) > 0 and bool((known == known.round()).all()) and float(np.abs(known).max()) < 2**53
        reals = array(column, from_pandas=True)
        columns.append(reals.cast("int64") if whole else reals)
    content = Columns.from_arrays(columns, list(names))
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            parquet.write_table(content, temporary)
        else:
            style = csv.WriteOptions(delimiter=DELIMITERS[path.suffix], quoting_style="needed")
            csv.write_csv(content, temporary, style)


@dataclass(frozen=True)
class Units:
    """What the user's numbers x are to the model, which sees z: column by column, t = (x − shift)/scale, and z = f(t).

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.  Without what follows, z is t.
    ``log``: of which columns the logarithm is taken first.  ``cells``: which take single values, a cell around each: 0
    for none, WHOLE numbers, or a few that are LISTED.  ``values``: all of the LISTED, in their order; of the WHOLE the
    smallest and the largest.  ``knots``: t, z and slopes dz/dt of f, a monotone spline; the identity where none is
    needed.
    """

    shift: Float[Tensor, "*d"]
    scale: Float[Tensor, "*d"]
    log: Bool[Tensor, "d"] | None = None
    cells: Int64[Tensor, "d"] | None = None
    values: Float64[Tensor, "d v"] | None = None
    knots: Float64[Tensor, "3 d k"] | None = None

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> "Units":
        """Those in which every column of ``x`` has mean 0 and standard deviation 1, or normal scores.

        From a hundred rows on, columns of whole numbers or of few values have cells; positive ones whose logarithm is
        nearer to a Gaussian have that; and what is bounded or heavy-tailed then becomes its normal scores.
        Raises ValueError if a column is constant, naming it.
        """
        exact = x.cpu().double()  # Apple's GPUs have no such numbers
        shift, scale = exact.mean(0), exact.std(0)
        constant = (~(scale > (1e-15 if x.dtype == torch.float64 else 1e-7) * shift.abs())).nonzero()[:, 0].tolist()
        if constant:
            raise ValueError(f"column {', '.join(map(str, constant))} is constant, so it has no density; leave it out")
        if len(x) < FEWEST_ROWS:
            return cls(shift.to(x), scale.to(x))
        shifts, scales, log, cells, values, knots = zip(*map(column_units, exact.numpy().T), strict=True)
        most = max(map(len, values))
        return cls(
            shift=torch.tensor(shifts).to(x),
            scale=torch.tensor(scales).to(x),
            log=torch.tensor(log),
            cells=torch.tensor(cells),
            values=torch.from_numpy(np.stack([np.pad(row, (0, most - len(row)), mode="edge") for row in values])),
            knots=torch.from_numpy(np.stack(knots, 1)),
        )

    @property
    def straight(self) -> Bool[Tensor, "*d"]:
        """Which columns are shifted and scaled alone."""
        if self.knots is None or self.log is None or self.cells is None:
            return torch.ones_like(self.shift, dtype=torch.bool, device="cpu")
        return ~self.log & (self.cells == 0) & (self.knots[0] == self.knots[1]).all(1)

    def describe(self, names: Sequence[str]) -> str:
        """What is done to which columns, in a line; "" for none."""
        if self.log is None or self.cells is None or self.knots is None:
            return ""
        what = {
            "logarithm": self.log,
            "whole numbers": self.cells == WHOLE,
            "few values": self.cells == LISTED,
            "normal scores": (self.knots[0] != self.knots[1]).any(1),
        }
        parts = [
            f"{kind} of {', '.join(names[i] for i in where.nonzero())}" for kind, where in what.items() if where.any()
        ]
        return "; ".join(parts)

    def check(self, x: Float64[Tensor, "b d"], names: Sequence[str]) -> None:
        """Raises ValueError for numbers that the columns cannot take: NaN may stand for a blank."""
        if self.log is None or self.cells is None or self.values is None:
            return
        listed = torch.stack([torch.isin(column, values) for column, values in zip(x.T, self.values, strict=True)], 1)
        allowed = {
            "above 0": ~self.log | (x > 0),
            "whole numbers": (self.cells != WHOLE) | (x == x.round()),
            "values that training has seen": (self.cells != LISTED) | listed,
        }
        for what, right in allowed.items():
            for row, column in (~(right | x.isnan())).nonzero().tolist()[:1]:
                raise ValueError(f"column {names[column]} has {x[row, column]:g} in row {row + 1}; it takes {what}")

    def reals(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float64[Tensor, "b *d"]:
        """The user's numbers, or their logarithms: anywhere in their cells, or in the middle of them."""
        v = x.detach().cpu().double()
        if self.log is None or self.cells is None or self.values is None:
            return v
        place = torch.full_like(v, 0.5)
        if generator is not None:
            place = torch.rand(v.shape, generator=generator, device=generator.device).to(v)
        listed = torch.searchsorted(self.values, v.T.contiguous()).T + place
        v = torch.where(self.cells == WHOLE, v + place - 0.5, torch.where(self.cells == LISTED, listed, v))
        return torch.where(self.log, v.log(), v)

    def standardise(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them, in the precision of ``x``.

        ``generator``: draws where in its cell a value is; by default it is in the middle.
        """
        t = (self.reals(x, generator) - self.shift.cpu().double()) / self.scale.cpu().double()
        return (t if self.knots is None else spline(self.knots, t)[0]).to(x)

    def log_volume(self, x: Float[Tensor, "b *d"]) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, of whole numbers and few values for cells of volume 1."""
        v, scale = self.reals(x), self.scale.cpu().double()
        volume = -scale.log().expand(v.shape)
        if self.knots is not None and self.log is not None:
            slopes = spline(self.knots, (v - self.shift.cpu().double()) / scale)[1]
            volume = volume + slopes.log() - torch.where(self.log, v, 0.0)
        return volume.flatten(1).sum(1)

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples as the user knows them, in double precision if the user's were."""
        t = z.detach().cpu().double()
        t = t if self.knots is None else inverse_spline(self.knots, t)
        v = self.shift.cpu().double() + self.scale.cpu().double() * t
        if self.log is not None and self.cells is not None and self.values is not None:
            v = torch.where(self.log, v.exp(), v)
            whole = v.round().clamp(self.values[:, 0], self.values[:, -1])
            index = v.floor().clamp(0, self.values.shape[1] - 1).long()
            listed = self.values.gather(1, index.T).T
            v = torch.where(self.cells == WHOLE, whole, torch.where(self.cells == LISTED, listed, v))
        return v.to(z.device, z.dtype if z.device.type == "mps" else torch.promote_types(z.dtype, self.shift.dtype))


def column_units(x: np.ndarray) -> tuple[float, float, bool, int, np.ndarray, np.ndarray]:
    """Shift, scale, logarithm, cells, values and knots of one column, as ``Units`` has them."""
    distinct, place = np.unique(x), np.random.default_rng(0).random(len(x))
    cells, values, v = 0, np.zeros(1), x
    if len(distinct) <= FEW:
        cells, values, v = LISTED, distinct, np.searchsorted(distinct, x) + place
    elif (x == x.round()).all():
        cells, values, v = WHOLE, distinct[[0, -1]], x + place - 0.5
    log = cells != LISTED and v.min() > 0 and np.log(v.std() / np.log(v).std()) - np.log(v).mean() > LOG_GAIN
    v = np.log(v) if log else v
    shift, scale = v.mean(), v.std(ddof=1)
    knots = normal_scores((v - shift) / scale, needed=cells == LISTED)
    return float(shift), float(scale), bool(log), cells, values, knots


def normal_scores(t: np.ndarray, *, needed: bool) -> Float64[np.ndarray, "3 k"]:
    """The knots of the spline that makes ``t`` standard normal; of the identity unless an end of t is unlike that.

    At equal steps in z, between the quantiles that five values lie beyond.  ``needed``: in any case.
    """
    from scipy.special import ndtr, ndtri  # here, because it takes as long as a quarter of torch

    count, top, end = min(KNOTS, len(t) // 20), -ndtri(5 / len(t)), min(3.0, -ndtri(2 / len(t)))
    tails = np.diff(np.quantile(t, ndtr([-end, 1 - end, end - 1, end])))[[0, 2]]
    z = np.linspace(-top, top, count)
    if not needed and (tails > BOUNDED).all() and (tails < HEAVY).all():
        return np.stack([z, z, np.ones(count)])
    places, index = np.unique(np.quantile(t, ndtr(z)), return_inverse=True)
    z = np.bincount(index, z) / np.bincount(index)
    # Equal quantiles are one knot; those that are missing follow on the straight line beyond.
    rise = (z[-1] - z[-2]) / (places[-1] - places[-2]) if len(z) > 1 else 1.0
    beyond = np.arange(1, count - len(z) + 1)
    places, z = np.append(places, places[-1] + beyond), np.append(z, z[-1] + rise * beyond)
    rises = np.diff(z) / np.diff(places)
    return np.stack([places, z, np.concatenate([rises[:1], (rises[1:] * rises[:-1]) ** 0.5, rises[-1:]])])


def bins(knots: Float64[Tensor, "3 d k"], at: Float64[Tensor, "d b"], row: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest points between the first and the last knot, by t or z (``row``), and the knots left and right."""
    ends = knots[row]
    inside = at.clamp(ends[:, :1], ends[:, -1:])
    left = torch.searchsorted(ends[:, 1:-1].contiguous(), inside.contiguous()).expand(3, *at.shape)
    return inside, knots.gather(2, left), knots.gather(2, left + 1)


def spline(knots: Float64[Tensor, "3 d k"], t: Float64[Tensor, "b d"]) -> tuple[Tensor, Tensor]:
    """z and dz/dt of monotone rational quadratic splines, straight beyond the last knots.

    Gregory & Delbourgo 1982; Durkan et al. 2019 (arXiv:1906.04032), equations 4 and 5.
    """
    inside, (t0, z0, slope0), (t1, z1, slope1) = bins(knots, t.T, 0)
    rise, share = (z1 - z0) / (t1 - t0), (inside - t0) / (t1 - t0)
    product = share * (1 - share)
    below = rise + (slope0 + slope1 - 2 * rise) * product
    slope = (rise / below) ** 2 * (slope1 * share**2 + 2 * rise * product + slope0 * (1 - share) ** 2)
    z = z0 + (z1 - z0) * (rise * share**2 + slope0 * product) / below
    return (z + slope * (t.T - inside)).T, slope.T


def inverse_spline(knots: Float64[Tensor, "3 d k"], z: Float64[Tensor, "b d"]) -> Float64[Tensor, "b d"]:
    """The t of ``spline`` with this z: Durkan et al. 2019, equations 6 to 8."""
    inside, (t0, z0, slope0), (t1, z1, slope1) = bins(knots, z.T, 1)
    rise, height = (z1 - z0) / (t1 - t0), inside - z0
    bend = height * (slope0 + slope1 - 2 * rise)
    a, b, c = (z1 - z0) * (rise - slope0) + bend, (z1 - z0) * slope0 - bend, -rise * height
    share = 2 * c / (-b - (b**2 - 4 * a * c).clamp(min=0).sqrt())
    return (t0 + (t1 - t0) * share + (z.T - inside) / torch.where(share < 0.5, slope0, slope1)).T
