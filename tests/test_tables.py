"""Tables: columns in units of their own, and the way of one from its file to imputation."""

import json
import math
import os
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import conditional_run, refusal
from torch import Tensor

import ncsn
from ncsn.cli import kinds
from ncsn.cli import main as cli
from ncsn.data.dataset import load_dataset, rows_of
from ncsn.data.tables import Table, read_table, table_of, write_table
from ncsn.data.units import Units
from ncsn.distributions import GaussianMixture
from ncsn.evaluation import tables
from ncsn.evaluation.tables import calibration, eight_gaussians, judge_rows, judge_table, memorisation, unseen
from ncsn.run import Recipe, Run
from ncsn.samplers import Sampling

RNG = np.random.default_rng(0)
N = 4000
COLUMNS: dict[str, np.ndarray] = {
    "normal": 1e9 + 3 * RNG.standard_normal(N),
    "lognormal": np.exp(2 * RNG.standard_normal(N)),
    "beta": RNG.beta(0.5, 0.5, N),
    "heavy": RNG.standard_t(2, N),
    "uniform": RNG.uniform(20, 65, N),
    "atom": np.where(RNG.random(N) < 0.3, 0.0, RNG.random(N)),
    "count": np.round(np.exp(3 + RNG.standard_normal(N))) - 1,
    "few": RNG.choice([1.0, 2.5, 1000.0], N, p=[0.6, 0.3, 0.1]),
}
NAMES = tuple(COLUMNS)
MIX = torch.from_numpy(np.stack([*COLUMNS.values()], 1))
UNITS = Units.of(MIX)


def test_columns_have_the_scale_that_suits_them() -> None:
    assert UNITS.straight.tolist() == [name == "normal" for name in NAMES]
    assert UNITS.log.tolist() == [name == "lognormal" for name in NAMES]
    z = UNITS.standardise(MIX, torch.Generator().manual_seed(1))
    for name, column in zip(NAMES, z.T, strict=True):
        assert abs(float(column.mean())) < (0.3 if name == "atom" else 0.03), name
        assert float(column.std()) == pytest.approx(1, abs=0.3 if name == "atom" else 0.05), name
        assert float(column.abs().max()) < 8, name


def test_units_are_inverted_exactly_also_beyond_the_data() -> None:
    assert torch.equal(UNITS.restore(UNITS.standardise(MIX))[:, -2:], MIX[:, -2:]), "counts and few values"
    torch.testing.assert_close(UNITS.restore(UNITS.standardise(MIX)), MIX, rtol=1e-12, atol=1e-7)
    anywhere = torch.linspace(-9, 9, 1001).double()[:, None].expand(-1, 5)
    smooth = Units.of(MIX[:, :5])
    torch.testing.assert_close(smooth.standardise(smooth.reached(anywhere)), anywhere, rtol=0, atol=1e-4)
    assert bool((smooth.reached(anywhere).diff(dim=0) > 0).all()), "monotone"
    assert bool((UNITS.restore(torch.randn(N, len(NAMES)).double() * 3)[:, [1, 6]] >= 0).all()), "signs stay"


def test_the_volume_is_the_derivative() -> None:
    some = Units.of(MIX[:, 1:6])
    inner = MIX[:300, 1:6][MIX[:300, 5] != 0]
    step = 1e-7 * inner.abs().clamp(min=1e-2)
    rise = (some.standardise(inner + step) - some.standardise(inner - step)) / (2 * step)
    error = (rise.log().sum(1) - some.log_volume(inner)).abs()
    assert float(error.median()) < 1e-5
    assert float(error.quantile(0.95)) < 1e-2, "but for kinks"


def standard_run(units: Units, d: int) -> Run:
    """A standard normal in the model's units: exact densities in the user's."""
    sampling = Sampling(sigma_max=20.0, sigma_min=1e-3, sampler="dpmpp-sde", levels=20, steps=1, eps=1e-7)
    names = tuple(f"c{i}" for i in range(d))
    recipe = Recipe(network="none", arguments={}, shape=(d,), sampling=sampling, columns=names)
    return Run(score=GaussianMixture(torch.zeros(1, d)), recipe=recipe, units=units)


@pytest.mark.parametrize("name", ["lognormal", "beta", "uniform", "count", "few"])
def test_densities_integrate_to_one(name: str) -> None:
    """Over the places to which a fine grid of z goes; whole numbers and few values are added up."""
    column = torch.from_numpy(COLUMNS[name])[:, None]
    units = Units.of(column)
    run = standard_run(units, 1)
    if name in ("count", "few"):
        x = torch.unique(column)[:, None]
        total = float(run.log_prob(x, batch_size=999).exp().sum())
        assert total == pytest.approx(1, abs=0.05), "by the middle of each cell"
        return
    x = units.restore(torch.linspace(-4.5, 4.5, 600).double()[:, None])
    density = run.log_prob(x, batch_size=999).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=0.01)


