"""From files and DataFrames to a dataset: columns are read, the table is cleaned, and its columns are learned."""

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import compress, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from ncsn.data.arrays import read_arrays
from ncsn.data.columns import Column, Columns, Discrete, Field, Number, learn_columns, name_of
from ncsn.data.transforms import FAR
from ncsn.machine.messages import bar, log
from ncsn.machine.storage import sha256_of
from ncsn.settings import DELIMITERS, TABLES
from ncsn.tables.constraints import warn_of_panel
from ncsn.tables.learning import Table
from ncsn.validation import counted, one_line, opened_as

if TYPE_CHECKING:
    import pandas
    import pyarrow

SAMPLE = 100  # lines that decide the delimiter
UNCOUNTED = re.compile(r'(?<![^\r\n,;\t])"[^"]*(?:""[^"]*)*"|(?<=[,;])\t')  # quoted cells, and tabs after a delimiter
MISSING = ["", "?", "-", "--", ".", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"]
MISSING += ["#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NULL!"]
CODE = r"0\d+"  # such as the postal code 00501: text, although it has only digits
OFFSET = r":\d\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"  # from UTC, after a time
DAY = 86_400  # seconds
ROWS_AT_ONCE = 2**16  # which are transformed together
BOOLEANS = ("False", "True")
ARROW_TEXT = "arrow string"
OTHER = "other"  # what rare categories become
OBJECTS = ("string", "boolean", "integer", "floating", "mixed-integer-float", "date", "datetime", "datetime64", "empty")
ALLOWED = "expected numbers, booleans, text, dates, or categories of these; .astype(str) converts to text"
UNNAMED = ("", "Unnamed: 0")  # names of an index that pandas has written to a file
MAX_MISSING = 0.9  # share of rows; columns with more missing values say too little
MIN_ROWS = 10
MIN_ROWS_OF_CATEGORY, MAX_CATEGORIES = 5, 50
BEYOND = 0.5  # standard deviations by which held-out numbers may exceed a column's bounds without a warning

# Files.


def read_frame(path: Path) -> "pandas.DataFrame":
    """The table in a .csv or .tsv, with all cells as text, or in a .parquet, with its dtypes.

    The ``attrs`` of text say how it is written: pandas' sep, encoding and lineterminator.
    Raises ValueError if it cannot be read, and as ``check_frame`` does.
    """
    import pandas

    with opened_as("a table", path):
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            return check_frame(frame_of_arrow(parquet.read_table(path)))
        if path.suffix.lower() not in DELIMITERS:
            raise ValueError(f"expected {', '.join(TABLES)}")
        text, encoding = read_text(path)
        if re.fullmatch("sep=.?", first := text.partition("\n")[0].strip()):
            raise ValueError(f"its first line is {first!r} instead of column names; delete this line")
        delimiter = delimiter_of(text, DELIMITERS[path.suffix.lower()])
        names, *rows = cells_in(text, delimiter)
        frame = check_frame(pandas.DataFrame(rows, columns=names, dtype=str))
        frame.attrs = {"sep": delimiter, "encoding": encoding, "lineterminator": "\r\n" if "\r\n" in text else "\n"}
        return frame


def read_text(path: Path) -> tuple[str, str]:
    """The text in a file, and its encoding.  Raises UnicodeDecodeError if it has none of those that are common."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8"
    encoding = "utf-8-sig" if content.startswith(BOM_UTF8) else encoding
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError:
        text = content.decode("cp1252")
    log.warning(f"{path} is not UTF-8; it is read as Windows-1252")
    return text, "cp1252"


def frame_of_arrow(table: "pyarrow.Table") -> "pandas.DataFrame":
    """Arrow's table as a DataFrame, where whole numbers with gaps and nested values stay what they are."""
    import pandas
    import pyarrow

    is_nested, is_integer = pyarrow.types.is_nested, pyarrow.types.is_integer

    def exact_dtype(arrow: pyarrow.DataType) -> pandas.api.extensions.ExtensionDtype:
        name = str(arrow).replace("uint", "UInt").replace("int", "Int")  # such as Int64
        return pandas.ArrowDtype(arrow) if is_nested(arrow) else pandas.api.types.pandas_dtype(name)

    frame = table.to_pandas()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in frame and (is_nested(column.type) or (is_integer(column.type) and frame[name].dtype.kind == "f")):
            frame[name] = column.to_pandas(types_mapper=exact_dtype).array
    return frame


def read_rows(path: Path) -> "pandas.DataFrame | np.ndarray":
    """The rows in a table or in an array.  Raises ValueError if it cannot be read, or holds several arrays."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return read_frame(path)
    arrays = read_arrays(path)
    if len(arrays) != 1:
        raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected one array (rows, columns)")
    return arrays.popitem()[1]


def delimiter_of(text: str, usual: str) -> str:
    """The first delimiter that all lines have equally often outside of quotes."""
    sample = islice(StringIO(UNCOUNTED.sub("", text), newline=""), SAMPLE)
    lines = [line for line in sample if line.strip("\r\n")]

    def splits_evenly(delimiter: str) -> bool:
        return len({line.count(delimiter) for line in lines}) == 1 and delimiter in lines[0]

    return next(filter(splits_evenly, "\t;,"), usual)


def cells_in(text: str, delimiter: str) -> list[list[str]]:
    """The cells of each line.

    Raises ValueError for a line whose number of cells differs from that of the first, and for misplaced quotes.
    """
    rows = list[list[str]]()
    try:
        for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True):
            rows += [row] if row else []
            if row and len(row) != len(rows[0]):
                raise ValueError(f"row {len(rows)} has {counted(len(row), 'cell')}, but the first has {len(rows[0])}")
    except csv.Error as error:
        raise ValueError(f"row {len(rows) + 1}: {error}; are its quotes in place?") from error
    if not rows:
        raise ValueError("it is empty")
    return rows


# DataFrames.


def frame_in(rows: object) -> "pandas.DataFrame | None":
    """``rows`` as a DataFrame, or None for arrays.

    Raises ValueError for a Series, for a table without columns, and for columns without unique names.
    """
    if hasattr(rows, "to_arrow"):  # polars' frames
        rows = rows.to_arrow()
    if hasattr(rows, "to_pandas"):
        import pyarrow

        rows = pyarrow.Table.from_batches([rows]) if isinstance(rows, pyarrow.RecordBatch) else rows
        rows = frame_of_arrow(rows) if isinstance(rows, pyarrow.Table) else rows.to_pandas()
    if not isinstance(rows, Mapping) and not hasattr(rows, "columns"):
        if hasattr(rows, "to_frame"):
            raise ValueError("a Series is a single column; to_frame() turns it into a table")
        return None
    import pandas

    try:
        frame = pandas.DataFrame(rows)
    except ValueError as error:  # a dict whose columns have different lengths, or none
        raise ValueError(f"expected a dict of columns, such as {{'age': [40, 50]}} ({one_line(error)})") from error
    return check_columns(frame)


def check_frame(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """Raises ValueError for a table without rows, and as ``check_columns`` does."""
    if not len(check_columns(frame)):
        raise ValueError(f"the table has 0 rows and {len(frame.columns)} columns; it needs at least one of each")
    return frame


def check_columns(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """Raises ValueError for a table without columns, and for columns without unique names."""
    if frame.columns.nlevels > 1:
        raise ValueError("the columns are a MultiIndex; give each column a single name")
    names = [name_of(label) for label in frame.columns]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"several columns are called {repeated[0]!r}; column names must be unique")
    if not names:
        raise ValueError(f"the table has {len(frame)} rows and 0 columns; it needs at least one column")
    return frame


def field_of(column: "pandas.Series") -> Field:
    """The type of a DataFrame's column; a label that is neither text nor a whole number becomes text.

    Raises ValueError for an unsupported dtype.
    """
    import pandas

    whole = isinstance(column.name, int | np.integer) and not isinstance(column.name, bool)
    label = int(column.name) if whole else str(column.name)
    dtype = str(column.dtype)
    if isinstance(column.dtype, pandas.CategoricalDtype):
        levels = column.cat.categories.infer_objects()
        inferred = pandas.api.types.infer_dtype(levels)
        if inferred in ("string", "boolean", "integer", "floating", "datetime64", "empty"):
            texts, ordered = tuple(map(str, levels)), bool(column.cat.ordered)
            return Field(label=label, dtype="category", of=str(levels.dtype), levels=texts, ordered=ordered)
    elif column.dtype.kind in "biufM":
        if isinstance(column.dtype, pandas.SparseDtype) and column.dtype != pandas.SparseDtype(column.dtype.subtype):
            dtype = str(column.dtype.subtype)  # pandas can't read the names of sparse dtypes with other fill values
        return Field(label=label, dtype=dtype)
    elif (inferred := pandas.api.types.infer_dtype(column, skipna=True)) in OBJECTS:
        if dtype == "string":
            dtype = f"string[{column.dtype.storage}]"
        elif dtype == "string[pyarrow]":  # a name that pandas uses for its own type, too
            inferred = ARROW_TEXT
        return Field(label=label, dtype=dtype, of=inferred)
    advice = ".dt.total_seconds() converts to numbers" if column.dtype.kind == "m" else ALLOWED
    raise ValueError(f"column {name_of(label)} has dtype {dtype} ({inferred}); {advice}")


def clean_cells(column: "pandas.Series[str]") -> "pandas.Series[str]":
    """Cells as text without surrounding blanks; missing cells and words for missing values are NaN."""
    texts = column.map(str) if column.dtype == object else column  # astype(str) decodes bytes as UTF-8
    cells = texts.astype(str).str.strip().mask(column.isna())
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
    return cells.map(dict(zip(values, dates, strict=True))) if dates.notna().all() else cells


def numbers_in(texts: Sequence[str], name: str) -> Float64[np.ndarray, "n"] | None:
    """The numbers in texts such as 1,200 and 0.5; None if any of them isn't a number.

    All cells of the column together decide whether the decimal mark is a point or a comma.
    """
    if not (marks := decimal_marks(texts)):
        return None
    decimal, thousands = marks[0]
    grouped = [text for text in texts if thousands in text]
    if grouped and len(marks) > 1:
        log.warning(f"column {name}: {grouped[0]} is read as {grouped[0].replace(thousands, '')}")
    return np.array([float(text.replace(thousands, "").replace(decimal, ".")) for text in texts])


def decimal_marks(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of a decimal mark and a mark between thousands with which all texts are numbers."""
    pairs = []
    for decimal, thousands in ((".", ","), (",", ".")):
        grouped = rf"[1-9]\d{{0,2}}([{thousands}]\d{{3}})+([{decimal}]\d*)?"
        digits = rf"{grouped}|(?=[{decimal}]?\d)\d*([{decimal}]\d*)?(e[-+]?\d+)?"
        if all(re.fullmatch(rf"[-+]?({digits}|inf(inity)?)", text, re.IGNORECASE) for text in texts):
            pairs.append((decimal, thousands))
    return pairs


def decimal_mark(column: "pandas.Series[str]") -> str | None:
    """The decimal mark with which a column of text is read as numbers; None if it has no mark, or other texts."""
    texts = clean_cells(column).dropna().unique().tolist()
    marks = decimal_marks(texts) if any(mark in text for text in texts for mark in ".,") else []
    return marks[0][0] if marks else None


def zone_of(dtype: object) -> str:
    """The time zone of a date dtype, or an empty string."""
    import pandas

    dtype = pandas.api.types.pandas_dtype(dtype or "float64")
    zone = getattr(dtype, "tz", None) or getattr(getattr(dtype, "pyarrow_dtype", None), "tz", None)
    return str(zone or "")


def days_of(cells: "pandas.Series", name: str, *, zone: str | None = None, first: int = 0) -> Float64[np.ndarray, "n"]:
    """Dates as days since 1970, in local time if they have a time zone; NaN if missing.

    ``zone``: the time zone that they must have, "" for none; by default any.  If it isn't empty, text must have an
    offset; otherwise text without one is in UTC.
    ``first``: the number of rows before these.
    Raises ValueError for another time zone, and for what isn't a date.
    """
    import pandas

    if cells.dtype.kind == "M":
        zone_of_cells = zone_of(cells.dtype)
        if zone not in (None, zone_of_cells):
            zones = f"{zone_of_cells or 'none'}, but the run has {zone or 'none'}"
            raise ValueError(f"{name} has dates with time zone {zones}; convert them")
        times = pandas.to_datetime(cells.dt.tz_localize(None) if zone_of_cells else cells)  # also those of Arrow
    else:
        texts = clean_cells(cells)
        strict = bool(zone) or cells.dtype.kind in "iuf"  # a number is no year
        dated = texts.where(texts.str.contains(OFFSET, na=False)) if strict else texts
        times = pandas.to_datetime(dated, format="ISO8601", utc=True, errors="coerce")
        times = times.dt.tz_convert(zone or "UTC").dt.tz_localize(None)
        for row in np.flatnonzero(texts.notna() & times.isna())[:1]:
            allowed = f"date in {zone}, such as 2024-12-31T12:00+01:00" if zone else "date such as 2024-12-31"
            raise ValueError(f"{name} {str(cells.iloc[row])!r} (row {first + row + 1}) is not a {allowed}")
    instants = times.to_numpy("datetime64[us]")
    days = (instants - np.datetime64(0, "us")) / np.timedelta64(10**6 * DAY, "us")
    return np.where(np.isnat(instants), np.nan, days)


# Tables.


@dataclass(frozen=True)
class Cells:
    """Columns of numbers.

    ``rows``: (n, d), in double precision, or single precision if the array has it; NaN where a cell is missing.
    ``columns``: their names, and what the numbers stand for: 0, 1, … for texts, or days since 1970.
    ``fields``: the types of all columns of the DataFrame, including those that are left out.
    """

    rows: np.ndarray
    columns: tuple[Column, ...]
    fields: tuple[Field, ...] = ()

    def keep(self, chosen: Bool[np.ndarray, "d"], why: str) -> "Cells":
        """Keep only these columns; log the names of the others and why they are left out."""
        if not chosen.all():
            left_out = [column.name or "(no name)" for column in compress(self.columns, ~chosen)]
            log.warning(f"columns left out because {why}: {', '.join(left_out)}")
        return replace(self, rows=self.rows[:, chosen], columns=tuple(compress(self.columns, chosen)))

    def keep_varying(self, rows: np.ndarray | slice = slice(None)) -> "Cells":
        """Keep only the columns that vary among these rows.  Raises ValueError if there are none."""
        varying = np.array([varies(column[~np.isnan(column)]) for column in self.rows[rows].T], bool)
        if not varying.any():
            raise ValueError(f"no column that varies is left in the table of {counted(len(self.rows[rows]), 'row')}")
        return self.keep(varying, "all training rows, or all but one, have the same value (up to rounding)")


def varies(column: Float[np.ndarray, "m"]) -> bool:
    """Whether numbers have a density: at least two of them differ from the others by more than rounding."""
    if len(column) < 3 or min((column > column.min()).sum(), (column < column.max()).sum()) < 2:
        return False
    rounding = 1e-15 if column.dtype == np.float64 else 1e-7
    return bool(column.std(dtype=np.float64) > rounding * abs(column.mean(dtype=np.float64)))


def table_of_array(rows: Shaped[np.ndarray, "..."], place: str = "the table") -> Cells:
    """An array (n, d) of numbers, whose columns are called 0, 1, ….  Raises ValueError for anything else."""
    if rows.ndim != 2 or rows.dtype.kind not in "buif":
        raise ValueError(f"{place} has shape {rows.shape} and dtype {rows.dtype}; expected numbers (rows, columns)")
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    columns = tuple(Column(name=str(i)) for i in range(rows.shape[1]))
    return check_range(Cells(rows, columns), place)


def table_of_frame(frame: "pandas.DataFrame", place: str = "the table", *, text: bool = False) -> Cells:
    """The columns of a DataFrame, where text may contain numbers or dates.

    ``text``: whether all cells are text because they come from a text file.
    Raises ValueError for numbers instead of names, infinite numbers, and unsupported dtypes.
    """
    names = [name_of(label) for label in frame.columns]
    if all(map(is_number, names)) and names != [str(i) for i in range(len(names))]:
        needed = "its first line must hold column names" if text else "rename them, so that they aren't numbers"
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; {needed}")
    if index := [str(name) for name in frame.index.names if name is not None]:
        log.warning(f"the index ({', '.join(index)}) is left out; reset_index() makes it a column")
    fields = [Field(label=cells.name) if text else field_of(cells) for _, cells in frame.items()]
    rows = np.empty((len(frame), len(names)))
    columns = list[Column]()
    for i, name in enumerate(bar(names, "columns")):
        rows[:, i], column = read_column(frame.iloc[:, i].rename(name))
        columns.append(column)
    return check_range(Cells(rows, tuple(columns), tuple(fields)), place)


def is_number(text: str) -> bool:
    """Whether a column name is a number, or a word for a missing value."""
    number = r"[-+]?[$€£]?([\d.,]*\d[\d.,]*(e[-+]?\d+)?|inf(inity)?)"
    return text.strip() in MISSING or re.fullmatch(number, text.strip(), re.IGNORECASE) is not None


def read_column(cells: "pandas.Series") -> tuple[Float64[np.ndarray, "n"], Column]:
    """A column of a DataFrame as numbers, NaN where a cell is missing, and what these stand for."""
    import pandas

    name = str(cells.name)
    source = cells
    if cells.dtype.kind not in "uifMb" and not isinstance(cells.dtype, pandas.CategoricalDtype):
        texts = clean_cells(cells)
        cells = texts if texts.str.fullmatch(CODE).any() else parse(cells)
    if cells.isna().all():
        return np.full(len(cells), np.nan), Column(name=name)
    if cells.dtype.kind in "uif":
        numbers = cells.to_numpy(float, na_value=np.nan)
        if np.nanmax(abs(numbers)) > 2**53 and source.astype(str).str.fullmatch(r"\s*[-+]?\d+\s*").any():
            log.warning(f"column {name} has whole numbers beyond 2^53, which are rounded to double precision")
        return numbers, Column(name=name)
    if cells.dtype.kind == "M":
        return days_of(cells, name), Column(name=name, date=True)
    if cells.dtype.name != "category":
        cells = cells.astype(str).mask(cells.isna()).astype("category")
    cells = cells.cat.remove_unused_categories()
    codes = np.where(cells.isna(), np.nan, cells.cat.codes)
    categories = tuple(map(str, cells.cat.categories))
    if categories in (BOOLEANS[:1], BOOLEANS[1:]):  # True is 1 even if nothing is False
        codes = codes + BOOLEANS.index(categories[0])
        categories = BOOLEANS
    return codes, Column(name=name, categories=categories)


def check_range(table: Cells, place: str) -> Cells:
    """Return the table.  Raises ValueError for infinite numbers, and for numbers whose squares are infinite."""
    for what, limit in (("infinite numbers", np.inf), ("numbers beyond 1e150", 1e150)):
        if (wrong := (np.abs(table.rows, dtype=float) >= limit).any(0)).any():
            listed = ", ".join(column.name for column in compress(table.columns, wrong))
            raise ValueError(f"{place} has {what} in {listed}; leave unknown values blank, or change the unit")
    return table


def clean(table: Cells) -> Cells:
    """Leave out empty rows and columns that can't be learned, and log which.

    Raises ValueError if nothing is left.
    """
    is_index = [
        column.name in UNNAMED and x[0] in (0, 1) and bool((x - x[0] == np.arange(len(x))).all())
        for column, x in zip(table.columns, table.rows.T, strict=True)
    ]
    table = table.keep(~np.array(is_index, bool), "they have no name and only number the rows")
    warn_of_panel(table.columns, table.rows.astype(np.float64))
    table = merge_rare_texts(table)
    mostly_missing = np.isnan(table.rows).mean(0) > MAX_MISSING
    table = table.keep(~mostly_missing, f"more than {MAX_MISSING:.0%} of their cells are missing")
    empty = np.isnan(table.rows).all(1)
    if 0 < empty.sum() < len(empty):
        log.warning(f"empty rows left out: {empty.sum():,} of {len(empty):,}")
        table = replace(table, rows=table.rows[~empty])
    table = table.keep_varying()
    if len(table.rows) < MIN_ROWS:
        raise ValueError(f"rows found: {len(table.rows)}; training needs at least {MIN_ROWS}, ideally 1,000")
    gaps = np.isnan(table.rows)
    if count := gaps.any(1).sum():
        most = int(np.argmax(gaps.sum(0)))
        facts = f"{count:,} of {len(gaps):,}, most often in {table.columns[most].name} ({gaps[:, most].sum():,})"
        # Whether values are missing at random (Rubin) can't be told from a table.
        caveat = "results are biased if values are missing because of what they are"
        log.warning(f"rows with missing values: {facts}; training uses their other cells; {caveat}")
    return table


def merge_rare_texts(table: Cells) -> Cells:
    """Merge rare texts into one category, unless the DataFrame declares them; leave out columns of few others."""
    rows, columns = table.rows.copy(), [*table.columns]
    kept = np.ones(len(columns), bool)
    declared = {field.name for field in table.fields if field.dtype == "category"}
    for i, column in enumerate(table.columns):
        texts = np.array(column.categories)
        if not texts.size:
            continue
        known = ~np.isnan(rows[:, i])
        codes = rows[known, i].astype(int)
        counts = np.bincount(codes, minlength=len(texts))
        rank = np.argsort(np.argsort(-counts, kind="stable"))
        rare = (counts < MIN_ROWS_OF_CATEGORY) | ((len(texts) > MAX_CATEGORIES) & (rank >= MAX_CATEGORIES - 1))
        kept[i] = counts[rare].sum() <= known.sum() / 2
        if kept[i] and rare.sum() > 1 and column.name not in declared:
            log.warning(f"{rare.sum()} rare values of {column.name} are merged into {OTHER!r}")
            frequent = ~rare & (texts != OTHER)
            rows[known, i] = np.where(frequent, frequent.cumsum() - 1, frequent.sum())[codes]
            columns[i] = replace(column, categories=(*compress(column.categories, frequent), OTHER), merged=True)
    table = replace(table, rows=rows, columns=tuple(columns))
    return table.keep(kept, "they are text, and most of their values are rare")


def read_table(name: str) -> Table:
    """The rows in a .csv, .tsv or .parquet, or in an array.  Raises ValueError if there is nothing to learn."""
    path = Path(name)
    rows = read_rows(path)
    if isinstance(rows, np.ndarray):
        return rows_of(name, table_of_array(rows, name))
    return rows_of(name, table_of_frame(rows, name, text=path.suffix.lower() != ".parquet"))


def rows_of(name: str, table: Cells) -> Table:
    """The rows of a table as a dataset, with a tenth each for validation and testing.

    Raises ValueError if there is nothing to learn from the table.
    """
    table = clean(table)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(table.rows), generator=generator)
    tenth = len(order) // 10
    validation, test, train = order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]
    table = table.keep_varying(train.numpy())
    rows = torch.from_numpy(table.rows)
    columns = learn_columns(rows[train], table.columns, every=rows)
    columns = replace(columns, fields=table.fields, never=never_observed(columns, table.rows[train]))
    warn_of_far_rows(columns, rows[order[: 2 * tenth]].double(), np.nanstd(table.rows, 0))
    # Numbers on a grid are placed at random in their cells.
    chunks = torch.split(rows, ROWS_AT_ONCE)
    z = torch.cat([columns.with_gaps(columns.forward(chunk, generator)).float() for chunk in chunks])
    numbers = z[:, : len(columns.numbers)]
    numbers.copy_(numbers.clamp(-FAR, FAR))
    texts = sorted((column.name, column.categories) for column in table.columns if column.categories)
    dates = tuple(column.name for column in table.columns if column.date)
    header = np.frombuffer(repr((columns.names, texts, dates)).encode(), np.uint8)
    return Table(
        train=z[train],
        validation=z[validation],
        test=z[test],
        name=name,
        transform=columns,
        notes=columns.describe(),
        sha256=sha256_of([header, table.rows]),
    )


