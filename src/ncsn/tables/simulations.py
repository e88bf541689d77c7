"""What a simulator's table needs: a known prior, several observations of one system, and how sharp posteriors are."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from ncsn.columns import Columns, Number, insert_rest, name_of, select
from ncsn.likelihood import log_prob
from ncsn.machine.hardware import threads_for, uncompiled
from ncsn.machine.messages import bar, log
from ncsn.run.run import UserData
from ncsn.score import Sigma, tweedie
from ncsn.tables.frames import frame_of
from ncsn.validation import one_line

if TYPE_CHECKING:
    from ncsn.tables.run import TableRun

Values: TypeAlias = Mapping[Any, object]
"""Values of some columns of a table, by the columns' labels."""
LogPrior: TypeAlias = Callable[[Shaped[Tensor, "b d"]], Float64[Tensor, "b"]]
"""The log density of the prior at rows in the user's units, up to a constant."""
ROWS_AT_ONCE = 2048  # whose densities are computed together
ROUNDS, PARTICLES, LAST = 10, 400, 2000  # the most rounds; particles of each but the last, and of the last
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


def log_prior_of(columns: Columns, prior: object) -> LogPrior:
    """The log prior of rows; see ``TableRun.with_prior``."""
    if callable(prior):

        def log_density(x: Shaped[Tensor, "b d"]) -> Float64[Tensor, "b"]:
            values = prior(frame_of(columns, x.double().numpy()) if columns.fields else x)
            found = torch.as_tensor(np.asarray(values, np.float64))
            if found.shape != (len(x),) or not bool((found < math.inf).all()):
                raise ValueError(f"prior returned {one_line(values)}; expected one number for each of {len(x):,} rows")
            return found

        return log_density
    if not isinstance(prior, Mapping) or not prior:
        raise ValueError(
            f"prior is {one_line(repr(prior))}; expected bounds, such as {{'theta': (0, 10)}}, or a function of rows"
        )
    low, high = (torch.full((len(columns.names),), end).double() for end in (-math.inf, math.inf))
    numbers = {column.name: i for i, column in enumerate(columns.columns) if not (column.categories or column.date)}
    for label, ends in prior.items():
        if (i := numbers.get(name_of(label))) is None:
            raise ValueError(f"prior names {name_of(label)}; the run's columns of numbers are {', '.join(numbers)}")
        with suppress(TypeError, ValueError):  # what isn't two numbers
            low[i], high[i] = map(float, ends if np.shape(ends) == (2,) else ())
            if low[i] < high[i]:
                continue
        raise ValueError(f"prior has {one_line(repr(ends))} for {name_of(label)}; expected a lower and an upper bound")
    return Box(low, high)


def places_of(columns: Columns, chosen: Bool[Tensor, "d"]) -> Int64[Tensor, "p"] | None:
    """The model's numbers that some columns consist of; None if these can have values that aren't on a line."""
    some = [column for column, one in zip(columns.columns, chosen.tolist(), strict=True) if one]
    if not all(isinstance(column, Number) and not column.codes for column in some):
        return None
    return torch.tensor([place for place, i in enumerate(columns.numbers) if chosen[i]], dtype=torch.long)


def log_densities_of(
    run: "TableRun", z: Float[Tensor, "b e"], places: Int64[Tensor, "p"], *, tolerance: float, probes: int | None = None
) -> Float64[Tensor, "b"]:
    """Log densities of the numbers at ``places`` given all else in each row that isn't NaN, in the model's units."""
    model, sampling, generator = run.conditionals, run.recipe.sampling, torch.Generator(z.device).manual_seed(0)
    ends = {"sigma_max": sampling.sigma_max, "sigma_min": sampling.sigma_min}
    target, found = torch.zeros_like(z[0, : model.d]).index_fill(0, places, 1.0).bool(), list[Tensor]()
    for part in bar(torch.split(z, ROWS_AT_ONCE), "densities"):
        known = model.condition(model.given(part.index_fill(1, places, torch.nan), target.expand(len(part), -1)))
        numbers = part[:, : model.d].nan_to_num()

        def score(x: Float[Tensor, "b p"], sigma: Sigma, /) -> Float[Tensor, "b p"]:
            return model.numbers(numbers.index_copy(1, places, x), sigma, known)[:, places]  # noqa: B023

        with uncompiled(), threads_for(model):
            with torch.no_grad():
                mean = tweedie(score, model.mean[places].expand(len(part), -1), sampling.sigma_max)
            how = {"mean": mean, "probes": probes, "tolerance": tolerance, "generator": generator}
            found.append(log_prob(score, part[:, places], **ends, **how).log_prob)  # type: ignore[arg-type]
    return torch.cat(found)