def test_a_density_of_two_columns_integrates_to_one() -> None:
    units = Units.of(MIX[:, 1:3])
    axis = torch.linspace(-4, 4, 121).double()
    grid = torch.cartesian_prod(axis, axis)
    x = units.restore(grid)
    density = standard_run(units, 2).log_prob(x, batch_size=2000).exp().view(121, 121)
    a, b = x[::121, 0], x[:121, 1]
    assert float(torch.trapezoid(torch.trapezoid(density, b, dim=1), a)) == pytest.approx(1, abs=0.02)


THREE = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]]).double()
TWENTY = 0.97 ** (torch.arange(20)[:, None] - torch.arange(20)).abs().double()


def gauss(covariance: Tensor) -> Any:
    """The score of N(0, C + σ²)."""

    def score(x: Tensor, sigma: Any, /) -> Tensor:
        whole = covariance + float(torch.as_tensor(sigma).flatten()[0]) ** 2 * torch.eye(len(covariance))
        solved: Tensor = torch.linalg.solve(whole, x.double().T)
        return -solved.T.to(x)

    return score


def drawn(run: Run, rows: Tensor, n: int) -> Tensor:
    """All draws, in the order of the rows."""
    draws = torch.full((n, *rows.shape), torch.nan).double()
    for part, filled in run.impute(rows, n, seed=1):
        draws[:, part] = filled
    assert bool(draws.isfinite().all())
    assert torch.equal(draws[:, ~rows.isnan()], rows[~rows.isnan()].expand(n, -1))
    return draws


@pytest.mark.parametrize(("c", "blanks"), [(THREE, ([1, 2], [0], [])), (TWENTY, ([4, 5], [0, 19], [7]))])
def test_imputation_of_a_gaussian_is_right_within_monte_carlo_error(c: Tensor, blanks: tuple[list[int], ...]) -> None:
    """In a few columns, and in many that follow from one another."""
    run = conditional_run(c)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, len(c), generator=g).double() @ torch.linalg.cholesky(c).T
    blank = torch.stack([torch.zeros(len(c)).index_fill(0, torch.tensor(i).long(), 1) for i in blanks]).bool()
    blank = blank.repeat(100, 1)
    draws = drawn(run, x.masked_fill(blank, torch.nan), 20)
    for pattern in blank[:2]:
        weights = c[pattern][:, ~pattern] @ torch.linalg.inv(c[~pattern][:, ~pattern])
        deviation = (c[pattern][:, pattern] - weights @ c[~pattern][:, pattern]).diagonal().sqrt()
        rows = (blank == pattern).all(1)
        error = (draws[:, rows][..., pattern] - x[rows][:, ~pattern] @ weights.T) / deviation
        assert float(error.abs().max()) < 6
        assert float(error.mean(0).square().mean() * 20) == pytest.approx(1, abs=0.35)
        assert float(error.std()) == pytest.approx(1, abs=0.05)


def test_rows_are_drawn_together_whatever_their_gaps() -> None:
    """The network is evaluated as often for as many patterns as for one."""
    run, calls = conditional_run(THREE), []
    run.model.network.register_forward_hook(lambda *_: calls.append(1))
    alike, others = torch.zeros(2, 3, 3).double()
    alike[:, 0] = others[0, 0] = others[1, 1] = others[2, 0] = others[2, 2] = torch.nan
    drawn(run, alike, 20)
    once = len(calls)
    drawn(run, others, 20)
    assert len(calls) == 2 * once > 0


def test_known_numbers_of_few_rows_are_hidden_one_by_one() -> None:
    """As many numbers as are known; with a single one in a row nothing is left to judge by."""
    run = conditional_run(THREE)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(2)).double() @ torch.linalg.cholesky(THREE).T
    x[0, 1:] = torch.nan
    count, share = calibration(run, x, 19)
    assert count == 87
    assert share == pytest.approx(0.9, abs=0.08)
    assert calibration(run, x[:1], 19) == (0, 1.0)


def test_impute_says_how_often_draws_hold_what_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A prior that is too narrow, or too wide, is seen."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1)).double() @ torch.linalg.cholesky(THREE).T
    write_table(tmp_path / "x.csv", ["0", "1", "2"], x.numpy())
    said = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
    for scale in (1.0, 0.1, 10.0):
        run = conditional_run(THREE * scale)
        monkeypatch.setattr(ncsn, "load", lambda *_, run=run, **__: run)
        command(f"impute it {tmp_path}/x.csv --out {tmp_path}/{scale}.csv")
    held = [int(share) for line in said for share in re.findall(r"(\d+)%.* 90%", line)]
    assert held[0] == pytest.approx(90, abs=5)
    assert held[1] < 60
    assert held[2] > 95


