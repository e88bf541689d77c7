"""Files that are complete or absent, and never unpickled: JSON, tensors and checkpoints."""

import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import Buffer

from ncsn.validation import Json, opened_as, require_utf8

UNFINISHED = re.compile(r"\..*\.partial\.[0-9a-f]{16}(\.\w+)?")  # names of the temporary files of ``atomic``


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block succeeds, and is removed when it fails.

    The content is flushed to the disk before the file is renamed, so neither kill -9 nor a full disk leaves half a
    file; the next training removes what a kill leaves in its folder (``sweep``).  The temporary file has an
    unpredictable name and is created anew, so that no link is followed.  It takes on the mode of the file it replaces.
    Raises ValueError if ``path`` isn't a regular file, and OSError, naming ``path``, if it can't be written.
    """
    check_regular(path)
    temporary = path.with_name(f".{path.stem[:30]}.partial.{secrets.token_hex(8)}{path.suffix}")
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it, an error of the system that names no file names ``path``, where a file without a name will go."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, content: Json) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove temporary files that killed processes have left in ``folder``; only for the holder of its lock."""
    for path in folder.glob(".*.partial.*"):
        if UNFINISHED.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def check_regular(path: Path) -> None:
    """Raises ValueError if ``path`` isn't UTF-8, or exists as a link, a folder or a device, not as a regular file."""
    require_utf8(str(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):
        actual = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "not a regular file"
        raise ValueError(f"{path} is {actual}; only regular files can be replaced")


def sha256_of(contents: Iterable[str | Buffer | np.ndarray]) -> str:
    """The sha256 of text, bytes and arrays, one after the other, in hexadecimal."""
    sha256 = hashlib.sha256()
    for content in contents:
        if isinstance(content, str):
            sha256.update(content.encode())
        else:
            sha256.update(np.ascontiguousarray(content).data if isinstance(content, np.ndarray) else content)
    return sha256.hexdigest()


def bytes_of(tensor: Tensor) -> UInt8[np.ndarray, "n"]:
    """The bytes of a tensor's numbers."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def digest(tensors: Mapping[str, Tensor], data: str = "") -> str:
    """The sha256 of named tensors, in any order, and of the digest of their ``data``, if given."""
    contents: list[str | np.ndarray] = [f"dict {len(tensors)}\n{data}"]
    for name in sorted(tensors, key=repr):
        tensor = tensors[name]
        contents += [f"str {len(repr(name))} {name!r}\n{tensor.dtype} {tuple(tensor.shape)}\n", bytes_of(tensor)]
    return sha256_of(contents)


def seal(tensors: dict[str, Tensor], data: str = "") -> bytes:
    """A safetensors file of ``tensors``, with a digest of them and of the training ``data`` in its metadata."""
    # A single entry, because the library writes several in any order, and equal weights must be equal bytes.
    # Copies, because the library rejects weights that two layers share.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    return save(copies, metadata={"sha256": digest(tensors, data)})


def read_tensors(path: Path, data: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file; a digest, if the file has one, proves that they weren't changed.

    ``data``: the digest of the training data.
    Raises ValueError if the file can't be read, was changed, belongs to other data, or has numbers that aren't finite.
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


def read_checkpoint(path: Path) -> Json:
    """The dictionary that ``torch.save`` has written: a zip archive, whose checksums torch itself doesn't look at.

    Raises ValueError if it can't be read, or was changed.
    """
    with opened_as("a checkpoint", path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
        state: Json = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    return state


def check_files(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """``check_out`` for files in a folder that may not exist yet."""
    for path in [folder / name for name in names] if folder.exists() else [folder]:
        check_out(path, overwrite=overwrite)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises ValueError, before any work starts, if a command can't or mustn't write ``out``."""
    check_regular(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists; choose another name, or replace it with --overwrite (overwrite=True)")
    folder = out.absolute().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"{out} cannot be written: {out.parent} is not a folder with write permission")
