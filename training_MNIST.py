"""Train a noise conditional score network on images, and draw samples from it.

python ./training_MNIST.py                  # about ten minutes on two cores
python ./training_MNIST.py --minutes 60     # better digits
"""

import json
import sys
import time
from dataclasses import asdict

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import console, machine, metrics, plots, runs
from ncsn.distributions import Empirical
from ncsn.recipe import Recipe
from ncsn.score import Counted
from ncsn.settings import Images

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
AFTERWARDS = 20  # seconds of --minutes, but at most a twentieth, kept for the samples and figures after training


def main(settings: Images) -> None:
    """Train, validate along the way, sample, and draw."""
    began, out = time.perf_counter(), settings.out
    machine.keep_memory()
    if settings.resume:
        new = {"out", "overwrite", "resume", "data_dir", "tensorboard", "device", "compile"}
        new |= {"minutes", "steps"} if settings.minutes or settings.steps else set()
        settings = runs.continued(settings, "images", out, new)
    images = ncsn.load_images(settings.dataset, settings.data_dir)
    noise = ncsn.LogNormal(settings.log_sigma_mean, settings.log_sigma_std, settings.sigma_max, settings.sigma_min)
    recipe = Recipe(
        network="UNet",
        arguments={"image_channels": images.shape[0], "channels": settings.channels, "blocks": settings.blocks},
        shape=images.shape,
        sigma_max=settings.sigma_max,
        sigma_min=settings.sigma_min,
        sampler=settings.sampler,
        levels=settings.levels,
        steps=settings.langevin_steps,
        eps=settings.sigma_min**2 / 2 if settings.eps is None else settings.eps,
    )
    device = machine.choose_device(settings.device)
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from an explicit generator
    generator = torch.Generator(device).manual_seed(settings.seed)
    model = ncsn.ScoreModel(recipe.build(), *images.statistics(), autocast=machine.fast_bfloat16(device)).to(device)
    example = (
        torch.zeros(settings.batch_size, *images.shape, device=device),
        torch.ones(settings.batch_size, device=device),
    )
    with torch.no_grad():
        model(*example)  # images that do not fit end here
    runs.claim(out, overwrite=settings.overwrite, resume=settings.resume)

    state = ncsn.State(model, generator=generator, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate)
    if settings.resume:
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "images", asdict(settings), recipe)
    if settings.compile:
        console.compile_network(model.network, lambda: model(*example))

    seconds = (settings.minutes or 10) * 60
    seconds = max(1.0, seconds - min(AFTERWARDS, seconds / 20) - (time.perf_counter() - began))
    budget = ncsn.Budget(steps=settings.steps, seconds=None if settings.steps else seconds)
    batches = ncsn.batches(images.train.to(device), settings.batch_size, generator=generator)
    precision = torch.bfloat16 if machine.fast_bfloat16(device) else torch.float32
    train = Empirical((images.train.to(device).float() + 0.5) / 256, dtype=precision)
    loss = ncsn.residual_loss(noise, generator=generator, data_score=train, above=settings.posterior_above)
    rows = runs.trim_rows(out / "metrics.jsonl", state.step)
    board = console.tensorboard(out) if settings.tensorboard else None
    losses, sigmas = [], []
    for p in console.watch(ncsn.train(state, batches, loss, budget=budget), state, out):
        losses.append(p.losses)
        sigmas.append(p.sigmas)
        if p.fraction < min(1.0, (len(rows) + 1) / 10):
            continue
        # Ten times in a training: losses by noise level, on held-out images with always the same noise.
        fixed = torch.Generator(device).manual_seed(0)
        held_out = ncsn.batches(images.validation.to(device), 256, generator=fixed)
        with torch.no_grad():
            pairs = [ncsn.residual_loss(noise, generator=fixed)(state.average, next(held_out)) for _ in range(4)]
        validation, levels = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
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
            fixed.manual_seed(settings.seed)
            *_, x = recipe.path(state.average, recipe.start(state.average, 20, generator=fixed), generator=fixed)
            plots.image_grid(x.cpu(), out / f"samples_{p.step:06}.png")

    sampling = time.perf_counter()
    generator = torch.Generator(device).manual_seed(settings.seed)
    counted, ladder = Counted(state.average), recipe.states()
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
