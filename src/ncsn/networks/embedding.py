"""How a network is told the noise level."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class NoiseEmbedding(nn.Module):
    """Sines and cosines of c = ¼ ln σ at geometric frequencies, followed by two layers: (b,) → (b, features).

    Fourier features as in Song et al. 2021 (arXiv:2011.13456, appendix C), but at fixed frequencies from ⅛ to 8 cycles
    per unit of c, so that the slowest wave tells the ends of the usual range of σ apart and nothing is random.
    """

    frequencies: Tensor

    def __init__(self, features: int, waves: int = 32) -> None:
        super().__init__()
        # Not by torch's arithmetic: to outline a network it would load torch's compiler, which takes a second.
        frequencies = [2 * math.pi * 2.0 ** (-3 + 6 * i / max(1, waves - 1)) for i in range(waves)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * waves, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, c: Float[Tensor, "b"]) -> Float[Tensor, "b features"]:
        """The embedding of each noise level."""
        phase = c[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], 1))  # type: ignore[no-any-return]
