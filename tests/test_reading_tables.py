"""Tables on their way to training: what files and frames say, what is left out by name, and how rows are split."""

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from helpers import Patch, Printed, command, conditional_run, refusal, table_run

import ncsn
from ncsn.data.columns import Columns, Discrete, Number, learn_columns
from ncsn.data.dataset import Dataset
from ncsn.loading import dataset_of, load_dataset

RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 1000)
GAPPY = np.where(np.stack([np.zeros(1000, bool), RNG.random(1000) < 0.4], 1), np.nan, WHOLE)


def columns_of(data: Dataset) -> Columns:
    assert isinstance(data.transform, Columns)
    return data.transform


def rows_of(data: Dataset) -> np.ndarray:
    """The rows of all splits in their order, in the user's units."""
    z = torch.cat([data.validation, data.test, data.train]).double()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    rows: np.ndarray = data.transform.restore(z)[order.argsort()].numpy()
    return rows


def texts_of(data: Dataset) -> dict[str, tuple[str, ...]]:
    """The categories of each column."""
    return {column.name: column.categories for column in columns_of(data).columns}


def learned_from(rows: np.ndarray, *names: str) -> Dataset:
    return dataset_of(pandas.DataFrame(rows, columns=[*(names or "abcdefgh"[: rows.shape[1]])]))


def values_of(data: Dataset, name: str) -> tuple[float, ...]:
    """The values of a column of few."""
    column = columns_of(data).columns[columns_of(data).names.index(name)]
    assert isinstance(column, Discrete)
    return column.values


# Files.

BROKEN = {
    "spreadsheet": ("sep=;\na;b\n" + "1,5;2\n2;3\n3;4\n" * 20, "'sep=;'"),
    "ragged": ("a,b\n1,2\n3\n", "row 3 has 1 cell"),
    "names": ("a,b\n" + "".join(f"n{i},m{i}\n" for i in range(30)), "no column .*30 rows"),
    "blank": ("a,b\n" + ",\n" * 20, "no column .*20 rows"),
    "constant": ("a,b\n" + "1,2\n" * 20, "no column .*20 rows"),
    "few": ("a,b\n1,2\n2,3\n1,3\n2,4\n", "rows found: 4;"),
    "infinite": ("a,b\n1,inf\n2,3\n", "infinite numbers in b"),
    "huge": ("a,b\n1,1e200\n2,3\n", "1e150 in b"),
    "twice": ("a,a\n1,2\n3,4\n", "'a'"),
    "empty": ("", "cannot be read"),
    "open": ('a,b\n1,2\n3,"4\n5,6\n', "row 3: .*quotes"),
}
# Of numbers, which name no columns.
FIRST_LINES = ["1.5,2", "5.0655e+01,1", "+1.5,2", "1E5,3", "1.,2", " 2.5,3", "nan,1", "inf,0"]
FIRST_LINES += [",3", '"1,000",7', "$5,1"]
BROKEN |= {line: (f"{line}\n3,4\n5,6\n", "first line must hold column names") for line in FIRST_LINES}


