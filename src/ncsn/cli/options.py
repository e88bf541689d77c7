"""Options that several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval

from ncsn.validation import BatchSize, DeviceName, GuideName, LangevinSteps, Levels, SamplerName, StepSize

Guidance = Annotated[float, Interval(ge=0, le=100)]


@dataclass(frozen=True, kw_only=True)
class TheRun:
    """Which run."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; mnist, the model that comes with the package; or hf://user/model@revision,
    one on Hugging Face's hub."""


@dataclass(frozen=True, kw_only=True)
class OfRun(TheRun):
    """What a command asks of a run."""

    device: DeviceName = "auto"
    """auto: CUDA where there is one, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class HowToSample:
    """How a run is to be sampled; what is not given is the run's own."""

    sampler: SamplerName | None = None
    """By default the run's own; fast: the default in at most eight evaluations of the network."""
    levels: Levels | None = None
    """Noise levels that sampling descends: more cost more and are more exact.  By default what suits the sampler."""
    steps: LangevinSteps | None = None
    """Langevin steps: on each level for annealed, in all for langevin."""
    eps: StepSize | None = None
    """Langevin's step size on the smallest noise level."""
    label: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME|NUMBER|any|none")] = None
    """Samples of this class alone, from a run that knows classes; any: of classes drawn by their shares in the training
    data, the default; none: by the score of all classes together, as inverse problems do."""
    guidance: Guidance | None = None
    """How far to move away from a guide; 1 for the plain score.  By default the run's own; 1 for annealed and langevin
    where they are not the run's own, and for fast where the run's own is below 1.5."""
    guide: GuideName | None = None
    """Which guide: the smaller network that the run has, or its own network unconditional, which needs a class.  By
    default the run's own: unconditional where it knows classes."""
    batch_size: BatchSize = 500
    """How many samples the network sees at a time; the samples do not depend on it."""

    def how(self) -> dict[str, Any]:
        """The same as ``Run.steps`` takes it."""
        names = ("sampler", "levels", "steps", "eps", "label", "guidance", "guide", "batch_size")
        return {name: getattr(self, name) for name in names}


def check_suffix(out: Path, *allowed: str) -> None:
    """Raises ValueError if a file of this name would be none of those that the command can write."""
    if out.suffix not in allowed:
        *others, last = allowed
        listed = f"{', '.join(others)} and {last}" if others else last
        raise ValueError(f"{out} ends in '{out.suffix}'; allowed: {listed}")
