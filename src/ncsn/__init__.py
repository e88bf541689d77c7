"""Noise conditional score networks: learn ∇ₓ log p(x) of data at every noise level, and sample from it.

Everything is a function of ``score(x, sigma)``.  The names below are imported on first use, so that the command line
answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncsn.adapt import from_denoiser, from_diffusers, from_noise_predictor, from_variance_preserving
    from ncsn.data import batches, labelled_batches, load_images
    from ncsn.distributions import GaussianMixture, Ring
    from ncsn.empirical import Empirical
    from ncsn.likelihood import bits_per_dimension, log_prob
    from ncsn.networks import MLP, RefineNet, UNet
    from ncsn.noise import Geometric, Karras, LogNormal, LogUniform, suggest_noise
    from ncsn.objectives import dsm, exact, fisher, labelled_loss, posterior_dsm, residual_loss, ssm
    from ncsn.problems import posterior, replacement
    from ncsn.runs import load
    from ncsn.samplers import (
        annealed_langevin,
        consistent_annealed,
        dpm_solver,
        edm,
        euler,
        heun,
        langevin,
        predictor_corrector,
    )
    from ncsn.score import Score, ScoreModel, guided, tweedie
    from ncsn.training import Budget, State, train

_ROOMS = {
    "adapt": ("from_denoiser", "from_diffusers", "from_noise_predictor", "from_variance_preserving"),
    "data": ("batches", "labelled_batches", "load_images"),
    "distributions": ("GaussianMixture", "Ring"),
    "empirical": ("Empirical",),
    "likelihood": ("bits_per_dimension", "log_prob"),
    "networks": ("MLP", "RefineNet", "UNet"),
    "noise": ("Geometric", "Karras", "LogNormal", "LogUniform", "suggest_noise"),
    "objectives": ("dsm", "exact", "fisher", "labelled_loss", "posterior_dsm", "residual_loss", "ssm"),
    "problems": ("posterior", "replacement"),
    "runs": ("load",),
    "samplers": (
        "annealed_langevin",
        "consistent_annealed",
        "dpm_solver",
        "edm",
        "euler",
        "heun",
        "langevin",
        "predictor_corrector",
    ),
    "score": ("Score", "ScoreModel", "guided", "tweedie"),
    "training": ("Budget", "State", "train"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "MLP",
    "Budget",
    "Empirical",
    "GaussianMixture",
    "Geometric",
    "Karras",
    "LogNormal",
    "LogUniform",
    "RefineNet",
    "Ring",
    "Score",
    "ScoreModel",
    "State",
    "UNet",
    "annealed_langevin",
    "batches",
    "bits_per_dimension",
    "consistent_annealed",
    "dpm_solver",
    "dsm",
    "edm",
    "euler",
    "exact",
    "fisher",
    "from_denoiser",
    "from_diffusers",
    "from_noise_predictor",
    "from_variance_preserving",
    "guided",
    "heun",
    "labelled_batches",
    "labelled_loss",
    "langevin",
    "load",
    "load_images",
    "log_prob",
    "posterior",
    "posterior_dsm",
    "predictor_corrector",
    "replacement",
    "residual_loss",
    "ssm",
    "suggest_noise",
    "train",
    "tweedie",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room."""
    if name not in _HOME:
        raise AttributeError(f"module 'ncsn' has no attribute '{name}'")
    return getattr(import_module(f"ncsn.{_HOME[name]}"), name)
