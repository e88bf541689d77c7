"""The prior of samples: the noise that they start from, and the guided score that they follow.

Samplers and posteriors draw from it.  It evaluates the network in batches, and counts the evaluations.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncsn.machine import hardware
from ncsn.sampling import Sampling
from ncsn.score import Score, ScoreModel, add_guidance, tweedie
from ncsn.score_calls import Counted, evaluate_in_batches, even_batch_size

Classes = Int64[Tensor, "n"] | None
"""The class of each of n samples; None for all classes together."""


@dataclass
class Cost:
    """The evaluations that samples have cost so far.

    ``networks``: the counted scores of the network.
    ``guides``: the counted scores of the guide.
    """

    networks: list[Counted] = field(default_factory=list)
    guides: list[Counted] = field(default_factory=list)

    def count(self, score: Score) -> Score:
        """Wrap the network's score, so that its evaluations are counted."""
        self.networks.append(Counted(score))
        return self.networks[-1]

    def count_guide(self, guide: Score) -> Score:
        """Wrap the guide, so that its evaluations are counted."""
        self.guides.append(Counted(guide))
        return self.guides[-1]


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Where samples start, and the score that they follow, both in the units of the score.

    ``network``: the score, which may take classes as a third argument.
    ``guide``: a weaker score that guidance moves samples away from, see ``add_guidance``.
    ``shape``: the shape of one example.
    ``sampling``: the sampler, its noise levels and the guidance.
    ``batch_size``: the largest number of examples per evaluation.
    ``generator``: draws the noise.
    ``start_at``: the states to start from, (n, *d), if the user chooses them.
    ``cost``: the evaluations so far.
    """

    network: Score
    guide: Score | None
    shape: tuple[int, ...]
    sampling: Sampling
    batch_size: int
    generator: torch.Generator
    start_at: Float[Tensor, "n *d"] | None
    cost: Cost = field(default_factory=Cost)

    def start(self, n: int, labels: Classes) -> Float[Tensor, "n *d"]:
        """``n`` examples at the first noise level, around the means of their classes."""
        if self.start_at is not None:
            return self.start_at
        means = class_means(self.network, self.shape, labels, self.sampling.sigma_max, self.generator.device)
        return self.sampling.start(means, n, generator=self.generator)

    def score(self, n: int, labels: Classes) -> Score:
        """The guided score of up to ``n`` examples of these classes at a time, evaluated in batches and counted."""
        size = even_batch_size(n, self.batch_size)
        score = self.cost.count(evaluate_in_batches(self.network, size, labels))
        if self.sampling.guidance == 1:
            return score
        if self.sampling.guide == "unconditional":
            guide = self.cost.count(evaluate_in_batches(self.network, size))
        elif self.guide is not None:
            knows_classes = isinstance(self.guide, ScoreModel) and self.guide.num_classes
            guide = self.cost.count_guide(evaluate_in_batches(self.guide, size, labels if knows_classes else None))
        else:
            return score
        return add_guidance(score, guide, self.sampling.guidance, between=self.sampling.guided_between)


@torch.no_grad()
def class_means(
    score: Score, shape: tuple[int, ...], labels: Classes, sigma_max: float, device: torch.device
) -> Float[Tensor, "_ *d"]:
    """The mean of each label's class, or the single mean of all data, as the score knows it and in its units.

    That is the origin denoised at σ_max, which differs from MNIST's means by 0.4 if σ_max is 10.
    """
    origin = torch.zeros(shape, dtype=torch.float32, device=device)[None]
    with hardware.nothing_compiled():
        if labels is None:
            return tweedie(score, origin, sigma_max)
        classes, index = torch.unique(labels, return_inverse=True)
        score_of_classes = evaluate_in_batches(score, len(classes), classes)
        return tweedie(score_of_classes, origin.expand(len(classes), *shape), sigma_max)[index]


def with_guide(sampling: Sampling, guide: Score | None, labels: Classes, weight: float | None = None) -> Sampling:
    """The sampling with a guide that there is; without one, its default guidance is turned off.

    ``weight``: the guidance that the user asked for.
    Raises ValueError if that needs a guide.
    """
    if guide is None and labels is not None:
        sampling = replace(sampling, guide="unconditional")
    if (guide if sampling.guide == "smaller" else labels) is not None:
        return sampling
    if weight not in (None, 1):
        problem = "the run has no such guide, so guidance must be 1"
        raise ValueError(f"guidance is {weight}, guide is {sampling.guide}; {problem}")
    return replace(sampling, guidance=1.0)
