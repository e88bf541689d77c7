"""The page to show a mathematician: what there is on the left, in registries, and on the right the laws of all of it.

A new distribution, score, sampler, schedule, operator, transform, dataset or run is tested by one line in a registry.
Everything is compared with closed forms of mixtures of Gaussians (``Truth``), numpy, scipy and quadrature.
"""

import json
import math
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
import torch
from helpers import Patch, conditional_run, table_run, z_score
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import pictures, tiny
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

import ncsn
from ncsn import samplers as ways
from ncsn.adapters import Prediction
from ncsn.data.columns import Columns, learn_columns
from ncsn.data.dataset import Dataset
from ncsn.data.transforms import Depth, Scale, Transform
from ncsn.distributions import TOYS, Distribution, Empirical, GaussianMixture
from ncsn.loading import dataset_of
from ncsn.noise import Ladder, LogNormal, LogUniform, Proposal
from ncsn.objectives import dsm, exact, fisher, posterior_dsm, ssm
from ncsn.posteriors import blurred, downsampled, masked, posterior
from ncsn.sampling import SAMPLERS, Sampling
from ncsn.score import Score, tweedie
from ncsn.settings import Reading

few = settings(max_examples=5, derandomize=True, deadline=None)


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def for_all(registry: Iterable[str]) -> pytest.MarkDecorator:
    """A test of all that is registered."""
    return pytest.mark.parametrize("name", registry)


class Truth(NamedTuple):
    """Σ_k w_k N(μ_k, C), in closed form and in double precision: (k, d), (d, d) and (k,)."""

    means: Tensor
    covariance: Tensor
    weights: Tensor

    def pulls_and_logs(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """(C + σ²)⁻¹(x − μ_k), and log w_k N(x; μ_k, C + σ²)."""
        levels = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        total = self.covariance + levels[:, None, None] ** 2 * torch.eye(len(self.covariance)).double()
        off = x.double()[:, None] - self.means
        pull = torch.linalg.solve(total, off.mT).mT
        return pull, self.weights.log() - (off * pull).sum(2) / 2 - (2 * math.pi * total).logdet()[:, None] / 2

    def log_prob(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return self.pulls_and_logs(x, sigma)[1].logsumexp(1)

    def mean(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x₀ | x] by Bayes' rule."""
        pull, logs = self.pulls_and_logs(x, sigma)
        means_given_x = x.double()[:, None] - pull * torch.as_tensor(sigma).double().reshape(-1, 1, 1) ** 2
        return (logs.softmax(1)[..., None] * means_given_x).sum(1)

    def score(self, x: Tensor, sigma: float | Tensor, /) -> Tensor:
        pull, logs = self.pulls_and_logs(x, sigma)
        score: Tensor = -(logs.softmax(1)[..., None] * pull).sum(1).to(x)
        return score

    def sample(self, n: int, seed: int = 0) -> Tensor:
        which = torch.multinomial(self.weights, n, True, generator=seeded(seed))
        root = torch.linalg.cholesky(self.covariance + 1e-12 * torch.eye(len(self.covariance)).double())
        drawn: Tensor = self.means[which] + normal(n, len(root), seed=seed + 1) @ root.T
        return drawn

    @property
    def variance(self) -> Tensor:
        """Of each coordinate."""
        middle = self.weights @ self.means
        return self.weights @ (self.means - middle) ** 2 + self.covariance.diagonal()

    def waves(self, frequencies: Tensor) -> Tensor:
        """E exp(i ωᵀx) for each frequency ω, (f,)."""
        decay = (-((frequencies @ self.covariance) * frequencies).sum(1) / 2).exp()
        waves: Tensor = decay * (torch.exp(1j * (frequencies @ self.means.T)) @ self.weights.to(torch.complex128))
        return waves

    def given(self, a: Tensor, y: Tensor, noise: float | Tensor) -> "tuple[Truth, float]":
        """The posterior given y = A x + N(0, noise²), and the log evidence; noise of all numbers of y, or of each."""
        total = a @ self.covariance @ a.T + torch.as_tensor(noise).double() ** 2 * torch.eye(len(a)).double()
        gain = self.covariance @ a.T @ torch.linalg.inv(total)
        off = y.double() - self.means @ a.T
        logs = self.weights.log() - (off * torch.linalg.solve(total, off.T).T).sum(1) / 2
        evidence = logs.logsumexp(0) - (2 * math.pi * total).logdet() / 2
        rest = self.covariance - gain @ a @ self.covariance
        return Truth(self.means + off @ gain.T, rest, logs.softmax(0)), float(evidence)


def agree(samples: Tensor, truth: Truth, bias: float = 0.0, n: float | None = None) -> None:
    """Whether samples have the mean of each of twelve waves of the truth, within chance; ``n``: of effective ones."""
    x = samples.double().flatten(1)
    frequencies = normal(12, x.shape[1], seed=5) / truth.variance.sqrt() / x.shape[1] ** 0.5
    error = torch.exp(1j * (x @ frequencies.T)).mean(0) - truth.waves(frequencies)
    assert float(error.abs().max()) < bias + 3.7 / math.sqrt(n or len(x))  # |error|² n ~ an exponential, at most


# Distributions and scores.

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.5], [2.0, 1.0]]).double(), 0.5, torch.tensor([0.3, 0.7]).double())
EXAMPLES, CLASSES = normal(12, 3, seed=7), torch.arange(12) % 3
EMPIRICAL = Empirical(EXAMPLES, CLASSES, dtype=torch.float64)


def points(x: Tensor) -> Truth:
    return Truth(x, torch.zeros(x.shape[1], x.shape[1]).double(), torch.full((len(x),), 1 / len(x)).double())


