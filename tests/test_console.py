"""What stops a command is one line, whatever it was at."""

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ncsn.cli import console
from ncsn.interrupts import Stopped, interruptible
from ncsn.learn.record import Record
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.training import Progress, State


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_library_says_that_a_signal_has_struck_is_not_taken_for_the_truth(
    number: signal.Signals,
) -> None:
    def read(*, struck: bool) -> None:
        with interruptible():
            if struck:
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(number)
            raise ValueError("the file is damaged")

    with pytest.raises(Stopped) as stop:
        read(struck=True)
    assert stop.value.number == number
    with pytest.raises(ValueError, match="damaged"):
        read(struck=False)


def test_an_error_has_a_line_of_its_own_below_a_bar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @dataclass
    class Nothing:
        pass

    def command(settings: Nothing) -> None:
        assert settings == Nothing()
        state = State(ScoreModel(MLP(2, 8, 1)), generator=torch.Generator().manual_seed(0))
        some = torch.ones(2)
        step = Progress(step=1, fraction=0.5, seconds=1.0, losses=some, sigmas=some, examples_per_second=1.0)
        watched = Record(tmp_path).watch(iter([step]), state)  # by its name it outlives the loop
        for _ in watched:
            raise OSError("no space left")

    with pytest.raises(SystemExit):
        console.run(command, Nothing, [])
    *above, last = capsys.readouterr().err.splitlines()
    assert last == "error: no space left"
    assert above
    assert "training" in above[-1]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Stopped(signal.SIGINT, " at step 3"), 130, "interrupted at step 3"),
        (Stopped(signal.SIGTERM, " at step 4"), 143, "terminated at step 4"),
        (Stopped(signal.SIGTERM), 143, "terminated"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_ends_a_training_is_said_by_the_first_process(
    error: KeyboardInterrupt,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for rank, said in (("0", f"error: {words}\n"), ("1", "")):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            console.stopped(error)
        assert (ended.value.code, capsys.readouterr().err) == (status, said)
