"""The long commands, and what they leave: whether every file is whole, and whether two folders hold the same."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from attacks.forks import Ended, at_write, forked
from attacks.ground import SMALL, TOY, Ground, ncsn, toy


@dataclass(frozen=True, kw_only=True)
class Job:
    """A long command.

    ``words``: its arguments.  ``out``: what it leaves, in the folder that it is started in.  ``resumes``: whether it
    goes on with ``--resume``.
    """

    program: Callable[[list[str]], Callable[[], None]]
    words: str
    out: str
    resumes: bool = False

    def call(self, *more: str, kill_at: int = 0) -> Callable[[], None]:
        """The command, with more arguments; killed when it writes for the ``kill_at``-th time."""
        return functools.partial(self.start, more, kill_at)

    def start(self, more: tuple[str, ...], kill_at: int) -> None:
        """Be the command."""
        if kill_at:
            at_write(kill_at)
        self.program([*self.words.split(), *more])()

    def said(self, *more: str) -> str:
        """The command as a user writes it."""
        program = "ncsn" if self.program is ncsn else "training_toy.py"
        return " ".join([program, self.words, *more])


def jobs(ground: Ground) -> dict[str, Job]:
    """All long commands, of every kind of output."""
    train = f"{SMALL} --steps 40 --out out"
    run = ground.run
    return {
        "train": Job(program=ncsn, words=f"train {ground.arrays} {train}", out="out", resumes=True),
        "train, a folder": Job(program=ncsn, words=f"train {ground.images} {train}", out="out", resumes=True),
        "toy": Job(program=toy, words=f"{TOY} --view both --out out", out="out", resumes=True),
        "sample .npz": Job(program=ncsn, words=f"sample {run} -n 600 --device cpu --out out.npz", out="out.npz"),
        "sample .png": Job(program=ncsn, words=f"sample {run} --device cpu --out out.png", out="out.png"),
        "sample .gif": Job(program=ncsn, words=f"sample {run} --device cpu --out out.gif", out="out.gif"),
        "evaluate": Job(program=ncsn, words=f"evaluate {run} -n 120 --device cpu --out out", out="out"),
        "likelihood": Job(program=ncsn, words=f"likelihood {run} -n 8 --device cpu --out out.json", out="out.json"),
        "inpaint": Job(program=ncsn, words=f"inpaint {run} -n 8 --device cpu --out out.png", out="out.png"),
        "interpolate": Job(program=ncsn, words=f"interpolate {run} -n 3 --device cpu --out out.png", out="out.png"),
    }


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What an uninterrupted command took and left: seconds, writes, and the digests of its files."""

    seconds: float
    writes: int
    files: dict[str, str]


def uninterrupted(ground: Ground, name: str) -> Whole:
    """What a job does when it is left alone."""
    job = jobs(ground)[name]

    def measure() -> dict[str, Any]:
        import time

        place = ground.folder / "uninterrupted" / name.replace(" ", "-")
        place.mkdir(parents=True)

        def counted() -> None:
            count = at_write(0)
            try:
                job.call()()
            finally:
                (place / "count").write_text(str(count()))

        began = time.monotonic()
        ended = forked(counted, place)
        seconds = time.monotonic() - began
        if ended.status:
            raise RuntimeError(f"{job.said()} failed: {ended.error}")
        writes = int((place / "count").read_text())
        (place / "count").unlink()
        return {"seconds": seconds, "writes": writes, "files": left_in(place)}

    return Whole(**ground.recalled(f"uninterrupted-{name.replace(' ', '-')}", measure))


def files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order."""
    yield from sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def left_in(folder: Path) -> dict[str, str]:
    """The digests of all files below a folder, by name; a run's lock says who wrote last, and is no part of it."""
    kept = [path for path in files_in(folder) if not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): digest(path) for path in kept}


def broken(folder: Path) -> list[str]:
    """The files that are not whole, among those under their final names."""
    found = []
    for path in files_in(folder):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            digest(path)
        except Exception as error:  # whatever a reader says of half a file
            found.append(f"{path.relative_to(folder)} ({type(error).__name__}: {error})")
    return found


def digest(path: Path) -> str:
    """The sha256 of what a file says, but for how long anything took.  Raises whatever its reader does."""
    content: Any
    if path.suffix == ".json":
        content = timeless(json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").split("\n")  # the last is what a kill has cut short
        content = [timeless(json.loads(line)) for line in lines[:-1]]
    elif path.suffix == ".safetensors":
        content = [(name, hashed(tensor)) for name, tensor in sorted(load_file(path).items())]
    elif path.suffix == ".pt":
        content = timeless(torch.load(path, map_location="cpu", weights_only=True))
    elif path.suffix in (".png", ".gif"):
        with Image.open(path) as image:
            content = [
                hashlib.sha256(frame.convert("RGBA").tobytes()).hexdigest() for frame in ImageSequence.Iterator(image)
            ]
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            content = [
                (name, arrays[name].dtype.str, hashlib.sha256(arrays[name].tobytes()).hexdigest()) for name in arrays
            ]
    else:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hashed(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor."""
    data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy() if tensor.numel() else np.zeros(0)
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data.tobytes()).hexdigest()}"


def timeless(content: Any) -> Any:
    """What was read from a file, without durations, speeds, places and digests of all that."""
    if isinstance(content, dict):
        return {
            str(name): timeless(value)
            for name, value in content.items()
            if not any(word in str(name) for word in ("second", "digest", "sha256"))
        }
    if isinstance(content, list | tuple):
        return [timeless(value) for value in content]
    return hashed(content) if isinstance(content, torch.Tensor) else content


def status_of(ended: Ended) -> str:
    """How a command ended, for a reader."""
    return f"status {ended.status}\n--- stderr\n{ended.error[-3000:]}\n--- stdout\n{ended.out[-500:]}"
