import math

import pytest
import torch
from helpers import GaussianScore, image_run, kernel_distance, with_transform
from torch import nn

import ncsn
from ncsn import metrics
from ncsn.data.columns import Columns, Number
from ncsn.distributions import GaussianMixture
from ncsn.evaluation import PIXELS, evaluate
from ncsn.images import Images
from ncsn.score import Plain
from ncsn.tables.learning import Table
from ncsn.tables.run import TableRun


def test_binned_means_and_empty_bins() -> None:
    values, position = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0.0, 0.5, 1.0])
    assert metrics.mean_by_bin(values, position, [0.0, 1.0, 2.0, 3.0]) == [2.0, 10.0, None]


def test_the_errors_of_a_score_near_the_data_and_far_away(generator: torch.Generator) -> None:
    """A tenth off within 2 of the data, and half beyond: 0.01 and 0.25 of the square, and in between in closed form."""
    truth, sigma = GaussianMixture(torch.zeros(1, 2)), torch.tensor(0.5)

    def score(x: torch.Tensor, level: float | torch.Tensor, /) -> torch.Tensor:
        return truth(x, level) * torch.where(x.norm(dim=1, keepdim=True) > 2, 1.5, 1.1)

    grid = torch.tensor([[0.0, 0.0], [0.6, 0.0], [0.0, -1.7], [2.5, 0.0], [0.0, 7.0]])
    (row,) = metrics.score_errors(score, truth, sigma[None], torch.zeros(1, 2), grid, generator=generator)
    assert row["sigma"] == 0.5
    assert row["relative_error_beyond_distance_2"] == pytest.approx(0.25, rel=1e-5)
    # With u = |x|²/(2T) ~ Exp(1), T = 1 + σ², the score's square is 2u/T; beyond 2 it is u > a = 2/T.
    a = 2 / 1.25
    beyond, square_beyond = (1 + a) * math.exp(-a), (a * a + 2 * a + 2) * math.exp(-a)
    expected = 0.01 * (1 - beyond) + 0.25 * beyond
    variance = (0.01 - expected) ** 2 * (2 - square_beyond) + (0.25 - expected) ** 2 * square_beyond
    error = row["relative_error_on_noised_data"]
    assert isinstance(error, float)
    assert abs(error - expected) < 4 * (variance / 20_000) ** 0.5


def test_psnr_in_closed_form() -> None:
    assert metrics.psnr(torch.full((1, 4, 4), 0.4), torch.full((1, 4, 4), 0.5)) == pytest.approx(20)
    assert metrics.psnr(torch.tensor([-3.0, 0.5]), torch.tensor([0.1, 0.5])) == pytest.approx(-10 * math.log10(0.005))


def test_the_error_of_a_weight_has_no_sign() -> None:
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.0], [9.0]]), 1.0, torch.tensor([0.6, 0.2, 0.2]))
    left, right, far = metrics.mode_statistics(torch.tensor([[-1.5], [-1.0], [0.5], [2.5]]), mixture)
    assert [mode["weight"] for mode in (left, right, far)] == [0.5, 0.5, 0]
    assert [mode["weight_error"] for mode in (left, right, far)] == pytest.approx([0.1, 0.3, 0.2])
    assert (left["mean"], right["mean"], far["mean"]) == ([-1.25], [1.5], [])
    assert [left["std"], right["std"]] == pytest.approx([0.125**0.5, 2**0.5])
    assert far["std"] is None
    alone = metrics.mode_statistics(torch.tensor([[9.5]]), mixture)[2]
    assert (alone["weight"], alone["mean"], alone["std"]) == (1, [9.5], None)


