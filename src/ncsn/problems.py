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

from ncsn.machine import hardware
from ncsn.score import Score, Sigma, expand, tweedie
from ncsn.validation import Region

Measurement = Callable[[Tensor], Tensor]
"""A linear function of a batch of examples, (b, *d) → (b, *m)."""

RANDOM_SHARE = 0.25  # of the pixels that are known when the hidden ones are random


def known_pixels(
    shape: tuple[int, int, int], hide: Region, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "c h w"]:
    """What is known of an image when a region of it is hidden.

    ``shape``: (c, h, w) of the image.
    ``hide``: a half, the centre, or three quarters of the pixels at random; a pixel is hidden in all its channels.
    """
    _, height, width = shape
    if hide == "random":
        device = "cpu" if generator is None else generator.device
        return (torch.rand(1, height, width, generator=generator, device=device) < RANDOM_SHARE).expand(shape)
    rows = {"top": slice(height // 2), "bottom": slice(height // 2, None)}.get(hide, slice(None))
    columns = {"left": slice(width // 2), "right": slice(width // 2, None)}.get(hide, slice(None))
    if hide == "centre":
        rows = slice(height // 4, height - height // 4)
        columns = slice(width // 4, width - width // 4)
    known = torch.ones(shape, dtype=torch.bool, device="cpu")
    known[:, rows, columns] = False
    return known


def mean_filled(known: Bool[Tensor, "c h w"], y: Float[Tensor, "b m"]) -> Float[Tensor, "b c h w"]:
    """Images of the known pixels ``y``, and of their mean elsewhere: the guess of somebody without a prior."""
    images = y.mean(1)[:, None, None, None].repeat(1, *known.shape)
    images[:, known] = y
    return images


@torch.inference_mode(False)
def masked(known: Bool[Tensor, "*d"]) -> Measurement:
    """What is known of an example: the pixels where ``known``, (b, *d) → (b, m)."""
    where = known.clone()
    return lambda x: x[:, where]


def downsampled(factor: int) -> Measurement:
    """Means over squares of ``factor`` × ``factor`` pixels, (b, c, h, w) → (b, c, h/factor, w/factor)."""
    return lambda x: F.avg_pool2d(x, factor)


@torch.inference_mode(False)
def blurred(std: float) -> Measurement:
    """Convolution with a Gaussian of standard deviation ``std`` pixels, cut off at three of them, zeros outside."""
    radius = max(1, round(3 * std))
    offsets = torch.arange(-radius, radius + 1, device="cpu")
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

    Hestenes & Stiefel 1952.  ``product``: u ↦ M u for a batch.  Where M bends the other way along a direction d,
    dᵀMd ≤ 0, as with the covariance of a score that was learned, an example keeps what it has reached so far.
    """

    def dot(v: Tensor, w: Tensor) -> Tensor:
        return expand((v * w)[:, None].flatten(1).sum(1), b)

    tiny = torch.finfo(b.dtype).tiny
    u, residual, direction = torch.zeros_like(b), b, b
    square = dot(residual, residual)
    convex = torch.ones_like(square, dtype=torch.bool)
    for _ in range(steps):
        image = product(direction)
        bend = dot(direction, image)
        convex = convex & (bend > 0)
        length = torch.where(convex, square / bend.clamp(min=tiny), 0.0)
        u = u + length * direction
        residual = residual - torch.where(convex, length * image, 0.0)
        before, square = square, dot(residual, residual)
        direction = residual + square / before.clamp(min=tiny) * direction
    return u


def standardised(
    measure: Measurement,
    y: Tensor,
    noise_std: float | Tensor,
    *,
    example: Float[Tensor, "1 *d"],
    shift: Float[Tensor, "*d"] | float = 0.0,
    scale: Float[Tensor, "*d"] | float = 1.0,
) -> tuple[Measurement, Float[Tensor, "k *m"], float]:
    """A measurement in the user's units as ``posterior`` takes it: A, y and σ_y of what the score knows.

    ``y``: one measurement (*m), or several (k, *m).
    ``noise_std``: σ_y > 0, one number, or a tensor that broadcasts against y; then A and y are divided by it, and the
    noise is 1.
    ``example``: one for its shape, type and device.
    ``shift``, ``scale``: the user's example is shift + scale·z, where z is the score's.
    Raises ValueError for a ``y`` that is no measurement, and for noise that is not positive.
    """
    noise = torch.as_tensor(noise_std, dtype=torch.float32, device=example.device)
    if not bool((noise > 0).all()):
        raise ValueError(f"noise_std is {noise_std}; it must be positive")
    divisor = noise if noise.ndim else 1.0
    zero = torch.zeros_like(example)

    def linear(v: Tensor) -> Tensor:
        return measure(torch.as_tensor(scale, dtype=v.dtype, device=v.device) * v) / divisor

    expected = linear(zero).shape[1:]
    target = y.to(zero)
    if target.shape == expected:
        target = target[None]
    if target.shape[1:] != expected:
        raise ValueError(f"y has shape {tuple(y.shape)}; a measurement has {tuple(expected)}, or (n, ...) of them")
    target = target - measure(torch.as_tensor(shift, dtype=zero.dtype, device=zero.device) + zero)
    return linear, target / divisor, 1.0 if noise.ndim else float(noise)


def posterior(
    score: Score, measure: Measurement, y: Float[Tensor, "b *m"], noise_std: float, *, steps: int = 3
) -> Score:
    """The score of p_σ(x | y) by moment matching: p(x₀ | x) is taken for the Gaussian of its exact mean and covariance.

    With D(x) = E[x₀ | x] and Cov[x₀ | x] = σ² ∂D/∂x (Tweedie's formulas), y given x is N(A D, σ_y² I + A Cov Aᵀ), and
    ∇ₓ log p_σ(y | x) is ∂D/∂xᵀ Aᵀ (σ_y² I + A Cov Aᵀ)⁻¹ (y − A D).  MMPS: Rozet et al. 2024 (arXiv:2405.13712),
    section 4.2.  It is exact for a Gaussian prior.  Where the prior's modes compete it is not, for it takes the two
    together for one wide Gaussian: of N((−5, −5), I) and N((5, 5), I), and y = 1 ± 2 for the first coordinate, it gives
    the left one a weight of 0.35 instead of 0.12.

    ``score``: of the prior.  ``measure``: A.  ``y``: one measurement for each example.
    ``noise_std``: σ_y > 0 in the units of y.
    ``steps``: of conjugate gradients for the inverse, at least 1; each takes one backward pass.
    Raises ValueError unless noise_std > 0 and steps ≥ 1; the score does where y does not have the shape of A x.
    """
    if not noise_std > 0:
        raise ValueError(f"noise_std is {noise_std}; it must be positive")
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least 1 is needed")

    @torch.inference_mode(False)
    @torch.enable_grad()
    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        # Copies: what was made in inference mode takes no part in automatic differentiation.
        x = x.detach().clone().requires_grad_()
        sigma = sigma.clone() if isinstance(sigma, Tensor) else sigma
        variance = expand(sigma, x) ** 2
        with hardware.uncompiled():  # for its gradient is asked for again at every step of the solver
            denoised = tweedie(score, x, sigma)
        expected = measure(denoised)
        if y.shape != expected.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}; measured, x has shape {tuple(expected.shape)}")

        def pull_back(u: Tensor) -> Tensor:
            """∂D/∂xᵀ Aᵀ u; as ∂D/∂x is symmetric, σ² times it is Cov Aᵀ u."""
            return torch.autograd.grad(expected, x, u, retain_graph=True)[0]

        def covariance(u: Tensor) -> Tensor:
            return noise_std**2 * u + measure(variance * pull_back(u))

        with torch.no_grad():
            u = conjugate_gradient(covariance, y - expected, steps)
            return (denoised - x) / variance + pull_back(u)

    return evaluate


def replacement(
    score: Score, known: Bool[Tensor, "*d"], y: Float[Tensor, "b *d"], *, generator: torch.Generator | None = None
) -> Score:
    """Inpainting as in Song & Ermon 2019, appendix B.3, algorithm 2: known pixels follow the data, noised afresh.

    The prior's score is evaluated where the ``known`` pixels of x are replaced by y + σz; there, the posterior's score
    is that of N(y, σ²), and elsewhere the prior's.  Noised to the level's σ, not pasted clean: the network has only
    seen examples whose pixels all have the same noise.

    For ``annealed_langevin`` only, whose steps on each level let the unknown pixels come to terms with fresh noise of
    the known ones again and again.  Samplers that pass a level once do not sample the posterior: of two coordinates
    with correlation 0.9 and the first known to be 1.5, the second is 0.94 ± 0.56 by dpmpp-sde, not 1.35 ± 0.44.
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        std = expand(sigma, x)
        z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        s = score(torch.where(known, y + std * z, x), sigma)
        return torch.where(known, (y - x) / std**2, s)

    return evaluate