@pytest.mark.parametrize(("text", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_table_is_refused_in_a_line(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"^[^\n]*{why}[^\n]*$"):
        load_dataset(str(tmp_path / "x.csv"))


def test_what_is_no_file_of_a_table_is_refused_at_once(here: Path, monkeypatch: Patch, capsys: Printed) -> None:
    """Memory that runs out is no fault of the file."""
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: conditional_run(torch.eye(2)))
    np.savez("two.npz", a=WHOLE, b=WHOLE)
    Path("objects.NPY").write_bytes(pickle.dumps([1.0, 2.0]))
    Path("x.csv").write_text("a,b\n1,2\n")
    cases = {"no.csv": "cannot be read", "no.npy": "cannot be read", "two.npz": "a, b"}
    cases |= {"objects.NPY": "(it holds Python objects)\n"}
    for name, why in cases.items():
        assert why in refusal(capsys, "calibrate", "it", "--rows", name)

    def full(_: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", full)
    with pytest.raises(MemoryError):
        load_dataset("x.csv")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,?\n-2,3\n,-\n", [[1, -2], [math.nan, 3]]),  # empty rows are left out
        ("a,b\n1,N/A\n-2,3\n", [[1, -2], [math.nan, 3]]),
        ('a,b\n"1,200",5\n"3,000,000",7.5\nNone,-1\n', [[1200, 3e6, math.nan], [5, 7.5, -1]]),
        ("a,b\n5,#DIV/0!\n7,2\n", [[5, 7], [math.nan, 2]]),
        ("a,b\n1e3,.5\n-2E-3,5.\n", [[1000, -0.002], [0.5, 5]]),
        ("a;b\n1,5;2\n2,5;3\n", [[1.5, 2.5], [2, 3]]),
        ("a;b\n999;1,5\n1.234;2,5\n2.500,5;.\n", [[999, 1234, 2500.5], [1.5, 2.5, math.nan]]),
        # Each column decides by all of its cells.
        ("a;b\n1,2;573.629\n", [[1.2], [573.629]]),
        ("a;b\n1.5;1,5\n1.234;2,5\n2.250;3,5\n", [[1.5, 1.234, 2.25], [1.5, 2.5, 3.5]]),
        ('a,b\n"0,125",2\n"1,250",3\n', [[0.125, 1.25], [2, 3]]),
        ("a;b\n1,625e+07;2\n2,312e-06;3\n", [[1.625e7, 2.312e-6], [2, 3]]),
        ("a\tb\n1.5\t2\n2.5\t3\n", [[1.5, 2.5], [2, 3]]),
        ("a,\tb\n1.5,\t2\n2.5,\t3\n", [[1.5, 2.5], [2, 3]]),
    ],
)
def test_numbers_are_read_as_people_write_them(
    name: str, text: str, expected: list[list[float]], tmp_path: Path
) -> None:
    mark = next(mark for mark in ("\t", ";", ",") if mark in text.partition("\n")[0])
    others = 10 * (f"71{mark}72\n73{mark}74\n".replace(mark, ",\t") if ",\t" in text else f"71{mark}72\n73{mark}74\n")
    (tmp_path / name).write_text(text + others)
    numbers = {
        column: [*cells, *10 * ends] for column, cells, ends in zip("ab", expected, ([71, 73], [72, 74]), strict=True)
    }
    assert load_dataset(tmp_path / name).digest == dataset_of(pandas.DataFrame(numbers)).digest


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('k;"name, unit";z\n1;"n, 2";3\n', ["k", "name, unit", "z"]),
        ('a\t"k;1"\tb, c\n1\t"2; x"\t3,5\n', ["a", "k;1", "b, c"]),
        ("price;weight, kg\n1;2,5\n", ["price", "weight, kg"]),
        ('k,"a\tb; ""c"\n1,"2\t3;"\n', ["k", 'a\tb; "c']),
        ("a,b\u2028\n1,2\x0b\n", ["a", "b\u2028"]),
        ('two  blanks,"a\nb"\n1,2\n', ["two  blanks", "a\nb"]),
    ],
)
def test_delimiters_within_cells_do_not_count(text: str, names: list[str], tmp_path: Path) -> None:
    row = text[text.rindex("\n", 0, -1) + 1 :]
    (tmp_path / "x.csv").write_text(text + 6 * (row + row.translate(str.maketrans("123", "789"))))
    found = columns_of(load_dataset(tmp_path / "x.csv"))
    assert [field.label for field in found.fields] == names, "the header of samples"


