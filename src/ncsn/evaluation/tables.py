"""How good samples of a table are, beside rows that training has not seen; and how sure its imputations may be."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.data import Dataset
from ncsn.data.units import Units
from ncsn.evaluation.metrics import sliced_wasserstein
from ncsn.machine.messages import bar, log
from ncsn.run import Run

PLACES, OWN_PLACES = 32, 8  # in the cells of a row, over which its density is averaged; under a run, which takes longer
FEWEST = 100  # trees cannot learn from less
DENSITIES, AT_ONCE, TOLERANCE = 1000, 500, 1e-4  # rows whose densities are computed, so many together, so exactly
KNOWN = 200  # numbers that are hidden, to see how sure an imputation may be
ASKED, AT_A_TIME = 1000, 2**16  # rows of which it is asked whether training has seen them; rows of these at a time
SAME = 1e-3  # deviations within which numbers are the same


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
    ``log_density_of_eight_gaussians``: of the first 1,000 held-out rows in nats, by a mixture fitted to ``train``; in a
    cell it is the mean density there.  Left out, with a line, where such a mixture cannot be fitted.

    ``train``: rows that training has seen, at least as many as ``test``.
    ``test``: rows that it has not seen, at least 8.
    ``samples``: as many as ``test``.
    ``units``: of all of them; by default they are the score's own.
    """
    units = units or Units(torch.zeros(train.shape[1]).double(), torch.ones(train.shape[1]).double())
    # In the middle of cells: two copies of a row would be apart by where in them they are.
    learned, held, made = (units.standardise(torch.from_numpy(rows)).numpy() for rows in (train, test, samples))
    numbers = compared(learned, held, made, {"classifier": told_apart, "sliced_wasserstein": sliced}, "real_rows")
    try:
        numbers["log_density_of_eight_gaussians"] = eight_gaussians(train, test[:DENSITIES], units)
    except ValueError as error:  # of rows with as good as no variance in some direction
        log.warning(f"eight Gaussians are left out: {str(error).splitlines()[0]}")
    return numbers


def compared(
    train: Float[np.ndarray, "n *d"],
    test: Float[np.ndarray, "m *d"],
    samples: Float[np.ndarray, "m *d"],
    distances: Mapping[str, Callable[[np.ndarray, np.ndarray], float]],
    floor: str,
    *,
    mirrored: bool = False,
) -> dict[str, float]:
    """Distances of samples from held-out examples, and of as many training examples, and how many are learned by heart.

    ``distances``: by their names.  ``floor``: what training examples are called in the names of their distances.
    ``mirrored``: whether training has mirrored examples, so that a mirrored copy is a copy.
    """
    numbers: dict[str, float] = {}
    real = np.random.default_rng(0).permutation(train)[: len(test)]
    for name, examples in (("", samples), (f"_of_{floor}", real)):
        numbers |= {f"{key}{name}": distance(examples, test) for key, distance in distances.items()}
    learned = np.concatenate([train, train[..., ::-1]]) if mirrored else train
    flat = (part.reshape(len(part), -1) for part in (learned, test, samples))
    return numbers | {"memorisation": memorisation(*flat)}


