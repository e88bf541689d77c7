r"""Samplers that follow the noise from σ_1 down to σ_L, along the probability flow or along random paths like it.

The probability flow of Song et al. 2020 (arXiv:2011.13456, equation 13) is here

.. math:: \frac{dx}{dσ} = -σ\, s(x, σ) = \frac{x - D(x, σ)}{σ}, \qquad D(x, σ) = x + σ^2 s(x, σ),

where D is the mean of the clean data given x (``tweedie``).  The stochastic samplers have the same distribution at
every σ; their fresh noise lets later steps correct the errors of earlier ones.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.samplers.step import Step, check_ladder
from ncsn.score import Score, tweedie


def raised(
    x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""], higher: Float[Tensor, ""], generator: torch.Generator | None
) -> Float[Tensor, "b *d"]:
    """``x``, which has noise of level ``sigma``, with fresh noise up to the ``higher`` one."""
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + (higher**2 - sigma**2).sqrt() * z


@torch.no_grad()
def euler(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
    """The probability flow by Euler's method, of order 1 (DDIM in the noise's own time).

    Where the ``sigmas`` rise, fresh noise leads up: a restart, which costs nothing itself, and what is gone through
    again takes back errors of the first time (Xu et al. 2023, arXiv:2306.14878, algorithm 1).
    Song et al. 2020, equation 13.  NFE: levels − 1, less one for each rise, and one more for ``denoise``.
    """
    check_ladder(sigmas, restarts=True)
    for sigma, following in pairwise(sigmas):
        if following > sigma:
            x = raised(x, sigma, following, generator)
        else:
            x = x + (sigma - following) * sigma * score(x, sigma)
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


def heun_step(
    score: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""], following: Float[Tensor, ""]
) -> Float[Tensor, "b *d"]:
    """One step of Heun's method from noise level ``sigma`` to ``following``: the mean of two slopes."""
    slope = sigma * score(x, sigma)
    end = x + (sigma - following) * slope
    return x + (sigma - following) * (slope + following * score(end, following)) / 2


@torch.no_grad()
def heun(
    score: Score, x: Float[Tensor, "b *d"], sigmas: Float[Tensor, "levels"], *, denoise: bool = True
) -> Iterator[Step]:
    """The probability flow by Heun's method, of order 2.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1.  NFE: 2·(levels − 1), and one more for ``denoise``.
    """
    check_ladder(sigmas)
    for sigma, following in pairwise(sigmas):
        x = heun_step(score, x, sigma, following)
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


@torch.no_grad()
def encode(score: Score, x: Float[Tensor, "b *d"], sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "b *d"]:
    """The noise that the probability flow turns into ``x``: the flow the other way, by Heun's method.

    ``x``: clean, taken for what the flow has at the last of the ``sigmas``.
    Song et al. 2020, section 4.3 and appendix D.3.  NFE: 2·(levels − 1).
    """
    check_ladder(sigmas)
    for sigma, following in pairwise(sigmas.flip(0)):
        x = heun_step(score, x, sigma, following)
    return x


@torch.no_grad()
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
    """EDM's stochastic sampler: before each of Heun's steps the noise is raised by a share of what it is.

    Karras et al. 2022, algorithm 2: σ̂ = σ(1 + min(S_churn/levels, √2 − 1)) for σ within ``churn_range`` (S_tmin and
    S_tmax), with S_noise = 1.  NFE: 2·(levels − 1), and one more for ``denoise``.
    Raises ValueError if ``churn`` is negative.
    """
    check_ladder(sigmas)
    if churn < 0:
        raise ValueError(f"churn is {churn}; it must not be negative")
    for sigma, following in pairwise(sigmas):
        higher = sigma
        if churn_range[0] <= sigma <= churn_range[1]:
            higher = sigma * (1 + min(churn / len(sigmas), math.sqrt(2) - 1))
            x = raised(x, sigma, higher, generator)
        x = heun_step(score, x, higher, following)
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


@torch.no_grad()
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

    where D₋ and h₋ belong to the previous step (the first one does without).  η = 0 is the probability flow, Lu et al.
    2022 (arXiv:2211.01095), algorithm 2; η = 1 is their SDE-DPM-Solver++(2M), section 5, the reverse diffusion.
    ``last_extrapolation``: the most that h/(2h₋) may be in the last step.  On few levels that step is the longest, and
    D changes least in it: more throws pixels beyond the edges of things, which no later step takes back.
    NFE: levels − 1, and one more for ``denoise``.
    Raises ValueError if ``stochasticity`` or ``last_extrapolation`` is negative.
    """
    check_ladder(sigmas)
    if stochasticity < 0:
        raise ValueError(f"stochasticity is {stochasticity}; it must not be negative")
    if last_extrapolation < 0:
        raise ValueError(f"last_extrapolation is {last_extrapolation}; it must not be negative")
    before: tuple[Tensor, Tensor] | None = None
    for sigma, following in pairwise(sigmas):
        denoised, h = tweedie(score, x, sigma), (sigma / following).log()
        share = -torch.expm1(-(1 + stochasticity) * h)
        x = (1 - share) * x  # and in place from here on: many samples are large
        x += share * denoised
        if before is not None:
            most = last_extrapolation if following == sigmas[-1] else math.inf
            ahead = (h / (2 * before[1])).clamp(max=most)
            x += share * ahead * (denoised - before[0])
        if stochasticity:
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            z *= following * (-torch.expm1(-2 * stochasticity * h)).sqrt()
            x += z
        before = denoised, h
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


def slerp(a: Float[Tensor, "b *d"], b: Float[Tensor, "b *d"], weights: Float[Tensor, "k"]) -> Float[Tensor, "b k *d"]:
    """From a (weight 0) to b (weight 1) along the great circle, so that what is between has the length of noise too.

    Shoemake 1985.  Where the probability flow starts, straight lines would pass through points too near the origin.
    """
    u, v = a.flatten(1), b.flatten(1)
    cosine = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).arccos()[:, None]
    first, second = ((1 - weights) * angle).sin() / angle.sin(), (weights * angle).sin() / angle.sin()
    walk: Tensor = first[..., None] * u[:, None] + second[..., None] * v[:, None]
    return walk.view(len(a), len(weights), *a.shape[1:])