def test_what_training_has_seen_does_not_say_how_sure_draws_may_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of all kinds of columns, whatever is blank besides; where the data is gone, the line says so."""
    monkeypatch.chdir(tmp_path)
    columns = {name: column[:300] for name, column in COLUMNS.items()}
    columns["age"] = np.where(RNG.random(300) < 0.2, np.nan, RNG.normal(40, 10, 300))
    pandas.DataFrame(columns | {"town": RNG.choice(["Bern", "Rome", "Oslo"], 300)}).to_csv("t.csv", index=False)
    data = load_dataset("t.csv")
    x = torch.from_numpy(read_table("t.csv").matched(data.columns, data.categories).rows).double()
    assert data.units is not None
    held = data.units.restore(torch.cat([data.validation, data.test]).double())
    fresh = unseen(data, x)
    assert len(fresh) == len(held) == 60
    assert torch.cdist(fresh[:, :1], held[:, :1]).min(1).values.max() < 1e-6 * x[:, 0].abs().max()
    assert len(unseen(data, x[:0])) == 0
    x[:, 1:3] = math.nan
    assert len(unseen(data, x)) == 60
    x[:, 0] += 1e-3
    assert len(unseen(data, x)) == 60
    x[:, 0] += 1
    assert len(unseen(data, x)) == 300

    command("train t.csv --steps 1 --samples 5")
    capsys.readouterr()
    frame = pandas.read_csv("t.csv")
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0)).numpy()
    complete = order[~frame["age"].isna().to_numpy()[order]]
    for name, rows in (("held", complete[:3]), ("seen", complete[100:103])):
        frame.iloc[rows].to_csv(f"{name}.csv", index=False)
    for name, said in (("held", "30 known numbers that training has not seen"), ("seen", "seen rows like these")):
        command(f"impute runs/t {name}.csv --out {name}-filled.csv -n 2")
        assert said in capsys.readouterr().out
    config = Path("runs/t/config.json")
    whole = config.read_text()
    config.write_text(whole.replace('"conditional": true', '"conditional": false'))
    with pytest.raises(SystemExit):
        command("train t.csv --steps 2 --resume")
    assert "begin anew" in capsys.readouterr().err
    config.write_text(whole)
    Path("t.csv").unlink()
    command("impute runs/t held.csv --out none.csv -n 2")
    assert "may have seen" in capsys.readouterr().out


def test_a_number_that_is_equal_to_draws_lies_before_or_behind_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a column of two values most draws are equal: of three exact ones (3 − 1)/(3 + 1) hold the number."""
    coins = torch.randint(2, (4, 20_000, 2), generator=torch.Generator().manual_seed(0)).double()
    run = Run.of(gauss(THREE), (2,), sigma_max=15.0, sigma_min=0.01)
    monkeypatch.setattr(tables, "KNOWN", 20_000)
    monkeypatch.setattr(tables, "imputed", lambda *_, **__: coins[1:])
    count, inside = tables.calibration(run, coins[0], 3)
    assert count == 20_000
    assert inside == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize(
    "how", [{"probes": 3}, {"probes": 2, "seed": 4}, {"sigma_min": 0.5}, {"tolerance": 0.3}], ids=str
)
def test_densities_of_rows_are_as_exact_as_is_asked(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    write_table(tmp_path / "x.csv", ["0", "1", "2"], x.numpy())
    run = Run.of(gauss(THREE), (3,), sigma_max=15.0, sigma_min=0.01)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in how.items())
    command(f"likelihood it {tmp_path}/x.csv --out {tmp_path}/y.csv {options}")
    (found,) = read_table(tmp_path / "y.csv").rows.T
    assert found == pytest.approx(run.log_prob(x, **{"tolerance": 1e-4, "batch_size": 500} | how).numpy())
    assert found != pytest.approx(run.log_prob(x, tolerance=1e-4, batch_size=500).numpy())


def test_a_blank_of_two_values_becomes_the_one_that_most_draws_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    days = 18000 + torch.arange(N).double() % 1000
    x = torch.stack([torch.from_numpy(COLUMNS["normal"]), 4.0 * (torch.arange(N) % 3 == 0).double() - 3, days], 1)
    run = conditional_run(torch.eye(3))
    recipe = replace(run.recipe, columns=("a", "b", "c"), dates=("c",))
    run = replace(run, recipe=recipe, units=Units.of(x))
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    blanks = np.array([[1e9, np.nan, np.nan], [np.nan, 1, 18000]])  # b is −3 or 1
    write_table(tmp_path / "x.csv", ["a", "b", "c"], blanks, dates=["c"])
    command(f"impute it {tmp_path}/x.csv -n 40 --out {tmp_path}/y.csv")
    frame = pandas.read_csv(tmp_path / "y.csv")
    draws = frame.filter(like="b draw").to_numpy()[0]
    assert (set(draws), frame["b"].tolist()) == ({-3, 1}, [-3, 1])
    assert frame["b share"][0] == (draws == -3).mean()
    draws = frame.filter(like="a draw").to_numpy()[1]
    assert frame["a"][1] == pytest.approx(draws.mean())
    write_table(tmp_path / "one.csv", ["a", "b", "c"], blanks[1:], dates=["c"])
    command(f"impute it {tmp_path}/one.csv -n 2 --out {tmp_path}/z.csv")
    assert "a sd" in pandas.read_csv(tmp_path / "z.csv"), "two draws are no two values"
    mean = pandas.to_datetime(frame.filter(like="c draw").iloc[0]).mean()
    assert frame["c"].tolist() == [str(mean.round("D").date()), "2019-04-14"], "whole days"


