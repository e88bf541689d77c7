"""Muon, batched: the same update as ``torch.optim.Muon``, with all matrices of one shape in one product.

A small network has many small matrices, and one product for each costs more in overhead than in arithmetic.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.machine import fast_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration brings singular values near 1, in 5 steps


def orthogonalize(matrices: Float[Tensor, "k m n"], steps: int = 5) -> Float[Tensor, "k m n"]:
    """Each matrix with its singular values brought to about 1 (0.7 to 1.2), by Newton–Schulz iteration.

    In bfloat16 where the hardware multiplies it; elsewhere torch emulates it, which makes training twice as long.
    Jordan 2024, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    dtype = torch.bfloat16 if fast_bfloat16(matrices.device) else torch.float32
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are set to one, for matrices: no direction of a layer learns slower than another.

    ``lr``: the size of a step's singular values, for matrices wider than tall; √(rows/columns) larger for the others.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step down the gradients."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                shapes.setdefault(tuple(p.shape), []).append(p)
            for (rows, columns), weights in shapes.items():
                gradients = torch.stack([p.grad for p in weights if p.grad is not None])
                state = self.state[weights[0]]  # a group's average is kept with its first matrix
                average = state.setdefault("momentum", torch.zeros_like(gradients))
                average.lerp_(gradients, 1 - group["momentum"])
                update = orthogonalize(gradients.lerp(average, group["momentum"]))
                scale = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_sub_(weights, list((scale * update).unbind(0)))
