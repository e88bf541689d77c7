"""Batches: the examples of one training step, and how they are drawn.

Pixels are stored as bytes, but only real numbers have a density, so bytes become real numbers here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from ncsn.noise import device_of
from ncsn.validation import as_numbers, whole


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
    """Pixels as real numbers: bytes become ``centres``, and real numbers stay as they are."""
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def quantize(x: Float[Tensor, "*d"]) -> UInt8[Tensor, "*d"]:
    """Reals to bytes: ⌊256 x⌋, clipped to 0…255; the inverse of ``dequantize`` and of ``centres``."""
    return (x * 256).floor().clamp(0, 255).to(torch.uint8)


class Batch(NamedTuple):
    """The examples of one training step.

    ``x``: clean examples, (b, *d).
    ``label``: the class of each, (b,), −1 for none; None if the data has no classes.
    ``given``: a further condition, the score's third argument; None if there is none.
    """

    x: Float[Tensor, "b *d"]
    label: Int64[Tensor, "b"] | None = None
    given: object | None = None


def batches(
    data: Tensor, size: int, labels: Int64[Tensor, "n"] | None = None, *, flip: bool = False, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless random batches of a dataset.

    Examples are drawn with replacement, so the generator's state is all that is needed to resume.

    ``data``: the examples, (n, *d); bytes are dequantised.  They may be on the CPU where the generator is on a GPU.
    ``size``: examples per batch.
    ``labels``: the class of each example, (n,), if there are classes.
    ``flip``: mirror each example horizontally with probability ½.
    ``generator``: draws the examples; the batches are on its device.

    >>> g = torch.Generator().manual_seed(0)
    >>> next(ncsn.batches(torch.zeros(1000, 2), 64, generator=g)).x.shape
    torch.Size([64, 2])
    """
    data = as_numbers("data", data)
    size = whole("size", size, 1)
    device = device_of(generator)
    labels = None if labels is None else as_numbers("labels", labels)
    if not data.ndim or not data.numel():
        raise ValueError(f"data has shape {tuple(data.shape)}; expected at least one example")
    while True:
        index = torch.randint(len(data), (size,), generator=generator, device=device)
        x = data[index.to(data.device)].to(device)
        label = None if labels is None else labels[index.to(labels.device)].to(device)
        yield Batch(augment(x, flip, generator), label)


def augment(x: Shaped[Tensor, "b *d"], flip: bool, generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """Dequantise bytes; if ``flip``, mirror each example with probability ½."""
    if flip:
        mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        x = torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
    return dequantize(x, generator=generator) if x.dtype == torch.uint8 else x
