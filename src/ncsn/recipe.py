"""A recipe: how to build a run's network, and how to sample it with every sampler that there is."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ncsn import networks, samplers
from ncsn.noise import Geometric, Karras, Suggestion
from ncsn.score import ScaledScore, Score, ScoreModel, guided, tweedie
from ncsn.settings import UNGUIDED, Images, SamplerName, Toy

# Noise levels where neither the command line nor the run says: the knee of each sampler's quality against its cost.
LEVELS: dict[SamplerName, int] = {
    "annealed": 100,
    "consistent": 100,
    "pc": 60,
    "euler": 40,
    "heun": 18,
    "edm": 40,
    "dpmpp": 20,
    "dpmpp-sde": 30,
    "langevin": 100,
}
GUIDED = (0.2, 1.5)  # noise levels between which a guide is asked, for pixels in [0, 1]
CHURN, CHURN_RANGE = 40.0, (0.05, 2.0)  # of edm, for pixels in [0, 1]: Karras et al. 2022, table 5, is for [-1, 1]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a run's network, and how to sample it.

    ``network``: a class of ``ncsn.networks``, and ``arguments`` for it; made a score by ``ScoreModel``, or by
    ``ScaledScore`` if it is not ``preconditioned``.  ``shape``: of one example.
    ``sigma_max``, ``sigma_min``: the noise levels to descend between.  ``sampler``: the default one, on ``levels``
    noise levels (None: ``LEVELS``).  ``steps``, ``eps``: Langevin steps on each level, and their ε on the smallest.
    ``guidance``: how far to move away from the run's guide, if it has one; 1 is not at all.
    Raises ValueError unless σ_max ≥ σ_min > 0, 0 < ε < 4σ_min², beyond which annealing diverges, and steps ≥ 1.
    """

    network: str
    arguments: dict[str, Any]
    preconditioned: bool = True
    shape: tuple[int, ...]
    sigma_max: float
    sigma_min: float
    sampler: SamplerName
    levels: int | None
    steps: int
    eps: float
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Refuse, before a long training, what could not be sampled after it."""
        self.ladder()
        limit = 4 * self.sigma_min**2
        if not 0 < self.eps < limit or self.steps < 1:
            raise ValueError(
                f"eps is {self.eps}, steps is {self.steps}; allowed are 0 < eps < {limit:.3g}, and at least 1"
            )

    def build(self, data_mean: float | Tensor, data_std: float | Tensor, *, autocast: bool = False) -> ScoreModel:
        """The model, untrained.  Raises ValueError if this version has no such network."""
        if self.network not in networks.__all__:
            raise ValueError(f"{self.network} is no network; allowed are {', '.join(networks.__all__)}")
        network: nn.Module = getattr(networks, self.network)(**self.arguments)
        return (ScoreModel if self.preconditioned else ScaledScore)(network, data_mean, data_std, autocast=autocast)

    def guided(self, score: Score, guide: Score | None, weight: float | None = None) -> Score:
        """The score to sample from; without a ``guide`` the score itself.  ``weight``: by default ``guidance``."""
        weight = self.guidance if weight is None else weight
        return score if guide is None or weight == 1 else guided(score, guide, weight, between=GUIDED)

    def weight(self, sampler: SamplerName | None = None) -> float:
        """The guidance that suits a sampler: the run's own, but none for another one that is ``UNGUIDED``."""
        return 1.0 if sampler in UNGUIDED and sampler != self.sampler else self.guidance

    @torch.no_grad()
    def start(self, score: Score, n: int, *, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """``n`` draws from N(μ, σ_max² I), where sampling starts; μ is the data's mean, as the score knows it.  NFE: 1.

        Around 0 instead, MNIST's samples would start 0.6 standard deviations off, for the norm of its mean image is 6
        and σ_max is 10.  The probability flow keeps such a shift: too little ink, and half as many ones again.
        """
        noise = self.sigma_max * torch.randn((n, *self.shape), generator=generator, device=generator.device)
        return noise + tweedie(score, noise, torch.tensor(self.sigma_max, device=noise.device)).mean(0)

    def ladder(self, sampler: SamplerName | None = None, levels: int | None = None) -> Float[Tensor, "levels"]:
        """The noise levels that a sampler descends: geometric for Langevin's descendants, EDM's for the ODE's."""
        sampler = sampler or self.sampler
        levels = levels or (self.levels if sampler == self.sampler else None) or LEVELS[sampler]
        kind = Geometric if sampler in ("annealed", "consistent", "pc", "langevin") else Karras
        return kind(self.sigma_max, self.sigma_min, levels).sigmas()

    def states(self, sampler: SamplerName | None = None, levels: int | None = None) -> list[float]:
        """The noise level of each state that ``path`` yields; the last, denoised, has 0."""
        sampler, sigmas = sampler or self.sampler, self.ladder(sampler, levels).tolist()
        if sampler == "langevin":
            return [self.sigma_min] * len(sigmas) * self.steps + [0.0]
        return [*(sigmas if sampler == "annealed" else sigmas[1:]), 0.0]

    def path(
        self,
        score: Score,
        x: Float[Tensor, "b *d"],
        *,
        sampler: SamplerName | None = None,
        levels: int | None = None,
        step_size: float | None = None,
        generator: torch.Generator,
    ) -> Iterator[Float[Tensor, "b *d"]]:
        """The states of a sampler that starts at ``x``, by default the run's own sampler and number of levels.

        ``langevin`` takes as many steps as annealing would, all on σ_min; ``step_size`` is its α, by default ε.
        """
        sampler, sigmas = sampler or self.sampler, self.ladder(sampler, levels).to(x.device)
        if sampler == "annealed":
            return samplers.annealed_langevin(score, x, sigmas, eps=self.eps, steps=self.steps, generator=generator)
        if sampler == "langevin":
            size, steps = self.eps if step_size is None else step_size, len(sigmas) * self.steps
            return samplers.langevin(score, x, sigmas[-1], step_size=size, steps=steps, generator=generator)
        if sampler == "consistent":
            eta = 1 - float(sigmas[-1] / sigmas[0]) ** (2 / max(1, len(sigmas) - 1))  # adds noise as ancestral sampling
            return samplers.consistent_annealed(score, x, sigmas, eta=eta, generator=generator)
        if sampler == "pc":
            return samplers.predictor_corrector(score, x, sigmas, generator=generator)
        if sampler == "euler":
            return samplers.euler(score, x, sigmas)
        if sampler == "heun":
            return samplers.heun(score, x, sigmas)
        if sampler == "edm":
            return samplers.edm(score, x, sigmas, churn=CHURN, churn_range=CHURN_RANGE, generator=generator)
        noise = 1.0 if sampler == "dpmpp-sde" else 0.0
        return samplers.dpm_solver(score, x, sigmas, stochasticity=noise, generator=generator)


S = TypeVar("S", Toy, Images)


def suggested(settings: S, found: Suggestion) -> S:
    """The settings with what ``suggest_noise`` found in the data; its levels only for annealed Langevin dynamics."""
    annealed = isinstance(settings, Toy) or settings.sampler == "annealed"
    return replace(
        settings,
        sigma_max=found.noise.sigma_max,
        sigma_min=found.noise.sigma_min,
        levels=found.noise.levels if annealed else settings.levels,
        langevin_steps=found.steps,
        eps=found.eps,
    )
