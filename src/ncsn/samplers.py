r"""Samplers: functions that turn a score into samples.

Every sampler is an iterator of ``Step(sigma, x)``, so that progress bars, animations and early stopping belong to the
caller: ``*path, last = annealed_langevin(score, x, sigmas, ...)``, and ``last.x`` are the samples.

Langevin steps follow one convention, that of Song & Ermon 2019 (arXiv:1907.05600), algorithm 1:

.. math:: x \leftarrow x + \tfrac{α}{2} s(x, σ) + \sqrt{α}\, z, \qquad z \sim N(0, I).

The official image code writes x + step·s + √(2·step)·z instead: its step is α/2, so its 2e-5 is α = 4e-5 here.

The probability flow of Song et al. 2020 (arXiv:2011.13456, equation 13) is here

.. math:: \frac{dx}{dσ} = -σ\, s(x, σ) = \frac{x - D(x, σ)}{σ}, \qquad D(x, σ) = x + σ^2 s(x, σ),

where D is the mean of the clean data given x (``tweedie``).  Stochastic samplers have the same distribution at every σ;
their fresh noise lets later steps correct the errors of earlier ones.

This file reads from top to bottom: ``descend`` is the loop that all samplers share; then each sampler is its step.

- Langevin dynamics and its descendants: ``langevin``, ``annealed_langevin`` (the paper's), ``consistent_annealed``,
  ``predictor_corrector``.
- The probability flow: ``euler``, ``heun``, and with fresh noise ``edm`` and ``dpm_solver`` (the default).
- ``SAMPLERS``: their names, ladders and defaults; ``Sampling``: how a run is sampled.
"""

import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import Geometric, Karras, Ladder, check_generator, check_range, lengths, noise_like
from ncsn.score import Score, score_at, tweedie
from ncsn.validation import LARGEST, LEAST, MOST_LEVELS, GuideName, LangevinSteps, as_floats, check_ranges, real, whole


class Step(NamedTuple):
    """A state of samples on their way from noise to data.

    ``sigma``: the standard deviation of the remaining noise; 0 at the end, if the sampler denoises.
    ``x``: the samples so far, (b, *d).
    """

    sigma: float
    x: Tensor


class NonFiniteSampleError(FloatingPointError):
    """Samples became NaN or infinite; the message says at which noise level."""


def check_ladder(sigmas: Float[Tensor, "levels"], *, restarts: bool = False) -> Float[Tensor, "levels"]:
    """The noise levels on the CPU, where reading them does not synchronise a GPU.

    Torch accepts scalars from there in any arithmetic.
    Raises ValueError unless they are positive and strictly descending; with ``restarts`` they may rise.
    """
    sigmas = as_floats("sigmas", sigmas, "levels,").cpu()
    steps = sigmas.diff()
    descending = steps != 0 if restarts else steps < 0
    if not bool((sigmas > 0).all() & descending.all()):
        raise ValueError(f"sigmas is {sigmas.tolist()}; expected positive noise levels that descend (euler's may rise)")
    return sigmas


@torch.no_grad()
def descend(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"] | Sequence[float | Tensor],
    step: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    denoise: bool,
) -> Iterator[Step]:
    """The loop of every sampler: ``step(x, sigma, following)`` from each level to the next, then the posterior mean."""
    for sigma, following in pairwise(sigmas):
        x = step(x, sigma, following)
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


# Langevin dynamics and its descendants: random steps along the score, on one noise level or down a ladder of them.


