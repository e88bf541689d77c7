"""What a simulator's table needs: a known prior, and several observations of one system."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor
from typing_extensions import Unpack

from ncsn.data.columns import Columns, insert_rest, name_of, select
from ncsn.machine.messages import log
from ncsn.run.options import SeededOptions, UserData
from ncsn.run.run import Run
from ncsn.run.steps import generator_of
from ncsn.tables.frames import frame_of
from ncsn.tables.restricted import RestrictedRun
from ncsn.tables.run import TableRun, Values, places_of
from ncsn.validation import check_type, one_line, refuse_options, whole

LogPrior: TypeAlias = Callable[[Shaped[Tensor, "b d"]], Float64[Tensor, "b"]]
"""The log density of the prior at rows in the user's units, up to a constant."""
MAX_ROUNDS = 10  # of population Monte Carlo
PARTICLES, LAST_PARTICLES = 400, 2000  # of each round but the last, and of the last
READY = 0.25  # share of particles that must be effective before the last round
MIN_EFFECTIVE = 100  # particles
REFERENCES = 100  # simulations that an observation is compared with


@dataclass(frozen=True)
class Box:
    """The log density, up to a constant, of a prior that is uniform between bounds of the user's columns, (d,)."""

    low: Float64[Tensor, "d"]
    high: Float64[Tensor, "d"]

    def __call__(self, x: Shaped[Tensor, "b d"]) -> Float64[Tensor, "b"]:
        """0 for rows within the bounds and −∞ for others; missing values count as within, (b,)."""
        return torch.where(((x < self.low) | (x > self.high)).any(1), -math.inf, 0.0).double()


def log_prior_of(columns: Columns, prior: object) -> LogPrior:
    """The log density of a user's prior; ``prior`` and errors as for ``with_prior``."""
    if callable(prior):

        def log_density(x: Shaped[Tensor, "b d"]) -> Float64[Tensor, "b"]:
            returned = prior(frame_of(columns, x.double().numpy()) if columns.fields else x)
            log_densities = torch.as_tensor(np.asarray(returned, np.float64))
            if log_densities.shape != (len(x),) or not bool((log_densities < math.inf).all()):
                rows = f"{len(x):,} rows"
                raise ValueError(f"prior returned {one_line(returned)}; expected one number for each of {rows}")
            return log_densities

        return log_density
    if not isinstance(prior, Mapping) or not prior:
        raise ValueError(
            f"prior is {one_line(repr(prior))}; expected bounds, such as {{'theta': (0, 10)}}, or a function of rows"
        )
    low, high = (torch.full((len(columns.names),), bound).double() for bound in (-math.inf, math.inf))
    numbers = {column.name: i for i, column in enumerate(columns.columns) if not (column.categories or column.date)}
    for label, bounds in prior.items():
        name = name_of(label)
        if (i := numbers.get(name)) is None:
            raise ValueError(f"prior names {name}; the run's columns of numbers are {', '.join(numbers)}")
        with suppress(TypeError, ValueError):  # of what isn't two numbers
            low[i], high[i] = map(float, bounds if np.shape(bounds) == (2,) else ())
            if low[i] < high[i]:
                continue
        raise ValueError(f"prior has {one_line(repr(bounds))} for {name}; expected a lower and an upper bound")
    return Box(low, high)


