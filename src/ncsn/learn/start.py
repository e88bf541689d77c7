"""Where training starts: around a Gaussian with the data's mean and spread, or with another run's weights."""

import torch
from torch import Tensor

from ncsn.data.dataset import Dataset
from ncsn.learn.plan import Plan
from ncsn.learn.record import Record
from ncsn.loading import load
from ncsn.run.run import Run
from ncsn.score import ScoreModel

COLOUR_AXES = {"stem.weight": 1, "head.weight": 0, "head.bias": 0}  # of the U-Net's first and last layers


def build_model(plan: Plan, data: Dataset, record: Record) -> ScoreModel:
    """The model to train: a new network, or the user's own, with the weights of the run to start from, if any.

    Raises ValueError if that run has another network.
    """
    beginning = data.start(plan.recipe.preconditioning)
    model = plan.recipe.build(beginning, network=plan.network, autocast=plan.autocast).to(plan.device)
    start = plan.start
    if start is None and plan.settings.start is not None and not record.resumes:  # a checkpoint has its own weights
        start = load(plan.settings.start, device=plan.settings.job.device)
    if start is not None:
        take_weights(model, start, plan.recipe.shape[0])
    return model


def take_weights(model: ScoreModel, start: Run, colours: int) -> None:
    """Copy the weights of a run, except for those of classes, and fit those of colours to the number of colours.

    Raises ValueError if other layers differ.
    """
    weights, theirs = model.network.state_dict(), dict(start.model.network.state_dict())
    for name in COLOUR_AXES.keys() & weights.keys() & theirs.keys():
        if weights[name].shape != theirs[name].shape:
            theirs[name] = adapt_colours(theirs[name], COLOUR_AXES[name], start.recipe.shape, colours)
    common = weights.keys() & theirs.keys()
    fitting = {name: theirs[name] for name in common if weights[name].shape == theirs[name].shape}
    if others := [name for name in weights if name not in fitting and not name.startswith("labels.")]:
        where = start.folder or "the run to start from"
        raise ValueError(f"{where} has a different network ({others[0]} differs); leave out --channels and --blocks")
    model.network.load_state_dict(weights | fitting)


def adapt_colours(weights: Tensor, axis: int, shape: tuple[int, ...], colours: int) -> Tensor:
    """Weights of the first layer (axis 1) or the last (axis 0) of a network of that shape for other colours.

    Colours beyond the network's three begin without influence; any other number sees the mean colour, and predicts it.
    """
    layers = torch.unflatten(weights, axis, (shape[0], -1)).movedim(axis, 0)  # one for each colour
    if colours > len(layers) > 1:
        layers = torch.cat([layers, layers.new_zeros(colours - len(layers), *layers.shape[1:])])
    else:
        merged = layers.sum(0) / colours if axis else layers.mean(0)
        layers = merged.expand(colours, *merged.shape)
    return layers.movedim(0, axis).flatten(axis, axis + 1)
