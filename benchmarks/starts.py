"""Trainings on few images that start from the prior in the package and from random weights, in alternation.

python benchmarks/starts.py photos/ icons.npy --pictures 500 --minutes 1 3 --seeds 0 1 2

Training gets ``pictures`` images, a tenth of them held out, and up to 600 of the others are what samples are compared
with.  Prints the processor's seconds, the Fréchet and the kernel distance of samples (EfficientNet)
and those of other real images, and draws 40 samples of each training.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

import ncsn
from ncsn import evaluation, metrics, plots
from ncsn.batching import centres, quantize
from ncsn.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Starts:
    """Compare trainings from the prior with trainings from random weights."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders, archives or arrays of images."""
    pictures: int = 500
    """How many of the images training gets."""
    minutes: tuple[float, ...] = (1.0,)
    """The budgets."""
    seeds: tuple[int, ...] = (0,)
    """Of trainings and samples."""
    flip: bool = False
    """Mirror training images at random."""
    out: Path = Path("prior")
    """The folder for pictures of samples."""


def divide(images: Tensor, pictures: int) -> tuple[Dataset, Tensor]:
    """A dataset of that many images, and the others."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out = pictures // 10
    test, validation, train, others = images[order].split_with_sizes(
        [held_out, held_out, pictures - 2 * held_out, len(images) - pictures]
    )
    return Dataset(train, validation, test), others[:600]


def compare(options: Starts) -> None:
    """Print a line for each training."""
    options.out.mkdir(exist_ok=True)
    features = evaluation.choose(ncsn.load_dataset("mnist"), "efficientnet")
    print("data          minutes seed start  CPU s  Fréchet (real)  kernel (real)")
    for path in options.data:
        found = ncsn.load_dataset(path)
        dataset, others = divide(torch.cat([found.train, found.validation, found.test]), options.pictures)
        n = len(others) // 2
        real, floor = (features(part).features for part in torch.split(others, n)[:2])
        for minutes in options.minutes:
            for seed in options.seeds:
                for start in ("none", "prior"):
                    begun = time.process_time()
                    run = ncsn.fit(dataset, minutes=minutes, seed=seed, start=start, flip=options.flip, quiet=True)
                    seconds = time.process_time() - begun
                    samples = quantize(run.sample(n, seed=seed))
                    drawn = features(samples).features
                    distances = [
                        (f(drawn, real), f(floor, real)) for f in (metrics.frechet_distance, metrics.kernel_distance)
                    ]
                    shown = "  ".join(f"{ours:8.2f} ({theirs:5.2f})" for ours, theirs in distances)
                    name = Path(path).stem
                    print(f"{name:14}{minutes:7g} {seed:4} {start:5} {seconds:6.0f} {shown}", flush=True)
                    plots.image_grid(centres(samples[:40]), options.out / f"{name}-{minutes:g}-{seed}-{start}.png")


if __name__ == "__main__":
    compare(tyro.cli(Starts))
