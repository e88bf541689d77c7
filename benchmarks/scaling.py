"""How time and memory grow with batch, width, size and data: training, sampling, and what asks the data.

python benchmarks/scaling.py                              # all of it: ten minutes; needs two processors
python benchmarks/scaling.py --only training sampling     # some of it; the rest stays as it was measured

Measurements are kept in benchmarks/scaling.json; the tables of benchmarks/RECORDS.md ("Scaling") are printed.  Training
and sampling are measured by one thread, in the processor's time, so that other programs matter little; every point in a
process of its own, for its peak memory.
"""

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import tyro
from scipy.stats import linregress
from step import ABOVE, Step, model_of, peak_memory, progress_of, seconds_of
from tqdm import tqdm

import ncsn
from ncsn.distributions import Empirical
from ncsn.machine import hardware
from ncsn.machine.messages import refresh_interval

HERE = Path(__file__).parent
NARROW = (32, 64)  # half of the default width, so that large batches take seconds
CPU = torch.device("cpu")
ASKED = 6  # of 128 images have so much noise that posterior targets are made for them
PAIRS = 3  # times that one process of two threads and two of one are compared

Part = Literal["training", "sampling", "processes"]
Work = Callable[[float], list[float]]
"""Seconds to measure for → how long each repetition took."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Measure how time and memory grow, and print tables."""

    only: tuple[Part, ...] = get_args(Part)
    """Which parts to measure; the others stay as they are."""
    seconds: float = 1.5
    """How long each point is measured, at least; three repetitions of less than five times that."""
    points: int = 9
    """At most so many points of each series, the smallest."""
    out: Path = HERE / "scaling.json"
    """The measurements."""


class Series(NamedTuple):
    """Points that differ in one number.  ``needed``: the exponent of its time that the arithmetic has."""

    what: str
    by: str
    sizes: tuple[int, ...]
    work: Callable[[int], Work]
    needed: str


def trained(step: Step) -> Work:
    """Training steps."""

    def work(seconds: float) -> list[float]:
        asked = replace(step, seconds=seconds, device="cpu")
        return seconds_of(asked, progress_of(asked)[1], time.process_time)

    return work


