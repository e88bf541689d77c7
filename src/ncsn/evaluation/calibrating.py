"""Are posteriors calibrated?  Truths are ranked among draws from the posterior given a part of each."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from typing_extensions import Unpack

from ncsn.batching import reals
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, forecast, log, quieter
from ncsn.measurements import Measurement, measure_rows
from ncsn.metrics import MIN_TRIALS, Calibration, Trials, rank_all
from ncsn.run.imputation import ImputingRun, choose_patterns
from ncsn.run.options import PosteriorOptions, SeededOptions, SeededPosteriorOptions
from ncsn.run.run import Run
from ncsn.run.steps import block_size, generator_of
from ncsn.tables.run import TableRun
from ncsn.validation import as_numbers, check_type, whole

Draw: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""From examples (b, *d), what is hidden of them and k, k draws (k, b, *d) given what is observed."""


def calibrate(
    run: Run,
    examples: object = None,
    *,
    hidden: object = None,
    measure: Measurement | None = None,
    noise_std: float | Tensor | None = None,
    truths: Literal["both", "run", "held-out"] = "both",
    n: int = 300,
    draws: int = 39,
    solver_steps: int = 3,
    seed: int = 0,
    **options: Unpack[PosteriorOptions],
) -> Calibration:
    """Test whether a run's posteriors are calibrated: whether 90 % intervals contain nine truths out of ten.

    Each trial observes part of a known example, and ranks the example among draws from the posterior.  Samples of
    the run itself test how posteriors are drawn, and held-out examples test the model, too.

    ``examples``: held-out examples, in the form that ``impute`` takes; by default the run's test examples.
    ``hidden``: what to hide.  For a table, the names of columns, a share of the cells at random (by default one
    half), or booleans (d,) or (m, d), such as ``df.isna()``, one row of which is drawn for each example.  For
    signals, a share of the length, in the middle, or booleans.  With ``measure``, booleans that say which numbers
    to judge, by default all.
    ``measure``: a measurement to test instead, with its ``noise_std`` and ``solver_steps`` as for ``posterior``.
    ``truths``: the sources to use: run, held-out, or both.
    ``n``: trials per source, at least 30.  Each held-out example is used once, so there may be fewer.
    ``draws``: draws from each posterior.
    ``options``: how to sample the posterior of a measurement, as for ``steps``.
    Raises ValueError as ``impute`` and ``posterior`` do, for fewer than 30 trials, if nothing is hidden, and for
    options of a measurement without one.

    >>> run = ncsn.Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=20.0, sigma_min=0.02)
    >>> found = ncsn.calibrate(run, measure=lambda x: x[:, :1], noise_std=1.0, truths="run", n=100, draws=9)
    >>> found.calibrated
    {'run': True}
    """
    check_type("run", run, Run)
    n = whole("n", n, MIN_TRIALS)
    draws = whole("draws", draws, 1)
    seed = whole("seed", seed, 0)
    generator = generator_of(seed, run.device)  # of draws from posteriors
    choices = torch.Generator().manual_seed(seed)  # of examples and of what is hidden
    draw: Draw
    if measure is not None:
        hide = partial(choose_patterns, np.ones(run.recipe.shape, bool) if hidden is None else hidden)
        draw = draw_given_measurement(run, measure, noise_std, solver_steps, generator, options)
    elif needless := [*options, *(["noise_std"] if noise_std is not None else [])]:
        raise ValueError(f"{', '.join(needless)}: only a measurement has this; pass measure, or leave it out")
    elif not isinstance(run, ImputingRun):
        advice = "in Python, ncsn.calibrate(run, measure=..., noise_std=...) takes a measurement"
        raise ValueError(f"the run generates {run.examples.noun}; {advice}")
    else:
        hide = partial(run._hide, checked_share(hidden))
        hide(tuple(run.transform.inverse(torch.zeros(1, *run.recipe.shape)).shape), torch.Generator())  # or raises
        draw = partial(run._draw_hidden, generator=generator)
    ranks, spread = {}, {}
    truths_by_source = find_truths(run, examples, truths, n, choices, generator)
    for source, x in truths_by_source.items():
        hidden_of_x = hide(tuple(x.shape), choices)
        ranks[source], spread[source] = rank_all(trials(run, draw, x, hidden_of_x, draws, source), seed=seed)
    note = ""
    hides_columns = np.asarray(hidden).ndim == 1
    if isinstance(run, TableRun) and measure is None and "held-out" in truths_by_source and hides_columns:
        rows = truths_by_source["held-out"]
        note = run.describe_sharpness(rows, hide((1, *rows.shape[1:]), choices)[0])
    return Calibration(ranks, draws, spread, note)


