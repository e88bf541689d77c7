"""Figures and animations; matplotlib is imported by the first figure."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn

from ncsn.batching import quantize, reals
from ncsn.machine.storage import atomic
from ncsn.metrics import rank_histogram
from ncsn.score import Score
from ncsn.validation import Json, as_floats, as_numbers, check_type, one_line, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

POINTS, QUIET = "#d1495b", "#8d99ae"  # colours of samples, and of what they are compared with
STYLE = {"font.size": 9, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False}
IMAGES = "n, c, h, w"
Place = Path | str | None
Panel = tuple[str, Float[Tensor, "n 2"]]
State = tuple[float, Tensor]  # a step of a sampler: σ and x


@contextmanager
def _replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends.  Raises ValueError if ``path`` has no suffix."""
    check_type("path", path, str, Path)
    if not Path(path).suffix:
        raise ValueError(f"{path} needs a suffix, such as .png")
    with atomic(Path(path)) as temporary:
        yield temporary


@contextmanager
def _figure(path: Place, width: float, height: float) -> Iterator["Figure"]:
    """An empty figure, in inches, which is written at the end, atomically, if there is a path.

    Our style is on top of matplotlib's defaults, because a user's matplotlibrc may need LaTeX, for example.
    """
    import matplotlib.style

    from ncsn.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        yield (figure := Figure(figsize=(width, height), layout="constrained"))
        if path is not None:
            with _replacing(path) as temporary:
                figure.savefig(temporary, dpi=140)


def _visible_channels(images: Shaped[Tensor, "n c h w"]) -> Shaped[Tensor, "n d h w"]:
    """The channels to show: four as RGBA, the first three as RGB, or the first one of one or two as grey."""
    return images[:, : {2: 1, 4: 4}.get(images.shape[1], 3)]


def _on_cpu(name: str, x: object, *shapes: str) -> Tensor:
    """A user's numbers, on the CPU; errors as for ``as_numbers``."""
    return as_numbers(name, x, *shapes).detach().cpu()


def image_grid(x: Shaped[Tensor, "n c h w"], path: Place = None, *, columns: int = 10, zoom: int = 2) -> Image.Image:
    """A grid of images, with a gap of two pixels between them.

    ``x``: images (n, c, h, w), bytes or reals, which are clipped to [0, 1].  Four channels are RGBA.  Of two channels
    the first is shown, of more than four the first three.
    ``path``: a file to write the picture to, in the format of its suffix.
    ``columns``: images per row.
    ``zoom``: each pixel becomes ``zoom`` × ``zoom`` pixels.

    >>> ncsn.plots.image_grid(torch.rand(20, 1, 28, 28)).size  # width and height
    (600, 120)
    """
    x = _on_cpu("x", x, IMAGES)
    columns, zoom = whole("columns", columns, 1), whole("zoom", zoom, 1)
    images = _visible_channels(x if x.dtype == torch.uint8 else quantize(x))
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    padded = torch.full((rows * columns, channels, height + 2, width + 2), 64, dtype=torch.uint8)
    padded[:, 3:] = 0  # transparent
    padded[:n, :, 1:-1, 1:-1] = images
    sheet = padded.view(rows, columns, channels, height + 2, width + 2).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + 2), columns * (width + 2), channels)
    picture = Image.fromarray(sheet.squeeze(-1).numpy())
    picture = picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
    if path is not None:
        with _replacing(path) as temporary:
            picture.save(temporary)
    return picture


def image_pairs(
    above: Shaped[Tensor, "n c h w"], below: Shaped[Tensor, "n c h w"], path: Place = None, *, columns: int = 10
) -> Image.Image:
    """Pairs of images, one above the other, such as samples and their nearest training images.

    ``above``: images (n, c, h, w), as for ``image_grid``.
    ``below``: the same number of images.
    ``path``: a file to write the picture to, in the format of its suffix.
    ``columns``: pairs per row; n must be a multiple of it.
    """
    above, below = _on_cpu("above", above, IMAGES), _on_cpu("below", below, IMAGES)
    columns = whole("columns", columns, 1)
    if above.shape != below.shape or len(above) % columns:
        shapes = f"above has shape {tuple(above.shape)}, below {tuple(below.shape)}"
        raise ValueError(f"{shapes}; expected the same number of images of one size, a multiple of {columns}")
    rows = [images.reshape(-1, columns, *images.shape[1:]) for images in (above, below)]
    return image_grid(torch.stack(rows, 1).flatten(0, 2), path, columns=columns)


