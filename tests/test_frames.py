"""DataFrames in, DataFrames out: dtypes, given values, gaps, what is refused; files of the command line too."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from helpers import (
    THREE,
    Printed,
    command,
    conditional_run,
    fit_table,
    load_table,
    refusal,
    storms,
    table_run,
    unchecked,
    with_transform,
)

import ncsn
from ncsn.data.columns import Columns, Discrete, Field, Number
from ncsn.evaluation import evaluate
from ncsn.loading import dataset_of
from ncsn.settings import TrainSettings
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.run import TableRun

RNG, N = np.random.default_rng(0), 800
AGE, SEX, DAYS = RNG.integers(18, 90, N), RNG.random(N) < 0.4, RNG.integers(0, 600, N)
ZONED = pandas.Series(
    pandas.Timestamp("2024-03-01 12:00", tz="Europe/Berlin") + pandas.to_timedelta(37 * DAYS, unit="h")
)
EVE = np.datetime64("2024-12-31", "s")
GAPS = {"code": 0.1, "kids": 0.1, "region": 0.2, "seen": 0.1, "maybe": 0.1, "share": 0.1, "paid": 0.1}
COLUMNS: dict[Any, Any] = {
    "age": pandas.array(AGE, dtype="int16"),
    "income": np.exp(8 + SEX + 0.5 * RNG.standard_normal(N)).astype("float32"),
    "sex": pandas.Categorical(np.where(SEX, "F", "M"), ["X", "M", "F"], ordered=True),
    "region": pandas.array(RNG.choice(["Bonn", "Kiel", "Ulm"], N), dtype="string"),
    "kids": pandas.array(RNG.poisson(AGE / 40), dtype="Int64"),
    "seen": ZONED.astype("datetime64[ms, Europe/Berlin]").array,
    "born": [str(day) for day in (pandas.Timestamp("1990-01-01") + pandas.to_timedelta(DAYS, unit="D")).date],
    "day": (pandas.Timestamp("1990-01-01") + pandas.to_timedelta(DAYS, unit="D")).date,
    "paid": pandas.array(
        (pandas.Timestamp("2020-01-01") + pandas.to_timedelta(DAYS[::-1], unit="D")).date, dtype="date32[day][pyarrow]"
    ),
    "member": AGE > 60,
    "maybe": pandas.array(RNG.random(N) < 0.5, dtype="boolean"),
    "grade": pandas.Categorical(RNG.integers(1, 5, N), [4, 3, 2, 1]),
    "wave": pandas.Categorical(np.where(RNG.random(N) < 0.5, EVE, EVE + np.timedelta64(1, "D"))),
    "code": pandas.array(np.where(RNG.random(N) < 0.5, "007", "020"), dtype="string[python]"),
    "share": RNG.beta(2, 2, N),
    "id": [f"k{i:04}" for i in range(N)],
    7: np.where(RNG.random(N) < 0.5, "low", "high").astype(object),
}
FRAME = pandas.DataFrame(COLUMNS, index=[f"row {i}" for i in range(N)])
WHOLE = FRAME.copy()
for column, rate in GAPS.items():
    FRAME.loc[RNG.random(N) < rate, column] = None
KNOWN = FRAME.drop(columns="id")
SMALL = TrainSettings(channels=(64,), blocks=1, batch_size=128)


def assert_alike(new: pandas.DataFrame, old: pandas.DataFrame) -> None:
    """The same columns in the same order, with the same dtypes."""
    assert [*new.columns] == [*old.columns]
    for name in old:
        assert new[name].dtype == old[name].dtype, name
        if old[name].dtype == object:
            assert {*map(type, new[name].dropna())} == {*map(type, old[name].dropna())}, name


def assert_filled(filled: pandas.DataFrame, old: pandas.DataFrame) -> None:
    """Observed cells and the index are as they were, and no cell is missing."""
    assert_alike(filled, old)
    assert filled.index.equals(old.index)
    for name in old:
        there = old[name].notna()
        pandas.testing.assert_series_equal(filled[name][there], old[name][there])
        assert filled[name].notna().all(), name


@pytest.fixture(scope="module")
def run() -> TableRun:
    return fit_table(FRAME, steps=30, settings=SMALL)


def filled_in(run: TableRun, rows: Any, n: int, **options: Any) -> pandas.DataFrame:
    """The best guesses of a table's missing cells."""
    imputed = run.impute(rows, n, **options)
    assert isinstance(imputed, ImputedTable)
    return imputed.frame()


