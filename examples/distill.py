"""Distil a run: a copy of its network, the student, learns to draw in six evaluations what the run draws in many.

python examples/distill.py mnist --minutes 25         # the model in the package; or the folder of a run of images
ncsn evaluate runs/student                            # what it leaves is a run like any other

Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512) halves the steps of a flow again and again.  Here they
become few at once.  The student's errors add up on its way, because it learns from noised data and not from its own
samples.  So it repeats its last step but one after fresh noise (a restart, Xu et al. 2023, arXiv:2306.14878).
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import tyro
from torch import Tensor

import ncsn
from ncsn.run.folder import check_folder

STEPS = 3  # of the teacher, by DPM-Solver++(2M), for each step of the student
MUON_RATE, ADAM_RATE = 0.0013, 0.00013  # a fifteenth of the usual rates: this network knows most already
LAST = 0.12  # the student's smallest noise level: from there one evaluation leads to an image


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Teach a copy of a run's network to draw in few evaluations."""

    run: tyro.conf.Positional[str]
    """The teacher: a run's folder, or mnist."""
    minutes: float = 25.0
    """How long to train, in minutes."""
    restarts: int = 2
    """How often the last step but one is repeated. Each costs an evaluation more than the four levels."""
    batch_size: int = 64
    """Images in a step."""
    samples: int = 50
    """Images in each picture."""
    seed: int = 0
    """The seed of the training and of the pictures."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path = Path("runs/student")
    """The folder of the student, and of a picture by the student and by the teacher."""
    overwrite: bool = False
    """Replace a run that is there."""


def follow(teacher: ncsn.Run, x: Tensor, label: Tensor | None, sigma: float, end: float) -> Tensor:
    """Where the teacher's flow leads from noise level ``sigma`` to ``end``, which may be 0."""
    last = end or teacher.recipe.sampling.sigma_min
    sigmas = tuple(ncsn.Karras(sigma, last, STEPS + 1).sigmas().tolist())
    states = teacher.steps(len(x), sampler="dpmpp", levels=sigmas, label="none" if label is None else label, start=x)
    for state in states:
        if end and state.sigma <= sigmas[-1]:
            break
    return state.x


def ladder(teacher: ncsn.Run, restarts: int) -> tuple[float, ...]:
    """The student's noise levels: four that descend in equal ratios, then restarts from the last to the one before."""
    sampling = teacher.recipe.sampling
    sigmas = ncsn.Geometric(sampling.sigma_max, max(LAST, 2 * sampling.sigma_min), 4).sigmas().tolist()
    return (*sigmas, *sigmas[-2:] * restarts)


def distil(
    job: Distill, teacher: ncsn.Run, levels: tuple[float, ...], images: Tensor, labels: Tensor | None
) -> Iterator[ncsn.ScoreModel]:
    """The student after every step of its training: the average of its weights."""
    generator = torch.Generator(teacher.device).manual_seed(job.seed)
    student = copy.deepcopy(teacher.model)
    # The steps that are to be learned, each once: a restart repeats one.
    ways = list(dict.fromkeys(way for way in pairwise((*levels, 0.0)) if way[1] < way[0]))

    def loss(model: ncsn.ScoreModel, batch: ncsn.Batch) -> tuple[Tensor, Tensor]:
        """How far the student's step is from the teacher's.

        Euler's step from σ to σ' is x' = r·x + (1 − r)·D(x, σ) with r = σ'/σ.  So D learns (x' − r·x)/(1 − r), where x'
        is what the teacher makes of x.  The weight makes it an error of what the network returns, as in training:
        without it the first steps, whose errors are large, would spoil the last one.
        """
        x, label = batch.x, batch.label
        sigma, end = ways[int(torch.randint(len(ways), (), generator=generator, device=teacher.device))]
        noisy, ratio = x + sigma * torch.randn(x.shape, generator=generator, device=x.device), end / sigma
        target = (follow(teacher, noisy, label, sigma, end) - ratio * noisy) / (1 - ratio)
        sigmas = torch.full((len(x),), sigma, device=x.device)
        denoised = ncsn.tweedie(lambda y, s: model(y, s, label), noisy, sigmas)
        weight = model.residual_weight(sigmas) / (2 * sigmas**2)
        return weight * (denoised - target).square().flatten(1).mean(1), sigmas

    optimizers = ncsn.muon_and_adam(student, muon_rate=MUON_RATE, adam_rate=ADAM_RATE)
    state = ncsn.State(student, optimizers, generator=generator)
    batches = ncsn.batches(images, job.batch_size, labels, generator=generator)
    printed = time.monotonic()
    for p in ncsn.train(state, batches, loss, budget=ncsn.Budget(seconds=60 * job.minutes)):
        if time.monotonic() > printed + 5:
            print(
                f"{p.fraction:4.0%}  step {p.step}, loss {p.losses.mean():.4f}, {p.step * len(p.losses) / p.seconds:.0f} images/s"
            )
            printed = time.monotonic()
        yield state.average


def main(job: Distill) -> ncsn.Run:
    """Train the student, save it as a run, and draw by both; returns the student."""
    check_folder(job.out, overwrite=job.overwrite, figures=("student.png", "teacher.png"))
    teacher = ncsn.load(job.run, device=job.device)
    data = teacher.data()
    labels = data.labels.train.to(teacher.device) if data.labels and teacher.recipe.num_classes else None
    levels = ladder(teacher, job.restarts)
    *_, model = distil(job, teacher, levels, data.train.to(teacher.device), labels)
    # An ordinary run, sampled by Euler's method: the guidance is in what it has learned.
    sampling = replace(teacher.recipe.sampling, sampler="euler", levels=levels, guidance=1.0)
    recipe = replace(teacher.recipe, sampling=sampling)
    student = replace(teacher, score=model, recipe=recipe, guide=None, folder=None)
    student.save(job.out, overwrite=job.overwrite)
    for name, run in {"student": student, "teacher": teacher}.items():
        steps = run.steps(job.samples, seed=job.seed)
        *_, last = steps
        ncsn.plots.image_grid(last.x, job.out / f"{name}.png")
        print(f"{job.out / name}.png: {steps.nfe + steps.guide_nfe} evaluations a sample")
    print(f"how far each is from real images: ncsn evaluate {job.out}; ncsn evaluate {job.run}")
    return student


if __name__ == "__main__":
    main(tyro.cli(Distill))
