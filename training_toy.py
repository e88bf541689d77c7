"""Learn the score of a two-dimensional distribution, compare it with the exact score, and sample from both.

python ./training_toy.py --generator circle      # where is a learned score accurate, and where isn't it?
python ./training_toy.py --generator gaussian    # why Langevin dynamics needs many noise levels
"""

import itertools
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
from torch import Tensor

from ncsn import metrics, validation
from ncsn.distributions import TOYS, Distribution
from ncsn.machine.messages import bar, log
from ncsn.machine.storage import write_json
from ncsn.objectives import Objective
from ncsn.run.folder import claim, has_own_run
from ncsn.settings import Given, PreconditioningOption

OBJECTIVES: dict[str, Objective] = {"dsm": ncsn.dsm, "ssm": ncsn.ssm, "exact": ncsn.exact}
PANELS = (  # samples in a picture, row by row
    ("data", "langevin, learned score", "annealed, learned score"),
    ("start", "langevin, exact score", "annealed, exact score"),
)


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Learn the score of a two-dimensional distribution, and plot the score field and samples.

    Args:
        generator: The distribution to learn.
        objective: Denoising (dsm), sliced (ssm) or exact score matching.
        preconditioning: How the network's output becomes a score. edm: a Gaussian's score plus a residual; plain: the
            output is the score, as in the NCSN paper; scaled: it is divided by σ, as in NCSNv2.
        steps: Training steps.
        batch_size: Points per batch.
        width: Units per hidden layer.
        layers: Hidden layers.
        sigma_max: The largest noise level, in the units of the data.
        sigma_min: The smallest noise level.
        levels: Number of noise levels, in geometric progression.
        langevin_steps: Langevin steps per noise level.
        eps: Langevin step size at the smallest noise level, σ_min²/2 by default. It grows with σ².
        denoise: --no-denoise leaves the noise of the smallest level in the samples of annealed Langevin dynamics, as in
            the paper.
        samples: Samples per sampler; 0 plots only the score field. The default is 5,000 for gaussian, to estimate the
            weights of its modes, and 0 otherwise.
        seed: Seed of all random numbers.
        out: Folder for the run and its pictures. The default is runs/toy-GENERATOR, where a run replaces the previous
            one.
        overwrite: Replace an existing run in another folder.
    """

    generator: Literal["circle", "gaussian", "moons", "swiss-roll"] = "circle"
    objective: Literal["dsm", "ssm", "exact"] = "dsm"
    preconditioning: PreconditioningOption = "edm"
    steps: validation.Count = 2000
    batch_size: validation.BatchSize = 1024
    width: validation.Width = 128
    layers: validation.Layers = 3
    sigma_max: validation.NoiseLevel = 20.0
    sigma_min: validation.NoiseLevel = 0.1
    levels: validation.Levels = 20
    langevin_steps: validation.LangevinSteps = 75
    eps: Given[validation.StepSize] = None
    denoise: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    samples: Given[Annotated[int, Interval(ge=0, le=10**6)]] = None
    seed: validation.Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the range of every setting."""
        validation.check_ranges(self)


def main(settings: Toy) -> None:
    """Train, compare the scores, sample, plot."""
    name = settings.generator
    generator = torch.Generator().manual_seed(settings.seed)

    # Data: points from a distribution whose exact score is known at every noise level.
    truth: Any = TOYS[name]()
    data = truth.sample(100_000, generator=generator)

    # Noise: the largest level merges all modes, and the smallest one is negligible.
    noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels)
    eps = settings.eps or noise.sigma_min**2 / 2
    sampler = "annealed" if settings.denoise else "ncsn"  # the same without a last denoising step
    sampling = ncsn.Sampling(sampler=sampler, steps=settings.langevin_steps, eps=eps, **vars(noise))

    # Model: a multilayer perceptron, preconditioned to return a score.
    layers: dict[str, Any] = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
    way = settings.preconditioning
    recipe = ncsn.Recipe(network="MLP", arguments=layers, preconditioning=way, shape=(2,), sampling=sampling)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else uses the generator
    state = ncsn.State(recipe.build({"data_mean": data.mean(0), "data_std": data.std()}), generator=generator)

    # Folder: locked before the training and until this function returns, so that no other process writes to it.
    out = settings.out or Path("runs") / f"toy-{name}"
    overwrite = settings.overwrite or (settings.out is None and has_own_run(out))
    _lock = claim(out, overwrite=overwrite, keep=True)

    # Training: denoising score matching, or an objective that also works without noise.
    batches = ncsn.batches(data, settings.batch_size, generator=generator)
    loss = ncsn.training_loss(noise, OBJECTIVES[settings.objective], generator=generator)
    progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=settings.steps))
    for _ in bar(progress, "training", total=settings.steps):
        pass
    run = ncsn.Run(score=state.average, recipe=recipe)
    run.save(out, overwrite=overwrite)
    (out / "samples.png").unlink(missing_ok=True)  # of the run that is replaced

    # Is the score accurate near the data, and far away from it?
    numbers: dict[str, Any] = {"samplers": {}}
    numbers["levels"] = compare_scores(run, truth, data, noise, generator.manual_seed(settings.seed + 2), out)

    # Sampling: Langevin dynamics at the smallest noise level, and annealed Langevin dynamics with as many steps from
    # the same start, each with the learned and with the exact score.  The floor is a second sample of the data.
    default = 5000 if name == "gaussian" else 0
    n = default if settings.samples is None else settings.samples
    if n:
        samples = {"data": truth.sample(n, generator=generator.manual_seed(settings.seed + 1))}
        samples["floor"] = truth.sample(n, generator=generator.manual_seed(settings.seed + 3))
        size = 0.1 if name == "gaussian" else noise.sigma_min**2  # the paper's, and one for narrower distributions
        samples |= draw_samples(run, truth, n, noise.levels * sampling.steps, size, generator)
        numbers["samplers"] = measure_samples(samples, truth if name == "gaussian" else None)
        plot_samples(samples, numbers["samplers"], out / "samples.png")
    write_json(out / "metrics.json", numbers)
    log.info(f"{out / 'metrics.json'}: all numbers")


