"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ncsn.data import Dataset
from ncsn.data.units import quantize, reals
from ncsn.evaluation import at_8_bits, metrics
from ncsn.evaluation.features import Features, choose, is_mnist, suitable
from ncsn.machine.messages import bar, log
from ncsn.run import Run
from ncsn.validation import GuideName

WEIGHTS: dict[GuideName, tuple[float, ...]] = {  # that are offered, smallest first
    "smaller": (1.0, 1.25, 1.5, 2.0),
    "unconditional": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0),
}
USUAL = 3  # weights that are tried; the search ends at the first that is no better
REAL_PER_SAMPLE = 4  # times as many held-out images are what samples are compared with
SLACK = 1.1  # by which samples may be farther in pixels: what as many real images vary by
# What others must be clearly better than.  A smaller guide that has learned little leads astray.
IN_DOUBT: dict[GuideName, float] = {"smaller": 1.0, "unconditional": 1.25}
CLEAR = 0.7  # standard errors of a gain: with more, few samples miss what short trainings need
TRIALS, FEWEST_TRIALS = 1000, 32  # samples at each weight; with fewer none is chosen
EVALUATIONS = 1 / 10  # of the network, for each image that training has seen: a thirtieth of training's arithmetic


class Trial(NamedTuple):
    """How far samples guided by one ``weight`` are from held-out images in pixels; and their features, if any."""

    weight: float
    seen: Float[Tensor, "n f"]
    pixels: float


def suited(dataset: Dataset, device: torch.device, *, thorough: bool) -> Features:
    """Features to choose by: of a classifier of the data's own classes, or of natural images, or pixels alone.

    ``thorough``: whether there is time to train a classifier, half a minute the first time; it is kept.
    EfficientNet is asked about colours only: of letters it sees nothing that guidance mends.
    """
    images = at_8_bits(dataset)
    name = "auto" if is_mnist(images) else suitable(images if thorough else replace(images, labels=None))
    return choose(images, "pixels" if name == "efficientnet" and images.shape[0] != 3 else name, device)


def chosen_weight(run: Run, dataset: Dataset, features: Features, *, seen: int, seed: int) -> float:
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
    compared = features(held_out[n : (1 + REAL_PER_SAMPLE) * n]).features
    limit = SLACK * metrics.sliced_wasserstein(*(reals(x).flatten(1) for x in (held_out[:n], held_out[-n:])))
    with bar(trials(run, held_out, features, n, seed=seed), "choosing guidance", total=USUAL) as rows:
        plain, choice = climbed(iter(rows), compared, limit, doubt)

    def distance(trial: Trial) -> float:
        return metrics.kernel_distance(trial.seen, compared) if compared.numel() else trial.pixels

    log.info(
        f"guidance {choice.weight:g}: samples are {distance(choice):.2g} from held-out images, and"
        f" {distance(plain):.2g} without guidance ({features.name}, {n} samples a weight)"
    )
    return choice.weight


def trials(run: Run, held_out: UInt8[Tensor, "v c h w"], features: Features, n: int, *, seed: int) -> Iterator[Trial]:
    """``n`` samples at each weight, from the same noise and of the same classes, beside the last ``held_out``."""
    other = reals(held_out[-n:]).flatten(1)
    labels = run.labels(None, n, torch.Generator(run.device).manual_seed(seed + 1))
    for weight in WEIGHTS[run.recipe.sampling.guide]:
        x = quantize(run.sample(n, seed=seed, guidance=weight, label="none" if labels is None else labels)).cpu()
        yield Trial(weight, features(x).features, metrics.sliced_wasserstein(reals(x).flatten(1), other))


def climbed(rows: Iterator[Trial], compared: Float[Tensor, "m f"], limit: float, doubt: float) -> tuple[Trial, Trial]:
    """Unguided samples, and those of the weight that is chosen.

    It is ``doubt`` where unguided samples are not clearly nearer to real images, or else the last weight up to which
    each is clearly nearer than the one before.  Where there are no features, a tenth of the pixels' distance stands for
    the error of a gain.  None is chosen that is farther in pixels than both the ``limit`` and unguided samples, by
    which real images vary.
    """
    plain = choice = next(rows)
    limit = max(limit, SLACK * plain.pixels)
    for row in rows:
        gain, error = choice.pixels - row.pixels, (SLACK - 1) * plain.pixels
        if compared.numel():
            gain, error = metrics.kernel_gain(choice.seen, row.seen, compared)
        if row.pixels > limit or not gain > CLEAR * (-error if row.weight <= doubt else error):
            break
        choice = row
    return plain, choice
