"""Rows with blanks are learned from: which are kept, how they are filled in, and how a training goes on."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import ncsn
from ncsn.cli import main as cli
from ncsn.data.dataset import rows_of
from ncsn.data.tables import Table
from ncsn.data.units import Units
from ncsn.learn import blanks as filling
from ncsn.learn.record import Record
from ncsn.learn.settings import TrainSettings
from ncsn.run import Run

RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 1000)
GAPPY = np.where(np.stack([np.zeros(1000, bool), RNG.random(1000) < 0.4], 1), np.nan, WHOLE)


def table(rows: np.ndarray) -> Table:
    return Table(tuple("abcdefgh"[: rows.shape[1]]), rows)


def test_rows_with_blanks_are_for_training_and_units_are_of_what_is_known() -> None:
    data, missing = rows_of("x", table(GAPPY)), np.isnan(GAPPY).any(1)
    assert data.units is not None
    assert data.blanks is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (800, 100, 100)
    assert data.held_blanks is not None
    assert int(data.blanks.sum() + data.held_blanks.sum()) == missing.sum()
    assert 0.3 < float(data.held_blanks[:, 1].double().mean()) < 0.5, "as many as in other rows"
    whole = data.validation[~data.held_blanks.any(1)]
    held = data.units.restore(torch.cat([whole, data.test]).double()).numpy()
    for row in held:
        assert np.isclose(GAPPY, row, rtol=0, atol=1e-4).all(1).any(), "no number was filled in"
    known = data.units.restore(data.train.double())[:, 1][~data.blanks[:, 1]]
    assert torch.allclose(data.units.shift[1], known.mean(), atol=1e-5)
    z = data.train[:, 1]
    assert torch.isin(z[data.blanks[:, 1]], z[~data.blanks[:, 1]]).all(), "known numbers of the same column"
    assert abs(float(np.corrcoef(data.train[data.blanks[:, 1]].T)[0, 1])) < 0.15, "at random"


def test_without_blanks_nothing_is_another() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    data, x = rows_of("x", table(WHOLE)), torch.from_numpy(WHOLE)
    units = Units.of(x[order[200:]])
    z = units.standardise(x, torch.Generator().manual_seed(1)).float()
    assert data.blanks is None
    for part, index in (("validation", order[:100]), ("test", order[100:200]), ("train", order[200:])):
        assert torch.equal(getattr(data, part), z[index]), part


COLUMNS = {
    "whole": np.arange(200.0) % 37,
    "half": np.where(np.arange(200) % 2, np.nan, RNG.standard_normal(200)),
    "scarce": np.where(np.arange(200) < 190, np.nan, RNG.standard_normal(200)),
    "empty": np.full(200, np.nan),
}


def test_columns_and_rows_that_say_too_little_are_left_out_by_name(capsys: Any) -> None:
    rows = np.stack([*COLUMNS.values()], 1)
    rows[[1, 3]] = np.nan
    learned = Table(tuple(COLUMNS), rows).learnable
    said = capsys.readouterr().err
    assert learned.names == ("whole", "half")
    assert len(learned.rows) == 198
    assert all(word in said for word in ("scarce", "empty", "2 of 200", "98 of 198"))


@pytest.mark.parametrize(("complete", "held"), [(1000, 100), (200, 50), (40, 10), (4, 10)])
def test_rows_for_testing_are_complete_ones_as_long_as_there_are_some(complete: int, held: int, capsys: Any) -> None:
    rows = WHOLE.copy()
    rows[complete:, 1][::2], rows[complete:, 0][1::2] = np.nan, np.nan
    data = rows_of("x", table(rows))
    assert (len(data.validation), len(data.test)) == (100, held)
    assert ("say little" in capsys.readouterr().err) == (held < 25)
    if complete == 1000:
        assert data.blanks is data.held_blanks is None
        return
    assert data.units is not None
    assert data.blanks is not None
    assert data.held_blanks is not None
    assert len(data.train) == len(data.blanks)
    left = int((~data.held_blanks.any(1)).sum() + (~data.blanks.any(1)).sum())
    assert left == max(complete - held, 0), "all others of the complete rows are learned from, or show how it goes"
    assert left == 0 or int((~data.blanks.any(1)).sum()) > left / 2
    known = data.units.restore(data.validation.double()).masked_fill(data.held_blanks, torch.nan)
    apart = (known[:, None] - torch.from_numpy(rows)).abs().nan_to_num(0.0).max(2).values.min(1).values
    assert float(apart.max()) < 1e-4, "what is known of them is the table's"


def test_text_with_blanks_is_sorted_and_listed_by_what_is_known() -> None:
    rows = np.stack([RNG.standard_normal(300), np.arange(300) % 3.0], 1)
    rows[:, 0] += 3 * np.array([1, -1, 0])[rows[:, 1].astype(int)]
    rows[::7, 1], rows[1::9, 0] = np.nan, np.nan
    data = rows_of("x", Table(("a", "b"), rows, {"b": ("high", "low", "middle")}))
    assert data.categories["b"] in (("low", "middle", "high"), ("high", "middle", "low"))
    assert data.units is not None
    assert data.units.values.shape[1] == 3


def test_blanks_are_drawn_given_what_is_known_of_their_rows() -> None:
    """All patterns together, by the score of a Gaussian."""
    c = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]]).double()

    def score(x: torch.Tensor, sigma: Any, /) -> torch.Tensor:
        whole = c + float(torch.as_tensor(sigma).flatten()[0]) ** 2 * torch.eye(3)
        solved: torch.Tensor = torch.linalg.solve(whole, x.double().T)
        return -solved.T.to(x)

    g = torch.Generator().manual_seed(0)
    x = (torch.randn(3000, 3, generator=g, dtype=torch.float64) @ torch.linalg.cholesky(c).T).float()
    blanks = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 0, 1]]).bool().repeat(1000, 1)
    start = torch.where(blanks, torch.randn(3000, 3, generator=g).clamp(-2, 2), x)
    filled = start.clone()
    run = Run.of(score, (3,), sigma_max=15.0, sigma_min=0.01)
    assert filling.draw(run, filled, blanks, g, 1e9) == 1
    assert torch.equal(filled[~blanks], x[~blanks])
    assert not (filled == start)[blanks].any()
    assert float((filled.T.double().cov() - c).abs().max()) < 0.1
    assert filling.draw(run, filled, blanks, g, -1.0) == 0


def test_who_has_no_time_to_fill_in_is_told_so_once(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SHARE", -1.0)  # of the time that there is
    small = TrainSettings(channels=(8,), blocks=1, steps=24)
    ncsn.fit(rows_of("x", table(GAPPY[:200])), settings=small)
    assert capsys.readouterr().out.count("blanks of 0%") == 1


def correlation(run: Run) -> float:
    return float(run.sample(2000, seed=0).T.corrcoef()[0, 1])


def test_what_is_learned_is_nearer_to_the_truth_than_with_blanks_filled_at_random() -> None:
    """In units that are not the model's, which blanks are filled in by."""
    data, small = rows_of("x", table(30 * GAPPY - 200)), TrainSettings(channels=(32,), blocks=1, batch_size=128)
    naive = correlation(ncsn.fit(replace(data, blanks=None), settings=small, steps=400, quiet=True))
    assert naive < 0.65
    before = data.train.clone()
    assert correlation(ncsn.fit(data, settings=small, steps=400, quiet=True)) > 0.8
    assert torch.equal(data.train, before), "the user's data set stays as it is"


