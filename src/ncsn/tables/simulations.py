"""What a simulator's table needs: a known prior, several observations of one system, and how sharp posteriors are."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from ncsn.data import LogPrior, UserData, Values
from ncsn.likelihood import log_prob
from ncsn.machine.hardware import threads_for, uncompiled
from ncsn.machine.messages import bar, log
from ncsn.run.run import Run
from ncsn.score import Sigma, tweedie
from ncsn.tables.columns import Columns, Number, columns_of, name_of
from ncsn.tables.frames import frame_of
from ncsn.tables.impute import conditional_model, draw_rows, given_cells, insert_rest, select
from ncsn.tables.model import ConditionalModel
from ncsn.validation import one_line

if TYPE_CHECKING:
    from scipy.stats._multivariate import multivariate_t_frozen

ROWS_AT_ONCE = 2048  # whose densities are computed together
SINGLE = 200  # draws given each observation, from which the search for their common posterior starts
ROUNDS, PARTICLES, LAST = 6, 400, 2000  # the most rounds; particles of each but the last, and of the last
READY = 0.25  # share of particles that must be effective before the last round
LEAST_EFFECTIVE = 100  # particles
REFERENCE = 100  # simulations that an observation is compared with


@dataclass(frozen=True)
class Box:
    """The log density, up to a constant, of a prior that is uniform between bounds of the user's columns, (d,)."""

    low: Float64[Tensor, "d"]
    high: Float64[Tensor, "d"]

    def __call__(self, x: Shaped[Tensor, "b d"]) -> Float64[Tensor, "b"]:
        """0 inside and −∞ outside; what is missing is inside."""
        return torch.where(((x < self.low) | (x > self.high)).any(1), -math.inf, 0.0).double()


def log_prior_of(run: Run, prior: object) -> LogPrior:
    """The log prior of rows; see ``Run.with_prior``."""
    conditional_model(run)
    columns = columns_of(run.transform, run.recipe.shape[0])
    if callable(prior):

        def log_density(x: Shaped[Tensor, "b d"]) -> Float64[Tensor, "b"]:
            values = prior(frame_of(columns, x.double().numpy()) if columns.fields else x)
            found = torch.as_tensor(np.asarray(values, np.float64))
            if found.shape != (len(x),) or bool(found.isnan().any()):
                shape = f"shape {tuple(found.shape)}{' and NaN' if bool(found.isnan().any()) else ''}"
                raise ValueError(f"prior returned {shape}; expected one for each of {len(x):,} rows")
            return found

        return log_density
    if not isinstance(prior, Mapping) or not prior:
        raise ValueError(f"prior is {prior!r}; expected bounds, such as {{'theta': (0, 10)}}, or a function of rows")
    low, high = (torch.full((len(columns.names),), end).double() for end in (-math.inf, math.inf))
    for label, ends in prior.items():
        if (name := name_of(label)) not in columns.names:
            raise ValueError(f"prior names {name}, but the run has {one_line(', '.join(columns.names))}")
        if np.shape(ends) != (2,) or not float(ends[0]) < float(ends[1]):
            raise ValueError(f"prior has {ends!r} for {name}; expected a lower and an upper bound, such as (0, 10)")
        i = columns.names.index(name)
        if columns.columns[i].categories or columns.columns[i].date:
            raise ValueError(f"prior names {name}, which isn't a column of numbers; pass a function of rows")
        low[i], high[i] = map(float, ends)
    return Box(low, high)


def log_densities_of(
    run: Run, z: Float[Tensor, "b e"], places: Int64[Tensor, "p"], *, tolerance: float, probes: int | None = None
) -> Float64[Tensor, "b"]:
    """Log densities of the numbers at ``places`` given all else in each row that isn't NaN, in the model's units."""
    model, sampling, generator = conditional_model(run), run.recipe.sampling, torch.Generator(z.device).manual_seed(0)
    wanted, found = torch.zeros(model.d, dtype=torch.bool, device=z.device), list[Tensor]()
    wanted[places] = True
    with uncompiled(), threads_for(model):
        for part in bar(torch.split(z, ROWS_AT_ONCE), "densities"):
            targets = wanted.expand(len(part), -1)
            known = model.condition(model.given(part.index_fill(1, places, torch.nan), targets))
            numbers = part[:, : model.d].nan_to_num()

            def score(x: Float[Tensor, "b p"], sigma: Sigma, /) -> Float[Tensor, "b p"]:
                return model.numbers(numbers.index_copy(1, places, x), sigma, known)[:, places]  # noqa: B023

            with torch.no_grad():
                mean = tweedie(score, model.mean[places].expand(len(part), -1), sampling.sigma_max)
            ends = {"sigma_max": sampling.sigma_max, "sigma_min": sampling.sigma_min, "mean": mean}
            solved = log_prob(score, part[:, places], **ends, probes=probes, tolerance=tolerance, generator=generator)
            found.append(solved.log_prob)
    return torch.cat(found)


