"""What the numbers of a user are to the model: of images a depth, of tables and signals units; both ways."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

FEW = 20  # values: a column of no more takes these alone
# Kinds of cells: around whole numbers; of a few values, one after the other; of a few beside a continuous part.
INTEGERS, LISTED, ATOMS = 1, 2, 3
PLAIN = 0, np.zeros(1), -1, False  # the kind of a column without cells, see ``kind_of``
ATOM = 0.05  # of the rows: a value that more than so many have is no chance
NONE = sys.float_info.max  # of bounds, and of atoms that are fewer than another column's: weights must be finite
FAR = 30.0  # deviations: what lies beyond says nothing that training has seen
LOG_GAIN = 0.1  # nats a value by which the logarithm must be nearer to a Gaussian than the column itself
# Slopes of a tail beside normal scores: a uniform's are below 1.15 of its own, a Gaussian's 1, a Laplace's 2.
BOUNDED, HEAVY = 1.15, 2.0


def dequantize(pixels: UInt8[Tensor, "*d"], *, generator: torch.Generator | None = None) -> Float[Tensor, "*d"]:
    """Bytes to reals in [0, 1): (pixel + u)/256 with u ~ U[0, 1), so that a density can exist.

    Song & Ermon 2020 (arXiv:2006.09011), appendix B; inverted exactly by ``quantize``.
    """
    noise = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    # 1 − 2⁻¹⁶ is the largest u for which 255 + u is not rounded up to 256 in float32.
    return (pixels + noise.clamp_max(1 - 2**-16)) / 256


def centres(pixels: UInt8[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Bytes to the middle of what ``dequantize`` makes of them: (pixel + ½)/256."""
    return pixels.float().add_(0.5).div_(256)


