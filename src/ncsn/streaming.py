"""Samples by the million, into a file or a folder: in constant memory, and a kill loses no more than one block of them.

While it grows, an output big.npz is the hidden folder .big.npz.partial: the samples so far, and job.json, which says
what determines them and how many are there.  The same job goes on where that one stopped.  What is finished takes the
output's name when it is whole.
"""

import math
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Shaped
from PIL import Image

from ncsn.files import atomic, check_out, read_json
from ncsn.storage import write_json

Job: TypeAlias = dict[str, str | int | float | None]
"""All that determines samples: the run, the seed, how they are drawn, by which versions."""

LOCK = "lock"


class Writer(ABC):
    """How samples become an output: ``write`` any rows of it, and ``finish`` when all are written.

    ``folder``: where it grows.  ``shape`` (n, *d) and ``dtype``: the samples'.  ``block``: how many rows come together.
    Raises ValueError if such samples cannot be written so.
    """

    name: str  # in the folder
    copies = 1  # of all numbers, on the disk at a time

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype, block: int) -> None:
        self.path, self.shape, self.dtype, self.block = folder / self.name, shape, dtype, block

    @abstractmethod
    def begin(self) -> None:
        """Make what rows are written into."""

    @abstractmethod
    def write(self, start: int, rows: Shaped[np.ndarray, "b *d"]) -> None:
        """Write rows from number ``start`` on, in place of any that are there; on the disk when it returns."""

    def finish(self, out: Path) -> None:
        """Give the whole the name ``out``, in place of what has it."""
        self.path.replace(out)

    def replaceable(self, out: Path) -> bool:
        """Whether ``out`` is such an output, so that nothing else is lost with it."""
        return out.is_file()


class NpyWriter(Writer):
    """One array in a file.  By writing and not by mapping: pages that are mapped count as this process' memory."""

    name = "samples.npy"

    def begin(self) -> None:
        """Write the header."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)

    def write(self, start: int, rows: Shaped[np.ndarray, "b *d"]) -> None:
        """Write rows where they belong."""
        with self.path.open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            file.seek(start * rows[0].nbytes, os.SEEK_CUR)
            file.write(rows.tobytes())
            file.flush()
            os.fsync(file.fileno())


class NpzWriter(NpyWriter):
    """The same, compressed at the end, as what is compressed cannot be gone on with."""

    copies = 2

    def finish(self, out: Path) -> None:
        """Compress it."""
        packed = self.path.with_suffix(".npz")
        with atomic(packed) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(self.path, self.name)
        packed.replace(out)


def sync() -> None:
    """Wait until all that was written is on the disk: for a thousand files a tenth of what one fsync for each takes."""
    if hasattr(os, "sync"):  # Windows has none
        os.sync()


class DirectoryWriter(Writer):
    """An output that is a directory."""

    def finish(self, out: Path) -> None:
        """Move what has its name out of the way, as no directory takes the place of another."""
        if out.exists():
            out.replace(self.path.with_name("replaced"))
        super().finish(out)


class ImagesWriter(DirectoryWriter):
    """A folder of PNG images, 000000.png and so on, of as many bits as the data has."""

    name = "images"

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype, block: int) -> None:
        super().__init__(folder, shape, dtype, block)
        if len(shape) != 4 or (shape[1], dtype.name) not in [(1, "uint8"), (3, "uint8"), (1, "uint16")]:
            raise ValueError(
                f"samples are {dtype} of shape {shape[1:]}; a folder of PNG images holds grey ones of 8 or 16 bits, "
                "and RGB of 8: give --out a name that ends in .npz, .npy or .zarr"
            )

    def begin(self) -> None:
        """Make the folder."""
        self.path.mkdir()

    def write(self, start: int, rows: Shaped[np.ndarray, "b *d"]) -> None:
        """Write an image for each row."""
        digits = max(6, len(str(self.shape[0] - 1)))
        for number, row in enumerate(rows, start):
            picture = Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0))
            picture.save(self.path / f"{number:0{digits}}.png")
        sync()

    def replaceable(self, out: Path) -> bool:
        """Whether it holds nothing but such images."""
        return out.is_dir() and all(path.suffix == ".png" and path.stem.isdecimal() for path in out.iterdir())


class ZarrWriter(DirectoryWriter):
    """A zarr array on the disk, a chunk for each block.  Raises ValueError if zarr is not installed, too."""

    name = "samples.zarr"
    copies = 0  # compressed, nobody knows how far

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype, block: int) -> None:
        super().__init__(folder, shape, dtype, block)
        try:
            import zarr
        except ImportError as error:
            raise ValueError(".zarr needs zarr: pip install 'ncsn[zarr]'; .npz and .npy need nothing") from error
        self.zarr = zarr

    def begin(self) -> None:
        """Make the array, without chunks."""
        self.zarr.create_array(
            self.path, shape=self.shape, dtype=self.dtype, chunks=(self.block, *self.shape[1:]), overwrite=True
        )

    def write(self, start: int, rows: Shaped[np.ndarray, "b *d"]) -> None:
        """Write a chunk."""
        self.zarr.open_array(self.path, mode="r+")[start : start + len(rows)] = rows
        sync()

    def replaceable(self, out: Path) -> bool:
        """Whether it is a zarr array."""
        about = out / "zarr.json"
        return about.is_file() and dict(read_json(about)).get("node_type") == "array"


WRITERS: dict[str, type[Writer]] = {".npz": NpzWriter, ".npy": NpyWriter, ".zarr": ZarrWriter, "": ImagesWriter}
"""By the suffix of the output's name."""


