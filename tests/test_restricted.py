"""Rules of the user's own: draws that break them are rejected, and nothing else changes."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import conditional_run, fit_table, refused, unchecked
from scipy import stats
from torch import Tensor

import ncsn
from ncsn.loading import dataset_of
from ncsn.settings import TrainSettings
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.run import TableRun

PAIR = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double()


def ascending(rows: Tensor) -> Tensor:
    return rows[:, 0] < rows[:, 1]


def test_rows_are_those_of_the_run_given_that_the_rule_holds(caplog: pytest.LogCaptureFixture) -> None:
    """The difference of a correlated pair becomes half a Gaussian; the sum stays as it is."""
    run = ncsn.with_rule(conditional_run(PAIR), ascending)
    with caplog.at_level("INFO", "ncsn"):
        rows = run.sample(4000, seed=1)
    assert bool(ascending(rows).all())
    share = float(caplog.messages[-1].partition("%")[0]) / 100
    assert share == pytest.approx(0.5, abs=0.03)
    difference, total = (rows[:, 1] - rows[:, 0]).numpy(), rows.sum(1).numpy()
    assert stats.kstest(difference, stats.halfnorm(0, 0.8**0.5).cdf).pvalue > 1e-3
    assert stats.kstest(total, stats.norm(0, 3.2**0.5).cdf).pvalue > 1e-3
    x = torch.tensor([[0.1, 0.5], [0.5, 0.1]]).double()
    log_prob = run.log_prob(x)
    exact = stats.multivariate_normal(np.zeros(2), PAIR.numpy()).logpdf(x[0].numpy()) + math.log(2)
    assert float(log_prob[0]) == pytest.approx(exact, abs=0.1)
    assert float(log_prob[1]) == -math.inf


def test_given_and_imputed_values_obey_the_rule() -> None:
    """A Gaussian above or below what is known of the row."""
    run = ncsn.with_rule(conditional_run(PAIR), ascending)
    above = run.sample(2000, given={"0": 1.0}, seed=2)[:, 1].numpy()
    assert stats.kstest(above, stats.truncnorm(0.4 / 0.8, math.inf, 0.6, 0.8).cdf).pvalue > 1e-3
    draws = run.impute([[math.nan, -1.0], [math.nan, math.nan]], 500).draws
    below = draws[:, 0, 0].numpy()
    assert stats.kstest(below, stats.truncnorm(-math.inf, -0.4 / 0.8, -0.6, 0.8).cdf).pvalue > 1e-3
    assert bool(ascending(draws[:, 1]).all())


@pytest.fixture(scope="module")
def staff() -> tuple[pandas.DataFrame, TableRun]:
    """Dates with gaps, text and whole numbers, and a run of an untrained network."""
    rng = np.random.default_rng(0)
    n = 600
    start = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(rng.integers(0, 1500, n), "D")
    end = pandas.Series(start + pandas.to_timedelta(rng.integers(1, 900, n), "D")).mask(rng.random(n) < 0.3)
    role = rng.choice(["chef", "waiter"], n)
    pay = pandas.Series(np.where(role == "chef", 3000, 2000) + rng.integers(0, 900, n), dtype="Int64")
    frame = pandas.DataFrame({"start": start, "end": end, "role": role, "pay": pay})
    return frame, fit_table(dataset_of(frame), settings=TrainSettings(steps=1))


def still_employed_or_ascending(rows: pandas.DataFrame) -> Any:
    return rows["end"].isna() | (rows["start"] < rows["end"])


def paid_by_role(rows: pandas.DataFrame) -> Any:
    return (rows["role"] == "chef") == (rows["pay"] > 2900)


@pytest.mark.parametrize("rule", [still_employed_or_ascending, paid_by_role])
def test_rules_see_rows_as_samples_are(rule: Any, staff: tuple[pandas.DataFrame, TableRun]) -> None:
    """Dates, gaps, text and nullable whole numbers; the same seed gives the same rows."""
    frame, run = staff
    assert not rule(run.sample(300, seed=3)).all(), "the run breaks the rule"
    ruled = ncsn.with_rule(run, rule)
    rows = ruled.sample(300, seed=3)
    assert isinstance(rows, pandas.DataFrame)
    assert rule(rows).all()
    assert rows["end"].isna().any()
    assert rows.dtypes.equals(frame.dtypes)
    assert rows.equals(ruled.sample(300, seed=3))
    gaps = frame.head(30).copy()
    gaps.loc[::2, "pay"] = pandas.NA
    imputed = ruled.impute(gaps[::2], 5)
    assert isinstance(imputed, ImputedTable)
    assert rule(imputed.frames(1)[0]).all()


def test_a_rule_that_says_nothing_of_a_row_does_not_hold_there(staff: tuple[pandas.DataFrame, TableRun]) -> None:
    """As comparisons of nullable numbers with a gap do, which pandas calls NA."""
    _, run = staff
    rows = ncsn.with_rule(run, lambda rows: rows["pay"].mask(rows["role"] == "chef") > 0).sample(100, seed=3)
    assert set(rows["role"]) == {"waiter"}


def always(returned: object, _: object) -> object:
    return returned


def test_rules_that_hold_nowhere_or_return_something_else_are_refused(
    staff: tuple[pandas.DataFrame, TableRun], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, run = staff
    assert "0 of 2,000 draws obey the rule" in refused(
        lambda: ncsn.with_rule(run, lambda rows: rows.pay < 0).sample(2000)
    )
    whole = pandas.Series([1, 2, 3, 4, 5], dtype="Int64")
    for wrong in (True, [True], list("abcde"), np.array([*"abcde"], object), whole):
        ruled = ncsn.with_rule(run, partial(always, wrong))
        assert "True or False for each of 5 rows" in refused(partial(ruled.sample, 5))
    with unchecked():
        assert "only rows of a table" in refused(lambda: ncsn.with_rule(ncsn.load("mnist"), ascending))  # type: ignore[arg-type]
    with caplog.at_level("INFO", "ncsn"):
        ncsn.with_rule(run, paid_by_role).save(tmp_path / "run")
    assert "the rule is not saved" in caplog.text
    assert type(ncsn.load(tmp_path / "run")) is TableRun
