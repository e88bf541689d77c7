"""Data sets of images, signals and rows as tensors: what a user names becomes one, and a run finds its own again.

A data set has three parts, classes, and says what was done to its files.

Batches are index operations, never a loop over images.
"""

import gzip
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import resources
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ncsn.data import sources
from ncsn.data.pixels import Picture, depth_of, fitted, in_units, picture, pictures
from ncsn.data.sources import PARTS, Catalogue, Item, Reading, Split, images_in_shard, part_of, short_name
from ncsn.data.tables import Table, arrays, is_table, read_table
from ncsn.data.units import BYTES, FAR, Depth, Units, dequantize, reals
from ncsn.machine import hardware
from ncsn.objectives import Batch
from ncsn.validation import one_line

IMAGE_KEYS = {"", "x", "image", "images", "img", "imgs", "signals", "data", "samples", "arr_0"}
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
LABEL_KEYS = {"y", "label", "labels", "target", "targets"}


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
    """A data set in three parts: images, as bytes, or as reals in [0, 1] where the files have more than 8 bits.

    Or signals (n, c, l), volumes (n, c, d, h, w), and rows of a table (n, d): real numbers in units of their own.

    ``train``: the training images, (n, c, h, w).
    ``validation``: the images that show how a training goes.
    ``test``: the images that samples are compared with.
    ``labels``: the classes of all of them, if they have classes.
    ``name``: mnist, or the last part of the path without suffix.
    ``depth``: what the numbers in the files are.
    ``said``: what was converted, a line each: what in short, a colon, which and how many.
    ``shards``: where all training images are, if they are in shards; ``train`` then has some of them.
    ``units``: what signals and rows are to the user.  ``columns``: what a table's are called.
    ``sha256``: of the numbers in the user's units, if there are others; in hexadecimal.
    """

    train: UInt8[Tensor, "n c h w"] | Float32[Tensor, "n *d"]
    validation: UInt8[Tensor, "v c h w"] | Float32[Tensor, "v *d"]
    test: UInt8[Tensor, "t c h w"] | Float32[Tensor, "t *d"]
    labels: Labels | None = None
    name: str = ""
    depth: Depth = BYTES
    said: tuple[str, ...] = ()
    shards: tuple[Path, ...] | None = None
    units: Units | None = None
    columns: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def n(self) -> int:
        """How many training images there are; of those in shards, how many are looked at."""
        return len(self.train)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of one image."""
        return tuple(self.train.shape[1:])

    @cached_property
    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the training images, dequantised if bytes, in [0, 1]."""
        total = sum(float(reals(part).double().sum()) for part in chunks(self.train))
        average = total / self.train.numel()
        squares = sum(float((reals(part).double() - average).square().sum()) for part in chunks(self.train))
        return average, math.sqrt(squares / self.train.numel())

    @cached_property
    def digest(self) -> str:
        """The sha256 of the three parts' pixels, in hexadecimal."""
        return self.sha256 or digest_of(part.numpy() for part in (self.train, self.validation, self.test))

    @property
    def noun(self) -> str:
        """What the examples are called."""
        return "rows" if self.columns else "images" if self.units is None else "signals"

    def describe(self) -> str:
        """How many images of which size, what was converted, how many classes, and how they are split; one line."""
        channels, *sides = self.shape
        colours = {1: "grey", 3: "RGB"} if self.units is None else {1: "1 channel"}
        kind = f"{channels} columns" if self.columns else colours.get(channels, f"{channels} channels")
        size = f", {' × '.join(map(str, sides))}" if sides else ""
        converted = [line.partition(":")[0] for line in self.said]
        names = () if self.labels is None else self.labels.names
        # Folders of parts that are taken for classes are seen by their names.
        listed = f" ({one_line(', '.join(names))})" if 0 < len(names) <= 5 else ""
        parts = [len(part) for part in (self.train, self.validation, self.test)]
        facts = [f"{sum(parts):,} {self.noun}{size}", kind, *converted, f"{len(names) or 'no'} classes{listed}"]
        return f"{', '.join(facts)}; {' / '.join(f'{part:,}' for part in parts)} for training, validation, test"


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
        yield Batch(varied(chosen, flip, generator), None if labels is None else labels[index])


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
    broken = 0
    while some := list(islice(items, 1000)):
        rng.shuffle(some)
        for item, one in pictures(some, reading):
            if isinstance(one, Picture) and one.dtype == "uint8" and one.pixels.shape in shapes:
                x = torch.from_numpy(in_units(one, images.depth).copy()).expand(images.shape)
                examples.append((x, torch.tensor(numbers.get(str(item.label), -1))))
            elif (broken := broken + 1) > reading.max_broken:
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