def langevin_step(
    score: Score, x: Tensor, sigma: float | Tensor, step_size: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    """One step x + (α/2)·s(x, σ) + √α·z, where α is ``step_size``."""
    z = noise_like(x, generator)  # before the score, which may draw from the same generator
    return x + step_size / 2 * score_at(score, x, sigma) + step_size**0.5 * z


def langevin(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: float | Float[Tensor, ""],
    *,
    step_size: float,
    steps: int,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Langevin dynamics at one noise level; yields the state after every step.  Song & Ermon 2019, equation 4.

    NFE: ``steps``, and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d).
    ``sigma``: the noise level > 0 on which all steps stay.
    ``step_size``: α > 0.
    ``steps``: the number of steps, at least 1.
    ``denoise``: append the posterior mean x + σ²·s(x, σ) as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a noise level, a step size or a number of steps out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))
    >>> *_, last = ncsn.langevin(score, torch.zeros(1000, 2), 0.1, step_size=0.1, steps=100, generator=g)
    >>> round(last.x.std().item(), 1)
    1.0
    """
    step_size, steps = real("step_size", step_size, above=0), whole("steps", steps, 1)
    real("sigma", sigma, above=0)
    level = sigma.cpu() if isinstance(sigma, Tensor) else sigma  # every state reports it

    def step(x: Tensor, *_: float | Tensor) -> Tensor:
        return langevin_step(score, x, level, step_size, generator)

    return descend(score, x, [level] * (steps + 1), step, denoise=denoise)


def annealed_langevin(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    eps: float,
    steps: int,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Annealed Langevin dynamics: ``steps`` steps on each level of a ladder; yields one state per level.

    Song & Ermon 2019, algorithm 1, with the step size α_i = ε·σ_i²/σ_L².  NFE: levels × steps, and one more for
    ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d); ideally a draw from N(0, σ_1²), or from any distribution as wide.
    ``sigmas``: the noise levels, descending, > 0.
    ``eps``: the step size α on the smallest level, 0 < ε < 4σ_L².  Beyond it the dynamics diverges on a Gaussian, whose
    stationary variance is σ²/(1 − ε/(4σ_L²)).
    ``steps``: Langevin steps on each level, at least 1.
    ``denoise``: append the posterior mean x + σ_L²·s(x, σ_L) as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a ladder, an ε or a number of steps out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> score = ncsn.GaussianMixture(torch.tensor([[-5.0], [5.0]]), weights=torch.tensor([0.2, 0.8]))
    >>> sigmas = ncsn.Geometric(sigma_max=20, sigma_min=0.1, levels=20).sigmas()
    >>> start = 20 * torch.randn(2000, 1, generator=g)
    >>> *_, last = ncsn.annealed_langevin(score, start, sigmas, eps=0.005, steps=50, generator=g)
    >>> round((last.x < 0).float().mean().item(), 1)
    0.2
    """
    sigmas = check_ladder(sigmas)
    eps, steps, limit = real("eps", eps, above=0), whole("steps", steps, 1), 4 * float(sigmas[-1]) ** 2
    if eps >= limit:
        raise ValueError(f"eps is {eps}; expected 0 < eps < 4 sigma_L^2 = {limit:.3g}")

    def level(x: Tensor, _higher: Tensor, sigma: Tensor) -> Tensor:
        # With α ∝ σ², drift and noise have the same ratio on every level: section 4.3.
        step_size = eps * sigma**2 / sigmas[-1] ** 2
        for _ in range(steps):
            x = langevin_step(score, x, sigma, step_size, generator)
        return x

    # The first steps stay on the level where x already is.
    return descend(score, x, torch.cat([sigmas[:1], sigmas]), level, denoise=denoise)


