from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncsn import plots
from ncsn.distributions import Ring
from ncsn.learn.journal import Row
from ncsn.samplers import Step


def test_tile_puts_every_pixel_where_it_belongs() -> None:
    images = torch.arange(3, dtype=torch.uint8).mul(50)[:, None, None, None].expand(3, 1, 4, 5)
    sheet = np.asarray(plots.tile(images, 2, zoom=3))
    assert sheet.shape == (2 * 6 * 3, 2 * 7 * 3)
    assert sheet[4, 4] == 0
    assert sheet[4, 7 * 3 + 4] == 50
    assert sheet[6 * 3 + 4, 4] == 100


def test_visible_keeps_clean_images_and_fits_two_standard_deviations_of_noise() -> None:
    assert plots.visible(torch.tensor([[0.0, 0.999]]), 0.0).tolist() == [[0, 255]]
    low, high = plots.visible(torch.tensor([0.0 - 2 * 3, 1.0 + 2 * 3]), 3.0).tolist()
    assert 0 <= low <= 1
    assert high >= 254


def row(step: int) -> Row:
    losses = {"loss": 1 / step, "bands": [], "validation_loss": 2 / step, "validation_bands": [1 / step, None]}
    return Row(step=step, **losses)  # type: ignore[arg-type]


def test_without_a_path_the_figure_is_returned(generator: torch.Generator) -> None:
    ring, points = Ring(), Ring().sample(20, generator=generator)
    path = [Step(1.0, torch.rand(9, 1, 8, 8, generator=generator)), Step(0.0, torch.rand(9, 1, 8, 8))]
    figures = {
        "evolution": plots.evolution(path),
        "field": plots.score_field(ring, ring, [0.5], points),
        "scatter": plots.scatter_panels([[("a", points), ("b", points)]]),
        "loss": plots.loss_curves([row(1), row(2)], ["low", "high"]),
        "posterior": plots.posterior_page(None, path[0].x[0], path[0].x),
    }
    axes = {name: len(figure.axes) for name, figure in figures.items() if figure is not None}
    assert axes == {"evolution": 1, "field": 5, "scatter": 2, "loss": 2, "posterior": 4}
    assert figures["scatter"] is not None
    assert figures["scatter"].axes[1].get_title() == "b"
    assert plots.image_grid(path[0].x, columns=3).size == (60, 60)


def test_every_figure_is_written_in_colour_and_grey(tmp_path: Path, generator: torch.Generator) -> None:
    ring, points = Ring(), Ring().sample(200, generator=generator)
    plots.score_field(ring, ring, [0.1, 2.0], points, tmp_path / "field.png")
    plots.scatter_panels([[("a", points), ("b", points)]], tmp_path / "scatter.png")
    own = plots.extent_of(1000 * points)
    plots.scatter_panels([[("a", 1000 * points)]], tmp_path / "scatter_of_thousands.png", view=own)
    plots.trajectories([("a", points), ("b", points + 1), ("c", points)], tmp_path / "points.gif")
    for channels in (1, 3):
        path = [Step(sigma, torch.rand(9, channels, 8, 8, generator=generator)) for sigma in (2.0, 1.0, 0.5, 0.0)]
        plots.image_grid(path[0].x, tmp_path / f"grid{channels}.png")
        plots.evolution(path, tmp_path / f"evolution{channels}.png")
        plots.evolution_animation(path, tmp_path / f"evolution{channels}.gif")
    rows = [row(i) for i in (1, 2, 3)]
    plots.loss_curves(rows, ["low", "high"], tmp_path / "loss.png")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert min(image.size) > 10
            colours = image.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None
            assert len(colours) > 3
    with Image.open(tmp_path / "points.gif") as image:
        assert image.n_frames == 3
