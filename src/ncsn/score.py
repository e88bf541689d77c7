r"""The score: the one function that everything else is built from.

The score of a density p is the vector field :math:`s(x) = \nabla_x \log p(x)`.  Adding Gaussian noise of standard
deviation σ to the data gives a family of smoother densities :math:`p_\sigma = p * N(0, \sigma^2 I)`, and a *noise
conditional* score is a function ``score(x, sigma)`` that returns :math:`\nabla_x \log p_\sigma(x)` for each of them
(Song & Ermon 2019, arXiv:1907.05600, section 4).  A trained network, an analytic mixture and a lambda are the same to
whoever calls them.

A network F of well-scaled inputs and outputs is turned into s(x, σ) in one of three ways, each a ``Preconditioning``:
``EDM`` (the default: an exact Gaussian score plus a residual), ``Plain`` (NCSN: F) and ``Scaled`` (NCSNv2: F/σ).
A ``ConditionalModel``, which learns tables, is EDM's way around a mixture of Gaussians.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

Sigma = float | Float[Tensor, ""] | Float[Tensor, "b"]
"""A noise level σ > 0 in the units of x: one number for all examples, or one for each of them."""


@runtime_checkable
class Score(Protocol):
    """Anything that returns ∇ₓ log p_σ(x), example by example.

    One that knows classes takes a label for each example as a third argument; −1 stands for none in particular.
    """

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The score of the noised data.

        ``x``: where, (b, *d).
        ``sigma``: the noise level > 0, one number or one for each example.
        """


