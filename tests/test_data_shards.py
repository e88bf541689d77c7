"""Data in shards: what is looked at, what training sees, on one process and on several; what is refused."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import classes, contents, packed, png, values, write
from PIL import Image
from webdataset import TarWriter

from ncsn.data import Images, Origin, Reading, load_images
from ncsn.data.shards import stream
from ncsn.learn.rules import resolve
from ncsn.learn.settings import Images as Settings
from ncsn.objectives import Batch

EACH = 12  # images in a shard
SIX = ("x-000", "x-001", "x-002", "x-003", "x-004", "x-005")


def written(path: Path, samples: list[dict[str, object]]) -> None:
    """A shard by the library's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04}", "txt": "a caption"} | sample)


def made(folder: Path, names: tuple[str, ...] = SIX) -> str:
    """Shards of 12 images with three classes, numbered through, and the pattern of their names."""
    for k, name in enumerate(names):
        written(folder / f"{name}.tar", [{"png": png(v), "cls": v % 3} for v in range(EACH * k, EACH * k + EACH)])
    return f"{folder}/{{{','.join(names)}}}.tar"


def seen(images: Images, seed: int, size: int, batches: int, **reading: int) -> list[Batch]:
    """Some batches of a process whose generator has had this seed last."""
    generator = torch.Generator().manual_seed(seed)
    drawn = stream(images, Reading(**reading), size, generator, labels=True, flip=False)  # type: ignore[arg-type]
    found = list(islice(drawn, batches))
    drawn.close()  # type: ignore[attr-defined]
    return found


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
@pytest.mark.parametrize("folder", [False, True])
def test_shards_are_parts(tmp_path: Path, names: tuple[str, ...], folder: bool) -> None:
    pattern = made(tmp_path, names)
    images = load_images(str(tmp_path) if folder else pattern)
    assert contents(images) == {"train": [*range(48)], "validation": [*range(48, 60)], "test": [*range(60, 72)]}
    assert classes(images) == {v: str(v % 3) for v in range(72)}
    assert images.shards == tuple(tmp_path / f"{name}.tar" for name in names[:4])


def test_what_is_looked_at_is_from_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncsn.data.shards.LOOKED_AT", 20)
    assert contents(load_images(made(tmp_path)))["train"] == [12 * k + i for k in range(4) for i in range(5)]


def test_a_folder_of_images_with_a_tar_beside_them_is_one_of_images(tmp_path: Path) -> None:
    made(tmp_path, ("x",))
    images = load_images(write(tmp_path, {f"{i}.png": 100 + i for i in range(20)}))
    assert images.shards is None
    assert min(contents(images)["train"]) >= 100


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


def test_who_begins_elsewhere_sees_others(tmp_path: Path) -> None:
    """Two seeds differ, as those of two processes, or of two steps to begin at, do; the same one sees the same."""
    images = load_images(made(tmp_path))
    sights = [first(seen(images, seed, 8, 1)[0]) for seed in (0, 1, 5)]
    assert [len(sight) for sight in sights] == [8] * 3
    assert len({tuple(sight) for sight in sights}) == 3
    assert first(seen(images, 0, 8, 1)[0]) == sights[0]


def test_images_become_what_they_become_elsewhere(tmp_path: Path) -> None:
    """Equal channels are grey, other sizes are fitted: in what is looked at and in what is trained on."""
    squares = [packed(Image.new("RGB", (10 + i % 3, 9), (i, i, i))) for i in range(EACH)]
    for k in range(3):
        written(tmp_path / f"{k}.tar", [{"png": square} for square in squares])
    images = load_images(str(tmp_path), reading=Reading(size="6"))
    batch = next(stream(images, Reading(size="6"), 4, torch.Generator(), labels=False, flip=True))
    assert batch.x.shape == (4, *images.shape) == (4, 1, 6, 6)
    assert batch.label is None
    assert all(len({*row.flatten().mul(256).floor().tolist()}) == 1 for row in batch.x)


@pytest.mark.parametrize("mode", ["RGB", "I;16", "broken"])
def test_what_is_broken_or_of_another_kind_is_counted(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.data.shards.LOOKED_AT", 20)
    pattern = made(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    odd = packed(Image.fromarray(noise if mode == "RGB" else noise[..., 0].astype(np.uint16)))
    samples: list[dict[str, object]] = [{"png": png(v), "cls": v % 3} for v in range(EACH)]
    samples[7]["png"] = b"no image" if mode == "broken" else odd
    written(tmp_path / "x-000.tar", samples)
    images = load_images(pattern)
    with pytest.raises(ValueError, match=r"x-000\.tar 0007 cannot be read \(.*--max-broken allows 1 images"):
        seen(images, 0, 16, 60, max_broken=1)
    drawn = [value for batch in seen(images, 0, 16, 20, max_broken=10**6) for value in first(batch)]
    assert {*range(48)} - {*drawn} == {7}


def test_what_is_no_data_set_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = made(tmp_path / "good")
    made(tmp_path / "two", ("a", "b"))
    for k in range(3):
        (tmp_path / f"cut-{k}.tar").write_bytes((tmp_path / "good" / "x-000.tar").read_bytes()[:9000])
    for name, why in {
        "good/x-{000..009}.tar": r"stands for 10 shards; 4 are missing, such as .*x-006\.tar",
        "two": "is 2 shards; one for training",
        "two/x-{0..3.tar": "nbalanced",
        "cut-{0..2}.tar": r"^[^\n]*cut-0\.tar cannot be read as a shard \([^\n]*\)$",
    }.items():
        with pytest.raises(ValueError, match=why):
            load_images(str(tmp_path / name))
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ValueError, match=r"pip install 'ncsn\[shards\]'"):
        load_images(pattern)


def test_a_run_finds_its_shards_again(tmp_path: Path) -> None:
    pattern = made(tmp_path / "here")
    images = load_images(pattern)
    origin = Origin.of(pattern, None, Reading(), images)
    assert origin.load().digest == images.digest
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(ValueError, match="stands for 6 shards; 6 are missing"):
        origin.load()
    assert origin.load(str(tmp_path / "there")).digest == images.digest


def test_posterior_targets_are_off(tmp_path: Path) -> None:
    images = load_images(made(tmp_path))
    settings = resolve(Settings(steps=3), images, torch.device("cpu"))
    assert settings.posterior_above == settings.sigma_max
    with pytest.raises(ValueError, match=r"posterior_above is 0\.5; it asks all training images"):
        resolve(Settings(steps=3, posterior_above=0.5), images, torch.device("cpu"))
