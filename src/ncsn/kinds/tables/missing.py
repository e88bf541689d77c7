"""Learning from tables with missing cells: the mixture that training starts around, and the masks of training rows.

The mixture of Gaussians with one covariance is fitted by EM, missing cells included.  Masks say which cells of a
training row are observed, targets or absent; they are drawn at random throughout training.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn.batching import Batch
from ncsn.kinds.tables.conditional import ABSENT, ConditionalModel, Mixture
from ncsn.noise import noise_like

NARROW = 256  # columns; with more, a covariance takes longer than the network
INDEPENDENT = 3  # rows added to a table's covariance, as if their columns were independent
COUNTS = (1, 2, 4)  # numbers of Gaussians to choose from
MAX_ROWS, ROWS_PER_GAUSSIAN = 2000, 5
NARROW_WITH_GAPS, MAX_PAIRWISE_ROWS = 40, 20_000  # columns for EM with missing cells; rows for pairs of wider tables
FLOORS = (0.01, 0.05, 0.2)  # of a correlation's eigenvalues
NUMBERS_AT_ONCE = 2**24  # in the matrices of a chunk of rows
ARITHMETIC = 1e9  # held-out rows with gaps, times the cube of the number of columns: a second
MAX_REPEATS, COLUMNS_PER_REPEAT = 16, 16  # of a row with gaps in a batch of a wide table
JOINT = 0.3  # smallest share of rows in which nothing is observed
PATTERNS = 16  # choices of observed columns in a batch, each shared by many rows
# Exact values identify the rows of a small table, which are then memorised; noisy values don't.
NOISY, NOISY_ROWS = 0.6, 600  # largest share of patterns with noisy values; that share times the table's rows
DROPPED = 0.5  # share of the columns, because the pattern of a row's missing cells would identify it, too
LOG_NOISE_MEAN, LOG_NOISE_STD, MAX_NOISE = -1.0, 1.5, 3.0  # in standard deviations of a column


@dataclass(frozen=True)
class Expected:
    """The E step for a chunk of rows.

    ``x``: the rows, 0 where a cell is ``missing``.  ``logs``: log density times share of each Gaussian, (b, k).
    ``which``: the pattern of each row's missing cells.  ``inverses``: of the covariance of the other cells, for each
    pattern, zero elsewhere.
    """

    mixture: Mixture
    x: Float64[Tensor, "b d"]
    missing: Bool[Tensor, "b d"]
    logs: Float64[Tensor, "b k"]
    which: Int64[Tensor, "b"]
    inverses: Float64[Tensor, "p d d"]

    def complete(self) -> Float64[Tensor, "b k d"]:
        """Rows with each Gaussian's conditional mean of their missing cells: μ_m + S_mo S_oo⁻¹ (x_o − μ_o)."""
        means, missing = self.mixture.means, self.missing[:, None]
        off = (self.x[:, None] - means).masked_fill(missing, 0.0)
        return torch.where(missing, means + off @ self.inverses[self.which] @ self.mixture.covariance, self.x[:, None])

    def moments(self, belongs: Float64[Tensor, "b k"]) -> tuple[Float64[Tensor, "k d"], Float64[Tensor, "d d"]]:
        """Expected sums of the rows that belong to each Gaussian, and of the outer products of all rows."""
        if not bool(self.missing.any()):  # then they are the same for each
            return belongs.T @ self.x, self.x.T @ self.x
        rows, covariance = self.complete(), self.mixture.covariance
        weighted = belongs[:, :, None] * rows
        counts = torch.bincount(self.which, minlength=len(self.inverses))[:, None, None]
        conditional = (counts * (covariance - covariance @ self.inverses @ covariance)).sum(0)
        return weighted.sum(0), weighted.flatten(0, 1).T @ rows.flatten(0, 1) + conditional


