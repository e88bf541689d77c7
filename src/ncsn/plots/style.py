"""What all figures share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from ncsn.files import atomic

POINTS = "#d1495b"
STYLE: Any = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False}


def finish(figure: Figure, path: Path | None) -> Figure:
    """The figure; also written, atomically and in the format of the path's suffix, if there is a path."""
    if path is not None:
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=140)
    return figure


def animate(frames: Sequence[Image.Image], path: Path, *, milliseconds: int) -> None:
    """Write frames as a GIF that repeats; the last one stays a while."""
    durations = [milliseconds] * (len(frames) - 1) + [2500]
    with atomic(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)
