"""Quality of generated images: each number next to those of real images.

Samples are compared with test images, both as bytes.  The floors are the numbers of equally many validation images,
which no network has seen, and of equally many training images.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from ncsn import metrics, plots
from ncsn.kinds.images.features import PROCESSOR, Features, FeaturesLike, choose
from ncsn.kinds.kind import Dataset
from ncsn.machine.messages import bar
from ncsn.quantization import quantize

REPORTABLE = 10_000
MIN_IMAGES = 10
RATIOS = ("frechet_distance", "kernel_distance", "pixel_wasserstein")  # numbers with a meaningful zero
VALUES = 2**23  # pixels converted to reals at a time (32 MB), because the data may be larger than memory


@dataclass(frozen=True)
class Metric:
    """A number about generated images, and the same number for real images.

    Ratios are None where they're meaningless: for numbers without a meaningful zero, for negative numbers (unbiased
    estimates can be), and for floors that aren't positive.

    ``generated``: the number for the generated images.
    ``held_out``: that for equally many validation images.
    ``training``: that for equally many training images.
    ``ratio``: ``generated`` over ``held_out``.
    ``ratio_to_training``: ``generated`` over ``training``.
    """

    generated: float
    held_out: float
    training: float
    ratio: float | None = None
    ratio_to_training: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Quality of samples: each number with its floors, and the share of each class, if there are any.

    ``n``: the number of samples.
    ``comparable``: whether there are 10,000, the number for which results are published.
    ``features``: the name of the features.
    ``dimensions``: their number.
    ``digest``: the sha256 of the network that computes them.
    ``accuracy``: the classifier's accuracy on validation images, if features are a classifier's.
    ``metrics``: the numbers by their names.
    ``class_names``: the names of the classes.
    ``generated_histogram``: the share of each class in the samples.
    ``held_out_histogram``: the same in equally many validation images.
    ``training_histogram``: the same in equally many training images.
    ``notes``: caveats about the numbers.
    """

    n: int
    comparable: bool
    features: str
    dimensions: int
    digest: str
    accuracy: float | None
    metrics: dict[str, Metric]
    class_names: list[str]
    generated_histogram: list[float]
    held_out_histogram: list[float]
    training_histogram: list[float]
    notes: list[str]

    def report(self) -> dict[str, object]:
        """The same for JSON, without empty fields."""
        return asdict(self, dict_factory=lambda items: {k: v for k, v in items if v not in (None, [], "")})

    def __str__(self) -> str:
        """The numbers as a table, with notes."""
        right = "" if self.accuracy is None else f", accuracy {self.accuracy:.1%} on validation images"
        lines = [*(f"note: {note}" for note in self.notes), f"features: {self.features}{right}"]
        lines.append(f"n = {self.n}{'' if self.comparable else ', too few to be comparable'}")
        lines.append(f"{'':<18}{'generated':>11}{'held out':>11}{'training':>11}{'ratio':>9}{'to training':>13}")
        for name, metric in self.metrics.items():
            numbers = f"{metric.generated:11.4g}{metric.held_out:11.4g}{metric.training:11.4g}"
            ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in (metric.ratio, metric.ratio_to_training)]
            lines.append(f"{name:<18}{numbers}{ratios[0]:>9}{ratios[1]:>13}".rstrip())
        return "\n".join(lines)


def as_bytes(pixels: Shaped[Tensor, "n c h w"], name: str = "the images") -> UInt8[Tensor, "n c h w"]:
    """Images as bytes.

    ``pixels``: bytes, which are returned as they are, or reals, which are clipped to [0, 1] and rounded.
    ``name``: their name in error messages.
    Raises ValueError for other dtypes, and for reals outside [−½, 1½].
    """
    if pixels.dtype == torch.uint8:
        return pixels
    # Samples may lie slightly outside the data's range; if they lie far outside, they have other units or are NaN.
    low, high = float(pixels.min()), float(pixels.max())
    if not (pixels.is_floating_point() and low >= -0.5 and high <= 1.5):
        raise ValueError(f"{name}: {pixels.dtype} from {low:g} to {high:g}; expected uint8, or reals in [0, 1]")
    return torch.cat([quantize(part.float()) for part in torch.split(pixels, 1000)])


