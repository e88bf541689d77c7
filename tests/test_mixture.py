"""Where a table's training begins: mixtures of Gaussians, fitted to rows with missing cells by EM."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ncsn.conditional import Mixture
from ncsn.learn import mixture
from ncsn.learn.mixture import expected, fit_mixture, gaussians, improve, log_densities

COVARIANCE = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.0], [0.2, 0.0, 1.0]], dtype=torch.float64)
TWO = Mixture(
    torch.tensor([[0.0, 0, 0], [1, 0.5, 1]], dtype=torch.float64),
    torch.tensor([0.25, 0.75], dtype=torch.float64),
    COVARIANCE,
)
ONE = Mixture(TWO.means[1:], torch.ones(1, dtype=torch.float64), COVARIANCE)
MISSING = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()
mixtures = pytest.mark.parametrize("start", [ONE, TWO], ids=["one", "two"])
chunks = pytest.mark.parametrize("at_once", [mixture.NUMBERS_AT_ONCE, 5 * 9], ids=["together", "five rows at a time"])


def gaussian(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    rows: Tensor = torch.randn(n, 3, generator=g).double() @ torch.linalg.cholesky(COVARIANCE).T
    return rows


def gappy(n: int, missing: Tensor = MISSING) -> Tensor:
    return gaussian(n, 0).masked_fill(missing.repeat(n // len(missing), 1), torch.nan)


def with_one_mean(found: Mixture) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the whole mixture."""
    mean = found.shares @ found.means
    off = found.means - mean
    return mean, found.covariance + (found.shares[:, None] * off).T @ off


