"""How good a set of generated digits is: every number beside what real images score, and how many were judged.

Samples are bytes.  Features come from the classifier that ships with the package; it saw the 50,000 training images
only.  The floor is what as many training images score in the samples' place.
"""

import hashlib
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load
from scipy.stats import mannwhitneyu
from torch import Tensor

from ncsn import metrics
from ncsn.data import Images
from ncsn.files import atomic
from ncsn.networks.classifier import Classifier
from ncsn.pixels import quantize

CLASSIFIER_SHA256 = "f771bc3bdbd07fb4c7ac4b061240fe4311e4859f7eee5fdcf5c93298efb164fd"
REPORTABLE = 10_000
RATIOS = ("frechet_distance", "confident", "pixel_wasserstein")  # of numbers whose zero means something


def load_classifier() -> Classifier:
    """The digit classifier in the package, checked by sha256.  Raises ValueError if it is damaged."""
    content = (resources.files("ncsn") / "assets" / "classifier.safetensors").read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != CLASSIFIER_SHA256:
        raise ValueError(f"classifier.safetensors is damaged: sha256 {digest[:12]}…, not {CLASSIFIER_SHA256[:12]}…")
    network = Classifier()
    network.load_state_dict(load(content))
    return network.requires_grad_(False).eval()


@dataclass(frozen=True)
class Judged:
    """What the classifier sees in a set of images."""

    features: Float[Tensor, "n f"]
    probabilities: Float[Tensor, "n 10"]

    @property
    def confident(self) -> float:
        """The share that is some digit with a probability over 0.9."""
        return (self.probabilities.amax(1) > 0.9).float().mean().item()

    @property
    def histogram(self) -> Float[Tensor, "10"]:
        """The share of each digit."""
        return torch.bincount(self.probabilities.argmax(1), minlength=10) / len(self.probabilities)


def judge(classifier: Classifier, images: UInt8[Tensor, "n 1 28 28"]) -> Judged:
    """Features and class probabilities of images."""
    features = torch.cat([classifier.features(part.float() / 255) for part in torch.split(images, 500)])
    return Judged(features, classifier.head(features).softmax(1))


def read_samples(path: Path) -> UInt8[Tensor, "n 1 28 28"]:
    """The uint8 images of an .npz file, under the key ``samples``.

    Raises ValueError if there are none, or if they are not (n, 1, 28, 28) bytes with n ≥ 100.
    """
    try:
        with np.load(path) as file:
            samples = file["samples"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no .npz file with an array 'samples' ({error})") from error
    if samples.dtype != np.uint8 or samples.shape[1:] != (1, 28, 28) or len(samples) < 100:
        raise ValueError(f"{path} holds {samples.dtype} {samples.shape}; uint8 (n, 1, 28, 28) with n >= 100 is needed")
    return torch.from_numpy(samples)


def write_samples(path: Path, x: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Round samples to bytes, and write them as ``read_samples`` takes them."""
    samples = quantize(x)
    with atomic(path) as temporary:
        np.savez_compressed(temporary, samples=samples.numpy())
    return samples


def nearest(x: UInt8[Tensor, "n 1 28 28"], data: UInt8[Tensor, "m 1 28 28"]) -> tuple[Tensor, Tensor]:
    """The distance from each image to the nearest of ``data`` (pixels in [0, 1]), and that one's index."""
    flat, points = data.flatten(1).float() / 255, torch.split(x.flatten(1).float() / 255, 500)
    pairs = [torch.cdist(part, flat).min(1) for part in points]
    return torch.cat([pair.values for pair in pairs]), torch.cat([pair.indices for pair in pairs])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number about generated images, what real ones score in their place, and the ``ratio`` where it makes sense."""

    generated: float
    real: float
    ratio: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good ``n`` samples are: every number beside its floor, and the share of each digit.

    ``comparable``: whether there are as many as every number that is reported is about.
    """

    n: int
    comparable: bool
    metrics: dict[str, Metric]
    generated_histogram: list[float]
    real_histogram: list[float]

    def report(self) -> dict[str, Any]:
        """The same as JSON takes it; a ratio that makes no sense is left out."""
        content = asdict(self)
        for metric in content["metrics"].values():
            if metric["ratio"] is None:
                del metric["ratio"]
        return content


def evaluate(samples: UInt8[Tensor, "n 1 28 28"], images: Images) -> Evaluation:
    """All numbers about ``samples``.

    ``real`` is what n training images score against the test images; for memorisation, and for the confident share,
    what the validation images do, which the classifier has not seen either.
    Fréchet distance, KID, density and coverage are in the classifier's 128 features; the sliced Wasserstein distance
    is over pixels.  ``memorisation`` is the probability that a sample is nearer to the training set than a test image
    is (½ is ideal; Mann–Whitney), ``near_duplicates`` the share nearer than all but 1 % of the test images.
    """
    n = min(len(samples), len(images.test))
    classifier = load_classifier()
    test, held_out = images.test[:n], images.validation[:n]
    shuffled = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
    pictures = {"generated": samples[:n], "real": images.train[shuffled[:n]]}
    unseen = {"generated": samples[:n], "real": held_out}
    seen = {kind: judge(classifier, x) for kind, x in pictures.items()}
    test_seen = judge(classifier, test)
    test_to_train = nearest(test, images.train)[0]
    rows: dict[str, dict[str, float]] = {}
    for kind in ("generated", "real"):
        features = seen[kind].features
        density, coverage = metrics.density_coverage(test_seen.features, features)
        to_train = nearest(unseen[kind], images.train)[0]
        rows[kind] = {
            "frechet_distance": metrics.frechet_distance(features, test_seen.features),
            "kernel_distance": metrics.kernel_distance(features, test_seen.features),
            "density": density,
            "coverage": coverage,
            "confident": judge(classifier, unseen[kind]).confident,
            "class_variation": metrics.total_variation(seen[kind].histogram, test_seen.histogram),
            "pixel_wasserstein": metrics.sliced_wasserstein(pictures[kind].flatten(1) / 255, test.flatten(1) / 255),
            "memorisation": float(mannwhitneyu(test_to_train, to_train).statistic) / n**2,
            "near_duplicates": (to_train < test_to_train.quantile(0.01)).float().mean().item(),
        }
    generated, real = rows["generated"], rows["real"]
    return Evaluation(
        n=n,
        comparable=n >= REPORTABLE,
        metrics={
            name: Metric(
                generated=generated[name],
                real=real[name],
                ratio=generated[name] / real[name] if name in RATIOS else None,
            )
            for name in generated
        },
        generated_histogram=seen["generated"].histogram.tolist(),
        real_histogram=seen["real"].histogram.tolist(),
    )
