"""How sure an estimate of a density says it is, and what it costs; test_laws.py has the exact ones."""

import math
from typing import Any

import pytest
import torch
from helpers import Counting, GaussianScore, z_score
from torch import Generator, Tensor

from ncsn.distributions import GaussianMixture
from ncsn.likelihood import bits_per_dimension, log_prob
from ncsn.score import Score, Sigma, expand
from ncsn.surprises import surprise

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), 0.5, torch.tensor([0.3, 0.7]).double())


def test_probes_are_unbiased_and_say_how_sure_they_are(generator: Generator) -> None:
    """300 estimates at each of three points, each by its own 8 probes; a single probe does not know."""
    x = torch.tensor([[0.5, -0.8], [-2.0, 0.3], [3.0, 4.0]], dtype=torch.float64)
    exact = log_prob(MIXTURE, x, sigma_max=50, sigma_min=0.1).log_prob
    estimate = log_prob(MIXTURE, x.repeat(300, 1), sigma_max=50, sigma_min=0.1, probes=8, generator=generator)
    estimates, errors = estimate.log_prob.view(300, 3), estimate.standard_error.view(300, 3)
    for i in range(3):
        assert abs(z_score(estimates[:, i], float(exact[i]))) < 4
        # 4 standard errors
        assert float(errors[:, i].square().mean().sqrt()) == pytest.approx(float(estimates[:, i].std()), rel=0.2)
    single = log_prob(MIXTURE, x, sigma_max=50, sigma_min=0.1, probes=1, generator=generator)
    assert bool(single.standard_error.isnan().all())


OPTIONS = {"sigma_max": (0.1, math.inf), "sigma_min": (0, 1), "probes": (0,), "tolerance": (0.0, math.inf)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPTIONS.items() for value in values])
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    options: dict[str, Any] = {"sigma_max": 1, "sigma_min": 0.1, name: value}
    with pytest.raises(ValueError, match=rf"{name}.* {value}\b"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), **options)


def test_a_score_that_is_not_finite_is_refused() -> None:
    """At the first point scipy's solver would never end; further on it gives up, and says so."""

    def wrong_from(level: float) -> Score:
        return lambda x, sigma: -x if float(torch.as_tensor(sigma)) < level else x * math.nan

    with pytest.raises(ValueError, match=r"not finite at sigma = 0\.1"):
        log_prob(wrong_from(0), torch.zeros(2, 2), sigma_max=50, sigma_min=0.1)
    with pytest.raises(ValueError, match="could not be followed to sigma = 50"):
        log_prob(wrong_from(3), torch.zeros(2, 2), sigma_max=50, sigma_min=0.1)


def test_evaluations_are_counted_and_follow_the_tolerance(generator: Generator) -> None:
    score, x = Counting(MIXTURE), torch.randn(3, 2, generator=generator, dtype=torch.float64)
    loose = log_prob(score, x, sigma_max=50, sigma_min=0.1, tolerance=1e-3)
    assert loose.nfe == score.nfe > 20
    assert log_prob(score, x, sigma_max=50, sigma_min=0.1, tolerance=1e-5).nfe > 1.5 * loose.nfe


def test_one_hard_point_among_many_easy_ones_is_as_exact_as_alone() -> None:
    """The step suits the worst point: a mean over all would let it off."""
    mixture = GaussianMixture(torch.tensor([[-6.0, 0.0], [6.0, 0.0]]).double(), 0.2)
    hard, easy = torch.tensor([[0.05, 0.3]], dtype=torch.float64), torch.zeros(400, 2, dtype=torch.float64)
    easy[:, 0] = 6.0
    truth = float(mixture.log_prob(hard, 0.05))
    points = hard, torch.cat([easy, hard])
    alone, among = (log_prob(mixture, x, sigma_max=300, sigma_min=0.05, tolerance=1e-3) for x in points)
    assert among.nfe >= 0.8 * alone.nfe
    assert abs(float(among.log_prob[-1]) - truth) <= 1.5 * abs(float(alone.log_prob[0]) - truth) + 0.02


