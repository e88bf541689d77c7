"""What of a training is kept: rows and verdicts, checkpoints, signals, divergence, and going on."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import Patch, command, edit_config, refusal
from learning import TINY, arrays, pictures, tiny
from pictures import write
from safetensors.torch import load_file
from torch import Tensor

import ncsn
from ncsn import MLP, ScoreModel, batches, dsm, training_loss
from ncsn.images import Images
from ncsn.learn.fit import Training, open_run
from ncsn.learn.history import Row
from ncsn.learn.plan import make_plan
from ncsn.learn.record import Record
from ncsn.machine.hardware import Group
from ncsn.machine.messages import Stopped, limit_seconds
from ncsn.noise import Geometric, LogNormal
from ncsn.run.steps import Drawn
from ncsn.sampling import NonFiniteSampleError
from ncsn.settings import Job, TrainSettings
from ncsn.training import Budget, NonFiniteLossError, Progress, State, train

DATA = torch.randn(200, 2, generator=torch.Generator().manual_seed(9))
FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3]
SETTLED = [1.0, 0.5, 0.4, 0.35, 0.331, 0.33, 0.33, 0.33, 0.33, 0.33]
CHANCE = [*SETTLED[:9], 0.333]
SLOW = [1.0, 0.5, 0.4, 0.35, 0.331, 0.331, 0.33, 0.3299, 0.3298, 0.3297]
RISING = [1.0, 0.5, 0.4, 0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9]


@pytest.mark.parametrize(
    ("losses", "tolerance", "kept", "said"),
    [
        (FALLING, 0.01, 10, {"falling"}),
        (SLOW, 0.01, 10, {"last"}),
        (SETTLED, 0.01, 10, {"copies"}),
        (CHANCE, 0.01, 10, set()),
        (CHANCE, 0.0, 6, {"copies"}),
        (RISING, 0.01, 3, {"copies", "0.9000"}),
    ],
)
def test_a_verdict_is_drawn_from_held_out_losses(
    losses: list[float], tolerance: float, kept: int, said: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Tolerant(Images):
        pass

    Tolerant.tolerance = tolerance
    shown = pictures(labels=False, n=999 if "copies" in said else 1000)
    data, settings = Tolerant(shown.train, shown.validation, shown.test), tiny(guidance=1.0)
    rows = [Row(step=i, loss=9.0, validation_loss=loss, validation_bands=[]) for i, loss in enumerate(losses, 1)]
    plan = make_plan(data, settings)
    for worse in (True, False):  # beyond chance
        lesson = Training(plan, data, Record(), State(plan.recipe.build(), [], generator=torch.Generator()))
        lesson.history.rows = rows
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lesson, "is_worse_than", lambda _, worse=worse: worse)
            lesson.keep_best()
        (line,) = capsys.readouterr().out.splitlines()
        if worse:
            assert lesson.record.kept == rows[kept - 1]
            assert f"step {kept}" in line
            assert ("rose" in line) == ("0.9000" in said)
            assert {word for word in ("falling", "last", "copies", "0.9000") if word in line} == said
        else:
            assert lesson.record.kept == rows[-1]
            assert "rose" not in line


def test_bands_are_called_after_their_ends(trained: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """Noise just around an end is seen in two of them, and in no other."""
    plot = Mock()
    monkeypatch.setattr("ncsn.plots.loss_curves", plot)
    command(f"train {trained}/data.npz {TINY} --steps 1 --guidance 1 --out {tmp_path}/run")
    names = plot.call_args.args[1]
    ends = [float(end) for name in names for end in re.findall(r"[\d.]+", name)]
    assert (ends[::2], len(names)) == (ends[1::2], 5), "where one ends the next begins"
    for i, end in enumerate(ends[::2]):
        noise = Geometric(1.001 * end, 0.999 * end, 2)
        ncsn.fit(pictures(), settings=tiny(steps=1, guidance=1.0), noise=noise, record=(record := Record()))
        assert [j for j, loss in enumerate(record.rows[-1].validation_bands) if loss is not None] == [i, i + 1]


def test_held_out_losses_are_those_of_held_out_images_and_of_their_own_classes() -> None:
    """Of a network that says nothing, on images that are all one grey: F* is known, and so is its mean square."""
    shown, data, mean, std = list[Tensor](), pictures(), 0.2, 0.3
    assert data.labels is not None
    labels = replace(data.labels, validation=1 + torch.arange(90) % 2)
    data = replace(data, validation=torch.full_like(data.validation, 200), labels=labels)

    class Silent(torch.nn.Module):
        labels = torch.nn.Embedding(4, 1)

        def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
            shown.append(label)
            return torch.zeros_like(x)

    state = State(ScoreModel(Silent(), mean, std), [], generator=torch.Generator())
    plan = make_plan(data, tiny(), noise=(noise := Geometric(3.0, 0.02, 4)))
    training = Training(plan, data, Record(), state)
    row = training.evaluate(0, 0.0)
    assert set(torch.cat(shown).tolist()) == {1, 2}
    # F* = (σ²(x₀ − μ) − σσ_d² z)/(σσ_d√(σ² + σ_d²)), with x₀ a grey within a 256th.
    away, squares = (200.5 / 256 - mean) ** 2 + 1 / (12 * 256**2), noise.sigmas() ** 2
    high, middle, low, lowest = ((squares * away + std**4) / (std**2 * (squares + std**2))).tolist()
    expected = [lowest, low, None, middle, high]
    assert row.validation_bands == [None if loss is None else pytest.approx(loss, rel=0.06) for loss in expected]
    assert training.evaluate(0, 0.0) == row, "the noise stays, for reports to be compared"


def start(steps: int, signals: Sequence[int] = (), bad: int = 99) -> tuple[State, Iterator[Progress]]:
    """A training whose loss is no number from the step ``bad`` on."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    state = State(ScoreModel(MLP(2, 8, 1)), generator=g)

    def objective(*args: Any, **how: Any) -> Tensor:
        return dsm(*args, **how) * (math.nan if state.step >= bad else 1.0)

    loss = training_loss(Geometric(5.0, 0.2, 5), objective, generator=g)
    return state, train(state, batches(DATA, 16, generator=g), loss, budget=Budget(steps=steps), signals=signals)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def step_of(folder: Path) -> int:
    return int(torch.load(folder / "checkpoint.pt", weights_only=True)["step"])


