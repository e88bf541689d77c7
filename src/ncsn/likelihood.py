r"""Log densities, by following the probability flow from a point to the noise.

Along the flow dx/dσ = −σ·s(x, σ) the log density changes by the divergence only (Song et al. 2020, arXiv:2011.13456,
equation 39 and appendix D.2; Chen et al. 2018), so that

.. math:: \log p(x_0) = \log N(x_T; μ, σ_{max}^2 I) - \int_{σ_{min}}^{σ_{max}} σ\, \nabla\!\cdot s(x, σ)\, dσ .

The result is the density p_σ at σ_min, that of the data with this much noise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.noise import signs_like
from ncsn.score import Score, curvatures, unit_directions
from ncsn.validation import check_floats, real, whole


@dataclass(frozen=True)
class LogDensities:
    """Log densities of points, and their cost.

    ``log_prob``: in nats, (b,).
    ``standard_error``: of each, from the spread of the probes, (b,): 0 with the exact trace, NaN with a single probe.
    ``nfe``: evaluations of the score.
    """

    log_prob: Float[Tensor, "b"]
    standard_error: Float[Tensor, "b"]
    nfe: int


def follow_flow(
    slope: Callable[[float, np.ndarray], np.ndarray],
    span: tuple[float, float],
    start: np.ndarray,
    *,
    tolerance: float,
    points: int,
    integrals: int,
) -> np.ndarray:
    """Solve y' = ``slope``(t, y) to the end of ``span``, by scipy's RK45 with steps that are accurate for every point.

    ``start``: the coordinates of ``points`` points, one point after the other, followed by ``integrals`` × points.
    ``tolerance``: of each step, relative and absolute, for every point.
    """
    from scipy.integrate import RK45, solve_ivp  # imported here, because it takes a third as long as torch

    class PointwiseRK45(RK45):  # type: ignore[misc]
        def _estimate_error_norm(self, K: np.ndarray, h: float, scale: np.ndarray) -> float:
            # Scipy's own norm is a mean over the state, which would hide one hard point among many easy ones.
            error = (self._estimate_error(K, h) / scale) ** 2
            of_coordinates, of_integrals = np.split(error, [len(error) - integrals * points])
            by_coordinates = of_coordinates.reshape(points, -1).mean(1)
            by_integrals = of_integrals.reshape(integrals, points).mean(0)
            return float(np.sqrt(np.maximum(by_integrals, by_coordinates).max()))

    path = solve_ivp(slope, span, start, method=PointwiseRK45, rtol=tolerance, atol=tolerance, t_eval=span[1:])
    if not path.success:
        raise ValueError(f"the flow could not be followed to sigma = {math.exp(span[1]):g}: {path.message}")
    return np.asarray(path.y[:, -1])


@torch.inference_mode(False)
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
) -> LogDensities:
    """Log p_σ(x) at σ = ``sigma_min``, in nats, by an adaptive Runge–Kutta method (scipy's RK45) in ln σ.

    Returns ``log_prob``, its ``standard_error`` (0 with the exact trace) and ``nfe``, the number of evaluations of the
    score.  The first two are on the CPU, in double precision; the score is evaluated on x's device, in its type.  A
    compiled network needs ``torch.compiler.set_stance("force_eager")`` around the call.

    ``score``: the score of the noised data.
    ``x``: points, (b, *d).
    ``sigma_min``: the noise level whose density is returned, > 0.
    ``sigma_max``: a level at which p_σ is close to N(mean, σ² I).  For data of variance v in D dimensions, the error of
    a point is about v√D/(√2σ²) nats, and that of the mean over all data v²D/(4σ⁴).
    ``mean``: the mean of the data.
    ``probes``: the number of Rademacher vectors that estimate the divergence, the same along the whole flow; by default
    (None) the exact trace, which takes one backward pass per dimension.
    ``tolerance``: of each step of the solver, relative and absolute, for every point.
    ``generator``: draws the probes, on x's device.
    Raises ValueError for a single number, unless ∞ > σ_max > σ_min > 0, probes ≥ 1 and ∞ > tolerance > 0, and if the
    flow cannot be followed because the score is not finite.

    >>> score = ncsn.GaussianMixture(torch.zeros(1, 2))
    >>> densities = ncsn.log_prob(score, torch.zeros(1, 2), sigma_max=50, sigma_min=0.01)
    >>> densities.log_prob.round(decimals=2)  # exactly: log(1/2π) = -1.84
    tensor([-1.8400], dtype=torch.float64)
    """
    check_floats("x", x)
    if not x.ndim:
        raise ValueError("x is a single number; expected points (b, *d)")
    if not real("sigma_max", sigma_max) > real("sigma_min", sigma_min, above=0):
        raise ValueError(f"sigma_max, sigma_min are {sigma_max}, {sigma_min}; expected sigma_max > sigma_min > 0")
    probes = None if probes is None else whole("probes", probes, 1)
    tolerance = real("tolerance", tolerance, above=0)
    dimension = x.shape[1:].numel()
    directions = unit_directions(x) if probes is None else signs_like(x, probes, generator)
    integrals = 1 if probes is None else probes
    nfe = 0

    def slope(log_sigma: float, state: np.ndarray) -> np.ndarray:
        nonlocal nfe
        nfe += 1
        sigma = torch.tensor(math.exp(log_sigma), dtype=x.dtype, device=x.device)
        points = torch.from_numpy(state[: x.numel()]).to(x).view(x.shape)
        s, curved = curvatures(score, points, sigma, directions)
        divergences = curved.sum(0, keepdim=True) if probes is None else curved
        change = (sigma**2 * torch.cat([-s.flatten(), divergences.flatten()])).cpu().double().numpy()
        if nfe == 1 and not np.isfinite(change).all():  # later on, the solver tries a smaller step
            raise ValueError(f"the score, or its divergence, is not finite at sigma = {float(sigma):.3g}")
        return change

    start = np.concatenate([x.detach().cpu().double().numpy().ravel(), np.zeros(integrals * len(x))])
    span = (math.log(sigma_min), math.log(sigma_max))
    end = follow_flow(slope, span, start, tolerance=tolerance, points=len(x), integrals=integrals)
    noise = torch.from_numpy(end[: x.numel()]).view(x.shape) - torch.as_tensor(mean, device="cpu").double()
    changes = torch.from_numpy(end[x.numel() :]).view(integrals, len(x))
    squares = noise[:, None].flatten(1).square().sum(1)
    log_normal = -squares / (2 * sigma_max**2) - dimension / 2 * math.log(2 * math.pi * sigma_max**2)
    error = torch.full_like(log_normal, 0.0 if probes is None else math.nan)
    if integrals > 1:
        error = changes.std(0) / integrals**0.5
    return LogDensities(log_prob=log_normal - changes.mean(0), standard_error=error, nfe=nfe)


def bits_per_dimension(log_prob: Float[Tensor, "b"], dimension: int) -> Float[Tensor, "b"]:
    """Bits per dimension of bytes, from the log density of (byte + u)/256 with u ~ U[0, 1): an upper bound.

    Theis et al. 2016 (arXiv:1511.01844), section 3.1.

    ``log_prob``: of each image, in nats, (b,).
    ``dimension``: the number of values in an image: channels × height × width.
    """
    return 8 - log_prob / (whole("dimension", dimension, 1) * math.log(2))
