"""The maps between the numbers of images and the real numbers that a density needs."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor


def dequantize(pixels: UInt8[Tensor, "*d"], *, generator: torch.Generator | None = None) -> Float[Tensor, "*d"]:
    """Bytes to reals in [0, 1): (pixel + u)/256 with u ~ U[0, 1), so that a density can exist.

    Song & Ermon 2020 (arXiv:2006.09011), appendix B; inverted exactly by ``quantize``.
    """
    noise = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    # 1 − 2⁻¹⁶ is the largest u for which 255 + u is not rounded up to 256 in float32.
    return (pixels + noise.clamp_max(1 - 2**-16)) / 256


def centres(pixels: UInt8[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Bytes to the middle of what ``dequantize`` makes of them: (pixel + ½)/256."""
    return pixels.float().add_(0.5).div_(256)


def reals(pixels: Shaped[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Bytes as ``centres``; what is real already, as it is."""
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def quantize(x: Float[Tensor, "*d"]) -> UInt8[Tensor, "*d"]:
    """Reals to bytes: ⌊256 x⌋, clipped to 0…255; the inverse of ``dequantize`` and of ``centres``."""
    return (x * 256).floor().clamp(0, 255).to(torch.uint8)


DTYPES = {np.dtype(code).name for code in "bBhHiIlLqQefdg"}
"""Numpy's names of real numbers."""


@dataclass(frozen=True)
class Depth:
    """What the numbers in the user's files are: a value v there is (v − low)/(high − low) here, in [0, 1].

    ``dtype``: the files', by numpy's name.  ``low``, ``high``: what 0 and 1 stand for, in the files' units.
    Raises ValueError if ``dtype`` is none of numbers, or the range is none.
    """

    dtype: str = "uint8"
    low: float = 0.0
    high: float = 256.0

    def __post_init__(self) -> None:
        """Refuse what no image's numbers are."""
        if self.dtype not in DTYPES or not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(
                f"depth is {self.dtype!r} from {self.low} to {self.high}; one of {', '.join(sorted(DTYPES))} is "
                "needed, and a finite range"
            )

    def restored(self, x: Float[Tensor, "*d"]) -> Shaped[np.ndarray, "*d"]:
        """Reals as the files' numbers: integers rounded, and clipped to [low, high); floats neither."""
        if self == BYTES:
            return quantize(x).cpu().numpy()
        span = self.high - self.low
        values = x.detach().cpu().double().numpy() * span + self.low
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype)
        # To the nearest of the levels that the data can have; the largest int64 is no float64.
        return np.round(values).clip(max(self.low, -(2**62)), min(self.high - 1, 2**62)).astype(dtype)


BYTES = Depth()
"""The depth of most images."""
