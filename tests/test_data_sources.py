"""Folders, archives, arrays and saved data sets: what is an image, which class, which part; and what only looks so."""

import io
import os
import re
import socket
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ncsn.data import Images, Reading, load_images
from ncsn.data.arrays import numbered
from ncsn.data.sources import Item, from_paths

PARTS = ("train", "validation", "test")
Files = dict[str, int]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def write(top: Path, files: Files) -> str:
    """Grey images by path and value, in a folder."""
    for name, value in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(png(value))
    return str(top)


def values(part: torch.Tensor) -> list[int]:
    return [int(v) for v in part[:, 0, 0, 0]]


def everything(images: Images) -> list[int]:
    return sorted(values(torch.cat([images.train, images.validation, images.test])))


def classes(images: Images) -> dict[int, str]:
    """The class of each value."""
    labels = images.labels
    assert labels is not None
    return {
        value: labels.names[int(label)]
        for part in PARTS
        for value, label in zip(values(getattr(images, part)), getattr(labels, part), strict=True)
    }


FLAT: Files = {f"{i:02d}.png": i for i in range(20)}
CLASSES: Files = {f"{'dog' if i % 2 else 'cat'}/deep/{i:02d}.png": i for i in range(20)}
SPLIT: Files = {
    f"{part}/{'dog' if i % 2 else 'cat'}/{i:02d}.png": 50 * k + i
    for k, part in enumerate(("Training", "VAL", "test"))
    for i in range(20 if k == 0 else 4)
}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("wrapping", ["", "set/", "set/v1/"])
def test_folders_and_archives_are_alike(tmp_path: Path, kind: str, wrapping: str) -> None:
    files = {wrapping + name: value for name, value in SPLIT.items()}
    folder = tmp_path / "birds.v2"
    write(folder, files)
    write(
        folder, {f"{wrapping}Training/dog/.hidden.png": 200, f"{wrapping}.thumbs/x.png": 201, "__MACOSX/._a.png": 202}
    )
    (folder / wrapping / "README.txt").write_text("no image")
    place = folder if kind == "folder" else pack(folder, tmp_path / f"birds.{kind}")
    images = load_images(str(place))
    assert images.name == ("birds.v2" if kind == "folder" else "birds")
    assert sorted(values(images.train)) == list(range(20))
    assert sorted(values(images.validation)) == [50, 51, 52, 53]
    assert sorted(values(images.test)) == [100, 101, 102, 103]
    assert classes(images) == {value: "dog" if value % 2 else "cat" for value in SPLIT.values()}
    assert images.labels is not None
    assert images.labels.names == ("cat", "dog")
    assert images.said == ()


def pack(folder: Path, place: Path) -> Path:
    if place.suffix == ".zip":
        with zipfile.ZipFile(place, "w") as archive:
            for path in folder.rglob("*"):
                archive.write(path, path.relative_to(folder))
        return place
    mode = f"w:{place.suffix[1:]}" if place.suffix != ".tar" else "w"
    with tarfile.open(place, mode) as tar:  # type: ignore[call-overload]
        for path in folder.rglob("*"):
            tar.add(path, path.relative_to(folder), recursive=False)
    return place


def test_a_flat_folder_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    images = load_images(write(tmp_path, FLAT))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    assert values(images.validation) == order[:2]
    assert values(images.test) == order[2:4]
    assert values(images.train) == order[4:]
    assert images.labels is None


def test_first_folders_are_classes(tmp_path: Path) -> None:
    images = load_images(write(tmp_path, CLASSES))
    assert classes(images) == {i: "dog" if i % 2 else "cat" for i in range(20)}
    assert "2 classes" in images.describe()


@pytest.mark.parametrize("more", [{"stray.png": 99}, {}])
def test_one_folder_or_an_image_outside_is_no_class(tmp_path: Path, more: Files) -> None:
    files = CLASSES if more else {f"only/{name}": value for name, value in FLAT.items()}
    assert load_images(write(tmp_path, files | more)).labels is None


def test_folders_that_are_no_classes_are_said(tmp_path: Path) -> None:
    images = load_images(write(tmp_path, CLASSES | {"stray.png": 99}))
    assert images.said[0] == "folders are not taken for classes: 1 of 21 images are in none"


