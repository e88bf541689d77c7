"""How a run samples: the table of samplers, and a run's settings.

``SAMPLERS`` gives each sampler a name, the ladder of noise levels that suits it, and defaults.  ``Sampling`` holds the
settings of one run: which sampler, which noise levels, how many steps, how much guidance.  It makes the ladder, draws
the noise that sampling starts from, follows the sampler, and knows what that costs.
"""

import math
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import Geometric, Karras, Ladder, check_generator, check_range
from ncsn.samplers import (
    Step,
    annealed_langevin,
    consistent_annealed,
    dpm_solver,
    edm,
    euler,
    langevin,
    predictor_corrector,
)
from ncsn.score import Score
from ncsn.validation import LARGEST, LEAST, MOST_LEVELS, GuideName, LangevinSteps, check_ranges


class NonFiniteSampleError(FloatingPointError):
    """Samples became NaN or infinite; the message says at which noise level."""


EVALUATIONS_PER_GUIDED: dict[GuideName, float] = {"smaller": 1.25, "unconditional": 2.0}  # of the network


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler as a run uses it.

    ``follow``: the sampler, ``follow(score, x, sigmas, generator=...)``, and ``eps=..., steps=...`` for Langevin
    dynamics; it yields a state for each step between two noise levels, and the denoised one.
    ``ladder``: the spacing of its noise levels.
    ``levels``: the default number of levels; more hardly improve samples.
    ``steps``: the default number of Langevin steps, chosen likewise.
    ``nfe_per_step``: how often it evaluates the score in one step.
    ``langevin``: whether it is Langevin dynamics, which has a step size, needs only one noise level, and doesn't take
    over a run's guidance, because a guided score has no distribution.
    ``restarts``: whether explicit levels may rise, which costs no evaluation.
    ``uniform``: whether it starts from uniform noise in [0, 1], as the NCSN papers do, instead of around the mean.
    ``denoises``: whether the last state is denoised.
    """

    follow: Callable[..., Iterator[Step]]
    ladder: type[Ladder]
    levels: int
    steps: int = 1
    nfe_per_step: int = 1
    langevin: bool = False
    restarts: bool = False
    uniform: bool = False
    denoises: bool = True

    def levels_for(self, sigma_max: float, sigma_min: float) -> int:
        """How many levels make steps as fine as ``levels`` do between 10 and 0.01; never fewer than ``levels``.

        ``sigma_max``: the largest noise level.
        ``sigma_min``: the smallest one.
        """
        if self.levels == 1:
            return self.levels

        def length(top: float, bottom: float) -> float:
            """The length of a range of noise levels, in units in which the ladder's steps are equal."""
            return float(top ** (1 / 7) - bottom ** (1 / 7)) if self.ladder is Karras else math.log(top / bottom)

        return max(self.levels, round(self.levels * length(sigma_max, sigma_min) / length(10, 0.01)))


def edm_of_karras(score: Score, x: Tensor, sigmas: Tensor, *, generator: torch.Generator) -> Iterator[Step]:
    """EDM's sampler with a churn of 40, in the middle of the range of noise: Karras et al. 2022, table 5."""
    top = float(sigmas[0])
    return edm(score, x, sigmas, churn=40.0, churn_range=(top / 200, top / 5), generator=generator)


def on_the_last_level(
    score: Score, x: Tensor, sigmas: Tensor, *, eps: float, steps: int, generator: torch.Generator
) -> Iterator[Step]:
    """Langevin dynamics that never leaves the smallest noise level."""
    return langevin(score, x, sigmas[-1], step_size=eps, steps=steps, generator=generator)


undenoised = partial(annealed_langevin, denoise=False)
# SDE-DPM-Solver++(2M), its last step between order 1 and 2.
reverse_diffusion = partial(dpm_solver, stochasticity=1.0, last_extrapolation=0.25)

