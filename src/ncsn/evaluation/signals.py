"""How good samples of signals are, beside signals that training has not seen."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ncsn.data import Dataset
from ncsn.evaluation.tables import TableEvaluation, compared, held_out_examples, told_apart
from ncsn.run import Run

LEAST = 1e-6  # of the mean power: what is weaker is rounding


def power(x: Float[np.ndarray, "n c *d"], length: int) -> Float64[Tensor, "c f"]:
    """The mean power of signals at each frequency of their last axis, padded with zeros to ``length``."""
    spectrum = torch.fft.rfft(torch.from_numpy(x).double(), n=length).abs().square()
    means: Tensor = spectrum.mean(0).reshape(x.shape[1], -1, spectrum.shape[-1]).mean(1)
    return means


def log_spectrum(x: Float[np.ndarray, "n c *d"], y: Float[np.ndarray, "m c *d"]) -> float:
    """The root mean square difference of the log mean power spectra of two sets of signals, in nats."""
    logs = [(each + LEAST * each.mean()).log() for each in (power(x, x.shape[-1]), power(y, x.shape[-1]))]
    return float((logs[0] - logs[1]).square().mean().sqrt())


def autocorrelation(x: Float[np.ndarray, "n c *d"], y: Float[np.ndarray, "m c *d"]) -> float:
    """The root mean square difference of the mean autocorrelations of two sets, over lags of up to half a signal.

    By the power spectrum (Wiener–Khinchin), with zeros behind, so that the end of a signal does not meet its beginning.
    """
    length = x.shape[-1]
    lags = torch.arange(length // 2 + 1)
    products = [torch.fft.irfft(power(each, 2 * length), n=2 * length)[:, lags] / (length - lags) for each in (x, y)]
    one, other = (product / product[:, :1] for product in products)
    return float((one - other).square().mean().sqrt())


def judge_signals(run: Run, data: Dataset, samples: Float[Tensor, "m c *d"]) -> TableEvaluation:
    """The samples of a run beside as many held-out signals of its data, and beside what training signals have.

    ``log_spectrum``, ``autocorrelation``: how far from the held-out ones; the same of ``training_signals``, as many,
    shows what chance is.  ``classifier``, ``memorisation``: as of tables, of the standardised numbers; trees take a
    minute for 1,000 signals of 500 numbers.  Bounds of a channel are not known to the run, and not judged.

    ``samples``: in the user's units, as many as ``held_out_examples``.
    Raises ValueError for too few signals.
    """
    assert data.units is not None
    held, made = (data.units.standardise(x).float() for x in (held_out_examples(data, len(samples)), samples.double()))
    distances = {"log_spectrum": log_spectrum, "autocorrelation": autocorrelation, "classifier": told_apart}
    parts, mirrored = (data.train.numpy(), held.numpy(), made.numpy()), bool(run.settings.get("flip"))
    numbers = compared(*parts, distances, "training_signals", mirrored=mirrored)
    return TableEvaluation(n=len(held), numbers=numbers)