def places_of(columns: Columns, chosen: Bool[Tensor, "d"]) -> Int64[Tensor, "p"] | None:
    """The model's numbers that some columns consist of; None if these can have values that aren't on a line."""
    some = [column for column, one in zip(columns.columns, chosen.tolist(), strict=True) if one]
    if not all(isinstance(column, Number) and not column.codes for column in some):
        return None
    return torch.tensor([place for place, i in enumerate(columns.numbers) if chosen[i]], dtype=torch.long)


def draw_together(run: Run, given: Sequence[Values], n: int, generator: torch.Generator) -> UserData:
    r"""Draws of p(θ | x₁, …, x_m) from the conditionals of single observations and the prior.

    Its density is, up to a constant, :math:`p(θ)^{1-m} \prod_i p(θ | x_i)`.  The first particles come from the product
    of Gaussians with the conditionals' moments, and from the conditionals themselves; in each round, more are drawn
    from a kernel density estimate of the previous ones, weighted by a power of the target over this proposal
    (population Monte Carlo, Cappé et al. 2004).  The power grows to 1.
    """
    from scipy import stats

    columns, m = columns_of(run.transform, run.recipe.shape[0]), len(given)
    x = torch.cat([given_cells(run, each) for each in given])
    hidden = x[0].isnan()
    inner, prior = select(columns, hidden), run.log_prior
    if prior is None:
        raise ValueError(f"given has {m} rows: several observations of the same parameters need a run.with_prior(…)")
    if (places := places_of(columns, hidden)) is None:
        raise ValueError("parameters with categories, few or missing values can be drawn given one observation only")
    if isinstance(prior, Box) and bool((hidden & (prior.high - prior.low).isinf()).any()):
        raise ValueError(f"several observations need the prior of every parameter: {', '.join(inner.names)}")
    z = columns.forward(x).float().to(run.device)
    places = places.to(z.device)

    def log_target(theta: Float64[Tensor, "k p"]) -> tuple[Float64[Tensor, "k"], Float64[Tensor, "k m"]]:
        """The log density of all observations' posterior, and those of each, at some parameters."""
        user = inner.restore(theta)
        log_prior = prior(insert_rest(x[:1], user)) - inner.log_abs_det_jacobian(user)
        rows = z.repeat(len(theta), 1)
        rows[:, places] = theta.to(z).repeat_interleave(m, 0)
        each = log_densities_of(run, rows, places, tolerance=1e-3).view(-1, m)
        return torch.where(log_prior > -math.inf, each.sum(1) - (m - 1) * log_prior, -math.inf), each

    random = np.random.default_rng(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
    singles = draw_rows(run, z, SINGLE, generator)[0][..., places].cpu().double()
    start = product_of_gaussians(conditional_model(run), singles, places)
    theta = torch.cat(
        [
            torch.from_numpy(start.rvs(PARTICLES // 2, random_state=random)).view(-1, len(places)),
            singles.flatten(0, 1)[torch.from_numpy(random.choice(SINGLE * m, PARTICLES // 2))],
        ]
    )
    target, each = log_target(theta)
    proposal = torch.logaddexp(
        torch.from_numpy(np.atleast_1d(start.logpdf(theta.numpy()))), each.logsumexp(1) - math.log(m)
    )
    for left in reversed(range(ROUNDS)):
        ready = left == 0 or effective(target - proposal) > READY * len(theta)
        kernel = stats.gaussian_kde(theta.T.numpy(), weights=tempered(target - proposal).numpy())
        theta = torch.from_numpy(kernel.resample(LAST if ready else PARTICLES, seed=random).T.copy())
        proposal = torch.from_numpy(kernel.logpdf(theta.T.numpy()))
        target, _ = log_target(theta)
        if ready:
            break
    count = effective(target - proposal)
    if not count >= LEAST_EFFECTIVE:
        found = f"only {count:.0f} of {len(theta):,} particles are effective"
        raise ValueError(f"{found}; the observations contradict each other, or there are too many parameters")
    log.info(f"{m} observations: an effective sample size of {count:,.0f}, from {len(theta):,} particles")
    chosen = inner.inverse(
        theta[torch.from_numpy(random.choice(len(theta), n, p=(target - proposal).softmax(0).numpy()))]
    )
    return frame_of(inner, chosen.double().numpy()) if columns.fields else chosen


def effective(log_weights: Float64[Tensor, "k"]) -> float:
    """The effective sample size of weighted particles."""
    return float(1 / log_weights.softmax(0).square().sum())


def tempered(log_weights: Float64[Tensor, "k"]) -> Float64[Tensor, "k"]:
    """Weights to the power 1, ½, ¼, …: the largest for which a tenth of the particles is effective."""
    powers = [log_weights / 2**halvings for halvings in range(20)]
    return next((each for each in powers if effective(each) >= len(each) / 10), powers[-1]).softmax(0)


def product_of_gaussians(
    model: ConditionalModel, draws: Float64[Tensor, "k m p"], places: Int64[Tensor, "p"]
) -> "multivariate_t_frozen":
    """A t distribution around the product of Gaussians, one for each of m conditionals, divided by the prior's.

    ``draws``: of each conditional.
    """
    from scipy.stats import multivariate_t

    mean, covariance = (part.cpu().double() for part in (model.mean[places], model.covariance[places][:, places]))
    root, own = torch.linalg.cholesky(covariance), torch.eye(len(places), dtype=torch.float64)
    white = torch.linalg.solve_triangular(root, (draws - mean).flatten(0, 1).T, upper=False).T.view(draws.shape)
    centred = white - white.mean(0)
    precisions, axes = torch.linalg.eigh(torch.linalg.inv(torch.einsum("kmp,kmq->mpq", centred, centred) / len(draws)))
    each = axes @ torch.diag_embed(precisions.clamp(min=1.0)) @ axes.mT  # none is wider than the prior
    total = torch.linalg.inv(each.sum(0) - (len(each) - 1) * own)
    middle = mean + root @ total @ (each @ white.mean(0)[..., None]).sum(0)[:, 0]
    return multivariate_t(middle.numpy(), (2 * root @ total @ root.T).numpy(), df=5)


def warn_if_unlike(run: Run, given: Sequence[Values]) -> None:
    """Say which observations have a density far below that of all of a hundred samples of the run.

    That is lower than their lowest by more than this is below their mean.
    """
    columns = columns_of(run.transform, run.recipe.shape[0])
    z = columns.forward(torch.cat([given_cells(run, each) for each in given])).float().to(run.device)
    places = (~z[0, : len(columns.numbers)].isnan()).nonzero()[:, 0]
    simulated = run.steps(REFERENCE, seed=0).final()
    simulated = simulated[~simulated[:, places].isnan().any(1)]
    rows = torch.full((len(z) + len(simulated), z.shape[1]), torch.nan, device=z.device)
    rows[:, places] = torch.cat([z[:, places], simulated[:, places]])
    if not len(places) or not len(simulated):
        return
    probes = None if len(places) <= 4 else 4
    observed, usual = log_densities_of(run, rows, places, tolerance=1e-2, probes=probes).split([len(z), len(simulated)])
    lowest = usual.min()
    for row in (observed < 2 * lowest - usual.mean()).nonzero()[:, 0].tolist():
        place = f" {row + 1}" if len(z) > 1 else ""
        facts = f"its log density is {lowest - observed[row]:.0f} nats below the lowest of {len(usual)} simulations"
        log.warning(f"observation{place} is unlike all simulations: {facts}, so its posterior is a guess")


def describe_sharpness(run: Run, x: Float[Tensor, "n d"], hidden: Bool[Tensor, "d"]) -> str:
    """The log density of what is hidden given the rest, next to that of the Gaussian that training starts from."""
    columns = columns_of(run.transform, x.shape[1])
    rows = x[~x[:, hidden].isnan().any(1)].double()
    rows = rows[columns.possible(rows).all(1)]
    if (places := places_of(columns, hidden)) is None or not len(rows):
        return ""
    start = copy.deepcopy(conditional_model(run))
    for weight in start.network.parameters():
        weight.data.zero_()
    z, volume = (
        columns.forward(rows).float().to(run.device),
        select(columns, hidden).log_abs_det_jacobian(rows[:, hidden]),
    )
    densities = [
        float((log_densities_of(each, z, places.to(z.device), tolerance=1e-3) + volume).mean())
        for each in (run, replace(run, score=start))
    ]
    return "held-out log density of what was hidden: {:.2f} nats; the best Gaussian has {:.2f}".format(*densities)