SAMPLERS: dict[str, SamplerSpec] = {
    "annealed": SamplerSpec(annealed_langevin, Geometric, levels=100, steps=2, langevin=True),
    # As in Song & Ermon 2019, section 5: ten levels of a hundred steps; and as in their paper of 2020.
    "ncsn": SamplerSpec(undenoised, Geometric, levels=10, steps=100, langevin=True, uniform=True, denoises=False),
    "ncsnv2": SamplerSpec(annealed_langevin, Geometric, levels=100, steps=5, langevin=True, uniform=True),
    "consistent": SamplerSpec(consistent_annealed, Geometric, levels=100),
    "pc": SamplerSpec(predictor_corrector, Geometric, levels=60, nfe_per_step=2),
    "euler": SamplerSpec(euler, Karras, levels=40, restarts=True),
    "heun": SamplerSpec(partial(edm, churn=0.0), Karras, levels=18, nfe_per_step=2),
    "edm": SamplerSpec(edm_of_karras, Karras, levels=40, nfe_per_step=2),
    "dpmpp": SamplerSpec(dpm_solver, Karras, levels=20),
    "dpmpp-sde": SamplerSpec(reverse_diffusion, Karras, levels=30),
    "langevin": SamplerSpec(on_the_last_level, Geometric, levels=1, steps=200, langevin=True),
}


