"""DataFrames: what their columns are, and the way from their cells to a run's numbers and back."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ncsn.kinds.kind import Unseen
from ncsn.kinds.tables.columns import AnyColumn, Columns, Field
from ncsn.kinds.tables.read import BOOLEANS, clean_cells, numbers_in, parse
from ncsn.machine.messages import log
from ncsn.validation import one_line

if TYPE_CHECKING:
    import pandas

OTHER = "other"  # what rare categories become
OBJECTS = ("string", "boolean", "integer", "floating", "mixed-integer-float", "date", "datetime", "datetime64", "empty")
ALLOWED = "allowed are numbers, booleans, text, dates, and categories of these; .astype(str) makes text"
DAY = 86_400  # seconds
OFFSET = r":\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # from UTC, after a time


def frame_in(rows: object) -> "pandas.DataFrame | None":
    """The DataFrame that ``rows`` is or can become, or None for arrays.

    Raises ValueError for a Series, for a frame without rows or columns, and for columns that have no name of their own.
    """
    if hasattr(rows, "to_pandas"):  # pyarrow's tables and polars' frames
        rows = rows.to_pandas()
    if not isinstance(rows, Mapping) and not hasattr(rows, "columns"):
        if hasattr(rows, "to_frame"):
            raise ValueError("a Series is one column; to_frame() makes a table of it")
        return None
    import pandas

    try:
        frame = pandas.DataFrame(rows)
    except ValueError as error:  # of a dict, whose columns have different lengths, or none
        raise ValueError(f"a dict of columns is needed, such as {{'age': [40, 50]}} ({one_line(error)})") from error
    if isinstance(frame.columns, pandas.MultiIndex):
        raise ValueError("the columns are a MultiIndex; give each a single name")
    names = [name_of(label) for label in frame.columns]
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"several columns are called {double[0]!r}; give each a name of its own")
    if frame.empty:
        raise ValueError(f"the table has {len(frame)} rows and {len(names)} columns; it must have some")
    return frame


def name_of(label: object) -> str:
    """What a column is called: its label, which may be a stranger's, in a line that can be printed."""
    return one_line(label) if str(label).strip() else ""


def field_of(column: "pandas.Series[Any]") -> Field:
    """What a column of a DataFrame is; a label that is neither text nor a whole number becomes text.

    Raises ValueError for a dtype that has no place here.
    """
    import pandas

    number = isinstance(column.name, int | np.integer) and not isinstance(column.name, bool)
    label = int(column.name) if number else str(column.name)
    if isinstance(column.dtype, pandas.CategoricalDtype):
        levels = column.cat.categories.infer_objects()
        kind = pandas.api.types.infer_dtype(levels)
        if kind in ("string", "boolean", "integer", "floating", "datetime64", "empty"):
            texts = tuple(map(str, levels))
            return Field(
                label=label, dtype="category", of=str(levels.dtype), levels=texts, ordered=bool(column.cat.ordered)
            )
    elif column.dtype.kind in "biufM":
        return Field(label=label, dtype=str(column.dtype))
    elif (kind := pandas.api.types.infer_dtype(column, skipna=True)) in OBJECTS:
        return Field(label=label, dtype=str(column.dtype), of=kind)
    raise ValueError(f"column {name_of(label)} has dtype {column.dtype} ({kind}); {ALLOWED}")


def numbers_of(frame: "pandas.DataFrame", columns: Columns, unseen: Unseen = "error") -> Float64[Tensor, "b d"]:
    """A frame's cells as a run's numbers; columns are matched by name, and NaN where there is none.

    ``unseen``: "missing" makes NaN of categories that the run has not seen, and "skip" −1.
    Raises ValueError if the frame has none of the columns, for text where the run has numbers, and by default for
    values that the run cannot take.
    """
    cells = {name_of(label): frame[label] for label in frame.columns}
    if not {*cells} & {*columns.names}:
        listed = one_line(", ".join(columns.names))
        raise ValueError(f"the columns are {one_line(', '.join(cells))}; those of the run are {listed}")
    known = {*columns.names} | {name_of(field.label) for field in columns.fields}
    if others := [name for name in cells if name not in known]:
        log.warning(f"columns that the run does not know say nothing about the others: {', '.join(others)}")
    x = torch.full((len(frame), len(columns.names)), torch.nan, dtype=torch.float64, device="cpu")
    for i, column in enumerate(columns.columns):
        if column.name in cells:
            x[:, i] = torch.from_numpy(encode(column, columns.field(column), cells[column.name]))
    if unseen == "error":
        check(x, frame, columns)
    categorical = torch.tensor([bool(column.categories) for column in columns.columns])
    return x.masked_fill((x == -1) & categorical, torch.nan) if unseen == "missing" else x


