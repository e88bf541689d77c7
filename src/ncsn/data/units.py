"""What the numbers of a user are to the model: of images a depth, of tables and signals units; both ways."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

FEW = 20  # values: a column of no more takes these alone
INTEGERS, LISTED = 1, 2  # kinds of cells: around whole numbers; of a few values, one after the other
LOG_GAIN = 0.1  # nats a value by which the logarithm must be nearer to a Gaussian than the column itself
# Slopes of a tail beside normal scores: a uniform's is 0.074, a Gaussian's 1, a Laplace's 2.
BOUNDED, HEAVY = 0.085, 2.0


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
