"""Images of many sizes → images of one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps

from ncsn.data.options import Fit, Reading
from ncsn.data.reading import Header

USUAL = 0.9  # the share of images that make their size the one that others are fitted to
Size = tuple[int, int]
"""Height and width."""


def common_size(headers: Sequence[Header], reading: Reading) -> Size:
    """The size that is asked for, or that all images have, or nine tenths of them.

    Raises ValueError if no size is given and there is no such.
    """
    asked = reading.pixels()
    if asked is not None:
        return asked
    found = Counter((header.height, header.width) for header in headers)
    size, count = found.most_common(1)[0]
    if count >= USUAL * len(headers):
        return size
    listed = ", ".join(f"{h} x {w} ({n})" for (h, w), n in found.most_common(5))
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ValueError(
        f"{len(headers)} images have {len(found)} sizes (height x width): {listed}{more}; "
        f"give --size, such as {size[0]}, to make them one"
    )


def said_of_sizes(headers: Sequence[Header], size: Size, fit: Fit) -> list[str]:
    """What fitting to ``size`` does to images with these ``headers``, a line each."""
    height, width = size
    changed = [header for header in headers if (header.height, header.width) != size]
    if not changed:
        return []
    verb = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}[fit]
    lines = [f"{verb} to {height} x {width}: {len(changed)} of {len(headers)} images had another size"]
    enlarged = [header for header in changed if enlargement(header, size, fit) > 1]
    if enlarged:
        smallest = min(enlarged, key=lambda header: header.height * header.width)
        lines.append(
            f"enlarged: {len(enlarged)} of {len(headers)} images are smaller than that, "
            f"the smallest {smallest.height} x {smallest.width}"
        )
    return lines


def enlargement(header: Header, size: Size, fit: Fit) -> float:
    """How much longer an image becomes, in the direction in which it grows most."""
    ratios = size[0] / header.height, size[1] / header.width
    return min(ratios) if fit == "pad" else max(ratios)


def fitted(
    pixels: Shaped[np.ndarray, "h w c"], size: Size, fit: Fit, background: Sequence[float]
) -> Shaped[np.ndarray, "r s c"]:
    """An image of another size: bytes stay bytes, all else becomes float32; Lanczos' filter, wide enough not to alias.

    ``background``: what is around a padded image, a value for each channel, in the units of ``pixels``.
    """
    if pixels.shape[:2] == size:
        return pixels
    planes = pixels.astype(np.uint8 if pixels.dtype == np.uint8 else np.float32).transpose(2, 0, 1)
    return np.stack([plane(p, size, fit, b) for p, b in zip(planes, background, strict=True)], 2)


def plane(pixels: Shaped[np.ndarray, "h w"], size: Size, fit: Fit, background: float) -> Shaped[np.ndarray, "r s"]:
    """One channel of another size."""
    height, width = size
    image, lanczos = Image.fromarray(np.ascontiguousarray(pixels)), Image.Resampling.LANCZOS
    if fit == "crop":
        resized = np.asarray(ImageOps.fit(image, (width, height), lanczos))
    elif fit == "stretch":
        resized = np.asarray(image.resize((width, height), lanczos))
    else:
        resized = np.asarray(ImageOps.contain(image, (width, height), lanczos))
    if pixels.dtype != np.uint8:
        # Lanczos' filter overshoots at edges: bytes stop at 0 and 255, reals where the image itself does.
        resized = resized.clip(pixels.min(), pixels.max())
    if fit != "pad":
        return resized
    full = np.full(size, background, resized.dtype)
    top, left = (height - resized.shape[0]) // 2, (width - resized.shape[1]) // 2
    full[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return full


def with_channels(pixels: Shaped[np.ndarray, "h w c"], channels: int) -> Shaped[np.ndarray, "h w k"]:
    """A grey image repeated to as many channels; others as they are."""
    return pixels.repeat(channels, 2) if pixels.shape[2] == 1 else pixels
