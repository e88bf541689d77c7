"""A folder, an archive or arrays → images one by one: where they are, what part and class they have, what they show.

Files are untrusted: sizes are checked before anything is decoded, only formats of images are tried, nothing is
extracted or unpickled, and nothing but regular files is opened.
"""

import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Literal, NamedTuple, TypeVar
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from ncsn.data.reading import Reading
from ncsn.machine import hardware
from ncsn.machine.hardware import refresh_interval
from ncsn.validation import reason

Split = Literal["train", "validation", "test"]
PARTS: tuple[Split, ...] = ("validation", "test", "train")
SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "eval": "validation", "test": "test"}
PART_NAME = re.compile(r"(train|val|eval|test)(ing|id|idation|uation)?[-_ ]?\d*", re.IGNORECASE)
"""What folders and arrays are called that hold one part: train, Training, train2017, val, valid, test1 …"""
IMAGE_KEYS = {"", "x", "image", "images", "img", "imgs", "data", "samples", "arr_0"}
LABEL_KEYS = {"y", "label", "labels", "target", "targets"}
# The second line are images, too, which Pillow does not read: they are named as broken ones are.
IMAGE_SUFFIXES = {
    *[".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".avif"],
    *[".heic", ".heif", ".jp2", ".jxl", ".tga", ".psd", ".svg", ".exr", ".dcm", ".dng", ".cr2", ".nef"],
}
# Pillow knows more formats, such as PostScript, which is a program; its older versions do not know AVIF.
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else [])]
GREY_MODES = ("1", "L", "LA", "La")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, of more than 8 bits
ORIENTATION = 0x0112  # EXIF's tag
FILE_LIMIT = 2**29  # bytes of one image
WORKERS = min(8, os.cpu_count() or 1)
Fitting = Callable[..., Image.Image]
FITS: dict[str, Fitting] = {"crop": ImageOps.fit, "pad": ImageOps.contain, "stretch": Image.Image.resize}
Pixels = Shaped[np.ndarray, "h w c"]
Size = tuple[int, int]
Files = dict[PurePosixPath, Callable[[], bytes]]
"""How files are read, by their paths below the top; in the order in which that is fast."""
Catalogue = tuple[list["Item"], list[str]]
"""The images in the order of their paths, and a line for all that was left out."""
Given = TypeVar("Given")
Made = TypeVar("Made")


class Item(NamedTuple):
    """An image that can be read: the bytes of a file, or a row of an array.

    ``name``: what errors call it.  ``part``: None if that is to be drawn.  ``label``: its class, "" if it has none.
    ``place``: when it is read; a compressed archive is read from front to back.
    """

    name: str
    read: Callable[[], bytes | Pixels]
    part: Split | None = None
    label: str | int = ""
    place: int = 0


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
    suffix, name = path.suffix.lower(), str(path)
    with ExitStack() as stack:
        if path.is_dir():
            yield from_files(name, walk(path))
        elif not path.is_file():
            raise ValueError(f"{path} is neither a folder nor a regular file")
        elif suffix in (".npy", ".npz"):
            yield from_arrays(name, arrays(path))
        else:
            yield from_files(name, zipped(path, stack) if suffix == ".zip" else tarred(path, stack))


def walk(top: Path) -> Files:
    """The files below a folder.  Each folder is read once, however many links lead to it.

    Raises ValueError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from error

    found: Files = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not hidden(PurePosixPath(name)))
        for path in (Path(folder, name) for name in names):
            found[PurePosixPath(path.relative_to(top).as_posix())] = partial(file_bytes, path)
    return found


def file_bytes(path: Path) -> bytes:
    """A file's bytes.  Raises ValueError for a pipe, which would be waited for, and for what is too large."""
    if not path.is_file():
        raise ValueError("it is no regular file")
    return limited(lambda: path.open("rb"), path.stat().st_size)


def limited(start: Callable[[], IO[bytes] | None], size: int) -> bytes:
    """The bytes of a file.  Raises ValueError if it claims too many for an image."""
    if size > FILE_LIMIT:
        raise ValueError(f"it claims {size:,} bytes; at most {FILE_LIMIT:,} are read")
    stream = start()
    if stream is None:
        raise ValueError("it is no regular file")
    with stream:
        return stream.read(size)


