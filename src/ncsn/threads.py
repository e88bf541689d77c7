"""How many threads compute where other programs have some of the processors: as many as are fastest.

Threads of one computation wait for each other thousands of times a second.  Where another program has one of their
processors, each of these waits can take as long as the scheduler lets that program go on, milliseconds: on two
processors of a Xeon under Linux 6.18 a training fell from 638 images/s to 6 beside one busy loop of another session,
whatever its nice value; by one thread it has 353.  Beside one of the same session and the lowest priority two threads
are faster.  So both are tried.
"""

import os
import time

import psutil

WINDOW = 2.0  # seconds, and three calls, by which a number of threads is judged
BUSY = 0.4  # of a processor that others keep busy: from there on fewer threads are tried
CLEARLY = 1.05  # times as fast, and a number of threads is better
AGAIN, RARELY = 30.0, 600.0  # seconds until the other number is tried again, longer each time that it was slower
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user, or torchrun, says how many threads there are


class Threads:
    """The number of torch's threads, found anew by what is fastest; a user's number stays.

    Call ``follow`` after every piece of work, all alike, from the thread that computes.
    """

    def __init__(self) -> None:
        self.fixed = any(name in os.environ for name in CHOSEN_BY)
        self.most = self.now = 0
        self.calls = 0
        self.pause = AGAIN
        self.next_trial = 0.0
        self.rate: dict[int, float] = {}
        self.told = False

    def follow(self) -> str | None:
        """Count a piece of work, and change the number of threads if that helps; what to tell the user, once."""
        if self.fixed:
            return None
        if not self.most:
            import torch

            self.most = self.now = torch.get_num_threads()
            self.measure()
        self.calls += 1
        seconds = time.perf_counter() - self.began
        # In its first call a compiled network may be something else again.
        if seconds < WINDOW or (self.calls < 3 and seconds < 5 * WINDOW):
            return None
        self.rate[self.now] = self.calls / seconds
        others = self.others(seconds)
        before = self.now
        self.use(self.better(others))
        self.measure()
        if self.now >= before or self.told:
            return None
        self.told = True
        return (
            f"other programs keep {others:.1f} of {len(self.busy)} processors busy: fewer threads than {self.most} are "
            f"tried, and the fastest number kept (OMP_NUM_THREADS sets it)"
        )

    def better(self, others: float) -> int:
        """How many threads to compute by next, where ``others`` of the processors are taken."""
        if others < BUSY or self.most == 1:
            self.rate, self.pause, self.next_trial = {}, AGAIN, 0.0
            return self.most
        if time.perf_counter() >= self.next_trial:
            self.next_trial = time.perf_counter() + self.pause
            free = int(len(self.busy) - others + 1 - BUSY)
            return max(1, min(self.most - 1, free)) if self.now == self.most else self.most
        fastest = max(self.rate, key=lambda n: self.rate[n])
        if self.rate[fastest] < CLEARLY * self.rate[self.now]:
            return self.now
        if fastest < self.most:  # all threads are slower: that is tried again more rarely
            self.pause = min(RARELY, 2 * self.pause)
        return fastest

    def use(self, threads: int) -> None:
        """Compute by so many."""
        if threads != self.now:
            import torch

            torch.set_num_threads(threads)
            self.now = threads

    def release(self) -> None:
        """Let all threads compute again."""
        self.use(self.most or self.now)

    def measure(self) -> None:
        """Begin a window."""
        self.calls, self.began = 0, time.perf_counter()
        self.own, self.busy = time.process_time(), busy_seconds()

    def others(self, seconds: float) -> float:
        """How many of this process' processors others have kept busy since the window began, ``seconds`` ago."""
        whole = sum(busy_seconds()) - sum(self.busy)
        return max(0.0, (whole - (time.process_time() - self.own)) / seconds)


def busy_seconds() -> list[float]:
    """How long each processor that this process may use has been busy since the machine was started."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    # A guest's time is in user and nice already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return [
        sum(seconds for name, seconds in times._asdict().items() if name not in idle)
        for number, times in enumerate(psutil.cpu_times(percpu=True))
        if allowed is None or number in allowed
    ]
