"""The one table of samplers: what each is called, what it descends, what it costs, and whether a guide helps it.

A sampler of this package is its function and its row here; nothing else knows its name.  Torch is imported when one is
used, so that the command line can list the names before.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ncsn.validation import GuideName

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ncsn.samplers.step import Step
    from ncsn.score import Score

GUIDED: dict[GuideName, float] = {"smaller": 1.25, "unconditional": 2.0}  # evaluations of the network, on guided levels


@dataclass(frozen=True, kw_only=True)
class Descent:
    """What a method is given: where it starts, its noise levels, and what Langevin dynamics needs.

    ``score``: what to follow.  ``x`` (b, *d): the start.  ``sigmas`` (levels,): descending, but for restarts.
    ``steps``: Langevin steps, on each level if annealed.  ``eps``: their size α on the smallest level.  ``generator``:
    on x's device.
    """

    score: "Score"
    x: "Tensor"
    sigmas: "Tensor"
    steps: int
    eps: float
    generator: "Generator"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A sampler as a run uses it.

    ``follow``: the states of a descent.  ``ladder``: how its noise levels lie, ``Geometric`` or ``Karras``.
    ``levels``: how many by default, the knee of its quality against its cost; ``steps``: Langevin steps likewise.
    ``states``: how many states it yields, the denoised one included, and ``nfe``: how often it evaluates the score, for
    (levels, steps).
    ``langevin``: whether it is Langevin dynamics, which takes steps of a size, and needs no second noise level.
    ``guided_from``: how far from 1 a run's own guidance must be to be taken over.
    ``restarts``: whether levels that are given one by one may rise, which costs no evaluation.
    ``most``: how many evaluations a sample may take, a guide's among them: where there are more, levels are left out.
    Such a method is a way to sample runs, and no run's own.
    """

    follow: Callable[[Descent], "Iterator[Step]"]
    ladder: Literal["geometric", "karras"]
    levels: int
    steps: int = 1
    states: Callable[[int, int], int] = lambda levels, steps: levels
    nfe: Callable[[int, int], int] = lambda levels, steps: levels
    langevin: bool = False
    guided_from: float = 0.0
    restarts: bool = False
    most: int | None = None

    def suited(self, sigma_max: float, sigma_min: float) -> int:
        """As many noise levels as keep steps as fine as ``levels`` has between 10 and 0.01; never fewer than that.

        A method that may take only so many evaluations has as many levels on any range.
        """
        if self.levels == 1 or self.most is not None:
            return self.levels

        def length(top: float, bottom: float) -> float:
            return float(top ** (1 / 7) - bottom ** (1 / 7)) if self.ladder == "karras" else math.log(top / bottom)

        return max(self.levels, round(self.levels * length(sigma_max, sigma_min) / length(10, 0.01)))


def annealed(d: Descent) -> "Iterator[Step]":
    """Annealed Langevin dynamics, the paper's."""
    from ncsn.samplers import annealed_langevin

    return annealed_langevin(d.score, d.x, d.sigmas, eps=d.eps, steps=d.steps, generator=d.generator)


def langevin(d: Descent) -> "Iterator[Step]":
    """Langevin dynamics on the smallest noise level alone."""
    from ncsn.samplers import langevin

    return langevin(d.score, d.x, d.sigmas[-1], step_size=d.eps, steps=d.steps, generator=d.generator)


def consistent(d: Descent) -> "Iterator[Step]":
    """Consistent annealed sampling, with as much fresh noise as ancestral sampling adds."""
    from ncsn.samplers import consistent_annealed

    eta = 1 - float(d.sigmas[-1] / d.sigmas[0]) ** (2 / max(1, len(d.sigmas) - 1))
    return consistent_annealed(d.score, d.x, d.sigmas, eta=eta, generator=d.generator)


def predictor_corrector(d: Descent) -> "Iterator[Step]":
    """Reverse diffusion, with a Langevin step after each of its steps."""
    from ncsn.samplers import predictor_corrector

    return predictor_corrector(d.score, d.x, d.sigmas, generator=d.generator)


def euler(d: Descent) -> "Iterator[Step]":
    """The probability flow, by Euler's method."""
    from ncsn.samplers import euler

    return euler(d.score, d.x, d.sigmas, generator=d.generator)


def heun(d: Descent) -> "Iterator[Step]":
    """The probability flow, by Heun's method."""
    from ncsn.samplers import heun

    return heun(d.score, d.x, d.sigmas)


def edm(d: Descent) -> "Iterator[Step]":
    """EDM's stochastic sampler; its churn is Karras et al. 2022, table 5, in the middle of the range of noise."""
    from ncsn.samplers import edm

    top = float(d.sigmas[0])
    return edm(d.score, d.x, d.sigmas, churn=40.0, churn_range=(top / 200, top / 5), generator=d.generator)


def dpm_solver(d: Descent) -> "Iterator[Step]":
    """The probability flow, by DPM-Solver++(2M)."""
    from ncsn.samplers import dpm_solver

    return dpm_solver(d.score, d.x, d.sigmas, generator=d.generator)


def sde_dpm_solver(d: Descent) -> "Iterator[Step]":
    """The reverse diffusion, by SDE-DPM-Solver++(2M), its last step between order 1 and 2."""
    from ncsn.samplers import dpm_solver

    return dpm_solver(d.score, d.x, d.sigmas, stochasticity=1.0, last_extrapolation=0.25, generator=d.generator)


# Langevin steps settle on a level, and a guided score is that of no distribution to settle in: guided, both are worse.
METHODS: dict[str, Method] = {
    "annealed": Method(
        follow=annealed,
        ladder="geometric",
        levels=100,
        steps=2,
        states=lambda levels, steps: levels + 1,
        nfe=lambda levels, steps: levels * steps + 1,
        langevin=True,
        guided_from=math.inf,
    ),
    "consistent": Method(follow=consistent, ladder="geometric", levels=100),
    "pc": Method(
        follow=predictor_corrector, ladder="geometric", levels=60, nfe=lambda levels, steps: 2 * (levels - 1) + 1
    ),
    "euler": Method(follow=euler, ladder="karras", levels=40, restarts=True),
    "heun": Method(follow=heun, ladder="karras", levels=18, nfe=lambda levels, steps: 2 * (levels - 1) + 1),
    "edm": Method(follow=edm, ladder="karras", levels=40, nfe=lambda levels, steps: 2 * (levels - 1) + 1),
    "dpmpp": Method(follow=dpm_solver, ladder="karras", levels=20),
    "dpmpp-sde": Method(follow=sde_dpm_solver, ladder="karras", levels=30),
    "langevin": Method(
        follow=langevin,
        ladder="geometric",
        levels=1,
        steps=200,
        states=lambda levels, steps: steps + 1,
        nfe=lambda levels, steps: steps + 1,
        langevin=True,
        guided_from=math.inf,
    ),
    # The default in eight evaluations.  Long steps make samples less various, as guidance does: levels are worth more
    # than a weight of 1.25.
    "fast": Method(follow=sde_dpm_solver, ladder="karras", levels=8, guided_from=0.5, most=8),
}
