"""Runs of tables whose rows are restricted: draws that a rule of the user's, or a prior, doesn't allow are rejected."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from ncsn.likelihood import LogDensities
from ncsn.machine.messages import log
from ncsn.run.options import SeededOptions, UserData
from ncsn.run.run import Run
from ncsn.run.steps import generator_of
from ncsn.tables.frames import frame_of
from ncsn.tables.run import TableRun
from ncsn.validation import check_type, one_line

Rule: TypeAlias = Callable[[UserData], object]
"""A function of n rows, in the form of the run's samples, that returns n Booleans."""
DRAWS_FOR_SHARE = 2000  # draws that estimate the share that is allowed
MAX_DRAWS_IN_VAIN = 2000  # if none of them is allowed, sampling is given up
MAX_REJECTIONS = 300  # rounds of draws, in which some are still rejected
MIN_DRAWS_PER_ROUND = 256


@dataclass(frozen=True, kw_only=True, repr=False)
class RestrictedRun(TableRun):
    """The run of a table whose samples, draws and densities are restricted to the rows that it allows."""

    # What is allowed, in words, and what may be wrong if hardly anything is.
    restriction = ""
    advice = ""

    def _allows(self, x: Shaped[Tensor, "b d"]) -> Bool[Tensor, "b"]:
        """Which rows in the user's units are allowed."""
        raise NotImplementedError

    def _users_rows(self, z: Float[Tensor, "b e"]) -> Shaped[Tensor, "b d"]:
        """Rows in the user's units, as ``_allows`` judges them; ``z``: in the score's units."""
        return self.transform.inverse(z)

    def _is_allowed(self, z: Float[Tensor, "b e"]) -> Bool[Tensor, "b"]:
        """Which rows are allowed; ``z``: in the score's units."""
        return self._allows(self._with_known(self._users_rows(z).cpu()))

    def log_densities(self, x: Shaped[Tensor, "b d"], **options: Any) -> Iterator[LogDensities]:
        """As ``Run.log_densities``, normalised over what is allowed, and −∞ elsewhere."""
        share = self._is_allowed(self.steps(DRAWS_FOR_SHARE, seed=0).final()).double().mean()
        if not share:
            raise ValueError(f"none of {DRAWS_FOR_SHARE:,} draws {self.restriction}, so the density is unknown")
        start = 0
        for densities in super().log_densities(x, **options):
            rows = x[start : start + len(densities.log_prob)]
            start += len(rows)
            normalised = densities.log_prob - share.log()
            yield replace(densities, log_prob=torch.where(self._allows(rows), normalised, -math.inf))

    def doubt(self, rows: object) -> NoReturn:
        """Raises ValueError: doubt computes distributions of single cells, without draws that could be rejected."""
        raise ValueError("doubt can't use a rule or a prior; call it for the run without")

    def _draw(self, n: int, options: SeededOptions) -> Shaped[Tensor, "n d"]:
        """``n`` samples in the user's units that are allowed."""
        seeded: SeededOptions = {**options, "seed": generator_of(options.get("seed", 0), self.device)}
        z = self._draw_allowed(n, lambda places: self.steps(len(places), **seeded).final())
        return self._with_known(self.transform.inverse(z))

    def _draw_cells(self, z: Float[Tensor, "b e"], n: int, generator: torch.Generator) -> Float[Tensor, "n b e"]:
        """Draws that are allowed."""
        rows = z.repeat_interleave(n, 0)
        drawn = self._draw_allowed(len(rows), lambda places: self._fill(rows[places], generator))
        return drawn.view(len(z), n, -1).transpose(0, 1)

    def _draw_allowed(self, n: int, draw: Callable[[Int64[Tensor, "m"]], Float[Tensor, "m e"]]) -> Float[Tensor, "n e"]:
        """Draws in the score's units for ``n`` places, each repeated until it is allowed.

        Raises ValueError if none of 2,000 draws is allowed, or none for one of the places.
        """
        drawn = draw(torch.arange(n))
        is_allowed = self._is_allowed(drawn)
        tried = n
        accepted = int(is_allowed.sum())
        rounds = 0
        while len(rejected := (~is_allowed).nonzero()[:, 0]):
            if rounds == MAX_REJECTIONS or (not accepted and tried >= MAX_DRAWS_IN_VAIN):
                raise ValueError(f"{accepted:,} of {tried:,} draws {self.restriction}: {self.advice}")
            repeats = max(n, MIN_DRAWS_PER_ROUND) // len(rejected)
            candidates = draw(rejected.repeat(repeats)).unflatten(0, (repeats, -1))  # type: ignore[no-untyped-call]
            is_good = self._is_allowed(candidates.flatten(0, 1)).view(repeats, -1)
            first = is_good.byte().argmax(0)  # the first allowed candidate of each place, or 0 if none is
            drawn[rejected] = candidates[first, torch.arange(len(rejected))]
            is_allowed[rejected] = is_good.any(0)
            tried += is_good.numel()
            accepted += int(is_good.sum())
            rounds += 1
        if accepted < tried:
            share = accepted / tried
            log.info(f"{share:.1%} of the draws {self.restriction}; the others were drawn again")
        return drawn


