"""What a user names becomes images: a set, a place, or one image; and where a run finds its images again.

MNIST ships inside the package; the other named sets come through torchvision, downloaded once.
"""

import gzip
import hashlib
import sys
import urllib.error
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

from ncsn.data import files, shards
from ncsn.data.images import Images, Labels, depth_of, images_of, in_units
from ncsn.data.pixels import BYTES, Depth, centres
from ncsn.data.reading import AS_THEY_ARE, Reading, is_pattern

MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "train-labels-idx1-ubyte.gz": "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "t10k-images-idx3-ubyte.gz": "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "t10k-labels-idx1-ubyte.gz": "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
}
DOWNLOADS = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
DOWNLOADED = Path("data")  # where they go, if no other place is given
NAMED = ("mnist", *DOWNLOADS)


def mnist_file(name: str, folder: Path | None = None) -> bytes:
    """The bytes of one of MNIST's IDX files, from ``folder`` or from the package, checked by sha256.

    Raises ValueError if the file is missing, truncated or another than the original.
    """
    path = (resources.files("ncsn") / "assets" / "mnist" if folder is None else folder) / name
    if not path.is_file():
        raise ValueError(f"{path} is missing; a folder with MNIST's four files {', '.join(MNIST_SHA256)} is needed")
    packed = path.read_bytes()
    digest = hashlib.sha256(packed).hexdigest()
    if digest != MNIST_SHA256[name]:
        raise ValueError(
            f"{path} is not MNIST's original: {len(packed)} bytes, sha256 {digest[:9]}…, not {MNIST_SHA256[name][:9]}…"
        )
    return gzip.decompress(packed)


def mnist(folder: Path | None = None) -> Images:
    """MNIST: 50,000 training images, 10,000 for validation, 10,000 for testing, 1 × 28 × 28 bytes.

    From the package, or from the four original files in ``folder``.
    """
    full, test = (
        torch.from_numpy(np.frombuffer(mnist_file(name, folder), np.uint8, offset=16).reshape(-1, 1, 28, 28).copy())
        for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    )
    digits = [part.long() for part in mnist_labels(folder)]
    labels = Labels(train=digits[0], validation=digits[1], test=digits[2], names=tuple("0123456789"))
    return Images(full[:50_000], full[50_000:], test, labels, "mnist")


def mnist_labels(
    folder: Path | None = None,
) -> tuple[UInt8[Tensor, "n"], UInt8[Tensor, "v"], UInt8[Tensor, "t"]]:
    """The digits that ``mnist``'s train, validation and test images show."""
    full, test = (
        torch.from_numpy(np.frombuffer(mnist_file(name, folder), np.uint8, offset=8).copy())
        for name in ("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    )
    return full[:50_000], full[50_000:], test


def torchvision_images(name: str, folder: Path) -> Images:
    """FashionMNIST, KMNIST or CIFAR-10, downloaded by torchvision into ``folder`` if it is not there already.

    The last 10,000 of the training images are held out for validation.  Raises ValueError if the download fails.
    """
    import torchvision.datasets  # here, because it takes a second that MNIST need not spend

    dataset = getattr(torchvision.datasets, DOWNLOADS[name])
    try:
        parts = [dataset(folder, train=train, download=True) for train in (True, False)]
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{name} could not be downloaded to {folder} ({str(error).splitlines()[0].rstrip(':')}); "
            f"with a network run again, or put torchvision's {DOWNLOADS[name]} files there"
        ) from error
    pixels = [torch.as_tensor(part.data) for part in parts]
    full, test = (p.unsqueeze(1) if p.ndim == 3 else p.permute(0, 3, 1, 2).contiguous() for p in pixels)
    classes, held = (torch.as_tensor(part.targets).long() for part in parts)
    names = tuple(str(word) for word in parts[0].classes)
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=names)
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
        raise ValueError(
            f"{name} is no data set; allowed are {', '.join(NAMED)}, or a path: a folder of images, a .zip or .tar of "
            "one, an .npy or .npz, or shards such as 'x-{000..127}.tar'"
        )
    with files.opened(Path(name)) as source:
        return images_of(source, reading)