def classes_in(name: str, array: Shaped[np.ndarray, "..."] | None, n: int) -> list[int | str]:
    """The classes of ``n`` images, "" if there is no array of them.  Raises ValueError if it holds something else."""
    if array is None:
        return [""] * n
    if array.dtype.kind not in "buiU" or array.shape not in ((n,), (n, 1)):
        allowed = f"a class for each of {n} images, whole numbers or text, is needed"
        raise ValueError(f"the classes in {name} have shape {array.shape} of {array.dtype}; {allowed}")
    return list(array.reshape(-1).tolist())


def role(key: str) -> tuple[str, Split | None]:
    """What an array is by its key: x for images, y for classes, or another word; and its part."""
    words = re.split("[^a-z0-9]+", key.lower())
    part = next((part for word in words if (part := part_of(word))), None)
    word = "_".join(word for word in words if not part_of(word))
    return "x" if word in IMAGE_KEYS else "y" if word in LABEL_KEYS else word, part


def from_arrays(name: str, found: Arrays, examples_in: Callable[..., np.ndarray] = images_in) -> Catalogue:
    """The images in the only array, or in those whose keys are like images or x, or x_train and test_images.

    The keys of their classes are like labels or y, or y_train and test_labels.  ``examples_in``: what makes images of
    an array with a name.
    Raises ValueError if there are others, if classes are missing, if dtypes differ, or if there is nothing to train on.
    """
    keys = {role(key) if len(found) > 1 else ("x", None): key for key in found}
    stacks = {
        part: examples_in(f"{name} {key}".strip(), found[key]) for (word, part), key in keys.items() if word == "x"
    }
    labels = {part: found[key] for (word, part), key in keys.items() if word == "y"}
    whole = len(stacks) + len(labels) == len(found) and labels.keys() in (set(), stacks.keys())
    dtypes = {stack.dtype for stack in stacks.values()}
    if not whole or len(dtypes) > 1 or ("train" in stacks) == (None in stacks):
        listed = ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in list(found.items())[:10])
        allowed = "one array, images and labels, or x_train, y_train, x_test, y_test, of one dtype"
        raise ValueError(f"{name} holds {listed or 'nothing'}; allowed are {allowed}")
    items: list[Item] = []
    for part, stack in stacks.items():
        for i, label in enumerate(classes_in(name, labels.get(part), len(stack))):
            items.append(Item(f"{name}/{keys['x', part]}[{i}]", partial(np.asarray, stack[i]), part, label))
    return items, []


def images_of(name: str, catalogue: Catalogue, reading: Reading) -> Dataset:
    """The images of a catalogue, by this name.

    Raises ValueError if there are none for a part, if more are broken than allowed, if their sizes differ without one
    being asked for, or if some have integers and others floats.
    """
    items, said = catalogue
    whole: dict[Item, Picture] = {}
    broken: list[str] = []
    decoded = pictures(items, reading)
    for item, one in tqdm(decoded, "images", len(items), delay=1, mininterval=hardware.refresh_interval()):
        if isinstance(one, Picture):
            whole[item] = one
        else:
            broken.append(f"{item.name} ({one_line(one)})")
    listed = f"{len(broken)} of {len(items)}: {', '.join(broken)}"
    if len(broken) > reading.max_broken:
        raise ValueError(f"more images are broken than the {reading.max_broken} that --max-broken allows, {listed}")
    parts = {part: [item for item in members if item in whole] for part, members in parts_of(items).items()}
    if empty := [part for part in parts if not parts[part]]:
        raise ValueError("; ".join([f"{name} has {len(whole)} images, and none for {' and '.join(empty)}", *said]))
    found = [whole.pop(item) for members in parts.values() for item in members]
    sizes = Counter(one.pixels.shape[:2] for one in found)
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w} ({count})" for (h, w), count in sizes.most_common(5))
        raise ValueError(f"images have {len(sizes)} sizes (height x width), such as {listed}; give --size, such as 64")
    depth, channels = depth_of(found), max(one.pixels.shape[2] for one in found)
    pixels = np.empty((len(found), channels, *found[0].pixels.shape[:2]), np.uint8 if depth == BYTES else np.float32)
    for row, one in zip(pixels, found, strict=True):
        row[:] = in_units(one, depth)
    notes = Counter(note for one in found for note in one.notes)
    notes["as bytes"] = sum(one.dtype != "uint8" for one in found) if depth == BYTES else 0
    notes["as float32"] = sum(one.dtype == "float64" for one in found)
    if depth != BYTES and (depth.low, depth.high) != (0, 1):
        notes[f"{depth.dtype}: {depth.low:g} to {depth.high:g} become 0 to 1"] = len(found)
    lines = [f"{note}: {count:,} of {len(found):,} images" for note, count in notes.items() if count]
    if broken:
        lines.append(f"broken left out: {listed}")
    validation, test, train = torch.split(torch.from_numpy(pixels), [len(members) for members in parts.values()])
    return Dataset(train, validation, test, labels_of(parts), short_name(name), depth, (*said, *lines))


