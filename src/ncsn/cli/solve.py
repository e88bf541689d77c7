"""``ncsn inpaint``, ``denoise``, ``superres`` and ``deblur``: inverse problems with a trained model as the prior."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from annotated_types import Interval

from ncsn.cli import drawing
from ncsn.cli.options import RunOptions, check_suffix
from ncsn.cli.sample import example
from ncsn.learn.settings import given_ones
from ncsn.validation import Count, Levels, Region, Seed, check_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.problems import Measurement
    from ncsn.run import Run

Shape = tuple[int, int, int]
Answers = Annotated[int, Interval(ge=1, le=1000)]
Noise = Annotated[float, Interval(gt=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class Problem(RunOptions):
    """What all inverse problems ask for.

    Args:
        input: The index of a test image of the run's data, or an image file, which is fitted to the size of the run's.
        data: Where the data set is that the run was trained on, if it has moved.
        measured: The input is the measurement itself; by default it is an image that is to be measured first.
        n: How many samples of the posterior.
        noise: Standard deviation of the measurement's noise, for pixels in [0, 1].
        levels: Noise levels that sampling descends; by default twice as many as suit the default sampler, or 100 for
            replacement.
        solver_steps: Steps of conjugate gradients at each of them.
        out: Where to draw the measurement, the posterior's mean and standard deviation, and its samples.
        overwrite: Replace an existing file.
    """

    input: str = "0"
    data: str | None = None
    measured: bool = False
    n: Annotated[Answers, tyro.conf.arg(name="n", aliases=["-n"])] = 16
    noise: Noise = 0.05
    levels: Levels | None = None
    solver_steps: Annotated[int, Interval(ge=1, le=1000)] = 3
    seed: Seed = 0
    out: Path = Path("picture.png")
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        check_suffix(self.out, ".png")

    def measure(self, shape: Shape) -> "Measurement":
        """The measurement of examples of this shape."""
        raise NotImplementedError

    def shown(self, y: "Tensor", shape: Shape) -> "Tensor":
        """The measurement as an image of this shape: also the guess of somebody without a prior."""
        raise NotImplementedError

    def file_shape(self, shape: Shape) -> tuple[int, ...]:
        """The shape of the file that holds a measurement of an image of this shape."""
        import torch

        return tuple(self.measure(shape)(torch.zeros(1, *shape)).shape[1:])

    def taken(self, y: "Tensor", shape: Shape) -> "Tensor":
        """The measurement as a file holds it."""
        return y

    def posterior(self, run: "Run", y: "Tensor", shape: Shape) -> "Run":
        """The run of the posterior."""
        return run.posterior(self.measure(shape), y, noise_std=self.noise, solver_steps=self.solver_steps)

    def __call__(self) -> None:
        """Measure, sample the posterior, and draw."""
        from ncsn.storage import check_out

        check_out(self.out, overwrite=self.overwrite)
        import torch

        import ncsn
        from ncsn import plots
        from ncsn.evaluation import metrics

        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points of shape {run.recipe.shape}; a run of images is needed")
        channels, height, width = run.recipe.shape
        shape = (channels, height, width)
        measure = self.measure(shape)
        image = example(run, self.input, measured=self.file_shape(shape) if self.measured else None, data=self.data)
        generator = torch.Generator().manual_seed(self.seed)
        if self.measured:
            truth, y = None, self.taken(image[None], shape)
        else:
            truth, y = image, measure(image[None])
            y = y + self.noise * torch.randn(y.shape, generator=generator)
        seed = generator if run.device.type == "cpu" else self.seed
        drawn = drawing.draw(self.posterior(run, y, shape), self.n, seed=seed, levels=self.levels)
        guess, x = self.shown(y, shape)[0], drawn.samples
        plots.posterior_page(truth, guess, x, self.out)
        quality = ""
        if truth is not None:
            mean, sample, raw = (metrics.psnr(answer, truth) for answer in (x.mean(0), x[0], guess))
            quality = f"; PSNR of the posterior's mean {mean:.1f} dB, of a sample {sample:.1f} dB"
            quality += f", of the measurement {raw:.1f} dB"
        print(f"{self.out}: {drawn.cost}{quality}")


@dataclass(frozen=True, kw_only=True)
class Inpaint(Problem):
    """Fill in what is hidden of an image: several answers, their mean and their spread.

    Args:
        hide: Which half is hidden; the centre; or three quarters of all pixels at random.
        method: Moment matching; or replacing the known pixels at every step of annealed Langevin, as in the NCSN paper.
    """

    hide: Region = "bottom"
    method: Literal["posterior", "replacement"] = "posterior"

    def __post_init__(self) -> None:
        """Refuse what the method does not know."""
        super().__post_init__()
        if self.method == "replacement" and given_ones(self, ["solver_steps"]):
            raise ValueError(f"solver_steps is {self.solver_steps}, but replacement solves nothing")
        if self.method == "replacement" and self.measured and given_ones(self, ["noise"]):
            raise ValueError(f"noise is {self.noise:g}, but replacement takes what is measured as it is")

    def known(self, shape: Shape) -> "Tensor":
        """Which pixels are known."""
        import torch

        from ncsn.problems import known_pixels

        return known_pixels(shape, self.hide, generator=torch.Generator().manual_seed(self.seed))

    def measure(self, shape: Shape) -> "Measurement":
        """The known pixels."""
        from ncsn.problems import masked

        return masked(self.known(shape))

    def file_shape(self, shape: Shape) -> tuple[int, ...]:
        """An image; what it shows of the hidden pixels does not matter."""
        return shape

    def taken(self, y: "Tensor", shape: Shape) -> "Tensor":
        """What is known of the image in the file."""
        return self.measure(shape)(y)

    def shown(self, y: "Tensor", shape: Shape) -> "Tensor":
        """The known pixels, and their mean elsewhere."""
        from ncsn.problems import mean_filled

        return mean_filled(self.known(shape), y)

    def posterior(self, run: "Run", y: "Tensor", shape: Shape) -> "Run":
        """By either method."""
        if self.method == "posterior":
            return super().posterior(run, y, shape)
        return run.replacement(self.known(shape), self.shown(y, shape))


@dataclass(frozen=True, kw_only=True)
class Denoise(Problem):
    """Remove noise from an image: several answers, their mean and their spread.

    Args:
        noise: Standard deviation of the noise, for pixels in [0, 1].
    """

    noise: Noise = 0.5

    def measure(self, shape: Shape) -> "Measurement":
        """All pixels."""
        from ncsn.problems import identity

        return identity

    def shown(self, y: "Tensor", shape: Shape) -> "Tensor":
        """The noisy image."""
        return y


@dataclass(frozen=True, kw_only=True)
class Superres(Problem):
    """Enlarge an image: several answers, their mean and their spread.

    Args:
        factor: How many pixels of the answer, each way, make one of the input.
    """

    factor: Count = 4

    def measure(self, shape: Shape) -> "Measurement":
        """Means over squares."""
        from ncsn.problems import downsampled

        if shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(f"factor is {self.factor}; it must divide the {shape[1]} x {shape[2]} pixels of the model")
        return downsampled(self.factor)

    def shown(self, y: "Tensor", shape: Shape) -> "Tensor":
        """Every square in its mean."""
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


@dataclass(frozen=True, kw_only=True)
class Deblur(Problem):
    """Sharpen an image: several answers, their mean and their spread.

    Args:
        blur: Standard deviation of the Gaussian blur in pixels.
    """

    blur: Annotated[float, Interval(gt=0, le=100)] = 2.0

    def measure(self, shape: Shape) -> "Measurement":
        """The blur."""
        from ncsn.problems import blurred

        return blurred(self.blur)

    def shown(self, y: "Tensor", shape: Shape) -> "Tensor":
        """The blurred image."""
        return y
