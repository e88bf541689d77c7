"""A posterior: the score of what may have been measured, made of a prior's score and an observation.

It is a Score like any other, so that every sampler draws from it.  How it moves is its class: ``MomentMatching``, which
particles correct where there are many of them, and ``Replacement``.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ncsn import problems
from ncsn.data.units import Units
from ncsn.problems import Measurement, Observation
from ncsn.samplers import Sampling
from ncsn.score import Score, Sigma, moved

if TYPE_CHECKING:
    from ncsn.run.run import Run

SEVERAL = 64  # particles of each of several measurements
TOGETHER = 2**24  # numbers in the covariances of particles that are moved at a time
SMALL = 64  # numbers in an example with which a posterior has particles by default: each may take a backward pass


@dataclass(frozen=True, eq=False)
class Posterior:
    """The score ∇ₓ log p_σ(x | y) of a prior's score and an observation.

    ``prior``: the score that it was made of.
    ``caveat``: what a reader of the samples must know, if there are no particles.
    """

    prior: Score
    caveat: ClassVar[str] = ""

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        """The same for a batch of ``n`` examples, by another evaluation of the prior."""
        raise NotImplementedError

    def to(self, device: torch.device, prior: Score) -> "Posterior":
        """The same on another device, where ``prior`` is."""
        raise NotImplementedError

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The score at ``x``, (b, *d)."""
        return self.score(self.prior, len(x), None)(x, sigma)


