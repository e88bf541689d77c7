"""What GPUs should do, by arithmetic on what a step is made of; and what asks how much of the data set."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from step import Step, model_of, progress_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ncsn.data.sharded import LOOKED_AT
from ncsn.distributed import Group
from ncsn.evaluation.report import REPORTABLE
from ncsn.learn import rules
from ncsn.learn.budgets import TRIALS
from ncsn.learn.rules import Facts
from ncsn.networks import UNet
from ncsn.noise import LogNormal
from ncsn.rng import PARTS

# Assumed, of an NVIDIA H100 SXM, by its data sheet: 989 TFLOP/s in bfloat16, 3.35 TB/s, NVLink of 450 GB/s each way.
REACHED = 0.4  # of the first two
ARITHMETIC, MEMORY = REACHED * 989e12, REACHED * 3.35e12  # operations and bytes a second
LAUNCH = 5e-6  # seconds between the beginnings of two of PyTorch's operations
EVALUATIONS, DRAWN = 17, 500  # of the network for a sample, unguided, on 16 levels; samples at a time
COUNTED = 2  # images of one process, from which, and twice as many, costs are counted


class Link(NamedTuple):
    """What joins N processes: ``alpha`` seconds for the smallest message to another, ``beta`` bytes a second.

    The sum of S bytes on all of them takes 2·log₂N·α + 2·(N − 1)/N·S/β by halving and doubling (Thakur, Rabenseifner &
    Gropp 2005), and in a ``ring``, as gloo does it, 2·(N − 1)·(α + S/(N·β)); for two processes that is the same.
    """

    name: str
    alpha: float
    beta: float
    ring: bool = False

    def seconds(self, size: float, processes: int) -> float:
        """How long adding up ``size`` bytes takes so many processes."""
        messages = processes - 1 if self.ring else math.log2(processes)
        return 2 * messages * self.alpha + 2 * (processes - 1) / processes * size / self.beta


NVLINK = Link("NVLink", 10e-6, 300e9)
NETWORK = Link("400 Gbit/s a GPU", 20e-6, 40e9)


class Silent(Group):
    """One of many processes, whose others are not there."""

    def add_(self, tensors: Sequence[Tensor]) -> None:
        """Nothing comes."""


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, operations are counted, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked, and count."""
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operations += 1
            tensors = [value for value in tree_leaves((args, kwargs, made)) if isinstance(value, Tensor)]
            self.bytes += sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)
        return made


class Counts(NamedTuple):
    """Floating point operations, bytes read and written, and PyTorch's operations."""

    flops: float
    bytes: float
    operations: float


def counted(call: Callable[[], object]) -> Counts:
    """What a call is made of, the second time."""
    call()
    with Traffic() as traffic, FlopCounterMode(display=False) as arithmetic:
        call()
    return Counts(arithmetic.get_total_flops(), traffic.bytes, traffic.operations)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a call costs: what is the same for any batch, and what is for each image (``parts``: of a batch)."""

    fixed: Counts
    image: Counts
    part: float = 0.0

    def of(self, images: float, parts: float = 0.0) -> Counts:
        """The cost of so many images."""
        flops, size, _ = (a + images * b for a, b in zip(self.fixed, self.image, strict=True))
        return Counts(flops, size, self.fixed.operations + parts * self.part)

    def seconds(self, images: float, parts: float = 0.0) -> tuple[float, float, float]:
        """How long that takes the assumed GPU, by arithmetic, by memory and by launches; the longest of them counts."""
        flops, size, operations = self.of(images, parts)
        return flops / ARITHMETIC, size / MEMORY, operations * LAUNCH


def linear(some: Counts, twice: Counts, images: int) -> tuple[Counts, Counts]:
    """What is fixed and what is each image's, from the cost of so many images and of twice as many."""
    each = Counts(*((b - a) / images for a, b in zip(some, twice, strict=True)))
    fixed = Counts(*(a - images * e for a, e in zip(some, each, strict=True)))
    return fixed, each


