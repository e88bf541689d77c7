"""Quality of a table's samples, compared with held-out rows."""

import math
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.kinds.comparison import Comparison, classify, compare
from ncsn.kinds.kind import Dataset
from ncsn.kinds.tables.columns import Columns, columns_of
from ncsn.kinds.tables.imputation import is_discrete
from ncsn.kinds.transform import Transform
from ncsn.machine.messages import bar, log
from ncsn.metrics import sliced_wasserstein
from ncsn.run import Run

PLACES, OWN_PLACES = 32, 8  # positions in cells over which densities are averaged; fewer for a run, which is slower
BINS = 10  # for a column of numbers paired with a column of categories
FALSE_POSITIVES, EXACT = 0.01, 1e-9  # the rate in a membership attack; a distance that counts as zero
DENSITIES, AT_ONCE, TOLERANCE = 1000, 500, 1e-4  # rows whose densities are computed, rows per batch, and the tolerance


def judge_rows(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "k d"],
    transform: Transform | None = None,
) -> dict[str, float]:
    """Metrics of a table's samples, each with the same number for real rows.

    ``classifier``: how often gradient-boosted trees tell samples from held-out rows, cross-validated; ½ is ideal
    (Lopez-Paz & Oquab 2017, arXiv:1610.06545).  It doesn't notice samples that are copies of training rows.
    ``memorisation``: how often a held-out row is farther from the training rows than a sample is; ½ is ideal, 1 means
    copies.  ``sliced_wasserstein``: as for images.  ``column_shapes``, ``pair_trends``: as defined by SDMetrics.
    ``membership_attack``: see that function; it uses all samples.
    ``log_density_of_eight_gaussians``: the mean over the first 1,000 held-out rows, in nats, under a mixture fitted to
    ``train``, averaged over the cells of discrete values.  Left out, with a message, if the mixture can't be fitted.

    ``train``: the training rows, at least as many as ``test``.
    ``test``: held-out rows, at least 8.
    ``samples``: at least as many as ``test``; only the attack uses more.
    ``transform``: from the units of the rows to those of the model; by default they are the same.
    """
    transform = transform or Transform()
    # Discrete values are placed in the middle of their cells, so that copies of a row coincide.  Missing values become
    # the mean of their column, and have marks.
    z = (transform.forward(torch.from_numpy(rows)).nan_to_num(0.0) for rows in (train, test, samples))
    learned, held, made = (part.numpy() for part in z)
    few, distances = len(test), {"classifier": classify, "sliced_wasserstein": sliced}
    numbers = compare(learned, held, made[:few], distances, "real_rows")
    categories = np.array([bool(column.categories) for column in columns_of(transform, test.shape[1]).columns])
    for end, rows in (("", samples[:few]), ("_of_real_rows", np.random.default_rng(0).permutation(train)[:few])):
        numbers[f"column_shapes{end}"] = column_shapes(test, rows, categories)
        numbers[f"pair_trends{end}"] = pair_trends(test, rows, categories)
    numbers |= membership_attack(learned, held, made)
    try:
        numbers["log_density_of_eight_gaussians"] = eight_gaussians(train, test[:DENSITIES], transform)
    except ValueError as error:  # rows have hardly any variance in some direction
        log.warning(f"no log_density_of_eight_gaussians: fitting them failed ({str(error).splitlines()[0]})")
    return numbers


def sliced(one: Float[np.ndarray, "m d"], other: Float[np.ndarray, "m d"]) -> float:
    """Their sliced Wasserstein distance."""
    return sliced_wasserstein(torch.from_numpy(one), torch.from_numpy(other))


def column_shapes(
    real: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"], categories: Bool[np.ndarray, "d"]
) -> float:
    """SDMetrics' Column Shapes: how similar the columns of two tables are, at best 1; the mean over columns.

    One minus the Kolmogorov–Smirnov statistic for numbers, or the total variation distance for ``categories``.
    """
    from scipy.stats import ks_2samp

    scores = []
    for one, other, text in zip(real.T, rows.T, categories, strict=True):
        known = [column[~np.isnan(column)] for column in (one, other)]
        scores.append(overlap(*known) if text else 1 - ks_2samp(*known, method="asymp").statistic)
    return float(np.mean(scores))


