"""``ncsn interpolate``."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Interpolate:
    """Walk from one sample to another: along the sphere of noise that the probability flow maps to images."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
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
        if self.n < 1 or self.steps < 2 or (self.levels or 2) < 2:
            raise ValueError(
                f"n is {self.n}, steps is {self.steps}, levels is {self.levels}; allowed are at least 1, 2 and 2"
            )
        if self.out.suffix != ".png":
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed is .png")

    def __call__(self) -> None:
        """Walk, and draw."""
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists; give --overwrite to replace it, or another --out")
        import torch

        from ncsn import console, machine, plots, runs
        from ncsn.samplers import slerp

        machine.keep_memory()
        folder = runs.find(self.run)
        model, recipe = runs.load(folder), runs.read_recipe(folder)
        if len(recipe.shape) != 3:
            raise ValueError(f"{folder} makes points in the plane; only images are interpolated")
        generator = torch.Generator().manual_seed(self.seed)
        ends = recipe.start(model, 2 * self.n, generator=generator)
        mean = ends.mean(0)
        walk = slerp(ends[: self.n] - mean, ends[self.n :] - mean, torch.linspace(0, 1, self.steps)) + mean
        score = recipe.guided(model, runs.load_guide(folder))
        path = recipe.path(score, walk.flatten(0, 1), sampler="heun", levels=self.levels, generator=generator)
        (x,) = deque(console.bar(path, len(recipe.states("heun", self.levels)), "walking"), maxlen=1)
        plots.image_grid(x, self.out, columns=self.steps)
        print(f"{self.out}: {self.n} walks of {self.steps} images")
