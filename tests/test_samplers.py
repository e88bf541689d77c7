"""Each sampler beside its formula, written again by hand; test_laws.py has the order at which it converges."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from helpers import Counting, GaussianScore, Printed, refusal, unchecked, z_score, zero_score
from torch import Generator, Tensor

from ncsn import samplers as ways
from ncsn.distributions import GaussianMixture
from ncsn.noise import Geometric, Karras
from ncsn.sampling import SAMPLERS, Sampling
from ncsn.score import add_guidance, tweedie

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.5], [2.0, 1.0]]), 0.5, torch.tensor([0.3, 0.7]))
START = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-4.0, 0.2]])
STAGES = (3.0, 2.0, 0.9, 0.5)
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


def consistent_by_hand(x: Tensor, sigma: float, following: float, z: Noise, eta: float | None = None) -> Tensor:
    eta = 1 - (following / sigma) ** 2 if eta is None else eta
    beta = math.sqrt(1 - ((1 - eta) * sigma / following) ** 2)
    return x + eta * sigma**2 * MIXTURE(x, sigma) + beta * following * z()


def corrected_by_hand(x: Tensor, sigma: float, following: float, z: Noise, snr: float, corrections: int) -> Tensor:
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
    x: Tensor, sigma: float, following: float, z: Noise, churn: float, levels: Sequence[float]
) -> Tensor:
    more = sigma * (1 + min(churn / 4, math.sqrt(2) - 1)) if sigma in levels else sigma
    noisy = x + math.sqrt(more**2 - sigma**2) * z() if sigma in levels else x
    return heun_by_hand(noisy, more, following)


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


RESTART = (3.0, 0.9, 2.0, 0.5)
CORRECTOR: dict[str, Any] = {"snr": 0.2, "corrections": 2}
CHURN = {"churn": 30.0, "churn_range": (0.9, 2.5)}
# The sampler, its options, its formula, evaluations of the score for each step, and the levels that it passes.
Case = tuple[Callable[..., Iterator[ways.Step]], dict[str, Any], Step, int, Sequence[float]]
CASES: dict[str, Case] = {
    "langevin": (ways.langevin, {"step_size": 0.3, "steps": 2}, langevin_by_hand, 1, (0.7,) * 3),
    "annealed": (ways.annealed_langevin, {"eps": 0.1, "steps": 2}, annealed_by_hand, 2, (0.0, *STAGES)),
    "consistent": (ways.consistent_annealed, {"eta": 0.7}, partial(consistent_by_hand, eta=0.7), 1, STAGES),
    "consistent by default": (ways.consistent_annealed, {}, consistent_by_hand, 1, STAGES),
    "pc": (ways.predictor_corrector, CORRECTOR, partial(corrected_by_hand, **CORRECTOR), 3, STAGES),
    "pc by default": (ways.predictor_corrector, {}, partial(corrected_by_hand, snr=0.16, corrections=1), 2, STAGES),
    "euler": (ways.euler, {}, euler_by_hand, 1, STAGES),
    "euler with a restart": (ways.euler, {}, euler_by_hand, 1, RESTART),
    "heun": (ways.heun, {}, heun_by_hand, 2, STAGES),
    "edm": (ways.edm, {"churn": 0.6}, partial(churned_by_hand, churn=0.6, levels=STAGES), 2, STAGES),
    "edm in a range": (ways.edm, CHURN, partial(churned_by_hand, churn=30, levels=(0.9, 2.0)), 2, STAGES),
    "dpmpp": (ways.dpm_solver, {}, multistep_by_hand(0, math.inf), 1, STAGES),
}
for most in (math.inf, 0.25, 0.0):
    sde = {"stochasticity": 0.7, "last_extrapolation": most}
    CASES[f"dpmpp-sde {most}"] = ways.dpm_solver, sde, multistep_by_hand(0.7, most), 1, STAGES


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 5])
def test_every_state_is_that_of_the_formula(name: str, seed: int) -> None:
    """States, their noise levels, what they cost, and the posterior mean at the end."""
    sampler, options, by_hand, evaluations, passed = CASES[name]
    levels = torch.tensor(0.7 if name == "langevin" else RESTART if "restart" in name else STAGES)
    x, g, score = START, torch.Generator().manual_seed(seed), Counting(MIXTURE)
    random = {} if name == "heun" else {"generator": torch.Generator().manual_seed(seed)}
    with torch.device("meta"):  # where no tensor must be made
        *path, last = sampler(score, START, levels, **options, **random)
    stages = list(pairwise(passed))
    for state, (sigma, following) in zip(path, stages, strict=True):
        x = by_hand(x, sigma, following, lambda: torch.randn(START.shape, generator=g))
        assert state.sigma == pytest.approx(following)
        torch.testing.assert_close(state.x, x)
    assert last.sigma == 0
    torch.testing.assert_close(last.x, tweedie(MIXTURE, x, passed[-1]))
    rises = sum(a < b for a, b in stages) if name.startswith("euler") else 0
    assert score.nfe == evaluations * (len(stages) - rises) + 1
    if random:
        random["generator"].manual_seed(seed)
    quiet = list(sampler(MIXTURE, START, levels, **options, **random, denoise=False))
    torch.testing.assert_close(quiet, path, rtol=0, atol=0)


def test_the_corrector_makes_no_step_along_a_score_that_is_zero() -> None:
    g = torch.Generator().manual_seed(1)
    (end,) = ways.predictor_corrector(zero_score, START, torch.tensor([2.0, 1.0]), denoise=False, generator=g)
    z = torch.randn(START.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(end.x, START + 3**0.5 * z)


# The table of samplers, and how a run samples: from 30 levels of its own, three Langevin steps, no guide.

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="dpmpp-sde", levels=30, steps=3, eps=0.05)
GAUSSIAN = GaussianScore(1.0, 0.5)


def test_the_table_has_the_names_of_the_command_line_and_costs_what_was_measured(capsys: Printed) -> None:
    """README's numbers are about these evaluations, from noise level 10 to 0.01."""
    usual = replace(SAMPLING, sigma_max=10.0, sigma_min=0.01, eps=1e-5)
    costs = [usual.but(sampler=name).nfe for name in SAMPLERS]
    assert costs == [201, 1000, 501, 100, 119, 40, 35, 79, 20, 30, 201]
    allowed = refusal(capsys, "sample", "mnist", "--sampler", "none").partition("one of")[2]
    assert {*allowed.strip().split(", ")} == {*SAMPLERS}
    assert set(DIRECT) == set(SAMPLERS)


