"""Images side by side, and their way out of the noise as an animation: pictures of whole pixels, without matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from ncsn.files import atomic
from ncsn.pixels import quantize
from ncsn.samplers import Step


def visible_channels(images: Shaped[Tensor, "n c h w"]) -> Shaped[Tensor, "n d h w"]:
    """The channels that can be seen: one as grey, three as colours; of two the first, of more the first three."""
    return images[:, : 3 if images.shape[1] >= 3 else 1]


def tile(images: UInt8[Tensor, "n c h w"], columns: int, *, zoom: int = 2) -> Image.Image:
    """Images side by side, ``columns`` a row, each pixel ``zoom`` × ``zoom``, with a gap of two pixels between them.

    Of two channels the first is shown, of more than three the first three.
    """
    images = visible_channels(images)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = torch.full((rows * columns, channels, height + 2, width + 2), 64, dtype=torch.uint8)
    padded[:n, :, 1:-1, 1:-1] = images
    sheet = padded.view(rows, columns, channels, height + 2, width + 2).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + 2), columns * (width + 2), channels)
    picture = Image.fromarray((sheet[..., 0] if channels == 1 else sheet).numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def image_grid(x: Float[Tensor, "n c h w"], path: Path | None = None, *, columns: int = 10) -> Image.Image:
    """A grid of images whose pixels are in [0, 1], two by two for each; values beyond are clipped.

    ``path``: where it is written as well, in the format of the suffix.
    """
    picture = tile(quantize(x), columns)
    if path is not None:
        with atomic(path) as temporary:
            picture.save(temporary)
    return picture


def visible(x: Float[Tensor, "*d"], sigma: float) -> UInt8[Tensor, "*d"]:
    """Noisy images with their contrast reduced around mid-grey until two standard deviations of noise fit."""
    return quantize(0.5 + (x - 0.5) / (1 + 4 * sigma))


def spread(steps: Sequence[Step], most: int) -> list[Step]:
    """At most so many of the states, evenly chosen, the first and the last among them."""
    chosen = torch.linspace(0, len(steps) - 1, min(most, len(steps))).round().int().tolist()
    return [steps[i] for i in chosen]


def evolution_animation(steps: Sequence[Step], path: Path, *, examples: int = 36) -> None:
    """The same as an animation of a grid, in at most 40 frames and 16 shades, which keeps the file small."""
    frames = [tile(visible(x[:examples], sigma), 6).quantize(16) for sigma, x in spread(steps, 40)]
    animate(frames, path, milliseconds=120)


def animate(frames: Sequence[Image.Image], path: Path, *, milliseconds: int) -> None:
    """Write frames as a GIF that repeats; the last one stays a while."""
    durations = [milliseconds] * (len(frames) - 1) + [2500]
    with atomic(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)
