"""Conditionals of tables: exact scores of mixtures, the mixture that a training starts around, and its masks."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import unchecked
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import ncsn
from ncsn.batching import Batch
from ncsn.kinds import Dataset, dataset_of
from ncsn.kinds.tables import missing
from ncsn.kinds.tables.conditional import ABSENT, Condition, ConditionalModel, Mixture
from ncsn.learn.record import Record
from ncsn.learn.settings import TrainSettings
from ncsn.networks import ResidualMLP
from ncsn.objectives import training_loss

D = 4
ROOT = torch.tensor([[1.2, 0, 0, 0], [0.9, 0.5, 0, 0], [-0.4, 0.3, 0.8, 0], [0.2, -0.6, 0.5, 0.7]])
MEANS = torch.tensor([[0.5, -1.0, 2.0, 0.0], [-1.5, 0.5, 1.0, 1.0], [1.0, 1.0, -1.0, -0.5]])
SHARES = torch.tensor([0.5, 0.3, 0.2])
FULL, DIAGONAL = ROOT @ ROOT.T, torch.tensor([0.3, 1.0, 2.5, 0.7]).diag()
MIXTURES = {
    "one": Mixture(MEANS[:1], torch.ones(1), FULL),
    "three": Mixture(MEANS, SHARES, FULL),
    "one, independent": Mixture(MEANS[:1], torch.ones(1), DIAGONAL),
    "three, independent": Mixture(MEANS, SHARES, DIAGONAL),
}
# t: target, o: observed, a: absent.
ROLES = ["tttt", "ottt", "toot", "ooto", "oooo", "attt", "taot", "aoot", "otaa", "tata", "aaot", "aaaa"]
mixtures = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())
noises = pytest.mark.parametrize("noisy", [False, True], ids=["exact", "noisy"])


class Zero(nn.Module):
    """An untrained network."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.zeros_like(x[:, : x.shape[1] // 4])


class Waves(nn.Module):
    """A network that depends on all that it is shown, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = torch.empty(0)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.shown = x
        parts = x.view(len(x), 4, -1)
        return (parts + parts.roll(1, 2) / 2).sin().sum(1) + c[:, None]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def givens(patterns: list[str], *, seed: int = 0) -> Tensor:
    """Observed values that lie where the mixtures do, NaN for targets, infinity for absent coordinates."""
    marks = [[{"t": torch.nan, "o": 0.0, "a": ABSENT}[letter] for letter in pattern] for pattern in patterns]
    return (torch.tensor(marks) + 1.5 * draw(len(patterns), D, seed=seed)).float()


def problem(noisy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three rows of each pattern: what is given, its noise, where, and at which noise levels."""
    n = 3 * len(ROLES)
    noise = draw(n, seed=1).exp() / 2 if noisy else torch.zeros(n).double()
    return givens(3 * ROLES), noise.float(), 2 * draw(n, D, seed=2), 10 ** (draw(n, seed=3).clamp(-2, 2) / 2)


def log_density(mixture: Mixture, present: Tensor, x: Tensor, std: Tensor) -> Tensor:
    """Of the coordinates that are present, which have noise of so many standard deviations."""
    covariance = (mixture.covariance.double() + (std**2).diag())[present][:, present]
    means = mixture.means.double()[:, present]
    parts: Tensor = MultivariateNormal(means, covariance).log_prob(x[present])  # type: ignore[no-untyped-call]
    return (mixture.shares.double().log() + parts).logsumexp(0)


