"""Folders, archives and arrays: what is an image, which class, which part; and what only looks so."""

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import refused
from pictures import classes, contents, everything, in_order, packed, pixels, png, values, write
from PIL import Image

from ncsn.batching import centres
from ncsn.data.dataset import Dataset
from ncsn.data.transforms import Depth
from ncsn.images import read_example
from ncsn.loading import load_dataset
from ncsn.settings import Reading

FLAT = {f"{i:02d}.png": i for i in range(20)}
CLASSES = {f"{'dog' if i % 3 else 'cat'}/deep/{i:02d}.png": i for i in range(20)}


def parts(*names: str) -> dict[str, int]:
    """20 images in the first folder from 0 on, 5 in the second from 100 on, 4 in the third from 200 on."""
    sizes = zip(names, (20, 5, 4), strict=False)
    return {f"{name}/{i}.png": 100 * k + i for k, (name, n) in enumerate(sizes) for i in range(n)}


def write_tar(place: Path, files: Mapping[str, bytes]) -> str:
    with tarfile.open(place, "w:gz" if place.suffix == ".gz" else "w") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return str(place)


def archive(place: Path, files: Mapping[str, int | bytes]) -> str:
    """Files, as bytes or as the value of an image, in a zip or tar archive, and in no order of theirs."""
    names = sorted(files, key=lambda name: name[::-1])
    whole = {name: png(value) if isinstance(value := files[name], int) else value for name in names}
    if place.suffix != ".zip":
        return write_tar(place, whole)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in whole.items():
            file.writestr(name, content)
    return str(place)


@pytest.mark.parametrize("wrapping", ["", "set/v1/", "set\\"])
def test_folders_and_archives_are_alike(tmp_path: Path, wrapping: str) -> None:
    """Some programs of Windows write backslashes between folders."""
    split = (("Training", 20), ("VAL", 5), ("test", 4))
    inside = {f"{part}/{'dog' if i % 3 else 'cat'}/{i:02d}.{('png', 'JPE')[i % 2]}": 100 * k + i
              for k, (part, n) in enumerate(split) for i in range(n)}  # fmt: skip
    whole: dict[str, int | bytes] = {f"{wrapping}{name}": value for name, value in inside.items()}
    whole |= {f"{wrapping}Training/dog/.hidden.png": 50, f"{wrapping}.thumbs/x.png": 51, "__MACOSX/._a.png": 52}
    whole |= {f"{wrapping}{name}": b"no image" for name in ("README", "Training/x.heic", "Training/y.heic")}
    places = [archive(tmp_path / "birds.zip", whole)]
    if "\\" not in wrapping:
        places += [archive(tmp_path / f"birds.{kind}", whole) for kind in ("tar", "tar.gz")]
        places.append(write(tmp_path / "birds", whole))
    for place in places:
        images = load_dataset(place)
        assert images.name == "birds"
        held = {"validation": list(range(100, 105)), "test": list(range(200, 204))}
        assert contents(images) == {"train": list(range(20)), **held}
        assert classes(images) == {value: name.split("/")[1] for name, value in inside.items()}
        assert ["3 files left out: 2 .heic, 1 without suffix" in line for line in images.notes] == [True]
        for image, value in zip(images.train[:, 0].numpy(), values(images.train), strict=True):
            assert (image == pixels(value)).all()


def test_members_outside_of_an_archive_are_left_out_and_counted(tmp_path: Path) -> None:
    beyond: dict[str, int | bytes] = {"/root/a.png": 99, "../b.png": 98, "x/../../c.png": 97}
    for kind in ("zip", "tar"):
        images = load_dataset(archive(tmp_path / f"x.{kind}", FLAT | beyond))
        assert everything(images) == sorted(FLAT.values())
        assert ["3 files left out: 3 outside the archive" in line for line in images.notes] == [True]


