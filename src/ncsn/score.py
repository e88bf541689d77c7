r"""The score: the one function that everything else is built from.

Four formulas define what follows.

1. The *score* of a density p is the vector field :math:`\nabla_x \log p(x)`.  Noise of standard deviation σ, added to
   the data, gives a family of smoother densities, and a *noise conditional* score is a function ``score(x, sigma)``
   that returns the score of each of them (Song & Ermon 2019, arXiv:1907.05600, section 4):

   .. math:: s(x, σ) = \nabla_x \log p_σ(x), \qquad p_σ = p * N(0, σ^2 I).

2. A score is learned by denoising score matching (Vincent 2011), see ``objectives.dsm``: it is the minimiser of

   .. math:: E\, \tfrac12 \| σ\, s(x_0 + σ z, σ) + z \|^2, \qquad x_0 \sim p, \; z \sim N(0, I).

3. It gives the mean of the clean data by Tweedie's formula (``tweedie``):

   .. math:: D(x, σ) = E[x_0 \mid x] = x + σ^2 s(x, σ).

4. A network F of well-scaled inputs and outputs becomes a score by a ``Preconditioning``: ``Plain`` (NCSN) is s = F,
   ``Scaled`` (NCSNv2) is s = F/σ, and ``EDM``, the default, is the exact score of a Gaussian plus a residual:

   .. math:: s(x, σ) = -\frac{x-μ}{σ^2+σ_d^2} + \frac{σ_d}{σ\sqrt{σ^2+σ_d^2}} F.

A trained network (``ScoreModel``), an analytic mixture and a lambda are interchangeable.  ``add_guidance`` combines two
scores.  What comes after ``ScoreModel`` is for the other files: checks, derivatives, and noise levels on the right
device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncsn.validation import LARGEST, LEAST, as_floats, check_floats, real

Sigma = float | Float[Tensor, ""] | Float[Tensor, "b"]
"""A noise level σ > 0 in the units of x: one number for all examples, or one for each of them."""


@runtime_checkable
class Score(Protocol):
    """Anything that returns ∇ₓ log p_σ(x), example by example.

    A class-conditional score takes one label per example as a third argument; −1 means no class.
    """

    def __call__(self, x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        """The score of the noised data.

        ``x``: where to evaluate it, (b, *d).
        ``sigma``: the noise level > 0, one number or one for each example.
        """


def tweedie(score: Score, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b *d"]:
    """The mean of the clean data given the noisy ``x``: E[x₀ | x] = x + σ²·s(x, σ).

    Robbins 1956 (Tweedie's formula); as a last step of sampling: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475).

    ``score``: the score of the noised data.
    ``x``: noisy examples, (b, *d).
    ``sigma``: the noise level, one number or one for each example.
    Raises ValueError for noise levels that are not above 0 (not checked on a GPU).

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))  # data with standard deviation 1
    >>> ncsn.tweedie(score, torch.tensor([[2.0, -4.0]]), 1.0)  # noise with the same standard deviation
    tensor([[ 1., -2.]])
    """
    if isinstance(sigma, Tensor) and sigma.device.type == "cpu" and not bool((sigma > 0).all()):
        raise ValueError(f"sigma is {sigma.tolist()}; every noise level must be above 0")
    return x + expand(sigma, x) ** 2 * score_at(score, x, sigma)


def add_guidance(score: Score, guide: Score, weight: float, *, between: tuple[float, float] = (0.0, math.inf)) -> Score:
    """A score that moves away from a weaker one: guide + w·(score − guide), at noise levels within ``between``.

    A trained score spreads its samples too widely, and the weaker one spreads them even more.  w > 1 exaggerates the
    difference between the two, which improves sample quality.  The result is not the score of any distribution, so it
    has no likelihood.

    Classifier-free guidance: Ho & Salimans 2022 (arXiv:2207.12598); autoguidance: Karras et al. 2024
    (arXiv:2406.02507), equation 3; within an interval: Kynkäänniemi et al. 2024 (arXiv:2404.07724).

    ``score``: the stronger model.
    ``guide``: a weaker model of the same data: a smaller network, or the network without the class.
    ``weight``: w; 0 gives the guide, 1 gives ``score``.
    ``between``: the range of noise levels in which guidance acts; outside it the result is ``score``.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2), std=1.0)
    >>> guide = ncsn.GaussianMixture(torch.zeros(1, 2), std=2.0)  # too wide
    >>> x = torch.tensor([[1.0, 0.0]])
    >>> ncsn.add_guidance(score, guide, 2.0)(x, 1.0)  # -0.5 and -0.2 become -0.2 + 2 * (-0.5 + 0.2)
    tensor([[-0.8000,  0.0000]])
    """
    weight = real("weight", weight)

    def evaluate(x: Float[Tensor, "b *d"], sigma: Sigma, /) -> Float[Tensor, "b *d"]:
        s = score(x, sigma)
        std = expand(sigma, x)
        level = as_level(sigma, x.dtype)
        low, high = between
        # Compiled code must not depend on values, so there the guide is always evaluated.
        guided = torch.compiler.is_compiling() or bool(((low <= level) & (level <= high)).any())
        if weight == 1 or not guided:
            return s
        inside = (low <= std) & (std <= high)
        return s + (weight - 1) * inside * (s - guide(x, sigma))

    return evaluate


@runtime_checkable
class Preconditioning(Protocol):
    """How a network's output becomes a score; ``std`` is σ and ``data_std`` σ_d, both broadcast against x."""

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The network's input, from x − μ."""

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The score, from the network's output ``value``."""

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """The factor that turns the score matching loss ½‖σs + z‖² into the squared error of the network's output."""


