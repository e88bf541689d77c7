"""A folder, an archive or arrays → images one by one: where they are, what part and class they have, what they show.

Files are untrusted: sizes are checked before anything is decoded, only formats of images are tried, nothing is
extracted or unpickled, and nothing but regular files is opened.
"""

import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple, TypeVar
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from ncsn import files, machine
from ncsn.data.reading import Reading

Split = Literal["train", "validation", "test"]
SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "eval": "validation", "test": "test"}
PART_NAME = re.compile(r"(train|val|eval|test)(ing|id|idation|uation)?[-_ ]?\d*", re.IGNORECASE)
"""What folders and arrays are called that hold one part: train, Training, train2017, val, valid, test1 …"""
IMAGE_WORDS = {"x", "image", "images", "img", "imgs", "data", "arr", "0"}
LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
IMAGE_SUFFIX = re.compile(r"\.(png|jpe|jpe?g|jfif|bmp|gif|tiff?|webp|pgm|ppm|avif)", re.IGNORECASE)
UNREAD_SUFFIX = re.compile(r"\.(heic|heif|jp2|jxl|tga|psd|svg|exr|dcm|dng|cr2|nef)", re.IGNORECASE)
ARRAY_SUFFIXES = (".npy", ".npz")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Pillow knows more formats, such as PostScript, which is a program; its older versions do not know AVIF.
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else [])]
GREY_MODES = ("1", "L", "LA", "La")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, of more than 8 bits
ORIENTATION = 0x0112  # EXIF's tag
FILE_LIMIT = 2**29  # bytes of one image
WORKERS = min(8, os.cpu_count() or 1)
FITS: dict[str, tuple[str, Callable[..., Image.Image]]] = {
    "crop": ("cropped", ImageOps.fit),
    "pad": ("padded", ImageOps.contain),
    "stretch": ("stretched", Image.Image.resize),
}
Pixels = Shaped[np.ndarray, "h w c"]
Size = tuple[int, int]
Given = TypeVar("Given")
Made = TypeVar("Made")


class Item(NamedTuple):
    """An image that can be read: the bytes of a file, or a row of an array; ``name``: what errors call it.

    ``place``: when it is read; a compressed archive is read from front to back.
    """

    name: str
    read: Callable[[], bytes | Pixels]
    place: int = 0


@dataclass(frozen=True)
class Catalogue:
    """Where images come from.

    ``name``: what errors call it.  ``items``: in the order of their paths.  ``splits``: the part of each, None if that
    is to be drawn.  ``classes``: the class of each, 0 to k − 1, if there are classes, and ``names``: what the k are
    called.  ``said``: what was left out or converted, a line each.
    """

    name: str
    items: Sequence[Item]
    splits: Sequence[Split | None]
    classes: Int64[np.ndarray, "n"] | None = None
    names: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


class Picture(NamedTuple):
    """An image: ``pixels``; the dtype and the range of its file; whether it is grey; what was done to it."""

    pixels: Pixels
    dtype: str
    low: float
    high: float
    grey: bool
    notes: list[str]


def part_of(word: str) -> Split | None:
    """The part that a folder or an array of this name holds."""
    match = PART_NAME.fullmatch(word)
    return SPLITS[match[1].lower()] if match else None


@contextmanager
def opened(path: Path) -> Iterator[Catalogue]:
    """What is at ``path``, while the block runs.  Raises ValueError if that is nothing that holds images."""
    name = path.name.lower()
    if path.is_dir():
        yield from_files(str(path), dict(walk(path)))
    elif path.is_file() and name.endswith(ARRAY_SUFFIXES):
        yield from_arrays(str(path), arrays(path))
    elif path.is_file() and name.endswith((".zip", *TAR_SUFFIXES)):
        with zipped(path) if name.endswith(".zip") else tarred(path) as found:
            yield from_files(str(path), found)
    else:
        suffixes = ", ".join((*ARRAY_SUFFIXES, ".zip", *TAR_SUFFIXES))
        raise ValueError(f"{path} is no data set; it must be a folder, or a regular file {suffixes}")


Files = dict[PurePosixPath, Item | None]
"""Files by their paths below the top; None for links and devices in archives."""


