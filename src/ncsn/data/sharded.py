"""A data set in shards: which are for training, and what is looked at of them before and after it.

Rules, statistics and comparisons ask the same images every time, a bounded number, evenly from everywhere.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from ncsn.data.filling import WORKERS
from ncsn.data.images import Images
from ncsn.data.options import Reading, is_pattern
from ncsn.data.places import hidden, wanted
from ncsn.data.reading import Stream
from ncsn.data.shards import Shards, found_at, index_of, kept_at, read_span
from ncsn.data.sources import SPLITS, Item, Source, Split
from ncsn.data.store import gathered
from ncsn.files import one_line
from ncsn.progress import refresh_interval

MOST = 10**5  # shards
LOOKED_AT = 10_000  # images of each part, as many as are judged
Parts = dict[Split, list[Path]]


def shards_at(name: str) -> list[Path]:
    """The shards of a pattern, or of a folder that holds nothing but .tar files and parts of them; none for all else.

    Raises ValueError if a shard is missing, or WebDataset's library, which comes with the one that knows patterns.
    """
    if not is_pattern(name):
        return tars_in(Path(name).absolute()) if Path(name).is_dir() else []
    try:
        from braceexpand import braceexpand

        many = math.prod(abs(int(b) - int(a)) + 1 for a, b in re.findall(r"(-?\d+)\.\.(-?\d+)", name))
        names = [*islice(braceexpand(name), MOST + 1)] if many <= MOST else []
    except ImportError as error:
        raise ValueError(f"{name} stands for shards: pip install 'ncsn[shards]' to read them") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be understood ({one_line(error)})") from error
    if not 0 < len(names) <= MOST:
        raise ValueError(f"{name} stands for more than {MOST:,} shards")
    paths = [Path(word).absolute() for word in dict.fromkeys(names)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{name} stands for {len(paths):,} shards; {len(missing):,} are missing, such as {missing[0]}")
    return paths


def tars_in(folder: Path) -> list[Path]:
    """The .tar files in a folder and its parts, which are called train, val or test; none if it holds others' data."""
    try:
        top = [path for path in folder.iterdir() if not hidden(PurePosixPath(path.name))]
        parts = [path for path in top if path.name.lower() in SPLITS and path.is_dir()]
        inside = sorted({*top} - {*parts} | {path for part in parts for path in part.iterdir()})
    except OSError:  # who reads it for images says why
        return []
    tars = [path for path in inside if path.suffix == ".tar"]
    others = (path.is_dir() or wanted(PurePosixPath(path.name)) for path in inside)
    return tars if tars and not any(others) else []


def parted(name: str, paths: Sequence[Path]) -> tuple[Parts, list[str]]:
    """The shards of each part, and what is said of parts that are not named: the last shards of those for training.

    A shard is of a part if a word of its name is train, val or test, or, of shards in several folders, its folder's is.
    Raises ValueError if there are too few.
    """
    parts: Parts = {"train": [], "validation": [], "test": []}
    apart = len({path.parent for path in paths}) > 1
    for path in paths:
        words = [*re.findall("[a-z]+", path.name.lower()), *([path.parent.name.lower()] if apart else [])]
        parts[next((SPLITS[word] for word in words if word in SPLITS), "train")].append(path)
    drawn: list[Split] = [part for part, of_it in parts.items() if not of_it and part != "train"]
    if len(parts["train"]) <= len(drawn):
        raise ValueError(
            f"{name} stands for {len(parts['train'])} shards to train on; at least {len(drawn) + 1} are needed, for "
            "the last are held out where no name has val or test in it"
        )
    said = []
    for part in reversed(drawn):
        parts[part] = [parts["train"].pop()]
        said.append(f"{parts[part][0].name} for {part}: no shard is named so")
    return parts, said


