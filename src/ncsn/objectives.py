"""Score matching objectives: (score, x, sigma) → one loss per example, never reduced.

The caller decides how to weigh and average.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.batching import Batch
from ncsn.noise import Proposal, noise_like, signs_like
from ncsn.score import Score, ScoreModel, Sigma, bind_condition, curvatures, expand, score_at, unit_directions


def dsm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Sigma,
    *,
    label: Int64[Tensor, "b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Denoising score matching: ½‖σ·s(x + σz, σ) + z‖², z ~ N(0, I), summed over dimensions.

    Vincent 2011, with the weight λ(σ) = σ² of Song & Ermon 2019, equations 5 and 6.  A score of
    zero has a loss of D/2 on average at every σ.  The lowest possible loss isn't 0, because part of the noise is
    unpredictable: the expectation exceeds σ²·fisher by a constant that doesn't depend on the score.

    ``score``: the score to train or to test.
    ``x``: clean examples, (b, *d).
    ``sigma``: the noise level, one number or one for each example.
    ``label``: the class of each example, (b,), −1 for none; by default the score is unconditional.
    ``generator``: draws the noise; by default torch's own.

    >>> g = torch.Generator().manual_seed(0)
    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))  # the exact score, which minimises the loss
    >>> ncsn.dsm(score, torch.randn(10_000, 2, generator=g), 1.0, generator=g).mean().round(decimals=1)
    tensor(0.5000)
    """
    z = noise_like(x, generator)
    std = expand(sigma, x)
    s = score_at(bind_condition(score, label), x + std * z, sigma)
    return (std * s + z).square().flatten(1).sum(1) / 2


