"""Posteriors: a prior's score, an observation, and a way to move: moment matching, particles, replacement.

An observation is y = A x + n with n ~ N(0, σ_y² I).  A is a plain differentiable function, whose transpose comes from
automatic differentiation.  The score of the posterior is that of the prior plus that of the likelihood,
∇ log p_σ(x | y) = s(x, σ) + ∇ log p_σ(y | x).
So a posterior *is* a Score, and every sampler draws from it.  Moment matching takes x₀ given x for a Gaussian; where
that is too rough, particles correct it: samples with weights, which go down the noise levels together, are weighed and
resampled, and are right in the limit of many.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import ClassVar, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn.machine import hardware
from ncsn.machine.messages import log
from ncsn.machine.tensors import Copies, float64, move_to
from ncsn.noise import check_generator, lengths, noise_like, place_of
from ncsn.samplers import Step
from ncsn.sampling import Sampling
from ncsn.score import Score, Sigma, expand, tweedie
from ncsn.validation import Region, as_numbers, check_type, one_line, real, whole

T = TypeVar("T")
Numbers = Tensor | np.ndarray | Sequence[object] | float
Measurement = Callable[[Tensor], Tensor]
"""A linear function of a batch of examples, (b, *d) → (b, *m), or one with a constant added (affine)."""

MIN_BLUR, MAX_BLUR = 0.01, 100  # pixels; beyond them weights underflow, or the kernel fills the memory
RANDOM_SHARE = 0.25  # of the pixels that are known when the hidden ones are random


def known_pixels(
    shape: tuple[int, int, int], hide: Region, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "c h w"]:
    """The known pixels of an image when a region of it is hidden, True where they are known.

    ``shape``: (c, h, w) of the image.
    ``hide``: a half, the centre, or three quarters of the pixels at random; a pixel is hidden in all its channels.
    Raises ValueError for other regions.
    """
    if hide not in get_args(Region):
        raise ValueError(f"hide is {hide!r}; it must be one of {', '.join(get_args(Region))}")
    _, height, width = shape
    if hide == "random":
        chance = torch.rand(1, height, width, generator=generator, device=place_of(generator))
        return (chance < RANDOM_SHARE).expand(shape)
    rows = {"top": slice(height // 2), "bottom": slice(height // 2, None)}.get(hide, slice(None))
    columns = {"left": slice(width // 2), "right": slice(width // 2, None)}.get(hide, slice(None))
    if hide == "centre":
        rows = slice(height // 4, height - height // 4)
        columns = slice(width // 4, width - width // 4)
    known = torch.ones(shape, dtype=torch.bool, device="cpu")
    known[:, rows, columns] = False
    return known


def as_mask(known: object, shape: tuple[int, ...] | None = None) -> Bool[Tensor, "*d"]:
    """A mask of known numbers as a tensor.  Raises ValueError unless it has booleans and this ``shape``."""
    mask = as_numbers("known", known)
    if mask.dtype != torch.bool or not mask.ndim or shape not in (None, mask.shape):
        raise ValueError(f"known has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected booleans {shape or ''}")
    return mask


@torch.inference_mode(False)
def masked(known: Bool[Tensor, "*d"]) -> Measurement:
    """The known numbers of examples: (b, *d) → (b, m).

    ``known``: booleans (*d), True where a number of an example is known.
    Raises ValueError for anything else.
    """
    known = as_mask(known)
    # Computed once, because finding where a mask is True synchronises a GPU.
    places = Copies(*known.nonzero(as_tuple=True))

    def measure(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b m"]:
        where: tuple[slice | Tensor, ...] = (slice(None), *places.on(x.device))
        return x[where]

    return measure


def downsampled(factor: int) -> Measurement:
    """Means over squares of ``factor`` × ``factor`` pixels, (b, c, h, w) → (b, c, h/factor, w/factor).

    ``factor``: at least 1, and at most the smaller side of an image, which is checked when it is measured.
    Raises ValueError for other factors.
    """
    factor = whole("factor", factor, 1)

    def average(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        if factor > min(x.shape[2:]):
            raise ValueError(f"factor is {factor}; an image of {x.shape[2]} × {x.shape[3]} pixels has no such squares")
        return F.avg_pool2d(x, factor)

    return average


@torch.inference_mode(False)
def blurred(std: float) -> Measurement:
    """Convolution with a Gaussian of standard deviation ``std`` pixels, cut off at 3 ``std``, with zeros outside.

    ``std``: from 0.01 to 100.
    Raises ValueError for other values.
    """
    if real("std", std, MIN_BLUR) > MAX_BLUR:
        raise ValueError(f"std is {std}; it must be at most {MAX_BLUR} pixels")
    radius = max(1, round(3 * std))
    offsets = torch.arange(-radius, radius + 1, device="cpu")
    weights = (-(offsets**2) / (2 * std**2)).exp()
    kernels = Copies(weights[:, None] * weights / weights.sum() ** 2)

    def blur(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        (kernel,), channels = kernels.on(x.device), x.shape[1]
        reach = min(radius, max(x.shape[2:]) - 1)  # the rest of a wide kernel lies outside the image
        kernel = kernel[radius - reach : radius + reach + 1, radius - reach : radius + reach + 1]
        return F.conv2d(x, kernel.to(x).expand(channels, 1, -1, -1), padding=reach, groups=channels)

    return blur


def apply_affine(
    a: Measurement, scale: Tensor | float, shift: Tensor | float, std: Tensor | float, x: Tensor
) -> Tensor:
    """(A(scale·x) − shift)/std.  Partials of it, unlike closures, can be pickled."""
    return (a(scale * x) - shift) / std


def apply(measure: Measurement, x: Tensor) -> Tensor:
    """A x.  Raises ValueError for a measurement on another device than x, or one that doesn't return real numbers."""
    check_type("measure", measure, Callable)
    try:
        seen = measure(x)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(
            word in str(error) for word in ("device", "weight type")
        ):
            raise
        what = f"the measurement does not run on {x.device} ({one_line(error)})"
        raise ValueError(f"{what}; move its tensors there, as in lambda x: x @ matrix.to(x)") from error
    if not isinstance(seen, Tensor) or not seen.is_floating_point() or seen.shape[:1] != x.shape[:1]:
        found = f"{seen.dtype} of shape {tuple(seen.shape)}" if isinstance(seen, Tensor) else type(seen).__name__
        raise ValueError(f"the measurement returns {found}; expected a tensor of real numbers (b, *m) for (b, *d)")
    return seen


