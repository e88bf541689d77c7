"""Score matching objectives: (score, x, sigma) → one loss per example, never reduced.

The caller decides how to weigh and average.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.noise import Proposal
from ncsn.score import Score, ScoreModel, expand


class LabelledScore(Protocol):
    """A score that can be asked for one class per example; −1 stands for none in particular."""

    def __call__(
        self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, "b"], /, label: Int64[Tensor, "b"]
    ) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x | label)."""
        ...


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
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, "b"],
    *,
    data_score: Score | LabelledScore,
    above: float,
    label: Int64[Tensor, "b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Denoising score matching with less noise in its gradient: ½σ²‖s(x + σz, σ) − t‖² with a target t for σ > above.

    There, many examples x may have made the same noisy one, and ``dsm`` pulls towards a random one of them: its target
    is −z/σ.  The mean of −z/σ given the noisy example is the score of the data set, ``data_score`` (``Empirical``), and
    as a target it has the same minimiser and the same expected gradient, without that variance.  At the levels below
    ``above``, where the example is known from its noisy version, the target is −z/σ.  With a ``label`` for each example
    (−1 for none), ``data_score`` is asked for the score of that class.
    Xu et al. 2023 (arXiv:2302.00670) use a subset of the data; here it is all of it, and so without bias.
    """
    z, std = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype), expand(sigma, x)
    noisy, target = x + std * z, -z / std
    many = (sigma > above).nonzero()[:, 0]
    given = () if label is None else (label[many],)
    target[many] = data_score(noisy[many], sigma[many], *given)
    return (std * (score(noisy, sigma) - target)).square().flatten(1).sum(1) / 2


def curvature(
    score: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], v: Float[Tensor, "b *d"]
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b"]]:
    """The score at ``x``, and vᵀ(∂s/∂x)v; both can be differentiated in the score's weights."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x, sigma)
        (product,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)
    return s, (product * v).flatten(1).sum(1)


def ssm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, ""] | Float[Tensor, "b"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Sliced score matching at noised points: σ²(vᵀ(∂s/∂x)v + ½‖s‖²) with one random ±1 vector v per example.

    Song et al. 2019 (arXiv:1905.07088), equation 8: with variance reduction, as ‖s‖² stands for its expectation over
    v.  Its mean over v is ``exact``.
    """
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    v = (2 * torch.randint(2, x.shape, generator=generator, device=x.device) - 1).to(x.dtype)
    s, curved = curvature(score, x + expand(sigma, x) * z, sigma, v)
    return sigma**2 * (curved + s.square().flatten(1).sum(1) / 2)


def exact(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, ""] | Float[Tensor, "b"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Score matching as Hyvärinen has it, at noised points: σ²(tr ∂s/∂x + ½‖s‖²).

    Hyvärinen 2005, theorem 1.  On average D/2 below ``dsm``, for any score.  As many differentiations as dimensions:
    for few of them only.
    """
    z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    noisy, trace, s = x + expand(sigma, x) * z, torch.zeros(len(x), dtype=x.dtype, device=x.device), x
    for unit in torch.eye(x[0].numel(), dtype=x.dtype, device=x.device).view(-1, *x.shape[1:]):
        s, curved = curvature(score, noisy, sigma, unit.expand(x.shape))
        trace = trace + curved
    return sigma**2 * (trace + s.square().flatten(1).sum(1) / 2)


def fisher(
    score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """The Fisher divergence's integrand ½‖s(x, σ) − ∇ₓ log p_σ(x)‖² against a known score, at noised points ``x``.

    Hyvärinen 2005, equation 2; averaged over x ~ p_σ it is the divergence itself.
    """
    return (score(x, sigma) - truth(x, sigma)).square().flatten(1).sum(1) / 2


class Objective(Protocol):
    """What scores are trained by: one loss per example, of examples ``x`` that it noises itself."""

    def __call__(
        self, score: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, "b"], /, *, generator: torch.Generator | None
    ) -> Float[Tensor, "b"]:
        """The losses at noise levels ``sigma``, weighted by σ²."""
        ...


def residual_loss(
    noise: Proposal, objective: Objective = dsm, *, generator: torch.Generator
) -> Callable[[ScoreModel, Float[Tensor, "b *d"]], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]:
    """What ``train`` minimises: an objective at noise levels drawn from ``noise``.

    Returns a function of (model, x) that gives the losses and the noise levels, one of each per example.  With ``dsm``,
    a loss is ‖F − F*‖² per dimension, see ``ScoreModel.residual_weight``: about 1 for an untrained network at any σ.
    """

    def loss(model: ScoreModel, x: Float[Tensor, "b *d"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        sigma = noise.sample(len(x), generator=generator)
        losses = objective(model, x, sigma, generator=generator)
        return losses * model.residual_weight(sigma) / x[0].numel(), sigma

    return loss


def labelled_loss(
    noise: Proposal, data_score: LabelledScore, *, above: float, dropped: float = 0.1, generator: torch.Generator
) -> Callable[
    [ScoreModel, tuple[Float[Tensor, "b *d"], Int64[Tensor, "b"]]], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]
]:
    """What ``train`` minimises when classes are known: ``posterior_dsm`` of each example given its class.

    A share ``dropped`` of the examples is shown without its class, so that the network learns the score of all data
    too, which guidance needs (Ho & Salimans 2022, algorithm 1).  As ``residual_loss`` otherwise; a batch is (x, label).
    """

    def loss(
        model: ScoreModel, batch: tuple[Float[Tensor, "b *d"], Int64[Tensor, "b"]]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        x, label = batch
        without = torch.rand(len(x), generator=generator, device=x.device) < dropped
        label = label.masked_fill(without, -1)
        sigma = noise.sample(len(x), generator=generator)
        losses = posterior_dsm(
            lambda y, s: model(y, s, label),
            x,
            sigma,
            data_score=data_score,
            above=above,
            label=label,
            generator=generator,
        )
        return losses * model.residual_weight(sigma) / x[0].numel(), sigma

    return loss
