"""A run's numbers and the user's cells: DataFrames to numbers, numbers to DataFrames with their dtypes, and files."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ncsn.data.columns import AnyColumn, Columns, Discrete, Field, name_of
from ncsn.machine.messages import log
from ncsn.machine.storage import atomic
from ncsn.run.imputation import Unseen
from ncsn.settings import DELIMITERS
from ncsn.tables.read import (
    ARROW_TEXT,
    BOOLEANS,
    DAY,
    OTHER,
    clean_cells,
    days_of,
    field_of,
    numbers_in,
    parse,
    zone_of,
)
from ncsn.validation import one_line

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

NUMERIC = ("integer", "floating", "mixed-integer-float", "boolean")  # objects that needn't be parsed


def numbers_of(
    frame: "pandas.DataFrame", columns: Columns, unseen: Unseen = "error", *, first: int = 0
) -> Float64[Tensor, "b d"]:
    """A DataFrame's cells as a run's numbers; columns are matched by name, and absent ones are NaN.

    ``unseen``: categories that the run has not seen become NaN with "missing", and −1 with "skip".
    ``first``: the number of rows before these, for error messages.
    Raises ValueError if the DataFrame has none of the run's columns, for text in a column of numbers, and by default
    for values that the run can't have.
    """
    cells = cells_by_name(frame)
    if not {*cells} & {*columns.names}:
        listed = one_line(", ".join(columns.names))
        raise ValueError(f"the table has columns {one_line(', '.join(cells))}, but the run has {listed}")
    known = {*columns.names, *columns.types}
    if others := [name for name in cells if name not in known]:
        log.warning(f"columns not used, because the run doesn't know them: {', '.join(others)}")
    x = torch.full((len(frame), len(columns.names)), torch.nan, dtype=torch.float64, device="cpu")
    for i, column in enumerate(columns.columns):
        if column.name in cells:
            x[:, i] = torch.from_numpy(encode(column, columns.field(column), cells[column.name], first))
    if unseen == "error":
        columns.check(x, cells, first=first)
    categorical = torch.tensor([bool(column.categories) for column in columns.columns])
    return x.masked_fill((x == -1) & categorical, torch.nan) if unseen == "missing" else x


def cells_by_name(frame: "pandas.DataFrame") -> "dict[str, pandas.Series]":
    """The columns of a DataFrame by their names."""
    return {name_of(label): frame[label] for label in frame.columns}


def encode(column: AnyColumn, field: Field, cells: "pandas.Series", first: int = 0) -> Float64[np.ndarray, "n"]:
    """Cells as the numbers of a run's column: NaN if missing, −1 for a category that the run has not seen.

    ``first``: the number of rows before these, for error messages.
    Raises ValueError for text in a column of numbers or dates.
    """
    import pandas

    if column.categories:
        return encode_categories(column, cells)
    inferred = pandas.api.types.infer_dtype(cells, skipna=True)
    if isinstance(cells.dtype, pandas.CategoricalDtype):
        cells = cells.astype(object)
    if column.date:
        return days_of(cells, column.name, zone=zone_of(field.dtype), first=first)
    if cells.dtype.kind not in "iufb" and inferred not in NUMERIC:
        cells = parse(cells.astype(object))
        for row in np.flatnonzero(cells.notna()) if cells.dtype.kind not in "iuf" else ():
            if cells.dtype.kind == "M" or numbers_in([cells.iloc[row], "0.5"], column.name) is None:
                cell = f"{column.name} {str(cells.iloc[row])!r} (row {first + row + 1})"
                raise ValueError(f"{cell} is not a number, such as 0.5")
    return np.array(cells.to_numpy(float, na_value=np.nan))


def encode_categories(column: AnyColumn, cells: "pandas.Series") -> Float64[np.ndarray, "n"]:
    """The codes of cells, which may be texts, booleans, dates or numbers."""
    import pandas

    code_of = {text: code for code, text in enumerate(column.categories)}
    if cells.dtype.kind in "iuf":  # categories of floats are 1.0, 2.0, …
        short = cells.map(lambda cell: f"{cell:.15g}", na_action="ignore")
        floats = short.map(lambda text: str(float(text)), na_action="ignore")
        texts = short.where(short.isin(code_of) | short.isna(), floats)
    else:
        texts = cells.astype(object).map(str, na_action="ignore")
        if cells.dtype.kind not in "bM" and not isinstance(cells.dtype, pandas.CategoricalDtype):
            # Levels may have blanks, or be words such as NA; other texts are read as in training.
            texts = texts.where(texts.isin(code_of), clean_cells(cells))
    unseen = code_of[OTHER] if column.merged else -1
    codes = texts.map(lambda text: code_of.get(text, unseen), na_action="ignore")
    return np.array(codes.to_numpy(float, na_value=np.nan))


def decode(column: AnyColumn, numbers: Float64[np.ndarray, "n"], field: Field) -> "pandas.Series":
    """A column's numbers as the user's values; NaN is missing.

    ``field``: the type of the user's column; without a dtype text, dates or numbers, with whole numbers as integers.
    """
    import pandas

    if column.categories:
        texts = dict(enumerate((False, True) if column.categories == BOOLEANS else column.categories))
        values = pandas.Series([texts.get(number) for number in numbers], dtype=object)
    elif column.date:
        values = pandas.to_datetime((pandas.Series(numbers) * DAY).round(), unit="s")
    else:
        values = pandas.Series(numbers).convert_dtypes()
    if not field.dtype:
        return values
    if field.dtype == "category":
        return as_categorical(column, values, field)
    dtype = pandas.api.types.pandas_dtype(field.dtype)
    if field.of == ARROW_TEXT:
        import pyarrow

        dtype = pandas.ArrowDtype(pyarrow.string())
    if dtype.kind in "OU":  # U is Arrow's text
        return as_objects(column, values, field.of).astype(dtype)
    if dtype.kind == "M" and (zone := zone_of(dtype)):
        # When clocks are set back, an hour occurs twice; take the second.
        values = values.dt.tz_localize(zone, ambiguous=np.zeros(len(values), bool), nonexistent="shift_forward")
    if dtype.kind in "iu" and not column.categories:
        if isinstance(column, Discrete):
            numbers = column.nearest(torch.from_numpy(numbers)).numpy()  # a mean may be impossible
        info = np.iinfo(f"{dtype.kind}{getattr(dtype, 'subtype', dtype).itemsize}")  # the subtype of sparse columns
        largest = min(info.max, np.nextafter(info.max + 1.0, 0))
        values = pandas.Series(numbers.round().clip(info.min, largest))
    return values.astype(dtype)


def as_categorical(column: AnyColumn, values: "pandas.Series", field: Field) -> "pandas.Series":
    """Text as a categorical with the user's levels in their order, followed by others, such as "other"."""
    import pandas

    texts = field.levels
    levels = [text == "True" for text in texts] if field.of == "bool" else pandas.Index(texts).astype(field.of)
    level_of = dict(zip(texts, levels, strict=True))
    cells = values.map(str, na_action="ignore").map(lambda text: level_of.get(text, text), na_action="ignore")
    others = [text for text in column.categories if text not in level_of]
    return pandas.Series(pandas.Categorical(cells, [*levels, *others], ordered=field.ordered))