def measure_rows(measure: Measurement, x: Tensor) -> Float[Tensor, "b *m"]:
    """A x, with an additional axis if a measurement is a single number, such as x[:, 0]."""
    seen = apply(measure, x)
    return seen[:, None] if seen.ndim == 1 else seen


def linear_part(measure: Measurement, example: Float[Tensor, "1 *d"]) -> Measurement:
    """The function x ↦ A x − A 0 of a measurement A.

    Raises ValueError if two random examples show that it isn't linear, or that A mixes the examples of a batch.
    """
    offset = measure(torch.zeros_like(example))
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *example.shape[1:], generator=generator, device="cpu").to(example)
    together, (first, second) = measure(2 * pair[:1] - 3 * pair[1:]) - offset, measure(pair) - offset
    off = (together[0] - 2 * first + 3 * second).abs()
    if not bool((off <= 1e-3 * together.abs().max() + 1e-5 * offset.abs().max()).all()):
        allowed = "it must be a linear function of each example, plus a constant"
        raise ValueError(f"the measurement is not linear; {allowed}")
    return partial(apply_affine, measure, 1.0, offset, 1.0)


def check_gradient(measure: Measurement, example: Float[Tensor, "1 *d"]) -> None:
    """Raises ValueError if a linear measurement's gradient isn't its transpose, for example because it detaches."""
    z = torch.randn(64, *example.shape[1:], generator=torch.Generator().manual_seed(0), device="cpu").to(example)
    x, move = z.clone().requires_grad_(), z.roll(1, 0)
    with torch.no_grad():
        change = measure(z + move) - measure(z - move)
    with torch.enable_grad():
        seen = measure(x)
        back = torch.autograd.grad(seen, x, change, allow_unused=True)[0] if seen.requires_grad else None
    size = change.square().sum()
    if back is None or not bool((2 * (back * move).sum() - size).abs() <= 0.1 * size):
        raise ValueError("the measurement is not differentiable; it must be a torch function of each example")


def rows_of(y: Tensor, shape: tuple[int, ...]) -> Float[Tensor, "k *m"]:
    """One or several measurements of a ``shape``, in rows.  Raises ValueError for anything else."""
    one = y.shape in (shape, ()) and y.numel() == math.prod(shape)
    rows = y.view(1, *shape) if one else y
    if not rows.numel():
        raise ValueError(f"y has shape {tuple(y.shape)}; expected at least one measurement")
    if rows.shape[1:] != shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; expected {shape}, or (n, ...) for several measurements")
    return rows


