"""Options that several commands share; torch is not needed here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval

from ncsn.validation import BatchSize, DeviceName, GuideName, LangevinSteps, Levels, SamplerName, StepSize

Guidance = Annotated[float, Interval(ge=0, le=100)]
SAMPLING_OPTIONS = ("sampler", "levels", "steps", "eps", "label", "guidance", "guide", "batch_size")


@dataclass(frozen=True, kw_only=True)
class RunArgument:
    """Which run.

    Args:
        run: The run's folder, such as runs/mnist; mnist, the model that comes with the package; or
            hf://user/model@revision, one on Hugging Face's hub.
    """

    run: tyro.conf.Positional[Path]


@dataclass(frozen=True, kw_only=True)
class RunOptions(RunArgument):
    """Which run, and where it computes.

    Args:
        device: auto: CUDA where there is one, else the CPU.
    """

    device: DeviceName = "auto"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a run is sampled; by default in the run's own way.

    Args:
        sampler: By default the run's own; fast: the default sampler in at most eight evaluations of the network.
        levels: Noise levels that sampling descends: more cost more and are more exact. By default what suits the
            sampler.
        steps: Langevin steps: on each level for annealed, in all for langevin.
        eps: Langevin's step size on the smallest noise level.
        label: Samples of this class alone, from a run that knows classes; any: of classes drawn by their shares in the
            training data, the default; none: by the score of all classes together, as inverse problems do.
        guidance: How far to move away from a guide; 1 for the plain score. By default the run's own; 1 for annealed and
            langevin where they are not the run's own, and for fast where the run's own is below 1.5.
        guide: Which guide: the smaller network that the run has, or its own network unconditional, which needs a class.
            By default the run's own: unconditional where it knows classes.
        batch_size: How many samples the network sees at a time; the samples do not depend on it.
    """

    sampler: SamplerName | None = None
    levels: Levels | None = None
    steps: LangevinSteps | None = None
    eps: StepSize | None = None
    label: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME|NUMBER|any|none")] = None
    guidance: Guidance | None = None
    guide: GuideName | None = None
    batch_size: BatchSize = 500

    def how(self) -> dict[str, Any]:
        """The options as ``Run.steps`` takes them."""
        return {name: getattr(self, name) for name in SAMPLING_OPTIONS}


def check_suffix(out: Path, *allowed: str) -> None:
    """Raises ValueError if the command cannot write a file of this name."""
    if out.suffix not in allowed:
        raise ValueError(f"{out} ends in {out.suffix!r}; allowed: {', '.join(allowed)}")