def repeated(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> Work:
    """A call, three times and for as long as asked, or fewer times if it takes long; the first does not count."""

    def work(seconds: float) -> list[float]:
        times: list[float] = []
        while len(times) < 4 or sum(times[1:]) < seconds:
            at = clock()
            call()
            times.append(clock() - at)
            if sum(times) > 5 * seconds:
                break
        return times[1:] or times

    return work


def drawn(n: int = 50, *, batch: int = 50, channels: tuple[int, int] = NARROW, side: int = 32, levels: int = 4) -> Work:
    """Samples by the default sampler."""
    step = Step(channels=channels, side=side)
    sampling = ncsn.Sampling(sigma_max=33.0, sigma_min=0.01, sampler="dpmpp-sde", levels=levels, steps=1, eps=5e-5)
    recipe = ncsn.Recipe(network="UNet", arguments={"channels": channels}, shape=(3, side, side), sampling=sampling)
    run = ncsn.Run(score=model_of(step, CPU).requires_grad_(False).eval(), recipe=recipe)

    def call() -> None:
        for steps in run.blocks(n, batch_size=batch):
            for _ in steps:
                pass

    return repeated(call)


def many(n: int) -> Work:
    """Many samples of a small network."""
    return drawn(n, channels=(16, 32), side=16, levels=2)


def pixels(n: int, seed: int = 0) -> torch.Tensor:
    """Random images, bytes."""
    return torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def targets(n: int) -> Work:
    """Posterior targets of a batch's noisiest images, by a data set of n images."""
    data = Empirical(pixels(n) / 256, dtype=torch.bfloat16)
    x = torch.randn(ASKED, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return repeated(lambda: data(x, 2 * ABOVE))


def taken(n: int = 64, *, channels: tuple[int, int] = NARROW, **what: Any) -> Work:
    """Training steps with n images in a batch."""
    return trained(Step(batch_size=n, channels=channels, **what))


SERIES: dict[str, tuple[Series, ...]] = {
    "training": (
        Series("training step", "batch", (8, 16, 32, 64, 128, 256), taken, "1"),
        Series("training step", "width", (16, 32, 64, 128), lambda w: taken(32, channels=(w, 2 * w)), "2"),
        Series("training step", "image side", (16, 32, 64, 128), lambda s: taken(16, side=s), "2"),
        Series("training step", "data set", (1000, 4000, 16_000, 64_000), lambda n: taken(examples=n), "0"),
        Series(
            "with posterior targets",
            "data set",
            (1000, 4000, 16_000, 64_000),
            lambda n: taken(examples=n, posterior=True),
            "0 to 1",
        ),
        Series("posterior targets alone", "data set", (1000, 4000, 16_000, 64_000), targets, "1"),
    ),
    "sampling": (
        Series("sampling", "batch", (10, 20, 50, 100, 200), lambda n: drawn(n, batch=n), "1"),
        Series("sampling", "width", (16, 32, 64, 128), lambda w: drawn(channels=(w, 2 * w)), "2"),
        Series("sampling", "image side", (16, 32, 64, 128), lambda s: drawn(10, side=s), "2"),
        Series("sampling", "evaluations (NFE)", (5, 10, 20, 40), lambda e: drawn(20, levels=e - 1), "1"),
        Series("sampling", "samples", (500, 1000, 2000, 4000), many, "1"),
    ),
}


def apart(series: Series, size: int, seconds: float) -> dict[str, Any]:
    """A point, in a process of its own: how long it takes, and how much memory it needs beside the program itself."""
    here, there = multiprocessing.Pipe(duplex=False)

    def child(end: Connection) -> None:
        before = peak_memory(CPU)  # of a child that has just been forked: what it has
        times = series.work(size)(seconds)
        end.send({"seconds": times, "memory": peak_memory(CPU) - before})

    forked = multiprocessing.get_context("fork").Process(target=child, args=(there,))
    forked.start()
    there.close()
    try:
        found: dict[str, Any] = here.recv()
    except EOFError as error:
        raise RuntimeError(f"{series.what} by {series.by}, {size}: the process that measures it has failed") from error
    finally:
        forked.join()
    return {"what": series.what, "by": series.by, "needed": series.needed, "size": size} | found


REFERENCE = Series("reference", "batch", (32,), taken, "")


def measured(part: str, scaling: Scaling) -> dict[str, Any]:
    """All series of a part, and before each of them the same training step, which should take as long every time."""
    torch.set_num_threads(1)
    rows, references = [], []
    chosen = [(series, size) for series in SERIES[part] for size in series.sizes[: scaling.points]]
    for series, size in tqdm(chosen, desc=part, unit="point", mininterval=refresh_interval()):
        if size == series.sizes[0]:
            references.append(apart(REFERENCE, REFERENCE.sizes[0], scaling.seconds))
        rows.append(apart(series, size, scaling.seconds))
    return {"rows": rows, "reference": [statistics.median(row["seconds"]) for row in references]}


def stepped(processes: int, threads: int, *, compiled: bool, seconds: float) -> dict[str, Any]:
    """A training step of the default run by so many processes, by benchmarks/step.py."""
    run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    words = [str(HERE / "step.py"), "--seconds", str(seconds), *(["--compile"] if compiled else [])]
    found = subprocess.run(
        [sys.executable, *run, *words],
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(found.stdout.splitlines()[-1]))


def compared(scaling: Scaling) -> dict[str, Any]:
    """One process of two threads beside two of one, in turn; compiled as a default run is, and not."""
    ways = [(1, 2), (2, 1)]
    turns = [(compiled, way) for compiled in (True, False) for _ in range(PAIRS) for way in ways]
    bar = tqdm(turns, desc="processes", unit="run", mininterval=0)
    return {"rows": [stepped(*way, compiled=compiled, seconds=5 * scaling.seconds) for compiled, way in bar]}


def about() -> dict[str, Any]:
    """The machine, and what computes on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": os.cpu_count(),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def growth(rows: list[dict[str, Any]]) -> list[str]:
    """A line of Markdown for each series: by which exponents time and memory grow, by least squares of logarithms."""
    lines = []
    for name in dict.fromkeys(f"{row['what']} | {row['by']}" for row in rows):
        points = [row for row in rows if f"{row['what']} | {row['by']}" == name]
        sizes = [point["size"] for point in points]
        times, memory = [statistics.median(p["seconds"]) for p in points], [p["memory"] for p in points]
        cells = [f"{name} | {sizes[0]:,} to {sizes[-1]:,}", f"{1e3 * times[0]:,.1f} to {1e3 * times[-1]:,.1f}"]
        cells += [exponent(sizes, times), points[0]["needed"]]
        cells += [f"{memory[0] / 1e6:,.0f} to {memory[-1] / 1e6:,.0f}", exponent(sizes, memory)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def exponent(x: list[float], y: list[float]) -> str:
    """That of y ∝ xᵏ with its standard error, and in a column of its own that of the last two points."""
    logs = np.log(x), np.log(y)
    line, last = linregress(*logs), np.diff(logs[1])[-1] / np.diff(logs[0])[-1]
    return f"{line.slope:.2f} ± {line.stderr:.2f} | {last:.2f}"


def main(scaling: Scaling) -> None:
    """Measure, record, and print."""
    hardware.keep_memory()
    torch.set_flush_denormal(True)
    results: dict[str, Any] = json.loads(scaling.out.read_text()) if scaling.out.exists() else {}
    for part in scaling.only:
        began = time.perf_counter()
        found = compared(scaling) if part == "processes" else measured(part, scaling)
        results[part] = found | {"took": time.perf_counter() - began, "about": about()}
        scaling.out.write_text(json.dumps(results, indent=1) + "\n")
    print("| what | by | from, to | ms | exponent | of the last two | arithmetic | MB | exponent | of the last two |")
    print("|" + "---|" * 10)
    print(*[line for part in SERIES if part in results for line in growth(results[part]["rows"])], sep="\n")
    for row in results["processes"]["rows"] if "processes" in results else ():
        print(f"{row['processes']} processes, compiled {row['of']['compile']}: {row['images_per_second']:.0f} images/s")


if __name__ == "__main__":
    main(tyro.cli(Scaling))
