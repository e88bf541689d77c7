"""Arrays in files or memory as three splits of examples and classes, found by the arrays' keys."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
SPLIT_NAME = re.compile(r"(train|val|eval|test)(ing|id|idation|uation)?[-_ ]?\d*", re.IGNORECASE)


def read_arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is memory-mapped, by "".

    Raises ValueError if they can't be read, or hold Python objects.
    """
    with opened_as("arrays", path):
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}


def split_named(word: str) -> Split | None:
    """The split that a folder or array of this name holds, if any."""
    match = SPLIT_NAME.fullmatch(word)
    return SPLITS[match[1].lower()] if match else None


def check_finite(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Raises ValueError if an array holds NaN or infinity."""
    if array.dtype.kind == "f" and (wrong := int((~np.isfinite(array)).sum())):
        raise ValueError(f"{name} holds {wrong:,} values that are NaN or infinite; fill them in, or leave them out")


def flatten_classes(name: str, array: Shaped[np.ndarray, "..."], n: int) -> Shaped[np.ndarray, "n"]:
    """The classes of ``n`` examples.  Raises ValueError for arrays of another shape or dtype."""
    if array.dtype.kind not in "buiU" or array.shape not in ((n,), (n, 1)):
        allowed = f"expected one integer or text for each of {n} examples"
        raise ValueError(f"the classes in {name} have shape {array.shape} and dtype {array.dtype}; {allowed}")
    return array.reshape(-1)


def role_of(key: str) -> tuple[str, Split | None]:
    """The role of an array by its key (x for examples, y for classes, or another word), and its split."""
    words = re.split("[^a-z0-9]+", key.lower())
    splits = [split for word in words if (split := split_named(word))]
    word = "_".join(word for word in words if not split_named(word))
    role = "x" if word in IMAGE_KEYS else "y" if word in LABEL_KEYS else word
    return role, splits[0] if splits else None


class SplitArray(NamedTuple):
    """The examples of a split in an array.

    ``name``: of the array, for messages.
    ``examples``: all examples of the array.
    ``classes``: their classes, if they have any.
    ``places``: of the split's examples among them.
    """

    name: str
    examples: Shaped[np.ndarray, "m ..."]
    classes: Shaped[np.ndarray, "m"] | None
    places: Shaped[np.ndarray, "k"]


def split_arrays(
    name: str, arrays: Arrays, examples_in: Callable[[str, np.ndarray], np.ndarray]
) -> dict[Split, SplitArray]:
    """The examples of each split.

    Examples are in the only array, or in one with a key such as images, x, x_train or test_images; classes have keys
    such as labels, y or y_train.  ``examples_in`` validates an array of a name and arranges its axes.
    Raises ValueError for other keys, missing classes, different dtypes, and if there are no training examples.
    """
    image_keys, label_keys = dict[Split | None, str](), dict[Split | None, str]()
    unclear = list[str]()
    for key in arrays:
        role, split = role_of(key) if len(arrays) > 1 else ("x", None)
        keys = {"x": image_keys, "y": label_keys}.get(role)
        if keys is None or split in keys:
            unclear.append(key)
        else:
            keys[split] = key
    examples = {split: examples_in(f"{name} {key}".strip(), arrays[key]) for split, key in image_keys.items()}
    lacks_labels = bool(label_keys) and label_keys.keys() != image_keys.keys()
    several_dtypes = len({array.dtype for array in examples.values()}) > 1
    one_for_training = ("train" in examples) != (None in examples)  # a name without a split is for training
    if unclear or lacks_labels or several_dtypes or not one_for_training:
        listed = ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in list(arrays.items())[:10])
        allowed = "one array, images and labels, or x_train, y_train, x_test, y_test, of one dtype"
        raise ValueError(f"{name} holds {listed or 'nothing'}; expected {allowed}")
    counts: dict[Split, int] = {split or "train": len(array) for split, array in examples.items()}
    splits = dict[Split, SplitArray]()
    for split, (source, index) in split_indices(counts).items():
        place = source if source in examples else None
        classes = None
        if label_keys:
            classes = flatten_classes(name, arrays[label_keys[place]], len(examples[place]))
        splits[split] = SplitArray(f"{name}/{image_keys[place]}", examples[place], classes, index)
    return splits


def split_indices(counts: Mapping[Split, int]) -> dict[Split, tuple[Split, np.ndarray]]:
    """Each split's source and its index there, shuffled in the same way every time.

    A missing split gets a tenth of the training examples.  Broken images count, so that the others stay in their splits
    when a file is repaired.
    """
    indices = dict[Split, tuple[Split, np.ndarray]]()
    for split in PARTS:
        order = torch.randperm(counts.get(split, 0), generator=torch.Generator().manual_seed(0))
        indices[split] = split, order.numpy()
    tenth = len(indices["train"][1]) // 10
    for split in ("validation", "test"):
        if not len(indices[split][1]):
            _, train = indices["train"]
            indices[split] = "train", train[:tenth]
            indices["train"] = "train", train[tenth:]
    return indices


def labels_of(classes: Mapping[Split, Sequence[np.ndarray | str]]) -> Labels | None:
    """The classes of examples, one or many at a time, if there are at least two and every example has one."""
    if any(isinstance(label, str) and not label for labels in classes.values() for label in labels):
        return None
    arrays = {split: np.concatenate([np.atleast_1d(label) for label in labels]) for split, labels in classes.items()}
    names = np.unique(np.concatenate([*arrays.values()]))
    if len(names) < 2:
        return None
    tensors = {split: torch.from_numpy(np.searchsorted(names, array)) for split, array in arrays.items()}
    return Labels(**tensors, names=tuple(map(str, names.tolist())))
