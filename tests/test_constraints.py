"""Constraints of a table: found where all rows obey them, not by chance, and counted where samples break them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
from helpers import fit_table

from ncsn.evaluation import Comparison, evaluate
from ncsn.loading import dataset_of
from ncsn.tables.frames import numbers_of
from ncsn.tables.learning import Table

N = 1000
RNG = np.random.default_rng(0)
SHARES = RNG.dirichlet([3, 2, 4], N)
QUANTITY, PRICE = RNG.integers(1, 30, N), RNG.lognormal(2, 1, N).round(2)
CELSIUS = RNG.normal(15, 8, N).round(1)
WIND = 5.0 * RNG.integers(3, 32, N)
CLASS = np.digitize(WIND, [64, 83, 96, 113])
ORIGIN, SHIFT = RNG.integers(0, 4, (2, N))
EXACT_WIND = RNG.exponential(30, N)
START = pandas.Series(pandas.Timestamp("2020-01-01") + pandas.to_timedelta(RNG.integers(0, 700, N), unit="D"))
STAY = pandas.Series(pandas.to_timedelta(RNG.integers(0, 60, N), unit="D"))
PART, REST = RNG.gamma(2, 1, (2, N))


Oracle = Callable[[pandas.DataFrame], Any]


def table_of(frame: pandas.DataFrame) -> Table:
    data = dataset_of(frame)
    assert isinstance(data, Table)
    return data


def texts_in(frame: pandas.DataFrame) -> list[str]:
    return [constraint.text for constraint in table_of(frame).constraints]


def code_of(frame: pandas.DataFrame) -> Any:
    return "m" + frame["from"].astype(str) + frame["by"].astype(str)


def kind_of(wind: Any) -> Any:
    return np.array(["low", "mid", "high"])[np.digitize(wind, [20, 50])]


ROUTES = pandas.DataFrame({"from": ORIGIN, "by": np.array([*"wxyz"])[SHIFT]})
# Columns, the constraints that they obey, and which rows obey the first of them.
CASES: list[tuple[dict[str, Any], list[str], Oracle]] = [
    (
        dict(zip("abc", SHARES.T, strict=True)),
        ["a + b + c = 1"],
        lambda rows: (rows["a"] + rows["b"] + rows["c"] - 1).abs() < 1e-4,
    ),
    (
        dict(zip("abc", SHARES.round(3).T, strict=True)),
        ["a + b + c = 1"],
        lambda rows: (rows["a"] + rows["b"] + rows["c"] - 1).abs() < 0.00151,
    ),
    (
        {"a": SHARES[:, 0], "b": SHARES[:, 1], "y": np.log(SHARES[:, 0] / SHARES[:, 1])},
        ["log(b) + y = log(a)"],
        lambda rows: (np.log(rows["a"] / rows["b"]) - rows["y"]).abs() < 1e-4,
    ),
    (
        {"n": QUANTITY, "price": PRICE, "total": (QUANTITY * PRICE).round(2)},
        ["total = n × price"],
        lambda rows: (rows["n"] * rows["price"] - rows["total"]).abs() < 0.011 * (1 + rows["n"]),
    ),
    (
        {"c": CELSIUS, "f": (1.8 * CELSIUS + 32).round(1)},
        ["f = 1.8 c + 32"],
        lambda rows: (1.8 * rows["c"] + 32 - rows["f"]).abs() < 0.141,
    ),
    (
        {"whole": 2 * PRICE, "half": PRICE},
        ["half = 0.5 whole"],
        lambda rows: (rows["whole"] - 2 * rows["half"]).abs() < 0.031,
    ),
    (
        {"wind": np.where(np.arange(N) % 7, WIND, np.nan), "class": np.where(CLASS, CLASS, np.nan)},
        ["wind determines class"],
        lambda rows: (np.digitize(rows["wind"], [64, 83, 96, 113]) == rows["class"].fillna(0)) | rows["wind"].isna(),
    ),
    (
        {**ROUTES, "move": code_of(ROUTES)},
        ["move determines from", "move determines by", "from and by determine move"],
        lambda rows: rows["move"].str[1].astype(int) == rows["from"],
    ),
    (
        {"wind": EXACT_WIND, "kind": kind_of(EXACT_WIND)},
        ["kind is a class of wind"],
        lambda rows: kind_of(rows["wind"]) == rows["kind"],
    ),
    (
        {"start": START, "end": (START + STAY).mask(RNG.random(N) < 0.2)},
        ["start ≤ end"],
        lambda rows: ~(rows["start"] > rows["end"]),
    ),
    (
        {"more": PART + REST + RNG.gamma(2, 1, N), "part": PART, "whole": PART + REST},
        ["part ≤ whole", "whole ≤ more"],
        lambda rows: rows["part"] <= rows["whole"],
    ),
]


@pytest.mark.parametrize(("columns", "expected", "obey"), CASES, ids=[texts[0] for _, texts, _ in CASES])
def test_what_all_rows_obey_is_found_and_rows_that_break_it_are_known(
    columns: dict[str, Any], expected: list[str], obey: Oracle
) -> None:
    """But nothing is found if 2 % of the rows break it."""
    frame = pandas.DataFrame(columns)
    data = table_of(frame)
    assert [constraint.text for constraint in data.constraints] == expected
    constraint = data.constraints[0]
    last = frame.columns[-1]
    shuffled = frame.assign(**{last: frame[last].sample(frac=1, random_state=0).to_numpy()})
    broken = constraint.broken(numbers_of(shuffled, data.columns).numpy())
    obeyed = np.asarray(obey(shuffled), bool)
    assert not (broken & obeyed).any()
    assert (broken | obeyed).mean() > 0.99, "only between two classes, it isn't known which of them is right"
    assert broken.mean() > 0.02
    assert not constraint.broken(numbers_of(frame, data.columns).numpy()).any()
    assert not constraint.broken(np.full((3, len(columns)), np.nan)).any()
    wrong = frame.assign(**{last: frame[last].where(np.arange(N) % 50 > 0, shuffled[last])})
    assert constraint.text not in texts_in(wrong)


@pytest.mark.parametrize("seed", range(4))
def test_no_constraint_is_found_by_chance(seed: int) -> None:
    """In columns that are correlated, that lie apart, that are rarely other than 0, or whose logarithm is straight."""
    rng = np.random.default_rng(seed)
    n = (150, 400, 1000, 3000)[seed]
    x = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=(n, 6)) / 4
    frame = pandas.DataFrame(x, columns=[*"abcdef"])
    frame["close"] = frame["a"] + rng.normal(0, 0.02, n)
    frame["apart"] = frame["a"] + 5 + rng.normal(0, 1, n)
    frame["far"] = rng.normal(100, 1, n)
    frame["rare"] = (rng.random(n) < 0.02).astype(int)
    frame["text"] = rng.choice([*"xyz"], n, p=[0.9, 0.07, 0.03])
    frame["count"] = rng.poisson(3, n)
    frame["year"] = rng.integers(2000, 2020, n)
    frame["noisy year"] = frame["year"] + rng.normal(0, 1, n).round()
    assert texts_in(frame) == []


@pytest.mark.parametrize("prefix", ["", "p"])
def test_rows_of_subjects_that_agree_are_named(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """Even if their names are text, which is left out; a year of a decade is no subject."""
    subject = RNG.permutation(np.repeat(np.arange(200), 5))
    frame = pandas.DataFrame(
        {
            "id": [int(i) if not prefix else f"{prefix}{i}" for i in subject],
            "arm": RNG.choice([*"AB"], 200)[subject],
            "y": RNG.normal(size=N),
        }
    )
    table_of(frame)
    assert "rows with the same id always agree in arm:" in caplog.text
    caplog.clear()
    year = RNG.integers(1900, 2000, N)
    table_of(pandas.DataFrame({"year": year, "decade": year // 10, "coin": RNG.random(N) < 0.5, "y": frame["y"]}))
    table_of(frame.assign(arm=RNG.choice([*"AB"], N)))
    assert "always agree" not in caplog.text


def test_samples_that_break_a_constraint_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training says what its rows obey; evaluation says how often its own samples don't."""
    monkeypatch.setattr("ncsn.evaluation.tables.judge_rows", lambda *_: {})  # trees take seconds
    columns, _, obey = CASES[-1]
    frame = pandas.DataFrame(columns)
    with caplog.at_level("INFO", "ncsn"):
        run = fit_table(frame, steps=1, channels=(8,), blocks=1, quiet=False)
    assert all(f"{text}\n" in caplog.text for text in ("part ≤ whole", "whole ≤ more"))
    result = evaluate(run, frame, seed=3, levels=5)
    assert isinstance(result, Comparison)
    samples = run.sample(result.n, seed=3, levels=5)
    share = float((~obey(samples)).mean())
    assert share > 0
    assert result.constraints["part ≤ whole"] == (share, 0.0)
    assert f"{share:.3f}      0.000" in str(result)
    assert result.report()["constraints"]["part ≤ whole"] == {"samples": share, "real_rows": 0.0}  # type: ignore[index]
