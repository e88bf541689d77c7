"""Bytes and reals, batches, MNIST, single images, what a file's pixels mean, and where a run finds its images again."""

import hashlib
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers import Printed, command, refused, unchecked
from hypothesis import given
from hypothesis import strategies as st
from learning import TINY
from pictures import PARTS, contents, in_order, packed, values, write
from PIL import Image

import ncsn
from ncsn.batching import batches, centres, dequantize, quantize
from ncsn.data.dataset import Dataset, Labels
from ncsn.data.transforms import Depth
from ncsn.images import Images, read_example
from ncsn.loading import load_dataset
from ncsn.settings import Reading

BYTES = Depth()


def depth_of(images: Dataset) -> Depth:
    """The range of the pixels in the files."""
    assert isinstance(images.transform, Depth)
    return images.transform


@given(st.integers(0, 2**31))
def test_quantize_inverts_dequantize_and_centres(seed: int) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(20)
    x = dequantize(pixels, generator=torch.Generator().manual_seed(seed))
    assert 0 <= float(x.min()) <= float(x.max()) < 1
    assert torch.equal(quantize(x), pixels)
    assert torch.equal(256 * centres(pixels), pixels + 0.5)
    assert quantize(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("depth", "restored"),
    [
        (BYTES, [0, 128, 255, 255]),
        (Depth("uint16", 0, 4096), [0, 2048, 4095, 4095]),
        (Depth("int16", -1000, 3001), [-1000, 1000, 3000, 3000]),
        (Depth("float64", -10, 10), [-30, 0, 20, 1970]),
        (Depth("int64", -(2.0**40), 2.0**40), [-(2**40), 0, 2**40 - 1, 2**40 - 1]),
        (Depth("uint64", 0, 2.0**64), [0, 2**63, 2**64 - 2**11, 2**64 - 2**11]),  # the largest float below 2⁶⁴
    ],
)
def test_a_depth_restores_levels_and_clips_integers_alone(depth: Depth, restored: list[int]) -> None:
    found = depth.stored(torch.tensor([-1.0, 0.5, 1.5, 99.0]))
    assert found.dtype == depth.dtype
    assert found.tolist() == restored
    if depth.low < 0 < depth.high < 10_000 and depth.dtype != "float64":
        levels = torch.arange(depth.low, depth.high)
        assert depth.stored((levels - depth.low) / (depth.high - depth.low)).tolist() == levels.tolist()


def test_images_describe_themselves() -> None:
    pixels = torch.zeros(7, 3, 4, 5, dtype=torch.uint8)
    both = torch.tensor([0, 1])
    labels = Labels(train=torch.tensor([0, 1, 1]), validation=both, test=both, names=("cat", "dog"))
    images = Images(pixels[:3], pixels[:2], pixels[:2], labels, notes=("alpha on white: 2 of 7 images",))
    line = "7 images, 4 × 5, RGB, alpha on white, 2 classes (cat, dog); 3 / 2 / 2 for training, validation, test"
    assert images.describe() == line
    assert labels.shares == {"cat": pytest.approx(1 / 3), "dog": pytest.approx(2 / 3)}
    assert "70,000 images, 28 × 28, grey, 10 classes; 50,000 /" in load_dataset("mnist").describe()


def test_statistics_are_those_of_the_dequantised_pixels(generator: torch.Generator) -> None:
    x = torch.rand(30_000, 2, 20, 15, generator=generator)  # several chunks
    bytes_ = (255 * x).to(torch.uint8)
    for data, real in ((x, x), (bytes_, (bytes_ + 0.5) / 256)):
        mean, std = Images(data, data[:1], data[:1]).statistics
        assert mean == pytest.approx(float(real.double().mean()), abs=1e-6)
        assert std == pytest.approx(float(real.double().std(correction=0)), abs=1e-6)


def test_a_batch_has_the_class_of_each_example_and_draws_nothing_else(generator: torch.Generator) -> None:
    """The class is written into the example: 10 times it, in whatever order they come."""
    labels, twin = torch.arange(50) % 7, generator.clone_state()
    batch = next(batches(10.0 * labels[:, None], 40, labels, generator=generator))
    assert batch.label is not None
    assert torch.equal(batch.x[:, 0], 10.0 * batch.label)
    assert torch.equal(batch.label, labels[torch.randint(50, (40,), generator=twin)])
    assert torch.equal(generator.get_state(), twin.get_state())


