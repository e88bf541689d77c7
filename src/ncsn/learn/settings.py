"""The settings of a training: they become its command line, and its run's config.json keeps them.

Torch is not needed here, so that ``--help`` answers at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import tyro
from annotated_types import Interval

from ncsn import validation
from ncsn.kinds.reading import Reading

T = TypeVar("T")
Unsaid = tyro.conf.arg(help_behavior_hint="")
Given = Annotated[T | None, Unsaid]
"""An option whose help says itself what is done where it is not given."""
PrecisionName = Literal["auto", "bf16", "fp16", "fp32"]
FREE = ("minutes", "steps", "compile", "accumulate")  # what may change when a run goes on


@dataclass(frozen=True, kw_only=True)
class Job:
    """What belongs to one session and not to the run: ``--resume`` takes it anew, and everything else from the run.

    Args:
        out: The run's folder; by default runs/ and what is learned.
        overwrite: Replace a run that is already there.
        resume: Continue the run that is there.
        device: Where to compute. auto is CUDA if there is one, else the CPU.
        precision: What the network computes in: bf16 or fp16 (16 bits; the weights keep 32), or fp32. auto is what is
            fastest on the device. A processor without 16 bits in hardware is many times slower with them.
    """

    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False
    resume: bool = False
    device: validation.DeviceName = "auto"
    precision: PrecisionName = "auto"

    def __post_init__(self) -> None:
        """Raise ValueError for a precision that there is not, and for options that contradict each other."""
        if self.precision not in (names := get_args(PrecisionName)):
            raise ValueError(f"precision is {self.precision}; allowed are {', '.join(names)}")
        if self.overwrite and self.resume:
            raise ValueError("both --overwrite and --resume are given; at most one is allowed")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Reading):
    """Learn the score of images, signals or a table by denoising score matching, and sample it.

    What is not given follows from the data, the budget and the machine, by the rules of ``learn.rules``.

    Args:
        minutes: How long, sampling and figures included; 10, or 1.5 for a table, if neither this nor --steps is given.
        steps: How many training steps, instead of minutes. The same seed then gives the same bytes on one machine.
        dataset: mnist (in the package), a folder or an archive (.zip, .tar) of images, an array (.npy, .npz), or a
            folder of .tar files, which are shards in WebDataset's format; or a table (.csv, .tsv, .parquet).
        flip: Mirror images, left to right, at random. That is twice the data if a mirrored image is as good as another.
        batch_size: Examples in a batch. By default 512 rows, or 128 images, or 64 where training sees few images; at
            most as many as there are.
        accumulate: Cut each batch into so many parts and learn from one after the other. More parts need less memory.
        network: auto is unet for images and signals, and mlp for a table. refinenet is NCSN's, for images.
            refinenet-v2 (NCSNv2) does not see σ; its output is divided by σ.
        channels: The U-Net's width at each resolution, finest first; the finest is half of the image's. By default 64
            128 for images of up to 32 pixels. Larger images get a deeper network; if training would see few images, it
            is half or a quarter as wide. RefineNet and MLP: one number, by default 64, and 128 or 256.
        blocks: Residual blocks of the U-Net at each resolution, on the way down and on the way up.
        start: A run whose weights training begins with, and whose network it takes. Where other colours or classes need
            other layers, these begin anew. By default all begin at random.
        sigma_max: The largest noise level, for pixels in [0, 1]; by default 4.5 times the data's leading standard
            deviation, or 10 times that of a table's standardised columns.
        sigma_min: The smallest noise level; by default 0.01, or less for data of little contrast.
        proposal: How training draws noise levels. lognormal: ln σ is normal; loguniform: ln σ is uniform; geometric:
            one of --levels levels, as in NCSN.
        log_sigma_mean: With lognormal, the mean of ln σ; by default from the data. Guidance acts around it.
        log_sigma_std: With lognormal, the standard deviation of ln σ; by default 1.2, or 1.6 for a table.
        posterior_above: Above this noise level the network learns the mean over all training images that could have
            made the noisy one. By default where there are several such images; off (sigma_max) if it costs too
            much.
        class_conditional: --no-classes ignores classes. By default unet learns the score of each class too, if there
            are at least two, of 20 training images each on average. Samples get better, and
            `ncsn sample RUN --class 7` draws one class.
        sampler: How to sample; annealed is the paper's annealed Langevin dynamics.
        levels: How many noise levels sampling descends; by default what suits the sampler and the range of noise.
        langevin_steps: Langevin steps on each level for annealed, in all for langevin; by default what suits the
            sampler.
        eps: Langevin's step size on the smallest level; by default σ_min²/2. On other levels it is proportional to σ².
        muon_rate: Peak learning rate of the convolutions and other matrices.
        adam_rate: Peak learning rate of everything else.
        guidance: How far sampling moves away from a guide; 1 is not at all. The guide is the network's own score
            without the class; if there are no classes, it is a smaller network that trains for a twentieth of the
            budget. chosen means that held-out images choose after training; for annealed and langevin, which guidance
            does not help, it is 1.
        compile: --no-compile does without torch.compile. By default trainings of at least five minutes or 2,000 steps
            begin with it, if this machine can. The first time that takes up to a minute.
        samples: How many samples to draw at the end; of a table ten times as many.
        seed: Of all random numbers.
    """

    size: Annotated[Given[str], tyro.conf.arg(metavar="SIZE")] = None
    background: Annotated[str, tyro.conf.arg(metavar="COLOUR")] = "white"
    minutes: Given[Annotated[float, Interval(ge=0.001, le=10**6)]] = None
    steps: Given[validation.Count] = None
    dataset: Annotated[str, tyro.conf.arg(metavar="PLACE")] = "mnist"
    flip: bool = False
    batch_size: Given[validation.BatchSize] = None
    accumulate: Annotated[int, Interval(ge=1, le=64)] = 1
    network: validation.NetworkName | Literal["auto"] = "auto"
    channels: Given[tuple[validation.Width, ...]] = None
    blocks: validation.Layers = 2
    start: Annotated[Given[str], tyro.conf.arg(name="from", metavar="RUN")] = None
    sigma_max: Given[validation.NoiseLevel] = None
    sigma_min: Given[validation.NoiseLevel] = None
    proposal: Literal["lognormal", "loguniform", "geometric"] = "lognormal"
    log_sigma_mean: Given[Annotated[float, Interval(ge=-20, le=20)]] = None
    log_sigma_std: Given[Annotated[float, Interval(gt=0, le=10)]] = None
    posterior_above: Given[validation.NoiseLevel] = None
    class_conditional: Annotated[bool, tyro.conf.arg(name="classes", help_behavior_hint="")] = True
    sampler: validation.SamplerName = "dpmpp-sde"
    levels: Given[validation.Levels] = None
    langevin_steps: Given[validation.LangevinSteps] = None
    eps: Given[validation.StepSize] = None
    muon_rate: validation.Rate = 0.02
    adam_rate: validation.Rate = 2e-3
    guidance: Annotated[float, Interval(ge=1, le=100)] | Literal["chosen"] = "chosen"
    compile: Annotated[bool, Unsaid] = True
    samples: validation.Shown = 100
    seed: validation.Seed = 0
    job: Annotated[Job, tyro.conf.arg(name="")] = field(default_factory=Job)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes is not None and self.steps is not None:
            raise ValueError(f"minutes is {self.minutes} and steps is {self.steps}; at most one is allowed")
        if self.network in ("refinenet", "refinenet-v2") and (self.blocks != 2 or len(self.channels or (64,)) != 1):
            given = f"channels is {self.channels}, blocks is {self.blocks}"
            raise ValueError(f"{given}; {self.network} takes one number of channels, and has blocks of its own")


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(TrainSettings):
    """The same with values for what follows from the data and the machine: what config.json keeps."""

    network: validation.NetworkName
    batch_size: validation.BatchSize
    channels: tuple[validation.Width, ...]
    sigma_max: validation.NoiseLevel
    sigma_min: validation.NoiseLevel
    log_sigma_mean: Annotated[float, Interval(ge=-20, le=20)]
    log_sigma_std: Annotated[float, Interval(gt=0, le=10)]
    posterior_above: validation.NoiseLevel
