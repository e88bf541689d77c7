"""Trials of a run's posteriors: truths, observations of them, and draws given these; see ``Run.calibrate``."""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ncsn.calibration import Trials
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, quieter


class Question(NamedTuple):
    """The question that posteriors answer in a trial.

    ``hide``: from a shape (n, *d) and a generator, which numbers of n examples are hidden.
    ``draw``: from examples (b, *d), what is hidden and k, k draws (k, b, *d) given what is observed.
    """

    hide: Callable[[tuple[int, ...], torch.Generator], Bool[Tensor, "n *d"]]
    draw: Callable[[Shaped[Tensor, "b *d"], Bool[Tensor, "b *d"], int], Float[Tensor, "k b *d"]]


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
    size = max(1, min(block // k, len(truths) // 8))  # so that the bar moves
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
