"""Tables: files and frames become columns of numbers, and a column's own units become the model's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from ncsn.machine import hardware
from ncsn.storage import atomic
from ncsn.validation import one_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FEW = 20  # values: a column of no more takes these alone
INTEGERS, LISTED = 1, 2  # kinds of cells: around whole numbers; of a few values, one after the other
LOG_GAIN = 0.1  # nats a value by which the logarithm must be nearer to a Gaussian than the column itself
# Slopes of a tail beside normal scores: a uniform's is 0.074, a Gaussian's 1, a Laplace's 2.
BOUNDED, HEAVY = 0.085, 2.0


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, or in the single one of an array; NaN where a cell is blank.
    """

    names: tuple[str, ...]
    rows: np.ndarray

    @property
    def complete(self) -> "Table":
        """What can be learned from: rows without blanks, of columns that vary; prints what is left out.

        Raises ValueError if nothing is left.
        """
        blank = np.isnan(self.rows)
        whole = ~blank[:, ~blank.all(0)].any(1)
        rows, names = self.rows[whole], np.array(self.names)
        if len(rows) < 10:
            raise ValueError(
                f"{len(rows)} of {len(whole)} examples have no blanks; at least 10 are needed, better 1,000"
            )
        varied = rows.max(0, initial=-np.inf) > rows.min(0, initial=np.inf)
        if not varied.any():
            raise ValueError(f"no column of numbers varies in the {len(rows):,} rows without blanks; one must")
        if len(rows) < len(whole):
            hardware.say(f"{len(whole) - len(rows):,} of {len(whole):,} rows have blanks, and are left out")
        if not varied.all():
            hardware.say(f"columns that do not vary are left out: {', '.join(names[~varied])}")
        return Table(tuple(names[varied].tolist()), rows[:, varied])

    def matched(self, names: Sequence[str]) -> "Table":
        """The same rows by the columns ``names``, in their order.  Raises ValueError if one is missing."""
        if missing := [name for name in names if name not in self.names]:
            raise ValueError(f"there is no column of numbers {', '.join(missing)}; the run has {', '.join(names)}")
        if others := [name for name in self.names if name not in names]:
            hardware.say(f"columns that the run does not know are left out: {', '.join(others)}")
        return Table(tuple(names), self.rows[:, [self.names.index(name) for name in names]])


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is mapped, by "".

    Raises ValueError if they cannot be read, or hold Python objects.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise whatever they like
        raise ValueError(f"{path} cannot be read as arrays ({one_line(error)})") from error


def is_table(name: str) -> bool:
    """Whether a file of this name is a table: by its suffix, or because it is one array with two axes."""
    path = Path(name)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return [array.ndim for array in arrays(path).values()] == [2]
    return path.suffix.lower() in (*DELIMITERS, ".parquet")


