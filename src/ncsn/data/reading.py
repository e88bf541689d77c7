"""One image file → its pixels as they were meant: transparency, depth, palettes, rotation.

Files are untrusted: only formats of images are tried, and sizes are checked before anything is decoded.
"""

from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from typing import IO, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ncsn import files
from ncsn.data.options import Reading

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
# Pillow knows more, such as PostScript, which is a program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
FILE_LIMIT = 2**29  # bytes
GREY_MODES = ("1", "L", "LA", "La")
ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)  # its values that swap height and width
# Pillow's modes of more than 8 bits, and the type of what it makes of them.
DEEP_MODES = {
    "I;16": "uint16",
    "I;16L": "uint16",
    "I;16B": "uint16",
    "I;16N": "uint16",
    "I": "int32",
    "F": "float32",
}


Stream = IO[bytes] | BufferedIOBase
"""A file that is open; in an archive, only the second."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before it is decoded; ``channels`` without alpha, ``dtype`` by numpy's name."""

    height: int
    width: int
    channels: int
    dtype: str = "uint8"


class Note(NamedTuple):
    """What was done to an image's pixels: in short, and said of several images."""

    short: str
    long: str


FIRST_FRAME = Note("first frames only", "have more than one frame")
TURNED = Note("turned by EXIF", "are turned as their EXIF data say")
FROM_CMYK = Note("CMYK as RGB", "are converted from CMYK")
REDUCED = Note("8 of 16 bits", "have 16 bits a channel, of which Pillow reads 8")


class Picture(NamedTuple):
    """An image's pixels (h, w, c), bytes or deep, and what was done to them."""

    pixels: Shaped[np.ndarray, "h w c"]
    notes: tuple[Note, ...] = ()


def transparent(background: str) -> Note:
    """The note of an image that was not opaque everywhere."""
    return Note(f"alpha on {background}", f"have transparent pixels, where {background} shows")


def reason(error: Exception) -> str:
    """Why an image cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow knows"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"its header claims more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return files.reason(error)


def head(content: Stream, reading: Reading) -> Header:
    """What the header of an image file says.  Raises whatever Pillow does where it is none."""
    image = Image.open(cast(IO[bytes], content), formats=FORMATS)
    # Image's own getexif: that of PNG decodes the whole image, in case EXIF comes behind the pixels.
    sideways = Image.Image.getexif(image).get(ORIENTATION) in SIDEWAYS
    width, height = size_of(image)
    height, width = (width, height) if sideways else (height, width)
    grey = image.mode in GREY_MODES or image.mode in DEEP_MODES or raw_mode(image).startswith("LA;16")
    if grey and reading.coloured() and image.has_transparency_data:
        grey = False
    dtype = "uint16" if deep_png(image) else DEEP_MODES.get(image.mode, "uint8")
    return Header(height, width, 1 if grey else 3, dtype)


def size_of(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height as the file has them; some versions of Pillow turn those of TIFF when they open it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, height = (int(image.tag_v2[tag]) for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        return width, height
    return image.size


def read_all(content: Stream) -> bytes:
    """All bytes of a file.  Raises ValueError if there are too many for an image."""
    data = content.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise ValueError(f"it has more than {FILE_LIMIT:,} bytes")
    return data


def picture(data: bytes, reading: Reading) -> Picture:
    """The pixels of an image file, transparency laid on the background.

    Raises ValueError for what is no finite number, and whatever Pillow does where the file is broken.
    """
    image = Image.open(BytesIO(data), formats=FORMATS)
    notes = [FIRST_FRAME] if getattr(image, "n_frames", 1) > 1 else []
    if reduced(image):
        notes.append(REDUCED)
    deep, key = deep_png(image), image.info.get("transparency")
    # TIFF's is gone when its pixels are there, and turned; PNG's may come behind them.
    known = image.tag_v2.get(ORIENTATION, 1) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
    image.load()
    orientation = image.getexif().get(ORIENTATION, 1) if known is None else known
    if orientation in range(2, 9):  # others mean nothing, and are not rare
        notes.append(TURNED)
    if deep:
        pixels, opaque = deep_pixels(data, key, orientation)
        return Picture(*on_background(pixels, opaque, reading, notes))
    turned = ImageOps.exif_transpose(image)
    if turned.mode in DEEP_MODES:
        pixels = np.asarray(turned)
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ValueError("it has values that are not finite")
        return Picture(pixels.astype(pixels.dtype.newbyteorder("="))[..., None], tuple(notes))
    return shallow(turned, reading, notes)


def shallow(image: Image.Image, reading: Reading, notes: list[Note]) -> Picture:
    """The pixels of an image of at most 8 bits a channel."""
    grey = image.mode in GREY_MODES
    if image.mode == "CMYK":
        notes.append(FROM_CMYK)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            notes.append(transparent(reading.background))
        below = Image.new("RGBA", image.size, (*reading.colour(), 255))
        pixels = np.asarray(Image.alpha_composite(below, image))[..., :3]
        return Picture(pixels[..., :1] if grey and not reading.coloured() else pixels, tuple(notes))
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return Picture(pixels.reshape(*pixels.shape[:2], -1), tuple(notes))


def raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels of an image that is not decoded yet lie in its file, by Pillow's name; "" if it does not say."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def deep_png(image: ImageFile.ImageFile) -> bool:
    """Whether it is a PNG of 16 bits a channel, of which Pillow would drop half without a word."""
    return image.format == "PNG" and ";16" in raw_mode(image)


def reduced(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow drops bits of it, and no other reader at hand keeps them."""
    if image.format == "PPM" and image.mode == "RGB" and isinstance(image.tile[0][3], tuple):
        return int(image.tile[0][3][1]) > 255
    return image.format == "TIFF" and image.mode not in DEEP_MODES and ";16" in raw_mode(image)