@dataclass(frozen=True, kw_only=True, repr=False)
class RuledRun(RestrictedRun):
    """The run of a table whose rows obey a rule, see ``with_rule``.

    ``rule``: it isn't saved.
    """

    rule: Rule

    restriction = "obey the rule"
    advice = "does it contradict the table, or what is given?"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """As ``Run.save``, without the rule."""
        log.info("the rule is not saved: call with_rule again after ncsn.load")
        super().save(folder, overwrite=overwrite)

    def _allows(self, x: Shaped[Tensor, "b d"]) -> Bool[Tensor, "b"]:
        rows = frame_of(self.columns, x.double().numpy()) if self.columns.fields else x
        returned = self.rule(rows)
        obeys = booleans(returned)
        if obeys.shape != (len(x),) or obeys.dtype != np.bool_:
            expected = f"True or False for each of {len(x):,} rows"
            raise ValueError(f"the rule returned {one_line(returned)}; expected {expected}")
        return torch.from_numpy(obeys.copy())


def booleans(values: object) -> Shaped[np.ndarray, "..."]:
    """The values as an array: of Booleans if all are Booleans or missing, and then missing ones are False."""
    array = np.asarray(values)
    if array.dtype != object:
        return array
    import pandas

    missing = pandas.isna(array)
    if all(isinstance(value, bool | np.bool_) for value in array[~missing]):
        return np.where(missing, False, array).astype(bool)
    return array


def with_rule(run: TableRun, rule: Rule) -> RuledRun:
    """The run of a table whose rows obey a rule of your own, such as ``lambda rows: rows.start < rows.end``.

    ``sample`` and ``impute`` reject draws that break the rule, draw them again, and print the share that was accepted:
    the result is exactly the run's distribution given that the rule holds.  ``log_prob`` is normalised accordingly.
    ``steps`` and ``blocks`` ignore the rule.

    ``rule``: a function of n rows like those of ``sample`` that returns a Boolean for each.  A comparison with a
    missing value is false, so allow it where rows may have gaps: ``lambda rows: rows.end.isna() | (rows.start <
    rows.end)``.
    Raises ValueError unless ``fit`` trained the run on a table.  Sampling raises ValueError if the rule returns
    anything else, and if it holds for none of 2,000 draws.
    """
    check_type("run", run, Run)
    check_type("rule", rule, Callable)
    if not isinstance(run, TableRun):
        raise ValueError(f"the run generates {run.examples.noun}; only rows of a table obey rules")
    assert run.conditionals
    return RuledRun(**{**vars(run), "rule": rule})
