"""Distillation: a copy of a run's network learns to take in one step what the run's guided flow takes in several.

The copy is a run of its own, whose sampler is Euler's method on a few noise levels.  Progressive distillation (Salimans
& Ho 2022, arXiv:2202.00512) halves the steps again and again; here they become few at once.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.draws import randn
from ncsn.noise import Geometric, Karras
from ncsn.objectives import Batch
from ncsn.optimizers import muon_and_adam
from ncsn.run import Run
from ncsn.sampling import Sampling
from ncsn.score import LabelledScore, Score, conditioned, tweedie
from ncsn.training import State

LAST = 0.12  # the smallest noise level that a student is asked at: from there one evaluation leads to an image
MUON_RATE, ADAM_RATE = 0.004, 0.0004  # a fifth of what a network is trained with: it knows most of it already


def levels(run: Run, evaluations: int) -> tuple[float, ...]:
    """The noise levels of a student of so many evaluations, descending, each as far from the next as the others."""
    return tuple(Geometric(run.recipe.sampling.sigma_max, LAST, evaluations).sigmas().tolist())


def student_of(run: Run, sigmas: tuple[float, ...]) -> Run:
    """A copy of the run, sampled by one evaluation on each of ``sigmas``, unguided; it has learned nothing yet."""
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
    (x' − r·x)/(1 − r), where x' is what the teacher makes of x.

    ``teacher``: whose flow is followed, guided as it is by default.  ``sigmas`` (levels,): descending; after the last
    one comes 0.  ``steps``: of DPM-Solver++(2M) between two of them.  ``generator``: what noise and levels, one for
    each batch, are drawn from.
    """

    teacher: Run
    sigmas: tuple[float, ...]
    generator: torch.Generator
    steps: int = 3

    def __call__(self, model: Score | LabelledScore, batch: Batch) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The losses, and the noise level of each."""
        x, label = batch
        number = int(torch.randint(len(self.sigmas), (), generator=self.generator))
        sigma, following = self.sigmas[number], (*self.sigmas, 0.0)[number + 1]
        noisy, ratio = x + sigma * randn(x.shape, self.generator, x), following / sigma
        wanted = (self.led(noisy, label, sigma, following) - ratio * noisy) / (1 - ratio)
        denoised = tweedie(conditioned(model, label), noisy, torch.full((len(x),), sigma, device=x.device))
        losses = (denoised - wanted).square().flatten(1).mean(1)
        return losses, torch.full((len(x),), sigma, device=x.device)

    @torch.no_grad()
    def led(
        self, x: Float[Tensor, "b *d"], label: Int64[Tensor, "b"] | None, sigma: float, following: float
    ) -> Float[Tensor, "b *d"]:
        """Where the teacher's flow leads from noise level ``sigma`` to the ``following`` one."""
        end = following or self.teacher.recipe.sampling.sigma_min
        ladder = tuple(Karras(sigma, end, self.steps + 1).sigmas().tolist())
        way = {"sampler": "dpmpp", "levels": ladder, "batch_size": len(x), "seed": self.generator}
        for step in self.teacher.steps(len(x), start=x, label="none" if label is None else label, **way):  # type: ignore[arg-type]
            if following and step.sigma <= ladder[-1]:
                break
        return step.x
