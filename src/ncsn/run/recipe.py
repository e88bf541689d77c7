"""A run's recipe: how to rebuild its model, and how to sample it."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import numpy as np
import torch
from annotated_types import Interval, MinLen
from jaxtyping import Float, Int64
from pydantic import PlainValidator
from torch import Tensor, nn

from ncsn.conditionals import ConditionalModel
from ncsn.data.columns import Columns
from ncsn.data.transforms import Depth, Scale, Transform
from ncsn.networks import MLP, ResidualMLP, UNet
from ncsn.particles import systematic
from ncsn.sampling import Sampling
from ncsn.score import PRECONDITIONINGS, PreconditioningName, ScoreModel
from ncsn.validation import Count, check_call, from_json

Size: TypeAlias = Annotated[int, Interval(ge=0, le=2**20)]  # a width, a number of classes
Label: TypeAlias = int | str | Int64[Tensor, "n"] | Int64[Tensor, ""]
"""Classes of samples, see ``Run.steps``."""
NETWORKS: dict[str, type[nn.Module]] = {"MLP": MLP, "ResidualMLP": ResidualMLP, "UNet": UNet}
TRANSFORMS: dict[str, type[Transform]] = {"identity": Transform, "depth": Depth, "scale": Scale, "columns": Columns}
Argument: TypeAlias = bool | Size | float | str | tuple[Size, ...] | tuple[float, ...]


def read_transform(content: object) -> Transform:
    """A transform from a run's config.json.  Raises ValueError for anything else."""
    if isinstance(content, Transform):
        return content
    name = content.get("type") if isinstance(content, Mapping) else None
    if name not in [*TRANSFORMS]:  # it may be anything, even unhashable
        raise ValueError(f"transform is {name!r}; it must be one of {', '.join(TRANSFORMS)}")
    return from_json(TRANSFORMS[name], content, "transform")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a run's model, and how to sample it.

    ``network``: the name of a class in ``ncsn.networks``; any other name is that of a user's own network.
    ``arguments``: the arguments of that class.
    ``preconditioning``: how the network becomes a score: edm, conditional (for tables), scaled or plain.
    ``shape``: the shape of one example.
    ``sampling``: how to sample the run by default.
    ``shares``: the names of the classes, in the network's order, and their shares of the training data; empty if
    unknown.
    ``transform``: the transform from the user's units to the model's.
    Raises ValueError if the shares don't match the classes.
    """

    network: str
    arguments: dict[str, Argument]
    preconditioning: PreconditioningName = "edm"
    shape: Annotated[tuple[Count, ...], MinLen(1)]
    sampling: Sampling
    shares: dict[str, Annotated[float, Interval(ge=0, le=1)]] = field(default_factory=dict)
    transform: Annotated[Transform, PlainValidator(read_transform)] = field(default_factory=Transform)

    def __post_init__(self) -> None:
        """Check what the types do not express."""
        if self.shares and (len(self.shares) != self.num_classes or not sum(self.shares.values()) > 0):
            raise ValueError(f"shares is {reprlib.repr(self.shares)}; the network knows {self.num_classes} classes")

    @property
    def num_classes(self) -> int:
        """The number of classes that the network knows; 0 if it is unconditional."""
        return int(self.arguments.get("num_classes", 0))  # type: ignore[arg-type]

    def labels(self, label: Label | None, n: int, generator: torch.Generator) -> Int64[Tensor, "n"] | None:
        """A class for each of ``n`` samples, or None for the score of all classes together.

        ``label``: one class for all, by name or number; a number for each; "any" to draw classes in the proportions of
        the training data; or "none".  By default "any" if the proportions are known.
        Raises ValueError if the run has no such class.
        """
        if label is None:
            label = "any" if self.shares else "none"
        if isinstance(label, str) and label == "none":
            return None
        if not self.num_classes:
            raise ValueError(f"class is {label}; this run was trained without classes")
        if isinstance(label, str) and label == "any":
            shares = list(self.shares.values()) or self.num_classes * [1.0]  # uniformly, if they are unknown
            return draw_classes(torch.tensor(shares, device=generator.device), n, generator)
        # Names take precedence: 3 means the folder called 3, whatever its number.
        if isinstance(label, Tensor) and label.ndim == 0:
            label = label.item()  # type: ignore[assignment]
        numbers = {str(i): i for i in range(self.num_classes)} | {name: i for i, name in enumerate(self.shares)}
        number = numbers.get(str(label), -1) if np.ndim(label) == 0 else label
        labels = torch.as_tensor(number, device=generator.device)
        if labels.is_floating_point() or labels.shape not in ((), (1,), (n,)):
            raise ValueError(f"label has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected {n} integers")
        labels = labels.expand(n)
        if not bool(((labels >= 0) & (labels < self.num_classes)).all()):
            allowed = f"any, none, 0 to {self.num_classes - 1}, or one of {reprlib.repr([*self.shares])}"
            raise ValueError(f"class is {label}; it must be {allowed}")
        return labels

    def build(
        self,
        start: Mapping[str, float | Tensor] | None = None,
        *,
        network: nn.Module | None = None,
        autocast: torch.dtype | None = None,
    ) -> ScoreModel:
        """Build the untrained model.

        ``start``: the data's statistics by name: ``data_mean`` and ``data_std``, by default 0 and 1; for a table other
        ones, by default those of a standard Gaussian.
        ``network``: the user's own network, if the recipe names one.
        ``autocast``: the dtype that the network runs in; by default that of its weights.
        Raises ValueError if this version has no such network, if the arguments don't fit it, or if ``data_std`` isn't
        positive.
        """
        if network is None:
            if self.network not in NETWORKS:
                raise ValueError(f"{self.network} is not in ncsn.networks; pass network={self.network}(...)")
            network_class = NETWORKS[self.network]
            check_call(network_class, self.arguments)
            network = network_class(**self.arguments).float()  # whatever torch's default is
        if self.preconditioning == "conditional":
            return ConditionalModel.around(network, self.shape[0], start or {}, autocast)
        statistics = {"data_mean": 0.0, "data_std": 1.0, **(start or {})}
        mean, std = statistics["data_mean"], statistics["data_std"]
        torch.as_tensor(mean).expand(self.shape)  # RuntimeError if it can't
        return ScoreModel(network, mean, std, preconditioning=PRECONDITIONINGS[self.preconditioning], autocast=autocast)


def draw_classes(shares: Float[Tensor, "k"], n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """``n`` classes in random order, each in proportion to its share, up to rounding.

    Systematic resampling: each draw has the shares as its distribution, but the counts have almost no variance.
    """
    classes = systematic((shares / shares.sum())[None], n, generator)[0]
    return classes[torch.randperm(n, generator=generator, device=shares.device)]
