"""Cells that may be wrong: p-values are those of exact conditionals and of draws, and planted errors come first."""

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from helpers import THREE, Printed, command, conditional_run, fit_table, gaussian_rows, refusal, refuses, storms
from numpy.typing import NDArray
from scipy import stats

import ncsn
from ncsn.tables.run import TableRun


def gaussian_p(row: NDArray[np.float64], i: int, given: list[int]) -> float:
    """The p-value of number ``i`` of a row of the Gaussian ``THREE``, given the numbers at these places."""
    covariance = THREE.numpy()
    weights = covariance[i, given] @ np.linalg.inv(covariance[np.ix_(given, given)])
    std = np.sqrt(covariance[i, i] - weights @ covariance[given, i])
    return float(2 * stats.norm.sf(abs(row[i] - weights @ row[given]) / std))


def test_p_values_are_those_of_the_exact_conditionals_without_the_wrong_cell() -> None:
    rows = gaussian_rows(1000).numpy()
    rows[0] = 0.5, -3, 0.5
    p_values = conditional_run(THREE).doubt(rows).set_index(["row", "column"])["p_value"].unstack().to_numpy()
    exact = np.array([[gaussian_p(row, i, [j for j in range(3) if j != i]) for i in range(3)] for row in rows])
    assert exact[0].max() < 1e-3  # all three look wrong at first
    exact[0, [0, 2]] = gaussian_p(rows[0], 0, [2]), gaussian_p(rows[0], 2, [0])
    is_plain = (exact[1:] > 1e-3).all(1)
    assert p_values[1:][is_plain] == pytest.approx(exact[1:][is_plain], abs=0.003)
    assert np.log(p_values[0]) == pytest.approx(np.log(exact[0]), rel=0.02)
    assert stats.kstest(p_values[1:, 1], "uniform").pvalue > 1e-3


def days_and_storms(n: int) -> pandas.DataFrame:
    """Storms with a date and a number that depend on the wind, and text as labels."""
    rng = np.random.default_rng(1)
    table = storms(n)
    table["damage"] += 0.1  # so that the frequent value isn't exact in single precision
    days = pandas.to_timedelta(10 * table["wind"] + rng.integers(0, 60, n), "D")
    table["day"], table["hours"] = pandas.Timestamp("2020-01-01") + days, 2.5 * table["wind"] + rng.normal(0, 3, n)
    return table.set_axis([f"r{i}" for i in range(n)])


@pytest.fixture(scope="module")
def run() -> TableRun:
    return fit_table(days_and_storms(2000), steps=20)


def test_doubts_agree_with_draws_of_the_hidden_cell(run: TableRun) -> None:
    """Whole numbers, frequent values, categories, gaps and dates."""
    rows, n = days_and_storms(2000).iloc[[0, 2, 3, 7, 12]], 1000
    x = run._numbers(rows)
    doubts = run.doubt(rows).set_index(["row", "column"])
    assert doubts["p_value"].min() > 1e-3  # so that no cell is hidden from others
    for i, name in enumerate(rows):
        hidden = x.clone()
        hidden[:, i] = torch.nan
        draws = run.impute(hidden, n).draws[:, :, i].numpy()
        for drawn, cell, row in zip(draws.T, x[:, i].numpy(), rows.index, strict=True):
            if np.isnan(cell):
                assert (row, name) not in doubts.index
                continue
            p_value, expected = doubts.loc[(row, name), ["p_value", "expected"]]
            if name in ("status", "category"):
                values, counts = np.unique(drawn, return_counts=True)
                tail = counts[counts <= counts[values == cell].sum()].sum() / n
            else:
                tail = min(1, 2 * (drawn <= cell).mean(), 2 * (drawn >= cell).mean())
            assert p_value == pytest.approx(tail, abs=0.08)
            if name in ("wind", "damage", "hours"):
                low, high = map(float, expected.split(" to "))
                assert ((drawn >= low) & (drawn <= high)).mean() > 0.87
                assert ((drawn > low) & (drawn < high)).mean() < 0.93


@pytest.fixture(scope="module")
def wrong(run: TableRun) -> tuple[pandas.DataFrame, set[tuple[str, str]]]:
    """A table and its five wrong cells, two of which are impossible."""
    rows = days_and_storms(2000).iloc[:300].astype({"wind": float})
    errors = {("r5", "wind"): 300, ("r9", "hours"): rows.loc["r9", "hours"] / 10}
    errors |= {("r1", "status"): "hurrican", ("r8", "wind"): 31.5, ("r11", "day"): pandas.Timestamp("2024-01-01")}
    for (row, column), value in errors.items():
        rows.loc[row, column] = value
    return rows, {*errors}


def test_wrong_cells_come_first(run: TableRun, wrong: tuple[pandas.DataFrame, set[tuple[str, str]]]) -> None:
    rows, errors = wrong
    doubts = run.doubt(rows)
    assert {*zip(doubts["row"][:5], doubts["column"][:5], strict=True)} == errors
    assert (doubts["p_corrected"] < 0.01).sum() == 5
    assert (doubts["p_value"] == 0).sum() == 2
    assert doubts["p_value"].is_monotonic_increasing
    cells = doubts.set_index(["row", "column"])["value"]
    assert cells.to_dict() == rows.stack().dropna().to_dict()


def test_a_file_of_doubts_has_a_line_for_each_cell_and_is_not_replaced(
    run: TableRun, wrong: tuple[pandas.DataFrame, set[tuple[str, str]]], tmp_path: Path, capsys: Printed
) -> None:
    rows, errors = wrong
    run.save(tmp_path / "run")
    rows.to_csv(tmp_path / "table.csv", index=False)
    line = f"doubt {tmp_path}/run {tmp_path}/table.csv --out {tmp_path}/doubts.csv"
    command(line)
    doubts = pandas.read_csv(tmp_path / "doubts.csv")
    assert len(doubts) == rows.notna().sum().sum()
    first = doubts[:5]
    assert {*zip("r" + (first["row"] - 1).astype(str), first["column"], strict=True)} == errors
    assert "--overwrite" in refusal(capsys, *line.split())


def test_of_an_array_cells_are_counted_and_given_cells_are_not_judged() -> None:
    doubts = conditional_run(THREE).given({"1": 1.0}).doubt([[0.1, np.nan], [5, 0.2]])
    cells = doubts[["row", "column", "value"]].to_numpy().tolist()
    assert cells[0] == [1, "0", 5.0]
    assert sorted(cells) == [[0, "0", 0.1], [1, "0", 5.0], [1, "2", 0.2]]
    assert doubts["p_value"][0] == pytest.approx(gaussian_p(np.array([5, 1, 0.2]), 0, [1, 2]), rel=0.1)


test_refused = refuses(
    [
        (lambda: conditional_run(THREE).doubt([[np.nan] * 3]), "no known cells"),
        (lambda: ncsn.with_rule(conditional_run(THREE), lambda rows: rows[:, 0] > 0).doubt([[1, 2, 3]]), "a rule"),
    ]
)
