"""Full disks and folders that may not be written."""

import ctypes
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attacks.forks import Ended, forked
from attacks.ground import Ground, complaint, used_by_many
from attacks.jobs import Job, broken, files_in, jobs, status_of, uninterrupted
from attacks.tally import Attack, Attempt, Failure


@contextmanager
def full(folder: Path, size: int) -> Iterator[bool]:
    """A disk of so many bytes at ``folder``, while the block runs; False where this user may mount none."""
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=755".encode()
    mounted = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(bytes(folder), 2)  # MNT_DETACH: also while somebody looks at it


def sized(ground: Ground, name: str) -> int:
    """The bytes that a job leaves."""
    uninterrupted(ground, name)
    folder = ground.folder / "uninterrupted" / name.replace(" ", "-")
    return sum(path.stat().st_size for path in files_in(folder))


def attempt(ground: Ground, case: int) -> Attempt:
    """A long command on a disk that is too small, or where it may not write."""
    if case % 3 == 2:
        return read_only(ground, case)
    names = list(jobs(ground))
    name, chance = names[case // 3 % len(names)], ground.chance("disk", case)
    job, size = jobs(ground)[name], int(chance.random() * sized(ground, name))
    with ground.place("disk", case) as place, full(place, max(4096, size)) as mounted:
        if not mounted:
            return Attempt(tries=0, notes=("no disk could be mounted: that needs root; full disks were not tried",))
        ended = forked(job.call(), place)
        left = broken(place)
        kinds = list(judged(ended, job))
        said = f"a disk of {size:,} bytes\n{left}\n{status_of(ended)}"
    kinds += ["half a file under its name"] if left else []
    return Attempt(failures=tuple(Failure(kind=f"full: {kind}", command=job.said(), said=said) for kind in kinds))


def judged(ended: Ended, job: Job) -> Iterator[str]:
    """What is wrong, in a few words each; that everything fitted after all is right, too."""
    if wrong := complaint(ended, 2):
        yield wrong
    elif ended.status and not named_in(ended, job):
        yield "a line that does not name the file"


def named_in(ended: Ended, job: Job) -> bool:
    """Whether the last line names what the job writes."""
    return re.search(rf"\b{re.escape(job.out)}\b", ended.error.splitlines()[-1]) is not None


def read_only(ground: Ground, case: int) -> Attempt:
    """A long command of an ordinary user in a folder that may not be written; or which resumes a run in one."""
    names = list(jobs(ground))
    name = names[case // 3 % len(names)]
    job = jobs(ground)[name]
    resumed = job.resumes and case // 3 // len(names) % 2 == 1
    with ground.place("disk", case) as place:
        if resumed:
            shutil.copytree(ground.folder / "uninterrupted" / name.replace(" ", "-"), place, dirs_exist_ok=True)
        before = {path: path.read_bytes() for path in files_in(place)}
        for path in (place, *place.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        call = job.call("--resume", "--steps", "60") if resumed else job.call()
        ended = forked(call, place, ordinary=True)
        kinds = [wrong] if (wrong := complaint(ended, 2)) else []
        if not kinds and ended.status == 0:
            kinds.append("no refusal")
        elif not kinds and not named_in(ended, job):
            kinds.append("a line that does not name the file")
        if {path: path.read_bytes() for path in files_in(place)} != before:
            kinds.append("what was there is another")
        for path in (place, *(path for path in place.rglob("*") if path.is_dir())):
            path.chmod(0o755)
    command = job.said(*(("--resume",) if resumed else ()))
    return Attempt(
        failures=tuple(Failure(kind=f"read-only: {kind}", command=command, said=status_of(ended)) for kind in kinds)
    )


ATTACK = Attack(
    promise="On a full disk, or in a folder that may not be written, one line names the file; what was there is whole",
    how="the long commands on a tmpfs too small by chance, and as an ordinary user in read-only folders, new runs and "
    "resumed ones",
    tries=90,
    share=0.02,
    attempt=attempt,
    prepare=used_by_many,
)
