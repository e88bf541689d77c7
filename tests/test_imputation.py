"""Missing values of tables: draws against exact conditionals, how sure they say they are, and files byte for byte."""

import csv
import errno
import math
import re
import time
from codecs import BOM_UTF8, BOM_UTF16
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from helpers import (
    THREE,
    Patch,
    Printed,
    command,
    conditional_run,
    fit_table,
    gaussian_rows,
    load_table,
    refusal,
    refused,
    table_run,
    with_transform,
)
from pyarrow import parquet
from torch import Tensor

import ncsn
from ncsn.data.columns import Columns, Discrete, Field, Number
from ncsn.loading import dataset_of
from ncsn.run.imputation import Imputed
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.run import TableRun

TWENTY = 0.97 ** (torch.arange(20)[:, None] - torch.arange(20)).abs().double()


def impute(run: TableRun, rows: Tensor, n: int, *, numbers: bool = True) -> Tensor:
    """Draws, with what holds of all of them; ``numbers``: no column has codes."""
    found = run.impute(rows, n, seed=1)
    assert torch.equal(found.observed.nan_to_num(1e9), rows.nan_to_num(1e9))
    assert torch.equal(found.missing, rows.isnan())
    assert bool(found.draws.isfinite().all())
    assert torch.equal(found.draws[:, ~rows.isnan()], rows[~rows.isnan()].expand(n, -1))
    if numbers:
        torch.testing.assert_close(found.point[found.missing], found.draws.mean(0)[found.missing])
        torch.testing.assert_close(found.spread(), found.draws.std(0))
    return found.draws


# Against exact conditionals.


@pytest.mark.parametrize(("c", "gaps"), [(THREE, ([1, 2], [0], [])), (TWENTY, ([4, 5], [0, 19], [7]))])
def test_imputation_of_a_gaussian_is_right_within_monte_carlo_error(c: Tensor, gaps: tuple[list[int], ...]) -> None:
    """In a few columns, and in many that follow from one another; rows far out are drawn with others."""
    x = gaussian_rows(300, c) * torch.tensor([1.0, 30.0]).repeat(150)[:, None]
    missing = torch.stack([torch.zeros(len(c)).index_fill(0, torch.tensor(i).long(), 1) for i in gaps]).bool()
    missing = missing.repeat(100, 1)
    draws = impute(conditional_run(c), x.masked_fill(missing, torch.nan), 20)
    for pattern in missing[:2]:
        weights = c[pattern][:, ~pattern] @ torch.linalg.inv(c[~pattern][:, ~pattern])
        deviation = (c[pattern][:, pattern] - weights @ c[~pattern][:, pattern]).diagonal().sqrt()
        rows = (missing == pattern).all(1)
        error = (draws[:, rows][..., pattern] - x[rows][:, ~pattern] @ weights.T) / deviation
        assert float(error.abs().max()) < 6
        assert float(error.mean(0).square().mean() * 20) == pytest.approx(1, abs=0.35)
        assert float(error.std()) == pytest.approx(1, abs=0.05)


def known_run(columns: Columns, mean: list[float], covariance: Tensor, shares: list[float]) -> TableRun:
    """The untrained model of numbers and codes: a Gaussian of numbers and indicators."""
    start = {"mean": torch.tensor(mean), "covariance": covariance.float(), "log_shares": torch.tensor(shares).log()}
    return table_run(start, columns)


def classes(shares: list[float], means: list[float]) -> TableRun:
    """Classes 0, 1, … with these shares, and a number x whose distribution is N(mean, 1) in each."""
    p, m = torch.tensor(shares).double(), torch.tensor(means).double()
    kinds = Discrete(name="kind", values=tuple(map(float, range(len(p)))))
    columns = Columns(columns=(Number(name="x", shift=0.0, scale=1.0), kinds))
    middle = float(p @ m)
    cross = p * (m - middle)
    covariance = torch.zeros(1 + len(p), 1 + len(p)).double()
    covariance[0, 0], covariance[1:, 1:] = 1 + p @ (m - middle) ** 2, p.diag() - p.outer(p)
    covariance[0, 1:] = covariance[1:, 0] = cross
    covariance[1:, 1:] += 1e-6 * torch.eye(len(p))
    return known_run(columns, [middle, *shares], covariance, shares)