def test_everything_may_be_made_in_inference_mode() -> None:
    found = []
    for inference in (False, True):
        with torch.inference_mode(inference):
            mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
            x = torch.tensor([[0.5, 0.5], [-1.0, 2.0]])
            found.append(log_prob(mixture, x, sigma_max=50, sigma_min=0.1).log_prob)
    assert torch.equal(*found)
    assert not found[1].is_inference()  # so that it can be differentiated, or changed, afterwards


def test_points_may_be_numbers(generator: Generator) -> None:
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    column = log_prob(GaussianScore(0, 1), x[:, None], sigma_max=50, sigma_min=0.1)
    for probes in (None, 3):
        numbers = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1, probes=probes, generator=generator)
        torch.testing.assert_close(numbers.log_prob, column.log_prob, rtol=0, atol=5e-4)


def test_densities_cost_bits() -> None:
    """Density 1 on the unit cube costs a byte; 2^100 in 100 dimensions one bit less."""
    log_densities = torch.tensor([0.0, 100 * math.log(2)])
    torch.testing.assert_close(bits_per_dimension(log_densities, 100), torch.tensor([8.0, 7.0]))


def gaussian(mean: Tensor, std: Tensor) -> Score:
    """The score of independent coordinates, the last axis of x."""

    def score(x: Tensor, sigma: Sigma, /) -> Tensor:
        return (mean - x) / (std**2 + expand(sigma, x) ** 2)

    return score


def test_surprises_are_split_by_independent_coordinates(generator: Generator) -> None:
    """Of any shape, in any order; their sum is in test_laws.py."""
    x = torch.tensor([[0.5, -0.8], [-2.0, 0.3], [3.0, 4.0], [1.9, 1.2]], dtype=torch.float64)
    mean, std = torch.tensor([1.0, -3.0]).double(), torch.tensor([2.0, 0.5]).double()
    copies = x.repeat(25, 1).view(100, 1, 1, 2)
    alone = surprise(gaussian(mean, std), copies, sigma_max=50, sigma_min=0.01, levels=40, generator=generator)
    by_coordinate = ((x - mean) / std).square() / 2 + (std * math.sqrt(2 * math.pi)).log()
    torch.testing.assert_close(alone.where.view(25, 4, 2).mean(0), by_coordinate, atol=0.2, rtol=0.05)


def test_what_is_unusual_at_a_small_scale_adds_at_small_noise(generator: Generator) -> None:
    """Points on a thin line, shifted off it by six of its widths or along it by four of its lengths."""
    width, length = 0.05, 2.0
    line = gaussian(torch.zeros(2), torch.tensor([length, width]))
    x = torch.tensor([[0.0, 6 * width], [4 * length, 0.0], [0.0, 0.0]])
    parts = surprise(line, x, sigma_max=80, sigma_min=0.005, spread=length, repeats=20, generator=generator)
    off, along = (parts.at_level[:2] - parts.at_level[2]).abs()
    typical = [float((parts.levels.log() * part).sum() / part.sum()) for part in (off, along)]
    assert typical[0] < math.log(4 * width)
    assert parts.where.argmax(1)[:2].tolist() == [1, 0]
    assert float(parts.where[0, 1] - parts.where[2, 1]) == pytest.approx(6**2 / 2, rel=0.2)
    assert float(parts.where[1, 0] - parts.where[2, 0]) == pytest.approx(4**2 / 2, rel=0.2)


@pytest.mark.parametrize(("name", "value"), [("sigma_max", 0.1), ("sigma_min", 0), ("levels", 0), ("repeats", 1)])
def test_impossible_options_of_surprise_are_refused(name: str, value: float) -> None:
    options: dict[str, Any] = {"sigma_max": 1, "sigma_min": 0.1, name: value}
    with pytest.raises(ValueError, match=rf"{name}.* {value}\b"):
        surprise(MIXTURE, torch.zeros(1, 2), **options)
