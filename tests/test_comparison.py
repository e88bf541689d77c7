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
from ncsn.kinds.tables.judge import eight_gaussians, judge_rows


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
    assert "eight Gaussians are left out" in capsys.readouterr().err


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
    """The exact run of Gaussian rows, of which some to learn from have gaps, and these rows."""
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
