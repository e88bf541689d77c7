"""The numbers of images: what a file shows, what its numbers are, and the real numbers that a density needs.

Files are untrusted: only formats of images are tried.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageFile, ImageOps

from ncsn.data.sources import Item, Reading
from ncsn.data.units import BYTES, Depth

# Pillow knows more formats, such as PostScript, which is a program; its older versions do not know AVIF.
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else [])]
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, of more than 8 bits
AT_ONCE = 256  # images that are decoded before the next are begun
Pixels = Shaped[np.ndarray, "n h w c"]


class Picture(NamedTuple):
    """Images of one size: ``pixels``, one channel if they are grey; their file's dtype and range; what was done."""

    pixels: Pixels
    dtype: str
    low: float
    high: float
    notes: list[str]


def decoded(items: Sequence[Item], reading: Reading) -> Iterator[tuple[Item, Picture | BaseException]]:
    """Each item in order, and its images as ``picture``, or why they cannot be read; by threads."""
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(items), AT_ONCE):
            some = items[first : first + AT_ONCE]
            futures = [pool.submit(picture, item.read, reading) for item in some]
            for item, future in zip(some, futures, strict=True):
                yield item, future.exception() or future.result()


def picture(read: Callable[[], object], reading: Reading) -> Picture:
    """The images of an item, upright, over the background and of the size that is asked for.

    Raises ValueError for what is no finite number, and whatever archives and codecs do where a file is broken.
    """
    content = read()
    pixels, notes = pixels_of_file(content, reading) if isinstance(content, bytes) else (np.asarray(content), [])
    if pixels.dtype.kind == "b":
        pixels = 255 * pixels.astype(np.uint8)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(pixels).all():
        raise ValueError("it has values that are not finite")
    if pixels.shape[3] == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    return fitted(Picture(pixels, pixels.dtype.name, float(pixels.min()), float(pixels.max()), notes), reading)


def pixels_of_file(data: bytes, reading: Reading) -> tuple[Pixels, list[str]]:
    """The pixels of an image file, upright and over the background, and what was done to them."""
    image = Image.open(BytesIO(data), formats=FORMATS)
    conversions = {
        "8 of 16 bits": reduced(image),  # first: what asks for EXIF may read all
        "first frames only": getattr(image, "is_animated", False),
        "turned by EXIF": image.getexif().get(0x0112) in range(2, 9),  # others mean nothing, and are not rare
        "CMYK as RGB": image.mode == "CMYK",
    }
    notes = [note for note, happens in conversions.items() if happens]
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_MODES:
        return np.asarray(upright)[None, ..., None], notes
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append(f"alpha on {reading.background}")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, (*reading.colour(), 255)), layer)
    return np.asarray(upright.convert("RGB"))[None], notes


def reduced(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow drops half of the bits, as it does in colour."""
    arguments = image.tile[0][3] if image.tile else ""
    if image.format == "PPM":
        return isinstance(arguments, tuple) and image.mode == "RGB" and int(arguments[1]) > 255
    return image.format in ("PNG", "TIFF") and image.mode not in DEEP_MODES and ";16" in str(arguments)


def fitted(one: Picture, reading: Reading) -> Picture:
    """Images of the size that is asked for, by Lanczos' filter."""
    size = reading.pixels()
    if size is None or one.pixels.shape[1:3] == size:
        return one
    deep = one.dtype != "uint8"
    pixels = one.pixels.astype(np.float32) if deep else one.pixels
    planes = [Image.fromarray(np.ascontiguousarray(p)) for image in pixels for p in image.transpose(2, 0, 1)]
    fit = ImageOps.fit if reading.fit == "crop" else Image.Image.resize
    resized = np.stack([np.asarray(fit(plane, size[::-1], Image.Resampling.LANCZOS)) for plane in planes])
    resized = resized.reshape(len(pixels), -1, *size).transpose(0, 2, 3, 1)
    if deep:
        # The filter overshoots at edges: bytes stop at 0 and 255, reals where the image itself does.
        resized = resized.clip(pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True))
    return one._replace(pixels=resized, notes=[*one.notes, f"{reading.fit} to {size[0]} x {size[1]}"])


def depth_of(pictures: Sequence[Picture]) -> Depth:
    """What the numbers of images are, from their dtypes and their range.

    Integers from 0 to 128 … 255 are bytes.  Others end at the smallest power of two above the largest, as 12 bits in
    files of 16 do; floats in [0, 1] are what they are; whatever is negative, or a float above 1, has the data set's
    range.
    """
    deep = [one for one in pictures if one.dtype != "uint8"]
    if not deep:
        return BYTES
    dtypes = {one.dtype for one in deep}
    dtype, low, high = np.result_type(*dtypes), min(one.low for one in deep), max(one.high for one in deep)
    if dtype.kind != "f" and low >= 0 and 128 <= high <= 255:
        return BYTES
    if dtype.kind == "f" and low >= 0 and high <= 1:
        return Depth(dtype.name, 0.0, 1.0)
    if dtype.kind == "f" or low < 0:
        return Depth(dtype.name, low, high + 1 if dtype.kind != "f" or high == low else high)
    # Pillow has all integers that are not quite 16 bits as int32.
    name = "uint16" if dtypes <= {"uint16", "int32"} and high < 2**16 else dtype.name
    return Depth(name, 0.0, float(2 ** int(high).bit_length()))


def in_units(one: Picture, depth: Depth) -> Shaped[np.ndarray, "n c h w"]:
    """Images as bytes, or where ``depth`` has more than 8 bits as float32 in [0, 1].

    Raises ValueError if one has integers, and the other floats.
    """
    if one.dtype != "uint8" and (np.dtype(one.dtype).kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"images of {one.dtype} and of {depth.dtype} have no scale in common")
    pixels: Shaped[np.ndarray, "n c h w"] = one.pixels.transpose(0, 3, 1, 2)
    if depth == BYTES:
        return pixels if one.dtype == "uint8" else np.rint(pixels).astype(np.uint8)
    low, high = (0, 255) if one.dtype == "uint8" else (depth.low, depth.high)
    return ((pixels.astype(np.float64) - low) / (high - low)).astype(np.float32)