@dataclass(frozen=True, eq=False)
class MomentMatching(Posterior):
    """The posterior by ``ncsn.posterior``, and by particles, whose twist it is.

    ``observation``: what was measured, in the units of the score.  ``solver_steps``: of conjugate gradients.
    """

    observation: Observation
    solver_steps: int = 3
    caveat = "; approximate where several answers compete (moment matching)"

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        y = one_for_each(self.observation.y, n)
        return problems.posterior(
            prior, self.observation.measure, y, self.observation.noise_std, steps=self.solver_steps
        )

    def to(self, device: torch.device, prior: Score) -> "MomentMatching":
        return replace(self, prior=prior, observation=self.observation.to(device))

    def crowd(self, n: int, size: int | None, *, alike: bool, numbers: int) -> "Crowd":
        """The populations of ``n`` samples, one for each measurement; of several classes, one for each sample.

        ``size``: of a population, which is never smaller than the samples that are drawn of it; by default 1,000 or,
        where more than 16 numbers are measured, 250, and 64 for each of several measurements.
        ``alike``: whether all samples are of one class.  ``numbers``: in an example.
        """
        y = self.observation.y
        populations = len(y) if alike else n
        rows = min(numbers, max(problems.WHOLE, y.shape[1:].numel()))
        if size is None:
            size = SEVERAL if populations > 1 else 1000 if rows <= 16 else 250
        one_for_each(y, populations)
        if n % populations:
            raise ValueError(f"y holds {populations} measurements for {n} samples; as many of each are needed")
        size = max(n // populations, size)
        return Crowd(populations, size, n // populations, max(1, TOGETHER // (size * rows * numbers)))


@dataclass(frozen=True, eq=False)
class Replacement(Posterior):
    """The posterior by ``ncsn.replacement``, for annealed Langevin dynamics.

    ``known``: True where a number of an example is known, (*d).  ``y``: one example, or one for each sample.
    """

    known: Bool[Tensor, "*d"]
    y: Float[Tensor, "k *d"]

    def score(self, prior: Score, n: int, generator: torch.Generator | None) -> Score:
        return problems.replacement(prior, self.known, one_for_each(self.y, n), generator=generator)

    def to(self, device: torch.device, prior: Score) -> "Replacement":
        return replace(self, prior=prior, known=self.known.to(device), y=moved(self.y, device))


class Crowd(NamedTuple):
    """Populations of particles of one ``size``, one after the other; ``draws`` samples are taken of each.

    ``together``: how many populations are moved at a time.
    """

    populations: int
    size: int
    draws: int
    together: int

    @property
    def particles(self) -> int:
        """How many there are in all."""
        return self.populations * self.size

    @property
    def per_sample(self) -> float:
        """Particles for each sample, of those that are moved at a time."""
        return self.size / self.draws / -(-self.populations // self.together)

    def labels(self, labels: Int64[Tensor, "n"] | None) -> Int64[Tensor, "m"] | None:
        """The class of each particle, from those of the samples."""
        return None if labels is None else labels[:: self.draws].repeat_interleave(self.size)

    def shown(self, x: Float[Tensor, "m *d"]) -> Float[Tensor, "n *d"]:
        """As many particles of each population as are drawn of it in the end."""
        whole = x.view(self.populations, -1, *x.shape[1:])
        return whole[:, :: whole.shape[1] // self.draws][:, : self.draws].flatten(0, 1)


def one_for_each(y: Float[Tensor, "k *m"], n: int) -> Float[Tensor, "n *m"]:
    """A measurement for each of ``n`` samples, of one or of as many.  Raises ValueError for another number."""
    if len(y) not in (1, n):
        raise ValueError(f"y holds {len(y)} measurements for {n} samples; one, or one for each, is needed")
    return y.expand(n, *y.shape[1:])


def matched(run: "Run", measure: Measurement, y: Any, noise_std: Any, solver_steps: int) -> "Run":
    """The run of ``Run.posterior``."""
    zero = torch.zeros(run.recipe.shape, device=run.device)
    units = Units(zero, zero + 1) if run.units is None else run.units
    if not bool(units.straight.all()):
        each = torch.eye(len(zero), device=run.device)
        if bool((measure(each) - measure(zero[None])).cpu()[~units.straight].any()):
            bent = "; ".join(units.describe(run.names))
            raise ValueError(f"the measurement is not linear in {bent}; run.impute fills in")
    shift, scale = zero + units.shift.to(zero), zero + units.scale.to(zero)
    numbers = {"y": y, "noise_std": noise_std}
    target, noise = (real(name, value).to(zero) for name, value in numbers.items())
    observation = Observation.of(measure, target, noise, shift, scale)
    check_precision(observation, zero, run.recipe.sampling.sigma_max)
    # Twice the usual levels, unguided: the posterior's score is rougher than the prior's, and must be a score.
    sampling = run.recipe.sampling.but(sampler="dpmpp-sde", guidance=1.0)
    sampling = sampling.but(levels=2 * sampling.spec.suited(sampling.sigma_max, sampling.sigma_min))
    sampler = "twisted" if zero.numel() <= SMALL else "dpmpp-sde"
    return given(run, MomentMatching(run.score, observation, solver_steps), replace(sampling, sampler=sampler))


def real(name: str, value: Any) -> Tensor:
    """A user's numbers.  Raises ValueError for complex ones."""
    numbers = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    if numbers.is_complex():
        raise ValueError(f"{name} holds complex numbers; real ones are needed")
    return numbers


def check_precision(observation: Observation, zero: Float[Tensor, "*d"], sigma_max: float) -> None:
    """Raises ValueError for noise that single precision cannot tell from none, and for what no example is near to."""
    z = torch.randn(64, *zero.shape, generator=torch.Generator().manual_seed(0), device="cpu").to(zero)
    widest = sigma_max * observation.measure(z).abs().amax(0)
    if bool((observation.noise_std < 1e-7 * widest).any()):
        raise ValueError("noise_std is too small for single precision; at least a ten-millionth of sigma_max is needed")
    if bool((observation.y.abs() > 1e6 * widest.max()).any()):
        raise ValueError("y is more than a million times farther away than sigma_max; is it in the units of the data?")


def replaced(run: "Run", known: Any, y: Any) -> "Run":
    """The run of ``Run.replacement``."""
    target = y if isinstance(y, Tensor) else torch.as_tensor(y, device="cpu")
    mask = torch.as_tensor(known, device=run.device)
    target = target[None] if target.ndim == len(run.recipe.shape) else target
    target = moved(target if run.units is None else run.units.standardise(target), run.device)
    # The sampler's own two steps a level leave the unknown 0.07 off where 1.35 is right, five of them 0.03.
    sampling = run.recipe.sampling.but(sampler="annealed", guidance=1.0)
    sampling = replace(sampling, steps=max(5, sampling.steps))
    return given(run, Replacement(run.score, mask, target), sampling)


def given(run: "Run", posterior: Posterior, sampling: Sampling) -> "Run":
    """The run of a posterior.  Raises ValueError if the run is one already."""
    run.refuse_posterior("the prior of another; give one measurement of everything")
    return replace(run, score=posterior, recipe=replace(run.recipe, sampling=sampling))


def own_sampling(run: "Run", sampler: str | None, particles: int | None, *, free: bool) -> Sampling:
    """How a run is sampled before anything is changed: a posterior by particles, or by moment matching alone.

    ``free``: whether the way down can be one of particles: unguided, from noise.
    """
    own = run.recipe.sampling
    if not isinstance(run.score, MomentMatching):
        return own
    crowded = own.sampler == "twisted" if particles is None else particles > 1
    if free and crowded and sampler in (None, "twisted"):
        return replace(own, sampler="twisted")
    return replace(own, sampler="dpmpp-sde") if sampler in (None, "dpmpp-sde") else own


def crowd_of(
    run: "Run", sampling: Sampling, labels: Tensor | None, n: int, particles: int | None, *, free: bool
) -> Crowd:
    """The particles that ``n`` samples are drawn from; without any, each is its own.

    Raises ValueError for particles of what has none.
    """
    if not sampling.spec.population:
        if particles not in (None, 1):
            raise ValueError(f"particles is {particles}; only unguided posteriors by twisted have them")
        return Crowd(n, 1, 1, n)
    if not (isinstance(run.given, MomentMatching) and free):
        raise ValueError(f"sampler is {sampling.sampler}; it draws from unguided posteriors alone, out of noise")
    alike = labels is None or bool((labels == labels[0]).all())
    return run.given.crowd(n, particles, alike=alike, numbers=math.prod(run.recipe.shape))
