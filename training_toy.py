"""Learn the score of a distribution in the plane, look at it, and sample from it.

python ./training_toy.py --generator circle      # where is a learned score right, and where is it wrong?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import sys

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

from ncsn.cli import console, quit_on_signals

if __name__ == "__main__":
    quit_on_signals()
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from annotated_types import Interval

from ncsn import metrics, validation
from ncsn.distributions import TOYS
from ncsn.learn.settings import Given
from ncsn.run.folder import check_folder
from ncsn.storage import write_json


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Learn the score of a distribution in the plane; draw the score field, and samples.

    Args:
        generator: The distribution to learn.
        objective: dsm, ssm or exact: denoising, sliced or exact score matching.
        steps: Training steps.
        batch_size: Points in a batch.
        width: Units in a hidden layer.
        layers: Hidden layers.
        sigma_max: The largest noise level, in the units of the data.
        sigma_min: The smallest noise level.
        levels: Noise levels, in geometric progression.
        langevin_steps: Langevin steps on each level.
        eps: Langevin's step size on the smallest level; by default σ_min²/2. On other levels it is proportional to σ².
        samples: How many samples each sampler draws; 0 for the score field alone. By default 5,000 for gaussian, the
            weights of whose modes they show, and 0 for the others.
        seed: Of all random numbers.
        out: A folder for the run and its pictures; by default runs/ and what is learned.
        overwrite: Replace a run that is already there.
    """

    generator: Literal["circle", "gaussian", "moons", "swiss-roll", "checkerboard"] = "circle"
    objective: Literal["dsm", "ssm", "exact"] = "dsm"
    steps: validation.Count = 2000
    batch_size: validation.BatchSize = 1024
    width: validation.Width = 128
    layers: validation.Layers = 3
    sigma_max: validation.NoiseLevel = 20.0
    sigma_min: validation.NoiseLevel = 0.1
    levels: validation.Levels = 20
    langevin_steps: validation.LangevinSteps = 75
    eps: Given[validation.StepSize] = None
    samples: Given[Annotated[int, Interval(ge=0, le=10**6)]] = None
    seed: validation.Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        validation.check_ranges(self)


def main(settings: Toy) -> None:
    """Data, noise, model, training, samples, pictures."""
    name, generator = settings.generator, torch.Generator().manual_seed(settings.seed)
    out = settings.out or Path("runs") / f"toy-{name}"
    check_folder(out, overwrite=settings.overwrite, figures=("score_field.png",))

    # Data: points in the plane, of a distribution whose score is known exactly at every noise level.
    truth: Any = TOYS[name]()
    data = truth.sample(100_000, generator=generator)

    # Noise: a ladder of levels; at its top noise joins all modes, at its bottom it does not matter.
    noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels)
    eps = settings.eps or noise.sigma_min**2 / 2
    sampling = ncsn.Sampling(sampler="annealed", steps=settings.langevin_steps, eps=eps, **vars(noise))

    # Model: a multilayer perceptron that preconditioning makes a score.
    layers: dict[str, Any] = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
    recipe = ncsn.Recipe(network="MLP", arguments=layers, shape=(2,), sampling=sampling)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from the generator
    state = ncsn.State(recipe.build({"data_mean": data.mean(0), "data_std": data.std()}), generator=generator)

    # Training: by denoising score matching, or by an objective that needs no noise.
    batches = ncsn.batches(data, settings.batch_size, generator=generator)
    loss = ncsn.training_loss(noise, getattr(ncsn, settings.objective), generator=generator)
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps))
    for _ in console.bar(progress, "training", total=settings.steps):
        pass
    run = ncsn.Run(score=state.average, recipe=recipe)
    run.save(out, overwrite=settings.overwrite)

    # Look: is the score right near the data, and where there is none?
    sigmas = noise.sigmas()
    ncsn.plots.score_field(run.score, truth, sigmas[[-1, len(sigmas) * 3 // 8]].tolist(), data, out / "score_field.png")
    near, (_, grid) = truth.sample(5000, generator=generator.manual_seed(settings.seed + 2)), ncsn.plots.plane(8, 120)
    numbers: dict[str, Any] = {"samplers": {}}
    numbers["levels"] = metrics.score_errors(run.score, truth, sigmas, near, grid, generator=generator)

    # Sampling: Langevin dynamics on the smallest noise level, and annealed down the ladder, from the same start and
    # with as many steps; by the learned score and by the exact one.  The floor is another sample of the truth.
    default = 5000 if name == "gaussian" else 0
    (out / "samples.png").unlink(missing_ok=True)  # of an earlier run
    if n := default if settings.samples is None else settings.samples:
        data, other = (truth.sample(n, generator=generator.manual_seed(settings.seed + k)) for k in (1, 3))
        start = 16 * torch.rand(n, 2, generator=generator) - 8
        size = 0.1 if name == "gaussian" else noise.sigma_min**2  # the paper's, and one for finer distributions
        once: dict[str, Any] = {"steps": noise.levels * sampling.steps, "eps": size}
        panels = [[("data", data)], [("start", start)]]
        for row, (kind, score) in zip(panels, (("learned", run.score), ("exact", truth)), strict=True):
            for sampler, how in (("langevin", once), ("annealed", {})):
                how |= {"sampler": sampler, "seed": generator, "start": start, "batch_size": 10_000}
                row.append((f"{sampler}, {kind} score", console.draw(replace(run, score=score), n, **how).samples))
        weights: dict[str, str] = {}
        for title, x in [("floor", other), *panels[0], *panels[1]]:
            modes = metrics.mode_statistics(x, truth) if name == "gaussian" else []
            numbers["samplers"][title] = result = {"distance": metrics.sliced_wasserstein(x, data), "modes": modes}
            weights[title] = " / ".join(f"{mode['weight']:.3f}" for mode in modes)
            print(f"{title}: distance {result['distance']:.3f}", weights[title] and f"weights {weights[title]}")
        titled = [[(f"{title}\n{weights[title]}", x) for title, x in row] for row in panels]
        ncsn.plots.scatter_panels(titled, out / "samples.png")
    write_json(out / "metrics.json", numbers)
    print(f"{out}: pictures and metrics.json")


if __name__ == "__main__":
    console.run(main, Toy)
