"""Each sampler beside its formula, written again by hand, and beside the distribution that it should draw from."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from helpers import GaussianScore, z_score, zero_score
from scipy.integrate import solve_ivp
from torch import Generator, Tensor

from ncsn import samplers as ways
from ncsn.distributions import GaussianMixture
from ncsn.noise import Geometric, Karras
from ncsn.samplers import SAMPLERS, Sampling, encode, slerp
from ncsn.score import Counted, guided, tweedie
from ncsn.validation import GuideName, SamplerName

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.5], [2.0, 1.0]]), 0.5, torch.tensor([0.3, 0.7]))
START = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.2]])
STAGES = (3.0, 2.0, 0.9, 0.5)
LADDER = torch.tensor(STAGES)
Noise = Callable[[], Tensor]
Step = Callable[[Tensor, float, float, Noise], Tensor]


# Every sampler beside its formula.  A step takes x from one level to the next; ``z()`` is the noise that it draws.


def langevin_by_hand(x: Tensor, sigma: float, _: float, z: Noise) -> Tensor:
    return x + 0.15 * MIXTURE(x, sigma) + math.sqrt(0.3) * z()


def annealed_by_hand(x: Tensor, _: float, sigma: float, z: Noise) -> Tensor:
    alpha = 0.1 * sigma**2 / 0.25
    for _again in range(2):
        x = x + alpha / 2 * MIXTURE(x, sigma) + math.sqrt(alpha) * z()
    return x


def consistent_by_hand(x: Tensor, sigma: float, following: float, z: Noise) -> Tensor:
    beta = math.sqrt(1 - ((1 - 0.7) * sigma / following) ** 2)
    return x + 0.7 * sigma**2 * MIXTURE(x, sigma) + beta * following * z()


def corrected_by_hand(
    x: Tensor, sigma: float, following: float, z: Noise, snr: float = 0.16, corrections: int = 1
) -> Tensor:
    drop = sigma**2 - following**2
    x = x + drop * MIXTURE(x, sigma) + math.sqrt(drop) * z()
    for _ in range(corrections):
        noise, s = z(), MIXTURE(x, following)
        eps = 2 * (snr * float(noise.norm(dim=1).mean()) / float(s.norm(dim=1).mean())) ** 2
        x = x + eps * s + math.sqrt(2 * eps) * noise
    return x


def euler_by_hand(x: Tensor, sigma: float, following: float, z: Noise) -> Tensor:
    if following > sigma:
        return x + math.sqrt(following**2 - sigma**2) * z()
    return x + (following - sigma) * -sigma * MIXTURE(x, sigma)


def heun_by_hand(x: Tensor, sigma: float, following: float, _: Noise | None = None) -> Tensor:
    slope = -sigma * MIXTURE(x, sigma)
    other = -following * MIXTURE(x + (following - sigma) * slope, following)
    return x + (following - sigma) * (slope + other) / 2


def churned_by_hand(
    x: Tensor, sigma: float, following: float, z: Noise, churn: float, low: float = 0, high: float = 9
) -> Tensor:
    if not low <= sigma <= high:
        return heun_by_hand(x, sigma, following)
    more = sigma * (1 + min(churn / 4, math.sqrt(2) - 1))
    return heun_by_hand(x + math.sqrt(more**2 - sigma**2) * z(), more, following)


def multistep_by_hand(eta: float, last: float) -> Step:
    past: list[tuple[Tensor, float]] = []

    def step(x: Tensor, sigma: float, following: float, z: Noise) -> Tensor:
        h, denoised = math.log(sigma / following), x + sigma**2 * MIXTURE(x, sigma)
        a, ahead = 1 - (following / sigma) ** (1 + eta), torch.zeros(())
        if sigma < 3:  # there is a step before this one
            before, longer = past[-1]
            share = h / (2 * longer)
            ahead = (min(share, last) if following == 0.5 else share) * (denoised - before)
        past.append((denoised, h))
        x = (1 - a) * x + a * (denoised + ahead)
        return x + following * math.sqrt(1 - (following / sigma) ** (2 * eta)) * z() if eta else x

    return step


class Case(NamedTuple):
    """A sampler, its options and formula, evaluations of the score for each step, and the levels that it passes."""

    sampler: Callable[..., Iterator[ways.Step]]
    options: dict[str, Any]
    by_hand: Step
    evaluations: int
    levels: Tensor = LADDER
    passed: tuple[float, ...] = STAGES


RESTART = (3.0, 0.9, 2.0, 0.5)
CORRECTOR: dict[str, Any] = {"snr": 0.2, "corrections": 2}
CHURN = {"churn": 30.0, "churn_range": (0.9, 2.5)}
ONE = torch.tensor(0.7)
CASES = {
    "langevin": Case(ways.langevin, {"step_size": 0.3, "steps": 2}, langevin_by_hand, 1, ONE, (0.7,) * 3),
    "annealed": Case(ways.annealed_langevin, {"eps": 0.1, "steps": 2}, annealed_by_hand, 2, passed=(0.0, *STAGES)),
    "consistent": Case(ways.consistent_annealed, {"eta": 0.7}, consistent_by_hand, 1),
    "pc": Case(ways.predictor_corrector, CORRECTOR, partial(corrected_by_hand, **CORRECTOR), 3),
    "pc by default": Case(ways.predictor_corrector, {}, corrected_by_hand, 2),
    "euler": Case(ways.euler, {}, euler_by_hand, 1),
    "euler with a restart": Case(ways.euler, {}, euler_by_hand, 1, torch.tensor(RESTART), RESTART),
    "heun": Case(ways.heun, {}, heun_by_hand, 2),
    "edm": Case(ways.edm, {"churn": 0.6}, partial(churned_by_hand, churn=0.6), 2),
    "edm in a range": Case(ways.edm, CHURN, partial(churned_by_hand, churn=30, low=0.9, high=2), 2),
    "dpmpp": Case(ways.dpm_solver, {}, multistep_by_hand(0, math.inf), 1),
}
for most in (math.inf, 0.25, 0.0):
    sde = {"stochasticity": 0.7, "last_extrapolation": most}
    CASES[f"dpmpp-sde {most}"] = Case(ways.dpm_solver, sde, multistep_by_hand(0.7, most), 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 5])
def test_every_state_is_that_of_the_formula(name: str, seed: int) -> None:
    """States, their noise levels, what they cost, and the posterior mean at the end."""
    case, g, score = CASES[name], torch.Generator().manual_seed(seed), Counted(MIXTURE)
    random = {} if name == "heun" else {"generator": torch.Generator().manual_seed(seed)}
    *path, last = case.sampler(score, START, case.levels, **case.options, **random)
    x = START
    stages = list(zip(case.passed, case.passed[1:], strict=False))
    assert len(path) == len(stages)
    for state, (sigma, following) in zip(path, stages, strict=True):
        x = case.by_hand(x, sigma, following, lambda: torch.randn(START.shape, generator=g))
        assert state.sigma == pytest.approx(following)
        torch.testing.assert_close(state.x, x)
    assert last.sigma == 0
    torch.testing.assert_close(last.x, tweedie(MIXTURE, x, case.passed[-1]))
    rises = sum(a < b for a, b in stages) if name.startswith("euler") else 0
    assert score.nfe == case.evaluations * (len(stages) - rises) + 1
    if random:
        random["generator"].manual_seed(seed)
    quiet = list(case.sampler(MIXTURE, START, case.levels, **case.options, **random, denoise=False))
    torch.testing.assert_close(quiet, path, rtol=0, atol=0)


def test_the_corrector_makes_no_step_along_a_score_that_is_zero() -> None:
    g = torch.Generator().manual_seed(1)
    (end,) = ways.predictor_corrector(zero_score, START, torch.tensor([2.0, 1.0]), denoise=False, generator=g)
    z = torch.randn(START.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(end.x, START + 3**0.5 * z)


# The table of samplers, and how a run samples: from 30 levels of its own, three Langevin steps, no guide.

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="dpmpp-sde", levels=30, steps=3, eps=0.05)
GAUSSIAN = GaussianScore(1.0, 0.5)


def test_the_table_has_the_names_of_the_command_line_and_costs_what_was_measured() -> None:
    """README's numbers are about these evaluations, from noise level 10 to 0.01."""
    usual = replace(SAMPLING, sigma_max=10.0, sigma_min=0.01, eps=1e-5)
    costs = [usual.but(sampler=name).nfe for name in SAMPLERS]
    assert costs == [201, 100, 119, 40, 35, 79, 20, 30, 201, 60, 8]
    assert tuple(SAMPLERS) == get_args(SamplerName)


