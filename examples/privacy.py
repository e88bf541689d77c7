"""What do samples of a table give away about its rows?  Three attacks, each beside what it finds by chance.

python examples/privacy.py                                       # breast cancer data of scikit-learn, two minutes
python examples/privacy.py people.csv --secret income --steps 2000

A run learns half of the rows; the other half is kept from it.  Whatever an attack finds out about rows of the run, but
not about those that were kept, samples have given away:

- closer: how many samples are closer to a row of the run than to any that was kept, as in SDMetrics'
  DCROverfittingProtection;
- member: how often a row of the run is closer to its nearest sample than a row that was kept is, by which an attacker
  guesses who was in the data;
- secret: how often the nearest sample, by all other columns, knows a row's secret: the same category, or a number
  within a twentieth of the column's range.  Of rows of the run, less that of rows that were kept: the inference risk of
  anonymeter (Giomi et al. 2022, arXiv:2211.10459).

These are attacks, not guarantees: better ones find more (Yao et al. 2025, arXiv:2505.01524).  Only differential privacy,
which ncsn doesn't have, bounds them all.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from jaxtyping import Float
from scipy.stats import mannwhitneyu
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import ncsn

TOLERANCE = 1 / 20  # of a column's range, within which a number counts as known
Points = Float[np.ndarray, "n d"]


def as_points(*tables: pd.DataFrame) -> list[Points]:
    """The rows of tables as points of one space: numbers in units of their deviation, an axis for each category."""
    numbers = make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include="number")
    categories = OneHotEncoder(sparse_output=False), make_column_selector(dtype_exclude="number")
    points = make_column_transformer(numbers, categories).fit_transform(pd.concat(tables))
    return np.split(points, np.cumsum([len(table) for table in tables])[:-1])


def nearest(points: Points, among: Points) -> tuple[Float[np.ndarray, "n"], np.ndarray]:
    """The distance from each point to the nearest point of ``among``, and the index of the latter."""
    distance, index = NearestNeighbors(n_neighbors=1).fit(among).kneighbors(points)
    return distance[:, 0], index[:, 0]


def closer(members: Points, kept: Points, samples: Points) -> float:
    """The share of samples that are closer to members than to equally many others; ties count half."""
    to_members, _ = nearest(samples, members)
    to_kept, _ = nearest(samples, kept)
    return float(((to_members < to_kept) + (to_members == to_kept) / 2).mean())


def member(members: Points, kept: Points, samples: Points) -> float:
    """The probability that a member is closer to its nearest sample than another row is (AUC)."""
    from_kept, _ = nearest(kept, samples)
    from_members, _ = nearest(members, samples)
    return float(mannwhitneyu(from_kept, from_members).statistic) / (len(members) * len(kept))


def secret_known(rows: pd.DataFrame, samples: pd.DataFrame, secret: str) -> float:
    """How often the nearest sample, by all columns but the secret one, knows a row's secret."""
    _, index = nearest(*as_points(rows.drop(columns=secret), samples.drop(columns=secret)))
    truth = rows[secret].reset_index(drop=True)
    guess = samples[secret].iloc[index].reset_index(drop=True)
    if not pd.api.types.is_numeric_dtype(truth):
        return float((truth == guess).mean())
    return float(((truth - guess).abs() <= TOLERANCE * (truth.max() - truth.min())).mean())


def attack(members: pd.DataFrame, kept: pd.DataFrame, samples: pd.DataFrame, secret: str) -> dict[str, float]:
    """The result of each attack, by its name."""
    points = as_points(members, kept, samples)
    risk = secret_known(members, samples, secret) - secret_known(kept, samples, secret)
    return {"closer": closer(*points), "member": member(*points), "secret": risk}


def main(data: Path | None = None, *, secret: str | None = None, steps: int = 1000, seed: int = 0) -> dict[str, float]:
    """Train on half of a table's rows, and attack as many samples.

    data: a .csv.  secret: the column to guess; by default the last one.
    """
    table = load_breast_cancer(as_frame=True).frame if data is None else pd.read_csv(data)
    table = table.sample(frac=1, random_state=seed).dropna().reset_index(drop=True)
    half = len(table) // 2
    members, kept = table[:half], table[half : 2 * half]
    samples = ncsn.fit(members, steps=steps, seed=seed).sample(half, seed=seed + 1)
    results = attack(members, kept, samples, secret or str(table.columns[-1]))
    for (name, value), chance in zip(results.items(), (0.5, 0.5, 0.0), strict=True):
        print(f"{name:8}{value:7.3f}   by chance {chance:g}")
    return results


if __name__ == "__main__":
    tyro.cli(main)