@dataclass
class Census:
    """What is in shards.

    ``counts``: images in each.  ``classes``: training images of each class.  ``unknown``: images without a class.
    ``bare``: samples without an image.
    """

    counts: dict[Path, int] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    unknown: int = 0
    bare: int = 0

    @classmethod
    def of(cls, parts: Parts) -> "Census":
        """Look into all shards.  Raises ValueError if one is damaged."""
        found, training = cls(), {*parts["train"]}
        paths = [path for of_it in parts.values() for path in of_it]
        index_of.cache_clear()  # they may have changed
        # Of the processes on a machine, the first looks, and the others find.
        with FileLock(kept_at(paths[0], "").with_suffix(".lock")), ThreadPoolExecutor(WORKERS) as pool:
            every = pool.map(index_of, paths)
            bar = tqdm(every, "looking into shards", len(paths), delay=1, leave=False, mininterval=refresh_interval())
            for path, index in zip(paths, bar, strict=True):
                found.counts[path] = len(index.spans)
                found.bare += index.bare
                counted = Counter(index.classes.tolist())
                found.unknown += counted.pop("", 0)
                found.classes.update(counted if path in training else dict.fromkeys(counted, 0))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, numbers by size; none if there are not two, or not all images have one."""
        if self.unknown or len(self.classes) < 2:
            return ()
        whole = all(name.isdecimal() for name in self.classes)
        return tuple(sorted(self.classes, key=int if whole else str))

    def said(self) -> list[str]:
        """What is left out, a line each."""
        lines = [f"samples left out: {self.bare:,} have no image"] if self.bare else []
        if self.classes and self.unknown:
            lines.append(f"labels left out: {self.unknown:,} of {sum(self.counts.values()):,} images have none")
        return lines


def looked_at(name: str, parts: Parts, census: Census) -> Source:
    """At most ``LOOKED_AT`` images of each part, evenly from all of its shards."""
    numbers = {known: number for number, known in enumerate(census.names)}
    items: list[Item] = []
    splits: list[Split | None] = []
    classes: list[int] = []
    for part, paths in parts.items():
        counts = np.array([census.counts[path] for path in paths], np.int64)
        total = int(counts.sum())
        few = min(LOOKED_AT, total)
        for i, j in zip(*found_at(counts, np.arange(few) * total // max(1, few)), strict=True):
            path, index = paths[i], index_of(paths[i])
            fetch = partial(fetched, path, *index.spans[j].tolist())
            items.append(Item(f"{path} image {j}", index.stamp, fetch, place=len(items)))
            splits.append(part)
            classes.append(numbers.get(str(index.classes[j]), -1))
    return Source(name, items, splits, np.array(classes, np.int64) if numbers else None, census.names)


def fetched(path: Path, start: int, end: int) -> Stream:
    """An image of a shard, as the file that it was."""
    return BytesIO(read_span(path, start, end))


def load_shards(name: str, paths: Sequence[Path], reading: Reading) -> Images:
    """The images in shards: those that are looked at, and where all others for training are.

    Raises ValueError if a shard is damaged, or if the images that are looked at cannot be read as asked.
    """
    parts, said = parted(name, paths)
    census = Census.of(parts)
    images = gathered(looked_at(str(Path(name).absolute()), parts, census), reading, in_memory=0)
    if images.train.dtype != torch.uint8:
        raise ValueError(f"{name} holds images of more than 8 bits; images in shards may have 8")
    training = parts["train"]
    shards = Shards(
        paths=tuple(training),
        counts=np.array([census.counts[path] for path in training], np.int64),
        names=census.names,
        shape=images.shape,
        reading=reading,
    )
    labels = images.labels
    if labels is not None:
        labels = replace(labels, counted=torch.tensor([census.classes[name] for name in labels.names]))
    about = (
        f"in {len(training):,} shards: of {len(shards):,} training images {len(images.train):,} are looked at for rules"
    )
    lines = (f"{about} and comparisons, the others as training goes on", *said, *census.said(), *images.said)
    return replace(images, labels=labels, shards=shards, said=lines)