def test_commas_that_may_be_decimal_signs_are_announced(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.csv").write_text("a,b\n" + 6 * '"1,200",2\n"3,000",3\n')
    assert values_of(load_dataset(tmp_path / "x.csv"), "a") == (1200, 3000)
    assert "1,200 is read as 1200" in capsys.readouterr().err
    for cells, said in ((["1,000", "2.007", "3,014"], True), (["1,000", "2.5"], False), (["1,000,000", "2"], False)):
        dataset_of(pandas.DataFrame({"a": 6 * cells}))
        assert ("1,000 is read as 1000" in capsys.readouterr().err) == said, cells


@pytest.mark.parametrize(
    "texts",
    [("E1", "e5"), ("1-2", "3"), ("00501", "A7"), ("00501", "1"), ("1,2,3", "4"), ("infer", "1"), ("$5", "7 %")],
)
def test_codes_are_text(texts: tuple[str, str], tmp_path: Path) -> None:
    pandas.DataFrame({"code": 6 * texts}).to_csv(tmp_path / "x.csv", index=False)
    assert texts_of(load_dataset(tmp_path / "x.csv")) == {"code": tuple(sorted(texts))}


@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-8", False), ("utf-8-sig", False), ("utf-16", False), ("cp1252", True)]
)
def test_text_is_unicode_or_that_of_windows(encoding: str, said: bool, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.csv").write_bytes(("größe,ort\n" + 6 * "1,Köln\n2,Bath\n").encode(encoding))
    assert texts_of(load_dataset(tmp_path / "x.csv")) == {"größe": (), "ort": ("Bath", "Köln")}
    assert ("Windows-1252" in capsys.readouterr().err) == said


@pytest.mark.parametrize(("dtype", "single"), [("float32", True), ("float64", False), ("int16", False)])
def test_numbers_of_an_array_keep_their_precision(dtype: str, single: bool) -> None:
    assert columns_of(dataset_of(np.arange(60).reshape(30, 2).astype(dtype))).single == single


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_files_bring_back_numbers_missing_cells_and_integers(suffix: str, here: Path, monkeypatch: Patch) -> None:
    numbers = (Number(name="a", shift=1e9, scale=1.0), Number(name="b", shift=0.0, scale=9.0, step=1.0))
    columns = Columns(columns=(*numbers, Number(name="c", shift=0.0, scale=1.0, gaps=True)))
    start = {"mean": torch.tensor([0.0, 0, 0, 0.5, 0.5]), "covariance": torch.eye(5)}
    run = table_run(start | {"gaps": torch.tensor([1]), "indicator": torch.tensor([-1, -1, 0])}, columns)
    monkeypatch.setattr(ncsn, "load", lambda *_, **__: run)
    command(f"sample it -n 30 --seed 0 --out x.{suffix}")
    drawn = run.sample(30, seed=0)
    assert 0 < int(drawn[:, 2].isnan().sum()) < 30
    if suffix == "parquet":
        found = pandas.read_parquet("x.parquet")
    else:
        found = pandas.read_csv(f"x.{suffix}", sep="," if suffix == "csv" else "\t")
    np.testing.assert_array_equal(found.to_numpy(float), drawn.double().numpy())
    assert (found["a"].dtype.kind, found["b"].dtype.kind) == ("f", "i")


# Text and dates.


def people(n: int = 400) -> pandas.DataFrame:
    """Rows with everything: their town goes with their age."""
    rng = np.random.default_rng(1)
    town = rng.integers(0, 5, n)
    return pandas.DataFrame(
        {
            "age": 20 + 10 * town + rng.standard_normal(n),
            "town": np.array(["Ulm", "Bath", "Rome", "Graz", "Lyon"])[town],
            "member": rng.random(n) < 0.3,
            "size": pandas.Categorical.from_codes(rng.integers(0, 3, n), ["small", "medium", "large"], ordered=True),
            "rank": np.where(np.arange(n) < 6, [f"r{i}" for i in range(n)], np.where(town < 2, "low", "high")),
            "id": [f"k{i:04}" for i in range(n)],
            "joined": pandas.Timestamp("2020-02-27 13:45:30") + pandas.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )


@pytest.mark.parametrize("source", ["frame", "people.csv", "people.parquet"])
def test_categories_and_dates_become_numbers_and_come_back(source: str, tmp_path: Path, capsys: Any) -> None:
    frame = people()
    frame.to_csv(tmp_path / "people.csv", index=False)
    frame.to_parquet(tmp_path / "people.parquet")
    data = dataset_of(frame) if source == "frame" else load_dataset(tmp_path / source)
    said = capsys.readouterr().err
    levels = ("large", "medium", "small") if source.endswith("csv") else ("small", "medium", "large")
    categories = {
        "age": (),
        "town": ("Bath", "Graz", "Lyon", "Rome", "Ulm"),
        "member": ("False", "True"),
        "size": levels,
        "rank": ("high", "low", "other"),
        "joined": (),
    }
    columns = columns_of(data).columns
    assert texts_of(data) == categories
    assert [column.name for column in columns if column.merged] == ["rank"]
    assert [column.name for column in columns if column.date] == ["joined"]
    assert "id" in said
    assert "6 rare values of rank" in said
    back = pandas.DataFrame(rows_of(data), columns=[*categories])
    for name in ("town", "member", "size"):
        assert [categories[name][int(code)] for code in back[name]] == frame[name].astype(str).tolist(), name
    days = (frame["joined"] - pandas.Timestamp(0)) / pandas.Timedelta(days=1)
    np.testing.assert_allclose(back["joined"], days, atol=1e-4, rtol=0)
    exact = torch.from_numpy(back.assign(joined=days).to_numpy())
    dates = data.transform.restore(data.transform.forward(exact))[:, -1].numpy()
    assert pandas.Series(pandas.to_datetime(dates, unit="D")).dt.round("s").tolist() == frame["joined"].tolist()
    np.testing.assert_allclose(back["age"], frame["age"], rtol=1e-6)
    assert (back["rank"] == 2).sum() == 6


def test_levels_that_no_row_has_are_no_category() -> None:
    """So they are never sampled."""
    frame = people().drop(columns="id")
    frame["size"] = frame["size"].cat.add_categories(["huge"])
    frame["town"] = pandas.Categorical(frame["town"], ["Aachen", *frame["town"].unique()])
    towns = tuple(frame["town"].unique())
    found = texts_of(dataset_of(frame))
    assert (found["size"], found["town"]) == (("small", "medium", "large"), towns)


def test_of_many_values_the_most_frequent_are_kept_unless_most_rows_have_others() -> None:
    counts = np.array([20] * 40 + [9] * 9 + [8] * 20)  # of 69 values
    some = np.repeat([f"v{i:02}" for i in range(69)], counts)
    frame = pandas.DataFrame({"x": RNG.standard_normal(len(some)), "some": some})
    frame["many"] = [f"w{i % 120}" for i in range(len(frame))]
    data = dataset_of(frame)
    assert columns_of(data).names == ("x", "some")
    assert {*texts_of(data)["some"]} == {f"v{i:02}" for i in range(49)} | {"other"}
    others = np.array(texts_of(data)["some"])[rows_of(data)[:, 1].astype(int)] == "other"
    np.testing.assert_array_equal(others, np.isin(some, [f"v{i}" for i in range(49, 69)]))


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (pandas.date_range("2024-01-01", periods=3).date, [19723, 19724, 19725]),
        (["2024-01-01", "2024-01-02 12:00", "?"], [19723, 19724.5, math.nan]),
        (["2024-01-01T02:00+02:00", "2024-01-02T00:00Z", None], [19723, 19724, math.nan]),
    ],
)
def test_dates_are_days_since_1970(cells: Any, days: list[float]) -> None:
    data = dataset_of(pandas.DataFrame({"day": 6 * [*cells], "x": np.arange(18)}))
    assert [column.date for column in columns_of(data).columns] == [True, False]
    np.testing.assert_array_equal(rows_of(data)[:3, 0], days)


