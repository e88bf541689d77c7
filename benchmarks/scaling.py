"""How time and memory grow: training, sampling, targets and evaluation; what processes cost; what GPUs should do.

python benchmarks/scaling.py                              # all of it: ten minutes; needs two processors and root
python benchmarks/scaling.py --only training sampling     # some of it; the rest stays as it was measured
python benchmarks/scaling.py --only                       # only draw the tables and the plot again
python benchmarks/scaling.py --only overhead --run RUN    # where the seconds of a finished training went

Measurements are kept in benchmarks/scaling.json; the tables and the plot in docs/scaling.md are made from that file.
Training, sampling and data are measured by one thread, in the processor's time, so that other programs matter little;
every point in a process of its own, for its peak memory.
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
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro
from scaling_page import plot, written
from step import ABOVE, Step, model_of, peak_memory, progress_of, seconds_of
from tqdm import tqdm

from ncsn import machine
from ncsn.data import Images
from ncsn.distributions import Empirical
from ncsn.evaluation import of_classifier
from ncsn.evaluation.report import Ruler
from ncsn.learn.rules import Facts
from ncsn.networks.classifier import Classifier
from ncsn.pixels import reals
from ncsn.progress import refresh_interval
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.sampling import Sampling

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
NARROW = (32, 64)  # half of the default width, so that large batches take seconds
CPU = torch.device("cpu")
ASKED = 6  # of 128 images have so much noise that posterior targets are made for them
MESSAGES = (1_000, 100_000, 1_000_000, 3_000_000)  # numbers that two machines add up
PAIRS = 3  # times that one process of two threads and two of one are compared

Part = Literal["training", "sampling", "data", "processes", "overhead"]
PARTS: tuple[Part, ...] = ("training", "sampling", "data", "processes")
Work = Callable[[float], list[float]]
"""Seconds to measure for → how long each repetition took."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Measure how time and memory grow, and write docs/scaling.md's tables and plot."""

    only: tuple[Part, ...] = PARTS
    """Which parts to measure; the others stay as they are."""
    run: Path | None = None
    """A finished training by this version, for overhead."""
    seconds: float = 1.5
    """How long each point is measured, at least; three repetitions of less than five times that."""
    points: int = 9
    """At most so many points of each series, the smallest."""
    out: Path = HERE / "scaling.json"
    """The measurements."""
    page: Path = ROOT / "docs" / "scaling.md"
    """The page with the tables; the plot goes to images/scaling.png beside it."""


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
    sampling = Sampling(sigma_max=33.0, sigma_min=0.01, sampler="dpmpp-sde", levels=levels, steps=1, eps=5e-5)
    recipe = Recipe(network="UNet", arguments={"channels": channels}, shape=(3, side, side), sampling=sampling)
    run = Run(score=model_of(step, CPU).requires_grad_(False).eval(), recipe=recipe)

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
    data = Empirical(reals(pixels(n)), dtype=torch.bfloat16)
    x = torch.randn(ASKED, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return repeated(lambda: data(x, 2 * ABOVE))


def ruled(n: int) -> Work:
    """What the rules measure of n images before a training."""
    images = pixels(n)
    return repeated(lambda: Facts.of(images, 0.25))


def judged(n: int, m: int) -> Work:
    """Evaluation of n samples beside m training images, with both floors."""
    images = Images(pixels(m), pixels(n, 1), pixels(n, 2))
    features = of_classifier(Classifier(3, (32, 32)), "random", ("a", "b"))
    samples = pixels(n, 3)
    return repeated(lambda: Ruler(images, features, n).judge(samples))


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
    ),
    "sampling": (
        Series("sampling", "batch", (10, 20, 50, 100, 200), lambda n: drawn(n, batch=n), "1"),
        Series("sampling", "width", (16, 32, 64, 128), lambda w: drawn(channels=(w, 2 * w)), "2"),
        Series("sampling", "image side", (16, 32, 64, 128), lambda s: drawn(10, side=s), "2"),
        Series("sampling", "evaluations (NFE)", (5, 10, 20, 40), lambda e: drawn(20, levels=e - 1), "1"),
        Series("sampling", "samples", (500, 1000, 2000, 4000), many, "1"),
    ),
    "data": (
        Series("posterior targets alone", "data set", (1000, 4000, 16_000, 64_000), targets, "1"),
        Series("what the rules measure", "data set", (1000, 4000, 16_000, 64_000), ruled, "0, from 6,510 on"),
        Series("evaluation of 500", "training images", (2000, 4000, 8000, 16_000), partial(judged, 500), "0 to 1"),
        Series("evaluation beside 4,000", "samples", (250, 500, 1000, 2000), lambda n: judged(n, 4000), "1 to 2"),
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


def spent(scaling: Scaling) -> dict[str, Any]:
    """Where the seconds of a finished run went, and what it takes Python to come to its beginning."""
    assert scaling.run is not None
    found = json.loads((scaling.run / "metrics.json").read_text())
    imports = repeated(
        lambda: subprocess.run([sys.executable, "-c", "import ncsn.learn.study, ncsn.plots"], check=True),
        time.perf_counter,
    )
    settings = json.loads((scaling.run / "config.json").read_text())["settings"]
    return {
        "imports": statistics.median(imports(scaling.seconds)),
        "seconds_of": found["seconds_of"],
        "minutes": settings["minutes"],
        "dataset": Path(settings["dataset"]).name,
    }


MEASURE: dict[str, Callable[[Scaling], dict[str, Any]]] = {
    **{part: partial(measured, part) for part in SERIES},
    "processes": compared,
    "overhead": spent,
}


def about() -> dict[str, Any]:
    """The machine, and what computes on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": names[0] if names else platform.processor(),
        "processors": allowed,
        "torch": torch.__version__,
        "system": platform.system(),
    }


def check(scaling: Scaling) -> None:
    """Raises ValueError, before minutes are spent, if something cannot be measured here."""
    if "wire" in scaling.only:
        from wire import missing

        if why := missing():
            raise ValueError(f"{why}; leave out wire")
    if "overhead" in scaling.only:
        told = None if scaling.run is None else scaling.run / "metrics.json"
        if told is None or not told.is_file() or "seconds_of" not in json.loads(told.read_text()):
            raise ValueError(f"run is {scaling.run}; for overhead a training is needed that this version has finished")


def main(scaling: Scaling) -> None:
    """Measure, record, and draw."""
    check(scaling)
    machine.keep_memory()
    torch.set_flush_denormal(True)
    results: dict[str, Any] = json.loads(scaling.out.read_text()) if scaling.out.exists() else {}
    for part in scaling.only:
        began = time.perf_counter()
        found = MEASURE[part](scaling)
        results[part] = found | {"took": time.perf_counter() - began, "about": about()}
        scaling.out.write_text(json.dumps(results, indent=1) + "\n")
    text = scaling.page.read_text(encoding="utf-8")
    scaling.page.write_text(written(text, results), encoding="utf-8")
    images = scaling.page.parent / "images"
    images.mkdir(exist_ok=True)
    plot(results, images / "scaling.png")


if __name__ == "__main__":
    sys.path.append(str(ROOT / "tests"))  # for the wire
    try:
        main(tyro.cli(Scaling))
    except ValueError as error:
        sys.exit(f"error: {error}")
