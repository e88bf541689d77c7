"""The simulators of benchmarks/sbi.py: exact posteriors against grids and importance sampling, and the judge's ends."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import chisquare
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

SBI = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "sbi.py"))
SIMULATORS, seeded, N = SBI["SIMULATORS"], SBI["seeded"], 4000


def log_likelihood(name: str, theta: Tensor, x: Tensor) -> Tensor:
    """Log p(x | θ) of one observation, for each row of parameters, from the formulas of the paper's appendix T."""
    if name == "slcp":
        first, second, rho = theta[:, 2].square(), theta[:, 3].square(), theta[:, 4].tanh()
        rows = [torch.stack(row, 1) for row in ((first, 0 * first), (second * rho, second * (1 - rho**2).sqrt()))]
        return MultivariateNormal(theta[:, :2], scale_tril=torch.stack(rows, 1)).log_prob(x.view(4, 1, 2)).sum(0)
    if name == "moons":
        shift = torch.stack([-theta.sum(1).abs(), theta[:, 1] - theta[:, 0]], 1) / 2**0.5
        noise = x - shift - torch.tensor([0.25, 0.0]).double()
        radius = noise.norm(dim=1)
        inside = Normal(0.1, 0.01).log_prob(radius) - (torch.pi * radius).log()
        return torch.where(noise[:, 0] > 0, inside, -torch.inf)
    stds = [1.0, 0.1] if name == "mixture" else [0.1**0.5]
    return torch.stack([Normal(theta, std).log_prob(x).sum(1) for std in stds]).logsumexp(0)


SLCP = (0.5, -0.5, 1.5, -1.2, 0.4)  # parameters with a wide posterior, which importance sampling finds


def data(name: str, theta: tuple[float, ...], seed: int = 0) -> Tensor:
    """One observation for these parameters."""
    x: Tensor = SIMULATORS[name].simulate(torch.tensor([theta], dtype=torch.float64), seeded(seed))[0]
    return x


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("moons", (-0.2, 0.1)),  # two crescents apart
        ("moons", (0.3, -0.9)),  # they meet where the sum of the parameters is zero
        ("moons", (-0.6, 0.6)),  # the prior cuts both
        ("mixture", (1.0, -4.0)),
        ("mixture", (9.9, -10.15)),  # both components are cut, the narrow one more
    ],
)
def test_draws_in_the_plane_follow_the_posterior_on_a_grid(name: str, x: tuple[float, float]) -> None:
    """χ² of the draws in 40 × 40 cells of the prior's box; those with less than five expected draws count as one."""
    simulator, observed = SIMULATORS[name], torch.tensor(x, dtype=torch.float64)
    bound = float(simulator.prior.base_dist.high[0])
    axis = bound * ((torch.arange(1600, dtype=torch.float64) + 0.5) / 800 - 1)
    logp = log_likelihood(name, torch.cartesian_prod(axis, axis), observed)
    expected = N * (logp - logp.logsumexp(0)).exp().view(40, 40, 40, 40).sum((1, 3)).flatten()
    draws = simulator.posterior(observed, N, seeded(0))
    cells = ((draws / bound + 1) * 20).long().clamp(max=39)
    counts = torch.bincount(40 * cells[:, 0] + cells[:, 1], minlength=1600).double()
    many = expected >= 5
    pairs = [torch.cat([each[many], each[~many].sum()[None]]) for each in (counts, expected)]
    assert many.sum() > 3
    assert chisquare(*(pair.numpy() for pair in pairs)).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "x", "proposals"),
    [
        ("slcp", data("slcp", SLCP), 400_000),
        ("linear", SBI["observe"](SIMULATORS["linear"], 1), 100_000),
        ("uniform", torch.tensor([0.9, -1.1] + [0.1] * 8, dtype=torch.float64), 400_000),
    ],
)
def test_moments_of_draws_are_those_of_weighted_draws_of_the_prior(name: str, x: Tensor, proposals: int) -> None:
    """Means, squares, and products of neighbours, in standard errors of both."""

    def moments(theta: Tensor) -> Tensor:
        return torch.cat([theta, theta.square(), theta.abs() * theta.roll(1, 1).abs()], 1)

    simulator = SIMULATORS[name]
    prior = SBI["draw_prior"](simulator, proposals, seeded(1))
    weights = log_likelihood(name, prior, x).softmax(0)[:, None]
    assert 1 / weights.square().sum() > 200, "too few draws of the prior count"
    weighted, exact = moments(prior), moments(simulator.posterior(x, N, seeded(2)))
    mean = (weights * weighted).sum(0)
    variance = (weights * (weighted - mean)).square().sum(0) + exact.var(0) / N
    assert ((exact.mean(0) - mean).abs() / variance.sqrt()).max() < 4.5


def test_no_draws_pile_up_where_the_prior_ends() -> None:
    """The normal distribution would have 8 in 10,000 at each end of each coordinate outside."""
    draws = SIMULATORS["uniform"].posterior(torch.zeros(10, dtype=torch.float64), N, seeded(8))
    assert draws.abs().max() < 1


