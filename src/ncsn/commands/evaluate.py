"""``ncsn evaluate``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ncsn import console
from ncsn.commands.options import HowToSample, check_counts
from ncsn.experiments.settings import DeviceName

if TYPE_CHECKING:
    from ncsn.run import Run


@dataclass(frozen=True, kw_only=True)
class Evaluate(HowToSample):
    """Measure how good a run's samples of MNIST are, beside real images; or anybody's samples in an .npz file."""

    source: tyro.conf.Positional[Path]
    """A run's folder, or mnist, or an .npz file with uint8 images (n, 1, 28, 28) under the key samples."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    """How many samples; numbers from fewer than 10,000 are not comparable to others'."""
    seed: int = 0
    """For drawing the samples of a run."""
    device: DeviceName = "auto"
    """auto: CUDA where there is one, else the CPU."""
    out: Path | None = None
    """A folder for evaluation.json, evaluation.png and the samples; by default where the source is."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_counts(self, "batch_size", "levels", "steps")
        if not 100 <= self.n <= 10_000:
            raise ValueError(f"n is {self.n}; allowed are 100 to 10000")

    def __call__(self) -> None:
        """Draw if need be, judge, and write."""
        import ncsn
        from ncsn import data, evaluation, plots, storage

        images = data.mnist()
        run = None if self.source.suffix == ".npz" else ncsn.load(self.source, device=self.device)
        if run is not None and run.recipe.shape != images.shape:
            raise ValueError(
                f"{self.source} makes examples of shape {run.recipe.shape}; only MNIST's {images.shape} can be judged"
            )
        out = self.out or self.place(run)
        out.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"source": str(self.source)}
        if run is None:
            samples = evaluation.read_samples(self.source)[: self.n]
        else:
            drawn = console.draw(run, self.n, seed=self.seed, **self.how())
            samples = evaluation.write_samples(out / "samples.npz", drawn.samples)
            about |= {
                "seed": self.seed,
                "sampler": drawn.sampling.sampler,
                "class": self.label,
                "guidance": drawn.sampling.guidance,
                "nfe": drawn.nfe,
                "guide_nfe": drawn.guide_nfe,
                "sampling_seconds": drawn.seconds,
            }
        began = time.perf_counter()
        found = evaluation.evaluate(samples, images)
        about["evaluation_seconds"] = time.perf_counter() - began
        storage.write_json(out / "evaluation.json", about | found.report())
        _, neighbours = evaluation.nearest(samples[:30], images.train)
        plots.evaluation_page(samples[:30], images.train[neighbours], found, out / "evaluation.png")
        print(f"n = {found.n}{'' if found.comparable else ', too few to be comparable'}")
        print(f"{'':<18}{'generated':>11}{'real':>11}{'ratio':>9}")
        for name, metric in found.metrics.items():
            ratio = "" if metric.ratio is None else f"{metric.ratio:9.2f}"
            print(f"{name:<18}{metric.generated:11.4g}{metric.real:11.4g}{ratio}")
        print(f"{out}: evaluation.json, evaluation.png")

    def place(self, run: "Run | None") -> Path:
        """Where the source is; for the model in the package, here."""
        if run is None:
            return self.source.parent
        return self.source if run.folder == self.source else Path()
