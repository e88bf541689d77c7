"""How time and memory grow with batch, width, size and data, in training and in sampling.

python benchmarks/scaling.py                              # all of it: ten minutes on a quiet core
python benchmarks/scaling.py --only training --points 3   # the three smallest points of every series of training

It prints the tables of benchmarks/RECORDS.md ("Scaling").  One thread measures, in the processor's time, so that other
programs matter little; every point has a process of its own, for its peak memory.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import tyro
from scipy.stats import linregress
from torch import Tensor
from tqdm import tqdm

import ncsn
from ncsn.distributions import Empirical
from ncsn.machine import hardware
from ncsn.noise import LogNormal

NARROW = (32, 64)  # half of the default width, so that large batches take seconds
NOISE = LogNormal(-1.6, 1.2, 33.0, 0.01)  # what the rules choose for CIFAR-10
ABOVE = 1.5  # and there, where posterior targets begin
DATA_SETS = (1000, 4000, 16_000, 64_000)

Part = Literal["training", "sampling"]
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Measure how time and memory grow, and print tables."""

    only: tuple[Part, ...] = get_args(Part)
    """Which parts to measure."""
    seconds: float = 1.5
    """How long each point is measured, at least; three repetitions of less than five times that."""
    points: int = 9
    """At most so many points of each series, the smallest."""


class Series(NamedTuple):
    """Points that differ in one number.  ``needed``: the exponent of its time that the arithmetic has."""

    what: str
    by: str
    sizes: tuple[int, ...]
    call: Callable[[int], Call]
    needed: str


def new_model(channels: tuple[int, int]) -> ncsn.ScoreModel:
    """A new network for colour images, in the processor's fastest precision."""
    torch.manual_seed(0)
    autocast = hardware.choose_autocast("auto", torch.device("cpu"))
    return ncsn.ScoreModel(ncsn.UNet(3, channels, features=channels[0]), 0.5, 0.25, autocast=autocast)


def random_images(n: int, side: int = 32) -> Tensor:
    """Random colour images, bytes."""
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def train(
    batch: int = 64,
    *,
    channels: tuple[int, int] = NARROW,
    side: int = 32,
    examples: int = 2000,
    posterior_targets: bool = False,
) -> Call:
    """A step of training by the default optimisers."""
    images, generator = random_images(examples, side), torch.Generator().manual_seed(0)
    objective = ncsn.dsm
    if posterior_targets:
        data_score = Empirical(images / 256, dtype=torch.bfloat16)
        objective = partial(ncsn.posterior_dsm, data_score=data_score, above=ABOVE)
    state = ncsn.State(new_model(channels), generator=generator)
    loss = ncsn.training_loss(NOISE, objective, generator=generator)
    batches = ncsn.batches(images, batch, generator=generator)
    return partial(next, ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=10**6)))


def sample(
    n: int = 50, *, batch: int = 50, channels: tuple[int, int] = NARROW, side: int = 32, levels: int = 4
) -> Call:
    """Samples by the default sampler."""
    model = new_model(channels).requires_grad_(False).eval()
    run = ncsn.Run.of(model, (3, side, side), sigma_max=33.0, sigma_min=0.01)
    return partial(run.sample, n, batch_size=batch, levels=levels)


SERIES: dict[Part, tuple[Series, ...]] = {
    "training": (
        Series("training step", "batch", (8, 16, 32, 64, 128, 256), train, "1"),
        Series("training step", "width", (16, 32, 64, 128), lambda w: train(32, channels=(w, 2 * w)), "2"),
        Series("training step", "image side", (16, 32, 64, 128), lambda s: train(16, side=s), "2"),
        Series("training step", "data set", DATA_SETS, lambda n: train(examples=n), "0"),
        Series(
            "with posterior targets", "data set", DATA_SETS, lambda n: train(examples=n, posterior_targets=True), "0–1"
        ),
    ),
    "sampling": (
        Series("sampling", "batch", (10, 20, 50, 100, 200), lambda n: sample(n, batch=n), "1"),
        Series("sampling", "width", (16, 32, 64, 128), lambda w: sample(channels=(w, 2 * w)), "2"),
        Series("sampling", "image side", (16, 32, 64, 128), lambda s: sample(10, side=s), "2"),
        Series("sampling", "evaluations (NFE)", (5, 10, 20, 40), lambda e: sample(20, levels=e - 1), "1"),
        Series(
            "sampling",
            "samples",
            (500, 1000, 2000, 4000),
            lambda n: sample(n, channels=(16, 32), side=16, levels=2),
            "1",
        ),
    ),
}


def peak_memory() -> int:
    """The most bytes that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(part: Part, number: int, size: int, seconds: float) -> tuple[float, int]:
    """The median seconds of a call at a point of a series, and how much its process' memory has grown.

    The first call settles and doesn't count, unless it takes too long for another.
    """
    before, times = peak_memory(), list[float]()
    call = SERIES[part][number].call(size)
    while len(times) < 4 or sum(times[1:]) < seconds:
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
        if sum(times) > 5 * seconds:
            break
    return statistics.median(times[1:] or times), peak_memory() - before


def exponent(x: tuple[int, ...], y: list[float]) -> str:
    """That of y ∝ xᵏ with its standard error, and in a column of its own that of the last two points."""
    logs = np.log(x), np.log(y)
    line, last = linregress(*logs), np.diff(logs[1])[-1] / np.diff(logs[0])[-1]
    return f"{line.slope:.2f} ± {line.stderr:.2f} | {last:.2f}"


def row(series: Series, times: list[float], memory: list[int]) -> str:
    """A line of Markdown: by which exponents time and memory grow, by least squares of logarithms."""
    sizes = series.sizes[: len(times)]
    cells = [
        series.what,
        series.by,
        f"{sizes[0]:,} to {sizes[-1]:,}",
        f"{1e3 * times[0]:,.1f} to {1e3 * times[-1]:,.1f}",
    ]
    cells += [exponent(sizes, times), series.needed]
    megabytes = [size / 1e6 for size in memory]
    cells += [f"{megabytes[0]:,.0f} to {megabytes[-1]:,.0f}", exponent(sizes, megabytes)]
    return f"| {' | '.join(cells)} |"


def main(scaling: Scaling) -> None:
    """Measure, and print."""
    hardware.keep_memory()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    print("| what | by | from, to | ms | exponent | of the last two | arithmetic | MB | exponent | of the last two |")
    print("|" + "---|" * 10)
    for part in scaling.only:
        for number, series in enumerate(SERIES[part]):
            found = []
            for size in tqdm(series.sizes[: scaling.points], desc=f"{series.what} by {series.by}", leave=False):
                with ProcessPoolExecutor(1, get_context("fork")) as process:
                    found.append(process.submit(measure, part, number, size, scaling.seconds).result())
            print(row(series, *map(list, zip(*found, strict=True))), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Scaling))
