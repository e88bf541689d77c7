"""Messages of the logger ``ncsn``, and progress bars.

``logging.getLogger("ncsn").setLevel("WARNING")`` leaves only warnings, and ``"ERROR"`` nothing; both hide bars.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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
