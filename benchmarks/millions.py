"""A table of a million rows, or of more bytes than memory may have, imputed by ``ncsn impute``.

python benchmarks/millions.py                                      # a million rows, a tenth of all cells missing
python benchmarks/millions.py --rows 20000000 --missing 1e-5 -n 2 --limit 1.0    # a file of more than a gigabyte in one

It prints the time, the processor's time and the largest memory of the command; the tables and the run stay in a folder.
"""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import tyro
from pyarrow import parquet

ROWS_AT_ONCE = 100_000
TRAINING = 20_000  # rows
GIGABYTE = 10**9


@dataclass(frozen=True, kw_only=True)
class Millions:
    """Measure how long a large table takes, and how much memory."""

    rows: int = 1_000_000
    missing: float = 0.1
    """The share of missing cells."""
    n: int = 20
    """Draws of each missing value."""
    limit: float | None = None
    """Gigabytes of memory (RLIMIT_DATA, Linux) that the command may have; by default, as many as there are."""
    folder: Path = Path("millions")
    """Where the tables and the run go."""

    def __call__(self) -> None:
        """Train once, write the table, impute it and print the measurements."""
        self.folder.mkdir(exist_ok=True)
        training, run = self.folder / "training.parquet", self.folder / "run"
        if not run.exists():
            people(TRAINING, np.random.default_rng(1)).to_parquet(training)
            subprocess.run([sys.executable, "-m", "ncsn", "train", training, "--out", run], check=True)
        rows, out = self.folder / "rows.parquet", self.folder / "filled.parquet"
        self.write(rows)
        began = time.perf_counter()
        words = ["ncsn", "impute", str(run), str(rows), "-n", str(self.n), "--out", str(out), "--overwrite"]
        process = subprocess.Popen([sys.executable, "-m", *words], preexec_fn=self.obey)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{' '.join(words)} ended with status {os.waitstatus_to_exitcode(status)}")
        print(f"{rows}: {self.rows:,} rows, {rows.stat().st_size / GIGABYTE:.2f} GB")
        print(f"time: {time.perf_counter() - began:.0f} s; threads: {os.environ.get('OMP_NUM_THREADS', 'all')}")
        print(f"largest memory: {used.ru_maxrss * 1024 / GIGABYTE:.2f} GB; limit: {self.limit or 'none'}")
        print(f"processor's time: {used.ru_utime + used.ru_stime:.0f} s")

    def obey(self) -> None:
        """Limit the memory of this process."""
        if self.limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (int(self.limit * GIGABYTE),) * 2)

    def write(self, path: Path) -> None:
        """Write a table of people with gaps, in batches."""
        rng = np.random.default_rng(0)
        writer: parquet.ParquetWriter | None = None
        for first in range(0, self.rows, ROWS_AT_ONCE):
            frame = people(min(ROWS_AT_ONCE, self.rows - first), rng)
            hidden = rng.random(frame.shape) < self.missing
            table = pyarrow.Table.from_pandas(frame.astype(object).mask(hidden), people_schema(), preserve_index=False)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()


def people(n: int, rng: np.random.Generator) -> pandas.DataFrame:
    """Invented people: numbers, whole numbers, text, booleans and dates that depend on each other."""
    age = rng.integers(20, 90, n)
    income = (1200 + 60 * (age - 20)) * np.exp(0.3 * rng.standard_normal(n))
    owns = rng.random(n) < (age - 20) / 90
    rent = np.where(owns, 150, 0.3 * income) * np.exp(0.15 * rng.standard_normal(n))
    return pandas.DataFrame(
        {
            "age": age,
            "income": income,
            "rent": rent,
            "children": rng.poisson(np.where(age > 30, 1.6, 0.3)),
            "city": rng.choice(["Bonn", "Kiel", "Ulm"], n),
            "owns": owns,
            "since": np.datetime64("2024-01-01", "s") - (365 * rng.uniform(0, age - 19)).astype("timedelta64[D]"),
            "score": rng.beta(2 + owns, 3, n),
        }
    )


def people_schema() -> pyarrow.Schema:
    """The types of the columns of ``people``."""
    return pyarrow.Schema.from_pandas(people(1, np.random.default_rng(0)), preserve_index=False)


if __name__ == "__main__":
    tyro.cli(Millions)()
