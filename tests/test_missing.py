"""Rows with missing cells are learned from: which are kept, what is masked, and how a training goes on."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import unchecked
from torch import Tensor

import ncsn
from ncsn.cli import main as cli
from ncsn.conditional import Condition, ConditionalModel, Mixture
from ncsn.data.dataset import rows_of
from ncsn.data.tables import Table
from ncsn.data.units import Units
from ncsn.learn import masks
from ncsn.learn.masks import JOINT, MAX_NOISE, PATTERNS, masked, masked_batches, noisy_share
from ncsn.learn.record import Record
from ncsn.learn.settings import TrainSettings
from ncsn.objectives import Batch
from ncsn.run import Run

RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 1000)
GAPPY = np.where(np.stack([np.zeros(1000, bool), RNG.random(1000) < 0.4], 1), np.nan, WHOLE)


def table(rows: np.ndarray) -> Table:
    return Table(tuple("abcdefgh"[: rows.shape[1]]), rows)


# Rows.


def test_rows_with_gaps_are_for_training_and_units_are_of_what_is_known() -> None:
    data = rows_of("x", table(GAPPY))
    assert data.units is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (800, 100, 100)
    assert int(data.train.isnan().sum() + data.validation.isnan().sum()) == np.isnan(GAPPY).sum()
    assert 0.3 < float(data.validation[:, 1].isnan().double().mean()) < 0.5, "as many as in other rows"
    assert not data.test.isnan().any()
    z = torch.cat([data.train, data.validation, data.test])
    rows = data.units.restore(z.double()).nan_to_num(1e3).numpy()
    table_s = np.nan_to_num(GAPPY, nan=1e3)
    assert np.allclose(rows[rows.sum(1).argsort()], table_s[table_s.sum(1).argsort()], atol=1e-4), "each row once"
    known = data.units.restore(data.train.double())[:, 1].nanmean()
    assert float(data.units.shift[1]) == pytest.approx(float(known), abs=1e-5)
    mean, std = data.statistics
    assert mean == pytest.approx(float(data.train.nanmean()), abs=1e-6)
    assert std == pytest.approx(float(data.train[~data.train.isnan()].std(correction=0)), rel=1e-5)


def test_without_gaps_nothing_is_another() -> None:
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    data, x = rows_of("x", table(WHOLE)), torch.from_numpy(WHOLE)
    units = Units.of(x[order[200:]])
    z = units.standardise(x, torch.Generator().manual_seed(1)).float()
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


@pytest.mark.parametrize(
    ("complete", "held"), [(1000, 100), (400, 100), (399, 99), (200, 50), (100, 25), (99, 24), (40, 10), (4, 1), (3, 0)]
)
def test_rows_for_testing_are_complete_and_a_quarter_of_these_at_most(complete: int, held: int, capsys: Any) -> None:
    rows = WHOLE.copy()
    rows[complete:, 1][::2], rows[complete:, 0][1::2] = np.nan, np.nan
    data = rows_of("x", table(rows))
    assert (len(data.train), len(data.validation), len(data.test)) == (900 - held, 100, held)
    assert ("say little" in capsys.readouterr().err) == (held < 25)
    assert not data.test.isnan().any()
    learned, shown = (int((~part.isnan().any(1)).sum()) for part in (data.train, data.validation))
    assert learned + shown == complete - held, "all others are learned from, or show how it goes"
    assert learned >= (complete - held) / 2


def test_text_with_gaps_is_sorted_and_listed_by_what_is_known() -> None:
    rows = np.stack([RNG.standard_normal(300), np.arange(300) % 3.0], 1)
    rows[:, 0] += 3 * np.array([1, -1, 0])[rows[:, 1].astype(int)]
    rows[::7, 1], rows[1::9, 0] = np.nan, np.nan
    data = rows_of("x", Table(("a", "b"), rows, {"b": ("high", "low", "middle")}))
    assert data.categories["b"] in (("low", "middle", "high"), ("high", "middle", "low"))
    assert data.units is not None
    assert data.units.values.shape[1] == 3


# Masks.


def model(d: int) -> ConditionalModel:
    network = ncsn.networks.ResidualMLP(d, 8, 1, conditional=True)
    return ConditionalModel(network, Mixture(torch.zeros(1, d), torch.ones(1), torch.eye(d)))


def rows_with_gaps(n: int, d: int, share: float = 0.2) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g)
    return x.masked_fill(torch.rand(n, d, generator=g) < share, torch.nan)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(x: Tensor, *, joint: float, noisy: float, seed: int = 0) -> tuple[Tensor, Condition]:
    batch = masked(model(x.shape[1]), x, seeded(seed), joint=joint, noisy=noisy)
    assert batch.given is not None
    return batch.x, batch.given


@pytest.mark.parametrize("noisy", [0.0, 0.5, 1.0])
def test_cells_are_observed_targets_or_missing_and_only_observed_ones_have_noise(noisy: float) -> None:
    x = rows_with_gaps(4000, 5)
    clean, given = drawn(x, joint=0.25, noisy=noisy)
    absent = ~(given.target | given.observed)
    assert torch.equal(absent, x.isnan())
    assert not (given.target & given.observed).any()
    assert not given.observed[:1000].any()
    assert not given.noise[:1000].any(), "nothing is observed"
    assert float(given.observed[1000:].any(1).float().mean()) > 0.9
    assert torch.equal(clean[given.target], x[given.target])
    assert torch.equal(clean[given.observed], given.values[given.observed])
    assert not clean[absent].any()
    off, noise = (clean - x)[given.observed], given.noise.expand(x.shape)[given.observed]
    assert torch.equal(off[noise == 0], torch.zeros_like(off[noise == 0]))
    z = (off / noise)[noise > 0]
    levels = torch.unique(given.noise[1000:])
    assert (noisy == 0) == (len(z) == 0) == bool((levels == 0).all())
    assert noisy < 1 or bool((given.noise[given.observed.any(1)] > 0).all())
    assert noisy != 0.5 or (0 in levels and len(levels) > 3), "some patterns are exact"
    if len(z):
        assert float(z.mean()) == pytest.approx(0, abs=4 / len(z) ** 0.5)
        assert float(z.std()) == pytest.approx(1, abs=4 / (2 * len(z)) ** 0.5)


def test_from_one_to_all_but_one_column_are_observed_in_a_pattern_of_many_rows() -> None:
    x, counts, columns, loudest = torch.randn(320, 9), set[int](), torch.zeros(9), 0.0
    for seed in range(20):
        _, given = drawn(x, joint=0.5, noisy=1.0, seed=seed)
        counts |= set(given.observed.sum(1)[160:].tolist())
        columns += given.observed[160:].float().mean(0) / 20
        loudest = max(loudest, float(given.noise.max()))
        marks = torch.cat([given.observed.float(), given.noise], 1)[160:]
        assert len(torch.unique(marks, dim=0)) == PATTERNS / 2
    assert counts == set(range(1, 9))
    assert loudest == MAX_NOISE
    assert float((columns - 0.5).abs().max()) < 0.15, "all alike"


@pytest.mark.parametrize(("rows", "share"), [(100, 0.6), (1000, 0.6), (6000, 0.1), (60_000, 0.01)])
def test_values_of_small_tables_are_mostly_noisy(rows: int, share: float) -> None:
    assert noisy_share(rows) == pytest.approx(share)
    levels, joint = [], []
    for batch in masked_batches(model(4), iter(50 * [Batch(torch.randn(100, 4))]), rows, seeded()):
        assert batch.given is not None
        conditional = batch.given.observed.any(1)
        levels.append(batch.given.noise[conditional] > 0)
        joint.append(float((~conditional).double().mean()))
    noisy = float(torch.cat(levels).double().mean())
    patterns = 50 * PATTERNS * (1 - JOINT)
    assert noisy == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / patterns))
    assert set(joint) == {JOINT}


def test_the_same_generator_draws_the_same_masks_and_goes_on() -> None:
    x, g = rows_with_gaps(64, 4), seeded()
    first, again, other = (masked(model(4), x, generator, joint=0.2, noisy=0.5) for generator in (g, seeded(), g))
    assert first.given is not None
    assert again.given is not None
    assert other.given is not None
    assert torch.equal(first.x, again.x)
    assert all(torch.equal(a, b) for a, b in zip(first.given, again.given, strict=True))
    assert not torch.equal(first.given.observed, other.given.observed)


@pytest.mark.parametrize(("n", "d"), [(50, 1), (1, 1), (1, 3), (2, 2)])
def test_of_one_column_everything_is_a_target_and_few_rows_are_enough(n: int, d: int) -> None:
    x = rows_with_gaps(n, d, 0.5 if n > 9 else 0.0)
    clean, given = drawn(x, joint=0.2, noisy=1.0)
    assert torch.equal(given.target | given.observed, ~x.isnan())
    assert bool(given.observed.any()) == (d > 1)
    assert d > 1 or torch.equal(clean, x.nan_to_num(0.0))


# Training.


def correlation(run: Run) -> float:
    return float(run.sample(2000, seed=0).T.corrcoef()[0, 1])


def test_what_is_learned_is_nearer_to_the_truth_than_with_means_filled_in() -> None:
    """The truth is 0.9, and with means 0.9 √0.6."""
    data, small = rows_of("x", table(30 * GAPPY - 200)), TrainSettings(channels=(32,), blocks=1, batch_size=128)
    before = data.train.clone()
    filled = replace(data, train=data.train.nan_to_num(0.0), validation=data.validation.nan_to_num(0.0))
    with unchecked():  # which takes half of the time
        naive, ours = (correlation(ncsn.fit(x, settings=small, steps=100, quiet=True)) for x in (filled, data))
    assert naive < 0.75
    assert ours > 0.85
    assert torch.equal(data.train.nan_to_num(1e3), before.nan_to_num(1e3)), "the user's data set stays as it is"


def command(line: str) -> None:
    cli.main(shlex.split(line))


def test_a_training_is_deterministic_and_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame(GAPPY[:120], columns=["a", "b"]).to_csv("t.csv", index=False)
    how = "--channels 8 --blocks 1 --batch-size 16 --samples 5 --device cpu"
    for name in ("whole", "again"):
        command(f"train t.csv --steps 24 --out {name} {how}")
    real, calls = masks.masked, list[int]()

    def interrupted(*given: Any, **how: Any) -> Batch:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return real(*given, **how)

    with monkeypatch.context() as patched:
        patched.setattr("ncsn.learn.record.SAVE_EVERY", 0.0)
        patched.setattr(masks, "masked", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command(f"train t.csv --steps 24 --out parts {how}")
    calls.clear()

    def counted(*given: Any, **how: Any) -> Batch:
        calls.append(1)
        return real(*given, **how)

    monkeypatch.setattr(masks, "masked", counted)
    command("train t.csv --out parts --resume")
    assert len(calls) == 24 - 11, "it does not begin anew"
    whole, again, parts = (Path(name, "model.safetensors").read_bytes() for name in ("whole", "again", "parts"))
    assert whole == again
    assert whole == parts


IN_EVERY_ROW = WHOLE[:120].copy()
IN_EVERY_ROW[::2, 0] = IN_EVERY_ROW[1::2, 1] = np.nan


@pytest.mark.parametrize(("rows", "related"), [(GAPPY[:120], 0.6), (IN_EVERY_ROW, -1)], ids=["some", "in every row"])
def test_a_tables_own_gaps_are_imputed_and_what_is_observed_stays(
    rows: np.ndarray, related: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no row is complete; how columns are related such a table does not say."""
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame(rows, columns=["a", "b"]).to_csv("t.csv", index=False)
    command("train t.csv --steps 12 --channels 8 --blocks 1 --samples 5 --device cpu")
    command("impute runs/t t.csv -n 2 --out filled.csv")
    filled, gaps = pandas.read_csv("filled.csv")[["a", "b"]].to_numpy(), np.isnan(rows)
    assert np.isfinite(filled).all()
    assert np.allclose(filled[~gaps], rows[~gaps])
    assert np.corrcoef(filled[gaps.any(1)].T)[0, 1] > related, "by what is observed"


