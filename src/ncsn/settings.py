"""The settings of reading and of training: they become the command line, and a run's config.json keeps them.

Torch isn't imported here, so that ``--help`` responds immediately.
"""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_args

import tyro
from annotated_types import Interval, Len
from PIL import ImageColor
from typing_extensions import Self

from ncsn import validation
from ncsn.validation import check_ranges

Split = Literal["train", "validation", "test"]
PARTS: tuple[Split, ...] = ("validation", "test", "train")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".parquet")
OF_IMAGES = ("size", "fit", "background", "transparent", "max_broken")  # options for images only


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files become pixels.

    Args:
        size: Resize images, to 64 or, for height x width, 48x64. By default they keep their size; if more than half of
            them have one size, the others get it.
        fit: How images with another aspect ratio get that size: crop their centre, stretch them, or pad their sides.
        background: The colour behind transparent pixels and of padding: white, #rrggbb or the name of a colour.
        transparent: Keep the transparency of image files as a fourth channel; padding is transparent, too.
        max_broken: Number of unreadable files that may be skipped. If there are more, ncsn lists them and stops.
        signals: The array holds signals (n, channels, length), or (n, length) for one channel, instead of images or
            rows.
    """

    size: str | None = None
    fit: Literal["crop", "stretch", "pad"] = "crop"
    background: str = "white"
    transparent: bool = False
    max_broken: Annotated[int, Interval(ge=0, le=10**9)] = 0
    signals: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        self.pixels()
        self.colour()

    def pixels(self) -> tuple[int, int] | None:
        """Height and width of ``size``.  Raises ValueError unless it has one or two numbers from 1 to 9999."""
        if self.size is None:
            return None
        sides = re.fullmatch(r"([1-9]\d{0,3})(?:[x×]([1-9]\d{0,3}))?", self.size, re.ASCII)
        if sides is None:
            raise ValueError(f"size is {self.size!r}; give 64, for example, or 48x64 for height x width")
        return int(sides[1]), int(sides[2] or sides[1])

    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of ``background``, 0 to 255.  Raises ValueError unless it is an opaque colour."""
        with suppress(ValueError):
            colour = ImageColor.getrgb(self.background)
            if len(colour) == 3:
                return colour
        raise ValueError(f"background is {self.background!r}; give white, #rrggbb or the name of a colour")

    @property
    def reading(self) -> "Reading":
        """These options, without those that a command adds."""
        return Reading(**{field.name: getattr(self, field.name) for field in fields(Reading)})


AS_THEY_ARE = Reading()
"""The defaults: images keep their size, or get the most frequent one; on white; none may be broken."""