def command(line: str) -> None:
    cli.main(shlex.split(line))


def test_a_training_with_blanks_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame(GAPPY[:120], columns=["a", "b"]).to_csv("t.csv", index=False)
    how = "--channels 8 --blocks 1 --batch-size 16 --samples 5"
    command(f"train t.csv --steps 24 --out whole {how}")
    stop = filling.draw

    def interrupted(*given: Any) -> float:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return stop(*given)

    calls = list[int]()
    saved = ncsn.learn.record.SAVE_EVERY
    monkeypatch.setattr("ncsn.learn.record.SAVE_EVERY", 0.0)
    monkeypatch.setattr(filling, "draw", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command(f"train t.csv --steps 24 --out parts {how}")
    monkeypatch.setattr("ncsn.learn.record.SAVE_EVERY", saved)
    monkeypatch.setattr(filling, "draw", stop)
    command("train t.csv --out parts --resume")
    whole, parts = (Path(name, "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_a_table_s_own_blanks_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame(GAPPY[:120], columns=["a", "b"]).to_csv("t.csv", index=False)
    command("train t.csv --steps 12 --channels 8 --blocks 1 --samples 5")
    command("impute runs/t t.csv -n 2 --out filled.csv")
    filled = pandas.read_csv("filled.csv")[["a", "b"]].to_numpy()
    assert np.isfinite(filled).all()
    assert np.allclose(filled[~np.isnan(GAPPY[:120])], GAPPY[:120][~np.isnan(GAPPY[:120])])


def test_a_column_that_no_held_out_row_has_leaves_losses_finite() -> None:
    """Two questionnaires: rows have the third column, or the fourth and the fifth, so the ones with fewer blanks."""
    x = np.random.default_rng(0).standard_normal((300, 5))
    x[:100, 3:] = x[100:, 2] = np.nan
    record = Record()
    ncsn.fit(rows_of("x", table(x)), settings=TrainSettings(channels=(8,), blocks=1, steps=3), record=record)
    assert all(np.isfinite(row.validation_loss) for row in record.rows)
