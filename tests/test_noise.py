"""Where noise levels end, and NCSNv2's techniques beside the paper's numbers; test_laws.py has their distributions."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers import refuses, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

import ncsn
from ncsn.noise import LogNormal, LogUniform, langevin_eps, level_ratio


def test_one_level_is_the_smallest() -> None:
    assert ncsn.Geometric(5.0, 0.5, 1).sigmas().tolist() == ncsn.Karras(5.0, 0.5, 1).sigmas().tolist() == [0.5]


PROPOSALS = [
    (LogNormal(-0.4, 1.2, 1e9, 1e-9), lambda sigma: torch.special.ndtr((sigma.double().log() + 0.4) / 1.2)),
    (LogUniform(5.0, 0.1), lambda sigma: (sigma.double() / 0.1).log() / math.log(50)),
]


@pytest.mark.parametrize(("noise", "quantile"), PROPOSALS)
def test_proposals_are_stratified(
    noise: LogNormal | LogUniform, quantile: Callable[[Tensor], Tensor], generator: Generator
) -> None:
    """One draw in each n-th of the distribution, in random order, and each position has all of it."""
    places = 640 * quantile(noise.sample(640, generator=generator))
    strata = places.floor().tolist()
    assert sorted(strata) == list(range(640)) != strata
    assert abs(z_score(places.frac().square(), 1 / 3)) < 4
    first = torch.stack([quantile(noise.sample(4, generator=generator))[0] for _ in range(2000)])
    assert abs(z_score(first, 1 / 2)) < 4
    assert abs(z_score(first.square(), 1 / 3)) < 4


def test_proposals_stay_within_their_ends(generator: Generator) -> None:
    drawn = LogNormal(0.0, 3.0, 2.0, 0.5).sample(1000, generator=generator)
    assert [float(drawn.min()), float(drawn.max())] == [0.5, 2.0]
    assert LogUniform(0.2, 0.2).sample(3).tolist() == pytest.approx([0.2] * 3)


NOISES = LogUniform(1.0, 0.1), LogNormal(0.0, 1.0, 1.0, 0.1), ncsn.Karras(1.0, 0.1, 3)
REFUSED = [
    (lambda: ncsn.Geometric(1.0, 2.0, 3), "sigma_max >= sigma_min > 0"),
    (lambda: ncsn.Geometric(math.inf, 1.0, 3), "sigma_max is inf"),
    (lambda: ncsn.Geometric(1.0, 0.1, 0), "levels is 0"),
    (lambda: ncsn.Geometric(0.1, 0.1, 3), "3 levels are equal"),
    (lambda: ncsn.suggest_noise(torch.eye(2), steps=0), "steps"),
    (lambda: LogUniform(0.1, 0.0), "sigma_min is 0"),
    *((lambda noise=noise: noise.sample(-1), "n is -1") for noise in NOISES),
    (lambda: ncsn.Karras("a", 0.1, 3), "sigma_max is 'a'"),  # type: ignore[arg-type]
    (lambda: ncsn.Karras(torch.ones(1), 0.1, 3), "sigma_max is tensor"),  # type: ignore[arg-type]
    (lambda: LogNormal(math.nan, 1.0, 1.0, 0.1), "mean is nan"),
    (lambda: LogNormal(0.0, -1.0, 1.0, 0.1), "std is -1"),
    (lambda: LogNormal(0.0, 1.0, 0.1, 1.0), "sigma_max >= sigma_min > 0"),
    *((lambda n=n: ncsn.suggest_noise(torch.zeros(n, 2)), "data has") for n in (0, 5)),
    (lambda: ncsn.suggest_noise(torch.tensor([[0.0, math.nan], [1.0, 2.0]])), "data has"),
]


test_bad_arguments_are_refused = refuses(REFUSED)


def test_techniques_give_the_papers_values() -> None:
    """NCSNv2 for CIFAR-10: 50 to 0.01 in about 219 levels; for its 232 levels and 5 steps, ε = 6.2e-6, half of ours."""
    assert 1 + math.log(50 / 0.01) / math.log(level_ratio(3072)) == pytest.approx(219, abs=3)
    assert level_ratio(784) == pytest.approx(1.082, abs=1e-3)
    assert [level_ratio(d) for d in (2, 4, 17)] == [2, 2, 2]
    assert 1.9 < level_ratio(20) < 2
    assert langevin_eps((50 / 0.01) ** (1 / 231), 0.01, 5) / 2 == pytest.approx(6.2e-6, rel=0.05)
    # CelebA 64: 90 to 0.01 in 500 levels; LSUN bedroom 128: 190 to 0.01 in 1086; FFHQ 256: 348 to 0.01 in 2311.
    assert langevin_eps((90 / 0.01) ** (1 / 499), 0.01, 5) / 2 == pytest.approx(3.3e-6, rel=0.1)
    assert langevin_eps((190 / 0.01) ** (1 / 1085), 0.01, 3) / 2 == pytest.approx(1.8e-6, rel=0.3)


@given(st.floats(1.01, 1.5), st.integers(1, 20))
def test_langevin_eps_keeps_the_variance_best(ratio: float, steps: int) -> None:
    """The recursion itself, by hand: no other step leaves a variance nearer to σ² after the steps."""

    def error(alpha: float) -> float:
        v = ratio**2
        for _ in range(steps):
            v = v * (1 - alpha / 2) ** 2 + alpha
        return abs(v - 1)

    best = langevin_eps(ratio, 1.0, steps)
    assert error(best) <= min(error(best * 0.8), error(best * 1.2)) + 1e-6
    assert langevin_eps(ratio, 0.1, steps) == pytest.approx(best / 100)


@pytest.mark.parametrize(("n", "distance"), [(1100, math.hypot(6, 4)), (10_051, 3)])
def test_the_largest_noise_is_the_largest_distance_of_the_first_10_000_examples(n: int, distance: float) -> None:
    """They are compared in parts of 500: the farthest pair lies in the second and the last."""
    x = torch.zeros(n, 1, 2)
    x[600, 0, 0], x[n - 50, 0] = -3, torch.tensor([3.0, 4.0])
    assert ncsn.suggest_noise(x).noise.sigma_max == pytest.approx(distance)


def test_a_suggestion_follows_the_techniques_and_says_why(generator: Generator) -> None:
    """Coordinates of other ranges and places: the largest range, 4, is what σ_min is a hundredth of."""
    data = torch.rand(300, 8, 8, generator=generator) * torch.linspace(0.5, 4, 8) + 50 * torch.arange(8)
    for sigma_min, expected in ((None, 0.04), (0.1, 0.1)):
        suggestion = ncsn.suggest_noise(data, sigma_min=sigma_min, steps=3)
        noise = suggestion.noise
        assert noise.sigma_min == pytest.approx(expected, rel=0.02)
        assert noise.sigma_max == pytest.approx(float(torch.cdist(data.flatten(1), data.flatten(1)).max()), rel=1e-4)
        ratio = (noise.sigma_max / noise.sigma_min) ** (1 / (noise.levels - 1))
        coarser = (noise.sigma_max / noise.sigma_min) ** (1 / (noise.levels - 2))
        assert ratio <= level_ratio(64) < coarser
        assert suggestion.steps == 3
        assert suggestion.eps == langevin_eps(level_ratio(64), noise.sigma_min, 3)
        assert len(suggestion.explanation.splitlines()) == 4
