"""Images from files, folders, archives and arrays; every conversion that changes pixels is reported.

Files are untrusted, so only image formats are tried.
"""

import gzip
import math
import os
import posixpath
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path, PurePosixPath
from statistics import median_low
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from ncsn.batching import reals
from ncsn.data.arrays import (
    Arrays,
    SplitArray,
    check_finite,
    labels_of,
    read_arrays,
    split_arrays,
    split_indices,
    split_named,
)
from ncsn.data.dataset import Dataset, Labels
from ncsn.data.transforms import BYTES, Depth, Transform, stored_depth
from ncsn.machine.messages import bar, log
from ncsn.run.run import Run
from ncsn.settings import PARTS, Reading, Split
from ncsn.validation import counted, one_line, opened_as, reason

# Pillow can read more formats, such as PostScript, which is executed; older versions can't read AVIF.
SUFFIXES = [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".avif"]


@dataclass(frozen=True)
class Images(Dataset):
    """Images with any number of channels."""

    noun: ClassVar[str] = "images"
    prior: ClassVar[str | None] = "prior"
    guided: ClassVar[bool] = True
    precision: ClassVar[Literal["auto", "fp32"]] = "auto"

    @property
    def width(self) -> str:
        channels = self.shape[0]
        return {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")


class Item(NamedTuple):
    """An image file, or several images of an array.

    ``name``: the name in error messages.  ``read``: returns the file's bytes, or pixels (n, h, w, c).  ``split``: the
    split, if the data defines it.  ``label``: the class, "" for none; an array for several images.
    """

    name: str
    read: Callable[[], object]
    split: Split | None = None
    label: str | np.ndarray = ""


Members = Sequence[tuple[PurePosixPath, Callable[[], bytes]]]  # files by their paths, which an archive may repeat


def walk(top: Path) -> Members:
    """The files below a folder; each folder is visited once, even if several links lead to it.

    Raises OSError if a folder can't be read.
    """

    def stop(error: OSError) -> None:
        raise error

    files = list[tuple[PurePosixPath, Callable[[], bytes]]]()
    visited = set[str]()
    for folder, folders, names in os.walk(top, onerror=stop, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in names):
            files.append((PurePosixPath(path.relative_to(top).as_posix()), partial(file_bytes, path)))
    return files


def file_bytes(path: Path) -> bytes:
    """A file's bytes.  Raises ValueError for a pipe, which would block."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_bytes()


def member_bytes(content: bytes | None) -> bytes:
    """The bytes of a file in a tar archive.  Raises ValueError for a link, which has none."""
    if content is None:
        raise ValueError("it is a link")
    return content


def open_zip(path: Path) -> Members:
    """The files in a zip archive, possibly with the backslashes that some Windows programs write.

    Raises ValueError if it can't be read, or lists fewer files than it counts.
    """
    with opened_as("a zip archive", path), path.open("rb") as file:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
        file.seek(max(0, path.stat().st_size - 2**16 - 22))  # the end record, and at most its comment
        end = file.read().rpartition(b"PK\5\6")[2]
        count = int.from_bytes(end[6:8], "little")
        if count not in (len(members) % 2**16, 2**16 - 1):  # the largest stands for more
            raise ValueError(f"its directory is damaged: it lists {len(members)} of {count} files")
    files = [info for info in members if not info.is_dir()]
    return [(PurePosixPath(info.filename.replace("\\", "/")), partial(archive.read, info)) for info in files]


def catalogue(name: str, members: Members) -> tuple[list[Item], list[str]]:
    """The images among files, with splits and classes from the names of their folders; and notes on what was left out.

    Folders on any level define splits, if there is one for validation or testing.  Images outside of them are for
    training, or left out if there is a training folder.  The first folder that isn't a split is the class.
    Of files with one path the last counts.
    Raises ValueError if there are no images.
    """
    files = dict(members)
    outside = {path for path in files if path.is_absolute() or ".." in path.parts}
    hidden = {path for path in files if any(word.startswith((".", "__MACOSX")) for word in path.parts)}
    visible = sorted(files.keys() - outside - hidden)
    paths = [path for path in visible if path.suffix.lower() in SUFFIXES]
    top = posixpath.commonpath([path.parent for path in paths]) if paths else ""
    folders = {path: path.relative_to(top).parent.parts for path in paths}
    split_folders = {path: next(filter(split_named, words), "") for path, words in folders.items()}
    splits = {split_named(word) for word in split_folders.values()}
    if not {"validation", "test"} & splits:  # then a folder called train is a class
        split_folders = dict.fromkeys(paths, "")
        splits = {None}
    split_of_others: Split | None = None if "train" in splits else "train"
    items = dict[PurePosixPath, Item]()
    for path in paths:
        split = split_named(split_folders[path]) or split_of_others
        if split is not None:
            label = next((word for word in folders[path] if word != split_folders[path]), "")
            items[path] = Item(f"{name}/{path}", files[path], split, label)
    left_out = Counter(path.suffix.lower() for path in visible if path not in items)
    if outside:
        left_out["outside the archive"] = len(outside)
    if len(files) < len(members):
        left_out["with duplicate names"] = len(members) - len(files)
    listed = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in left_out.most_common())
    if not items:
        held = f"holds no images, but {one_line(listed)}" if listed else "is empty"
        raise ValueError(f"{name} {held}; images in folders, .zip and .tar end in {', '.join(SUFFIXES)}")
    notes = [one_line(f"{counted(left_out.total(), 'file')} left out: {listed}")] if left_out else []
    return [*items.values()], notes


def open_tar(path: Path) -> Members:
    """The files in a tar archive, compressed or not; links are broken.  Raises ValueError if it can't be read."""
    members = list[tuple[PurePosixPath, Callable[[], bytes]]]()
    with opened_as("a tar archive", path), tarfile.open(path) as archive:
        for info in archive:
            if info.issym() or info.islnk():
                members.append((PurePosixPath(info.name), partial(member_bytes, None)))
            elif (file := archive.extractfile(info)) is not None:
                members.append((PurePosixPath(info.name), partial(member_bytes, file.read())))
        # tarfile also stops at a damaged or missing header; a complete archive ends in a block of zeros.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError("it is truncated or damaged")
    return members


FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else [])]
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, of more than 8 bits
AT_ONCE = 256  # images that are decoded together
LANCZOS = Image.Resampling.LANCZOS
Pixels = Shaped[np.ndarray, "n h w c"]