def pair_trends(
    real: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"], categories: Bool[np.ndarray, "d"]
) -> float:
    """SDMetrics' Column Pair Trends: how similar the relations of columns are, at best 1; the mean over pairs.

    One minus half the difference of Pearson's correlations for two columns of numbers, or the total variation distance
    for pairs with ``categories``, where numbers are put into ten bins, which ``real`` defines for both tables.
    If a constant column leaves a pair in ``rows``, but not in ``real``, without a correlation, the pair counts as 0.
    """
    import pandas

    correlations, others = (pandas.DataFrame(each).corr().to_numpy() for each in (real, rows))
    alike = np.where(np.isnan(others) & ~np.isnan(correlations), 0.0, 1 - np.abs(correlations - others) / 2)
    cells, made = real.copy(), rows.copy()
    for i in (~categories).nonzero()[0]:
        inner = np.histogram_bin_edges(real[~np.isnan(real[:, i]), i], BINS)[1:-1]
        for each in (cells, made):
            each[:, i] = np.where(np.isnan(each[:, i]), np.nan, np.digitize(each[:, i], inner))
    cells, made = (np.nan_to_num(each, nan=-1) for each in (cells, made))
    scores = [
        overlap(*(each[:, i] + 1j * each[:, j] for each in (cells, made)))
        if categories[i] or categories[j]
        else alike[i, j]
        for i, j in combinations(range(len(categories)), 2)
    ]
    return float(np.nanmean(scores))


def overlap(one: Shaped[np.ndarray, "n"], other: Shaped[np.ndarray, "m"]) -> float:
    """One minus the total variation distance between the frequencies of values in two samples."""
    _, which = np.unique(np.concatenate([one, other]), return_inverse=True)
    shares = [np.bincount(part, minlength=which.max() + 1) / len(part) for part in np.split(which, [len(one)])]
    return float(np.minimum(*shares).sum())


def utility(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], columns: Columns, target: str
) -> dict[str, float]:
    """How well boosted trees trained on ``train`` predict a column of ``test`` from the others.

    R² for numbers; for text and two-valued columns balanced accuracy, the mean over values of the share predicted
    correctly.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import r2_score
    from threadpoolctl import threadpool_limits

    i = columns.names.index(target)
    train, test = (rows[~np.isnan(rows[:, i])] for rows in (train, test))
    (x, y), (held, truth) = ((np.delete(rows, i, 1), rows[:, i]) for rows in (train, test))
    discrete = is_discrete(columns.columns[i])
    trees = (HistGradientBoostingClassifier if discrete else HistGradientBoostingRegressor)(random_state=0)
    # Trees refuse to learn a constant column.
    with threadpool_limits(1):
        found = np.full(len(held), y[0]) if len(np.unique(y)) == 1 else trees.fit(x, y).predict(held)
    if not discrete:
        return {"target_r2": float(r2_score(truth, found))}
    return {"target_balanced_accuracy": float(np.mean([(found == v)[truth == v].mean() for v in np.unique(truth)]))}


def membership_attack(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "k d"]
) -> dict[str, float]:
    """The share of training rows that an attacker who has the samples recognises, with 1 % false positives.

    A row is taken for a training row if a sample is much closer to it than any held-out row: a density ratio as in
    DOMIAS (van Breugel et al. 2023, arXiv:2302.12580), estimated from nearest neighbours.  By chance 1 % of the
    training rows are recognised, and in 19 of 20 evaluations at most ``membership_attack_by_chance``.  Empty for fewer
    than 99 held-out rows.
    """
    from scipy.stats import betabinom
    from sklearn.neighbors import NearestNeighbors

    if not (wrong := int(FALSE_POSITIVES * (len(test) + 1))):
        return {}
    rng = np.random.default_rng(0)
    members = rng.permutation(train)[: len(samples)]
    near, known = NearestNeighbors(n_neighbors=1).fit(samples), NearestNeighbors(n_neighbors=2).fit(test)
    scores = []
    for rows, other in ((members, 0), (test, 1)):  # the nearest row to a held-out one is itself
        ratio = (known.kneighbors(rows)[0][:, other] + EXACT) / (near.kneighbors(rows)[0][:, 0] + EXACT)
        scores.append(np.log(ratio) + EXACT * rng.random(len(rows)))  # breaks ties
    threshold = np.sort(scores[1])[-wrong]
    chance = betabinom(len(members), wrong, len(test) + 1 - wrong).ppf(0.95) / len(members)
    found = float((scores[0] > threshold).mean())
    return {"membership_attack": found, "membership_attack_by_chance": float(chance)}


def eight_gaussians(train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], transform: Transform) -> float:
    """The mean log density of ``test`` under eight Gaussians fitted to ``train``, placed at random in its cells."""
    from sklearn.mixture import GaussianMixture as Mixture

    learned = transform.forward(torch.from_numpy(train).double(), torch.Generator().manual_seed(0))
    mixture = Mixture(8, random_state=0).fit(learned.numpy())
    z, volume = draw_in_cells(transform, torch.from_numpy(test).double(), PLACES)
    densities = torch.from_numpy(mixture.score_samples(z.flatten(0, 1).numpy())).view_as(volume) + volume
    return mean_in_cells(densities)


def draw_in_cells(
    transform: Transform, x: Float64[Tensor, "b d"], places: int
) -> tuple[Float64[Tensor, "p b e"], Float64[Tensor, "p b"]]:
    """Rows as the model sees them at random places in their cells (one if there are none), and log |dz/dx| there."""
    discrete = isinstance(transform, Columns) and transform.discrete
    seeds = range(1, 1 + (places if discrete else 1))
    z = [transform.forward(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    volumes = [transform.log_abs_det_jacobian(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(z), torch.stack(volumes)


def mean_in_cells(densities: Float64[Tensor, "p b"]) -> float:
    """The mean over rows of the log of a density's mean over places in a cell, from log densities."""
    return float((torch.logsumexp(densities, 0) - math.log(len(densities))).mean())


