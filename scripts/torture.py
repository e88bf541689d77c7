"""Attacks on what is promised: kills, damaged files, nonsense on the command line, full disks, long trainings.

python scripts/torture.py                              # all of it, half an hour on two cores
python scripts/torture.py --only kills config          # some of it
python scripts/torture.py --only options --case 17     # one try again

It prints a table, writes every failure with the command that reproduces it to a folder, and exits with 1 if there is
any.
"""

import os

# Before torch is imported: processes are forked, and threads would not survive that.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

# Imported before anything is forked, for every command would need a second for them.
import scipy.integrate  # noqa: F401
import torch._dynamo  # noqa: F401
from attacks import disk, fuzz, kills, machine, options, outputs, resumed, soak
from attacks.ground import Ground
from attacks.tally import Attack, Found, Underway, begin

import training_toy  # noqa: F401
from ncsn import cli, evaluation, plots  # noqa: F401

WHOLE = 30.0  # minutes of a whole torture
MARKS = ("<!-- table -->", "<!-- end of table -->")
FAST = Path("/dev/shm")  # in memory: what a kill leaves is the same there, and there is no waiting for a disk
SOAK_SHARE = 2 / 3  # of the minutes, beside everything else
Name = Literal[
    "kills", "signals", "races", "options", "outputs", "resumed", "config", "weights", "checkpoints", "arrays",
    "images", "tables", "exports", "disk", "terminals", "memory", "soak",
]  # fmt: skip
ATTACKS: dict[str, Attack] = {
    "kills": kills.KILLS,
    "signals": kills.SIGNALS,
    "races": kills.RACES,
    "options": options.ATTACK,
    "outputs": outputs.ATTACK,
    "resumed": resumed.ATTACK,
    **fuzz.attacks(),
    "disk": disk.ATTACK,
    "terminals": machine.TERMINALS,
    "memory": machine.MEMORY,
}


@dataclass(frozen=True, kw_only=True)
class Torture:
    """Attack what is promised, and say how often a promise was not kept."""

    minutes: float = WHOLE
    """How long, on two cores; fewer make fewer tries."""
    seed: int = 0
    """What is random in the attacks, but for the moments at which a machine does something."""
    only: Annotated[tuple[Name, ...], tyro.conf.arg(metavar="NAME...")] = get_args(Name)
    """Which attacks."""
    case: int | None = None
    """One case alone, as a failure names it."""
    soak_minutes: float | None = None
    """How long the soak takes; by default two thirds of the minutes, beside everything else."""
    processes: int = 2
    """How many attack at a time."""
    out: Path = Path("runs/torture")
    """The folder for failures; what is there of an earlier torture is removed."""
    docs: Path | None = None
    """A Markdown file whose table is written anew: docs/reliability.md."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not self.minutes > 0 or self.processes < 1:
            raise ValueError(
                f"minutes is {self.minutes}, processes is {self.processes}; above 0 and at least 1 are needed"
            )
        if self.case is not None and len(self.only) != 1:
            raise ValueError("--case is of one attack; name it with --only")
        if self.docs is not None and not self.docs.is_file():
            raise ValueError(f"{self.docs} is no file whose table could be written")

    def attacks(self) -> dict[str, Attack]:
        """What is to be done."""
        minutes = SOAK_SHARE * self.minutes if self.soak_minutes is None else self.soak_minutes
        found = ATTACKS | {"soak": soak.soak(round(60 * minutes))}
        return {name: found[name] for name in self.only}


def row(attack: Attack, found: Found) -> str:
    """A line of the table."""
    return f"| {attack.promise} | {attack.how} | {found.tries:,} | {found.failures.total():,} |"


def table(results: dict[str, tuple[Attack, Found]]) -> str:
    """Promises, attacks, tries and failures, and the memory that commands took, as Markdown."""
    lines = ["| promise | attack | tries | failures |", "|---|---|---|---|"]
    lines += [row(*result) for result in results.values()]
    notes = [note for _, found in results.values() for note in found.notes]
    peaks = [note.removeprefix("peak: ") for note in notes if note.startswith("peak: ")]
    if peaks:
        lines += ["", "| command | peak memory |", "|---|---|", *(f"| {peak} |" for peak in peaks)]
    return "\n".join([*lines, "", *(note for note in notes if not note.startswith("peak: "))]).strip()


def main(torture: Torture) -> int:
    """Attack; returns how many failures there were."""
    began = time.monotonic()
    shutil.rmtree(torture.out, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None) as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        ground = Ground(folder=Path(folder), seed=torture.seed)
        results = again(torture, ground) if torture.case is not None else carried_out(torture, ground)
    text = table(results)
    print(f"\n{text}\n\n{time.monotonic() - began:.0f} s")
    if torture.docs is not None:
        page = torture.docs.read_text(encoding="utf-8")
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        torture.docs.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")
    failures = sum(found.failures.total() for _, found in results.values())
    if failures:
        print(f"failures, and how to see them again: {torture.out}")
    return failures


def carried_out(torture: Torture, ground: Ground) -> dict[str, tuple[Attack, Found]]:
    """One attack after the other, and the soak beside them."""
    attacks, out, scale = torture.attacks(), torture.out.absolute(), min(1.0, torture.minutes / WHOLE)
    results = {}

    def started(name: str) -> Underway:
        attack = attacks[name]
        tries, seconds = max(1, round(attack.tries * scale)), 60 * attack.share * torture.minutes
        return begin(name, attack, ground, out, tries=tries, seconds=seconds, processes=torture.processes)

    soaking = started("soak") if "soak" in attacks else None
    for name in attacks:
        at = time.monotonic()
        underway = soaking if name == "soak" and soaking is not None else started(name)
        found = underway.wait()
        results[name] = attacks[name], found
        kinds = "".join(f"\n  {count:>6,} {kind}" for kind, count in found.failures.most_common())
        seconds = time.monotonic() - at
        print(f"{name}: {found.tries:,} tries, {found.failures.total():,} failures, {seconds:.0f} s{kinds}", flush=True)
    return results


def again(torture: Torture, ground: Ground) -> dict[str, tuple[Attack, Found]]:
    """The one case that is asked for, in full."""
    ((name, attack),) = torture.attacks().items()
    assert torture.case is not None
    attack.prepare(ground)
    attempt = attack.attempt(ground, torture.case)
    for failure in attempt.failures:
        print(f"{failure.kind}\ncommand: {failure.command}\n{failure.said}\n")
    kinds = Counter(failure.kind for failure in attempt.failures)
    return {name: (attack, Found(tries=attempt.tries, failures=kinds))}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Torture)) > 0)
