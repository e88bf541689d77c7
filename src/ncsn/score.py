r"""The score: the one function that everything else is built from.

The score of a density p is the vector field :math:`s(x) = \nabla_x \log p(x)`.  Adding Gaussian noise of standard
deviation σ to the data gives a family of smoother densities :math:`p_\sigma = p * N(0, \sigma^2 I)`, and a *noise
conditional* score is a function ``score(x, sigma)`` that returns :math:`\nabla_x \log p_\sigma(x)` for each of them
(Song & Ermon 2019, arXiv:1907.05600, section 4).  A trained network, an analytic mixture and a lambda are the same to
whoever calls them.
"""

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Sigma = float | Float[Tensor, ""] | Float[Tensor, "b"]
"""A noise level σ > 0 in the units of x: one number for all examples, or one for each of them."""


@runtime_checkable
class Score(Protocol):
    """Anything that returns ∇ₓ log p_σ(x), example by example."""

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The score of the noised data at ``x``, for one noise level or for one noise level per example."""
        ...


@runtime_checkable
class LabelledScore(Protocol):
    """A score that can be asked for one class per example; −1 stands for none in particular."""

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, label: Int64[Tensor, "b"], /) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x | label)."""
        ...


def expand(sigma: Sigma, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *ones"]:
    """Noise levels shaped to broadcast against ``x``, (b, 1, …, 1), with its type and on its device.

    Raises ValueError if ``x`` has no batch axis, or if ``sigma`` is neither one number nor one per example.
    """
    if x.ndim == 0:
        raise ValueError("x is one number; a batch of examples, (b, ...), is needed")
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if levels.ndim > 1 or (levels.ndim == 1 and levels.shape[0] != x.shape[0]):
        raise ValueError(
            f"sigma has shape {tuple(levels.shape)}; allowed are () and ({x.shape[0]},), one noise level per example"
        )
    return levels.expand(x.shape[0]).view(-1, *[1] * (x.ndim - 1))


def float64(x: Tensor) -> Tensor:
    """``x`` in double precision, where its device has it; else on the CPU (Apple's GPUs have none)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def tweedie(score: Score, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b *d"]:
    """The mean of the clean data given the noisy ``x``: E[x₀ | x] = x + σ²·s(x, σ).

    Robbins 1956 (Tweedie's formula); as a last step of sampling: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475).
    """
    return x + expand(sigma, x) ** 2 * score(x, sigma)


def conditioned(score: Callable[..., Tensor], label: Int64[Tensor, "b"] | None) -> Score:
    """The score of each example's class, ``score(x, sigma, label)``; without a label the score itself."""
    if label is None:
        return score
    return lambda x, sigma: score(x, sigma, label)


def even(n: int, most: int) -> int:
    """How many of ``n`` examples to evaluate at a time: at most so many, and in parts of one size, or nearly."""
    return -(-n // -(-n // most))


def batched(score: Callable[..., Tensor], size: int, label: Int64[Tensor, "b"] | None = None) -> Score:
    """The same score, evaluated on ``size`` examples at a time, which bounds the memory that a network takes.

    A sampler draws its noise for all examples at once, so its samples do not depend on ``size``.
    The last batch is filled up, so that a compiled network only ever sees one shape.

    ``label``: a class for each example; then ``score(x, sigma, label)`` is called.
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        if len(x) == 0:
            return torch.zeros_like(x)
        missing = -len(x) % size
        filled = torch.cat([x, x[:1].expand(missing, *x.shape[1:])]) if missing else x
        parts = torch.split(filled, size)
        common = not isinstance(sigma, Tensor) or sigma.ndim == 0
        levels = [sigma] * len(parts) if common else split_filled(torch.as_tensor(sigma), missing, size)
        labels = () if label is None else (split_filled(label, missing, size),)
        return torch.cat([score(*part) for part in zip(parts, levels, *labels, strict=True)])[: len(x)]

    return evaluate


def split_filled(values: Tensor, missing: int, size: int) -> list[Tensor]:
    """One value per example, with ``missing`` more of the first one, in parts of ``size``."""
    return list(torch.split(torch.cat([values, values[:1].expand(missing)]), size))


def guided(score: Score, guide: Score, weight: float, *, between: tuple[float, float] = (0.0, math.inf)) -> Score:
    """A score that moves away from a worse one: guide + w·(score − guide), at noise levels within ``between``.

    The guide knows less of the data: a smaller network, or one without the class.  It spreads its mass too widely, and
    w > 1 exaggerates in which direction ``score`` differs.  The result is no longer the score of any data, and so of no
    use for a likelihood; its samples look better.  Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) and
    autoguidance (Karras et al. 2024, arXiv:2406.02507, equation 3); within an interval: Kynkäänniemi et al. 2024
    (arXiv:2404.07724).

    ``weight``: w; 0 is the guide, 1 is ``score``.
    ``between``: the lowest and the highest noise level at which it is guided; elsewhere it is ``score``.
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        s, std = score(x, sigma), expand(sigma, x)
        inside = (between[0] <= std) & (std <= between[1])
        # What is compiled must not depend on values: there, the guide is always asked.
        if weight == 1 or not (torch.compiler.is_compiling() or bool(inside.any())):
            return s
        return s + (weight - 1) * inside * (s - guide(x, sigma))

    return evaluate


class Counted:
    """The same score, counting in ``nfe`` how often it was evaluated: what a sampler costs, in network evaluations."""

    def __init__(self, score: Callable[..., Tensor]) -> None:
        self.score, self.nfe = score, 0

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /, *label: Tensor) -> Float[Tensor, "b *d"]:
        """The score, once more."""
        self.nfe += 1
        return self.score(x, sigma, *label)
