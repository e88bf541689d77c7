"""Score matching objectives: (score, x, sigma) → one loss per example, never reduced.

The caller decides how to weigh and average.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import Proposal
from ncsn.score import Score, ScoreModel, expand


def dsm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, ""] | Float[Tensor, "b"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Denoising score matching: ½‖σ·s(x + σz, σ) + z‖², z ~ N(0, I), summed over dimensions.

    Vincent 2011, with the weight λ(σ) = σ² of Song & Ermon 2019, equations 5 and 6: s = 0 costs D/2 on average at
    every σ.  Its expectation exceeds σ²·fisher by a constant that does not depend on the score.
    """
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    std = expand(sigma, x)
    return (std * score(x + std * z, sigma) + z).square().flatten(1).sum(1) / 2


def fisher(
    score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """The Fisher divergence's integrand ½‖s(x, σ) − ∇ₓ log p_σ(x)‖² against a known score, at noised points ``x``.

    Hyvärinen 2005, equation 2; averaged over x ~ p_σ it is the divergence itself.
    """
    return (score(x, sigma) - truth(x, sigma)).square().flatten(1).sum(1) / 2


def residual_loss(
    noise: Proposal, *, generator: torch.Generator
) -> Callable[[ScoreModel, Float[Tensor, "b *d"]], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]:
    """What ``train`` minimises: denoising score matching at noise levels drawn from ``noise``.

    Returns a function of (model, x) that gives the losses and the noise levels, one of each per example.  A loss is
    ‖F − F*‖² per dimension, see ``ScoreModel.residual_weight``: about 1 for an untrained network at any σ.
    """

    def loss(model: ScoreModel, x: Float[Tensor, "b *d"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        sigma = noise.sample(len(x), generator=generator)
        return dsm(model, x, sigma, generator=generator) * model.residual_weight(sigma) / x[0].numel(), sigma

    return loss
