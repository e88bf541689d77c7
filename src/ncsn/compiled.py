"""Where torch keeps what it compiles, so that nothing is compiled twice; torch need not be loaded yet."""

import hashlib
import os
import platform
import shlex
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # torch's name for it
UNFINISHED = "unfinished-"  # begins the names of marks


def place() -> Path:
    """The folder in the user's cache for this kind of processor: what runs on one may not on another of that home."""
    kind = hashlib.sha256(processor().encode()).hexdigest()[:16]
    return platformdirs.user_cache_path("ncsn", appauthor=False) / "compiled" / kind


def processor() -> str:
    """The processor's kind, and on Linux the instructions that it has."""
    flags = ""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")  # all of a machine's alike
    return platform.machine() + flags


def keep() -> None:
    """Have torch keep what it compiles in ``place``, unless the user has set another; call before it compiles.

    Without, torch keeps it with the temporary files, which many systems remove when they start.  That stays so where
    the place cannot be written, or has a name with spaces or quotes, which torch's compiler does not take.
    """
    here = place()
    there = next(folder for folder in (here, *here.parents) if os.access(folder, os.F_OK))
    if os.access(there, os.W_OK | os.X_OK) and shlex.quote(str(here)) == str(here):
        os.environ.setdefault(VARIABLE, str(here))


@contextmanager
def marked() -> Iterator[None]:
    """Within it, torch compiles; if the program is killed meanwhile, the next one removes all that is kept.

    Else it would find half a library, and compile nothing.  A mark is a file that its program locks: where nobody holds
    the lock any more, somebody was killed.  Does nothing where the user has set another place.
    """
    here = place()
    if os.environ.get(VARIABLE) != str(here):
        yield
        return
    here.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{here}.lock"):
        marks = list(here.glob(f"{UNFINISHED}*"))
        if marks and not any(held(mark) for mark in marks):
            shutil.rmtree(here)
            here.mkdir()
            remove_headers()
        mark = FileLock(here / f"{UNFINISHED}{uuid.uuid4().hex}")
        mark.acquire()
    try:
        yield
    finally:
        mark.release()
        Path(mark.lock_file).unlink(missing_ok=True)


def held(mark: Path) -> bool:
    """Whether a program holds the lock of that file."""
    try:
        with FileLock(mark, blocking=False):
            return False
    except Timeout:
        return True


def remove_headers() -> None:
    """Remove the headers that torch has compiled, which it keeps with the temporary files wherever the rest is."""
    with suppress(ImportError):  # where that is, torch does not promise
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        shutil.rmtree(Path(default_cache_dir()) / "precompiled_headers", ignore_errors=True)
