"""Data larger than a disk, in WebDataset's format: tar archives in which an image lies beside its class.

Rules, statistics and comparisons look at the first images of every shard.  Training streams through shards as
WebDataset advises: each process draws shards at random, again and again, and shuffles what they hold a thousand images
at a time.  So an epoch is one on average, and a training that is resumed goes on with other images than it would have.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import count, islice
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ncsn.data.images import Images, images_of, in_units, varied
from ncsn.data.reading import Reading, is_pattern
from ncsn.data.sources import IMAGE_SUFFIXES, PARTS, Item, Split, attempt, fault, in_parallel, part_of, picture, walk
from ncsn.objectives import Batch
from ncsn.validation import one_line

LOOKED_AT = 10_000  # images of each part, as many as are judged


def webdataset() -> ModuleType:
    """WebDataset.  Raises ValueError if it is not installed."""
    try:
        return import_module("webdataset")
    except ImportError as error:
        raise ValueError("shards are read by webdataset: pip install 'ncsn[shards]'") from error


def shards_at(name: str) -> list[Path]:
    """The shards of a pattern, or of a folder that holds tar archives and no images; none for all else."""
    if is_pattern(name):
        return [Path(path) for path in webdataset().shardlists.expand_urls(name)]
    paths = sorted(walk(Path(name))) if Path(name).is_dir() else []
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in paths):
        return []
    return [Path(name, path) for path in paths if path.suffix == ".tar"]


def images_in_shards(paths: Iterable[Path]) -> Iterator[Item]:
    """The images in shards, one after the other.  Raises ValueError if a shard cannot be read."""
    parts = webdataset().tariterators
    for path in paths:
        try:
            with path.open("rb") as file:
                for sample in parts.group_by_keys(parts.tar_file_expander([{"url": str(path), "stream": file}])):
                    if kind := next((kind for kind in sample if f".{kind}" in IMAGE_SUFFIXES), None):
                        label = sample.get("cls", b"").decode().strip()
                        yield Item(f"{path} {sample['__key__']}", partial(bytes, sample[kind]), label=label)
        except Exception as error:  # of many kinds, by what is broken; the library adds arguments of its own
            raise ValueError(f"{path} cannot be read as a shard ({one_line((error.args or [error])[0])})") from error


def load_shards(name: str, paths: Sequence[Path], reading: Reading) -> Images:
    """The images in shards that are looked at, and where all others for training are.

    A shard is of a part if a word of its name, or its folder, is train, val or test; the last two are held out if none
    is.
    Raises ValueError if there are too few, or if images cannot be read as asked.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{name} stands for {len(paths):,} shards; {len(missing):,} are missing, such as {missing[0]}")
    shards: dict[Split, list[Path]] = {part: [] for part in PARTS}
    for path in paths:
        words = [*re.findall("[a-z]+", path.name.lower()), path.parent.name]
        shards[next((part for word in words if (part := part_of(word))), "train")].append(path)
    if len(shards["train"]) == len(paths) > 2:
        shards = {"train": list(paths[:-2]), "validation": list(paths[-2:-1]), "test": list(paths[-1:])}
    if not all(shards.values()):
        raise ValueError(f"{name} is {len(paths)} shards; one for training, validation and testing each is needed")
    items: list[Item] = []
    for part, members in shards.items():
        for path in members:
            few = islice(images_in_shards([path]), -(-LOOKED_AT // len(members)))
            items += [item._replace(part=part) for item in few]
    images = images_of(name, (items, []), reading)
    training = tuple(path.absolute() for path in shards["train"])
    said = f"in {len(training):,} shards: rules and comparisons look at {images.n:,} images of these, training sees all"
    return replace(images, shards=training, said=(said, *images.said))


def stream(
    images: Images, reading: Reading, size: int, generator: torch.Generator, *, labels: bool, flip: bool
) -> Iterator[Batch]:
    """Endless batches of ``size`` images out of the shards; other ones for every seed that the generator has had last.

    ``labels``: with the images' classes, −1 for one that is not known.  ``flip``: each image is mirrored, left to
    right, with probability ½.
    Raises ValueError if a shard is damaged, or more images than the reading allows.
    """
    assert images.shards is not None, "where images are streamed"
    paths = images.shards
    numbers = {word: number for number, word in enumerate(images.labels.names)} if images.labels else {}
    rng = random.Random(generator.initial_seed())

    def tensors(item: Item) -> tuple[Tensor, Tensor]:
        one = picture(item.read(), reading, images.shape[1:])
        if one.dtype != "uint8" or (images.shape[0] == 1 and not one.grey):
            raise ValueError("it has colours or more than 8 bits, and those that were looked at have not")
        pixels = in_units(one, images.depth, images.shape, reading)
        return torch.from_numpy(pixels.copy()), torch.tensor(numbers.get(str(item.label), -1))

    def decoded() -> Iterator[tuple[Tensor, Tensor]]:
        broken = 0
        items = webdataset().filters.shuffle(1000, rng=rng)(images_in_shards(rng.choice(paths) for _ in count()))
        # As many at a time as will be needed next, while training goes on.
        for item, pair in in_parallel(lambda item: (item, attempt(tensors, item)), items, 8 * size):
            if not isinstance(pair, Exception):
                yield pair
            elif (broken := broken + 1) > reading.max_broken:
                allowed = f"--max-broken allows {reading.max_broken} images of each process"
                raise ValueError(f"{item.name} cannot be read ({fault(pair)}); {allowed}")

    pairs = decoded()
    while batch := list(islice(pairs, size)):
        x, y = (torch.stack(column).to(generator.device) for column in zip(*batch, strict=True))
        yield Batch(varied(x, flip, generator), y if labels else None)
