"""Shards in WebDataset's format: plain tar archives in which an image lies beside what belongs to it.

They stay where they are, and may be more than any disk here holds.  Where in a shard each image lies is looked up once,
header by header, and kept in the user's cache; then any image can be read alone, and neighbours together.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs
from jaxtyping import Int64, Shaped

from ncsn.data.options import Reading
from ncsn.data.reading import FILE_LIMIT, IMAGE_SUFFIXES, reason
from ncsn.data.sources import stamp_of
from ncsn.data.tars import Member
from ncsn.files import JSON_LIMIT, atomic, one_line, parse_json

VERSION = 1  # of what is kept
INDEXES = 64  # of shards, in memory
NAMES = ("label", "cls", "class")  # of a class, in a sample's .json
LONGEST_NAME = 60  # characters


@dataclass(frozen=True, eq=False)
class Index:
    """Where the images of a shard lie, in their order: ``spans``, the first byte of each and the one behind its last.

    ``classes``: what the class of each is called, "" if nothing says so.  ``bare``: how many samples have no image.
    ``stamp``: another text if the shard has changed.
    """

    spans: Int64[np.ndarray, "n 2"]
    classes: Shaped[np.ndarray, "n"]
    bare: int
    stamp: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Shards:
    """The training images of a data set in shards.

    ``counts``: how many are in each shard.  ``names``: what classes are called, if there are classes.  ``shape``:
    channels, height and width of what they become, by ``reading``.
    """

    paths: tuple[Path, ...]
    counts: Int64[np.ndarray, "k"]
    names: tuple[str, ...]
    shape: tuple[int, int, int]
    reading: Reading

    def __len__(self) -> int:
        """How many images there are."""
        return int(self.counts.sum())


def found_at(
    counts: Int64[np.ndarray, "k"], numbers: Int64[np.ndarray, "m"]
) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:
    """Of images that are numbered through boxes with so many in each: in which box each is, and where in it."""
    ends = counts.cumsum()
    which = np.searchsorted(ends, numbers, side="right")
    return which, numbers - (ends - counts)[which]


def kept_at(path: Path, stamp: str) -> Path:
    """The file for what was looked up in a shard, in a folder that is there."""
    known = hashlib.sha256(f"{VERSION} {path.absolute()} {stamp}".encode("utf-8", "surrogateescape"))
    folder = platformdirs.user_cache_path("ncsn", appauthor=False) / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{known.hexdigest()[:32]}.npz"


@lru_cache(INDEXES)
def index_of(path: Path) -> Index:
    """Where the images of a shard lie: as it was looked up before, or now.

    Raises ValueError if it cannot be read, or if it is damaged or compressed.
    """
    try:
        stamp = stamp_of(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)})") from error
    place = kept_at(path, stamp)
    with suppress(Exception), np.load(place) as kept:  # where it is not there, or damaged, it is made anew
        return Index(kept["spans"], kept["classes"], int(kept["bare"]), stamp)
    made = looked_up(path, stamp)
    with atomic(place) as temporary:
        np.savez(temporary, spans=made.spans, classes=made.classes, bare=made.bare)
    return made


def looked_up(path: Path, stamp: str) -> Index:
    """Where the images of a shard lie, by the headers in it.

    Raises ValueError if it is damaged or compressed, or if WebDataset's library, which knows what files are one sample,
    is missing.
    """
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise ValueError(f"{path} is a shard: pip install 'ncsn[shards]' to read it") from error
    spans, classes, bare = [], [], 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=Member) as archive:
            for sample in group_by_keys(members(archive)):
                images = [span for kind, span in sample.items() if f".{kind}" in IMAGE_SUFFIXES]
                bare += not images
                spans += images[:1]
                classes += [class_of(sample, file)] if images else []
    except Exception as error:  # of many kinds, by what is broken; the library adds to the arguments of its own
        why = one_line(error.args[0]) if isinstance(error, ValueError) else reason(error)
        raise ValueError(f"{path} cannot be read as a shard, an uncompressed tar archive ({why})") from error
    return Index(np.array(spans, np.int64).reshape(-1, 2), np.array(classes, np.str_), bare, stamp)


def members(archive: tarfile.TarFile) -> Iterator[dict[str, object]]:
    """The files of a shard as the library has them, but with where they lie for what is in them."""
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # which it would keep, and nobody needs
        if info.isreg() and not info.issparse():
            yield {"fname": info.name, "data": (info.offset_data, info.offset_data + info.size), "__url__": ""}


def class_of(sample: dict[str, Any], file: IO[bytes]) -> str:
    """What the class of a sample is called, by its .cls, or its .json; "" if they do not say."""
    kind = "cls" if "cls" in sample else "json"
    start, end = sample.get(kind, (0, 0))
    file.seek(start)
    try:
        content = file.read(min(end - start, JSON_LIMIT))
        found = content.decode().strip() if kind == "cls" else parse_json(content, "the label")
    except ValueError:  # it is no text
        return ""
    if isinstance(found, dict):
        found = next((found[name] for name in NAMES if name in found), "")
    return str(found) if isinstance(found, int | str) and len(str(found)) <= LONGEST_NAME else ""


def read_span(path: Path, start: int, end: int) -> bytes:
    """Some bytes of a shard.  Raises ValueError if they cannot be read, or are too many to be an image."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(min(end - start, FILE_LIMIT))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)})") from error
    if len(data) < end - start:
        raise ValueError(f"{path} is shorter than it was, or has an image of more than {FILE_LIMIT:,} bytes")
    return data
