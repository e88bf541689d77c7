"""The benchmarks read what the commands write today; and the scores of tables, where they are known."""

import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import GaussianScore, conditional_run, run_ncsn
from learning import pictures

import ncsn

HERE = Path(__file__).parent.parent / "benchmarks"
tables: Any = import_module("benchmarks.tables")


def test_a_row_of_the_table_is_made_of_a_run_and_its_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where classifiers are kept
    monkeypatch.setattr("ncsn.evaluation.images.IMAGES_SEEN", 2500)
    import bench

    out = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    run_ncsn("evaluate", str(out), "--features", "classifier", "-n", "100", "--seed", "3", "--device", "cpu")
    run, row = ncsn.load(out, device="cpu"), bench.row_of(out)
    assert row["parameters"] == run.parameters  # classes need no guide
    assert (row["images_seen"], row["told_classes"], row["seed"], row["data"]) == (12 * 16, True, 3, "data")
    assert row["sampling_images_per_second"] == pytest.approx(row["n"] / row["sampling_seconds"])
    assert f"{run.recipe.sampling.sampler}, guidance {run.recipe.sampling.guidance:g}" in row["about"]
    assert str(tmp_path) not in str(row)
    common: dict[str, Any] = {"peer": "ours", "minutes": 0.1, "processor": "AVX2"}
    distance = row["metrics"]["frechet_distance"]
    half = distance["generated"] / 2
    fewer = distance | {"training": distance["training"] + half, "generated": 6 * half}
    worse = row | {"metrics": row["metrics"] | {"frechet_distance": fewer}}
    worse |= {"peer": "reference", "sampling_images_per_second": row["sampling_images_per_second"] / 4}
    ours, theirs = bench.table([common | row, common | worse]).splitlines()[2:]
    assert [cell.strip() for cell in ours.split("|")][6:8] == ["1.00", "1.00"]
    assert [cell.strip() for cell in theirs.split("|")][7] == "0.25"
    assert "**2**" in theirs, "twice as far, but for what fewer samples add"


def test_samplers_are_chosen_by_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    import samplers

    images, seen = pictures(), []

    def classifier(x: torch.Tensor) -> SimpleNamespace:
        seen.append(x)
        return SimpleNamespace(features=x.flatten(1).float())

    run = ncsn.Run.of(GaussianScore(0.5, 0.3), (1, 10, 8), sigma_max=5.0, sigma_min=0.1)
    monkeypatch.setattr("ncsn.images.mnist", lambda: images)
    monkeypatch.setattr("ncsn.evaluation.digits", lambda: classifier)
    monkeypatch.setattr(ncsn, "load", lambda _: run, raising=False)
    monkeypatch.setattr(ncsn.Run, "compile", lambda *_: None)
    (floor,) = samplers.measure(samplers.Curve(n=20), [])
    assert torch.equal(seen[0], images.validation)
    near, far = (part.flatten(1).double() for part in (seen[1], images.validation))
    x, y = ((part - part.mean(0)) / (len(part) - 1) ** 0.5 for part in (near, far))
    spread = x.square().sum() + y.square().sum() - 2 * torch.linalg.matrix_norm(x @ y.T, "nuc")
    distance = (near.mean(0) - far.mean(0)).square().sum() + spread
    assert floor["frechet_distance"] == pytest.approx(float(distance), rel=1e-3)


@pytest.mark.parametrize(("width", "inside"), [(1.0, 0.9), (0.5, 0.61), (3.0, 0.999)])
def test_scores_of_gaussian_draws_are_those_of_a_gaussian(width: float, inside: float) -> None:
    rng, hidden = np.random.default_rng(0), np.tile([True, False], (4000, 1))
    truth, draws = 5 * rng.standard_normal((4000, 2)), 5 * width * rng.standard_normal((19, 4000, 2))
    rmse, share, crps = tables.scores(draws, truth, hidden, np.full(2, 5.0))
    assert rmse == pytest.approx((1 + width**2 / 19) ** 0.5, rel=0.03)
    assert share == pytest.approx(inside, abs=0.02)
    # E|X − y| is √(2(1 + w²)/π), and E|X − X′| is 2w/√π.
    assert crps == pytest.approx((2 * (1 + width**2) / np.pi) ** 0.5 - width / np.pi**0.5, rel=0.04)
    coins = rng.integers(0, 2, (20, 4000, 2)) * 1.0  # whose ties are broken at random
    assert tables.scores(coins[1:], coins[0], hidden, np.ones(2))[1] == pytest.approx(0.9, abs=0.02)


@pytest.mark.slow
def test_intervals_of_gaussian_rows_hold_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    monkeypatch.setattr(ncsn, "fit", lambda *_, **__: conditional_run(covariance))
    monkeypatch.setattr(tables, "DRAWS", 9)
    monkeypatch.setattr(tables, "LEAST_ROWS", 100)
    x = np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance.numpy(), 200)
    plain, conformal, _, _, verdict = tables.calibrate(x, {"seed": 0}, 30).split(maxsplit=4)
    assert [float(plain), float(conformal)] == pytest.approx([0.9, 0.9], abs=0.07)
    assert verdict.count("calibrated within") == 2


def test_hidden_cells_are_those_of_rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two far groups of rows, trees and neighbours find the text, and the number up to the spread in its group.

    Draws from the column itself are right as often as two draws agree, and their intervals hold.
    """
    monkeypatch.syspath_prepend(HERE)
    import imputation

    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 400)
    numbers = 9 * group[:, None] + rng.standard_normal((400, 2))
    frame = pandas.DataFrame(numbers, columns=["x", "y"]).assign(text=np.where(group, "b", "a"))
    hidden = imputation.choose_hidden(frame, "random", rng)
    hidden[:, 0] = False
    scores = {
        way: imputation.judge(imputation.WAYS[way](frame.mask(hidden), 0, 0), frame, hidden)
        for way in ("nearest", "trees", "shares")
    }
    assert scores["nearest"]["right"] == scores["trees"]["right"] == 1
    assert scores["shares"]["right"] < 0.7
    inside_group = 1 / frame.y.std()
    assert scores["nearest"]["rmse"] < 1.5 * inside_group
    assert scores["trees"]["rmse"] < 1.5 * inside_group
    assert scores["shares"]["rmse"] == pytest.approx(1, abs=0.1)
    assert scores["shares"]["in 90 %"] == pytest.approx(0.9, abs=0.07)
    assert np.isnan(scores["nearest"]["in 90 %"])


def test_a_pooled_regression_is_that_of_the_complete_table_where_nothing_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And with a slope that differs between draws by ±δ, Rubin's variance is W + (1 + 1/m) B."""
    monkeypatch.syspath_prepend(HERE)
    import imputation

    rng = np.random.default_rng(0)
    truth = pandas.DataFrame({"x": rng.standard_normal(500)})
    truth["y"] = 2 * truth.x + rng.standard_normal(500)
    real = imputation.Real("", "y", ("x",))
    assert imputation.pooled([truth, truth], truth, real) == pytest.approx((0, 1), abs=1e-9)
    δ = 0.1
    tilted = [truth.assign(y=truth.y + sign * δ * truth.x) for sign in (1, -1)]
    slopes, variances = np.polyfit(truth.x, truth.y, 1, cov="unscaled")
    left = truth.y - np.polyval(slopes, truth.x)
    square = variances[0, 0] * (left**2).sum() / 498
    bias, ratio = imputation.pooled(tilted, truth, real)
    assert bias == pytest.approx(0, abs=1e-9)
    assert ratio == pytest.approx(np.sqrt((square + 1.5 * 2 * δ**2) / square))
