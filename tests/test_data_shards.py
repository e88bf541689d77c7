"""Data in shards: what is looked at, what training sees, on one process and on several; what is refused."""

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import classes, contents, packed, png, values, write
from PIL import Image

from ncsn.data import Images, Origin, Reading, load_images
from ncsn.data.images import stream
from ncsn.learn.rules import resolve
from ncsn.learn.settings import Images as Settings
from ncsn.objectives import Batch

EACH = 12  # images in a shard
SIX = ("x-000", "x-001", "x-002", "x-003", "x-004", "x-005")


def written(path: Path, images: list[bytes], numbers: list[int]) -> None:
    """A shard as WebDataset's tools write them, or tar: a caption, the image and its class lie beside one another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, image in zip(numbers, images, strict=True):
            for suffix, content in (("txt", b"a caption"), ("PNG", image), ("cls", f"{number % 3}\n".encode())):
                info = tarfile.TarInfo(f"./v1.0/{number:04}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def made(folder: Path, names: tuple[str, ...] = SIX) -> str:
    """A folder of shards of 12 images with three classes, numbered through."""
    for k, name in enumerate(names):
        numbers = [*range(EACH * k, EACH * k + EACH)]
        written(folder / f"{name}.tar", [png(number) for number in numbers], numbers)
    return str(folder)


def seen(images: Images, seed: int, size: int, batches: int, **reading: int) -> list[Batch]:
    """Some batches of a process whose generator has had this seed last."""
    generator = torch.Generator().manual_seed(seed)
    drawn = stream(images, Reading(**reading), size, generator, labels=True, flip=False)  # type: ignore[arg-type]
    return list(islice(drawn, batches))


def first(batch: Batch) -> list[int]:
    return values((256 * batch.x).floor())


@pytest.mark.parametrize(
    "names",
    [
        SIX,
        ("train-0", "train-1", "train-2", "train-3", "val-0", "test-0"),
        ("train/x-0", "train/x-1", "train/x-2", "train/x-3", "valid/x-4", "test/x-5"),
    ],
)
def test_shards_are_parts(tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(made(tmp_path, names))
    assert contents(images) == {"train": [*range(48)], "validation": [*range(48, 60)], "test": [*range(60, 72)]}
    assert classes(images) == {v: str(v % 3) for v in range(72)}
    assert images.shards == tuple(tmp_path / f"{name}.tar" for name in names[:4])
    settings = resolve(Settings(steps=3), images, torch.device("cpu"))
    assert settings.posterior_above == settings.sigma_max, "which would ask all training images"
    with pytest.raises(ValueError, match=r"posterior_above is 0\.5"):
        resolve(Settings(steps=3, posterior_above=0.5), images, torch.device("cpu"))
    origin = Origin.of(str(tmp_path), Reading(), images)
    assert origin.load().digest == images.digest
    monkeypatch.setattr("ncsn.data.sources.LOOKED_AT", 20)
    assert contents(load_images(str(tmp_path)))["train"] == [12 * k + i for k in range(4) for i in range(5)]
    write(tmp_path, {f"{i}.png": 100 + i for i in range(20)})
    images = load_images(str(tmp_path))
    assert images.shards is None, "where images lie beside them"
    assert images.said[0].startswith("6 .tar left out")


def test_training_sees_all_images_with_their_classes_about_once_an_epoch(tmp_path: Path) -> None:
    images = load_images(made(tmp_path))
    batches = seen(images, 3, 16, 60)
    drawn = [value for batch in batches for value in first(batch)]
    counts = np.bincount(drawn, minlength=48)
    assert len(counts) == 48
    assert counts.min() >= 5
    assert counts.mean() == 20
    assert all(batch.label is not None and batch.label.tolist() == [v % 3 for v in first(batch)] for batch in batches)
    assert len({value // EACH for value in first(batches[10])}) > 1, "shuffled beyond a shard"
    sights = [first(seen(images, seed, 8, 1)[0]) for seed in (0, 1, 5, 0)]
    assert len({tuple(sight) for sight in sights}) == 3, "as those of three processes, or of three steps to begin at"
    assert sights[0] == sights[3]


def test_images_become_what_they_become_elsewhere(tmp_path: Path) -> None:
    """Equal channels are grey, other sizes are fitted: in what is looked at and in what is trained on."""
    squares = [packed(Image.new("RGB", (10 + i % 3, 9), (i, i, i))) for i in range(EACH)]
    for k in range(3):
        written(tmp_path / f"{k}.tar", squares, [*range(EACH)])
    images = load_images(str(tmp_path), reading=Reading(size="6"))
    batch = next(stream(images, Reading(size="6"), 4, torch.Generator(), labels=False, flip=True))
    assert batch.x.shape == (4, *images.shape) == (4, 1, 6, 6)
    assert batch.label is None
    assert all(len({*row.flatten().mul(256).floor().tolist()}) == 1 for row in batch.x)


ODD = {
    "colours": packed(Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8))),
    "16 bits": packed(Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5))),
    "another size": packed(Image.new("L", (5, 5))),
    "broken": b"no image",
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_broken_or_of_another_kind_is_counted(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.data.sources.LOOKED_AT", 20)
    made(tmp_path)
    written(tmp_path / "x-000.tar", [ODD[kind] if v == 7 else png(v) for v in range(EACH)], [*range(EACH)])
    images = load_images(str(tmp_path))
    with pytest.raises(ValueError, match=r"x-000\.tar .*0007 cannot be read \(.*--max-broken is 1"):
        seen(images, 0, 16, 60, max_broken=1)
    drawn = [value for batch in seen(images, 0, 16, 20, max_broken=10**6) for value in first(batch)]
    assert {*range(48)} - {*drawn} == {7}


@pytest.mark.parametrize(
    ("names", "size", "why"),
    [
        (("a", "b"), None, "is 2 shards; one for training"),
        (("train-0", "train-1", "train-2", "test-0"), None, "is 4 shards; one for training"),
        (("a", "b", "c"), 9000, r"^[^\n]*[abc]\.tar cannot be read as a shard \([^\n]*\)$"),
    ],
)
def test_what_is_no_data_set_in_shards(tmp_path: Path, names: tuple[str, ...], size: int | None, why: str) -> None:
    made(tmp_path, names)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=why):
        load_images(str(tmp_path))
