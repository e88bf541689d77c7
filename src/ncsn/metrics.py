"""Numbers that say how good a score or a set of samples is."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.distributions import GaussianMixture
from ncsn.score import Score


def relative_error(
    score: Score, truth: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""]
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Per point, ‖ŝ − s‖² and ‖s‖²: the quotient of their means over any region is its relative error E‖ŝ−s‖²/E‖s‖²."""
    with torch.no_grad():
        estimated, exact = score(x, sigma), truth(x, sigma)
    return (estimated - exact).square().flatten(1).sum(1), exact.square().flatten(1).sum(1)


def nearest_distance(x: Float[Tensor, "b d"], data: Float[Tensor, "n d"]) -> Float[Tensor, "b"]:
    """The Euclidean distance from each point to the nearest of the data."""
    return torch.cat([torch.cdist(part, data).amin(1) for part in torch.split(x, 1024)])


def binned(values: Float[Tensor, "b"], position: Float[Tensor, "b"], edges: Sequence[float]) -> list[float | None]:
    """The mean of ``values`` in each bin [edge, next edge) of ``position``; None where a bin is empty."""
    bins = torch.bucketize(position, torch.tensor(edges, dtype=position.dtype), right=True)
    return [values[bins == i].mean().item() if bool((bins == i).any()) else None for i in range(1, len(edges))]


def sliced_wasserstein(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], *, projections: int = 128, seed: int = 0
) -> float:
    """The sliced 1-Wasserstein distance between two sets of equal size, over fixed random directions.

    Bonneel et al. 2015: the mean over directions of the mean distance between sorted projections, in data units.
    Raises ValueError if the sets differ in shape.
    """
    if x.shape != y.shape:
        raise ValueError(f"the sets have shapes {tuple(x.shape)} and {tuple(y.shape)}; they must be equal")
    directions = torch.randn(x.shape[1], projections, generator=torch.Generator().manual_seed(seed))
    directions = directions / directions.norm(dim=0)
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).abs().mean())


def mode_statistics(x: Float[Tensor, "n d"], mixture: GaussianMixture) -> list[dict[str, float | list[float]]]:
    """For each component: the share of samples nearest to it, that share's error, and their mean and std.

    The std is the root of the mean variance over dimensions, 1 for a unit Gaussian that is well separated from others.
    """
    nearest = torch.cdist(x, mixture.means).argmin(1)
    modes: list[dict[str, float | list[float]]] = []
    for component, weight in enumerate(mixture.weights.double().tolist()):
        inside = x[nearest == component]
        share = len(inside) / len(x)
        modes.append(
            {
                "weight": share,
                "true_weight": weight,
                "weight_error": abs(share - weight),
                "mean": inside.mean(0).tolist() if len(inside) else [],
                "std": float(inside.var(0).mean().sqrt()) if len(inside) > 1 else float("nan"),
            }
        )
    return modes
