"""What of a training is kept: rows and verdicts, checkpoints, signals, divergence, and going on."""

import json
import math
import re
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import z_score
from learning import arrays, tiny
from safetensors.torch import load_file
from torch import Tensor

import ncsn
from ncsn import run as runs
from ncsn.cli import console
from ncsn.data import batches
from ncsn.learn.fit import held_out_losses
from ncsn.learn.record import BAND_NAMES, BANDS, Record, left, opened, verdict
from ncsn.learn.settings import Job
from ncsn.machine.interrupts import Stopped
from ncsn.networks import MLP
from ncsn.noise import Geometric, LogUniform
from ncsn.objectives import Batch, training_loss
from ncsn.score import ScoreModel
from ncsn.training import Budget, NonFiniteLossError, Progress, Row, State, train

DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(9))
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3]
SETTLED = [1.0, 0.5, 0.4, 0.35, 0.331, 0.33, 0.33, 0.33, 0.33, 0.33]
RISING = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9]


@pytest.mark.parametrize(
    ("losses", "examples", "falls", "few", "best", "last"),
    [(FALLING, 1000, True, False, 10, 10), (SETTLED, 999, False, True, 6, 10), (RISING, 77, False, True, 3, 3)],
)
def test_a_verdict_is_drawn_from_held_out_losses(
    losses: list[float], examples: int, falls: bool, few: bool, best: int, last: int
) -> None:
    rows = [Row(step=i, loss=9.0, validation_loss=loss, validation_bands=[]) for i, loss in enumerate(losses, 1)]
    line = verdict(rows, examples)
    assert (f"step {best}" in line, "0.9000" in line) == (True, losses is RISING)
    assert ("falling" in line, "copies" in line) == (falls, few)
    assert left(rows, 0.01).step == last


def test_bands_are_called_after_their_ends() -> None:
    ends = [float(end) for name in BAND_NAMES for end in re.findall(r"[\d.]+", name)]
    assert [0, *ends, math.inf] == sorted((BANDS + BANDS)[1:-1])


def test_held_out_losses_are_those_of_held_out_images() -> None:
    """Of a network that says nothing, on images that are all one grey: F* is known, and so is its mean square."""
    grey, mean, std = 200, 0.2, 0.3
    model = ScoreModel(torch.nn.Identity(), mean, std)
    model.network.forward = lambda x, c: torch.zeros_like(x)
    images = torch.full((7, 1, 8, 8), grey, dtype=torch.uint8)
    state = State(model, [], generator=torch.Generator())
    losses, sigmas, _ = held_out_losses(state, Batch(images), LogUniform(10.0, 0.01), (256, 256))
    assert losses.shape == sigmas.shape == (512,)
    # F* = (σ²(x₀ − μ) − σσ_d² z)/(σσ_d√(σ² + σ_d²)), with x₀ a grey within a 256th.
    away = ((grey + 0.5) / 256 - mean) ** 2 + 1 / (12 * 256**2)
    expected = (sigmas**2 * away + std**4) / (std**2 * (sigmas**2 + std**2))
    assert abs(z_score(losses / expected, 1.0)) < 4
    state.step = 3  # the noise stays, for reports to be compared
    assert torch.equal(losses, held_out_losses(state, Batch(images), LogUniform(10.0, 0.01), (256, 256))[0])


def test_held_out_losses_are_those_of_the_images_own_classes() -> None:
    shown: list[Tensor] = []

    class Told(torch.nn.Module):
        labels = torch.nn.Embedding(4, 1)

        def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
            shown.append(label)
            return torch.zeros_like(x)

    examples = Batch(torch.rand(7, 1, 4, 4), torch.arange(7) % 2 + 1)
    state = State(ScoreModel(Told(), 0.2, 0.3), [], generator=torch.Generator())
    held_out_losses(state, examples, LogUniform(10.0, 0.01), (256,))
    assert set(torch.cat(shown).tolist()) == {1, 2}


def training(steps: int, signals: Sequence[int] = (), bad: int = 99) -> tuple[State, Iterator[Progress]]:
    """A training whose loss is no number from the step ``bad`` on."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    state = State(ScoreModel(MLP(2, 8, 1)), generator=g)
    plain = training_loss(Geometric(5.0, 0.2, 5), generator=g)

    def loss(model: ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, sigmas = plain(model, batch)
        return losses * (math.nan if state.step >= bad else 1.0), sigmas

    return state, train(state, batches(DATA, 16, generator=g), loss, budget=Budget(steps=steps), signals=signals)


def step_of(folder: Path) -> int:
    return int(torch.load(folder / "checkpoint.pt", weights_only=True)["step"])


@pytest.mark.parametrize(("seconds", "written"), [(9, [4, 8, 12, 14]), (31, list(range(1, 15)))])
def test_every_half_minute_a_checkpoint_is_written_and_the_averaged_weights(
    seconds: int, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on by so many seconds a step."""
    state, progress = training(14)
    now, saved = 0.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for p in Record(folder=tmp_path).watch(progress, state):
        now += seconds
        if (tmp_path / "checkpoint.pt").exists() and step_of(tmp_path) == p.step - 1:
            saved.append(p.step - 1)
    assert [*saved, step_of(tmp_path)] == written
    model = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(model[name], weight) for name, weight in state.average.state_dict().items())
    assert not all(torch.equal(model[name], weight) for name, weight in state.model.state_dict().items())


