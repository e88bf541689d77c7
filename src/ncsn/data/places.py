"""Folders and archives → the image files in them.  Nothing is extracted, and nothing but regular files is opened."""

import stat
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from zipfile import ZipInfo

from tqdm.auto import tqdm

from ncsn.data.arrays import npy
from ncsn.data.hub import hub_source, is_hub
from ncsn.data.npz import npz
from ncsn.data.reading import FILE_LIMIT, IMAGE_SUFFIXES, Stream, read_all, reason
from ncsn.data.sources import Item, Source, from_paths, stamp_of
from ncsn.data.tars import Member
from ncsn.files import opened_zip
from ncsn.progress import refresh_interval

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
Found = tuple[PurePosixPath, Item]
"""A file's path below the top, and how it is fetched."""


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """What is at ``path``, while the block runs.

    Raises ValueError if it is nothing that holds images, or cannot be opened.
    """
    name = path.name.lower()
    if path.is_dir():
        yield hub_source(path) if is_hub(path) else from_paths(str(path), list(walk(path)))
    elif not path.is_file():
        raise ValueError(
            f"{path} is {kind_of(path.stat().st_mode)}; a folder of images, an archive or arrays is needed"
        )
    elif name.endswith(".npy"):
        with npy(path) as source:
            yield source
    elif name.endswith(".npz"):
        with npz(path) as source:
            yield source
    elif name.endswith(".zip"):
        with zipped(path) as source:
            yield source
    elif name.endswith(TAR_SUFFIXES):
        with tarred(path) as source:
            yield source
    else:
        raise ValueError(f"{path} is no data set; files may be .zip, {', '.join(TAR_SUFFIXES)}, .npy or .npz")


def wanted(path: PurePosixPath) -> bool:
    """Whether it is an image by its name, and nothing that a system hides."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden(path)


def hidden(path: PurePosixPath) -> bool:
    """Whether a system put it there, not a user."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def refuse(why: str) -> Stream:
    """Fetches what cannot be read.  Raises ValueError, always."""
    raise ValueError(why)


def kind_of(mode: int) -> str:
    """What a file that is none is called."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def walk(top: Path) -> Iterator[Found]:
    """The image files below a folder; links to folders are followed, but no folder is read twice.

    So links in a loop end, and no image is in two parts.
    Raises ValueError if a folder may not be read.
    """
    ahead, seen = deque([(top, PurePosixPath())]), set()
    with tqdm(desc="looking for images", unit="image", delay=1, leave=False, mininterval=refresh_interval()) as bar:
        while ahead:
            folder, inside = ahead.popleft()
            try:
                known = folder.stat()
                entries = list(folder.iterdir())
                folders = {entry for entry in entries if entry.is_dir()}
            except OSError as error:
                raise ValueError(f"{error.filename or folder} cannot be read ({error.strerror})") from error
            if (known.st_dev, known.st_ino) in seen:
                yield inside, Item(str(folder), "", partial(refuse, "it is a link to a folder that is read already"))
                continue
            seen.add((known.st_dev, known.st_ino))
            for entry in entries:
                path = inside / entry.name
                if entry in folders and not hidden(path):
                    # Links last, so that a folder is read where it is.
                    (ahead.append if entry.is_symlink() else ahead.appendleft)((entry, path))
                elif entry not in folders and wanted(path):
                    yield path, file_item(entry)
                    bar.update()


def open_file(path: Path) -> Stream:
    """The bytes of a file."""
    return path.open("rb")


def file_item(path: Path) -> Item:
    """An image file in a folder; what is no file is not opened, for a pipe would be waited for."""
    try:
        known = path.stat()
    except OSError as error:
        why = "it is a link to nothing" if path.is_symlink() else str(error.strerror)
        return Item(str(path), "", partial(refuse, why))
    if not stat.S_ISREG(known.st_mode):
        return Item(str(path), "", partial(refuse, f"it is {kind_of(known.st_mode)}"))
    return Item(str(path), f"{known.st_size} {known.st_mtime_ns}", partial(open_file, path))


def member(fetch: Callable[[], Stream], claimed: int) -> Stream:
    """A file of an archive, in memory.  Raises ValueError if it claims, or has, too many bytes for an image."""
    if claimed > FILE_LIMIT:
        raise ValueError(f"it claims {claimed:,} bytes; at most {FILE_LIMIT:,} are read")
    with fetch() as stream:
        return BytesIO(read_all(stream))


def said_of_links(count: int) -> list[str]:
    """A line on what is in an archive and no file."""
    return [f"links left out: {count} in the archive are links or devices, no files"] if count else []


@contextmanager
def zipped(path: Path) -> Iterator[Source]:
    """The image files in a zip archive.  Raises ValueError if it is none."""
    with opened_zip(path, "a zip archive") as archive:
        named = [i for i in archive.infolist() if i.filename and not i.is_dir()]
        images = [i for i in named if wanted(path_of(i))]
        files = [i for i in images if not stat.S_ISLNK(i.external_attr >> 16)]
        yield from_paths(
            str(path),
            [
                (
                    path_of(i),
                    Item(
                        f"{path}/{i.filename}",
                        f"{i.file_size} {i.CRC}",
                        partial(member, partial(archive.open, i), i.file_size),
                        place=i.header_offset,
                    ),
                )
                for i in files
            ],
            said_of_links(len(images) - len(files)),
        )


def path_of(info: ZipInfo) -> PurePosixPath:
    """Where a file of a zip archive lies in it; some programs of Windows write backslashes."""
    return PurePosixPath(info.filename.replace("\\", "/") if info.create_system == 0 else info.filename)


def extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Stream:
    """A file in a tar archive.  Raises ValueError if it is none."""
    stream = archive.extractfile(info)
    if stream is None:
        raise ValueError("it is no file")
    return stream


@contextmanager
def tarred(path: Path) -> Iterator[Source]:
    """The image files in a tar archive, compressed or not.  Raises ValueError if it is none, or is cut short."""
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(path, tarinfo=Member))
            bar = tqdm(archive, desc="looking for images", delay=1, leave=False, mininterval=refresh_interval())
            images = [i for i in bar if not i.isdir() and wanted(PurePosixPath(i.name))]
        except Exception as error:  # of many kinds, by what is broken and how it is compressed
            raise ValueError(f"{path} cannot be read as a tar archive ({reason(error)})") from error
        files = [i for i in images if i.isreg()]
        stamp = stamp_of(path)
        yield from_paths(
            str(path),
            [
                (
                    PurePosixPath(i.name),
                    Item(
                        f"{path}/{i.name}",
                        f"{stamp} {i.offset}",
                        partial(member, partial(extract, archive, i), i.size),
                        place=i.offset,
                    ),
                )
                for i in files
            ],
            said_of_links(len(images) - len(files)),
        )
