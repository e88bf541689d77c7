"""Table files: columns of text become numbers, dates or categories, and are written again."""

import csv
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from ncsn.kinds.reading import DELIMITERS, TABLES
from ncsn.kinds.stacks import arrays
from ncsn.machine.messages import bar, log
from ncsn.storage import atomic
from ncsn.validation import opened_as

if TYPE_CHECKING:
    import pandas

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
