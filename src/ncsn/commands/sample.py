"""``ncsn sample``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ncsn.commands.draw import draw
from ncsn.settings import SamplerName

FRAMES = (1500, 36)  # how many points or images an animation shows


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run: a picture, their way out of the noise, or an array."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples."""
    seed: int = 0
    """The same seed gives the same samples on one machine."""
    sampler: SamplerName | None = None
    """By default the run's own."""
    levels: int | None = None
    """Noise levels that sampling descends: more cost more and are more exact.  By default what suits the sampler."""
    step_size: float | None = None
    """Langevin's step size; by default that of annealing's last level."""
    label: Annotated[int | Literal["any"] | None, tyro.conf.arg(name="class")] = None
    """Only samples of this class, or of classes drawn at random, from a run that was trained with --classes."""
    guidance: float | None = None
    """How far to move away from the run's guide, or with --class from the score of no class; 1 for the plain score.
    By default the run's own; 1 with --class, and for annealed and langevin where they are not the run's own."""
    batch_size: int = 500
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid; .gif for the way of up to 36 images out of the noise; .npz for an array under
    the key samples, uint8 (n, c, h, w) for images."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if min(self.n, self.batch_size, self.levels or 1) < 1:
            raise ValueError(
                f"n is {self.n}, batch size is {self.batch_size} and levels is {self.levels}; each must be at least 1"
            )
        if self.out.suffix not in (".png", ".gif", ".npz"):
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed are .png, .gif and .npz")

    def __call__(self) -> None:
        """Draw, and write."""
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists; give --overwrite to replace it, or another --out")
        if not self.out.absolute().parent.is_dir():
            raise ValueError(f"{self.out.parent} is no folder to write {self.out.name} into")
        import numpy as np

        from ncsn import plots, runs
        from ncsn.files import atomic
        from ncsn.pixels import quantize

        folder = runs.find(self.run)
        recipe = runs.read_recipe(folder)
        images, sampler = len(recipe.shape) == 3, self.sampler or recipe.sampler
        drawn = draw(self, folder, step_size=self.step_size, keep=FRAMES[images] if self.out.suffix == ".gif" else 0)
        x, ladder = drawn.samples, recipe.states(self.sampler, self.levels)
        if self.out.suffix == ".npz":
            with atomic(self.out) as temporary:
                np.savez_compressed(temporary, samples=(quantize(x) if images else x).numpy())
        elif self.out.suffix == ".gif" and images:
            plots.evolution_animation(drawn.path, ladder, self.out)
        elif self.out.suffix == ".gif":
            plots.trajectories(drawn.path, [f"σ = {sigma:.2f}" for sigma in ladder], self.out)
        elif images:
            plots.image_grid(x, self.out, columns=min(self.n, max(8, round(self.n**0.5))))
        else:
            plots.scatter_panels([[(f"{self.n} samples, {sampler}", x)]], self.out)
        rate = self.n / drawn.seconds
        guide = f" and {drawn.guide_nfe} of the guide" if drawn.guide_nfe else ""
        print(
            f"{self.out}: {self.n} samples by {sampler}, {drawn.nfe} evaluations each{guide}, "
            f"{drawn.seconds:.1f} s, {rate:.0f} samples/s"
        )
