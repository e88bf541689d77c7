"""Imputing the missing values of a table by conditional sampling, and measuring how well draws cover hidden values."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ncsn.calibration import Trials, rank
from ncsn.kinds.kind import Imputed
from ncsn.kinds.tables.columns import AnyColumn, Columns, Listed, columns_of
from ncsn.kinds.tables.conditional import ABSENT, ConditionalModel
from ncsn.kinds.tables.frames import check, check_frame, decode, fill, name_of, numbers_of
from ncsn.kinds.tables.read import read_frame, write_frame
from ncsn.machine.messages import bar, log
from ncsn.run import Run, generator_of
from ncsn.samplers import NonFiniteSampleError
from ncsn.score import Sigma, tweedie
from ncsn.validation import counted

if TYPE_CHECKING:
    import pandas

# With 25 levels from 0.4 σ_max down, draws from a Gaussian's conditionals are up to 3 % too wide.  From σ_max itself
# that would take 30 levels; with 12 they are 9 % too wide.
LEVELS, TOP = 25, 0.4
DRAWS_AT_ONCE = 2**10  # rows whose activations fit into a processor's cache
HIDDEN, DRAWS = 200, 20  # values hidden to measure coverage, and draws of each
INSIDE = (DRAWS - 1) / (DRAWS + 1)  # the share of them within the range of exact draws


def conditional_model(run: Run) -> ConditionalModel:
    """The run's score, if it is a conditional model.  Raises ValueError if it isn't."""
    if not isinstance(run.score, ConditionalModel):
        advice = "with ncsn's own network; run.posterior works with any score"
        raise ValueError(f"conditional sampling needs a run that fit has trained on a table {advice}")
    return run.score


def draw_rows(run: Run, z: Float[Tensor, "b e"], n: int, generator: torch.Generator) -> Float[Tensor, "n b e"]:
    """``n`` draws of each row of ``z`` given its observed cells (the others are NaN), in the model's units."""
    model = conditional_model(run)
    condition, own = model.condition(z), run.recipe.sampling
    top = max(TOP * own.sigma_max, min(own.sigma_max, 2 * own.sigma_min))
    sampling = own.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)

    def score(x: Float[Tensor, "m d"], sigma: Sigma, /) -> Float[Tensor, "m d"]:
        value: Tensor = model(x, sigma, condition)
        return value

    # Start around each row's own mean, which is what pure noise is denoised to.
    means = tweedie(score, model.data_mean.expand(z.shape), sampling.sigma_max)
    x = sampling.start(means.repeat_interleave(n, 0), n * len(z), generator=generator)
    *_, last = sampling.follow(score, x, generator=generator)
    if not bool(last.x.isfinite().all()):
        raise NonFiniteSampleError(f"sampling missing values with {sampling.sampler} gave numbers that are not finite")
    return last.x.view(len(z), n, -1).transpose(0, 1)


@torch.no_grad()
def impute_rows(
    run: Run, x: Float64[Tensor, "b d"], n: int, generator: torch.Generator, *, skip: bool = False
) -> Imputed:
    """``n`` draws of the missing cells of each row.  Impossible numbers are kept, but not conditioned on.

    ``skip``: don't impute rows with impossible numbers, so that their gaps stay NaN.
    """
    columns, possible = columns_of(run.transform, x.shape[1]), run.transform.possible(x)
    z, missing = run.transform.forward(x, generator).float(), x.isnan()
    hidden = missing | ~possible
    # Values are assumed to be missing at random, so marks are absent; in rows without any known value they are 0.
    marks = run.transform.forward(torch.zeros_like(x[:1])).float()[:, x.shape[1] :]
    z = torch.cat([z[:, : x.shape[1]].masked_fill(hidden, torch.nan), marks.where(hidden.all(1)[:, None], ABSENT)], 1)
    empty = z.isnan().all(1)
    draws, wanted = x.repeat(n, 1, 1), missing.any(1) & (possible.all(1) if skip else True)
    # Rows with known values first, then empty ones.
    parts = [
        (is_empty, part)
        for is_empty, rows in ((False, wanted & ~empty), (True, wanted & empty))
        for part in torch.split(rows.nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n))
        if len(part)
    ]
    for is_empty, part in bar(parts, f"{len(x)} rows"):
        if is_empty:
            *_, last = run.steps(n * len(part), seed=generator).states
            drawn = last.x.view(n, len(part), -1)
        else:
            drawn = draw_rows(run, z[part].to(run.device), n, generator)
        rows = columns.without_marks(drawn.flatten(0, 1)).view(n, len(part), -1)
        draws[:, part] = torch.where(missing[part], rows.to(draws), draws[:, part])
    return summarise(run, x, draws)