def test_a_zip_of_windows_has_its_folders_too(tmp_path: Path) -> None:
    """Some programs there write backslashes; elsewhere they belong to a name."""
    for system, found in ((0, True), (3, False)):
        place = tmp_path / f"{system}.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, value in SPLIT.items():
                info = zipfile.ZipInfo(name.replace("/", "\\"))
                info.create_system = system
                archive.writestr(info, png(value))
        images = load_images(str(place))
        assert (images.labels is not None) == found
        assert (sorted(values(images.test)) == [100, 101, 102, 103]) == found


@pytest.mark.parametrize("files", [FLAT, CLASSES])
def test_what_lies_beside_a_part_to_judge_by_is_to_train_on(tmp_path: Path, files: Files) -> None:
    judged = {f"test/{'dog' if i % 2 else 'cat'}/{i}.png": 100 + i for i in range(4)}
    images = load_images(write(tmp_path, files | judged))
    assert sorted(values(images.test)) == [100, 101, 102, 103]
    assert sorted(values(torch.cat([images.train, images.validation]))) == list(range(20))
    assert images.said[0] == "20 images to train on: those that are not in the folders for test"
    assert (images.labels is not None) == (files is CLASSES)


def test_what_is_missing_is_a_tenth_of_the_training_images(tmp_path: Path) -> None:
    files = {f"train/{i:02d}.png": i for i in range(20)} | {f"valid/{i}.png": 100 + i for i in range(3)}
    images = load_images(write(tmp_path, files))
    assert sorted(values(images.validation)) == [100, 101, 102]
    assert len(images.test) == 2
    assert sorted(values(images.train) + values(images.test)) == list(range(20))
    assert images.said == ("test drawn: a tenth of the training images, as none are given",)


def test_a_folder_that_is_called_train_may_be_a_class(tmp_path: Path) -> None:
    files = {f"{('train', 'plane')[i % 2]}/{i}.png": i for i in range(20)}
    images = load_images(write(tmp_path, files))
    assert images.labels is not None
    assert images.labels.names == ("plane", "train")


def test_what_lies_beside_the_parts_is_left_out_and_said(tmp_path: Path) -> None:
    images = load_images(write(tmp_path, SPLIT | {"sample.png": 99, "extra/a.png": 98}))
    assert {98, 99}.isdisjoint(everything(images))
    assert images.said == ("2 images left out: they are in none of the folders for test, train, validation",)


def test_something_must_be_there_to_train_on(tmp_path: Path) -> None:
    files = {f"{('test', 'val')[i % 2]}/{i}.png": i for i in range(20)}
    with pytest.raises(ValueError, match="has folders for test and validation only; train is needed"):
        load_images(write(tmp_path, files))


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "train", "Test", "VAL"]), st.sampled_from(["a", "b", ""])), min_size=1
    )
)
def test_whatever_the_folders_are_every_image_is_in_one_place(folders: Sequence[tuple[str, str]]) -> None:
    found = [
        (PurePosixPath(*folder, f"{i}.png"), Item(str(i), "", lambda: io.BytesIO())) for i, folder in enumerate(folders)
    ]
    try:
        source = from_paths("x", found)
    except ValueError:
        return
    assert len(source.items) == len(source.splits) == len({item.name for item in source.items})
    assert len(source.items) == len(found) or any("left out" in line for line in source.said)
    if source.classes is not None:
        assert set(source.classes) == set(range(len(source.names)))


def test_suffixes_in_capitals_and_other_files(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}.PNG": i for i in range(12)})
    for i in range(100):
        (tmp_path / f"{i}.json").write_text("{}")
    assert everything(load_images(str(tmp_path))) == list(range(12))


def test_pipes_sockets_and_links_to_nothing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, FLAT)
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    os.mkfifo("pipe.png")
    (tmp_path / "nothing.png").symlink_to("absent.png")
    (tmp_path / "self.png").symlink_to("self.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            load_images(str(tmp_path))
        images = load_images(str(tmp_path), reading=Reading(max_broken=4))
    text = str(caught.value)
    assert "nothing.png (it is a link to nothing)" in text
    assert "pipe.png (it is a pipe)" in text
    assert "socket.png (it is a socket)" in text
    assert "self.png (" in text
    assert "\n" not in text
    assert everything(images) == list(range(20))


def test_a_pipe_is_no_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.zip")
    with pytest.raises(ValueError, match="is a pipe; a folder"):
        load_images(str(tmp_path / "x.zip"))


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", FLAT)
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "elsewhere")
    assert everything(load_images(str(top))) == list(range(20))
    (tmp_path / "elsewhere" / "loop").symlink_to(top)
    with pytest.raises(ValueError, match=r"loop \(it is a link to a folder that is read already\)"):
        load_images(str(top))
    assert everything(load_images(str(top), reading=Reading(max_broken=1))) == list(range(20))


