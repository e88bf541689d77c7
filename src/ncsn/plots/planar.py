"""Figures of scores and points in the plane."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ncsn.plots.style import POINTS, STYLE, finish
from ncsn.plots.tiles import animate
from ncsn.score import Score


def plane(
    view: float, points: int, *, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p*p 2"]]:
    """A square grid of ``points`` × ``points`` on [−view, view]²: its axis, and its points row by row."""
    axis = torch.linspace(-view, view, points, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return axis, torch.stack([x.flatten(), y.flatten()], 1)


Extent = tuple[tuple[float, float], tuple[float, float]]


def extent_of(points: Float[Tensor, "n 2"]) -> Extent:
    """From where to where nearly all ``points`` lie, coordinate by coordinate, with a tenth of room."""
    low, high = points.double().cpu().quantile(torch.tensor([0.001, 0.999], dtype=torch.float64), 0)
    room = 0.1 * (high - low).clamp_min(1e-12)
    (left, bottom), (right, top) = (low - room).tolist(), (high + room).tolist()
    return (left, right), (bottom, top)


def _panel(axes: Axes, title: str, view: float | Extent) -> None:
    if isinstance(view, tuple):  # in the user's units, of which two need not be alike
        axes.set(title=title, xlim=view[0], ylim=view[1])
        return
    axes.set(title=title, xlim=(-view, view), ylim=(-view, view), aspect="equal")
    axes.set_xticks([-5, 0, 5])
    axes.set_yticks([-5, 0, 5])


@torch.no_grad()
def score_field(
    score: Score,
    truth: Score,
    sigmas: Sequence[float],
    data: Float[Tensor, "n 2"],
    path: Path | None = None,
    *,
    view: float = 8.0,
) -> Figure:
    """The exact and the estimated field and the error between them, one row a noise level.

    Arrows give the direction and the colour behind them the magnitude ‖s‖, on one logarithmic scale a row.  The error
    is relative, ‖ŝ − s‖/‖s‖ point by point, with the training ``data`` on it.
    """
    _, fine = plane(view, 160, device=data.device)
    _, coarse = plane(view * 0.95, 19, device=data.device)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.3 * len(sigmas) + 0.2), layout="constrained")
        rows: Any = figure.subplots(len(sigmas), 3, squeeze=False)
        for (left, middle, right), value in zip(rows, sigmas, strict=True):
            exact, estimate = truth(fine, value).cpu(), score(fine, value).cpu()
            magnitude = exact.norm(dim=1)
            magnitude = magnitude.clamp_min(1e-3 * float(magnitude.max()))  # where a density is flat its score is 0
            scale = LogNorm(float(magnitude.quantile(0.02)), float(magnitude.max()))
            images = {}
            for axes, name, field, norm in (
                (left, "exact score", exact, scale),
                (middle, "estimated score", estimate, scale),
                (right, "relative error", (estimate - exact) / magnitude[:, None], LogNorm(0.01, 10)),
            ):
                images[name] = axes.imshow(
                    field.norm(dim=1).clamp_min(1e-12).view(160, 160).numpy(),
                    origin="lower",
                    extent=(-view, view, -view, view),
                    norm=norm,
                    cmap="magma" if name == "relative error" else "viridis",
                )
                _panel(axes, f"{name}, σ = {value:.3g}", view)
            for axes, function in ((left, truth), (middle, score)):
                arrows = function(coarse, value).cpu()
                arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1e-9)
                axes.quiver(*coarse.cpu().T.numpy(), *arrows.T.numpy(), color="white", scale=24, width=0.005)
            right.scatter(*data[:600].cpu().T.numpy(), s=1.5, color="#5bc0eb", linewidths=0, label="training data")
            right.legend(loc="upper right", markerscale=5, framealpha=0.85, fontsize=8)
            figure.colorbar(images["estimated score"], ax=[left, middle], label="‖s‖", shrink=0.9, pad=0.01)
            figure.colorbar(images["relative error"], ax=right, label="‖ŝ − s‖ / ‖s‖", shrink=0.9)
        return finish(figure, path)


def scatter_panels(
    rows: Sequence[Sequence[tuple[str, Float[Tensor, "n 2"]]]], path: Path | None = None, *, view: float | Extent = 8.0
) -> Figure:
    """Sets of points in the plane, each under its title, in rows; ``view``: [−view, view]², or from where to where."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(rows[0]), 3.75 * len(rows)), layout="constrained")
        grid: Any = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for axes_row, row in zip(grid, rows, strict=True):
            for axes, (title, points) in zip(axes_row, row, strict=True):
                axes.scatter(*points[:3000].cpu().T.numpy(), s=2.5, alpha=0.45, linewidths=0, color=POINTS)
                _panel(axes, title, view)
        return finish(figure, path)


def trajectories(states: Sequence[tuple[str, Float[Tensor, "n 2"]]], path: Path, *, view: float | Extent = 8.0) -> None:
    """An animation of points through the ``states``, each under its title; the last one stays a while.

    ``view``: as for ``scatter_panels``.
    """
    frames = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4, 4.2), dpi=90, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.subplots()
        x, y = states[0][1][:1500].cpu().T.numpy()
        dots = axes.scatter(x, y, s=4, alpha=0.5, linewidths=0, color=POINTS)
        for title, state in states:
            dots.set_offsets(state[:1500].cpu().numpy())
            _panel(axes, title, view)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    animate(frames, path, milliseconds=180)