def never_observed(columns: Columns, rows: Float[np.ndarray, "n d"]) -> tuple[tuple[str, str, float], ...]:
    """Triples of a column, a discrete column and a value: in rows with this value, the first column has only gaps."""
    gappy = [i for i, column in enumerate(columns.columns) if column.gaps]
    missing = np.isnan(rows[:, gappy])
    triples = list[tuple[str, str, float]]()
    for column, cells in zip(columns.columns, rows.T, strict=True):
        for value in column.values if isinstance(column, Discrete) else ():
            missing_there = missing[cells == value]
            always = np.flatnonzero(missing_there.all(0)) if len(missing_there) >= MIN_ROWS else ()
            triples += [(columns.names[gappy[place]], column.name, value) for place in always]
    return tuple(triples)


def warn_of_far_rows(columns: Columns, x: Float64[Tensor, "m d"], stds: Float[np.ndarray, "d"]) -> None:
    """Log how many numbers of held-out rows are impossible, or well outside the bounds of samples."""
    bounds = [column.bounds if isinstance(column, Number) else (-np.inf, np.inf) for column in columns.columns]
    low, high = torch.tensor(bounds, dtype=torch.float64).T
    beyond = (x - x.clamp(low, high)).abs() > BEYOND * torch.from_numpy(stds)
    possible = torch.cat([columns.possible(chunk) for chunk in torch.split(x, ROWS_AT_ONCE)])
    if count := int((~possible | beyond).sum()):
        limit = f"losses clip such numbers at {FAR:g} standard deviations, evaluations at the nearest possible sample"
        log.warning(f"found {counted(count, 'held-out number')} well outside the range of the training data; {limit}")
