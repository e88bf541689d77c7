r"""Distributions whose noised score is known exactly: each one *is* a Score.

Noise of standard deviation σ convolves a density with N(0, σ²I).  For a mixture of Gaussians that only widens the
components; for a ring and for boxes the integrals are Bessel and error functions.  Each class has

``sample(n, generator=…)``   n draws of the clean data, (n, d)
``log_prob(x, sigma)``       log p_σ(x), (b,)
``distribution(x, sigma)``   ∇ₓ log p_σ(x), (b, d); tested against autograd of ``log_prob``
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.score import expand

Sigma = Float[Tensor, ""] | Float[Tensor, "b"]


class Distribution(Protocol):
    """A distribution that can be sampled, and whose score and log density are known at every noise level."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """``n`` independent draws of the clean data."""
        ...

    def log_prob(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats."""
        ...

    def __call__(self, x: Float[Tensor, "b d"], sigma: Sigma, /) -> Float[Tensor, "b d"]:
        """The score ∇ₓ log p_σ(x)."""
        ...


class GaussianMixture:
    """Σ_k w_k N(μ_k, s²I): with added noise the component std becomes √(s² + σ²).

    ``means`` (k, d), ``weights`` (k,) non-negative, normalised here (equal by default), ``std`` ≥ 0 in data units.
    Raises ValueError for weights of another length, negative ones, or a negative std.
    """

    def __init__(
        self, means: Float[Tensor, "k d"], std: float = 1.0, weights: Float[Tensor, "k"] | None = None
    ) -> None:
        weights = torch.ones(len(means)) if weights is None else weights
        if len(weights) != len(means) or bool((weights < 0).any()) or not float(weights.sum()) > 0:
            raise ValueError(f"weights is {weights.tolist()}; {len(means)} non-negative ones are needed, not all zero")
        if std < 0:
            raise ValueError(f"std is {std}; it must not be negative")
        self.means, self.std, self.weights = means, std, weights / weights.sum()

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """``n`` independent draws of the clean data."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        means = self.means[component]
        return means + self.std * torch.randn(means.shape, generator=generator, dtype=means.dtype)

    def _log_joint(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b k"]:
        variance = self.std**2 + expand(sigma, x).to(x.dtype) ** 2
        squared_distance = (x[:, None] - self.means.to(x.dtype)).square().sum(-1)
        log_normal = -squared_distance / (2 * variance) - x.shape[1] / 2 * (2 * math.pi * variance).log()
        return log_normal + self.weights.to(x.dtype).log()

    def log_prob(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats."""
        return self._log_joint(x, sigma).logsumexp(1)

    def __call__(self, x: Float[Tensor, "b d"], sigma: Sigma, /) -> Float[Tensor, "b d"]:
        """The score: the posterior mean of the components' scores (μ_k − x)/(s² + σ²)."""
        posterior = self._log_joint(x, sigma).softmax(1)
        variance = self.std**2 + expand(sigma, x).to(x.dtype) ** 2
        return (posterior @ self.means.to(x.dtype) - x) / variance


