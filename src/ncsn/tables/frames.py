"""DataFrames and table files: the types of their columns, and cells as a run's numbers and back."""

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ncsn.data import Unseen, arrays
from ncsn.machine.messages import bar, log
from ncsn.machine.storage import atomic
from ncsn.settings import DELIMITERS, TABLES
from ncsn.tables.columns import AnyColumn, Columns, Field
from ncsn.validation import one_line, opened_as

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


MISSING = ["", "?", "-", "--", ".", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]
MISSING += ["#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NULL!"]
UNITS = re.compile(r"(?<![^-])[$€£]\s*|\s*%$")  # around a number
BOOLEANS = ("False", "True")
SAMPLE = 100  # lines that decide the delimiter
UNCOUNTED = re.compile(r'(?<![^\r\n,;\t])"[^"]*(?:""[^"]*)*"|(?<=[,;])\t')  # quoted cells, and tabs after a delimiter


def read_frame(path: Path) -> "pandas.DataFrame":
    """The table in a .csv or .tsv, with all cells as text, or in a .parquet, with its dtypes.

    The ``attrs`` of text say how it is written: pandas' sep, encoding and lineterminator.
    Raises ValueError if it cannot be read.
    """
    import pandas

    with opened_as("a table", path):
        if path.suffix.lower() == ".parquet":
            return read_parquet(path)
        if path.suffix.lower() not in DELIMITERS:
            raise ValueError(f"expected {', '.join(TABLES)}")
        content = path.read_bytes()
        try:
            encoding = "utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8"
            encoding = "utf-8-sig" if content.startswith(BOM_UTF8) else encoding
            text = content.decode(encoding)
        except UnicodeDecodeError:
            encoding = "cp1252"
            text = content.decode(encoding)
            log.warning(f"{path} is not UTF-8; it is read as Windows-1252")
        delimiter = delimiter_of(text, DELIMITERS[path.suffix.lower()])
        names, *rows = cells_in(text, delimiter)
        frame = pandas.DataFrame(rows, columns=names, dtype=str)
        frame.attrs = {"sep": delimiter, "encoding": encoding, "lineterminator": "\r\n" if "\r\n" in text else "\n"}
        return frame


def read_parquet(path: Path) -> "pandas.DataFrame":
    """The table in a .parquet, where whole numbers with gaps and nested values stay what they are."""
    import pandas
    import pyarrow
    from pyarrow import parquet

    frame = pandas.read_parquet(path)
    exact = dict[str, str | pandas.ArrowDtype]()
    for name, kind in zip((schema := parquet.read_schema(path)).names, schema.types, strict=True):
        if name in frame and pyarrow.types.is_nested(kind):
            exact[name] = pandas.ArrowDtype(kind)
        elif name in frame and pyarrow.types.is_integer(kind) and frame[name].dtype.kind == "f":
            exact[name] = str(kind).replace("uint", "UInt").replace("int", "Int")  # such as Int64
    if exact:
        for name, column in zip(exact, parquet.read_table(path, columns=[*exact]).itercolumns(), strict=True):
            dtype = pandas.api.types.pandas_dtype(exact[name])
            frame[name] = column.to_pandas(types_mapper=lambda _, dtype=dtype: dtype).array
    return frame


