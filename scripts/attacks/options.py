"""Nonsense on the command line: every option of every command, with every value that makes no sense."""

import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence
from tyro.conf import arg

from attacks.forks import Ended, Limits, forked
from attacks.ground import Ground, complaint, ncsn, toy, used_by_many
from attacks.jobs import status_of
from attacks.tally import Attack, Attempt, Failure

NUMBERS = "nan inf -inf -1 0 1 0.5 1.5 1e308 -1e308 1e-320 1000000000 1000000000000000000"
WORDS = ("", " ", "ü", "x" * 5000, "true", "None", "[1]", "{}", "--help=1", "%s%n", "1,5", "0x10", "١", "\n")
PLACES = ("folder", "device", "pipe", "text", "link.png", "nowhere/at/all", "dangling.png", "RUN", "POINTS", "IMAGES")
VALUES = (*NUMBERS.split(), str(2**70), "9" * 400, *WORDS, *PLACES)
ENDLESS = {"minutes", "steps", "n", "langevin-steps", "samples", "levels", "probes", "solver-steps"}
"""Options that may honestly ask for days of work, which Ctrl-C ends."""
LIMITS = Limits(cpu=12, wall=240, memory=2 * 2**30)  # a whole command takes up to 6 seconds
SERVED = dataclasses.replace(LIMITS, wall=10)  # what would go on until Ctrl-C


@dataclass(frozen=True)
class Option:
    """An option of a command: ``--levels``, or its place for what has no name; a flag takes no value."""

    name: str
    flag: bool


def commands() -> dict[str, Any]:
    """The settings of every command of ``ncsn``, from its own definition, and of the script on points."""
    from ncsn.cli.main import COMMANDS
    from ncsn.learn.settings import Toy

    return COMMANDS | {"toy": Toy}


def options_of(command: str) -> list[Option]:
    """Every option of a command."""
    return list(walk(commands()[command]))


def walk(settings: Any) -> Iterator[Option]:
    """The options that the fields of a dataclass become."""
    hints, place = typing.get_type_hints(settings, include_extras=True), 0
    for field in fields(settings):
        hint, marks = hints[field.name], []
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        names = [mark.name for mark in marks if type(mark) is type(some_mark()) and mark.name is not None]
        if is_dataclass(hint):
            yield from walk(hint)
        elif any("Positional" in repr(mark) or "POSITIONAL" in repr(mark).upper() for mark in marks):
            place += 1
            yield Option(str(place), False)
        elif hint is bool:
            yield Option(f"--{'no-' if field.default is True else ''}{field.name.replace('_', '-')}", True)
        else:
            yield Option(f"--{(names or [field.name])[0].replace('_', '-')}", False)


@functools.cache
def some_mark() -> Any:
    """What ``tyro.conf.arg`` leaves in an annotation."""
    return typing.get_args(typing.Annotated[int, arg(name="n")])[1]


def plain(command: str, ground: Ground, option: str) -> list[str]:
    """The smallest sensible use of a command, in a folder of its own, without what an option contradicts."""
    run = "RUN"
    words = {
        "train": f"train {ground.arrays} --steps 2 --channels 8 --blocks 1 --batch-size 8 --levels 3 --samples 2 "
        "--no-compile --guidance 1 --device cpu --out out",
        "toy": "--steps 2 --batch-size 16 --width 8 --layers 1 --levels 3 --langevin-steps 1 --samples 50 --device cpu "
        "--out out",
        "sample": f"sample {run} -n 3 --levels 3 --device cpu --out out.npz",
        "evaluate": f"evaluate {run} -n 100 --levels 3 --device cpu --out out",
        "likelihood": f"likelihood {run} -n 2 --probes 2 --device cpu --out out.json",
        "interpolate": f"interpolate {run} -n 1 --steps 2 --levels 3 --device cpu --out out.png",
        "export": f"export {run} out.onnx",
        "distill": f"distill {run} --minutes 0.01 --evaluations 2 --batch-size 8 --device cpu --out out",
        "info": f"info {run} --device cpu",
        "play": "play --no-browser --port 0",
        "push": f"push {run} user/model --dry-run out",
    }.get(command, f"{command} {run} -n 2 --levels 3 --solver-steps 1 --device cpu --out out.png").split()
    if option == "--minutes" and "--steps" in words:
        at = words.index("--steps")
        del words[at : at + 2]
    return words


@dataclass(frozen=True)
class Case:
    """A command with one option, or an argument without a name, of no sense."""

    command: str
    option: Option
    value: str

    def words(self, ground: Ground) -> list[str]:
        """The command line."""
        words = plain(self.command, ground, self.option.name)
        if self.option.name.isdecimal():
            words[int(self.option.name)] = self.value
            return words
        return [*words, self.option.name, *([] if self.option.flag else [self.value])]


