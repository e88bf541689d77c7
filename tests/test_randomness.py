"""Whatever draws at random draws from the generator it is given, on its device: nothing else changes what comes out.

Each function is called three times with the same generator: twice with another global seed, and once where tensors
whose device isn't named are made on ``meta``, which can't be mixed with numbers.  Samplers are called so beside their
formulas, in test_samplers.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import SAMPLING, GaussianScore
from torch import Generator, Tensor

import ncsn
from ncsn import Geometric, Score, batches, posteriors, training_loss
from ncsn.batching import Batch, dequantize
from ncsn.distributions import Empirical, Ring
from ncsn.noise import LogNormal, LogUniform

SCORE = GaussianScore(0.3, 0.8)
X = torch.linspace(-2, 2, 12).view(6, 2)
SIGMA = torch.linspace(0.2, 2.0, 6)
NOISE = LogUniform(3.0, 0.5)
DATA = Empirical(torch.linspace(-3, 3, 20).view(10, 2), torch.arange(10) % 2)
MIXTURE = ncsn.GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]))
MODEL, LABELLED = ncsn.ScoreModel(ncsn.MLP(2, 8, 1), 0.1, 1.2), Batch(X, torch.arange(6) % 2)
MEAN, KNOWN = torch.zeros(1, 2), torch.tensor([True, False])
BYTES = torch.arange(20, dtype=torch.uint8)[:, None]


def told(score: Score, x: Tensor, sigma: Tensor, *, label: Tensor, generator: Generator) -> Tensor:
    return label.float()


CASES: dict[str, Callable[[Generator], Tensor]] = {
    "Geometric": lambda g: Geometric(3.0, 0.5, 4).sample(6, generator=g),
    "LogNormal": lambda g: LogNormal(0.0, 1.0, 3.0, 0.5).sample(6, generator=g),
    "LogUniform": lambda g: NOISE.sample(6, generator=g),
    "GaussianMixture": lambda g: MIXTURE.sample(6, generator=g),
    "Ring": lambda g: Ring().sample(6, generator=g),
    "Empirical": lambda g: DATA.sample(6, generator=g),
    "dsm": lambda g: ncsn.dsm(SCORE, X, SIGMA, generator=g),
    "ssm": lambda g: ncsn.ssm(MIXTURE, X, SIGMA, generator=g),
    "exact": lambda g: ncsn.exact(SCORE, X, SIGMA, generator=g),
    "posterior_dsm": lambda g: ncsn.posterior_dsm(SCORE, X, SIGMA, data_score=DATA, above=0.5, generator=g),
    "training_loss": lambda g: training_loss(NOISE, generator=g)(MODEL, Batch(X))[0],
    "dropped labels": lambda g: training_loss(NOISE, told, drop_label=0.5, generator=g)(MODEL, LABELLED)[0],
    "batches": lambda g: next(batches(X, 4, generator=g)).x,
    "batches of bytes": lambda g: next(batches(BYTES, 4, generator=g)).x,
    "dequantize": lambda g: dequantize(BYTES, generator=g),
    "log_prob": lambda g: ncsn.log_prob(MIXTURE, X, sigma_max=30, sigma_min=0.5, probes=2, generator=g).log_prob,
    "replacement": lambda g: posteriors.replacement(MIXTURE, KNOWN, X, generator=g)(X + 1, 0.7),
    "known_pixels": lambda g: posteriors.known_pixels((1, 6, 6), "random", generator=g),
    "start": lambda g: SAMPLING.start(MEAN, 6, generator=g),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_come_from_the_generator_alone_on_its_device(name: str) -> None:
    function = CASES[name]
    torch.manual_seed(1)
    first = function(torch.Generator().manual_seed(7)).detach()
    torch.manual_seed(2)
    assert torch.equal(function(torch.Generator().manual_seed(7)).detach(), first)
    assert not torch.equal(function(torch.Generator().manual_seed(8)).detach(), first)
    with torch.device("meta"):
        assert torch.equal(function(torch.Generator().manual_seed(7)).detach(), first)


def test_no_two_blocks_of_any_seeds_are_the_same() -> None:
    """A generator on a CPU has 2³² seeds, so the last two are one."""
    run = ncsn.Run.of(SCORE, (1,), sigma_max=5.0, sigma_min=0.5)
    how: dict[str, Any] = {"levels": 2, "sampler": "heun"}
    first, size = [], 1000  # of a block
    for seed in (0, 1, 2, 2**32 - 1, 2**63 - 1):
        whole, part = ([*steps][-1].x[:5, 0] for steps in run.blocks(2 * size, seed=seed, **how))
        assert torch.equal(whole, run.sample(size, seed=seed, **how)[:5, 0])
        first += [tuple(whole.tolist()), tuple(part.tolist())]
    assert len(set(first)) >= len(first) - 2
    assert len(set(first[:6])) == 6
