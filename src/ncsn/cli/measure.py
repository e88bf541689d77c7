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
from ncsn.validation import NoiseLevel, Seed

if TYPE_CHECKING:
    from ncsn import Run


IMAGES_AT_ONCE = 32  # in a batch of likelihoods
NUMBERS, PAGE, SAMPLES = FILES = ("evaluation.json", "evaluation.png", "evaluation.npz")


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions):
    """Measure sample quality, and print each metric next to its value for real examples.

    Args:
        data: Where the run's training data is now, if it has moved; for a table that was trained on in Python, a file
            with its rows.
        features: The features that distances are measured in: pixels, classifier (trained on the data's classes, and
            cached) or efficientnet. auto uses the classifier in the package for MNIST, classifier for other data with
            classes, and for data without classes efficientnet if it is installed, otherwise pixels.
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
        from ncsn.evaluation import output
        from ncsn.machine import storage

        run = ncsn.load(self.run, device=self.device)
        if not run.examples.guided and self.features != "auto":
            raise ValueError(f"--features {self.features} would be ignored: only images have features")
        out = self.out or (self.run if self.run == run.folder else Path())
        storage.check_files(out, FILES, overwrite=self.overwrite)
        next(run.blocks(1, seed=self.seed, **self.options()))  # rejects options of sampling without a wait of minutes
        data = run.data(self.data)
        log.info(f"data: {data.name}, {data.describe()}")
        # Before sampling, for the same reason.
        ruler = output.ruler(run, data, self.features, self.n)
        out.mkdir(exist_ok=True)
        drawn = write_array(out / SAMPLES, run, ruler.n, seed=self.seed, options=self.options(), judged=True)
        samples = torch.from_numpy(np.load(out / SAMPLES)["samples"])
        result = ruler.judge(samples)
        facts: dict[str, object] = {
            "source": str(self.run),
            "run_digest": run.digest,
            "seed": self.seed,
            "class": self.label,
            "sampling": asdict(drawn.steps.sampling),
            "nfe": drawn.steps.nfe,
            "guide_nfe": drawn.steps.guide_nfe,
            "sampling_seconds": drawn.seconds,
            "data": data.name,
            "data_digest": data.digest,
        }
        ruler.show(samples, out / PAGE)
        # Written last, so that a folder with this file has a complete evaluation.
        storage.write_json(out / NUMBERS, facts | result.report())
        if self.label not in (None, "any", "none"):
            log.info(f"note: these samples are all of class {self.label}, but the test examples are of every class")
        log.info(result)
        log.info(f"{out}: {', '.join(FILES)}")


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunOptions):
    """Compute the likelihood of test images, in bits per dimension with error bars.

    In Python, ``run.log_prob`` returns the log density of each image, signal or row of a table.

    Args:
        n: Number of test images.
        probes: Random directions for estimating the divergence of the score.
        sigma_min: The noise level at which the density is evaluated; the run's smallest by default.
        tolerance: Relative and absolute tolerance of the ODE solver.
        seed: Seed of the random directions and of the choice of images.
    """

    n: Annotated[int, Interval(ge=2, le=10**9), tyro.conf.arg(name="n", aliases=["-n"])] = 64
    probes: Annotated[int, Interval(ge=2, le=10**4)] = 4
    sigma_min: Given[NoiseLevel] = None
    tolerance: Annotated[float, Interval(ge=1e-10, le=1)] = 1e-3
    seed: Seed = 0

    def __call__(self) -> None:
        import torch

        import ncsn
        from ncsn.batching import dequantize
        from ncsn.run.steps import block_seed

        began = time.perf_counter()
        advice = "in Python, run.log_prob returns log densities of any data"
        run = console.load_run_of_images(self.run, self.device, advice)
        test = run.data().test
        generator = torch.Generator().manual_seed(self.seed)
        pixels = test[torch.randperm(len(test), generator=generator)[: self.n]]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n = len(x)
        dimensions = x.shape[1:].numel()
        sigma_min = self.sigma_min or run.recipe.sampling.sigma_min
        batches = run.log_densities(
            x,
            batch_size=IMAGES_AT_ONCE,
            seed=block_seed(self.seed, 1),  # another seed, because this one has already chosen the images
            sigma_min=sigma_min,
            probes=self.probes,
            tolerance=self.tolerance,
        )
        densities = list(bar(batches, f"{n} images", total=math.ceil(n / IMAGES_AT_ONCE), unit="state"))
        bits = ncsn.bits_per_dimension(torch.cat([batch.log_prob for batch in densities]), dimensions)
        errors = torch.cat([batch.standard_error for batch in densities]) / (dimensions * math.log(2))
        units = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error = bits.std() / n**0.5
        nfe = max(batch.nfe for batch in densities)
        log.info(
            f"{bits.mean():.3f} bits/dim ± {error:.3f} (over {n} test images; ± {errors.mean():.3f} per image over "
            f"{self.probes} probes), for {units} with noise {sigma_min:g}; up to {nfe} evaluations, "
            f"{time.perf_counter() - began:.0f} s"
        )


@dataclass(frozen=True, kw_only=True)
class Calibrate(RunOptions):
    """Test whether draws of missing values are calibrated: whether 90 % intervals contain nine truths out of ten.

    Parts of known rows or signals are hidden, and drawn as impute would.  For images, use ncsn.calibrate in Python.

    Args:
        hide: For a table, the columns to draw given the others, or a share of the cells, chosen at random (by default
            0.5); for signals, a share of the length.
        rows: A table with empty cells, or an .npy of signals with NaN: what is missing there is hidden in known
            examples.
        truths: Samples of the run test how posteriors are drawn; held-out examples also test the model.
        n: Trials per source of truths, at least 30.
        seed: The same seed gives the same trials on one machine.
        out: The picture of ranks, coverage and TARP.
        overwrite: Replace an existing file.
    """

    hide: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN [COLUMN ...]|SHARE")] = ()
    rows: Given[Path] = None
    truths: Literal["both", "run", "held-out"] = "both"
    n: Annotated[int, Interval(ge=30, le=10**5), tyro.conf.arg(name="n", aliases=["-n"])] = 300
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("calibration.png")
    overwrite: bool = False

    def __call__(self) -> None:
        """Calibrate, print and draw."""
        import ncsn
        from ncsn.run.imputation import ImputingRun

        check_output(self.out, ".png", overwrite=self.overwrite)
        run = ncsn.load(self.run, device=self.device)
        if not isinstance(run, ImputingRun):
            advice = "use ncsn.calibrate(run, measure=...) in Python"
            raise ValueError(f"the run generates {run.examples.noun}; {advice}")
        result = ncsn.calibrate(run, hidden=self.hidden(run), truths=self.truths, n=self.n, seed=self.seed)
        ncsn.plots.calibration(result.ranks, self.out)
        log.info(f"{result}\n{self.out}: ranks, coverage and TARP")

    def hidden(self, run: "Run") -> object:
        """What ``calibrate`` hides in rows and signals, from the options."""
        import ncsn

        if self.rows is not None:
            from ncsn.tables.read import read_rows

            if self.hide:
                raise ValueError("--hide and --rows both say what to hide; give one of them")
            return run._numbers(read_rows(self.rows)).isnan().numpy()
        if len(self.hide) == 1 and self.hide[0] not in getattr(run.transform, "names", ()):  # an array's are 0, 1, …
            with suppress(ValueError):
                return float(self.hide[0])
        if self.hide and isinstance(run, ncsn.SignalRun):
            raise ValueError(f"--hide is {' '.join(self.hide)}; {run.examples.noun} take a share of the length")
        return self.hide or None
