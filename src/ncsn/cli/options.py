"""Options that several commands share; torch is not needed here."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from annotated_types import Interval, MinLen

from ncsn.validation import BatchSize, DeviceName, GuideName, LangevinSteps, Levels, SamplerName, StepSize, check_ranges

ClassName = Annotated[str, MinLen(1)]


class Options:
    """Options that are checked against their types."""

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Which run, and where it computes.

    Args:
        run: The run's folder, such as runs/mnist; mnist, the model that comes with the package; or
            hf://user/model@revision, one on Hugging Face's hub.
        device: auto: CUDA where there is one, else the CPU.
    """

    run: tyro.conf.Positional[Path]
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
    label: Annotated[ClassName | None, tyro.conf.arg(name="class", metavar="NAME|NUMBER|any|none")] = None
    guidance: Annotated[float, Interval(ge=0, le=100)] | None = None
    guide: GuideName | None = None
    batch_size: BatchSize = 500

    def how(self) -> dict[str, Any]:
        """The options as ``Run.steps`` takes them."""
        return {option.name: getattr(self, option.name) for option in fields(SamplingOptions)}


def check_output(out: Path, *suffixes: str, overwrite: bool) -> None:
    """Raises ValueError, before any work, if a command may not write a file of this name there."""
    if out.suffix not in suffixes:
        raise ValueError(f"{out} ends in {out.suffix!r}; allowed: {', '.join(suffixes)}")
    from ncsn import storage

    storage.check_out(out, overwrite=overwrite)