def test_imputation_of_a_mixture_weighs_its_parts_as_it_should() -> None:
    means, shares = torch.tensor([[-5.0, -5.0, 0.0], [5.0, 5.0, 1.0], [5.0, -5.0, 3.0]]), torch.tensor([0.2, 0.5, 0.3])
    mixture = GaussianMixture(means, weights=shares)
    rows = mixture.sample(300, generator=torch.Generator().manual_seed(0)).double()
    weights = (shares.log() - (rows[:, 2:].float() - means[:, 2]).square() / 2).softmax(1)
    rows[:, :2] = torch.nan
    draws = drawn(conditional_run(torch.eye(3), means, shares, sigma_max=50.0), rows, 20)
    part = torch.cdist(draws[..., :2].float(), means[:, :2]).argmin(-1)
    counted = torch.nn.functional.one_hot(part, 3).double().mean(0)
    assert float((counted - weights).mean(0).abs().max()) < 0.03
    noise = (weights * (1 - weights) / 20).mean().sqrt()
    assert float((counted - weights).square().mean().sqrt() / noise) < 1.3


BROKEN = {
    "ragged": ("a,b\n1,2\n3\n", "cannot be read"),
    "names": ("a,b\n" + "".join(f"n{i},m{i}\n" for i in range(30)), "no column of numbers varies"),
    "blank": ("a,b\n" + ",\n" * 20, "no column of numbers varies"),
    "constant": ("a,b\n" + "1,2\n" * 20, "no column of numbers varies"),
    "infinite": ("a,b\n1,inf\n2,3\n", "infinite numbers in b"),
    "huge": ("a,b\n1,1e200\n2,3\n", "1e150 in b"),
    "twice": ("a,a\n1,2\n3,4\n", "name of its own"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_table_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    text, why = BROKEN[name]
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^[^\n]*{why}[^\n]*$"):
        assert read_table(path).learnable


FIRST_LINES = [
    "1.5,2",
    "5.0655e+01,1",
    "+1.5,2",
    "1E5,3",
    "1.,2",
    " 2.5,3",
    "nan,1",
    "inf,0",
    ",3",
    '"1,000",7',
    "$5,1",
]


@pytest.mark.parametrize("line", FIRST_LINES)
def test_a_first_line_of_numbers_names_no_columns(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"{line}\n3,4\n5,6\n")
    with pytest.raises(ValueError, match="first line must name the columns"):
        read_table(tmp_path / "x.csv")


def test_objects_are_named_without_advice_to_allow_them_and_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "objects.npy").write_bytes(pickle.dumps([1.0, 2.0]))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"\(it holds Python objects\)$"):
        read_table(tmp_path / "objects.npy")

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("pyarrow.csv.read_csv", full)
    with pytest.raises(MemoryError):
        read_table(tmp_path / "x.csv")


def test_what_is_no_file_of_a_table_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    for name, why in [("no.csv", "does not exist"), ("no.npy", "does not exist"), ("book.xlsx", "save it as .csv")]:
        with pytest.raises(ValueError, match=why):
            read_table(tmp_path / name)
    if hasattr(os, "mkfifo"):
        for suffix in ("csv", "npy", "parquet"):
            os.mkfifo(tmp_path / f"pipe.{suffix}")
            with pytest.raises(ValueError, match="is no file"):
                read_table(tmp_path / f"pipe.{suffix}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,?\n-2,3\n,-\n", [[1, -2, math.nan], [math.nan, 3, math.nan]]),
        ('a,b\n"1,200",$5\n"3,000,000",$7.5\nNone,-$1\n', [[1200, 3e6, math.nan], [5, 7.5, -1]]),
        ("a,b\n5%,#DIV/0!\n7 %,2\n", [[5, 7], [math.nan, 2]]),
        ("a;b\n1,5;2\n2,5;3\n", [[1.5, 2.5], [2, 3]]),
        ("a;b\n1.5;2\n2.5;3\n", [[1.5, 2.5], [2, 3]]),
        ("a;b\n999;1,5\n1.234;2,5\n2.500,5;.\n", [[999, 1234, 2500.5], [1.5, 2.5, math.nan]]),
        ("a;b\n1.5;12,345 %\n2.5;2 %\n", [[1.5, 2.5], [12.345, 2]]),
        ("a;b\n1.5;1,5\n1.234;2,5\n2.250;3,5\n", [[1.5, 1.234, 2.25], [1.5, 2.5, 3.5]]),
        ("a\tb\n1.5\t2\n2.5\t3\n", [[1.5, 2.5], [2, 3]]),
    ],
)
def test_numbers_are_read_as_people_write_them(
    text: str, expected: list[list[float]], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "x.csv").write_text(text)
    table = read_table(tmp_path / "x.csv")
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.rows.T, expected)
    said = text.startswith("a,b") or {".", ","} <= {*text}
    assert bool(capsys.readouterr().err) == said, "the others are numbers in the file already"


