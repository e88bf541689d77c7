"""Grids of images, and their way out of the noise."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ncsn.files import atomic
from ncsn.pixels import quantize
from ncsn.plots.style import STYLE, animate, save


def tile(images: UInt8[Tensor, "n c h w"], columns: int, *, zoom: int = 2) -> Image.Image:
    """Images side by side, ``columns`` a row, each pixel ``zoom`` × ``zoom``, with a gap of two pixels between them."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = torch.full((rows * columns, channels, height + 2, width + 2), 64, dtype=torch.uint8)
    padded[:n, :, 1:-1, 1:-1] = images
    sheet = padded.view(rows, columns, channels, height + 2, width + 2).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + 2), columns * (width + 2), channels)
    picture = Image.fromarray((sheet[..., 0] if channels == 1 else sheet).numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def image_grid(x: Float[Tensor, "n c h w"], path: Path, *, columns: int = 10) -> None:
    """A grid of images whose pixels are in [0, 1]; values beyond are clipped."""
    with atomic(path) as temporary:
        tile(quantize(x), columns).save(temporary)


def visible(x: Float[Tensor, "b c h w"], sigma: float) -> UInt8[Tensor, "b c h w"]:
    """Noisy images with their contrast reduced around mid-grey until two standard deviations of noise fit."""
    return quantize(0.5 + (x - 0.5) / (1 + 4 * sigma))


def evolution(
    states: Sequence[Float[Tensor, "n c h w"]],
    sigmas: Sequence[float],
    path: Path,
    *,
    examples: int = 8,
    columns: int = 12,
) -> None:
    """From noise to images: one example a row, noise levels from left to right, σ = 0 for the denoised state."""
    chosen = torch.linspace(0, len(states) - 1, min(columns, len(states))).round().int().tolist()
    sheet = torch.stack([visible(states[i][:examples], sigmas[i]) for i in chosen], 1).flatten(0, 1)
    with mpl.rc_context(STYLE):
        picture = tile(sheet, len(chosen), zoom=3)
        width = 10.0
        figure = Figure(figsize=(width, width * picture.height / picture.width + 0.45), layout="constrained")
        axes = figure.subplots()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        step = picture.width / len(chosen)
        axes.set_xticks([(k + 0.5) * step for k in range(len(chosen))], [f"{sigmas[i]:.2g}" for i in chosen])
        axes.set_yticks([])
        axes.set_xlabel("noise level σ, from the first step of sampling to the denoised samples (0)")
        for spine in axes.spines.values():
            spine.set_visible(False)
        save(figure, path)


def evolution_animation(
    states: Sequence[Float[Tensor, "n c h w"]], sigmas: Sequence[float], path: Path, *, examples: int = 36
) -> None:
    """The same as an animation of a grid, in at most 40 frames and 16 shades, which keeps the file small."""
    chosen = torch.linspace(0, len(states) - 1, min(40, len(states))).round().int().tolist()
    frames = [tile(visible(states[i][:examples], sigmas[i]), 6).quantize(16) for i in chosen]
    animate(frames, path, milliseconds=120)
