"""``ncsn sample``: draw samples from a run."""

import csv
import hashlib
import importlib
import json
import time
import zipfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console
from ncsn.cli.console import RunOptions, SamplingOptions, check_output
from ncsn.kinds.reading import TABLES
from ncsn.learn.settings import Given
from ncsn.machine.interrupts import Stopped
from ncsn.validation import Count, Seed, counted

if TYPE_CHECKING:
    import numpy as np

    from ncsn.kinds import Transform
    from ncsn.machine.distributed import Group
    from ncsn.run import Drawn, Recipe, Run
    from ncsn.run.options import SamplingOptions as SamplingKeywords

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
            of samples in the memory of 1,000. If the command is killed, the same command continues it. The same command
            also replaces its own picture, but no other file.
        given: Values to condition a table on, such as sex=F or sex=F,age=40; the other columns are drawn given these,
            and rows are written to .csv, .tsv or .parquet.
        overwrite: Replace an existing file.
    """

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("grid.png")
    given: Annotated[Given[str], tyro.conf.arg(metavar="NAME=VALUE,…")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn
        from ncsn import storage
        from ncsn.machine import distributed

        picture = self.out.suffix in PICTURES
        if picture and self.n > MAX_IN_PICTURE:
            raise ValueError(f"n is {self.n}; a picture shows at most {MAX_IN_PICTURE:,}; write more to .npz or .npy")
        if self.out.suffix in TABLES:
            for name in ("pandas", "pyarrow"):  # a missing package shows before sampling starts
                importlib.import_module(name)
        main, run = console.is_main(), ncsn.load(self.run, device=self.device)
        kind = run.recipe.kind
        if self.out.suffix not in kind.writers:
            raise ValueError(f"{self.out}: {kind.noun} can be written to {', '.join(kind.writers)}")
        job = job_of(run, self.n, self.seed, sorted(self.options().items()))
        if main:
            again = picture and storage.was_written_by(job, self.out)
            check_output(self.out, *kind.writers, overwrite=self.overwrite or again)
        if self.given is not None:
            if self.out.suffix not in TABLES:
                raise ValueError(f"{self.out}: with --given, rows can be written to {', '.join(TABLES)}")
            if main:
                self.write_given(run, self.given)
            return
        if not picture:
            write_array(self.out, run, self.n, seed=self.seed, group=distributed.join(), options=self.options())
            return
        write = kind.writers[self.out.suffix]
        if main and write is not None:  # other processes draw no pictures
            keep = kind.kept if self.out.suffix == ".gif" else 0
            drawn = console.draw(run, self.n, seed=self.seed, keep=keep, **self.options())
            with storage.atomic(self.out) as temporary:
                write(drawn.samples, drawn.path, temporary)
                storage.append_seal(temporary, job)
            print(f"{self.out}: {drawn.cost}")

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
        rows = run.sample(self.n, given=values, seed=self.seed, **self.options())
        run.recipe.kind.write_table(run.transform, rows, self.out)
        print(f"{self.out}: {counted(self.n, 'row')} with {given}")


def write_array(
    out: Path,
    run: "Run",
    n: int,
    *,
    seed: int,
    group: "Group",
    options: "SamplingKeywords",
    transform: "Transform | None" = None,
) -> "Drawn | None":
    """Write ``n`` samples of a run to an .npz, an .npy or a table, block by block (``Run.blocks``).

    ``group``: the processes that share the work, in a folder that all of them can access.
    ``transform``: of the array's units; the run's by default.
    Returns the last block; None on all processes but the main one.

    Blocks are files in a hidden folder next to the output.  Its name contains a digest of everything that determines
    the samples, so that a job only continues itself.  Damaged blocks, recognised by their checksums, are redrawn.
    """
    import numpy as np
    import torch

    from ncsn import storage
    from ncsn.run import cost

    usual, kind = next(run.blocks(n, seed=seed, **options)), run.recipe.kind
    job = job_of(run, transform or run.transform, n, seed, sorted(options.items()))
    folder = out.with_name(f".{out.name[:30]}.{job}.partial")
    shape = run.transform.inverse(torch.zeros(1, *run.recipe.shape)).shape[1:]
    shapes = [(min(run.block, n - first), *shape) for first in range(0, n, run.block)]
    paths = [folder / f"{number:06}.npz" for number in range(len(shapes))]
    missing = find_missing(folder, paths, shapes, group)
    began = time.perf_counter()
    console.compile_for(run, n, usual)
    try:
        for number in missing[group.rank :: group.size]:
            steps = next(run.blocks(n, seed=seed, first=number, **options))
            drawn = console.follow(steps, f"block {number + 1} of {len(paths)}", began)
            with storage.atomic(paths[number]) as temporary:
                np.savez(temporary, x=kind.stored(transform or run.transform, drawn.samples))
        group.barrier()
        if not group.is_main:
            return None
        join_blocks(paths, n, out, run.recipe)
        for path in paths:
            path.unlink()
    except Stopped as error:
        raise Stopped(error.number, "; run the same command again to continue") from error
    finally:
        with suppress(OSError):  # blocks to continue from are still in it
            folder.rmdir()
    now = sum(shapes[number][0] for number in missing)
    there = f"; {n - now:,} were already there" if now < n else ""
    print(f"{out}: {cost(now, drawn.steps, drawn.seconds)}{there}")
    return drawn


def job_of(run: "Run", *how: object) -> str:
    """A sha256 of everything that samples depend on."""
    import torch

    from ncsn import __version__

    job = repr((__version__, torch.__version__, run.digest, run.device.type, *how))
    return hashlib.sha256(job.encode()).hexdigest()


def find_missing(folder: Path, paths: list[Path], shapes: list[tuple[int, ...]], group: "Group") -> list[int]:
    """The numbers of the blocks to draw, in a folder without leftovers; the main process tells the others.

    The first is always redrawn, so that the main process can report the cost of samples.
    """
    from ncsn import storage

    missing: list[int] = []
    if group.is_main:
        folder.mkdir(exist_ok=True)
        storage.sweep(folder, everybodys=True)
        missing = [i for i, path in enumerate(paths) if i == 0 or not is_whole(path, shapes[i])]
    return list(json.loads(group.broadcast(json.dumps(missing).encode())))


def read_block(path: Path) -> "np.ndarray":
    """The samples in a block."""
    import numpy as np

    with path.open("rb") as file, np.load(file) as block:
        return np.asarray(block["x"])


def is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether there is an undamaged block of this shape."""
    try:
        return read_block(path).shape == shape
    except Exception:  # numpy and zipfile raise many kinds
        return False


def join_blocks(paths: list[Path], n: int, out: Path, recipe: "Recipe") -> None:
    """Join the blocks of ``n`` samples into an array, in the memory of one block, or into a table."""
    import numpy as np
    from numpy.lib import format

    from ncsn import storage

    if out.suffix in TABLES:
        recipe.kind.write_table(recipe.transform, np.concatenate([read_block(path) for path in paths]), out)
        return
    first = read_block(paths[0])
    header = {"descr": first.dtype.str, "fortran_order": False, "shape": (n, *first.shape[1:])}
    file: IO[bytes]
    with storage.atomic(out) as temporary, ExitStack() as files:
        if out.suffix == ".npy":
            file = files.enter_context(temporary.open("wb"))
        else:
            archive = files.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED))
            file = files.enter_context(archive.open("samples.npy", "w", force_zip64=True))
        format.write_array_header_1_0(file, header)
        for path in paths:
            file.write(read_block(path).tobytes())
