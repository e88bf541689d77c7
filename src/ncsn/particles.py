"""Particles: weighted samples of a posterior that move down the noise levels together.

Moment matching replaces p(x₀ | x) by a Gaussian.  Where that is too rough, particles correct it: they are weighted by
how much better they fit the measurement than that Gaussian predicted, and resampled.  They are exact in the limit of
many.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ncsn.machine import hardware
from ncsn.machine.tensors import Copies, float64
from ncsn.measurements import Observation, repeat_for
from ncsn.noise import check_generator
from ncsn.prior import Classes, Prior
from ncsn.samplers import Step
from ncsn.score import Score, tweedie

MAX_WHOLE = 16  # largest size of an example whose whole covariance particles use, however few numbers are measured
MAX_FOR_PARTICLES = 64  # largest size of an example with particles by default: each number may take a backward pass
SIZE, SIZE_BY_MANY_NUMBERS, SIZE_OF_SEVERAL = 1000, 250, 64  # particles in a population by default
MIN_ANCESTORS = 2.0  # effective number of first particles from which on they tell how accurate the evidence is
COVARIANCE_VALUES = 2**24  # numbers in the covariances of particles that are moved at a time


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
    measured = linear(denoised).flatten(1)
    use_whole = denoised.shape[1:].numel() <= max(2 * measured.shape[1], MAX_WHOLE)
    outputs = (denoised.flatten(1) if use_whole else measured).unbind(1)
    gradients = [torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for output in outputs]
    rows = sigma**2 * torch.stack(gradients, 1)  # of C, or of A C
    with torch.no_grad():
        covariance = rows if use_whole else linear(rows.flatten(0, 1)).view(*rows.shape[:2], -1)  # C, or A C Aᵀ
        covariance = float64(covariance).flatten(2)
        covariance = covariance.nan_to_num(0.0, 0.0, 0.0)  # NaN has no eigenvectors; the samples will be NaN, too
        values, vectors = torch.linalg.eigh((covariance + covariance.mT) / 2)
        # Directions without variance, and those in which a learned score's is negative, are left out.
        values = torch.where(values > 1e-9 * values[:, -1:], values, torch.inf)
        factors = values.rsqrt()[..., None] * vectors.mT @ float64(rows).flatten(2)
        measured_factors = linear(factors.to(x).view_as(rows).flatten(0, 1))
        expected = linear(denoised.detach())
    return denoised.detach(), factors, expected, float64(measured_factors).view(*factors.shape[:2], -1)


def evidence(
    residual: Float[Tensor, "b m"], images: Float[Tensor, "b k m"]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b k k"], Float[Tensor, "b k 1"]]:
    """Log N(r; 0, I + EᵀE) up to a constant; the Cholesky factor L of I + EEᵀ; and L⁻¹E r.

    ``residual``: r.  ``images``: E, the rows of a covariance's factor as they are measured.
    """
    # I + EEᵀ always has a factor, and checking that would synchronise a GPU.
    identity = torch.eye(images.shape[1], device=images.device)
    factor = torch.linalg.cholesky_ex(images @ images.mT + identity).L
    solved = torch.linalg.solve_triangular(factor, images @ residual[..., None], upper=False)
    exponent = (solved.square().sum((1, 2)) - residual.square().sum(1)) / 2
    return exponent - factor.diagonal(dim1=1, dim2=2).log().sum(1), factor, solved


def systematic(weights: Float[Tensor, "p n"], count: int, generator: torch.Generator) -> Int64[Tensor, "p count"]:
    """Systematic resampling: ``count`` particles of each population by their weights (Kitagawa 1996)."""
    first = torch.rand(len(weights), 1, generator=generator, dtype=torch.float32, device=generator.device).to(weights)
    places = (first + torch.arange(count, device=weights.device)) / count
    return torch.searchsorted(weights.cumsum(1), places).clamp(max=weights.shape[1] - 1)


class Swarm(NamedTuple):
    """The particles of p populations of n.

    ``x``: the positions of the particles.
    ``earlier``: the denoised positions at the previous level.
    ``log_weights``: the log weights since the last resampling.
    ``predicted``: the logarithms of what their next weights are expected to be.
    ``roots``: the first ancestor of each.
    ``evidence``: for each population, the log of its mean weight up to the last resampling.
    ``effective``: for each population, the effective number of first ancestors, 1/Σ(share of each)².
    """

    x: Float[Tensor, "b *d"]
    earlier: Float[Tensor, "b *d"]
    log_weights: Float[Tensor, "p n"]
    predicted: Float[Tensor, "..."]
    roots: Int64[Tensor, "p n"]
    evidence: Float64[Tensor, "p"]
    effective: Float64[Tensor, "p"]


class Weight(NamedTuple):
    """What the weights of p populations say after the last noise level.

    ``effective``: the effective number of first ancestors, see ``twisted_diffusion``.
    ``log_evidence``: an estimate of log p(y), in nats and in the user's units of y.
    ``standard_error``: the standard error of ``log_evidence``; ∞ if nearly all particles descend from one,
    and ``log_evidence`` may be arbitrarily off.
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
    populations = len(observation.y)
    size = len(x) // populations
    swarm = Swarm(
        x=x,
        earlier=x,
        log_weights=float64(x.new_zeros(populations, size)),
        predicted=x.new_zeros(()),
        roots=torch.arange(size, device=x.device).expand(populations, size),
        evidence=float64(x.new_zeros(populations)),
        effective=float64(x.new_zeros(populations)),
    )
    previous_fall = math.inf
    for sigma, following in pairwise([*sigmas.tolist(), 0.0]):
        swarm = advance(score, observation, swarm, sigma, following, previous_fall, draws=draws, generator=generator)
        previous_fall = math.log(sigma / following) if following else 0.0
        yield Step(following, swarm.x), swarm


