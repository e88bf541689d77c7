"""Particles: samples with weights that correct the errors of moment matching.

They go down the noise levels together, are weighed and resampled, and are right in the limit of many.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ncsn.machine import hardware
from ncsn.noise import check_generator
from ncsn.posteriors.measurements import Observation, repeat_for
from ncsn.samplers import Step
from ncsn.score import Copies, Score, float64, tweedie

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
        more than 16 numbers are measured, or 64 for each of several measurements.  Returns None if it is 1, and by
        default for examples of more than 64 numbers.
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
