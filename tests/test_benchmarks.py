"""The side-by-side runs: every peer learns and samples; those whose library is not installed are skipped."""

from pathlib import Path
from typing import Any

import bench
import pytest
import torch
from peers import PEERS

LIBRARIES = {
    "reference": "ncsn",
    "diffusers": "diffusers",
    "azula": "azula",
    "denoising-diffusion-pytorch": "denoising_diffusion_pytorch",
}


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.slow
@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 0), ((3, 32, 32), 10)])
@pytest.mark.parametrize("name", PEERS)
def test_peers_learn_and_sample(
    name: str, shape: tuple[int, int, int], classes: int, generator: torch.Generator
) -> None:
    pytest.importorskip(LIBRARIES[name])
    torch.manual_seed(0)
    peer, x = PEERS[name](shape, classes), torch.rand(4, *shape, generator=generator)
    label = torch.tensor([0, 3, 9, 3]) if classes and peer.classes else None
    losses = []
    for _ in range(12):
        torch.manual_seed(1)  # always the same noise: only the weights change
        losses.append(float(peer.step(x, 0.1, label)))
    assert losses[-1] < losses[0]
    assert 1e6 < peer.parameters < 3e6 or name == "reference"
    peer.nfe = min(peer.nfe, 3)
    if name == "reference":
        peer.sigmas = peer.sigmas[:1] * 1e-2
    with torch.no_grad():
        drawn = peer.sample(2, generator, None if label is None else label[:2])
    assert drawn.shape == (2, *shape)
    assert drawn.isfinite().all()


def test_table_and_plot(tmp_path: Path) -> None:
    def row(peer: str, minutes: float, distance: float, rate: float) -> dict[str, Any]:
        metrics = {
            "frechet_distance": {"generated": distance, "held_out": 0.2, "training": 0.1, "ratio": distance / 0.2},
            "confident": {"generated": 0.8, "held_out": 0.99, "training": 0.995},
        }
        return {
            "peer": peer,
            "minutes": minutes,
            "processor": "AVX2",
            "parameters": 1_850_000,
            "metrics": metrics,
            "n": 10_000,
            "images_seen": 1000,
            "training_images_per_second": rate,
            "sampling_images_per_second": rate,
            "nfe": 31,
        }

    results = [row("azula", 10.0, 8.0, 50.0), row("ours", 10.0, 2.0, 100.0), row("ours", 5.0, 4.0, 100.0)]
    lines = bench.table(results).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith(
        "| mnist | AVX2 | 10 | ours | no | 1.85 M | 2.00 (0.20, 0.10) | 10,000 | **1** | 0.800 (0.990) | 1,000 | 1.00"
    )
    assert "| 0.50 | 0.50 | 31 |" in lines[3]
    colour = {**row("ours", 10.0, 90.0, 10.0), "data": "cifar10"}
    lines = bench.table([colour, *results]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| mnist"] * 3 + ["| cifar10"]
    assert "| 1.00 | 1.00 | 31 |" in lines[5], "speeds are ratios to ours on the same data"
    both = bench.table([{**row("ours", 10.0, 1.0, 50.0), "told_classes": True}, *results]).splitlines()
    assert [line.split(" | ")[3:5] for line in both[2:]] == [
        ["ours", "no"], ["azula", "no"], ["ours", "yes"], ["ours", "no"]
    ]  # fmt: skip
    fewer = row("azula", 10.0, 8.0, 1.0)
    fewer["metrics"] = {"frechet_distance": {"generated": 8.0, "training": 2.1}}
    assert bench.over_ours(fewer, results[1]) == pytest.approx(2), "as many of ours are 2.0 + 2.1 - 0.1 off"
    plain = row("reference", 10.0, 16.0, 25.0)
    told = {**row("ours", 10.0, 1.0, 50.0), "told_classes": True}
    assert bench.beside(plain, [plain, told]) is told, "there is no other of ours"
    slower = {**row("ours", 10.0, 6.0, 10.0), "processor": "AVX"}
    assert bench.beside(slower, [*results, slower]) is slower, "nothing of another processor"
    alone = row("azula", 10.0, 8.0, 1.0)
    del alone["metrics"]["confident"]  # of data without classes
    assert bench.beside(alone, [told]) is None, "it could have been told"
    assert "| **–** | – | 1,000 | – | – | 31 |" in bench.table([alone, told])
    bench.plot([*results, slower], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_readme_has_the_marks_that_the_table_goes_between() -> None:
    text = (bench.HERE / "README.md").read_text(encoding="utf-8")
    assert text.index(bench.MARKS[0]) < text.index(bench.MARKS[1])