def listed(name: str, *texts: str) -> Discrete:
    return Discrete(name=name, values=tuple(map(float, range(len(texts)))), categories=texts)


def test_rows_are_matched_to_a_runs_columns(capsys: Any) -> None:
    """By name, and text by the run's numbers; −1 is text that it has not seen, and NaN a column that is not there."""

    def numbers_of(frame: pandas.DataFrame, *columns: Number | Discrete, unseen: Any = "skip") -> torch.Tensor:
        known = Columns(columns=columns)
        size = len(known.numbers) + sum(known.codes)
        run = table_run({"mean": torch.zeros(size), "covariance": torch.eye(size)}, known)
        return run.impute(frame, 1, unseen=unseen).observed

    def match(frame: pandas.DataFrame, *columns: Number | Discrete) -> list[list[float]]:
        rows: list[list[float]] = numbers_of(frame, *columns).T.tolist()
        return rows

    rows = people(3)[["town", "rank", "member", "age"]].assign(rank=["low", None, "new"], town=[None, "Oslo", "Rome"])
    age, member = (Number(name=name, shift=0, scale=1) for name in ("age", "member"))
    rank, town = listed("rank", "high", "low", "other"), listed("town", "Bath", "Rome")
    assert match(rows, rank)[0][2] == -1, "a real value is no other's"
    unseen = pandas.DataFrame({"age": [-1, 40], "town": ["Bath", "Oslo"]})
    known = numbers_of(unseen, age, town, unseen="missing")
    np.testing.assert_array_equal(known, [[-1, 0], [40, math.nan]])
    found = match(rows, age, replace(rank, merged=True), town)
    np.testing.assert_array_equal(found, [rows["age"], [1, math.nan, 2], [math.nan, -1, 1]])
    assert "doesn't know them: member" in capsys.readouterr().err
    numeric = Number(name="town", shift=0, scale=1)
    with pytest.raises(ValueError, match="town 'Oslo' \\(row 2\\)"):
        match(rows, age, numeric)
    np.testing.assert_array_equal(match(rows.drop(columns="town"), age, numeric), [rows["age"], [math.nan] * 3])
    for value in (True, False):
        assert match(rows.assign(member=value), member) == [[value] * 3]
    codes = pandas.DataFrame({"code": [1234567, 2.5, 8]})
    assert match(codes, listed("code", "A12", "1234567", "2.5")) == [[1, 2, -1]], "text that is a number in the file"


