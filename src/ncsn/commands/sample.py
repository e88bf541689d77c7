"""``ncsn sample``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ncsn import console
from ncsn.commands.options import HowToSample, OfRun, check_suffix
from ncsn.files import check_out
from ncsn.ranges import Count, Seed, check_ranges

FRAMES = (1500, 36)  # how many points or images an animation shows


@dataclass(frozen=True, kw_only=True)
class Sample(HowToSample, OfRun):
    """Draw samples from a run: a picture, their way out of the noise, or an array."""

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples."""
    seed: Seed = 0
    """The same seed gives the same samples on one machine."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid; .gif for the way of up to 36 images out of the noise; .npz for an array under
    the key samples, for images (n, c, h, w) in the numbers of their files: mostly uint8."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        check_suffix(self.out, ".png", ".gif", ".npz")

    def __call__(self) -> None:
        """Draw, and write."""
        check_out(self.out, overwrite=self.overwrite)
        import numpy as np

        import ncsn
        from ncsn import plots
        from ncsn.files import atomic

        run = ncsn.load(self.run, device=self.device)
        images, kind = run.recipe.images, self.out.suffix
        drawn = console.draw(run, self.n, seed=self.seed, keep=FRAMES[images] if kind == ".gif" else 0, **self.how())
        if kind == ".npz":
            values = run.recipe.depth.restored(drawn.samples) if images else drawn.samples.numpy()
            with atomic(self.out) as temporary:
                np.savez_compressed(temporary, samples=values)
        elif kind == ".gif" and images:
            plots.evolution_animation(drawn.path, self.out)
        elif kind == ".gif":
            plots.trajectories([(f"σ = {sigma:.2f}", x) for sigma, x in drawn.path], self.out)
        elif images:
            plots.image_grid(drawn.samples, self.out, columns=min(self.n, max(8, round(self.n**0.5))))
        else:
            plots.scatter_panels([[(f"{self.n} samples, {drawn.sampling.sampler}", drawn.samples)]], self.out)
        print(f"{self.out}: {drawn.cost}")
