"""What a user names becomes images: MNIST, a place, or one image; and where a run finds its images again."""

import gzip
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ncsn.data.images import Images, Labels, arrays, from_arrays, images_of, signals_of
from ncsn.data.pixels import BYTES, Depth, depth_of, fitted, in_units, picture, reals
from ncsn.data.sources import AS_THEY_ARE, Reading, file_bytes, from_files, from_shards, tarred, walk, zipped
from ncsn.machine import hardware
from ncsn.validation import one_line


def mnist() -> Images:
    """MNIST: 50,000 training images, 10,000 for validation, 10,000 for testing, 1 × 28 × 28 bytes."""

    def content(name: str, header: int) -> UInt8[Tensor, "n"]:
        packed = (resources.files("ncsn") / "assets" / "mnist" / f"{name}-ubyte.gz").read_bytes()
        return torch.frombuffer(bytearray(gzip.decompress(packed)), dtype=torch.uint8, offset=header)

    full, test = (content(f"{part}-images-idx3", 16).view(-1, 1, 28, 28) for part in ("train", "t10k"))
    classes, held = (content(f"{part}-labels-idx1", 8).long() for part in ("train", "t10k"))
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=tuple("0123456789"))
    return Images(full[:-10_000], full[-10_000:], test, labels, "mnist")


def load_images(name: str, *, reading: Reading = AS_THEY_ARE) -> Images:
    """The images of a folder, a .zip or .tar of one, an .npy or .npz, or MNIST.

    ``name``: mnist, or a path; a folder that holds .tar files and no images has shards in WebDataset's format.
    ``reading``: how files become pixels, or that an array holds signals.
    Raises ValueError if there is no such data set, or if it cannot be read as asked; OSError for a folder that may not
    be read.

    >>> images = ncsn.load_images("mnist")
    >>> images.train.shape, images.labels.names[7]
    (torch.Size([50000, 1, 28, 28]), '7')
    """
    if reading.signals:
        return signals_of(name, arrays(Path(name)))
    if name == "mnist":
        if reading.pixels() not in (None, (28, 28)):
            raise ValueError(f"size is {reading.size}; mnist has 28x28, and only images of your own are resized")
        return mnist()
    place, suffix = Path(name), Path(name).suffix.lower()
    if name and place.is_dir():
        files = walk(place)
        catalogue = from_files(name, files)
        shards = [place / path for path in sorted(files) if path.suffix == ".tar"]
        if shards and not catalogue[0]:
            catalogue, training = from_shards(name, shards)
            return replace(images_of(name, catalogue, reading), shards=training)
    elif place.is_file() and suffix == ".zip":
        catalogue = from_files(name, zipped(place))
    elif place.is_file() and (".tar" in place.suffixes[-2:] or suffix == ".tgz"):
        catalogue = from_files(name, tarred(place))
    elif place.is_file() and suffix in (".npy", ".npz"):
        catalogue = from_arrays(name, arrays(place))
    else:
        raise ValueError(f"{name} is not a data set; give mnist, a folder, or a .zip, .tar, .npy or .npz")
    return images_of(name, catalogue, reading)


def read_example(
    name: str, shape: tuple[int, ...], images: Images | None, reading: Reading, depth: Depth, *, fit: bool = True
) -> Float[Tensor, "c h w"]:
    """One image with pixels in [0, 1]: a test image by its index, or an image file.

    ``name``: the index, or the path of the file.
    ``shape``: its channels, height and width.  A file is fitted to them, and made grey for one channel; a line says so.
    ``images``: the data set whose test images are meant; None for a file.
    ``reading``: how a file becomes pixels.
    ``depth``: what the numbers in files like it are.
    ``fit``: whether a file may get another size; a measurement may not.
    Raises ValueError if there is no such image, if it cannot be read, or if it cannot have ``shape``.
    """
    if images is not None:
        if int(name) >= len(images.test):
            raise ValueError(f"input is {name}; the data set's test images are 0 to {len(images.test) - 1}")
        pixels = images.test[int(name)]
    else:
        try:
            one = picture(partial(file_bytes, Path(name)), replace(reading, size=None))
        except Exception as error:  # codecs raise whatever they like
            raise ValueError(f"{name} is neither an index nor an image that can be read ({one_line(error)})") from error
        if shape[0] == 1 and one.pixels.shape[2] == 3:
            one = one._replace(pixels=np.asarray(Image.fromarray(one.pixels).convert("L"))[..., None])
            one.notes.append("made grey")
        one = fitted(one, replace(reading, size=f"{shape[1]}x{shape[2]}")) if fit else one
        if one.notes:
            hardware.say(f"{name}: {', '.join(one.notes)}")
        pixels = torch.from_numpy(in_units(one, depth_of([one]) if depth == BYTES else depth).copy())
        if shape[0] == 3 and len(pixels) == 1:
            pixels = pixels.expand(3, -1, -1)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return reals(pixels)


def absolute(name: str) -> str:
    """The name of a data set that is the same in every folder."""
    return name if name == "mnist" else str(Path(name).absolute())


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A data set that can be found again.

    ``dataset``: mnist, or the absolute path.
    ``folder``: None; config.json of version 3 has it.
    ``reading``: how files became pixels.
    ``digest``: the sha256 of the pixels, all three parts.
    ``split``: how many images for training, validation and testing.
    """

    dataset: str
    folder: None = None
    reading: Reading
    digest: str
    split: tuple[int, int, int]

    @classmethod
    def of(cls, dataset: str, reading: Reading, images: Images) -> "Origin":
        """Where images came from.

        ``dataset``: what ``load_images`` was given.
        ``reading``: likewise.
        ``images``: what it returned.
        """
        split = (images.n, len(images.validation), len(images.test))
        return cls(dataset=absolute(dataset), reading=reading, digest=images.digest, split=split)

    def moved(self, dataset: str) -> "Origin":
        """The same images in another place.

        ``dataset``: that place.
        """
        return replace(self, dataset=absolute(dataset))

    def load(self, dataset: str | None = None) -> Images:
        """The same images again; ``dataset``: another place where they are now.

        Raises ValueError if they cannot be read, or are not the same.
        """
        place = self.dataset if dataset is None else absolute(dataset)
        if place != "mnist" and not Path(place).exists():
            raise ValueError(f"the images are no longer at {place}; say where (--data PLACE, or ncsn train PLACE)")
        images = load_images(place, reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(f"{place} does not hold the images that the run learned from")
        return images
