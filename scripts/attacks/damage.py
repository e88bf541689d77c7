"""How files are damaged: bits and bytes, numbers and names in JSON, headers of arrays, files in archives."""

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

NONSENSE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.0, -0.5, 1.5, 1e308, 1e-320, 2**31, 10**12, 2**70, float("nan"), float("inf"), "",
    "ü", "foo", "../../x", "0", "x" * 2000, [], [0], [[]], [None], [1e308, -1], {}, {"": 0}, {"a": {"a": {}}},
)  # fmt: skip
TOKENS = (
    b"9" * 400,
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b"1e999",
    b"-0",
    b"NaN",
    b"-Infinity",
    b"\xff\xfe",
    b"\x00",
    b"\\ud800",
)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes, with one to four damages as disks, networks and enemies do them."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice((flipped, flipped, flipped, cut, spliced, zeroed, inserted, swapped))(data, chance)
    return data


def flipped(data: bytes, chance: random.Random) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    if changed:
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> bytes:
    """The end is missing, or all of it."""
    return data[: chance.choice((0, 1, len(data) - 1, chance.randint(0, len(data))))]


def spliced(data: bytes, chance: random.Random) -> bytes:
    """A part is somewhere else too."""
    start, at = chance.randint(0, len(data)), chance.randint(0, len(data))
    part = data[start : start + chance.randint(1, 200)]
    return data[:at] + part + data[at + chance.choice((0, len(part))) :]


def zeroed(data: bytes, chance: random.Random) -> bytes:
    """A part is zeros, as a block that was never written."""
    at, size = chance.randint(0, len(data)), chance.choice((1, 8, 64, 512))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def inserted(data: bytes, chance: random.Random) -> bytes:
    """There is something more: random bytes, or what a parser chokes on."""
    at = chance.choice((0, len(data), chance.randint(0, len(data))))
    return data[:at] + chance.choice((*TOKENS, chance.randbytes(chance.randint(1, 50)))) + data[at:]


def swapped(data: bytes, chance: random.Random) -> bytes:
    """A byte is one that means the most or the least."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8) if data else 0):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 127, 128, 255))
    return bytes(changed)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything in nested dictionaries and lists."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(found for key, value in pairs for found in places(value, (*path, key)))]


def changed(content: Any, chance: random.Random, values: tuple[Any, ...] = NONSENSE) -> Any:
    """The same content, in which one to three things are others, missing, or too many; may return its argument."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        *way, last = chance.choice(places(content)[1:] or [(None,)])
        if last is None:
            return chance.choice(values)
        inner = content
        for key in way:
            inner = inner[key]
        what = chance.random()
        if what < 0.2:
            del inner[last]
        elif what < 0.3 and isinstance(inner, dict):
            inner[chance.choice(("foo", "version", "ü", ""))] = inner.pop(last)
        elif what < 0.4 and isinstance(inner[last], int | float) and not isinstance(inner[last], bool):
            inner[last] = inner[last] * chance.choice((-1, 0, 10, 1e6, 10**12))
        else:
            inner[last] = chance.choice(values)
    return content


def json_text(data: bytes, chance: random.Random) -> bytes:
    """JSON of which something has another value; or whose text is damaged."""
    if chance.random() < 0.3:
        return damaged(data, chance)
    return json.dumps(changed(json.loads(data), chance), indent=chance.choice((None, 2))).encode()


def json_lines(data: bytes, chance: random.Random) -> bytes:
    """Rows of JSON, one of which is another."""
    if chance.random() < 0.3:
        return damaged(data, chance)
    rows = data.splitlines()
    number = chance.randrange(len(rows))
    rows[number] = json.dumps(changed(json.loads(rows[number]), chance)).encode()
    return b"\n".join(rows) + chance.choice((b"\n", b""))


def safetensors(data: bytes, chance: random.Random) -> bytes:
    """Weights whose header says something else."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(changed(json.loads(data[8 : 8 + size]), chance)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def array(data: bytes, chance: random.Random) -> bytes:
    """An .npy whose header says something else."""
    if chance.random() < 0.3:
        return damaged(data, chance)
    size = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + size].decode("latin1")
    old = chance.choice(("'descr'", "'|u1'", "False", "200", "8", "(", ")", "'shape'", "{"))
    new = chance.choice(
        (
            "'|O'",
            "'<f8'",
            "'>i4'",
            "'<U9'",
            "'|V7'",
            "True",
            "10000000000000",
            "-1",
            "0",
            "",
            "9" * 400,
            "None",
            "'<M8[ns]'",
        )
    )
    header = header.replace(old, new, 1)
    return data[:8] + len(header).to_bytes(2, "little") + header.encode("latin1") + data[10 + size :]


def in_zip(data: bytes, chance: random.Random, member: Callable[[bytes, random.Random], bytes]) -> bytes:
    """A zip archive, one of whose files is damaged, and its checksum made right."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", chance.choice((0, 8))) as new:
        names = old.namelist()
        chosen = chance.choice(names)
        for name in names:
            content = old.read(name)
            new.writestr(name, member(content, chance) if name == chosen else content)
    return packed.getvalue()


def in_tar(data: bytes, chance: random.Random, member: Callable[[bytes, random.Random], bytes]) -> bytes:
    """A tar archive, one of whose files is damaged."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        infos = [info for info in old if info.isfile()]
        chosen = chance.choice(infos)
        for info in infos:
            stream = old.extractfile(info)
            content = b"" if stream is None else stream.read()
            content = member(content, chance) if info is chosen else content
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def png(data: bytes, chance: random.Random) -> bytes:
    """A PNG, one of whose chunks is damaged and its checksum made right; sizes in the header are absurd, too."""
    if chance.random() < 0.4:
        return damaged(data, chance)
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = chance.randrange(len(chunks))
    kind, body = chunks[number]
    chunks[number] = (kind, damaged(body, chance))
    if kind == b"IHDR" and chance.random() < 0.5:
        chunks[number] = (kind, chance.choice((bytes(4), b"\x7f\xff\xff\xff", b"\x00\x01\x00\x00")) + body[4:])
    text = data[:8]
    for kind, body in chunks:
        text += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
    return text
