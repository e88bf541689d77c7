"""DataFrames: the types of their columns, and the conversion of cells to a run's numbers and back."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

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
ALLOWED = "expected numbers, booleans, text, dates, or categories of these; .astype(str) converts to text"
DAY = 86_400  # seconds
OFFSET = r":\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # from UTC, after a time


def frame_in(rows: object) -> "pandas.DataFrame | None":
    """``rows`` as a DataFrame, or None for arrays.

    Raises ValueError for a Series, for a table without rows or columns, and for columns without unique names.
    """
    if hasattr(rows, "to_pandas"):  # pyarrow's tables and polars' frames
        rows = rows.to_pandas()
    if not isinstance(rows, Mapping) and not hasattr(rows, "columns"):
        if hasattr(rows, "to_frame"):
            raise ValueError("a Series is a single column; to_frame() turns it into a table")
        return None
    import pandas

    try:
        frame = pandas.DataFrame(rows)
    except ValueError as error:  # a dict whose columns have different lengths, or none
        raise ValueError(f"expected a dict of columns, such as {{'age': [40, 50]}} ({one_line(error)})") from error
    check_frame(frame)
    return frame


def check_frame(frame: "pandas.DataFrame") -> None:
    """Raises ValueError for a table without rows or columns, and for columns without unique names."""
    if frame.columns.nlevels > 1:
        raise ValueError("the columns are a MultiIndex; give each column a single name")
    names = [name_of(label) for label in frame.columns]
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"several columns are called {double[0]!r}; column names must be unique")
    if frame.empty:
        raise ValueError(f"the table has {len(frame)} rows and {len(names)} columns; it needs at least one of each")


def name_of(label: object) -> str:
    """A column's label as one printable line, because it may come from a stranger's file."""
    return one_line(label) if str(label).strip() else ""


def field_of(column: "pandas.Series") -> Field:
    """The type of a DataFrame's column; a label that is neither text nor a whole number becomes text.

    Raises ValueError for an unsupported dtype.
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
        dtype = str(column.dtype)
        return Field(label=label, dtype=f"string[{column.dtype.storage}]" if dtype == "string" else dtype, of=kind)
    advice = ".dt.total_seconds() converts to numbers" if column.dtype.kind == "m" else ALLOWED
    raise ValueError(f"column {name_of(label)} has dtype {column.dtype} ({kind}); {advice}")


def numbers_of(frame: "pandas.DataFrame", columns: Columns, unseen: Unseen = "error") -> Float64[Tensor, "b d"]:
    """A DataFrame's cells as a run's numbers; columns are matched by name, and absent ones are NaN.

    ``unseen``: categories that the run has not seen become NaN with "missing", and −1 with "skip".
    Raises ValueError if the DataFrame has none of the run's columns, for text in a column of numbers, and by default
    for values that the run can't have.
    """
    cells = {name_of(label): frame[label] for label in frame.columns}
    if not {*cells} & {*columns.names}:
        listed = one_line(", ".join(columns.names))
        raise ValueError(f"the table has columns {one_line(', '.join(cells))}, but the run has {listed}")
    known = {*columns.names} | {name_of(field.label) for field in columns.fields}
    if others := [name for name in cells if name not in known]:
        log.warning(f"columns not used, because the run doesn't know them: {', '.join(others)}")
    x = torch.full((len(frame), len(columns.names)), torch.nan, dtype=torch.float64, device="cpu")
    for i, column in enumerate(columns.columns):
        if column.name in cells:
            x[:, i] = torch.from_numpy(encode(column, columns.field(column), cells[column.name]))
    if unseen == "error":
        check(x, frame, columns)
    categorical = torch.tensor([bool(column.categories) for column in columns.columns])
    return x.masked_fill((x == -1) & categorical, torch.nan) if unseen == "missing" else x


def check(x: Float64[Tensor, "b d"], frame: "pandas.DataFrame", columns: Columns) -> None:
    """Raises ValueError for the first number that the run can't have, and quotes it as the DataFrame has it."""
    labels = {name_of(label): label for label in frame.columns}

    def quote(row: int, i: int) -> object:
        cell = frame[labels[columns.names[i]]].iloc[row]
        return repr(cell) if isinstance(cell, str) else cell

    columns.check(x, quote)


def encode(column: AnyColumn, field: Field | None, cells: "pandas.Series") -> Float64[np.ndarray, "n"]:
    """Cells as the numbers of a run's column: NaN if missing, −1 for a category that the run has not seen.

    Raises ValueError for text in a column of numbers or dates.
    """
    import pandas

    dtype, numeric = cells.dtype, cells.dtype.kind in "iuf"
    kind = pandas.api.types.infer_dtype(cells, skipna=True)
    if isinstance(dtype, pandas.CategoricalDtype):
        cells = cells.astype(object)
    if column.categories:
        number = {text: i for i, text in enumerate(column.categories)}
        if numeric:  # categories of floats are 1.0, 2.0, …
            texts = cells.map(lambda cell: f"{cell:.15g}", na_action="ignore")
            floats = texts.map(lambda text: str(float(text)), na_action="ignore")
            cells = texts.where(texts.isin(number) | texts.isna(), floats)
        elif dtype.kind not in "bM" and not isinstance(dtype, pandas.CategoricalDtype):
            cells = clean_cells(cells)
        else:
            cells = cells.astype(object).map(str, na_action="ignore")
        other = number[OTHER] if column.merged else -1
        codes = cells.map(lambda text: number.get(text, other), na_action="ignore")
        return np.array(codes.to_numpy(float, na_value=np.nan))
    if column.date:
        return days_of(cells, column.name, zone=zone_of(field.dtype) if field else "")
    if not (numeric or dtype.kind == "b" or kind in ("integer", "floating", "mixed-integer-float", "boolean")):
        cells = parse(cells.astype(object))
        for row in np.flatnonzero(cells.notna())[: len(cells) if cells.dtype.kind not in "iuf" else 0]:
            if cells.dtype.kind == "M" or numbers_in([cells.iloc[row], "0.5"], column.name) is None:
                raise ValueError(f"{column.name} {str(cells.iloc[row])!r} (row {row + 1}) is not a number, such as 0.5")
    return np.array(cells.to_numpy(float, na_value=np.nan))


