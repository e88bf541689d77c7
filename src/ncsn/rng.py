"""Random numbers that depend on what they are for, and on nobody who draws them.

In a training step, which ones an example gets depends on the seed, the step and its place alone.

A batch may be shared by any number of processes: each draws the numbers of its own examples, and nobody another's.  So
they are the same on one process and on eight.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

PARTS = 64  # of a batch; each has a generator, and belongs to one process
SEEDS = 2**32  # different ones that a generator on a CPU has


class Draws:
    """The random numbers of one process' share of every batch.

    A batch of ``size`` examples is cut into ``PARTS`` parts in a row, and each part of each step has a generator of its
    own.  Process ``rank`` of ``processes`` has as many parts as the others, or one more, and takes them in ``turns``,
    where all of them at a time would be too many for its memory.  ``device``: where they are.
    Raises ValueError if there would be no example for a process, or for one of its turns.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        processes: int = 1,
        turns: int = 1,
    ) -> None:
        self.edges = [size * part // PARTS for part in range(PARTS + 1)]
        self.shares = [cut(PARTS, rank * turns + turn, processes * turns) for turn in range(turns)]
        if any(self.edges[share.start] == self.edges[share.stop] for share in self.shares):
            raise ValueError(
                f"{size} examples are a batch, for {processes} processes of {turns} turns each; at most {PARTS} turns "
                "are possible, of one example at least"
            )
        self.seed, self.size, self.device = seed, size, torch.device(device)
        self.generators = {
            part: torch.Generator(self.device)
            for share in self.shares
            for part in share
            if self.edges[part] < self.edges[part + 1]
        }
        self.common = torch.Generator("cpu")
        self.now = self.shares[0]
        self.begin(0)

    @property
    def places(self) -> range:
        """The places in the batch of this process' examples, of all turns."""
        return range(self.edges[self.shares[0].start], self.edges[self.shares[-1].stop])

    @property
    def first(self) -> int:
        """The place in the batch of the first example of this turn."""
        return self.edges[self.now.start]

    @property
    def mine(self) -> int:
        """How many examples of a batch are this turn's."""
        return self.edges[self.now.stop] - self.first

    @property
    def sizes(self) -> list[int]:
        """How many examples the turns have, each number once."""
        return sorted({self.edges[share.stop] - self.edges[share.start] for share in self.shares})

    def begin(self, step: int) -> None:
        """From now on, the numbers of this step."""
        self.step = step
        # One after the other, so that no two share a seed within 66 million steps.
        base = self.seed * 0x9E3779B1 + step * (PARTS + 1)
        self.common.manual_seed(base % SEEDS)
        for part, generator in self.generators.items():
            generator.manual_seed((base + 1 + part) % SEEDS)

    def each_turn(self, step: int) -> Iterator[None]:
        """The turns of a step, one after the other; between them, the numbers are the turn's."""
        self.begin(step)
        for share in self.shares:
            self.now = share
            common = self.common.get_state()
            yield
            self.common.set_state(common)  # which is asked in every turn

    def get_state(self) -> Tensor:
        """What a checkpoint keeps; nothing, for the step says it all."""
        return torch.zeros(0, dtype=torch.uint8)

    def set_state(self, state: Tensor) -> None:
        """Go on from a checkpoint; the step is told by ``begin``."""

    def each(self, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """What ``draw(n, generator)`` makes for each part's n examples, one after the other."""
        sizes = {part: self.edges[part + 1] - self.edges[part] for part in self.now}
        return torch.cat([draw(n, self.generators[part]) for part, n in sizes.items() if n])

    def order(self) -> Int64[Tensor, "mine"]:
        """A random order of the whole batch: what this process has of it."""
        whole = torch.randperm(self.size, generator=self.common)
        return whole[self.first : self.first + self.mine].to(self.device)


def cut(n: int, number: int, shares: int) -> range:
    """One of so many shares, of one size or one more, of the numbers below ``n``."""
    return range(n * number // shares, n * (number + 1) // shares)


Source = torch.Generator | Draws | None
"""Where random numbers come from: a generator, or, in training, ``Draws``; None is torch's own."""


def placed(source: Source, device: torch.device | str | None) -> torch.device | str:
    """Where numbers are to be drawn: as said, or where their source is."""
    return device if device is not None else "cpu" if source is None else source.device


def randn(shape: tuple[int, ...], source: Source, like: Tensor) -> Float[Tensor, "*d"]:
    """Standard normal numbers, of the type and on the device of ``like``."""
    if isinstance(source, Draws):
        return source.each(lambda n, g: torch.randn(n, *shape[1:], generator=g, device=g.device, dtype=like.dtype))
    return torch.randn(shape, generator=source, device=like.device, dtype=like.dtype)


def rand(shape: tuple[int, ...], source: Source, device: torch.device | str | None = None) -> Float[Tensor, "*d"]:
    """Uniform numbers in [0, 1)."""
    if isinstance(source, Draws):
        return source.each(lambda n, g: torch.rand(n, *shape[1:], generator=g, device=g.device))
    return torch.rand(shape, generator=source, device=placed(source, device))


def randint(
    high: int, shape: tuple[int, ...], source: Source, device: torch.device | str | None = None
) -> Int64[Tensor, "*d"]:
    """Integers from 0 to ``high`` − 1."""
    if isinstance(source, Draws):
        return source.each(lambda n, g: torch.randint(high, (n, *shape[1:]), generator=g, device=g.device))
    return torch.randint(high, shape, generator=source, device=placed(source, device))


def stratified(n: int, source: Source) -> Float[Tensor, "n"]:
    """Uniform numbers in [0, 1), in random order, one in each of as many equal parts as the batch has examples."""
    if isinstance(source, Draws):
        return (source.order() + rand((n,), source)) / source.size
    device = placed(source, None)
    strata = torch.randperm(n, generator=source, device=device)
    return (strata + torch.rand(n, generator=source, device=device)) / n


def block_seed(seed: int, number: int) -> int:
    """The seed of a block of samples: the user's for the first.

    On a CPU generators have 2³² seeds.  Blocks count on from one that is far from the user's, so that no two blocks
    share one, and seeds 0 and 1 have no blocks in common.
    """
    if number == 0:
        return seed
    start = np.random.SeedSequence(seed % 2**64).generate_state(1)[0]
    return (int(start) + number) % SEEDS
