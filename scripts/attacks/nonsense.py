"""Nonsense: options of no sense, and damaged files of every kind that is read."""

import functools
import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from attacks.faults import SMALL, Ground
from attacks.processes import complaint, digests, play
from ncsn.run.folder import digest_of

NUMBERS = "nan inf -1 0 1 0.5 1e308 -1e308 1e-320 1000000000 1000000000000000000"
WORDS = ("", " ", "ü", "x" * 5000, "None", "[1]", "{}", "--help=1", "%s%n", "1,5", "0x10", "١", "\n", "9" * 400)
PLACES = ("folder", "pipe", "text", "link.png", "nowhere/at/all", "dangling.png", "RUN", "POINTS", "IMAGES")
VALUES = (*NUMBERS.split(), *WORDS, *PLACES)
ENDLESS = ("--minutes", "--steps", "-n", "--langevin-steps", "--samples", "--levels", "--probes")
USES = {
    "train": f"train IMAGES {SMALL} --steps 2 --guidance 1 --out out",
    "sample": "sample RUN -n 3 --levels 3 --device cpu --out out.npz",
    "evaluate": "evaluate RUN -n 100 --levels 3 --device cpu --out out",
    "likelihood": "likelihood RUN -n 2 --probes 2 --device cpu",
    "impute": "impute TABLE ../../rows.csv -n 2 --device cpu --out out.csv",
    "export": "export RUN out.onnx",
    "play": "play --port 0",
}
OTHERS = "RUN -n 2 --levels 3 --device cpu --out out.png"  # of a command that is not above
TOKENS = (b"9" * 400, b"[" * 50_000, b"1e999", b"NaN", b"-Infinity", b"\xff\xfe", b"\x00", b"\\ud800")
SENSELESS: tuple[Any, ...] = (None, 0, -1, 1e308, 10**12, float("nan"), "", "ü", "../../x", [], [[]], {"": 0})
COMMANDS = (
    f"train HERE/images.npz {SMALL} --steps 24 --out run --resume",
    "sample run -n 2 --levels 2 --device cpu --out out.npz",
    "evaluate run -n 100 --levels 2 --device cpu --out out",
)
RUN_FILES = ("config.json", "metrics.json", "metrics.jsonl", "checkpoint.pt", "guide/config.json")
OF_TABLES = (
    "train HERE/rows.csv --steps 24 --device cpu --out table --resume",
    "sample table -n 3 --levels 2 --device cpu --out out.csv",
    "impute table rows.csv -n 2 --device cpu --out out.csv",
    "likelihood table rows.csv --tolerance 0.5 --device cpu --out out.csv",
)
FILES = {
    **{f"run/{name}": COMMANDS for name in RUN_FILES},
    "run/model.safetensors": COMMANDS[1:2],
    "table/config.json": OF_TABLES,
    "table/checkpoint.pt": OF_TABLES[:1],
    "rows.csv": ("train rows.csv --steps 1 --device cpu --out out", *OF_TABLES[2:]),
    **{
        f"set.{kind}": (f"train set.{kind} {SMALL} --steps 1 --guidance 1 --out out",) for kind in ("zip", "tar", "npy")
    },
    "it.png": ("denoise run --input it.png -n 1 --levels 2 --device cpu --out out.png",),
}
"""What is read, and the commands that read it."""


@functools.cache
def cases(folder: Path, seed: int) -> list[tuple[str, str, str | None]]:
    """Every option of every command, as its help lists them, with every value, in an order of chance."""
    os.environ["COLUMNS"] = "200"
    found: list[tuple[str, str, str | None]] = []
    for command in re.findall(r"\{(train[\w,]+)\}", play(["ncsn", "--help"], folder).out)[0].split(","):
        text = play(["ncsn", command, "--help"], folder).out
        found += [(command, "1", value) for value in VALUES if "positional" in text]
        for option, taken in re.findall(r"^│ (-[\w-]+)(?:, --[\w-]+)?( \S+)?", text, re.MULTILINE):
            found += [(command, option, value) for value in (VALUES if taken else (None,)) if option != "-h"]
    random.Random(seed).shuffle(found)
    return found


def standing(place: Path) -> dict[str, Any]:
    """What stands where nothing may be replaced."""
    paths = [path for path in place.rglob("*") if not str(path.relative_to(place)).startswith(("out", ".", "nowhere"))]
    # A folder's size grows with what is written into it, which replaces nothing.
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_ino, 0 if path.is_dir() else path.lstat().st_size)
        for path in paths
    }


