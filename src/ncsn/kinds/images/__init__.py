"""Images from files, archives and arrays; judged in features, with guidance chosen on held-out images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.batching import quantize, reals
from ncsn.data import Dataset, Kind, Transform, Unseen
from ncsn.kinds.images.guidance import choose_weight, features_for
from ncsn.kinds.images.judge import FeaturesLike, Ruler
from ncsn.kinds.images.read import BYTES, stored_depth
from ncsn.machine.messages import bar, log
from ncsn.run.run import Run
from ncsn.samplers import Step
from ncsn.validation import as_numbers

MAX_CLIPPED = 0.05  # excess share of pixels at the ends of the range, above which a message is printed


class Images(Kind[Run]):
    """Images with any number of channels."""

    def choose_guidance(
        self, data: Dataset, device: torch.device, *, seconds: float, effort: float
    ) -> Callable[[Run, int, int], float]:
        """Choose the scale on held-out images, in features that are prepared now."""
        features = features_for(data, device, seconds=seconds, effort=effort)
        return lambda run, seen, seed: choose_weight(run, data, features, seen=seen, seed=seed, effort=effort)

    def numbers(self, run: Run, x: object, unseen: Unseen = "error") -> Shaped[Tensor, "b c h w"]:
        """Images as bytes or reals in [0, 1]."""
        return as_numbers("x", x, ", ".join(map(str, ("b", *run.recipe.shape))))

    def ruler(self, run: Run, data: Dataset, features: object, n: int) -> Ruler:
        """Compare samples with test images in features."""
        return Ruler(data, cast(FeaturesLike, features), n, mirrored=bool(run.settings.get("flip")), device=run.device)

    def show(self, run: Run, data: Dataset, samples: Float[Tensor, "n *d"], path: Sequence[Step], folder: Path) -> None:
        """Draw samples, how they emerge from noise, and samples by the paper's annealed Langevin dynamics."""
        steps = run.steps(min(len(samples), 10), seed=run.settings["seed"], sampler="annealed")  # hundreds of levels
        for step in bar(steps, f"{steps.n} samples", total=len(steps)):
            annealed = step.x.cpu()
        plots.image_grid(samples, folder / "samples.png")
        plots.image_grid(annealed, folder / "samples_annealed.png")
        plots.evolution(path, folder / "evolution.png")
        plots.evolution_animation(path, folder / "evolution.gif")
        ours, theirs = (share_clipped(quantize(x)) for x in (samples, reals(data.train[: len(samples)])))
        if ours > theirs + MAX_CLIPPED:
            log.info(f"{ours:.0%} of pixels in samples, but {theirs:.0%} in training images, are fully black or white")

    def stored(self, transform: Transform, samples: Float[Tensor, "n *d"]) -> Shaped[np.ndarray, "n *d"]:
        """Samples in the depth of the training files."""
        return stored_depth(transform).stored(samples)


def write_grid(run: Run, samples: Float[Tensor, "n c h w"], path: Sequence[Step], out: Path) -> None:
    """Draw samples side by side."""
    n = len(samples)
    plots.image_grid(samples, out, columns=min(n, max(8, round(n**0.5))))


def write_animation(run: Run, samples: Float[Tensor, "n c h w"], path: Sequence[Step], out: Path) -> None:
    """Animate how samples emerge from noise."""
    plots.evolution_animation(path, out)


def share_clipped(pixels: Shaped[Tensor, "n c h w"]) -> float:
    """The share of bytes at the ends of their range, 0 and 255."""
    return float(((pixels == 0) | (pixels == 255)).float().mean())


IMAGES = Images(
    noun="images",
    named={1: "grey", 3: "RGB", 4: "RGBA"},
    prior="prior",
    compiled=True,
    guided=True,
    kept=36,
    writers={".png": write_grid, ".gif": write_animation, ".npz": None, ".npy": None},
    judged_in=BYTES,  # for files of any depth
)