def posterior_dsm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Float[Tensor, "b"],
    *,
    data_score: Score,
    above: float,
    label: Int64[Tensor, "b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Denoising score matching with less noise in its gradient: ½σ²‖s(x + σz, σ) − t‖² with a target t for σ > above.

    At high noise many clean examples could have produced the same noisy one, and the target of ``dsm``, −z/σ, points to
    a random one.  Its mean given the noisy example is the score of the dataset, a target with the same minimiser.
    Xu et al. 2023 (arXiv:2302.00670) use a subset of the data, which is biased; this uses all of it.

    ``score``: the score to train.
    ``x``: clean examples, (b, *d).
    ``sigma``: the noise level of each example, (b,).
    ``data_score``: the score of the whole dataset, ``Empirical``; with labels, a class-conditional one.
    ``above``: the noise level below which the target is −z/σ, because there the noisy example identifies the clean one.
    ``label``: the class of each example, (b,), −1 for none.
    ``generator``: draws the noise; by default torch's own.
    """
    z = noise_like(x, generator)
    std = expand(sigma, x)
    noisy, target = x + std * z, -z / std
    ambiguous = sigma > above
    if x.device.type == "cpu":
        rows = ambiguous.nonzero()[:, 0]
        classes = None if label is None else label[rows]
        target[rows] = bind_condition(data_score, classes)(noisy[rows], sigma[rows])
    else:  # a GPU evaluates all of them sooner than it can report how many are needed
        means = bind_condition(data_score, label)(noisy, sigma)
        target = torch.where(ambiguous.view(std.shape), means, target)
    s = bind_condition(score, label)(noisy, sigma)
    return (std * (s - target)).square().flatten(1).sum(1) / 2


def ssm(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Sigma,
    *,
    label: Int64[Tensor, "b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Sliced score matching at noised points: σ²(vᵀ(∂s/∂x)v + ½‖s‖²) with one random ±1 vector v per example.

    Song et al. 2019 (arXiv:1905.07088), equation 8, with variance reduction: ‖s‖² replaces (vᵀs)².  The mean over v
    is ``exact``.

    ``score``: the score to train or to test.
    ``x``: clean examples, (b, *d).
    ``sigma``: the noise level, one number or one for each example.
    ``label``: the class of each example, (b,), −1 for none; by default the score is unconditional.
    ``generator``: draws the noise; by default torch's own.
    """
    z = noise_like(x, generator)
    v = signs_like(x, 1, generator)
    s, curved = curvatures(bind_condition(score, label), x + expand(sigma, x) * z, sigma, v, learned=True)
    return sigma**2 * (curved[0] + s.square().flatten(1).sum(1) / 2)


def exact(
    score: Score,
    x: Float[Tensor, "b *d"],
    sigma: Sigma,
    *,
    label: Int64[Tensor, "b"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b"]:
    """Hyvärinen's score matching at noised points: σ²(tr ∂s/∂x + ½‖s‖²).

    Hyvärinen 2005, theorem 1.  Its mean is smaller than that of ``dsm`` by D/2, for any score.  It differentiates once
    per dimension, so it is only practical in few dimensions.

    ``score``: the score to train or to test.
    ``x``: clean examples, (b, *d).
    ``sigma``: the noise level, one number or one for each example.
    ``label``: the class of each example, (b,), −1 for none; by default the score is unconditional.
    ``generator``: draws the noise; by default torch's own.
    """
    z = noise_like(x, generator)
    noisy = x + expand(sigma, x) * z
    s, curved = curvatures(bind_condition(score, label), noisy, sigma, unit_directions(x), learned=True)
    return sigma**2 * (curved.sum(0) + s.square().flatten(1).sum(1) / 2)


def fisher(score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b"]:
    """The Fisher divergence's integrand ½‖s(x, σ) − ∇ₓ log p_σ(x)‖² against a known score, at noised points ``x``.

    Hyvärinen 2005, equation 2; averaged over x ~ p_σ it is the divergence itself.

    ``score``: the score to test.
    ``truth``: the known score.
    ``x``: noisy examples, (b, *d).
    ``sigma``: the noise level of the points, one number or one for each.
    """
    return (score_at(score, x, sigma) - score_at(truth, x, sigma)).square().flatten(1).sum(1) / 2


Objective = Callable[..., Float[Tensor, "b"]]
"""``objective(score, x, sigma, generator=...)``, with ``label=...`` too if the data has classes: a loss per example."""


def training_loss(
    noise: Proposal, objective: Objective = dsm, *, drop_label: float = 0.1, generator: torch.Generator
) -> Callable[[ScoreModel, Batch], tuple[Float[Tensor, "b"], Float[Tensor, "b"]]]:
    """The loss that ``train`` minimises: an objective at noise levels drawn from ``noise``.

    Returns a function of (model, batch) that gives the losses and the noise levels, one of each per example.  Each
    loss is rescaled to the squared error of the network's output, averaged over dimensions.  With ``dsm`` and the
    default preconditioning, an untrained network has a loss of about 1 at any σ.

    ``noise``: where noise levels are drawn from, such as ``LogNormal``.
    ``objective``: ``objective(score, x, sigma, generator=...)`` → a loss per example, weighted by σ².  It also gets
    ``label=...``, one per example, if a batch has labels.
    ``drop_label``: the share of labelled examples whose class is hidden, so that the network also learns the
    unconditional score, which guidance needs (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    ``generator``: draws dropped labels, noise levels and noise, in this order.
    Raises ValueError, at the first batch, if the objective does not return one loss per example.
    """

    def loss(model: ScoreModel, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        x, label, given = batch
        labels = {}
        if label is not None:
            dropped = torch.rand(len(x), generator=generator, device=x.device) < drop_label
            labels["label"] = label.masked_fill(dropped, -1)
        sigma = noise.sample(len(x), generator=generator)
        losses = objective(bind_condition(model, given), x, sigma, generator=generator, **labels)
        if losses.shape != sigma.shape:
            raise ValueError(f"the objective returned shape {tuple(losses.shape)}; expected ({len(x)},), one loss each")
        return losses * model.residual_weight(sigma) / x.shape[1:].numel(), sigma

    return loss
