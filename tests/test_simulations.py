"""A simulator's prior, several observations, and how sharp posteriors are, on Gaussians with known answers."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas
import pytest
import torch
from helpers import conditional_run, fit_table, refused, unchecked, with_transform
from scipy import stats
from torch import Tensor

import ncsn
from ncsn.data.columns import Columns, Discrete, Number
from ncsn.loading import dataset_of
from ncsn.tables.run import TableRun

# Two parameters with this prior, and two noisy measurements of them.
PRIOR = torch.tensor([[1.0, 0.3], [0.3, 1.0]]).double()
MAP = torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()
NOISE = torch.diag(torch.tensor([0.5, 0.25])).double()
CROSS = PRIOR @ MAP.T
JOINT = torch.cat([torch.cat([PRIOR, CROSS], 1), torch.cat([CROSS.T, MAP @ CROSS + NOISE], 1)])
PAIR = torch.tensor([[1.0, 0.6], [0.6, 1.0]]).double()  # one parameter and one measurement
UPPER = {"0": (0.0, 10.0)}


def columns_of(table: pandas.DataFrame) -> Columns:
    transform = dataset_of(table).transform
    assert isinstance(transform, Columns)
    return transform


def log_prior(rows: Tensor) -> Any:
    return stats.multivariate_normal(np.zeros(2), PRIOR.numpy()).logpdf(rows[:, :2].numpy())


def truncated(x: float) -> Any:
    """The posterior of the parameter of PAIR above 0."""
    mean, std = 0.6 * x, 0.8
    return stats.truncnorm(-mean / std, math.inf, mean, std)


def test_draws_follow_the_posterior_within_the_bounds(caplog: pytest.LogCaptureFixture) -> None:
    run = ncsn.with_prior(conditional_run(PAIR), UPPER)
    with caplog.at_level("INFO", "ncsn"):
        draws = run.sample(2000, given={"1": -0.5}, seed=1)
    assert draws[:, 0].min() >= 0
    assert stats.kstest(draws[:, 0].numpy(), truncated(-0.5).cdf).pvalue > 1e-3
    printed = float(caplog.messages[-1].partition("%")[0]) / 100
    accepted = stats.norm.sf(0.3 / 0.8)
    assert abs(printed - accepted) < 4 * (accepted * (1 - accepted) / 2000) ** 0.5
    with caplog.at_level("INFO", "ncsn"):
        drawn = run.impute([[math.nan, -0.5], [math.nan, 1.0]], 500).draws[..., 0]
    printed = float(caplog.messages[-1].partition("%")[0]) / 100
    assert accepted < printed < (accepted + stats.norm.sf(-0.6 / 0.8)) / 2, "of draws for both rows, most for the first"
    for x, each in zip((-0.5, 1.0), drawn.T, strict=True):
        assert each.min() >= 0
        assert stats.kstest(each.numpy(), truncated(x).cdf).pvalue > 1e-3
    assert run.sample(200)[:, 0].min() >= 0


def test_draws_are_judged_before_they_are_moved_into_the_range_of_training() -> None:
    columns = tuple(Number(name=name, shift=0.0, scale=1.0, bounds=(0.0, 9.0)) for name in ("0", "1"))
    run = ncsn.with_prior(with_transform(conditional_run(PAIR), Columns(columns=columns)), UPPER)
    assert run.sample(200, given={"1": 0.5})[:, 0].min() > 0


def uniform(rows: Tensor) -> Tensor:
    """The log density of UPPER, up to a constant."""
    return torch.where((rows[:, 0] >= 0) & (rows[:, 0] <= 10), 5.0, -math.inf)


@pytest.mark.parametrize("prior", [UPPER, uniform])
def test_densities_are_normalised_where_the_prior_is_positive(prior: Any) -> None:
    run = ncsn.with_prior(conditional_run(PAIR), prior)
    points = torch.tensor([[-0.1], [0.0], [0.5], [2.0]])
    density = run.log_prob(points, given={"1": -0.5}).exp()
    exact = torch.from_numpy(truncated(-0.5).pdf(points[:, 0].numpy()))
    accepted = stats.norm.sf(0.3 / 0.8)
    assert density[0] == 0
    assert ((density / exact)[1:] - 1).abs().max() < 0.01 + 3 * ((1 - accepted) / accepted / 2000) ** 0.5


@pytest.mark.slow
def test_calibration_uses_the_prior() -> None:
    """Truths above 0, whose posteriors are calibrated only if they end there, too."""
    rows = torch.randn(2000, 2, generator=torch.Generator().manual_seed(2)).double() @ torch.linalg.cholesky(PAIR).T
    run, known = conditional_run(PAIR), rows[rows[:, 0] > 0][:300]
    passed = ncsn.calibrate(ncsn.with_prior(run, UPPER), known, hidden=["0"], draws=9).calibrated
    assert passed == {"run": True, "held-out": True}
    assert not ncsn.calibrate(run, known, hidden=["0"], draws=9, truths="held-out").calibrated["held-out"]


@pytest.mark.parametrize(
    ("m", "bounded"), [(1, False), (5, True), *(pytest.param(m, False, marks=pytest.mark.slow) for m in (5, 20))]
)
def test_several_observations_of_a_gaussian_have_a_known_posterior(
    m: int, bounded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Mean and covariance within three standard errors of so many effective draws.

    With a wide box for a prior, it's the product of the conditionals.
    """
    g, theta = torch.Generator().manual_seed(m), torch.tensor([0.7, -1.0]).double()
    x = theta @ MAP.T + torch.randn(m, 2, generator=g).double() @ NOISE.sqrt()
    prior: Any = {"0": (-30, 30), "1": (-30, 30)} if bounded else log_prior
    gain = MAP.T @ torch.linalg.inv(NOISE)
    start = (m if bounded else 1) * torch.linalg.inv(PRIOR)
    exact = torch.linalg.inv(start + m * gain @ MAP)
    with caplog.at_level("INFO", "ncsn"):
        draws = ncsn.with_prior(conditional_run(JOINT), prior).sample(
            2000, given=dict(pandas.DataFrame(x.numpy(), columns=["2", "3"])), seed=m
        )[:, :2]
    n = 2000.0
    if m > 1:
        effective = float(caplog.messages[-1].partition("size of ")[2].partition(", from")[0].replace(",", ""))
        assert 100 < effective <= 2000
        n = 1 / (1 / 2000 + 1 / effective)  # particles are drawn again with replacement
    white = (draws - exact @ gain @ x.sum(0)) @ torch.linalg.inv(torch.linalg.cholesky(exact)).T
    assert (white.mean(0).abs() * n**0.5).max() < 3
    off = torch.cov(white.T) - torch.eye(2)
    assert (off / torch.tensor([[2.0, 1.0], [1.0, 2.0]]).sqrt()).abs().max() * n**0.5 < 3


