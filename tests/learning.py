"""Images to learn from, trainings that stop before their first step, and one run that all tests share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ncsn
from ncsn import training
from ncsn.batching import Batch
from ncsn.data.dataset import Labels
from ncsn.images import Images
from ncsn.learn import fit as maker
from ncsn.noise import Proposal
from ncsn.objectives import Objective
from ncsn.settings import Job, TrainSettings
from ncsn.training import Budget, Loss, Progress, State

TINY = "--channels 8 12 --blocks 1 --batch-size 16 --levels 5 --samples 6 --no-compile"


def arrays(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images 10 × 8 of three classes, half of the third, which are the brighter the higher, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 4).clip(max=2)
    slope = np.linspace(0, 60, 8)[None, None]
    images = 50 * labels[:, None, None] + slope + rng.integers(0, 60, (n, 10, 8))
    return images.astype(np.uint8), labels


def pictures(*, labels: bool = True, n: int = 300, held_out: int = 90) -> Images:
    """The same as a data set, whose three parts differ."""
    images, classes = (torch.from_numpy(array) for array in arrays(n + 2 * held_out))
    train, validation, test = torch.split(images[:, None], [n, held_out, held_out])
    known = torch.split(classes, [n, held_out, held_out])
    named = Labels(train=known[0], validation=known[1], test=known[2], names=("a", "b", "c"))
    return Images(train, validation, test, named if labels else None)


@dataclass
class Lessons:
    """What trainings were asked to do, and the run that was made of it."""

    states: list[State] = field(default_factory=list)
    batches: list[Iterator[Batch]] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    budgets: list[Budget] = field(default_factory=list)
    objectives: list[Objective] = field(default_factory=list)
    run: ncsn.Run = field(init=False)


def unlearned(patch: pytest.MonkeyPatch, data: Any, settings: TrainSettings | None = None, **given: Any) -> Lessons:
    """What ``fit`` asks of training, the guide's first; no step is taken."""
    lessons = Lessons()

    def train(state: State, batches: Iterator[Batch], loss: Loss, *, budget: Budget, **_: Any) -> Iterator[Progress]:
        lessons.states.append(state)
        lessons.batches.append(batches)
        lessons.losses.append(loss)
        lessons.budgets.append(budget)
        return iter(())

    def training_loss(noise: Proposal, objective: Objective | None = None, **how: Any) -> Loss:
        if objective is None:  # that of held-out examples
            return ncsn.training_loss(noise, **how)
        lessons.objectives.append(objective)
        return ncsn.training_loss(noise, objective, **how)

    with patch.context() as inner:
        inner.setattr(training, "train", train)
        inner.setattr(maker, "training_loss", training_loss)
        inner.setattr(maker, "verdict", lambda *_: "nothing is learned")
        lessons.run = ncsn.fit(data, settings=settings, **given)
    return lessons


def tiny(out: Path | None = None, *, resume: bool = False, **given: Any) -> TrainSettings:
    """Settings of a training that takes a second."""
    small: dict[str, Any] = {"channels": (8, 12), "blocks": 1, "batch_size": 16, "levels": 5, "samples": 6}
    small |= {"compile": False} | ({} if {"minutes", "steps"} & given.keys() else {"steps": 6})
    return TrainSettings(job=Job(out=out, resume=resume, device="cpu"), **(small | given))
