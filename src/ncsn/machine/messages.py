"""Messages of the logger ``ncsn``, progress bars, and Ctrl-C and SIGTERM; without importing torch.

``logging.getLogger("ncsn").setLevel("WARNING")`` leaves only warnings, and ``"ERROR"`` nothing; both hide bars.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from tqdm.auto import tqdm

from ncsn.validation import printable

T = TypeVar("T")
LOCK = threading.Lock()
LEVELS: dict[str, list[int]] = {}  # of the loggers within ``quieter``: their own level, and those of all blocks


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


@contextmanager
def quieter(level: int, name: str = "ncsn") -> Iterator[None]:
    """Within it, the logger of this name drops messages below ``level``; such blocks may overlap in several threads."""
    logger = logging.getLogger(name)
    with LOCK:
        levels = LEVELS.setdefault(name, [logger.level])
        levels.append(level)
        logger.setLevel(max(levels))
    try:
        yield
    finally:
        with LOCK:
            levels.remove(level)
            logger.setLevel(max(levels))
            if len(levels) == 1:
                del LEVELS[name]


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: short in a terminal, long in a log file."""
    return 0.3 if sys.stderr and sys.stderr.isatty() else 30.0


def bar(parts: Iterable[T] | None = None, name: str | None = None, **options: object) -> "tqdm[T]":
    """A tqdm progress bar on standard error, shown after a second, unless the logger only lets warnings through."""
    options = {"delay": 1, "leave": False} | options
    if not log.isEnabledFor(logging.INFO) or sys.stderr is None:  # as in a program without a console
        options["disable"] = True
    return tqdm(parts, name, mininterval=refresh_interval(), **options)


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