def as_objects(column: AnyColumn, values: "pandas.Series", of: str) -> "pandas.Series":
    """Values as Python objects, with text or dates if the user's column has them."""
    if column.date and of == "date":
        return values.dt.date
    if of not in ("string", ARROW_TEXT):
        return values.astype(object)
    if column.date and bool((values.dropna() == values.dropna().dt.normalize()).all()):
        return values.dt.strftime("%Y-%m-%d")
    return values.map(str, na_action="ignore")


def fill(
    cells: "pandas.Series",
    places: Int[np.ndarray, "m"],
    column: AnyColumn,
    numbers: Float64[np.ndarray, "m"],
    field: Field,
) -> "pandas.Series":
    """Fill some places of a column with a run's numbers, keeping its dtype if that can hold them.

    ``field``: the column's type in training, which is used if the column has no value and its dtype is for others.
    """
    import pandas

    if isinstance(cells.dtype, pandas.CategoricalDtype) and not column.categories:
        cells = cells.astype(object).infer_objects()  # draws of numbers or dates are rarely among its levels
    has_values = bool(np.delete(cells.notna().to_numpy(), places).any())  # unseen categories are filled, too
    keeps_dtype = has_values or suits(cells.dtype, column)
    try:
        values = decode(column, numbers, field_of(cells) if keeps_dtype else field)
    except ValueError:  # text in a column that has only numbers, or values of several types, unlike in training
        cells = cells.astype(object)
        values = decode(column, numbers, Field(label=field.label))
        if pandas.api.types.infer_dtype(cells, skipna=True) == "decimal":
            unit = Decimal((0, (1,), min(cell.as_tuple().exponent for cell in cells.dropna())))
            values = values.map(lambda number: Decimal(str(number)).quantize(unit))
    dtype = cells.dtype if keeps_dtype else values.dtype
    filled = cells.astype(object)
    filled.iloc[places] = list(values)
    if isinstance(dtype, pandas.CategoricalDtype) and not {*values} <= {*dtype.categories}:
        dtype = values.dtype
    try:
        return filled.astype(dtype)
    except (ValueError, TypeError):
        return filled.infer_objects()


def suits(dtype: object, column: AnyColumn) -> bool:
    """Whether a dtype says that its cells are like those of a run's column, even if all are missing."""
    import pandas
    from pandas.api import types

    if isinstance(dtype, pandas.CategoricalDtype):
        return bool(column.categories)
    if column.date:
        return bool(types.is_datetime64_any_dtype(dtype))
    if column.categories:
        return bool(types.is_string_dtype(dtype) and not types.is_object_dtype(dtype))
    return bool(types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype))