def test_a_column_that_no_held_out_row_has_leaves_losses_finite() -> None:
    """Two questionnaires: rows have the third column, or the fourth and the fifth, so the ones with fewer gaps."""
    x = np.random.default_rng(0).standard_normal((300, 5))
    x[:100, 3:] = x[100:, 2] = np.nan
    record = Record()
    run = ncsn.fit(rows_of("x", table(x)), settings=TrainSettings(channels=(8,), blocks=1, steps=3), record=record)
    for row in record.rows:
        assert row.joint_loss is not None
        assert row.conditional_loss is not None
        assert np.isfinite([row.loss, row.validation_loss, row.joint_loss, row.conditional_loss]).all()
    assert bool(run.sample(20).isfinite().all())


def test_a_network_of_the_users_own_is_refused() -> None:
    with pytest.raises(ValueError, match="missing cells, which a network of your own cannot learn from"):
        ncsn.fit(torch.from_numpy(GAPPY), network=ncsn.MLP(2, 8, 1), steps=1, quiet=True)
    assert ncsn.fit(torch.from_numpy(WHOLE), network=ncsn.MLP(2, 8, 1), steps=1, quiet=True).sample(2).shape == (2, 2)


def test_a_run_of_another_score_imputes_no_rows() -> None:
    run = ncsn.fit(torch.from_numpy(WHOLE), network=ncsn.MLP(2, 8, 1), steps=1, quiet=True)
    with pytest.raises(ValueError, match="no conditionals"):
        next(run.impute(torch.tensor([[0.5, math.nan]]), 2))
