"""Image files in folders and archives, and the splits and classes that their paths stand for."""

import os
import posixpath
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ncsn.kinds.reading import Split
from ncsn.kinds.stacks import part_of
from ncsn.validation import counted, one_line, opened_as

SUFFIXES = [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".avif"]


class Item(NamedTuple):
    """An image file, or several images of an array.

    ``name``: the name in error messages.  ``read``: returns the file's bytes, or pixels (n, h, w, c).  ``part``: the
    split, if the data defines it.  ``label``: the class, "" for none; an array for several images.  ``images``: their
    number.
    """

    name: str
    read: Callable[[], object]
    part: Split | None = None
    label: str | np.ndarray = ""
    images: int = 1


Files = dict[PurePosixPath, Callable[[], bytes]]  # functions that read files, by their paths below the top
Members = Sequence[tuple[PurePosixPath, Callable[[], bytes]]]  # the same of an archive, whose paths may be repeated
Catalogue = tuple[list[Item], list[str]]  # images in the order of their paths, and notes on what was left out


def walk(top: Path) -> Files:
    """The files below a folder; each folder is visited once, even if several links lead to it.

    Raises OSError if a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    files: Files = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in names):
            files[PurePosixPath(path.relative_to(top).as_posix())] = partial(file_bytes, path)
    return files


def file_bytes(path: Path) -> bytes:
    """A file's bytes.  Raises ValueError for a pipe, which would block."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_bytes()


def refuse_link() -> bytes:
    """Stands for reading a link in an archive.  Raises ValueError."""
    raise ValueError("it is a link")


def open_zip(path: Path) -> Members:
    """The files in a zip archive, possibly with the backslashes that some Windows programs write.

    Raises ValueError if it can't be read, or lists fewer files than it counts.
    """
    with opened_as("a zip archive", path), path.open("rb") as file:
        archive = zipfile.ZipFile(path)
        found = archive.infolist()
        file.seek(max(0, path.stat().st_size - 2**16 - 22))  # the end record, and at most its comment
        end = file.read().rpartition(b"PK\5\6")[2]
        count = int.from_bytes(end[6:8], "little")
        if count not in (len(found) % 2**16, 2**16 - 1):  # the largest stands for more
            raise ValueError(f"its directory is damaged: it lists {len(found)} of {count} files")
    members = [info for info in found if not info.is_dir()]
    return [(PurePosixPath(info.filename.replace("\\", "/")), partial(archive.read, info)) for info in members]


def from_files(name: str, members: Members) -> Catalogue:
    """The images among files, with splits and classes from the names of their folders.

    Folders on any level define splits, if there is one for validation or testing.  Images outside of them are for
    training, or left out if there is a training folder.  The first folder that isn't a split is the class.
    Of files with one path the last counts.
    Raises ValueError if there are no images.
    """
    files = dict(members)
    outside = {path for path in files if path.is_absolute() or ".." in path.parts}
    hidden = {path for path in files if any(part.startswith((".", "__MACOSX")) for part in path.parts)}
    visible = sorted(files.keys() - outside - hidden)
    paths = [path for path in visible if path.suffix.lower() in SUFFIXES]
    top = posixpath.commonpath([path.parent for path in paths]) if paths else ""
    folders = [path.relative_to(top).parent.parts for path in paths]
    parts = [next(filter(part_of, names), "") for names in folders]
    if not {"validation", "test"} & {*map(part_of, parts)}:  # then a folder called train is a class
        parts = [""] * len(paths)
    labels = [next((word for word in names if word != part), "") for names, part in zip(folders, parts, strict=True)]
    beside: Split | None = None if "train" in map(part_of, parts) else "train"
    items = {
        path: Item(f"{name}/{path}", files[path], part_of(part) or beside, label)
        for path, part, label in zip(paths, parts, labels, strict=True)
        if part or beside
    }
    left_out = Counter(path.suffix.lower() for path in visible if path not in items)
    if outside:
        left_out["outside the archive"] = len(outside)
    if len(files) < len(members):
        left_out["with duplicate names"] = len(members) - len(files)
    listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in left_out.most_common())
    if not items:
        found, allowed = one_line(listed or "no files"), ", ".join(SUFFIXES)
        raise ValueError(f"{name} holds no images, but {found}; images in folders, .zip and .tar end in {allowed}")
    notes = [one_line(f"{counted(left_out.total(), 'file')} left out: {listed}")] if left_out else []
    return [*items.values()], notes


def contents(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The files in a tar archive, compressed or not, in order; links are broken.  Raises ValueError if it's damaged."""
    with tarfile.open(path) as archive:
        for info in archive:
            if info.issym() or info.islnk():
                yield info.name, refuse_link
            elif (file := archive.extractfile(info)) is not None:
                yield info.name, partial(bytes, file.read())
        # tarfile also stops at a damaged or missing header; a complete archive ends in a block of zeros.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it is truncated or damaged")


def open_tar(path: Path) -> Members:
    """The files in a tar archive.  Raises ValueError if it can't be read, or is damaged."""
    with opened_as("a tar archive", path):
        return [(PurePosixPath(name), read) for name, read in contents(path)]
