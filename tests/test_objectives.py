"""Gradients, classes and weights of objectives; test_laws.py has their minimiser."""

from collections.abc import Callable

import pytest
import torch
from helpers import Sigma, expand, unchecked, z_score
from torch import Generator, Tensor

from ncsn.batching import Batch
from ncsn.distributions import Empirical
from ncsn.networks import MLP
from ncsn.noise import Geometric
from ncsn.objectives import dsm, exact, posterior_dsm, ssm, training_loss
from ncsn.score import ScoreModel

N = 100_000


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


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
    shown: list[Tensor] = []

    def show(*_: object, label: Tensor, generator: Generator) -> Tensor:
        shown.append(label)
        return label / 1.0

    labels = torch.randint(7, (20_000,), generator=generator)
    loss = training_loss(Geometric(3.0, 0.5, 4), show, **options, generator=generator)
    loss(ScoreModel(torch.nn.Identity()), Batch(torch.ones(20_000, 1), labels))
    (label,) = shown
    assert abs(z_score((label == -1).float(), share)) < 4
    assert torch.equal(label[label >= 0], labels[label >= 0])


@pytest.mark.parametrize("reduce", [Tensor.mean, lambda losses: losses[:1], lambda losses: losses[:, None]])
def test_an_objective_that_gives_no_loss_per_example_is_refused(reduce: Callable[[Tensor], Tensor]) -> None:
    loss = training_loss(Geometric(3.0, 0.5, 4), lambda *a, **k: reduce(dsm(*a, **k)), generator=seeded(1))
    with unchecked(), pytest.raises(ValueError, match=r"the objective returned shape .*; expected \(5,\)"):
        loss(ScoreModel(MLP(2, 8, 1)), Batch(torch.ones(5, 2)))