def test_rows_of_columns_come_back_as_parameters_in_their_units() -> None:
    """A logarithm of the parameter, whose posterior given five observations is a Gaussian of known moments."""
    fields = columns_of(pandas.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["rate", "x"])).fields
    columns = Columns(
        columns=(Number(name="rate", shift=0.0, scale=1.0, log=True), Number(name="x", shift=0.0, scale=1.0)),
        fields=fields,
    )
    run = with_transform(conditional_run(PAIR), columns)
    known = ncsn.with_prior(run, lambda rows: stats.lognorm(1).logpdf(rows["rate"]))
    draws = known.sample(2000, given={"x": [0.1, 0.5, 0.9, 0.2, 0.3]}, seed=1)
    assert [*draws] == ["rate"]
    precision = 1 + 5 * 0.36 / 0.64
    z = (np.log(draws["rate"]) - 0.6 / 0.64 * 2.0 / precision) * precision**0.5
    assert abs(z.mean()) < 3 * (1 / 1000) ** 0.5
    assert abs(z.var() - 1) < 3 * (2 / 1000) ** 0.5


def test_an_observation_unlike_all_simulations_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Both numbers are in range, but not together; a rare observation isn't unlike them yet."""
    close = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.99], [0.5, 0.99, 1.0]]).double()
    run = ncsn.with_prior(conditional_run(close), {"0": (-10, 10)})
    for value in (1.5, 3.5):
        run.sample(2, given={"1": value, "2": value})
    assert "unlike" not in caplog.text
    run.sample(2, given={"1": 1.5, "2": -1.5})
    assert "observation 1 is unlike all simulations" in caplog.text
    caplog.clear()
    run.sample(2, given={"1": [0.5, 1.5], "2": [0.5, -1.5]})
    assert "observation 2 is unlike" in caplog.text
    assert "observation 1 is" not in caplog.text