def by_hand(start: Mixture, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one row: log density times share, completed row and conditional covariance, of each Gaussian."""
    known, gap = ~row.isnan(), row.isnan()
    logs, rows = start.shares.log(), row.repeat(len(start.means), 1)
    spread, whole = torch.zeros_like(start.covariance), start.covariance
    if known.any():
        parts = [MultivariateNormal(mean[known], whole[known][:, known]) for mean in start.means]
        logs = logs + torch.stack([part.log_prob(row[known]) for part in parts])  # type: ignore[no-untyped-call]
    if gap.any():
        regression = torch.linalg.solve(whole[known][:, known], whole[known][:, gap]).T
        rows[:, gap] = start.means[:, gap] + (row[known] - start.means[:, known]) @ regression.T
        spread[gap.nonzero(), gap.nonzero().T] = whole[gap][:, gap] - regression @ whole[known][:, gap]
    return logs, rows, spread


@chunks
@mixtures
def test_the_density_of_a_row_is_that_of_what_is_known_of_it(
    start: Mixture, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All patterns together, beside PyTorch's own Gaussians, but for a constant of each known number."""
    monkeypatch.setattr(mixture, "NUMBERS_AT_ONCE", at_once)
    x = gappy(12)
    for row, value in zip(x, log_densities(start, x), strict=True):
        logs, _, _ = by_hand(start, row)
        constant = int((~row.isnan()).sum()) * math.log(2 * math.pi) / 2
        assert float(value) == pytest.approx(float(logs.logsumexp(0)) + constant, abs=1e-9)


@chunks
@mixtures
def test_missing_cells_are_completed_by_each_gaussians_regression(
    start: Mixture, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "NUMBERS_AT_ONCE", at_once)
    x = gappy(12)
    completed = torch.cat([each.completed() for each in expected(start, x)])
    torch.testing.assert_close(completed, torch.stack([by_hand(start, row)[1] for row in x]))


@chunks
@mixtures
@pytest.mark.parametrize("missing", [MISSING, MISSING[:1]], ids=["gaps", "complete"])
def test_a_step_of_em_is_that_of_dempster_laird_and_rubin(
    missing: Tensor, start: Mixture, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row; the covariance is shrunk by three rows, and has no bias by the means."""
    monkeypatch.setattr(mixture, "NUMBERS_AT_ONCE", at_once)
    x = gappy(24, missing)
    parts = [by_hand(start, row) for row in x]
    belongs = torch.stack([logs.softmax(0) for logs, _, _ in parts])
    rows = torch.stack([rows for _, rows, _ in parts])
    means = (belongs[:, :, None] * rows).sum(0) / belongs.sum(0)[:, None]
    off = rows - means
    spread = sum(spread for _, _, spread in parts) + torch.einsum("nk,nki,nkj->ij", belongs, off, off)
    found = improve(start, x)
    torch.testing.assert_close(found.means, means)
    torch.testing.assert_close(found.shares, belongs.mean(0))
    n, k = len(x), len(start.means)
    torch.testing.assert_close(found.covariance, (spread + 3 * torch.eye(3)) / (n + 4 - k))


def test_a_direction_in_which_rows_do_not_vary_keeps_three_rows_of_unit_variance() -> None:
    x = torch.randn(97, 1, generator=torch.Generator().manual_seed(0)) @ torch.tensor([[1.0, 1.0]]) + 5
    found = gaussians(x, 1)
    covariance = 0.97 * float(x.var(0, correction=0)[0]) * torch.ones(2, 2) + 0.03 * torch.eye(2)
    torch.testing.assert_close(found.means[0], x.mean(0).double())
    torch.testing.assert_close(found.covariance, covariance.double())
    assert found.shares.tolist() == [1]


@pytest.mark.parametrize("n", [60, 600, 3000])
def test_a_mixture_finds_clusters_and_the_covariance_that_they_share(n: int) -> None:
    """Three rows' worth of unit variance are in it; a cluster may have two Gaussians."""
    middles, within = torch.tensor([[0.0, 0.0], [5.0, 4.0]]), torch.tensor([[0.1, 0.08], [0.08, 0.1]])
    g, label = torch.Generator().manual_seed(1), torch.arange(n + 200) % 3 % 2  # the first has two thirds of the rows
    rows = middles[label] + torch.randn(n + 200, 2, generator=g) @ torch.linalg.cholesky(within).T
    found = fit_mixture(rows[:n], rows[n:])
    assert len(found.means) > 1
    shrunk = (n * within + 3 * torch.eye(2)) / (n + 3)
    torch.testing.assert_close(found.covariance.float(), shrunk, atol=0.03, rtol=0)
    nearest = torch.cdist(found.means.float(), middles).argmin(1)
    for k, share in enumerate((2 / 3, 1 / 3)):
        shares = found.shares[nearest == k]
        assert float(shares.sum()) == pytest.approx(share, abs=0.01)
        middle = shares / shares.sum() @ found.means[nearest == k]
        torch.testing.assert_close(middle.float(), middles[k], atol=0.2, rtol=0)


def test_where_the_rows_are_gaussian_held_out_ones_leave_one() -> None:
    rows = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    assert len(fit_mixture(rows[:300], rows[300:]).means) == 1


@pytest.mark.parametrize("counts", [(1,), (1, 2)])
def test_a_column_that_is_missing_by_what_another_is_has_the_moments_of_all_rows(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second column the larger half is missing mostly: what is known of it has another mean and correlation."""
    monkeypatch.setattr(mixture, "COUNTS", counts)
    x, held_out = gaussian(2000, 1), gaussian(300, 2)
    for rows in (x, held_out):
        rows[rows[:, 0] > 0, 1] = torch.nan
    x[::5, 2] = torch.nan
    mean, covariance = with_one_mean(fit_mixture(x.float(), held_out.float()))
    assert x[:, 1].nanmean() < -0.6
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=0.12, rtol=0)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0.15, rtol=0)


def test_clusters_are_found_by_rows_that_nearly_all_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three columns of four tell the cluster; what held-out rows have not is not asked for."""
    monkeypatch.setattr(mixture, "COUNTS", (1, 2))
    g, label = torch.Generator().manual_seed(0), torch.arange(900) % 3 % 2
    middles, within = torch.tensor([[-2.0, 2, -2, 0], [2, -2, 2, 1]]), torch.tensor([0.5, 0.5, 0.5, 0.2])
    x = middles[label] + within * torch.randn(900, 4, generator=g)
    missing = torch.rand(900, 4, generator=g) < 0.3
    missing[700:, 2] = True
    x[missing] = torch.nan
    found = fit_mixture(x[:700], x[700:])
    order = found.means[:, 0].argsort()
    torch.testing.assert_close(found.means[order], middles.double(), atol=0.1, rtol=0)
    torch.testing.assert_close(found.shares[order], torch.tensor([2 / 3, 1 / 3]).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.covariance.diagonal().sqrt(), within.double(), atol=0.06, rtol=0)


def test_of_rows_with_many_patterns_of_gaps_those_with_frequent_ones_are_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One gap leaves all rows to fit to; of 500 patterns of one row each 255 are left, and those of complete rows."""
    monkeypatch.setattr(mixture, "ARITHMETIC", 0.0)
    monkeypatch.setattr(mixture, "COUNTS", (1,))
    seen, real = list[Tensor](), mixture.improve

    def counted(found: Mixture, rows: Tensor, **how: Any) -> Mixture:
        seen.append(rows)
        return real(found, rows, **how)

    monkeypatch.setattr(mixture, "improve", counted)
    x = torch.randn(1500, 9, generator=torch.Generator().manual_seed(0))
    one = x.clone()
    one[7, 1] = torch.nan
    fit_mixture(one, x[:50])
    assert {len(rows) for rows in seen} == {1500}
    seen.clear()
    bits = (torch.arange(1, 501)[:, None] >> torch.arange(9)) % 2 == 1
    x[:500] = x[:500].masked_fill(bits, torch.nan)
    fit_mixture(x, x[500:550])
    assert {len(rows) for rows in seen} == {1000 + 255}
    assert {int((~rows.isnan().any(1)).sum()) for rows in seen[1:]} == {1000}


@pytest.mark.parametrize("wide", [False, True])
def test_of_wide_tables_columns_are_independent(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as this, a covariance would take longer than the network."""
    monkeypatch.setattr(mixture, "NARROW", 20)
    monkeypatch.setattr(mixture, "COUNTS", (1,))
    d = 20 + wide
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, generator=g) * torch.linspace(1, 3, d) + torch.randn(40, d, generator=g) + 2
    x[torch.rand(40, d, generator=g) < 0.2] = torch.nan
    found = fit_mixture(x[:30], x[30:])
    known = [column[~column.isnan()] for column in x[:30].T]
    if not wide:
        assert float(found.covariance[0, -1]) > 1
        return
    assert found.shares.tolist() == [1]
    torch.testing.assert_close(found.means[0], torch.stack([column.mean() for column in known]))
    variances = torch.stack([column.var(correction=0) for column in known])
    torch.testing.assert_close(found.covariance, variances.diag())


def test_the_same_rows_have_the_same_mixture() -> None:
    x = gappy(400).float()
    one, other = (fit_mixture(x[:300], x[300:]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
