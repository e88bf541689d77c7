"""What a file's pixels mean: transparency, depth, palettes, rotation, sizes; against pixels that are known."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import in_order, packed
from PIL import Image

from ncsn.data import Images, Reading, load_images
from ncsn.data.pixels import BYTES, Depth, picture

CHANCE = np.random.default_rng(0)
BYTE = CHANCE.integers(0, 256, (10, 5, 4, 4)).astype(np.uint8)
WIDE = CHANCE.integers(0, 65536, (10, 5, 4)).astype(np.uint16)
WIDE[0, 0, 0] = 65535
REAL = CHANCE.random((10, 5, 4), np.float32)
Encode = Callable[[int], bytes]


def loaded(folder: Path, encode: Encode, suffix: str = "png", n: int = 10, **reading: object) -> Images:
    """The images of a folder of n files, made by number."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"{i:02d}.{suffix}").write_bytes(encode(i))
    return load_images(str(folder), reading=Reading(**reading))  # type: ignore[arg-type]


def encoder(images: np.ndarray, kind: str = "PNG") -> Encode:
    return lambda i: packed(Image.fromarray(images[i]), kind)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, bits: int, colour: int, rows: np.ndarray) -> bytes:
    """A PNG of some bits a channel, which Pillow cannot write."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255,) * 3), ("black", (0,) * 3), ("#102030", (16, 32, 48))]
)
@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, background: str, colour: tuple[int, ...], channels: int
) -> None:
    pixels = BYTE[..., :channels].copy()
    pixels[3, ..., -1] = 255  # an opaque one, which no background changes
    images = loaded(tmp_path, encoder(pixels), background=background)
    opaque = pixels[..., -1:] / 255
    below = np.array(colour[: 1 if channels == 2 and background[0] != "#" else 3])
    expected = (pixels[..., :-1] * opaque + below * (1 - opaque)).transpose(0, 3, 1, 2)
    found = in_order(images).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert images.said == (f"alpha on {background}: 9 of 10 images",)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    """The left half is transparent, and would be 9; the right one is 200."""
    half = np.where(np.arange(8) < 4, 9, 200).astype(np.uint8) * np.ones((6, 1), np.uint8)
    data = packed(Image.fromarray(half).convert(mode), transparency={"P": 9, "L": 9, "RGB": (9, 9, 9)}[mode])
    images = loaded(tmp_path, lambda _: data)
    assert in_order(images)[0, 0, 0].tolist() == [255] * 4 + [200] * 4
    coloured = load_images(str(tmp_path), reading=Reading(background="#ff0000"))
    assert in_order(coloured)[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("bits", [16, 12])
def test_deep_images_keep_every_bit_and_end_at_a_power_of_two(tmp_path: Path, bits: int) -> None:
    wide = WIDE >> (16 - bits)
    images = loaded(tmp_path, encoder(wide))
    assert images.depth == Depth("uint16", 0, 2**bits)
    assert (images.depth.restored(in_order(images))[:, 0] == wide).all()


@pytest.mark.parametrize(
    ("scale", "shift", "depth"),
    [
        (1, 0, Depth("float32", 0, 1)),
        (4000, -1000, None),
        (0, 0.5, Depth("float32", 0, 1)),
        (0, 7, Depth("float32", 7, 8)),
    ],
)
def test_floats_are_in_the_unit_interval_or_have_the_range_of_the_data(
    tmp_path: Path, scale: float, shift: float, depth: Depth | None
) -> None:
    real = (scale * REAL + shift).astype(np.float32)
    images = loaded(tmp_path, encoder(real, "TIFF"), "TIFF")
    assert images.depth == (depth or Depth("float32", float(real.min()), float(real.max())))
    assert np.allclose(images.depth.restored(in_order(images))[:, 0], real, atol=1e-3)
    assert bool(images.said) == (images.depth.high != 1)


def test_bytes_among_deep_images_keep_their_meaning(tmp_path: Path) -> None:
    images = loaded(tmp_path, lambda i: encoder(BYTE[..., 0] if i == 3 else WIDE >> 4)(i))
    found = in_order(images)[:, 0]
    assert torch.allclose(found[3], torch.from_numpy(BYTE[3, ..., 0] / np.float32(255)))
    assert torch.equal(found[4], torch.from_numpy((WIDE[4] >> 4) / np.float32(4096)))
    with pytest.raises(ValueError, match=r"images of uint16 and of float32 have no scale in common"):
        loaded(tmp_path / "x", lambda i: packed(Image.fromarray(REAL[i] if i else WIDE[0]), "TIFF"), "tif")


ROWS = 257 * (np.arange(10)[:, None] + np.arange(36)).astype(">u2").reshape(10, 2, 18)
GREY = BYTE[..., :1]
ORANGE = Image.new("CMYK", (4, 5), (0, 128, 255, 0))


def palette(i: int) -> bytes:
    image = Image.fromarray(BYTE[i, ..., 0] // 128).convert("P")
    image.putpalette([1, 2, 3, 200, 100, 50])
    return packed(image, "GIF")


def frames(i: int) -> bytes:
    first, second = (Image.fromarray(BYTE[k, ..., 0]) for k in (i, i - 1))
    return packed(first, "GIF", save_all=True, append_images=[second])


def some_grey(i: int) -> bytes:
    return packed(Image.fromarray(BYTE[i, ..., :3] if i == 3 else BYTE[i, ..., 0]))


# The suffix, the files, their pixels (n, h, w, c), by how much they may differ, and what is said.
KINDS: dict[str, tuple[str, Encode, np.ndarray, int, str]] = {
    "bits": ("png", lambda i: packed(Image.fromarray(BYTE[i, ..., 0] > 99)), 255 * (GREY > 99), 0, ""),
    "palette": ("gif", palette, np.where(GREY > 127, [200, 100, 50], [1, 2, 3]), 0, ""),
    "frames": ("gif", frames, GREY, 0, "first frames only: 10 of 10 images"),
    "equal channels": ("png", encoder(GREY.repeat(3, 3)), GREY, 0, ""),
    "some grey": ("png", some_grey, np.where(np.arange(10)[:, None, None, None] == 3, BYTE[..., :3], GREY), 0, ""),
    "CMYK": ("tif", lambda _: packed(ORANGE, "TIFF"), np.full((10, 5, 4, 3), [255, 127, 0]), 3, "CMYK as RGB: 10"),
    "CMYK by Adobe": ("jpg", lambda _: packed(ORANGE, "JPEG"), np.full((10, 5, 4, 3), [255, 127, 0]), 3, "CMYK as"),
    "PPM": (
        "ppm",
        lambda i: b"P6 6 2 65535\n" + ROWS[i].tobytes(),
        ROWS.reshape(10, 2, 6, 3) // 257,
        1,
        "8 of 16 bits: 10",
    ),
    "PNG": ("png", lambda i: png_of(6, 2, 16, 2, ROWS[i]), ROWS.reshape(10, 2, 6, 3) // 257, 1, "8 of 16 bits: 10"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    suffix, encode, expected, difference, said = KINDS[kind]
    images = loaded(tmp_path, encode, suffix)
    assert images.depth == BYTES
    assert images.train.shape[1:] == expected.transpose(0, 3, 1, 2).shape[1:]
    assert np.abs(in_order(images).numpy() - expected.transpose(0, 3, 1, 2).astype(float)).max() <= difference
    assert len(images.said) == bool(said)
    assert "".join(images.said).startswith(said)


TURN = Image.Transpose
TURNS = [TURN.FLIP_LEFT_RIGHT, TURN.ROTATE_180, TURN.FLIP_TOP_BOTTOM, TURN.TRANSPOSE]
TURNS += [TURN.ROTATE_90, TURN.TRANSVERSE, TURN.ROTATE_270]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(("upright", "kind"), [(BYTE[..., 0], "png"), (WIDE, "png"), (WIDE, "tiff")])
def test_exif_turns_images(tmp_path: Path, orientation: int, upright: np.ndarray, kind: str) -> None:
    """Value k of EXIF's orientation, undone."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = [np.asarray(Image.fromarray(one).transpose(TURNS[orientation - 2])) for one in upright]
    images = loaded(tmp_path, lambda i: packed(Image.fromarray(turned[i]), kind, exif=exif), kind)
    found = in_order(images)[:, 0]
    assert (found.numpy() if images.depth == BYTES else images.depth.restored(found)).tolist() == upright.tolist()
    assert "turned by EXIF: 10 of 10 images" in images.said