T = TypeVar("T")
Unsaid = tyro.conf.arg(help_behavior_hint="")
Given = Annotated[T | None, Unsaid]
"""An option with a default that its help text states."""
PrecisionName = Literal["auto", "bf16", "fp32"]
ProposalName = Literal["lognormal", "loguniform", "geometric"]
MethodName = Literal["edm", "ncsn", "ncsnv2"]
PreconditioningOption = Literal["edm", "plain", "scaled"]
OptimizerName = Literal["muon", "adam"]
ScheduleName = Literal["linear", "constant"]
Weight = Annotated[float, Interval(ge=1, le=100)]
LogSigmaMean = Annotated[float, Interval(ge=-20, le=20)]
LogSigmaStd = Annotated[float, Interval(gt=0, le=10)]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What belongs to one session rather than to the run: with ``--resume`` everything else comes from the run.

    Args:
        out: The run's folder; by default runs/ and the name of the dataset.
        overwrite: Replace an existing run.
        resume: Continue an existing run.
        device: Where to compute. auto is CUDA if available, otherwise the CPU.
        precision: The network's arithmetic: bf16 (16 bits; weights keep 32) or fp32. auto is the fastest on the
            device. A processor without hardware for bf16 is many times slower with it.
        began: When the command began, by time.perf_counter.
    """

    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False
    resume: bool = False
    device: validation.DeviceName = "auto"
    precision: PrecisionName = "auto"
    began: tyro.conf.Suppress[float] = field(default_factory=time.perf_counter, compare=False)

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown precision, and for options that contradict each other."""
        if self.precision not in (names := get_args(PrecisionName)):
            raise ValueError(f"precision is {self.precision}; it must be one of {', '.join(names)}")
        if self.overwrite and self.resume:
            raise ValueError("--overwrite and --resume can't be combined")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Reading):
    """Learn the score of images, signals or a table by denoising score matching, and sample it.

    Options that are not given follow from the data, the budget and the machine, by the rules of ``learn.rules``.

    Args:
        method: What the other options default to. edm is today's method. ncsn is the paper's (Song & Ermon 2019) with
            a U-Net: no classes, no guidance, plain preconditioning, ten noise levels from 1 to 0.01, Adam, and annealed
            Langevin dynamics from uniform noise. ncsnv2 has the five techniques of Song & Ermon (2020).
        minutes: The time budget, including sampling and figures; by default 10, or 1.5 for a table.
        steps: The number of training steps, instead of minutes. The same seed then gives the same bytes on one machine.
        dataset: mnist (in the package), a folder or an archive (.zip, .tar) of images, an array (.npy, .npz), or a
            table (.csv, .tsv, .parquet).
        hidden: Columns of a table that will mostly be drawn given all others, such as a simulator's parameters: three
            quarters of the training are for just this.
        flip: Mirror images horizontally at random, which doubles the data if mirrored images are equally plausible.
        batch_size: Examples per batch; at most the size of the dataset. By default 512 rows, or 128 images, or 64 if
            the budget allows few images.
        channels: The U-Net's width at each resolution, finest first; the finest is half of the image's. By default 64
            128 for images of up to 32 pixels. Larger images get a deeper network; if the budget allows few images, it
            is half or a quarter as wide. A table's MLP takes one number, by default 128 or 256.
        blocks: Residual blocks of the U-Net at each resolution, on the way down and again on the way up; by default 2.
        start: A run to start training from: its network and weights are taken over, except for what belongs to
            classes. By default, this is prior, a small network in the package, for up to 10,000 images of 8 to 64
            pixels and at most ten minutes, unless you set --channels or --blocks. none starts from random weights.
        sigma_max: The largest noise level, for pixels in [0, 1]; by default 4.5 times the data's leading standard
            deviation, or 10 times that of a table's standardised columns.
        sigma_min: The smallest noise level; by default 0.01, or less for low-contrast data.
        preconditioning: How the network's output becomes a score. edm (the default): a Gaussian's score plus a
            residual; plain: the output is the score, as in NCSN; scaled: it is divided by σ, as in NCSNv2.
        proposal: The distribution of noise levels in training. lognormal (the default): ln σ is normal; loguniform:
            ln σ is uniform; geometric: one of --levels levels, as in NCSN.
        log_sigma_mean: For lognormal, the mean of ln σ; by default chosen from the data. Guidance acts around it.
        log_sigma_std: For lognormal, the standard deviation of ln σ; by default 1.2, or 1.6 for a table.
        posterior_above: Above this noise level the training target is the mean over all training images that could have
            produced the noisy one. By default it starts where there are several such images; off (sigma_max) if it is
            too expensive.
        class_conditional: --no-classes trains without classes. By default the U-Net is class-conditional if there are
            at least two classes with 20 training images each on average. Samples get better, and `ncsn sample RUN
            --class 7` draws one class.
        sampler: The sampler, by default dpmpp-sde. annealed is annealed Langevin dynamics; ncsn is the same as in the
            paper, from uniform noise and without denoising.
        levels: The number of noise levels for sampling; the default suits the sampler and the range of noise.
        langevin_steps: Langevin steps per level for annealed, in total for langevin; the default suits the sampler.
        eps: Langevin's step size on the smallest level; by default σ_min²/2. On other levels it is proportional to σ².
        optimizer: muon (the default) trains convolutions and other matrices with Muon, everything else with Adam; adam
            trains everything with Adam.
        muon_rate: Peak learning rate of the matrices.
        adam_rate: Peak learning rate of Adam; by default 0.002.
        schedule: The learning rate: linear (the default) warms up and decays to zero; constant stays, as in NCSN.
        guidance: The guidance scale; 1 is no guidance. The guide is the network's unconditional score, or without
            classes a smaller network that trains for a twentieth of the budget. chosen, the default, selects the scale
            on held-out images after training; for Langevin dynamics, which guidance does not help, it is 1.
        compile: --no-compile disables torch.compile. By default it is used for trainings of at least two minutes (five
            for tables) or 2,000 steps, if it works on this machine. The first time takes up to a minute.
        samples: The number of samples to draw at the end; for a table ten times as many.
        seed: The seed of weights, batches, noise and samples. How data is split doesn't depend on it.
    """

    size: Annotated[Given[str], tyro.conf.arg(metavar="SIZE")] = None
    background: Annotated[str, tyro.conf.arg(metavar="COLOUR")] = "white"
    method: MethodName = "edm"
    minutes: Given[Annotated[float, Interval(ge=0.001, le=10**6)]] = None
    steps: Given[validation.Count] = None
    dataset: Annotated[str, tyro.conf.arg(metavar="DATA")] = "mnist"
    hidden: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN [COLUMN ...]", help_behavior_hint="")] = ()
    flip: bool = False
    batch_size: Given[validation.BatchSize] = None
    channels: Annotated[
        Given[Annotated[tuple[validation.Width, ...], Len(1)]], tyro.conf.arg(metavar="INT [INT ...]")
    ] = None
    blocks: Given[validation.Layers] = None
    start: Annotated[Given[str], tyro.conf.arg(name="from", metavar="RUN")] = None
    sigma_max: Given[validation.NoiseLevel] = None
    sigma_min: Given[validation.NoiseLevel] = None
    preconditioning: Given[PreconditioningOption] = None
    proposal: Given[ProposalName] = None
    log_sigma_mean: Given[LogSigmaMean] = None
    log_sigma_std: Given[LogSigmaStd] = None
    posterior_above: Given[validation.NoiseLevel] = None
    class_conditional: Annotated[bool, tyro.conf.arg(name="classes", help_behavior_hint="")] = True
    sampler: Given[validation.SamplerName] = None
    levels: Given[validation.Levels] = None
    langevin_steps: Given[validation.LangevinSteps] = None
    eps: Given[validation.StepSize] = None
    optimizer: Given[OptimizerName] = None
    muon_rate: validation.Rate = 0.02
    adam_rate: Given[validation.Rate] = None
    schedule: Given[ScheduleName] = None
    guidance: Annotated[Given[Weight | Literal["chosen"]], tyro.conf.arg(metavar="FLOAT|chosen")] = None
    compile: Annotated[bool, Unsaid] = True
    samples: validation.Shown = 100
    seed: validation.Seed = 0
    job: Annotated[Job, tyro.conf.arg(name="")] = field(default_factory=Job)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes is not None and self.steps is not None:
            raise ValueError(f"minutes is {self.minutes} and steps is {self.steps}; give only one of them")

    def but(self, changes: Mapping[str, object]) -> Self:
        """The settings with changes, in which a new budget replaces the old one, whichever of the two it is."""
        values: dict[str, Any] = dict(changes)
        if "minutes" in changes or "steps" in changes:
            values = {"minutes": None, "steps": None} | values
        return replace(self, **values)


