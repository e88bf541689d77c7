"""Figures are looked at by their data: what is drawn where, not how it looks."""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from helpers import SAMPLING, SMALL, command, unchecked
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from ncsn import GaussianMixture, Recipe, Run, Step, plots

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 1.0], [3.0, 0.0]]), 0.7)
POINTS = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])


def pixels(n: int, channels: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, 7, 9), generator=g, dtype=torch.uint8)


def steps(channels: int) -> list[Step]:
    return [Step(sigma, pixels(9, channels, i) / 255) for i, sigma in enumerate((2.0, 1.0, 0.5, 0.0))]


def losses(*rows: int) -> list[dict[str, Any]]:
    return [{"step": i, "loss": 1 / i, "validation_loss": 2 / i, "validation_bands": [3 / i, None]} for i in rows]


@pytest.mark.parametrize(("channels", "seen"), [(1, 1), (2, 1), (3, 3), (4, 4), (5, 3)])
def test_a_grid_shows_bytes_and_the_reals_that_stand_for_them(channels: int, seen: int, tmp_path: Path) -> None:
    x = pixels(4, channels)
    grid = plots.image_grid(x, str(tmp_path / "x.png"), columns=3, zoom=1)
    sheet = np.asarray(grid).reshape(2 * 9, 3 * 11, seen)
    for i, image in enumerate(x[:, :seen].permute(0, 2, 3, 1).numpy()):
        down, right = 9 * (i // 3), 11 * (i % 3)
        assert np.array_equal(sheet[down + 1 : down + 8, right + 1 : right + 10], image)
    assert (sheet[9:, 11:, :3] == 64).all()
    assert (sheet[9:, 11:, 3:] == 0).all(), "transparent"
    assert np.array_equal(np.asarray(plots.image_grid((x + 0.5) / 256, columns=3))[1::2, ::2], np.asarray(grid))
    assert Image.open(tmp_path / "x.png").tobytes() == grid.tobytes()


def test_many_samples_stand_in_about_as_many_columns_as_rows(tmp_path: Path) -> None:
    recipe = Recipe(network="UNet", arguments=SMALL, shape=(1, 10, 8), sampling=SAMPLING)
    Run(score=recipe.build(), recipe=recipe).save(tmp_path / "run")
    command(f"sample {tmp_path}/run -n 81 --levels 2 --out {tmp_path}/x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == plots.image_grid(torch.zeros(81, 1, 10, 8), columns=9).size


def test_visible_keeps_clean_images_and_fits_two_standard_deviations_of_noise() -> None:
    assert plots.visible(torch.tensor([[0.0, 0.999]]), 0.0).tolist() == [[0, 255]]
    low, high = plots.visible(torch.tensor([0.0 - 2 * 3, 1.0 + 2 * 3]), 3.0).tolist()
    assert 0 <= low <= 1
    assert high >= 254


def test_evolution_shows_examples_in_rows_and_levels_in_columns() -> None:
    axes: Any = plots.evolution(steps(3), examples=2, columns=3).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "0.5", "0"]
    assert axes.get_xticks().tolist() == [16.5, 49.5, 82.5]
    assert axes.images[0].get_clim() == (0, 255)
    shown = [plots.visible(x[i][None], sigma)[0] for i in (0, 1) for sigma, x in [steps(3)[k] for k in (0, 2, 3)]]
    expected = plots.image_grid(torch.stack(shown), columns=3, zoom=3)
    assert np.array_equal(axes.images[0].get_array(), np.asarray(expected))


def test_scatter_panels_show_points_under_their_titles() -> None:
    figure: Any = plots.scatter_panels([[("a", POINTS), ("b", 2 * POINTS)]], view=None)
    for axes, title, factor in zip(figure.axes, "ab", (1, 2), strict=True):
        assert axes.get_title() == title
        assert np.array_equal(axes.collections[0].get_offsets(), factor * POINTS)
        low, high = axes.get_xlim()
        assert low < factor * float(POINTS[:, 0].min()) < factor * float(POINTS[:, 0].max()) < high < 8
    square = plots.scatter_panels([[("a", POINTS)]]).axes[0]
    assert (square.get_ylim(), square.get_xticks().tolist()) == ((-8, 8), [-5, 0, 5])


def test_score_field_shows_both_fields_and_their_relative_error() -> None:
    figure: Any = plots.score_field(lambda x, sigma: 1.5 * MIXTURE(x, sigma), MIXTURE, [0.5, 2.0], POINTS, view=4)
    fine = torch.cartesian_prod(*[torch.linspace(-4, 4, 160)] * 2).flip(1)  # rows go up, columns to the right
    for row, sigma in enumerate((0.5, 2.0)):
        exact, estimate, error = figure.axes[3 * row : 3 * row + 3]
        assert estimate.get_title() == f"learned score, σ = {sigma:.3g}"
        size = MIXTURE(fine, sigma).norm(dim=1).view(160, 160)
        for axes, expected in ((exact, size), (estimate, 1.5 * size), (error, torch.full_like(size, 0.5))):
            torch.testing.assert_close(torch.as_tensor(np.asarray(axes.images[0].get_array())), expected)
        (arrows,) = (part for part in estimate.collections if part.get_offsets().shape == (361, 2))
        direction = MIXTURE(torch.as_tensor(np.asarray(arrows.get_offsets()), dtype=torch.float32), sigma)
        drawn = torch.as_tensor(np.stack([arrows.U, arrows.V], 1))
        torch.testing.assert_close(drawn, direction / direction.norm(dim=1, keepdim=True))
        assert np.array_equal(error.collections[0].get_offsets(), POINTS)
        assert {axes.images[0].origin for axes in (exact, estimate, error)} == {"lower"}, "rows go up"


def test_a_notebook_shows_a_figure_as_a_picture_before_pyplot_has_been_used() -> None:
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = plots.scatter_panels([[("a", POINTS)]])
    shown, _ = formatters.DisplayFormatter().format(figure)
    with Image.open(BytesIO(shown["image/png"])) as picture:
        assert picture.width > 200
    assert isinstance(pickle.loads(pickle.dumps(figure)), mpl.figure.Figure)


def test_loss_curves_show_every_row() -> None:
    panels: Any = plots.loss_curves(losses(1, 2, 4), ["low", "high"]).axes
    left, right = panels
    assert [line.get_ydata().tolist() for line in left.lines] == [[1, 0.5, 0.25], [2, 1, 0.5]]
    assert right.lines[0].get_ydata().tolist() == [3, 1.5, 0.75]
    assert [line.get_label() for line in right.lines] == ["low", "high"]
    assert all(line.get_xdata().tolist() == [1, 2, 4] for line in (*left.lines, *right.lines))


@pytest.mark.parametrize("value", [0.0, 1e17])
def test_a_column_of_one_value_has_a_panel_of_some_width(value: float) -> None:
    figure: Any = plots.columns(np.full((1, 2), value), np.full((9, 2), value), ["a", "b"])
    assert all(low < value < high for low, high in (axes.get_xlim() for axes in figure.axes))


def test_columns_have_one_axis_in_all_panels_and_pairs_lie_along_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real, samples = (shift + np.array([1, 10, 1e5]) * rng.random((n, 3)) for shift, n in ((0.0, 30), (0.2, 90)))
    names = ["a $", "b", "as long as a name can be, and one more line that nobody reads"]
    figure: Any = plots.columns(real, samples, names, tmp_path / "x.png")
    panels = np.array(figure.axes, dtype=object).reshape(3, 3)
    ends = np.quantile(real, [0.005, 0.995], axis=0).T
    for (i, j), axes in np.ndenumerate(panels):
        for (low, high), column in ((axes.get_xlim(), j), (axes.get_ylim(), i)):
            span = np.ptp(ends[column])
            np.testing.assert_allclose([low, high], ends[column] + [-0.05 * span, 0.05 * span])
        numbers = [[tick.label1.get_visible() for tick in axis.get_major_ticks()] for axis in (axes.xaxis, axes.yaxis)]
        assert [all(numbers[0]), any(numbers[0])] == [i == 2] * 2, "numbers at the bottom alone"
        assert [all(numbers[1]), any(numbers[1])] == [j == 0] * 2, "and on the left"
        assert (axes.get_title()[:3], axes.get_ylabel()[:3]) == (names[j][:3] * (i == 0), names[i][:3] * (j == 0))
        if i == j:
            drawn = [patch.get_data() for patch in axes.patches]
            for (values, edges, base), rows in zip(drawn, (real, samples), strict=True):
                heights = np.histogram(rows[:, i], edges)[0]
                np.testing.assert_allclose((values - base) / (values - base).sum(), heights / heights.sum())
            inside = [np.histogram(rows[:, i], drawn[0][1])[0].sum() / len(rows) for rows in (real, samples)]
            areas = [float((values - base).sum()) for values, _, base in drawn]
            assert areas[0] / areas[1] == pytest.approx(inside[0] / inside[1]), "of all rows, however many"
            assert max(values.max() for values, *_ in drawn) < axes.get_ylim()[1]
        else:
            assert np.array_equal(axes.collections[0].get_offsets(), (samples if j > i else real)[:, [j, i]])
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    texts = [text for axes in figure.axes for text in (axes.title, axes.yaxis.label)] + list(figure.texts)
    boxes = np.array([text.get_window_extent(canvas.get_renderer()).extents for text in texts])
    assert (boxes > -1).all()
    assert (boxes < np.array([width + 1, height + 1] * 2)).all()


def test_pairs_are_above_each_other() -> None:
    above, below = pixels(6, 3), pixels(6, 3, 1)
    pairs = torch.cat([above[:3], below[:3], above[3:], below[3:]])
    assert plots.image_pairs(above, below, columns=3).tobytes() == plots.image_grid(pairs, columns=3).tobytes()


def test_heat_is_where_the_channels_add_most() -> None:
    """Beyond that of a typical pixel of the image; a colour is the same number of nats in all of them."""
    where = torch.zeros(3, 2, 7, 9)
    where[1, :, 2, 5] = torch.tensor([3.0, 4.0])
    where[2] = 1.0
    figure: Any = plots.surprise(pixels(3, 2), where)
    heats = [axes.images[0] for axes in figure.axes[3:6]]
    drawn = np.stack([np.asarray(heat.get_array()) for heat in heats])
    assert drawn[1, 2, 5] == 7 == drawn.sum()
    assert {heat.get_clim() for heat in heats} == {(-7, 7)}


def test_the_page_of_a_posterior() -> None:
    samples = pixels(9, 3) / 256
    figure: Any = plots.posterior_page(samples[1], samples[0], samples)
    titles = [axes.get_title().split(" (")[0] for axes in figure.axes]
    assert titles == ["truth", "measurement", "mean", "standard deviation", "samples of the posterior"]
    expected = samples[1], samples[0], samples.mean(0), samples.std(0) / samples.std(0).max()
    for axes, image in zip(figure.axes, expected, strict=False):
        assert axes.images[0].get_clim() == (0, 255)
        drawn = torch.as_tensor(np.asarray(axes.images[0].get_array())).permute(2, 0, 1)
        assert torch.equal(drawn, (256 * image).floor().clamp(0, 255).to(torch.uint8))
    assert len(plots.posterior_page(None, samples[0], samples[:1]).axes) == 3


def test_whatever_a_users_matplotlibrc_says_every_plot_is_written_to_a_path_as_a_string(tmp_path: Path) -> None:
    place = str(tmp_path) + "/"
    with mpl.rc_context({"text.usetex": True, "image.origin": "lower", "axes.titlesize": 40}):
        plots.evolution(steps(1), place + "evolution.png")
        plots.evolution_animation(steps(3), place + "evolution.gif")
        plots.scatter_panels([[("a", POINTS)]], place + "scatter.pdf")
        plots.score_field(MIXTURE, MIXTURE, [0.5], POINTS, place + "field.png")
        plots.loss_curves(losses(1, 2), ["low", "high"], place + "loss.svg")
        plots.posterior_page(None, steps(1)[0].x[0], steps(1)[0].x, place + "posterior.png")
    assert len(list(tmp_path.iterdir())) == 6
    with Image.open(place + "evolution.gif") as image:
        durations = [(image.seek(frame), image.info["duration"])[1] for frame in range(4)]
    assert durations == [120, 120, 120, 2500], "the samples stay"


SHEET, ROWS = pixels(6, 1), POINTS.numpy()
NO_PANELS: list[Any] = [[], [[]], [[("a", POINTS)], []]]
RANKS = {"number": torch.rand(30), "distance": torch.rand(30)}
REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: plots.loss_curves(losses(1, 2), ["low", "high"], folder / "picture"), "suffix"),
    (lambda folder: plots.image_grid(SHEET, folder / "picture"), "suffix"),
    (lambda folder: plots.image_grid(SHEET, folder / "x.png", columns=0), "columns is 0"),
    (lambda folder: plots.image_grid(SHEET, folder / "x.png", zoom=0), "zoom is 0"),
    (lambda folder: plots.image_grid(SHEET[0], folder / "x.png"), "x has shape"),
    (lambda folder: plots.image_grid(SHEET[:0], folder / "x.png"), "x has shape"),
    (lambda folder: plots.image_pairs(SHEET, SHEET, folder / "x.png", columns=4), "above has shape"),
    (lambda folder: plots.image_pairs(SHEET, SHEET[:4], folder / "x.png", columns=2), "above has shape"),
    (lambda folder: plots.posterior_page(SHEET, SHEET[0], SHEET / 256, folder / "x.png"), "truth has shape"),
    (lambda folder: plots.posterior_page(None, SHEET[0, 0], SHEET / 256, folder / "x.png"), "measurement has shape"),
    (lambda folder: plots.posterior_page(None, SHEET[0], SHEET[0] / 256, folder / "x.png"), "samples has shape"),
    (lambda folder: plots.evolution([], folder / "x.png"), "steps is"),
    (lambda folder: plots.loss_curves([], ["low"], folder / "x.png"), "rows is"),
    (lambda folder: plots.columns(ROWS, ROWS[:0], ["a", "b"], folder / "x.png"), r"samples has shape \(0, 2\)"),
    (lambda folder: plots.columns(ROWS, ROWS[:, :1], ["a", "b"], folder / "x.png"), r"samples has shape \(3, 1\)"),
    (lambda folder: plots.columns(ROWS, ROWS, ["a"], folder / "x.png"), r"real has shape \(3, 2\)"),
    *((lambda folder, rows=rows: plots.scatter_panels(rows, folder / "x.png"), "rows has") for rows in NO_PANELS),
    (lambda folder: plots.scatter_panels([[("a", SHEET)]], folder / "x.png"), "a has shape"),
    (lambda folder: plots.score_field(MIXTURE, MIXTURE, [], POINTS, folder / "x.png"), "sigmas has shape"),
    (lambda folder: plots.score_field(MIXTURE, MIXTURE, [1.0], SHEET[0, 0], folder / "x.png"), "data has shape"),
    (lambda folder: plots.signal_rows({}, folder / "x.png"), "rows is {}"),
    (lambda folder: plots.signal_rows({"a": POINTS}, folder / "x.png"), "a has shape"),
    (lambda folder: plots.signal_rows({"a": SHEET[0]}, folder / "x.png", columns=0), "columns is 0"),
    (lambda folder: plots.calibration({}, folder / "x.png"), "ranks is {}"),
    (lambda folder: plots.calibration({"run": {"number": POINTS[0]}}, folder / "x.png"), "run has number"),
    (lambda folder: plots.calibration({"run": RANKS | {"number": POINTS[1]}}, folder / "x.png"), "from -1 to 3"),
    (lambda folder: plots.calibration({"run": RANKS | {"number": POINTS}}, folder / "x.png"), "number has shape"),
]


@pytest.mark.parametrize(("draw", "message"), REFUSED)
def test_what_makes_no_picture_is_refused(draw: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())