def test_samples_are_like_the_frame_and_stay_so_when_the_run_is_loaded(run: TableRun, tmp_path: Path) -> None:
    made = run.sample(100, seed=3)
    assert_alike(made, KNOWN)
    for name in ("sex", "region", "grade", 7, "day", "born"):
        assert {*made[name]} <= {*KNOWN[name]} or name in ("day", "born"), name
    run.save(tmp_path / "run")
    pandas.testing.assert_frame_equal(ncsn.load(tmp_path / "run").sample(100, seed=3), made)
    filled = run.impute(FRAME, 3, seed=1)
    assert isinstance(filled, ImputedTable)
    assert_filled(filled.frame(), FRAME)
    again = load_table(tmp_path / "run").impute(FRAME, 3, seed=1)
    assert torch.equal(again.draws, filled.draws)


@pytest.mark.parametrize(
    "given",
    [
        {"sex": "F"},
        {"sex": "M", "age": 40, 7: "low"},
        {"income": 2345.5, "grade": 3, "member": True, "maybe": False, "wave": pandas.Timestamp(EVE), "code": "007"},
        {"seen": KNOWN["seen"].dropna().iloc[5], "born": "1990-05-17", "day": KNOWN["day"].iloc[9], "kids": 2},
        {"seen": "2024-05-01T10:00Z"},
        {"seen": "2024-05-01 12:00:00+02:00"},
    ],
    ids=str,
)
def test_given_values_are_exact_and_the_others_are_drawn(given: dict[Any, Any], run: TableRun) -> None:
    made = run.sample(60, given=given, seed=2)
    assert_alike(made, KNOWN)
    for name, value in given.items():
        assert (made[name] == value).all(), name
    said, kept = (run._numbers(rows) for rows in (pandas.DataFrame([given]), made[[*given]][:1]))
    assert torch.equal(said.nan_to_num(), kept.nan_to_num()), "what the others are drawn given"
    assert made["share"].nunique() > 20


def test_gaps_of_a_frame_are_filled_in_and_nothing_else(run: TableRun) -> None:
    some = FRAME[:200]
    filled = run.impute(some, 20)
    assert isinstance(filled, ImputedTable)
    gaps = some.isna()
    frames = filled.frames(20)
    for frame in (filled.frame(), *frames[:3]):
        assert_filled(frame, some)
    drawn = np.stack([frame["share"][gaps["share"]] for frame in frames])
    np.testing.assert_allclose(filled.frame()["share"][gaps["share"]], drawn.mean(0))
    spread, (low, high) = filled.spread(), filled.interval(0.9)
    np.testing.assert_allclose(spread["share"][gaps["share"]], drawn.std(0, ddof=1))
    regions, guesses = (
        [frame["region"][gaps["region"]].tolist() for frame in each] for each in (frames, [filled.frame()])
    )
    np.testing.assert_allclose(spread["region"][gaps["region"]], (np.array(regions) == guesses).mean(0))
    assert (spread.notna() == gaps[spread.columns]).all().all()
    # Of 20 draws, 5 % lie below the first to second one.
    ordered = np.sort(drawn, 0)
    np.testing.assert_allclose(low["share"][gaps["share"]], 0.95 * ordered[0] + 0.05 * ordered[1])
    assert (low["seen"] <= high["seen"]).all()
    assert low["seen"].dtype == FRAME["seen"].dtype
    assert not {"region", "sex", "maybe"} & {*low.columns}
    with pytest.raises(ValueError, match="impute\\(rows, 199\\)"):
        filled.interval(0.99)
    with pytest.raises(ValueError, match="20 draws"):
        filled.frames(21)