def read_rows(path: Path) -> "pandas.DataFrame | np.ndarray":
    """The rows in a table or in an array.  Raises ValueError if it cannot be read, or holds several arrays."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return read_frame(path)
    found = arrays(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {', '.join(found) or 'nothing'}; expected one array (rows, columns)")
    return found.popitem()[1]


def delimiter_of(text: str, usual: str) -> str:
    """The first delimiter that all lines have equally often outside of quotes."""
    first = islice(StringIO(UNCOUNTED.sub("", text), newline=""), SAMPLE)
    counted = [line for line in first if line.strip("\r\n")]
    fitting = (each for each in "\t;," if len({line.count(each) for line in counted}) == 1 and each in counted[0])
    return next(fitting, usual)


def cells_in(text: str, delimiter: str) -> Iterator[list[str]]:
    """The cells of each line.

    Raises ValueError for a line whose number of cells differs from that of the first, and for misplaced quotes.
    """
    lines = list(StringIO(text, newline=""))
    rows = (row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row)
    width, number = None, 0
    try:
        for number, row in enumerate(bar(rows, "reading", total=len(lines), unit="line"), 1):
            width = len(row) if width is None else width
            if len(row) != width:
                raise ValueError(f"row {number} has {len(row)} cells, but the first has {width}")
            yield row
    except csv.Error as error:
        raise ValueError(f"row {number + 1}: {error}; are its quotes in place?") from error
    if width is None:
        raise ValueError("it is empty")


def clean_cells(column: "pandas.Series[str]") -> "pandas.Series[str]":
    """Cells as text without surrounding blanks; missing cells and words for missing values are NaN."""
    cells = column.astype(str).str.strip().mask(column.isna())
    return cells.mask(cells.isin(MISSING))


def parse(column: "pandas.Series[str]") -> "pandas.Series[str]":
    """A column of text as numbers or dates if all of its cells are, otherwise as text; missing cells are NaN."""
    import pandas

    cells = clean_cells(column)
    values = cells.dropna().unique().tolist()
    if not len(values):
        return cells.astype(float)
    numbers = numbers_in(values, str(column.name))
    if numbers is not None:
        return cells.map(dict(zip(values, numbers, strict=True))).astype(float)
    dates = pandas.to_datetime(pandas.Series(values), format="ISO8601", utc=True, errors="coerce")
    if dates.notna().all():
        return cells.map(dict(zip(values, dates, strict=True)))
    return cells


def numbers_in(texts: Sequence[str], name: str) -> Float64[np.ndarray, "n"] | None:
    """The numbers in texts such as 1,200, $5 and 7 %; None if any of them isn't a number.

    All cells of the column together decide whether the decimal mark is a point or a comma.
    """
    plain = [re.sub(UNITS, "", text) for text in texts]
    marks = decimal_marks(plain)
    if not marks:
        return None
    decimal, between = marks[0][0], marks[0][1]
    joined = [text for text in plain if between in text]
    if joined and len(marks) > 1:
        log.warning(f"column {name}: {joined[0]} is read as {joined[0].replace(between, '')}")
    return np.array([float(text.replace(between, "").replace(decimal, ".")) for text in plain])


def decimal_marks(plain: Sequence[str]) -> list[str]:
    """The pairs of a decimal mark and a mark between thousands with which all texts are numbers."""
    fitting = []
    for decimal, between in ((".", ","), (",", ".")):
        grouped = rf"[1-9]\d{{0,2}}([{between}]\d{{3}})+([{decimal}]\d*)?"
        digits = rf"{grouped}|(?=[{decimal}]?\d)\d*([{decimal}]\d*)?(e[-+]?\d+)?"
        if all(re.fullmatch(rf"[-+]?({digits}|inf(inity)?)", text, re.IGNORECASE) for text in plain):
            fitting.append(decimal + between)
    return fitting


def decimal_mark(column: "pandas.Series[str]") -> str | None:
    """The decimal mark with which a column of text is read as numbers; None if it has no mark, or other texts."""
    plain = [re.sub(UNITS, "", text) for text in clean_cells(column).dropna().unique()]
    marks = decimal_marks(plain) if any(mark in text for text in plain for mark in ".,") else []
    return marks[0][0] if marks else None


def write_frame(frame: "pandas.DataFrame", path: Path) -> None:
    """Write a table to a .csv, .tsv or .parquet, with its index unless that only numbers the rows."""
    write_frames([(frame, path, {})])


def write_frames(frames: Sequence[tuple["pandas.DataFrame", Path, Mapping[str, str]]]) -> None:
    """Write tables as ``write_frame``, all or none of them, text in the form of ``read_frame``."""
    import pandas

    with ExitStack() as files:
        for frame, path, form in frames:
            index, temporary = not isinstance(frame.index, pandas.RangeIndex), files.enter_context(atomic(path))
            if path.suffix == ".parquet":
                frame.to_parquet(temporary, index=index or None)
            else:
                frame.to_csv(temporary, index=index, **{"sep": DELIMITERS[path.suffix], **form})