def mixture(distribution: Any) -> Truth:
    means = distribution.means.double()
    return Truth(means, distribution.std**2 * torch.eye(means.shape[1]).double(), distribution.weights.double())


def ring(radius: float, std: float) -> Truth:
    """By quadrature: points at equal angles, and at the nodes of Gauss and Hermite along them."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(25)
    angle = torch.arange(512).double() * (2 * math.pi / 512)
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    places = (radius + std * torch.from_numpy(nodes))[:, None, None] * direction
    return points(places.flatten(0, 1))._replace(
        weights=torch.from_numpy(weights / weights.sum()).repeat_interleave(512) / 512
    )


DISTRIBUTIONS: dict[str, tuple[Distribution, Truth]] = {
    "mixture": (MIXTURE, mixture(MIXTURE)),
    "no width": (GaussianMixture(EXAMPLES, 0.0), points(EXAMPLES)),
    "examples": (EMPIRICAL, points(EXAMPLES)),
    "circle": (TOYS["circle"](), ring(5.0, 0.1)),
    **{name: (TOYS[name](), mixture(TOYS[name]())) for name in TOYS if name != "circle"},
}

TRUTH = mixture(MIXTURE)
ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def predict(kind: Prediction) -> Callable[[Tensor, Tensor], Tensor]:
    """What an exact model of TRUTH predicts at times between 0 and 999 of x_t = √ᾱ x₀ + √(1 − ᾱ) z."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        sigma = torch.from_numpy(np.exp(np.interp(t, np.arange(1000), (1 / ALPHAS - 1).sqrt().log())))
        alpha, beta = 1 / (1 + sigma[:, None] ** 2).sqrt(), (1 / (1 + 1 / sigma[:, None] ** 2)).sqrt()
        clean = TRUTH.mean(x / alpha, sigma)
        noise = (x - alpha * clean) / beta
        return {"epsilon": noise, "v_prediction": alpha * noise - beta * clean, "sample": clean}[kind]

    return network


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[z − x₀ | x_t] of x_t = (1 − t) x₀ + t z."""
    clean = TRUTH.mean(x / (1 - t[:, None]), t / (1 - t))
    return (x - (1 - t[:, None]) * clean) / t[:, None] - clean


class Azula:
    """The exact denoiser of TRUTH with azula's interface."""

    def __init__(self, schedule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        alpha, std = (scale.expand(len(x))[:, None] for scale in self.schedule(t))
        return SimpleNamespace(mean=TRUTH.mean(x / alpha, (std / alpha)[:, 0]))


ROOT = normal(4, 4, seed=8)
GAUSSIAN = Truth(normal(1, 4, seed=9), ROOT @ ROOT.T / 2 + 0.1 * torch.eye(4), torch.ones(1).double())


def given_two_numbers(x: Tensor, sigma: float | Tensor, /) -> Tensor:
    """The score of the last two of four numbers, by an untrained network of every conditional."""
    model = table_run({"mean": GAUSSIAN.means[0], "covariance": GAUSSIAN.covariance}).conditionals
    row = torch.tensor([[0.7, -0.4, torch.nan, torch.nan]])
    score = model.numbers(torch.cat([torch.zeros_like(x), x], 1), sigma, model.condition(row))
    return score[:, 2:]


def rest_given(truth: Truth, known: list[float]) -> Truth:
    """The numbers after the known ones."""
    k = len(known)
    whole, _ = truth.given(torch.eye(len(truth.covariance)).double()[:k], torch.tensor(known), 1e-9)
    return Truth(whole.means[:, k:], whole.covariance[k:, k:], whole.weights)


EDM = ncsn.ScoreModel(ncsn.MLP(2, 8, 1), torch.tensor([0.3, -1.0]), 1.7)
KNOWN = torch.tensor([True, False, False, True])


def masked_posterior(x: Tensor, sigma: float | Tensor, /) -> Tensor:
    y = torch.tensor([[0.5, -1.0]]).to(x).expand(len(x), 2)
    return posterior(GAUSSIAN.score, masked(KNOWN), y, 0.4, steps=2)(x, sigma)


# Name: the score, the distribution that it is of, and the relative error that its arithmetic leaves.
SCORES: dict[str, tuple[Score, Truth, float]] = {
    **{name: (score, truth, 1e-6) for name, (score, truth) in DISTRIBUTIONS.items()},
    "one class": (lambda x, s: EMPIRICAL(x, s, torch.full((len(x),), 2)), points(EXAMPLES[CLASSES == 2]), 1e-6),
    "no class": (lambda x, s: EMPIRICAL(x, s, torch.full((len(x),), -1)), points(EXAMPLES), 1e-6),
    "unguided": (ncsn.add_guidance(MIXTURE, EDM, 1.0), TRUTH, 1e-6),
    "guided by itself": (ncsn.add_guidance(MIXTURE, MIXTURE, 3.0), TRUTH, 1e-6),
    "an untrained network": (
        EDM,
        Truth(EDM.data_mean[None].double(), 1.7**2 * torch.eye(2).double(), torch.ones(1).double()),
        1e-4,
    ),
    "a denoiser": (ncsn.from_denoiser(TRUTH.mean), TRUTH, 1e-8),
    "a noise predictor": (ncsn.from_noise_predictor(lambda x, s: (x - TRUTH.mean(x, s)) / s[:, None]), TRUTH, 1e-8),
    "a flow": (ncsn.from_flow(velocity), TRUTH, 1e-8),
    **{
        k: (ncsn.from_variance_preserving(predict(k), ALPHAS, prediction_type=k), TRUTH, 1e-6)
        for k in ("epsilon", "v_prediction", "sample")
    },
    "azula's rectified flow": (ncsn.from_azula(Azula(lambda t: (1 - t, t))), TRUTH, 1e-6),
    "azula's cosines": (ncsn.from_azula(Azula(lambda t: ((1.57 * t).cos(), (1.57 * t).sin()))), TRUTH, 1e-6),
    "given two numbers": (given_two_numbers, rest_given(GAUSSIAN, [0.7, -0.4]), 1e-3),
    "a posterior": (
        masked_posterior,
        GAUSSIAN.given(torch.eye(4).double()[KNOWN], torch.tensor([0.5, -1.0]), 0.4)[0],
        1e-8,
    ),
}


def shaped(score: Score) -> Score:
    """The score of examples with other axes."""
    return lambda x, sigma: score(x.flatten(1), sigma).view_as(x)


def places(truth: Truth, sigma: float | Tensor, n: int = 6) -> Tensor:
    """Points where noised data lie, and around them."""
    return truth.sample(n, seed=3) + 1.5 * torch.as_tensor(sigma).double().reshape(-1, 1) * normal(
        n, truth.means.shape[1], seed=4
    )


@for_all(SCORES)
@pytest.mark.parametrize("sigma", [0.6, torch.tensor(2.0), torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0, 30.0])])
def test_a_score_is_the_gradient_of_the_log_density_and_gives_the_mean(name: str, sigma: float | Tensor) -> None:
    """By automatic differentiation; and Tweedie's formula by Bayes' rule."""
    score, truth, close = SCORES[name]
    x = places(truth, sigma).requires_grad_()
    (gradient,) = torch.autograd.grad(truth.log_prob(x, sigma).sum(), x)
    actual = score(x.detach(), sigma)
    torch.testing.assert_close(actual, gradient, rtol=close, atol=close * float(1 + gradient.abs().max()))
    mean = truth.mean(x.detach(), sigma)
    torch.testing.assert_close(
        tweedie(score, x.detach(), sigma), mean, rtol=10 * close, atol=10 * close * float(1 + mean.abs().max())
    )