def test_columns_may_be_absent_or_unknown_and_a_dict_is_as_good_as_a_frame(run: TableRun, capsys: Printed) -> None:
    some = FRAME[["region", "age"]][:4].assign(note="?!", region=[None, "Ulm", "Bonn", None])
    filled = filled_in(run, some, 2)
    assert [*filled.columns] == ["region", "age", "note", *(name for name in KNOWN if name not in some)]
    assert "note" in capsys.readouterr().err
    for name in KNOWN.columns.difference(["region", "age"], sort=False):
        assert filled[name].dtype == KNOWN[name].dtype, name
    assert filled.index.equals(some.index)
    assert filled.notna().all().all()
    values = {name: WHOLE[name][:3].tolist() for name in KNOWN}
    options: Any = {"probes": 1, "tolerance": 0.3}
    density = run.log_prob(WHOLE[:3].iloc[:, ::-1], **options)
    assert density.index.equals(WHOLE.index[:3])
    values["seen"] = WHOLE["seen"][:3]
    assert density.tolist() == run.log_prob(values, **options).tolist()
    rows = filled_in(run, {"age": [30, None], "sex": ["F", None]}, 2)
    assert rows["sex"][0] == "F"
    assert set(rows["sex"]) <= {"F", "M"}


@pytest.mark.parametrize(
    "cells",
    [
        pandas.array([1, *[None] * 30], dtype="Int64"),
        ["1", *[None] * 30],
        ["1", 2.5, *[None] * 29],
        pandas.Categorical([1, *[None] * 30]),
        [9] * 31,
        [True] * 31,
        pandas.to_datetime(["2024-01-01"] * 31),
    ],
    ids=["integers", "text", "mixed", "categories", "unseen", "booleans", "dates"],
)
def test_categories_are_filled_into_cells_of_any_type(cells: Any, run: TableRun) -> None:
    """The draws are those of a column of reals; cells that training has not seen are drawn, too."""
    rows = {"age": [30] * 31, "grade": cells}
    reals = [1.0 if cells[0] in (1, "1") and cells[0] is not True else math.nan, *[math.nan] * 30]
    filled, expected = (filled_in(run, each, 3, unseen="missing")["grade"] for each in (rows, rows | {"grade": reals}))
    assert filled.astype(float).tolist() == expected.astype(float).tolist()
    assert {*expected.astype(float)} <= {1, 2, 3, 4}


def test_text_with_decimal_commas_gets_more_of_them(run: TableRun) -> None:
    """Otherwise the next program reads the column as text, or 0.512 as 512."""
    rows = {"age": [30] * 3, "share": ["0,5", "0,25", None]}
    frame = pandas.DataFrame(rows).astype({"share": "string"})
    filled = filled_in(run, frame, 3)["share"]
    assert filled.dtype == frame["share"].dtype
    assert filled[:2].tolist() == ["0,5", "0,25"]
    assert "," in filled[2]
    assert 0 <= float(filled[2].replace(",", ".")) <= 1


@pytest.mark.parametrize("level", [" a", "a", "NA"])
def test_levels_with_blanks_or_words_for_missing_values_are_given_as_they_are(level: str) -> None:
    levels = pandas.Series([" a", "a", "NA"] * 20, dtype="category")
    run = fit_table(pandas.DataFrame({"level": levels, "x": np.linspace(0, 1, 60) ** 2}), steps=1)
    assert run.sample(2, given={"level": level})["level"].tolist() == [level] * 2
    assert run.impute({"level": [level], "x": [None]}, 1).draws[0, 0, 0] == [" a", "NA", "a"].index(level)