def step_cost(step: Step) -> Cost:
    """What a training step costs: counted on the processor, of one process' share."""

    def share(images: int, parts: int) -> Counts:
        whole = replace(step, batch_size=images * PARTS // parts, examples=64)
        _, progress = progress_of(whole, Silent(rank=0, size=PARTS // parts))
        return counted(lambda: next(progress))

    one, two, parted = share(COUNTED, 1), share(2 * COUNTED, 1), share(2 * COUNTED, 2)
    fixed, image = linear(one, two, COUNTED)
    part = parted.operations - two.operations
    return Cost(fixed=fixed._replace(operations=one.operations - part), image=image, part=part)


def sample_cost(step: Step) -> Cost:
    """What one evaluation of the network costs, for samples."""
    model = model_of(step, torch.device("cpu")).requires_grad_(False).eval()

    def batch(images: int) -> Counts:
        x = torch.zeros(images, 3, step.side, step.side)
        return counted(lambda: model(x, torch.ones(images)))

    some = batch(COUNTED)
    fixed, image = linear(some, batch(2 * COUNTED), COUNTED)
    return Cost(fixed=fixed._replace(operations=some.operations), image=image)


def dominates(cost: Cost, message: float, parts: float) -> str:
    """Up to how many images of a GPU its message takes longer than its arithmetic, if ever."""
    below = bisect_left(range(1, 10**6), True, key=lambda images: max(cost.seconds(images, parts)) > message)
    return f"{below:,} images" if below else "never"


def expectations(wire: Link) -> str:
    """Throughput on 1, 8 and 64 of the assumed GPUs, and over a ``wire`` that was measured."""
    throughput, messages, drawing, said = [], [], [], []
    for side in (32, 64):
        channels = rules.channels((3, side, side), rules.SPEEDS["cuda"], 600)
        step = Step(side=side, channels=channels, precision="bf16")  # a GPU's, whatever processor counts it
        cost = step_cost(step)
        size = 4 * sum(p.numel() for p in model_of(step, torch.device("cpu")).parameters())
        said.append(made_of(side, step, cost, size))
        for gpus, link in ((1, NVLINK), (8, NVLINK), (64, NETWORK)):
            parts = PARTS / gpus
            for whole in (128, 1024 * gpus):
                throughput.append(row(side, gpus, whole, cost, size, link, wire))
            if gpus > 1:
                for joined in (link, wire):
                    message = joined.seconds(size, gpus)
                    messages.append(
                        f"{side} × {side} | {gpus} | {joined.name} | {1e3 * message:.2f} "
                        f"| {dominates(cost, message, parts)}"
                    )
        evaluation = sample_cost(step)
        one = DRAWN / (EVALUATIONS * max(evaluation.seconds(DRAWN)))
        drawing.append(f"{side} × {side} | {one:,.0f} | {8 * one:,.0f} | {64 * one:,.0f}")
    head = (
        "images | GPUs | batch | on each | arithmetic, ms | memory, ms | launches, ms | message, ms | images/s "
        "| times one GPU | images/s over the slow wire"
    )
    dominating = "images | GPUs | joined by | message, ms | longer than the rest of the step, up to on each GPU"
    return "\n\n".join(
        [
            *said,
            grid(head, throughput),
            grid(dominating, messages),
            f"Samples a second, {DRAWN} at a time, {EVALUATIONS} evaluations each, no messages:",
            grid("images | 1 GPU | 8 | 64", drawing),
        ]
    )


def row(side: int, gpus: int, whole: int, cost: Cost, size: int, link: Link, wire: Link) -> str:
    """One row of throughput."""
    arithmetic, memory, launches = cost.seconds(whole / gpus, PARTS / gpus)
    alone = max(cost.seconds(whole, PARTS))
    took, message = max(arithmetic, memory, launches), link.seconds(size, gpus)
    over_wire = f"{whole / (took + wire.seconds(size, gpus)):,.0f}" if gpus > 1 else ""
    return (
        f"{side} × {side} | {gpus} | {whole:,} | {whole // gpus:,} | {1e3 * arithmetic:.2f} | {1e3 * memory:.2f} "
        f"| {1e3 * launches:.1f} | {1e3 * message:.2f} | {whole / (took + message):,.0f} "
        f"| {alone / (took + message):.1f} | {over_wire}"
    )


def made_of(side: int, step: Step, cost: Cost, size: int) -> str:
    """A step's cost in words, with the arithmetic for a batch of 1,024."""
    flops, moved, operations = cost.of(1024, PARTS)
    arithmetic, memory, launches = cost.seconds(1024, PARTS)
    fixed, image = cost.fixed, cost.image
    return (
        f"**{side} × {side}**, widths {' '.join(map(str, step.channels))}: {size // 4:,} weights, so a message of "
        f"{size / 1e6:.1f} MB. A step takes {fixed.flops / 1e9:.1f} GFLOP and {fixed.bytes / 1e9:.2f} GB of traffic "
        f"for the optimisers, and {image.flops / 1e9:.2f} GFLOP and {image.bytes / 1e6:.0f} MB for each image, in "
        f"{fixed.operations:,.0f} operations and {cost.part:.0f} for each of the {PARTS} parts that a batch is drawn "
        f"in. 1,024 images on one GPU: {flops / 1e12:.2f} TFLOP / {ARITHMETIC / 1e12:.0f} TFLOP/s = "
        f"{1e3 * arithmetic:.1f} ms; {moved / 1e9:.0f} GB / {MEMORY / 1e12:.2f} TB/s = {1e3 * memory:.0f} ms; "
        f"{operations:,.0f} launches · {1e6 * LAUNCH:.0f} µs = {1e3 * launches:.1f} ms."
    )


def grid(head: str, rows: Sequence[str]) -> str:
    """A table in Markdown."""
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Images of a kind, and what the rules choose for them."""

    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    noise: LogNormal
    averaging: float

    @property
    def name(self) -> str:
        """What they are called."""
        channels, height, width = self.shape
        return f"{height} × {width}, {'grey' if channels == 1 else 'colour'}"

    def posterior(self) -> int:
        """The largest data set that posterior targets are made with."""
        network, top = UNet(self.shape[0], self.channels), self.noise.sigma_max
        facts = Facts(
            n=0,
            shape=self.shape,
            std=0.25,
            leading_std=top / rules.SIGMA_MAX,
            detail=0.1,
            averaging=self.averaging,
        )

        def without(n: int) -> bool:
            return replace(facts, n=n).posterior_above(network, self.noise) >= top

        return bisect_left(range(10**7), True, lo=1, key=without) - 1


KINDS = (
    Kind(shape=(1, 28, 28), channels=(64, 128), noise=LogNormal(-0.41, 1.2, 10.0, 0.01), averaging=0.75),
    Kind(shape=(3, 32, 32), channels=(64, 128), noise=LogNormal(-1.6, 1.2, 33.0, 0.01), averaging=1.5),
    Kind(shape=(3, 64, 64), channels=(64, 128, 256), noise=LogNormal(-1.6, 1.2, 33.0, 0.01), averaging=1.5),
)


def limits() -> str:
    """What asks the data set, and from where on not all of it."""
    posterior = " | ".join(f"{kind.posterior():,}" for kind in KINDS)
    looked = " | ".join(f"{max(rules.FEWEST, int(rules.COMPARED / math.prod(kind.shape))):,}" for kind in KINDS)

    def everywhere(value: str) -> str:
        return " | ".join(len(KINDS) * [value])

    rows = [
        f"posterior targets, at each step: all training images; with more there are none | {posterior}",
        f"rules: spread and detail | {everywhere(f'{rules.MEASURED:,}')}",
        f"rules: where posterior targets would begin | {looked}",
        f"held-out loss, ten times a training: 512 noisy ones of | {everywhere('all')}",
        f"choosing guidance: samples at each weight, beside four times as many images | {everywhere(f'{TRIALS:,}')}",
        f"evaluation: samples, and test images | {everywhere(f'{REPORTABLE:,}')}",
        f"evaluation: training images that each sample is compared with | {everywhere('all')}",
        f"everything, of images in shards, which have no posterior targets | {everywhere(f'{LOOKED_AT:,}')}",
    ]
    return grid("at most so many images | " + " | ".join(kind.name for kind in KINDS), rows)
