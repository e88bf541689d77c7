"""Image data sets as tensors.

MNIST ships inside the package; the others come through torchvision, which downloads them once.  A data set is three
uint8 tensors held in memory: batches are index operations, never a loop over images.
"""

import gzip
import hashlib
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from ncsn.objectives import Batch
from ncsn.pixels import centres, dequantize
from ncsn.process import refresh_interval

MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    "train-labels-idx1-ubyte.gz": "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    "t10k-images-idx3-ubyte.gz": "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "t10k-labels-idx1-ubyte.gz": "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
}
DOWNLOADS = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "cifar10": "CIFAR10"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


@dataclass(frozen=True)
class Images:
    """Train, validation and test images as (n, c, h, w) bytes; the training images' classes, 0 to k − 1, if known."""

    train: UInt8[Tensor, "n c h w"]
    validation: UInt8[Tensor, "v c h w"]
    test: UInt8[Tensor, "t c h w"]
    labels: Int64[Tensor, "n"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation over all pixels of the dequantised training images, in [0, 1]."""
        count = torch.bincount(self.train.flatten(), minlength=256).double()
        values = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        mean = (count * values).sum() / count.sum()
        return float(mean), float(((count * (values - mean) ** 2).sum() / count.sum()).sqrt())


def batches(
    data: Tensor, size: int, labels: Int64[Tensor, "n"] | None = None, *, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless random batches of ``data`` (n, *d), dequantised if it is bytes; with each example's class if given.

    Drawn with replacement, so that the generator's state is all it takes to resume.
    """
    while True:
        index = torch.randint(len(data), (size,), generator=generator, device=data.device)
        chosen = data[index]
        x = dequantize(chosen, generator=generator) if chosen.dtype == torch.uint8 else chosen
        yield Batch(x, None if labels is None else labels[index])


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
    return Images(full[:50_000], full[50_000:], test, mnist_labels(folder)[0].long())


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

    The last sixth (fifth for CIFAR-10, both 10,000) of the training images is held out for validation.
    Raises ValueError if the download fails.
    """
    import torchvision.datasets  # here, because it takes a second that MNIST need not spend

    dataset = getattr(torchvision.datasets, DOWNLOADS[name])
    try:
        parts = [dataset(folder, train=train, download=True) for train in (True, False)]
        pixels = [torch.as_tensor(part.data) for part in parts]
    except (urllib.error.URLError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{name} could not be downloaded to {folder} ({str(error).splitlines()[0].rstrip(':')}); "
            f"with a network run again, or put torchvision's {DOWNLOADS[name]} files there"
        ) from error
    full, test = (p.unsqueeze(1) if p.ndim == 3 else p.permute(0, 3, 1, 2).contiguous() for p in pixels)
    return Images(full[:-10_000], full[-10_000:], test, torch.as_tensor(parts[0].targets).long()[:-10_000])


def folder_images(folder: Path) -> Images:
    """All images below ``folder``, in the order of their paths; a tenth each held out for validation and testing.

    Grey if every image is, else RGB.
    Raises ValueError if there are fewer than ten, if one cannot be read, or if their sizes differ.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if len(paths) < 10:
        raise ValueError(
            f"{folder} holds {len(paths)} images; at least 10 ({', '.join(sorted(IMAGE_SUFFIXES))}) are needed"
        )
    arrays = []
    for path in tqdm(paths, desc="reading images", unit="image", delay=1, leave=False, mininterval=refresh_interval()):
        try:
            with Image.open(path) as image:
                arrays.append(np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error})") from error
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            (h, w), (h0, w0) = arrays[-1].shape[:2], arrays[0].shape[:2]
            raise ValueError(f"{path} has {h} x {w} pixels but {paths[0]} has {h0} x {w0}; all must have one size")
    colour = any(a.ndim == 3 for a in arrays)
    planes = [
        (a if a.ndim == 3 else np.repeat(a[..., None], 3, 2)).transpose(2, 0, 1) if colour else a[None] for a in arrays
    ]
    pixels = torch.from_numpy(np.stack(planes))
    pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    held_out = len(pixels) // 10
    return Images(pixels[2 * held_out :], pixels[:held_out], pixels[held_out : 2 * held_out])


def read_example(name: str, shape: tuple[int, ...]) -> Float[Tensor, "c h w"]:
    """One image with pixels in [0, 1]: a test image of MNIST by its index, or an image file, in grey if c is 1.

    Raises ValueError if there is no such image, if it cannot be read, or if it is not of ``shape`` (c, h, w).
    """
    if name.isdigit():
        test = mnist().test
        if int(name) >= len(test):
            raise ValueError(f"input is {name}; MNIST's test images are 0 to {len(test) - 1}")
        pixels = test[int(name)]
    else:
        try:
            with Image.open(name) as image:
                array = np.array(image.convert("L" if shape[0] == 1 else "RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{name} is neither an index nor an image that can be read ({error})") from error
        pixels = torch.from_numpy(array).view(*array.shape[:2], -1).permute(2, 0, 1)
    if pixels.shape != shape:
        raise ValueError(f"{name} has shape {tuple(pixels.shape)} (channels, height, width); {shape} is needed")
    return centres(pixels)


def load_images(name: str, folder: Path | None = None) -> Images:
    """A data set by name (mnist, fashion-mnist, kmnist, cifar10), or all images below a folder of that name.

    ``folder``: where the named sets' files are, or go; mnist needs none.
    Raises ValueError if there is no such data set.
    """
    if name == "mnist":
        return mnist(folder)
    if name in DOWNLOADS:
        return torchvision_images(name, folder or Path("data"))
    if Path(name).is_dir():
        return folder_images(Path(name))
    raise ValueError(f"{name} is no data set; allowed are mnist, {', '.join(DOWNLOADS)}, or a folder of images")