def test_half_of_a_batch_is_mirrored(generator: torch.Generator) -> None:
    data = torch.arange(6.0).view(1, 1, 2, 3)
    x = next(batches(data, 1000, flip=True, generator=generator)).x
    mirrored = (x == data.flip(-1)).flatten(1).all(1)
    assert torch.equal(~mirrored, (x == data).flatten(1).all(1))
    assert int(mirrored.sum()) == pytest.approx(500, abs=5 * 16)


SIZES = ("0", "64x", "x64", "-3", "64x0", "big", "12345", "6 4", "٣٢")
NO_COLOURS = ("reddish", "12345", "#12345g", "#ff800080", "#f808", "")
ENDLESS, SIGNALS = ((1.0, 0.0), (2.0, 2.0), (0.0, np.inf), (-1e308, 1e308)), Reading(signals=True)


def test_what_reading_allows() -> None:
    assert [Reading(size=size).pixels() for size in (None, "64", "48x64")] == [None, (64, 64), (48, 64)]
    assert Reading(background="#Ff8000").colour() == (255, 128, 0)
    wrong: list[tuple[Callable[[], object], str]] = [
        *((partial(Reading, background=colour), f"background is {colour!r}") for colour in NO_COLOURS),
        *((partial(Reading, size=size), "size is ") for size in SIZES),
        (partial(Reading, max_broken=-1), "max_broken is"),
        (partial(Reading, size=8), "size is 8"),  # type: ignore[arg-type]
        (partial(load_dataset, "mnist", reading=None), "reading is None"),  # type: ignore[arg-type]
        (partial(load_dataset, np.zeros((20, 4, 4))), "name is array"),  # type: ignore[arg-type]
        *((partial(Depth, "float32", *ends), "depth is 'float32' from") for ends in ENDLESS),
        (partial(load_dataset, "mnist", reading=Reading(size="14")), "size is 14"),
        *((partial(load_dataset, place, reading=SIGNALS), "signals is given") for place in ("mnist", __file__)),
    ]
    with unchecked():
        assert all(message in refused(call) for call, message in wrong)


def test_mnist_is_split_50_10_10_with_labels() -> None:
    images = load_dataset("mnist")
    assert [len(getattr(images, part)) for part in PARTS] == [10_000, 10_000, 50_000]
    whole = torch.cat([images.train, images.validation, images.test]).numpy().tobytes()
    assert images.digest == hashlib.sha256(whole).hexdigest()
    assert images.labels is not None
    assert images.labels.train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert images.labels.test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert ncsn.load("mnist", device="cpu").data().digest == images.digest


# One image


def test_examples_by_index() -> None:
    for part in (torch.rand(4, 2, 5, 5), torch.arange(40, dtype=torch.uint8).view(4, 2, 5, 1)):
        images = Images(part[:1], part[1:2], part)
        expected = centres(part[2]) if part.dtype == torch.uint8 else part[2]
        assert torch.equal(read_example("2", images.shape, images, Reading(), BYTES), expected)
    assert "input is 4; the test images are 0 to 3" in refused(
        lambda: read_example("4", images.shape, images, Reading(), BYTES)
    )


