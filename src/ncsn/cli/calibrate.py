"""``ncsn calibrate``: test whether a run's posteriors are calibrated."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli.console import RunOptions, check_output
from ncsn.learn.settings import Given
from ncsn.machine.messages import log
from ncsn.validation import Seed

if TYPE_CHECKING:
    from ncsn import Run


@dataclass(frozen=True, kw_only=True)
class Calibrate(RunOptions):
    """Test whether draws of missing values are calibrated: whether 90 % intervals contain nine truths out of ten.

    Parts of known rows or signals are hidden and drawn again as by impute.  For images, use run.calibrate in Python.

    Args:
        hide: For a table, the columns to draw given the others, or a share of the cells, chosen at random (by default
            0.5); for signals, a share of the length.
        rows: A table with empty cells, or an .npy of signals with NaN, whose patterns of missing values are hidden.
        truths: Samples of the run test how posteriors are drawn; held-out examples also test the model.
        data: Where the run's training data is now, if it has moved.
        n: Trials per source of truths, at least 30.
        draws: Draws of each posterior.
        seed: The same seed gives the same trials on one machine.
        out: The picture of ranks, coverage and TARP.
        overwrite: Replace an existing file.
    """

    hide: tuple[str, ...] = ()
    rows: Given[Path] = None
    truths: Literal["both", "run", "held-out"] = "both"
    data: Annotated[Given[str], tyro.conf.arg(metavar="DATA")] = None
    n: Annotated[int, Interval(ge=30, le=10**5), tyro.conf.arg(name="n", aliases=["-n"])] = 300
    draws: Annotated[int, Interval(ge=1, le=1000)] = 39
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("calibration.png")
    overwrite: bool = False

    def __call__(self) -> None:
        """Calibrate, print and draw."""
        import ncsn

        check_output(self.out, ".png", overwrite=self.overwrite)
        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.kind.imputes:
            raise ValueError(f"{self.run} generates {run.recipe.kind.noun}; use run.calibrate(measure=...) in Python")
        known = None if self.data is None else run.held_out(self.data)
        result = run.calibrate(
            known, hidden=self.hidden(run), truths=self.truths, n=self.n, draws=self.draws, seed=self.seed
        )
        ncsn.plots.calibration(result.ranks, self.out)
        log.info(f"{result}\n{self.out}: ranks, coverage and TARP")

    def hidden(self, run: "Run") -> object:
        """What to hide of rows and signals."""
        if self.rows is not None:
            from ncsn.kinds.tables.read import read_rows

            self.refuse("hide", of="calibrations without --rows")
            return run.recipe.kind.numbers(run, read_rows(self.rows)).isnan().numpy()
        with suppress(ValueError, TypeError):
            return float(*self.hide) if self.hide else None
        return self.hide
