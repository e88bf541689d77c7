"""Tables as columns of numbers, with their names and the categories and dates that numbers stand for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ncsn.kinds.kind import Dataset, digest_of
from ncsn.kinds.reading import short_name
from ncsn.kinds.tables.columns import Columns, Discrete, Field, is_constant, learn_columns, tensor
from ncsn.kinds.tables.frames import OTHER, days_of, field_of, frame_in, name_of
from ncsn.kinds.tables.read import BOOLEANS, MISSING, clean_cells, parse
from ncsn.kinds.transform import FAR
from ncsn.machine.messages import bar, log
from ncsn.validation import counted

CODE = r"0\d+"  # such as the postal code 00501: text, although it has only digits
UNNAMED = ("", "Unnamed: 0")  # names of an index that pandas has written to a file
MAX_MISSING = 0.9  # share of rows; columns with more missing values say too little
MIN_ROWS = 10
MIN_ROWS_OF_CATEGORY, MAX_CATEGORIES = 5, 50
BEYOND = 0.5  # standard deviations by which held-out numbers may exceed a column's bounds without a warning


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, or single precision if the array has it; NaN where a cell is missing.
    ``categories``: the texts of each text column, which are 0, 1, … in ``rows``.
    ``dates``: the names of date columns, which are days since 1970 in ``rows``.
    ``fields``: the types of all columns of the DataFrame, including those that are left out.
    ``merged``: the names of text columns whose last category stands for rare texts.
    """

    names: tuple[str, ...]
    rows: np.ndarray
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    merged: tuple[str, ...] = ()

    def keep(self, columns: Bool[np.ndarray, "d"], why: str) -> "Table":
        """Keep only these columns; log the names of the others and why they are left out."""
        if not columns.all():
            log.warning(f"columns left out because {why}: {', '.join(compress(self.names, ~columns))}")
        names = tuple(compress(self.names, columns))
        return replace(self, names=names, rows=self.rows[:, columns])

    def keep_varying(self, rows: Int[np.ndarray, "m"] | slice = slice(None)) -> "Table":
        """Keep only the columns that vary among these rows.  Raises ValueError if there are none."""
        varying = np.array([varies(column[~np.isnan(column)]) for column in self.rows[rows].T], bool)
        if not varying.any():
            raise ValueError(f"no column that varies is left in the table of {counted(len(self.rows[rows]), 'row')}")
        return self.keep(varying, "all training rows, or all but one, have the same value")

    def clean(self) -> "Table":
        """Leave out empty rows and columns that can't be learned, and log which.

        Raises ValueError if nothing is left.
        """
        pairs = zip(self.names, self.rows.T, strict=True)
        named = np.array([name not in UNNAMED or not numbers_rows(column) for name, column in pairs])
        table = self.keep(named, "they have no name and only number the rows").merge_rare_categories()
        missing = np.isnan(table.rows).mean(0)
        table = table.keep(missing <= MAX_MISSING, f"more than {MAX_MISSING:.0%} of their cells are missing")
        empty = np.isnan(table.rows).all(1)
        if 0 < empty.sum() < len(empty):
            log.warning(f"empty rows left out: {empty.sum():,} of {len(empty):,}")
            table = replace(table, rows=table.rows[~empty])
        table = table.keep_varying()
        if len(table.rows) < MIN_ROWS:
            raise ValueError(f"rows found: {len(table.rows)}; training needs at least {MIN_ROWS}, ideally 1,000")
        gaps = np.isnan(table.rows)
        if rows := gaps.any(1).sum():
            most = gaps.sum(0).argmax()
            facts = f"{rows:,} of {len(gaps):,}, most often in {table.names[most]} ({gaps[:, most].sum():,})"
            # Whether values are missing at random (Rubin) can't be told from a table.
            caveat = "results are biased if values are missing because of what they are"
            log.warning(f"rows with missing values: {facts}; training uses their other cells; {caveat}")
        return table

    def split(self, generator: torch.Generator) -> tuple["Table", tuple[Tensor, ...]]:
        """The cleaned table, and the indices of its rows for validation, testing and training."""
        table = self.clean()
        tenth, order = len(table.rows) // 10, torch.randperm(len(table.rows), generator=generator)
        test, validation, learned = order[tenth : 2 * tenth], order[:tenth], order[2 * tenth :]
        return table.keep_varying(learned.numpy()), (validation, test, learned)

    def merge_rare_categories(self) -> "Table":
        """Merge rare texts into one category, unless the DataFrame declares them; leave out columns of few others."""
        rows, categories, kept = self.rows.copy(), dict(self.categories), np.ones(len(self.names), bool)
        merged = []
        declared = {name_of(field.label) for field in self.fields if field.dtype == "category"}
        for place, name in enumerate(self.names):
            if name not in categories:
                continue
            values, codes = categories[name], rows[:, place]
            known = ~np.isnan(codes)
            counts = np.bincount(codes[known].astype(int), minlength=len(values))
            rank = np.argsort(np.argsort(-counts, kind="stable"))
            rare = (counts < MIN_ROWS_OF_CATEGORY) | ((len(values) > MAX_CATEGORIES) & (rank >= MAX_CATEGORIES - 1))
            kept[place] = counts[rare].sum() <= known.sum() / 2
            if kept[place] and rare.sum() > 1 and name not in declared:
                listed = [value for value, few in zip(values, rare, strict=True) if not few and value != OTHER]
                number = {value: i for i, value in enumerate(listed)}
                new = np.array([number.get(value, len(listed)) for value in values])
                rows[known, place] = new[codes[known].astype(int)]
                categories[name] = (*listed, OTHER)
                merged.append(name)
                log.warning(f"{rare.sum()} rare values of {name} are merged into {OTHER!r}")
        table = replace(self, rows=rows, categories=categories, merged=tuple(merged))
        return table.keep(kept, "most of their values are rare")