@pytest.mark.parametrize("name", ["age", "share", "seen"])
def test_categories_of_numbers_and_dates_take_any_draw(name: str, run: TableRun) -> None:
    rows = KNOWN[::40].copy()
    rows.loc[rows.index[::2], name] = None
    plain, filled = (filled_in(run, each, 3)[name] for each in (rows, rows.astype({name: "category"})))
    assert filled.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({"region": ["Ulm", "XX"]}, r"region 'XX' \(row 2\) is not among Bonn, Kiel, Ulm"),
        ({"grade": [1, 9]}, r"grade 9 \(row 2\) is not among "),
        ({"age": [20.5]}, r"age 20.5 \(row 1\) is not a whole number between"),
        ({"share": [1e9]}, r"share 1000000000.0 \(row 1\) is not between"),
        ({"age": [1, "old"]}, r"age 'old' \(row 2\) is not a number"),
        ({"share": ["0.5", "0,5"]}, r"share '0,5' \(row 2\) is not a number"),
        ({"born": ["1990-01-01", "May"]}, r"born 'May' \(row 2\) is not a date"),
        ({"born": ["1990-01-01T12:00"]}, r"born '1990-01-01T12:00' \(row 1\) is not a whole day between"),
        ({"seen": ["2024-03-01"]}, "Europe/Berlin"),
        ({"ages": [1]}, "ages, but the run has age, income"),
        ({"age": 40}, "dict of columns"),
        (KNOWN["age"], "to_frame"),
        (KNOWN[[]], "0 columns"),
        (KNOWN[["age", "age"]], "'age'"),
        (KNOWN.set_axis(pandas.MultiIndex.from_product([["a"], KNOWN.columns]), axis=1), "MultiIndex"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_rows_that_a_run_cannot_take_are_refused_in_the_users_words(rows: Any, why: str, run: TableRun) -> None:
    for call in (run.impute, run.log_prob):
        with pytest.raises(ValueError, match=rf"^[^\n]*{why}[^\n]*$"):
            call(rows)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda run: run.sample(3, given={"town": "Ulm"}), "given names town, but the run has age"),
        (lambda run: run.sample(3, given={"id": "k1"}), "given names id"),
        (lambda run: run.sample(3, given={"sex": None}), "missing value for sex"),
        (lambda run: run.sample(3, given={}), "given is"),
        (lambda run: run.log_prob(WHOLE[:2], given=WHOLE["age"]), "given is"),
        (lambda run: run.sample(3, sampler=WHOLE["age"]), "sampler is"),
        (lambda run: run.impute(FRAME, unseen=pandas.NA), "unseen"),
        (lambda run: run.posterior(lambda x: x[:, :1], [0.5], noise_std=1.0), "categories or gaps .*sex.*run.impute"),
        (lambda run: run.sample(3, complete="yes"), "complete"),
        (lambda run: run.sample(3, given={name: WHOLE[name].iloc[0] for name in KNOWN}), "every column"),
        (lambda run: run.sample(3, given={"region": "XX"}), "'XX'"),
        (lambda run: run.impute(FRAME, unseen="no"), "unseen"),
        (lambda run: run.log_prob(WHOLE[:2].assign(age=pandas.array([1, None]))), r"age \(row 2\) is missing"),
        (lambda run: evaluate(run, KNOWN[::-1]), "^data "),
        (lambda _: TableRun.of(lambda x, s: -x, (2,), sigma_max=9.0, sigma_min=0.1).sample(3, given={"0": 1}), "cond"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_python_users_get_wrong_with_a_table(call: Callable[[Any], Any], why: str, run: TableRun) -> None:
    with unchecked(), pytest.raises(ValueError, match=why):
        call(run)


def test_options_of_other_packages_are_answered_with_ours(run: TableRun) -> None:
    images: Any = ncsn.load("mnist", device="cpu")
    for call, why in (
        (lambda: images.sample(1, given={"sex": "F"}), "has no given"),
        (lambda: run.sample(3, random_state=1), "use seed"),  # type: ignore[call-arg]
        (lambda: run.sample(frac=0.5), "use n"),  # type: ignore[call-arg]
        (lambda: ncsn.fit(KNOWN, steps=1, random_state=0), "use seed"),  # type: ignore[call-overload]
        (lambda: ncsn.fit(KNOWN, steps=1, nonsense=0), "fit has no nonsense$"),  # type: ignore[call-overload]
    ):
        with pytest.raises(TypeError, match=why):
            call()  # type: ignore[no-untyped-call]


def test_a_run_and_imputed_rows_say_what_they_are(run: TableRun, capsys: Printed) -> None:
    assert "age, income" in repr(run)
    assert repr(run).count("\n") <= 4
    rows = WHOLE[:4].assign(
        region=[None, "XX", "Ulm", None], kids=pandas.array([None, None, 1, 2]), note=["x", None, "", "y"]
    )
    capsys.readouterr()
    imputed = run.impute(rows, 3, unseen="skip")
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "left with missing cells" in line and "kids (1), note (2)" in line]
    assert all(fact in repr(imputed) for fact in ("4 rows", "3 draws", "region (2), kids (1)", "kids (1), note (2)"))
    assert repr(imputed).count("\n") <= 4
    assert isinstance(imputed, ImputedTable)
    assert "<table" in imputed._repr_html_()
    run.impute(WHOLE[:2].assign(region=None), 3)
    assert "left with" not in capsys.readouterr().out