@pytest.mark.parametrize(
    ("name", "theta", "shift"),
    [
        ("moons", (0.5, 0.3), (-0.003, 0.0)),  # towards a smaller sum: the noise that it needs is possible
        ("mixture", (1.0, 2.0), (0.02, 0.03)),
        ("slcp", SLCP, (0.05, 0.05, -0.05, 0.05, -0.05)),
        ("linear", (0.1,) * 10, (0.02,) * 10),
        ("uniform", (0.1,) * 10, (0.02,) * 10),
    ],
)
def test_a_simulator_draws_from_its_likelihood(name: str, theta: tuple[float, ...], shift: tuple[float, ...]) -> None:
    """E p(x | θ′) / p(x | θ) = 1 over x of θ."""
    here = torch.tensor(theta, dtype=torch.float64)
    both = torch.stack([here, here + torch.tensor(shift)])
    x = SIMULATORS[name].simulate(here.repeat(2000, 1), seeded(3))
    logs = torch.stack([log_likelihood(name, both, row) for row in x])
    ratios = (logs[:, 1] - logs[:, 0]).exp()
    assert ratios.std() > 0.05
    assert (ratios.mean() - 1).abs() < 4 * ratios.std() / len(x) ** 0.5


def test_the_four_modes_of_slcp_have_equal_shares() -> None:
    draws = SIMULATORS["slcp"].posterior(data("slcp", SLCP), N, seeded(4))
    shares = torch.bincount(2 * (draws[:, 2] > 0) + (draws[:, 3] > 0), minlength=4) / N
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=4 * (0.25 * 0.75 / N) ** 0.5)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.44, 0.56), (4.0, 0.95, 1.0)])
def test_the_judge_tells_what_is_shifted_only(shift: float, least: float, most: float) -> None:
    """Four standard deviations of one of two coordinates, in very different units: the ideal judge is right in 0.977.

    Without a shift the standard error is 0.016.
    """
    units = torch.tensor([1000.0, 0.01])
    one, other = (SBI["normals"](500, 2, generator=seeded(seed)) for seed in (5, 6))
    other[:, 1] += shift
    assert least < SBI["c2st"](one * units, other * units) < most


def test_ours_draws_the_parameters_of_an_observation() -> None:
    simulator = SIMULATORS["moons"]
    task = SBI["simulations"](simulator, 200, {"steps": 2, "seed": 0})
    draws = SBI["ours"](task)(task.x[0], 20)
    assert draws.shape == (20, 2)
    assert draws.isfinite().all()
    assert draws.std(0).min() > 0
    assert draws.abs().max() <= 1


def test_simulators_solve_the_differential_equations_of_the_paper() -> None:
    """Beside scipy's solver; the data scatter around the solution as the paper says."""

    def of_infection(_: float, state: np.ndarray, a: float, b: float) -> list[float]:
        susceptible, ill = state
        return [-a * susceptible * ill / 1e6, a * susceptible * ill / 1e6 - b * ill]

    def of_prey(_: float, state: np.ndarray, a: float, b: float, c: float, d: float) -> list[float]:
        prey, predators = state
        return [a * prey - b * prey * predators, -c * predators + d * prey * predators]

    def solve(field: Any, row: list[float], start: list[float], spacing: float) -> np.ndarray:
        times = spacing * np.arange(10)
        solution = solve_ivp(field, (0, times[-1]), start, "LSODA", times, args=row, rtol=1e-10, atol=1e-12)
        return np.asarray(solution.y)

    prior = {name: SBI["draw_prior"](SIMULATORS[name], 5, seeded(0)) for name in ("sir", "predators")}
    ill = np.stack([solve(of_infection, row, [1e6 - 1, 1], 17)[1] for row in prior["sir"].tolist()])
    assert SBI["infected"](prior["sir"]).numpy() == pytest.approx(1e-6 * ill, rel=1e-4)
    sizes = np.stack([solve(of_prey, row, [30, 1], 2.1).flatten() for row in prior["predators"].tolist()])
    assert SBI["populations"](prior["predators"]).numpy() == pytest.approx(sizes, rel=1e-4)
    seen = SIMULATORS["sir"].simulate(prior["sir"].repeat(200, 1), seeded(1)).view(200, 5, 10).numpy()
    error = np.sqrt(1e-3 * ill * (1 - 1e-6 * ill) / 200)
    assert (np.abs(seen.mean(0) - 1e-3 * ill) < 4.5 * error + 1e-2).all()
    logs = SIMULATORS["predators"].simulate(prior["predators"].repeat(200, 1), seeded(1)).log().view(200, 5, 20)
    assert logs.std(0).mean() == pytest.approx(0.1, rel=0.02)
    assert logs.mean(0).numpy() == pytest.approx(np.log(sizes), abs=0.035)


def test_spikes_follow_the_stimulus() -> None:
    """The number of spikes and the stimuli before them have the model's means; the prior has the paper's penalty."""
    theta = SBI["draw_prior"](SIMULATORS["neuron"], 20_000, seeded(0))
    offset, weights = theta[:2, 0], torch.nn.functional.pad(theta[:2, 1:], (2, 0))
    second_differences = weights.diff(dim=1, n=2) + (torch.arange(9) / 9).sqrt() * weights[:, 2:]
    penalty = offset**2 / 4 + second_differences.square().sum(1) / 2
    log_prior = SIMULATORS["neuron"].prior.log_prob(theta[:2])
    assert float(log_prior.diff()) == pytest.approx(-float(penalty.diff()), rel=1e-6)
    assert float(theta[:, 0].var()) == pytest.approx(2, rel=0.05)
    stimulus, one = np.random.RandomState(42).standard_normal(100), theta[:1]
    drive = float(one[0, 0]) + np.convolve(stimulus, one[0, 1:].numpy())[:100]
    chance = 1 / (1 + np.exp(-drive))
    exact = [chance.sum(), *(chance[lag:] @ stimulus[: 100 - lag] for lag in range(9))]
    data = SIMULATORS["neuron"].simulate(one.expand(20_000, -1), seeded(1))
    error = (data.mean(0) - torch.tensor(exact).double()) / data.std(0) * 20_000**0.5
    assert float(error.abs().max()) < 4.5