@functools.cache
def cases(seed: int) -> list[Case]:
    """Every option of every command with every value, in an order of chance."""
    import random

    all_of_them = [
        Case(command, option, value)
        for command in commands()
        for option in options_of(command)
        for value in (("",) if option.flag else VALUES)
    ]
    random.Random(seed).shuffle(all_of_them)
    return all_of_them


def plant(place: Path, ground: Ground) -> dict[str, Any]:
    """Things that no command may replace; returns what they are."""
    (place / "folder").mkdir()
    (place / "text").write_text("precious")
    (place / "link.png").symlink_to("text")
    (place / "dangling.png").symlink_to("nowhere")
    os.mkfifo(place / "pipe")
    try:
        os.mknod(place / "device", 0o020666, os.makedev(1, 3))  # the null device, by another name
    except PermissionError:
        os.mkfifo(place / "device")
    for name, there in {"RUN": ground.run, "POINTS": ground.points, "IMAGES": ground.images}.items():
        shutil.copytree(there, place / name)
    return planted(place)


def planted(place: Path) -> dict[str, Any]:
    """What the planted things are."""
    found = {}
    for name in ("folder", "text", "link.png", "dangling.png", "pipe", "device"):
        path = place / name
        known = path.lstat() if path.is_symlink() or path.exists() else None
        found[name] = known and (known.st_mode, known.st_ino)
    return found | {"precious": (place / "text").read_text()}


def attempt(ground: Ground, number: int) -> Attempt:
    """Run a case, and judge how it ended and what it left."""
    case = cases(ground.seed)[number]
    words = case.words(ground)
    with ground.place("options", number) as place:
        before = plant(place, ground)
        limits = SERVED if case.command == "play" else LIMITS
        ended = forked((toy if case.command == "toy" else ncsn)(words), place, limits=limits)
        kinds = list(judged(case, ended, place))
        if planted(place) != before:
            kinds.append("what was there is replaced")
        program = "training_toy.py" if case.command == "toy" else "ncsn"
        command = shlex.join([program, *words])
        what = f"{case.command} {case.option.name} {case.value[:30]!r}"
        said = f"{what}\n{status_of(ended)}"
    return Attempt(failures=tuple(Failure(kind=kind, command=command[:400], said=said) for kind in kinds))


def judged(case: Case, ended: Ended, place: Path) -> Iterator[str]:
    """What is wrong with how a case ended, in a few words each."""
    if ended.late and ended.status == 130 and case.option.name.strip("-") in ENDLESS:
        if complaint(dataclasses.replace(ended, late=False), 130):
            yield "days of work that Ctrl-C does not end in one line"
        return
    if case.command == "play":  # which Ctrl-C ends well
        ended = dataclasses.replace(ended, late=False)
    if wrong := complaint(ended, 1, 2):
        yield wrong
        return
    if ended.status == 2 and (place / "out" / "model.safetensors").exists():
        yield "refused only after the training"
    if ended.status == 0:
        said = re.sub(r"^\S+: ", "", ended.out, flags=re.MULTILINE)  # without the names of outputs
        said = said.replace(case.value, "") if case.option.name == "--out" else said
        if re.search(r"(?<![\w.])-?(nan|inf)(?!\w)", said):
            yield "nan or inf is printed, exit status 0"
        yield from {f"{kind}, exit status 0" for kind in senseless(place)}


def senseless(place: Path) -> Iterator[str]:
    """What is no finite result among the files that a command has left."""
    for path in [*place.glob("out*"), *place.glob("out/**/*")]:
        if path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            if re.search(r"\b(NaN|Infinity)\b", text):
                yield "NaN in a file of numbers"
            elif path.suffix == ".json":
                json.loads(text)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                if any(not np.isfinite(arrays[name]).all() or np.ptp(arrays[name]) == 0 for name in arrays):
                    yield "samples that are all the same or not finite"
        elif path.suffix in (".png", ".gif"):
            with Image.open(path) as image:
                last = list(ImageSequence.Iterator(image))[-1].convert("L")
                if len(set(last.getextrema())) == 1:
                    yield "a picture of one colour"


ATTACK = Attack(
    promise="Nonsense on the command line is refused in one line, status 2, before the work; nothing hangs, nothing "
    "that is there is replaced, and what ends well is finite",
    how="every option of every command, from the parser's own definition, with values that make no sense; 12 s of CPU, "
    "2 GB",
    tries=3500,
    share=0.20,
    attempt=attempt,
    prepare=used_by_many,
    most=lambda ground: len(cases(ground.seed)),
)