def test_a_decimal_comma_among_decimal_points_is_no_thousand(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n"0,125",2\n"1,250",3\n')
    assert read_table(tmp_path / "x.csv").categories == {"a": ("0,125", "1,250")}


def test_reading_says_what_columns_probably_are(capsys: Any) -> None:
    frame = pandas.DataFrame({"": range(1, 101), "x": RNG.standard_normal(100), "y": RNG.standard_normal(100)})
    frame["gappy"] = np.where(np.arange(100) < 30, 1.5 * np.arange(100), math.nan)
    frame.loc[90:, "y"] = -999
    frame.loc[5, "x"] = math.nan
    frame["same"], frame["nearly"] = 1.0, 1.0 * (np.arange(100) == 7)
    frame["run"], frame["run 5"] = range(100), range(5, 105)  # the second is no number of a row
    table = table_of(frame).learnable
    said = capsys.readouterr().err.splitlines()
    assert table.names == ("x", "y", "gappy", "run", "run 5")
    assert len(table.rows) == 100
    facts = [
        ("without a name",),
        ("y", "-999", "10"),
        ("column run numbers",),
        ("same", "nearly"),
        ("71 of 100", "gappy", "(70)"),
    ]
    for line, words in zip(said, facts, strict=True):
        assert all(word in line for word in words), (line, words)


@pytest.mark.parametrize("code", [-9, -99, -999, -9999, -99999, 999, 9999, 99999])
def test_a_number_that_stands_for_none_is_named(code: int, capsys: Any) -> None:
    x, y = RNG.random((2, 100))
    x[:10], y[:10] = code, code - 1
    _ = table_of(pandas.DataFrame({"x": x, "y": y})).learnable
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines() if f"is {code} in 10" in line] == ["x"]


def test_columns_that_vary_outside_training_alone_are_left_out_by_name(capsys: Any) -> None:
    x, n = RNG.standard_normal((200, 2)), 200
    held = rows_of("x", Table(("a", "b"), x))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    outside, inside = np.zeros(n), np.zeros(n)
    outside[order[:40]], inside[order[-1]] = RNG.standard_normal(40), 3.0
    capsys.readouterr()
    data = rows_of("x", Table(("a", "outside", "b", "inside"), np.stack([x[:, 0], outside, x[:, 1], inside], 1)))
    assert data.columns == ("a", "b")
    assert torch.equal(data.train, held.train)
    assert "outside" in capsys.readouterr().err


def test_units_are_of_the_rows_to_train_on_and_others_may_be_anywhere() -> None:
    x, order = RNG.lognormal(0, 2, (300, 2)), torch.randperm(300, generator=torch.Generator().manual_seed(0))
    x[order[0]], x[order[35]] = [0.0, -1e9], [1e200**0.5, 0.0]
    data = rows_of("x", Table(("a", "b"), x))
    expected = Units.of(torch.from_numpy(x[order[60:]]))
    assert data.units is not None
    for name, tensor in vars(expected).items():
        assert torch.equal(getattr(data.units, name), tensor), name
    assert float(data.validation.abs().max()) == 30
    assert float(data.train.abs().max()) < 8


