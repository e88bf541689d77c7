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
from ncsn.data.pixels import BYTES, Depth
from ncsn.data.sources import picture

CHANCE = np.random.default_rng(0)
BYTE = CHANCE.integers(0, 256, (10, 5, 4, 4)).astype(np.uint8)
WIDE = CHANCE.integers(0, 65536, (10, 5, 4, 4)).astype(np.uint16)
WIDE[0, 0, 0] = 65535
REAL = CHANCE.random((10, 5, 4), np.float32)


def loaded(folder: Path, encode: Callable[[int], bytes], suffix: str = "png", n: int = 10, **reading: object) -> Images:
    """The images of a folder of n files, made by number."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"{i:02d}.{suffix}").write_bytes(encode(i))
    return load_images(str(folder), reading=Reading(**reading))  # type: ignore[arg-type]


def encoder(images: np.ndarray, kind: str = "PNG") -> Callable[[int], bytes]:
    return lambda i: packed(Image.fromarray(images[i]), kind)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel (h, w, c), which Pillow cannot write in colour."""
    h, w, c = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, {1: 0, 3: 2, 2: 4, 4: 6}[c], 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255,) * 3), ("black", (0,) * 3), ("#102030", (16, 32, 48))]
)
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("deep", [False, True])
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, background: str, colour: tuple[int, ...], channels: int, deep: bool
) -> None:
    given_ = (WIDE if deep else BYTE)[..., :channels].copy()
    given_[3, ..., -1] = 65535 if deep else 255  # an opaque one, which no background changes
    encode = (lambda i: deep_png(given_[i])) if deep else encoder(given_)
    images = loaded(tmp_path, encode, background=background)
    top = 65535 if deep else 255
    opaque = given_[..., -1:] / top
    below = np.array(colour[: 1 if channels == 2 and background[0] != "#" else 3]) * (top // 255)
    expected = (given_[..., :-1] * opaque + below * (1 - opaque)).transpose(0, 3, 1, 2)
    found = images.depth.restored(in_order(images)) if deep else in_order(images).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert f"alpha on {background}: 9 of 10 images" in images.said
    assert f"alpha on {background}, " in images.describe()


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "1"])
def test_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    """The left half is transparent, and would be 9, or black; the right one is 200, or white."""
    half = np.where(np.arange(8) < 4, 9, 200).astype(np.uint8) * np.ones((6, 1), np.uint8)
    image = Image.fromarray(half)
    if mode == "P":
        image = Image.fromarray((half == 200).astype(np.uint8)).convert("P")
        image.putpalette([9, 9, 9, 200, 200, 200])
    elif mode == "1":
        image = image.point(lambda v: 255 * (v > 100)).convert("1")
    else:
        image = image.convert(mode)
    data = packed(image, transparency={"P": 0, "L": 9, "RGB": (9, 9, 9), "1": 0}[mode])
    images = loaded(tmp_path, lambda _: data)
    assert in_order(images)[0, 0, 0].tolist() == [255] * 4 + [255 if mode == "1" else 200] * 4
    coloured = load_images(str(tmp_path), reading=Reading(background="#ff0000"))
    assert in_order(coloured)[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (3, 16), (1, 12), (3, 10)])
def test_deep_pngs_keep_every_bit_and_end_at_a_power_of_two(tmp_path: Path, channels: int, bits: int) -> None:
    wide = WIDE[..., :channels] >> (16 - bits)
    images = loaded(tmp_path, lambda i: deep_png(wide[i]))
    assert images.depth == Depth("uint16", 0, 2**bits)
    assert (images.depth.restored(in_order(images)) == wide.transpose(0, 3, 1, 2)).all()


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
    images = loaded(tmp_path, lambda i: encoder(BYTE[..., 0] if i == 3 else WIDE[..., 0] >> 4)(i))
    found = in_order(images)[:, 0]
    assert torch.allclose(found[3], torch.from_numpy(BYTE[3, ..., 0] / np.float32(255)))
    assert torch.equal(found[4], torch.from_numpy((WIDE[4, ..., 0] >> 4) / np.float32(4096)))


