"""Commands in processes of their own, and whether what they leave is whole.

A process is forked from one that has imported torch, so that a hundred commands take the time of ten.
"""

import hashlib
import io
import json
import os
import re
import resource
import runpy
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.torch import load_file

from ncsn.machine.messages import quit_on_signals

ROOT = Path(__file__).resolve().parents[2]
STRIKES = (signal.SIGINT, signal.SIGTERM)
MEMORY = 2 * 2**30  # bytes beyond those that a process is born with
GRACE = 10.0  # seconds after which a process that does not obey Ctrl-C is killed
HASTE = 300  # times as fast runs a process' monotonic clock: a checkpoint comes every 0.1 s instead of every 30
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""What changes a folder, by the names of Python's audit events; opening to write does too."""


class Ended(NamedTuple):
    """How a process ended.  ``status``: −9 for one that was killed.  ``late``: it was interrupted at its limit."""

    status: int
    out: str
    error: str
    late: bool

    def __str__(self) -> str:
        """For a reader."""
        return f"status {self.status}\n--- stderr\n{self.error[-3000:]}\n--- stdout\n{self.out[-500:]}"


def play(
    words: Sequence[str],
    cwd: Path,
    *,
    strikes: Sequence[tuple[float, int]] = (),
    kill_at: int = 0,
    cpu: float = 60,
    wall: float = 600,
) -> Ended:
    """Run a command, whose first word is ncsn or a script's name, in a folder, and wait for its end.

    ``strikes``: signals, each so many seconds after the beginning.  ``kill_at``: the process is killed when it writes
    for so many times.  ``cpu``, ``wall``: seconds, after which it is interrupted as by Ctrl-C.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        signal.pthread_sigmask(signal.SIG_BLOCK, STRIKES)  # until the child is the program, and answers for itself
        if (child := os.fork()) == 0:
            become(words, cwd, (out.fileno(), error.fileno()), kill_at)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STRIKES)
        late = attend(child, sorted(strikes), cpu, wall)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said, wrong = (os.pread(file.fileno(), 2**24, 0).decode("utf-8", "replace") for file in (out, error))
        return Ended(status, said, wrong, late)


def attend(child: int, waiting: list[tuple[float, int]], cpu: float, wall: float) -> bool:
    """Strike a process on its way until it has ended; returns whether it had to be stopped at a limit."""
    watched, began, used = os.pidfd_open(child), time.monotonic(), 0.0
    while (now := time.monotonic() - began) < wall and used < cpu:
        if select.select([watched], [], [], max(0.0, min(0.2, *(at - now for at, _ in waiting[:1]), 0.2)))[0]:
            os.close(watched)
            return False
        if waiting and waiting[0][0] <= time.monotonic() - began:
            signal.pidfd_send_signal(watched, waiting.pop(0)[1])
        ticks = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
        used = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    signal.pidfd_send_signal(watched, signal.SIGINT)
    if not select.select([watched], [], [], GRACE)[0]:
        signal.pidfd_send_signal(watched, signal.SIGKILL)
    os.close(watched)
    return True


def become(words: Sequence[str], cwd: Path, files: tuple[int, int], kill_at: int) -> NoReturn:
    """In the child: be the program, and end as Python does."""
    status = 1
    try:
        os.setsid()
        for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), *files)):
            os.dup2(file, stream)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), "utf-8", write_through=True) for n in (1, 2))
        born = re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())
        resource.setrlimit(resource.RLIMIT_DATA, (int(born[0]) * 1024 + MEMORY,) * 2)
        os.chdir(cwd)
        clock = time.monotonic
        time.monotonic = lambda: HASTE * clock()
        kill_before(kill_at)
        sys.argv = list(words)
        script = "ncsn/__main__.py" if words[0] == "ncsn" else f"../{words[0]}"
        quit_on_signals()  # as the program itself soon does: before, it would be Python that is struck
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STRIKES)
        runpy.run_path(str(ROOT / "src" / script), run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # as Python itself: whatever it is, its traceback is printed
        traceback.print_exc()
    finally:
        os._exit(status)


def kill_before(number: int) -> None:
    """Kill this process just before it changes a folder, or opens a file to write, for the ``number``-th time."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if opened or event in WRITES:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    if number:
        sys.addaudithook(hook)


def complaint(ended: Ended, *allowed: int) -> str | None:
    """What is wrong with how a command ended, in a few words; None if nothing is.

    ``allowed``: exit statuses beside 0; each must come with one line that begins with ``error: ``.
    """
    lines = [line for line in ended.error.replace("\r", "\n").splitlines() if line.strip()]
    if "Traceback (most recent call last)" in ended.error:
        return f"traceback: {lines[-1].split(':')[0].strip()[:60]}"
    if "Warning: " in ended.error:
        return "a warning on the screen"
    if ended.late:
        return "over its limit of time"
    if ended.status not in (0, *allowed):
        return f"exit status {ended.status}"
    errors = [line for line in lines if line.startswith("error: ")]
    return "not one line that begins with error:" if ended.status and errors != lines[-1:] else None


def digests(folder: Path) -> dict[str, str]:
    """What the files below a folder say, by name, but for how long anything took; "broken" for what is not whole.

    A run's lock is left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if (path.is_file() or path.is_symlink()) and not path.name.startswith(".lock"):
            try:
                said = hashlib.sha256(timeless(content(path)).encode()).hexdigest()
            except Exception as error:  # whatever a reader says of half a file
                said = f"broken: {type(error).__name__}: {error}"
            found[str(path.relative_to(folder))] = said
    return found


def broken(folder: Path) -> list[str]:
    """The files below a folder that have their final names and are not whole."""
    return [name for name, said in digests(folder).items() if "broken" in said and "/." not in f"/{name}"]


def content(path: Path) -> Any:
    """What a file says.  Raises whatever its reader does."""
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl":  # the last line is what a kill has cut short
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix in (".png", ".gif"):
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    return dict(np.load(path)) if path.suffix == ".npz" else path.read_bytes()


def timeless(value: Any) -> str:
    """What was read from a file, as text, without durations, speeds and digests of these."""
    if isinstance(value, dict):
        named = {str(name): item for name, item in value.items()}
        kept = [name for name in sorted(named) if not any(word in name for word in ("second", "digest", "sha256"))]
        return str([(name, timeless(named[name])) for name in kept])
    if isinstance(value, list | tuple):
        return str([timeless(item) for item in value])
    if isinstance(value, torch.Tensor):
        value = value.contiguous().numpy()
    return hashlib.sha256(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else repr(value)
