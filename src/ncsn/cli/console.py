"""What the scripts and the command ``ncsn`` share: parsing, one-line errors, progress bars.

Torch is imported inside the functions that need it, so that ``--help`` answers at once.
"""

import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from ncsn.machine.interrupts import Stopped, interruptible

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
S = TypeVar("S")
T = TypeVar("T")


def fail(message: str, status: int = 2) -> NoReturn:
    """Say in one line what is wrong, and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def parse(settings: Any, args: list[str] | None = None, prog: str | None = None) -> Any:
    """``settings`` (a dataclass, or a union of them) from the command line; a mistake is one line and exit status 2."""
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(settings, args=args, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box; what is wrong stands between its top edge and the first rule.
        body = re.split(r"│ ─+ │", complaint.getvalue().split("╮", 1)[-1])[0]
        fail(re.sub(r"[│╭╮╰╯─]", " ", body).strip().rstrip(".") + "; --help lists what is allowed")


def run(command: Callable[[S], None], settings: Any, args: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line into ``settings`` and run ``command`` on it; whatever stops it is one line.

    The exit status is 2 for a user's mistake, 1 for what went wrong while computing, 130 for Ctrl-C, 143 for SIGTERM.
    """
    if follows():
        be_quiet()
    for stream in (sys.stdout, sys.stderr):  # σ, in the encoding of a terminal that has none
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        given = parse(settings, args, prog)
        # Torch is imported before Ctrl-C is the command's to answer: an interrupted import says whatever it likes.
        import torch

        from ncsn.machine import hardware

        hardware.keep_memory()
        torch.set_flush_denormal(True)  # processors are slow at numbers below 10⁻³⁸: a fifth of a training step
        with interruptible():
            command(given)
        return
    except (ValueError, OSError) as error:
        wrong = str(error)
    except (MemoryError, RuntimeError) as error:
        fail_computing(error)
    except KeyboardInterrupt as error:
        stopped(error)
    # Only now, when nothing holds what the command was at, have its bars ended their lines.
    fail(wrong)


def follows() -> bool:
    """Whether this is a process that torchrun started, but for the first, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def be_quiet() -> None:
    """Say nothing but errors, and show no bars."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    os.environ["TQDM_DISABLE"] = "1"


def stopped(error: KeyboardInterrupt, where: str = "") -> NoReturn:
    """Say that Ctrl-C or SIGTERM has ended the program, and where; exit with the status that says so too."""
    terminated = isinstance(error, Stopped) and error.number == signal.SIGTERM
    number, what = (signal.SIGTERM, "terminated") if terminated else (signal.SIGINT, "interrupted")
    if follows():  # the first process says it for all
        raise SystemExit(128 + number)
    fail(f"{what}{where or error}", 128 + number)


def fail_computing(error: MemoryError | RuntimeError) -> NoReturn:
    """Say what went wrong while computing, if that is known, and exit with status 1; else raise it again."""
    from ncsn.machine.distributed import PeerError
    from ncsn.samplers import NonFiniteSampleError
    from ncsn.training import NonFiniteLossError

    if isinstance(error, NonFiniteLossError) and follows():
        raise SystemExit(1)
    if isinstance(error, PeerError):
        # Where it began says why.  Of each machine the first process says what it knows; more would only be in the way.
        raise SystemExit(1) if os.environ.get("LOCAL_RANK", "0") != "0" else fail(str(error), 1)
    if isinstance(error, NonFiniteSampleError | NonFiniteLossError):
        fail(str(error), 1)
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        fail("out of memory; a smaller --batch-size, a larger --accumulate, smaller images or networks need less", 1)
    raise error


def bar(states: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Whatever comes, passed on under a progress bar if it takes over a second; ``total``: by default its length."""
    from tqdm.auto import tqdm

    from ncsn.machine.hardware import Threads, refresh_interval

    interval = refresh_interval()
    shown = tqdm(states, total=total, desc=description, unit="state", delay=1, leave=False, mininterval=interval)
    yield from Threads().beside(shown)