def move_with(part: T, device: torch.device) -> T:
    """A tensor, or a partial with the tensors it holds, on another device; anything else is unchanged."""
    if isinstance(part, Tensor):
        return move_to(part, device)  # type: ignore[return-value]
    if isinstance(part, partial):
        return partial(part.func, *(move_with(a, device) for a in part.args))  # type: ignore[return-value]
    return part


@dataclass(frozen=True)
class Observation:
    """A measurement y = A x + n with n ~ N(0, σ_y² I), in the units of the score.

    ``measure``: A.  ``y``: one measurement, (1, *m), or several.  ``noise_std``: σ_y.
    ``log_volume``: for each measurement, the log volume of y's unit in the user's units.
    """

    measure: Measurement
    y: Float[Tensor, "k *m"]
    noise_std: float
    log_volume: Float64[Tensor, "k"] | float = 0.0

    @classmethod
    @torch.inference_mode(False)
    def of(cls, measure: Measurement, y: Tensor, noise_std: Tensor, shift: Tensor, scale: Tensor) -> "Observation":
        """An observation from the user's units, in which an example is shift + scale·z, where z is the score's.

        ``measure``: linear or affine.
        ``y``: one measurement (*m), or several (k, *m).
        ``noise_std``: σ_y > 0, one number, or a tensor that broadcasts against y; then A and y are divided by it, so
        that the noise is 1.
        ``shift``, ``scale``: (*d), with the dtype and on the device of the score's examples.
        Raises ValueError if ``y`` doesn't have the shape of A x, if the noise isn't positive or doesn't broadcast, if A
        isn't linear, and if its gradient is wrong, for example because A detaches its argument.
        """
        if not bool(((noise_std > 0) & noise_std.isfinite()).all()):
            raise ValueError(f"noise_std is {noise_std.tolist()}; it must be positive")
        if not y.numel():
            raise ValueError(f"y has shape {tuple(y.shape)}; it must hold a number")
        measure = partial(measure_rows, measure)
        divisor, std = (noise_std.clone(), 1.0) if noise_std.ndim else (1.0, float(noise_std))
        place = measure(shift[None])  # far from 0, where scale·v is small in comparison: the two must not be added
        a = linear_part(partial(apply_affine, measure, scale.clone(), 0.0, 1.0), torch.zeros_like(shift[None]))
        check_gradient(a, shift[None])
        target = rows_of(y, tuple(place.shape[1:]))
        pairs = zip(noise_std.shape[::-1], target.shape[::-1], strict=False)
        if noise_std.ndim > target.ndim or any(own not in (1, theirs) for own, theirs in pairs):
            shapes = f"shape {tuple(noise_std.shape)}, and y {tuple(y.shape)}"
            raise ValueError(f"noise_std has {shapes}; expected one number, or as many as y holds")
        if not bool(target.isfinite().all()):
            raise ValueError("y has numbers that are not finite; leave unknown ones out of the measurement")
        volume = float64(noise_std.log().expand_as(target)).flatten(1).sum(1) if noise_std.ndim else 0.0
        return cls(partial(apply_affine, a, 1.0, 0.0, divisor), (target - place) / divisor, std, volume)

    @property
    def log_constant(self) -> Float64[Tensor, "k"] | float:
        """The log of a Gaussian's normalising constant, in the user's units."""
        return -self.y.shape[1:].numel() * math.log(math.sqrt(2 * math.pi) * self.noise_std) - self.log_volume

    def to(self, device: torch.device) -> "Observation":
        """The observation on another device, except for tensors in a user's function."""
        return replace(self, measure=move_with(self.measure, device), y=move_to(self.y, device))

    def disagreeing(self, x: Float[Tensor, "n *d"]) -> int:
        """How many of the samples ``x`` are farther from the measurement than σ_y explains in all but one in a million.

        Judged by the largest of the m residuals, and by the sum of their squares, which has mean m and variance 2m.

        ``x``: samples of all measurements, the same number of each, in order.
        """
        y = self.y.repeat_interleave(len(x) // len(self.y), 0)
        off = (self.measure(x) - y).flatten(1) / self.noise_std
        m = off.shape[1]
        largest = off.abs().amax(1) <= math.sqrt(2 * math.log(2e6 * m))
        whole = off.square().sum(1) <= m + 5 * math.sqrt(2 * m) + 25
        return int((~(largest & whole)).sum())

    def measure_noise(self, shape: tuple[int, ...]) -> Float[Tensor, "64 *m"]:
        """A of white noise in examples of this ``shape``, which shows how far it stretches them."""
        z = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return self.measure(z.to(self.y))

    def check_precision(self, sigma_max: float, shape: tuple[int, ...]) -> None:
        """Raises ValueError for noise too small for single precision, and for a y that is far from any example."""
        widest = sigma_max * self.measure_noise(shape).abs().amax(0)
        if bool((self.noise_std < 1e-7 * widest).any()):
            raise ValueError("noise_std is less than a ten-millionth of sigma_max, too small for single precision")
        if bool((self.y.abs() > 1e6 * widest.max()).any()):
            raise ValueError("y is over a million times farther away than sigma_max; is it in the units of the data?")

    def warn_if_precise(self, sigma: float, shape: tuple[int, ...]) -> None:
        """Warn if σ_y is close to A of noise of level ``sigma``, which a sampler's last step removes."""
        if self.noise_std < 2 * sigma * float(self.measure_noise(shape).square().mean(0).max().sqrt()):
            log.warning(
                f"noise_std is small compared with sigma_min = {sigma:g}: measured numbers will vary too little"
            )


def repeat_for(y: Float[Tensor, "k *m"], n: int) -> Float[Tensor, "n *m"]:
    """A measurement for each of ``n`` samples, from one or n of them.  Raises ValueError for another number."""
    if len(y) not in (1, n):
        raise ValueError(f"y holds {len(y)} measurements for {n} samples; expected one, or one for each")
    return y.expand(n, *y.shape[1:])


MAX_WHOLE = 16  # largest size of an example whose whole covariance particles use, however few numbers are measured
MAX_FOR_PARTICLES = 64  # largest size of an example with particles by default: each number may take a backward pass
SIZE, SIZE_BY_MANY_NUMBERS, SIZE_OF_SEVERAL = 1000, 250, 64  # particles in a population by default
MIN_ANCESTORS = 2.0  # effective number of first particles from which on they tell how accurate the evidence is
COVARIANCE_VALUES = 2**24  # numbers in the covariances of particles that are moved at a time

Classes = Int64[Tensor, "n"] | None
"""The class of each of n samples; None for all classes together."""


@runtime_checkable
class Prior(Protocol):
    """Where a posterior's samples come from: a run's noise, and its score."""

    def start(self, n: int, labels: Classes) -> Float[Tensor, "n *d"]:
        """``n`` examples at the first noise level, of these classes or of all together."""

    def score(self, n: int, labels: Classes) -> Score:
        """The score of up to ``n`` examples at a time, of these classes or of all together."""


@torch.inference_mode(False)
@torch.enable_grad()
def local_gaussian(
    score: Score, observation: Observation, x: Float[Tensor, "b *d"], sigma: float
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b k d"], Float[Tensor, "b *m"], Float[Tensor, "b k m"]]:
    """x₀ given x as a Gaussian N(D, FᵀF): D, F, D measured, and each row of F measured.

    FᵀF is the covariance C, by d backward passes, or what A sees of it, C Aᵀ (A C Aᵀ)⁻¹ A C (Nyström's approximation),
    by m where these are fewer than half of d, and d is above ``MAX_WHOLE``.
    """
    linear = observation.measure
    x = x.detach().clone().requires_grad_()
    with hardware.uncompiled():
        denoised = tweedie(score, x, sigma)
    seen = linear(denoised).flatten(1)
    whole = denoised.shape[1:].numel() <= max(2 * seen.shape[1], MAX_WHOLE)
    columns = (denoised.flatten(1) if whole else seen).unbind(1)
    rows = sigma**2 * torch.stack([torch.autograd.grad(c.sum(), x, retain_graph=True)[0] for c in columns], 1)
    with torch.no_grad():
        both = float64(rows if whole else linear(rows.flatten(0, 1)).view(*rows.shape[:2], -1)).flatten(2)
        both = both.nan_to_num(0.0, 0.0, 0.0)  # NaN has no eigenvectors; the samples will be NaN, too
        values, vectors = torch.linalg.eigh((both + both.mT) / 2)
        # Directions without variance, and those in which a learned score's is negative, are left out.
        values = torch.where(values > 1e-9 * values[:, -1:], values, torch.inf)
        factors = values.rsqrt()[..., None] * vectors.mT @ float64(rows).flatten(2)
        images = linear(factors.to(x).view_as(rows).flatten(0, 1))
    return denoised.detach(), factors, linear(denoised.detach()), float64(images).view(*factors.shape[:2], -1)


def evidence(
    residual: Float[Tensor, "b m"], images: Float[Tensor, "b k m"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b k k"], Float[Tensor, "b k 1"]]:
    """Log N(r; 0, I + EᵀE) up to a constant; the Cholesky factor L of I + EEᵀ; and L⁻¹E r."""
    # I + EEᵀ always has a factor, and checking that would synchronise a GPU.
    factor = torch.linalg.cholesky_ex(images @ images.mT + torch.eye(images.shape[1], device=images.device)).L
    solved = torch.linalg.solve_triangular(factor, images @ residual[..., None], upper=False)
    log = (solved.square().sum((1, 2)) - residual.square().sum(1)) / 2
    return log - factor.diagonal(dim1=1, dim2=2).log().sum(1), factor, solved


def systematic(weights: Float[Tensor, "p n"], count: int, generator: torch.Generator) -> Int64[Tensor, "p count"]:
    """Systematic resampling: ``count`` particles of each population by their weights (Kitagawa 1996)."""
    first = torch.rand(len(weights), 1, generator=generator, dtype=torch.float32, device=generator.device).to(weights)
    places = (first + torch.arange(count, device=weights.device)) / count
    return torch.searchsorted(weights.cumsum(1), places).clamp(max=weights.shape[1] - 1)


class Swarm(NamedTuple):
    """Particles of all populations: positions, D at the previous level, log weights, expectations of the next weights,
    and the first ancestor of each.

    ``evidence``: for each population, the log of its mean weight up to the last resampling.
    ``effective``: for each population, the effective number of first ancestors, 1/Σ(share of each)².
    """

    x: Float[Tensor, "b *d"]
    earlier: Float[Tensor, "b *d"]
    logs: Float[Tensor, "p n"]
    predicted: Float[Tensor, "..."]
    roots: Int64[Tensor, "p n"]
    evidence: Float64[Tensor, "p"]
    effective: Float64[Tensor, "p"]


class Weight(NamedTuple):
    """The weights of p populations at the end.

    ``effective``: the effective number of first ancestors, see ``twisted_diffusion``.
    ``log_evidence``: an estimate of log p(y), in nats and in the user's units of y.
    ``standard_error``: its standard error; ∞ if nearly all particles descend from one, and it may be arbitrarily off.
    """

    effective: Float64[Tensor, "p"]
    log_evidence: Float64[Tensor, "p"]
    standard_error: Float64[Tensor, "p"]


@torch.no_grad()
def twisted_diffusion(
    score: Score,
    observation: Observation,
    x: Float[Tensor, "b *d"],
    sigmas: Float[Tensor, "levels"],
    *,
    draws: int,
    generator: torch.Generator,
) -> Iterator[tuple[Step, Swarm]]:
    """Sequential Monte Carlo down the noise levels; yields σ and the particles at each level.

    The effective sample size of a population is its effective number of first ancestors at the end, because weights at
    a single level wouldn't show that particles are copies of each other.  The product of the mean weights estimates
    p(y) up to a constant; its standard error follows from the same ancestors (Lee & Whiteley 2018, arXiv:1509.00394).

    Twisted diffusion sampling (Wu et al. 2023, arXiv:2306.17775), whose twist p_σ(y | x) is moment matching's.  A step
    draws x₀ from its Gaussian given x and y, and x' from N(x + a(x₀ − x), a σ'²), a = 1 − σ'²/σ² (Ho et al. 2020).  Its
    weight is the evidence p(y | x') there, divided by what that Gaussian expects it to be.  For a Gaussian prior of up
    to ``MAX_WHOLE`` numbers all weights are equal; for any prior, samples become exact with many particles and levels.

    ``observation``: a measurement for each population.
    ``x``: populations of the same size, one after the other, from p_σ at the first of the ``sigmas``.
    ``draws``: how many samples are taken from each population at the end.
    """
    check_generator(generator, x.device)
    populations, population = len(observation.y), len(x) // len(observation.y)
    roots = torch.arange(population, device=x.device).expand(populations, population)
    logs = float64(x.new_zeros(populations, population))
    swarm, height = Swarm(x, x, logs, x.new_zeros(()), roots, logs[:, 0], logs[:, 0]), math.inf
    for sigma, following in pairwise([*sigmas.tolist(), 0.0]):
        # The height and the fall of a step are in ln σ.
        swarm = advance(score, observation, swarm, (sigma, following, height), draws, generator)
        height = math.log(sigma / following) if following else 0.0
        yield Step(following, swarm.x), swarm


def advance(
    score: Score,
    observation: Observation,
    swarm: Swarm,
    levels: tuple[float, float, float],
    draws: int,
    generator: torch.Generator,
) -> Swarm:
    """One step of ``twisted_diffusion``."""
    (sigma, following, height), std, population = levels, observation.noise_std, swarm.logs.shape[1]
    y = observation.y.repeat_interleave(population, 0)
    denoised, factors, expected, images = local_gaussian(score, observation, swarm.x, sigma)
    residual, images = float64(y - expected).flatten(1) / std, images / std
    log, factor, solved = evidence(residual, images)
    swarm = swarm._replace(logs=swarm.logs + (log - swarm.predicted.to(log)).view_as(swarm.logs))
    last = following == 0
    swarm, index = resample(swarm, draws if last else population, generator, always=last)
    state = swarm.x, swarm.earlier, denoised, residual, factors, images, factor, solved
    x, earlier, denoised, residual, factors, images, factor, solved = (part[index.on(part.device)] for part in state)

    # In directions outside the known covariance of x₀, D is extrapolated instead, as by dpmpp-sde.
    change, basis = float64(denoised - earlier).flatten(1)[..., None], torch.linalg.qr(factors.mT).Q
    fall = math.log(sigma / following) if following else 0.0
    ahead = fall / (2 * height) * (change - basis @ (basis.mT @ change))[..., 0]

    z = float64(torch.randn(solved.shape, generator=generator, dtype=torch.float32, device=x.device))
    latent = torch.linalg.solve_triangular(factor.mT, solved + z, upper=True)
    move = (factors.mT @ latent)[..., 0]
    share = 1 - (following / sigma) ** 2
    z = float64(torch.randn(move.shape, generator=generator, dtype=torch.float32, device=x.device))
    step = share * move + following * share**0.5 * z
    x = x + share * (denoised - x) + (step + share * ahead).view_as(x).to(x)
    predicted = swarm.predicted
    if following:  # what the step reveals about x₀, and so about y
        _, factor, solved = evidence(step / (following * share**0.5), share**0.5 / following * factors)
        seen = torch.linalg.solve_triangular(factor, images, upper=False)
        predicted = evidence(residual - (seen.mT @ solved)[..., 0], seen)[0]
    return swarm._replace(x=x, earlier=denoised, predicted=predicted)


def resample(swarm: Swarm, count: int, generator: torch.Generator, *, always: bool) -> tuple[Swarm, Copies]:
    """Choose ``count`` particles of each population; returns the swarm with the old positions, and the indices.

    ``always``: draw all particles by their weights, as at the end; otherwise only if the weights have become uneven.
    """
    logs, population = swarm.logs, swarm.logs.shape[1]
    weights, roots = logs.softmax(1), swarm.roots.to(logs.device)
    effective = 1 / torch.zeros_like(weights).scatter_add(1, roots, weights).square().sum(1)
    worn = (1 / weights.square().sum(1) < population / 2)[:, None] | always
    means = swarm.evidence + torch.where(worn[:, 0], logs.logsumexp(1) - math.log(population), 0.0)
    chosen = torch.where(worn, systematic(weights, count, generator), torch.arange(count, device=weights.device))
    logs, roots = torch.where(worn, 0.0, logs), roots.gather(1, chosen)
    chosen = (chosen + population * torch.arange(len(logs), device=weights.device)[:, None]).flatten()
    return swarm._replace(logs=logs, roots=roots, evidence=means, effective=effective), Copies(chosen)


@dataclass(frozen=True)
class Populations:
    """Populations of particles of the same ``size``, one per measurement; ``draws`` samples are taken from each.

    ``count``: the number of populations.
    ``together``: how many are moved at a time, which limits the memory for their covariances.
    """

    count: int
    size: int
    draws: int
    together: int

    @classmethod
    def of(
        cls, observation: Observation, n: int, size: int | None, *, shape: tuple[int, ...], labels: Classes
    ) -> "Populations | None":
        """The populations for ``n`` samples: one per measurement, or one per sample if there are several classes.

        ``size``: the size of a population, at least the number of samples drawn from it; by default 1,000, or 250 if
        the example and its measurement both have more than 16 numbers, or 64 for each of several measurements.  Returns
        None if it is 1, and by default for examples of more than 64 numbers.
        ``shape``: the shape of an example.
        ``labels``: the classes of the samples.
        Raises ValueError unless there is the same number of samples for each measurement.
        """
        numbers, measured = math.prod(shape), observation.y.shape[1:].numel()
        if size == 1 or (size is None and numbers > MAX_FOR_PARTICLES):
            return None
        count = len(observation.y) if labels is None or bool((labels == labels[0]).all()) else n
        rows = min(numbers, max(MAX_WHOLE, measured))
        if size is None:
            size = SIZE_OF_SEVERAL if count > 1 else SIZE if rows <= MAX_WHOLE else SIZE_BY_MANY_NUMBERS
        repeat_for(observation.y, count)
        if n % count:
            raise ValueError(f"y holds {count} measurements for {n} samples; n must be a multiple of that")
        size = max(n // count, size)
        return cls(count, size, n // count, max(1, COVARIANCE_VALUES // (size * rows * numbers)))

    def states(
        self, observation: Observation, prior: Prior, labels: Classes, sigmas: Tensor, generator: torch.Generator
    ) -> Iterator[tuple[Step, Weight]]:
        """At each level, ``draws`` particles of each population, and the weights of the populations.

        ``labels``: the classes of the samples.
        ``sigmas``: the noise levels, descending.
        """
        particles, most = self.count * self.size, min(self.together, self.count) * self.size
        labels = None if labels is None else labels[:: self.draws].repeat_interleave(self.size)
        starts = torch.split(prior.start(particles, labels), most)
        classes = [None] * len(starts) if labels is None else torch.split(labels, most)
        measured = torch.split(repeat_for(observation.y, self.count), self.together)
        swarms = [
            twisted_diffusion(
                prior.score(most, part), replace(observation, y=y), x, sigmas, draws=self.draws, generator=generator
            )
            for y, x, part in zip(measured, starts, classes, strict=True)
        ]
        for states in zip(*swarms, strict=True):
            steps, parts = zip(*states, strict=True)
            x = torch.cat([step.x for step in steps])
            x = x.view(self.count, -1, *x.shape[1:])
            shown = x[:, :: x.shape[1] // self.draws][:, : self.draws].flatten(0, 1)
            effective = torch.cat([part.effective for part in parts])
            error = (1 / effective - 1 / self.size).clamp(min=0).sqrt().masked_fill(effective < MIN_ANCESTORS, math.inf)
            log_evidence = torch.cat([part.evidence for part in parts]) + observation.log_constant
            yield Step(steps[0].sigma, shown), Weight(effective, log_evidence, error)


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Float[Tensor, "n *m"], steps: int, least: float = 0.0
) -> tuple[Float[Tensor, "n k"], list[Float[Tensor, "n *m"]]]:
    """An approximate solution u of M u = b for a symmetric positive definite M, example by example.

    It is returned as coefficients and the vectors that ``product`` was asked for, see ``combine``.

    What conjugate gradients find (Hestenes & Stiefel 1952): the best u in M's own norm in the space of b, M b, M² b, …,
    here from an orthonormal basis of it (Lanczos 1950).  ``product``: u ↦ M u for a batch.  ``steps``: products.
    ``least``: what M's eigenvalues are at least.  With the covariance of a learned score, M is neither quite symmetric
    nor always positive.  So its symmetric part is taken, and directions in which that is below ``least`` are left out:
    u is at most |b|/``least`` long, however many steps there are.
    """
    flat, tiny = b[:, None].flatten(1), torch.finfo(b.dtype).tiny ** 0.5
    steps = min(steps, flat.shape[1])  # the space has no more dimensions
    basis, images = [flat / lengths(flat)[:, None].clamp(min=tiny)], list[Tensor]()
    for _ in range(steps):
        rest = product(basis[-1].view_as(b))[:, None].flatten(1)
        images.append(rest)
        for v in 2 * basis:  # twice, for once leaves what rounding makes of it
            rest = rest - (rest * v).sum(1, keepdim=True) * v
        length = lengths(rest)[:, None]
        new = length > 1e-5 * lengths(images[-1])[:, None]  # else the space is complete
        basis.append(torch.where(new, rest / length.clamp(min=tiny), 0.0))
    space = torch.stack(basis[:steps], 1)
    m = for_eigh(space @ torch.stack(images, 1).mT)
    values, vectors = torch.linalg.eigh((m + m.mT) / 2)
    # Where only noise is measured, rounding takes a little from the least value.
    inverse = torch.where((values > 0.999 * least) & (values > 0), 1 / values, 0.0)
    solved = vectors @ (inverse[..., None] * (vectors.mT @ for_eigh(space @ flat[..., None])))
    return solved[..., 0].to(b.device), [v.view_as(b) for v in basis[:steps]]


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

    # ∂A/∂x of a linear A; checked once for each device, because that waits for a GPU.
    fixed = cache(lambda shape, dtype, device: linear_part(measure, torch.zeros(1, *shape, dtype=dtype, device=device)))

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
        push_forward = fixed(x.shape[1:], x.dtype, x.device)

        pulled_back = list[Tensor]()  # ∂D/∂xᵀ Aᵀ u; as ∂D/∂x is symmetric, σ² times it is Cov Aᵀ u

        def covariance(u: Tensor) -> Tensor:
            pulled_back.append(torch.autograd.grad(expected, x, u, retain_graph=True)[0])
            return noise_std**2 * u + push_forward(variance * pulled_back[-1])

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


class Quality(NamedTuple):
    """The quality of a posterior's samples, known at the end.

    ``weight``: the weights of the populations of particles; None without particles.
    ``disagreeing``: how many samples are farther from the measurement than its noise explains.
    """

    weight: Weight | None = None
    disagreeing: int = 0


@dataclass(frozen=True, eq=False)
class Posterior:
    """The score ∇ₓ log p_σ(x | y), from a prior's score and an observation.  Subclasses are the methods.

    ``prior``: the prior's score.
    ``caveat``: a caveat about samples without particles, for messages.
    """

    prior: Score
    caveat: ClassVar[str] = ""

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return 1

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        """The score for a batch of ``n`` examples, with another evaluation of the prior."""
        raise NotImplementedError

    def to(self, device: torch.device, prior: Score) -> "Posterior":
        """The same on another device, where ``prior`` is."""
        raise NotImplementedError

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The score at ``x``, (b, *d)."""
        return self.score(self.prior, len(x), None)(x, sigma)

    def states(
        self, prior: Prior, n: int, labels: Classes, sampling: Sampling, generator: torch.Generator
    ) -> Generator[Step, None, Quality]:
        """The states of ``n`` samples down the noise levels, in the units of the score; returns their quality."""
        score = self.score(prior.score(n, labels), n, generator)
        yield from sampling.follow(score, prior.start(n, labels), generator=generator)
        return Quality()


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
        seen = self.observation
        return posterior(prior, seen.measure, repeat_for(seen.y, n), seen.noise_std, steps=self.solver_steps)

    def to(self, device: torch.device, prior: Score) -> "MomentMatching":
        return replace(self, prior=prior, observation=self.observation.to(device))

    def with_particles(self, n: int, size: int | None, *, shape: tuple[int, ...], labels: Classes) -> "MomentMatching":
        """The posterior with the particles for ``n`` samples, see ``Populations.of``."""
        return replace(self, populations=Populations.of(self.observation, n, size, shape=shape, labels=labels))

    def states(
        self, prior: Prior, n: int, labels: Classes, sampling: Sampling, generator: torch.Generator
    ) -> Generator[Step, None, Quality]:
        """The states of ``n`` samples; once they are drawn, a warning says how many disagree with the measurement."""
        states: Iterator[tuple[Step, Weight | None]]
        if self.populations is None:
            x = prior.start(n, labels)
            self.observation.warn_if_precise(sampling.sigma_min, tuple(x.shape[1:]))
            score = self.score(prior.score(n, labels), n, generator)
            states = ((step, None) for step in sampling.follow(score, x, generator=generator))
        else:
            states = self.populations.states(self.observation, prior, labels, sampling.ladder(), generator)
        for state in states:
            step, weight = state
            yield step
        disagreeing = self.observation.disagreeing(step.x)
        if disagreeing:
            log.warning(f"{disagreeing} of {n} samples disagree with the measurement by more than its noise explains")
        if weight is not None and (alone := int(weight.standard_error.isinf().sum())):
            populations = f"{alone} of {len(weight.effective)} populations of particles"
            log.warning(f"{populations} descend from a single one and are unreliable; try more particles or levels")
        return Quality(weight, disagreeing)


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

    def to(self, device: torch.device, prior: Score) -> "Replacement":
        return replace(self, prior=prior, known=self.known.to(device), y=move_to(self.y, device))
