"""The samplers beside an independent implementation of the same steps, that of diffusers; skipped without it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import states_of
from torch import Tensor

from ncsn import samplers as ways
from ncsn.distributions import GaussianMixture
from ncsn.noise import Karras
from ncsn.score import tweedie

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's
diffusers: Any = pytest.importorskip("diffusers")

dpm_solver = states_of(ways.dpm_solver)
edm = states_of(ways.edm)
predictor_corrector = states_of(ways.predictor_corrector)
MIXTURE = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), 0.5, torch.tensor([0.3, 0.7]))
START = 8 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def follow(scheduler: Any, output: Callable[[Tensor, Tensor], Tensor], **arguments: Any) -> Tensor:
    """The end of a scheduler's path from START; ``output`` is what a network would say of x at σ."""
    x = START
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)  # counts the steps; the network here takes x as it is
        x = scheduler.step(output(x, scheduler.sigmas[i]), t, x, **arguments).prev_sample
    return x


def residual(x: Tensor, sigma: Tensor) -> Tensor:
    """What EDM's network says: D is c_skip·x + c_out times this, for σ_data = ½."""
    skip, out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
    return (tweedie(MIXTURE, x, sigma) - skip * x) / out


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_dpm_solver(stochasticity: float) -> None:
    algorithm = "sde-dpmsolver++" if stochasticity else "dpmsolver++"
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.05, sigma_max=8.0, algorithm_type=algorithm, euler_at_final=True
    )
    scheduler.set_timesteps(20)
    *_, end = dpm_solver(MIXTURE, START, scheduler.sigmas[:-1], stochasticity=stochasticity, generator=seeded())
    theirs = follow(scheduler, residual, generator=seeded())
    torch.testing.assert_close(theirs, end, rtol=1e-3, atol=1e-4)


def test_predictor_corrector() -> None:
    scheduler = diffusers.ScoreSdeVeScheduler(snr=0.16, sigma_min=0.05, sigma_max=8.0)
    scheduler.set_timesteps(10)
    scheduler.set_sigmas(10)
    ladder, generator, x = scheduler.discrete_sigmas.flip(0), seeded(), START
    for sigma, following, t in zip(ladder, ladder[1:], scheduler.timesteps, strict=False):
        x = scheduler.step_pred(MIXTURE(x, sigma), t, x, generator=generator).prev_sample
        x = scheduler.step_correct(MIXTURE(x, following), x, generator=generator).prev_sample
    *_, end = predictor_corrector(MIXTURE, START, ladder, denoise=False, generator=seeded())
    torch.testing.assert_close(x, end, rtol=1e-3, atol=1e-3)


def test_edm() -> None:
    from diffusers.schedulers.deprecated.scheduling_karras_ve import KarrasVeScheduler

    scheduler: Any = KarrasVeScheduler(s_noise=1.0, s_churn=4.0, s_min=0.0, s_max=100.0)
    ladder, generator, x = Karras(8.0, 0.05, 10).sigmas(), seeded(), START
    scheduler.num_inference_steps = len(ladder)
    for sigma, following in pairwise(ladder):
        x, raised = scheduler.add_noise_to_input(x, sigma, generator=generator)
        first = scheduler.step(raised * MIXTURE(x, raised), raised, following, x)
        again = following * MIXTURE(first.prev_sample, following)
        x = scheduler.step_correct(again, raised, following, x, first.prev_sample, first.derivative).prev_sample
    *_, end = edm(MIXTURE, START, ladder, churn=4.0, denoise=False, generator=seeded())
    torch.testing.assert_close(x, end, rtol=1e-3, atol=1e-3)
