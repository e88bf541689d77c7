import gzip
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ncsn.data import MNIST_SHA256, batches, load_images, mnist, mnist_file, mnist_labels
from ncsn.pixels import centres, dequantize, quantize


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


def test_statistics_are_those_of_the_dequantised_pixels(generator: torch.Generator) -> None:
    images = mnist()
    mean, std = images.statistics()
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


def test_a_batch_has_the_class_of_each_example(generator: torch.Generator) -> None:
    """The class is written into the example: 10 times it, in whatever order they come."""
    labels = torch.arange(50) % 7
    batch = next(batches(10.0 * labels[:, None], 40, labels, generator=generator))
    assert batch.label is not None
    assert torch.equal(batch.x[:, 0], 10.0 * batch.label)
    assert len(set(batch.label.tolist())) > 4


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
        write_image(tmp_path / f"{i}.png", (8, 8), "RGB" if i == 4 else "L")
    assert load_images(str(tmp_path)).shape == (3, 8, 8)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 0 images"):
        load_images(str(tmp_path))


def test_images_of_mixed_sizes(tmp_path: Path) -> None:
    for i in range(10):
        write_image(tmp_path / f"{i}.png", (8, 8) if i else (8, 12))
    with pytest.raises(ValueError, match=r"8 x 8 pixels but .* has 8 x 12"):
        load_images(str(tmp_path))


def test_a_broken_image(tmp_path: Path) -> None:
    for i in range(10):
        write_image(tmp_path / f"{i}.png", (8, 8))
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png cannot be read"):
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
    assert images.labels.tolist() == [i % 10 for i in range(30)]


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
    assert len(images.labels) == 50
