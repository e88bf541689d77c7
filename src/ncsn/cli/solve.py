"""``ncsn inpaint``, ``denoise``, ``superres``, ``deblur``, ``impute``: inverse problems with a model as the prior."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions, check_output
from ncsn.kinds.reading import TABLES, Reading
from ncsn.learn.settings import Given
from ncsn.validation import Count, Levels, Region, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn import Run
    from ncsn.posteriors import Measurement

Shape = tuple[int, ...]
Noise = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class Problem(RunOptions):
    """What all inverse problems ask for.

    Args:
        input: The index of a test image of the run's data, or an image file, which is fitted to the size of the run's.
        data: Where the data set is that the run was trained on, if it has moved.
        measured: The input is the measurement itself. By default it is an image, and ncsn measures it first.
        n: How many samples of the posterior.
        noise: Standard deviation of the measurement's noise, for pixels in [0, 1].
        levels: How many noise levels sampling descends; by default twice as many as suit the default sampler, or what
            suits annealed Langevin dynamics for replacement.
        solver_steps: Steps of conjugate gradients at each level.
        particles: How many particles compete for the samples. With many, samples follow the exact posterior; each takes
            a backward pass for each measured number at each level, or for each pixel if half of these are known. For
            more than 64 pixels the default is 1, which is the approximation alone.
        evidence: Print log p(y), the evidence of the model and of what is measured together, with its standard error,
            for at most 64 pixels.
        seed: The same seed gives the same samples on one machine.
        out: Where to draw the measurement, the posterior's mean and standard deviation, and its samples.
        overwrite: Replace an existing file.
    """

    input: Annotated[str, tyro.conf.arg(metavar="INDEX|FILE")] = "0"
    data: Annotated[Given[str], tyro.conf.arg(metavar="PLACE")] = None
    measured: bool = False
    n: Annotated[int, Interval(ge=1, le=1000), tyro.conf.arg(name="n", aliases=["-n"])] = 16
    noise: Noise = 0.05
    levels: Given[Levels] = None
    solver_steps: Annotated[int, Interval(ge=1, le=1000)] = 3
    particles: Given[Annotated[int, Interval(ge=1, le=100_000)]] = None
    evidence: bool = False
    seed: Seed = 0
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("picture.png")
    overwrite: bool = False

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """What is measured of images of this shape, and a measurement as an image: somebody's guess without a prior."""
        raise NotImplementedError

    def posterior(self, run: "Run", measure: "Measurement", y: "Tensor") -> "Run":
        """The run of the posterior."""
        return run.posterior(measure, y, noise_std=self.noise, solver_steps=self.solver_steps)

    def __call__(self) -> None:
        """Measure, sample the posterior, and draw."""
        import torch

        import ncsn
        from ncsn.kinds.images.read import read_example
        from ncsn.metrics import psnr
        from ncsn.posteriors.particles import MAX_FOR_PARTICLES

        check_output(self.out, ".png", overwrite=self.overwrite)
        run = ncsn.load(self.run, device=self.device)
        console.require(run, "images", self.run, "a run of images is needed")
        numbers = math.prod(run.recipe.shape)
        if self.evidence and (numbers > MAX_FOR_PARTICLES or self.particles == 1):
            raise ValueError(
                f"--evidence takes particles, of at most {MAX_FOR_PARTICLES} pixels; the run has {numbers}"
            )
        measure, shown = self.problem(run.recipe.shape)
        file_shape = tuple(measure(torch.zeros(run.recipe.shape)[None]).shape[1:])
        known = len(file_shape) == 1  # pixels of an image: a file holds it whole, and others than these do not matter
        measured = file_shape if self.measured and not known else run.recipe.shape
        reading = Reading() if run.origin is None else run.origin.reading
        images = run.data(self.data) if self.input.isdecimal() else None
        depth = run.transform
        image = read_example(self.input, measured, images, reading, depth, fit=not self.measured)
        y = image[None] if self.measured and not known else measure(image[None])
        generator = torch.Generator().manual_seed(self.seed)
        if not self.measured:
            y = y + self.noise * torch.randn(y.shape, generator=generator)
        seed = generator if run.device.type == "cpu" else self.seed
        posterior = self.posterior(run, measure, y)
        drawn = console.draw(posterior, self.n, seed=seed, levels=self.levels, particles=self.particles)
        (guess,), x = shown(y), drawn.samples
        ncsn.plots.posterior_page(None if self.measured else image, guess, x, self.out)
        quality = f", {drawn.steps.backward} backward passes each" if drawn.steps.backward else ""
        if drawn.steps.particles > 1:
            quality += f"; {drawn.steps.particles} particles, effective sample size {drawn.steps.effective:.0f}"
            if self.evidence and (weight := drawn.steps.weight):
                quality += f"; log evidence {float(weight.log_evidence):.2f} ± {float(weight.standard_error):.2f} nats"
        elif posterior.posterior_score is not None:
            quality += posterior.posterior_score.caveat
        if not self.measured:
            quality += f"; PSNR of the posterior's mean {psnr(x.mean(0), image):.1f} dB"
            quality += f", of a sample {psnr(x[0], image):.1f} dB, of the measurement {psnr(guess, image):.1f} dB"
        print(f"{self.out}: {drawn.cost}{quality}")


