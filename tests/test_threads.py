import time
from collections.abc import Iterator

import pytest
import torch

from ncsn import machine
from ncsn.machine import Load, Threads, busy_seconds, speed


@pytest.fixture
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Two processors, and three clocks that stand still: the wall's, this process', and that of all others."""
    clocks = {"wall": 100.0, "own": 50.0, "others": 10.0}
    monkeypatch.setattr("ncsn.machine.time.perf_counter", lambda: clocks["wall"])
    monkeypatch.setattr("ncsn.machine.time.process_time", lambda: clocks["own"])
    monkeypatch.setattr(machine, "busy_seconds", lambda: [clocks["own"], clocks["others"]])
    monkeypatch.setattr(machine, "STARTED", Load(wall=98.0, own=49.0, busy=[49.0, 10.0]))
    for name in machine.FIXED_BY:
        monkeypatch.delenv(name, raising=False)
    return clocks


def passes(clocks: dict[str, float], seconds: float, *, own: float, others: float) -> None:
    for name, share in (("wall", 1.0), ("own", own), ("others", others)):
        clocks[name] += seconds * share


class Computer:
    """A program that computes by a follower's threads, beside others that take what they can.

    ``rates``: pieces of work a second, and ``taken``: of how many processors others have the time, by so many threads.
    """

    def __init__(
        self,
        clocks: dict[str, float],
        monkeypatch: pytest.MonkeyPatch,
        *,
        rates: dict[int, float],
        taken: dict[int, float],
    ) -> None:
        self.clocks, self.follower = clocks, Threads()
        self.rates, self.taken = rates, taken
        self.said: list[str] = []
        self.trials = 0
        monkeypatch.setattr(machine, "speed", self.speed)

    def speed(self, number: int) -> float:
        """As ``machine.speed``, of this program's own work."""
        torch.set_num_threads(number)
        passes(self.clocks, machine.TRIAL, own=number, others=self.taken[number])
        self.trials += 1
        return self.rates[number]

    def follow(self) -> None:
        if said := self.follower.follow():
            self.said.append(said)

    def work(self, seconds: float) -> int:
        """Pieces of work that are done in that time."""
        end, done = self.clocks["wall"] + seconds, 0
        self.follow()
        while self.clocks["wall"] < end:
            number = torch.get_num_threads()
            passes(self.clocks, 1 / self.rates[number], own=number, others=self.taken[number])
            done += 1
            self.follow()
        return done


@pytest.mark.usefixtures("two")
def test_a_thread_is_given_up_where_waiting_for_it_is_slower(
    clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Computer(clocks, monkeypatch, rates={2: 0.5, 1: 10}, taken={2: 0.9, 1: 1.0})
    assert beside.work(7200) > 0.98 * 7200 * 10, "trials are short, and seldom"
    assert beside.trials > 500, "it may be otherwise by now"
    assert len(beside.said) == 1
    assert "0.9 of 2 processors busy: fewer threads than 2 are faster" in beside.said[0]
    beside.rates, beside.taken = {2: 18, 1: 10}, {2: 0.0, 1: 0.05}
    beside.work(5)
    assert torch.get_num_threads() == 2, "taken back at once where nobody needs the processor"
    assert beside.work(100) == pytest.approx(1800, abs=5)


@pytest.mark.usefixtures("two")
def test_who_was_busy_while_the_program_began_is_known_before_the_first_piece_of_work(
    clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks["others"] += 1.9
    beside = Computer(clocks, monkeypatch, rates={2: 0.5, 1: 10}, taken={2: 0.9, 1: 1.0})
    beside.follow()
    assert torch.get_num_threads() == 1
    assert len(beside.said) == 1


@pytest.mark.usefixtures("two")
def test_a_program_that_pauses_is_noticed_when_it_goes_on(
    clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, done = Computer(clocks, monkeypatch, rates={2: 18, 1: 10}, taken={2: 0.0, 1: 0.0}), 0
    for _ in range(10):
        beside.rates, beside.taken = {2: 18, 1: 10}, {2: 0.0, 1: 0.05}
        beside.work(4)
        beside.rates, beside.taken = {2: 0.5, 1: 10}, {2: 0.9, 1: 1.0}
        done += beside.work(16)
    assert done > 0.7 * 160 * 10, "all but the first looks by one thread"


@pytest.mark.usefixtures("two")
def test_who_only_takes_what_is_left_costs_no_thread(clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    clocks["others"] += 1.9  # imports leave a processor
    beside = Computer(clocks, monkeypatch, rates={2: 16, 1: 10}, taken={2: 0.1, 1: 1.0})
    assert beside.work(600) == pytest.approx(600 * 16, rel=0.01)
    assert beside.said == []
    torch.set_num_threads(1)  # as after a busy time
    beside.work(60)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two")
def test_where_two_threads_are_faster_in_spite_of_others_they_stay(
    clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Computer(clocks, monkeypatch, rates={2: 16, 1: 10}, taken={2: 0.6, 1: 1.0})
    assert beside.work(3600) > 0.98 * 3600 * 16
    assert beside.trials > 200


@pytest.mark.usefixtures("two")
def test_release_gives_all_threads_back(clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Computer(clocks, monkeypatch, rates={2: 0.5, 1: 10}, taken={2: 0.9, 1: 1.0})
    beside.work(60)
    assert torch.get_num_threads() == 1
    beside.follower.release()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two")
def test_a_users_number_stays(clocks: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    beside = Computer(clocks, monkeypatch, rates={2: 0.5, 1: 10}, taken={2: 0.9, 1: 1.0})
    beside.work(600)
    assert torch.get_num_threads() == 2
    assert beside.trials == 0


@pytest.mark.usefixtures("two")
def test_a_trial_counts_products_and_leaves_its_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = speed(1)
    assert torch.get_num_threads() == 1
    assert 1 < found < 1e5
    monkeypatch.setattr(machine, "SIDE", 3 * machine.SIDE)
    assert speed(1) < found


@pytest.mark.usefixtures("two")
def test_where_the_system_does_not_say_who_is_busy_all_threads_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(*, percpu: bool) -> None:
        raise PermissionError(f"[Errno 13] Permission denied: '/proc/stat', percpu={percpu}")

    monkeypatch.setattr("ncsn.machine.psutil.cpu_times", hidden)
    monkeypatch.setattr(machine, "STARTED", Load.now())
    for name in machine.FIXED_BY:
        monkeypatch.delenv(name, raising=False)
    follower = Threads()
    assert busy_seconds() == []
    assert follower.follow() is None
    assert follower.most == torch.get_num_threads() == 2


def test_what_this_process_does_is_not_taken_for_others() -> None:
    before, own = sum(busy_seconds()), time.process_time()
    while time.process_time() - own < 0.5:
        pass
    assert sum(busy_seconds()) - before >= 0.3  # the system counts in hundredths of a second
