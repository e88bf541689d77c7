"""What objectives have in common: their expectations differ by constants that no score changes."""

from collections.abc import Callable

import pytest
import torch
from helpers import GaussianScore, Sigma, expand, unchecked, z_score
from torch import Generator, Tensor

from ncsn.batching import Batch
from ncsn.distributions import Empirical, GaussianMixture
from ncsn.networks import MLP
from ncsn.noise import Geometric
from ncsn.objectives import dsm, exact, fisher, posterior_dsm, ssm, training_loss
from ncsn.score import Plain, ScoreModel

N = 100_000


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sigma", [0.3, 2.0])
@pytest.mark.parametrize(("mean", "wrong_std"), [(1.0, 1.5), (0.0, 0.5), (3.0, 4.0)])
def test_objectives_differ_by_constants_whatever_the_score(sigma: float, mean: float, wrong_std: float) -> None:
    """E[dsm] − σ²·E[fisher] is D/2·s²/(s² + σ²) for N(1, s² I), and E[dsm] − E[exact] is D/2."""
    std, level = 1.5, torch.full((N,), sigma)
    score, x = GaussianScore(mean, wrong_std), 1.0 + std * torch.randn(N, 2, generator=seeded(1))
    loss = dsm(score, x, level, generator=seeded(2))
    noisy = x + sigma * torch.randn(x.shape, generator=seeded(2))
    gap = loss - sigma**2 * fisher(score, GaussianScore(1.0, std), noisy, level)
    assert abs(z_score(gap, std**2 / (std**2 + sigma**2))) < 4
    gap = loss - exact(score, x, level, generator=seeded(2)).detach()
    assert abs(z_score(gap, 1.0)) < 4


@pytest.mark.parametrize("objective", [dsm, ssm, exact])
def test_every_example_has_its_own_noise_level(objective: Callable[..., Tensor]) -> None:
    """And loss: alone it costs the same."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.6)
    x, sigma = torch.randn(1, 2, generator=seeded(1)).expand(3, 2), torch.tensor([0.3, 1.0, 4.0])
    losses = objective(mixture, x, sigma, generator=seeded(2))
    assert losses.shape == (3,)
    for i, level in enumerate(sigma.tolist()):
        torch.testing.assert_close(losses[i], objective(mixture, x, level, generator=seeded(2))[i])


@pytest.mark.parametrize("above", [0.0, 0.5])
def test_posterior_dsm_is_below_dsm_by_the_same_constant_for_every_score(above: float) -> None:
    truth = Empirical(torch.randn(20, 3, generator=seeded(1)))
    x, level, gaps = truth.sample(N, generator=seeded(2)), torch.full((N,), 1.0), []
    level[: N // 2] = 0.5
    for score in (GaussianScore(0.0, 1.0), GaussianScore(2.0, 0.3)):
        plain = dsm(score, x, level, generator=seeded(3))
        better = posterior_dsm(score, x, level, data_score=truth, above=above, generator=seeded(3))
        gaps.append(plain - better)
        assert torch.allclose(better[: N // 2], plain[: N // 2], atol=1e-4) == (above == 0.5)
    assert abs(z_score(gaps[0] - gaps[1], 0)) < 4
    assert float(gaps[0].mean()) > 0.1


def test_sliced_score_matching_averages_to_the_exact_one(generator: Generator) -> None:
    """Over all 2^D vectors of signs: of every example here, as its slices are drawn again and again."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]]), 0.6)
    x, sigma = torch.randn(1, 3, generator=generator).expand(50_000, 3), torch.full((50_000,), 0.8)
    difference = ssm(mixture, x, sigma, generator=seeded(5)) - exact(mixture, x, sigma, generator=seeded(5))
    assert abs(z_score(difference.detach(), 0)) < 4
    assert float(difference.detach().std()) > 0.01  # a single slice is not the trace
    gaussian = GaussianScore(0.3, 1.1)  # all of whose slices are
    every = exact(gaussian, x, sigma, generator=seeded(5))
    torch.testing.assert_close(ssm(gaussian, x, sigma, generator=seeded(5)), every)


