"""The sets that have names: MNIST ships inside the package; the others come through torchvision, downloaded once."""

import gzip
import hashlib
import urllib.error
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ncsn.data.images import Images, Labels

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
    classes, held = (torch.as_tensor(part.targets).long() for part in parts)
    names = tuple(str(known) for known in parts[0].classes)
    labels = Labels(train=classes[:-10_000], validation=classes[-10_000:], test=held, names=names)
    return Images(full[:-10_000], full[-10_000:], test, labels, name)