def zone_of(dtype: object) -> str:
    """The time zone of a date dtype, or an empty string."""
    import pandas

    dtype = pandas.api.types.pandas_dtype(dtype or "float64")
    found = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
    return str(found or "")


def days_of(cells: "pandas.Series", name: str, *, zone: str | None = None) -> Float64[np.ndarray, "n"]:
    """Dates as days since 1970, in local time if they have a time zone; NaN if missing.

    ``zone``: the time zone that they must have, "" for none; by default any.  If it isn't empty, text must have an
    offset; otherwise text without one is in UTC.
    Raises ValueError for another time zone, and for what isn't a date.
    """
    import pandas

    if cells.dtype.kind == "M":
        own = zone_of(cells.dtype)
        if zone not in (None, own):
            zones = f"{own or 'none'}, but the run has {zone or 'none'}"
            raise ValueError(f"{name} has dates with time zone {zones}; convert them")
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
            raise ValueError(f"{name} {str(cells.iloc[row])!r} (row {row + 1}) is not a {allowed}")
    numbers = times.to_numpy("datetime64[us]")
    return np.where(np.isnat(numbers), np.nan, (numbers - np.datetime64(0, "us")) / np.timedelta64(10**6 * DAY, "us"))


def decode(column: AnyColumn, numbers: Float64[np.ndarray, "n"], field: Field | None = None) -> "pandas.Series":
    """A column's numbers as the user's values; NaN is missing.

    ``field``: the type of the user's column; by default text, dates or numbers, with whole numbers as integers.
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
        # When clocks are set back, an hour occurs twice; take the second.
        values = values.dt.tz_localize(zone, ambiguous=np.zeros(len(values), bool), nonexistent="shift_forward")
    if dtype.kind in "iu" and not column.categories:
        whole = column.nearest(torch.from_numpy(numbers)).numpy()  # a mean may be impossible
        bits = 8 * dtype.itemsize - (dtype.kind == "i")
        low, high = -(2.0**bits) if dtype.kind == "i" else 0.0, np.floor(np.nextafter(2.0**bits, 0))
        values = pandas.Series(np.where(np.isnan(numbers), np.nan, whole.round().clip(low, high)))
    return values.astype(dtype)


def categorical(column: AnyColumn, values: "pandas.Series", field: Field) -> "pandas.Series":
    """Text as a categorical with the user's levels in their order, followed by others, such as "other"."""
    import pandas

    texts = field.levels
    levels = [text == "True" for text in texts] if field.of == "bool" else pandas.Index(texts).astype(field.of)
    known = dict(zip(field.levels, levels, strict=True))
    cells = values.map(str, na_action="ignore").map(lambda text: known.get(text, text), na_action="ignore")
    more = [text for text in column.categories if text not in known]
    return pandas.Series(pandas.Categorical(cells, [*levels, *more], ordered=field.ordered))


def objects(column: AnyColumn, values: "pandas.Series", of: str) -> "pandas.Series":
    """Values as Python objects, with text or dates if the user's column has them."""
    if column.date and of == "date":
        return values.dt.date
    if column.date and of == "string" and bool((values.dropna() == values.dropna().dt.normalize()).all()):
        return values.dt.strftime("%Y-%m-%d")
    return values.map(str, na_action="ignore") if of == "string" else values.astype(object)


def fill(
    cells: "pandas.Series",
    places: Int[np.ndarray, "m"],
    column: AnyColumn,
    numbers: Float64[np.ndarray, "m"],
    field: Field | None,
) -> "pandas.Series":
    """Fill some places of a column with a run's numbers, keeping its dtype if that can hold them.

    ``field``: the column's type in training, which is used if the column has no value that is kept.
    """
    import pandas

    if isinstance(cells.dtype, pandas.CategoricalDtype) and not column.categories:
        cells = cells.astype(object).infer_objects()  # draws of numbers or dates are rarely among its levels
    known = bool(np.delete(cells.notna().to_numpy(), places).any())  # unseen categories are filled, too
    try:
        values = decode(column, numbers, field_of(cells) if known else field)
    except ValueError:  # text in a column that has only numbers, or values of several types, unlike in training
        cells, values = cells.astype(object), decode(column, numbers)
    filled, dtype = cells.astype(object), cells.dtype if known else values.dtype
    filled.iloc[places] = list(values)
    if isinstance(dtype, pandas.CategoricalDtype) and not {*values} <= {*dtype.categories}:
        dtype = values.dtype
    try:
        return filled.astype(dtype)
    except (ValueError, TypeError):
        return filled.infer_objects()


def frame_of(columns: Columns, rows: Float64[np.ndarray, "n d"]) -> "pandas.DataFrame":
    """Rows of numbers as a DataFrame like the user's."""
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
    """Log once which columns samples don't have."""
    log.info(f"samples have no {', '.join(names)}: training left these columns out")
