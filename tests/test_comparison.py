"""Samples of tables next to real rows: what judges say of copies, of strangers and of exact samples."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from helpers import conditional_run, refused, with_transform
from torch import Tensor

import ncsn
from ncsn.data.columns import Column, learn_columns
from ncsn.data.dataset import Dataset
from ncsn.evaluation import evaluate
from ncsn.evaluation.comparison import Comparison
from ncsn.evaluation.tables import column_shapes, coordinates, judge_rows, pair_trends
from ncsn.loading import dataset_of
from ncsn.tables import TABLES


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


def test_rows_are_compared_by_numbers_texts_and_gaps() -> None:
    """Texts are as far from each other as each is, a frequent value is at the end, and a gap says so."""
    rng = np.random.default_rng(0)
    text, x = rng.integers(0, 3, 400).astype(float), np.where(rng.random(400) < 0.2, 0.0, rng.standard_normal(400))
    y = np.where(rng.random(400) < 0.3, np.nan, 50 + 10 * rng.standard_normal(400))
    rows = np.stack([text, x, y], 1)
    columns = learn_columns(torch.from_numpy(rows), [Column(name="a", categories=tuple("rst")), "b", "c"])
    found = coordinates(rows, columns)
    assert np.array_equal(found[:, :3], np.eye(3)[text.astype(int)])
    assert np.array_equal(found[:, 3] == 4, x == 0)
    assert np.abs(found[x != 0, 3]).max() < 3.9
    assert np.array_equal(found[:, 5], np.isnan(y))
    known = ~np.isnan(y)
    assert not found[~known, 4].any()
    assert found[known, 4] == pytest.approx((y[known] - y[known].mean()) / y[known].std(), abs=0.01)
    numbers = judge_rows(rows, rows[:200], np.nan_to_num(rows[200:], nan=50.0), columns)
    assert numbers["classifier"] > 0.6, "samples without gaps"


C = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


def normal_rows(n: int, seed: int) -> Tensor:
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()
    rows: Tensor = 1e3 + 50 * z @ torch.linalg.cholesky(C.double()).T
    return rows


@pytest.fixture(scope="module")
def exact() -> tuple[ncsn.Run, Dataset]:
    """The exact run of Gaussian rows, and these rows."""
    x = normal_rows(2000, 0)
    data = dataset_of(pandas.DataFrame(x.numpy(), columns=["a", "b"]))
    return with_transform(conditional_run(C), data.transform), data


def test_a_run_is_compared_with_held_out_rows(exact: tuple[ncsn.Run, Dataset]) -> None:
    """Its own samples look real; those of others, and copies of complete rows to learn from, do not."""
    run, data = exact
    result = evaluate(run, data, seed=3)
    assert isinstance(result, Comparison)
    assert result.n == len(data.test) == 200
    assert 0.38 < result.numbers["classifier"] < 0.62
    assert 0.4 < result.numbers["memorisation"] < 0.6
    # The log density is exact, in the user's units.
    test = data.transform.restore(data.test.double())
    normal = torch.distributions.MultivariateNormal(torch.full((2,), 1e3).double(), 2500 * C.double())
    expected = float(normal.log_prob(test).mean())  # type: ignore[no-untyped-call]
    assert result.numbers["log_density"] == pytest.approx(expected, abs=0.03)
    complete = data.train[~data.train.isnan().any(1)].double()
    ruler = TABLES.ruler(run, data, "auto", 10_000)
    for samples, name in ((data.transform.inverse(complete[:200]), "memorisation"), (test.flip(1) + 200, "classifier")):
        assert ruler.judge(samples).numbers[name] > 0.95


def test_rows_with_gaps_are_judged() -> None:
    frame = pandas.DataFrame(mixed_rows(1200, 0, 0.0), columns=[*"abcd"])
    result = evaluate(ncsn.fit(frame, steps=1, quiet=True), frame, levels=3)
    assert isinstance(result, Comparison)
    assert result.n == 120
    assert all(map(math.isfinite, result.numbers.values()))
    assert {"classifier", "memorisation", "column_shapes", "log_density"} <= result.numbers.keys()


def test_other_rows_than_those_of_the_training_are_refused() -> None:
    """Even if they are only shuffled: most held-out rows were trained on.  And features, which tables lack."""
    for frame in (pandas.DataFrame(mixed_rows(1200, 0, 0.0)[:, 2:], columns=["c", "d"]), frame_of_numbers(1200)):
        run = ncsn.fit(frame, steps=1, quiet=True)
        shuffled = frame.sample(frac=1.0, random_state=0)
        assert "what the run was trained on" in refused(partial(evaluate, run, shuffled))
        assert "only images have features" in refused(partial(evaluate, run, frame, "pixels"))


def frame_of_numbers(n: int) -> pandas.DataFrame:
    return pandas.DataFrame(mixed_rows(n, 0, 0.0)[:, :2], columns=["a", "b"])


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
    assert column_shapes(real, made * [np.nan, 1, 1, 1], text) == pytest.approx(
        (0.871595331 + 0.9375 + 0.953333333) / 3
    )
    constant = made * [0, 1, 1, 1]
    assert pair_trends(real, constant, text) < pair_trends(real, made, text) - 0.15, "no correlation is no likeness"


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
    monkeypatch.setattr("ncsn.tables.show_rows", lambda _, real, *__: shown.append(real))
    TABLES.show(run, data, torch.zeros(3, 2), [], tmp_path)
    torch.testing.assert_close(data.transform.forward(shown[0]).float(), data.validation[:3], equal_nan=True)
