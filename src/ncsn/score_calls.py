"""Calls of a score: in batches that fit in memory, and counted."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.score import Score, Sigma


def evaluate_in_batches(score: Callable[..., Tensor], size: int, label: Int64[Tensor, "b"] | None = None) -> Score:
    """A score that evaluates ``score`` on ``size`` examples at a time, which bounds the memory that a network needs.

    A sampler draws its noise for all examples at once, so samples do not depend on ``size``.  The last batch is padded,
    so that a compiled network sees a single shape.

    ``label``: a class for each example, passed as ``score(x, sigma, label)``.
    """

    def split(values: Tensor) -> Sequence[Tensor]:
        missing = -len(values) % size
        padded = torch.cat([values, values[:1].expand(missing, *values.shape[1:])]) if missing else values
        return torch.split(padded, size)

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        examples = split(x)
        levels = split(sigma) if isinstance(sigma, Tensor) and sigma.ndim else [sigma] * len(examples)
        labels = () if label is None else (split(label),)
        value = torch.cat([score(*batch) for batch in zip(examples, levels, *labels, strict=True)])[: len(x)]
        if value.shape != x.shape:
            raise ValueError(f"the score returned shape {tuple(value.shape)}; expected that of x, {tuple(x.shape)}")
        return value

    return evaluate


def even_batch_size(n: int, most: int) -> int:
    """The batch size, at most ``most``, that splits ``n`` examples into batches of nearly equal size."""
    batches = math.ceil(n / most)
    return math.ceil(n / batches)


class Counted:
    """A score that evaluates ``score`` and counts what a sampler costs.

    ``nfe``, ``backward``: evaluations, and backward passes through them.
    ``evaluated``, ``differentiated``: the number of examples in all of them.
    """

    def __init__(self, score: Callable[..., Tensor]) -> None:
        self.score = score
        self.nfe = self.backward = 0
        self.evaluated = self.differentiated = 0

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /, *label: Tensor) -> Float[Tensor, "b *d"]:
        """Evaluate the score and count it."""
        self.nfe += 1
        self.evaluated += len(x)
        value = self.score(x, sigma, *label)
        if value.requires_grad:
            value.register_hook(self.count)  # type: ignore[no-untyped-call]
        return value

    def count(self, gradient: Tensor) -> None:
        """Count a backward pass."""
        self.backward += 1
        self.differentiated += len(gradient)