def draw_together(run: "TableRun", given: Sequence[Values], n: int, generator: torch.Generator) -> UserData:
    r"""Draws of p(θ | x₁, …, x_m) from the conditionals of single observations and the prior.

    Its density is, up to a constant, :math:`p(θ)^{1-m} \prod_i p(θ | x_i)`.  The first particles come from these
    conditionals.  In each round, more are drawn from a kernel density estimate of the previous ones, weighted by a
    power of the target over this proposal (population Monte Carlo, Cappé et al. 2004).  The power grows to 1.
    """
    from scipy.stats import gaussian_kde

    columns, prior, m = run.columns, run.log_prior, len(given)
    if prior is None:
        raise ValueError(f"given has {m} observations of the same parameters; for these, the run needs with_prior(…)")
    x = torch.cat([run.given_cells(each) for each in given])
    hidden = x[0].isnan()
    if (places := places_of(columns, hidden)) is None:
        raise ValueError("parameters with categories, few or missing values can be drawn given one observation only")
    if isinstance(prior, Box) and bool((hidden & (prior.high - prior.low).isinf()).any()):
        raise ValueError("given has several observations; for these, the prior needs bounds of every parameter")
    parameters = run.settings.get("hidden")
    if parameters and (missing := [name for name in select(columns, hidden).names if name not in parameters]):
        listed = f"{one_line(', '.join(missing))}, and parameters are only {one_line(', '.join(parameters))}"
        raise ValueError(f"given has several observations without {listed}; each needs all other columns")
    inner, z, at = select(columns, hidden), columns.forward(x).float().to(run.device), places.to(run.device)

    def densities(theta: Float64[Tensor, "k p"]) -> tuple[Float64[Tensor, "k m"], Float64[Tensor, "k"]]:
        """Those of each observation's posterior at some parameters, and that of all observations together."""
        user, rows = inner.restore(theta), z.repeat(len(theta), 1)
        log_prior = prior(insert_rest(x[:1], user)) - inner.log_abs_det_jacobian(user)
        rows[:, at] = theta.to(z).repeat_interleave(m, 0)
        each = log_densities_of(run, rows, at, tolerance=1e-3).view(-1, m)
        return each, torch.where(log_prior > -math.inf, each.sum(1) - (m - 1) * log_prior, -math.inf)

    random = np.random.default_rng(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
    theta = run.draw_cells(z, -(-PARTICLES // m), generator)[0][..., at].flatten(0, 1).cpu().double()
    each, target = densities(theta)
    log_weights = target - each.logsumexp(1)
    for left in reversed(range(ROUNDS)):
        ready = left == 0 or effective(log_weights) > READY * len(theta)
        kernel = gaussian_kde(theta.T.numpy(), weights=tempered(log_weights).numpy())
        theta = torch.from_numpy(kernel.resample(LAST if ready else PARTICLES, seed=random).T.copy())
        log_weights = densities(theta)[1] - torch.from_numpy(kernel.logpdf(theta.T.numpy()))
        if ready:
            break
    if not (count := effective(log_weights)) >= LEAST_EFFECTIVE:
        found = f"only {count:.0f} of {len(theta):,} particles are effective"
        raise ValueError(f"{found}; the observations contradict each other, or there are too many parameters")
    log.info(f"{m} observations: an effective sample size of {count:,.0f}, from {len(theta):,} particles")
    chosen = inner.inverse(theta[random.choice(len(theta), n, p=log_weights.softmax(0).numpy())])
    return frame_of(inner, chosen.double().numpy()) if columns.fields else chosen


def effective(log_weights: Float64[Tensor, "k"]) -> float:
    """The effective sample size of weighted particles."""
    return float(1 / log_weights.softmax(0).square().sum())


def tempered(log_weights: Float64[Tensor, "k"]) -> Float64[Tensor, "k"]:
    """Weights to the power 1, ½, ¼, …: the largest for which a tenth of the particles is effective."""
    powers = [log_weights / 2**halvings for halvings in range(20)]
    chosen: Tensor = next((each for each in powers if effective(each) >= len(each) / 10), powers[-1])
    return chosen.softmax(0)


def warn_if_unlike(run: "TableRun", given: Sequence[Values]) -> None:
    """Warn of observations that are less likely than all of a hundred samples of the run, by far.

    The gap to the lowest log density of these is larger than the gap between the lowest and their mean.
    """
    columns, simulated = run.columns, run.steps(REFERENCE, seed=0).final()
    z = columns.forward(torch.cat([run.given_cells(each) for each in given])).to(simulated)
    places = (~z[0, : len(columns.numbers)].isnan()).nonzero()[:, 0]
    simulated = simulated[~simulated[:, places].isnan().any(1)]
    rows = torch.full((len(z) + len(simulated), z.shape[1]), torch.nan).to(z)
    rows[:, places] = torch.cat([z, simulated])[:, places]
    if not len(places) or not len(simulated):
        return
    found = log_densities_of(run, rows, places, tolerance=1e-2, probes=None if len(places) <= 4 else 4)
    observed, usual = found[: len(z)], found[len(z) :]
    for row in (observed < 2 * usual.min() - usual.mean()).nonzero()[:, 0].tolist():
        gap = f"{usual.min() - observed[row]:.0f} nats below the lowest of {len(usual)} samples"
        log.warning(f"observation {row + 1} is unlike all simulations ({gap}), so its posterior is a guess")


def describe_sharpness(run: "TableRun", x: Float[Tensor, "n d"], hidden: Bool[Tensor, "d"]) -> str:
    """The log density of what is hidden given the rest, next to that of the Gaussian that training starts from."""
    columns = run.columns
    rows = x[~x[:, hidden].isnan().any(1) & columns.possible(x).all(1)].double()
    if (places := places_of(columns, hidden)) is None or not len(rows):
        return ""
    start = copy.deepcopy(run.conditionals)
    for weight in start.network.parameters():
        weight.data.zero_()
    z = columns.forward(rows).float().to(run.device)
    volume = select(columns, hidden).log_abs_det_jacobian(rows[:, hidden])
    found = [
        log_densities_of(each, z, places.to(z.device), tolerance=1e-3) for each in (run, replace(run, score=start))
    ]
    ours, gaussian = (float((each + volume).mean()) for each in found)
    return f"held-out log density of what was hidden: {ours:.2f} nats; the best Gaussian has {gaussian:.2f}"
