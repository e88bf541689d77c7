"""What looks after a training: checkpoints, Ctrl-C, termination, divergence; alone, and in a thread."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ncsn.cli import console
from ncsn.cli.interrupts import Interrupted, Terminated, deferred_interrupts, interruptible
from ncsn.data import batches
from ncsn.model import ScoreModel
from ncsn.networks import MLP
from ncsn.noise import Geometric
from ncsn.objectives import Batch, training_loss
from ncsn.progress import Clock
from ncsn.training import Budget, Progress, State, train

DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(9))


def training(steps: int, signals: Sequence[int] = ()) -> tuple[State, Iterator[Progress]]:
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    state = State(ScoreModel(MLP(2, 8, 1)), generator=g)
    loss = training_loss(Geometric(5.0, 0.2, 5), generator=g)
    return state, train(state, batches(DATA, 16, generator=g), loss, budget=Budget(steps=steps), signals=signals)


def test_the_averaged_weights_are_what_is_kept(tmp_path: Path) -> None:
    state, progress = training(30)
    assert sum(1 for _ in console.watch(progress, state, tmp_path, [])) == 30
    kept = load_file(tmp_path / "model.safetensors")
    average, raw = state.average.state_dict(), state.model.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in average.items())
    assert not all(torch.equal(kept[name], weight) for name, weight in raw.items())
    assert (tmp_path / "checkpoint.pt").exists()


def test_a_checkpoint_is_written_now_and_then(tmp_path: Path) -> None:
    state, progress = training(40)
    seen = set()
    for p in console.watch(progress, state, tmp_path, [], save_every=0.0):
        if (tmp_path / "checkpoint.pt").exists():
            seen.add(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"])
            assert p.step - max(seen) <= 1
    assert len(seen) > 30
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_every_second_of_a_training_is_for_something(tmp_path: Path) -> None:
    state, progress = training(10)
    clock = Clock()
    for _ in console.watch(progress, state, tmp_path, [], clock=clock, save_every=0.0):
        time.sleep(0.01)  # whoever trains writes something down
    assert set(clock.seconds) == {"training", "logging", "checkpoints"}
    assert clock.seconds["logging"] >= 0.1
    assert sum(clock.seconds.values()) == pytest.approx(clock.last - clock.began)
    assert clock.last - clock.began <= clock.passed


def test_every_half_minute_a_checkpoint_and_the_averaged_weights_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on by nine seconds a step: after 36 s, and so on."""
    state, progress = training(14)
    now = 0.0
    monkeypatch.setattr("ncsn.cli.console.time.monotonic", lambda: now)
    written: list[int] = []
    save = State.save

    def noted(self: State, path: Path) -> None:
        written.append(self.step)
        save(self, path)

    monkeypatch.setattr(State, "save", noted)
    for p in console.watch(progress, state, tmp_path, []):
        now += 9
        if p.step == 6:  # after the first of them, and before the second
            kept, checkpoint = load_file(tmp_path / "model.safetensors"), torch.load(tmp_path / "checkpoint.pt")
            assert checkpoint["step"] == 4
            assert all(torch.equal(kept[name], weight) for name, weight in checkpoint["average"].items())
    assert written == [4, 8, 12, 14]


def test_a_second_signal_ends_a_step_that_hangs_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    state, progress = training(9)
    list(console.watch(progress, state, tmp_path, []))
    before = (tmp_path / "checkpoint.pt").read_bytes()
    handler = signal.getsignal(signal.SIGINT)

    def hanging() -> Iterator[Progress]:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        yield from ()

    with pytest.raises(KeyboardInterrupt):
        list(console.watch(hanging(), state, tmp_path, []))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert signal.getsignal(signal.SIGINT) == handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    signals: list[int] = []
    state, progress = training(50, signals)
    before = signal.getsignal(number)

    def consume() -> None:
        for p in console.watch(progress, state, tmp_path, signals):
            if p.step == 6:  # what comes after a step is known to all processes in the next one
                signal.raise_signal(number)

    with pytest.raises(SystemExit) as stop:
        consume()
    assert stop.value.code == 128 + number
    what = "terminated" if number == signal.SIGTERM else "interrupted"
    assert f"{what} at step 7" in capfd.readouterr().err
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 7
    assert signal.getsignal(number) == before


def test_a_second_signal_is_obeyed_at_once() -> None:
    received: list[int] = []
    with deferred_interrupts(received):
        signal.raise_signal(signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_loss_that_diverges_keeps_the_last_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state, progress = training(3)
    list(console.watch(progress, state, tmp_path, []))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def loss(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch.x, 1.0).sum(1) * float("nan"), torch.ones(4)

    worse = train(state, iter([Batch(torch.zeros(4, 2))]), loss, budget=Budget(steps=9))
    with pytest.raises(SystemExit) as stop:
        list(console.watch(worse, state, tmp_path, []))
    assert stop.value.code == 1
    assert "the loss is nan at step 3; the last good checkpoint is" in capfd.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_training_may_run_in_a_thread(tmp_path: Path) -> None:
    """Where signals cannot be received."""
    state, progress = training(5)
    failed: list[BaseException] = []

    def consume() -> None:
        try:
            list(console.watch(progress, state, tmp_path, []))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    thread.join()
    assert not failed
    assert state.step == 5
    assert (tmp_path / "model.safetensors").exists()


def test_the_bar_of_a_training_that_goes_on_keeps_moving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it has behind it is no measure of how often there is something to show."""
    monkeypatch.setattr("ncsn.cli.console.refresh_interval", lambda: 0.01)

    def progress() -> Iterator[Progress]:
        some = torch.ones(2)
        for k in range(50, 60):
            time.sleep(0.02)
            yield Progress(step=k, fraction=k / 100, seconds=k, losses=some, sigmas=some, examples_per_second=1.0)

    assert sum(1 for _ in console.watch(progress(), training(1)[0], tmp_path, [])) == 10
    shown = capsys.readouterr().err
    assert all(f"step {k}," in shown for k in range(50, 60))


@pytest.mark.parametrize(("number", "meaning"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
def test_what_a_library_says_that_a_signal_has_struck_is_not_taken_for_the_truth(
    number: signal.Signals, meaning: type[KeyboardInterrupt]
) -> None:
    def read(*, struck: bool) -> None:
        with interruptible():
            if struck:
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(number)
            raise ValueError("the file is damaged")

    with pytest.raises(meaning):
        read(struck=True)
    with pytest.raises(ValueError, match="damaged"):
        read(struck=False)


def test_an_error_has_a_line_of_its_own_below_a_bar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @dataclass
    class Nothing:
        pass

    def command(settings: Nothing) -> None:
        assert settings == Nothing()
        state, progress = training(5)
        watched = console.watch(progress, state, tmp_path, [])  # by its name it outlives the loop
        for _ in watched:
            raise OSError("no space left")

    with pytest.raises(SystemExit):
        console.run(command, Nothing, [])
    *above, last = capsys.readouterr().err.splitlines()
    assert last == "error: no space left"
    assert above
    assert "training" in above[-1]
