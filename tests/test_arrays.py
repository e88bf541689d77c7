"""Arrays that are damaged, or made to do harm: each ends in what was written, or in a ValueError of one line."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ncsn
from ncsn.data import load_images
from ncsn.evaluation import read_samples


def refused(call: Callable[[], object], *, naming: str = "") -> str | None:
    """What a call is refused with, in one line that names the file; None if it succeeds.  Anything else passes on."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message
        assert message.isprintable()
        assert naming in message
        return message
    return None


def flipped(whole: bytes, bit: int) -> bytes:
    content = bytearray(whole)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


PIXELS = np.arange(120 * 4 * 4, dtype=np.uint8).reshape(120, 4, 4)


def an_npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def an_npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(text: str, version: int = 1) -> bytes:
    """An .npy that says anything of itself."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


def npz_with(member: bytes, name: str = "samples.npy") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return buffer.getvalue()


HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-120, 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 400 + ", 4, 4)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (120, 4, 0)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 120}",
    "{'descr': '|u1', 'fortran_order': 3, 'shape': (120, 4, 4)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '|S0', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '|V7', 'fortran_order': False, 'shape': (120, 4, 4)}",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (120,)}",
    "{'descr': '|u1'}",
    "[" * 900,
    "(" * 9000,
    " " * 60_000,
    "import os",
    "",
]


def cases() -> dict[str, bytes]:
    """Files by the name .npz or .npy that are none, or not as they say."""
    data = PIXELS.tobytes()
    whole = an_npz(samples=PIXELS)
    npy = {f"header{i}.npy": header(text) + data for i, text in enumerate(HEADERS)}
    found = npy | {name.replace("npy", "npz"): npz_with(content) for name, content in npy.items()}
    found |= {"version9.npy": header(HEADERS[0], 9), "version2.npy": header(HEADERS[0], 2)}
    found |= {f"empty.{kind}": b"" for kind in ("npy", "npz")}
    found |= {"npy.npz": an_npy(PIXELS), "npz.npy": whole, "cut.npz": whole[:-30], "half.npy": an_npy(PIXELS)[:900]}
    found |= {"longer.npy": an_npy(PIXELS) + b"x", "longer.npz": npz_with(an_npy(PIXELS) + b"x")}
    found |= {"line.npz": npz_with(an_npy(PIXELS), "a\nb.npy"), "none.npz": npz_with(b"", "readme.txt")}
    found |= {"many.npz": an_npz(**{f"a{i}": np.zeros(1) for i in range(1100)})}
    found |= {f"labels{i}.npz": an_npz(x=PIXELS, y=array) for i, array in enumerate(odd_labels())}
    return found


def odd_labels() -> list[Any]:
    n = len(PIXELS)
    return [
        np.full(n, np.inf),
        np.full(n, np.nan),
        np.full(n, 1j),
        np.zeros(n, "M8[s]"),
        np.zeros(n, "V3"),
        np.zeros(n, "U0"),
        np.zeros(n, object),
    ]


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CASES[name])
    said = refused(lambda: load_images(str(path)), naming=name)
    assert said or name.startswith("labels")
    if name.endswith(".npz"):
        assert refused(lambda: read_samples(path), naming=name) or name.startswith("labels")


def test_what_inflates_to_much_is_refused_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files of some kilobytes to megabytes: one that tells the truth, one that lies, and many tiny images."""
    tracemalloc = pytest.importorskip("tracemalloc")
    monkeypatch.setattr(ncsn.machine, "memory", lambda: 2**28)
    shape = "{'descr': '|u1', 'fortran_order': False, 'shape': (10000, 100, 100)}\n"
    bomb, lie, many = tmp_path / "bomb.npz", tmp_path / "lie.npz", tmp_path / "many.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("samples.npy", "w") as member:
        member.write(header(shape))
        member.write(bytes(10**8))
    with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("samples.npy", "w") as member:
        member.write(header(shape.replace("(10000, 100, 100)", "(2000000, 1, 1)")))
        member.write(bytes(2 * 10**6))
    whole = npz_with(header(shape) + bytes(1000))
    size = struct.pack("<I", len(header(shape)) + 1000)
    assert whole.count(size) == 2
    lie.write_bytes(whole.replace(size, struct.pack("<I", len(header(shape)) + 10**8)))
    tracemalloc.start()
    assert "bytes; at most 67,108,864 fit here" in (refused(lambda: read_samples(bomb), naming="bomb.npz") or "")
    assert "cannot hold" in (refused(lambda: read_samples(lie), naming="lie.npz") or "")
    assert "cannot hold" in (refused(lambda: load_images(str(lie)), naming="lie.npz") or "")
    assert "at most 131,072 images" in (refused(lambda: load_images(str(many)), naming="many.npz") or "")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


WHOLE = {
    "x.npz": an_npz(samples=PIXELS),
    "y.npz": an_npz(x=PIXELS, y=np.arange(120) % 3),
    "x.npy": an_npy(PIXELS),
}


@settings(max_examples=50, derandomize=True)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    flips=st.lists(st.floats(0, 1, exclude_max=True), max_size=4),
    cut=st.none() | st.floats(0, 1),
    spliced=st.none() | st.tuples(st.floats(0, 1), st.binary(max_size=40)),
)
def test_arrays_with_other_bytes_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    flips: list[float],
    cut: float | None,
    spliced: tuple[float, bytes] | None,
) -> None:
    content = bytearray(WHOLE[name])
    for place in flips:
        bit = int(place * 8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    if spliced is not None:
        at = int(spliced[0] * len(content))
        content[at : at + len(spliced[1])] = spliced[1]
    if cut is not None:
        del content[int(cut * len(content)) :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    refused(lambda: load_images(str(path)), naming=name)
    if name.endswith(".npz"):
        refused(lambda: read_samples(path), naming=name)


def test_a_bit_that_flips_in_samples_is_seen(tmp_path: Path) -> None:
    path, chance = tmp_path / "x.npz", random.Random(0)
    for _ in range(200):
        path.write_bytes(flipped(WHOLE["x.npz"], chance.randrange(8 * len(WHOLE["x.npz"]))))
        if refused(lambda: read_samples(path), naming="x.npz") is None:
            assert np.array_equal(read_samples(path)[:, 0].numpy(), PIXELS)