def numbers_rows(column: Float[np.ndarray, "n"]) -> bool:
    """Whether a column counts the rows, from 0 or 1."""
    return len(column) > 0 and column[0] in (0, 1) and bool((column - column[0] == np.arange(len(column))).all())


def varies(column: Float[np.ndarray, "m"]) -> bool:
    """Whether numbers have a density: at least two of them differ from the others by more than rounding."""
    if len(column) < 3 or min((column > column.min()).sum(), (column < column.max()).sum()) < 2:
        return False
    return not is_constant(torch.from_numpy(column))


def table_of_array(rows: Shaped[np.ndarray, "..."], place: str = "the table") -> Table:
    """An array (n, d) of numbers, whose columns are called 0, 1, ….  Raises ValueError for anything else."""
    if rows.ndim != 2 or rows.dtype.kind not in "buif":
        raise ValueError(f"{place} has shape {rows.shape} and dtype {rows.dtype}; expected numbers (rows, columns)")
    rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    return check_range(Table(tuple(map(str, range(rows.shape[1]))), rows), place)


def table_of_frame(rows: object, place: str = "the table", *, text: bool = False) -> Table:
    """The columns of a DataFrame, a dict, or a polars or pyarrow table; text may contain numbers or dates.

    ``text``: whether all cells are text because they come from a text file.
    Raises ValueError for duplicate column names, numbers instead of names, infinite numbers, and unsupported dtypes.
    """
    import pandas

    frame = frame_in(rows)
    if frame is None:
        raise ValueError(f"{place} is a {type(rows).__name__}; expected a DataFrame or a dict of columns")
    names = [name_of(label) for label in frame.columns]
    numbered = [is_number(name) for name in names]
    if names and all(numbered) and names != [str(i) for i in range(len(names))]:
        needed = "its first line must hold column names" if text else "rename them, so that they aren't numbers"
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; {needed}")
    if index := [str(name) for name in frame.index.names if name is not None]:
        log.warning(f"the index ({', '.join(index)}) is left out; reset_index() makes it a column")
    cells = np.full((len(frame), len(names)), np.nan)
    categories, dates, fields = dict[str, tuple[str, ...]](), list[str](), list[Field]()
    for i, name in enumerate(bar(names, "columns")):
        column = frame.iloc[:, i]
        fields.append(Field(label=name) if text else field_of(column))
        column = given = column.rename(name)
        if pandas.api.types.infer_dtype(column) == "date":
            column = pandas.to_datetime(column)
        elif column.dtype.kind not in "uifMb" and not isinstance(column.dtype, pandas.CategoricalDtype):
            plain = clean_cells(column)
            column = plain if plain.str.fullmatch(CODE).any() else parse(column)
        if column.isna().all():
            continue
        if column.dtype.kind in "uif":
            cells[:, i] = column.to_numpy(float, na_value=np.nan)
            if np.nanmax(abs(cells[:, i])) > 2**53 and given.astype(str).str.fullmatch(r"\s*[-+]?\d+\s*").any():
                log.warning(f"column {name} has whole numbers beyond 2^53, which are rounded to double precision")
        elif column.dtype.kind == "M":
            cells[:, i] = days_of(column, name)
            dates.append(name)
        else:
            if column.dtype.name != "category":
                column = column.astype(str).mask(column.isna()).astype("category")
            levels = column.cat.remove_unused_categories()
            cells[:, i] = np.where(levels.isna(), np.nan, levels.cat.codes)
            categories[name] = tuple(map(str, levels.cat.categories))
            if categories[name] in (BOOLEANS[:1], BOOLEANS[1:]):  # True is 1 even if nothing is False
                cells[:, i] += BOOLEANS.index(categories[name][0])
                categories[name] = BOOLEANS
    return check_range(Table(tuple(names), cells, categories, tuple(dates), tuple(fields)), place)


