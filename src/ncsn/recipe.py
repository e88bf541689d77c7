"""A recipe: how to build a run's model again, and how to sample it; what config.json keeps of both."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ncsn import networks
from ncsn.machine import Results
from ncsn.pixels import Depth
from ncsn.preconditioning import Karras, Plain, Preconditioning, Scaled, ScoreModel
from ncsn.sampling import Sampling

Argument: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[float, ...]
PreconditioningName = Literal["karras", "scaled", "plain"]
PRECONDITIONINGS: dict[PreconditioningName, Preconditioning] = {
    "karras": Karras(),
    "scaled": Scaled(),
    "plain": Plain(),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a run's model, and how to sample it.

    ``network``: a class of ``ncsn.networks``, and ``arguments`` for it; another name is a network of the user's own.
    ``preconditioning``: what makes it a score.  ``shape``: of one example.  ``sampling``: the run's own way to sample.
    ``depth``: what the numbers in the files of images are.
    """

    network: str
    arguments: dict[str, Argument]
    preconditioning: PreconditioningName = "karras"
    shape: tuple[int, ...]
    sampling: Sampling
    depth: Depth = field(default_factory=Depth)

    @property
    def images(self) -> bool:
        """Whether examples are images (c, h, w), and not points (d,)."""
        return len(self.shape) == 3

    @property
    def classes(self) -> int:
        """How many classes the network can be told; 0 if none."""
        return int(self.arguments.get("classes", 0))  # type: ignore[arg-type]

    def build(
        self,
        data_mean: float | Tensor = 0.0,
        data_std: float | Tensor = 1.0,
        *,
        network: nn.Module | None = None,
        autocast: bool = False,
    ) -> ScoreModel:
        """The model, untrained; around a ``network`` of the user's own, if the recipe names one.

        Raises ValueError if this version has no such network, or none of its name is needed.
        """
        if network is None and self.network not in networks.__all__:
            raise ValueError(
                f"{self.network} is no network of this package ({', '.join(networks.__all__)}); "
                f"for one of your own give network={self.network}(...)"
            )
        if network is None:
            network = getattr(networks, self.network)(**self.arguments)
        way = PRECONDITIONINGS[self.preconditioning]
        return ScoreModel(network, data_mean, data_std, preconditioning=way, autocast=autocast)

    def memory(self, batch_size: int, *, learning: bool) -> int:
        """About how many bytes a batch needs, ``learning`` or only drawing, weights included; nothing is allocated.

        Learning keeps the weights, their average, gradients and two moments, and whatever a pass makes; drawing only
        what a layer needs at a time.  0 for a network of the user's own.
        """
        if self.network not in networks.__all__:
            return 0
        with torch.device("meta"), torch.no_grad():
            model = self.build()
            with Results() as made:
                model.network(torch.zeros(batch_size, *self.shape), torch.zeros(batch_size))
        weights = sum(p.nbytes for p in model.parameters())
        needed: int = 5 * weights + made.all if learning else 2 * weights + 4 * made.largest
        return needed
