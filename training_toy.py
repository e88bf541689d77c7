"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import cli, machine, metrics, plots, runs
from ncsn.distributions import TOYS, Distribution, GaussianMixture

VIEW = 8.0  # everything is drawn on [-8, 8]², where the paper's figures are


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Learn the score of a distribution in the plane; draw the score field, samples, or both."""

    generator: Literal["circle", "gaussian", "moons", "swiss-roll", "checkerboard"] = "circle"
    """The distribution to learn."""
    view: Literal["field", "samples", "both", "auto"] = "auto"
    """field: the score against the exact one.  samples: Langevin against annealed Langevin.  auto: field for circle,
    samples for gaussian, both for the others."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 1024
    width: int = 128
    """Units in a hidden layer."""
    layers: int = 3
    """Hidden layers."""
    sigma_max: float = 20.0
    """The largest noise level, in the units of the data."""
    sigma_min: float = 0.1
    """The smallest noise level."""
    levels: int = 20
    """Noise levels, in geometric progression."""
    langevin_steps: int = 75
    """Langevin steps on each level."""
    eps: float = 0.005
    """Annealed Langevin's step size on the smallest level; σ²-proportional above it."""
    step_size: float | None = None
    """Langevin's step size; by default 0.1 for gaussian, the paper's, and 0.01 for the others, which have finer detail."""
    samples: int = 10_000
    """How many samples to draw."""
    seed: int = 0
    out: Path | None = None
    """Where to write; by default runs/toy-GENERATOR."""
    overwrite: bool = False
    """Replace a run that is already there."""
    resume: bool = False
    """Continue an interrupted run."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("steps", "batch_size", "samples", "langevin_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def field_view(
    score: ncsn.Score, truth: Distribution, toy: Toy, out: Path, generator: torch.Generator
) -> list[dict[str, object]]:
    """Draw score_field.png; return each level's relative error on noised data, and by distance from the data."""
    ladder = ncsn.Geometric(toy.sigma_max, toy.sigma_min, toy.levels).sigmas()
    data, held_out = truth.sample(5000, generator=generator), truth.sample(20_000, generator=generator)
    plots.score_field(
        score,
        truth,
        [toy.sigma_min, float(ladder[toy.levels * 3 // 8])],
        data,
        out / "score_field.png",
        view=VIEW,
    )
    _, grid = plots.plane(VIEW, 120)
    distance, edges = metrics.nearest_distance(grid, data), [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 16.0]
    rows: list[dict[str, object]] = []
    for sigma in ladder:
        noised = held_out + sigma * torch.randn(held_out.shape, generator=generator)
        error, size = metrics.relative_error(score, truth, noised, sigma)
        grid_error, grid_size = metrics.relative_error(score, truth, grid, sigma)
        bins = zip(
            metrics.binned(grid_error, distance, edges),
            metrics.binned(grid_size, distance, edges),
            strict=True,
        )
        far = grid_error[distance > 2].mean() / grid_size[distance > 2].mean()
        rows.append(
            {
                "sigma": sigma.item(),
                "relative_error_on_noised_data": (error.mean() / size.mean()).item(),
                "relative_error_beyond_distance_2": far.item(),
                "distance_edges": edges,
                "relative_error_by_distance": [e / s if e is not None and s else None for e, s in bins],
            }
        )
    return rows


def samples_view(score: ncsn.Score, truth: Distribution, toy: Toy, recipe: runs.Recipe, out: Path) -> dict[str, object]:
    """Draw samples.png and trajectories.gif; return the numbers of each sampler, with learned and with exact scores."""
    generator = torch.Generator().manual_seed(toy.seed + 1)
    data, *others = (truth.sample(toy.samples, generator=generator) for _ in range(6))
    start = (torch.rand(toy.samples, 2, generator=generator) * 2 - 1) * VIEW
    floor = sum(metrics.sliced_wasserstein(data, other) for other in others) / len(others)
    step_size = toy.step_size or (0.1 if toy.generator == "gaussian" else 0.01)
    results: dict[str, object] = {"sliced_wasserstein_floor": floor, "nfe": recipe.nfe, "n": toy.samples}
    panels = {"data": data, "start": start}
    for kind, field in (("learned", score), ("exact", truth)):
        for sampler in ("langevin", "annealed"):
            began = time.perf_counter()
            if sampler == "annealed":
                iterator = recipe.annealed(field, start, generator=generator)
            else:
                iterator = recipe.langevin(field, start, step_size=step_size, generator=generator)
            path = list(cli.bar(iterator, recipe.states(sampler), f"{sampler}, {kind} score"))
            panels[f"{sampler}, {kind} score"] = path[-1]
            ratio = metrics.sliced_wasserstein(path[-1], data) / floor
            row: dict[str, object] = {
                "sliced_wasserstein_over_floor": ratio,
                "seconds": time.perf_counter() - began,
            }
            if isinstance(truth, GaussianMixture) and len(truth.means) <= 8:
                row["modes"] = metrics.mode_statistics(path[-1], truth)
            results[f"{sampler}_{kind}"] = row
            if (kind, sampler) == ("learned", "annealed"):
                titles = [
                    "start: uniform",
                    *(f"σ = {s:.2f}" for s in recipe.noise.sigmas().tolist()),
                    "denoised",
                ]
                plots.trajectories([start, *path], titles, out / "trajectories.gif", view=VIEW)

    def titled(name: str) -> tuple[str, torch.Tensor]:
        if not (isinstance(truth, GaussianMixture) and len(truth.means) <= 8):
            return name, panels[name]
        weights = [f"{mode['weight']:.3f}" for mode in metrics.mode_statistics(panels[name], truth)]
        return f"{name}\nweights {' / '.join(weights)}", panels[name]

    order = [
        ["data", "langevin, learned score", "annealed, learned score"],
        ["start", "langevin, exact score", "annealed, exact score"],
    ]
    plots.scatter_panels([[titled(name) for name in row] for row in order], out / "samples.png", view=VIEW)
    return results


def main(toy: Toy) -> None:
    """Train, then draw and measure what was learned."""
    began = time.perf_counter()
    machine.keep_memory()
    out = toy.out or Path("runs") / f"toy-{toy.generator}"
    if toy.resume:
        toy = runs.continued(toy, "toy", out, {"out", "overwrite", "resume"})
    noise = ncsn.Geometric(toy.sigma_max, toy.sigma_min, toy.levels)
    arguments = {"dimensions": 2, "width": toy.width, "layers": toy.layers}
    recipe = runs.Recipe(
        network="MLP", arguments=arguments, shape=(2,), noise=noise, eps=toy.eps, steps=toy.langevin_steps
    )
    runs.claim(out, overwrite=toy.overwrite, resume=toy.resume)
    torch.manual_seed(toy.seed)  # for the initial weights; everything else draws from an explicit generator
    generator = torch.Generator().manual_seed(toy.seed)

    truth = TOYS[toy.generator]()
    data = truth.sample(100_000, generator=generator)
    model = ncsn.ScoreModel(recipe.build(), data.mean(0), data.std())
    state = ncsn.State(model, generator=generator)
    if toy.resume:
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "toy", asdict(toy), recipe)
    batches = ncsn.batches(data, toy.batch_size, generator=generator)
    loss = ncsn.residual_loss(noise, generator=generator)
    for _ in cli.watch(ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=toy.steps)), state, out):
        pass

    results: dict[str, object] = {
        "generator": toy.generator,
        "seed": toy.seed,
        "training_seconds": state.seconds,
    }
    view = toy.view if toy.view != "auto" else {"circle": "field", "gaussian": "samples"}.get(toy.generator, "both")
    if view in ("field", "both"):
        results["levels"] = field_view(state.average, truth, toy, out, generator)
    if view in ("samples", "both"):
        results["samplers"] = samples_view(state.average, truth, toy, recipe, out)
    results["seconds"] = time.perf_counter() - began
    runs.write_json(out / "metrics.json", results)
    print(f"{out}: {', '.join(sorted(p.name for p in out.iterdir() if p.suffix in ('.png', '.gif', '.json')))}")


if __name__ == "__main__":
    cli.run(main, Toy)
