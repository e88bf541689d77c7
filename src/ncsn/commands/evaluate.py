"""``ncsn evaluate``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ncsn.commands.draw import draw
from ncsn.settings import SamplerName


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
    label: Annotated[int | Literal["any"] | None, tyro.conf.arg(name="class")] = None
    """Only samples of this class, or of classes drawn at random, from a run that was trained with --classes."""
    guidance: float | None = None
    """How far to move away from the run's guide, or with --class from the score of no class; 1 for the plain score.
    By default the run's own; 1 with --class, and for annealed and langevin where they are not the run's own."""
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

    def __call__(self) -> None:
        """Draw if need be, judge, and write."""
        import numpy as np

        from ncsn import data, evaluation, plots, runs
        from ncsn.files import atomic
        from ncsn.pixels import quantize

        source, images = self.source, data.mnist()
        about: dict[str, Any]
        if source.suffix == ".npz":
            samples, about = evaluation.read_samples(source)[: self.n], {"source": str(source)}
            out = self.out or source.parent
        else:
            folder = runs.find(source)
            recipe, out = runs.read_recipe(folder), self.out or (source if folder == source else Path())
            if recipe.shape != images.shape:
                raise ValueError(
                    f"{source} makes examples of shape {recipe.shape}; only MNIST's {images.shape} can be judged"
                )
            drawn = draw(self, folder)
            samples = quantize(drawn.samples)
            about = {
                "source": str(source),
                "seed": self.seed,
                "sampler": self.sampler or recipe.sampler,
                "class": self.label,
                "guidance": drawn.guidance,
                "nfe": drawn.nfe,
                "guide_nfe": drawn.guide_nfe,
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
