"""Drawing the missing values of a table by conditional sampling, and whether the draws hold what was hidden."""

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
from ncsn.kinds.tables.frames import check, decode, fill, name_of, numbers_of
from ncsn.kinds.tables.read import read_frame, write_frame
from ncsn.machine.messages import bar, log
from ncsn.run import Run, generator_of
from ncsn.samplers import NonFiniteSampleError
from ncsn.score import Sigma, tweedie

if TYPE_CHECKING:
    import pandas

# Draws of a Gaussian's conditionals are up to 3 % too wide with so many levels, from so much of σ_max down; with 12
# levels from σ_max 9 %, with 30 3 %.
LEVELS, TOP = 25, 0.4
DRAWS_AT_ONCE = 2**10  # rows whose activations fit a processor's cache
HIDDEN, DRAWS = 200, 20  # numbers that are hidden to measure coverage; draws of each
INSIDE = (DRAWS - 1) / (DRAWS + 1)  # the share of them that lies within exact draws


def conditional_model(run: Run) -> ConditionalModel:
    """The score of a run that knows conditionals.  Raises ValueError for another."""
    if not isinstance(run.score, ConditionalModel):
        needed = "impute needs a table that fit has learned with the package's network; run.posterior takes any score"
        raise ValueError(f"the run's score knows no conditionals; {needed}")
    return run.score


def draw_rows(run: Run, z: Float[Tensor, "b e"], n: int, generator: torch.Generator) -> Float[Tensor, "n b e"]:
    """``n`` draws of each row of ``z`` given its cells that are not NaN; all in the model's units."""
    model = conditional_model(run)
    condition, own = model.condition(z), run.recipe.sampling
    top = max(TOP * own.sigma_max, min(own.sigma_max, 2 * own.sigma_min))
    sampling = own.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)

    def score(x: Float[Tensor, "m d"], sigma: Sigma, /) -> Float[Tensor, "m d"]:
        value: Tensor = model(x, sigma, condition)
        return value

    # Around each row's own mean: what the score makes of nothing but noise.
    means = tweedie(score, model.data_mean.expand(z.shape), sampling.sigma_max)
    x = sampling.start(means.repeat_interleave(n, 0), n * len(z), generator=generator)
    *_, last = sampling.follow(score, x, generator=generator)
    if not bool(last.x.isfinite().all()):
        raise NonFiniteSampleError(f"draws of missing values are not finite, by {sampling.sampler}")
    return last.x.view(len(z), n, -1).transpose(0, 1)


@torch.no_grad()
def impute_rows(
    run: Run, x: Float64[Tensor, "b d"], n: int, generator: torch.Generator, *, skip: bool = False
) -> Imputed:
    """``n`` draws of the missing cells of each row; cells with impossible numbers stay, but say nothing about others.

    ``skip``: draw nothing for rows with impossible numbers, whose gaps then are NaN.
    """
    columns, possible = columns_of(run.transform, x.shape[1]), run.transform.possible(x)
    z, missing = run.transform.forward(x, generator).float(), x.isnan()
    hidden = missing | ~possible
    # Gaps are drawn as if they were missing at random, so marks have no say; where nothing is known, all are 0.
    marks = run.transform.forward(torch.zeros_like(x[:1])).float()[:, x.shape[1] :]
    z = torch.cat([z[:, : x.shape[1]].masked_fill(hidden, torch.nan), marks.where(hidden.all(1)[:, None], ABSENT)], 1)
    empty = z.isnan().all(1)
    draws, wanted = x.repeat(n, 1, 1), missing.any(1) & (possible.all(1) if skip else True)
    # Rows of gaps only, and all others.
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
    """The draws' means and standard deviations; of text and of two values the most frequent one, and its share."""
    point, spread = draws.mean(0), draws.std(0) if len(draws) > 1 else torch.full_like(x, torch.nan)
    for i, column in enumerate(columns_of(run.transform, x.shape[1]).columns):
        if is_discrete(column):
            point[:, i] = draws[:, :, i].mode(0).values
            spread[:, i] = (draws[:, :, i] == point[:, i]).double().mean(0)
        elif column.date and bool((draws[:, :, i].nan_to_num() % 1 == 0).all()):
            point[:, i] = point[:, i].round()  # whole days
    return Imputed(x, draws, torch.where(x.isnan(), point, x), spread)


def cell_coverage(run: Run, x: Float64[Tensor, "b d"]) -> tuple[int, float]:
    """Of up to 200 known numbers, each hidden in turn, how many there are, and the share within draws of them.

    ``x``: rows that training has not seen, in the user's units, (b, d); NaN is missing.
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
    """Whether a column's best guess is the value that most draws have: text, and one of two values."""
    return bool(column.categories) or (isinstance(column, Listed) and len(column.values) == 2)