def deep_pixels(
    data: bytes, key: int | tuple[int, ...] | bytes | None, orientation: int
) -> tuple[Shaped[np.ndarray, "h w c"], Shaped[np.ndarray, "h w 1"] | None]:
    """The pixels of a 16-bit PNG, which torchvision keeps whole, and how opaque they are, 0 to 1, if not all are.

    ``key``: the colour that stands for a transparent pixel, as PNG's tRNS chunk has it.  ``orientation``: EXIF's.
    """
    from torchvision.io import ImageReadMode, decode_image  # here, because it takes a second that others need not spend

    encoded = torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))
    decoded = decode_image(encoded, mode=ImageReadMode.UNCHANGED)
    pixels = upright(decoded.permute(1, 2, 0).numpy(), orientation)
    if pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1:] / np.float32(65535)
    if key is None:
        return pixels, None
    hidden = (pixels == np.array(key)).all(2, keepdims=True)
    return pixels, 1 - hidden.astype(np.float32)


def upright(pixels: Shaped[np.ndarray, "h w c"], orientation: int) -> Shaped[np.ndarray, "r s c"]:
    """Pixels as EXIF's orientation, 1 to 8, wants them shown; torchvision cannot turn those of 16 bits."""
    pixels = pixels.swapaxes(0, 1) if orientation in SIDEWAYS else pixels
    pixels = pixels[::-1] if orientation in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def on_background(
    pixels: Shaped[np.ndarray, "h w c"],
    opaque: Shaped[np.ndarray, "h w 1"] | None,
    reading: Reading,
    notes: list[Note],
) -> tuple[Shaped[np.ndarray, "h w k"], tuple[Note, ...]]:
    """16-bit pixels over the background, as far as they are not opaque."""
    if opaque is None:
        return pixels, tuple(notes)
    if reading.coloured() and pixels.shape[2] == 1:
        pixels = pixels.repeat(3, 2)
    if opaque.min() < 1:
        notes.append(transparent(reading.background))
    below = np.array(reading.colour()[: pixels.shape[2]], np.float32) * 257  # 65535 / 255
    mixed = np.rint(pixels * opaque + below * (1 - opaque))
    return mixed.astype(np.uint16), tuple(notes)