def test_probabilities_of_classes_are_those_of_bayes_rule() -> None:
    """And a number given a class, and both together; draws of identical rows are alike, whatever their neighbours."""
    shares, means = [0.6, 0.3, 0.1], [0.0, 1.5, 3.0]
    run = classes(shares, means)
    x = torch.tensor([-1.0, 1.0, 2.5, 2.5]).double()
    draws = impute(run, torch.stack([x, torch.full((4,), torch.nan).double()], 1), 4000, numbers=False)[..., 1]
    exact = (torch.tensor(shares).log() - (x[:, None] - torch.tensor(means)) ** 2 / 2).softmax(1)
    for row, chances in enumerate(exact):
        for kind, p in enumerate(chances.tolist()):
            assert float((draws[:, row] == kind).double().mean()) == pytest.approx(p, abs=0.01 + 4 * (p / 4000) ** 0.5)
    for kind, p in enumerate(exact[2].tolist()):  # the last two rows are equal
        both = (draws[:, 2:] == kind).all(1).double().mean()
        assert float(both) == pytest.approx(p**2, abs=0.01 + 4 * (p**2 / 4000) ** 0.5)
    kinds = torch.tensor([[torch.nan, 0.0], [torch.nan, 2.0]]).double()
    numbers = impute(run, kinds, 2000, numbers=False)[..., 0]
    torch.testing.assert_close(numbers.mean(0), torch.tensor([0.0, 3.0]).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(numbers.std(0), torch.ones(2).double(), atol=0.06, rtol=0)
    both = impute(run, torch.full((1, 2), torch.nan).double(), 4000, numbers=False)[:, 0]
    for kind, (share, mean) in enumerate(zip(shares, means, strict=True)):
        there = both[:, 1] == kind
        assert float(there.double().mean()) == pytest.approx(share, abs=0.03)
        assert float(both[there, 0].mean()) == pytest.approx(mean, abs=0.25)


@pytest.mark.parametrize(("shares", "right"), [([0.6, 0.3, 0.1], True), ([0.2, 0.3, 0.5], False)])
def test_classes_are_calibrated_where_their_shares_are_right(shares: list[float], right: bool) -> None:
    kinds = torch.multinomial(torch.tensor(shares), 300, True, generator=torch.Generator().manual_seed(0)).double()
    x = 1.5 * kinds + torch.randn(300, generator=torch.Generator().manual_seed(1)).double()
    run = classes([0.6, 0.3, 0.1], [0.0, 1.5, 3.0])
    found = ncsn.calibrate(run, torch.stack([x, kinds], 1), hidden=["kind"], draws=9, truths="held-out")
    assert found.calibrated == {"held-out": right}


def test_rows_are_drawn_together_whatever_their_gaps() -> None:
    """The network is evaluated as often for as many patterns as for one."""
    run, calls = conditional_run(THREE), list[int]()
    run.model.network.register_forward_hook(lambda *_: calls.append(1))
    alike, others = torch.zeros(2, 3, 3).double()
    alike[:, 0] = others[0, 0] = others[1, 1] = others[2, 0] = others[2, 2] = torch.nan
    impute(run, alike, 20)
    once = len(calls)
    impute(run, others, 20)
    assert len(calls) == 2 * once > 0


def test_rows_of_gaps_only_are_samples() -> None:
    draws = impute(conditional_run(THREE), torch.full((50, 3), torch.nan).double(), 20)
    torch.testing.assert_close(draws.flatten(0, 1).T.cov(), THREE, atol=0.12, rtol=0)


def test_a_flow_starts_around_the_mean_given_what_is_known() -> None:
    """It would keep a part of any other mean: around that of the column, 0.08 of these 2.7 would be missing."""
    run = conditional_run(torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    draws = run.sample(2000, given={"1": 3.0}, sampler="heun")[:, 0]
    assert float(draws.mean()) == pytest.approx(2.7, abs=3 * (0.19 / 2000) ** 0.5)


def named_run(*columns: Number | Discrete) -> TableRun:
    """The run of independent columns, standard normal to the model."""
    return with_transform(conditional_run(torch.eye(len(columns))), Columns(columns=columns))


def test_arrays_with_a_mask_and_frames_are_rows() -> None:
    run = named_run(*(Number(name=name, shift=0.0, scale=1.0) for name in "abc"))
    expected = run.impute(torch.tensor([[0.5, torch.nan, 1.0]]), 3).draws
    frame = pandas.DataFrame({"c": [1.0], "a": [0.5], "b": [math.nan], "d": [7.0]})
    for rows in (np.ma.masked_equal([[0.5, 7, 1]], 7), frame):
        assert torch.equal(run.impute(rows, 3).draws, expected)


# How sure draws may be.


NUMBERS = dataset_of(gaussian_rows(20))


def coverage(run: TableRun, rows: Tensor) -> dict[str, float]:
    """What a run measures of the cells of held-out rows."""
    columns = run.columns
    z = columns.with_gaps(columns.forward(rows)).float()
    return run.measure_coverage(replace(NUMBERS, train=z, validation=z, test=z, transform=columns))


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 0.85, 0.95), (0.1, 0.0, 0.6), (10.0, 0.95, 1.0)])
def test_coverage_tells_priors_that_are_too_narrow_or_too_wide(scale: float, low: float, high: float) -> None:
    """Also of rows with gaps."""
    for gaps in (0.0, 0.3):
        x = gaussian_rows(300, seed=1)
        rows = x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < gaps, torch.nan)
        found = coverage(conditional_run(THREE * scale), rows)
        assert found.keys() == {"coverage", "coverage_of"}
        assert found["coverage_of"] == 200
        assert low < found["coverage"] <= high


