"""Arrays in files or memory as three splits of examples and classes, found by the arrays' keys."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from ncsn.data.dataset import Labels
from ncsn.settings import PARTS, Split
from ncsn.validation import opened_as

IMAGE_KEYS = {"", "x", "image", "images", "img", "imgs", "signals", "data", "samples", "arr_0"}
LABEL_KEYS = {"y", "label", "labels", "target", "targets"}
Arrays = Mapping[str, Shaped[np.ndarray, "..."]]
SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "eval": "validation", "test": "test"}
# Names of folders and arrays that hold one split: train, Training, train2017, val, valid, test1, …
PART_NAME = re.compile(r"(train|val|eval|test)(ing|id|idation|uation)?[-_ ]?\d*", re.IGNORECASE)


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is memory-mapped, by "".

    Raises ValueError if they can't be read, or hold Python objects.
    """
    with opened_as("arrays", path):
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}


def part_of(word: str) -> Split | None:
    """The split that a folder or array of this name holds, if any."""
    match = PART_NAME.fullmatch(word)
    return SPLITS[match[1].lower()] if match else None


def check_finite(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Raises ValueError if an array holds NaN or infinity."""
    if array.dtype.kind == "f" and (wrong := int((~np.isfinite(array)).sum())):
        raise ValueError(f"{name} holds {wrong:,} values that are NaN or infinite; fill them in, or leave them out")


def classes_in(name: str, array: Shaped[np.ndarray, "..."] | None, n: int) -> np.ndarray | None:
    """The classes of ``n`` examples.  Raises ValueError for arrays of another shape or dtype."""
    if array is None:
        return None
    if array.dtype.kind not in "buiU" or array.shape not in ((n,), (n, 1)):
        allowed = f"expected one integer or text for each of {n} examples"
        raise ValueError(f"the classes in {name} have shape {array.shape} and dtype {array.dtype}; {allowed}")
    return array.reshape(-1)


def role(key: str) -> tuple[str, Split | None]:
    """The role of an array by its key (x for examples, y for classes, or another word), and its split."""
    words = re.split("[^a-z0-9]+", key.lower())
    part = next((part for word in words if (part := part_of(word))), None)
    word = "_".join(word for word in words if not part_of(word))
    return "x" if word in IMAGE_KEYS else "y" if word in LABEL_KEYS else word, part


def split_arrays(
    name: str, found: Arrays, examples_in: Callable[..., np.ndarray]
) -> dict[Split, tuple[str, np.ndarray, np.ndarray | None, np.ndarray]]:
    """Each split's array of examples, with its name, its classes, and the index of the split in it.

    Examples are in the only array, or in one with a key such as images, x, x_train or test_images; classes have keys
    such as labels, y or y_train.  ``examples_in`` validates an array of a name and arranges its axes.
    Raises ValueError for other keys, missing classes, different dtypes, and if there are no training examples.
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
        raise ValueError(f"{name} holds {listed or 'nothing'}; expected {allowed}")
    splits = {}
    for part, (source, index) in split_of({part or "train": len(stack) for part, stack in stacks.items()}).items():
        key = source if source in stacks else None
        classes = classes_in(name, labels.get(key), len(stacks[key]))
        splits[part] = f"{name}/{keys['x', key]}", stacks[key], classes, index
    return splits


def split_of(counts: Mapping[Split, int]) -> dict[Split, tuple[Split, np.ndarray]]:
    """Each split's source and its index there, shuffled in the same way every time.

    A missing split gets a tenth of the training examples.  Broken images count, so that the others stay in their splits
    when a file is repaired.
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


def labels_of(parts: Mapping[Split, Sequence[np.ndarray | str]]) -> Labels | None:
    """The classes of examples, one or many at a time, if there are at least two and every example has one."""
    if any(isinstance(label, str) and not label for labels in parts.values() for label in labels):
        return None
    arrays = {part: np.concatenate([np.atleast_1d(label) for label in labels]) for part, labels in parts.items()}
    names = np.unique(np.concatenate([*arrays.values()]))
    if len(names) < 2:
        return None
    tensors = {part: torch.from_numpy(np.searchsorted(names, array)) for part, array in arrays.items()}
    return Labels(**tensors, names=tuple(map(str, names.tolist())))
