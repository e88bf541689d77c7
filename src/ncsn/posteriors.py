"""Posteriors: a prior's score, an observation, and a way to move: moment matching, particles, replacement.

An observation is y = A x + n with n ~ N(0, σ_y² I).  A is a plain differentiable function, whose transpose comes from
automatic differentiation.  The score of the posterior is that of the prior plus that of the likelihood,
∇ log p_σ(x | y) = s(x, σ) + ∇ log p_σ(y | x).
So a posterior *is* a Score, and every sampler draws from it.  Moment matching takes x₀ given x for a Gaussian; where
that is too rough, particles correct it: samples with weights, which go down the noise levels together, are weighed and
resampled, and are right in the limit of many.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ncsn.machine import hardware
from ncsn.machine.tensors import Copies
from ncsn.measurements import Measurement as Measurement
from ncsn.measurements import Observation, apply, as_mask, constant_part, repeat_for
from ncsn.measurements import blurred as blurred
from ncsn.measurements import downsampled as downsampled
from ncsn.measurements import known_pixels as known_pixels
from ncsn.measurements import masked as masked
from ncsn.noise import lengths, noise_like
from ncsn.particles import Populations, Weight
from ncsn.prior import Classes, Prior
from ncsn.samplers import Step
from ncsn.score import Score, Sigma, expand, tweedie
from ncsn.validation import as_numbers, real, whole


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Float[Tensor, "n *m"], steps: int, least: float = 0.0
) -> tuple[Float[Tensor, "n k"], list[Float[Tensor, "n *m"]]]:
    """An approximate solution u of M u = b for a symmetric positive definite M, example by example.

    It is returned as coefficients and the vectors that ``product`` was asked for, see ``combine``.

    This is what conjugate gradients find (Hestenes & Stiefel 1952), the best u in M's own norm in the space of b, M b,
    M² b, …, here from an orthonormal basis of that space (Lanczos 1950).  With the covariance of a learned score, M is
    neither quite symmetric nor always positive.  Its symmetric part is taken, and directions in which that is below
    ``least`` are left out, so u is at most |b|/``least`` long, however many steps there are.

    ``product``: u ↦ M u for a batch.
    ``steps``: the number of products.
    ``least``: a lower bound of M's eigenvalues.
    """
    tiny = torch.finfo(b.dtype).tiny ** 0.5
    b_rows = b[:, None].flatten(1)
    steps = min(steps, b_rows.shape[1])  # the space has no more dimensions
    basis = [b_rows / lengths(b_rows)[:, None].clamp(min=tiny)]
    images = list[Tensor]()  # M times each vector of the basis
    for _ in range(steps):
        image = product(basis[-1].view_as(b))[:, None].flatten(1)
        images.append(image)
        remainder = image
        for v in 2 * basis:  # twice, because rounding leaves a little of each vector the first time
            remainder = remainder - (remainder * v).sum(1, keepdim=True) * v
        length = lengths(remainder)[:, None]
        is_new = length > 1e-5 * lengths(image)[:, None]  # otherwise the space is complete
        basis.append(torch.where(is_new, remainder / length.clamp(min=tiny), 0.0))
    space = torch.stack(basis[:steps], 1)
    projected = for_eigh(space @ torch.stack(images, 1).mT)
    values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
    # Where only noise is measured, rounding takes a little from the least value.
    inverse = torch.where((values > 0.999 * least) & (values > 0), 1 / values, 0.0)
    coefficients = vectors @ (inverse[..., None] * (vectors.mT @ for_eigh(space @ b_rows[..., None])))
    return coefficients[..., 0].to(b.device), [v.view_as(b) for v in basis[:steps]]


def combine(coefficients: Float[Tensor, "n k"], vectors: list[Float[Tensor, "n *m"]]) -> Float[Tensor, "n *m"]:
    """The sum of k vectors times their coefficients, example by example."""
    total: Tensor = torch.einsum("nk,nk...->n...", coefficients, torch.stack(vectors, 1))
    return total


def for_eigh(matrices: Tensor) -> Tensor:
    """Small matrices where they have eigenvectors: Apple's GPUs find none."""
    return matrices.cpu() if matrices.device.type == "mps" else matrices


