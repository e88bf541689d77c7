"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.machine.interrupts import quit_on_signals

quit_on_signals()
import torch

from ncsn import plots, storage
from ncsn.cli import console
from ncsn.distributions import TOYS
from ncsn.evaluation import metrics
from ncsn.learn.record import opened_toy
from ncsn.learn.settings import Toy
from ncsn.learn.toy import VIEW, compare_samplers
from ncsn.machine import hardware

OBJECTIVES = {"dsm": ncsn.dsm, "ssm": ncsn.ssm, "exact": ncsn.exact}
VIEWS = {"circle": "field", "gaussian": "samples"}  # of the others, both


def main(given: Toy) -> None:
    """Data, noise, model, training, samples, pictures."""
    settings, record = opened_toy(given)
    generator = torch.Generator(hardware.choose_device(settings.job.device)).manual_seed(settings.seed)

    # Data: points in the plane, of a distribution whose score is known exactly at every noise level.
    truth = TOYS[settings.generator]()
    data = truth.sample(100_000, generator=generator)

    # Noise: a ladder of levels; at its top noise joins all modes, at its bottom it does not matter.
    noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels)
    sampling = ncsn.Sampling(
        sigma_max=noise.sigma_max,
        sigma_min=noise.sigma_min,
        sampler="annealed",
        levels=settings.levels,
        steps=settings.langevin_steps,
        eps=settings.eps or noise.sigma_min**2 / 2,
    )

    # Model: a multilayer perceptron that preconditioning makes a score.
    size = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
    recipe = ncsn.Recipe(network="MLP", arguments=dict(size), shape=(2,), sampling=sampling)
    record.claim(settings.job, ("score_field.png", "samples.png", "trajectories.gif"))
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from the generator
    state = ncsn.State(recipe.build(data.mean(0), data.std()).to(data.device), generator=generator)
    record.begin(state, recipe)

    # Training: by denoising score matching, or by an objective that needs no noise.
    batches = ncsn.batches(data, settings.batch_size, generator=generator)
    loss = ncsn.training_loss(noise, OBJECTIVES[settings.objective], generator=generator)
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps), signals=record.signals)
    for _ in record.watch(progress, state):
        pass
    run = ncsn.Run(score=state.average, recipe=recipe, device=data.device, folder=record.folder, experiment="toy")
    numbers: dict[str, object] = {"generator": settings.generator, "seed": settings.seed}

    # Look: is the score right near the data, and where there is none?
    view = VIEWS.get(settings.generator, "both") if settings.view == "auto" else settings.view
    if view in ("field", "both"):
        sigmas = noise.sigmas(device=data.device)
        shown = list(dict.fromkeys([float(sigmas[-1]), float(sigmas[settings.levels * 3 // 8])]))
        plots.score_field(run.score, truth, shown, data, record.path("score_field.png"), view=VIEW)
        grid, fresh = plots.plane(VIEW, 120, device=data.device)[1], generator.manual_seed(settings.seed + 2)
        near = truth.sample(5000, generator=fresh)
        numbers["levels"] = metrics.score_errors(run.score, truth, sigmas, near, grid, generator=fresh)

    # Sampling: Langevin dynamics on the smallest noise level, and annealed down the ladder with as many steps.
    if view in ("samples", "both"):
        panels, way, numbers["samplers"] = compare_samplers(run, truth, settings, console.draw)
        plots.scatter_panels(panels, record.path("samples.png"), view=VIEW)
        plots.trajectories(way, record.path("trajectories.gif"), view=VIEW)

    storage.write_json(record.path("metrics.json"), numbers | {"seconds": record.passed})
    print(f"{record.folder}: pictures and metrics.json")


if __name__ == "__main__":
    console.run(main, Toy)
