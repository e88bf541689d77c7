"""Messages of the logger ``ncsn``, progress bars, and Ctrl-C and SIGTERM; without importing torch.

``logging.getLogger("ncsn").setLevel("WARNING")`` leaves only warnings, and ``"ERROR"`` nothing; both hide bars.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn, TypeVar

from ncsn.validation import printable

with warnings.catch_warnings():  # in a notebook without ipywidgets, bars are text, which is no reason to warn
    warnings.filterwarnings("ignore", message="IProgress not found")
    from tqdm.auto import tqdm

T = TypeVar("T")
WORTH_SAYING = 10.0  # seconds of waiting
QUIET = ContextVar("QUIET", default=logging.NOTSET)  # the level below which this thread's messages are dropped


class AboveBars(logging.Handler):
    """Writes lines above any progress bar: results to standard output, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message without control characters, in the main process only."""
        if os.environ.get("RANK", "0") == "0":
            file = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            tqdm.write(printable(record.getMessage()), file=file)


log = logging.getLogger("ncsn")
log.setLevel(log.level or logging.INFO)  # unless the user set it before the first call
log.addHandler(AboveBars())
log.propagate = False  # otherwise a handler of the root logger would write every line twice
log.addFilter(lambda record: record.levelno >= QUIET.get())


@contextmanager
def quieter(level: int) -> Iterator[None]:
    """Within it, messages below ``level`` are dropped in this thread, and bars as if the logger had this level."""
    token = QUIET.set(max(level, QUIET.get()))
    try:
        yield
    finally:
        QUIET.reset(token)


def is_shown(level: int) -> bool:
    """Whether messages of this level are shown."""
    return log.isEnabledFor(level) and level >= QUIET.get()


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: short in a terminal, long in a log file."""
    return 0.3 if sys.stderr and sys.stderr.isatty() else 30.0


class Bar(tqdm):  # type: ignore[misc]
    """A bar that messages above it don't show too early, and that is cleared at its end if it was shown for them."""

    was_drawn = False

    def refresh(self, *args: object, **how: object) -> None:
        """Draw the bar, unless its delay has not passed."""
        now, began = time.time(), getattr(self, "start_t", -math.inf)  # a bar without a delay is drawn as it is made
        if not self.disable and now >= began + self.delay:
            self.was_drawn = True
            super().refresh(*args, **how)

    def close(self) -> None:
        """Clear the bar."""
        if self.was_drawn:
            self.last_print_t = time.time()  # tqdm clears only what it drew itself
        super().close()


def bar(items: Iterable[T] | None = None, name: str | None = None, **options: object) -> "tqdm[T]":
    """A tqdm progress bar on standard error, shown after a second, unless the logger only lets warnings through."""
    options = {"delay": 1, "leave": False} | options
    if not is_shown(logging.INFO) or sys.stderr is None:  # as in a program without a console
        options["disable"] = True
    return Bar(items, name, mininterval=refresh_interval(), **options)


def forecast(batches: Iterable[T], total: int, name: str, at_once: int = 1) -> Iterator[T]:
    """Yield ``batches`` of equal cost, or their results; after the first, say how long the others will take.

    As part of the progress, this goes to standard error, and is hidden where bars are.

    ``total``: how many there are; ``at_once``: how many are computed at the same time.
    """
    began = time.monotonic()
    for number, batch in enumerate(batches, 1):
        yield batch
        left = (time.monotonic() - began) / number * (total - number)
        hidden = sys.stderr is None or not is_shown(logging.INFO) or "TQDM_DISABLE" in os.environ
        if number == at_once and left >= WORTH_SAYING and not hidden:
            wait = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} minutes"
            tqdm.write(f"{name}: about {wait}", file=sys.stderr)


STOPS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """Signal ``number`` has stopped the program; the message says where.

    This isn't KeyboardInterrupt itself because Python kills its own process if that passes through ``exec``.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


def quit_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the process at once, with one line and status 130 or 143.

    Otherwise, interrupting an import would print a traceback.
    """

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, b"error: terminated\n" if number == signal.SIGTERM else b"error: interrupted\n")
        os._exit(128 + number)

    for number in STOPS:
        signal.signal(number, end)


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM raise Stopped; a second signal ends the process at once.

    Raises Stopped even if an interrupted library raises something else, such as that a file is damaged.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> NoReturn:
        received.append(number)
        quit_on_signals()
        raise Stopped(number)

    with handle_signals(receive):
        try:
            yield
        except Exception as error:
            if received:
                raise Stopped(received[0]) from error
            raise


@contextmanager
def limit_seconds(seconds: float) -> Iterator[None]:
    """Within it, raise TimeoutError after so many seconds; never if they are 0, or outside the main thread.

    Libraries may swallow an error that is raised in the middle of them, so it is raised again after as many seconds.
    """

    def strike(number: int, frame: object) -> NoReturn:
        raise TimeoutError(f"it took more than {seconds:g} s")

    with handle_signals(strike, (signal.SIGALRM,)):
        try:
            if signal.getsignal(signal.SIGALRM) is strike:  # only in the main thread
                signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextmanager
def handle_signals(receive: Callable[[int, object], None], numbers: Sequence[int] = STOPS) -> Iterator[None]:
    """Within it, ``receive`` handles signals; does nothing outside the main thread, which can't receive them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
