"""What objectives have in common: their expectations differ by constants that no score changes."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import GaussianScore, unchecked, z_score
from torch import Generator, Tensor

from ncsn.distributions import Empirical, GaussianMixture
from ncsn.model import ScoreModel
from ncsn.noise import Geometric
from ncsn.objectives import Batch, dsm, exact, fisher, posterior_dsm, ssm, training_loss
from ncsn.score import Score, Sigma, expand

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


@pytest.mark.parametrize("above", [0.0, 0.8])
def test_posterior_dsm_is_below_dsm_by_the_same_constant_for_every_score(above: float) -> None:
    truth = Empirical(torch.randn(20, 3, generator=seeded(1)))
    x, level, gaps = truth.sample(N, generator=seeded(2)), torch.full((N,), 1.0), []
    level[: N // 2] = 0.6
    for score in (GaussianScore(0.0, 1.0), GaussianScore(2.0, 0.3)):
        plain = dsm(score, x, level, generator=seeded(3))
        better = posterior_dsm(score, x, level, data_score=truth, above=above, generator=seeded(3))
        gaps.append(plain - better)
        assert torch.allclose(better[: N // 2], plain[: N // 2], atol=1e-4) == (above > 0.6)
    assert abs(z_score(gaps[0] - gaps[1], 0)) < 4
    assert float(gaps[0].mean()) > 0.1


def test_sliced_score_matching_averages_to_the_exact_one(generator: Generator) -> None:
    """Over all 2^D vectors of signs: of every example here, as its slices are drawn again and again."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]]), 0.6)
    x, sigma = torch.randn(1, 3, generator=generator).expand(50_000, 3), torch.full((50_000,), 0.8)
    difference = ssm(mixture, x, sigma, generator=seeded(5)) - exact(mixture, x, sigma, generator=seeded(5))
    assert abs(z_score(difference.detach(), 0)) < 4
    assert float(difference.detach().std()) > 0.01  # a single slice is not the trace


@pytest.mark.parametrize("objective", [dsm, ssm, exact])
def test_score_matching_trains(objective: Callable[..., Tensor], generator: Generator) -> None:
    """Each has gradients in the weights: the width of a Gaussian is found."""
    x, log_std = 0.7 * torch.randn(4096, 2, generator=generator), torch.zeros((), requires_grad=True)

    def score(y: Tensor, sigma: Sigma, /) -> Tensor:
        return -y / ((2 * log_std).exp() + expand(sigma, y) ** 2)

    optimizer = torch.optim.Adam([log_std], lr=0.05)
    for _ in range(120):
        loss = objective(score, x, torch.full((len(x),), 0.2), generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(log_std.exp().detach()) == pytest.approx(0.7, abs=0.03)


# What training minimises.


class Exact(ScoreModel):
    """The score of a data set, which hears of classes or not."""

    def __init__(self, truth: Empirical, *, hears: bool) -> None:
        super().__init__(torch.nn.Identity(), 0.0, 1.0)
        self.truth, self.hears = truth, hears

    def forward(self, x: Tensor, sigma: Sigma, label: Tensor | None = None) -> Tensor:
        return self.truth(x, sigma, label if self.hears else None)


def test_residual_loss_of_the_best_gaussian_is_the_variance_of_its_target(generator: Generator) -> None:
    x = 2.0 + 3.0 * torch.randn(N, 4, generator=generator)

    class Zero(torch.nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return torch.zeros_like(x)

    model = ScoreModel(Zero(), 2.0, 3.0)
    losses, sigmas = training_loss(Geometric(10.0, 0.1, 5), generator=generator)(model, Batch(x))
    for sigma in torch.unique(sigmas):
        assert abs(z_score(losses[sigmas == sigma], 1.0)) < 4


def test_training_loss_is_zero_for_the_score_of_every_class_and_of_all_data(generator: Generator) -> None:
    """The exact class scores, with 3 of 10 labels dropped, leave nothing to learn; the score of all data does."""
    data, labels = torch.randn(12, 2, generator=generator), torch.arange(12) % 3
    truth, index = Empirical(data, labels), torch.randint(12, (400,), generator=generator)
    objective = partial(posterior_dsm, data_score=truth, above=0.0)
    loss = training_loss(Geometric(3.0, 0.5, 4), objective, drop_label=0.3, generator=generator)
    losses, sigmas = loss(Exact(truth, hears=True), Batch(data[index], labels[index]))
    assert losses.shape == sigmas.shape == (400,)
    assert float(losses.abs().max()) < 1e-6
    losses, _ = loss(Exact(truth, hears=False), Batch(data[index], labels[index]))
    assert abs(z_score((losses.abs() < 1e-6).double(), 0.3)) < 4


def test_every_example_is_shown_with_its_own_class_and_one_in_ten_without(generator: Generator) -> None:
    """The class is written into the example: an objective that sees both finds them equal, or the class left out."""
    batches = []

    def objective(score: Score, x: Tensor, sigma: Tensor, *, label: Tensor, **_: object) -> Tensor:
        batches.append(label)
        assert torch.equal(label[label >= 0], x[label >= 0, 0].long())
        return x.sum(1)

    labels = torch.randint(7, (20_000,), generator=generator)
    model = ScoreModel(torch.nn.Identity(), 0.0, 1.0)
    loss = training_loss(Geometric(3.0, 0.5, 4), objective, generator=generator)
    loss(model, Batch(labels[:, None].float().expand(-1, 2), labels))
    (label,) = batches
    assert abs(z_score((label == -1).float(), 0.1)) < 4
    assert set(label.tolist()) == set(range(-1, 7))


@pytest.mark.parametrize(
    "reduce", [lambda losses: losses.mean(), lambda losses: losses[:1], lambda losses: losses[:, None]]
)
def test_an_objective_that_gives_no_loss_per_example_is_refused(reduce: Callable[[Tensor], Tensor]) -> None:
    loss = training_loss(Geometric(3.0, 0.5, 4), lambda *a, **k: reduce(dsm(*a, **k)), generator=seeded(1))
    with unchecked(), pytest.raises(ValueError, match=r"the objective returned shape .*; \(5,\), one each, is needed"):
        loss(Exact(Empirical(torch.eye(2)), hears=False), Batch(torch.ones(5, 2)))
