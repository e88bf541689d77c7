"""Data sets that Hugging Face's library ``datasets`` has saved by ``save_to_disk``."""

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from ncsn.data.arrays import numbered
from ncsn.data.reading import Stream, reason
from ncsn.data.sources import SPLITS, Item, Source, Split

if TYPE_CHECKING:
    from datasets import Dataset


def is_hub(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def parts_of(folder: Path) -> "dict[Split | None, Dataset]":
    """The parts of a saved data set.  Raises ValueError if the library is missing, or if it cannot read them."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{folder} is a data set of Hugging Face's: pip install 'ncsn[datasets]' to read it"
        ) from error
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of many kinds, by what is missing or broken
        raise ValueError(f"{folder} cannot be read as a data set of Hugging Face's ({reason(error)})") from error
    if isinstance(found, datasets.Dataset):
        return {None: found}
    for name in found:
        if name.lower() not in SPLITS:
            raise ValueError(f"{folder} has a part {name!r}; allowed are {', '.join(SPLITS)}")
    return {SPLITS[name.lower()]: part for name, part in found.items()}


def hub_source(folder: Path) -> Source:
    """The images of a saved data set, as the bytes of their files, with its parts and classes.

    Raises ValueError if the library is missing, or if no column holds images.
    """
    parts = parts_of(folder)
    from datasets import ClassLabel, Image  # here, because the library is an extra

    features = next(iter(parts.values())).features
    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if not columns:
        raise ValueError(f"{folder} has no column of images, but {', '.join(features)}")
    stamp = " ".join(f"{p.stat().st_size} {p.stat().st_mtime_ns}" for p in sorted(folder.rglob("*.arrow")))
    items: list[Item] = []
    splits: list[Split | None] = []
    for split, part in parts.items():
        raw = part.cast_column(columns[0], Image(decode=False))
        name = f"{folder}{'' if split is None else f' {split}'}"
        items += [Item(f"{name}[{i}]", stamp, partial(row, raw, i, columns[0])) for i in range(len(raw))]
        splits += [split] * len(raw)
    said = [f"only {columns[0]}: the other columns of images are left out"] if len(columns) > 1 else []
    label = next((known for known in ("label", "labels", "fine_label") if known in features), None)
    if label is None:
        return Source(str(folder), items, splits, said=tuple(said))
    try:
        values = values_of(label, list(parts.values()))
    except ValueError as error:
        return Source(str(folder), items, splits, said=(*said, f"labels left out: {error}"))
    if isinstance(features[label], ClassLabel):
        return Source(str(folder), items, splits, values.astype(np.int64), tuple(features[label].names), tuple(said))
    return Source(str(folder), items, splits, *numbered(values), tuple(said))


def values_of(label: str, parts: "Sequence[Dataset]") -> Shaped[np.ndarray, "n"]:
    """The values of the column ``label``.  Raises ValueError if it is none of classes, or if some images have none."""
    from datasets import ClassLabel, Value

    kind = parts[0].features[label]
    if not isinstance(kind, ClassLabel | Value):
        raise ValueError(f"{label} is no column of classes, but of {type(kind).__name__}")
    if not all(label in part.features for part in parts):
        raise ValueError("some parts have none")
    found = [value for part in parts for value in part[label]]
    if any(value is None or (isinstance(value, int) and value < 0) for value in found):  # as it is where one is missing
        raise ValueError("some images have none")
    return np.asarray(found)


def row(part: "Dataset", number: int, column: str) -> Stream:
    """The bytes of the file of one image.  Raises ValueError if there are none."""
    found = part[number][column]
    if found is not None and found["bytes"] is not None:
        return BytesIO(found["bytes"])
    if found is None or found["path"] is None or not Path(found["path"]).is_file():
        raise ValueError("it has no image")
    return Path(found["path"]).open("rb")
