"""Pages about a training, about samples, and about a posterior."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from torch import Tensor

from ncsn.evaluation import Evaluation
from ncsn.pixels import quantize
from ncsn.plots.images import tile
from ncsn.plots.style import POINTS, STYLE, finish


@runtime_checkable
class LossRow(Protocol):
    """What is drawn of a training: losses by step, and those of held-out images by noise level."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float: ...  # noqa: D102
    @property
    def validation_loss(self) -> float: ...  # noqa: D102
    @property
    def validation_bands(self) -> Sequence[float | None]: ...  # noqa: D102


def loss_curves(rows: Sequence[LossRow], bands: Sequence[str], path: Path | None = None) -> Figure:
    """Training and validation loss against the step, and validation loss in each σ band.

    ``rows``: those of metrics.jsonl.  ``bands``: what each of ``validation_bands`` is called.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = [row.step for row in rows]
        left.plot(
            steps, [row.loss for row in rows], ".-", color="#8d99ae", ms=3, lw=1, label="training, posterior targets"
        )
        left.plot(
            steps,
            [row.validation_loss for row in rows],
            ".-",
            color=POINTS,
            label="validation, averaged weights",
        )
        colours = mpl.colormaps["viridis"](torch.linspace(0, 0.9, len(bands)).numpy())
        for i, (band, colour) in enumerate(zip(bands, colours, strict=True)):
            right.plot(steps, [row.validation_bands[i] for row in rows], ".-", color=colour, label=band)
        for axes, title in ((left, "Loss"), (right, "Validation loss by noise level")):
            axes.set(title=title, xlabel="step", ylabel="‖F − F*‖² per pixel", yscale="log")
            axes.yaxis.set_minor_formatter(FormatStrFormatter("%.2g"))
            axes.yaxis.set_major_formatter(FormatStrFormatter("%.2g"))
            axes.grid(which="both", alpha=0.25)
        left.legend(fontsize=8)
        figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="noise level")
        return finish(figure, path)


def evaluation_page(
    samples: UInt8[Tensor, "n 1 28 28"],
    neighbours: UInt8[Tensor, "n 1 28 28"],
    found: Evaluation,
    path: Path | None = None,
) -> Figure:
    """One page about samples: each above its nearest training image, the class histogram, and the ratios to real."""
    pairs = torch.stack([samples.view(-1, 10, *samples.shape[1:]), neighbours.view(-1, 10, *neighbours.shape[1:])], 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=[2.2, 1.3, 1])
        left.imshow(tile(pairs.flatten(0, 2), 10), cmap="gray", vmin=0, vmax=255)
        left.set_title("Samples, each above its nearest training image")
        left.set_axis_off()
        digits = np.arange(10)
        middle.bar(digits - 0.2, found.real_histogram, 0.4, label="real", color="#8d99ae")
        middle.bar(digits + 0.2, found.generated_histogram, 0.4, label="generated", color=POINTS)
        middle.set(title="Share of each digit", xticks=digits)
        middle.legend(fontsize=8, ncols=2)
        ratios = {name: metric.ratio for name, metric in found.metrics.items() if metric.ratio is not None}
        bars = right.bar([name.replace("_", "\n") for name in ratios], list(ratios.values()), color=POINTS)
        right.bar_label(bars, fmt="%.3g")
        right.axhline(1, color="grey", lw=0.8, ls=":", zorder=0)
        right.set(title=f"Generated over real, n = {found.n:,}", yscale="log")
        right.set_ylim(min(0.5, *ratios.values()) / 1.2, max(2.0, *ratios.values()) * 1.3)
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        right.yaxis.set_minor_formatter(NullFormatter())
        right.tick_params(axis="x", labelsize=7.5)
        return finish(figure, path)


def posterior_page(
    truth: Float[Tensor, "c h w"] | None,
    measurement: Float[Tensor, "c h w"],
    samples: Float[Tensor, "n c h w"],
    path: Path | None = None,
) -> Figure:
    """The truth, if it is known, the measurement, the posterior's mean and standard deviation, and its samples."""
    named = [("measurement", measurement), ("mean", samples.mean(0)), ("standard deviation", samples.std(0))]
    named = ([("truth", truth)] if truth is not None else []) + named
    columns = 8
    rows = -(-len(samples) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * columns, 2.0 + 1.15 * rows), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=[1.7, 1.15 * rows])
        top, bottom = halves
        panels: Any = top.subplots(1, len(named), squeeze=False)
        for axes, (title, image) in zip(panels[0], named, strict=True):
            bright = image / image.max().clamp_min(1e-6) if title == "standard deviation" else image
            axes.imshow(quantize(bright).permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(title + (f" (white: {float(image.max()):.2f})" if title == "standard deviation" else ""))
            axes.set_axis_off()
        axes = bottom.subplots()
        axes.imshow(tile(quantize(samples), columns), cmap="gray", vmin=0, vmax=255)
        axes.set_title("samples of the posterior")
        axes.set_axis_off()
        return finish(figure, path)
