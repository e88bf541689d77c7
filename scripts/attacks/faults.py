"""Kills, Ctrl-C and full disks at random moments of every long command."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from attacks.processes import broken, complaint, digests, play

CHAIN = 6  # signals to one training, at most, before it is left to end
SMALL = "--channels 8 8 --blocks 1 --batch-size 8 --levels 4 --samples 4 --no-compile --device cpu"
TOY = "--generator gaussian --steps 20 --batch-size 64 --width 8 --layers 1 --levels 6 --langevin-steps 3 --samples 100"
JOBS = {
    "train": f"ncsn train HERE/images.npz {SMALL} --steps 20 --out out",
    "classes": f"ncsn train HERE/images {SMALL} --steps 20 --out out",
    "rows": "ncsn train HERE/rows.csv --steps 20 --device cpu --out out",
    "toy": f"training_toy.py {TOY} --out out",
    "npz": "ncsn sample HERE/run -n 2100 --levels 4 --device cpu --out out.npz",
    "gif": "ncsn sample HERE/run --device cpu --out out.gif",
    "evaluate": "ncsn evaluate HERE/run -n 120 --device cpu --out out",
    "likelihood": "ncsn likelihood HERE/run -n 8 --device cpu",
    "inpaint": "ncsn inpaint HERE/run -n 8 --levels 4 --device cpu --out out.png",
}
"""The long commands; HERE is the ground's folder.  Those that train go on with ``--resume``."""


class Whole(NamedTuple):
    """What a command takes and leaves when nobody interrupts it."""

    seconds: float
    size: int
    files: dict[str, str]


class Ground:
    """A folder with a small data set and small runs, and the seed that everything random follows from."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.whole: dict[str, Whole] = {}
        self.jobs = {name: line.replace("HERE", str(folder)) for name, line in JOBS.items()}
        chance = np.random.default_rng(0)
        parts = {"x_train": 200, "x_validation": 192, "x_test": 120}  # enough for guidance to be chosen
        arrays = {name: chance.integers(0, 250, (n, 8, 8)).astype(np.uint8) for name, n in parts.items()}
        np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
        for number, pixels in enumerate(arrays["x_test"][:60]):
            path = folder / "images" / ("dark", "bright")[number % 2] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        rows = "".join(f"{x},{'' if x % 9 == 0 else x % 5},{'abc'[x % 3]}\n" for x in chance.integers(0, 999, 300))
        (folder / "rows.csv").write_text(f"size,few,text\n{rows}")
        for name, run in {"train": "run", "rows": "table", "toy": "points"}.items():
            self.measure(name)
            shutil.copytree(folder / "cases" / f"{name}-0" / "out", folder / run)

    def made(self, line: str, place: Path) -> None:
        """Run a command that must succeed.  Raises RuntimeError if it does not."""
        if (ended := play(line.split(), place)).status:
            raise RuntimeError(f"{line} failed: {ended}")

    def measure(self, *names: str) -> None:
        """See what these jobs do when they are left alone."""
        for name in names:
            place, began = self.place(name, 0), time.monotonic()
            self.made(self.jobs[name], place)
            seconds, size = time.monotonic() - began, sum(path.lstat().st_size for path in place.rglob("*.*"))
            self.whole[name] = Whole(seconds, size, digests(place))

    def chance(self, name: str, case: int) -> random.Random:
        """The randomness of a case."""
        return random.Random(f"{self.seed} {name} {case}")

    def place(self, name: str, case: int) -> Path:
        """An empty folder for a case."""
        folder = self.folder / "cases" / f"{name}-{case}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def struck(ground: Ground, case: int) -> Iterator[str]:
    """Kill or interrupt a job at a random moment or just before it writes, a training again and again; let it end."""
    name, chance, place = list(JOBS)[case % len(JOBS)], ground.chance("kills", case), ground.place("kills", case)
    whole, words, resumes = ground.whole[name], ground.jobs[name].split(), name in ("train", "classes", "rows")
    for _ in range(CHAIN if resumes else 1):
        number, moment = chance.choice((9, 9, 9, 9, 2, 15)), chance.random() * whole.seconds
        if number == signal.SIGKILL and chance.random() < 0.5:
            ended = play(words, place, kill_at=1 + int(chance.expovariate(1 / 15)))
        else:
            again = [(moment + chance.random() / 2, number)] if number == signal.SIGINT and case % 2 else []
            ended = play(words, place, strikes=[(moment, number), *again])
        if (half := broken(place)) or (wrong := complaint(ended, 128 + number) if ended.status != -9 else None):
            yield f"{f'half a file: {half}' if half else wrong}\n{words}, signal {number}\n{ended}"
            return
        if ended.status == 0:
            break
        more = "--resume" if resumes else "--overwrite" if [*place.glob("out*")] else ""
        words = f"{ground.jobs[name]} {more}".split()
    ended = ended if ended.status == 0 else play(words, place)
    found = digests(place)
    if ended.status:
        yield f"a run that nobody accepts\n{words}\n{ended}"
    elif found != whole.files:
        names = sorted(set(found) ^ set(whole.files)) or [each for each in found if found[each] != whole.files[each]]
        yield f"other files than uninterrupted\n{words}\n{names}"


def full(ground: Ground, case: int) -> Iterator[str]:
    """A long command on a disk that is too small, as root; what fits after all is right, too."""
    name, place = list(JOBS)[case % len(JOBS)], ground.place("disk", case)
    size = max(4096, int(ground.chance("disk", case).random() * ground.whole[name].size))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "disk", place], check=True)
    try:
        ended, half = play(ground.jobs[name].split(), place), broken(place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
    wrong = complaint(ended, 2) or ("half a file under its name" if half else None)
    if not wrong and ended.status and not re.search(r"\bout\b", ended.error.splitlines()[-1]):
        wrong = "a line that does not name the file"
    if wrong:
        yield f"a full disk: {wrong}\n{ground.jobs[name]}\na disk of {size:,} bytes, {half}\n{ended}"