def test_a_gain_is_a_difference_of_kernel_distances_with_the_error_that_repetition_shows() -> None:
    def drawn(r: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        noise = torch.randn(80, 3, generator=r)
        x = noise + torch.tensor([0.5, 0.0, 0.0])
        return x, noise + 0.1 * torch.randn(80, 3, generator=r), torch.randn(80, 3, generator=r)

    sets = [drawn(torch.Generator().manual_seed(i)) for i in range(200)]
    found = [metrics.kernel_gain(*each) for each in sets]
    x, z, y = sets[0]
    assert found[0][0] == pytest.approx(kernel_distance(x, y) - kernel_distance(z, y))
    gains, errors = (torch.tensor(column) for column in zip(*found, strict=True))
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(gains.std()), rel=0.2)
    mixed = [metrics.kernel_gain(x, z.roll(1, 0), y)[1] for x, z, y in sets]
    assert float(errors.mean()) < 0.95 * sum(mixed) / len(mixed), "pairs have most of chance in common"


# How a run's samples are judged.


class Exact(nn.Module):
    """A network that is a given score."""

    def __init__(self, score: ncsn.Score) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.score(x, (4 * c).exp() if len(c) > 1 else float((4 * c).exp()))


def run_of(score: ncsn.Score, columns: Columns) -> TableRun:
    """The run of a table with this score."""
    model = ncsn.ScoreModel(Exact(score), preconditioning=Plain())
    run = TableRun.of(model, (len(columns.columns),), sigma_max=15.0, sigma_min=0.01)
    return with_transform(run, columns)


def log_density(run: ncsn.Run, train: torch.Tensor, test: torch.Tensor) -> float:
    """What ``evaluate`` reports of held-out rows, in the user's units."""
    z, held_out = (run.transform.forward(x).float() for x in (train, test))
    report = evaluate(run, Table(z, held_out, held_out, transform=run.transform), levels=3).report()
    return float(report["log_density"])


def test_densities_of_a_table_are_in_its_units(generator: torch.Generator) -> None:
    mixture, columns = GaussianMixture(torch.tensor([[-1.2], [0.8]]), 0.3, torch.tensor([0.4, 0.6])), [1000.0, 0.01]
    z = torch.cat([mixture.sample(1100, generator=generator) for _ in columns], 1).double()
    transform = Columns(columns=tuple(Number(name=f"{scale}", shift=-7.0, scale=scale) for scale in columns))

    def independent(z: torch.Tensor, sigma: float | torch.Tensor, /) -> torch.Tensor:
        return torch.cat([mixture(part, sigma) for part in torch.split(z, 1, 1)], 1)

    x = transform.inverse(z)
    run = run_of(independent, transform)
    truth = mixture.log_prob(z[1000:].view(-1, 1), 0.01).view(100, 2).sum(1).mean() - math.log(1000 * 0.01)
    assert log_density(run, x[:1000], x[1000:]) == pytest.approx(float(truth), abs=1e-3)


def test_the_log_density_of_a_cell_is_its_mean_and_not_that_of_its_middle() -> None:
    """Of whole numbers around the middle of a wide cell: P is 1 of one of them, but its middle has a density of 4."""
    x = torch.zeros(1000, 1).double()
    columns = Columns(columns=(Number(name="count", shift=0.0, scale=1.0, step=1.0),))
    run = run_of(GaussianScore(0.0, 0.1), columns)
    assert float(run.log_prob(x[:2]).mean()) == pytest.approx(math.log(10 / (2 * math.pi) ** 0.5), abs=0.01)
    place = torch.rand(1000, generator=torch.Generator().manual_seed(0)) - 0.5
    inside = -((place / 0.1) ** 2) / 2 + math.log(10 / (2 * math.pi) ** 0.5)
    assert log_density(run, x, x) == pytest.approx(float(inside.mean()), rel=0.02)


def test_images_are_judged_as_they_are_asked_to_be_drawn() -> None:
    x = torch.randint(256, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Images(x[:20], x[20:40], x[40:])
    run = image_run(GaussianScore(0.5, 0.1), (1, 4, 4), sigma_max=5.0, sigma_min=0.02)
    asked, usual = (evaluate(run.sample(20, seed=2, levels=levels), data, PIXELS).report() for levels in (3, None))
    assert evaluate(run, data, PIXELS, n=20, seed=2, levels=3).report() == asked != usual
    # Before the features are computed, which can take minutes.
    with pytest.raises(ValueError, match="sampler is none"):
        evaluate(run, data, lambda _: pytest.fail("it had begun"), sampler="none")
