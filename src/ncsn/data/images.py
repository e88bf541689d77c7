"""Image data sets as tensors: three parts, classes, what was done to the files that they come from; and batches.

Batches are index operations, never a loop over images.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from torch import Tensor

from ncsn import machine
from ncsn.data.files import Catalogue, Picture, Size, Split, fitted, pictures
from ncsn.data.pixels import BYTES, Depth, dequantize
from ncsn.data.reading import Reading, short_name
from ncsn.objectives import Batch

CHUNK = 2**24  # bytes that are looked at together
KINDS = {1: "grey", 3: "RGB"}
FEWEST_IMAGES = 10  # images
NAMED_CLASSES = 5  # at most; so that folders of parts that are taken for classes are seen
USUAL = 0.9  # the share of images that make their size the one that others are fitted to


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
        parts = [self.n, len(self.validation), len(self.test)]
        names = () if self.labels is None else self.labels.names
        listed = f" ({', '.join(names)})" if 0 < len(names) <= NAMED_CLASSES else ""
        classes = f"{len(names) or 'no'} classes{listed}"
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
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Endless random batches of ``data`` (n, *d), dequantised if it is bytes; with each example's class if given.

    Drawn with replacement, so that the generator's state is all it takes to resume.  ``data``
    may be on the CPU where the generator is on a GPU.
    ``flip``: each example is mirrored, left to right, with probability ½.
    """
    while True:
        index = torch.randint(len(data), (size,), generator=generator, device=generator.device)
        chosen = machine.onto(index.device, data[index.to(data.device)])
        yield Batch(varied(chosen, flip, generator), None if labels is None else labels[index])


