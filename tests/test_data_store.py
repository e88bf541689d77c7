"""Images that do not fit into memory: stored once, found again, never half."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ncsn.data import Images, Reading, batches, filling, load_images
from ncsn.data import store as store_module

PARTS = ("train", "validation", "test")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, where nothing is yet; and a limit that everything exceeds."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(store_module, "IN_MEMORY", 0)
    return tmp_path / "cache" / "store"


def folder_of(folder: Path, mode: str = "RGB") -> str:
    folder.mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).convert("RGB").save(folder / f"{i}.png")
    return str(folder)


def same(one: Images, other: Images) -> bool:
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in PARTS)


def stores(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_store_has_what_memory_would(
    tmp_path: Path, cache: Path, mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "x", mode)
    stored = load_images(folder)
    (place,) = stores(cache)
    assert f"the images take 0.0 GB: they are written to {place}, once\n" in capsys.readouterr().err
    monkeypatch.setattr(store_module, "IN_MEMORY", 10**9)
    (place / "elsewhere").write_text("")
    again = load_images(folder)  # from the store, too
    place.rename(tmp_path / "away")
    fresh = load_images(folder)
    assert fresh.shape[0] == (3 if mode == "RGB" else 1)
    for images in (stored, again):
        assert same(images, fresh)
        assert (images.said, images.depth, images.name) == (fresh.said, fresh.depth, fresh.name)
        assert images.digest == fresh.digest


def test_a_store_does_not_depend_on_where_one_stands(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "x")
    images = load_images(folder)
    for where, name in ((tmp_path, "x"), (tmp_path / "x", ".")):
        monkeypatch.chdir(where)
        assert same(load_images(name), images)
    assert len(stores(cache)) == 1


def test_a_store_is_used_again_until_a_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path / "x")
    images = load_images(folder)
    decoded = []
    original = filling.fill

    def counted(*args: object) -> object:
        decoded.append(args)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "fill", counted)
    assert same(load_images(folder), images)
    assert not decoded
    load_images(folder, reading=Reading(size="4"))
    assert len(decoded) == 1
    Image.new("RGB", (5, 6), (1, 2, 3)).save(tmp_path / "x" / "7.png")
    os.utime(tmp_path / "x" / "7.png", (1, 1))
    assert not same(load_images(folder), images)
    assert len(decoded) == 2
    assert len(stores(cache)) == 3


def test_an_interrupted_store_is_never_used(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "x")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_images(folder)
    assert stores(cache) == []
    images = load_images(folder)
    (place,) = stores(cache)
    # What a kill leaves: a folder under another name, in which pixels are missing.
    half = place.rename(place.with_suffix(".partial"))
    (half / "pixels.npy").unlink()
    (half / "pixels.npy").write_bytes(b"half")
    assert same(load_images(folder), images)
    assert stores(cache) == [place]


def test_a_full_disk_is_said_before(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"the images take 0\.0 GB, but .* has only 0\.0 GB left"):
        load_images(folder_of(tmp_path / "x"))
    assert stores(cache) == []


def test_broken_images_are_left_out_of_a_store(tmp_path: Path, cache: Path) -> None:
    folder = folder_of(tmp_path / "x")
    for i in (3, 17, 21):
        path = tmp_path / "x" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(ValueError, match="3 of 30 images cannot be read"):
        load_images(folder)
    assert stores(cache) == []
    first, second = (load_images(folder, reading=Reading(max_broken=3)) for _ in range(2))
    assert same(first, second)
    assert sum(len(getattr(first, part)) for part in PARTS) == 27
    (place,) = stores(cache)
    assert len(json.loads((place / "facts.json").read_text())["said"]) == 1


def test_deep_images_and_labels_are_stored(tmp_path: Path, cache: Path) -> None:
    values = np.arange(30 * 16, dtype=np.uint16).reshape(30, 4, 4) * 8
    np.savez(tmp_path / "x.npz", images=values, labels=np.arange(30) % 3)
    for _ in range(2):
        images = load_images(str(tmp_path / "x.npz"))
        assert images.depth.high == 4096
        assert images.labels is not None
        for part in PARTS:
            found = images.depth.restored(getattr(images, part))
            assert (found[:, 0, 0, 0] // 128 % 3 == getattr(images.labels, part).numpy()).all()


def test_a_store_is_drawn_from_and_not_written(tmp_path: Path, cache: Path, generator: torch.Generator) -> None:
    images = load_images(folder_of(tmp_path / "x"))
    assert next(batches(images.train, 8, generator=generator)).x.shape == (8, 3, 6, 5)
    before = images.digest
    images.train[:] = 0
    assert load_images(str(tmp_path / "x")).digest == before


MEASURE = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import platformdirs, torch
platformdirs.user_cache_path = lambda *_, **__: Path(sys.argv[2])
from ncsn.data import batches, load_images, store
store.IN_MEMORY = 10**6
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_images(sys.argv[3])
before = peak()
images = load_images(sys.argv[1])
next(batches(images.train, 64, generator=torch.Generator().manual_seed(0)))
print(peak() - before)
"""


def test_memory_is_not_what_the_images_take(tmp_path: Path) -> None:
    """100 MB of images, once in a file and once in the store, of which the second is mapped."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "small.npy", rng.integers(0, 256, (100, 64, 64, 3), np.uint8))
    np.save(tmp_path / "large.npy", rng.integers(0, 256, (8000, 64, 64, 3), np.uint8))
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / n) for n in ("large.npy", "cache", "small.npy"))]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert used < 1.4 * 8000 * 64 * 64 * 3