@for_all([name for name in SCORES if name != "a posterior"])  # which has no second derivatives
def test_densities_along_the_flow_are_exact(name: str) -> None:
    """But for what is left of the data at the end, see ``ncsn.log_prob``."""
    score, truth, _ = SCORES[name]
    x = places(truth, 0.6, 4)
    left = 10 * float(truth.variance.max()) / 150**2
    densities = ncsn.log_prob(
        shaped(score), x[:, None], sigma_max=150, sigma_min=0.6, mean=truth.weights @ truth.means, tolerance=1e-5
    )
    torch.testing.assert_close(densities.log_prob, truth.log_prob(x, 0.6), rtol=0, atol=1e-3 + left)


@for_all([name for name in DISTRIBUTIONS if name not in ("no width", "examples")])  # which have no density
def test_surprises_add_up_to_the_log_density(name: str) -> None:
    """By denoising alone, within four standard errors; and so do their parts."""
    distribution, truth = DISTRIBUTIONS[name]
    x = places(truth, 0.3, 8)
    parts = ncsn.surprise(
        shaped(distribution), x.repeat(20, 1)[:, None], sigma_max=200, sigma_min=0.01, generator=seeded(1)
    )
    error = parts.standard_error.view(20, 8).square().mean(0).sqrt() / 20**0.5
    off = parts.total.view(20, 8).mean(0) + distribution.log_prob(x, torch.tensor(0.01))
    assert float(error.max()) < 0.5
    assert bool((off.abs() < 4 * error + 0.02).all())
    for sums in (parts.where.sum((1, 2)), parts.at_level.sum(1) + parts.gaussian):
        torch.testing.assert_close(sums, parts.total)


@for_all(DISTRIBUTIONS)
def test_a_distribution_draws_from_its_density(name: str) -> None:
    """And knows it, at one noise level for all or one for each."""
    distribution, truth = DISTRIBUTIONS[name]
    agree(distribution.sample(4000, generator=seeded(1)), truth)
    for sigma in (0.5, torch.linspace(0.3, 9, 6)):
        x = places(truth, sigma)
        torch.testing.assert_close(distribution.log_prob(x, sigma), truth.log_prob(x, sigma), rtol=1e-6, atol=1e-6)


# Objectives: the expected loss of s + g is above that of the true score s by σ²|g|²/2, for every g.

OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "dsm": dsm,
    "ssm": ssm,
    "exact": exact,
    "posterior_dsm": partial(posterior_dsm, data_score=TRUTH.score, above=0.8),
}
DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "along": lambda x: x,
    "across": lambda x: x.flip(1).sin(),
    "outwards": lambda x: (x**2).tanh(),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_minimiser_is_the_score(name: str, direction: str) -> None:
    objective, off = OBJECTIVES[name], DIRECTIONS[direction]
    x, sigma = (
        TRUTH.sample(20_000),
        torch.linspace(0.4, 2.0, 20_000)[torch.randperm(20_000, generator=seeded(6))].double(),
    )
    loss = partial(objective, x=x, sigma=sigma)
    right = loss(TRUTH.score, generator=seeded(2)).detach()
    wrong = loss(lambda y, s: TRUTH.score(y, s) + off(y), generator=seeded(2)).detach()
    noisy = x + sigma[:, None] * torch.randn(x.shape, generator=seeded(2), dtype=torch.float64)
    excess = fisher(lambda y, s: TRUTH.score(y, s) + off(y), TRUTH.score, noisy, sigma)
    torch.testing.assert_close(excess, off(noisy).square().sum(1) / 2)
    assert abs(z_score(wrong - right - sigma**2 * off(noisy).square().sum(1) / 2, 0)) < 4