X, KARRAS = 5 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0)), Karras(5.0, 0.5, 30).sigmas()
GEOMETRIC, FINE = Geometric(5.0, 0.5, 30).sigmas(), Karras(5.0, 0.5, 200).sigmas()
DIRECT: dict[str, tuple[Tensor, Callable[..., Iterator[ways.Step]]]] = {
    "annealed": (GEOMETRIC, partial(ways.annealed_langevin, eps=0.05, steps=3)),
    "ncsn": (GEOMETRIC, partial(ways.annealed_langevin, eps=0.05, steps=3, denoise=False)),
    "ncsnv2": (GEOMETRIC, partial(ways.annealed_langevin, eps=0.05, steps=3)),
    "consistent": (GEOMETRIC, ways.consistent_annealed),
    "pc": (GEOMETRIC, ways.predictor_corrector),
    "euler": (KARRAS, ways.euler),
    "heun": (KARRAS, lambda score, x, sigmas, generator: ways.heun(score, x, sigmas)),
    # A churn of 40 in all, on levels from a 200th to a fifth of σ_max; on 200 of them no step's is cut off.
    "edm": (FINE, partial(ways.edm, churn=40, churn_range=(0.025, 1.0))),
    "dpmpp": (KARRAS, ways.dpm_solver),
    "dpmpp-sde": (KARRAS, partial(ways.dpm_solver, stochasticity=1.0, last_extrapolation=0.25)),
    "langevin": (GEOMETRIC[-1], partial(ways.langevin, step_size=0.05, steps=3)),
}


@pytest.mark.parametrize("name", DIRECT)
def test_every_name_stands_for_its_own_sampler_which_costs_what_the_table_says(name: str) -> None:
    """Against direct calls: the function, its ladder, its options and its noise."""
    levels, sampler = DIRECT[name]
    sampling = SAMPLING.but(sampler=name, levels=levels.numel(), steps=3 if SAMPLERS[name].langevin else None)
    score = Counting(GAUSSIAN)
    steps = list(sampling.follow(score, X, generator=Generator().manual_seed(3)))
    assert (len(steps), score.nfe) == (sampling.states, sampling.nfe)
    expected = list(sampler(GAUSSIAN, X, levels, generator=Generator().manual_seed(3)))
    torch.testing.assert_close(steps, expected, rtol=0, atol=0)


CHANGES = [
    ("dpmpp-sde", {"guidance": 0.0}, {"levels": 7, "steps": 9, "guidance": 0}),
    ("dpmpp-sde", {"sampler": "heun"}, {"levels": 18, "guidance": 2}),
    ("dpmpp-sde", {"sampler": "heun", "levels": 5}, {"levels": 5}),
    ("dpmpp-sde", {"sampler": "annealed"}, {"guidance": 1, "steps": 2}),
    ("dpmpp-sde", {"sampler": "langevin", "levels": 1}, {"guidance": 1, "steps": 200, "count": 1}),
    ("dpmpp-sde", {"sampler": "annealed", "guidance": 1.5}, {"guidance": 1.5}),
    ("annealed", {"sampler": "annealed", "eps": 1e-5}, {"guidance": 2, "steps": 9, "eps": 1e-5}),
]


