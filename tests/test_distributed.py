"""Several processes that work on one thing: the same results as one, the same end, and nobody waits for the dead."""

import subprocess
import time
from pathlib import Path

import pytest
import torch
from processes import PROGRAM, TRAIN, WITHIN, command, done, environment, prepared, same

from ncsn import distributed

SLOW = pytest.mark.slow  # of several that are much alike


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize(
    ("processes", "more"),
    [(2, ""), *(pytest.param(*given, marks=SLOW) for given in ((1, "--accumulate 3"), (2, "--accumulate 2"), (4, "")))],
)
def test_any_number_of_processes_and_turns_learn_the_same(processes: int, more: str, place: Path) -> None:
    out = place / f"of-{processes}-{more[-1:]}"
    words = TRAIN.format(data=place / "data.npz", out=out)
    finished = done(processes, place / "program.py", f"{words} {more}")
    assert finished.returncode == 0, finished.stderr
    same(place / "one", out)
    names = {path.name for path in (place / "one").iterdir()} | ({".job"} if processes > 1 else set())
    assert {path.name for path in out.iterdir()} == names
    assert finished.stdout.count("held-out loss") == 1, "one of them speaks"


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_run_goes_on_on_another_number_of_processes(told: int, place: Path) -> None:
    """Of two processes one is told to stop; both do, after the same step, and one goes on alone."""
    out, stopping = place / f"cut-{told}", place / "stopping.py"
    stopping.write_text(
        PROGRAM.format(
            more=f"""
import signal
from ncsn import training
step = training.State.update
def counted(self, rate):
    step(self, rate)
    if self.step == 20 and os.environ["RANK"] == "{told}":
        os.kill(os.getpid(), signal.SIGTERM)
training.State.update = counted
"""
        )
    )
    words = TRAIN.format(data=place / "data.npz", out=out)
    first = done(2, stopping, words)
    assert "error: terminated at step 21; " in first.stderr
    assert first.returncode != 0
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 21
    second = done(1, place / "program.py", f"{words} --resume")
    assert second.returncode == 0, second.stderr
    same(place / "one", out)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os._exit(7)", "error: another process has ended or cannot be reached"),
        pytest.param("raise ValueError('it broke here')", "error: it broke here", marks=SLOW),
    ],
)
def test_a_process_that_dies_ends_the_others(what: str, said: str, place: Path) -> None:
    dying = place / "dying.py"
    dying.write_text(
        PROGRAM.format(
            more=f"""
from ncsn import training
step = training.State.update
def counted(self, rate):
    if self.step == 5 and os.environ["RANK"] == "1":
        {what}
    step(self, rate)
training.State.update = counted
"""
        )
    )
    began = time.monotonic()
    finished = done(2, dying, TRAIN.format(data=place / "data.npz", out=place / f"dead-{len(what)}"))
    assert time.monotonic() - began < 60
    assert finished.returncode != 0
    assert said in finished.stderr
    assert finished.stderr.count("error: ") <= 2
    assert finished.stderr.count("Traceback") == 1, "torchrun's own"


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_ends_all(place: Path) -> None:
    out, diverging = place / "diverged", place / "diverging.py"
    diverging.write_text(
        PROGRAM.format(
            more="""
from ncsn.rng import Draws
each = Draws.each
def spoiled(self, draw):
    values = each(self, draw)
    return values * float("nan") if self.step == 7 and self.first > 0 and values.ndim == 4 else values
begin = Draws.begin
def noted(self, step):
    self.step = step
    begin(self, step)
Draws.begin, Draws.each = noted, spoiled
"""
        )
    )
    finished = done(2, diverging, TRAIN.format(data=place / "data.npz", out=out))
    assert "error: the loss is nan at step 7; the last good checkpoint is" in finished.stderr
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 0
    assert finished.returncode != 0


@pytest.mark.slow
def test_samples_are_the_same_to_the_byte(place: Path) -> None:
    outs = [place / f"samples-{processes}.npy" for processes in (1, 2, 3)]
    for processes, out in enumerate(outs, 1):
        words = f"sample {place / 'one'} -n 2300 --levels 3 --device cpu --out {out}"
        finished = done(processes, place / "program.py", words)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("\n") == 1
    one, *others = (out.read_bytes() for out in outs)
    assert all(other == one for other in others)


@pytest.mark.slow
def test_torchrun_starts_again_and_the_training_goes_on_by_itself(place: Path) -> None:
    out, failing = place / "again", place / "failing.py"
    failing.write_text(
        PROGRAM.format(
            more="""
from ncsn import training
from ncsn.learn import record
record.SAVE_EVERY = 0.0
step = training.State.update
def counted(self, rate):
    step(self, rate)
    if self.step == 30 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os._exit(9)
training.State.update = counted
"""
        )
    )
    words = command(2, failing, TRAIN.format(data=place / "data.npz", out=out))
    words.insert(words.index("--standalone"), "--max-restarts=1")
    finished = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN, env=environment(), check=False)
    assert finished.returncode == 0, finished.stderr
    same(place / "one", out)


@pytest.mark.slow
def test_likelihoods_are_shared(place: Path) -> None:
    outs = [place / f"likelihood-{processes}.json" for processes in (1, 2)]
    for processes, out in enumerate(outs, 1):
        words = f"likelihood {place / 'one'} -n 80 --probes 2 --tolerance 0.05 --device cpu --out {out}"
        finished = done(processes, place / "program.py", words)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count("\n") == 1
    one, two = (out.read_bytes() for out in outs)
    assert one == two


@pytest.mark.slow
def test_a_restart_goes_on_from_nobody_elses_run(place: Path) -> None:
    before = {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()}
    words = command(2, place / "program.py", TRAIN.format(data=place / "data.npz", out=place / "one"))
    words.insert(words.index("--standalone"), "--max-restarts=1")
    finished = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN, env=environment(), check=False)
    assert finished.returncode != 0
    assert finished.stderr.count("holds another run; --overwrite") == 2, "the second time, too"
    assert {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()} == before


def test_what_torch_says_of_a_peer_becomes_one_short_line() -> None:
    said = "[/pytorch/gloo/pair.cc:537] Read error [10.0.0.1]:99: Connection timed out. This is typical. GLHF!\nmore"
    with pytest.raises(distributed.PeerError) as caught, distributed.answered():
        raise RuntimeError(said)
    expected = "another process has ended or cannot be reached (Read error [10.0.0.1]:99: Connection timed out)"
    assert str(caught.value) == expected


@pytest.mark.slow
def test_many_short_programs_end_well(place: Path) -> None:
    """A thread of a group that outlived the interpreter would abort about one program of four."""
    short = place / "short.py"
    short.write_text(
        """
import torch
from ncsn import distributed

def main():
    group = distributed.join(timeout=20)
    group.add_([torch.ones(300_000)])
    group.gather(torch.ones(300_000))
    group.share(b"x" * 300_000)

main()
"""
    )
    for _ in range(12):  # 3 of 100 times that is not enough
        finished = done(3, short, "")
        assert finished.returncode == 0, finished.stderr
