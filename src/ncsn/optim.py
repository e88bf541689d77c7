"""Which parameter is learned by which optimiser; and Muon, batched.

The update is that of ``torch.optim.Muon``, with all matrices of one shape in one product: a small network has many
small matrices, and one product for each costs more in overhead than in arithmetic.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.machine import fast_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose iteration brings singular values near 1, in 5 steps
EDGES = ("stem", "head")  # layers of these names meet the pixels, whose few channels have no directions to balance


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that act as matrices between hidden features: of linear and convolutional layers but for ``EDGES``.

    Not those of embeddings, which are tables: a step would change the rows of classes that the batch did not show.
    """
    found: dict[int, nn.Parameter] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        matrix = isinstance(weight, nn.Parameter) and weight.ndim in (2, 4) and not isinstance(module, nn.Embedding)
        if matrix and name.rsplit(".", 1)[-1] not in EDGES:
            found[id(weight)] = weight  # type: ignore[assignment]
    return [p for p in model.parameters() if id(p) in found]


def muon_and_adam(
    model: nn.Module, *, muon_rate: float = 0.02, adam_rate: float = 2e-3, products: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, Adam for everything else: biases, gains, embeddings, the first and last kernels.

    ``muon_rate``, ``adam_rate``: the peak learning rates, above 0.  ``products``: the type of Muon's, see there.
    """
    matrices = hidden_matrices(model)
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    muon = [Muon(matrices, lr=muon_rate, products=products)] if matrices else []
    adam = [torch.optim.Adam(others, lr=adam_rate, betas=(0.9, 0.99), fused=True)] if others else []
    return [*muon, *adam]


def orthogonalize(
    matrices: Float[Tensor, "k m n"], steps: int = 5, products: torch.dtype | None = None
) -> Float[Tensor, "k m n"]:
    """Each matrix with its singular values brought to about 1 (0.7 to 1.2), by Newton–Schulz iteration.

    ``products``: the type they are in; by default bfloat16 where the hardware multiplies it, else float32: torch
    emulates it, which makes training twice as long.
    Jordan 2024, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    if products is None:
        products = torch.bfloat16 if fast_bfloat16(matrices.device) else torch.float32
    x = (matrices.mT if tall else matrices).to(products)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are set to one, for matrices: no direction of a layer learns slower than another.

    ``params``: matrices, or kernels (outputs, inputs, h, w), which are taken for matrices of one row an output.
    ``lr``: the size of a step's singular values, for matrices wider than tall; √(rows/columns) larger for the others.
    ``products``: the type of the products that do it, bfloat16 or float32; by default the faster one here.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, products: torch.dtype | None = None
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step down the gradients; parameters without one stay."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for shape, weights in shapes.items():
                self.update(shape, weights, group["lr"], group["momentum"])

    def update(self, shape: tuple[int, ...], weights: list[Tensor], lr: float, momentum: float) -> None:
        """One step of all parameters of one shape."""
        gradients = torch.stack([p.grad for p in weights if p.grad is not None])
        averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in weights]
        torch._foreach_lerp_(averages, list(gradients), 1 - momentum)
        update = orthogonalize(gradients.lerp(torch.stack(averages), momentum).flatten(2), products=self.products)
        rows, columns = update.shape[1:]
        scale = lr * max(1, rows / columns) ** 0.5
        torch._foreach_sub_(weights, list((scale * update).view(len(weights), *shape)))
