import math

import pytest
import torch
from helpers import z_score
from torch import Tensor

from ncsn.noise import Geometric, Karras
from ncsn.problems import blurred, conjugate_gradient, downsampled, identity, masked, posterior, replacement
from ncsn.samplers import annealed_langevin, dpm_solver
from ncsn.score import expand

N = 20_000
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
MEAN = torch.tensor([0.5, -1.0, 2.0])


def gaussian(x: Tensor, sigma: Tensor, /) -> Tensor:
    """The exact score of N(MEAN, COVARIANCE) with noise added."""
    total = COVARIANCE.to(x) + expand(sigma, x)[:, :, None] ** 2 * torch.eye(3).to(x)
    score: Tensor = torch.linalg.solve(total, MEAN.to(x) - x)
    return score


def exact_posterior(a: Tensor, y: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    gain = COVARIANCE @ a.T @ torch.linalg.inv(a @ COVARIANCE @ a.T + noise**2 * torch.eye(len(a)))
    return MEAN + gain @ (y - a @ MEAN), COVARIANCE - gain @ a @ COVARIANCE


@pytest.mark.parametrize(
    "a", [torch.eye(3), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, -1.0]])]
)
def test_posterior_of_a_gaussian_has_the_exact_mean_and_covariance(a: Tensor, generator: torch.Generator) -> None:
    y, noise = torch.ones(len(a)), 0.3
    score = posterior(gaussian, lambda x: x @ a.T.to(x), y.expand(N, -1), noise, steps=3)
    sigmas = Karras(20.0, 0.01, 120).sigmas()
    x = 20 * torch.randn(N, 3, generator=generator)
    *_, x, _ = dpm_solver(score, x, sigmas, stochasticity=1.0, generator=generator)
    mean, covariance = exact_posterior(a, y, noise)
    for i in range(3):
        assert abs(z_score(x[:, i], float(mean[i]))) < 5
        for j in range(3):
            product = (x[:, i] - mean[i]) * (x[:, j] - mean[j])
            assert abs(float(product.mean() - covariance[i, j])) < 0.03


def test_posterior_score_of_a_gaussian_is_exact(generator: torch.Generator) -> None:
    """∇ log p_σ(x | y) against autograd of the joint Gaussian of noisy x and y."""
    a, noise, sigma = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, -1.0]]).double(), 0.4, 0.7
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    prior, eye = COVARIANCE.double(), torch.eye(3).double()
    total = torch.cat(
        [
            torch.cat([prior + sigma**2 * eye, prior @ a.T], 1),
            torch.cat([a @ prior, a @ prior @ a.T + noise**2 * torch.eye(2).double()], 1),
        ]
    )
    mean = torch.cat([MEAN.double(), a @ MEAN.double()])
    expected = torch.linalg.solve(total, (mean - torch.cat([x, y], 1)).T).T[:, :3]
    found = posterior(gaussian, lambda v: v @ a.T, y, noise, steps=2)(x, torch.tensor(sigma, dtype=torch.float64))
    torch.testing.assert_close(found, expected)


def test_replacement_converges_to_the_conditional_of_a_level(generator: torch.Generator) -> None:
    """Where Langevin has the time to: known pixels y + σz, the others as p_σ has them given that the known one is y."""
    known, y, sigma = torch.tensor([True, False, False]), torch.tensor([1.5, 0.0, 0.0]), 0.2
    score = replacement(gaussian, known, y.expand(N, -1), generator=generator)
    x = 5 * torch.randn(N, 3, generator=generator)
    sigmas = Geometric(5.0, sigma, 8).sigmas()
    *_, x = annealed_langevin(score, x, sigmas, eps=0.01, steps=300, denoise=False, generator=generator)
    total = COVARIANCE + sigma**2 * torch.eye(3)
    assert float(x[:, 0].mean()) == pytest.approx(1.5, abs=0.01)
    for i in (1, 2):
        mean = float(MEAN[i] + total[i, 0] / total[0, 0] * (1.5 - MEAN[0]))
        variance = float(total[i, i] - total[i, 0] ** 2 / total[0, 0])
        assert float(x[:, i].mean()) == pytest.approx(mean, abs=0.03)
        assert float(x[:, i].var()) == pytest.approx(variance, rel=0.08)


def test_conjugate_gradient_solves(generator: torch.Generator) -> None:
    m = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    m = m @ m.mT + torch.eye(5)
    b = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    found = conjugate_gradient(lambda u: torch.einsum("bij,bj->bi", m, u), b, steps=5)
    torch.testing.assert_close(found, torch.linalg.solve(m, b))


def test_measurements_are_linear_and_mean_what_they_say(generator: torch.Generator) -> None:
    x, y = (torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    known = torch.zeros(1, 8, 8, dtype=torch.bool)
    known[:, :4] = True
    for measure in (masked(known), downsampled(2), blurred(1.2), identity):
        torch.testing.assert_close(measure(2 * x - 3 * y), 2 * measure(x) - 3 * measure(y))
    assert masked(known)(x).shape == (2, 32)
    assert downsampled(4)(x).shape == (2, 1, 2, 2)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    blur = blurred(1.5)(point)[0, 0]
    assert float(blur.sum()) == pytest.approx(1)
    offsets = torch.arange(-10, 11)
    assert math.sqrt(float((blur.sum(0) * offsets**2).sum())) == pytest.approx(1.5, rel=0.05)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="noise_std is 0"):
        posterior(gaussian, identity, torch.zeros(1, 3), 0.0)
    with pytest.raises(ValueError, match="steps is 0"):
        posterior(gaussian, identity, torch.zeros(1, 3), 0.1, steps=0)
