"""Data: a dataset and its origin, transforms to the model's numbers, and what each kind of data must implement.

A kind is an object with behaviour: it says where learning starts, draws batches, and evaluates, imputes, shows and
writes its examples.  Nothing outside of ``ncsn.kinds`` and ``ncsn.tables`` asks which kind it has.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, TypeAlias, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, Shaped, UInt8
from pydantic import PlainValidator
from torch import Tensor

from ncsn.batching import Batch, batches, reals
from ncsn.machine.messages import log
from ncsn.machine.storage import sha256_of
from ncsn.samplers import Step
from ncsn.score import PreconditioningName, ScoreModel
from ncsn.settings import PARTS, Reading, Split
from ncsn.validation import Json, NetworkName, opened_as, real, validated

FAR = 30.0  # standard deviations, beyond which training says nothing about the data
OTHER_DATA = "data is not what the run was trained on; a tenth of the training data is held out"


@dataclass(frozen=True)
class Transform:
    """The identity: the user's numbers x are the model's numbers z.  Other transforms extend it.

    ``type``: the transform's name in a run's config.json.
    """

    type: Literal["identity", "depth", "scale", "columns"] = field(default="identity", kw_only=True)

    def forward(self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them; NaN stays NaN.

        ``generator``: draws the position of a discrete value in its cell; by default it is the middle.
        """
        return x

    def inverse(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples in the user's units."""
        return z

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The user's examples from ``forward``; unlike samples, they may lie outside of the range of training."""
        return self.inverse(z)

    def log_abs_det_jacobian(
        self, x: Shaped[Tensor, "b *d"], generator: torch.Generator | None = None
    ) -> Float64[Tensor, "b"]:
        """The logarithm of |dz/dx| at the user's examples; with ``generator`` at the same positions as ``forward``."""
        return torch.zeros(len(x), dtype=torch.float64, device="cpu")

    def possible(self, x: Shaped[Tensor, "b *d"]) -> Bool[Tensor, "b *d"]:
        """Which of the user's numbers are possible, judging by the training data; NaN may stand for a missing one."""
        return torch.ones_like(x, dtype=torch.bool)

    def affine(self, shape: tuple[int, ...]) -> tuple[Float[Tensor, "*d"], Float[Tensor, "*d"], Bool[Tensor, "*d"]]:
        """Shift and scale of each number of an example, x = shift + scale·z, and which numbers that describes fully."""
        zero = torch.zeros(shape, device="cpu")
        return zero, torch.ones_like(zero), torch.ones_like(zero, dtype=torch.bool)

    def place(self, example: int, channel: int) -> str:
        """The position of a number, for error messages; both arguments count from 0."""
        return f"example {example + 1}, number {channel}"

    def check(self, x: Shaped[Tensor, "b *d"]) -> None:
        """Raise ValueError for impossible numbers, naming the first."""
        for where in (~self.possible(x)).nonzero()[:1].tolist():
            value = float(x[tuple(where)])
            raise ValueError(f"{self.place(*where[:2])} cannot be {value:g}, judging by the training data")

    def describe(self) -> tuple[str, ...]:
        """What the transform does beyond shifting and scaling, one line each."""
        return ()


TRANSFORMS = {
    "identity": "ncsn.data:Transform",
    "depth": "ncsn.kinds.images.read:Depth",
    "scale": "ncsn.kinds.signals:Scale",
    "columns": "ncsn.tables.columns:Columns",
}


def find(place: str) -> Any:
    """Import what a registry names as module:name."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def read_transform(content: object) -> Transform:
    """A transform from a run's config.json.  Raises ValueError for anything else."""
    if isinstance(content, Transform):
        return content
    name = content.get("type") if isinstance(content, Mapping) else None
    if name not in [*TRANSFORMS]:  # it may be anything, even unhashable
        raise ValueError(f"transform is {name!r}; it must be one of {', '.join(TRANSFORMS)}")
    kind: type[Transform] = find(TRANSFORMS[name])
    return validated(kind, content, "transform")


AnyTransform: TypeAlias = Annotated[Transform, PlainValidator(read_transform)]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each example, 0 to k − 1, and the names of the k classes.

    ``train``: the classes of the training examples, (n,).
    ``validation``: those of the validation examples.
    ``test``: those of the test examples.
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


@dataclass(frozen=True)
class Dataset:
    """Examples in three splits: bytes, or the real numbers that the model sees.

    ``train``: the training examples, (n, *d): images (n, c, h, w), signals (n, c, l), volumes (n, c, d, h, w) or rows
    (n, d), in which NaN is a missing cell.
    ``validation``: the examples that select the checkpoint.
    ``test``: the examples that samples are compared with.
    ``labels``: the classes of all examples, by split, and their ``names``; None for data without classes.
    ``name``: mnist, or the last part of the path without its suffix.
    ``transform``: from the user's numbers to these.
    ``notes``: a line for each conversion, such as "alpha on white: 40 of 121 images".
    ``codes``: for a table, whose last coordinates are codes of discrete values: how many values each of these can have.
    ``sha256``: of the numbers in the user's units, in hexadecimal, if those differ from the model's.
    """

    train: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n *d"]
    validation: UInt8[Tensor, "v c h w"] | Float32[Tensor, "v *d"]
    test: UInt8[Tensor, "t c h w"] | Float32[Tensor, "t *d"]
    labels: Labels | None = None
    name: str = ""
    transform: Transform = field(default_factory=Transform)
    notes: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    sha256: str = ""

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
        """The training examples, without codes."""
        return self.train[:, : self.train.shape[1] - len(self.codes)]

    @cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of all numbers in the training examples; bytes count as floats in [0, 1]."""
        data = self.numbers
        if not data.numel():
            return 0.0, 1.0
        if data.dtype == torch.uint8:  # counted in one pass, because an array on disk may be large
            counts = (
                torch.stack([torch.bincount(part.flatten(), minlength=256) for part in chunks(data)]).sum(0).double()
            )
            values = reals(torch.arange(256, dtype=torch.uint8, device=data.device)).double()
            mean = float(counts @ values) / data.numel()
            return mean, math.sqrt(float(counts @ (values - mean).square()) / data.numel())
        if bool((missing := data.isnan()).any()):
            data = data[~missing]
        average = sum(float(part.double().sum()) for part in chunks(data)) / data.numel()
        squares = sum(float((part.double() - average).square().sum()) for part in chunks(data))
        return average, math.sqrt(squares / data.numel())

    @property
    def kind(self) -> "AnyKind":
        """The kind of the examples."""
        return kind_of(self.shape)

    def describe(self) -> str:
        """Describe the dataset in one line: size and shape, what was converted, classes and splits."""
        (channels, *sides), kind = self.shape, self.kind
        channels = len(getattr(self.transform, "columns", ())) or channels  # a column can have a number and a code
        first = kind.named.get(channels, f"{channels} {kind.axis}")
        size = f", {' × '.join(map(str, sides))}" if sides else ""
        converted = [line.partition(":")[0] for line in self.notes]
        names = () if self.labels is None else self.labels.names
        # Their names reveal folders of splits that were mistaken for classes.
        listed = f" ({', '.join(names)})" if 0 < len(names) <= 5 else ""
        parts = [len(part) for part in (self.train, self.validation, self.test)]
        facts = [f"{sum(parts):,} {kind.noun}{size}", first, *converted, f"{len(names) or 'no'} classes{listed}"]
        return f"{', '.join(facts)}; {' / '.join(f'{part:,}' for part in parts)} for training, validation, test"

    def announce(self) -> None:
        """Log the description, and what was done to the files."""
        for line in (self.describe(), *self.notes):
            log.info(line)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the numbers of all three splits, in hexadecimal."""
        return self.sha256 or sha256_of(
            chunk.numpy() for part in (self.train, self.validation, self.test) for chunk in chunks(part)
        )


def chunks(data: Tensor) -> Iterator[Tensor]:
    """The rows of ``data``, 16 MB at a time."""
    size = data[0].numel() * data.element_size()
    yield from torch.split(data, max(1, 2**24 // size))


def absolute(name: str) -> str:
    """The name of a dataset that does not depend on the working directory."""
    return name if name == "mnist" else str(Path(name).absolute())


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
    def of(cls, dataset: str, reading: Reading, data: Dataset) -> "Origin":
        """The origin of a dataset.

        ``dataset``, ``reading``: the arguments of ``load_dataset``.
        ``data``: the dataset that it returned.
        """
        split = (data.n, len(data.validation), len(data.test))
        return cls(dataset=absolute(dataset), reading=reading, digest=data.digest, split=split)

    def load(self, dataset: str | None = None) -> Dataset:
        """Load the data again; ``dataset``: its new place, if it has moved.

        Raises ValueError if it can't be read, or has changed.
        """
        place = self.dataset if dataset is None else absolute(dataset)
        if place != "mnist" and not Path(place).exists():
            moved = "run.data(DATA), ncsn evaluate --data DATA, or ncsn train DATA"
            raise ValueError(f"the data is no longer at {place}; pass its new location ({moved})")
        data: Dataset = find(LOADER)(place, reading=self.reading)
        if data.digest != self.digest:
            raise ValueError(f"{place} does not hold the data that the run was trained on")
        return data


Unseen: TypeAlias = Literal["error", "missing", "skip"]
"""What to do with impossible values, see ``Run.impute``."""
UserData: TypeAlias = Any
"""Examples, or numbers about them, in the user's form: a tensor, or pandas' DataFrame or Series, which has no types."""
Values: TypeAlias = Mapping[Any, object]
"""Values of some columns of a table, by the columns' labels."""
LogPrior: TypeAlias = Callable[[Shaped[Tensor, "b *d"]], Float64[Tensor, "b"]]
"""The log density of the prior at examples in the user's units, up to a constant."""
Label: TypeAlias = int | str | Int64[Tensor, "n"] | Int64[Tensor, ""]
"""Classes of samples, see ``Run.steps``."""


@dataclass(frozen=True)
class Imputed:
    """Draws of missing values given the observed ones.

    ``observed``: the examples, (b, *d), NaN where a value is missing.
    ``draws``: completed examples, (n, b, *d), with observed values unchanged.
    ``point``: the best guess of each value, (b, *d): the mean of the draws, or the most frequent draw.
    ``variation``: its uncertainty, (b, *d): the standard deviation of the draws, or the share of draws that agree.
    ``again``: imputes held-out examples in the same way, for ``interval``.
    """

    observed: Float64[Tensor, "b *d"]
    draws: Float64[Tensor, "n b *d"]
    point: Float64[Tensor, "b *d"]
    variation: Float64[Tensor, "b *d"]
    again: Callable[[Tensor, int, object, Tensor], "tuple[Tensor, Tensor, Tensor]"] | None = field(
        default=None, kw_only=True
    )

    @property
    def missing(self) -> Bool[Tensor, "b *d"]:
        """Which values were missing."""
        return self.observed.isnan()

    def spread(self) -> UserData:
        """The uncertainty of each guess, see ``variation``."""
        return self.variation

    @property
    def ordered(self) -> Bool[Tensor, "*d"]:
        """Which values of an example have intervals: numbers and dates, but not categories."""
        return torch.ones(self.observed.shape[1:], dtype=torch.bool, device="cpu")

    def interval(self, level: float = 0.9, *, conformal: object = False) -> tuple[UserData, UserData]:
        """Lower and upper ends of central intervals that contain this share of values, if the draws are right.

        With ``conformal`` they do even if the draws are too narrow or too wide.  Values of held-out examples are hidden
        in the same patterns and imputed; then all intervals are stretched around their medians, by one factor, until
        those of the held-out examples contain this share of the hidden values (split conformal prediction, Lei et al.
        2018, arXiv:1604.04173, section 5.2).

        The guarantee holds on average, for values that are missing at random, up to the dependence of values in one
        example.  Coverage can vary between columns and between patterns of missing values (Zaffran et al. 2023,
        arXiv:2306.02732).

        ``level``: between 0 and 1; without ``conformal``, 90 % needs at least 19 draws.
        ``conformal``: True for the held-out examples of the run's data, or other examples that weren't used for
        training, in the form that ``Run.impute`` takes.  For 90 %, at least 9 of them must have a value in each place
        that is missing here.
        Raises ValueError for too few draws, too few held-out examples, and if the run has none.

        >>> run = ncsn.fit(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), steps=5, quiet=True)
        >>> low, high = run.impute([[0.0, 1.0, torch.nan]]).interval(0.9, conformal=torch.randn(100, 3))
        >>> bool((low < high)[0, 2])
        True
        """
        if (level := real("level", level, above=0)) >= 1:
            raise ValueError(f"level is {level}; it must be below 1")
        if conformal is not False:
            assert self.again is not None
            least = math.ceil(1 / (1 - level) - 1e-9) - 1
            truth, draws, hidden = self.again(self.missing, len(self.draws), conformal, least * self.ordered)
            factor = conformal_factor(truth, draws, hidden & self.ordered, level)
            below, middle, above = deviations(self.draws)
            return middle - factor * below, middle + factor * above
        tail, n = (1 - level) / 2, len(self.draws)
        if tail * (n + 1) < 1 - 1e-9:
            enough = math.ceil(1 / tail - 1e-9) - 1
            raise ValueError(f"level is {level}, which {n} draws are too few for; use impute(rows, {enough})")
        # Between order statistics k and n + 1 − k of exact draws lies a share (n + 1 − 2k)/(n + 1) of all values.
        low, high = np.quantile(self.draws.numpy(), [tail, 1 - tail], axis=0, method="weibull")
        return torch.from_numpy(low), torch.from_numpy(high)


def deviations(draws: Float64[Tensor, "n b *d"]) -> tuple[Float64[Tensor, "b *d"], ...]:
    """The median of draws between the root mean square deviations below and above it."""
    middle = draws.median(0).values
    below, above = ((sign * (draws - middle)).clamp(min=0).square().mean(0).sqrt() for sign in (-1, 1))
    return below, middle, above


def conformal_factor(
    truth: Float64[Tensor, "r b *d"], draws: Float64[Tensor, "n r b *d"], hidden: Bool[Tensor, "r b *d"], level: float
) -> float:
    """The number of deviations that contains a share of the ``hidden`` values.  Raises ValueError for too few."""
    below, middle, above = (each[hidden] for each in deviations(draws))
    off = truth[hidden] - middle
    distances = torch.where(off == 0, 0.0, off.abs() / torch.where(off > 0, above, below)).sort().values
    # A value that is hidden r times counts only once as evidence.
    distinct = max(1, int(hidden.any(0).sum()))
    place = math.ceil(len(distances) * (1 + 1 / distinct) * level - 1e-9)
    if not 0 < place <= len(distances) or not math.isfinite(distances[place - 1]):
        raise ValueError(f"level is {level}, which {len(distances)} values of held-out examples are too few for")
    return float(distances[place - 1])


R = TypeVar("R")  # the run of a trained model, defined above this module
Loss = Callable[[ScoreModel, Batch], tuple[Tensor, Tensor]]
"""The losses of a batch's examples and their noise levels, see ``training_loss``."""
Writer = Callable[[R, UserData, Sequence[Step], Path], object]
"""Writes samples, (n, *d), and the states of some of them from noise to data, to a file."""


@dataclass(frozen=True, kw_only=True)
class Reports:
    """When training evaluates its averaged weights on held-out examples, and what it does with the result.

    ``count``: the number of reports.
    ``power``: report k comes after a share (k/count)^power of the budget.
    ``spacing``: the smallest number of steps between two reports; those due earlier are skipped.
    ``from_start``: whether there is a report before the first step, too.
    ``tolerance``: the share by which the held-out loss may exceed its minimum before the best average is restored.
    ``patience``: the share by which it may exceed its minimum before training stops.
    """

    count: int = 10
    power: float = 1.0
    spacing: int = 1
    from_start: bool = False
    tolerance: float = 0.01
    patience: float = math.inf

    def due(self, fraction: float) -> int:
        """How many reports are due once this share of the budget is spent."""
        return int(self.count * min(1.0, fraction) ** (1 / self.power) + 1e-9)


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
        """Batches of held-out examples, the same at every report, given the generator that also draws their noise."""

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
class Imputation(Generic[R]):
    """How missing values are drawn, for kinds of data that can have any.

    ``draw``: from a run, the user's examples, the number of draws, a generator and what to do with impossible values.
    ``hide``: from a run, what to hide, the shape (n, *d) of examples and a generator, which values to hide; see
    ``Run.calibrate``.
    ``fill_file``: from a run, a file, the number of draws, a seed and the files to write; returns a summary in lines.
    """

    draw: Callable[[R, object, int, torch.Generator, Unseen], Imputed]
    hide: Callable[[R, object, tuple[int, ...], torch.Generator], Bool[Tensor, "n *d"]]
    fill_file: Callable[[R, Path, int, int, Path, Path | None], list[str]]


@dataclass(frozen=True)
class Conditioning(Generic[R]):
    """How a run is conditioned on exact values of a part of every example, for kinds of data whose parts have names.

    ``given``: from a run and values, the run of the other parts.
    ``insert``: from a run, samples of that other run and the values, whole examples.
    ``complete``: the run of examples without missing parts.
    ``prior``: from a run and a prior, see ``Run.with_prior``, the log prior of examples in the user's units.
    ``together``: from a run, several observations of the same parts, a number and a generator, draws of the others.
    ``warn``: from a run and values, says if these are unlike all training examples.
    ``sharpness``: from a run, examples and what is hidden in all of them, how sharp its conditionals are, in words.
    """

    given: Callable[[R, Values], R]
    insert: Callable[[R, UserData, Values], UserData]
    complete: Callable[[R], R]
    prior: Callable[[R, object], "LogPrior"]
    together: Callable[[R, Sequence[Values], int, torch.Generator], UserData]
    warn: Callable[[R, Sequence[Values]], None]
    sharpness: Callable[[R, Tensor, Tensor], str]


@dataclass(frozen=True, kw_only=True)
class Kind(ABC, Generic[R]):
    """A kind of data: the defaults of its training, and how it is learned, evaluated, shown and written.

    ``noun``: the word for examples.  ``axis``: the word for their first axis; ``named``: names of some of its lengths.
    ``network``: the network that learns it.
    ``minutes``: the default training budget.
    ``prior``: the run in the package that a training on few examples starts from, if there is one.
    ``headroom``: the default σ_max in leading standard deviations of the data.
    ``log_sigma_mean``: limits for the rule that chooses the mean of ln σ.
    ``log_sigma_std``: the standard deviation of ln σ.
    ``held_out``: sizes of the batches of held-out examples in a report.
    ``reports``: when a training reports.
    ``precision``: the network's default precision.
    ``compiled``: whether compiling the network pays for many samples.
    ``guided``: whether sampling uses guidance.
    ``posterior_targets``: whether training may use posterior targets at high noise.
    ``refused``: options that do not apply to this kind.
    ``shown``: how many samples training draws at the end, as a multiple of its setting.
    ``kept``: for how many of them the states from noise to data are shown, too.
    ``writers``: the writers of samples by the suffix of the file; None stands for arrays, as ``stored`` returns them.
    ``judged_in``: the transform of samples in a file that are judged, by default that of the run.
    ``imputation``: how missing values are drawn; by default they can't be missing.
    ``conditioning``: how a run is conditioned on exact values; by default it can't be.
    """

    noun: str
    axis: str = "channels"
    named: Mapping[int, str] = field(default_factory=dict)
    network: NetworkName = "unet"
    minutes: float = 10.0
    prior: str | None = None
    headroom: float = 4.5
    log_sigma_mean: tuple[float, float] = (-math.inf, math.inf)
    log_sigma_std: float = 1.2
    held_out: tuple[int, ...] = (256, 256)
    reports: Reports = field(default_factory=Reports)
    precision: Literal["auto", "fp32"] = "auto"
    compiled: bool = False
    guided: bool = False
    posterior_targets: bool = True
    refused: tuple[str, ...] = ()
    shown: int = 1
    kept: int = 0
    writers: Mapping[str, Writer[R] | None]
    judged_in: Transform | None = None
    imputation: Imputation[R] | None = None
    conditioning: Conditioning[R] | None = None

    # Learning.

    def start(self, data: Dataset, preconditioning: PreconditioningName) -> dict[str, float | Tensor]:
        """The arguments of ``model`` that follow from the data.

        Raises ValueError if such a model cannot learn from the data.
        """
        mean, std = data.statistics
        return {"data_mean": mean, "data_std": std}

    def columns(self, data: Dataset) -> tuple[str, ...]:
        """The names of columns that can be hidden in training."""
        return ()

    def curriculum(self, data: Dataset, model: ScoreModel, hidden: tuple[str, ...]) -> Curriculum:
        """How the model learns from the data; ``hidden``: columns that half of the training is for."""
        return Curriculum(self.held_out)

    def choose_guidance(
        self, data: Dataset, device: torch.device, *, seconds: float, effort: float
    ) -> Callable[[R, int, int], float] | None:
        """A function of (run, images seen, seed) that chooses the guidance; None if there is nothing to choose.

        ``seconds``: how long a classifier may be trained for it.
        ``effort``: the share of the usual images and samples that there is time for.
        """
        return None

    def measure(self, run: R, data: Dataset) -> dict[str, float]:
        """Numbers about a trained run that are stored in it."""
        return {}

    # Using a run.

    @abstractmethod
    def numbers(self, run: R, x: object, unseen: Unseen = "error") -> Shaped[Tensor, "b *d"]:
        """A user's examples as a tensor in the user's units.  Raises ValueError for a wrong shape or other columns.

        ``unseen``: what to do with impossible values of a DataFrame, see ``Run.impute``.
        """

    def examples(self, run: R, x: Shaped[Tensor, "b *d"]) -> UserData:
        """The inverse of ``numbers``: examples as the user gave them to training."""
        return x

    def align(self, values: Float[Tensor, "b"], x: object) -> UserData:
        """One number per example, in a form that suits the user's examples."""
        return values

    def stored(self, transform: Transform, samples: Float[Tensor, "n *d"]) -> Shaped[np.ndarray, "n *d"]:
        """Samples as an array is stored in a file."""
        return samples.numpy()

    @abstractmethod
    def ruler(self, run: R, data: Dataset, features: object, n: int) -> Ruler:
        """The ruler for up to ``n`` samples of a run.  Raises ValueError for too few held-out examples."""

    @abstractmethod
    def show(self, run: R, data: Dataset, samples: Shaped[Tensor, "n *d"], path: Sequence[Step], folder: Path) -> None:
        """Draw a training's samples, and the states of some from noise to data (``path``), into the run's folder."""


AnyKind: TypeAlias = Kind[Any]
KINDS = {1: "ncsn.tables:TABLES", 3: "ncsn.kinds.images:IMAGES"}  # by the number of an example's axes
OTHERS = "ncsn.kinds.signals:SIGNALS"
LOADER = "ncsn.learn.loading:load_dataset"


def choose_patterns(patterns: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n *d"]:
    """One of a user's ``patterns`` for each of n examples, at random; ``shape``: (n, *d).

    Raises ValueError if they have another shape, or if none of them hides anything.
    """
    array = np.asarray(patterns)
    array = array[None] if array.ndim == len(shape) - 1 else array
    if array.dtype != bool or array.shape[1:] != shape[1:]:
        raise ValueError(f"hidden has shape {array.shape} and dtype {array.dtype}; expected booleans {shape[1:]}")
    found = torch.from_numpy(array[array.reshape(len(array), -1).any(1)])
    if not len(found):
        raise ValueError("hidden is False everywhere, so there is nothing to draw")
    return found[torch.randint(len(found), shape[:1], generator=generator)]


@cache
def kind_of(shape: tuple[int, ...]) -> AnyKind:
    """The kind of examples of this shape: (d,) are rows, (c, h, w) images; (c, l) and (c, d, h, w) signals."""
    kind: AnyKind = find(KINDS.get(len(shape), OTHERS))
    return kind


IMAGE_KEYS = {"", "x", "image", "images", "img", "imgs", "signals", "data", "samples", "arr_0"}
LABEL_KEYS = {"y", "label", "labels", "target", "targets"}
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "eval": "validation", "test": "test"}
# Names of folders and arrays that hold one split: train, Training, train2017, val, valid, test1, …
PART_NAME = re.compile(r"(train|val|eval|test)(ing|id|idation|uation)?[-_ ]?\d*", re.IGNORECASE)


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is memory-mapped, by "".

    Raises ValueError if they can't be read, or hold Python objects.
    """
    with opened_as("arrays", path):
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}


def part_of(word: str) -> Split | None:
    """The split that a folder or array of this name holds, if any."""
    match = PART_NAME.fullmatch(word)
    return SPLITS[match[1].lower()] if match else None


def check_finite(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Raises ValueError if an array holds NaN or infinity."""
    if array.dtype.kind == "f" and (wrong := int((~np.isfinite(array)).sum())):
        raise ValueError(f"{name} holds {wrong:,} values that are NaN or infinite; fill them in, or leave them out")


def classes_in(name: str, array: Shaped[np.ndarray, "..."] | None, n: int) -> np.ndarray | None:
    """The classes of ``n`` examples.  Raises ValueError for arrays of another shape or dtype."""
    if array is None:
        return None
    if array.dtype.kind not in "buiU" or array.shape not in ((n,), (n, 1)):
        allowed = f"expected one integer or text for each of {n} examples"
        raise ValueError(f"the classes in {name} have shape {array.shape} and dtype {array.dtype}; {allowed}")
    return array.reshape(-1)


def role(key: str) -> tuple[str, Split | None]:
    """The role of an array by its key (x for examples, y for classes, or another word), and its split."""
    words = re.split("[^a-z0-9]+", key.lower())
    part = next((part for word in words if (part := part_of(word))), None)
    word = "_".join(word for word in words if not part_of(word))
    return "x" if word in IMAGE_KEYS else "y" if word in LABEL_KEYS else word, part


def split_arrays(
    name: str, found: Arrays, examples_in: Callable[..., np.ndarray]
) -> dict[Split, tuple[str, np.ndarray, np.ndarray | None, np.ndarray]]:
    """Each split's array of examples, with its name, its classes, and the index of the split in it.

    Examples are in the only array, or in one with a key such as images, x, x_train or test_images; classes have keys
    such as labels, y or y_train.  ``examples_in`` validates an array of a name and arranges its axes.
    Raises ValueError for other keys, missing classes, different dtypes, and if there are no training examples.
    """
    keys = {role(key) if len(found) > 1 else ("x", None): key for key in found}
    names = {part: f"{name} {key}".strip() for (word, part), key in keys.items() if word == "x"}
    stacks = {part: examples_in(names[part], found[keys["x", part]]) for part in names}
    labels = {part: found[key] for (word, part), key in keys.items() if word == "y"}
    whole = len(stacks) + len(labels) == len(found) and labels.keys() in (set(), stacks.keys())
    dtypes = {stack.dtype for stack in stacks.values()}
    if not whole or len(dtypes) > 1 or ("train" in stacks) == (None in stacks):
        listed = ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in list(found.items())[:10])
        allowed = "one array, images and labels, or x_train, y_train, x_test, y_test, of one dtype"
        raise ValueError(f"{name} holds {listed or 'nothing'}; expected {allowed}")
    splits = {}
    for part, (source, index) in split_of({part or "train": len(stack) for part, stack in stacks.items()}).items():
        key = source if source in stacks else None
        classes = classes_in(name, labels.get(key), len(stacks[key]))
        splits[part] = f"{name}/{keys['x', key]}", stacks[key], classes, index
    return splits


def split_of(counts: Mapping[Split, int]) -> dict[Split, tuple[Split, np.ndarray]]:
    """Each split's source and its index there, shuffled in the same way every time.

    A missing split gets a tenth of the training examples.  Broken images count, so that the others stay in their splits
    when a file is repaired.
    """
    parts: dict[Split, tuple[Split, np.ndarray]] = {}
    for part in PARTS:
        order = torch.randperm(counts.get(part, 0), generator=torch.Generator().manual_seed(0))
        parts[part] = part, order.numpy()
    tenth = len(parts["train"][1]) // 10
    for part in ("validation", "test"):
        if not len(parts[part][1]):
            _, rest = parts["train"]
            parts[part], parts["train"] = ("train", rest[:tenth]), ("train", rest[tenth:])
    return parts


def labels_of(parts: Mapping[Split, Sequence[np.ndarray | str]]) -> Labels | None:
    """The classes of examples, one or many at a time, if there are at least two and every example has one."""
    if any(isinstance(label, str) and not label for labels in parts.values() for label in labels):
        return None
    arrays = {part: np.concatenate([np.atleast_1d(label) for label in labels]) for part, labels in parts.items()}
    names = np.unique(np.concatenate([*arrays.values()]))
    if len(names) < 2:
        return None
    tensors = {part: torch.from_numpy(np.searchsorted(names, array)) for part, array in arrays.items()}
    return Labels(**tensors, names=tuple(map(str, names.tolist())))


def check_unseen(unseen: object) -> None:
    """Raises ValueError for what isn't an ``Unseen``."""
    if not isinstance(unseen, str) or unseen not in get_args(Unseen):
        raise ValueError(f"unseen is {unseen!r}; it must be one of {', '.join(get_args(Unseen))}")
