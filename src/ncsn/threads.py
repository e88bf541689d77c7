"""How many threads compute where other programs have some of the processors: as many as are fastest.

Threads of one computation wait for each other thousands of times a second.  Where another program has one of their
processors, each of these waits can take as long as the scheduler lets that program go on, milliseconds: on two
processors of a Xeon under Linux 6.18 a training fell from 638 images/s to 6 beside one busy loop of another session,
whatever its nice value; by one thread it has 353.  Beside one of the same session and the lowest priority two threads
are faster.  So, where others keep a processor busy, a fifth of a second of small products shows which is so.
"""

import os
import time
from dataclasses import dataclass

import psutil

BUSY = 0.4  # of a processor that others keep busy: from there on fewer threads are tried
CLEARLY = 1.05  # times as fast, and fewer threads are better
LOOK, AGAIN = 2.0, 20.0  # seconds from one look at the load to the next, and from one trial to the next
TRIAL = 0.1  # seconds, by which a number of threads is judged
SIDE = 384  # of the matrices of a trial: a product takes a millisecond or two, like the parts of a network
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by which a user, or torchrun, says how many threads there are


@dataclass(frozen=True, kw_only=True)
class Load:
    """What has been computed by then: ``own`` seconds of this process, and how long each processor was ``busy``."""

    wall: float
    own: float
    busy: list[float]

    @classmethod
    def now(cls) -> "Load":
        """Until now."""
        return cls(wall=time.perf_counter(), own=time.process_time(), busy=busy_seconds())

    def others_since(self, before: "Load") -> float:
        """How many of this process' processors others have kept busy since then."""
        whole = sum(self.busy) - sum(before.busy)
        return max(0.0, (whole - (self.own - before.own)) / (self.wall - before.wall))


def busy_seconds() -> list[float]:
    """How long each processor that this process may use has been busy so far; none where the system does not say."""
    try:
        processors = psutil.cpu_times(percpu=True)
    except OSError:  # some containers and telephones do not say
        return []
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    # A guest's time is in user and nice already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return [
        sum(seconds for name, seconds in times._asdict().items() if name not in idle)
        for number, times in enumerate(processors)
        if allowed is None or number in allowed
    ]


BEGUN = Load.now()  # imports take a second or two, enough to see who else computes


class Threads:
    """The number of torch's threads, found anew by what is fastest; a user's number stays.

    Call ``follow`` before the first piece of work and after every one, from the thread that computes.
    """

    def __init__(self) -> None:
        self.fixed = any(name in os.environ for name in CHOSEN_BY)
        self.most = self.now = 0
        self.looked = BEGUN
        self.next_trial = 0.0
        self.told = False

    def follow(self) -> str | None:
        """Change the number of threads if that helps; what to tell the user, once."""
        if self.fixed:
            return None
        if not self.most:
            import torch

            self.most = self.now = torch.get_num_threads()
        elif time.perf_counter() < self.looked.wall + LOOK:
            return None
        before, self.looked = self.looked, Load.now()
        others = self.looked.others_since(before)
        self.choose(others)
        if self.now == self.most or self.told:
            return None
        self.told = True
        return (
            f"other programs keep {others:.1f} of {len(self.looked.busy)} processors busy: fewer threads than "
            f"{self.most} are faster, and are used for as long (OMP_NUM_THREADS sets their number)"
        )

    def choose(self, others: float) -> None:
        """Compute by as many threads as are fastest where ``others`` of the processors are taken."""
        if others < BUSY or self.most == 1:
            self.use(self.most)
            self.next_trial = 0.0
        elif time.perf_counter() >= self.next_trial:
            free = int(len(self.looked.busy) - others + 1 - BUSY)
            fewer = max(1, min(self.most - 1, free))
            self.use(fewer if speed(fewer) > CLEARLY * speed(self.most) else self.most)
            self.next_trial = time.perf_counter() + AGAIN

    def use(self, threads: int) -> None:
        """Compute by so many."""
        import torch

        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
        self.now = threads

    def release(self) -> None:
        """Let all threads compute again."""
        if self.most:
            self.use(self.most)


def speed(threads: int) -> float:
    """How many products of matrices a second so many threads manage just now; torch computes by them afterwards."""
    import torch

    torch.set_num_threads(threads)
    matrix = torch.ones(SIDE, SIDE, device="cpu")
    product = matrix @ matrix  # the first one begins the threads
    done, began = 0, time.perf_counter()
    while time.perf_counter() < began + TRIAL:
        torch.mm(matrix, matrix, out=product)
        done += 1
    return done / (time.perf_counter() - began)
