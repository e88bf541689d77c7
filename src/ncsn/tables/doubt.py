"""Which cells of a table are probably wrong: each known cell is judged by its distribution given the rest of its row.

The probability flow of a single number keeps the order of points.  So the distribution function at a number is that of
the Gaussian noise at the point where the flow takes the number, and the flow takes quantiles of the noise to quantiles
of the number.  Nothing is drawn, so small probabilities are precise, too.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.data.columns import AnyColumn, Discrete, Number, tensor
from ncsn.data.transforms import FAR
from ncsn.machine.hardware import threads_for
from ncsn.machine.messages import bar, log
from ncsn.samplers import heun_step
from ncsn.score import Sigma, tweedie
from ncsn.tables.frames import cells_by_name, decode
from ncsn.tables.read import frame_in
from ncsn.validation import counted

if TYPE_CHECKING:
    import pandas

    from ncsn.tables.run import TableRun

Cells: TypeAlias = Float64[Tensor, "b"]
Rows: TypeAlias = Float64[Tensor, "b d"]
LEVELS = 40  # of the flow, with which p-values are exact to 0.01
VERY_DOUBTFUL = 0.001  # the p-value below which a cell isn't used to judge others
LOW, HIGH = 0.05, 0.95  # the expected range
CELLS_AT_ONCE = 2**10
QUANTILES = 10  # of a column with atoms; each stands for a tenth of the numbers that aren't atoms


@torch.no_grad()
def doubt_cells(run: "TableRun", rows: object) -> "pandas.DataFrame":
    """What ``TableRun.doubt`` returns."""
    import pandas
    from scipy.stats import false_discovery_control

    x = run._numbers(rows, "skip")
    possible = run.transform.possible(x)
    judged = ~x.isnan() if run.known is None else ~x.isnan() & run.known.isnan()
    if not bool(judged.any()):
        raise ValueError("rows has no known cells, so there is nothing to judge")
    if count := int((judged & ~possible).sum()):
        log.warning(f"{counted(count, 'value')} impossible, judging by the training data: p is 0")
    p_value, low, high = judge_rows(run, x, judged, possible)

    frame = frame_in(rows)
    index = pandas.RangeIndex(len(x)) if frame is None else frame.index
    cells = {} if frame is None else cells_by_name(frame)
    parts = []
    for i, column in enumerate(run.columns.columns):
        places = judged[:, i].nonzero()[:, 0].numpy()
        values = cells[column.name].iloc[places] if column.name in cells else x[places, i].numpy()
        part = {
            "row": index[places],
            "column": run.columns.field(column).label,
            "value": np.array(values, object),
            "expected": describe_expected(run, column, low[places, i].numpy(), high[places, i].numpy()),
            "p_value": p_value[places, i].numpy(),
        }
        parts.append(pandas.DataFrame(part))
    table = pandas.concat(parts, ignore_index=True)
    table["p_corrected"] = false_discovery_control(table["p_value"])
    return table.sort_values("p_value", kind="stable", ignore_index=True)


def judge_rows(run: "TableRun", x: Rows, judged: Bool[Tensor, "b d"], possible: Bool[Tensor, "b d"]) -> list[Rows]:
    """The p-values of all cells, and the ends of their expected ranges; NaN for cells that aren't judged.

    A wrong cell makes right ones look wrong.  So the cell of a row with the smallest p-value is hidden if it is very
    doubtful, and the others are judged again.
    """
    judgements = [torch.full_like(x, torch.nan) for _ in range(3)]
    usable, again = possible.clone(), judged
    while bool(again.any()):
        z = run.transform.forward(x.masked_fill(~usable, torch.nan)).float()
        batches = [
            (i, places)
            for i, is_judged in enumerate(again.T)
            for places in torch.split(is_judged.nonzero()[:, 0], CELLS_AT_ONCE)
            if len(places)
        ]
        for i, places in bar(batches, counted(int(again.sum()), "cell")):
            judgement = judge_cells(run, i, x[places, i], z[places].to(run.device))
            for matrix, values in zip(judgements, judgement, strict=True):
                matrix[places, i] = values
        smallest, place = judgements[0].where(judged & usable, 1.0).min(1)
        doubtful = smallest < VERY_DOUBTFUL
        usable[doubtful, place[doubtful]] = False
        again = judged & usable & doubtful[:, None]
    p_value, low, high = judgements
    return [p_value.clamp(max=1).where(possible, 0.0), low, high]


def judge_cells(run: "TableRun", i: int, x: Cells, z: Float[Tensor, "b e"]) -> tuple[Cells, Cells, Cells]:
    """The p-values of the cells ``x`` of column ``i``, and the ends of their expected ranges.

    ``z``: the rows of the cells, as the model sees them.
    """
    columns, model = run.columns, run.conditionals
    column, z = columns.columns[i], z.clone()
    chances = torch.ones(len(z), 1).double()
    if isinstance(column, Number):
        z[:, columns.numbers.index(i)] = torch.nan
    with threads_for(model):
        if i in columns.coded:
            code = columns.coded.index(i)
            z[:, model.d + code] = torch.nan
            chances = model.log_chances(z, code, complete=True).exp().cpu().double()
            z[:, model.d + code] = 0  # a number on the line
        if isinstance(column, Discrete):
            return judge_categories(column, x, chances[:, : len(column.values)])
        flow = Flow(run, z, columns.numbers.index(i))
        return judge_numbers(flow, column, x, chances[:, : 1 + len(column.atoms)])


def judge_categories(column: Discrete, x: Cells, chances: Float64[Tensor, "b k"]) -> tuple[Cells, Cells, Cells]:
    """The probability of all values that are at most as probable as the cell's, and twice the most probable value."""
    code = column.encode(x).long().clamp(0, len(column.values) - 1)
    p_value = chances.where(chances <= chances.gather(1, code[:, None]), 0.0).sum(1)
    most_probable = column.decode(chances.argmax(1).double())
    return p_value, most_probable, most_probable


