"""A multilayer perceptron for vectors: enough for the plane."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.networks.embedding import NoiseEmbedding

MOST_LAYERS = 1000


class MLP(nn.Module):
    """``layers`` hidden layers of ``width`` units, each shifted by the embedded noise level: (b, d), (b,) → (b, d).

    The last layer starts at zero, so that an untrained network returns zero.
    Raises ValueError unless dimensions, width and layers are at least 1, and layers at most 1000; forward, for points
    of other dimensions.
    """

    def __init__(self, dimensions: int, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        if min(dimensions, width, layers) < 1 or layers > MOST_LAYERS:
            raise ValueError(
                f"dimensions, width, layers are {dimensions}, {width}, {layers}; each must be at least 1, and there "
                f"are at most {MOST_LAYERS:,} layers"
            )
        self.embedding = NoiseEmbedding(width)
        self.hidden = nn.ModuleList(nn.Linear(dimensions if i == 0 else width, width) for i in range(layers))
        self.shifts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.output = nn.Linear(width, dimensions)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Float[Tensor, "b d"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "b d"]:
        """The network's value at ``x`` for the noise levels c = ¼ ln σ."""
        if x.ndim != 2 or x.shape[1] != self.output.out_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; (b, {self.output.out_features}) is needed")
        embedding = self.embedding(c)
        h = x
        for hidden, shift in zip(self.hidden, self.shifts, strict=True):
            h = torch.nn.functional.silu(hidden(h) + shift(embedding))
        return self.output(h)  # type: ignore[no-any-return]