class Ring:
    r"""A circle of ``radius`` R with a uniform angle and a radius drawn from N(R, ``std``²), in the plane.

    Its clean density is ∝ N(r; R, s²)/r, so its clean score is (−(r−R)/s² − 1/r)·x/r: the −1/r is the stretch of the
    circumference, easily forgotten.  Noise does not merely add σ² to s²; the exact noised density at distance ρ is

    .. math:: p_σ(x) = \int N(r; R, s^2)\, \frac{1}{2πσ^2} e^{-(ρ-r)^2/2σ^2}\, \mathrm{i0e}(ρr/σ^2)\, dr,

    with i0e the scaled Bessel function that the integral over the angle leaves.  The product of the two Gaussians in
    r is again a Gaussian, around m = (Rσ² + ρs²)/(s² + σ²), against which the smooth rest is integrated by
    Gauss–Hermite quadrature.  Needs R ≫ s, so that radii stay positive.
    Raises ValueError unless radius ≥ 6 std > 0.
    """

    def __init__(self, radius: float = 5.0, std: float = 0.1, nodes: int = 32) -> None:
        if not radius >= 6 * std > 0:
            raise ValueError(f"radius is {radius} and std is {std}; allowed is radius >= 6 std > 0")
        self.radius, self.std = radius, std
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        self.nodes = torch.from_numpy(points)
        self.weights = torch.from_numpy(weights / weights.sum())

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """``n`` independent draws of the clean data."""
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        radius = self.radius + self.std * torch.randn(n, generator=generator)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    def _radii(self, rho: Float[Tensor, "b 1"], variance: Float[Tensor, "b 1"]) -> Float[Tensor, "b nodes"]:
        total = self.std**2 + variance
        mean = (self.radius * variance + rho * self.std**2) / total
        return mean + (self.std**2 * variance / total).sqrt() * self.nodes

    def log_prob(self, x: Float[Tensor, "b 2"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats; σ > 0."""
        rho, variance = torch.linalg.vector_norm(x.double(), dim=1, keepdim=True), expand(sigma, x).double() ** 2
        total = self.std**2 + variance
        bessel = torch.special.i0e(rho * self._radii(rho, variance) / variance) @ self.weights
        gaussian = -((rho - self.radius) ** 2) / (2 * total) - (2 * math.pi * total).log() / 2
        log_prob: Tensor = gaussian[:, 0] + bessel.log() - (2 * math.pi * variance[:, 0]).log() / 2
        return log_prob.to(x.dtype)

    def __call__(self, x: Float[Tensor, "b 2"], sigma: Sigma, /) -> Float[Tensor, "b 2"]:
        """The score, radial by symmetry: d log p_σ/dρ · x/ρ."""
        rho, variance = torch.linalg.vector_norm(x.double(), dim=1, keepdim=True), expand(sigma, x).double() ** 2
        total = self.std**2 + variance
        radii = self._radii(rho, variance)
        z = rho * radii / variance
        value = torch.special.i0e(z)
        # d/dρ of i0e(z(ρ)): i0e′ = i1e − i0e, and the quadrature's centre m moves with ρ at the rate s²/(s² + σ²).
        rate = (radii + rho * self.std**2 / total) / variance
        slope = ((torch.special.i1e(z) - value * z.sign()) * rate) @ self.weights / (value @ self.weights)
        radial = -(rho - self.radius) / total + slope[:, None]
        score: Tensor = radial * x / rho.clamp_min(1e-12)
        return score.to(x.dtype)


class Boxes:
    """Uniform on equal axis-parallel boxes: with noise, a mixture of products of differences of normal cdfs.

    ``lower`` (k, d): the corners with the smallest coordinates; ``side`` > 0: the length of every edge.
    Raises ValueError unless side > 0.
    """

    def __init__(self, lower: Float[Tensor, "k d"], side: float) -> None:
        if not side > 0:
            raise ValueError(f"side is {side}; it must be positive")
        self.lower, self.side = lower, side

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """``n`` independent draws of the clean data."""
        lower = self.lower[torch.randint(len(self.lower), (n,), generator=generator)]
        return lower + self.side * torch.rand(lower.shape, generator=generator)

    def _log_mass(self, x: Float[Tensor, "b d"], sigma: Sigma) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each box's log ∫ N along each axis (b, k, d), the two ends in units of σ, and σ.

        Computed on the side of zero where the normal cdf does not round to one, so that tails stay exact.
        """
        std = expand(sigma, x).double()[..., None]
        low = (self.lower.double() - x.double()[:, None]) / std
        high = low + self.side / std
        flip = low + high > 0
        a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
        log_b, log_a = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
        return log_b + torch.log1p(-(log_a - log_b).exp()), low, high, std

    def log_prob(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats; σ > 0."""
        log_mass, *_ = self._log_mass(x, sigma)
        volume = len(self.lower) * self.side ** x.shape[1]
        return (log_mass.sum(-1).logsumexp(1) - math.log(volume)).to(x.dtype)

    def __call__(self, x: Float[Tensor, "b d"], sigma: Sigma, /) -> Float[Tensor, "b d"]:
        """The score: the posterior mean over boxes of (φ(low) − φ(high))/(σ·mass), axis by axis."""
        log_mass, low, high, std = self._log_mass(x, sigma)
        posterior = log_mass.sum(-1).softmax(1)[..., None]
        log_phi = math.log(2 * math.pi) / 2
        edges = (-(low**2) / 2 - log_phi - log_mass).exp() - (-(high**2) / 2 - log_phi - log_mass).exp()
        return (posterior * edges / std).sum(1).to(x.dtype)


def two_gaussians() -> Distribution:
    """0.2·N((−5,−5), I) + 0.8·N((5,5), I): Song & Ermon 2019, sections 3.2 and 4.3, figures 2 and 3."""
    return GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, torch.tensor([0.2, 0.8]))


def two_moons() -> Distribution:
    """Two interleaved half circles of radius 4, drawn as 2 × 128 Gaussians of std 0.25."""
    t = torch.linspace(0, math.pi, 128)
    upper = torch.stack([4 * t.cos() - 2, 4 * t.sin() - 1], 1)
    lower = torch.stack([2 - 4 * t.cos(), 1 - 4 * t.sin()], 1)
    return GaussianMixture(torch.cat([upper, lower]), 0.25)


def swiss_roll() -> Distribution:
    """A spiral of one and a half turns, drawn as 384 Gaussians of std 0.2 at equal distances along it."""
    dense = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 20_000, dtype=torch.float64)
    length = torch.cumulative_trapezoid((1 + dense**2).sqrt(), dense)
    equal = torch.linspace(0, float(length[-1]), 384, dtype=torch.float64)
    t = dense[torch.searchsorted(length, equal).clamp(max=len(dense) - 1)]
    return GaussianMixture((0.45 * torch.stack([t * t.cos(), t * t.sin()], 1)).float(), 0.2)


def checkerboard() -> Distribution:
    """Uniform on the eight dark squares, of side 3, of a 4 × 4 board on [−6, 6]²."""
    corners = [(3.0 * i - 6, 3.0 * j - 6) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return Boxes(torch.tensor(corners), 3.0)


TOYS: dict[str, Callable[[], Distribution]] = {
    "circle": Ring,
    "gaussian": two_gaussians,
    "moons": two_moons,
    "swiss-roll": swiss_roll,
    "checkerboard": checkerboard,
}
