import math

import pytest
import torch
from helpers import GaussianScore

from ncsn.distributions import GaussianMixture
from ncsn.likelihood import Bits, Likelihood, bits_per_dimension, divergences, joined, log_prob
from ncsn.score import Counted


def test_divergence_is_the_trace(generator: torch.Generator) -> None:
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    mixture = GaussianMixture(torch.randn(4, 3, generator=generator, dtype=torch.float64), 0.5)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    basis = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 5, 3)
    score, parts = divergences(mixture, x, sigma, basis)
    torch.testing.assert_close(score, mixture(x, sigma))
    jacobians = torch.autograd.functional.jacobian(lambda y: mixture(y, sigma).sum(0), x)  # type: ignore[no-untyped-call]
    assert isinstance(jacobians, torch.Tensor)
    torch.testing.assert_close(parts.sum(0), torch.einsum("ibi->b", jacobians))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_exact_on_gaussians(dimension: int, generator: torch.Generator) -> None:
    mean, std, sigma_min = 0.4, 0.8, 0.05
    x = mean + std * torch.randn(20, dimension, generator=generator, dtype=torch.float64)
    found = log_prob(GaussianScore(mean, std), x, sigma_max=100, sigma_min=sigma_min, mean=mean, tolerance=1e-6)
    truth = torch.distributions.Normal(mean, math.hypot(std, sigma_min)).log_prob(x).sum(1)  # type: ignore[no-untyped-call]
    assert float((found.log_prob - truth).abs().max()) < 1e-3
    assert float(found.standard_error.max()) == 0


def test_exact_on_a_mixture(generator: torch.Generator) -> None:
    mixture = GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]).double(), 1.0, torch.tensor([0.2, 0.8]).double())
    x = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 16 - 8
    mean = torch.tensor([3.0, 3.0])
    found = log_prob(mixture, x, sigma_max=500, sigma_min=0.1, mean=mean, tolerance=1e-6)
    truth = mixture.log_prob(x, torch.tensor(0.1, dtype=torch.float64))
    assert float((found.log_prob - truth).abs().max()) < 1e-3


def test_probes_are_unbiased_and_say_how_sure_they_are(generator: torch.Generator) -> None:
    mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), 0.5)
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64) * 2
    exact = log_prob(mixture, x, sigma_max=50, sigma_min=0.1)
    found = log_prob(mixture, x, sigma_max=50, sigma_min=0.1, probes=200, generator=generator)
    z = (found.log_prob - exact.log_prob) / found.standard_error.clamp(min=1e-3)
    assert float(z.abs().max()) < 4.5
    assert float(z.square().mean()) < 3


def test_a_uniform_byte_costs_eight_bits() -> None:
    assert float(bits_per_dimension(torch.zeros(1), 784)) == 8  # density 1 on the unit cube
    assert float(bits_per_dimension(torch.tensor([784 * math.log(256)]), 784)) == pytest.approx(0)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="sigma_max > sigma_min"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=0.1, sigma_min=1)
    with pytest.raises(ValueError, match="sigma_max > sigma_min > 0"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=1, sigma_min=0)
    with pytest.raises(ValueError, match="sigma_max > sigma_min > 0"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=1, sigma_min=1)
    with pytest.raises(ValueError, match="probes is 0"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=1, sigma_min=0.1, probes=0)
    with pytest.raises(ValueError, match="sigma_max, sigma_min are inf"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=math.inf, sigma_min=0.1)
    with pytest.raises(ValueError, match="tolerance is 0"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=1, sigma_min=0.1, tolerance=0.0)


def test_one_probe_does_not_know_how_sure_it_is(generator: torch.Generator) -> None:
    x = torch.randn(3, 2, generator=generator)
    found = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1, probes=1, generator=generator)
    assert bool(found.standard_error.isnan().all())


def test_the_standard_error_is_that_of_the_mean_over_probes(generator: torch.Generator) -> None:
    """It falls like 1/√probes, and it is what repeated estimates scatter by."""
    mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double(), 0.5)
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    found = [
        log_prob(mixture, x, sigma_max=50, sigma_min=0.1, probes=8, tolerance=1e-3, generator=generator)
        for _ in range(60)
    ]
    scatter = float(torch.cat([f.log_prob for f in found]).std())
    claimed = float(torch.cat([f.standard_error for f in found]).square().mean().sqrt())
    assert claimed == pytest.approx(scatter, rel=0.35)


