"""Several processes that work on one thing: the same results as one, the same end, and nobody waits for the dead."""

from pathlib import Path

import pytest
import torch
from processes import done, prepared, same, train, uses

from ncsn.machine import hardware


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("distributed"))


def test_two_processes_do_what_one_does(place: Path) -> None:
    """They learn the same from the same random numbers; samples are the same to the byte; a run is not replaced."""
    before = {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()}
    finished = done(2, place, train(place, "two"), *uses(place, "two"), train(place, "one"))
    assert finished.returncode != 0
    assert finished.stderr.count("holds another run") == 1, finished.stderr
    assert {path.name: path.read_bytes() for path in (place / "one").iterdir() if path.is_file()} == before
    same(place / "one", place / "two")
    one, two = ({path.name for path in (place / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert finished.stdout.count("held-out loss") == 1, "one of them speaks"
    assert finished.stdout.count("bits/dim") == 1
    assert (place / "one.npy").read_bytes() == (place / "two.npy").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_processes(place: Path) -> None:
    """Of two processes the second is told to stop; both do, after the same step, and one goes on alone, in turns."""
    stop = "if self.step == 5 and rank == '1': os.kill(os.getpid(), signal.SIGTERM)"
    first = done(2, place, train(place, "cut"), more=stop)
    assert "error: terminated at step 6; " in first.stderr
    assert first.returncode != 0
    assert torch.load(place / "cut" / "checkpoint.pt", weights_only=True)["step"] == 6
    second = done(1, place, train(place, "cut") + " --resume", shares=2)
    assert second.returncode == 0, second.stderr
    same(place / "one", place / "cut")


@pytest.mark.slow
def test_torchrun_starts_again_and_the_training_goes_on(place: Path) -> None:
    """From the checkpoint of its last step."""
    die = "record.SAVE_EVERY = 0.0; self.step == 8 and rank == '1' and restarts == '0' and os._exit(9)"
    finished = done(2, place, train(place, "again") + " --resume", more=die, restarts=1)
    assert finished.returncode == 0, finished.stderr
    same(place / "one", place / "again")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "line", "step"),
    [
        ("if self.step == 5 and rank == '1': os._exit(7)", "error: another process has ended or can't be reached", 0),
        (
            "if self.step == 7 and rank == '1': self.model.data_mean.fill_(float('nan'))",
            "error: the loss is not finite at step 7; the last good checkpoint is",
            0,
        ),
    ],
)
def test_what_ends_one_process_ends_all_with_one_line(more: str, line: str, step: int, place: Path) -> None:
    name = f"ended-{len(more)}"
    finished = done(2, place, train(place, name), more=more)
    assert finished.returncode != 0
    assert line in finished.stderr
    assert finished.stderr.count("error: ") <= 2
    assert torch.load(place / name / "checkpoint.pt", weights_only=True)["step"] == step


def test_what_torch_says_of_a_peer_becomes_one_line() -> None:
    with pytest.raises(hardware.PeerError, match=r"\(Read error: timed out\)$"), hardware.name_peer_errors():
        raise RuntimeError("Read error: timed out\nat length")
