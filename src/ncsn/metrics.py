"""Metrics of scores and of sets of samples, and the calibration of posteriors.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Real, Shaped
from torch import Tensor

from ncsn.distributions import Distribution, GaussianMixture
from ncsn.machine.tensors import float64
from ncsn.score import Score
from ncsn.validation import as_floats, whole


def relative_error(
    score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Per point, ‖ŝ − s‖² and ‖s‖²; the ratio of their means over a region is its relative error E‖ŝ−s‖²/E‖s‖²."""
    with torch.no_grad():
        estimated, exact = score(x, sigma), truth(x, sigma)
    return (estimated - exact).square().flatten(1).sum(1), exact.square().flatten(1).sum(1)


def psnr(guess: Float[Tensor, "*d"], truth: Float[Tensor, "*d"]) -> float:
    """The peak signal-to-noise ratio in dB, of pixels in [0, 1]: −10·log₁₀ of the mean squared error.

    ``guess``: clipped to [0, 1] first.
    """
    return -10 * float((guess.clamp(0, 1) - truth).square().mean().log10())


def mean_by_bin(values: Float[Tensor, "b"], position: Float[Tensor, "b"], edges: Sequence[float]) -> list[float | None]:
    """The mean of ``values`` in each bin [edge, next edge) of ``position``; None where a bin is empty."""
    bins = torch.bucketize(
        position.contiguous(), torch.tensor(edges, dtype=position.dtype, device=position.device), right=True
    )
    return [values[bins == i].mean().item() if bool((bins == i).any()) else None for i in range(1, len(edges))]


def score_errors(
    score: Score,
    truth: Distribution,
    sigmas: Float[Tensor, "levels"],
    data: Float[Tensor, "n d"],
    grid: Float[Tensor, "p d"],
    *,
    generator: torch.Generator,
) -> list[dict[str, float]]:
    """Per noise level, the relative error on 20,000 noised draws, and on a ``grid`` farther than 2 from ``data``."""
    distance = torch.cat([torch.cdist(chunk, data).amin(1) for chunk in torch.split(grid, 1024)])
    far = grid[distance > 2]
    clean = truth.sample(20_000, generator=generator)
    rows = []
    for sigma in sigmas:
        z = torch.randn(clean.shape, generator=generator, device=clean.device)
        error, size = relative_error(score, truth, clean + sigma * z, sigma)
        far_error, far_size = relative_error(score, truth, far, sigma)
        rows.append(
            {
                "sigma": sigma.item(),
                "relative_error_on_noised_data": (error.mean() / size.mean()).item(),
                "relative_error_beyond_distance_2": (far_error.mean() / far_size.mean()).item(),
            }
        )
    return rows


def sliced_wasserstein(x: Real[Tensor, "n d"], y: Real[Tensor, "n d"], *, projections: int = 128) -> float:
    """The sliced 1-Wasserstein distance between two sets of equal size, over fixed random directions.

    Bonneel et al. 2015: the mean over directions of the mean distance between sorted projections, in data units.
    Bytes are converted to floats in chunks.
    """
    fixed = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], projections, generator=fixed, device="cpu")
    directions = (directions / directions.norm(dim=0)).to(x if x.is_floating_point() else x.device)

    def sorted_projections(points: Tensor) -> Tensor:
        chunks = torch.split(points, 1000)
        return torch.cat([chunk.to(directions) @ directions for chunk in chunks]).sort(0).values

    return float((sorted_projections(x) - sorted_projections(y)).abs().mean())


def mode_statistics(x: Float[Tensor, "n d"], mixture: GaussianMixture) -> list[dict[str, float | list[float] | None]]:
    """For each component: the share of samples nearest to it, that share's error, and their mean and std.

    The std is the root of the mean variance over dimensions, 1 for a unit Gaussian that is well separated from others.
    """
    nearest = torch.cdist(x, mixture.means.to(x)).argmin(1)
    by_component = [x[nearest == component] for component in range(len(mixture.means))]
    return [
        {
            "weight": len(samples) / len(x),
            "true_weight": round(weight, 6),
            "weight_error": abs(len(samples) / len(x) - weight),
            "mean": samples.mean(0).tolist() if len(samples) else [],
            "std": float(samples.var(0).mean().sqrt()) if len(samples) > 1 else None,
        }
        for samples, weight in zip(by_component, mixture.weights.tolist(), strict=True)
    ]


