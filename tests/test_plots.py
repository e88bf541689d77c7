from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncsn import plots
from ncsn.distributions import Ring


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


def test_every_figure_is_written_in_colour_and_grey(tmp_path: Path, generator: torch.Generator) -> None:
    ring, points = Ring(), Ring().sample(200, generator=generator)
    plots.score_field(ring, ring, [0.1, 2.0], points, tmp_path / "field.png")
    plots.scatter_panels([[("a", points), ("b", points)]], tmp_path / "scatter.png")
    plots.trajectories([points, points + 1, points], ["a", "b", "c"], tmp_path / "points.gif")
    for channels in (1, 3):
        states = [torch.rand(9, channels, 8, 8, generator=generator) for _ in range(4)]
        sigmas = [2.0, 1.0, 0.5, 0.0]
        plots.image_grid(states[0], tmp_path / f"grid{channels}.png")
        plots.evolution(states, sigmas, tmp_path / f"evolution{channels}.png")
        plots.evolution_animation(states, sigmas, tmp_path / f"evolution{channels}.gif")
    rows = [{"step": i, "loss": 1 / i, "validation_loss": 2 / i, "validation_bands": [1 / i, None]} for i in (1, 2, 3)]
    plots.loss_curves(rows, ["low", "high"], tmp_path / "loss.png")
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 10
            colours = image.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None
            assert len(colours) > 3
    with Image.open(tmp_path / "points.gif") as image:
        assert image.n_frames == 3