class Changes(TypedDict, total=False):
    """The fields of ``TrainSettings`` that ``ncsn.fit`` takes as keywords; None leaves a setting as it is.

    Only the names and types are repeated here, because type checkers can't read them off a dataclass.
    """

    method: MethodName
    minutes: float | None
    steps: int | None
    signals: bool
    hidden: tuple[str, ...]
    flip: bool
    batch_size: int | None
    channels: tuple[int, ...] | None
    blocks: int | None
    sigma_max: float | None
    sigma_min: float | None
    preconditioning: PreconditioningOption | None
    proposal: ProposalName | None
    log_sigma_mean: float | None
    log_sigma_std: float | None
    posterior_above: float | None
    class_conditional: bool
    sampler: validation.SamplerName | None
    levels: int | None
    langevin_steps: int | None
    eps: float | None
    optimizer: OptimizerName | None
    muon_rate: float
    adam_rate: float | None
    schedule: ScheduleName | None
    guidance: float | Literal["chosen"] | None
    compile: bool
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class ResolvedSettings(TrainSettings):
    """The settings with all values that follow from the data and the machine, as config.json stores them."""

    network: validation.NetworkName
    preconditioning: PreconditioningOption = "edm"  # the defaults of runs from before there was a choice
    optimizer: OptimizerName = "muon"
    schedule: ScheduleName = "linear"
    proposal: ProposalName
    sampler: validation.SamplerName
    adam_rate: validation.Rate
    guidance: Weight | Literal["chosen"]
    batch_size: validation.BatchSize
    channels: tuple[validation.Width, ...]
    blocks: validation.Layers
    sigma_max: validation.NoiseLevel
    sigma_min: validation.NoiseLevel
    log_sigma_mean: LogSigmaMean
    log_sigma_std: LogSigmaStd
    posterior_above: validation.NoiseLevel
