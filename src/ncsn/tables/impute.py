"""Imputing the missing values of a table, conditioning on given ones, and how well draws cover hidden values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ncsn.data import Imputed, UserData, Values
from ncsn.machine.messages import bar, log
from ncsn.metrics import Trials, rank
from ncsn.run.folder import Recipe
from ncsn.run.run import Run, announce_rejected, draw_allowed, generator_of
from ncsn.settings import TABLES
from ncsn.tables.columns import AnyColumn, Columns, Discrete, columns_of, name_of
from ncsn.tables.frames import cells_by_name, decode, fill, frame_of, numbers_of, write_frames
from ncsn.conditionals import ConditionalModel, Given
from ncsn.tables.read import clean_cells, decimal_mark, read_frame, zone_of
from ncsn.validation import counted, one_line

if TYPE_CHECKING:
    import pandas


def conditional_model(run: Run) -> ConditionalModel:
    """The run's score, if it is a conditional model.  Raises ValueError if it isn't."""
    if not isinstance(run.score, ConditionalModel):
        advice = "with ncsn's own network; run.posterior works with any score"
        raise ValueError(f"conditional sampling needs a run that fit has trained on a table {advice}")
    return run.score


def complete_run(run: Run) -> Run:
    """The run whose samples have no missing cells."""
    score = run.score
    if isinstance(score, ConditionalModel):
        score = Given(score, score.nothing_known(1), [*range(len(score.order))], complete=True)
    elif isinstance(score, Given):
        score = Given(score.model, score.row, score.kept, complete=True)
    return replace(run, score=score)


def given_cells(run: Run, given: Values) -> Float64[Tensor, "1 d"]:
    """A row with the given values, and NaN elsewhere, in the user's units.

    Raises ValueError for values and columns that the run doesn't know, and if no column is left to draw.
    """
    import pandas

    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"given is {one_line(repr(given))}; expected values of some columns, such as {{'sex': 'F'}}")
    columns, names = columns_of(run.transform, run.recipe.shape[0]), {*map(name_of, given)}
    if unknown := [str(name) for name in given if name_of(name) not in columns.names]:
        raise ValueError(f"given names {', '.join(unknown)}, but the run has {one_line(', '.join(columns.names))}")
    x = numbers_of(pandas.DataFrame({name: [value] for name, value in given.items()}), columns)
    for column, cell in zip(columns.columns, x.T, strict=True):
        if column.name in names and bool(cell.isnan()):
            raise ValueError(f"given has a missing value for {column.name}; leave it out to draw it")
        field = columns.field(column)
        whole = column.name in names and pandas.api.types.pandas_dtype(field.dtype or "O").kind in "iu"
        if whole and float(decode(column, cell.numpy(), field)[0]) != float(cell):
            raise ValueError(f"given has {float(cell):g} for {column.name}, which its dtype cannot hold")
    if not bool(x.isnan().any()):
        raise ValueError("given has a value for every column; leave out those to draw")
    return x


def conditional_run(run: Run, given: Values) -> Run:
    """The run of the other columns given values of some; see ``Run.sample``."""
    x, model, columns = given_cells(run, given), conditional_model(run), columns_of(run.transform, *run.recipe.shape)
    others = x[0].isnan()
    kept = [place for place, i in enumerate([*columns.numbers, *columns.coded]) if others[i]]
    transform = select(columns, others)
    recipe = Recipe(network="none", arguments={}, shape=(len(kept),), sampling=run.recipe.sampling, transform=transform)
    score = Given(model, run.transform.forward(x).float().to(run.device), kept, complete=False)
    whole = run.log_prior
    prior = None if whole is None else lambda rest: whole(insert_rest(x, rest))
    return Run(score=score, recipe=recipe, device=run.device, log_prior=prior)


def select(columns: Columns, chosen: Bool[Tensor, "d"]) -> Columns:
    """Some of the columns."""
    some = tuple(compress(columns.columns, chosen.tolist()))
    names = [column.name for column in some]
    fields = tuple(field for field in columns.fields if field.name in names)
    return replace(columns, columns=some, fields=fields, never=())  # never is of whole rows


def insert_rest(row: Float64[Tensor, "1 d"], rest: Float[Tensor, "n k"]) -> Float64[Tensor, "n d"]:
    """A row, repeated, with the numbers that it lacks."""
    rows = row.repeat(len(rest), 1)
    rows[:, row[0].isnan()] = rest.to(rows)
    return rows


def insert_given(run: Run, samples: UserData, given: Values) -> UserData:
    """Samples of the other columns with the given values, as rows like those of training."""
    import pandas

    x, columns = given_cells(run, given), columns_of(run.transform, run.recipe.shape[0])
    framed = hasattr(samples, "columns")
    rows = insert_rest(x, numbers_of(samples, columns, "skip")[:, x[0].isnan()] if framed else samples)
    announce_guesses(columns, rows, rows.isnan().any().logical_not().expand(rows.shape))
    if not framed:
        return rows.to(samples)
    frame = frame_of(columns, rows.numpy())
    labels = {name_of(label): label for label in frame}
    for name, value in given.items():
        label = labels[name_of(name)]
        if (dtype := frame[label].dtype).kind == "M":  # decoded dates are rounded to seconds
            date = pandas.Timestamp(value)
            date = date.tz_convert(None) if date.tz and not zone_of(dtype) else date
            frame[label] = pandas.Series([date] * len(frame)).astype(dtype)
    return frame


# With 25 levels from 0.4 σ_max down, draws from a Gaussian's conditionals are up to 3 % too wide.  From σ_max itself
# that would take 30 levels; with 12 they are 9 % too wide.
LEVELS, TOP = 25, 0.4
DRAWS_AT_ONCE = 2**10  # rows whose activations fit into a processor's cache
SHOWN = 5  # columns that a line lists
LEFT = "the run doesn't know them, or their rows were skipped"
HIDDEN, DRAWS = 200, 20  # values hidden to measure coverage, and draws of each
INSIDE = (DRAWS - 1) / (DRAWS + 1)  # the share of them within the range of exact draws


def draw_rows(
    run: Run, z: Float[Tensor, "b e"], n: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n b e"], float]:
    """``n`` draws of each row of ``z`` given what is known of it (the rest is NaN), in the model's units.

    Also returns n b over the share of draws that the prior allowed.
    """
    own = run.recipe.sampling
    top = max(TOP * own.sigma_max, min(own.sigma_max, 2 * own.sigma_min))
    # Rows of which nothing is known are samples.
    known = own.but(sampler="dpmpp-sde", levels=LEVELS, sigma_max=top, guidance=1.0)
    sampling = own if bool(z.isnan().all()) else known
    rows = z.repeat_interleave(n, 0)

    def draw(places: Int64[Tensor, "m"]) -> Float[Tensor, "m e"]:
        *_, last = conditional_model(run).fill(rows[places], sampling, generator, complete=True)
        return last.x

    drawn, tried = draw_allowed(run, len(rows), draw)
    return drawn.view(len(z), n, -1).transpose(0, 1), tried


@torch.no_grad()
def impute_rows(
    run: Run, x: Float64[Tensor, "b d"], n: int, generator: torch.Generator, *, skip: bool = False
) -> Imputed:
    """``n`` draws of the missing cells of each row.  Impossible numbers are kept, but not conditioned on.

    ``skip``: don't impute rows with impossible numbers, so that their gaps stay NaN.
    """
    conditional_model(run)
    possible, missing = run.transform.possible(x), x.isnan()
    z = run.transform.forward(x.masked_fill(~possible, torch.nan)).float()
    empty = z.isnan().all(1)
    draws, wanted = x.repeat(n, 1, 1), missing.any(1) & (possible.all(1) if skip else True)
    # Rows with known values first, then empty ones.
    parts = [
        part
        for rows in (wanted & ~empty, wanted & empty)
        for part in torch.split(rows.nonzero()[:, 0], max(1, DRAWS_AT_ONCE // n))
        if len(part)
    ]
    needed = 0.0
    for part in bar(parts, f"{len(x)} rows"):
        drawn, tried = draw_rows(run, z[part].to(run.device), n, generator)
        needed += tried
        rows = run.transform.inverse(drawn.flatten(0, 1)).view(n, len(part), -1)
        draws[:, part] = torch.where(missing[part], rows.to(draws), draws[:, part])
    announce_rejected(n * sum(map(len, parts)), needed)
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


def cell_coverage(run: Run, x: Float64[Tensor, "b d"]) -> dict[str, float]:
    """Hide up to 200 known values, one at a time, and compare them with draws.

    ``coverage``: the share that lies within the range of its draws; ``coverage_of``: how many.
    ``right``: the share of draws of ``discrete`` columns that equal the hidden value; ``confidence``: that of pairs of
    draws that agree, which is the same on average if the draws are right; ``right_of``: how many values.

    ``x``: rows that were not used for training, in the user's units, (b, d); NaN is missing.  Empty if nothing can be
    hidden.
    """
    places = (((~x.isnan()).sum(1) > 1)[:, None] & ~x.isnan()).nonzero()
    if not len(places):
        return {}
    generator = torch.Generator().manual_seed(0)
    rows, columns = places[torch.randperm(len(places), generator=generator)[:HIDDEN]].T
    truth, hidden = x[rows], torch.arange(x.shape[1]) == columns[:, None]
    draws = run.impute(truth.masked_fill(hidden, torch.nan), DRAWS, unseen="missing").draws
    u = rank(Trials(truth, draws, hidden), generator)["number"]
    found = {"coverage": float(((2 * u - 1).abs() <= INSIDE).double().mean()), "coverage_of": float(len(u))}
    discrete = [is_discrete(column) for column in columns_of(run.transform, x.shape[1]).columns]
    if (chosen := torch.tensor(discrete)[columns]).any():
        each, right = draws[:, hidden][:, chosen], truth[hidden][chosen]
        agree = (each[:, None] == each).double().mean((0, 1))
        agree = (len(each) * agree - 1) / (len(each) - 1)  # not with themselves
        found |= {"right": float((each == right).double().mean()), "confidence": float(agree.mean())}
        found["right_of"] = float(len(right))
    return found


def describe_coverage(measured: Mapping[str, float]) -> list[str]:
    """What ``cell_coverage`` measured, in words."""
    lines = []
    if "coverage" in measured:
        share = f"{measured['coverage']:.0%} of {measured['coverage_of']:.0f} hidden values"
        lines.append(f"held-out rows: the range of {DRAWS} draws covered {share}; {INSIDE:.0%} is expected")
    if "right" in measured:
        share = f"{measured['right']:.0%} of the draws of {measured['right_of']:.0f} hidden categories were right"
        lines.append(f"{share}; {measured['confidence']:.0%} is expected, judging by how often draws agree")
    return lines


def is_discrete(column: AnyColumn) -> bool:
    """Whether a column's best guess is the most frequent draw: text, and columns of two values."""
    return isinstance(column, Discrete) and (bool(column.categories) or len(column.values) == 2)


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

    def __repr__(self) -> str:
        """What was imputed, and what wasn't."""
        counts = {name: int(n) for name, n in zip(self.columns.names, self.drawn.sum(0), strict=True) if n}
        rows = f"{counted(len(self.source), 'row')}, {counted(int(self.drawn.sum()), 'missing cell')}"
        lines = [f"ImputedTable: {rows} imputed with {counted(len(self.draws), 'draw')} each"]
        lines += [f"imputed: {describe(counts)}"] if counts else []
        lines += [f"left with missing cells: {describe(self.left)}"] if self.left else []
        return "\n".join([*lines, "frame() has the best guesses, frames() the draws; spread(), interval()"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>{self.frame().to_html(max_rows=10, max_cols=20, notebook=True)}"

    @property
    def left(self) -> dict[str, int]:
        """How many cells of each column are still missing: the run doesn't know it, or rows were skipped."""
        left = dict(zip(self.columns.names, (self.missing & ~self.drawn).sum(0).tolist(), strict=True))
        left |= {
            name: int(clean_cells(self.source[self.labels[name]]).isna().sum()) for name in self.labels.keys() - left
        }
        return {name: left[name] for name in self.labels if left[name]}

    @property
    def drawn(self) -> Bool[Tensor, "b d"]:
        """Which values were imputed: all missing ones, except in rows that were skipped."""
        return self.missing & ~self.draws[0].isnan()

    @cached_property
    def labels(self) -> dict[str, object]:
        """The labels of the DataFrame's columns, by name."""
        return {name_of(label): label for label in self.source.columns}

    @cached_property
    def marks(self) -> dict[int, str]:
        """The decimal mark of each column of numbers in text; columns without one follow the others."""
        from pandas.api.types import infer_dtype

        marks = dict[int, str | None]()
        for i, column in enumerate(self.columns.columns):
            cells = self.source[self.labels[column.name]]
            if not (column.categories or column.date) and infer_dtype(cells, skipna=True) in ("string", "empty"):
                marks[i] = decimal_mark(cells)
        return {i: mark or usual_mark(marks) for i, mark in marks.items()}

    def complete(self, numbers: Float64[Tensor, "b d"]) -> "pandas.DataFrame":
        """The DataFrame with numbers filled into its gaps."""
        frame, drawn = self.source.copy(), self.drawn.numpy()
        for i in drawn.any(0).nonzero()[0].tolist():
            column, cells = self.columns.columns[i], drawn[:, i].nonzero()[0]
            label, field = self.labels[column.name], self.columns.field(column)
            filled = fill(frame[label], cells, column, numbers[:, i].numpy()[cells], field)
            if self.marks.get(i) == ",":
                filled = filled.astype(object)
                filled.iloc[cells] = with_commas(filled.iloc[cells]).to_numpy()
                filled = filled.astype(self.source[label].dtype)
            frame[label] = filled
        return frame

    def table(self, numbers: Float64[Tensor, "b d"], *, decoded: bool) -> "pandas.DataFrame":
        """Numbers of the run's columns as a DataFrame; if ``decoded``, with dates as dates and without categories."""
        import pandas

        parts = {}
        for column, each in zip(self.columns.columns, numbers.T.numpy(), strict=True):
            if not (decoded and column.categories):
                dates = decoded and column.date
                parts[self.labels[column.name]] = decode(column, each, self.columns.field(column)) if dates else each
        return pandas.DataFrame(parts).set_axis(self.source.index)


def impute_frame(
    run: Run, frame: "pandas.DataFrame", x: Float64[Tensor, "b d"], n: int, generator: torch.Generator, *, skip: bool
) -> ImputedTable:
    """Impute a DataFrame; ``x``: its cells as numbers."""
    import pandas

    columns = columns_of(run.transform, x.shape[1])
    imputed = impute_rows(run, x, n, generator, skip=skip)
    there = {*map(name_of, frame.columns)}
    labels = [columns.field(column).label for column in columns.columns]
    absent = [label for label, column in zip(labels, columns.columns, strict=True) if column.name not in there]
    added = pandas.DataFrame(None, frame.index, pandas.Index(absent, dtype=object), dtype=object)
    source = pandas.concat([frame, added], axis=1) if absent else frame
    filled = ImputedTable(imputed.observed, imputed.draws, imputed.point, imputed.variation, columns, source)
    if left := filled.left:
        log.info(f"columns left with missing cells: {describe(left)}; {LEFT}")
    announce_guesses(columns, imputed.draws[0], filled.drawn)
    return filled


def describe(counts: Mapping[str, int]) -> str:
    """The first columns with their counts."""
    listed = [f"{name} ({count:,})" for name, count in [*counts.items()][:SHOWN]]
    return ", ".join([*listed, "…"] if len(counts) > SHOWN else listed)


def announce_guesses(columns: Columns, x: Float[Tensor, "b d"], drawn: Bool[Tensor, "b d"]) -> None:
    """Say in one line which cells are drawn where training has never observed their column."""
    place = {name: i for i, name in enumerate(columns.names)}
    found = [
        f"{name} was never observed where {other} is {columns.columns[place[other]].say(value)}"
        for name, other, value in columns.never
        if {name, other} <= place.keys() and bool((drawn[:, place[name]] & (x[:, place[other]] == value)).any())
    ]
    if found:
        more = f" (also {counted(len(found) - 1, 'other pair')} of columns)" if len(found) > 1 else ""
        log.warning(f"{found[0]}: its imputations are guesses{more}")


def impute_table(run: Run, rows: Path, n: int, seed: int, out: Path, draws: Path | None) -> list[str]:
    """Impute a file's missing cells; observed cells are written unchanged.  Returns a summary in lines.

    For every column with gaps, columns with the standard deviation (sd) or share and with the draws are appended.
    ``draws``: a second table, with every draw of each row with gaps as a complete row, and the numbers of row and draw.
    """
    import pandas

    for path in (out, draws or out):
        if path.suffix not in TABLES:
            raise ValueError(f"{path}: rows can be written to {', '.join(TABLES)}")
    given, columns = read_frame(rows), columns_of(run.transform, run.recipe.shape[0])
    frame = given.reset_index(drop=True)
    if draws is not None and (double := {"row", "draw"} & {*frame.columns}):
        raise ValueError(f"{rows} has a column {min(double)!r}, a name that {draws} needs for its own; rename it")
    x = numbers_of(frame, columns, "skip")
    try:
        columns.check(x, cells_by_name(frame))
    except ValueError as error:
        left = int((~columns.possible(x)).any(1).sum())
        log.warning(f"{error}; rows with such values are not imputed ({left:,} of {len(x):,})")
    imputed = impute_frame(run, frame, x, n, generator_of(seed, run.device), skip=True)
    drawn = imputed.drawn.numpy()
    parts = [imputed.frame()]
    for i in drawn.any(0).nonzero()[0].tolist():
        column, cells = columns.columns[i], drawn[:, i].nonzero()[0]
        what = "share" if is_discrete(column) else "sd"
        spread = pandas.Series(imputed.variation[cells, i].numpy(), cells, name=f"{column.name} {what}")
        made = [
            decode(column, numbers[cells], columns.field(column)).set_axis(cells).rename(f"{column.name} draw {k}")
            for k, numbers in enumerate(imputed.draws[:, :, i].numpy(), 1)
        ]
        marks = imputed.marks if given.attrs and out.suffix != ".parquet" else {}
        parts.append(with_commas(spread) if marks.get(i, usual_mark(marks)) == "," else spread)
        parts += [with_commas(part) if marks.get(i) == "," else part for part in made]
    if double := {part.name for part in parts[1:]} & {*parts[0].columns}:
        raise ValueError(f"{rows} has a column {min(double)!r}, a name that {out} needs for its own columns; rename it")
    frames = imputed.frames() if draws is not None else []
    filled = {imputed.labels[columns.names[i]] for i in drawn.any(0).nonzero()[0].tolist()}
    kept = [name for name in frame.columns if name not in filled]
    written = [(pandas.concat(parts, axis=1).set_axis(given.index), out, form_of(given, rows, out, kept))]
    if draws is not None:
        gaps = drawn.any(1).nonzero()[0]
        whole = pandas.concat([frame.iloc[gaps] for frame in frames], keys=range(1, n + 1), names=["draw", "row"])
        whole = whole.sort_index(level="row", sort_remaining=False, kind="stable")
        for place, name, first in ((0, "row", 1), (1, "draw", 0)):
            whole.insert(place, name, whole.index.get_level_values(name) + first)
        written.append((whole.reset_index(drop=True), draws, form_of(given, rows, draws, [])))
    write_frames(written)
    lines = [f"{out}: {counted(int(drawn.sum()), 'missing value')} filled in"]
    return lines + describe_coverage(run.measured)


def form_of(given: "pandas.DataFrame", rows: Path, out: Path, kept: Sequence[str]) -> dict[str, Any]:
    """How to write a table like the file that was read, whose delimiter is only for files of the same suffix.

    ``kept``: the columns whose types and cells in a .parquet stay what they are, even where pandas has no such type.
    """
    alike = out.suffix == rows.suffix.lower()
    if out.suffix != ".parquet":
        return {name: value for name, value in given.attrs.items() if name != "sep" or alike}
    if not (alike and kept):
        return {}
    from pyarrow import parquet

    table = parquet.read_table(rows)
    return {name: table[name] for name in table.column_names if name in kept}


def usual_mark(marks: Mapping[int, str | None]) -> str:
    """The decimal mark of columns without one: a comma if any column has it."""
    return "," if "," in marks.values() else "."


def with_commas(numbers: "pandas.Series") -> "pandas.Series":
    """Numbers as text with a decimal comma."""
    return numbers.map(lambda number: str(number).replace(".", ","), na_action="ignore")
