"""Tables: files and frames become columns of numbers, and a column's own units become the model's."""

import hashlib
import re
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
NUMBER = re.compile(r"-?\d*\.?\d+(e-?\d+)?")


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

    @property
    def complete(self) -> "Table":
        """What can be learned from: rows without blanks, of columns that vary.

        Raises ValueError if nothing is left.
        """
        blank = np.isnan(self.rows)
        empty = blank.all(0)
        whole = ~blank[:, ~empty].any(1)
        rows, said = self.rows[whole], [*self.said]
        if not len(rows):
            raise ValueError(f"all of {len(whole):,} rows have blanks; training learns from rows without")
        if len(rows) < len(whole):
            said.append(f"{len(whole) - len(rows):,} of {len(whole):,} rows have blanks, and are left out")
        varied = ~empty & (rows.max(0) != rows.min(0))
        names = np.array(self.names)
        if not varied.all():
            said.append(f"columns that do not vary are left out: {', '.join(names[~varied])}")
        if not varied.any():
            raise ValueError(f"no column of numbers varies; {'; '.join(said)}")
        return Table(tuple(names[varied].tolist()), rows[:, varied], tuple(said))

    @property
    def parts(self) -> tuple["Table", "Table"]:
        """Rows to train on, and the tenth that is left to judge by, always the same."""
        order = np.random.default_rng(0).permutation(len(self.rows))
        test, train = np.split(order, [len(order) // 10])
        return Table(self.names, self.rows[np.sort(train)], self.said), Table(self.names, self.rows[test])

    def matched(self, names: Sequence[str]) -> "Table":
        """The same rows by the columns ``names``, in their order.  Raises ValueError if one is missing."""
        if missing := [name for name in names if name not in self.names]:
            raise ValueError(f"there is no column of numbers {', '.join(missing)}; the run has {', '.join(names)}")
        others = [name for name in self.names if name not in names]
        said = [f"columns that the run does not know are left out: {', '.join(others)}"] if others else []
        rows = self.rows[:, [self.names.index(name) for name in names]]
        return Table(tuple(names), rows, (*self.said, *said))


def is_table(name: str) -> bool:
    """Whether a file of this name is a table: by its suffix, or because it is one array with two axes."""
    path = Path(name)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return [array.ndim for array in arrays(path).values()] == [2]
    return path.suffix.lower() in SUFFIXES


def read_table(name: str | Path) -> Table:
    """The columns of numbers in a .csv, .tsv, .parquet, .npy or .npz; those of an array are called 0, 1, ….

    Raises ValueError if it cannot be read, and as ``table_of``.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if suffix in (".npy", ".npz"):
        return table_of(next(iter(arrays(path).values())), str(path))
    try:
        import pandas  # noqa: F401
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ValueError("tables are read by pandas and pyarrow: pip install 'ncsn[tables]'") from error
    try:
        if suffix == ".parquet":
            content = parquet.read_table(path)
        else:
            # In one block, because a column has the type of its first.
            block = csv.ReadOptions(block_size=min(max(1, path.stat().st_size), 2**31 - 1))
            blanks = csv.ConvertOptions(strings_can_be_null=True)
            content = csv.read_csv(path, block, csv.ParseOptions(delimiter=DELIMITERS[suffix]), blanks)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as a table ({one_line(error)})") from error
    return table_of(content.to_pandas(), str(path))


def table_of(data: Any, place: str = "the table") -> Table:
    """The columns of numbers in a DataFrame, or in an array (n, d); ``place``: what errors call it.

    Raises ValueError for columns of one name, a file without names, infinite numbers, and if there is no such column.
    """
    if not hasattr(data, "columns"):
        array = np.asarray(data)
        if array.ndim != 2 or array.dtype.kind not in "buif":
            raise ValueError(f"{place} has shape {array.shape} of {array.dtype}; numbers (rows, columns) are needed")
        return Table(tuple(map(str, range(array.shape[1]))), array.astype(np.float64))
    names = [str(name) for name in data.columns]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{place} has several columns called {', '.join(double)}; give each a name of its own")
    if names != [str(i) for i in range(len(names))] and all(NUMBER.fullmatch(name) for name in names):
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; its first line must name the columns")
    columns = {}
    for name, column in zip(names, (data[key] for key in data.columns), strict=True):
        if column.dtype.kind in "buif" or bool(column.isna().all()):
            columns[name] = column.to_numpy(float, na_value=np.nan)
    others = [name for name in names if name not in columns]
    if not columns:
        raise ValueError(f"{place} has no column of numbers, but {', '.join(names) or 'none at all'}")
    if infinite := [name for name, column in columns.items() if np.isinf(column).any()]:
        raise ValueError(f"{place} has infinite numbers in {', '.join(infinite)}; leave blank what is not known")
    said = (f"columns of something else than numbers are left out: {', '.join(others)}",) if others else ()
    return Table(tuple(columns), np.stack([*columns.values()], 1), said)


def write_table(path: Path, names: Sequence[str], rows: Float64[np.ndarray, "n d"]) -> None:
    """Write rows into a .csv, .tsv or .parquet: whole columns of whole numbers as integers, NaN as a blank."""
    import pandas

    frame = pandas.DataFrame(rows, columns=[*names])
    for i, column in enumerate(rows.T):
        known = column[~np.isnan(column)]
        if len(known) and (known == known.round()).all() and np.abs(known).max() < 2**53:
            frame[names[i]] = frame[names[i]].astype("Int64")
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary)
        else:
            frame.to_csv(temporary, sep=DELIMITERS[path.suffix], index=False)


@dataclass(frozen=True)
class Units:
    """What the user's numbers x are to the model, which sees z: column by column, t = (x − shift)/scale, and z = f(t).

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.  Without what follows, z is t.
    ``log``: of which columns the logarithm is taken first.  ``cells``: which take single values, a cell around each: 0
    for none, WHOLE numbers, or a few that are LISTED.  ``values``: all of the LISTED, in their order; of the WHOLE the
    least that there can be.  ``knots``: t, z and slopes dz/dt of f, a monotone spline; the identity where none is
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

        From a hundred rows on, columns of whole numbers or of few values have cells; other positive ones whose
        logarithm is nearer to a Gaussian have that; and what is bounded or heavy-tailed then becomes its normal scores.
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
        bent = (self.knots[0] != self.knots[1]).any(1)
        kinds = ("logarithm", self.log), ("whole numbers", self.cells == WHOLE), ("few values", self.cells == LISTED)
        parts = [(kind, [names[i] for i in where.nonzero()]) for kind, where in (*kinds, ("normal scores", bent))]
        return "; ".join(f"{kind}: {', '.join(columns)}" for kind, columns in parts if columns)

    def check(self, x: Float[Tensor, "b *d"], names: Sequence[str]) -> None:
        """Raises ValueError for numbers that columns cannot have, as no sample would; NaN may stand for a blank."""
        exact = x.cpu().double()
        back = self.restore(self.standardise(exact))
        for row, column in (~torch.isclose(back, exact) & ~exact.isnan()).nonzero().tolist()[:1]:
            what = f"{x[row, column]:g} in row {row + 1}"
            raise ValueError(f"column {names[column]} has {what}, which it cannot be by what training has seen")

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
            whole = v.round().maximum(self.values[:, 0])
            index = v.nan_to_num().floor().clamp(0, self.values.shape[1] - 1).long()
            listed = self.values.gather(1, index.T).T
            v = torch.where(self.cells == WHOLE, whole, torch.where(self.cells == LISTED, listed, v))
        return v.to(z.device, z.dtype if z.device.type == "mps" else torch.promote_types(z.dtype, self.shift.dtype))


def column_units(x: np.ndarray) -> tuple[float, float, bool, int, np.ndarray, np.ndarray]:
    """Shift, scale, logarithm, cells, values and knots of one column, as ``Units`` has them."""
    (distinct, counts), place = np.unique(x, return_counts=True), np.random.default_rng(0).random(len(x))
    cells, values, v = 0, np.zeros(1), x
    if len(distinct) <= FEW and counts.min() >= 5:  # a rarer one may be missing among the rows to train on
        cells, values, v = LISTED, distinct, np.searchsorted(distinct, x) + place
    elif (x == x.round()).all():
        cells, values, v = WHOLE, np.array([0.0 if distinct[0] >= 0 else -1e18]), x + place - 0.5
    log = cells == 0 and x.min() > 0 and np.log(v.std() / np.log(v).std()) - np.log(v).mean() > LOG_GAIN
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
    """Values z and slopes dz/dt of monotone rational quadratic splines, straight beyond the last knots.

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
    t: Tensor = t0 + (t1 - t0) * share + (z.T - inside) / torch.where(share < 0.5, slope0, slope1)
    return t.T
