"""``ncsn sample``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ncsn.cli import console, drawing
from ncsn.cli.options import HowToSample, OfRun, check_suffix
from ncsn.files import Job, Stream, check_out, streamed
from ncsn.validation import Count, Seed, check_ranges

if TYPE_CHECKING:
    from ncsn.distributed import Group
    from ncsn.run import Run

FRAMES = (1500, 36)  # how many points or images an animation shows
PICTURES = (".png", ".gif")
MOST = 10_000  # samples in a picture


@dataclass(frozen=True, kw_only=True)
class Sample(HowToSample, OfRun):
    """Draw samples from a run: a picture, their way out of the noise, or any number of them for a program."""

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples; a picture shows up to 10,000."""
    seed: Seed = 0
    """The same seed gives the same samples on one machine."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid; .gif for the way of up to 36 images out of the noise; .npz for an array under
    the key samples, .npy for one alone, for images (n, c, h, w) in the numbers of their files: mostly uint8; a
    name without suffix for a folder of PNG images.  All but pictures take any number of samples, in the memory of
    1,000, and go on after a kill: by the same command, with the same samples."""
    overwrite: bool = False
    """Replace an existing file, or such a folder; and what another command has left unfinished in its place."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.out.suffix:
            check_suffix(self.out, *PICTURES, ".npz", ".npy", "none for a folder of PNG images")
        if self.out.suffix in PICTURES and self.n > MOST:
            raise ValueError(
                f"n is {self.n}; a picture shows at most {MOST}: more go into .npz, .npy or a folder, by --out"
            )

    def __call__(self) -> None:
        """Draw, and write."""
        if not console.follows():
            check_out(self.out, overwrite=self.overwrite, directory=not self.out.suffix)
        import ncsn
        from ncsn import distributed

        run, group = ncsn.load(self.run, device=self.device), distributed.join()
        if not group.leads:
            self.help_along(run, group)
            return
        print(f"{self.out}: {self.draw(run) if self.out.suffix in PICTURES else self.stream(run, group)}")

    def help_along(self, run: "Run", group: "Group") -> None:
        """Draw some of the samples that another process writes; pictures are its work alone."""
        if self.out.suffix not in PICTURES:
            done = int(group.share())
            for _ in drawing.draw_blocks(run, self.n, seed=self.seed, done=done, group=group, **self.how()):
                pass

    def draw(self, run: "Run") -> str:
        """Draw a picture; returns what it cost."""
        from ncsn import plots

        images, moving = run.recipe.images, self.out.suffix == ".gif"
        if not images and run.recipe.shape != (2,):
            raise ValueError(f"{self.run} has points of shape {run.recipe.shape}: no picture shows them; --out x.npz")
        drawn = drawing.draw(run, self.n, seed=self.seed, keep=FRAMES[images] if moving else 0, **self.how())
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
        """Write samples into what grows with them; returns what they cost."""
        import numpy as np

        shape = (self.n, *run.recipe.shape)
        dtype = np.dtype(run.recipe.depth.dtype if run.recipe.images else "float32")
        try:
            with streamed(self.out, self.job(run), shape, dtype, block=run.block, overwrite=self.overwrite) as stream:
                return self.fill(stream, run, group)
        except OSError as error:
            raise ValueError(f"{self.out} cannot be written ({error.strerror or error})") from error

    def fill(self, stream: "Stream", run: "Run", group: "Group") -> str:
        """Draw what is not there yet, block by block; returns what that cost."""
        from ncsn.run import cost

        before, seconds = stream.done, 0.0
        group.share(str(before).encode())
        if before:
            print(f"going on at {before:,} of {self.n:,}", file=sys.stderr)
        said = f"{before} samples were there"
        try:
            for drawn in drawing.draw_blocks(run, self.n, seed=self.seed, done=before, group=group, **self.how()):
                x = drawn.samples
                stream.write(run.recipe.depth.restored(x) if run.recipe.images else x.numpy())
                seconds += drawn.seconds
                now = cost(stream.done - before, drawn.sampling.sampler, drawn.nfe, drawn.guide_nfe, seconds)
                said = f"{now}, after {before} that were there" if before else now
        except KeyboardInterrupt as error:
            if stream.done:
                console.stopped(error, f" at {stream.done:,} of {self.n:,} samples; the same command goes on")
            raise
        return said

    def job(self, run: "Run") -> "Job":
        """All that determines the samples."""
        from importlib.metadata import version

        by = {name: version(name) for name in ("ncsn", "torch")}
        about = {"run": run.digest[:16], "device": str(run.device), "n": self.n, "seed": self.seed}
        return {**by, **about, **self.how()}
