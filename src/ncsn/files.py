"""Files: whole or not there, read within limits; what a command may write; outputs that grow.

Samples by the million go into blocks in a hidden folder beside the output, ``.big.npz.partial``: each is a file whose
name holds its sha256, so that what a kill leaves is gone on with if it is whole.  ``job.json`` there says what
determines the samples.  When all blocks are there, they become the output.
"""

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Shaped

JSON_LIMIT = 10**6  # bytes
LONGEST_LINE = 300  # characters of somebody else's error that are repeated
HOST = re.sub("[^A-Za-z0-9-]", "_", socket.gethostname()) or "host"
# The names of ``atomic``'s temporary files.
UNFINISHED = re.compile(r"\..*\.partial\.(?P<host>[\w-]+)\.(?P<process>\d+)\.[0-9a-f]{16}(\.\w+)?")

# All that determines samples: the run, the seed, how they are drawn, by which versions.
SamplingJob: TypeAlias = dict[str, str | int | float | None]


def one_line(error: object) -> str:
    """The first line of an error's message, or else its name: not too long, and only what can be printed."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = "".join(c if c.isprintable() else "?" for c in lines[0])
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


def reason(error: Exception) -> str:
    """Why a file cannot be read: what the system says, without the file's name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object that JSON stands for.  Raises ValueError, which begins with ``where``, if it is none."""
    try:
        return dict(json.loads(content).items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{where} cannot be read ({one_line(error)})") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most a megabyte.  Raises ValueError if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(JSON_LIMIT + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)})") from error
    if len(content) > JSON_LIMIT:
        raise ValueError(f"{path} has more than {JSON_LIMIT:,} bytes")
    return parse_json(content, str(path))


@contextmanager
def opened_zip(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """A zip archive, while the block runs; ``kind``: what errors call it.

    Raises ValueError if it is none, or has a member whose name would not fit a line, or one that claims more than its
    compressed bytes can stand for.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as {kind} ({reason(error)})") from error
    with archive:
        for info in archive.infolist():
            if not info.filename.isprintable():
                raise ValueError(f"{path} has a member by the name {info.filename!r}; it must fit a line")
            # The most that deflate can do is 1032 to 1.
            if info.compress_type in (0, 8) and info.file_size > 1032 * info.compress_size + 1032:
                raise ValueError(f"{path}/{info.filename} claims {info.file_size:,} bytes, which it cannot hold")
        yield archive


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well and vanishes when it does not.

    The bytes are on the disk before the name is, so neither kill -9 nor a full disk leaves half a file; the temporary
    file that a kill leaves is removed by the next command that writes there (``sweep``).  Its name cannot be guessed,
    and it is a new file: nobody's link is followed.  A file that is replaced hands on its mode.
    Raises ValueError if ``path`` is something else than a regular file, and OSError, which names it, if it cannot be
    written.
    """
    check_regular(path)
    name = f".{path.stem[:80]}.partial.{HOST}.{os.getpid()}.{secrets.token_hex(8)}{path.suffix}"
    temporary = path.with_name(name)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        if path.exists():
            shutil.copymode(path, temporary)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sweep(folder: Path, *, everybodys: bool = False) -> None:
    """Remove the temporary files that processes of this machine have left in ``folder`` when they were killed.

    ``everybodys``: also those of processes that may be alive, or on other machines: for who holds the folder's lock.
    """
    for path in folder.glob(".*.partial.*"):
        if (left := UNFINISHED.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            import psutil

            if everybodys or (left["host"] == HOST and not psutil.pid_exists(int(left["process"]))):
                path.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Add a line to a file; it is on the disk when this returns.  Raises OSError, which names the file."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_regular(path: Path) -> None:
    """Raises ValueError if there is something at ``path`` that is no regular file: a link, a folder or a device."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {kind}; only regular files are replaced")


def check_out(out: Path, *, overwrite: bool, directory: bool = False) -> None:
    """Raises ValueError, before any work, if a command may not write ``out``: the rule for all that they write.

    ``directory``: it is to be a folder of images, and such a one may be replaced.
    """
    if not directory or out.is_symlink() or not out.is_dir():
        check_regular(out)
    if directory and out.is_file():
        raise ValueError(f"{out} is a file; a folder is needed")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; give --overwrite to replace it, or another name")
    if out.is_dir() and not all(path.suffix == ".png" and path.stem.isdecimal() for path in out.iterdir()):
        raise ValueError(f"{out} holds more than such images, and is not replaced; give another --out")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{out.parent} is no folder to write {out.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: you may not write into its folder")
    sweep(folder)


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