def at_8_bits(images: Dataset) -> Dataset:
    """A dataset as bytes; ``images`` itself if it already has bytes."""
    if images.train.dtype == torch.uint8:
        return images
    train, validation, test = map(as_bytes, (images.train, images.validation, images.test))
    return replace(images, train=train, validation=validation, test=test)


def nearest(
    x: UInt8[Tensor, "n c h w"], data: UInt8[Tensor, "m c h w"]
) -> tuple[Float[Tensor, "n"], Int64[Tensor, "n"]]:
    """The distance, for pixels in [0, 1], from each image to the nearest image of a dataset, and the index of that.

    ``x``: the images, bytes (n, c, h, w).
    ``data``: the dataset, bytes (m, c, h, w).
    """
    x, data = x.cpu(), data.cpu()  # data may be larger than a GPU's memory
    size = max(1, VALUES // data.shape[1:].numel())
    distances, indices = [], []
    for part in bar(torch.split(x, 500), "nearest images"):
        vectors = part.flatten(1).float()
        near = [torch.cdist(vectors, chunk.flatten(1).float()).min(1) for chunk in torch.split(data, size)]
        chunk = torch.stack([distance for distance, _ in near]).argmin(0)
        index = torch.stack([where for _, where in near])[chunk, torch.arange(len(part))] + size * chunk
        # Recomputed exactly, because cdist's matrix product gives copies a distance above 0.
        distances.append((part.float() - data[index].float()).flatten(1).norm(dim=1) / 255)
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def pick_evenly(images: UInt8[Tensor, "m c h w"], n: int) -> UInt8[Tensor, "n c h w"]:
    """A fixed random choice of ``n`` images; the first 5,000 of MNIST's test images have other writers."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n].sort().values]


class Ruler:
    """Compares sets of images with test images; one ruler can judge any number of sets.

    Fréchet distance, KID, density and coverage are computed in features, the sliced Wasserstein distance in pixels.
    ``memorisation`` is the probability that a sample is closer to the training set than a test image is (½ is ideal;
    Mann–Whitney).  ``near_duplicates``, for 100 images or more, is the share of samples closer to it than 99 % of the
    test images, not counting test images that are in the training set.

    ``images``: the dataset.
    ``features``: a name as for ``choose``, ``Features``, or a function of bytes (b, c, h, w) that returns (b, f).
    ``n``: the number of images of each set and split, if there are as many.
    ``mirrored``: whether training mirrors images, so that mirrored copies count as copies.
    ``device``: where the ruler computes features.
    Raises ValueError for fewer than ten images.
    """

    def __init__(
        self,
        images: Dataset,
        features: FeaturesLike = "auto",
        n: int = REPORTABLE,
        *,
        mirrored: bool = False,
        device: torch.device = PROCESSOR,
    ) -> None:
        sizes = [len(images.test), len(images.validation), len(images.train)]
        self.n = min(n, *sizes)
        if self.n < MIN_IMAGES:
            counts = "{:,} test, {:,} validation and {:,} training images".format(*sizes)
            raise ValueError(f"found {n:,} samples, {counts}; evaluation needs at least {MIN_IMAGES} of each")
        data = at_8_bits(images)
        if features is None or isinstance(features, str):
            features = choose(data, features or "auto", device)
        if not isinstance(features, Features):
            features = Features(name=getattr(features, "__name__", "features"), embed=features)
        self.features, self.train, self.test = features, data.train, pick_evenly(data.test, self.n)
        if mirrored:
            self.train = torch.cat([data.train, data.train.flip(-1)])
        self.seen = features(self.test)
        self.to_train, _ = nearest(self.test, self.train)
        held_out = pick_evenly(data.validation, self.n)
        self.held_out = self.measure(held_out, nearest(held_out, self.train)[0])
        shuffled = torch.randperm(sizes[2], generator=torch.Generator().manual_seed(0))
        # The nearest training image of each is itself.
        self.training = self.measure(self.train[shuffled[: self.n]], torch.zeros(self.n))
        remarks = {
            f"only {self.n:,} of {n:,} samples are compared, because there are no more real images": self.n < n,
            "the data has more than 8 bits, but is compared at 8": images is not data,
            "only pixels are compared; features need classes, or pip install 'ncsn[features]'": (
                self.features.embed is None
            ),
            "the Fréchet distance is unreliable: there are fewer than two images per feature": self.n
            < 2 * self.seen.features.shape[1],
        }
        self.notes = [remark for remark, holds in remarks.items() if holds]

    def judge(self, samples: Shaped[Tensor, "k c h w"]) -> Evaluation:
        """All numbers about the first n samples, with their floors.

        ``samples``: images (k, c, h, w), bytes or reals in [0, 1].
        Raises ValueError for other shapes and numbers, and for fewer than n samples.
        """
        shape = tuple(self.test.shape[1:])
        if samples.shape[1:] != shape or len(samples) < self.n:
            raise ValueError(f"the samples have shape {tuple(samples.shape)}; expected at least {self.n} of {shape}")
        x = as_bytes(samples[: self.n].cpu(), "the samples")
        numbers, histogram = self.measure(x, nearest(x, self.train)[0])
        (held_out, held_out_histogram), (training, training_histogram) = self.held_out, self.training
        return Evaluation(
            n=self.n,
            comparable=self.n >= REPORTABLE,
            features=self.features.name,
            dimensions=self.seen.features.shape[1],
            digest=self.features.digest,
            accuracy=self.features.accuracy,
            metrics={name: with_floors(name, value, held_out[name], training[name]) for name, value in numbers.items()},
            class_names=list(self.features.class_names),
            generated_histogram=histogram,
            held_out_histogram=held_out_histogram,
            training_histogram=training_histogram,
            notes=self.notes,
        )

    def show(self, samples: Shaped[Tensor, "k c h w"], path: Path) -> None:
        """Draw up to 30 samples above their nearest training images."""
        shown = as_bytes(samples[: min(30, self.n // 10 * 10)])
        plots.image_pairs(shown, self.train[nearest(shown, self.train)[1]], path)

    def measure(
        self, x: UInt8[Tensor, "n c h w"], to_train: Float[Tensor, "n"]
    ) -> tuple[dict[str, float], list[float]]:
        """All numbers about n images, those in features first, and the share of each class."""
        from scipy.stats import mannwhitneyu  # a slow import

        numbers: dict[str, float] = {}
        seen, test = self.features(x), self.seen
        if self.features.embed is not None:
            kernel = {"kernel_distance": metrics.kernel_distance(seen.features, test.features)}
            frechet = {"frechet_distance": metrics.frechet_distance(seen.features, test.features)}
            # The kernel distance comes first for few images, because the Fréchet distance is biased upwards.
            numbers = frechet | kernel if self.n >= REPORTABLE else kernel | frechet
            numbers["density"], numbers["coverage"] = metrics.density_coverage(test.features, seen.features)
        if self.features.class_names:
            # Total variation distance between the shares of the classes.
            numbers["class_variation"] = float((seen.histogram - test.histogram).abs().sum() / 2)
            numbers["confident"] = seen.confident
        numbers["pixel_wasserstein"] = metrics.sliced_wasserstein(x.flatten(1), self.test.flatten(1)) / 255
        numbers["memorisation"] = float(mannwhitneyu(self.to_train, to_train).statistic) / self.n**2
        if self.n >= 100:  # for the 1 % quantile
            apart = self.to_train[self.to_train > 0] if bool(self.to_train.any()) else self.to_train
            numbers["near_duplicates"] = (to_train <= apart.quantile(0.01)).float().mean().item()
        return numbers, seen.histogram.tolist() if self.features.class_names else []


def with_floors(name: str, generated: float, held_out: float, training: float) -> Metric:
    """A number with its floors, and ratios where they're meaningful."""
    meaningful = name in RATIOS and generated >= 0
    ratios = [generated / floor if meaningful and floor > 0 else None for floor in (held_out, training)]
    return Metric(generated, held_out, training, *ratios)
