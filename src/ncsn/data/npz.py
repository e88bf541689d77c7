"""The arrays in an .npz: which are images and which are labels, by name."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from ncsn.data.arrays import Stack, source_of
from ncsn.data.rows import Rows, arrays
from ncsn.data.sources import SPLITS, Source, Split, stamp_of

IMAGE_WORDS = {"x", "image", "images", "img", "imgs", "data", "arr", "0"}
LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
Members = dict[str, Rows]
"""The arrays by their keys."""


@contextmanager
def npz(path: Path) -> Iterator[Source]:
    """The images of an .npz, while the block runs.

    Their keys are like images or x, or for one part like x_train or test_images; any, if there is one array of images
    only.  Their labels' are like label or y, or y_train or test_labels.
    Raises ValueError if it is none, or if its arrays cannot be told apart.
    """
    with arrays(path) as found:
        objects = [key for key, rows in found.items() if rows.dtype.hasobject]
        members = {key: rows for key, rows in found.items() if key not in objects}
        images = image_keys(path, members)
        labels, said = label_arrays(members, images)
        said += [f"{key} left out: it holds Python objects" for key in objects]
        stacks = {split: Stack.of(members[key]) for split, key in images.items()}
        yield source_of(str(path), stacks, stamp_of(path), labels, said)


def role(key: str) -> tuple[Literal["image", "label", "other"], Split | None]:
    """What an array is by its key, and of which part."""
    words = re.findall("[a-z0-9]+", key.lower())
    split = next((SPLITS[word] for word in words if word in SPLITS), None)
    rest = {word for word in words if word not in SPLITS}
    if rest <= IMAGE_WORDS:
        return "image", split
    return ("label" if rest <= LABEL_WORDS else "other"), split


def image_keys(path: Path, members: Members) -> dict[Split | None, str]:
    """The arrays of images, one for each part.  Raises ValueError if it is not clear which they are."""
    shaped = [key for key, rows in members.items() if len(rows.shape) in (3, 4) and rows.dtype.kind in "buif"]
    named = [key for key in shaped if role(key)[0] == "image"]
    chosen = [key for key in named if role(key)[1] is not None] or named or shaped
    found = {role(key)[1] if named else None: key for key in chosen}
    if not chosen or len(found) < len(chosen):
        listed = ", ".join(f"{key} {rows.shape}" for key, rows in members.items()) or "no arrays"
        raise ValueError(f"{path} holds {listed}; one array of images is needed, or one for each part: x_train, x_test")
    return found


def label_arrays(
    members: Members, images: dict[Split | None, str]
) -> tuple[list[Shaped[np.ndarray, "..."]], list[str]]:
    """The labels of each of the arrays of images, none if not all have some; and what is left out, a line each."""
    rest = [key for key in members if key not in images.values()]
    found = {role(key)[1]: key for key in reversed(rest) if role(key)[0] == "label"}
    used = [found[split] for split in images if split in found]
    said = [f"{key} left out: it is neither images nor their labels" for key in rest if key not in used]
    if not used:
        return [], said
    listed = ", ".join(f"{key} {members[key].shape}" for key in used)
    counts = [members[key].shape[0] for key in images.values()]
    if [members[key].shape in ((n,), (n, 1)) for key, n in zip(used, counts, strict=False)] != [True] * len(images):
        return [], [*said, f"labels left out: {listed}; (n,) or (n, 1) is needed for each array of images"]
    if not all(members[key].dtype.kind in "buiUSf" for key in used):
        return [], [*said, f"labels left out: {listed}; they are neither numbers nor text"]
    labels = [members[key].whole() for key in used]
    if any(
        array.dtype.kind == "f" and not (np.floor(array) == array).all() & np.isfinite(array).all() for array in labels
    ):
        return [], [*said, f"labels left out: {listed}; they are no whole numbers"]
    return labels, said
