"""Samples for a user who waits: under a progress bar, compiled where that pays, drawn by several processes.

Torch is imported inside the functions that need it, so that ``--help`` answers at once.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ncsn.cli import console

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ncsn.machine.distributed import Group
    from ncsn.run import Drawn, Run, Steps
    from ncsn.samplers import Step

COMPILE_FROM = 60_000  # evaluations of a network for images: for fewer, compiling takes longer than it saves


def draw(
    run: "Run",
    n: int,
    *,
    seed: "int | Generator" = 0,
    keep: int = 0,
    batch_size: int = 500,
    description: str = "",
    **how: Any,
) -> "Drawn":
    """``n`` samples of a run under a progress bar, and the first ``keep`` of them on their way; see ``Run.steps``."""
    from ncsn.machine import hardware
    from ncsn.samplers import Step
    from ncsn.score import even

    began = time.perf_counter()
    steps = run.steps(n, seed=seed, batch_size=batch_size, **how)
    many = compiling_pays(run, n, steps)
    if many:
        run.compile(even(n, batch_size))
    path = []
    with nullcontext() if many else hardware.nothing_compiled():
        for step in console.bar(steps, description or f"{n} samples"):
            if keep:
                path.append(Step(step.sigma, step.x[:keep].cpu()))
    return drawn(steps, step.x, path, time.perf_counter() - began)


def compiling_pays(run: "Run", n: int, steps: "Steps") -> bool:
    """Whether ``n`` samples are drawn sooner by a compiled network, compiling it included."""
    return run.recipe.images and run.condition is None and n * steps.sampling.nfe >= COMPILE_FROM


def drawn(steps: "Steps", samples: "Tensor", path: "list[Step]", seconds: float) -> "Drawn":
    """The samples that ``steps`` has led to, and what they have cost."""
    from ncsn.run import Drawn

    return Drawn(
        samples=samples.cpu(),
        path=path,
        sampling=steps.sampling,
        nfe=steps.nfe,
        guide_nfe=steps.guide_nfe,
        seconds=seconds,
    )


def draw_blocks(
    run: "Run", n: int, *, seed: int = 0, done: int = 0, batch_size: int = 500, group: "Group | None" = None, **how: Any
) -> "Iterator[Drawn]":
    """``n`` samples of a run, of which ``done`` are there already, in ``Run.blocks``, under one progress bar.

    Whether a block is drawn by a compiled network follows from ``n``, so that a job that goes on draws the same.
    ``group``: the processes that share the work; the leading one gets all samples, in order, and the others none.
    """
    import torch
    from tqdm.auto import tqdm

    from ncsn.machine import hardware
    from ncsn.machine.distributed import ALONE
    from ncsn.score import even

    group = ALONE if group is None else group
    bar_format = f"{n:,} samples {{percentage:3.0f}}% |{{bar}}| {{elapsed}} elapsed, {{remaining}} left"
    usual, compiled = even(min(n, run.block), batch_size), False
    numbers = range(-(-done // run.block), -(-n // run.block))
    mine = run.blocks(n, seed=seed, first=numbers.start + group.rank, every=group.size, batch_size=batch_size, **how)
    threads = hardware.Threads()
    with tqdm(
        total=n, initial=done, bar_format=bar_format, delay=1, leave=False, mininterval=hardware.refresh_interval()
    ) as bar:
        for first in numbers[:: group.size]:
            began = time.perf_counter()
            together = range(first, min(first + group.size, numbers.stop))
            counts = [min(run.block, n - number * run.block) for number in together]
            x = torch.zeros(run.block, *run.recipe.shape)
            if group.rank < len(counts):
                steps, count = next(mine), counts[group.rank]
                # The last block may be smaller than those that the network is compiled for.
                pays = compiling_pays(run, n, steps) and even(count, batch_size) == usual
                if pays and not compiled:
                    run.compile(usual)
                    compiled = True
                with nullcontext() if pays else hardware.nothing_compiled():
                    for step in threads.beside(steps):
                        bar.update(sum(counts) / len(steps))
                        last = step.x
                x[:count] = last.cpu()
            blocks = group.gather(x)
            seconds = (time.perf_counter() - began) / len(counts)
            for count, block in zip(counts, blocks, strict=False):
                yield drawn(steps, block[:count], [], seconds)
