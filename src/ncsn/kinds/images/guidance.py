"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ncsn import metrics
from ncsn.kinds.images.features import Features, choose, digits, is_mnist, suitable
from ncsn.kinds.images.judge import at_8_bits
from ncsn.kinds.kind import Dataset
from ncsn.machine.messages import bar, log
from ncsn.quantization import quantize, reals
from ncsn.run import Run
from ncsn.validation import GuideName

WEIGHTS: dict[GuideName, tuple[float, ...]] = {  # that are offered, smallest first
    "smaller": (1.0, 1.25, 1.5, 2.0),
    "unconditional": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0),
}
USUAL = 3  # weights that are tried; the search ends at the first that is no better
REAL_PER_SAMPLE = 4  # times as many held-out images are what samples are compared with
ALIKE = 0.1  # of a distance in pixels: what as many real images vary by
# What others must be clearly better than.  A smaller guide that has learned little leads astray.
IN_DOUBT: dict[GuideName, float] = {"smaller": 1.0, "unconditional": 1.25}
CLEAR = 1.0  # standard errors of a gain: with fewer, chance raises the weight; with more, short trainings miss theirs
TINY = 1e-12  # the error of samples that are all the same
TRIALS, FEWEST_TRIALS = 1000, 32  # samples at each weight; with fewer none is chosen
EVALUATIONS = 1 / 10  # of the network, for each image that training has seen: a thirtieth of training's arithmetic


class Trial(NamedTuple):
    """Samples guided by one ``weight``, or real images: what features have ``seen``, if there are any; and pixels."""

    weight: float
    seen: Float[Tensor, "n f"]
    pixels: Float[Tensor, "n p"]


def features_for(dataset: Dataset, device: torch.device, *, thorough: bool) -> Features:
    """Features to choose by: of a classifier of the data's own classes, or of natural images, or pixels alone.

    ``thorough``: whether there is time to train a classifier, one to three minutes the first time; it is kept.
    EfficientNet is asked about colours only: of letters it sees nothing that guidance mends.
    """
    images = at_8_bits(dataset)
    if is_mnist(images):
        return digits(device)
    name = suitable(images if thorough else replace(images, labels=None))
    return choose(images, "pixels" if name == "efficientnet" and images.shape[0] != 3 else name, device)


def choose_weight(run: Run, dataset: Dataset, features: Features, *, seen: int, seed: int) -> float:
    """The weight that suits the run, by samples at each of some; it is printed with the numbers that say why.

    ``seen``: how many images training has seen, by which the number of samples goes.
    """
    held_out, sampling = at_8_bits(dataset).validation, run.recipe.sampling
    doubt = IN_DOUBT[sampling.guide]
    affordable = int(EVALUATIONS * seen / (USUAL * sampling.guided_nfe))
    n = min(TRIALS, len(held_out) // 3, affordable)
    if n < FEWEST_TRIALS:
        log.info(f"guidance {doubt:g}: training was too short, or held-out images too few, to choose another")
        return doubt
    compared = trial(1.0, held_out[: REAL_PER_SAMPLE * n], features)
    with bar(trials(run, features, n, seed=seed), "choosing guidance", total=USUAL) as rows:
        plain, choice = climb(iter(rows), compared, doubt)

    def distance(samples: Trial) -> float:
        return metrics.kernel_distance(samples.seen, compared.seen) if compared.seen.numel() else far(samples, compared)

    log.info(
        f"guidance {choice.weight:g}: samples are {distance(choice):.2g} from held-out images, and"
        f" {distance(plain):.2g} without guidance ({features.name}, {n} samples a weight)"
    )
    return choice.weight


def trial(weight: float, images: UInt8[Tensor, "n c h w"], features: Features) -> Trial:
    """Images, and what features see in them."""
    return Trial(weight, features(images).features, reals(images).flatten(1))


def trials(run: Run, features: Features, n: int, *, seed: int) -> Iterator[Trial]:
    """``n`` samples at each weight, from the same noise and of the same classes."""
    labels = run.labels(None, n, torch.Generator(run.device).manual_seed(seed + 1))
    for weight in WEIGHTS[run.recipe.sampling.guide]:
        x = run.sample(n, seed=seed, guidance=weight, label="none" if labels is None else labels)
        yield trial(weight, quantize(x).cpu(), features)


def climb(rows: Iterator[Trial], compared: Trial, doubt: float) -> tuple[Trial, Trial]:
    """Unguided samples, and those of the weight that is chosen.

    It is ``doubt`` where unguided samples are not clearly nearer to real images, or else the last weight up to which
    each is clearly nearer than the one before.
    """
    plain = choice = next(rows)
    for row in rows:
        if not nearer(choice, row, compared) > (-CLEAR if row.weight <= doubt else CLEAR):
            break
        choice = row
    return plain, choice


def nearer(before: Trial, after: Trial, compared: Trial) -> float:
    """By how many standard errors samples have come nearer to real images.

    Features and pixels count alike: a classifier likes guidance that makes strokes too bold.  Where there are no
    features, a tenth of the distance in pixels stands for the error.
    """
    if not compared.seen.numel():
        was, now = far(before, compared), far(after, compared)
        return (was - now) / max(ALIKE * was, TINY)
    spaces = zip(before[1:], after[1:], compared[1:], strict=True)
    gains = [gain / max(error, TINY) for gain, error in (metrics.kernel_gain(*space) for space in spaces)]
    return float(sum(gains) / len(gains) ** 0.5)


def far(samples: Trial, compared: Trial) -> float:
    """How far samples are from as many real images in pixels."""
    return metrics.sliced_wasserstein(samples.pixels, compared.pixels[-len(samples.pixels) :])
