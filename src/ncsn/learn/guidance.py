"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import UInt8
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
REAL_PER_SAMPLE = 4  # times as many held-out images are what samples are compared with
SLACK = 1.1  # by which samples may be farther in pixels: what as many real images vary by
NEARLY = 0.1  # of the way from unguided samples to real images: less is no reason for a larger weight
TRIALS, FEWEST_TRIALS = 1000, 64  # samples at each weight; with fewer none is chosen
EVALUATIONS = 1 / 10  # of the network, for each image that training has seen: a thirtieth of training's arithmetic


class Trial(NamedTuple):
    """How far samples guided by one ``weight`` are from held-out images: in features if any, and in pixels."""

    weight: float
    features: float | None
    pixels: float

    @property
    def distance(self) -> float:
        """In features, or else in pixels."""
        return self.pixels if self.features is None else self.features


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
    affordable = int(EVALUATIONS * seen / (len(WEIGHTS[sampling.guide]) * sampling.guided_nfe))
    n = min(TRIALS, len(held_out) // 3, affordable)
    if n < FEWEST_TRIALS:
        log.info("guidance 1: training was too short, or held-out images too few, to choose another")
        return 1.0
    rows = list(bar(trials(run, held_out, features, n, seed=seed), "choosing guidance"))
    choice, plain = best(rows), rows[1]
    log.info(
        f"guidance {choice.weight:g}: samples are {choice.distance:.2g} from held-out images, and {plain.distance:.2g}"
        f" without guidance ({features.name}, {n} samples a weight)"
    )
    return choice.weight


def trials(run: Run, held_out: UInt8[Tensor, "v c h w"], features: Features, n: int, *, seed: int) -> Iterator[Trial]:
    """``n`` samples at each weight, from the same noise and of the same classes, beside ``held_out`` images; but first
    real images, at 0.
    """
    real, compared = held_out[:n], features(held_out[n : (1 + REAL_PER_SAMPLE) * n]).features
    other = held_out[-n:]

    def trial(weight: float, x: UInt8[Tensor, "n c h w"]) -> Trial:
        seen = None if features.embed is None else metrics.kernel_distance(features(x).features, compared)
        far = metrics.sliced_wasserstein(reals(x).flatten(1), reals(other).flatten(1))
        return Trial(weight=weight, features=seen, pixels=far)

    yield trial(0.0, real)
    labels = run.labels(None, n, torch.Generator(run.device).manual_seed(seed + 1))
    for weight in WEIGHTS[run.recipe.sampling.guide]:
        x = run.sample(n, seed=seed, guidance=weight, label="none" if labels is None else labels)
        yield trial(weight, quantize(x).cpu())


def best(rows: Sequence[Trial]) -> Trial:
    """The smallest weight that is about as good as the best, among those that are no worse in pixels than none.

    Without features, the one that is best in pixels, if it is clearly better than none.
    """
    real, plain, *others = rows
    limit = SLACK * max(real.pixels, plain.pixels)
    allowed = [plain, *(t for t in others if t.pixels <= limit)]
    if plain.features is None:
        nearest = min(allowed, key=lambda t: t.pixels)
        return nearest if nearest.pixels * SLACK < plain.pixels else plain
    scores = [t.features for t in allowed if t.features is not None]
    enough = min(scores) + NEARLY * max(0.0, plain.features - (real.features or 0.0))
    return next(t for t, score in zip(allowed, scores, strict=True) if score <= enough)
