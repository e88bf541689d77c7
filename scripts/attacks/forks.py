"""Commands in processes of their own, forked from one that has imported torch: a hundred in the time of ten.

What a process may use is limited, signals strike it at the moments that an attack chooses, and how it ended is known.
"""

import ctypes
import io
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

STRIKES = (signal.SIGINT, signal.SIGTERM)
GRACE = 10.0  # seconds for a process that is late to obey Ctrl-C, before it is killed
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""What changes a folder, by the names of Python's audit events; opening to write does too."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a process may use: seconds of the CPU and of the clock, and bytes beyond those that it is born with."""

    cpu: float = 60.0
    wall: float = 600.0
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended.

    ``status``: as Python's subprocess has it, −9 for one that was killed.  ``peak``: bytes of memory at most, torch and
    all.  ``late``: whether it was still at work at its limit; it was then interrupted as Ctrl-C does.
    """

    status: int
    out: str
    error: str
    cpu: float
    peak: int
    late: bool = False


def forked(
    call: Callable[[], object],
    cwd: Path,
    *,
    limits: Limits | None = None,
    strikes: Sequence[tuple[float, int]] = (),
    ordinary: bool = False,
    encoding: str = "utf-8",
) -> Ended:
    """Call something as if it were a program started in ``cwd``, and wait for its end.

    ``strikes``: signals, each after so many seconds.  ``ordinary``: without root's rights, where this is root.
    ``encoding``: of its standard output.
    """
    allowed = limits or Limits()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        began = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, STRIKES)  # until the child is the program, and answers for itself
        child = os.fork()
        if child == 0:
            become(call, cwd, (out.fileno(), error.fileno()), allowed.memory, ordinary, encoding)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STRIKES)
        late = attend(child, began, allowed, sorted(strikes))
        _, status, used = os.wait4(child, 0)
        out.seek(0)
        error.seek(0)
        return Ended(
            status=os.waitstatus_to_exitcode(status),
            out=out.read().decode("utf-8", "replace"),
            error=error.read().decode("utf-8", "replace"),
            cpu=used.ru_utime + used.ru_stime,
            peak=used.ru_maxrss * 1024,
            late=late,
        )


def attend(child: int, began: float, limits: Limits, strikes: Sequence[tuple[float, int]]) -> bool:
    """Wait until a process has ended, strike it on its way, and stop it at its limits; returns whether it was late."""
    waiting, late = list(strikes), 0.0
    watched = os.pidfd_open(child)
    try:
        while True:
            now = time.monotonic() - began
            pause = min(0.2, max(0.0, waiting[0][0] - now)) if waiting else 0.2
            if select.select([watched], [], [], pause)[0]:
                return bool(late)
            now = time.monotonic() - began
            while waiting and waiting[0][0] <= now:
                signal.pidfd_send_signal(watched, waiting.pop(0)[1])
            if not late and (now > limits.wall or cpu_seconds(child) > limits.cpu):
                late = now
                signal.pidfd_send_signal(watched, signal.SIGINT)
            if late and now > late + GRACE:
                signal.pidfd_send_signal(watched, signal.SIGKILL)
                late = now + 3600
    finally:
        os.close(watched)


def cpu_seconds(process: int) -> float:
    """What a process that still runs, or has just ended, has used of the CPU."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def become(
    call: Callable[[], object], cwd: Path, files: tuple[int, int], memory: int | None, ordinary: bool, encoding: str
) -> NoReturn:
    """In the child: be the program, and end as Python does."""
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding=encoding, write_through=True)
        sys.stderr = io.TextIOWrapper(
            io.FileIO(2, "w", closefd=False), encoding=encoding, errors="backslashreplace", write_through=True
        )
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(cwd)
        if memory is not None:
            most = data_size() + memory
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        if ordinary:
            without_rights()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STRIKES)
        call()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:  # as Python itself: whatever it is, its traceback is printed
        traceback.print_exc()
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        os._exit(status)


def without_rights() -> None:
    """Give root's rights up, and stay the same user: others may not be able to read Python itself."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(version_3, none):
        raise OSError(ctypes.get_errno(), "root's rights could not be given up")


def data_size() -> int:
    """Bytes of memory that this process has asked for so far, as RLIMIT_DATA counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


def at_write(number: int) -> Callable[[], int]:
    """Kill this process just before it changes a folder or opens a file to write for the ``number``-th time.

    Returns what says how often it has been so far; 0 never kills.
    """
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        flags = args[2] if event == "open" else None
        if event in WRITES or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: count
