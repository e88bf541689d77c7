"""``ncsn inpaint``, ``denoise``, ``superres`` and ``deblur``: inverse problems with a trained model as the prior."""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ncsn import console
from ncsn.settings import SamplerName

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ncsn.problems import Measurement
    from ncsn.score import Score

Region = Literal["top", "bottom", "left", "right", "centre", "random"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What all inverse problems ask for."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
    input: str = "0"
    """The index of a test image of MNIST, or an image file of the size that the model makes."""
    measured: bool = False
    """The input is the measurement itself; by default it is an image that is to be measured first."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 16
    """How many samples of the posterior."""
    noise: float = 0.05
    """Standard deviation of the measurement's noise, for pixels in [0, 1]."""
    levels: int = 60
    """Noise levels that sampling descends."""
    solver_steps: int = 3
    """Steps of conjugate gradients at each of them."""
    seed: int = 0
    out: Path = Path("picture.png")
    """Where to draw the measurement, the posterior's mean and standard deviation, and its samples."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if min(self.n, self.levels, self.solver_steps) < 1 or not self.noise > 0:
            raise ValueError(
                f"n is {self.n}, levels is {self.levels}, solver steps is {self.solver_steps}, noise is {self.noise}; "
                "allowed are at least 1, and noise above 0"
            )
        if self.out.suffix != ".png":
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed is .png")

    def measure(self, shape: tuple[int, ...]) -> "Measurement":
        """The measurement of examples of this shape."""
        raise NotImplementedError

    def shown(self, y: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """The measurement as an image of this shape: also the guess of somebody without a prior."""
        raise NotImplementedError

    @property
    def sampler(self) -> SamplerName:
        """What follows the posterior's score."""
        return "dpmpp-sde"

    def posterior(self, score: "Score", y: "Tensor", shape: tuple[int, ...], generator: "torch.Generator") -> "Score":
        """The posterior's score."""
        from ncsn.problems import posterior

        return posterior(score, self.measure(shape), y, self.noise, steps=self.solver_steps)

    def __call__(self) -> None:
        """Measure, sample the posterior, and draw."""
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists; give --overwrite to replace it, or another --out")
        import torch

        from ncsn import machine, plots, runs
        from ncsn.data import read_example

        machine.keep_memory()
        folder, began = runs.find(self.run), time.perf_counter()
        model, recipe = runs.load(folder), runs.read_recipe(folder)
        generator = torch.Generator().manual_seed(self.seed)
        measure = self.measure(recipe.shape)
        wanted = measure(torch.zeros(1, *recipe.shape)).shape[1:] if self.measured else recipe.shape
        given = read_example(self.input, tuple(wanted))
        truth = None if self.measured else given
        y = measure(given[None]) if truth is not None else given[None]
        if truth is not None:
            y = y + self.noise * torch.randn(y.shape, generator=generator)
        score = self.posterior(model, y.expand(self.n, *y.shape[1:]), recipe.shape, generator)
        ladder = recipe.states(self.sampler, self.levels)
        start = recipe.start(model, self.n, generator=generator)
        path = recipe.path(score, start, sampler=self.sampler, levels=self.levels, generator=generator)
        (x,) = deque(console.bar(path, len(ladder), f"{self.n} samples"), maxlen=1)
        plots.posterior_page(truth, self.shown(y, recipe.shape)[0], x, self.out)
        quality = ""
        if truth is not None:

            def psnr(guess: "Tensor") -> float:
                return -10 * float((guess.clamp(0, 1) - truth).square().mean().log10())

            quality = (
                f"; PSNR of the posterior's mean {psnr(x.mean(0)):.1f} dB, of a sample {psnr(x[0]):.1f} dB, "
                f"of the measurement {psnr(self.shown(y, recipe.shape)[0]):.1f} dB"
            )
        print(f"{self.out}: {self.n} samples of the posterior{quality}, {time.perf_counter() - began:.1f} s")


@dataclass(frozen=True, kw_only=True)
class Inpaint(Problem):
    """Fill in what is hidden of an image: several answers, their mean and their spread."""

    hide: Region = "bottom"
    """Which half is hidden; the centre; or three quarters of all pixels at random."""
    method: Literal["posterior", "replacement"] = "posterior"
    """Moment matching; or replacing the known pixels at every step of annealed Langevin, as in the NCSN paper."""

    def known(self, shape: tuple[int, ...]) -> "Tensor":
        """Which pixels are known."""
        import torch

        _, height, width = shape
        known = torch.ones(shape, dtype=torch.bool)
        if self.hide == "random":
            drawn = torch.rand(1, height, width, generator=torch.Generator().manual_seed(self.seed)) < 0.25
            return drawn.expand(shape)
        rows = {"top": slice(height // 2), "bottom": slice(height // 2, None)}.get(self.hide, slice(None))
        columns = {"left": slice(width // 2), "right": slice(width // 2, None)}.get(self.hide, slice(None))
        if self.hide == "centre":
            rows, columns = slice(height // 4, -(height // 4)), slice(width // 4, -(width // 4))
        known[:, rows, columns] = False
        return known

    def measure(self, shape: tuple[int, ...]) -> "Measurement":
        """The known pixels."""
        from ncsn.problems import masked

        return masked(self.known(shape))

    def shown(self, y: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """The known pixels, and their mean elsewhere."""
        import torch

        known = self.known(shape)
        image = torch.full((len(y), *shape), 1.0) * y.mean()
        image[:, known] = y
        return image

    @property
    def sampler(self) -> SamplerName:
        """Replacement is made for Langevin dynamics, which meets the known pixels again and again on each level."""
        return "annealed" if self.method == "replacement" else "dpmpp-sde"

    def posterior(self, score: "Score", y: "Tensor", shape: tuple[int, ...], generator: "torch.Generator") -> "Score":
        """By either method."""
        if self.method == "posterior":
            return super().posterior(score, y, shape, generator)
        from ncsn.problems import replacement

        return replacement(score, self.known(shape), self.shown(y, shape), generator=generator)


@dataclass(frozen=True, kw_only=True)
class Denoise(Problem):
    """Remove noise from an image: several answers, their mean and their spread."""

    noise: float = 0.5
    """Standard deviation of the noise, for pixels in [0, 1]."""

    def measure(self, shape: tuple[int, ...]) -> "Measurement":
        """All pixels."""
        from ncsn.problems import identity

        return identity

    def shown(self, y: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """The noisy image."""
        return y


@dataclass(frozen=True, kw_only=True)
class Superres(Problem):
    """Enlarge an image: several answers, their mean and their spread."""

    factor: int = 4
    """How many pixels of the answer, each way, make one of the input."""

    def measure(self, shape: tuple[int, ...]) -> "Measurement":
        """Means over squares."""
        from ncsn.problems import downsampled

        if self.factor < 1 or shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(f"factor is {self.factor}; it must divide the {shape[1]} x {shape[2]} pixels of the model")
        return downsampled(self.factor)

    def shown(self, y: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """Every square in its mean."""
        return y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


@dataclass(frozen=True, kw_only=True)
class Deblur(Problem):
    """Sharpen an image: several answers, their mean and their spread."""

    blur: float = 2.0
    """Standard deviation of the Gaussian blur in pixels."""

    def measure(self, shape: tuple[int, ...]) -> "Measurement":
        """The blur."""
        from ncsn.problems import blurred

        if not self.blur > 0:
            raise ValueError(f"blur is {self.blur}; it must be positive")
        return blurred(self.blur)

    def shown(self, y: "Tensor", shape: tuple[int, ...]) -> "Tensor":
        """The blurred image."""
        return y
