"""What scripts and commands share: options, parsing, one-line errors, bars and sampling.

Torch is imported inside the functions that need it, so that ``--help`` responds immediately.
"""

import io
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import tyro
from annotated_types import MinLen

from ncsn.machine.messages import Stopped, bar, log, stop_on_signals
from ncsn.settings import Given
from ncsn.validation import (
    BatchSize,
    DeviceName,
    Guidance,
    Levels,
    SamplerName,
    check_ranges,
    is_out_of_memory,
    one_line,
    printable,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ncsn.run.options import SamplingOptions as SamplingKeywords
    from ncsn.run.options import SeededOptions
    from ncsn.run.run import Run
    from ncsn.run.steps import Drawn, Steps

MIN_COLUMNS = 40  # of a terminal; in one or two columns tyro's help never ends
MIN_CALLS_TO_COMPILE = 60_000  # network evaluations of single images; for fewer, compiling takes longer than it saves
FRAME = dict.fromkeys(range(0x2500, 0x2580), " ")  # tyro draws boxes around its messages
AFTER_MESSAGE = (" Got errors:", " Argument helptext:", " For full helptext")  # what tyro adds to messages
KINDS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "{[INT [INT ...]]}": "whole numbers, such as 32 64",
    "FLOAT|{chosen}": "a number or chosen",
}  # what tyro's names of types mean
ClassName = Annotated[str, MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which run to use, and on which device.

    Args:
        run: The run's folder, such as runs/mnist; mnist for the model in the package; or hf://user/model@revision for
            one on the Hugging Face hub.
        device: Where to compute. auto uses CUDA if available, otherwise the CPU.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    device: DeviceName = "auto"

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(RunOptions):
    """How to sample; every option defaults to the run's own setting.

    Args:
        sampler: The run's own by default.
        levels: Number of noise levels. More levels are slower and more accurate; the default suits the sampler.
        label: Draw only this class, from a class-conditional run. any, the default, draws classes in the proportions of
            the training data. none uses the unconditional score, as inverse problems do.
        guidance: Guidance scale: how far to move away from a guide; 1 disables guidance. The run's own by default, but
            1 for annealed and langevin unless they are the run's own sampler.
        batch_size: Samples per network evaluation. The samples don't depend on it.
    """

    sampler: Given[SamplerName] = None
    levels: Given[Levels] = None
    label: Annotated[
        Given[ClassName], tyro.conf.arg(name="class", aliases=["--label"], metavar="NAME|NUMBER|any|none")
    ] = None
    guidance: Given[Guidance] = None
    batch_size: BatchSize = 500

    def options(self) -> "SamplingKeywords":
        """The options of ``Run.steps`` that the command line gives."""
        return {
            "sampler": self.sampler,
            "levels": self.levels,
            "label": self.label,
            "guidance": self.guidance,
            "batch_size": self.batch_size,
        }


def check_output(out: Path, *suffixes: str, overwrite: bool) -> None:
    """Raises ValueError, before any work starts, if a command can't or mustn't write this file."""
    if out.suffix not in suffixes:
        raise ValueError(f"{out} ends in {out.suffix!r}; expected {', '.join(suffixes)}")
    from ncsn.machine import storage

    storage.check_out(out, overwrite=overwrite)


def fail(message: str, status: int = 2) -> NoReturn:
    """Print an error in one line, and exit."""
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    raise SystemExit(status)


def parse(settings: Any, args: list[str] | None = None, prog: str | None = None) -> Any:
    """Parse ``settings``, a dataclass or a union of them; mistakes exit with one line and status 2."""
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
    words = sys.argv[1:] if args is None else args
    if "--out=" in words or ("--out", "") in pairwise(words):  # as a path, it would be the current folder
        fail("--out is empty; give it a value, or leave it out")
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            marks = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
            return tyro.cli(settings, args=args, prog=prog, config=marks)
    except SystemExit as stop:
        if not stop.code:
            raise
        _, _, message = complaint.getvalue().translate(FRAME).partition("\n")  # the first line is a title
        line = " ".join(word for word in message.split() if word.strip("-"))
        for part in AFTER_MESSAGE:
            line, _, _ = line.partition(part)
        fail(one_line(reword(line)))


def reword(line: str) -> str:
    """A message of tyro's in our words; those that it has for values that our own classes reject are ours already."""
    line = re.sub(r"^Error parsing ([A-Z][a-z]+: )?", "", line)  # the name of a dataclass of ours
    if found := re.match(r"Unrecognized options: (.*?)(?= Available| Perhaps| Arguments similar|$)", line):
        words = found[1].replace(", ", " ")
        options = {*re.findall(r"--[\w-]+", line[found.end(1) :])} - {*words.split()}
        similar = [name for word in words.split() for name in get_close_matches(word, options, 1)]
        advice = f"did you mean {' and '.join(similar)}?" if similar else "--help lists the options"
        return f"not understood: {words}; {advice}"
    if found := re.match(r"Missing from (.*?): (\S+) (.*?) \(required\)", line):
        return f"{found[1]} needs {found[2]}: {found[3]}"
    if found := re.match(r"Missing value for argument '(?:\S*/)?(\S+)'", line):
        return f"{found[1]} needs a value"
    if found := re.match(r"invalid choice (.*) for argument '(?:\S*/)?(\S+)'\. Expected one of \((.*)\)", line):
        names = sorted({*re.findall(r"'(.*?)'", found[3])} - {"None"})
        return f"{found[2]} is {found[1]}; expected one of {', '.join(names)}"
    if found := re.match(r"(-\S+): no type matching (.*) could be instantiated from \[(.*)\]", line):
        return f"{found[1]} is {found[3]}; expected {KINDS.get(found[2], found[2])}"
    if found := re.match(r"(-\S+): (?:invalid literal for (int)|could not convert string to float).*: ('.*')", line):
        return f"{found[1]} is {found[3]}; expected {KINDS['INT' if found[2] else 'FLOAT']}"
    return line


def run(command: Callable[[Any], None], settings: Any, args: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line into ``settings`` and run ``command`` on it; errors are printed in one line.

    The exit status is 2 for a user's mistake, 1 for a failed computation, 130 for Ctrl-C and 143 for SIGTERM.
    """
    if not is_main():  # other processes print errors only, and show no bars
        sys.stdout = io.StringIO()
        os.environ["TQDM_DISABLE"] = "1"
    for stream in (sys.stdout, sys.stderr):  # a terminal's encoding may lack σ
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parse(settings, args, prog)
        # Import torch while Ctrl-C still ends the process at once: an interrupted import can raise anything.
        import torch

        from ncsn.machine import hardware

        hardware.keep_memory()
        torch.set_flush_denormal(True)  # denormal numbers slow a training step down by a fifth
        with stop_on_signals():
            command(options)
        return
    except (Exception, KeyboardInterrupt) as error:
        status, line = ending(error)
    # Print only now: the command's progress bars end their lines when its frames are released.
    if status > 128 and not is_main():  # the main process reports it
        raise SystemExit(status)
    fail(line, status)


def is_main() -> bool:
    """Whether this is the main process, the only one that prints results."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def load_run_of_images(run: Path, device: str, advice: str) -> "Run":
    """The run in a folder.  Raises ValueError with ``advice`` if it doesn't generate images."""
    import ncsn

    loaded = ncsn.load(run, device=device)
    if loaded.examples.noun != "images":
        raise ValueError(f"{run} generates {loaded.examples.noun}; {advice}")
    return loaded


def ending(error: BaseException) -> tuple[int, str]:
    """The exit status and the message for an error that ended a command; errors that aren't the user's are raised."""
    from ncsn.machine.hardware import PeerError

    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        return 128 + number, f"{'terminated' if number == signal.SIGTERM else 'interrupted'}{error}"
    if isinstance(error, FloatingPointError | PeerError):
        return 1, str(error)
    if is_out_of_memory(error):
        needs = "a smaller --batch-size, smaller images or a smaller network"
        return 1, f"out of memory or threads; try {needs}"
    if isinstance(error, ImportError):
        missing = f"{error.name} is not installed: pip install 'ncsn[tables]'"
        of_tables = str(error.name).partition(".")[0] in ("pandas", "pyarrow", "sklearn")
        return 2, missing if of_tables else str(error)
    if not isinstance(error, ValueError | OSError):
        raise error
    return 2, str(error)


def draw(run: "Run", n: int, *, keep: int = 0, **options: "Unpack[SeededOptions]") -> "Drawn":
    """Draw ``n`` samples under a progress bar, keeping the path of the first ``keep``; options as for ``Run.steps``."""
    began = time.perf_counter()
    steps = run.steps(n, **options)
    compile_for(run, n, steps)
    return follow(steps, f"{n} samples", began, keep=keep)


def compile_for(run: "Run", n: int, steps: "Steps") -> None:
    """Compile a run's networks if that pays off for ``n`` samples drawn like ``steps``."""
    from ncsn.score_calls import even_batch_size

    if run.examples.guided and n * steps.sampling.nfe >= MIN_CALLS_TO_COMPILE:
        run.compile(even_batch_size(n, steps.batch_size))


def follow(steps: "Steps", description: str, began: float, *, keep: int = 0) -> "Drawn":
    """Run a sampler's ``steps`` to the end; ``began``: when sampling started.

    Batches of a size that networks weren't compiled for run uncompiled.
    """
    from ncsn.machine.hardware import nothing_compiled
    from ncsn.run.steps import Drawn

    path = []
    with nothing_compiled():
        for step in bar(steps, description, unit="state"):
            if keep:
                path.append(step._replace(x=step.x[:keep].cpu()))
    return Drawn(samples=step.x.cpu(), path=path, steps=steps, seconds=time.perf_counter() - began)


def write_array(
    out: Path, run: "Run", n: int, *, seed: int, options: "SamplingKeywords", judged: bool = False
) -> "Drawn":
    """Write ``n`` samples of a run to an .npz, an .npy or a table, drawn block by block (``Run.blocks``).

    A block is on the disk before the next one is drawn, in a file without a name, which no kill leaves behind.

    ``judged``: whether the array is for a ruler, which compares images of any depth as bytes.
    Returns the last block.
    """
    import numpy as np

    from ncsn.data.transforms import BYTES
    from ncsn.evaluation.output import write
    from ncsn.machine import storage
    from ncsn.run.steps import describe_cost

    began = time.perf_counter()
    count = 1
    with storage.naming(out), tempfile.TemporaryFile(dir=out.parent) as file:
        for number, steps in enumerate(run.blocks(n, seed=seed, **options), 1):
            if number == 1:
                count = math.ceil(n / steps.n)
                compile_for(run, n, steps)
            drawn = follow(steps, f"block {number} of {count}", began)
            block = np.asarray(run.stored(drawn.samples, BYTES if judged else None))
            file.write(block.tobytes())
        file.flush()
        array = np.memmap(file, block.dtype, "c", shape=(n, *block.shape[1:]))
        if out.suffix not in (".npz", ".npy"):
            write(run, array, [], out)
        else:
            with storage.atomic(out) as temporary:
                if out.suffix == ".npy":
                    np.save(temporary, array)
                else:
                    np.savez_compressed(temporary, samples=array)
    log.info(f"{out}: {describe_cost(n, drawn.steps, drawn.seconds)}")
    return drawn
