"""Whether posteriors hold what they promise: exact samplers pass, and others fail, each by its name."""

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    THREE,
    GaussianScore,
    command,
    conditional_run,
    gaussian_rows,
    image_run,
    refusal,
    refused,
    unchecked,
    with_transform,
)
from scipy import stats
from torch import Generator, Tensor

import ncsn
from ncsn import GaussianMixture, Run, plots
from ncsn.data.columns import Columns, Number
from ncsn.evaluation import Calibration, calibration
from ncsn.signals import SignalRun

MEANS = torch.tensor([[-2.0, 0.0, 1.0], [2.0, 1.0, 0.0], [0.0, -3.0, 0.0]])
SHARES, WIDTH, NOISE = torch.tensor([0.5, 0.3, 0.2]), 0.7, 0.7
FIRST = itemgetter((slice(None), slice(1)))  # the first number of each example


def mixture(n: int, k: int, seed: int, noise: float = NOISE) -> tuple[Tensor, Tensor]:
    """Truths of a mixture, and exact draws given a noisy measurement of all numbers, if its noise were ``noise``."""
    g = torch.Generator().manual_seed(seed)
    x = MEANS[torch.multinomial(SHARES, n, replacement=True, generator=g)] + WIDTH * torch.randn(n, 3, generator=g)
    y = x + NOISE * torch.randn(n, 3, generator=g)
    off, gain = y[:, None] - MEANS, WIDTH**2 / (WIDTH**2 + noise**2)
    logs = SHARES.log() - off.square().sum(2) / (2 * (WIDTH**2 + noise**2))
    component = torch.multinomial(logs.softmax(1), k, replacement=True, generator=g)
    means = (MEANS + gain * off).gather(1, component[..., None].expand(-1, -1, 3))
    return x, (means + noise * gain**0.5 * torch.randn(n, k, 3, generator=g)).transpose(0, 1)


WRONG = [(NOISE, 0.0, "calibrated"), (NOISE / 2, 0.0, "overconfident"), (2 * NOISE, 0.0, "too wide")]


@pytest.mark.parametrize(("noise", "shift", "word"), [*WRONG, (NOISE, 0.3, "shifted")])
def test_samplers_of_a_mixture_are_told_apart(noise: float, shift: float, word: str) -> None:
    """An exact sampler passes, and the others fail, each by its name; of four seeds one may say otherwise."""
    pairs = [mixture(300, 39, seed, noise) for seed in range(4)]
    found = [calibration(x, draws + shift, seed=seed).verdict for seed, (x, draws) in enumerate(pairs)]
    assert sum(word in verdict for verdict in found) >= 3


@pytest.mark.parametrize("discrete", [False, True])
def test_ranks_of_exact_draws_are_uniform(discrete: bool, generator: Generator) -> None:
    """Also those of numbers that are often equal, in columns of other units."""
    n, k = 3000, 7
    x = torch.randn(k + 1, n, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e4, 1e-3, 0.0])
    x = x.sign() if discrete else x
    for u in calibration(x[0], x[1:], seed=1).ranks["given"].values():
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
        assert stats.kstest((2 * u - 1).abs().numpy(), "uniform").pvalue > 1e-3


def test_of_two_draws_one_has_the_lower_rank_whichever_is_called_the_truth(generator: Generator) -> None:
    x = torch.randn(2, 30, 3, generator=generator)
    both = [calibration(x[i], x[[1 - i]], seed=1).ranks["given"] for i in (0, 1)]
    for name in ("number", "mean", "distance"):
        assert bool(((both[0][name] >= 0.5) != (both[1][name] >= 0.5)).all()), name


