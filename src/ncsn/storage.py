"""A folder of files, each whole or not there, and nothing unpickled: locks, JSON, tensors, checkpoints, the hub."""

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ncsn.validation import Json, opened_as

SEAL = b"\nsha256:"  # before the 64 digits at the end of a checkpoint
HOST = re.sub("[^A-Za-z0-9-]", "_", socket.gethostname()) or "host"
# The names of ``atomic``'s temporary files.
UNFINISHED = re.compile(r"\..*\.partial\.(?P<host>[\w-]+)\.(?P<process>\d+)\.[0-9a-f]{16}(\.\w+)?")


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
    name = f".{path.stem[:30]}.partial.{HOST}.{os.getpid()}.{secrets.token_hex(8)}{path.suffix}"
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


def write_json(path: Path, content: Json) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sweep(folder: Path, *, everybodys: bool = False) -> None:
    """Remove the temporary files that processes of this machine have left in ``folder`` when they were killed.

    ``everybodys``: also those of living processes and of other machines: for who holds the folder's lock.
    """
    for path in folder.glob(".*.partial.*"):
        if (left := UNFINISHED.fullmatch(path.name)) and path.is_file() and not path.is_symlink():
            import psutil

            if everybodys or (left["host"] == HOST and not psutil.pid_exists(int(left["process"]))):
                path.unlink(missing_ok=True)


def check_regular(path: Path) -> None:
    """Raises ValueError if there is something at ``path`` that is no regular file: a link, a folder or a device."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        kind = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {kind}; only regular files are replaced")


def digest(tensors: Mapping[str, Tensor], data: str = "") -> str:
    """The sha256 of tensors and their names, whatever the order of these, and of the digest of ``data``, if any."""
    result = hashlib.sha256(f"dict {len(tensors)}\n{data}".encode())
    for name in sorted(tensors, key=repr):
        tensor = tensors[name].detach().cpu().contiguous()
        result.update(f"str {len(repr(name))} {name!r}\n{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def seal(tensors: dict[str, Tensor], data: str = "") -> bytes:
    """A safetensors file of ``tensors``, with a digest of them, and of the ``data`` that made them, in its metadata."""
    # One entry alone, because the library writes several in any order, and the same weights are the same bytes.
    # As copies, because the library refuses weights that two layers share.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    return save(copies, metadata={"sha256": digest(tensors, data)})


def read_tensors(path: Path, data: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those that were written; in a file without a digest, who knows.

    ``data``: the digest of the data that should have made them.
    Raises ValueError if it cannot be read, is not as it was written, was made by other data, or has numbers that are
    not finite.
    """
    with opened_as("the weights of this run", path):
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        digests = [{"sha256": digest(tensors)}, {"sha256": digest(tensors, data)}]
        if not metadata.keys() <= {"format"} and metadata not in digests:
            raise ValueError("its digest is that of other tensors or other data")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("it holds numbers that are not finite")
    return tensors


def save_checkpoint(content: Json, path: Path) -> None:
    """Write tensors, numbers and text as torch does, and the file's sha256 after them.

    Raises what ``torch.save`` does.
    """
    torch.save(content, path)
    seal = SEAL + hashlib.sha256(np.memmap(path, mode="r").data).hexdigest().encode()
    with path.open("ab") as file:
        file.write(seal)


def read_checkpoint(path: Path) -> Json:
    """What ``save_checkpoint`` wrote; a file without a sha256 is read as it is.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    with opened_as("a checkpoint", path):
        content = np.memmap(path, mode="r")
        whole, seal = content[: -len(SEAL) - 64], content[-len(SEAL) - 64 :].tobytes()
        if seal.startswith(SEAL) and seal != SEAL + hashlib.sha256(whole.data).hexdigest().encode():
            raise ValueError("its sha256 is not the one written with it")
        state: Json = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    return state


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError, before any work, if a command may not write ``out``: the rule for all that they write."""
    check_regular(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; --overwrite (overwrite=True) replaces it, or give another name")
    folder = out.absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"{out} cannot be written: {out.parent} is not a folder that you may write into")
    sweep(folder)