def test_evaluations_are_counted(generator: torch.Generator) -> None:
    score, x = Counted(GaussianScore(0, 1)), torch.randn(3, 2, generator=generator)
    found = log_prob(score, x, sigma_max=50, sigma_min=0.1)
    assert found.nfe == score.nfe > 20


def test_one_hard_point_among_many_easy_ones_is_as_exact_as_alone() -> None:
    """The step suits the worst point: a mean over all would let it off."""

    mixture = GaussianMixture(torch.tensor([[-6.0, 0.0], [6.0, 0.0]]).double(), 0.2)
    hard, easy = torch.tensor([[0.05, 0.3]], dtype=torch.float64), torch.zeros(400, 2, dtype=torch.float64)
    easy[:, 0] = 6.0
    for tolerance in (1e-3, 1e-4):
        alone = log_prob(mixture, hard, sigma_max=300, sigma_min=0.05, tolerance=tolerance)
        among = log_prob(mixture, torch.cat([hard, easy]), sigma_max=300, sigma_min=0.05, tolerance=tolerance)
        truth = float(mixture.log_prob(hard, 0.05))
        assert abs(float(among.log_prob[0]) - truth) <= 1.5 * abs(float(alone.log_prob[0]) - truth) + 20 * tolerance


def test_densities_work_in_inference_mode_and_for_no_point(generator: torch.Generator) -> None:
    x = torch.randn(3, 2, generator=generator)
    expected = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1).log_prob
    with torch.inference_mode():
        assert torch.equal(log_prob(GaussianScore(0, 1), x.clone(), sigma_max=50, sigma_min=0.1).log_prob, expected)
    none = log_prob(GaussianScore(0, 1), x[:0], sigma_max=50, sigma_min=0.1).log_prob
    assert (none.shape, none.dtype) == ((0,), torch.float64)


def test_densities_and_divergences_of_what_was_made_in_inference_mode() -> None:
    """Everything in it: the distribution, the points, the noise level and the directions."""

    def made() -> tuple[torch.Tensor, torch.Tensor]:
        mixture = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5)
        x = torch.tensor([[0.5, 0.5], [-1.0, 2.0]])
        parts = divergences(mixture, x, torch.tensor(0.7), torch.ones(1, 2, 2))[1]
        return log_prob(mixture, x, sigma_max=50, sigma_min=0.1).log_prob, parts

    expected = made()
    with torch.inference_mode():
        found = made()
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not found[0].is_inference()  # so that it can be differentiated, or changed, afterwards


def test_density_of_points_that_are_numbers(generator: torch.Generator) -> None:
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    for probes in (None, 3):
        found = log_prob(GaussianScore(0, 1), x, sigma_max=50, sigma_min=0.1, probes=probes, generator=generator)
        column = log_prob(GaussianScore(0, 1), x[:, None], sigma_max=50, sigma_min=0.1)
        torch.testing.assert_close(found.log_prob, column.log_prob, rtol=0, atol=5e-4)


def test_a_score_that_is_not_finite_is_refused() -> None:
    """At the first point scipy's solver would never end; further on it gives up, and says so."""
    with pytest.raises(ValueError, match=r"not finite at sigma = 0\.1"):
        log_prob(lambda x, sigma: x * math.nan, torch.zeros(2, 2), sigma_max=50, sigma_min=0.1)
    with pytest.raises(ValueError, match="could not be followed to sigma = 50"):
        log_prob(
            lambda x, sigma: -x if float(torch.as_tensor(sigma)) < 3 else x * math.nan,
            torch.zeros(2, 2),
            sigma_max=50,
            sigma_min=0.1,
        )


def test_how_far_a_point_is_off_for_a_finite_sigma_max(generator: torch.Generator) -> None:
    """v√D/(√2σ²) for a point, as the docstring says; the mean over data is far smaller, v²D/(4σ⁴)."""
    std, dimension, top = 2.0, 6, 12.0
    x = std * torch.randn(4000, dimension, generator=generator, dtype=torch.float64)
    found = log_prob(GaussianScore(0, std), x, sigma_max=top, sigma_min=0.05, tolerance=1e-6)
    truth = torch.distributions.Normal(0.0, math.hypot(std, 0.05)).log_prob(x).sum(1)  # type: ignore[no-untyped-call]
    error = found.log_prob - truth
    assert float(error.std()) == pytest.approx(std**2 * dimension**0.5 / (2**0.5 * top**2), rel=0.1)
    assert abs(float(error.mean())) < 4 * float(error.std()) / 4000**0.5 + std**4 * dimension / (4 * top**4)


def test_parts_are_joined_and_bits_have_errors_of_their_own() -> None:
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
