"""Image data sets as tensors: three parts, classes, what was done to the files that they come from; and batches.

Batches are index operations, never a loop over images.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from torch import Tensor

from ncsn.data.pixels import BYTES, Depth, dequantize
from ncsn.data.reading import Reading, short_name
from ncsn.data.sources import PARTS, Catalogue, Item, Picture, Split, fault, pictures
from ncsn.machine import hardware
from ncsn.objectives import Batch

CHUNK = 2**24  # bytes that are looked at together
NAMED_CLASSES = 5  # at most; so that folders of parts that are taken for classes are seen


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each image in the three parts, 0 to k − 1, and what the k classes are called."""

    train: Int64[Tensor, "n"]
    validation: Int64[Tensor, "v"]
    test: Int64[Tensor, "t"]
    names: tuple[str, ...]

    @property
    def counts(self) -> Int64[Tensor, "k"]:
        """How many training images each class has."""
        return self.train.bincount(minlength=len(self.names))

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
    shards: tuple[Path, ...] | None = None

    @property
    def n(self) -> int:
        """How many training images there are; of those in shards, how many are looked at."""
        return len(self.train)

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
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

    def describe(self) -> str:
        """How many images of which size, what was converted, how many classes, and how they are split; one line."""
        channels, height, width = self.shape
        parts = [len(part) for part in (self.train, self.validation, self.test)]
        names = () if self.labels is None else self.labels.names
        listed = f" ({', '.join(names)})" if 0 < len(names) <= NAMED_CLASSES else ""
        kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        converted = [line.partition(":")[0] for line in self.said]
        about = f"{sum(parts):,} images, {height} × {width}, {kind}"
        facts = [about, *converted, f"{len(names) or 'no'} classes{listed}"]
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
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Endless random batches of ``data`` (n, *d), dequantised if it is bytes; with each example's class if given.

    Drawn with replacement, so that the generator's state is all it takes to resume.  ``data``
    may be on the CPU where the generator is on a GPU.
    ``flip``: each example is mirrored, left to right, with probability ½.
    """
    while True:
        index = torch.randint(len(data), (size,), generator=generator, device=generator.device)
        chosen = data[index.to(data.device)].to(index.device)
        yield Batch(varied(chosen, flip, generator), None if labels is None else labels[index])


def varied(chosen: Shaped[Tensor, "b *d"], flip: bool, generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """Examples, dequantised if they are bytes; and if ``flip``, mirrored with probability ½."""
    if flip:
        mirrored = torch.rand(len(chosen), generator=generator, device=chosen.device) < 0.5
        chosen = torch.where(mirrored.view(-1, *[1] * (chosen.ndim - 1)), chosen.flip(-1), chosen)
    return dequantize(chosen, generator=generator) if chosen.dtype == torch.uint8 else chosen


def images_of(name: str, catalogue: Catalogue, reading: Reading) -> Images:
    """The images of a source by this name.

    Raises ValueError if there are none for a part, if more are broken than allowed, if their sizes differ without one
    being asked for, if their numbers have no scale in common, or if they take more than a third of the memory.
    """
    all_items, said = catalogue
    whole: dict[Item, Picture] = {}
    broken: list[str] = []
    free = hardware.memory() // 3
    for item, one in pictures(all_items, reading, reading.pixels()):
        if isinstance(one, Exception):
            broken.append(f"{item.name} ({fault(one)})")
            continue
        whole[item] = one
        free -= one.pixels.nbytes
        if free < 0:
            raise ValueError(f"{name} takes over a third of the memory; give a smaller --size, or make shards")
    listed = f"{len(broken)} of {len(all_items)}: {', '.join(sorted(broken))}"
    if len(broken) > reading.max_broken:
        raise ValueError(f"more images are broken than the {reading.max_broken} that --max-broken allows, {listed}")
    parts = {part: [item for item in items if item in whole] for part, items in parts_of(all_items).items()}
    if empty := [part for part, items in parts.items() if not items]:
        raise ValueError(f"{name} has {len(whole)} images, and none for {' and '.join(empty)}")
    pixels, depth, notes = stacked([whole.pop(item) for items in parts.values() for item in items], reading)
    sizes = [len(items) for items in parts.values()]
    validation, test, train = torch.split(torch.from_numpy(pixels), sizes)
    left_out = [f"broken left out: {listed}"] if broken else []
    lines = (*said, *notes, *left_out)
    return Images(train, validation, test, labels_of(parts), short_name(name), depth, lines)


def parts_of(items: Sequence[Item]) -> dict[Split, list[Item]]:
    """The images of the three parts, always shuffled in one way; what is missing is a tenth of those to train on.

    Broken images are in it, so that the others stay in their parts when a file is mended.
    """
    parts: dict[Split, list[Item]] = {}
    for part in PARTS:
        members = [item for item in items if (item.part or "train") == part]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
        parts[part] = [members[k] for k in order]
    tenth = len(parts["train"]) // 10
    for part in ("validation", "test"):
        if not parts[part]:
            parts[part], parts["train"] = parts["train"][:tenth], parts["train"][tenth:]
    return parts


def labels_of(parts: dict[Split, list[Item]]) -> Labels | None:
    """The classes of images, if there are two and every image is in one."""
    labels = {item.label for items in parts.values() for item in items}
    if len(labels) < 2 or "" in labels:
        return None
    numbers = {label: number for number, label in enumerate(sorted(labels))}
    tensors = {part: torch.tensor([numbers[item.label] for item in items]) for part, items in parts.items()}
    return Labels(**tensors, names=tuple(map(str, numbers)))


def stacked(found: Sequence[Picture], reading: Reading) -> tuple[Shaped[np.ndarray, "n c h w"], Depth, list[str]]:
    """Images as one array, bytes or float32 in [0, 1]; what their numbers are; what was converted.

    Raises ValueError if their sizes differ, or if some are integers and others floats.
    """
    size = reading.pixels() or found[0].pixels.shape[:2]
    sizes = Counter(one.pixels.shape[:2] for one in found)
    if reading.size is None and len(sizes) > 1:
        listed = ", ".join(f"{h} x {w} ({count})" for (h, w), count in sizes.most_common(5))
        raise ValueError(f"images have {len(sizes)} sizes (height x width), such as {listed}; give --size, such as 64")
    depth = depth_of(found)
    channels = 1 if all(one.grey for one in found) else max(one.pixels.shape[2] for one in found)
    notes = Counter(note for one in found for note in one.notes)
    widths = [one.pixels.shape[2] for one in found]
    notes["as grey"] = len(found) if channels < max(widths) else 0
    notes["grey as RGB"] = sum(width < channels for width in widths)
    notes["as bytes"] = sum(one.dtype != "uint8" for one in found) if depth == BYTES else 0
    notes["as float32"] = sum(one.dtype == "float64" for one in found)
    if depth != BYTES and (depth.low, depth.high) != (0, 1):
        notes[f"{depth.dtype} from {depth.low:g} to {depth.high:g} as 0 to 1"] = len(found)
    out = np.empty((len(found), channels, *size), np.uint8 if depth == BYTES else np.float32)
    for row, one in zip(out, found, strict=True):
        row[:] = in_units(one, depth, row.shape, reading)
    return out, depth, [f"{note}: {count:,} of {len(found):,} images" for note, count in notes.items() if count]


def in_units(one: Picture, depth: Depth, shape: tuple[int, ...], reading: Reading) -> Shaped[np.ndarray, "c h w"]:
    """An image in the middle of the background: bytes, or where ``depth`` has more than 8 bits float32 in [0, 1].

    Raises ValueError if one has integers, and the other floats.
    """
    if one.dtype != "uint8" and (np.dtype(one.dtype).kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"images of {one.dtype} and of {depth.dtype} have no scale in common")
    pixels: Shaped[np.ndarray, "c h w"] = one.pixels.transpose(2, 0, 1)[: shape[0]]
    colour = np.array(reading.colour() if reading.coloured() else reading.colour()[:1])[:, None, None]
    if depth != BYTES:
        low, high = (0, 255) if one.dtype == "uint8" else (depth.low, depth.high)
        pixels, colour = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low), colour / 255
    elif one.dtype != "uint8":
        pixels = np.rint(pixels).astype(np.uint8)
    if pixels.shape[1:] == shape[1:]:
        return np.broadcast_to(pixels, shape)
    height, width = pixels.shape[1:]
    top, left = (shape[1] - height) // 2, (shape[2] - width) // 2
    full = np.empty(shape, pixels.dtype)
    full[:] = colour
    full[:, top : top + height, left : left + width] = pixels
    return full


def depth_of(found: Sequence[Picture]) -> Depth:
    """What the numbers of images are, from their dtypes and their range.

    Integers from 0 to 128 … 255 are bytes.  Others end at the smallest power of two above the largest, as 12 bits in
    files of 16 do; floats in [0, 1] are what they are; whatever is negative, or a float above 1, has the data set's
    range.
    """
    deep = [one for one in found if one.dtype != "uint8"]
    if not deep:
        return BYTES
    dtypes = {one.dtype for one in deep}
    dtype, low, high = np.result_type(*dtypes), min(one.low for one in deep), max(one.high for one in deep)
    if dtype.kind != "f" and low >= 0 and 128 <= high <= 255:
        return BYTES
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return Depth(dtype.name, 0.0, 1.0)
    if dtype.kind == "f" or low < 0:
        return Depth(dtype.name, low, high + 1 if dtype.kind != "f" or high == low else high)
    # Pillow has all integers that are not quite 16 bits as int32.
    name = "uint16" if dtypes <= {"uint16", "int32"} and high < 2**16 else dtype.name
    return Depth(name, 0.0, float(2 ** int(high).bit_length()))
