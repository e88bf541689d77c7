"""``ncsn inpaint``, ``denoise``, ``superres``, ``deblur``, ``impute`` and ``doubt``: a run as the prior."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions, check_output
from ncsn.machine.messages import log
from ncsn.settings import TABLES, Given, Reading
from ncsn.validation import Count, Levels, Region, Seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ncsn import PosteriorRun, Run
    from ncsn.measurements import Measurement
    from ncsn.run.steps import Drawn, PosteriorSteps

Shape = tuple[int, ...]
Noise = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class Problem(RunOptions):
    """Options of all inverse problems on images.

    Args:
        input: The index of a test image, or an image file, which is resized to the run's images.
        measured: The input is the measurement itself. By default it is an image that ncsn measures first.
        n: Number of posterior samples.
        noise: Standard deviation of the measurement noise, for pixels in [0, 1].
        levels: Number of noise levels; by default 60, or more if the range of noise is wide. With replacement, the
            default is that of annealed Langevin dynamics.
        particles: Number of particles. The more there are, the closer samples are to the exact posterior. At each level
            a particle takes a backward pass for every measured number, or for every pixel if half of the pixels are
            known. The default for more than 64 pixels is 1: moment matching without particles. Several particles also
            give the evidence log p(y) of the model and the measurement, with its standard error.
        seed: The same seed gives the same samples on the same machine.
        out: The picture of the measurement and the posterior's mean, standard deviation and samples.
        overwrite: Replace an existing file.
    """

    input: Annotated[str, tyro.conf.arg(metavar="INDEX|FILE")] = "0"
    measured: bool = False
    n: Annotated[int, Interval(ge=1, le=1000), tyro.conf.arg(name="n", aliases=["-n"])] = 16
    noise: Noise = 0.05
    levels: Given[Levels] = None
    particles: Given[Annotated[int, Interval(ge=1, le=100_000)]] = None
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("picture.png")
    overwrite: bool = False

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The measurement of images of this shape, and a function that turns it back into an image without a prior."""
        raise NotImplementedError

    def posterior(self, run: "Run", measure: "Measurement", y: "Tensor") -> "PosteriorRun":
        """The posterior of the run given the measurement ``y``, ready to be sampled."""
        return run.posterior(measure, y, noise_std=self.noise)

    def __call__(self) -> None:
        import torch

        import ncsn
        from ncsn.images import read_example
        from ncsn.metrics import psnr

        check_output(self.out, ".png", overwrite=self.overwrite)
        run = console.load_run_of_images(self.run, self.device, "this command needs a run of images")
        measure, to_image = self.problem(run.recipe.shape)
        measured_shape = tuple(measure(torch.zeros(run.recipe.shape)[None]).shape[1:])
        is_mask = len(measured_shape) == 1  # the file is the whole image, and hidden pixels are ignored
        read_measurement = self.measured and not is_mask
        file_shape = measured_shape if read_measurement else run.recipe.shape
        reading = Reading() if run.origin is None else run.origin.reading
        images = run.data() if self.input.isdecimal() else None
        image = read_example(self.input, file_shape, images, reading, run.transform, fit=not self.measured)
        y = image[None] if read_measurement else measure(image[None])
        generator = torch.Generator().manual_seed(self.seed)
        if not self.measured:
            y = y + self.noise * torch.randn(y.shape, generator=generator)
        posterior = self.posterior(run, measure, y)
        drawn, steps = self.draw(posterior, generator if run.device.type == "cpu" else self.seed)
        x = drawn.samples
        (measured_image,) = to_image(y)
        ncsn.plots.posterior_page(None if self.measured else image, measured_image, x, self.out)
        quality = f", {steps.backward} backward passes each" if steps.backward else ""
        if steps.particles == 1:
            quality += posterior.posterior.caveat
        else:
            quality += f"; {steps.particles} particles, effective sample size {steps.effective:.0f}"
        if steps.weight is not None:
            log_evidence, error = float(steps.weight.log_evidence), float(steps.weight.standard_error)
            quality += f"; log evidence {log_evidence:.2f} ± {error:.2f} nats"
        if self.measured:
            log.info(f"{self.out}: {drawn.cost}{quality}")
            return
        of_mean, of_sample, of_measurement = (psnr(guess, image) for guess in (x.mean(0), x[0], measured_image))
        quality += f"; PSNR of the posterior's mean {of_mean:.1f} dB, of a sample {of_sample:.1f} dB"
        log.info(f"{self.out}: {drawn.cost}{quality}, of the measurement {of_measurement:.1f} dB")
        if of_mean < of_measurement:
            why = "perhaps its noise is small, or the image unlike the training data"
            log.warning(f"the measurement is closer to the true image than the posterior's mean: {why}")

    def draw(self, posterior: "PosteriorRun", seed: "int | torch.Generator") -> "tuple[Drawn, PosteriorSteps]":
        """Draw the posterior's samples under a progress bar; returns them, and the iterator that drew them."""
        began = time.perf_counter()
        steps = posterior.steps(self.n, seed=seed, levels=self.levels, particles=self.particles)
        return console.follow(steps, f"{self.n} samples", began), steps