def test_known_numbers_of_few_rows_are_hidden_one_by_one() -> None:
    """As many numbers as are known; with a single one in a row nothing is left to judge by."""
    run, x = conditional_run(THREE), gaussian_rows(30, seed=2)
    x[0, 1:] = torch.nan
    found = coverage(run, x)
    assert found["coverage_of"] == 87
    assert found["coverage"] == pytest.approx(0.9, abs=0.08)
    assert coverage(run, x[:1]) == {}


@pytest.mark.parametrize("believed", [[0.5, 0.5], [0.1, 0.9]])
def test_confidence_is_compared_with_how_often_draws_are_right(believed: list[float]) -> None:
    """Of a column of text whose classes are equally frequent, and says nothing else."""
    run = classes(believed, [0.0, 0.0])
    column = Discrete(name="kind", values=(0.0, 1.0), categories=("a", "b"))
    run = with_transform(run, Columns(columns=(run.columns.columns[0], column)))
    rows = torch.stack([gaussian_rows(300)[:, 0], (torch.arange(300) % 2).double()], 1)
    found = coverage(run, rows)
    assert found.keys() == {"coverage", "coverage_of", "right", "confidence", "right_of"}
    assert 60 < found["right_of"] < 140
    assert found["right"] == pytest.approx(0.5, abs=0.15)
    assert found["confidence"] == pytest.approx(sum(share**2 for share in believed), abs=0.015)


def test_the_truth_is_as_likely_at_every_rank_among_draws() -> None:
    """So 90 % intervals of 19 draws reach from the first to the last of them, and 80 % from the second on."""
    draws = torch.randperm(19, generator=torch.Generator().manual_seed(0)).double()[:, None, None]
    imputed = replace(conditional_run(torch.eye(1)).impute([[math.nan]], 19), draws=draws)
    for level, ends in ((0.9, (0, 18)), (0.8, (1, 17))):
        assert tuple(map(float, imputed.interval(level))) == pytest.approx(ends)


def test_conformal_intervals_stretch_the_deviations_below_and_above_the_median() -> None:
    """Root mean squares of 1, 1 and of 1, 5, by one factor."""
    draws = torch.tensor([0.0, 0.0, 1.0, 2.0, 6.0]).double()[:, None, None]
    imputed = replace(conditional_run(torch.eye(1)).impute([[math.nan]], 5), draws=draws)
    low, high = map(float, imputed.interval(0.5, conformal=gaussian_rows(100)[:, :1]))
    assert low < 1 < high
    assert (high - 1) / (1 - low) == pytest.approx(13**0.5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_conformal_intervals_hold_what_they_promise_of_any_prior(scale: float) -> None:
    """Of fresh rows, as many hidden values as promised; of a prior that is right, by a factor of about one."""
    run, rows = conditional_run(THREE * scale), gaussian_rows(1500, seed=3)
    hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(4)) < 0.4
    imputed = run.impute(rows.masked_fill(hidden, torch.nan), 39)
    ends = imputed.interval(0.8), imputed.interval(0.8, conformal=gaussian_rows(1000, seed=5))
    plain, held = (float(((low <= rows) & (rows <= high))[hidden].double().mean()) for low, high in ends)
    assert held == pytest.approx(0.8, abs=0.04)
    assert plain == pytest.approx(0.8, abs=0.04) if scale == 1 else abs(plain - 0.8) > 0.1


