"""Every image is decoded into its row of one array, which may be memory or a file; then what is deep is scaled.

The rows are in the order of the parts, so that a part is a slice.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Shaped

from ncsn.data.fitting import fitted, with_channels
from ncsn.data.options import Reading
from ncsn.data.planning import Faults, Layout, Plan, in_order
from ncsn.data.reading import Header, Note, Picture, picture, reason
from ncsn.data.sources import Source
from ncsn.pixels import BYTES, Depth

WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 2**24  # bytes that are scaled together
EXACT = 2**24  # up to which float32 has every integer


@dataclass(frozen=True)
class Placed:
    """What is known of an image in its row: what was done to it; whether it is grey; its range if it is deep."""

    notes: tuple[Note, ...]
    grey: bool
    low: float
    high: float


@dataclass
class Tally:
    """What is known of all images that were placed so far."""

    notes: Counter[Note] = field(default_factory=Counter)
    grey: bool = True
    low: float = np.inf
    high: float = -np.inf

    def add(self, one: Placed) -> None:
        """Count one more."""
        self.notes.update(one.notes)
        self.grey &= one.grey
        self.low, self.high = min(self.low, one.low), max(self.high, one.high)


@dataclass(frozen=True)
class Filled:
    """The array, which item is in which row, what the files' numbers are, and what was converted, a line each."""

    pixels: Shaped[np.ndarray, "n c h w"]
    layout: Layout
    depth: Depth
    said: tuple[str, ...]


def fill(
    source: Source,
    headers: Mapping[int, Header],
    plan: Plan,
    layout: Layout,
    reading: Reading,
    faults: Faults,
    out: Shaped[np.ndarray, "n c h w"],
) -> Filled:
    """Decode all images into ``out``.  Raises ValueError if more are broken than allowed."""
    tally = decode(source, headers, layout, reading, faults, out)
    faults.check(source.items)
    layout = closed_up(layout, faults, out)
    out = out[: len(layout.rows)]
    present = [headers[int(i)] for i in layout.rows]
    shallow = np.array([header.dtype == "uint8" for header in present])
    depth = BYTES
    if not shallow.all():
        depth = depth_of({header.dtype for header in present} - {"uint8"}, tally.low, tally.high)
    if out.dtype != np.uint8:  # as planned, though the images that it was for may be broken
        scale(out, depth, shallow, reading)
    channels = [header.channels for header in present]
    collapsed = plan.may_be_grey and tally.grey and out.shape[1] == 3
    said = (
        *(f"{note.short}: {count:,} of {len(out):,} images {note.long}" for note, count in tally.notes.items()),
        *said_of_channels(channels, plan, collapsed),
        *said_of_depth(depth, tally, shallow),
        *faults.said(source.items),
    )
    return Filled(out[:, :1] if collapsed else out, layout, depth, source.said + plan.said + said)


def decode(
    source: Source,
    headers: Mapping[int, Header],
    layout: Layout,
    reading: Reading,
    faults: Faults,
    out: Shaped[np.ndarray, "n c h w"],
) -> Tally:
    """Bring every image into its row of ``out``, several at a time; those that are broken join ``faults``."""
    tally = Tally()
    pending: deque[tuple[int, Future[Placed]]] = deque()
    row_of = {int(item): row for row, item in enumerate(layout.rows)}

    def collect() -> None:
        i, future = pending.popleft()
        try:
            tally.add(future.result())
        except Exception as error:  # codecs raise whatever they like
            faults.found[i] = reason(error)

    with ThreadPoolExecutor(WORKERS) as pool:
        # Files are read one after another, as archives want it; what takes longer is to decode them.
        for i, content in contents(source, headers, faults):
            pending.append((i, pool.submit(placed, content, out[row_of[i]], headers[i], reading)))
            if len(pending) > 2 * WORKERS:
                collect()
        while pending:
            collect()
    return tally


def contents(
    source: Source, headers: Mapping[int, Header], faults: Faults
) -> Iterator[tuple[int, bytes | Shaped[np.ndarray, "h w c"]]]:
    """What is in the items that have a header, and their numbers."""
    for i in in_order(source.items, "reading images"):
        if i not in headers:
            continue
        try:
            found = source.items[i].read()
        except Exception as error:  # archives raise whatever they like
            faults.found[i] = reason(error)
        else:
            yield i, found