def reals(pixels: Shaped[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Bytes as ``centres``; what is real already, as it is."""
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def quantize(x: Float[Tensor, "*d"]) -> UInt8[Tensor, "*d"]:
    """Reals to bytes: ⌊256 x⌋, clipped to 0…255; the inverse of ``dequantize`` and of ``centres``."""
    return (x * 256).floor().clamp(0, 255).to(torch.uint8)


DTYPES = {np.dtype(code).name for code in "bBhHiIlLqQefdg"}
"""Numpy's names of real numbers."""


@dataclass(frozen=True)
class Depth:
    """What the numbers in the user's files are: a value v there is (v − low)/(high − low) here, in [0, 1].

    ``dtype``: the files', by numpy's name.  ``low``, ``high``: what 0 and 1 stand for, in the files' units.
    Raises ValueError if ``dtype`` is none of numbers, or the range is none.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 256.0

    def __post_init__(self) -> None:
        """Refuse what no image's numbers are."""
        if self.dtype not in DTYPES or not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(f"depth is {self.dtype!r} from {self.low} to {self.high}; a finite range is needed")

    def restored(self, x: Float[Tensor, "*d"]) -> Shaped[np.ndarray, "*d"]:
        """Reals as the files' numbers: integers rounded, and clipped to [low, high); floats neither."""
        if self == BYTES:
            return quantize(x).cpu().numpy()
        span = self.high - self.low
        values = x.detach().cpu().double().numpy() * span + self.low
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype)
        # To the nearest of the levels that the data can have; the largest int64 is no float64.
        return np.round(values).clip(max(self.low, -(2**62)), min(self.high - 1, 2**62)).astype(dtype)


BYTES = Depth()
"""The depth of most images."""


@dataclass(frozen=True)
class Units:
    """What the user's numbers x are to the model, which sees z: column by column, t = (x − shift)/scale, and z = f(t).

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.  Without what follows, z is t.
    ``log``: of which columns the logarithm is taken first.
    ``cells``: which take single values, a cell around each: 0 for none, INTEGERS, a few that are LISTED, or a few ATOMS
    beside a continuous part, where each takes the room of one ``scale``.
    ``values``: all of the LISTED, or the ATOMS, in their order; of INTEGERS the least that there can be.
    ``knots``: t and z between which f runs straight; the identity where none is needed.
    ``decimals``: how many a column has, which samples keep; 0 and −1 leave numbers as they are.
    ``bounds``: the least and the largest that samples can be.
    """

    shift: Float[Tensor, "*d"]
    scale: Float[Tensor, "*d"]
    log: Bool[Tensor, "..."] = field(default_factory=lambda: torch.tensor(False))
    cells: Int64[Tensor, "..."] = field(default_factory=lambda: torch.tensor(0))
    values: Float64[Tensor, "_ v"] = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.float64))
    knots: Float64[Tensor, "2 _ k"] = field(default_factory=lambda: torch.zeros(2, 1, 0, dtype=torch.float64))
    decimals: Int64[Tensor, "..."] = field(default_factory=lambda: torch.tensor(-1))
    bounds: Float64[Tensor, "2 _"] = field(default_factory=lambda: torch.tensor([[-NONE], [NONE]], dtype=torch.float64))

    @classmethod
    def of(cls, x: Float[Tensor, "n d"], categories: Sequence[int] = ()) -> "Units":
        """Those in which every column of ``x`` has mean 0 and standard deviation 1, or normal scores.

        From twenty numbers on, columns of whole numbers, of few values, or with values that many rows share have cells;
        other positive ones whose logarithm is nearer to a Gaussian have that; and what is bounded, heavy-tailed or more
        than six deviations away then becomes its normal scores.  NaN is a blank, which says nothing.
        ``categories``: columns of 0, 1, …, which are listed however many they are.
        Raises ValueError if a column is constant, naming it.
        """
        known = [column[~column.isnan()][:, None] for column in x.T.cpu()]
        if constant := [str(i) for i, column in enumerate(known) if bool(steady(column).any())]:
            raise ValueError(f"column {', '.join(constant)} is constant, so it has no density; leave it out")
        parts = [column_units(column, category=i in categories) for i, column in enumerate(known)]
        values, knots = [part.values for part in parts], [part.knots for part in parts]
        return cls(
            shift=torch.cat([part.shift for part in parts]).to(x.dtype),
            scale=torch.cat([part.scale for part in parts]).to(x.dtype),
            log=torch.cat([part.log for part in parts]),
            cells=torch.cat([part.cells for part in parts]),
            values=torch.cat([longer(each, max(v.shape[1] for v in values), 0) for each in values]),
            knots=torch.cat([longer(each, max(k.shape[2] for k in knots), 1) for each in knots], 1),
            decimals=torch.cat([part.decimals for part in parts]),
            bounds=torch.cat([part.bounds for part in parts], 1),
        )

    @property
    def straight(self) -> Bool[Tensor, "*d"]:
        """Which columns are shifted and scaled alone."""
        return (~self.log & (self.cells == 0) & (self.knots[0] == self.knots[1]).all(1)).expand(self.shift.shape)

    @property
    def binary(self) -> Bool[Tensor, "*d"]:
        """Which columns have two values alone."""
        return ((self.cells == LISTED) & ((self.values.diff(dim=1) > 0).sum(1) == 1)).expand(self.shift.shape)

    def describe(self, names: Sequence[str]) -> tuple[str, ...]:
        """What is done to which columns, a line each."""
        bent = (self.knots[0] != self.knots[1]).any(1)
        cells = {"whole numbers": INTEGERS, "few values": LISTED, "values of their own": ATOMS}
        kinds = {"logarithm": self.log} | {name: self.cells == kind for name, kind in cells.items()}
        parts = [
            (kind, [names[i] for i in where.nonzero()]) for kind, where in (kinds | {"normal scores": bent}).items()
        ]
        return tuple(f"{kind}: {', '.join(columns)}" for kind, columns in parts if columns)

    def possible(self, x: Float[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Which numbers columns can have, to judge by training; NaN may stand for a blank.

        What a sample cannot be, between cells or more than 30 deviations away, is none; the ends of a column may be
        passed, as held-out rows do, and so may its decimals.
        """
        exact = x.detach().cpu().double()
        z = self.standardise(exact)
        back, rounding = self.reached(z), torch.where(self.decimals > 0, 0.51 * 10.0 ** -self.decimals.double(), 0.0)
        same = torch.isclose(back, exact) | ((back - exact).abs() <= rounding)
        return exact.isnan() | (same & (z.abs() <= FAR))

    def reals(self, x: Float[Tensor, "b *d"], place: Float[Tensor, "b *d"] | float) -> Float64[Tensor, "b *d"]:
        """The user's numbers, or their logarithms; ``place``: where in their cells, 0 to 1."""
        v = x.detach().cpu().double()
        below, atom = (self.values < v[..., None]).sum(-1), self.atom(v)
        step = torch.where(
            self.cells == INTEGERS, 1.0, torch.where(self.decimals > 0, 10.0 ** -self.decimals.double(), 0)
        )
        beside = v + self.scale.double() * (below + place * atom)
        around = torch.where(self.cells == ATOMS, beside, v + step * (place - 0.5))
        v = torch.where(self.cells == LISTED, below + place, around)
        return torch.where(self.log, v.log(), v)

    def atom(self, v: Float64[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Which numbers are an atom of their columns."""
        return (self.values == v[..., None]).any(-1) & (self.cells == ATOMS)

    def standardise(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them, in the precision of ``x``.

        ``generator``: draws where in its cell a value is; by default it is in the middle.
        """
        return bend((self.reals(x, anywhere(x, generator)) - self.shift) / self.scale, *self.knots)[0].to(x)

    def log_volume(self, x: Float[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx|, of whole numbers, few values and atoms for cells of volume 1.

        So p(x) of these is their probability, if the density is averaged over the cell; in the middle alone it is so
        but for the curvature within.
        ``generator``: as for ``standardise``; in the same state it draws the same places.
        """
        v = self.reals(x, anywhere(x, generator))
        slopes = bend((v - self.shift) / self.scale, *self.knots)[1]
        width = torch.where(self.atom(x.detach().cpu().double()), 1.0, self.scale.double())
        return (slopes.log() - width.log() - torch.where(self.log, v, 0.0)).flatten(1).sum(1)

    def reached(self, z: Float[Tensor, "b *d"]) -> Float64[Tensor, "b *d"]:
        """The user's numbers of the model's, whatever samples can be."""
        v = self.shift + self.scale * bend(z.detach().cpu().double(), *self.knots.flip(0))[0]
        v = torch.where(self.log, v.exp(), v).double()
        values = self.values.expand(*v.shape, -1)
        listed = values.gather(-1, v.nan_to_num().floor().clamp(0, values.shape[-1] - 1).long()[..., None])[..., 0]
        rooms = self.scale.double()[..., None] * torch.arange(values.shape[-1], device="cpu")
        begun = ((values + rooms <= v[..., None]) & (self.cells == ATOMS)[..., None]).sum(-1)
        atom = values.gather(-1, (begun - 1).clamp(min=0)[..., None])[..., 0]
        v = torch.where(begun > 0, (v - self.scale.double() * begun).maximum(atom), v)
        v = torch.where(self.cells == LISTED, listed, v)
        v = torch.where(self.cells == INTEGERS, v.round().maximum(self.values[:, 0]), v)
        places = 10.0 ** self.decimals.clamp(min=0).double()
        return torch.where(self.decimals > 0, (v * places).round() / places, v)

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples as the user knows them, in double precision if the user's were."""
        v = self.reached(z)
        v = torch.where(v.isfinite(), v.clamp(*self.bounds), v) + 0.0  # no zero has a sign
        return v.to(z.device, z.dtype if z.device.type == "mps" else torch.promote_types(z.dtype, self.shift.dtype))


def anywhere(x: Float[Tensor, "b *d"], generator: torch.Generator | None) -> Float64[Tensor, "b *d"] | float:
    """Random places in cells, 0 to 1; ½ without a generator."""
    if generator is None:
        return 0.5
    return torch.rand(x.shape, generator=generator, device=generator.device).cpu().double()


def steady(x: Float[Tensor, "n d"]) -> Bool[Tensor, "d"]:
    """Which columns have no density: constant, but for the rounding of their numbers."""
    exact = x.cpu().double()
    return ~(exact.std(0) > (1e-15 if x.dtype == torch.float64 else 1e-7) * exact.mean(0).abs())


def longer(x: Float64[Tensor, "*d k"], most: int, steps: int) -> Float64[Tensor, "*d most"]:
    """``x`` with as many numbers along its last axis: the last one again, or ``steps`` beyond it like its last step."""
    more = torch.arange(1, most - x.shape[-1] + 1) * steps
    return torch.cat([x, x[..., -1:] + more * (x[..., -1:] - x[..., -2:-1] if steps else 1)], -1)


def column_units(x: Float[Tensor, "n 1"], *, category: bool) -> Units:
    """Those of one column, by its kind and its normal scores."""
    column, few = x.double().numpy()[:, 0], len(x) < FEW  # then cells are not to be told from chance
    single = x.dtype == torch.float32
    cells, values, decimals, log = PLAIN if few else kind_of(column, single=single, category=category)
    units = Units(
        x.double().mean(0).to(x),
        x.double().std(0).to(x),
        torch.tensor([log]),
        torch.tensor([cells]),
        torch.from_numpy(values)[None],
        torch.tensor([[[-1.0, 1.0]]] * 2, dtype=torch.float64),
        torch.tensor([decimals]),
    )
    if few:
        return units
    share, places = ties(column)
    v, low, high = (units.reals(x, place) for place in (torch.from_numpy(places)[:, None], 0.0, 1.0))
    if cells != ATOMS:  # whose room is the scale
        units = replace(units, shift=v.mean(0).to(x), scale=v.std(0).to(x))
    t, low, high = ((each - units.shift.double()) / units.scale.double() for each in (v, low, high))
    rows = t.numpy()[:, 0], low.numpy()[:, 0], high.numpy()[:, 0]
    knots, closed = normal_scores(*rows, share, every=cells in (LISTED, ATOMS))
    # Signs stay; and what begins within a deviation of zero does not come nearer.
    closed[0] |= 0 <= column.min() < column.std() and (not log or decimals > 0)
    widest = [0.0 if column.min() >= 0 else -NONE, NONE]
    bounds = np.where(closed, [column.min(), column.max()], widest)
    return replace(units, knots=torch.from_numpy(knots)[:, None], bounds=torch.from_numpy(bounds)[:, None])


def kind_of(
    x: Float64[np.ndarray, "n"], *, single: bool, category: bool
) -> tuple[int, Float64[np.ndarray, "v"], int, bool]:
    """Cells, values, decimals and logarithm of one column, as ``Units`` has them; ``single``: of single precision."""
    distinct, counts = np.unique(x, return_counts=True)
    whole = bool((x == x.round()).all() and abs(x).max() < 2**52)
    decimals = next((d for d in range(1, 7) if not whole and on_grid(x, d, single=single)), -1)
    atoms = distinct[counts > max(5, ATOM * len(x))]
    # Of whole numbers others between may be missing among the rows, but of two alone nothing is.
    if category or (whole and len(distinct) > 2 and distinct[-1] - distinct[0] < FEW):
        return LISTED, np.arange(0.0 if category else distinct[0], distinct[-1] + 1), -1, False
    if len(distinct) <= FEW and len(x) >= 5 * len(distinct):  # more may be missing among the rows to train on
        return LISTED, distinct, -1, False
    if whole:
        return INTEGERS, np.array([0.0 if distinct[0] >= 0 else -1e18]), -1, False
    if decimals < 0 and len(atoms):
        return ATOMS, np.append(atoms, NONE), -1, False
    gain = np.log(x.std() / np.log(x).std()) - np.log(x).mean() if distinct[0] > 0 else 0
    return 0, np.zeros(1), decimals, bool(gain > LOG_GAIN)


def on_grid(x: Float64[np.ndarray, "n"], decimals: int, *, single: bool) -> bool:
    """Whether no number has more decimals; those of the last digits of single precision are none."""
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
