"""The units of the user's data, where they are not those that a model was trained in."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Units:
    """x = shift + scale·z, coordinate by coordinate: x is the user's, z what the model sees.

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.
    """

    shift: Float[Tensor, "*d"]
    scale: Float[Tensor, "*d"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> "Units":
        """Those in which every coordinate of ``x`` has mean 0 and standard deviation 1.

        Raises ValueError if a coordinate is constant, naming it.
        """
        exact = x.cpu().double()  # Apple's GPUs have no such numbers
        shift, scale = exact.mean(0), exact.std(0)
        constant = (~(scale > (1e-15 if x.dtype == torch.float64 else 1e-7) * shift.abs())).nonzero()[:, 0].tolist()
        if constant:
            raise ValueError(f"column {', '.join(map(str, constant))} is constant, so it has no density; leave it out")
        return cls(shift.to(x), scale.to(x))

    def standardise(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them: in the precision of both, and then in that of ``x``."""
        shift, scale = self.beside(x)
        return ((x - shift) / scale).to(x.dtype)

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples as the user knows them, in double precision if the user's were."""
        shift, scale = self.beside(z)
        return shift + scale * z

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale where ``x`` is; Apple's GPUs have no double precision."""
        if x.device.type == "mps":
            return self.shift.to(x), self.scale.to(x)
        kind = torch.promote_types(x.dtype, self.shift.dtype)
        return self.shift.to(x.device, kind), self.scale.to(x.device, kind)

    def log_volume(self, shape: torch.Size | tuple[int, ...]) -> float:
        """The logarithm of how much larger a volume of examples of this shape is in the user's units."""
        return float(self.scale.cpu().double().log().expand(shape).sum())