def in_another_size(images: Images, reading: Reading) -> Images:
    """The images of a data set that is there already, in another size."""
    parts = {"x_train": images.train, "x_val": images.validation, "x_test": images.test}
    # Channels go to the end, so that none of their axes is taken for another.
    source = files.from_arrays(images.name, {key: part.permute(0, 2, 3, 1).numpy() for key, part in parts.items()})
    if images.labels is None:
        return images_of(source, reading)
    classes = torch.cat([images.labels.train, images.labels.validation, images.labels.test]).numpy()
    return images_of(replace(source, classes=classes, names=images.labels.names), reading)


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
        images = images or mnist()
        if int(name) >= len(images.test):
            raise ValueError(
                f"input is {name}; the test images of {images.name or 'the data set'} are 0 to {len(images.test) - 1}"
            )
        pixels = images.test[int(name)]
    else:
        pixels = file_example(Path(name), shape, reading, depth, fit)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return centres(pixels) if pixels.dtype == torch.uint8 else pixels


def file_example(path: Path, shape: tuple[int, ...], reading: Reading, depth: Depth, fit: bool) -> Tensor:
    """An image file as bytes, or as reals in [0, 1] if it is deep or ``depth`` is, in the size of ``shape``.

    Raises ValueError if it cannot be read, or if c is neither 1 nor 3.
    """
    if shape[0] not in (1, 3):
        raise ValueError(f"{path} has grey or RGB pixels; {shape[0]} channels are needed, as an index of an image has")
    ((_, one),) = files.pictures([files.Item(str(path), partial(files.file_bytes, path))], reading, None)
    if isinstance(one, str):
        raise ValueError(f"{path} is neither an index nor an image that can be read ({one})")
    if one.dtype != "uint8" and depth == BYTES:
        depth = depth_of([one])
    elif one.dtype != "uint8" and (one.pixels.dtype.kind == "f") != (np.dtype(depth.dtype).kind == "f"):
        raise ValueError(f"{path} has {one.dtype}, the data {depth.dtype}: they have no scale in common")
    if shape[0] == 1 and one.pixels.shape[2] == 3:
        one = one._replace(pixels=grey(one.pixels), notes=[*one.notes, "made grey"])
    if shape[0] == 3 and one.pixels.shape[2] == 1:
        one = one._replace(pixels=one.pixels.repeat(3, 2))
    if fit:
        one = files.fitted(one, (shape[1], shape[2]), reading)
    if one.notes:
        tqdm.write(f"{path}: {', '.join(one.notes)}", file=sys.stderr)
    return torch.from_numpy(in_units(one, depth, shape[0], reading).copy())


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
            reading=reading.reading,
            digest=images.digest,
            split=(images.n, len(images.validation), len(images.test)),
        )

    def load(self, dataset: str | None = None) -> Images:
        """The same images again; ``dataset``: another place where they are now, or where the files of a named set are.

        Raises ValueError if they cannot be read, or are not the same, as another named set's.
        """
        if dataset in NAMED and dataset != self.dataset:
            raise ValueError(f"the run has learned from {self.dataset}, not from {dataset}")
        there = self if dataset is None else self.moved(dataset)
        if not (there.dataset in NAMED or is_pattern(there.dataset) or Path(there.dataset).exists()):
            raise ValueError(f"the images are not at {there.dataset}; --data PLACE, says where they are now")
        images = load_images(there.dataset, None if there.folder is None else Path(there.folder), reading=self.reading)
        if images.digest != self.digest:
            raise ValueError(
                f"{there.dataset} holds other images than those that the run has learned from (sha256 "
                f"{images.digest[:9]}…, not {self.digest[:9]}…)"
            )
        return images

    def moved(self, dataset: str) -> "Origin":
        """The same images in another place; of a named set, its files."""
        place = str(Path(dataset).absolute())
        return replace(self, folder=place) if self.dataset in NAMED else replace(self, dataset=place)
