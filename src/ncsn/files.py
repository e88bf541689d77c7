"""Files that are either whole or not there, and the one rule for what a command may write."""

import glob
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = "".join(character for character in socket.gethostname() if character.isalnum()) or "host"


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
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path, stem: str = "*") -> None:
    """Remove the temporary files that kills have left in ``folder``, of all files or of those of this ``stem``."""
    pattern = f".{stem if stem == '*' else glob.escape(stem)}.partial.{HOST}.*"
    for left in folder.glob(pattern):
        owner = left.name.rpartition(f".partial.{HOST}.")[2].split(".")[0]
        if owner.isdecimal() and not alive(int(owner)):
            left.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
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
        raise ValueError(f"{out} exists; give --overwrite to replace it, or another --out")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{out.parent} is no folder to write {out.name} into")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: you may not write into its folder")
    sweep(folder, out.stem)
