"""The optimisers: by default Muon for matrices and Adam for everything else, or Adam for all parameters.

``Muon``'s update is that of ``torch.optim.Muon``, with all matrices of one shape in one product: a small network has
many small matrices, and one product for each costs more in overhead than in arithmetic.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.machine.hardware import fast_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings singular values close to 1 in five iterations
EDGES = ("stem", "head")  # layers of these names see the pixels, whose few channels have no directions to balance


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that act as matrices between hidden features: linear and convolutional layers, except ``EDGES``.

    Embeddings are excluded, because a step of Muon would also change the rows of classes that are not in the batch.
    """
    matrices = set()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_matrix = isinstance(weight, nn.Parameter) and weight.ndim in (2, 4) and not isinstance(module, nn.Embedding)
        if is_matrix and name.rsplit(".", 1)[-1] not in EDGES:
            matrices.add(id(weight))
    return [p for p in model.parameters() if id(p) in matrices]


def muon_and_adam(
    model: nn.Module, *, muon_rate: float = 0.02, adam_rate: float = 2e-3, products: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, Adam for everything else: biases, gains, embeddings, and the layers called stem and head.

    Stem and head are the first and last layers of a U-Net, and stem is the first one of the network for tables.  Muon
    also trains those of ``MLP``, and of a network of your own in which they have other names.

    ``model``: the model whose parameters they change.
    ``muon_rate``: the peak learning rate of the matrices, above 0.
    ``adam_rate``: the peak learning rate of everything else, above 0.
    ``products``: the dtype of Muon's matrix products, bfloat16 or float32; by default the faster one on this device.
    """
    matrices = hidden_matrices(model)
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    muon = [Muon(matrices, lr=muon_rate, products=products)] if matrices else []
    adam = [torch.optim.Adam(others, lr=adam_rate, betas=(0.9, 0.99), fused=True)] if others else []
    return [*muon, *adam]


def adam(model: nn.Module, rate: float = 1e-3) -> torch.optim.Optimizer:
    """Adam for all parameters, as in NCSN (Song & Ermon 2019, appendix B.1).

    ``model``: the model whose parameters it changes.
    ``rate``: the peak learning rate, above 0.
    """
    return torch.optim.Adam(model.parameters(), lr=rate, fused=True)


def orthogonalize(matrices: Float[Tensor, "k m n"], products: torch.dtype | None = None) -> Float[Tensor, "k m n"]:
    """Bring the singular values of each matrix to about 1 (0.7 to 1.2), by five steps of Newton–Schulz iteration.

    ``products``: the dtype of the products; by default bfloat16 if the hardware has it, else float32, because emulating
    bfloat16 makes training take twice as long.
    Jordan 2024, https://kellerjordan.github.io/posts/muon.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    if products is None:
        products = torch.bfloat16 if fast_bfloat16(matrices.device) else torch.float32
    x = (matrices.mT if tall else matrices).to(products)
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose singular values are set to one, so that all directions of a layer learn at the same speed.

    ``params``: matrices, or kernels (outputs, inputs, h, w), which are treated as matrices with one row per output.
    ``lr``: the singular values of a step for matrices that are wider than tall; √(rows/columns) times that for others.
    ``products``: the dtype of the products, bfloat16 or float32; by default the faster one on this device.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, products: torch.dtype | None = None
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient are unchanged."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for shape, weights in shapes.items():
                self.update(shape, weights, group["lr"], group["momentum"])

    def update(self, shape: tuple[int, ...], weights: list[Tensor], lr: float, momentum: float) -> None:
        """Take one step for all parameters of one shape."""
        gradients = torch.stack([p.grad for p in weights if p.grad is not None])
        averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in weights]
        torch._foreach_lerp_(averages, list(gradients), 1 - momentum)
        update = orthogonalize(gradients.lerp(torch.stack(averages), momentum).flatten(2), products=self.products)
        rows, columns = update.shape[1:]
        scale = lr * max(1, rows / columns) ** 0.5
        torch._foreach_sub_(weights, list((scale * update).view(len(weights), *shape)))
