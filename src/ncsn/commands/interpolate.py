"""``ncsn interpolate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ncsn import console
from ncsn.commands.options import OfRun, check_out, check_suffix


@dataclass(frozen=True, kw_only=True)
class Interpolate(OfRun):
    """Walk from one sample to another: along the sphere of noise that the probability flow maps to images."""

    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 6
    """How many walks, one a row."""
    steps: int = 12
    """Images on each, the two ends included."""
    levels: int | None = None
    """Noise levels that Heun's method descends; by default what suits it."""
    seed: int = 0
    out: Path = Path("interpolation.png")
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.n < 1 or self.steps < 2 or (self.levels is not None and self.levels < 2):
            raise ValueError(
                f"n is {self.n}, steps is {self.steps}, levels is {self.levels}; allowed are at least 1, 2 and 2"
            )
        check_suffix(self.out, ".png")

    def __call__(self) -> None:
        """Walk, and draw."""
        check_out(self.out, overwrite=self.overwrite)
        import ncsn
        from ncsn import plots

        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points in the plane; only images are interpolated")
        walk = run.walk(self.n, self.steps, seed=self.seed)
        drawn = console.draw(run, len(walk), start=walk, sampler="heun", levels=self.levels, description="walking")
        plots.image_grid(drawn.samples, self.out, columns=self.steps)
        print(f"{self.out}: {self.n} walks of {self.steps} images; {drawn.cost}")