def advance(
    score: Score,
    observation: Observation,
    swarm: Swarm,
    sigma: float,
    following: float,
    previous_fall: float,
    *,
    draws: int,
    generator: torch.Generator,
) -> Swarm:
    """One step of ``twisted_diffusion``, from σ to the ``following`` level; ``previous_fall``: of ln σ before it."""
    std = observation.noise_std
    size = swarm.log_weights.shape[1]
    y = observation.y.repeat_interleave(size, 0)
    denoised, factors, expected, images = local_gaussian(score, observation, swarm.x, sigma)
    residual = float64(y - expected).flatten(1) / std
    images = images / std
    log_evidence, factor, solved = evidence(residual, images)
    change_of_weights = (log_evidence - swarm.predicted.to(log_evidence)).view_as(swarm.log_weights)
    swarm = swarm._replace(log_weights=swarm.log_weights + change_of_weights)
    is_last = following == 0
    swarm, survivors = resample(swarm, draws if is_last else size, generator, always=is_last)
    state = swarm.x, swarm.earlier, denoised, residual, factors, images, factor, solved
    x, earlier, denoised, residual, factors, images, factor, solved = (
        values[survivors.on(values.device)] for values in state
    )

    # In directions outside the known covariance of x₀, D is extrapolated instead, as by dpmpp-sde.
    change = float64(denoised - earlier).flatten(1)[..., None]
    basis = torch.linalg.qr(factors.mT).Q
    fall = math.log(sigma / following) if following else 0.0
    extrapolated = fall / (2 * previous_fall) * (change - basis @ (basis.mT @ change))[..., 0]

    # x₀ from its Gaussian given x and y, relative to D.
    z = float64(torch.randn(solved.shape, generator=generator, dtype=torch.float32, device=x.device))
    latent = torch.linalg.solve_triangular(factor.mT, solved + z, upper=True)
    deviation = (factors.mT @ latent)[..., 0]

    # x' from its Gaussian given x and x₀.
    share = 1 - (following / sigma) ** 2
    z = float64(torch.randn(deviation.shape, generator=generator, dtype=torch.float32, device=x.device))
    step = share * deviation + following * share**0.5 * z
    x = x + share * (denoised - x) + (step + share * extrapolated).view_as(x).to(x)
    predicted = swarm.predicted
    if following:  # what the step reveals about x₀, and so about y
        _, factor, solved = evidence(step / (following * share**0.5), share**0.5 / following * factors)
        remaining_images = torch.linalg.solve_triangular(factor, images, upper=False)
        predicted = evidence(residual - (remaining_images.mT @ solved)[..., 0], remaining_images)[0]
    return swarm._replace(x=x, earlier=denoised, predicted=predicted)


def resample(swarm: Swarm, count: int, generator: torch.Generator, *, always: bool) -> tuple[Swarm, Copies]:
    """Choose ``count`` particles of each population; returns the swarm with the old positions, and the indices.

    ``always``: draw all particles by their weights, as at the end; otherwise only if the weights have become uneven.
    """
    log_weights = swarm.log_weights
    populations, size = log_weights.shape
    device = log_weights.device
    weights = log_weights.softmax(1)
    roots = swarm.roots.to(device)
    effective = 1 / torch.zeros_like(weights).scatter_add(1, roots, weights).square().sum(1)
    uneven = (1 / weights.square().sum(1) < size / 2)[:, None] | always
    mean_weight = log_weights.logsumexp(1) - math.log(size)
    log_evidence = swarm.evidence + torch.where(uneven[:, 0], mean_weight, 0.0)
    chosen = torch.where(uneven, systematic(weights, count, generator), torch.arange(count, device=device))
    swarm = swarm._replace(
        log_weights=torch.where(uneven, 0.0, log_weights),
        roots=roots.gather(1, chosen),
        evidence=log_evidence,
        effective=effective,
    )
    first_of_population = size * torch.arange(populations, device=device)[:, None]
    return swarm, Copies((chosen + first_of_population).flatten())


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

    def states(self, observation: Observation, prior: Prior, labels: Classes) -> Iterator[tuple[Step, Weight]]:
        """At each level, ``draws`` particles of each population, and the weights of the populations.

        ``labels``: the classes of the samples.
        """
        most = min(self.together, self.count) * self.size
        labels = None if labels is None else labels[:: self.draws].repeat_interleave(self.size)
        starts = torch.split(prior.start(self.count * self.size, labels), most)
        classes = [None] * len(starts) if labels is None else torch.split(labels, most)
        measurements = torch.split(repeat_for(observation.y, self.count), self.together)
        swarms = [
            twisted_diffusion(
                prior.score(most, label),
                replace(observation, y=y),
                x,
                prior.sampling.ladder(),
                draws=self.draws,
                generator=prior.generator,
            )
            for y, x, label in zip(measurements, starts, classes, strict=True)
        ]
        for states in zip(*swarms, strict=True):  # one state of each swarm
            steps, moved = zip(*states, strict=True)
            x = torch.cat([step.x for step in steps])
            x = x.view(self.count, -1, *x.shape[1:])
            shown = x[:, :: x.shape[1] // self.draws][:, : self.draws].flatten(0, 1)
            effective = torch.cat([swarm.effective for swarm in moved])
            log_evidence = torch.cat([swarm.evidence for swarm in moved]) + observation.log_constant
            error = (1 / effective - 1 / self.size).clamp(min=0).sqrt()
            error = error.masked_fill(effective < MIN_ANCESTORS, math.inf)
            yield Step(steps[0].sigma, shown), Weight(effective, log_evidence, error)
