"""What the scripts and the command ``ncsn`` share: parsing, one-line errors, progress bars.

Torch is imported inside the functions that need it, so that ``--help`` answers at once.
"""

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro

from ncsn.cli.interrupts import Terminated, deferred_interrupts, interruptible
from ncsn.progress import Clock, refresh_interval

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ncsn.distributed import Group
    from ncsn.machine import Threads
    from ncsn.run import Run
    from ncsn.training import Progress, State

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
S = TypeVar("S")
T = TypeVar("T")


def fail(message: str, status: int = 2) -> NoReturn:
    """Say in one line what is wrong, and exit."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def parse(settings: Any, args: list[str] | None = None, prog: str | None = None) -> Any:
    """``settings`` (a dataclass, or a union of them) from the command line; a mistake is one line and exit status 2."""
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(settings, args=args, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box; what is wrong stands between its top edge and the first rule.
        body = re.split(r"│ ─+ │", complaint.getvalue().split("╮", 1)[-1])[0]
        fail(re.sub(r"[│╭╮╰╯─]", " ", body).strip().rstrip(".") + "; --help lists what is allowed")


def run(command: Callable[[S], None], settings: Any, args: list[str] | None = None, prog: str | None = None) -> None:
    """Parse the command line into ``settings`` and run ``command`` on it; whatever stops it is one line.

    The exit status is 2 for a user's mistake, 1 for what went wrong while computing, 130 for Ctrl-C, 143 for SIGTERM.
    """
    if follows():
        be_quiet()
    for stream in (sys.stdout, sys.stderr):  # σ, in the encoding of a terminal that has none
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        given = parse(settings, args, prog)
        # What commands need, before Ctrl-C is theirs to answer: an import that it interrupts says whatever it likes.
        import ncsn.learn.study
        import ncsn.plots  # noqa: F401
        from ncsn import machine

        machine.keep_memory()
        machine.keep_compiled_code()
        with interruptible(), machine.denormals_flushed():
            command(given)
        return
    except (ValueError, OSError) as error:
        wrong = str(error)
    except (MemoryError, RuntimeError) as error:
        fail_computing(error)
    except KeyboardInterrupt as error:
        stopped(error)
    # Only now, when nothing holds what the command was at, have its bars ended their lines.
    fail(wrong)


def follows() -> bool:
    """Whether this is a process that torchrun started, but for the first, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def be_quiet() -> None:
    """Say nothing but errors, and show no bars."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    os.environ["TQDM_DISABLE"] = "1"


def fail_for_all(message: str, status: int, *, leads: bool) -> NoReturn:
    """What ends all processes, said by the one that ``leads``."""
    if leads:
        fail(message, status)
    raise SystemExit(status)


def stopped(error: KeyboardInterrupt, where: str = "") -> NoReturn:
    """Say that Ctrl-C or SIGTERM has ended the program, and ``where``; exit with the status that says so too."""
    if isinstance(error, Terminated):
        fail(f"terminated{where}", 128 + signal.SIGTERM)
    fail(f"interrupted{where}", 128 + signal.SIGINT)


def fail_computing(error: MemoryError | RuntimeError) -> NoReturn:
    """Say what went wrong while computing, if that is known, and exit with status 1; else raise it again."""
    from ncsn.distributed import PeerError
    from ncsn.samplers import NonFiniteSampleError

    if isinstance(error, PeerError):
        # Where it began says why.  Of each machine the first process says what it knows; more would only be in the way.
        raise SystemExit(1) if os.environ.get("LOCAL_RANK", "0") != "0" else fail(str(error), 1)
    if isinstance(error, NonFiniteSampleError):
        fail(str(error), 1)
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        fail("out of memory; a smaller --batch-size, a larger --accumulate, smaller images or networks need less", 1)
    raise error


def watch(
    progress: "Iterable[Progress]",
    state: "State",
    folder: Path,
    signals: list[int],
    *,
    group: "Group | None" = None,
    threads: "Threads | None" = None,
    clock: Clock | None = None,
    save_every: float = 30,
    what: str = "training",
) -> "Iterator[Progress]":
    """Pass a training's progress on, and look after it: a progress bar, checkpoints, Ctrl-C and divergence.

    ``folder`` gets checkpoint.pt and model.safetensors every ``save_every`` seconds and at the end, from the leading
    process of the ``group``.  ``signals``: those that come, for the training to know.  ``threads``: as many compute as
    there are processors free; by default as many as there are, for with others sums are rounded otherwise.
    ``clock``: for which the seconds between two steps are ``what``, and those around them checkpoints and logging.
    Ctrl-C ends the program after a step, with a checkpoint and exit status 130; a loss that is not finite ends it with
    status 1 and keeps the last one.
    """
    from tqdm.auto import tqdm

    from ncsn.distributed import ALONE
    from ncsn.storage import write_model
    from ncsn.training import NonFiniteLossError

    group = ALONE if group is None else group
    clock = Clock() if clock is None else clock
    bar_format = what + " {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    checkpoint = folder / "checkpoint.pt"
    saved = time.monotonic()
    smooth, stop, first = 0.0, 0, True

    def save() -> None:
        if group.leads:
            state.save(checkpoint)
            write_model(folder, state.average)

    with (
        deferred_interrupts(signals),
        # miniters: what a run that goes on has behind it is no measure of what comes between two looks.
        tqdm(
            total=1.0, bar_format=bar_format, mininterval=refresh_interval(), miniters=0, disable=not group.leads
        ) as bar,
    ):
        tell(threads)
        try:
            for p in progress:
                clock.lap(what.strip())
                loss = p.losses.mean().item()
                smooth = 0.95 * smooth + 0.05 * loss if smooth else loss
                bar.set_postfix_str(f"step {p.step}, loss {smooth:.4f}, {p.examples_per_second:.0f}/s", refresh=False)
                if first and p.step > 1:  # the time left follows from what is done in this session
                    bar.initial = bar.n = min(p.fraction, 1.0) * (p.step - 1) / p.step
                first = False
                bar.update(min(p.fraction, 1.0) - bar.n)
                yield p
                tell(threads)
                stop = p.stop
                clock.lap("logging")
                if stop or time.monotonic() - saved > save_every:
                    save()
                    saved = time.monotonic()
                    clock.lap("checkpoints")
                if stop:
                    break
            else:
                save()
                clock.lap("checkpoints")
                stop = signals[0] if signals and group.size == 1 else 0  # during the last step
            if stop:
                group.share()  # nobody leaves before the checkpoint is there: torchrun would end the others
                bar.close()
                what = "terminated" if stop == signal.SIGTERM else "interrupted"
                said = f"{what} at step {state.step}; {checkpoint} is saved, and --resume goes on from it"
                fail_for_all(said, 128 + stop, leads=group.leads)
        except NonFiniteLossError as error:
            bar.close()
            kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
            fail_for_all(f"{error}; {kept}; a lower learning rate may help", 1, leads=group.leads)


def compile_run(run: "Run", batch_size: int) -> None:
    """Compile a run's networks (see ``Run.compile``), and tell the user how long that takes, or why not."""
    say_compiled(lambda: run.compile(batch_size))