@pytest.mark.parametrize("exact", [True, False])
def test_ranks_and_tarp_agree_with_those_of_sbi(exact: bool) -> None:
    """The same ranks of single numbers; sbi's TARP curve has other random points, and leaves the diagonal as ours."""
    sbc, tarp = pytest.importorskip("sbi.diagnostics.sbc"), pytest.importorskip("sbi.diagnostics.tarp")
    x, draws = mixture(400, 99, 3, NOISE if exact else NOISE / 4)
    ranks = sbc._run_sbc(x[:, :1], x, draws[..., :1], "marginals", show_progress_bar=False)
    ours = calibration(x[:, :1], draws[..., :1]).ranks["given"]["number"]
    assert torch.equal((100 * ours).floor(), ranks[:, 0].double())
    torch.manual_seed(0)
    area, _ = tarp.check_tarp(*tarp._run_tarp(draws, x, tarp.get_tarp_references(x)))
    distance = calibration(x, draws).ranks["given"]["distance"]
    assert abs(area) < 0.01 if exact else area < -0.03
    assert (stats.kstest(distance.numpy(), "uniform").pvalue > 0.01) == exact


def test_sources_share_how_often_an_exact_sampler_may_fail() -> None:
    """Ranks whose p value is 0.0072, between the limits for two sources and for a single one."""
    even = (torch.arange(1000).double() + 0.5) / 1000
    ranks = {"number": even + 0.063 * (torch.pi * even).sin(), "mean": even, "spread": even, "distance": even}
    assert Calibration({"run": ranks}, 39).calibrated == {"run": False}
    assert Calibration({"run": ranks, "held-out": ranks}, 39).calibrated == {"run": True, "held-out": True}


EVEN = (torch.arange(400).double() + 0.5) / 400


@pytest.mark.parametrize(("power", "word"), [(0.5, "overconfident"), (2.0, "too wide")])
@pytest.mark.parametrize("which", ["number", "mean", "distance"])
def test_a_verdict_names_what_is_least_uniform(which: str, power: float, word: str) -> None:
    """Truths far from the median too often, or too rarely; how many of them are in 90 % intervals is printed."""
    off = 2 * EVEN - 1
    ranks = dict.fromkeys(("number", "mean", "spread", "distance"), EVEN)
    ranks[which] = (off.sign() * off.abs() ** power + 1) / 2
    wrong = Calibration({"run": ranks}, 39)
    inside = (off.abs() ** power <= 0.9).double().mean()
    assert f" {word} (" in wrong.verdict
    assert f" {inside:.0%}" in wrong.verdict
    assert (which in wrong.verdict) == (which != "number")
    exact = dict.fromkeys(ranks, EVEN)
    both = [str(Calibration({"run": exact, "held-out": each}, 39)).count("\n") for each in (exact, ranks)]
    assert both[1] == both[0] + 1, "the sampler is right, and the model isn't"


def test_a_verdict_is_as_precise_as_its_trials_make_it() -> None:
    """36 of 40 truths in 90 % intervals, which could be 76 % to 97 % (Clopper & Pearson)."""
    even = (torch.arange(40).double() + 0.5) / 40
    ends = stats.beta.ppf(0.025, 36, 5), stats.beta.ppf(0.975, 37, 4)
    verdict = Calibration({"run": dict.fromkeys(("number", "mean", "spread", "distance"), even)}, 39).verdict
    assert f"±{100 * max(0.9 - ends[0], ends[1] - 0.9):.0f}" in verdict


def test_bands_of_a_histogram_hold_all_bins_of_uniform_ranks(generator: Generator) -> None:
    outside = 0
    for _ in range(50):
        uniform = torch.rand(4, 300, generator=generator, dtype=torch.float64)
        ranks = dict(zip(("number", "mean", "spread", "distance"), uniform, strict=True))
        report = str(Calibration({"run": ranks}, 39))
        outside += int(next(line for line in report.splitlines() if "outside their bands" in line).split()[-2])
    assert outside <= 3
    figure: Any = plots.calibration({"run": ranks})
    counts, edges, _ = figure.axes[0].patches[-1].get_data()
    assert (len(counts), counts.sum()) == (20, 300)
    assert np.array_equal(counts, np.histogram(ranks["number"], edges)[0])


