"""Distributions where numbers are extreme, and of classes; test_laws.py has their densities, scores and draws."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from helpers import refuses

from ncsn.distributions import TOYS, Empirical, GaussianMixture, Ring


def test_each_moon_is_the_other_after_half_a_turn() -> None:
    moons = TOYS["moons"]()
    x = 5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(moons.log_prob(x, 0.5), moons.log_prob(-x, 0.5))


TWO = Empirical(torch.eye(2), torch.tensor([0, 1]))
REFUSED = [
    (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.tensor([1.0, -1.0])), "expected 2 non-negative"),
    (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.ones(3)), "expected 2 non-negative"),
    (lambda: GaussianMixture(torch.zeros(2, 2), 1.0, torch.zeros(2)), "not all zero"),
    (lambda: Ring(1.0, 0.2), "radius >= 6 std"),
    (lambda: Ring(1.0, 0.0), "std is 0.0"),
    (lambda: GaussianMixture(torch.zeros(2)), "means has"),
    (lambda: GaussianMixture(torch.zeros(2, 2) * 1j), "means holds"),
    (lambda: GaussianMixture([[0.0, math.nan]]), "means has"),  # type: ignore[arg-type]
    (lambda: GaussianMixture(torch.zeros(2, 2), "wide"), "std is 'wide'"),  # type: ignore[arg-type]
    (lambda: Empirical(torch.zeros(0, 2)), "data has"),
    (lambda: Empirical(torch.zeros(3, 2), torch.zeros(2).long()), "labels has"),
    (lambda: TWO(torch.zeros(1, 2), 1.0, torch.tensor([7])), "label has 7"),
    (lambda: TWO(torch.zeros(1, 2), 0.0), "sigma is 0"),
    (lambda: TWO(torch.zeros(1, 3), 1.0), r"x has shape \(1, 3\)"),
    (lambda: TWO(torch.zeros(2, 2), 1.0, torch.zeros(3).long()), r"label has shape \(3,\)"),
    (lambda: Empirical(torch.tensor(4.0)), "data is 4"),
    *((lambda name=name: TOYS[name]()(torch.zeros(1, 2), -1.0), "sigma is -1") for name in TOYS),
    *((lambda x=x: TOYS["moons"]()(x, 0.5), "x is") for x in (torch.zeros(1, 2).long(), [[0.0, 0.0]])),
    *((lambda name=name: TOYS[name]().sample(0), "n is 0") for name in TOYS),
    *((lambda name=name: TOYS[name]().sample(3, generator=0), "generator is 0") for name in TOYS),  # type: ignore[arg-type]
]


test_bad_arguments_are_refused = refuses(REFUSED)


def test_the_command_line_offers_every_toy() -> None:
    from training_toy import Toy

    assert set(get_args(get_type_hints(Toy)["generator"])) == set(TOYS)


@pytest.mark.parametrize(
    ("sigma", "rho"),
    [(1e-3, 1e-9), (1e-3, 2e-3), (1e-3, 5e-3), (1e-3, 0.01), (0.02, 0.01), (0.02, 0.2), (0.3, 1e-6), (2.0, 1.0)],
)
def test_the_ring_is_right_near_its_centre(sigma: float, rho: float) -> None:
    """Against an integral over a fine grid of angles and radii, below 0 too, in logarithms and double precision."""
    ring, std = Ring(1.0, 0.15), 0.15
    total = std**2 + sigma**2
    centre, reach = sigma**2 / total, rho + 10 * std * sigma / total**0.5
    radius = torch.linspace(centre - reach, centre + reach, 801, dtype=torch.float64)[:, None]
    angle = torch.arange(720, dtype=torch.float64) / 720 * 2 * math.pi
    x = torch.tensor([[rho, 0.0]], dtype=torch.float64, requires_grad=True)
    gap = (x[0, 0] - radius * angle.cos()).square() + (radius * angle.sin()).square()
    logs = -gap / (2 * sigma**2) - (radius - 1.0).square() / (2 * std**2)
    density = logs.flatten().logsumexp(0) + math.log(2 * reach / 800 / 720)
    expected = density - math.log(2 * math.pi * sigma**2) - math.log(2 * math.pi * std**2) / 2
    (gradient,) = torch.autograd.grad(density, x)
    torch.testing.assert_close(ring(x.detach(), sigma), gradient, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(ring.log_prob(x.detach(), sigma)[0], expected.detach(), rtol=1e-10, atol=1e-9)


def test_the_ring_has_no_score_at_its_centre() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    for sigma in (1e-3, 1.0):
        assert torch.equal(Ring()(x.detach(), sigma), torch.zeros_like(x))
        assert torch.equal(torch.autograd.grad(Ring().log_prob(x, sigma).sum(), x)[0], torch.zeros_like(x))


# Data sets.


def test_empirical_keeps_the_shape_and_draws_examples(generator: torch.Generator) -> None:
    data = torch.rand(7, 1, 4, 4, generator=generator)
    empirical = Empirical(data)
    drawn = empirical.sample(200, generator=generator)
    assert empirical(drawn, torch.tensor(1.0)).shape == (200, 1, 4, 4)
    gaps = (drawn[:, None] - data).flatten(2).abs().amax(2)
    assert float(gaps.amin(1).max()) < 1e-6
    assert set(gaps.argmin(1).tolist()) == set(range(7))


def test_empirical_of_numbers_is_that_of_points_on_a_line(generator: torch.Generator) -> None:
    data, x = torch.randn(9, generator=generator), torch.randn(4, generator=generator)
    numbers, points = Empirical(data), Empirical(data[:, None])
    assert torch.equal(numbers(x, 0.5), points(x[:, None], 0.5)[:, 0])
    assert torch.equal(numbers.log_prob(x, 0.5), points.log_prob(x[:, None], 0.5))
    assert numbers.sample(3, generator=generator).shape == (3,)
    assert numbers.log_prob(x[:0], 0.5).shape == numbers(x[:0], 0.5).shape == (0,)


ASKED = [[0, 7, 2, -1, 0, 7, 2, -1], [7, 0, 7, 2, 0, 7, 7, 2], [2] * 8, [-1] * 8, [7, -1] * 4]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("class_size", [0, 500])  # class by class, and all at once
@pytest.mark.parametrize(("kind", "close"), [(torch.float64, 1e-7), (torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_empirical_of_a_class_is_that_of_its_examples(
    kind: torch.dtype, close: float, class_size: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.distributions.CLASS_SIZE", class_size)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([7, 2, 7, 0, 7, -1] * 5)
    empirical, label = Empirical(data, labels, dtype=kind), torch.tensor(asked)
    x, sigma = torch.randn(8, 2, generator=generator, dtype=torch.float64), torch.linspace(0.9, 3, 8).double()
    found = empirical(x, sigma, label)
    for k in set(asked):
        alone, mine = Empirical(data if k < 0 else data[labels == k], dtype=torch.float64), label == k
        torch.testing.assert_close(found[mine], alone(x[mine], sigma[mine]), rtol=close, atol=close)
    assert empirical(x[:0], sigma[:0], label[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="no labels"):
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
