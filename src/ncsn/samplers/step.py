"""What every sampler yields, and what it asks of its noise levels."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Step(NamedTuple):
    """A state on the way down: examples ``x`` (b, *d) with noise of standard deviation ``sigma``, 0 once denoised."""

    sigma: float
    x: Tensor


class NonFiniteSampleError(RuntimeError):
    """Samples became NaN or infinite on their way; the message says where."""


def check_ladder(sigmas: Float[Tensor, "levels"], *, restarts: bool = False) -> None:
    """Raises ValueError unless ``sigmas`` is positive and strictly descending, or rises where ``restarts`` are."""
    steps = sigmas.flatten().diff()
    allowed = (steps < 0) | (steps > 0) if restarts else steps < 0
    if sigmas.ndim != 1 or len(sigmas) == 0 or bool((sigmas <= 0).any()) or not bool(allowed.all()):
        but = ", but for restarts," if restarts else ""
        raise ValueError(f"sigmas is {sigmas.tolist()}; a descending ladder{but} of positive noise levels is needed")
