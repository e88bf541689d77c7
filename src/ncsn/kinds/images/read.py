"""Reading images from files, archives and arrays; every conversion that changes pixels is reported."""

import gzip
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from ncsn.kinds.images import files
from ncsn.kinds.images.files import Catalogue, Item
from ncsn.kinds.images.pixels import (
    AT_ONCE,
    BYTES,
    Depth,
    Picture,
    decode_items,
    depth_of,
    fit_size,
    picture,
    scale_pixels,
    stored_depth,
)
from ncsn.kinds.kind import Dataset, Labels
from ncsn.kinds.reading import PARTS, Reading, Split, short_name
from ncsn.kinds.stacks import Arrays, check_finite, labels_of, split_arrays, split_of
from ncsn.kinds.transform import Transform
from ncsn.machine.messages import bar, log
from ncsn.quantization import reals
from ncsn.validation import one_line, reason

MAX_COPIED = 2**32  # bytes of an array on disk; the images of a larger one stay there
MAX_HELD_OUT = 10_000  # of its images in each split, the number that evaluations use


def mnist() -> Dataset:
    """MNIST: 50,000 training, 10,000 validation and 10,000 test images of 1 × 28 × 28 bytes."""

    def content(name: str, header: int) -> UInt8[Tensor, "n"]:
        packed = (resources.files("ncsn") / "assets" / "mnist" / f"{name}-ubyte.gz").read_bytes()
        return torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8, offset=header)

    full, test = (content(f"{part}-images-idx3", 16).view(-1, 1, 28, 28) for part in ("train", "t10k"))
    classes, held = (content(f"{part}-labels-idx1", 8).long() for part in ("train", "t10k"))
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=tuple("0123456789"))
    return Dataset(full[:-10_000], full[-10_000:], test, labels, "mnist")


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