LAYOUTS: dict[str, tuple[Mapping[str, int], list[int], list[int], set[str]]] = {
    "classes": (CLASSES, [2, 2], [], {"cat", "dog"}),
    "classes and an image in none": (CLASSES | {"stray.png": 99}, [2, 2], [], set()),
    "one folder": (parts("only"), [2, 2], [], set()),
    "parts beside others": (parts("train", "val", "extra") | {"sample.png": 99}, [5, 2], [99, *range(200, 204)], set()),
    "a part to judge by beside images": (FLAT | {f"x/../test/{i}.png": 200 + i for i in range(4)}, [2, 4], [], set()),
    "by their beginnings": (parts("Training", "eval", "test_2017"), [5, 4], [], set()),
    "a class called train": (parts("train", "plane"), [2, 2], [], {"train", "plane"}),
    "classes that begin so": (parts("trains", "valley", "testudo"), [2, 2], [], {"trains", "valley", "testudo"}),
    "classes in parts": (parts("train/b", "val/a", "test/b"), [5, 4], [], {"a", "b"}),
    "parts in classes, one called test": (parts("train/test", "b/val", "test/b"), [5, 4], [], {"test", "b"}),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_what_folders_mean(tmp_path: Path, case: str) -> None:
    files, held, left_out, names = LAYOUTS[case]
    images = load_dataset(write(tmp_path, files))
    assert [len(images.validation), len(images.test)] == held
    assert everything(images) == sorted({*files.values()} - {*left_out})
    assert [line.split(" ")[0] for line in images.notes] == [str(len(left_out))] * bool(left_out)
    assert names == (set() if images.labels is None else {*images.labels.names})
    if names:
        assert f"{len(names)} classes ({', '.join(sorted(names))})" in images.describe()
        assert all((classes(images) or {})[value] in Path(name).parts for name, value in files.items())
    if held != [2, 2]:
        assert max(contents(images)["train"]) < 100
        assert held[0] == 2 or contents(images)["validation"] == list(range(100, 105))
        assert held[1] == 2 or min(contents(images)["test"]) >= 200


def test_broken_files_move_no_others(tmp_path: Path) -> None:
    """A pipe is not waited for; with them, and without them, each whole image is in the same part as ever."""
    whole = load_dataset(write(tmp_path, {f"{i:02d}.png": i for i in range(40)}))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    assert values(whole.validation) + values(whole.test) + values(whole.train) == order
    odd = {"03": b"no image", "17": png(17)[:50], "20": b"", "21": b"", "22": b""}  # the header of the second is whole
    write(tmp_path, {f"{name}.png": content for name, content in odd.items()})
    for name in ("20", "21"):
        (tmp_path / f"{name}.png").unlink()
    os.mkfifo(tmp_path / "20.png")
    (tmp_path / "21.png").symlink_to("21.png")
    with pytest.raises(ValueError, match=r" 4 [^\n]* 5 of 40: .*03\.png .*22\.png \("):
        load_dataset(str(tmp_path), reading=Reading(max_broken=4))
    images = load_dataset(str(tmp_path), reading=Reading(max_broken=5))
    for part, found in contents(images).items():
        assert found == sorted({*contents(whole)[part]} - {*map(int, odd)})
    assert images.notes[-1].startswith("broken images skipped: 5 of 40")
    write(tmp_path, {f"{i:02d}.png": b"no image" for i in range(39) if i not in (20, 21)})
    with pytest.raises(ValueError, match=r"none for .* 39 of 40"):
        load_dataset(str(tmp_path), reading=Reading(max_broken=40))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["00.png", "absent.png", "/absent/x.png"])
def test_links_in_archives_are_broken(tmp_path: Path, kind: bytes, target: str) -> None:
    path = archive(tmp_path / "x.tar", FLAT)
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = kind, target
        file.addfile(info)
    with pytest.raises(ValueError, match=r"1 of 21: .*link\.png \("):
        load_dataset(path)
    images = load_dataset(path, reading=Reading(max_broken=1))
    assert everything(images) == [*range(20)]
    assert images.notes[-1].startswith("broken images skipped: 1 of 21")