@dataclass(frozen=True, kw_only=True, repr=False)
class SimulatorRun(RestrictedRun):
    """The run of a simulator's table that knows the prior of its parameters, see ``with_prior``.

    ``log_prior``: the log density of the prior; it isn't saved.
    """

    log_prior: LogPrior

    restriction = "are where the prior is positive"
    advice = "is it the prior of the simulations, and the observation like them?"

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
            observed = split_observations(given)
            self._warn_if_unlike(observed)
            if len(observed) > 1:
                refuse_options("sample with several observations", options.keys() - {"seed"})
                generator = generator_of(options.get("seed", 0), self.device)
                return self._draw_together(observed, whole("n", n, 1), generator)
            given = observed[0]
        return super().sample(n, given=given, complete=complete, **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """As ``Run.save``, without the prior."""
        log.info("the prior is not saved: call with_prior again after ncsn.load")
        super().save(folder, overwrite=overwrite)

    def _allows(self, x: Shaped[Tensor, "b d"]) -> Bool[Tensor, "b"]:
        return self.log_prior(x) > -math.inf

    def _users_rows(self, z: Float[Tensor, "b e"]) -> Shaped[Tensor, "b d"]:
        return self.transform.restore(z)  # ``inverse`` would move draws into the range of training

    def _warn_if_unlike(self, given: Sequence[Values]) -> None:
        """Warn of observations that are less likely than all of a hundred samples of the run, by far.

        The gap to the lowest log density of these is larger than the gap between the lowest and their mean.
        """
        columns = self.columns
        simulated = self.steps(REFERENCES, seed=0).final()
        z = columns.forward(torch.cat([self._given_cells(observation) for observation in given])).to(simulated)
        places = (~z[0, : len(columns.numbers)].isnan()).nonzero()[:, 0]
        simulated = simulated[~simulated[:, places].isnan().any(1)]
        rows = torch.full((len(z) + len(simulated), z.shape[1]), torch.nan).to(z)
        rows[:, places] = torch.cat([z, simulated])[:, places]
        if not len(places) or not len(simulated):
            return
        probes = None if len(places) <= 4 else 4
        log_densities = self._densities_of(rows, places, tolerance=1e-2, probes=probes)
        observed, usual = log_densities[: len(z)], log_densities[len(z) :]
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

        columns, log_prior = self.columns, self.log_prior
        m = len(given)
        x = torch.cat([self._given_cells(observation) for observation in given])
        hidden = x[0].isnan()
        if (places := places_of(columns, hidden)) is None:
            raise ValueError(
                "parameters with categories, few or missing values can be drawn given one observation only"
            )
        if isinstance(log_prior, Box) and bool((hidden & (log_prior.high - log_prior.low).isinf()).any()):
            raise ValueError("given has several observations; for these, the prior needs bounds of every parameter")
        parameters = self.settings.get("hidden")
        if parameters and (missing := [name for name in select(columns, hidden).names if name not in parameters]):
            listed = f"{one_line(', '.join(missing))}, and parameters are only {one_line(', '.join(parameters))}"
            raise ValueError(f"given has several observations without {listed}; each needs all other columns")
        parameter_columns = select(columns, hidden)
        z = columns.forward(x).float().to(self.device)
        places = places.to(self.device)

        def densities(theta: Float64[Tensor, "k p"]) -> tuple[Float64[Tensor, "k m"], Float64[Tensor, "k"]]:
            """Log p(θ | xᵢ) of each observation, and the log density of θ given all of them, up to a constant."""
            user_theta = parameter_columns.restore(theta)
            prior = log_prior(insert_rest(x[:1], user_theta)) - parameter_columns.log_abs_det_jacobian(user_theta)
            rows = z.repeat(len(theta), 1)
            rows[:, places] = theta.to(z).repeat_interleave(m, 0)
            posteriors = self._densities_of(rows, places, tolerance=1e-3).view(-1, m)
            return posteriors, torch.where(prior > -math.inf, posteriors.sum(1) - (m - 1) * prior, -math.inf)

        random = np.random.default_rng(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
        theta = self._draw_cells(z, math.ceil(PARTICLES / m), generator)[..., places].flatten(0, 1).cpu().double()
        posteriors, target = densities(theta)
        log_weights = target - posteriors.logsumexp(1)
        for remaining in reversed(range(MAX_ROUNDS)):
            is_last = remaining == 0 or effective_size(log_weights) > READY * len(theta)
            kernel = gaussian_kde(theta.T.numpy(), weights=temper(log_weights).numpy())
            size = LAST_PARTICLES if is_last else PARTICLES
            theta = torch.from_numpy(kernel.resample(size, seed=random).T.copy())
            log_weights = densities(theta)[1] - torch.from_numpy(kernel.logpdf(theta.T.numpy()))
            if is_last:
                break
        if not (count := effective_size(log_weights)) >= MIN_EFFECTIVE:
            problem = f"only {count:.0f} of {len(theta):,} particles are effective"
            raise ValueError(f"{problem}; the observations contradict each other, or there are too many parameters")
        log.info(f"{m} observations: an effective sample size of {count:,.0f}, from {len(theta):,} particles")
        drawn = theta[random.choice(len(theta), n, p=log_weights.softmax(0).numpy())]
        parameters_drawn = parameter_columns.inverse(drawn)
        if columns.fields:
            return frame_of(parameter_columns, parameters_drawn.double().numpy())
        return parameters_drawn


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
    check_type("run", run, Run)
    if not isinstance(run, TableRun):
        raise ValueError(f"the run generates {run.examples.noun}; only the table of a simulator has a prior")
    assert run.conditionals
    return SimulatorRun(**{**vars(run), "log_prior": log_prior_of(run.columns, prior)})


def split_observations(given: Values) -> list[Values]:
    """The single observation that ``SimulatorRun.sample`` is given, or several from columns that are lists."""
    columns = {name: np.asarray(values) for name, values in given.items()} if isinstance(given, Mapping) else {}
    if not any(values.ndim for values in columns.values()):
        return [given]
    shapes = {values.shape for values in columns.values()}
    if len(shapes) > 1 or (0,) in shapes:
        sizes = ", ".join(f"{name} ({values.size if values.ndim else 'one value'})" for name, values in columns.items())
        raise ValueError(f"given has {sizes}; expected one value of each, or lists of the same length")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def effective_size(log_weights: Float64[Tensor, "k"]) -> float:
    """The effective sample size of weighted particles."""
    return float(1 / log_weights.softmax(0).square().sum())


def temper(log_weights: Float64[Tensor, "k"]) -> Float64[Tensor, "k"]:
    """Weights to the power 1, ½, ¼, …: the largest for which a tenth of the particles is effective."""
    powers = [log_weights / 2**halvings for halvings in range(20)]
    enough: list[Tensor] = [power for power in powers if effective_size(power) >= len(power) / 10]
    return (enough or powers[-1:])[0].softmax(0)
