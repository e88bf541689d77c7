"""Choosing the guidance scale after training, by comparing samples with held-out images."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ncsn import metrics
from ncsn.batching import quantize, reals
from ncsn.data.dataset import Dataset
from ncsn.evaluation.images import Features, at_8_bits, choose, choose_name, digits, is_mnist, own_classifier
from ncsn.machine.messages import bar, log
from ncsn.run.run import Run
from ncsn.validation import GuideName

WEIGHTS: dict[GuideName, tuple[float, ...]] = {  # candidates, ascending
    "smaller": (1.0, 1.25, 1.5, 2.0),
    "unconditional": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0),
}
USUAL_SCALES = 3  # that are tried; the search stops at the first that doesn't improve
REAL_PER_SAMPLE = 4  # held-out images per sample
PIXEL_VARIATION = 0.1  # relative, of the pixel distance between equally many real images
# The scale that others must clearly beat; 1 for smaller guides, because a guide that has learned little misleads.
DEFAULT_SCALES: dict[GuideName, float] = {"smaller": 1.0, "unconditional": 1.25}
CLEAR_GAIN = 1.0  # standard errors; fewer would follow chance, more would miss gains of short trainings
TINY_ERROR = 1e-12  # stands for an error of 0, as of identical samples
MAX_SAMPLES, MIN_SAMPLES = 1000, 32  # per scale; with fewer, the default scale is used
EVALUATIONS_PER_IMAGE = 1 / 10  # network evaluations per training image, a thirtieth of the arithmetic of training


class Trial(NamedTuple):
    """Samples at a guidance scale, or real images: their features, if there are any, and their pixels."""

    weight: float
    features: Float[Tensor, "n f"]
    pixels: Float[Tensor, "n p"]


def features_for(dataset: Dataset, device: torch.device, *, seconds: float, effort: float) -> Features:
    """The features to compare samples in: of a classifier of the data's own classes, of EfficientNet, or pixels.

    ``seconds``: how long a classifier may be trained; it's cached.
    ``effort``: the share of the usual training images that it sees; all of them take one to three minutes.
    EfficientNet is used for RGB images only, because for letters it doesn't see what guidance improves.
    """
    images = at_8_bits(dataset)
    if is_mnist(images):
        return digits(device)
    if seconds > 0 and choose_name(images) == "classifier" and len(images.validation) >= 3 * MIN_SAMPLES:
        try:
            return own_classifier(images, device, effort, seconds)
        except TimeoutError as error:
            log.info(f"guidance will be chosen without a classifier, because {error}")
    name = choose_name(replace(images, labels=None)) if images.shape[0] == 3 else "pixels"
    return choose(images, name, device)


def choose_weight(run: Run, dataset: Dataset, features: Features, *, seen: int, seed: int, effort: float) -> float:
    """Choose the guidance scale of a run by samples at several scales, and print it with the distances.

    ``seen``: the number of images that training has seen, which determines the number of samples.
    ``effort``: the share of ``MAX_SAMPLES`` that is drawn at most.
    """
    held_out, sampling = at_8_bits(dataset).validation, run.recipe.sampling
    default = DEFAULT_SCALES[sampling.guide]
    affordable = int(EVALUATIONS_PER_IMAGE * seen / (USUAL_SCALES * sampling.guided_nfe))
    n = min(round(effort * MAX_SAMPLES), len(held_out) // 3, affordable)
    if n < MIN_SAMPLES:
        log.info(f"guidance {default:g}: training was too short, or there are too few held-out images, to choose it")
        return default
    labels = run.recipe.labels(None, n, torch.Generator(run.device).manual_seed(seed + 1))

    def trial(weight: float, images: UInt8[Tensor, "n c h w"]) -> Trial:
        return Trial(weight, features(images).features, reals(images).flatten(1))

    def draw(weight: float) -> Trial:
        """Samples from the same noise and for the same classes at every scale."""
        x = run.sample(n, seed=seed, guidance=weight, label="none" if labels is None else labels)
        return trial(weight, quantize(x).cpu())

    real = trial(1.0, held_out[: REAL_PER_SAMPLE * n])
    with bar(map(draw, WEIGHTS[sampling.guide]), "choosing guidance", total=USUAL_SCALES) as trials:
        unguided, best = climb(iter(trials), real, default)
    distances = f"{distance(best, real):.2g}, {distance(unguided, real):.2g} without guidance"
    details = f"({features.name}, {n} samples per scale)"
    log.info(f"guidance {best.weight:g}: the distance of samples from held-out images is {distances} {details}")
    return best.weight


def climb(trials: Iterator[Trial], real: Trial, default: float) -> tuple[Trial, Trial]:
    """Return the unguided trial and the chosen one.

    That is the ``default`` scale unless unguided samples are clearly closer to real images; from there the
    scale is raised as long as samples clearly improve.
    """
    unguided = best = next(trials)
    for trial in trials:
        if not gain(best, trial, real) > (-CLEAR_GAIN if trial.weight <= default else CLEAR_GAIN):
            break
        best = trial
    return unguided, best


def gain(before: Trial, after: Trial, real: Trial) -> float:
    """By how many standard errors the distance to real images has decreased.

    Features and pixels count equally, because a classifier prefers guidance that makes strokes too bold.  Without
    features, a tenth of the pixel distance stands for the standard error.
    """
    if not real.features.numel():
        old, new = distance(before, real), distance(after, real)
        return (old - new) / max(PIXEL_VARIATION * old, TINY_ERROR)
    by_features, error_of_features = metrics.kernel_gain(before.features, after.features, real.features)
    by_pixels, error_of_pixels = metrics.kernel_gain(before.pixels, after.pixels, real.pixels)
    gains = by_features / max(error_of_features, TINY_ERROR) + by_pixels / max(error_of_pixels, TINY_ERROR)
    return float(gains / 2**0.5)


def distance(samples: Trial, real: Trial) -> float:
    """The distance of samples from real images, in features, or without them from equally many in pixels."""
    if real.features.numel():
        return metrics.kernel_distance(samples.features, real.features)
    return metrics.sliced_wasserstein(samples.pixels, real.pixels[-len(samples.pixels) :])
