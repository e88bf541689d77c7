"""Bytes and reals, data sets and batches of them, MNIST, single images, and how a run finds its images again."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import PARTS, contents, packed, write
from PIL import Image

from ncsn.data import Images, Labels, Origin, Reading, batches, load_images, mnist, read_example
from ncsn.data.pixels import BYTES, Depth, centres, dequantize, quantize
from ncsn.data.sources import short_name


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
    ],
)
def test_a_depth_restores_levels_and_clips_integers_alone(depth: Depth, restored: list[int]) -> None:
    found = depth.restored(torch.tensor([-1.0, 0.5, 1.5, 99.0]))
    assert found.dtype == depth.dtype
    assert found.tolist() == restored
    if depth.low < 0 < depth.high < 10_000 and depth.dtype != "float64":
        levels = torch.arange(depth.low, depth.high)
        assert depth.restored((levels - depth.low) / (depth.high - depth.low)).tolist() == levels.tolist()


def test_images_describe_themselves() -> None:
    pixels = torch.zeros(7, 3, 4, 5, dtype=torch.uint8)
    labels = Labels(
        train=torch.tensor([0, 1, 1]), validation=torch.tensor([0, 1]), test=torch.tensor([1, 1]), names=("cat", "dog")
    )
    images = Images(pixels[:3], pixels[:2], pixels[:2], labels, said=("alpha on white: 2 of 7 images",))
    line = "7 images, 4 × 5, RGB, alpha on white, 2 classes (cat, dog); 3 / 2 / 2 for training, validation, test"
    assert images.describe() == line
    assert labels.shares == {"cat": pytest.approx(1 / 3), "dog": pytest.approx(2 / 3)}
    assert "70,000 images, 28 × 28, grey, 10 classes; 50,000 /" in mnist().describe()


def test_statistics_are_those_of_the_dequantised_pixels(generator: torch.Generator) -> None:
    x = torch.rand(30_000, 2, 20, 15, generator=generator)  # several chunks
    bytes_ = (255 * x).to(torch.uint8)
    for data, real in ((x, x), (bytes_, (bytes_ + 0.5) / 256)):
        mean, std = Images(data, data[:1], data[:1]).statistics
        assert mean == pytest.approx(float(real.double().mean()), abs=1e-6)
        assert std == pytest.approx(float(real.double().std(correction=0)), abs=1e-6)


def test_batches_resume_from_the_generator_alone() -> None:
    data, g = torch.arange(100, dtype=torch.uint8)[:, None], torch.Generator().manual_seed(5)
    stream = batches(data, 8, generator=g)
    next(stream)
    state, expected = g.get_state(), next(stream)
    again = torch.Generator()
    again.set_state(state)
    assert torch.equal(next(batches(data, 8, generator=again)).x, expected.x)


def test_a_batch_has_the_class_of_each_example_and_draws_nothing_else(generator: torch.Generator) -> None:
    """The class is written into the example: 10 times it, in whatever order they come."""
    labels, twin = torch.arange(50) % 7, generator.clone_state()
    batch = next(batches(10.0 * labels[:, None], 40, labels, generator=generator))
    assert batch.label is not None
    assert torch.equal(batch.x[:, 0], 10.0 * batch.label)
    assert torch.equal(batch.label, labels[torch.randint(50, (40,), generator=twin)])
    assert torch.equal(generator.get_state(), twin.get_state())
    assert next(batches(labels[:, None].float(), 4, generator=generator)).label is None


def test_half_of_a_batch_is_mirrored(generator: torch.Generator) -> None:
    data = torch.arange(6.0).view(1, 1, 2, 3)
    x = next(batches(data, 1000, flip=True, generator=generator)).x
    mirrored = (x == data.flip(-1)).flatten(1).all(1)
    assert torch.equal(~mirrored, (x == data).flatten(1).all(1))
    assert int(mirrored.sum()) == pytest.approx(500, abs=5 * 16)


def test_what_reading_allows() -> None:
    assert [Reading(size=size).pixels() for size in (None, "64", "48x64")] == [None, (64, 64), (48, 64)]
    assert Reading(background="#Ff8000").colour() == (255, 128, 0)
    wrong: list[tuple[str, object]] = [("max_broken", -1)]
    wrong += [("size", size) for size in ("0", "64x", "x64", "-3", "64x0", "big", "12345", "6 4", "٣٢")]
    wrong += [("background", colour) for colour in ("reddish", "12345", "#12345g", "")]
    for name, value in wrong:
        with pytest.raises(ValueError, match="color" if name == "background" else f"^{name} is "):
            Reading(**{name: value})  # type: ignore[arg-type]


def test_short_names() -> None:
    for name, short in {"x/birds.v2": "birds.v2", "x/y/..": "x", "birds.NPZ": "birds", "/": "images"}.items():
        assert short_name(name) == short


def test_mnist_is_split_50_10_10_with_labels() -> None:
    images = mnist()
    assert [len(getattr(images, part)) for part in PARTS] == [10_000, 10_000, 50_000]
    whole = torch.cat([images.train, images.validation, images.test]).numpy().tobytes()
    assert images.digest == hashlib.sha256(whole).hexdigest()
    assert images.labels is not None
    assert images.labels.train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert images.labels.test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    origin = Origin.of("mnist", Reading(size="28"), images)
    assert (origin.dataset, origin.folder, origin.moved("mnist")) == ("mnist", None, origin)
    assert origin.load().digest == images.digest
    with pytest.raises(ValueError, match=r"^size is 14"):
        load_images("mnist", reading=Reading(size="14"))


# One image


def test_examples_by_index() -> None:
    part = torch.rand(4, 2, 5, 5)
    images = Images(part[:1], part[1:2], part)
    assert torch.equal(read_example("2", (2, 5, 5), images, Reading(), BYTES), part[2])
    assert torch.equal(read_example("3", (1, 28, 28), mnist(), Reading(), BYTES), centres(mnist().test[3]))
    for name, shape, why in (("4", (2, 5, 5), "^input is 4; .* 0 to 3"), ("3", (3, 5, 5), "^3 has shape")):
        with pytest.raises(ValueError, match=why):
            read_example(name, shape, images, Reading(), BYTES)


def test_examples_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def read(
        name: str, shape: tuple[int, ...], depth: Depth = BYTES, *, fit: bool = True, **options: str
    ) -> np.ndarray:
        return read_example(str(tmp_path / name), shape, None, Reading(**options), depth, fit=fit).numpy()  # type: ignore[arg-type]

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
    luma = (42.5, 70.5)  # 0.299 · 10 + 0.587 · 60 + 0.114 · 30, and of the other half
    for fit in ("crop", "stretch"):  # the size that the run's own images were read in is not asked for
        found = read("wide.png", (1, 30, 40), fit=True, size="7") * 256
        assert (found[0, 15, 0], found[0, 15, -1]) == luma
        assert read("wide.png", (1, 20, 40), fit=False, size="7").shape == (1, 20, 40), fit
    assert "wide.png: made grey, crop to 30 x 40\n" in capsys.readouterr().err
    for name, shape, depth, measured, why in (
        ("wide.png", (4, 20, 40), BYTES, False, r"has shape \(3, 20, 40\)"),
        ("bytes.png", (2, 5, 4), BYTES, False, r"has shape \(1, 5, 4\)"),
        ("wide.png", (3, 30, 30), BYTES, True, r"has shape \(3, 20, 40\)"),
        ("absent.png", (1, 30, 30), BYTES, False, r"absent\.png is neither"),
        ("deep.png", (1, 5, 4), Depth("float32", 0, 1), False, "no scale in common$"),
        ("floats.tiff", (1, 5, 4), twelve, False, "no scale in common$"),
    ):
        with pytest.raises(ValueError, match=why):
            read(name, shape, depth, fit=not measured)


# Where a run's images are


def test_images_are_found_where_they_were_and_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "here", {f"{i}.png": i for i in range(30)})
    reading = Reading(size="4", fit="stretch")
    images = load_images("here", reading=reading)
    origin = Origin.of("here", reading, images)
    assert (origin.dataset, origin.split) == (str(tmp_path / "here"), (24, 3, 3))
    assert contents(origin.load()) == contents(images)
    shutil.move("here", "there")
    with pytest.raises(ValueError, match=r"not at .*here; --data"):
        origin.load()
    moved = origin.moved("there")
    assert moved.dataset == str(tmp_path / "there")
    monkeypatch.chdir("/")
    assert torch.equal(moved.load().test, images.test)
    other = write(tmp_path / "other", {f"{i}.png": i + 1 for i in range(30)})
    for wrong, place in ((origin, other), (replace(moved, reading=Reading(size="4")), None)):
        with pytest.raises(ValueError, match="holds other images"):
            wrong.load(place)
