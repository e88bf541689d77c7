r"""Samplers: what turns a score into samples.

Every sampler is an iterator of states, so that progress bars, animations and early stopping belong to the caller:
``*path, samples = annealed_langevin(score, x, sigmas, ...)``.

All Langevin steps follow one convention, that of Song & Ermon 2019 (arXiv:1907.05600), algorithm 1:

.. math:: x \leftarrow x + \tfrac{α}{2} s(x, σ) + \sqrt{α}\, z, \qquad z \sim N(0, I).

The official image code writes x + step·s + √(2·step)·z instead: its step is α/2, so its 2e-5 is α = 4e-5 here.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.score import Score, tweedie


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
    Raises ValueError unless ``sigmas`` is positive and non-increasing, 0 < ε < 4σ_L² (beyond it the dynamics diverges
    on a Gaussian, whose stationary variance is σ²/(1 − ε/(4σ_L²))), and steps ≥ 1.
    """
    if sigmas.ndim != 1 or len(sigmas) == 0 or bool((sigmas <= 0).any()) or bool((sigmas.diff() > 0).any()):
        raise ValueError(f"sigmas is {sigmas.tolist()}; a descending ladder of positive noise levels is needed")
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
