r"""Samplers: functions that turn a score into samples.

Four formulas define what follows.  In all of them s is the score, z ~ N(0, I) is fresh noise, and σ_1 > … > σ_L are the
noise levels of a *ladder*: σ_1 hides the data, and σ_L is negligible.

1. A Langevin step of size α, which stays at one noise level (Song & Ermon 2019, arXiv:1907.05600, algorithm 1):

   .. math:: x \leftarrow x + \tfrac{α}{2} s(x, σ) + \sqrt{α}\, z.

   The official image code writes x + step·s + √(2·step)·z instead: its step is α/2, so its 2e-5 is α = 4e-5 here.

2. The step sizes of annealed Langevin dynamics, which takes several steps on each level of the ladder, where ε is the
   step size on the smallest one:

   .. math:: α_i = ε\, σ_i^2 / σ_L^2.

3. The probability flow, which leads from one level to the next without randomness.  D is the mean of the clean data
   given x (``tweedie``), and it is also the last state of every sampler (Song et al. 2020, arXiv:2011.13456,
   equation 13):

   .. math:: \frac{dx}{dσ} = -σ\, s(x, σ) = \frac{x - D(x, σ)}{σ}, \qquad D(x, σ) = x + σ^2 s(x, σ).

4. A step of the reverse diffusion from σ to the next level σ' (their equation 46).  It has the same distribution at
   every σ as the flow, and its fresh noise lets later steps correct the errors of earlier ones:

   .. math:: x \leftarrow x + (σ^2 - σ'^2)\, s(x, σ) + \sqrt{σ^2 - σ'^2}\, z.

Every sampler is an iterator of ``Step(sigma, x)``, so that progress bars, animations and early stopping belong to the
caller: ``*path, last = annealed_langevin(score, x, sigmas, ...)``, and ``last.x`` are the samples.

This file reads from top to bottom: ``descend`` is the loop that all samplers share; then each sampler is its step.

- Langevin dynamics and its descendants: ``langevin``, ``annealed_langevin`` (the paper's), ``consistent_annealed``,
  ``predictor_corrector``.
- The probability flow: ``euler``, ``heun``, and with fresh noise ``edm`` and ``dpm_solver`` (the default).

``sampling`` names them, and says how a run is sampled.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import lengths, noise_like
from ncsn.score import Score, score_at, tweedie
from ncsn.validation import as_floats, real, whole


class Step(NamedTuple):
    """A state of samples on their way from noise to data.

    ``sigma``: the standard deviation of the remaining noise; 0 at the end, if the sampler denoises.
    ``x``: the samples so far, (b, *d).
    """

    sigma: float
    x: Tensor


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
    step_size = real("step_size", step_size, above=0)
    steps = whole("steps", steps, 1)
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
    eps = real("eps", eps, above=0)
    steps = whole("steps", steps, 1)
    limit = 4 * float(sigmas[-1]) ** 2
    if eps >= limit:
        raise ValueError(f"eps is {eps}; expected 0 < eps < 4 sigma_L^2 = {limit:.3g}")

    def steps_on_level(x: Tensor, _higher: Tensor, sigma: Tensor) -> Tensor:
        # With α ∝ σ², drift and noise have the same ratio on every level: section 4.3.
        step_size = eps * sigma**2 / sigmas[-1] ** 2
        for _ in range(steps):
            x = langevin_step(score, x, sigma, step_size, generator)
        return x

    # The first steps stay on the level where x already is.
    return descend(score, x, torch.cat([sigmas[:1], sigmas]), steps_on_level, denoise=denoise)


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
    least = float((1 - sigmas[1:] / sigmas[:-1]).max()) if len(sigmas) > 1 else 0.0
    if eta is not None and not least - 1e-6 <= real("eta", eta) <= 1:
        raise ValueError(f"eta is {eta}; expected 1 - sigma'/sigma <= eta <= 1, from {least:.3g} on this ladder")

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        z = noise_like(x, generator)
        share = 1 - (following / sigma) ** 2 if eta is None else eta
        fresh_std = (following**2 - ((1 - share) * sigma) ** 2).clamp(min=0).sqrt()
        return x + share * sigma**2 * score_at(score, x, sigma) + fresh_std * z

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
    snr = real("snr", snr, above=0)
    corrections = whole("corrections", corrections, 0)

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        z = noise_like(x, generator)
        variance = sigma**2 - following**2
        x = x + variance * score_at(score, x, sigma) + variance.sqrt() * z
        for _ in range(corrections):
            z = noise_like(x, generator)
            s = score_at(score, x, following)
            length = lengths(s).mean()
            # A score of zero defines no step size, so there is no step.
            eps = torch.where(length > 0, 2 * (snr * lengths(z).mean() / length) ** 2, 0.0)
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

    With h = ln σ/σ', ζ = ``stochasticity`` and a = 1 − e^(−(1+ζ)h),

        x ← (1 − a)·x + a·D + a·h/(2h₋)·(D − D₋) + σ'·√(1 − e^(−2ζh))·z,

    where D₋ and h₋ belong to the previous step (the first step omits that term).  NFE: levels − 1, and one more for
    ``denoise``.

    ``score``: the score of the noised data.
    ``x``: where to start, (b, *d): noise of the first level, around the mean of the data.
    ``sigmas``: the noise levels, descending, > 0.
    ``stochasticity``: ζ ≥ 0.  0 is the probability flow, Lu et al. 2022 (arXiv:2211.01095), algorithm 2; 1 is their
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
    previous: tuple[Tensor, Tensor] | None = None  # D₋ and h₋

    def step(x: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
        nonlocal previous
        denoised = tweedie(score, x, sigma)
        h = (sigma / following).log()
        share = -torch.expm1(-(1 + stochasticity) * h)
        x = (1 - share) * x  # in place from here on, to save memory
        x += share * denoised
        if previous is not None:
            previous_denoised, previous_h = previous
            limit = last_extrapolation if following == sigmas[-1] else math.inf
            extrapolation = (h / (2 * previous_h)).clamp(max=limit)
            x += share * extrapolation * (denoised - previous_denoised)
        if stochasticity:
            z = noise_like(x, generator)
            z *= following * (-torch.expm1(-2 * stochasticity * h)).sqrt()
            x += z
        previous = denoised, h
        return x

    return descend(score, x, sigmas, step, denoise=denoise)
