"""Training images out of shards: which of them a step sees, and how they are there before it does.

In an epoch the shards lie in a row, shuffled anew.  The row is cut into as many stretches of one length as a batch has
places, and every place goes through its own, front to back.  So what a step sees follows from the seed, the step and
the place; every process reads shards of its own; and they are read as disks and networks like it.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from tqdm.auto import tqdm

from ncsn import machine
from ncsn.data.filling import WORKERS, placed
from ncsn.data.images import varied
from ncsn.data.reading import head, reason
from ncsn.data.shards import Shards, found_at, index_of, read_span
from ncsn.objectives import Batch
from ncsn.rng import Draws

LONGEST = 16  # steps whose images are read together, at most
BLOCK = 2**26  # bytes that these images take, at most, unless one step's are more
RUN, GAP = 2**24, 2**20  # bytes that are read at once, at most, and of them between two images
Span = tuple[Path, int, int]
"""Where an image is: its shard, its first byte and the one behind its last."""


@dataclass(frozen=True)
class Block:
    """The images of some steps, ``pixels`` (steps, places, c, h, w), their classes, and who is reading them."""

    pixels: UInt8[np.ndarray, "s p c h w"]
    classes: Int64[np.ndarray, "s p"]
    readers: list[Future[None]]


def seen(
    counts: Int64[np.ndarray, "k"], size: int, seed: int, step: int, places: range
) -> tuple[Int64[np.ndarray, "p"], Int64[np.ndarray, "p"]]:
    """What these places of a batch of ``size`` see at this step: the shard of each image, and its number there.

    ``counts``: how many are in each shard.  Of all, fewer than ``size`` are not seen in an epoch; where there are no
    more than that, a batch has some of them more than once.
    """
    n = int(counts.sum())
    length = max(1, n // size)
    epoch, depth = divmod(step, length)
    start = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(1)[0]
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(int(start))).numpy()
    which, where = found_at(counts[order], (np.array(places, np.int64) * length + depth) % n)
    return order[which], where


def together(spans: Sequence[Span]) -> Iterator[range]:
    """Which of the images are read at once: those that follow each other in a shard."""
    first = 0
    for i in range(1, len(spans) + 1):
        if i < len(spans):
            (path, _, end), (following, start, last) = spans[i - 1], spans[i]
            if path == following and 0 <= start - end <= GAP and last - spans[first][1] <= RUN:
                continue
        yield range(first, i)
        first = i


class Ahead:
    """The images of a process' places in every batch: read and decoded in blocks of steps, always one block ahead."""

    def __init__(self, shards: Shards, draws: Draws) -> None:
        self.shards, self.seed, self.size, self.places = shards, draws.seed, draws.size, draws.places
        self.steps = min(LONGEST, max(1, BLOCK // (len(self.places) * math.prod(shards.shape))))
        self.numbers = {name: number for number, name in enumerate(shards.names)}
        self.blocks: dict[int, Block] = {}
        self.broken: set[str] = set()
        self.pool = ThreadPoolExecutor(WORKERS)

    def at(self, step: int) -> tuple[UInt8[np.ndarray, "p c h w"], Int64[np.ndarray, "p"]]:
        """The images of this step, and their classes.  Raises ValueError if a shard is damaged, or too many images."""
        number, row = divmod(step, self.steps)
        near = (number, number + 1)
        self.blocks = {i: self.blocks[i] if i in self.blocks else self.begun(i) for i in near}
        block = self.blocks[number]
        for reader in block.readers:
            reader.result()
        return block.pixels[row], block.classes[row]

    def begun(self, number: int) -> Block:
        """A block that is being read."""
        steps = range(number * self.steps, (number + 1) * self.steps)
        rows = [seen(self.shards.counts, self.size, self.seed, step, self.places) for step in steps]
        which, where = (np.stack(column, 1) for column in zip(*rows, strict=True))
        pixels = np.empty((self.steps, len(self.places), *self.shards.shape), np.uint8)
        classes = np.full(pixels.shape[:2], -1, np.int64)
        todo = zip(which, where, pixels.swapaxes(0, 1), classes.T, strict=True)
        return Block(pixels, classes, [self.pool.submit(self.read, *place) for place in todo])

    def read(
        self,
        which: Int64[np.ndarray, "s"],
        where: Int64[np.ndarray, "s"],
        pixels: UInt8[np.ndarray, "s c h w"],
        classes: Int64[np.ndarray, "s"],
    ) -> None:
        """Read what a place sees in some steps."""
        paths = [self.shards.paths[i] for i in which]
        spans = [(path, *index_of(path).spans[j].tolist()) for path, j in zip(paths, where, strict=True)]
        for run in together(spans):
            path, start, _ = spans[run[0]]
            data = read_span(path, start, spans[run[-1]][2])
            for i in run:
                _, first, end = spans[i]
                pixels[i], classes[i] = self.image(path, int(where[i]), data[first - start : end - start])

    def image(self, path: Path, number: int, data: bytes) -> tuple[UInt8[np.ndarray, "c h w"], int]:
        """An image and its class; where it is broken, and may be, the next one in its shard that is not."""
        index, count = index_of(path), len(index_of(path).spans)
        for i in (i % count for i in range(number, number + count)):
            try:
                return self.decoded(data), self.numbers.get(str(index.classes[i]), -1)
            except Exception as error:  # codecs raise whatever they like
                self.leave_out(f"{path} image {i}", reason(error))
            data = read_span(path, *index.spans[(i + 1) % count].tolist())
        raise ValueError(f"{path} holds no image that can be read")

    def decoded(self, data: bytes) -> UInt8[np.ndarray, "c h w"]:
        """An image as those became that were looked at first.  Raises ValueError if it is of another kind."""
        header, (channels, *size) = head(BytesIO(data), self.shards.reading), self.shards.shape
        if header.dtype != "uint8":
            raise ValueError("it has more than 8 bits; images in shards may have 8")
        row = np.empty((max(channels, header.channels), *size), np.uint8)
        if not placed(data, row, header, self.shards.reading).grey and channels < len(row):
            raise ValueError("it is coloured; those that were looked at first are grey")
        return row[:channels]

    def leave_out(self, name: str, why: str) -> None:
        """Remember, and say once, that an image is broken.  Raises ValueError if that is one too many."""
        if name in self.broken:
            return
        self.broken.add(name)
        allowed = self.shards.reading.max_broken
        if len(self.broken) > allowed:
            raise ValueError(f"{name} cannot be read ({why}); --max-broken allows {allowed} of each process' images")
        tqdm.write(f"{name} cannot be read ({why}): the next one takes its place", file=sys.stderr)


def batches_ahead(shards: Shards, draws: Draws, *, labels: bool, flip: bool) -> Iterator[Batch]:
    """What this process has of every batch: of the step and in the turn in which ``draws`` is.

    ``labels``: with the images' classes.  ``flip``: each image is mirrored, left to right, with probability ½.
    Raises ValueError if a shard is damaged, or more images than the reading allows.
    """
    ahead = Ahead(shards, draws)
    try:
        while True:
            pixels, classes = ahead.at(draws.step)
            first = draws.first - draws.places.start
            mine = slice(first, first + draws.mine)
            chosen = machine.onto(draws.device, torch.from_numpy(pixels[mine]))
            known = machine.onto(draws.device, torch.from_numpy(classes[mine])) if labels else None
            yield Batch(varied(chosen, flip, draws), known)
    finally:
        ahead.pool.shutdown(cancel_futures=True)
