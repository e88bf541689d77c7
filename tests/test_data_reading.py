"""What a file's pixels mean: transparency, depth, palettes, rotation, sizes; against pixels that are known."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ncsn.data import Images, Reading, load_images
from ncsn.data.fitting import fitted
from ncsn.data.reading import Fit
from ncsn.data.pixels import BYTES, Depth

Draw = Callable[[int], Image.Image]


def folder_of(folder: Path, draw: Draw, n: int = 10, suffix: str = "png") -> str:
    """A folder of n images, made by number."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        draw(i).save(folder / f"{i:02d}.{suffix}")
    return str(folder)


def all_of(images: Images) -> torch.Tensor:
    """All images, in the order of their files; which are shuffled in one way, always."""
    mixed = torch.cat([images.validation, images.test, images.train])
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0))
    return mixed[order.argsort()]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(pixels: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits a channel (h, w, c), which Pillow cannot write in colour."""
    h, w, c = pixels.shape
    kind = {1: 0, 3: 2, 2: 4, 4: 6}[c]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def rgba(i: int) -> Image.Image:
    """A red square with hidden green around it, half as opaque below."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[...] = (0, 255, 0, 0)
    pixels[2:6, 2:6] = (200 + i, 0, 0, 255)
    pixels[5, 2:6, 3] = 128
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("background", "colour"), [("white", (255,) * 3), ("black", (0,) * 3), ("#102030", (16, 32, 48))]
)
def test_what_is_transparent_shows_the_background(tmp_path: Path, background: str, colour: tuple[int, ...]) -> None:
    images = load_images(folder_of(tmp_path, rgba), reading=Reading(background=background))
    found = all_of(images)
    assert images.shape == (3, 8, 8)
    assert found[4, :, 0, 0].tolist() == list(colour)
    assert found[4, :, 3, 3].tolist() == [204, 0, 0]
    mixed = [v * 128 / 255 + below * 127 / 255 for v, below in zip((204, 0, 0), colour, strict=True)]
    assert found[4, :, 5, 3].tolist() == pytest.approx(mixed, abs=1)
    assert images.said == (f"alpha on {background}: 10 of 10 images have transparent pixels, where {background} shows",)
    assert f"RGB, alpha on {background}, no classes" in images.describe()


