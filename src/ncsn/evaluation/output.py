"""Samples as pictures, arrays and tables; and the ruler that compares them with held-out examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ncsn import plots
from ncsn.batching import quantize, reals
from ncsn.conditionals import ConditionalModel
from ncsn.data.dataset import OTHER_DATA, Dataset, Ruler
from ncsn.evaluation.comparison import held_out_examples
from ncsn.evaluation.images import FeaturesLike
from ncsn.evaluation.images import Ruler as ImageRuler
from ncsn.evaluation.signals import SignalRuler
from ncsn.evaluation.tables import TableRuler, show_rows
from ncsn.machine.messages import bar, log
from ncsn.run.options import UserData
from ncsn.run.run import Run
from ncsn.samplers import Step
from ncsn.settings import TABLES
from ncsn.signals import SignalRun, Signals
from ncsn.tables.frames import frame_of, write_frame
from ncsn.tables.learning import Table, log_shares
from ncsn.tables.run import TableRun

ARRAYS = (".npz", ".npy")
SUFFIXES = {"images": (".png", ".gif", *ARRAYS), "signals": (".png", *ARRAYS), "rows": (*TABLES, *ARRAYS)}
ANIMATED = 36  # images whose states from noise to data are kept
MAX_CLIPPED = 0.05  # excess share of pixels at the ends of the range, above which a message is printed


def write(run: Run, samples: UserData, path: Sequence[Step], out: Path) -> None:
    """Write samples to a picture, an animation of the states of some (``path``), or a table."""
    if isinstance(run, TableRun):
        is_frame = hasattr(samples, "columns")
        write_frame(samples if is_frame else frame_of(run.columns, np.asarray(samples, np.float64)), out)
    elif isinstance(run, SignalRun):
        plots.signal_rows({"samples": samples}, out)
    elif out.suffix == ".gif":
        plots.evolution_animation(path, out)
    else:
        plots.image_grid(samples, out, columns=min(len(samples), max(8, round(len(samples) ** 0.5))))


def show(run: Run, data: Dataset, samples: Shaped[Tensor, "n *d"], path: Sequence[Step], folder: Path) -> None:
    """Draw a training's samples, and the states of some from noise to data (``path``), into the run's folder."""
    held_out = data.validation[: len(samples)]
    match data:
        case Table():
            show_rows(run, data.transform.restore(held_out), samples, folder / "samples.png")
        case Signals():
            rows = {"held out": data.transform.inverse(held_out), "samples": samples}
            plots.signal_rows(rows, folder / "samples.png")
        case _:
            show_images(run, data, samples, path, folder)


def show_images(run: Run, data: Dataset, samples: Float[Tensor, "n c h w"], path: Sequence[Step], folder: Path) -> None:
    """Draw samples, how they emerge from noise, and samples by the paper's annealed Langevin dynamics."""
    steps = run.steps(min(len(samples), 10), seed=run.settings["seed"], sampler="annealed")  # hundreds of levels
    for step in bar(steps, f"{steps.n} samples", total=len(steps)):
        annealed = step.x.cpu()
    plots.image_grid(samples, folder / "samples.png")
    plots.image_grid(annealed, folder / "samples_annealed.png")
    plots.evolution(path, folder / "evolution.png")
    plots.evolution_animation(path, folder / "evolution.gif")
    report_clipping(samples, data)


def report_clipping(samples: Float[Tensor, "n c h w"], data: Dataset) -> None:
    """Say so if many more pixels are fully black or white in samples than in training images."""
    clipped = share_clipped(quantize(samples))
    usual = share_clipped(quantize(reals(data.train[: len(samples)])))
    if clipped > usual + MAX_CLIPPED:
        log.info(f"{clipped:.0%} of pixels in samples, but {usual:.0%} in training images, are fully black or white")


def share_clipped(pixels: Shaped[Tensor, "n c h w"]) -> float:
    """The share of bytes at the ends of their range, 0 and 255."""
    return float(((pixels == 0) | (pixels == 255)).float().mean())


def ruler(run: Run, data: Dataset, features: object, n: int) -> Ruler:
    """The ruler for up to ``n`` samples of a run.

    Raises ValueError for too few held-out examples, and if the rows aren't those that the run was trained on, which a
    transform of categories can't tell.
    """
    mirrored = bool(run.settings.get("flip"))
    match data:
        case Table():
            if isinstance(run.score, ConditionalModel):
                shares = log_shares(data.columns, data.train).cpu()
                if not torch.allclose(run.score.log_shares.cpu().double(), shares):
                    raise ValueError(OTHER_DATA)
            test = held_out_examples(data, n)
            return TableRuler(run, data, test, len(test))
        case Signals():
            test = held_out_examples(data, n)
            return SignalRuler(data, test, len(test), mirrored)
        case _:
            return ImageRuler(data, cast(FeaturesLike, features), n, mirrored=mirrored, device=run.device)
