"""Quality of a table's samples, compared with held-out rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.data.columns import Columns, Discrete, columns_of
from ncsn.data.transforms import Transform
from ncsn.evaluation.comparison import BrokenShare, ColumnDistance, Comparison, classify, compare
from ncsn.machine.messages import bar
from ncsn.metrics import sliced_wasserstein
from ncsn.run.run import Run
from ncsn.tables.constraints import Constraint
from ncsn.tables.learning import Table

BINS = 10  # for a column of numbers paired with a column of categories
MOST_VALUES = 50  # of a column whose distance compares the share of each value
DENSITIES, AT_ONCE = 1000, 500  # rows whose densities are computed, and rows per batch


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
    copies.  ``sliced_wasserstein``: as for images.  ``column_shapes``, ``pair_trends``: as defined by SDMetrics, which
    ignores missing cells, except in pairs with text; the other metrics don't.  ``pair_trends`` is left out if no pair
    of columns has a relation.

    ``train``: the training rows, at least as many as ``test``; NaN is a missing cell here and below.
    ``test``: held-out rows, at least 8.
    ``samples``: at least as many as ``test``.
    ``transform``: from the units of the rows to those of the model; by default they are the same.
    """
    columns = columns_of(transform or Transform(), test.shape[1])
    samples = samples[: len(test)]
    distances = {"classifier": classify, "sliced_wasserstein": sliced}
    learned, held_out, drawn = (coordinates(rows, columns) for rows in (train, test, samples))
    numbers = compare(learned, held_out, drawn, distances, "real_rows")
    categories = np.array([bool(column.categories) for column in columns.columns])
    real = np.random.default_rng(0).permutation(train)[: len(test)]
    for suffix, rows in (("", samples), ("_of_real_rows", real)):
        numbers[f"column_shapes{suffix}"] = column_shapes(test, rows, categories)
        numbers[f"pair_trends{suffix}"] = pair_trends(test, rows, categories)
    return {name: value for name, value in numbers.items() if not np.isnan(value)}


def coordinates(rows: Float[np.ndarray, "n d"], columns: Columns) -> Float64[np.ndarray, "n e"]:
    """Rows as vectors: numbers in units of their spread, indicators of texts, and 1 where a cell is missing."""
    blocks = list[Tensor]()
    for column, cells in zip(columns.columns, torch.from_numpy(rows).double().unbind(1), strict=True):
        if column.categories:
            blocks.append((cells[:, None] == torch.arange(len(column.categories))).double())
        elif isinstance(column, Discrete):
            values = torch.tensor(column.values).double()
            blocks.append(((cells - values.mean()) / values.std()).nan_to_num(0.0)[:, None])
        else:
            z, codes = column.forward(cells), column.encode(cells)
            # A frequent value has no place on the model's line, so it gets one at the end.
            atoms = torch.where(codes > 0, codes + 3, 0.0)
            blocks.append(torch.where(z.isnan(), atoms.nan_to_num(0.0), z)[:, None])
        if column.gaps:
            blocks.append(cells.isnan()[:, None].double())
    return torch.cat(blocks, 1).numpy()


def sliced(x: Float[np.ndarray, "m d"], y: Float[np.ndarray, "m d"]) -> float:
    """The sliced Wasserstein distance between two sets of vectors."""
    return sliced_wasserstein(torch.from_numpy(x), torch.from_numpy(y))


def column_shapes(
    real: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"], categories: Bool[np.ndarray, "d"]
) -> float:
    """SDMetrics' Column Shapes: how similar the columns of two tables are, at best 1; the mean over columns.

    One minus the Kolmogorov–Smirnov statistic for numbers, or the total variation distance for ``categories``.
    """
    from scipy.stats import ks_2samp

    scores = []
    for column, other, is_text in zip(real.T, rows.T, categories, strict=True):
        x, y = column[~np.isnan(column)], other[~np.isnan(other)]
        if len(x) and len(y):  # nothing is known of a column that is nearly empty
            scores.append(overlap(x, y) if is_text else 1 - ks_2samp(x, y, method="asymp").statistic)
    return float(np.mean(scores)) if scores else np.nan


def column_distances(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "k d"],
    columns: Columns,
) -> dict[str, ColumnDistance]:
    """The distance of each column of samples from held-out rows, beside that of as many training rows; worst first.

    ``train``, ``test``, ``samples``: rows in the user's units, with NaN for missing cells.
    """
    real = np.random.default_rng(0).permutation(train)[: len(test)]
    distances = {
        name: ColumnDistance(column_distance(drawn, held_out), column_distance(learned, held_out))
        for name, drawn, learned, held_out in zip(columns.names, samples[: len(test)].T, real.T, test.T, strict=True)
    }
    worst_first = sorted(distances, key=lambda name: distances[name].real_rows - distances[name].samples)
    return {name: distances[name] for name in worst_first}


