"""Noise levels: the ladders that samplers descend and the proposals that training draws from.

A noise level σ is a standard deviation in the units of the data.  NCSN uses a geometric ladder for both (Song & Ermon
2019, section 4.1); EDM descends a ladder that is geometric at its top only, and draws ln σ from a normal distribution
(Karras et al. 2022, equation 5 and table 1).
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
        """``n`` noise levels, each with the proposal's distribution, on the generator's device."""
        ...


def check_range(sigma_max: float, sigma_min: float, levels: int) -> None:
    """Raises ValueError unless sigma_max ≥ sigma_min > 0, both finite, and levels ≥ 1."""
    if not (math.isfinite(sigma_max) and sigma_max >= sigma_min > 0):
        raise ValueError(f"sigma_max, sigma_min are {sigma_max}, {sigma_min}; allowed is sigma_max >= sigma_min > 0")
    if levels < 1:
        raise ValueError(f"levels is {levels}; at least 1 is needed")


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
        check_range(self.sigma_max, self.sigma_min, self.levels)

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
class Karras:
    """A ladder in equal steps of σ^(1/ρ): coarser at the top, finer at the bottom, than equal steps of σ.

    Karras et al. 2022, equation 5, with their ρ = 7.  ``sigma_max`` ≥ ``sigma_min`` > 0 in the units of the data;
    ``levels`` ≥ 1 (one level means σ_min alone); ``rho`` > 0.
    Raises ValueError outside of these ranges.
    """

    sigma_max: float
    sigma_min: float
    levels: int
    rho: float = 7.0

    def __post_init__(self) -> None:
        """Refuse what is no ladder."""
        check_range(self.sigma_max, self.sigma_min, self.levels)
        if not self.rho > 0:
            raise ValueError(f"rho is {self.rho}; it must be positive")

    def sigmas(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """All noise levels, descending from σ_max to σ_min."""
        if self.levels == 1:
            return torch.tensor([self.sigma_min], device=device)
        top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (torch.linspace(top, bottom, self.levels, dtype=torch.float64) ** self.rho).float().to(device)


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
        """``n`` noise levels, one in each n-th of the distribution; those beyond an end are moved to that end.

        In random order.  Each has the whole distribution, and a batch's average loss less variance than from
        independent ones (stratified sampling; for diffusion models Kingma et al. 2021, arXiv:2107.00630, appendix I).
        """
        device = generator.device if generator is not None else "cpu"
        strata = torch.randperm(n, generator=generator, device=device)
        quantiles = (strata + torch.rand(n, generator=generator, device=device)) / n
        # Within ±5.2 standard deviations, where float32 can tell a quantile from 0 and 1.
        log_sigma: Tensor = self.mean + self.std * torch.special.ndtri(quantiles.clamp(1e-7, 1 - 1e-7))
        return log_sigma.exp().clamp(self.sigma_min, self.sigma_max)