def signal_rows(rows: Mapping[str, Float[Tensor, "n c l"]], path: Place = None, *, columns: int = 6) -> "Figure":
    """The first signals of each set in a row under its name, all on one scale, with a line for each channel.

    ``rows``: sets of signals by their names, such as held-out signals and samples.
    ``path``: a file to write the picture to, in the format of its suffix.
    ``columns``: signals per row.
    """
    check_type("rows", rows, Mapping, some=True)
    columns = whole("columns", columns, 1)
    with _figure(path, 1.9 * columns, 1.4 * len(rows) + 0.2) as figure:
        panels = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
        for panel_row, (title, signals) in zip(panels, rows.items(), strict=True):
            panel_row[0].set_title(title, loc="left")
            for axes, signal in zip(panel_row, _on_cpu(title, signals, "n, c, l", "n, c, d, h, w"), strict=False):
                axes.plot(signal.flatten(1).T.numpy(), lw=0.9)  # volumes are flattened
    return figure


def visible(x: Float[Tensor, "*d"], sigma: float) -> UInt8[Tensor, "*d"]:
    """Reduce the contrast of noisy images around mid-grey until two standard deviations of the noise are visible.

    ``x``: noisy pixels; clean ones are in [0, 1].
    ``sigma``: the standard deviation of the noise.
    """
    return quantize(0.5 + (x - 0.5) / (1 + 4 * sigma))


def _select_states(steps: Iterable[State], most: int) -> list[State]:
    """At most so many evenly spaced states, including the first and the last.  Raises ValueError if there are none."""
    steps = [*steps]
    check_type("steps", steps, list, some=True)
    n = min(whole("columns", most, 1), len(steps))
    return [steps[i] for i in torch.linspace(0, len(steps) - 1, n).round().int().tolist()]


def surprise(x: Shaped[Tensor, "n c h w"], where: Shaped[Tensor, "n c h w"], path: Place = None) -> "Figure":
    """Images, and below each what its pixels add to −log p, in nats: red where it is more than usual.

    ``x``: images, as for ``image_grid``.
    ``where``: what each pixel adds, as in ``ncsn.Surprise``; channels are added up.
    ``path``: a file to write the picture to, in the format of its suffix.
    """
    nats = _on_cpu("where", where, IMAGES).sum(1).numpy()
    nats = nats - np.median(nats, (1, 2), keepdims=True)
    most = float(np.abs(nats).max())
    with _figure(path, 1.2 * len(x) + 0.8, 2.6) as figure:
        rows = figure.subplots(2, len(x), squeeze=False)
        for upper, lower, image, heat in zip(*rows, x, nats, strict=True):
            upper.imshow(image_grid(image[None], columns=1), cmap="gray")
            shown = lower.imshow(heat, cmap="RdBu_r", vmin=-most, vmax=most)
        for axes in rows.flat:
            axes.set_axis_off()
        figure.colorbar(shown, ax=rows[1].tolist(), label="nats per pixel")
    return figure


def evolution(steps: Iterable[State], path: Place = None, *, examples: int = 8, columns: int = 12) -> "Figure":
    """How images emerge from noise: an example per row, and noise levels from left to right, with σ = 0 at the end.

    ``steps``: a sampler's states, images (n, c, h, w).
    ``path``: a file to write the picture to, in the format of its suffix.
    ``examples``: number of images, one per row.
    ``columns``: maximum number of states.
    """
    states = _select_states(steps, columns)
    images = torch.stack([visible(x[:examples, :3], sigma).cpu() for sigma, x in states], 1)
    picture = image_grid(images.flatten(0, 1), columns=len(states), zoom=3)
    with _figure(path, 10.0, 10.0 * picture.height / picture.width + 0.45) as figure:
        axes = figure.subplots()
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        width = picture.width / len(states)
        axes.set_xticks([(k + 0.5) * width for k in range(len(states))], [f"{sigma:.2g}" for sigma, _ in states])
        axes.set(yticks=[], xlabel="noise level σ, from the first step of sampling to the denoised samples (0)")
        axes.spines[:].set_visible(False)
    return figure


