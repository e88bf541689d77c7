"""What the scripts and commands share: options, parsing, one-line errors, progress bars, samples for who waits.

Torch is imported inside the functions that need it, so that ``--help`` answers at once.
"""

import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

import tyro
from annotated_types import Interval, MinLen

from ncsn.learn.settings import Given
from ncsn.machine.interrupts import Stopped, interruptible
from ncsn.validation import (
    BatchSize,
    DeviceName,
    GuideName,
    LangevinSteps,
    Levels,
    SamplerName,
    StepSize,
    check_ranges,
    is_out_of_memory,
    one_line,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ncsn.run import Drawn, Run, Steps
    from ncsn.run.options import SamplingOptions as SamplingKeywords
    from ncsn.run.options import SeededOptions

COMPILE_FROM = 60_000  # evaluations of a network for images: for fewer, compiling takes longer than it saves
FRAME = dict.fromkeys(range(0x2500, 0x2580), " ")  # what tyro draws around what it says; without Unicode it has dashes
NARROWEST = 40  # columns; in one or two of them tyro's help has no end
T = TypeVar("T")
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
        device: Where to compute. auto is CUDA if there is one, else the CPU.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    device: DeviceName = "auto"

    def refuse(self, *names: str, of: str) -> None:
        """Raises ValueError for options of these names that have other values than by default; ``of``: who has them."""
        given = [option.name for option in fields(self) if getattr(self, option.name) != option.default]
        if ignored := [f"--{name.replace('_', '-')}" for name in given if name in names]:
            raise ValueError(f"{', '.join(ignored)} would be ignored: only {of} have it")


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a run is sampled; by default in the run's own way.

    Args:
        sampler: By default the run's own. fast is the default sampler in at most eight evaluations of the network.
        levels: How many noise levels sampling descends. More levels cost more and are more exact. By default what suits
            the sampler.
        steps: Langevin steps, on each level for annealed, in all for langevin. How many steps other samplers take is
            --levels.
        eps: Langevin's step size on the smallest noise level.
        label: Draw this class alone, from a run that knows classes. any, the default, draws each class as often as it
            is in the training data. none uses the score of all classes together, as inverse problems do.
        guidance: How far to move away from a guide; 1 is the plain score. By default the run's own. It is 1 for
            annealed and langevin if they are not the run's own sampler, and for fast if the run's own guidance is below
            1.5.
        guide: Which guide: the smaller network that the run has, or its own network without the class, which needs a
            class. By default the run's own: unconditional if it knows classes.
        batch_size: How many samples the network sees at a time. The samples do not depend on it.
    """

    sampler: Given[SamplerName] = None
    levels: Given[Levels] = None
    steps: Given[LangevinSteps] = None
    eps: Given[StepSize] = None
    label: Annotated[Given[ClassName], tyro.conf.arg(name="class", metavar="NAME|NUMBER|any|none")] = None
    guidance: Given[Annotated[float, Interval(ge=0, le=100)]] = None
    guide: Given[GuideName] = None
    batch_size: BatchSize = 500

    def options(self) -> "SamplingKeywords":
        """The options as ``Run.steps`` takes them."""
        return cast("SamplingKeywords", {name.name: getattr(self, name.name) for name in fields(SamplingOptions)})


def check_output(out: Path, *suffixes: str, overwrite: bool) -> None:
    """Raises ValueError, before any work, if a command may not write a file of this name there."""
    if out.suffix not in suffixes:
        raise ValueError(f"{out} ends in {out.suffix!r}; allowed: {', '.join(suffixes)}")
    from ncsn import storage

    storage.check_out(out, overwrite=overwrite)


def fail(message: str, status: int = 2) -> NoReturn:
    """Say in one line what is wrong, and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def parse(settings: Any, args: list[str] | None = None, prog: str | None = None) -> Any:
    """``settings`` (a dataclass, or a union of them) from the command line; a mistake is one line and exit status 2."""
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            marks = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
            return tyro.cli(settings, args=args, prog=prog, config=marks)
    except SystemExit as stop:
        if not stop.code:
            raise
        words = complaint.getvalue().translate(FRAME).split()
        fail(one_line(" ".join(word for word in words if word.strip("-"))))


def run(command: Callable[[Any], None], settings: Any, args: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line into ``settings`` and run ``command`` on it; whatever stops it is one line.

    The exit status is 2 for a user's mistake, 1 for what went wrong while computing, 130 for Ctrl-C, 143 for SIGTERM.
    """
    if not is_main():  # it says nothing but errors, and shows no bars
        sys.stdout = io.StringIO()
        os.environ["TQDM_DISABLE"] = "1"
    for stream in (sys.stdout, sys.stderr):  # σ, in the encoding of a terminal that has none
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parse(settings, args, prog)
        # Torch is imported before Ctrl-C is the command's to answer: an interrupted import says whatever it likes.
        import torch

        from ncsn.machine import hardware

        hardware.keep_memory()
        torch.set_flush_denormal(True)  # processors are slow at numbers below 10⁻³⁸: a fifth of a training step
        with interruptible():
            command(options)
        return
    except (Exception, KeyboardInterrupt) as error:
        status, line = ending(error)
    # Only now, when nothing holds what the command was at, have its bars ended their lines.
    if status > 128 and not is_main():  # the first process says it for all
        raise SystemExit(status)
    fail(line, status)


def is_main() -> bool:
    """Whether this process speaks for all: the first of those that torchrun has started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def require(run: "Run", noun: str, named: Path, why: str) -> None:
    """Raises ValueError if a run makes something else than what a command needs, and says why it does."""
    if run.recipe.kind.noun != noun:
        raise ValueError(f"{named} makes {run.recipe.kind.noun}; {why}")


def ending(error: BaseException) -> tuple[int, str]:
    """The exit status of a command that an error has ended, and the line that says why; raises it if none does."""
    from ncsn.machine.distributed import PeerError

    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        return 128 + number, f"{'terminated' if number == signal.SIGTERM else 'interrupted'}{error}"
    if isinstance(error, FloatingPointError | PeerError):
        return 1, str(error)
    if is_out_of_memory(error):
        needs = "a smaller --batch-size, a larger --accumulate, smaller images or a smaller network need less"
        return 1, f"out of memory or threads; {needs}"
    if isinstance(error, ImportError):
        missing = f"{error.name} is not installed: pip install 'ncsn[tables]'"
        of_tables = str(error.name).partition(".")[0] in ("pandas", "pyarrow", "sklearn")
        return 2, missing if of_tables else str(error)
    if not isinstance(error, ValueError | OSError):
        raise error
    return 2, str(error)


def bar(states: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Whatever comes, passed on under a progress bar if it takes over a second; ``total``: by default its length."""
    from ncsn.machine import messages
    from ncsn.machine.hardware import Threads

    shown = messages.bar(states, description, total=total, unit="state")
    yield from Threads().beside(shown)


def draw(run: "Run", n: int, *, keep: int = 0, **options: "Unpack[SeededOptions]") -> "Drawn":
    """``n`` samples of a run under a progress bar, and the first ``keep`` of them on their way; see ``Run.steps``."""
    began = time.perf_counter()
    steps = run.steps(n, **options)
    compile_for(run, n, steps)
    return follow(steps, f"{n} samples", began, keep=keep)


def compile_for(run: "Run", n: int, steps: "Steps") -> None:
    """Compile a run's networks if ``n`` samples, drawn like ``steps``, are then there sooner."""
    from ncsn.score import even_batch_size

    if run.recipe.kind.compiled and run.posterior_score is None and n * steps.sampling.nfe >= COMPILE_FROM:
        run.compile(even_batch_size(n, steps.batch_size))


def follow(steps: "Steps", description: str, began: float, *, keep: int = 0) -> "Drawn":
    """The samples that ``steps`` lead to; ``began``: when drawing them did.

    Nothing is compiled on the way: batches of another size than those that networks are compiled for run without.
    """
    from ncsn.machine.hardware import nothing_compiled
    from ncsn.run import Drawn

    path = []
    with nothing_compiled():
        for step in bar(steps, description):
            if keep:
                path.append(step._replace(x=step.x[:keep].cpu()))
    return Drawn(samples=step.x.cpu(), path=path, steps=steps, seconds=time.perf_counter() - began)