@pytest.mark.parametrize("hidden", [0.5, ["0", "2"], [True, False, True], np.eye(3, dtype=bool)])
def test_imputation_is_calibrated_where_the_model_is(hidden: Any) -> None:
    """Also by rows with gaps, whose truth nobody knows."""
    rows = gaussian_rows(120, seed=5)
    rows[::3, 0] = rows[::4, 1:] = torch.nan
    found = ncsn.calibrate(conditional_run(THREE), rows, hidden=hidden, n=80, draws=9)
    assert found.calibrated == {"run": True, "held-out": True}


def test_held_out_rows_say_that_a_model_is_wrong() -> None:
    found = ncsn.calibrate(conditional_run(THREE), 3 * gaussian_rows(200, seed=5), n=200, draws=9, truths="held-out")
    assert found.calibrated == {"held-out": False}
    assert "overconfident" in found.verdict
    assert len(found.ranks["held-out"]["number"]) == 200


@pytest.mark.parametrize("particles", [1, pytest.param(64, marks=pytest.mark.slow)])
def test_a_measurement_is_calibrated_of_any_run(particles: int) -> None:
    """By moment matching, which is exact of one Gaussian, and by particles; examples of another width are not."""
    run, matrix = Run.of(GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=20.0, sigma_min=0.02), torch.eye(2)[:1]
    rows = 4 * torch.randn(60, 2, dtype=torch.float64)
    found = ncsn.calibrate(
        run, rows, draws=9, measure=lambda x: x @ matrix.mT, noise_std=1.0, n=60, particles=particles
    )
    assert found.calibrated == {"run": True, "held-out": False}
    # Half of the variance is left, in 9 draws 8/9 of it; draws given other truths would have the prior's.
    assert found.spread["run"] == pytest.approx((8 / 9 / 2) ** 0.5, abs=0.12)


def test_signals_are_calibrated_with_a_gap_in_their_middle() -> None:
    """Two of six numbers: it shows if these are wider than the run's, and it doesn't if the others are."""
    run = SignalRun.of(GaussianScore(0.0, 1.0), (1, 6), sigma_max=20.0, sigma_min=0.02)
    x, middle = torch.randn(40, 1, 6), torch.tensor([1.0, 1.0, 3.0, 3.0, 1.0, 1.0])
    for signals, calibrated in ((x * 3 / middle, True), (x * middle, False)):
        for hidden in (0.3, np.array([[False] * 2 + [True] * 2 + [False] * 2])):
            found = ncsn.calibrate(run, signals, hidden=hidden, n=40, draws=5, truths="held-out")
            assert found.calibrated == {"held-out": calibrated}


TRUTH = gaussian_rows(40, seed=5)
REFUSED: list[tuple[Callable[[Run], object], str]] = [
    (lambda run: ncsn.calibrate(run, n=29), "n is 29"),
    (lambda run: ncsn.calibrate(run, measure=lambda x: x.detach(), noise_std=1.0), "differentiable"),
    (lambda run: ncsn.calibrate(run, measure=FIRST), "noise_std"),
    (lambda run: ncsn.calibrate(run, measure=FIRST, noise_std=1.0, solver_steps=0, n=30, levels=2), "solver_steps"),
    (lambda run: ncsn.calibrate(run, noise_std=1.0, levels=9), "levels, noise_std: only a measurement"),
    (lambda run: ncsn.calibrate(run, hidden=3 * [False]), "nothing"),
    (lambda run: ncsn.calibrate(run, hidden=0.0), "hidden is 0.0"),
    (lambda run: ncsn.calibrate(run, hidden=["0", "x"]), "x; the run's columns are 0, 1, 2"),
    (lambda run: ncsn.calibrate(run, hidden=[True]), "hidden has shape"),
    (lambda run: ncsn.calibrate(run, truths="held-out"), "data"),
    *((lambda run, which=which: ncsn.calibrate(run, truths=which), "truths is") for which in ("nope", None)),
    (lambda run: ncsn.calibrate(run, gaussian_rows(29, seed=5)), "held-out examples found: 29"),
    (lambda run: ncsn.calibrate(run, hidden=[False, False, False], measure=FIRST, noise_std=1.0), "nothing"),
    (lambda run: calibration(gaussian_rows(29, seed=5), gaussian_rows(29, seed=5)[None]), "n is 29"),
    *(
        (lambda _, truth=truth, draws=draws: calibration(truth, draws), why)
        for truth, draws, why in (
            (TRUTH, TRUTH[None, :0], "(1, 0, 3)"),
            (TRUTH, TRUTH[None][:0], "(0, 40, 3)"),
            (TRUTH, TRUTH[None, :, :1], "(1, 40, 1)"),
            (TRUTH, TRUTH[None] / 0, "finite"),
            (TRUTH * torch.nan, TRUTH[None], "finite"),
        )
    ),
]


