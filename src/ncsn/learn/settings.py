"""The settings of a training: they become its command line, and its run's config.json keeps them.

Torch is not needed here, so that ``--help`` answers at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Interval

from ncsn import validation
from ncsn.data import Reading

PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]
FREE = ("minutes", "steps", "compile", "accumulate")  # what may change when a run goes on


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """What belongs to one session and not to the run: ``--resume`` takes it anew, and everything else from the run.

    Args:
        out: The run's folder; by default runs/ and what is learned.
        overwrite: Replace a run that is already there.
        resume: Continue the run that is there.
        device: auto: CUDA where there is one, else the CPU.
        precision: What the network runs in: bf16 or fp16 (16 bits, the weights in 32) or fp32; auto: what is fastest on
            the device. A processor without 16 bits in hardware is many times slower with them.
    """

    out: Path | None = None
    overwrite: bool = False
    resume: bool = False
    device: validation.DeviceName = "auto"
    precision: PrecisionName = "auto"

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        if self.overwrite and self.resume:
            raise ValueError("both --overwrite and --resume are given; at most one is allowed")


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Learn the score of a distribution in the plane; draw the score field, and samples.

    Args:
        generator: The distribution to learn.
        objective: Denoising, sliced or exact score matching.
        steps: Training steps.
        width: Units in a hidden layer.
        layers: Hidden layers.
        sigma_max: The largest noise level, in the units of the data.
        sigma_min: The smallest noise level.
        levels: Noise levels, in geometric progression.
        langevin_steps: Langevin steps on each level.
        eps: Annealed Langevin's step size on the smallest level, by default σ_min²/2; σ²-proportional above it.
        samples: How many samples each sampler draws; 0 for the score field alone.
        out: A folder for the run and its pictures; by default runs/ and what is learned.
        overwrite: Replace a run that is already there.
    """

    generator: Literal["circle", "gaussian", "moons", "swiss-roll", "checkerboard"] = "circle"
    objective: Literal["dsm", "ssm", "exact"] = "dsm"
    steps: validation.Count = 2000
    batch_size: validation.BatchSize = 1024
    width: validation.Width = 128
    layers: validation.Layers = 3
    sigma_max: validation.NoiseLevel = 20.0
    sigma_min: validation.NoiseLevel = 0.1
    levels: validation.Levels = 20
    langevin_steps: validation.LangevinSteps = 75
    eps: validation.StepSize | None = None
    samples: Annotated[int, Interval(ge=0, le=10**6)] = 10_000
    seed: validation.Seed = 0
    out: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        validation.check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Images(Reading):
    """Learn the score of images with a small U-Net by denoising score matching, and sample it.

    What is not given follows from the data, the budget and the machine, by the rules of ``learn.rules``.

    Args:
        minutes: Wall-clock budget, sampling and figures included; 10 if neither this nor --steps is given.
        steps: Training steps instead of minutes; the same seed then gives the same bytes on one machine.
        dataset: mnist (in the package), a folder or an archive (.zip, .tar) of images, an array (.npy, .npz), or a
            folder of .tar files, which are shards in WebDataset's format.
        flip: Mirror images, left to right, at random: twice the data where a mirrored image is as good as another.
        batch_size: By default 128, or 64 where training sees few images; at most as many as there are.
        accumulate: Parts in which each process learns from what it has of a batch, one after the other: more for less
            memory.
        network: unet: ours. refinenet: NCSN's, told the noise level; refinenet-v2: NCSNv2's, not told it, divided by
            it.
        channels: The U-Net's width at each resolution, finest first; the finest is half of the image's. By default 64
            128 for images of up to 32 pixels; deeper for larger ones, and half or a quarter as wide where training
            would see few. RefineNet: one number, by default 64.
        blocks: The U-Net's residual blocks at each resolution, down and up.
        sigma_max: The largest noise level, for pixels in [0, 1]; by default 4.5 times the data's leading standard
            deviation.
        sigma_min: The smallest noise level; by default 0.01, or less for data of little contrast.
        proposal: Where training draws noise levels from: ln σ normal, or uniform, or one of --levels levels as in NCSN.
        log_sigma_mean: lognormal: ln σ ~ N(mean, std²), within sigma_min and sigma_max; by default from the data.
        posterior_above: From this noise level up, the target is the mean over all training images that could have made
            the noisy one; by default where they are several, and nowhere (sigma_max) where that is not worth its time.
        classes: Learn the score of each class too, where the data has classes of 20 images and more: better samples,
            and `ncsn sample RUN --class 7`. Only unet can.
        sampler: How to sample; annealed is the paper's annealed Langevin dynamics.
        levels: Noise levels that sampling descends; by default what suits the sampler and the range of noise.
        langevin_steps: Steps of annealed Langevin dynamics on each of them, or of langevin in all; by default what
            suits the sampler.
        eps: Langevin's step size on the smallest level, by default σ_min²/2; σ²-proportional above it.
        muon_rate: Peak learning rate of the convolutions and other matrices.
        adam_rate: Peak learning rate of everything else.
        guidance: How far sampling moves away from a guide, 1 for not at all: the network's own score without the class,
            or, where there are no classes, a smaller network that learns for a twentieth of the budget. chosen: after
            training, by held-out images, and never where it makes samples worse; 1 with the samplers annealed and
            langevin, which it does not help.
        compile: Speed training of four minutes or more up with torch.compile, where this machine can; up to a minute
            the first time.
        samples: How many samples to draw at the end.
    """

    minutes: Annotated[float, Interval(ge=0.001, le=10**6)] | None = None
    steps: validation.Count | None = None
    dataset: str = "mnist"
    flip: bool = False
    batch_size: validation.BatchSize | None = None
    accumulate: Annotated[int, Interval(ge=1, le=64)] = 1
    network: Literal["unet", "refinenet", "refinenet-v2"] = "unet"
    channels: tuple[validation.Width, ...] | None = None
    blocks: validation.Layers = 2
    sigma_max: validation.NoiseLevel | None = None
    sigma_min: validation.NoiseLevel | None = None
    proposal: Literal["lognormal", "loguniform", "geometric"] = "lognormal"
    log_sigma_mean: Annotated[float, Interval(ge=-20, le=20)] | None = None
    log_sigma_std: Annotated[float, Interval(gt=0, le=10)] = 1.2
    posterior_above: validation.NoiseLevel | None = None
    classes: bool = True
    sampler: validation.SamplerName = "dpmpp-sde"
    levels: validation.Levels | None = None
    langevin_steps: validation.LangevinSteps | None = None
    eps: validation.StepSize | None = None
    muon_rate: validation.Rate = 0.02
    adam_rate: validation.Rate = 2e-3
    guidance: Annotated[float, Interval(ge=1, le=100)] | Literal["chosen"] = "chosen"
    compile: bool = True
    samples: validation.Shown = 100
    seed: validation.Seed = 0
    job: Annotated[ImageJob, tyro.conf.arg(name="")] = field(default_factory=ImageJob)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        super().__post_init__()
        if self.minutes is not None and self.steps is not None:
            raise ValueError(f"minutes is {self.minutes} and steps is {self.steps}; at most one is allowed")
        if self.network != "unet" and (self.blocks != 2 or len(self.channels or (64,)) != 1):
            given = f"channels is {self.channels}, blocks is {self.blocks}"
            raise ValueError(f"{given}; {self.network} takes one number of channels, and has blocks of its own")


