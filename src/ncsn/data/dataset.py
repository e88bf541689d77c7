"""Data sets of images, signals and rows as tensors: what a user names becomes one, and a run finds its own again.

A data set has three parts, a kind, perhaps classes, and notes of what was done to its files.

Batches are index operations, never a loop over images.
"""

import gzip
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import resources
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor

from ncsn.data import sources
from ncsn.data.pixels import AT_ONCE, Picture, decoded, depth_of, fitted, in_units, picture
from ncsn.data.sources import (
    OF_IMAGES,
    PARTS,
    TABLES,
    Catalogue,
    Item,
    Reading,
    Split,
    images_in_shard,
    part_of,
    short_name,
)
from ncsn.data.tables import SHEETS, Table, arrays, read_table, table_of
from ncsn.data.units import BYTES, FAR, Depth, Units, dequantize, reals
from ncsn.machine.messages import bar, log
from ncsn.objectives import Batch
from ncsn.validation import NetworkName, one_line

IMAGE_KEYS = {"", "x", "image", "images", "img", "imgs", "signals", "data", "samples", "arr_0"}
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
LABEL_KEYS = {"y", "label", "labels", "target", "targets"}
BEYOND = 0.5  # deviations of a column beyond an end of training's: what lies nearer is no news


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What differs between kinds of data: images, signals and rows of a table.

    ``noun``: what examples are called.  ``axis``: what their first axis is; ``named``: what a length of it is called.
    ``networks``: that can learn them, the default first.
    ``minutes``: of a training, by default.
    ``headroom``: how many leading standard deviations σ_max is, by default.
    ``log_sigma_mean``: between which numbers the rule for the mean of ln σ may choose.
    ``log_sigma_std``: the standard deviation of ln σ.
    ``held_out``: sizes of the batches of held-out examples that a report judges by.
    ``reports``: how many of them a training makes.
    ``slack``: the share by which the held-out loss may rise before an earlier average is taken.
    ``precision``: what the network computes in, by default.
    ``guided``: whether samples move away from a guide.
    ``posterior_targets``: whether high noise may be learned from the whole training set.
    ``refused``: the options that mean nothing.
    """

    noun: str
    axis: str = "channels"
    named: Mapping[int, str] = field(default_factory=dict)
    networks: tuple[NetworkName, ...] = ("unet",)
    minutes: float = 10.0
    headroom: float = 4.5
    log_sigma_mean: tuple[float, float] = (-math.inf, math.inf)
    log_sigma_std: float = 1.2
    held_out: tuple[int, ...] = (256, 256)
    reports: int = 10
    slack: float = 0.01
    precision: Literal["auto", "fp32"] = "auto"
    guided: bool = False
    posterior_targets: bool = True
    refused: tuple[str, ...] = ()

    @staticmethod
    def of(shape: Sequence[int]) -> "Kind":
        """The kind of examples of this shape: (d,), (c, h, w); (c, l) and (c, d, h, w) are signals."""
        return {1: ROWS, 3: IMAGES}.get(len(shape), SIGNALS)


IMAGES = Kind(noun="images", named={1: "grey", 3: "RGB"}, networks=("unet", "refinenet", "refinenet-v2"), guided=True)
SIGNALS = Kind(
    noun="signals",
    named={1: "1 channel"},
    # Of noisy signals the rule asks for still more noise; mnist1d's, for which it says 0.7, do well.
    log_sigma_mean=(-math.inf, 0.7),
    precision="fp32",  # in one dimension a processor is no faster in 16 bits
    refused=OF_IMAGES,  # by what a guided signal should be judged is not known
)
ROWS = Kind(
    noun="rows",
    axis="columns",
    networks=("mlp",),
    minutes=1.5,
    headroom=10.0,  # columns may have tails
    log_sigma_mean=(-0.8, -0.8),  # where a network of standardised columns has most to learn
    log_sigma_std=1.6,
    # Rows cost little, and few of them are soon learned by heart.
    held_out=(4096,),
    reports=100,
    slack=0.0,
    precision="fp32",
    posterior_targets=False,
    refused=(
        *OF_IMAGES,
        "flip",
        "start",
        "posterior_above",
    ),  # what a column is to the network follows from its own units
)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each image, 0 to k − 1, and what the k classes are called.

    ``train``: the classes of the training images, (n,).
    ``validation``: those of the validation images.
    ``test``: those of the test images.
    ``names``: what the classes are called.
    """

    train: Int64[Tensor, "n"]
    validation: Int64[Tensor, "v"]
    test: Int64[Tensor, "t"]
    names: tuple[str, ...]

    @property
    def shares(self) -> dict[str, float]:
        """How much of the training images each class is."""
        counts = self.train.bincount(minlength=len(self.names)).double()
        return dict(zip(self.names, (counts / counts.sum()).tolist(), strict=True))


