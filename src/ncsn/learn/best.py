"""Which of the averages of the weights on the way is kept: training loss only falls, held-out loss may not."""

import copy
from collections.abc import Sequence

from torch import Tensor

from ncsn.model import ScoreModel
from ncsn.training import State

LEARNING = 0.01  # relative change of the held-out loss that counts


class Best:
    """The average of the weights that is best on held-out examples, so far.

    With few examples the held-out loss rises again, once the network knows them by heart.
    """

    def __init__(self, average: ScoreModel) -> None:
        self.model = copy.deepcopy(average)
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.at = 0

    def recall(self, weights: dict[str, Tensor], losses: Sequence[float], steps: Sequence[int]) -> None:
        """Go on from an earlier session: its best ``weights``, and all of its held-out ``losses``."""
        self.model.load_state_dict(weights)
        self.losses, self.steps = list(losses), list(steps)
        self.at = self.losses.index(min(self.losses))

    def consider(self, state: State, loss: float) -> bool:
        """Keep the average if its ``loss`` on held-out examples is the lowest; returns whether it is."""
        self.losses.append(loss)
        self.steps.append(state.step)
        if loss > min(self.losses):
            return False
        self.model.load_state_dict(state.average.state_dict())
        self.at = len(self.losses) - 1
        return True

    @property
    def rose(self) -> bool:
        """Whether the held-out loss has risen since the best."""
        return bool(self.losses) and self.losses[-1] > self.losses[self.at] * (1 + LEARNING)

    def verdict(self, examples: int) -> str:
        """What was best, and whether more training, or more of the ``examples``, would help."""
        before = self.losses[int(0.75 * (len(self.losses) - 1))]
        best, last = self.losses[self.at], self.losses[-1]
        said = f"held-out loss {best:.4f}, at step {self.steps[self.at]:,}"
        if self.rose:
            return f"{said}, then it rose to {last:.4f}: {examples:,} examples are too few for more training"
        if before > best * (1 + LEARNING):
            return f"{said}; it is still falling: more training would help"
        return f"{said}; it falls no more"