def people(n: int = 400) -> pandas.DataFrame:
    """Rows with everything: their town goes with their age."""
    rng = np.random.default_rng(1)
    town = rng.integers(0, 5, n)
    return pandas.DataFrame(
        {
            "age": 20 + 10 * town + rng.standard_normal(n),
            "town": np.array(["Ulm", "Bath", "Rome", "Graz", "Lyon"])[town],
            "member": rng.random(n) < 0.3,
            "size": pandas.Categorical.from_codes(rng.integers(0, 3, n), ["small", "medium", "large"], ordered=True),
            "rank": np.where(np.arange(n) < 6, [f"r{i}" for i in range(n)], np.where(town < 2, "low", "high")),
            "id": [f"k{i:04}" for i in range(n)],
            "joined": pandas.Timestamp("2020-02-27 13:45:30") + pandas.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )


def test_rows_lie_anywhere_in_the_cells_of_their_numbers() -> None:
    """A network would learn one place in each as a spike."""
    x = np.stack([COLUMNS["count"], COLUMNS["few"]], 1)
    data = rows_of("rows", x)
    assert data.units is not None
    assert all(len(column.unique()) > 0.99 * len(column) for column in data.train.T)
    assert torch.isin(data.units.restore(data.train), torch.from_numpy(x)).all()


def test_categories_and_dates_become_numbers_and_come_back(tmp_path: Path, capsys: Any) -> None:
    frame = people()
    frame.to_csv(tmp_path / "people.csv", index=False)
    frame.to_parquet(tmp_path / "people.parquet")
    for table in (table_of(frame), read_table(tmp_path / "people.csv"), read_table(tmp_path / "people.parquet")):
        capsys.readouterr()
        learned = table.learnable.sorted_by()
        said = capsys.readouterr().err
        assert learned.names == ("age", "town", "member", "size", "rank", "joined")
        assert learned.dates == ("joined",)
        assert learned.categories["member"] == ("False", "True")
        assert learned.categories["town"] in (
            ("Ulm", "Bath", "Rome", "Graz", "Lyon"),
            ("Lyon", "Graz", "Rome", "Bath", "Ulm"),
        )
        assert {*learned.categories["rank"]} == {"low", "high", "other"}
        assert "id" in said
        assert "6 rare values of rank" in said
    learned = table_of(frame).learnable.sorted_by()
    assert learned.categories["size"] == ("small", "medium", "large")
    write_table(tmp_path / "back.csv", learned.names, learned.rows, learned.categories, learned.dates)
    back = pandas.read_csv(tmp_path / "back.csv", parse_dates=["joined"])
    for name in ("town", "member", "size", "joined"):
        assert back[name].tolist() == frame[name].tolist(), name
    assert (back["rank"] == "other").sum() == 6


def test_of_many_values_the_most_frequent_are_kept_unless_most_rows_have_others() -> None:
    counts = np.array([20] * 40 + [9] * 9 + [8] * 20)  # of 69 values
    some = np.repeat([f"v{i:02}" for i in range(69)], counts)
    frame = pandas.DataFrame({"x": RNG.standard_normal(len(some)), "some": some})
    frame["many"] = [f"w{i % 120}" for i in range(len(frame))]
    learned = table_of(frame).learnable
    assert {name: set(values) for name, values in learned.categories.items()} == {
        "some": {f"v{i:02}" for i in range(49)} | {"other"}
    }
    others = np.array(learned.categories["some"])[learned.rows[:, 1].astype(int)] == "other"
    np.testing.assert_array_equal(others, np.isin(some, [f"v{i}" for i in range(49, 69)]))


def test_dates_that_are_objects_are_dates() -> None:
    days = pandas.date_range("2024-01-01", periods=20)
    table = table_of(pandas.DataFrame({"day": days.date}))
    assert table.dates == ("day",)
    np.testing.assert_array_equal(table.rows[:, 0], np.arange(20) + 19723)


def test_rows_are_translated_into_the_numbers_that_a_run_has(capsys: Any) -> None:
    learned = table_of(people()).learnable.sorted_by()
    rows = people(3)[["town", "rank", "member", "age"]]
    rows.loc[0, "town"], rows.loc[1, "town"], rows["rank"] = None, "Oslo", ["low", None, "new"]
    names = ("age", "rank", "town", "member")
    matched = table_of(rows).matched(names, {name: learned.categories[name] for name in names[1:]})
    ranks, towns = learned.categories["rank"], learned.categories["town"]
    expected = [[ranks.index("low"), math.nan, ranks.index("other")], [math.nan, -1, towns.index(rows["town"][2])]]
    np.testing.assert_array_equal(matched.rows[:, 1:3].T, expected)
    np.testing.assert_array_equal(matched.rows[:, 3], rows["member"])
    with pytest.raises(ValueError, match="column of numbers town"):
        table_of(rows).matched(("age", "town"))
    rows["member"] = True
    np.testing.assert_array_equal(table_of(rows).matched(("member",)).rows, np.ones((3, 1)))
    codes = table_of(pandas.DataFrame({"code": [1234567, 2.5, 8]})).matched(
        ("code",), {"code": ("A12", "1234567", "2.5")}
    )
    assert codes.rows[:, 0].tolist() == [1, 2, -1], "text that is a number in the file"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_files_bring_back_numbers_blanks_and_integers(suffix: str, tmp_path: Path) -> None:
    rows = np.array([[1.5, 2.0, math.nan], [1e9 + 1e-5, math.nan, math.nan]])
    write_table(tmp_path / f"x.{suffix}", ["a", "b", "c"], rows)
    table = read_table(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(table.rows, rows)
    if suffix == "csv":
        assert (tmp_path / "x.csv").read_text().splitlines()[1] == "1.5,2,"


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
    units = Units.of(torch.from_numpy(train))
    exact = -7 * math.log(2) - math.log(2 * math.pi) / 2 - float(np.square(test[:, 7]).mean()) / 2
    assert eight_gaussians(train, test, units) == pytest.approx(exact, abs=0.03)


def test_copies_of_rows_with_cells_are_seen() -> None:
    rows = coins(2000, 0, 11), coins(400, 1, 11), coins(400, 2, 11)
    units = Units.of(torch.from_numpy(rows[0]))
    train, test, fresh = (units.standardise(torch.from_numpy(each)).numpy() for each in rows)
    assert memorisation(train, test, train[:400]) > 0.99
    assert memorisation(train, test, fresh) == pytest.approx(0.5, abs=0.05)


def test_pictures_of_a_training_show_rows_that_it_has_not_seen() -> None:
    rows = np.arange(60.0).reshape(30, 2) ** 2
    data = rows_of("x", Table(("a", "b"), rows))
    assert data.units is not None
    seen = data.units.restore(data.train)
    for row in kinds.held_out(data, 3):
        assert not torch.isclose(seen, row).all(1).any()
        assert np.isclose(rows, row.numpy()).all(1).any(), "in the user's units"


def test_samples_are_compared_with_complete_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 2))
    rows[:200, 1] = np.nan
    data = rows_of("x", Table(("a", "b"), rows))
    assert data.units is not None
    run = replace(Run.of(gauss(torch.eye(2).double()), (2,), sigma_max=15.0, sigma_min=0.01), units=data.units)
    monkeypatch.setattr("ncsn.evaluation.tables.judge_rows", lambda train, *_: {"rows": len(train)})
    monkeypatch.setattr("ncsn.evaluation.tables.log_density", lambda *_: 0.0)
    numbers = judge_table(run, data, torch.zeros(len(data.test), 2)).numbers
    assert numbers["rows"] == int((~data.train.isnan().any(1)).sum()) < len(data.train)


