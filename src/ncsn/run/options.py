"""Keyword arguments for sampling and densities."""

from collections.abc import Sequence
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.validation import GuideName

Label: TypeAlias = int | str | Int64[Tensor, "n"] | Int64[Tensor, ""]
Levels: TypeAlias = int | Sequence[float] | Float[Tensor | np.ndarray, "levels"]


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments of ``Run.steps`` that say how to sample; they default to the run's own values."""

    sampler: str | None
    levels: Levels | None
    steps: int | None
    eps: float | None
    guidance: float | None
    guide: GuideName | None
    label: Label | None
    batch_size: int
    start: Float[Tensor, "n *d"] | None
    particles: int | None


class SeededOptions(SamplingOptions, total=False):
    """``SamplingOptions`` with a seed."""

    seed: int | torch.Generator


class DensityOptions(TypedDict, total=False):
    """The keyword arguments of ``Run.likelihoods``."""

    sigma_min: float | None
    probes: int | None
    tolerance: float
    batch_size: int | None
    seed: int | torch.Generator
