"""``ncsn evaluate``, ``ncsn likelihood`` and ``ncsn info``: numbers about a run."""

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions, SamplingOptions
from ncsn.cli.sample import write_array
from ncsn.learn.settings import Given
from ncsn.validation import NoiseLevel, Seed, read_json

if TYPE_CHECKING:
    from ncsn.run import Run

ROWS = 500  # of a table, whose densities are computed together
PART = 32  # images whose likelihood is computed together
NUMBERS, PAGE, SAMPLES = FILES = ("evaluation.json", "evaluation.png", "evaluation.npz")


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions, RunOptions):
    """Measure how good a run's samples are: every number beside real images'.

    Args:
        data: Where the data set is that the run was trained on, if it has moved.
        features: What distances are measured in: pixels, classifier (trained on the data's classes, and kept) or
            efficientnet. auto is the classifier in the package for MNIST, classifier for other data with classes, and
            efficientnet for data without.
        n: How many samples, if there are as many test images or training rows. Numbers from fewer than 10,000 are not
            comparable with others.
        target: A column of a table: how well trees predict it on held-out rows that have learned from samples, next to
            trees that have learned from as many training rows.
        seed: The same seed gives the same samples on one machine.
        out: A folder for evaluation.json, evaluation.png and the samples, evaluation.npz; by default the run's, or this
            one for a run of the package or the hub.
        overwrite: Replace an earlier evaluation there.
    """

    data: Annotated[Given[str], tyro.conf.arg(metavar="PLACE")] = None
    features: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    n: Annotated[int, Interval(ge=100, le=10**4), tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    target: Annotated[Given[str], tyro.conf.arg(metavar="NAME")] = None
    seed: Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        """Draw samples, judge them, and write the numbers."""
        import numpy as np
        import torch

        import ncsn
        from ncsn import storage
        from ncsn.machine import distributed

        run, group = ncsn.load(self.run, device=self.device), distributed.join()
        kind = run.recipe.kind
        if not kind.guided:
            self.refuse("features", of="evaluations of images")
        out = self.out or (self.run if self.run == run.folder else Path())
        ruler = None
        if group.is_main:
            for path in [out / name for name in FILES] if out.is_dir() else [out]:
                storage.check_out(path, overwrite=self.overwrite)
            data = run.data(self.data)
            print(f"data: {data.name}, {data.describe()}")
            # Before sampling, so that unsuitable features are rejected without a wait of minutes.
            ruler = kind.ruler(run, data, self.features, self.n, self.target)
            out.mkdir(exist_ok=True)
        n = int(group.broadcast(str(ruler and ruler.n).encode()))
        units = kind.units_to_judge(run.transform)
        drawn = write_array(out / SAMPLES, run, n, seed=self.seed, group=group, options=self.options(), transform=units)
        if ruler is None or drawn is None:
            return
        samples = torch.from_numpy(np.load(out / SAMPLES)["samples"])
        result = ruler.judge(samples)
        facts: dict[str, object] = {"source": str(self.run), "run_digest": run.digest, "seed": self.seed}
        facts |= {
            "class": self.label,
            "target": self.target,
            "sampling": asdict(drawn.steps.sampling),
            "nfe": drawn.steps.nfe,
        }
        facts |= {"guide_nfe": drawn.steps.guide_nfe, "data": data.name, "data_digest": data.digest}
        facts |= {"sampling_seconds": drawn.seconds}
        ruler.show(samples, out / PAGE)
        # After everything else: who sees it has all of the evaluation.
        storage.write_json(out / NUMBERS, facts | result.report())
        if self.label not in (None, "any", "none"):
            print(f"note: the samples are of class {self.label}; the examples are of all, so they differ in any case")
        print(result)
        print(f"{out}: {', '.join(FILES)}")


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunOptions):
    """The likelihood of the test images under a model, in bits per dimension, with error bars; or of a table's rows.

    In Python ``run.log_prob`` gives the number of every image.

    Args:
        rows: A table with the run's columns: the log density of each of its rows in nats, in the units of the columns.
        out: Where to write densities, .csv, .tsv or .parquet.
        overwrite: Replace an existing file.
        n: How many test images.
        data: Where the data set is that the run was trained on, if it has moved.
        probes: Random directions in which the divergence of the score is measured; by default 4, or of up
            to 16 columns all directions.
        sigma_min: The noise level whose density is taken for the data's; by default the run's smallest.
        tolerance: Relative and absolute error of each step of the solver; by default 1e-3 for images, 1e-4 for rows.
        seed: Of the random directions.
    """

    rows: tyro.conf.Positional[Given[Path]] = None
    out: Path = Path("density.csv")
    overwrite: bool = False
    n: Annotated[int, Interval(ge=2, le=10**9), tyro.conf.arg(name="n", aliases=["-n"])] = 64
    data: Annotated[Given[str], tyro.conf.arg(metavar="PLACE")] = None
    probes: Given[Annotated[int, Interval(ge=2, le=10**4)]] = None
    sigma_min: Given[NoiseLevel] = None
    tolerance: Given[Annotated[float, Interval(ge=1e-10, le=1)]] = None
    seed: Seed = 0

    def __call__(self) -> None:
        if not console.is_main():  # under torchrun the leading process does it alone
            return
        import torch

        import ncsn
        from ncsn.quantization import dequantize
        from ncsn.run import block_seed

        began = time.perf_counter()
        if self.rows is None:
            self.refuse("out", "overwrite", of="likelihoods of rows")
        else:
            self.refuse("n", "data", of="likelihoods of test images")
        run = ncsn.load(self.run, device=self.device)
        if self.rows is not None:
            self.write_densities(run, self.rows)
            return
        console.require(run, "images", self.run, f"for rows, ncsn likelihood {self.run} rows.csv")
        test, generator = run.data(self.data).test, torch.Generator().manual_seed(self.seed)
        pixels = test[torch.randperm(len(test), generator=generator)[: self.n]]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n, dimensions = len(x), x.shape[1:].numel()
        # The generator of the seed itself has chosen the images.
        seed, sigma_min = block_seed(self.seed, 1), self.sigma_min or run.recipe.sampling.sigma_min
        probes = self.probes or 4
        states = run.likelihoods(
            x, sigma_min=sigma_min, probes=probes, tolerance=self.tolerance or 1e-3, batch_size=PART, seed=seed
        )
        parts = list(console.bar(states, f"{n} images", total=-(-n // PART)))
        bits = ncsn.bits_per_dimension(torch.cat([part.log_prob for part in parts]), dimensions)
        errors = torch.cat([part.standard_error for part in parts]) / (dimensions * math.log(2))
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error, nfe = bits.std() / n**0.5, max(part.nfe for part in parts)
        print(
            f"{bits.mean():.3f} bits/dim ± {error:.3f} (over {n} test images; ± {errors.mean():.3f} an image over "
            f"{probes} probes), for {what} with noise {sigma_min:g}; up to {nfe} evaluations, "
            f"{time.perf_counter() - began:.0f} s"
        )

    def write_densities(self, run: "Run", place: Path) -> None:
        """The log density of each row of a table; a row with blanks has none."""
        import pandas
        import torch

        from ncsn.kinds.reading import TABLES
        from ncsn.kinds.tables.read import read_rows, write_frame

        console.require(run, "rows", self.run, "only tables have rows")
        console.check_output(self.out, *TABLES, overwrite=self.overwrite)
        x = run.recipe.kind.numbers(run, read_rows(place))
        whole, density = ~x.isnan().any(1), x[:, 0] * torch.nan
        if not bool(whole.any()):
            raise ValueError(f"{place} has no row without missing values; only such rows have a density")
        run.transform.check(x)  # before rows with gaps are left out, for their numbers
        # A looser solver makes rows likelier than they are, by up to a tenth of a nat.
        states = run.likelihoods(
            x[whole],
            sigma_min=self.sigma_min,
            probes=self.probes,
            tolerance=self.tolerance or 1e-4,
            seed=self.seed,
            batch_size=ROWS,
        )
        parts = console.bar(states, "log densities", total=-(-int(whole.sum()) // ROWS))
        density[whole] = torch.cat([part.log_prob for part in parts])
        write_frame(pandas.DataFrame({"log_density": density.numpy()}), self.out)
        print(f"{self.out}: log densities of {int(whole.sum())} rows, {density[whole].mean():.3f} nats on average")


@dataclass(frozen=True, kw_only=True)
class Info(RunOptions):
    """Print what a run is, and its numbers: its config.json and metrics.json."""

    def __call__(self) -> None:
        """Print how large it is, and its files."""
        import ncsn

        run = ncsn.load(self.run, device=self.device)
        print(f"{run.parameters:,} weights, {run.guide_parameters:,} of a guide")
        # Through a reader, because a terminal would take what a stranger has written for orders.
        for path in ((run.folder or self.run) / name for name in ("config.json", "metrics.json")):
            if path.exists():
                print(f"{path.name}: {json.dumps(read_json(path), indent=2)}")
