"""Mistakes that no test noticed: each of these fails where one of them is made again."""

import io
import json
import math
import os
import runpy
import shutil
import signal
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pandas
import pytest
import torch
from helpers import SAMPLING, GaussianScore, refusal
from PIL import Image

import ncsn
from ncsn.cli import main as cli
from ncsn.cli.kinds import grid
from ncsn.data.dataset import rows_of
from ncsn.data.sources import images_in_shard
from ncsn.data.units import Units
from ncsn.evaluation.tables import held_out_examples, judge_table, log_density
from ncsn.exporting import description
from ncsn.machine.interrupts import Stopped, at_most
from ncsn.networks import MLP
from ncsn.plots import image_grid
from ncsn.run import Drawn, Recipe, Run
from ncsn.score import ScoreModel

ROOT = Path(__file__).parent.parent
SHIFT, SCALE = np.array([1000.0, -20.0, 7.0]), np.array([100.0, 5.0, 0.01])


def write_rows(path: Path, n: int, *, seed: int = 0) -> str:
    """A table of three independent normal columns; the path."""
    rows = SHIFT + SCALE * np.random.default_rng(seed).standard_normal((n, 3))
    np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="", fmt="%.10g")
    return str(path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_many_samples_stand_in_about_as_many_columns_as_rows(tmp_path: Path) -> None:
    samples = torch.zeros(81, 1, 4, 4)
    grid(Mock(spec=Drawn, samples=samples), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture, image_grid(samples, columns=9) as square:
        assert picture.size == square.size


def test_what_a_step_says_holds_no_graph() -> None:
    """Whoever keeps the losses of all steps would keep all their activations."""
    g = torch.Generator().manual_seed(0)
    state = ncsn.State(ScoreModel(MLP(2, 8, 1)), generator=g)
    loss = ncsn.training_loss(ncsn.LogUniform(5.0, 0.1), generator=g)
    batches = ncsn.batches(torch.randn(100, 2, generator=g), 16, generator=g)
    for progress in ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=2), accumulate=2):
        assert progress.losses.shape == (32,)
        assert not progress.losses.requires_grad
        assert not progress.sigmas.requires_grad


def test_samples_that_disagree_are_counted_and_not_their_numbers() -> None:
    run = Run.of(GaussianScore(0.0, 1.0), (3,), sigma_max=20.0, sigma_min=0.02)
    measured = run.posterior(lambda x: x[:, :2], torch.tensor([[30.0, 40.0]]), noise_std=0.5)
    steps = measured.steps(7, particles=1)
    list(steps)
    assert steps.disagreeing == 7


@pytest.mark.parametrize("form", ["file", "array"])
def test_units_are_of_the_rows_to_train_on(form: str, tmp_path: Path) -> None:
    """Those of all rows would tell of the rows that samples are judged by."""
    path = tmp_path / ("x.csv" if form == "file" else "x.npy")
    write_rows(tmp_path / "x.csv", 500)
    if form == "array":
        np.save(path, np.loadtxt(tmp_path / "x.csv", delimiter=",", skiprows=1))
    data = ncsn.load_images(str(path))
    assert len(data.train) == 400
    torch.testing.assert_close(data.train.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.std(0), torch.ones(3), atol=1e-5, rtol=0)
    assert float(data.test.mean(0).abs().max()) > 0.01


def test_no_two_blocks_of_any_seeds_are_the_same() -> None:
    run = Run.of(GaussianScore(0.0, 1.0), (1,), sigma_max=5.0, sigma_min=0.5)
    first = []
    for seed in (0, 1, 2, 2**32 - 1, 2**63 - 1):
        whole, part = (
            [*steps][-1].x[:5, 0] for steps in run.blocks(2 * run.block, seed=seed, levels=2, sampler="heun")
        )
        assert torch.equal(whole, run.sample(run.block, seed=seed, levels=2, sampler="heun")[:5, 0])
        first += [tuple(x.tolist()) for x in (whole, part)]
    # A generator on a CPU has 2³² seeds, so the last two are one.
    assert len(set(first)) >= len(first) - 2
    assert len(set(first[:6])) == 6


def test_the_held_out_loss_is_the_averages(tmp_path: Path) -> None:
    """After one large step the average lies between the first weights and the last."""
    data = write_rows(tmp_path / "x.csv", 1000)
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    cli.main(["train", data, "--steps", "1", "--adam-rate", "30", "--muon-rate", "100", *out])
    row = lines(tmp_path / "run" / "metrics.jsonl")[-1]
    run = ncsn.load(tmp_path / "run", device="cpu")
    known, sampling = run.settings, run.recipe.sampling
    noise = ncsn.LogNormal(known["log_sigma_mean"], known["log_sigma_std"], sampling.sigma_max, sampling.sigma_min)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    losses = {}
    for name in ("model", "average"):
        run.model.load_state_dict(checkpoint[name])
        loss = ncsn.training_loss(noise, generator=(g := torch.Generator().manual_seed(1)))
        held_out = next(ncsn.batches(ncsn.load_images(data).validation, 50_000, generator=g))
        losses[name] = float(loss(run.model, held_out)[0].mean())
    assert row["joint_loss"] == pytest.approx(losses["average"], rel=0.03)
    assert row["joint_loss"] != pytest.approx(losses["model"], rel=0.06)