def walk(top: Path) -> Iterator[tuple[PurePosixPath, Item]]:
    """The files below a folder; links to folders are followed unless they lead back.

    Raises ValueError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from error

    for place, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        here = Path(place)
        folders[:] = [f for f in sorted(folders) if not hidden(PurePosixPath(f)) and not leads_back(here / f)]
        for path in (here / name for name in names):
            yield PurePosixPath(*path.relative_to(top).parts), Item(str(path), partial(file_bytes, path))


def leads_back(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def file_bytes(path: Path) -> bytes:
    """A file's bytes.  Raises ValueError for a pipe, which would be waited for, and for what is too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    return limited(lambda: path.open("rb"), status.st_size)


def limited(start: Callable[[], IO[bytes] | None], size: int) -> bytes:
    """The bytes of a file.  Raises ValueError if it claims too many for an image."""
    if size > FILE_LIMIT:
        raise ValueError(f"it claims {size:,} bytes; at most {FILE_LIMIT:,} are read")
    stream = start()
    assert stream is not None, "only folders and links have none"
    with stream:
        return stream.read(size)


@contextmanager
def zipped(path: Path) -> Iterator[Files]:
    """The files in a zip archive; some programs of Windows write backslashes between folders."""
    with files.opened_zip(path, "a zip archive") as archive:
        found: Files = {}
        for info in archive.infolist():
            inside = info.filename.replace("\\", "/") if info.create_system == 0 else info.filename
            item = Item(f"{path}/{inside}", partial(limited, partial(archive.open, info), info.file_size), len(found))
            if not info.is_dir():
                found[PurePosixPath(inside)] = None if stat.S_ISLNK(info.external_attr >> 16) else item
        yield found


@contextmanager
def tarred(path: Path) -> Iterator[Files]:
    """The files in a tar archive, compressed or not.  Raises ValueError if it is none, or is damaged."""
    found: Files = {}
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(path))
            for info in (info for info in archive if not info.isdir()):
                read = partial(limited, partial(archive.extractfile, info), info.size)
                item = Item(f"{path}/{info.name}", read, info.offset)
                found[PurePosixPath(info.name)] = item if info.isreg() else None
            # tarfile takes a damaged header for the end of the archive, which is a block of zeros.
            archive.fileobj.seek(archive.offset)
            if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
                raise ValueError(f"it is damaged behind its first {len(found)} files")
        except Exception as error:  # of many kinds, by what is broken and how it is compressed
            raise ValueError(f"{path} cannot be read as a tar archive ({files.reason(error)})") from error
        yield found