def placed(
    content: bytes | Shaped[np.ndarray, "h w c"],
    row: Shaped[np.ndarray, "k r s"],
    header: Header,
    reading: Reading,
) -> Placed:
    """Decode an image into its row: bytes as they are, or among deep ones as v/255; deep ones as they are, too.

    The background around a deep one is NaN until it is known what white is.
    Raises ValueError if the image is not what its header says, and whatever Pillow does where it is broken.
    """
    found = Picture(content) if isinstance(content, np.ndarray) else picture(content, reading)
    pixels, deep = found.pixels, header.dtype != "uint8"
    if pixels.shape != (header.height, header.width, header.channels):
        raise ValueError(f"its pixels have shape {pixels.shape}, other than its header says")
    low, high = (float(pixels.min()), float(pixels.max())) if deep else (np.inf, -np.inf)
    grey = pixels.shape[2] == 1 or (pixels.shape[2] == 3 and bool((pixels[..., :1] == pixels[..., 1:]).all()))
    background: list[float] = [*reading.colour()] if len(row) == 3 else [reading.colour()[0]] * len(row)
    if row.dtype != np.uint8:
        pixels = pixels.astype(np.float32) if deep else pixels.astype(np.float32) / 255
        background = [np.nan] * len(row)
    pixels = fitted(with_channels(pixels, len(row)), (row.shape[1], row.shape[2]), reading.fit, background)
    row[:] = pixels.transpose(2, 0, 1)
    return Placed(found.notes, grey, low, high)


def closed_up(layout: Layout, faults: Faults, out: Shaped[np.ndarray, "n c h w"]) -> Layout:
    """The layout without the rows of broken images, which later rows have moved into.

    Raises ValueError if a part has become empty.
    """
    whole = np.array([int(i) not in faults.found for i in layout.rows])
    for new, old in enumerate(np.flatnonzero(whole)):
        if new != old:
            out[new] = out[old]
    _, validation, test = (int(whole[part].sum()) for part in layout.slices())
    if not (validation and test and validation + test < whole.sum()):
        raise ValueError(f"{len(faults.found)} images are broken; none is left for training, validation or test")
    return Layout(layout.rows[whole], validation, test)


def depth_of(dtypes: set[str], low: float, high: float) -> Depth:
    """What the numbers of deep images are, from their dtypes and their range.

    Integers end at the smallest power of two above the largest, as 12 bits in files of 16 do; floats in [0, 1] are what
    they are; whatever is negative, or a float above 1, has the data set's range.
    """
    dtype = np.result_type(*dtypes)
    if dtype.kind == "f":
        inside = low >= 0 and high <= 1
        return Depth(dtype.name, 0.0, 1.0) if inside else Depth(dtype.name, low, high if high > low else low + 1)
    if low < 0:
        return Depth(dtype.name, low, high + 1)
    # Pillow has all integers that are not quite 16 bits as int32.
    name = "uint16" if dtypes <= {"uint16", "int32"} and high < 2**16 else dtype.name
    return Depth(name, 0.0, float(2 ** int(high).bit_length()))


def scale(out: Shaped[np.ndarray, "n c h w"], depth: Depth, shallow: Bool[np.ndarray, "n"], reading: Reading) -> None:
    """Bring deep images into [0, 1], in place; and the background around all, which is NaN, to its colour."""
    colour = reading.colour() if out.shape[1] == 3 else reading.colour()[:1]
    background = (np.array(colour, np.float32) / 255)[:, None, None]
    step = max(1, CHUNK // out[0].nbytes)
    for start in range(0, len(out), step):
        chunk, deep = out[start : start + step], ~shallow[start : start + step]
        if (depth.low, depth.high) != (0, 1):
            chunk[deep] = (chunk[deep] - np.float32(depth.low)) / np.float32(depth.high - depth.low)
        if reading.fit == "pad":
            np.copyto(chunk, background, where=np.isnan(chunk))


def said_of_channels(channels: list[int], plan: Plan, collapsed: bool) -> list[str]:
    """What became of colours, a line each."""
    if collapsed:
        return [f"as grey: in all {len(channels):,} images the three channels are equal"]
    grey = channels.count(1)
    if plan.channels == 3 and grey:
        return [f"grey as RGB: {grey:,} of {len(channels):,} images are grey, and have three equal channels now"]
    return []


def said_of_depth(depth: Depth, tally: Tally, shallow: Bool[np.ndarray, "n"]) -> list[str]:
    """What became of numbers, a line each."""
    if shallow.all():
        return []
    lines = []
    dtype, low, high = np.dtype(depth.dtype), depth.low, depth.high
    if low == 0 and dtype.kind != "f":
        lines.append(f"{depth.dtype} / {high:g}: the largest value is {tally.high:g}")
    elif (low, high) != (0, 1):
        lines.append(f"{depth.dtype} from {low:g} to {high:g}: these are 0 and 1 now")
    if depth.dtype == "float64" or (dtype.kind != "f" and max(abs(low), abs(high)) > EXACT):
        lines.append(f"{depth.dtype} as float32: rounded to 24 bits")
    if shallow.any():
        lines.append(f"bytes / 255: {shallow.sum():,} of {len(shallow):,} images have 8 bits, unlike the others")
    return lines