def evolution_animation(steps: Iterable[State], path: Path | str, *, examples: int = 36) -> None:
    """Animate how a grid of images emerges from noise; 40 frames and 16 shades at most keep the file small.

    ``steps``: a sampler's states, images (n, c, h, w).
    ``path``: the .gif to write.
    ``examples``: number of images.
    """
    states = _select_states(steps, 40)
    frames = [image_grid(visible(x[:examples, :3], sigma), columns=6).quantize(16) for sigma, x in states]
    durations = [120] * (len(frames) - 1) + [2500]  # hold the last frame
    with _replacing(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def plane(
    view: float, points: int, *, device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, "p"], Float[Tensor, "p*p 2"]]:
    """A square grid of points in the plane: its axis, and its points, row by row.

    ``view``: the grid covers [−view, view]².
    ``points``: number of points along each axis.
    ``device``: the device of the tensors.
    """
    axis = torch.linspace(-view, view, points, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return axis, torch.stack([x.flatten(), y.flatten()], 1)


def _set_frame(axes: "Axes", title: str, view: float | None) -> None:
    axes.set(title=title)
    if view is not None:
        ticks = [-5, 0, 5]
        axes.set(xticks=ticks, yticks=ticks, xlim=(-view, view), ylim=(-view, view), aspect="equal")


@torch.no_grad()
def score_field(
    score: Score,
    truth: Score,
    sigmas: Sequence[float],
    data: Float[Tensor, "n 2"],
    path: Place = None,
    *,
    view: float = 8,
) -> "Figure":
    """The exact and the learned score field and the error between them, with a row for each noise level.

    Arrows show the direction and colours the magnitude ‖s‖, on one logarithmic scale per row.  The error is relative,
    ‖ŝ − s‖/‖s‖ at each point.

    ``score``: the learned score, or another estimate.
    ``truth``: the exact score.
    ``sigmas``: the noise levels.
    ``data``: the training data (n, 2), drawn on top of the error.
    ``path``: a file to write the picture to, in the format of its suffix.
    ``view``: the figure covers [−view, view]².
    """
    data, sigmas = as_floats("data", data, "n, 2"), as_floats("sigmas", sigmas, "levels,").tolist()
    # The network may be on another device than the data.
    weights = score.parameters() if isinstance(score, nn.Module) else iter(())
    device = next((weight.device for weight in weights), data.device)
    _, pixels = plane(view, 160, device=device)
    _, arrow_points = plane(view * 0.95, 19, device=device)

    def show(axes: "Axes", name: str, field: Tensor, low: float, high: float, colours: str) -> "AxesImage":
        _set_frame(axes, f"{name}, σ = {sigma:.3g}", view)
        magnitudes = field.norm(dim=1).clamp_min(1e-12).view(160, 160).numpy()
        extent = (-view, view, -view, view)
        return axes.imshow(magnitudes, origin="lower", extent=extent, norm="log", vmin=low, vmax=high, cmap=colours)

    with _figure(path, 10.5, 3.3 * len(sigmas) + 0.2) as figure:
        for (left, middle, right), sigma in zip(figure.subplots(len(sigmas), 3, squeeze=False), sigmas, strict=True):
            exact, estimate = truth(pixels, sigma).cpu(), score(pixels, sigma).cpu()
            magnitude = exact.norm(dim=1)
            magnitude = magnitude.clamp_min(1e-3 * float(magnitude.max()))  # the score is 0 where the density is flat
            low, high = float(magnitude.quantile(0.02)), float(magnitude.max())
            show(left, "exact score", exact, low, high, "viridis")
            magnitudes = show(middle, "learned score", estimate, low, high, "viridis")
            errors = show(right, "relative error", (estimate - exact) / magnitude[:, None], 0.01, 10, "magma")
            for axes, function in ((left, truth), (middle, score)):
                arrows = function(arrow_points, sigma).cpu()
                arrows = arrows / arrows.norm(dim=1, keepdim=True).clamp_min(1e-9)
                axes.quiver(*arrow_points.cpu().T.numpy(), *arrows.T.numpy(), color="white", scale=24, width=0.005)
            right.scatter(*data[:600].cpu().T.numpy(), s=1.5, color="#5bc0eb", linewidths=0, label="training data")
            right.legend(loc="upper right", markerscale=5, framealpha=0.85, fontsize=8)
            figure.colorbar(magnitudes, ax=[left, middle], label="‖s‖", shrink=0.9, pad=0.01)
            figure.colorbar(errors, ax=right, label="‖ŝ − s‖ / ‖s‖", shrink=0.9)
    return figure


def scatter_panels(rows: Sequence[Sequence[Panel]], path: Place = None, *, view: float | None = 8.0) -> "Figure":
    """Scatter plots of sets of points in the plane.

    ``rows``: rows of panels; a panel is a title and points (n, 2).
    ``path``: a file to write the picture to, in the format of its suffix.
    ``view``: each panel covers [−view, view]²; None adapts it to the points.
    """
    counts = [len(row) for row in rows]
    if len({*counts}) != 1 or not counts[0]:
        raise ValueError(f"rows has {counts} panels; expected rows of the same number, at least one")
    with _figure(path, 3.4 * counts[0], 3.75 * len(rows)) as figure:
        for panels, row in zip(figure.subplots(len(rows), counts[0], squeeze=False), rows, strict=True):
            for axes, (title, points) in zip(panels, row, strict=True):
                x, y = _on_cpu(title, points, "n, 2")[:3000].T.numpy()
                axes.scatter(x, y, s=2.5, alpha=0.45, linewidths=0, color=POINTS)
                _set_frame(axes, title, view)
    return figure


def loss_curves(rows: Sequence[Json], bands: Sequence[str], path: Place = None) -> "Figure":
    """Training and validation loss by step, and validation loss by range of noise levels.

    ``rows``: the rows of metrics.jsonl.
    ``bands``: the names of the ``validation_bands``.
    ``path``: a file to write the picture to, in the format of its suffix.
    """
    import matplotlib as mpl

    check_type("rows", rows, Sequence, some=True)
    with _figure(path, 10, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        steps = [row["step"] for row in rows]
        curves = {"loss": ("training", QUIET), "validation_loss": ("validation, averaged weights", POINTS)}
        for name, (label, colour) in curves.items():
            left.plot(steps, [row[name] for row in rows], ".-", color=colour, label=label)
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(bands)))
        for i, (band, colour) in enumerate(zip(bands, colours, strict=True)):
            right.plot(steps, [row["validation_bands"][i] for row in rows], ".-", color=colour, label=band)
        for axes, title in ((left, "Loss"), (right, "Validation loss by noise level")):
            axes.set(title=title, xlabel="step", ylabel="‖F − F*‖² per number", yscale="log")
            axes.yaxis.set(minor_formatter="{x:.2g}", major_formatter="{x:.2g}")
            axes.grid(which="both", alpha=0.25)
        left.legend(fontsize=8)
        figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="noise level")
    return figure