def test_of_files_with_one_name_in_an_archive_the_last_counts(tmp_path: Path) -> None:
    tar, packed = archive(tmp_path / "x.tar", FLAT), archive(tmp_path / "x.zip", FLAT)
    with tarfile.open(tar, "a") as file:
        info = tarfile.TarInfo("03.png")
        info.size = len(png(100))
        file.addfile(info, io.BytesIO(png(100)))
    with zipfile.ZipFile(packed, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("03.png", png(100))
    for path in (tar, packed):
        images = load_dataset(path)
        assert everything(images) == sorted({*range(20), 100} - {3})
        assert images.notes[0].startswith("1 file left out")


def test_each_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    """Of a loop, and of two parts that are one folder: no image is in two."""
    write(tmp_path / "elsewhere", CLASSES)
    top = Path(write(tmp_path / "top", {f"test/{i}.png": 100 + i for i in range(7)}))
    (top / "train").symlink_to(tmp_path / "elsewhere")
    (top / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dog" / "loop").symlink_to(top)
    images = load_dataset(str(top))
    assert everything(images) == [*range(20), *range(100, 107)]
    assert contents(images)["test"] == [*range(100, 107)]


def test_names_that_config_json_could_not_hold_are_refused(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff")
    named = write(tmp_path / "x", {f"{i}{odd}.png": i for i in range(20)})
    assert sorted(everything(load_dataset(named))) == [*range(20)], "it needs no names of images"
    kinds = write(tmp_path / "y", {f"{name}/{i}.png": i for name in ("a", odd) for i in range(10)})
    for place in (write(tmp_path / odd, FLAT), kinds):
        with pytest.raises(ValueError, match="is not UTF-8"):
            load_dataset(place)


def test_places_that_hold_no_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "cut.zip").write_bytes(Path(archive(tmp_path / "whole.zip", FLAT)).read_bytes()[:900])
    swallowed = bytearray(Path(archive(tmp_path / "whole.zip", FLAT)).read_bytes())
    swallowed[swallowed.index(b"PK\1\2") + 32] = 52  # the first entry's comment covers the second entry
    (tmp_path / "swallowed.zip").write_bytes(swallowed)
    (tmp_path / "x.tar.gz").write_bytes(b"1,2")
    whole = bytearray(Path(archive(tmp_path / "whole.tar", FLAT)).read_bytes())
    whole[5120:5632] = b"x" * 512  # a header in the middle: tarfile takes it for the end
    (tmp_path / "middle.tar").write_bytes(whole)
    write(tmp_path / "nine", {f"{i}.png": i for i in range(9)} | {"x.heic": 1})
    write(tmp_path / "judged", {f"{('test', 'val')[i % 2]}/{i}.png": i for i in range(20)})
    write(tmp_path / "two", {"a.tar": 1, "b.tar": 2})
    write(tmp_path / "plain", {"a/1": png(1), "a/2": png(2), "x.dcm": b"DICM"})
    (tmp_path / "empty").mkdir()
    for name, why in {
        "pipe.zip": "is not a dataset",
        "swallowed.zip": "19 of 20 files",
        "x.tar.gz": "cannot be read as a tar archive",
        "middle.tar": "cannot be read as a tar archive",
        "absent": "absent does not exist",
        "cut.zip": r"^[^\n]*cut\.zip cannot be read[^\n]*$",
        "nine": "has 9 images for training; at least 10 .*; 1 file left out: 1 .heic",
        "judged": "has 20 images, but none for train",
        "two": "holds no images, but 2 .tar",
        "plain": r"2 without suffix, 1 \.dcm; .*\.png",
        "empty": "empty is empty; .*png",
    }.items():
        with pytest.raises(ValueError, match=why):
            load_dataset(str(tmp_path / name))


# Arrays

STACK = np.stack([pixels(i) for i in range(20)])
COLOUR = np.stack([STACK, STACK + 20, STACK + 40], 3)
FOUR = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 4)).astype(np.uint8)
EACH = np.arange(20) % 12


def saved(place: Path, **arrays: Any) -> str:
    """An .npz of arrays, or an .npy of the only one."""
    with place.open("wb") as file:
        np.save(file, *arrays.values()) if place.suffix == ".npy" else np.savez_compressed(file, **arrays)
    return str(place)