def options(ground: Ground, case: int) -> Iterator[str]:
    """Give a command an option, or its argument, of no sense, where much stands that may not be replaced."""
    every, place = cases(ground.folder, ground.seed), ground.place("options", case)
    command, option, value = every[case % len(every)]
    (place / "folder").mkdir()
    (place / "text").write_text("precious")
    (place / "link.png").symlink_to("text")
    (place / "dangling.png").symlink_to("nowhere")
    os.mkfifo(place / "pipe")
    for name, there in {"RUN": "run", "POINTS": "points", "TABLE": "table", "IMAGES": "images"}.items():
        shutil.copytree(ground.folder / there, place / name)
    words = USES.get(command, f"{command} {OTHERS}").split()
    if option == "--minutes" and "--steps" in words:
        del words[(at := words.index("--steps")) : at + 2]
    given = [] if value is None else [value]
    words = [words[0], *given, *words[2:]] if option == "1" else [*words, option, *given]
    before = standing(place)
    ended = play(["ncsn", *words], place, cpu=12, wall=10 if command == "play" else 240)
    endless = ended.late and (option in ENDLESS or command == "play")  # which Ctrl-C ends
    wrong = complaint(ended._replace(late=False), 130) if endless else complaint(ended, 1, 2)
    printed = "".join([ended.out.replace(value or " ", " "), *(path.read_text() for path in place.glob("out/*.json*"))])
    if not wrong and not before.items() <= standing(place).items():
        wrong = "what was there is replaced"
    elif not wrong and ended.status == 2 and (place / "out" / "model.safetensors").exists():
        wrong = "refused only after the training"
    elif not wrong and ended.status == 0 and re.search(r"(?<![\w.-])-?(nan|inf|NaN|Infinity)(?!\w)", printed):
        wrong = "what is not finite, exit status 0"
    if wrong:
        yield f"{wrong}\nncsn {shlex.join(words)[:400]}\n{ended}"


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The bytes, damaged as disks, networks and enemies do it: flipped, cut, spliced, zeroed, or with more in them."""
    at, size = chance.randrange(len(data)), chance.choice((1, 8, 64, 512))
    more = chance.choice((*TOKENS, chance.randbytes(20), data[at : at + size]))
    flipped = bytes([data[at] ^ (1 << chance.randrange(8))])
    ways = (data[:at] + flipped + data[at + 1 :], data[:at], data[:at] + more + data[at:], b"")
    return chance.choice((*ways, data[:at] + bytes(size) + data[at + size :]))


def senseless(data: bytes, chance: random.Random) -> bytes:
    """JSON of valid form and senseless content: one object, or one a line of which one is another."""
    rows = [data.decode()] if data.startswith(b"{\n") else data.decode().splitlines()
    number = chance.randrange(len(rows))
    content = changed(json.loads(rows[number]), chance)
    if isinstance(content, dict) and "sha256" in content:  # else only the digest would be looked at
        content["sha256"] = digest_of({name: value for name, value in content.items() if name != "sha256"})
    rows[number] = json.dumps(content)
    return "\n".join(rows).encode()


def changed(value: Any, chance: random.Random) -> Any:
    """The same JSON, in which one thing is another, is missing, or has another name."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return value * 10**6 if type(value) in (int, float) and chance.random() < 0.3 else chance.choice(SENSELESS)
    key: Any = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    inner, way = value.pop(key), chance.random()
    if isinstance(value, list):
        value.insert(key, changed(inner, chance))
    elif way > 0.2:
        value["ü" if way < 0.3 else key] = inner if way < 0.3 else changed(inner, chance)
    return value


def prepare(ground: Ground) -> None:
    """Write one whole file of every kind that is no run's, see what a whole run draws, and list the options."""
    cases(ground.folder, ground.seed)  # before processes are forked, which have it then
    for kind in ("zip", "tar"):
        shutil.make_archive(str(ground.folder / "set"), kind, ground.folder / "images")
    shutil.copy(ground.folder / "images" / "dark" / "000.png", ground.folder / "it.png")
    with np.load(ground.folder / "images.npz") as there:
        np.save(ground.folder / "set.npy", there["x_train"])
    place = ground.place("whole", 0)
    shutil.copytree(ground.folder / "run", place / "run")
    ground.made(f"ncsn {COMMANDS[1]}", place)


def files(ground: Ground, case: int) -> Iterator[str]:
    """Give a command a file that is damaged, missing, or another run's."""
    chance, place = ground.chance("files", case), ground.place("files", case)
    for run in ("run", "table"):
        shutil.copytree(ground.folder / run, place / run)
    shutil.copy(ground.folder / "rows.csv", place)
    name, commands = list(FILES.items())[case % len(FILES)]
    path, words = place / name, ["ncsn", *chance.choice(commands).replace("HERE", str(ground.folder)).split()]
    other, data = ground.folder / "points" / path.name, (ground.folder / name).read_bytes()
    way = chance.choice(("bytes", "bytes", "bytes", "form", "form", "other"))
    if way == "other" and other.is_file():
        shutil.copy(other, path)
    elif way == "other":
        path.unlink(missing_ok=True)
    else:
        form = way == "form" and path.suffix.startswith(".json")
        path.write_bytes((senseless if form else damaged)(data, chance))
    ended = play(words, place)
    wrong = complaint(ended, 2)
    drawn = digests(place).get("out.npz")
    if not wrong and way != "other" and path.suffix == ".safetensors" and ended.status == 0:
        whole = digests(ground.folder / "cases" / "whole-0")["out.npz"]
        wrong = None if drawn == whole else "other weights are read"
    if wrong:
        yield f"{name}: {wrong}\n{shlex.join(words)}\nby {way}\n{ended}"
