"""A score for a tensor in one line: ``ncsn.fit(x, minutes=1)``."""

import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn
from tqdm.auto import tqdm

from ncsn import machine, networks
from ncsn.data import batches
from ncsn.data.pixels import reals
from ncsn.distributions import Empirical
from ncsn.learn import rules
from ncsn.learn.best import Best
from ncsn.learn.rules import Facts
from ncsn.model import ScoreModel
from ncsn.noise import LogNormal, Proposal
from ncsn.objectives import Objective, dsm, posterior_dsm, training_loss
from ncsn.progress import refresh_interval
from ncsn.recipe import Argument, Recipe
from ncsn.run import Run
from ncsn.samplers import METHODS, Sampling
from ncsn.training import Budget, State, train
from ncsn.units import Units

FEW = 1000  # rows, below which what is learned may be the rows themselves
CHECKS = 40  # how often in a training the average is tried on held-out examples
TRIALS = 4096  # noisy held-out examples at each of them


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Data in the model's units, and how it is to be learned."""

    train: Shaped[Tensor, "n *d"]
    held_out: Shaped[Tensor, "v *d"]
    labels: Int64[Tensor, "n"] | None
    units: Units | None
    mean: float | Tensor
    std: float
    facts: Facts | None = None


def fit(
    data: "Tensor | np.ndarray",
    *,
    minutes: float | None = None,
    steps: int | None = None,
    labels: Int64[Tensor, "n"] | None = None,
    network: nn.Module | None = None,
    objective: Objective | None = None,
    noise: Proposal | None = None,
    sampler: str = "dpmpp-sde",
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Run:
    """Learn the score of ``data``; returns a run that samples, measures and saves itself.

    A tenth of the examples is held out, and of all averages of the weights on the way the one is kept that is best on
    them.  Points are standardised coordinate by coordinate, which the run remembers, so that samples, log densities and
    posteriors are in the units of the data.

    ``data``: points (n, d), or images (n, c, h, w): bytes, or numbers in [0, 1]; a tensor or an array.
    ``minutes``, ``steps``: how long to train; one minute by default.
    ``labels``: the class of each image, 0 to k − 1: better samples, and ``run.sample(label=...)``.
    ``network``: one of your own, network(x, c) → like x with c = ¼ ln σ; by default an MLP, or a U-Net.
    ``objective``: how scores are trained, see ``training_loss``.  ``noise``: where training draws its noise levels, in
    standard deviations of points; samples descend from its ``sigma_max`` to its ``sigma_min``, if it has them.
    ``sampler``: a name in ``METHODS``.  ``batch_size``: by default 512 points or 128 images, at most all.
    ``device``: auto, cpu, cuda or mps.
    Raises ValueError for data that has no density to learn: another shape, fewer than ten examples, a constant column,
    numbers that are not finite; and for two budgets, or a sampler that is not known.
    """
    began = time.perf_counter()
    if minutes is not None and steps is not None:
        raise ValueError(f"minutes is {minutes} and steps is {steps}; at most one is allowed")
    place = machine.choose_device(device)
    generator = torch.Generator(place).manual_seed(seed)
    x = checked(torch.as_tensor(data)).to(place)
    images = x.ndim == 4
    if labels is not None and not images:
        raise ValueError("labels are given for points; only networks for images can be told classes")
    parts = split(x, None if labels is None else labels.to(place), generator)
    torch.manual_seed(seed)  # for the initial weights; everything else draws from the generator
    recipe = recipe_for(parts, network, sampler, noise)
    autocast = machine.autocast_of(machine.choose_precision("auto", place)) if images else None
    model = recipe.build(parts.mean, parts.std, network=network, autocast=autocast)
    state = State(model.to(place), generator=generator)
    noise = default_noise(parts, recipe) if noise is None else noise
    objective = default_objective(parts, state.model.network, noise) if objective is None else objective
    size = min(batch_size or (128 if images else 512), len(parts.train))
    loss = training_loss(noise, objective, generator=generator)
    budget = Budget(steps=steps) if steps is not None else Budget(seconds=60 * (1.0 if minutes is None else minutes))
    progress = train(state, batches(parts.train, size, parts.labels, generator=generator), loss, budget=budget)
    best = Best(state.average)
    form = "fitting {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    with tqdm(total=1.0, bar_format=form, delay=1, mininterval=refresh_interval(), leave=False) as bar:
        for p in progress:
            bar.update(min(p.fraction, 1.0) - bar.n)
            if p.fraction >= (len(best.losses) + 1) / CHECKS and p.fraction < 1:
                best.consider(state, held_out_loss(state.average, parts.held_out, noise))
    best.consider(state, held_out_loss(state.average, parts.held_out, noise))
    print(f"{best.verdict(len(x))}; {state.step} steps, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return Run(
        score=best.model,
        recipe=recipe,
        units=parts.units,
        experiment="fit",
        settings={"minutes": minutes, "steps": steps, "seed": seed, "examples": len(x)},
    ).to(place)


def checked(data: Tensor) -> Tensor:
    """Data as bytes or as float32.  Raises ValueError for what has no density to learn."""
    if data.ndim not in (2, 4):
        raise ValueError(f"data has shape {tuple(data.shape)}; points (n, d) or images (n, c, h, w) are needed")
    if len(data) < 10:
        raise ValueError(f"data holds {len(data)} examples; at least 10 are needed, and a thousand to learn much")
    if data.ndim == 4 and data.dtype == torch.uint8:
        return data
    x = data.float()
    wrong = int((~x.isfinite()).sum())
    if wrong:
        raise ValueError(f"data has {wrong} numbers that are NaN or infinite; remove or fill in their rows")
    low, high = float(x.min()), float(x.max())
    if x.ndim == 4 and (low < 0 or high > 1):
        raise ValueError(f"data has pixels from {low:g} to {high:g}; bytes, or numbers from 0 to 1, are needed")
    return x


def split(x: Tensor, labels: Tensor | None, generator: torch.Generator) -> Parts:
    """A tenth is held out, at random; points are standardised."""
    if len(x) < FEW:
        warnings.warn(f"{len(x)} examples are few: samples may be copies of them", stacklevel=3)
    order = torch.randperm(len(x), generator=generator, device=x.device)
    held_out, kept = order[: len(x) // 10], order[len(x) // 10 :]
    known = None if labels is None else labels[kept]
    if x.ndim == 4:
        pixels = reals(x[kept])
        mean, std = float(pixels.mean()), float(pixels.std())
        facts = Facts.of(x[kept], std)
        return Parts(train=x[kept], held_out=x[held_out], labels=known, units=None, mean=mean, std=std, facts=facts)
    units = Units.of(x[kept])
    z = units.standardise(x)
    return Parts(train=z[kept], held_out=z[held_out], labels=known, units=units, mean=0.0, std=1.0)


def recipe_for(parts: Parts, network: nn.Module | None, sampler: str, noise: Proposal | None) -> Recipe:
    """Which network learns, and how it is sampled.

    For points, noise goes up to ten times the data's largest standard deviation in any direction, where p_σ is as good
    as Gaussian, and down to a hundredth of every coordinate's, where it does not matter; for images see ``rules``.  A
    network of the user's own has a name that is none of the package's, which would be built for it.
    """
    n, *shape = parts.train.shape
    images = parts.facts is not None
    sigma_max = 10 * rules.leading_std(parts.train) if parts.facts is None else parts.facts.sigma_max
    sigma_min = 0.01 if parts.facts is None else parts.facts.sigma_min
    sigma_max, sigma_min = getattr(noise, "sigma_max", sigma_max), getattr(noise, "sigma_min", sigma_min)
    method = METHODS.get(sampler)
    sampling = Sampling(
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        sampler=sampler,
        levels=1 if method is None else method.suited(sigma_max, sigma_min),
        steps=1 if method is None else method.steps,
        eps=sigma_min**2 / 2,
    )
    if network is not None:
        name = type(network).__name__
        own = f"Own{name}" if name in networks.__all__ else name
        return Recipe(network=own, arguments={}, shape=tuple(shape), sampling=sampling)
    if images:
        counts = torch.zeros(0) if parts.labels is None else parts.labels.bincount().cpu().double()
        shares = {str(i): float(share) for i, share in enumerate(counts / counts.sum())}
        arguments: dict[str, Argument] = {"image_channels": shape[0]}
        if shares:
            arguments["classes"] = len(shares)
        return Recipe(network="UNet", arguments=arguments, shape=tuple(shape), shares=shares, sampling=sampling)
    width, layers = (256, 4) if n >= 5 * FEW else (128, 3)
    points: dict[str, Argument] = {"dimensions": shape[0], "width": width, "layers": layers}
    return Recipe(network="MLP", arguments=points, shape=tuple(shape), sampling=sampling)


def default_noise(parts: Parts, recipe: Recipe) -> Proposal:
    """Where a network of standardised points, or of pixels in [0, 1], has most to learn."""
    top, bottom = recipe.sampling.sigma_max, recipe.sampling.sigma_min
    if parts.facts is None:
        return LogNormal(-0.8, 1.6, top, bottom)
    return LogNormal(parts.facts.log_sigma_mean, 1.2, top, bottom)


def default_objective(parts: Parts, network: nn.Module, noise: Proposal) -> Objective:
    """Denoising score matching; for images, at high noise towards the score of the whole training set if that pays."""
    if parts.facts is None:
        return dsm
    above = parts.facts.posterior_above(network, noise)
    if above >= parts.facts.sigma_max:
        return dsm
    precision = torch.bfloat16 if machine.fast_bfloat16(parts.train.device) else torch.float32
    return partial(posterior_dsm, data_score=Empirical(reals(parts.train), parts.labels, dtype=precision), above=above)


@torch.no_grad()
def held_out_loss(model: ScoreModel, held_out: Shaped[Tensor, "v *d"], noise: Proposal) -> float:
    """The denoising loss on held-out examples, always with the same noise."""
    fixed = torch.Generator(held_out.device).manual_seed(0)
    size = TRIALS if held_out.ndim == 2 else TRIALS // 8
    losses, _ = training_loss(noise, generator=fixed)(model, next(batches(held_out, size, generator=fixed)))
    return float(losses.mean())
