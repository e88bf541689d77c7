"""Images from files, archives and arrays; judged in features, with guidance chosen on held-out images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.batching import quantize, reals
from ncsn.data import Dataset
from ncsn.images.guidance import choose_weight, features_for
from ncsn.images.judge import FeaturesLike, Ruler
from ncsn.images.read import Images, read_images
from ncsn.machine.messages import bar, log
from ncsn.run.run import Run
from ncsn.samplers import Step
from ncsn.settings import Reading
from ncsn.transforms import BYTES, stored_depth

MAX_CLIPPED = 0.05  # excess share of pixels at the ends of the range, above which a message is printed


@dataclass(frozen=True, kw_only=True)
class ImageRun(Run):
    """A run that generates images."""

    examples: ClassVar[type[Dataset]] = Images
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".gif", ".npz", ".npy")
    compiled: ClassVar[bool] = True
    kept: ClassVar[int] = 36

    def read(self, place: str, reading: Reading) -> Images:
        """The images at a path."""
        return read_images(place, reading)

    def choose_guidance(self, data: Dataset, *, seconds: float, effort: float) -> Callable[[Run, int, int], float]:
        """Choose the scale on held-out images, in features that are prepared now."""
        features = features_for(data, self.device, seconds=seconds, effort=effort)
        return lambda run, seen, seed: choose_weight(run, data, features, seen=seen, seed=seed, effort=effort)

    def ruler(self, data: Dataset, features: object, n: int) -> Ruler:
        """Compare samples with test images in features."""
        mirrored = bool(self.settings.get("flip"))
        return Ruler(data, cast(FeaturesLike, features), n, mirrored=mirrored, device=self.device)

    def stored(self, samples: Float[Tensor, "n c h w"]) -> Shaped[np.ndarray, "n c h w"]:
        """Samples in the depth of the training files."""
        return stored_depth(self.transform).stored(samples)

    def judged(self, samples: Float[Tensor, "n c h w"]) -> Shaped[np.ndarray, "n c h w"]:
        """Samples of any depth as bytes."""
        return BYTES.stored(samples)

    def write(self, samples: Float[Tensor, "n c h w"], path: Sequence[Step], out: Path) -> None:
        """Draw samples side by side, or animate how they emerge from noise."""
        if out.suffix == ".gif":
            plots.evolution_animation(path, out)
        else:
            n = len(samples)
            plots.image_grid(samples, out, columns=min(n, max(8, round(n**0.5))))

    def show(self, data: Dataset, samples: Float[Tensor, "n c h w"], path: Sequence[Step]) -> None:
        """Draw samples, how they emerge from noise, and samples by the paper's annealed Langevin dynamics."""
        assert self.folder is not None
        steps = self.steps(min(len(samples), 10), seed=self.settings["seed"], sampler="annealed")  # hundreds of levels
        for step in bar(steps, f"{steps.n} samples", total=len(steps)):
            annealed = step.x.cpu()
        plots.image_grid(samples, self.folder / "samples.png")
        plots.image_grid(annealed, self.folder / "samples_annealed.png")
        plots.evolution(path, self.folder / "evolution.png")
        plots.evolution_animation(path, self.folder / "evolution.gif")
        ours, theirs = (share_clipped(quantize(x)) for x in (samples, reals(data.train[: len(samples)])))
        if ours > theirs + MAX_CLIPPED:
            log.info(f"{ours:.0%} of pixels in samples, but {theirs:.0%} in training images, are fully black or white")


def share_clipped(pixels: Shaped[Tensor, "n c h w"]) -> float:
    """The share of bytes at the ends of their range, 0 and 255."""
    return float(((pixels == 0) | (pixels == 255)).float().mean())