def checked_share(hidden: object) -> object:
    """What to hide: by default a half, and shares as floats.  Raises ValueError for a share out of range."""
    hidden = 0.5 if hidden is None else hidden
    if not isinstance(hidden, Real):
        return hidden
    share = float(hidden)
    if not 0 < share <= 1:
        raise ValueError(f"hidden is {share}; a share must be above 0 and at most 1")
    return share


def draw_given_measurement(
    run: Run,
    measure: Measurement,
    noise_std: float | Tensor | None,
    solver_steps: int,
    generator: torch.Generator,
    options: PosteriorOptions,
) -> Draw:
    """Draws from the posterior of each example given its measurement."""
    shape, std = run.recipe.shape, as_numbers("noise_std", noise_std)
    posterior = partial(run.posterior, measure, noise_std=std, solver_steps=solver_steps)
    posterior(measure_rows(measure, torch.zeros(1, *shape, device=run.device)))  # rejects it before any work

    def draw(x: Shaped[Tensor, "b *d"], gaps: Bool[Tensor, "b *d"], k: int) -> Float[Tensor, "k b *d"]:
        clean = measure_rows(measure, x.float().to(run.device))  # as in posteriors
        y = clean + std.to(clean) * torch.randn(clean.shape, generator=generator, device=run.device)
        particles = options.get("particles")
        if "sampler" not in options:  # as many as for a single measurement
            particles = posterior(y[:1]).steps(k, particles=particles).particles
        y = y.repeat_interleave(k, 0) if particles in (None, 1) else y
        seeded: SeededPosteriorOptions = {**options, "seed": generator, "particles": particles}
        draws = posterior(y).steps(len(x) * k, **seeded).last()
        return draws.view(len(x), k, *shape).transpose(0, 1)

    return draw


def find_truths(
    run: Run, examples: object, truths: str, n: int, choices: torch.Generator, generator: torch.Generator
) -> dict[str, Shaped[Tensor, "m *d"]]:
    """Truths by their source: ``n`` samples, and up to ``n`` held-out examples in random order."""
    if truths not in ("both", "run", "held-out"):
        raise ValueError(f"truths is {truths!r}; it must be both, run or held-out")
    held_out: dict[str, Tensor] = {}
    if truths != "run":
        try:
            known = run.held_out() if examples is None else run._numbers(examples)
            if len(known) < MIN_TRIALS:
                raise ValueError(f"held-out examples found: {len(known)}; calibration needs at least {MIN_TRIALS}")
            held_out = {"held-out": reals(known[torch.randperm(len(known), generator=choices)[:n]])}
        except ValueError as error:
            if truths == "held-out" or examples is not None:
                raise
            log.warning(f"{error}; only truths from the run are used")
    if truths == "held-out":
        return held_out
    options: SeededOptions = {"label": "none", "guidance": 1.0, "seed": generator}
    return {"run": run._draw(n, options).cpu()} | held_out


def trials(
    run: Run, draw: Draw, truths: Shaped[Tensor, "n *d"], hidden: Bool[Tensor, "n *d"], k: int, name: str
) -> Iterator[Trials]:
    """A trial for each truth, in batches, under a progress bar; with examples as they are stored in files."""

    def stored(x: Tensor) -> Tensor:
        return torch.as_tensor(run.stored(x.flatten(0, 1).cpu())).view(x.shape)

    hidden = hidden & ~truths.isnan()
    has_hidden = hidden.flatten(1).any(1)
    size = max(1, min(block_size(run.recipe.shape) // k, len(truths) // 8))  # so that the bar moves
    truths, hidden = truths[has_hidden], hidden[has_hidden]
    with bar(total=len(truths), name=name, unit="trial") as progress:
        batches = [*zip(torch.split(truths, size), torch.split(hidden, size), strict=True)]
        for x, gaps in forecast(batches, len(batches), f"{len(truths)} trials ({name})"):
            # Threads are reported before it gets quiet; otherwise each batch would show a bar and warnings.
            with threads_for(), quieter(logging.ERROR):
                draws = draw(x, gaps, k)
            progress.update(len(x))
            # Pixels are written as bytes, and ranks among equal bytes are random.
            yield Trials(stored(x[None])[0], stored(draws), gaps)