def log_density(run: Run, x: Float64[Tensor, "b d"]) -> float:
    """The mean log density of rows under a run, in nats, averaged over a few places in each cell.

    A few places underestimate it, whereas the middle of the cells would flatter a run that doesn't know their edges.
    """
    z, volume = draw_in_cells(run.transform, x, OWN_PLACES)
    own = replace(run, recipe=replace(run.recipe, transform=Transform()))
    states = own.likelihoods(z.flatten(0, 1), batch_size=AT_ONCE, tolerance=TOLERANCE)
    parts = list(bar(states, "log densities", total=-(-z[..., 0].numel() // AT_ONCE)))
    return mean_in_cells(torch.cat([part.log_prob for part in parts]).double().view_as(volume) + volume)


@dataclass(frozen=True)
class TableRuler:
    """Compares samples with held-out rows (``judge_rows``), and measures the density of held-out rows under the run.

    ``n``: the number of samples, up to the number of training rows.
    ``target``: a column that trees predict, see ``utility``.
    """

    run: Run
    data: Dataset
    test: Float64[Tensor, "n d"]
    n: int
    target: str | None = None

    def judge(self, samples: Float[Tensor, "k d"]) -> Comparison:
        """Judge the first n samples, in the user's units."""
        transform, columns = self.run.transform, columns_of(self.run.transform, self.test.shape[1])
        missing = self.data.train[:, : len(columns.names)].isnan()
        train = transform.inverse(self.data.train.double()).masked_fill(missing, torch.nan).numpy()
        test, made = self.test.numpy(), samples[: self.n].double().numpy()
        # Held-out rows and samples have missing values only if these are learned.
        learned = train if columns.marks else train[~missing.any(1).numpy()]
        numbers = judge_rows(learned, test, made, transform)
        numbers["log_density"] = log_density(self.run, self.test[~self.test.isnan().any(1)][:DENSITIES])
        if self.target is not None:
            real = np.random.default_rng(0).permutation(train)[: len(made)]
            for end, rows in (("", made), ("_of_real_rows", real)):
                found = utility(rows, test, columns, self.target)
                numbers |= {f"{name}{end}": value for name, value in found.items()}
        return Comparison(n=len(test), numbers=numbers)

    def show(self, samples: Float[Tensor, "k d"], path: Path) -> None:
        """Draw marginals and pairs of columns."""
        show_rows(self.run, self.test, samples, path)


def show_rows(run: Run, real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], path: Path) -> None:
    """Draw marginals and pairs of columns, of real rows and of samples."""
    plots.columns(real.numpy(), samples.numpy(), columns_of(run.transform, real.shape[1]).names, path)