def test_links_in_archives_are_left_out_and_said(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, value in FLAT.items():
            data, info = png(value), tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link, device = tarfile.TarInfo("link.png"), tarfile.TarInfo("null.png")
        link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
        tar.addfile(link)
        tar.addfile(device)
    images = load_images(str(tmp_path / "a.tar"))
    assert everything(images) == list(range(20))
    assert images.said == ("links left out: 2 in the archive are links or devices, no files",)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, value in FLAT.items():
            archive.writestr(name, png(value))
        info_ = zipfile.ZipInfo("link.png")
        info_.external_attr = 0o120777 << 16
        archive.writestr(info_, "/etc/passwd")
    assert load_images(str(tmp_path / "a.zip")).said == (
        "links left out: 1 in the archive are links or devices, no files",
    )


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_members_that_are_too_large_are_not_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x"
    write(folder, FLAT)
    (folder / "huge.png").write_bytes(bytes(100_000))
    monkeypatch.setattr("ncsn.data.places.FILE_LIMIT", 10_000)
    with pytest.raises(ValueError, match=r"huge\.png \(it claims 100,000 bytes; at most 10,000 are read\)"):
        load_images(str(pack(folder, tmp_path / f"x.{kind}")))


def test_members_that_have_more_than_they_claim(tmp_path: Path) -> None:
    """The size in the directory of a zip says 10, its data is a million zeros: no more is read than claimed."""
    place = pack(Path(write(tmp_path / "x", FLAT)), tmp_path / "x.zip")
    with zipfile.ZipFile(place, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1_000_000))
    data = place.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    place.write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.png \("):
        load_images(str(place))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind" * 100])
def test_what_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an? [^\n]*$"):
        load_images(str(tmp_path / name))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_archives_that_are_cut_short(tmp_path: Path, kind: str) -> None:
    place = pack(Path(write(tmp_path / "x", SPLIT)), tmp_path / f"x.{kind}")
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"^[^\n]*cannot be read[^\n]*$"):
        load_images(str(place))


def test_files_of_other_kinds_and_too_few(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"x\.csv is no data set; files may be \.zip"):
        load_images(str(tmp_path / "x.csv"))
    with pytest.raises(ValueError, match="holds 9 images; at least 10"):
        load_images(write(tmp_path / "nine", {f"{i}.png": i for i in range(9)}))


STACK = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((6, 5), np.uint8)
COLOUR = np.stack([STACK, STACK + 20, STACK + 40], 3)


def saved(place: Path, array: np.ndarray) -> str:
    np.save(place, array)
    return str(place)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("form", ["grey", "last", "first", "one"])
def test_arrays_of_every_form(tmp_path: Path, form: str, suffix: str, order: str) -> None:
    array = {"grey": STACK, "last": COLOUR, "first": COLOUR.transpose(0, 3, 1, 2), "one": STACK[:, None]}[form]
    array = np.asarray(array, order=order)  # type: ignore[call-overload]
    place = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(place, array)
    else:
        np.savez_compressed(place, anything=array)
    images = load_images(str(place))
    assert images.shape == ((1, 6, 5) if form in ("grey", "one") else (3, 6, 5))
    assert everything(images) == list(range(20))
    if images.shape[0] == 3:
        assert torch.equal(images.train[:, 2], images.train[:, 0] + 40)
    assert (images.name, images.said, images.labels) == ("x", (), None)


def test_equal_axes_have_their_channels_last(tmp_path: Path) -> None:
    array = np.zeros((10, 4, 4, 4), np.uint8)
    array[..., 2] = 7
    images = load_images(saved(tmp_path / "x.npy", array))
    assert images.train[0, :, 1, 1].tolist() == [0, 0, 7, 0]
    assert images.said == ("channels as they are: 4, in which neither colour nor alpha is seen",)


def savez(place: Path, arrays: Mapping[str, object]) -> None:
    np.savez(place, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [np.arange(20) % 3, (np.arange(20) % 3)[:, None], (np.arange(20) % 3) * 1.0])
