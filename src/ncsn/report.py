"""How a training on images goes: its losses by noise level, on training and on held-out images."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ncsn.data import batches
from ncsn.metrics import binned
from ncsn.noise import Proposal
from ncsn.objectives import residual_loss
from ncsn.score import ScoreModel
from ncsn.training import Progress

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]


@torch.no_grad()
def validate(
    model: ScoreModel, images: UInt8[Tensor, "n c h w"], noise: Proposal
) -> tuple[Float[Tensor, "512"], Float[Tensor, "512"]]:
    """Denoising losses on 512 draws of ``images``, always with the same noise, and their noise levels."""
    fixed = torch.Generator(images.device).manual_seed(0)
    held_out, loss = batches(images, 256, generator=fixed), residual_loss(noise, generator=fixed)
    losses, sigmas = zip(*[loss(model, next(held_out)) for _ in range(2)], strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def by_noise_level(
    progress: Iterable[Progress], validation: Callable[[], tuple[Tensor, Tensor]], *, times: int = 10, done: int = 0
) -> Iterator[dict[str, Any]]:
    """Train on, and ``times`` in a training yield a row of losses by noise level, averaged since the last one.

    ``validation``: the losses on held-out images and their noise levels.  ``done``: the rows of a run that goes on.
    """
    losses, sigmas = [], []
    for p in progress:
        losses.append(p.losses)
        sigmas.append(p.sigmas)
        if p.fraction < min(1.0, (done + 1) / times):
            continue
        (held_out, levels), recent, at = validation(), torch.cat(losses).cpu(), torch.cat(sigmas).cpu()
        losses, sigmas, done = [], [], done + 1
        yield {
            "step": p.step,
            "seconds": p.seconds,
            "images_per_second": p.examples_per_second,
            "loss": recent.mean().item(),
            "bands": binned(recent, at, BANDS),
            "validation_loss": held_out.mean().item(),
            "validation_bands": binned(held_out, levels, BANDS),
        }
