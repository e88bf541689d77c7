"""A long training with a checkpoint every second: memory, open files and disk must stay flat."""

import json
import os
import signal
import time
from pathlib import Path

from attacks.forks import Limits, forked
from attacks.ground import SMALL, Ground, complaint, ncsn, used_by_many
from attacks.jobs import files_in, status_of
from attacks.tally import Attack, Attempt, Failure

MEMORY_SLACK = 8 * 2**20  # bytes by which the second half may be above the first: what an allocator moves by


def attempt(ground: Ground, seconds: int) -> Attempt:
    """Train for so many seconds, watched from a process beside it, and compare the halves of that time."""
    os.nice(10)  # it is to last; what is beside it is to get far
    command = f"train {ground.arrays} {SMALL} --steps 1000000000 --guidance 1 --out out"
    with ground.place("soak", seconds) as place:
        watcher = os.fork()
        if watcher == 0:
            try:
                watch(place, os.getppid(), seconds)
            finally:
                os._exit(0)
        strike = [(float(seconds), signal.SIGINT)]
        ended = forked(ncsn(command), place, strikes=strike, limits=Limits(cpu=seconds * 2, wall=seconds + 60))
        os.waitpid(watcher, 0)
        rows = json.loads((place / "watched.json").read_text())
    kinds = [wrong] if (wrong := complaint(ended, 130)) else []
    said = status_of(ended)
    half = len(rows) // 2
    if half < 2:
        kinds.append("it ended too early to be judged")
    for number, (what, slack) in enumerate(
        {"memory": MEMORY_SLACK, "open files": 2, "disk": 65536}.items() if half > 1 else ()
    ):
        first, second = (max(row[number] for row in part) for part in (rows[half // 2 : half], rows[half:]))
        said += f"\n{what}: at most {first:,} in the second quarter, {second:,} afterwards"
        if second > first + slack:
            kinds.append(f"{what} grows")
    return Attempt(
        failures=tuple(Failure(kind=kind, command=f"ncsn {command}", said=said) for kind in kinds),
        notes=(f"soak: {seconds} s",),
    )


def watch(place: Path, parent: int, seconds: int) -> None:
    """Every second, write down what the trainings of ``parent`` use, until they end."""
    rows, began = [], time.monotonic()
    while time.monotonic() - began < seconds - 1:
        time.sleep(1)
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if int(child) == os.getpid() or not (place / "out" / "checkpoint.pt").exists():
                continue
            try:
                pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
                files = len(list(Path(f"/proc/{child}/fd").iterdir()))
            except FileNotFoundError:
                continue
            disk = sum(
                path.stat().st_size
                for path in files_in(place / "out")
                if path.exists() and not path.name.startswith(".")
            )
            rows.append((pages * os.sysconf("SC_PAGE_SIZE"), files, disk))
    (place / "watched.json").write_text(json.dumps(rows))


def soak(seconds: int) -> Attack:
    """The attack for so many seconds."""
    return Attack(
        promise="A long training stays as small as it began: memory, open files, disk",
        how="a training of 10⁹ steps, a checkpoint every 0.1 s: the second half of its time against the second quarter",
        tries=1,
        share=1.0,
        attempt=lambda ground, _: attempt(ground, seconds),
        prepare=used_by_many,
        alone=True,
    )
