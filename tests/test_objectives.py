from functools import partial

import pytest
import torch
from helpers import GaussianScore, z_score, zero_score
from torch import Tensor

from ncsn.distributions import Empirical, GaussianMixture
from ncsn.model import ScoreModel
from ncsn.noise import Geometric
from ncsn.objectives import Batch, dsm, exact, fisher, posterior_dsm, ssm, training_loss
from ncsn.score import Sigma, expand


@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_zero_score_costs_half_the_dimension(sigma: float, generator: torch.Generator) -> None:
    x = torch.rand(500, 1, 28, 28, generator=generator)
    assert abs(z_score(dsm(zero_score, x, torch.tensor(sigma), generator=generator), 392)) < 4


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_dsm_exceeds_fisher_by_the_same_constant_for_every_score(sigma: float) -> None:
    """E[dsm] − σ²·E[fisher] is the expected variance of the target: here D/2·s²/(s² + σ²) for N(1, s² I)."""
    std, level = 1.5, torch.tensor(sigma)
    truth = GaussianScore(1.0, std)
    for mean, wrong_std in ((1.0, 1.5), (0.0, 0.5), (3.0, 4.0)):
        score = GaussianScore(mean, wrong_std)
        x = 1.0 + std * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        loss = dsm(score, x, level, generator=torch.Generator().manual_seed(2))
        gap = loss - level**2 * fisher(score, truth, x + level * z, level)
        assert abs(z_score(gap, std**2 / (std**2 + sigma**2))) < 4


def test_objectives_are_not_reduced(generator: torch.Generator) -> None:
    x = torch.randn(7, 3, generator=generator)
    assert dsm(zero_score, x, torch.ones(7), generator=generator).shape == (7,)
    assert fisher(zero_score, GaussianScore(0, 1), x, torch.ones(7)).shape == (7,)


