"""The command ``ncsn``: sample, evaluate and describe runs.

Torch is imported inside the commands, so that ``--help`` answers at once.
"""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ncsn import console

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run: a picture, or uint8 images (or points) in an .npz file under the key samples."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples."""
    seed: int = 0
    """The same seed gives the same samples on one machine."""
    sampler: Literal["annealed", "langevin"] = "annealed"
    """Annealed Langevin dynamics down the run's noise levels, or as many steps on the smallest level alone."""
    step_size: float | None = None
    """Langevin's step size; by default that of annealing's last level."""
    batch_size: int = 250
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid, .npz for an array."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.n < 1 or self.batch_size < 1:
            raise ValueError(f"n is {self.n} and batch size is {self.batch_size}; each must be at least 1")
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed are .png and .npz")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a run is: its experiment, network, noise levels, sampler and numbers."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how good a run's samples of MNIST are, beside real images; or anybody's samples in an .npz file."""

    source: tyro.conf.Positional[Path]
    """A run's folder, or an .npz file with uint8 images (n, 1, 28, 28) under the key samples."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    """How many samples; numbers from fewer than 10,000 are not comparable to others'."""
    seed: int = 0
    """For drawing the samples of a run."""
    batch_size: int = 250
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path | None = None
    """A folder for evaluation.json, evaluation.png and the samples; by default where the source is."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 100 <= self.n <= 10_000 or self.batch_size < 1:
            raise ValueError(
                f"n is {self.n}, batch size is {self.batch_size}; allowed are 100 to 10000, and at least 1"
            )


def draw(
    folder: Path, n: int, seed: int, batch_size: int, sampler: str = "annealed", step_size: float | None = None
) -> "Tensor":
    """``n`` samples of a run, in the units of its data."""
    import torch

    from ncsn import machine, runs
    from ncsn.score import batched

    machine.keep_memory()
    score, recipe = batched(runs.load(folder), batch_size), runs.read_recipe(folder)
    generator = torch.Generator().manual_seed(seed)
    start = recipe.start(n, generator=generator)
    if sampler == "annealed":
        path = recipe.annealed(score, start, generator=generator)
    else:
        path = recipe.langevin(score, start, step_size=step_size, generator=generator)
    (x,) = deque(console.bar(path, recipe.states(sampler), f"{n} samples"), maxlen=1)
    return x


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

    began = time.perf_counter()
    recipe = runs.read_recipe(settings.run)
    x = draw(settings.run, settings.n, settings.seed, settings.batch_size, settings.sampler, settings.step_size)
    images = len(recipe.shape) == 3
    if settings.out.suffix == ".npz":
        with atomic(settings.out) as temporary:
            np.savez_compressed(temporary, samples=(quantize(x) if images else x).numpy())
    elif images:
        plots.image_grid(x, settings.out, columns=min(settings.n, max(8, round(settings.n**0.5))))
    else:
        plots.scatter_panels([[(f"{settings.n} samples, {settings.sampler}", x)]], settings.out)
    print(f"{settings.out}: {settings.n} samples, {recipe.nfe} evaluations each, {time.perf_counter() - began:.1f} s")


def evaluate(settings: Evaluate) -> None:
    """``ncsn evaluate``."""
    import numpy as np

    from ncsn import data, evaluation, plots, runs
    from ncsn.files import atomic
    from ncsn.pixels import quantize

    source, images, began = settings.source, data.mnist(), time.perf_counter()
    about: dict[str, Any]
    if source.suffix == ".npz":
        samples, about = evaluation.read_samples(source)[: settings.n], {"source": str(source)}
        out = settings.out or source.parent
    else:
        recipe, out = runs.read_recipe(source), settings.out or source
        if recipe.shape != images.shape:
            raise ValueError(
                f"{source} makes examples of shape {recipe.shape}; only MNIST's {images.shape} can be judged"
            )
        samples = quantize(draw(source, settings.n, settings.seed, settings.batch_size))
        seconds = time.perf_counter() - began
        about = {"source": str(source), "seed": settings.seed, "nfe": recipe.nfe, "sampling_seconds": seconds}
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

    config, recipe, score = (
        runs.read_config(settings.run),
        runs.read_recipe(settings.run),
        runs.load(settings.run),
    )
    parameters = sum(p.numel() for p in score.parameters())
    rows = {
        "run": settings.run,
        "experiment": config["experiment"],
        "network": f"{recipe.network}({pairs(recipe.arguments)}), {parameters:,} parameters",
        "data": f"shape {recipe.shape}, mean {score.data_mean.mean():.4g}, std {score.data_std:.4g}",
        "noise": f"{recipe.noise.levels} levels, σ from {recipe.noise.sigma_max:g} to {recipe.noise.sigma_min:g}",
        "sampler": f"{recipe.steps} steps a level, eps {recipe.eps:g}, {recipe.nfe} evaluations",
        "settings": pairs(config["settings"]),
        "results": pairs({k: v for k, v in runs.read_results(settings.run).items() if not isinstance(v, list | dict)}),
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