class Picture(NamedTuple):
    """Images of one size: ``pixels``, with one channel if grey, the dtype and range of their file, and conversions."""

    pixels: Pixels
    dtype: str
    low: float
    high: float
    notes: list[str]


def decode_items(items: Sequence[Item], reading: Reading) -> Iterator[Picture | str]:
    """Decode items in threads; yields, in order, the images of each, or its name and what is wrong with it."""

    def decode(item: Item) -> Picture | str:
        try:
            return picture(item.read, reading)
        except Exception as error:  # codecs raise many kinds
            return f"{item.name} ({why_unreadable(error)})"

    with ThreadPoolExecutor() as pool:
        for first in range(0, len(items), AT_ONCE):
            yield from pool.map(decode, items[first : first + AT_ONCE])


def why_unreadable(error: Exception) -> str:
    """Why an image can't be read, without the address of a buffer that Pillow shows."""
    return "cannot identify image file" if isinstance(error, UnidentifiedImageError) else reason(error)


def picture(read: Callable[[], object], reading: Reading) -> Picture:
    """The images of an item, upright, on the background and resized as requested.

    Raises ValueError for numbers that aren't finite, and any error of archives and codecs for broken files.
    """
    content = read()
    pixels, notes = pixels_of_file(content, reading) if isinstance(content, bytes) else (np.asarray(content), [])
    if pixels.dtype.kind == "b":
        pixels = 255 * pixels.astype(np.uint8)
        notes = [*notes, "booleans as 0 and 255"]
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(pixels).all():
        raise ValueError("it has values that aren't finite")
    if pixels.shape[3] == 4 and pixels.dtype == np.uint8:
        pixels = np.where(pixels[..., 3:] > 0, pixels, np.uint8(0))  # any colours are stored where nothing is seen
    if pixels.shape[3] == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    return fit_size(Picture(pixels, pixels.dtype.name, float(pixels.min()), float(pixels.max()), notes), reading)


