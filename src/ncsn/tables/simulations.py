"""What a simulator's table needs: a known prior, and several observations of one system."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from ncsn.data.columns import Columns, insert_rest, name_of, select
from ncsn.likelihood import LogDensities
from ncsn.machine.messages import log
from ncsn.run.run import SeededOptions, UserData, generator_of, require_prior
from ncsn.tables.frames import frame_of
from ncsn.tables.run import TableRun, Values, places_of
from ncsn.validation import one_line, refuse_options, whole

LogPrior: TypeAlias = Callable[[Shaped[Tensor, "b d"]], Float64[Tensor, "b"]]
"""The log density of the prior at rows in the user's units, up to a constant."""
ALLOWED, TRIED = 2000, 2000  # draws that estimate the share that the prior allows; the most in vain
# The most rounds of draws that the prior may reject, and the fewest draws of a round.
REJECTIONS, LEAST_DRAWN = 300, 256
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


@dataclass(frozen=True, kw_only=True)
class SimulatorRun(TableRun):
    """The run of a simulator's table that knows the prior of its parameters, see ``with_prior``.

    ``log_prior``: the log density of the prior; it isn't saved.
    """

    log_prior: LogPrior

    def sample(
        self, n: int = 1, *, given: Values | None = None, complete: bool = False, **options: Unpack[SeededOptions]
    ) -> UserData:
        """As ``TableRun.sample``, where the prior is positive; says if an observation is unlike all simulations.

        ``given``: each value can be a list with an element for each of m independent observations of the same
        parameters.  Then the parameters are drawn from their posterior given all observations,
        p(θ)^(1 − m) ∏ p(θ | xᵢ), by resampling weighted particles, and only these columns are returned.  Each
        observation needs a value of every other column.
        Raises ValueError also if a parameter is a category or may be missing, and if the particles' effective sample
        size is below 100.
        """
        if given is not None:
            observed = observations(given)
            self._warn_if_unlike(observed)
            if len(observed) > 1:
                refuse_options("sample with several observations", options.keys() - {"seed"})
                generator = generator_of(options.get("seed", 0), self.device)
                return self._draw_together(observed, whole("n", n, 1), generator)
        return super().sample(n, given=given, complete=complete, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """As ``Run.save``, without the prior."""
        log.info("the prior is not saved: call with_prior again after ncsn.load")
        super().save(folder, overwrite=overwrite)

    def log_densities(self, x: Shaped[Tensor, "b d"], **options: Any) -> Iterator[LogDensities]:
        """As ``Run.log_densities``, normalised where the prior is positive."""
        share, done = self._allows(self.steps(ALLOWED, seed=0).final()).double().mean(), 0
        if not share:
            raise ValueError(f"none of {ALLOWED:,} draws is where the prior is positive, so the density is unknown")
        for part in super().log_densities(x, **options):
            rows = x[done : (done := done + len(part.log_prob))]
            found = torch.where(self.log_prior(rows) > -math.inf, part.log_prob - share.log(), -math.inf)
            yield replace(part, log_prob=found)

    def _allows(self, z: Float[Tensor, "b e"]) -> Bool[Tensor, "b"]:
        """Where the prior is positive; ``z``: in the score's units."""
        # ``inverse`` would move draws into the range of training.
        return self.log_prior(self._with_known(self.transform.restore(z).cpu())) > -math.inf

    def _draw(self, n: int, options: SeededOptions) -> Shaped[Tensor, "n d"]:
        """``n`` samples in the user's units, where the prior is positive."""
        own: SeededOptions = {**options, "seed": generator_of(options.get("seed", 0), self.device)}
        z = self._draw_allowed(n, lambda places: self.steps(len(places), **own).final())
        return self._with_known(self.transform.inverse(z))

    def _draw_cells(self, z: Float[Tensor, "b e"], n: int, generator: torch.Generator) -> Float[Tensor, "n b e"]:
        """Draws where the prior is positive."""
        rows = z.repeat_interleave(n, 0)
        drawn = self._draw_allowed(len(rows), lambda places: self._fill(rows[places], generator))
        return drawn.view(len(z), n, -1).transpose(0, 1)

    def _draw_allowed(self, n: int, draw: Callable[[Int64[Tensor, "m"]], Float[Tensor, "m e"]]) -> Float[Tensor, "n e"]:
        """Draws in the score's units for ``n`` places, each repeated until the prior allows it.

        Raises ValueError if the prior allows none of 2,000 draws, or none for one of the places.
        """
        drawn = draw(torch.arange(n))
        tried, passed, rounds = n, int(self._allows(drawn).sum()), 0
        while len(left := (~self._allows(drawn)).nonzero()[:, 0]):
            if rounds == REJECTIONS or (not passed and tried >= TRIED):
                found = f"{passed:,} of {tried:,} draws are where the prior is positive"
                raise ValueError(f"{found}: is it the prior of the simulations, and the observation like them?")
            repeats = max(n, LEAST_DRAWN) // len(left)
            more = draw(left.repeat(repeats))
            good = self._allows(more).view(repeats, -1)
            drawn[left] = more.view(repeats, len(left), *more.shape[1:])[good.byte().argmax(0), torch.arange(len(left))]
            tried, passed, rounds = tried + good.numel(), passed + int(good.sum()), rounds + 1
        if passed < tried:
            log.info(f"{passed / tried:.1%} of the draws are where the prior is positive; the others were drawn again")
        return drawn

    def _warn_if_unlike(self, given: Sequence[Values]) -> None:
        """Warn of observations that are less likely than all of a hundred samples of the run, by far.

        The gap to the lowest log density of these is larger than the gap between the lowest and their mean.
        """
        columns, simulated = self.columns, self.steps(REFERENCE, seed=0).final()
        z = columns.forward(torch.cat([self._given_cells(each) for each in given])).to(simulated)
        places = (~z[0, : len(columns.numbers)].isnan()).nonzero()[:, 0]
        simulated = simulated[~simulated[:, places].isnan().any(1)]
        rows = torch.full((len(z) + len(simulated), z.shape[1]), torch.nan).to(z)
        rows[:, places] = torch.cat([z, simulated])[:, places]
        if not len(places) or not len(simulated):
            return
        found = self._densities_of(rows, places, tolerance=1e-2, probes=None if len(places) <= 4 else 4)
        observed, usual = found[: len(z)], found[len(z) :]
        for row in (observed < 2 * usual.min() - usual.mean()).nonzero()[:, 0].tolist():
            gap = f"{usual.min() - observed[row]:.0f} nats below the lowest of {len(usual)} samples"
            log.warning(f"observation {row + 1} is unlike all simulations ({gap}), so its posterior is a guess")

    def _draw_together(self, given: Sequence[Values], n: int, generator: torch.Generator) -> UserData:
        r"""Draws of p(θ | x₁, …, x_m) from the conditionals of single observations and the prior.

        Its density is, up to a constant, :math:`p(θ)^{1-m} \prod_i p(θ | x_i)`.  The first particles come from these
        conditionals.  In each round, more are drawn from a kernel density estimate of the previous ones, weighted by a
        power of the target over this proposal (population Monte Carlo, Cappé et al. 2004).  The power grows to 1.
        """
        from scipy.stats import gaussian_kde

        columns, prior, m = self.columns, self.log_prior, len(given)
        x = torch.cat([self._given_cells(each) for each in given])
        hidden = x[0].isnan()
        if (places := places_of(columns, hidden)) is None:
            raise ValueError(
                "parameters with categories, few or missing values can be drawn given one observation only"
            )
        if isinstance(prior, Box) and bool((hidden & (prior.high - prior.low).isinf()).any()):
            raise ValueError("given has several observations; for these, the prior needs bounds of every parameter")
        parameters = self.settings.get("hidden")
        if parameters and (missing := [name for name in select(columns, hidden).names if name not in parameters]):
            listed = f"{one_line(', '.join(missing))}, and parameters are only {one_line(', '.join(parameters))}"
            raise ValueError(f"given has several observations without {listed}; each needs all other columns")
        inner, z, at = select(columns, hidden), columns.forward(x).float().to(self.device), places.to(self.device)

        def densities(theta: Float64[Tensor, "k p"]) -> tuple[Float64[Tensor, "k m"], Float64[Tensor, "k"]]:
            """Those of each observation's posterior at some parameters, and that of all observations together."""
            user, rows = inner.restore(theta), z.repeat(len(theta), 1)
            log_prior = prior(insert_rest(x[:1], user)) - inner.log_abs_det_jacobian(user)
            rows[:, at] = theta.to(z).repeat_interleave(m, 0)
            each = self._densities_of(rows, at, tolerance=1e-3).view(-1, m)
            return each, torch.where(log_prior > -math.inf, each.sum(1) - (m - 1) * log_prior, -math.inf)

        random = np.random.default_rng(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
        theta = self._draw_cells(z, -(-PARTICLES // m), generator)[..., at].flatten(0, 1).cpu().double()
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


def with_prior(run: TableRun, prior: Mapping[Any, Sequence[float]] | Callable[[UserData], object]) -> SimulatorRun:
    """The run of a simulator's table that knows the prior of its parameters.

    ``sample``, ``impute`` and ``calibrate`` reject draws where the prior is zero, and print the share that was
    accepted; ``log_prob`` is normalised accordingly.  ``sample`` then also takes several observations of the same
    parameters, and says if an observation is unlike all simulations.  ``steps`` and ``blocks`` ignore the prior.

    ``prior``: lower and upper bounds of columns with a uniform prior, such as ``{"theta": (0, 10)}``; or a function
    of rows like those of ``sample`` that returns their log densities, (n,), up to a constant, and −∞ where the
    prior is zero.  It must be the prior that the table's parameters were drawn from.
    Raises ValueError for unknown columns, for bounds that don't ascend, and unless ``fit`` trained the run on a
    table.
    """
    require_prior(run, "given a prior")
    if not isinstance(run, TableRun):
        raise ValueError(f"the run generates {run.examples.noun}; only the table of a simulator has a prior")
    assert run.conditionals
    return SimulatorRun(**{**vars(run), "log_prior": log_prior_of(run.columns, prior)})


def observations(given: Values) -> list[Values]:
    """The single observation that ``SimulatorRun.sample`` is given, or several from columns that are lists."""
    columns = {name: np.asarray(each) for name, each in given.items()} if isinstance(given, Mapping) else {}
    if not any(each.ndim for each in columns.values()):
        return [given]
    if len(shapes := {each.shape for each in columns.values()}) > 1 or next(iter(shapes)) == (0,):
        sizes = ", ".join(f"{name} ({each.size if each.ndim else 'one value'})" for name, each in columns.items())
        raise ValueError(f"given has {sizes}; expected one value of each, or lists of the same length")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def effective(log_weights: Float64[Tensor, "k"]) -> float:
    """The effective sample size of weighted particles."""
    return float(1 / log_weights.softmax(0).square().sum())


def tempered(log_weights: Float64[Tensor, "k"]) -> Float64[Tensor, "k"]:
    """Weights to the power 1, ½, ¼, …: the largest for which a tenth of the particles is effective."""
    powers = [log_weights / 2**halvings for halvings in range(20)]
    chosen: Tensor = next((each for each in powers if effective(each) >= len(each) / 10), powers[-1])
    return chosen.softmax(0)