def column_distance(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "m"]) -> float:
    """The distance between two samples of a column, which includes how often cells are missing; see ColumnDistance."""
    from scipy.stats import ks_2samp

    known_x, known_y = x[~np.isnan(x)], y[~np.isnan(y)]
    if len(np.union1d(known_x, known_y)) <= MOST_VALUES or not (len(known_x) and len(known_y)):
        return 1 - overlap(np.nan_to_num(x, nan=np.inf), np.nan_to_num(y, nan=np.inf))
    missing = abs(np.isnan(x).mean() - np.isnan(y).mean())
    return float(max(missing, ks_2samp(known_x, known_y, method="asymp").statistic))


def broken_shares(
    constraints: Sequence[Constraint], samples: Float[np.ndarray, "k d"], test: Float[np.ndarray, "m d"]
) -> dict[str, BrokenShare]:
    """How often samples and held-out rows break each constraint of the training rows; the most often broken first."""
    shares = {
        constraint.text: BrokenShare(*(float(constraint.broken(rows).mean()) for rows in (samples, test)))
        for constraint in constraints
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1].samples))


def pair_trends(
    real: Float[np.ndarray, "n d"], rows: Float[np.ndarray, "m d"], categories: Bool[np.ndarray, "d"]
) -> float:
    """SDMetrics' Column Pair Trends: how similar the relations of columns are, at best 1; the mean over pairs.

    One minus half the difference of Pearson's correlations for two columns of numbers, or the total variation distance
    for pairs with ``categories``, where numbers are put into ten bins, which ``real`` defines for both tables.
    If a constant column leaves a pair in ``rows``, but not in ``real``, without a correlation, the pair counts as 0.
    NaN if no pair of ``real`` has a correlation.
    """
    import pandas

    expected, correlations = (pandas.DataFrame(table).corr().to_numpy() for table in (real, rows))
    similarity = 1 - np.abs(expected - correlations) / 2
    similarity[np.isnan(correlations) & ~np.isnan(expected)] = 0.0
    real, rows = real.copy(), rows.copy()
    for k in (~categories).nonzero()[0]:
        edges = np.histogram_bin_edges(real[~np.isnan(real[:, k]), k], BINS)[1:-1]
        for table in (real, rows):
            table[:, k] = np.where(np.isnan(table[:, k]), np.nan, np.digitize(table[:, k], edges))
    real, rows = np.nan_to_num(real, nan=-1), np.nan_to_num(rows, nan=-1)
    scores = []
    for i, j in combinations(range(len(categories)), 2):
        if categories[i] or categories[j]:
            similarity[i, j] = overlap(real[:, i] + 1j * real[:, j], rows[:, i] + 1j * rows[:, j])
        scores.append(similarity[i, j])
    defined = [score for score in scores if not np.isnan(score)]
    return float(np.mean(defined)) if defined else np.nan


def overlap(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "m"]) -> float:
    """One minus the total variation distance between the frequencies of values in two samples."""
    values, index = np.unique(np.concatenate([x, y]), return_inverse=True)
    shares_of_x = np.bincount(index[: len(x)], minlength=len(values)) / len(x)
    shares_of_y = np.bincount(index[len(x) :], minlength=len(values)) / len(y)
    return float(np.minimum(shares_of_x, shares_of_y).sum())


def log_density(run: Run, x: Float64[Tensor, "b d"]) -> float:
    """The mean log density of complete rows under a run, in nats, at a random place in each cell of a grid.

    On average that is at most the logarithm of the cell's probability, so it flatters no run.
    """
    batches = bar(run.log_densities(x, place=0, batch_size=AT_ONCE), "log densities", total=-(-len(x) // AT_ONCE))
    return float(torch.cat([batch.log_prob for batch in batches]).mean())


@dataclass(frozen=True)
class TableRuler:
    """Compares samples with held-out rows (``judge_rows``), and measures the density of held-out rows under the run.

    ``n``: the number of samples.
    """

    run: Run
    data: Table
    test: Float64[Tensor, "n d"]
    n: int

    def judge(self, samples: Float[Tensor, "k d"]) -> Comparison:
        """Judge the first n samples, in the user's units."""
        transform, test = self.run.transform, self.test
        train = transform.restore(self.data.train.double()).numpy()
        drawn = samples[: self.n].double().numpy()
        numbers = judge_rows(train, test.numpy(), drawn, transform)
        complete = test[~test.isnan().any(1)][:DENSITIES]
        if len(complete):
            numbers["log_density"] = log_density(self.run, complete)
        columns = column_distances(train, test.numpy(), drawn, columns_of(transform, test.shape[1]))
        broken = broken_shares(self.data.constraints, drawn, test.numpy())
        return Comparison(n=len(test), numbers=numbers, columns=columns, constraints=broken)

    def show(self, samples: Float[Tensor, "k d"], path: Path) -> None:
        """Draw marginals and pairs of columns."""
        show_rows(self.run, self.test, samples, path)


def show_rows(run: Run, real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], path: Path) -> None:
    """Draw marginals and pairs of columns, of real rows and of samples."""
    plots.columns(real.numpy(), samples.numpy(), columns_of(run.transform, real.shape[1]).names, path)