@pytest.mark.parametrize(("sampler", "change", "expected"), CHANGES)
def test_another_sampler_comes_with_its_own_levels_steps_and_guidance(
    sampler: str, change: dict[str, Any], expected: dict[str, float]
) -> None:
    """The guide, and where it acts, stay those of the run."""
    kept: dict[str, Any] = {"guided_between": (0.1, 3.0), "guide": "unconditional"}
    chosen = replace(SAMPLING, sampler=sampler, guidance=2.0, levels=7, steps=9, **kept).but(**change)
    assert {name: getattr(chosen, name) for name in expected | kept} == expected | kept


@pytest.mark.parametrize("name", SAMPLERS)
def test_langevin_dynamics_alone_takes_steps_and_may_stay_on_one_level(name: str) -> None:
    """Samplers that descend would end where they begin, in noise."""
    one = replace(SAMPLING, sampler="langevin", levels=1)
    if SAMPLERS[name].langevin:
        assert SAMPLING.but(sampler=name, steps=9, eps=1e-4).steps == 9
        assert replace(one, sampler=name).count == 1
        return
    assert replace(one, sampler=name, sigma_max=0.5).count == 1
    with pytest.raises(ValueError, match=f"^levels is 1; {name}"):
        replace(one, sampler=name)
    for change in ({"steps": 9}, {"eps": 1e-4}):
        with pytest.raises(ValueError, match=f"{name} takes no Langevin steps"):
            SAMPLING.but(sampler=name, **change)


@pytest.mark.parametrize("guide", ["smaller", "unconditional"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1.25, 4.0])
@pytest.mark.parametrize("top", [2.0, 50.0])
def test_evaluations_count_the_guides_where_it_acts(
    guide: Literal["smaller", "unconditional"], weight: float, top: float
) -> None:
    sampling = replace(SAMPLING, sigma_max=top, sigma_min=0.01, guidance=weight, guide=guide, levels=8)
    network, other = Counting(GAUSSIAN), Counting(GAUSSIAN)
    score = add_guidance(network, other, sampling.guidance, between=sampling.guided_between)
    list(sampling.follow(score, X, generator=Generator().manual_seed(3)))
    assert network.nfe + other.nfe * (1 if guide == "unconditional" else 0.25) == (
        sampling.nfe if weight == 1 else sampling.guided_nfe
    )


def test_consistent_sampling_with_the_least_eta_is_eulers_method() -> None:
    """No noise is added, also where the variance of it is rounded to below 0."""
    for levels in range(2, 40):
        sigmas = Geometric(sigma_max=10.0, sigma_min=0.1, levels=levels).sigmas()
        eta = float((1 - sigmas[1:] / sigmas[:-1]).max())
        *_, found = ways.consistent_annealed(GAUSSIAN, X, sigmas, eta=eta, generator=Generator().manual_seed(0))
        *_, expected = ways.euler(GAUSSIAN, X, sigmas)
        torch.testing.assert_close(found.x, expected.x, rtol=0.02, atol=0.02)


def test_levels_may_be_given_one_by_one_and_rise_for_euler(generator: Generator) -> None:
    """Which evaluates none on the way up."""
    levels, zero = (4.0, 2.0, 0.7, 2.0, 0.7), torch.zeros(1, 2)
    down, rising = SAMPLING.but(levels=levels[:3]), SAMPLING.but(sampler="euler", levels=levels)
    for sampling, expected in ((down, [2.0, 0.7, 0]), (rising, [*levels[1:], 0])):
        steps = list(sampling.follow(score := Counting(GAUSSIAN), zero, generator=generator))
        assert [step.sigma for step in steps] == pytest.approx(expected)
        assert (sampling.states, sampling.nfe) == (len(steps), score.nfe)
        assert score.nfe == len(expected) - (len(expected) > 3)
    twice = replace(rising, guidance=2.0, guide="unconditional", guided_between=(1.0, 3.0))
    assert twice.guided_nfe == 4 + 2, "the middle level is evaluated, and guided, twice"


@pytest.mark.parametrize(("levels", "width"), [(30, 5.0), ((4.0, 2.0, 0.7), 4.0)])
def test_samples_start_around_the_means_in_as_much_noise_as_the_first_level_has(
    levels: int | tuple[float, ...], width: float, generator: Generator
) -> None:
    x = SAMPLING.but(levels=levels).start(torch.tensor([[-20.0, 3.0]]), 20_000, generator=generator)
    for axis, mean in enumerate((-20, 3)):
        assert abs(z_score(x[:, axis], mean)) < 4
        assert abs(z_score((x[:, axis] - mean) ** 2, width**2)) < 4
    each = SAMPLING.start(torch.tensor([[-900.0], [900.0]]), 2, generator=generator)
    assert each[0] < 0 < each[1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(3, 1), (1, 2)])
