"""Samples of tables next to real rows: what judges say of copies, of strangers and of exact samples."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import conditional_run, refused
from torch import Tensor

import ncsn
from ncsn.evaluation import evaluate
from ncsn.kinds import TABLES, Dataset, dataset_of
from ncsn.kinds.comparison import Comparison, memorisation
from ncsn.kinds.tables import judge
from ncsn.kinds.tables.columns import learn_columns
from ncsn.kinds.tables.judge import (
    column_shapes,
    eight_gaussians,
    judge_rows,
    membership_attack,
    pair_trends,
    utility,
)


def test_judges_know_copies_strangers_and_rows_of_the_kind() -> None:
    rng = np.random.default_rng(0)
    train, test, fresh = (rng.standard_normal((n, 2)) @ [[2, 1], [0, 1]] for n in (3000, 500, 500))
    copied, strange = train[:500] + 1e-3, np.stack([fresh[:, 0], rng.permutation(fresh[:, 1])], 1)
    alike, copies, others = (judge_rows(train, test, samples) for samples in (fresh, copied, strange))
    assert alike["classifier"] == pytest.approx(0.5, abs=0.05)
    assert alike["memorisation"] == pytest.approx(0.5, abs=0.06)
    assert copies["memorisation"] > 0.95
    assert others["classifier"] > 0.6
    assert others["sliced_wasserstein"] > 1.5 * others["sliced_wasserstein_of_real_rows"]
    normal = -1 - math.log(2 * math.pi) - math.log(2)  # of the rows' own Gaussian
    assert alike["log_density_of_eight_gaussians"] == pytest.approx(normal, abs=0.1)


def coins(n: int, seed: int, count: int) -> np.ndarray:
    """Fair coins, and one normal number."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.integers(0, 2, (n, count)), rng.standard_normal((n, 1))], 1).astype(float)


def test_eight_gaussians_have_the_density_of_cells() -> None:
    """Of seven fair coins and a normal, exactly −(7 log 2 + ½ + ½ log 2π) in the mean."""
    train, test = coins(3000, 0, 7), coins(1000, 1, 7)
    columns = learn_columns(torch.from_numpy(train), "abcdefgh")
    exact = -7 * math.log(2) - math.log(2 * math.pi) / 2 - float(np.square(test[:, 7]).mean()) / 2
    assert eight_gaussians(train, test, columns) == pytest.approx(exact, abs=0.03)


def test_copies_of_rows_with_cells_are_seen() -> None:
    rows = coins(2000, 0, 11), coins(400, 1, 11), coins(400, 2, 11)
    columns = learn_columns(torch.from_numpy(rows[0]), "abcdefghijkl")
    train, test, fresh = (columns.forward(torch.from_numpy(each)).numpy() for each in rows)
    assert memorisation(train, test, train[:400]) > 0.99
    assert memorisation(train, test, fresh) == pytest.approx(0.5, abs=0.05)


def test_rows_on_a_plane_lose_the_reference_alone(capsys: Any) -> None:
    x = 1e12 * np.random.default_rng(0).standard_normal((120, 1)) * np.ones(3)
    numbers = judge_rows(x[:80], x[80:], x[80:])
    assert "log_density_of_eight_gaussians" not in numbers
    assert numbers["sliced_wasserstein"] == 0
    assert "log_density_of_eight_gaussians" in capsys.readouterr().err


def test_the_density_of_eight_gaussians_is_of_the_rows_whose_density_the_run_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    train, test, samples = (rng.standard_normal((n, 2)) for n in (500, 120, 120))
    monkeypatch.setattr(judge, "DENSITIES", 100)
    found = judge_rows(train, test, samples)["log_density_of_eight_gaussians"]
    test[100:] = 50
    assert judge_rows(train, test, samples)["log_density_of_eight_gaussians"] == found


C = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


def normal_rows(n: int, seed: int) -> Tensor:
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()
    rows: Tensor = 1e3 + 50 * z @ torch.linalg.cholesky(C.double()).T
    return rows


