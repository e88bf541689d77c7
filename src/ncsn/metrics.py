"""Metrics of scores and of sets of samples."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Real
from torch import Tensor

from ncsn.distributions import Distribution, GaussianMixture
from ncsn.score import Score, float64


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
    distance = torch.cat([torch.cdist(part, data).amin(1) for part in torch.split(grid, 1024)])
    clean, far = truth.sample(20_000, generator=generator), grid[distance > 2]
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
    Bytes are converted to floats in parts.
    """
    fixed = torch.Generator().manual_seed(0)
    directions = torch.randn(x.shape[1], projections, generator=fixed, device="cpu")
    directions = (directions / directions.norm(dim=0)).to(x if x.is_floating_point() else x.device)

    def sorted_projections(points: Tensor) -> Tensor:
        return torch.cat([part.to(directions) @ directions for part in torch.split(points, 1000)]).sort(0).values

    return float((sorted_projections(x) - sorted_projections(y)).abs().mean())


def mode_statistics(x: Float[Tensor, "n d"], mixture: GaussianMixture) -> list[dict[str, float | list[float] | None]]:
    """For each component: the share of samples nearest to it, that share's error, and their mean and std.

    The std is the root of the mean variance over dimensions, 1 for a unit Gaussian that is well separated from others.
    """
    nearest = torch.cdist(x, mixture.means.to(x)).argmin(1)
    parts = [x[nearest == component] for component in range(len(mixture.means))]
    return [
        {
            "weight": len(part) / len(x),
            "true_weight": round(weight, 6),
            "weight_error": abs(len(part) / len(x) - weight),
            "mean": part.mean(0).tolist() if len(part) else [],
            "std": float(part.var(0).mean().sqrt()) if len(part) > 1 else None,
        }
        for part, weight in zip(parts, mixture.weights.tolist(), strict=True)
    ]


def frechet_distance(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> float:
    """The squared Fréchet distance between Gaussians with the two sets' means and covariances.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6.  Biased in n: compare at equal n only.
    """
    # Σ = RᵀR with the factor R of a QR decomposition, so tr √(Σ₁Σ₂) is the sum of the singular values of R₁R₂ᵀ.  R has
    # at most as many rows as there are points or features.
    (mean_x, spread_x, r_x), (mean_y, spread_y, r_y) = moments(x), moments(y)
    roots = torch.linalg.svdvals(r_x @ r_y.T).sum()
    return float((mean_x - mean_y).square().sum() + (spread_x + spread_y) - 2 * roots)


def moments(points: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "f"], Float[Tensor, ""], Float[Tensor, "r f"]]:
    """The mean of points, and of their covariance Σ the trace and a factor R with Σ = RᵀR; in double precision."""
    points = float64(points)
    mean = points.mean(0)
    centred = (points - mean).div_((len(points) - 1) ** 0.5)
    return mean, centred.square().sum(), torch.linalg.qr(centred, mode="r").R


def kernel_distance(x: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> float:
    """The squared maximum mean discrepancy with the kernel (⟨x, y⟩/f + 1)³, unbiased.

    Bińkowski et al. 2018 (arXiv:1801.01401), section 3.1 (KID), over all pairs instead of random subsets.
    """

    def kernel_sum(a: Tensor, b: Tensor) -> Tensor:
        # In place: a part against 10,000 points is 160 MB.
        return torch.stack([(part @ b.T).div_(f).add_(1).pow_(3).sum() for part in torch.split(a, 2000)]).sum()

    x, y = float64(x), float64(y)
    (n, f), m = x.shape, len(y)
    within_x = kernel_sum(x, x) - (x.square().sum(1) / f + 1).pow(3).sum()
    within_y = kernel_sum(y, y) - (y.square().sum(1) / f + 1).pow(3).sum()
    return float(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * kernel_sum(x, y) / (n * m))


def kernel_gain(x: Float[Tensor, "n f"], z: Float[Tensor, "n f"], y: Float[Tensor, "m f"]) -> tuple[float, float]:
    """By how much ``kernel_distance`` to ``y`` decreases from ``x`` to ``z``, and the standard error of that.

    Rows of ``x`` and ``z`` come from the same noise, so their common randomness cancels.  The standard error is that of
    a U-statistic to first order (Hoeffding 1948), and too large if the sets are similar.
    """
    y, n, (m, f) = float64(y), len(x), y.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T).div_(f).add_(1).pow_(3)

    def contributions(a: Tensor) -> tuple[Tensor, Tensor]:
        """The first-order contribution of each row of ``a`` to the distance, and of each row of ``y``."""
        within, cross = kernel(a, a), kernel(a, y)
        return 2 * ((within.sum(1) - within.diagonal()) / (n - 1) - cross.mean(1)), -2 * cross.mean(0)

    (rows_x, columns_x), (rows_z, columns_z) = contributions(float64(x)), contributions(float64(z))
    rows, columns = rows_x - rows_z, columns_x - columns_z
    # Each pair of rows is counted in both of its rows, and each pair of a row and y in both.
    gain = (rows.mean() + columns.mean()) / 2
    return float(gain), float((rows.var() / n + columns.var() / m).sqrt())


def density_coverage(real: Float[Tensor, "n f"], generated: Float[Tensor, "m f"], *, k: int = 5) -> tuple[float, float]:
    """Density and coverage: how densely samples fill the neighbourhoods of real images, and the share that they reach.

    Naeem et al. 2020 (arXiv:2002.09797), equations 4 and 5; a neighbourhood extends to the k-th nearest real image.
    """
    real, generated = float64(real), float64(generated)
    radii = torch.cat([torch.cdist(part, real).kthvalue(k + 1, 1).values for part in torch.split(real, 1000)])
    inside, reached = 0.0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for part in torch.split(generated, 1000):
        within = torch.cdist(part, real) <= radii
        inside += float(within.sum())
        reached |= within.any(0)
    return inside / (k * len(generated)), reached.float().mean().item()


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
