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
        guide = f" and {self.guide_nfe} of the guide" if self.guide_nfe else ""
        rate = len(self.samples) / self.seconds
        return (
            f"{len(self.samples)} samples by {self.sampling.sampler}, {self.nfe} evaluations each{guide}, "
            f"{self.seconds:.1f} s, {rate:.0f} samples/s"
        )