Fit = Literal["crop", "stretch"]


def refitted(pixels: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    return picture(lambda: pixels, Reading(size=f"{size[0]}x{size[1]}", fit=fit)).pixels


@given(*[st.integers(1, 40)] * 4, st.sampled_from(["crop", "stretch"]), st.sampled_from(["u1", "u2", "f4"]))
def test_a_constant_stays_constant_in_any_size(h: int, w: int, r: int, s: int, fit: Fit, dtype: str) -> None:
    found = refitted(np.full((h, w, 2), 77, dtype), (r, s), fit)
    assert found.shape == (r, s, 2)
    assert np.allclose(found, 77, rtol=1e-6)


def test_fitting_crops_the_middle_and_stretches() -> None:
    pixels = np.zeros((10, 30, 1), np.uint8)
    pixels[:, 10:20] = 200
    assert (refitted(pixels, (10, 10), "crop") == 200).all()
    assert refitted(pixels, (10, 15), "stretch")[5, [0, 7, 14], 0].tolist() == pytest.approx([0, 200, 0], abs=2)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 200), (np.float32, 5.0)])
def test_fine_stripes_become_grey_and_overshoot_nowhere(dtype: type[np.generic], top: float) -> None:
    """Anti-aliasing: stripes of one pixel, shrunk eight times, are their mean; every eighth pixel would be black."""
    stripes = np.zeros((64, 64, 1), dtype)
    stripes[:, ::2] = top
    assert np.abs(refitted(stripes, (8, 8), "stretch")[2:-2, 2:-2] / top - 0.5).max() < 0.02
    enlarged = refitted(stripes, (64, 150), "stretch")
    assert 0 <= enlarged.min() < enlarged.max() <= max(top, 255 * (dtype == np.uint8))


