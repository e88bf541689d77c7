"""What all figures share."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ncsn.files import atomic

POINTS = "#d1495b"
STYLE: Any = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False}


def finish(figure: Figure, path: Path | None) -> Figure:
    """The figure; also written, atomically and in the format of the path's suffix, if there is a path."""
    if path is not None:
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=140)
    return figure