def test_residual_loss_of_the_best_gaussian_is_the_variance_of_its_target(generator: torch.Generator) -> None:
    x = 2.0 + 3.0 * torch.randn(100_000, 4, generator=generator)

    class Zero(torch.nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    model = ScoreModel(Zero(), 2.0, 3.0)
    losses, sigmas = training_loss(Geometric(10.0, 0.1, 5), generator=generator)(model, Batch(x))
    for sigma in torch.unique(sigmas):
        assert abs(z_score(losses[sigmas == sigma], 1.0)) < 4


@pytest.mark.parametrize("above", [0.0, 0.8])
def test_posterior_dsm_is_below_dsm_by_the_same_constant_for_every_score(above: float) -> None:
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    truth, n = Empirical(data), 100_000
    x = truth.sample(n, generator=torch.Generator().manual_seed(2))
    gaps = []
    for mean, std in ((0.0, 1.0), (2.0, 0.3)):
        score, level = GaussianScore(mean, std), torch.full((n,), 1.0)
        level[: n // 2] = 0.6
        plain = dsm(score, x, level, generator=torch.Generator().manual_seed(3))
        exact = posterior_dsm(
            score, x, level, data_score=truth, above=above, generator=torch.Generator().manual_seed(3)
        )
        gaps.append(plain - exact)
        assert torch.allclose(exact[: n // 2], plain[: n // 2], atol=1e-4) == (above > 0.6)
    assert abs(z_score(gaps[0] - gaps[1], 0)) < 4
    assert float(gaps[0].mean()) > 0.1


def test_posterior_dsm_of_the_data_score_is_zero(generator: torch.Generator) -> None:
    truth = Empirical(torch.randn(9, 1, 2, 2, generator=generator))
    x = truth.sample(5, generator=generator)
    loss = posterior_dsm(truth, x, torch.linspace(0.5, 3, 5), data_score=truth, above=0.0, generator=generator)
    torch.testing.assert_close(loss, torch.zeros(5))


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_exact_score_matching_is_half_the_dimension_below_dsm(sigma: float) -> None:
    x = 1.5 * torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
    for mean, std in ((0.0, 1.5), (1.0, 0.5)):
        score, level = GaussianScore(mean, std), torch.full((len(x),), sigma)
        gap = dsm(score, x, level, generator=torch.Generator().manual_seed(2))
        gap = gap - exact(score, x, level, generator=torch.Generator().manual_seed(2)).detach()
        assert abs(z_score(gap, 1.0)) < 4


def test_sliced_score_matching_averages_to_the_exact_one(generator: torch.Generator) -> None:
    """Over all 2^D vectors of signs: of every example here, as its slices are drawn again and again."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.5, 0.0], [1.0, 0.0, -0.5]]), 0.6)
    x, sigma = torch.randn(1, 3, generator=generator), torch.tensor([0.8])
    many, g = x.expand(50_000, 3), torch.Generator()
    difference = ssm(mixture, many, sigma.expand(50_000), generator=g.manual_seed(5)) - exact(
        mixture, many, sigma.expand(50_000), generator=g.manual_seed(5)
    )
    difference = difference.detach()
    assert abs(z_score(difference, 0)) < 4
    assert float(difference.std()) > 0.01  # a single slice is not the trace


def test_score_matching_trains(generator: torch.Generator) -> None:
    """Both have gradients in the weights: the width of a Gaussian is found by either."""
    x = 0.7 * torch.randn(4096, 2, generator=generator)
    for objective in (ssm, exact):
        log_std = torch.zeros((), requires_grad=True)

        def score(y: torch.Tensor, sigma: Sigma, /, log_std: torch.Tensor = log_std) -> torch.Tensor:
            return -y / ((2 * log_std).exp() + expand(sigma, y) ** 2)

        optimizer = torch.optim.Adam([log_std], lr=0.05)
        for _ in range(120):
            loss = objective(score, x, torch.full((len(x),), 0.2), generator=generator).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert float(log_std.exp().detach()) == pytest.approx(0.7, abs=0.03)


def test_training_loss_is_zero_for_the_score_of_every_class_and_of_all_data(generator: torch.Generator) -> None:
    """The exact class scores, with 3 of 10 labels dropped, leave nothing to learn; the score of all data does."""
    data, labels = torch.randn(12, 2, generator=generator), torch.arange(12) % 3
    truth = Empirical(data, labels)

    class Exact(ScoreModel):
        knows = True

        def forward(self, x: torch.Tensor, sigma: Sigma, label: torch.Tensor | None = None) -> torch.Tensor:
            return truth(x, sigma, label if self.knows else None)

    model = Exact(torch.nn.Identity(), 0.0, 1.0)
    objective = partial(posterior_dsm, data_score=truth, above=0.0)
    loss = training_loss(Geometric(3.0, 0.5, 4), objective, drop_label=0.3, generator=generator)
    index = torch.randint(12, (400,), generator=generator)
    losses, sigmas = loss(model, Batch(data[index], labels[index]))
    assert losses.shape == sigmas.shape == (400,)
    assert float(losses.abs().max()) < 1e-6
    model.knows = False
    losses, _ = loss(model, Batch(data[index], labels[index]))
    assert 0.15 < float((losses.abs() < 1e-6).float().mean()) < 0.45


def test_every_example_is_shown_with_its_own_class_and_one_in_ten_without(generator: torch.Generator) -> None:
    """The class is written into the example: an objective that sees both finds them equal, or the class left out."""
    seen = []

    def objective(score: object, x: torch.Tensor, sigma: torch.Tensor, *, label: torch.Tensor, **_: object) -> Tensor:
        seen.append(label)
        assert torch.equal(label[label >= 0], x[label >= 0, 0].long())
        return x.sum(1)

    labels = torch.randint(7, (20_000,), generator=generator)
    model = ScoreModel(torch.nn.Identity(), 0.0, 1.0)
    loss = training_loss(Geometric(3.0, 0.5, 4), objective, generator=generator)
    loss(model, Batch(labels[:, None].float().expand(-1, 2), labels))
    (label,) = seen
    assert abs(z_score((label == -1).float(), 0.1)) < 4
    assert set(label.tolist()) == set(range(-1, 7))
