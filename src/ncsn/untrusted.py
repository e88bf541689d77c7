"""Files that a crash, a disk or somebody else may have changed: read with limits, and trusted for nothing.

JSON is bounded in size, depth and numbers; tensors carry a digest of themselves, so that a bit that flipped is seen
before it is sampled or trained on; nothing is unpickled but tensors, numbers and text; archives are opened with care.
Whatever is wrong ends in a ValueError of one line.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

PART = 2**20  # bytes that are read at a time
JSON_LIMIT = 10**6  # bytes
ROWS_LIMIT = 2**26  # bytes of a file with a row of JSON a line
DEEPEST = 20  # brackets within brackets
LONGEST_LINE = 300  # characters of somebody else's error that are repeated
LONGEST_NUMBER = 40  # characters; a float64 takes 25
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # one may stand for another
MEMBERS_LIMIT = 10**6  # files in an archive
DIGEST = "sha256"
"""What the digest is called in a file's metadata."""


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


def digest(content: object) -> str:
    """The sha256 of tensors, numbers and text, in whatever dictionaries and lists; the order of names is no matter.

    Raises ValueError for anything else.
    """
    found = hashlib.sha256()
    for piece in pieces(content):
        found.update(piece)
    return found.hexdigest()


def pieces(content: object) -> Iterator[Any]:
    """The bytes that stand for ``content``, and for nothing else."""
    if isinstance(content, Tensor):
        yield f"{content.dtype} {tuple(content.shape)}\n".encode()
        yield content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(content, dict):
        yield f"dict {len(content)}\n".encode()
        for name in sorted(content, key=repr):
            yield from pieces(name)
            yield from pieces(content[name])
    elif isinstance(content, list | tuple):
        yield f"list {len(content)}\n".encode()
        for item in content:
            yield from pieces(item)
    elif content is None or isinstance(content, bool | int | float | str):
        text = repr(content)
        yield f"{type(content).__name__} {len(text)} {text}\n".encode()
    else:
        raise ValueError(f"it holds a {type(content).__name__}; tensors, numbers and text are allowed")


def sealed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of ``tensors``, with their digest in its metadata."""
    return save(tensors, metadata={DIGEST: digest(tensors)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those that were written; in a file without a digest, who knows.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        with safe_open(path, "pt") as file:
            known = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        unsealed = known.keys() <= {"format"}  # as others write it, and this program did
        if not unsealed and known != {DIGEST: digest(tensors)}:
            raise ValueError("its tensors have not the digest that was written with them")
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    return tensors


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text as torch does, with their digest.  Raises what ``torch.save`` does."""
    torch.save(content | {DIGEST: digest(content)}, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote; in a file without a digest, which an earlier version did, what is there.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        held = check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        check_storages(content, held)
        known = content.pop(DIGEST, None)
        found = None if known is None else digest(content)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is no whole checkpoint ({one_line(error)})") from error
    if found != known:
        raise ValueError(f"{path} is damaged: its content has not the digest that was written with it")
    return content


def check_records(path: Path) -> int:
    """The bytes of tensors in a file that ``torch.save`` wrote.

    Raises ValueError if a record is not as it was written, or is compressed, as torch writes none.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("a record is compressed")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
    return sum(info.file_size for info in infos if "/data/" in info.filename)


def check_storages(content: object, held: int) -> None:
    """Raises ValueError if tensors claim more memory than the ``held`` bytes that the file has for them."""
    sizes: dict[int, int] = {}
    for tensor in tensors_in(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"a tensor is {tensor.layout}, on {tensor.device}")
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has {storage.nbytes():,} bytes")
        sizes[storage.data_ptr()] = storage.nbytes()
    if sum(sizes.values()) > held:
        raise ValueError(f"tensors claim {sum(sizes.values()):,} bytes; it has {held:,}")


def tensors_in(content: object) -> Iterator[Tensor]:
    """All tensors, however deep."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(item)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless ``found`` has the names and shapes of ``expected``, and finite numbers of like kinds."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"missing are {some(missing)}; unexpected are {some(unknown)}")
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype not in (
            tensor.dtype,
            *(FLOATS if tensor.dtype in FLOATS else ()),
        ):
            raise ValueError(
                f"{name} has shape {tuple(other.shape)} of {other.dtype}; {tuple(tensor.shape)} of {tensor.dtype} "
                "is needed"
            )
        if not bool(other.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite")


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