def test_guesses_where_nothing_was_observed_are_announced_once(tmp_path: Path, capsys: Printed) -> None:
    frame = storms(400).drop(columns="damage")
    frame["wind"] += np.random.default_rng(1).random(400)
    frame["depth"] = frame["wind"].where(frame["category"].isna())
    fit_table(frame, steps=2, settings=SMALL).save(tmp_path / "run")
    run = load_table(tmp_path / "run")
    none = {("category", "status", 0.0), ("depth", "status", 1.0)}
    assert none <= {*run.columns.never}
    word = "category was never observed where status is 'depression': its imputations are guesses"
    known = frame[frame["status"] == "hurricane"].assign(category=None)
    asks: list[tuple[Callable[[], object], bool]] = [
        (lambda: run.impute(frame[frame["status"] == "depression"][:5], 2), True),
        (lambda: run.impute(known.assign(depth=1.0)[:5], 2), False),
        (lambda: run.sample(50), False),
        (lambda: run.sample(50, complete=True), True),
        (lambda: run.sample(50, complete=True, given={"status": "depression"}), True),
    ]
    for number, (ask, guessed) in enumerate(asks):
        capsys.readouterr()
        ask()
        said = capsys.readouterr().err
        assert (word in said, said.count("guesses")) == (guessed, guessed), number


def test_unseen_values_of_held_out_rows_are_no_hindrance_to_conformal_intervals(run: TableRun) -> None:
    rows = WHOLE[:50].copy()
    rows["kids"] = pandas.array([10**6, *rows["kids"][1:]], dtype="Int64")
    rows["region"] = ["XX", *rows["region"][1:]]
    low, high = run.impute(FRAME[:20], 3).interval(0.8, conformal=rows)
    assert low["share"].notna().all()
    assert (low["share"] <= high["share"]).all()


def test_given_dates_with_an_offset_and_categories_of_floats() -> None:
    days = pandas.Timestamp("2024-02-01") + pandas.to_timedelta(37 * DAYS, unit="min")
    level = pandas.Categorical(RNG.choice([1.0, 2.0, 2.5], N))
    run = fit_table(pandas.DataFrame({"d": days, "c": level, "x": RNG.standard_normal(N)}), steps=1)
    made = run.sample(3, given={"d": "2024-02-03T10:00+02:00", "c": 1.0})
    assert (made["d"] == pandas.Timestamp("2024-02-03T08:00")).all()
    assert (made["c"] == 1.0).all()
    for value in (2, 2.0, "2.0"):
        assert (run.sample(3, given={"c": value})["c"] == 2.0).all()
    with pytest.raises(ValueError, match="not among"):
        run.sample(3, given={"c": 3.0})


def test_times_that_clocks_show_twice_or_never_are_the_later_ones() -> None:
    local = np.array(["2024-10-27T02:30", "2024-03-31T02:30", "2024-07-01T12:00"], "datetime64[s]")
    days = local.astype(float) / 86_400
    columns = Columns(
        columns=tuple(Number(name=str(i), date=True, shift=day, scale=1e-9) for i, day in enumerate(days)),
        fields=tuple(Field(label=i, dtype="datetime64[s, Europe/Berlin]") for i in range(3)),
    )
    times = with_transform(conditional_run(torch.eye(3)), columns).sample(1)
    later = ["2024-10-27 02:30+01:00", "2024-03-31 03:00+02:00", "2024-07-01 12:00+02:00"]
    assert times.iloc[0].tolist() == [pandas.Timestamp(time) for time in later]


def test_a_real_other_is_no_place_for_unseen_values() -> None:
    """Only if training has merged rare values."""
    texts = RNG.choice(["other", "yes", "no"], 200)
    frame = pandas.DataFrame({"c": texts, "x": RNG.standard_normal(200)})
    run = fit_table(frame, steps=1)
    for call in (lambda: run.sample(2, given={"c": "maybe"}), lambda: run.log_prob({"c": ["qqq"], "x": [0.0]})):
        with pytest.raises(ValueError, match="not among no, other, yes"):
            call()  # type: ignore[no-untyped-call]
    assert (run.sample(2, given={"c": "other"})["c"] == "other").all()
    merged = fit_table(
        frame.assign(c=[f"rare {i}" if i < 8 else text for i, text in enumerate(texts)]), steps=1, quiet=True
    )
    same = [merged.log_prob({"c": [text], "x": [0.0]}, tolerance=0.1).item() for text in ("rare 1", "qqq", "other")]
    assert len({*same}) == 1