def test_opaque_alpha_changes_nothing_and_is_not_said(tmp_path: Path) -> None:
    images = load_images(folder_of(tmp_path, lambda i: Image.new("RGBA", (4, 4), (i, 2, 3, 255))))
    assert images.said == ()
    assert all_of(images)[:, :, 0, 0].tolist() == [[i, 2, 3] for i in range(10)]


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB", "1"])
def test_transparency_of_every_kind(tmp_path: Path, mode: str) -> None:
    """The left half is transparent, and would be 9, or black; the right one is 200, or white."""

    def draw(_: int) -> Image.Image:
        pixels = np.where(np.arange(8) < 4, 9, 200).astype(np.uint8) * np.ones((8, 1), np.uint8)
        grey = Image.fromarray(pixels)
        if mode == "LA":
            grey.putalpha(Image.fromarray(np.where(pixels == 9, 0, 255).astype(np.uint8)))
            return grey
        if mode == "P":
            palette = Image.fromarray((pixels == 200).astype(np.uint8)).convert("P")
            palette.putpalette([9, 9, 9, 200, 200, 200])
            return palette
        return grey.point(lambda v: 255 * (v > 100)).convert("1") if mode == "1" else grey.convert(mode)

    key = {"LA": None, "P": 0, "L": 9, "RGB": (9, 9, 9), "1": 0}[mode]
    for i in range(10):
        draw(i).save(tmp_path / f"{i}.png", transparency=key)
    images = load_images(str(tmp_path))
    found = all_of(images)
    assert images.shape == (1, 8, 8)
    assert found[0, 0, 0].tolist() == [255] * 4 + [255 if mode == "1" else 200] * 4
    assert images.said[0] == "alpha on white: 10 of 10 images have transparent pixels, where white shows"
    coloured = load_images(str(tmp_path), reading=Reading(background="#ff0000"))
    assert coloured.shape == (3, 8, 8)
    assert all_of(coloured)[0, :, 0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    """Grey of mean 127·256, from 0 to 65024: read as bytes, it would be clipped to white."""
    values = np.linspace(0, 254 * 256, 64).astype(np.uint16).reshape(8, 8)
    images = load_images(folder_of(tmp_path, lambda i: Image.fromarray(np.roll(values, i))))
    assert images.depth == Depth("uint16", 0, 65536)
    assert images.train.dtype == torch.float32
    found = all_of(images)
    assert torch.equal(found[0, 0], torch.from_numpy(values.astype(np.float32) / 65536))
    assert float(found.mean()) == pytest.approx(127 * 256 / 65536, abs=1e-4)
    assert (images.depth.restored(found[3, 0]) == np.roll(values, 3)).all()
    assert images.said == ("uint16 / 65536: the largest value is 65024",)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_twelve_bits_in_files_of_sixteen(tmp_path: Path, suffix: str) -> None:
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 273
    images = load_images(folder_of(tmp_path, lambda _: Image.fromarray(values), suffix=suffix))
    assert images.depth == Depth("uint16", 0, 4096)
    assert torch.equal(all_of(images)[2, 0], torch.from_numpy(values.astype(np.float32) / 4096))


def test_sixteen_bits_of_the_other_byte_order(tmp_path: Path) -> None:
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    big = Image.frombytes("I;16B", (4, 4), values.astype(">u2").tobytes())
    images = load_images(folder_of(tmp_path, lambda _: big, suffix="tif"))
    assert (images.depth.restored(all_of(images)[0, 0]) == values).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_deep_pngs_of_every_kind(tmp_path: Path, channels: int) -> None:
    """Every low byte counts, whose loss Pillow does not mention; alpha is laid on white."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, channels)).astype(np.uint16)
    values[0, 0, 0] = 65535
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(deep_png(values))
    images = load_images(str(tmp_path))
    colours, opaque = (values, 1.0) if channels in (1, 3) else (values[..., :-1], values[..., -1:] / 65535)
    expected = np.rint(colours * opaque + 65535 * (1 - opaque))
    restored = images.depth.restored(all_of(images)[0]).transpose(1, 2, 0)
    assert images.depth == Depth("uint16", 0, 65536)
    assert np.abs(restored - expected).max() <= (0 if channels in (1, 3) else 1)


def test_deep_pngs_with_a_transparent_colour(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(deep_png(values, tuple(map(int, values[2, 1]))))
    found = all_of(load_images(str(tmp_path), reading=Reading(background="black")))[0]
    assert found[:, 2, 1].tolist() == [0, 0, 0]
    assert (found[:, 0, 0] * 65536).tolist() == values[0, 0].tolist()


def test_sixteen_bits_that_pillow_halves_are_said(tmp_path: Path) -> None:
    values = np.full((4, 4, 3), 513, np.uint16) * np.array([1, 2, 3], np.uint16)
    for i in range(10):
        (tmp_path / f"{i}.tif").write_bytes(deep_tiff(values))
        (tmp_path / f"{i}.ppm").write_bytes(b"P6 4 4 65535\n" + values.astype(">u2").tobytes())
    images = load_images(str(tmp_path))
    assert all_of(images)[0, :, 0, 0].tolist() == [2, 4, 6]
    assert images.said == ("8 of 16 bits: 20 of 20 images have 16 bits a channel, of which Pillow reads 8",)


def deep_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of 16 bits a channel, RGB, which Pillow cannot write."""
    h, w, c = pixels.shape
    data = pixels.astype("<u2").tobytes()
    entries = [(256, 3, 1, w), (257, 3, 1, h), (258, 3, c, 8 + len(data) + 2 + 9 * 12 + 4), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, c), (278, 3, 1, h), (279, 4, 1, len(data))]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    bits = struct.pack(f"<{c}H", *[16] * c)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4) + bits