def signals_of(name: str, found: Arrays) -> Dataset:
    """The signals in arrays, by this name; their parts and classes have the keys that those of images have.

    Raises ValueError if there are none, if there are too few, or if a channel is constant.
    """
    parts = parts_of(from_arrays(name, found, signals_in)[0])
    if not all(parts.values()):
        raise ValueError(f"{name} has too few signals; at least 10 are needed, and a thousand to learn much")
    stacks = [np.stack([np.asarray(item.read()) for item in items]) for items in parts.values()]
    learned, axes = stacks[-1], (0, *range(2, stacks[-1].ndim))
    shift = learned.mean(axes, dtype=np.float64, keepdims=True)[0]
    scale = learned.std(axes, dtype=np.float64, keepdims=True)[0]
    # What is left of a constant is the rounding of its numbers.
    constant = ~(scale > (1e-15 if learned.dtype == np.float64 else 1e-7) * abs(shift))
    if constant.any():
        raise ValueError(f"channel {constant.argmax()} of {name} is constant, so it has no density; leave it out")
    validation, test, train = (torch.from_numpy(((x - shift) / scale).astype(np.float32)) for x in stacks)
    units = Units(torch.from_numpy(shift), torch.from_numpy(scale))
    return Dataset(train, validation, test, labels_of(parts), short_name(name), units=units, sha256=digest_of(stacks))


def rows_of(name: str, table: Table) -> Dataset:
    """The rows of a table, by this name; a tenth of them is for validation, and a tenth for testing."""
    table = table.numbers.complete
    tenth, generator = len(table.rows) // 10, torch.Generator().manual_seed(0)
    order = torch.randperm(len(table.rows), generator=generator)
    parts = torch.split(order, [tenth, tenth, len(order) - 2 * tenth])
    table = table.varied(parts[-1].numpy())
    rows = torch.from_numpy(table.rows)
    units = Units.of(rows[parts[-1]])
    # Single values lie anywhere in their cells.
    z = torch.cat([units.standardise(part, generator).float() for part in torch.split(rows, 2**16)])
    if far := int((~(z.abs() <= FAR)).sum()):
        hardware.say(f"{far} held-out numbers are unlike all to learn from, and count as {FAR:g} deviations away")
        z = z.nan_to_num(nan=-FAR).clamp(-FAR, FAR)
    validation, test, train = (z[part] for part in parts)
    digest = digest_of([np.array(table.names).view(np.uint8), table.rows])
    images = Dataset(train, validation, test, name=short_name(name), units=units, columns=table.names)
    return replace(images, said=units.describe(table.names), sha256=digest)


def parts_of(items: Sequence[Item]) -> dict[Split, list[Item]]:
    """The images of the three parts, always shuffled in one way; what is missing is a tenth of those to train on.

    Broken images are in it, so that the others stay in their parts when a file is mended.
    """
    parts: dict[Split, list[Item]] = {}
    for part in PARTS:
        members = [item for item in items if (item.part or "train") == part]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0)).tolist()
        parts[part] = [members[k] for k in order]
    tenth = len(parts["train"]) // 10
    for part in ("validation", "test"):
        if not parts[part]:
            parts[part], parts["train"] = parts["train"][:tenth], parts["train"][tenth:]
    return parts