def check(x: Float64[Tensor, "b d"], frame: "pandas.DataFrame", columns: Columns) -> None:
    """Raises ValueError for the first number that the run cannot take, as the frame has it."""
    labels = {name_of(label): label for label in frame.columns}

    def told(row: int, i: int) -> object:
        cell = frame[labels[columns.names[i]]].iloc[row]
        return repr(cell) if isinstance(cell, str) else cell

    columns.check(x, told)


def encode(column: AnyColumn, field: Field | None, cells: "pandas.Series[Any]") -> Float64[np.ndarray, "n"]:
    """Cells as the numbers of a run's column: NaN where one is missing, −1 for a category that the run has not seen.

    Raises ValueError for text where the run has numbers or dates.
    """
    import pandas

    dtype, numeric = cells.dtype, cells.dtype.kind in "iuf"
    kind = pandas.api.types.infer_dtype(cells, skipna=True)
    if isinstance(dtype, pandas.CategoricalDtype):
        cells = cells.astype(object)
    if column.categories:
        number = {text: i for i, text in enumerate(column.categories)}
        if numeric:
            cells = cells.map(lambda cell: f"{cell:.15g}", na_action="ignore")
        elif dtype.kind != "b" and not isinstance(dtype, pandas.CategoricalDtype):
            cells = clean_cells(cells)
        else:
            cells = cells.astype(object).map(str, na_action="ignore")
        other = number.get(OTHER, -1)
        codes = cells.map(lambda text: number.get(text, other), na_action="ignore")
        return np.array(codes.to_numpy(float, na_value=np.nan))
    if column.date:
        return days_of(cells, column.name, zone=zone_of(field.dtype) if field else "")
    if not (numeric or dtype.kind == "b" or kind in ("integer", "floating", "mixed-integer-float", "boolean")):
        cells = parse(cells.astype(object))
        for row in np.flatnonzero(cells.notna())[: len(cells) if cells.dtype.kind not in "iuf" else 0]:
            if cells.dtype.kind == "M" or numbers_in([cells.iloc[row]], column.name) is None:
                raise ValueError(f"{column.name} {str(cells.iloc[row])!r} (row {row + 1}) is no number, as the run has")
    return np.array(cells.to_numpy(float, na_value=np.nan))


def zone_of(dtype: object) -> str:
    """The time zone of a dtype of dates, or nothing."""
    import pandas

    dtype = pandas.api.types.pandas_dtype(dtype or "float64")
    found = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
    return str(found or "")


def days_of(cells: "pandas.Series[Any]", name: str, *, zone: str | None = None) -> Float64[np.ndarray, "n"]:
    """Dates as days since 1970, of those with a zone by the clocks there; NaN where there is none.

    ``zone``: the one that they must have, if any; text then needs an offset, and is in UTC without one otherwise.
    Raises ValueError for another zone, and for what is no date.
    """
    import pandas

    if cells.dtype.kind == "M":
        own = zone_of(cells.dtype)
        if zone not in (None, own):
            raise ValueError(
                f"the dates of {name} have {own or 'no zone'}, and the run has {zone or 'no zone'}; convert them"
            )
        times = pandas.to_datetime(cells.dt.tz_localize(None) if own else cells)  # also those of Arrow
    else:
        texts = clean_cells(cells)
        if cells.dtype.kind in "iuf":
            times = pandas.Series(pandas.NaT, texts.index)
        else:
            dated = texts.where(texts.str.contains(OFFSET, na=False)) if zone else texts
            times = pandas.to_datetime(dated, format="ISO8601", utc=True, errors="coerce")
            times = times.dt.tz_convert(zone or "UTC").dt.tz_localize(None)
        for row in np.flatnonzero(texts.notna() & times.isna())[:1]:
            allowed = f"date in {zone}, such as 2024-12-31T12:00+01:00" if zone else "date such as 2024-12-31"
            raise ValueError(f"{name} {str(cells.iloc[row])!r} (row {row + 1}) is no {allowed}, as the run has")
    numbers = times.to_numpy("datetime64[us]")
    return np.where(np.isnat(numbers), np.nan, (numbers - np.datetime64(0, "us")) / np.timedelta64(10**6 * DAY, "us"))


