"""Kills, Ctrl-C and terminations at random moments of every long command; and two commands in one folder."""

import functools
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path

from attacks.forks import Ended, forked
from attacks.ground import Ground, complaint, used_by_many
from attacks.jobs import Job, Whole, broken, jobs, left_in, status_of, uninterrupted
from attacks.tally import Attack, Attempt, Failure

CHAIN = 6  # kills of one run, at most, before it is left to end
PARTS = {"safetensors": "weights", "pt": "checkpoint", "jsonl": "metrics.jsonl", "png": "pictures", "gif": "pictures"}


def compared(job: Job, whole: Whole, place: Path, ended: Ended, said: str) -> list[Failure]:
    """What differs between what an interrupted job has left in the end, and the same job uninterrupted."""
    command = job.said()
    if wrong := complaint(ended, 2):
        return [Failure(kind=f"the rerun: {wrong}", command=command, said=f"{said}\n{status_of(ended)}")]
    if ended.status:
        text = f"{said}\n{status_of(ended)}"
        return [Failure(kind="a run that nobody accepts", command=command, said=text)]
    found, failures = left_in(place), []
    if extra := sorted(set(found) - set(whole.files)):
        failures.append(Failure(kind="leftovers", command=command, said=f"{said}\n{extra}"))
    if missing := sorted(set(whole.files) - set(found)):
        failures.append(Failure(kind="files are missing", command=command, said=f"{said}\n{missing}"))
    for name in sorted(set(found) & set(whole.files)):
        if found[name] != whole.files[name]:
            part = PARTS.get(name.rpartition(".")[2], "numbers")
            failures.append(Failure(kind=f"other {part} than uninterrupted", command=command, said=f"{said}\n{name}"))
    return list({failure.kind: failure for failure in failures}.values())


def again(job: Job, place: Path) -> tuple[Callable[[], None], str]:
    """The command that a user gives after a kill, and its options."""
    if job.resumes:
        return job.call("--resume"), "--resume"
    from attacks.options import options_of

    command = job.words.split()[0]
    if (place / job.out).exists() and "--overwrite" in [option.name for option in options_of(command)]:
        return job.call("--overwrite"), "--overwrite"
    return job.call(), ""


def killed(ground: Ground, case: int) -> Attempt:
    """Kill a job again and again, at random moments or just before it writes, and then let it end."""
    names = list(jobs(ground))
    name = (names[:3] * 2 + names[3:])[case % (len(names) + 3)]
    job, whole, chance = jobs(ground)[name], uninterrupted(ground, name), ground.chance("kills", case)
    failures: list[Failure] = []
    kills, moments = 0, []
    with ground.place("kills", case) as place:
        call, words = job.call(), ""
        while kills < (CHAIN if job.resumes else 1):
            if chance.random() < 0.5:
                moment = chance.random() * whole.seconds
                ended = forked(call, place, strikes=[(moment, signal.SIGKILL)])
                moments.append(f"{words} after {moment:.2f} s")
            else:
                write = chance.randint(1, whole.writes)
                ended = forked(functools.partial(job.start, tuple(words.split()), write), place)
                moments.append(f"{words} before write {write}")
            if ended.status != -signal.SIGKILL:
                moments[-1] += ", which it did not live to see" if ended.status else ", when it had ended"
                break
            kills += 1
            said = f"killed: {'; '.join(moments)}"
            if half := broken(place):
                failures.append(Failure(kind="half a file under its name", command=job.said(), said=f"{said}\n{half}"))
            call, words = again(job, place)
        said = f"killed: {'; '.join(moments)}"
        if kills and ended.status == -signal.SIGKILL:
            ended = forked(call, place)
        if kills:
            failures += compared(job, whole, place, ended, said)
    return Attempt(tries=max(1, kills), failures=tuple(failures))


