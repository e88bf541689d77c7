import gzip
import hashlib
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ncsn.data import Images, Labels, Reading, batches, load_images, mnist, mnist_labels, read_example
from ncsn.data.named import MNIST_SHA256, mnist_file
from ncsn.data.pixels import BYTES, Depth, centres, dequantize, quantize

PARTS = ("train", "validation", "test")


@given(st.integers(0, 2**31))
def test_quantize_inverts_dequantize(seed: int) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(20)
    x = dequantize(pixels, generator=torch.Generator().manual_seed(seed))
    assert 0 <= float(x.min()) <= float(x.max()) < 1
    assert torch.equal(quantize(x), pixels)


def test_quantize_clips() -> None:
    assert quantize(torch.tensor([-1.0, 0.0, 1.0, 7.0])).tolist() == [0, 0, 255, 255]


def test_a_byte_stands_for_its_middle() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert (256 * centres(pixels)).tolist() == [i + 0.5 for i in range(256)]
    assert torch.equal(quantize(centres(pixels)), pixels)


def test_mnist_is_split_50_10_10() -> None:
    images, labels = mnist(), mnist_labels()
    assert [len(part) for part in (images.train, images.validation, images.test)] == [50_000, 10_000, 10_000]
    assert images.shape == (1, 28, 28)
    assert labels[0][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert labels[2].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_mnist_has_labels_for_every_part() -> None:
    labels = mnist().labels
    assert labels is not None
    for part, digits in zip((labels.train, labels.validation, labels.test), mnist_labels(), strict=True):
        assert torch.equal(part, digits.long())
    assert labels.names == tuple("0123456789")


def test_images_describe_themselves() -> None:
    assert mnist().describe() == (
        "70,000 images, 28 × 28, grey, 10 classes; 50,000 / 10,000 / 10,000 for training, validation, test"
    )
    pixels = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    images = Images(pixels, pixels[:1], pixels[:1], said=("alpha on white: 2 of 4 images have transparent pixels",))
    assert images.describe() == (
        "4 images, 4 × 5, RGB, alpha on white, no classes; 2 / 1 / 1 for training, validation, test"
    )


def test_a_digest_is_that_of_the_pixels_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    images = Images(x[:3], x[3:4], x[4:])
    whole = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    assert images.digest == whole == images.digest
    monkeypatch.setattr("ncsn.data.images.CHUNK", 13)  # one image, and a bit of the next
    assert Images(x[:3], x[3:4], x[4:]).digest == whole
    assert Images(x[:3], x[4:], x[3:4]).digest != whole


def test_statistics_of_reals_and_in_chunks(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    x = torch.rand(50, 2, 3, 3, generator=generator)
    bytes_ = (255 * x).to(torch.uint8)
    whole = Images(bytes_, bytes_, bytes_).statistics
    monkeypatch.setattr("ncsn.data.images.CHUNK", 100)
    assert Images(bytes_, bytes_, bytes_).statistics == whole
    assert Images(x, x, x).statistics == pytest.approx((float(x.mean()), float(x.std(correction=0))), abs=1e-6)


def test_statistics_are_those_of_the_dequantised_pixels(generator: torch.Generator) -> None:
    images = mnist()
    mean, std = images.statistics
    x = dequantize(images.train[:5000], generator=generator)
    full = images.train.float().add(0.5).div(256)
    assert mean == pytest.approx(full.mean().item(), abs=1e-5)
    assert std == pytest.approx(full.std().item(), abs=1e-5)
    assert mean == pytest.approx(x.mean().item(), abs=3e-3)


def test_batches_resume_from_the_generator_alone() -> None:
    data, g = torch.arange(100, dtype=torch.uint8)[:, None], torch.Generator().manual_seed(0)
    stream = batches(data, 8, generator=g)
    next(stream)
    state, expected = g.get_state(), next(stream)
    again = torch.Generator()
    again.set_state(state)
    assert torch.equal(next(batches(data, 8, generator=again)).x, expected.x)


def test_real_batches_are_left_alone(generator: torch.Generator) -> None:
    data = torch.randn(10, 2, generator=generator)
    batch = next(batches(data, 4, generator=generator))
    assert all(bool((row == data).all(1).any()) for row in batch.x)
    assert batch.label is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_learns_from_images_that_stay_where_they_are() -> None:
    data, labels = torch.arange(100, dtype=torch.uint8)[:, None], torch.arange(100)
    there, here = (torch.Generator("cuda").manual_seed(0) for _ in range(2))
    fetched = next(batches(data, 8, labels.cuda(), generator=there))
    expected = next(batches(data.cuda(), 8, labels.cuda(), generator=here))
    assert torch.equal(fetched.x, expected.x)
    assert fetched.x.is_cuda
    assert fetched.label is not None
    assert expected.label is not None
    assert torch.equal(fetched.label, expected.label)


def test_a_batch_has_the_class_of_each_example(generator: torch.Generator) -> None:
    """The class is written into the example: 10 times it, in whatever order they come."""
    labels = torch.arange(50) % 7
    batch = next(batches(10.0 * labels[:, None], 40, labels, generator=generator))
    assert batch.label is not None
    assert torch.equal(batch.x[:, 0], 10.0 * batch.label)
    assert len(set(batch.label.tolist())) > 4


def test_half_of_a_batch_is_mirrored(generator: torch.Generator) -> None:
    data = torch.arange(6.0).view(1, 1, 2, 3)
    x = next(batches(data, 1000, flip=True, generator=generator)).x
    mirrored = (x == data.flip(-1)).flatten(1).all(1)
    assert torch.equal(~mirrored, (x == data).flatten(1).all(1))
    assert int(mirrored.sum()) == pytest.approx(500, abs=5 * 16)


def test_nothing_is_drawn_for_mirrors_that_are_not_wanted() -> None:
    data = torch.rand(10, 1, 2, 2)
    first, second = (torch.Generator().manual_seed(0) for _ in range(2))
    batch = next(batches(data, 8, generator=first))
    index = torch.randint(10, (8,), generator=second)
    assert torch.equal(batch.x, data[index])
    assert torch.equal(first.get_state(), second.get_state())


@given(st.integers(0, 2**12 - 1), st.sampled_from([("uint16", 0, 4096), ("int16", -1000, 3001), ("int32", -7, 70_001)]))
def test_a_depth_restores_every_level(level: int, kind: tuple[str, int, int]) -> None:
    dtype, low, high = kind
    depth = Depth(dtype, low, high)
    value = low + level * (high - low) // 4096
    x = (torch.tensor([float(value)]) - low) / (high - low)
    restored = depth.restored(x)
    assert restored.dtype == dtype
    assert restored.tolist() == [value]


def test_a_depth_clips_integers_and_not_floats() -> None:
    x = torch.tensor([-1.0, 0.5, 1.5, 99.0])
    assert BYTES.restored(x).tolist() == [0, 128, 255, 255]
    assert Depth("uint16", 0, 4096).restored(x).tolist() == [0, 2048, 4095, 4095]
    assert Depth("uint16", 0, 16).restored(torch.tensor([14.6, 6.51, 0.49]) / 16).tolist() == [15, 7, 0]
    assert Depth("int64", -(2.0**40), 2.0**40).restored(x).dtype == np.int64
    floats = Depth("float64", -10, 10).restored(x)
    assert floats.dtype == np.float64
    assert floats.tolist() == [-30, 0, 20, 1970]


@pytest.mark.parametrize("size", ["0", "64x", "x64", "-3", "64x0", "big", "12345", "6 4", "٣٢"])
def test_sizes_that_mean_nothing(size: str) -> None:
    with pytest.raises(ValueError, match=r"size is .* it must be like 64, or 48x64"):
        Reading(size=size)


def test_what_reading_allows() -> None:
    assert Reading().pixels() is None
    assert Reading(size="64").pixels() == (64, 64)
    assert Reading(size="48x64").pixels() == (48, 64)
    assert Reading(background="#Ff8000").colour() == (255, 128, 0)
    assert not Reading(background="#808080").coloured()
    for background in ("red", "#fff", "#12345g", ""):
        with pytest.raises(ValueError, match="allowed are white, black and #rrggbb"):
            Reading(background=background)
    with pytest.raises(ValueError, match="max_broken is -1"):
        Reading(max_broken=-1)


def test_options_need_no_torch() -> None:
    code = "import sys, ncsn.data.reading; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_named_set_in_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mnist()
    assert whole.labels is not None
    labels = Labels(**{part: getattr(whole.labels, part)[:40] for part in PARTS}, names=whole.labels.names)
    few = Images(whole.train[:40], whole.validation[:40], whole.test[:40], labels, "mnist")
    monkeypatch.setattr("ncsn.data.loading.mnist", lambda _: few)
    assert load_images("mnist", reading=Reading(size="28")) is few
    images = load_images("mnist", reading=Reading(size="14"))
    assert images.shape == (1, 14, 14)
    assert images.name == "mnist"
    assert images.said == ("cropped to 14 x 14: 120 of 120 images had another size",)
    assert images.labels is not None
    for part in PARTS:
        mine, theirs = getattr(images, part).float(), F.avg_pool2d(getattr(few, part).float(), 2)
        twins = [int((theirs - one).square().sum((1, 2, 3)).argmin()) for one in mine]
        assert sorted(twins) == list(range(40))
        assert torch.equal(getattr(images.labels, part), getattr(labels, part)[twins])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train-images.* is missing"):
        mnist(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    name = next(iter(MNIST_SHA256))
    content = b"\x1f\x8b" * 500 if damage == "truncated" else gzip.compress(bytes(16))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not MNIST's original"):
        mnist_file(name, tmp_path)


def write_image(path: Path, size: tuple[int, int], mode: str = "L") -> None:
    path.parent.mkdir(exist_ok=True)
    shape = size if mode == "L" else (*size, 3)
    Image.fromarray(np.full(shape, len(path.stem) * 9 % 256, np.uint8)).save(path)


def test_a_folder_of_grey_images(tmp_path: Path) -> None:
    for i in range(20):
        write_image(tmp_path / f"class{i % 2}" / f"{'x' * (i + 1)}.png", (12, 8))
    images = load_images(str(tmp_path))
    assert images.shape == (1, 12, 8)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [16, 2, 2]
    assert sorted(torch.cat([images.train, images.validation, images.test])[:, 0, 0, 0].tolist()) == [
        9 * i for i in range(1, 21)
    ]


def test_a_folders_images_are_shuffled_before_they_are_split(tmp_path: Path) -> None:
    """Always in the same way: else what is held out would be the first folder, one class of them."""
    for i in range(20):
        write_image(tmp_path / f"{'x' * (i + 1)}.png", (4, 4))
    images = load_images(str(tmp_path))
    found = torch.cat([images.validation, images.test, images.train])[:, 0, 0, 0]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert found.tolist() == (9 * (order + 1)).tolist() != sorted(found.tolist())


def test_one_colour_image_makes_the_folder_colour(tmp_path: Path) -> None:
    for i in range(10):
        write_image(tmp_path / f"{i}.png", (8, 8))
    Image.new("RGB", (8, 8), (9, 9, 8)).save(tmp_path / "4.png")
    images = load_images(str(tmp_path))
    assert images.shape == (3, 8, 8)
    assert images.said == ("grey as RGB: 9 of 10 images are grey, and have three equal channels now",)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 0 images"):
        load_images(str(tmp_path))


def test_a_broken_image(tmp_path: Path) -> None:
    for i in range(10):
        write_image(tmp_path / f"{i}.png", (8, 8))
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match=r"1 of 10 images cannot be read, .* allows 0: \S*3\.png \(no image that Pillow knows\)$"
    ):
        load_images(str(tmp_path))


def test_an_unknown_data_set() -> None:
    with pytest.raises(ValueError, match="imagenet is no data set; allowed are mnist, fashion-mnist"):
        load_images("imagenet")


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist", "cifar10"])
def test_without_a_network_the_user_is_told_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(ValueError, match=f"{name} could not be downloaded to .*; with a network run again"):
        load_images(name, tmp_path)


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST and its relatives."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_files_of_mnists_relatives_that_are_there_are_read(name: str, folder: str, tmp_path: Path) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 10_030), ("t10k", 20)):
        pixels = np.zeros((n, 28, 28), np.uint8)
        pixels[:, 3, 5] = np.arange(n) % 256
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    images = load_images(name, tmp_path)
    assert [tuple(part.shape) for part in (images.train, images.test)] == [(30, 1, 28, 28), (20, 1, 28, 28)]
    assert len(images.validation) == 10_000
    assert images.train[:, 0, 3, 5].tolist() == list(range(30))
    assert images.labels is not None
    assert images.labels.train.tolist() == [i % 10 for i in range(30)]
    assert images.labels.test.tolist() == [i % 10 for i in range(20)]
    assert len(images.labels.names) == 10


def test_files_of_cifar_that_are_there_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # these are made ones
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, n in [*((f"data_batch_{i}", 2010) for i in range(1, 6)), ("test_batch", 20)]:
        pixels = np.zeros((n, 3, 32, 32), np.uint8)
        pixels[:, 2, 4, 7] = np.arange(n) % 256  # blue, row 4, column 7
        content = {"data": pixels.reshape(n, -1), "labels": [i % 10 for i in range(n)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))
    images = load_images("cifar10", tmp_path)
    assert images.shape == (3, 32, 32)
    assert (len(images.train), len(images.validation), len(images.test)) == (50, 10_000, 20)
    assert images.train[:, 2, 4, 7].tolist() == list(range(50))
    assert int(images.train.sum()) == sum(range(50))
    assert images.labels is not None
    assert (len(images.labels.train), len(images.labels.validation), len(images.labels.test)) == (50, 10_000, 20)


def test_examples_by_index_and_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert torch.equal(read_example("3", (1, 28, 28)), centres(mnist().test[3]))
    part = torch.rand(4, 2, 5, 5)
    assert torch.equal(read_example("2", (2, 5, 5), images=Images(part, part, part)), part[2])
    with pytest.raises(ValueError, match="input is 4; the test images of letters are 0 to 3"):
        read_example("4", (2, 5, 5), images=Images(part, part, part, name="letters"))
    with pytest.raises(ValueError, match=r"3 has shape \(1, 28, 28\)"):
        read_example("3", (3, 28, 28))
    write_image(tmp_path / "grey.png", (28, 28))
    assert torch.equal(read_example(str(tmp_path / "grey.png"), (1, 28, 28)), torch.full((1, 28, 28), 36.5 / 256))
    assert read_example(str(tmp_path / "grey.png"), (3, 28, 28)).shape == (3, 28, 28)
    assert capsys.readouterr().err == ""
    write_image(tmp_path / "wide.png", (20, 40), "RGB")
    for fit, corner in (("crop", 36.5), ("stretch", 36.5), ("pad", 255.5)):
        found = read_example(str(tmp_path / "wide.png"), (1, 30, 30), reading=Reading(fit=fit))  # type: ignore[arg-type]
        assert found[0, 0, 0] * 256 == corner
        assert found[0, 15, 15] * 256 == 36.5
    assert "wide.png: made grey, padded to 30 x 30\n" in capsys.readouterr().err
    with pytest.raises(ValueError, match="grey or RGB pixels; 4 channels"):
        read_example(str(tmp_path / "wide.png"), (4, 30, 30))
    with pytest.raises(ValueError, match="is neither an index nor an image that can be read"):
        read_example(str(tmp_path / "absent.png"), (1, 30, 30))


def test_a_deep_example(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "deep.png")
    assert torch.equal(read_example(str(tmp_path / "deep.png"), (1, 4, 4)), torch.full((1, 4, 4), 1000 / 1024))
    depth = Depth("uint16", 0, 4096)
    found = read_example(str(tmp_path / "deep.png"), (1, 4, 4), depth=depth)
    assert torch.equal(found, torch.full((1, 4, 4), 1000 / 4096))
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / "bytes.png")
    assert torch.equal(read_example(str(tmp_path / "bytes.png"), (1, 4, 4), depth=depth), torch.full((1, 4, 4), 0.2))
    with pytest.raises(ValueError, match=r"deep.png has uint16, the data float32: they have no scale in common$"):
        read_example(str(tmp_path / "deep.png"), (1, 4, 4), depth=Depth("float32", 0, 1))
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "floats.tiff")
    with pytest.raises(ValueError, match=r"floats.tiff has float32, the data uint16: they have no scale in common$"):
        read_example(str(tmp_path / "floats.tiff"), (1, 4, 4), depth=depth)
