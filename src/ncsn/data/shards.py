"""Data larger than a disk, in WebDataset's format: tar archives in which an image lies beside its class.

Rules, statistics and comparisons look at the first images of every shard.  Training streams through shards as
WebDataset advises: each process draws shards at random, again and again, and shuffles what they hold a thousand samples
at a time.  So an epoch is one on average, and a training that is resumed goes on with other images than it would have.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncsn import machine
from ncsn.data.files import IMAGE_SUFFIXES, Item, Source, Split, fitted, in_parallel, part_of, picture, reason
from ncsn.data.images import Images, Shards, gathered, in_units, varied
from ncsn.data.reading import Reading
from ncsn.draws import Draws
from ncsn.objectives import Batch

LOOKED_AT = 10_000  # images of each part, as many as are judged
NAMES = ("label", "cls", "class")  # of a class, in a sample's .json


def expanded(pattern: str) -> list[Path]:
    """The shards that a pattern stands for.  Raises ValueError if some are missing, or the library is."""
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise ValueError(f"{pattern} stands for shards: pip install 'ncsn[shards]' to read them") from error
    paths = [Path(url) for url in expand_urls(pattern)]
    if missing := [path for path in paths if not path.is_file()]:
        raise ValueError(f"{pattern} stands for {len(paths):,} shards; {len(missing):,} are missing, such as {missing[0]}")
    return paths


def samples(paths: Iterable[Path]) -> Iterator[tuple[str, bytes, str]]:
    """The images in shards, one after the other: what each is called, its file, and its class, "" if there is none.

    Raises ValueError if a shard cannot be read.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for path in paths:
        try:
            with path.open("rb") as stream:
                for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
                    image = next((sample[kind] for kind in sample if f".{kind}" in IMAGE_SUFFIXES), None)
                    if image is not None:
                        yield f"{path} {sample['__key__']}", image, class_of(sample)
        except Exception as error:  # of many kinds, by what is broken
            raise ValueError(f"{path} cannot be read as a shard ({reason(error)})") from error


def class_of(sample: dict[str, Any]) -> str:
    """What the class of a sample is called, by its .cls, or its .json; "" if they do not say."""
    with suppress(ValueError):  # it is no text
        if "cls" in sample:
            return str(sample["cls"].decode().strip())
        content = json.loads(sample.get("json", "{}"))
        return next((str(content[name]) for name in NAMES if name in content), "")
    return ""


def load(name: str, paths: Sequence[Path], reading: Reading) -> Images:
    """The images in shards that are looked at, and where all others for training are.

    A shard is of a part if a word of its name or its folder is train, val or test; the last are held out if none is.
    Raises ValueError if there are too few, or if images cannot be read as asked or have more than 8 bits.
    """
    parts: dict[Split, list[Path]] = {"train": [], "validation": [], "test": []}
    for path in paths:
        words = [*re.findall("[a-z]+", path.name.lower()), path.parent.name]
        parts[next((part for word in words if (part := part_of(word))), "train")].append(path)
    said = []
    for part in ("test", "validation"):
        if not parts[part] and len(parts["train"]) > 1:
            parts[part] = [parts["train"].pop()]
            said.append(f"{parts[part][0].name} for {part}: no shard is named so")
    if not all(parts.values()):
        raise ValueError(f"{name} stands for {len(paths)} shards; one each for training, validation and testing is needed")
    items, splits, labels = [], [], []
    for part, members in parts.items():
        for path in members:
            for title, content, label in islice(samples([path]), -(-LOOKED_AT // len(members))):
                items.append(Item(title, partial(bytes, content), len(items)))
                splits.append(part)
                labels.append(label)
    names = sorted({*labels}, key=lambda word: (int(word) if word.isdecimal() else 0, word))
    classes = np.array([names.index(label) for label in labels], np.int64) if len(names) > 1 and names[0] else None
    source = Source(str(Path(name).absolute()), items, splits, classes, tuple(names) if classes is not None else ())
    images = gathered(source, reading)
    if images.train.dtype != torch.uint8:
        raise ValueError(f"{name} holds images of more than 8 bits; images in shards may have 8")
    training = tuple(parts["train"])
    said.insert(0, f"in {len(training):,} shards: rules and comparisons look at {images.n:,} images, training sees all")
    return replace(images, shards=Shards(training, reading), said=(*said, *images.said))


def stream(images: Images, draws: Draws, *, labels: bool, flip: bool) -> Iterator[Batch]:
    """What this process has of every batch, out of the shards; from another start at every step that it begins at.

    ``labels``: with the images' classes, −1 for one that was not looked at.  ``flip``: each image is mirrored, left to
    right, with probability ½.
    Raises ValueError if a shard is damaged, or more images than the reading allows.
    """
    from webdataset.filters import _shuffle

    shards, broken = images.shards, list[str]()
    assert shards is not None
    numbers = {word: number for number, word in enumerate(images.labels.names)} if images.labels else {}
    rng = random.Random(f"{draws.seed} {draws.step} {draws.places.start}")

    def decoded(sample: tuple[str, bytes, str]) -> tuple[Tensor, int] | str:
        title, content, label = sample
        try:
            one = fitted(picture(content, shards.reading, None), images.shape[1:], shards.reading)
            pixels = np.empty(images.shape, np.uint8)
            if one.dtype != "uint8" or (len(pixels) == 1 and not one.grey):
                raise ValueError("it is coloured or has more than 8 bits, unlike those that were looked at")
            pixels[:] = in_units(one, images.depth, len(pixels), shards.reading)
            return torch.from_numpy(pixels), numbers.get(label, -1)
        except Exception as error:  # codecs raise whatever they like
            return f"{title} ({reason(error)})"

    drawn = samples(rng.choice(shards.paths) for _ in count())
    whole = in_parallel(decoded, _shuffle(drawn, rng=rng))
    while True:
        batch: list[tuple[Tensor, int]] = []
        while len(batch) < draws.mine:
            one = next(whole)
            if not isinstance(one, str):
                batch.append(one)
                continue
            broken.append(one)
            if len(broken) > shards.reading.max_broken:
                raise ValueError(f"more images cannot be read than --max-broken allows each process: {', '.join(broken)}")
        chosen = machine.onto(draws.device, torch.stack([pixels for pixels, _ in batch]))
        known = machine.onto(draws.device, torch.tensor([label for _, label in batch])) if labels else None
        yield Batch(varied(chosen, flip, draws), known)
