"""Grids of images, and their way out of the noise."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from jaxtyping import Float, Shaped, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ncsn.files import atomic
from ncsn.pixels import quantize
from ncsn.plots.style import STYLE, animate, finish
from ncsn.samplers.step import Step


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


def image_grid(x: Float[Tensor, "n c h w"], path: Path | None = None, *, columns: int = 10) -> Figure | None:
    """A grid of images whose pixels are in [0, 1]; values beyond are clipped.

    With a ``path`` a picture of whole pixels is written there, two by two for each; without, the figure is returned.
    """
    picture = tile(quantize(x), columns)
    if path is not None:
        with atomic(path) as temporary:
            picture.save(temporary)
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(picture.width / 100, picture.height / 100))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        return figure


def visible(x: Float[Tensor, "*d"], sigma: float) -> UInt8[Tensor, "*d"]:
    """Noisy images with their contrast reduced around mid-grey until two standard deviations of noise fit."""
    return quantize(0.5 + (x - 0.5) / (1 + 4 * sigma))


def spread(steps: Sequence[Step], most: int) -> list[Step]:
    """At most so many of the states, evenly chosen, the first and the last among them."""
    chosen = torch.linspace(0, len(steps) - 1, min(most, len(steps))).round().int().tolist()
    return [steps[i] for i in chosen]


def evolution(steps: Sequence[Step], path: Path | None = None, *, examples: int = 8, columns: int = 12) -> Figure:
    """From noise to images: one example a row, noise levels from left to right, σ = 0 for the denoised state.

    ``steps``: the states of a sampler, of images (n, c, h, w).
    """
    shown = spread(steps, columns)
    sheet = torch.stack([visible(x[:examples], sigma) for sigma, x in shown], 1).flatten(0, 1)
    with mpl.rc_context(STYLE):
        picture = tile(sheet, len(shown), zoom=3)
        width = 10.0
        figure = Figure(figsize=(width, width * picture.height / picture.width + 0.45), layout="constrained")
        axes = figure.subplots()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        step = picture.width / len(shown)
        axes.set_xticks([(k + 0.5) * step for k in range(len(shown))], [f"{sigma:.2g}" for sigma, _ in shown])
        axes.set_yticks([])
        axes.set_xlabel("noise level σ, from the first step of sampling to the denoised samples (0)")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return finish(figure, path)


def evolution_animation(steps: Sequence[Step], path: Path, *, examples: int = 36) -> None:
    """The same as an animation of a grid, in at most 40 frames and 16 shades, which keeps the file small."""
    frames = [tile(visible(x[:examples], sigma), 6).quantize(16) for sigma, x in spread(steps, 40)]
    animate(frames, path, milliseconds=120)
