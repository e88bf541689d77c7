"""Completed tables: the draws of a DataFrame's missing cells as DataFrames and files, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ncsn.data.columns import AnyColumn, Columns, Discrete, Number, columns_of, name_of
from ncsn.machine.messages import log
from ncsn.run.imputation import Imputed
from ncsn.tables.frames import decode, fill
from ncsn.tables.read import clean_cells, decimal_mark
from ncsn.validation import counted

if TYPE_CHECKING:
    import pandas


SHOWN = 5  # columns that a line lists
LEFT = "the run doesn't know them, or their rows were skipped"
HIDDEN, DRAWS = 200, 20  # values hidden to measure coverage, and draws of each
INSIDE = (DRAWS - 1) / (DRAWS + 1)  # the share of them within the range of exact draws


def describe_coverage(measured: Mapping[str, float]) -> list[str]:
    """What ``TableRun.measure_coverage`` measured, in words."""
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

    ``source``: the DataFrame with gaps, including added columns.
    """

    source: "pandas.DataFrame"

    @cached_property
    def columns(self) -> Columns:
        """The run's columns; the tensors have the same order."""
        return columns_of(self.run.transform, self.observed.shape[1])

    def frame(self) -> "pandas.DataFrame":
        """The DataFrame with the best guesses filled in.

        Guesses have no more decimals than their column; in columns of whole numbers, they have some unless the dtype is
        an integer.
        """
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
        counts = dict(zip(self.columns.names, (self.missing & ~self.drawn).sum(0).tolist(), strict=True))
        for name in self.labels.keys() - counts:
            counts[name] = int(clean_cells(self.source[self.labels[name]]).isna().sum())
        return {name: counts[name] for name in self.labels if counts[name]}

    @property
    def guesses(self) -> list[str]:
        """Which values were imputed where training has never observed their column, in words."""
        return guesses_in(self.columns, self.draws[0], self.drawn)

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
        frame = self.source.copy()
        for i, places in self._filled_places():
            column, label = self.columns.columns[i], self.labels[self.columns.names[i]]
            values = numbers[:, i].numpy()[places]
            if isinstance(column, Number) and column.decimals:
                values = values.round(column.decimals)
            filled = fill(frame[label], places, column, values, self.columns.field(column))
            if self.marks.get(i) == ",":
                filled = filled.astype(object)
                filled.iloc[places] = with_commas(filled.iloc[places]).to_numpy()
                filled = filled.astype(self.source[label].dtype)
            frame[label] = filled
        return frame

    def _filled_places(self) -> list[tuple[int, Int[np.ndarray, "m"]]]:
        """The columns in which cells were imputed, and the rows of these cells; all columns if there are no rows."""
        drawn = self.drawn.numpy()
        filled = drawn.any(0) | (len(drawn) == 0)  # columns without rows have dtypes, too
        return [(i, drawn[:, i].nonzero()[0]) for i in filled.nonzero()[0].tolist()]

    def table(self, numbers: Float64[Tensor, "b d"], *, decoded: bool) -> "pandas.DataFrame":
        """Numbers of the run's columns as a DataFrame; if ``decoded``, with dates as dates and without categories."""
        import pandas

        cells = dict[object, object]()
        for column, values in zip(self.columns.columns, numbers.T.numpy(), strict=True):
            label = self.labels[column.name]
            if not decoded or not (column.categories or column.date):
                cells[label] = values
            elif column.date:
                cells[label] = decode(column, values, self.columns.field(column))
        return pandas.DataFrame(cells).set_axis(self.source.index)

    def table_for_file(self, filled: Sequence[int], *, text: bool) -> "pandas.DataFrame":
        """The completed rows, then the spread and the draws of columns.

        ``filled``: the places of these columns, some of which may have no gap in these rows.
        ``text``: whether numbers have the decimal marks of their columns, as text files need them.
        """
        import pandas

        marks, drawn = self.marks if text else {}, self.drawn.numpy()
        added = list["pandas.Series"]()
        for i in filled:
            places = drawn[:, i].nonzero()[0]
            column, field = self.columns.columns[i], self.columns.field(self.columns.columns[i])
            name, *names = added_names(column, len(self.draws))
            spread = pandas.Series(self.variation[places, i].numpy(), places, name=name)
            added.append(with_commas(spread) if marks.get(i, usual_mark(marks)) == "," else spread)
            for name, numbers in zip(names, self.draws[:, :, i].numpy(), strict=True):
                draw = decode(column, numbers[places], field).set_axis(places).rename(name)
                added.append(with_commas(draw) if marks.get(i) == "," else draw)
        return pandas.concat([self.frame(), *added], axis=1)

    def table_of_draws(self, first: int = 0) -> "pandas.DataFrame":
        """Every draw of each row with gaps as a complete row; draws and rows are counted.

        ``first``: the number of rows before these.
        """
        import pandas

        gaps = self.drawn.any(1).numpy().nonzero()[0]
        draws = [frame.iloc[gaps] for frame in self.frames()]
        table = pandas.concat(draws, keys=range(1, len(draws) + 1), names=["draw", "row"])
        table = table.sort_index(level="row", sort_remaining=False, kind="stable")
        table.insert(0, "row", table.index.get_level_values("row") + first + 1)
        table.insert(1, "draw", table.index.get_level_values("draw"))
        return table.reset_index(drop=True)


def added_names(column: AnyColumn, n: int) -> list[str]:
    """What the columns with the spread and with each of ``n`` draws of a column are called in a file."""
    what = "share" if is_discrete(column) else "sd"
    return [f"{column.name} {what}", *(f"{column.name} draw {k}" for k in range(1, n + 1))]


def describe(counts: Mapping[str, int]) -> str:
    """The first columns and their counts, in words."""
    listed = [f"{name} ({count:,})" for name, count in [*counts.items()][:SHOWN]]
    return ", ".join([*listed, "…"] if len(counts) > SHOWN else listed)


def announce_left(left: Mapping[str, int]) -> None:
    """Say in one line which columns still have missing cells, and how many."""
    if left:
        log.info(f"columns left with missing cells: {describe(left)}; {LEFT}")


def guesses_in(columns: Columns, x: Float[Tensor, "b d"], drawn: Bool[Tensor, "b d"]) -> list[str]:
    """Which cells are drawn where training has never observed their column, a text for each pair of columns."""
    index = {name: i for i, name in enumerate(columns.names)}
    return [
        f"{name} was never observed where {other} is {columns.columns[index[other]].say(value)}"
        for name, other, value in columns.never
        if {name, other} <= index.keys() and bool((drawn[:, index[name]] & (x[:, index[other]] == value)).any())
    ]


def announce_guesses(guesses: Sequence[str]) -> None:
    """Say in one line that cells are guesses."""
    if guesses:
        more = f" (also {counted(len(guesses) - 1, 'other pair')} of columns)" if len(guesses) > 1 else ""
        log.warning(f"{guesses[0]}: its imputations are guesses{more}")


def usual_mark(marks: Mapping[int, str | None]) -> str:
    """The decimal mark of columns without one: a comma if any column has it."""
    return "," if "," in marks.values() else "."


def with_commas(numbers: "pandas.Series") -> "pandas.Series":
    """Numbers as text with a decimal comma."""
    return numbers.map(lambda number: str(number).replace(".", ","), na_action="ignore")
