"""Are posteriors calibrated?  Rank the truth among posterior draws, for exact priors and for a learned table.

python examples/calibration.py               # minutes on one core; prints a table, writes docs/images/calibration.png

Simulation-based calibration (Talts et al. 2018, arXiv:1804.06788): draw x from the prior, measure it, and draw from the
posterior given that measurement.  If the posterior is right, x is another draw from it, so its rank among 19 draws is
uniform on 0 … 19.  Ranks 5 … 14 then form the central 50 % interval, and ranks 1 … 18 the 90 % interval.

In such a histogram, errors of opposite sign for opposite measurements cancel (Modrák et al. 2023, arXiv:2211.02383).
A second histogram therefore reverses the order if the measurement is negative.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import scipy.stats
import torch
from torch import Tensor

import ncsn

MEASUREMENTS, DRAWS = 300, 19
METHODS = {"moment matching": 1, "particles": 16}
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "calibration.png"


class Prior(NamedTuple):
    """A prior and a measurement.

    ``sample(n, generator)`` draws truths, and ``run`` makes the posteriors.  ``known``: the measured columns.
    ``noise_std``: the noise of the measurement.  ``hidden``: the column that is ranked.
    """

    name: str
    sample: Callable[[int, torch.Generator], Tensor]
    run: ncsn.Run
    known: list[int]
    hidden: int
    noise_std: float


def gaussian() -> Prior:
    """Two coordinates with correlation 0.9, of which the first is measured."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    factor = torch.linalg.cholesky(covariance)
    values, vectors = torch.linalg.eigh(covariance)

    def score(x: Tensor, sigma: Tensor | float) -> Tensor:
        variance = torch.as_tensor(sigma).reshape(-1, 1) ** 2
        scores: Tensor = -((x @ vectors) / (values + variance)) @ vectors.T
        return scores

    run = ncsn.Run.of(score, shape=(2,), sigma_max=20.0, sigma_min=0.02)
    return Prior("Gaussian, 2-d", lambda n, g: torch.randn(n, 2, generator=g) @ factor.T, run, [0], 1, 0.3)


def mixture(name: str, means: Tensor, std: float, known: list[int], noise_std: float) -> Prior:
    """A mixture of Gaussians around ``means``, of which the last column is ranked."""
    prior = ncsn.GaussianMixture(means, std)
    run = ncsn.Run.of(prior, shape=(means.shape[1],), sigma_max=40.0, sigma_min=0.02)
    return Prior(name, lambda n, g: prior.sample(n, generator=g), run, known, means.shape[1] - 1, noise_std)


def rows(n: int, g: torch.Generator) -> Tensor:
    """Noisy rows of t, t², cos 2t and sin 2t.  The cosine doesn't determine the sign of t."""
    t = torch.randn(n, generator=g)
    return torch.stack([t, t**2, (2 * t).cos(), (2 * t).sin()], 1) + 0.2 * torch.randn(n, 4, generator=g)


def learned(steps: int) -> Prior:
    """The same table, learned.  The cosine is measured, since a column with normal scores can't be."""
    run = ncsn.fit(rows(5000, torch.Generator().manual_seed(0)), steps=steps)
    return Prior("learned table", rows, run, [2], 0, 0.1)


class Ranks(NamedTuple):
    """The ranks of the hidden number, as they are and reversed by the sign of the measurement."""

    hidden: Tensor
    turned: Tensor


def ranks(prior: Prior, particles: int | None) -> tuple[Ranks, int]:
    """Rank each truth among its draws; also count the forward and backward passes per draw."""
    g = torch.Generator().manual_seed(1)
    known = prior.known
    truth = prior.sample(MEASUREMENTS, g)
    y = truth[:, known] + prior.noise_std * torch.randn(MEASUREMENTS, len(known), generator=g)
    repeated = y.repeat_interleave(DRAWS, 0)
    posterior = prior.run.posterior(lambda x: x[:, known], repeated, noise_std=prior.noise_std)
    steps = posterior.steps(len(repeated), seed=2, particles=particles, batch_size=20_000)
    *_, last = steps
    below = (last.x.view(MEASUREMENTS, DRAWS, -1) < truth[:, None]).sum(1)
    hidden = below[:, prior.hidden]
    turned = torch.where(y[:, 0] < 0, DRAWS - hidden, hidden)
    return Ranks(hidden, turned), steps.nfe + steps.backward


def p_value(rank: Tensor) -> str:
    """Test for uniform ranks: the p value of a chi-square test, in ten bins of two ranks."""
    return f"{scipy.stats.chisquare(torch.bincount(rank // 2, minlength=10).numpy()).pvalue:.2g}"


def coverage(rank: Tensor, first: int) -> str:
    """Fraction of truths in the central interval that starts at rank ``first``, with its standard error."""
    share = float(((rank >= first) & (rank <= DRAWS - first)).float().mean())
    return f"{share:.1%} ± {math.sqrt(share * (1 - share) / len(rank)):.1%}"


def main() -> None:
    """Print the table and plot histograms of the reversed ranks."""
    centres = 2 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    priors = [
        gaussian(),
        mixture("two modes", torch.tensor([[-5.0, -5.0], [5.0, 5.0]]), 1.0, [0], 3.0),
        learned(2000),
        mixture("20 components, 8-d", centres, 0.2, [0, 1, 2, 3], 1.0),
    ]
    _, axes = plt.subplots(len(METHODS), len(priors), figsize=(8, 3.2), sharey=True, layout="constrained")
    print(f"{MEASUREMENTS} measurements, {DRAWS} draws of each, on {torch.get_num_threads()} thread(s)\n")
    print("| prior | method | p | in 50 % | in 90 % | passes a draw | seconds |")
    print("|" + 7 * "---|")
    for column, prior in zip(axes.T, priors, strict=True):
        for axis, (method, particles) in zip(column, METHODS.items(), strict=True):
            start = time.monotonic()
            result, passes = ranks(prior, particles)
            shares = [coverage(result.hidden, first) for first in (5, 1)]
            p = p_value(result.turned)
            cells = [prior.name, method, p, *shares]
            print("|", " | ".join([*cells, f"{passes:,}", f"{time.monotonic() - start:.0f}"]), "|", flush=True)
            axis.hist(result.turned.tolist(), 10, range=(-0.5, DRAWS + 0.5), color="#d1495b")
            axis.axhline(MEASUREMENTS / 10, color="k", lw=1, ls=":")
            axis.set_title(f"{prior.name}\n{method}, p = {p}", fontsize=8)
            axis.set_xticks([0, DRAWS])
    plt.savefig(PICTURE, dpi=180)


if __name__ == "__main__":
    main()