def compile_network(network: "nn.Module", trial: "Callable[[], Tensor]") -> None:
    """Compile ``network`` (see ``machine.compile_network``), and tell the user how long that takes, or why not."""
    from ncsn import machine

    say_compiled(lambda: machine.compile_network(network, trial))


def say_compiled(compile_it: Callable[[], str | None]) -> None:
    """Compile, between the two lines that a user needs to know."""
    if not follows():
        print("compiling the network: up to a minute the first time, then seconds", file=sys.stderr)
    if reason := compile_it():
        print(f"going on without torch.compile, about 1.5 times slower: {reason}", file=sys.stderr)


def bar(states: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Whatever comes, passed on under a progress bar if it takes over a second; ``total``: by default its length."""
    from tqdm.auto import tqdm

    from ncsn.machine import Threads

    interval, threads = refresh_interval(), Threads()
    tell(threads)
    for state in tqdm(states, total=total, desc=description, unit="state", delay=1, leave=False, mininterval=interval):
        tell(threads)
        yield state
    threads.release()


def tell(threads: "Threads | None") -> None:
    """Let the number of threads follow the load; the user is told when it falls, above any bar."""
    if threads is not None and (said := threads.follow()) and not follows():
        from tqdm.auto import tqdm

        tqdm.write(said, file=sys.stderr)
