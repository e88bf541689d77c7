"""The plan of a training: everything that is decided before it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ncsn.data.dataset import Dataset
from ncsn.learn import rules
from ncsn.machine import hardware
from ncsn.noise import Proposal
from ncsn.objectives import Objective
from ncsn.optimizers import adam, muon_and_adam
from ncsn.run.recipe import Recipe
from ncsn.run.run import Run, config_of
from ncsn.score import ScoreModel
from ncsn.settings import ResolvedSettings, TrainSettings
from ncsn.training import Schedule, constant, linear_decay
from ncsn.validation import Json


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will do.

    ``settings``: including those that follow from the data and the machine.
    ``recipe``, ``guide_recipe``: the models to train, and how to sample them.
    ``noise``: the distribution of noise levels.
    ``network``, ``objective``, ``start``: the user's own, if there are any.
    ``device``, ``autocast``: of the network, see ``ScoreModel``.
    """

    settings: ResolvedSettings
    recipe: Recipe
    guide_recipe: Recipe | None
    noise: Proposal
    network: nn.Module | None
    objective: Objective | None
    start: Run | None
    device: torch.device
    autocast: torch.dtype | None

    @property
    def products(self) -> torch.dtype:
        """The dtype of large products outside of the network."""
        return self.autocast or torch.float32

    def optimizers(self, model: ScoreModel) -> list[torch.optim.Optimizer]:
        """The optimisers of a model's parameters."""
        settings = self.settings
        if settings.optimizer == "adam":
            return [adam(model, settings.adam_rate)]
        return muon_and_adam(model, muon_rate=settings.muon_rate, adam_rate=settings.adam_rate, products=self.products)

    @property
    def schedule(self) -> Schedule:
        """The learning rate during training, relative to its peak."""
        return constant if self.settings.schedule == "constant" else linear_decay

    def facts(self) -> Json:
        """The settings for config.json, with the names of the user's own parts instead of the settings they replace."""
        facts = storable_settings(self.settings)
        if self.network is not None:
            facts |= {"network": rules.name_of(self.network), "channels": None, "blocks": None}
        if self.objective is not None:
            facts["objective"] = getattr(self.objective, "__qualname__", repr(self.objective))
        if self.noise != rules.noise_of(self.settings):
            facts |= {"proposal": repr(self.noise), "log_sigma_mean": None, "log_sigma_std": None}
        return facts


def storable_settings(settings: ResolvedSettings) -> Json:
    """Settings as config.json stores them: without the job, which is a new one when the run is resumed."""
    values = {name: value for name, value in asdict(settings).items() if name != "job"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def make_plan(
    data: Dataset,
    settings: TrainSettings,
    *,
    network: nn.Module | None = None,
    objective: Objective | None = None,
    noise: Proposal | None = None,
    start: Run | None = None,
    saved: Json | None = None,
) -> Plan:
    """Plan a training on this data, and print a description of the data.

    ``network``, ``objective``, ``noise``, ``start``: the user's own, see ``fit``.
    ``saved``: the settings of a run to resume, which take precedence over those that are given.
    Raises ValueError for options that don't apply to the data, and for models that can't be built or sampled.
    """
    if settings.hidden and network is not None:
        raise ValueError("hidden doesn't apply to a network of your own, which learns all columns together")
    if start is not None:
        settings = replace(settings, start=str(start.folder or "a run in memory"))
    elif network is not None and settings.start is None and data.prior is not None:
        settings = replace(settings, start="none")
    if saved is None:
        rules.check_options(settings, data)  # before anything is printed
    data.announce()  # before anything that takes seconds
    device = hardware.choose_device(settings.job.device)
    if saved is None:
        resolved = rules.resolve(settings, data, device, None if start is None else config_of(start))
    else:
        resolved = rules.recall(settings, saved)
    recipe, guide_recipe = rules.recipes(resolved, data, network)
    check_recipe(recipe, network)
    precision = data.precision if settings.job.precision == "auto" else settings.job.precision
    return Plan(
        settings=resolved,
        recipe=recipe,
        guide_recipe=guide_recipe,
        noise=noise or rules.noise_of(resolved),
        network=network,
        objective=objective,
        start=start,
        device=device,
        autocast=hardware.choose_autocast(precision, device),
    )


def check_recipe(recipe: Recipe, network: nn.Module | None) -> None:
    """Raises ValueError if the model can't be built, or sampled by the paper's sampler."""
    recipe.sampling.but(sampler="annealed")
    recipe.build(network=network)(torch.zeros(1, *recipe.shape), 1.0)