def pixels_of_file(data: bytes, reading: Reading) -> tuple[Pixels, list[str]]:
    """The pixels of an image file, upright and on the background, and the conversions."""
    image = Image.open(BytesIO(data), formats=FORMATS)
    conversions = {
        "8 of 16 bits": drops_bits(image),  # first, because reading EXIF may decode the whole file
        "first frames only": getattr(image, "is_animated", False),
        "turned by EXIF": image.getexif().get(0x0112) in range(2, 9),  # other values are meaningless, but not rare
        "CMYK as RGB": image.mode == "CMYK",
    }
    notes = [note for note, happens in conversions.items() if happens]
    upright = ImageOps.exif_transpose(image)
    if reading.transparent:
        if upright.mode in DEEP_MODES:
            raise ValueError("it has more than 8 bits, so transparent doesn't apply")
        return np.asarray(upright.convert("RGBA"))[None], notes
    if upright.mode in DEEP_MODES:
        deep = np.asarray(upright)[None, ..., None]
        # Pillow opens some 16-bit files as int32.
        short = deep.dtype == np.int32 and deep.min() >= 0 and deep.max() < 2**16
        return deep.astype(np.uint16) if short else deep, notes
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append(f"alpha on {reading.background}")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*reading.colour(), 255)), layer)
    return np.asarray(upright.convert("RGB"))[None], notes