GREY, SEEN = STACK[..., None], np.where(FOUR[..., 3:] > 0, FOUR, 0)
FORMS = [(STACK, GREY), (STACK[:, None], GREY), (COLOUR, COLOUR), (FOUR, SEEN), (COLOUR.transpose(0, 3, 1, 2), COLOUR)]


def converted(images: Dataset) -> list[str]:
    """What was done to the numbers, without what the array was taken for."""
    return [note for note in images.notes if not note.startswith("read as ")]


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(("array", "last"), FORMS)
def test_arrays_of_every_form(tmp_path: Path, array: np.ndarray, last: np.ndarray, suffix: str) -> None:
    for anything in (array, np.asfortranarray(array)):
        images = load_dataset(saved(tmp_path / f"x.{suffix}", anything=anything))
        assert torch.equal(in_order(images), torch.from_numpy(last.transpose(0, 3, 1, 2)))
        assert (images.name, converted(images), images.labels) == ("x", [], None)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "kept", "top"),
    [
        ("int64", 0, 255, "uint8", 256),
        ("int64", 0, 120, "int64", 128),
        ("int16", -160, 99, "int16", 100),
        ("int32", 0, 1000, "int32", 1024),
        ("bool", 0, 1, "uint8", 256),
        (">u2", 0, 1023, "uint16", 1024),
        ("float64", 0, 1, "float64", 1),
        ("float16", -3, 4, "float16", 4),
        ("float64", 1.7e9, 1.7e9 + 128, "float64", 1.7e9 + 128),
    ],
)
def test_what_numbers_mean(tmp_path: Path, dtype: str, low: float, high: float, kept: str, top: float) -> None:
    array = (low + np.arange(20 * 30).reshape(20, 6, 5) % (high - low + 1)).astype(dtype)
    images = load_dataset(saved(tmp_path / "x.npy", x=array))
    depth = images.transform
    assert isinstance(depth, Depth)
    assert (depth.dtype, depth.high) == (kept, top)
    found = in_order(images)[:, 0]
    if kept == "uint8":
        assert torch.equal(found, torch.from_numpy(array.astype(np.uint8) * np.uint8(255 if dtype == "bool" else 1)))
    else:
        assert (depth.stored(found) == array).all()
        assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert converted(images), "what is rounded, scaled or narrowed is said"


@pytest.mark.parametrize("key", ["labels", "label", "y"])
@pytest.mark.parametrize("labels", [EACH, EACH[:, None], EACH.astype("U")])
def test_classes_beside_the_images(tmp_path: Path, labels: np.ndarray, key: str) -> None:
    """Numbers are in their order, of which 10 is after 2; text is in that of the alphabet."""
    images = load_dataset(saved(tmp_path / "x.npz", **{"images": STACK, key: labels}))
    assert classes(images) == {i: str(i % 12) for i in range(20)}
    assert images.labels is not None
    assert images.labels.names == tuple(sorted(map(str, range(12)), key=str if labels.dtype.kind == "U" else int))


