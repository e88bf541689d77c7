"""Pages about a training, about samples, and about a posterior."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from torch import Tensor

from ncsn.data.pixels import quantize
from ncsn.evaluation import Evaluation
from ncsn.plots.style import POINTS, STYLE, finish
from ncsn.plots.tiles import tile, visible_channels


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
        left.plot(steps, [row.loss for row in rows], ".-", color="#8d99ae", ms=3, lw=1, label="training")
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
    samples: UInt8[Tensor, "n c h w"],
    neighbours: UInt8[Tensor, "n c h w"],
    found: Evaluation,
    path: Path | None = None,
) -> Figure:
    """One page about samples: each above its nearest training image, the class histogram, and the ratios to real.

    ``samples``: a multiple of ten.  ``neighbours``: the training images nearest to them.
    """
    tens = zip(torch.split(samples, 10), torch.split(neighbours, 10), strict=True)
    pairs = visible_channels(torch.cat([row for pair in tens for row in pair]))
    channels = samples.shape[1]
    shown = "" if channels in (1, 3) else f" ({pairs.shape[1]} of {channels} channels)"
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        widths = [2.2, 1.3, 1] if found.classes else [2.2, 1]
        left, *middle, right = figure.subplots(1, len(widths), width_ratios=widths)
        left.imshow(tile(pairs, 10), cmap="gray", vmin=0, vmax=255)
        left.set_title(f"Samples, each above its nearest training image{shown}")
        left.set_axis_off()
        for axes in middle:
            class_histogram(axes, found)
        ratios_to_held_out(right, found)
        return finish(figure, path)


def class_histogram(axes: Axes, found: Evaluation) -> None:
    """The share of each class; its name where there is room for all of them."""
    k = np.arange(len(found.classes))
    axes.bar(k - 0.2, found.held_out_histogram, 0.4, label="held out", color="#8d99ae")
    axes.bar(k + 0.2, found.generated_histogram, 0.4, label="generated", color=POINTS)
    axes.set(title="Share of each class", ylim=(0, 1.15 * max(found.held_out_histogram + found.generated_histogram)))
    if len(k) <= 30:
        short = sum(map(len, found.classes)) <= 26
        axes.set_xticks(k, found.classes, rotation=0 if short else 90, fontsize=8)
    axes.legend(fontsize=8, ncols=2)


def ratios_to_held_out(axes: Axes, found: Evaluation) -> None:
    """Distances over those of held-out images, where they are positive, as an unbiased one need not be."""
    ratios = {name: m.ratio for name, m in found.metrics.items() if m.ratio is not None and m.ratio > 0}
    bars = axes.bar([name.replace("_", "\n") for name in ratios], list(ratios.values()), color=POINTS)
    axes.bar_label(bars, fmt="%.3g")
    axes.axhline(1, color="grey", lw=0.8, ls=":", zorder=0)
    axes.set(title=f"Over held out, n = {found.n:,}", yscale="log")
    axes.set_ylim(min([0.5, *ratios.values()]) / 1.2, max([2.0, *ratios.values()]) * 1.3)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=7.5)


def posterior_page(
    truth: Float[Tensor, "c h w"] | None,
    measurement: Float[Tensor, "c h w"],
    samples: Float[Tensor, "n c h w"],
    path: Path | None = None,
) -> Figure:
    """The truth, if it is known, the measurement, the posterior's mean and standard deviation, and its samples.

    One sample has no standard deviation.
    """
    samples, measurement = samples.cpu(), measurement.cpu()
    named = [("truth", truth.cpu())] if truth is not None else []
    named += [("measurement", measurement), ("mean", samples.mean(0))]
    named += [("standard deviation", samples.std(0))] if len(samples) > 1 else []
    columns = 8
    rows = -(-len(samples) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * columns, 2.0 + 1.15 * rows), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=[1.7, 1.15 * rows])
        top, bottom = halves
        panels: Any = top.subplots(1, len(named), squeeze=False)
        for axes, (title, image) in zip(panels[0], named, strict=True):
            bright = image / image.max().clamp_min(1e-6) if title == "standard deviation" else image
            shown = visible_channels(quantize(bright)[None])[0]
            axes.imshow(shown.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_title(title + (f" (white: {float(image.max()):.2f})" if title == "standard deviation" else ""))
            axes.set_axis_off()
        axes = bottom.subplots()
        axes.imshow(tile(quantize(samples), min(columns, len(samples))), cmap="gray", vmin=0, vmax=255)
        axes.set_title("samples of the posterior")
        axes.set_axis_off()
        return finish(figure, path)
