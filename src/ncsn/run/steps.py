"""Samples step by step: the states from noise to data, and what they cost."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.data.transforms import Transform
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import log
from ncsn.particles import Weight
from ncsn.posteriors import Posterior
from ncsn.prior import Classes, Prior
from ncsn.samplers import Step
from ncsn.sampling import NonFiniteSampleError
from ncsn.validation import counted, whole

BLOCK, BLOCK_VALUES = 1000, 2**24  # the most samples, and numbers in them, that ``Run.blocks`` draws together


class Steps(Iterator[Step]):
    """An iterator over the states of samples, from noise to data; its ``len`` is the number of states.

    ``sampling``: how they are drawn.
    ``n``: the number of samples.
    ``batch_size``: the largest batch that the network sees.
    """

    def __init__(
        self, states: Iterator[Step], prior: Prior, n: int, transform: Transform, *, allow_nan: bool = False
    ) -> None:
        """Wrap the ``states`` of samples of a ``prior``, in its units; with ``allow_nan``, NaN is a missing value."""
        self.prior = prior
        self.n = n
        self.transform = transform
        self.sampling = prior.sampling
        self.batch_size = prior.batch_size
        self.states = self.check(states, allow_nan=allow_nan)

    def __len__(self) -> int:
        """The number of states."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state, in the units of the data."""
        sigma, x = self.advance()
        return Step(sigma, self.transform.inverse(x))

    def advance(self) -> Step:
        """The next state, in the score's units."""
        with threads_for(self.prior.network):
            return next(self.states)

    def last(self) -> Float[Tensor, "n *d"]:
        """Run the sampler to its end; returns the samples in the data's units, (n, *d).

        Only the last state is transformed to these units, because that synchronises a GPU.
        """
        return self.transform.inverse(self.final())

    def final(self) -> Float[Tensor, "n *d"]:
        """Run the sampler to its end; returns the samples in the score's units, (n, *d)."""
        with suppress(StopIteration):
            while True:
                x = self.advance().x
        return x

    @property
    def sampler(self) -> str:
        """The method: a name in ``SAMPLERS``, or particles."""
        return self.sampling.sampler

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far, per sample."""
        return round(sum(network.evaluated for network in self.prior.cost.networks) / self.n)

    @property
    def backward(self) -> int:
        """Backward passes through the network so far, per sample."""
        return round(sum(network.differentiated for network in self.prior.cost.networks) / self.n)

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far, per sample."""
        return round(sum(guide.evaluated for guide in self.prior.cost.guides) / self.n)

    def check(self, states: Iterator[Step], *, allow_nan: bool) -> Iterator[Step]:
        """Yield the states and check that they are finite; on a GPU, to avoid synchronising, only at the end.

        Raises NonFiniteSampleError, which names the noise level at which they are not.
        """
        sampling = self.sampling
        for number, (sigma, x) in enumerate(states, 1):
            is_cheap = x.device.type == "cpu" or sigma == 0 or number == len(self)
            if is_cheap and is_broken(x, allow_nan=allow_nan):
                settings = f"{sampling.count} levels, step size {sampling.eps:g}, guidance {sampling.guidance:g}"
                problem = f"samples are not finite at noise level {sigma:.4g}"
                raise NonFiniteSampleError(f"{problem}, with {self.sampler} on {settings}")
            yield Step(sigma, x)


def is_broken(x: Float[Tensor, "b *d"], *, allow_nan: bool) -> bool:
    """Whether samples are infinite, or NaN unless that is allowed."""
    return bool(x.isinf().any()) if allow_nan else not bool(x.isfinite().all())


class PosteriorSteps(Steps):
    """``Steps`` of a posterior.  The quality of the samples is known after the last state.

    ``particles``: the number of particles in a population; 1 means none.
    ``weight``: the weights of the particles, see ``Weight``; None without particles.
    ``disagreeing``: how many samples are farther from the measurement than its noise explains.
    """

    def __init__(self, posterior: Posterior, prior: Prior, n: int, labels: Classes, transform: Transform) -> None:
        self.posterior = posterior
        self.weight: Weight | None = None
        self.disagreeing = 0
        super().__init__(self.follow(prior, n, labels), prior, n, transform)

    def follow(self, prior: Prior, n: int, labels: Classes) -> Iterator[Step]:
        """The states in the score's units; messages at the end name unreliable samples."""
        for step, weight in self.posterior.states(prior, n, labels):
            self.weight = weight
            yield step
        self.disagreeing = self.posterior.count_disagreeing(step.x)
        if self.disagreeing:
            problem = "disagree with the measurement by more than its noise explains"
            log.warning(f"{self.disagreeing} of {n} samples {problem}")
        if self.weight is not None:
            unreliable = int(self.weight.standard_error.isinf().sum())
            if unreliable:
                populations = f"{unreliable} of {len(self.weight.effective)} populations of particles"
                advice = "try more particles or levels"
                log.warning(f"{populations} descend from a single one and are unreliable; {advice}")

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return self.posterior.particles

    @property
    def effective(self) -> float:
        """The mean effective sample size of the particles, known after the last state."""
        return math.inf if self.weight is None else float(self.weight.effective.mean())

    @property
    def sampler(self) -> str:
        return self.sampling.sampler if self.particles == 1 else "particles"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples and their cost.

    ``samples`` (n, *d): in the units of the data.  ``path``: the states of the first few, if requested.
    ``steps``: the exhausted iterator that drew them.
    """

    samples: Float[Tensor, "n *d"]
    path: list[Step]
    steps: Steps
    seconds: float

    @property
    def cost(self) -> str:
        """The cost in words."""
        return describe_cost(len(self.samples), self.steps, self.seconds)


def describe_cost(n: int, steps: Steps, seconds: float) -> str:
    """The cost of ``n`` samples in words; evaluations of the network and of the guide are per sample."""
    guide = f" and {steps.guide_nfe} of the guide" if steps.guide_nfe else ""
    speed = f"{seconds:.1f} s, {n / seconds:.0f} samples/s"
    return f"{counted(n, 'sample')} by {steps.sampler}, {steps.nfe} evaluations each{guide}, {speed}"


def generator_of(seed: int | torch.Generator, device: torch.device) -> torch.Generator:
    """A generator with this seed on a device, or the generator that is passed."""
    if isinstance(seed, torch.Generator):
        return seed
    return torch.Generator(device).manual_seed(whole("seed", seed, 0))


def block_size(shape: tuple[int, ...]) -> int:
    """The number of examples of this shape that ``Run.blocks`` draws together."""
    return max(1, min(BLOCK, BLOCK_VALUES // math.prod(shape)))


def block_seed(seed: int, number: int) -> int:
    """The seed of a block of samples; the first block has the user's.

    CPU generators have 2³² seeds.  Blocks count up from a seed that is far from the user's, so that no two blocks share
    a seed, and seeds 0 and 1 have no blocks in common.
    """
    if number == 0:
        return seed
    start = np.random.SeedSequence(seed % 2**64).generate_state(1)[0]
    return (int(start) + number) % 2**32
