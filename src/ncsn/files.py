"""Files that are either whole or not there, and the one rule for what a command may write."""

import glob
import json
import math
import os
import re
import secrets
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART = 2**20  # bytes that are read at a time
JSON_LIMIT = 10**6  # bytes
ROWS_LIMIT = 2**26  # bytes of a file with a row of JSON a line
DEEPEST = 20  # brackets within brackets
LONGEST_LINE = 300  # characters of somebody else's error that are repeated
LONGEST_NUMBER = 40  # characters; a float64 takes 25
MEMBERS_LIMIT = 10**6  # files in an archive


def one_line(error: object) -> str:
    """The first line of what an error says, or else its name: not too long, and without what could not be printed."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = "".join(c if c.isprintable() else "?" for c in lines[0])
    return said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]}…"


def reason(error: Exception) -> str:
    """Why a file cannot be read: what the system says, without the file's name."""
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def read_bytes(path: Path, limit: int) -> bytes:
    """All bytes of a file.  Raises ValueError if it cannot be read, or has more than ``limit``."""
    try:
        with path.open("rb") as file:
            # A part at a time: Python takes the memory of what it is asked for, however little there is.
            content = bytearray()
            while len(content) <= limit and (part := file.read(min(PART, limit + 1 - len(content)))):
                content += part
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)})") from error
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit:,} bytes")
    return bytes(content)


def read_json(path: Path) -> Any:
    """The content of a JSON file, its lists as tuples.  Raises ValueError as ``read_bytes`` and ``parse_json``."""
    return parse_json(read_bytes(path, JSON_LIMIT), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """The value that JSON in UTF-8 stands for, its lists as tuples.

    Raises ValueError that begins with ``where`` if it is none: also for NaN and Infinity, for numbers beyond 64 bits,
    for a name that is given twice, and for deep nests.
    """
    try:
        value = json.loads(
            content.decode(),
            parse_int=integer,
            parse_float=real,
            parse_constant=real,
            object_pairs_hook=without_doubles,
        )
        return with_tuples(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} cannot be read ({one_line(error)})") from error


def integer(text: str) -> int:
    """A JSON integer.  Raises ValueError beyond 64 bits."""
    if len(text) > LONGEST_NUMBER or not -(2**64) < int(text) < 2**64:
        raise ValueError(f"{text[:LONGEST_NUMBER]} is beyond 64 bits")
    return int(text)


def real(text: str) -> float:
    """A JSON number with a point.  Raises ValueError if it is not finite, or longer than any that is written."""
    if len(text) > LONGEST_NUMBER or not math.isfinite(float(text)):
        raise ValueError(f"{text[:LONGEST_NUMBER]} is no finite number of at most {LONGEST_NUMBER} characters")
    return float(text)


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object.  Raises ValueError if it has a name twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def with_tuples(value: Any, depth: int = DEEPEST) -> Any:
    """JSON's lists as tuples.  Raises ValueError if they are nested deeper than anything that is written."""
    if isinstance(value, dict | list) and not depth:
        raise ValueError(f"brackets are nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        return {name: with_tuples(item, depth - 1) for name, item in value.items()}
    return tuple(with_tuples(item, depth - 1) for item in value) if isinstance(value, list) else value


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return one_line(", ".join(names[:3]) or "none") + more


@contextmanager
def opened_zip(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """A zip archive, while the block runs; ``kind``: what errors call it.

    Raises ValueError if it is none, if it has too many members, or one whose name would not fit a line, or one that
    claims more than its compressed bytes can stand for.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as {kind} ({reason(error)})") from error
    with archive:
        infos = archive.infolist()
        if len(infos) > MEMBERS_LIMIT:
            raise ValueError(f"{path} has {len(infos):,} members; at most {MEMBERS_LIMIT:,} are read")
        for info in infos:
            if not info.filename.isprintable():
                raise ValueError(f"{path} has a member by the name {info.filename!r}; it must fit a line")
            # The most that deflate can do is 1032 to 1.
            if info.compress_type in (0, 8) and info.file_size > 1032 * info.compress_size + 1032:
                raise ValueError(
                    f"{path}/{info.filename} claims {info.file_size:,} bytes, which {info.compress_size:,} "
                    "compressed ones cannot hold"
                )
        yield archive


HOST = re.sub("[^A-Za-z0-9-]", "_", socket.gethostname()) or "host"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well and vanishes when it does not.

    The bytes are on the disk before the name is, so neither kill -9 nor a full disk leaves half a file; the temporary
    file that a kill leaves is removed by the next command that writes there (``sweep``).  Its name cannot be guessed,
    and it is a new file: nobody's link is followed.
    Raises ValueError if ``path`` is something else than a regular file, and OSError, which names it, if it cannot be
    written.
    """
    check_regular(path)
    name = f".{path.stem}.partial.{HOST}.{os.getpid()}.{secrets.token_hex(8)}{path.suffix}"
    temporary = path.with_name(name)
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
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


def sweep(folder: Path, stem: str = "*", *, everybodys: bool = False) -> None:
    """Remove the temporary files that kills have left in ``folder``, of all files or of those of this ``stem``.

    ``everybodys``: also those of processes that may be alive, or on other machines: for who holds the folder's lock.
    """
    host = "*" if everybodys else HOST
    for left in folder.glob(f".{stem if stem == '*' else glob.escape(stem)}.partial.{host}.*"):
        owner = left.name.rpartition(".partial.")[2].split(".")[1]
        if everybodys or (owner.isdecimal() and not alive(int(owner))):
            left.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Add a line to a file; it is on the disk when this returns.  Raises OSError, which names the file."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def alive(process: int) -> bool:
    """Whether there is such a process on this machine; on Windows, where asking would end it, maybe."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def check_regular(path: Path) -> None:
    """Raises ValueError if there is something at ``path`` that is no regular file: a link, a folder or a device."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {kind}; only regular files are replaced")


def check_out(out: Path, *, overwrite: bool, directory: bool = False) -> None:
    """Raises ValueError, before any work, if a command may not write ``out``: the rule for all that they write.

    ``directory``: it is to be one; whether what is there may be replaced, only its writer can tell.
    """
    if not directory or out.is_symlink() or not out.is_dir():
        check_regular(out)
    if directory and out.is_file():
        raise ValueError(f"{out} is a file; a folder is needed")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; give --overwrite to replace it, or another name")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{out.parent} is no folder to write {out.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: you may not write into its folder")
    sweep(folder, out.stem)
