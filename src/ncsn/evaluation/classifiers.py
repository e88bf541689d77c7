"""Classifiers whose features samples are judged in: of digits, in the package, and of any data that has classes."""

import hashlib
from importlib import resources
from pathlib import Path

import platformdirs
import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from ncsn import machine
from ncsn.data import Images, Labels
from ncsn.evaluation.features import Features
from ncsn.evaluation.samples import at_8_bits
from ncsn.files import atomic
from ncsn.networks.classifier import Classifier
from ncsn.progress import refresh_interval

CLASSIFIER_SHA256 = "f771bc3bdbd07fb4c7ac4b061240fe4311e4859f7eee5fdcf5c93298efb164fd"
SEEN, EPOCHS, BATCH, PEAK_RATE = 100_000, 20, 250, 5e-3  # about a minute for 32 × 32 pixels on two cores
CPU = torch.device("cpu")


def load_classifier() -> Classifier:
    """The digit classifier in the package, checked by sha256.  Raises ValueError if it is damaged."""
    content = (resources.files("ncsn") / "assets" / "classifier.safetensors").read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != CLASSIFIER_SHA256:
        raise ValueError(f"classifier.safetensors is damaged: sha256 {digest[:12]}…, not {CLASSIFIER_SHA256[:12]}…")
    network = Classifier()
    network.load_state_dict(load(content))
    return network.requires_grad_(False).eval()


def of_classifier(
    classifier: Classifier,
    *,
    name: str,
    classes: tuple[str, ...],
    digest: str = "",
    accuracy: float | None = None,
    device: torch.device = CPU,
) -> Features:
    """What a classifier sees: see ``Features`` for ``name``, ``classes``, ``digest`` and ``accuracy``."""
    network = classifier.to(device)
    return Features(
        name=name,
        embed=lambda part: network.features(part.to(device).float() / 255),
        head=network.head,
        classes=classes,
        digest=digest,
        accuracy=accuracy,
    )


def digits(device: torch.device = CPU) -> Features:
    """What the classifier of MNIST's digits in the package sees; it was trained on the 50,000 training images."""
    classes = tuple("0123456789")
    return of_classifier(
        load_classifier(), name="digit classifier", classes=classes, digest=CLASSIFIER_SHA256, device=device
    )


def trained(images: Images, device: torch.device = CPU) -> Features:
    """What a classifier sees that was trained on the training images; it is kept in the user's cache directory.

    ``images``: with their classes; more than 8 bits are rounded to those.
    Raises ValueError if they have none, or if the file in the cache is damaged.
    """
    labels = images.labels
    if labels is None or len(labels.names) < 2:
        raise ValueError(f"{images.name or 'the data'} has no classes that a classifier could tell apart")
    images = at_8_bits(images)
    path = cached(images, labels)
    if not path.is_file():
        weights = train(images, labels, device).state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(save({name: weight.contiguous() for name, weight in weights.items()}))
    content = path.read_bytes()
    network = untrained(images, labels)
    try:
        network.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}); delete it and run again") from error
    network.requires_grad_(False).eval()
    return of_classifier(
        network,
        name=f"classifier of {images.name}" if images.name else "classifier",
        classes=labels.names,
        digest=hashlib.sha256(content).hexdigest(),
        accuracy=accuracy(network.to(device), images.validation, labels.validation, device),
        device=device,
    )


def cached(images: Images, labels: Labels) -> Path:
    """Where the classifier of this very data, by this very recipe, is or will be."""
    recipe = f"{SEEN} {EPOCHS} {BATCH} {PEAK_RATE} {len(labels.names)} {images.digest}"
    digest = hashlib.sha256(recipe.encode() + labels.train.numpy().tobytes()).hexdigest()
    return platformdirs.user_cache_path("ncsn", appauthor=False) / "classifiers" / f"{digest[:32]}.safetensors"


def untrained(images: Images, labels: Labels) -> Classifier:
    """A new classifier for such images."""
    return Classifier(images.shape[0], images.shape[1:], len(labels.names))


@torch.enable_grad()
def train(images: Images, labels: Labels, device: torch.device) -> Classifier:
    """A classifier that saw ``SEEN`` images, but each at most ``EPOCHS`` times; the same data give the same weights.

    Images are moved by up to a sixteenth of their sides.  They are not mirrored: a letter would be another, or none.
    """
    generator = torch.Generator().manual_seed(0)
    steps = max(10, min(SEEN, EPOCHS * len(images.train)) // BATCH)
    with torch.random.fork_rng():  # initial weights and dropout draw from the global generator
        torch.manual_seed(0)
        network = untrained(images, labels).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
        bar = tqdm(range(steps), desc="training a classifier", unit="step", leave=False, mininterval=refresh_interval())
        for _ in bar:
            chosen = torch.randint(len(images.train), (BATCH,), generator=generator)
            x = moved(images.train[chosen].to(device).float() / 255, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=machine.fast_bfloat16(device)):
                logits = network(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels.train[chosen].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.cpu().eval()


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """The batch (b, c, h, w) moved by some pixels, the same for all of it, which is quick; edges are repeated."""
    height, width = x.shape[2:]
    most = max(1, min(height, width) // 16)
    down, right = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    return F.pad(x, (most, most, most, most), mode="replicate")[:, :, down : down + height, right : right + width]


@torch.no_grad()
def accuracy(
    network: Classifier, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, "n"], device: torch.device
) -> float:
    """The share of images whose class is right."""
    pairs = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    right = [network(x.to(device).float() / 255).argmax(1).cpu() == y for x, y in pairs]
    return torch.cat(right).float().mean().item()