def test_a_value_that_is_hidden_often_is_one_value_to_conformal_intervals() -> None:
    """Of 33 values at least the 31st, ⌈34 · 0.9⌉, is needed, although each is used nine times.

    Counted as 297 values, the 30th would be enough, which is a third smaller.
    """
    values = 25 * 1.5 ** torch.arange(-32.0, 1).double()[:, None]
    imputed = conditional_run(torch.eye(1)).impute([[math.nan]], 50)
    _, high = imputed.interval(0.9, conformal=values)
    middle = imputed.draws.median(0).values
    above = (imputed.draws - middle).clamp(min=0).square().mean().sqrt()
    assert float((high - middle) / above) == pytest.approx(float(values[30]) / 0.5**0.5, rel=0.2)


def test_conformal_intervals_of_frames_need_held_out_rows_and_enough_of_them() -> None:
    run = named_run(*(Number(name=name, shift=0.0, scale=1.0) for name in "abc"))
    frame = pandas.DataFrame({"a": [0.5, math.nan], "b": [math.nan, 1.0], "c": [1.0, 2.0]}, index=["x", "y"])
    imputed = run.impute(frame, 19)
    held_out = pandas.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=[*"abc"])
    low, high = imputed.interval(conformal=held_out)
    assert [*low.index] == ["x", "y"]
    assert low.loc["x", "a"] == high.loc["x", "a"] == 0.5
    assert low.loc["x", "b"] < high.loc["x", "b"]
    assert "data" in refused(lambda: imputed.interval(conformal=True))
    for level, bound in ((0, "above 0"), (1, "below 1")):
        assert bound in refused(partial(imputed.interval, level))
    assert "level needs 10000" in refused(lambda: run.impute(frame, 2).interval(0.9999, conformal=held_out[:1]))
    sparse = held_out.assign(b=held_out["b"].where(held_out.index < 8))
    for few in (held_out[:8], sparse):
        assert "only 8" in refused(partial(imputed.interval, conformal=few))
    assert not refused(lambda: imputed.interval(conformal=held_out[:9]))
    assert not refused(lambda: imputed.interval(0.85, conformal=sparse))


# What a score or a row must be.


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (torch.zeros(2, 4), "4 columns"),
        (torch.tensor([[1e30, math.nan, 0.0]]), r"^column a: 1\.0+\d*e\+30 \(row 1\)"),
        (pandas.DataFrame({"e": [1.0], "d": [math.nan]}), "but the run has a, b, c"),
        (torch.zeros(1, 3), "trained on a table"),
    ],
)
def test_rows_that_are_not_the_runs_and_scores_of_others_are_refused(rows: Any, why: str) -> None:
    columns = dataset_of(pandas.DataFrame(gaussian_rows(200).numpy(), columns=[*"abc"])).transform
    assert isinstance(columns, Columns)
    run = with_transform(conditional_run(THREE), replace(columns, fields=()))
    if "trained" in why:
        rows[0, 1], run = math.nan, fit_table(gaussian_rows(100), network=ncsn.MLP(3, 8, 1), steps=1)
        assert run.measured == {}
    with pytest.raises(ValueError, match=why):
        run.impute(rows)


# Files.


