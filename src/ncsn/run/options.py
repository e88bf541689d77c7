"""Types of users' examples, and of the keyword arguments that say how to sample."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.run.recipe import Label

UserData: TypeAlias = Any
"""Examples, or numbers about them, in the user's form: a tensor, or pandas' DataFrame or Series, which has no types."""
Levels: TypeAlias = int | Sequence[float] | Float[Tensor | np.ndarray, "levels"]


class SamplingChanges(TypedDict, total=False):
    """The fields of ``Sampling`` that the keywords of ``Run.steps`` replace; None keeps the run's own value."""

    sampler: str | None
    levels: Levels | None
    steps: int | None
    eps: float | None
    guidance: float | None


class SamplingOptions(SamplingChanges, total=False):
    """The keyword arguments of ``Run.steps`` that say how to sample."""

    label: Label | None
    batch_size: int
    start: Float[Tensor, "n *d"] | None


class SeededOptions(SamplingOptions, total=False):
    """``SamplingOptions`` with a seed: the keyword arguments of ``Run.steps``."""

    seed: int | torch.Generator


class PosteriorOptions(SamplingOptions, total=False):
    """The keyword arguments of ``PosteriorRun.steps`` that say how to sample."""

    particles: int | None


class SeededPosteriorOptions(PosteriorOptions, total=False):
    """``PosteriorOptions`` with a seed: the keyword arguments of ``PosteriorRun.steps``."""

    seed: int | torch.Generator
