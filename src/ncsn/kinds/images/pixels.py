"""Decoding image files, the depth of their pixels, and the conversion to real numbers.

Files are untrusted, so only image formats are tried.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from ncsn.kinds.images.files import Item
from ncsn.kinds.reading import Reading
from ncsn.kinds.transform import Transform
from ncsn.quantization import dequantize, quantize, reals

# Pillow can read more formats, such as PostScript, which is executed; older versions can't read AVIF.
FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if find_spec("PIL.AvifImagePlugin") else [])]
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's, of more than 8 bits
AT_ONCE = 256  # images that are decoded together
Pixels = Shaped[np.ndarray, "n h w c"]


DTYPES = {np.dtype(code).name for code in "bBhHiIlLqQefdg"}


@dataclass(frozen=True)
class Depth(Transform):
    """The range of pixels in files: a value v becomes (v − low)/(high − low), a real in [0, 1].

    ``dtype``: numpy's name of the files' dtype.  ``low``, ``high``: the file values that become 0 and 1.
    Raises ValueError if ``dtype`` isn't numeric, or the range is empty or not finite.
    """

    type: Literal["depth"] = field(default="depth", kw_only=True)
    dtype: str = "uint8"
    low: float = 0.0
    high: float = 256.0

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or not (self.low < self.high and math.isfinite(self.high - self.low)):
            raise ValueError(f"depth is {self.dtype!r} from {self.low} to {self.high}; expected a finite range")

    def forward(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """Convert bytes to reals, dequantised at random if there is a ``generator``; reals are unchanged."""
        return reals(x) if generator is None or x.dtype != torch.uint8 else dequantize(x, generator=generator)

    def possible(self, x: Shaped[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Bytes, and reals that aren't far from [0, 1], as on another scale."""
        return torch.isnan(x) | ((x >= -0.5) & (x <= 1.5)) | torch.tensor(x.dtype == torch.uint8, device=x.device)

    def place(self, example: int, channel: int) -> str:
        """Name the image, for error messages."""
        return f"a pixel of image {example + 1}"

    def stored(self, x: Float[Tensor, "*d"]) -> Shaped[np.ndarray, "*d"]:
        """Convert reals to the files' dtype; integers are rounded and clipped to [low, high), floats aren't."""
        if self == BYTES:
            return quantize(x).cpu().numpy()
        span = self.high - self.low
        values = x.detach().cpu().double().numpy() * span + self.low
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            return values.astype(dtype)
        # 2⁶² because the largest int64 can't be represented as a float64.
        return np.round(values).clip(max(self.low, -(2**62)), min(self.high - 1, 2**62)).astype(dtype)


BYTES = Depth()
"""The depth of most image files."""


def stored_depth(transform: Transform) -> Depth:
    """The depth of image files; bytes if it's unknown."""
    return transform if isinstance(transform, Depth) else BYTES


class Picture(NamedTuple):
    """Images of one size: ``pixels``, with one channel if grey, the dtype and range of their file, and conversions."""

    pixels: Pixels
    dtype: str
    low: float
    high: float
    notes: list[str]


def decode_items(items: Sequence[Item], reading: Reading) -> Iterator[tuple[Item, Picture | BaseException]]:
    """Decode items in threads; yields them in order, each with its images or the error."""
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(items), AT_ONCE):
            some = items[first : first + AT_ONCE]
            futures = [pool.submit(picture, item.read, reading) for item in some]
            for item, future in zip(some, futures, strict=True):
                yield item, future.exception() or future.result()


def picture(read: Callable[[], object], reading: Reading) -> Picture:
    """The images of an item, upright, on the background and resized as requested.

    Raises ValueError for numbers that aren't finite, and any error of archives and codecs for broken files.
    """
    content = read()
    pixels, notes = pixels_of_file(content, reading) if isinstance(content, bytes) else (np.asarray(content), [])
    if pixels.dtype.kind == "b":
        pixels, notes = 255 * pixels.astype(np.uint8), [*notes, "booleans as 0 and 255"]
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if not np.isfinite(pixels).all():
        raise ValueError("it has values that aren't finite")
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


def fit_size(one: Picture, reading: Reading) -> Picture:
    """Resize images as requested, with a Lanczos filter."""
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
        # The filter overshoots at edges; bytes are clipped to 0 and 255, reals to the image's own range.
        resized = resized.clip(pixels.min((1, 2), keepdims=True), pixels.max((1, 2), keepdims=True))
    return one._replace(pixels=resized, notes=[*one.notes, f"{reading.fit} to {size[0]} x {size[1]}"])


def depth_of(pictures: Sequence[Picture]) -> Depth:
    """The depth of images, from their dtypes and range.

    Integers from 0 to 128 … 255 are bytes.  Other integers range up to the smallest power of two above the largest,
    such as 12 bits in 16-bit files.  Floats in [0, 1] are unchanged.  For negative numbers, and floats above 1, the
    range is that of the dataset.
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
    return Depth(dtype.name, 0.0, float(2 ** int(high).bit_length()))


def scale_pixels(one: Picture, depth: Depth) -> Shaped[np.ndarray, "n c h w"]:
    """Images as bytes, or, if ``depth`` has more than 8 bits, as float32 in [0, 1].

    Raises ValueError if one has integers and the other floats.
    """
    if one.dtype != "uint8" and (np.dtype(one.dtype).kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"images of {one.dtype} and {depth.dtype} have no common scale")
    pixels: Shaped[np.ndarray, "n c h w"] = one.pixels.transpose(0, 3, 1, 2)
    if depth == BYTES:
        return pixels if one.dtype == "uint8" else np.rint(pixels).astype(np.uint8)
    low, high = (0, 255) if one.dtype == "uint8" else (depth.low, depth.high)
    return ((pixels.astype(np.float64) - low) / (high - low)).astype(np.float32)
