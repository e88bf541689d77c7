"""How good generated images are: every number beside what real images score, and how many were judged.

Samples are bytes, and so is what they are compared with: test images.  The floors are what as many validation images
score in the samples' place, which no network has seen, and as many training images, which some have.
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
FEWEST_IMAGES = 10
RATIOS = ("frechet_distance", "kernel_distance", "pixel_wasserstein")  # of numbers whose zero means something
VALUES = 2**23  # pixels that are reals at a time, 32 MB: the data may be larger than memory


@dataclass(frozen=True)
class Metric:
    """A number about generated images, and what real images get in their place.

    A ratio is None where it makes no sense: of numbers whose zero means nothing, of a negative number (as unbiased ones
    can be), or to a floor that is not positive.

    ``generated``: the number of the generated images.
    ``held_out``: that of as many validation images.
    ``training``: that of as many training images.
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
    """How good samples are: every number beside its floors, and the share of each class, if there are any.

    ``n``: how many samples were judged.
    ``comparable``: whether they are 10,000, the number for which results are reported.
    ``features``: the name of the features that the images were compared in.
    ``dimensions``: how many numbers these have.
    ``digest``: the sha256 of the weights that compute them.
    ``accuracy``: the share of the validation images that the classifier gets right, if it is one.
    ``metrics``: the numbers, by their names.
    ``class_names``: their names.
    ``generated_histogram``: the share of each class in the samples.
    ``held_out_histogram``: in as many validation images.
    ``training_histogram``: in as many training images.
    ``notes``: what a reader of the numbers must know.
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
        """The same as JSON takes it; what there is none of is left out."""
        return asdict(self, dict_factory=lambda items: {k: v for k, v in items if v not in (None, [], "")})

    def __str__(self) -> str:
        """The numbers as a table, and what a reader must know about them."""
        right = "" if self.accuracy is None else f", {self.accuracy:.1%} right on the validation images"
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

    ``pixels``: bytes, which stay as they are, or reals in [0, 1], which are rounded; those a little beyond are clipped.
    ``name``: what errors call them.
    Raises ValueError for other numbers, and for reals beyond [−½, 1½].
    """
    if pixels.dtype == torch.uint8:
        return pixels
    # Samples lie a little outside of the data's range; those that lie far outside are in other units, or NaN.
    low, high = float(pixels.min()), float(pixels.max())
    if not (pixels.is_floating_point() and low >= -0.5 and high <= 1.5):
        raise ValueError(f"{name}: {pixels.dtype} from {low:g} to {high:g}; uint8, or reals in [0, 1], are needed")
    return torch.cat([quantize(part.float()) for part in torch.split(pixels, 1000)])


def at_8_bits(images: Dataset) -> Dataset:
    """A data set as bytes.

    ``images``: the data set; of bytes it is returned itself.
    """
    if images.train.dtype == torch.uint8:
        return images
    train, validation, test = map(as_bytes, (images.train, images.validation, images.test))
    return replace(images, train=train, validation=validation, test=test)


