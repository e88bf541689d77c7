"""Damaged files: whatever is read of a run or of data is given damaged, a hundred thousand times, in process."""

import contextlib
import io
import json
import os
import random
import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks import readers
from attacks.forks import Limits, forked
from attacks.ground import Ground, used_by_many
from attacks.readers import Reader
from attacks.tally import Attack, Attempt, Failure

BATCH = 250  # inputs that one process reads
SECONDS = 5.0  # of the CPU that reading one may take
MEMORY = 2**30
LONGEST = 1000  # characters of a message in one line


class LateError(BaseException):
    """Reading took too long; no ``except Exception`` may take it for a broken file."""


@dataclass(frozen=True)
class Batch:
    """Inputs of one kind, numbered."""

    name: str
    reader: Reader
    ground: Ground
    first: int

    def input(self, number: int) -> tuple[bytes, bool]:
        """The damaged bytes, and whether only the same content may be read from them."""
        chance = random.Random(f"{self.ground.seed} {self.name} {number}")
        original = self.reader.original.read_bytes()
        if chance.random() < self.reader.structured:
            return self.reader.damage(original, chance), False
        from attacks.damage import damaged

        return damaged(original, chance), self.reader.exact

    def read(self, start: int) -> None:
        """In a child: read the inputs from a number on, and say on standard output what failed."""
        folder = Path()
        target = self.reader.target(folder)
        with quiet():
            expected = self.reader.read(self.reader.original)
        signal.signal(signal.SIGPROF, late)
        for number in range(start, self.first + BATCH):
            data, exact = self.input(number)
            target.write_bytes(data)
            os.write(1, json.dumps({"number": number}).encode() + b"\n")
            kind = outcome(self.reader, target, exact, expected)
            if kind is not None:
                os.write(1, json.dumps({"number": number, "kind": kind[0], "said": kind[1]}).encode() + b"\n")
        os.write(1, b"{}\n")


def late(*_: Any) -> None:
    """The alarm."""
    raise LateError


def outcome(reader: Reader, target: Path, exact: bool, expected: Any) -> tuple[str, str] | None:
    """What is wrong with how reading ended: in a few words, and in full; None if nothing is."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with quiet():
            found = reader.read(target)
        if exact and found != expected:
            return "other content is read", ""
    except LateError:
        return f"takes more than {SECONDS:g} s", ""
    except (ValueError, OSError) as error:
        return complaint(str(error), target)
    except BaseException as error:
        frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__) if "/ncsn/" in frame.filename]
        place = Path(frames[-1]).name if frames else "nothing of ncsn"
        return (
            f"{type(error).__name__} in {place}",
            f"{error!s:.500}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}",
        )
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return (f"takes more than {MEMORY // 2**21} MB", f"{grown:.0f} MB") if grown > MEMORY / 2**21 else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, and a warning, which a user should not see, is an error."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        yield


def complaint(message: str, target: Path) -> tuple[str, str] | None:
    """What is wrong with a refusal."""
    listed = max(1, message.count(str(target)))  # broken images are all named
    if "\n" in message or len(message) > LONGEST * listed:
        return "a refusal of more than one line", message[:LONGEST]
    names = [target.name, target.parent.name or ".", str(target)]
    return None if any(name in message for name in names) else ("a refusal that does not name the file", message)


def attempt(name: str, ground: Ground, case: int) -> Attempt:
    """Read a batch of damaged files; a process that dies of one is replaced by another."""
    kinds = readers.READERS[name](ground)
    reader = kinds[case % len(kinds)]
    batch = Batch(name, reader, ground, case * BATCH)
    failures: list[Failure] = []
    start = batch.first
    with ground.place(name, case) as place:
        while start < batch.first + BATCH:
            reader.prepare(place)
            limits = Limits(cpu=SECONDS * BATCH, wall=900, memory=MEMORY)
            ended = forked(lambda: batch.read(start), place, limits=limits)  # noqa: B023
            said = [json.loads(line) for line in ended.out.splitlines()]
            failures += [failed(batch, row["number"], row["kind"], row["said"]) for row in said if "kind" in row]
            if said and said[-1] == {}:
                break
            last = max((row["number"] for row in said if row), default=None)
            if last is None:
                raise RuntimeError(f"{name} could not begin: {ended.error}")
            kind = "hangs" if ended.late else f"the process dies with status {ended.status}"
            failures.append(failed(batch, last, kind, ended.error[-1000:]))
            start = last + 1
    return Attempt(tries=BATCH, failures=tuple(failures))


def failed(batch: Batch, number: int, kind: str, said: str) -> Failure:
    """A failure with the file that caused it."""
    data, _ = batch.input(number)
    files = {batch.reader.original.name: data} if len(data) < 2**20 else {}
    text = f"input {number} of {batch.name}\n{said}"
    return Failure(kind=kind, command=batch.reader.command, said=text, files=files)


def fuzzing(name: str, promise: str, how: str, tries: int, share: float) -> Attack:
    """The attack on one kind of file."""

    def attempt_one(ground: Ground, case: int) -> Attempt:
        return attempt(name, ground, case)

    def prepare(ground: Ground) -> None:
        used_by_many(ground)
        readers.READERS[name](ground)

    return Attack(promise=promise, how=how, tries=tries, share=share, attempt=attempt_one, prepare=prepare)


def attacks() -> dict[str, Attack]:
    """All of them: a hundred thousand inputs together."""
    damages = "bits, cuts, splices, and"
    return {
        "config": fuzzing(
            "config", "A damaged config.json is read right, or refused at once in one line that names it",
            f"{damages} values, names and nesting in JSON: `ncsn.load`, `ncsn info`, `--resume`", 8_000, 0.05,
        ),
        "weights": fuzzing(
            "weights", "Of damaged weights the same are read, or none: one line",
            f"{damages} headers of model.safetensors", 26_000, 0.05,
        ),
        "checkpoints": fuzzing(
            "checkpoints", "Of a damaged checkpoint the same state is read, or none: one line; nothing is executed",
            f"{damages} contents of valid form: `State.load`", 6_000, 0.05,
        ),
        "arrays": fuzzing(
            "arrays", "Of a damaged .npz of samples the same are read, or none: one line, little memory",
            f"{damages} headers, members and sizes: `ncsn evaluate FILE.npz`", 20_000, 0.05,
        ),
        "images": fuzzing(
            "images", "Damaged images, archives and arrays of a data set are refused in one line",
            f"{damages} chunks and sizes, of PNG, JPEG, TIFF, zip, tar, .npy and .npz: `ncsn train`", 36_000, 0.03,
        ),
        "tables": fuzzing(
            "tables", "Damaged metrics and evaluations are read as far as they are whole, or refused: one line",
            f"{damages} values and rows: `--resume`, `ncsn info`, `ncsn push`", 9_000, 0.05,
        ),
        "exports": fuzzing(
            "exports", "What a damaged exported file says of itself is read right, or refused in one line",
            f"{damages} values, names and nesting in its metadata: `ncsn.exporting.read`", 9_000, 0.01,
        ),
    }  # fmt: skip