def test_rows_on_a_plane_lose_the_reference_alone(capsys: Any) -> None:
    x = 1e12 * np.random.default_rng(0).standard_normal((120, 1)) * np.ones(3)
    numbers = judge_rows(x[:80], x[80:], x[80:])
    assert "log_density_of_eight_gaussians" not in numbers
    assert numbers["sliced_wasserstein"] == 0
    assert "eight Gaussians are left out" in capsys.readouterr().err


def command(line: str) -> None:
    cli.main([*line.split(), "--device", "cpu"])


def test_the_way_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The commands of the tutorial, on few rows and steps."""
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame({name: COLUMNS[name][:1000] for name in ("lognormal", "beta", "count")})
    frame["name"], frame["same"] = "x", 7
    frame.to_csv("people.csv", index=False)
    monkeypatch.setattr(kinds, "remarks", lambda *_: ["what is said of pixels"])
    command("train people.csv --steps 40 --samples 5")
    printed = capsys.readouterr()
    assert "name" in printed.err
    assert "pixels" not in printed.out
    command("train people.csv --resume --steps 60")
    run = ncsn.load("runs/people")
    assert run.names == ("lognormal", "beta", "count")
    assert run.units is not None
    for name, tensor in vars(run.units).items():
        other = replace(run.units, **{name: ~tensor if name == "log" else tensor + 1})
        assert replace(run, units=other).digest != run.digest, name
    command("sample runs/people -n 30 --out new.csv")
    new = pandas.read_csv("new.csv")
    assert [*new.columns] == [*run.names]
    assert (new["lognormal"] > 0).all()
    assert str(new["count"].dtype) == "int64"
    new.assign(beta=new["beta"].mask(new.index == 1)).to_csv("some.csv", index=False)
    command("likelihood runs/people some.csv --out density.csv --tolerance 0.05")
    known = run.log_prob(torch.from_numpy(new.drop(1).to_numpy(float)), tolerance=0.05, batch_size=500)
    expected = np.insert(known.numpy(), 1, math.nan)  # of the row with a blank
    np.testing.assert_allclose(pandas.read_csv("density.csv")["log_density"], expected, rtol=1e-6)
    gaps = new.iloc[:6, ::-1].astype(float)
    gaps.iloc[0, 0], gaps.iloc[3, 2] = math.nan, math.nan
    gaps.to_csv("gaps.csv", index=False)
    command("impute runs/people gaps.csv --out filled.csv -n 4 --draws draws.csv")
    draws = pandas.read_csv("draws.csv")["beta"]
    np.testing.assert_allclose(draws, new["beta"][[0, 3]].repeat(4), rtol=1e-9, err_msg="a row's draws, one by one")
    filled = pandas.read_csv("filled.csv")
    assert not filled[[*run.names]].isna().to_numpy().any()
    np.testing.assert_allclose(filled["beta"], new["beta"][:6], rtol=1e-9)
    assert filled["count sd"].notna().tolist() == [True] + 5 * [False]
    command("evaluate runs/people")
    numbers = json.loads(Path("runs/people/evaluation.json").read_text())
    assert numbers["run_digest"] == run.digest
    frame[:300].to_csv("small.csv", index=False)
    command("train small.csv --steps 2 --samples 2")
    with pytest.raises(SystemExit, match="2"):
        command("evaluate runs/small")
    assert "30 held-out rows" in capsys.readouterr().err
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn.mixture", None)
        with pytest.raises(SystemExit, match="2"):
            command("evaluate runs/people --overwrite")
        assert "ncsn[tables]" in capsys.readouterr().err
    assert "logarithm: lognormal" in refusal(capsys, *["export", "runs/people", "x.onnx"])
    assert "flip" in refusal(capsys, *["train", "new.csv", "--flip", "--out", "y"])
    assert "lognormal" in refusal(capsys, *["impute", "runs/people", "density.csv", "--out", "z.csv"])


def test_a_frame_is_learned_as_its_file_and_a_sum_is_no_measurement() -> None:
    frame = pandas.DataFrame(COLUMNS)
    frame.loc[3, "beta"] = math.nan
    assert len(table_of(frame).learnable.rows) == N
    run = ncsn.fit(frame, steps=2)
    assert run.sample(5).dtype == torch.float64
    with pytest.raises(ValueError, match="not linear"):
        run.posterior(lambda x: x.sum(1), torch.tensor(1.0), noise_std=0.1)
    run.posterior(lambda x: x[:, 0], torch.tensor(1e9), noise_std=0.1)
    for rows in (MIX[:2], MIX[:2].numpy(), frame.iloc[:2, ::-1]):
        assert torch.equal(next(run.impute(rows, 3))[1], MIX[:2].expand(3, -1, -1))


def test_text_and_dates_pass_through_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    people().to_csv("people.csv", index=False)
    command("train people.csv --steps 5 --samples 5")
    run = ncsn.load("runs/people")
    assert run.names == ("age", "town", "member", "size", "rank", "joined")
    assert run.recipe.dates == ("joined",)
    assert run.units is not None
    command("sample runs/people -n 30 --out new.csv")
    new = pandas.read_csv("new.csv", parse_dates=["joined"])
    for name in ("town", "member", "size"):
        assert {*new[name]} <= {*people()[name]}, name
    assert new["joined"].between("2020-02-26", "2022-09-01").all()
    new.loc[0, "age"] = math.nan
    assert sum(len(part) for part, _ in run.impute(new, 3)) == 30
    gaps = people()[[*run.names]][:8].assign(town=[None, "Oslo", *people()["town"][2:8]])
    gaps.loc[3, ["age", "town"]] = 1e9, None  # a row that is like nothing in training
    gaps.to_csv("gaps.csv", index=False)
    command("impute runs/people gaps.csv --out filled.csv -n 4 --draws draws.csv")
    filled, draws = pandas.read_csv("filled.csv"), pandas.read_csv("draws.csv").dropna(subset="town")
    assert filled["town share"].notna().tolist() == [True] + 7 * [False]
    assert filled["rank"].tolist() == gaps["rank"].tolist(), "what the run takes for other is written as it is"
    pandas.testing.assert_series_equal(filled["town"][1:], gaps["town"][1:])
    assert draws["rank"].tolist() == [gaps["rank"][0]] * 4
    assert {*draws["town"]} <= {*people()["town"]}
    for taken in ("--out filled.csv --draws new-draws.csv", "--out new-filled.csv --draws draws.csv"):
        assert "exists" in refusal(capsys, *f"impute runs/people gaps.csv -n 4 {taken}".split())
    command("likelihood runs/people new.csv --out density.csv --tolerance 0.1")
    assert pandas.read_csv("density.csv")["log_density"].notna().sum() == 30


def test_held_out_numbers_that_training_cannot_make_are_counted(capsys: Any) -> None:
    """A value between those that are listed, one beyond a bound, and one far away; of others nothing is said."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice([0.0, 10, 20, 30], 1000), rng.uniform(0, 1, 1000), rng.standard_normal(1000)], 1)
    rows_of("x", rows.copy())
    assert "unlike" not in capsys.readouterr().err
    held_out = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:200].numpy()
    rows[held_out[0], 0], rows[held_out[1], 1], rows[held_out[150], 2] = 15, 1.4, 1e6
    rows_of("x", rows)
    assert "3 held-out numbers" in capsys.readouterr().err