@dataclass(frozen=True, kw_only=True)
class Inpaint(Problem):
    """Fill in hidden pixels: posterior samples, their mean and standard deviation.

    Args:
        hide: The hidden pixels: a half, the centre, or three quarters of all pixels at random.
        method: posterior is moment matching, or particles. replacement is the NCSN paper's method: known pixels, which
            are taken as exact, are replaced at every step of annealed Langevin dynamics.
    """

    hide: Region = "bottom"
    method: Literal["posterior", "replacement"] = "posterior"

    def known(self, shape: Shape) -> "Tensor":
        import torch

        from ncsn.posteriors import known_pixels

        channels, height, width = shape
        generator = torch.Generator().manual_seed(self.seed)
        return known_pixels((channels, height, width), self.hide, generator=generator)

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The measurement keeps the known pixels; the image shows hidden pixels as the mean of the known ones."""
        from ncsn.posteriors import masked

        known = self.known(shape)

        def filled(y: "Tensor") -> "Tensor":
            images = y.mean(1)[:, None, None, None].repeat(1, *shape)
            images[:, known] = y
            return images

        return masked(known), filled

    def posterior(self, run: "Run", measure: "Measurement", y: "Tensor") -> "PosteriorRun":
        if self.method == "posterior":
            return super().posterior(run, measure, y)
        _, shown = self.problem(run.recipe.shape)
        return run.replacement(self.known(run.recipe.shape), shown(y))


@dataclass(frozen=True, kw_only=True)
class Denoise(Problem):
    """Denoise an image: posterior samples, their mean and standard deviation.

    Args:
        noise: Standard deviation of the noise, for pixels in [0, 1].
    """

    noise: Noise = 0.5

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The measurement keeps all pixels, and the image shows them unchanged."""
        return (lambda x: x), (lambda y: y)


@dataclass(frozen=True, kw_only=True)
class Superres(Problem):
    """Enlarge an image: posterior samples, their mean and standard deviation.

    Args:
        factor: How much larger the result is than the input, in each direction.
    """

    factor: Count = 4

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The measurement is the means over squares; the image shows each mean as a square of equal pixels."""
        from ncsn.posteriors import downsampled

        k = self.factor
        if shape[1] % k or shape[2] % k:
            raise ValueError(f"factor is {k}; it must divide the {shape[1]} x {shape[2]} pixels of the model")
        return downsampled(k), lambda y: y.repeat_interleave(k, -1).repeat_interleave(k, -2)


@dataclass(frozen=True, kw_only=True)
class Deblur(Problem):
    """Deblur an image: posterior samples, their mean and standard deviation.

    Args:
        blur: Standard deviation of the Gaussian blur in pixels.
    """

    blur: Annotated[float, Interval(ge=0.01, le=100)] = 2.0

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The measurement blurs; the image shows the result unchanged."""
        from ncsn.posteriors import blurred

        return blurred(self.blur), lambda y: y


@dataclass(frozen=True, kw_only=True)
class Impute(RunOptions):
    """Impute the missing values of a table or of signals: point estimates, their uncertainty, and draws.

    Numbers are imputed with the mean of the draws and its standard deviation; columns of text, and columns of two
    values, with the most frequent draw and its share.  Signals are imputed with the mean of the draws.

    Args:
        rows: A table with the run's column names, whose empty cells are imputed. To condition on some columns, leave
            the others empty. A .parquet may be larger than memory. For a run of signals, an .npy with NaN for missing
            values.
        n: Number of draws of each missing value.
        seed: The same seed gives the same draws on the same machine.
        out: The output table (.csv, .tsv or .parquet): the completed rows, then, for every column with missing values,
            its standard deviation (sd) or share, and its draws. For signals, an .npy.
        draws: A second table, with every draw of each incomplete row as a complete row. For signals, an .npy of shape
            (draws, n, channels, length).
        overwrite: Replace existing files.
    """

    rows: tyro.conf.Positional[Path]
    n: Annotated[int, Interval(ge=2, le=1000), tyro.conf.arg(name="n", aliases=["-n"])] = 20
    seed: Seed = 0
    out: Path = Path("filled.csv")
    draws: Given[Path] = None
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn
        from ncsn.run.imputation import ImputingRun

        for path in (self.out, self.draws or self.out):
            check_output(path, *TABLES, ".npy", overwrite=self.overwrite)
        if self.draws is not None and self.draws.resolve() == self.out.resolve():
            raise ValueError(f"out and draws are both {self.out}; give two different files")
        run = ncsn.load(self.run, device=self.device)
        if not isinstance(run, ImputingRun):
            raise ValueError(f"{self.run} generates {run.examples.noun}; use ncsn inpaint instead")
        for line in run.impute_file(self.rows, self.n, self.seed, self.out, self.draws):
            log.info(line)


@dataclass(frozen=True, kw_only=True)
class Doubt(RunOptions):
    """Find cells of a table that may be wrong, by their distribution given the rest of their row.

    Args:
        rows: A table with the run's column names. Empty cells are not judged.
        out: The output table (.csv, .tsv or .parquet), with a line for each cell, the most doubtful first: row (counted
            from 1), column, value, expected (the 5 % and 95 % quantiles, or the most probable value), p_value, and
            p_corrected for the number of cells.
        overwrite: Replace an existing file.
    """

    rows: tyro.conf.Positional[Path]
    out: Path = Path("doubts.csv")
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn
        from ncsn.tables.frames import write_frame
        from ncsn.tables.read import read_frame

        check_output(self.out, *TABLES, overwrite=self.overwrite)
        run = ncsn.load(self.run, device=self.device)
        if not isinstance(run, ncsn.TableRun):
            raise ValueError(f"{self.run} generates {run.examples.noun}; only cells of a table can be doubted")
        doubts = run.doubt(read_frame(self.rows).reset_index(drop=True))
        doubts["row"] += 1
        write_frame(doubts.astype({"value": str, "expected": str}), self.out)
        doubtful = int((doubts["p_corrected"] <= 0.05).sum())
        log.info(f"{self.out}: {len(doubts):,} cells, of which {doubtful:,} are doubtful (p_corrected at most 0.05)")
