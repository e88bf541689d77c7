"""The samplers that training_toy.py compares."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.distributions import Distribution, GaussianMixture
from ncsn.evaluation import metrics
from ncsn.learn.settings import Toy
from ncsn.plots import Panel
from ncsn.run import Drawn, Run

VIEW = 8.0  # everything is drawn on [-8, 8]², where the paper's figures are


def compare_samplers(
    run: Run, truth: Distribution, settings: Toy, draw: Callable[..., Drawn]
) -> tuple[list[list[Panel]], list[tuple[str, Float[Tensor, "shown 2"]]], dict[str, object]]:
    """Langevin dynamics and its annealed descendant from the same start, with as many steps, and both scores.

    ``draw``: how a run is sampled, ``console.draw``.  Returns rows of panels: the data or the start, and what each
    sampler made of it; annealing with the learned score on its way; and the numbers.
    """
    generator = torch.Generator(run.device).manual_seed(settings.seed + 1)
    data, *others = (truth.sample(settings.samples, generator=generator) for _ in range(6))
    start = (torch.rand(settings.samples, 2, generator=generator, device=run.device) * 2 - 1) * VIEW
    floor = sum(metrics.sliced_wasserstein(data, other) for other in others) / len(others)
    paper = 0.1 if settings.generator == "gaussian" else settings.sigma_min**2
    steps = settings.levels * settings.langevin_steps
    samplers: dict[str, dict[str, Any]] = {
        "langevin": {"steps": steps, "eps": settings.step_size or paper},
        "annealed": {},
    }
    panels = [[titled("data", data, truth)], [titled("start", start, truth)]]
    way = [("start: uniform", start[:1500])]
    numbers: dict[str, object] = {"sliced_wasserstein_floor": floor, "n": settings.samples}
    for row, (kind, score) in zip(panels, (("learned", run.score), ("exact", truth)), strict=True):
        for sampler, options in samplers.items():
            name, keep = f"{sampler}, {kind} score", 1500 if (kind, sampler) == ("learned", "annealed") else 0
            how = options | {"sampler": sampler, "seed": generator, "start": start, "keep": keep, "description": name}
            drawn = draw(replace(run, score=score), settings.samples, **how)
            row.append(titled(name, drawn.samples, truth))
            way += [(f"σ = {sigma:.2f}" if sigma else "denoised", x) for sigma, x in drawn.path]
            distance = metrics.sliced_wasserstein(drawn.samples, data) / floor
            result: dict[str, object] = {"sliced_wasserstein_over_floor": distance, "nfe": drawn.nfe}
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
