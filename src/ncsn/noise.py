"""Noise levels: the ladders that samplers descend, and the proposals that training draws from.

A noise level σ is a standard deviation in the units of the data.  NCSN uses a geometric ladder for both (Song & Ermon
2019, section 4.1); EDM descends a ladder that is geometric at its top only, and draws ln σ from a normal distribution
(Karras et al. 2022, equation 5 and table 1).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.validation import LARGEST, as_floats, check_floats, real, whole

MAX_LOG_SIGMA = 100  # beyond every noise level


# Ladders, which samplers descend.


@dataclass(frozen=True)
class Ladder:
    """Descending noise levels; as a proposal, each is equally likely.

    ``sigma_max`` ≥ ``sigma_min`` > 0 in the units of the data; ``levels`` ≥ 1 (a single level is σ_min).
    Raises ValueError outside of these ranges.
    """

    sigma_max: float
    sigma_min: float
    levels: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range(self.sigma_max, self.sigma_min, self.levels)

    def sigmas(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """All noise levels, descending from σ_max to σ_min."""
        raise NotImplementedError

    def equal_steps(self, top: float, bottom: float) -> Float[Tensor, "levels"]:
        """Evenly spaced numbers from ``top`` to ``bottom``, one for each level, in double precision."""
        top = bottom if self.levels == 1 else top
        return torch.linspace(top, bottom, self.levels, dtype=torch.float64, device="cpu")

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` levels of the ladder, each equally likely."""
        levels = torch.randint(self.levels, (whole("n", n, 1),), generator=generator, device=device_of(generator))
        return self.sigmas(device=levels.device)[levels]