def test_floats_in_the_unit_interval_are_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((10, 6, 6)).astype(np.float32)
    images = load_images(folder_of(tmp_path, lambda i: Image.fromarray(values[i]), suffix="tif"))
    assert torch.equal(all_of(images)[:, 0], torch.from_numpy(values))
    assert images.depth == Depth("float32", 0, 1)
    assert images.said == ()


def test_floats_outside_have_the_range_of_the_data_set(tmp_path: Path) -> None:
    values = np.linspace(-1000, 3000, 360).astype(np.float32).reshape(10, 6, 6)
    images = load_images(folder_of(tmp_path, lambda i: Image.fromarray(values[i]), suffix="TIFF"))
    found = all_of(images)[:, 0]
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert images.depth == Depth("float32", -1000, 3000)
    assert np.allclose(images.depth.restored(found), values, atol=1e-3)
    assert images.said == ("float32 from -1000 to 3000: these are 0 and 1 now",)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    def draw(i: int) -> Image.Image:
        return Image.fromarray(np.full((4, 4), value if i == 7 else 0.5, np.float32))

    with pytest.raises(ValueError, match=r"07\.tif \(it has values that are not finite\)"):
        load_images(folder_of(tmp_path, draw, suffix="tif"))


def test_bytes_among_deep_images_keep_their_meaning(tmp_path: Path) -> None:
    def draw(i: int) -> Image.Image:
        return Image.fromarray(np.full((4, 4), 51, np.uint8) if i == 3 else np.full((4, 4), 4000, np.uint16))

    images = load_images(folder_of(tmp_path, draw))
    assert all_of(images)[:, 0, 0, 0].tolist() == pytest.approx(
        [51 / 255 if i == 3 else 4000 / 4096 for i in range(10)]
    )
    assert images.said[1] == "bytes / 255: 1 of 10 images have 8 bits, unlike the others"


def test_integers_and_floats_have_no_common_scale(tmp_path: Path) -> None:
    def draw(i: int) -> Image.Image:
        return Image.fromarray(np.full((4, 4), 4, np.float32 if i else np.uint16))

    with pytest.raises(ValueError, match="images of integers and of floats"):
        load_images(folder_of(tmp_path, draw, suffix="tif"))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    """Orange, without and with Adobe's inversion, which Pillow writes into JPEGs."""
    images = load_images(folder_of(tmp_path, lambda _: Image.new("CMYK", (8, 8), (0, 128, 255, 0)), suffix=suffix))
    assert all_of(images)[0, :, 4, 4].tolist() == pytest.approx([255, 127, 0], abs=3)
    assert images.said == ("CMYK as RGB: 10 of 10 images are converted from CMYK",)


def test_palettes_and_one_bit(tmp_path: Path) -> None:
    def palette(_: int) -> Image.Image:
        image = Image.fromarray(np.eye(4, dtype=np.uint8)).convert("P")
        image.putpalette([1, 2, 3, 200, 100, 50])
        return image

    coloured = all_of(load_images(folder_of(tmp_path / "palette", palette, suffix="gif")))
    assert coloured[0, :, 0, 0].tolist() == [200, 100, 50]
    assert coloured[0, :, 0, 1].tolist() == [1, 2, 3]
    one_bit = load_images(folder_of(tmp_path / "bits", lambda _: Image.fromarray(np.eye(4) > 0)))
    assert torch.equal(all_of(one_bit)[0, 0], 255 * torch.eye(4, dtype=torch.uint8))
    assert one_bit.depth == BYTES
    assert one_bit.said == ()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_exif_turns_images(tmp_path: Path, orientation: int, deep: bool, suffix: str) -> None:
    """Value k of EXIF's orientation, undone: the red corner is at the top left, and the image is 6 high, 4 wide."""
    upright = np.zeros((6, 4), np.uint16 if deep else np.uint8)
    upright[0, 0] = 40_000 if deep else 200
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.T, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(10):
        Image.fromarray(np.ascontiguousarray(turns[orientation](upright))).save(tmp_path / f"{i}.{suffix}", exif=exif)
    images = load_images(str(tmp_path))
    assert images.shape == (1, 6, 4)
    assert (images.depth.restored(centre(all_of(images)[0, 0])) == upright).all()
    assert "turned by EXIF: 10 of 10 images are turned as their EXIF data say" in images.said


