"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.cli.interrupts import quit_on_signals

quit_on_signals()
import torch

from ncsn import plots
from ncsn.cli import console, drawing
from ncsn.evaluation import metrics
from ncsn.learn.settings import Toy
from ncsn.learn.toy import PICTURES, VIEW, compare_samplers, opened_toy, recipe_of_toy
from ncsn.storage import write_json

OBJECTIVES = {"dsm": ncsn.dsm, "ssm": ncsn.ssm, "exact": ncsn.exact}


def main(given: Toy) -> None:
    """Data, noise, model, training, samples, pictures."""
    # Data: points in the plane, of a distribution whose score is known exactly at every noise level.
    truth, data, settings, record, generator = opened_toy(given)

    # Noise: a ladder of levels; at its top noise joins all modes, at its bottom it does not matter.
    noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels)

    # Model: a multilayer perceptron that preconditioning makes a score.
    recipe = recipe_of_toy(settings, generator.device)
    record.claim(settings.job, PICTURES)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from the generator
    model = recipe.build(data.mean(0), data.std()).to(data.device)
    state = ncsn.State(model, generator=generator)
    record.begin(state, recipe)

    # Training: by denoising score matching, or by an objective that needs no noise.
    batches = ncsn.batches(data, settings.batch_size, generator=generator)
    loss = ncsn.training_loss(noise, OBJECTIVES[settings.objective], generator=generator)
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps), signals=record.signals)
    for _ in record.watch(progress, state):
        pass
    run = ncsn.Run(score=state.average, recipe=recipe, device=data.device, folder=record.folder, experiment="toy")
    numbers: dict[str, object] = {"generator": settings.generator, "seed": settings.seed}
    numbers["training_seconds"] = state.seconds

    # Look: is the score right near the data, and where there is none?
    if settings.view in ("field", "both"):
        sigmas = noise.sigmas(device=data.device)
        shown = list(dict.fromkeys([float(sigmas[-1]), float(sigmas[settings.levels * 3 // 8])]))
        plots.score_field(run.score, truth, shown, data, record.path("score_field.png"), view=VIEW)
        grid, fresh = plots.plane(VIEW, 120, device=data.device)[1], generator.manual_seed(settings.seed + 2)
        near = truth.sample(5000, generator=fresh)
        numbers["levels"] = metrics.score_errors(run.score, truth, sigmas, near, grid, generator=fresh)

    # Sampling: Langevin dynamics on the smallest noise level, and annealed down the ladder with as many steps.
    if settings.view in ("samples", "both"):
        panels, way, numbers["samplers"] = compare_samplers(run, truth, settings, drawing.draw)
        plots.scatter_panels(panels, record.path("samples.png"), view=VIEW)
        plots.trajectories(way, record.path("trajectories.gif"), view=VIEW)

    write_json(record.path("metrics.json"), numbers | {"seconds": record.passed})
    written = sorted(path.name for path in record.path("").iterdir() if path.suffix in (".png", ".gif", ".json"))
    print(f"{record.folder}: {', '.join(written)}")


if __name__ == "__main__":
    console.run(main, Toy)
