import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import GaussianScore, z_score

from ncsn.noise import Geometric, Karras
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import (
    METHODS,
    Descent,
    Method,
    Sampling,
    Step,
    annealed_langevin,
    consistent_annealed,
    dpm_solver,
    edm,
    euler,
    heun,
    langevin,
    predictor_corrector,
)
from ncsn.score import Counted, guided
from ncsn.validation import GuideName

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="dpmpp-sde", levels=30, steps=3, eps=0.05)
SCORE = GaussianScore(1.0, 0.5)


def descend(sampling: Sampling, x: torch.Tensor, seed: int = 3) -> list[torch.Tensor]:
    return [step.x for step in sampling.follow(SCORE, x, generator=torch.Generator().manual_seed(seed))]


@pytest.mark.parametrize("name", METHODS)
def test_every_sampler_yields_and_costs_what_the_table_says_and_samples_a_gaussian(
    name: str, generator: torch.Generator
) -> None:
    sampling, score = SAMPLING.but(sampler=name), Counted(SCORE)
    x = sampling.start(torch.ones(1, 2), 4000, generator=generator)
    assert float(x.std()) == pytest.approx(5, abs=0.2)
    steps = list(sampling.follow(score, x, generator=generator))
    assert len(steps) == sampling.states
    assert score.nfe == sampling.nfe
    assert steps[-1].sigma == 0
    sigmas = [step.sigma for step in steps]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[-2] == pytest.approx(0.5)
    if name != "langevin":  # which never leaves its start
        last = steps[-1].x
        assert float(last.mean()) == pytest.approx(1, abs=0.1)
        # The last state is the mean of the clean data, whose std is s²/√(s² + σ²) = 0.354.
        assert float(last.std()) == pytest.approx(0.354, abs=0.04)


def test_every_name_stands_for_its_own_sampler(generator: torch.Generator) -> None:
    """The table against direct calls: the function, its ladder, its options, its noise."""
    x = 5 * torch.randn(7, 2, generator=generator)
    karras, geometric = Karras(5.0, 0.5, 30).sigmas(), Geometric(5.0, 0.5, 30).sigmas()
    eta = 1 - (0.5 / 5.0) ** (2 / 29)
    direct: dict[str, Callable[[torch.Generator], Iterator[Step]]] = {
        "annealed": lambda g: annealed_langevin(SCORE, x, geometric, eps=0.05, steps=3, generator=g),
        "consistent": lambda g: consistent_annealed(SCORE, x, geometric, eta=eta, generator=g),
        "pc": lambda g: predictor_corrector(SCORE, x, geometric, generator=g),
        "euler": lambda g: euler(SCORE, x, karras),
        "heun": lambda g: heun(SCORE, x, karras),
        "edm": lambda g: edm(SCORE, x, karras, churn=40, churn_range=(0.025, 1.0), generator=g),
        "dpmpp": lambda g: dpm_solver(SCORE, x, karras, generator=g),
        "dpmpp-sde": lambda g: dpm_solver(SCORE, x, karras, stochasticity=1.0, last_extrapolation=0.25, generator=g),
        "langevin": lambda g: langevin(SCORE, x, 0.5, step_size=0.05, steps=3, generator=g),
    }
    assert {*direct, "fast"} == set(METHODS)
    ends = {}
    for name, sampler in direct.items():
        levels = 1 if name == "langevin" else 30
        steps = 3 if METHODS[name].langevin else None
        found = descend(SAMPLING.but(sampler=name, levels=levels, steps=steps), x)
        expected = [step.x for step in sampler(torch.Generator().manual_seed(3))]
        ends[name] = found[-1]
        assert len(found) == len(expected)
        assert torch.equal(found[-1], expected[-1]), name
    names = list(ends)
    assert not any(torch.equal(ends[a], ends[b]) for i, a in enumerate(names) for b in names[:i])


