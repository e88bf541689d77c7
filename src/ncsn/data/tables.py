"""Tables: files and frames become columns of numbers, and a column's own units become the model's."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor

from ncsn.data.sources import DELIMITERS
from ncsn.data.units import steady
from ncsn.machine.messages import log
from ncsn.storage import atomic
from ncsn.validation import one_line

SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
BLANKS = ("", "?", "-", "--", ".", "None", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NULL!")
CODES = (-9, -99, -999, -9999, -99999, 999, 9999, 99999)  # what is written for a number that is not known
UNNAMED = ("", "Unnamed: 0")  # of an index that pandas has written, and read again
SCARCE = 0.9  # of the rows: a column with more blanks says too little
RARE, MOST = 5, 50  # rows that a category needs; categories that a column may have
OTHER, BOOLEANS = "other", ("False", "True")


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, or in the single one of an array; NaN where a cell is blank.
    ``categories``: the values of columns of text, which ``rows`` has as 0, 1, ….
    ``dates``: columns of dates, which ``rows`` has as days since 1970.
    ``ordered``: columns of text whose order is the user's.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    ordered: tuple[str, ...] = ()

    @property
    def pairs(self) -> Iterator[tuple[str, np.ndarray]]:
        """The columns with their names."""
        return zip(self.names, self.rows.T, strict=True)

    def only(self, kept: Bool[np.ndarray, "d"]) -> "Table":
        """The columns that are ``kept``."""
        names = tuple(compress(self.names, kept))
        categories = {name: values for name, values in self.categories.items() if name in names}
        dates = tuple(name for name in self.dates if name in names)
        return replace(self, names=names, rows=self.rows[:, kept], categories=categories, dates=dates)

    @property
    def learnable(self) -> "Table":
        """What can be learned from: rows that are not all blank, of columns that vary; prints what is left out.

        Rare categories become one.  Raises ValueError if nothing is left.
        """
        named = np.array([name not in UNNAMED or not counts_rows(column) for name, column in self.pairs])
        if not named.all():
            log.warning("the column without a name is left out, because it numbers the rows")
        table = self.only(named).grouped()
        for line in table.doubts():
            log.warning(line)
        blank = np.isnan(table.rows)
        empty, scarce = blank.all(0), blank.mean(0) > SCARCE
        if (scarce & ~empty).any():
            names = ", ".join(compress(table.names, scarce & ~empty))
            log.warning(f"columns that are blank in more than {SCARCE:.0%} of the rows are left out: {names}")
        if empty.any():
            log.warning(f"columns without a value are left out: {', '.join(compress(table.names, empty))}")
        known = ~blank[:, ~scarce].all(1)
        known |= not known.any()
        if not known.all():
            log.warning(f"{(~known).sum():,} of {len(known):,} rows are blank, and are left out")
        table = replace(table.only(~scarce), rows=table.rows[known][:, ~scarce]).varied()
        if len(table.rows) < 10:
            raise ValueError(f"there are {len(table.rows)} examples; at least 10 are needed, better 1,000")
        blank = np.isnan(table.rows)
        if rows := blank.any(1).sum():
            most = blank.sum(0).argmax()
            facts = (
                f"{rows:,} of {len(blank):,} rows have blanks, most in {table.names[most]} ({blank[:, most].sum():,})"
            )
            # Rubin's missing at random, which no table can say of itself.
            caveat = "results mislead where a value is missing because of what it is"
            log.warning(f"{facts}: training uses the other cells of these rows; {caveat}")
        return table

    def varied(self, part: Int[np.ndarray, "m"] | slice = slice(None)) -> "Table":
        """The columns that vary in a ``part`` of the rows, in two of them or more; prints the others.

        Raises ValueError if there are none.
        """
        varied = np.array([varies(column[~np.isnan(column)]) for column in self.rows[part].T], bool)
        if not varied.any():
            raise ValueError(f"no column of numbers varies in the {len(self.rows[part]):,} rows; one must")
        if not varied.all():
            names = ", ".join(compress(self.names, ~varied))
            log.warning(f"columns that do not vary, but in one row to learn from, are left out: {names}")
        return self.only(varied)

    def split(self, generator: torch.Generator) -> tuple["Table", tuple[Tensor, ...]]:
        """What can be learned from, and its rows for validation, for testing and to learn from.

        Where cells are missing, only complete rows are for testing, a quarter of them at most.
        """
        table = self.learnable
        tenth, order = len(table.rows) // 10, torch.randperm(len(table.rows), generator=generator)
        chosen, missing = torch.arange(tenth, 2 * tenth), torch.from_numpy(np.isnan(table.rows).sum(1))
        if bool(missing.any()):
            tests = min(tenth, int((missing == 0).sum()) // 4)
            # From the end, because the first of the others are for validation, which needs as many gaps as training.
            chosen = len(order) - 1 - missing[order].flip(0).argsort(stable=True)[:tests]
            if tests < 25:
                log.warning(f"{tests} complete rows are for testing: evaluations say little")
        others = order[torch.ones(len(order), dtype=torch.bool).index_fill(0, chosen, False)]
        validation, test, learned = others[:tenth], order[chosen], others[tenth:]
        return table.varied(learned.numpy()).sorted_by(learned.numpy()), (validation, test, learned)

    def grouped(self) -> "Table":
        """The columns whose text are categories, of which rare ones are one; prints what it changes."""
        rows, categories, kept = self.rows.copy(), dict(self.categories), np.ones(len(self.names), bool)
        for name, values in self.categories.items():
            place = self.names.index(name)
            codes = rows[:, place]
            known = ~np.isnan(codes)
            counts = np.bincount(codes[known].astype(int), minlength=len(values))
            rank = np.argsort(np.argsort(-counts, kind="stable"))
            rare = (counts < RARE) | ((len(values) > MOST) & (rank >= MOST - 1))
            kept[place] = counts[rare].sum() <= known.sum() / 2
            if not kept[place]:
                # In their order letters come after digits: that is what keeps numbers from being read as such.
                log.warning(f"column {name} is left out: text with {len(values):,} values, such as {values[-1]!r}")
            elif rare.sum() > 1:
                listed = [value for value, few in zip(values, rare, strict=True) if not few and value != OTHER]
                number = {value: i for i, value in enumerate(listed)}
                new = np.array([number.get(value, len(listed)) for value in values])
                rows[known, place] = new[codes[known].astype(int)]
                categories[name] = (*listed, OTHER)
                log.warning(f"{rare.sum()} rare values of {name} become {OTHER!r}")
        return replace(self, rows=rows, categories=categories).only(kept)

    def doubts(self) -> list[str]:
        """What is probably no measurement, a line each: numbers of rows, and codes for blanks.

        Such a code is far from all others, and there several times.
        """
        lines = []
        for name, column in self.pairs:
            if counts_rows(column):
                lines.append(f"column {name} numbers the rows; leave it out if it is no measurement")
            for code in CODES if name not in self.categories else ():
                others = column[(column != code) & ~np.isnan(column)]
                times = int((column == code).sum())
                if times > 1 and len(others) and np.abs(others - code).min() > 2 * max(np.ptp(others), 1):
                    lines.append(f"column {name} is {code} in {times} rows; leave these blank if that says not known")
        return lines

    def sorted_by(self, part: Int[np.ndarray, "m"] | slice = slice(None)) -> "Table":
        """Categories in the order of what they go with in a ``part`` of the rows, as alike ones are neighbours then.

        The order of their means on the first principal component of all columns, the categories one by one.
        """
        chosen = [name for name in self.categories if name not in self.ordered and len(self.categories[name]) > 2]
        if not chosen:
            return self
        rows, categories = self.rows.copy(), dict(self.categories)
        seen, columns = self.rows[part], []
        for name, column in zip(self.names, seen.T, strict=True):
            if name in self.categories:
                columns += [column == code for code in range(len(self.categories[name]))]
            else:
                ranks = np.argsort(np.argsort(column, kind="stable"), kind="stable").astype(float)
                blank = np.isnan(column)  # ranks beyond the others
                ranks[blank] = (len(column) - blank.sum() - 1) / 2
                columns.append(ranks)
        x = np.stack(columns, 1).astype(float)
        x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
        first = np.linalg.eigh(x.T @ x)[1][:, -1]
        score = x @ (first * np.sign(first[np.argmax(abs(first))]))
        for name in chosen:
            place, values = self.names.index(name), self.categories[name]
            known, everywhere = ~np.isnan(seen[:, place]), ~np.isnan(rows[:, place])
            codes = seen[known, place].astype(int)
            counts = np.bincount(codes, minlength=len(values))
            order = np.argsort(np.bincount(codes, score[known], len(values)) / np.maximum(counts, 1), kind="stable")
            rows[everywhere, place] = np.argsort(order)[rows[everywhere, place].astype(int)]
            categories[name] = tuple(values[i] for i in order)
        return replace(self, rows=rows, categories=categories)

    def matched(self, names: Sequence[str], categories: Mapping[str, tuple[str, ...]] | None = None) -> "Table":
        """The same rows by the columns ``names``, in their order, and text by the numbers that a run has for it.

        ``categories``: the run's; text that it has not seen becomes −1, which no column can be, or its ``other``.
        Raises ValueError if a column is missing, or is text where the run has numbers.
        """
        known = categories or {}
        texts = [name for name, values in self.categories.items() if values != BOOLEANS and name not in known]
        if missing := [name for name in names if name not in self.names or name in texts]:
            raise ValueError(f"there is no column of numbers {', '.join(missing)}; the run has {', '.join(names)}")
        if others := [name for name in self.names if name not in names]:
            log.warning(f"columns that the run does not know are left out: {', '.join(others)}")
        rows = self.rows[:, [self.names.index(name) for name in names]]
        for name, values in known.items():
            column = rows[:, names.index(name)]
            number = {value: i for i, value in enumerate(values)}
            unseen, blank = number.get(OTHER, -1), np.isnan(column)
            own = self.categories.get(name)
            texts = [own[int(cell)] if own else f"{cell:.15g}" for cell in column[~blank]]
            column[~blank] = [number.get(text, unseen) for text in texts]
        return Table(tuple(names), rows, known, tuple(name for name in self.dates if name in names))


def counts_rows(column: Float[np.ndarray, "n"]) -> bool:
    """Whether it numbers the rows, from 0 or 1."""
    return len(column) >= 10 and column[0] in (0, 1) and bool((column - column[0] == np.arange(len(column))).all())


def varies(column: Float[np.ndarray, "m"]) -> bool:
    """Whether numbers have a density: two of them or more differ from the others by more than rounding."""
    if len(column) < 3 or min((column > column.min()).sum(), (column < column.max()).sum()) < 2:
        return False
    return not bool(steady(torch.from_numpy(column)[:, None]).any())


def regular(path: Path) -> None:
    """Raises ValueError if there is no such file, or if it is a pipe or a folder."""
    if not path.is_file():
        raise ValueError(f"{path} {'is no file' if path.exists() else 'does not exist'}")


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is mapped, by "".

    Raises ValueError if they cannot be read, or hold Python objects.
    """
    regular(path)
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise whatever they like
        raise unreadable(path, "arrays", error) from error