@pytest.fixture(scope="module")
def exact() -> tuple[ncsn.Run, Dataset]:
    """The exact run of Gaussian rows, and these rows, some of which have gaps."""
    x = normal_rows(2000, 0)
    x[::3, 1] = torch.nan
    data = dataset_of(pandas.DataFrame(x.numpy(), columns=["a", "b"]))
    run = conditional_run(C)
    return replace(run, recipe=replace(run.recipe, transform=data.transform)), data


def test_a_run_is_compared_with_held_out_rows(exact: tuple[ncsn.Run, Dataset]) -> None:
    """Its own samples look real; those of others, and copies of complete rows to learn from, do not."""
    run, data = exact
    result = evaluate(run, data, seed=3)
    assert isinstance(result, Comparison)
    assert result.n == len(data.test) == 200
    assert 0.38 < result.numbers["classifier"] < 0.62
    assert 0.4 < result.numbers["memorisation"] < 0.6
    # The log density is exact, in the user's units.
    test = data.transform.inverse(data.test.double())
    normal = torch.distributions.MultivariateNormal(torch.full((2,), 1e3).double(), 2500 * C.double())
    expected = float(normal.log_prob(test).mean())  # type: ignore[no-untyped-call]
    assert result.numbers["log_density"] == pytest.approx(expected, abs=0.03)
    complete = data.train[~data.train.isnan().any(1)].double()
    ruler = TABLES.ruler(run, data, "auto", 10_000)
    for samples, name in ((data.transform.inverse(complete[:200]), "memorisation"), (test.flip(1) + 200, "classifier")):
        assert ruler.judge(samples).numbers[name] > 0.95


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 16)])
def test_only_rows_have_a_target(shape: tuple[int, ...], exact: tuple[ncsn.Run, Dataset]) -> None:
    run = ncsn.Run.of(lambda x, sigma: -x, shape, sigma_max=9.0, sigma_min=0.1)
    assert "only tables" in refused(lambda: run.recipe.kind.ruler(run, exact[1], "auto", 100, "a"))


def test_gaps_that_are_learned_are_judged() -> None:
    frame = pandas.DataFrame(mixed_rows(1200, 0, 0.0), columns=[*"abcd"])
    run = ncsn.fit(frame, steps=1, keep_missing=True, quiet=True)
    result = evaluate(run, frame, target="b", levels=3)
    assert isinstance(result, Comparison)
    assert all(map(math.isfinite, result.numbers.values()))
    assert {"membership_attack", "memorisation", "target_r2"} <= result.numbers.keys()