def frechet_distance(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> float:
    """The squared Fréchet distance between Gaussians with the two sets' means and covariances.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6.  Biased in n: compare at equal n only.
    """
    # Σ = RᵀR with the factor R of a QR decomposition, so tr √(Σ₁Σ₂) is the sum of the singular values of R₁R₂ᵀ.  R has
    # at most as many rows as there are points or features.
    mean_x, trace_x, r_x = moments(x)
    mean_y, trace_y, r_y = moments(y)
    trace_of_root = torch.linalg.svdvals(r_x @ r_y.T).sum()
    return float((mean_x - mean_y).square().sum() + (trace_x + trace_y) - 2 * trace_of_root)


def moments(points: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "f"], Float[Tensor, ""], Float[Tensor, "r f"]]:
    """The mean of points, and of their covariance Σ the trace and a factor R with Σ = RᵀR; in double precision."""
    points = float64(points)
    mean = points.mean(0)
    centred = (points - mean).div_((len(points) - 1) ** 0.5)
    return mean, centred.square().sum(), torch.linalg.qr(centred, mode="r").R


def cubic_kernel(x: Float64[Tensor, "n f"], y: Float64[Tensor, "m f"]) -> Float64[Tensor, "n m"]:
    """(⟨x, y⟩/f + 1)³ of all pairs, computed in place: 2,000 points against 10,000 take 160 MB."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def kernel_distance(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> float:
    """The squared maximum mean discrepancy with the kernel (⟨x, y⟩/f + 1)³, unbiased.

    Bińkowski et al. 2018 (arXiv:1801.01401), section 3.1 (KID), over all pairs instead of random subsets.
    """

    def kernel_sum(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([cubic_kernel(chunk, b).sum() for chunk in torch.split(a, 2000)]).sum()

    def kernel_mean(a: Tensor) -> Tensor:
        pairs = kernel_sum(a, a) - (a.square().sum(1) / a.shape[1] + 1).pow(3).sum()
        return pairs / (len(a) * (len(a) - 1))

    x, y = float64(x), float64(y)
    return float(kernel_mean(x) + kernel_mean(y) - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def kernel_gain(x: Float[Tensor, "n f"], z: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> tuple[float, float]:
    """By how much ``kernel_distance`` to ``y`` decreases from ``x`` to ``z``, and the standard error of that.

    Rows of ``x`` and ``z`` come from the same noise, so their common randomness cancels.  The standard error is that of
    a U-statistic to first order (Hoeffding 1948), and too large if the sets are similar.
    """
    y = float64(y)
    n, m = len(x), len(y)

    def contributions(a: Tensor) -> tuple[Tensor, Tensor]:
        """The first-order contribution of each row of ``a`` to the distance, and of each row of ``y``."""
        within, cross = cubic_kernel(a, a), cubic_kernel(a, y)
        return 2 * ((within.sum(1) - within.diagonal()) / (n - 1) - cross.mean(1)), -2 * cross.mean(0)

    of_x, of_y_with_x = contributions(float64(x))
    of_z, of_y_with_z = contributions(float64(z))
    of_rows, of_y = of_x - of_z, of_y_with_x - of_y_with_z
    # Each pair of rows is counted in both of its rows, and each pair of a row and y in both.
    gain = (of_rows.mean() + of_y.mean()) / 2
    return float(gain), float((of_rows.var() / n + of_y.var() / m).sqrt())


def density_coverage(real: Float[Tensor, "n f"], generated: Float[Tensor, "m f"], *, k: int = 5) -> tuple[float, float]:
    """Density and coverage: how densely samples fill the neighbourhoods of real images, and the share that they reach.

    Naeem et al. 2020 (arXiv:2002.09797), equations 4 and 5; a neighbourhood extends to the k-th nearest real image.
    """
    real, generated = float64(real), float64(generated)
    radii = torch.cat([torch.cdist(chunk, real).kthvalue(k + 1, 1).values for chunk in torch.split(real, 1000)])
    neighbours = 0.0
    reached = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for chunk in torch.split(generated, 1000):
        within = torch.cdist(chunk, real) <= radii
        neighbours += float(within.sum())
        reached |= within.any(0)
    return neighbours / (k * len(generated)), reached.float().mean().item()


def rank_histogram(ranks: Float64[Tensor, "n"]) -> tuple[Float[Tensor, "bins"], float, float]:
    """Counts of ranks between 0 and 1 in bins, and the smallest and the largest count if the ranks are uniform.

    All bins of four histograms lie between them in 99 % of all cases (Bonferroni).
    Raises ValueError for ranks outside of [0, 1].
    """
    from scipy import stats

    if not 0 <= ranks.min() <= ranks.max() <= 1:
        raise ValueError(f"ranks are from {ranks.min():g} to {ranks.max():g}; expected shares from 0 to 1")
    bins = min(20, max(4, len(ranks) // 10))
    low, high = stats.binom.interval(1 - 0.01 / (4 * bins), len(ranks), 1 / bins)
    return torch.histc(ranks, bins, 0, 1), float(low), float(high)


MIN_TRIALS = 30  # with fewer, the bands of a histogram of four bins reach down to zero
ALPHA = 0.01  # largest probability that an exact sampler is not called calibrated
MIN_DEVIATION = 0.05  # of draws that vary, as a share of a column's standard deviation; black pixels vary by less
LEVELS = (0.5, 0.8, 0.9, 0.95)  # the central intervals of a report
UNINFORMATIVE = 0.9  # share of the prior's standard deviation, above which a posterior has hardly learned anything
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
    examples = torch.cat([trials.truth[None], trials.draws]).double()  # the truth first
    examples = torch.where(trials.hidden, examples, torch.nan)
    hidden = trials.hidden.flatten(1)
    total, b = examples.shape[:2]
    # Numbers are in units of their column's or channel's deviation over all truths and draws.  No mean or scale depends
    # on which of the examples is the truth, so the ranks stay uniform.
    all_but_channels = [axis for axis in range(examples.ndim) if axis != 2]
    mean = examples.nanmean(all_but_channels, keepdim=True)
    std = (examples - mean).square().nanmean(all_but_channels, keepdim=True).sqrt()
    z = ((examples - mean) / torch.where(std > 1e-9 * mean.abs(), std, math.inf)).nan_to_num().flatten(2)
    deviation = z.std(0)
    varies = deviation > MIN_DEVIATION
    index = torch.multinomial(varies + 1e-9 * hidden, 1, generator=generator)
    point = torch.randn(z.shape[1:], generator=generator, dtype=torch.float64) * hidden
    numbers = {
        "number": examples.flatten(2).gather(2, index.expand(total, b, 1))[..., 0],
        "mean": z.sum(2),
        "spread": ((z - z.mean(0)) / deviation.clamp_min(MIN_DEVIATION)).square().sum(2),
        "distance": (z - point).square().sum(2),
    }
    uniform = torch.rand(len(numbers), b, generator=generator, dtype=torch.float64)
    ranks = {}
    for (name, number), u in zip(numbers.items(), uniform, strict=True):
        truth, draws = number[0], number[1:]
        ranks[name] = ((draws < truth).sum(0) + u * (1 + (draws == truth).sum(0))) / total
    return ranks


def rank_all(batches: Iterable[Trials], *, seed: int = 0) -> tuple[Ranks, float]:
    """The ranks of trials that come in batches, and how wide posteriors are compared with the prior.

    The latter is the smallest ratio, over all numbers of an example, of the standard deviations of draws in a trial
    and in all trials; by the law of total variance, it's at most 1.
    Raises ValueError without a trial.
    """
    generator = torch.Generator().manual_seed(seed)
    ranks: list[Ranks] = []
    batch_moments: list[Tensor] = []
    for trials in batches:
        ranks.append(rank(trials, generator))
        draws = trials.draws.double().masked_fill(~trials.hidden, torch.nan)
        batch_moments.append(torch.stack([draws.mean(0), draws.var(0, unbiased=False)]))
    if not ranks:
        raise ValueError("no example has any of the hidden numbers")
    means, variances = torch.cat(batch_moments, 1)
    within = variances.nanmean(0)
    between = (means - means.nanmean(0)).square().nanmean(0)
    ratio = (within / (within + between)).sqrt().nan_to_num(1.0).min()
    return {name: torch.cat([of_batch[name] for of_batch in ranks]) for name in ranks[0]}, float(ratio)


def least_uniform(ranks: Ranks) -> tuple[float, str]:
    """The p-value of all ranks together, and the name of the least uniform ones.

    Each of the names has three tests with exact p-values: Kolmogorov–Smirnov tests of the ranks, and of their distances
    from the middle, against the uniform distribution; and a binomial test of the share of truths in 90 % intervals.
    """
    from scipy import stats

    p_values = {}
    for name, u in ranks.items():
        off = (2 * u - 1).abs()  # the distance from the middle, as a share
        uniform = [stats.kstest(values.numpy(), "uniform").pvalue for values in (u, off)]
        coverage = stats.binomtest(int((off <= 0.9).sum()), len(u), 0.9).pvalue
        p_values[name] = min(*uniform, coverage)
    name = min(p_values, key=lambda key: p_values[key])
    return min(1.0, float(3 * len(p_values) * p_values[name])), name  # Bonferroni


@dataclass(frozen=True)
class Calibration:
    """Ranks of truths among draws from their posteriors; ``print`` it for a report.

    ``ranks``: for each source of truths ("run", "held-out") and each of the four numbers, the ranks as shares, (n,).
    ``draws``: the number of draws for each truth.
    ``spread``: for each source, the standard deviation of posteriors divided by the prior's; if several numbers are
    hidden, the smallest of these ratios.
    ``note``: how sharp the posteriors are, in words.
    """

    ranks: Mapping[str, Ranks]
    draws: int
    spread: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def calibrated(self) -> dict[str, bool]:
        """For each source, whether its ranks could be uniform; 99 % of exact samplers pass."""
        return {source: least_uniform(u)[0] >= ALPHA / len(self.ranks) for source, u in self.ranks.items()}

    @property
    def verdict(self) -> str:
        """One sentence: calibrated, and how precisely that is known; overconfident; too wide; or shifted."""
        names = {"run": "truths from the run", "held-out": "held-out examples", "given": "the given truths"}
        calibrated = self.calibrated
        texts = [f"{names[source]}: {self._describe(u, calibrated[source])}" for source, u in self.ranks.items()]
        narrowest = min(self.spread.values(), default=0.0)
        if narrowest > UNINFORMATIVE and all(calibrated.values()):
            texts[-1] += f", but hardly narrower than the prior ({narrowest:.0%} of its standard deviation)"
        return "; ".join(texts)

    def _describe(self, ranks: Ranks, calibrated: bool) -> str:
        from scipy import stats

        name = "number" if calibrated else least_uniform(ranks)[1]
        of_what = "" if name == "number" else f" of the {name}"
        u, n = ranks[name], len(ranks[name])
        off = (2 * u - 1).abs()  # the distance from the middle, as a share
        inside = int((off <= 0.9).sum())
        above = float((u > 0.5).double().mean())
        if calibrated:
            low, high = stats.binomtest(inside, n).proportion_ci(0.95)
            return f"calibrated within ±{100 * max(0.9 - low, high - 0.9):.0f} % ({n} trials)"
        if name != "spread" and (u.mean() - 0.5).abs() >= (off.mean() - 0.5).abs():
            return f"shifted ({above:.0%} of the truths lie above the median{of_what}, {n} trials)"
        if name == "spread":
            overconfident = bool(u.mean() > 0.5)
            evidence = f"{above:.0%} of the truths lie farther out than most draws"
        else:
            overconfident = bool(off.mean() > 0.5)
            evidence = f"90 % intervals{of_what} contain {inside / n:.0%}"
        return f"{'overconfident' if overconfident else 'too wide'} ({evidence}, {n} trials)"

    def __str__(self) -> str:
        from scipy import stats

        lines = []
        for source, ranks in self.ranks.items():
            u, n = ranks["number"], len(ranks["number"])
            title = f"{source}, {n} trials, {self.draws} draws each"
            lines.append(f"{title:36}{'measured':>12}{'exact sampler, 95 %':>22}")
            for level in LEVELS:
                share = ((2 * u - 1).abs() <= level).double().mean()
                low, high = stats.binom.interval(0.95, n, level)
                exact = f"{low / n:.1%} – {high / n:.1%}"
                lines.append(f"{f'  in central {level:.0%} intervals':36}{share:>12.1%}{exact:>22}")
            gap = stats.kstest(ranks["distance"].numpy(), "uniform").statistic
            limit = stats.kstwo.ppf(0.95, n)
            lines.append(f"{'  TARP, distance from the diagonal':36}{gap:>12.3f}{f'up to {limit:.3f}':>22}")
            outside = 0
            for counts, low, high in map(rank_histogram, ranks.values()):
                outside += int(((counts < low) | (counts > high)).sum())
            lines.append(f"{'  bins outside their bands':36}{outside:>12}{0:>22}")
        calibrated = self.calibrated
        if calibrated.get("run") and not calibrated.get("held-out", True):
            lines.append("the sampler is calibrated, but the model isn't: train longer, or on more examples")
        if self.note:
            lines.append(self.note)
        return "\n".join([*lines, self.verdict])


def calibration(truth: Float[Tensor, "n *d"], draws: Float[Tensor, "k n *d"], *, seed: int = 0) -> Calibration:
    """Test the calibration of any posterior sampler, from truths and draws given a measurement of each.

    ``truth``: draws from the prior, (n, *d).
    ``draws``: k draws from each posterior, (k, n, *d).  Use fresh noise for each truth: if all draws start
    from the same seed, ranks depend on each other, and even an exact sampler fails.
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
    ranks, spread = rank_all([trials], seed=seed)
    return Calibration({"given": ranks}, len(draws), {"given": spread})