@pytest.mark.parametrize("name", [name for name, spec in SAMPLERS.items() if not spec.population])
def test_every_sampler_yields_and_costs_what_the_table_says(name: str, generator: Generator) -> None:
    sampling, score = SAMPLING.but(sampler=name), Counted(GAUSSIAN)
    x = sampling.start(torch.ones(1, 2), 4000, generator=generator)
    assert float(x.std()) == pytest.approx(5, abs=0.2)
    steps = list(sampling.follow(score, x, generator=generator))
    assert (len(steps), score.nfe) == (sampling.states, sampling.nfe)
    sigmas = [step.sigma for step in steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-2:] == pytest.approx([0.5, 0])
    if name != "langevin":  # which never leaves its start
        # The last state is the mean of the clean data, whose std is s²/√(s² + σ²).
        assert float(steps[-1].x.mean()) == pytest.approx(1, abs=0.1)
        assert float(steps[-1].x.std()) == pytest.approx(0.354, abs=0.04)


def test_every_name_stands_for_its_own_sampler(generator: Generator) -> None:
    """The table against direct calls: the function, its ladder, its options, its noise.

    EDM's churn is 40 in all, on noise levels from a 200th to a fifth of σ_max; on 200 levels no step's is cut off.
    """
    x, two, eta = 5 * torch.randn(7, 2, generator=generator), Geometric(5.0, 0.5, 30).sigmas(), 1 - 0.1 ** (2 / 29)
    karras, fine = Karras(5.0, 0.5, 30).sigmas(), Karras(5.0, 0.5, 200).sigmas()
    direct: dict[str, tuple[Tensor, Callable[..., Iterator[ways.Step]]]] = {
        "annealed": (two, partial(ways.annealed_langevin, eps=0.05, steps=3)),
        "consistent": (two, partial(ways.consistent_annealed, eta=eta)),
        "pc": (two, ways.predictor_corrector),
        "euler": (karras, ways.euler),
        "heun": (karras, lambda score, x, sigmas, generator: ways.heun(score, x, sigmas)),
        "edm": (fine, partial(ways.edm, churn=40, churn_range=(0.025, 1.0))),
        "dpmpp": (karras, ways.dpm_solver),
        "dpmpp-sde": (karras, partial(ways.dpm_solver, stochasticity=1.0, last_extrapolation=0.25)),
        "langevin": (two[-1], partial(ways.langevin, step_size=0.05, steps=3)),
    }
    assert {*direct, "fast", "twisted"} == set(SAMPLERS)
    for name, (levels, sampler) in direct.items():
        sampling = SAMPLING.but(sampler=name, levels=levels.numel(), steps=3 if SAMPLERS[name].langevin else None)
        steps = list(sampling.follow(GAUSSIAN, x, generator=Generator().manual_seed(3)))
        expected = list(sampler(GAUSSIAN, x, levels, generator=Generator().manual_seed(3)))
        assert len(steps) == len(expected)
        assert torch.equal(steps[-1].x, expected[-1].x), name