def exact_score(mixture: Mixture, given: Tensor, noise: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """By the gradient of the log density; other coordinates are points."""
    rows = []
    for values, τ, place, σ in zip(given.double(), noise.double(), x, sigma, strict=True):
        target, observed = values.isnan(), values.isfinite()
        place = place.clone().requires_grad_()
        whole, std = torch.where(observed, values, place), torch.where(observed, τ, σ)
        score = torch.zeros_like(place)
        if target.any():
            (score,) = torch.autograd.grad(log_density(mixture, target | observed, whole, std), place)
        rows.append(torch.where(target, score, (values.where(observed, 0.0) - place.detach()) / σ**2))
    return torch.stack(rows)


def posterior_shares(mixture: Mixture, observed: Tensor, values: Tensor) -> Tensor:
    """Bayes: of each component, given exact values of what is observed."""
    if not observed.any():
        return mixture.shares.double()
    covariance = mixture.covariance.double()[observed][:, observed]
    components = MultivariateNormal(mixture.means.double()[:, observed], covariance)
    logs: Tensor = components.log_prob(values[observed])  # type: ignore[no-untyped-call]
    return (mixture.shares.double().log() + logs).softmax(0)


@noises
@mixtures
def test_an_untrained_network_is_the_exact_score_whatever_is_observed(mixture: Mixture, noisy: bool) -> None:
    given, noise, x, sigma = problem(noisy)
    model = ConditionalModel(Zero(), mixture)
    found = model(x, sigma, model.condition(given, noise if noisy else None))
    assert found.dtype == torch.float64
    for pattern, one, right in zip(3 * ROLES, found, exact_score(mixture, given, noise, x, sigma), strict=True):
        torch.testing.assert_close(one, right, atol=2e-4, rtol=2e-4, msg=f"{pattern}: {one} is not {right}")
    if not noisy:
        torch.testing.assert_close(model(x, sigma, given), found)


@mixtures
def test_the_joint_score_is_that_of_targets_only(mixture: Mixture) -> None:
    """With a network, too; a noise level for all or for each."""
    model, x = ConditionalModel(Waves(), mixture), 2 * draw(5, D, seed=0)
    for sigma in (0.3, torch.tensor(0.3), torch.tensor([0.01, 0.1, 1.0, 3.0, 20.0])):
        everything = torch.full((5, D), torch.nan)
        torch.testing.assert_close(model(x, sigma), model(x, sigma, everything), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model(x, sigma), ConditionalModel(Zero(), mixture)(x, sigma), rtol=1e-2)


@noises
@mixtures
def test_scores_of_targets_depend_on_no_other_coordinate_and_only_theirs_on_the_network(
    mixture: Mixture, noisy: bool
) -> None:
    given, noise, x, sigma = problem(noisy)
    model = ConditionalModel(Waves(), mixture)
    condition = model.condition(given, noise)
    target, observed = given.isnan(), given.isfinite()
    score = model(x, sigma, condition)
    elsewhere = model(torch.where(target, x, 50 * draw(*x.shape, seed=9)), sigma, condition)
    assert torch.equal(score[target], elsewhere[target])
    untrained = ConditionalModel(Zero(), mixture)(x, sigma, condition)
    assert not torch.isclose(score, untrained, rtol=1e-4)[target].any()
    point = (torch.where(observed, given, 0.0).double() - x) / sigma[:, None] ** 2
    assert torch.equal(score[~target], point[~target])


@mixtures
def test_what_a_network_says_is_scaled_by_the_conditional_spread_along_its_axes(mixture: Mixture) -> None:
    """EDM's scale of a residual; where nothing is observed, less as noise grows."""
    patterns = ["tttt", "ottt", "aott", "otto"]
    given, x, sigma = givens(patterns), draw(4, D, seed=1), torch.tensor([0.7, 0.2, 1.0, 3.0]).double()
    model, untrained = ConditionalModel(Waves(), mixture), ConditionalModel(Zero(), mixture)
    added = model(x, sigma, given) - untrained(x, sigma, given)
    value = Waves()(model.network.shown, (sigma.float().log() / 4)).double()
    for i, σ in enumerate(sigma):
        t, o = given[i].isnan(), given[i].isfinite()
        whole, means = mixture.covariance.double(), mixture.means.double()
        gain = torch.linalg.solve(whole[o][:, o], whole[o][:, t]).T
        stds, axes = torch.linalg.eigh(whole[t][:, t] - gain @ whole[o][:, t])
        shares = posterior_shares(mixture, o, given[i].double())
        centres = (means[:, t] - means[:, o] @ gain.T) @ axes
        total = (stds + shares @ (centres - shares @ centres) ** 2).sqrt()
        wide = total**2 + σ**2
        scale = total / (σ * wide.sqrt()) * (1 if o.any() else total**2 / wide)
        expected = axes @ (scale * (axes.T @ value[i, t]))
        torch.testing.assert_close(added[i, t], expected, atol=1e-4, rtol=1e-3)


@noises
@pytest.mark.parametrize("mixture", [MIXTURES["one"], MIXTURES["one, independent"]], ids=["full", "independent"])
def test_the_network_is_shown_residuals_of_regressions_and_what_is_observed(mixture: Mixture, noisy: bool) -> None:
    """Coordinate by coordinate, a regression on all others that are present, noise included, by a linear solve."""
    given, noise, x, sigma = problem(noisy)
    model = ConditionalModel(Waves(), mixture)
    model(x, sigma, model.condition(given, noise))
    residuals, scaled, observed, absent = model.network.shown.double().split(D, 1)  # type: ignore[operator]
    target, known = given.isnan(), given.isfinite()
    off = torch.where(known, given.double(), x) - mixture.means[0].double()
    for row in range(len(x)):
        noises = torch.where(known[row], noise[row].double(), sigma[row])
        covariance = mixture.covariance.double() + (noises**2).diag()
        for i in range(D):
            others = (target | known)[row] & (torch.arange(D) != i)
            expected, spread = torch.zeros(()).double(), covariance[i, i]
            if (target | known)[row, i]:
                weights = torch.linalg.solve(covariance[others][:, others], covariance[others, i])
                left, variance = off[row, i] - weights @ off[row, others], spread - weights @ covariance[others, i]
                expected, alone = left / variance.sqrt(), off[row, i] / spread.sqrt()
                torch.testing.assert_close(scaled[row, i], alone, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(residuals[row, i], expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(absent, given.isinf().double())
    torch.testing.assert_close(observed, known / (1 + 4 * noise.double()[:, None]))
    assert not scaled[given.isinf()].any()


@mixtures
def test_where_noise_is_small_the_network_sees_the_same_whatever_is_observed(mixture: Mixture) -> None:
    x, model = draw(6, D, seed=5), ConditionalModel(Waves(), mixture)
    shown = []
    for pattern in ("tttt", "ottt", "toto", "ooto"):
        marks = torch.tensor([letter == "o" for letter in pattern])
        model(x, 1e-3, torch.where(marks, x, torch.nan).float())
        shown.append(model.network.shown[:, : 2 * D])  # type: ignore[index]
    for other in shown[1:]:
        torch.testing.assert_close(other, shown[0], atol=5e-3, rtol=5e-3)
    model(x, 1.0)
    assert not torch.allclose(model.network.shown[:, : 2 * D], shown[0], atol=0.3)  # type: ignore[index]


@mixtures
def test_a_condition_serves_several_rows_for_each_of_its_examples(mixture: Mixture) -> None:
    """Consecutive ones; each is the same if drawn separately."""
    given, noise, _, _ = problem(True)
    b, n = len(given), 4
    x, sigma = draw(b * n, D, seed=4), draw(b * n, seed=6).exp()
    model = ConditionalModel(Waves(), mixture)
    found = model(x, sigma, model.condition(given, noise))
    alone = [
        model(x[n * i : n * i + n], sigma[n * i : n * i + n], model.condition(given[i : i + 1], noise[i : i + 1]))
        for i in range(b)
    ]
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-4)
    apart = found.view(b, n, D)
    assert not torch.allclose(apart[0, 0], apart[0, 1], rtol=0.1)


class Level:
    """Noise levels of a training, here given."""

    def __init__(self, sigma: Tensor) -> None:
        self.sigma = sigma

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.sigma


@noises
@mixtures
def test_observed_and_absent_cells_have_no_loss(mixture: Mixture, noisy: bool) -> None:
    """So that it equals one that leaves them out, of the exact score."""
    given, noise, clean, sigma = problem(noisy)
    target, observed = given.isnan(), given.isfinite()
    sigma = sigma.clamp(min=0.2)
    x = torch.where(observed, given.double(), clean).masked_fill(given.isinf(), 0.0)
    model = ConditionalModel(Zero(), mixture)
    batch = Batch(x.float(), given=model.condition(given, noise))
    loss = training_loss(Level(sigma.float()), generator=torch.Generator().manual_seed(7))
    losses, levels = loss(model, batch)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).double()
    score = exact_score(mixture, given, noise, x + sigma[:, None] * z, sigma)
    masked = ((sigma[:, None] * score + z) ** 2 * target).sum(1) / 2
    expected = masked * 2 * (sigma**2 + 1) / D
    torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(levels, sigma.float())
    assert bool((losses[~target.any(1)] < 1e-9).all())


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_noise_has_a_width(sigma: float) -> None:
    with unchecked(), pytest.raises(ValueError, match="sigma is"):
        ConditionalModel(Zero(), MIXTURES["one"])(torch.zeros(1, D), sigma)


# What is learned.

SMALL = TrainSettings(channels=(16,), blocks=1, batch_size=64)


def clusters(n: int, d: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (torch.randn(n, d, generator=g) / 3 + 2 * (torch.arange(n) % 2)[:, None]) * torch.tensor([3.0] * d) - 1


@pytest.mark.parametrize("d", [1, 3])
def test_a_loaded_run_has_the_same_scores_to_the_byte(d: int, tmp_path: Path) -> None:
    run = ncsn.fit(clusters(200, d), settings=SMALL, steps=6, device="cpu", quiet=True)
    run.save(tmp_path / "run")
    loaded = ncsn.load(tmp_path / "run", device="cpu")
    assert isinstance(run.score, ConditionalModel)
    assert isinstance(loaded.score, ConditionalModel)
    assert len(run.score.shares) > 1
    x, given = draw(6, d, seed=0).float(), draw(6, d, seed=1).float()
    given[:, 0], given[3:, -1] = torch.nan, ABSENT
    for condition in (None, given):
        assert torch.equal(run.score(x, 0.3, condition), loaded.score(x, 0.3, condition))
    assert torch.equal(run.sample(5, seed=1), loaded.sample(5, seed=1))


@cache
def learned() -> ncsn.Run:
    """Of a correlated pair, a and b, and of y = x² with noise."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1500, 4, generator=g)
    a, b, x = z[:, 0], 0.9 * z[:, 0] + (1 - 0.81) ** 0.5 * z[:, 1], z[:, 2]
    rows = torch.stack([10 * a, b, x, x**2 + 0.2 * z[:, 3]], 1)
    settings = TrainSettings(channels=(64,), blocks=1, batch_size=128)
    with unchecked():  # which takes half of the time
        return ncsn.fit(rows, settings=settings, steps=300, device="cpu", quiet=True)


def drawn(rows: list[list[float]], n: int) -> Tensor:
    """Draws of each row, (n, b, 4)."""
    return learned().impute(torch.tensor(rows), n).draws


NAN = torch.nan


def test_a_conditional_mean_is_the_parabola_not_a_line() -> None:
    """The best line is flat: y = 1, with a standard deviation of √2."""
    places = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    y = drawn([[NAN, NAN, x, NAN] for x in places], 200)[:, :, 3]
    truth = torch.tensor(places).double() ** 2
    error, line = (y.mean(0) - truth).square().mean(), (1 - truth).square().mean()
    assert float(error) < 0.1 * float(line)
    assert float(y.std(0).mean()) < 0.7 < 2**0.5


def test_a_conditional_has_both_modes() -> None:
    x = drawn([[NAN, NAN, NAN, 2.0]], 400)[:, 0, 2]
    assert float((x > 0).double().mean()) == pytest.approx(0.5, abs=0.12)
    assert float(x.abs().mean()) == pytest.approx(2**0.5, abs=0.12)
    assert float((x.abs() - 2**0.5).abs().quantile(0.9)) < 0.65


def test_a_gaussian_pair_has_its_conditionals_in_the_units_of_the_data() -> None:
    rows = drawn([[15.0, NAN, NAN, NAN], [NAN, -1.0, 0.3, NAN]], 400)
    assert float(rows[:, 0, 1].mean()) == pytest.approx(0.9 * 1.5, abs=0.12)
    assert float(rows[:, 0, 1].std()) == pytest.approx((1 - 0.81) ** 0.5, rel=0.25)
    assert float(rows[:, 1, 0].mean()) == pytest.approx(-9, abs=1.5)
    assert float(rows[:, 1, 0].std()) == pytest.approx(10 * (1 - 0.81) ** 0.5, rel=0.25)
    assert torch.equal(rows[:, 1, 1], torch.full((400,), -1.0).double())


# The mixture that a training starts around.

COVARIANCE = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.0], [0.2, 0.0, 1.0]]).double()
TWO = Mixture(torch.tensor([[0.0, 0, 0], [1, 0.5, 1]]).double(), torch.tensor([0.25, 0.75]).double(), COVARIANCE)
ONE = Mixture(TWO.means[1:], torch.ones(1).double(), COVARIANCE)
GAPS = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()


def gaussian(n: int, seed: int, covariance: Tensor = COVARIANCE) -> Tensor:
    rows: Tensor = draw(n, len(covariance), seed=seed) @ torch.linalg.cholesky(covariance).T
    return rows


def by_hand(start: Mixture, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one row: log density times share, completed row and conditional covariance, of each Gaussian."""
    known, gap = ~row.isnan(), row.isnan()
    logs, rows = start.shares.log(), row.repeat(len(start.means), 1)
    spread, whole = torch.zeros_like(start.covariance), start.covariance
    if known.any():
        logs = logs + MultivariateNormal(start.means[:, known], whole[known][:, known]).log_prob(row[known])  # type: ignore[no-untyped-call]
    if gap.any():
        regression = torch.linalg.solve(whole[known][:, known], whole[known][:, gap]).T
        rows[:, gap] = start.means[:, gap] + (row[known] - start.means[:, known]) @ regression.T
        spread[gap.nonzero(), gap.nonzero().T] = whole[gap][:, gap] - regression @ whole[known][:, gap]
    return logs, rows, spread


@pytest.mark.parametrize("at_once", [missing.NUMBERS_AT_ONCE, 5 * 9], ids=["together", "five rows at a time"])
@pytest.mark.parametrize("start", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("gaps", [GAPS, GAPS[:1]], ids=["gaps", "complete"])
def test_a_step_of_em_is_that_of_dempster_laird_and_rubin(
    gaps: Tensor, start: Mixture, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, by PyTorch's own Gaussians: the density of what is known, each Gaussian's regression, and the sums.

    The covariance is shrunk by three rows, and has no bias by the means.
    """
    monkeypatch.setattr(missing, "NUMBERS_AT_ONCE", at_once)
    x = gaussian(24, 0).masked_fill(gaps.repeat(24 // len(gaps), 1), torch.nan)
    logs, rows, spreads = (torch.stack(part) for part in zip(*(by_hand(start, row) for row in x), strict=True))
    constant = (~x.isnan()).sum(1).double() * math.log(2 * math.pi) / 2
    torch.testing.assert_close(missing.log_densities(start, x), logs.logsumexp(1) + constant)
    torch.testing.assert_close(torch.cat([each.complete() for each in missing.e_step(start, x)]), rows)
    belongs = logs.softmax(1)
    means = (belongs[:, :, None] * rows).sum(0) / belongs.sum(0)[:, None]
    off = rows - means
    spread = spreads.sum(0) + torch.einsum("nk,nki,nkj->ij", belongs, off, off)
    found = missing.improve(start, x)
    torch.testing.assert_close(found.means, means)
    torch.testing.assert_close(found.shares, belongs.mean(0))
    torch.testing.assert_close(found.covariance, (spread + 3 * torch.eye(3)) / (24 + 4 - len(start.means)))


@pytest.mark.parametrize("n", [60, 600, 3000])
def test_a_mixture_finds_clusters_and_the_covariance_that_they_share(n: int) -> None:
    """Three rows' worth of unit variance are in it; a cluster may have two Gaussians."""
    middles, within = torch.tensor([[0.0, 0.0], [5.0, 4.0]]), torch.tensor([[0.1, 0.08], [0.08, 0.1]])
    g, label = torch.Generator().manual_seed(1), torch.arange(n + 200) % 3 % 2  # the first has two thirds of the rows
    rows = middles[label] + torch.randn(n + 200, 2, generator=g) @ torch.linalg.cholesky(within).T
    found, again = (missing.fit_mixture(rows[:n], rows[n:]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert len(found.means) > 1
    shrunk = (n * within + 3 * torch.eye(2)) / (n + 3)
    torch.testing.assert_close(found.covariance.float(), shrunk, atol=0.03, rtol=0)
    nearest = torch.cdist(found.means.float(), middles).argmin(1)
    for k, share in enumerate((2 / 3, 1 / 3)):
        shares = found.shares[nearest == k]
        assert float(shares.sum()) == pytest.approx(share, abs=0.01)
        middle = shares / shares.sum() @ found.means[nearest == k]
        torch.testing.assert_close(middle.float(), middles[k], atol=0.2, rtol=0)


def test_where_the_rows_are_gaussian_held_out_ones_leave_one() -> None:
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert len(missing.fit_mixture(rows[:300], rows[300:]).means) == 1


@pytest.mark.parametrize("counts", [(1,), (1, 2)])
def test_a_column_that_is_missing_by_what_another_is_has_the_moments_of_all_rows(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second column the larger half is missing mostly: what is known of it has another mean and correlation."""
    monkeypatch.setattr(missing, "COUNTS", counts)
    x, held_out = gaussian(2000, 1), gaussian(300, 2)
    for rows in (x, held_out):
        rows[rows[:, 0] > 0, 1] = torch.nan
    x[::5, 2] = torch.nan
    means, shares, covariance = missing.fit_mixture(x.float(), held_out.float())
    off = means - shares @ means
    assert x[:, 1].nanmean() < -0.6
    torch.testing.assert_close(shares @ means, torch.zeros(3).double(), atol=0.12, rtol=0)
    torch.testing.assert_close(covariance + (shares[:, None] * off).T @ off, COVARIANCE, atol=0.15, rtol=0)


def test_clusters_are_found_by_rows_that_nearly_all_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three columns of four tell the cluster; what held-out rows have not is not asked for."""
    monkeypatch.setattr(missing, "COUNTS", (1, 2))
    g, label = torch.Generator().manual_seed(0), torch.arange(900) % 3 % 2
    middles, within = torch.tensor([[-2.0, 2, -2, 0], [2, -2, 2, 1]]), torch.tensor([0.5, 0.5, 0.5, 0.2])
    x = middles[label] + within * torch.randn(900, 4, generator=g)
    gaps = torch.rand(900, 4, generator=g) < 0.3
    gaps[700:, 2] = True
    x[gaps] = torch.nan
    found = missing.fit_mixture(x[:700], x[700:])
    order = found.means[:, 0].argsort()
    torch.testing.assert_close(found.means[order], middles.double(), atol=0.1, rtol=0)
    torch.testing.assert_close(found.shares[order], torch.tensor([2 / 3, 1 / 3]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.covariance.diagonal().sqrt(), within.double(), atol=0.06, rtol=0)


@pytest.mark.parametrize(("n", "most"), [(4000, 0.15), (150, 0.7)])
def test_a_wide_table_with_gaps_has_the_covariance_of_its_pairs(n: int, most: float) -> None:
    """Held-out rows lose at most this many nats a column against the truth; independent columns lose 1.2."""
    g, d = torch.Generator().manual_seed(0), 60
    stds = torch.logspace(-0.5, 0.5, d)
    factors = torch.randn(6, d, generator=g).double() * stds
    truth = Mixture(5 * stds[None].double(), torch.ones(1).double(), factors.T @ factors + 0.1 * stds.diag() ** 2)
    rows = truth.means + torch.randn(n + 400, d, generator=g) @ torch.linalg.cholesky(truth.covariance).T.float()
    rows[torch.rand(rows.shape, generator=g) < 0.2] = torch.nan
    found = missing.fit_mixture(rows[:n].float(), rows[n : n + 200].float())
    apart = truth._replace(covariance=truth.covariance.diagonal().diag())
    exact, ours, independent = (missing.log_densities(m, rows[n + 200 :]).mean() / d for m in (truth, found, apart))
    assert exact - independent > 1
    assert 0 < exact - ours < most, (exact - ours, exact - independent)


def test_a_row_with_gaps_of_a_wide_table_is_in_a_batch_several_times(generator: torch.Generator) -> None:
    """The targets of each copy are those of its own pattern; in narrow tables all rows differ."""
    for d, often in ((8, 1), (40, 2), (64, 4)):
        rows = rows_with_gaps(48, d, 0.3)
        batch = next(missing.mask_batches(untrained(d), iter([Batch(rows)]), rows, generator))
        assert isinstance(batch.given, Condition)
        assert (len(batch.x), len(batch.given.target), len(torch.unique(batch.x, dim=0))) == (
            48,
            48 // often,
            48 // often,
        )
        each = batch.given.target.repeat_interleave(often, 0)
        assert bool((batch.x[each] != 0).all())


def test_columns_of_wide_tables_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than so many, a covariance would take longer than the network."""
    monkeypatch.setattr(missing, "NARROW", 20)
    monkeypatch.setattr(missing, "COUNTS", (1,))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, generator=g) * torch.linspace(1, 3, 21) + torch.randn(40, 21, generator=g) + 2
    x[torch.rand(40, 21, generator=g) < 0.2] = torch.nan
    assert float(missing.fit_mixture(x[:30, 1:], x[30:, 1:]).covariance[0, -1]) > 1
    found, known = missing.fit_mixture(x[:30], x[30:]), [column[~column.isnan()] for column in x[:30].T]
    assert found.shares.tolist() == [1]
    torch.testing.assert_close(found.means[0], torch.stack([column.mean() for column in known]))
    variances = torch.stack([column.var(correction=0) for column in known])
    torch.testing.assert_close(found.covariance, variances.diag())


# Masks.


def untrained(d: int) -> ConditionalModel:
    mixture = Mixture(torch.zeros(1, d), torch.ones(1), torch.eye(d))
    return ConditionalModel(ResidualMLP(d, 8, 1, conditional=True), mixture)


def rows_with_gaps(n: int, d: int, share: float = 0.2) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g)
    return x.masked_fill(torch.rand(n, d, generator=g) < share, torch.nan)


def mask(x: Tensor, generator: torch.Generator | int = 0, **how: float) -> tuple[Tensor, Condition]:
    g = generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator)
    batch = missing.draw_masks(untrained(x.shape[1]), x, g, **how)
    assert isinstance(batch.given, Condition)
    return batch.x, batch.given


@pytest.mark.parametrize("noisy", [0.0, 0.5, 1.0])
def test_cells_are_observed_targets_or_missing_and_only_observed_ones_have_noise(noisy: float) -> None:
    x = rows_with_gaps(4000, 5)
    clean, given = mask(x, joint=0.25, noisy=noisy)
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
    assert not off[noise == 0].any()
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
        _, given = mask(x, seed, joint=0.5, noisy=1.0)
        counts |= set(given.observed.sum(1)[160:].tolist())
        columns += given.observed[160:].float().mean(0) / 20
        loudest = max(loudest, float(given.noise.max()))
        marks = torch.cat([given.observed.float(), given.noise], 1)[160:]
        assert len(torch.unique(marks, dim=0)) == missing.PATTERNS / 2
    assert counts == set(range(1, 9))
    assert loudest == missing.MAX_NOISE
    assert float((columns - 0.5).abs().max()) < 0.15, "all alike"


@pytest.mark.parametrize(("rows", "share"), [(100, 0.6), (1000, 0.6), (6000, 0.1), (60_000, 0.01)])
def test_values_of_small_tables_are_mostly_noisy(rows: int, share: float, generator: torch.Generator) -> None:
    assert missing.noisy_share(rows) == pytest.approx(share)
    levels, joint = [], []
    for batch in missing.mask_batches(
        untrained(4), iter(50 * [Batch(torch.randn(100, 4))]), torch.zeros(rows, 4), generator
    ):
        assert isinstance(batch.given, Condition)
        conditional = batch.given.observed.any(1)
        levels.append(batch.given.noise[conditional] > 0)
        joint.append(float((~conditional).double().mean()))
    patterns = 50 * missing.PATTERNS * (1 - missing.JOINT)
    error = math.sqrt(share * (1 - share) / patterns)
    assert float(torch.cat(levels).double().mean()) == pytest.approx(share, abs=4 * error)
    assert set(joint) == {missing.JOINT}


@pytest.mark.parametrize(("n", "d"), [(50, 1), (1, 1), (1, 3), (2, 2)])
def test_of_one_column_everything_is_a_target_and_few_rows_are_enough(n: int, d: int) -> None:
    x = rows_with_gaps(n, d, 0.5 if n > 9 else 0.0)
    clean, given = mask(x, joint=0.2, noisy=1.0)
    assert torch.equal(given.target | given.observed, ~x.isnan())
    assert bool(given.observed.any()) == (d > 1)
    assert d > 1 or torch.equal(clean, x.nan_to_num(0.0))


# Training with gaps.

RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 1000)
GAPPY = np.where(np.stack([np.zeros(1000, bool), RNG.random(1000) < 0.4], 1), np.nan, WHOLE)


def test_what_is_learned_is_nearer_to_the_truth_than_with_means_filled_in() -> None:
    """The correlation is 0.9, and with means 0.9 √0.6."""
    data, small = dataset_of(30 * GAPPY - 200), TrainSettings(channels=(32,), blocks=1, batch_size=128)
    before = data.train.clone()

    def correlation(data: Dataset) -> float:
        with unchecked():  # which takes half of the time
            run = ncsn.fit(data, settings=small, steps=100, quiet=True)
        return float(run.sample(2000, seed=0).T.corrcoef()[0, 1])

    filled = replace(data, train=data.train.nan_to_num(0.0), validation=data.validation.nan_to_num(0.0))
    assert correlation(filled) < 0.75
    assert correlation(data) > 0.85
    assert torch.equal(data.train.nan_to_num(1e3), before.nan_to_num(1e3)), "the user's dataset stays as it is"


def test_a_column_that_no_held_out_row_has_leaves_losses_finite() -> None:
    """Two questionnaires: rows have the third column, or the fourth and the fifth, so the ones with fewer gaps."""
    x = np.random.default_rng(0).standard_normal((300, 5))
    x[:100, 3:] = x[100:, 2] = np.nan
    record = Record()
    run = ncsn.fit(x, settings=TrainSettings(channels=(8,), blocks=1, steps=3), record=record)
    for row in record.rows:
        assert row.parts.keys() == {"joint", "conditionals"}
        assert np.isfinite([row.loss, row.validation_loss, *row.parts.values()]).all()
    assert bool(run.sample(20).isfinite().all())
