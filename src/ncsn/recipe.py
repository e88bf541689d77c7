"""A recipe: how to build a run's model again, and how to sample it; what config.json keeps of both."""

import reprlib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import torch
from annotated_types import Interval, MinLen
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ncsn import networks
from ncsn.data.pixels import Depth
from ncsn.machine import hardware
from ncsn.samplers import Sampling
from ncsn.score import EDM, Plain, Preconditioning, Scaled, ScoreModel
from ncsn.validation import Count, check_call

MOST_WEIGHTS = 2 * 10**9  # of a network

Label = int | str | Int64[Tensor, "n"]
Size: TypeAlias = Annotated[int, Interval(ge=0, le=2**20)]  # a width, a number of classes
Argument: TypeAlias = bool | Size | float | str | tuple[Size, ...] | tuple[float, ...]
PreconditioningName = Literal["karras", "scaled", "plain"]
PRECONDITIONINGS: dict[PreconditioningName, Preconditioning] = {
    "karras": EDM(),
    "scaled": Scaled(),
    "plain": Plain(),
}


class Unfilled(TorchFunctionMode):
    """Networks are built without initial weights: on torch's device "meta" some of ``nn.init`` load its compiler."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        if getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Units:
    """x = shift + scale·z, coordinate by coordinate: x is the user's, z what the model sees.

    ``shift`` and ``scale`` > 0 broadcast against one example.  Noise of one σ for all coordinates makes sense for z
    alone, if a column of x is an income and another one a share.
    """

    shift: Float[Tensor, "*d"]
    scale: Float[Tensor, "*d"]

    @classmethod
    def of(cls, x: Float[Tensor, "n d"]) -> "Units":
        """Those in which every coordinate of ``x`` has mean 0 and standard deviation 1.

        Raises ValueError if a coordinate is constant, naming it.
        """
        exact = x.cpu().double()  # Apple's GPUs have no such numbers
        shift, scale = exact.mean(0), exact.std(0)
        constant = (~(scale > (1e-15 if x.dtype == torch.float64 else 1e-7) * shift.abs())).nonzero()[:, 0].tolist()
        if constant:
            raise ValueError(f"column {', '.join(map(str, constant))} is constant, so it has no density; leave it out")
        return cls(shift.to(x), scale.to(x))

    def standardise(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The user's examples as the model sees them: in the precision of both, and then in that of ``x``."""
        shift, scale = self.beside(x)
        return ((x - shift) / scale).to(x.dtype)

    def restore(self, z: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        """The model's examples as the user knows them, in double precision if the user's were."""
        shift, scale = self.beside(z)
        return shift + scale * z

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale where ``x`` is; Apple's GPUs have no double precision."""
        if x.device.type == "mps":
            return self.shift.to(x), self.scale.to(x)
        kind = torch.promote_types(x.dtype, self.shift.dtype)
        return self.shift.to(x.device, kind), self.scale.to(x.device, kind)

    def log_volume(self, shape: torch.Size | tuple[int, ...]) -> float:
        """The logarithm of how much larger a volume of examples of this shape is in the user's units."""
        return float(self.scale.cpu().double().log().expand(shape).sum())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a run's model, and how to sample it.

    ``network``: a class of ``ncsn.networks``, and ``arguments`` for it; another name is a network of the user's own.
    ``preconditioning``: what makes it a score.  ``shape``: of one example.  ``sampling``: the run's own way to sample.
    ``depth``: what the numbers in the files of images are.  ``shares``: what each class is called, in the network's
    order, and how much of the training data it is; empty where that is not known.
    Raises ValueError for shares of other classes, and for a sampler that is no run's own.
    """

    network: str
    arguments: dict[str, Argument]
    preconditioning: PreconditioningName = "karras"
    shape: Annotated[tuple[Count, ...], MinLen(1)]
    sampling: Sampling
    depth: Depth = field(default_factory=Depth)
    shares: dict[str, Annotated[float, Interval(ge=0, le=1)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what the types do not say."""
        if self.sampling.method.most is not None:
            name = self.sampling.sampler
            raise ValueError(f"sampler is {name}, by which runs can be sampled (--sampler {name}), but no run's own")
        if self.shares and (len(self.shares) != self.classes or not sum(self.shares.values()) > 0):
            raise ValueError(f"shares is {reprlib.repr(self.shares)}; one for each of {self.classes} classes is needed")

    @property
    def images(self) -> bool:
        """Whether examples are images (c, h, w), and not points (d,)."""
        return len(self.shape) == 3

    @property
    def classes(self) -> int:
        """How many classes the network can be told; 0 if none."""
        return int(self.arguments.get("classes", 0))  # type: ignore[arg-type]

    @property
    def named(self) -> str:
        """The classes that there are, for messages."""
        numbers, names = f"0 to {self.classes - 1}", list(self.shares)
        plain = names in ([], [str(i) for i in range(self.classes)])
        return numbers if plain else f"{numbers}, {reprlib.repr(names)}"

    def labels(self, label: Label, n: int, generator: torch.Generator) -> Int64[Tensor, "n"] | None:
        """A class for each of ``n`` samples, on the generator's device; None for the score of all classes together.

        ``label``: one for all, by its name or number, a number for each, "any" for classes drawn by their shares in
        the training data, or "none".
        Raises ValueError if there is no such class.
        """
        if isinstance(label, str) and label == "none":
            return None
        if not self.classes:
            raise ValueError(f"class is {label}; this run was trained without classes")
        device = generator.device
        if isinstance(label, str) and label == "any":
            shares = list(self.shares.values()) or self.classes * [1.0]  # evenly, where they are not known
            return by_shares(torch.tensor(shares, device=device), n, generator)
        number: Any = label
        if isinstance(label, str):
            # Names first: a folder called 3 is meant by 3, whatever its number.
            numbers = {str(i): i for i in range(self.classes)} | {name: i for i, name in enumerate(self.shares)}
            number = numbers.get(label, -1)
        labels = torch.as_tensor(number, device=device).expand(n)
        if not bool(((labels >= 0) & (labels < self.classes)).all()):
            raise ValueError(f"class is {label}; allowed are any, none, and {self.named}")
        return labels

    def build(
        self,
        data_mean: float | Tensor = 0.0,
        data_std: float | Tensor = 1.0,
        *,
        network: nn.Module | None = None,
        autocast: torch.dtype | None = None,
    ) -> ScoreModel:
        """The model, untrained; around a ``network`` of the user's own, if the recipe names one.

        Raises ValueError as ``outline``, or if ``data_std`` is not positive.
        """
        if network is None:
            self.outline()
            network = getattr(networks, self.network)(**self.arguments)
        way = PRECONDITIONINGS[self.preconditioning]
        return ScoreModel(network, data_mean, data_std, preconditioning=way, autocast=autocast)

    def describes(self, network: nn.Module) -> bool:
        """Whether a network has weights of these names and shapes; of a network of the user's own nothing is known."""
        if self.network not in networks.__all__:
            return True
        shapes = [{name: tensor.shape for name, tensor in n.state_dict().items()} for n in (network, self.outline())]
        return shapes[0] == shapes[1]

    def outline(self) -> nn.Module:
        """The network without its numbers, on torch's device "meta": what it would be, and no memory is taken.

        Raises ValueError if this version has no such network, if the arguments are not its own, or if it has more
        weights than ``MOST_WEIGHTS`` or than this machine's memory holds.
        """
        if self.network not in networks.__all__:
            raise ValueError(
                f"{self.network} is no network of this package ({', '.join(networks.__all__)}); "
                f"for one of your own give network={self.network}(...)"
            )
        kind = getattr(networks, self.network)
        check_call(kind, self.arguments)
        with torch.device("meta"), Unfilled():
            network: nn.Module = kind(**self.arguments)
        weights, most = sum(p.numel() for p in network.parameters()), min(MOST_WEIGHTS, hardware.memory() // 4)
        if weights > most:
            raise ValueError(f"{self.network} has {weights:,} weights with these arguments; at most {most:,} fit here")
        return network


def by_shares(shares: Float[Tensor, "k"], n: int, generator: torch.Generator) -> Int64[Tensor, "n"]:
    """``n`` classes in random order, of each as many as its share says, but for less than one.

    Systematic resampling: each of them has the shares as its distribution, and all together next to no variance.
    """
    device = shares.device
    places = (torch.rand(1, generator=generator, device=device) + torch.arange(n, device=device)) / n
    chosen = torch.searchsorted(shares.cumsum(0) / shares.sum(), places).clamp(max=len(shares) - 1)
    return chosen[torch.randperm(n, generator=generator, device=device)]
