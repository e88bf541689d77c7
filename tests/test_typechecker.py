"""What ``--shapes`` notices: wrong arguments and results of each function's first calls in a test."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor
from typechecker import OFTEN, checked, jaxtyped_at_first


def product(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"], total: bool = True) -> Float[Tensor, " b"]:
    return (x * y).sum(1) if total else x * y


def shapes(*of: tuple[int, ...]) -> list[Tensor]:
    return [torch.zeros(shape) for shape in of]


@pytest.mark.parametrize(
    ("calls", "call"),
    [
        (0, lambda f: f(*shapes((2, 3), (2, 4)))),
        (OFTEN - 1, lambda f: f(*shapes((2, 3), (1, 3)))),
        (0, lambda f: f(*shapes((2, 3)), 1.0)),
        (0, lambda f: f(*shapes((2, 3), (2, 3)), total=False)),
        (0, lambda f: f(*shapes((2, 3), (2, 3)), "yes")),
    ],
    ids=["shape", "tenth call", "type", "result", "option"],
)
def test_wrong_types_are_noticed(calls: int, call: Callable[..., object]) -> None:
    function = jaxtyped_at_first(typechecker=checked)(product)
    for _ in range(calls):
        assert function(*shapes((2, 3), (2, 3))).shape == (2,)
    with pytest.raises(TypeCheckError):
        call(function)
