"""Quality of a table's samples, compared with held-out rows."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.data.columns import Columns, Discrete, columns_of
from ncsn.data.dataset import Dataset
from ncsn.data.transforms import Transform
from ncsn.evaluation.comparison import Comparison, classify, compare
from ncsn.machine.messages import bar
from ncsn.metrics import sliced_wasserstein
from ncsn.run.run import Run

BINS = 10  # for a column of numbers paired with a column of categories
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
    columns, few = columns_of(transform or Transform(), test.shape[1]), len(test)
    learned, held, made = (coordinates(rows, columns) for rows in (train, test, samples[:few]))
    distances = {"classifier": classify, "sliced_wasserstein": sliced}
    numbers = compare(learned, held, made, distances, "real_rows")
    categories = np.array([bool(column.categories) for column in columns.columns])
    for end, rows in (("", samples[:few]), ("_of_real_rows", np.random.default_rng(0).permutation(train)[:few])):
        numbers[f"column_shapes{end}"] = column_shapes(test, rows, categories)
        numbers[f"pair_trends{end}"] = pair_trends(test, rows, categories)
    return {name: value for name, value in numbers.items() if not np.isnan(value)}


def coordinates(rows: Float[np.ndarray, "n d"], columns: Columns) -> Float64[np.ndarray, "n e"]:
    """Rows as vectors: numbers in units of their spread, indicators of texts, and 1 where a cell is missing."""
    parts = []
    for column, cells in zip(columns.columns, torch.from_numpy(rows).double().unbind(1), strict=True):
        missing = cells.isnan()
        if column.categories:
            part = (cells[:, None] == torch.arange(len(column.categories))).double()
        elif isinstance(column, Discrete):
            values = torch.tensor(column.values).double()
            part = ((cells - values.mean()) / values.std()).nan_to_num(0.0)[:, None]
        else:
            part = column.forward(cells)
            # A frequent value has no place on the model's line, so it gets one at the end.
            atoms = torch.where(column.encode(cells) > 0, column.encode(cells) + 3, 0.0)
            part = torch.where(part.isnan(), atoms.nan_to_num(0.0), part)[:, None]
        parts += [part, missing[:, None].double()] if column.gaps else [part]
    return torch.cat(parts, 1).numpy()


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
        if not all(map(len, known)):  # nothing is known of a column that is nearly empty
            continue
        scores.append(overlap(*known) if text else 1 - ks_2samp(*known, method="asymp").statistic)
    return float(np.mean(scores)) if scores else np.nan


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
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else np.nan


def overlap(one: Shaped[np.ndarray, "n"], other: Shaped[np.ndarray, "m"]) -> float:
    """One minus the total variation distance between the frequencies of values in two samples."""
    _, which = np.unique(np.concatenate([one, other]), return_inverse=True)
    shares = [np.bincount(part, minlength=int(np.max(which)) + 1) / len(part) for part in np.split(which, [len(one)])]
    return float(np.minimum(*shares).sum())


def log_density(run: Run, x: Float64[Tensor, "b d"]) -> float:
    """The mean log density of complete rows under a run, in nats, at a random place in each cell of a grid.

    On average that is at most the logarithm of the cell's probability, so it flatters no run.
    """
    parts = run.log_densities(x, place=0, batch_size=AT_ONCE)
    found = torch.cat([part.log_prob for part in bar(parts, "log densities", total=-(-len(x) // AT_ONCE))])
    return float(found.mean())


@dataclass(frozen=True)
class TableRuler:
    """Compares samples with held-out rows (``judge_rows``), and measures the density of held-out rows under the run.

    ``n``: the number of samples.
    """

    run: Run
    data: Dataset
    test: Float64[Tensor, "n d"]
    n: int

    def judge(self, samples: Float[Tensor, "k d"]) -> Comparison:
        """Judge the first n samples, in the user's units."""
        transform, test = self.run.transform, self.test
        train = transform.restore(self.data.train.double()).numpy()
        numbers = judge_rows(train, test.numpy(), samples[: self.n].double().numpy(), transform)
        complete = test[~test.isnan().any(1)][:DENSITIES]
        if len(complete):
            numbers["log_density"] = log_density(self.run, complete)
        return Comparison(n=len(test), numbers=numbers)

    def show(self, samples: Float[Tensor, "k d"], path: Path) -> None:
        """Draw marginals and pairs of columns."""
        show_rows(self.run, self.test, samples, path)


def show_rows(run: Run, real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], path: Path) -> None:
    """Draw marginals and pairs of columns, of real rows and of samples."""
    plots.columns(real.numpy(), samples.numpy(), columns_of(run.transform, real.shape[1]).names, path)
