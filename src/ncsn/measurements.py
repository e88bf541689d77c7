"""Measurements y = A x + n with Gaussian noise n ~ N(0, σ_y² I), and operators A for images.

A is a plain differentiable function of a batch of examples.  Its transpose comes from automatic differentiation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ncsn.machine.messages import log
from ncsn.machine.tensors import Copies, float64
from ncsn.noise import device_of
from ncsn.validation import Region, as_numbers, check_type, one_line, real, whole

Numbers = Tensor | np.ndarray | Sequence[object] | float
Measurement = Callable[[Tensor], Tensor]
"""A linear function of a batch of examples, (b, *d) → (b, *m), or one with a constant added (affine)."""

MIN_BLUR, MAX_BLUR = 0.01, 100  # pixels; beyond them weights underflow, or the kernel fills the memory
RANDOM_SHARE = 0.25  # of the pixels that are known when the hidden ones are random


def known_pixels(
    shape: tuple[int, int, int], hide: Region, *, generator: torch.Generator | None = None
) -> Bool[Tensor, "c h w"]:
    """The known pixels of an image when a region of it is hidden, True where they are known.

    ``shape``: (c, h, w) of the image.
    ``hide``: a half, the centre, or three quarters of the pixels at random; a pixel is hidden in all its channels.
    Raises ValueError for other regions.
    """
    if hide not in get_args(Region):
        raise ValueError(f"hide is {hide!r}; it must be one of {', '.join(get_args(Region))}")
    _, height, width = shape
    if hide == "random":
        chance = torch.rand(1, height, width, generator=generator, device=device_of(generator))
        return (chance < RANDOM_SHARE).expand(shape)
    rows = {"top": slice(height // 2), "bottom": slice(height // 2, None)}.get(hide, slice(None))
    columns = {"left": slice(width // 2), "right": slice(width // 2, None)}.get(hide, slice(None))
    if hide == "centre":
        rows = slice(height // 4, height - height // 4)
        columns = slice(width // 4, width - width // 4)
    known = torch.ones(shape, dtype=torch.bool, device="cpu")
    known[:, rows, columns] = False
    return known


def as_mask(known: object, shape: tuple[int, ...] | None = None) -> Bool[Tensor, "*d"]:
    """A mask of known numbers as a tensor.  Raises ValueError unless it has booleans and this ``shape``."""
    mask = as_numbers("known", known)
    if mask.dtype != torch.bool or not mask.ndim or shape not in (None, mask.shape):
        raise ValueError(f"known has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected booleans {shape or ''}")
    return mask


@torch.inference_mode(False)
def masked(known: Bool[Tensor, "*d"]) -> Measurement:
    """The known numbers of examples: (b, *d) → (b, m).

    ``known``: booleans (*d), True where a number of an example is known.
    Raises ValueError for anything else.
    """
    known = as_mask(known)
    # Computed once, because finding where a mask is True synchronises a GPU.
    places = Copies(*known.nonzero(as_tuple=True))

    def measure(x: Float[Tensor, "b *d"]) -> Float[Tensor, "b m"]:
        where: tuple[slice | Tensor, ...] = (slice(None), *places.on(x.device))
        return x[where]

    return measure


def downsampled(factor: int) -> Measurement:
    """Means over squares of ``factor`` × ``factor`` pixels, (b, c, h, w) → (b, c, h/factor, w/factor).

    ``factor``: at least 1, and at most the smaller side of an image, which is checked when it is measured.
    Raises ValueError for other factors.
    """
    factor = whole("factor", factor, 1)

    def average(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        if factor > min(x.shape[2:]):
            raise ValueError(f"factor is {factor}; an image of {x.shape[2]} × {x.shape[3]} pixels has no such squares")
        return F.avg_pool2d(x, factor)

    return average


@torch.inference_mode(False)
def blurred(std: float) -> Measurement:
    """Convolution with a Gaussian of standard deviation ``std`` pixels, cut off at 3 ``std``, with zeros outside.

    ``std``: from 0.01 to 100.
    Raises ValueError for other values.
    """
    if real("std", std, MIN_BLUR) > MAX_BLUR:
        raise ValueError(f"std is {std}; it must be at most {MAX_BLUR} pixels")
    radius = max(1, round(3 * std))
    offsets = torch.arange(-radius, radius + 1, device="cpu")
    weights = (-(offsets**2) / (2 * std**2)).exp()
    kernels = Copies(weights[:, None] * weights / weights.sum() ** 2)

    def blur(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        (kernel,), channels = kernels.on(x.device), x.shape[1]
        reach = min(radius, max(x.shape[2:]) - 1)  # the rest of a wide kernel lies outside the image
        kernel = kernel[radius - reach : radius + reach + 1, radius - reach : radius + reach + 1]
        return F.conv2d(x, kernel.to(x).expand(channels, 1, -1, -1), padding=reach, groups=channels)

    return blur


def apply(measure: Measurement, x: Tensor) -> Tensor:
    """A x.  Raises ValueError for a measurement on another device than x, or one that doesn't return real numbers."""
    check_type("measure", measure, Callable)
    try:
        y = measure(x)
    except RuntimeError as error:
        is_of_device = any(word in str(error) for word in ("device", "weight type"))
        if isinstance(error, torch.OutOfMemoryError) or not is_of_device:
            raise
        problem = f"the measurement does not run on {x.device} ({one_line(error)})"
        raise ValueError(f"{problem}; move its tensors there, as in lambda x: x @ matrix.to(x)") from error
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.shape[:1] != x.shape[:1]:
        returned = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"the measurement returns {returned}; expected a tensor of real numbers (b, *m) for (b, *d)")
    return y


