"""What a place holds, before any pixel is read: items, in order, with the part and the class that each belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Int64, Shaped

from ncsn.data.options import short_name
from ncsn.data.reading import Header, Stream, read_all

Split = Literal["train", "validation", "test"]
SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What folders and arrays are called that hold one part."""


def stamp_of(path: Path) -> str:
    """Another text if the file has changed."""
    known = path.stat()
    return f"{known.st_size} {known.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class Item:
    """An image that can be fetched: a file's bytes, or a row of an array (h, w, c).

    ``name``: what errors call it.  ``stamp``: another one if it has changed.  ``header``: where it is known beforehand.
    ``place``: where in its archive it is; a compressed one is read from front to back.
    """

    name: str
    stamp: str
    fetch: Callable[[], Stream | Shaped[np.ndarray, "h w c"]]
    header: Header | None = None
    place: int = 0

    def read(self) -> bytes | Shaped[np.ndarray, "h w c"]:
        """All of it.  Raises ValueError if it is too much for an image, and whatever the archive does."""
        found = self.fetch()
        if isinstance(found, np.ndarray):
            return found
        with found:
            return read_all(found)


@dataclass(frozen=True)
class Source:
    """Where images come from.

    ``name``: what errors call it.  ``items``: in the order of their paths.
    ``splits``: the part of each, None if that is to be drawn.
    ``classes``: the class of each, 0 to k − 1, if there are classes, and ``names``: what the k are called.
    ``said``: what was converted or left out so far, a line each.
    """

    name: str
    items: Sequence[Item]
    splits: Sequence[Split | None]
    classes: Int64[np.ndarray, "n"] | None = None
    names: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """What the data set is called."""
        return short_name(self.name)


def from_paths(name: str, found: Sequence[tuple[PurePosixPath, Item]], said: Sequence[str] = ()) -> Source:
    """A source of files by their paths below its top, whose folders are parts, or classes, or both.

    Parts are folders of their names, if there is one to train on and there is either another or nothing else; what
    lies beside them is left out.  Where there are only some to judge by, what lies beside them is to train on.  Classes
    are the folders that come next, if there are two and every image is in one.
    Raises ValueError if there is no part to train on.
    """
    placed = sorted(found, key=lambda pair: pair[0].parts)
    paths = unwrapped([path.parts for path, _ in placed])
    items = [item for _, item in placed]
    lines = list(said)
    splits: list[Split | None] = [SPLITS.get(path[0].lower()) if len(path) > 1 else None for path in paths]
    present = {split for split in splits if split is not None}
    beside = splits.count(None)
    if present and not beside and "train" not in present:
        raise ValueError(f"{name} has folders for {' and '.join(sorted(present))} only; train is needed")
    if present and "train" not in present:
        lines.append(f"{beside} images to train on: those that are not in the folders for {', '.join(sorted(present))}")
        paths = [path if split is None else path[1:] for path, split in zip(paths, splits, strict=True)]
        splits = [split or "train" for split in splits]
    elif "train" in present and (len(present) > 1 or not beside):
        kept = [i for i, split in enumerate(splits) if split is not None]
        if beside:
            lines.append(f"{beside} images left out: they are in none of the folders for {', '.join(sorted(present))}")
        paths = [paths[i][1:] for i in kept]
        items, splits = [items[i] for i in kept], [splits[i] for i in kept]
    else:
        splits = [None] * len(paths)
    names = tuple(sorted({path[0] for path in paths if len(path) > 1}))
    loose = sum(len(path) == 1 for path in paths)
    if len(names) > 1 and loose:
        lines.append(f"folders are not taken for classes: {loose} of {len(paths)} images are in none")
    if len(names) < 2 or loose:
        return Source(name, items, splits, said=tuple(lines))
    numbers = {known: number for number, known in enumerate(names)}
    classes = np.array([numbers[path[0]] for path in paths], np.int64)
    return Source(name, items, splits, classes, names, tuple(lines))


def unwrapped(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths without the folders that all have in common."""
    while paths and len({path[0] for path in paths}) == 1 and all(len(path) > 1 for path in paths):
        paths = [path[1:] for path in paths]
    return paths