def e_step(mixture: Mixture, x: Float[Tensor, "n d"]) -> Iterator[Expected]:
    """The E step, in chunks of rows small enough for a matrix each to fit into memory."""
    covariance, (k, d) = mixture.covariance, mixture.means.shape
    size = max(1, NUMBERS_AT_ONCE // (d * max(d, k)))
    for part in torch.split(x.double(), size):
        missing = part.isnan()
        rows, patterns, which = part.masked_fill(missing, 0.0), missing[:1], torch.zeros(len(part)).long()
        if bool(missing.any()):
            patterns, which = torch.unique(missing, dim=0, return_inverse=True)
        known = ~(patterns[:, :, None] | patterns[:, None])
        factors = torch.linalg.cholesky(torch.where(known, covariance, 0.0) + torch.diag_embed(patterns.double()))
        inverses = torch.where(known, torch.cholesky_inverse(factors), 0.0)
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        # (x − c)ᵀS(x − c) by its three terms; the last needs one product for each pattern only.
        constant = volumes + ((mixture.means @ inverses) * mixture.means).sum(2) / 2
        solved = rows @ inverses[0] if len(patterns) == 1 else (rows[:, None] @ inverses[which])[:, 0]
        logs = mixture.shares.log() + solved @ mixture.means.T - (solved * rows).sum(1, keepdim=True) / 2
        yield Expected(mixture, rows, missing, logs - constant[which], which, inverses)


def log_densities(mixture: Mixture, x: Float[Tensor, "n d"]) -> Float64[Tensor, "n"]:
    """Log density of the cells of each row that are not NaN, up to a constant."""
    return torch.cat([each.logs.logsumexp(1) for each in e_step(mixture, x)])


def improve(mixture: Mixture, x: Float[Tensor, "n d"], *, sharpness: float = 1.0) -> Mixture:
    """One step of EM (Dempster, Laird & Rubin 1977); with a large ``sharpness`` each row belongs to one Gaussian."""
    n, (k, d) = len(x), mixture.means.shape
    counts, sums, squares = torch.full((k,), 1e-9).double(), torch.zeros(k, d).double(), torch.zeros(d, d).double()
    for each in e_step(mixture, x):
        belongs = (sharpness * each.logs).softmax(1)
        first, second = each.moments(belongs)
        counts += belongs.sum(0)
        sums += first
        squares += second
    means = sums / counts[:, None]
    # k means take away as much variance as k − 1 of the n rows.
    spread = squares - (counts * means.T) @ means + INDEPENDENT * torch.eye(d).double()
    return Mixture(means, counts / counts.sum(), spread / (n + 1 - k + INDEPENDENT))


def gaussians(x: Float[Tensor, "n d"], k: int) -> Mixture:
    """``k`` Gaussians, fitted to complete rows by ten steps of k-means and forty of EM."""
    first = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:k]].double()
    one = torch.eye(x.shape[1]).double()
    mixture = Mixture(first, torch.ones(k).double(), one)
    for _ in range(9 if k > 1 else 0):
        mixture = Mixture(improve(mixture, x, sharpness=1e9).means, torch.ones(k).double(), one)
    mixture = improve(mixture, x, sharpness=1e9)
    for _ in range(40 if k > 1 else 0):
        mixture = improve(mixture, x)
    return mixture


def pairwise(x: Float[Tensor, "n d"]) -> Iterator[Mixture]:
    """Single Gaussians from all pairs of observed cells, which is consistent if cells are missing at random places.

    Such a covariance can have negative eigenvalues: each Gaussian has another floor for those of the correlation.
    """
    observed, values = (~x.isnan()).double(), x.double().nan_to_num(0.0)
    mean = values.sum(0) / observed.sum(0)
    off, counts, prior = (values - mean) * observed, observed.T @ observed, INDEPENDENT * torch.eye(x.shape[1])
    covariance = (off.T @ off + prior) / (counts + INDEPENDENT)
    stds = covariance.diagonal().sqrt()
    eigenvalues, axes = torch.linalg.eigh(covariance / stds / stds[:, None])
    for floor in FLOORS:
        correlation = (axes * eigenvalues.clamp(min=floor)) @ axes.T
        yield Mixture(mean[None], torch.ones(1).double(), correlation * stds * stds[:, None])


