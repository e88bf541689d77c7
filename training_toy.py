"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys
from typing import Any

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.machine.interrupts import quit_on_signals

quit_on_signals()
from dataclasses import replace
from pathlib import Path

import torch

from ncsn import plots, storage
from ncsn.cli import console
from ncsn.distributions import TOYS
from ncsn.evaluation import metrics
from ncsn.learn.settings import Toy


def main(settings: Toy) -> None:
    """Data, noise, model, training, samples, pictures."""
    name, generator = settings.generator, torch.Generator().manual_seed(settings.seed)

    # Data: points in the plane, of a distribution whose score is known exactly at every noise level.
    truth = TOYS[name]()
    data = truth.sample(100_000, generator=generator)

    # Noise: a ladder of levels; at its top noise joins all modes, at its bottom it does not matter.
    noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels)
    ends: dict[str, Any] = {"sigma_max": noise.sigma_max, "sigma_min": noise.sigma_min}
    ends["eps"] = settings.eps or noise.sigma_min**2 / 2
    sampling = ncsn.Sampling(sampler="annealed", levels=noise.levels, steps=settings.langevin_steps, **ends)

    # Model: a multilayer perceptron that preconditioning makes a score.
    size = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
    recipe = ncsn.Recipe(network="MLP", arguments=dict(size), shape=(2,), sampling=sampling)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from the generator
    state = ncsn.State(recipe.build(data.mean(0), data.std()), generator=generator)

    # Training: by denoising score matching, or by an objective that needs no noise.
    batches = ncsn.batches(data, settings.batch_size, generator=generator)
    loss = ncsn.training_loss(noise, getattr(ncsn, settings.objective), generator=generator)
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps))
    for _ in console.bar(progress, "training", total=settings.steps):
        pass
    run = ncsn.Run(score=state.average, recipe=recipe, experiment="toy")
    folder = settings.out or Path("runs") / f"toy-{name}"
    run.save(folder, overwrite=settings.overwrite)

    # Look: is the score right near the data, and where there is none?
    sigmas = noise.sigmas()
    shown = sorted({float(sigmas[-1]), float(sigmas[settings.levels * 3 // 8])})
    plots.score_field(run.score, truth, shown, data, folder / "score_field.png")
    near, (_, grid) = truth.sample(5000, generator=generator.manual_seed(settings.seed + 2)), plots.plane(8, 120)
    errors = metrics.score_errors(run.score, truth, sigmas, near, grid, generator=generator)

    # Sampling: Langevin dynamics on the smallest noise level, and annealed down the ladder, from the same start and
    # with as many steps; by the learned score and by the exact one.
    samplers: dict[str, Any] = {}
    if settings.samples:
        data = truth.sample(settings.samples, generator=generator.manual_seed(settings.seed + 1))
        start = 16 * torch.rand(settings.samples, 2, generator=generator) - 8
        once = 0.1 if name == "gaussian" else noise.sigma_min**2  # the paper's step, and one for finer distributions
        ways = (("langevin", noise.levels * sampling.steps, once), ("annealed", None, None))
        panels = [[("data", data)], [("start", start)]]
        for row, (kind, score) in zip(panels, (("learned", run.score), ("exact", truth)), strict=True):
            for sampler, steps, eps in ways:
                model, how = replace(run, score=score), {"sampler": sampler, "steps": steps, "eps": eps}
                x = model.sample(settings.samples, **how, seed=generator, start=start)
                row.append((f"{sampler}, {kind} score", x))
                modes = metrics.mode_statistics(x, truth) if isinstance(truth, ncsn.GaussianMixture) else []
                samplers[f"{sampler}_{kind}"] = {"distance": metrics.sliced_wasserstein(x, data), "modes": modes}
        plots.scatter_panels(panels, folder / "samples.png")
    storage.write_json(folder / "metrics.json", {"levels": errors, "samplers": samplers})
    print(f"{folder}: pictures and metrics.json")


if __name__ == "__main__":
    console.run(main, Toy)
