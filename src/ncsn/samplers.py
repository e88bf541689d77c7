r"""Samplers: what turns a score into samples.

Every sampler is an iterator of states, so that progress bars, animations and early stopping belong to the caller:
``*path, samples = annealed_langevin(score, x, sigmas, ...)``.

All Langevin steps follow one convention, that of Song & Ermon 2019 (arXiv:1907.05600), algorithm 1:

.. math:: x \leftarrow x + \tfrac{α}{2} s(x, σ) + \sqrt{α}\, z, \qquad z \sim N(0, I).

The official image code writes x + step·s + √(2·step)·z instead: its step is α/2, so its 2e-5 is α = 4e-5 here.

The other samplers follow the noise from σ_1 down to σ_L, along the probability flow of Song et al. 2020
(arXiv:2011.13456, equation 13), which here is

.. math:: \frac{dx}{dσ} = -σ\, s(x, σ) = \frac{x - D(x, σ)}{σ}, \qquad D(x, σ) = x + σ^2 s(x, σ),

or along stochastic paths with the same distribution at every σ.  D is the mean of the clean data given x (``tweedie``).
All take a descending ladder, yield the state at each of its levels but the first, and with ``denoise`` D at the last.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.score import Score, tweedie


def check_ladder(sigmas: Float[Tensor, "levels"]) -> None:
    """Raises ValueError unless ``sigmas`` is positive and strictly descending."""
    if sigmas.ndim != 1 or len(sigmas) == 0 or bool((sigmas <= 0).any()) or bool((sigmas.diff() >= 0).any()):
        raise ValueError(f"sigmas is {sigmas.tolist()}; a descending ladder of positive noise levels is needed")


def langevin_step(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, ""],
    step_size: Float[Tensor, ""] | float,
    generator: torch.Generator | None,
) -> Float[Tensor, "b *d"]:
    """One step x + (α/2)·s(x, σ) + √α·z, where α is ``step_size``."""
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + step_size / 2 * score(x, sigma) + step_size**0.5 * z


@torch.no_grad()
def langevin(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, ""],
    *,
    step_size: float,
    steps: int,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "b *d"]]:
    """Langevin dynamics at one noise level; yields the state after every step.

    Song & Ermon 2019, equation 4.  NFE: ``steps``, and one more for ``denoise``, which appends x + σ²·s(x, σ).
    Raises ValueError unless step_size > 0 and steps ≥ 1.
    """
    if not step_size > 0:
        raise ValueError(f"step_size is {step_size}; it must be positive")
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")
    for _ in range(steps):
        x = langevin_step(score, x, sigma, step_size, generator)
        yield x
    if denoise:
        yield tweedie(score, x, sigma)


@torch.no_grad()
def annealed_langevin(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    eps: float,
    steps: int,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "b *d"]]:
    """Annealed Langevin dynamics: ``steps`` steps on each level of a descending ladder; yields one state a level.

    Song & Ermon 2019, algorithm 1, with the step size α_i = ε·σ_i²/σ_L².  ``x`` is where to start, ideally a draw from
    N(0, σ_1²) or any distribution as wide.  NFE: levels × steps, and one more for ``denoise``, which appends the
    posterior mean x + σ_L²·s(x, σ_L) as a last state.
    Raises ValueError unless ``sigmas`` is positive and descending, 0 < ε < 4σ_L² (beyond it the dynamics diverges
    on a Gaussian, whose stationary variance is σ²/(1 − ε/(4σ_L²))), and steps ≥ 1.
    """
    check_ladder(sigmas)
    if not 0 < eps < 4 * float(sigmas[-1]) ** 2:
        raise ValueError(
            f"eps is {eps}; allowed is 0 < eps < 4 sigma_L^2 = {4 * float(sigmas[-1]) ** 2:.3g}, else the steps diverge"
        )
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")
    for sigma in sigmas:
        for _ in range(steps):
            x = langevin_step(score, x, sigma, eps * sigma**2 / sigmas[-1] ** 2, generator)
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])


@torch.no_grad()
def consistent_annealed(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    eta: float,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "b *d"]]:
    """Consistent annealed sampling: a share ``eta`` of the way to D, then the noise that belongs to the next level.

    x ← x + ησ²·s(x, σ) + β·σ'·z with β² = 1 − ((1−η)/γ)², γ = σ'/σ: the noise that is left and the noise that is added
    have variance σ'² together.  Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475), algorithm 2; η is their ε/σ_L².
    η = 1 − γ adds none (Euler on the probability flow), η = 1 replaces all of it.  NFE: levels − 1, and one more for
    ``denoise``.
    Raises ValueError unless 1 − γ ≤ η ≤ 1 at every level.
    """
    check_ladder(sigmas)
    smallest = float((1 - sigmas[1:] / sigmas[:-1]).max()) if len(sigmas) > 1 else 0.0
    if not smallest - 1e-6 <= eta <= 1:
        raise ValueError(f"eta is {eta}; allowed is 1 - sigma'/sigma <= eta <= 1, from {smallest:.3g} on this ladder")
    for sigma, following in itertools.pairwise(sigmas):
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        fresh = (following**2 - ((1 - eta) * sigma) ** 2).clamp(min=0).sqrt()
        x = x + eta * sigma**2 * score(x, sigma) + fresh * z
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])


@torch.no_grad()
def euler(
    score: Score, x: Float[Tensor, "b *d"], sigmas: Float[Tensor, "levels"], *, denoise: bool = True
) -> Iterator[Float[Tensor, "b *d"]]:
    """The probability flow by Euler's method, of order 1 (DDIM in the noise's own time).

    Song et al. 2020, equation 13.  NFE: levels − 1, and one more for ``denoise``.
    """
    check_ladder(sigmas)
    for sigma, following in itertools.pairwise(sigmas):
        x = x + (sigma - following) * sigma * score(x, sigma)
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])


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
) -> Iterator[Float[Tensor, "b *d"]]:
    """The probability flow by Heun's method, of order 2.

    Karras et al. 2022 (arXiv:2206.00364), algorithm 1.  NFE: 2·(levels − 1), and one more for ``denoise``.
    """
    check_ladder(sigmas)
    for sigma, following in itertools.pairwise(sigmas):
        x = heun_step(score, x, sigma, following)
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])


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
) -> Iterator[Float[Tensor, "b *d"]]:
    """EDM's stochastic sampler: before each of Heun's steps the noise is raised by a share of what it is.

    Karras et al. 2022, algorithm 2: σ̂ = σ(1 + min(S_churn/levels, √2 − 1)) for σ within ``churn_range`` (S_tmin and
    S_tmax), with S_noise = 1.  NFE: 2·(levels − 1), and one more for ``denoise``.
    Raises ValueError if ``churn`` is negative.
    """
    check_ladder(sigmas)
    if churn < 0:
        raise ValueError(f"churn is {churn}; it must not be negative")
    for sigma, following in itertools.pairwise(sigmas):
        raised = sigma
        if churn_range[0] <= sigma <= churn_range[1]:
            raised = sigma * (1 + min(churn / len(sigmas), math.sqrt(2) - 1))
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + (raised**2 - sigma**2).sqrt() * z
        x = heun_step(score, x, raised, following)
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])


@torch.no_grad()
def dpm_solver(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    stochasticity: float = 0.0,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Float[Tensor, "b *d"]]:
    """DPM-Solver++(2M): D is extrapolated in ln σ from its last two values, so a step of order 2 costs one evaluation.

    With h = ln σ/σ', η = ``stochasticity`` and a = 1 − e^(−(1+η)h),

        x ← (1 − a)·x + a·D + a·h/(2h₋)·(D − D₋) + σ'·√(1 − e^(−2ηh))·z,

    where D₋ and h₋ belong to the previous step (the first one does without).  η = 0 is the probability flow, Lu et al.
    2022 (arXiv:2211.01095), algorithm 2; η = 1 is their SDE-DPM-Solver++(2M), section 5, the reverse diffusion.
    NFE: levels − 1, and one more for ``denoise``.
    Raises ValueError if ``stochasticity`` is negative.
    """
    check_ladder(sigmas)
    if stochasticity < 0:
        raise ValueError(f"stochasticity is {stochasticity}; it must not be negative")
    before: tuple[Tensor, Tensor] | None = None
    for sigma, following in itertools.pairwise(sigmas):
        denoised, h = tweedie(score, x, sigma), (sigma / following).log()
        share = -torch.expm1(-(1 + stochasticity) * h)
        x = (1 - share) * x + share * denoised
        if before is not None:
            x = x + share * h / (2 * before[1]) * (denoised - before[0])
        if stochasticity:
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + following * (-torch.expm1(-2 * stochasticity * h)).sqrt() * z
        before = denoised, h
        yield x
    if denoise:
        yield tweedie(score, x, sigmas[-1])
