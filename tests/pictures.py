"""Image files for tests, no two of which are equal: known again by their first pixel."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ncsn.data.dataset import Dataset

PARTS = ("validation", "test", "train")


def pixels(value: int) -> np.ndarray:
    """6 × 5 bytes, all different, of which the first is the value."""
    return (np.arange(30).reshape(6, 5) * 7 + value).astype(np.uint8)


def packed(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(value: int) -> bytes:
    return packed(Image.fromarray(pixels(value)))


def write(top: Path, files: Mapping[str, int | bytes]) -> str:
    """Files by path, as bytes or as the value of an image, in a folder; which is returned."""
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(png(content) if isinstance(content, int) else content)
    return str(top)


def values(part: torch.Tensor) -> list[int]:
    """The first pixel of each image."""
    return [int(v) for v in part[:, 0, 0, 0]]


def contents(images: Dataset) -> dict[str, list[int]]:
    """The values in each part, sorted."""
    return {part: sorted(values(getattr(images, part))) for part in PARTS}


def everything(images: Dataset) -> list[int]:
    return sorted(value for part in contents(images).values() for value in part)


def in_order(images: Dataset) -> torch.Tensor:
    """All images, in the order of their files; which are shuffled in one way, always."""
    mixed = torch.cat([images.validation, images.test, images.train])
    order = torch.randperm(len(mixed), generator=torch.Generator().manual_seed(0))
    return mixed[order.argsort()]


def classes(images: Dataset) -> dict[int, str] | None:
    """The class of each value."""
    labels = images.labels
    if labels is None:
        return None
    return {
        value: labels.names[int(label)]
        for part in PARTS
        for value, label in zip(values(getattr(images, part)), getattr(labels, part), strict=True)
    }
