"""Files: whole or not there, read within limits; what a command may write."""

import json
import os
import re
import secrets
import shutil
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

JSON_LIMIT = 10**6  # bytes
LONGEST_LINE = 300  # characters of somebody else's error that are repeated
HOST = re.sub("[^A-Za-z0-9-]", "_", socket.gethostname()) or "host"
# The names of ``atomic``'s temporary files.
UNFINISHED = re.compile(r"\..*\.partial\.(?P<host>[\w-]+)\.(?P<process>\d+)\.[0-9a-f]{16}(\.\w+)?")


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


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError, before any work, if a command may not write ``out``: the rule for all that they write."""
    check_regular(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; give --overwrite to replace it, or another name")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{out.parent} is no folder to write {out.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: you may not write into its folder")
    sweep(folder)
