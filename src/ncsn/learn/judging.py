"""Whether a student is good enough to be drawn by: its samples and its run's own, beside held-out images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from ncsn import machine
from ncsn.data.pixels import quantize, reals
from ncsn.evaluation import metrics
from ncsn.evaluation.features import Features
from ncsn.run import Run

Pair = tuple[UInt8[Tensor, "n c h w"], UInt8[Tensor, "n c h w"]]
JUDGED, FEWEST, BLOCK = 1024, 256, 64  # samples that a student is judged by, at most, at least, and at a time
COMPARED = 4  # times as many held-out images are what they are compared with, if there are
ENOUGH = 1.5  # times the distance of its run's own samples is what a student's may have


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far ``n`` samples are from held-out images, as ``distance`` measures it.

    ``student``: by the student; ``own``: by its run's own sampler, from the same noise and of the same classes.
    """

    n: int
    distance: str
    student: float
    own: float

    @property
    def enough(self) -> bool:
        """Whether the student's samples are near enough to be drawn instead of the run's."""
        return self.student <= ENOUGH * self.own


def samples(run: Run, student: Run, n: int, *, batch_size: int, seed: int) -> Iterator[Pair]:
    """``n`` samples by a student, and as many by its run, of all classes and in blocks."""
    how: dict[str, Any] = {"batch_size": batch_size, "label": "any" if run.recipe.classes else None}
    for number in range(n // BLOCK):
        with machine.nothing_compiled():  # for batches of another size
            ours, own = (who.sample(BLOCK, seed=seed + number, **how) for who in (student, run))
        yield quantize(ours).cpu(), quantize(own).cpu()


def judged(drawn: Sequence[Pair], held_out: UInt8[Tensor, "v c h w"], features: Features) -> Verdict:
    """What blocks of samples say, beside ``held_out`` images: by ``features``, or by pixels where there are none."""
    student, own = (torch.cat(blocks) for blocks in zip(*drawn, strict=True))
    real = held_out[: len(own)]
    if features.embed is None:
        far = [metrics.sliced_wasserstein(reals(x).flatten(1), reals(real).flatten(1)) for x in (student, own)]
        return Verdict(n=len(own), distance="pixel distance", student=far[0], own=far[1])
    seen = features(held_out[: COMPARED * len(own)]).features
    far = [metrics.frechet_distance(features(x).features, seen) for x in (student, own)]
    return Verdict(n=len(own), distance=f"Fréchet distance in {features.name}", student=far[0], own=far[1])
