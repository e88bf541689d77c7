"""The command ``ncsn``: sample, evaluate and describe runs.

Torch is imported inside the commands, so that ``--help`` answers at once.
"""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ncsn import console
from ncsn.settings import SamplerName

if TYPE_CHECKING:
    from torch import Tensor

COMPILE_FROM = 60_000  # network evaluations: for fewer, compiling takes longer than it saves


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run: a picture, or uint8 images (or points) in an .npz file under the key samples."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples."""
    seed: int = 0
    """The same seed gives the same samples on one machine."""
    sampler: SamplerName | None = None
    """By default the run's own."""
    levels: int | None = None
    """Noise levels that sampling descends: more cost more and are more exact.  By default what suits the sampler."""
    step_size: float | None = None
    """Langevin's step size; by default that of annealing's last level."""
    batch_size: int = 500
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid, .npz for an array."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if min(self.n, self.batch_size, self.levels or 1) < 1:
            raise ValueError(
                f"n is {self.n}, batch size is {self.batch_size} and levels is {self.levels}; each must be at least 1"
            )
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed are .png and .npz")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a run is: its experiment, network, noise levels, sampler and numbers."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how good a run's samples of MNIST are, beside real images; or anybody's samples in an .npz file."""

    source: tyro.conf.Positional[Path]
    """A run's folder, or mnist, or an .npz file with uint8 images (n, 1, 28, 28) under the key samples."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    """How many samples; numbers from fewer than 10,000 are not comparable to others'."""
    seed: int = 0
    """For drawing the samples of a run."""
    sampler: SamplerName | None = None
    """By default the run's own."""
    levels: int | None = None
    """Noise levels that sampling descends; by default what suits the sampler."""
    batch_size: int = 500
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path | None = None
    """A folder for evaluation.json, evaluation.png and the samples; by default where the source is."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 100 <= self.n <= 10_000 or min(self.batch_size, self.levels or 1) < 1:
            raise ValueError(
                f"n is {self.n}, batch size is {self.batch_size}, levels is {self.levels}; allowed are 100 to 10000, "
                "and at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What ``draw`` returns: samples in the units of the data, evaluations of the network for each, and seconds."""

    samples: "Tensor"
    nfe: int
    seconds: float


def draw(settings: Sample | Evaluate, folder: Path, step_size: float | None = None) -> Drawn:
    """Samples of the run in ``folder``, as the command line asks."""
    import torch

    from ncsn import machine, runs
    from ncsn.score import Counted, batched

    began = time.perf_counter()
    machine.keep_memory()
    model, recipe = runs.load(folder), runs.read_recipe(folder)
    ladder = recipe.states(settings.sampler, settings.levels)
    size = min(settings.n, settings.batch_size)
    if settings.n * len(ladder) >= COMPILE_FROM:
        example = torch.zeros(size, *recipe.shape), torch.tensor(1.0)
        console.compile_network(model.network, lambda: model(*example))
    score = Counted(batched(model, size))
    generator = torch.Generator().manual_seed(settings.seed)
    start = recipe.start(score, settings.n, generator=generator)
    path = recipe.path(
        score, start, sampler=settings.sampler, levels=settings.levels, step_size=step_size, generator=generator
    )
    (x,) = deque(console.bar(path, len(ladder), f"{settings.n} samples"), maxlen=1)
    return Drawn(samples=x, nfe=score.nfe, seconds=time.perf_counter() - began)


def sample(settings: Sample) -> None:
    """``ncsn sample``."""
    if settings.out.exists() and not settings.overwrite:
        raise ValueError(f"{settings.out} exists; give --overwrite to replace it, or another --out")
    if not settings.out.absolute().parent.is_dir():
        raise ValueError(f"{settings.out.parent} is no folder to write {settings.out.name} into")
    import numpy as np

    from ncsn import plots, runs
    from ncsn.files import atomic
    from ncsn.pixels import quantize

    folder = runs.find(settings.run)
    recipe = runs.read_recipe(folder)
    drawn = draw(settings, folder, settings.step_size)
    x, images = drawn.samples, len(recipe.shape) == 3
    if settings.out.suffix == ".npz":
        with atomic(settings.out) as temporary:
            np.savez_compressed(temporary, samples=(quantize(x) if images else x).numpy())
    elif images:
        plots.image_grid(x, settings.out, columns=min(settings.n, max(8, round(settings.n**0.5))))
    else:
        plots.scatter_panels([[(f"{settings.n} samples, {settings.sampler or recipe.sampler}", x)]], settings.out)
    rate = settings.n / drawn.seconds
    print(
        f"{settings.out}: {settings.n} samples by {settings.sampler or recipe.sampler}, {drawn.nfe} evaluations each, "
        f"{drawn.seconds:.1f} s, {rate:.0f} samples/s"
    )


