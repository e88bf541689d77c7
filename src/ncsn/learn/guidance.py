"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from ncsn.data import Images as Pictures
from ncsn.data.pixels import quantize, reals
from ncsn.evaluation import at_8_bits, metrics
from ncsn.evaluation.features import PIXELS, Features, choose, is_mnist, progress, suitable
from ncsn.learn.settings import Images
from ncsn.machine import hardware
from ncsn.run import Label, Run
from ncsn.samplers import Sampling
from ncsn.validation import GuideName

WEIGHTS: dict[GuideName, tuple[float, ...]] = {  # that are offered, smallest first
    "smaller": (1.0, 1.25, 1.5, 2.0),
    "unconditional": (1.0, 1.25, 1.5, 2.0, 3.0, 4.0),
}
REAL_PER_SAMPLE = 4  # times as many held-out images are what samples are compared with
SLACK = 1.1  # by which samples may be farther in pixels: what as many real images vary by
NEARLY = 0.1  # of the way from unguided samples to real images: less is no reason for a larger weight
TRIALS, FEWEST_TRIALS = 1000, 64  # samples at each weight; with fewer none is chosen
TRIALS_BY_STEPS = 256  # where no budget says how long they may take
TRIALS_SHARE = 1 / 30  # of the budget


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How far samples guided by one ``weight`` are from held-out images: in features if any, and in pixels."""

    weight: float
    features: float | None
    pixels: float


def suited(pictures: Pictures, device: torch.device, *, thorough: bool) -> Features:
    """Features to choose by: of a classifier of the data's own classes, or of natural images, or pixels alone.

    ``thorough``: whether there is time to train a classifier, half a minute the first time; it is kept.
    EfficientNet is asked about colours only: of letters it sees nothing that guidance mends.
    """
    images = at_8_bits(pictures)
    if is_mnist(images):
        return choose(images, "auto", device)
    name = suitable(images if thorough else replace(images, labels=None))
    return PIXELS if name == "efficientnet" and images.shape[0] != 3 else choose(images, name, device)


def affordable_trials(run: Run, settings: Images, held_out: UInt8[Tensor, "v c h w"], features: Features) -> int:
    """How many samples at each weight there is time for; 0 if so few would choose by chance."""
    most = min(TRIALS, len(held_out) // 3)
    if settings.minutes is None:
        n = min(TRIALS_BY_STEPS, most)
    else:
        sampling = run.recipe.sampling
        weights = len(WEIGHTS[sampling.guide])
        example, shown = torch.zeros(FEWEST_TRIALS, *run.recipe.shape, device=run.device), held_out[:20]
        each = weights * sampling.guided_nfe * seconds_of(lambda: run.score(example, 1.0), run.device) / len(example)
        if features.embed is not None:
            each += (REAL_PER_SAMPLE + 1 + weights) * seconds_of(lambda: features(shown), run.device) / len(shown)
        n = min(most, int(60 * settings.minutes * TRIALS_SHARE / each))
    return n if n >= FEWEST_TRIALS else 0


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes the second time; it is never compiled."""
    with torch.no_grad(), hardware.nothing_compiled():
        call()
        hardware.wait(device)
        began = time.perf_counter()
        call()
        hardware.wait(device)
    return time.perf_counter() - began


def chosen_weight(run: Run, settings: Images, held_out: UInt8[Tensor, "v c h w"], features: Features) -> float:
    """The weight that suits the run, by samples at each of some; it is printed with the numbers that say why."""
    n = affordable_trials(run, settings, held_out, features)
    if n == 0:
        print("guidance 1: there is too little time, or too few held-out images, to choose another")
        return 1.0
    rows = list(progress(trials(run, held_out, features, n, seed=settings.seed), "choosing guidance"))
    choice, plain = best(rows), rows[1]
    numbers = f", pixel distance {choice.pixels:.4f} ({plain.pixels:.4f} without guidance)"
    if choice.features is not None:
        seen = f", kernel distance in {features.name} {choice.features:.4f} ({plain.features:.4f} without guidance)"
        numbers = seen + numbers
    offered = ", ".join(f"{row.weight:g}" for row in rows[1:])
    print(f"guidance {choice.weight:g}, chosen among {offered} by {n} samples beside held-out images{numbers}")
    return choice.weight


def trials(run: Run, held_out: UInt8[Tensor, "v c h w"], features: Features, n: int, *, seed: int) -> Iterator[Trial]:
    """``n`` samples at each weight, from the same noise and of the same classes, beside ``held_out`` images; but first
    real images, at 0.

    They have their way in common as far down as no guide acts.
    """
    real, compared = held_out[:n], features(held_out[n : (1 + REAL_PER_SAMPLE) * n]).features
    other = held_out[-n:]

    def trial(weight: float, x: UInt8[Tensor, "n c h w"]) -> Trial:
        seen = None if features.embed is None else metrics.kernel_distance(features(x).features, compared)
        far = metrics.sliced_wasserstein(reals(x).flatten(1), reals(other).flatten(1))
        return Trial(weight=weight, features=seen, pixels=far)

    yield trial(0.0, real)
    unguided, guided = at_guidance(run.recipe.sampling)
    labels = run.labels(None, n, torch.Generator(run.device).manual_seed(seed + 2))
    label: Label = "none" if labels is None else labels
    start = None
    if unguided:
        states = run.steps(n, seed=seed, guidance=1.0, label=label)
        start = next(step.x for step in states if step.sigma <= guided[0])
    for weight in WEIGHTS[run.recipe.sampling.guide]:
        x = run.sample(n, seed=seed + 1, guidance=weight, label=label, levels=guided, start=start)
        yield trial(weight, quantize(x).cpu())


def at_guidance(sampling: Sampling) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The noise levels that are left before guidance begins, and all others from the one where it does."""
    ladder = sampling.ladder().tolist()
    above = sum(sigma > sampling.guided_between[1] for sigma in ladder[:-1])
    return tuple(ladder[:above]), tuple(ladder[above:])


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
