"""Table files: columns of text become numbers, dates or categories, and are written again."""

import csv
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
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
BOOLEANS = ("False", "True")
SAMPLE = 100  # lines that decide the delimiter
UNCOUNTED = re.compile(r'(?<![^\r\n,;\t])"[^"]*(?:""[^"]*)*"|(?<=[,;])\t')  # quoted cells, and tabs after a delimiter


def read_frame(path: Path) -> "pandas.DataFrame":
    """The table in a .csv or .tsv, with all cells as text, or in a .parquet, with its dtypes.

    Raises ValueError if it cannot be read.
    """
    import pandas

    with opened_as("a table", path):
        if path.suffix.lower() == ".parquet":
            return pandas.read_parquet(path)
        if path.suffix.lower() not in DELIMITERS:
            raise ValueError(f"expected {', '.join(TABLES)}")
        content = path.read_bytes()
        try:
            text = content.decode("utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
            log.warning(f"{path} is not UTF-8; it is read as Windows-1252")
        names, *rows = cells_in(text, DELIMITERS[path.suffix.lower()])
        return pandas.DataFrame(rows, columns=names, dtype=str)


def read_rows(path: Path) -> "pandas.DataFrame | np.ndarray":
    """The rows in a table or in an array.  Raises ValueError if it cannot be read, or holds several arrays."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return read_frame(path)
    found = arrays(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {', '.join(found) or 'nothing'}; expected one array (rows, columns)")
    return found.popitem()[1]


def cells_in(text: str, usual: str) -> Iterator[list[str]]:
    """The cells of each line, split at the first delimiter that all lines have equally often outside of quotes.

    Raises ValueError for a line whose number of cells differs from that of the first, and for misplaced quotes.
    """
    lines = list(StringIO(text, newline=""))
    first = islice(StringIO(UNCOUNTED.sub("", text), newline=""), SAMPLE)
    counted = [line for line in first if line.strip("\r\n")]
    fitting = (each for each in "\t;," if len({line.count(each) for line in counted}) == 1 and each in counted[0])
    delimiter = next(fitting, usual)
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
    plain = [re.sub(r"(?<![^-])[$€£]\s*|\s*%$", "", text) for text in texts]
    for decimal, between in (".,", ",."):
        grouped = rf"[1-9]\d{{0,2}}([{between}]\d{{3}})+([{decimal}]\d*)?"
        digits = rf"{grouped}|(?=[{decimal}]?\d)\d*([{decimal}]\d*)?(e[-+]?\d+)?"
        if all(re.fullmatch(rf"[-+]?({digits}|inf(inity)?)", text, re.IGNORECASE) for text in plain):
            joined = [text for text in plain if between in text]
            if joined and not any(decimal in text for text in plain):
                log.warning(f"column {name}: {joined[0]} is read as {joined[0].replace(between, '')}")
            return np.array([float(text.replace(between, "").replace(decimal, ".")) for text in plain])
    return None


def write_frame(frame: "pandas.DataFrame", path: Path) -> None:
    """Write a table to a .csv, .tsv or .parquet, with its index unless that only numbers the rows."""
    import pandas

    index = not isinstance(frame.index, pandas.RangeIndex)
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=index or None)
        else:
            frame.to_csv(temporary, sep=DELIMITERS[path.suffix], index=index)