# What is left out, and the split.


def test_what_says_nothing_is_left_out_by_name(capsys: Any) -> None:
    frame = pandas.DataFrame({"": range(1, 101), "x": RNG.standard_normal(100), "y": RNG.standard_normal(100)})
    frame["gappy"] = np.where(np.arange(100) < 30, 1.5 * np.arange(100), math.nan)
    frame["scarce"], frame["empty"] = np.where(np.arange(100) < 95, math.nan, frame["x"]), math.nan
    frame["same"], frame["nearly"], frame["run"] = 1.0, 1.0 * (np.arange(100) == 7), range(100)
    frame.loc[5, "x"] = math.nan
    frame.loc[100] = math.nan
    frame.loc[100, ""] = 101
    frame.index.name = "patient"
    data = dataset_of(frame)
    said = capsys.readouterr().err.splitlines()
    assert columns_of(data).names == ("x", "y", "gappy", "run")
    assert len(rows_of(data)) == 100
    facts = [
        ("patient",),
        ("name",),
        ("scarce", "empty"),
        ("1 of 101",),
        ("same", "nearly"),
        ("71 of 100", "gappy", "(70)"),
    ]
    for line, words in zip(said, facts, strict=True):
        assert all(word in line for word in words), (line, words)


def test_columns_that_vary_outside_training_alone_are_left_out_by_name(capsys: Any) -> None:
    x, n = RNG.standard_normal((200, 2)), 200
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    outside, inside = np.zeros(n), np.zeros(n)
    outside[order[:40]], inside[order[-1]] = RNG.standard_normal(40), 3.0
    data = learned_from(np.stack([x[:, 0], outside, x[:, 1], inside], 1), "a", "outside", "b", "inside")
    assert data.transform == learned_from(x, "a", "b").transform
    assert torch.equal(data.train, learned_from(x, "a", "b").train)
    assert "outside" in capsys.readouterr().err


def test_columns_are_of_the_rows_to_train_on_and_others_may_be_anywhere() -> None:
    x, order = RNG.lognormal(0, 2, (300, 2)), torch.randperm(300, generator=torch.Generator().manual_seed(0))
    x[order[0]], x[order[35]] = [0.0, -1e9], [1e200**0.5, 0.0]
    data = learned_from(x)
    rows = torch.from_numpy(x)
    columns = learn_columns(rows[order[60:]], ("a", "b"), every=rows)
    assert data.transform == columns
    z = columns.forward(rows).float().clamp(-30, 30)
    for part, index in (("validation", order[:30]), ("test", order[30:60]), ("train", order[60:])):
        torch.testing.assert_close(getattr(data, part), z[index], rtol=0, atol=0, equal_nan=True)
    assert float(data.validation[~data.validation.isnan()].abs().max()) == 30, "0 has no logarithm"
    assert float(data.train.abs().max()) < 8


