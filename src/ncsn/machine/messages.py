"""What the program says: plain lines by the logger ``ncsn``, and progress bars.

``logging.getLogger("ncsn").setLevel("WARNING")`` leaves warnings alone; ``"ERROR"`` ends all of it, bars too.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


class AboveBars(logging.Handler):
    """Writes plain lines above any progress bar: results to standard output, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; of several processes the first speaks for all."""
        if os.environ.get("RANK", "0") == "0":
            tqdm.write(record.getMessage(), file=sys.stdout if record.levelno < logging.WARNING else sys.stderr)


log = logging.getLogger("ncsn")
log.setLevel(logging.INFO)
log.addHandler(AboveBars())
log.propagate = False  # a user's own handler of the root logger would write every line twice


@contextmanager
def quieter(level: int, name: str = "ncsn") -> Iterator[None]:
    """Within it, the logger of this name drops messages below ``level``."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(max(level, before))
    try:
        yield
    finally:
        logger.setLevel(before)


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: a terminal wants many, a log file few."""
    return 0.3 if sys.stderr.isatty() else 30.0


def bar(parts: Iterable[T] | None = None, name: str | None = None, **options: Any) -> "tqdm[T]":
    """A progress bar on standard error over ``parts`` that take over a second, as tqdm makes it.

    There is none where warnings alone are wanted.
    """
    options = {"delay": 1, "leave": False} | options
    if not log.isEnabledFor(logging.INFO):
        options["disable"] = True
    return tqdm(parts, name, mininterval=refresh_interval(), **options)