class Geometric(Ladder):
    """A geometric ladder: σ_i/σ_{i+1} is constant (Song & Ermon 2019, section 4.1).

    ``sigma_max``: the largest noise level, in the units of the data.
    ``sigma_min``: the smallest one, > 0 and at most ``sigma_max``.
    ``levels``: the number of levels, at least 1; a single level is ``sigma_min``.
    Raises ValueError outside of these ranges.

    >>> ncsn.Geometric(sigma_max=10, sigma_min=0.1, levels=3).sigmas()
    tensor([10.0000,  1.0000,  0.1000])
    """

    def sigmas(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """All noise levels, descending from σ_max to σ_min.

        ``device``: where the tensor is.
        """
        exponents = self.equal_steps(math.log(self.sigma_max), math.log(self.sigma_min))
        return exponents.exp().float().to(device)


class Karras(Ladder):
    """A ladder with equal steps of σ^(1/7): finer at the top and coarser at the bottom than a constant ratio.

    Karras et al. 2022, equation 5, with their ρ = 7.

    ``sigma_max``: the largest noise level, in the units of the data.
    ``sigma_min``: the smallest one, > 0 and at most ``sigma_max``.
    ``levels``: the number of levels, at least 1; a single level is ``sigma_min``.
    Raises ValueError outside of these ranges.

    >>> ncsn.Karras(sigma_max=10, sigma_min=0.1, levels=4).sigmas()
    tensor([10.0000,  2.9341,  0.6629,  0.1000])
    """

    def sigmas(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """All noise levels, descending from σ_max to σ_min.

        ``device``: where the tensor is.
        """
        roots = self.equal_steps(self.sigma_max ** (1 / 7), self.sigma_min ** (1 / 7))
        return (roots**7).float().to(device)


# Proposals, which training draws from.


@runtime_checkable
class Proposal(Protocol):
    """A distribution of noise levels for training."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` noise levels, each with the proposal's distribution, on the generator's device."""


@dataclass(frozen=True)
class LogNormal:
    """Noise levels for training: ln σ ~ N(mean, std²), clipped to a range (Karras et al. 2022, table 1).

    ``mean``: of ln σ.
    ``std``: of ln σ.
    ``sigma_max``: the largest noise level, in the units of the data.
    ``sigma_min``: the smallest one, > 0 and at most ``sigma_max``.
    Raises ValueError outside of these ranges.
    """

    mean: float
    std: float
    sigma_max: float
    sigma_min: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        if max(abs(real("mean", self.mean)), real("std", self.std, 0)) > MAX_LOG_SIGMA:
            raise ValueError(
                f"mean, std are {self.mean:g}, {self.std:g}; expected at most ±{MAX_LOG_SIGMA} for ln sigma"
            )
        check_range(self.sigma_max, self.sigma_min)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` noise levels in random order, one in each n-th of the distribution.

        Each of them has the full distribution, and the mean loss of a batch has less variance than with independent
        draws (stratified sampling; for diffusion models Kingma et al. 2021, arXiv:2107.00630, appendix I).  Levels
        outside of the range are clipped to it.

        ``generator``: draws them, on its device; by default torch's own, on the CPU.
        """
        quantiles = draw_stratified(n, generator)
        normal: Tensor  # infinite at the quantiles 0 and 1, where σ is clipped
        if quantiles.device.type == "mps":  # Apple's GPUs have no ndtri, and using the CPU would synchronise
            normal = math.sqrt(2) * torch.erfinv(2 * quantiles - 1)
        else:
            normal = torch.special.ndtri(quantiles)
        return (self.mean + self.std * normal).exp().clamp(self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class LogUniform:
    """Noise levels for training: ln σ is uniform, as in a geometric ladder with infinitely many levels.

    ``sigma_max``: the largest noise level, in the units of the data.
    ``sigma_min``: the smallest one, > 0 and at most ``sigma_max``.
    Raises ValueError outside of these ranges.
    """

    sigma_max: float
    sigma_min: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range(self.sigma_max, self.sigma_min)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` noise levels in random order, one in each n-th of the range (see ``LogNormal.sample``).

        ``generator``: draws them, on its device; by default torch's own, on the CPU.
        """
        quantiles = draw_stratified(n, generator)
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** quantiles


# NCSNv2's techniques: noise levels and Langevin steps that suit a dataset.


def largest_distance(data: Float[Tensor, "n *d"], *, limit: int = 10_000) -> float:
    """The largest distance between two examples: NCSNv2's technique 1 for σ_max, so that noise joins all modes.

    Song & Ermon 2020 (arXiv:2006.09011), section 3.1.  Over the first ``limit`` examples, so a lower bound for more.
    """
    flat = data[:limit, None].flatten(1).float()
    return max(float(torch.cdist(chunk, flat).max()) for chunk in flat.split(500))  # type: ignore[no-untyped-call]


def level_ratio(dimension: int) -> float:
    """The ratio γ of neighbouring noise levels at which samples of one are likely at the next: NCSNv2's technique 2.

    Solves Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ) = ½: Song & Ermon 2020, section 3.2.  About 1.082 for D = 784.
    The criterion is meant for many dimensions: below five it holds for every γ, and at 18 it gives 2, the largest value
    that is returned.
    """
    from scipy.optimize import brentq  # here, because it takes as long as a fifth of torch
    from scipy.special import ndtr

    def excess(ratio: float) -> float:
        shift = math.sqrt(2 * dimension) * (ratio - 1)
        return float(ndtr(shift + 3 * ratio) - ndtr(shift - 3 * ratio)) - 0.5

    return float(brentq(excess, 1.0, 2.0)) if excess(2.0) < 0 else 2.0


def langevin_eps(ratio: float, sigma_min: float, steps: int) -> float:
    """The ε of annealed Langevin dynamics with ``steps`` steps per level, by NCSNv2's technique 4: α = ε at σ_min.

    After a level's steps the samples should have that level's noise.  Song & Ermon 2020, equation 5, takes Gaussian
    noise from γσ to σ and brings its variance over σ², which is (1 − ε/σ_L²)^{2T}·(γ² − q) + q with
    q = 2ε/(σ_L² − σ_L²(1 − ε/σ_L²)²), as close to 1 as possible.  Their ε is half of ours.
    """
    from scipy.optimize import minimize_scalar

    def variance(share: float) -> float:
        """The variance after a level's steps, over σ²; ``share`` is ε/σ_L²."""
        q = 2 / (2 - share)
        return (1 - share) ** (2 * steps) * (ratio**2 - q) + q

    best = minimize_scalar(lambda share: abs(variance(share) - 1), bounds=(1e-6, 1.0), method="bounded")
    return 2 * float(best.x) * sigma_min**2


class Suggestion(NamedTuple):
    """Noise levels and Langevin steps for a dataset, with the reasons.

    ``noise``: a geometric ladder for training and sampling.
    ``steps``: Langevin steps on each level.
    ``eps``: the step size α on the smallest level, for ``annealed_langevin``.
    ``explanation``: where each number comes from, one line each.
    """

    noise: Geometric
    steps: int
    eps: float
    explanation: str


def suggest_noise(data: Float[Tensor, "n *d"], *, sigma_min: float | None = None, steps: int = 5) -> Suggestion:
    """Suggest noise levels and Langevin steps for a dataset, by techniques 1, 2 and 4 of Song & Ermon 2020.

    Returns ``noise``, a geometric ladder; ``steps`` and ``eps`` for ``annealed_langevin``; and ``explanation``, a line
    about where each number comes from.

    ``data``: examples in their own units, (n, *d).
    ``sigma_min``: a negligible noise level; by default a hundredth of the largest extent of one coordinate, which is
    0.01 for pixels in [0, 1].
    ``steps``: Langevin steps on each level.
    Raises ValueError for fewer than two different examples, for numbers that are not finite, for ``steps`` < 1, and for
    a ``sigma_min`` out of range.

    >>> data = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    >>> suggestion = ncsn.suggest_noise(data)
    >>> suggestion.noise.levels, suggestion.steps
    (9, 5)
    """
    data = as_floats("data", data)
    sigma_max = largest_distance(data) if data.ndim else 0.0
    if not 0 < sigma_max < math.inf:
        raise ValueError(f"data has shape {tuple(data.shape)}; expected at least two different examples")
    if sigma_min is None:
        sigma_min = float((data.amax(0) - data.amin(0)).max()) / 100
    check_range(sigma_max, sigma_min)
    steps = whole("steps", steps, 1)
    dimension = data.shape[1:].numel()
    ratio = level_ratio(dimension)
    noise = Geometric(sigma_max, sigma_min, 1 + math.ceil(math.log(sigma_max / sigma_min) / math.log(ratio)))
    eps = langevin_eps(ratio, sigma_min, steps)
    explanation = (
        f"sigma_max = {sigma_max:.3g}: the largest distance between two examples, so that noise joins all modes\n"
        f"sigma_min = {sigma_min:.3g}: noise that is negligible\n"
        f"levels = {noise.levels}: a ratio of {ratio:.4f}; samples of one are likely at the next in {dimension}-D\n"
        f"steps = {steps}, eps = {eps:.3g}: after {steps} Langevin steps a level has the right variance"
    )
    return Suggestion(noise, steps, eps, explanation)


# Random numbers and checks that the other files share.


def check_range(sigma_max: float, sigma_min: float, levels: int = 1) -> None:
    """Raises ValueError unless 10¹⁸ ≥ sigma_max ≥ sigma_min > 0 and levels ≥ 1, and for several equal levels."""
    if not LARGEST >= real("sigma_max", sigma_max) >= real("sigma_min", sigma_min, above=0):
        allowed = f"expected {LARGEST:g} >= sigma_max >= sigma_min > 0"
        raise ValueError(f"sigma_max, sigma_min are {sigma_max:g}, {sigma_min:g}; {allowed}")
    if whole("levels", levels, 1) > 1 and sigma_max == sigma_min:
        raise ValueError(f"sigma_max and sigma_min are {sigma_max:g}, so {levels} levels are equal; expected 1 level")


def device_of(generator: torch.Generator | None) -> torch.device:
    """The device of a generator; None is torch's global generator, on the CPU.  Raises ValueError for anything else."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}; expected a torch.Generator, such as torch.manual_seed(0)")
    return torch.device("cpu") if generator is None else generator.device


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """Raises ValueError unless the generator draws on ``device``."""
    if generator is not None and device_of(generator).type != device.type:
        expected = f"torch.Generator('{device.type}')"
        raise ValueError(f"the generator draws on {generator.device}, the examples are on {device}; pass {expected}")


def noise_like(x: Float[Tensor, "b *d"], generator: torch.Generator | None) -> Float[Tensor, "b *d"]:
    """Standard normal numbers, of the shape and type of ``x``.

    Raises ValueError for a generator of another device, and if ``x`` has no floating-point numbers.
    """
    check_floats("x", x)
    check_generator(generator, x.device)
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def signs_like(x: Float[Tensor, "b *d"], n: int, generator: torch.Generator | None) -> Float[Tensor, "n b *d"]:
    """``n`` times random signs, −1 or 1, of the shape and type of ``x``."""
    return (2 * torch.randint(2, (n, *x.shape), generator=generator, device=x.device) - 1).to(x.dtype)


def lengths(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b"]:
    """The Euclidean length of each example."""
    return torch.linalg.vector_norm(x[:, None].flatten(1), dim=1)  # type: ignore[no-any-return]


def draw_stratified(n: int, generator: torch.Generator | None) -> Float[Tensor, "n"]:
    """Uniform numbers in [0, 1), one in each of ``n`` equal strata, in random order."""
    strata = torch.randperm(whole("n", n, 1), generator=generator, device=device_of(generator))
    return (strata + torch.rand(n, generator=generator, device=strata.device)) / n
