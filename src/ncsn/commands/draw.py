"""Drawing the samples that a command asks for."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ncsn import console
from ncsn.settings import SamplerName

if TYPE_CHECKING:
    from torch import Tensor

COMPILE_FROM = 60_000  # network evaluations: for fewer, compiling takes longer than it saves


class Wanted(Protocol):
    """How many samples, and how."""

    @property
    def n(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def sampler(self) -> SamplerName | None: ...  # noqa: D102
    @property
    def levels(self) -> int | None: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def label(self) -> int | Literal["any"] | None: ...  # noqa: D102
    @property
    def guidance(self) -> float | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What ``draw`` returns: samples in the units of the data, and what they cost.

    ``path``: the first few of them at every state of the sampler, if asked for.
    ``nfe``, ``guide_nfe``: evaluations, for each sample, of the network and of the guide that it is moved away from.
    """

    samples: "Tensor"
    path: "list[Tensor]"
    guidance: float
    nfe: int
    guide_nfe: int
    seconds: float


def draw(settings: Wanted, folder: Path, *, step_size: float | None = None, keep: int = 0) -> Drawn:
    """Samples of the run in ``folder``, as the command line asks; and the path to the first ``keep`` of them."""
    import torch

    from ncsn import machine, runs
    from ncsn.score import Counted, batched

    began = time.perf_counter()
    machine.keep_memory()
    model, recipe = runs.load(folder), runs.read_recipe(folder)
    weight = settings.guidance
    if weight is None:
        weight = recipe.weight(settings.sampler) if settings.label is None else 1.0
    guide = runs.load_guide(folder) if settings.label is None and weight != 1 else None
    ladder = recipe.states(settings.sampler, settings.levels)
    size = min(settings.n, settings.batch_size)
    if settings.n * len(ladder) >= COMPILE_FROM:
        example = torch.zeros(size, *recipe.shape), torch.tensor(1.0)
        for each in (model, guide):
            if each is not None:
                console.compile_network(each.network, partial(each, *example))
    generator = torch.Generator().manual_seed(settings.seed)
    score = Counted(batched(model, size))
    helper = Counted(batched(guide, size)) if guide is not None else None
    sampled = recipe.guided(score, helper, weight)
    if settings.label is not None:
        classes = recipe.arguments.get("classes", 0)
        if not classes or (settings.label != "any" and not 0 <= settings.label < classes):
            allowed = f"allowed are any and 0 to {classes - 1}" if classes else "it was trained without --classes"
            raise ValueError(f"class is {settings.label}; {folder}: {allowed}")
        drawn = torch.randint(classes, (settings.n,), generator=generator)
        label = drawn if settings.label == "any" else torch.full((settings.n,), settings.label)
        guided = lambda x, sigma, y: model.given(y, weight)(x, sigma)  # noqa: E731
        sampled = score = Counted(batched(guided, size, label))
    start = recipe.start(score, settings.n, generator=generator)
    path = recipe.path(
        sampled, start, sampler=settings.sampler, levels=settings.levels, step_size=step_size, generator=generator
    )
    kept = []
    for x in console.bar(path, len(ladder), f"{settings.n} samples"):
        if keep:
            kept.append(x[:keep])
    return Drawn(
        samples=x,
        path=kept,
        guidance=weight,
        nfe=score.nfe,
        guide_nfe=helper.nfe if helper is not None else 0,
        seconds=time.perf_counter() - began,
    )
