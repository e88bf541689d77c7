"""Densities beside those that are known, and how sure an estimate says it is."""

import math
from typing import Any

import pytest
import torch
from helpers import GaussianScore
from torch import Generator, Tensor

from ncsn.distributions import GaussianMixture
from ncsn.likelihood import Bits, Likelihood, bits_per_dimension, divergences, joined, log_prob
from ncsn.score import Counted, Score

MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), 0.5, torch.tensor([0.3, 0.7]).double())


def gaussian_log_prob(x: Tensor, mean: float, std: float) -> Tensor:
    return (-((x - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2).sum(1)


def test_divergence_is_the_trace(generator: Generator) -> None:
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    mixture = GaussianMixture(torch.randn(4, 3, generator=generator, dtype=torch.float64), 0.5)
    sigma = torch.linspace(0.3, 2, 5, dtype=torch.float64)
    basis = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 5, 3)
    score, parts = divergences(mixture, x, sigma, basis)
    torch.testing.assert_close(score, mixture(x, sigma))
    jacobians = torch.autograd.functional.jacobian(lambda y: mixture(y, sigma).sum(0), x)  # type: ignore[no-untyped-call]
    assert isinstance(jacobians, Tensor)
    torch.testing.assert_close(parts, torch.einsum("ibi->ib", jacobians))


@pytest.mark.parametrize(
    ("score", "truth", "mean", "top"),
    [
        *[(GaussianScore(0.4, 0.8), (0.4, 0.8, dimension), 0.4, 500) for dimension in (1, 2, 5)],
        (MIXTURE, MIXTURE, torch.tensor([0.8, 0.7]), 500),
    ],
)
def test_exact_on_what_is_known(
    score: Score, truth: Any, mean: float | Tensor, top: float, generator: Generator
) -> None:
    """Every point beside its own density, for points near and far."""
    dimension = truth[2] if isinstance(truth, tuple) else 2
    x = 3 * torch.randn(20, dimension, generator=generator, dtype=torch.float64)
    estimate = log_prob(score, x, sigma_max=top, sigma_min=0.05, mean=mean, tolerance=1e-6)
    if isinstance(truth, tuple):
        expected = gaussian_log_prob(x, truth[0], math.hypot(truth[1], 0.05))
    else:
        expected = truth.log_prob(x, 0.05)
    assert float((estimate.log_prob - expected).abs().max()) < 1e-3
    assert float(estimate.standard_error.max()) == 0


def test_images_of_another_mean_at_every_pixel(generator: Generator) -> None:
    """The mean is of one example's shape, and so are the densities' sums over rows, columns and channels."""
    mean = torch.randn(1, 2, 2, 3, generator=generator, dtype=torch.float64)[0]

    def score(x: Tensor, sigma: float | Tensor, /) -> Tensor:
        return (mean - x) / (0.5**2 + torch.as_tensor(sigma) ** 2)

    x = mean + torch.randn(4, 2, 2, 3, generator=generator, dtype=torch.float64)
    estimate = log_prob(score, x, sigma_max=300, sigma_min=0.1, mean=mean, tolerance=1e-6)
    expected = gaussian_log_prob((x - mean).flatten(1), 0, math.hypot(0.5, 0.1))
    torch.testing.assert_close(estimate.log_prob, expected, rtol=0, atol=1e-3)


def test_probes_are_unbiased_and_say_how_sure_they_are(generator: Generator) -> None:
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64) * 2
    exact = log_prob(MIXTURE, x, sigma_max=50, sigma_min=0.1)
    estimate = log_prob(MIXTURE, x, sigma_max=50, sigma_min=0.1, probes=60, generator=generator)
    z = (estimate.log_prob - exact.log_prob) / estimate.standard_error.clamp(min=1e-3)
    assert float(z.abs().max()) < 4.5
    assert float(z.square().mean()) < 3


def test_the_standard_error_is_that_of_the_mean_over_probes(generator: Generator) -> None:
    """It is what 300 estimates at one point, each by its own 8 probes, scatter by."""
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64).expand(300, 2)
    estimate = log_prob(MIXTURE, x, sigma_max=50, sigma_min=0.1, probes=8, tolerance=1e-3, generator=generator)
    claimed = float(estimate.standard_error.square().mean().sqrt())
    assert claimed == pytest.approx(float(estimate.log_prob.std()), rel=0.2)  # 4 standard errors


