"""The settings of the two experiments, which become their command lines and the config.json of their runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

SamplerName = Literal["annealed", "consistent", "pc", "euler", "heun", "edm", "dpmpp", "dpmpp-sde", "langevin"]

# Langevin steps settle on a level, and a guided score is that of no distribution to settle in: FD 5.2, not 3.4.
UNGUIDED: tuple[SamplerName, ...] = ("annealed", "langevin")


@dataclass(frozen=True, kw_only=True)
class Toy:
    """Learn the score of a distribution in the plane; draw the score field, samples, or both."""

    generator: Literal["circle", "gaussian", "moons", "swiss-roll", "checkerboard"] = "circle"
    """The distribution to learn."""
    view: Literal["field", "samples", "both", "auto"] = "auto"
    """field: the score against the exact one.  samples: Langevin against annealed Langevin.  auto: field for circle,
    samples for gaussian, both for the others."""
    objective: Literal["dsm", "ssm", "exact"] = "dsm"
    """Denoising, sliced or exact score matching."""
    steps: int = 2000
    """Training steps."""
    batch_size: int = 1024
    width: int = 128
    """Units in a hidden layer."""
    layers: int = 3
    """Hidden layers."""
    noise: Literal["given", "auto"] = "given"
    """auto: noise levels and Langevin steps after NCSNv2, from the data; it says what and why."""
    sigma_max: float = 20.0
    """The largest noise level, in the units of the data."""
    sigma_min: float = 0.1
    """The smallest noise level."""
    levels: int = 20
    """Noise levels, in geometric progression."""
    langevin_steps: int = 75
    """Langevin steps on each level."""
    eps: float | None = None
    """Annealed Langevin's step size on the smallest level, by default σ_min²/2; σ²-proportional above it."""
    step_size: float | None = None
    """Langevin's step size; by default the paper's 0.1 for gaussian, and σ_min² for the others, which are finer."""
    samples: int = 10_000
    """How many samples to draw."""
    seed: int = 0
    out: Path | None = None
    """Where to write; by default runs/toy-GENERATOR."""
    overwrite: bool = False
    """Replace a run that is already there."""
    resume: bool = False
    """Continue an interrupted run."""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        for name in ("steps", "batch_size", "samples", "langevin_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


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
    batch_size: int | None = None
    """By default 128, or 64 where the width is halved: on a CPU without bfloat16 and for less than half an hour."""
    network: Literal["unet", "refinenet", "refinenet-v2"] = "unet"
    """unet: ours.  refinenet: NCSN's, told the noise level; refinenet-v2: NCSNv2's, not told it, divided by it."""
    channels: tuple[int, ...] | None = None
    """The U-Net's width at each resolution, finest first; the finest is half of the image's.  By default 64 128, or
    32 64 on a CPU without bfloat16 and for less than half an hour.  RefineNet: one number, by default 64."""
    blocks: int = 2
    """The U-Net's residual blocks at each resolution, down and up."""
    noise: Literal["given", "auto"] = "given"
    """auto: noise levels and Langevin steps after NCSNv2, from the data; it says what and why."""
    sigma_max: float = 10.0
    """The largest noise level, for pixels in [0, 1]."""
    sigma_min: float = 0.01
    """The smallest noise level."""
    proposal: Literal["lognormal", "loguniform", "geometric"] = "lognormal"
    """Where training draws noise levels from: ln σ normal, or uniform, or one of --levels levels as in NCSN."""
    log_sigma_mean: float = -0.4
    """lognormal: ln σ ~ N(mean, std²), within sigma_min and sigma_max."""
    log_sigma_std: float = 1.2
    posterior_above: float = 0.6
    """From this noise level up, the target is the mean over all training images that could have made the noisy one."""
    classes: bool = False
    """Learn the score of each class of the data set too, for `ncsn sample RUN --class 7`."""
    sampler: SamplerName = "dpmpp-sde"
    """How to sample; annealed is the paper's annealed Langevin dynamics."""
    levels: int | None = None
    """Noise levels that sampling descends; by default what suits the sampler."""
    langevin_steps: int = 2
    """Steps of annealed Langevin dynamics on each of them."""
    eps: float | None = None
    """Annealed Langevin's step size on the smallest level, by default σ_min²/2; σ²-proportional above it."""
    muon_rate: float = 0.02
    """Peak learning rate of the convolutions and other matrices."""
    adam_rate: float = 2e-3
    """Peak learning rate of everything else."""
    guidance: float | None = None
    """How far sampling moves away from what a smaller network, the guide, has learned in a twentieth of the budget; 1
    for no guide.  By default 2, and 1 with the samplers annealed and langevin, which it does not help."""
    samples: int = 100
    """How many samples to draw at the end."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = True
    """Speed training up with torch.compile, where this machine can; up to a minute the first time."""
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
        if self.guidance is not None and not self.guidance >= 1:
            raise ValueError(f"guidance is {self.guidance}; it must be at least 1, which is no guidance")
        if self.network != "unet" and self.classes:
            raise ValueError(f"network is {self.network}; only unet can learn classes")
        if self.network != "unet" and self.channels is not None and len(self.channels) != 1:
            raise ValueError(f"channels is {self.channels}; {self.network} takes one number, such as --channels 64")

    @property
    def batch(self) -> int:
        """``batch_size``, or what suits a fast machine."""
        return self.batch_size or 128

    @property
    def widths(self) -> tuple[int, ...]:
        """``channels``, or what suits the network on a fast machine."""
        return self.channels or ((64, 128) if self.network == "unet" else (64,))

    @property
    def network_arguments(self) -> dict[str, Any]:
        """What the network is built with, apart from the images' channels."""
        if self.network == "unet":
            return {"channels": self.widths, "blocks": self.blocks, "features": self.widths[0]}
        return {"width": self.widths[0], "features": 128 if self.network == "refinenet" else 0}

    @property
    def guide_weight(self) -> float:
        """``guidance``, or what suits the sampler."""
        return self.guidance or (1.0 if self.sampler in UNGUIDED else 2.0)

    @property
    def guide_arguments(self) -> dict[str, Any]:
        """The same of the guide: half as wide, and one block at each resolution."""
        return replace(self, channels=halved(self.widths), blocks=1).network_arguments


def halved(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Half of each width: a quarter of the arithmetic."""
    return tuple(max(1, w // 2) for w in widths)
