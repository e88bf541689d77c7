"""Files that are either whole or not there, and the one rule for what a command may write."""

import glob
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
