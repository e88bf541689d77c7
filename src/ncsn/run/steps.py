"""Samples of a run on their way out of the noise, and what they cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.machine.messages import log
from ncsn.problems import Observation
from ncsn.run.posterior import Crowd, MomentMatching, one_for_each
from ncsn.samplers import NonFiniteSampleError, Sampling, Step
from ncsn.score import Counted, Score, ScoreModel, batched, even, guided
from ncsn.validation import GuideName

if TYPE_CHECKING:
    from ncsn.run.run import Run


class Steps(Iterator[Step]):
    """The states of samples on their way out of the noise, as they come; ``len`` of it is how many there will be.

    ``sampling``: how they are drawn.  ``nfe``, ``guide_nfe``: how often the network and its guide have been evaluated
    so far, for each sample; ``backward``: backward passes through the network.
    ``batch_size``: how many the network sees at a time.
    ``particles``: of a posterior, in a population; 1 is none.  ``effective``: the mean effective sample size
    of all populations, known at the end.  ``disagreeing``: samples more than 5 noise_std off what was measured, then.
    """

    def __init__(
        self,
        run: "Run",
        sampling: Sampling,
        crowd: Crowd,
        labels: Tensor | None,
        *,
        start: Tensor | None,
        generator: torch.Generator,
        batch_size: int,
    ) -> None:
        self.run, self.sampling, self.crowd = run, sampling, crowd
        self.effective, self.disagreeing = math.inf, 0
        labels, most = crowd.labels(labels), min(crowd.together, crowd.populations) * crowd.size
        self.batch_size = even(most, batch_size)
        parts = [None] * -(-crowd.populations // crowd.together) if labels is None else torch.split(labels, most)
        self.networks = [Counted(batched(run.prior, self.batch_size, part)) for part in parts]
        self.guides = list[Counted]()
        if sampling.guidance != 1 and sampling.guide == "unconditional":
            self.networks.append(Counted(batched(run.prior, self.batch_size)))
        elif sampling.guidance != 1 and run.guide is not None:
            known = labels if isinstance(run.guide, ScoreModel) and run.guide.num_classes else None
            self.guides.append(Counted(batched(run.guide, self.batch_size, known)))
        if isinstance(run.given, MomentMatching) and not sampling.spec.population:
            run.given.observation.check(sampling.sigma_min, run.recipe.shape)
        self.states = self.checked(self.follow(labels, start, generator))

    def __len__(self) -> int:
        """How many states there will be."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state, in the units of the data."""
        sigma, x = next(self.states)
        return Step(sigma, self.restored(x))

    def last(self) -> Float[Tensor, "n *d"]:
        """The samples; only these go through units, where a GPU is waited for."""
        for step in self.states:
            x = step.x
        return self.restored(x)

    def restored(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """Examples in the units of the data."""
        return x if self.run.units is None else self.run.units.restore(x)

    @property
    def particles(self) -> int:
        """How many particles are in a population."""
        return self.crowd.size

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far."""
        return round(self.crowd.per_sample * sum(network.nfe for network in self.networks))

    @property
    def backward(self) -> int:
        """Backward passes through the network so far."""
        return round(self.crowd.per_sample * sum(network.backward for network in self.networks))

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far."""
        return sum(guide.nfe for guide in self.guides)

    def follow(self, labels: Tensor | None, start: Tensor | None, generator: torch.Generator) -> Iterator[Step]:
        """The states in the score's units; ``labels``: of the particles."""
        run, sampling, given = self.run, self.sampling, self.run.given
        score: Score = self.networks[0]
        for other in (*self.networks[1:], *self.guides):
            score = guided(score, other, sampling.guidance, between=sampling.guided_between)
        if start is None:
            start = sampling.start(run.means(labels), self.crowd.particles, generator=generator)
        x = start.to(run.device)
        if isinstance(given, MomentMatching) and sampling.spec.population:
            yield from self.twisted(given.observation, x, generator)
            return
        if given is not None:
            score = given.score(score, len(x), generator)
        yield from sampling.follow(score, x, generator=generator)

    def twisted(self, observation: Observation, x: Tensor, generator: torch.Generator) -> Iterator[Step]:
        """The states of particles, so many populations at a time as fit into memory."""
        crowd, ladder = self.crowd, self.sampling.ladder()
        measured = torch.split(one_for_each(observation.y, crowd.populations), crowd.together)
        starts = torch.split(x, crowd.together * crowd.size)
        how: dict[str, Any] = {"draws": crowd.draws, "generator": generator}
        swarms = [
            self.sampling.spec.follow(score, replace(observation, y=y), start, ladder, **how)
            for score, y, start in zip(self.networks, measured, starts, strict=True)
        ]
        for states in zip(*swarms, strict=True):
            sigmas, parts, counts = zip(*states, strict=True)
            # Known at the end: the mean over all populations.
            self.effective = sum(c * len(y) for c, y in zip(counts, measured, strict=True)) / crowd.populations
            yield Step(sigmas[0], crowd.shown(torch.cat(parts)))

    def checked(self, states: Iterator[Step]) -> Iterator[Step]:
        """The states as long as they are finite; on a GPU, which is not waited for at each, that turns out at the end.

        Raises NonFiniteSampleError, which names the first noise level where they are not.
        """
        sampling, given, noted = self.sampling, self.run.given, list[tuple[float, Tensor]]()
        for sigma, x in states:
            noted.append((sigma, x.isfinite().all()))
            if x.device.type == "cpu" or sigma == 0 or len(noted) == len(self):
                finite = torch.stack([flag for _, flag in noted]).tolist()
                if not all(finite):
                    raise NonFiniteSampleError(
                        f"samples are not finite from noise level {noted[finite.index(False)][0]:.4g} on, by "
                        f"{sampling.sampler} on {sampling.count} levels, step size {sampling.eps:g}, "
                        f"guidance {sampling.guidance:g}"
                    )
                if x.device.type == "cpu":
                    noted.clear()
            if sigma == 0 and isinstance(given, MomentMatching):
                y = one_for_each(given.observation.y, self.crowd.populations).repeat_interleave(self.crowd.draws, 0)
                self.disagreeing = off = replace(given.observation, y=y).disagreeing(x)
                if off:
                    log.warning(f"{off} of {len(x)} samples disagree with the measurement by more than 5 noise_std")
            yield Step(sigma, x)


def guidance_of(
    run: "Run", sampling: Sampling, labels: Tensor | None, *, weight: float | None, guide: GuideName | None
) -> Sampling:
    """How samples are guided, and on which noise levels; ``weight`` and ``guide`` as they were asked for.

    Where the run's own weight is meant for a guide that there is not, not at all.
    Raises ValueError if a guide is asked for that there is not, a weight without any, or a guide without a weight.
    """
    there = {"smaller": run.guide is not None, "unconditional": labels is not None}
    if guide is None and there["unconditional"] and not there["smaller"]:
        sampling = replace(sampling, guide="unconditional")
    if not there[sampling.guide]:
        if guide is not None or weight not in (None, 1):
            raise ValueError(f"guide is {sampling.guide}; the run has no smaller network, or the samples no class")
        return replace(sampling, guidance=1.0)
    if guide is not None and sampling.guidance == 1:
        raise ValueError(f"guide is {guide}, but guidance is 1, and {sampling.sampler} then uses no guide")
    return sampling


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples, and what they cost.

    ``samples`` (n, *d): in the units of the data.  ``path``: the first few of them on their way, if asked for.
    ``steps``: how they were drawn, all of which are taken.
    """

    samples: Float[Tensor, "n *d"]
    path: list[Step]
    steps: Steps
    seconds: float

    @property
    def cost(self) -> str:
        """All of it, for a user to read."""
        return cost(len(self.samples), self.steps, self.seconds)


def cost(n: int, steps: Steps, seconds: float) -> str:
    """What ``n`` samples took, for a user to read; evaluations of the network and of the guide are for each sample."""
    sampler, guide = steps.sampling.sampler, f" and {steps.guide_nfe} of the guide" if steps.guide_nfe else ""
    speed = f"{seconds:.1f} s, {n / seconds:.0f} samples/s"
    return f"{n} samples by {sampler}, {steps.nfe} evaluations each{guide}, {speed}"
