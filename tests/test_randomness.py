"""Whatever draws at random draws from the generator it is given, on its device: nothing else changes what comes out.

Each function is called three times with the same generator: twice with another global seed, and once where tensors are
made on the device ``meta`` unless they are told otherwise, which cannot be mixed with numbers.
"""

from collections.abc import Callable

import pytest
import torch
from helpers import GaussianScore
from torch import Generator, Tensor

from ncsn import objectives, problems
from ncsn import samplers as ways
from ncsn.data import batches
from ncsn.data.units import dequantize
from ncsn.distributions import Boxes, Empirical, GaussianMixture, Ring
from ncsn.likelihood import log_prob
from ncsn.networks import MLP
from ncsn.noise import Geometric, LogNormal, LogUniform
from ncsn.objectives import Batch, training_loss
from ncsn.samplers import Sampling
from ncsn.score import ScoreModel

SCORE = GaussianScore(0.3, 0.8)
X = torch.linspace(-2, 2, 12).view(6, 2)
MEAN = torch.zeros(1, 2)
SIGMA = torch.linspace(0.2, 2.0, 6)
SIGMAS = Geometric(3.0, 0.5, 4).sigmas()
DATA = Empirical(torch.linspace(-3, 3, 20).view(10, 2), torch.arange(10) % 2)
MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]))
SAMPLING = Sampling(sigma_max=3.0, sigma_min=0.5, sampler="heun", levels=4, steps=1, eps=0.1)
MODEL = ScoreModel(MLP(2, 8, 1), 0.1, 1.2)
LABEL = torch.arange(6) % 2
BOXES = Boxes(torch.zeros(2, 2), 1.0)
BYTES = torch.arange(20, dtype=torch.uint8)[:, None]
KNOWN = torch.tensor([True, False])


CASES: dict[str, Callable[[Generator], Tensor]] = {
    "Geometric": lambda g: Geometric(3.0, 0.5, 4).sample(6, generator=g),
    "LogNormal": lambda g: LogNormal(0.0, 1.0, 3.0, 0.5).sample(6, generator=g),
    "LogUniform": lambda g: LogUniform(3.0, 0.5).sample(6, generator=g),
    "GaussianMixture": lambda g: MIXTURE.sample(6, generator=g),
    "Ring": lambda g: Ring().sample(6, generator=g),
    "Boxes": lambda g: BOXES.sample(6, generator=g),
    "Empirical": lambda g: DATA.sample(6, generator=g),
    "dsm": lambda g: objectives.dsm(SCORE, X, SIGMA, generator=g),
    "ssm": lambda g: objectives.ssm(MIXTURE, X, SIGMA, generator=g),
    "exact": lambda g: objectives.exact(SCORE, X, SIGMA, generator=g),
    "posterior_dsm": lambda g: objectives.posterior_dsm(SCORE, X, SIGMA, data_score=DATA, above=0.5, generator=g),
    "training_loss": lambda g: training_loss(LogUniform(3, 0.5), generator=g)(MODEL, Batch(X))[0],
    "dropped labels": lambda g: training_loss(
        LogUniform(3, 0.5), lambda *_, label, generator: label.float(), drop_label=0.5, generator=g
    )(MODEL, Batch(X, LABEL))[0],
    "batches": lambda g: next(batches(X, 4, generator=g)).x,
    "batches of bytes": lambda g: next(batches(BYTES, 4, generator=g)).x,
    "dequantize": lambda g: dequantize(BYTES, generator=g),
    "log_prob": lambda g: log_prob(MIXTURE, X, sigma_max=30, sigma_min=0.5, probes=2, generator=g).log_prob,
    "replacement": lambda g: problems.replacement(MIXTURE, KNOWN, X, generator=g)(X + 1, 0.7),
    "known_pixels": lambda g: problems.known_pixels((1, 6, 6), "random", generator=g),
    "start": lambda g: SAMPLING.start(MEAN, 6, generator=g),
    "langevin": lambda g: [*ways.langevin(SCORE, X, 0.7, step_size=0.1, steps=2, generator=g)][-1].x,
    "annealed": lambda g: [*ways.annealed_langevin(SCORE, X, SIGMAS, eps=0.1, steps=2, generator=g)][-1].x,
    "consistent": lambda g: [*ways.consistent_annealed(SCORE, X, SIGMAS, eta=0.8, generator=g)][-1].x,
    "pc": lambda g: [*ways.predictor_corrector(SCORE, X, SIGMAS, generator=g)][-1].x,
    "edm": lambda g: [*ways.edm(SCORE, X, SIGMAS, churn=1.0, generator=g)][-1].x,
    "dpm_solver": lambda g: [*ways.dpm_solver(SCORE, X, SIGMAS, stochasticity=1.0, generator=g)][-1].x,
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