@pytest.mark.parametrize(("seconds", "written"), [(9, [4, 8, 12, 14]), (31, list(range(1, 15)))])
def test_every_half_minute_a_checkpoint_is_written_and_the_averaged_weights(
    seconds: int, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves on by so many seconds a step."""
    state, progress = start(14)
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
    state, progress = start(50, record.signals)
    watched = record.watch(progress, state)
    assert next(p for p in watched if p.step == at)
    signal.raise_signal(number)  # what comes after a step is known to all processes in the next one
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped, match=f"at step {end}") as stop:
        list(watched)
    assert stop.value.number in (number, signal.SIGTERM)
    assert step_of(tmp_path) == end
    assert signal.getsignal(number) == handler


@pytest.mark.parametrize("error", [None, ValueError])
def test_an_alarm_is_taken_back(error: type[Exception] | None) -> None:
    """Or it ends the process, by the system's own answer to it."""
    with suppress(ValueError), limit_seconds(50):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        if error is not None:
            raise error
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_an_alarm_that_a_library_swallows_comes_again() -> None:
    def work() -> None:
        with limit_seconds(0.1):
            with suppress(TimeoutError):
                time.sleep(20)
            time.sleep(20)

    with pytest.raises(TimeoutError):
        work()


@pytest.mark.parametrize("step", [None, 7])
def test_a_signal_before_or_after_the_steps_names_the_checkpoint(step: int | None, tmp_path: Path) -> None:
    """As while compiling or sampling; before there is a checkpoint, none is named."""
    where = "" if step is None else f" at step {step}"
    with pytest.raises(Stopped, match=f"^{where}$"), Record(folder=tmp_path).resumable():
        raise Stopped(2, where)
    (folder := tmp_path / "my runs").mkdir()
    (folder / "checkpoint.pt").touch()
    named = rf"^{where}; {folder}/checkpoint\.pt .*--resume"
    with pytest.raises(Stopped, match=named) as stop, Record(folder=folder).resumable():
        raise Stopped(2, where)
    assert stop.value.number == 2
    assert shlex.split(str(stop.value))[-2:] == ["--out", str(folder)]


def test_a_loss_that_diverges_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """In a thread, where signals cannot be received."""
    state, progress = start(9, bad=4)
    state.save(tmp_path / "checkpoint.pt")
    with ThreadPoolExecutor() as pool, pytest.raises(NonFiniteLossError, match=r"at step 4.*checkpoint\.pt"):
        pool.submit(lambda: list(Record(folder=tmp_path).watch(progress, state))).result()
    assert (state.step, step_of(tmp_path)) == (4, 0)


def draw(run: ncsn.Run, **options: Any) -> Mock:
    """Two samples that cost what they cost."""
    steps = run.steps(2, **options)
    list(steps)
    return Mock(spec=Drawn, steps=steps, cost="two samples")


def test_a_run_says_what_it_learned_and_what_that_took(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained / "run"
    rows, numbers = rows_of(folder), json.loads((folder / "metrics.json").read_text())
    assert (folder / "metrics.json").read_text() == json.dumps(numbers, indent=2) + "\n"
    assert rows[-1] | {"seconds": 0} == {name: numbers[name] for name in rows[-1]} | {"seconds": 0}
    assert [row["step"] for row in rows] == [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert len(rows[0]["validation_bands"]) == 5
    assert (numbers["images_seen"], numbers["guidance"]) == (12 * 16, 1.25)
    assert 0 < numbers["training_seconds"] < numbers["seconds"]
    run = ncsn.load(folder, device="cpu")
    steps = run.steps(2)
    list(steps)
    assert steps.nfe == numbers["nfe"]
    once = replace(run, recipe=replace(run.recipe, sampling=run.recipe.sampling.but(guidance=1.0)))
    Record(folder=tmp_path, rows=[Row(**rows[-1])]).write_results(once, drawn := draw(once))
    found = json.loads((tmp_path / "metrics.json").read_text())["nfe"]
    assert found == drawn.steps.nfe < numbers["nfe"], "with the class, but not without it, too"
    assert (run.settings["steps"], list(run.recipe.shares)) == (12, ["0", "1", "2"])
    for elapsed, said in ((124.0, False), (127.0, True)):
        record = Record(folder=tmp_path, rows=[Row(**rows[-1])], began=time.perf_counter() - elapsed)
        record.write_results(replace(once, settings=run.settings | {"minutes": 2.0}), drawn)
        assert ("this took 127 s, not 120: the machine is busy" in capsys.readouterr().out) == said


def test_numbers_are_those_of_the_average_that_is_left_of_this_kind_of_data(trained: Path, tmp_path: Path) -> None:
    first = Row(step=1, loss=1.0, validation_loss=1.0, validation_bands=[], seconds=1.0)
    rows = [first, replace(first, step=2, validation_loss=1.005, seconds=7.0)]
    table = ncsn.fit(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), steps=1)
    for run, step in ((ncsn.load(trained / "run", device="cpu"), 2), (table, 1)):
        batches = replace(run, settings={"batch_size": 3})  # of two examples for each of two processes
        record = Record(folder=tmp_path, rows=rows, kept=rows[step - 1], group=Group(size=2))
        record.write_results(batches, draw(run, levels=2))
        found = json.loads((tmp_path / "metrics.json").read_text())
        assert (found["step"], found["training_seconds"], found["images_seen"]) == (step, 7.0, 8)


def test_a_run_that_goes_on_has_a_new_budget_rows_in_a_new_file_and_no_evaluation(tmp_path: Path) -> None:
    """A kill while rows are written leaves the former ones: who has the old file open sees no change."""
    folder, before = tmp_path / "run", tmp_path / "before.jsonl"
    run = ncsn.fit(DATA, steps=2, device="cpu", record=Record(folder=folder))
    os.link(folder / "metrics.jsonl", before)
    first = before.read_text()
    evaluation = [folder / f"evaluation.{suffix}" for suffix in ("json", "png", "npz")]
    for path in evaluation:
        path.touch()
    again = ncsn.fit(DATA, steps=2, device="cpu", record=Record(folder=folder, job=Job(resume=True)))
    assert all(map(torch.equal, again.model.parameters(), run.model.parameters()))
    assert all(path.exists() for path in evaluation), "these are the same weights"
    ncsn.fit(DATA, steps=3, device="cpu", record=Record(folder=folder, job=Job(resume=True)))
    assert ncsn.load(folder).settings["steps"] == 3
    assert before.read_text() == first != (folder / "metrics.jsonl").read_text()
    assert not any(path.exists() for path in evaluation)
    with pytest.raises(Stopped):
        ncsn.fit(DATA, steps=9, device="cpu", record=Record(folder=folder, job=Job(resume=True), signals=[15]))
    assert ncsn.load(folder).settings["steps"] == 9, "also if it is stopped"


def test_every_report_draws_samples_which_change_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if they can't be drawn."""
    drawn = list[tuple[Path, int]]()
    monkeypatch.setattr("ncsn.plots.image_grid", lambda x, path, **_: drawn.append((path, len(x))))
    alone = ncsn.fit(pictures(), settings=tiny())
    run = ncsn.fit(pictures(), settings=tiny(), record=Record(folder=tmp_path / "run"))
    assert drawn == [(tmp_path / "run" / "samples.png", 20)] * 6
    assert all(map(torch.equal, run.model.parameters(), alone.model.parameters()))
    monkeypatch.setattr(ncsn.Run, "sample", Mock(side_effect=NonFiniteSampleError("not finite")))
    ncsn.fit(pictures(), settings=tiny(guidance=1.0), record=Record(folder=tmp_path / "other"))
    assert (tmp_path / "other" / "model.safetensors").exists()
    assert len(drawn) == 6


def test_the_held_out_loss_of_rows_is_the_averages(tmp_path: Path) -> None:
    """After one large step the average lies between the first weights and the last."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1000, 3)))
    data, record = ncsn.load_dataset(f"{tmp_path}/x.npy"), Record(folder=tmp_path / "run")
    settings = TrainSettings(steps=1, adam_rate=30.0, muon_rate=100.0, job=Job(device="cpu"))
    run = ncsn.fit(data, settings=settings, record=record)
    known, sampling = run.settings, run.recipe.sampling
    noise = LogNormal(known["log_sigma_mean"], known["log_sigma_std"], sampling.sigma_max, sampling.sigma_min)
    checkpoint, losses = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True), {}
    for name in ("model", "average"):
        run.model.load_state_dict(checkpoint[name])
        loss = training_loss(noise, generator=(g := torch.Generator().manual_seed(1)))
        losses[name] = float(loss(run.model, next(batches(data.validation, 50_000, generator=g)))[0].mean())
    assert record.rows[-1].parts["joint"] == pytest.approx(losses["average"], rel=0.03)
    assert record.rows[-1].parts["joint"] != pytest.approx(losses["model"], rel=0.06)


def test_the_numbers_of_a_run_are_those_of_the_weights_that_are_left(tmp_path: Path) -> None:
    """Few rows are learned by heart, and then the best average is."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 3)))
    how, run = "--steps 100 --batch-size 8 --muon-rate 1 --sigma-max 3 --samples 9", tmp_path / "run"
    command(f"train {tmp_path}/x.npy {how} --out {run}")
    rows = rows_of(run)
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    assert rows[-1]["validation_loss"] > 1.01 * best["validation_loss"], "whatever the threads do to the last bits"
    numbers = json.loads((run / "metrics.json").read_text())
    assert [numbers[name] for name in ("step", "validation_loss")] == [best["step"], best["validation_loss"]]
    best_average = torch.load(run / "checkpoint.pt", weights_only=True)["parts"]["ledger"]["best"]
    for name, weight in ncsn.load(run, device="cpu").model.state_dict().items():
        assert torch.equal(weight, best_average[name]), name


@pytest.mark.parametrize("out", ["photos", "photos/run", "photos/a/run"])
def test_no_run_is_written_among_its_images(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "photos", {f"a/{i}.png": i for i in range(40)})
    before = {*tmp_path.rglob("*")}
    assert str(tmp_path / out) in refusal(capsys, "train", data, "--out", str(tmp_path / out), "--steps", "1")
    assert {*tmp_path.rglob("*")} == before


def test_who_resumes_may_say_where_the_images_are_now(
    trained: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere.npz"
    run.mkdir()

    def restore(change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
        shutil.copy(trained / "run" / "config.json", run)
        edit_config(run, change)

    restore()
    job = Job(out=run, resume=True, device="cpu")
    data, planned, _ = open_run(replace(tiny(steps=20), job=job))
    settings = planned.settings
    assert (settings.steps, settings.dataset, settings.job) == (20, str(trained / "data.npz"), job)
    # Unlike the script's default, it was typed.
    assert "mnist does not hold the data" in refusal(capsys, "train", "mnist", "--out", str(run), "--resume")
    _, other, _ = open_run(replace(tiny(batch_size=5), job=replace(job, resume=False, overwrite=True)))
    assert other.settings.batch_size == 5 != settings.batch_size, "who overwrites a run takes nothing of it"
    shutil.copy(trained / "data.npz", moved)
    again, _, record = open_run(replace(tiny(dataset=str(moved)), job=job))
    assert again.digest == data.digest
    assert record.origin is not None
    assert record.origin.dataset == str(moved)
    assert record.began == job.began, "the budget includes what came before"
    monkeypatch.chdir(trained)  # which was called gone: the same words name another place

    def rename(config: dict[str, Any]) -> None:
        config["data"]["dataset"], config["settings"]["dataset"] = "/gone/data.npz", "data.npz"

    restore(rename)
    assert open_run(replace(tiny(dataset="data.npz"), job=job))[0].digest == data.digest
    images, labels = arrays(600, seed=1)
    np.savez(moved, images=images, labels=labels)
    with pytest.raises(ValueError, match="does not hold the data"):
        open_run(replace(tiny(dataset=str(moved)), job=job))
    restore(lambda config: config.update(settings={}))
    with pytest.raises(ValueError, match=r"config\.json"):
        open_run(replace(tiny(), job=job))
