from dataclasses import replace
from typing import get_args

import pytest
import torch
from helpers import GaussianScore, z_score

from ncsn.recipe import LEVELS, Recipe
from ncsn.settings import Images, SamplerName

RECIPE = Recipe(
    network="MLP",
    arguments={"dimensions": 2, "width": 8, "layers": 1},
    shape=(2,),
    sigma_max=5.0,
    sigma_min=0.5,
    sampler="dpmpp-sde",
    levels=None,
    steps=3,
    eps=0.05,
)
NAMES = get_args(SamplerName)


def test_every_sampler_has_a_default_number_of_levels() -> None:
    assert set(LEVELS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_yields_the_states_it_says_and_samples_a_gaussian(
    name: SamplerName, generator: torch.Generator
) -> None:
    x = RECIPE.start(GaussianScore(1.0, 0.5), 4000, generator=generator)
    assert float(x.std()) == pytest.approx(5, abs=0.2)
    states = list(RECIPE.path(GaussianScore(1.0, 0.5), x, sampler=name, generator=generator))
    sigmas = RECIPE.states(name)
    assert len(states) == len(sigmas)
    assert sigmas[-1] == 0
    if name != "langevin":  # which never leaves its start
        assert float(states[-1].mean()) == pytest.approx(1, abs=0.1)
        # The last state is the mean of the clean data, whose std is s²/√(s² + σ²) = 0.354.
        assert float(states[-1].std()) == pytest.approx(0.354, abs=0.04)


def test_guidance_comes_from_the_call_or_the_run() -> None:
    score, guide = GaussianScore(0.0, 1.0), GaussianScore(0.0, 3.0)
    assert RECIPE.guided(score, guide) is score
    assert replace(RECIPE, guidance=2.0).guided(score, None) is score
    x, sigma = torch.ones(2, 2), torch.tensor(1.0)
    found = replace(RECIPE, guidance=2.0).guided(score, guide)(x, sigma)
    torch.testing.assert_close(found, 2 * score(x, sigma) - guide(x, sigma))
    torch.testing.assert_close(RECIPE.guided(score, guide, 3.0)(x, sigma), 3 * score(x, sigma) - 2 * guide(x, sigma))


def test_annealing_is_guided_only_where_it_is_the_runs_own_sampler_or_asked() -> None:
    recipe = replace(RECIPE, guidance=2.0)
    assert recipe.weight() == recipe.weight("pc") == 2
    assert recipe.weight("annealed") == recipe.weight("langevin") == 1
    assert replace(recipe, sampler="annealed").weight("annealed") == 2
    assert Images().guide_weight == 2
    assert Images(sampler="annealed").guide_weight == 1
    assert Images(sampler="annealed", guidance=1.5).guide_weight == 1.5


def test_widths_are_the_papers_or_half_for_a_guide() -> None:
    assert Images().network_arguments == {"channels": (64, 128), "blocks": 2, "features": 64}
    assert Images(channels=(24, 1)).guide_arguments == {"channels": (12, 1), "blocks": 1, "features": 12}
    assert Images(network="refinenet").network_arguments == {"width": 64, "features": 128}
    assert Images(network="refinenet-v2", channels=(16,)).guide_arguments == {"width": 8, "features": 0}


def test_start_is_around_the_mean_that_the_score_knows(generator: torch.Generator) -> None:
    x = RECIPE.start(GaussianScore(-20.0, 0.5), 4000, generator=generator)
    assert abs(z_score(x.flatten(), -20 * 25 / 25.25)) < 4  # Tweedie pulls a hundredth of the way to the noise's mean


def test_levels_come_from_the_call_or_the_run_or_the_sampler() -> None:
    assert len(RECIPE.ladder()) == LEVELS["dpmpp-sde"]
    assert len(RECIPE.ladder("heun")) == LEVELS["heun"]
    assert len(RECIPE.ladder("heun", 5)) == 5
    fixed = replace(RECIPE, levels=7)
    assert len(fixed.ladder()) == 7
    assert len(fixed.ladder("heun")) == LEVELS["heun"]
    assert RECIPE.states("annealed", 4)[0] == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"eps": 1.0}, "eps is 1.0"), ({"steps": 0}, "steps is 0"), ({"sigma_min": -1.0}, "sigma_min > 0")],
)
def test_refuses_what_could_not_be_sampled(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)  # type: ignore[arg-type]


def test_refuses_an_unknown_network() -> None:
    with pytest.raises(ValueError, match="allowed are"):
        replace(RECIPE, network="GAN").build(0.0, 1.0)
