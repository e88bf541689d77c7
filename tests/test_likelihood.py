import math

import pytest
import torch
from helpers import GaussianScore

from ncsn.distributions import GaussianMixture
from ncsn.likelihood import bits_per_dimension, divergences, log_prob


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
    with pytest.raises(ValueError, match="probes is 0"):
        log_prob(GaussianScore(0, 1), torch.zeros(1, 1), sigma_max=1, sigma_min=0.1, probes=0)