@dataclass(frozen=True)
class Dataset:
    """Examples in three parts: images, as bytes, or as reals in [0, 1] where the files have more than 8 bits.

    Or signals (n, c, l), volumes (n, c, d, h, w), and rows of a table (n, d): real numbers in units of their own.

    ``train``: what is learned from, (n, *d).
    ``validation``: the examples that show how a training goes.
    ``test``: those that samples are compared with.
    ``labels``: the classes of all of them, if they have classes.
    ``name``: mnist, or the last part of the path without suffix.
    ``depth``: what the numbers in the files are.
    ``notes``: what was converted, a line each: what in short, a colon, which and how many.
    ``shards``: where all training images are, if they are in shards; ``train`` then has some of them.
    ``units``: what signals and rows are to the user.  ``columns``: what a table's are called.
    ``categories``, ``dates``: what numbers in them stand for, as ``Recipe`` has it.
    ``sha256``: of the numbers in the user's units, if there are others; in hexadecimal.
    """

    train: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n *d"]
    validation: UInt8[Tensor, "v c h w"] | Float32[Tensor, "v *d"]
    test: UInt8[Tensor, "t c h w"] | Float32[Tensor, "t *d"]
    labels: Labels | None = None
    name: str = ""
    depth: Depth = BYTES
    notes: tuple[str, ...] = ()
    shards: tuple[Path, ...] | None = None
    units: Units | None = None
    columns: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def n(self) -> int:
        """How many training images there are; of those in shards, how many are looked at."""
        return len(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: columns; or channels and sides, such as height and width."""
        return tuple(self.train.shape[1:])

    @cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the training images, dequantised if bytes, in [0, 1]."""
        data = self.train
        if data.is_floating_point() and bool((missing := data.isnan()).any()):
            data = data[~missing]
        average = sum(float(reals(part).double().sum()) for part in chunks(data)) / data.numel()
        squares = sum(float((reals(part).double() - average).square().sum()) for part in chunks(data))
        return average, math.sqrt(squares / data.numel())

    @cached_property
    def digest(self) -> str:
        """The sha256 of the three parts' pixels, in hexadecimal."""
        return self.sha256 or digest_of(part.numpy() for part in (self.train, self.validation, self.test))

    @property
    def kind(self) -> Kind:
        """What sort of examples they are."""
        return Kind.of(self.shape)

    def describe(self) -> str:
        """How many examples of which size, what was converted, how many classes, and how they are split; one line."""
        (channels, *sides), kind = self.shape, self.kind
        first = kind.named.get(channels, f"{channels} {kind.axis}")
        size = f", {' × '.join(map(str, sides))}" if sides else ""
        converted = [line.partition(":")[0] for line in self.notes]
        names = () if self.labels is None else self.labels.names
        # Folders of parts that are taken for classes are seen by their names.
        listed = f" ({one_line(', '.join(names))})" if 0 < len(names) <= 5 else ""
        parts = [len(part) for part in (self.train, self.validation, self.test)]
        facts = [f"{sum(parts):,} {kind.noun}{size}", first, *converted, f"{len(names) or 'no'} classes{listed}"]
        return f"{', '.join(facts)}; {' / '.join(f'{part:,}' for part in parts)} for training, validation, test"

    def say(self) -> None:
        """Print what it is, and what was done to its files."""
        for line in (self.describe(), *self.notes):
            log.info(line)


def digest_of(parts: Iterable[np.ndarray]) -> str:
    """The sha256 of the numbers in arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def chunks(data: Tensor) -> Iterator[Tensor]:
    """The rows of ``data``, 16 MB at a time."""
    size = data[0].numel() * data.element_size()
    yield from torch.split(data, max(1, 2**24 // size))


def batches(
    data: Tensor, size: int, labels: Int64[Tensor, "n"] | None = None, *, flip: bool = False, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless random batches of a data set.

    They are drawn with replacement, so the generator's state is all it takes to resume.

    ``data``: the examples, (n, *d); bytes are dequantised.  They may be on the CPU where the generator is on a GPU.
    ``size``: of a batch.
    ``labels``: the class of each example, (n,), if it has one.
    ``flip``: each example is mirrored, left to right, with probability ½.
    ``generator``: draws the examples; the batches are on its device.

    >>> g = torch.Generator().manual_seed(0)
    >>> next(ncsn.batches(torch.zeros(1000, 2), 64, generator=g)).x.shape
    torch.Size([64, 2])
    """
    while True:
        index = torch.randint(len(data), (size,), generator=generator, device=generator.device)
        chosen = data[index.to(data.device)].to(index.device)
        known = None if labels is None else labels[index.to(labels.device)].to(index.device)
        yield Batch(varied(chosen, flip, generator), known)


def varied(chosen: Shaped[Tensor, "b *d"], flip: bool, generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """Examples, dequantised if they are bytes; and if ``flip``, mirrored with probability ½."""
    if flip:
        mirrored = torch.rand(len(chosen), generator=generator, device=chosen.device) < 0.5
        chosen = torch.where(mirrored.view(-1, *[1] * (chosen.ndim - 1)), chosen.flip(-1), chosen)
    return dequantize(chosen, generator=generator) if chosen.dtype == torch.uint8 else chosen


def stream(
    images: Dataset, reading: Reading, size: int, generator: torch.Generator, *, labels: bool, flip: bool
) -> Iterator[Batch]:
    """Endless batches of ``size`` images out of shards; other ones for every seed that the generator has had last.

    As WebDataset advises, each process draws shards at random, again and again, and shuffles what they hold a thousand
    images at a time.
    ``labels``: with the images' classes, −1 for one that is not known.  ``flip``: each image is mirrored, left to
    right, with probability ½.
    Raises ValueError if a shard is damaged, or more images than the reading allows.
    """
    shapes = [(*images.shape[1:], channels) for channels in (1, images.shape[0])]  # grey is a colour, too
    numbers = {name: number for number, name in enumerate(images.labels.names)} if images.labels else {}
    rng = random.Random(generator.initial_seed())
    items = (item for _ in count() for item in images_in_shard(rng.choice(images.shards or ())))
    examples: list[tuple[Tensor, Tensor]] = []
    broken = set[str]()  # by their names: shards come again
    while some := list(islice(items, 1000)):
        rng.shuffle(some)
        for item, one in decoded(some, reading):
            if isinstance(one, Picture) and one.dtype == "uint8" and one.pixels.shape[1:] in shapes:
                x = torch.from_numpy(in_units(one, images.depth)[0].copy()).expand(images.shape)
                examples.append((x, torch.tensor(numbers.get(str(item.label), -1))))
            else:
                broken.add(item.name)
                if len(broken) > reading.max_broken:
                    why = "other than those that were looked at" if isinstance(one, Picture) else one_line(one)
                    raise ValueError(f"{item.name} cannot be read ({why}); --max-broken is {reading.max_broken}")
            if len(examples) == size:
                x, y = (torch.stack(column).to(generator.device) for column in zip(*examples, strict=True))
                yield Batch(varied(x, flip, generator), y if labels else None)
                examples.clear()


def images_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n h w c"]:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) with their channels last: the smaller of axes 1 and 3 is c.

    Raises ValueError if they are none.
    """
    if array.ndim not in (3, 4) or not array.size or array.dtype.kind not in "buif":
        allowed = "numbers (n, h, w), (n, h, w, c) or (n, c, h, w)"
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}; {allowed} are needed")
    array = array[..., None] if array.ndim == 3 else array
    return array.transpose(0, 2, 3, 1) if array.shape[1] < array.shape[3] else array


def signals_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n c *d"]:
    """Signals (n, c, l) or (n, l), or volumes (n, c, d, h, w), with their channels.  Raises ValueError for others."""
    if array.ndim not in (2, 3, 5) or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has shape {array.shape} of {array.dtype}; signals are numbers (n, channels, length)")
    if wrong := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} holds NaN or infinity, {wrong:,} times; fill them in, or leave those signals out")
    return array[:, None] if array.ndim == 2 else array


def classes_in(name: str, array: Shaped[np.ndarray, "..."] | None, n: int) -> np.ndarray | None:
    """The classes of ``n`` images, if there is an array of them.  Raises ValueError if it holds something else."""
    if array is None:
        return None
    if array.dtype.kind not in "buiU" or array.shape not in ((n,), (n, 1)):
        allowed = f"a class for each of {n} images, whole numbers or text, is needed"
        raise ValueError(f"the classes in {name} have shape {array.shape} of {array.dtype}; {allowed}")
    return array.reshape(-1)


def role(key: str) -> tuple[str, Split | None]:
    """What an array is by its key: x for images, y for classes, or another word; and its part."""
    words = re.split("[^a-z0-9]+", key.lower())
    part = next((part for word in words if (part := part_of(word))), None)
    word = "_".join(word for word in words if not part_of(word))
    return "x" if word in IMAGE_KEYS else "y" if word in LABEL_KEYS else word, part


def stacks_in(
    name: str, found: Arrays, examples_in: Callable[..., np.ndarray]
) -> dict[Split | None, tuple[str, np.ndarray, np.ndarray | None]]:
    """The stacks of examples among arrays, each with its name and its classes: the only array, or by their keys.

    Keys of examples are like images or x, or x_train and test_images; keys of classes like labels or y, or y_train.
    ``examples_in``: what makes examples of an array with a name.
    Raises ValueError if there are others, if classes are missing, if dtypes differ, or if there is nothing to train on.
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
        raise ValueError(f"{name} holds {listed or 'nothing'}; allowed are {allowed}")
    return {
        part: (f"{name}/{keys['x', part]}", stack, classes_in(name, labels.get(part), len(stack)))
        for part, stack in stacks.items()
    }


def from_arrays(name: str, found: Arrays, reading: Reading) -> Dataset:
    """The data set in arrays: one array (n, d) is a table; others are signals if the reading says so, else images.

    Raises ValueError as those three do, and for one long series.
    """
    only = next(iter(found.values())) if len(found) == 1 else None
    if only is not None and (only.ndim == 1 or (only.shape[:1] == (1,) and (reading.signals or only.ndim == 2))):
        cut = "numpy.lib.stride_tricks.sliding_window_view(series, 128)[::128]"
        raise ValueError(f"{name} has shape {only.shape}, one long series; cut windows of it, as by {cut}")
    if reading.signals:
        return signals_of(name, found)
    if only is not None and only.ndim == 2:
        rows = rows_of(name, only)
        return replace(
            rows, notes=("axes (rows, columns): (n, length) with --signals, in Python signals=True", *rows.notes)
        )
    stacks = stacks_in(name, found, images_in)
    indices = split_of({part or "train": len(stack) for part, (_, stack, _) in stacks.items()})
    parts = {part: items_of(*stacks.get(source) or stacks[None], index) for part, (source, index) in indices.items()}
    grey = any(array.ndim == 3 for array in found.values())
    notes = ["axes (n, height, width): (n, channels, length) with --signals, in Python signals=True"] if grey else []
    return images_of(name, parts, notes, reading)


def items_of(name: str, stack: np.ndarray, labels: np.ndarray | None, index: np.ndarray) -> list[Item]:
    """The images of a stack at an index, many together; those with numbers that are not finite alone, to be named."""
    whole = np.ones(len(index), bool)
    if stack.dtype.kind == "f":
        whole = np.concatenate([np.isfinite(stack[part]).all((1, 2, 3)) for part in in_parts(index)] or [whole])
    some = [*in_parts(index[whole]), *index[~whole][:, None]]
    known: Sequence[np.ndarray | str] = [""] * len(some) if labels is None else [labels[part] for part in some]
    return [
        Item(f"{name}[{part[0]}]", partial(stack.__getitem__, part), label=label, images=len(part))
        for part, label in zip(some, known, strict=True)
    ]


def in_parts(index: np.ndarray) -> list[np.ndarray]:
    """An index, so many at a time as are decoded together."""
    return [index[first : first + AT_ONCE] for first in range(0, len(index), AT_ONCE)]


def from_catalogue(name: str, catalogue: Catalogue, reading: Reading) -> Dataset:
    """The images of files.  Raises ValueError as ``images_of``."""
    items, notes = catalogue
    members = {part: [item for item in items if (item.part or "train") == part] for part in PARTS}
    indices = split_of({part: len(members[part]) for part in PARTS})
    parts = {part: [members[source][k] for k in index.tolist()] for part, (source, index) in indices.items()}
    return images_of(name, parts, notes, reading)


def split_of(counts: Mapping[Split, int]) -> dict[Split, tuple[Split, np.ndarray]]:
    """Each part's source and its index there, always shuffled in one way; a missing part is a tenth of training's.

    Broken images count, so that the others stay in their parts when a file is mended.
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


def images_of(name: str, parts: Mapping[Split, list[Item]], notes: Sequence[str], reading: Reading) -> Dataset:
    """The images of three parts, by this name.

    Raises ValueError if there are none for a part, if more are broken than allowed, if their sizes differ without one
    being asked for, or if some have integers and others floats.
    """
    whole, broken = decoded_parts(parts, reading)
    total = sum(item.images for members in parts.values() for item in members)
    listed = f"{len(broken)} of {total}: {', '.join(sorted(broken))}"
    if len(broken) > reading.max_broken:
        raise ValueError(f"more images are broken than the {reading.max_broken} that --max-broken allows, {listed}")
    sizes = {part: sum(len(one.pixels) for _, one in members) for part, members in whole.items()}
    if empty := [part for part in sizes if not sizes[part]]:
        number = sum(sizes.values())
        raise ValueError("; ".join([f"{name} has {number} images, and none for {' and '.join(empty)}", *notes]))
    found = [one for members in whole.values() for _, one in members]
    pixels, depth, lines = joined(found)
    if broken:
        lines.append(f"broken left out: {listed}")
    validation, test, train = torch.split(torch.from_numpy(pixels), list(sizes.values()))
    labels = labels_of({part: [item.label for item, _ in members] for part, members in whole.items()})
    return Dataset(train, validation, test, labels, short_name(name), depth, (*notes, *lines))


def decoded_parts(
    parts: Mapping[Split, list[Item]], reading: Reading
) -> tuple[dict[Split, list[tuple[Item, Picture]]], list[str]]:
    """The images that can be read, under a progress bar, and the names of the others, each with the reason."""
    items = [item for members in parts.values() for item in members]
    broken: list[str] = []
    whole: dict[Split, list[tuple[Item, Picture]]] = {part: [] for part in parts}
    named = [part for part, members in parts.items() for _ in members]
    for (item, one), part in zip(bar(decoded(items, reading), "images", total=len(items)), named, strict=True):
        if isinstance(one, Picture):
            whole[part].append((item, one))
        else:
            broken.append(f"{item.name} ({one_line(one)})")
    return whole, broken


def joined(found: list[Picture]) -> tuple[np.ndarray, Depth, list[str]]:
    """The pixels of images as one array, what their numbers are in files, and a line for each conversion.

    Raises ValueError if they have several sizes.
    """
    sizes = Counter[tuple[int, ...]]()
    for one in found:
        sizes[one.pixels.shape[1:3]] += len(one.pixels)
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w} ({n})" for (h, w), n in sizes.most_common(5))
        raise ValueError(f"images have {len(sizes)} sizes (height x width), such as {listed}; give --size, such as 64")
    depth, channels, total = depth_of(found), max(one.pixels.shape[3] for one in found), sizes.total()
    pixels = np.empty((total, channels, *found[0].pixels.shape[1:3]), np.uint8 if depth == BYTES else np.float32)
    notes, end = Counter[str](), 0
    for one in found:
        n, end = len(one.pixels), end + len(one.pixels)
        pixels[end - n : end] = in_units(one, depth)
        notes.update(dict.fromkeys(one.notes, n))
        notes["as bytes"] += n * (one.dtype != "uint8" and depth == BYTES)
        notes["as float32"] += n * (one.dtype == "float64")
    if depth == BYTES and (top := int(pixels.max())) < 32:
        notes[f"dark: the largest number is {top} of 255, and samples will be as dark"] = total
    if depth != BYTES and (depth.low, depth.high) != (0, 1):
        notes[f"{depth.dtype}: {depth.low:g} to {depth.high:g} become 0 to 1"] = total
    return pixels, depth, [f"{note}: {count:,} of {total:,} images" for note, count in notes.items() if count]


def signals_of(name: str, found: Arrays) -> Dataset:
    """The signals in arrays, by this name; their parts and classes have the keys that those of images have.

    Signals have no bounds, as columns of tables have: samples of a channel that ends at 0 or 100 may lie beyond.
    Raises ValueError if there are none, if there are too few, or if a channel is constant.
    """
    stacks = stacks_in(name, found, signals_in)
    indices = split_of({part or "train": len(stack) for part, (_, stack, _) in stacks.items()})
    if not all(len(index) for _, index in indices.values()):
        raise ValueError(f"{name} has too few signals; at least 10 are needed, and a thousand to learn much")
    chosen = {part: (stacks.get(source) or stacks[None], index) for part, (source, index) in indices.items()}
    arrays = [stack[index] for (_, stack, _), index in chosen.values()]
    classes = {part: ["" if known is None else known[index]] for part, ((*_, known), index) in chosen.items()}
    learned, axes = arrays[-1], (0, *range(2, arrays[-1].ndim))
    shift = learned.mean(axes, dtype=np.float64, keepdims=True)[0]
    scale = learned.std(axes, dtype=np.float64, keepdims=True)[0]
    # What is left of a constant is the rounding of its numbers.
    constant = ~(scale > (1e-15 if learned.dtype == np.float64 else 1e-7) * abs(shift))
    if constant.any():
        raise ValueError(f"channel {constant.argmax()} of {name} is constant, so it has no density; leave it out")
    validation, test, train = (torch.from_numpy(((x - shift) / scale).astype(np.float32)) for x in arrays)
    units = Units(torch.from_numpy(shift), torch.from_numpy(scale))
    labels = labels_of(classes)
    return Dataset(train, validation, test, labels, short_name(name), units=units, sha256=digest_of(arrays))


def rows_of(name: str, data: Table | Any) -> Dataset:
    """The rows of a table, a DataFrame or an array (n, d), by this name; a tenth each for validation and for testing.

    Raises ValueError as ``table_of``, and for a table from which nothing can be learned.
    """
    generator = torch.Generator().manual_seed(0)
    table, parts = (data if isinstance(data, Table) else table_of(data, name)).split(generator)
    rows = torch.from_numpy(table.rows)
    categories = [i for i, column in enumerate(table.names) if column in table.categories]
    units = Units.of(rows[parts[-1]], categories)
    # Single values lie anywhere in their cells.
    z = torch.cat([units.standardise(part, generator).float() for part in torch.split(rows, 2**16)])
    held_out = rows[torch.cat(parts[:-1])].double()
    beyond = (held_out - held_out.clamp(*units.bounds)).abs() > BEYOND * torch.from_numpy(np.nanstd(table.rows, 0))
    possible = torch.cat([units.possible(part) for part in torch.split(held_out, 2**16)])
    if count := int((~possible | beyond).sum()):
        judged = (
            f"losses take them for {FAR:g} deviations away at most, evaluations for the nearest that samples can be"
        )
        log.warning(f"{count} held-out numbers are unlike all to learn from; {judged}")
        z = z.nan_to_num(nan=-FAR).clamp(-FAR, FAR)
    z = z.masked_fill(rows.isnan(), torch.nan)
    validation, test, train = (z[part] for part in parts)
    digest = digest_of([np.array(table.names).view(np.uint8), table.rows])
    return Dataset(
        train,
        validation,
        test,
        name=short_name(name),
        notes=units.describe(table.names),
        units=units,
        columns=table.names,
        categories=table.categories,
        dates=table.dates,
        sha256=digest,
    )


def labels_of(parts: Mapping[Split, Sequence[np.ndarray | str]]) -> Labels | None:
    """The classes of images, one or many at a time, if there are two and every image is in one."""
    if any(isinstance(label, str) and not label for labels in parts.values() for label in labels):
        return None
    arrays = {part: np.concatenate([np.atleast_1d(label) for label in labels]) for part, labels in parts.items()}
    names = np.unique(np.concatenate([*arrays.values()]))
    if len(names) < 2:
        return None
    tensors = {part: torch.from_numpy(np.searchsorted(names, array)) for part, array in arrays.items()}
    return Labels(**tensors, names=tuple(map(str, names.tolist())))


def mnist() -> Dataset:
    """MNIST: 50,000 training images, 10,000 for validation, 10,000 for testing, 1 × 28 × 28 bytes."""

    def content(name: str, header: int) -> UInt8[Tensor, "n"]:
        packed = (resources.files("ncsn") / "assets" / "mnist" / f"{name}-ubyte.gz").read_bytes()
        return torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8, offset=header)

    full, test = (content(f"{part}-images-idx3", 16).view(-1, 1, 28, 28) for part in ("train", "t10k"))
    classes, held = (content(f"{part}-labels-idx1", 8).long() for part in ("train", "t10k"))
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=tuple("0123456789"))
    return Dataset(full[:-10_000], full[-10_000:], test, labels, "mnist")


def load_dataset(name: str, *, reading: Reading = sources.AS_THEY_ARE) -> Dataset:
    """The data set of a folder of images, a .zip or .tar of one, an array, a table, or MNIST.

    ``name``: mnist, or a path.  An .npy or .npz holds images, a table (n, d) or signals; a .csv, .tsv or .parquet is a
    table.  A folder that holds .tar files and no images has shards in WebDataset's format.
    ``reading``: how files become pixels, or that an array holds signals.
    Raises ValueError if there is no such data set, or if it cannot be read as asked; OSError for a folder that may not
    be read.

    >>> images = ncsn.load_dataset("mnist")
    >>> images.train.shape, images.labels.names[7]
    (torch.Size([50000, 1, 28, 28]), '7')
    """
    suffix = Path(name).suffix.lower()
    if reading.signals and suffix not in (".npy", ".npz"):
        raise ValueError(f"signals is given; they are read from .npy or .npz, and not from {name}")
    if name == "mnist":
        if reading.pixels() not in (None, (28, 28)):
            raise ValueError(f"size is {reading.size}; mnist has 28x28, and only images of your own are resized")
        return mnist()
    sources.check_place(name)
    place = Path(name)
    if name and place.is_dir():
        files = sources.walk(place)
        catalogue = sources.from_files(name, files)
        shards = [place / path for path in sorted(files) if path.suffix == ".tar"]
        if shards and not catalogue[0]:
            catalogue, training = sources.from_shards(name, shards)
            return replace(from_catalogue(name, catalogue, reading), shards=training)
    elif suffix in (*TABLES, *SHEETS):
        return rows_of(name, read_table(name))
    elif place.is_file() and suffix in (".npy", ".npz"):
        return from_arrays(name, arrays(place), reading)
    elif place.is_file() and suffix == ".zip":
        catalogue = sources.from_files(name, sources.zipped(place))
    elif place.is_file() and (".tar" in place.suffixes[-2:] or suffix == ".tgz"):
        catalogue = sources.from_files(name, sources.tarred(place))
    else:
        allowed = "mnist, a folder, or a .zip, .tar, .npy, .npz, .csv, .tsv or .parquet"
        raise ValueError(f"{name} is not a data set; give {allowed}")
    return from_catalogue(name, catalogue, reading)


load_images = load_dataset  # its name before tables and signals


def read_example(
    name: str, shape: tuple[int, ...], images: Dataset | None, reading: Reading, depth: Depth, *, fit: bool = True
) -> Float[Tensor, "c h w"]:
    """One image with pixels in [0, 1]: a test image by its index, or an image file.

    ``name``: the index, or the path of the file.
    ``shape``: its channels, height and width.  A file is fitted to them, and made grey for one channel; a line says so.
    ``images``: the data set whose test images are meant; None for a file.
    ``reading``: how a file becomes pixels.
    ``depth``: what the numbers in files like it are.
    ``fit``: whether a file may get another size; a measurement may not.
    Raises ValueError if there is no such image, if it cannot be read, or if it cannot have ``shape``.
    """
    if images is not None:
        if int(name) >= len(images.test):
            raise ValueError(f"input is {name}; the data set's test images are 0 to {len(images.test) - 1}")
        pixels = images.test[int(name)]
    else:
        try:
            one = picture(partial(sources.file_bytes, Path(name)), replace(reading, size=None))
        except Exception as error:  # codecs raise whatever they like
            raise ValueError(f"{name} is neither an index nor an image that can be read ({one_line(error)})") from error
        if shape[0] == 1 and one.pixels.shape[3] == 3:
            one = one._replace(pixels=np.asarray(Image.fromarray(one.pixels[0]).convert("L"))[None, ..., None])
            one.notes.append("made grey")
        one = fitted(one, replace(reading, size=f"{shape[1]}x{shape[2]}")) if fit else one
        if one.notes:
            log.warning(f"{name}: {', '.join(one.notes)}")
        pixels = torch.from_numpy(in_units(one, depth_of([one]) if depth == BYTES else depth)[0].copy())
        if shape[0] == 3 and len(pixels) == 1:
            pixels = pixels.expand(3, -1, -1)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return reals(pixels)


def absolute(name: str) -> str:
    """The name of a data set that is the same in every folder."""
    return name if name == "mnist" else str(Path(name).absolute())


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A data set that can be found again.

    ``dataset``: mnist, or the absolute path.
    ``reading``: how files became pixels.
    ``digest``: the sha256 of the pixels, all three parts.
    ``split``: how many images for training, validation and testing.
    """

    dataset: str
    reading: Reading
    digest: str
    split: tuple[int, int, int]

    @classmethod
    def of(cls, dataset: str, reading: Reading, images: Dataset) -> "Origin":
        """Where images came from.

        ``dataset``: what ``load_dataset`` was given.
        ``reading``: likewise.
        ``images``: what it returned.
        """
        split = (images.n, len(images.validation), len(images.test))
        return cls(dataset=absolute(dataset), reading=reading, digest=images.digest, split=split)

    def moved(self, dataset: str) -> "Origin":
        """The same images in another place.

        ``dataset``: that place.
        """
        return replace(self, dataset=absolute(dataset))

    def load(self, dataset: str | None = None) -> Dataset:
        """The same images again; ``dataset``: another place where they are now.

        Raises ValueError if they cannot be read, or are not the same.
        """
        place = self.dataset if dataset is None else absolute(dataset)
        if place != "mnist" and not Path(place).exists():
            raise ValueError(f"the data is no longer at {place}; say where (--data PLACE, or ncsn train PLACE)")
        images = load_dataset(place, reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(f"{place} does not hold the data that the run learned from")
        return images