def columns(
    real: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], names: Sequence[str], path: Place = None
) -> "Figure":
    """Marginals of a table's first six columns on the diagonal, pairs of columns of real rows below, of samples above.

    The axis of a column is the same in all panels, from the 0.5th to the 99.5th percentile of the real rows plus a
    margin of 5 %.

    ``real``: rows of the table, with NaN for missing cells.  ``samples``: rows drawn from a run.
    ``names``: the column names.
    ``path``: a file to write the picture to, in the format of its suffix.
    """
    from matplotlib.ticker import MaxNLocator

    shape = f"n, {len(names)}"
    real = _on_cpu("real", real, shape).double().numpy()
    samples = _on_cpu("samples", samples, shape).double().numpy()
    d = min(6, len(names))
    with _figure(path, 1.7 * d + 0.8, 1.7 * d + 0.8) as figure:
        cells = np.where(np.isnan(real).all(0), 0.0, real)  # any axis will do for a column whose cells are all missing
        low, high = np.nanquantile(cells[:, :d], [0.005, 0.995], axis=0)
        margin = 0.05 * np.maximum(np.where(high > low, high - low, 1), 1e-12 * abs(high))
        ends = np.stack([low - margin, high + margin], 1)
        labels = ["\n".join(textwrap.wrap(one_line(name), 22, max_lines=2, placeholder=" …")) for name in names[:d]]
        for (i, j), axes in np.ndenumerate(figure.subplots(d, d, squeeze=False)):
            axes.set(xlim=ends[j], ylim=ends[i])
            axes.tick_params(labelsize=7.5, labelbottom=i == d - 1, labelleft=j == 0)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
                axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
            if i == 0:
                axes.set_title(labels[j], parse_math=False)  # "price $" is not a formula
            if j == 0:
                axes.set_ylabel(labels[i], parse_math=False)
            if i == j:
                # Shares of all rows, including those outside the panel; scaled to the panel, whose axis shows values.
                edges = np.linspace(ends[i, 0], ends[i, 1], 41)
                shares = [np.histogram(rows[:, i], edges)[0] / len(rows) for rows in (real, samples)]
                heights = 0.95 * np.ptp(ends[i]) * np.stack(shares) / max(1e-300, np.max(shares))
                for height, colour, fill in zip(heights, (QUIET, POINTS), (True, False), strict=True):
                    axes.stairs(ends[i, 0] + height, edges, baseline=ends[i, 0], color=colour, fill=fill)
            else:
                rows, colour = (samples, POINTS) if j > i else (real, QUIET)
                axes.scatter(*rows[:, [j, i]].T, s=3, alpha=0.6, linewidths=0, color=colour)
        rows_outside, samples_outside = (
            ((rows[:, :d] < ends[:, 0]) | (rows[:, :d] > ends[:, 1])).any(1).mean() for rows in (real, samples)
        )
        caption = "real rows are grey (below the diagonal), samples red (above)"
        caption += f"; {rows_outside:.0%} of the rows and {samples_outside:.0%} of the samples lie outside the panels"
        figure.supxlabel(textwrap.fill(caption, 26 * d), fontsize=8)
    return figure