def hidden(path: PurePosixPath) -> bool:
    """Whether a system put it there, not a user."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def from_files(name: str, found: Mapping[PurePosixPath, Item | None]) -> Catalogue:
    """The images among files, by their paths below the top, whose folders are parts, or classes, or both.

    Parts are folders of their names, if there is one to train on and there is either another or nothing else; what
    lies beside them is left out.  Where there are only some to judge by, what lies beside them is to train on.  Classes
    are the folders that come next, if there are two and every image is in one.
    Raises ValueError if there is no part to train on.
    """
    visible = [path for path in sorted(found, key=lambda path: path.parts) if not hidden(path)]
    images = [path for path in visible if IMAGE_SUFFIX.fullmatch(path.suffix)]
    others = [path.suffix.lower() for path in visible if UNREAD_SUFFIX.fullmatch(path.suffix)]
    said = [f"left out: {len(others)} of {len(visible)} files, {', '.join(sorted({*others}))}"] if others else []
    if links := sum(found[path] is None for path in images):
        said.append(f"links left out: {links} in the archive")
    triples = [(path, part_of(path[0]) if len(path) > 1 else None, item) for path, item in unwrapped(images, found)]
    present = {part for _, part, _ in triples if part}
    listed, beside = " and ".join(sorted(present)), sum(part is None for _, part, _ in triples)
    if (present == {"train"} and beside) or not present:  # which is a class, then
        triples = [(path, None, item) for path, _, item in triples]
    elif "train" not in present:
        if not beside:
            raise ValueError(f"{name} has folders for {listed} only; one for train is needed")
        said.append(f"{beside} images to train on: those that are not in the folders for {listed}")
        triples = [(path[1:] if part else path, part or "train", item) for path, part, item in triples]
    else:
        if beside:
            said.append(f"{beside} images left out: they are in none of the folders for {listed}")
        triples = [(path[1:], part, item) for path, part, item in triples if part]
    items, splits = [item for _, _, item in triples], [part for _, part, _ in triples]
    names = sorted({path[0] for path, _, _ in triples if len(path) > 1})
    loose = sum(len(path) == 1 for path, _, _ in triples)
    if len(names) > 1 and loose:
        said.append(f"folders are not taken for classes: {loose} of {len(items)} images are in none")
    if len(names) < 2 or loose:
        return Catalogue(name, items, splits, said=tuple(said))
    numbers = {word: number for number, word in enumerate(names)}
    classes = np.array([numbers[path[0]] for path, _, _ in triples], np.int64)
    return Catalogue(name, items, splits, classes, tuple(names), tuple(said))


def unwrapped(
    paths: Sequence[PurePosixPath], found: Mapping[PurePosixPath, Item | None]
) -> list[tuple[tuple[str, ...], Item]]:
    """The items with their paths, without the folders that all have in common."""
    pairs = [(path.parts, item) for path in paths if (item := found[path])]
    while pairs and len({path[0] for path, _ in pairs}) == 1 and all(len(path) > 1 for path, _ in pairs):
        pairs = [(path[1:], item) for path, item in pairs]
    return pairs


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is mapped, by "".

    Raises ValueError if they cannot be read, hold Python objects, or are too much for the memory.
    """
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r")
            if array.offset + array.nbytes != path.stat().st_size:
                raise ValueError(f"shape {array.shape} of {array.dtype} is not all that it holds")
            return {"": array}
        with files.opened_zip(path, "an .npz") as archive:
            size, limit = sum(info.file_size for info in archive.infolist()), machine.memory() // 4
        if size > limit:
            raise ValueError(f"it holds {size:,} bytes; at most {limit:,} fit here: save it as .npy")
        with np.load(path) as archive:
            return {key: array for key in archive.files if isinstance(array := archive[key], np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise whatever they like
        raise ValueError(f"{path} cannot be read as arrays ({files.reason(error)})") from error


def images_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n h w c"]:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) with their channels last: the smaller of axes 1 and 3 is c.

    Raises ValueError if they are none.
    """
    if array.ndim not in (3, 4) or not array.size or array.dtype.kind not in "buif":
        raise ValueError(
            f"{name} has shape {array.shape} of {array.dtype}; (n, h, w), (n, h, w, c) or (n, c, h, w) is needed, none "
            "of them 0, of integers, floats or booleans"
        )
    array = array[..., None] if array.ndim == 3 else array
    return array.transpose(0, 2, 3, 1) if array.shape[1] < array.shape[3] else array


def role(key: str) -> tuple[str, Split | None]:
    """What an array is by its key: images, labels or other; and of which part."""
    words = re.findall("[a-z0-9]+", key.lower())
    parts, rest = [part for word in words if (part := part_of(word))], {word for word in words if not part_of(word)}
    kind = "images" if rest <= IMAGE_WORDS else "labels" if rest <= LABEL_WORDS else "other"
    return kind, parts[0] if parts else None


def from_arrays(name: str, found: Mapping[str, Shaped[np.ndarray, "..."]]) -> Catalogue:
    """The images in arrays, whose keys are like images or x, or x_train and test_images; any, if it is the only one.

    The keys of their labels are like label or y, or y_train and test_labels.
    Raises ValueError if they cannot be told apart, differ in dtype or channels, or if there are none to train on.
    """
    shaped = [key for key, array in found.items() if array.ndim in (3, 4)] or list(found)
    named = [key for key in shaped if role(key)[0] == "images"]
    chosen = [key for key in named if role(key)[1]] or named or shaped
    parts: dict[Split | None, str] = {role(key)[1] if named else None: key for key in chosen}
    stacks = {part: images_in(f"{name} {key}".strip(), found[key]) for part, key in parts.items()}
    kinds = {(array.dtype.newbyteorder("="), array.shape[3]) for array in stacks.values()}
    if len(parts) != len(chosen) or len(kinds) != 1 or not {None, "train"} & parts.keys():
        listed = ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in list(found.items())[:10])
        raise ValueError(
            f"{name} holds {listed or 'nothing'}; one array of images is needed, or one for each part, x_train and "
            "x_test, of one dtype and as many channels"
        )
    ((dtype, channels),) = kinds
    said = [] if channels in (1, 3) else [f"channels as they are: {channels}, neither colour nor alpha"]
    if dtype.kind == "b":
        said.append("bool as bytes: false is 0 and true is 255")
    elif dtype.kind in "ui" and dtype != np.uint8:
        low, high = min(stack.min() for stack in stacks.values()), max(stack.max() for stack in stacks.values())
        if low >= 0 and 128 <= high <= 255:
            said.append(f"{dtype} as bytes: all values are 0 to 255")
            dtype = np.dtype(np.uint8)
    items = [
        Item(f"{name}{key and '/'}{key}[{i}]", partial(row, stack, i, dtype))
        for key, stack in zip(parts.values(), stacks.values(), strict=True)
        for i in range(len(stack))
    ]
    splits = [part for part, stack in stacks.items() for _ in stack]
    labels = {role(key)[1]: key for key in reversed(list(found)) if role(key)[0] == "labels"}
    known = [found[labels[part]] for part in stacks if part in labels]
    fits = [classed(array, len(stack)) for array, stack in zip(known, stacks.values(), strict=False)]
    whole = fits == [True] * len(stacks)
    used = {*parts.values(), *(labels.values() if whole else ())}
    said += [f"{key} left out: it is neither images nor a class for each" for key in found if key not in used]
    if not whole:
        return Catalogue(name, items, splits, said=tuple(said))
    values = np.concatenate([array.reshape(-1) for array in known])
    names, classes = np.unique(values.astype(np.int64) if values.dtype.kind == "f" else values, return_inverse=True)
    names = np.char.decode(names, "utf-8", "replace") if names.dtype.kind == "S" else names
    return Catalogue(name, items, splits, classes.astype(np.int64), tuple(map(str, names.tolist())), tuple(said))


def classed(labels: Shaped[np.ndarray, "..."], n: int) -> bool:
    """Whether they are the classes of n images: text or whole numbers, which may be floats."""
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (np.floor(labels) == labels)).all():
        return False
    return labels.dtype.kind in "buiUSf" and labels.shape in ((n,), (n, 1))


def row(array: Shaped[np.ndarray, "n h w c"], i: int, dtype: np.dtype[np.generic]) -> Pixels:
    """An image of an array in this dtype; a boolean one in black and white bytes."""
    pixels: Pixels = 255 * array[i].astype(np.uint8) if dtype.kind == "b" else array[i].astype(dtype, copy=False)
    return pixels


def in_parallel(work: Callable[[Given], Made], items: Iterable[Given], ahead: int = 2 * WORKERS) -> Iterator[Made]:
    """``work`` of each item, in order, by threads, for so many items at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(WORKERS) as pool:
        while some := list(islice(remaining, ahead)):
            yield from pool.map(work, some)


def fault(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"its header claims more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else files.reason(error)


def pictures(items: Sequence[Item], reading: Reading, size: Size | None) -> Iterator[tuple[int, Picture | str]]:
    """Each image by its number, fitted to ``size`` if that is given; or why it cannot be read."""

    def content(i: int) -> tuple[int, bytes | Pixels | Exception]:
        try:
            return i, items[i].read()
        except Exception as error:  # archives raise whatever they like
            return i, error

    def work(pair: tuple[int, bytes | Pixels | Exception]) -> tuple[int, Picture | str]:
        try:
            return pair[0], fault(pair[1]) if isinstance(pair[1], Exception) else picture(pair[1], reading, size)
        except Exception as error:  # codecs do, too
            return pair[0], fault(error)

    order = sorted(range(len(items)), key=lambda i: items[i].place)
    bar = tqdm(order, "images", unit="image", delay=1, leave=False, mininterval=machine.refresh_interval())
    with catch_warnings():
        # Pillow only warns of what is up to twice as large as it allows.
        simplefilter("error", Image.DecompressionBombWarning)
        # Files are read one after another, as archives want it; what takes longer is to decode them.
        yield from in_parallel(work, map(content, bar))


def picture(content: bytes | Pixels, reading: Reading, size: Size | None) -> Picture:
    """An image, upright, over the background and, if ``size`` is given, fitted to that.

    Raises ValueError for what is no finite number, and whatever Pillow does where the file is broken.
    """
    pixels, notes = decoded(content, reading) if isinstance(content, bytes) else (content, [])
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("it has values that are not finite")
    grey = pixels.shape[2] in (1, 3) and bool((pixels[..., :1] == pixels).all())
    one = Picture(pixels, pixels.dtype.name, float(pixels.min()), float(pixels.max()), grey, notes)
    return one if size is None else fitted(one, size, reading)


def decoded(data: bytes, reading: Reading) -> tuple[Pixels, list[str]]:
    """The pixels of an image file, upright and over the background, and what was done to them."""
    image = Image.open(BytesIO(data), formats=FORMATS)
    notes = ["first frames only"] if getattr(image, "is_animated", False) else []
    arguments = image.tile[0][3] if image.tile else ""  # how its pixels lie in the file
    raw = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    largest = arguments[1] if image.format == "PPM" and isinstance(arguments, tuple) else 0
    if image.mode not in DEEP_MODES and (largest > 255 or (image.format == "TIFF" and ";16" in raw)):
        notes.append("8 of 16 bits")  # all that Pillow reads
    key, orientation = image.info.get("transparency"), image.getexif().get(ORIENTATION, 1)
    if orientation in range(2, 9):  # others mean nothing, and are not rare
        notes.append("turned by EXIF")
    if image.format == "PNG" and ";16" in raw:
        return deep_png(data, key, orientation, reading, notes)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_MODES:
        pixels = np.asarray(upright)
        return pixels.astype(pixels.dtype.newbyteorder("="))[..., None], notes
    if upright.mode == "CMYK":
        notes.append("CMYK as RGB")
    channels = 1 if upright.mode in GREY_MODES else 3
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append(f"alpha on {reading.background}")
        below = Image.new("RGBA", layer.size, (*reading.colour(), 255))
        channels = 3 if reading.coloured() else channels
        return np.asarray(Image.alpha_composite(below, layer))[..., :channels].copy(), notes
    pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels), notes


def deep_png(
    data: bytes, key: int | tuple[int, ...] | bytes | None, orientation: int, reading: Reading, notes: list[str]
) -> tuple[Pixels, list[str]]:
    """The pixels of a 16-bit PNG, which torchvision keeps whole; ``key``: the colour of transparent pixels."""
    from torchvision.io import ImageReadMode, decode_image  # here, because it takes a second that others need not spend

    encoded = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
    pixels = decode_image(encoded, mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
    if pixels.shape[2] in (2, 4):
        pixels, opaque = pixels[..., :-1], pixels[..., -1:] / np.float32(65535)
    elif key is not None:
        opaque = 1 - (pixels == np.array(key)).all(2, keepdims=True).astype(np.float32)
    else:
        return pixels, notes
    if opaque.min() < 1:
        notes.append(f"alpha on {reading.background}")
    pixels = pixels.repeat(3, 2) if reading.coloured() and pixels.shape[2] == 1 else pixels
    below = np.array(reading.colour()[: pixels.shape[2]], np.float32) * 257  # 65535 / 255
    return np.rint(pixels * opaque + below * (1 - opaque)).astype(np.uint16), notes


def fitted(one: Picture, size: Size, reading: Reading) -> Picture:
    """An image of another size by Lanczos' filter; the background around one of more than 8 bits is NaN.

    Raises ValueError if it has channels that no colour can be around.
    """
    pixels, (height, width) = one.pixels, one.pixels.shape[:2]
    if (height, width) == size:
        return one
    pad, deep = reading.fit == "pad", pixels.dtype != np.uint8
    coloured = pad and reading.coloured()
    if coloured and pixels.shape[2] not in (1, 3):
        raise ValueError(f"it has {pixels.shape[2]} channels; its background must be grey")
    pixels = pixels.astype(np.float32) if deep else pixels
    pixels = pixels.repeat(3, 2) if coloured and pixels.shape[2] == 1 else pixels
    verb, fit = FITS[reading.fit]
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels.transpose(2, 0, 1)]
    resized = np.stack([np.asarray(fit(plane, size[::-1], Image.Resampling.LANCZOS)) for plane in planes], 2)
    if deep:
        # The filter overshoots at edges: bytes stop at 0 and 255, reals where the image itself does.
        resized = resized.clip(pixels.min((0, 1)), pixels.max((0, 1)))
    around = np.nan if deep else reading.colour() if coloured else reading.colour()[0]
    full = np.full((*size, pixels.shape[2]), around, pixels.dtype)
    top, left = (size[0] - resized.shape[0]) // 2, (size[1] - resized.shape[1]) // 2
    full[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    ratios = size[0] / height, size[1] / width
    notes = [*one.notes, f"{verb} to {size[0]} x {size[1]}"]
    if (min(ratios) if pad else max(ratios)) > 1:
        notes.append("enlarged")
    return one._replace(pixels=full, grey=one.grey and not coloured, notes=notes)
