"""``ncsn interpolate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from annotated_types import Interval

from ncsn.cli import drawing
from ncsn.cli.options import OfRun, check_suffix
from ncsn.files import check_out
from ncsn.learn.settings import given_ones
from ncsn.validation import Levels, Seed, check_ranges

Walks = Annotated[int, Interval(ge=1, le=100)]


@dataclass(frozen=True, kw_only=True)
class Interpolate(OfRun):
    """Walk from one image to another: along the sphere of noise that the probability flow maps to images."""

    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """The image to walk from, with --to: the index of a test image of the run's data, or a file.  Default: samples."""
    end: Annotated[str | None, tyro.conf.arg(name="to")] = None
    """The image to walk to."""
    data: str | None = None
    """Where the data set is that the run was trained on, if it has moved."""
    n: Annotated[Walks, tyro.conf.arg(name="n", aliases=["-n"])] = 6
    """How many walks, one a row; between given images there is one."""
    steps: Annotated[int, Interval(ge=2, le=100)] = 12
    """Images on each, the two ends included."""
    levels: Levels | None = None
    """Noise levels that Heun's method descends; by default what suits it."""
    seed: Seed = 0
    out: Path = Path("interpolation.png")
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.levels == 1:
            raise ValueError("levels is 1; Heun's method needs at least 2")
        if (self.start is None) != (self.end is None):
            raise ValueError("of --from and --to only one is given; both are needed, or none")
        if self.start is not None and given_ones(self, ("n", "seed")):
            raise ValueError("-n and --seed are about walks between samples; between given images there is one")
        if self.start is None and self.data is not None:
            raise ValueError("--data is where the images of --from and --to are, which are not given")
        check_suffix(self.out, ".png")

    def __call__(self) -> None:
        """Walk, and draw."""
        check_out(self.out, overwrite=self.overwrite)
        import torch

        import ncsn
        from ncsn import plots
        from ncsn.cli.examples import example

        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points; only images are interpolated")
        if self.start is None or self.end is None:
            n, walk, guidance = self.n, run.walk(self.n, self.steps, seed=self.seed), None
        else:
            ends = torch.stack([example(run, name, data=self.data) for name in (self.start, self.end)])
            # Unguided: the walk should end in the very images.
            n, walk, guidance = 1, run.walk(1, self.steps, ends=ends), 1.0
        drawn = drawing.draw(
            run,
            len(walk),
            start=walk,
            label="none",  # for the walk begins in noise of all classes
            sampler="heun",
            levels=self.levels,
            guidance=guidance,
            description="walking",
        )
        plots.image_grid(drawn.samples, self.out, columns=self.steps)
        print(f"{self.out}: {n} walks of {self.steps} images; {drawn.cost}")
