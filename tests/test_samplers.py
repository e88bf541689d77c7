"""Each sampler beside its formula, written again by hand, and beside the distribution that it should draw from."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers import z_score, zero_score
from scipy.integrate import solve_ivp
from torch import Generator, Tensor

from ncsn import samplers as ways
from ncsn.distributions import TOYS, Empirical, GaussianMixture
from ncsn.likelihood import log_prob
from ncsn.noise import Geometric, Karras, suggest_noise
from ncsn.problems import blurred, conjugate_gradient, downsampled, masked, posterior
from ncsn.samplers import METHODS, encode, slerp
from ncsn.score import Counted, tweedie
from ncsn.validation import SamplerName

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.5], [2.0, 1.0]]), 0.5, torch.tensor([0.3, 0.7]))
START = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.2]])
LADDER = torch.tensor([3.0, 2.0, 0.9, 0.5])
Step = Callable[[Tensor, float, float, Callable[[], Tensor]], Tensor]


# Every sampler beside its formula.  A step takes x from one level to the next; ``z()`` is the noise that it draws.


def langevin_by_hand(x: Tensor, sigma: float, _: float, z: Callable[[], Tensor]) -> Tensor:
    return x + 0.15 * MIXTURE(x, sigma) + math.sqrt(0.3) * z()


def annealed_by_hand(x: Tensor, _: float, sigma: float, z: Callable[[], Tensor]) -> Tensor:
    alpha = 0.1 * sigma**2 / 0.25
    for _again in range(2):
        x = x + alpha / 2 * MIXTURE(x, sigma) + math.sqrt(alpha) * z()
    return x


def consistent_by_hand(x: Tensor, sigma: float, following: float, z: Callable[[], Tensor]) -> Tensor:
    beta = math.sqrt(1 - ((1 - 0.7) * sigma / following) ** 2)
    return x + 0.7 * sigma**2 * MIXTURE(x, sigma) + beta * following * z()


def corrected_by_hand(snr: float, corrections: int) -> Step:
    def step(x: Tensor, sigma: float, following: float, z: Callable[[], Tensor]) -> Tensor:
        drop = sigma**2 - following**2
        x = x + drop * MIXTURE(x, sigma) + math.sqrt(drop) * z()
        for _ in range(corrections):
            noise, s = z(), MIXTURE(x, following)
            eps = 2 * (snr * float(noise.norm(dim=1).mean()) / float(s.norm(dim=1).mean())) ** 2
            x = x + eps * s + math.sqrt(2 * eps) * noise
        return x

    return step


def euler_by_hand(x: Tensor, sigma: float, following: float, z: Callable[[], Tensor]) -> Tensor:
    if following > sigma:
        return x + math.sqrt(following**2 - sigma**2) * z()
    return x + (following - sigma) * -sigma * MIXTURE(x, sigma)


def heun_by_hand(x: Tensor, sigma: float, following: float, _: Callable[[], Tensor] | None = None) -> Tensor:
    slope = -sigma * MIXTURE(x, sigma)
    other = -following * MIXTURE(x + (following - sigma) * slope, following)
    return x + (following - sigma) * (slope + other) / 2


def churned_by_hand(churn: float, low: float, high: float) -> Step:
    def step(x: Tensor, sigma: float, following: float, z: Callable[[], Tensor]) -> Tensor:
        more = sigma * (1 + min(churn / 4, math.sqrt(2) - 1)) if low <= sigma <= high else sigma
        x = x + math.sqrt(more**2 - sigma**2) * z() if low <= sigma <= high else x
        return heun_by_hand(x, more, following)

    return step


def multistep_by_hand(eta: float, last: float) -> Callable[[], Step]:
    def fresh() -> Step:
        past: list[tuple[Tensor, float]] = []

        def step(x: Tensor, sigma: float, following: float, z: Callable[[], Tensor]) -> Tensor:
            h, denoised = math.log(sigma / following), x + sigma**2 * MIXTURE(x, sigma)
            a, ahead = 1 - (following / sigma) ** (1 + eta), torch.zeros(())
            if past:
                before, longer = past[-1]
                share = h / (2 * longer)
                ahead = (min(share, last) if following == 0.5 else share) * (denoised - before)
            past.append((denoised, h))
            x = (1 - a) * x + a * (denoised + ahead)
            return x + following * math.sqrt(1 - (following / sigma) ** (2 * eta)) * z() if eta else x

        return step

    return fresh


@dataclass(frozen=True)
class Case:
    """A sampler, its options and formula, evaluations of the score for each step, and the levels that it passes."""

    sampler: Callable[..., Iterator[ways.Step]]
    options: dict[str, Any]
    by_hand: Callable[[], Step]
    evaluations: int
    levels: Tensor = LADDER
    passed: tuple[float, ...] = (3.0, 2.0, 0.9, 0.5)


def always(step: Step) -> Callable[[], Step]:
    return lambda: step


RESTART = (3.0, 0.9, 2.0, 0.5)
CASES = {
    "langevin": Case(
        ways.langevin, {"step_size": 0.3, "steps": 2}, always(langevin_by_hand), 1, torch.tensor(0.7), (0.7,) * 3
    ),
    "annealed": Case(
        ways.annealed_langevin, {"eps": 0.1, "steps": 2}, always(annealed_by_hand), 2, passed=(0.0, 3.0, 2.0, 0.9, 0.5)
    ),
    "consistent": Case(ways.consistent_annealed, {"eta": 0.7}, always(consistent_by_hand), 1),
    "pc": Case(ways.predictor_corrector, {"snr": 0.2, "corrections": 2}, always(corrected_by_hand(0.2, 2)), 3),
    "pc by default": Case(ways.predictor_corrector, {}, always(corrected_by_hand(0.16, 1)), 2),
    "euler": Case(ways.euler, {}, always(euler_by_hand), 1),
    "euler with a restart": Case(ways.euler, {}, always(euler_by_hand), 1, torch.tensor(RESTART), RESTART),
    "heun": Case(ways.heun, {}, always(heun_by_hand), 2),
    "edm": Case(ways.edm, {"churn": 0.6}, always(churned_by_hand(0.6, 0, 9)), 2),
    "edm in a range": Case(
        ways.edm, {"churn": 30.0, "churn_range": (0.9, 2.5)}, always(churned_by_hand(30, 0.9, 2)), 2
    ),
    "dpmpp": Case(ways.dpm_solver, {}, multistep_by_hand(0, math.inf), 1),
    **{
        f"dpmpp-sde {last}": Case(
            ways.dpm_solver, {"stochasticity": 0.7, "last_extrapolation": last}, multistep_by_hand(0.7, last), 1
        )
        for last in (math.inf, 0.25, 0.0)
    },
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 5])
def test_every_state_is_that_of_the_formula(name: str, seed: int) -> None:
    """States, their noise levels, what they cost, and the posterior mean at the end."""
    case, g, score = CASES[name], torch.Generator().manual_seed(seed), Counted(MIXTURE)
    random = {} if name == "heun" else {"generator": torch.Generator().manual_seed(seed)}
    *path, last = case.sampler(score, START, case.levels, **case.options, **random)
    step, x = case.by_hand(), START
    stages = list(zip(case.passed, case.passed[1:], strict=False))
    assert len(path) == len(stages)
    for state, (sigma, following) in zip(path, stages, strict=True):
        x = step(x, sigma, following, lambda: torch.randn(START.shape, generator=g))
        assert state.sigma == pytest.approx(following)
        torch.testing.assert_close(state.x, x)
    assert last.sigma == 0
    torch.testing.assert_close(last.x, tweedie(MIXTURE, x, case.passed[-1]))
    rises = sum(a < b for a, b in stages) if name.startswith("euler") else 0
    assert score.nfe == case.evaluations * (len(stages) - rises) + 1
    random = {} if name == "heun" else {"generator": torch.Generator().manual_seed(seed)}
    quiet = list(case.sampler(MIXTURE, START, case.levels, **case.options, **random, denoise=False))
    assert [s.sigma for s in quiet] == [s.sigma for s in path]
    assert all(torch.equal(a.x, b.x) for a, b in zip(quiet, path, strict=True))


def test_the_corrector_makes_no_step_along_a_score_that_is_zero() -> None:
    g = torch.Generator().manual_seed(1)
    (end,) = ways.predictor_corrector(zero_score, START, torch.tensor([2.0, 1.0]), denoise=False, generator=g)
    z = torch.randn(START.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(end.x, START + 3**0.5 * z)


def test_the_table_has_the_names_of_the_command_line() -> None:
    assert tuple(METHODS) == get_args(SamplerName)


# Where they end, in standard errors.


STOCHASTIC: dict[str, Callable[..., Iterator[ways.Step]]] = {
    "annealed": partial(ways.annealed_langevin, eps=0.005, steps=20),
    "consistent": partial(ways.consistent_annealed, eta=0.14),
    "pc": partial(ways.predictor_corrector, snr=0.1),
    "edm": partial(ways.edm, churn=4.0),
    "dpmpp-sde": partial(ways.dpm_solver, stochasticity=1.0),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_mixture_is_sampled_with_its_weights_and_widths(name: str, generator: Generator) -> None:
    """Each stochastic sampler, with the exact score and many levels, draws from the mixture."""
    mixture = GaussianMixture(torch.tensor([[-3.0, 1.0], [3.0, -0.5]]), 0.6, torch.tensor([0.3, 0.7]))
    x = mixture.sample(5000, generator=generator) + 8 * torch.randn(5000, 2, generator=generator)
    *_, (_, x), _ = STOCHASTIC[name](mixture, x, Geometric(8.0, 0.1, 60).sigmas(), generator=generator)
    right = x[:, 0] > 0
    assert abs(z_score(right.double(), 0.7)) < 4
    for mode, means in ((~right, (-3.0, 1.0)), (right, (3.0, -0.5))):
        for axis, mean in enumerate(means):
            assert abs(z_score(x[mode, axis], mean)) < 4
            # 3 % of the variance, 0.37, are left to discretisation.
            square = (x[mode, axis] - mean) ** 2
            assert abs(float(square.mean()) - 0.37) < 0.03 * 0.37 + 4 * float(square.std()) / len(square) ** 0.5


# The probability flow.


@pytest.mark.parametrize(("sampler", "order"), [(ways.euler, 1), (ways.heun, 2), (ways.dpm_solver, 2)])
def test_order_of_convergence(sampler: Callable[..., Iterator[ways.Step]], order: int) -> None:
    """The error at the end of a mixture's flow falls as levels^-order, in float64; scipy knows where it ends."""
    x, counts = 3 * START.double(), [80, 160, 320]

    def slope(sigma: float, state: np.ndarray) -> np.ndarray:
        change: np.ndarray = -sigma * MIXTURE(torch.from_numpy(state).view(3, 2), sigma).numpy().ravel()
        return change

    end = solve_ivp(slope, (3.0, 0.1), x.numpy().ravel(), rtol=1e-10, atol=1e-10).y[:, -1]
    errors = []
    for levels in counts:
        sigmas = torch.linspace(math.log(3.0), math.log(0.1), levels, dtype=torch.float64).exp()
        *_, last = sampler(MIXTURE, x, sigmas, denoise=False)
        errors.append(float((last.x - torch.from_numpy(end).view(3, 2)).norm()))
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-order, abs=0.15)


