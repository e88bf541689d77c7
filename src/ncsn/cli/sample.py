"""``ncsn sample`` and ``ncsn interpolate``: samples of a run, and walks between them."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval

from ncsn.cli import console, drawing
from ncsn.cli.options import RunOptions, SamplingOptions, check_suffix
from ncsn.validation import Count, Levels, Seed, check_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.files import SamplingJob, Stream
    from ncsn.machine.distributed import Group
    from ncsn.run import Run

SHOWN_POINTS, SHOWN_IMAGES = 1500, 36  # in an animation
PICTURE_SUFFIXES, FILES = (".png", ".gif"), (".npz", ".npy")
MOST = 10_000  # samples in a picture


@dataclass(frozen=True, kw_only=True)
class Sample(SamplingOptions, RunOptions):
    """Draw samples from a run: a picture, their way out of the noise, or any number of them for a program.

    Args:
        n: How many samples; a picture shows up to 10,000.
        seed: The same seed gives the same samples on one machine.
        out: Where to write: .png for a grid; .gif for the way of up to 36 images out of the noise; .npz for an array
            under the key samples, .npy for one alone, for images (n, c, h, w) in the numbers of their files: mostly
            uint8; a name without suffix for a folder of PNG images. All but pictures take any number of samples, in the
            memory of 1,000, and go on after a kill: by the same command, with the same samples.
        overwrite: Replace an existing file, or such a folder; and what another command has left unfinished in its
            place.
    """

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    seed: Seed = 0
    out: Path = Path("grid.png")
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.out.suffix:
            check_suffix(self.out, *PICTURE_SUFFIXES, *FILES, "none for a folder of PNG images")
        if self.out.suffix in PICTURE_SUFFIXES and self.n > MOST:
            raise ValueError(f"n is {self.n}; a picture shows at most {MOST}: more go into .npz, .npy or a folder")

    def __call__(self) -> None:
        """Draw, and write."""
        from ncsn.storage import check_out

        if not console.follows():
            check_out(self.out, overwrite=self.overwrite, directory=not self.out.suffix)
        import ncsn
        from ncsn.machine import distributed

        run, group = ncsn.load(self.run, device=self.device), distributed.join()
        picture = self.out.suffix in PICTURE_SUFFIXES
        if group.leads:
            print(f"{self.out}: {self.draw(run) if picture else self.stream(run, group)}")
        elif not picture:  # the leading process draws pictures alone
            done = int(group.share())
            list(drawing.draw_blocks(run, self.n, seed=self.seed, done=done, group=group, **self.how()))

    def draw(self, run: "Run") -> str:
        """Draw a picture; returns what it cost."""
        from ncsn import plots

        images, moving = run.recipe.images, self.out.suffix == ".gif"
        if not images and run.recipe.shape != (2,):
            raise ValueError(f"{self.run} has points of shape {run.recipe.shape}: no picture shows them; --out x.npz")
        shown = SHOWN_IMAGES if images else SHOWN_POINTS
        drawn = drawing.draw(run, self.n, seed=self.seed, keep=shown if moving else 0, **self.how())
        if moving and images:
            plots.evolution_animation(drawn.path, self.out)
        elif moving:
            states = [(f"σ = {sigma:.2f}", x) for sigma, x in drawn.path]
            plots.trajectories(states, self.out, view=plots.extent_of(drawn.samples))
        elif images:
            plots.image_grid(drawn.samples, self.out, columns=min(self.n, max(8, round(self.n**0.5))))
        else:
            panel = (f"{self.n} samples, {drawn.sampling.sampler}", drawn.samples)
            plots.scatter_panels([[panel]], self.out, view=plots.extent_of(drawn.samples))
        return drawn.cost

    def stream(self, run: "Run", group: "Group") -> str:
        """Write samples into an output that grows with them; returns what they cost."""
        import numpy as np

        from ncsn.files import streamed

        shape = (self.n, *run.recipe.shape)
        dtype = np.dtype(run.recipe.depth.dtype if run.recipe.images else "float32")
        try:
            with streamed(self.out, self.job(run), shape, dtype, block=run.block, overwrite=self.overwrite) as stream:
                return self.fill(stream, run, group)
        except OSError as error:
            raise ValueError(f"{self.out} cannot be written ({error.strerror or error})") from error

    def fill(self, stream: "Stream", run: "Run", group: "Group") -> str:
        """Draw what is not there yet, block by block; returns what that cost."""
        before, seconds, spent = stream.done, 0.0, ""
        group.share(str(before).encode())
        if before:
            print(f"going on at {before:,} of {self.n:,}", file=sys.stderr)
        try:
            for drawn in drawing.draw_blocks(run, self.n, seed=self.seed, done=before, group=group, **self.how()):
                x = drawn.samples
                stream.write(run.recipe.depth.restored(x) if run.recipe.images else x.numpy())
                seconds += drawn.seconds
                spent = replace(drawn, samples=x[:1].expand(stream.done - before, *x.shape[1:]), seconds=seconds).cost
        except KeyboardInterrupt as error:
            if stream.done:
                console.stopped(error, f" at {stream.done:,} of {self.n:,} samples; the same command goes on")
            raise
        return f"{spent or 'nothing was missing'}, after {before} that were there" if before else spent

    def job(self, run: "Run") -> "SamplingJob":
        """All that determines the samples."""
        from importlib.metadata import version

        versions = {name: version(name) for name in ("ncsn", "torch")}
        about = {"run": run.digest[:16], "device": str(run.device), "n": self.n, "seed": self.seed}
        return {**versions, **about, **self.how()}


@dataclass(frozen=True, kw_only=True)
class Interpolate(RunOptions):
    """Walk from one image to another: along the sphere of noise that the probability flow maps to images.

    Args:
        n: How many walks, one a row.
        steps: Images on each, the two ends included.
        levels: Noise levels that Heun's method descends; by default what suits it.
        overwrite: Replace an existing file.
    """

    n: Annotated[int, Interval(ge=1, le=100), tyro.conf.arg(name="n", aliases=["-n"])] = 6
    steps: Annotated[int, Interval(ge=2, le=100)] = 12
    levels: Levels | None = None
    seed: Seed = 0
    out: Path = Path("interpolation.png")
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.levels == 1:
            raise ValueError("levels is 1; Heun's method needs at least 2")
        check_suffix(self.out, ".png")

    def __call__(self) -> None:
        """Walk, and draw."""
        from ncsn.storage import check_out

        check_out(self.out, overwrite=self.overwrite)
        import ncsn
        from ncsn import plots

        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points; only images are interpolated")
        walk = run.walk(self.n, self.steps, seed=self.seed)
        # The walk begins in noise of all classes, so no class is told.
        way = {"start": walk, "sampler": "heun", "levels": self.levels, "label": "none"}
        drawn = drawing.draw(run, len(walk), seed=0, keep=0, batch_size=500, description="walking", **way)
        plots.image_grid(drawn.samples, self.out, columns=self.steps)
        print(f"{self.out}: {self.n} walks of {self.steps} images; {drawn.cost}")


def example(run: "Run", name: str, *, measured: tuple[int, ...] | None = None, data: str | None = None) -> "Tensor":
    """A test image of the run's data by its index, or an image file fitted to the run's images; pixels in [0, 1].

    ``measured``: the shape of a measurement, which the file must have.  ``data``: where the data set is now.
    Raises ValueError if there is no such image.
    """
    from ncsn.data import Reading, read_example

    reading = Reading() if run.origin is None else run.origin.reading
    shape = run.recipe.shape if measured is None else measured
    images = run.data(data) if name.isdecimal() else None
    return read_example(name, shape, images, reading, run.recipe.depth, fit=measured is None)
