"""How far samples should move away from a guide, and from which: chosen by held-out images, after training."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm.auto import tqdm

from ncsn import machine
from ncsn.data import Images as Pictures
from ncsn.data.pixels import quantize, reals
from ncsn.evaluation import at_8_bits, metrics
from ncsn.evaluation.features import PIXELS, Features, choose, is_mnist, suitable
from ncsn.learn import rules
from ncsn.learn.settings import Images
from ncsn.progress import refresh_interval
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
TRIALS, FEWEST_TRIALS = 1000, 64  # samples at each weight; with fewer none is chosen
TRIALS_BY_STEPS = 256  # where no budget says how long they may take
TRIALS_SHARE = 1 / 40  # of the budget
DRAWING = 4  # seconds that figures take


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


def afterwards(
    run: Run, settings: Images, held_out: UInt8[Tensor, "v c h w"], features: Features | None, *, draws: bool
) -> tuple[int, float]:
    """How many samples at each weight there is time for, and the seconds that all that follows training takes.

    ``features``: None if no weight is to be chosen.  ``draws``: whether samples and pictures follow, too.  It is timed.
    """
    most = min(TRIALS, len(held_out) // 3) if features is not None else 0
    if settings.minutes is None:
        most = min(TRIALS_BY_STEPS, most)
        return most if most >= FEWEST_TRIALS else 0, 0.0
    sampling = run.recipe.sampling
    example = torch.zeros(FEWEST_TRIALS, *run.recipe.shape, device=run.device)
    evaluation = seconds_of(lambda: run.score(example, 1.0), run.device) / len(example)
    each = evaluations(run.recipe) * evaluation
    if features is not None and features.embed is not None:
        shown = held_out[:20]
        seen = COMPARED + 1 + len(WEIGHTS[sampling.guide])
        each += seen * seconds_of(lambda: features(shown), run.device) / len(shown)
    trials = min(most, int(60 * settings.minutes * TRIALS_SHARE / each))
    trials = trials if trials >= FEWEST_TRIALS else 0
    if not draws:
        return trials, trials * each
    annealed = sampling.but(sampler="annealed").nfe * evaluation
    previews = 60
    drawing = (settings.samples + previews) * sampling.guided_nfe * evaluation
    return trials, trials * each + DRAWING + drawing + rules.annealed_samples(settings, annealed) * annealed


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long a call takes the second time; it is never compiled."""
    with torch.no_grad(), machine.nothing_compiled():
        call()
        machine.wait(device)
        began = time.perf_counter()
        call()
        machine.wait(device)
    return time.perf_counter() - began


def chosen_weight(run: Run, held_out: UInt8[Tensor, "v c h w"], features: Features, n: int, *, seed: int) -> float:
    """The weight that suits the run, by ``n`` samples at each; it is printed with the numbers that say why."""
    weights = WEIGHTS[run.recipe.sampling.guide]
    bar: dict[str, Any] = {"total": 1 + len(weights), "delay": 1, "leave": False, "mininterval": refresh_interval()}
    rows = list(tqdm(trials(run, held_out, features, n, seed=seed), "choosing guidance", **bar))
    choice, plain = best(rows), rows[1]
    numbers = f", pixel distance {choice.pixels:.4f} ({plain.pixels:.4f} without guidance)"
    if choice.features is not None:
        seen = f", kernel distance in {features.name} {choice.features:.4f} ({plain.features:.4f} without guidance)"
        numbers = seen + numbers
    offered = ", ".join(f"{weight:g}" for weight in weights)
    print(f"guidance {choice.weight:g}, chosen among {offered} by {n} samples beside held-out images{numbers}")
    return choice.weight


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


def evaluations(recipe: Recipe) -> float:
    """How often the network is asked for one noise at all weights; a smaller guide is a quarter of it."""
    sampling, number = recipe.sampling, len(WEIGHTS[recipe.sampling.guide])
    unguided, rest = at_guidance(sampling)
    guided = sum(sigma >= sampling.guided_between[0] for sigma in rest)
    levels = len(unguided) + len(rest) * number + guided * (number - 1) * (GUIDED[sampling.guide] - 1)
    return levels * sampling.nfe / (len(unguided) + len(rest))


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
