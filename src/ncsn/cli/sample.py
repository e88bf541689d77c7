"""``ncsn sample``: draw samples from a run."""

import csv
import hashlib
import importlib
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console
from ncsn.cli.console import RunOptions, SamplingOptions, check_output
from ncsn.machine.messages import log
from ncsn.settings import TABLES, Given
from ncsn.validation import Count, Seed, counted

if TYPE_CHECKING:
    import numpy as np

    from ncsn.data import Transform
    from ncsn.run.run import Run
    from ncsn.run.steps import Drawn
    from ncsn.run.steps import SamplingOptions as SamplingKeywords

PICTURES = (".png", ".gif")
MAX_IN_PICTURE = 10_000


@dataclass(frozen=True, kw_only=True)
class Sample(SamplingOptions, RunOptions):
    """Draw samples from a run, as a picture, an animation of denoising, an array or a table.

    Args:
        n: Number of samples; a picture shows up to 10,000.
        seed: The same seed gives the same samples on the same machine.
        out: The output file. .png is a grid of images, or the first six signals. .gif animates how up to 36 images
            emerge from noise. .npy is an array, .npz has it under the key samples; images are (n, c, h, w) with the
            dtype of the training files, usually uint8. .csv, .tsv and .parquet are tables. Arrays can have any number
            of samples in the memory of 1,000. The same command also replaces its own picture, but no other file.
        given: Values to condition a table on, such as sex=F or sex=F,age=40; the other columns are drawn given these,
            and rows are written to .csv, .tsv or .parquet.
        complete: Fill every cell of a table's rows; by default cells are missing as often as in the table.
        overwrite: Replace an existing file.
    """

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("grid.png")
    given: Annotated[Given[str], tyro.conf.arg(metavar="NAME=VALUE,…")] = None
    complete: bool = False
    overwrite: bool = False

    def __call__(self) -> None:
        if not console.is_main():  # under torchrun, only the main process samples
            return
        import ncsn
        from ncsn.machine import storage

        picture = self.out.suffix in PICTURES
        if picture and self.n > MAX_IN_PICTURE:
            raise ValueError(f"n is {self.n}; a picture shows at most {MAX_IN_PICTURE:,}; write more to .npz or .npy")
        if self.out.suffix in TABLES:
            for name in ("pandas", "pyarrow"):  # a missing package shows before sampling starts
                importlib.import_module(name)
        run = ncsn.load(self.run, device=self.device)
        kind = run.recipe.kind
        if self.complete and self.given is None and kind.conditioning is not None:
            run = kind.conditioning.complete(run)
        if self.out.suffix not in kind.writers:
            raise ValueError(f"{self.out}: {kind.noun} can be written to {', '.join(kind.writers)}")
        job = job_of(run, self.n, self.seed, sorted(self.options().items()))
        again = picture and storage.was_written_by(job, self.out)
        check_output(self.out, *kind.writers, overwrite=self.overwrite or again)
        if self.given is not None:
            if self.out.suffix not in TABLES:
                raise ValueError(f"{self.out}: with --given, rows can be written to {', '.join(TABLES)}")
            self.write_given(run, self.given)
            return
        write = kind.writers[self.out.suffix]
        if not picture:
            write_array(self.out, run, self.n, seed=self.seed, options=self.options())
        elif write is not None:
            keep = kind.kept if self.out.suffix == ".gif" else 0
            drawn = console.draw(run, self.n, seed=self.seed, keep=keep, **self.options())
            with storage.atomic(self.out) as temporary:
                write(run, drawn.samples, drawn.path, temporary)
                storage.append_seal(temporary, job)
            log.info(f"{self.out}: {drawn.cost}")

    def write_given(self, run: "Run", given: str) -> None:
        """Write rows with given values into a table."""
        parts: list[str] = []
        with suppress(csv.Error):  # of a line break
            parts = next(csv.reader([given]), parts)
        pairs = [part.partition("=") for part in parts]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise ValueError(f"given is {given!r}; expected NAME=VALUE, such as sex=F, separated by commas")
        values = {name.strip(): value for name, _, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"given is {given!r}; each name may occur only once")
        rows = run.sample(self.n, given=values, complete=self.complete, seed=self.seed, **self.options())
        if (write := run.recipe.kind.writers[self.out.suffix]) is not None:
            write(run, rows, [], self.out)
        log.info(f"{self.out}: {counted(self.n, 'row')} with {given}")


def write_array(
    out: Path, run: "Run", n: int, *, seed: int, options: "SamplingKeywords", transform: "Transform | None" = None
) -> "Drawn":
    """Write ``n`` samples of a run to an .npz, an .npy or a table, drawn block by block (``Run.blocks``).

    ``transform``: of the array's units; the run's by default.
    Returns the last block.
    """
    import numpy as np

    from ncsn.run.steps import cost

    blocks, kind = run.blocks(n, seed=seed, **options), run.recipe.kind
    began, count, drawn = time.perf_counter(), 1, list["Drawn"]()

    def arrays() -> "Iterator[np.ndarray]":
        nonlocal count
        for number, steps in enumerate(blocks, 1):
            if number == 1:
                count = -(-n // steps.n)
                console.compile_for(run, n, steps)
            drawn[:] = [console.follow(steps, f"block {number} of {count}", began)]
            yield np.asarray(kind.stored(transform or run.transform, drawn[0].samples))

    if (write := kind.writers[out.suffix]) is None:
        write_blocks(out, arrays(), n)
    else:
        write(run, np.concatenate([*arrays()]), [], out)
    log.info(f"{out}: {cost(n, drawn[0].steps, drawn[0].seconds)}")
    return drawn[0]


def job_of(run: "Run", *how: object) -> str:
    """A sha256 of everything that samples depend on."""
    import torch

    from ncsn import __version__

    job = repr((__version__, torch.__version__, run.digest, run.device.type, *how))
    return hashlib.sha256(job.encode()).hexdigest()


def write_blocks(out: Path, blocks: "Iterator[np.ndarray]", n: int) -> None:
    """Write an array of ``n`` rows, whose blocks are drawn only when the previous one is in the file."""
    from numpy.lib import format

    from ncsn.machine import storage

    first = next(blocks)
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (n, *first.shape[1:])}
    file: IO[bytes]
    with storage.atomic(out) as temporary, ExitStack() as files:
        if out.suffix == ".npy":
            file = files.enter_context(temporary.open("wb"))
        else:
            archive = files.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED))
            file = files.enter_context(archive.open("samples.npy", "w", force_zip64=True))
        format.write_array_header_1_0(file, header)
        for block in chain([first], blocks):
            file.write(block.tobytes())
