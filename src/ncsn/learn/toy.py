"""What training_toy.py needs beside the package's own parts: settings that follow from points, and a comparison."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn import machine, storage
from ncsn.distributions import TOYS, Distribution, GaussianMixture
from ncsn.evaluation import metrics
from ncsn.learn.record import Record
from ncsn.learn.settings import ResolvedToy, Toy, check_auto, recalled
from ncsn.noise import suggest_noise
from ncsn.plots import Panel
from ncsn.recipe import Recipe
from ncsn.run import Drawn, Run
from ncsn.samplers import Sampling

VIEW = 8.0  # everything is drawn on [-8, 8]², where the paper's figures are
MANY = 100_000  # training examples
PICTURES = ("score_field.png", "samples.png", "trajectories.gif")


def opened_toy(given: Toy) -> tuple[Distribution, Float[Tensor, "n 2"], ResolvedToy, Record, torch.Generator]:
    """The distribution, points of it, the settings that follow, a record in the run's folder, and the randomness.

    Raises ValueError for settings that make no sense, and if the folder holds another run.
    """
    folder = given.job.out or Path("runs") / f"toy-{given.generator}"
    given = replace(given, job=replace(given.job, out=folder))
    settings = given
    if given.job.resume and storage.begun(folder):
        settings = recalled(given, ResolvedToy, folder, storage.read_settings(folder, "toy"))
    generator = torch.Generator(machine.choose_device(given.job.device)).manual_seed(settings.seed)
    truth = TOYS[settings.generator]()
    data = truth.sample(MANY, generator=generator)
    resolved = resolve_toy(settings, data)
    return truth, data, resolved, Record(folder, resolved), generator


def resolve_toy(given: Toy, data: Float[Tensor, "n 2"]) -> ResolvedToy:
    """The settings with a value for whatever was not given, some of them from the data."""
    if isinstance(given, ResolvedToy):
        return given
    check_auto(given, ("sigma_max", "sigma_min", "levels", "langevin_steps", "eps"))
    if given.noise == "auto":
        advice = suggest_noise(data)
        print(advice.explanation)
        noise = advice.noise
        given = replace(given, sigma_max=noise.sigma_max, sigma_min=noise.sigma_min, levels=noise.levels)
        given = replace(given, langevin_steps=advice.steps, eps=advice.eps)
    paper = 0.1 if given.generator == "gaussian" else given.sigma_min**2
    shown = {"circle": "field", "gaussian": "samples"}.get(given.generator, "both")
    values = {field.name: getattr(given, field.name) for field in fields(given)} | {
        "eps": given.eps or given.sigma_min**2 / 2,
        "step_size": given.step_size or paper,
        "view": shown if given.view == "auto" else given.view,
    }
    return ResolvedToy(**values)


def recipe_of_toy(settings: ResolvedToy, device: torch.device) -> Recipe:
    """Which network learns, and how it is sampled.

    Raises ValueError for what could not be sampled, or does not fit.
    """
    sampling = Sampling(
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        sampler="annealed",
        levels=settings.levels,
        steps=settings.langevin_steps,
        eps=settings.eps,
    )
    sampling.but(sampler="langevin", eps=settings.step_size)  # to which annealing is compared
    arguments = {"dimensions": 2, "width": settings.width, "layers": settings.layers}
    return Recipe(network="MLP", arguments=dict(arguments), shape=(2,), sampling=sampling)


def compare_samplers(
    run: Run, truth: Distribution, settings: ResolvedToy, draw: Callable[..., Drawn]
) -> tuple[list[list[Panel]], list[tuple[str, Float[Tensor, "shown 2"]]], dict[str, object]]:
    """Langevin dynamics and its annealed descendant from the same start, with as many steps, and both scores.

    ``draw``: how a run is sampled, ``drawing.draw``.  Returns rows of panels: the data or the start, and what each
    sampler made of it; annealing with the learned score on its way; and the numbers.
    """
    generator = torch.Generator(run.device).manual_seed(settings.seed + 1)
    data, *others = (truth.sample(settings.samples, generator=generator) for _ in range(6))
    start = (torch.rand(settings.samples, 2, generator=generator, device=run.device) * 2 - 1) * VIEW
    floor = sum(metrics.sliced_wasserstein(data, other) for other in others) / len(others)
    samplers: dict[str, dict[str, Any]] = {
        "langevin": {"steps": settings.levels * settings.langevin_steps, "eps": settings.step_size},
        "annealed": {},
    }
    panels = [[titled("data", data, truth)], [titled("start", start, truth)]]
    way = [("start: uniform", start[:1500])]
    numbers: dict[str, object] = {"sliced_wasserstein_floor": floor, "n": settings.samples}
    for row, (kind, score) in zip(panels, (("learned", run.score), ("exact", truth)), strict=True):
        for sampler, options in samplers.items():
            shown = 1500 if (kind, sampler) == ("learned", "annealed") else 0
            drawn = draw(
                replace(run, score=score),
                settings.samples,
                seed=generator,
                sampler=sampler,
                start=start,
                keep=shown,
                description=f"{sampler}, {kind} score",
                **options,
            )
            row.append(titled(f"{sampler}, {kind} score", drawn.samples, truth))
            way += [(f"σ = {sigma:.2f}" if sigma else "denoised", x) for sigma, x in drawn.path]
            result: dict[str, object] = {
                "sliced_wasserstein_over_floor": metrics.sliced_wasserstein(drawn.samples, data) / floor,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
            }
            if few_modes(truth):
                result["modes"] = metrics.mode_statistics(drawn.samples, truth)
            numbers[f"{sampler}_{kind}"] = result
    return panels, way, numbers


def few_modes(truth: Distribution) -> TypeGuard[GaussianMixture]:
    """Whether samples can be told apart by the component that they belong to."""
    return isinstance(truth, GaussianMixture) and len(truth.means) <= 8


def titled(name: str, x: Float[Tensor, "n 2"], truth: Distribution) -> Panel:
    """A panel under its name, and under the modes' weights if there are modes."""
    if not few_modes(truth):
        return name, x
    weights = [f"{mode['weight']:.3f}" for mode in metrics.mode_statistics(x, truth)]
    return f"{name}\nweights {' / '.join(weights)}", x
