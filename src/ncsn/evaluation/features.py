"""What a network sees in images: the features in which sets of them are compared, and the classes where it has some."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ncsn.networks.classifier import Classifier
from ncsn.progress import refresh_interval


@dataclass(frozen=True)
class Judged:
    """What a network sees in a set of images; k is 0 where it knows no classes."""

    features: Float[Tensor, "n f"]
    probabilities: Float[Tensor, "n k"]

    @property
    def confident(self) -> float:
        """The share that is some class with a probability over 0.9.  Noise can be, so it says nothing alone."""
        return (self.probabilities.amax(1) > 0.9).float().mean().item()

    @property
    def histogram(self) -> Float[Tensor, "k"]:
        """The share of each class."""
        n, k = self.probabilities.shape
        return torch.bincount(self.probabilities.argmax(1), minlength=k) / n


@dataclass(frozen=True, kw_only=True)
class Features:
    """A way to see images.

    ``name``: what it is.  ``embed``: bytes (b, c, h, w) → features (b, f) with f ≥ 2; None to compare pixels only.
    ``head``: features → the logits of the ``classes``, if there are any.  ``frechet``: what the Fréchet distance is
    called; only Inception's is an FID.  ``digest``: sha256 of the weights.  ``accuracy``: the share of the validation
    images whose class is right.  ``batch``: how many images at a time.
    """

    name: str
    embed: Callable[[Tensor], Tensor] | None
    head: Callable[[Tensor], Tensor] | None = None
    classes: tuple[str, ...] = ()
    frechet: str = "frechet_distance"
    digest: str = ""
    accuracy: float | None = None
    batch: int = 500

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n c h w"]) -> Judged:
        """Features and class probabilities, under a progress bar if it takes over a second.

        Pixels alone have no features: f is 0.
        """
        if self.embed is None:
            return Judged(torch.empty(len(images), 0), torch.empty(len(images), 0))
        parts = []
        with tqdm(
            total=len(images), desc=self.name, unit="image", delay=1, leave=False, mininterval=refresh_interval()
        ) as bar:
            for part in torch.split(images, self.batch):
                parts.append(self.embed(part))
                bar.update(len(part))
        features = torch.cat(parts)
        probabilities = features[:, :0] if self.head is None else self.head(features).softmax(1)
        return Judged(features.cpu(), probabilities.cpu())


PIXELS = Features(name="pixels", embed=None)
"""No features: only what can be said of pixels."""


def judge(classifier: Classifier, images: UInt8[Tensor, "n c h w"]) -> Judged:
    """What a classifier sees in images."""
    seen = Features(name="classifier", embed=lambda part: classifier.features(part.float() / 255), head=classifier.head)
    return seen(images)
