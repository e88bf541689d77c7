"""Tables imputed in batches: what a file's batches have in common, what memory they take, and which rows are named."""

import os
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pyarrow.compute
import pytest
from helpers import Patch, Printed, command, fit_table, refusal
from pyarrow import parquet

import ncsn
from ncsn.settings import TrainSettings
from ncsn.tables import streaming
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.run import TableRun

N, DRAWS = 600, 3
RNG = np.random.default_rng(0)
AGE, DAYS = RNG.integers(18, 90, N), RNG.integers(0, 600, N)
DAY = pandas.Timestamp("1990-01-01") + pandas.to_timedelta(DAYS, unit="D")
COLUMNS: dict[str, Any] = {
    "age": pandas.array(AGE, dtype="int16"),
    "income": np.exp(8 + 0.5 * RNG.standard_normal(N)).astype("float32"),
    "sex": pandas.Categorical(np.where(AGE % 2, "F", "M"), ["X", "M", "F"], ordered=True),
    "region": RNG.choice(["Bonn", "Kiel", "Ulm"], N),
    "kids": pandas.array(RNG.poisson(AGE / 40), dtype="Int64"),
    "seen": DAY.tz_localize("Europe/Berlin").as_unit("ms"),
    "day": DAY.date,
    "member": AGE > 60,
    "score": RNG.beta(2, 2, N),
}
WHOLE = pandas.DataFrame(COLUMNS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TableRun]:
    """Runs trained on a DataFrame, and on a text file, which has no dtypes."""
    settings = TrainSettings(channels=(16,), blocks=1, batch_size=128)
    text = tmp_path_factory.mktemp("text") / "people.csv"
    WHOLE.drop(columns=["sex", "seen"]).to_csv(text, index=False)
    return {
        "dtypes": fit_table(WHOLE, steps=3, settings=settings),
        "text": fit_table(str(text), steps=3, settings=settings),
    }


@pytest.fixture
def run(runs: dict[str, TableRun]) -> TableRun:
    return runs["dtypes"]


def in_batches(monkeypatch: Patch, rows: int | None, columns: int = len(COLUMNS)) -> None:
    """Let a batch have so many rows; by default, all of them."""
    monkeypatch.setattr(streaming, "NUMBERS_AT_ONCE", 2**40 if rows is None else rows * DRAWS * columns)


def gappy(share: float = 0.2) -> pandas.DataFrame:
    """The rows with gaps, but none in the first 500 rows of ``score``, and nothing else in the last 50 of ``day``."""
    frame, rng = WHOLE.astype({"age": "Int16", "member": object}), np.random.default_rng(1)
    for name in frame:
        frame.loc[rng.random(N) < share, name] = None
    frame["score"] = WHOLE["score"].mask((np.arange(N) >= 500) & (rng.random(N) < 0.5))
    frame.loc[550:, ["day", "region", "member", "age", "kids"]] = None
    return frame