def drops_bits(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow drops half of the bits, as it does for colour images."""
    arguments = image.tile[0][3] if image.tile else ""
    if image.format == "PPM":
        return isinstance(arguments, tuple) and image.mode == "RGB" and int(arguments[1]) > 255
    return image.format in ("PNG", "TIFF") and image.mode not in DEEP_MODES and ";16" in str(arguments)


def fit_size(images: Picture, reading: Reading, why: str = "") -> Picture:
    """Resize images as requested, with a Lanczos filter, and note ``why``.

    Raises ValueError if images are so long that padding would leave nothing of them.
    """
    size, sides = reading.pixels(), images.pixels.shape[1:3]
    if size is None or sides == size:
        return images
    height, width = size
    scale = min(height / sides[0], width / sides[1])
    if reading.fit == "pad" and round(min(sides) * scale) < 1:
        raise ValueError(f"nothing of {sides[0]} x {sides[1]} pixels would be left in {height} x {width} with pad")
    deep, colour = images.dtype != "uint8", reading.colour()
    pixels = images.pixels.astype(np.float32) if deep else images.pixels
    if reading.fit == "pad" and pixels.shape[3] == 1 and len({*colour}) > 1:
        pixels = pixels.repeat(3, 3)
    channels = pixels.shape[3]
    edges = [math.nan] * channels if deep else np.resize(colour, channels).tolist()  # NaN until the depth is known

    def fit(plane: np.ndarray, edge: float | tuple[int, ...]) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(plane))
        if reading.fit == "pad":
            return np.asarray(ImageOps.pad(image, (width, height), LANCZOS, edge))  # type: ignore[arg-type]
        if reading.fit == "crop":
            return np.asarray(ImageOps.fit(image, (width, height), LANCZOS))
        return np.asarray(image.resize((width, height), LANCZOS))

    if channels == 4 and not deep:  # all channels at once, because Pillow weights colours by their opacity
        resized = np.stack([fit(image, (0, 0, 0, 0)) for image in pixels])
    else:
        resized = np.stack([np.stack([*map(fit, image.transpose(2, 0, 1), edges)], 2) for image in pixels])
    if deep:
        # The filter overshoots at edges; bytes are clipped to 0 and 255, reals to the image's own range.
        resized = resized.clip(pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True))
    return images._replace(pixels=resized, notes=[*images.notes, f"{reading.fit} to {height} x {width}{why}"])


def depth_of(pictures: Sequence[Picture]) -> Depth:
    """The depth of images, from their dtypes and range.

    Integers from 0 to 128 … 255 are bytes.  Other integers range up to the smallest power of two above the largest,
    such as 12 bits in 16-bit files.  Floats in [0, 1] are unchanged.  For negative numbers, and floats above 1, the
    range is that of the dataset.
    """
    deep = [images for images in pictures if images.dtype != "uint8"]
    if not deep:
        return BYTES
    dtype = np.result_type(*{images.dtype for images in deep})
    low, high = min(images.low for images in deep), max(images.high for images in deep)
    real = dtype.kind == "f"
    if not real and low >= 0 and 128 <= high <= 255:
        return BYTES
    if real and 0 <= low <= high <= 1:
        return Depth(dtype.name, 0.0, 1.0)
    if real or low < 0:
        return Depth(dtype.name, low, high if real and low < high else high + 1)
    return Depth(dtype.name, 0.0, float(2 ** int(high).bit_length()))


def scale_pixels(images: Picture, depth: Depth, background: tuple[int, ...]) -> Shaped[np.ndarray, "n c h w"]:
    """Images as bytes, or, if ``depth`` has more than 8 bits, as float32 in [0, 1]; NaN is ``background``.

    Raises ValueError if one has integers and the other floats.
    """
    in_bytes = images.dtype == "uint8"
    if not in_bytes and (np.dtype(images.dtype).kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"images of {images.dtype} and {depth.dtype} have no common scale")
    pixels: Shaped[np.ndarray, "n c h w"] = images.pixels.transpose(0, 3, 1, 2)
    if depth == BYTES and in_bytes:
        return pixels
    low, high = (0, 255) if depth == BYTES or in_bytes else (depth.low, depth.high)
    values = (pixels.astype(np.float64) - low) / (high - low)
    values = np.where(np.isnan(values), np.resize(background, (values.shape[1], 1, 1)) / 255, values)
    return np.rint(255 * values).astype(np.uint8) if depth == BYTES else values.astype(np.float32)


MAX_COPIED = 2**32  # bytes of an array on disk; the images of a larger one stay there
MIN_IMAGES = 10  # of which one is held out for validation, and one for testing
MAX_HELD_OUT = 10_000  # of its images in each split, the number that evaluations use


def mnist() -> Images:
    """MNIST: 50,000 training, 10,000 validation and 10,000 test images of 1 × 28 × 28 bytes."""

    def content(name: str, header: int) -> UInt8[Tensor, "n"]:
        packed = (resources.files("ncsn") / "assets" / "mnist" / f"{name}-ubyte.gz").read_bytes()
        return torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8, offset=header)

    images, test = (content(f"{name}-images-idx3", 16).view(-1, 1, 28, 28) for name in ("train", "t10k"))
    classes, test_classes = (content(f"{name}-labels-idx1", 8).long() for name in ("train", "t10k"))
    train, validation = images[:-10_000], images[-10_000:]
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=test_classes, names=tuple("0123456789"))
    return Images(train, validation, test, labels, "mnist")


def images_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n h w c"]:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) with channels last; c is the smaller of axes 1 and 3.

    Raises ValueError for other shapes and dtypes, and for NaN and infinity.
    """
    if array.ndim not in (3, 4) or not array.size or array.dtype.kind not in "buif":
        allowed = "numbers (n, h, w), (n, h, w, c) or (n, c, h, w)"
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; expected {allowed}")
    check_finite(name, array)
    array = array[..., None] if array.ndim == 3 else array
    return array.transpose(0, 2, 3, 1) if array.shape[1] < array.shape[3] else array


def read_images(name: str, reading: Reading) -> Images:
    """MNIST, or the images in a folder, an archive or an array.

    Raises ValueError if they can't be read as requested; OSError for a folder without read permission.
    """
    if name == "mnist":
        if reading.pixels() not in (None, (28, 28)):
            raise ValueError(f"size is {reading.size}, but mnist is always 28x28")
        return mnist()
    if Path(name).suffix.lower() in (".npy", ".npz"):
        return from_arrays(name, read_arrays(Path(name)), [], reading)
    return from_files(name, reading)


def from_arrays(name: str, arrays: Arrays, notes: Sequence[str], reading: Reading) -> Images:
    """The images in arrays.  Raises ValueError as ``split_arrays`` and ``images_of`` do.

    A large memory-mapped array of bytes isn't copied; its first images are held out.
    """
    only = arrays.get("")
    if isinstance(only, np.memmap) and only.dtype == np.uint8 and only.nbytes > MAX_COPIED and reading.size is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, because nobody may write to the file
            images = torch.from_numpy(images_in(name, only)).permute(0, 3, 1, 2)
        held_out = min(len(images) // 10, MAX_HELD_OUT)
        validation, test, train = torch.split(images, [held_out, held_out, len(images) - 2 * held_out])
        note = f"read from the file as needed: the first {2 * held_out:,} images are held out"
        return Images(train, validation, test, name=name, notes=(*notes, note))
    splits = {split: items_of(array) for split, array in split_arrays(name, arrays, images_in).items()}
    return images_of(name, splits, notes, reading)


def from_files(name: str, reading: Reading) -> Images:
    """The images in a folder, or in a zip or tar archive.

    Raises ValueError if an archive can't be read, and as ``images_of`` does; OSError if a folder is unreadable.
    """
    place = Path(name)
    read = walk if place.is_dir() else open_zip if place.suffix.lower() == ".zip" else open_tar
    items, notes = catalogue(name, read(place))
    members = {split: [item for item in items if item.split == split] for split in PARTS}
    indices = split_indices({split: len(members[split]) for split in PARTS})
    splits = {split: [members[source][k] for k in index.tolist()] for split, (source, index) in indices.items()}
    return images_of(name, splits, notes, reading)


def items_of(array: SplitArray) -> list[Item]:
    """The images of a split, in chunks that are decoded together."""
    items = []
    for first in range(0, len(array.places), AT_ONCE):
        chunk = array.places[first : first + AT_ONCE]
        label = "" if array.classes is None else array.classes[chunk]
        items.append(Item(f"{array.name}[{chunk[0]}]", partial(array.examples.__getitem__, chunk), label=label))
    return items


def images_of(name: str, splits: Mapping[Split, list[Item]], notes: Sequence[str], reading: Reading) -> Images:
    """The images of three splits as a dataset.

    Images of other sizes are resized to that of the majority.
    Raises ValueError if a split is empty, if more images are broken than allowed, if no size is given and there is no
    majority, or if some are integers and others floats.
    """
    items = [(split, item) for split, members in splits.items() for item in members]
    decoded = [*bar(decode_items([item for _, item in items], reading), "images", total=len(items))]
    pictures, broken = list[Picture](), list[str]()
    sizes: dict[Split, int] = dict.fromkeys(splits, 0)
    classes: dict[Split, list[str | np.ndarray]] = {split: [] for split in splits}
    for (split, item), images in zip(items, decoded, strict=True):
        if isinstance(images, str):
            broken.append(images)
        else:
            pictures.append(images)
            sizes[split] += len(images.pixels)
            classes[split].append(item.label)
    listed = f"{len(broken)} of {len(items)}: {', '.join(sorted(broken))}"
    if len(broken) > reading.max_broken:
        raise ValueError(f"at most {reading.max_broken} images may be broken (--max-broken); found {listed}")
    if empty := [split for split in sizes if not sizes[split]]:
        skipped = [f"broken images: {listed}"] if broken else []
        lacking = f"{name} has {counted(sum(sizes.values()), 'image')}, but none for {' and '.join(empty)}"
        if 0 < sizes["train"] < MIN_IMAGES:
            images = counted(sizes["train"], "image")
            lacking = f"{name} has {images} for training; at least {MIN_IMAGES} are needed, ideally 1,000"
        raise ValueError("; ".join([lacking, *skipped, *notes]))
    pixels, depth, lines = join_pictures(pictures, reading)
    if broken:
        lines.append(f"broken images skipped: {listed}")
    validation, test, train = torch.split(torch.from_numpy(pixels), list(sizes.values()))
    return Images(train, validation, test, labels_of(classes), name, depth, (*notes, *lines))


def join_pictures(pictures: list[Picture], reading: Reading) -> tuple[np.ndarray, Depth, list[str]]:
    """The pixels of images as one array, their depth, and a line for each conversion.

    Raises ValueError if they have several sizes, unless most of them have the same.
    """
    sizes = Counter[tuple[int, ...]]()
    for images in pictures:
        sizes[images.pixels.shape[1:3]] += len(images.pixels)
    total = sizes.total()
    (height, width), most = sizes.most_common(1)[0]
    if len(sizes) > 1 and most <= total / 2:
        listed = ", ".join(f"{h} x {w} ({n})" for (h, w), n in sizes.most_common(5))
        usual_side = min(64, median_low([min(size) for size in sizes.elements()]))
        several = f"images have {len(sizes)} sizes (height x width), such as {listed}"
        raise ValueError(f"{several}; give --size, such as {usual_side}")
    if len(sizes) > 1:
        usual = replace(reading, size=f"{height}x{width}")
        pictures = [fit_size(images, usual, " as most images are (--size sets another)") for images in pictures]
    depth = depth_of(pictures)
    channels = max(images.pixels.shape[3] for images in pictures)
    pixels = np.empty((total, channels, height, width), np.uint8 if depth == BYTES else np.float32)
    notes = Counter[str]()
    start = 0
    for images in pictures:
        n = len(images.pixels)
        pixels[start : start + n] = scale_pixels(images, depth, reading.colour())
        start += n
        notes.update(dict.fromkeys(images.notes, n))
        notes["as bytes"] += n * (images.dtype != "uint8" and depth == BYTES)
        notes["as float32"] += n * (images.dtype == "float64")
    if depth != BYTES and (depth.low, depth.high) != (0, 1):
        notes[f"{depth.dtype}: {depth.low:g} to {depth.high:g} become 0 to 1"] = total
    return pixels, depth, [f"{note}: {count:,} of {total:,} images" for note, count in notes.items() if count]


def read_example(
    name: str,
    shape: tuple[int, ...],
    images: Dataset | None,
    reading: Reading,
    transform: Transform,
    *,
    fit: bool = True,
) -> Float[Tensor, "c h w"]:
    """One image with pixels in [0, 1]: a test image by its index, or an image file.

    ``name``: the index, or the path of the file.
    ``shape``: channels, height and width.  A file is resized to it, and converted to grey for one channel, with a
    warning.
    ``images``: the dataset with the test images; None for a file.
    ``reading``: how a file is converted to pixels.
    ``transform``: the run's, which knows the depth of files.
    ``fit``: whether a file may be resized; measurements may not.
    Raises ValueError if there is no such image, if it can't be read, or if it has another shape.
    """
    if images is None:
        pixels = read_image(name, shape, reading, stored_depth(transform), fit=fit)
    elif int(name) < len(images.test):
        pixels = images.test[int(name)]
    else:
        raise ValueError(f"input is {name}; the test images are 0 to {len(images.test) - 1}")
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); expected {shape}")
    return reals(pixels)


def read_image(
    name: str, shape: tuple[int, ...], reading: Reading, depth: Depth, *, fit: bool
) -> Shaped[Tensor, "c h w"]:
    """The pixels of a file, see ``read_example``; ``depth``: of the run's files."""
    try:
        image = picture(partial(file_bytes, Path(name)), replace(reading, size=None))
    except Exception as error:  # codecs raise many kinds
        raise ValueError(
            f"input {name!r} is neither an index nor a readable image ({why_unreadable(error)})"
        ) from error
    channels, height, width = shape
    if channels == 1 and image.pixels.shape[3] == 3:
        grey = np.asarray(Image.fromarray(image.pixels[0]).convert("L"))
        image = image._replace(pixels=grey[None, ..., None], notes=[*image.notes, "converted to grey"])
    if fit:
        image = fit_size(image, replace(reading, size=f"{height}x{width}"))
    if depth == BYTES:
        depth = depth_of([image])
        if depth.low or (np.dtype(depth.dtype).kind == "f" and depth.high != 1):
            image.notes.append(f"{depth.low:g} to {depth.high:g} become 0 to 1")
    if image.notes:
        log.warning(f"{name}: {', '.join(image.notes)}")
    pixels = torch.from_numpy(scale_pixels(image, depth, reading.colour())[0].copy())
    return pixels.expand(3, -1, -1) if channels == 3 and len(pixels) == 1 else pixels


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageRun(Run):
    """A run that generates images."""

    examples: ClassVar[type[Dataset]] = Images

    def _read(self, place: str, reading: Reading) -> Images:
        return read_images(place, reading)
