"""Noise levels: the ladders that samplers descend and the proposals that training draws from.

A noise level σ is a standard deviation in the units of the data.  NCSN uses a geometric ladder (Song & Ermon 2019,
section 4.1); EDM draws ln σ from a normal distribution instead (Karras et al. 2022, table 1).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Proposal(Protocol):
    """Where training draws its noise levels from."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` independent noise levels, on the generator's device."""
        ...


@dataclass(frozen=True)
class Geometric:
    """A geometric ladder: σ_i/σ_{i+1} is constant (Song & Ermon 2019, section 4.1).

    ``sigma_max`` ≥ ``sigma_min`` > 0 in the units of the data; ``levels`` ≥ 1 (one level means σ_min alone).
    Raises ValueError outside of these ranges.
    """

    sigma_max: float
    sigma_min: float
    levels: int

    def __post_init__(self) -> None:
        """Refuse what is no ladder."""
        if not (math.isfinite(self.sigma_max) and self.sigma_max >= self.sigma_min > 0):
            raise ValueError(
                f"sigma_max, sigma_min are {self.sigma_max}, {self.sigma_min}; allowed is sigma_max >= sigma_min > 0"
            )
        if self.levels < 1:
            raise ValueError(f"levels is {self.levels}; at least 1 is needed")

    def sigmas(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """All noise levels, descending from σ_max to σ_min."""
        if self.levels == 1:
            return torch.tensor([self.sigma_min], device=device)
        exponents = torch.linspace(math.log(self.sigma_max), math.log(self.sigma_min), self.levels, dtype=torch.float64)
        return exponents.exp().float().to(device)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` levels of the ladder, each equally likely."""
        device = generator.device if generator is not None else "cpu"
        return self.sigmas(device=device)[torch.randint(self.levels, (n,), generator=generator, device=device)]


@dataclass(frozen=True)
class LogNormal:
    """ln σ ~ N(mean, std²), within ``sigma_min`` and ``sigma_max`` (Karras et al. 2022, table 1).

    Raises ValueError unless std > 0 and sigma_max > sigma_min > 0.
    """

    mean: float
    std: float
    sigma_max: float
    sigma_min: float

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not self.std > 0:
            raise ValueError(f"std is {self.std}; it must be positive")
        if not (math.isfinite(self.sigma_max) and self.sigma_max > self.sigma_min > 0):
            raise ValueError(
                f"sigma_max is {self.sigma_max} and sigma_min is {self.sigma_min}; allowed is sigma_max > sigma_min > 0"
            )

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "n"]:
        """``n`` noise levels; those beyond an end are moved to that end."""
        device = generator.device if generator is not None else "cpu"
        log_sigma = self.mean + self.std * torch.randn(n, generator=generator, device=device)
        return log_sigma.exp().clamp(self.sigma_min, self.sigma_max)