def posterior(
    score: Score,
    measure: Measurement,
    y: Float[Tensor, "b *m"],
    noise_std: float,
    *,
    steps: int = 3,
) -> Score:
    """The score of p_σ(x | y) by moment matching: p(x₀ | x) is replaced by a Gaussian with its mean and covariance.

    With D(x) = E[x₀ | x] and Cov[x₀ | x] = σ² ∂D/∂x (Tweedie's formulas), y given x is N(A D, σ_y² I + A Cov Aᵀ), and
    ∇ₓ log p_σ(y | x) is ∂D/∂xᵀ Aᵀ (σ_y² I + A Cov Aᵀ)⁻¹ (y − A D).  MMPS: Rozet et al. 2024 (arXiv:2405.13712),
    section 4.2.  For a Gaussian prior it is exact, with as many ``steps`` as y has numbers.  Where the prior's modes
    compete it isn't, because it treats them as one wide Gaussian; the particles of ``Run.posterior`` correct that.

    ``score``: the prior's score.
    ``measure``: A, a linear function of a batch of examples, (b, *d) → (b, *m); it may add a constant.
    ``y``: one measurement for each example, (b, *m).
    ``noise_std``: σ_y > 0 in the units of y.
    ``steps``: conjugate-gradient steps, at least 1; each takes one backward pass.
    Raises ValueError unless noise_std > 0 and steps ≥ 1.  The score raises ValueError if A isn't linear, or if y
    doesn't have the shape of A x.

    >>> prior = ncsn.GaussianMixture(torch.zeros(1, 2))
    >>> first = lambda x: x[:, :1]
    >>> score = ncsn.posterior(prior, first, torch.tensor([[2.0]]), noise_std=1.0)
    >>> ncsn.tweedie(score, torch.zeros(1, 2), 100.0).round(decimals=2)  # half of 2, and 0: the posterior's mean
    tensor([[1., 0.]])
    """
    noise_std, steps = real("noise_std", noise_std, above=0), whole("steps", steps, 1)
    measure = partial(apply, measure)

    @cache  # checked once for each device, because that waits for a GPU
    def constant_of(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return constant_part(measure, torch.zeros(1, *shape, dtype=dtype, device=device))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        # Copies, because tensors made in inference mode can't be differentiated.
        x = x.detach().clone().requires_grad_()
        sigma = sigma.clone() if isinstance(sigma, Tensor) else sigma
        variance = expand(sigma, x) ** 2
        with hardware.uncompiled():  # because every step of the solver differentiates it again
            denoised = tweedie(score, x, sigma)
        expected = measure(denoised)
        if y.shape != expected.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}; expected {tuple(expected.shape)}, that of measure(x)")
        constant = constant_of(x.shape[1:], x.dtype, x.device)
        pulled_back = list[Tensor]()  # ∂D/∂xᵀ Aᵀ u; as ∂D/∂x is symmetric, σ² times it is Cov Aᵀ u

        def covariance(u: Tensor) -> Tensor:
            pulled_back.append(torch.autograd.grad(expected, x, u, retain_graph=True)[0])
            return noise_std**2 * u + (measure(variance * pulled_back[-1]) - constant)

        with torch.no_grad():
            coefficients, _ = conjugate_gradient(covariance, y - expected, steps, noise_std**2)
            return (denoised - x) / variance + combine(coefficients, pulled_back)

    return evaluate


