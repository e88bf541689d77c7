"""Signals: arrays (n, c, l) and volumes (n, c, d, h, w) of real numbers in any unit."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.data.arrays import Arrays, check_finite, labels_of, read_arrays, split_arrays
from ncsn.data.dataset import Dataset
from ncsn.data.transforms import Scale
from ncsn.machine import storage
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, forecast, quieter
from ncsn.machine.storage import sha256_of
from ncsn.measurements import Observation, masked
from ncsn.run.imputation import Imputed, ImputingRun, Unseen, choose_patterns
from ncsn.run.run import posterior_of
from ncsn.run.steps import generator_of
from ncsn.settings import OF_IMAGES, Reading
from ncsn.validation import as_numbers, counted, whole

DRAWS_AT_ONCE = 2**7  # signals, so that activations fit in a processor's cache


@dataclass(frozen=True)
class Signals(Dataset):
    """Signals with any number of channels and axes."""

    noun: ClassVar[str] = "signals"
    # The rule gives higher values for noisy signals; those of MNIST-1D, for which it gives 0.7, do well.
    log_sigma_mean: ClassVar[tuple[float, float]] = (-math.inf, 0.7)
    refused: ClassVar[tuple[str, ...]] = (*OF_IMAGES, "method")  # there is no established way to judge guided signals
    # With 16 bits, training can be 1.4 times as fast, but samples weren't compared, so the precision is fp32.

    @property
    def width(self) -> str:
        return counted(self.shape[0], "channel")


def signals_in(name: str, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "n c *d"]:
    """Signals (n, c, l) or (n, l), or volumes (n, c, d, h, w), with a channel axis.  Raises ValueError for others."""
    if array.ndim not in (2, 3, 5) or not array.size or array.dtype.kind not in "iuf":
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; expected (n, channels, length)")
    check_finite(name, array)
    return array[:, None] if array.ndim == 2 else array


def read_signals(name: str, found: Arrays) -> Signals:
    """The signals in arrays, whose splits and classes have the same keys as those of images.

    Unlike columns of tables, signals have no bounds: samples of a channel within 0 and 100 may exceed them.
    Raises ValueError if there are too few signals, or if a channel is constant.
    """
    splits = split_arrays(name, found, signals_in)
    arrays = [split.examples[split.places] for split in splits.values()]
    if not all(map(len, arrays)):
        raise ValueError(f"{name} has too few signals; training needs at least 10 (1,000 or more for good samples)")
    classes = {name: ["" if split.classes is None else split.classes[split.places]] for name, split in splits.items()}
    learned, axes = arrays[-1], (0, *range(2, arrays[-1].ndim))
    shift = learned.mean(axes, dtype=np.float64, keepdims=True)[0]
    scale = learned.std(axes, dtype=np.float64, keepdims=True)[0]
    # The standard deviation of a constant is the rounding error of its mean.
    constant = ~(scale > (1e-15 if learned.dtype == np.float64 else 1e-7) * abs(shift))
    if constant.any():
        raise ValueError(f"channel {constant.argmax()} of {name} is constant and has no density; leave it out")
    validation, test, train = (torch.from_numpy(((x - shift) / scale).astype(np.float32)) for x in arrays)
    scales = Scale(shift=tuple(shift.ravel().tolist()), scale=tuple(scale.ravel().tolist()), axes=learned.ndim - 2)
    return Signals(train, validation, test, labels_of(classes), name, transform=scales, sha256=sha256_of(arrays))


@dataclass(frozen=True, kw_only=True, repr=False)
class SignalRun(ImputingRun):
    """A run that generates signals."""

    examples: ClassVar[type[Dataset]] = Signals

    def _read(self, place: str, reading: Reading) -> Signals:
        return read_signals(place, read_arrays(Path(place)))

    def _numbers(self, x: object, unseen: Unseen = "error") -> Float64[Tensor, "b *d"]:
        """Signals of one channel may lack the channel axis."""
        shape = self.recipe.shape
        values = np.ma.filled(x.astype(float), np.nan) if np.ma.isMaskedArray(x) else x
        signals = as_numbers("x", values).detach().cpu().double()
        signals = signals[:, None] if signals.shape[1:] == shape[1:] and shape[0] == 1 else signals
        if signals.shape[1:] != shape:
            raise ValueError(f"x has shape {tuple(signals.shape)}; expected (b, {', '.join(map(str, shape))})")
        return signals

    def impute(self, rows: object, n: int = 20, *, seed: int | torch.Generator = 0) -> Imputed:
        """Draw the missing values of signals from their distribution given the observed ones.

        Observed values are taken as exact and kept.  Moment matching is approximate where several answers compete.

        ``rows``: an array (b, *d).  NaN means missing.
        ``n``: the number of draws for each signal, at least 1; with one, the spread is unknown (NaN).
        ``seed``: a number, or a generator on the run's device, which is advanced.
        Raises ValueError for another shape, and for impossible values.
        """
        x = self._numbers(rows)
        if not len(x):
            raise ValueError("rows has 0 signals; it needs at least one")
        self.transform.check(x)
        with threads_for(self.score, steady=True):  # samplers adapt to the load at every step
            return self._impute(x, whole("n", n, 1), generator_of(seed, self.device))

    def _impute(self, x: Float64[Tensor, "b *d"], n: int, generator: torch.Generator) -> Imputed:
        """Signals with the same gaps are processed together."""
        z = self.transform.forward(x).float().to(self.device)
        missing = x.isnan()
        draws = x.repeat(n, *[1] * x.ndim)
        patterns, pattern = torch.unique(missing, dim=0, return_inverse=True)
        batches = [
            (gaps, batch)
            for number, gaps in enumerate(patterns)
            if bool(gaps.any())
            for batch in torch.split((pattern == number).nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n))
        ]
        name = f"{len(x)} signals"
        for gaps, batch in bar(forecast(batches, len(batches), name), name, total=len(batches)):
            drawn = self._draw_gap(z[batch], gaps.to(self.device), n, generator)
            draws[:, batch] = torch.where(gaps, drawn.to(draws), draws[:, batch])
        point = torch.where(missing, draws.mean(0), x)
        spread = draws.std(0) if len(draws) > 1 else torch.full_like(point, torch.nan)
        return Imputed(x, draws, point, spread, self)

    def _draw_gap(
        self, z: Float[Tensor, "b *d"], missing: Bool[Tensor, "*d"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n b *d"]:
        """``n`` draws of signals with the same missing values, by moment matching; in the user's units."""
        if bool(missing.all()):
            return self.steps(n * len(z), seed=generator).last().view(n, *z.shape)
        count = n * len(z)
        noise_std = 2 * self.recipe.sampling.sigma_min
        observed = z[:, ~missing].repeat_interleave(n, 0)
        posterior = posterior_of(self, Observation(masked(~missing), observed, noise_std))
        with quieter(logging.ERROR):  # otherwise every batch would warn that samples disagree
            drawn = posterior.steps(count, particles=1, batch_size=min(DRAWS_AT_ONCE, count), seed=generator).last()
        return drawn.view(len(z), n, *z.shape[1:]).transpose(0, 1)

    def _hide(self, hidden: object, shape: tuple[int, ...], generator: torch.Generator) -> Bool[Tensor, "n *d"]:
        """A share is a gap in the middle of the last axis, in all channels."""
        if not isinstance(hidden, float):
            return choose_patterns(hidden, shape, generator)
        length = math.ceil(hidden * shape[-1])
        gap = torch.zeros(shape, dtype=torch.bool)
        gap.narrow(-1, (shape[-1] - length) // 2, length).fill_(True)
        return gap

    def impute_file(self, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
        """Write completed signals with the shape and dtype of their file; returns a summary in lines."""
        for path in (rows, out, draws or out):
            if path.suffix != ".npy":
                raise ValueError(f"{path} ends in {path.suffix!r}; signals are read from and written to .npy")
        signals = read_arrays(rows)[""]
        if signals.dtype.kind not in "iuf":
            raise ValueError(f"{rows} holds {signals.dtype}; signals must be numbers")
        imputed = self.impute(np.array(signals, np.float64), n, seed=seed)
        for file, filled in ((out, imputed.point.view(signals.shape)), (draws, imputed.draws)):
            if file is not None:
                with storage.atomic(file) as temporary:
                    np.save(temporary, filled.numpy().astype(signals.dtype))
        # Each channel has its own unit.
        channels = zip(imputed.variation.unbind(1), imputed.missing.unbind(1), strict=True)
        spreads = [f"{float(std[gap].mean()):.3g}" for std, gap in channels if bool(gap.any())]
        where = " in the channels with gaps" if len(spreads) > 1 else ""
        summary = f"; mean standard deviation of the draws: {', '.join(spreads)}{where}" if spreads else ""
        return [f"{out}: {counted(int(imputed.missing.sum()), 'missing value')} filled in{summary}"]
