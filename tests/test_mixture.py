"""Where a table's training begins: mixtures of Gaussians, also of rows with blanks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ncsn.learn import mixture
from ncsn.learn.mixture import Mixture, known_range, mixture_of

COVARIANCE = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.0], [0.2, 0.0, 1.0]], dtype=torch.float64)


def gaussian(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    rows: Tensor = torch.randn(n, 3, generator=g).double() @ torch.linalg.cholesky(COVARIANCE).T
    return rows


def test_principal_axes_are_those_of_a_shrunk_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A direction in which the rows do not vary keeps three rows' worth of unit variance."""
    monkeypatch.setattr(mixture, "COUNTS", (1,))
    x = torch.randn(97, 1, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 1.0]]) + 5
    mean, principal, centres = mixture_of(x, None, x, None).parts
    covariance = 0.97 * float(x.var(0, correction=0)[0]) * torch.ones(2, 2) + 0.03 * torch.eye(2)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(principal @ principal.T, covariance)
    torch.testing.assert_close(principal.T @ principal, (principal.T @ principal).diagonal().diag())
    assert centres is None


@pytest.mark.parametrize("n", [60, 600, 3000])
def test_a_mixture_finds_clusters_and_the_covariance_that_they_share(n: int) -> None:
    """Three rows' worth of unit variance are in it; a cluster may have two Gaussians."""
    middles, within = torch.tensor([[0.0, 0.0], [5.0, 4.0]]), torch.tensor([[0.1, 0.08], [0.08, 0.1]])
    g, label = torch.Generator().manual_seed(1), torch.arange(n + 200) % 3 % 2  # the first has two thirds of the rows
    rows = middles[label] + torch.randn(n + 200, 2, generator=g) @ torch.linalg.cholesky(within).T
    mean, principal, centres = mixture_of(rows[:n], None, rows[n:], None).parts
    assert centres is not None
    shrunk = (n * within + 3 * torch.eye(2)) / (n + 3)
    torch.testing.assert_close(principal @ principal.T, shrunk, atol=0.03, rtol=0)
    axes = principal / torch.linalg.vector_norm(principal, dim=0)
    nearest = torch.cdist(mean + centres[:, :-1] @ axes.T, middles).argmin(1)
    for k, share in enumerate((2 / 3, 1 / 3)):
        mine = centres[nearest == k]
        assert float(mine[:, -1].exp().sum()) == pytest.approx(share, abs=0.01)
        middle = mean + mine[:, -1].softmax(0) @ mine[:, :-1] @ axes.T
        torch.testing.assert_close(middle, middles[k], atol=0.2, rtol=0)


def test_where_the_rows_are_gaussian_held_out_ones_leave_one() -> None:
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert mixture_of(rows[:300], None, rows[300:], None).parts[2] is None


def test_the_density_of_a_row_is_that_of_what_is_known_of_it() -> None:
    """All patterns of blanks together, beside PyTorch's own Gaussians, but for their common constant a number."""
    centres, shares = torch.tensor([[0.0, 0, 0], [2, -1, 1]]).double(), torch.tensor([0.25, 0.75]).double()
    x, blanks = gaussian(6, 0), torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1]]).bool().repeat(2, 1)
    found = Mixture(centres, shares, COVARIANCE).log_densities(x.masked_fill(blanks, 7.0), blanks)
    for row, blank, value in zip(x, blanks, found, strict=True):
        known = ~blank
        parts = [MultivariateNormal(centre[known], COVARIANCE[known][:, known]) for centre in centres]
        logs = torch.stack([part.log_prob(row[known]) for part in parts])  # type: ignore[no-untyped-call]
        exact = (shares.log() + logs).logsumexp(0) + int(known.sum()) * math.log(2 * math.pi) / 2
        assert float(value) == pytest.approx(float(exact), abs=1e-9)


