"""How generated images are measured: against test images, beside what held-out and training images score.

Samples are bytes, and so is what they are compared with.  The floors are what as many validation images score in the
samples' place, which no network has seen, and as many training images, which some have.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ncsn import metrics
from ncsn.data import Images
from ncsn.evaluation.chosen import choose
from ncsn.evaluation.features import Features, Judged
from ncsn.evaluation.report import Evaluation, compared
from ncsn.evaluation.samples import at_8_bits
from ncsn.progress import refresh_interval

REPORTABLE = 10_000
FEWEST = 10
VALUES = 2**23  # pixels that are reals at a time, 32 MB: the data may be larger than memory


def nearest(
    x: UInt8[Tensor, "n c h w"], data: UInt8[Tensor, "m c h w"]
) -> tuple[Float[Tensor, "n"], Int64[Tensor, "n"]]:
    """The distance from each image to the nearest of ``data`` (pixels in [0, 1]), and that one's index."""
    x, data = x.cpu(), data.cpu()  # data may be larger than a GPU's memory
    at_a_time = max(1, VALUES // max(1, data[0].numel()))
    best, index = torch.full((len(x),), float("inf")), torch.zeros(len(x), dtype=torch.long)
    with tqdm(
        total=len(data), desc="nearest images", unit="image", delay=1, leave=False, mininterval=refresh_interval()
    ) as bar:
        for start in range(0, len(data), at_a_time):
            points = data[start : start + at_a_time].flatten(1).float().div_(255)
            for rows in torch.split(torch.arange(len(x)), 500):
                distance, where = torch.cdist(x[rows].flatten(1).float() / 255, points).min(1)
                closer = distance < best[rows]
                best[rows[closer]], index[rows[closer]] = distance[closer], where[closer] + start
            bar.update(len(points))
    # Once more and exactly, as a matrix product leaves a copy at some distance from itself.
    pairs = zip(torch.split(x, 500), torch.split(index, 500), strict=True)
    exact = [(some.float() - data[their].float()).flatten(1).norm(dim=1) / 255 for some, their in pairs]
    return torch.cat(exact), index


@dataclass(frozen=True)
class Scores:
    """All numbers about a set of images, and the share of each class, if there are any."""

    numbers: dict[str, float]
    histogram: list[float]


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """What sets of ``n`` images are measured with: made once by ``Ruler.of``, good for any number of them.

    ``train``: all training images.  ``test``: those that others are compared with, and how ``seen``.  ``to_train``: how
    far each is from the nearest training image.  ``notes``: what a reader of the numbers must know.
    """

    features: Features
    train: UInt8[Tensor, "m c h w"]
    test: UInt8[Tensor, "n c h w"]
    seen: Judged
    to_train: Float[Tensor, "n"]
    notes: tuple[str, ...]
    held_out: UInt8[Tensor, "n c h w"]

    @classmethod
    def of(cls, images: Images, features: Features | None = None, n: int = REPORTABLE) -> "Ruler":
        """The ruler for ``n`` images, or for as many as there are of each part of the data.

        ``features``: what distances are measured in; by default what suits the data (see ``choose``).
        Raises ValueError for fewer than ten.
        """
        parts = [len(images.test), len(images.validation), len(images.train)]
        listed = "{:,} test, {:,} validation and {:,} training images".format(*parts)
        possible = min(n, *parts)
        if possible < FEWEST:
            raise ValueError(f"there are {n:,} samples, {listed}; at least {FEWEST} of each are needed")
        said = [f"{possible:,} of {n:,} samples are judged: there are {listed}"] if possible < n else []
        if images.train.dtype != torch.uint8:
            said.append("the data has more than 8 bits, and is judged at 8")
        if images.shards is not None:
            said.append(
                f"of {images.n:,} training images, in shards, {parts[2]:,} are looked at: they are the training set"
            )
        images = at_8_bits(images)
        features = choose(images) if features is None else features
        test = images.test[:possible]
        seen = features(test)
        if possible < 2 * seen.features.shape[1]:
            said.append(
                f"the Fréchet distance is unreliable: {possible:,} images for {seen.features.shape[1]:,} features, "
                "not twice as many"
            )
        if features.accuracy is not None:
            said.append("the classifier was trained on the training images: compare with held-out ones")
        return cls(
            features=features,
            train=images.train,
            test=test,
            seen=seen,
            to_train=nearest(test, images.train)[0],
            notes=tuple(said),
            held_out=images.validation[:possible],
        )

    @cached_property
    def floors(self) -> tuple[Scores, Scores]:
        """What validation images score, and training images."""
        n = len(self.test)
        shuffled = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        held_out = self.measure(self.held_out, nearest(self.held_out, self.train)[0])
        return held_out, self.measure(self.train[shuffled[:n]], torch.zeros(n))  # each is its own nearest

    def judge(self, samples: UInt8[Tensor, "k c h w"]) -> Evaluation:
        """All numbers about the first n ``samples``, beside their floors.

        Raises ValueError if they differ in shape from the data, or if there are fewer than n.
        """
        samples, n, shape = samples.cpu(), len(self.test), tuple(self.test.shape[1:])
        if samples.shape[1:] != shape:
            raise ValueError(f"the samples have shape {tuple(samples.shape[1:])}, the data {shape}; they must be equal")
        if len(samples) < n:
            raise ValueError(f"there are {len(samples)} samples; this ruler is for {n}")
        held_out, training = self.floors
        generated = self.measure(samples[:n], nearest(samples[:n], self.train)[0])
        return Evaluation(
            n=n,
            comparable=n >= REPORTABLE,
            features=self.features.name,
            dimensions=self.seen.features.shape[1],
            digest=self.features.digest,
            accuracy=self.features.accuracy,
            metrics={
                name: compared(name, value, held_out.numbers[name], training.numbers[name])
                for name, value in generated.numbers.items()
            },
            classes=self.features.classes,
            generated_histogram=generated.histogram,
            held_out_histogram=held_out.histogram,
            training_histogram=training.histogram,
            notes=self.notes,
        )

    def measure(self, x: UInt8[Tensor, "n c h w"], to_train: Float[Tensor, "n"]) -> Scores:
        """All numbers about as many images, those of features first."""
        from scipy.stats import mannwhitneyu  # here, because it takes as long as a quarter of torch

        seen = self.features(x)
        numbers = {
            **(self.of_features(seen) if self.features.embed is not None else {}),
            **(self.of_classes(seen) if self.features.classes else {}),
            "pixel_wasserstein": metrics.sliced_wasserstein(x.flatten(1), self.test.flatten(1)) / 255,
            "memorisation": float(mannwhitneyu(self.to_train, to_train).statistic) / len(x) ** 2,
            "near_duplicates": (to_train <= self.to_train.quantile(0.01)).float().mean().item(),
        }
        return Scores(numbers, seen.histogram.tolist() if self.features.classes else [])

    def of_features(self, seen: Judged) -> dict[str, float]:
        """Distances between sets, and how well one covers the other."""
        x, test = seen.features, self.seen.features
        kernel = {"kernel_distance": metrics.kernel_distance(x, test)}
        frechet = {self.features.frechet: metrics.frechet_distance(x, test)}
        density, coverage = metrics.density_coverage(test, x)
        # The kernel's is unbiased; the other is too large unless there are many.
        first = frechet | kernel if len(x) >= REPORTABLE else kernel | frechet
        return first | {"density": density, "coverage": coverage}

    def of_classes(self, seen: Judged) -> dict[str, float]:
        """How the classes are shared out, and how sure the classifier is of them."""
        variation = metrics.total_variation(seen.histogram, self.seen.histogram)
        return {"class_variation": variation, "confident": seen.confident}


def evaluate(samples: UInt8[Tensor, "n c h w"], images: Images, features: Features | None = None) -> Evaluation:
    """All numbers about ``samples``, compared with the test images of the data, as many as there are of each.

    ``features``: what distances are measured in; by default what suits the data (see ``choose``).
    Fréchet distance, KID, density and coverage are between features; the sliced Wasserstein distance is over pixels.
    ``memorisation`` is the probability that a sample is nearer to the training set than a test image is (½ is ideal;
    Mann–Whitney), ``near_duplicates`` the share nearer than all but 1 % of the test images.
    Raises ValueError if samples and data differ in shape, and for fewer than ten images of a kind.
    """
    return Ruler.of(images, features, len(samples)).judge(samples)
