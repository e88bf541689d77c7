"""From NCSN to today's training, one idea at a time: the same network and minutes, and one change in each row.

python examples/ladder.py                                 # an hour of training, then up to one of drawing
python examples/ladder.py --minutes 2 --channels 32 64    # a cheaper ladder, of a narrower network
python examples/ladder.py --rows 1 8                      # only the first row and the last

Every row is `python ./training_MNIST.py` with the row's options, but two rows differ from others only in how they
sample, and use their weights.  First all rows are trained, and then all are drawn and judged.  Runs, samples, the table
and the picture are in runs/ladder.  Rows that are already trained or drawn there aren't trained or drawn again.
"""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from annotated_types import Interval

import ncsn
from ncsn import evaluation, metrics
from ncsn.batching import quantize
from ncsn.cli import console
from ncsn.data.dataset import Dataset
from ncsn.machine.storage import write_json

ROOT = Path(__file__).parent.parent
SHOWN = 8  # samples of each row in the picture


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A row of the ladder.

    ``idea``: what is new in it.
    ``options``: of ``training_MNIST.py``, in addition to --minutes, --seed and --channels.
    ``sampling``: options of ``Run.sample``; by default the run's own sampler.
    ``weights``: the number of the row whose weights it samples with, if it trains none itself.
    """

    idea: str
    options: str
    sampling: dict[str, Any]
    weights: int | None = None


UNGUIDED = "--no-classes --guidance 1"
ADAM = "--optimizer adam --adam-rate 0.001 --schedule constant"
WITHOUT_POSTERIOR_TARGETS = "--posterior-above 10"

LADDER = {
    1: Rung(idea="NCSN (2019)", options="--method ncsn", sampling={}),
    2: Rung(idea="noise levels of NCSNv2 (2020)", options="--method ncsnv2 --adam-rate 0.001", sampling={}),
    3: Rung(
        idea="preconditioning and noise of EDM (2022)",
        options=f"{WITHOUT_POSTERIOR_TARGETS} {ADAM} {UNGUIDED} --sampler ncsnv2",
        sampling={},
    ),
    4: Rung(
        idea="a second-order sampler (2022)",
        options=f"{WITHOUT_POSTERIOR_TARGETS} {ADAM} {UNGUIDED}",
        sampling={"sampler": "dpmpp-sde"},
        weights=3,
    ),
    5: Rung(idea="posterior targets (2023)", options=f"{ADAM} {UNGUIDED}", sampling={}),
    6: Rung(idea="Muon, and rates that decay (2024)", options=UNGUIDED, sampling={}),
    7: Rung(idea="labels", options="--guidance 1", sampling={"guidance": 1.0}, weights=8),
    8: Rung(idea="guidance (2022)", options="", sampling={}),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a row achieves.

    ``images``: how many the network saw in training.  ``nfe``: evaluations of the network per sample.
    ``distance``: the Fréchet distance of ``n`` samples to the test images.  ``floor``: that of ``n`` held-out images.
    """

    images: int
    nfe: int
    n: int
    distance: float
    floor: float


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Train MNIST from the method of 2019 to today's, one idea at a time, and compare what they draw."""

    minutes: Annotated[float, Interval(gt=0)] = 10.0
    """Minutes of each training, with its eight samples."""
    seed: int = 0
    """Seed of training and of samples."""
    channels: tuple[int, ...] = (64, 128)
    """The network's widths, the same in all rows."""
    rows: tuple[int, ...] = tuple(LADDER)
    """Rows to train and draw."""
    n: Annotated[int, Interval(ge=100, le=10_000)] = 10_000
    """Samples to judge."""
    n_langevin: Annotated[int, Interval(ge=100, le=10_000)] = 500
    """Samples to judge of rows by annealed Langevin dynamics, which evaluates the network hundreds of times for each."""
    out: Path = Path("runs/ladder")
    """Folder for runs, the table and the picture; trainings of other minutes, channels or seed have another folder in it."""

    def __post_init__(self) -> None:
        unknown = [number for number in self.rows if number not in LADDER]
        if unknown or not self.rows:
            raise ValueError(f"rows is {self.rows}; expected some of {', '.join(map(str, LADDER))}")

    @property
    def folder(self) -> Path:
        """Where this ladder is."""
        return self.out / f"minutes-{self.minutes:g}-channels-{'-'.join(map(str, self.channels))}-seed-{self.seed}"

    def run_of(self, number: int) -> Path:
        """The folder of the run that a row samples with."""
        return self.folder / f"row-{LADDER[number].weights or number}"

    def samples_of(self, number: int) -> Path:
        """The file of a row's samples; beside it is what they cost."""
        return self.folder / f"samples-{number}.npy"


