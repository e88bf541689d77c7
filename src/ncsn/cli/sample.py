"""``ncsn sample``: draw samples from a run."""

import csv
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console
from ncsn.cli.console import SamplingOptions, check_output, write_array
from ncsn.machine.messages import log
from ncsn.settings import TABLES, Given
from ncsn.validation import Count, LangevinSteps, Seed, StepSize, counted

if TYPE_CHECKING:
    from ncsn.run.options import SamplingOptions as SamplingKeywords
    from ncsn.tables.run import TableRun

PICTURES = (".png", ".gif")
MAX_IN_PICTURE = 10_000


@dataclass(frozen=True, kw_only=True)
class Sample(SamplingOptions):
    """Draw samples from a run, as a picture, an animation of denoising, an array or a table.

    Args:
        steps: Langevin steps: per level for annealed, in total for langevin. Other samplers take --levels steps.
        eps: Langevin step size at the smallest noise level.
        n: Number of samples; a picture shows up to 10,000.
        seed: The same seed gives the same samples on the same machine.
        out: The output file. .png is a grid of images, or the first six signals. .gif animates how up to 36 images
            emerge from noise. .npy is an array, .npz has it under the key samples; images are (n, c, h, w) with the
            dtype of the training files, usually uint8. .csv, .tsv and .parquet are tables. Arrays are drawn in blocks
            of at most 1,000 samples, so any number of samples fits into memory.
        given: Values to condition a table on, such as sex=F or sex=F,age=40, or '"city=Paris, Texas"' for text with
            commas; the other columns are drawn given these, and rows are written to .csv, .tsv or .parquet.
        complete: Fill every cell of a table's rows; by default cells are missing as often as in the table.
        overwrite: Replace an existing file.
    """

    steps: Given[LangevinSteps] = None
    eps: Given[StepSize] = None
    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("grid.png")
    given: Annotated[Given[str], tyro.conf.arg(metavar="NAME=VALUE,…")] = None
    complete: bool = False
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn
        from ncsn.evaluation.output import ANIMATED, SUFFIXES, write
        from ncsn.tables.run import TableRun

        picture = self.out.suffix in PICTURES
        if picture and self.n > MAX_IN_PICTURE:
            raise ValueError(f"n is {self.n}; a picture shows at most {MAX_IN_PICTURE:,}; write more to .npz or .npy")
        if self.out.suffix in TABLES:  # a missing package shows before sampling starts
            import pandas  # noqa: F401
            import pyarrow  # noqa: F401
        run = ncsn.load(self.run, device=self.device)
        noun = run.examples.noun
        suffixes = SUFFIXES[noun]
        if self.out.suffix not in suffixes:
            raise ValueError(f"--out is {self.out}; for {noun}, give a name that ends in {', '.join(suffixes)}")
        check_output(self.out, *suffixes, overwrite=self.overwrite)
        if self.complete or self.given is not None:
            if not isinstance(run, TableRun):
                raise ValueError(f"{self.run} generates {noun}; only tables have columns and cells")
            run = replace(run, complete=self.complete)
            if self.given is not None:
                if self.out.suffix not in TABLES:
                    raise ValueError(f"--out is {self.out}; with --given, give a name that ends in {', '.join(TABLES)}")
                self.write_given(run, self.given)
                return
        if not picture:
            write_array(self.out, run, self.n, seed=self.seed, options=self.options())
        else:
            keep = ANIMATED if self.out.suffix == ".gif" else 0
            drawn = console.draw(run, self.n, seed=self.seed, keep=keep, **self.options())
            write(run, drawn.samples, drawn.path, self.out)
            log.info(f"{self.out}: {drawn.cost}")

    def options(self) -> "SamplingKeywords":
        return {**super().options(), "steps": self.steps, "eps": self.eps}

    def write_given(self, run: "TableRun", given: str) -> None:
        """Write rows with given values into a table."""
        assignments: list[str] = []
        with suppress(csv.Error):  # of a line break
            assignments = next(csv.reader([given]), assignments)
        pairs = [assignment.partition("=") for assignment in assignments]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise ValueError(f"given is {given!r}; expected NAME=VALUE, such as sex=F, separated by commas")
        values = {name.strip(): value for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"given is {given!r}; each name may occur only once")
        from ncsn.evaluation.output import write

        write(run, run.sample(self.n, given=values, seed=self.seed, **self.options()), [], self.out)
        log.info(f"{self.out}: {counted(self.n, 'row')} with {given}")
