"""Missing values drawn given the observed ones: the draws, and intervals that contain a given share of the truths."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Shaped
from torch import Tensor

from ncsn.metrics import Trials
from ncsn.run.options import UserData
from ncsn.run.run import Run
from ncsn.validation import real

CONFORMAL, LEAST_CONFORMAL = 1000, 300  # held-out examples for conformal intervals; fewer are used several times
Unseen: TypeAlias = Literal["error", "missing", "skip"]
"""What to do with impossible values, see ``TableRun.impute``."""


@dataclass(frozen=True)
class Imputed:
    """Draws of missing values given the observed ones.

    ``observed``: the examples, (b, *d), NaN where a value is missing.
    ``draws``: completed examples, (n, b, *d), with observed values unchanged.
    ``point``: the best guess of each value, (b, *d): the mean of the draws, or the most frequent draw.
    ``variation``: the uncertainty of ``point``, (b, *d): the standard deviation of the draws, or the share of draws
    that agree.
    ``run``: the run that drew them; ``interval`` lets it impute held-out examples in the same way.
    """

    observed: Float64[Tensor, "b *d"]
    draws: Float64[Tensor, "n b *d"]
    point: Float64[Tensor, "b *d"]
    variation: Float64[Tensor, "b *d"]
    run: "ImputingRun"

    @property
    def missing(self) -> Bool[Tensor, "b *d"]:
        """A mask of the values that were missing."""
        return self.observed.isnan()

    def spread(self) -> UserData:
        """The uncertainty of each guess, see ``variation``."""
        return self.variation

    @property
    def ordered(self) -> Bool[Tensor, "*d"]:
        """Which values of an example have intervals: numbers and dates, but not categories."""
        return torch.ones(self.observed.shape[1:], dtype=torch.bool, device="cpu")

    def interval(self, level: float = 0.9, *, conformal: object = False) -> tuple[UserData, UserData]:
        """Lower and upper ends of central intervals that contain this share of values, if the draws are right.

        With ``conformal`` they do even if the draws are too narrow or too wide.  Values of held-out examples are hidden
        in the same patterns and imputed; then all intervals are stretched around their medians, by one factor, until
        those of the held-out examples contain this share of the hidden values (split conformal prediction, Lei et al.
        2018, arXiv:1604.04173, section 5.2).

        The guarantee holds on average, for values that are missing at random, up to the dependence of values in one
        example.  Coverage can vary between columns and between patterns of missing values (Zaffran et al. 2023,
        arXiv:2306.02732).

        ``level``: between 0 and 1; without ``conformal``, 90 % needs at least 19 draws.
        ``conformal``: True for the held-out examples of the run's data, or other examples that weren't used for
        training, in the form that ``Run.impute`` takes.  For 90 %, at least 9 of them must have a value in each place
        that is missing here.
        Raises ValueError for too few draws, too few held-out examples, and if the run has none.

        >>> run = ncsn.fit(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), steps=5, quiet=True)
        >>> low, high = run.impute([[0.0, 1.0, torch.nan]]).interval(0.9, conformal=torch.randn(100, 3))
        >>> bool((low < high)[0, 2])
        True
        """
        if (level := real("level", level, above=0)) >= 1:
            raise ValueError(f"level is {level}; it must be below 1")
        if conformal is not False:
            least = math.ceil(1 / (1 - level) - 1e-9) - 1
            truth, draws, hidden = self._hide_held_out(conformal, least * self.ordered)
            factor = conformal_factor(truth, draws, hidden & self.ordered, level)
            below, middle, above = deviations(self.draws)
            return middle - factor * below, middle + factor * above
        tail, n = (1 - level) / 2, len(self.draws)
        if tail * (n + 1) < 1 - 1e-9:
            enough = math.ceil(1 / tail - 1e-9) - 1
            raise ValueError(f"level is {level}, which {n} draws are too few for; use impute(rows, {enough})")
        # Between order statistics k and n + 1 − k of exact draws lies a share (n + 1 − 2k)/(n + 1) of all values.
        low, high = np.quantile(self.draws.numpy(), [tail, 1 - tail], axis=0, method="weibull")
        return torch.from_numpy(low), torch.from_numpy(high)

    def _hide_held_out(self, examples: object, least: Int64[Tensor, "*d"]) -> Trials:
        """As many draws of held-out examples, whose values are hidden in the patterns of ``missing``; (n, r, b, *d).

        If there are few, they are used r times, with other values hidden.

        ``examples``: True for the test examples of the run's data, or others in the form that ``impute`` takes.
        ``least``: how many of them must have a value in each place that is ever ``missing``.
        Raises ValueError if fewer do.
        """
        run, missing, chance = self.run, self.missing, torch.Generator().manual_seed(0)
        x = run.held_out() if examples is True else run._numbers(examples, "missing")
        chosen = torch.randperm(len(x), generator=chance)[: max(CONFORMAL, int(least.max()))]
        counts = (~x[chosen].isnan()).sum(0)
        if (short := missing.any(0) & (counts < least)).any():
            few, needed = int(counts[short].min()), int(least.max())
            raise ValueError(f"level needs {needed} held-out examples of each value, but one has only {few}")
        repeats = max(1, LEAST_CONFORMAL // max(1, len(x)))
        rows = x[chosen.repeat(repeats)]
        hidden = run._hide(missing.numpy(), tuple(rows.shape), chance) & ~rows.isnan()
        draws = run._draw_hidden(rows, hidden, len(self.draws), torch.Generator(run.device).manual_seed(0))
        shape = repeats, len(chosen), *x.shape[1:]
        return Trials(rows.reshape(shape), draws.reshape(len(draws), *shape), hidden.reshape(shape))


def deviations(draws: Float64[Tensor, "n b *d"]) -> tuple[Float64[Tensor, "b *d"], ...]:
    """The median of draws between the root mean square deviations below and above it."""
    middle = draws.median(0).values
    below, above = ((sign * (draws - middle)).clamp(min=0).square().mean(0).sqrt() for sign in (-1, 1))
    return below, middle, above


def conformal_factor(
    truth: Float64[Tensor, "r b *d"], draws: Float64[Tensor, "n r b *d"], hidden: Bool[Tensor, "r b *d"], level: float
) -> float:
    """The number of deviations that contains a share of the ``hidden`` values.  Raises ValueError for too few."""
    below, middle, above = (values[hidden] for values in deviations(draws))
    errors = truth[hidden] - middle
    distances = torch.where(errors == 0, 0.0, errors.abs() / torch.where(errors > 0, above, below)).sort().values
    # A value that is hidden r times counts only once as evidence.
    distinct = max(1, int(hidden.any(0).sum()))
    order = math.ceil(len(distances) * (1 + 1 / distinct) * level - 1e-9)
    if not 0 < order <= len(distances) or not math.isfinite(distances[order - 1]):
        raise ValueError(f"level is {level}, which {len(distances)} values of held-out examples are too few for")
    return float(distances[order - 1])


class ImputingRun(Run):
    """A run whose examples may lack values, which it draws given the others."""

    @abstractmethod
    def _numbers(self, x: object, unseen: Unseen = "error") -> Shaped[Tensor, "b *d"]:
        """As ``Run._numbers``; ``unseen``: what to do with impossible values of a DataFrame."""

    @abstractmethod
    def _impute(self, x: Float64[Tensor, "b *d"], n: int, generator: torch.Generator) -> Imputed:
        """``n`` draws of the missing values, NaN in ``x``, in the user's units."""

    @abstractmethod
    def _hide(self, hidden: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n *d"]:
        """A mask of the values to hide in n examples, from ``calibrate``'s argument ``hidden``."""

    @abstractmethod
    def impute_file(self, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
        """Write a file with its missing values filled in, and one with all draws; returns a summary in lines."""

    def _draw_hidden(
        self, x: Shaped[Tensor, "b *d"], hidden: Bool[Tensor, "b *d"], n: int, generator: torch.Generator
    ) -> Float64[Tensor, "n b *d"]:
        """``n`` draws of hidden numbers of examples given all others that are possible."""
        x = x.double()
        known = ~hidden & self.transform.possible(x)
        return self._impute(torch.where(known, x, torch.nan), n, generator).draws


def choose_patterns(patterns: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n *d"]:
    """One of a user's ``patterns`` for each of n examples, at random; ``shape``: (n, *d).

    Raises ValueError if they have another shape, or if none of them hides anything.
    """
    array = np.asarray(patterns)
    array = array[None] if array.ndim == len(shape) - 1 else array
    if array.dtype != bool or array.shape[1:] != shape[1:]:
        raise ValueError(f"hidden has shape {array.shape} and dtype {array.dtype}; expected booleans {shape[1:]}")
    hiding = torch.from_numpy(array[array.reshape(len(array), -1).any(1)])
    if not len(hiding):
        raise ValueError("hidden is False everywhere, so there is nothing to draw")
    return hiding[torch.randint(len(hiding), shape[:1], generator=generator)]


def check_unseen(unseen: object) -> None:
    """Raises ValueError for what isn't an ``Unseen``."""
    if not isinstance(unseen, str) or unseen not in get_args(Unseen):
        raise ValueError(f"unseen is {unseen!r}; it must be one of {', '.join(get_args(Unseen))}")
