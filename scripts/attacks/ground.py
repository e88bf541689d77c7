"""Where attacks take place: a folder with a small data set and small runs, made once."""

import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from attacks.forks import Ended, forked

SIZE = 8  # pixels each way
SMALL = "--channels 8 8 --blocks 1 --batch-size 8 --levels 4 --samples 4 --no-compile --device cpu"
TOY = "--steps 40 --batch-size 64 --width 8 --layers 1 --levels 6 --langevin-steps 3 --samples 100 --device cpu"
SAVE_EVERY = 0.1  # seconds between checkpoints


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A folder, and the seed that everything random in an attack follows from."""

    folder: Path
    seed: int

    @property
    def arrays(self) -> Path:
        """An .npz of images: 200 for training, 192 for validation, so that guidance is chosen, and 120 for testing."""
        path = self.folder / "images.npz"
        if not path.exists():
            chance = np.random.default_rng(0)
            parts = {"train": 200, "validation": 192, "test": 120}
            np.savez(path, **{f"x_{part}": squares(n, chance) for part, n in parts.items()})  # type: ignore[arg-type]
        return path

    @property
    def images(self) -> Path:
        """A folder of 60 PNG files of two classes."""
        folder = self.folder / "images"
        if not folder.exists():
            chance = np.random.default_rng(1)
            for number, pixels in enumerate(squares(60, chance)):
                path = folder / ("dark", "bright")[number % 2] / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
        return folder

    @property
    def run(self) -> Path:
        """A finished run of images, with a guide and a checkpoint."""
        return self.made("run", ncsn(f"train {self.arrays} {SMALL} --steps 20 --out run"))

    @property
    def points(self) -> Path:
        """A finished run in the plane."""
        return self.made("points", toy(f"{TOY} --out points"))

    def made(self, name: str, command: Callable[[], None]) -> Path:
        """The folder of this name that a command makes.  Raises RuntimeError if it does not."""
        folder = self.folder / name
        with FileLock(self.folder / f"{name}.lock"):
            if not (folder / "metrics.json").exists():
                ended = forked(command, self.folder)
                if ended.status:
                    raise RuntimeError(f"{name} could not be made: {ended.error}")
        return folder

    def chance(self, name: str, case: int) -> random.Random:
        """The randomness of a case."""
        return random.Random(f"{self.seed} {name} {case}")

    @contextmanager
    def place(self, name: str, case: int) -> Iterator[Path]:
        """An empty folder for a case, while the block runs."""
        folder = self.folder / "cases" / f"{name}-{case}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def recalled(self, name: str, make: Callable[[], Any]) -> Any:
        """What was measured once, kept for all processes."""
        path = self.folder / f"{name}.json"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                path.write_text(json.dumps(make()))
            return json.loads(path.read_text())


def used_by_many(ground: Ground) -> None:
    """Make what most attacks use, before processes are forked that would make it at once."""
    for path in (ground.arrays, ground.images, ground.run, ground.points):
        assert path.exists()


def squares(n: int, chance: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images of a bright square somewhere on a dark ground."""
    pixels = chance.integers(0, 60, (n, SIZE, SIZE), dtype=np.uint8)
    for image, (row, column) in zip(pixels, chance.integers(0, SIZE - 3, (n, 2)), strict=True):
        image[row : row + 3, column : column + 3] += 150
    return pixels


def arguments(words: str | list[str]) -> list[str]:
    """A command line as a list."""
    return words.split() if isinstance(words, str) else list(words)


def ncsn(words: str | list[str]) -> Callable[[], None]:
    """The command ``ncsn`` with these arguments, with a checkpoint every moment."""
    return functools.partial(started, "ncsn", arguments(words))


def toy(words: str | list[str]) -> Callable[[], None]:
    """The script training_toy.py, likewise."""
    return functools.partial(started, "training_toy.py", arguments(words))


def started(program: str, args: list[str]) -> None:
    """Be the program."""
    from ncsn.cli import console
    from ncsn.cli import main as cli
    from ncsn.cli.interrupts import quit_on_signals
    from ncsn.learn.settings import Toy

    quit_on_signals()
    console.watch = functools.partial(console.watch, save_every=SAVE_EVERY)
    if program == "ncsn":
        cli.main(args)
        return
    import training_toy

    console.run(training_toy.main, Toy, args, "training_toy.py")


def complaint(ended: Ended, *allowed: int) -> str | None:
    """What is wrong with how a command ended, in a few words; None if nothing is.

    ``allowed``: exit statuses beside 0; each must come with one line that begins with ``error: ``.
    """
    lines = [line for line in ended.error.replace("\r", "\n").splitlines() if line.strip()]
    if "Traceback (most recent call last)" in ended.error:
        return f"traceback: {lines[-1].split(':')[0].strip()[:60]}"
    if "Warning: " in ended.error:
        return "a warning on the screen"
    if ended.late:
        return "over its limit of time"
    if ended.status == 0:
        return None
    if ended.status not in allowed:
        return f"exit status {ended.status}"
    errors = [line for line in lines if line.startswith("error: ")]
    return None if len(errors) == 1 and lines[-1] == errors[0] else "not one line that begins with error:"
