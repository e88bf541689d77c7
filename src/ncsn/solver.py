"""The ODE solver of likelihoods: scipy's, with a step that suits every point."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import RK45, solve_ivp


class PointwiseRK45(RK45):  # type: ignore[misc]
    """Scipy's RK45 whose step suits the point with the largest error, not the mean over all points.

    The state is ``points`` × coordinates, one point after the other, and then ``integrals`` × points.
    """

    def __init__(self, *args: Any, points: int, integrals: int, **options: Any) -> None:
        self.points, self.integrals = points, integrals
        super().__init__(*args, **options)

    def _estimate_error_norm(self, K: np.ndarray, h: float, scale: np.ndarray) -> float:
        """The largest error of a point: the RMS over its coordinates, or over its integrals, in units of ``scale``."""
        error = (self._estimate_error(K, h) / scale) ** 2
        gains = error[len(error) - self.integrals * self.points :].reshape(self.integrals, self.points).mean(0)
        moves = error[: len(error) - self.integrals * self.points].reshape(self.points, -1).mean(1)
        return float(np.sqrt(np.maximum(gains, moves).max()))


def follow_flow(
    slope: Callable[[float, np.ndarray], np.ndarray],
    span: tuple[float, float],
    start: np.ndarray,
    *,
    tolerance: float,
    points: int,
    integrals: int,
) -> Any:
    """Scipy's solution of y' = ``slope``(t, y) at the end of ``span``, from ``start`` on; see ``PointwiseRK45``.

    ``tolerance``: of each step, relative and absolute, for every point.
    """
    return solve_ivp(
        slope,
        span,
        start,
        method=PointwiseRK45,
        rtol=tolerance,
        atol=tolerance,
        t_eval=[span[1]],
        points=points,
        integrals=integrals,
    )
