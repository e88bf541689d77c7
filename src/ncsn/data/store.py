"""Images in memory, or, if there are too many for that, in a file that is mapped into it and found again next time.

A store is a folder: pixels.npy, the items in its rows, and what was found on the way.  It is filled under another name,
so that one which a kill or a full disk cut short is never used.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from ncsn.data.filling import Filled, fill
from ncsn.data.images import Images, Labels
from ncsn.data.options import Reading
from ncsn.data.planning import Faults, Layout, check_enough, laid_out, planned, scan
from ncsn.data.sources import Source
from ncsn.files import one_line
from ncsn.pixels import Depth

IN_MEMORY = 10**9  # bytes of pixels; more are stored
VERSION = 1  # of what a store holds


def gathered(source: Source, reading: Reading, *, in_memory: int | None = None) -> Images:
    """The images of a source, in memory or in a store.

    ``in_memory``: bytes of pixels, of which more are stored; ``IN_MEMORY`` by default.
    Raises ValueError if there are fewer than ten, if more are broken than allowed, if their sizes differ without one
    being asked for, or if the disk is too full for a store.
    """
    folder = platformdirs.user_cache_path("ncsn", appauthor=False) / "store" / key(source, reading)
    return images_of(source, read(folder) if folder.is_dir() else made(source, reading, folder, in_memory))


def made(source: Source, reading: Reading, folder: Path, in_memory: int | None) -> Filled:
    """The pixels of a source, decoded; in ``folder`` if they are many."""
    faults = Faults(reading.max_broken)
    headers = scan(source, reading, faults)
    check_enough(source, headers, faults)
    plan = planned(source, list(headers.values()), reading)
    layout, said = laid_out(source, sorted(headers))
    plan = replace(plan, said=(*plan.said, *said))
    shape = (len(layout.rows), plan.channels, plan.height, plan.width)
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(plan.dtype).itemsize
    if size <= (IN_MEMORY if in_memory is None else in_memory):
        return fill(source, headers, plan, layout, reading, faults, np.empty(shape, plan.dtype))
    with writing(folder, size) as partial:
        if partial is not None:
            pixels = np.lib.format.open_memmap(partial / "pixels.npy", "w+", plan.dtype, shape)
            write(partial, fill(source, headers, plan, layout, reading, faults, pixels))
            pixels.flush()
    return read(folder)


def images_of(source: Source, filled: Filled) -> Images:
    """The parts as tensors, which share the memory of the array, and their classes."""
    train, validation, test = (torch.from_numpy(filled.pixels[part]) for part in filled.layout.slices())
    labels = None
    if source.classes is not None:
        classes = torch.from_numpy(source.classes[filled.layout.rows])
        parts = [classes[part] for part in filled.layout.slices()]
        labels = Labels(train=parts[0], validation=parts[1], test=parts[2], names=source.names)
    return Images(train, validation, test, labels, source.short, filled.depth, filled.said)


def key(source: Source, reading: Reading) -> str:
    """A name for what this source becomes when read in this way; another one if a file has changed."""
    found = hashlib.sha256(f"{VERSION} {Path(source.name).absolute()} {json.dumps(asdict(reading))}\n".encode())
    for item, split in zip(source.items, source.splits, strict=True):
        inside = item.name.removeprefix(source.name).lstrip("/")  # which may be relative
        found.update(f"{inside}\n{item.stamp}\n{split}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:32]


@contextmanager
def writing(folder: Path, size: int) -> Iterator[Path | None]:
    """A folder for ``size`` bytes that becomes ``folder`` if the block ends well, and vanishes otherwise.

    None if another process has made it meanwhile.
    Raises ValueError if the disk has too little room, or cannot be written.
    """
    partial = folder.with_suffix(".partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if folder.is_dir():
                yield None
                return
            shutil.rmtree(partial, ignore_errors=True)  # what a kill has left
            free = shutil.disk_usage(folder.parent).free
            if free < size * 1.05:
                raise ValueError(
                    f"the images take {size / 1e9:.1f} GB, but {folder.parent} has only {free / 1e9:.1f} GB left; "
                    "make room, give a smaller --size, or set XDG_CACHE_HOME to another disk"
                )
            tqdm.write(f"the images take {size / 1e9:.1f} GB: they are written to {folder}, once", file=sys.stderr)
            try:
                partial.mkdir()
                yield partial
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror or error})") from error


def write(folder: Path, filled: Filled) -> None:
    """Write what belongs to the pixels of a store."""
    np.save(folder / "rows.npy", filled.layout.rows)
    facts = {
        "channels": filled.pixels.shape[1],
        "validation": filled.layout.validation,
        "test": filled.layout.test,
        "depth": asdict(filled.depth),
        "said": filled.said,
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def read(folder: Path) -> Filled:
    """What a store holds, its pixels mapped.  Raises ValueError if it cannot be read."""
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        rows = np.load(folder / "rows.npy")
        # Copied where it is written to, which nothing does: torch warns of an array that it could not write to.
        pixels = np.load(folder / "pixels.npy", mmap_mode="c")[: len(rows), : facts["channels"]]
        layout = Layout(rows, facts["validation"], facts["test"])
        return Filled(pixels, layout, Depth(**facts["depth"]), tuple(facts["said"]))
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{folder} cannot be read ({one_line(error)}); remove it, and it is made anew") from error