def told_apart(one: Float[np.ndarray, "m *d"], other: Float[np.ndarray, "m *d"]) -> float:
    """How often gradient-boosted trees tell two sets of equal size apart, cross-validated; ½ is by chance."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    examples, labels = np.concatenate([one, other]).reshape(2 * len(one), -1), np.repeat([0, 1], len(one))
    trees, folds = HistGradientBoostingClassifier(random_state=0), StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(trees, examples, labels, cv=folds).mean())


def sliced(one: Float[np.ndarray, "m d"], other: Float[np.ndarray, "m d"]) -> float:
    """Their sliced Wasserstein distance."""
    return sliced_wasserstein(torch.from_numpy(one), torch.from_numpy(other))


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

    learned = units.standardise(torch.from_numpy(train).double(), torch.Generator().manual_seed(0))
    mixture = Mixture(8, random_state=0).fit(learned.numpy())
    z, volume = in_cells(units, torch.from_numpy(test).double(), PLACES)
    densities = torch.from_numpy(mixture.score_samples(z.flatten(0, 1).numpy())).view_as(volume) + volume
    return mean_in_cells(densities)


def in_cells(
    units: Units, x: Float64[Tensor, "b d"], places: int
) -> tuple[Float64[Tensor, "p b d"], Float64[Tensor, "p b"]]:
    """Rows as the model sees them at random places in their cells, and log |dz/dx| there; one place without cells."""
    seeds = range(1, 1 + (places if bool((units.cells > 0).any()) else 1))
    z = [units.standardise(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    volumes = [units.log_volume(x, torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(z), torch.stack(volumes)


def mean_in_cells(densities: Float64[Tensor, "p b"]) -> float:
    """The mean over rows of the logarithm of the mean over places of a density, from its logarithms."""
    return float((torch.logsumexp(densities, 0) - math.log(len(densities))).mean())


@dataclass(frozen=True, kw_only=True)
class TableEvaluation:
    """How good samples of a table, or signals, are.

    ``n``: how many samples were judged, beside as many held-out examples.
    ``numbers``: by their names, see ``judge_rows`` and ``judge_signals``; ``log_density``: of the first 1,000 held-out
    rows under the run, in nats.
    """

    n: int
    numbers: dict[str, float]

    def report(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        return {"n": self.n} | self.numbers

    def __str__(self) -> str:
        """The numbers, a line each."""
        width = max(30, *map(len, self.numbers))
        return "\n".join([f"n = {self.n}", *(f"{name:<{width}}{value:10.4g}" for name, value in self.numbers.items())])


def held_out_examples(data: Dataset, n: int) -> Float64[Tensor, "m *d"]:
    """At most ``n`` held-out examples in the user's units, and no more than there are to learn from.

    Raises ValueError for fewer than trees can judge by.
    """
    assert data.units is not None
    if (few := min(len(data.test), data.n)) < FEWEST:
        count = f"{few} {'held-out' if few == len(data.test) else 'training'} {data.kind.noun}"
        raise ValueError(f"{data.name} has {count}; trees need at least {FEWEST} to judge by")
    return data.units.restore(data.test[: min(n, data.n)].double())


def judge_table(run: Run, data: Dataset, samples: Float[Tensor, "m d"]) -> TableEvaluation:
    """The samples of a run beside as many held-out rows of its data.

    ``run``: whose density the rows have.  ``samples``: in the user's units, as many as ``held_out_examples``.
    Raises ValueError for too few rows.
    """
    units, test = run.units, held_out_examples(data, len(samples))
    assert units is not None
    train = units.restore(data.train[~data.train.isnan().any(1)].double())  # complete rows
    numbers = judge_rows(train.numpy(), test.numpy(), samples.double().numpy(), units)
    numbers["log_density"] = log_density(run, units, test[:DENSITIES])
    return TableEvaluation(n=len(test), numbers=numbers)


def log_density(run: Run, units: Units, x: Float64[Tensor, "b d"]) -> float:
    """The mean log density of rows under a run, in nats: of cells the mean density there, from few places in them.

    Few places say less than there is.  In the middle alone a run that knows edges of cells too little would look better
    than it is.
    """
    z, volume = in_cells(units, x, OWN_PLACES)
    states = replace(run, units=None).likelihoods(z.flatten(0, 1), batch_size=AT_ONCE, tolerance=TOLERANCE)
    parts = list(bar(states, "log densities", total=-(-z[..., 0].numel() // AT_ONCE)))
    return mean_in_cells(torch.cat([part.log_prob for part in parts]).double().view_as(volume) + volume)


def imputed(run: Run, x: Float64[Tensor, "b *d"], n: int, *, seed: int = 0) -> Float64[Tensor, "n b *d"]:
    """``n`` draws of each row or signal with blanks, (b, *d), under a progress bar.

    One with a number that its column or channel cannot have stays as it is; a line names the first of them.
    """
    draws, good, kind = x.repeat(n, *[1] * x.ndim), torch.arange(len(x)), run.recipe.kind
    if run.units is not None:
        possible = run.units.possible(x)
        good = possible.flatten(1).all(1).nonzero()[:, 0]
        for row, column, *_ in (~possible).nonzero().tolist()[:1]:
            what = f"{run.recipe.where(row, column)} cannot be that, to judge by training"
            log.warning(f"{what}; {len(x) - len(good)} of {len(x)} {kind.noun} are left as they are")

    def rows() -> Iterable[Tensor]:
        for part, filled in run.impute(x[good], n, seed=seed):
            draws[:, good[part]] = filled
            yield from part

    for _ in bar(rows(), f"{len(x)} {kind.noun}", total=len(good)):
        pass
    return draws


def unseen(data: Dataset, x: Float64[Tensor, "b d"]) -> Float64[Tensor, "m d"]:
    """Those of up to 1,000 rows that agree with no row that training has learned from, in all that is known of them.

    Of a table of few values these are the unusual ones, for which draws are worse than for others.
    """
    units, x = data.units, x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:ASKED]]
    assert units is not None
    # Where training sees a number of a cell is chance: in the middle of it they are the same.
    parts = torch.split(data.train, AT_A_TIME)
    learned = torch.cat([units.standardise(units.restore(part.double())) for part in parts])
    learned = learned.masked_fill(data.train.isnan(), math.nan)

    def fresh(row: Float64[Tensor, "d"]) -> bool:
        alike = learned
        for i in (~row.isnan()).nonzero()[:, 0]:
            alike = alike[(alike[:, i] - row[i]).abs() < SAME]
        return not len(alike)

    return x[[fresh(row) for row in bar(units.standardise(x), "known rows")]]


def calibration(run: Run, x: Float64[Tensor, "b d"], n: int, *, seed: int = 0) -> tuple[int, float]:
    """Of up to 200 known numbers, each hidden alone, how many there are, and the share within ``n`` draws.

    A number that is equal to draws lies before or behind each of them at random.  For exact draws the share is
    (n − 1)/(n + 1).
    """
    good = (~x.isnan()).sum(1) > 1
    if run.units is not None:
        good &= run.units.possible(x).all(1)
    places = (good[:, None] & ~x.isnan()).nonzero()
    if not len(places):
        return 0, 1.0
    generator = torch.Generator().manual_seed(seed)
    chosen = places[torch.randperm(len(places), generator=generator)[:KNOWN]]
    known, hidden = x[chosen[:, 0]], chosen[:, 1:]
    truth, made = known.gather(1, hidden), imputed(run, known.scatter(1, hidden, torch.nan), n, seed=seed)
    made = made.gather(2, hidden.expand(n, -1, -1))
    ties = torch.rand(truth.shape, generator=generator) * ((made == truth).sum(0) + 1)
    rank = (made < truth).sum(0) + ties.floor()
    return len(known), float(((rank > 0) & (rank < n)).double().mean())
