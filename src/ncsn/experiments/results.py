"""The numbers of an experiment, which become its metrics.json."""

import time
from dataclasses import asdict

from ncsn import storage
from ncsn.drawn import Drawn
from ncsn.experiments import images, toy
from ncsn.experiments.journal import Row
from ncsn.training import State


def write_results(study: images.Study, state: State, rows: list[Row], drawn: Drawn, annealed: Drawn) -> None:
    """metrics.json of a run on images: its last losses, what training saw, and what sampling cost."""
    results = {
        **(asdict(rows[-1]) if rows else {}),
        "training_seconds": state.seconds,
        "images_seen": state.step * study.settings.batch_size,
        "samples": len(drawn.samples),
        "sampling_seconds": drawn.seconds,
        "nfe": drawn.nfe,
        "guide_nfe": drawn.guide_nfe,
        "annealed_seconds": annealed.seconds,
        "annealed_nfe": annealed.nfe,
        "seconds": time.perf_counter() - study.began,
    }
    storage.write_json(study.folder / "metrics.json", results)


def write_toy_results(study: toy.Study, state: State, numbers: dict[str, object]) -> None:
    """metrics.json of a run in the plane."""
    about = {
        "generator": study.settings.generator,
        "seed": study.settings.seed,
        "training_seconds": state.seconds,
    }
    seconds = {"seconds": time.perf_counter() - study.began}
    storage.write_json(study.folder / "metrics.json", about | numbers | seconds)
