"""Signals: real numbers in units of their own, with gaps, next to held-out ones, and as one long series."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Patch, Printed, Sigma, command, expand, judge, refusal, refused, unchecked, with_transform
from learning import TINY, unlearned
from torch import Tensor

import ncsn
from ncsn.data.transforms import Transform
from ncsn.evaluation import evaluate
from ncsn.loading import dataset_of
from ncsn.settings import Reading
from ncsn.signals import SignalRun, Signals

SCALES = torch.tensor([50.0, 2e-6, 1.0], dtype=torch.float64)[:, None]
SHIFTS = torch.tensor([1e9, 0.0, -3.0], dtype=torch.float64)[:, None]
CURVES = SHIFTS.numpy() + SCALES.numpy() * np.random.default_rng(0).normal(size=(240, 3, 9))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ncsn.Run:
    """What a tiny ``ncsn train --signals`` leaves once it has been resumed."""
    folder = tmp_path_factory.mktemp("signals")
    np.savez(folder / "curves.npz", x=CURVES, y=np.arange(240) % 5 // 3)
    for options in (f"{TINY} --steps 3", "--resume --steps 4"):
        command(f"train {folder}/curves.npz --signals --out {folder}/run {options}")
    return ncsn.load(folder / "run")


def test_a_run_of_signals_speaks_the_users_units(run: ncsn.Run, tmp_path: Path) -> None:
    assert (run.guide, run.settings["steps"], list(run.recipe.shares)) == (None, 4, ["0", "1"])
    transform, train = run.transform, run.data().train
    off = abs(CURVES - transform.inverse(train)[0].numpy()) / SCALES.numpy()
    assert off.max((1, 2)).min() < 1e-5
    torch.testing.assert_close(train.square().mean((0, 2)), torch.ones(3))
    for name in ("x.png", "x.npy"):
        command(f"sample {run.folder} -n 8 --seed 3 --out {tmp_path}/{name}")
    x = torch.from_numpy(np.load(tmp_path / "x.npy"))
    assert torch.equal(x, run.sample(8, seed=3))
    z = transform.forward(x)
    assert bool(((z.std((0, 2)) > 0.1) & (abs(x - SHIFTS) < 30 * SCALES).all(2).all(0)).all())
    shift, scale, affine = transform.affine((3, 9))
    assert bool(affine.all())
    torch.testing.assert_close(shift + scale * z, x)
    inner = with_transform(run, Transform()).log_prob(z.float(), probes=1) - scale.log().sum()
    torch.testing.assert_close(run.log_prob(x, probes=1), inner, check_dtype=False, rtol=1e-3, atol=0.05)


def test_a_posterior_of_signals_agrees_with_what_was_measured(run: ncsn.Run) -> None:
    y = torch.tensor([1e-6, -2e-6, 0.0, 3e-6])
    answers = run.posterior(lambda x: x[:, 1, :4], y, noise_std=2e-7).sample(6, seed=0, levels=20)
    assert float((answers[:, 1, :4] - y).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(12, 8), (1025,), (5, 1), (2, 5, 4, 3)])
def test_rules_suit_signals_and_volumes_of_any_size(shape: tuple[int, ...], monkeypatch: Patch) -> None:
    x = 1e9 + 1000 * np.random.default_rng(1).normal(size=(60, *shape)).cumsum(-1)
    run = unlearned(monkeypatch, x, signals=True, steps=6).run
    assert run.recipe.arguments["dimensions"] == max(1, len(shape) - 1)
    assert 4 < run.settings["sigma_max"] < 5 * np.prod(shape) ** 0.5 + 10
    samples = run.sample(4, levels=4, seed=0).numpy()
    assert samples.shape == (4, *(shape if len(shape) > 1 else (1, *shape)))
    assert abs(samples.mean() - x.mean()) < 2 * x.std()  # in the data's units, though it has learned nothing else
    assert 0.2 < samples.std() / x.std() < 3


@pytest.mark.parametrize(
    ("array", "options", "named"),
    [
        (np.where(CURVES[3, 1, 2] == CURVES, np.nan, CURVES), "", "1 values"),
        (np.concatenate([CURVES, np.ones((240, 1, 9))], 1), "", "channel 3"),
        (CURVES[:9], "", "few"),
        (CURVES[:, None], "", "(240, 1, 3, 9)"),
        (CURVES, "--size 9 --fit stretch", "size, fit"),
    ],
)
def test_what_are_no_signals_is_refused(
    array: np.ndarray, options: str, named: str, tmp_path: Path, capsys: Printed
) -> None:
    np.save(tmp_path / "x.npy", array)
    assert named in refusal(capsys, "train", f"{tmp_path}/x.npy", "--signals", *options.split())


LENGTH = 30
SHIFT, SCALE = torch.tensor([[1e4]]).double(), torch.tensor([[0.5]]).double()


class Season:
    """The exact score of Gaussian signals with a long memory and a season of twelve."""

    def __init__(self) -> None:
        lag = torch.arange(LENGTH).double()
        lag = (lag[:, None] - lag).abs()
        self.covariance = ((1 + lag) ** -0.4 + (2 * math.pi / 12 * lag).cos()) / 2
        self.values, self.vectors = torch.linalg.eigh(self.covariance)

    def __call__(self, x: Tensor, sigma: Sigma, /) -> Tensor:
        rows = x.flatten(1)
        parts: Tensor = (rows.double() @ self.vectors) / (self.values + expand(sigma, rows).double() ** 2)
        score: Tensor = (-parts @ self.vectors.T).view_as(x)
        return score.to(x)

    def signals(self, n: int, seed: int) -> Tensor:
        z = torch.randn(n, LENGTH, generator=torch.Generator().manual_seed(seed)).double()
        signals: Tensor = (z * self.values.clamp(min=0).sqrt()) @ self.vectors.T
        return signals[:, None]


def run_in_units(score: ncsn.Score, shift: list[float], scale: list[float], length: int) -> SignalRun:
    """The run of a score of standardised signals, whose channels have these means and standard deviations."""
    waves = np.array([-1.0, 1.0] * length)[None, : 2 * (length // 2)] * np.ones((20, len(shift), 1))
    signals = np.array(shift)[:, None] + np.array(scale)[:, None] * waves
    units = dataset_of(signals, reading=Reading(signals=True))
    run = SignalRun.of(score, (len(shift), length), sigma_max=20.0, sigma_min=0.02)
    return with_transform(run, units.transform)


SEASON = Season()
RUN = run_in_units(SEASON, [1e4], [0.5], LENGTH)
TRAIN, VALIDATION, TEST = (SEASON.signals(n, seed).float() for seed, n in enumerate((600, 10, 200)))
DATA = Signals(TRAIN, VALIDATION, TEST, transform=RUN.transform)


# Judged next to held-out ones.


def test_distances_of_signals_are_those_by_hand() -> None:
    g = np.random.default_rng(0)
    x, y = (g.normal(size=(100, 2, 10)).cumsum(-1).astype(np.float32) for _ in range(2))

    def power(z: np.ndarray, c: int, f: int) -> float:
        waves = np.exp(-2j * math.pi * f / 10 * np.arange(10))
        return math.log(np.mean(abs((z[:, c] * waves).sum(1)) ** 2))

    def correlation(z: np.ndarray, c: int, k: int) -> float:
        products = [float(np.mean([np.mean(s[c, : 10 - lag] * s[c, lag:]) for s in z])) for lag in (k, 0)]
        return products[0] / products[1]

    signals = torch.from_numpy(x)
    data = Signals(signals, signals, signals)
    run = SignalRun.of(SEASON, (2, 10), sigma_max=20.0, sigma_min=0.02)
    found = judge(run, data, torch.from_numpy(y))
    for name, number in (("log_spectrum", power), ("autocorrelation", correlation)):
        apart = [(number(x, c, k) - number(y, c, k)) ** 2 for c in range(2) for k in range(6)]
        assert found[name] == pytest.approx(np.mean(apart) ** 0.5, rel=1e-4)


SAMPLES: dict[str, Callable[[], Tensor]] = {
    "exact": lambda: RUN.sample(200, seed=3),
    "copies": lambda: RUN.transform.inverse(TRAIN[:200].double()),
    # Noise of the right mean and variance, without a memory.
    "strangers": lambda: SHIFT + SCALE * torch.randn(200, 1, LENGTH, generator=torch.Generator().manual_seed(9)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_signals_are_judged_next_to_held_out_ones(name: str) -> None:
    numbers = judge(RUN, DATA, SAMPLES[name]())
    # Of 200 signals, logs of powers are off by 0.1, and autocorrelations by less.
    near = {"log_spectrum": (0, 0.25), "autocorrelation": (0, 0.1), "classifier": (0.38, 0.62)}
    far = {"log_spectrum": (1, 9), "autocorrelation": (0.3, 1), "classifier": (0.8, 1)}
    for number, (low, high) in (far if name == "strangers" else near).items():
        assert low <= numbers[number] <= high, number
    for number, (low, high) in near.items():
        assert low <= numbers[f"{number}_of_training_signals"] <= high, number
    assert (numbers["memorisation"] == 1) == (name == "copies")


def test_reversed_copies_are_copies_of_a_training_that_mirrors() -> None:
    copies = RUN.transform.inverse(TRAIN[:200].flip(-1).double())
    for flip in (False, True):
        assert (judge(replace(RUN, settings={"flip": flip}), DATA, copies)["memorisation"] == 1) == flip


def test_a_run_of_signals_is_evaluated_in_python_and_by_command(tmp_path: Path, capsys: Printed) -> None:
    np.save(tmp_path / "x.npy", (SHIFT + SCALE * SEASON.signals(1000, 5)).numpy())
    command(f"train {tmp_path}/x.npy --signals --out {tmp_path}/run {TINY} --steps 4")
    words = f"evaluate {tmp_path}/run --levels 3"
    assert "--features" in refusal(capsys, *words.split(), "--features", "pixels")
    command(f"{words} --seed 3")
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    run = ncsn.load(tmp_path / "run", device="cpu")
    expected = evaluate(run, np.load(tmp_path / "x.npy"), seed=3, levels=3).report()
    assert {name: numbers[name] for name in expected} == expected
    assert "was trained on" in refused(lambda: evaluate(run, 2 * np.load(tmp_path / "x.npy")))
    assert numbers["n"] == 100
    assert (tmp_path / "run" / "evaluation.png").stat().st_size > 1000
    assert np.load(tmp_path / "run" / "evaluation.npz")["samples"].shape == (100, 1, LENGTH)


def test_no_more_signals_are_judged_than_there_are_to_learn_from() -> None:
    """Else the floor would be of fewer."""
    data = replace(DATA, train=TRAIN[:120])
    assert evaluate(RUN, data, seed=3).report() == {
        "n": 120,
        **judge(RUN, replace(data, test=TEST[:120]), RUN.sample(120, seed=3)),
    }
    assert "99 held-out signals" in refused(lambda: evaluate(RUN, replace(DATA, test=TEST[:99])))
    assert "99 training signals" in refused(lambda: evaluate(RUN, replace(DATA, train=TRAIN[:99])))


# With gaps.


def straight(x: Tensor) -> Tensor:
    """Gaps filled in by straight lines."""
    filled = x.clone()
    for signal in filled.flatten(0, -2):
        gap = signal.isnan().numpy()
        signal[gap] = torch.from_numpy(np.interp(gap.nonzero()[0], (~gap).nonzero()[0], signal.numpy()[~gap]))
    return filled


def test_gaps_are_filled_in_better_than_by_a_straight_line() -> None:
    """And as the exact conditional mean and deviation are, but for what twenty draws leave to chance."""
    whole = SHIFT + SCALE * SEASON.signals(12, 7)
    gaps = whole.clone()
    gaps[:8, 0, 12:22] = math.nan
    gaps[8:, 0, 4:11] = math.nan
    gaps[11, 0, 20] = math.nan
    imputed, missing = RUN.impute(gaps, 20, seed=1), gaps.isnan()
    draws = imputed.draws
    assert torch.equal(imputed.missing, missing)
    assert torch.equal(draws[:, ~missing], gaps[~missing].expand(20, -1))
    torch.testing.assert_close(imputed.point, draws.mean(0))
    torch.testing.assert_close(imputed.spread(), draws.std(0))
    error, other = (float((x - whole)[missing].square().mean().sqrt() / SCALE) for x in (imputed.point, straight(gaps)))
    assert error < 0.75 * other
    hidden = torch.zeros(LENGTH, dtype=torch.bool)
    hidden[12:22] = True
    both, c = (gaps[:8, 0] - SHIFT[0]) / SCALE[0], SEASON.covariance
    weights = torch.linalg.solve(c[~hidden][:, ~hidden], c[~hidden][:, hidden])
    spread = (c[hidden][:, hidden] - c[hidden][:, ~hidden] @ weights).diagonal().sqrt()
    found = (draws[:, :8, 0][:, :, hidden] - SHIFT) / SCALE
    off = (found.mean(0) - both[:, ~hidden] @ weights) / spread
    assert float(off.square().mean()) == pytest.approx(1 / 20, rel=0.5)
    assert float((found.std(0) / spread).mean()) == pytest.approx(1, abs=0.1)


def test_a_signal_that_misses_everything_is_a_sample() -> None:
    draws = (RUN.impute(torch.full((1, 1, LENGTH), math.nan), 400, seed=1).draws - SHIFT) / SCALE
    torch.testing.assert_close(draws[:, 0, 0].T.cov().diagonal().mean(), SEASON.covariance[0, 0], rtol=0.1, atol=0)
    near = draws[:, 0, 0].T.corrcoef().diagonal(1).mean()
    assert float(near) == pytest.approx(float(SEASON.covariance[0, 1] / SEASON.covariance[0, 0]), abs=0.05)


@pytest.mark.parametrize("lead", [(), (1,)])
def test_signals_of_one_channel_may_come_without_it_or_with_a_mask(lead: tuple[int, ...]) -> None:
    x = (SHIFT + SCALE * SEASON.signals(2, 4)).view(2, *lead, LENGTH)
    x[0, ..., 5] = math.nan
    expected = RUN.impute(x.view(2, 1, LENGTH), 3).draws
    masked = np.ma.masked_array(x.nan_to_num(0.0).numpy(), x.isnan().numpy())
    for given in (x, x.numpy(), masked):
        assert torch.equal(RUN.impute(given, 3).draws, expected)


@pytest.mark.parametrize(
    ("ask", "x"),
    [
        (RUN.impute, torch.zeros(2, 3, LENGTH)),
        (RUN.impute, torch.zeros(2, 7)),
        (RUN.impute, torch.zeros(0, LENGTH)),
        (RUN.impute, torch.full((2, LENGTH), 1e30)),
        (RUN.impute, torch.zeros(2, 1, LENGTH, dtype=torch.complex64)),
        (RUN.log_prob, torch.full((2, 1, LENGTH), 1e30)),
        (RUN.log_prob, torch.full((2, 1, LENGTH), math.nan)),
    ],
)
def test_what_are_no_signals_of_a_run_is_refused(ask: Callable[[Tensor], object], x: Tensor) -> None:
    with unchecked():
        assert refused(lambda: ask(x))


@pytest.mark.parametrize("shape", [(6, LENGTH), (6, 1, LENGTH)])
def test_the_command_fills_in_signals(shape: tuple[int, ...], here: Path, monkeypatch: Patch, capsys: Printed) -> None:
    """In their shape and precision, and the spread is in the units of the signals."""
    monkeypatch.setattr("ncsn.load", lambda *_, **__: RUN)
    gaps = (SHIFT + SCALE * SEASON.signals(6, 8)).view(shape).float()
    gaps[1, ..., 10:20] = math.nan
    gaps[5, ..., 4] = math.nan
    np.save("far.npy", gaps.nan_to_num(1e30).numpy())
    assert "signal 2" in refusal(capsys, "impute", "it", "far.npy", "--out", "x.npy")
    np.save("words.npy", np.array(["a"] * LENGTH))
    assert "words.npy" in refusal(capsys, "impute", "it", "words.npy", "--out", "x.npy")
    np.save("gaps.npy", gaps.numpy())
    assert "gaps.csv" in refusal(capsys, "impute", "it", "gaps.csv", "--out", "x.npy")
    assert "x.csv" in refusal(capsys, "impute", "it", "gaps.npy", "--out", "x.csv")
    command("impute it gaps.npy -n 4 --out filled.npy --draws draws.npy")
    filled, draws, known = np.load("filled.npy"), np.load("draws.npy"), ~gaps.isnan().numpy()
    assert (filled.shape, filled.dtype, draws.shape) == (shape, np.float32, (4, 6, 1, LENGTH))
    assert np.array_equal(filled[known], gaps.numpy()[known])
    np.testing.assert_allclose(filled[1], draws[:, 1].astype(float).mean(0).reshape(filled[1].shape), rtol=1e-6)
    assert np.isfinite(filled).all()
    said = capsys.readouterr().out
    assert "11 missing" in said
    spread = draws.astype(float).std(0, ddof=1)[gaps.isnan().view(6, 1, LENGTH).numpy()].mean()
    assert any(float(number) == pytest.approx(spread, rel=0.02) for number in re.findall(r"\d+\.\d+", said))


def test_the_spread_of_filled_signals_is_one_number_for_each_channel(
    monkeypatch: Patch, tmp_path: Path, capsys: Printed
) -> None:
    score = ncsn.GaussianMixture(torch.zeros(1, 2 * 6))
    run = run_in_units(lambda x, s: score(x.flatten(1), s).view_as(x), [0.0, 0.0], [1.0, 1000.0], 6)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    x = np.zeros((3, 2, 6))
    x[:, :, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    command(f"impute it {tmp_path}/x.npy -n 50 --out {tmp_path}/y.npy")
    one, other = (float(number) for number in re.findall(r"draws: (\S+), (\S+) in", capsys.readouterr().out)[0])
    assert [one, other / 1000] == pytest.approx([1, 1], rel=0.4)


# What an array holds.


@pytest.mark.parametrize(
    ("shape", "dtype", "signals", "one"),
    [
        ((5000,), "f4", False, True),
        ((5000,), "f4", True, True),
        ((), "f4", True, False),
        ((5000,), "U9", False, False),
        ((5000,), "U9", True, False),
        ((1, 5000), "f4", False, True),
        ((1, 5000), "f4", True, True),
        ((1, 3, 5000), "f4", True, True),
        ((5, 50), "f4", True, False),
        ((0, 50), "f4", True, False),
    ],
)
def test_one_long_series_is_refused_with_the_way_to_cut_it(
    shape: tuple[int, ...], dtype: str, signals: bool, one: bool, here: Path
) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=shape).astype(dtype))
    message = refused(lambda: ncsn.load_dataset("x.npy", reading=Reading(signals=signals)), naming="x.npy")
    assert message
    assert ("sliding_window_view" in message) == one


@pytest.mark.parametrize(("shape", "grey"), [((60, 9, 8), True), ((60, 1, 9, 8), False), ((60, 9, 8, 3), False)])
def test_three_axes_are_taken_for_grey_images_and_a_line_says_so(
    shape: tuple[int, ...], grey: bool, here: Path
) -> None:
    np.save("x.npy", np.random.default_rng(0).integers(0, 255, shape, np.uint8))
    images = ncsn.load_dataset("x.npy")
    assert ("read as grey images" in images.describe()) == grey
    assert any("--signals" in line for line in images.notes) == grey