@dataclass(frozen=True)
class ImputedTable(Imputed):
    """Draws of the missing values of a DataFrame, and DataFrames in which they are filled in.

    Its index, its other cells and columns that the run does not know are as they were; so are dtypes that can hold what
    is filled in.  Columns that were absent come last.

    ``columns``: those of the run, in whose order the tensors are.
    ``source``: the frame with gaps, and all columns.
    """

    columns: Columns
    source: "pandas.DataFrame"

    def frame(self) -> "pandas.DataFrame":
        """The frame with the best guesses filled in; a column of an integer dtype gets whole numbers."""
        return self.complete(self.point)

    def frames(self, m: int | None = None) -> list["pandas.DataFrame"]:
        """The first ``m`` draws, by default all, filled into a frame each, as Rubin's rules need them.

        Raises ValueError if there are fewer draws.
        """
        if m is not None and not 1 <= m <= len(self.draws):
            raise ValueError(f"m is {m}; there are {len(self.draws)} draws, impute(rows, m) makes more")
        return [self.complete(draw) for draw in self.draws[:m]]

    def spread(self) -> "pandas.DataFrame":
        """How sure each guess is: the draws' standard deviation, of dates in days, or the share of draws that have it.

        NaN where nothing was filled in.
        """
        return self.table(self.variation.where(self.drawn, torch.nan), decoded=False)

    @property
    def ordered(self) -> Bool[Tensor, "d"]:
        return torch.tensor([not is_discrete(column) for column in self.columns.columns], device="cpu")

    def interval(
        self, level: float = 0.9, *, conformal: object = False
    ) -> tuple["pandas.DataFrame", "pandas.DataFrame"]:
        """The ends of central intervals, see ``Imputed.interval``, of the columns of numbers and dates."""
        low, high = super().interval(level, conformal=conformal)
        return self.table(low, decoded=True), self.table(high, decoded=True)

    @property
    def drawn(self) -> Bool[Tensor, "b d"]:
        """Which values are filled in: what is missing, but for rows that were left out."""
        return self.missing & ~self.draws[0].isnan()

    def label(self, column: AnyColumn) -> object:
        """The label of a run's column in the frame."""
        return next(label for label in self.source.columns if name_of(label) == column.name)

    def complete(self, numbers: Float64[Tensor, "b d"]) -> "pandas.DataFrame":
        """The frame with numbers filled into its gaps."""
        frame, drawn = self.source.copy(), self.drawn.numpy()
        for i in drawn.any(0).nonzero()[0]:
            column, cells = self.columns.columns[i], drawn[:, i].nonzero()[0]
            label, field = self.label(column), self.columns.field(column)
            frame[label] = fill(frame[label], cells, column, numbers[:, i].numpy()[cells], field)
        return frame

    def table(self, numbers: Float64[Tensor, "b d"], *, decoded: bool) -> "pandas.DataFrame":
        """Numbers of the run's columns as a frame; if ``decoded``, dates as dates, and no categories."""
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
    """The same for a frame, of whose cells ``x`` has the numbers."""
    columns = columns_of(run.transform, x.shape[1])
    imputed = impute_rows(run, x, n, generator, skip=skip)
    absent = [column for column in columns.columns if column.name not in {*map(name_of, frame.columns)}]
    source = frame.copy() if absent else frame
    for column in absent:
        source[getattr(columns.field(column), "label", column.name)] = None
    return ImputedTable(imputed.observed, imputed.draws, imputed.point, imputed.variation, columns, source)


def impute_table(run: Run, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
    """Fill in a file's missing cells; what is there is written as it is.  Returns lines that say what was done.

    After the table's columns come, for every column with gaps, the standard deviations (sd) or shares of what was
    filled in, and the draws.  ``draws``: a second table, of whole rows: as many of each row with gaps as there are
    draws, with the numbers of the row and of the draw.
    """
    import pandas

    given, columns = read_frame(rows), columns_of(run.transform, run.recipe.shape[0])
    frame = given.reset_index(drop=True)
    x = numbers_of(frame, columns, "skip")
    try:
        check(x, frame, columns)
    except ValueError as error:
        left = int((~columns.possible(x)).any(1).sum())
        log.warning(f"{error}; {left} of {len(x)} rows are left as they are")
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
        raise ValueError(f"the table has a column {min(double)}, which is what {out} would call another; rename it")
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
    lines = [f"{out}: {int(drawn.sum())} missing values filled in"]
    if "coverage" in run.measured:
        share = f"{run.measured['coverage']:.0%} lay within {DRAWS} draws of them; {INSIDE:.0%} should"
        lines.append(f"of {run.measured['coverage_of']:.0f} numbers that training had not seen, {share}")
    return lines
