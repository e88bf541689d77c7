"""Quality of signals: their power spectra and autocorrelations, compared with those of held-out signals."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn import plots
from ncsn.data.dataset import Dataset
from ncsn.evaluation.comparison import Comparison, classify, compare

MIN_POWER = 1e-6  # relative to the mean power; anything weaker is rounding error


def power(x: Float[np.ndarray, "n c *d"], length: int) -> Float64[Tensor, "c f"]:
    """The mean power of signals at each frequency of their last axis, zero-padded to ``length``."""
    spectrum = torch.fft.rfft(torch.from_numpy(x).double(), n=length).abs().square()
    means: Tensor = spectrum.mean(0).reshape(x.shape[1], -1, spectrum.shape[-1]).mean(1)
    return means


def log_spectrum(x: Float[np.ndarray, "n c *d"], y: Float[np.ndarray, "m c *d"]) -> float:
    """The root mean square difference of the log mean power spectra of two sets of signals, in nats."""
    powers = power(x, x.shape[-1]), power(y, x.shape[-1])
    log_x, log_y = ((spectrum + MIN_POWER * spectrum.mean()).log() for spectrum in powers)
    return float((log_x - log_y).square().mean().sqrt())


def autocorrelation(x: Float[np.ndarray, "n c *d"], y: Float[np.ndarray, "m c *d"]) -> float:
    """The root mean square difference of the mean autocorrelations of two sets, over lags of up to half a signal.

    It's computed from the power spectrum (Wiener–Khinchin), with zero padding so that signals don't wrap around.
    """
    length = x.shape[-1]
    lags = torch.arange(length // 2 + 1)

    def correlations(signals: Float[np.ndarray, "k c *d"]) -> Float64[Tensor, "c lags"]:
        products: Tensor = torch.fft.irfft(power(signals, 2 * length), n=2 * length)[:, lags] / (length - lags)
        return products / products[:, :1]

    return float((correlations(x) - correlations(y)).square().mean().sqrt())


@dataclass(frozen=True)
class SignalRuler:
    """Compares signals with the same number of held-out ones, and does the same for training signals.

    ``n``: the number of signals compared.
    ``log_spectrum``, ``autocorrelation``: distances from held-out signals; those of ``training_signals`` show what to
    expect by chance.  ``classifier``, ``memorisation``: as for tables, on standardised numbers; trees take a minute for
    1,000 signals of 500 numbers.
    """

    data: Dataset
    test: Float64[Tensor, "n *d"]
    n: int
    mirrored: bool

    def judge(self, samples: Float[Tensor, "k *d"]) -> Comparison:
        """Judge the first n samples, in the user's units."""
        train, transform = self.data.train.numpy(), self.data.transform
        test, standardised = (transform.forward(x).float().numpy() for x in (self.test, samples[: self.n].double()))
        distances = {"log_spectrum": log_spectrum, "autocorrelation": autocorrelation, "classifier": classify}
        numbers = compare(train, test, standardised, distances, "training_signals", mirrored=self.mirrored)
        return Comparison(n=self.n, numbers=numbers)

    def show(self, samples: Float[Tensor, "k *d"], path: Path) -> None:
        """Draw the first held-out signals above the first samples."""
        plots.signal_rows({"held out": self.test, "samples": samples}, path)
