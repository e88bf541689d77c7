"""Noise conditional score networks: learn ∇ₓ log p(x) of data at every noise level, and sample from it.

Everything is a function of ``score(x, sigma)``.  The names below are imported on first use, so that the command line
answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncsn.data import batches, load_images
    from ncsn.distributions import GaussianMixture, Ring
    from ncsn.networks import MLP, UNet
    from ncsn.noise import Geometric, LogNormal
    from ncsn.objectives import dsm, fisher, residual_loss
    from ncsn.runs import load
    from ncsn.samplers import annealed_langevin, langevin
    from ncsn.score import Score, ScoreModel, tweedie
    from ncsn.training import Budget, State, train

_ROOMS = {
    "data": ("batches", "load_images"),
    "distributions": ("GaussianMixture", "Ring"),
    "networks": ("MLP", "UNet"),
    "noise": ("Geometric", "LogNormal"),
    "objectives": ("dsm", "fisher", "residual_loss"),
    "runs": ("load",),
    "samplers": ("annealed_langevin", "langevin"),
    "score": ("Score", "ScoreModel", "tweedie"),
    "training": ("Budget", "State", "train"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "MLP",
    "Budget",
    "GaussianMixture",
    "Geometric",
    "LogNormal",
    "Ring",
    "Score",
    "ScoreModel",
    "State",
    "UNet",
    "annealed_langevin",
    "batches",
    "dsm",
    "fisher",
    "langevin",
    "load",
    "load_images",
    "residual_loss",
    "train",
    "tweedie",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its room."""
    if name not in _HOME:
        raise AttributeError(f"module 'ncsn' has no attribute '{name}'")
    return getattr(import_module(f"ncsn.{_HOME[name]}"), name)
