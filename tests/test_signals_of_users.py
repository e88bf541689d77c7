"""Signals as users have them: judged beside held-out ones, with gaps, and as one long series."""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import refusal, refused, unchecked
from learning import TINY
from torch import Tensor

import ncsn
from ncsn.cli import main as cli
from ncsn.data import Dataset
from ncsn.data.dataset import from_arrays
from ncsn.data.sources import Reading
from ncsn.data.units import Units
from ncsn.evaluation import evaluate
from ncsn.evaluation.signals import autocorrelation, judge_signals, log_spectrum
from ncsn.run import Run
from ncsn.score import Sigma, expand

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
        parts: Tensor = (x.flatten(1).double() @ self.vectors) / (
            self.values + expand(sigma, x.flatten(1)).double() ** 2
        )
        score: Tensor = (-parts @ self.vectors.T).view_as(x)
        return score.to(x)

    def signals(self, n: int, seed: int) -> Tensor:
        z = torch.randn(n, LENGTH, generator=torch.Generator().manual_seed(seed)).double()
        signals: Tensor = (z * self.values.clamp(min=0).sqrt()) @ self.vectors.T
        return signals[:, None]


SEASON = Season()
UNITS = Units(SHIFT, SCALE)
RUN = replace(Run.of(SEASON, (1, LENGTH), sigma_max=20.0, sigma_min=0.02), units=UNITS)
TRAIN, VALIDATION, TEST = (SEASON.signals(n, seed).float() for seed, n in enumerate((600, 10, 200)))
DATA = Dataset(TRAIN, VALIDATION, TEST, units=UNITS)


def strangers() -> Tensor:
    """Noise of the right mean and variance, without a memory."""
    return torch.randn(200, 1, LENGTH, generator=torch.Generator().manual_seed(9)).double()


