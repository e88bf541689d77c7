"""Samples, on their way and drawn, and what they cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ncsn.samplers import Sampling, Step
from ncsn.score import Counted


class Steps(Iterator[Step]):
    """The states of samples on their way out of the noise, as they come; ``len`` of it is how many there will be.

    ``sampling``: how they are drawn.  ``nfe``, ``guide_nfe``: how often the network and its guide have been evaluated
    so far, for each sample.  ``run``: the one whose networks these are.  ``sampler``: its name, for a user to read.
    """

    def __init__(
        self, states: Iterator[Step], sampling: Sampling, networks: list[Counted], guide: Counted | None, *, run: Any
    ) -> None:
        self.states, self.sampling, self.run = states, sampling, run
        self.networks, self.guide = networks, guide
        self.sampler = sampling.sampler

    def __len__(self) -> int:
        """How many states there will be."""
        return self.sampling.states

    def __next__(self) -> Step:
        """The next state."""
        return next(self.states)

    @property
    def nfe(self) -> int:
        """Evaluations of the network so far."""
        return sum(network.nfe for network in self.networks)

    @property
    def guide_nfe(self) -> int:
        """Evaluations of the guide so far."""
        return 0 if self.guide is None else self.guide.nfe


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples, and what they cost.

    ``samples`` (n, *d): in the units of the data.  ``path``: the first few of them on their way, if asked for.
    ``sampling``: how they were drawn.  ``sampler``: its name, for a user to read.  ``nfe``, ``guide_nfe``: evaluations,
    for each sample, of the network and of the guide that it is moved away from.
    """

    samples: Float[Tensor, "n *d"]
    path: list[Step]
    sampling: Sampling
    sampler: str
    nfe: int
    guide_nfe: int
    seconds: float

    @property
    def cost(self) -> str:
        """All of it, for a user to read."""
        return cost(len(self.samples), self.sampler, self.nfe, self.guide_nfe, self.seconds)


def cost(n: int, sampler: str, nfe: int, guide_nfe: int, seconds: float) -> str:
    """What ``n`` samples took, for a user to read; evaluations of the network and of the guide are for each sample."""
    guide = f" and {guide_nfe} of the guide" if guide_nfe else ""
    return f"{n} samples by {sampler}, {nfe} evaluations each{guide}, {seconds:.1f} s, {n / seconds:.0f} samples/s"