def test_a_size_that_is_asked_for_or_else_needed(tmp_path: Path) -> None:
    sides = [(10, 5) if i < 3 else (40, 20) for i in range(10)]
    with pytest.raises(ValueError, match=r"images have 2 sizes .* 20 x 40 \(7\), 5 x 10 \(3\); give --size"):
        loaded(tmp_path, lambda i: packed(Image.new("L", sides[i], 10 * i)))
    images = load_images(str(tmp_path), reading=Reading(size="5x10"))
    assert images.shape == (1, 5, 10)
    assert in_order(images)[:, 0, 4, 4].tolist() == [10 * i for i in range(10)]
    assert images.said == ("crop to 5 x 10: 7 of 10 images",)


def test_decompression_bombs_and_programs_are_no_images(tmp_path: Path) -> None:
    """Pillow refuses the first; PostScript with the suffix of an image is not handed to an interpreter."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "EPS")
    odd = {3: png_of(60_000, 60_000, 8, 0, WIDE[0]), 4: buffer.getvalue()}
    with pytest.raises(ValueError, match=r"2 of 12: .*03\.png \(Image size .*04\.png \(cannot identify"):
        loaded(tmp_path, lambda i: odd.get(i) or encoder(BYTE)(i % 10), n=12, max_broken=1)
