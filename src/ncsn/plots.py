"""Every figure and animation; the only room that knows matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from PIL import Image
from torch import Tensor

from ncsn.files import atomic
from ncsn.pixels import quantize
from ncsn.score import Score

POINTS = "#d1495b"
STYLE: Any = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False}


def save(figure: Figure, path: Path) -> None:
    """Write a figure, atomically, in the format of the path's suffix."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=140)


def plane(view: float, points: int) -> tuple[Float[Tensor, "p"], Float[Tensor, "p*p 2"]]:
    """A square grid of ``points`` × ``points`` on [−view, view]²: its axis, and its points row by row."""
    axis = torch.linspace(-view, view, points)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return axis, torch.stack([x.flatten(), y.flatten()], 1)


def _panel(axes: Axes, title: str, view: float) -> None:
    axes.set(title=title, xlim=(-view, view), ylim=(-view, view), aspect="equal")
    axes.set_xticks([-5, 0, 5])
    axes.set_yticks([-5, 0, 5])


@torch.no_grad()
def score_field(
    score: Score,
    truth: Score,
    sigmas: Sequence[float],
    data: Float[Tensor, "n 2"],
    path: Path,
    *,
    view: float = 8.0,
) -> None:
    """The exact and the estimated field and the error between them, one row a noise level.

    Arrows give the direction and the colour behind them the magnitude ‖s‖, on one logarithmic scale a row.  The error
    is relative, ‖ŝ − s‖/‖s‖ point by point, with the training ``data`` on it.
    """
    _, fine = plane(view, 160)
    _, coarse = plane(view * 0.95, 19)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.3 * len(sigmas) + 0.2), layout="constrained")
        rows: Any = figure.subplots(len(sigmas), 3, squeeze=False)
        for (left, middle, right), value in zip(rows, sigmas, strict=True):
            sigma = torch.tensor(value)
            exact, estimate = truth(fine, sigma), score(fine, sigma)
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
                arrows = function(coarse, sigma)
                arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1e-9)
                axes.quiver(*coarse.T.numpy(), *arrows.T.numpy(), color="white", scale=24, width=0.005)
            right.scatter(*data[:600].T.numpy(), s=1.5, color="#5bc0eb", linewidths=0, label="training data")
            right.legend(loc="upper right", markerscale=5, framealpha=0.85, fontsize=8)
            figure.colorbar(images["estimated score"], ax=[left, middle], label="‖s‖", shrink=0.9, pad=0.01)
            figure.colorbar(images["relative error"], ax=right, label="‖ŝ − s‖ / ‖s‖", shrink=0.9)
        save(figure, path)


def scatter_panels(
    rows: Sequence[Sequence[tuple[str, Float[Tensor, "n 2"]]]], path: Path, *, view: float = 8.0
) -> None:
    """Sets of points in the plane, each under its title, in rows."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(rows[0]), 3.75 * len(rows)), layout="constrained")
        grid: Any = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for axes_row, row in zip(grid, rows, strict=True):
            for axes, (title, points) in zip(axes_row, row, strict=True):
                axes.scatter(*points[:3000].T.numpy(), s=2.5, alpha=0.45, linewidths=0, color=POINTS)
                _panel(axes, title, view)
        save(figure, path)


def trajectories(
    states: Sequence[Float[Tensor, "n 2"]], titles: Sequence[str], path: Path, *, view: float = 8.0
) -> None:
    """An animation of points through the ``states``; the last one stays a while."""
    frames = []
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4, 4.2), dpi=90, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.subplots()
        x, y = states[0][:1500].T.numpy()
        dots = axes.scatter(x, y, s=4, alpha=0.5, linewidths=0, color=POINTS)
        for state, title in zip(states, titles, strict=True):
            dots.set_offsets(state[:1500].numpy())
            _panel(axes, title, view)
            canvas.draw()
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    _animate(frames, path, milliseconds=180)


def _animate(frames: Sequence[Image.Image], path: Path, *, milliseconds: int) -> None:
    durations = [milliseconds] * (len(frames) - 1) + [2500]
    with atomic(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)


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
        axes.set_xlabel("noise level σ, from the start of annealing to the denoised samples (0)")
        for spine in axes.spines.values():
            spine.set_visible(False)
        save(figure, path)


def evolution_animation(
    states: Sequence[Float[Tensor, "n c h w"]], sigmas: Sequence[float], path: Path, *, examples: int = 36
) -> None:
    """The same as an animation of a grid, in at most 40 frames and 16 shades, which keeps the file small."""
    chosen = torch.linspace(0, len(states) - 1, min(40, len(states))).round().int().tolist()
    frames = [tile(visible(states[i][:examples], sigmas[i]), 6).quantize(16) for i in chosen]
    _animate(frames, path, milliseconds=120)


def loss_curves(rows: Sequence[dict[str, Any]], bands: Sequence[str], path: Path) -> None:
    """Training and validation loss against the step, and validation loss in each σ band.

    ``rows``: those of metrics.jsonl, with ``step``, ``loss``, ``validation_loss`` and ``validation_bands``.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = [row["step"] for row in rows]
        left.plot(steps, [row["loss"] for row in rows], ".-", color="#8d99ae", ms=3, lw=1, label="training")
        left.plot(
            steps,
            [row["validation_loss"] for row in rows],
            ".-",
            color=POINTS,
            label="validation, averaged weights",
        )
        colours = mpl.colormaps["viridis"](torch.linspace(0, 0.9, len(bands)).numpy())
        for i, (band, colour) in enumerate(zip(bands, colours, strict=True)):
            right.plot(steps, [row["validation_bands"][i] for row in rows], ".-", color=colour, label=band)
        for axes, title in ((left, "Loss"), (right, "Validation loss by noise level")):
            axes.set(title=title, xlabel="step", ylabel="‖F − F*‖² per pixel", yscale="log")
            axes.yaxis.set_minor_formatter(FormatStrFormatter("%.2g"))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%.2g"))
            axes.grid(which="both", alpha=0.25)
        left.legend(fontsize=8)
        figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="noise level")
        save(figure, path)


def evaluation_page(
    samples: UInt8[Tensor, "n 1 28 28"], neighbours: UInt8[Tensor, "n 1 28 28"], report: dict[str, Any], path: Path
) -> None:
    """One page about samples: each above its nearest training image, the class histogram, and the ratios to real."""
    pairs = torch.stack([samples.view(-1, 10, *samples.shape[1:]), neighbours.view(-1, 10, *neighbours.shape[1:])], 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=[2.2, 1.3, 1])
        left.imshow(tile(pairs.flatten(0, 2), 10), cmap="gray", vmin=0, vmax=255)
        left.set_title("Samples, each above its nearest training image")
        left.set_axis_off()
        digits = np.arange(10)
        for shift, kind, colour in ((-0.2, "real", "#8d99ae"), (0.2, "generated", POINTS)):
            middle.bar(digits + shift, report[f"{kind}_histogram"], 0.4, label=kind, color=colour)
        middle.set(title="Share of each digit", xticks=digits)
        middle.legend(fontsize=8, ncols=2)
        ratios = {name: row["ratio"] for name, row in report["metrics"].items() if "ratio" in row}
        bars = right.bar([name.replace("_", "\n") for name in ratios], list(ratios.values()), color=POINTS)
        right.bar_label(bars, fmt="%.3g")
        right.axhline(1, color="black", lw=0.8)
        right.set(title=f"Generated over real, n = {report['n']}", yscale="log")
        right.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        right.tick_params(axis="x", labelsize=7.5)
        save(figure, path)