# Noise levels.

LADDERS: dict[str, tuple[Ladder, Callable[[Tensor], Tensor]]] = {  # and what descends in equal steps
    "geometric": (ncsn.Geometric(8.0, 0.1, 9), torch.log),
    "karras": (ncsn.Karras(8.0, 0.1, 9), lambda sigma: sigma ** (1 / 7)),
}
PROPOSALS: dict[str, tuple[Proposal, Any]] = {  # and the distribution of ln σ
    "log-normal": (LogNormal(-0.4, 1.2, 1e9, 1e-9), stats.norm(-0.4, 1.2)),
    "log-uniform": (LogUniform(5.0, 0.1), stats.uniform(math.log(0.1), math.log(50))),
    "geometric": (ncsn.Geometric(8.0, 0.5, 5000), stats.uniform(math.log(0.5), math.log(16))),
}


@for_all(LADDERS)
def test_a_ladder_descends_in_equal_steps_and_in_any_unit(name: str) -> None:
    ladder, scale = LADDERS[name]
    sigmas = ladder.sigmas()
    steps = scale(sigmas.double()).diff()
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([8.0, 0.1]))
    torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-4, atol=1e-6)
    larger = type(ladder)(80.0, 1.0, 9)
    torch.testing.assert_close(larger.sigmas(), 10 * sigmas)


@for_all(PROPOSALS)
def test_a_proposal_draws_from_its_distribution(name: str) -> None:
    proposal, distribution = PROPOSALS[name]
    drawn = proposal.sample(2000, generator=seeded(0)).double().log().numpy()
    assert stats.kstest(drawn, distribution.cdf).pvalue > 1e-3
    order = stats.spearmanr(drawn, np.arange(2000)).pvalue
    assert order > 1e-3, "in random order"


# Samplers.


def impulses(sampling: Sampling, truth: Truth, patch: Patch) -> tuple[float, float]:
    """Mean and variance of a sampler of a Gaussian before it denoises, without chance.

    All steps are linear: the variance is a sum of squares of what a unit of each of the random numbers changes.
    """
    drawn = sampling.count * max(sampling.steps, 1) + 2
    x, calls = torch.full((drawn + 1, 1), float(truth.means)).double(), iter(range(drawn))

    def unit(like: Tensor, _: object) -> Tensor:
        return torch.zeros_like(like).index_fill(0, torch.tensor(next(calls)), 1.0)

    top = sampling.sigma_min if sampling.sampler == "langevin" else sampling.sigma_max
    x[next(calls)] += float(truth.covariance + top**2) ** 0.5
    with patch.context() as inner:
        inner.setattr(ways, "noise_like", unit)
        *_, last = (step for step in sampling.follow(truth.score, x, generator=Generator()) if step.sigma)
    assert last.sigma == pytest.approx(sampling.sigma_min)
    return float(last.x[-1]), float((last.x - last.x[-1]).square().sum())


# The order at which its variance becomes exact as steps double, from so many levels on.
ORDERS: dict[str, tuple[int, int]] = {
    "annealed": (1, 4),
    "ncsn": (1, 4),
    "ncsnv2": (1, 4),
    "langevin": (1, 1),
    "consistent": (1, 60),
    "euler": (1, 60),
    "heun": (2, 20),
    "edm": (2, 200),
    "dpmpp": (2, 80),
    "dpmpp-sde": (2, 40),
}


@for_all(ORDERS)
def test_a_sampler_has_the_mean_and_variance_of_a_gaussian_and_converges_at_its_order(
    name: str, monkeypatch: Patch
) -> None:
    order, levels = ORDERS[name]
    spec = SAMPLERS[name]
    truth = Truth(torch.tensor([[0.7]]).double(), torch.tensor([[0.04]]).double(), torch.ones(1).double())
    errors = []
    for finer in (1, 2):
        how: dict[str, Any] = {"levels": levels * finer}
        if spec.langevin:
            how = {"levels": levels, "steps": 100 * finer, "eps": 0.02 / finer}
        sampling = Sampling.of("euler", 2.0, 0.1).but(sampler=name, **how)
        mean, variance = impulses(sampling, truth, monkeypatch)
        assert mean == pytest.approx(0.7, abs=1e-5)
        errors.append(abs(variance / 0.05 - 1))
    assert errors[1] < 0.06
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_every_sampler_has_an_order() -> None:
    assert {*ORDERS, "pc"} == {*SAMPLERS}, "steps of the corrector are not linear"


@for_all(SAMPLERS)
def test_a_sampler_gives_modes_their_weights(name: str) -> None:
    """Two modes with shares of 0.3 and 0.7."""
    n, truth = (
        2000,
        Truth(
            torch.tensor([[-3.0], [3.0]]).double(), torch.tensor([[0.36]]).double(), torch.tensor([0.3, 0.7]).double()
        ),
    )
    sampling = Sampling.of("euler", 8.0, 0.3).but(sampler=name)
    if SAMPLERS[name].langevin:
        sampling = sampling.but(levels=1 if name == "langevin" else 20, steps=40, eps=0.03)
    top = 0.3 if name == "langevin" else 8.0
    x = truth.sample(n) + top * normal(n, 1, seed=2)
    *_, last = (step for step in sampling.follow(truth.score, x, generator=seeded(3)) if step.sigma)
    agree(last.x, truth._replace(covariance=truth.covariance + 0.09), bias=0.02)
    assert float((last.x > 0).double().mean()) == pytest.approx(0.7, abs=4 * (0.21 / n) ** 0.5 + 0.01)


