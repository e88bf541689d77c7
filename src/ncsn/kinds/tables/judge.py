"""How good samples of a table are, compared with rows that training has not seen."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn import plots
from ncsn.kinds.comparison import Comparison, classify, compare
from ncsn.kinds.kind import Dataset
from ncsn.kinds.tables.columns import Columns, columns_of
from ncsn.kinds.transform import Transform
from ncsn.machine.messages import bar, log
from ncsn.metrics import sliced_wasserstein
from ncsn.run import Run

PLACES, OWN_PLACES = 32, 8  # in the cells of a row, over which its density is averaged; under a run, which takes longer
DENSITIES, AT_ONCE, TOLERANCE = 1000, 500, 1e-4  # rows whose densities are computed, so many together, so exactly


def judge_rows(
    train: Float[np.ndarray, "n d"],
    test: Float[np.ndarray, "m d"],
    samples: Float[np.ndarray, "m d"],
    transform: Transform | None = None,
) -> dict[str, float]:
    """How good samples of a table are; each number with what real rows have in their place.

    ``classifier``: how often gradient-boosted trees tell samples from held-out rows, cross-validated; ½ is ideal
    (Lopez-Paz & Oquab 2017, arXiv:1610.06545).  They cannot see that samples are copies of rows to learn from.
    ``memorisation`` can: how often a held-out row is farther from these than a sample is; ½ for fresh ones, 1 for
    copies.  ``sliced_wasserstein``: as of images.
    ``log_density_of_eight_gaussians``: of the first 1,000 held-out rows in nats, by a mixture fitted to ``train``; in a
    cell it is the mean density there.  Left out, with a line, where such a mixture cannot be fitted.

    ``train``: rows that training has seen, at least as many as ``test``.
    ``test``: rows that it has not seen, at least 8.
    ``samples``: as many as ``test``.
    ``transform``: of all of them; by default they are the model's own.
    """
    transform = transform or Transform()
    # In the middle of cells: two copies of a row would be apart by where in them they are.
    learned, held, made = (transform.forward(torch.from_numpy(rows)).numpy() for rows in (train, test, samples))
    numbers = compare(learned, held, made, {"classifier": classify, "sliced_wasserstein": sliced}, "real_rows")
    try:
        numbers["log_density_of_eight_gaussians"] = eight_gaussians(train, test[:DENSITIES], transform)
    except ValueError as error:  # of rows with as good as no variance in some direction
        log.warning(f"eight Gaussians are left out: {str(error).splitlines()[0]}")
    return numbers


def sliced(one: Float[np.ndarray, "m d"], other: Float[np.ndarray, "m d"]) -> float:
    """Their sliced Wasserstein distance."""
    return sliced_wasserstein(torch.from_numpy(one), torch.from_numpy(other))


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
) -> tuple[Float64[Tensor, "p b d"], Float64[Tensor, "p b"]]:
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
    """Measures rows next to as many held-out ones, see ``judge_rows``; and the held-out ones' density under the run."""

    run: Run
    data: Dataset
    test: Float64[Tensor, "n d"]

    @property
    def n(self) -> int:
        """The number of rows that are compared."""
        return len(self.test)

    def judge(self, samples: Float[Tensor, "k d"]) -> Comparison:
        """How good the first n samples are; in the user's units."""
        transform = self.run.transform
        train = transform.inverse(self.data.train[~self.data.train.isnan().any(1)].double())  # complete rows
        made = samples[: self.n].double().numpy()
        numbers = judge_rows(train.numpy(), self.test.numpy(), made, transform)
        numbers["log_density"] = log_density(self.run, self.test[:DENSITIES])
        return Comparison(n=self.n, numbers=numbers)

    def show(self, samples: Float[Tensor, "k d"], path: Path) -> None:
        """Draw marginals and pairs of columns."""
        show_rows(self.run, self.test, samples, path)


def show_rows(run: Run, real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], path: Path) -> None:
    """Draw marginals and pairs of columns, of real rows and of samples."""
    plots.columns(real.numpy(), samples.numpy(), columns_of(run.transform, real.shape[1]).names, path)