def struck(ground: Ground, case: int) -> Attempt:
    """Interrupt a job by Ctrl-C, by two, or by a termination, at a random moment; then let it end."""
    names = list(jobs(ground))
    name = names[case // 3 % len(names)]
    job, whole, chance = jobs(ground)[name], uninterrupted(ground, name), ground.chance("signals", case)
    moment = chance.random() * whole.seconds
    what, strikes, status = [
        ("SIGTERM", [(moment, signal.SIGTERM)], 143),
        ("two Ctrl-C", [(moment, signal.SIGINT), (moment + chance.random() / 2, signal.SIGINT)], 130),
        ("Ctrl-C", [(moment, signal.SIGINT)], 130),
    ][case % 3]
    said, failures = f"{what} after {moment:.2f} s", []
    with ground.place("signals", case) as place:
        ended = forked(job.call(), place, strikes=strikes)
        wrong = complaint(ended, status)
        if wrong:
            failures.append(Failure(kind=f"{what}: {wrong}", command=job.said(), said=f"{said}\n{status_of(ended)}"))
        if half := broken(place):
            failures.append(Failure(kind="half a file under its name", command=job.said(), said=f"{said}\n{half}"))
        if ended.status and not wrong:
            failures += compared(job, whole, place, forked(again(job, place)[0], place), said)
    return Attempt(failures=tuple(failures))


def raced(ground: Ground, case: int) -> Attempt:
    """Two trainings with different seeds in one folder: one does its work, the other says who holds it."""
    name = ("train", "toy")[case % 2]
    job, chance = jobs(ground)[name], ground.chance("races", case)
    whole, other = uninterrupted(ground, name), with_seed(ground, name)
    pause = chance.random() * whole.seconds * 0.8
    said, failures = f"the second {pause:.2f} s after the first", []
    command = f"{job.said()} & {job.said('--seed', '1')}"
    with ground.place("races", case) as place:
        results = both(job, place, pause)
        for ended in results:
            if wrong := complaint(ended, 2):
                failures.append(
                    Failure(kind=f"one of two: {wrong}", command=command, said=f"{said}\n{status_of(ended)}")
                )
        done = [files for files, ended in zip((whole.files, other), results, strict=True) if ended.status == 0]
        left = left_in(place)
        if len(done) != 1:
            texts = "\n".join(status_of(ended) for ended in results)
            kind = "of two, both did their work" if done else "of two, none did its work"
            failures.append(Failure(kind=kind, command=command, said=f"{said}\n{texts}"))
        elif not failures and {name: left.get(name) for name in done[0]} != done[0]:
            failures.append(Failure(kind="of two, the files are of both", command=command, said=said))
    return Attempt(failures=tuple({failure.kind: failure for failure in failures}.values()))


def both(job: Job, place: Path, pause: float) -> tuple[Ended, Ended]:
    """The job, and after a pause the same with another seed, in the same folder."""
    path = place / ".second"
    child = os.fork()
    if child == 0:
        try:
            time.sleep(pause)
            path.write_bytes(pickle.dumps(forked(job.call("--seed", "1"), place)))
        finally:
            os._exit(0)
    first = forked(job.call(), place)
    os.waitpid(child, 0)
    second: Ended = pickle.loads(path.read_bytes())
    path.unlink()
    return first, second


def with_seed(ground: Ground, name: str) -> dict[str, str]:
    """What the job leaves with the other seed."""

    def measure() -> dict[str, str]:
        with ground.place(f"seed-1-{name}", 0) as place:
            forked(jobs(ground)[name].call("--seed", "1"), place)
            return left_in(place)

    files: dict[str, str] = ground.recalled(f"seed-1-{name}", measure)
    return files


KILLS = Attack(
    promise="A kill at any moment loses at most what came after the last checkpoint: every file is whole, the same "
    "command with `--resume` goes on, and in the end there is the same to the byte, and nothing else",
    how="SIGKILL at random moments, and just before random writes, of training, sampling, evaluating and the other "
    "long commands, resumed runs too; a checkpoint every 0.1 s",
    tries=300,
    share=0.23,
    attempt=killed,
    prepare=used_by_many,
)
SIGNALS = Attack(
    promise="Ctrl-C, a second one and SIGTERM end with one line, exit status 130 or 143, and whole files",
    how="the signals at random moments of the same commands",
    tries=60,
    share=0.05,
    attempt=struck,
    prepare=used_by_many,
)
RACES = Attack(
    promise="A folder belongs to one process at a time; another one says so in one line",
    how="pairs of trainings with different seeds in one folder, the second at a random moment of the first",
    tries=30,
    share=0.04,
    attempt=raced,
    prepare=used_by_many,
)
