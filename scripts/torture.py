"""Attacks on what is promised: kills, full disks, nonsense on the command line, damaged files.

python scripts/torture.py                                      # all of it, half an hour on two cores
python scripts/torture.py --only kills --minutes 5             # some of it
python scripts/torture.py --only options --case 17             # one try again, as a failure names it

It prints a table and every failure, and exits with 1 if there is any.
"""

import os

# Before torch is imported: processes are forked, and threads would not survive that.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import importlib
import multiprocessing
import pkgutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import scipy.integrate  # noqa: F401  # before anything is forked, for every command would need a second for it
import torch._dynamo  # noqa: F401
import tyro
from attacks import faults, nonsense
from attacks.faults import Ground

import ncsn

MARKS = ("<!-- table -->", "<!-- end of table -->")
FAST = Path("/dev/shm")  # in memory: what a kill leaves is the same there, and there is no waiting for a disk


class Attack(NamedTuple):
    """A promise, how it is attacked, for which share of the minutes, and a case of it: the failures, in words."""

    promise: str
    how: str
    share: float
    attempt: Callable[[Ground, int], Iterator[str]]


ATTACKS = {
    "kills": Attack(
        "After SIGKILL, Ctrl-C or SIGTERM at any moment every file is whole, the same command (`--resume` where it "
        "trains) goes on, and in the end there is the same to the byte and nothing else; signals end with one line",
        "random moments, and just before random writes, of every long command; a checkpoint every 0.1 s",
        0.35,
        faults.struck,
    ),
    "disk": Attack(
        "On a full disk one line names the file; what was there is whole",
        "every long command on a tmpfs too small by chance",
        0.05,
        faults.full,
    ),
    "options": Attack(
        "Nonsense on the command line is refused in one line, status 2, before the work; nothing hangs, nothing "
        "that is there is replaced, and what ends well is finite",
        "every option of every command, as its help lists them, with values that make no sense; 12 s of CPU, 2 GB",
        0.3,
        nonsense.options,
    ),
    "files": Attack(
        "A damaged file, or one of another run, is used right or refused in one line; of damaged weights the same are "
        "read, or none",
        "bits, cuts, splices, and values of valid form: what a run leaves, samples, images, archives and arrays",
        0.3,
        nonsense.files,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Torture:
    """Attack what is promised, and say how often a promise was not kept."""

    minutes: float = 30.0
    """How long, on two cores."""
    seed: int = 0
    """What is random in the attacks, but for the moments at which a machine does something."""
    only: tuple[Literal["kills", "disk", "options", "files"], ...] = ("kills", "disk", "options", "files")
    """Which attacks."""
    case: int | None = None
    """One case alone, as a failure names it."""
    processes: int = 2
    """How many attack at a time."""
    docs: Path | None = None
    """A Markdown file whose table is written anew: docs/reliability.md."""


def attacked(name: str, ground: Ground, deadline: float, case: int) -> tuple[int, list[str] | None]:
    """What was wrong in a case; None when time is up."""
    return case, None if time.monotonic() > deadline else list(ATTACKS[name].attempt(ground, case))


def main(torture: Torture) -> int:
    """Attack; returns how many failures there were."""
    for module in pkgutil.walk_packages(ncsn.__path__, "ncsn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None) as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        ground, total = Ground(Path(folder), torture.seed), 0
        if {"kills", "disk"} & set(torture.only):
            ground.measure()
        nonsense.originals(ground)
        nonsense.cases(ground)
        lines = ["| promise | attack | tries | failures |", "|---|---|---|---|"]
        for name in torture.only:
            attack, tries, failures = ATTACKS[name], 0, 0
            share = attack.share / sum(ATTACKS[each].share for each in torture.only)
            deadline = time.monotonic() + 60 * share * torture.minutes
            tried = range(20_000) if torture.case is None else [torture.case]
            with multiprocessing.get_context("fork").Pool(torture.processes) as pool:
                for case, wrong in pool.imap_unordered(partial(attacked, name, ground, deadline), tried):
                    tries += wrong is not None
                    for failure in wrong or ():
                        failures += 1
                        again = f"python scripts/torture.py --only {name} --seed {torture.seed} --case {case}"
                        print(f"{failure}\nagain: {again}\n", flush=True)
            print(f"{name}: {tries:,} tries, {failures:,} failures", flush=True)
            lines.append(f"| {attack.promise} | {attack.how} | {tries:,} | {failures:,} |")
            total += failures
    print("\n".join(lines))
    if torture.docs is not None:
        page = torture.docs.read_text(encoding="utf-8")
        before, after = page.split(MARKS[0])[0], page.split(MARKS[1])[1]
        torture.docs.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + after]), encoding="utf-8")
    return total


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Torture)) > 0)