def test_distances_of_signals_are_those_by_hand() -> None:
    g = np.random.default_rng(0)
    x, y = (g.normal(size=(20, 2, 10)).cumsum(-1).astype(np.float32) for _ in range(2))

    def power(z: np.ndarray, c: int, f: int) -> float:
        waves = np.exp(-2j * math.pi * f / 10 * np.arange(10))
        return float(np.mean(abs((z[:, c] * waves).sum(1)) ** 2))

    def products(z: np.ndarray, c: int, lag: int) -> float:
        return float(np.mean([np.mean(s[c, : 10 - lag] * s[c, lag:]) for s in z]))

    logs = [(math.log(power(x, c, f)) - math.log(power(y, c, f))) ** 2 for c in range(2) for f in range(6)]
    assert log_spectrum(x, y) == pytest.approx(np.mean(logs) ** 0.5, rel=1e-4)
    apart = [
        (products(x, c, k) / products(x, c, 0) - products(y, c, k) / products(y, c, 0)) ** 2
        for c in range(2)
        for k in range(6)
    ]
    assert autocorrelation(x, y) == pytest.approx(np.mean(apart) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("kind", ["exact", "copies", "strangers"])
def test_signals_are_judged_beside_held_out_ones(kind: str) -> None:
    made: dict[str, Callable[[], Tensor]] = {
        "exact": lambda: RUN.sample(200, seed=3),
        "copies": lambda: UNITS.restore(TRAIN[:200].double()),
        "strangers": lambda: SHIFT + SCALE * strangers(),
    }
    numbers = judge_signals(RUN, DATA, made[kind]()).numbers
    # Of 200 signals, logs of powers are off by 0.1, and autocorrelations by less.
    near = {"log_spectrum": (0, 0.25), "autocorrelation": (0, 0.1), "classifier": (0.38, 0.62)}
    far = {"log_spectrum": (1, 9), "autocorrelation": (0.3, 1), "classifier": (0.8, 1)}
    for name, (low, high) in (far if kind == "strangers" else near).items():
        assert low <= numbers[name] <= high, name
    for name, (low, high) in near.items():
        assert low <= numbers[f"{name}_of_training_signals"] <= high, name
    assert (numbers["memorisation"] == 1) == (kind == "copies")


def test_a_run_of_signals_is_evaluated_in_python_and_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", (SHIFT + SCALE * SEASON.signals(1000, 5)).numpy())
    cli.main(f"train {tmp_path}/x.npy --signals --out {tmp_path}/run --device cpu {TINY} --steps 4".split())
    command = ["evaluate", str(tmp_path / "run"), "--device", "cpu", "--levels", "3"]
    assert "--features" in refusal(capsys, *command, "--features", "pixels")
    cli.main([*command, "--seed", "3"])
    numbers = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (tmp_path / "run" / "evaluation.png").stat().st_size > 1000
    expected = evaluate(ncsn.load(tmp_path / "run", device="cpu"), seed=3, levels=3).report()
    assert {name: numbers[name] for name in expected} == expected
    assert numbers["n"] == 100
    few = replace(DATA, test=TEST[:99])
    assert "99 held-out signals" in refused(lambda: evaluate(RUN, few))
    assert "99 training signals" in refused(lambda: evaluate(RUN, replace(DATA, train=TRAIN[:99])))


def test_no_more_signals_are_judged_than_there_are_to_learn_from() -> None:
    """Else the floor would be of fewer."""
    data = replace(DATA, train=TRAIN[:120])
    result = evaluate(RUN, data, seed=3)
    whole = judge_signals(RUN, replace(data, test=TEST[:120]), RUN.sample(120, seed=3))
    assert (result.n, result.report()) == (120, whole.report())


def test_reversed_copies_are_copies_of_a_training_that_mirrors() -> None:
    copies = UNITS.restore(TRAIN[:200].flip(-1).double())
    shares = [judge_signals(replace(RUN, settings={"flip": flip}), DATA, copies).numbers for flip in (False, True)]
    assert [numbers["memorisation"] == 1 for numbers in shares] == [False, True]


def test_the_spread_of_filled_signals_is_one_number_for_each_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = Units(torch.zeros(2, 1).double(), torch.tensor([[1.0], [1000.0]]).double())
    score = ncsn.GaussianMixture(torch.zeros(1, 2 * 6))
    run = Run.of(lambda x, s: score(x.flatten(1), s).view_as(x), (2, 6), sigma_max=20.0, sigma_min=0.02)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: replace(run, units=units))
    x = np.zeros((3, 2, 6))
    x[:, :, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    cli.main(f"impute it {tmp_path}/x.npy -n 50 --out {tmp_path}/y.npy --device cpu".split())
    one, other = (float(number) for number in re.findall(r"by (\S+), (\S+) on", capsys.readouterr().out)[0])
    assert [one, other / 1000] == pytest.approx([1, 1], rel=0.4)


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
    gaps, draws = whole.clone(), torch.zeros(20, *whole.shape).double()
    gaps[:8, 0, 12:22] = math.nan
    gaps[8:, 0, 4:11] = math.nan
    gaps[11, 0, 20] = math.nan
    for part, some in RUN.impute(gaps, 20, seed=1):
        draws[:, part] = some
    blank = gaps.isnan()
    assert torch.equal(draws[:, ~blank], gaps[~blank].expand(20, -1))
    filled = draws.mean(0)
    error, beside = (float((x - whole)[blank].square().mean().sqrt() / SCALE) for x in (filled, straight(gaps)))
    assert error < 0.75 * beside
    hidden = torch.zeros(LENGTH, dtype=torch.bool)
    hidden[12:22] = True
    both, c = (gaps[:8, 0] - SHIFT[0]) / SCALE[0], SEASON.covariance
    weights = torch.linalg.solve(c[~hidden][:, ~hidden], c[~hidden][:, hidden])
    spread = (c[hidden][:, hidden] - c[hidden][:, ~hidden] @ weights).diagonal().sqrt()
    found = (draws[:, :8, 0][:, :, hidden] - SHIFT) / SCALE
    off = (found.mean(0) - both[:, ~hidden] @ weights) / spread
    assert float(off.square().mean()) == pytest.approx(1 / 20, rel=0.5)
    assert float((found.std(0) / spread).mean()) == pytest.approx(1, abs=0.1)


GAPS: dict[str, Callable[[], Iterable[object]]] = {
    "another shape": lambda: RUN.impute(torch.zeros(2, 3, LENGTH)),
    "another length": lambda: RUN.impute(torch.zeros(2, 7)),
    "out of sight": lambda: [*RUN.impute(torch.full((2, LENGTH), 1e30))],
    "complex": lambda: RUN.impute(torch.zeros(2, 1, LENGTH, dtype=torch.complex64)),
    "a density of what is out of sight": lambda: RUN.log_prob(torch.full((2, 1, LENGTH), 1e30)),
    "a density of gaps": lambda: RUN.log_prob(torch.full((2, 1, LENGTH), math.nan)),
}


@pytest.mark.parametrize("name", GAPS)
def test_what_are_no_signals_of_a_run_is_refused(name: str) -> None:
    with unchecked():
        assert refused(lambda: [*GAPS[name]()])


@pytest.mark.parametrize("shape", [(6, LENGTH), (6, 1, LENGTH)])
def test_the_command_fills_in_signals(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ncsn.load", lambda *_, **__: RUN)
    gaps = (SHIFT + SCALE * SEASON.signals(6, 8)).view(shape).float()
    gaps[1, ..., 10:20] = math.nan
    gaps[5, ..., 3] = 1e30
    gaps[5, ..., 4] = math.nan
    np.save("gaps.npy", gaps.numpy())
    assert "gaps.csv" in refusal(capsys, "impute", "it", "gaps.csv", "--out", "x.npy")
    assert "x.csv" in refusal(capsys, "impute", "it", "gaps.npy", "--out", "x.csv")
    cli.main(["impute", "it", "gaps.npy", "-n", "4", "--out", "filled.npy", "--draws", "draws.npy"])
    filled, draws, known = np.load("filled.npy"), np.load("draws.npy"), ~gaps.isnan().numpy()
    assert (filled.shape, filled.dtype, draws.shape) == (shape, np.float32, (4, 6, 1, LENGTH))
    assert np.array_equal(filled[known], gaps.numpy()[known])
    np.testing.assert_allclose(filled[1], draws[:, 1].astype(float).mean(0).reshape(filled[1].shape), rtol=1e-6)
    assert np.isnan(filled).sum() == 1
    said = capsys.readouterr().out
    assert "10 blanks" in said
    spread = draws.astype(float)[:, 1, 0, 10:20].std(0, ddof=1).mean()
    assert any(float(number) == pytest.approx(spread, rel=0.02) for number in re.findall(r"\d+\.\d+", said))


@pytest.mark.parametrize(
    ("shape", "signals", "one"),
    [
        ((5000,), False, True),
        ((5000,), True, True),
        ((1, 5000), False, True),
        ((1, 5000), True, True),
        ((1, 3, 5000), True, True),
        ((5, 50), True, False),
        ((0, 50), True, False),
    ],
)
def test_one_long_series_is_refused_with_the_way_to_cut_it(shape: tuple[int, ...], signals: bool, one: bool) -> None:
    series = {"": np.random.default_rng(0).normal(size=shape)}
    message = refused(lambda: from_arrays("x.npy", series, Reading(signals=signals)), naming="x.npy")
    assert message
    assert ("sliding_window_view" in message) == one


@pytest.mark.parametrize(("shape", "grey"), [((60, 9, 8), True), ((60, 1, 9, 8), False), ((60, 9, 8, 3), False)])
def test_three_axes_are_taken_for_grey_images_and_a_line_says_so(shape: tuple[int, ...], grey: bool) -> None:
    images = from_arrays("x.npy", {"": np.random.default_rng(0).integers(0, 255, shape, np.uint8)}, Reading())
    assert ("(n, height, width)" in images.describe()) == grey
    assert any("--signals" in line for line in images.notes) == grey