def evaluate(settings: Evaluate) -> None:
    """``ncsn evaluate``."""
    import numpy as np

    from ncsn import data, evaluation, plots, runs
    from ncsn.files import atomic
    from ncsn.pixels import quantize

    source, images = settings.source, data.mnist()
    about: dict[str, Any]
    if source.suffix == ".npz":
        samples, about = evaluation.read_samples(source)[: settings.n], {"source": str(source)}
        out = settings.out or source.parent
    else:
        folder = runs.find(source)
        recipe, out = runs.read_recipe(folder), settings.out or (source if folder == source else Path())
        if recipe.shape != images.shape:
            raise ValueError(
                f"{source} makes examples of shape {recipe.shape}; only MNIST's {images.shape} can be judged"
            )
        drawn = draw(settings, folder)
        samples = quantize(drawn.samples)
        about = {
            "source": str(source),
            "seed": settings.seed,
            "sampler": settings.sampler or recipe.sampler,
            "nfe": drawn.nfe,
            "sampling_seconds": drawn.seconds,
        }
    out.mkdir(parents=True, exist_ok=True)
    if source.suffix != ".npz":
        with atomic(out / "samples.npz") as temporary:
            np.savez_compressed(temporary, samples=samples.numpy())
    began = time.perf_counter()
    report = {**about, **evaluation.evaluate(samples, images)}
    report["evaluation_seconds"] = time.perf_counter() - began
    runs.write_json(out / "evaluation.json", report)
    _, neighbours = evaluation.nearest(samples[:30], images.train)
    plots.evaluation_page(samples[:30], images.train[neighbours], report, out / "evaluation.png")
    print(f"n = {report['n']}{'' if report['comparable'] else ', too few to be comparable'}")
    print(f"{'':<18}{'generated':>11}{'real':>11}{'ratio':>9}")
    for name, row in report["metrics"].items():
        ratio = f"{row['ratio']:9.2f}" if "ratio" in row else ""
        print(f"{name:<18}{row['generated']:11.4g}{row['real']:11.4g}{ratio}")
    print(f"{out}: evaluation.json, evaluation.png")


def pairs(content: dict[str, Any]) -> str:
    """``name=value`` for each item, floats shortened."""
    return ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in content.items())


def info(settings: Info) -> None:
    """``ncsn info``."""
    from ncsn import runs

    folder = runs.find(settings.run)
    config, recipe, score = runs.read_config(folder), runs.read_recipe(folder), runs.load(folder)
    parameters = sum(p.numel() for p in score.parameters())
    rows = {
        "run": settings.run,
        "experiment": config["experiment"],
        "network": f"{recipe.network}({pairs(recipe.arguments)}), {parameters:,} parameters",
        "data": f"shape {recipe.shape}, mean {score.data_mean.mean():.4g}, std {score.data_std:.4g}",
        "noise": f"σ from {recipe.sigma_max:g} to {recipe.sigma_min:g}",
        "sampler": f"{recipe.sampler} on {len(recipe.ladder())} noise levels",
        "settings": pairs(config["settings"]),
        "results": pairs({k: v for k, v in runs.read_results(folder).items() if not isinstance(v, list | dict)}),
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")


def main(args: list[str] | None = None) -> None:
    """The command ``ncsn``."""
    commands: Any = (
        Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Info, tyro.conf.subcommand("info")]
    )

    def command(settings: Sample | Evaluate | Info) -> None:
        if isinstance(settings, Sample):
            sample(settings)
        elif isinstance(settings, Evaluate):
            evaluate(settings)
        else:
            info(settings)

    console.run(command, commands, args, "ncsn")