def test_calibration_says_how_sharp_posteriors_are() -> None:
    """The exact log density of an untrained run in the user's units, which is that of the best Gaussian, too."""
    rows = torch.randn(300, 2, generator=torch.Generator().manual_seed(3)).double() @ torch.linalg.cholesky(PAIR).T
    columns = Columns(columns=(Number(name="0", shift=3.0, scale=10.0), Number(name="1", shift=0.0, scale=1.0)))
    rows[:, 0] = 3 + 10 * rows[:, 0]
    run = with_transform(conditional_run(PAIR), columns)
    found = ncsn.calibrate(run, rows, hidden=["0"], draws=9, truths="held-out")
    exact = stats.norm(3 + 6 * rows[:, 1].numpy(), 8).logpdf(rows[:, 0].numpy()).mean()
    assert f"{exact:.2f} nats; the best Gaussian has {exact:.2f}" in str(found)
    assert abs(found.spread["held-out"] - 0.8) < 0.06
    assert "hardly" not in found.verdict
    alone = ncsn.calibrate(conditional_run(torch.eye(2).double()), rows, hidden=["0"], draws=9, truths="run")
    assert "hardly narrower than the prior" in alone.verdict


def mixed() -> TableRun:
    """A run whose first column has few values."""
    columns = Columns(columns=(Discrete(name="kind", values=(0.0, 1.0)), Number(name="x", shift=0.0, scale=1.0)))
    return with_transform(conditional_run(PAIR), columns)


FAR: Any = {"0": (20.0, 25.0)}
SCALAR: Any = {"0": 3}
NINE = ncsn.with_prior(conditional_run(JOINT), {"0": (-9, 9)})
REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: ncsn.with_prior(conditional_run(PAIR), {"9": (0, 1)}), "columns of numbers are 0, 1"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), {"0": (1, 0)}), "(1, 0)"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), SCALAR), "lower and an upper"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), cast(Any, {"0": (None, 1)})), "(None, 1)"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), cast(Any, {"0": ("a", "b")})), "('a', 'b')"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), {}), "expected bounds"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), lambda rows: 0.0).sample(2), "one number for"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), lambda rows: rows[:, 0] + math.inf).sample(2), "one number for"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), FAR).sample(2, given={"1": 0.0}), "0 of 2,"),
    (lambda: ncsn.with_prior(conditional_run(PAIR), FAR).log_prob([[22.0]], given={"1": 0.0}), "none of 2,000"),
    (lambda: conditional_run(PAIR).sample(2, given={"1": [0.0, 1.0]}), "with_prior"),
    (lambda: NINE.sample(2, given={"2": [0.0, 1.0], "3": 0.0}), "2 (2), 3 (one value)"),
    (lambda: NINE.sample(2, given={"2": [0.0, 1.0], "3": [0.0]}), "lists of the same length"),
    (lambda: NINE.sample(2, given={"3": []}), "3 (0)"),
    (
        lambda: conditional_run(PAIR).sample(2, given=cast(Any, pandas.DataFrame({"1": [0.0]}))),
        "given is 1 0 0.0; expected",
    ),
    (lambda: NINE.sample(2, given={"3": [0.0, 1.0]}), "every parameter"),
    (
        lambda: ncsn.with_prior(replace(conditional_run(JOINT), settings={"hidden": ["0", "1"]}), log_prior).sample(
            2, given={"3": [0.0, 1.0]}
        ),
        "without 2, and parameters are only 0, 1",
    ),
    (lambda: ncsn.with_prior(mixed(), lambda rows: 0 * rows[:, 0]).sample(2, given={"x": [0.0, 1.0]}), "categories"),
    (lambda: ncsn.with_prior(cast(Any, ncsn.load("mnist")), {"0": (0, 1)}), "images"),
]


@pytest.mark.parametrize(("call", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_what_has_no_posterior_is_refused(call: Callable[[], object], why: str) -> None:
    with unchecked():
        assert why in refused(call)


def test_too_few_effective_particles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncsn.tables.simulations.MIN_EFFECTIVE", 10**4)
    run = ncsn.with_prior(conditional_run(PAIR), {"0": (-9, 9)})
    assert "particles are effective" in refused(lambda: run.sample(2, given={"1": [0.0, 1.0]}))


def test_a_saved_run_says_that_its_prior_is_not(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = fit_table(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), steps=2)
    with caplog.at_level("INFO", "ncsn"):
        ncsn.with_prior(run, {"0": (0, 9)}).save(tmp_path / "run")
    assert "with_prior" in caplog.text
    assert float(ncsn.load(tmp_path / "run").sample(100)[:, 0].min()) < 0
