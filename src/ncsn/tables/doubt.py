"""Which cells of a table are probably wrong: each known cell is judged by its distribution given the rest of its row.

Along the probability flow of a single number, the order of points doesn't change.  So the distribution function
at a number is that of the noise where the flow takes it, which is a Gaussian, and quantiles are where the flow takes
quantiles of the noise.  Nothing is drawn, and small probabilities are as exact as large ones.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ncsn.data.columns import AnyColumn, Discrete, Number
from ncsn.data.transforms import FAR
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, log
from ncsn.samplers import heun_step
from ncsn.score import Sigma, tweedie
from ncsn.tables.frames import decode
from ncsn.tables.read import frame_in
from ncsn.validation import counted

if TYPE_CHECKING:
    import pandas

    from ncsn.tables.run import TableRun

LEVELS = 40  # of the flow, with which distribution functions are exact to 0.001
LOW, HIGH = 0.05, 0.95  # the expected range
CELLS_AT_ONCE = 2**10
QUANTILES = 10  # that stand for the numbers on the line, where these and atoms make up the distribution


class Judged(NamedTuple):
    """Cells of a column: their ``p_value``, (b,), and the ends of the expected range, (b,), equal for categories."""

    p_value: Float64[Tensor, "b"]
    low: Float64[Tensor, "b"]
    high: Float64[Tensor, "b"]


@torch.no_grad()
def doubt_cells(run: "TableRun", rows: object) -> "pandas.DataFrame":
    """What ``TableRun.doubt`` returns."""
    import pandas
    from scipy.stats import false_discovery_control

    columns = run.columns
    x = run._numbers(rows, "skip")
    possible = run.transform.possible(x)
    judged = ~x.isnan() if run.known is None else ~x.isnan() & run.known.isnan()
    if count := int((judged & ~possible).sum()):
        log.warning(f"{counted(count, 'value')} impossible, judging by the training data: p is 0")
    z = run.transform.forward(x.masked_fill(~possible, torch.nan)).float()
    frame = frame_in(rows)
    parts = [pandas.DataFrame(columns=["row", "column", "value", "expected", "p_value"])]
    for i, column in enumerate(bar(columns.columns, "columns")):
        places = judged[:, i].nonzero()[:, 0]
        cells = [
            judge(run, i, x[batch, i], z[batch].to(run.device))
            for batch in bar(torch.split(places, CELLS_AT_ONCE), column.name)
            if len(batch)
        ]
        if not cells:
            continue
        p_value, low, high = (torch.cat(part) for part in zip(*cells, strict=True))
        label = columns.field(column).label if columns.fields else column.name
        values = x[places, i].numpy() if frame is None else frame[label].iloc[places.numpy()].to_numpy(object)
        part = {
            "row": places.numpy() if frame is None else frame.index[places.numpy()],
            "column": label,
            "value": pandas.Series(values, dtype=object),
            "expected": expected_texts(run, column, low.numpy(), high.numpy()),
            "p_value": p_value.where(possible[places, i], 0.0).numpy(),
        }
        parts.append(pandas.DataFrame(part))
    table = pandas.concat(parts[1:] or parts, ignore_index=True)
    table["p_corrected"] = false_discovery_control(table["p_value"].astype(float)) if len(table) else 0.0
    return table.sort_values("p_value", kind="stable", ignore_index=True)


def judge(run: "TableRun", i: int, x: Float64[Tensor, "b"], z: Float[Tensor, "b e"]) -> Judged:
    """Judge the cells ``x`` of column ``i``; ``z``: their rows as the model sees them."""
    columns, model = run.columns, run.conditionals
    column, z = columns.columns[i], z.clone()
    chances = torch.ones(len(x), 1).double()
    if i in columns.coded:
        code = columns.coded.index(i)
        z[:, model.d + code] = torch.nan
    if isinstance(column, Number):
        z[:, columns.numbers.index(i)] = torch.nan
    with threads_for(model):
        if i in columns.coded:
            chances = model.log_chances(z, code, complete=True).exp().cpu().double()
        if isinstance(column, Discrete):
            return judge_category(column, x, chances[:, : len(column.values)])
        return judge_number(run, column, x, z, chances[:, : 1 + len(column.atoms)])


def judge_category(column: Discrete, x: Float64[Tensor, "b"], chances: Float64[Tensor, "b k"]) -> Judged:
    """The probability of all values that are at most as probable as the one in the cell."""
    code = column.encode(x).long().clamp(0, len(column.values) - 1)
    chance = chances.gather(1, code[:, None])
    p_value = (chances * (chances <= chance)).sum(1)
    most_probable = column.decode(chances.argmax(1).double())
    return Judged(p_value, most_probable, most_probable)


def judge_number(
    run: "TableRun", column: Number, x: Float64[Tensor, "b"], z: Float[Tensor, "b e"], chances: Float64[Tensor, "b a"]
) -> Judged:
    """Twice the probability of numbers at least as low, or as high; ``chances``: of the line and of each atom."""
    place = run.columns.numbers.index(run.columns.columns.index(column))
    flow = Flow(run, z, place)
    ends = torch.stack([line_place(column, x, cell_end) for cell_end in (0.0, 1.0)], 1)
    low_end, high_end = flow.to_noise(ends).unbind(1)
    atoms = torch.tensor(column.atoms).double()
    line, of_atoms = chances[:, 0], chances[:, 1:]
    at_most = line * torch.special.log_ndtr(high_end).exp() + (of_atoms * (atoms <= x[:, None])).sum(1)
    at_least = line * torch.special.log_ndtr(-low_end).exp() + (of_atoms * (atoms >= x[:, None])).sum(1)
    p_value = (2 * torch.minimum(at_most, at_least)).clamp(max=1.0)
    levels = torch.linspace(LOW, HIGH, QUANTILES if column.atoms else 2).double()
    quantiles = flow.from_noise(torch.special.ndtri(levels).expand(len(x), -1))
    numbers = column.inverse(quantiles.flatten()).view(quantiles.shape)
    values, order = torch.cat([numbers, atoms.expand(len(x), -1)], 1).sort(1)
    shares = torch.cat([(line / len(levels))[:, None].expand(numbers.shape), of_atoms], 1).gather(1, order).cumsum(1)
    low, high = (values.gather(1, (shares < level - 1e-9).sum(1, keepdim=True))[:, 0] for level in (LOW, HIGH))
    return Judged(p_value, low, high)


def line_place(column: Number, x: Float64[Tensor, "b"], cell_end: float) -> Float64[Tensor, "b"]:
    """Where the end of a number's cell is on the model's line, whether or not the number is an atom."""
    z = column.on_line(x, cell_end)
    return z.nan_to_num(nan=-FAR).clamp(-FAR, FAR)  # the logarithm of what isn't positive


class Flow:
    """The probability flow of the number at ``place`` given the rest of each row of ``z``, (b, e)."""

    def __init__(self, run: "TableRun", z: Float[Tensor, "b e"], place: int) -> None:
        model, sampling = run.conditionals, run.recipe.sampling
        target: Bool[Tensor, "b d"] = torch.zeros_like(z[:, : model.d], dtype=torch.bool)
        target[:, place] = True
        condition = model.condition(model.given(z, target))
        numbers = z[:, : model.d].nan_to_num()

        def score(x: Float[Tensor, "m 1"], sigma: Sigma, /) -> Float[Tensor, "m 1"]:
            rows = numbers.repeat_interleave(len(x) // len(numbers), 0)
            rows[:, place] = x[:, 0]
            return model.numbers(rows, sigma, condition)[:, place, None]

        self.score, self.device = score, z.device
        self.sigmas = sampling.but(sampler="heun", levels=LEVELS, guidance=1.0).ladder().to(z)
        self.mean = tweedie(score, model.mean[place].expand(len(z), 1), float(self.sigmas[0]))

    def to_noise(self, x: Float64[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
        """Where points end, as a standard normal number."""
        noise = self._follow(x.float().to(self.device), self.sigmas.flip(0))
        return ((noise - self.mean) / self.sigmas[0]).cpu().double()

    def from_noise(self, noise: Float64[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
        """Where standard normal numbers come from."""
        start = self.mean + self.sigmas[0] * noise.float().to(self.device)
        return self._follow(start, self.sigmas).cpu().double()

    def _follow(self, x: Float[Tensor, "b n"], sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "b n"]:
        points = x.reshape(-1, 1)
        for sigma, following in pairwise(sigmas):
            points = heun_step(self.score, points, sigma, following)
        return points.view(x.shape)


def expected_texts(
    run: "TableRun", column: AnyColumn, low: Float64[np.ndarray, "b"], high: Float64[np.ndarray, "b"]
) -> "pandas.Series":
    """The most probable value, or the expected range in words."""
    import pandas

    if isinstance(column, Discrete):
        return decode(column, low, run.columns.field(column)).astype(object)
    digits = ".9g" if column.step else ".4g"
    say = [[column.say(float(format(end, digits))) for end in ends] for ends in (low, high)]
    return pandas.Series([f"{lowest} to {highest}" for lowest, highest in zip(*say, strict=True)], dtype=object)
