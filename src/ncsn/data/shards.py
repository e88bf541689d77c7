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
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ncsn import machine
from ncsn.data.files import IMAGE_SUFFIX, Item, Split, fault, fitted, from_files, in_parallel, part_of, picture, walk
from ncsn.data.images import Images, images_of, in_units, varied
from ncsn.data.reading import Reading, is_pattern
from ncsn.files import one_line
from ncsn.objectives import Batch

LOOKED_AT = 10_000  # images of each part, as many as are judged
ShardImage = tuple[str, bytes, str]
"""What an image is called, its file, and its class, "" if there is none."""


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
    tars = []
    for inside, _ in walk(Path(name)) if Path(name).is_dir() else ():
        if IMAGE_SUFFIX.fullmatch(inside.suffix):
            return []
        if inside.suffix == ".tar":
            tars.append(Path(name, inside))
    return sorted(tars)


def images_in_shards(paths: Iterable[Path]) -> Iterator[ShardImage]:
    """The images in shards, one after the other.  Raises ValueError if a shard cannot be read."""
    parts = webdataset().tariterators
    for path in paths:
        try:
            with path.open("rb") as file:
                for sample in parts.group_by_keys(parts.tar_file_expander([{"url": str(path), "stream": file}])):
                    if kind := next((kind for kind in sample if IMAGE_SUFFIX.fullmatch(f".{kind}")), None):
                        yield f"{path} {sample['__key__']}", sample[kind], sample.get("cls", b"").decode().strip()
        except Exception as error:  # of many kinds, by what is broken; the library adds arguments of its own
            raise ValueError(f"{path} cannot be read as a shard ({one_line((error.args or [error])[0])})") from error


def load_shards(name: str, paths: Sequence[Path], reading: Reading) -> Images:
    """The images in shards that are looked at, and where all others for training are.

    A shard is of a part if a word of its name, or its folder, is train, val or test; the last two are held out if none
    is.
    Raises ValueError if there are too few, or if images cannot be read as asked or have more than 8 bits.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{name} stands for {len(paths):,} shards; {len(missing):,} are missing, such as {missing[0]}")
    parts: dict[Split, list[Path]] = {"train": [], "validation": [], "test": []}
    for path in paths:
        words = [*re.findall("[a-z]+", path.name.lower()), path.parent.name]
        parts[next((part for word in words if (part := part_of(word))), "train")].append(path)
    if len(parts["train"]) == len(paths) > 2:
        parts = {"train": list(paths[:-2]), "validation": list(paths[-2:-1]), "test": list(paths[-1:])}
    if not all(parts.values()):
        raise ValueError(
            f"{name} stands for {len(paths)} shards; one for training, validation and testing each is needed"
        )
    found: dict[PurePosixPath, Item | None] = {}
    for part, members in parts.items():
        most = -(-LOOKED_AT // len(members))
        for title, content, label in (sample for path in members for sample in islice(images_in_shards([path]), most)):
            place = PurePosixPath(part, label, f"{len(found):07}.png")
            found[place] = Item(title, partial(bytes, content), len(found))
    images = images_of(from_files(name, found), reading)
    if images.train.dtype != torch.uint8:
        raise ValueError(f"{name} holds images of more than 8 bits; images in shards may have 8")
    training = tuple(path.absolute() for path in parts["train"])
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
    paths, broken = images.shards, list[str]()
    numbers = {word: number for number, word in enumerate(images.labels.names)} if images.labels else {}
    rng = random.Random(generator.initial_seed())

    def decoded(sample: ShardImage) -> tuple[Tensor, int] | str:
        try:
            one = fitted(picture(sample[1], reading, None), images.shape[1:], reading)
            if one.dtype != "uint8" or (images.shape[0] == 1 and not one.grey):
                raise ValueError("it has colours or more than 8 bits, and those that were looked at have not")
            pixels = in_units(one, images.depth, images.shape[0], reading)
            return torch.from_numpy(np.broadcast_to(pixels, images.shape).copy()), numbers.get(sample[2], -1)
        except Exception as error:  # codecs raise whatever they like
            return f"{sample[0]} ({fault(error)})"

    drawn = webdataset().filters.shuffle(1000, rng=rng)(images_in_shards(rng.choice(paths) for _ in count()))
    ahead = in_parallel(decoded, drawn, 8 * size)  # while training goes on
    while True:
        batch: list[tuple[Tensor, int]] = []
        while len(batch) < size:
            if isinstance(one := next(ahead), tuple):
                batch.append(one)
                continue
            broken.append(one)
            if len(broken) > reading.max_broken:
                raise ValueError(
                    f"--max-broken allows {reading.max_broken} images of each process: {', '.join(broken)}"
                )
        chosen = machine.onto(generator.device, torch.stack([pixels for pixels, _ in batch]))
        known = machine.onto(generator.device, torch.tensor([label for _, label in batch])) if labels else None
        yield Batch(varied(chosen, flip, generator), known)