def frame_of(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> "pandas.DataFrame":
    """Rows of numbers as a DataFrame like the user's."""
    import pandas

    numbers = dict(zip(columns.names, rows.T, strict=True))
    if left_out := tuple(name for name in columns.types if name not in numbers):
        announce_left_out(left_out)
    by_name = {column.name: column for column in columns.columns}
    fields = [columns.field(by_name[name]) for name in columns.types or numbers if name in numbers]
    cells = {field.label: decode(by_name[field.name], numbers[field.name], field) for field in fields}
    return pandas.DataFrame(cells)


@cache
def announce_left_out(names: tuple[str, ...]) -> None:
    """Log once which columns samples don't have."""
    log.info(f"samples have no {', '.join(names)}: training left these columns out")


def write_frame(frame: "pandas.DataFrame", path: Path) -> None:
    """Write a table to a .csv, .tsv or .parquet, with its index unless that only numbers the rows."""
    with table_writers({path: {}}) as (writer,):
        writer.write(frame)


@contextmanager
def table_writers(forms: Mapping[Path, Mapping[str, Any]]) -> "Iterator[list[TableWriter]]":
    """A writer for each path; when the block succeeds, all files are complete, otherwise none is there.

    ``forms``: the form of each text file, as the ``attrs`` of ``read_frame`` have it.
    """
    with ExitStack() as files:
        yield [TableWriter(path, files.enter_context(atomic(path)), form, files) for path, form in forms.items()]


@dataclass
class TableWriter:
    """Writes tables one below the other to a .csv, .tsv or .parquet.

    ``file``: the temporary file that becomes ``path``.
    ``form``: options of pandas' ``to_csv``.
    ``files``: closes a .parquet before it becomes ``path``.
    ``schema``: Arrow's types of a .parquet's columns; by default those of the first table.
    """

    path: Path
    file: Path
    form: Mapping[str, Any]
    files: ExitStack
    schema: "pyarrow.Schema | None" = None
    parquet: "pyarrow.parquet.ParquetWriter | None" = None
    begun: bool = False

    def write(self, frame: "pandas.DataFrame", arrow: Mapping[str, Any] | None = None) -> None:
        """Append a table; ``arrow``: columns of a .parquet as Arrow has them, which replace those of the DataFrame."""
        if self.path.suffix == ".parquet":
            self._write_parquet(arrow_of(frame, arrow or {}))
        else:
            try:
                write_text(frame, self.file, {"sep": DELIMITERS[self.path.suffix], **self.form}, header=not self.begun)
            except UnicodeEncodeError as error:
                lacking = f"{self.form['encoding']}, which has no {error.object[error.start]}"
                raise ValueError(f"{self.path}: the table is in {lacking}; convert it to UTF-8") from error
        self.begun = True

    def _write_parquet(self, table: "pyarrow.Table") -> None:
        from pyarrow.parquet import ParquetWriter

        self.schema = self.schema or table.schema
        if self.parquet is None:
            self.parquet = self.files.enter_context(ParquetWriter(self.file, self.schema))
        self.parquet.write_table(table.cast(self.schema))


def arrow_of(frame: "pandas.DataFrame", columns: Mapping[str, Any]) -> "pyarrow.Table":
    """A DataFrame as Arrow's table; ``columns``: Arrow's, which replace those of the DataFrame."""
    import pandas
    import pyarrow

    # pandas can't read the names of its own nested dtypes, so these columns are put in afterwards.
    arrow = {name: dtype for name, dtype in frame.dtypes.items() if isinstance(dtype, pandas.ArrowDtype)}
    nested = [name for name, dtype in arrow.items() if pyarrow.types.is_nested(dtype.pyarrow_dtype)]
    table = pyarrow.Table.from_pandas(frame.assign(**dict.fromkeys(nested)), preserve_index=has_index(frame) or None)
    for name, column in {**{name: pyarrow.array(frame[name]) for name in nested}, **columns}.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def write_text(frame: "pandas.DataFrame", file: Path, options: Mapping[str, Any], *, header: bool) -> None:
    """Append a table to a .csv or .tsv with the options of pandas' ``to_csv``; ``header``: with its column names."""
    texts = frame.select_dtypes(exclude=["number", "datetime", "datetimetz"]).to_numpy().ravel()
    if any("\r" in str(text) for text in (*frame.columns, *texts)):
        options = {**options, "lineterminator": "\r\n"}  # otherwise Python before 3.13 doesn't quote such a cell
    frame.to_csv(file, mode="a", header=header, index=has_index(frame), **options)


def has_index(frame: "pandas.DataFrame") -> bool:
    """Whether the index does more than number the rows."""
    import pandas

    return not isinstance(frame.index, pandas.RangeIndex)
