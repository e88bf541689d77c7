"""Sampling step by step: the states of samples from noise to data, what they cost, and the options of sampling."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.machine.hardware import threads_for
from ncsn.posteriors import Classes, Posterior, Weight
from ncsn.run.folder import Label
from ncsn.samplers import NonFiniteSampleError, Sampling, Step
from ncsn.score import Counted, Score, ScoreModel, add_guidance, evaluate_in_batches, even_batch_size
from ncsn.validation import counted

if TYPE_CHECKING:
    from ncsn.run.run import Run

Levels: TypeAlias = int | Sequence[float] | Float[Tensor | np.ndarray, "levels"]


class SamplingChanges(TypedDict, total=False):
    """The fields of ``Sampling`` that the keywords of ``Run.steps`` replace; None keeps the run's own value."""

    sampler: str | None
    levels: Levels | None
    steps: int | None
    eps: float | None
    guidance: float | None


class SamplingOptions(SamplingChanges, total=False):
    """The keyword arguments of ``Run.steps`` that say how to sample."""

    label: Label | None
    batch_size: int
    start: Float[Tensor, "n *d"] | None
    particles: int | None


class SeededOptions(SamplingOptions, total=False):
    """``SamplingOptions`` with a seed."""

    seed: int | torch.Generator


class Steps(Iterator[Step]):
    """An iterator over the states of samples, from noise to data; its ``len`` is the number of states.

    ``sampling``: how they are drawn.
    ``batch_size``: the largest batch that the network sees.
    ``weight``, ``disagreeing``: the quality of a posterior's samples, known after the last state, see ``Quality``.
    """

    def __init__(
        self,
        source: "Run",
        sampling: Sampling,
        posterior: Posterior | None,
        n: int,
        labels: Classes,
        *,
        start: Float[Tensor, "n *d"] | None,
        generator: torch.Generator,
        batch_size: int,
    ) -> None:
        self.source, self.sampling, self.posterior, self.n, self.batch_size = source, sampling, posterior, n, batch_size
        self.given_start, self.generator = start, generator
        self.networks, self.guides = list[Counted](), list[Counted]()
        self.weight: Weight | None = None
        self.disagreeing = 0
        self.states = self.check(self.follow(labels))

    def __len__(self) -> int:
        """The number of states."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state, in the units of the data."""
        sigma, x = self.advance()
        return Step(sigma, self.source.transform.inverse(x))

    def advance(self) -> Step:
        """The next state, in the score's units."""
        with threads_for(self.source.prior):
            return next(self.states)

    def last(self) -> Float[Tensor, "n *d"]:
        """The samples.  Only the last state is transformed to the data's units, because that synchronises a GPU."""
        return self.source.transform.inverse(self.final())

    def final(self) -> Float[Tensor, "n *d"]:
        """The samples in the score's units."""
        with suppress(StopIteration):
            while True:
                x = self.advance().x
        return x

    @property
    def particles(self) -> int:
        """The number of particles in a population; 1 means none."""
        return 1 if self.posterior is None else self.posterior.particles

    @property
    def effective(self) -> float:
        """The mean effective sample size of a posterior's particles, known after the last state."""
        return math.inf if self.weight is None else float(self.weight.effective.mean())

    @property
    def sampler(self) -> str:
        """The method: a name in ``SAMPLERS``, or particles."""
        return self.sampling.sampler if self.particles == 1 else "particles"

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far, per sample."""
        return round(sum(network.evaluated for network in self.networks) / self.n)

    @property
    def backward(self) -> int:
        """Backward passes through the network so far, per sample."""
        return round(sum(network.differentiated for network in self.networks) / self.n)

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far, per sample."""
        return round(sum(guide.evaluated for guide in self.guides) / self.n)

    def count(self, score: Score) -> Score:
        """The same score, counted."""
        self.networks.append(Counted(score))
        return self.networks[-1]

    def start(self, n: int, labels: Classes) -> Float[Tensor, "n *d"]:
        """Where ``n`` examples of these classes start: in noise around their means, unless the user says where."""
        if self.given_start is not None:
            return self.given_start
        return self.sampling.start(self.source.means(labels), n, generator=self.generator)

    def score(self, n: int, labels: Classes) -> Score:
        """The guided score of up to ``n`` examples of these classes, evaluated in batches and counted."""
        source, sampling, size = self.source, self.sampling, even_batch_size(n, self.batch_size)
        score, guide = Counted(evaluate_in_batches(source.prior, size, labels)), None
        self.networks.append(score)
        if sampling.guidance != 1 and sampling.guide == "unconditional":
            guide = Counted(evaluate_in_batches(source.prior, size))
            self.networks.append(guide)
        elif sampling.guidance != 1 and source.guide is not None:
            known = labels if isinstance(source.guide, ScoreModel) and source.guide.num_classes else None
            guide = Counted(evaluate_in_batches(source.guide, size, known))
            self.guides.append(guide)
        if guide is None:
            return score
        return add_guidance(score, guide, sampling.guidance, between=sampling.guided_between)

    def follow(self, labels: Classes) -> Iterator[Step]:
        """The states in the score's units."""
        if self.posterior is None:
            yield from self.source.states(self, labels)
        else:
            states = self.posterior.states(self, self.n, labels, self.sampling, self.generator)
            self.weight, self.disagreeing = yield from states

    def check(self, states: Iterator[Step]) -> Iterator[Step]:
        """Yield the states and check that they are finite; on a GPU, to avoid synchronising, only at the end.

        Raises NonFiniteSampleError, which names the noise level at which they are not.
        """
        sampling = self.sampling
        for number, (sigma, x) in enumerate(states, 1):
            asked = x.device.type == "cpu" or sigma == 0 or number == len(self)
            if asked and self.source.is_broken(x):
                how = f"{sampling.count} levels, step size {sampling.eps:g}, guidance {sampling.guidance:g}"
                first = f"samples are not finite at noise level {sigma:.4g}"
                raise NonFiniteSampleError(f"{first}, with {self.sampler} on {how}")
            yield Step(sigma, x)


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
        return cost(len(self.samples), self.steps, self.seconds)


def cost(n: int, steps: Steps, seconds: float) -> str:
    """The cost of ``n`` samples in words; evaluations of the network and of the guide are per sample."""
    guide = f" and {steps.guide_nfe} of the guide" if steps.guide_nfe else ""
    speed = f"{seconds:.1f} s, {n / seconds:.0f} samples/s"
    return f"{counted(n, 'sample')} by {steps.sampler}, {steps.nfe} evaluations each{guide}, {speed}"