def summarise(run: Run, x: Float64[Tensor, "b d"], draws: Float64[Tensor, "n b d"]) -> Imputed:
    """The mean and standard deviation of draws; the most frequent one and its share for text and two-valued columns."""
    point, spread = draws.mean(0), draws.std(0) if len(draws) > 1 else torch.full_like(x, torch.nan)
    for i, column in enumerate(columns_of(run.transform, x.shape[1]).columns):
        if is_discrete(column):
            point[:, i] = draws[:, :, i].mode(0).values
            spread[:, i] = (draws[:, :, i] == point[:, i]).double().mean(0)
        elif column.date and bool((draws[:, :, i].nan_to_num() % 1 == 0).all()):
            point[:, i] = point[:, i].round()  # whole days
    return Imputed(x, draws, torch.where(x.isnan(), point, x), spread)


def cell_coverage(run: Run, x: Float64[Tensor, "b d"]) -> tuple[int, float]:
    """Hide up to 200 known values, one at a time: how many, and the share that lies within the range of its draws.

    ``x``: rows that were not used for training, in the user's units, (b, d); NaN is missing.
    """
    places = (((~x.isnan()).sum(1) > 1)[:, None] & ~x.isnan()).nonzero()
    if not len(places):
        return 0, 1.0
    generator = torch.Generator().manual_seed(0)
    rows, columns = places[torch.randperm(len(places), generator=generator)[:HIDDEN]].T
    truth, hidden = x[rows], torch.arange(x.shape[1]) == columns[:, None]
    draws = run.impute(truth.masked_fill(hidden, torch.nan), DRAWS, unseen="missing").draws
    u = rank(Trials(truth, draws, hidden), generator)["number"]
    return len(u), float(((2 * u - 1).abs() <= INSIDE).double().mean())


def is_discrete(column: AnyColumn) -> bool:
    """Whether a column's best guess is the most frequent draw: text, and columns of two values."""
    return bool(column.categories) or (isinstance(column, Listed) and len(column.values) == 2)


@dataclass(frozen=True)
class ImputedTable(Imputed):
    """Draws of the missing values of a DataFrame, and completed DataFrames.

    Completed DataFrames keep the index, the observed cells, columns that the run doesn't know, and every dtype that can
    hold the imputed values.  Columns of the run that were absent are added at the end.

    ``columns``: the run's columns; the tensors have the same order.
    ``source``: the DataFrame with gaps, including added columns.
    """

    columns: Columns
    source: "pandas.DataFrame"

    def frame(self) -> "pandas.DataFrame":
        """The DataFrame with the best guesses filled in, rounded in columns with an integer dtype."""
        return self.complete(self.point)

    def frames(self, m: int | None = None) -> list["pandas.DataFrame"]:
        """A completed DataFrame for each of the first ``m`` draws (by default all), as Rubin's rules need them.

        Raises ValueError if there are fewer draws.
        """
        if m is not None and not 1 <= m <= len(self.draws):
            raise ValueError(f"m is {m}, but there are {len(self.draws)} draws; impute(rows, n) draws more")
        return [self.complete(draw) for draw in self.draws[:m]]

    def spread(self) -> "pandas.DataFrame":
        """The uncertainty of each guess: the standard deviation of the draws, or the share of draws that agree with it.

        In days for dates; NaN where nothing was imputed.
        """
        return self.table(self.variation.where(self.drawn, torch.nan), decoded=False)

    @property
    def ordered(self) -> Bool[Tensor, "d"]:
        return torch.tensor([not is_discrete(column) for column in self.columns.columns], device="cpu")

    def interval(
        self, level: float = 0.9, *, conformal: object = False
    ) -> tuple["pandas.DataFrame", "pandas.DataFrame"]:
        """Lower and upper ends of central intervals for columns of numbers and dates; see ``Imputed.interval``."""
        low, high = super().interval(level, conformal=conformal)
        return self.table(low, decoded=True), self.table(high, decoded=True)

    @property
    def drawn(self) -> Bool[Tensor, "b d"]:
        """Which values were imputed: all missing ones, except in rows that were skipped."""
        return self.missing & ~self.draws[0].isnan()

    def label(self, column: AnyColumn) -> object:
        """The label of a run's column in the DataFrame."""
        return next(label for label in self.source.columns if name_of(label) == column.name)

    def complete(self, numbers: Float64[Tensor, "b d"]) -> "pandas.DataFrame":
        """The DataFrame with numbers filled into its gaps."""
        frame, drawn = self.source.copy(), self.drawn.numpy()
        for i in drawn.any(0).nonzero()[0]:
            column, cells = self.columns.columns[i], drawn[:, i].nonzero()[0]
            label, field = self.label(column), self.columns.field(column)
            frame[label] = fill(frame[label], cells, column, numbers[:, i].numpy()[cells], field)
        return frame

    def table(self, numbers: Float64[Tensor, "b d"], *, decoded: bool) -> "pandas.DataFrame":
        """Numbers of the run's columns as a DataFrame; if ``decoded``, with dates as dates and without categories."""
        import pandas

        parts = {}
        for column, each in zip(self.columns.columns, numbers.T.numpy(), strict=True):
            if not (decoded and column.categories):
                dates = decoded and column.date
                parts[self.label(column)] = decode(column, each, self.columns.field(column)) if dates else each
        return pandas.DataFrame(parts).set_axis(self.source.index)