def test_encoding_is_the_flow_the_other_way() -> None:
    """From the last level up, step by step."""
    x = START
    for sigma, following in ((0.5, 0.9), (0.9, 2.0), (2.0, 3.0)):
        x = heun_by_hand(x, sigma, following)
    torch.testing.assert_close(encode(MIXTURE, START, LADDER), x)
    with pytest.raises(ValueError, match="descending"):
        encode(MIXTURE, START, LADDER.flip(0))


def test_slerp_walks_at_one_pace_along_the_great_circle(generator: Generator) -> None:
    """Between two examples of one length, at an angle of 0.4 in one pair and of 2 in the other."""
    pairs = 5 * torch.linalg.qr(torch.randn(2, 12, 2, generator=generator))[0].mT.view(2, 2, 3, 4)
    angle = torch.tensor([0.4, 2.0])[:, None, None]
    weights = torch.tensor([0.0, 0.1, 0.5, 1.0])
    ends = pairs[:, 0], pairs[:, 0] * angle.cos() + pairs[:, 1] * angle.sin()
    for weight, x in zip(weights, slerp(*ends, weights).unbind(1), strict=True):
        torch.testing.assert_close(x, pairs[:, 0] * (weight * angle).cos() + pairs[:, 1] * (weight * angle).sin())


