"""How good samples of a table are, compared with rows that training has not seen."""

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

PLACES, OWN_PLACES = 32, 8  # in the cells of a row, over which its density is averaged; under a run, which takes longer
BINS = 10  # of a column of numbers next to one of categories
FALSE_POSITIVES, EXACT = 0.01, 1e-9  # of a membership attack; a distance that counts as none
DENSITIES, AT_ONCE, TOLERANCE = 1000, 500, 1e-4  # rows whose densities are computed, so many together, so exactly


def judge_rows(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "k d"],
    transform: Transform | None = None,
) -> dict[str, float]:
    """How good samples of a table are; each number with what real rows have in their place.

    ``classifier``: how often gradient-boosted trees tell samples from held-out rows, cross-validated; ½ is ideal
    (Lopez-Paz & Oquab 2017, arXiv:1610.06545).  They cannot see that samples are copies of rows to learn from.
    ``memorisation`` can: how often a held-out row is farther from these than a sample is; ½ for fresh ones, 1 for
    copies.  ``sliced_wasserstein``: as of images.  ``column_shapes``, ``pair_trends``: as SDMetrics defines them.
    ``membership_attack``: on training rows, by all samples; see there.
    ``log_density_of_eight_gaussians``: of the first 1,000 held-out rows in nats, by a mixture fitted to ``train``; in a
    cell it is the mean density there.  Left out, with a line, where such a mixture cannot be fitted.

    ``train``: rows that training has seen, at least as many as ``test``.
    ``test``: rows that it has not seen, at least 8.
    ``samples``: at least as many as ``test``; only the attack takes more.
    ``transform``: of all of them; by default they are the model's own.
    """
    transform = transform or Transform()
    # In the middle of cells: two copies of a row would be apart by where in them they are.  Gaps are in the middle of
    # their columns, and have marks.
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
    except ValueError as error:  # of rows with as good as no variance in some direction
        log.warning(f"eight Gaussians are left out: {str(error).splitlines()[0]}")
    return numbers


def sliced(one: Float[np.ndarray, "m d"], other: Float[np.ndarray, "m d"]) -> float:
    """Their sliced Wasserstein distance."""
    return sliced_wasserstein(torch.from_numpy(one), torch.from_numpy(other))


def column_shapes(
    real: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"], categories: Bool[np.ndarray, "d"]
) -> float:
    """SDMetrics' Column Shapes: how alike the columns of two tables are, 1 at best; the mean over columns.

    One minus the Kolmogorov–Smirnov statistic of numbers, or the total variation distance of ``categories``.
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
    """SDMetrics' Column Pair Trends: how alike the relations of two columns are, 1 at best; the mean over pairs.

    One minus half of the difference of Pearson's correlations of numbers, or the total variation distance of pairs in
    which there are ``categories``.  Numbers next to these are in ten bins, which are those of ``real`` for both tables.
    Where ``rows`` alone have no correlation, because a column of theirs is constant, the pair counts as 0.
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
    """One minus the total variation distance of the shares of two samples' values."""
    _, which = np.unique(np.concatenate([one, other]), return_inverse=True)
    shares = [np.bincount(part, minlength=which.max() + 1) / len(part) for part in np.split(which, [len(one)])]
    return float(np.minimum(*shares).sum())


def utility(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], columns: Columns, target: str
) -> dict[str, float]:
    """How well boosted trees that have learned from ``train`` predict a column of ``test`` from the others.

    R² of numbers; of text and of two values balanced accuracy, the mean over values of the share that is right.
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
        told = np.full(len(held), y[0]) if len(np.unique(y)) == 1 else trees.fit(x, y).predict(held)
    if not discrete:
        return {"target_r2": float(r2_score(truth, told))}
    return {"target_balanced_accuracy": float(np.mean([(told == v)[truth == v].mean() for v in np.unique(truth)]))}


def membership_attack(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "k d"]
) -> dict[str, float]:
    """The share of training rows that an attacker with the samples recognises at 1 % false positives.

    A row is taken for one of training if a sample is much nearer to it than a held-out row is: a density ratio as of
    DOMIAS (van Breugel et al. 2023, arXiv:2302.12580), by nearest neighbours.  By chance 1 % of the training rows are
    found, and in 19 of 20 evaluations at most ``membership_attack_by_chance``.  Nothing for less than 99 held-out rows.
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
    """The mean log density of ``test`` by eight Gaussians that are fitted to ``train`` anywhere in its cells."""
    from sklearn.mixture import GaussianMixture as Mixture

    learned = transform.forward(torch.from_numpy(train).double(), torch.Generator().manual_seed(0))
    mixture = Mixture(8, random_state=0).fit(learned.numpy())
    z, volume = draw_in_cells(transform, torch.from_numpy(test).double(), PLACES)
    densities = torch.from_numpy(mixture.score_samples(z.flatten(0, 1).numpy())).view_as(volume) + volume
    return mean_in_cells(densities)


def draw_in_cells(
    transform: Transform, x: Float64[Tensor, "b d"], places: int
) -> tuple[Float64[Tensor, "p b e"], Float64[Tensor, "p b"]]:
    """Rows as the model sees them at random places in their cells, and log |dz/dx| there; one place without cells."""
    discrete = isinstance(transform, Columns) and transform.discrete
    seeds = range(1, 1 + (places if discrete else 1))
    z = [transform.forward(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    volumes = [transform.log_abs_det_jacobian(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(z), torch.stack(volumes)


def mean_in_cells(densities: Float64[Tensor, "p b"]) -> float:
    """The mean over rows of the logarithm of the mean over places of a density, from its logarithms."""
    return float((torch.logsumexp(densities, 0) - math.log(len(densities))).mean())


def log_density(run: Run, x: Float64[Tensor, "b d"]) -> float:
    """The mean log density of rows under a run, in nats: of cells the mean density there, from few places in them.

    Few places say less than there is.  In the middle alone a run that knows edges of cells too little would look better
    than it is.
    """
    z, volume = draw_in_cells(run.transform, x, OWN_PLACES)
    own = replace(run, recipe=replace(run.recipe, transform=Transform()))
    states = own.likelihoods(z.flatten(0, 1), batch_size=AT_ONCE, tolerance=TOLERANCE)
    parts = list(bar(states, "log densities", total=-(-z[..., 0].numel() // AT_ONCE)))
    return mean_in_cells(torch.cat([part.log_prob for part in parts]).double().view_as(volume) + volume)


@dataclass(frozen=True)
class TableRuler:
    """Measures rows next to held-out ones, see ``judge_rows``; and the held-out ones' density under the run.

    ``n``: how many samples are wanted: as many as there are rows to learn from, if that is allowed.
    ``target``: a column that trees predict, by ``utility``.
    """

    run: Run
    data: Dataset
    test: Float64[Tensor, "n d"]
    n: int
    target: str | None = None

    def judge(self, samples: Float[Tensor, "k d"]) -> Comparison:
        """How good the first n samples are; in the user's units."""
        transform, columns = self.run.transform, columns_of(self.run.transform, self.test.shape[1])
        missing = self.data.train[:, : len(columns.names)].isnan()
        train = transform.inverse(self.data.train.double()).masked_fill(missing, torch.nan).numpy()
        test, made = self.test.numpy(), samples[: self.n].double().numpy()
        # Held-out rows and samples have gaps only where these are learned, too.
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
