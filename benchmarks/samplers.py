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
from matplotlib.ticker import FormatStrFormatter
from tqdm import tqdm

import ncsn
from ncsn import evaluation, metrics
from ncsn.batching import quantize
from ncsn.cli import console
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


def measure(curve: Curve, points: list[Point]) -> list[dict[str, Any]]:
    """The floor, and one row for each of ``points``."""
    images, classifier = ncsn.load_dataset("mnist"), evaluation.digits()
    held_out = classifier(images.validation)
    run = ncsn.load(curve.run)
    run.compile(curve.batch_size)
    order = torch.randperm(images.n, generator=torch.Generator().manual_seed(0))
    real = classifier(images.train[order[: curve.n]])
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


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Fréchet distance against evaluations, the default number of levels ringed; and against guidance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", width_ratios=[1.6, 1])
    weights = [row for row in rows[1:] if row["levels"] is None]
    for number, (sampler, default) in enumerate(rows[0]["default"].items()):
        points = [row for row in rows[1:] if row["sampler"] == sampler and row["levels"]]
        usual = [row for row in points if [row["levels"], row["guidance"]] == default]
        styles = {"o-": points[: len(GRID.get(sampler, ()))], "x": points[len(GRID.get(sampler, ())) :]}
        for (mark, some), label in zip(styles.items(), (sampler, None), strict=True):
            xy = [row["nfe"] for row in some], [row["frechet_distance"] for row in some]
            left.plot(*xy, mark, color=f"C{number}", label=label)
        left.plot(
            [row["nfe"] for row in usual],
            [row["frechet_distance"] for row in usual],
            "o",
            ms=12,
            mfc="none",
            c=f"C{number}",
        )
    left.set(xscale="log", yscale="log", xlabel="network evaluations per sample (NFE)")
    left.set(ylabel=f"Fréchet distance, n = {rows[0]['n']:,}", title="Samplers (circled: default; ×: without a guide)")
    left.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    right.plot([row["guidance"] for row in weights], [row["frechet_distance"] for row in weights], "o-")
    right.set(yscale="log", xlabel="guidance w (1: none)", title="The default sampler")
    for axes in (left, right):
        axes.axhline(rows[0]["frechet_distance"], color="grey", linestyle=":", label="real images")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%.3g"))
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
