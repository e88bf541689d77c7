"""The numbers of an experiment, which become its metrics.json."""

import time
from collections.abc import Iterator
from dataclasses import asdict

from jaxtyping import UInt8
from torch import Tensor

from ncsn import storage
from ncsn.data.pixels import quantize, reals
from ncsn.drawn import Drawn
from ncsn.evaluation import at_8_bits, nearest
from ncsn.learn import toy
from ncsn.learn.journal import Journal, kept
from ncsn.learn.study import FEW, Study
from ncsn.training import State

FEW_STEPS = 500  # for which the learning rate's rise and fall are too short
CLIPPED = 0.05  # more of the samples' pixels than of the data's at an end of the range is worth a line


def write_results(study: Study, state: State, journal: Journal, drawn: Drawn, annealed: Drawn) -> None:
    """metrics.json of a run on images: the losses of what is left, what training saw, what sampling cost, the clock."""
    results = {
        **(asdict(kept(journal.rows)) if journal.rows else {}),
        "images_per_second": journal.paces[-1].images_per_second if journal.paces else None,
        "training_seconds": state.seconds,
        "images_seen": state.step * study.settings.batch_size,
        "guidance": drawn.sampling.guidance,
        "samples": len(drawn.samples),
        "sampling_seconds": drawn.seconds,
        "nfe": drawn.nfe,
        "guide_nfe": drawn.guide_nfe,
        "annealed_seconds": annealed.seconds,
        "annealed_nfe": annealed.nfe,
        "seconds": study.clock.passed,
        "seconds_of": study.clock.seconds,
    }
    storage.write_json(study.folder / "metrics.json", results)


def remarks(study: Study, state: State, drawn: Drawn) -> Iterator[str]:
    """What a user should know about the samples and would not see, or not see why."""
    if state.step < FEW_STEPS:
        yield f"{state.step} steps of training are few: more --minutes, or smaller images with --size, learn more"
    pixels = study.pictures.train[: len(drawn.samples)]
    ours, theirs = clipped(quantize(drawn.samples)), clipped(quantize(reals(pixels)))
    if ours > theirs + CLIPPED:
        yield f"{ours:.0%} of the samples' pixels are black or white to the limit, of the images' {theirs:.0%}"
    if len(study.pictures.train) < FEW:
        train = at_8_bits(study.pictures).train
        near, _ = nearest(quantize(drawn.samples), train)
        usual, _ = nearest(study.held_out, train)
        copies = float((near <= usual.quantile(0.01)).float().mean())
        yield f"{copies:.0%} of the samples are nearer to a training image than 99 % of the held-out images are"


def clipped(pixels: UInt8[Tensor, "n c h w"]) -> float:
    """The share of pixels that are 0 or 255."""
    return float(((pixels == 0) | (pixels == 255)).float().mean())


def write_toy_results(study: toy.Study, state: State, numbers: dict[str, object]) -> None:
    """metrics.json of a run in the plane."""
    about = {
        "generator": study.settings.generator,
        "seed": study.settings.seed,
        "training_seconds": state.seconds,
    }
    seconds = {"seconds": time.perf_counter() - study.began}
    storage.write_json(study.folder / "metrics.json", about | numbers | seconds)
