"""Attacks on what docs/reliability.md promises: kills, full disks, nonsense on the command line, damaged files.

python scripts/torture.py                                      # all of it, half an hour on two cores
python scripts/torture.py --only kills --minutes 5             # some of it
python scripts/torture.py --only options --case 17             # one try again, as a failure names it

It prints every failure, and how many tries there were, and exits with 1 if one failed.
"""

import os

# Before torch is imported: processes are forked, and threads would not survive that.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import argparse
import functools
import importlib
import multiprocessing
import pkgutil
import sys
import tempfile
import time
from pathlib import Path

import pandas  # noqa: F401  # before anything is forked, for every command would need a second for each of these
import scipy.integrate  # noqa: F401
import torch._dynamo  # noqa: F401
from attacks import faults, nonsense

import ncsn

FAST = Path("/dev/shm")  # in memory: what a kill leaves is the same there, and there is no waiting for a disk
ATTACKS = {
    "kills": (faults.struck, 0.4),
    "disk": (faults.full, 0.05),
    "options": (nonsense.options, 0.2),
    "files": (nonsense.files, 0.35),
}
"""What makes a case of each attack and yields its failures, and its share of the minutes."""


def attacked(name: str, ground: faults.Ground, deadline: float, case: int) -> tuple[int, list[str] | None]:
    """What was wrong in a case; None when time is up, but the first case has its turn however slow the machine is."""
    late = case > 0 and time.monotonic() > deadline
    return case, None if late else list(ATTACKS[name][0](ground, case))


def main() -> int:
    """Attack; returns how many failures there were."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="how long, on two cores (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS), help="attacks to run")
    parser.add_argument("--case", type=int, help="run a single case, as a failure names it")
    options, total = parser.parse_args(), 0
    for module in pkgutil.walk_packages(ncsn.__path__, "ncsn."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None) as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        ground = faults.Ground(Path(folder), options.seed)
        if {"kills", "disk"} & set(options.only):
            ground.measure(*(ground.jobs.keys() - ground.whole.keys()))
        nonsense.prepare(ground)
        for name in options.only:
            share = ATTACKS[name][1] / sum(ATTACKS[each][1] for each in options.only)
            work = functools.partial(attacked, name, ground, time.monotonic() + 60 * share * options.minutes)
            tries = failures = 0
            with multiprocessing.get_context("fork").Pool(2) as pool:
                tried = range(20_000) if options.case is None else [options.case]
                for case, wrong in pool.imap_unordered(work, tried):
                    tries, failures = tries + (wrong is not None), failures + len(wrong or ())
                    for failure in wrong or ():
                        print(f"{failure}\nagain: --only {name} --seed {options.seed} --case {case}\n", flush=True)
            print(f"{name}: {tries:,} tries, {failures:,} failures", flush=True)
            total += failures
    return total


if __name__ == "__main__":
    sys.exit(main() > 0)