def test_scores_of_another_shape_are_not_broadcast(name: str, shape: tuple[int, int]) -> None:
    sampler, options, *_ = CASES[name]
    levels = torch.tensor(0.7 if name == "langevin" else STAGES)
    with unchecked(), pytest.raises(ValueError, match="the score returned shape"):
        [*sampler(lambda *_: torch.ones(shape), START, levels, **options)]


@pytest.mark.parametrize("name", [name for name in CASES if name != "langevin"])
def test_points_are_real_and_levels_may_be_a_list(name: str) -> None:
    sampler, options, *_ = CASES[name]
    levels = [*STAGES]
    with unchecked():
        for wrong in (START.long(), START.numpy()):
            with pytest.raises(ValueError, match="x is a "):
                [*sampler(MIXTURE, wrong, levels, **options)]
        paths = []
        for sigmas in (levels, torch.tensor(levels)):
            torch.manual_seed(0)
            paths.append([*sampler(MIXTURE, START, sigmas, **options)])
    torch.testing.assert_close(*paths, rtol=0, atol=0)


# What is refused.

ZERO = torch.zeros(1, 1)


def sampled(sampler: Callable[..., Iterator[ways.Step]], *levels: float, **options: Any) -> ways.Step:
    return next(sampler(zero_score, ZERO, torch.tensor(levels), **options))


NO_LADDERS = [[1.0, 2.0], [2.0, 1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [math.inf, 1.0], [2.0, math.nan, 1.0], []]


@pytest.mark.parametrize("name", ["annealed", "consistent", "pc", "euler", "heun", "edm", "dpmpp"])
@pytest.mark.parametrize("levels", NO_LADDERS)
def test_ladders_descend_but_for_eulers_restarts(name: str, levels: list[float]) -> None:
    if (name, levels) != ("euler", [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"sigmas (is|has)"):
            sampled(CASES[name][0], *levels, **CASES[name][1])


LANGEVIN = partial(ways.langevin, zero_score, ZERO, 1.0)
OPTIONS: list[tuple[Callable[..., object], str, tuple[object, ...]]] = [
    (partial(sampled, ways.annealed_langevin, 1.0, 0.5, steps=1), "eps", (0.0, 1.0)),  # from 4σ² on it diverges
    (partial(sampled, ways.annealed_langevin, 1.0, 0.5, eps=0.1), "steps", (0,)),
    (lambda step_size: next(LANGEVIN(step_size=step_size, steps=1)), "step_size", (0.0, math.inf)),
    (lambda steps: next(LANGEVIN(step_size=0.1, steps=steps)), "steps", (0,)),
    (partial(sampled, ways.consistent_annealed, 1.0, 0.9, 0.5), "eta", (0.42, 1.1)),  # 0.444 = 1 − 0.5/0.9
    (partial(sampled, ways.predictor_corrector, 1.0, 0.5), "snr", (0.0, math.inf)),
    (partial(sampled, ways.predictor_corrector, 1.0, 0.5), "corrections", (-1,)),
    (partial(sampled, ways.edm, 1.0, 0.5), "churn", (-1.0, math.nan)),
    (partial(sampled, ways.dpm_solver, 1.0, 0.5), "stochasticity", (-0.1, math.nan)),
    (partial(sampled, ways.dpm_solver, 1.0, 0.5), "last_extrapolation", (-0.1, math.nan)),
    (partial(replace, SAMPLING), "eps", (0.0,)),
    (partial(replace, SAMPLING, sampler="annealed"), "eps", (1.0,)),
    (partial(replace, SAMPLING), "steps", (0,)),
    (partial(replace, SAMPLING), "sampler", ("hmc",)),
    (partial(replace, SAMPLING), "guidance", (math.nan, math.inf, -0.5)),
    (partial(replace, SAMPLING), "levels", (0, 10**12, (4.0, 0.7, 2.0), (1e19, 0.7))),
    (partial(replace, SAMPLING), "guided_between", ((2.0, 1.0),)),
    (partial(SAMPLING.but, sampler="langevin"), "levels", (5,)),
]


@pytest.mark.parametrize(("call", "name", "values"), OPTIONS)
def test_options_out_of_range_are_refused_by_name(
    call: Callable[..., object], name: str, values: tuple[object, ...]
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"\b{name}( is | are |=){re.escape(str(value))}[;,] ."):
            call(**{name: value})
