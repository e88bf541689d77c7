"""Where a program's seconds go, and how often a progress bar is drawn; torch is not needed."""

import sys
import time


class Clock:
    """The seconds since it was made, by what they were for: ``seconds``; each of them belongs to one name."""

    def __init__(self) -> None:
        self.began = self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def passed(self) -> float:
        """All seconds."""
        return time.perf_counter() - self.began

    def lap(self, name: str) -> None:
        """What has passed since the last lap was for this."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: a terminal wants many, a log file few."""
    return 0.3 if sys.stderr.isatty() else 30.0
