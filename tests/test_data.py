"""Bytes and reals, data sets and batches of them, named sets, single images, and how a run finds its images again."""

import gzip
import hashlib
import shutil
import subprocess
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from pictures import PARTS, contents, packed, write
from PIL import Image

from ncsn.data import Images, Labels, Origin, Reading, batches, load_images, mnist, named, read_example
from ncsn.data.pixels import BYTES, Depth, centres, dequantize, quantize
from ncsn.data.reading import short_name


@given(st.integers(0, 2**31))
def test_quantize_inverts_dequantize_and_centres(seed: int) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(20)
    x = dequantize(pixels, generator=torch.Generator().manual_seed(seed))
    assert 0 <= float(x.min()) <= float(x.max()) < 1
    assert torch.equal(quantize(x), pixels)
    assert torch.equal(256 * centres(pixels), pixels + 0.5)
    assert quantize(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


@given(st.integers(0, 2**12 - 1), st.sampled_from([("uint16", 0, 4096), ("int16", -1000, 3001), ("int32", -7, 70_001)]))
def test_a_depth_restores_every_level(level: int, kind: tuple[str, int, int]) -> None:
    dtype, low, high = kind
    value = low + level * (high - low) // 4096
    restored = Depth(*kind).restored((torch.tensor([float(value)]) - low) / (high - low))
    assert restored.dtype == dtype
    assert restored.tolist() == [value]


@pytest.mark.parametrize(
    ("depth", "restored"),
    [
        (BYTES, [0, 128, 255, 255]),
        (Depth("uint16", 0, 4096), [0, 2048, 4095, 4095]),
        (Depth("float64", -10, 10), [-30, 0, 20, 1970]),
        (Depth("int64", -(2.0**40), 2.0**40), [-(2**40), 0, 2**40 - 1, 2**40 - 1]),
    ],
)
def test_a_depth_clips_integers_and_not_floats(depth: Depth, restored: list[int]) -> None:
    found = depth.restored(torch.tensor([-1.0, 0.5, 1.5, 99.0]))
    assert found.dtype == depth.dtype
    assert found.tolist() == restored


def test_images_describe_themselves() -> None:
    pixels = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    images = Images(pixels, pixels[:1], pixels[:1], said=("alpha on white: 2 of 4 images",))
    assert images.describe() == (
        "4 images, 4 × 5, RGB, alpha on white, no classes; 2 / 1 / 1 for training, validation, test"
    )
    assert "70,000 images, 28 × 28, grey, 10 classes; 50,000 /" in mnist().describe()


def test_a_digest_is_that_of_the_pixels_in_order() -> None:
    x = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    assert Images(x[:3], x[3:4], x[4:]).digest == hashlib.sha256(x.numpy().tobytes()).hexdigest()
    assert Images(x[:3], x[4:], x[3:4]).digest != Images(x[:3], x[3:4], x[4:]).digest


def test_statistics_are_those_of_the_dequantised_pixels(generator: torch.Generator) -> None:
    x = torch.rand(50_000, 2, 20, 15, generator=generator)  # several chunks
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_learns_from_images_that_stay_where_they_are() -> None:
    data, labels = torch.arange(100, dtype=torch.uint8)[:, None], torch.arange(100).cuda()
    there, here = (torch.Generator("cuda").manual_seed(0) for _ in range(2))
    fetched = next(batches(data, 8, labels, generator=there))
    expected = next(batches(data.cuda(), 8, labels, generator=here))
    assert torch.equal(fetched.x, expected.x)
    assert fetched.label is not None
    assert expected.label is not None
    assert torch.equal(fetched.label, expected.label)


def test_what_reading_allows() -> None:
    assert [Reading(size=size).pixels() for size in (None, "64", "48x64")] == [None, (64, 64), (48, 64)]
    assert Reading(background="#Ff8000").colour() == (255, 128, 0)
    assert [Reading(background=colour).coloured() for colour in ("white", "#808080", "#808081")] == [False, False, True]
    wrong: list[tuple[str, object]] = [("max_broken", -1)]
    wrong += [("size", size) for size in ("0", "64x", "x64", "-3", "64x0", "big", "12345", "6 4", "٣٢")]
    wrong += [("background", colour) for colour in ("reddish", "12345", "#12345g", "")]
    for name, value in wrong:
        with pytest.raises(ValueError, match="color" if name == "background" else f"^{name} is "):
            Reading(**{name: value})  # type: ignore[arg-type]
    code = "import sys, ncsn.data.reading; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_short_names() -> None:
    for name, short in {
        "x/birds.v2": "birds.v2",
        "x/birds.tar.gz": "birds",
        "birds.NPZ": "birds",
        "/": "images",
        "a/pets-{000..127}.tar": "pets",
        "a/{train,val}-{0..9}.tar": "a",
    }.items():
        assert short_name(name) == short


# Named sets

SIZES = {"train": 60, "validation": 30, "test": 40}


def test_mnist_is_split_50_10_10_with_labels() -> None:
    images = mnist()
    assert [len(getattr(images, part)) for part in PARTS] == [50_000, 10_000, 10_000]
    assert images.labels is not None
    assert images.labels.train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert images.labels.test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize("content", [None, b"\x1f\x8b" * 500, gzip.compress(bytes(16))])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    name = next(iter(named.MNIST_SHA256))
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is {'missing' if content is None else 'not MNIST.s original'}"):
        load_images("mnist", tmp_path)


def test_a_named_set_in_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(**{part: torch.arange(n) % 10 for part, n in SIZES.items()}, names=tuple("9876543210"))
    parts = {part: torch.randint(256, (n, 1, 28, 28)).to(torch.uint8) for part, n in SIZES.items()}
    few = Images(parts["train"], parts["validation"], parts["test"], labels, "mnist")
    monkeypatch.setattr(named, "mnist", lambda _: few)
    assert load_images("mnist", reading=Reading(size="28")) is few
    images = load_images("mnist", reading=Reading(size="14"))
    assert (images.name, images.shape, images.said) == ("mnist", (1, 14, 14), ("crop to 14 x 14: 130 of 130 images",))
    assert images.labels is not None
    assert images.labels.names == labels.names
    for part in PARTS:
        mine, theirs = getattr(images, part).float(), F.avg_pool2d(getattr(few, part).float(), 2)
        twins = [int((theirs - one).square().sum((1, 2, 3)).argmin()) for one in mine]
        assert sorted(twins) == list(range(len(theirs)))
        assert torch.equal(getattr(images.labels, part), getattr(labels, part)[twins])


def test_without_a_network_the_user_learns_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    for kind in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{kind}.download_and_extract_archive", refuse)
    for name in ("fashion-mnist", "kmnist", "cifar10"):
        with pytest.raises(ValueError, match=rf"{name} could not be downloaded to .*; with a network run again"):
            load_images(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "colours"),
    [("fashion-mnist", "FashionMNIST", ()), ("kmnist", "KMNIST", ()), ("cifar10", "CIFAR10", (3,))],
)
def test_sets_of_torchvision(name: str, kind: str, colours: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST's relatives are tensors there; CIFAR-10 is an array with its channels last, and a list of classes."""

    def dataset(folder: Path, *, train: bool, download: bool) -> SimpleNamespace:
        assert download
        n = 10_030 if train else 20
        pixels, targets = np.zeros((n, 6, 5, *colours), np.uint8), torch.arange(n) % 7
        pixels.reshape(n, 6, 5, -1)[:, 3, 4, -1] = np.arange(n) % 256
        if colours:
            return SimpleNamespace(data=pixels, targets=targets.tolist(), classes=list("gfedcba"))
        return SimpleNamespace(data=torch.from_numpy(pixels), targets=targets, classes=list("gfedcba"))

    monkeypatch.setattr(torchvision.datasets, kind, dataset)
    images = load_images(name)
    assert images.labels is not None
    assert (images.shape, images.labels.names) == ((*(colours or (1,)), 6, 5), tuple("gfedcba"))
    for part, first, n in zip(PARTS, (0, 30, 0), (30, 10_000, 20), strict=True):
        expected = torch.arange(first, first + n)
        assert getattr(images, part)[:, -1, 3, 4].tolist() == (expected % 256).tolist()
        assert torch.equal(getattr(images.labels, part), expected % 7)
    assert int(images.test.sum()) == sum(range(20))


# One image


def test_examples_by_index() -> None:
    assert torch.equal(read_example("3", (1, 28, 28)), centres(mnist().test[3]))
    part = torch.rand(4, 2, 5, 5)
    assert torch.equal(read_example("2", (2, 5, 5), images=Images(part, part, part)), part[2])
    for name, shape, why in (("4", (2, 5, 5), "input is 4; .* are 0 to 3"), ("3", (3, 5, 5), "3 has shape")):
        with pytest.raises(ValueError, match=why):
            read_example(name, shape, images=Images(part, part, part, name="letters"))


def test_examples_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey, wide = tmp_path / "grey.png", tmp_path / "wide.png"
    pixels = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
    grey.write_bytes(packed(Image.fromarray(pixels)))
    wide.write_bytes(packed(Image.new("RGB", (40, 20), (10, 60, 30))))
    assert torch.equal(read_example(str(grey), (1, 28, 28)), centres(torch.from_numpy(pixels))[None])
    assert torch.equal(read_example(str(grey), (3, 28, 28))[2], centres(torch.from_numpy(pixels)))
    assert capsys.readouterr().err == ""
    for fit, corner in (("crop", 42.5), ("stretch", 42.5), ("pad", 255.5)):  # 0.299 · 10 + 0.587 · 60 + 0.114 · 30
        found = read_example(str(wide), (1, 30, 30), reading=Reading(fit=fit))  # type: ignore[arg-type]
        assert found[0, 0, 0] * 256 == corner
        assert found[0, 15, 15] * 256 == 42.5
    assert "wide.png: made grey, pad to 30 x 30\n" in capsys.readouterr().err
    for name, shape, fit_, why in (
        (wide, (4, 30, 30), True, "grey or RGB pixels; 4 channels"),
        (wide, (3, 30, 30), False, r"has shape \(3, 20, 40\)"),
        (tmp_path / "absent.png", (1, 30, 30), True, "is neither an index nor an image that can be read"),
    ):
        with pytest.raises(ValueError, match=why):
            read_example(str(name), shape, fit=fit_)


def test_deep_examples(tmp_path: Path) -> None:
    deep, shallow, real = tmp_path / "deep.png", tmp_path / "bytes.png", tmp_path / "floats.tiff"
    values = np.arange(500, 1000, 25, dtype=np.uint16).reshape(5, 4)
    deep.write_bytes(packed(Image.fromarray(values)))
    shallow.write_bytes(packed(Image.fromarray((values // 4).astype(np.uint8))))
    real.write_bytes(packed(Image.fromarray(values.astype(np.float32)), "TIFF"))
    twelve, whole = Depth("uint16", 0, 4096), torch.from_numpy(values.astype(np.float32))[None]
    assert torch.equal(read_example(str(deep), (1, 5, 4)), whole / 1024)
    assert torch.equal(read_example(str(deep), (1, 5, 4), depth=twelve), whole / 4096)
    assert torch.equal(read_example(str(shallow), (1, 5, 4), depth=twelve), (whole / 4).floor() / 255)
    for path, depth in ((deep, Depth("float32", 0, 1)), (real, twelve)):
        with pytest.raises(ValueError, match=r"have no scale in common$"):
            read_example(str(path), (1, 5, 4), depth=depth)


# Where a run's images are


def test_images_are_found_where_they_were_and_where_they_are_now(tmp_path: Path) -> None:
    place = write(tmp_path / "here", {f"{i}.png": i for i in range(30)})
    reading = Reading(size="4", fit="stretch")
    images = load_images(place, reading=reading)
    origin = Origin.of(place, None, reading, images)
    assert contents(origin.load()) == contents(images)
    shutil.move(place, tmp_path / "there")
    with pytest.raises(ValueError, match=r"the images are not at .*here; --data PLACE"):
        origin.load()
    assert torch.equal(origin.load(str(tmp_path / "there")).test, images.test)
    other = write(tmp_path / "other", {f"{i}.png": i + 1 for i in range(30)})
    with pytest.raises(ValueError, match="other holds other images than those that the run has learned from"):
        origin.load(other)
    with pytest.raises(ValueError, match="holds other images"):
        replace(origin, reading=Reading(size="4")).load(str(tmp_path / "there"))


def test_named_sets_stay_named_and_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = mnist()
    origin = Origin.of("mnist", None, Reading(), images)
    assert (origin.dataset, origin.folder, origin.split) == ("mnist", None, (50_000, 10_000, 10_000))
    monkeypatch.chdir(tmp_path)
    path = Origin.of("pictures", Path("files"), Reading(), images)
    assert (path.dataset, path.folder) == (str(tmp_path / "pictures"), str(tmp_path / "files"))
    assert path.moved("x").dataset == str(tmp_path / "x")
    assert (origin.moved("x").dataset, origin.moved("x").folder) == ("mnist", str(tmp_path / "x"))
