"""From what a user names to tensors: a data set, or one image."""

import sys
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ncsn.data.arrays import stacked
from ncsn.data.filling import depth_of
from ncsn.data.fitting import fitted, said_of_sizes, with_channels
from ncsn.data.images import Images
from ncsn.data.named import DOWNLOADED, NAMED, mnist, torchvision_images
from ncsn.data.options import AS_THEY_ARE, Reading
from ncsn.data.places import file_item, opened
from ncsn.data.reading import Header, picture, reason
from ncsn.data.sharded import load_shards, shards_at
from ncsn.data.store import gathered
from ncsn.pixels import BYTES, Depth, centres


def load_images(name: str, folder: Path | None = None, *, reading: Reading = AS_THEY_ARE) -> Images:
    """The images of a set by name, or of a folder, an archive, an array or a data set of Hugging Face's at a path.

    ``name``: mnist, fashion-mnist, kmnist or cifar10; a folder; a .zip or .tar of one; an .npy or .npz; shards in
    WebDataset's format, as a pattern, shards-{0000..0127}.tar, or a folder of .tar files.
    ``folder``: where the named sets' files are, or go; mnist needs none.
    ``reading``: how files become pixels.
    Raises ValueError if there is no such data set, or if it cannot be read as asked.
    """
    if name in NAMED:
        images = mnist(folder) if name == "mnist" else torchvision_images(name, folder or DOWNLOADED)
        size = reading.pixels()
        return images if size in (None, images.shape[1:]) else gathered(stacked(images), reading)
    if shards := shards_at(name):
        return load_shards(name, shards, reading)
    path = Path(name)
    if not path.exists():
        raise ValueError(
            f"{name} is no data set; allowed are {', '.join(NAMED)}, or a path: a folder of images, a .zip "
            "or .tar of one, an .npy or .npz, shards such as 'x-{000..127}.tar', or a data set that Hugging Face's "
            "datasets saved"
        )
    with opened(path) as source:
        return gathered(source, reading)


def read_example(
    name: str,
    shape: tuple[int, ...],
    *,
    reading: Reading = AS_THEY_ARE,
    images: Images | None = None,
    depth: Depth = BYTES,
    fit: bool = True,
) -> Float[Tensor, "c h w"]:
    """One image with pixels in [0, 1]: a test image by its index, or an image file, fitted to ``shape`` (c, h, w).

    ``name``: an index into the test images of ``images`` (MNIST's if None), or a file; it is made grey if c is 1.
    ``depth``: what the numbers in files like it are.
    ``reading``: how a file becomes pixels; its ``fit`` is how it gets the size of ``shape``, which is said.
    ``fit``: whether it may; a measurement of another size is none.
    Raises ValueError if there is no such image, if it cannot be read, or if it cannot have ``shape``.
    """
    if name.isdecimal():
        chosen = images or mnist()
        if int(name) >= len(chosen.test):
            known = chosen.name or "the data set"
            raise ValueError(f"input is {name}; the test images of {known} are 0 to {len(chosen.test) - 1}")
        pixels = chosen.test[int(name)]
    else:
        pixels = read_file(Path(name), shape, reading, depth, fit)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def read_file(path: Path, shape: tuple[int, ...], reading: Reading, depth: Depth, fit: bool) -> Tensor:
    """An image file as bytes, or as reals in [0, 1] if it is deep or ``depth`` is, in the size of ``shape``.

    Raises ValueError if it cannot be read, or if c is neither 1 nor 3.
    """
    if shape[0] not in (1, 3):
        raise ValueError(f"{path} has grey or RGB pixels; {shape[0]} channels are needed, as an index of an image has")
    try:
        data = file_item(path).read()
        assert isinstance(data, bytes)
        with catch_warnings():
            # Pillow only warns of what is up to twice as large as it allows.
            simplefilter("error", Image.DecompressionBombWarning)
            pixels, notes = picture(data, reading)
    except Exception as error:  # codecs raise whatever they like
        raise ValueError(f"{path} is neither an index nor an image that can be read ({reason(error)})") from error
    done = [note.short for note in notes]
    deep = pixels.dtype != np.uint8
    if deep and depth != BYTES and (pixels.dtype.kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"{path} has {pixels.dtype}, the data {depth.dtype}: they have no scale in common")
    if deep:
        own = depth_of({pixels.dtype.name}, float(pixels.min()), float(pixels.max())) if depth == BYTES else depth
        pixels = ((pixels - own.low) / (own.high - own.low)).astype(np.float32)
    elif depth != BYTES:
        pixels = pixels.astype(np.float32) / 255
    if shape[0] == 1 and pixels.shape[2] == 3:
        done.append("made grey")
        pixels = grey(pixels)
    pixels = with_channels(pixels, shape[0])
    if fit and pixels.shape[:2] != shape[1:]:
        done += [
            line.partition(":")[0] for line in said_of_sizes([Header(*pixels.shape)], (shape[1], shape[2]), reading.fit)
        ]
        full = 1 if pixels.dtype == np.uint8 else 255
        background = [value / full for value in reading.colour()]
        pixels = fitted(pixels, (shape[1], shape[2]), reading.fit, background[: shape[0]])
    if done:
        tqdm.write(f"{path}: {', '.join(done)}", file=sys.stderr)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def grey(pixels: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "h w 1"]:
    """The brightness of colours, by the weights of ITU-R 601 that Pillow has for bytes."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