def compare_scores(
    run: ncsn.Run, truth: Distribution, data: Tensor, noise: ncsn.Geometric, generator: torch.Generator, out: Path
) -> list[dict[str, float]]:
    """Plot the learned and the exact score; return the errors of the learned one at every noise level."""
    sigmas = noise.sigmas()
    shown = sorted({*sigmas[[-1, len(sigmas) * 3 // 8]].tolist()})
    ncsn.plots.score_field(run.score, truth, shown, data, out / "score_field.png")
    near = truth.sample(5000, generator=generator)
    _, grid = ncsn.plots.plane(8, 120)
    levels = metrics.score_errors(run.score, truth, sigmas, near, grid, generator=generator)
    on, off = (levels[-1][f"relative_error_{where}"] for where in ("on_noised_data", "beyond_distance_2"))
    error = f"the squared relative error is {on:.2g} near the data and {off:.2g} far from it"
    log.info(f"{out / 'score_field.png'}: at σ = {noise.sigma_min:g} {error}")
    return levels


def draw_samples(
    run: ncsn.Run, truth: Distribution, n: int, steps: int, eps: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Samples by both samplers with both scores, and the points that they start from.

    ``steps``, ``eps``: of Langevin dynamics at the smallest noise level.
    """
    start = 16 * torch.rand(n, 2, generator=generator) - 8
    samples = {"start": start}
    for name, score in (("learned", run.score), ("exact", truth)):
        source = replace(run, score=score)
        options: dict[str, Any] = {"seed": generator, "start": start, "batch_size": 10_000}
        langevin = console.draw(source, n, sampler="langevin", steps=steps, eps=eps, **options)
        samples[f"langevin, {name} score"] = langevin.samples
        annealed = console.draw(source, n, **options)
        samples[f"annealed, {name} score"] = annealed.samples
    return samples


def measure_samples(samples: dict[str, Tensor], mixture: ncsn.GaussianMixture | None) -> dict[str, Any]:
    """The distance of samples from the data, and the statistics of each mode, if these are of a mixture."""
    results: dict[str, Any] = {}
    for title in ("floor", *itertools.chain(*PANELS)):
        distance = metrics.sliced_wasserstein(samples[title], samples["data"])
        modes = [] if mixture is None else metrics.mode_statistics(samples[title], mixture)
        results[title] = {"distance": distance, "modes": modes}
    return results


def plot_samples(samples: dict[str, Tensor], results: dict[str, Any], path: Path) -> None:
    """Scatter plots of samples, with the weights of modes in their titles."""

    def panel(title: str) -> tuple[str, Tensor]:
        weights = " / ".join(f"{mode['weight']:.3f}" for mode in results[title]["modes"])
        return f"{title}\n{weights}", samples[title]

    ncsn.plots.scatter_panels([[panel(title) for title in row] for row in PANELS], path)
    log.info(f"{path}: {describe_samples(results)}")


def describe_samples(results: dict[str, Any]) -> str:
    """Compare the samplers by the weight of the left mode, if there are modes, or by their distance from the data."""
    names = {"langevin, learned score": "Langevin", "annealed, learned score": "annealed Langevin"}
    if modes := results["floor"]["modes"]:
        shares = ", ".join(f"{names[title]} {results[title]['modes'][0]['weight']:.2f}" for title in names)
        return f"the left mode should hold {modes[0]['true_weight']:.2f}: {shares}"
    distances = ", ".join(f"{names[title]} {results[title]['distance']:.2g}" for title in names)
    return f"sliced Wasserstein distance from the data: {distances}, more data {results['floor']['distance']:.2g}"


if __name__ == "__main__":
    console.run(main, Toy)
