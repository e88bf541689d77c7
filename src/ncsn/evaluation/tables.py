"""How good samples of a table are, beside rows that training has not seen."""

import math

import numpy as np
import torch
from jaxtyping import Float

from ncsn.data.units import Units
from ncsn.evaluation.metrics import sliced_wasserstein
from ncsn.machine import hardware

PLACES = 32  # in the cells of a row, over which its density is averaged


def judge_rows(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "m d"],
    units: Units | None = None,
) -> dict[str, float]:
    """How good samples of a table are; each number beside what real rows have in their place.

    ``classifier``: how often gradient-boosted trees tell samples from held-out rows, cross-validated; ½ is ideal
    (Lopez-Paz & Oquab 2017, arXiv:1610.06545).  They cannot see that samples are copies of rows to learn from.
    ``memorisation`` can: how often a held-out row is farther from these than a sample is; ½ for fresh ones, 1 for
    copies.  ``sliced_wasserstein``: as of images.
    ``log_density_of_eight_gaussians``: of the held-out rows in nats, by a mixture fitted to ``train``; in a cell it is
    the mean density there.  Left out, with a line, where such a mixture cannot be fitted.

    ``train``: rows that training has seen, at least as many as ``test``.
    ``test``: rows that it has not seen, at least 8.
    ``samples``: as many as ``test``.
    ``units``: of all of them; by default they are the score's own.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    units = units or Units(torch.zeros(train.shape[1]).double(), torch.ones(train.shape[1]).double())
    # In the middle of cells: two copies of a row would be apart by where in them they are.
    learned, held, made = (units.standardise(torch.from_numpy(rows)).numpy() for rows in (train, test, samples))
    numbers: dict[str, float] = {}
    real, labels = np.random.default_rng(0).permutation(learned)[: len(held)], np.repeat([0, 1], len(held))
    trees, folds = HistGradientBoostingClassifier(random_state=0), StratifiedKFold(5, shuffle=True, random_state=0)
    for name, rows in (("", made), ("_of_real_rows", real)):
        accuracies = cross_val_score(trees, np.concatenate([rows, held]), labels, cv=folds)
        numbers[f"classifier{name}"] = float(accuracies.mean())
        numbers[f"sliced_wasserstein{name}"] = sliced_wasserstein(torch.from_numpy(rows), torch.from_numpy(held))
    numbers["memorisation"] = memorisation(learned, held, made)
    try:
        numbers["log_density_of_eight_gaussians"] = eight_gaussians(train, test, units)
    except ValueError as error:  # of rows with as good as no variance in some direction
        hardware.say(f"eight Gaussians are left out: {str(error).splitlines()[0]}")
    return numbers


def memorisation(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "k d"]
) -> float:
    """How often a held-out row is farther from its nearest row to learn from than a sample is."""
    from scipy.stats import mannwhitneyu
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    apart, near = (nearest.kneighbors(rows)[0][:, 0] for rows in (test, samples))
    return float(mannwhitneyu(apart, near).statistic) / (len(test) * len(samples))


def eight_gaussians(train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], units: Units) -> float:
    """The mean log density of ``test`` by eight Gaussians that are fitted to ``train`` anywhere in its cells."""
    from sklearn.mixture import GaussianMixture as Mixture

    x = torch.from_numpy(test).double()
    learned = units.standardise(torch.from_numpy(train).double(), torch.Generator().manual_seed(0))
    mixture = Mixture(8, random_state=0).fit(learned.numpy())
    places = 1 + torch.arange(PLACES if bool((units.cells > 0).any()) else 1)
    z = [units.standardise(x, torch.Generator().manual_seed(k)) for k in places.tolist()]
    volumes = [units.log_volume(x, torch.Generator().manual_seed(k)) for k in places.tolist()]
    densities = [torch.from_numpy(mixture.score_samples(rows.numpy())) + v for rows, v in zip(z, volumes, strict=True)]
    return float((torch.logsumexp(torch.stack(densities), 0) - math.log(len(places))).mean())
