"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import console, machine, metrics, objectives, plots, runs
from ncsn.distributions import TOYS, Distribution, GaussianMixture
from ncsn.recipe import Recipe, suggested
from ncsn.score import Counted
from ncsn.settings import SamplerName, Toy

SAMPLERS: tuple[SamplerName, ...] = ("langevin", "annealed")
VIEW = 8.0  # everything is drawn on [-8, 8]², where the paper's figures are


def field_view(score: ncsn.Score, truth: Distribution, toy: Toy, out: Path) -> list[dict[str, object]]:
    """Draw score_field.png; return each noise level's relative errors."""
    generator = torch.Generator().manual_seed(toy.seed + 2)
    ladder = ncsn.Geometric(toy.sigma_max, toy.sigma_min, toy.levels).sigmas()
    data = truth.sample(5000, generator=generator)
    shown = dict.fromkeys([float(ladder[-1]), float(ladder[toy.levels * 3 // 8])])
    plots.score_field(score, truth, list(shown), data, out / "score_field.png", view=VIEW)
    return metrics.score_errors(score, truth, ladder, data, plots.plane(VIEW, 120)[1], generator=generator)


def samples_view(score: ncsn.Score, truth: Distribution, toy: Toy, recipe: Recipe, out: Path) -> dict[str, object]:
    """Draw samples.png and trajectories.gif; return the numbers of each sampler, with learned and with exact scores."""
    generator = torch.Generator().manual_seed(toy.seed + 1)
    data, *others = (truth.sample(toy.samples, generator=generator) for _ in range(6))
    start = (torch.rand(toy.samples, 2, generator=generator) * 2 - 1) * VIEW
    floor = sum(metrics.sliced_wasserstein(data, other) for other in others) / len(others)
    step_size = toy.step_size if toy.step_size is not None else 0.1 if toy.generator == "gaussian" else toy.sigma_min**2
    results: dict[str, object] = {"sliced_wasserstein_floor": floor, "n": toy.samples}
    panels = {"data": data, "start": start}
    for kind, field in (("learned", score), ("exact", truth)):
        for sampler in SAMPLERS:
            began, counted, ladder = time.perf_counter(), Counted(field), recipe.states(sampler, toy.levels)
            states = recipe.path(
                counted, start, sampler=sampler, levels=toy.levels, step_size=step_size, generator=generator
            )
            path = list(console.bar(states, len(ladder), f"{sampler}, {kind} score"))
            panels[f"{sampler}, {kind} score"] = path[-1]
            ratio = metrics.sliced_wasserstein(path[-1], data) / floor
            row: dict[str, object] = {
                "sliced_wasserstein_over_floor": ratio,
                "nfe": counted.nfe,
                "seconds": time.perf_counter() - began,
            }
            if isinstance(truth, GaussianMixture) and len(truth.means) <= 8:
                row["modes"] = metrics.mode_statistics(path[-1], truth)
            results[f"{sampler}_{kind}"] = row
            if (kind, sampler) == ("learned", "annealed"):
                titles = ["start: uniform", *(f"σ = {s:.2f}" for s in ladder[:-1]), "denoised"]
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
    generator, truth = torch.Generator().manual_seed(toy.seed), TOYS[toy.generator]()
    data = truth.sample(100_000, generator=generator)
    if toy.noise == "auto":
        suggestion = ncsn.suggest_noise(data)
        print(suggestion.explanation)
        toy = suggested(toy, suggestion)
    noise = ncsn.Geometric(toy.sigma_max, toy.sigma_min, toy.levels)
    arguments = {"dimensions": 2, "width": toy.width, "layers": toy.layers}
    eps = toy.sigma_min**2 / 2 if toy.eps is None else toy.eps
    recipe = Recipe(
        network="MLP",
        arguments=arguments,
        shape=(2,),
        sigma_max=toy.sigma_max,
        sigma_min=toy.sigma_min,
        sampler="annealed",
        levels=toy.levels,
        steps=toy.langevin_steps,
        eps=eps,
    )
    runs.claim(out, overwrite=toy.overwrite, resume=toy.resume)
    torch.manual_seed(toy.seed)  # for the initial weights; everything else draws from an explicit generator
    model = recipe.build(data.mean(0), data.std())
    state = ncsn.State(model, generator=generator)
    if toy.resume:
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "toy", asdict(toy), recipe)
    batches = ncsn.batches(data, toy.batch_size, generator=generator)
    objective = {"dsm": objectives.dsm, "ssm": objectives.ssm, "exact": objectives.exact}[toy.objective]
    loss = ncsn.residual_loss(noise, objective, generator=generator)
    for _ in console.watch(ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=toy.steps)), state, out):
        pass

    results: dict[str, object] = {
        "generator": toy.generator,
        "seed": toy.seed,
        "training_seconds": state.seconds,
    }
    view = toy.view if toy.view != "auto" else {"circle": "field", "gaussian": "samples"}.get(toy.generator, "both")
    if view in ("field", "both"):
        results["levels"] = field_view(state.average, truth, toy, out)
    if view in ("samples", "both"):
        results["samplers"] = samples_view(state.average, truth, toy, recipe, out)
    results["seconds"] = time.perf_counter() - began
    runs.write_json(out / "metrics.json", results)
    print(f"{out}: {', '.join(sorted(p.name for p in out.iterdir() if p.suffix in ('.png', '.gif', '.json')))}")


if __name__ == "__main__":
    console.run(main, Toy)
