"""Files of rows, read, imputed and written in batches, so that a .parquet may be larger than memory."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ncsn.data.columns import AnyColumn, Columns, Number, name_of
from ncsn.machine.messages import bar, forecast, log, quieter
from ncsn.run.imputation import Imputed
from ncsn.settings import DELIMITERS
from ncsn.tables.frames import arrow_of, cells_by_name, numbers_of, table_writers
from ncsn.tables.imputed import ImputedTable, added_names, announce_guesses, announce_left, is_discrete
from ncsn.tables.read import check_frame, frame_of_arrow, read_frame
from ncsn.validation import opened_as

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from ncsn.tables.run import TableRun

NUMBERS_AT_ONCE = 2**21  # drawn numbers of a batch; results depend on it, so it doesn't depend on the memory there is
BUFFER = 2**16  # bytes of each column of a .parquet that are read at a time


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file.

    ``first``: the number of rows before them.
    ``given``: the rows as pandas reads them; ``arrow``: as Arrow does, None for text.
    """

    first: int
    given: "pandas.DataFrame"
    arrow: "pyarrow.Table | None" = None

    @property
    def frame(self) -> "pandas.DataFrame":
        """The rows without their index."""
        return self.given.reset_index(drop=True)

    @staticmethod
    def of(first: int, arrow: "pyarrow.Table") -> "Batch":
        """The rows of Arrow's table."""
        return Batch(first, frame_of_arrow(arrow), arrow)


