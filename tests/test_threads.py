"""How many threads compute beside other programs: a table of loads, and of what follows from them."""

from collections import namedtuple
from unittest.mock import Mock

import pytest
import torch

from ncsn.machine import hardware
from ncsn.machine.hardware import Load, Threads

SLOW, SAME = 1.06, 1.04  # how much faster fewer threads are: clearly, or not
# Each look: at which second, how many processors others had since the last one, the gain of fewer threads; and then the
# number of threads, of four, and how many trials there were.
LOOKS: dict[str, list[tuple[int, float | None, float, int, int]]] = {
    "nearly alone": [(2, 0.39, SLOW, 4, 0)],
    "one is needed elsewhere": [(2, 0.5, SLOW, 3, 1)],
    "two are": [(2, 1.9, SLOW, 2, 1)],
    "all are": [(2, 3.9, SLOW, 1, 1)],
    "waiting costs little": [(2, 1.9, SAME, 4, 1)],
    "a load that comes and goes": [(2, 1.9, SLOW, 2, 1), (3, 0, SAME, 2, 1), (5, 0.1, SAME, 4, 1), (8, 2, SLOW, 2, 2)],
    "a load whose cost goes": [(2, 1.9, SLOW, 2, 1), (20, 1.9, SAME, 2, 1), (23, 1.9, SAME, 4, 2)],
    "a system that does not say": [(2, None, SLOW, 4, 0)],
    "a user who has chosen": [(2, 1.9, SLOW, 4, 0)],
}


@pytest.mark.parametrize("case", LOOKS)
def test_threads_follow_the_load(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, said, trials, now = torch.get_num_threads(), [], 0, Load(wall=0.0, own=0.0, busy=[0.0] * 4)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if case == "a user who has chosen":
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(hardware, "STARTED", now)
    torch.set_num_threads(4)
    follower = Threads()
    try:
        for at, others, gain, number, tried in LOOKS[case]:
            own = now.own + 3.0 * (at - now.wall)  # what this program does is no load of others
            busy = [] if others is None else [x + (others + 3) * (at - now.wall) / 4 for x in now.busy]
            look = Load(wall=float(at), own=own, busy=busy)

            monkeypatch.setattr(hardware, "speed", speed := Mock(side_effect=[gain, 1.0]))
            monkeypatch.setattr("ncsn.machine.hardware.time.perf_counter", lambda at=at: float(at))
            monkeypatch.setattr(Load, "now", lambda look=look: look)
            said.append(follower.follow())
            now, trials = follower.looked, trials + speed.called
            assert (torch.get_num_threads(), trials) == (number, tried)
        assert sum(line is not None for line in said) == any(row[3] < 4 for row in LOOKS[case]), "once"
        follower.release()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_busy_is_what_is_not_idle_on_the_processors_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    Times = namedtuple("Times", ["user", "system", "idle", "iowait", "guest"])
    times = [Times(3.0, 2.0, 100.0, 7.0, 1.0), Times(9.0, 9.0, 9.0, 9.0, 9.0), Times(1.0, 0.5, 0.0, 0.0, 0.0)]
    monkeypatch.setattr("ncsn.machine.hardware.psutil.cpu_times", lambda percpu: times)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 0}, raising=False)
    assert hardware.busy_seconds() == [5.0, 1.5]
    monkeypatch.setattr("ncsn.machine.hardware.psutil.cpu_times", Mock(side_effect=PermissionError))
    assert hardware.busy_seconds() == [], "some systems do not say"
