"""Before anything is decoded: headers are scanned, and what becomes of the images is planned from them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from tqdm.auto import tqdm

from ncsn.data.fitting import common_size, said_of_sizes
from ncsn.data.options import Reading
from ncsn.data.reading import IMAGE_SUFFIXES, Header, head, reason
from ncsn.data.sources import Item, Source, Split
from ncsn.progress import refresh_interval

FEWEST = 10  # images
NAMED_FAULTS = 10  # of the broken files that are left out


@dataclass(frozen=True)
class Plan:
    """What the array will be: its channels, height, width and dtype; and what is said of that.

    ``may_be_grey``: whether three channels that turn out to be equal everywhere may become one.
    """

    channels: int
    height: int
    width: int
    dtype: str
    may_be_grey: bool
    said: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Which item is in which row: first those for validation, then for testing, then for training."""

    rows: Int64[np.ndarray, "n"]
    validation: int
    test: int

    def slices(self) -> tuple[slice, slice, slice]:
        """The rows of training, validation and test."""
        held = self.validation + self.test
        return slice(held, len(self.rows)), slice(0, self.validation), slice(self.validation, held)


@dataclass
class Faults:
    """What could not be read: the item's number, and why."""

    allowed: int
    found: dict[int, str] = field(default_factory=dict)

    def check(self, items: Sequence[Item]) -> None:
        """Raises ValueError, naming them, if there are more than allowed."""
        if len(self.found) <= self.allowed:
            return
        named = ", ".join(f"{items[i].name} ({why})" for i, why in sorted(self.found.items()))
        raise ValueError(
            f"{len(self.found)} of {len(items)} images cannot be read, of which --max-broken allows {self.allowed}: "
            f"{named}"
        )

    def said(self, items: Sequence[Item]) -> list[str]:
        """A line on those that are left out."""
        if not self.found:
            return []
        named = ", ".join(f"{items[i].name} ({why})" for i, why in sorted(self.found.items())[:NAMED_FAULTS])
        return [f"broken left out: {len(self.found)} of {len(items)} images cannot be read: {named}"]


def check_enough(source: Source, headers: Mapping[int, Header], faults: Faults) -> None:
    """Raises ValueError if there are fewer images than it takes, naming those that are broken if these are too many."""
    if len(headers) >= FEWEST:
        return
    faults.check(source.items)
    kinds = ", ".join(sorted(IMAGE_SUFFIXES))
    raise ValueError(f"{source.name} holds {len(headers)} images; at least {FEWEST} ({kinds}) are needed")


def in_order(items: Sequence[Item], what: str) -> Iterator[int]:
    """The numbers of the items in the order in which they lie in their archive, with a progress bar."""
    order = sorted(range(len(items)), key=lambda i: items[i].place)
    yield from tqdm(order, desc=what, unit="image", delay=1, leave=False, mininterval=refresh_interval())


def scan(source: Source, reading: Reading, faults: Faults) -> dict[int, Header]:
    """The headers of all images that have one."""
    headers: dict[int, Header] = {}
    with catch_warnings():
        # Pillow only warns of what is up to twice as large as it allows.
        simplefilter("error", Image.DecompressionBombWarning)
        for i in in_order(source.items, "looking at images"):
            known = source.items[i].header
            try:
                headers[i] = known or scanned(source.items[i], reading)
            except Exception as error:  # codecs raise whatever they like
                faults.found[i] = reason(error)
    return headers


def scanned(item: Item, reading: Reading) -> Header:
    """The header of an image file."""
    content = item.fetch()
    assert not isinstance(content, np.ndarray), "rows of arrays know their headers"
    with content:
        return head(content, reading)


def planned(source: Source, headers: Sequence[Header], reading: Reading) -> Plan:
    """What the array will be.  Raises ValueError if the images cannot become one."""
    height, width = common_size(headers, reading)
    said = said_of_sizes(headers, (height, width), reading.fit)
    channels = max(header.channels for header in headers)
    padded = reading.fit == "pad" and bool(said)
    if padded and reading.coloured():
        if channels not in (1, 3):
            raise ValueError(
                f"background is {reading.background}, but images have {channels} channels; it must be grey"
            )
        channels = 3
    kinds = {np.dtype(header.dtype).kind for header in headers if header.dtype != "uint8"}
    if len(kinds & {"u", "i"}) and "f" in kinds:
        raise ValueError(f"{source.name} has images of integers and of floats, which have no scale in common")
    dtype = "float32" if kinds else "uint8"
    return Plan(channels, height, width, dtype, not (padded and reading.coloured()), tuple(said))


def laid_out(source: Source, valid: Sequence[int]) -> tuple[Layout, list[str]]:
    """Which of the ``valid`` items is in which row, and what is said of parts that were not given.

    Parts are shuffled, always in the same way; what is missing is a tenth of the training images.
    Raises ValueError if a part is empty.
    """
    parts: dict[Split, list[int]] = {"train": [], "validation": [], "test": []}
    for i in valid:
        parts[source.splits[i] or "train"].append(i)
    shuffled = {split: permuted(part) for split, part in parts.items()}
    tenth = len(shuffled["train"]) // 10
    drawn: list[Split] = [split for split in ("validation", "test") if not parts[split]]
    for split in drawn:
        shuffled[split], shuffled["train"] = shuffled["train"][:tenth], shuffled["train"][tenth:]
    for split, part in shuffled.items():
        if not len(part):
            raise ValueError(f"{source.name} has no images for {split}, of {len(valid)} in all")
    said = []
    if drawn and any(split is not None for split in source.splits):
        said = [f"{' and '.join(drawn)} drawn: a tenth of the training images, as none are given"]
    rows = np.concatenate([shuffled["validation"], shuffled["test"], shuffled["train"]])
    return Layout(rows, len(shuffled["validation"]), len(shuffled["test"])), said


def permuted(part: Sequence[int]) -> Int64[np.ndarray, "n"]:
    """The same in another order, always the same one."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0)).numpy()
    return np.array([part[i] for i in order], np.int64)