def measure_rows(measure: Measurement, x: Tensor) -> Float[Tensor, "b *m"]:
    """A x, with an additional axis if a measurement is a single number, such as x[:, 0]."""
    y = apply(measure, x)
    return y[:, None] if y.ndim == 1 else y


def constant_part(measure: Measurement, example: Float[Tensor, "1 *d"]) -> Float[Tensor, "1 *m"]:
    """A 0, the constant of a measurement A that is linear apart from it.

    Raises ValueError if two random examples show that it isn't linear, or that A mixes the examples of a batch.
    """
    constant = measure(torch.zeros_like(example))
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *example.shape[1:], generator=generator, device="cpu").to(example)
    combined = measure(2 * pair[:1] - 3 * pair[1:]) - constant
    first, second = measure(pair) - constant
    error = (combined[0] - 2 * first + 3 * second).abs()
    if not bool((error <= 1e-3 * combined.abs().max() + 1e-5 * constant.abs().max()).all()):
        raise ValueError("the measurement is not linear; it must be a linear function of each example, plus a constant")
    return constant


def check_gradient(measure: Measurement, example: Float[Tensor, "1 *d"]) -> None:
    """Raises ValueError if a linear measurement's gradient isn't its transpose, for example because it detaches."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, *example.shape[1:], generator=generator, device="cpu").to(example)
    direction = z.roll(1, 0)
    with torch.no_grad():
        change = measure(z + direction) - measure(z - direction)  # 2 A d
    x = z.clone().requires_grad_()
    with torch.enable_grad():
        y = measure(x)
        gradient = torch.autograd.grad(y, x, change, allow_unused=True)[0] if y.requires_grad else None
    squared_length = change.square().sum()
    # ⟨Aᵀ 2 A d, 2 d⟩ is |2 A d|².
    if gradient is None or not bool((2 * (gradient * direction).sum() - squared_length).abs() <= 0.1 * squared_length):
        raise ValueError("the measurement is not differentiable; it must be a torch function of each example")


def rows_of(y: Tensor, shape: tuple[int, ...]) -> Float[Tensor, "k *m"]:
    """One or several measurements of a ``shape``, in rows.  Raises ValueError for anything else."""
    is_single = y.shape in (shape, ()) and y.numel() == math.prod(shape)
    rows = y.view(1, *shape) if is_single else y
    if not rows.numel():
        raise ValueError(f"y has shape {tuple(y.shape)}; expected at least one measurement")
    if rows.shape[1:] != shape:
        raise ValueError(f"y has shape {tuple(y.shape)}; expected {shape}, or (n, ...) for several measurements")
    return rows


@dataclass(frozen=True)
class Observation:
    """A measurement y = A x + n with n ~ N(0, σ_y² I), in the units of the score.

    A x is (operator(scale·x) − constant)/divisor.

    ``operator``: the measurement in the user's units.
    ``y``: one measurement, (1, *m), or several.
    ``noise_std``: σ_y.
    ``log_volume``: for each measurement, the log volume of y's unit in the user's units.
    ``scale``, ``constant``, ``divisor``: of the user's units.
    """

    operator: Measurement
    y: Float[Tensor, "k *m"]
    noise_std: float
    log_volume: Float64[Tensor, "k"] | float = 0.0
    scale: Tensor | float = 1.0
    constant: Tensor | float = 0.0
    divisor: Tensor | float = 1.0

    def measure(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *m"]:
        """A x for a batch of examples."""
        return (self.operator(self.scale * x) - self.constant) / self.divisor

    @classmethod
    @torch.inference_mode(False)
    def of(cls, measure: Measurement, y: Tensor, noise_std: Tensor, shift: Tensor, scale: Tensor) -> "Observation":
        """An observation from the user's units, in which an example is shift + scale·z, where z is the score's.

        ``measure``: linear or affine.
        ``y``: one measurement (*m), or several (k, *m).
        ``noise_std``: σ_y > 0, one number, or a tensor that broadcasts against y; then A and y are divided by it, so
        that the noise is 1.
        ``shift``, ``scale``: (*d), with the dtype and on the device of the score's examples.
        Raises ValueError if ``y`` doesn't have the shape of A x, if the noise isn't positive or doesn't broadcast, if A
        isn't linear, and if its gradient is wrong, for example because A detaches its argument.
        """
        if not bool(((noise_std > 0) & noise_std.isfinite()).all()):
            raise ValueError(f"noise_std is {noise_std.tolist()}; it must be positive")
        if not y.numel():
            raise ValueError(f"y has shape {tuple(y.shape)}; it must hold a number")
        operator = partial(measure_rows, measure)
        scale = scale.clone()
        constant = constant_part(lambda x: operator(scale * x), torch.zeros_like(shift[None]))
        check_gradient(lambda x: operator(scale * x) - constant, shift[None])
        # Far from 0, where scale·v is small in comparison: the two must not be added.
        offset = operator(shift[None])
        target = rows_of(y, tuple(offset.shape[1:]))
        check_broadcast(noise_std, target, y)
        if not bool(target.isfinite().all()):
            raise ValueError("y has numbers that are not finite; leave unknown ones out of the measurement")
        if not noise_std.ndim:
            return cls(operator, target - offset, float(noise_std), scale=scale, constant=constant)
        volume = float64(noise_std.log().expand_as(target)).flatten(1).sum(1)
        divisor = noise_std.clone()
        return cls(operator, (target - offset) / divisor, 1.0, volume, scale, constant, divisor)

    @property
    def log_constant(self) -> Float64[Tensor, "k"] | float:
        """The log of a Gaussian's normalising constant, in the user's units."""
        return -self.y.shape[1:].numel() * math.log(math.sqrt(2 * math.pi) * self.noise_std) - self.log_volume

    def count_disagreeing(self, x: Float[Tensor, "n *d"]) -> int:
        """How many of the samples ``x`` are farther from the measurement than σ_y explains in all but one in a million.

        Judged by the largest of the m residuals, and by the sum of their squares, which has mean m and variance 2m.

        ``x``: samples of all measurements, the same number of each, in order.
        """
        y = self.y.repeat_interleave(len(x) // len(self.y), 0)
        residuals = (self.measure(x) - y).flatten(1) / self.noise_std
        m = residuals.shape[1]
        largest_agrees = residuals.abs().amax(1) <= math.sqrt(2 * math.log(2e6 * m))
        sum_agrees = residuals.square().sum(1) <= m + 5 * math.sqrt(2 * m) + 25
        return int((~(largest_agrees & sum_agrees)).sum())

    def measure_noise(self, shape: tuple[int, ...]) -> Float[Tensor, "64 *m"]:
        """A of white noise in examples of this ``shape``, which shows how far it stretches them."""
        z = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return self.measure(z.to(self.y))

    def check_precision(self, sigma_max: float, shape: tuple[int, ...]) -> None:
        """Raises ValueError for noise too small for single precision, and for a y that is far from any example."""
        widest = sigma_max * self.measure_noise(shape).abs().amax(0)
        if bool((self.noise_std < 1e-7 * widest).any()):
            raise ValueError("noise_std is less than a ten-millionth of sigma_max, too small for single precision")
        if bool((self.y.abs() > 1e6 * widest.max()).any()):
            raise ValueError("y is over a million times farther away than sigma_max; is it in the units of the data?")

    def warn_if_precise(self, sigma: float, shape: tuple[int, ...]) -> None:
        """Warn if σ_y is close to A of noise of level ``sigma``, which a sampler's last step removes."""
        largest_std = float(self.measure_noise(shape).square().mean(0).max().sqrt())
        if self.noise_std < 2 * sigma * largest_std:
            problem = f"noise_std is small compared with sigma_min = {sigma:g}"
            log.warning(f"{problem}: measured numbers will vary too little")


def check_broadcast(noise_std: Tensor, rows: Float[Tensor, "k *m"], y: Tensor) -> None:
    """Raises ValueError unless the noise's standard deviations broadcast against measurements in rows."""
    axes = zip(noise_std.shape[::-1], rows.shape[::-1], strict=False)
    if noise_std.ndim > rows.ndim or any(size not in (1, expected) for size, expected in axes):
        shapes = f"shape {tuple(noise_std.shape)}, and y {tuple(y.shape)}"
        raise ValueError(f"noise_std has {shapes}; expected one number, or as many as y holds")


def repeat_for(y: Float[Tensor, "k *m"], n: int) -> Float[Tensor, "n *m"]:
    """A measurement for each of ``n`` samples, from one or n of them.  Raises ValueError for another number."""
    if len(y) not in (1, n):
        raise ValueError(f"y holds {len(y)} measurements for {n} samples; expected one, or one for each")
    return y.expand(n, *y.shape[1:])