def read_table(name: str | Path) -> Table:
    """The columns of numbers in a .csv, .tsv, .parquet, .npy or .npz; those of an array are called 0, 1, ….

    Raises ValueError if it cannot be read, and as ``table_of``.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if suffix in (".npy", ".npz"):
        return table_of(next(iter(arrays(path).values())), str(path))
    from pyarrow import csv, parquet

    try:
        if suffix == ".parquet":
            frame = parquet.read_table(path).to_pandas()
        else:
            # In one block, because a column has the type of its first.
            block = csv.ReadOptions(block_size=min(max(1, path.stat().st_size), 2**31 - 1))
            blanks = csv.ConvertOptions(strings_can_be_null=True)
            frame = csv.read_csv(path, block, csv.ParseOptions(delimiter=DELIMITERS[suffix]), blanks).to_pandas()
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as a table ({one_line(error)})") from error
    return table_of(frame, str(path))


def table_of(data: Any, place: str = "the table") -> Table:
    """The columns of numbers in a DataFrame, or in an array (n, d); ``place``: what errors call it.

    Raises ValueError for columns of one name, a file without names, infinite numbers, and if there is no such column.
    """
    if hasattr(data, "columns"):
        names, rows = columns_of(data, place)
    else:
        rows = np.asarray(data)
        if rows.ndim != 2 or rows.dtype.kind not in "buif":
            raise ValueError(f"{place} has shape {rows.shape} of {rows.dtype}; numbers (rows, columns) are needed")
        names = [str(i) for i in range(rows.shape[1])]
        rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    if (infinite := np.isinf(rows).any(0)).any():
        listed = ", ".join(np.array(names)[infinite])
        raise ValueError(f"{place} has infinite numbers in {listed}; leave blank what is not known")
    return Table(tuple(names), rows)


def columns_of(data: Any, place: str) -> tuple[list[str], Float64[np.ndarray, "n d"]]:
    """The names and the numbers of the columns of numbers in a DataFrame, as ``table_of``."""
    names = [str(name) for name in data.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"{place} has columns {', '.join(names)}; give each a name of its own")
    if names != [str(i) for i in range(len(names))] and all(
        re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", name) for name in names
    ):
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; its first line must name the columns")
    numeric = [data[key].dtype.kind in "buif" or bool(data[key].isna().all()) for key in data.columns]
    others = [name for name, known in zip(names, numeric, strict=True) if not known]
    if others == names:
        raise ValueError(f"{place} has no column of numbers, but {', '.join(names) or 'none at all'}")
    if others:
        hardware.say(f"columns of something else than numbers are left out: {', '.join(others)}")
    numbers = data.loc[:, numeric].to_numpy(float, na_value=np.nan)
    return [name for name in names if name not in others], numbers


def write_table(path: Path, names: Sequence[str], rows: Float64[np.ndarray, "n d"]) -> None:
    """Write rows into a .csv or .tsv: whole columns of whole numbers as integers, NaN as a blank."""
    import pandas

    frame = pandas.DataFrame(rows, columns=[*names]).convert_dtypes()
    with atomic(path) as temporary:
        frame.to_csv(temporary, sep=DELIMITERS[path.suffix], index=False)


@dataclass(frozen=True)
class Units:
    """What the user's numbers x are to the model, which sees z: column by column, t = (x − shift)/scale, and z = f(t).

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.  Without what follows, z is t.
    ``log``: of which columns the logarithm is taken first.
    ``cells``: which take single values, a cell around each: 0 for none, INTEGERS, or a few that are LISTED.
    ``values``: all of the LISTED, in their order; of INTEGERS the least that there can be.
    ``knots``: t and z between which f runs straight; the identity where none is needed.
    """

    shift: Float[Tensor, "*d"]
    scale: Float[Tensor, "*d"]
    log: Bool[Tensor, "..."] = field(default_factory=lambda: torch.tensor(False))
    cells: Int64[Tensor, "..."] = field(default_factory=lambda: torch.tensor(0))
    values: Float64[Tensor, "_ v"] = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.float64))
    knots: Float64[Tensor, "2 _ k"] = field(default_factory=lambda: torch.zeros(2, 1, 0, dtype=torch.float64))

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
        if len(x) < 100:  # tails and cells are not to be told from chance
            return cls(shift.to(x), scale.to(x))
        parts = zip(*map(column_units, exact.numpy().T), strict=True)
        shift, scale, log, cells, values, knots = (torch.from_numpy(np.stack(part)) for part in parts)
        return cls(shift.to(x), scale.to(x), log, cells, values, knots.transpose(0, 1))

    @property
    def straight(self) -> Bool[Tensor, "*d"]:
        """Which columns are shifted and scaled alone."""
        return (~self.log & (self.cells == 0) & (self.knots[0] == self.knots[1]).all(1)).expand(self.shift.shape)

    def describe(self, names: Sequence[str]) -> tuple[str, ...]:
        """What is done to which columns, a line each."""
        bent = (self.knots[0] != self.knots[1]).any(1)
        kinds = ("logarithm", self.log), ("whole numbers", self.cells == INTEGERS), ("few values", self.cells == LISTED)
        parts = [(kind, [names[i] for i in where.nonzero()]) for kind, where in (*kinds, ("normal scores", bent))]
        return tuple(f"{kind}: {', '.join(columns)}" for kind, columns in parts if columns)

    def check(self, x: Float[Tensor, "b *d"], names: Sequence[str]) -> None:
        """Raises ValueError for numbers that columns cannot have, as no sample would; NaN may stand for a blank."""
        exact = x.cpu().double()
        back = self.restore(self.standardise(exact))
        for row, column in (~torch.isclose(back, exact) & ~exact.isnan()).nonzero().tolist()[:1]:
            raise ValueError(
                f"column {names[column]} cannot be {x[row, column]:g} (row {row + 1}), to judge by training"
            )

    def reals(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float64[Tensor, "b *d"]:
        """The user's numbers, or their logarithms: anywhere in their cells, or in the middle of them."""
        v = x.detach().cpu().double()
        place = 0.5 if generator is None else torch.rand(v.shape, generator=generator, device=generator.device).to(v)
        listed = (self.values < v[..., None]).sum(-1) + place
        v = torch.where(self.cells == INTEGERS, v + place - 0.5, torch.where(self.cells == LISTED, listed, v))
        return torch.where(self.log, v.log(), v)

    def standardise(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them, in the precision of ``x``.

        ``generator``: draws where in its cell a value is; by default it is in the middle.
        """
        return bend((self.reals(x, generator) - self.shift) / self.scale, *self.knots)[0].to(x)

    def log_volume(self, x: Float[Tensor, "b *d"]) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, of whole numbers and few values for cells of volume 1."""
        v = self.reals(x)
        slopes = bend((v - self.shift) / self.scale, *self.knots)[1]
        return (slopes.log() - self.scale.double().log() - torch.where(self.log, v, 0.0)).flatten(1).sum(1)

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples as the user knows them, in double precision if the user's were."""
        v = self.shift + self.scale * bend(z.detach().cpu().double(), *self.knots.flip(0))[0]
        v = torch.where(self.log, v.exp(), v)
        index = v.nan_to_num().floor().clamp(0, self.values.shape[1] - 1).long()[..., None]
        listed = self.values.expand(*v.shape, -1).gather(-1, index)[..., 0]
        v = torch.where(self.cells == LISTED, listed, v)
        v = torch.where(self.cells == INTEGERS, v.round().maximum(self.values[:, 0]), v)
        return v.to(z.device, z.dtype if z.device.type == "mps" else torch.promote_types(z.dtype, self.shift.dtype))


def column_units(x: Float64[np.ndarray, "n"]) -> tuple[np.ndarray, ...]:
    """Shift, scale, logarithm, cells, values and knots of one column, as ``Units`` has them."""
    (distinct, counts), place = np.unique(x, return_counts=True), np.random.default_rng(0).random(len(x))
    cells, values, v = 0, np.zeros(FEW), x
    if len(distinct) <= FEW and counts.min() >= 5:  # a rarer one may be missing among the rows to train on
        cells, values, v = LISTED, distinct, np.searchsorted(distinct, x) + place
    elif (x == x.round()).all():
        cells, values, v = INTEGERS, np.array([0.0 if distinct[0] >= 0 else -1e18]), x + place - 0.5
    log = cells == 0 and x.min() > 0 and np.log(v.std() / np.log(v).std()) - np.log(v).mean() > LOG_GAIN
    v = np.log(v) if log else v
    shift, scale = v.mean(), v.std(ddof=1)
    knots = normal_scores((v - shift) / scale, needed=cells == LISTED)
    values = np.pad(values, (0, FEW - len(values)), mode="edge")
    return np.asarray(shift), np.asarray(scale), np.asarray(log), np.asarray(cells), values, knots


def normal_scores(t: Float64[np.ndarray, "n"], *, needed: bool) -> Float64[np.ndarray, "2 k"]:
    """The knots, t and z, of what makes ``t`` standard normal; of the identity unless an end of t is unlike that.

    At equal steps in z, between the quantiles that five values lie beyond.  ``needed``: in any case.
    """
    from scipy.special import ndtr, ndtri  # here, because it takes as long as a quarter of torch

    count, top, end = min(33, len(t) // 20), -ndtri(5 / len(t)), min(3.0, -ndtri(2 / len(t)))
    tails = np.diff(np.quantile(t, ndtr([-end, 1 - end, end - 1, end])))[[0, 2]]
    z = np.linspace(-top, top, count)
    places, index = np.unique(np.quantile(t, ndtr(z)), return_inverse=True)
    usual = not needed and (tails > BOUNDED).all() and (tails < HEAVY).all()
    if usual or len(places) == 1:
        return np.stack([z, z])
    middles = np.bincount(index, z) / np.bincount(index)  # equal quantiles are one knot
    z = np.linspace(middles[0], middles[-1], count)
    return np.stack([np.interp(z, middles, places), z])


def bend(
    x: Float64[Tensor, "*b d"], start: Float64[Tensor, "_ k"], end: Float64[Tensor, "_ k"]
) -> tuple[Float64[Tensor, "*b d"], Float64[Tensor, "*b d"]]:
    """Values and slopes of the lines that lead from knot to knot, ``start`` to ``end``, and on beyond the last."""
    if not start.numel():
        return x, torch.ones_like(x)
    right = torch.searchsorted(start[:, 1:-1].contiguous(), x.T.contiguous()) + 1
    (x0, x1), (y0, y1) = ((knots.gather(1, right - 1), knots.gather(1, right)) for knots in (start, end))
    slope = (y1 - y0) / (x1 - x0)
    return (y0 + slope * (x.T - x0)).T, slope.T
