"""Datasets: examples in three splits, where they came from, and how a score is learned from them.

``Images``, ``Signals`` and ``Table`` each know where learning starts, what a batch is, and their defaults.
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8
from torch import Tensor

from ncsn.batching import Batch, batches, reals
from ncsn.data.transforms import Transform
from ncsn.machine.messages import log
from ncsn.machine.storage import sha256_of
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import Reading
from ncsn.validation import Json, NetworkName

OTHER_DATA = "data is not what the run was trained on; a tenth of the training data is held out"


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each example, 0 to k − 1, and the names of the k classes.

    ``train``: the classes of the training examples, (n,).
    ``validation``: the classes of the validation examples.
    ``test``: the classes of the test examples.
    ``names``: the names of the classes.
    """

    train: Int64[Tensor, "n"]
    validation: Int64[Tensor, "v"]
    test: Int64[Tensor, "t"]
    names: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class in the training examples."""
        counts = self.train.bincount(minlength=len(self.names)).double()
        return dict(zip(self.names, (counts / counts.sum()).tolist(), strict=True))


def chunks(data: Tensor) -> Iterator[Tensor]:
    """The rows of ``data``, 16 MB at a time."""
    size = data[0].numel() * data.element_size()
    yield from torch.split(data, max(1, 2**24 // size))


def absolute(name: str) -> str:
    """The name of a dataset that does not depend on the working directory."""
    return name if name == "mnist" else str(Path(name).absolute())


def short_name(path: str) -> str:
    """The name of a dataset: the last part of its path, without a known suffix."""
    name = Path(os.path.normpath(Path(path).absolute())).name
    return re.sub(r"\.(zip|npy|npz|tar(\.\w+)?|tgz|csv|tsv|parquet)$", "", name, flags=re.IGNORECASE) or "images"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the data of a run came from, so that it can be loaded again.

    ``dataset``: mnist, or the absolute path.
    ``reading``: the options it was read with.
    ``digest``: the sha256 of the numbers of all three splits.
    ``split``: the number of examples for training, validation and testing.
    """

    dataset: str
    reading: Reading
    digest: str
    split: tuple[int, int, int]

    @classmethod
    def of(cls, dataset: str, reading: Reading, data: "Dataset") -> "Origin":
        """The origin of a dataset.

        ``dataset``, ``reading``: the arguments of ``load_dataset``.
        ``data``: the dataset that it returned.
        """
        split = (data.n, len(data.validation), len(data.test))
        return cls(dataset=absolute(dataset), reading=reading, digest=data.digest, split=split)

    def place(self, dataset: str | None = None) -> str:
        """The path of the data, or ``dataset``, its new path, if it has moved.  Raises ValueError if it isn't there."""
        place = self.dataset if dataset is None else absolute(dataset)
        if place != "mnist" and not Path(place).exists():
            moved = "run.data(DATA), ncsn evaluate --data DATA, or ncsn train DATA"
            raise ValueError(f"the data is no longer at {place}; pass its new location ({moved})")
        return place

    def check(self, data: "Dataset", place: str) -> None:
        """Raises ValueError if the data at ``place`` isn't what the run was trained on."""
        if data.digest != self.digest:
            raise ValueError(f"{place} does not hold the data that the run was trained on")


Loss = Callable[[ScoreModel, Batch], tuple[Tensor, Tensor]]
"""The losses of a batch's examples and their noise levels, see ``training_loss``."""


@runtime_checkable
class Report(Protocol):
    """The result of a ruler; ``print`` it to read it."""

    def report(self) -> Json:
        """The result as a dictionary for JSON."""


@runtime_checkable
class Ruler(Protocol):
    """Measures samples and compares them with held-out examples."""

    @property
    def n(self) -> int:
        """The number of samples that are needed."""

    def judge(self, samples: Shaped[Tensor, "k *d"]) -> Report:
        """Evaluate at least ``n`` samples in the user's units."""

    def show(self, samples: Shaped[Tensor, "k *d"], path: Path) -> None:
        """Draw samples next to real examples."""


