"""Samples, and what they cost."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ncsn.samplers.step import Step
from ncsn.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples, and what they cost.

    ``samples`` (n, *d): in the units of the data.  ``path``: the first few of them on their way, if asked for.
    ``sampling``: how they were drawn.  ``nfe``, ``guide_nfe``: evaluations, for each sample, of the network and of the
    guide that it is moved away from.
    """

    samples: Float[Tensor, "n *d"]
    path: list[Step]
    sampling: Sampling
    nfe: int
    guide_nfe: int
    seconds: float

    @property
    def cost(self) -> str:
        """All of it, for a user to read."""
        return cost(len(self.samples), self.sampling.sampler, self.nfe, self.guide_nfe, self.seconds)


def cost(n: int, sampler: str, nfe: int, guide_nfe: int, seconds: float) -> str:
    """What ``n`` samples took, for a user to read; evaluations of the network and of the guide are for each sample."""
    guide = f" and {guide_nfe} of the guide" if guide_nfe else ""
    return f"{n} samples by {sampler}, {nfe} evaluations each{guide}, {seconds:.1f} s, {n / seconds:.0f} samples/s"