@pytest.mark.parametrize("keys", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"])
def test_keys_of_parts(tmp_path: Path, keys: str) -> None:
    arrays = dict(zip(keys.split(), (STACK, EACH + 4, STACK[:5] + 100, EACH[:5, None] + 12), strict=True))
    images = load_dataset(saved(tmp_path / "x.npz", **arrays))
    assert contents(images)["test"] == [100, 101, 102, 103, 104]
    assert len(images.validation) == 2
    assert classes(images) == {i: str(i % 12 + 4) for i in range(20)} | {100 + i: str(i + 12) for i in range(5)}
    images = load_dataset(saved(tmp_path / "x.npz", train=STACK, val=STACK[:4] + 200, test=STACK[:5] + 100))
    assert (contents(images)["validation"], images.labels) == ([200, 201, 202, 203], None)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((20, 2, 2, 2, 2), np.uint8)}, r"shape \(20, 2, 2, 2, 2\)"),
        ({"x": np.zeros((20, 2, 4), np.complex64)}, "complex64"),
        ({"x": np.full((20, 4, 4), None)}, "cannot be read as arrays"),
        ({"x": np.full((20, 4, 4), np.nan)}, "holds 320 values that are NaN"),
        ({"x": STACK, "b": EACH}, r"x \(20, 6, 5\) of uint8, b "),
        ({"x": STACK, "images": STACK}, "x_train"),
        ({"x_test": STACK, "y_test": EACH}, "x_train"),
        ({"x_train": STACK, "y_train": EACH, "x_test": STACK}, "x_train"),
        ({"x_train": STACK, "x_test": STACK[..., None] * 1.0}, "of one dtype"),
        ({"x": STACK, "y": EACH * 1.0}, r"classes .* float64"),
        ({"x": STACK, "y": np.zeros((20, 14), np.int64)}, r"classes .* \(20, 14\)"),
        ({"x": STACK, "y": EACH[:19]}, r"classes .* \(19,\)"),
        ({"x": STACK, "y": EACH.reshape(10, 2)}, r"classes .* \(10, 2\)"),
        ({}, "holds nothing"),
    ],
)
def test_arrays_that_are_no_data_sets(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    for place in ["x.npz"] + ["x.npy"] * (arrays.keys() == {"x"}):
        with pytest.raises(ValueError, match=why):
            load_dataset(saved(tmp_path / place, **arrays))


LARGE = {"grey": STACK, "channels last": COLOUR, "channels first": COLOUR.transpose(0, 3, 1, 2)}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_array_stays_on_disk(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is resized; its first images are held out."""
    path = saved(tmp_path / "x.npy", x=np.ascontiguousarray(LARGE[kind]))
    copied = load_dataset(path)
    monkeypatch.setattr("ncsn.images.MAX_COPIED", 100)
    mapped = load_dataset(path)
    assert contents(mapped) == {"validation": [0, 1], "test": [2, 3], "train": [*range(4, 20)]}
    assert "the first 4 images are held out" in mapped.notes[-1]
    assert (mapped.shape, mapped.train.dtype) == (copied.shape, torch.uint8)
    order = torch.from_numpy(np.random.default_rng(0).permutation(16))
    assert values(mapped.train[order]) == [4 + k for k in order.tolist()]
    whole = torch.cat([mapped.train, mapped.validation, mapped.test]).numpy().tobytes()
    assert mapped.digest == hashlib.sha256(whole).hexdigest()
    file = np.load(path, mmap_mode="r+")
    file[-1] = 7
    file.flush()
    assert int(mapped.train[-1].max()) == 7, "nothing was copied"
    assert load_dataset(path, reading=Reading(size="4")).shape[1:] == (4, 4)


# Whatever the bytes are


def test_any_bytes_are_images_or_a_line(tmp_path: Path) -> None:
    for kind in ("png", "jpeg", "tiff", "gif", "bmp", "webp", "ppm"):
        (tmp_path / f"x.{kind}").write_bytes(packed(Image.fromarray(COLOUR[3]), kind))
    (tmp_path / "deep.png").write_bytes(packed(Image.fromarray(STACK[3].astype(np.uint16) * 257)))
    archive(tmp_path / "x.zip", {f"{i % 2}/{i}.png": i for i in range(11)})
    saved(tmp_path / "x.npz", x=STACK, y=EACH)
    saved(tmp_path / "x.npy", x=STACK)
    whole = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    rng = np.random.default_rng(0)

    def read(path: Path) -> None:
        if path.suffix in (".zip", ".npz", ".npy"):
            x = in_order(load_dataset(str(path), reading=Reading(max_broken=1, size="6x5")))
            x = centres(x) if x.dtype == torch.uint8 else x
        else:
            x = read_example(str(path), (3, 6, 5), None, Reading(), Depth())
        assert 0 <= float(x.min()) <= float(x.max()) <= 1

    for path in [*whole] * 30:
        content = np.frombuffer(whole[path], np.uint8).copy()
        for bit in rng.integers(8 * len(content), size=rng.integers(4)):
            content[bit // 8] ^= 1 << bit % 8
        at, end = rng.integers(len(content)), int(rng.choice([1.0, rng.random()]) * len(content))
        content = np.insert(content, at, np.frombuffer(rng.bytes(int(rng.integers(40))), np.uint8))
        path.write_bytes(content[:end].tobytes())
        refused(partial(read, path))