@pytest.mark.parametrize("key", ["labels", "label", "y"])
def test_labels_beside_the_images(tmp_path: Path, labels: np.ndarray, key: str) -> None:
    savez(tmp_path / "x.npz", {"images": STACK, key: labels})
    assert classes(load_images(str(tmp_path / "x.npz"))) == {i: str(i % 3) for i in range(20)}


@given(st.lists(st.integers(-5, 5), min_size=1))
def test_classes_are_numbered_from_zero(given_: list[int]) -> None:
    found, names = numbered(np.array(given_))
    assert [int(names[i]) for i in found] == given_
    assert list(map(int, names)) == sorted(set(given_))


def test_labels_that_are_words(tmp_path: Path) -> None:
    assert numbered(np.array([b"cat", b"ant"]))[1] == ("ant", "cat")
    np.savez(tmp_path / "x.npz", x=STACK, y=np.array(["odd" if i % 2 else "even" for i in range(20)]))
    assert classes(load_images(str(tmp_path / "x.npz")))[3] == "odd"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((20, 14)), r"labels left out: y \(20, 14\); \(n,\) or \(n, 1\) is needed"),
        (np.zeros(19), r"labels left out: y \(19,\)"),
        (np.linspace(0, 1, 20), "labels left out: .* they are no whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_said(tmp_path: Path, labels: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "x.npz", x=STACK, y=labels, extra=np.zeros(3))
    images = load_images(str(tmp_path / "x.npz"))
    assert images.labels is None
    assert re.search(said, "\n".join(images.said))
    assert "extra left out: it is neither images nor their labels" in images.said


@pytest.mark.parametrize(
    ("names", "validation"),
    [
        (("x_train", "y_train", "x_test", "y_test"), 2),
        (("train_images", "train_labels", "test_images", "test_labels"), 2),
    ],
)
def test_keys_of_parts(tmp_path: Path, names: tuple[str, ...], validation: int) -> None:
    held = STACK[:5] + 100
    arrays = dict(zip(names, (STACK, np.arange(20) % 3, held, np.arange(5)[:, None] % 3), strict=True))
    savez(tmp_path / "x.npz", arrays)
    images = load_images(str(tmp_path / "x.npz"))
    assert sorted(values(images.test)) == [100, 101, 102, 103, 104]
    assert len(images.validation) == validation
    assert classes(images) == {i: str(i % 3) for i in range(20)} | {100 + i: str(i % 3) for i in range(5)}
    savez(tmp_path / "x.npz", arrays | {"val_images": held + 100, "val_labels": np.full(5, 7)})
    if "train_images" in names:
        images = load_images(str(tmp_path / "x.npz"))
        assert sorted(values(images.validation)) == [200, 201, 202, 203, 204]
        assert images.labels is not None
        assert images.labels.names == ("0", "1", "2", "7")


def test_arrays_that_cannot_be_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=STACK, b=STACK)
    with pytest.raises(ValueError, match=r"holds a \(20, 6, 5\), b \(20, 6, 5\); one array of images is needed"):
        load_images(str(tmp_path / "x.npz"))
    np.savez(tmp_path / "x.npz", x_test=STACK)
    with pytest.raises(ValueError, match="has images for test only; train is needed"):
        load_images(str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((20, 784), np.uint8), r"shape \(20, 784\)"),
        (np.zeros((20, 0, 4), np.uint8), "none of them 0"),
        (np.zeros((20, 4, 4), np.complex64), "dtype complex64"),
        (np.full((20, 4, 4), None), "object"),
        (np.full((20, 4, 4), np.nan), r"x\.npy\[0\] \(it has values that are not finite\)"),
        (np.zeros((9, 4, 4), np.uint8), "holds 9 images"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load_images(saved(tmp_path / "x.npy", array))


@pytest.mark.parametrize(
    ("dtype", "top", "kept"),
    [
        ("int64", 255, "uint8"),
        ("int64", 15, "int64"),
        ("bool", 1, "uint8"),
        (">u2", 1023, "uint16"),
        ("float64", 1, "float64"),
    ],
)
def test_what_numbers_mean(tmp_path: Path, dtype: str, top: int, kept: str) -> None:
    array = (np.arange(20 * 16).reshape(20, 4, 4) % (top + 1)).astype(dtype)
    images = load_images(saved(tmp_path / "x.npy", array))
    assert images.depth.dtype == kept
    assert images.train.dtype == (torch.uint8 if kept == "uint8" else torch.float32)
    found = torch.cat([images.train, images.validation, images.test])
    highest = {"int64": 15 / 16, "uint16": 319 / 512, "float64": 1.0}.get(kept, 255)
    assert float(found.max()) == highest
    assert images.said
    if kept in ("uint16", "int64"):
        assert set(images.depth.restored(found).ravel()) == set(array.ravel())


def test_signed_arrays_have_their_range(tmp_path: Path) -> None:
    array = np.arange(-160, 160, dtype=np.int16).reshape(20, 4, 4)
    images = load_images(saved(tmp_path / "x.npy", array))
    found = torch.cat([images.train, images.validation, images.test])
    assert images.said == ("int16 from -160 to 160: these are 0 and 1 now",)
    assert sorted(images.depth.restored(found).ravel()) == list(range(-160, 160))


def test_headers_that_claim_more_than_there_is(tmp_path: Path) -> None:
    place = Path(saved(tmp_path / "x.npy", STACK))
    data = place.read_bytes().replace(b"(20, 6, 5)", b"(9999999999, 6, 5)").replace(b"        \n", b"\n", 1)
    place.write_bytes(data)
    with pytest.raises(ValueError, match=r"claims shape \(9999999999, 6, 5\) of uint8"):
        load_images(str(place))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", data)
    with pytest.raises(ValueError, match="claims shape"):
        load_images(str(tmp_path / "x.npz"))


def test_arrays_are_resized_too(tmp_path: Path) -> None:
    images = load_images(saved(tmp_path / "x.npy", COLOUR), reading=Reading(size="3"))
    assert images.shape == (3, 3, 3)
    assert everything(images) == list(range(20))


@pytest.mark.filterwarnings("ignore")  # its own, of how it pickles
def test_a_saved_data_set_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})

    def part(first: int, n: int) -> object:
        rows = range(first, first + n)
        encoded = [{"bytes": png(i), "path": None} for i in rows]
        return datasets.Dataset.from_dict({"image": encoded, "label": [i % 2 for i in rows]}, features=features)

    part(0, 20).save_to_disk(tmp_path / "one")  # type: ignore[attr-defined]
    images = load_images(str(tmp_path / "one"))
    assert everything(images) == list(range(20))
    assert classes(images)[3] == "odd"
    datasets.DatasetDict({"train": part(0, 20), "test": part(100, 5)}).save_to_disk(tmp_path / "two")
    images = load_images(str(tmp_path / "two"))
    assert sorted(values(images.test)) == [100, 101, 102, 103, 104]
    assert len(images.validation) == 2
    # Labels that are none, of some or of all, are left out.
    nothing = datasets.ClassLabel(names=["even", "odd"])
    bare = part(0, 5).remove_columns("label")  # type: ignore[attr-defined]
    missing = part(0, 20).remove_columns("label").add_column("label", [None, *[1] * 19])  # type: ignore[attr-defined]
    masks = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    encoded = [{"bytes": png(i), "path": None} for i in range(20)]
    masked = datasets.Dataset.from_dict({"image": encoded, "label": encoded}, features=masks)
    for name, there, why in (
        ("three", datasets.DatasetDict({"train": part(0, 20), "test": bare}), "some parts have none"),
        ("four", missing, "some images have none"),
        ("five", missing.cast_column("label", nothing), "some images have none"),
        ("six", masked, "label is no column of classes, but of Image"),
    ):
        there.save_to_disk(tmp_path / name)
        images = load_images(str(tmp_path / name))
        assert images.labels is None
        assert f"labels left out: {why}" in images.said


def test_without_the_library_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pip install 'ncsn\[datasets\]'"):
        load_images(str(tmp_path))


def test_a_tar_archive_that_is_damaged_in_the_middle_does_not_end_there(tmp_path: Path) -> None:
    place = pack(Path(write(tmp_path / "x", FLAT)), tmp_path / "x.tar")
    with tarfile.open(place) as archive:
        where = archive.getmembers()[12].offset
    data = bytearray(place.read_bytes())
    data[where] ^= 1
    place.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.tar cannot be read as a tar archive \(bad checksum of a file in it\)"):
        load_images(str(place))