FLOWS = {"euler": (ways.euler, 1), "heun": (ways.heun, 2), "dpmpp": (ways.dpm_solver, 2)}


@for_all(FLOWS)
def test_a_sampler_without_noise_follows_the_flow_at_its_order(name: str) -> None:
    """That of a mixture, which scipy solves."""
    sampler, order = FLOWS[name]
    x, counts = 3 * normal(3, 2), [80, 160, 320]

    def slope(sigma: float, state: np.ndarray) -> np.ndarray:
        return -sigma * TRUTH.score(torch.from_numpy(state).view(3, 2), sigma).numpy().ravel()

    end = solve_ivp(slope, (3.0, 0.1), x.numpy().ravel(), rtol=1e-10, atol=1e-10).y[:, -1]
    errors = []
    for levels in counts:
        sigmas = torch.linspace(math.log(3.0), math.log(0.1), levels, dtype=torch.float64).exp()
        *_, last = sampler(TRUTH.score, x, sigmas, denoise=False)
        errors.append(float((last.x - torch.from_numpy(end).view(3, 2)).norm()))
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.15)


# Measurements, and posteriors given them.

SHAPE = (2, 2, 3)
MASK = (torch.arange(12) % 3 > 0).view(SHAPE)
FORMS = torch.tensor([[1.0, 0.3], [-0.4, 1.0], [0.7, 0.7]])


class Operator(NamedTuple):
    """A measurement, the same in numpy for one example, the shape of examples, and the noise of what is measured."""

    measure: Callable[[Tensor], Tensor]
    reference: Callable[[np.ndarray], Any]
    shape: tuple[int, ...]
    noise: float | Tensor = 0.5


OPERATORS = {
    "known pixels": Operator(masked(MASK), lambda x: x[MASK.numpy()], SHAPE),
    "smaller": Operator(downsampled(2), lambda x: x[:, :, :2].mean((1, 2)), SHAPE),
    "blurred": Operator(
        blurred(0.8), lambda x: gaussian_filter(x, (0, 0.8, 0.8), mode="constant", truncate=2.5), SHAPE
    ),
    "wide blur": Operator(blurred(3.0), lambda x: gaussian_filter(x, (0, 3, 3), mode="constant", truncate=3.0), SHAPE),
    "itself": Operator(torch.clone, np.copy, (2,)),
    "the first": Operator(lambda x: x[:, 0], lambda x: x[0], (2,)),
    "the second, precisely": Operator(lambda x: 3 - x[:, 1:], lambda x: 3 - x[1:], (2,), 0.005),
    "forms": Operator(
        lambda x: x @ FORMS.T.to(x) + 7,
        lambda x: FORMS.double().numpy() @ x + 7,
        (2,),
        torch.tensor([0.5, 0.3, 0.8]),
    ),
    "three of the same": Operator(lambda x: x[:, None].expand(-1, 3, -1), lambda x: np.stack([x] * 3), (2,)),
}


def matrix_of(operator: Operator) -> tuple[Tensor, Tensor]:
    """A, (m, d), and the constant, (m,), by numpy."""
    units = np.eye(math.prod(operator.shape)).reshape(-1, *operator.shape)
    constant = np.ravel(operator.reference(np.zeros(operator.shape)))
    columns = [np.ravel(operator.reference(unit)) - constant for unit in units]
    return torch.from_numpy(np.stack(columns, 1)), torch.from_numpy(constant)


