"""The way of a table from its file to samples, densities, imputation and evaluation, by command and in Python."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from helpers import Patch, Printed, command, conditional_run, fit_table, load_table, refusal, with_transform

import ncsn
from ncsn.data.columns import Columns, Number
from ncsn.evaluation import evaluate

RNG, N = np.random.default_rng(0), 1000
FRAME = pandas.DataFrame(
    {
        "normal": 1e9 + 3 * RNG.standard_normal(N),
        "lognormal": np.exp(2 * RNG.standard_normal(N)),
        "beta": RNG.beta(0.5, 0.5, N),
        "count": np.round(np.exp(3 + RNG.standard_normal(N))) - 1,
        "town": RNG.choice(["Ulm", "Bath", "Rome"], N),
        "member": RNG.random(N) < 0.3,
        "rank": np.where(np.arange(N) < 6, [f"r{i}" for i in range(N)], RNG.choice(["low", "high"], N)),
        "joined": pandas.Timestamp("2020-02-27 13:45:30") + pandas.to_timedelta(RNG.integers(0, 900, N), unit="D"),
    }
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, and the run that few steps, resumed once, have made of it."""
    folder = tmp_path_factory.mktemp("tables")
    FRAME.assign(id=[f"k{i:04}" for i in range(N)], same=7).to_csv(folder / "people.csv", index=False)
    command(f"train {folder}/people.csv --steps 4 --channels 16 --blocks 1 --samples 5 --out {folder}/run")
    command(f"train {folder}/people.csv --resume --steps 6 --out {folder}/run")
    return folder


def test_conformal_intervals_are_those_of_the_held_out_rows(trained: Path) -> None:
    run = load_table(trained / "run")
    held_out, data = run.held_out(), run.data()
    validation, test = (data.transform.restore(part.double()) for part in (data.validation, data.test))
    assert torch.equal(held_out.nan_to_num(), test.nan_to_num()), "not the rows that select the checkpoint"
    gaps = validation[:20]
    gaps[:, 0] = torch.nan
    imputed = run.impute(gaps, 19)
    ends, same, others = (imputed.interval(0.8, conformal=rows) for rows in (True, held_out, held_out[:40]))
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ends, same, strict=True))
    assert not torch.equal(ends[0].nan_to_num(), others[0].nan_to_num())


def test_a_run_has_the_tables_columns(trained: Path, tmp_path: Path) -> None:
    run = load_table(trained / "run")
    transform = run.columns
    assert transform.names == tuple(FRAME.columns)
    assert [column.name for column in transform.columns if column.date] == ["joined"]
    assert run.measured.keys() == {"coverage", "coverage_of", "right", "confidence", "right_of"}
    first, *others = transform.columns
    changed = replace(transform, columns=(replace(first, name="other"), *others))
    assert with_transform(run, changed).digest != run.digest
    command(f"sample {trained}/run -n 30 --out {tmp_path}/new.csv")
    new = pandas.read_csv(tmp_path / "new.csv", parse_dates=["joined"])
    assert new.dtypes.astype(str).tolist()[:4] == ["float64"] * 3 + ["int64"]
    assert {*new["rank"]} <= {"low", "high", "other"}
    assert new["joined"].between("2020-02-26", "2022-09-01").all()
    assert (new["joined"] == new["joined"].dt.round("s")).all()
    assert run.impute(new.assign(normal=math.nan), 3).draws.shape == (3, 30, 8)


def test_densities_of_rows_have_their_index_and_their_columns_may_stand_in_any_order(trained: Path) -> None:
    run, rows = ncsn.load(trained / "run"), FRAME[:6].drop(1)
    known = run.log_prob(rows, tolerance=0.1)
    assert known.index.tolist() == [0, 2, 3, 4, 5]
    pandas.testing.assert_series_equal(run.log_prob(rows.iloc[:, ::-1], tolerance=0.1), known)
    with pytest.raises(ValueError, match=r"row 2.*only complete rows"):
        run.log_prob(FRAME[:6].assign(beta=FRAME["beta"][:6].mask(np.arange(6) == 1)))