def consistent_annealed(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    eta: float | None = None,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Consistent annealed sampling: go a share ``eta`` of the way to D, then add the noise of the next level.

    x ← x + ησ²·s(x, σ) + β·σ'·z with β² = 1 − ((1−η)/γ)² and γ = σ'/σ.  The noise that is left and the noise that is
    added have variance σ'² together.  Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475), algorithm 2.
    NFE: levels − 1, and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``eta``: 1 − γ ≤ η ≤ 1 at every level; the paper's ε/σ_L².  η = 1 − γ adds no noise (Euler on the probability flow),
    and η = 1 replaces all of it.  By default 1 − γ²: as much fresh noise as ancestral sampling adds.
    ``denoise``: append the posterior mean, without noise, as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a ladder or an η out of range.
    """
    sigmas = check_ladder(sigmas)
    smallest = float((1 - sigmas[1:] / sigmas[:-1]).max()) if len(sigmas) > 1 else 0.0
    if eta is not None and not smallest - 1e-6 <= real("eta", eta) <= 1:
        raise ValueError(f"eta is {eta}; expected 1 - sigma'/sigma <= eta <= 1, from {smallest:.3g} on this ladder")

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        z, share = noise_like(x, generator), 1 - (following / sigma) ** 2 if eta is None else eta
        fresh = (following**2 - ((1 - share) * sigma) ** 2).clamp(min=0).sqrt()
        return x + share * sigma**2 * score_at(score, x, sigma) + fresh * z

    return descend(score, x, sigmas, step, denoise=denoise)


def predictor_corrector(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    snr: float = 0.16,
    corrections: int = 1,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """Reverse diffusion to the next level, then Langevin steps on it whose size follows the score's own.

    Song et al. 2020 (arXiv:2011.13456), algorithms 2 and 4.  Predictor: x + (σ² − σ'²)·s(x, σ) + √(σ² − σ'²)·z, their
    equation 46.  Corrector: x + ε·s(x, σ') + √(2ε)·z with ε = 2(r‖z‖/‖s‖)², norms averaged over the batch; in this
    package's convention α = 2ε.  NFE: (levels − 1)·(1 + corrections), and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``snr``: r > 0, the signal-to-noise ratio of a corrector's step.
    ``corrections``: Langevin steps on each level, at least 0.
    ``denoise``: append the posterior mean, without noise, as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a ladder, an r or a number of corrections out of range.
    """
    sigmas = check_ladder(sigmas)
    snr, corrections = real("snr", snr, above=0), whole("corrections", corrections, 0)

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        z = noise_like(x, generator)
        drop = sigma**2 - following**2
        x = x + drop * score_at(score, x, sigma) + drop.sqrt() * z
        for _ in range(corrections):
            z = noise_like(x, generator)
            s = score_at(score, x, following)
            size = lengths(s).mean()
            # A score of zero defines no step size, so there is no step.
            eps = torch.where(size > 0, 2 * (snr * lengths(z).mean() / size) ** 2, 0.0)
            x = x + eps * s + (2 * eps).sqrt() * z
        return x

    return descend(score, x, sigmas, step, denoise=denoise)


# The probability flow and its stochastic variants.


def add_noise(x: Tensor, sigma: Tensor, higher: Tensor, generator: torch.Generator | None) -> Tensor:
    """``x``, which has noise of level ``sigma``, with fresh noise added up to the ``higher`` level."""
    return x + (higher**2 - sigma**2).sqrt() * noise_like(x, generator)


def euler(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """The probability flow by Euler's method, of order 1 (DDIM in the noise's own time).

    Song et al. 2020, equation 13.  NFE: levels − 1, less one for each rise, and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, > 0, descending except for restarts: where they rise, fresh noise is added, and
    descending again corrects errors of the first descent (Xu et al. 2023, arXiv:2306.14878, algorithm 1).
    ``denoise``: append the posterior mean, without noise, as a last state.
    ``generator``: draws the noise of restarts; by default torch's own.
    Raises ValueError for a ladder out of range.
    """
    sigmas = check_ladder(sigmas, restarts=True)

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        if following > sigma:
            return add_noise(x, sigma, following, generator)
        return x + (sigma - following) * sigma * score_at(score, x, sigma)

    return descend(score, x, sigmas, step, denoise=denoise)


def heun_step(score: Score, x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """One step of Heun's method from noise level ``sigma`` to ``following``: the mean of two slopes."""
    slope = sigma * score_at(score, x, sigma)
    end = x + (sigma - following) * slope
    return x + (sigma - following) * (slope + following * score_at(score, end, following)) / 2


def heun(
    score: Score, x: Float[Tensor, "b *d"], sigmas: Float[Tensor, "levels"], *, denoise: bool = True
) -> Iterator[Step]:
    """The probability flow by Heun's method, of order 2.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1.  NFE: 2·(levels − 1), and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``denoise``: append the posterior mean, without noise, as a last state.
    Raises ValueError for an invalid ladder.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))
    >>> sigmas = ncsn.Karras(sigma_max=20, sigma_min=0.02, levels=18).sigmas()
    >>> start = 20 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    >>> *_, last = ncsn.heun(score, start, sigmas)
    >>> last.sigma, round(last.x.std().item(), 1)
    (0.0, 1.0)
    """
    return edm(score, x, sigmas, churn=0.0, denoise=denoise)


def edm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    churn: float,
    churn_range: tuple[float, float] = (0.0, math.inf),
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """EDM's stochastic sampler: before each step of Heun's method it raises the noise by a share of its size.

    Unlike in the paper, the noise is not raised before the last evaluation, which denoises from the smallest level.

    Karras et al. 2022, algorithm 2, with S_noise = 1.  NFE: 2·(levels − 1), and one more for ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``churn``: S_churn ≥ 0, the sum of the shares.
    ``churn_range``: S_tmin and S_tmax, the noise levels between which noise is raised.
    ``denoise``: append the posterior mean, without noise, as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a ladder or a churn out of range.
    """
    sigmas = check_ladder(sigmas)
    churn = real("churn", churn, 0)
    share = min(churn / len(sigmas), math.sqrt(2) - 1)  # the paper's γ; more would add more variance than there is

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        higher = sigma
        if churn and churn_range[0] <= sigma <= churn_range[1]:
            higher = sigma * (1 + share)
            x = add_noise(x, sigma, higher, generator)
        return heun_step(score, x, higher, following)

    return descend(score, x, sigmas, step, denoise=denoise)


def dpm_solver(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    stochasticity: float = 0.0,
    last_extrapolation: float = math.inf,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M): D is extrapolated in ln σ from its last two values, so a step of order 2 costs one evaluation.

    With h = ln σ/σ', η = ``stochasticity`` and a = 1 − e^(−(1+η)h),

        x ← (1 − a)·x + a·D + a·h/(2h₋)·(D − D₋) + σ'·√(1 − e^(−2ηh))·z,

    where D₋ and h₋ belong to the previous step (the first step omits that term).  NFE: levels − 1, and one more for
    ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``stochasticity``: η ≥ 0.  0 is the probability flow, Lu et al. 2022 (arXiv:2211.01095), algorithm 2; 1 is their
    SDE-DPM-Solver++(2M), section 5, the reverse diffusion.
    ``last_extrapolation``: the largest h/(2h₋) in the last step, ≥ 0.  With few levels that step is the
    longest, but D changes least in it.  More extrapolation overshoots at edges, and no later step corrects that.
    ``denoise``: append the posterior mean, without noise, as a last state.
    ``generator``: draws the noise; by default torch's own.
    Raises ValueError for a ladder or an option out of range.

    >>> g = torch.Generator().manual_seed(0)
    >>> score = ncsn.GaussianMixture(torch.tensor([[-5.0], [5.0]]))
    >>> sigmas = ncsn.Karras(sigma_max=40, sigma_min=0.02, levels=30).sigmas()
    >>> start = 40 * torch.randn(1000, 1, generator=g)
    >>> *_, last = ncsn.dpm_solver(score, start, sigmas, stochasticity=1.0, generator=g)
    >>> round(last.x.abs().mean().item())
    5
    """
    sigmas = check_ladder(sigmas)
    stochasticity = real("stochasticity", stochasticity, 0)
    if last_extrapolation != math.inf:
        real("last_extrapolation", last_extrapolation, 0)
    before: tuple[Tensor, Tensor] | None = None

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        nonlocal before
        denoised, h = tweedie(score, x, sigma), (sigma / following).log()
        share = -torch.expm1(-(1 + stochasticity) * h)
        x = (1 - share) * x  # in place from here on, to save memory
        x += share * denoised
        if before is not None:
            most = last_extrapolation if following == sigmas[-1] else math.inf
            ahead = (h / (2 * before[1])).clamp(max=most)
            x += share * ahead * (denoised - before[0])
        if stochasticity:
            z = noise_like(x, generator)
            z *= following * (-torch.expm1(-2 * stochasticity * h)).sqrt()
            x += z
        before = denoised, h
        return x

    return descend(score, x, sigmas, step, denoise=denoise)


# The table of samplers: their names, ladders and costs, and whether guidance helps.

GUIDED: dict[GuideName, float] = {"smaller": 1.25, "unconditional": 2.0}  # network evaluations per guided level


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler as a run uses it.

    ``follow``: the sampler, ``follow(score, x, sigmas, generator=...)``, and ``eps=..., steps=...`` for Langevin
    dynamics; it yields a state for each step between two noise levels, and the denoised one.
    ``ladder``: the spacing of its noise levels.
    ``levels``: the default number of levels; more hardly improve samples.
    ``steps``: the default number of Langevin steps, chosen likewise.
    ``nfe_per_step``: how often it evaluates the score in one step.
    ``langevin``: whether it is Langevin dynamics, which has a step size, needs only one noise level, and doesn't take
    over a run's guidance, because a guided score has no distribution.
    ``restarts``: whether explicit levels may rise, which costs no evaluation.
    """

    follow: Callable[..., Iterator[Step]]
    ladder: type[Ladder]
    levels: int
    steps: int = 1
    nfe_per_step: int = 1
    langevin: bool = False
    restarts: bool = False

    def levels_for(self, sigma_max: float, sigma_min: float) -> int:
        """How many levels make steps as fine as ``levels`` do between 10 and 0.01; never fewer than ``levels``.

        ``sigma_max``: the largest noise level.
        ``sigma_min``: the smallest one.
        """
        if self.levels == 1:
            return self.levels

        def length(top: float, bottom: float) -> float:
            return float(top ** (1 / 7) - bottom ** (1 / 7)) if self.ladder is Karras else math.log(top / bottom)

        return max(self.levels, round(self.levels * length(sigma_max, sigma_min) / length(10, 0.01)))


def edm_of_karras(score: Score, x: Tensor, sigmas: Tensor, *, generator: torch.Generator) -> Iterator[Step]:
    """EDM's sampler with a churn of 40, in the middle of the range of noise: Karras et al. 2022, table 5."""
    top = float(sigmas[0])
    return edm(score, x, sigmas, churn=40.0, churn_range=(top / 200, top / 5), generator=generator)


def on_the_last_level(
    score: Score, x: Tensor, sigmas: Tensor, *, eps: float, steps: int, generator: torch.Generator
) -> Iterator[Step]:
    """Langevin dynamics that never leaves the smallest noise level."""
    return langevin(score, x, sigmas[-1], step_size=eps, steps=steps, generator=generator)


# SDE-DPM-Solver++(2M), its last step between order 1 and 2.
reverse_diffusion = partial(dpm_solver, stochasticity=1.0, last_extrapolation=0.25)

SAMPLERS: dict[str, SamplerSpec] = {
    "annealed": SamplerSpec(annealed_langevin, Geometric, levels=100, steps=2, langevin=True),
    "consistent": SamplerSpec(consistent_annealed, Geometric, levels=100),
    "pc": SamplerSpec(predictor_corrector, Geometric, levels=60, nfe_per_step=2),
    "euler": SamplerSpec(euler, Karras, levels=40, restarts=True),
    "heun": SamplerSpec(partial(edm, churn=0.0), Karras, levels=18, nfe_per_step=2),
    "edm": SamplerSpec(edm_of_karras, Karras, levels=40, nfe_per_step=2),
    "dpmpp": SamplerSpec(dpm_solver, Karras, levels=20),
    "dpmpp-sde": SamplerSpec(reverse_diffusion, Karras, levels=30),
    "langevin": SamplerSpec(on_the_last_level, Geometric, levels=1, steps=200, langevin=True),
}


def find_spec(name: str) -> SamplerSpec:
    """The row of a sampler.  Raises ValueError if there is none."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise ValueError(f"sampler is {name}; it must be one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw samples from a score: the sampler, the noise levels and the guidance.

    ``sigma_max``: the first noise level.
    ``sigma_min``: the last noise level, > 0 and at most ``sigma_max``.
    ``sampler``: a name in ``SAMPLERS``.
    ``levels``: the number of noise levels, 1 to ``MOST_LEVELS``; or the levels themselves, descending.  If the sampler
    supports restarts, levels may rise, and noise is added there.
    ``steps``: Langevin steps, per level if annealed; 1 to ``MOST_STEPS``.
    ``eps``: the Langevin step size α > 0 at the smallest level.  With 4σ_min² or more, annealed Langevin dynamics
    diverges.
    ``guidance``: the guidance scale, ≥ 0; 1 disables guidance.
    ``guided_between``: the noise levels between which guidance acts, by default those that suit pixels in [0, 1].
    ``guide``: smaller, a network that was trained with the run's own (autoguidance), or unconditional, the run's own
    network without the class (classifier-free guidance).
    Raises ValueError for values out of range.
    """

    sigma_max: float
    sigma_min: float
    sampler: str
    levels: int | tuple[float, ...]
    steps: LangevinSteps
    eps: Annotated[float, Interval(gt=0)]
    guidance: Annotated[float, Interval(ge=0)] = 1.0
    guided_between: tuple[float, float] = (0.2, 1.5)
    guide: GuideName = "smaller"

    def __post_init__(self) -> None:
        """Reject, before a long training, settings that could not be sampled after it."""
        check_ranges(self)
        method = find_spec(self.sampler)
        check_range(self.sigma_max, self.sigma_min, self.count)
        limit = 4 * self.sigma_min**2 if self.sampler == "annealed" else math.inf
        if self.eps >= limit or self.count > MOST_LEVELS:
            most = f"eps < {limit:.3g} and at most {MOST_LEVELS:,} levels"
            raise ValueError(f"eps is {self.eps}, levels is {self.count}; expected {most}")
        if self.guided_between[0] > self.guided_between[1]:
            raise ValueError(f"guided_between is {self.guided_between}; the smaller noise level must come first")
        if self.levels == 1 and not method.langevin and self.sigma_max > self.sigma_min:
            raise ValueError(f"levels is 1; {self.sampler} needs at least 2")
        levels = (self.sigma_max, self.sigma_min) if isinstance(self.levels, int) else self.levels
        rising = not method.restarts and any(a < b for a, b in pairwise(levels))
        if rising or not all(LEAST <= level <= LARGEST for level in levels):
            raise ValueError(f"levels is {reprlib.repr(levels)}; they must descend, within {LEAST} and {LARGEST}")

    @classmethod
    def of(cls, sampler: str, sigma_max: float, sigma_min: float, *, eps: float | None = None) -> "Sampling":
        """The default way to sample with a sampler, with levels and steps that suit it.

        ``sampler``: a name in ``SAMPLERS``.
        ``sigma_max``, ``sigma_min``: the largest and the smallest noise level.
        ``eps``: the Langevin step size; by default σ_min²/2.
        Raises ValueError as the class does.
        """
        method = find_spec(sampler)
        check_range(sigma_max, sigma_min)
        levels, eps = method.levels_for(sigma_max, sigma_min), eps or sigma_min**2 / 2
        return cls(
            sigma_max=sigma_max, sigma_min=sigma_min, sampler=sampler, levels=levels, steps=method.steps, eps=eps
        )

    @property
    def spec(self) -> SamplerSpec:
        """The sampler's row in the table."""
        return SAMPLERS[self.sampler]

    def but(self, *, sampler: str | None = None, **changes: object) -> "Sampling":
        """A copy with other values for these fields, unless they are None.

        Another sampler comes with its own levels and steps, and Langevin dynamics without guidance, see
        ``SamplerSpec``.

        ``sampler``: a name in ``SAMPLERS``.
        ``changes``: other fields of this class, and their values.
        Raises ValueError as the class does, for several levels of langevin, which stays on one, and for Langevin steps
        of a sampler that takes none.
        """
        base = self
        if sampler is not None and find_spec(sampler) is not self.spec:
            usual = Sampling.of(sampler, self.sigma_max, self.sigma_min, eps=self.eps)
            guidance = 1.0 if usual.spec.langevin else self.guidance
            base = replace(usual, guidance=guidance, guided_between=self.guided_between, guide=self.guide)
        values = {name: value for name, value in changes.items() if value is not None}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        if not base.spec.langevin and not values.keys().isdisjoint(("steps", "eps")):
            size, steps = values.get("eps"), values.get("steps")
            raise ValueError(f"steps is {steps}, eps is {size}; {base.sampler} takes no Langevin steps, only levels")
        if base.sampler == "langevin" and values.get("levels", 1) != 1:
            raise ValueError(f"levels is {values['levels']}, but langevin stays on one level; set steps instead")
        return replace(base, **values)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """The number of noise levels."""
        return self.levels if isinstance(self.levels, int) else len(self.levels)

    @property
    def states(self) -> int:
        """The number of states that ``follow`` yields; Langevin dynamics on one level yields one per step."""
        if not self.spec.langevin:
            return self.count
        return (self.steps if self.spec.levels == 1 else self.count) + 1

    @property
    def descents(self) -> list[float]:
        """The noise levels from which a step descends; from all others a restart rises."""
        ladder = [*self.ladder().tolist(), 0.0]
        return [sigma for sigma, following in pairwise(ladder) if following <= sigma]

    @property
    def nfe(self) -> int:
        """Evaluations of the score per sample."""
        levels = len(self.descents)
        return (levels * self.steps if self.spec.langevin else (levels - 1) * self.spec.nfe_per_step) + 1

    @property
    def guided_nfe(self) -> float:
        """Evaluations of the network per sample with guidance; one of a smaller guide counts as a quarter."""
        low, high = self.guided_between
        inside: int = sum(low <= sigma <= high for sigma in self.descents)
        return self.nfe + self.nfe * inside * (GUIDED[self.guide] - 1) / len(self.descents)

    def ladder(self) -> Float[Tensor, "levels"]:
        """The noise levels in the order in which they are visited."""
        if not isinstance(self.levels, int):
            return torch.tensor(self.levels, device="cpu")
        return self.spec.ladder(self.sigma_max, self.sigma_min, self.levels).sigmas(device="cpu")

    def start(self, mean: Float[Tensor, "#n *d"], n: int, *, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """``n`` draws from N(μ, σ² I), where sampling starts.

        ``mean``: μ of the data, or one for each draw.  σ is σ_max, or the first of explicit levels.

        Around 0, MNIST's samples would start 0.6 standard deviations off, because the norm of its mean image is 6 and
        σ_max is 10.  The probability flow preserves such a shift: digits would have too little ink, and there would be
        half again as many ones.
        """
        sigma = self.sigma_max if isinstance(self.levels, int) else self.levels[0]
        check_generator(generator, mean.device)
        shape = n, *mean.shape[1:]
        return mean + sigma * torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)

    def follow(self, score: Score, x: Float[Tensor, "b *d"], *, generator: torch.Generator) -> Iterator[Step]:
        """The states of the sampler from ``x`` on; the last one is denoised."""
        options = {"eps": self.eps, "steps": self.steps} if self.spec.langevin else {}
        return self.spec.follow(score, x, self.ladder(), generator=generator, **options)