@dataclass(frozen=True, kw_only=True)
class Inpaint(Problem):
    """Fill in what is hidden of an image: several answers, their mean and their spread.

    Args:
        hide: What is hidden: a half, the centre, or three quarters of all pixels at random.
        method: posterior is moment matching, or particles. replacement is the NCSN paper's way: it replaces the known
            pixels at every step of annealed Langevin dynamics, and takes them for exact.
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
        """The known pixels; they, and their mean elsewhere."""
        from ncsn.posteriors import masked

        if self.method == "replacement":
            self.refuse("solver_steps", "evidence", of="answers of moment matching")
        known = self.known(shape)

        def filled(y: "Tensor") -> "Tensor":
            images = y.mean(1)[:, None, None, None].repeat(1, *shape)
            images[:, known] = y
            return images

        return masked(known), filled

    def posterior(self, run: "Run", measure: "Measurement", y: "Tensor") -> "Run":
        if self.method == "posterior":
            return super().posterior(run, measure, y)
        _, shown = self.problem(run.recipe.shape)
        return run.replacement(self.known(run.recipe.shape), shown(y))


@dataclass(frozen=True, kw_only=True)
class Denoise(Problem):
    """Remove noise from an image: several answers, their mean and their spread.

    Args:
        noise: Standard deviation of the noise, for pixels in [0, 1].
    """

    noise: Noise = 0.5

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """All pixels, as they are."""
        return (lambda x: x), (lambda y: y)


@dataclass(frozen=True, kw_only=True)
class Superres(Problem):
    """Enlarge an image: several answers, their mean and their spread.

    Args:
        factor: So many pixels of the answer, each way, make one pixel of the input.
    """

    factor: Count = 4

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """Means over squares; every square in its mean."""
        from ncsn.posteriors import downsampled

        k = self.factor
        if shape[1] % k or shape[2] % k:
            raise ValueError(f"factor is {k}; it must divide the {shape[1]} x {shape[2]} pixels of the model")
        return downsampled(k), lambda y: y.repeat_interleave(k, -1).repeat_interleave(k, -2)


@dataclass(frozen=True, kw_only=True)
class Deblur(Problem):
    """Sharpen an image: several answers, their mean and their spread.

    Args:
        blur: Standard deviation of the Gaussian blur in pixels.
    """

    blur: Annotated[float, Interval(gt=0, le=100)] = 2.0

    def problem(self, shape: Shape) -> "tuple[Measurement, Measurement]":
        """The blur; the blurred image."""
        from ncsn.posteriors import blurred

        return blurred(self.blur), lambda y: y


@dataclass(frozen=True, kw_only=True)
class Impute(RunOptions):
    """Fill in the blanks of a table by what a run knows: their means, standard deviations, and draws; or of signals.

    Columns of text, and of two values, are filled in with the value that most draws have, and its share.  Signals are
    filled in with the means of the draws.

    Args:
        rows: A table with the run's columns, by their names; blank cells are filled in. Rows in which some columns
            are given ask for the others. For a run of signals an .npy of them with NaN where there are gaps.
        n: How many draws of each blank.
        seed: The same seed gives the same draws on one machine.
        out: .csv, .tsv or .parquet: the rows with blanks filled in; after them, for every column with blanks, its
            standard deviations (sd) or shares, and its draws. Of signals .npy.
        draws: A second table, of whole rows: as many of each row with blanks as there are draws. Of signals .npy,
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

        for path in (self.out, self.draws or self.out):
            check_output(path, *TABLES, ".npy", overwrite=self.overwrite)
        if self.draws is not None and self.draws.resolve() == self.out.resolve():
            raise ValueError(f"out and draws are both {self.out}; give two files")
        run = ncsn.load(self.run, device=self.device)
        for line in run.recipe.kind.impute_file(run, self.rows, self.n, self.seed, self.out, self.draws):
            print(line)
