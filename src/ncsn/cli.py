"""The command line: the only room that parses arguments and prints.

Torch is imported inside the commands, so that ``--help`` answers at once.
"""

import io
import re
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import tyro

if TYPE_CHECKING:
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
        fail(re.sub(r"[│╭╮╰╯─]", " ", body))


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
    progress: "Iterable[Progress]", state: "State", folder: Path, *, save_every: float = 60
) -> "Iterator[Progress]":
    """Pass a training's progress on, and look after it: a progress bar, checkpoints, Ctrl-C and divergence.

    ``folder`` gets checkpoint.pt and model.safetensors every ``save_every`` seconds and at the end.  Ctrl-C ends the
    program after the step, with a checkpoint and exit status 130; a loss that is not finite ends it with status 1 and
    keeps the last checkpoint.
    """
    from tqdm import tqdm

    from ncsn.runs import save_model
    from ncsn.training import NonFiniteLossError

    bar_format = "training {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left{postfix}"
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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run: a picture, or uint8 images (or points) in an .npz file under the key samples."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many samples."""
    seed: int = 0
    """The same seed gives the same samples on one machine."""
    sampler: Literal["annealed", "langevin"] = "annealed"
    """Annealed Langevin dynamics down the run's noise levels, or as many steps on the smallest level alone."""
    step_size: float | None = None
    """Langevin's step size; by default that of annealing's last level."""
    batch_size: int = 250
    """How many samples the network sees at a time; the samples do not depend on it."""
    out: Path = Path("grid.png")
    """Where to write: .png for a grid, .npz for an array."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.n < 1 or self.batch_size < 1:
            raise ValueError(f"n is {self.n} and batch size is {self.batch_size}; each must be at least 1")
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {self.out} ends in '{self.out.suffix}'; allowed are .png and .npz")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a run is: its experiment, network, noise levels, sampler and numbers."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist."""


def sample(settings: Sample) -> None:
    """``ncsn sample``."""
    if settings.out.exists() and not settings.overwrite:
        raise ValueError(f"{settings.out} exists; give --overwrite to replace it, or another --out")
    if not settings.out.absolute().parent.is_dir():
        raise ValueError(f"{settings.out.parent} is no folder to write {settings.out.name} into")
    import numpy as np
    import torch

    from ncsn import machine, plots, runs
    from ncsn.files import atomic
    from ncsn.pixels import quantize
    from ncsn.score import batched

    machine.keep_memory()

    score, recipe = batched(runs.load(settings.run), settings.batch_size), runs.read_recipe(settings.run)
    generator, began = torch.Generator().manual_seed(settings.seed), time.perf_counter()
    start = recipe.start(settings.n, generator=generator)
    if settings.sampler == "annealed":
        path = recipe.annealed(score, start, generator=generator)
    else:
        path = recipe.langevin(score, start, step_size=settings.step_size, generator=generator)
    (x,) = deque(bar(path, recipe.states(settings.sampler), f"{settings.n} samples"), maxlen=1)
    images = len(recipe.shape) == 3
    if settings.out.suffix == ".npz":
        with atomic(settings.out) as temporary:
            np.savez_compressed(temporary, samples=(quantize(x) if images else x).numpy())
    elif images:
        plots.image_grid(x, settings.out, columns=min(settings.n, max(8, round(settings.n**0.5))))
    else:
        plots.scatter_panels([[(f"{settings.n} samples, {settings.sampler}", x)]], settings.out)
    print(f"{settings.out}: {settings.n} samples, {recipe.nfe} evaluations each, {time.perf_counter() - began:.1f} s")


def pairs(content: dict[str, Any]) -> str:
    """``name=value`` for each item, floats shortened."""
    return ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in content.items())


def info(settings: Info) -> None:
    """``ncsn info``."""
    from ncsn import runs

    config, recipe, score = (
        runs.read_config(settings.run),
        runs.read_recipe(settings.run),
        runs.load(settings.run),
    )
    parameters = sum(p.numel() for p in score.parameters())
    rows = {
        "run": settings.run,
        "experiment": config["experiment"],
        "network": f"{recipe.network}({pairs(recipe.arguments)}), {parameters:,} parameters",
        "data": f"shape {recipe.shape}, mean {score.data_mean.mean():.4g}, std {score.data_std:.4g}",
        "noise": f"{recipe.noise.levels} levels, σ from {recipe.noise.sigma_max:g} to {recipe.noise.sigma_min:g}",
        "sampler": f"{recipe.steps} steps a level, eps {recipe.eps:g}, {recipe.nfe} evaluations",
        "settings": pairs(config["settings"]),
        "results": pairs({k: v for k, v in runs.read_results(settings.run).items() if not isinstance(v, list | dict)}),
    }
    for name, value in rows.items():
        print(f"{name:<11} {value}")


def main(args: list[str] | None = None) -> None:
    """The command ``ncsn``."""
    commands: Any = Annotated[Sample, tyro.conf.subcommand("sample")] | Annotated[Info, tyro.conf.subcommand("info")]

    def command(settings: Sample | Info) -> None:
        if isinstance(settings, Sample):
            sample(settings)
        else:
            info(settings)

    run(command, commands, args, "ncsn")
