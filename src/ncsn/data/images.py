"""Image data sets as tensors: three parts, classes, and what was done to the files that they come from.

Batches are index operations, never a loop over images; nothing here copies all pixels, which may be a file's.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from torch import Tensor

from ncsn import machine
from ncsn.data.shards import Shards
from ncsn.objectives import Batch
from ncsn.pixels import BYTES, Depth, dequantize
from ncsn.rng import Draws, rand, randint

CHUNK = 2**24  # bytes that are looked at together
KINDS = {1: "grey", 3: "RGB"}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each image in the three parts, 0 to k − 1, and what the k classes are called."""

    train: Int64[Tensor, "n"]
    validation: Int64[Tensor, "v"]
    test: Int64[Tensor, "t"]
    names: tuple[str, ...]
    counted: Int64[Tensor, "k"] | None = None
    """How many training images each class has, where ``train`` is about some of them."""

    @property
    def counts(self) -> Int64[Tensor, "k"]:
        """How many training images each class has."""
        return self.train.bincount(minlength=len(self.names)) if self.counted is None else self.counted

    @property
    def shares(self) -> dict[str, float]:
        """How much of the training images each class is."""
        counts = self.counts.double()
        return dict(zip(self.names, (counts / counts.sum()).tolist(), strict=True))


@dataclass(frozen=True)
class Images:
    """Train, validation and test images: bytes, or reals in [0, 1] where the files have more than 8 bits.

    ``labels``: their classes, if known.  ``name``: mnist, or the last part of the path without suffix.
    ``depth``: what the numbers in the files are.
    ``said``: what was converted, a line each: what in short, a colon, which and how many.
    ``shards``: where all training images are, if they are too many for a disk; ``train`` then has some of them.
    """

    train: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]
    validation: UInt8[Tensor, "v c h w"] | Float32[Tensor, "v c h w"]
    test: UInt8[Tensor, "t c h w"] | Float32[Tensor, "t c h w"]
    labels: Labels | None = None
    name: str = ""
    depth: Depth = BYTES
    said: tuple[str, ...] = ()
    shards: Shards | None = None

    @property
    def n(self) -> int:
        """How many training images there are."""
        return len(self.train) if self.shards is None else len(self.shards)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    @cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the training images, dequantised if bytes, in [0, 1]."""
        if self.train.dtype == torch.uint8:
            count = sum(torch.bincount(part.flatten(), minlength=256) for part in chunks(self.train))
            weight = torch.as_tensor(count).double()
            values = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
            mean = (weight * values).sum() / weight.sum()
            return float(mean), float(((weight * (values - mean) ** 2).sum() / weight.sum()).sqrt())
        total = sum(float(part.double().sum()) for part in chunks(self.train))
        average = total / self.train.numel()
        squares = sum(float((part.double() - average).square().sum()) for part in chunks(self.train))
        return average, math.sqrt(squares / self.train.numel())

    @cached_property
    def digest(self) -> str:
        """The sha256 of the three parts' pixels, in hexadecimal."""
        found = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            for chunk in chunks(part):
                found.update(chunk.contiguous().numpy().data)
        return found.hexdigest()

    def describe(self) -> str:
        """How many images of which size, what was converted, how many classes, and how they are split; one line."""
        channels, height, width = self.shape
        parts = [self.n, len(self.validation), len(self.test)]
        classes = "no classes" if self.labels is None else f"{len(self.labels.names)} classes"
        kind = KINDS.get(channels, f"{channels} channels")
        converted = [line.partition(":")[0] for line in self.said]
        facts = [f"{sum(parts):,} images", f"{height} × {width}", kind, *converted, classes]
        counts = " / ".join(f"{part:,}" for part in parts)
        return f"{', '.join(facts)}; {counts} for training, validation, test"


def chunks(data: Tensor) -> Iterator[Tensor]:
    """The rows of ``data``, a few at a time."""
    size = data[0].numel() * data.element_size()
    yield from torch.split(data, max(1, CHUNK // size))


def batches(
    data: Tensor,
    size: int,
    labels: Int64[Tensor, "n"] | None = None,
    *,
    flip: bool = False,
    generator: torch.Generator | Draws,
) -> Iterator[Batch]:
    """Endless random batches of ``data`` (n, *d), dequantised if it is bytes; with each example's class if given.

    Drawn with replacement, so that the generator's state is all it takes to resume.  With ``Draws``, they
    are what this process has of a batch of ``size``.  ``data`` may be on the CPU where the generator is on a GPU.
    ``flip``: each example is mirrored, left to right, with probability ½.
    """
    while True:
        count = generator.mine if isinstance(generator, Draws) else size
        index = randint(len(data), (count,), generator)
        chosen = machine.onto(index.device, data[index.to(data.device)])
        yield Batch(varied(chosen, flip, generator), None if labels is None else labels[index])


def varied(chosen: Shaped[Tensor, "b *d"], flip: bool, generator: torch.Generator | Draws) -> Float[Tensor, "b *d"]:
    """Examples, dequantised if they are bytes; and if ``flip``, mirrored with probability ½."""
    if flip:
        mirrored = rand((len(chosen),), generator, chosen.device) < 0.5
        chosen = torch.where(mirrored.view(-1, *[1] * (chosen.ndim - 1)), chosen.flip(-1), chosen)
    return dequantize(chosen, generator=generator) if chosen.dtype == torch.uint8 else chosen
