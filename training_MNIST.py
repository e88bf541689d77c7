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
from pathlib import Path
from typing import Any

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import console, machine, plots, report, runs
from ncsn.data import Images as Pictures
from ncsn.noise import Proposal
from ncsn.recipe import Recipe, suggested
from ncsn.score import Counted
from ncsn.settings import Images, halved

AFTERWARDS = 20  # seconds of --minutes, but at most a twentieth, kept for the samples and figures after training
GUIDE_SECONDS, GUIDE_STEPS = 1 / 20, 1 / 10  # the guide's share of either budget: its steps take half as long


def fitted(settings: Images, device: torch.device) -> Images:
    """The settings with a width and a batch that suit this machine and budget, unless they name them."""
    widths, batch, given = settings.widths, settings.batch, (settings.channels, settings.batch_size)
    short = (settings.minutes or 10) < 30
    if settings.network == "unet" and machine.slow(device) and short and None in given:
        widths, batch = settings.channels or halved(widths), settings.batch_size or batch // 2
        shape = f"--channels {' '.join(map(str, widths))} --batch-size {batch}"
        print(f"{shape}: without bfloat16, this CPU learns more with them in less than half an hour")
    return replace(settings, channels=widths, batch_size=batch)


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
        guidance=settings.guide_weight,
    )
    guide = replace(recipe, arguments=channels | settings.guide_arguments, guidance=1.0)
    return noise, recipe, guide if settings.guide_weight > 1 else None


def lesson(
    settings: Images, pictures: Pictures, noise: Proposal, generator: torch.Generator, *, classes: bool = False
) -> tuple[Iterator[Any], Any]:
    """What is learned from: batches, and the loss of one."""
    device = generator.device
    pixels, above = pictures.train.to(device), settings.posterior_above
    labels = pictures.labels.to(device) if classes and pictures.labels is not None else None
    precision = torch.bfloat16 if machine.fast_bfloat16(device) else torch.float32
    train = ncsn.Empirical((pixels.float() + 0.5) / 256, labels, dtype=precision)
    if labels is not None:
        batches = ncsn.labelled_batches(pixels, labels, settings.batch, generator=generator)
        return batches, ncsn.labelled_loss(noise, train, above=above, generator=generator)
    objective = partial(ncsn.posterior_dsm, data_score=train, above=above)
    return (
        ncsn.batches(pixels, settings.batch, generator=generator),
        ncsn.residual_loss(noise, objective, generator=generator),
    )


def begin(settings: Images, recipe: Recipe, pictures: Pictures, device: torch.device, out: Path) -> ncsn.State:
    """A network and all that its training changes: new, or as the run in ``out`` left it."""
    model = recipe.build(*pictures.statistics(), autocast=machine.fast_bfloat16(device)).to(device)
    generator = torch.Generator(device).manual_seed(settings.seed)
    state = ncsn.State(model, generator=generator, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate)
    out.mkdir(exist_ok=True)
    if (out / "checkpoint.pt").exists():
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "images", asdict(settings), recipe)
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
    device = machine.choose_device(settings.device)
    settings = fitted(settings, device)
    noise, recipe, guide_recipe = plan(settings, pictures)
    recipe.build(0.5, 0.5)(torch.zeros(1, *pictures.shape), torch.ones(1))  # images that do not fit end here
    runs.claim(out, overwrite=settings.overwrite, resume=settings.resume)

    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from explicit generators
    state = begin(settings, recipe, pictures, device, out)
    if settings.compile:
        example = torch.zeros(settings.batch, *pictures.shape, device=device)
        sigma = torch.ones(settings.batch, device=device)
        console.compile_network(state.model.network, lambda: state.model(example, sigma))
    seconds = (settings.minutes or 10) * 60
    seconds = max(1.0, seconds - min(AFTERWARDS, seconds / 20) - (time.perf_counter() - began))
    guide: ncsn.Score | None = None
    if guide_recipe is not None:
        limit = ncsn.Budget(
            steps=math.ceil(settings.steps * GUIDE_STEPS) if settings.steps else None,
            seconds=None if settings.steps else seconds * GUIDE_SECONDS,
        )
        learned = begin(settings, guide_recipe, pictures, device, out / "guide")
        progress = ncsn.train(learned, *lesson(settings, pictures, noise, learned.generator), budget=limit)
        for _ in console.watch(progress, learned, out / "guide", what="guide   "):
            pass
        guide, seconds = learned.average, max(1.0, seconds - learned.seconds)
    sampled = recipe.guided(state.average, guide)

    budget = ncsn.Budget(steps=settings.steps, seconds=None if settings.steps else seconds)
    batches, loss = lesson(settings, pictures, noise, state.generator, classes=settings.classes)
    progress = console.watch(ncsn.train(state, batches, loss, budget=budget), state, out)
    held_out = partial(report.validate, state.average, pictures.validation.to(device), noise)
    rows = runs.trim_rows(out / "metrics.jsonl", state.step)
    board = console.tensorboard(out) if settings.tensorboard else None
    for row in report.by_noise_level(progress, held_out, done=len(rows)):
        rows.append(row)
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if board is not None:
            board.add_scalars("loss", {"training": row["loss"], "validation": row["validation_loss"]}, row["step"])
        if len(rows) in (3, 6, 9):
            fixed = torch.Generator(device).manual_seed(settings.seed)
            *_, x = recipe.path(sampled, recipe.start(state.average, 20, generator=fixed), generator=fixed)
            plots.image_grid(x.cpu(), out / f"samples_{row['step']:06}.png")

    sampling = time.perf_counter()
    generator = torch.Generator(device).manual_seed(settings.seed)
    counted, ladder = Counted(sampled), recipe.states()
    start = recipe.start(counted, settings.samples, generator=generator)
    path = [x.cpu() for x in console.bar(recipe.path(counted, start, generator=generator), len(ladder), "sampling")]
    sampling = time.perf_counter() - sampling
    plots.image_grid(path[-1], out / "samples.png")
    plots.evolution(path, ladder, out / "evolution.png")
    plots.evolution_animation(path, ladder, out / "evolution.gif")
    plots.loss_curves(rows, report.BAND_NAMES, out / "loss.png")
    results = {**rows[-1], "training_seconds": state.seconds, "images_seen": state.step * settings.batch}
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
