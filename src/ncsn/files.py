"""Outputs that grow.

Samples by the million go into blocks in a hidden folder beside the output, ``.big.npz.partial``: each is a file whose
name holds its sha256, so that what a kill leaves is gone on with if it is whole.  ``job.json`` there says what
determines the samples.  When all blocks are there, they become the output.
"""

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ncsn.storage import atomic, check_out, sweep, write_json
from ncsn.validation import read_json

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

# All that determines samples: the run, the seed, how they are drawn, by which versions.
SamplingJob: TypeAlias = dict[str, str | int | float | None]


@dataclass
class Stream:
    """Samples of ``shape`` (n, *d) and ``dtype`` that grow in a ``folder`` of blocks, of ``size`` rows but for one.

    ``blocks``: those that are on the disk, and whole.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: "np.dtype"
    size: int
    blocks: list[Path]

    @property
    def done(self) -> int:
        """How many samples are on the disk."""
        return min(len(self.blocks) * self.size, self.shape[0])

    def write(self, rows: "Shaped[np.ndarray, 'b *d']") -> None:
        """Write the block that comes next; it is on the disk when this returns."""
        content = rows.tobytes()
        path = self.folder / f"{len(self.blocks):06}-{hashlib.sha256(content).hexdigest()}"
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        self.blocks.append(path)


def whole_blocks(folder: Path) -> Iterator[Path]:
    """The blocks in a folder up to the first that is missing, or has not the sha256 that its name says."""
    for number, path in enumerate(sorted(folder.glob("[0-9]*-*"))):
        if path.name != f"{number:06}-{hashlib.sha256(path.read_bytes()).hexdigest()}":
            return
        yield path


def npy(stream: Stream) -> Iterator[bytes]:
    """The bytes of an .npy of all samples, part by part."""
    from numpy.lib import format

    header = {"descr": format.dtype_to_descr(stream.dtype), "fortran_order": False, "shape": stream.shape}
    format.write_array_header_1_0(head := io.BytesIO(), header)
    yield head.getvalue()
    yield from (block.read_bytes() for block in stream.blocks)


def write_npy(stream: Stream, path: Path) -> None:
    """All samples as an .npy."""
    with path.open("wb") as file:
        file.writelines(npy(stream))


def write_npz(stream: Stream, path: Path) -> None:
    """All samples as an .npz, under the key samples."""
    member = zipfile.ZipInfo("samples.npy")  # of no date, so that the same samples are the same bytes
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive, archive.open(member, "w", force_zip64=True) as packed:
        packed.writelines(npy(stream))


def write_images(stream: Stream, out: Path) -> None:
    """All samples as a folder of 000000.png and so on, of as many bits as the data has."""
    import numpy as np
    from PIL import Image

    images, digits = stream.folder / "images", max(6, len(str(stream.shape[0] - 1)))
    shutil.rmtree(images, ignore_errors=True)  # of a kill while they were written
    images.mkdir()
    for first, block in enumerate(stream.blocks):
        rows = np.frombuffer(block.read_bytes(), stream.dtype).reshape(-1, *stream.shape[1:])
        for number, row in enumerate(rows, first * stream.size):
            picture = Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0))
            picture.save(images / f"{number:0{digits}}.png")
    getattr(os, "sync", lambda: None)()  # Windows has none
    if out.exists():
        out.replace(stream.folder / "replaced")
    images.replace(out)


@contextmanager
def streamed(
    out: Path, job: SamplingJob, shape: tuple[int, ...], dtype: "np.dtype", *, block: int, overwrite: bool = False
) -> Iterator[Stream]:
    """A ``Stream`` for samples of this ``shape`` (n, *d) and ``dtype``, a ``block`` at a time; ``out``, if all come.

    ``out`` ends in .npz, .npy, or nothing for a folder of PNG images.  Where ``done`` is not 0, so many are there
    already.  ``overwrite``: an output may be replaced, and what another job has left unfinished is removed.
    Raises ValueError if samples of that kind cannot be written so, if the place is taken by something else, if another
    job has left it unfinished, or if another process is writing it.
    """
    from filelock import FileLock, Timeout

    directory, folder = not out.suffix, out.with_name(f".{out.name}.partial")
    check_out(out, overwrite=overwrite, directory=directory)
    if directory and (len(shape), *shape[1:2], dtype.name) not in [(4, 1, "uint8"), (4, 3, "uint8"), (4, 1, "uint16")]:
        raise ValueError(
            f"samples are {dtype} of shape {shape[1:]}; a folder of PNG images holds grey ones of 8 or 16 bits and RGB "
            "of 8: --out *.npz or *.npy holds them"
        )
    others = {path.name for path in folder.glob("[!.]*")} - {"lock"}
    if folder.is_symlink() or folder.is_file() or (others and not (folder / "job.json").is_file()):
        raise ValueError(f"{folder} is not a folder of unfinished samples; move it, or give another --out")
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            begin(folder, job | {"rows": f"{block} of {shape} {dtype.name}"}, overwrite)
            stream = Stream(folder, shape, dtype, block, [*whole_blocks(folder)])
            try:
                yield stream
                check_out(out, overwrite=overwrite, directory=directory)  # hours later
                if directory:
                    write_images(stream, out)
                else:
                    with atomic(out) as temporary:
                        (write_npy if out.suffix == ".npy" else write_npz)(stream, temporary)
                stream.blocks = []  # nothing is left to go on from
            finally:
                if not stream.blocks:
                    shutil.rmtree(folder)
    except Timeout as error:
        raise ValueError(f"another process is writing {out}; wait for it, or give another --out") from error


def begin(folder: Path, job: SamplingJob, overwrite: bool) -> None:
    """Note in ``folder`` which job it belongs to, and remove another one's blocks, if they may be replaced.

    Raises ValueError if they may not.
    """
    sweep(folder, everybodys=True)
    note, blocks = folder / "job.json", [*folder.glob("[0-9]*-*")]
    theirs = {}
    with suppress(ValueError):
        theirs = read_json(note)
    others = ", ".join(f"{name} {theirs.get(name)}, not {job[name]}" for name in job if theirs.get(name) != job[name])
    if others and blocks and not overwrite:
        raise ValueError(f"{folder} holds samples of another job ({others}); finish it, or --overwrite removes them")
    for path in blocks if others else ():
        path.unlink()
    write_json(note, job)
