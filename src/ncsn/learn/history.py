"""The history of a training: its metrics, and the best average of the weights so far, as a part of its checkpoint."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ncsn.data.dataset import Dataset
from ncsn.machine.hardware import Group
from ncsn.machine.messages import log
from ncsn.score import ScoreModel
from ncsn.training import Progress
from ncsn.validation import Json

BANDS = [0.0, 0.05, 0.15, 0.4, 1.0, float("inf")]  # of σ, for which losses are reported separately
BAND_NAMES = ["σ < 0.05", "0.05 - 0.15", "0.15 - 0.4", "0.4 - 1", "σ > 1"]
RELEVANT_CHANGE = 0.01  # the smallest relevant change of the held-out loss, relative
SETTLED_STEPS = 200  # before which a small rise of the held-out loss may be chance


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of metrics.jsonl: the training loss since the previous line, and the held-out loss.

    ``validation_bands``: by noise level.  ``parts``: of parts of the examples, by name; for a table, of the joint
    density and of conditionals.
    """

    step: int
    loss: float
    validation_loss: float
    validation_bands: list[float | None]
    parts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class History:
    """The metrics of a training and its best average, which are in its checkpoint, so that a kill does not affect them.

    ``rows``: the metrics so far.
    ``sum``, ``count``: of the losses since the last row.
    ``best``: the average of the weights with the smallest held-out loss.
    ``fraction``: the share of the budget that was spent at the last row; None in a session without rows.
    """

    def __init__(self, average: ScoreModel) -> None:
        self.rows: list[Row] = []
        self.sum, self.count = torch.zeros(()).double(), 0
        self.best = copy.deepcopy(average)
        self.fraction: float | None = None

    def note(self, losses: Tensor) -> None:
        """Add the losses of a batch, without waiting for a GPU."""
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        self.sum = self.sum.to(losses.device, dtype) + losses.to(dtype).sum()
        self.count += len(losses)

    def is_due(self, progress: Progress, data: Dataset) -> bool:
        """Whether the average is to be evaluated after this step, and so a row to be added."""
        last = self.rows[-1].step if self.rows else 0
        if self.fraction is None:  # a resumed training already has some rows
            self.fraction = progress.fraction * last / progress.step
        late_enough = progress.step >= last + data.evaluation_spacing or progress.fraction >= 1
        return late_enough and data.evaluations_due(progress.fraction) > data.evaluations_due(self.fraction)

    def add(self, row: Row, average: ScoreModel, fraction: float) -> None:
        """Add a row, reset the sum, and keep the average if it is the best so far."""
        self.sum, self.count = torch.zeros(()).double(), 0
        self.fraction = fraction
        self.rows.append(row)
        if row.validation_loss <= min(row.validation_loss for row in self.rows):
            self.best.load_state_dict(average.state_dict())

    def has_overfitted(self, patience: float) -> bool:
        """Whether the held-out loss exceeds its minimum by ``patience``.

        From step ``SETTLED_STEPS`` and from twice the step of the minimum on, a tenth of ``patience`` suffices.
        """
        losses = [row.validation_loss for row in self.rows]
        best = losses.index(min(losses))
        late = self.rows[-1].step >= max(SETTLED_STEPS, 2 * self.rows[best].step)
        return losses[-1] > (1 + (patience / 10 if late else patience)) * losses[best]

    def state_dict(self) -> Json:
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "total": [float(self.sum), self.count], "best": self.best.state_dict()}

    def load_state_dict(self, state: Json, /) -> None:
        self.best.load_state_dict(state["best"])
        self.rows = [Row(**row) for row in state["rows"]]
        loss, self.count = state["total"]
        self.sum = torch.tensor(loss, dtype=torch.float64)


def lowest(rows: Sequence[Row]) -> Row:
    """The row with the smallest held-out loss."""
    return min(rows, key=lambda row: row.validation_loss)


def best_row(rows: Sequence[Row], tolerance: float) -> Row:
    """The row of the result: the last one, or the best one if the held-out loss has risen since."""
    best = lowest(rows)
    return best if rows[-1].validation_loss > best.validation_loss * (1 + tolerance) else rows[-1]


def until_overfitted(
    progress: Iterator[Progress], history: History, patience: float, group: Group
) -> Iterator[Progress]:
    """Yield a training's progress until its history says that it has overfitted, see ``History.has_overfitted``."""
    checked = 0
    while True:
        rows = history.rows
        if patience < math.inf and len(rows) > checked:
            checked = len(rows)
            if group.agree(history.has_overfitted(patience)):
                best, last = lowest(rows), rows[-1]
                rise = f"{last.validation_loss / best.validation_loss - 1:.0%} above its minimum at step {best.step:,}"
                log.info(f"training stops early at step {last.step:,}: the held-out loss is {rise}")
                return
        step = next(progress, None)
        if step is None:
            return
        yield step


def verdict(rows: Sequence[Row], kept: Row, examples: int) -> str:
    """Summarise what was ``kept``, and whether more training or more ``examples`` would help."""
    best, last = lowest(rows), rows[-1].validation_loss
    listed = ", ".join(f"{name} {loss:.4f}" for name, loss in kept.parts.items())
    line = f"held-out loss {kept.validation_loss:.4f}{f' ({listed})' if listed else ''}, at step {kept.step:,}"
    if examples < 1000:
        line = f"with only {examples} examples, samples may be copies of them; {line}"
    if kept.step == 0:
        return f"{line}: the network has not improved on the Gaussian that it starts from"
    if kept is not rows[-1] and last > kept.validation_loss * (1 + RELEVANT_CHANGE):
        return f"{line}, then it rose to {last:.4f}: {examples:,} examples are too few for more training"
    before = rows[int(0.75 * (len(rows) - 1))].validation_loss
    if before > best.validation_loss * (1 + RELEVANT_CHANGE):
        return f"{line}; it is still falling: more training would help"
    return f"{line}, the last one, so more training may help" if kept is best is rows[-1] else line