def nearest(
    x: UInt8[Tensor, "n c h w"], data: UInt8[Tensor, "m c h w"]
) -> tuple[Float[Tensor, "n"], Int64[Tensor, "n"]]:
    """The distance from each image to the nearest one of a data set, for pixels in [0, 1], and its index.

    ``x``: the images, bytes (n, c, h, w).
    ``data``: the data set, bytes (m, c, h, w).
    """
    x, data = x.cpu(), data.cpu()  # data may be larger than a GPU's memory
    size = max(1, VALUES // data.shape[1:].numel())
    distances, indices = [], []
    for part in bar(torch.split(x, 500), "nearest images"):
        vectors = part.flatten(1).float()
        near = [torch.cdist(vectors, chunk.flatten(1).float()).min(1) for chunk in torch.split(data, size)]
        chunk = torch.stack([distance for distance, _ in near]).argmin(0)
        index = torch.stack([where for _, where in near])[chunk, torch.arange(len(part))] + size * chunk
        # Once more and exactly, as a matrix product leaves a copy at some distance from itself.
        distances.append((part.float() - data[index].float()).flatten(1).norm(dim=1) / 255)
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def spread(images: UInt8[Tensor, "m c h w"], n: int) -> UInt8[Tensor, "n c h w"]:
    """So many of the images, from everywhere among them: the first 5,000 of MNIST's test images are by other hands."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n].sort().values]


class Ruler:
    """Measures sets of images beside test images; make it once, and judge any number of sets with it.

    Fréchet distance, KID, density and coverage are between features; the sliced Wasserstein distance is over pixels.
    ``memorisation`` is the probability that a sample is nearer to the training set than a test image is (½ is ideal;
    Mann–Whitney), ``near_duplicates``, of 100 and more, the share nearer than all but 1 % of the test images, without
    those that are in the training set themselves.

    ``images``: the data.
    ``features``: what distances are measured in: a name as for ``choose``, ``Features``, or a function of bytes
    (b, c, h, w) that returns (b, f).
    ``n``: how many images of each set and of each part of the data are compared, if there are as many.
    ``mirrored``: whether training has mirrored images, so that a mirrored copy is a copy.
    ``device``: where features are computed that it makes itself.
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
        if self.n < FEWEST_IMAGES:
            counts = "{:,} test, {:,} validation and {:,} training images".format(*sizes)
            raise ValueError(f"there are {n:,} samples, {counts}; at least {FEWEST_IMAGES} of each are needed")
        data = at_8_bits(images)
        if features is None or isinstance(features, str):
            features = choose(data, features or "auto", device)
        if not isinstance(features, Features):
            features = Features(name=getattr(features, "__name__", "features"), embed=features)
        self.features, self.train, self.test = features, data.train, spread(data.test, self.n)
        if mirrored:
            self.train = torch.cat([data.train, data.train.flip(-1)])
        self.seen = features(self.test)
        self.to_train, _ = nearest(self.test, self.train)
        held_out = spread(data.validation, self.n)
        self.held_out = self.measure(held_out, nearest(held_out, self.train)[0])
        shuffled = torch.randperm(sizes[2], generator=torch.Generator().manual_seed(0))
        self.training = self.measure(self.train[shuffled[: self.n]], torch.zeros(self.n))  # each is its own nearest
        remarks = {
            f"{self.n:,} of {n:,} samples are compared: there are no more real images": self.n < n,
            "the data has more than 8 bits; it is compared at 8": images is not data,
            "only pixels are compared; features need classes, or pip install 'ncsn[features]'": (
                self.features.embed is None
            ),
            "the training images are in shards, and only some are compared": images.shards is not None,
            "the Fréchet distance is unreliable: there are fewer than two images a feature": self.n
            < 2 * self.seen.features.shape[1],
        }
        self.notes = [remark for remark, holds in remarks.items() if holds]

    def judge(self, samples: Shaped[Tensor, "k c h w"]) -> Evaluation:
        """All numbers about the first n samples, beside their floors.

        ``samples``: images (k, c, h, w), bytes or reals in [0, 1].
        Raises ValueError if they differ in shape from the data, are other numbers, or are fewer than n.
        """
        shape = tuple(self.test.shape[1:])
        if samples.shape[1:] != shape or len(samples) < self.n:
            raise ValueError(f"the samples have shape {tuple(samples.shape)}; at least {self.n} of {shape} are needed")
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
            metrics={name: beside(name, value, held_out[name], training[name]) for name, value in numbers.items()},
            class_names=list(self.features.class_names),
            generated_histogram=histogram,
            held_out_histogram=held_out_histogram,
            training_histogram=training_histogram,
            notes=self.notes,
        )

    def show(self, samples: Shaped[Tensor, "k c h w"], path: Path) -> None:
        """Draw up to 30 samples above the training images that are nearest to them."""
        shown = as_bytes(samples[: min(30, self.n // 10 * 10)])
        plots.image_pairs(shown, self.train[nearest(shown, self.train)[1]], path)

    def measure(
        self, x: UInt8[Tensor, "n c h w"], to_train: Float[Tensor, "n"]
    ) -> tuple[dict[str, float], list[float]]:
        """All numbers about as many images, those of features first, and the share of each class, if there are any."""
        from scipy.stats import mannwhitneyu  # here, because it takes as long as a quarter of torch

        numbers: dict[str, float] = {}
        seen, test = self.features(x), self.seen
        if self.features.embed is not None:
            kernel = {"kernel_distance": metrics.kernel_distance(seen.features, test.features)}
            frechet = {"frechet_distance": metrics.frechet_distance(seen.features, test.features)}
            # The kernel's is unbiased; the other is too large unless there are many.
            numbers = frechet | kernel if self.n >= REPORTABLE else kernel | frechet
            numbers["density"], numbers["coverage"] = metrics.density_coverage(test.features, seen.features)
        if self.features.class_names:
            # The total variation distance between the shares of the classes.
            numbers["class_variation"] = float((seen.histogram - test.histogram).abs().sum() / 2)
            numbers["confident"] = seen.confident
        numbers["pixel_wasserstein"] = metrics.sliced_wasserstein(x.flatten(1), self.test.flatten(1)) / 255
        numbers["memorisation"] = float(mannwhitneyu(self.to_train, to_train).statistic) / self.n**2
        if self.n >= 100:  # fewer have no such quantile
            apart = self.to_train[self.to_train > 0] if bool(self.to_train.any()) else self.to_train
            numbers["near_duplicates"] = (to_train <= apart.quantile(0.01)).float().mean().item()
        return numbers, seen.histogram.tolist() if self.features.class_names else []


def beside(name: str, generated: float, held_out: float, training: float) -> Metric:
    """A number beside its floors, and ratios where they make sense."""
    meaningful = name in RATIOS and generated >= 0
    ratios = [generated / floor if meaningful and floor > 0 else None for floor in (held_out, training)]
    return Metric(generated, held_out, training, *ratios)