@pytest.mark.parametrize("counts", [(1,), (1, 2)])
def test_a_column_that_is_blank_by_what_another_is_has_the_moments_of_all_rows(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second column the larger half is blank mostly: what is known of it has another mean and correlation."""
    monkeypatch.setattr(mixture, "COUNTS", counts)
    x, held_out = gaussian(2000, 1), gaussian(300, 2)
    blanks, held_blanks = torch.zeros(2000, 3).bool(), torch.zeros(300, 3).bool()
    blanks[:, 1], held_blanks[:, 1] = x[:, 0] > 0, held_out[:, 0] > 0
    blanks[::5, 2] = True
    rows = x.masked_fill(blanks, 0.5).float()
    found = mixture_of(rows, blanks, held_out.masked_fill(held_blanks, 0.5).float(), held_blanks)
    mean = found.shares @ found.centres
    off = found.centres - mean
    covariance = found.covariance + (found.shares[:, None] * off).T @ off
    assert x[~blanks[:, 1], 1].mean() < -0.6
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=0.12, rtol=0)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0.15, rtol=0)
    filled = found.fill(rows, blanks, known_range(rows, blanks), torch.Generator().manual_seed(3))
    assert torch.equal(filled[~blanks], rows[~blanks])
    assert float(filled[:, :2].T.corrcoef()[0, 1]) == pytest.approx(0.9, abs=0.04)


def test_blanks_are_drawn_from_the_gaussian_that_a_row_belongs_to() -> None:
    """By what is known; where both could be meant, by their shares; within the range of what is known."""
    centres = torch.tensor([[-3.0, -3, 0], [3, 3, 0]]).double()
    found = Mixture(centres, torch.tensor([0.2, 0.8]).double(), 0.1 * COVARIANCE)
    x = torch.tensor([[-3.0, 0, 0], [3.3, 0, 0], [0, 0, 0.5]]).repeat_interleave(4000, 0)
    blanks = torch.tensor([[0, 1, 0], [0, 1, 1], [1, 1, 0]]).bool().repeat_interleave(4000, 0)
    wide, narrow = ((torch.full((3,), -bound), torch.full((3,), bound)) for bound in (9.0, 1.0))
    left, right, unknown = found.fill(x, blanks, wide, torch.Generator().manual_seed(0)).double().split(4000)  # type: ignore[no-untyped-call]
    assert float(left[:, 1].mean()) == pytest.approx(-3, abs=0.02)
    both = COVARIANCE[[0, 2]][:, [0, 2]]
    spread = 1 - COVARIANCE[1, [0, 2]] @ torch.linalg.solve(both, COVARIANCE[[0, 2], 1])
    assert float(left[:, 1].var()) == pytest.approx(0.1 * float(spread), rel=0.1)
    assert float(right[:, 1].mean()) == pytest.approx(3 + 0.9 * 0.3, abs=0.02)
    assert float(right[:, 1].var()) == pytest.approx(0.1 * (1 - 0.81), rel=0.1)
    assert float(right[:, 2].mean()) == pytest.approx(0.2 * 0.3, abs=0.02)
    assert float((unknown[:, 0] > 0).double().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((unknown[:, 0] * unknown[:, 1] > 0).double().mean()) > 0.99
    bounded = found.fill(x, blanks, narrow, torch.Generator().manual_seed(0))
    assert torch.equal(bounded[~blanks], x[~blanks])
    assert float(bounded[blanks].abs().max()) == 1


def test_clusters_are_found_by_rows_that_nearly_all_have_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three columns of four tell the cluster; what held-out rows have not is not asked for."""
    monkeypatch.setattr(mixture, "COUNTS", (1, 2))
    g, label = torch.Generator().manual_seed(0), torch.arange(900) % 3 % 2
    middles, within = torch.tensor([[-2.0, 2, -2, 0], [2, -2, 2, 1]]), torch.tensor([0.5, 0.5, 0.5, 0.2])
    x = middles[label] + within * torch.randn(900, 4, generator=g)
    blanks = torch.rand(900, 4, generator=g) < 0.3
    blanks[700:, 2] = True
    rows = x.masked_fill(blanks, 50.0)
    found = mixture_of(rows[:700], blanks[:700], rows[700:], blanks[700:])
    order = found.centres[:, 0].argsort()
    torch.testing.assert_close(found.centres[order], middles.double(), atol=0.1, rtol=0)
    torch.testing.assert_close(found.shares[order], torch.tensor([2 / 3, 1 / 3]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.covariance.diagonal().sqrt(), within.double(), atol=0.06, rtol=0)
    bounds = known_range(rows[:700], blanks[:700])
    held_out = found.fill(rows[700:], blanks[700:], bounds, g)
    assert bool(held_out.isfinite().all()), "also of a column that none of them has"
    assert float((held_out[:, 2] - middles[label[700:], 2]).abs().mean()) < 1


def test_of_rows_with_many_patterns_of_blanks_those_with_frequent_ones_are_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One blank in a wide table leaves nearly all rows to fit to."""
    monkeypatch.setattr(mixture, "ARITHMETIC", 0.0)
    monkeypatch.setattr(mixture, "COUNTS", (1,))
    seen, improve = [], mixture.improved

    def counted(found: Mixture, rows: Tensor, gaps: Tensor, **how: Any) -> Mixture:
        seen.append(len(rows))
        return improve(found, rows, gaps, **how)

    monkeypatch.setattr(mixture, "improved", counted)
    x = torch.randn(1500, 3, generator=torch.Generator().manual_seed(0))
    blanks = torch.zeros(1500, 3).bool()
    blanks[7, 1] = True
    mixture_of(x, blanks, x[:50], None)
    assert set(seen) == {1500}
