import pytest
import torch
from helpers import GaussianScore, unchecked

from ncsn.distributions import GaussianMixture
from ncsn.metrics import binned, mode_statistics, nearest_distance, relative_error, sliced_wasserstein


def test_relative_error_of_a_scaled_score(generator: torch.Generator) -> None:
    truth = GaussianScore(0.0, 1.0)
    x = torch.randn(50, 2, generator=generator)
    error, size = relative_error(lambda x, s: 0.9 * truth(x, s), truth, x, torch.tensor(0.5))
    torch.testing.assert_close(error / size, torch.full((50,), 0.01))


def test_binned_means_and_empty_bins() -> None:
    values, position = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0.0, 0.5, 1.0])
    assert binned(values, position, [0.0, 1.0, 2.0, 3.0]) == [2.0, 10.0, None]


def test_nearest_distance() -> None:
    data = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    torch.testing.assert_close(nearest_distance(torch.tensor([[3.0, 0.0], [3.0, 5.0]]), data), torch.tensor([3.0, 1.0]))


def test_sliced_wasserstein_of_a_shift_is_its_mean_projection(generator: torch.Generator) -> None:
    x = torch.randn(1000, 2, generator=generator)
    shift = torch.tensor([3.0, -4.0])
    # A shift moves every projection by |<shift, direction>|, 2/π of its length on average in the plane.
    assert sliced_wasserstein(x, x + shift, projections=20_000) == pytest.approx(5 * 2 / torch.pi, rel=0.02)
    assert sliced_wasserstein(x, x[torch.randperm(1000, generator=generator)]) == 0
    with unchecked(), pytest.raises(ValueError, match="must be equal"):
        sliced_wasserstein(x, x[:10])


def test_mode_statistics_count_and_measure_each_component(generator: torch.Generator) -> None:
    mixture = GaussianMixture(torch.tensor([[-9.0, 0.0], [9.0, 0.0]]), 1.5, torch.tensor([0.3, 0.7]))
    left, right = mode_statistics(mixture.sample(20_000, generator=generator), mixture)
    assert left["weight"] == pytest.approx(0.3, abs=0.015)
    assert left["std"] == pytest.approx(1.5, abs=0.05)
    assert right["mean"] == pytest.approx([9.0, 0.0], abs=0.06)
    assert right["weight_error"] == pytest.approx(abs(float(str(right["weight"])) - 0.7), abs=1e-6)