@for_all(OPERATORS)
def test_an_operator_is_its_matrix_and_its_adjoint_the_transpose(name: str) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩."""
    operator = OPERATORS[name]
    a, constant = matrix_of(operator)
    x = normal(3, *operator.shape).requires_grad_()
    y = operator.measure(x)
    torch.testing.assert_close(y.reshape(3, -1), x.flatten(1) @ a.T + constant, rtol=1e-5, atol=1e-6)
    u = torch.randn(y.shape, generator=seeded(1), dtype=torch.float64)
    (adjoint,) = torch.autograd.grad(y, x, u)
    torch.testing.assert_close(adjoint.flatten(1), u.reshape(3, -1) @ a, rtol=1e-5, atol=1e-6)


def prior_of(operator: Operator) -> Truth:
    """A mixture of correlated Gaussians in the plane, or one of images."""
    d = math.prod(operator.shape)
    root = normal(d, d, seed=11) / d**0.5
    covariance = root @ root.T + 0.1 * torch.eye(d)
    if d == 2:
        return Truth(
            torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]]).double(),
            covariance,
            torch.tensor([0.2, 0.5, 0.3]).double(),
        )
    return Truth(normal(1, d, seed=12), covariance, torch.ones(1).double())


@for_all(OPERATORS)
def test_the_posterior_of_a_gaussian_has_the_exact_score(name: str) -> None:
    operator, sigma = OPERATORS[name], torch.tensor([0.3, 0.7, 2.0])
    a, constant = matrix_of(operator)
    prior = prior_of(operator)
    prior = prior._replace(means=prior.means[:1], weights=torch.ones(1).double())
    x, y = normal(3, len(a.T), seed=1), normal(3, len(a), seed=2) + constant
    shape = operator.measure(torch.zeros(3, *operator.shape)).shape
    score = posterior(shaped(prior.score), operator.measure, y.view(shape), 0.4, steps=len(a))
    exact = [prior.given(a, y[i] - constant, 0.4)[0].score(x[i : i + 1], float(sigma[i])) for i in range(3)]
    torch.testing.assert_close(
        score(x.view(3, *operator.shape), sigma).flatten(1), torch.cat(exact), rtol=1e-4, atol=1e-4
    )


@for_all(OPERATORS)
def test_particles_draw_from_the_posterior_and_know_the_evidence(name: str) -> None:
    """Of a mixture whose modes compete, or of a Gaussian of images."""
    operator = OPERATORS[name]
    n = 400 if operator.shape == (2,) else 160
    a, constant = matrix_of(operator)
    prior = prior_of(operator)
    y = (prior.sample(1, seed=4) @ a.T + 0.5 * normal(1, len(a), seed=5))[0]
    truth, evidence = prior.given(a, y, operator.noise)
    run = ncsn.Run.of(shaped(prior.score), operator.shape, sigma_max=40.0, sigma_min=0.02)
    shape = operator.measure(torch.zeros(1, *operator.shape)).shape[1:]
    conditioned = run.posterior(operator.measure, (y + constant).view(shape), noise_std=operator.noise)
    steps = conditioned.steps(n, seed=1, levels=n // 8)
    x, weight = steps.last(), steps.weight
    agree(x, truth, bias=0.03, n=min(n, steps.effective))
    assert weight is not None
    assert abs(float(weight.log_evidence) - evidence) < 4 * float(weight.standard_error) + 0.02


# Transforms.

RNG = np.random.default_rng(0)
ROWS = np.stack([3 * RNG.standard_normal(400) + 50, np.exp(2 * RNG.standard_normal(400)), RNG.beta(0.5, 0.5, 400)], 1)
GRID = np.stack(
    [RNG.poisson(30, 400) / 1.0, RNG.integers(0, 2, 400) / 1.0, np.where(RNG.random(400) < 0.3, 0, ROWS[:, 0])], 1
)


def columns_of(rows: np.ndarray) -> Transform:
    return learn_columns(torch.from_numpy(rows), ["a", "b", "c"])


# Examples in the user's units, and whether they have a density.
TRANSFORMS: dict[str, tuple[Transform, Tensor, bool]] = {
    "identity": (Transform(), normal(9, 2), True),
    "depth": (Depth(), torch.rand(9, 1, 3, 3, generator=seeded(0)).double(), True),
    "signals": (
        Scale(shift=(1e3, 0.5), scale=(20.0, 1e-3)),
        torch.tensor([[1e3], [0.5]]) + torch.tensor([[20], [1e-3]]) * normal(9, 2, 4),
        True,
    ),
    "volumes": (Scale(shift=(5.0,), scale=(0.1,), axes=3), 5 + 0.1 * normal(9, 1, 2, 3, 2), True),
    "columns": (columns_of(ROWS[60:]), torch.from_numpy(ROWS[:60]), True),
    "columns on a grid": (columns_of(GRID), torch.from_numpy(GRID[:60]), False),
}


@for_all(TRANSFORMS)
@given(seed=st.integers(0, 1000))
@few
def test_a_transform_is_inverted_and_has_its_jacobian(name: str, seed: int) -> None:
    """The latter by differences, number by number."""
    transform, x, continuous = TRANSFORMS[name]
    z = transform.forward(x, seeded(seed))
    torch.testing.assert_close(transform.restore(z), x, rtol=1e-9, atol=1e-9, check_dtype=False)
    assert bool(transform.possible(x).all())
    if continuous:
        step = 1e-6 * x.std(0)
        slopes = (transform.forward(x + step) - transform.forward(x - step)) / (2 * step)
        error = (slopes.flatten(1).log().sum(1) - transform.log_abs_det_jacobian(x)).abs()
        assert float(error.median()) < 1e-5
        assert float((error < 0.01).double().mean()) > 0.9, "but for kinks"


# Datasets.

TABLE = pandas.DataFrame(
    {"x": ROWS[:, 0], "kind": RNG.choice([*"rst"], 400), "y": np.where(RNG.random(400) < 0.2, np.nan, GRID[:, 0])}
)
WAVES = 5 + 0.1 * RNG.standard_normal((60, 2, 8))
DATASETS: dict[str, Callable[[float], Dataset]] = {  # of the same in another unit
    "rows": lambda unit: dataset_of(ROWS * unit),
    "one column": lambda unit: dataset_of(ROWS[:, :1] * unit),
    "frame": lambda unit: dataset_of(TABLE.assign(x=TABLE["x"] * unit)),
    "signals": lambda unit: dataset_of(WAVES * unit, reading=Reading(signals=True)),
    "images": lambda unit: pictures(),
}


IN_THE_USERS_UNITS = {"rows": ROWS, "one column": ROWS[:, :1], "signals": WAVES}


def sorted_rows(x: Tensor) -> np.ndarray:
    """Examples in an order that doesn't depend on the split."""
    rows = x.flatten(1).double().numpy()
    return rows[np.lexsort(rows.T)]


@for_all(IN_THE_USERS_UNITS)
def test_the_splits_of_a_dataset_are_the_users_examples(name: str) -> None:
    data = DATASETS[name](1.0)
    restored = torch.cat([data.transform.restore(z.double()) for z in (data.train, data.validation, data.test)])
    expected = sorted_rows(torch.from_numpy(IN_THE_USERS_UNITS[name]))
    np.testing.assert_allclose(sorted_rows(restored), expected, rtol=1e-4, atol=1e-6)