@pytest.mark.parametrize("objective", [dsm, ssm, exact])
def test_each_loss_has_its_gradient_in_the_weights(objective: Callable[..., Tensor]) -> None:
    """Here the width of a Gaussian, beside differences in double precision."""
    x = torch.randn(20, 2, generator=seeded(1), dtype=torch.float64)

    def loss(log_std: Tensor) -> Tensor:
        def score(y: Tensor, sigma: Sigma, /) -> Tensor:
            return -y / ((2 * log_std).exp() + expand(sigma, y) ** 2)

        return objective(score, x, torch.linspace(0.2, 2, 20).double(), generator=seeded(2)).mean()

    assert torch.autograd.gradcheck(loss, torch.tensor(0.3, dtype=torch.float64, requires_grad=True))


def test_posterior_targets_are_those_of_each_examples_class(generator: Generator) -> None:
    """A class for some and none for others: the exact score has no loss at the levels with such targets."""
    labels, index = torch.arange(12) % 3, torch.randint(12, (400,), generator=generator)
    truth, label = Empirical(torch.randn(12, 2, generator=generator), labels), labels[index]
    label[::7] = -1
    x, sigma = truth.sample(400, generator=generator), Geometric(3.0, 0.5, 4).sample(400, generator=generator)
    losses = posterior_dsm(truth, x, sigma, data_score=truth, above=1.0, label=label, generator=generator)
    assert float(losses[sigma > 1].abs().max()) < 1e-6
    assert float(losses[sigma < 1].mean()) > 0.01


# What training minimises.


def test_residual_loss_of_the_best_gaussian_is_the_variance_of_its_target(generator: Generator) -> None:
    x = 2.0 + 3.0 * torch.randn(N, 2, 3, generator=generator)
    model = ScoreModel(torch.nn.Identity(), 2.0, 3.0)
    model.network.forward = lambda x, c: torch.zeros_like(x)
    losses, sigmas = training_loss(Geometric(10.0, 0.1, 5), generator=generator)(model, Batch(x))
    for sigma in torch.unique(sigmas):
        assert abs(z_score(losses.detach()[sigmas == sigma], 1.0)) < 4


@pytest.mark.parametrize(("options", "share"), [({}, 0.1), ({"drop_label": 0.3}, 0.3)])
def test_every_example_is_shown_with_its_own_class_and_a_share_without(
    options: dict[str, float], share: float, generator: Generator
) -> None:
    """By a loss that is the class itself: ``Plain`` weighs it by two."""

    def told(*_: object, label: Tensor, generator: Generator) -> Tensor:
        return label / 2

    labels = torch.randint(7, (20_000,), generator=generator)
    loss = training_loss(Geometric(3.0, 0.5, 4), told, **options, generator=generator)
    label, _ = loss(ScoreModel(torch.nn.Identity(), preconditioning=Plain()), Batch(torch.ones(20_000, 1), labels))
    assert abs(z_score((label == -1).float(), share)) < 4
    assert torch.equal(label[label >= 0], labels[label >= 0].float())


@pytest.mark.parametrize("reduce", [Tensor.mean, lambda losses: losses[:1], lambda losses: losses[:, None]])
def test_an_objective_that_gives_no_loss_per_example_is_refused(reduce: Callable[[Tensor], Tensor]) -> None:
    loss = training_loss(Geometric(3.0, 0.5, 4), lambda *a, **k: reduce(dsm(*a, **k)), generator=seeded(1))
    with unchecked(), pytest.raises(ValueError, match=r"the objective returned shape .*; expected \(5,\)"):
        loss(ScoreModel(MLP(2, 8, 1)), Batch(torch.ones(5, 2)))
