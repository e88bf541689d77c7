"""Arrays of images, one for each part: their axes, what their numbers mean, and their classes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from tqdm.auto import tqdm

from ncsn import machine
from ncsn.data.images import Images
from ncsn.data.reading import Header
from ncsn.data.rows import Rows
from ncsn.data.sources import Item, Source, Split, stamp_of
from ncsn.progress import refresh_interval

IMAGE_LIMIT = 2**28  # bytes of one
BOOKKEEPING = 2048  # bytes of memory that the path to one image takes, and as much to spare


@dataclass(frozen=True)
class Stack:
    """An array of images, of which one at a time is read.

    ``name``: what errors call it.  ``shape``: (n, h, w), (n, h, w, c) or (n, c, h, w).  ``row``: one of the n.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    row: Callable[[int], Shaped[np.ndarray, "..."]]

    def __post_init__(self) -> None:
        """Refuse what are no images."""
        if len(self.shape) not in (3, 4) or 0 in self.shape:
            raise ValueError(
                f"{self.name} has shape {self.shape}; (n, h, w), (n, h, w, c) or (n, c, h, w) is needed, none of them 0"
            )
        if self.dtype.kind not in "buif":
            raise ValueError(f"{self.name} has dtype {self.dtype}; integers, floats or booleans are needed")
        # A file of a few bytes can stand for very many, or for very large ones.
        most = machine.memory() // BOOKKEEPING
        if self.shape[0] > most or math.prod(self.shape[1:]) * self.dtype.itemsize > IMAGE_LIMIT:
            raise ValueError(
                f"{self.name} has shape {self.shape} of {self.dtype}; at most {most:,} images are allowed here, of "
                f"{IMAGE_LIMIT:,} bytes each"
            )

    @classmethod
    def of(cls, rows: Rows) -> "Stack":
        """Those in a file.  Raises ValueError if they are no images."""
        return cls(rows.name, rows.shape, rows.dtype, rows.whole().__getitem__ if rows.fortran else rows.row)

    @property
    def channels_first(self) -> bool:
        """Whether the channels are axis 1: the smaller of axes 1 and 3, and the last if they are equal."""
        return len(self.shape) == 4 and self.shape[1] < self.shape[3]

    def header(self, dtype: str) -> Header:
        """What is known of each image."""
        if len(self.shape) == 3:
            return Header(self.shape[1], self.shape[2], 1, dtype)
        sizes = self.shape[1:]
        channels, height, width = sizes if self.channels_first else (sizes[2], sizes[0], sizes[1])
        return Header(height, width, channels, dtype)

    def fetch(self, dtype: str, number: int) -> Shaped[np.ndarray, "h w c"]:
        """One image, its channels last.  Raises ValueError if it has a value that is not finite."""
        pixels = np.asarray(self.row(number))
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ValueError("it has values that are not finite")
        if pixels.dtype.kind == "b":
            pixels = pixels * np.uint8(255)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels.transpose(1, 2, 0) if self.channels_first else pixels
        return pixels.astype(dtype)

    def extremes(self) -> tuple[int, int]:
        """The smallest and the largest value of integers."""
        rows = range(self.shape[0])
        bar = tqdm(rows, desc="looking at values", unit="image", delay=1, leave=False, mininterval=refresh_interval())
        ranges = [(int(pixels.min()), int(pixels.max())) for pixels in map(self.row, bar)]
        return min(low for low, _ in ranges), max(high for _, high in ranges)


def meaning(stacks: Sequence[Stack]) -> str:
    """The dtype that numbers are meant as: bytes, too, where wider integers end between 128 and 255.

    Raises ValueError if the arrays are of several.
    """
    dtypes = {str(stack.dtype.newbyteorder("=")) for stack in stacks}
    if len(dtypes) > 1:
        raise ValueError(
            f"{stacks[0].name} and the other parts have dtypes {', '.join(sorted(dtypes))}; one is allowed"
        )
    (dtype,) = dtypes
    if dtype in ("bool", "uint8"):
        return "uint8"
    if stacks[0].dtype.kind == "f":
        return dtype
    ranges = [stack.extremes() for stack in stacks]
    bytes_ = min(low for low, _ in ranges) >= 0 and 128 <= max(high for _, high in ranges) <= 255
    return "uint8" if bytes_ else dtype


def numbered(values: Shaped[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], tuple[str, ...]]:
    """Classes 0 to k − 1 for any values, and the values as their names."""
    values = np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
    names, classes = np.unique(values, return_inverse=True)
    whole = names.dtype.kind == "f" and bool((names == np.floor(names)).all())
    return classes.astype(np.int64), tuple(str(int(name) if whole else name) for name in names)


def source_of(
    name: str,
    stacks: dict[Split | None, Stack],
    stamp: str,
    labels: Sequence[Shaped[np.ndarray, "..."]] = (),
    said: Sequence[str] = (),
) -> Source:
    """A source of the rows of arrays, one for each part, and of as many arrays of labels, if there are labels.

    Raises ValueError if the parts differ in shape or dtype, or if there is no part to train on.
    """
    if None not in stacks and "train" not in stacks:
        raise ValueError(f"{name} has images for {' and '.join(map(str, stacks))} only; train is needed")
    dtype = meaning(list(stacks.values()))
    headers = [stack.header(dtype) for stack in stacks.values()]
    channels = headers[0].channels
    if any(header.channels != channels for header in headers):
        raise ValueError(
            f"{name} has arrays of {sorted({h.channels for h in headers})} channels; one number is allowed"
        )
    items: list[Item] = []
    splits: list[Split | None] = []
    for (split, stack), header in zip(stacks.items(), headers, strict=True):
        for i in range(stack.shape[0]):
            items.append(Item(f"{stack.name}[{i}]", stamp, partial(stack.fetch, dtype, i), header, len(items)))
        splits += [split] * stack.shape[0]
    lines = list(said)
    given = next(iter(stacks.values())).dtype
    if dtype == "uint8" and given.kind in "ui" and given != np.uint8:
        lines.append(f"{given} as bytes: all values are 0 to 255")
    if given.kind == "b":
        lines.append("bool as bytes: false is 0 and true is 255")
    if channels not in (1, 3):
        lines.append(f"channels as they are: {channels}, in which neither colour nor alpha is seen")
    if not labels:
        return Source(name, items, splits, said=tuple(lines))
    classes, names = numbered(np.concatenate([part.reshape(-1) for part in labels]))
    return Source(name, items, splits, classes, names, tuple(lines))


@contextmanager
def npy(path: Path) -> Iterator[Source]:
    """The images of an .npy, while the block runs.  Raises ValueError if it is none, or holds no images."""
    with path.open("rb") as stream:
        rows = Rows(str(path), stream, path.stat().st_size)
        yield source_of(str(path), {None: Stack.of(rows)}, stamp_of(path))


def stacked(images: Images) -> Source:
    """The images of a data set that is there already, to be read anew."""
    parts: dict[Split, torch.Tensor] = {"train": images.train, "validation": images.validation, "test": images.test}
    stacks: dict[Split | None, Stack] = {}
    for split, part in parts.items():
        # An axis is kept from being taken for channels by moving them to the end.
        array = part.permute(0, 2, 3, 1).numpy()
        array = array[..., 0] if array.shape[3] == 1 else array
        stacks[split] = Stack(f"{images.name} {split}", array.shape, array.dtype, array.__getitem__)
    known = images.labels
    source = source_of(images.name, stacks, images.digest, said=images.said)
    if known is None:
        return source
    classes = torch.cat([known.train, known.validation, known.test]).numpy()
    return replace(source, classes=classes, names=known.names)
