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


def posterior_dsm(
    score: Score,
    data_score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, "b"],
    *,
    above: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Denoising score matching with less noise in its gradient: ½σ²‖s(x + σz, σ) − t‖² with a target t for σ > above.

    There, many examples x may have made the same noisy one, and ``dsm`` pulls towards a random one of them: its target
    is −z/σ.  The mean of −z/σ given the noisy example is the score of the data set, ``data_score`` (``Empirical``), and
    as a target it has the same minimiser and the same expected gradient, without that variance.  At the levels below
    ``above``, where the example is known from its noisy version, the target is −z/σ.
    Xu et al. 2023 (arXiv:2302.00670) use a subset of the data; here it is all of it, and so without bias.
    """
    z, std = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype), expand(sigma, x)
    noisy, target = x + std * z, -z / std
    many = (sigma > above).nonzero()[:, 0]
    target[many] = data_score(noisy[many], sigma[many])
    return (std * (score(noisy, sigma) - target)).square().flatten(1).sum(1) / 2


def fisher(
    score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """The Fisher divergence's integrand ½‖s(x, σ) − ∇ₓ log p_σ(x)‖² against a known score, at noised points ``x``.

    Hyvärinen 2005, equation 2; averaged over x ~ p_σ it is the divergence itself.
    """
    return (score(x, sigma) - truth(x, sigma)).square().flatten(1).sum(1) / 2


def residual_loss(
    noise: Proposal, *, generator: torch.Generator, data_score: Score | None = None, above: float = 0.0
) -> Callable[[ScoreModel, Float[Tensor, "b *d"]], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]:
    """What ``train`` minimises: denoising score matching at noise levels drawn from ``noise``.

    With a ``data_score`` (``Empirical``) it is ``posterior_dsm`` with that and ``above``, else ``dsm``.
    Returns a function of (model, x) that gives the losses and the noise levels, one of each per example.  A loss is
    ‖F − F*‖² per dimension, see ``ScoreModel.residual_weight``: about 1 for an untrained network at any σ.
    """

    def loss(model: ScoreModel, x: Float[Tensor, "b *d"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        sigma = noise.sample(len(x), generator=generator)
        if data_score is None:
            losses = dsm(model, x, sigma, generator=generator)
        else:
            losses = posterior_dsm(model, data_score, x, sigma, above=above, generator=generator)
        return losses * model.residual_weight(sigma) / x[0].numel(), sigma

    return loss
