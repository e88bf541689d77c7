"""Quality against cost: every sampler on several numbers of noise levels, the default one by guidance; on one model.

python benchmarks/samplers.py                    # the model in the package, 2,000 samples each
python benchmarks/samplers.py --run runs/mnist   # another one

Writes benchmarks/samplers.json and samplers.png.  Distances are to the validation images, because settings are chosen
by them; over 2,000 samples they are for comparing samplers with each other.  The floor at that n is in the plot.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter
from torch import Tensor
from tqdm import tqdm

import ncsn
from ncsn import evaluation, metrics
from ncsn.batching import quantize
from ncsn.cli import console
from ncsn.data import Dataset
from ncsn.machine import hardware
from ncsn.machine.messages import refresh_interval

HERE = Path(__file__).parent
GRID: dict[str, tuple[int, ...]] = {
    "annealed": (30, 60, 100),
    "consistent": (15, 30, 60, 100),
    "pc": (30, 60),
    "euler": (10, 20, 40),
    "heun": (6, 10, 18),
    "edm": (10, 20, 40),
    "dpmpp": (7, 10, 20, 40),
    "dpmpp-sde": (6, 8, 10, 12, 20, 30, 60),
}
UNGUIDED = ("euler", "heun", "dpmpp", "dpmpp-sde", "langevin")
GUIDANCE = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


Point = tuple[str, int | None, float]
"""Sampler, levels, guidance."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Measure every sampler's quality against its number of network evaluations."""

    run: Path = Path("mnist")
    """A run's folder, or the model in the package."""
    n: int = 2000
    """Samples for each point."""
    batch_size: int = 500
    seed: int = 0


def grid(run: ncsn.Run) -> list[Point]:
    """(sampler, levels, guidance): every sampler on several ladders, guided as by default; unguided; guidances."""
    default = usual(run)
    points: list[Point] = [
        (sampler, count, default[sampler][1]) for sampler, counts in GRID.items() for count in counts
    ]
    if run.recipe.sampling.guidance != 1:
        points += [(sampler, default[sampler][0], 1.0) for sampler in UNGUIDED]
        points += [("dpmpp-sde", None, weight) for weight in GUIDANCE]
    return points


def usual(run: ncsn.Run) -> dict[str, tuple[int, float]]:
    """Levels and guidance of each sampler by default."""
    ways = {sampler: run.recipe.sampling.but(sampler=sampler) for sampler in ncsn.SAMPLERS}
    return {sampler: (way.count, way.guidance) for sampler, way in ways.items()}


def alike(run: ncsn.Run, images: Dataset, n: int) -> Tensor:
    """So many training images, of as many classes as so many samples are of, for that makes a distance smaller."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images.train), generator=generator)
    wanted = run.recipe.labels(None, n, generator)
    if wanted is None or images.labels is None:
        return images.train[order[:n]]
    known, counts = images.labels.train[order], wanted.bincount()
    return images.train[torch.cat([order[known == label][:count] for label, count in enumerate(counts)])]


def measure(curve: Curve, points: list[Point]) -> list[dict[str, Any]]:
    """The floor, and one row for each of ``points``."""
    images, classifier = ncsn.load_dataset("mnist"), evaluation.digits()
    held_out = classifier(images.validation)
    run = ncsn.load(curve.run)
    run.compile(curve.batch_size)
    real = classifier(alike(run, images, curve.n))
    floor = metrics.frechet_distance(real.features, held_out.features)
    rows: list[dict[str, Any]] = [{"sampler": "real", "n": curve.n, "frechet_distance": floor, "default": usual(run)}]
    for sampler, levels, weight in tqdm(points, unit="point", mininterval=refresh_interval()):
        how = {"sampler": sampler, "levels": levels, "guidance": weight, "batch_size": curve.batch_size}
        drawn = console.draw(run, curve.n, seed=curve.seed, **how)
        seen = classifier(quantize(drawn.samples))
        rows.append(
            {
                "sampler": sampler,
                "levels": levels,
                "guidance": weight,
                "nfe": drawn.steps.nfe,
                "frechet_distance": metrics.frechet_distance(seen.features, held_out.features),
                "confident": seen.confident,
            }
        )
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return rows


def along(axes: Axes, points: list[dict[str, Any]], mark: str, **how: Any) -> None:
    """Fréchet distances against evaluations."""
    axes.plot([row["nfe"] for row in points], [row["frechet_distance"] for row in points], mark, **how)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Fréchet distance against evaluations, the default number of levels ringed; and against guidance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=[1.6, 1])
    weights = [row for row in rows[1:] if row["levels"] is None]
    for number, sampler in enumerate(dict.fromkeys(row["sampler"] for row in rows[1:] if row["sampler"] != "langevin")):
        color, points = f"C{number}", [row for row in rows if row["sampler"] == sampler and row["levels"]]
        guided = points[: len(GRID.get(sampler, ()))]
        if guided:
            along(left, guided, "o-", label=sampler, color=color, linewidth=3 if sampler == "dpmpp-sde" else 1.5)
        default = [row for row in points if [row["levels"], row["guidance"]] == rows[0]["default"][sampler]]
        along(left, default, "o", color=color, markerfacecolor="none", markersize=12)
        along(left, points[len(guided) :], "x", color=color, markersize=8, label=None if guided else sampler)
    left.set(xscale="log", yscale="log", xlabel="network evaluations per sample (NFE)")
    left.set(ylabel=f"Fréchet distance, n = {rows[0]['n']:,}", title="Samplers (circled: default; ×: without a guide)")
    left.set_xticks([6, 10, 20, 30, 60, 120, 200], ["6", "10", "20", "30", "60", "120", "200"])
    left.minorticks_off()
    right.plot([row["guidance"] for row in weights], [row["frechet_distance"] for row in weights], "o-")
    right.set(yscale="log", xlabel="guidance w (1: none)", title="The default sampler")
    for axes in (left, right):
        axes.axhline(rows[0]["frechet_distance"], color="grey", linestyle=":", label="real images")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
        axes.yaxis.set_minor_formatter(FormatStrFormatter("%.2g"))
        axes.grid(which="both", alpha=0.25)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    settings = tyro.cli(Curve)
    hardware.keep_memory()
    torch.set_flush_denormal(True)
    table = measure(settings, grid(ncsn.load(settings.run)))
    written = json.dumps(table, indent=1) + "\n"
    (HERE / "samplers.json").write_text(written)
    plot(json.loads(written), HERE / "samplers.png")