def test_examples_from_files(tmp_path: Path, capsys: Printed) -> None:
    def read(name: str, shape: tuple[int, ...], depth: Depth = BYTES, *, fit: bool = True) -> np.ndarray:
        # The size that the run's own images were read in is not asked for.
        return read_example(str(tmp_path / name), shape, None, Reading(size="7"), depth, fit=fit).numpy()

    values = np.arange(500, 1000, 25).reshape(5, 4)
    halves = np.array([[10, 60, 30]] * 20 + [[200, 0, 90]] * 20, np.uint8) * np.ones((20, 1, 1), np.uint8)
    for name, pixels, kind in (
        ("deep.png", values.astype(np.uint16), "PNG"),
        ("bytes.png", (values // 4).astype(np.uint8), "PNG"),
        ("floats.tiff", values.astype(np.float32), "TIFF"),
        ("wide.png", halves, "PNG"),
    ):
        (tmp_path / name).write_bytes(packed(Image.fromarray(pixels), kind))
    twelve = Depth("uint16", 0, 4096)
    assert (read("bytes.png", (1, 5, 4)) == (values // 4 + 0.5) / 256).all()
    assert (read("bytes.png", (3, 5, 4))[2] == (values // 4 + 0.5) / 256).all()
    assert (read("deep.png", (1, 5, 4)) == values / 1024).all()
    assert (read("deep.png", (1, 5, 4), twelve) == values / 4096).all()
    assert (read("bytes.png", (1, 5, 4), twelve) == (values // 4).astype(np.float32) / 255).all()
    assert capsys.readouterr().err == ""
    read("floats.tiff", (1, 5, 4), Depth("float32", 0, 1000))
    assert capsys.readouterr().err == ""
    assert read("floats.tiff", (1, 5, 4)).max() == 1
    assert "500 to 975 become 0 to 1" in capsys.readouterr().err
    luma = (42.5, 70.5)  # 0.299 · 10 + 0.587 · 60 + 0.114 · 30, and of the other half
    assert tuple(256 * read("wide.png", (1, 30, 40))[0, 15, [0, -1]]) == luma
    assert tuple(256 * read("wide.png", (1, 20, 40), fit=False)[0, 15, [0, -1]]) == luma
    assert "wide.png: converted to grey, crop to 30 x 40\n" in capsys.readouterr().err
    for name, shape, depth, why in (
        ("wide.png", (4, 20, 40), BYTES, r"has shape \(3, 20, 40\)"),
        ("wide.png", (3, 30, 30), BYTES, r"has shape \(3, 20, 40\)"),
        ("absent.png", (1, 30, 30), BYTES, r"absent\.png"),
        ("deep.png", (1, 5, 4), Depth("float32", 0, 1), "no common scale$"),
        ("floats.tiff", (1, 5, 4), twelve, "no common scale$"),
    ):
        with pytest.raises(ValueError, match=why):
            read(name, shape, depth, fit=False)


# Where a run's images are


def test_images_are_found_where_they_were_and_are_now(here: Path) -> None:
    write(here / "here", {f"{i}.png": i for i in range(30)})
    images = load_dataset("here", reading=Reading(size="4", fit="stretch"))
    command(f"train here --size 4 --fit stretch --out run --steps 1 {TINY}")
    run = ncsn.load("run", device="cpu")
    assert run.origin is not None
    assert (run.origin.dataset, run.origin.split) == (str(here / "here"), (24, 3, 3))
    assert contents(run.data()) == contents(images)
    shutil.move("here", "there")
    with pytest.raises(ValueError, match=r"no longer at .*here; .*--data"):
        run.data()
    assert torch.equal(run.data("there").test, images.test)
    other = write(here / "other", {f"{i}.png": i + 1 for i in range(30)})
    cropped = replace(run, origin=replace(run.origin, reading=Reading(size="4")))
    for wrong, place in ((run, other), (cropped, "there")):
        with pytest.raises(ValueError, match="does not hold the data"):
            wrong.data(place)


# What a file's pixels mean

CHANCE = np.random.default_rng(0)
BYTE = CHANCE.integers(0, 256, (10, 5, 4, 4)).astype(np.uint8)
WIDE = CHANCE.integers(0, 65536, (10, 5, 4)).astype(np.uint16)
WIDE[0, 0, 0] = 65535
REAL = CHANCE.random((10, 5, 4), np.float32)
Encode = Callable[[int], bytes]


def loaded(folder: Path, encode: Encode, suffix: str = "png", n: int = 10, **reading: object) -> Dataset:
    """The images of a folder of n files, made by number."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        (folder / f"{i:02d}.{suffix}").write_bytes(encode(i))
    return load_dataset(str(folder), reading=Reading(**reading))  # type: ignore[arg-type]


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
    ("background", "colour"), [("white", [255] * 3), ("black", [0] * 3), ("#102030", [16, 32, 48])]
)
@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_shows_the_background(tmp_path: Path, background: str, colour: list[int], channels: int) -> None:
    pixels = BYTE[..., :channels].copy()
    pixels[3, ..., -1] = 255  # an opaque one, which no background changes
    images = loaded(tmp_path, encoder(pixels), background=background)
    opaque = pixels[..., -1:] / 255
    below = np.array(colour[: 1 if channels == 2 and background[0] != "#" else 3])
    expected = (pixels[..., :-1] * opaque + below * (1 - opaque)).transpose(0, 3, 1, 2)
    found = in_order(images).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1
    assert images.notes == (f"alpha on {background}: 9 of 10 images",)


def test_transparency_is_kept_as_a_fourth_channel(tmp_path: Path) -> None:
    """Of images in colour and in grey, of opaque ones, and of resized ones, whose hidden colours stay hidden."""
    pixels = BYTE[..., :4].copy()
    pixels[:, :2, :, 3] = 0
    modes = {3: BYTE[3, ..., :3], 4: BYTE[4, ..., 0], 5: BYTE[5, ..., :2]}

    def encode(i: int) -> bytes:
        return packed(Image.fromarray(modes.get(i, pixels[i])))

    images = loaded(tmp_path, encode, transparent=True)
    found = in_order(images).permute(0, 2, 3, 1).numpy()
    hidden = pixels[..., 3:] == 0
    for i, expected in enumerate(np.where(hidden, 0, pixels)):
        if i not in modes:
            assert (found[i] == expected).all()
    np.save(tmp_path / "x.npy", pixels)
    assert (in_order(load_dataset(str(tmp_path / "x.npy"))).permute(0, 2, 3, 1).numpy()[:, :2] == 0).all(), "arrays"
    opaque = np.full((5, 4, 1), 255)
    assert (found[3] == np.concatenate([modes[3], opaque], 2)).all()
    assert (found[4] == np.concatenate([modes[4][..., None].repeat(3, 2), opaque], 2)).all()
    assert (found[5, ..., 3] == modes[5][..., 1]).all()
    assert images.describe().startswith("10 images, 5 × 4, RGBA, no classes")
    red = np.full((8, 8, 4), [255, 0, 0, 255], np.uint8)
    red[:, :4] = [0, 255, 0, 0]
    halves = loaded(
        tmp_path / "halves", lambda i: packed(Image.fromarray(red)), size="6x4", fit="pad", transparent=True
    )
    assert (halves.train[:, :, [0, -1]] == 0).all(), "padding is transparent"
    middle = halves.train[0, :, 1:-1]
    assert (middle[1] == 0).all(), "no green shines through"
    assert set(middle[0][middle[3] > 0].tolist()) == {255}
    with pytest.raises(ValueError, match=r"10 of 10: .*more than 8 bits"):
        loaded(tmp_path / "deep", encoder(WIDE), transparent=True)


@pytest.mark.parametrize(
    ("scale", "shift", "ends"), [(1, 0, (0, 1)), (4000, -1000, None), (0, 0.5, (0, 1)), (0, 7, (7, 8))]
)
def test_floats_are_in_the_unit_interval_or_have_the_range_of_the_data(
    tmp_path: Path, scale: float, shift: float, ends: tuple[float, float] | None
) -> None:
    real = (scale * REAL + shift).astype(np.float32)
    images = loaded(tmp_path, encoder(real, "TIFF"), "TIFF")
    assert images.transform == Depth("float32", *(ends or (float(np.min(real)), float(np.max(real)))))
    assert np.allclose(depth_of(images).stored(in_order(images))[:, 0], real, atol=1e-3)
    assert bool(images.notes) == (depth_of(images).high != 1)


def test_bytes_among_deep_images_keep_their_meaning(tmp_path: Path) -> None:
    images = loaded(tmp_path, lambda i: encoder(BYTE[..., 0] if i == 3 else WIDE >> 4)(i))
    found = in_order(images)[:, 0]
    assert torch.allclose(found[3], torch.from_numpy(BYTE[3, ..., 0] / np.float32(255)))
    assert torch.equal(found[4], torch.from_numpy((WIDE[4] >> 4) / np.float32(4096)))
    with pytest.raises(ValueError, match=r"images of uint16 and float32 have no common scale"):
        loaded(tmp_path / "x", lambda i: packed(Image.fromarray(REAL[i] if i else WIDE[0]), "TIFF"), "tif")


ROWS = 257 * (np.arange(10)[:, None] + np.arange(36)).astype(">u2").reshape(10, 2, 18)
NARROWED = ROWS.reshape(10, 2, 6, 3) // 257, 1, "8 of 16 bits: 10"
GREY = BYTE[..., :1]
ORANGE = Image.new("CMYK", (4, 5), (0, 128, 255, 0))


def palette(i: int) -> bytes:
    image = Image.fromarray(BYTE[i, ..., 0] // 128).convert("P")
    image.putpalette([1, 2, 3, 200, 100, 50])
    return packed(image, "GIF")


def frames(i: int) -> bytes:
    first, second = (Image.fromarray(BYTE[k, ..., 0]) for k in (i, i - 1))
    return packed(first, "GIF", save_all=True, append_images=[second])


def one_transparent(i: int) -> bytes:
    return packed(Image.fromarray(BYTE[i, ..., 0]), transparency=int(BYTE[0, 0, 0, 0]))


def some_grey(i: int) -> bytes:
    return packed(Image.fromarray(BYTE[i, ..., :3] if i == 3 else BYTE[i, ..., 0]))


# The suffix, the files, their pixels (n, h, w, c), by how much they may differ, and what is said.
KINDS: dict[str, tuple[str, Encode, np.ndarray, int, str]] = {
    "bits": ("png", lambda i: packed(Image.fromarray(BYTE[i, ..., 0] > 99)), 255 * (GREY > 99), 0, ""),
    "palette": ("gif", palette, np.where(GREY > 127, [200, 100, 50], [1, 2, 3]), 0, ""),
    "a transparent grey": ("png", one_transparent, np.where(BYTE[0, 0, 0, 0] == GREY, 255, GREY), 0, "alpha on white"),
    "frames": ("gif", frames, GREY, 0, "first frames only: 10 of 10 images"),
    "equal channels": ("png", encoder(GREY.repeat(3, 3)), GREY, 0, ""),
    "some grey": ("png", some_grey, np.where(np.arange(10)[:, None, None, None] == 3, BYTE[..., :3], GREY), 0, ""),
    "CMYK": ("tif", lambda _: packed(ORANGE, "TIFF"), np.full((10, 5, 4, 3), [255, 127, 0]), 3, "CMYK as RGB: 10"),
    "CMYK by Adobe": ("jpg", lambda _: packed(ORANGE, "JPEG"), np.full((10, 5, 4, 3), [255, 127, 0]), 3, "CMYK as"),
    "PPM": ("ppm", lambda i: b"P6 6 2 65535\n" + ROWS[i].tobytes(), *NARROWED),
    "PNG": ("png", lambda i: png_of(6, 2, 16, 2, ROWS[i]), *NARROWED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    suffix, encode, expected, difference, said = KINDS[kind]
    images = loaded(tmp_path, encode, suffix)
    assert images.transform == BYTES
    assert images.train.shape[1:] == expected.transpose(0, 3, 1, 2).shape[1:]
    assert np.abs(in_order(images).numpy() - expected.transpose(0, 3, 1, 2).astype(float)).max() <= difference
    assert len(images.notes) == bool(said)
    assert "".join(images.notes).startswith(said)


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
    assert (found.numpy() if images.transform == BYTES else depth_of(images).stored(found)).tolist() == upright.tolist()
    assert "turned by EXIF: 10 of 10 images" in images.notes


def refitted(
    pixels: np.ndarray, size: str, fit: Literal["crop", "stretch", "pad"], colour: str = "white"
) -> np.ndarray:
    """An image (h, w, c) that is read in another size, as its file would hold it."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", np.stack(10 * [pixels]))
        images = load_dataset(f"{folder}/x.npy", reading=Reading(size=size, fit=fit, background=colour))
        fitted = images.train[0].permute(1, 2, 0)
        return fitted.numpy() if fitted.dtype == torch.uint8 else depth_of(images).stored(fitted)


def test_fitting_crops_the_middle_stretches_and_pads() -> None:
    pixels = np.zeros((10, 30, 1), np.uint8)
    pixels[:, 10:20] = 200
    for size, padded in (("20x30", (5, 0)), ("10x40", (0, 5)), ("20x60", (0, 0))):
        whole = refitted(pixels, size, "pad")
        inside = whole[padded[0] : len(whole) - padded[0], padded[1] : whole.shape[1] - padded[1]]
        assert (np.sort(whole, None)[inside.size :] == 255).all(), "white around the whole image"
        assert float(inside.mean()) == pytest.approx(200 / 3, abs=2)
    assert refitted(pixels, "20x30", "pad", "#102030")[[0, 10], 15].tolist() == [[16, 32, 48], [200] * 3]
    with pytest.raises(ValueError, match="nothing of 3 x 50 pixels"):
        refitted(np.full((3, 50, 1), 200, np.uint8), "7", "pad")
    assert (refitted(pixels, "10", "crop") == 200).all()
    assert refitted(pixels, "10x15", "stretch")[5, [0, 7, 14], 0].tolist() == pytest.approx([0, 200, 0], abs=2)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("colour", "value"), [("white", 1.0), ("black", 0.0), ("#808080", 128 / 255)])
def test_padding_has_its_colour_in_images_of_any_range(
    dtype: type[np.generic], colour: str, value: float, tmp_path: Path
) -> None:
    """Not the lightest or darkest of each image."""
    pixels = np.multiply.outer(np.arange(1, 13), np.linspace(100, 300, 32).reshape(8, 4)).astype(dtype)
    np.save(tmp_path / "x.npy", pixels if dtype == np.uint16 else pixels / 4096)
    images = load_dataset(tmp_path / "x.npy", reading=Reading(size="8", fit="pad", background=colour))
    assert images.train[..., [0, 1, 6, 7]].numpy() == pytest.approx(value)
    assert 100 / 4096 <= images.train[..., 2:6].min() < images.train[..., 2:6].max() < 3601 / 4096


def test_resized_integers_become_the_nearest_bytes(tmp_path: Path) -> None:
    """As Pillow rounds bytes; without rounding, images would be darker by half a level."""
    pixels, found = np.random.default_rng(0).integers(0, 256, (20, 8, 8)), []
    for dtype in (np.uint8, np.int64):
        np.save(tmp_path / "x.npy", pixels.astype(dtype))
        found.append(load_dataset(tmp_path / "x.npy", reading=Reading(size="5")).train.double())
    assert float((found[1] - found[0]).mean()) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 200), (np.float32, 5.0)])
def test_fine_stripes_become_grey_and_overshoot_nowhere(dtype: type[np.generic], top: float) -> None:
    """Anti-aliasing: stripes of one pixel, shrunk eight times, are their mean; every eighth pixel would be black."""
    stripes = np.zeros((64, 64, 1), dtype)
    stripes[:, ::2] = top
    assert np.abs(refitted(stripes, "8", "stretch")[2:-2, 2:-2] / top - 0.5).max() < 0.02
    enlarged = refitted(stripes, "64x150", "stretch")
    assert 0 <= enlarged.min() < enlarged.max() <= max(top, 255 * (dtype == np.uint8))


def test_a_size_that_is_asked_for_or_that_of_most(tmp_path: Path) -> None:
    sides = [(10, 5) if i < 5 else (40, 20) for i in range(10)]
    with pytest.raises(ValueError, match=r"images have 2 sizes .* 5 x 10 \(5\), 20 x 40 \(5\); give --size, such as 5"):
        loaded(tmp_path, lambda i: packed(Image.new("L", sides[i], 10 * i)))
    sides[3:5] = sides[5:7]
    usual = loaded(tmp_path, lambda i: packed(Image.new("L", sides[i], 10 * i)))
    assert (usual.shape, values(in_order(usual))) == ((1, 20, 40), [10 * i for i in range(10)])
    assert usual.notes == ("crop to 20 x 40 as most images are (--size sets another): 3 of 10 images",)
    assert contents(load_dataset(str(tmp_path))) == contents(usual)
    images = load_dataset(str(tmp_path), reading=Reading(size="5x10"))
    assert images.shape == (1, 5, 10)
    assert in_order(images)[:, 0, 4, 4].tolist() == [10 * i for i in range(10)]
    assert images.notes == ("crop to 5 x 10: 7 of 10 images",)


def test_decompression_bombs_and_programs_are_no_images(tmp_path: Path) -> None:
    """Pillow refuses the first; PostScript with the suffix of an image is not handed to an interpreter."""
    odd = {3: png_of(60_000, 60_000, 8, 0, WIDE[0]), 4: packed(Image.new("L", (4, 4)), "EPS")}
    with pytest.raises(ValueError, match=r"2 of 12: .*03\.png \(Image size .*04\.png \(cannot identify image file\)"):
        loaded(tmp_path, lambda i: odd.get(i) or encoder(BYTE)(i % 10), n=12, max_broken=1)
