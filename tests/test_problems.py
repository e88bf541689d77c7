"""Posteriors beside exact ones, and the measurements that they are made of."""

import math

import pytest
import torch
from helpers import GaussianScore, z_score
from torch import Generator, Tensor

from ncsn.distributions import GaussianMixture
from ncsn.noise import Karras
from ncsn.problems import (
    blurred,
    conjugate_gradient,
    downsampled,
    identity,
    known_pixels,
    masked,
    mean_filled,
    posterior,
    replacement,
    standardised,
)
from ncsn.samplers import dpm_solver
from ncsn.score import Sigma, expand
from ncsn.validation import Region

COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
MEAN = torch.tensor([0.5, -1.0, 2.0])
TWO_ROWS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, -1.0]])


def gaussian(x: Tensor, sigma: Sigma, /) -> Tensor:
    """The exact score of N(MEAN, COVARIANCE) with noise added."""
    total = COVARIANCE.to(x) + expand(sigma, x)[:, :, None] ** 2 * torch.eye(3).to(x)
    score: Tensor = torch.linalg.solve(total, MEAN.to(x) - x)
    return score


@pytest.mark.parametrize("sigma", [0.7, torch.tensor([0.1, 0.3, 0.5, 1.0, 2.0, 5.0])])
def test_posterior_score_of_a_gaussian_is_exact(sigma: float | Tensor, generator: Generator) -> None:
    """∇ log p_σ(x | y) by the joint Gaussian of noisy x and y, one noise level for all or one each."""
    a, noise = TWO_ROWS.double(), 0.4
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    prior, mean = COVARIANCE.double(), torch.cat([MEAN.double(), a @ MEAN.double()])
    levels = torch.as_tensor(sigma).double()
    score = posterior(gaussian, lambda v: v @ a.T, y, noise, steps=2)(x, levels)
    for i, level in enumerate(levels.expand(6).tolist()):
        upper = torch.cat([prior + level**2 * torch.eye(3).double(), prior @ a.T], 1)
        lower = torch.cat([a @ prior, a @ prior @ a.T + noise**2 * torch.eye(2).double()], 1)
        expected = torch.linalg.solve(torch.cat([upper, lower]), mean - torch.cat([x[i], y[i]]))
        torch.testing.assert_close(score[i], expected[:3])


def test_replaced_pixels_are_noised_to_the_level_where_the_prior_is_asked(generator: Generator) -> None:
    """Not pasted clean: the known coordinate that the prior sees has its example's level σ, around its own y."""
    inputs: list[Tensor] = []

    def prior(x: Tensor, sigma: Sigma, /) -> Tensor:
        inputs.append(x)
        return x**2

    known, half = torch.tensor([True, False]), torch.arange(40_000) < 20_000
    y, sigma = torch.where(half, 3.0, -1.0)[:, None].expand(-1, 2), torch.where(half, 0.7, 2.0)
    x = torch.randn(40_000, 2, generator=generator)
    score = replacement(prior, known, y, generator=generator)(x, sigma)
    for part, centre, level in ((half, 3.0, 0.7), (~half, -1.0, 2.0)):
        assert abs(z_score(inputs[0][part, 0], centre)) < 4
        assert abs(z_score((inputs[0][part, 0] - centre) ** 2, level**2)) < 4
    assert torch.equal(inputs[0][:, 1], x[:, 1])
    torch.testing.assert_close(score, torch.stack([(y[:, 0] - x[:, 0]) / sigma**2, x[:, 1] ** 2], 1))


def test_conjugate_gradients_solve(generator: Generator) -> None:
    """In as many steps as dimensions, and after fewer with the least error in the product's own norm."""
    m = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    m = m @ m.mT + torch.eye(5)
    b = torch.randn(4, 5, generator=generator, dtype=torch.float64)

    def product(u: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", m, u)

    torch.testing.assert_close(conjugate_gradient(product, b, steps=5), torch.linalg.solve(m, b))
    krylov = torch.stack([b, product(b)], 2)  # two steps search this plane
    best = torch.linalg.solve(krylov.mT @ m @ krylov, krylov.mT @ b[..., None])
    torch.testing.assert_close(conjugate_gradient(product, b, steps=2), (krylov @ best)[..., 0])


def test_conjugate_gradients_keep_what_they_have_where_the_product_bends_the_other_way() -> None:
    """One example has a negative direction, as covariances of learned scores have; the others are not disturbed."""
    bends = torch.tensor([[2.0, 1.0], [-1.0, -3.0], [2.0, -1.5]])
    solution = conjugate_gradient(lambda u: bends * u, torch.ones(3, 2), steps=4)
    torch.testing.assert_close(solution[0], torch.tensor([0.5, 1.0]))
    assert torch.equal(solution[1], torch.zeros(2))  # the very first direction bends down
    # The first step is 2/(2 − 1.5) = 4 along (1, 1); the second direction bends down, and the step is not made.
    torch.testing.assert_close(solution[2], torch.tensor([4.0, 4.0]))


def test_everything_may_be_made_in_inference_mode() -> None:
    def draw() -> Tensor:
        g = torch.Generator().manual_seed(0)
        prior = GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]]))
        score = posterior(prior, masked(torch.tensor([True, False])), torch.full((6, 1), 4.0), 0.5)
        *_, (_, x) = dpm_solver(score, torch.randn(6, 2, generator=g), Karras(5, 0.02, 5).sigmas(), generator=g)
        image = posterior(lambda v, s: -v * expand(s, v), blurred(1.0), torch.ones(6, 1, 5, 5), 0.5)
        return torch.cat([x.flatten(), image(torch.ones(6, 1, 5, 5), torch.tensor(0.3)).flatten()])

    expected = draw()
    with torch.inference_mode():
        assert torch.equal(draw(), expected)


