r"""The score: the one function that everything else is built from.

The score of a density p is the vector field :math:`s(x) = \nabla_x \log p(x)`.  Adding Gaussian noise of standard
deviation σ to the data gives a family of smoother densities :math:`p_\sigma = p * N(0, \sigma^2 I)`, and a *noise
conditional* score is a function ``score(x, sigma)`` that returns :math:`\nabla_x \log p_\sigma(x)` for each of them
(Song & Ermon 2019, arXiv:1907.05600, section 4).  A trained network, an analytic mixture and a lambda are the same to
whoever calls them.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class Score(Protocol):
    """Anything that returns ∇ₓ log p_σ(x), example by example."""

    def __call__(
        self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /
    ) -> Float[Tensor, "b *d"]:
        """The score of the noised data at ``x``, for one noise level or for one noise level per example."""
        ...


def expand(sigma: Float[Tensor, ""] | Float[Tensor, "b"], x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *ones"]:
    """Noise levels shaped to broadcast against ``x``: (b, 1, …, 1).

    Raises ValueError if ``sigma`` is neither a scalar nor one value per example.
    """
    if sigma.ndim > 1 or (sigma.ndim == 1 and sigma.shape[0] != x.shape[0]):
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)}; allowed are () and ({x.shape[0]},), one noise level per example"
        )
    return sigma.expand(x.shape[0]).view(-1, *[1] * (x.ndim - 1))


def tweedie(score: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"]) -> Tensor:
    """The mean of the clean data given the noisy ``x``: E[x₀ | x] = x + σ²·s(x, σ).

    Robbins 1956 (Tweedie's formula); as a last step of sampling: Jolicoeur-Martineau et al. 2020 (arXiv:2009.05475).
    """
    return x + expand(sigma, x) ** 2 * score(x, sigma)


def batched(score: Callable[..., Tensor], size: int, label: Int64[Tensor, "b"] | None = None) -> Score:
    """The same score, evaluated on ``size`` examples at a time, which bounds the memory that a network takes.

    With a ``label`` for each example, ``score(x, sigma, label)`` is called.

    A sampler that is given it draws its noise for all examples at once, so its samples do not depend on ``size``.
    The last batch is filled up, so that a compiled network only ever sees one shape.
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /) -> Float[Tensor, "b *d"]:
        missing = -len(x) % size
        filled = torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
        given = () if label is None else (torch.split(torch.cat([label, label[:1].expand(missing)]), size),)
        levels = (
            torch.split(torch.cat([sigma, sigma[:1].expand(missing)]), size)
            if sigma.ndim
            else [sigma] * (len(filled) // size)
        )
        parts = zip(torch.split(filled, size), levels, *given, strict=True)
        return torch.cat([score(*part) for part in parts])[: len(x)]

    return evaluate


def guided(score: Score, guide: Score, weight: float, *, between: tuple[float, float] = (0.0, math.inf)) -> Score:
    """A score that moves away from a worse one: guide + w·(score − guide), at noise levels within ``between``.

    The guide knows less of the data (it may be a smaller network that was trained for a shorter time, or one that is
    not told the class), so that it spreads its mass too widely; w > 1 exaggerates in which direction ``score`` differs.
    It is no longer the score of any data, and so of no use for a likelihood; its samples look better.  w = 1 is
    ``score``.  Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) and autoguidance (Karras et al. 2024,
    arXiv:2406.02507, equation 3); within an interval: Kynkäänniemi et al. 2024 (arXiv:2404.07724).
    """

    def evaluate(x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /) -> Float[Tensor, "b *d"]:
        s, inside = score(x, sigma), (between[0] <= sigma) & (sigma <= between[1])
        if weight == 1 or not bool(inside.any()):
            return s
        return s + expand((weight - 1) * inside, x) * (s - guide(x, sigma))

    return evaluate


class Counted:
    """The same score, counting in ``nfe`` how often it was evaluated: what a sampler costs, in network evaluations."""

    def __init__(self, score: Score) -> None:
        self.score, self.nfe = score, 0

    def __call__(
        self, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""] | Float[Tensor, "b"], /
    ) -> Float[Tensor, "b *d"]:
        """The score, once more."""
        self.nfe += 1
        return self.score(x, sigma)