def test_a_gap_of_two_values_or_texts_becomes_the_one_that_most_draws_have(monkeypatch: Patch, here: Path) -> None:
    """And that of a date a whole day."""
    n = 4000
    third = torch.arange(n) % 3
    columns = {
        "a": 1e9 + 3 * gaussian_rows(n)[:, 0].numpy(),
        "b": (4 * (third == 0) - 3).numpy(),
        "c": pandas.to_datetime(18000 + np.arange(n) % 1000, unit="D"),
        "d": third.numpy(),
        "e": np.array(["low", "middle", "top"])[third],
    }
    pandas.DataFrame(columns).to_csv("t.csv", index=False)
    units = ncsn.load_dataset("t.csv").transform
    assert isinstance(units, Columns)
    shares = [2 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 0.4, 0.2, 0.4]
    run = known_run(units, [0.0, 0.0, *shares], torch.eye(10), shares)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    Path("x.csv").write_text("a,b,c,d,e\n1000000000,,,,\n,1,2019-04-14,2,top\n")  # b is −3 or 1, and d is 0, 1 or 2
    command("impute it x.csv -n 40 --out y.csv")
    frame = pandas.read_csv("y.csv")
    draws = frame.filter(like="b draw").to_numpy()[0]
    assert (set(draws), frame["b"].tolist()) == ({-3, 1}, [-3, 1])
    assert frame["b share"][0] == (draws == -3).mean()
    counts = frame.filter(like="e draw").iloc[0].value_counts()
    assert counts[frame["e"][0]] == counts.max() == 40 * frame["e share"][0], "however texts are ordered"
    draws = frame.filter(like="d draw").to_numpy()[0]
    assert (frame["d"][0], frame["d sd"][0]) == pytest.approx((draws.mean(), draws.std(ddof=1)))
    draws = frame.filter(like="a draw").to_numpy()[1]
    assert frame["a"][1] == pytest.approx(draws.mean())
    mean = pandas.to_datetime(frame.filter(like="c draw").iloc[0]).mean()
    assert frame["c"].tolist() == [str(mean.round("D").date()), "2019-04-14"], "whole days"
    Path("x.csv").write_text("a,b,c,d,e\n,1,2019-04-14,2,low\n")
    command("impute it x.csv -n 2 --out z.csv")
    assert "a sd" in pandas.read_csv("z.csv"), "two draws may not become two values"


