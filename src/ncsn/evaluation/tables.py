"""How good samples of a table are, beside rows that training has not seen."""

import numpy as np
import torch
from jaxtyping import Float

from ncsn.evaluation.metrics import sliced_wasserstein


def judge_rows(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "m d"]
) -> dict[str, float]:
    """How good samples of a table are, in the score's units; each number beside what real rows have in their place.

    ``classifier``: how often gradient-boosted trees tell samples from held-out rows, cross-validated; ½ is ideal
    (Lopez-Paz & Oquab 2017, arXiv:1610.06545).  ``sliced_wasserstein``, ``memorisation``: as of images.
    ``log_density_of_eight_gaussians``: of the held-out rows, by a mixture fitted to ``train``.

    ``train``: rows that training has seen, at least as many as ``test``.
    ``test``: rows that it has not seen, at least 8.
    ``samples``: as many as ``test``.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.mixture import GaussianMixture as Mixture
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import NearestNeighbors

    numbers: dict[str, float] = {}
    real, labels = np.random.default_rng(0).permutation(train)[: len(test)], np.repeat([0, 1], len(test))
    trees, folds = HistGradientBoostingClassifier(random_state=0), StratifiedKFold(5, shuffle=True, random_state=0)
    for name, rows in (("", samples), ("_of_real_rows", real)):
        accuracies = cross_val_score(trees, np.concatenate([rows, test]), labels, cv=folds)
        numbers[f"classifier{name}"] = float(accuracies.mean())
        numbers[f"sliced_wasserstein{name}"] = sliced_wasserstein(torch.from_numpy(rows), torch.from_numpy(test))
    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    seen, made = (nearest.kneighbors(rows)[0][:, 0] for rows in (test, samples))
    numbers["memorisation"] = float(mannwhitneyu(seen, made).statistic) / len(test) ** 2
    numbers["log_density_of_eight_gaussians"] = float(Mixture(8, random_state=0).fit(train).score(test))
    return numbers
