"""Scores given some coordinates: a mixture's exact ones around which a network learns, and what it learns of tables."""

from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import unchecked
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import ncsn
from ncsn.conditional import ABSENT, Condition, ConditionalModel, Mixture
from ncsn.learn.settings import TrainSettings
from ncsn.networks import ResidualMLP
from ncsn.objectives import Batch, training_loss

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
PATTERNS = ["tttt", "ottt", "toot", "ooto", "oooo", "attt", "taot", "aoot", "otaa", "tata", "aaot", "aaaa"]
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
    n = 3 * len(PATTERNS)
    noise = draw(n, seed=1).exp() / 2 if noisy else torch.zeros(n).double()
    return givens(3 * PATTERNS), noise.float(), 2 * draw(n, D, seed=2), 10 ** (draw(n, seed=3).clamp(-2, 2) / 2)


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
    for pattern, one, right in zip(3 * PATTERNS, found, exact_score(mixture, given, noise, x, sigma), strict=True):
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
    """Consecutive ones; each by itself is the same."""
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


def test_a_condition_says_what_is_observed() -> None:
    model = ConditionalModel(Zero(), MIXTURES["three"])
    condition = model.condition(torch.tensor([[1.5, torch.nan, ABSENT, -ABSENT]]), torch.tensor([0.5]))
    assert isinstance(condition, Condition)
    assert condition.target.tolist() == [[False, True, False, False]]
    assert condition.observed.tolist() == [[True, False, False, False]]
    assert condition.values.tolist() == [[1.5, 0, 0, 0]]
    assert condition.noise.tolist() == [[0.5]]
    # Bayes: the components' shares by the density of what is observed.
    normal = torch.distributions.Normal(MEANS[:, 0], (FULL[0, 0] + 0.25).sqrt())
    logs = normal.log_prob(torch.tensor(1.5))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(condition.log_shares[0], (SHARES.log() + logs).log_softmax(0))


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_noise_has_a_width(sigma: float) -> None:
    with unchecked(), pytest.raises(ValueError, match="it must be above 0"):
        ConditionalModel(Zero(), MIXTURES["one"])(torch.zeros(1, D), sigma)


def test_weights_go_from_one_model_to_another_of_the_same_mixture() -> None:
    networks = (ResidualMLP(D, 8, 1, True) for _ in range(2))
    first, second = (ConditionalModel(network, MIXTURES["three"]) for network in networks)
    nn.init.normal_(first.network.output.weight)  # type: ignore[union-attr, arg-type]
    second.load_state_dict(first.state_dict())
    x, given = draw(len(PATTERNS), D, seed=0).float(), givens(PATTERNS)
    assert torch.equal(first(x, 0.5, given), second(x, 0.5, given))
    assert torch.equal(first(x, 0.5), second(x, 0.5))


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
    found = torch.empty(n, len(rows), 4).double()
    for index, draws in learned().impute(torch.tensor(rows), n):
        found[:, index] = draws
    return found


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