@contextmanager
def opened_zip(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """A zip archive, while the block runs; ``kind``: what errors call it.

    Raises ValueError if it is none, or has a member whose name would not fit a line, or one that claims more than its
    compressed bytes can stand for.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as {kind} ({reason(error)})") from error
    with archive:
        for info in archive.infolist():
            if not info.filename.isprintable():
                raise ValueError(f"{path} has a member by the name {info.filename!r}; it must fit a line")
            # The most that deflate can do is 1032 to 1.
            if info.compress_type in (0, 8) and info.file_size > 1032 * info.compress_size + 1032:
                raise ValueError(f"{path}/{info.filename} claims {info.file_size:,} bytes, which it cannot hold")
        yield archive


def zipped(path: Path, stack: ExitStack) -> Files:
    """The files in a zip archive; some programs of Windows write backslashes between folders."""
    archive = stack.enter_context(opened_zip(path, "a zip archive"))
    return {
        PurePosixPath(info.filename.replace("\\", "/")): partial(limited, partial(archive.open, info), info.file_size)
        for info in archive.infolist()
        if not info.is_dir()
    }


def tarred(path: Path, stack: ExitStack) -> Files:
    """The files in a tar archive, compressed or not.  Raises ValueError if it is none, or is damaged."""
    try:
        archive = stack.enter_context(tarfile.TarFile.open(path))
        members = [info for info in archive if not info.isdir()]
        # tarfile takes a damaged header, or none, for the end of the archive, which is a block of zeros.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is damaged behind its first {len(members)} files")
    except Exception as error:  # of many kinds, by what is broken and how it is compressed
        raise ValueError(f"{path} is no .npy, .npz, .zip or .tar that can be read ({reason(error)})") from error
    return {
        PurePosixPath(info.name): partial(limited, partial(archive.extractfile, info), info.size) for info in members
    }


def hidden(path: PurePosixPath) -> bool:
    """Whether a system put it there, not a user; or it would lie outside of its archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def from_files(name: str, found: Files) -> Catalogue:
    """The images among files, whose folders are parts, or classes, or both.

    Parts are folders of their names, if one of them is to judge by.  What lies beside is to train on, or is left out
    where another folder is for that.  Classes are the folders that come next.
    """
    paths = sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and not hidden(path))
    top = os.path.commonpath([path.parent for path in paths]) if paths else ""
    folders = [path.relative_to(top).parent.parts for path in paths]
    parts = [part_of(names[0]) if names else None for names in folders]
    if not {"validation", "test"} & {*parts}:  # a folder called train is a class, then
        parts = [None] * len(paths)
    beside: Split | None = None if "train" in parts else "train"
    places = {path: place for place, path in enumerate(found)}
    items = [
        Item(f"{name}/{path}", found[path], part or beside, "".join(names[bool(part) :][:1]), places[path])
        for path, names, part in zip(paths, folders, parts, strict=True)
        if part or beside
    ]
    left_out = len(paths) - len(items)
    said = [f"{left_out} images left out: they are in no folder for train, validation or test"] if left_out else []
    return items, said


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
        with opened_zip(path, "an .npz") as archive:
            size, limit = sum(info.file_size for info in archive.infolist()), hardware.memory() // 4
        if size > limit:
            raise ValueError(f"it holds {size:,} bytes; at most {limit:,} fit here: save it as .npy")
        with np.load(path) as archive:
            return {key: array for key in archive.files if isinstance(array := archive[key], np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise whatever they like
        raise ValueError(f"{path} cannot be read as arrays ({reason(error)})") from error


def images_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n h w c"]:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) with their channels last: the smaller of axes 1 and 3 is c.

    Raises ValueError if they are none.
    """
    if array.ndim not in (3, 4) or not array.size or array.dtype.kind not in "buif":
        allowed = "numbers (n, h, w), (n, h, w, c) or (n, c, h, w)"
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}; {allowed} are needed")
    array = array[..., None] if array.ndim == 3 else array
    return array.transpose(0, 2, 3, 1) if array.shape[1] < array.shape[3] else array


def role(key: str) -> tuple[str, Split | None]:
    """What an array is by its key, without the word for its part; and that part."""
    words = re.split("[^a-z0-9]+", key.lower())
    part = next((part for word in words if (part := part_of(word))), None)
    return "_".join(word for word in words if not part_of(word)), part


def from_arrays(name: str, found: Mapping[str, Shaped[np.ndarray, "..."]]) -> Catalogue:
    """The images in the only array, or in those whose keys are like images or x, or x_train and test_images.

    The keys of their labels are like label or y, or y_train and test_labels.
    Raises ValueError if they cannot be told apart, differ in dtype or channels, or if there are none to train on.
    """
    chosen = [key for key in found if role(key)[0] in IMAGE_KEYS or len(found) == 1]
    keys = {role(key)[1] if len(found) > 1 else None: key for key in chosen}
    stacks = {part: images_in(f"{name} {key}".strip(), found[key]) for part, key in keys.items()}
    kinds = {(stack.dtype, stack.shape[3]) for stack in stacks.values()}
    if len(keys) < len(chosen) or ("train" in keys) == (None in keys) or len(kinds) > 1:
        listed = ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in list(found.items())[:10])
        allowed = "one array, images, or x_train, x_val and x_test, alike in dtype and channels"
        raise ValueError(f"{name} holds {listed or 'nothing'}; {allowed}, is needed")
    labels = {role(key)[1]: key for key in found if role(key)[0] in LABEL_KEYS}
    if labels.keys() != keys.keys() or not all(are_classes(found[labels[part]], stacks[part]) for part in keys):
        labels = {}
    unused = {*found} - {*keys.values(), *labels.values()}
    said = [f"{key} left out: it is neither images nor a class for each" for key in sorted(unused)]
    items: list[Item] = []
    for part, stack in stacks.items():
        classes = found[labels[part]].reshape(-1) if labels else np.full(len(stack), "")
        classes = classes.astype(np.int64) if classes.dtype.kind == "f" else classes
        for i, label in enumerate(classes.tolist()):
            items.append(Item(f"{name}/{keys[part]}[{i}]", partial(np.asarray, stack[i]), part, label))
    return items, said


def are_classes(labels: Shaped[np.ndarray, "..."], images: Shaped[np.ndarray, "n h w c"]) -> bool:
    """Whether they are the classes of images: text or whole numbers, which may be floats."""
    whole = labels.dtype.kind != "f" or bool((np.isfinite(labels) & (np.floor(labels) == labels)).all())
    return whole and labels.dtype.kind in "buiUf" and labels.shape in ((len(images),), (len(images), 1))


def in_parallel(work: Callable[[Given], Made], items: Iterable[Given], ahead: int = 2 * WORKERS) -> Iterator[Made]:
    """``work`` of each item, in order, by threads, for so many items at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(WORKERS) as pool:
        while some := list(islice(remaining, ahead)):
            yield from pool.map(work, some)


def fault(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    return "no image that Pillow knows" if isinstance(error, UnidentifiedImageError) else reason(error)


def attempt(work: Callable[..., Made], *arguments: object) -> Made | Exception:
    """What ``work`` returns, or what it raises: archives and codecs raise whatever they like."""
    try:
        return work(*arguments)
    except Exception as error:
        return error


def pictures(items: Sequence[Item], reading: Reading, size: Size | None) -> Iterator[tuple[Item, Picture | Exception]]:
    """Each image, fitted to ``size`` if that is given; or why it cannot be read."""

    def work(pair: tuple[Item, bytes | Pixels | Exception]) -> tuple[Item, Picture | Exception]:
        return pair[0], attempt(picture, pair[1], reading, size)

    order = sorted(items, key=lambda item: item.place)
    bar = tqdm(order, "images", unit="image", delay=1, leave=False, mininterval=refresh_interval())
    with catch_warnings():
        # Pillow only warns of what is up to twice as large as it allows.
        simplefilter("error", Image.DecompressionBombWarning)
        # Files are read one after another, as archives want it; what takes longer is to decode them.
        yield from in_parallel(work, ((item, attempt(item.read)) for item in bar))


def picture(content: bytes | Pixels | Exception, reading: Reading, size: Size | None) -> Picture:
    """An image, upright, over the background and, if ``size`` is given, fitted to that.

    Raises ValueError for what is no finite number, whatever Pillow does where the file is broken, and what reading did.
    """
    if isinstance(content, Exception):
        raise content
    pixels, notes = decoded(content, reading) if isinstance(content, bytes) else (content, [])
    if pixels.dtype.kind == "b":
        pixels = 255 * pixels.astype(np.uint8)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(pixels).all():
        raise ValueError("it has values that are not finite")
    grey = pixels.shape[2] in (1, 3) and bool((pixels[..., :1] == pixels).all())
    one = Picture(pixels, pixels.dtype.name, float(pixels.min()), float(pixels.max()), grey, notes)
    return one if size is None else fitted(one, size, reading)


def decoded(data: bytes, reading: Reading) -> tuple[Pixels, list[str]]:
    """The pixels of an image file, upright and over the background, and what was done to them."""
    image = Image.open(BytesIO(data), formats=FORMATS)
    notes = ["first frames only"] if getattr(image, "is_animated", False) else []
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation in range(2, 9):  # others mean nothing, and are not rare
        notes.append("turned by EXIF")
    if image.mode == "CMYK":
        notes.append("CMYK as RGB")
    if reduced(image):
        notes.append("8 of 16 bits")
    if image.format == "PNG" and data[24] == 16:  # bits of a channel, of which Pillow keeps 8 in colour
        return deep_png(data, orientation, reading, notes)
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_MODES:
        return np.asarray(upright)[..., None], notes
    grey = upright.mode in GREY_MODES
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append(f"alpha on {reading.background}")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*reading.colour(), 255)), layer)
        grey = grey and not reading.coloured()
    pixels = np.asarray(upright.convert("RGB"))
    return pixels[..., :1] if grey else pixels, notes


