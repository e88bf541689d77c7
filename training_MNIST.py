"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                  # about ten minutes on two cores
python ./training_MNIST.py --minutes 60     # better digits
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import console, machine, metrics, plots, runs
from ncsn.data import Images as Pictures
from ncsn.noise import Proposal
from ncsn.recipe import Recipe, suggested
from ncsn.score import Counted
from ncsn.settings import Images

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
AFTERWARDS = 20  # seconds of --minutes, but at most a twentieth, kept for the samples and figures after training
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long


def plan(settings: Images, pictures: Pictures) -> tuple[Proposal, Recipe, Recipe | None]:
    """Where training draws its noise levels from; which network learns, and how it will be sampled; its guide."""
    noise: Proposal
    if settings.proposal == "lognormal":
        noise = ncsn.LogNormal(settings.log_sigma_mean, settings.log_sigma_std, settings.sigma_max, settings.sigma_min)
    elif settings.proposal == "loguniform":
        noise = ncsn.LogUniform(settings.sigma_max, settings.sigma_min)
    else:
        noise = ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels or 10)
    channels = {"image_channels": pictures.shape[0]}
    arguments = channels | settings.network_arguments
    if settings.classes:
        if pictures.labels is None:
            raise ValueError(f"--classes is given, but {settings.dataset} has no classes")
        arguments["classes"] = int(pictures.labels.max()) + 1
    recipe = Recipe(
        network="UNet" if settings.network == "unet" else "RefineNet",
        arguments=arguments,
        preconditioned=settings.network != "refinenet-v2",
        shape=pictures.shape,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        sampler=settings.sampler,
        levels=settings.levels,
        steps=settings.langevin_steps,
        eps=settings.sigma_min**2 / 2 if settings.eps is None else settings.eps,
        guidance=settings.guidance,
    )
    guide = replace(recipe, arguments=channels | settings.guide_arguments, guidance=1.0)
    return noise, recipe, guide if settings.guidance > 1 else None


def lesson(
    settings: Images,
    pictures: Pictures,
    noise: Proposal,
    device: torch.device,
    generator: torch.Generator,
    *,
    classes: bool = False,
) -> tuple[Iterator[Any], Any]:
    """What is learned from: batches, and the loss of one."""
    pixels, above = pictures.train.to(device), settings.posterior_above
    labels = pictures.labels.to(device) if classes and pictures.labels is not None else None
    precision = torch.bfloat16 if machine.fast_bfloat16(device) else torch.float32
    train = ncsn.Empirical((pixels.float() + 0.5) / 256, labels, dtype=precision)
    if labels is not None:
        batches = ncsn.labelled_batches(pixels, labels, settings.batch_size, generator=generator)
        return batches, ncsn.labelled_loss(noise, train, above=above, generator=generator)
    objective = partial(ncsn.posterior_dsm, data_score=train, above=above)
    return (
        ncsn.batches(pixels, settings.batch_size, generator=generator),
        ncsn.residual_loss(noise, objective, generator=generator),
    )


@torch.no_grad()
def validate(
    model: ncsn.ScoreModel, pictures: Pictures, noise: Proposal, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Denoising losses on 1,024 held-out images, always with the same noise, and their noise levels."""
    fixed = torch.Generator(device).manual_seed(0)
    held_out, loss = (
        ncsn.batches(pictures.validation.to(device), 256, generator=fixed),
        ncsn.residual_loss(noise, generator=fixed),
    )
    losses, sigmas = zip(*[loss(model, next(held_out)) for _ in range(4)], strict=True)
    return torch.cat(losses).cpu(), torch.cat(sigmas).cpu()


def train_guide(
    settings: Images, recipe: Recipe, pictures: Pictures, noise: Proposal, device: torch.device, budget: ncsn.Budget
) -> ncsn.State:
    """Train the smaller network that sampling will move away from: a run of its own, in the run's folder."""
    out, generator = settings.out / "guide", torch.Generator(device).manual_seed(settings.seed)
    model = recipe.build(*pictures.statistics(), autocast=machine.fast_bfloat16(device)).to(device)
    state = ncsn.State(model, generator=generator, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate)
    out.mkdir(exist_ok=True)
    if (out / "checkpoint.pt").exists():
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "images", asdict(settings), recipe)
    batches, loss = lesson(settings, pictures, noise, device, generator)
    for _ in console.watch(ncsn.train(state, batches, loss, budget=budget), state, out, what="guide   "):
        pass
    return state