def impute_frame(
    run: Run, frame: "pandas.DataFrame", x: Float64[Tensor, "b d"], n: int, generator: torch.Generator, *, skip: bool
) -> ImputedTable:
    """Impute a DataFrame; ``x``: its cells as numbers."""
    columns = columns_of(run.transform, x.shape[1])
    imputed = impute_rows(run, x, n, generator, skip=skip)
    absent = [column for column in columns.columns if column.name not in {*map(name_of, frame.columns)}]
    source = frame.copy() if absent else frame
    for column in absent:
        source[getattr(columns.field(column), "label", column.name)] = None
    return ImputedTable(imputed.observed, imputed.draws, imputed.point, imputed.variation, columns, source)


def impute_table(run: Run, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
    """Impute a file's missing cells; observed cells are written unchanged.  Returns a summary in lines.

    For every column with gaps, columns with the standard deviation (sd) or share and with the draws are appended.
    ``draws``: a second table, with every draw of each row with gaps as a complete row, and the numbers of row and draw.
    """
    import pandas

    given, columns = read_frame(rows), columns_of(run.transform, run.recipe.shape[0])
    frame = given.reset_index(drop=True)
    check_frame(frame)
    x = numbers_of(frame, columns, "skip")
    try:
        check(x, frame, columns)
    except ValueError as error:
        left = int((~columns.possible(x)).any(1).sum())
        log.warning(f"{error}; rows with such values are not imputed ({left:,} of {len(x):,})")
    imputed = impute_frame(run, frame, x, n, generator_of(seed, run.device), skip=True)
    drawn = imputed.drawn.numpy()
    parts = [imputed.frame()]
    for i in drawn.any(0).nonzero()[0]:
        column, cells = columns.columns[i], drawn[:, i].nonzero()[0]
        what = "share" if is_discrete(column) else "sd"
        spread = pandas.Series(imputed.variation[cells, i].numpy(), cells, name=f"{column.name} {what}")
        made = [
            decode(column, numbers[cells], columns.field(column)).set_axis(cells).rename(f"{column.name} draw {k}")
            for k, numbers in enumerate(imputed.draws[:, :, i].numpy(), 1)
        ]
        parts += [spread, *made]
    if double := {part.name for part in parts[1:]} & {*parts[0].columns}:
        raise ValueError(f"{rows} has a column {min(double)!r}, a name that {out} needs for its own columns; rename it")
    write_frame(pandas.concat(parts, axis=1).set_axis(given.index), out)
    if draws is not None:
        gaps = drawn.any(1).nonzero()[0]
        whole = pandas.concat(
            [frame.iloc[gaps] for frame in imputed.frames()], keys=range(1, n + 1), names=["draw", "row"]
        )
        whole = whole.sort_index(level="row", sort_remaining=False, kind="stable")
        for place, name, first in ((0, "row", 1), (1, "draw", 0)):
            whole.insert(place, name, whole.index.get_level_values(name) + first, allow_duplicates=True)
        write_frame(whole.reset_index(drop=True), draws)
    lines = [f"{out}: {counted(int(drawn.sum()), 'missing value')} filled in"]
    if "coverage" in run.measured:
        share = f"{run.measured['coverage']:.0%} of {run.measured['coverage_of']:.0f} hidden values"
        lines.append(f"held-out rows: the range of {DRAWS} draws covered {share}; {INSIDE:.0%} is expected")
    return lines
