"""Transforms from the user's numbers to the model's, with the vocabulary of ``torch.distributions.transforms``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from pydantic import PlainValidator
from torch import Tensor

from ncsn.validation import validated

FAR = 30.0  # standard deviations, beyond which training says nothing about the data


@dataclass(frozen=True)
class Transform:
    """The identity: the user's numbers x are the model's numbers z.  Other transforms extend it.

    ``type``: the transform's name in a run's config.json.
    """

    type: Literal["identity", "depth", "scale", "columns"] = field(default="identity", kw_only=True)

    def forward(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them; NaN stays NaN.

        ``generator``: draws the position of a discrete value in its cell; by default it is the middle.
        """
        return x

    def inverse(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples in the user's units."""
        return z

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The user's examples from ``forward``; unlike samples, they may lie outside of the range of training."""
        return self.inverse(z)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx| at the user's examples; with ``generator`` at the same positions as ``forward``."""
        return torch.zeros(len(x), dtype=torch.float64, device="cpu")

    def possible(self, x: Shaped[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Which of the user's numbers are possible, judging by the training data; NaN may stand for a missing one."""
        return torch.ones_like(x, dtype=torch.bool)

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "*d"], Float[Tensor, "*d"], Bool[Tensor, "*d"]]:
        """Shift and scale of each number of an example, x = shift + scale·z, and which numbers that describes fully."""
        zero = torch.zeros(shape, device="cpu")
        return zero, torch.ones_like(zero), torch.ones_like(zero, dtype=torch.bool)

    def place(self, example: int, channel: int) -> str:
        """The position of a number, for error messages; both arguments count from 0."""
        return f"example {example + 1}, number {channel}"

    def check(self, x: Shaped[Tensor, "b *d"]) -> None:
        """Raise ValueError for impossible numbers, naming the first."""
        for where in (~self.possible(x)).nonzero()[:1].tolist():
            value = float(x[tuple(where)])
            raise ValueError(f"{self.place(*where[:2])} cannot be {value:g}, judging by the training data")

    def describe(self) -> tuple[str, ...]:
        """What the transform does beyond shifting and scaling, one line each."""
        return ()


TRANSFORMS = {
    "identity": "ncsn.kinds.transform:Transform",
    "depth": "ncsn.kinds.images.pixels:Depth",
    "scale": "ncsn.kinds.signals:Scale",
    "columns": "ncsn.kinds.tables.columns:Columns",
}


def find(place: str) -> Any:
    """Import what a registry names as module:name."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def read_transform(content: object) -> Transform:
    """A transform from a run's config.json.  Raises ValueError for anything else."""
    if isinstance(content, Transform):
        return content
    name = content.get("type") if isinstance(content, Mapping) else None
    if name not in [*TRANSFORMS]:  # it may be anything, even unhashable
        raise ValueError(f"transform is {name!r}; it must be one of {', '.join(TRANSFORMS)}")
    kind: type[Transform] = find(TRANSFORMS[name])
    return validated(kind, content, "transform")


AnyTransform: TypeAlias = Annotated[Transform, PlainValidator(read_transform)]
