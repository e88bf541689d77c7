"""Where torch keeps what it compiles, so that nothing is compiled twice; torch need not be loaded yet."""

import hashlib
import os
import platform
import shlex
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's name for it
HALVES = ("??/*.so", "??/*.o", "*.gch", "*.pch")  # what C++ compilers write there; all else torch writes at once
SKEW = 60  # seconds by which the clocks of two machines may differ


def keep() -> None:
    """Have torch keep what it compiles in ``place``, unless the user has set another; call before it compiles.

    Without, torch keeps it with the temporary files, which many systems remove when they start.  That stays so where
    there is no such place, or none that may be written, and where its name has spaces, quotes or backslashes, which
    torch's compiler does not take: on Windows, for one.
    """
    with suppress(RuntimeError, ValueError):  # a user without a home; a quote without another
        here = place()
        there = next((folder for folder in (here, *here.parents) if os.access(folder, os.F_OK)), here)
        allowed = here.is_absolute() and os.access(there, os.W_OK | os.X_OK)
        if allowed and shlex.split(str(here)) == [str(here)]:
            os.environ.setdefault(VARIABLE, str(here))


def place() -> Path:
    """The folder in the user's cache for systems like this: what runs on one may not on another of that home."""
    system = hashlib.sha256(f"{platform.libc_ver()} {processor()}".encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("ncsn", appauthor=False) / "compiled" / system


def processor() -> str:
    """The processor's kind, and on Linux the instructions that it has."""
    flags = ""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")  # all of a machine's alike
    return platform.machine() + flags


@contextmanager
def whole() -> Iterator[None]:
    """Within it, torch compiles; if the program is killed meanwhile, the next one removes what may be half.

    For torch takes what it finds: half a library, so that it compiles nothing more, or half a trial of the processor,
    so that it compiles for one that can do less.  Compiled headers are always with the temporary files.
    """
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir
    except ImportError:  # where it is, torch does not promise
        yield
        return
    with marked(Path(cache_dir())), marked(Path(default_cache_dir()) / "precompiled_headers"):
        yield


@contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Within it, files in ``folder`` may be half; if the program is killed, the next who comes here removes those.

    A mark is a file whose lock its program holds: where nobody does any more, it was killed.
    """
    mark = None
    with suppress(OSError, NotImplementedError):  # without room, or without locks, nobody can know
        mark = begun(folder)
    try:
        yield
    except KeyboardInterrupt:  # compilers go on until the program has ended, and with it its lock
        raise
    except BaseException:
        ended(mark)
        raise
    ended(mark)


def begun(folder: Path) -> FileLock:
    """A mark that is new, and held; what others have left half is removed, if nobody else is at work."""
    marks = folder / "unfinished"
    marks.mkdir(parents=True, exist_ok=True)
    with gate(marks):
        there = list(marks.glob("*-*"))
        left = [path for path in there if not held(path)]
        for path in left:
            path.touch()  # some versions of filelock remove it when they release it
        if left and len(left) == len(there):
            remove_halves(folder, since=min(int(path.name.split("-")[0]) for path in left) - SKEW)
            for path in left:
                path.unlink()
        mark = FileLock(marks / f"{time.time():.0f}-{uuid.uuid4().hex}")
        mark.acquire()
    return mark


def ended(mark: FileLock | None) -> None:
    """Nothing is half any more."""
    if mark is None:
        return
    path = Path(mark.lock_file)
    with suppress(OSError), gate(path.parent):  # nobody sees it released and still there
        mark.release()
        path.unlink(missing_ok=True)


def gate(marks: Path) -> FileLock:
    """The lock of who looks at marks, or changes them."""
    return FileLock(marks / "gate", timeout=10)


def held(mark: Path) -> bool:
    """Whether a program holds the lock of that file."""
    try:
        with FileLock(mark, blocking=False):
            return False
    except Timeout:
        return True


def remove_halves(folder: Path, since: float) -> None:
    """Remove what compilers have written since then, in seconds since 1970; running programs may need what is older."""
    for pattern in HALVES:
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= since:
                    path.unlink()
