"""Multilayer perceptrons for vectors, and the embedding of the noise level that all networks use."""

import math
from typing import Annotated, TypeAlias

import torch
import torch.nn.functional as F
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor, nn

from ncsn.validation import whole

Positive: TypeAlias = Annotated[int, Interval(ge=1)]
WAVES = 32
REACH = 5.0  # standard deviations up to which inputs for tables are nearly linear


def positive(**counts: int) -> list[int]:
    """The whole numbers from 1 of these names.  Raises ValueError for any other."""
    return [whole(name, count, 1) for name, count in counts.items()]


class NoiseEmbedding(nn.Module):
    """Sines and cosines of c = ¼ ln σ at geometric frequencies, followed by two layers: (b,) → (b, features).

    Fourier features as in Song et al. 2021 (arXiv:2011.13456, appendix C), but at fixed frequencies from ⅛ to 8 cycles
    per unit of c, so that the slowest wave distinguishes the ends of the usual range of σ and nothing is random.
    """

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        frequencies = [2 * math.pi * 2.0 ** (-3 + 6 * i / (WAVES - 1)) for i in range(WAVES)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * WAVES, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c: Float[Tensor, "b"]) -> Float[Tensor, "b features"]:
        """The embedding of each noise level."""
        phase = c[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], 1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """A multilayer perceptron whose hidden layers are shifted by the embedded noise level: (b, d), (b,) → (b, d).

    The last layer starts at zero, so that an untrained network returns zero.

    ``dimensions``: d.
    ``width``: units in a hidden layer.
    ``layers``: hidden layers.
    """

    def __init__(
        self, dimensions: Positive, width: Positive = 128, layers: Annotated[int, Interval(ge=1, le=1000)] = 3
    ) -> None:
        super().__init__()
        dimensions, width, layers = positive(dimensions=dimensions, width=width, layers=layers)
        self.embedding = NoiseEmbedding(width)
        self.hidden = nn.ModuleList(nn.Linear(dimensions if i == 0 else width, width) for i in range(layers))
        self.shifts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.output = nn.Linear(width, dimensions)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Float[Tensor, "b d"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "b d"]:
        """The network's value.

        ``x``: scaled examples, (b, d).
        ``c``: ¼ ln σ of each, (b,), or of all, (1,).
        """
        embedding = self.embedding(c)
        h = x
        for hidden, shift in zip(self.hidden, self.shifts, strict=True):
            h = F.silu(hidden(h) + shift(embedding))
        return self.output(h)  # type: ignore[no-any-return]


class ResidualMLP(nn.Module):
    """``blocks`` residual blocks of ``width`` units, normalised and shifted by the noise level: (b, d), (b,) → (b, d).

    ``fit`` trains it on tables, where it also returns logits.

    ``dimensions``: d.
    ``width``: units in a layer.
    ``blocks``: of two layers each.
    ``conditional``: whether its input is that of ``ConditionalModel``, (b, 4d + k), bounded by 5 tanh(x/5), because
    there are too few examples far out, where an unbounded network extrapolates at random.
    ``codes``: the number of values of each discrete coordinate; k is their sum, and the output is (b, d + k).
    """

    def __init__(
        self,
        dimensions: Annotated[int, Interval(ge=0)],
        width: Positive = 256,
        blocks: Annotated[int, Interval(ge=1, le=1000)] = 3,
        conditional: bool = False,
        codes: tuple[Positive, ...] = (),
    ) -> None:
        super().__init__()
        dimensions, (width, blocks) = whole("dimensions", dimensions, 0), positive(width=width, blocks=blocks)
        self.conditional, self.codes = conditional, codes
        self.embedding = NoiseEmbedding(width)
        self.stem = nn.Linear((4 if conditional else 1) * dimensions + sum(codes), width)
        self.hidden = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)) for _ in range(blocks))
        self.shifts = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(blocks))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.output = nn.Linear(width, dimensions + sum(codes))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Float[Tensor, "b _"], c: Float[Tensor, "b"] | Float[Tensor, "1"]) -> Float[Tensor, "b d"]:
        """The network's value at ``x`` for the noise levels c = ¼ ln σ."""
        embedding, h = self.embedding(c), self.stem(REACH * torch.tanh(x / REACH) if self.conditional else x)
        for hidden, shift, back in zip(self.hidden, self.shifts, self.back, strict=True):
            h = h + back(F.silu(hidden(h) + shift(embedding)))
        return self.output(F.silu(h))  # type: ignore[no-any-return]
