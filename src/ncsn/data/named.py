"""What a user names becomes images: a set, a place, or one image; and where a run finds its images again.

MNIST ships inside the package; the other named sets come through torchvision, downloaded once.
"""

import gzip
import hashlib
import sys
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ncsn.data import shards, sources
from ncsn.data.images import Images, Labels, depth_of, images_of, in_units
from ncsn.data.pixels import BYTES, Depth, reals
from ncsn.data.reading import AS_THEY_ARE, Reading, is_pattern
from ncsn.validation import one_line

MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "train-labels-idx1-ubyte.gz": "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "t10k-images-idx3-ubyte.gz": "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "t10k-labels-idx1-ubyte.gz": "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
}
DOWNLOADS = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
DOWNLOADED = Path("data")  # where they go, if no other place is given
NAMED = ("mnist", *DOWNLOADS)


def mnist_file(name: str, folder: Path | None) -> UInt8[Tensor, "n *d"]:
    """The content of one of MNIST's IDX files, from ``folder`` or from the package, checked by sha256.

    Raises ValueError if the file is missing, truncated or another than the original.
    """
    path = (resources.files("ncsn") / "assets" / "mnist" if folder is None else folder) / name
    if not path.is_file():
        raise ValueError(f"{path} is missing; a folder with MNIST's four files {', '.join(MNIST_SHA256)} is needed")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != MNIST_SHA256[name]:
        raise ValueError(f"{path} is not MNIST's original, whose sha256 is {MNIST_SHA256[name]}")
    content = bytearray(gzip.decompress(packed))
    if "labels" in name:
        return torch.frombuffer(content, dtype=torch.uint8, offset=8)
    return torch.frombuffer(content, dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)


def mnist(folder: Path | None = None) -> Images:
    """MNIST: 50,000 training images, 10,000 for validation, 10,000 for testing, 1 × 28 × 28 bytes.

    From the package, or from the four original files in ``folder``.
    """
    return named_set("mnist", "0123456789", *(mnist_file(name, folder) for name in MNIST_SHA256))


def torchvision_images(name: str, folder: Path) -> Images:
    """FashionMNIST, KMNIST or CIFAR-10, downloaded by torchvision into ``folder`` if it is not there already.

    Raises ValueError if the download fails.
    """
    import torchvision.datasets  # here, because it takes a second that MNIST need not spend

    dataset = getattr(torchvision.datasets, DOWNLOADS[name])
    try:
        parts = [dataset(folder, train=train, download=True) for train in (True, False)]
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        allowed = f"with a network run again, or put torchvision's {DOWNLOADS[name]} files there"
        raise ValueError(f"{name} could not be downloaded to {folder} ({one_line(error)}); {allowed}") from error
    pixels = [torch.as_tensor(part.data) for part in parts]
    full, test = (p.unsqueeze(1) if p.ndim == 3 else p.permute(0, 3, 1, 2).contiguous() for p in pixels)
    classes, held = (torch.as_tensor(part.targets) for part in parts)
    return named_set(name, parts[0].classes, full, classes, test, held)


def named_set(name: str, names: Sequence[str], full: Tensor, classes: Tensor, test: Tensor, held: Tensor) -> Images:
    """A set of images to train on and to test with, of which the last 10,000 of the former are for validation."""
    train, validation = classes[:-10_000].long(), classes[-10_000:].long()
    labels = Labels(train=train, validation=validation, test=held.long(), names=tuple(names))
    return Images(full[:-10_000], full[-10_000:], test, labels, name)


def load_images(name: str, folder: Path | None = None, *, reading: Reading = AS_THEY_ARE) -> Images:
    """The images of a set by name, or of a folder, an archive or arrays at a path.

    ``name``: mnist, fashion-mnist, kmnist or cifar10; a folder; a .zip or .tar of one; an .npy or .npz; shards in
    WebDataset's format, as a pattern, shards-{0000..0127}.tar, or a folder of .tar files.
    ``folder``: where the named sets' files are, or go; mnist needs none.
    ``reading``: how files become pixels.
    Raises ValueError if there is no such data set, or if it cannot be read as asked.
    """
    if name in NAMED:
        images = mnist(folder) if name == "mnist" else torchvision_images(name, folder or DOWNLOADED)
        return images if reading.pixels() in (None, images.shape[1:]) else in_another_size(images, reading)
    if paths := shards.shards_at(name):
        return shards.load_shards(name, paths, reading)
    if not Path(name).exists():
        allowed = f"{', '.join(NAMED)}, a folder, .zip, .tar, .npy or .npz, or shards such as 'x-{{000..127}}.tar'"
        raise ValueError(f"{name} is no data set; allowed are {allowed}")
    with sources.opened(Path(name)) as source:
        return images_of(name, source, reading)