GUIDED = replace(SAMPLING, guidance=2.0, levels=7)
ANNEALED = replace(GUIDED, sampler="annealed", steps=9)


@pytest.mark.parametrize(
    ("sampling", "change", "expected"),
    [
        (GUIDED, {"guidance": 0.0}, {"levels": 7, "steps": 3, "guidance": 0}),
        (GUIDED, {"sampler": "heun"}, {"levels": 18, "guidance": 2}),
        (GUIDED, {"sampler": "heun", "levels": 5}, {"levels": 5}),
        (GUIDED, {"sampler": "annealed"}, {"guidance": 1, "steps": 2}),
        (GUIDED, {"sampler": "langevin"}, {"guidance": 1, "steps": 200}),
        (GUIDED, {"sampler": "annealed", "guidance": 1.5}, {"guidance": 1.5}),
        (ANNEALED, {"sampler": "annealed", "eps": 1e-5}, {"guidance": 2, "steps": 9, "eps": 1e-5}),
        (SAMPLING, {"sampler": "langevin", "levels": 1}, {"count": 1}),
    ],
)
def test_another_sampler_comes_with_its_own_levels_steps_and_guidance(
    sampling: Sampling, change: dict[str, Any], expected: dict[str, float]
) -> None:
    chosen = sampling.but(**change)
    assert {name: getattr(chosen, name) for name in expected} == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_langevin_dynamics_alone_takes_steps_and_may_stay_on_one_level(name: str) -> None:
    """Samplers that descend would end where they begin, in noise."""
    one = replace(SAMPLING, sampler="langevin", levels=1)
    if SAMPLERS[name].langevin:
        assert SAMPLING.but(sampler=name, steps=9, eps=1e-4).steps == 9
        assert replace(one, sampler=name).count == 1
        return
    for change in ({"steps": 9}, {"eps": 1e-4}):
        with pytest.raises(ValueError, match=f"{name} takes no Langevin steps"):
            SAMPLING.but(sampler=name, **change)
    with pytest.raises(ValueError, match=f"^levels is 1; {name}"):
        replace(one, sampler=name)
    assert replace(one, sampler=name, sigma_max=0.5).count == 1


