"""Distillation: a copy of a run's network learns to take in one step what the run's guided flow takes in several.

The copy is a run of its own, whose sampler is Euler's method on a few noise levels.  Progressive distillation (Salimans
& Ho 2022, arXiv:2202.00512) halves the steps again and again; here they become few at once.  A student's errors add up
on its way, for it has learned on noised data and not on what it makes; so it takes its last step but one again, after
fresh noise (a restart, Xu et al. 2023, arXiv:2306.14878), which is nothing more to learn.
"""

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.model import ScoreModel
from ncsn.noise import Geometric, Karras
from ncsn.objectives import Batch
from ncsn.optim import muon_and_adam
from ncsn.rng import randint, randn
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.score import conditioned, tweedie
from ncsn.training import State

LAST = 0.12  # the smallest noise level that a student is asked at: from there one evaluation leads to an image
CLOSE = 1.001  # times a noise level is the same one, which float32 has rounded
DESCENDING = 4  # levels; further ones gain less than restarts do
MUON_RATE, ADAM_RATE = 0.0013, 0.00013  # a fifteenth of what a network is trained with: it knows most of it already


def levels(run: Run, evaluations: int) -> tuple[float, ...]:
    """The noise levels of a student of so many evaluations, each as far from the next as the others.

    Up to four descend; every further evaluation is a restart, from the last level up to the one before and down again.
    Raises ValueError if the run has no noise levels to descend from.
    """
    top, last = run.recipe.sampling.sigma_max, max(LAST, run.recipe.sampling.sigma_min)
    if top <= last:
        raise ValueError(f"the run's noise levels end at {top:g}; a student needs some above {last:g}")
    sigmas = Geometric(top, last, min(evaluations, DESCENDING)).sigmas().tolist()
    return (*sigmas, *sigmas[-2:] * (evaluations - len(sigmas)))


def student_of(run: Run, sigmas: tuple[float, ...]) -> Run:
    """A copy of the run, sampled by ``euler`` on the levels ``sigmas``, unguided; it has learned nothing yet."""
    own = run.recipe.sampling
    few = Sampling(
        sigma_max=sigmas[0], sigma_min=sigmas[-1], sampler="euler", levels=sigmas, steps=1, eps=own.eps, guide=own.guide
    )
    recipe = replace(run.recipe, sampling=few)
    return replace(run, score=copy.deepcopy(run.model), recipe=recipe, guide=None, folder=None)


def state_of(student: Run, generator: torch.Generator) -> State:
    """What training a student changes."""
    optimizers = muon_and_adam(student.model, muon_rate=MUON_RATE, adam_rate=ADAM_RATE)
    return State(student.model, optimizers, generator=generator)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What ``train`` minimises to make a student: how far D is from the flow's way to the next noise level, squared.

    Euler's step from σ to σ' is x' = r·x + (1 − r)·D(x, σ) with r = σ'/σ.  The student's D(x, σ) learns to be
    (x' − r·x)/(1 − r), where x' is what the teacher makes of x.  As in training, a loss is the squared error of what
    the network returns, see ``ScoreModel.residual_weight``: unweighted, the last step would be spoilt for the first.

    ``teacher``: whose flow is followed, guided as it is by default.  ``sigmas`` (levels,): the student's; after the
    last one comes 0, and where they rise is nothing to learn.  ``steps``: of DPM-Solver++(2M) between two of them.
    ``generator``: what noise and levels, one for each batch, are drawn from.
    """

    teacher: Run
    sigmas: tuple[float, ...]
    generator: torch.Generator
    steps: int = 3

    def __call__(self, model: ScoreModel, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The losses, and the noise level of each."""
        x, label = batch
        sigma, following = self.ways[int(randint(len(self.ways), (), self.generator))]
        noisy, ratio = x + sigma * randn(x.shape, self.generator, x), following / sigma
        wanted = (self.led(noisy, label, sigma, following) - ratio * noisy) / (1 - ratio)
        sigmas = torch.full((len(x),), sigma, device=x.device)
        denoised = tweedie(conditioned(model, label), noisy, sigmas)
        weight = model.residual_weight(sigmas) / (2 * sigmas**2)  # an error of D is σ² times the score's
        return weight * (denoised - wanted).square().flatten(1).mean(1), sigmas

    @property
    def ways(self) -> list[tuple[float, float]]:
        """The steps that a student learns: from which noise level to which, each once."""
        steps = pairwise((*self.sigmas, 0.0))
        return list(dict.fromkeys((sigma, following) for sigma, following in steps if following < sigma))

    @torch.no_grad()
    def led(
        self, x: Float[Tensor, "b *d"], label: Int64[Tensor, "b"] | None, sigma: float, following: float
    ) -> Float[Tensor, "b *d"]:
        """Where the teacher's flow leads from noise level ``sigma`` to the ``following`` one."""
        end = following or self.teacher.recipe.sampling.sigma_min
        # From the run's own last level one evaluation leads to an image.
        ladder = tuple(Karras(sigma, end, self.steps + 1).sigmas().tolist()) if sigma > CLOSE * end else (sigma,)
        way = {"sampler": "dpmpp", "levels": ladder, "batch_size": len(x), "seed": self.generator}
        for step in self.teacher.steps(len(x), start=x, label="none" if label is None else label, **way):  # type: ignore[arg-type]
            if following and step.sigma <= ladder[-1]:
                break
        return step.x