def judge_numbers(
    flow: "Flow", column: Number, x: Cells, chances: Float64[Tensor, "b a"]
) -> tuple[Cells, Cells, Cells]:
    """Twice the probability of numbers at least as low, or as high; and the 5 % and the 95 % quantile.

    ``chances``: of a number on the line and of each atom.
    """
    line, of_atoms = chances[:, :1], chances[:, 1:]
    atoms = tensor(column.atoms).expand(len(x), -1)
    places_in_cell = (0.0, 1.0) if column.step else (0.5,)
    z = torch.stack([column.on_line(x, place) for place in places_in_cell], 1)
    noise = flow.to_noise(z.nan_to_num(nan=-FAR).clamp(-FAR, FAR))  # the logarithm of what isn't positive is NaN
    low_end, high_end = noise[:, 0], noise[:, -1]
    at_most = line[:, 0] * normal_cdf(high_end) + (of_atoms * (atoms <= x[:, None])).sum(1)
    at_least = line[:, 0] * normal_cdf(-low_end) + (of_atoms * (atoms >= x[:, None])).sum(1)
    p_value = 2 * torch.minimum(at_most, at_least)

    levels = torch.linspace(LOW, HIGH, QUANTILES if column.atoms else 2, dtype=torch.float64)
    quantiles = flow.from_noise(torch.special.ndtri(levels).expand(len(x), -1))
    numbers = column.inverse(quantiles.flatten()).view(quantiles.shape)
    values, order = torch.cat([numbers, atoms], 1).sort(1)
    shares = torch.cat([line.expand(numbers.shape) / len(levels), of_atoms], 1).gather(1, order).cumsum(1)
    low, high = (values.gather(1, (shares < level - 1e-9).sum(1, keepdim=True))[:, 0] for level in (LOW, HIGH))
    return p_value, low, high


def normal_cdf(x: Cells) -> Cells:
    """The distribution function of the standard normal; unlike ``ndtr``'s, tails are precise."""
    cdf: Cells = torch.special.log_ndtr(x).exp()
    return cdf


class Flow:
    """The probability flow of the number at ``place``, given the rest of each row of ``z``, (b, e)."""

    def __init__(self, run: "TableRun", z: Float[Tensor, "b e"], place: int) -> None:
        model = run.conditionals
        target = torch.zeros_like(z[:, : model.d], dtype=torch.bool)
        target[:, place] = True
        condition = model.condition(model.given(z, target))

        def score(x: Float[Tensor, "m 1"], sigma: Sigma, /) -> Float[Tensor, "m 1"]:
            rows = z[:, : model.d].nan_to_num().repeat_interleave(len(x) // len(z), 0)
            rows[:, place] = x[:, 0]
            return model.numbers(rows, sigma, condition)[:, place, None]

        self.score, self.device = score, z.device
        self.sigmas = run.recipe.sampling.but(sampler="heun", levels=LEVELS, guidance=1.0).ladder().to(z)
        self.mean = tweedie(score, model.mean[place].expand(len(z), 1), float(self.sigmas[0]))

    def to_noise(self, x: Float64[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
        """Where points end, in standard deviations of the noise."""
        noise = self.follow(x.float().to(self.device), self.sigmas.flip(0))
        return ((noise - self.mean) / self.sigmas[0]).cpu().double()

    def from_noise(self, noise: Float64[Tensor, "b n"]) -> Float64[Tensor, "b n"]:
        """Where points come from; the inverse of ``to_noise``."""
        start = self.mean + self.sigmas[0] * noise.float().to(self.device)
        return self.follow(start, self.sigmas).cpu().double()

    def follow(self, x: Float[Tensor, "b n"], sigmas: Float[Tensor, "levels"]) -> Float[Tensor, "b n"]:
        points = x.reshape(-1, 1)
        for sigma, following in pairwise(sigmas):
            points = heun_step(self.score, points, sigma, following)
        return points.view(x.shape)


def describe_expected(
    run: "TableRun", column: AnyColumn, low: Float64[np.ndarray, "b"], high: Float64[np.ndarray, "b"]
) -> Shaped[np.ndarray, "b"]:
    """The most probable value, or the expected range in words."""
    if isinstance(column, Discrete):
        return np.array(decode(column, low, run.columns.field(column)), object)
    digits = ".15g" if column.step or column.date else ".4g"
    ranges = [" to ".join(column.say(float(f"{end:{digits}}")) for end in ends) for ends in zip(low, high, strict=True)]
    return np.array(ranges, object)