@for_all(DATASETS)
def test_a_dataset_is_the_same_in_any_unit(name: str) -> None:
    """In the model's units; splits overlap nowhere, unless rows are alike."""
    data, larger = DATASETS[name](1.0), DATASETS[name](1024.0)
    assert torch.equal(data.train.nan_to_num(9), larger.train.nan_to_num(9))
    assert data.statistics[0] == pytest.approx(larger.statistics[0])
    if name != "frame":
        rows = torch.cat([data.train, data.validation, data.test]).flatten(1)
        assert len(torch.unique(rows, dim=0)) == len(rows)


# Runs: trained for a few steps, exact, given something.

SMALL: dict[str, Any] = {"steps": 4, "channels": (16,), "blocks": 1, "quiet": True, "device": "cpu", "seed": 0}
PLANE = 3 * np.random.default_rng(1).standard_normal((200, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]) + 5


@cache
def learned(name: str, unit: float = 1.0) -> Any:
    if name == "images":
        return ncsn.fit(pictures(), settings=tiny())
    if name == "own network":
        return ncsn.fit(PLANE * unit, network=ncsn.MLP(2, 16, 1), steps=4, quiet=True, device="cpu", seed=0)
    if name == "frame":
        return ncsn.fit(TABLE.assign(x=TABLE["x"] * unit), **SMALL)
    if name == "signals":
        return ncsn.fit(WAVES * unit, signals=True, **SMALL)
    return ncsn.fit(PLANE * unit, **SMALL)


RUNS: dict[str, Callable[[], Any]] = {
    "exact": lambda: ncsn.Run.of(MIXTURE, (2,), sigma_max=20.0, sigma_min=0.05),
    "conditional": lambda: conditional_run(GAUSSIAN.covariance, GAUSSIAN.means[0]),
    "rows": lambda: learned("rows"),
    "frame": lambda: learned("frame"),
    "own network": lambda: learned("own network"),
    "images": lambda: learned("images"),
    "signals": lambda: learned("signals"),
    "a posterior": cache(lambda: RUNS["rows"]().posterior(lambda x: x[:, 0], 4.0, noise_std=0.5)),
    "a posterior of images": lambda: RUNS["images"]().posterior(
        lambda x: x[:, :, :5], np.full((1, 5, 8), 0.5), noise_std=0.1
    ),
    "replacement": lambda: RUNS["own network"]().replacement(torch.tensor([True, False]), [4.0, 0.0]),
}


def draw(run: Any, n: int = 7, **how: Any) -> Tensor:
    """Samples as numbers."""
    how = {"levels": 4, "seed": 3} | how | ({"particles": 16} if run is RUNS["a posterior"]() else {})
    x: Tensor = run.steps(n, **how).last()
    return x.nan_to_num(-9)


@for_all(RUNS)
def test_the_same_seed_gives_the_same_whatever_the_batch(name: str) -> None:
    run = RUNS[name]()
    torch.manual_seed(1)
    first = draw(run)
    torch.manual_seed(2)
    assert torch.equal(draw(run), first)
    assert torch.equal(draw(run, seed=seeded(3)), first)
    assert not torch.equal(draw(run, seed=4), first)
    torch.testing.assert_close(draw(run, batch_size=2), first, rtol=1e-4, atol=1e-4)


@for_all(["rows", "frame", "own network", "images", "signals"])
def test_a_saved_run_is_the_run(name: str, tmp_path: Path) -> None:
    run = RUNS[name]()
    run.save(tmp_path / "it")
    again = ncsn.load(tmp_path / "it", device="cpu", network=ncsn.MLP(2, 16, 1) if name == "own network" else None)
    assert torch.equal(draw(again), draw(run))
    assert (again.digest, again.transform, again.recipe) == (run.digest, run.transform, run.recipe)
    assert again.settings == json.loads(json.dumps(run.settings))


@for_all([name for name in RUNS if name != "replacement"])  # whose steps are drawn
def test_permuted_examples_have_permuted_scores(name: str) -> None:
    run = RUNS[name]()
    shape = (run if isinstance(run, ncsn.Run) else run.prior).recipe.shape
    score = run.score if isinstance(run, ncsn.Run) else run.posterior
    x, sigma = normal(5, *shape, seed=6).float(), torch.tensor([0.3, 0.5, 1.0, 2.0, 4.0])
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(score(x, sigma)[order], score(x[order], sigma[order]), rtol=1e-3, atol=1e-4)


TABLES = [name for name in RUNS if name in ("conditional", "rows", "frame", "signals")]


def complete(name: str, n: int = 3) -> Tensor:
    """Examples of a run that lack nothing, in its units."""
    run = RUNS[name]()
    x: Tensor = run.sample(n, seed=5, complete=True) if name == "frame" else run._draw(n, {"seed": 5})
    numbers: Tensor = run._numbers(x).double()
    return numbers


@for_all(TABLES)
def test_what_is_observed_stays_and_identical_rows_are_alike(name: str) -> None:
    run, x = RUNS[name](), complete(name) * (1 if name == "frame" else 1 + 1e-10)  # which single precision loses
    gaps = torch.rand(x.shape, generator=seeded(7)) < 0.5
    gaps[0] = False
    rows = x.masked_fill(gaps, torch.nan)
    draws = run._impute(rows, 3, seeded(1)).draws
    assert torch.equal(draws[:, ~gaps], x[~gaps].expand(3, -1))
    assert bool(draws.isfinite().all())
    same = x[:1].repeat(20, *[1] * (x.ndim - 1))
    same[:, 0] = torch.nan
    drawn = run._impute(same, 4, seeded(2)).draws[:, :, 0].reshape(4, 20, -1)[..., 0].numpy()
    assert stats.ks_2samp(drawn[:, :10].ravel(), drawn[:, 10:].ravel()).pvalue > 1e-3
    assert drawn.std() > 0