def varied(chosen: Shaped[Tensor, "b *d"], flip: bool, generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """Examples, dequantised if they are bytes; and if ``flip``, mirrored with probability ½."""
    if flip:
        mirrored = torch.rand(len(chosen), generator=generator, device=chosen.device) < 0.5
        chosen = torch.where(mirrored.view(-1, *[1] * (chosen.ndim - 1)), chosen.flip(-1), chosen)
    return dequantize(chosen, generator=generator) if chosen.dtype == torch.uint8 else chosen


def images_of(source: Catalogue, reading: Reading) -> Images:
    """The images of a source.

    Raises ValueError if there are fewer than ten, if more are broken than allowed, if their sizes differ without one
    being asked for, if their numbers have no scale in common, or if they take more than a third of the memory.
    """
    found: dict[int, Picture] = {}
    broken: list[str] = []
    used, limit = 0, machine.memory() // 3
    for i, one in pictures(source.items, reading, reading.pixels()):
        if isinstance(one, str):
            broken.append(f"{source.items[i].name} ({one})")
            continue
        found[i], used = one, used + one.pixels.nbytes
        if used > limit:
            raise ValueError(
                f"{source.name} takes over {limit / 1e9:.1f} GB here; give a smaller --size, or make shards"
            )
    if len(broken) > reading.max_broken:
        raise ValueError(
            f"{len(broken)} of {len(source.items)} images cannot be read, of which --max-broken allows "
            f"{reading.max_broken}: {', '.join(sorted(broken))}"
        )
    if len(found) < FEWEST_IMAGES:
        raise ValueError(f"{source.name} holds {len(found)} images; at least {FEWEST_IMAGES} are needed")
    size = reading.pixels() or common_size(list(found.values()))
    parts, drawn = parts_of(source, found.keys())
    order = [i for part in parts for i in part]
    pixels, depth, notes = stacked([fitted(found.pop(i), size, reading) for i in order], reading)
    validation, test, train = torch.split(torch.from_numpy(pixels), [len(part) for part in parts])
    labels = None
    if source.classes is not None:
        classes = [torch.from_numpy(source.classes[part]) for part in parts]
        labels = Labels(train=classes[2], validation=classes[0], test=classes[1], names=source.names)
    said = [*source.said, *drawn, *notes]
    if broken:
        said.append(f"broken left out: {len(broken)} of {len(source.items)}: {', '.join(sorted(broken)[:10])}")
    return Images(train, validation, test, labels, short_name(source.name), depth, tuple(said))


def common_size(found: Sequence[Picture]) -> Size:
    """The size that nine tenths of the images have.  Raises ValueError if there is none."""
    sizes = Counter(one.pixels.shape[:2] for one in found)
    size, count = sizes.most_common(1)[0]
    if count < USUAL * len(found):
        listed = ", ".join(f"{h} x {w} ({n})" for (h, w), n in sizes.most_common(5))
        raise ValueError(
            f"{len(found)} images have {len(sizes)} sizes (height x width), such as {listed}; give --size, such as "
            f"{size[0]}, to make them one"
        )
    return size


def parts_of(source: Catalogue, whole: Set[int]) -> tuple[list[list[int]], list[str]]:
    """The images of validation, testing and training, and what is said of parts that are drawn.

    Parts are shuffled, always in the same way; what is missing is a tenth of the training images.  Images that are not
    ``whole`` have their places, too, so that the others stay in their parts when a file is mended.
    Raises ValueError if a part is empty.
    """
    parts: dict[Split, list[int]] = {}
    for part in ("validation", "test", "train"):
        members = [i for i, given in enumerate(source.splits) if (given or "train") == part]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
        parts[part] = [members[k] for k in order]
    tenth, drawn = len(parts["train"]) // 10, [part for part, members in parts.items() if not members]
    for part in drawn:
        parts[part], parts["train"] = parts["train"][:tenth], parts["train"][tenth:]
    for part, members in parts.items():
        parts[part] = [i for i in members if i in whole]
        if not parts[part]:
            raise ValueError(f"{source.name} has no images for {part}, of {len(whole)} in all")
    said = [f"{' and '.join(drawn)} drawn: a tenth of the training images"] if drawn and any(source.splits) else []
    return list(parts.values()), said


def stacked(found: Sequence[Picture], reading: Reading) -> tuple[Shaped[np.ndarray, "n c h w"], Depth, list[str]]:
    """Images of one size as one array, bytes or float32 in [0, 1]; what their numbers are; what was converted.

    Raises ValueError if some are integers and others floats.
    """
    n, deep = len(found), [one for one in found if one.dtype != "uint8"]
    depth = depth_of(deep) if deep else BYTES
    widest = max(one.pixels.shape[2] for one in found)
    channels = 1 if all(one.grey for one in found) else widest
    notes = Counter(note for one in found for note in one.notes)
    notes["as grey"] = n if channels < widest else 0
    notes["grey as RGB"] = sum(one.pixels.shape[2] < channels for one in found)
    notes["bytes / 255"] = n - len(deep) if deep else 0
    if deep and (depth.low, depth.high) != (0, 1):
        notes[f"{depth.dtype} from {depth.low:g} to {depth.high:g} as 0 to 1"] = len(deep)
    if deep and (depth.dtype == "float64" or max(abs(depth.low), abs(depth.high)) > 2**24):
        notes[f"{depth.dtype} as float32"] = len(deep)  # which has 24 bits
    out = np.empty((n, channels, *found[0].pixels.shape[:2]), np.float32 if deep else np.uint8)
    for row, one in zip(out, found, strict=True):
        row[:] = in_units(one, depth, channels, reading)
    return out, depth, [f"{note}: {count:,} of {n:,} images" for note, count in notes.items() if count]


def in_units(one: Picture, depth: Depth, channels: int, reading: Reading) -> Shaped[np.ndarray, "k h w"]:
    """The first channels of an image: bytes, or where the data set has more than 8 bits float32 in [0, 1]."""
    pixels: Shaped[np.ndarray, "k h w"] = one.pixels.transpose(2, 0, 1)[:channels]
    if depth == BYTES:
        return pixels
    low, high = (0, 255) if one.dtype == "uint8" else (depth.low, depth.high)
    pixels = (pixels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    colour = np.array(reading.colour() if len(pixels) == 3 else reading.colour()[:1], np.float32) / 255
    return np.where(np.isnan(pixels), colour[:, None, None], pixels)


def depth_of(deep: Sequence[Picture]) -> Depth:
    """What the numbers of images of more than 8 bits are, from their dtypes and their range.

    Integers end at the smallest power of two above the largest, as 12 bits in files of 16 do; floats in [0, 1] are what
    they are; whatever is negative, or a float above 1, has the data set's range.
    Raises ValueError if some are integers and others floats.
    """
    dtypes = {one.dtype for one in deep}
    dtype, low, high = np.result_type(*dtypes), min(one.low for one in deep), max(one.high for one in deep)
    if len({np.dtype(name).kind == "f" for name in dtypes}) > 1:
        raise ValueError(f"images are of {' and '.join(sorted(dtypes))}, which have no scale in common")
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return Depth(dtype.name, 0.0, 1.0)
    if dtype.kind == "f" or low < 0:
        return Depth(dtype.name, low, high + 1 if dtype.kind != "f" or high == low else high)
    # Pillow has all integers that are not quite 16 bits as int32.
    name = "uint16" if dtypes <= {"uint16", "int32"} and high < 2**16 else dtype.name
    return Depth(name, 0.0, float(2 ** int(high).bit_length()))