def mixed_rows(n: int, seed: int, shift: float) -> np.ndarray:
    """Two columns of numbers and two of categories, with gaps."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n) + shift
    b = np.round(np.exp(a + rng.standard_normal(n)))
    text, flag = rng.choice(3, n, p=[0.5, 0.3, 0.2]).astype(float), rng.random(n) < 1 / (1 + np.exp(-a))
    b[::7], text[::11] = np.nan, np.nan
    return np.stack([a, b, text, flag], 1)


def test_shapes_and_trends_are_those_of_sdmetrics() -> None:
    """Means of KSComplement and TVComplement, CorrelationSimilarity and ContingencySimilarity of SDMetrics 0.32.0.

    The last with ``continuous_column_names``; its values are stored, because plotly, which it needs, is large.
    """
    real, made, text = mixed_rows(300, 0, 0.0), mixed_rows(300, 1, 0.5), np.array([False, False, True, True])
    assert column_shapes(real, made, text) == pytest.approx((0.786666667 + 0.871595331 + 0.9375 + 0.953333333) / 4)
    trends = (0.954393677, 0.766666667, 0.79, 0.83, 0.856666667, 0.923333333)
    assert pair_trends(real, made, text) == pytest.approx(sum(trends) / 6)
    shifted = made + np.array([1e3, 1e3, 0, 0])
    assert column_shapes(real, shifted, text) == pytest.approx((0.9375 + 0.953333333) / 4)
    assert pair_trends(real, shifted, text) < 0.6, "bins are those of the real rows"
    constant = made * [0, 1, 1, 1]
    assert pair_trends(real, constant, text) < pair_trends(real, made, text) - 0.15, "no correlation is no likeness"


def test_trees_that_learn_from_samples_predict_as_well_as_these_are() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((900, 3))
    rows[:, 2] = rows[:, 0] + 0.1 * rows[:, 2]
    rows[:, 1] = rows[:, 0] > 1.3  # one in ten
    train, test, columns = rows[:600], rows[600:], learn_columns(torch.from_numpy(rows), "abc")
    gaps, mixed, same = train.copy(), rng.permuted(train, axis=0), train * [1, 0, 1]
    gaps[:100, 2], gaps[100:200, 0] = np.nan, np.nan
    flag = "target_balanced_accuracy"

    def number(x: np.ndarray) -> float:
        return utility(x, test, columns, "c")["target_r2"]

    assert number(train) > 0.95
    assert number(gaps) > 0.95
    assert number(mixed) < 0.05
    assert utility(train, test, columns, "b")[flag] > 0.9
    assert utility(mixed, test, columns, "b")[flag] == pytest.approx(0.5, abs=0.1)
    assert utility(same, test, columns, "b")[flag] == 0.5, "always the frequent value is as good as chance"


def copies(x: np.ndarray, noise: float) -> np.ndarray:
    rng = np.random.default_rng(9)
    return x[rng.integers(0, len(x), len(x))] + noise * rng.standard_normal(x.shape)


@pytest.mark.parametrize("test_rows", [100, 1000])
def test_the_attack_finds_training_rows_by_their_copies_only(test_rows: int) -> None:
    """Also by copies with noise, which a sample of eight numbers hardly hides, and of discrete rows."""
    rng = np.random.default_rng(1)
    for dimensions, discrete in ((1, False), (8, False), (7, True), (30, True)):
        sizes = (2000, test_rows, 2000)
        draw = (lambda n, d=dimensions: rng.integers(0, 2, (n, d)).astype(float)) if discrete else None
        train, test, exact = ((draw or (lambda n, d=dimensions: rng.standard_normal((n, d))))(n) for n in sizes)
        strangers, constant = exact + 50, np.zeros_like(exact)
        for samples in (exact, strangers, constant):
            found = membership_attack(train, test, samples)
            assert found["membership_attack"] < 3 * found["membership_attack_by_chance"] <= 0.12
        if dimensions >= 8:
            noise = 0.0 if discrete else 0.2
            assert membership_attack(train, test, copies(train, noise))["membership_attack"] > 0.3


def test_an_attack_by_chance_finds_one_in_a_hundred() -> None:
    rng = np.random.default_rng(2)
    found = [membership_attack(*(rng.standard_normal((n, 3)) for n in (400, 199, 400))) for _ in range(200)]
    rates = np.array([(each["membership_attack"], each["membership_attack_by_chance"]) for each in found])
    assert rates[:, 0].mean() == pytest.approx(0.01, abs=4 * rates[:, 0].std() / 200**0.5)
    assert (rates[:, 0] > rates[:, 1]).mean() < 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5
    assert membership_attack(*(rng.standard_normal((n, 3)) for n in (400, 98, 400))) == {}


def test_too_few_rows_are_not_judged(exact: tuple[ncsn.Run, Dataset]) -> None:
    run, data = exact
    assert "99 held-out rows" in refused(lambda: evaluate(run, replace(data, test=data.test[:99])))
    assert "99 training rows" in refused(lambda: evaluate(run, replace(data, train=data.train[:99])))


def test_pictures_of_a_training_show_rows_that_it_has_not_seen(
    exact: tuple[ncsn.Run, Dataset], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the user's units."""
    run, data = exact
    shown: list[Tensor] = []
    monkeypatch.setattr("ncsn.kinds.tables.show_rows", lambda _, real, *__: shown.append(real))
    TABLES.show(run, data, torch.zeros(3, 2), [], tmp_path)
    torch.testing.assert_close(data.transform.forward(shown[0]).float(), data.validation[:3], equal_nan=True)