def test_defaults_are_those_that_were_measured() -> None:
    """What a run costs and how it is guided where nobody says otherwise; README's numbers are about these."""
    found = {
        name: (m.ladder, m.levels, m.steps, m.nfe(m.levels, m.steps), m.guided_from) for name, m in METHODS.items()
    }
    assert found == {
        "annealed": ("geometric", 100, 2, 201, math.inf),
        "consistent": ("geometric", 100, 1, 100, 0),
        "pc": ("geometric", 60, 1, 119, 0),
        "euler": ("karras", 40, 1, 40, 0),
        "heun": ("karras", 18, 1, 35, 0),
        "edm": ("karras", 40, 1, 79, 0),
        "dpmpp": ("karras", 20, 1, 20, 0),
        "dpmpp-sde": ("karras", 30, 1, 30, 0),
        "langevin": ("geometric", 1, 200, 201, math.inf),
        "fast": ("karras", 8, 1, 8, 0.5),
    }
    assert (SAMPLING.guidance, SAMPLING.guided_between) == (1, (0.2, 1.5))
    assert replace(SAMPLING, guidance=0.0).guidance == 0  # a class or a guide alone
    assert SAMPLING.but(sampler="langevin", levels=1).count == 1


def test_the_churn_of_the_table_is_edms(generator: torch.Generator) -> None:
    """40 in all: below √2 − 1 a step, where it is cut off, from 97 levels on; σ from a 200th to a fifth of σ_max."""
    x, sampling = 5 * torch.randn(4, 2, generator=generator), SAMPLING.but(sampler="edm", levels=200)
    g = torch.Generator().manual_seed(3)
    *_, expected = edm(SCORE, x, sampling.ladder(), churn=40, churn_range=(0.025, 1.0), generator=g)
    assert torch.equal(descend(sampling, x)[-1], expected.x)


def test_another_sampler_comes_with_its_own_levels_and_guidance() -> None:
    guided = replace(SAMPLING, guidance=2.0, levels=7)
    assert guided.but().levels == 7
    assert guided.but(sampler="heun").levels == METHODS["heun"].levels
    assert guided.but(sampler="heun", levels=5).levels == 5
    assert guided.but(sampler="heun").guidance == 2
    assert guided.but(sampler="annealed").guidance == guided.but(sampler="langevin").guidance == 1
    assert guided.but(sampler="annealed", guidance=1.5).guidance == 1.5
    annealed = replace(guided, sampler="annealed", steps=9)
    assert annealed.but(guidance=2.0).guidance == 2
    assert annealed.but().steps == 9
    assert guided.but(sampler="annealed").steps == METHODS["annealed"].steps
    assert annealed.but(eps=1e-5).eps == 1e-5


@pytest.mark.parametrize(("given", "said"), [({"steps": 9}, "steps is 9"), ({"eps": 1e-4}, "eps is 0.0001")])
def test_langevin_steps_are_refused_by_who_takes_none(given: dict[str, Any], said: str) -> None:
    assert [name for name, method in METHODS.items() if method.langevin] == ["annealed", "langevin"]
    for name, method in METHODS.items():
        if method.langevin:
            SAMPLING.but(sampler=name, **given)
            continue
        with pytest.raises(ValueError, match=f"^{said}, but {name} takes no Langevin steps; annealed and langevin do$"):
            SAMPLING.but(sampler=name, **given)


def test_one_level_is_enough_where_it_is_the_only_one_or_langevin_stays_on_it() -> None:
    """Samplers that descend would end where they begin, in noise."""
    one = replace(SAMPLING, sampler="langevin", levels=1)
    for name, method in METHODS.items():
        if method.langevin:
            assert replace(one, sampler=name).count == 1
            continue
        with pytest.raises(ValueError, match=f"^levels is 1; {name} comes from noise level 5 to 0.5 by at least 2$"):
            replace(one, sampler=name)
        assert replace(one, sampler=name, sigma_max=0.5).count == 1


def test_who_begins_on_a_level_of_his_own_begins_in_as_much_noise(generator: torch.Generator) -> None:
    sampling = SAMPLING.but(levels=(2.0, 0.5, 0.1))
    x = sampling.start(torch.zeros(1, 2), 20_000, generator=generator)
    assert float(x.std()) == pytest.approx(2, rel=0.02)  # 6 standard errors