@pytest.mark.parametrize(("ask", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_cannot_be_calibrated_is_refused(ask: Callable[[Run], object], why: str) -> None:
    with unchecked():
        assert why in refused(lambda: ask(conditional_run(THREE)))


def test_without_held_out_data_only_the_sampler_is_tested(capsys: pytest.CaptureFixture[str]) -> None:
    found = ncsn.calibrate(conditional_run(THREE), n=40, draws=3)
    assert [*found.ranks] == ["run"]
    assert "\n" in capsys.readouterr().err  # and, on a busy machine, how long it will take


def test_the_command_prints_the_verdict_and_draws_it_into_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single one, so that a kill leaves all or nothing, and the same command then isn't refused."""
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: conditional_run(THREE), raising=False)
    line = f"calibrate it --truths run -n 30 --seed 3 --out {tmp_path / 'x.png'}"
    command(line)
    expected, other = (ncsn.calibrate(conditional_run(THREE), truths="run", n=30, seed=seed) for seed in (3, 0))
    printed = capsys.readouterr().out
    assert [str(each) in printed for each in (expected, other)] == [True, False]
    off = 2 * expected.ranks["run"]["number"] - 1
    shares = [f"{(off.abs() <= level).double().mean():>12.1%}" for level in (0.5, 0.8, 0.9, 0.95)]
    assert all(share in line for share, line in zip(shares, str(expected).splitlines()[1:5], strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert "--overwrite" in refusal(capsys, *line.split())


def test_the_command_hides_columns_shares_pixels_and_what_a_file_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, asked = conditional_run(THREE), list[object]()
    run: Run = table
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run, raising=False)

    def calibrate(_: Run, **how: Any) -> Any:
        asked.append(how["hidden"])
        raise ValueError("enough")

    monkeypatch.setattr(ncsn, "calibrate", calibrate, raising=False)
    np.save(tmp_path / "gaps.npy", np.array([[0.5, np.nan, 1.0]]))
    out = tmp_path / "x.png"
    for options in ("", "--hide 0 2", "--hide 0.3", f"--rows {tmp_path / 'gaps.npy'}"):
        refusal(capsys, *f"calibrate it --out {out} {options}".split())
    assert asked[:3] == [None, ("0", "2"), 0.3]
    assert np.asarray(asked[3]).tolist() == [[False, True, False]]
    run = with_transform(table, Columns(tuple(Number(name=str(i), shift=0.0, scale=1.0) for i in range(3))))
    refusal(capsys, *f"calibrate it --out {out} --hide 1".split())  # the name of an array's column is no share
    assert asked[4] == ("1",)
    monkeypatch.undo()
    image = image_run(GaussianScore(0.5, 0.1), (1, 4, 4), sigma_max=20.0, sigma_min=0.01)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: image, raising=False)
    assert "use ncsn.calibrate(run, measure=...) in Python" in refusal(capsys, *f"calibrate it --out {out}".split())