def place_level(sigma: Sigma, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise levels of a type on a device; a single one that is not there is written there: to copy it is to wait."""
    if isinstance(sigma, Tensor) and (sigma.ndim or sigma.device == device):
        return sigma.to(device, dtype)
    return torch.full((), float(sigma), dtype=dtype, device=device)


def as_tensor(x: object) -> Tensor:
    """A tensor as it is; an array as one on the CPU, whatever torch's default device is."""
    return x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu")


def at_home(sigma: Sigma, dtype: torch.dtype) -> Tensor:
    """Noise levels of a type, where they are; a number's place is the CPU."""
    return torch.as_tensor(sigma, dtype=dtype, device=sigma.device if isinstance(sigma, Tensor) else "cpu")


class Copies:
    """Tensors, and copies of them on every device that has asked: one each, for whoever copies waits.

    Apple's GPUs have no double precision: there, copies of such tensors are in single.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.by_device = {tensors[0].device: tensors}

    @torch.inference_mode(False)
    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        """The tensors, there."""
        if device not in self.by_device:
            first = next(iter(self.by_device.values()))
            self.by_device[device] = tuple(moved(tensor, device) for tensor in first)
        return self.by_device[device]


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, in single precision if it is in a double one that the device has not."""
    single = device.type == "mps" and tensor.dtype == torch.float64
    return (tensor.float() if single else tensor).to(device)


def expand(sigma: Sigma, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *ones"]:
    """Noise levels shaped to broadcast against ``x``, (b, 1, …, 1), with its type and on its device.

    Raises ValueError if ``sigma`` is neither one number nor one per example.
    """
    levels = place_level(sigma, x.dtype, x.device)
    if levels.ndim > 1 or (levels.ndim == 1 and levels.shape[0] != x.shape[0]):
        raise ValueError(
            f"sigma has shape {tuple(levels.shape)}; allowed are () and ({x.shape[0]},), one noise level per example"
        )
    return levels.expand(x.shape[0]).view(-1, *[1] * (x.ndim - 1))


def float64(x: Tensor) -> Tensor:
    """``x`` in double precision, where its device has it; else on the CPU (Apple's GPUs have none)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def tweedie(score: Score, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b *d"]:
    """The mean of the clean data given the noisy ``x``: E[x₀ | x] = x + σ²·s(x, σ).

    Robbins 1956 (Tweedie's formula); as a last step of sampling: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475).

    ``score``: of the data with noise.
    ``x``: noisy examples, (b, *d).
    ``sigma``: the noise level, one number or one for each example.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))  # data with standard deviation 1
    >>> ncsn.tweedie(score, torch.tensor([[2.0, -4.0]]), 1.0)  # as much noise again
    tensor([[ 1., -2.]])
    """
    return x + expand(sigma, x) ** 2 * score(x, sigma)


def curvatures(
    score: Score, x: Float[Tensor, "b *d"], sigma: Sigma, directions: Float[Tensor, "k b *d"], *, learned: bool = False
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "k b"]]:
    """The score at ``x``, and vᵀ(∂s/∂x)v for each direction v.

    With random signs v it is an unbiased estimate of the divergence (Hutchinson 1989; Song et al. 2020,
    arXiv:2011.13456, equation 40); with ``unit_directions`` the sum is the divergence itself.

    ``learned``: whether both can be differentiated in the score's weights.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        s = score(x, sigma)
        products = [torch.autograd.grad(s, x, v, retain_graph=True, create_graph=learned)[0] for v in directions]
        parts = torch.stack([(p * v)[:, None].flatten(1).sum(1) for p, v in zip(products, directions, strict=True)])
    return (s, parts) if learned else (s.detach(), parts.detach())


def unit_directions(x: Float[Tensor, "b *d"]) -> Float[Tensor, "k b *d"]:
    """The unit vector of each coordinate, for every example."""
    d = x.shape[1:].numel()
    return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(d, *x.shape)


def conditioned(score: Callable[..., Tensor], on: object | None) -> Score:
    """The score given each example's class or observed coordinates, ``score(x, sigma, on)``; or the score itself."""
    if on is None:
        return score
    return lambda x, sigma: score(x, sigma, on)


def even(n: int, most: int) -> int:
    """How many of ``n`` examples to evaluate at a time: at most so many, and in parts of one size, or nearly."""
    return int(-(-n // -(-n // most)))


def batched(score: Callable[..., Tensor], size: int, label: Int64[Tensor, "b"] | None = None) -> Score:
    """The same score, evaluated on ``size`` examples at a time, which bounds the memory that a network takes.

    A sampler draws its noise for all examples at once, so its samples do not depend on ``size``.
    The last batch is filled up, so that a compiled network only ever sees one shape.

    ``label``: a class for each example; then ``score(x, sigma, label)`` is called.
    """

    def parts(values: Tensor) -> Sequence[Tensor]:
        missing = -len(values) % size
        whole = torch.cat([values, values[:1].expand(missing, *values.shape[1:])]) if missing else values
        return torch.split(whole, size)

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        examples = parts(x)
        levels = parts(sigma) if isinstance(sigma, Tensor) and sigma.ndim else [sigma] * len(examples)
        labels = () if label is None else (parts(label),)
        value = torch.cat([score(*part) for part in zip(examples, levels, *labels, strict=True)])[: len(x)]
        if value.shape != x.shape:
            raise ValueError(f"the score has shape {tuple(value.shape)}; that of x, {tuple(x.shape)}, is needed")
        return value

    return evaluate


def guided(score: Score, guide: Score, weight: float, *, between: tuple[float, float] = (0.0, math.inf)) -> Score:
    """A score that moves away from a worse one: guide + w·(score − guide), at noise levels within ``between``.

    The guide knows less about the data: it is a smaller network, or one without the class.  It spreads its mass too
    widely, and w > 1 exaggerates how ``score`` differs from it.  Samples look better.  But the result is no longer the
    score of any data, so it has no likelihood.  Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) and
    autoguidance (Karras et al. 2024, arXiv:2406.02507, equation 3); within an interval: Kynkäänniemi et al. 2024
    (arXiv:2404.07724).

    ``score``: the better one.
    ``guide``: the worse one, of the same data.
    ``weight``: w; 0 is the guide, 1 is ``score``.
    ``between``: the lowest and the highest noise level at which it is guided; elsewhere it is ``score``.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2), std=1.0)
    >>> guide = ncsn.GaussianMixture(torch.zeros(1, 2), std=2.0)  # too wide
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> ncsn.guided(score, guide, 2.0)(x, 1.0)  # -0.5 and -0.2 become -0.2 + 2 * (-0.5 + 0.2)
    tensor([[-0.8000,  0.0000]])
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        s, std = score(x, sigma), expand(sigma, x)
        # Where the noise level is: a number on the CPU is looked at without waiting for a GPU.
        level = at_home(sigma, x.dtype)
        # What is compiled must not depend on values: there, the guide is always asked.
        asked = torch.compiler.is_compiling() or bool(((between[0] <= level) & (level <= between[1])).any())
        if weight == 1 or not asked:
            return s
        inside = (between[0] <= std) & (std <= between[1])
        return s + (weight - 1) * inside * (s - guide(x, sigma))

    return evaluate


class Counted:
    """The same score, counting what a sampler costs.

    ``nfe``, ``backward``: evaluations, and backward passes through them.
    ``evaluated``, ``differentiated``: the examples in all of them.
    """

    def __init__(self, score: Callable[..., Tensor]) -> None:
        self.score, self.nfe, self.backward, self.evaluated, self.differentiated = score, 0, 0, 0, 0

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /, *label: Tensor) -> Float[Tensor, "b *d"]:
        """The score, once more."""
        self.nfe += 1
        self.evaluated += len(x)
        value = self.score(x, sigma, *label)
        if value.requires_grad:
            value.register_hook(self.count)  # type: ignore[no-untyped-call]
        return value

    def count(self, gradient: Tensor) -> None:
        """One backward pass more."""
        self.backward += 1
        self.differentiated += len(gradient)


@runtime_checkable
class Preconditioning(Protocol):
    """What lies between a network and a score; ``std`` is σ and ``data_std`` σ_d, both broadcast against x."""

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """What the network is shown of x − μ."""

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The score that the network's ``value`` stands for."""

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """What turns the score matching loss ½‖σs + z‖² into the squared error of the network's value."""


@dataclass(frozen=True)
class EDM:
    r"""EDM's way (Karras et al. 2022, arXiv:2206.00364, table 1), seen through Tweedie's formula.

    .. math:: s(x, σ) = -\frac{x-μ}{σ^2+σ_d^2} + \frac{σ_d}{σ\sqrt{σ^2+σ_d^2}}
                        F\Big(\frac{x-μ}{\sqrt{σ^2+σ_d^2}}, \tfrac14\ln σ\Big)

    The exact score of a Gaussian with the data's mean μ and standard deviation σ_d, plus a residual whose scale does
    not depend on σ.  A network that returns zero therefore samples from that Gaussian already.
    """

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """(x − μ)/√(σ² + σ_d²), which has unit variance."""
        return centred / (std**2 + data_std**2).sqrt()

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """A Gaussian's score, plus the residual."""
        total_std = (std**2 + data_std**2).sqrt()
        return -centred / total_std**2 + data_std / (std * total_std) * value

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """2(σ²+σ_d²)/σ_d²: then the loss is ‖F − F*‖², of the same size at every noise level.

        σs + z = σ_d/√(σ²+σ_d²)·(F − F*); EDM's equation 8 with the effective weight of its table 1.
        """
        return 2 * (sigma**2 + data_std**2) / data_std**2


@dataclass(frozen=True)
class Plain:
    """NCSN's way: the network is the score, s(x, σ) = F(x − μ, σ) (Song & Ermon 2019, arXiv:1907.05600)."""

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The noisy example as it is."""
        return centred

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """F."""
        return value

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """Two: then the loss is ‖σF + z‖² (NCSN's equation 6 with λ = σ²)."""
        return torch.full_like(sigma, 2.0)


@dataclass(frozen=True)
class Scaled(Plain):
    """NCSNv2's way: s(x, σ) = F(x − μ)/σ, whether or not F is told σ; then the loss is ‖F + z‖² at every noise level.

    Song & Ermon 2020 (arXiv:2006.09011), technique 3.
    """

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """F/σ."""
        return value / std


PreconditioningName = Literal["edm", "conditional", "scaled", "plain"]
PRECONDITIONINGS: dict[PreconditioningName, Preconditioning] = {"edm": EDM(), "scaled": Scaled(), "plain": Plain()}


class ScoreModel(nn.Module):
    """A noise conditional score network: any ``network(x, c)`` of x's shape, made a score by a ``preconditioning``.

    Centring and scaling happen here and nowhere else: x, σ and the score are in the data's own units.

    ``network``: maps (b, *d) and c = ¼ ln σ, (b,) or (1,) for a common noise level, to (b, *d).  If it knows classes,
    it takes them as a third argument.
    ``data_mean``: μ, a number or a tensor that broadcasts against one example; saved with the weights.
    ``data_std``: σ_d > 0, one number; saved with the weights.
    ``preconditioning``: by default ``EDM``.
    ``autocast``: what to run the network, and only the network, in; by default in its weights' own precision.
    Raises ValueError if ``data_std`` is not positive.
    """

    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        network: nn.Module,
        data_mean: float | Tensor = 0.0,
        data_std: float | Tensor = 1.0,
        *,
        preconditioning: Preconditioning | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not float(data_std) > 0:
            raise ValueError(f"data_std is {float(data_std)}; it must be positive")
        self.network = network
        self.preconditioning = EDM() if preconditioning is None else preconditioning
        self.autocast = autocast
        self.register_buffer("data_mean", torch.as_tensor(data_mean, dtype=torch.float32).clone())
        self.register_buffer("data_std", torch.as_tensor(data_std, dtype=torch.float32).clone())

    def forward(
        self, x: Float[Tensor, "b *d"], sigma: Sigma, label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x), or ∇ₓ log p_σ(x | label) if the network knows classes.

        ``x``: where, (b, *d).
        ``sigma``: σ > 0, in the units of x.
        ``label``: a class for each example; −1 for no class.
        Raises ValueError for a number that is not above 0.  A tensor is not checked, because on a GPU that would wait
        for it.  Raises it too for a network that returns another shape than that of x.
        """
        if not isinstance(sigma, Tensor) and not sigma > 0:
            raise ValueError(f"sigma is {sigma}; it must be above 0, where the score is that of data with some noise")
        std, centred, data_std = expand(sigma, x), x - self.data_mean, self.data_std
        levels = place_level(sigma, self.data_std.dtype, x.device).reshape(-1)
        network_input = self.preconditioning.network_input(centred, std, data_std).to(self.data_std.dtype)
        if label is None and self.num_classes:  # always, so that a compiled network is called in one way
            label = torch.full((len(x),), -1, device=x.device)
        labels = () if label is None else (label,)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            value = self.network(network_input, levels.log() / 4, *labels)
        if value.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(value.shape)}; that of x, {tuple(x.shape)}, is needed")
        return self.preconditioning.score(value.to(x.dtype), centred, std, data_std)

    @property
    def num_classes(self) -> int:
        """How many classes the network can be told; 0 if none."""
        table = getattr(self.network, "labels", None)
        return table.num_embeddings - 1 if isinstance(table, nn.Embedding) else 0

    def residual_weight(self, sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """What turns the score matching loss ½‖σs + z‖² into the squared error of what the network returns.

        ``sigma``: the noise level of each example, (b,).
        """
        return self.preconditioning.weight(sigma, self.data_std)