def test_gaps_of_text_numbers_and_dates_are_filled_in(trained: Path, here: Path, capsys: Printed) -> None:
    gaps = FRAME[:8].assign(
        town=[None, "Oslo", *FRAME["town"][2:8]], joined=FRAME["joined"][:8].mask(FRAME.index[:8] == 2)
    )
    gaps["count"] = gaps["count"].mask(gaps.index == 4)
    gaps.loc[3, ["lognormal", "town"]] = 1e90, None  # a row that is like nothing in training
    gaps.to_csv("gaps.csv", index=False)
    command(f"impute {trained}/run gaps.csv --out filled.csv -n 4 --draws draws.csv")
    assert "not imputed (2 of 8)" in capsys.readouterr().err
    filled, draws = pandas.read_csv("filled.csv", dtype=str), pandas.read_csv("draws.csv", dtype=str)
    own = pandas.read_csv("gaps.csv", dtype=str)
    for name in FRAME:
        pandas.testing.assert_series_equal(filled[name][own[name].notna()], own[name].dropna())
    assert draws["row"].tolist() == [row for row in ("1", "3", "5") for _ in range(4)]
    assert draws["rank"][:4].tolist() == [own["rank"][0]] * 4, "what the run takes for other is written as it is"
    for taken in ("--out filled.csv --draws new-draws.csv", "--out new-filled.csv --draws draws.csv"):
        assert "exists" in refusal(capsys, *f"impute {trained}/run gaps.csv -n 4 {taken}".split())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("export {0}/run x.onnx", "categories or gaps can't be exported or measured (town, member, rank)"),
        ("train other.csv --flip --out y", "flip"),
        ("inpaint {0}/run", "images"),
    ],
)
def test_what_a_run_of_rows_cannot_do_is_refused(
    words: str, why: str, trained: Path, here: Path, capsys: Printed
) -> None:
    FRAME[["normal", "town"]].to_csv("other.csv", index=False)
    assert why in refusal(capsys, *words.format(trained).split())


def test_a_frame_is_learned_as_its_file_and_a_sum_is_no_measurement(trained: Path) -> None:
    run = fit_table(FRAME, steps=6)
    assert run.transform == ncsn.load(trained / "run").transform
    numbers_only = ncsn.fit(FRAME[["normal", "lognormal"]], steps=2, quiet=True)
    for each in (run, numbers_only):
        with pytest.raises(ValueError, match="measure"):
            each.posterior(lambda x: x.sum(1), torch.tensor(1.0), noise_std=0.1)
    numbers_only.posterior(lambda x: x[:, 0], torch.tensor(1e9), noise_std=0.1)
    rows = FRAME.iloc[6:8]
    numbers = torch.tensor(rows.iloc[:, :4].to_numpy())
    for given in (rows, rows.iloc[:, ::-1]):
        assert torch.equal(run.impute(given, 3).draws[:, :, :4], numbers.expand(3, -1, -1))


def test_frames_of_other_packages_are_frames(trained: Path) -> None:
    run, rows = load_table(trained / "run"), FRAME[:3].assign(town=["Ulm", None, "Rome"])
    other = pyarrow.Table.from_pandas(rows, preserve_index=False)
    assert torch.equal(run.impute(other, 2, seed=1).draws, run.impute(rows, 2, seed=1).draws)
    with pytest.raises(ValueError, match=r"joined.* UTC.* none"):
        run.impute(rows.assign(joined=rows["joined"].dt.tz_localize("UTC")), 2)


@pytest.mark.parametrize("how", [{"probes": 2, "seed": 4}, {"sigma_min": 0.5}, {"tolerance": 0.3}], ids=str)
def test_densities_of_rows_are_as_exact_as_is_asked(how: dict[str, Any]) -> None:
    """Also of an array of single precision."""
    run = conditional_run(torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]]))
    named = Columns(columns=tuple(Number(name=name, shift=0.0, scale=1.0) for name in "abc"))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    frame = pandas.DataFrame(x.double().numpy(), columns=[*"abc"])
    expected, other = (run.log_prob(x, **given).numpy() for given in (how, {}))
    found = replace(run, recipe=replace(run.recipe, transform=named)).log_prob(frame, **how).to_numpy()
    assert found == pytest.approx(expected, abs=1e-4)
    assert found != pytest.approx(other, abs=1e-4)


def test_the_command_evaluates_as_python_does(
    trained: Path, tmp_path: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    """Numbers, a picture and the samples."""
    words = f"evaluate {trained}/run --seed 3 --levels 5 --out {tmp_path}"
    command(words)
    run = ncsn.load(trained / "run", device="cpu")
    expected = evaluate(run, seed=3, levels=5)
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert {name: numbers[name] for name in expected.report()} == expected.report()
    assert (numbers["run_digest"], numbers["n"]) == (run.digest, 100)
    samples = np.load(tmp_path / "evaluation.npz")["samples"]
    assert np.array_equal(samples, run.steps(100, seed=3, levels=5).last().numpy()), "as many as held-out rows"
    assert (tmp_path / "evaluation.png").stat().st_size > 1000
    assert str(expected) in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(SystemExit, match="2"):
        command(f"{words} --overwrite")
    assert "ncsn[tables]" in capsys.readouterr().err