# What is refused, and on which device tensors are made.

ZERO = torch.zeros(1, 1)
LADDERS: dict[str, Callable[..., Iterator[ways.Step]]] = {
    "annealed": partial(ways.annealed_langevin, eps=0.01, steps=1),
    "consistent": partial(ways.consistent_annealed, eta=1.0),
    "pc": ways.predictor_corrector,
    "euler": ways.euler,
    "heun": ways.heun,
    "edm": partial(ways.edm, churn=0.0),
    "dpmpp": ways.dpm_solver,
}
WRONG: list[list[float]] = [[1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [2.0, math.nan, 1.0], []]


@pytest.mark.parametrize(("name", "sigmas"), [(n, s) for n in LADDERS for s in (WRONG[1:] if n == "euler" else WRONG)])
def test_ladders_descend_but_for_eulers_restarts(name: str, sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"a descending ladder.* of positive noise levels"):
        next(LADDERS[name](zero_score, ZERO, torch.tensor(sigmas)))


@pytest.mark.parametrize(
    ("sampler", "levels", "options", "message"),
    [
        (ways.annealed_langevin, [1.0, 0.5], {"eps": 0.0, "steps": 1}, "eps is 0"),
        (ways.annealed_langevin, [1.0, 0.5], {"eps": 1.0, "steps": 1}, r"4 sigma_L\^2 = 1, else the steps diverge"),
        (ways.annealed_langevin, [1.0, 0.5], {"eps": 0.1, "steps": 0}, "steps is 0"),
        (ways.langevin, 1.0, {"step_size": 0.0, "steps": 1}, "step_size is 0"),
        (ways.langevin, 1.0, {"step_size": 0.1, "steps": 0}, "steps is 0"),
        (ways.consistent_annealed, [1.0, 0.9, 0.5], {"eta": 0.42}, r"from 0\.444 on this ladder"),
        (ways.consistent_annealed, [1.0, 0.5], {"eta": 1.1}, r"eta is 1\.1"),
        (ways.predictor_corrector, [1.0, 0.5], {"snr": 0.0}, "snr is 0"),
        (ways.predictor_corrector, [1.0, 0.5], {"corrections": -1}, "corrections is -1"),
        (ways.edm, [1.0, 0.5], {"churn": -1.0}, "churn is -1"),
        (ways.dpm_solver, [1.0, 0.5], {"stochasticity": -1.0}, "stochasticity is -1"),
        (ways.dpm_solver, [1.0, 0.5], {"last_extrapolation": -0.1}, r"last_extrapolation is -0\.1"),
    ],
)
def test_options_out_of_range_are_refused(
    sampler: Callable[..., Iterator[Any]], levels: list[float] | float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(sampler(zero_score, ZERO, torch.tensor(levels), **options))


X, IMAGE, KNOWN = torch.ones(4, 2), torch.ones(1, 1, 6, 6), torch.tensor([True, False])
CERTAIN: dict[str, Callable[[], Tensor]] = {
    "euler": lambda: [*ways.euler(MIXTURE, X, LADDER)][-1].x,
    "heun": lambda: [*ways.heun(MIXTURE, X, LADDER)][-1].x,
    "slerp": lambda: slerp(X, X.flip(1) * X.cumsum(1), LADDER),
    "posterior": lambda: posterior(MIXTURE, masked(KNOWN), torch.full((4, 1), 2.0, device="cpu"), 0.3)(X, 0.5),
    "conjugate_gradient": lambda: conjugate_gradient(lambda u: 2 * u, X, 2),
    "downsampled": lambda: downsampled(2)(IMAGE),
    "blurred": lambda: blurred(1.0)(IMAGE),
    "exact trace": lambda: log_prob(MIXTURE, X, sigma_max=20, sigma_min=0.5, mean=0.1).log_prob,
    "no point": lambda: log_prob(MIXTURE, X[:0], sigma_max=20, sigma_min=0.5).log_prob,
    "Empirical": lambda: Empirical(X)(X, 0.5) + Empirical(X).log_prob(X, 0.5)[:, None],
    **{name: partial(lambda toy: toy()(X, 0.5) + toy().log_prob(X, 0.5)[:, None], toy) for name, toy in TOYS.items()},
    "ladders": lambda: torch.cat([kind(5, 0.1, n).sigmas() for kind in (Geometric, Karras) for n in (3, 1)]),
    "suggest_noise": lambda: suggest_noise(X.cumsum(0)).noise.sigmas(),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_tensors_are_made_on_the_device_of_what_is_given(name: str) -> None:
    """Whatever the default device is; what draws at random is in test_randomness."""
    expected = CERTAIN[name]()
    with torch.device("meta"):
        assert torch.equal(CERTAIN[name](), expected)