def test_the_density_of_eight_gaussians_is_of_the_rows_whose_density_the_run_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    train, test, samples = (rng.standard_normal((n, 2)) for n in (500, 120, 120))
    monkeypatch.setattr(tables, "DENSITIES", 100)
    found = judge_rows(train, test, samples)["log_density_of_eight_gaussians"]
    test[100:] = 50
    assert judge_rows(train, test, samples)["log_density_of_eight_gaussians"] == found


def test_rows_of_single_precision_have_densities_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = Run.of(gauss(THREE), (3,), sigma_max=15.0, sigma_min=0.01)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    np.save(tmp_path / "x.npy", x.numpy())
    command(f"likelihood it {tmp_path}/x.npy --out {tmp_path}/y.csv")
    assert read_table(tmp_path / "y.csv").rows[:, 0] == pytest.approx(run.log_prob(x).numpy(), abs=1e-3)
    np.savez(tmp_path / "x.npz", a=x, b=2 * x)
    with pytest.raises(ValueError, match="a, b"):
        read_table(tmp_path / "x.npz")


def test_filled_rows_and_draws_need_two_files(tmp_path: Path, capsys: Any) -> None:
    words = ["impute", "it", "x.csv", "--out", f"{tmp_path}/y.csv", "--draws", f"{tmp_path}/y.csv"]
    assert "draws" in refusal(capsys, *words)


@pytest.mark.parametrize(("given", "kept"), [("float32", "float32"), ("float64", "float64"), ("int16", "float64")])
def test_numbers_of_an_array_keep_their_precision(given: str, kept: str) -> None:
    assert table_of(np.arange(12).reshape(6, 2).astype(given)).rows.dtype == kept
