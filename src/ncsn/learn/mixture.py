"""Where a table's training begins: a mixture of Gaussians that share their covariance, of rows with blanks, too."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn.machine.messages import bar, log

INDEPENDENT = 3  # rows that are added to a table's covariance, of columns without any
COUNTS = (1, 2, 4, 8, 16, 32)  # of Gaussians, of which the best is taken
MIXED, FEWEST = 2000, 5  # rows that these are fitted to at most; rows for each of them
NUMBERS = 2**24  # of matrices, at a time
ARITHMETIC, FILLED = 2e8, 1e10  # patterns of blanks to fit to, and to fill in, times the cube of the columns


@dataclass(frozen=True)
class Mixture:
    """Gaussians that share their covariance: their centres (k, d), shares (k,), and the covariance (d, d)."""

    centres: Float64[Tensor, "k d"]
    shares: Float64[Tensor, "k"]
    covariance: Float64[Tensor, "d d"]

    @property
    def parts(self) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"], Float[Tensor, "k d+1"] | None]:
        """The mean; the principal axes of the covariance, each times its standard deviation, as columns.

        And along the axes the centres less that mean, with the logarithms of their shares in a last column, None for
        one Gaussian.
        """
        mean = self.shares @ self.centres
        variances, axes = torch.linalg.eigh(self.covariance)
        places = torch.cat([(self.centres - mean) @ axes, self.shares.log()[:, None]], 1).float()
        return mean.float(), (axes * variances.sqrt()).float(), places if len(self.shares) > 1 else None

    def log_densities(self, x: Float[Tensor, "n d"], blanks: Bool[Tensor, "n d"]) -> Float64[Tensor, "n"]:
        """Of what is known of each row, but for a constant."""
        return torch.cat([each.logs.logsumexp(1) for each in expected(self, x, blanks)])

    def fill(
        self,
        x: Float[Tensor, "n d"],
        blanks: Bool[Tensor, "n d"],
        bounds: tuple[Float[Tensor, "d"], Float[Tensor, "d"]],
        generator: torch.Generator,
    ) -> Float[Tensor, "n d"]:
        """Rows whose ``blanks`` are drawn given what is known of them, within ``bounds``; as many as take seconds."""
        factor, filled, patterns = torch.linalg.cholesky(self.covariance), [], FILLED / len(self.covariance) ** 3
        for each in bar(expected(self, x, blanks), "blanks"):
            which = torch.multinomial(each.logs.softmax(1), 1, generator=generator)[:, 0]
            noise = torch.randn(len(which), len(factor), generator=generator, dtype=factor.dtype) @ factor.T
            # Any draw, moved by what is known less what it says of that (Matheron's rule).
            drawn = self.centres[which] + noise
            drawn = drawn + each.told((each.x - drawn)[:, None])[:, 0]
            filled.append(torch.where(each.blanks, drawn, each.x))
            patterns -= len(each.inverses)
            if patterns < 0:
                break
        drawn = torch.cat(filled).to(x).clamp(*bounds)
        if len(drawn) < len(x):
            log.info(f"of {len(drawn) / len(x):.0%} of the rows blanks are filled in at first by what is known of them")
        return torch.where(blanks, torch.cat([drawn, x[len(drawn) :]]), x)


@dataclass(frozen=True)
class Expected:
    """What a mixture says of rows: the logarithm of each Gaussian's density times its share, (b, k).

    ``which``: the pattern of a row's blanks.  ``inverses``: for each pattern, of the covariance of what is known, zero
    elsewhere.
    """

    mixture: Mixture
    x: Float64[Tensor, "b d"]
    blanks: Bool[Tensor, "b d"]
    logs: Float64[Tensor, "b k"]
    which: Int64[Tensor, "b"]
    inverses: Float64[Tensor, "p d d"]

    def told(self, off: Float64[Tensor, "b m d"]) -> Float64[Tensor, "b m d"]:
        """What differences in what is known let one expect of the blanks."""
        return off.masked_fill(self.blanks[:, None], 0.0) @ self.inverses[self.which] @ self.mixture.covariance

    def moments(self, belongs: Float64[Tensor, "b k"]) -> tuple[Float64[Tensor, "k d"], Float64[Tensor, "d d"]]:
        """The sums of the rows that belong to each Gaussian, and of the squares of all, as far as they are known."""
        if not bool(self.blanks.any()):  # then they are the same for each
            return belongs.T @ self.x, self.x.T @ self.x
        centres, x, covariance = self.mixture.centres, self.x[:, None], self.mixture.covariance
        rows = torch.where(self.blanks[:, None], centres + self.told(x - centres), x)
        weighted = belongs[:, :, None] * rows
        # The covariance that blanks are left with.
        counts = torch.bincount(self.which, minlength=len(self.inverses))[:, None, None]
        left = (counts * (covariance - covariance @ self.inverses @ covariance)).sum(0)
        return weighted.sum(0), weighted.flatten(0, 1).T @ rows.flatten(0, 1) + left


def expected(mixture: Mixture, x: Float[Tensor, "n d"], blanks: Bool[Tensor, "n d"]) -> Iterator[Expected]:
    """What a mixture says of rows, so many at a time that a matrix for each of them fits into memory."""
    covariance, (k, d) = mixture.covariance, mixture.centres.shape
    size = max(1, NUMBERS // (d * max(d, k)))
    for rows, blank in zip(torch.split(x.double(), size), torch.split(blanks, size), strict=True):
        patterns, which = blank[:1], torch.zeros(len(blank)).long()
        if bool(blank.any()):
            patterns, which = torch.unique(blank, dim=0, return_inverse=True)
        known = ~(patterns[:, :, None] | patterns[:, None])
        factors = torch.linalg.cholesky(torch.where(known, covariance, 0.0) + torch.diag_embed(patterns.double()))
        inverses = torch.where(known, torch.cholesky_inverse(factors), 0.0)
        volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1, keepdim=True)
        # (x − c)ᵀS(x − c) by its three parts, of which the last needs a product for each pattern alone.
        constant = volumes + ((mixture.centres @ inverses) * mixture.centres).sum(2) / 2
        solved = rows @ inverses[0] if len(patterns) == 1 else (rows[:, None] @ inverses[which])[:, 0]
        logs = mixture.shares.log() + solved @ mixture.centres.T - (solved * rows).sum(1, keepdim=True) / 2
        yield Expected(mixture, rows, blank, logs - constant[which], which, inverses)


def improved(
    mixture: Mixture, x: Float[Tensor, "n d"], blanks: Bool[Tensor, "n d"], *, sharpness: float = 1.0
) -> Mixture:
    """One step of EM (Dempster, Laird & Rubin 1977); with much ``sharpness`` each row belongs to one Gaussian."""
    n, (k, d) = len(x), mixture.centres.shape
    counts, sums, squares = torch.full((k,), 1e-9).double(), torch.zeros(k, d).double(), torch.zeros(d, d).double()
    for each in expected(mixture, x, blanks):
        belongs = (sharpness * each.logs).softmax(1)
        first, second = each.moments(belongs)
        counts += belongs.sum(0)
        sums += first
        squares += second
    centres = sums / counts[:, None]
    # Of n rows, k centres have taken away as much of their variance as k − 1 rows.
    spread = squares - (counts * centres.T) @ centres + INDEPENDENT * torch.eye(d).double()
    return Mixture(centres, counts / counts.sum(), spread / (n + 1 - k + INDEPENDENT))


def gaussians(x: Float[Tensor, "n d"], k: int) -> Mixture:
    """``k`` Gaussians of rows without blanks, by ten steps of k-means and forty of EM."""
    first = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:k]].double()
    whole, one = torch.zeros_like(x, dtype=torch.bool), torch.eye(x.shape[1]).double()
    mixture = Mixture(first, torch.ones(k).double(), one)
    for _ in range(9 if k > 1 else 0):
        mixture = Mixture(improved(mixture, x, whole, sharpness=1e9).centres, torch.ones(k).double(), one)
    mixture = improved(mixture, x, whole, sharpness=1e9)
    for _ in range(40 if k > 1 else 0):
        mixture = improved(mixture, x, whole)
    return mixture


def mixture_of(
    train: Float[Tensor, "n d"],
    blanks: Bool[Tensor, "n d"] | None,
    held_out: Float[Tensor, "m d"],
    held_blanks: Bool[Tensor, "m d"] | None,
) -> Mixture:
    """A mixture of as many Gaussians as describe held-out rows best, by what is known of these.

    The covariance is shrunk; that of one Gaussian fills in real tables as well as by the shrinkage of Ledoit & Wolf
    (2004).  Where there are blanks, one Gaussian fills them in, mixtures are fitted to the whole rows, and the best of
    them to the rows as they are.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(train), generator=generator)[:MIXED]
    gaps = torch.zeros(len(order), train.shape[1]).bool() if blanks is None else blanks[order].cpu()
    held_gaps = torch.zeros_like(held_out, dtype=torch.bool) if held_blanks is None else held_blanks
    # A matrix is to be inverted for each pattern of blanks: of many columns, rows with frequent ones alone.
    most = max(256, int(ARITHMETIC / train.shape[1] ** 3))
    _, pattern, counts = torch.unique(gaps, dim=0, return_inverse=True, return_counts=True)
    shuffled = torch.randperm(len(counts), generator=generator)
    frequent = shuffled[counts[shuffled].argsort(descending=True, stable=True)[:most]]
    chosen = torch.isin(pattern, frequent)
    x, gaps = train[order[chosen]].cpu(), gaps[chosen]
    one, whole = gaussians(x, 1), x
    if blanks is not None:
        for _ in range(20 if train.shape[1] <= 100 else 5):
            one = improved(one, x, gaps)
        whole = one.fill(x, gaps, known_range(train, blanks), generator)
    several = [gaussians(whole, k) for k in COUNTS[1:] if k * FEWEST <= len(x)]
    judges, unknown = held_out[:most].cpu(), held_gaps[:most].cpu()
    best = max([one, *several], key=lambda each: float(each.log_densities(judges, unknown).mean()))
    for _ in range(10 if blanks is not None and len(best.shares) > 1 else 0):
        best = improved(best, x, gaps)
    return best


def known_range(x: Float[Tensor, "n d"], blanks: Bool[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """The least and the largest number that is known of each column."""
    return x.masked_fill(blanks, torch.inf).amin(0), x.masked_fill(blanks, -torch.inf).amax(0)
