"""Tables: files and frames become columns of numbers, and a column's own units become the model's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from ncsn.data.sources import DELIMITERS
from ncsn.machine.messages import log
from ncsn.storage import atomic
from ncsn.validation import one_line


@dataclass(frozen=True)
class Table:
    """Columns of numbers with their names.

    ``rows`` (n, d): in double precision, or in the single one of an array; NaN where a cell is blank.
    """

    names: tuple[str, ...]
    rows: np.ndarray

    @property
    def complete(self) -> "Table":
        """What can be learned from: rows without blanks, of columns that vary; prints what is left out.

        Raises ValueError if nothing is left.
        """
        blank = np.isnan(self.rows)
        whole = ~blank[:, ~blank.all(0)].any(1)
        rows, names = self.rows[whole], np.array(self.names)
        if len(rows) < 10:
            raise ValueError(
                f"{len(rows)} of {len(whole)} examples have no blanks; at least 10 are needed, better 1,000"
            )
        varied = rows.max(0, initial=-np.inf) > rows.min(0, initial=np.inf)
        if not varied.any():
            raise ValueError(f"no column of numbers varies in the {len(rows):,} rows without blanks; one must")
        if len(rows) < len(whole):
            log.warning(f"{len(whole) - len(rows):,} of {len(whole):,} rows have blanks, and are left out")
        if not varied.all():
            log.warning(f"columns that do not vary are left out: {', '.join(names[~varied])}")
        return Table(tuple(names[varied].tolist()), rows[:, varied])

    def matched(self, names: Sequence[str]) -> "Table":
        """The same rows by the columns ``names``, in their order.  Raises ValueError if one is missing."""
        if missing := [name for name in names if name not in self.names]:
            raise ValueError(f"there is no column of numbers {', '.join(missing)}; the run has {', '.join(names)}")
        if others := [name for name in self.names if name not in names]:
            log.warning(f"columns that the run does not know are left out: {', '.join(others)}")
        return Table(tuple(names), self.rows[:, [self.names.index(name) for name in names]])


def arrays(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an .npz by their keys, or that of an .npy, which is mapped, by "".

    Raises ValueError if they cannot be read, or hold Python objects.
    """
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r")}
        with path.open("rb") as file, np.load(file) as archive:
            return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}
    except Exception as error:  # numpy, zipfile and zlib raise whatever they like
        raise ValueError(f"{path} cannot be read as arrays ({one_line(error)})") from error


def read_table(name: str | Path) -> Table:
    """The columns of numbers in a .csv, .tsv, .parquet, .npy or .npz; those of an array are called 0, 1, ….

    Raises ValueError if it cannot be read, and as ``table_of``.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if suffix in (".npy", ".npz"):
        return table_of(next(iter(arrays(path).values())), str(path))
    from pyarrow import csv, parquet

    try:
        if suffix == ".parquet":
            frame = parquet.read_table(path).to_pandas()
        else:
            # In one block, because a column has the type of its first.
            block = csv.ReadOptions(block_size=min(max(1, path.stat().st_size), 2**31 - 1))
            blanks = csv.ConvertOptions(strings_can_be_null=True)
            frame = csv.read_csv(path, block, csv.ParseOptions(delimiter=DELIMITERS[suffix]), blanks).to_pandas()
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} cannot be read as a table ({one_line(error)})") from error
    return table_of(frame, str(path))


def table_of(data: Any, place: str = "the table") -> Table:
    """The columns of numbers in a DataFrame, or in an array (n, d); ``place``: what errors call it.

    Raises ValueError for columns of one name, a file without names, infinite numbers, and if there is no such column.
    """
    if hasattr(data, "columns"):
        names, rows = columns_of(data, place)
    else:
        rows = np.asarray(data)
        if rows.ndim != 2 or rows.dtype.kind not in "buif":
            raise ValueError(f"{place} has shape {rows.shape} of {rows.dtype}; numbers (rows, columns) are needed")
        names = [str(i) for i in range(rows.shape[1])]
        rows = rows if rows.dtype == np.float32 else rows.astype(np.float64)
    if (infinite := np.isinf(rows).any(0)).any():
        listed = ", ".join(np.array(names)[infinite])
        raise ValueError(f"{place} has infinite numbers in {listed}; leave blank what is not known")
    return Table(tuple(names), rows)


def columns_of(data: Any, place: str) -> tuple[list[str], Float64[np.ndarray, "n d"]]:
    """The names and the numbers of the columns of numbers in a DataFrame, as ``table_of``."""
    names = [str(name) for name in data.columns]
    if len(set(names)) < len(names):
        raise ValueError(f"{place} has columns {', '.join(names)}; give each a name of its own")
    if names != [str(i) for i in range(len(names))] and all(
        re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", name) for name in names
    ):
        raise ValueError(f"{place} has columns called {', '.join(names[:3])}; its first line must name the columns")
    numeric = [data[key].dtype.kind in "buif" or bool(data[key].isna().all()) for key in data.columns]
    others = [name for name, known in zip(names, numeric, strict=True) if not known]
    if others == names:
        raise ValueError(f"{place} has no column of numbers, but {', '.join(names) or 'none at all'}")
    if others:
        log.warning(f"columns of something else than numbers are left out: {', '.join(others)}")
    numbers = data.loc[:, numeric].to_numpy(float, na_value=np.nan)
    return [name for name in names if name not in others], numbers


def write_table(path: Path, names: Sequence[str], rows: Float64[np.ndarray, "n d"]) -> None:
    """Write rows into a .csv or .tsv: whole columns of whole numbers as integers, NaN as a blank."""
    import pandas

    frame = pandas.DataFrame(rows, columns=[*names]).convert_dtypes()
    with atomic(path) as temporary:
        frame.to_csv(temporary, sep=DELIMITERS[path.suffix], index=False)