def fit_mixture(train: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"]) -> Mixture:
    """The mixture, of up to four Gaussians, under which held-out rows have the largest density; NaN is a missing cell.

    The covariance is shrunk; one Gaussian then imputes real tables as well as with the shrinkage of Ledoit & Wolf
    (2004).  Where cells are missing, mixtures start from rows completed by the conditional means of one Gaussian.
    EM inverts a matrix for each pattern of missing cells, so wide tables with gaps have a ``pairwise`` covariance.
    For more than 256 columns it is one Gaussian with independent columns.
    """
    d = train.shape[1]
    if d > NARROW:
        mean = train.nanmean(0)
        variances = (train - mean).square().nanmean(0)
        return Mixture(mean[None].cpu(), torch.ones(1, dtype=train.dtype), variances.diag().cpu())
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    x, judges = train[order[:MAX_ROWS]].cpu(), held_out[: affordable_rows(held_out, MAX_ROWS)].cpu()
    incomplete = bool(x.isnan().any())
    if incomplete and d > NARROW_WITH_GAPS:
        mixtures = list(pairwise(train[order[:MAX_PAIRWISE_ROWS]].cpu()))
        return max(mixtures, key=lambda mixture: float(log_densities(mixture, judges).mean()))
    one = gaussians(x.nan_to_num(0.0), 1)
    for _ in range(20 if incomplete else 0):
        one = improve(one, x)
    complete = torch.cat([each.complete()[:, 0] for each in e_step(one, x)]) if incomplete else x
    mixtures = [one]
    for k in (k for k in COUNTS[1:] if k * ROWS_PER_GAUSSIAN <= len(x)):
        mixture = gaussians(complete, k)
        for _ in range(5 if incomplete else 0):
            mixture = improve(mixture, x)
        mixtures.append(mixture)
    return max(mixtures, key=lambda mixture: float(log_densities(mixture, judges).mean()))


def affordable_rows(x: Float[Tensor, "n d"], most: int) -> int:
    """How many held-out rows to use: with gaps, each may have a pattern of its own, whose matrix is inverted."""
    return min(most, max(128, int(ARITHMETIC / x.shape[1] ** 3))) if bool(x.isnan().any()) else most


def noisy_share(rows: int) -> float:
    """The share of patterns whose observed values are noisy, for a table with this number of training rows."""
    return min(NOISY, NOISY_ROWS / rows)


def draw_masks(
    model: ConditionalModel,
    x: Float[Tensor, "b d"],
    generator: torch.Generator,
    *,
    joint: float,
    noisy: float = 0.0,
    dropped: float = 0.0,
) -> Batch:
    """Rows in which random columns are observed, from one to all but one of them; NaN is a missing cell.

    ``joint``: the share of rows, first in the batch, in which nothing is observed.
    ``noisy``: the share of patterns whose observed values have noise; its level is an input of the model.
    ``dropped``: the largest share of columns that are absent as well in a pattern, if any cells are missing.
    """
    n, d = x.shape
    device = x.device
    few = min(PATTERNS, n)
    which = torch.arange(n, device=device) * few // n
    counts = torch.randint(1, max(d, 2), (few, 1), generator=generator, device=device)
    ranks = torch.rand(few, d, generator=generator, device=device, dtype=x.dtype).argsort(1).argsort(1)
    levels = torch.randn(few, generator=generator, device=device, dtype=x.dtype) * LOG_NOISE_STD + LOG_NOISE_MEAN
    levels = levels.exp().clamp(max=MAX_NOISE) * (torch.rand(few, generator=generator, device=device) < noisy)
    observed, missing = (ranks < counts)[which], x.isnan()
    if dropped and bool(missing.any()):
        rates = dropped * torch.rand(few, 1, generator=generator, device=device)
        more = torch.rand(few, d, generator=generator, device=device) < rates
        missing = torch.where((missing | more[which]).all(1, keepdim=True), missing, missing | more[which])
    observed[: n if d == 1 else round(n * joint)] = False
    noise = levels[which] * observed.any(1)
    values = x + noise[:, None] * noise_like(x, generator)
    given = torch.where(observed, values, torch.nan).masked_fill(missing, ABSENT)
    clean = torch.where(observed, values, x).masked_fill(missing, 0.0)  # only targets have a loss
    return Batch(clean, given=model.condition(given, noise))


def fill_or_unmark(x: Float[Tensor, "b e"], marks: int, generator: torch.Generator) -> Float[Tensor, "b e"]:
    """Prepare rows whose last columns mark missing cells: the first half learns the marks, the second conditionals.

    In the first half missing cells become noise, because an absent cell would reveal its mark.  The second half loses
    its marks, because conditionals are those of values missing at random.
    """
    filled = torch.where(x.isnan(), noise_like(x, generator), x)
    unmarked = torch.cat([x[:, : x.shape[1] - marks], torch.full_like(x[:, x.shape[1] - marks :], torch.nan)], 1)
    half = -(-len(x) // 2)
    return torch.cat([filled[:half], unmarked[half:]])


def mask_batches(
    model: ConditionalModel,
    batches: Iterator[Batch],
    train: Float[Tensor, "n d"],
    generator: torch.Generator,
    *,
    marks: int = 0,
) -> Iterator[Batch]:
    """Batches of a table, masked at random.

    ``marks``: how many columns at the end mark missing cells.
    ``train``: all training rows.  If inverting a matrix for each row with gaps would take longer than the network, a
    batch has fewer rows, each repeated with fresh noise.
    """
    n, d = train.shape
    often = min(MAX_REPEATS, max(1, d // COLUMNS_PER_REPEAT)) if bool(train.isnan().any()) else 1
    # With few columns, all numbers of observed columns are equally likely.
    joint, noisy = max(JOINT, 1 / d), noisy_share(n)
    for batch in batches:
        rows = batch.x[: -(-len(batch.x) // often)]
        rows = fill_or_unmark(rows, marks, generator) if marks else rows
        masked = draw_masks(model, rows, generator, joint=joint, noisy=noisy, dropped=DROPPED)
        yield masked._replace(x=masked.x.repeat_interleave(often, 0))
