"""What an attack is, what it has found, and how its attempts are shared among processes."""

import os
import pickle
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attacks.ground import Ground


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A promise that was not kept.

    ``kind``: in a few words; failures of the same kind are counted together.  ``command``: what was attacked.
    ``said``: what was seen of it.  ``files``: what it takes to see it again, by their names.
    """

    kind: str
    command: str
    said: str
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(kw_only=True)
class Found:
    """What came of an attack: how many tries, how many failures of each kind, and some of them."""

    tries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Found") -> "Found":
        """Both together."""
        self.tries += other.tries
        self.failures += other.failures
        self.notes += [note for note in other.notes if note not in self.notes]
        return self


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt of an attack: as many tries as it made, and what failed."""

    tries: int = 1
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack on one promise.

    ``promise``, ``how``: what the table says.  ``tries``: how many a whole torture makes, within ``share`` of its time.
    ``attempt``: (ground, case) → what came of it.  ``prepare``: what it needs, made once.  ``most``: how many cases
    there are, if not endless.  ``alone``: whether it wants the machine for itself.
    """

    promise: str
    how: str
    tries: int
    share: float
    attempt: Callable[[Ground, int], Attempt]
    prepare: Callable[[Ground], None] = lambda _: None
    most: Callable[[Ground], int] | None = None
    alone: bool = False


KEPT = 5  # failures of a kind whose files are kept


@dataclass(frozen=True, kw_only=True)
class Underway:
    """An attack that processes are carrying out: each leaves what it has found in a file."""

    name: str
    workers: dict[int, Path]

    def wait(self) -> Found:
        """What they have found, all together.  Raises RuntimeError if one of them ended by a mistake of its own."""
        total = Found()
        for child, path in self.workers.items():
            if os.waitpid(child, 0)[1]:
                raise RuntimeError(f"a worker of {self.name} ended with an error; it is above")
            total += pickle.loads(path.read_bytes())
        return total


def begin(
    name: str, attack: Attack, ground: Ground, out: Path, *, tries: int, seconds: float, processes: int
) -> Underway:
    """Attempt until there were so many tries, or so many seconds are over, in several processes."""
    attack.prepare(ground)
    count = 1 if attack.alone else min(processes, tries)
    workers = {}
    for worker in range(count):
        path = ground.folder / f"{name}-{worker}.pickle"
        if (child := os.fork()) == 0:
            status = 1
            try:
                found = work(name, attack, ground, out, (worker, count), -(-tries // count), seconds)
                path.write_bytes(pickle.dumps(found))
                status = 0
            except BaseException:  # a mistake of the attack's own
                traceback.print_exc()
            finally:
                os._exit(status)
        workers[child] = path
    return Underway(name=name, workers=workers)


def work(
    name: str, attack: Attack, ground: Ground, out: Path, part: tuple[int, int], tries: int, seconds: float
) -> Found:
    """One process' part of the attempts."""
    began, case, found = time.monotonic(), part[0], Found()
    most = None if attack.most is None else attack.most(ground)
    while found.tries < tries and time.monotonic() - began < seconds and (most is None or case < most):
        attempt = attack.attempt(ground, case)
        for failure in attempt.failures:
            record(name, failure, ground, out, part[0], case, found)
        found += Found(
            tries=attempt.tries,
            failures=Counter(failure.kind for failure in attempt.failures),
            notes=list(attempt.notes),
        )
        case += part[1]
    return found


def record(name: str, failure: Failure, ground: Ground, out: Path, worker: int, case: int, found: Found) -> None:
    """Write a failure down, with what reproduces it."""
    seen = found.failures[failure.kind]
    if seen >= KEPT:
        return
    words = "".join(c if c.isalnum() else "-" for c in failure.kind)[:60]
    folder = out / name / f"{words}-{worker}{seen}"
    folder.mkdir(parents=True, exist_ok=True)
    again = f"python scripts/torture.py --only {name} --seed {ground.seed} --case {case}"
    for file, content in failure.files.items():
        (folder / file).write_bytes(content)
    files = f"\nfiles: {', '.join(failure.files)}" if failure.files else ""
    text = f"{failure.kind}\n\ncommand: {failure.command}\nagain: {again}{files}\n\n{failure.said}\n"
    (folder / "failure.txt").write_text(text, encoding="utf-8")