def is_number(text: str) -> bool:
    """Whether a column name is a number, or a word for a missing value."""
    number = r"[-+]?[$€£]?([\d.,]*\d[\d.,]*(e[-+]?\d+)?|inf(inity)?)"
    return text.strip() in MISSING or re.fullmatch(number, text.strip(), re.IGNORECASE) is not None


def check_range(table: Table, place: str) -> Table:
    """Return the table.  Raises ValueError for infinite numbers, and for numbers whose squares are infinite."""
    for name, limit in (("infinite numbers", np.inf), ("numbers beyond 1e150", 1e150)):
        if (wrong := (np.abs(table.rows, dtype=float) >= limit).any(0)).any():
            listed = ", ".join(compress(table.names, wrong))
            raise ValueError(f"{place} has {name} in {listed}; leave unknown values blank, or change the unit")
    return table


def never_observed(columns: Columns, rows: Float[Tensor, "n d"]) -> tuple[tuple[str, str, float], ...]:
    """Triples of a column, a discrete column and its value in whose rows, of which there are some, it has only gaps."""
    known = (~rows.isnan()).double()
    gappy = [i for i, column in enumerate(columns.columns) if column.gaps]
    found = []
    for j, column in enumerate(columns.columns):
        if isinstance(column, Discrete) and gappy:
            there = (rows[:, j, None] == tensor(column.values)).double()
            nowhere = (there.T @ known[:, gappy] == 0) & (there.sum(0) >= MIN_ROWS)[:, None]
            for value, i in nowhere.nonzero().tolist():
                found.append((columns.names[gappy[i]], column.name, column.values[value]))
    return tuple(found)


def rows_of(name: str, table: Table) -> Dataset:
    """The rows of a table as a dataset, with a tenth each for validation and testing.

    Raises ValueError if there is nothing to learn from the table.
    """
    generator = torch.Generator().manual_seed(0)
    table, parts = table.split(generator)
    rows = torch.from_numpy(table.rows)
    texts = {name: table.categories[name] for name in table.names if name in table.categories}
    columns = learn_columns(rows[parts[-1]], table.names, texts, table.dates, every=rows)
    marked = tuple(replace(column, merged=column.name in table.merged) for column in columns.columns)
    columns = replace(columns, columns=marked, fields=table.fields, never=never_observed(columns, rows[parts[-1]]))
    # Numbers on a grid are placed at random in their cells.
    z = torch.cat([columns.with_gaps(columns.forward(part, generator)).float() for part in torch.split(rows, 2**16)])
    held_out = rows[torch.cat(parts[:-1])].double()
    ends = [getattr(column, "bounds", (-np.inf, np.inf)) for column in columns.columns]
    beyond = held_out - held_out.clamp(*torch.tensor(ends, dtype=torch.float64).T)
    beyond = beyond.abs() > BEYOND * torch.from_numpy(np.nanstd(table.rows, 0))
    possible = torch.cat([columns.possible(part) for part in torch.split(held_out, 2**16)])
    if count := int((~possible | beyond).sum()):
        limit = f"losses clip such numbers at {FAR:g} standard deviations, evaluations at the nearest possible sample"
        log.warning(f"found {counted(count, 'held-out number')} well outside the range of the training data; {limit}")
    numbers = z[:, : len(columns.numbers)]
    numbers.copy_(numbers.clamp(-FAR, FAR))
    validation, test, train = (z[part] for part in parts)
    texts_and_dates = np.frombuffer(repr((table.names, sorted(texts.items()), table.dates)).encode(), np.uint8)
    digest = digest_of([texts_and_dates, table.rows])
    return Dataset(
        train, validation, test, None, short_name(name), columns, columns.describe(), columns.codes, sha256=digest
    )
