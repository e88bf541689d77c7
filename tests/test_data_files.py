"""Folders, archives and arrays: what is an image, which class, which part; and what only looks so."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import classes, contents, everything, in_order, packed, pixels, png, values, write
from PIL import Image

from ncsn.data import Reading, load_images, read_example
from ncsn.data.pixels import BYTES

FLAT = {f"{i:02d}.png": i for i in range(20)}
CLASSES = {f"{'dog' if i % 3 else 'cat'}/deep/{i:02d}.png": i for i in range(20)}


def parts(*names: str) -> dict[str, int]:
    """20 images in the first folder from 0 on, 5 in the second from 100 on, 4 in the third from 200 on."""
    sizes = zip(names, (20, 5, 4), strict=False)
    return {f"{name}/{i}.png": 100 * k + i for k, (name, n) in enumerate(sizes) for i in range(n)}


def archive(place: Path, files: Mapping[str, int | bytes]) -> str:
    """Files, as bytes or as the value of an image, in a zip archive, and in no order of theirs."""
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(files, key=lambda name: name[::-1]):
            content = files[name]
            file.writestr(name, png(content) if isinstance(content, int) else content)
    return str(place)


@pytest.mark.parametrize("wrapping", ["", "set/v1/", "set\\"])
def test_folders_and_archives_are_alike(tmp_path: Path, wrapping: str) -> None:
    """Some programs of Windows write backslashes between folders."""
    split = (("Training", 20), ("VAL", 5), ("test", 4))
    inside = {f"{part}/{'dog' if i % 3 else 'cat'}/{i:02d}.png": 100 * k + i
              for k, (part, n) in enumerate(split) for i in range(n)}  # fmt: skip
    whole: dict[str, int | bytes] = {f"{wrapping}{name}": value for name, value in inside.items()}
    whole |= {f"{wrapping}Training/dog/.hidden.png": 50, f"{wrapping}.thumbs/x.png": 51, "__MACOSX/._a.png": 52}
    whole |= {f"{wrapping}{name}": b"no image" for name in ("README", "Training/x.heic", "Training/y.heic")}
    places = [archive(tmp_path / "birds.zip", whole)]
    if "\\" not in wrapping:
        places.append(write(tmp_path / "birds", whole))
    for place in places:
        images = load_images(place)
        assert images.name == "birds"
        held = {"validation": list(range(100, 105)), "test": list(range(200, 204))}
        assert contents(images) == {"train": list(range(20)), **held}
        assert classes(images) == {value: name.split("/")[1] for name, value in inside.items()}
        assert [line.split(":")[0] for line in images.said] == ["2 .heic, 1 without suffix left out"]
        for image, value in zip(images.train[:, 0].numpy(), values(images.train), strict=True):
            assert (image == pixels(value)).all()


LAYOUTS: dict[str, tuple[Mapping[str, int], list[int], list[int], set[str]]] = {
    "flat": (FLAT, [2, 2], [], set()),
    "classes": (CLASSES, [2, 2], [], {"cat", "dog"}),
    "classes and an image in none": (CLASSES | {"stray.png": 99}, [2, 2], [], set()),
    "one folder": ({f"only/{name}": value for name, value in FLAT.items()}, [2, 2], [], set()),
    "two parts": (parts("train", "val"), [5, 2], [], set()),
    "parts beside others": (parts("train", "val", "extra") | {"sample.png": 99}, [5, 2], [99, *range(200, 204)], set()),
    "a part to judge by beside images": (FLAT | {f"x/../test/{i}.png": 200 + i for i in range(4)}, [2, 4], [], set()),
    "by their beginnings": (parts("Training", "eval", "Testing"), [5, 4], [], set()),
    "with years": (parts("train2017", "val2017", "test_2017"), [5, 4], [], set()),
    "a class called train": (parts("train", "plane"), [2, 2], [], {"train", "plane"}),
    "classes that begin so": (parts("trains", "valley", "testudo"), [2, 2], [], {"trains", "valley", "testudo"}),
    "classes in parts": (parts("train/b", "val/a", "test/b"), [5, 4], [], {"a", "b"}),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_what_folders_mean(tmp_path: Path, case: str) -> None:
    files, held, left_out, names = LAYOUTS[case]
    images = load_images(write(tmp_path, files))
    assert [len(images.validation), len(images.test)] == held
    assert everything(images) == sorted({*files.values()} - {*left_out})
    assert [line.split(" left")[0] for line in images.said] == [f"{len(left_out)} .png"] * bool(left_out)
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
    whole = load_images(write(tmp_path, {f"{i:02d}.png": i for i in range(40)}))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    assert values(whole.validation) + values(whole.test) + values(whole.train) == order
    (tmp_path / "03.png").write_bytes(b"no image")
    (tmp_path / "17.png").write_bytes(png(17)[:50])  # its header is whole
    for name in ("20", "21", "22", "23"):
        (tmp_path / f"{name}.png").unlink()
    os.mkfifo(tmp_path / "20.png")
    (tmp_path / "21.png").symlink_to("absent.png")
    (tmp_path / "22.png").symlink_to("22.png")
    (tmp_path / "23.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^more images are broken than the 5 [^\n]* 6 of 40: .*03\.png .*23\.png \("):
        load_images(str(tmp_path), reading=Reading(max_broken=5))
    images = load_images(str(tmp_path), reading=Reading(max_broken=6))
    for part, found in contents(images).items():
        assert found == sorted({*contents(whole)[part]} - {3, 17, 20, 21, 22, 23})
    assert images.said[-1].startswith("broken left out: 6 of 40")


def test_each_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    """Of a loop, and of two parts that are one folder: no image is in two."""
    write(tmp_path / "elsewhere", CLASSES)
    top = Path(write(tmp_path / "top", {f"test/{i}.png": 100 + i for i in range(7)}))
    (top / "train").symlink_to(tmp_path / "elsewhere")
    (top / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dog" / "loop").symlink_to(top)
    images = load_images(str(top))
    assert everything(images) == [*range(20), *range(100, 107)]
    assert contents(images)["test"] == [*range(100, 107)]


def test_suffixes_have_any_case(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.PNG": i for i in range(12)})
    (tmp_path / "x.jfif").write_bytes(packed(Image.fromarray(pixels(99)), "JPEG", quality=100))
    assert len(everything(load_images(str(tmp_path)))) == 13


def test_damaged_archives(tmp_path: Path) -> None:
    """One is cut in the middle, another has a link and a member that claims 10 bytes and has a million zeros."""
    place = Path(archive(tmp_path / "x.zip", FLAT | {"bomb.png": bytes(1_000_000)}))
    with zipfile.ZipFile(place, "a") as file:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    data = place.read_bytes()
    place.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"2 of 22: .*bomb\.png \(.*link\.png \("):
        load_images(str(place), reading=Reading(max_broken=1))
    assert everything(load_images(str(place), reading=Reading(max_broken=2))) == list(range(20))
    place.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"^[^\n]*x\.zip[^\n]*$"):
        load_images(str(place))


def test_places_that_hold_no_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "x.tar.gz").write_bytes(b"1,2")
    write(tmp_path / "nine", {f"{i}.png": i for i in range(9)})
    write(tmp_path / "judged", {f"{('test', 'val')[i % 2]}/{i}.png": i for i in range(20)})
    write(tmp_path / "empty", {"a.txt": b""})
    for name, why in {
        "pipe.zip": "is no data set",
        "x.tar.gz": "is no data set",
        "absent": "is no data set",
        "nine": "has 9 images, and none for validation and test",
        "judged": "has 20 images, and none for train",
        "empty": "has 0 images",
    }.items():
        with pytest.raises(ValueError, match=why):
            load_images(str(tmp_path / name))


# Arrays

STACK = np.stack([pixels(i) for i in range(20)])
COLOUR = np.stack([STACK, STACK + 20, STACK + 40], 3)
FOUR = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 4)).astype(np.uint8)
EACH = np.arange(20) % 12


def saved(place: Path, **arrays: object) -> str:
    """An .npz of arrays, or an .npy of the only one."""
    if place.suffix == ".npy":
        np.save(place, next(iter(arrays.values())))  # type: ignore[arg-type]
    else:
        np.savez_compressed(place, **arrays)  # type: ignore[arg-type]
    return str(place)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "last"),
    [
        (STACK, STACK[..., None]),
        (STACK[:, None], STACK[..., None]),
        (COLOUR, COLOUR),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR),
        (FOUR, FOUR),
    ],
)
def test_arrays_of_every_form(tmp_path: Path, array: np.ndarray, last: np.ndarray, suffix: str, order: str) -> None:
    images = load_images(saved(tmp_path / f"x.{suffix}", anything=np.asarray(array, order=order)))  # type: ignore[call-overload]
    assert torch.equal(in_order(images), torch.from_numpy(last.transpose(0, 3, 1, 2)))
    assert (images.name, images.said, images.labels) == ("x", (), None)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "kept", "top"),
    [
        ("int64", 0, 255, "uint8", 256),
        ("int64", 0, 15, "int64", 16),
        ("int16", -160, 99, "int16", 100),
        ("bool", 0, 1, "uint8", 256),
        (">u2", 0, 1023, "uint16", 1024),
        ("float64", 0, 1, "float64", 1),
        ("float16", -3, 4, "float16", 4),
    ],
)
def test_what_numbers_mean(tmp_path: Path, dtype: str, low: int, high: int, kept: str, top: float) -> None:
    array = (low + np.arange(20 * 30).reshape(20, 6, 5) % (high - low + 1)).astype(dtype)
    images = load_images(saved(tmp_path / "x.npy", x=array))
    assert (images.depth.dtype, images.depth.high) == (kept, top)
    found = in_order(images)[:, 0]
    if kept == "uint8":
        assert torch.equal(found, torch.from_numpy(array.astype(np.uint8) * np.uint8(255 if dtype == "bool" else 1)))
    else:
        assert (images.depth.restored(found) == array).all()
        assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert bool(images.said) == (dtype != "bool"), "what is rounded, scaled or narrowed is said"


@pytest.mark.parametrize("key", ["labels", "label", "y"])
@pytest.mark.parametrize("labels", [EACH, EACH[:, None], EACH.astype("U")])
def test_classes_beside_the_images(tmp_path: Path, labels: np.ndarray, key: str) -> None:
    """Numbers are in their order, of which 10 is after 2; text is in that of the alphabet."""
    images = load_images(saved(tmp_path / "x.npz", **{"images": STACK, key: labels}))
    assert classes(images) == {i: str(i % 12) for i in range(20)}
    assert images.labels is not None
    assert images.labels.names == tuple(sorted(map(str, range(12)), key=str if labels.dtype.kind == "U" else int))
    assert images.said == ()


@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")]
)
def test_keys_of_parts(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays = dict(zip(keys, (STACK, EACH + 4, STACK[:5] + 100, EACH[:5, None] + 5), strict=True))
    images = load_images(saved(tmp_path / "x.npz", **arrays))
    assert contents(images)["test"] == [100, 101, 102, 103, 104]
    assert len(images.validation) == 2
    assert classes(images) == {i: str(i % 12 + 4) for i in range(20)} | {100 + i: str(i + 5) for i in range(5)}
    images = load_images(
        saved(tmp_path / "x.npz", **{keys[0]: STACK, keys[2]: STACK[:5] + 100, "val": STACK[:4] + 200})
    )
    assert contents(images)["validation"] == [200, 201, 202, 203]
    assert images.labels is None


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((20, 784), np.uint8)}, r"shape \(20, 784\)"),
        ({"x": np.zeros((20, 2, 4), np.complex64)}, "complex64"),
        ({"x": np.full((20, 4, 4), None)}, "cannot be read as arrays"),
        ({"x": np.full((20, 4, 4), np.nan)}, r"\[0\] \(it has values that are not finite\)"),
        ({"a": STACK, "b": STACK}, r"a \(20, 6, 5\) of uint8, b "),
        ({"x": STACK, "images": STACK}, "x_train"),
        ({"x": STACK, "extra": EACH}, "x_train"),
        ({"x_test": STACK, "y_test": EACH}, "x_train"),
        ({"x_train": STACK, "x": STACK}, "x_train"),
        ({"x_train": STACK, "y_train": EACH, "x_test": STACK}, "x_train"),
        ({"x_train": STACK, "x_test": STACK[..., None] * 1.0}, "of one dtype"),
        ({"x": STACK, "y": EACH * 1.0}, r"classes .* float64"),
        ({"x": STACK, "y": np.zeros((20, 14), np.int64)}, r"classes .* \(20, 14\)"),
        ({"x": STACK, "y": EACH[:19]}, r"classes .* \(19,\)"),
        ({"x": STACK[:10], "y": EACH.reshape(10, 2)}, r"classes .* \(10, 2\)"),
        ({}, "holds nothing"),
    ],
)
def test_arrays_that_are_no_data_sets(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    for place in ["x.npz"] + ["x.npy"] * (arrays.keys() == {"x"}):
        with pytest.raises(ValueError, match=why):
            load_images(saved(tmp_path / place, **arrays))


# Whatever the bytes are


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of every kind."""
    folder = tmp_path_factory.mktemp("whole")
    for kind in ("png", "jpeg", "tiff", "gif", "bmp", "webp", "ppm"):
        (folder / f"x.{kind}").write_bytes(packed(Image.fromarray(COLOUR[3]), kind))
    (folder / "deep.png").write_bytes(packed(Image.fromarray(STACK[3].astype(np.uint16) * 257)))
    archive(folder / "x.zip", {f"{i % 2}/{i}.png": i for i in range(11)})
    saved(folder / "x.npz", x=STACK, y=EACH)
    saved(folder / "x.npy", x=STACK)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=300, derandomize=True)
@given(data=st.data())
def test_any_bytes_are_images_or_a_line(
    tmp_path_factory: pytest.TempPathFactory, whole: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    for place in data.draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=4)):
        bit = int(place * 8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    at, inserted = int(data.draw(st.floats(0, 1)) * len(content)), data.draw(st.binary(max_size=40))
    content[at : at + len(inserted)] = inserted
    del content[int(data.draw(st.just(1.0) | st.floats(0, 1)) * len(content)) :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    lines = [""]
    try:
        if name[-3:] in ("zip", "npz", "npy"):
            images = load_images(str(path), reading=Reading(max_broken=1, size="6x5"))
            assert bool(in_order(images).float().isfinite().all())
        else:
            x = read_example(str(path), (3, 6, 5), None, Reading(), BYTES)
            assert x.shape == (3, 6, 5)
            assert 0 <= float(x.min()) <= float(x.max()) <= 1
    except ValueError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