def test_one_probe_does_not_know_how_sure_it_is(generator: Generator) -> None:
    x = torch.randn(3, 2, generator=generator)
    estimate = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1, probes=1, generator=generator)
    assert bool(estimate.standard_error.isnan().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_max": 0.1, "sigma_min": 1}, "sigma_max > sigma_min"),
        ({"sigma_max": 1, "sigma_min": 0}, "sigma_max > sigma_min > 0"),
        ({"sigma_max": 1, "sigma_min": 1}, "sigma_max > sigma_min > 0"),
        ({"sigma_max": math.inf, "sigma_min": 0.1}, "sigma_max, sigma_min are inf"),
        ({"sigma_max": 1, "sigma_min": 0.1, "probes": 0}, "probes is 0"),
        ({"sigma_max": 1, "sigma_min": 0.1, "tolerance": 0.0}, "tolerance is 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
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
    score, x = Counted(MIXTURE), torch.randn(3, 2, generator=generator, dtype=torch.float64)
    loose = log_prob(score, x, sigma_max=50, sigma_min=0.1, tolerance=1e-3)
    assert loose.nfe == score.nfe > 20
    assert log_prob(score, x, sigma_max=50, sigma_min=0.1, tolerance=1e-5).nfe > 1.5 * loose.nfe


def test_one_hard_point_among_many_easy_ones_is_as_exact_as_alone() -> None:
    """The step suits the worst point: a mean over all would let it off."""
    mixture = GaussianMixture(torch.tensor([[-6.0, 0.0], [6.0, 0.0]]).double(), 0.2)
    hard, easy = torch.tensor([[0.05, 0.3]], dtype=torch.float64), torch.zeros(400, 2, dtype=torch.float64)
    easy[:, 0] = 6.0
    truth = float(mixture.log_prob(hard, 0.05))
    alone, among = (
        log_prob(mixture, x, sigma_max=300, sigma_min=0.05, tolerance=1e-3) for x in (hard, torch.cat([easy, hard]))
    )
    assert among.nfe >= 0.8 * alone.nfe
    assert abs(float(among.log_prob[-1]) - truth) <= 1.5 * abs(float(alone.log_prob[0]) - truth) + 0.02


def test_how_far_a_point_is_off_for_a_finite_sigma_max(generator: Generator) -> None:
    """v√D/(√2σ²) for a point, as the docstring says; the mean over data is far smaller, v²D/(4σ⁴)."""
    std, dimension, top = 2.0, 6, 12.0
    x = std * torch.randn(4000, dimension, generator=generator, dtype=torch.float64)
    estimate = log_prob(GaussianScore(0, std), x, sigma_max=top, sigma_min=0.05, tolerance=1e-6)
    error = estimate.log_prob - gaussian_log_prob(x, 0, math.hypot(std, 0.05))
    assert float(error.std()) == pytest.approx(std**2 * dimension**0.5 / (2**0.5 * top**2), rel=0.1)
    assert abs(float(error.mean())) < 4 * float(error.std()) / 4000**0.5 + std**4 * dimension / (4 * top**4)


def test_everything_may_be_made_in_inference_mode() -> None:
    """The distribution, the points, the noise level and the directions."""

    def made() -> tuple[Tensor, Tensor]:
        mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
        x = torch.tensor([[0.5, 0.5], [-1.0, 2.0]])
        parts = divergences(mixture, x, torch.tensor(0.7), torch.ones(1, 2, 2))[1]
        return log_prob(mixture, x, sigma_max=50, sigma_min=0.1).log_prob, parts

    expected = made()
    with torch.inference_mode():
        again = made()
        assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True))
    assert not again[0].is_inference()  # so that it can be differentiated, or changed, afterwards


def test_points_may_be_numbers_or_none(generator: Generator) -> None:
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    column = log_prob(GaussianScore(0, 1), x[:, None], sigma_max=50, sigma_min=0.1)
    for probes in (None, 3):
        numbers = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1, probes=probes, generator=generator)
        torch.testing.assert_close(numbers.log_prob, column.log_prob, rtol=0, atol=5e-4)
    none = log_prob(GaussianScore(0, 1), x[:0], sigma_max=50, sigma_min=0.1).log_prob
    assert (none.shape, none.dtype) == ((0,), torch.float64)


def test_parts_are_joined_and_bits_have_errors_of_their_own() -> None:
    assert float(bits_per_dimension(torch.zeros(1), 784)) == 8  # density 1 on the unit cube
    parts = [
        Likelihood(torch.tensor([0.0]), torch.tensor([2.0]), 30),
        Likelihood(torch.tensor([100 * math.log(2)] * 2), torch.tensor([4.0, 6.0]), 20),
    ]
    whole = joined(parts)
    assert whole.nfe == 30
    bits = Bits.of(whole, 100)
    torch.testing.assert_close(bits.each, torch.tensor([8.0, 7.0, 7.0]))
    torch.testing.assert_close(bits.error, torch.tensor([2.0, 4.0, 6.0]) / (100 * math.log(2)))
    assert bits.mean == pytest.approx(22 / 3)
    assert bits.mean_error == pytest.approx(float(torch.tensor([8.0, 7.0, 7.0]).std()) / 3**0.5)
    assert math.isnan(Bits.of(parts[0], 100).mean_error)
    with pytest.raises(ValueError, match="no likelihoods"):
        joined([])
