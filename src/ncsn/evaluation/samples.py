"""Samples as bytes, in files: ours, and anybody's; and the data as bytes, to compare them with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from ncsn.data import Images
from ncsn.data.files import arrays, images_in
from ncsn.data.pixels import BYTES, Depth, quantize
from ncsn.files import atomic

FEWEST = 100
FAR = 0.5  # of the data's range: samples lie a little outside of it, and others' are in other units


def read_samples(
    path: Path, most: int = 10_000, *, depth: Depth = BYTES
) -> tuple[UInt8[Tensor, "n c h w"], tuple[str, ...]]:
    """The first images of an .npz file as bytes, and a line for everything that was done to them.

    They are the array ``samples``, or the only one that looks like images: (n, h, w), (n, h, w, c) or (n, c, h, w), of
    which the smaller of axes 1 and 3 is c; bytes, or reals in [0, 1].
    ``most``: how many are read, at least 1.  ``depth``: what other numbers are, as in the data that they are like.
    Raises ValueError if there is no such array, and for fewer than 100 images.
    """
    key, array = the_samples(path, arrays(path), depth)
    rows = images_in(f"{path}/{key}", array[:most]).transpose(0, 3, 1, 2)
    said = () if key == "samples" else (f"{path}/{key} is taken for the samples",)
    if rows.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(rows)), said
    low, high = rows.min(), rows.max()
    if depth != BYTES and rows.dtype == np.dtype(depth.dtype):
        room = FAR * (depth.high - depth.low)
        if not (low >= depth.low - room and high <= depth.high + room):  # NaN is neither
            raise ValueError(
                f"{path} holds numbers from {low:g} to {high:g}, the data from {depth.low:g} to {depth.high:g}"
            )
        beyond = float(((rows < depth.low) | (rows > depth.high)).mean())
        said = (*said, f"{path}: {beyond:.2%} of its numbers lie outside, and are cut off") if beyond else said
        scaled = (rows.astype(np.float64) - depth.low) / (depth.high - depth.low)
        bytes_of = quantize(torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32)))
        return bytes_of, (*said, f"{path}: {depth.dtype} from {depth.low:g} to {depth.high:g}, rounded to bytes")
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(f"{path} holds reals from {low:g} to {high:g}; [0, 1] is needed")
    reals = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    return quantize(reals), (*said, f"{path}: reals in [0, 1], rounded to bytes")


def the_samples(
    path: Path, found: dict[str, Shaped[np.ndarray, "..."]], depth: Depth
) -> tuple[str, Shaped[np.ndarray, "..."]]:
    """The array that holds the samples, and its key.  Raises ValueError if none or several could, or if it has none."""
    chosen = [key for key in found if key == "samples"] or [key for key in found if found[key].ndim in (3, 4)]
    if len(chosen) != 1:
        listed = ", ".join(f"{key} {array.shape}" for key, array in found.items()) or "no arrays"
        raise ValueError(f"{path} holds {listed}; one array of images, or one named samples, is needed")
    array = found[chosen[0]]
    if array.dtype not in (np.uint8, np.dtype(depth.dtype)) and array.dtype.kind != "f":
        raise ValueError(f"{path}/{chosen[0]} is of {array.dtype}; uint8, or reals in [0, 1], are needed")
    if array.ndim and len(array) < FEWEST:
        raise ValueError(f"{path}/{chosen[0]} holds {len(array)} images; at least {FEWEST} are needed")
    return chosen[0], array


def write_samples(path: Path, samples: UInt8[Tensor, "n c h w"]) -> None:
    """Write samples as ``read_samples`` takes them."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, samples=samples.numpy())


def coarse(pixels: Shaped[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Images as bytes: themselves, if they are."""
    if pixels.dtype == torch.uint8:
        return pixels
    return torch.cat([quantize(part.float()) for part in torch.split(pixels, 1000)])


def at_8_bits(images: Images) -> Images:
    """A data set as bytes: itself, if it is."""
    if images.train.dtype == torch.uint8:
        return images
    return replace(images, train=coarse(images.train), validation=coarse(images.validation), test=coarse(images.test))