CELLS = {
    "a": ["1.50", " 2.5", "1e0", "-0", "", "+3.25"],
    "seen": ["2024-01-05 13:45:30", "2024-01-06T00:00", "2024-02-01", "?", "2024-03-01 00:00:00.5", "2024-03-02"],
    "zoned": [
        "2024-01-05T13:45:30+02:00",
        "2024-01-06T00:00Z",
        "",
        "2024-01-08T01:00-05:00",
        "2024-01-09",
        "2024-01-10",
    ],
    "zip": ["00501", "A7", "00501", "NA", "A7", "A7"],
    "id": [f"900719925558147{i}" for i in range(6)],
    "no\rte": ['say "so", or', "größer;\rkleiner", "", "two\nlines", 'say "so"\r\n', "NaN"],
    "price": ["5", "7", "1,200", "3.50", "2", "-1"],
}


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.tsv", "\t"), ("semicolons.csv", ";")])
def test_observed_cells_are_written_byte_for_byte(name: str, delimiter: str, monkeypatch: Patch, here: Path) -> None:
    """Also of columns that the run does not know, and in the table of draws."""
    reals = {name: Number(name=name, shift=0.0, scale=100.0) for name in ("a", "price")}
    days = {name: Number(name=name, shift=19750.0, scale=30.0, date=True) for name in ("seen", "zoned")}
    codes = Discrete(name="zip", values=(0.0, 1.0), categories=("00501", "A7"))
    run = named_run(*(reals | days).values(), codes)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([[*CELLS], *zip(*CELLS.values(), strict=True)])
    suffix = Path(name).suffix
    command(f"impute it {name} -n 3 --out y{suffix} --draws z{suffix}")

    def written(name: str) -> list[dict[str, str]]:
        with Path(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter=delimiter))

    filled, draws = written(f"y{suffix}"), written(f"z{suffix}")
    gaps = {name: [cell in ("", "?", "NA") for cell in cells] for name, cells in CELLS.items() if name != "no\rte"}
    for name, cells in CELLS.items():
        for i, cell in enumerate(cells):
            rows = [filled[i], *(draw for draw in draws if draw["row"] == str(i + 1))]
            if name in gaps and gaps[name][i]:
                assert all(row[name] not in ("", "?", "NA") for row in rows), (name, i)
            else:
                assert {row[name] for row in rows} == {cell}, (name, i)
    assert [draw["row"] for draw in draws] == [str(row) for row in (3, 4, 5) for _ in range(3)]
    assert {draw["draw"] for draw in draws} == {"1", "2", "3"}
    assert filled[3]["zip share"]
    assert not filled[3]["a sd"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_file_comes_back_as_it_was_written(encoding: str, monkeypatch: Patch, here: Path, capsys: Printed) -> None:
    """Delimiter, encoding and decimal comma, also of deviations and draws; by each column's own mark."""
    run = named_run(*(Number(name=name, shift=0.0, scale=50.0, date=name == "f") for name in "abcdef"))
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    text = "a;b;c;d;e;größe;f\r\n24,68;1.5;7;1.234,5;;x;1970-02-06\r\n;;;;;;\r\n13,5;2.25;8;10;;ü;1970-02-07\r\n"
    Path("x.csv").write_bytes(text.encode(encoding))
    command("impute it x.csv -n 3 --out y.csv --draws z.csv")
    content = Path("y.csv").read_bytes()
    assert content.decode(encoding).encode(encoding) == content
    assert content[:3] == text.encode(encoding)[:3] or encoding == "utf-8", "its mark"
    names, first, second, third = (
        line.split(";") for line in content.decode(encoding).removesuffix("\r\n").split("\r\n")
    )
    assert names[:7] == ["a", "b", "c", "d", "e", "größe", "f"]
    assert (first[:4], first[5], third[:4], third[5]) == (
        ["24,68", "1.5", "7", "1.234,5"],
        "x",
        ["13,5", "2.25", "8", "10"],
        "ü",
    )
    for place, name in enumerate(names):
        column = name.split()[0]
        if name != "größe" and (column != "f" or name == "f sd"):
            assert re.fullmatch(r"-?\d+\.\d+" if column == "b" else r"-?\d+,\d+", second[place]), name
    drawn = Path("z.csv").read_bytes()
    assert drawn.startswith({"utf-8-sig": BOM_UTF8, "utf-16": BOM_UTF16}.get(encoding, b""))
    for written in (content.decode(encoding), drawn.decode(encoding)):
        assert written.count("\n") == written.count("\r\n")

    def numbers_in(file: bytes, name: str) -> list[float]:
        cells = [row[name] for row in csv.DictReader(file.decode(encoding).splitlines(), delimiter=";")]
        marks = {"b": "."}.get(name, ",")
        return [float(cell.replace(".", "").replace(",", ".") if marks == "," else cell or "nan") for cell in cells]

    shown = [numbers_in(content, name)[1] for name in "abde"]
    given = pandas.read_csv("x.csv", sep=";", encoding=encoding, dtype=str)
    exact = run.impute(given[[*"abcdef"]], 3).point[1, [0, 1, 3, 4]]
    np.testing.assert_allclose(shown, exact)
    assert [np.mean(numbers_in(drawn, name)[3:6]) for name in "abde"] == pytest.approx(shown)
    command("impute it x.csv -n 3 --out y.tsv --draws y.parquet")
    assert Path("y.tsv").read_bytes().decode(encoding).splitlines()[0].split("\t")[:2] == ["a", "b"]
    assert "größe" in pandas.read_parquet("y.parquet")


def test_parquet_keeps_what_it_holds(monkeypatch: Patch, here: Path) -> None:
    """Numbers beyond 2⁵³ in columns with gaps, small ones, cents, NaN, bytes, nested values, and empty columns."""
    run = named_run(*(Number(name=name, shift=0.0, scale=9.0) for name in ("a", "k", "paid")))
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    big = 9007199254740995
    kept = pyarrow.table(
        {
            "id": pyarrow.array([big, None, 3], "int64"),
            "u": pyarrow.array([2**64 - 1, None, 3], "uint64"),
            "small": pyarrow.array([1, None, 3], "int8"),
            "cents": pyarrow.array([Decimal("1.10"), None, Decimal("2.00")], pyarrow.decimal128(12, 2)),
            "nan": pyarrow.array([math.nan, None, 3.0]),
            "none": pyarrow.array([None, None, None], "bool"),
            "text": pyarrow.array(["a", None, ""], "string"),
            "bytes": pyarrow.array([b"\xff", None, b""]),
            "day": pyarrow.array([1704462330000001, None, 3], pyarrow.timestamp("us")),
            "list": pyarrow.array([[big, None], None, []], pyarrow.list_(pyarrow.int64())),
            "struct": pyarrow.array([{"x": big}, None, {"x": None}]),
            "map": pyarrow.array([[("x", 1)], None, []], pyarrow.map_("string", "int64")),
        }
    )
    table = kept.append_column("a", pyarrow.array([0.5, None, 1.0])).append_column("k", pyarrow.array([1, None, 3]))
    paid = pyarrow.array([Decimal("0.50"), None, Decimal("1.00")])
    parquet.write_table(table.append_column("paid", paid), "x.parquet")
    command("impute it x.parquet -n 2 --out y.parquet --draws z.parquet")
    filled, drawn = (parquet.read_table(name) for name in ("y.parquet", "z.parquet"))
    same = filled.select(kept.column_names)
    assert same.schema.remove_metadata() == kept.schema
    assert repr(same.to_pylist()) == repr(kept.to_pylist())  # NaN equals no other
    assert filled["a"].null_count == filled["k"].null_count == 0
    assert filled.schema.field("k").type == pyarrow.int64()
    assert filled["paid"].null_count == 0
    assert filled["paid"][0].as_py() == Decimal("0.50")
    assert drawn["list"].null_count == 2
    assert drawn.schema.field("id").type == pyarrow.int64(), "whole numbers with gaps don't become floats"
    for name in ("y.parquet", "z.parquet"):
        assert {"list", "struct", "map"} <= {*pandas.read_parquet(name)}


def test_a_text_that_the_files_encoding_lacks_is_named(here: Path) -> None:
    codes = Discrete(name="town", values=(0.0, 1.0), categories=("Łódź", "Łomża"))
    run = named_run(codes, Number(name="a", shift=0.0, scale=9.0))
    Path("x.csv").write_bytes("town,a,größe\n,1,2\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"y\.csv: .* is in cp1252, which has no Ł"):
        run.impute_file(Path("x.csv"), 2, 0, Path("y.csv"), None)
    assert [path.name for path in here.iterdir()] == ["x.csv"]


def test_both_files_are_written_or_neither(monkeypatch: Patch, here: Path, capsys: Printed) -> None:
    run = named_run(*(Number(name=name, shift=0.0, scale=9.0) for name in "ab"))
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    Path("x.csv").write_text("a,b\n1,\n,2\n")
    writes, to_csv = list[Path](), pandas.DataFrame.to_csv

    def full(self: pandas.DataFrame, path: Path, **how: Any) -> None:
        writes.append(path)
        if len(writes) == 2:
            assert not Path("y.csv").exists(), "the first waits for the second"
            raise OSError(errno.ENOSPC, "No space left on device")
        to_csv(self, path, **how)

    monkeypatch.setattr(pandas.DataFrame, "to_csv", full)
    with pytest.raises(SystemExit):
        command("impute it x.csv -n 2 --out y.csv --draws z.csv")
    monkeypatch.setattr(pandas.DataFrame, "to_csv", to_csv)
    assert len(writes) == 2
    assert [path.name for path in here.iterdir()] == ["x.csv"]
    command("impute it x.csv -n 2 --out y.csv --draws z.csv")
    assert {path.name for path in here.iterdir()} == {"x.csv", "y.csv", "z.csv"}


def test_a_table_of_many_columns_takes_no_longer_per_column(monkeypatch: Patch) -> None:
    """Apart from the network, quadratic time took 25 s for 3,000; the bound is generous, because machines are busy."""
    names = tuple(f"c{i}" for i in range(3000))
    columns = Columns(
        columns=tuple(Number(name=name, shift=0.0, scale=1.0) for name in names),
        fields=tuple(Field(label=name, dtype="float64") for name in names),
    )
    run = with_transform(conditional_run(torch.eye(2)), columns)
    rows = pandas.DataFrame({name: [0.5, None] for name in names[:1500]})
    drawn = torch.zeros(2, 2, 3000).double()
    monkeypatch.setattr(TableRun, "_impute", lambda self, x, *_, **__: Imputed(x, drawn, drawn[0], drawn[0], self))
    began = time.process_time()
    imputed = run.impute(rows, 2)
    assert isinstance(imputed, ImputedTable)
    assert imputed.frame().notna().all(axis=None)
    assert time.process_time() - began < 15


@pytest.mark.parametrize(
    ("rows", "words", "why"),
    [
        ("row,a,b\n1,1,\n", "x.csv --draws z.csv", "'row'"),
        ("a,b,draw\n1,,3\n", "x.csv --draws z.csv", "'draw'"),
        ("a\n1\n", "x.csv --draws y.csv", "draws"),
        ("a,b,a\n1,,2\n", "x.csv", "'a'"),
        ("a,c,c\n,1,2\n", "x.csv", "'c'"),
        ("a,b\n", "x.csv", "0 rows"),
        ("a\n1\n", "x.npy", ".parquet"),
    ],
)
def test_files_that_cannot_be_filled_are_refused(
    rows: str, words: str, why: str, here: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    run = named_run(*(Number(name=name, shift=0.0, scale=1.0) for name in "ab"))
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    Path(words.split()[0]).write_text(rows)
    assert why in refusal(capsys, *f"impute it {words} --out y.csv".split())


RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 120)
SOME = np.where(np.stack([np.zeros(120, bool), RNG.random(120) < 0.4], 1), np.nan, WHOLE)
IN_EVERY_ROW = np.where(np.stack([np.arange(120) % 2 == 0, np.arange(120) % 2 == 1], 1), np.nan, WHOLE)


@pytest.mark.parametrize(("rows", "related"), [(SOME, 0.6), (IN_EVERY_ROW, -1)], ids=["some", "in every row"])
def test_a_tables_own_gaps_are_imputed_and_what_training_has_measured_is_printed(
    rows: np.ndarray, related: float, here: Path, capsys: Printed
) -> None:
    """Also where no row is complete: how columns are related, and what is sure, such a table does not say."""
    pandas.DataFrame(rows, columns=["a", "b"]).to_csv("t.csv", index=False)
    command("train t.csv --steps 12 --channels 8 --blocks 1 --samples 5")
    capsys.readouterr()
    command("impute runs/t t.csv -n 2 --out filled.csv")
    filled, gaps = pandas.read_csv("filled.csv")[["a", "b"]].to_numpy(), np.isnan(rows)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[~gaps], pandas.read_csv("t.csv").to_numpy()[~gaps])
    assert np.corrcoef(filled[gaps.any(1)].T)[0, 1] > related, "by what is observed"
    run, said = load_table("runs/t"), re.findall(r"(\d+)% of (\d+) hidden", capsys.readouterr().out)
    test = run.transform.restore(run.data().test.double())
    measured = run.measure_coverage(run.data())
    assert measured.get("coverage_of", 0) == sum(int((~row.isnan()).sum()) for row in test if not row.isnan().any())
    assert run.measured == measured
    assert said == ([(f"{100 * measured['coverage']:.0f}", f"{measured['coverage_of']:.0f}")] if measured else [])


# Densities given some columns.


def test_a_density_given_columns_is_the_joint_ones_minus_the_evidence() -> None:
    """Of a Gaussian in closed form, and of its samples; the density is that with noise of σ_min."""
    covariance = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
    run, x = conditional_run(covariance), torch.tensor([[0.5, 0.4, 1.0], [1.0, 0.4, 0.3]])

    def log_density(columns: list[int]) -> Tensor:
        exact = torch.distributions.MultivariateNormal(torch.zeros(len(columns)), covariance[columns][:, columns])
        logs: Tensor = exact.log_prob(x[:, columns])  # type: ignore[no-untyped-call]
        return logs.double()

    exact = log_density([0, 1, 2]) - log_density([1])
    torch.testing.assert_close(run.log_prob(x[:, [0, 2]], given={"1": 0.4}), exact, atol=0.03, rtol=0)
    drawn = run.sample(2000, seed=2, given={"1": 0.4})
    assert (drawn[:, 1] == 0.4).all()
    means = (covariance[[0, 2], 1] / covariance[1, 1] * 0.4).double()
    assert ((drawn[:, [0, 2]].mean(0) - means).abs() < 5 * drawn[:, [0, 2]].std(0) / 2000**0.5).all()
