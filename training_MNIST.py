"""Train a noise conditional score network on images, and draw samples by annealed Langevin dynamics.

python ./training_MNIST.py                  # about ten minutes on two cores
python ./training_MNIST.py --minutes 60     # better digits
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

try:
    import ncsn
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; install the package first, with `pip install .` in this folder")

import torch

from ncsn import cli, machine, metrics, plots, runs

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, in which losses are reported
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
SAMPLING_SHARE = 0.07  # of --minutes, kept for the samples and figures after training


@dataclass(frozen=True, kw_only=True)
class Images:
    """Learn the score of images with a small U-Net by denoising score matching, and sample it."""

    minutes: float | None = None
    """Wall-clock budget, sampling and figures included; 10 if neither this nor --steps is given."""
    steps: int | None = None
    """Training steps instead of minutes; the same seed then gives the same bytes on one machine."""
    dataset: str = "mnist"
    """mnist (in the package), fashion-mnist, kmnist, cifar10 (downloaded), or a folder of images of one size."""
    data_dir: Path | None = None
    """Where the data set's files are, or go."""
    batch_size: int = 128
    channels: tuple[int, ...] = (64, 128)
    """The U-Net's width at each resolution, finest first; the finest is half of the image's."""
    blocks: int = 2
    """Residual blocks at each resolution, down and up."""
    sigma_max: float = 10.0
    """The largest noise level, for pixels in [0, 1]."""
    sigma_min: float = 0.01
    """The smallest noise level."""
    log_sigma_mean: float = -0.7
    """Training draws ln σ from N(mean, std²), within sigma_min and sigma_max."""
    log_sigma_std: float = 1.2
    levels: int = 100
    """Noise levels that sampling descends."""
    langevin_steps: int = 2
    """Langevin steps on each of them."""
    eps: float = 5e-5
    """Langevin's step size on the smallest level; σ²-proportional above it."""
    muon_rate: float = 0.02
    """Peak learning rate of the convolutions and other matrices."""
    adam_rate: float = 2e-3
    """Peak learning rate of everything else."""
    samples: int = 100
    """How many samples to draw at the end."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = True
    """Speed training up with torch.compile, where this machine can."""
    tensorboard: bool = False
    """Also log to TensorBoard, in the run's folder."""
    out: Path = Path("runs/mnist")
    overwrite: bool = False
    """Replace a run that is already there."""
    resume: bool = False
    """Continue the run that is there; with --minutes or --steps, up to this total."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if self.minutes is not None and self.steps is not None:
            raise ValueError(f"minutes is {self.minutes} and steps is {self.steps}; at most one is allowed")
        for name in ("minutes", "steps", "batch_size", "levels", "langevin_steps", "samples"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be positive")

    @property
    def budget(self) -> ncsn.Budget:
        """What is left for training when sampling and figures have their share."""
        if self.steps is not None:
            return ncsn.Budget(steps=self.steps)
        return ncsn.Budget(seconds=(self.minutes or 10) * 60 * (1 - SAMPLING_SHARE))


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
    recipe = runs.Recipe(
        network="UNet",
        arguments={
            "image_channels": images.shape[0],
            "channels": settings.channels,
            "blocks": settings.blocks,
        },
        shape=images.shape,
        noise=ncsn.Geometric(settings.sigma_max, settings.sigma_min, settings.levels),
        eps=settings.eps,
        steps=settings.langevin_steps,
    )
    device = torch.device(
        "cuda" if settings.device == "auto" and torch.cuda.is_available() else settings.device.replace("auto", "cpu")
    )
    torch.manual_seed(settings.seed)  # for the initial weights; everything else draws from an explicit generator
    generator = torch.Generator(device).manual_seed(settings.seed)
    model = ncsn.ScoreModel(recipe.build(), *images.statistics(), autocast=machine.fast_bfloat16(device)).to(device)
    model(
        torch.zeros(1, *images.shape, device=device), torch.ones(1, device=device)
    )  # refuses a size that does not fit
    runs.claim(out, overwrite=settings.overwrite, resume=settings.resume)

    state = ncsn.State(model, generator=generator, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate)
    if settings.resume:
        state.load(out / "checkpoint.pt")
    runs.write_config(out, "images", asdict(settings), recipe)
    if settings.compile and (reason := machine.compile_network(model.network)):
        print(f"training without torch.compile, about 1.5 times slower: {reason}", file=sys.stderr)

    batches = ncsn.batches(images.train.to(device), settings.batch_size, generator=generator)
    loss = ncsn.residual_loss(noise, generator=generator)
    rows = runs.trim_rows(out / "metrics.jsonl", state.step)
    board = cli.tensorboard(out) if settings.tensorboard else None
    losses, sigmas = [], []
    for p in cli.watch(ncsn.train(state, batches, loss, budget=settings.budget), state, out):
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
            torch_generator = torch.Generator(device).manual_seed(settings.seed)
            *_, x = recipe.annealed(
                state.average, recipe.start(20, generator=torch_generator), generator=torch_generator
            )
            plots.image_grid(x.cpu(), out / f"samples_{p.fraction:.0%}.png".replace("%", ""))

    sampling = time.perf_counter()
    generator = torch.Generator(device).manual_seed(settings.seed)
    start = recipe.start(settings.samples, generator=generator)
    path = list(
        cli.bar(recipe.annealed(state.average, start, generator=generator), recipe.states("annealed"), "sampling")
    )
    sampling = time.perf_counter() - sampling
    path = [x.cpu() for x in path]
    ladder = [*recipe.noise.sigmas().tolist(), 0.0]
    plots.image_grid(path[-1], out / "samples.png")
    plots.evolution(path, ladder, out / "evolution.png")
    plots.evolution_animation(path, ladder, out / "evolution.gif")
    plots.loss_curves(rows, BAND_NAMES, out / "loss.png")
    results = {**rows[-1], "training_seconds": state.seconds, "images_seen": state.step * settings.batch_size}
    results |= {
        "samples": settings.samples,
        "sampling_seconds": sampling,
        "nfe": recipe.nfe,
        "seconds": time.perf_counter() - began,
    }
    runs.write_json(out / "metrics.json", results)
    print(f"{out}: samples.png, evolution.png, evolution.gif, loss.png, metrics.json; more with `ncsn sample {out}`")


if __name__ == "__main__":
    cli.run(main, Images)