def labels_of(parts: dict[Split, list[Item]]) -> Labels | None:
    """The classes of images, if there are two and every image is in one."""
    labels = {item.label for items in parts.values() for item in items}
    if len(labels) < 2 or "" in labels:
        return None
    numbers = {label: number for number, label in enumerate(sorted(labels))}
    tensors = {part: torch.tensor([numbers[item.label] for item in items]) for part, items in parts.items()}
    return Labels(**tensors, names=tuple(map(str, numbers)))


def mnist() -> Dataset:
    """MNIST: 50,000 training images, 10,000 for validation, 10,000 for testing, 1 × 28 × 28 bytes."""

    def content(name: str, header: int) -> UInt8[Tensor, "n"]:
        packed = (resources.files("ncsn") / "assets" / "mnist" / f"{name}-ubyte.gz").read_bytes()
        return torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8, offset=header)

    full, test = (content(f"{part}-images-idx3", 16).view(-1, 1, 28, 28) for part in ("train", "t10k"))
    classes, held = (content(f"{part}-labels-idx1", 8).long() for part in ("train", "t10k"))
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=tuple("0123456789"))
    return Dataset(full[:-10_000], full[-10_000:], test, labels, "mnist")


def load_images(name: str, *, reading: Reading = sources.AS_THEY_ARE) -> Dataset:
    """The images of a folder, a .zip or .tar of one, an .npy or .npz, or MNIST.

    ``name``: mnist, or a path; a folder that holds .tar files and no images has shards in WebDataset's format.
    ``reading``: how files become pixels, or that an array holds signals.
    Raises ValueError if there is no such data set, or if it cannot be read as asked; OSError for a folder that may not
    be read.

    >>> images = ncsn.load_images("mnist")
    >>> images.train.shape, images.labels.names[7]
    (torch.Size([50000, 1, 28, 28]), '7')
    """
    if reading.signals:
        return signals_of(name, arrays(Path(name)))
    if is_table(name):
        return rows_of(name, read_table(name))
    if name == "mnist":
        if reading.pixels() not in (None, (28, 28)):
            raise ValueError(f"size is {reading.size}; mnist has 28x28, and only images of your own are resized")
        return mnist()
    place, suffix = Path(name), Path(name).suffix.lower()
    if name and place.is_dir():
        files = sources.walk(place)
        catalogue = sources.from_files(name, files)
        shards = [place / path for path in sorted(files) if path.suffix == ".tar"]
        if shards and not catalogue[0]:
            catalogue, training = sources.from_shards(name, shards)
            return replace(images_of(name, catalogue, reading), shards=training)
    elif place.is_file() and suffix == ".zip":
        catalogue = sources.from_files(name, sources.zipped(place))
    elif place.is_file() and (".tar" in place.suffixes[-2:] or suffix == ".tgz"):
        catalogue = sources.from_files(name, sources.tarred(place))
    elif place.is_file() and suffix in (".npy", ".npz"):
        catalogue = from_arrays(name, arrays(place))
    else:
        raise ValueError(f"{name} is not a data set; give mnist, a folder, or a .zip, .tar, .npy or .npz")
    return images_of(name, catalogue, reading)


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
        if shape[0] == 1 and one.pixels.shape[2] == 3:
            one = one._replace(pixels=np.asarray(Image.fromarray(one.pixels).convert("L"))[..., None])
            one.notes.append("made grey")
        one = fitted(one, replace(reading, size=f"{shape[1]}x{shape[2]}")) if fit else one
        if one.notes:
            hardware.say(f"{name}: {', '.join(one.notes)}")
        pixels = torch.from_numpy(in_units(one, depth_of([one]) if depth == BYTES else depth).copy())
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

        ``dataset``: what ``load_images`` was given.
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
            raise ValueError(f"the images are no longer at {place}; say where (--data PLACE, or ncsn train PLACE)")
        images = load_images(place, reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(f"{place} does not hold the images that the run learned from")
        return images