def centre(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() + 0.5) / 256 if pixels.dtype == torch.uint8 else pixels


def test_only_the_first_frame_is_read(tmp_path: Path) -> None:
    for i in range(10):
        first, second = (Image.new("L", (4, 4), value) for value in (i, 99))
        first.save(tmp_path / f"{i}.gif", save_all=True, append_images=[second])
    images = load_images(str(tmp_path))
    assert all_of(images)[:, 0, 0, 0].tolist() == list(range(10))
    assert images.said[0] == "first frames only: 10 of 10 images have more than one frame"


def test_equal_channels_are_grey(tmp_path: Path) -> None:
    images = load_images(folder_of(tmp_path, lambda i: Image.new("RGB", (4, 4), (i, i, i))))
    assert images.shape == (1, 4, 4)
    assert all_of(images)[:, 0, 0, 0].tolist() == list(range(10))
    assert images.said == ("as grey: in all 10 images the three channels are equal",)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["crop", "pad", "stretch"]),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
)
def test_a_constant_stays_constant_in_any_size(
    h: int, w: int, r: int, s: int, fit: Fit, dtype: type[np.generic]
) -> None:
    pixels = np.full((h, w, 2), 77, dtype)
    found = fitted(pixels, (r, s), fit, (77, 77))
    assert found.shape == (r, s, 2)
    assert np.allclose(found, 77, rtol=1e-6)


def test_fitting_crops_the_middle_pads_around_and_stretches() -> None:
    pixels = np.zeros((10, 30, 1), np.uint8)
    pixels[:, 10:20] = 200
    assert (fitted(pixels, (10, 10), "crop", (7,)) == 200).all()
    padded = fitted(pixels, (30, 30), "pad", (7,))[..., 0]
    assert (padded[:10] == 7).all()
    assert (padded[20:] == 7).all()
    assert (padded[10:20] == pixels[..., 0]).all()
    stretched = fitted(pixels, (10, 15), "stretch", (7,))[..., 0]
    assert stretched[5, [0, 7, 14]].tolist() == pytest.approx([0, 200, 0], abs=2)


def test_fine_stripes_become_grey_and_not_a_pattern() -> None:
    """Anti-aliasing: stripes of one pixel, shrunk eight times, are their mean; every eighth pixel would be black."""
    for dtype, top in ((np.uint8, 200), (np.float32, 5.0)):
        stripes = np.zeros((64, 64, 1), dtype)
        stripes[:, ::2] = top
        assert np.abs(fitted(stripes, (8, 8), "stretch", (0,))[2:-2, 2:-2] / top - 0.5).max() < 0.02


def test_a_size_that_is_asked_for(tmp_path: Path) -> None:
    def draw(i: int) -> Image.Image:
        return Image.new("L", (10, 5) if i < 3 else (40, 20), 10 * i)

    images = load_images(folder_of(tmp_path, draw), reading=Reading(size="8x12"))
    assert images.shape == (1, 8, 12)
    assert all_of(images)[:, 0, 4, 4].tolist() == [10 * i for i in range(10)]
    assert images.said == (
        "cropped to 8 x 12: 10 of 10 images had another size",
        "enlarged: 3 of 10 images are smaller than that, the smallest 5 x 10",
    )


@pytest.mark.parametrize("deep", [False, True])
def test_padding_is_of_the_background_at_any_depth(tmp_path: Path, deep: bool) -> None:
    value: np.generic = np.uint16(4000) if deep else np.uint8(40)
    draw: Draw = lambda _: Image.fromarray(np.full((4, 8), value))  # noqa: E731
    images = load_images(folder_of(tmp_path, draw), reading=Reading(size="8", fit="pad", background="#336699"))
    assert images.shape == (3, 8, 8)
    found = all_of(images)[0].double()
    full = 1 if deep else 255
    assert found[:, 0, 0].tolist() == pytest.approx([full * v / 255 for v in (0x33, 0x66, 0x99)])
    assert found[:, 4, 4].tolist() == [4000 / 4096 if deep else 40] * 3
    grey = load_images(str(tmp_path), reading=Reading(size="8", fit="pad"))
    assert grey.shape == (1, 8, 8)
    assert float(all_of(grey)[0, 0, 0, 0]) == full


