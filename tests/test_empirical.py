import math

import pytest
import torch

from ncsn.distributions import Empirical, GaussianMixture


def test_empirical_is_the_mixture_without_width(generator: torch.Generator) -> None:
    data = torch.randn(30, 2, generator=generator, dtype=torch.float64) * 3
    empirical, mixture = Empirical(data, dtype=torch.float64), GaussianMixture(data, 0.0)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64) * 4
    for sigma in (torch.tensor(0.2, dtype=torch.float64), torch.linspace(0.1, 5, 8, dtype=torch.float64)):
        torch.testing.assert_close(empirical(x, sigma), mixture(x, sigma))
        torch.testing.assert_close(empirical.log_prob(x, sigma), mixture.log_prob(x, sigma))


def test_empirical_keeps_the_shape_and_draws_examples(generator: torch.Generator) -> None:
    data = torch.rand(7, 1, 4, 4, generator=generator)
    empirical = Empirical(data)
    drawn = empirical.sample(20, generator=generator)
    assert empirical(drawn, torch.tensor(1.0)).shape == (20, 1, 4, 4)
    assert float(torch.cdist(drawn.flatten(1), data.flatten(1)).amin(1).max()) < 1e-3


def test_empirical_of_numbers_is_that_of_points_on_a_line(generator: torch.Generator) -> None:
    data, x = torch.randn(9, generator=generator), torch.randn(4, generator=generator)
    numbers, points = Empirical(data), Empirical(data[:, None])
    assert torch.equal(numbers(x, 0.5), points(x[:, None], 0.5)[:, 0])
    assert torch.equal(numbers.log_prob(x, 0.5), points.log_prob(x[:, None], 0.5))
    assert numbers.sample(3, generator=generator).shape == (3,)
    assert numbers.log_prob(x[:0], 0.5).shape == numbers(x[:0], 0.5).shape == (0,)


def test_empirical_in_bfloat16_is_close_for_pixels(generator: torch.Generator) -> None:
    data = torch.rand(500, 1, 28, 28, generator=generator).square()
    noisy = data[:50] + 1.5 * torch.randn(50, 1, 28, 28, generator=generator)
    exact, fast = (
        Empirical(data)(noisy, torch.tensor(1.5)),
        Empirical(data, dtype=torch.bfloat16)(noisy, torch.tensor(1.5)),
    )
    assert float((exact - fast).square().sum() / exact.square().sum()) < 1e-4


def test_empirical_of_a_class_is_that_of_its_examples(generator: torch.Generator) -> None:
    data = torch.randn(30, 2, generator=generator, dtype=torch.float64) * 3
    labels = torch.arange(30) % 3
    empirical = Empirical(data, labels, dtype=torch.float64)
    x, sigma = torch.randn(8, 2, generator=generator, dtype=torch.float64) * 4, torch.tensor(0.9, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])
    found = empirical(x, sigma, label)
    for k in (-1, 0, 1, 2):
        alone = Empirical(data if k < 0 else data[labels == k], dtype=torch.float64)
        torch.testing.assert_close(found[label == k], alone(x[label == k], sigma))
    with pytest.raises(ValueError, match="made without labels"):
        Empirical(data)(x, sigma, label)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 3.0])
def test_log_densities_keep_their_digits_in_single_precision(sigma: float, generator: torch.Generator) -> None:
    data = 5 + torch.rand(300, 30, generator=generator)
    x = data[:70] + sigma * torch.randn(70, 30, generator=generator)
    gaps = (x.double()[:, None] - data.double()).square().sum(-1)
    expected = (-gaps / (2 * sigma**2)).logsumexp(1) - math.log(300) - 15 * math.log(2 * math.pi * sigma**2)
    found = Empirical(data).log_prob(x, sigma)
    assert found.dtype == torch.float32
    # 1e-6 of the coordinates is lost where their mean is taken off.
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0.01)
