"""Bytes and real numbers: pixels are stored as bytes, but only real numbers have a density."""

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
    """Bytes to the middle of their interval under ``dequantize``: (pixel + ½)/256."""
    return pixels.float().add_(0.5).div_(256)


def reals(pixels: Shaped[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """Bytes as ``centres``; real numbers unchanged."""
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def quantize(x: Float[Tensor, "*d"]) -> UInt8[Tensor, "*d"]:
    """Reals to bytes: ⌊256 x⌋, clipped to 0…255; the inverse of ``dequantize`` and of ``centres``."""
    return (x * 256).floor().clamp(0, 255).to(torch.uint8)
