"""``ncsn sample``: samples of a run."""

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
from ncsn.validation import Count, Seed

if TYPE_CHECKING:
    import numpy as np

    from ncsn.kinds import Transform
    from ncsn.machine.distributed import Group
    from ncsn.run import Drawn, Recipe, Run
    from ncsn.run.options import SamplingOptions as SamplingKeywords

PICTURES = (".png", ".gif")
MOST = 10_000  # samples in a picture


@dataclass(frozen=True, kw_only=True)
class Sample(SamplingOptions, RunOptions):
    """Draw samples from a run: a picture, one of how they come out of the noise, or any number of them for a program.

    Args:
        n: How many samples; a picture shows up to 10,000.
        seed: The same seed gives the same samples on one machine.
        out: Where to write. .png is a grid, or the first six of signals. .gif shows the way of up to 36 images out of
            the noise. .npz is an array under the key samples, and .npy is an array alone; images are (n, c, h, w) in
            the numbers of their files, mostly uint8. .csv and .tsv are rows of a table. Arrays take any
            number of samples in the memory of 1,000. After a kill the same command continues, with the same samples.
        given: Exact values of columns of a table, such as sex=F or sex=F,age=40; the other columns are drawn given
            these, as by ncsn impute, and rows are written into .csv, .tsv or .parquet.
        overwrite: Replace an existing file.
    """

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("grid.png")
    given: Annotated[Given[str], tyro.conf.arg(metavar="NAME=VALUE,…")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn
        from ncsn.machine import distributed

        picture = self.out.suffix in PICTURES
        if picture and self.n > MOST:
            raise ValueError(f"n is {self.n}; a picture shows at most {MOST}; write more to .npz or .npy")
        if self.out.suffix in TABLES:
            for name in ("pandas", "pyarrow"):  # what is missing turns up before anything is drawn
                importlib.import_module(name)
        main, run = console.is_main(), ncsn.load(self.run, device=self.device)
        kind = run.recipe.kind
        if self.out.suffix not in kind.writers:
            raise ValueError(f"{self.out}: {kind.noun} are written into {', '.join(kind.writers)}")
        if main:
            check_output(self.out, *kind.writers, overwrite=self.overwrite)
        if self.given is not None:
            if self.out.suffix not in TABLES:
                raise ValueError(f"{self.out}: with --given, rows are written into {', '.join(TABLES)}")
            if main:
                self.write_given(run, self.given)
            return
        if not picture:
            write_array(self.out, run, self.n, seed=self.seed, group=distributed.join(), options=self.options())
            return
        write = kind.writers[self.out.suffix]
        if main and write is not None:  # only the leading process draws pictures
            keep = kind.kept if self.out.suffix == ".gif" else 0
            drawn = console.draw(run, self.n, seed=self.seed, keep=keep, **self.options())
            write(drawn.samples, drawn.path, self.out)
            print(f"{self.out}: {drawn.cost}")

    def write_given(self, run: "Run", given: str) -> None:
        """Write rows with given values into a table."""
        pairs = [part.partition("=") for part in next(csv.reader([given]), [])]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise ValueError(f"given is {given!r}; NAME=VALUE is needed, such as sex=F, and commas between several")
        values = {name.strip(): value for name, _, value in pairs}
        rows = run.sample(self.n, given=values, seed=self.seed, **self.options())
        run.recipe.kind.write_table(run.transform, rows, self.out)
        print(f"{self.out}: {self.n} rows with {given}")


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
    """Write ``n`` samples of a run, in ``Run.blocks``, into an .npz or .npy, or a table; returns the last block.

    ``group``: the processes that share the work, in a folder that all of them see; others than the leading one get
    None.
    ``transform``: which units an array has; by default the run's.

    Blocks are files in a hidden folder beside the output.  Its name holds a digest of all that determines the samples,
    so a job goes on from no other's.  An .npz has checksums: a block that is damaged is drawn again.
    """
    import numpy as np
    import torch

    from ncsn import __version__, storage
    from ncsn.run import cost

    usual, kind = next(run.blocks(n, seed=seed, **options)), run.recipe.kind
    transform = transform or run.transform
    how = (transform, n, seed, sorted(options.items()))
    job = repr((__version__, torch.__version__, run.digest, run.device.type, *how))
    digest = hashlib.sha256(job.encode()).hexdigest()
    folder = out.with_name(f".{out.name[:30]}.{digest}.partial")
    shape = run.transform.inverse(torch.zeros(1, *run.recipe.shape)).shape[1:]
    shapes = [(min(run.block, n - first), *shape) for first in range(0, n, run.block)]
    paths = [folder / f"{number:06}.npz" for number in range(len(shapes))]
    missing: list[int] = []
    if group.is_main:
        folder.mkdir(exist_ok=True)
        storage.sweep(folder, everybodys=True)
        # The first block is always drawn: the leading process then knows what samples cost.
        missing = [i for i, path in enumerate(paths) if i == 0 or not whole(path, shapes[i])]
    missing = json.loads(group.broadcast(json.dumps(missing).encode()))
    began = time.perf_counter()
    console.compile_for(run, n, usual)
    try:
        for number in missing[group.rank :: group.size]:
            steps = next(run.blocks(n, seed=seed, first=number, **options))
            drawn = console.follow(steps, f"block {number + 1} of {len(paths)}", began)
            with storage.atomic(paths[number]) as temporary:
                np.savez(temporary, x=kind.stored(transform, drawn.samples))
        group.barrier()
        if not group.is_main:
            return None
        join_blocks(paths, n, out, run.recipe)
        for path in paths:
            path.unlink()
    except Stopped as error:
        raise Stopped(error.number, "; the same command continues") from error
    finally:
        with suppress(OSError):  # it holds blocks to go on from
            folder.rmdir()
    now = sum(shapes[number][0] for number in missing)
    there = f", after {n - now} from before" if now < n else ""
    print(f"{out}: {cost(now, drawn.steps, drawn.seconds)}{there}")
    return drawn


def rows(path: Path) -> "np.ndarray":
    """The samples of a block."""
    import numpy as np

    with path.open("rb") as file, np.load(file) as block:
        return np.asarray(block["x"])


def whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a block of this shape is there, and undamaged."""
    try:
        return rows(path).shape == shape
    except Exception:  # of many kinds, by what is damaged
        return False


def join_blocks(paths: list[Path], n: int, out: Path, recipe: "Recipe") -> None:
    """The blocks of ``n`` samples become one array, in the memory of one block; or a table, which is held whole."""
    import numpy as np
    from numpy.lib import format

    from ncsn import storage

    if out.suffix in TABLES:
        recipe.kind.write_table(recipe.transform, np.concatenate([rows(path) for path in paths]), out)
        return
    first = rows(paths[0])
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
            file.write(rows(path).tobytes())
