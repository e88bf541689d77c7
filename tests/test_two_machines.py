"""Two machines that learn one model over a slow wire, which is cut in the middle; see wire.py.  Root's alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import PROGRAM, TRAIN, prepared, same
from wire import DELAY, RATE, Job, cost_of_a_sum, missing, two_machines

TIMEOUT = 12  # seconds that processes wait for each other here, instead of ten minutes
AGAIN = 5  # times that Linux sends what is not answered, in 13 seconds, instead of 15 times in a quarter of an hour
ERROR = "error: another process has ended or cannot be reached ("

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepared(tmp_path_factory.mktemp("machines"))
    (folder / "watched.py").write_text(
        PROGRAM.format(
            more=f"""
import functools
from pathlib import Path
from ncsn import distributed, training
from ncsn.cli import console
distributed.TIMEOUT = {TIMEOUT}
console.watch = functools.partial(console.watch, save_every=0.0)
update = training.State.update
def counted(self, rate):
    update(self, rate)
    if os.environ["RANK"] == "0":
        Path(sys.argv[sys.argv.index("--out") + 1] + ".step").write_text(str(self.step))
training.State.update = counted
"""
        )
    )
    return folder


def steps(out: Path) -> int:
    """How many steps the training into ``out`` has taken."""
    file = out.with_name(f"{out.name}.step")
    return int(file.read_text() or 0) if file.exists() else 0


def test_the_wire_is_as_slow_as_it_says(tmp_path: Path) -> None:
    """RTT of 10 ms, and 1 Gbit/s, of which a busy machine may lose much, but none can be gained."""
    serve = """
import socket
with socket.create_server(("one", 5000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as end:
        end.sendall(end.recv(1))
        while end.recv(1 << 20):
            pass
        end.sendall(b"x")
"""
    call = """
import socket, time
with socket.create_connection(("one", 5000)) as end:
    began = time.perf_counter()
    end.sendall(b"x")
    end.recv(1)
    answered = time.perf_counter()
    end.sendall(bytes(12_500_000))
    end.shutdown(socket.SHUT_WR)
    end.recv(1)
    print(answered - began, time.perf_counter() - answered)
"""
    with two_machines(tmp_path) as ((one, two), _):
        with subprocess.Popen(one.there([sys.executable, "-c", serve]), stdout=subprocess.PIPE) as server:
            assert server.stdout
            assert server.stdout.readline() == b"ready\n"
            said = subprocess.run(two.there([sys.executable, "-c", call]), capture_output=True, text=True, check=True)
        there_and_back, carried = (float(number) for number in said.stdout.split())
        assert 0.010 <= there_and_back < 0.1
        assert 0.110 <= carried < 1.1, "12.5 MB at 1 Gbit/s, and there and back once"


def test_what_a_step_sends(tmp_path: Path) -> None:
    """Two processes send each other half of the numbers twice: what they have, and what they have added up."""
    numbers = 1_000_000
    size, seconds = cost_of_a_sum(numbers, tmp_path)
    assert 1 < size / (2 * 4 * numbers) < 1.05
    assert seconds > 8 * 4 * numbers / RATE + 2 * DELAY


def test_two_machines_learn_the_same_as_one_process_and_outlast_a_short_cut(place: Path) -> None:
    out = place / "two"
    words = TRAIN.format(data=place / "data.npz", out=out)
    with two_machines(place) as (machines, wire), Job(machines, place / "watched.py", words) as job:
        job.until(lambda: steps(out) >= 10)
        wire.cut()
        time.sleep(0.5)
        taken = steps(out)
        time.sleep(1.5)
        assert steps(out) == taken < 50
        wire.mend()
        assert job.ended() == [0, 0], job.said
    assert "error: " not in "".join(job.said)
    same(place / "one", out)


def test_a_cut_in_mid_training_ends_both_and_it_goes_on_later(place: Path) -> None:
    out = place / "cut"
    words = TRAIN.format(data=place / "data.npz", out=out)
    with two_machines(place) as (machines, wire):
        for machine in machines:
            setting = f"echo {AGAIN} > /proc/sys/net/ipv4/tcp_retries2"
            subprocess.run(machine.there(["sh", "-c", setting]), check=True)
        with Job(machines, place / "watched.py", words, processes=2) as job:
            job.until(lambda: steps(out) >= 20)
            wire.cut()
            job.until(lambda: all(ERROR in said for said in job.said), TIMEOUT + 5)  # the 5 for a busy machine
            assert 0 not in job.ended()
            for said in job.said:
                assert said.count("error: ") == 1, said
                assert "/ncsn/" not in said, "tracebacks are torchrun's own"
        assert 20 <= torch.load(out / "checkpoint.pt", weights_only=True)["step"] < 50
        wire.mend()
        with Job(machines, place / "watched.py", f"{words} --resume", processes=2) as again:
            assert again.ended() == [0, 0], again.said
    same(place / "one", out)


def test_who_only_waits_notices_a_cut(tmp_path: Path) -> None:
    """The first process works alone, and would let the others wait for a day."""
    program = tmp_path / "waiting.py"
    program.write_text(
        f"""
import time
from pathlib import Path
from ncsn import distributed
group = distributed.join(timeout={TIMEOUT})
group.share()
Path(__file__).with_name(f"{{group.rank}} is here").touch()
if group.leads:
    time.sleep({2 * TIMEOUT})
try:
    group.share()
except distributed.PeerError as error:
    print(f"error: {{error}}", flush=True)
"""
    )
    with two_machines(tmp_path) as (machines, wire), Job(machines, program) as job:
        job.until(lambda: len(list(tmp_path.glob("* is here"))) == 2)
        wire.cut()
        assert job.until(lambda: ERROR in job.said[1], TIMEOUT + 5) > TIMEOUT / 2
