"""Samplers: what turns a score into samples.

Every sampler is an iterator of states, so that progress bars, animations and early stopping belong to the caller:
``*path, samples = annealed_langevin(score, x, sigmas, ...)``.  With ``denoise`` the last state is the posterior mean.
"""

from ncsn.samplers.flow import dpm_solver, edm, euler, heun, slerp
from ncsn.samplers.langevin import annealed_langevin, consistent_annealed, langevin, predictor_corrector

__all__ = [
    "annealed_langevin",
    "consistent_annealed",
    "dpm_solver",
    "edm",
    "euler",
    "heun",
    "langevin",
    "predictor_corrector",
    "slerp",
]