@pytest.mark.parametrize("guide", ["smaller", "unconditional"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1.25, 1.5, 4.0])
@pytest.mark.parametrize("top", [2.0, 50.0])
def test_fast_is_the_default_on_as_many_levels_as_eight_evaluations_allow(
    guide: GuideName, weight: float, top: float, generator: Generator
) -> None:
    own = replace(SAMPLING, sigma_max=top, sigma_min=0.01, guidance=weight, guide=guide)
    fast = own.but(sampler="fast")
    assert (fast.levels, fast.guidance) == (8, 1 if weight in (1, 1.25) else weight)
    x = 5 * torch.randn(3, 2, generator=generator)
    for sampling in (
        fast.affordable,
        own.but(sampler="fast", guidance=1.25).affordable,
        fast.but(guidance=3.0).affordable,
    ):
        network, other = Counted(GAUSSIAN), Counted(GAUSSIAN)
        score = guided(network, other, sampling.guidance, between=sampling.guided_between)
        *_, last = sampling.follow(score, x, generator=Generator().manual_seed(3))
        costs = network.nfe + other.nfe * (1 if guide == "unconditional" else 0.25)
        assert costs == sampling.evaluations <= 8
        assert replace(sampling, levels=sampling.count + 1).evaluations > 8
        same = replace(sampling, sampler="dpmpp-sde")
        *_, expected = same.follow(score, x, generator=Generator().manual_seed(3))
        assert torch.equal(last.x, expected.x)
    assert own.affordable == own, "who has no limit keeps his levels"


def test_levels_may_be_given_one_by_one_and_rise_for_euler(generator: Generator) -> None:
    """Which evaluates none on the way up; and samples begin in as much noise as the first level has."""
    levels, zero = (4.0, 2.0, 0.7, 2.0, 0.7), torch.zeros(1, 2)
    down, rising = SAMPLING.but(levels=levels[:3]), SAMPLING.but(sampler="euler", levels=levels)
    assert float(down.start(zero, 20_000, generator=generator).std()) == pytest.approx(4, rel=0.02)
    for sampling, expected in ((down, [2.0, 0.7, 0]), (rising, [*levels[1:], 0])):
        steps = list(sampling.follow(score := Counted(GAUSSIAN), zero, generator=generator))
        assert [step.sigma for step in steps] == pytest.approx(expected)
        assert (sampling.states, sampling.nfe) == (len(steps), score.nfe)
        assert score.nfe == len(expected) - (len(expected) > 3)
    twice = replace(rising, guidance=2.0, guide="unconditional", guided_between=(1.0, 3.0))
    assert twice.guided_nfe == 4 + 2, "the middle level is evaluated, and guided, twice"


def test_samples_start_around_the_means_they_are_told(generator: Generator) -> None:
    x = SAMPLING.start(torch.tensor([[-20.0, 3.0]]), 4000, generator=generator)
    assert abs(z_score(x[:, 0], -20)) < 4
    assert abs(z_score(x[:, 1], 3)) < 4
    each = SAMPLING.start(torch.tensor([[-900.0], [900.0]]), 2, generator=generator)
    assert each[0] < 0 < each[1]


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


