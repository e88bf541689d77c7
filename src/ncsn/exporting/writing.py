"""A run's files, run by onnxruntime before they are written."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ncsn.exporting.card import Card, Precision, check_packages
from ncsn.exporting.graph import INPUTS, OUTPUT, onnx_of
from ncsn.files import atomic, check_out, one_line
from ncsn.model import ScoreModel
from ncsn.run import Run

LEVELS = 12  # that a file is checked on
TOLERANCE = 1e-4  # float32's own rounding is a fiftieth of it
ROUNDING = 1e-2  # by which float16 weights may change a score


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, of ``size`` bytes, and how far it is off.

    ``difference``: the most that its score is off PyTorch's with the same weights, relative to the largest number in
    the score of the example, over several batch sizes, noise levels over the whole range and all classes.
    ``rounding``: the same for PyTorch with and without these weights; 0 where float16 holds the run's.
    """

    path: Path
    size: int
    difference: float
    rounding: float


def export(run: Run, path: str | Path, *, precision: Precision = "fp16", overwrite: bool = False) -> list[Exported]:
    """Write a run's score to ``path``, and its smaller network, if any, to ``NAME.guide.onnx`` beside it.

    ``precision``: in which weights are stored; fp16 takes half as much, and is computed with in float32 as fp32 is.
    ``overwrite``: replace files that are there.
    Nothing is written before onnxruntime has run all files.
    Raises ValueError if a package is missing, if the score is no network or none that torch can export, if something
    is there already, or if a file is off PyTorch by over 1e-4, or by over 1e-2 for the rounding of its weights.
    """
    check_packages()
    if precision not in ("fp16", "fp32"):
        raise ValueError(f"precision is {precision}; allowed are fp16 and fp32")
    if run.condition is not None:
        raise ValueError("a posterior is no network; export the run that it was made of")
    path, card = Path(path), Card.of(run, precision)
    parts = [(path, run.model, card)]
    if run.guide is not None:
        guide = replace(run, score=run.guide).model
        parts.append((path.with_suffix(".guide.onnx"), guide, replace(card, part="guide")))
    for place, *_ in parts:
        check_out(place, overwrite=overwrite)
    made = [(place, *converted(model, card)) for place, model, card in parts]
    for place, content, *_ in reversed(made):  # a score that is there has its guide
        with atomic(place) as temporary:
            temporary.write_bytes(content)
    return [Exported(path=p, size=len(c), difference=d, rounding=r) for p, c, d, r in made]


@torch.no_grad()
def converted(model: ScoreModel, card: Card) -> tuple[bytes, float, float]:
    """A model as the content of a file, its ``difference`` and its ``rounding``.  Raises ValueError as ``export``."""
    exact = plain(model)
    stored, batches = rounded(exact) if card.precision == "fp16" else exact, list(probes(exact, card))
    own, expected = ([network(*given) for given in batches] for network in (exact, stored))
    if not all(bool(score.isfinite().all()) for score in own):
        raise ValueError(f"the {card.part} is not finite on all noise levels; there is nothing to export")
    rounding = farthest(expected, own)
    if not rounding <= ROUNDING:  # nor if it is NaN, beyond what float16 has
        raise ValueError(
            f"weights in float16 change the {card.part} by {rounding:.1e}, over {ROUNDING:g}; export them in fp32"
        )
    content = onnx_of(stored, batches[0], card)
    difference = farthest(answers(content, batches, card), expected)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the {card.part}'s file would be {difference:.1e} off PyTorch, over {TOLERANCE:g}: torch "
            f"{torch.__version__} does not export this network right"
        )
    return content, difference, rounding


def plain(model: ScoreModel) -> ScoreModel:
    """A copy on the CPU, in float32: neither compiled nor in autocast."""
    found = copy.deepcopy(model).requires_grad_(False).eval().cpu().float()
    found.autocast = None
    return found


def rounded(model: ScoreModel) -> ScoreModel:
    """A copy of which the network's weights are the nearest that float16 has."""
    found = copy.deepcopy(model)
    for weight in found.network.parameters():
        weight.copy_(weight.half())
    return found


def probes(model: ScoreModel, card: Card) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several sizes of noised data, on noise levels over the whole range, of every class and of none."""
    sampling, generator = card.recipe.sampling, torch.Generator().manual_seed(0)
    index = torch.arange(max(LEVELS, model.classes + 1))
    ends = math.log(sampling.sigma_max), math.log(sampling.sigma_min)
    sigmas = torch.linspace(*ends, LEVELS).exp()[index % LEVELS]
    for part in (index[:2], index[2:3], *torch.split(index[3:], 7)):
        sigma, noise = sigmas[part], torch.randn((len(part), *card.recipe.shape), generator=generator)
        std = (sigma**2 + model.data_std**2).sqrt()
        x = model.data_mean + std.view(-1, *[1] * (noise.ndim - 1)) * noise
        yield (x, sigma, part % (model.classes + 1) - 1) if model.classes else (x, sigma)


def answers(content: bytes, batches: list[tuple[Tensor, ...]], card: Card) -> list[Tensor]:
    """What a file returns for each of these batches.  Raises ValueError if onnxruntime cannot run it."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        named = [{name: value.numpy() for name, value in zip(INPUTS, given, strict=False)} for given in batches]
        return [torch.from_numpy(session.run([OUTPUT], given)[0]) for given in named]
    except Exception as error:  # onnxruntime's own exceptions have no common class
        raise ValueError(f"onnxruntime cannot run the {card.part}'s file ({one_line(error)})") from error


def farthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference in any example, relative to the largest number that is expected of it; NaN if any is."""
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(found, expected, strict=True)]
    apart = [(a - b).abs().amax(1) / b.abs().amax(1).clamp_min(torch.finfo(b.dtype).tiny) for a, b in pairs]
    return float(torch.cat(apart).max())
