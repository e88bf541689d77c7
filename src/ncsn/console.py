"""What the scripts and the command ``ncsn`` share: parsing, one-line errors, progress bars, interruptions.

Torch is imported inside the functions that need it, so that ``--help`` answers at once.
"""

import io
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ncsn.training import Progress, State

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
    """Parse the command line into ``settings`` and run ``command`` on it; a user's mistake is one line, status 2."""
    try:
        command(parse(settings, args, prog))
    except (ValueError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and termination signals in a list, so that a step is never cut in half; a second one is obeyed."""
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def watch(
    progress: "Iterable[Progress]", state: "State", folder: Path, *, save_every: float = 30, what: str = "training"
) -> "Iterator[Progress]":
    """Pass a training's progress on, and look after it: a progress bar, checkpoints, Ctrl-C and divergence.

    ``folder`` gets checkpoint.pt and model.safetensors every ``save_every`` seconds and at the end.  Ctrl-C ends the
    program after the step, with a checkpoint and exit status 130; a loss that is not finite ends it with status 1 and
    keeps the last checkpoint.
    """
    from tqdm import tqdm

    from ncsn.runs import save_model
    from ncsn.training import NonFiniteLossError

    bar_format = what + " {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
    checkpoint, saved = folder / "checkpoint.pt", time.monotonic()

    smooth = 0.0

    def save() -> None:
        state.save(checkpoint)
        save_model(folder, state.average)

    with (
        deferred_interrupts() as interrupts,
        tqdm(total=1.0, bar_format=bar_format, mininterval=refresh_interval()) as bar,
    ):
        try:
            for p in progress:
                loss = p.losses.mean().item()
                smooth = 0.95 * smooth + 0.05 * loss if smooth else loss
                bar.set_postfix_str(f"step {p.step}, loss {smooth:.4f}, {p.examples_per_second:.0f}/s", refresh=False)
                bar.update(min(p.fraction, 1.0) - bar.n)
                yield p
                if interrupts or time.monotonic() - saved > save_every:
                    save()
                    saved = time.monotonic()
                if interrupts:
                    bar.close()
                    fail(
                        f"interrupted at step {p.step}; {checkpoint} is saved, and --resume goes on from it",
                        130,
                    )
            save()
        except NonFiniteLossError as error:
            bar.close()
            kept = f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
            fail(f"{error}; {kept}; a lower learning rate may help", 1)


def compile_network(network: "nn.Module", trial: "Callable[[], Tensor]") -> None:
    """Compile ``network`` (see ``machine.compile_network``), and tell the user how long that takes, or why not."""
    from ncsn import machine

    print("compiling the network: up to a minute the first time, then seconds", file=sys.stderr)
    if reason := machine.compile_network(network, trial):
        print(f"going on without torch.compile, about 1.5 times slower: {reason}", file=sys.stderr)


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: a terminal wants many, a log file few."""
    return 0.3 if sys.stderr.isatty() else 30.0


def bar(states: Iterable[T], total: int, description: str) -> Iterator[T]:
    """The states of a sampler, passed on under a progress bar if they take over a second."""
    from tqdm import tqdm

    interval = refresh_interval()
    yield from tqdm(states, total=total, desc=description, unit="state", delay=1, leave=False, mininterval=interval)


def tensorboard(folder: Path) -> Any:
    """A TensorBoard writer into ``folder``.  Raises ValueError if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(f"--tensorboard needs TensorBoard ({error}); `pip install tensorboard`") from error
    return SummaryWriter(folder)
