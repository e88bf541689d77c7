"""Trials of a run's posteriors: truths, observations of them, and draws given these; see ``Run.calibrate``."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from typing_extensions import Unpack

from ncsn.calibration import Trials
from ncsn.kinds.kind import choose_patterns
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, quieter
from ncsn.posteriors.matching import MomentMatching
from ncsn.posteriors.measurements import MIN_RATE, Measurement, Noise, measure_rows
from ncsn.run.options import SamplingOptions, SeededOptions
from ncsn.run.steps import Steps
from ncsn.score import Score


class Question(NamedTuple):
    """The question that posteriors answer in a trial.

    ``hide``: from a shape (n, *d) and a generator, which numbers of n examples are hidden.
    ``draw``: from examples (b, *d), what is hidden and k, k draws (k, b, *d) given what is observed.
    """

    hide: Callable[[tuple[int, ...], torch.Generator], Bool[Tensor, "n *d"]]
    draw: Callable[[Shaped[Tensor, "b *d"], Bool[Tensor, "b *d"], int], Float[Tensor, "k b *d"]]


class Given(Protocol):
    """A run given a measurement."""

    @property
    def posterior_score(self) -> Score | None:
        """The score of the posterior."""

    def steps(self, n: int, **options: Unpack[SeededOptions]) -> Steps:
        """Samples from the posterior."""


def measurement(
    shape: tuple[int, ...],
    hidden: object,
    generator: torch.Generator,
    measure: Measurement,
    posterior: Callable[[Tensor], Given],
    noise: Noise,
    options: SamplingOptions,
) -> Question:
    """Examples given noisy measurements of them; ``posterior``: the run given such measurements, and its errors."""
    device = generator.device
    posterior(measure_rows(measure, torch.zeros(1, *shape, device=device)))  # rejects it before minutes of work

    def draw(x: Shaped[Tensor, "b *d"], gaps: Bool[Tensor, "b *d"], k: int) -> Float[Tensor, "k b *d"]:
        y = add_noise(measure_rows(measure, x.to(device)), noise, generator)
        particles, given = options.get("particles"), posterior(y[:1]).posterior_score
        if isinstance(given, MomentMatching) and "sampler" not in options:  # as many as for a single measurement
            particles = given.with_particles(k, particles, shape=shape, labels=None).particles
        y = y.repeat_interleave(k, 0) if particles in (None, 1) else y
        own: SeededOptions = {**options, "seed": generator, "particles": particles}
        return posterior(y).steps(len(x) * k, **own).last().view(len(x), k, *shape).transpose(0, 1)

    return Question(partial(choose_patterns, np.ones(shape, bool) if hidden is None else hidden), draw)


def add_noise(clean: Float[Tensor, "b *m"], noise: Noise, generator: torch.Generator) -> Tensor:
    """Noisy measurements, given those without noise; see ``Run.posterior``."""
    poisson, covariance, std = noise.get("likelihood"), noise.get("noise_cov"), noise.get("noise_std")
    if poisson is not None:
        return torch.poisson((poisson.peak * clean).clamp(min=MIN_RATE), generator=generator)
    z: Tensor = torch.randn(clean.shape, generator=generator, device=generator.device)
    if covariance is not None:
        root = torch.linalg.cholesky(torch.as_tensor(covariance).to(clean))
        z = (z.flatten(1) @ root.T).view_as(clean)
    elif std is not None:
        z = z * torch.as_tensor(std).to(clean)
    return clean + z


def trials(
    question: Question,
    truths: Shaped[Tensor, "n *d"],
    k: int,
    chance: torch.Generator,
    *,
    block: int,
    stored: Callable[[Tensor], Tensor | np.ndarray],
    name: str,
) -> Iterator[Trials]:
    """A trial for each truth, in batches of at most ``block`` draws, under a progress bar; as ``stored`` in files."""

    def written(x: Tensor) -> Tensor:
        return torch.as_tensor(stored(x.flatten(0, 1).cpu())).view(x.shape)

    hidden = question.hide(tuple(truths.shape), chance) & ~truths.isnan()
    size = max(1, min(block // k, len(truths) // 8))  # so that the bar moves, and trials can stop early
    truths, hidden = (part[hidden.flatten(1).any(1)] for part in (truths, hidden))
    with bar(total=len(truths), name=name, unit="trial") as shown:
        batches = zip(torch.split(truths, size), torch.split(hidden, size), strict=True)
        for x, gaps in batches:
            # Threads are reported before it gets quiet; otherwise each batch would show a bar and warnings.
            with threads_for(), quieter(logging.ERROR):
                draws = question.draw(x, gaps, k)
            shown.update(len(x))
            # Pixels are written as bytes, and ranks among equal bytes are random.
            yield Trials(written(x[None])[0], written(draws), gaps)
