r"""Likelihood: the density of a point by following the probability flow from it to the noise.

Along the flow dx/dσ = −σ·s(x, σ) a density changes by the divergence alone (Song et al. 2020, arXiv:2011.13456,
equation 39 and appendix D.2; Chen et al. 2018), so that

.. math:: \log p(x_0) = \log N(x_T; μ, σ_{max}^2 I) - \int_{σ_{min}}^{σ_{max}} σ\, \nabla\!\cdot s(x, σ)\, dσ .

What comes out is the density p_σ at σ_min: that of the data with this much noise.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor

from ncsn.score import Score


@dataclass(frozen=True)
class Likelihood:
    """Log densities in nats, their standard errors over probes (0 for an exact trace), and evaluations of the score."""

    log_prob: Float[Tensor, "b"]
    standard_error: Float[Tensor, "b"]
    nfe: int


def divergences(
    score: Score, x: Float[Tensor, "b *d"], sigma: Float[Tensor, ""], directions: Float[Tensor, "k b *d"]
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "k b"]]:
    """The score, and vᵀ(∂s/∂x)v for each direction v: with Rademacher v an unbiased estimate of its divergence.

    Hutchinson 1989; Song et al. 2020, equation 40.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        s = score(x, sigma)
        products = [torch.autograd.grad((s * v).sum(), x, retain_graph=True)[0] for v in directions]
    return s.detach(), torch.stack([(p * v).flatten(1).sum(1) for p, v in zip(products, directions, strict=True)])


def log_prob(
    score: Score,
    x: Float[Tensor, "b *d"],
    *,
    sigma_max: float,
    sigma_min: float,
    mean: Float[Tensor, "..."] | float = 0.0,
    probes: int | None = None,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Likelihood:
    """Log p_σ(x) at σ = ``sigma_min``, in nats, by an adaptive Runge–Kutta method (scipy's RK45) in ln σ.

    ``sigma_max``: where p_σ is as good as N(mean, σ² I); for data of variance v the error is about v²D/(4σ⁴) nats.
    ``probes``: Rademacher vectors for the divergence, the same along the whole flow; by default (None) the exact trace,
    which takes one backward pass for each dimension.  ``tolerance``: of the solver, relative and absolute.
    Raises ValueError unless σ_max > σ_min > 0 and probes ≥ 1.
    """
    if not sigma_max > sigma_min > 0:
        raise ValueError(f"sigma_max, sigma_min are {sigma_max}, {sigma_min}; allowed is sigma_max > sigma_min > 0")
    if probes is not None and probes < 1:
        raise ValueError(f"probes is {probes}; at least 1 is needed, or None for the exact trace")
    shape, dimension, nfe = x.shape, x[0].numel(), 0
    if probes is None:
        basis = torch.eye(dimension, dtype=x.dtype, device=x.device).view(dimension, 1, *shape[1:])
        directions = basis.expand(dimension, *shape)
    else:
        signs = torch.randint(2, (probes, *shape), generator=generator, device=x.device)
        directions = (2 * signs - 1).to(x.dtype)
    integrals = 1 if probes is None else probes

    def slope(log_sigma: float, state: np.ndarray) -> np.ndarray:
        nonlocal nfe
        nfe += 1
        sigma = torch.tensor(math.exp(log_sigma), dtype=x.dtype, device=x.device)
        at = torch.from_numpy(state[: x.numel()]).to(x).view(shape)
        s, parts = divergences(score, at, sigma, directions)
        parts = parts.sum(0, keepdim=True) if probes is None else parts
        return (sigma**2 * torch.cat([-s.flatten(), parts.flatten()])).double().cpu().numpy()

    start = np.concatenate([x.detach().double().cpu().numpy().ravel(), np.zeros(integrals * len(x))])
    span = (math.log(sigma_min), math.log(sigma_max))
    end = solve_ivp(slope, span, start, rtol=tolerance, atol=tolerance, t_eval=[span[1]]).y[:, -1]
    last = torch.from_numpy(end[: x.numel()]).view(shape) - torch.as_tensor(mean).double().cpu()
    gains = torch.from_numpy(end[x.numel() :]).view(integrals, len(x))
    noise = -last.flatten(1).square().sum(1) / (2 * sigma_max**2) - dimension / 2 * math.log(2 * math.pi * sigma_max**2)
    error = gains.std(0) / integrals**0.5 if integrals > 1 else torch.zeros(len(x), dtype=torch.float64)
    return Likelihood(log_prob=noise - gains.mean(0), standard_error=error, nfe=nfe)


def bits_per_dimension(log_prob: Float[Tensor, "b"], dimension: int) -> Float[Tensor, "b"]:
    """Bits per pixel of bytes, from the log density of (byte + u)/256, u ~ U[0, 1): an upper bound on what they cost.

    Theis et al. 2016 (arXiv:1511.01844), section 3.1.
    """
    return 8 - log_prob / (dimension * math.log(2))
