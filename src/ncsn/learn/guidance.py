"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from ncsn.data import Images
from ncsn.data.pixels import quantize, reals
from ncsn.evaluation import metrics
from ncsn.evaluation.features import PIXELS, Features, choose, is_mnist, suitable
from ncsn.recipe import Label, Recipe
from ncsn.run import Run
from ncsn.samplers import GUIDED, Sampling
from ncsn.validation import GuideName

WEIGHTS: dict[GuideName, tuple[float, ...]] = {  # that are offered, smallest first
    "smaller": (1.0, 1.25, 1.5, 2.0),
    "unconditional": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0),
}
COMPARED = 4  # times as many held-out images are what samples are compared with
SLACK = 1.1  # by which samples may be farther in pixels: what as many real images vary by
NEARLY = 0.1  # of the way from unguided samples to real images: less is no reason for a larger weight


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How far samples guided by one ``weight`` are from held-out images: in features if any, and in pixels."""

    weight: float
    features: float | None
    pixels: float


def suited(images: Images, device: torch.device, *, thorough: bool) -> Features:
    """Features to choose by: of a classifier of the data's own classes, or of natural images, or pixels alone.

    ``thorough``: whether there is time to train a classifier, half a minute the first time; it is kept.
    EfficientNet is asked about colours only: of letters it sees nothing that guidance mends.
    """
    if is_mnist(images):
        return choose(images, "auto", device)
    name = suitable(images if thorough else replace(images, labels=None))
    return PIXELS if name == "efficientnet" and images.shape[0] != 3 else choose(images, name, device)


def weights(recipe: Recipe) -> tuple[float, ...]:
    """What to choose among."""
    return WEIGHTS[recipe.sampling.guide]


def seen(recipe: Recipe) -> int:
    """How many images' features a sample costs."""
    return COMPARED + 1 + len(weights(recipe))


def trials(run: Run, held_out: UInt8[Tensor, "v c h w"], features: Features, n: int, *, seed: int) -> Iterator[Trial]:
    """``n`` samples at each weight, from the same noise and of the same classes, beside ``held_out`` images; but first
    real images, at 0.

    They have their way in common as far down as no guide acts.
    """
    real, compared = held_out[:n], features(held_out[n : (1 + COMPARED) * n]).features
    other = held_out[-n:]

    def trial(weight: float, x: UInt8[Tensor, "n c h w"]) -> Trial:
        seen = None if features.embed is None else metrics.kernel_distance(features(x).features, compared)
        far = metrics.sliced_wasserstein(reals(x).flatten(1), reals(other).flatten(1))
        return Trial(weight=weight, features=seen, pixels=far)

    yield trial(0.0, real)
    unguided, guided = parted(run.recipe.sampling)
    start = None
    labels = run.labels(None, n, torch.Generator(run.device).manual_seed(seed + 2))
    label: Label = "none" if labels is None else labels
    if unguided:
        begun = run.steps(n, seed=seed, guidance=1.0, label=label)
        start = next(step.x for step in begun if step.sigma <= guided[0])
    for weight in weights(run.recipe):
        x = run.sample(n, seed=seed + 1, guidance=weight, label=label, levels=guided, start=start)
        yield trial(weight, quantize(x).cpu())


def parted(sampling: Sampling) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The noise levels that are left before guidance begins, and all others from the one where it does."""
    ladder = sampling.ladder().tolist()
    above = sum(sigma > sampling.guided_between[1] for sigma in ladder[:-1])
    return tuple(ladder[:above]), tuple(ladder[above:])


def evaluations(recipe: Recipe) -> float:
    """How often the network is asked for one noise at all weights; a smaller guide is a quarter of it."""
    sampling, number = recipe.sampling, len(weights(recipe))
    unguided, rest = parted(sampling)
    guided = sum(sigma >= sampling.guided_between[0] for sigma in rest)
    levels = len(unguided) + len(rest) * number + guided * (number - 1) * (GUIDED[sampling.guide] - 1)
    return levels * sampling.nfe / (len(unguided) + len(rest))


def best(found: Sequence[Trial]) -> Trial:
    """The smallest weight that is about as good as the best, among those that are no worse in pixels than none.

    Without features, the one that is best in pixels, if it is clearly better than none.
    """
    real, plain, *others = found
    limit = SLACK * max(real.pixels, plain.pixels)
    allowed = [plain, *(t for t in others if t.pixels <= limit)]
    if plain.features is None:
        nearest = min(allowed, key=lambda t: t.pixels)
        return nearest if nearest.pixels * SLACK < plain.pixels else plain
    scores = [t.features for t in allowed if t.features is not None]
    enough = min(scores) + NEARLY * max(0.0, plain.features - (real.features or 0.0))
    return next(t for t, score in zip(allowed, scores, strict=True) if score <= enough)


def said(choice: Trial, found: Sequence[Trial], n: int, features: Features) -> str:
    """What was chosen, and the numbers that say why."""
    plain = found[1]

    def pair(name: str, ours: float | None, theirs: float | None) -> str:
        return "" if ours is None or theirs is None else f", {name} {ours:.4f} ({theirs:.4f} without guidance)"

    numbers = pair(f"kernel distance in {features.name}", choice.features, plain.features)
    numbers += pair("pixel distance", choice.pixels, plain.pixels)
    allowed = ", ".join(f"{t.weight:g}" for t in found[1:])
    return f"guidance {choice.weight:g}, chosen among {allowed} by {n} samples beside held-out images{numbers}"