def reduced(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow drops half of the bits, and no other reader at hand keeps them."""
    arguments = image.tile[0][3] if image.tile else ""
    if image.format == "PPM":
        return isinstance(arguments, tuple) and image.mode == "RGB" and int(arguments[1]) > 255
    return image.format == "TIFF" and image.mode not in DEEP_MODES and ";16" in str(arguments)


def deep_png(data: bytes, orientation: int, reading: Reading, notes: list[str]) -> tuple[Pixels, list[str]]:
    """The pixels of a 16-bit PNG, which torchvision keeps whole."""
    from torchvision.io import decode_image  # here, because it takes a second that others need not spend

    encoded = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
    pixels = decode_image(encoded).permute(1, 2, 0).numpy()  # it can turn images of 8 bits only
    pixels = pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
    if pixels.shape[2] in (1, 3):
        return pixels, notes
    pixels, opaque = pixels[..., :-1], pixels[..., -1:] / np.float32(65535)
    if opaque.min() < 1:
        notes.append(f"alpha on {reading.background}")
    pixels = pixels.repeat(3, 2) if reading.coloured() and pixels.shape[2] == 1 else pixels
    below = np.array(reading.colour()[: pixels.shape[2]], np.float32) * 257  # 65535 / 255
    return np.rint(pixels * opaque + below * (1 - opaque)).astype(np.uint16), notes


def fitted(one: Picture, size: Size, reading: Reading) -> Picture:
    """An image of another size by Lanczos' filter; with ``pad``, not larger than that, for a background around it."""
    if one.pixels.shape[:2] == size:
        return one
    deep, coloured = one.dtype != "uint8", reading.fit == "pad" and reading.coloured()
    pixels = one.pixels.astype(np.float32) if deep else one.pixels
    pixels = pixels.repeat(3, 2) if coloured and pixels.shape[2] == 1 else pixels
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels.transpose(2, 0, 1)]
    resized = np.stack(
        [np.asarray(FITS[reading.fit](plane, size[::-1], Image.Resampling.LANCZOS)) for plane in planes], 2
    )
    if deep:
        # The filter overshoots at edges: bytes stop at 0 and 255, reals where the image itself does.
        resized = resized.clip(pixels.min((0, 1)), pixels.max((0, 1)))
    notes = [*one.notes, f"{reading.fit} to {size[0]} x {size[1]}"]
    if resized.size > pixels.size:
        notes.append("enlarged")
    return one._replace(pixels=resized, grey=one.grey and not coloured, notes=notes)