@dataclass(frozen=True)
class EDM:
    r"""EDM's preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1), as a score by Tweedie's formula.

    .. math:: s(x, σ) = -\frac{x-μ}{σ^2+σ_d^2} + \frac{σ_d}{σ\sqrt{σ^2+σ_d^2}}
                        F\Big(\frac{x-μ}{\sqrt{σ^2+σ_d^2}}, \tfrac14\ln σ\Big)

    The exact score of a Gaussian with the data's mean μ and standard deviation σ_d, plus a residual whose scale does
    not depend on σ.  A network that returns zero therefore already samples from that Gaussian.
    """

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """(x − μ)/√(σ² + σ_d²), which has unit variance."""
        return centred / (std**2 + data_std**2).sqrt()

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The Gaussian's score plus the residual, as above."""
        total_std = (std**2 + data_std**2).sqrt()
        return -centred / total_std**2 + data_std / (std * total_std) * value

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """2(σ²+σ_d²)/σ_d²: then the loss is ‖F − F*‖², of the same size at every noise level.

        σs + z = σ_d/√(σ²+σ_d²)·(F − F*); EDM's equation 8 with the effective weight of its table 1.
        """
        return 2 * (sigma**2 + data_std**2) / data_std**2


@dataclass(frozen=True)
class Plain:
    """NCSN's parametrisation: the network is the score, s(x, σ) = F(x − μ, σ) (Song & Ermon 2019, arXiv:1907.05600)."""

    def network_input(self, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The noisy example, unchanged."""
        return centred

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The network's output, unchanged."""
        return value

    def weight(self, sigma: Float[Tensor, "b"], data_std: Tensor) -> Float[Tensor, "b"]:
        """Two: then the loss is ‖σF + z‖² (NCSN's equation 6 with λ = σ²)."""
        return torch.full_like(sigma, 2.0)


@dataclass(frozen=True)
class Scaled(Plain):
    """NCSNv2's parametrisation: s(x, σ) = F(x − μ)/σ, so the loss is ‖F + z‖² at every noise level.  F may depend on σ.

    Song & Ermon 2020 (arXiv:2006.09011), technique 3.
    """

    def score(self, value: Tensor, centred: Tensor, std: Float[Tensor, "b *ones"], data_std: Tensor) -> Tensor:
        """The network's output divided by σ."""
        return value / std


PreconditioningName = Literal["edm", "conditional", "scaled", "plain"]
PRECONDITIONINGS: dict[PreconditioningName, Preconditioning] = {"edm": EDM(), "scaled": Scaled(), "plain": Plain()}


class ScoreModel(nn.Module):
    """A noise conditional score network: any ``network(x, c)`` that keeps the shape of x, and a ``preconditioning``.

    Centring and scaling happen here and nowhere else: x, σ and the score are in the data's own units.

    ``network``: maps (b, *d) and c = ¼ ln σ, (b,) or (1,) for a common noise level, to (b, *d).  A class
    conditional network takes the classes as a third argument.
    ``data_mean``: μ, a number or a tensor that broadcasts against one example; saved with the weights.
    ``data_std``: σ_d > 0, one number; saved with the weights.
    ``preconditioning``: how the network's output becomes a score; by default ``EDM`` (Karras et al. 2022,
    arXiv:2206.00364, table 1), with which a network that returns zero has the score of a Gaussian with mean μ and
    standard deviation σ_d.
    ``autocast``: the dtype that the network (and nothing else) runs in; by default that of its weights.
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
        real("data_std", data_std, above=0)
        data_mean = as_floats("data_mean", data_mean)
        self.network = network
        self.preconditioning = EDM() if preconditioning is None else preconditioning
        self.autocast = autocast
        self.register_buffer("data_mean", data_mean.float().clone())
        self.register_buffer("data_std", torch.as_tensor(data_std, dtype=torch.float32).clone())

    def forward(
        self, x: Float[Tensor, "b *d"], sigma: Sigma, label: Int64[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x), or ∇ₓ log p_σ(x | label) for a class-conditional network.

        ``x``: where to evaluate it, (b, *d).
        ``sigma``: σ > 0, in the units of x.
        ``label``: a class for each example; −1 for no class.
        Raises ValueError for a number σ ≤ 0 (a tensor is not checked, because that would synchronise a GPU), and if the
        network returns another shape than that of x.
        """
        std, data_std = expand(sigma, x), self.data_std
        centred = x - self.data_mean
        levels = place_level(sigma, data_std.dtype, x.device).reshape(-1)
        network_input = self.preconditioning.network_input(centred, std, data_std).to(data_std.dtype)
        if label is None and self.num_classes:  # always passed, so that a compiled network has one signature
            label = torch.full((len(x),), -1, device=x.device)
        labels = () if label is None else (label,)
        with torch.autocast(x.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            value = self.network(network_input, levels.log() / 4, *labels)
        if value.shape != x.shape:
            raise ValueError(f"the network returned shape {tuple(value.shape)}; expected that of x, {tuple(x.shape)}")
        return self.preconditioning.score(value.to(x.dtype), centred, std, data_std)

    @property
    def num_classes(self) -> int:
        """The number of classes that the network knows; 0 if it is unconditional."""
        table = getattr(self.network, "labels", None)
        return table.num_embeddings - 1 if isinstance(table, nn.Embedding) else 0

    def residual_weight(self, sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The factor that turns the score matching loss ½‖σs + z‖² into the squared error of the network's output.

        ``sigma``: the noise level of each example, (b,).
        """
        return self.preconditioning.weight(sigma, self.data_std)


# A score as other files evaluate it: checked, given classes, and differentiated.


def score_at(score: Score, x: Float[Tensor, "b *d"], sigma: Sigma) -> Float[Tensor, "b *d"]:
    """The score at ``x``.

    Raises ValueError for a score of another shape, which would be broadcast, for x without floating-point numbers, and
    if the score is to be differentiated but has no gradient in x.
    """
    s = score(x, sigma)
    check_floats("the score", s)
    if x.requires_grad and torch.is_grad_enabled() and not s.requires_grad:
        raise ValueError("the score has no gradient with respect to x; it must be differentiable here")
    if s.shape != x.shape:
        raise ValueError(f"the score returned shape {tuple(s.shape)}; expected that of x, {tuple(x.shape)}")
    return s


def bind_condition(score: Callable[..., Tensor], condition: object | None) -> Score:
    """Fix the third argument of a score (classes or observed coordinates); None returns the score itself."""
    if condition is None:
        return score
    return lambda x, sigma: score(x, sigma, condition)


def curvatures(
    score: Score, x: Float[Tensor, "b *d"], sigma: Sigma, directions: Float[Tensor, "k b *d"], *, learned: bool = False
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "k b"]]:
    """The score at ``x``, and vᵀ(∂s/∂x)v for each direction v.

    With random signs v it is an unbiased estimate of the divergence (Hutchinson 1989; Song et al. 2020,
    arXiv:2011.13456, equation 40); with ``unit_directions`` the sum is the divergence itself.

    ``learned``: whether both can be differentiated with respect to the score's weights.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        s = score_at(score, x, sigma)
        products = [torch.autograd.grad(s, x, v, retain_graph=True, create_graph=learned)[0] for v in directions]
        curved = torch.stack([(p * v)[:, None].flatten(1).sum(1) for p, v in zip(products, directions, strict=True)])
    return (s, curved) if learned else (s.detach(), curved.detach())


def unit_directions(x: Float[Tensor, "b *d"]) -> Float[Tensor, "k b *d"]:
    """The unit vector of each coordinate, for every example."""
    d = x.shape[1:].numel()
    return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(d, *x.shape)


# Noise levels and tensors in the precision and on the device where they are needed, without synchronising a GPU.


def expand(sigma: Sigma, x: Float[Tensor, "b *d"], *, zero: bool = False) -> Float[Tensor, "b *ones"]:
    """Noise levels shaped to broadcast against ``x``, (b, 1, …, 1), with its type and on its device.

    ``zero``: whether a level may be 0.
    Raises ValueError if ``sigma`` is neither one number nor one per example; for a number that is not positive (a
    tensor is not checked, because that would synchronise a GPU); and if ``x`` has no floating-point numbers.
    """
    check_floats("x", x)
    if not isinstance(sigma, Tensor):
        sigma = real("sigma", sigma)
        if not LEAST <= sigma <= LARGEST and (sigma or not zero):
            raise ValueError(f"sigma is {sigma}; it must be a noise level between {LEAST} and {LARGEST}")
    levels = place_level(sigma, x.dtype, x.device)
    if levels.ndim > 1 or (levels.ndim == 1 and levels.shape[0] != x.shape[0]):
        allowed = f"expected () or ({len(x)},), one noise level per example"
        raise ValueError(f"sigma has shape {tuple(levels.shape)}; {allowed}")
    return levels.expand(x.shape[0]).view(-1, *[1] * (x.ndim - 1))


def place_level(sigma: Sigma, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Noise levels of this dtype on this device.  A single level is created there, because a copy would synchronise."""
    if isinstance(sigma, Tensor) and (sigma.ndim or sigma.device == device):
        return sigma.to(device, dtype)
    return torch.full((), float(sigma), dtype=dtype, device=device)


def as_level(sigma: Sigma, dtype: torch.dtype) -> Tensor:
    """Noise levels of a type, on the device where they are; a number stays on the CPU, so that reading it is free."""
    return torch.as_tensor(sigma, dtype=dtype, device=sigma.device if isinstance(sigma, Tensor) else "cpu")
