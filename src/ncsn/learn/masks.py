"""Which cells of a training row are observed, targets or absent: drawn anew at every step."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ncsn.conditional import ABSENT, ConditionalModel
from ncsn.noise import noise_like
from ncsn.objectives import Batch

JOINT = 0.3  # least share of rows in which nothing is observed
PATTERNS = 16  # choices of observed columns in a batch, each shared by many rows
# Exact values identify the rows of a small table, which are then learned by heart; noisy ones do not.
NOISY, NOISY_ROWS = 0.6, 600  # share of the patterns with noisy values, at most; rows, divided by those of the table
DROPPED = 0.5  # share of the columns; which cells a row is missing would identify it, too
LOG_NOISE_MEAN, LOG_NOISE_STD, MAX_NOISE = -1.0, 1.5, 3.0  # in standard deviations of a column


def noisy_share(rows: int) -> float:
    """The share of patterns whose observed values are noisy, of a table with so many rows to learn from."""
    return min(NOISY, NOISY_ROWS / rows)


def masked(
    model: ConditionalModel,
    x: Float[Tensor, "b d"],
    generator: torch.Generator,
    *,
    joint: float,
    noisy: float = 0.0,
    dropped: float = 0.0,
) -> Batch:
    """Rows in which random columns are observed, from one to all but one of them; NaN is a missing cell.

    ``joint``: the share of rows, first in the batch, in which nothing is observed.
    ``noisy``: the share of patterns whose observed values have noise; its level is an input of the model.
    ``dropped``: up to which share of the columns are absent as well in a pattern, where cells are missing.
    """
    n, d = x.shape
    device = x.device
    few = min(PATTERNS, n)
    which = torch.arange(n, device=device) * few // n
    counts = torch.randint(1, max(d, 2), (few, 1), generator=generator, device=device)
    ranks = torch.rand(few, d, generator=generator, device=device, dtype=x.dtype).argsort(1).argsort(1)
    levels = torch.randn(few, generator=generator, device=device, dtype=x.dtype) * LOG_NOISE_STD + LOG_NOISE_MEAN
    levels = levels.exp().clamp(max=MAX_NOISE) * (torch.rand(few, generator=generator, device=device) < noisy)
    observed, missing = (ranks < counts)[which], x.isnan()
    if dropped and bool(missing.any()):
        rates = dropped * torch.rand(few, 1, generator=generator, device=device)
        more = torch.rand(few, d, generator=generator, device=device) < rates
        missing = torch.where((missing | more[which]).all(1, keepdim=True), missing, missing | more[which])
    observed[: n if d == 1 else round(n * joint)] = False
    noise = levels[which] * observed.any(1)
    values = x + noise[:, None] * noise_like(x, generator)
    given = torch.where(observed, values, torch.nan).masked_fill(missing, ABSENT)
    clean = torch.where(observed, values, x).masked_fill(missing, 0.0)  # what is no target has no loss
    return Batch(clean, given=model.condition(given, noise))


def masked_batches(
    model: ConditionalModel, batches: Iterator[Batch], rows: int, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches of a table with so many rows, masked at random."""
    for batch in batches:
        joint = max(
            JOINT, 1 / batch.x.shape[1]
        )  # as if each number of observed columns were as likely, if these are few
        yield masked(model, batch.x, generator, joint=joint, noisy=noisy_share(rows), dropped=DROPPED)