ALLOWED = ".*numbers, booleans, text, dates"
NO_TABLES: dict[str, tuple[Any, str]] = {
    "complex": ({"age": AGE, "x": 1j * DAYS}, "x has dtype complex" + ALLOWED),
    "period": ({"x": pandas.period_range("2020-01", periods=N, freq="M")}, "x has dtype period" + ALLOWED),
    "interval": ({"x": pandas.cut(AGE, 4)}, "x has dtype category" + ALLOWED),
    "lists": ({"x": [[1], [2]] * (N // 2)}, "x has dtype object" + ALLOWED),
    "mixed": ({"x": [1, "a"] * (N // 2)}, "x has dtype object" + ALLOWED),
    "durations": ({"x": pandas.to_timedelta(DAYS, unit="D")}, r"x has dtype timedelta.*\.dt\.total_seconds\(\)"),
    "series": (KNOWN["age"], "to_frame"),
    "nothing": ({}, "0 rows and 0 columns"),
    "no values": ({"a": [math.nan] * 50, "b": None}, "no column .*50 rows"),
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_what_is_no_table_is_refused(name: str) -> None:
    data, why = NO_TABLES[name]
    with pytest.raises(ValueError, match=f"^.*{why}.*$"):
        ncsn.fit(pandas.DataFrame(data) if isinstance(data, dict) else data, steps=1, quiet=True)


def test_unseen_values_are_gaps_or_leave_their_rows_as_they_are(run: TableRun) -> None:
    rows = WHOLE[:3].assign(region=["XX", "Ulm", None], share=[0.5, 1e9, 0.5], kids=pandas.array([None, None, 1]))
    filled = filled_in(run, rows, 3, unseen="missing")
    assert filled["region"].iloc[0] in ("Bonn", "Kiel", "Ulm")
    assert (filled["region"].iloc[1], filled["share"].tolist()) == ("Ulm", [0.5, 1e9, 0.5])
    assert filled.notna().all().all()
    skipped = filled_in(run, rows, 3, unseen="skip")
    assert skipped["region"].tolist()[:2] == ["XX", "Ulm"]
    assert skipped["kids"].isna().tolist() == [True, True, False]
    assert skipped["region"].iloc[2] in ("Bonn", "Kiel", "Ulm")
    skipped = filled_in(run, rows.assign(region=[5.0, math.nan, math.nan]), 3, unseen="skip")
    assert skipped["region"].tolist()[0] == 5.0
    assert skipped["region"].iloc[2] in ("Bonn", "Kiel", "Ulm")
    units = Columns(columns=tuple(Number(name=name, shift=0.0, scale=1.0) for name in "abc"))
    array, numbers = with_transform(conditional_run(THREE), units), torch.tensor([[1e30, math.nan, 0.0]])
    draws = array.impute(numbers, 20, unseen="missing").draws[:, 0]
    assert draws[:, 0].tolist() == [numbers[0, 0]] * 20
    assert float(draws[:, 1].abs().max()) < 6, "as if the first number were missing"


def test_the_command_keeps_dtypes_and_draws_given_values(run: TableRun, here: Path, capsys: Printed) -> None:
    FRAME[:400].rename(columns=str).to_parquet("people.parquet")
    command("train people.parquet --steps 5 --channels 16 --blocks 1 --samples 5 --out run")
    old = pandas.read_parquet("people.parquet")
    command("sample run -n 40 --given sex=F,age=40 --out new.parquet")
    new = pandas.read_parquet("new.parquet")
    assert_alike(new, old.drop(columns="id"))
    assert (len(new), {*new["sex"]}, {*new["age"]}) == (40, {"F"}, {40})
    for number, given in enumerate(("", "--given sex=F")):
        command(f"sample run -n 40 --complete {given} --out whole{number}.parquet")
        assert pandas.read_parquet(f"whole{number}.parquet").notna().all(axis=None)
    command("impute run people.parquet -n 2 --out filled.parquet --draws draws.parquet")
    assert_filled(pandas.read_parquet("filled.parquet")[[*old.columns]], old)
    draws = pandas.read_parquet("draws.parquet")
    gaps = np.flatnonzero(old.isna().any(axis=1)) + 1
    assert (draws["row"].tolist(), draws["draw"].tolist()) == (np.repeat(gaps, 2).tolist(), [1, 2] * len(gaps))
    for words, why in (
        ("--given sex", "NAME=VALUE"),
        ("--given sex=Q", "not among"),
        ("--given sex=F,sex=M", "only once"),
        ("--given sex=F\nage=4", "NAME=VALUE"),
    ):
        assert why in refusal(capsys, *f"sample run --out x.csv {words} --device cpu".split(" "))
    assert ".csv" in refusal(capsys, "sample", "run", "--out", "x.npy", "--given", "sex=F", "--device", "cpu")


@pytest.mark.parametrize("labels", [(True, 3, 2.5), (0, 1, 2)], ids=str)
def test_labels_are_whole_numbers_or_become_text(labels: tuple[Any, ...], tmp_path: Path) -> None:
    ncsn.fit(pandas.DataFrame(RNG.standard_normal((40, 3)), columns=labels), steps=1, quiet=True).save(tmp_path / "run")
    run = load_table(tmp_path / "run")
    for label in (labels[0], str(labels[0])):
        made = run.sample(3, given={label: 1.0})
        assert [*made.columns] == [label if type(label) is int else str(label) for label in labels]
        assert (made.iloc[:, 0] == 1).all()


def test_the_guess_of_a_whole_number_is_one_that_the_column_can_have() -> None:
    """The nearest to the mean of draws: of few values one of them, otherwise any whole number, also off the grid."""
    cases: list[tuple[Discrete | Number, list[float], list[int]]] = [
        (Discrete(name="k", values=(0.0, 1.0, 10.0)), [0.4, 4.0, 6.0], [0, 1, 10]),
        (Number(name="k", shift=0.0, scale=9.0, step=5.0), [2.25, 2.0, 13.6], [2, 2, 14]),
    ]
    for column, means, guesses in cases:
        assert column.possible(torch.tensor(guesses).double()).all()
        columns = Columns(
            columns=(column, Number(name="x", shift=0.0, scale=1.0)),
            fields=(Field(label="k", dtype="Int64"), Field(label="x", dtype="float64")),
        )
        size = len(columns.numbers) + sum(columns.codes)
        run = table_run({"mean": torch.zeros(size), "covariance": torch.eye(size)}, columns)
        imputed = run.impute({"k": [None] * 3, "x": [0.0] * 3}, 2)
        assert isinstance(imputed, ImputedTable)
        point = torch.tensor([[mean, 0.0] for mean in means]).double()
        assert replace(imputed, point=point).frame()["k"].tolist() == guesses


@pytest.mark.parametrize(("decimals", "guess"), [(1, 39.8), (2, 39.84), (0, 39.8412)])
def test_guesses_have_no_more_decimals_than_their_column(decimals: int, guess: float) -> None:
    """Means of draws do; a column of real numbers, without a grid, keeps them."""
    step = 10.0**-decimals if decimals else 0.0
    column = Number(name="x", shift=0.0, scale=10.0, step=step, decimals=decimals)
    fields = (Field(label="x", dtype="float64"), Field(label="y", dtype="float64"))
    columns = Columns(columns=(column, Number(name="y", shift=0.0, scale=1.0)), fields=fields)
    run = table_run({"mean": torch.zeros(2), "covariance": torch.eye(2)}, columns)
    imputed = run.impute({"x": [None], "y": [0.0]}, 2)
    assert isinstance(imputed, ImputedTable)
    point = torch.tensor([[39.8412345, 0.0]]).double()
    assert replace(imputed, point=point).frame()["x"].round(4).tolist() == [guess]


def test_given_whole_numbers_beyond_those_of_training_are_kept_or_refused() -> None:
    """Uniform ones have normal scores, which end where training's do."""
    rng = np.random.default_rng(0)
    k = rng.integers(3, 99, 400).astype(np.int8)
    run = fit_table(pandas.DataFrame({"k": k, "a": rng.standard_normal(400)}), steps=2)
    assert "normal scores: k" in run.transform.describe()
    for value in (0, 50, 120):
        assert (run.sample(3, given={"k": value}).k == value).all()
    with pytest.raises(ValueError, match="290"):
        run.sample(3, given={"k": 290})


def test_samples_of_sparse_columns_with_an_unusual_fill_value_are_dense() -> None:
    cells = pandas.arrays.SparseArray(np.where(np.arange(60) % 3, 0.0, np.arange(60)), fill_value=0.0)
    frame = pandas.DataFrame({"n": cells, "x": RNG.normal(size=60)})
    run = fit_table(frame, steps=2, settings=SMALL)
    made = run.sample(20)
    assert isinstance(made, pandas.DataFrame)
    assert made["n"].dtype == np.float64
    assert made["n"].isin(frame["n"]).mean() > 0.4, "zeros"


@pytest.mark.parametrize("dtype", ["Sparse[int64]", "Sparse[float32]", "arrow", "large_string[pyarrow]"])
def test_columns_of_sparse_numbers_and_arrow_texts_keep_their_dtypes(dtype: str) -> None:
    """The name of Arrow's text, string[pyarrow], is that of a dtype of pandas, too."""
    cells: Any = np.arange(60) % 30 if "Sparse" in dtype else np.where(np.arange(60) % 2, "2024-05-01", "2024-05-02")
    cells = pandas.Series(cells).astype(pandas.ArrowDtype(pyarrow.string()) if dtype == "arrow" else dtype)
    frame = pandas.DataFrame({"cells": cells, "a": RNG.standard_normal(60)})
    run = fit_table(frame, steps=1)
    assert_alike(run.sample(5), frame)
    assert {*run.sample(50)["cells"]} <= {*cells}
    gaps = frame.assign(a=frame["a"].mask(frame.index < 3))
    assert_filled(filled_in(run, gaps, 2), gaps)


@pytest.mark.parametrize("n", [10, 16, 23])
def test_categories_and_whole_numbers_hold_however_few_rows_there_are(n: int) -> None:
    rows = np.arange(n)
    frame = pandas.DataFrame({"a": RNG.standard_normal(n), "k": np.array(["x", "y"])[rows % 2], "i": rows % 3})
    run = fit_table(frame, steps=2)
    made = run.sample(100)
    assert_alike(made, frame)
    assert ({*made["k"]}, {*made["i"]} <= {0, 1, 2}) == ({"x", "y"}, True)
    gaps = frame.assign(k=frame["k"].where(frame.index > 2))
    assert_filled(filled_in(run, gaps, 2), gaps)


def test_whole_numbers_beyond_double_precision_are_rounded_and_said_so(capsys: Printed) -> None:
    large = [2**63 + 2**55 * k + 1 for k in range(60)]
    frame = pandas.DataFrame({"u": pandas.array(large, dtype="uint64"), "small": RNG.integers(0, 99, 60)})
    dataset_of(frame)
    said = capsys.readouterr().err
    assert ("column u" in said, "small" in said) == (True, False)
    made = ncsn.fit(frame, steps=2, quiet=True).sample(50)
    assert_alike(made, frame)
    assert 2**62 < made["u"].min() < made["u"].max() < 2**64 - 1


def test_given_values_and_no_gaps_go_together(run: TableRun) -> None:
    made = run.sample(200, given={"region": "Ulm", "kids": 2}, complete=True, seed=1)
    assert_alike(made, KNOWN)
    assert made.notna().all(axis=None)
    assert ({*made["region"]}, {*made["kids"]}) == ({"Ulm"}, {2})
    assert run.sample(200, given={"region": "Ulm", "kids": 2}, seed=1).isna().any(axis=None)


def test_an_array_has_gaps_too() -> None:
    array = np.random.default_rng(1).standard_normal((400, 3))
    array[array[:, 0] > 0.5, 1:] = math.nan
    run = fit_table(array, steps=2, settings=SMALL)
    assert run.sample(300).isnan().any(0).tolist() == [False, True, True]
    assert not run.sample(300, complete=True).isnan().any()