def test_slerp_walks_at_one_pace_along_the_great_circle(generator: Generator) -> None:
    """Between two examples of one length, at an angle of 0.4 in one pair and of 2 in the other."""
    pairs = 5 * torch.linalg.qr(torch.randn(2, 12, 2, generator=generator))[0].mT.view(2, 2, 3, 4)
    angle = torch.tensor([0.4, 2.0])[:, None, None]
    weights = torch.tensor([0.0, 0.1, 0.5, 1.0])
    ends = pairs[:, 0], pairs[:, 0] * angle.cos() + pairs[:, 1] * angle.sin()
    for weight, x in zip(weights, slerp(*ends, weights).unbind(1), strict=True):
        torch.testing.assert_close(x, pairs[:, 0] * (weight * angle).cos() + pairs[:, 1] * (weight * angle).sin())


# What is refused.

ZERO = torch.zeros(1, 1)


def sampled(sampler: Callable[..., Iterator[ways.Step]], *levels: float, **options: Any) -> ways.Step:
    return next(sampler(zero_score, ZERO, torch.tensor(levels), **options))


@pytest.mark.parametrize("name", ["annealed", "consistent", "pc", "euler", "heun", "edm", "dpmpp"])
@pytest.mark.parametrize("levels", [[1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [2.0, math.nan, 1.0], []])
def test_ladders_descend_but_for_eulers_restarts(name: str, levels: list[float]) -> None:
    if (name, levels) != ("euler", [1.0, 2.0]):
        with pytest.raises(ValueError, match="positive noise levels"):
            sampled(CASES[name].sampler, *levels, **CASES[name].options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(sampled, ways.annealed_langevin, 1.0, 0.5, eps=0.0, steps=1), "eps is 0"),
        (partial(sampled, ways.annealed_langevin, 1.0, 0.5, eps=1.0, steps=1), r"4 sigma_L\^2 = 1,"),
        (partial(sampled, ways.annealed_langevin, 1.0, 0.5, eps=0.1, steps=0), "steps is 0"),
        (lambda: next(ways.langevin(zero_score, ZERO, 1.0, step_size=math.inf, steps=1)), "step_size is inf"),
        (lambda: next(ways.langevin(zero_score, ZERO, 1.0, step_size=0.1, steps=0)), "steps is 0"),
        (partial(sampled, ways.consistent_annealed, 1.0, 0.9, 0.5, eta=0.42), r"from 0\.444 on this ladder"),
        (partial(sampled, ways.consistent_annealed, 1.0, 0.5, eta=1.1), r"eta is 1\.1"),
        *((partial(sampled, ways.predictor_corrector, 1.0, 0.5, snr=r), f"snr is {r}") for r in (0.0, math.inf)),
        (partial(sampled, ways.predictor_corrector, 1.0, 0.5, corrections=-1), "corrections is -1"),
        *((partial(sampled, ways.edm, 1.0, 0.5, churn=c), f"churn is {c}") for c in (-1.0, math.nan)),
        (partial(sampled, ways.dpm_solver, 1.0, 0.5, stochasticity=math.nan), "stochasticity=nan"),
        (partial(sampled, ways.euler, math.inf, 0.5), "descending"),
        (partial(sampled, ways.dpm_solver, 1.0, 0.5, last_extrapolation=-0.1), r"last_extrapolation=-0\.1"),
        (partial(encode, MIXTURE, START, LADDER.flip(0)), "descending"),
        (partial(replace, SAMPLING, eps=0.0), "eps is 0.0"),
        (partial(replace, SAMPLING, eps=1.0, sampler="annealed"), "eps is 1.0, .* eps < 1 "),
        (partial(replace, SAMPLING, steps=0), "steps is 0"),
        (partial(replace, SAMPLING, sampler="hmc"), "sampler is hmc; allowed are annealed"),
        *((partial(replace, SAMPLING, guidance=w), f"guidance is {w}") for w in (math.nan, math.inf, -0.5)),
        (partial(replace, SAMPLING, levels=0), "levels is 0"),
        (partial(replace, SAMPLING, levels=10**12), "levels is 1000000000000; .* 10,000 levels"),
        (partial(replace, SAMPLING, levels=(4.0, 0.7, 2.0)), "levels are .*descend"),
        (partial(replace, SAMPLING, levels=(1e19, 0.7)), "1e18"),
        (partial(replace, SAMPLING, guided_between=(2.0, 1.0)), "guided_between is"),
        (partial(SAMPLING.but, sampler="langevin", levels=5), "levels is 5, but langevin"),
    ],
)
def test_what_could_not_be_sampled_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