def decode(column: AnyColumn, numbers: Float64[np.ndarray, "n"], field: Field | None = None) -> "pandas.Series[Any]":
    """A column's numbers as the user knows them; NaN is missing.

    ``field``: what the user's column is; by default texts, dates and numbers, whole ones as integers.
    """
    import pandas

    if column.categories:
        texts = dict(enumerate((False, True) if column.categories == BOOLEANS else column.categories))
        values = pandas.Series([texts.get(number) for number in numbers], dtype=object)
    elif column.date:
        values = pandas.to_datetime((pandas.Series(numbers) * DAY).round(), unit="s")
    else:
        values = pandas.Series(numbers).convert_dtypes()
    if field is None or not field.dtype:
        return values
    if field.dtype == "category":
        return categorical(column, values, field)
    dtype = pandas.api.types.pandas_dtype(field.dtype)
    if dtype.kind == "O":
        return objects(column, values, field.of).astype(dtype)
    if dtype.kind == "M" and (zone := zone_of(dtype)):
        # Where clocks are set back they show an hour twice: the second is meant.
        values = values.dt.tz_localize(zone, ambiguous=np.zeros(len(values), bool), nonexistent="shift_forward")
    if dtype.kind in "iu":
        whole = column.inverse(column.forward(torch.from_numpy(numbers).round())).numpy()  # as means may not be
        bits = 8 * dtype.itemsize - (dtype.kind == "i")
        low, high = -(2.0**bits) if dtype.kind == "i" else 0.0, np.floor(np.nextafter(2.0**bits, 0))
        values = pandas.Series(np.where(np.isnan(numbers), np.nan, whole.round().clip(low, high)))
    return values.astype(dtype)


def categorical(column: AnyColumn, values: "pandas.Series[Any]", field: Field) -> "pandas.Series[Any]":
    """Texts as the levels that say them, in their order; what is none of these, such as other, comes after them."""
    import pandas

    levels = (
        [text == "True" for text in field.levels] if field.of == "bool" else pandas.Index(field.levels).astype(field.of)
    )
    known = dict(zip(field.levels, levels, strict=True))
    cells = values.map(str, na_action="ignore").map(lambda text: known.get(text, text), na_action="ignore")
    more = [text for text in column.categories if text not in known]
    return pandas.Series(pandas.Categorical(cells, [*levels, *more], ordered=field.ordered))


def objects(column: AnyColumn, values: "pandas.Series[Any]", of: str) -> "pandas.Series[Any]":
    """Values as Python's objects: as text or dates where the user's are."""
    if column.date and of == "date":
        return values.dt.date
    if column.date and of == "string" and bool((values.dropna() == values.dropna().dt.normalize()).all()):
        return values.dt.strftime("%Y-%m-%d")
    return values.map(str, na_action="ignore") if of == "string" else values.astype(object)


def fill(
    cells: "pandas.Series[Any]",
    places: Int[np.ndarray, "m"],
    column: AnyColumn,
    numbers: Float64[np.ndarray, "m"],
    field: Field | None,
) -> "pandas.Series[Any]":
    """A column with a run's numbers in some places, of its own dtype where that can hold them.

    ``field``: what the column was in training, which it becomes again if it has no value.
    """
    import pandas

    known = bool(cells.notna().any())
    values = decode(column, numbers, field_of(cells) if known else field)
    filled, dtype = cells.astype(object), cells.dtype if known else values.dtype
    filled.iloc[places] = list(values)
    if isinstance(dtype, pandas.CategoricalDtype) and not {*values} <= {*dtype.categories}:
        dtype = values.dtype
    try:
        return filled.astype(dtype)
    except (ValueError, TypeError):
        return filled.infer_objects()


def frame_of(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> "pandas.DataFrame":
    """Rows of a table as the user knows them."""
    import pandas

    cells = {column.name: (column, numbers) for column, numbers in zip(columns.columns, rows.T, strict=True)}
    if not columns.fields:
        return pandas.DataFrame({name: decode(*each) for name, each in cells.items()})
    made = [field for field in columns.fields if name_of(field.label) in cells]
    if left_out := tuple(name_of(field.label) for field in columns.fields if field not in made):
        announce_left_out(left_out)
    return pandas.DataFrame({field.label: decode(*cells[name_of(field.label)], field) for field in made})


@cache
def announce_left_out(names: tuple[str, ...]) -> None:
    """Say once which columns samples don't have."""
    log.info(f"samples have no {', '.join(names)}: training left these columns out")
