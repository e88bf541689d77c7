"""Transforms between the user's numbers x and the model's numbers z: pixels of any depth, and units of channels.

Those of a table's columns are in ``columns``.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.batching import dequantize, quantize, reals

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
        shift = torch.zeros(shape, device="cpu")
        return shift, torch.ones_like(shift), torch.ones_like(shift, dtype=torch.bool)

    def place(self, example: int, channel: int) -> str:
        """The position of a number, for error messages; both arguments count from 0."""
        return f"example {example + 1}, number {channel}"

    def check(self, x: Shaped[Tensor, "b *d"]) -> None:
        """Raise ValueError for impossible numbers, naming the first."""
        for index in (~self.possible(x)).nonzero()[:1].tolist():
            value = float(x[tuple(index)])
            raise ValueError(f"{self.place(*index[:2])} cannot be {value:g}, judging by the training data")

    def describe(self) -> tuple[str, ...]:
        """What the transform does beyond shifting and scaling, one line each."""
        return ()


DTYPES = {np.dtype(code).name for code in "bBhHiIlLqQefdg"}


@dataclass(frozen=True)
class Depth(Transform):
    """The range of pixels in files: a value v becomes (v − low)/(high − low), a real in [0, 1].

    ``dtype``: numpy's name of the files' dtype.  ``low``, ``high``: the file values that become 0 and 1.
    Raises ValueError if ``dtype`` isn't numeric, or the range is empty or not finite.
    """

    type: Literal["depth"] = field(default="depth", kw_only=True)
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 256.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(f"depth is {self.dtype!r} from {self.low} to {self.high}; expected a finite range")

    def forward(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """Convert bytes to reals, dequantised at random if there is a ``generator``; reals are unchanged."""
        if generator is None or x.dtype != torch.uint8:
            return reals(x)
        return dequantize(x, generator=generator)

    def possible(self, x: Shaped[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Bytes, and reals that aren't far from [0, 1], as on another scale."""
        if x.dtype == torch.uint8:
            return torch.ones_like(x, dtype=torch.bool)
        return torch.isnan(x) | ((x >= -0.5) & (x <= 1.5))

    def place(self, example: int, channel: int) -> str:
        """Name the image, for error messages."""
        return f"a pixel of image {example + 1}"

    def stored(self, x: Float[Tensor, "*d"]) -> Shaped[np.ndarray, "*d"]:
        """Convert reals to the files' dtype; integers are rounded and clipped to [low, high), floats aren't."""
        if self == BYTES:
            return quantize(x).cpu().numpy()
        values = x.detach().cpu().double().numpy() * (self.high - self.low) + self.low
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype)
        largest = min(self.high - 1, np.nextafter(self.high, 0))  # beyond 2⁵³, high − 1 is rounded to high
        return np.round(values).clip(self.low, largest).astype(dtype)


BYTES = Depth()
"""The depth of most image files."""


def stored_depth(transform: Transform) -> Depth:
    """The depth of image files; bytes if it's unknown."""
    return transform if isinstance(transform, Depth) else BYTES


@dataclass(frozen=True)
class Scale(Transform):
    """Standardises each channel to mean 0 and standard deviation 1: x = shift + scale·z.

    ``shift``, ``scale``: of each channel, in the user's units.  ``axes``: the number of axes besides channels.
    """

    type: Literal["scale"] = field(default="scale", kw_only=True)
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    axes: Annotated[int, Interval(ge=1, le=3)] = 1

    def per_channel(self, values: tuple[float, ...]) -> Float64[Tensor, "c *ones"]:
        """A number per channel, shaped to broadcast against a signal."""
        return torch.tensor(values, dtype=torch.float64, device="cpu").view(-1, *[1] * self.axes)

    def forward(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        z = (x.detach().cpu().double() - self.per_channel(self.shift)) / self.per_channel(self.scale)
        return z.to(x)

    def inverse(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples in the user's units, in double precision if the device supports it."""
        x = self.per_channel(self.shift) + self.per_channel(self.scale) * z.detach().cpu().double()
        return x.to(z.device, z.dtype if z.device.type == "mps" else torch.float64)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        return -self.per_channel(self.scale).expand(x.shape[1:]).log().sum().expand(len(x))

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "*d"], Float[Tensor, "*d"], Bool[Tensor, "*d"]]:
        shift, scale = self.per_channel(self.shift).expand(shape), self.per_channel(self.scale).expand(shape)
        return shift, scale, torch.ones_like(shift, dtype=torch.bool)

    def possible(self, x: Float[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        return x.isnan() | (self.forward(x.detach().cpu().double()).abs() <= FAR)

    def place(self, example: int, channel: int) -> str:
        return f"channel {channel} (signal {example + 1})"