class ScoreModel(nn.Module):
    r"""A noise conditional score network: any ``network(x, c)`` of x's shape, made a score by preconditioning.

    .. math:: s(x, σ) = -\frac{x-μ}{σ^2+σ_d^2} + \frac{σ_d}{σ\sqrt{σ^2+σ_d^2}}
                        F\Big(\frac{x-μ}{\sqrt{σ^2+σ_d^2}}, \tfrac14\ln σ\Big)

    This is EDM's preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1) seen through Tweedie's formula: the
    exact score of a Gaussian with the data's mean μ and standard deviation σ_d, plus a residual whose scale does not
    depend on σ.  A network that returns zero therefore samples from that Gaussian already.  Centring and scaling
    happen here and nowhere else: x, σ and the score are in the data's own units.

    ``network``: maps (b, *d) and c = ¼ ln σ, (b,) or (1,) for a common noise level, to (b, *d).
    ``data_mean``: μ, a number or a tensor that broadcasts against one example.  ``data_std``: σ_d > 0, one number.
    Both are saved with the weights.
    ``autocast``: run the network, and only the network, in bfloat16.
    Raises ValueError if ``data_std`` is not positive.
    """

    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        network: nn.Module,
        data_mean: float | Tensor,
        data_std: float | Tensor,
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        if not float(data_std) > 0:
            raise ValueError(f"data_std is {float(data_std)}; it must be positive")
        self.network = network
        self.autocast = autocast
        self.register_buffer("data_mean", torch.as_tensor(data_mean, dtype=torch.float32).clone())
        self.register_buffer("data_std", torch.as_tensor(data_std, dtype=torch.float32).clone())

    def forward(
        self,
        x: Float[Tensor, "b *d"],
        sigma: Float[Tensor, ""] | Float[Tensor, "b"],
        label: Int64[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x), or ∇ₓ log p_σ(x | label) if the network knows classes; σ > 0, in the units of x."""
        std = expand(sigma, x)
        total_std = (std**2 + self.data_std**2).sqrt()
        centred = x - self.data_mean
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            residual = self.call_network(centred / total_std, sigma, label)
        return -centred / total_std**2 + self.data_std / (std * total_std) * residual.to(x.dtype)

    def call_network(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """The network's value; a network without classes is called without them."""
        known = () if label is None else (label,)
        value: Tensor = self.network(x, sigma.reshape(-1).log() / 4, *known)
        return value

    def given(self, label: Int64[Tensor, ""] | Int64[Tensor, "b"], guidance: float = 1.0) -> Score:
        """The score of one class, or of one class per example; ``guidance`` > 1 exaggerates what makes the class.

        The price is variety, and two evaluations: ``guided`` by the score without a class.
        """
        return guided(lambda x, sigma: self(x, sigma, label.expand(len(x))), self, guidance)

    def residual_weight(self, sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """What turns the score matching loss ½‖σs + z‖² into the squared error ‖F − F*‖² of the residual.

        σs + z = σ_d/√(σ²+σ_d²)·(F − F*), so the weight is 2(σ²+σ_d²)/σ_d²: with it every noise level has targets of
        the same size, as in EDM (equation 8 with the effective weight of table 1).
        """
        return 2 * (sigma**2 + self.data_std**2) / self.data_std**2


class ScaledScore(ScoreModel):
    """A network made a score as in NCSNv2: s(x, σ) = f(x − μ)/σ, whether or not f is told σ.

    Song & Ermon 2020 (arXiv:2006.09011), technique 3.  ``data_std`` is kept for the record; nothing depends on it.
    """

    def forward(
        self,
        x: Float[Tensor, "b *d"],
        sigma: Float[Tensor, ""] | Float[Tensor, "b"],
        label: Int64[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b *d"]:
        """∇ₓ log p_σ(x), or ∇ₓ log p_σ(x | label) if the network knows classes; σ > 0, in the units of x."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            value = self.call_network(x - self.data_mean, sigma, label)
        return value.to(x.dtype) / expand(sigma, x)

    def residual_weight(self, sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """What turns ½‖σs + z‖² into ‖f + z‖²: two at every noise level, as in NCSN (equation 6 with λ = σ²)."""
        return torch.full_like(sigma, 2.0)
