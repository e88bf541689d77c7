r"""Solving linear inverse problems with a prior: y = A x + n, n ~ N(0, σ_y² I), where x is what the score knows about.

The score of the posterior is that of the prior plus that of the likelihood,
∇ log p_σ(x | y) = s(x, σ) + ∇ log p_σ(y | x).
So a posterior *is* a Score, and every sampler draws from it.  Measurements A are plain differentiable functions; their
transposes come from automatic differentiation.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ncsn.score import Score, expand, tweedie

Measurement = Callable[[Tensor], Tensor]
"""A linear function of a batch of examples, (b, *d) → (b, *m)."""


def masked(known: Bool[Tensor, "*d"]) -> Measurement:
    """What is known of an example: the pixels where ``known``, (b, *d) → (b, m)."""
    return lambda x: x[:, known]


def downsampled(factor: int) -> Measurement:
    """Means over squares of ``factor`` × ``factor`` pixels, (b, c, h, w) → (b, c, h/factor, w/factor)."""
    return lambda x: F.avg_pool2d(x, factor)


def blurred(std: float) -> Measurement:
    """Convolution with a Gaussian of standard deviation ``std`` pixels, cut off at three of them, zeros outside."""
    radius = max(1, round(3 * std))
    offsets = torch.arange(-radius, radius + 1)
    weights = (-(offsets**2) / (2 * std**2)).exp()
    kernel = weights[:, None] * weights / weights.sum() ** 2

    def blur(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        channels = x.shape[1]
        return F.conv2d(x, kernel.to(x).expand(channels, 1, -1, -1), padding=radius, groups=channels)

    return blur


def identity(x: Tensor) -> Tensor:
    """The measurement of denoising: everything, as it is."""
    return x


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Float[Tensor, "n *m"], steps: int) -> Tensor:
    """An approximate solution u of M u = b for a symmetric positive definite M, example by example.

    Hestenes & Stiefel 1952.  ``product``: u ↦ M u for a batch.
    """

    def dot(v: Tensor, w: Tensor) -> Tensor:
        return expand((v * w).flatten(1).sum(1), b)

    tiny = torch.finfo(b.dtype).tiny
    u, residual = torch.zeros_like(b), b
    direction, square = residual, dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        length = square / dot(direction, image).clamp(min=tiny)
        u, residual = u + length * direction, residual - length * image
        square, before = dot(residual, residual), square
        direction = residual + square / before.clamp(min=tiny) * direction
    return u


def posterior(
    score: Score, measure: Measurement, y: Float[Tensor, "b *m"], noise_std: float, *, steps: int = 3
) -> Score:
    """The score of p_σ(x | y) by moment matching: p(x₀ | x) is taken for the Gaussian of its exact mean and covariance.

    With D(x) = E[x₀ | x] and Cov[x₀ | x] = σ² ∂D/∂x (Tweedie's formulas), y given x is N(A D, σ_y² I + A Cov Aᵀ), and
    ∇ₓ log p_σ(y | x) is ∂D/∂xᵀ Aᵀ (σ_y² I + A Cov Aᵀ)⁻¹ (y − A D).  MMPS: Rozet et al. 2024 (arXiv:2405.13712),
    section 4.2.  Exact for a Gaussian prior.  The inverse is by ``steps`` of conjugate gradients, one backward pass
    each; with no step it would be the prior.  ``noise_std``: σ_y > 0 in the units of y.
    Raises ValueError unless noise_std > 0 and steps ≥ 1.
    """
    if not noise_std > 0:
        raise ValueError(f"noise_std is {noise_std}; it must be positive")
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")

    def evaluate(x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /) -> Float[Tensor, "b *d"]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = tweedie(score, x, sigma)
            expected = measure(denoised)

        def pull_back(u: Tensor) -> Tensor:
            """∂D/∂xᵀ Aᵀ u; as ∂D/∂x is symmetric, σ² times it is Cov Aᵀ u."""
            return torch.autograd.grad(expected, x, u, retain_graph=True)[0]

        def covariance(u: Tensor) -> Tensor:
            return noise_std**2 * u + measure(expand(sigma, x) ** 2 * pull_back(u))

        u = conjugate_gradient(covariance, y - expected.detach(), steps)
        return (denoised.detach() - x.detach()) / expand(sigma, x) ** 2 + pull_back(u)

    return evaluate


def replacement(
    score: Score, known: Bool[Tensor, "*d"], y: Float[Tensor, "b *d"], *, generator: torch.Generator | None = None
) -> Score:
    """Inpainting as in Song & Ermon 2019, appendix B.3, algorithm 2: known pixels follow the data, noised afresh.

    The prior's score is evaluated where the ``known`` pixels of x are replaced by y + σz; there, the posterior's score
    is that of N(y, σ²), and elsewhere the prior's.  Noised to the level's σ, not pasted clean: the network has only
    seen examples whose pixels all have the same noise.
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /) -> Float[Tensor, "b *d"]:
        std = expand(sigma, x)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        s = score(torch.where(known, y + std * z, x), sigma)
        return torch.where(known, (y - x) / std**2, s)

    return evaluate