def test_a_few_of_another_size_are_fitted(tmp_path: Path) -> None:
    images = load_images(folder_of(tmp_path, lambda i: Image.new("L", (8, 8) if i else (20, 8), 9)))
    assert images.shape == (1, 8, 8)
    assert images.said == ("cropped to 8 x 8: 1 of 10 images had another size",)


def test_many_sizes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"10 images have 8 sizes .*: 8 x 5 \(3\), .* and 3 more; give --size, such as 8"
    ):
        load_images(folder_of(tmp_path, lambda i: Image.new("L", (5 if i < 3 else 5 + i, 8))))


def test_broken_images_are_named_or_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, lambda i: Image.fromarray(np.full((32, 32), i, np.uint8)), n=40)
    (tmp_path / "03.png").write_bytes(b"no image")
    whole = (tmp_path / "17.png").read_bytes()
    (tmp_path / "17.png").write_bytes(whole[:60])  # its header is whole
    (tmp_path / "20.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"3 of 40 images cannot be read, .* allows 2: .*03\.png .*17\.png .*20\.png \("
    ):
        load_images(folder, reading=Reading(max_broken=2))
    images = load_images(folder, reading=Reading(max_broken=3))
    found = torch.cat([images.validation, images.test, images.train])[:, 0, 0, 0].tolist()
    assert sorted(found) == [i for i in range(40) if i not in (3, 17, 20)]
    assert images.said[0].startswith("broken left out: 3 of 40 images cannot be read: ")


def test_a_broken_image_does_not_decide_what_the_others_become(tmp_path: Path) -> None:
    """Its header does until it is decoded: here that there are colours, and that there are 16 bits."""
    grey = folder_of(tmp_path / "grey", lambda i: Image.new("L", (4, 4), i), n=20)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "grey" / "cut.png")
    wide = folder_of(tmp_path / "wide", lambda i: Image.new("L", (8, 4), i), n=20)
    Image.fromarray(np.full((4, 8), 4000, np.uint16)).save(tmp_path / "wide" / "cut.png")
    for folder in (grey, wide):
        cut = Path(folder) / "cut.png"
        cut.write_bytes(cut.read_bytes()[:60])
    images = load_images(grey, reading=Reading(size="4", max_broken=1))
    assert images.shape == (1, 4, 4)
    assert sorted(all_of(images)[:, 0, 0, 0].tolist()) == list(range(20))
    images = load_images(wide, reading=Reading(size="8", fit="pad", max_broken=1))
    assert images.depth == BYTES
    pixels = all_of(images)
    assert bool(pixels.isfinite().all())
    assert pixels[:, 0, 0, 0].tolist() == [1.0] * 20
    assert sorted((255 * pixels[:, 0, 4, 4]).round().tolist()) == list(range(20))


def test_many_broken_images_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path, lambda _: Image.new("L", (4, 4)))
    for i in range(15):
        (tmp_path / f"bad{i:02d}.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"15 of 25 images .*bad00.*bad09\.jpg .*bad14\.jpg \([^()]*\)$"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_decompression_bombs(tmp_path: Path, side: int) -> None:
    """Pillow warns of the first, and refuses the second; neither is decoded."""
    folder = folder_of(tmp_path, lambda _: Image.new("L", (4, 4)), n=12)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))))
    with pytest.raises(ValueError, match=r"bomb\.png \(its header claims more than 89,478,485 pixels\)"):
        load_images(folder)
    assert load_images(folder, reading=Reading(max_broken=1)).shape == (1, 4, 4)


def test_programs_are_no_images(tmp_path: Path) -> None:
    """PostScript with the suffix of an image is not handed to an interpreter."""
    folder = folder_of(tmp_path, lambda _: Image.new("L", (4, 4)))
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "EPS")
    (tmp_path / "eps.png").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"eps\.png \(no image that Pillow knows\)"):
        load_images(folder)
