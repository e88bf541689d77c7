r"""Distributions whose noised score is known exactly: each one *is* a Score.

Noise of standard deviation σ convolves a density with N(0, σ²I).  For a mixture of Gaussians that only widens the
components; for a ring there remains an integral over angles.  Each class has

``sample(n, generator=…)``   n draws of the clean data, (n, d)
``log_prob(x, sigma)``       log p_σ(x), (b,)
``distribution(x, sigma)``   ∇ₓ log p_σ(x), (b, d); tested against autograd of ``log_prob``
"""

import math
import reprlib
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.machine.tensors import Copies, float64
from ncsn.noise import device_of
from ncsn.score import Score, Sigma, expand
from ncsn.validation import as_floats, as_numbers, check_floats, real, whole


@runtime_checkable
class Distribution(Score, Protocol):
    """A score with a sampler and with a known log density at every noise level."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """``n`` independent draws of the clean data, on the generator's device, or on the CPU without one."""

    def log_prob(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats."""


def check_points(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``x`` has floating-point numbers (b, *shape); others would be broadcast."""
    check_floats("x", x)
    if tuple(x.shape[1:]) != shape or not x.ndim:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected {('b', *shape)}".replace("'", ""))


class GaussianMixture:
    """Σ_k w_k N(μ_k, s²I): with added noise the component std becomes √(s² + σ²).

    ``means``: μ, (k, d).
    ``std``: s ≥ 0, of every component.
    ``weights``: w, (k,), non-negative and normalised here; equal by default.
    Raises ValueError for weights of another length or with negative numbers, and for numbers that are not finite.

    >>> mixture = ncsn.GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 0.0]]))
    >>> mixture(torch.tensor([[2.0, 1.0]]), 0.0)  # the score points to the nearer component
    tensor([[ 1.0000, -1.0000]])
    """

    @torch.inference_mode(False)
    def __init__(
        self, means: Float[Tensor, "k d"], std: float = 1.0, weights: Float[Tensor, "k"] | None = None
    ) -> None:
        means = as_floats("means", means, "n, d")
        if weights is None:
            weights = torch.ones(len(means), device=means.device)
        else:
            weights = as_floats("weights", weights, "n,")
        if len(weights) != len(means) or not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < math.inf:
            raise ValueError(f"weights is {weights.tolist()}; expected {len(means)} non-negative numbers, not all zero")
        self.means = means.clone()
        self.std = real("std", std, 0)
        self.weights = weights / weights.sum()
        self.copies = Copies(self.means, self.weights)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """``n`` independent draws of the clean data, (n, d).

        ``generator``: draws them, on its device; by default torch's global one, on the CPU.
        """
        n, device = whole("n", n, 1), device_of(generator)
        component_means, weights = self.copies.on(device)
        component = torch.multinomial(weights, n, replacement=True, generator=generator)
        means = component_means[component]
        return means + self.std * torch.randn(means.shape, generator=generator, dtype=means.dtype, device=device)

    def variance(self, sigma: Sigma, x: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        """The variance of each component with noise, s² + σ²."""
        return self.std**2 + expand(sigma, x, zero=self.std > 0) ** 2

    def _log_joint(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b k"]:
        check_points(x, self.means.shape[1:])
        variance = self.variance(sigma, x)
        means, weights = self.copies.on(x.device)
        squared_distance = (x[:, None] - means.to(x)).square().sum(-1)
        log_normal = -squared_distance / (2 * variance) - x.shape[1] / 2 * (2 * math.pi * variance).log()
        return log_normal + weights.to(x).log()

    def log_prob(self, x: Float[Tensor, "b d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats.

        ``x``: where to evaluate it, (b, d).
        ``sigma``: the noise level, one number or one for each point.
        """
        return self._log_joint(x, sigma).logsumexp(1)

    def __call__(self, x: Float[Tensor, "b d"], sigma: Sigma, /) -> Float[Tensor, "b d"]:
        """The score: the posterior mean of the components' scores (μ_k − x)/(s² + σ²).

        ``x``: where to evaluate it, (b, d).
        ``sigma``: the noise level, one number or one for each point.
        """
        posterior = self._log_joint(x, sigma).softmax(1)
        means, _ = self.copies.on(x.device)
        return (posterior @ means.to(x) - x) / self.variance(sigma, x)


class Ring:
    r"""A circle of ``radius`` R with a uniform angle and a radius drawn from N(R, ``std``²), in the plane.

    Its clean density is ∝ N(r; R, s²)/r, so its clean score is (−(r−R)/s² − 1/r)·x/r: the easily forgotten −1/r
    comes from the growing circumference.  Noise does not merely add σ² to s²: each direction's points are a Gaussian
    along a line, which noise widens to T = s² + σ² along it and to σ² across, and the exact noised density at distance
    ρ is the mean over the angle θ between the two,

    .. math:: p_σ(x) = \frac{1}{2π} \int_0^{2π} N(ρ\cos θ; R, T)\, N(ρ\sin θ; 0, σ^2)\, dθ,

    whose integrand is e^(A cos²θ + B cos θ) times a constant, with A = ρ²s²/(2σ²T) and B = ρR/T.

    ``radius``: R.
    ``std``: s.
    ``nodes``: of the Gauss–Legendre quadrature, which covers the angles near θ = 0 and θ = π where the integrand isn't
    0.
    Raises ValueError unless radius ≥ 6 std > 0, so that negative radii, which are points on the other side, are rare.
    """

    def __init__(self, radius: float = 5.0, std: float = 0.1, nodes: int = 64) -> None:
        self.radius = real("radius", radius)
        self.std = real("std", std, above=0)
        if not self.radius >= 6 * self.std:
            raise ValueError(f"radius is {radius} and std is {std}; expected radius >= 6 std > 0")
        points, weights = np.polynomial.legendre.leggauss(whole("nodes", nodes, 1))
        self.quadrature = Copies(torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2))

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """``n`` independent draws of the clean data, (n, 2).

        ``generator``: draws them, on its device; by default torch's global one, on the CPU.
        """
        n, device = whole("n", n, 1), device_of(generator)
        angle = 2 * math.pi * torch.rand(n, generator=generator, device=device)
        radius = self.radius + self.std * torch.randn(n, generator=generator, device=device)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    def _integral(
        self, x: Float[Tensor, "b 2"], sigma: Sigma
    ) -> tuple[Tensor, Tensor, Float[Tensor, "b nodes"], Float[Tensor, "b nodes"], Float[Tensor, "b nodes"]]:
        """ρ and σ², (b, 1), sin²(θ/2) at the nodes of a quarter circle, and the weighted integrand there and at π − θ.

        The integrand is e^(A cos²θ + B cos θ)/π, divided by its value at θ = 0, so that nothing overflows.
        """
        check_points(x, (2,))
        rho = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        variance = expand(sigma, x) ** 2
        total = self.std**2 + variance
        a = rho**2 * self.std**2 / (2 * variance * total)
        b = rho * self.radius / total
        # The integrand's width is 1/√(2A + B), and it vanishes beyond thirteen of them.
        width = (13 / (2 * a + b).sqrt()).clamp(max=math.pi / 2).detach()
        nodes, weights = self.quadrature.on(rho.device)
        half = (width * nodes / 2).sin() ** 2
        step = width * weights / math.pi
        across = -4 * a * half * (1 - half)
        near = step * (across - 2 * b * half).exp()
        far = step * (across - 2 * b * (1 - half)).exp()
        return rho, variance, half, near, far

    def log_prob(self, x: Float[Tensor, "b 2"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats; σ > 0.

        ``x``: where to evaluate it, (b, 2).
        ``sigma``: the noise level, one number or one for each point.
        """
        rho, variance, _, near, far = self._integral(float64(x), sigma)
        total = self.std**2 + variance
        peak = -((rho - self.radius) ** 2) / (2 * total) - (variance * total).log() / 2 - math.log(2 * math.pi)
        log_prob: Tensor = peak[:, 0] + (near + far).sum(1).log()
        return log_prob.to(x)

    def __call__(self, x: Float[Tensor, "b 2"], sigma: Sigma, /) -> Float[Tensor, "b 2"]:
        """The score, radial by symmetry: d log p_σ/dρ · x/ρ, smooth at the centre, where it is zero.

        With E the mean over θ by the integrand, d log p_σ/dρ = −ρ/σ² + ρs²/(σ²T)·E[cos²θ] + R/T·E[cos θ].  Integrating
        by parts, E[cos θ] = E[(2A cos θ + B) sin²θ], which avoids differences of large numbers and has a factor ρ.

        ``x``: where to evaluate it, (b, 2).
        ``sigma``: the noise level, one number or one for each point.
        """
        exact = float64(x)
        rho, variance, half, near, far = self._integral(exact, sigma)
        total = self.std**2 + variance
        cos, sin_squared = 1 - 2 * half, 4 * half * (1 - half)
        mass = (near + far).sum(1, keepdim=True)
        mean_square = ((near + far) * sin_squared).sum(1, keepdim=True) / mass
        mean_odd = ((near - far) * cos * sin_squared).sum(1, keepdim=True) / mass
        curvature = self.std**2 / (variance * total)
        pull = self.radius / total * (curvature * rho * mean_odd + self.radius / total * mean_square)
        score: Tensor = exact * (pull - curvature * mean_square - 1 / total)
        return score.to(x)


def two_gaussians() -> Distribution:
    """0.2·N((−5,−5), I) + 0.8·N((5,5), I): Song & Ermon 2019, sections 3.2 and 4.3, figures 2 and 3."""
    means = torch.tensor([[-5.0, -5.0], [5.0, 5.0]], device="cpu")
    return GaussianMixture(means, 1.0, torch.tensor([0.2, 0.8], device="cpu"))


def two_moons() -> Distribution:
    """Two interleaved half circles of radius 4, drawn as 2 × 128 Gaussians of std 0.25."""
    t = torch.linspace(0, math.pi, 128, device="cpu")
    upper = torch.stack([4 * t.cos() - 2, 4 * t.sin() - 1], 1)
    lower = torch.stack([2 - 4 * t.cos(), 1 - 4 * t.sin()], 1)
    return GaussianMixture(torch.cat([upper, lower]), 0.25)


def swiss_roll() -> Distribution:
    """A spiral of one and a half turns, drawn as 384 Gaussians of std 0.2 at equal distances along it."""
    dense = torch.linspace(1.5 * math.pi, 4.5 * math.pi, 20_000, dtype=torch.float64, device="cpu")
    length = torch.cumulative_trapezoid((1 + dense**2).sqrt(), dense)
    equal = torch.linspace(0, float(length[-1]), 384, dtype=torch.float64, device="cpu")
    t = dense[torch.searchsorted(length, equal).clamp(max=len(dense) - 1)]
    return GaussianMixture((0.45 * torch.stack([t * t.cos(), t * t.sin()], 1)).float(), 0.2)


TOYS: dict[str, Callable[[], Distribution]] = {
    "circle": Ring,
    "gaussian": two_gaussians,
    "moons": two_moons,
    "swiss-roll": swiss_roll,
}

POINTS_AT_ONCE = 64  # whose distances to all data are in memory together
CLASS_SIZE = 500  # examples per class from which a product for each class pays
EXACT = "donot_use_mm_for_euclid_dist"  # subtracts before squaring, which loses no digits


class Empirical:
    """The empirical distribution of a dataset; its noised score is the minimiser of score matching on that dataset.

    p_σ is the mixture of N(x_i, σ²I) over all examples, and the score (E[x_i | x] − x)/σ² a softmax over them.  An
    evaluation takes two matrix products with the whole dataset, so its cost grows with n.  They are computed on the
    device of the data.

    The score's distances come from ‖x‖² − 2x·x_i + ‖x_i‖².  In float32 its weights are off by a factor of about
    exp(3·10⁻⁷ ‖x − mean‖²/σ²).  If that is not near 1 and several examples lie within a few σ of x, give data, x and
    ``dtype`` in float64.  ``log_prob`` is exact in any case.

    ``data``: the examples, (n, *d).
    ``labels``: the class of each example, (n,), for a class-conditional score.
    ``dtype``: the dtype of products; bfloat16 is several times faster on hardware that has it, and precise
    enough for pixels.

    >>> from ncsn.distributions import Empirical
    >>> data = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    >>> ncsn.tweedie(Empirical(data), torch.tensor([[3.0, 1.0]]), 0.5)  # the nearest example
    tensor([[4.0000, 0.0000]])
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        data: Float[Tensor, "n *d"],
        labels: Int64[Tensor, "n"] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        data = as_floats("data", data)
        if not data.ndim:
            raise ValueError(f"data is {data.item():g}; expected examples (n, *d)")
        self.labels = labels
        flat = data[:, None].flatten(1)
        if labels is not None:  # sorted by class
            labels = as_numbers("labels", labels).to(data.device)
            if labels.is_floating_point() or labels.shape != data.shape[:1]:
                shape = f"labels has shape {tuple(labels.shape)} of {labels.dtype}"
                raise ValueError(f"{shape}; expected {len(data)} classes")
            self.labels, order = labels.sort(stable=True)
            flat = flat[order]
            classes, starts = np.unique(self.labels.cpu(), return_index=True)
            bounds = pairwise([*starts.tolist(), len(data)])
            self.classes = {k: slice(start, end) for k, (start, end) in zip(classes.tolist(), bounds, strict=True)}
        self.shape = data.shape[1:]
        self.mean = flat.mean(0)
        self.centred = (flat - self.mean).to(dtype)
        chunks = torch.split(self.centred, 1000)  # another copy of a large dataset would take too much memory
        self.half_squares = torch.cat([chunk.to(flat.dtype).square().sum(1) / 2 for chunk in chunks])

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n *d"]:
        """``n`` examples, drawn with replacement.

        ``generator``: draws them, on its device; by default torch's global one, on the device of the data.
        """
        device = self.mean.device if generator is None else device_of(generator)
        index = torch.randint(len(self.centred), (whole("n", n, 1),), generator=generator, device=device)
        drawn = self.centred[index.to(self.mean.device)].to(self.mean.dtype) + self.mean
        return drawn.view(n, *self.shape).to(device)

    def _mean(self, x: Tensor, std: Tensor, label: Tensor | None, *, by_class: bool) -> Float[Tensor, "b d"]:
        """E[x_i | x] by a softmax over log N(x; x_i, σ²I), up to terms that do not depend on i; ``x`` is centred.

        All examples at once, or class by class, each for those x that may belong to it; without a label, x may belong
        to any.
        """
        blocks: list[tuple[Tensor | slice, slice]] = [(slice(None), slice(None))]
        if label is not None and by_class:
            by_label = [((label == k) | (label < 0), examples) for k, examples in self.classes.items()]
            blocks = [(rows, examples) for rows, examples in by_label if bool(rows.any())]
        dtype = self.centred.dtype
        logits = x.new_full((len(x), len(self.centred)), -torch.inf)
        mean = torch.zeros_like(x)
        for rows, examples in blocks:
            products = (x[rows].to(dtype) @ self.centred[examples].T).to(x.dtype)
            logits[rows, examples] = (products - self.half_squares[examples]) / std[rows] ** 2
        if label is not None and not by_class:
            logits.masked_fill_((label[:, None] != self.labels) & (label[:, None] >= 0), -torch.inf)
        weights = logits.softmax(1).to(dtype)
        for rows, examples in blocks:
            mean[rows] += (weights[rows, examples] @ self.centred[examples]).to(x.dtype)
        return mean

    def log_prob(self, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b"]:
        """Log p_σ(x) in nats, from exact differences in double precision, which takes longer than the score.

        ``x``: where to evaluate it, (b, *d).
        ``sigma``: the noise level, one number or one for each point.
        """
        check_points(x, self.shape)
        centred = float64(x[:, None].flatten(1).to(self.mean.device) - self.mean)
        std, examples = expand(sigma, centred), float64(self.centred)
        sums = []
        for points, s in zip(torch.split(centred, POINTS_AT_ONCE), torch.split(std, POINTS_AT_ONCE), strict=True):
            squared_distances = torch.cdist(points, examples, compute_mode=EXACT) ** 2
            sums.append((-squared_distances / (2 * s**2)).logsumexp(1))
        log_normalizer = math.log(len(examples)) + centred.shape[1] / 2 * (2 * math.pi * std[:, 0] ** 2).log()
        return (torch.cat(sums) - log_normalizer).to(x)

    def __call__(
        self, x: Float[Tensor, "b *d"], sigma: Sigma, /, label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *d"]:
        """The score ∇ₓ log p_σ(x), or for each x that of the examples of its class.

        ``x``: where to evaluate it, (b, *d).
        ``sigma``: the noise level, one number or one for each x.
        ``label``: a class for each x, (b,); −1 for all examples together.
        Raises ValueError if classes are given but the dataset has none, or not this one (not checked on a GPU).
        """
        if label is not None and self.labels is None:
            raise ValueError("the dataset has no labels, so it takes no classes")
        check_points(x, self.shape)
        device = self.mean.device  # evaluated where the data is, because it may be too large for a GPU
        centred = x[:, None].flatten(1).to(device) - self.mean
        label = None if label is None else as_numbers("label", label).to(device)
        if label is not None and (label.shape != x.shape[:1] or label.dtype == torch.bool or label.is_floating_point()):
            raise ValueError(f"label has shape {tuple(label.shape)} of {label.dtype}; {len(x)} classes are needed")
        if label is not None and device.type == "cpu":
            is_class = torch.isin(label, torch.tensor([-1, *self.classes], device=device))
            if not bool(is_class.all()):
                raise ValueError(f"label has {label[~is_class][0]}; the classes are {reprlib.repr([*self.classes])}")
        # Reading only the classes that are asked for pays where products are slower than memory.
        slow = device.type == "cpu" and self.centred.dtype != torch.bfloat16
        by_class = label is not None and slow and len(self.centred) >= CLASS_SIZE * len(self.classes)
        std = expand(sigma, centred)
        mean = self._mean(centred, std, label, by_class=by_class)
        return ((mean - centred) / std**2).to(x.device).view_as(x)