def from_arrays(name: str, found: Arrays, notes: Sequence[str], reading: Reading) -> Dataset:
    """The images in arrays.  Raises ValueError as ``split_arrays`` and ``images_of`` do.

    A large memory-mapped array of bytes isn't copied; its first images are held out.
    """
    only = found.get("")
    if isinstance(only, np.memmap) and only.dtype == np.uint8 and only.nbytes > MAX_COPIED and reading.size is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, because nobody may write to the file
            images = torch.from_numpy(images_in(name, only)).permute(0, 3, 1, 2)
        held_out = min(len(images) // 10, MAX_HELD_OUT)
        validation, test, train = torch.split(images, [held_out, held_out, len(images) - 2 * held_out])
        note = f"read from the file as needed: the first {2 * held_out:,} images are held out"
        return Dataset(train, validation, test, name=short_name(name), notes=(*notes, note))
    parts = {part: items_of(*stack) for part, stack in split_arrays(name, found, images_in).items()}
    return images_of(name, parts, notes, reading)


def from_folder(name: str, reading: Reading) -> Dataset:
    """The images in a folder.  Raises ValueError as ``images_of`` does, OSError if it's unreadable."""
    return from_catalogue(name, files.from_files(name, [*files.walk(Path(name)).items()]), reading)


def from_archive(name: str, reading: Reading) -> Dataset:
    """The images in a zip or tar archive.  Raises ValueError if it can't be read, and as ``images_of`` does."""
    place = Path(name)
    members = files.open_zip(place) if place.suffix.lower() == ".zip" else files.open_tar(place)
    return from_catalogue(name, files.from_files(name, members), reading)


def items_of(name: str, stack: np.ndarray, labels: np.ndarray | None, index: np.ndarray) -> list[Item]:
    """The images of a stack at an index, in parts that are decoded together."""
    parts = [index[first : first + AT_ONCE] for first in range(0, len(index), AT_ONCE)]
    known: Sequence[np.ndarray | str] = [""] * len(parts) if labels is None else [labels[part] for part in parts]
    return [
        Item(f"{name}[{part[0]}]", partial(stack.__getitem__, part), label=label, images=len(part))
        for part, label in zip(parts, known, strict=True)
    ]


def from_catalogue(name: str, catalogue: Catalogue, reading: Reading) -> Dataset:
    """The images in files.  Raises ValueError as ``images_of`` does."""
    items, notes = catalogue
    members = {part: [item for item in items if (item.part or "train") == part] for part in PARTS}
    indices = split_of({part: len(members[part]) for part in PARTS})
    parts = {part: [members[source][k] for k in index.tolist()] for part, (source, index) in indices.items()}
    return images_of(name, parts, notes, reading)


def images_of(name: str, parts: Mapping[Split, list[Item]], notes: Sequence[str], reading: Reading) -> Dataset:
    """The images of three splits as a dataset.

    Raises ValueError if a split is empty, if more images are broken than allowed, if their sizes differ and no size is
    given, or if some are integers and others floats.
    """
    whole, broken = decode_parts(parts, reading)
    total = sum(item.images for members in parts.values() for item in members)
    listed = f"{len(broken)} of {total}: {', '.join(sorted(broken))}"
    if len(broken) > reading.max_broken:
        raise ValueError(f"more images are broken than --max-broken {reading.max_broken} allows: {listed}")
    sizes = {part: sum(len(one.pixels) for _, one in members) for part, members in whole.items()}
    if empty := [part for part in sizes if not sizes[part]]:
        number, skipped = sum(sizes.values()), [f"broken images: {listed}"] if broken else []
        facts = [f"{name} has {number} images, but none for {' and '.join(empty)}", *skipped, *notes]
        raise ValueError("; ".join(facts))
    found = [one for members in whole.values() for _, one in members]
    pixels, depth, lines = join_pictures(found)
    if broken:
        lines.append(f"broken images skipped: {listed}")
    validation, test, train = torch.split(torch.from_numpy(pixels), list(sizes.values()))
    labels = labels_of({part: [item.label for item, _ in members] for part, members in whole.items()})
    return Dataset(train, validation, test, labels, short_name(name), depth, (*notes, *lines))


def decode_parts(
    parts: Mapping[Split, list[Item]], reading: Reading
) -> tuple[dict[Split, list[tuple[Item, Picture]]], list[str]]:
    """Decode images under a progress bar; returns those that can be read, and the names and errors of the others."""
    items = [item for members in parts.values() for item in members]
    broken: list[str] = []
    whole: dict[Split, list[tuple[Item, Picture]]] = {part: [] for part in parts}
    named = [part for part, members in parts.items() for _ in members]
    for (item, one), part in zip(bar(decode_items(items, reading), "images", total=len(items)), named, strict=True):
        if isinstance(one, Picture):
            whole[part].append((item, one))
        else:
            broken.append(f"{item.name} ({one_line(one)})")
    return whole, broken


def join_pictures(found: list[Picture]) -> tuple[np.ndarray, Depth, list[str]]:
    """The pixels of images as one array, their depth, and a line for each conversion.

    Raises ValueError if they have several sizes.
    """
    sizes = Counter[tuple[int, ...]]()
    for one in found:
        sizes[one.pixels.shape[1:3]] += len(one.pixels)
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w} ({n})" for (h, w), n in sizes.most_common(5))
        raise ValueError(f"images have {len(sizes)} sizes (height x width), such as {listed}; give --size, such as 64")
    depth, channels, total = depth_of(found), max(one.pixels.shape[3] for one in found), sizes.total()
    pixels = np.empty((total, channels, *found[0].pixels.shape[1:3]), np.uint8 if depth == BYTES else np.float32)
    notes, end = Counter[str](), 0
    for one in found:
        n, end = len(one.pixels), end + len(one.pixels)
        pixels[end - n : end] = scale_pixels(one, depth)
        notes.update(dict.fromkeys(one.notes, n))
        notes["as bytes"] += n * (one.dtype != "uint8" and depth == BYTES)
        notes["as float32"] += n * (one.dtype == "float64")
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
    depth = stored_depth(transform)
    if images is not None:
        if int(name) >= len(images.test):
            raise ValueError(f"input is {name}; the test images are 0 to {len(images.test) - 1}")
        pixels = images.test[int(name)]
    else:
        try:
            one = picture(partial(files.file_bytes, Path(name)), replace(reading, size=None))
        except Exception as error:  # codecs raise many kinds
            raise ValueError(f"input {name!r} is neither an index nor a readable image ({reason(error)})") from error
        if shape[0] == 1 and one.pixels.shape[3] == 3:
            one = one._replace(pixels=np.asarray(Image.fromarray(one.pixels[0]).convert("L"))[None, ..., None])
            one.notes.append("converted to grey")
        one = fit_size(one, replace(reading, size=f"{shape[1]}x{shape[2]}")) if fit else one
        if depth == BYTES:
            depth = depth_of([one])
            if depth.low or (np.dtype(depth.dtype).kind == "f" and depth.high != 1):
                one.notes.append(f"{depth.low:g} to {depth.high:g} become 0 to 1")
        if one.notes:
            log.warning(f"{name}: {', '.join(one.notes)}")
        pixels = torch.from_numpy(scale_pixels(one, depth)[0].copy())
        if shape[0] == 3 and len(pixels) == 1:
            pixels = pixels.expand(3, -1, -1)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); expected {shape}")
    return reals(pixels)