def in_another_size(images: Images, reading: Reading) -> Images:
    """The images of a named set in another size."""
    assert images.labels is not None, "named sets have classes"
    items = []
    for part in sources.PARTS:
        pairs = zip(getattr(images, part), getattr(images.labels, part).tolist(), strict=True)
        for pixels, label in pairs:
            items.append(sources.Item(part, partial(np.asarray, pixels.permute(1, 2, 0)), part, label))
    resized = images_of(images.name, (items, []), reading)
    assert resized.labels is not None
    return replace(resized, labels=replace(resized.labels, names=images.labels.names))


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
        tests = (images or mnist()).test
        if int(name) >= len(tests):
            raise ValueError(f"input is {name}; the data set's test images are 0 to {len(tests) - 1}")
        pixels = tests[int(name)]
    elif shape[0] not in (1, 3):
        raise ValueError(f"{name} has grey or RGB pixels; {shape[0]} channels are needed, as an index of an image has")
    else:
        ((_, one),) = sources.pictures([sources.Item(name, partial(sources.file_bytes, Path(name)))], reading, None)
        if isinstance(one, Exception):
            raise ValueError(f"{name} is neither an index nor an image that can be read ({sources.fault(one)})")
        if shape[0] == 1 and one.pixels.shape[2] == 3:
            one = one._replace(pixels=grey(one.pixels), notes=[*one.notes, "made grey"])
        one = sources.fitted(one, (shape[1], shape[2]), reading) if fit else one
        if one.notes:
            tqdm.write(f"{name}: {', '.join(one.notes)}", file=sys.stderr)
        size = shape[1:] if fit else one.pixels.shape[:2]
        array = in_units(one, depth_of([one]) if depth == BYTES else depth, (shape[0], *size), reading)
        pixels = torch.from_numpy(array.copy())
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return reals(pixels)


def grey(pixels: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "h w 1"]:
    """The brightness of colours, by the weights of ITU-R 601 that Pillow has for bytes."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return (pixels @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A data set that can be found again.

    ``dataset``: a named set, or the absolute path.  ``folder``: where the files of a named set are.
    ``reading``: how files became pixels.  ``digest``: the sha256 of the pixels, all three parts.
    ``split``: how many images for training, validation and testing.
    """

    dataset: str
    folder: str | None
    reading: Reading
    digest: str
    split: tuple[int, int, int]

    @classmethod
    def of(cls, dataset: str, folder: Path | None, reading: Reading, images: Images) -> "Origin":
        """Where ``images`` came from, by ``load_images`` with these arguments."""
        if dataset in DOWNLOADS:
            folder = folder or DOWNLOADED
        return cls(
            dataset=dataset if dataset in NAMED else str(Path(dataset).absolute()),
            folder=None if folder is None else str(folder.absolute()),
            reading=reading,
            digest=images.digest,
            split=(images.n, len(images.validation), len(images.test)),
        )

    def load(self, dataset: str | None = None) -> Images:
        """The same images again; ``dataset``: another place where they are now, or where the files of a named set are.

        Raises ValueError if they cannot be read, or are not the same.
        """
        there = self if dataset is None else self.moved(dataset)
        if not (there.dataset in NAMED or is_pattern(there.dataset) or Path(there.dataset).exists()):
            raise ValueError(f"the images are not at {there.dataset}; --data PLACE says where they are now")
        images = load_images(there.dataset, None if there.folder is None else Path(there.folder), reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(f"{there.dataset} holds other images than those that the run has learned from")
        return images

    def moved(self, dataset: str) -> "Origin":
        """The same images in another place; of a named set, its files."""
        place = str(Path(dataset).absolute())
        return replace(self, folder=place) if self.dataset in NAMED else replace(self, dataset=place)
