import math

import pytest
import torch
from helpers import states_of, z_score
from torch import Tensor

from ncsn import samplers as ways
from ncsn.distributions import GaussianMixture
from ncsn.noise import Geometric, Karras
from ncsn.problems import blurred, conjugate_gradient, downsampled, identity, masked, posterior, replacement
from ncsn.score import Sigma, expand

annealed_langevin, dpm_solver = states_of(ways.annealed_langevin), states_of(ways.dpm_solver)
N = 20_000
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
MEAN = torch.tensor([0.5, -1.0, 2.0])


def gaussian(x: Tensor, sigma: Sigma, /) -> Tensor:
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


def test_conjugate_gradients_keep_what_they_have_where_the_product_bends_the_other_way() -> None:
    """One example has a negative direction, as covariances of learned scores have; the others are not disturbed."""
    bends = torch.tensor([[2.0, 1.0], [-1.0, -3.0], [2.0, -1.5]])
    b = torch.ones(3, 2)
    found = conjugate_gradient(lambda u: bends * u, b, steps=4)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found[0], torch.tensor([0.5, 1.0]))
    assert torch.equal(found[1], torch.zeros(2))  # the very first direction bends down
    # The first step is 2/(2 − 1.5) = 4 along (1, 1); the second direction bends down, and the step is not made.
    torch.testing.assert_close(found[2], torch.tensor([4.0, 4.0]))


def test_a_posterior_of_a_score_that_is_none_is_finite(generator: torch.Generator) -> None:
    """A learned score is no gradient of anything: its covariance may be negative."""

    def learned(x: Tensor, sigma: Sigma, /) -> Tensor:
        return -x / expand(sigma, x) ** 2 - 3 * torch.sin(5 * x) / expand(sigma, x)

    x = torch.randn(50, 4, generator=generator)
    score = posterior(learned, lambda v: v[:, :2], torch.ones(50, 2), 0.01, steps=5)
    for sigma in (0.05, 0.5, 5.0):
        assert bool(score(x, sigma).isfinite().all())


def test_posteriors_work_in_inference_mode_and_for_no_example(generator: torch.Generator) -> None:
    x, y = torch.randn(4, 3, generator=generator), torch.ones(4, 1)
    score = posterior(gaussian, lambda v: v[:, :1], y, 0.3)
    expected = score(x, 0.7)
    with torch.inference_mode():
        assert torch.equal(score(x.clone(), 0.7), expected)
    assert posterior(gaussian, lambda v: v[:, :1], y[:0], 0.3)(x[:0], 0.7).shape == (0, 3)


def test_a_posterior_is_sampled_where_everything_is_made_in_inference_mode() -> None:
    def draw() -> Tensor:
        g = torch.Generator().manual_seed(0)
        prior = GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
        score = posterior(prior, masked(torch.tensor([True, False])), torch.full((6, 1), 4.0), 0.5)
        *_, x = dpm_solver(score, torch.randn(6, 2, generator=g), Karras(5, 0.02, 5).sigmas(), generator=g)
        image = posterior(lambda v, s: -v * expand(s, v), blurred(1.0), torch.ones(6, 1, 5, 5), 0.5)
        return torch.cat([x.flatten(), image(torch.ones(6, 1, 5, 5), torch.tensor(0.3)).flatten()])

    expected = draw()
    with torch.inference_mode():
        assert torch.equal(draw(), expected)


def test_a_posterior_of_numbers_is_that_of_points_on_a_line(generator: torch.Generator) -> None:
    def line(x: Tensor, sigma: Sigma, /) -> Tensor:
        return (0.5 - x) / (0.8**2 + expand(sigma, x) ** 2)

    x, y = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    numbers, points = posterior(line, identity, y, 0.3), posterior(line, identity, y[:, None], 0.3)
    assert torch.equal(numbers(x, 0.7), points(x[:, None], 0.7)[:, 0])


def test_a_measurement_of_another_shape_is_refused(generator: torch.Generator) -> None:
    """It would be broadcast, every measurement against every example."""
    score = posterior(gaussian, lambda v: v[:, :1], torch.ones(4), 0.3)
    with pytest.raises(ValueError, match=r"y has shape \(4,\); measured, x has shape \(4, 1\)"):
        score(torch.randn(4, 3, generator=generator), 0.7)


def test_moment_matching_is_off_where_modes_compete_as_its_docstring_says(generator: torch.Generator) -> None:
    prior = GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
    score = posterior(prior, lambda x: x[:, :1], torch.full((4000, 1), 1.0), 2.0)
    x = 40 * torch.randn(4000, 2, generator=generator)
    *_, x = dpm_solver(score, x, Karras(40, 0.02, 60).sigmas(), stochasticity=1.0, generator=generator)
    exact = 1 / (1 + math.exp(((1 + 5) ** 2 - (1 - 5) ** 2) / (2 * 5)))
    assert exact == pytest.approx(0.119, abs=0.001)
    assert float((x[:, 1] < 0).float().mean()) == pytest.approx(0.347, abs=0.04)


def test_replacement_needs_a_sampler_that_lingers_on_each_level(generator: torch.Generator) -> None:
    """Two coordinates with correlation 0.9, the first is 1.5: the second is 1.35 ± 0.436."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])

    def prior(x: Tensor, sigma: Sigma, /) -> Tensor:
        total = covariance + expand(sigma, x)[:, :, None] ** 2 * torch.eye(2)
        score: Tensor = torch.linalg.solve(total, -x)
        return score

    known, y = torch.tensor([True, False]), torch.tensor([1.5, 0.0]).expand(4000, 2)
    x = 10 * torch.randn(4000, 2, generator=generator)
    score = replacement(prior, known, y, generator=generator)
    ladder = Geometric(10, 0.02, 30).sigmas()
    *_, lingering, _ = annealed_langevin(score, x, ladder, eps=2e-4, steps=40, generator=generator)
    *_, passing, _ = dpm_solver(score, x, Karras(10, 0.02, 60).sigmas(), stochasticity=1.0, generator=generator)
    assert float(lingering[:, 1].mean()) == pytest.approx(1.35, abs=0.04)
    assert float(lingering[:, 1].std()) == pytest.approx(0.436, abs=0.03)
    assert float(passing[:, 1].mean()) == pytest.approx(0.94, abs=0.06)
    assert float(passing[:, 1].std()) == pytest.approx(0.56, abs=0.04)


def test_replaced_pixels_are_noised_to_the_level_where_the_prior_is_asked(generator: torch.Generator) -> None:
    """Not pasted clean: the known coordinate that the prior sees has the level's variance σ², around y."""
    seen: list[Tensor] = []

    def prior(x: Tensor, sigma: Sigma, /) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    known, y, sigma = torch.tensor([True, False]), torch.full((50_000, 2), 3.0), 0.7
    x = torch.randn(50_000, 2, generator=generator)
    found = replacement(prior, known, y, generator=generator)(x, sigma)
    assert abs(z_score(seen[0][:, 0], 3.0)) < 4
    assert abs(z_score((seen[0][:, 0] - 3.0) ** 2, sigma**2)) < 4
    assert torch.equal(seen[0][:, 1], x[:, 1])
    torch.testing.assert_close(found[:, 0], (3.0 - x[:, 0]) / sigma**2)


def test_downsampling_takes_means_and_not_every_other_pixel() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert downsampled(2)(x).flatten().tolist() == [3.0]