def test_held_out_numbers_that_training_cannot_make_are_counted(capsys: Any) -> None:
    """One beyond a bound and one far away are named; others, and listed values, aren't."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.choice([0.0, 10, 20, 30], 1000), rng.uniform(0, 1, 1000), rng.standard_normal(1000)], 1)
    learned_from(rows.copy())
    assert "held-out number" not in capsys.readouterr().err
    held_out = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:200].numpy()
    rows[held_out[0], 0], rows[held_out[1], 1], rows[held_out[150], 2] = 15, 1.4, 1e6
    learned_from(rows)
    assert "2 held-out numbers" in capsys.readouterr().err


def test_rows_lie_anywhere_in_the_cells_of_their_numbers() -> None:
    """A network would learn one place in each as a spike."""
    rng = np.random.default_rng(0)
    x = np.stack([np.round(np.exp(3 + rng.standard_normal(4000))), rng.choice([1.0, 2.5, 1000.0], 4000)], 1)
    data = learned_from(x)
    assert data.codes == (3,), "values that are few have codes"
    assert len({*data.train[:, 0].tolist()}) > 0.99 * len(data.train)
    assert torch.isin(data.transform.inverse(data.train), torch.from_numpy(x)).all()


def test_rows_with_gaps_are_in_every_split_and_columns_are_of_what_is_known() -> None:
    data, gaps = learned_from(GAPPY), np.isnan(GAPPY)[:, 1].mean()
    assert (len(data.train), len(data.validation), len(data.test), data.codes) == (800, 100, 100, (2,))
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part[:, 1].isnan(), part[:, 2] == 1), "a code says so"
        assert float(part[:, 2].double().mean()) == pytest.approx(gaps, abs=0.15)
    z = torch.cat([data.train, data.validation, data.test])
    assert isinstance(data.transform, Columns)
    rows, own = data.transform.restore(z.double()).nan_to_num(1e3).numpy(), np.nan_to_num(GAPPY, nan=1e3)
    assert np.allclose(rows[rows[:, 0].argsort()], own[own[:, 0].argsort()], atol=1e-4), "each row once"
    known = data.transform.inverse(data.train.double())[:, 1].nanmean()
    column = data.transform.columns[1]
    assert isinstance(column, Number)
    assert column.shift == pytest.approx(float(known), abs=1e-5)


def test_gaps_of_held_out_rows_have_a_code_even_if_training_has_none() -> None:
    x, order = RNG.standard_normal((200, 2)), torch.randperm(200, generator=torch.Generator().manual_seed(0))
    x[order[:3], 1] = math.nan
    data = learned_from(x)
    assert data.codes == (2,)
    for part, count in ((data.validation, 3), (data.test, 0), (data.train, 0)):
        assert (int(part[:, 1].isnan().sum()), int((part[:, 2] == 1).sum())) == (count, count)


@pytest.mark.parametrize("change", ["texts", "order of texts", "dates", "name", "a number"])
def test_the_digest_is_of_texts_dates_and_names_too(change: str) -> None:
    frame = people().drop(columns=["id", "size"])
    other = {
        "texts": frame.assign(town=frame["town"].replace("Ulm", "Umm")),
        "order of texts": frame.assign(member=~frame["member"]),
        "dates": frame.assign(joined=(frame["joined"] - pandas.Timestamp(0)).dt.total_seconds() / 86_400),
        "name": frame.rename(columns={"age": "years"}),
        "a number": frame.assign(age=frame["age"].where(frame.index != 7, 50.0)),
    }[change]
    assert dataset_of(frame).digest == dataset_of(frame.copy()).digest != dataset_of(other).digest


@pytest.mark.parametrize("place", range(1, 60, 6))
def test_what_only_held_out_rows_have_was_never_observed(place: int) -> None:
    """One row of b has a number: it is observed if that row is one to learn from."""
    numbers, b = RNG.normal(size=60), np.arange(60) % 2 == 1
    gappy = np.where(b & (np.arange(60) != place), np.nan, numbers)
    data = dataset_of(pandas.DataFrame({"name": np.where(b, "b", "a"), "gappy": gappy}))
    learned = data.train[data.train[:, 1] == 1, 0]
    assert isinstance(data.transform, Columns)
    assert (("gappy", "name", 1.0) in data.transform.never) == bool(learned.isnan().all())