def test_the_numbers_of_a_run_are_those_of_the_weights_that_are_left(tmp_path: Path) -> None:
    """Few rows are learned by heart, and then the best average is."""
    data, out = write_rows(tmp_path / "x.csv", 30), ["--out", str(tmp_path / "run"), "--device", "cpu"]
    how = "--steps 100 --batch-size 8 --muon-rate 1 --sigma-max 3 --samples 9"
    cli.main(["train", data, *how.split(), *out])
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    best = min(rows, key=lambda row: float(row["validation_loss"]))
    assert rows[-1]["validation_loss"] > 1.01 * best["validation_loss"], "whatever the threads do to the last bits"
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: numbers[name] for name in ("step", "validation_loss")} == {
        name: best[name] for name in ("step", "validation_loss")
    }
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["kept"]
    for name, weight in ncsn.load(tmp_path / "run", device="cpu").model.state_dict().items():
        assert torch.equal(weight, kept[f"best.{name}"]), name


@pytest.mark.parametrize("out", ["photos", "photos/run", "photos/a/run"])
def test_no_run_is_written_among_its_images(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pictures import write

    data = write(tmp_path / "photos", {f"a/{i}.png": i for i in range(40)})
    before = {*tmp_path.rglob("*")}
    options = ["--steps", "1", "--samples", "1", "--levels", "2", "--device", "cpu"]
    assert str(tmp_path / out) in refusal(capsys, "train", data, "--out", str(tmp_path / out), *options)
    assert {*tmp_path.rglob("*")} == before


def test_rows_of_metrics_are_a_new_file_each_time(trained: Path, tmp_path: Path) -> None:
    """So a kill while they are written leaves the former ones: who has the old file open sees no change."""
    shutil.copytree(trained, tmp_path / "it")
    run = tmp_path / "it" / "run"
    os.link(run / "metrics.jsonl", tmp_path / "before.jsonl")
    before = lines(run / "metrics.jsonl")
    cli.main(["train", f"{tmp_path}/it/data.npz", "--resume", "--steps", "20", "--out", str(run), "--device", "cpu"])
    assert len(lines(run / "metrics.jsonl")) > len(before)
    assert lines(tmp_path / "before.jsonl") == before


def test_an_exported_signal_has_the_units_of_every_number() -> None:
    units = Units(torch.tensor([[10.0], [-3.0]]), torch.tensor([[2.0], [5.0]]))
    recipe = Recipe(network="mine", arguments={}, shape=(2, 3), sampling=SAMPLING)
    found = description(Run(score=GaussianScore(0.0, 1.0), recipe=recipe, units=units))
    assert found["shift"] == [10.0] * 3 + [-3.0] * 3
    assert found["scale"] == [2.0] * 3 + [5.0] * 3


def test_a_job_goes_on_from_no_other_runs_blocks(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"dimensions": 2, "width": 8, "layers": 1}
    recipe = Recipe(network="MLP", arguments=arguments, shape=(2,), sampling=SAMPLING)
    for seed in (0, 1):
        torch.manual_seed(seed)
        Run(score=ScoreModel(MLP(2, 8, 1), float(seed)), recipe=recipe).save(tmp_path / f"run{seed}")

    def command(seed: int) -> list[str]:
        options = ["-n", "2100", "--levels", "3", "--guidance", "1", "--device", "cpu"]
        return ["sample", str(tmp_path / f"run{seed}"), *options, "--out", str(tmp_path / "x.npy")]

    calls, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise Stopped(signal.SIGTERM)
        real(descriptor)

    with patch("os.fsync", fsync), pytest.raises(SystemExit, match="143"):
        cli.main(command(0))
    assert [*tmp_path.glob(".x.npy*partial/000001.npz")]
    cli.main(command(1))
    run = ncsn.load(tmp_path / "run1", device="cpu")
    expected = [[*steps][-1].x for steps in run.blocks(2100, levels=3, guidance=1.0)]
    assert np.array_equal(np.load(tmp_path / "x.npy"), torch.cat(expected).numpy())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The evaluation of a table's run that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("judged")
    data = write_rows(folder / "x.csv", 1100)
    cli.main(["train", data, "--steps", "3", "--samples", "9", "--out", str(folder / "run"), "--device", "cpu"])
    cli.main(["evaluate", str(folder / "run"), "--levels", "2", "--device", "cpu"])
    return dict(json.loads((folder / "run" / "evaluation.json").read_text()))


def test_the_density_beside_a_tables_is_in_its_units(judged: dict[str, float]) -> None:
    """Eight Gaussians know a normal distribution but for a tenth of a nat a number."""
    truth = -float(np.log(SCALE).sum()) - 1.5 * math.log(2 * math.pi * math.e)
    assert judged["log_density_of_eight_gaussians"] == pytest.approx(truth, abs=0.6)


def test_trees_tell_bad_samples_from_real_rows_and_real_rows_from_none(judged: dict[str, float]) -> None:
    """110 of each: by chance 0.5 ± 0.034."""
    assert judged["classifier"] > 0.64
    assert judged["classifier_of_real_rows"] == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("error", [None, ValueError])
def test_an_alarm_is_taken_back(error: type[Exception] | None) -> None:
    """Or it ends the process, by the system's own answer to it."""
    try:
        with at_most(50):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
            if error is not None:
                raise error
    except ValueError:
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_images_are_judged_as_they_are_asked_to_be_drawn() -> None:
    x = torch.randint(256, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data, pixels = ncsn.data.Dataset(x[:20], x[20:40], x[40:]), ncsn.evaluation.PIXELS
    run = Run.of(GaussianScore(0.5, 0.1), (1, 4, 4), sigma_max=5.0, sigma_min=0.02)
    asked, usual = (
        ncsn.evaluation.evaluate(run.sample(20, seed=2, **how), data, pixels).metrics for how in ({"levels": 3}, {})
    )
    found: Any = ncsn.evaluation.evaluate(run, data, pixels, seed=2, levels=3)
    assert found.metrics == asked != usual


def test_the_log_density_of_an_evaluation_is_of_held_out_rows() -> None:
    """Rows that a run draws all alike would be likelier, and so would be any by a solver that takes long steps."""
    data = rows_of("x", np.random.default_rng(0).standard_normal((1000, 2)))
    run = ncsn.fit(data, steps=2, seed=0)
    held = held_out_examples(data, 100)
    found = judge_table(run, data, 0.1 * held).numbers["log_density"]
    assert found == pytest.approx(float(run.log_prob(held, tolerance=1e-6).mean()), abs=2e-3)


def test_the_log_density_of_a_cell_is_its_mean_and_not_that_of_its_middle() -> None:
    """Of a fair coin, from a score that is too sure of the edge between its sides: P is ½, in the middle it is 0.28."""
    x = torch.arange(1000)[:, None].double() % 2
    units = Units.of(x)
    run = replace(Run.of(GaussianScore(0.0, 0.35), (1,), sigma_max=15.0, sigma_min=0.01), units=units)
    assert float(run.log_prob(x[:2]).mean()) == pytest.approx(-1.27, abs=0.1)
    assert math.log(0.5) - 0.2 < log_density(run, units, x) < math.log(0.5) + 0.02


def test_tables_with_other_names_are_other_data() -> None:
    x = np.random.default_rng(0).standard_normal((50, 2))
    one, other = (rows_of("x", pandas.DataFrame(x, columns=[*names])).digest for names in ("ab", "ba"))
    assert one != other


def test_a_column_without_negative_numbers_is_not_left_below_zero() -> None:
    units = Units.of(torch.from_numpy(np.random.default_rng(0).normal(5, 1, (400, 1))))
    assert float(units.restore(torch.full((1, 1), -30.0, dtype=torch.float64))) == 0


def test_a_second_picture_of_an_example_in_a_shard_is_no_example(tmp_path: Path) -> None:
    from pictures import png

    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, content in {"0.png": png(1), "0.seg.png": png(2), "0.cls": b"3"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    assert [item.label for item in images_in_shard(tmp_path / "x.tar")] == ["3"]


def test_a_measurement_replaces_the_same_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    (tmp_path / "README.md").write_text("".join(bench.MARKS))
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "table", lambda _: "")
    monkeypatch.setattr(bench, "plot", lambda *_: None)
    for number, minutes in enumerate((1.0, 2.0, 2.0)):
        monkeypatch.setattr(bench, "ours", lambda *_, n=number: {"told_classes": True, "n": n})
        bench.main(bench.Bench(minutes=minutes, peers=("ours",), out=tmp_path / "out"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["minutes"], row["n"]) for row in results] == [(1.0, 0), (2.0, 2)]


def test_a_model_is_shipped_with_its_numbers(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ship_model.py", str(trained / "run"), str(tmp_path / "it")])
    runpy.run_path(str(ROOT / "scripts" / "ship_model.py"), run_name="__main__")
    assert (tmp_path / "it" / "metrics.json").read_bytes() == (trained / "run" / "metrics.json").read_bytes()
    shipped, before = (ncsn.load(path, device="cpu").model.state_dict() for path in (tmp_path / "it", trained / "run"))
    for name, weight in before.items():
        torch.testing.assert_close(shipped[name].float(), weight, rtol=1e-3, atol=1e-6)
