import math

import pytest
import torch
from helpers import z_score
from hypothesis import given
from hypothesis import strategies as st

from ncsn.noise import (
    Geometric,
    Karras,
    LogNormal,
    LogUniform,
    langevin_eps,
    largest_distance,
    level_ratio,
    suggest_noise,
)


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


def test_loguniform_covers_its_range_evenly(generator: torch.Generator) -> None:
    log = LogUniform(10.0, 0.1).sample(64, generator=generator).log()
    strata = ((log - math.log(0.1)) / math.log(100) * 64).floor()
    assert sorted(strata.tolist()) == list(range(64))
    assert LogUniform(0.2, 0.2).sample(3).tolist() == pytest.approx([0.2] * 3)
    with pytest.raises(ValueError, match="sigma_max >= sigma_min"):
        LogUniform(0.1, 0.2)


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


def test_techniques_give_the_papers_values() -> None:
    """NCSNv2 for CIFAR-10: 50 to 0.01 in about 219 levels; for its 232 levels and 5 steps, ε = 6.2e-6, half of ours."""
    ratio = level_ratio(3072)
    assert 1 + math.log(50 / 0.01) / math.log(ratio) == pytest.approx(219, abs=3)
    assert level_ratio(784) == pytest.approx(1.082, abs=1e-3)
    assert [level_ratio(d) for d in (2, 4, 17)] == [2, 2, 2]
    assert 1.9 < level_ratio(20) < 2
    assert langevin_eps((50 / 0.01) ** (1 / 231), 0.01, 5) / 2 == pytest.approx(6.2e-6, rel=0.05)
    # CelebA 64: 90 to 0.01 in 500 levels; LSUN bedroom 128: 190 to 0.01 in 1086; FFHQ 256: 348 to 0.01 in 2311.
    assert langevin_eps((90 / 0.01) ** (1 / 499), 0.01, 5) / 2 == pytest.approx(3.3e-6, rel=0.1)
    assert langevin_eps((190 / 0.01) ** (1 / 1085), 0.01, 3) / 2 == pytest.approx(1.8e-6, rel=0.3)


@pytest.mark.parametrize("dimension", [50, 784])
@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.995])
def test_level_ratio_solves_its_equation(dimension: int, overlap: float) -> None:
    """Φ(√(2D)(γ − 1) + 3γ) − Φ(√(2D)(γ − 1) − 3γ): at 0.995 the first term is not 1 either."""
    ratio = level_ratio(dimension, overlap=overlap)
    shift = math.sqrt(2 * dimension) * (ratio - 1)
    upper, lower = (math.erf((shift + sign * 3 * ratio) / math.sqrt(2)) / 2 for sign in (1, -1))
    assert upper - lower == pytest.approx(overlap, abs=1e-9)


def test_largest_distance() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    assert largest_distance(x) == pytest.approx(5)


def test_largest_distance_is_that_over_all_parts_of_the_data() -> None:
    """In parts of 500: the last part's own largest is 4, and the mean of the three 6."""
    x = torch.zeros(1100, 1, 2)
    x[0, 0, 0], x[600, 0, 0] = -3, 4
    assert largest_distance(x) == pytest.approx(7)
    assert largest_distance(x, limit=600) == pytest.approx(3)


def test_suggestion_says_why(generator: torch.Generator) -> None:
    found = suggest_noise(torch.rand(300, 1, 8, 8, generator=generator))
    assert found.noise.sigma_min == pytest.approx(0.01, rel=0.02)
    assert 3 < found.noise.sigma_max < 8
    ratio = (found.noise.sigma_max / found.noise.sigma_min) ** (1 / (found.noise.levels - 1))
    assert 1 < ratio <= level_ratio(64)
    assert 0 < found.eps < 4 * found.noise.sigma_min**2
    assert len(found.explanation.splitlines()) == 4
    with pytest.raises(ValueError, match="no two different examples"):
        suggest_noise(torch.zeros(5, 2))
    for few in (0, 1):
        with pytest.raises(ValueError, match="no two different examples"):
            suggest_noise(torch.zeros(few, 2))


@given(st.floats(1.01, 1.5), st.integers(1, 20))
def test_langevin_eps_keeps_the_variance_best(ratio: float, steps: int) -> None:
    """The recursion itself, by hand: no other step leaves a variance nearer to σ² after the steps."""

    def variance(alpha: float) -> float:
        v = ratio**2
        for _ in range(steps):
            v = v * (1 - alpha / 2) ** 2 + alpha
        return v

    best = langevin_eps(ratio, 1.0, steps)
    for other in (best * 0.8, best * 1.2):
        assert abs(variance(best) - 1) <= abs(variance(other) - 1) + 1e-6


def test_numbers_that_are_not_finite_are_named() -> None:
    data = torch.zeros(9, 3)
    data[2, 1] = float("nan")
    with pytest.raises(ValueError, match="data has 1 numbers that are NaN or infinite"):
        suggest_noise(data)