@dataclass(frozen=True)
class TableFile:
    """A .csv, .tsv or .parquet with rows.

    ``rows``: how many.  ``names``: the columns.
    ``rows_at_once``: the rows of a batch.
    ``schema``: Arrow's types of a .parquet's columns; ``text``: the table in another file.
    """

    path: Path
    rows: int
    names: tuple[str, ...]
    rows_at_once: int
    schema: "pyarrow.Schema | None" = None
    text: "pandas.DataFrame | None" = None

    @staticmethod
    def of(path: Path, columns: Columns, n: int) -> "TableFile":
        """The file at a path, in batches for ``n`` draws of a run's ``columns``.  Raises ValueError as ``read_frame``.

        Numbers written as text can only be read all together, because 1,200 is another number where others are 1,5.
        """
        if path.suffix.lower() != ".parquet":
            text = read_frame(path)
            return TableFile(path, len(text), tuple(map(name_of, text.columns)), len(text), text=text)
        with opened_as("a table", path):
            import pyarrow
            from pyarrow import parquet

            with parquet.ParquetFile(path, buffer_size=BUFFER) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                start = pyarrow.Table.from_batches([*islice(file.iter_batches(1), 1)], schema)
            names = tuple(map(name_of, check_frame(frame_of_arrow(start)).columns))
        at_once = max(1, NUMBERS_AT_ONCE // (n * max(len(columns.names), len(names))))
        numbers = [column.name for column in columns.columns if not (column.categories or column.date)]
        texts = [name for name in numbers if name in schema.names and holds_text(schema.field(name).type)]
        if texts and rows > at_once:
            log.info(f"{path} is read as a whole, not in batches: numbers are written as text in {', '.join(texts)}")
            at_once = rows
        return TableFile(path, rows, names, at_once, schema=schema)

    def batches(self) -> Iterator[Batch]:
        """The rows in batches."""
        if self.text is not None:
            yield Batch(0, self.text)
            return
        import pyarrow
        from pyarrow import parquet

        first = 0
        with opened_as("a table", self.path), parquet.ParquetFile(self.path, buffer_size=BUFFER) as file:
            for rows in file.iter_batches(self.rows_at_once):
                batch = Batch.of(first, pyarrow.Table.from_batches([rows], self.schema))
                first += len(rows)
                yield batch


def holds_text(arrow: "pyarrow.DataType") -> bool:
    """Whether a type of Arrow's is text, or a dictionary of texts."""
    from pyarrow import types

    if types.is_dictionary(arrow):
        return holds_text(arrow.value_type)
    return any(is_text(arrow) for is_text in (types.is_string, types.is_large_string, types.is_string_view))


@dataclass
class Sample:
    """Rows of a .parquet that together have a gap and, if there is one, a value in each column.

    ``has_gap``, ``has_value``: which of the run's columns have one; ``with_nulls``: which columns of the file have one.
    """

    has_gap: Bool[Tensor, "d"]
    has_value: Bool[Tensor, "d"]
    with_nulls: set[str] = field(default_factory=set)
    tables: "list[pyarrow.Table]" = field(default_factory=list)

    def add(self, gaps: Bool[Tensor, "b d"], values: Bool[Tensor, "b d"], arrow: "pyarrow.Table | None") -> None:
        """Add those rows of a batch that have what all before lack; ``gaps``: the cells that will be imputed."""
        new_gaps, new_values = gaps.any(0) & ~self.has_gap, values.any(0) & ~self.has_value
        self.has_gap, self.has_value = self.has_gap | new_gaps, self.has_value | new_values
        if arrow is None:
            return
        rows = {*gaps.int().argmax(0)[new_gaps].tolist(), *values.int().argmax(0)[new_values].tolist()}
        for name, column in zip(arrow.column_names, arrow.columns, strict=True):
            if column.null_count and name not in self.with_nulls:
                self.with_nulls.add(name)
                rows.add(column.is_null().index(True).as_py())
        if rows:
            self.tables.append(arrow.take(sorted(rows)))


@dataclass(frozen=True)
class Survey:
    """What a first pass over a file shows.

    ``batches``: how many there are.
    ``filled``: the places of the run's columns in which cells will be imputed.
    ``samples``: tables of a few rows, see ``Sample``.
    """

    batches: int
    filled: tuple[int, ...]
    samples: "tuple[pyarrow.Table, ...]"


def survey(file: TableFile, columns: Columns) -> Survey:
    """Read all cells once, and say which rows have values that the run's columns can't have.

    Raises ValueError as ``numbers_of`` does.
    """
    complaint, skipped, count = "", 0, 0
    none = torch.zeros(len(columns.names), dtype=torch.bool, device="cpu")
    sample = Sample(none, none)
    with bar(name=f"reading {file.rows:,} rows", total=file.rows, unit="row") as progress:
        for count, batch in enumerate(file.batches(), 1):
            frame = batch.frame
            with quieter(logging.ERROR if count > 1 else logging.NOTSET):  # columns are the same in all batches
                x = numbers_of(frame, columns, "skip", first=batch.first)
            possible = columns.possible(x).all(1)
            skipped += int((~possible).sum())
            if not complaint:
                try:
                    columns.check(x, cells_by_name(frame), first=batch.first)
                except ValueError as error:
                    complaint = str(error)
            sample.add(x.isnan() & possible[:, None], ~x.isnan(), batch.arrow)
            progress.update(len(frame))
    if complaint:
        log.warning(f"{complaint}; rows with such values are not imputed ({skipped:,} of {file.rows:,})")
    return Survey(count, tuple(sample.has_gap.nonzero()[:, 0].tolist()), tuple(sample.tables))


def impute_file(run: "TableRun", rows: Path, n: int, generator: torch.Generator, out: Path, draws: Path | None) -> int:
    """Impute a file in batches, and write the completed rows and perhaps all draws.  Returns how many cells were drawn.

    Every batch is drawn with the same ``generator``, which goes on.
    Raises ValueError for a column that is called as one of those that are added.
    """
    columns = run.columns
    file = TableFile.of(rows, columns, n)
    if draws is not None and (taken := {"row", "draw"} & {*file.names}):
        raise ValueError(f"{rows} has a column {min(taken)!r}, a name that {draws} needs for its own; rename it")
    seen = survey(file, columns)
    added = {name for i in seen.filled for name in added_names(columns.columns[i], n)}
    if taken := added & {*file.names}:
        raise ValueError(f"{rows} has a column {min(taken)!r}, a name that {out} needs for its own columns; rename it")
    paths = [out] if draws is None else [out, draws]
    count, left, guesses, several = 0, Counter[str](), dict[str, None](), seen.batches > 1
    text = file.text is not None and out.suffix in DELIMITERS
    name = f"{file.rows:,} rows"
    with table_writers({path: form_of(file, path) for path in paths}) as writers:
        if several:
            import pyarrow

            sample = Batch.of(0, pyarrow.concat_tables(seen.samples))
            for writer, table in zip(writers, tables_of(pretend(run, sample, n), sample, seen.filled), strict=False):
                writer.schema = schema_of(arrow_of(*table), file.schema, {columns.names[i] for i in seen.filled})
        batches = forecast(file.batches(), seen.batches, name) if several else file.batches()
        # A single batch has a bar of its own.
        with bar(name=name, total=file.rows, unit="row") if several else nullcontext() as progress:
            for batch in batches:
                with quieter(logging.ERROR):
                    x = numbers_of(batch.frame, columns, "skip", first=batch.first)
                report = None if progress is None else progress.update
                imputed = run._table_of(run._impute(x, n, generator, skip=True, report=report), batch.frame)
                tables = tables_of(imputed, batch, seen.filled, text=text)
                for writer, table in zip(writers, tables, strict=False):
                    writer.write(*table)
                count += int(imputed.drawn.sum())
                left.update(imputed.left)
                guesses |= dict.fromkeys(imputed.guesses)
    announce_left(left)
    announce_guesses([*guesses])
    return count


def form_of(file: TableFile, path: Path) -> Mapping[str, Any]:
    """How to write text like the file that was read, whose delimiter is only for files of the same suffix."""
    if file.text is None or path.suffix not in DELIMITERS:
        return {}
    same_suffix = path.suffix == file.path.suffix.lower()
    return {name: value for name, value in file.text.attrs.items() if name != "sep" or same_suffix}


def tables_of(
    imputed: ImputedTable, batch: Batch, filled: Sequence[int], *, text: bool = False
) -> "Iterator[tuple[pandas.DataFrame, Mapping[str, pyarrow.ChunkedArray]]]":
    """What is written of a batch: its completed rows, with the columns that stay as Arrow has them, then all draws.

    ``filled``, ``text``: as for ``ImputedTable.table_for_file``.
    """
    names = {imputed.columns.names[i] for i in filled}
    kept = [name for name in batch.given.columns if name_of(name) not in names]
    arrow = batch.arrow
    exact = {} if arrow is None else {name: arrow[name] for name in arrow.column_names if name in kept}
    completed = imputed.table_for_file(filled, text=text)
    yield completed.set_axis(batch.given.index), exact
    yield imputed.table_of_draws(batch.first), {}


def pretend(run: "TableRun", sample: Batch, n: int) -> ImputedTable:
    """A sample as if ``n`` draws had been made of it: numbers that have the types of draws and best guesses."""
    columns = run.columns.columns
    x = numbers_of(sample.frame, run.columns, "skip")
    draw = torch.tensor([0.0 if is_whole(column) else 0.5 for column in columns], dtype=torch.float64)
    is_mean = torch.tensor([not (column.categories or column.date or is_discrete(column)) for column in columns])
    draws = torch.where(x.isnan(), draw, x)
    point = torch.where(x.isnan() & is_mean, 0.5, draws)
    return run._table_of(Imputed(x, draws.expand(n, -1, -1), point, torch.zeros_like(x), run), sample.frame)


def is_whole(column: AnyColumn) -> bool:
    """Whether all draws of a column are whole numbers, codes of texts or days."""
    if isinstance(column, Number):
        return column.whole or column.date
    return all(value.is_integer() for value in column.values)


def schema_of(table: "pyarrow.Table", given: "pyarrow.Schema", filled: Set[str]) -> "pyarrow.Schema":
    """The types of all batches: a sample's where cells are imputed, otherwise those of the file.

    ``table``: the sample as it is written.  ``given``: the types of the file that is read.
    """
    import pyarrow

    types = dict(zip(given.names, given.types, strict=True))
    stays = {name for name in types if name_of(name) not in filled or pyarrow.types.is_decimal(types[name])}
    fields = [column.with_type(types[column.name]) if column.name in stays else column for column in table.schema]
    metadata = dict(table.schema.metadata)
    about = json.loads(metadata[b"pandas"])
    if any(isinstance(index, dict) for index in about["index_columns"]):  # a range as long as the sample
        of_file = json.loads((given.metadata or {}).get(b"pandas", b"{}"))
        about["index_columns"] = [index for index in of_file.get("index_columns", []) if isinstance(index, dict)]
    return pyarrow.schema(fields, {**metadata, b"pandas": json.dumps(about).encode()})
