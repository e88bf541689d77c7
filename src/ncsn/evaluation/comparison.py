"""Metrics of samples of signals and tables, each next to that of equally many real examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.data.dataset import Dataset

MIN_EXAMPLES = 100  # for gradient-boosted trees
COLUMNS_SHOWN = 10  # in the printed text
CONSTRAINTS_SHOWN = 10


class ColumnDistance(NamedTuple):
    """How far the samples of one column are from held-out rows, and how far training rows are.

    ``samples``, ``real_rows``: from 0 to 1; the total variation distance if the column has text or at most 50 values,
    otherwise the Kolmogorov-Smirnov statistic.
    """

    samples: float
    real_rows: float


class BrokenShare(NamedTuple):
    """The share of samples that break a constraint of the training rows, and that of held-out rows, from 0 to 1."""

    samples: float
    real_rows: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Quality of samples of a table or of signals.

    ``n``: the number of samples, compared with equally many held-out examples.
    ``numbers``: the metrics by their names, as they are printed.  For a table, ``log_density`` is the mean log density
    of complete held-out rows, at most 1,000, under the run, in nats.
    ``columns``: of a table, the distance of each column by its name, the worst first: those that are farthest beyond
    the distance of real rows.
    ``constraints``: of a table, what all training rows obey, such as "start ≤ end", and how often it's broken; the most
    often broken first.
    """

    n: int
    numbers: dict[str, float]
    columns: dict[str, ColumnDistance] = field(default_factory=dict)
    constraints: dict[str, BrokenShare] = field(default_factory=dict)

    def report(self) -> dict[str, object]:
        """The comparison as a dictionary for JSON."""
        report: dict[str, object] = {"n": self.n, **self.numbers}
        for name, pairs in (("columns", self.columns), ("constraints", self.constraints)):
            if pairs:
                report[name] = {label: pair._asdict() for label, pair in pairs.items()}
        return report

    def __str__(self) -> str:
        """The numbers, one per line, the worst columns, and the constraints that samples break."""
        columns = dict(islice(self.columns.items(), COLUMNS_SHOWN))
        broken = {text: share for text, share in self.constraints.items() if share.samples}
        shown = dict(islice(broken.items(), CONSTRAINTS_SHOWN))
        width = max(30, *map(len, [*self.numbers, *columns, *shown]))
        lines = [f"n = {self.n}", *(f"{name:<{width}}{value:10.4g}" for name, value in self.numbers.items())]
        for title, pairs in (("columns, worst first", columns), ("constraints, share broken", shown)):
            if pairs:
                lines.append(f"{title:<{width}}{'samples':>10}{'real rows':>11}")
            for name, (samples, real_rows) in pairs.items():
                lines.append(f"{name:<{width}}{samples:10.3f}{real_rows:11.3f}")
            if title.startswith("columns") and len(self.columns) > len(columns):
                lines.append(f"(and {len(self.columns) - len(columns)} more columns)")
        if len(broken) > len(shown):
            lines.append(f"(and {len(broken) - len(shown)} more constraints)")
        if obeyed := len(self.constraints) - len(broken):
            lines.append(
                f"all samples obey {obeyed} {'other ' if broken else ''}constraint{'s'[: obeyed > 1]} of the rows"
            )
        return "\n".join(lines)


def held_out_examples(data: Dataset, n: int) -> Float64[Tensor, "m *d"]:
    """At most ``n`` held-out examples in the user's units, and no more than there are training examples.

    Raises ValueError if there are too few for trees.
    """
    fewest = min(len(data.test), data.n)
    if fewest < MIN_EXAMPLES:
        count = f"{fewest} {'held-out' if fewest == len(data.test) else 'training'} {data.noun}"
        needed = f"a comparison needs at least {MIN_EXAMPLES} (ncsn holds out a tenth of all)"
        raise ValueError(f"{data.name} has {count}; {needed}")
    return data.transform.restore(data.test[: min(n, data.n)].double())


def compare(
    train: Float[np.ndarray, "n *d"],
    test: Float[np.ndarray, "m *d"],
    samples: Float[np.ndarray, "m *d"],
    distances: Mapping[str, Callable[[np.ndarray, np.ndarray], float]],
    floor: str,
    *,
    mirrored: bool = False,
) -> dict[str, float]:
    """Distances of samples from held-out examples, the same of as many training examples, and memorisation.

    ``distances``: by their names.  ``floor``: what training examples are called in the names of their distances.
    ``mirrored``: whether training has mirrored examples, so that a mirrored copy is a copy.
    """
    real = np.random.default_rng(0).permutation(train)[: len(test)]
    numbers = {name: distance(samples, test) for name, distance in distances.items()}
    numbers |= {f"{name}_of_{floor}": distance(real, test) for name, distance in distances.items()}
    learned = np.concatenate([train, train[..., ::-1]]) if mirrored else train
    vectors = (examples.reshape(len(examples), -1) for examples in (learned, test, samples))
    return numbers | {"memorisation": memorisation(*vectors)}


def classify(x: Float[np.ndarray, "m *d"], y: Float[np.ndarray, "m *d"]) -> float:
    """How often gradient-boosted trees tell two sets of equal size apart, cross-validated; ½ is by chance."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from threadpoolctl import threadpool_limits

    examples = np.concatenate([x, y]).reshape(2 * len(x), -1)
    labels = np.repeat([0, 1], len(x))
    trees = HistGradientBoostingClassifier(random_state=0)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with threadpool_limits(1):  # several threads wait for each other, on a busy machine most of the time
        return float(cross_val_score(trees, examples, labels, cv=folds).mean())


def memorisation(
    train: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], samples: Float[np.ndarray, "k d"]
) -> float:
    """How often a held-out example is farther from its nearest training example than a sample is."""
    from scipy.stats import mannwhitneyu
    from sklearn.neighbors import NearestNeighbors

    nearest = NearestNeighbors(n_neighbors=1).fit(train)
    to_test, to_samples = (nearest.kneighbors(rows)[0][:, 0] for rows in (test, samples))
    return float(mannwhitneyu(to_test, to_samples).statistic) / (len(test) * len(samples))