class Stream:
    """An output that grows: ``done`` samples of it are on the disk."""

    def __init__(self, writer: Writer, job: Job, note: Path, done: int) -> None:
        self.writer, self.job, self.note, self.done = writer, job, note, done

    def write(self, rows: Shaped[np.ndarray, "b *d"]) -> None:
        """Write the samples that come next, and note that they are there."""
        self.writer.write(self.done, rows)
        self.done += len(rows)
        write_json(self.note, {"done": self.done, "job": self.job})


@contextmanager
def streamed(
    out: Path, job: Job, shape: tuple[int, ...], dtype: np.dtype, *, block: int, overwrite: bool = False
) -> Iterator[Stream]:
    """A ``Stream`` for samples of this ``shape`` (n, *d) and ``dtype``, a ``block`` at a time; ``out``, if all come.

    Where ``done`` is not 0, so many are there already.  ``overwrite``: an output may be replaced, and what another job
    has left unfinished is removed.
    Raises ValueError if samples of that kind cannot be written so, if the disk has no room for them, if the place is
    taken by something else, if another job has left it unfinished, or if another process is writing it.
    """
    folder = out.with_name(f".{out.name}.partial")
    writer = WRITERS[out.suffix](folder, shape, dtype, block)
    check_replaceable(out, writer)
    size, free = writer.copies * math.prod(shape) * dtype.itemsize, shutil.disk_usage(out.absolute().parent).free
    if size > free and not (folder / "job.json").exists():
        raise ValueError(
            f"{shape[0]:,} samples are {size / 1e9:,.0f} GB; {free / 1e9:,.0f} GB are free where {out} is to be"
        )
    with alone(folder, out):
        stream = Stream(writer, job, folder / "job.json", found(folder, job, overwrite))
        try:
            if not stream.done or not writer.path.exists():
                empty(folder)
                stream.done = 0
                writer.begin()
            yield stream
            check_out(out, overwrite=overwrite, directory=isinstance(writer, DirectoryWriter))  # hours later
            check_replaceable(out, writer)
            writer.finish(out)
            stream.done = 0  # nothing is left to go on from
        finally:
            if not stream.done:
                empty(folder)


def check_replaceable(out: Path, writer: Writer) -> None:
    """Raises ValueError if there is something at ``out`` that is no such output."""
    if out.exists() and not writer.replaceable(out):
        raise ValueError(f"{out} is something else than such samples, and is not replaced; give another --out")


def found(folder: Path, job: Job, overwrite: bool) -> int:
    """How many samples a job has left in ``folder``; 0 if none, or if another's may be removed.

    Raises ValueError if they are another job's, and may not.
    """
    note = folder / "job.json"
    if not note.is_file():
        return 0
    try:
        content = read_json(note)
        done, theirs = int(content["done"]), dict(content["job"])
    except (ValueError, KeyError, TypeError):
        done, theirs = 0, {}
    if theirs == job:
        return done
    if overwrite:
        return 0
    differing = ", ".join(
        f"{name} {theirs.get(name)} and not {value}" for name, value in job.items() if theirs.get(name) != value
    )
    raise ValueError(
        f"{folder} holds {done:,} samples of another job ({differing}); finish that one by its own command, or give "
        "--overwrite to remove them"
    )


@contextmanager
def alone(folder: Path, out: Path) -> Iterator[None]:
    """``folder``, in which no other process writes while the block runs; it vanishes if it is empty then.

    Raises ValueError if another process does.
    """
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing {out}; wait for it, or give another --out") from error
    try:
        yield
    finally:
        if all(path.name == LOCK for path in folder.iterdir()):
            shutil.rmtree(folder)
        lock.release()


def empty(folder: Path) -> None:
    """Remove all that is in ``folder`` but its lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