def unreadable(path: Path, what: str, error: Exception) -> Exception:
    """What a user is told of an ``error`` that a library raises; ``what``: the file should have been."""
    if isinstance(error, MemoryError):
        return error
    reason = "it holds Python objects" if "pickle" in str(error) else one_line(error)
    return ValueError(f"{path} cannot be read as {what} ({reason})")


def read_table(name: str | Path) -> Table:
    """The columns in a .csv, .tsv, .parquet, .npy or .npz; those of an array are called 0, 1, ….

    Raises ValueError if it cannot be read, and as ``table_of``.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if suffix in (".npy", ".npz"):
        found = arrays(path)
        if len(found) != 1:
            raise ValueError(f"{path} holds {', '.join(found) or 'nothing'}; one array (rows, columns) is needed")
        return table_of(found.popitem()[1], str(path))
    regular(path)
    if suffix in SHEETS:
        raise ValueError(f"{path} is a spreadsheet; save it as .csv")
    from pyarrow import csv, parquet

    point = "."
    try:
        if suffix == ".parquet":
            frame = parquet.read_table(path).to_pandas(date_as_object=False)
        else:
            with path.open("rb") as file:
                start = file.read(2**16)
            usual, line = DELIMITERS[suffix], start.partition(b"\n")[0].decode("utf-8", "replace")
            delimiter = max((usual, ";", "\t"), key=line.count)
            point = "," if delimiter == ";" and re.search(rb"\d,\d", start) else "."
            # In one block, because a column has the type of its first.
            block = csv.ReadOptions(block_size=min(max(1, path.stat().st_size), 2**31 - 1))
            cells = csv.ConvertOptions(strings_can_be_null=True, decimal_point=point)
            frame = csv.read_csv(path, block, csv.ParseOptions(delimiter=delimiter), cells)
            frame = frame.to_pandas(date_as_object=False)
    except Exception as error:  # of many kinds, by what is broken
        raise unreadable(path, "a table", error) from error
    return table_of(frame, str(path), point)


def table_of(data: Any, place: str = "the table", point: str = ".") -> Table:
    """The columns in a DataFrame, or in an array (n, d).

    ``place``: what errors call it.  ``point``: what stands before the decimals of numbers that are text.
    Raises ValueError for columns of one name, a file without names, and infinite numbers.
    """
    if hasattr(data, "columns"):
        table = columns_of(data, place, point)
    else:
        rows = np.asarray(data)
        if rows.ndim != 2 or rows.dtype.kind not in "buif":
            raise ValueError(f"{place} has shape {rows.shape} of {rows.dtype}; numbers (rows, columns) are needed")
        rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
        table = Table(tuple(map(str, range(rows.shape[1]))), rows)
    # Squares of larger numbers are none.
    for name, limit in (("infinite numbers", math.inf), ("numbers beyond 1e150", 1e150)):
        if (wrong := (np.abs(table.rows, dtype=float) >= limit).any(0)).any():
            listed = ", ".join(compress(table.names, wrong))
            raise ValueError(f"{place} has {name} in {listed}; leave blank what is not known, or change the unit")
    return table


def columns_of(data: Any, place: str, point: str) -> Table:
    """The columns of a DataFrame, as ``table_of``: text that says numbers is numbers; prints where it was."""
    import pandas

    # A stranger's, and printed.
    names = [one_line(name) if str(name).strip() else "" for name in data.columns]
    numbered = [not name.strip() or numbers_in([name]) is not None for name in names]
    if names and all(numbered) and names != [str(i) for i in range(len(names))]:
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; its first line must name the columns")
    if len(set(names)) < len(names):
        raise ValueError(f"{place} has columns {', '.join(names)}; give each a name of its own")
    if not names:
        raise ValueError(f"{place} has no columns")
    rows, said = np.full((len(data), len(names)), np.nan), []
    categories, dates, ordered = dict[str, tuple[str, ...]](), list[str](), list[str]()
    for i, name in enumerate(names):
        column = data.iloc[:, i]
        if column.isna().all():
            continue
        if column.dtype.kind in "uif":
            rows[:, i] = column.to_numpy(float, na_value=np.nan)
        elif column.dtype.kind == "M" or pandas.api.types.infer_dtype(column) == "date":
            rows[:, i] = days_of(column)
            dates.append(name)
        else:
            codes, values = texts_of(column)
            if (numbers := numbers_in(values, point)) is not None:
                rows[:, i] = np.append(numbers, np.nan)[codes]
                said.append(name)
            else:
                rows[:, i], categories[name] = np.where(codes < 0, np.nan, codes), values
                ordered += [name] if getattr(column.dtype, "ordered", False) else []
    if said:
        log.warning(f"text that says numbers is read as these: {', '.join(said)}")
    return Table(tuple(names), rows, categories, tuple(dates), tuple(ordered))


def days_of(column: Any) -> Float64[np.ndarray, "n"]:
    """Dates as days since 1970; NaN where there is none."""
    import pandas

    times = pandas.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
    return np.where(np.isnat(times), np.nan, (times - np.datetime64(0, "us")) / np.timedelta64(86_400_000_000, "us"))


def texts_of(column: Any) -> tuple[Int[np.ndarray, "n"], tuple[str, ...]]:
    """The values of a column as text, in their order, and which of them each row has; −1 for a blank."""
    import pandas

    if isinstance(column.dtype, pandas.CategoricalDtype):
        return column.cat.codes.to_numpy(int), tuple(map(str, column.cat.categories))
    known = column.notna().to_numpy()
    codes, texts = np.full(len(column), -1), column[known].astype(str).to_numpy(object).astype(str)
    if np.isin(texts, BOOLEANS).all():
        codes[known] = texts == "True"
        return codes, BOOLEANS
    values, codes[known] = np.unique(texts, return_inverse=True)
    return codes, tuple(values.tolist())


def numbers_in(texts: Sequence[str], point: str = ".") -> Float64[np.ndarray, "n"] | None:
    """What texts such as 1,200 and $5 and 7 % say, NaN for signs of a blank; None if one of them is no number.

    ``point``: what stands before decimals; if it is a comma, dots are between thousands, unless one of them is not.
    """
    between = "," if point == "." else "."
    thousands = re.compile(rf"(?<![\d.,])[1-9]\d{{0,2}}(?:[{between}]\d{{3}})+(?![\d{between}])")
    plain = [re.sub(r"(?<![^-])[$€£]\s*|\s*%$", "", text.strip()) for text in texts]
    known = [text for text in plain if text not in BLANKS]
    joined = [thousands.sub(lambda match: match[0].replace(between, ""), text) for text in known]
    if not any(between in text for text in joined):
        known = [text.replace(point, ".") for text in joined]
    try:
        numbers = iter([float(text) for text in known])
    except ValueError:
        return None
    return np.array([math.nan if text in BLANKS else next(numbers) for text in plain])


def write_table(
    path: Path,
    names: Sequence[str],
    rows: Float64[np.ndarray, "n d"],
    categories: Mapping[str, tuple[str, ...]] | None = None,
    dates: Sequence[str] = (),
) -> None:
    """Write rows into a .csv, .tsv or .parquet: whole columns of whole numbers as integers, NaN as a blank.

    ``categories``: columns whose numbers 0, 1, … are written as these texts.
    ``dates``: columns whose days since 1970 are written as dates.
    """
    import pandas

    frame = pandas.DataFrame(rows, columns=[*names]).convert_dtypes()
    for name, values in (categories or {}).items():
        codes = rows[:, list(names).index(name)]
        frame[name] = [values[int(code)] if code >= 0 else None for code in codes]  # NaN, or text not seen
    for name in dates:
        days = pandas.Series(rows[:, list(names).index(name)])
        frame[name] = pandas.to_datetime((days * 86_400).round(), unit="s")
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, sep=DELIMITERS[path.suffix], index=False)