def find_spec(name: str) -> SamplerSpec:
    """The row of a sampler.  Raises ValueError if there is none."""
    if not isinstance(name, str) or name not in SAMPLERS:
        raise ValueError(f"sampler is {name}; it must be one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw samples from a score: the sampler, the noise levels and the guidance.

    ``sigma_max``: the first noise level.
    ``sigma_min``: the last noise level, > 0 and at most ``sigma_max``.
    ``sampler``: a name in ``SAMPLERS``.
    ``levels``: the number of noise levels, 1 to 10,000; or the levels themselves, descending.  If the sampler
    supports restarts, levels may rise, and noise is added there.
    ``steps``: Langevin steps, per level if annealed; 1 to 10,000,000.
    ``eps``: the Langevin step size α > 0 at the smallest level.  With 4σ_min² or more, annealed Langevin dynamics
    diverges.
    ``guidance``: the guidance scale, ≥ 0; 1 disables guidance.
    ``guided_between``: the noise levels between which guidance acts, by default those that suit pixels in [0, 1].
    ``guide``: smaller, a network that was trained with the run's own (autoguidance), or unconditional, the run's own
    network without the class (classifier-free guidance).
    Raises ValueError for values out of range.
    """

    sigma_max: float
    sigma_min: float
    sampler: str
    levels: int | tuple[float, ...]
    steps: LangevinSteps
    eps: Annotated[float, Interval(gt=0)]
    guidance: Annotated[float, Interval(ge=0)] = 1.0
    guided_between: tuple[float, float] = (0.2, 1.5)
    guide: GuideName = "smaller"

    def __post_init__(self) -> None:
        """Reject, before a long training, settings that could not be sampled after it."""
        check_ranges(self)
        spec = find_spec(self.sampler)
        check_range(self.sigma_max, self.sigma_min, self.count)
        is_annealed = spec.langevin and spec.levels > 1
        limit = 4 * self.sigma_min**2 if is_annealed else math.inf
        if self.eps >= limit or self.count > MOST_LEVELS:
            allowed = f"eps < {limit:.3g} and at most {MOST_LEVELS:,} levels"
            raise ValueError(f"eps is {self.eps}, levels is {self.count}; expected {allowed}")
        if self.guided_between[0] > self.guided_between[1]:
            raise ValueError(f"guided_between is {self.guided_between}; the smaller noise level must come first")
        if self.levels == 1 and not spec.langevin and self.sigma_max > self.sigma_min:
            raise ValueError(f"levels is 1; {self.sampler} needs at least 2")
        levels = (self.sigma_max, self.sigma_min) if isinstance(self.levels, int) else self.levels
        rising = not spec.restarts and any(a < b for a, b in pairwise(levels))
        if rising or not all(LEAST <= level <= LARGEST for level in levels):
            raise ValueError(f"levels is {reprlib.repr(levels)}; they must descend, within {LEAST} and {LARGEST}")

    @classmethod
    def of(cls, sampler: str, sigma_max: float, sigma_min: float, *, eps: float | None = None) -> "Sampling":
        """The default way to sample with a sampler, with levels and steps that suit it.

        ``sampler``: a name in ``SAMPLERS``.
        ``sigma_max``, ``sigma_min``: the largest and the smallest noise level.
        ``eps``: the Langevin step size α at the smallest level; by default σ_min²/2.
        Raises ValueError as the class does.
        """
        spec = find_spec(sampler)
        check_range(sigma_max, sigma_min)
        return cls(
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            sampler=sampler,
            levels=spec.levels_for(sigma_max, sigma_min),
            steps=spec.steps,
            eps=eps or sigma_min**2 / 2,
        )

    @property
    def spec(self) -> SamplerSpec:
        """The sampler's entry in ``SAMPLERS``."""
        return SAMPLERS[self.sampler]

    def but(self, *, sampler: str | None = None, **changes: object) -> "Sampling":
        """A copy in which the given fields have other values; fields that are None stay as they are.

        Another sampler comes with its own levels and steps, and Langevin dynamics without guidance, see
        ``SamplerSpec``.

        ``sampler``: a name in ``SAMPLERS``.
        ``changes``: other fields of this class, and their values.
        Raises ValueError as the class does, for several levels of langevin, which stays on one, and for Langevin steps
        of a sampler that takes none.
        """
        base = self
        if sampler is not None and find_spec(sampler) is not self.spec:
            default = Sampling.of(sampler, self.sigma_max, self.sigma_min, eps=self.eps)
            guidance = 1.0 if default.spec.langevin else self.guidance
            base = replace(default, guidance=guidance, guided_between=self.guided_between, guide=self.guide)
        values = {name: value for name, value in changes.items() if value is not None}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        if not base.spec.langevin and not values.keys().isdisjoint(("steps", "eps")):
            given = ", ".join(f"{name} is {values[name]}" for name in ("steps", "eps") if name in values)
            raise ValueError(f"{given}; {base.sampler} takes no Langevin steps, only levels")
        if base.sampler == "langevin" and values.get("levels", 1) != 1:
            raise ValueError(f"levels is {values['levels']}, but langevin stays on one level; set steps instead")
        return replace(base, **values)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """The number of noise levels."""
        return self.levels if isinstance(self.levels, int) else len(self.levels)

    @property
    def states(self) -> int:
        """The number of states that ``follow`` yields; Langevin dynamics on one level yields one per step."""
        if not self.spec.langevin:
            return self.count
        return (self.steps if self.spec.levels == 1 else self.count) + self.spec.denoises

    @property
    def descents(self) -> list[float]:
        """The noise levels from which a step descends; from all others a restart rises."""
        ladder = [*self.ladder().tolist(), 0.0]
        return [sigma for sigma, following in pairwise(ladder) if following <= sigma]

    @property
    def nfe(self) -> int:
        """Evaluations of the score per sample."""
        levels = len(self.descents)
        before_denoising = levels * self.steps if self.spec.langevin else (levels - 1) * self.spec.nfe_per_step
        return before_denoising + self.spec.denoises

    @property
    def guided_nfe(self) -> float:
        """Evaluations of the network per sample with guidance; one of a smaller guide counts as a quarter."""
        low, high = self.guided_between
        guided: int = sum(low <= sigma <= high for sigma in self.descents)
        return self.nfe + self.nfe * guided * (EVALUATIONS_PER_GUIDED[self.guide] - 1) / len(self.descents)

    def ladder(self) -> Float[Tensor, "levels"]:
        """The noise levels in the order in which they are visited."""
        if not isinstance(self.levels, int):
            return torch.tensor(self.levels, device="cpu")
        return self.spec.ladder(self.sigma_max, self.sigma_min, self.levels).sigmas(device="cpu")

    def start(self, mean: Float[Tensor, "#n *d"], n: int, *, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """``n`` draws from N(μ, σ² I), where sampling starts; for the samplers of the NCSN papers, uniform in [0, 1].

        ``mean``: μ of the data, or one for each draw.  σ is σ_max, or the first of explicit levels.

        Around 0, MNIST's samples would start 0.6 standard deviations off, because the norm of its mean image is 6 and
        σ_max is 10.  The probability flow preserves such a shift: digits would have too little ink, and there would be
        half again as many ones.
        Raises ValueError for uniform noise unless the examples are images.
        """
        sigma = self.sigma_max if isinstance(self.levels, int) else self.levels[0]
        check_generator(generator, mean.device)
        shape = (n, *mean.shape[1:])
        if self.spec.uniform:
            if len(shape) != 4:
                raise ValueError(
                    f"{self.sampler} starts from uniform noise in [0, 1], for images; use annealed instead"
                )
            return torch.rand(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + sigma * torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)

    def follow(self, score: Score, x: Float[Tensor, "b *d"], *, generator: torch.Generator) -> Iterator[Step]:
        """The states of the sampler from ``x`` on; the last one is denoised, if the sampler does that."""
        options = {"eps": self.eps, "steps": self.steps} if self.spec.langevin else {}
        return self.spec.follow(score, x, self.ladder(), generator=generator, **options)