def test_draws_of_what_is_missing_are_those_of_a_gaussian_given_the_rest() -> None:
    """Of each of two rows its own."""
    known = [[0.7, -0.4], [-1.5, 1.0]]
    rows = torch.tensor([[*numbers, torch.nan, torch.nan] for numbers in known]).double()
    draws = RUNS["conditional"]().impute(rows, 400, seed=1).draws
    for row, numbers in enumerate(known):
        agree(draws[:, row, 2:], rest_given(GAUSSIAN, numbers), bias=0.02)


@for_all([name for name in TABLES if name != "frame"])
def test_permuted_rows_have_permuted_densities_in_their_units(name: str) -> None:
    run, x = RUNS[name](), complete(name, 4)
    order = torch.tensor([2, 0, 3, 1])
    densities = run.log_prob(x, tolerance=1e-3, probes=None if name != "signals" else 2)
    if name != "signals":
        torch.testing.assert_close(run.log_prob(x[order], tolerance=1e-3), densities[order], rtol=0, atol=0.02)
    if name in ("rows", "signals"):
        larger = learned(name, 1024.0)
        assert torch.equal(larger._draw(5, {"seed": 1}), 1024 * run._draw(5, {"seed": 1}))
        in_larger_units = larger.log_prob(1024 * x, tolerance=1e-3, probes=None if name != "signals" else 2)
        torch.testing.assert_close(in_larger_units, densities - x[0].numel() * math.log(1024), rtol=0, atol=1e-3)


def test_another_unit_of_a_column_changes_nothing_else() -> None:
    """What is drawn given values in either unit."""
    run, larger = RUNS["frame"](), learned("frame", 1024.0)
    given = {"x": 51.25}
    for each in ({}, {"complete": True}):
        drawn, other = (r.sample(20, seed=1, **each) for r in (run, larger))
        pandas.testing.assert_frame_equal(other, drawn.assign(x=1024 * drawn["x"]))
    drawn, other = run.sample(20, given=given, seed=1), larger.sample(20, given={"x": 1024 * given["x"]}, seed=1)
    pandas.testing.assert_frame_equal(other, drawn.assign(x=1024 * drawn["x"]))


@for_all(["rows", "frame"])
def test_permuted_columns_are_the_same_to_a_model(name: str) -> None:
    table = TABLE if name == "frame" else pandas.DataFrame(ROWS, columns=[*"abc"])
    data, turned = dataset_of(table), dataset_of(table.iloc[:, [2, 0, 1]])
    columns, others = data.transform, turned.transform
    assert isinstance(columns, Columns)
    assert isinstance(others, Columns)
    known = {column.name: column for column in columns.columns}
    assert {column.name: column for column in others.columns} == known
    assert [column.name for column in others.columns] == [[*table][i] for i in (2, 0, 1)]
    rows, turned_rows = (part.transform.restore(part.train.double()) for part in (data, turned))
    torch.testing.assert_close(turned_rows, rows[:, [2, 0, 1]], rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["rows", "own network"])
def test_densities_of_any_network_integrate_to_one(name: str) -> None:
    """Over a grid in the user's units, whatever the network has learned."""
    run = RUNS[name]()
    axis = torch.linspace(-9, 19, 29).double()
    density = run.log_prob(torch.cartesian_prod(axis, axis), sigma_min=0.5, tolerance=1e-3, batch_size=900).exp()
    assert float(density.sum()) == pytest.approx(1, abs=0.01)


def test_permuted_columns_have_permuted_conditionals() -> None:
    order = torch.tensor([2, 0, 3, 1])
    x, given_row = normal(5, 4, seed=1), torch.tensor([[0.3, torch.nan, torch.nan, -1.0]]).expand(5, 4)
    model = conditional_run(GAUSSIAN.covariance, GAUSSIAN.means[0]).conditionals
    turned = conditional_run(GAUSSIAN.covariance[order][:, order], GAUSSIAN.means[0, order]).conditionals
    scores = turned(x[:, order], 0.7, given_row[:, order])
    torch.testing.assert_close(scores, model(x, 0.7, given_row)[:, order], rtol=1e-4, atol=1e-4)


def test_permuted_classes_have_permuted_scores() -> None:
    order = torch.tensor([2, 0, 1])
    x, label = normal(6, 3, seed=2), torch.tensor([0, 1, 2, -1, 0, 2])
    other = Empirical(EXAMPLES, order[CLASSES], dtype=torch.float64)
    torch.testing.assert_close(other(x, 0.8, torch.where(label < 0, label, order[label])), EMPIRICAL(x, 0.8, label))


@for_all(["exact", "conditional", "rows"])
def test_a_model_is_calibrated_on_its_own_samples(name: str) -> None:
    """The rank of a number that was hidden among nine draws is uniform."""
    run, n = RUNS[name](), 300
    truth = draw(run, n, levels=40).double()
    if name == "exact":
        y = truth[:, :1] + 2 * normal(n, 1, seed=8)
        draws = run.posterior(lambda x: x[:, :1], y.repeat_interleave(9, 0), noise_std=2.0)
        draws = draws.sample(9 * n, seed=2, particles=1, levels=40).view(n, 9, 2).transpose(0, 1)
    else:
        hidden = torch.tensor([0, 2] if name == "conditional" else [0])
        draws = run._impute(truth.index_fill(1, hidden, torch.nan), 9, seeded(2)).draws
    ranks = (draws[..., 0] < truth[:, 0]).sum(0).numpy()
    assert stats.chisquare(np.bincount(ranks, minlength=10)).pvalue > 1e-3