@pytest.mark.parametrize(
    ("number", "at", "end"), [(signal.SIGINT, 6, 7), (signal.SIGTERM, 6, 7), (signal.SIGTERM, 50, 50)]
)
def test_a_signal_ends_the_step_and_saves(number: signal.Signals, at: int, end: int, tmp_path: Path) -> None:
    """A second one is the same: torchrun passes on what all processes were sent.  The last step may be the one."""
    record, handler = Record(folder=tmp_path), signal.getsignal(number)
    state, progress = training(50, record.signals)

    def consume() -> None:
        for p in record.watch(progress, state):
            if p.step == at:  # what comes after a step is known to all processes in the next one
                signal.raise_signal(number)
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=f"at step {end}") as stop:
        consume()
    assert stop.value.number in (number, signal.SIGTERM)
    assert step_of(tmp_path) == end
    assert signal.getsignal(number) == handler


def test_a_loss_that_diverges_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """In a thread, where signals cannot be received."""
    state, progress = training(9, bad=4)
    state.save(tmp_path / "checkpoint.pt")
    with ThreadPoolExecutor() as pool, pytest.raises(NonFiniteLossError, match=r"at step 4.*checkpoint\.pt"):
        pool.submit(lambda: list(Record(folder=tmp_path).watch(progress, state))).result()
    assert (state.step, step_of(tmp_path)) == (4, 0)


def test_a_run_says_what_it_learned_and_what_that_took(trained: Path, tmp_path: Path) -> None:
    folder = trained / "run"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    numbers = json.loads((folder / "metrics.json").read_text())
    assert (folder / "metrics.json").read_text() == json.dumps(numbers, indent=2) + "\n"
    assert rows[-1] | {"seconds": 0} == {name: numbers[name] for name in rows[-1]} | {"seconds": 0}
    assert [row["step"] for row in rows] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert len(rows[0]["validation_bands"]) == len(BAND_NAMES)
    assert (numbers["images_seen"], numbers["guidance"]) == (12 * 16, 1.25)
    assert 0 < numbers["training_seconds"] < numbers["seconds"]
    run = ncsn.load(folder, device="cpu")
    steps = run.steps(2)
    list(steps)
    assert steps.nfe == numbers["nfe"]
    once = replace(run, recipe=replace(run.recipe, sampling=run.recipe.sampling.but(guidance=1.0)))
    Record(folder=tmp_path, rows=[Row(**rows[-1])]).results(once, drawn := console.draw(once, 2))
    found = json.loads((tmp_path / "metrics.json").read_text())["nfe"]
    assert found == drawn.steps.nfe < numbers["nfe"], "with the class, but not without it, too"
    assert (run.settings["steps"], list(run.recipe.shares)) == (12, ["0", "1", "2"])


def test_numbers_are_those_of_the_average_that_is_left_of_this_kind_of_data(trained: Path, tmp_path: Path) -> None:
    first = Row(step=1, loss=1.0, validation_loss=1.0, validation_bands=[], seconds=1.0)
    rows = [first, replace(first, step=2, validation_loss=1.005, seconds=7.0)]
    table = ncsn.fit(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), steps=1)
    for run, step in ((ncsn.load(trained / "run", device="cpu"), 2), (table, 1)):
        drawn = console.draw(run, 2, levels=2)
        Record(folder=tmp_path, rows=rows).results(replace(run, settings={"batch_size": 3, "accumulate": 2}), drawn)
        found = json.loads((tmp_path / "metrics.json").read_text())
        assert (found["step"], found["training_seconds"], found["images_seen"]) == (step, 7.0, 8), (
            "two parts of two a step"
        )


def test_a_run_that_goes_on_says_its_new_budget(tmp_path: Path) -> None:
    for steps, resume in ((2, False), (3, True)):
        ncsn.fit(DATA, steps=steps, device="cpu", record=Record(folder=tmp_path, job=Job(resume=resume)))
    assert runs.read_config(tmp_path).settings["steps"] == 3


def test_who_resumes_may_say_where_the_images_are_now(trained: Path, tmp_path: Path) -> None:
    config = runs.read_config(trained / "run")
    run = tmp_path / "run"
    run.mkdir()
    runs.write_config(run, config.settings, config.recipe, config.data)
    job = Job(out=run, resume=True, device="cpu")
    data, settings, record = opened(replace(tiny(steps=20), job=job))
    assert (settings.steps, settings.dataset, settings.job) == (20, str(trained / "data.npz"), job)
    _, other, _ = opened(replace(tiny(batch_size=5), job=replace(job, resume=False, overwrite=True)))
    assert other.batch_size == 5 != settings.batch_size, "who overwrites a run takes nothing of it"
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes((trained / "data.npz").read_bytes())
    again, _, record = opened(replace(tiny(dataset=str(moved)), job=job))
    assert again.digest == data.digest
    assert record.origin is not None
    assert record.origin.dataset == str(moved)
    images, labels = arrays(600, seed=1)
    np.savez(moved, images=images, labels=labels)
    with pytest.raises(ValueError, match="does not hold the data"):
        opened(replace(tiny(dataset=str(moved)), job=job))
    runs.write_config(run, {}, config.recipe, config.data)
    with pytest.raises(ValueError, match=r"config\.json"):
        opened(replace(tiny(), job=job))