def train(ladder: Ladder) -> None:
    """Train all rows that aren't trained yet, one after the other."""
    for number in sorted({LADDER[row].weights or row for row in ladder.rows}):
        out = ladder.run_of(number)
        if (out / "metrics.json").exists():
            continue
        script = [sys.executable, str(ROOT / "training_MNIST.py"), *shlex.split(LADDER[number].options)]
        same = ["--minutes", str(ladder.minutes), "--seed", str(ladder.seed), "--samples", str(SHOWN)]
        same += ["--channels", *map(str, ladder.channels)]
        subprocess.run([*script, *same, "--out", str(out), "--overwrite"], check=True)


def draw(ladder: Ladder, number: int) -> None:
    """Draw the samples of a row, unless that is done, and write them and their cost."""
    sampling = LADDER[number].sampling
    run = ncsn.load(ladder.run_of(number))
    is_langevin = run.recipe.sampling.but(**sampling).spec.langevin
    n = ladder.n_langevin if is_langevin else ladder.n
    facts = ladder.samples_of(number).with_suffix(".json")
    if facts.exists():
        done = json.loads(facts.read_text())
        if (done["n"], done["run"]) == (n, run.digest):
            return
    drawn = console.draw(run, n, seed=ladder.seed, **sampling)
    np.save(ladder.samples_of(number), quantize(drawn.samples).numpy())
    write_json(facts, {"n": n, "run": run.digest, "nfe": drawn.steps.nfe})


def judge(ladder: Ladder, number: int, data: Dataset) -> Result:
    """The result of a row that is drawn."""
    samples = torch.from_numpy(np.load(ladder.samples_of(number)))
    classifier = evaluation.digits()
    test = classifier(data.test).features
    held_out = classifier(data.validation[: len(samples)]).features
    trained = json.loads((ladder.run_of(number) / "metrics.json").read_text())
    drawn = json.loads(ladder.samples_of(number).with_suffix(".json").read_text())
    return Result(
        images=trained["images_seen"],
        nfe=drawn["nfe"],
        n=len(samples),
        distance=metrics.frechet_distance(classifier(samples).features, test),
        floor=metrics.frechet_distance(held_out, test),
    )


def table(results: dict[int, Result]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| | what is new | images seen | evaluations | samples | distance | floor | times the floor |",
        "|--:|---|" + "--:|" * 6,
    ]
    for number, r in results.items():
        scores = f"{r.n:,} | {r.distance:.3g} | {r.floor:.3g} | {r.distance / r.floor:.2g}"
        lines.append(f"| {number} | {LADDER[number].idea} | {r.images:,} | {r.nfe:,} | {scores} |")
    return "\n".join(lines)


def picture(ladder: Ladder, path: Path) -> None:
    """Draw the first samples of each row beside what is new in it."""
    figure, axes = plt.subplots(len(ladder.rows), 1, figsize=(8, 0.8 * len(ladder.rows)), squeeze=False)
    for axis, number in zip(axes[:, 0], ladder.rows, strict=True):
        samples = np.load(ladder.samples_of(number), mmap_mode="r")
        axis.imshow(np.hstack(samples[:SHOWN, 0]), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(f"{number}  {LADDER[number].idea}", rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, bbox_inches="tight", dpi=150)
    plt.close(figure)


def main(ladder: Ladder) -> None:
    """Train all rows, then draw and judge them."""
    train(ladder)
    for number in ladder.rows:
        draw(ladder, number)
    data = ncsn.load_dataset("mnist")
    results = {number: judge(ladder, number, data) for number in ladder.rows}
    (ladder.folder / "ladder.md").write_text(table(results) + "\n", encoding="utf-8")
    picture(ladder, ladder.folder / "ladder.png")
    print(table(results))
    print(f"{ladder.folder}: ladder.md, and ladder.png with the first {SHOWN} samples of each row")


if __name__ == "__main__":
    console.run(main, Ladder)
