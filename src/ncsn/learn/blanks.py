"""Rows with blanks are learned from: these are drawn anew as a training goes on, by what it has learned so far."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ncsn.learn.mixture import known_range
from ncsn.machine.messages import log
from ncsn.run import Run, block_seed
from ncsn.run.posterior import at_a_time, drawn_given
from ncsn.training import Budget, Progress, State

# Of a training: blanks are drawn anew between them.  Of a Gaussian with correlation .9 and 40 % of a column blank,
# samples correlate by .84 after 4 rounds, .88 after 8, and .90 after 16.
ROUNDS = 12
CANDIDATES = 8  # particles for each row whose blanks are drawn: more rows in time are worth more
SHARE = 0.02  # of the minutes: what drawing takes at most, each time


def filled(
    progress: Iterator[Progress],
    state: State,
    run: Run,
    x: Float[Tensor, "n d"],
    blanks: Bool[Tensor, "n d"],
    budget: Budget,
    seed: int,
) -> Iterator[Progress]:
    """Pass a training's progress on, and draw the ``blanks`` of ``x`` anew, in its place, between the rounds of it.

    Stochastic EM (Celeux & Diebolt 1985), by the average of the weights; training goes on with those that it has.
    The draws are in the checkpoint.

    ``x``: what batches are drawn from.  ``run``: whose score is the average.
    """
    blanks = blanks.to(x.device)
    numbers = state.kept.setdefault("filled", x[blanks].cpu())
    x[blanks] = numbers.to(x)
    done, slow = int(ROUNDS * budget.fraction(state.step, state.seconds) + 1e-9), False
    for p in progress:
        now = min(ROUNDS - 1, int(ROUNDS * p.fraction + 1e-9))
        if now > done:
            generator = torch.Generator(run.device).manual_seed(block_seed(seed, now))
            share = draw(replace(run, units=None), x, blanks, generator, SHARE * (budget.seconds or math.inf))
            if share < 1 and not slow:
                log.info(f"the blanks of {share:.0%} of the rows are drawn anew each time; more would be slow")
                slow = True
            numbers.copy_(x[blanks])
        done = now
        yield p


def draw(
    run: Run, x: Float[Tensor, "n d"], blanks: Bool[Tensor, "n d"], generator: torch.Generator, seconds: float
) -> float:
    """Draw the ``blanks`` of ``x`` given the other numbers of their rows, in its place; within the range of these.

    In random order, as long as ``seconds`` last: what is left stays as it is.  Returns the share that is drawn.
    """
    began, rows = time.monotonic(), blanks.any(1).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)]
    bounds = known_range(x, blanks)
    chunks = torch.split(rows, at_a_time(x.shape[1], CANDIDATES))
    for number, part in enumerate(chunks):
        if time.monotonic() - began > seconds:
            return number / len(chunks)
        known = ~blanks[part].to(run.device)
        drawn = drawn_given(run, x[part].to(run.device), known, 1, CANDIDATES, generator)[0].to(x)
        x[part] = torch.where(blanks[part], drawn.clamp(*bounds), x[part])
    return 1.0
