"""``ncsn evaluate``, ``ncsn likelihood`` and ``ncsn calibrate``: numbers about a run."""

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions, SamplingOptions, check_output, write_array
from ncsn.machine.messages import bar, log
from ncsn.settings import Given
from ncsn.validation import NoiseLevel, Seed, counted

if TYPE_CHECKING:
    from ncsn import Run


IMAGES_AT_ONCE = 32  # in a batch of likelihoods
NUMBERS, PAGE, SAMPLES = FILES = ("evaluation.json", "evaluation.png", "evaluation.npz")


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions):
    """Measure sample quality, and print each metric next to its value for real examples.

    Args:
        data: Where the run's training data is now, if it has moved.
        features: The features that distances are measured in: pixels, classifier (trained on the data's classes, and
            cached) or efficientnet. auto uses the classifier in the package for MNIST, classifier for other data with
            classes, and efficientnet for data without.
        n: Number of samples; limited by the number of held-out examples. Results from fewer than 10,000
            images aren't comparable with published ones.
        seed: The same seed gives the same samples on the same machine.
        out: The folder for evaluation.json, evaluation.png and the samples, evaluation.npz. Defaults to the run's
            folder, or to the current one for the model in the package and for runs on the hub.
        overwrite: Replace an earlier evaluation there.
    """

    data: Annotated[Given[str], tyro.conf.arg(metavar="DATA")] = None
    features: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    n: Annotated[int, Interval(ge=100, le=10**4), tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    seed: Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        import numpy as np
        import torch

        import ncsn
        from ncsn.machine import storage

        run = ncsn.load(self.run, device=self.device)
        kind = run.recipe.kind
        if not kind.guided:
            self.refuse("features", of="evaluations of images")
        out = self.out or (self.run if self.run == run.folder else Path())
        storage.check_files(out, FILES, overwrite=self.overwrite)
        data = run.data(self.data)
        log.info(f"data: {data.name}, {data.describe()}")
        # Before sampling, so that unsuitable features are rejected without a wait of minutes.
        ruler = kind.ruler(run, data, self.features, self.n)
        out.mkdir(exist_ok=True)
        drawn = write_array(
            out / SAMPLES, run, ruler.n, seed=self.seed, options=self.options(), transform=kind.judged_in
        )
        samples = torch.from_numpy(np.load(out / SAMPLES)["samples"])
        result = ruler.judge(samples)
        facts: dict[str, object] = {"source": str(self.run), "run_digest": run.digest, "seed": self.seed}
        facts |= {"class": self.label, "sampling": asdict(drawn.steps.sampling)}
        facts |= {"nfe": drawn.steps.nfe, "guide_nfe": drawn.steps.guide_nfe, "sampling_seconds": drawn.seconds}
        facts |= {"data": data.name, "data_digest": data.digest}
        ruler.show(samples, out / PAGE)
        # Written last, so that a folder with this file has a complete evaluation.
        storage.write_json(out / NUMBERS, facts | result.report())
        if self.label not in (None, "any", "none"):
            log.info(f"note: these samples are all of class {self.label}, but the test examples are of every class")
        log.info(result)
        log.info(f"{out}: {', '.join(FILES)}")


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunOptions):
    """Compute the likelihood of test images, in bits per dimension with error bars, or of the rows of a table.

    In Python, ``run.log_prob`` returns the log density of each example.

    Args:
        rows: A table with the run's columns; the log density of each row is in nats, in the units of the columns.
        out: The output file for the densities: .csv, .tsv or .parquet.
        overwrite: Replace an existing file.
        n: Number of test images.
        data: Where the run's training data is now, if it has moved.
        probes: Random directions for estimating the divergence of the score; 4 by default. For up to 16 columns the
            divergence is exact by default.
        sigma_min: The noise level at which the density is evaluated; the run's smallest by default.
        tolerance: Relative and absolute tolerance of the ODE solver; by default 1e-3 for images and 1e-4 for rows.
        seed: Seed of the random directions and of the choice of images.
    """

    rows: tyro.conf.Positional[Given[Path]] = None
    out: Path = Path("density.csv")
    overwrite: bool = False
    n: Annotated[int, Interval(ge=2, le=10**9), tyro.conf.arg(name="n", aliases=["-n"])] = 64
    data: Annotated[Given[str], tyro.conf.arg(metavar="DATA")] = None
    probes: Given[Annotated[int, Interval(ge=2, le=10**4)]] = None
    sigma_min: Given[NoiseLevel] = None
    tolerance: Given[Annotated[float, Interval(ge=1e-10, le=1)]] = None
    seed: Seed = 0

    def __call__(self) -> None:
        import torch

        import ncsn
        from ncsn.batching import dequantize
        from ncsn.run.run import block_seed, log_densities

        began = time.perf_counter()
        if self.rows is None:
            self.refuse("out", "overwrite", of="likelihoods of rows")
        else:
            self.refuse("n", "data", of="likelihoods of test images")
        run = ncsn.load(self.run, device=self.device)
        if self.rows is not None:
            self.write_densities(run, self.rows)
            return
        console.require(run, "images", self.run, f"for rows, use ncsn likelihood {self.run} rows.csv")
        test, generator = run.data(self.data).test, torch.Generator().manual_seed(self.seed)
        pixels = test[torch.randperm(len(test), generator=generator)[: self.n]]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n, dimensions = len(x), x.shape[1:].numel()
        # Another seed, because this one has already chosen the images.
        seed, sigma_min = block_seed(self.seed, 1), self.sigma_min or run.recipe.sampling.sigma_min
        probes, tolerance = self.probes or 4, self.tolerance or 1e-3
        states = log_densities(
            run, x, sigma_min=sigma_min, probes=probes, tolerance=tolerance, batch_size=IMAGES_AT_ONCE, seed=seed
        )
        parts = list(bar(states, f"{n} images", total=-(-n // IMAGES_AT_ONCE), unit="state"))
        bits = ncsn.bits_per_dimension(torch.cat([part.log_prob for part in parts]), dimensions)
        errors = torch.cat([part.standard_error for part in parts]) / (dimensions * math.log(2))
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error, nfe = bits.std() / n**0.5, max(part.nfe for part in parts)
        log.info(
            f"{bits.mean():.3f} bits/dim ± {error:.3f} (over {n} test images; ± {errors.mean():.3f} per image over "
            f"{probes} probes), for {what} with noise {sigma_min:g}; up to {nfe} evaluations, "
            f"{time.perf_counter() - began:.0f} s"
        )

    def write_densities(self, run: "Run", place: Path) -> None:
        """Write the log density of each row of a table; rows with missing values have none."""
        import pandas
        import torch

        from ncsn.settings import TABLES
        from ncsn.tables.frames import write_frame
        from ncsn.tables.read import read_rows

        console.require(run, "rows", self.run, "only tables have rows")
        console.check_output(self.out, *TABLES, overwrite=self.overwrite)
        x = run.recipe.kind.numbers(run, read_rows(place))
        whole, density = ~x.isnan().any(1), x[:, 0] * torch.nan
        if not bool(whole.any()):
            missing = run.transform.place(0, int(x[0].isnan().long().argmax()))
            raise ValueError(f"{place} has no complete row, and only these have a density; {missing} is missing")
        run.transform.check(x)  # before incomplete rows are dropped, so that the row in an error message is the file's
        # A looser tolerance overestimates the density by up to a tenth of a nat.
        tolerance = self.tolerance or 1e-4
        density[whole] = run.log_prob(
            x[whole], sigma_min=self.sigma_min, probes=self.probes, tolerance=tolerance, seed=self.seed
        )
        write_frame(pandas.DataFrame({"log_density": density.numpy()}), self.out)
        log.info(
            f"{self.out}: log densities of {counted(int(whole.sum()), 'row')}, mean {density[whole].mean():.3f} nats"
        )


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
        seed: The same seed gives the same trials on one machine.
        out: The picture of ranks, coverage and TARP.
        overwrite: Replace an existing file.
    """

    hide: tuple[str, ...] = ()
    rows: Given[Path] = None
    truths: Literal["both", "run", "held-out"] = "both"
    data: Annotated[Given[str], tyro.conf.arg(metavar="DATA")] = None
    n: Annotated[int, Interval(ge=30, le=10**5), tyro.conf.arg(name="n", aliases=["-n"])] = 300
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("calibration.png")
    overwrite: bool = False

    def __call__(self) -> None:
        """Calibrate, print and draw."""
        import ncsn
        from ncsn.run.run import imputation_of

        check_output(self.out, ".png", overwrite=self.overwrite)
        run = ncsn.load(self.run, device=self.device)
        imputation_of(run, "use run.calibrate(measure=...) in Python")
        known = None if self.data is None else run.held_out(self.data)
        result = run.calibrate(known, hidden=self.hidden(run), truths=self.truths, n=self.n, seed=self.seed)
        ncsn.plots.calibration(result.ranks, self.out)
        log.info(f"{result}\n{self.out}: ranks, coverage and TARP")

    def hidden(self, run: "Run") -> object:
        """What to hide of rows and signals."""
        if self.rows is not None:
            from ncsn.tables.read import read_rows

            self.refuse("hide", of="calibrations without --rows")
            return run.recipe.kind.numbers(run, read_rows(self.rows)).isnan().numpy()
        with suppress(ValueError, TypeError):
            return float(*self.hide) if self.hide else None
        return self.hide
