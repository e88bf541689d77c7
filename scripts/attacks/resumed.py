"""Whole commands on runs of which one file is damaged, missing, or another run's."""

import shutil
from pathlib import Path

from attacks.damage import damaged, json_lines, json_text
from attacks.forks import forked
from attacks.ground import SMALL, Ground, complaint, ncsn, used_by_many
from attacks.jobs import status_of
from attacks.tally import Attack, Attempt, Failure

FILES = ("config.json", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "pace.jsonl", "metrics.json")
COMMANDS = (
    f"train DATA {SMALL} --steps 24 --out run --resume",
    "sample run -n 2 --levels 2 --device cpu --out out.npz",
    "superres run -n 1 --levels 2 --device cpu --out out.png",
    "evaluate run -n 100 --levels 2 --device cpu --out out",
)


def attempt(ground: Ground, case: int) -> Attempt:
    """Damage a file of a run or of its guide, and use the run."""
    chance = ground.chance("resumed", case)
    with ground.place("resumed", case) as place:
        points = chance.random() < 0.1
        shutil.copytree(ground.points if points else ground.run, place / "run")
        path = place / "run" / chance.choice(("", "", "guide")) / chance.choice(FILES)
        done = (
            "a run of points"
            if points
            else harmed(path, ground, chance.choice(("bits", "structure", "gone", "other")), case)
        )
        command = chance.choice(COMMANDS).replace("DATA", str(ground.arrays))
        ended = forked(ncsn(command), place)
        wrong = complaint(ended, 2)
        files = {path.name: path.read_bytes()} if path.is_file() and not points else {}
    said = f"{path.relative_to(place)}: {done}\n{status_of(ended)}"
    kind = f"{path.name if not points else 'points'}: {wrong}"
    return Attempt(failures=(Failure(kind=kind, command=f"ncsn {command}", said=said, files=files),) if wrong else ())


def harmed(path: Path, ground: Ground, how: str, case: int) -> str:
    """Harm a file in one of the ways; returns how, in words."""
    chance = ground.chance("harmed", case)
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(100))
        return "there is one, of random bytes"
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
        return "missing"
    if how == "other":
        other = ground.points / path.name
        path.write_bytes(other.read_bytes() if other.is_file() else b"")
        return "that of a run of points, or empty"
    structured = {".json": json_text, ".jsonl": json_lines}.get(path.suffix, damaged) if how == "structure" else damaged
    path.write_bytes(structured(data, chance))
    return f"damaged ({how})"


ATTACK = Attack(
    promise="A run of which a file is damaged, missing or another run's is used right, or refused in one line",
    how="training on, sampling, enlarging and evaluating runs of which one file is harmed, or that are runs of points",
    tries=400,
    share=0.05,
    attempt=attempt,
    prepare=used_by_many,
)
