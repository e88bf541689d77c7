"""Drawing missing values: of rows by conditional sampling, of signals by moment matching."""

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn import problems
from ncsn.conditional import ConditionalModel
from ncsn.data.tables import table_of
from ncsn.data.units import Units
from ncsn.machine.messages import quieter
from ncsn.problems import Observation
from ncsn.run.posterior import MomentMatching, given, real
from ncsn.samplers import NonFiniteSampleError
from ncsn.score import Sigma, tweedie

if TYPE_CHECKING:
    from ncsn.run.run import Run

# Draws of a Gaussian's conditionals are up to 3 % too wide with so many levels, from so much of σ_max down; with 12
# levels from σ_max 9 %, with 30 3 %.
LEVELS, TOP = 25, 0.4
DRAWS_AT_ONCE = 2**10  # of rows or signals: their activations fit a processor's cache


def numbers_of(run: "Run", rows: Any) -> Float64[Tensor, "b *d"]:
    """A user's rows as the run's numbers: a DataFrame's by the names of its columns, an array's by their places.

    Signals of one channel may come without it.  Raises ValueError for other columns, or signals of another shape.
    """
    shape = run.recipe.shape
    if hasattr(rows, "columns"):
        return torch.from_numpy(table_of(rows).matched(run.names, run.recipe.categories).rows).double()
    if isinstance(rows, Tensor):
        rows = real("rows", rows).detach().cpu().double()
    if np.ma.isMaskedArray(rows):
        rows = np.ma.filled(rows.astype(float), np.nan)
    if len(shape) > 1:
        x = real("x", rows).double()
        x = x[:, None] if x.shape[1:] == shape[1:] and shape[0] == 1 else x
        if x.shape[1:] != shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; (b, {', '.join(map(str, shape))}) is needed")
        return x
    x = torch.from_numpy(table_of(rows).rows).double()
    if x.shape[1] != len(run.names):
        raise ValueError(f"rows has {x.shape[1]} columns; the run has {len(run.names)}: {', '.join(run.names)}")
    return x


def check_numbers(run: "Run", x: Float[Tensor, "b *d"]) -> None:
    """Raises ValueError for numbers that the run's data cannot have, to judge by training; NaN may be a blank."""
    for place in () if run.units is None else (~run.units.possible(x)).nonzero()[:1].tolist():
        what = f"{run.recipe.where(*place[:2])} cannot be {float(x[tuple(place)]):g}"
        raise ValueError(f"{what}, to judge by training")


def draw_rows(run: "Run", z: Float[Tensor, "b d"], n: int, generator: torch.Generator) -> Float[Tensor, "n b d"]:
    """``n`` draws of each row of ``z``, NaN where a cell is missing, given its other cells; in the user's units."""
    if not isinstance(run.score, ConditionalModel):
        needed = "impute needs a table that fit has learned with the package's network; run.posterior takes any score"
        raise ValueError(f"the run's score knows no conditionals; {needed}")
    model, condition, own = run.score, run.score.condition(z), run.recipe.sampling
    top = max(TOP * own.sigma_max, min(own.sigma_max, 2 * own.sigma_min))
    sampling = own.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)

    def score(x: Float[Tensor, "m d"], sigma: Sigma, /) -> Float[Tensor, "m d"]:
        value: Tensor = model(x, sigma, condition)
        return value

    # Around each row's own mean: what the score makes of nothing but noise.
    means = tweedie(score, model.data_mean.expand(z.shape), sampling.sigma_max)
    x = sampling.start(means.repeat_interleave(n, 0), n * len(z), generator=generator)
    *_, last = sampling.follow(score, x, generator=generator)
    if not bool(last.x.isfinite().all()):
        raise NonFiniteSampleError(f"draws of missing values are not finite, by {sampling.sampler}")
    drawn: Tensor = last.x if run.units is None else run.units.restore(last.x)
    return drawn.view(len(z), n, -1).transpose(0, 1)


def draw_signals(
    run: "Run", z: Float[Tensor, "b *d"], missing: Bool[Tensor, "*d"], n: int, generator: torch.Generator
) -> Float[Tensor, "n b *d"]:
    """``n`` draws of signals that are all ``missing`` the same numbers, by moment matching; in the user's units."""
    sampling = run.recipe.sampling.but(sampler="dpmpp-sde", guidance=1.0)
    sampling = sampling.but(levels=2 * sampling.spec.suited(sampling.sigma_max, sampling.sigma_min))
    seen = Observation(problems.masked(~missing), z[:, ~missing].repeat_interleave(n, 0), 2 * sampling.sigma_min)
    answers = given(run, MomentMatching(run.score, seen), sampling)
    with quieter(logging.ERROR):  # of parts, each of which would say that samples disagree
        drawn = answers.sample(n * len(z), particles=1, batch_size=min(DRAWS_AT_ONCE, n * len(z)), seed=generator)
    return drawn.view(len(z), n, *missing.shape).transpose(0, 1)


@torch.no_grad()
def impute(
    run: "Run", rows: Any, n: int, generator: torch.Generator
) -> Iterator[tuple[Int64[Tensor, "b"], Float64[Tensor, "n b *d"]]]:
    """The parts of ``Run.impute``: signals with the same gaps together, rows of a table as they come."""
    units = run.units or Units(torch.zeros(run.recipe.shape), torch.ones(run.recipe.shape))
    x = numbers_of(run, rows)
    check_numbers(run, x)
    z, missing, table = units.standardise(x, generator).float().to(run.device), x.isnan(), x.ndim == 2
    # Rows without a gap, those of gaps only, and all others.
    alike = torch.stack([missing.any(1), missing.all(1)], 1) if table else missing
    patterns, pattern = torch.unique(alike, dim=0, return_inverse=True)
    for number in range(len(patterns)):
        for part in torch.split((pattern == number).nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n)):
            draws, gaps = x[part].repeat(n, *[1] * x.ndim), missing[part]
            if bool(gaps.all()):
                draws = run.sample(n * len(part), seed=generator).to(draws).view_as(draws)
            elif bool(gaps.any()):
                hidden = gaps.to(run.device)
                if table:
                    drawn = draw_rows(run, z[part].masked_fill(hidden, torch.nan), n, generator)
                else:
                    drawn = draw_signals(run, z[part], hidden[0], n, generator)
                draws = torch.where(gaps, drawn.to(draws), draws)
            yield part, draws
