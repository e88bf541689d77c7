"""Images on their way out of the noise, as a figure."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from ncsn.plots.style import STYLE, finish
from ncsn.plots.tiles import spread, tile, visible
from ncsn.samplers import Step


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
