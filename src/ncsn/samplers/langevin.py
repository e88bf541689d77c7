r"""Langevin dynamics and its descendants: random steps along the score, on one noise level or down a ladder of them.

All Langevin steps follow one convention, that of Song & Ermon 2019 (arXiv:1907.05600), algorithm 1:

.. math:: x \leftarrow x + \tfrac{α}{2} s(x, σ) + \sqrt{α}\, z, \qquad z \sim N(0, I).

The official image code writes x + step·s + √(2·step)·z instead: its step is α/2, so its 2e-5 is α = 4e-5 here.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.samplers.step import Step, check_ladder
from ncsn.score import Score, tweedie


def langevin_step(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: float | Float[Tensor, ""],
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
    sigma: float | Float[Tensor, ""],
    *,
    step_size: float,
    steps: int,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
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
        yield Step(float(sigma), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigma))


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
) -> Iterator[Step]:
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
        yield Step(float(sigma), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


@torch.no_grad()
def consistent_annealed(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    eta: float,
    denoise: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[Step]:
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
    for sigma, following in pairwise(sigmas):
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        fresh = (following**2 - ((1 - eta) * sigma) ** 2).clamp(min=0).sqrt()
        x = x + eta * sigma**2 * score(x, sigma) + fresh * z
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))


@torch.no_grad()
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
    equation 46.  Corrector: x + ε·s(x, σ') + √(2ε)·z with ε = 2(r‖z‖/‖s‖)², norms averaged over the batch and r the
    ``snr``; in this package's convention α = 2ε.  NFE: (levels − 1)·(1 + corrections), and one more for ``denoise``.
    Raises ValueError unless snr > 0 and corrections ≥ 0.
    """
    check_ladder(sigmas)
    if not snr > 0 or corrections < 0:
        raise ValueError(f"snr is {snr}, corrections is {corrections}; allowed are snr > 0 and corrections >= 0")
    for sigma, following in pairwise(sigmas):
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        drop = sigma**2 - following**2
        x = x + drop * score(x, sigma) + drop.sqrt() * z
        for _ in range(corrections):
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            s = score(x, following)
            size = s[:, None].flatten(1).norm(dim=1).mean()
            # A score that is zero everywhere says nothing of how far to go: no step.
            step = torch.where(size > 0, 2 * (snr * z[:, None].flatten(1).norm(dim=1).mean() / size) ** 2, 0.0)
            x = x + step * s + (2 * step).sqrt() * z
        yield Step(float(following), x)
    if denoise:
        yield Step(0.0, tweedie(score, x, sigmas[-1]))