def main(settings: Images) -> None:
    """Train, validate along the way, sample, and draw."""
    began, out = time.perf_counter(), settings.out
    machine.keep_memory()
    if settings.resume:
        new = {"out", "overwrite", "resume", "data_dir", "tensorboard", "device", "compile"}
        new |= {"minutes", "steps"} if settings.minutes or settings.steps else set()
        settings = runs.continued(settings, "images", out, new)
    pictures = ncsn.load_images(settings.dataset, settings.data_dir)
    if settings.noise == "auto":
        suggestion = ncsn.suggest_noise(pictures.train / 256)
        print(suggestion.explanation)
        settings = suggested(settings, suggestion)
    noise, recipe, guide_recipe = plan(settings, pictures)
    device = machine.choose_device(settings.device)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from explicit generators
    model = recipe.build(*pictures.statistics(), autocast=machine.fast_bfloat16(device)).to(device)
    example = (
        torch.zeros(settings.batch_size, *pictures.shape, device=device),
        torch.ones(settings.batch_size, device=device),
    )
    with torch.no_grad():
        model(*example)  # images that do not fit end here
    runs.claim(out, overwrite=settings.overwrite, resume=settings.resume)
    runs.write_config(out, "images", asdict(settings), recipe)

    generator = torch.Generator(device).manual_seed(settings.seed)
    state = ncsn.State(model, generator=generator, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate)
    if (out / "checkpoint.pt").exists():
        state.load(out / "checkpoint.pt")
    if settings.compile:
        console.compile_network(model.network, lambda: model(*example))
    seconds = (settings.minutes or 10) * 60
    seconds = max(1.0, seconds - min(AFTERWARDS, seconds / 20) - (time.perf_counter() - began))
    guide: ncsn.Score | None = None
    if guide_recipe is not None:
        limit = ncsn.Budget(
            steps=math.ceil(settings.steps * GUIDE_STEPS) if settings.steps else None,
            seconds=None if settings.steps else seconds * GUIDE_SECONDS,
        )
        learned = train_guide(settings, guide_recipe, pictures, noise, device, limit)
        guide, seconds = learned.average, max(1.0, seconds - learned.seconds)
    budget = ncsn.Budget(steps=settings.steps, seconds=None if settings.steps else seconds)
    sampled = recipe.guided(state.average, guide)
    batches, loss = lesson(settings, pictures, noise, device, generator, classes=settings.classes)
    rows = runs.trim_rows(out / "metrics.jsonl", state.step)
    board = console.tensorboard(out) if settings.tensorboard else None
    losses, sigmas = [], []
    for p in console.watch(ncsn.train(state, batches, loss, budget=budget), state, out):
        losses.append(p.losses)
        sigmas.append(p.sigmas)
        if p.fraction < min(1.0, (len(rows) + 1) / 10):
            continue
        # Ten times in a training: losses by noise level.
        validation, levels = validate(state.average, pictures, noise, device)
        recent, at = torch.cat(losses).cpu(), torch.cat(sigmas).cpu()
        losses, sigmas = [], []
        rows.append(
            {
                "step": p.step,
                "seconds": p.seconds,
                "images_per_second": p.examples_per_second,
                "loss": recent.mean().item(),
                "bands": metrics.binned(recent, at, BANDS),
                "validation_loss": validation.mean().item(),
                "validation_bands": metrics.binned(validation, levels, BANDS),
            }
        )
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        if board is not None:
            board.add_scalars("loss", {"training": rows[-1]["loss"], "validation": rows[-1]["validation_loss"]}, p.step)
        if len(rows) % 3 == 0 and p.fraction < 1:
            fixed = torch.Generator(device).manual_seed(settings.seed)
            *_, x = recipe.path(sampled, recipe.start(state.average, 20, generator=fixed), generator=fixed)
            plots.image_grid(x.cpu(), out / f"samples_{p.step:06}.png")

    sampling = time.perf_counter()
    generator = torch.Generator(device).manual_seed(settings.seed)
    counted, ladder = Counted(sampled), recipe.states()
    start = recipe.start(counted, settings.samples, generator=generator)
    path = [x.cpu() for x in console.bar(recipe.path(counted, start, generator=generator), len(ladder), "sampling")]
    sampling = time.perf_counter() - sampling
    plots.image_grid(path[-1], out / "samples.png")
    plots.evolution(path, ladder, out / "evolution.png")
    plots.evolution_animation(path, ladder, out / "evolution.gif")
    plots.loss_curves(rows, BAND_NAMES, out / "loss.png")
    results = {**rows[-1], "training_seconds": state.seconds, "images_seen": state.step * settings.batch_size}
    results |= {
        "samples": settings.samples,
        "sampling_seconds": sampling,
        "nfe": counted.nfe,
        "seconds": time.perf_counter() - began,
    }
    runs.write_json(out / "metrics.json", results)
    print(f"{out}: samples.png, evolution.png, evolution.gif, loss.png, metrics.json; more with `ncsn sample {out}`")


if __name__ == "__main__":
    console.run(main, Images)