def test_a_posterior_of_numbers_is_that_of_points_on_a_line_and_there_may_be_none(generator: Generator) -> None:
    line = GaussianScore(0.5, 0.8)
    x, y = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    numbers, points = posterior(line, identity, y, 0.3), posterior(line, identity, y[:, None], 0.3)
    assert torch.equal(numbers(x, 0.7), points(x[:, None], 0.7)[:, 0])
    assert posterior(line, identity, y[:0], 0.3)(x[:0], 0.7).shape == (0,)


def test_what_is_no_measurement_is_refused(generator: Generator) -> None:
    """Among them one of another shape: it would be broadcast, every measurement against every example."""
    with pytest.raises(ValueError, match="noise_std is 0"):
        posterior(gaussian, identity, torch.zeros(1, 3), 0.0)
    with pytest.raises(ValueError, match="steps is 0"):
        posterior(gaussian, identity, torch.zeros(1, 3), 0.1, steps=0)
    score = posterior(gaussian, lambda v: v[:, :1], torch.ones(4), 0.3)
    with pytest.raises(ValueError, match=r"y has shape \(4,\); measured, x has shape \(4, 1\)"):
        score(torch.randn(4, 3, generator=generator), 0.7)
    with pytest.raises(ValueError, match="noise_std is"):
        standardised(identity, torch.zeros(3), torch.tensor([0.1, 0.0, 0.1]), example=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"y has shape \(2,\); a measurement has \(3,\)"):
        standardised(identity, torch.zeros(2), 0.1, example=torch.zeros(1, 3))


# Measurements.


def test_measurements_are_linear_and_mean_what_they_say(generator: Generator) -> None:
    x, y = (torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    known = known_pixels((3, 8, 8), "left")
    for measure in (masked(known), downsampled(2), blurred(1.2), identity):
        torch.testing.assert_close(measure(2 * x - 3 * y), 2 * measure(x) - 3 * measure(y))
    assert torch.equal(masked(known)(x), x[:, :, :, 4:].flatten(1))
    torch.testing.assert_close(downsampled(4)(x)[:, :, 1, 0], x[:, :, 4:, :4].mean((2, 3)))
    point = torch.zeros(1, 2, 21, 21)
    point[0, 1, 10, 9] = 1
    blur, offsets = blurred(1.5)(point)[0], torch.arange(21)
    assert torch.equal(blur[0], torch.zeros(21, 21)), "channels do not mix"
    for axis, centre in ((1, 10), (0, 9)):
        along = blur[1].sum(axis)
        assert float(along.sum()) == pytest.approx(1)
        assert float((along * offsets).sum()) == pytest.approx(centre)
        spread = (along * (offsets - centre) ** 2).sum()
        assert math.sqrt(float(spread)) == pytest.approx(1.5, rel=0.05)


STANDARD = torch.tensor([[1.0, 2.0, 4.0]])
Y = torch.tensor([[3.0, 5.0], [1.0, -2.0]])


@pytest.mark.parametrize("noise", [0.5, torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize("y", [Y, Y[0]])
def test_a_measurement_in_the_users_units_becomes_one_of_the_scores(noise: float | Tensor, y: Tensor) -> None:
    """A(shift + scale·z) = y + noise: what is measured of z, less what the shift gives, over the noise of each."""

    def measure(x: Tensor) -> Tensor:
        return x @ TWO_ROWS.T

    shift, scale = torch.tensor([10.0, -5.0, 1.0]), torch.tensor([2.0, 0.5, 3.0])
    linear, target, std = standardised(measure, y, noise, example=torch.zeros(1, 3), shift=shift, scale=scale)
    divisor = noise if isinstance(noise, Tensor) else torch.ones(2)
    assert std == (1 if isinstance(noise, Tensor) else 0.5)
    torch.testing.assert_close(linear(STANDARD), (scale * STANDARD) @ TWO_ROWS.T / divisor)
    torch.testing.assert_close(target, (y.view(-1, 2) - TWO_ROWS @ shift) / divisor)


# Which pixels are hidden, drawn by hand.


@pytest.mark.parametrize(
    ("hide", "rows"),
    [
        ("top", ["......", "......", "######", "######", "######"]),
        ("bottom", ["######", "######", "......", "......", "......"]),
        ("left", ["...###"] * 5),
        ("right", ["###..."] * 5),
        ("centre", ["######", "#....#", "#....#", "#....#", "######"]),
    ],
)
def test_what_is_known_is_what_is_not_hidden(hide: Region, rows: list[str]) -> None:
    expected = torch.tensor([[pixel == "#" for pixel in row] for row in rows])
    assert torch.equal(known_pixels((3, 5, 6), hide), expected.expand(3, 5, 6))
    assert hide != "centre" or not any(known_pixels((1, side, side), hide).any() for side in (1, 2, 3))


def test_a_quarter_is_known_at_random_the_same_in_every_channel(generator: Generator) -> None:
    known = known_pixels((3, 60, 50), "random", generator=generator)
    assert torch.equal(known, known[:1].expand(3, 60, 50))
    assert abs(z_score(known[0].double().flatten(), 0.25)) < 4
    assert abs(z_score((known[0, :, 1:] & known[0, :, :-1]).double().flatten(), 0.0625)) < 5  # pixel by pixel


def test_what_is_hidden_is_shown_as_the_mean_of_what_is_known() -> None:
    known = torch.tensor([[[True, False], [False, True]]])
    y = torch.tensor([[0.2, 0.6], [1.0, 0.0]])
    expected = torch.tensor([[[[0.2, 0.4], [0.4, 0.6]]], [[[1.0, 0.5], [0.5, 0.0]]]])
    torch.testing.assert_close(mean_filled(known, y), expected)