@dataclass(frozen=True, kw_only=True)
class ResolvedImages(Images):
    """The same with values for what follows from the data and the machine: what config.json keeps."""

    batch_size: validation.BatchSize
    channels: tuple[validation.Width, ...]
    sigma_max: validation.NoiseLevel
    sigma_min: validation.NoiseLevel
    log_sigma_mean: Annotated[float, Interval(ge=-20, le=20)]
    posterior_above: validation.NoiseLevel


def given_ones(settings: Any, names: Iterable[str]) -> list[str]:
    """Those of the fields that have another value than their default."""
    usual = {field.name: field.default for field in fields(settings)}
    return [name for name in names if getattr(settings, name) != usual[name]]


def recalled(given: Images, saved: dict[str, Any], where: str) -> ResolvedImages:
    """The ``saved`` settings of the run that is resumed, for the new job; prints which of those given have no effect.

    ``where``: what errors begin with.  Raises ValueError if the saved settings are none.
    """
    changes = {name: getattr(given, name) for name in given_ones(given, FREE)}
    if {"minutes", "steps"} & changes.keys():  # of which a run has one
        changes = {"minutes": None, "steps": None} | changes
    own = validation.validated(ResolvedImages, saved | changes, where)
    names = given_ones(given, {field.name for field in fields(given)} - {"job", "dataset"})
    if vain := sorted(name for name in names if getattr(given, name) != getattr(own, name)):
        print(f"--resume keeps the run's own settings; these options have no effect: {', '.join(vain)}")
    return replace(own, job=given.job)
