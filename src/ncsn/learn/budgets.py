"""What comes after a training on images, and how much of the budget that leaves for the training itself."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ncsn import machine
from ncsn.learn import guidance
from ncsn.learn.study import Study
from ncsn.training import Budget, State

DRAWING = 4  # seconds that figures take
ANNEALED = 20  # at most so many samples by annealed Langevin dynamics, thirteen times as long as the default takes
ANNEALED_SHARE = 1 / 30  # of the budget
TRIALS, FEWEST_TRIALS = 1000, 64  # samples at each guidance weight; with fewer none is chosen
TRIALS_BY_STEPS = 256  # where no budget says how long they may take
TRIALS_SHARE = 1 / 40  # of the budget
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What comes after training, and how many ``seconds`` it takes.

    ``trials``: samples at each guidance weight, to choose one; 0 for no choice.  ``annealed``: samples by annealed
    Langevin dynamics.
    """

    trials: int
    annealed: int
    seconds: float


def planned(study: Study, state: State) -> Plan:
    """What comes after training, as much as fits into its share of the budget: timed, as it is never compiled."""
    if not study.group.leads:
        return Plan(trials=0, annealed=0, seconds=0)
    settings, sampling = study.settings, study.recipe.sampling
    most = min(TRIALS, len(study.pictures.validation) // 3) if study.chooses else 0
    if settings.minutes is None:
        most = min(TRIALS_BY_STEPS, most)
        return Plan(trials=most if most >= FEWEST_TRIALS else 0, annealed=min(settings.samples, ANNEALED), seconds=0)
    budget = 60 * settings.minutes
    example = torch.zeros(FEWEST_TRIALS, *study.pictures.shape, device=study.device)
    evaluation = seconds_of(lambda: state.average(example, 1.0), study.device) / len(example)
    sample = sampling.guided_nfe * evaluation
    annealed = sampling.but(sampler="annealed").nfe * evaluation
    held_out = study.held_out[:20]
    trial = guidance.evaluations(study.recipe) * evaluation
    if most and study.features.embed is not None:
        seen = seconds_of(lambda: study.features(held_out), study.device) / len(held_out)
        trial += guidance.seen(study.recipe) * seen
    trials = min(most, int(budget * TRIALS_SHARE / trial)) if most else 0
    trials = trials if trials >= FEWEST_TRIALS else 0
    few = max(1, min(settings.samples, ANNEALED, int(budget * ANNEALED_SHARE / annealed)))
    drawn = (settings.samples + 60) * sample + few * annealed  # the previews too
    return Plan(trials=trials, annealed=few, seconds=DRAWING + drawn + trials * trial)


def left(study: Study, plan: Plan) -> tuple[Budget, Budget]:
    """How long to train the network, and its guide: what is left now, but for what comes afterwards."""
    settings = study.settings
    if settings.steps is not None:
        return Budget(steps=settings.steps), Budget(steps=math.ceil(settings.steps * GUIDE_STEPS))
    assert settings.minutes is not None
    whole = 60 * settings.minutes
    seconds = max(whole / 10, whole - plan.seconds - study.clock.passed)
    share = GUIDE_SECONDS if study.guide_recipe is not None else 0.0
    seconds = float(study.group.share(repr(seconds).encode()).decode())  # the leading process' clock is everybody's
    return Budget(seconds=seconds * (1 - share)), Budget(seconds=seconds * GUIDE_SECONDS)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes the second time."""
    with torch.no_grad(), machine.nothing_compiled():
        call()
        machine.wait(device)
        began = time.perf_counter()
        call()
        machine.wait(device)
    return time.perf_counter() - began
