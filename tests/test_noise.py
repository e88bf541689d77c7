import math

import pytest
import torch
from helpers import z_score
from hypothesis import given
from hypothesis import strategies as st

from ncsn.noise import Geometric, Karras, LogNormal


@given(st.floats(0.1, 100), st.floats(1e-3, 0.1), st.integers(2, 50))
def test_geometric_ladder_descends_by_a_constant_ratio(high: float, low: float, levels: int) -> None:
    sigmas = Geometric(high, low, levels).sigmas()
    assert len(sigmas) == levels
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([high, low]))
    ratios = sigmas[1:] / sigmas[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(levels - 1))


def test_one_level_is_the_smallest() -> None:
    assert Geometric(5.0, 0.5, 1).sigmas().tolist() == [0.5]


def test_geometric_sample_draws_every_level_equally(generator: torch.Generator) -> None:
    noise = Geometric(10.0, 0.1, 4)
    drawn = noise.sample(40_000, generator=generator)
    for sigma in noise.sigmas():
        assert abs(z_score((drawn == sigma).float(), 0.25)) < 4


def test_lognormal_moments(generator: torch.Generator) -> None:
    drawn = LogNormal(-0.5, 0.8, 1e4, 1e-4).sample(100_000, generator=generator).log()
    assert abs(z_score(drawn, -0.5)) < 4
    assert abs(z_score((drawn + 0.5) ** 2, 0.64)) < 4


def test_lognormal_stays_within_its_ends(generator: torch.Generator) -> None:
    drawn = LogNormal(0.0, 3.0, 2.0, 0.5).sample(1000, generator=generator)
    assert drawn.min() == 0.5
    assert drawn.max() == 2.0


@pytest.mark.parametrize("arguments", [(1.0, 2.0, 3), (1.0, 0.0, 3), (1.0, -1.0, 3), (math.inf, 1.0, 3), (1.0, 0.1, 0)])
def test_geometric_refuses(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="is"):
        Geometric(*arguments)


@pytest.mark.parametrize("arguments", [(0.0, 0.0, 1.0, 0.1), (0.0, 1.0, 0.1, 1.0), (0.0, 1.0, 1.0, 0.0)])
def test_lognormal_refuses(arguments: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="is"):
        LogNormal(*arguments)


def test_lognormal_is_stratified(generator: torch.Generator) -> None:
    """One draw in each n-th of the distribution, in random order, and each position has all of it."""
    noise = LogNormal(-0.4, 1.2, 1e9, 1e-9)
    standard = (noise.sample(64, generator=generator).log() + 0.4) / 1.2
    strata = (torch.special.ndtr(standard) * 64).floor()
    assert sorted(strata.tolist()) == list(range(64))
    assert strata.tolist() != list(range(64))
    first = torch.stack([(noise.sample(4, generator=generator)[0].log() + 0.4) / 1.2 for _ in range(4000)])
    assert abs(z_score(first, 0)) < 4
    assert abs(z_score(first.square(), 1)) < 4


def test_karras_ladder_is_linear_in_the_root(generator: torch.Generator) -> None:
    sigmas = Karras(10.0, 0.01, 30).sigmas()
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([10.0, 0.01]))
    steps = (sigmas ** (1 / 7)).diff()
    torch.testing.assert_close(steps, steps[:1].expand(29), rtol=1e-3, atol=0)
    assert Karras(5.0, 0.5, 1).sigmas().tolist() == [0.5]
    with pytest.raises(ValueError, match="rho is 0"):
        Karras(5.0, 0.5, 3, rho=0.0)
    with pytest.raises(ValueError, match="sigma_max >= sigma_min"):
        Karras(0.1, 0.5, 3)
