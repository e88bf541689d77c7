"""``ncsn calibrate``: test whether a run's posteriors are calibrated."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions
from ncsn.cli.solve import Deblur, Denoise, Inpaint, Problem, Superres
from ncsn.learn.settings import Given
from ncsn.machine.messages import log
from ncsn.validation import Seed

if TYPE_CHECKING:
    from ncsn import Run
    from ncsn.calibration import Calibration

FILES = ("calibration.json", "calibration.png")
OPERATORS: dict[str, type[Problem]] = {kind.__name__.lower(): kind for kind in (Inpaint, Denoise, Superres, Deblur)}


@dataclass(frozen=True, kw_only=True)
class Calibrate(RunOptions):
    """Test whether a run's posteriors are calibrated: whether 90 % intervals contain nine truths out of ten.

    Parts of known examples are hidden and drawn again: for tables and signals as by impute, for images as by inpaint,
    denoise, superres or deblur.

    Args:
        hide: For a table, the columns to draw given the others, or a share of the cells, chosen at random (by default
            0.5); for signals, a share of the length.
        rows: A table with empty cells, or an .npy of signals with NaN, whose patterns of missing values are hidden.
        operator: For images, the inverse problem: a command with its options, such as "superres --factor 2".
        truths: Samples of the run test how posteriors are drawn; held-out examples also test the model.
        data: Where the run's training data is now, if it has moved.
        n: Trials per source of truths, at least 30; by default 300, or 100 for images.
        draws: Draws of each posterior; by default 39, or 5 for images.
        seed: The same seed gives the same trials on one machine.
        out: The folder for calibration.json and calibration.png. Defaults to the run's folder, or to the current one
            for the model in the package and for runs on the hub.
        overwrite: Replace an earlier calibration there.
    """

    hide: tuple[str, ...] = ()
    rows: Given[Path] = None
    operator: Annotated[str, tyro.conf.arg(metavar="COMMAND")] = "inpaint"
    truths: Literal["both", "run", "held-out"] = "both"
    data: Annotated[Given[str], tyro.conf.arg(metavar="DATA")] = None
    n: Annotated[Given[Annotated[int, Interval(ge=30, le=10**5)]], tyro.conf.arg(name="n", aliases=["-n"])] = None
    draws: Given[Annotated[int, Interval(ge=1, le=1000)]] = None
    seed: Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        """Calibrate, print and draw."""
        import ncsn
        from ncsn import storage

        run = ncsn.load(self.run, device=self.device)
        kind = run.recipe.kind
        if kind.imputes:
            self.refuse("operator", of="images")
        else:
            self.refuse("hide", "rows", of="tables and signals")
        out = self.out or (self.run if self.run == run.folder else Path())
        storage.check_files(out, FILES, overwrite=self.overwrite)
        out.mkdir(exist_ok=True)
        n, draws = kind.trials
        known = None if self.data is None else run.held_out(self.data)
        calibrate = partial(
            run.calibrate, known, truths=self.truths, n=self.n or n, draws=self.draws or draws, seed=self.seed
        )
        result = calibrate(hidden=self.hidden(run)) if kind.imputes else self.measure(calibrate, run.recipe.shape)
        result.save(out)
        log.info(f"{result}\n{out}: {', '.join(FILES)}")

    def measure(self, calibrate: "Callable[..., Calibration]", shape: tuple[int, ...]) -> "Calibration":
        """Calibrate posteriors of images given measurements of them."""
        name, *options = shlex.split(self.operator) or [""]
        if name not in OPERATORS:
            raise ValueError(f"operator is {self.operator!r}; it must be one of {', '.join(OPERATORS)}")
        problem: Problem = console.parse(OPERATORS[name], [str(self.run), *options], f"ncsn {name}")
        problem.refuse(
            "input", "data", "measured", "n", "evidence", "out", "overwrite", "device", of=f"ncsn {name} itself"
        )
        if isinstance(problem, Inpaint) and problem.method == "replacement":
            raise ValueError("operator uses replacement, which doesn't sample the posterior of a noisy measurement")
        return calibrate(
            hidden=~problem.known(shape) if isinstance(problem, Inpaint) else None,
            measure=problem.problem(shape)[0],
            noise_std=problem.noise,
            solver_steps=problem.solver_steps,
            levels=problem.levels,
            particles=problem.particles,
        )

    def hidden(self, run: "Run") -> object:
        """What to hide of rows and signals."""
        if self.rows is not None:
            from ncsn.kinds.tables.read import read_rows

            self.refuse("hide", of="calibrations without --rows")
            return run.recipe.kind.numbers(run, read_rows(self.rows)).isnan().numpy()
        with suppress(ValueError, TypeError):
            return float(*self.hide) if self.hide else None
        return self.hide