def test_integers_and_floats_have_no_common_scale(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images of uint16 and of float32 have no scale in common"):
        loaded(tmp_path, lambda i: packed(Image.fromarray(REAL[i] if i else WIDE[0, ..., 0]), "TIFF"), "tif")


def test_cmyk(tmp_path: Path) -> None:
    """Orange, without and with Adobe's inversion, which Pillow writes into JPEGs."""
    orange = Image.new("CMYK", (8, 8), (0, 128, 255, 0))
    images = loaded(tmp_path, lambda i: packed(orange, ("jpeg", "tiff")[i % 2]))
    for image in in_order(images):
        assert image[:, 4, 4].tolist() == pytest.approx([255, 127, 0], abs=3)


def test_palettes_one_bit_and_frames(tmp_path: Path) -> None:
    palette = Image.fromarray(np.eye(4, 6, dtype=np.uint8)).convert("P")
    palette.putpalette([1, 2, 3, 200, 100, 50])
    coloured = in_order(loaded(tmp_path / "palette", lambda _: packed(palette, "GIF"), "gif"))
    assert coloured[0, :, 0, :2].T.tolist() == [[200, 100, 50], [1, 2, 3]]
    one_bit = loaded(tmp_path / "bits", lambda i: packed(Image.fromarray(BYTE[i, ..., 0] > 99)))
    assert torch.equal(in_order(one_bit)[:, 0], torch.from_numpy(255 * (BYTE[..., 0] > 99).astype(np.uint8)))
    assert (one_bit.depth, one_bit.said) == (BYTES, ())
    grey = [Image.fromarray(image[..., 0]) for image in BYTE]
    frames = loaded(
        tmp_path / "gif", lambda i: packed(grey[i], "GIF", save_all=True, append_images=[grey[i - 1]]), "gif"
    )
    assert torch.equal(in_order(frames)[:, 0], torch.from_numpy(BYTE[..., 0]))
    assert frames.said == ("first frames only: 10 of 10 images", "as grey: 10 of 10 images")


TURN = Image.Transpose
TURNS = [
    TURN.FLIP_LEFT_RIGHT,
    TURN.ROTATE_180,
    TURN.FLIP_TOP_BOTTOM,
    TURN.TRANSPOSE,
    TURN.ROTATE_90,
    TURN.TRANSVERSE,
    TURN.ROTATE_270,
]


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_exif_turns_images(tmp_path: Path, orientation: int, deep: bool, kind: str) -> None:
    """Value k of EXIF's orientation, undone."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = (WIDE if deep else BYTE)[..., 0]
    turned = [np.asarray(Image.fromarray(one).transpose(TURNS[orientation - 2])) for one in upright]
    images = loaded(tmp_path, lambda i: packed(Image.fromarray(turned[i]), kind, exif=exif), kind)
    found = in_order(images)[:, 0]
    assert (images.depth.restored(found) if deep else found.numpy()).tolist() == upright.tolist()
    assert "turned by EXIF: 10 of 10 images" in images.said


@pytest.mark.parametrize("coloured", [0, 1, 10])
def test_grey_is_what_all_images_are(tmp_path: Path, coloured: int) -> None:
    grey = BYTE[..., :1].repeat(3, 3)
    images = loaded(tmp_path, lambda i: encoder(BYTE[..., :3] if i < coloured else grey if i % 2 else BYTE[..., 0])(i))
    expected = np.concatenate([BYTE[:coloured, ..., :3], grey[coloured:]])[..., : 3 if coloured else 1]
    assert torch.equal(in_order(images), torch.from_numpy(expected.transpose(0, 3, 1, 2)))


Fit = Literal["crop", "pad", "stretch"]


def refitted(pixels: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    return picture(pixels, Reading(fit=fit), size).pixels


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
    images = load_images(str(tmp_path), reading=Reading(size="8x12"))
    assert images.shape == (1, 8, 12)
    assert in_order(images)[:, 0, 4, 4].tolist() == [10 * i for i in range(10)]
    assert images.said == ("crop to 8 x 12: 10 of 10 images", "enlarged: 3 of 10 images")


def ppm_of_16_bits(i: int) -> bytes:
    return b"P6 3 2 65535\n" + (1000 * i + np.arange(18)).astype(">u2").tobytes()


def half_grey(i: int) -> bytes:
    return packed(Image.new("L", (3, 2), 9 * i) if i % 2 else Image.new("RGB", (3, 2), (i, 2 * i, 90)))


@pytest.mark.parametrize(
    ("content", "suffix", "line"),
    [
        (ppm_of_16_bits, "ppm", "8 of 16 bits: 10 of 10 images"),
        (lambda i: packed(Image.new("CMYK", (3, 2), (i, 9 * i, 0, 50)), "TIFF"), "tif", "CMYK as RGB: 10 of 10 images"),
        (half_grey, "png", "grey as RGB: 5 of 10 images"),
    ],
)
def test_no_conversion_is_silent(tmp_path: Path, content: Callable[[int], bytes], suffix: str, line: str) -> None:
    assert line in loaded(tmp_path, content, suffix).said


@pytest.mark.parametrize("deep", [False, True])
def test_padding_is_of_the_background_at_any_depth(tmp_path: Path, deep: bool) -> None:
    wide = (WIDE[:, :4, :, :2] >> 4).reshape(10, 4, 8) if deep else BYTE[:, :4, :, :2].reshape(10, 4, 8)
    images = loaded(tmp_path, encoder(wide), size="8", fit="pad", background="#336699")
    full, step = (1.0, 4096) if deep else (255, 1)
    found = in_order(images).double()
    assert found[3, :, 0, 0].tolist() == pytest.approx([full * v / 255 for v in (0x33, 0x66, 0x99)])
    assert torch.equal(found[:, :, 2:6], torch.from_numpy(wide / step)[:, None].expand(10, 3, 4, 8))
    grey = load_images(str(tmp_path), reading=Reading(size="8", fit="pad"))
    assert grey.shape == (1, 8, 8)
    assert float(in_order(grey)[0, 0, 7, 0]) == full


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_decompression_bombs(tmp_path: Path, side: int) -> None:
    """Pillow warns of the first, and refuses the second; neither is decoded."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(ValueError, match=r"1 of 12: .*03\.png \(Image size .* exceeds"):
        loaded(tmp_path, lambda i: bomb if i == 3 else encoder(BYTE)(i % 10), n=12)
    assert load_images(str(tmp_path), reading=Reading(max_broken=1)).shape == (3, 5, 4)


def test_programs_are_no_images(tmp_path: Path) -> None:
    """PostScript with the suffix of an image is not handed to an interpreter."""
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "EPS")
    with pytest.raises(ValueError, match=r"04\.png \(no image that Pillow knows\)"):
        loaded(tmp_path, lambda i: buffer.getvalue() if i == 4 else encoder(BYTE)(i))