@pytest.mark.parametrize("guide", ["smaller", "unconditional"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 1.25, 1.5, 4.0])
@pytest.mark.parametrize("top", [2.0, 50.0])
def test_fast_is_the_default_on_as_many_levels_as_eight_evaluations_allow(
    guide: GuideName, weight: float, top: float, generator: torch.Generator
) -> None:
    own = replace(SAMPLING, sampler="dpmpp-sde", sigma_max=top, sigma_min=0.01, levels=30, guidance=weight, guide=guide)
    fast = own.but(sampler="fast")
    assert (fast.levels, fast.guidance) == (8, 1 if weight in (1, 1.25) else weight)
    for found in (fast.limited, own.but(sampler="fast", guidance=1.25).limited, fast.but(guidance=3.0).limited):
        network, other = Counted(SCORE), Counted(SCORE)
        score = guided(network, other, found.guidance, between=found.guided_between)
        x = 5 * torch.randn(3, 2, generator=generator)
        *_, last = found.follow(score, x, generator=torch.Generator().manual_seed(3))
        costs = network.nfe + other.nfe * (1 if guide == "unconditional" else 0.25)
        assert costs == found.evaluations <= 8
        assert replace(found, levels=found.count + 1).evaluations > 8
        same = replace(found, sampler="dpmpp-sde")
        *_, expected = same.follow(score, x, generator=torch.Generator().manual_seed(3))
        assert torch.equal(last.x, expected.x)
    assert own.limited == own, "who has no limit keeps his levels"


def test_levels_may_be_given_one_by_one(generator: torch.Generator) -> None:
    sampling = SAMPLING.but(levels=(4.0, 2.0, 0.7))
    steps = list(sampling.follow(SCORE, torch.zeros(2, 2), generator=generator))
    assert [step.sigma for step in steps] == pytest.approx([2.0, 0.7, 0.0])
    assert sampling.states == 3


def test_levels_may_rise_for_euler_which_evaluates_none_on_the_way_up(generator: torch.Generator) -> None:
    levels = (4.0, 2.0, 0.7, 2.0, 0.7)
    sampling, score = SAMPLING.but(sampler="euler", levels=levels), Counted(SCORE)
    steps = list(sampling.follow(score, torch.zeros(2, 2), generator=generator))
    assert [step.sigma for step in steps] == pytest.approx([*levels[1:], 0.0])
    assert sampling.states == len(steps)
    assert sampling.nfe == score.nfe == 4
    twice = replace(sampling, guidance=2.0, guide="unconditional", guided_between=(1.0, 3.0))
    assert twice.guided_nfe == 4 + 2, "the middle level is evaluated, and guided, twice"
    with pytest.raises(ValueError, match="are needed, descending"):
        SAMPLING.but(sampler="heun", levels=levels)


def test_samples_start_around_the_means_they_are_told(generator: torch.Generator) -> None:
    x = SAMPLING.start(torch.tensor([[-20.0, 3.0]]), 4000, generator=generator)
    assert abs(z_score(x[:, 0], -20)) < 4
    assert abs(z_score(x[:, 1], 3)) < 4
    each = SAMPLING.start(torch.tensor([[-900.0], [900.0]]), 2, generator=generator)
    assert each[0] < 0 < each[1]


def test_a_sampler_of_ones_own_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def jump(d: Descent) -> Iterator[Step]:
        return euler(d.score, d.x, d.sigmas[[0, -1]])

    monkeypatch.setitem(METHODS, "jump", Method(follow=jump, ladder="karras", levels=9, states=lambda levels, steps: 2))
    recipe = Recipe(network="mine", arguments={}, shape=(2,), sampling=SAMPLING)
    run = Run(score=SCORE, recipe=recipe)
    steps = list(run.steps(5, sampler="jump", seed=4))
    assert [step.sigma for step in steps] == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": 1.0, "sampler": "annealed"}, "eps is 1.0, steps is 3; allowed are 0 < eps < 1,"),
        ({"steps": 0}, "steps is 0"),
        ({"sigma_min": -1.0}, "sigma_min > 0"),
        ({"sampler": "hmc"}, "sampler is hmc; allowed are annealed"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": float("inf")}, "guidance is inf"),
        ({"guidance": -0.5}, "guidance is -0.5; it must be a number, at least 0"),
        ({"levels": 0}, "levels is 0"),
    ],
)
def test_refuses_what_could_not_be_sampled(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SAMPLING, **change)  # type: ignore[arg-type]


def test_langevin_is_not_given_levels() -> None:
    with pytest.raises(ValueError, match="levels is 5, but langevin stays on the smallest one"):
        SAMPLING.but(sampler="langevin", levels=5)
    with pytest.raises(ValueError, match="sampler is hmc"):
        SAMPLING.but(sampler="hmc")
