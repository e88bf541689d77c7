"""How samples are drawn from a score: which sampler, on which noise levels, and where it starts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import Geometric, Karras, check_range
from ncsn.samplers import GUIDED, METHODS, Descent, Method, Step
from ncsn.score import Score
from ncsn.validation import MOST_LEVELS, MOST_STEPS, GuideName


def short(values: tuple[float, ...]) -> str:
    """The first few values."""
    return ", ".join(f"{value:g}" for value in values[:5]) + (", …" if len(values) > 5 else "")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A sampler and all that it needs to know.

    ``sigma_max``, ``sigma_min``: the noise levels to descend between.  ``sampler``: a name in ``METHODS``.
    ``levels``: how many noise levels, or the levels themselves, descending; where they rise noise is added, if the
    sampler has such restarts.  ``steps``: Langevin steps, on each level if annealed.  ``eps``: their size α on the
    smallest level.  ``guidance``: how far to move away from a guide, 1 is not at all; ``guided_between``: on which
    noise levels, by default what suits pixels in [0, 1].  ``guide``: which one: the smaller network that was trained
    beside the run's own (autoguidance), or the run's own network without the class (classifier-free guidance), which
    needs one.
    Raises ValueError unless the sampler is known, σ_max ≥ σ_min > 0, levels are 1 to ``MOST_LEVELS`` (and descending,
    if given one by one to a sampler without restarts), steps 1 to ``MOST_STEPS``, ε > 0 (and below 4σ_min² if annealed,
    beyond which it diverges), the guidance is a number ≥ 0, and what is guided lies between two numbers.
    """

    sigma_max: float
    sigma_min: float
    sampler: str
    levels: int | tuple[float, ...]
    steps: int
    eps: float
    guidance: float = 1.0
    guided_between: tuple[float, float] = (0.2, 1.5)
    guide: GuideName = "smaller"

    def __post_init__(self) -> None:
        """Refuse, before a long training, what could not be sampled after it."""
        if self.sampler not in METHODS:
            raise ValueError(f"sampler is {self.sampler}; allowed are {', '.join(METHODS)}")
        check_range(self.sigma_max, self.sigma_min, self.count)
        self.check_levels()
        limit = 4 * self.sigma_min**2 if self.sampler == "annealed" else float("inf")
        if not 0 < self.eps < limit or not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(
                f"eps is {self.eps}, steps is {self.steps}; allowed are 0 < eps < {limit:.3g}, and 1 to {MOST_STEPS:,}"
            )
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance is {self.guidance}; it must be a number, at least 0")
        low, high = self.guided_between
        if not low <= high:
            raise ValueError(f"guided_between is {self.guided_between}; two numbers are needed, the smaller one first")

    def check_levels(self) -> None:
        """Raises ValueError for too many noise levels or too few, or for some that cannot be descended in float32."""
        if self.count > MOST_LEVELS:
            raise ValueError(f"levels is {self.count:,}; allowed are 1 to {MOST_LEVELS:,}")
        if self.levels == 1 and not self.method.langevin and self.sigma_max > self.sigma_min:
            way = f"from noise level {self.sigma_max:g} to {self.sigma_min:g}"
            raise ValueError(f"levels is 1; {self.sampler} comes {way} by at least 2")
        given = (self.sigma_max, self.sigma_min) if isinstance(self.levels, int) else self.levels
        rising = not self.method.restarts and any(a < b for a, b in pairwise(given))
        # Beyond these, squares of noise levels are no float32.
        if not all(1e-18 < level < 1e18 for level in given) or rising:
            raise ValueError(f"noise levels are {short(given)}; numbers from 1e-18 to 1e18 are needed, descending")

    @property
    def method(self) -> Method:
        """The sampler's row in the table."""
        return METHODS[self.sampler]

    def but(
        self,
        *,
        sampler: str | None = None,
        levels: int | tuple[float, ...] | None = None,
        steps: int | None = None,
        eps: float | None = None,
        guidance: float | None = None,
        guide: GuideName | None = None,
    ) -> "Sampling":
        """The same but for what is given; another sampler comes with its own levels and steps, and guided or not.

        Raises ValueError as the class, and if langevin, which stays on one level, is given several, or another sampler
        than Langevin dynamics its steps.
        """
        name = self.sampler if sampler is None else sampler
        taken = {"steps": steps, "eps": eps}
        unknown = [f"{key} is {value:g}" for key, value in taken.items() if value is not None]
        if unknown and name in METHODS and not METHODS[name].langevin:
            those = " and ".join(other for other, method in METHODS.items() if method.langevin)
            raise ValueError(f"{', '.join(unknown)}, but {name} takes no Langevin steps; {those} do")
        if name == "langevin" and levels not in (None, 1):
            raise ValueError(f"levels is {levels}, but langevin stays on the smallest one; steps says how long")
        base = self if name == self.sampler else self.changed(name)
        given = {"levels": levels, "steps": steps, "eps": eps, "guidance": guidance, "guide": guide}
        return replace(base, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]

    def changed(self, sampler: str) -> "Sampling":
        """With another sampler, on its own levels."""
        if sampler not in METHODS:
            raise ValueError(f"sampler is {sampler}; allowed are {', '.join(METHODS)}")
        method = METHODS[sampler]
        guidance = self.guidance if abs(self.guidance - 1) >= method.guided_from else 1.0
        levels = method.suited(self.sigma_max, self.sigma_min)
        return replace(self, sampler=sampler, levels=levels, steps=method.steps, guidance=guidance)

    @property
    def limited(self) -> "Sampling":
        """Without as many levels as would take a sample beyond its method's most evaluations, if it has a most.

        Two levels stay, whatever they cost.
        """
        most = math.inf if self.method.most is None else self.method.most
        fewer = (replace(self, levels=levels) for levels in range(self.count - 1, 1, -1))
        return next((found for found in (self, *fewer) if found.evaluations <= most), replace(self, levels=2))

    @property
    def count(self) -> int:
        """How many noise levels."""
        return self.levels if isinstance(self.levels, int) else len(self.levels)

    @property
    def states(self) -> int:
        """How many states ``follow`` yields."""
        return self.method.states(self.count, self.steps)

    @property
    def evaluated(self) -> list[float]:
        """The noise levels that a step leads down from; from the others a restart leads up."""
        ladder = self.ladder().tolist()
        return [sigma for sigma, following in pairwise([*ladder, 0.0]) if following <= sigma]

    @property
    def nfe(self) -> int:
        """How often a score is evaluated for one sample."""
        return self.method.nfe(len(self.evaluated), self.steps)

    @property
    def evaluations(self) -> float:
        """How often the network is evaluated for one sample, its guide included: a smaller one is a quarter of it."""
        return self.nfe if self.guidance == 1 else self.guided_nfe

    @property
    def guided_nfe(self) -> float:
        """The same, if samples are guided."""
        low, high = self.guided_between
        evaluated = self.evaluated
        guided: int = sum(low <= sigma <= high for sigma in evaluated)
        return self.nfe + self.nfe * guided * (GUIDED[self.guide] - 1) / len(evaluated)

    def ladder(self, *, device: torch.device | str = "cpu") -> Float[Tensor, "levels"]:
        """The noise levels to descend, in their order."""
        if not isinstance(self.levels, int):
            return torch.tensor(self.levels, device=device)
        kind = Geometric if self.method.ladder == "geometric" else Karras
        return kind(self.sigma_max, self.sigma_min, self.levels).sigmas(device=device)

    def start(self, mean: Float[Tensor, "#n *d"], n: int, *, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """``n`` draws from N(μ, σ² I), where sampling starts; μ is the data's ``mean``, or one for each draw.

        σ is σ_max, or of levels that are given one by one the first.

        Around 0 instead, MNIST's samples would start 0.6 standard deviations off, for the norm of its mean image is 6
        and σ_max is 10.  The probability flow keeps such a shift: too little ink, and half as many ones again.
        """
        sigma = self.sigma_max if isinstance(self.levels, int) else self.levels[0]
        return mean + sigma * torch.randn((n, *mean.shape[1:]), generator=generator, device=generator.device)

    def follow(self, score: Score, x: Float[Tensor, "b *d"], *, generator: torch.Generator) -> Iterator[Step]:
        """The states of the sampler from ``x`` on; the last one is denoised."""
        sigmas = self.ladder(device=x.device)
        return self.method.follow(
            Descent(score=score, x=x, sigmas=sigmas, steps=self.steps, eps=self.eps, generator=generator)
        )