FRAMES: dict[str, pandas.DataFrame] = {
    "gaps": gappy(),
    "few": gappy(0.01),
    "absent": gappy().drop(columns=["age", "region", "day", "score"]),
    "index": gappy().set_index(pandas.Index([f"row {i}" for i in range(N)], name="person")),
    "range": gappy().set_index(pandas.RangeIndex(5, 5 + 2 * N, 2)),
    "others": gappy().assign(
        cents=[None, Decimal("1.10")] * (N // 2),
        note=[None] * (N - 1) + ["x"],
        lists=[[i, None] for i in range(N)],
        code=pandas.array([None, *range(N - 1)], "Int64"),
        kids=[None if i % 2 else Decimal(f"{i % 3}.00") for i in range(N)],
        score=[None if i % 5 else Decimal("0.5000") for i in range(N)],
        age=np.where(np.arange(N) < 550, AGE, np.nan),
        region=pandas.Categorical([None, "Ulm"] * (N // 2)),
    ),
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("trained", ["dtypes", "text"])
def test_batches_have_the_columns_and_types_of_the_whole(
    kind: str, trained: str, runs: dict[str, TableRun], monkeypatch: Patch, here: Path
) -> None:
    """And keep observed cells bit for bit."""
    FRAMES[kind].to_parquet("x.parquet")
    for name, rows in (("whole", None), ("parts", 50)):
        in_batches(monkeypatch, rows, max(len(FRAMES[kind].columns), len(runs[trained].columns.names)))
        runs[trained].impute_file(Path("x.parquet"), DRAWS, 0, Path(f"{name}.parquet"), Path(f"{name}-draws.parquet"))
    given = parquet.read_table("x.parquet")
    for suffix in ("", "-draws"):
        whole, parts = (parquet.read_table(f"{name}{suffix}.parquet") for name in ("whole", "parts"))
        assert parts.num_rows == whole.num_rows
        kept = {column.name for column in given.schema if pyarrow.types.is_decimal(column.type)}
        for column in whole.schema:
            expected = given.schema.field(column.name).type if column.name in kept else column.type
            assert parts.schema.field(column.name).type == expected, column.name
            assert parts[column.name].null_count == whole[column.name].null_count, column.name
        assert parts.column_names == whole.column_names
        frames = [pandas.read_parquet(f"{name}{suffix}.parquet") for name in ("whole", "parts")]
        pandas.testing.assert_series_equal(frames[0].dtypes, frames[1].dtypes)
        pandas.testing.assert_index_equal(frames[0].index, frames[1].index)
    parts = parquet.read_table("parts.parquet")
    for name in given.column_names:
        observed = given[name].is_valid()
        assert parts[name].filter(observed).to_pylist() == given[name].filter(observed).to_pylist(), name
    for name in {*given.column_names} & {*runs[trained].columns.names}:
        assert parts[name].null_count == 0, name


def test_batches_differ_and_a_seed_repeats_them(run: TableRun, monkeypatch: Patch, here: Path) -> None:
    """All rows are the same, so equal draws at the same place of two batches would come from equal seeds."""
    WHOLE.iloc[[0] * 100].assign(income=None, score=np.nan).to_parquet("x.parquet", index=False)
    in_batches(monkeypatch, 25)
    files = dict[str, bytes]()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run.impute_file(Path("x.parquet"), DRAWS, seed, Path(f"{name}.parquet"), None)
        files[name] = Path(f"{name}.parquet").read_bytes()
    assert files["a"] == files["b"] != files["c"]
    assert parquet.ParquetFile("a.parquet").num_row_groups == 4
    drawn = pandas.read_parquet("a.parquet").filter(like="score draw").to_numpy().reshape(4, -1)
    assert abs(np.corrcoef(drawn)[np.triu_indices(4, 1)]).max() < 5 / drawn.shape[1] ** 0.5


def test_rows_are_counted_from_the_start_of_the_file(
    run: TableRun, monkeypatch: Patch, here: Path, capsys: Printed
) -> None:
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    in_batches(monkeypatch, 50)
    frame = gappy()
    frame.loc[[120, 333], "region"] = "Rom"
    frame.loc[[120, 333], "income"] = None
    frame.loc[333, "kids"] = -400
    frame.to_parquet("x.parquet")
    command(f"impute it x.parquet -n {DRAWS} --out y.parquet --draws z.parquet")
    said = "".join(capsys.readouterr())
    assert "'Rom' (row 121)" in said
    assert "(2 of 600)" in said
    assert "columns left with missing cells: income (2)" in said
    draws, gaps = pandas.read_parquet("z.parquet"), frame.isna().any(axis=1)
    gaps[[120, 333]] = False
    assert draws["row"].tolist() == list(np.repeat(np.flatnonzero(gaps) + 1, DRAWS))
    assert draws["draw"].tolist() == [1, 2, 3] * int(gaps.sum())
    frame.astype({"seen": str}).assign(seen="2024-01-05T13:45+01:00").assign(
        seen=lambda x: x["seen"].where(x.index != 411, "soon")
    ).to_parquet("text.parquet")
    assert "'soon' (row 412)" in refusal(capsys, *f"impute it text.parquet -n {DRAWS} --out u.parquet".split())
    assert not Path("u.parquet").exists()


def test_numbers_written_as_text_are_read_together(run: TableRun, monkeypatch: Patch, here: Path) -> None:
    """In the first batch, 1,200 could be a thousand; the last shows that it isn't."""
    pandas.DataFrame({"score": ["0,200"] * 60 + ["0,5", None], "age": [30] * 62}).to_parquet("x.parquet")
    in_batches(monkeypatch, 20)
    run.impute_file(Path("x.parquet"), DRAWS, 0, Path("y.parquet"), None)
    filled = pandas.read_parquet("y.parquet")
    assert "," in filled["score"].iloc[-1]
    assert filled["score"].iloc[:-1].tolist() == ["0,200"] * 60 + ["0,5"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_text_is_written_in_batches_too(run: TableRun, suffix: str, monkeypatch: Patch, here: Path) -> None:
    gappy().to_parquet("x.parquet")
    tables = list[pandas.DataFrame]()
    for rows in (None, 50):
        in_batches(monkeypatch, rows)
        run.impute_file(Path("x.parquet"), DRAWS, 0, Path(f"y.{suffix}"), Path(f"z.{suffix}"))
        tables += [pandas.read_csv(f"{name}.{suffix}", sep=None, engine="python") for name in "yz"]
    for whole, parts in zip(tables[:2], tables[2:], strict=True):
        assert parts.shape == whole.shape
        pandas.testing.assert_series_equal(parts.dtypes, whole.dtypes)


PARTS = {
    "empty": slice(0, 0),
    "without gaps": WHOLE.index[gappy(0.01).notna().all(axis=1)][:20],
    "without a city": WHOLE.index[WHOLE["region"] != "Ulm"][:20],
    "only gaps": slice(550, 600),
    "one row": slice(7, 8),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("arrow", [False, True])
def test_parts_imputed_apart_have_the_columns_and_types_of_the_whole(part: str, *, arrow: bool, run: TableRun) -> None:
    """As other programs, such as Ray and Spark, need it, also if a column of the run is absent."""
    frame = gappy(0.01).drop(columns="income")
    rows: list[Any] = [frame, frame.iloc[PARTS[part]]]
    if arrow:
        rows = [pyarrow.Table.from_pandas(each, preserve_index=False).replace_schema_metadata() for each in rows]
        rows[1] = rows[1].cast(rows[0].schema)
    frames = list[pandas.DataFrame]()
    for each in rows:
        imputed = run.impute(each, 2)
        assert isinstance(imputed, ImputedTable)
        frames.append(imputed.frame())
        assert frames[-1].notna().all(axis=None)
        assert imputed.spread().dtypes.tolist() == [np.dtype(float)] * len(run.columns.names)
    whole, mine = (pyarrow.Schema.from_pandas(each, preserve_index=False) for each in frames)
    assert mine.names == whole.names
    for field in whole:
        is_unknown = part == "empty" and field.name == "day"  # no object says that it is a date
        assert mine.field(field.name).type == (pyarrow.null() if is_unknown else field.type), field.name
    if not arrow:
        changed = frames[0].dtypes != frames[1].dtypes
        assert {*frames[0].dtypes[changed]} <= {np.dtype(object)}


def test_parts_with_seeds_of_their_own_are_independent(run: TableRun) -> None:
    """All rows are the same, so equal noise would show as correlation."""
    rows = WHOLE.iloc[[0] * 200].assign(income=None, score=np.nan)
    drawn = np.stack([run.impute(rows, 2, seed=seed).draws[:, :, -1].flatten() for seed in range(4)])
    assert abs(np.corrcoef(drawn)[np.triu_indices(4, 1)]).max() < 5 / drawn.shape[1] ** 0.5


PROGRAM = """
import resource
from pathlib import Path
import ncsn

run = ncsn.load("run")
peaks = []
for name in ("small", "large"):
    run.impute_file(Path(f"{name}.parquet"), 20, 0, Path("filled.parquet"), Path("draws.parquet"))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(1024 * (peaks[1] - peaks[0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the largest memory is in other units, or unknown")
def test_a_larger_file_takes_no_more_memory(here: Path) -> None:
    """After a small file, one of five times as many rows takes a fraction of what their draws would."""
    n = 100_000
    frame = pandas.DataFrame(np.random.default_rng(0).standard_normal((n, 8)), columns=[*"abcdefgh"])
    fit_table(frame[:200], steps=1, settings=TrainSettings(channels=(8,), blocks=1)).save("run")
    frame.loc[::1000, "a"] = None
    frame.to_parquet("large.parquet", row_group_size=20_000)
    frame[: n // 5].to_parquet("small.parquet")
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert int(done.stdout.splitlines()[-1]) < frame.to_numpy().nbytes * 20 / 4
    assert parquet.read_metadata("filled.parquet").num_rows == n


FIRST = {"ray": "import ray\nray.init(num_cpus=3, include_dashboard=False)\n", "pyspark": ""}
EXAMPLES = re.findall(
    r"^```python3 .noeval\n(.*?)^```", (Path(__file__).parent.parent / "docs/clusters.md").read_text(), re.S | re.M
)


@pytest.mark.slow
@pytest.mark.parametrize("library", FIRST)
def test_other_programs_impute_parts_as_the_page_shows(library: str, here: Path) -> None:
    """Parts without gaps, with all kinds of them, and of equal rows, whose guesses differ."""
    pytest.importorskip(library)
    people = WHOLE[["age", "income", "kids", "region"]].rename(columns={"kids": "children", "region": "city"})
    fit_table(people, steps=3, settings=TrainSettings(channels=(16,), blocks=1)).save("runs/people")
    gaps = people.astype({"age": "Int64"}).mask(np.random.default_rng(0).random(people.shape) < 0.2)
    same = people.iloc[[0] * N].assign(income=np.nan)
    rows = pandas.concat([people, gaps, same], ignore_index=True).astype({"age": "Int64", "income": "float64"})
    rows.insert(0, "id", range(3 * N))
    rows.to_parquet("rows.parquet", row_group_size=N // 2, index=False)
    (code,) = [code for code in EXAMPLES if library in code]
    options = {"PYTHONPATH": os.pathsep.join(sys.path), "PYSPARK_PYTHON": sys.executable}
    code = FIRST[library] + code.replace("10_000", str(N // 2))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | options, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted(Path("filled").glob("*.parquet"))
    assert len({parquet.read_schema(file).remove_metadata().to_string() for file in files}) == 1
    filled = pandas.concat(map(pandas.read_parquet, files)).sort_values("id", ignore_index=True)
    assert filled.notna().all(axis=None)
    assert len(filled) == 3 * N
    for name in rows:
        assert (filled[name] == rows[name])[rows[name].notna()].all(), name
    assert filled["income"][2 * N :].nunique() > 0.9 * N
