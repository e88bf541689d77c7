"""Calibration of posteriors: ranks of truths among draws, compared with those of an exact sampler.

If a truth and the draws from its posterior have the same distribution, all ranks of the truth among the draws are
equally likely (simulation-based calibration, Talts et al. 2018, arXiv:1804.06788).  A rank needs one number per
example.  Four are used:

- number: a hidden number, at random among those whose draws vary by at least a twentieth of their column's deviation;
- mean: the mean of the hidden numbers;
- spread: how far they are from the mean of the truth and its draws, in units of their standard deviations;
- distance: their distance to a random point (TARP, Lemos et al. 2023, arXiv:2302.03026).

For the mean and the distance, numbers are in units of the standard deviation of their column or channel.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.metrics import rank_histogram
from ncsn.validation import as_floats, whole

MIN_TRIALS = 30  # with fewer, the bands of a histogram of four bins reach down to zero
ALPHA = 0.01  # largest probability that an exact sampler is not called calibrated
VISIBLE = 0.05  # share of a column's standard deviation; black pixels vary by less
LEVELS = (0.5, 0.8, 0.9, 0.95)
Ranks = Mapping[str, Float64[Tensor, "n"]]


class Trials(NamedTuple):
    """Truths (b, *d), draws (k, b, *d) from the posterior of each, and which numbers were hidden (b, *d)."""

    truth: Shaped[Tensor, "b *d"]
    draws: Shaped[Tensor, "k b *d"]
    hidden: Bool[Tensor, "b *d"]


def rank(trials: Trials, generator: torch.Generator) -> Ranks:
    """The rank of each truth among its draws, as a share, (b,): U(0, 1) if they have the same distribution.

    Ties are broken at random, and so is the position within the cell of a rank.
    """
    both = torch.cat([trials.truth[None], trials.draws]).double()
    (total, b), rest = both.shape[:2], [axis for axis in range(both.ndim) if axis != 2]
    both, hidden = torch.where(trials.hidden, both, torch.nan), trials.hidden.flatten(1)
    # No mean or scale depends on which of the examples is the truth, so the ranks stay uniform.
    mean = both.nanmean(rest, keepdim=True)
    std = (both - mean).square().nanmean(rest, keepdim=True).sqrt()
    z = ((both - mean) / torch.where(std > 1e-9 * mean.abs(), std, math.inf)).nan_to_num().flatten(2)
    own = z.std(0)
    varied = own > VISIBLE
    place = torch.multinomial(varied + 1e-9 * hidden, 1, generator=generator)
    point = torch.randn(z.shape[1:], generator=generator, dtype=torch.float64) * hidden
    numbers = {
        "number": both.flatten(2).gather(2, place.expand(total, b, 1))[..., 0],
        "mean": z.sum(2),
        "spread": ((z - z.mean(0)) / own.clamp_min(VISIBLE)).square().sum(2),
        "distance": (z - point).square().sum(2),
    }
    at_random = torch.rand(len(numbers), b, generator=generator, dtype=torch.float64)
    return {
        name: ((made[1:] < made[0]).sum(0) + u * (1 + (made[1:] == made[0]).sum(0))) / total
        for (name, made), u in zip(numbers.items(), at_random, strict=True)
    }


def rank_all(parts: Iterable[Trials], *, seed: int = 0) -> Ranks:
    """The ranks of trials that come in batches.  Raises ValueError if there are none."""
    generator = torch.Generator().manual_seed(seed)
    found = [rank(part, generator) for part in parts]
    if not found:
        raise ValueError("no example has any of the hidden numbers")
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def strangest(ranks: Ranks) -> tuple[float, str]:
    """The p-value of all ranks together, and the name of the least uniform ones.

    Each has three tests with exact p-values: Kolmogorov–Smirnov tests of the ranks, and of their distances from the
    middle, against the uniform distribution; and a binomial test of the share of truths in 90 % intervals.
    """
    from scipy import stats

    least = {}
    for name, u in ranks.items():
        off = (2 * u - 1).abs()
        tests = [stats.kstest(each.numpy(), "uniform").pvalue for each in (u, off)]
        least[name] = min(*tests, stats.binomtest(int((off <= 0.9).sum()), len(u), 0.9).pvalue)
    name = min(least, key=lambda each: least[each])
    return min(1.0, float(3 * len(least) * least[name])), name


@dataclass(frozen=True)
class Calibration:
    """Ranks of truths among draws from their posteriors; ``print`` it for a report.

    ``ranks``: for each source of truths ("run", "held-out") and each of the four numbers, the ranks as shares, (n,).
    ``draws``: the number of draws for each truth.
    """

    ranks: Mapping[str, Ranks]
    draws: int

    @property
    def calibrated(self) -> dict[str, bool]:
        """For each source, whether its ranks could be uniform; 99 % of exact samplers pass."""
        return {source: strangest(u)[0] >= ALPHA / len(self.ranks) for source, u in self.ranks.items()}

    @property
    def verdict(self) -> str:
        """One sentence: calibrated, and how precisely that is known; overconfident; too wide; or shifted."""
        names = {"run": "truths from the run", "held-out": "held-out examples", "given": "the given truths"}
        found = [self._describe(each, self.calibrated[source]) for source, each in self.ranks.items()]
        return "; ".join(f"{names[source]}: {text}" for source, text in zip(self.ranks, found, strict=True))

    def _describe(self, ranks: Ranks, calibrated: bool) -> str:
        from scipy import stats

        name = "number" if calibrated else strangest(ranks)[1]
        u, where = ranks[name], "" if name == "number" else f" of the {name}"
        n, off, above = len(u), (2 * u - 1).abs(), float((u > 0.5).double().mean())
        inside = int((off <= 0.9).sum())
        if calibrated:
            low, high = stats.binomtest(inside, n).proportion_ci(0.95)
            return f"calibrated within ±{100 * max(0.9 - low, high - 0.9):.0f} % ({n} trials)"
        if name != "spread" and (u.mean() - 0.5).abs() >= (off.mean() - 0.5).abs():
            return f"shifted ({above:.0%} of the truths lie above the median{where}, {n} trials)"
        far = u if name == "spread" else off
        facts = f"{above:.0%} of the truths lie farther out than most draws" if far is u else ""
        facts = facts or f"90 % intervals{where} contain {inside / n:.0%}"
        return f"{'overconfident' if far.mean() > 0.5 else 'too wide'} ({facts}, {n} trials)"

    def __str__(self) -> str:
        from scipy import stats

        lines = []
        for source, ranks in self.ranks.items():
            u, n = ranks["number"], len(ranks["number"])
            lines.append(
                f"{f'{source}, {n} trials, {self.draws} draws each':36}{'measured':>12}{'exact sampler, 95 %':>22}"
            )
            for level in LEVELS:
                share, ends = ((2 * u - 1).abs() <= level).double().mean(), stats.binom.interval(0.95, n, level)
                exact = " – ".join(f"{end / n:.1%}" for end in ends)
                lines.append(f"{f'  in central {level:.0%} intervals':36}{share:>12.1%}{exact:>22}")
            gap, most = stats.kstest(ranks["distance"].numpy(), "uniform").statistic, stats.kstwo.ppf(0.95, n)
            lines.append(f"{'  TARP, distance from the diagonal':36}{gap:>12.3f}{f'up to {most:.3f}':>22}")
            outside = sum(int(((h < low) | (h > high)).sum()) for h, low, high in map(rank_histogram, ranks.values()))
            lines.append(f"{'  bins outside their bands':36}{outside:>12}{0:>22}")
        passed = self.calibrated
        if passed.get("run") and not passed.get("held-out", True):
            lines.append("the sampler is calibrated, but the model isn't: train longer, or on more examples")
        return "\n".join([*lines, self.verdict])


def calibration(truth: Float[Tensor, "n *d"], draws: Float[Tensor, "k n *d"], *, seed: int = 0) -> Calibration:
    """Test the calibration of any posterior sampler, from truths and draws given a measurement of each.

    ``truth``: draws from the prior, (n, *d).
    ``draws``: k draws from each posterior, (k, n, *d), with noise of their own: from one seed for every truth, ranks
    depend on each other, and an exact sampler fails.
    Raises ValueError for fewer than 30 truths, no draws, other shapes, and numbers that aren't finite.

    >>> x, noise = torch.randn(2, 200, 1, generator=torch.Generator().manual_seed(0))
    >>> y = x + noise
    >>> draws = y / 2 + 0.5**0.5 * torch.randn(50, 200, 1, generator=torch.Generator().manual_seed(1))
    >>> ncsn.evaluation.calibration(x, draws).calibrated
    {'given': True}
    """
    truth, draws, seed = as_floats("truth", truth), as_floats("draws", draws), whole("seed", seed, 0)
    if truth.ndim < 2 or draws.shape[1:] != truth.shape:
        shapes = f"truth has shape {tuple(truth.shape)}, draws {tuple(draws.shape)}"
        raise ValueError(f"{shapes}; expected (n, *d) and (k, n, *d) with k >= 1")
    whole("n", len(truth), MIN_TRIALS)
    trials = Trials(truth, draws, torch.ones_like(truth, dtype=torch.bool))
    return Calibration({"given": rank_all([trials], seed=seed)}, len(draws))