def posterior_page(
    truth: Float[Tensor, "c h w"] | None,
    measurement: Float[Tensor, "c h w"],
    samples: Float[Tensor, "n c h w"],
    path: Place = None,
) -> "Figure":
    """The true image, if known, the measurement, and the posterior's mean, standard deviation and samples.

    ``truth``: an image (c, h, w), or None.
    ``measurement``: the measurement as an image (c, h, w).
    ``samples``: posterior samples (n, c, h, w); the standard deviation needs at least two.
    ``path``: a file to write the picture to, in the format of its suffix.
    """
    samples = reals(_on_cpu("samples", samples, IMAGES))
    columns = 8
    images = {} if truth is None else {"truth": _on_cpu("truth", truth, "c, h, w")}
    images |= {"measurement": _on_cpu("measurement", measurement, "c, h, w"), "mean": samples.mean(0)}
    if len(samples) > 1:
        deviation = samples.std(0)
        white = deviation.max().clamp_min(1e-6)
        images[f"standard deviation (white: {white:.2f})"] = (deviation / white)[:3]
    rows = -(-len(samples) // columns)
    with _figure(path, 1.15 * columns, 2.0 + 1.15 * rows) as figure:
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.7, 1.15 * rows])[:, 0]
        pictures = {}
        for title, image in images.items():
            pixels = _visible_channels(quantize(image)[None])[0].permute(1, 2, 0)
            pictures[title] = Image.fromarray(pixels.squeeze(-1).numpy())
        pictures["samples of the posterior"] = image_grid(samples, columns=min(columns, len(samples)))
        panels = [*top.subplots(1, len(images), squeeze=False)[0], bottom.subplots()]
        for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title)
            axes.set_axis_off()
    return figure


def calibration(ranks: Mapping[str, Mapping[str, Float[Tensor, "n"]]], path: Place = None) -> "Figure":
    """Histograms of ranks, the coverage of central intervals, and TARP, each with the band of an exact sampler (grey).

    ``ranks``: for each source of truths, the ranks of several numbers as shares, (n,), as in ``Calibration.ranks``.
    ``path``: a file to write the picture to, in the format of its suffix.
    """
    from scipy import stats

    check_type("ranks", ranks, Mapping, some=True)
    checked: dict[str, dict[str, Tensor]] = {}
    for source, by_name in ranks.items():
        if not {"number", "distance"} <= {*by_name}:
            raise ValueError(f"ranks of {source} has {', '.join(by_name) or 'nothing'}; expected number and distance")
        checked[source] = {name: as_floats(name, u, "n,").cpu() for name, u in by_name.items()}
    width = 2 + max(map(len, checked.values()))
    with _figure(path, 1.9 * width, 0.3 + 1.9 * len(checked)) as figure:
        panels = figure.subplots(len(checked), width, squeeze=False)
        for row, (source, by_name) in zip(panels, checked.items(), strict=True):
            for axes, (name, u) in zip(row, by_name.items(), strict=False):
                counts, low, high = rank_histogram(u)
                axes.axhspan(low, high, color=QUIET, alpha=0.4)
                axes.stairs(counts.numpy(), np.linspace(0, 1, len(counts) + 1), color=POINTS, lw=1.5)
                axes.set(title="rank of one number" if name == "number" else f"rank of the {name}", xlim=(0, 1))
            curves = {"coverage of intervals": (2 * by_name["number"] - 1).abs(), "TARP": by_name["distance"]}
            for axes, (name, u) in zip(row[-2:], curves.items(), strict=True):
                level = np.linspace(0, 1, 101)
                band = stats.kstwo.ppf(1 - 0.01 / 4, len(u))
                low, high = (level - band).clip(0), (level + band).clip(max=1)
                axes.fill_between(level, low, high, color=QUIET, alpha=0.4, lw=0)
                axes.ecdf(u.numpy(), color=POINTS)
                axes.set(title=name, xlim=(0, 1), ylim=(0, 1))
            row[0].set_ylabel(f"{source}, {len(u)} trials")
    return figure