def replacement(
    score: Score, known: Bool[Tensor, "*d"], y: Float[Tensor, "b *d"], *, generator: torch.Generator | None = None
) -> Score:
    """Inpainting after Song & Ermon 2019, appendix B.3, algorithm 2: known pixels follow the data, with fresh noise.

    The prior's score is evaluated where the ``known`` pixels of x are replaced by y + σz; there, the posterior's score
    is that of N(y, σ²), and elsewhere the prior's.  The paper draws the noise once per level; this does at
    every evaluation.

    For ``annealed_langevin`` only, whose steps at each level let the unknown pixels adapt to fresh noise of the known
    ones.  For two coordinates with correlation 0.9, the first of which is known to be 1.5, the second should be
    1.35 ± 0.44.  It is 0.94 ± 0.56 by dpmpp-sde, and by annealed Langevin dynamics on 100 levels 1.28 ± 0.49 with two
    steps per level and 1.32 ± 0.45 with five.

    ``score``: the prior's score.
    ``known``: True where a number of an example is known, (*d).
    ``y``: the known numbers, one example for each sample, (b, *d); the others are ignored.
    ``generator``: draws the fresh noise; by default torch's own.
    Raises ValueError unless ``known`` has booleans; the score does if ``y`` doesn't have the shape of x.
    """
    copies = Copies(as_mask(known)), Copies(as_numbers("y", y))

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        (mask,), (target,) = (copy.on(x.device) for copy in copies)
        if target.shape != x.shape or mask.shape != x.shape[1:]:
            shapes = f"known has shape {tuple(mask.shape)}, y {tuple(target.shape)}, and x {tuple(x.shape)}"
            raise ValueError(f"{shapes}; expected (*d), (b, *d) and (b, *d)")
        std, z = expand(sigma, x), noise_like(x, generator)
        s = score(torch.where(mask, target + std * z, x), sigma)
        return torch.where(mask, (target - x) / std**2, s)

    return evaluate


@dataclass(frozen=True, eq=False)
class Posterior:
    """The score ∇ₓ log p_σ(x | y), from a prior's score and an observation.  Subclasses are the methods.

    ``prior``: the score of p_σ(x).
    ``caveat``: what a message says about samples that are drawn without particles.
    """

    prior: Score
    caveat: ClassVar[str] = ""

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return 1

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        """The posterior's score for batches of ``n`` examples, where ``prior`` evaluates the prior's score."""
        raise NotImplementedError

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The posterior's score ∇ₓ log p_σ(x | y) at ``x``, (b, *d)."""
        return self.score(self.prior, len(x), None)(x, sigma)

    def states(self, prior: Prior, n: int, labels: Classes) -> Iterator[tuple[Step, Weight | None]]:
        """The states of ``n`` samples down the noise levels, in the units of the score, and the weights of particles.

        ``prior``: where samples start, and the score they follow.
        ``labels``: the classes of the samples.
        """
        score = self.score(prior.score(n, labels), n, prior.generator)
        for step in prior.sampling.follow(score, prior.start(n, labels), generator=prior.generator):
            yield step, None

    def count_disagreeing(self, x: Float[Tensor, "n *d"]) -> int:
        """How many of the samples ``x`` are farther from the measurement than its noise explains."""
        return 0


@dataclass(frozen=True, eq=False)
class MomentMatching(Posterior):
    """The posterior by ``ncsn.posterior``, or by particles, which move by the same Gaussians.

    ``observation``: the measurement, in the units of the score.
    ``solver_steps``: conjugate-gradient steps.
    ``populations``: the particles that samples are drawn with; by default none.
    """

    observation: Observation
    solver_steps: int = 3
    populations: Populations | None = None
    caveat = "; approximate where several answers compete (moment matching)"

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return 1 if self.populations is None else self.populations.size

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        observation = self.observation
        y = repeat_for(observation.y, n)
        return posterior(prior, observation.measure, y, observation.noise_std, steps=self.solver_steps)

    def with_particles(self, n: int, size: int | None, *, shape: tuple[int, ...], labels: Classes) -> "MomentMatching":
        """The posterior with the particles for ``n`` samples, see ``Populations.of``."""
        return replace(self, populations=Populations.of(self.observation, n, size, shape=shape, labels=labels))

    def states(self, prior: Prior, n: int, labels: Classes) -> Iterator[tuple[Step, Weight | None]]:
        if self.populations is not None:
            return self.populations.states(self.observation, prior, labels)
        self.observation.warn_if_precise(prior.sampling.sigma_min, prior.shape)
        return super().states(prior, n, labels)

    def count_disagreeing(self, x: Float[Tensor, "n *d"]) -> int:
        return self.observation.count_disagreeing(x)


@dataclass(frozen=True, eq=False)
class Replacement(Posterior):
    """The posterior by ``ncsn.replacement``, for annealed Langevin dynamics.

    ``known``: True where a number of an example is known, (*d).
    ``y``: one example, or one for each sample.
    """

    known: Bool[Tensor, "*d"]
    y: Float[Tensor, "k *d"]

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        return replacement(prior, self.known, repeat_for(self.y, n), generator=generator)