class Curriculum:
    """The batches that a model learns from and is judged by, and their losses.

    ``sizes``: of the batches of held-out examples.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def batches(self, drawn: Iterator[Batch], generator: torch.Generator) -> Iterator[Batch]:
        """Endless batches to train on, from random batches of training examples."""
        return drawn

    def held_out(self, examples: Batch) -> Callable[[torch.Generator], Iterator[Batch]]:
        """Batches of held-out examples, always the same, given the generator that also draws their noise."""

        def draw(generator: torch.Generator) -> Iterator[Batch]:
            for size in self.sizes:
                yield next(batches(examples.x, size, examples.label, generator=generator))

        return draw

    def loss(self, loss: Loss) -> Loss:
        """The loss of the model, given that of scores."""
        return loss

    def parts(self, batch: Batch) -> dict[str, Bool[Tensor, "b"]]:
        """The parts of held-out examples whose losses are reported separately."""
        return {}


@dataclass(frozen=True)
class Dataset:
    """Examples in three splits, bytes or the real numbers that the model sees; and how a score is learned from them.

    ``train``: the training examples, (n, *d): images (n, c, h, w), signals (n, c, l), volumes (n, c, d, h, w) or rows
    (n, d), in which NaN is a missing cell.
    ``validation``: the examples that select the checkpoint.
    ``test``: the examples that samples are compared with.
    ``labels``: the classes of all examples, by split, and their ``names``; None for data without classes.
    ``name``: mnist, or the last part of the path without its suffix.
    ``transform``: from the user's numbers to these.
    ``notes``: a line for each conversion, such as "alpha on white: 40 of 121 images".
    ``sha256``: of the numbers in the user's units, in hexadecimal, if those differ from the model's.

    The defaults of training:

    ``noun``: what messages call the examples, such as "images".
    ``network``: the name of the network; ``minutes``: the time budget; ``precision``: the network's arithmetic.
    ``prior``: the run in the package that a training on few examples starts from, if there is one.
    ``headroom``: the default σ_max in leading standard deviations of the data.
    ``log_sigma_mean``: limits for the rule that chooses the mean of ln σ; ``log_sigma_std``: its standard deviation.
    ``held_out``: sizes of the batches of held-out examples in an evaluation of the averaged weights.
    ``evaluations``: how many such evaluations there are; number k comes after a share
    (k/evaluations)^evaluation_power of the budget.
    ``evaluation_spacing``: the smallest number of steps between two of them; those due earlier are skipped.
    ``evaluates_start``: whether the first one comes before the first step.
    ``tolerance``: the share by which the held-out loss may exceed its minimum before the best average is restored.
    ``patience``: the share by which it may exceed its minimum before training stops.
    ``guided``: whether sampling uses guidance.
    ``posterior_targets``: whether training may use posterior targets at high noise.
    ``refused``: options of training that are rejected, because they don't apply to this data.
    ``shown``: how many samples training draws at the end, as a multiple of the option ``samples``.
    """

    train: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n *d"]
    validation: UInt8[Tensor, "v c h w"] | Float32[Tensor, "v *d"]
    test: UInt8[Tensor, "t c h w"] | Float32[Tensor, "t *d"]
    labels: Labels | None = None
    name: str = ""
    transform: Transform = field(default_factory=Transform)
    notes: tuple[str, ...] = ()
    sha256: str = ""

    noun: ClassVar[str] = "examples"
    network: ClassVar[NetworkName] = "unet"
    minutes: ClassVar[float] = 10.0
    prior: ClassVar[str | None] = None
    headroom: ClassVar[float] = 4.5
    log_sigma_mean: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    log_sigma_std: ClassVar[float] = 1.2
    held_out: ClassVar[tuple[int, ...]] = (256, 256)
    evaluations: ClassVar[int] = 10
    evaluation_power: ClassVar[float] = 1.0
    evaluation_spacing: ClassVar[int] = 1
    evaluates_start: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.01
    patience: ClassVar[float] = math.inf
    guided: ClassVar[bool] = False
    posterior_targets: ClassVar[bool] = True
    refused: ClassVar[tuple[str, ...]] = ()
    shown: ClassVar[int] = 1
    precision: ClassVar[Literal["auto", "fp32"]] = "fp32"

    @property
    def n(self) -> int:
        """The number of training examples."""
        return len(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: columns, or channels and sides such as height and width."""
        return tuple(self.train.shape[1:])

    @property
    def numbers(self) -> UInt8[Tensor, "n c h w"] | Float32[Tensor, "n *d"]:
        """The training examples, without codes of discrete values."""
        return self.train

    @property
    def codes(self) -> tuple[int, ...]:
        """How many values each of the codes can have, the last coordinates of rows."""
        return ()

    @property
    def network_arguments(self) -> dict[str, int | tuple[int, ...]]:
        """Arguments of the network that depend on the data, other than its size."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of columns, which can be hidden in training."""
        return ()

    @cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers in the training examples; bytes count as floats in [0, 1]."""
        data = self.numbers
        if not data.numel():
            return 0.0, 1.0
        if data.dtype == torch.uint8:  # counted in one pass, because an array on disk may be large
            histograms = [torch.bincount(chunk.flatten(), minlength=256) for chunk in chunks(data)]
            counts = torch.stack(histograms).sum(0).double()
            values = reals(torch.arange(256, dtype=torch.uint8, device=data.device)).double()
            mean = float(counts @ values) / data.numel()
            return mean, math.sqrt(float(counts @ (values - mean).square()) / data.numel())
        if bool((missing := data.isnan()).any()):
            data = data[~missing]
        mean = sum(float(chunk.double().sum()) for chunk in chunks(data)) / data.numel()
        squares = sum(float((chunk.double() - mean).square().sum()) for chunk in chunks(data))
        return mean, math.sqrt(squares / data.numel())

    @property
    def width(self) -> str:
        """How many channels or columns an example has, in words."""
        return f"{self.shape[0]} channels"

    def describe(self) -> str:
        """Describe the dataset in one line: size and shape, what was converted, classes and splits."""
        sides = self.shape[1:]
        size = f", {' × '.join(map(str, sides))}" if sides else ""
        converted = [line.partition(":")[0] for line in self.notes]
        names = () if self.labels is None else self.labels.names
        # Their names reveal folders of splits that were mistaken for classes.
        listed = f" ({', '.join(names)})" if 0 < len(names) <= 5 else ""
        counts = [len(split) for split in (self.train, self.validation, self.test)]
        facts = [f"{sum(counts):,} {self.noun}{size}", self.width, *converted, f"{len(names) or 'no'} classes{listed}"]
        splits = " / ".join(f"{count:,}" for count in counts)
        return f"{', '.join(facts)}; {splits} for training, validation, test"

    def announce(self) -> None:
        """Log the description, and what was done to the files."""
        for line in (self.describe(), *self.notes):
            log.info(line)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the numbers of all three splits, in hexadecimal."""
        splits = (self.train, self.validation, self.test)
        return self.sha256 or sha256_of(chunk.numpy() for split in splits for chunk in chunks(split))

    # How a score is learned.

    def start(self, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """Where learning starts: the arguments of the model that follow from the data.

        Raises ValueError if such a model cannot learn from the data.
        """
        mean, std = self.statistics
        return {"data_mean": mean, "data_std": std}

    @classmethod
    def evaluations_due(cls, fraction: float) -> int:
        """How many evaluations are due once this share of the budget is spent."""
        return int(cls.evaluations * min(1.0, fraction) ** (1 / cls.evaluation_power) + 1e-9)

    def curriculum(self, model: ScoreModel, hidden: tuple[str, ...]) -> Curriculum:
        """The batches and the loss that a model learns from; ``hidden``: columns that most of the training is for."""
        return Curriculum(self.held_out)
