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
USUAL = 3  # scales that are usually tried; the search stops at the first that doesn't improve
REAL_PER_SAMPLE = 4  # held-out images per sample
ALIKE = 0.1  # relative variation of the pixel distance between equally many real images
# The scale that others must clearly beat; 1 for smaller guides, because a guide that has learned little misleads.
IN_DOUBT: dict[GuideName, float] = {"smaller": 1.0, "unconditional": 1.25}
CLEAR = 1.0  # standard errors of a clear gain; fewer would follow chance, more would miss gains of short trainings
TINY = 1e-12  # stands for an error of 0, as of identical samples
TRIALS, MIN_TRIALS = 1000, 32  # samples per scale; with fewer, the default scale is used
EVALUATIONS = 1 / 10  # network evaluations per training image, a thirtieth of the arithmetic of training


class Trial(NamedTuple):
    """Samples at a guidance scale, or real images: their features, if there are any, and their pixels."""

    weight: float
    seen: Float[Tensor, "n f"]
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
    if seconds > 0 and choose_name(images) == "classifier" and len(images.validation) >= 3 * MIN_TRIALS:
        try:
            return own_classifier(images, device, effort, seconds)
        except TimeoutError as error:
            log.info(f"guidance will be chosen without a classifier, because {error}")
    name = choose_name(replace(images, labels=None)) if images.shape[0] == 3 else "pixels"
    return choose(images, name, device)


def choose_weight(run: Run, dataset: Dataset, features: Features, *, seen: int, seed: int, effort: float) -> float:
    """Choose the guidance scale of a run by samples at several scales, and print it with the distances.

    ``seen``: the number of images that training has seen, which determines the number of samples.
    ``effort``: the share of ``TRIALS`` that is drawn at most.
    """
    held_out, sampling = at_8_bits(dataset).validation, run.recipe.sampling
    doubt = IN_DOUBT[sampling.guide]
    affordable = int(EVALUATIONS * seen / (USUAL * sampling.guided_nfe))
    n = min(round(effort * TRIALS), len(held_out) // 3, affordable)
    if n < MIN_TRIALS:
        log.info(f"guidance {doubt:g}: training was too short, or there are too few held-out images, to choose it")
        return doubt
    labels = run.recipe.labels(None, n, torch.Generator(run.device).manual_seed(seed + 1))

    def trial(weight: float, images: UInt8[Tensor, "n c h w"]) -> Trial:
        return Trial(weight, features(images).features, reals(images).flatten(1))

    def draw(weight: float) -> Trial:
        """Samples from the same noise and for the same classes at every scale."""
        x = run.sample(n, seed=seed, guidance=weight, label="none" if labels is None else labels)
        return trial(weight, quantize(x).cpu())

    real = trial(1.0, held_out[: REAL_PER_SAMPLE * n])
    with bar(map(draw, WEIGHTS[sampling.guide]), "choosing guidance", total=USUAL) as rows:
        plain, choice = climb(iter(rows), real, doubt)
    now, without = (f"{distance(each, real):.2g}" for each in (choice, plain))
    found = f"{now}, {without} without guidance ({features.name}, {n} samples per scale)"
    log.info(f"guidance {choice.weight:g}: the distance of samples from held-out images is {found}")
    return choice.weight


def climb(rows: Iterator[Trial], compared: Trial, doubt: float) -> tuple[Trial, Trial]:
    """Return the unguided trial and the chosen one.

    That is the default scale, ``doubt``, unless unguided samples are clearly closer to real images; from there the
    scale is raised as long as samples clearly improve.
    """
    plain = choice = next(rows)
    for row in rows:
        if not gain(choice, row, compared) > (-CLEAR if row.weight <= doubt else CLEAR):
            break
        choice = row
    return plain, choice


def gain(before: Trial, after: Trial, compared: Trial) -> float:
    """By how many standard errors the distance to real images has decreased.

    Features and pixels count equally, because a classifier prefers guidance that makes strokes too bold.  Without
    features, a tenth of the pixel distance stands for the standard error.
    """
    if not compared.seen.numel():
        was, now = distance(before, compared), distance(after, compared)
        return (was - now) / max(ALIKE * was, TINY)
    spaces = zip(before[1:], after[1:], compared[1:], strict=True)
    gains = [difference / max(error, TINY) for difference, error in (metrics.kernel_gain(*space) for space in spaces)]
    return float(sum(gains) / len(gains) ** 0.5)


def distance(samples: Trial, compared: Trial) -> float:
    """The distance of samples from real images, in features, or without them from equally many in pixels."""
    if compared.seen.numel():
        return metrics.kernel_distance(samples.seen, compared.seen)
    return metrics.sliced_wasserstein(samples.pixels, compared.pixels[-len(samples.pixels) :])
