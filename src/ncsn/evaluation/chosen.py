"""Which features to judge images in: what the user names, or what suits the data."""

from pathlib import Path

import torch

from ncsn.data import Images, mnist
from ncsn.evaluation import borrowed, classifiers
from ncsn.evaluation.features import PIXELS, Features

ALLOWED = (
    "auto, pixels, classifier, efficientnet, inception:WEIGHTS, dinov2:FOLDER, or a network in a file .onnx, .pt or .ts"
)
CPU = torch.device("cpu")


def choose(images: Images, name: str = "auto", device: torch.device = CPU) -> Features:
    """The features of that name, for such images.

    ``name``: auto, pixels, classifier (trained on the data's own classes), efficientnet,
    inception:WEIGHTS, dinov2:FOLDER, or a file with the user's network.  auto: for MNIST the classifier in the package;
    else a classifier where the data has classes; EfficientNet-lite0, if it is installed, where it has none; and
    pixels alone for all others.
    Raises ValueError if there are no such features, or if they do not suit the images.
    """
    kind, _, place = name.partition(":")
    path, suffix = Path(place or name), Path(name).suffix
    if (place or suffix in (".onnx", ".pt", ".ts")) and not path.exists():
        raise ValueError(f"features are {name}, but {path} does not exist")
    if name == "auto":
        return automatic(images, device)
    if name == "pixels":
        return PIXELS
    if name == "classifier":
        return classifiers.trained(images, device)
    if name == "efficientnet":
        return borrowed.efficientnet(device)
    if kind == "inception" and path.is_file() and place:
        return borrowed.inception(path, device)
    if kind == "dinov2" and place:
        return borrowed.dinov2(path, device)
    if suffix == ".onnx":
        return borrowed.onnx(path, images.shape)
    if suffix in (".pt", ".ts"):
        return borrowed.torchscript(path, images.shape, device)
    raise ValueError(f"features are {name}; allowed are {ALLOWED}")


def automatic(images: Images, device: torch.device) -> Features:
    """What suits the data: a classifier of its classes, or without any a network that knows natural images."""
    if is_mnist(images):
        return classifiers.digits(device)
    if images.labels is not None and len(images.labels.names) > 1:
        return classifiers.trained(images, device)
    if images.shape[0] not in (1, 3):
        return PIXELS
    try:
        return borrowed.efficientnet(device)
    except ValueError:  # the package is not installed
        return PIXELS


def is_mnist(images: Images) -> bool:
    """Whether they are what the classifier in the package was trained on: not digits by another name, nor others."""
    return images.name == "mnist" and images.shape == (1, 28, 28) and images.digest == mnist().digest
