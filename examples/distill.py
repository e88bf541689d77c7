"""Distil a run: train a copy of its network, the student, to sample in six network evaluations instead of many.

python examples/distill.py mnist --minutes 25         # the packaged model, or the folder of a run of images
ncsn evaluate runs/student                            # the result is an ordinary run

Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512) halves the number of steps repeatedly; here it is reduced
once.  The student learns from noisy data rather than from its own samples, so its errors accumulate.  To correct them, it
adds fresh noise and repeats its second-to-last step (a restart, Xu et al. 2023, arXiv:2306.14878).
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
from ncsn.batching import Batch
from ncsn.machine.storage import check_files
from ncsn.run.folder import check_folder

STEPS = 3  # of the teacher (DPM-Solver++(2M)) per step of the student
MUON_RATE, ADAM_RATE = 0.0013, 0.00013  # a fifteenth of the usual rates, because the network is already trained
LAST = 0.12  # the student's smallest noise level, from which one evaluation leads to an image


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Train a copy of a run's network to sample in few evaluations."""

    run: tyro.conf.Positional[str]
    """The teacher: the folder of a run, or mnist."""
    minutes: float = 25.0
    """Training time in minutes."""
    restarts: int = 2
    """How often the second-to-last step is repeated. Each repetition costs one evaluation."""
    batch_size: int = 64
    """Images per training step."""
    samples: int = 50
    """Images per picture."""
    seed: int = 0
    """Seed for training and pictures."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path = Path("runs/student")
    """Folder for the student and for a picture by each network."""
    overwrite: bool = False
    """Replace an existing run."""


def follow(teacher: ncsn.Run, x: Tensor, label: Tensor | None, sigma: float, end: float) -> Tensor:
    """Follow the teacher's probability flow from noise level ``sigma`` to ``end``, which may be 0."""
    last = end or teacher.recipe.sampling.sigma_min
    sigmas = tuple(ncsn.Karras(sigma, last, STEPS + 1).sigmas().tolist())
    states = teacher.steps(len(x), sampler="dpmpp", levels=sigmas, label="none" if label is None else label, start=x)
    for state in states:
        if end and state.sigma <= sigmas[-1]:
            break
    return state.x


def ladder(teacher: ncsn.Run, restarts: int) -> tuple[float, ...]:
    """Return the student's noise levels: four in geometric progression, then the restarts."""
    sampling = teacher.recipe.sampling
    sigmas = ncsn.Geometric(sampling.sigma_max, max(LAST, 2 * sampling.sigma_min), 4).sigmas().tolist()
    return (*sigmas, *sigmas[-2:] * restarts)


def distil(
    job: Distill, teacher: ncsn.Run, levels: tuple[float, ...], images: Tensor, labels: Tensor | None
) -> Iterator[ncsn.ScoreModel]:
    """Train the student and yield its average after every step."""
    generator = torch.Generator(teacher.device).manual_seed(job.seed)
    student = copy.deepcopy(teacher.model)
    # The distinct steps to learn, from a noise level to the next one; a restart repeats one of them.
    steps = list(dict.fromkeys((sigma, end) for sigma, end in pairwise((*levels, 0.0)) if end < sigma))

    def loss(model: ncsn.ScoreModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compare the student's step with the teacher's.

        Euler's step from σ to σ' is x' = r·x + (1 − r)·D(x, σ) with r = σ'/σ, so the target of D is (x' − r·x)/(1 − r),
        where x' is the teacher's result.  The weight turns this into an error of the network's output, as in training;
        without it, the large errors of the first steps would dominate.
        """
        x, label = batch.x, batch.label
        sigma, end = steps[int(torch.randint(len(steps), (), generator=generator, device=teacher.device))]
        noisy = x + sigma * torch.randn(x.shape, generator=generator, device=x.device)
        ratio = end / sigma
        target = (follow(teacher, noisy, label, sigma, end) - ratio * noisy) / (1 - ratio)
        sigmas = torch.full((len(x),), sigma, device=x.device)
        denoised = ncsn.tweedie(lambda y, s: model(y, s, label), noisy, sigmas)
        weight = model.residual_weight(sigmas) / (2 * sigmas**2)
        return weight * (denoised - target).square().flatten(1).mean(1), sigmas

    optimizers = ncsn.muon_and_adam(student, muon_rate=MUON_RATE, adam_rate=ADAM_RATE)
    state = ncsn.State(student, optimizers, generator=generator)
    batches = ncsn.batches(images, job.batch_size, labels, generator=generator)
    printed = time.monotonic()
    for progress in ncsn.train(state, batches, loss, budget=ncsn.Budget(seconds=60 * job.minutes)):
        if time.monotonic() > printed + 5:
            speed = progress.step * len(progress.losses) / progress.seconds
            numbers = f"step {progress.step}, loss {progress.losses.mean():.4f}, {speed:.0f} images/s"
            print(f"{progress.fraction:4.0%}  {numbers}")
            printed = time.monotonic()
        yield state.average


def main(job: Distill) -> ncsn.Run:
    """Train the student, save it as a run, and sample from both networks."""
    check_folder(job.out, overwrite=job.overwrite)
    if job.out.exists():
        check_files(job.out, ("student.png", "teacher.png"), overwrite=job.overwrite)
    teacher = ncsn.load(job.run, device=job.device)
    data = teacher.data()
    labels = data.labels.train.to(teacher.device) if data.labels and teacher.recipe.num_classes else None
    levels = ladder(teacher, job.restarts)
    *_, model = distil(job, teacher, levels, data.train.to(teacher.device), labels)
    # An ordinary run, sampled by Euler's method.  The student has learned guided steps, so it needs no guidance.
    sampling = replace(teacher.recipe.sampling, sampler="euler", levels=levels, guidance=1.0)
    recipe = replace(teacher.recipe, sampling=sampling)
    student = replace(teacher, score=model, recipe=recipe, guide=None, folder=None)
    student.save(job.out, overwrite=job.overwrite)
    for name, run in {"student": student, "teacher": teacher}.items():
        steps = run.steps(job.samples, seed=job.seed)
        *_, last = steps
        ncsn.plots.image_grid(last.x, job.out / f"{name}.png")
        print(f"{job.out / name}.png: {steps.nfe + steps.guide_nfe} evaluations per sample")
    print(f"compare both with real images: ncsn evaluate {job.out}; ncsn evaluate {job.run}")
    return student


if __name__ == "__main__":
    main(tyro.cli(Distill))
