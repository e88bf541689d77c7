r"""How much each coordinate and each noise level adds to −log p(x), from denoising alone.

Let D(z, σ) be the mean of the clean data given z = x + σn, and D_q that of a Gaussian q.  Then

.. math:: \log q(x) - \log p(x) = \int \left(E\|x - D\|^2 - E\|x - D_q\|^2\right) \frac{d\ln σ}{σ^2}

(Kong et al. 2023, arXiv:2302.03792, theorem 1, for p and for q).  The squares are sums over coordinates, so this says
where and at which scale a point is unlikely.  It takes no derivative of the score, and no flow.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.noise import noise_like
from ncsn.score import Score, expand, tweedie
from ncsn.validation import check_floats, real, whole


@dataclass(frozen=True)
class Surprise:
    """−log p(x) of points, in nats, and what it consists of; ``total`` is the sum of either.

    ``total``: (b,).
    ``standard_error``: the standard error of the total, from repetitions, (b,).
    ``where``: what each coordinate adds, (b, *d).  A coordinate also counts for what it does to others.
    ``at_level``: what each noise level adds, (b, levels), beyond that of the Gaussian q.
    ``levels``: the noise levels, ascending, (levels,).
    ``gaussian``: −log q(x), (b,), which belongs to no level.
    """

    total: Float64[Tensor, "b"]
    standard_error: Float64[Tensor, "b"]
    where: Float64[Tensor, "b *d"]
    at_level: Float64[Tensor, "b levels"]
    levels: Float64[Tensor, "levels"]
    gaussian: Float64[Tensor, "b"]


@torch.no_grad()
def surprise(
    score: Score,
    x: Float[Tensor, "b *d"],
    *,
    sigma_max: float,
    sigma_min: float,
    spread: float = 1.0,
    levels: int = 32,
    repeats: int = 4,
    generator: torch.Generator | None = None,
) -> Surprise:
    """−log p(x) of points, split by coordinate and by noise level, from 2 × ``levels`` × ``repeats`` + 1 evaluations.

    ``score``: the score of the noised data.
    ``x``: points, (b, *d).
    ``sigma_min``: > 0; finer detail of the density is left out.
    ``sigma_max``: a level at which only the mean of the data is known.
    ``spread``: a typical standard deviation of a coordinate, that of q.  It changes the error, not what is estimated.
    ``levels``: in the result.
    ``repeats``: how often the estimate is repeated, each time with noise and levels of its own, at least 2.
    ``generator``: draws these, on x's device.
    Returns the total, its standard error, and its parts, in nats, on the CPU.
    Raises ValueError for a single number, and unless ∞ > σ_max > σ_min > 0, levels ≥ 1 and repeats ≥ 2.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2), std=0.5)
    >>> points = torch.tensor([[0.0, 2.0]])  # the second coordinate is four standard deviations from its mean
    >>> surprise = ncsn.surprise(score, points, sigma_max=50, sigma_min=0.01, generator=torch.manual_seed(0))
    >>> surprise.where.round()  # exactly: log(0.5 √2π) = 0.2, and 0.2 + 4²/2 = 8.2
    tensor([[0., 8.]], dtype=torch.float64)
    """
    check_floats("x", x)
    if not x.ndim:
        raise ValueError("x is a single number; expected points (b, *d)")
    if not real("sigma_max", sigma_max) > real("sigma_min", sigma_min, above=0):
        raise ValueError(f"sigma_max, sigma_min are {sigma_max}, {sigma_min}; expected sigma_max > sigma_min > 0")
    levels, repeats = whole("levels", levels, 1), whole("repeats", repeats, 2)
    variance = real("spread", spread, above=0) ** 2
    width = math.log(sigma_max / sigma_min) / levels
    mean = tweedie(score, x, torch.tensor(sigma_max).to(x)).double()
    clean = x.double()
    additions = torch.zeros(repeats, levels, *x.shape).double()
    for repeat in range(repeats):
        for level in range(levels):
            place = torch.rand(len(x), generator=generator, device=x.device, dtype=torch.float64)
            sigma = sigma_min * torch.exp((level + place) * width)
            std = expand(sigma, clean)
            noise = noise_like(x, generator)
            for signed in (noise, -noise):  # antithetic: what is linear in the noise cancels
                noised = x + std.to(x) * signed
                error = clean - tweedie(score, noised, sigma.to(x)).double()
                of_gaussian = clean - mean - variance / (variance + std**2) * (noised.double() - mean)
                excess = (error**2 - of_gaussian**2) / std**2
                additions[repeat, level] += excess.cpu() * width / 2
    square = (clean - mean) ** 2 / variance
    by_gaussian = (square + math.log(2 * math.pi * variance)).cpu() / 2
    totals = additions.sum(1).flatten(2).sum(2)
    gaussian = by_gaussian.flatten(1).sum(1)
    return Surprise(
        total=gaussian + totals.mean(0),
        standard_error=totals.std(0) / repeats**0.5,
        where=by_gaussian + additions.mean(0).sum(0),
        at_level=additions.mean(0).flatten(2).sum(2).T,
        levels=sigma_min * torch.exp((torch.arange(levels).double() + 0.5) * width),
        gaussian=gaussian,
    )
