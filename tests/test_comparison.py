"""Samples of tables next to real rows: what judges say of copies, of strangers and of exact samples."""

import json
import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from helpers import command, conditional_run, fit_table, judge, load_table, refused, with_transform
from torch import Tensor

import ncsn
from ncsn.data.columns import learn_columns
from ncsn.data.dataset import Dataset
from ncsn.evaluation import Comparison, evaluate
from ncsn.evaluation.comparison import BrokenShare, ColumnDistance
from ncsn.evaluation.tables import column_distances
from ncsn.loading import dataset_of
from ncsn.settings import TrainSettings
from ncsn.tables.run import TableRun

TINY = TrainSettings(channels=(8,), blocks=1, steps=1)


def split(data: Dataset, train: np.ndarray, test: np.ndarray) -> Dataset:
    """The dataset with these rows to learn from and held-out ones, in the user's units."""

    def rows(x: np.ndarray) -> Tensor:
        z = data.transform.forward(torch.from_numpy(x)).float()
        assert hasattr(data.transform, "with_gaps")
        filled: Tensor = data.transform.with_gaps(z)
        return filled

    return replace(data, train=rows(train), test=rows(test))


def test_judges_know_copies_strangers_and_rows_of_the_kind() -> None:
    rng = np.random.default_rng(0)
    train, test, fresh = (rng.standard_normal((n, 2)) @ [[2, 1], [0, 1]] for n in (3000, 500, 500))
    data = split(dataset_of(train), train, test)
    run = fit_table(data, settings=TINY)
    copied, strange = train[:500] + 1e-3, np.stack([fresh[:, 0], rng.permutation(fresh[:, 1])], 1)
    alike, copies, others = (judge(run, data, torch.from_numpy(samples)) for samples in (fresh, copied, strange))
    assert alike["classifier"] == pytest.approx(0.5, abs=0.05)
    assert alike["memorisation"] == pytest.approx(0.5, abs=0.06)
    assert copies["memorisation"] > 0.95
    assert others["classifier"] > 0.6
    assert others["sliced_wasserstein"] > 1.5 * others["sliced_wasserstein_of_real_rows"]


CHANGES = {"none": (0, 0.1), "r to s": (0.12, 0.2), "r to t": (0.12, 0.2), "zeros": (0.5, 0.8), "gaps": (0.12, 0.2)}


@pytest.mark.parametrize(("change", "distance"), CHANGES.items(), ids=CHANGES)
def test_rows_are_compared_by_numbers_texts_and_gaps(change: str, distance: tuple[float, float]) -> None:
    """Texts are as far from each other as each is, a frequent value is at the end, and a gap says so.

    Samples are rows in which a text has become another, zeros numbers around it, or gaps the mean of the column.
    """
    rng = np.random.default_rng(0)
    text, x = rng.integers(0, 3, 1600), np.where(rng.random(1600) < 0.4, 0.0, rng.standard_normal(1600))
    y = np.where(rng.random(1600) < 0.4, np.nan, 50 + 10 * rng.standard_normal(1600))
    frame = pandas.DataFrame({"a": np.array([*"rst"])[text], "b": x, "c": y})
    rows = np.stack([text, x, y], 1)
    data = split(dataset_of(frame), rows[:800], rows[800:])
    run, samples = fit_table(data, settings=TINY), rows[:800].copy()
    if change.startswith("r to"):
        samples[samples[:, 0] == 0, 0] = "rst".index(change[-1])
    elif change == "zeros":
        samples[:, 1] = np.where(samples[:, 1] == 0, 1e-3 * rng.standard_normal(800), samples[:, 1])
    elif change == "gaps":
        samples[:, 2] = np.nan_to_num(samples[:, 2], nan=50.0)
    found = judge(run, data, torch.from_numpy(samples))
    assert distance[0] < found["sliced_wasserstein"] < distance[1]
    assert found["classifier"] < 0.57 if change == "none" else found["classifier"] > 0.6


C = torch.tensor([[1.0, 0.8], [0.8, 1.0]])


def normal_rows(n: int, seed: int) -> Tensor:
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()
    rows: Tensor = 1e3 + 50 * z @ torch.linalg.cholesky(C.double()).T
    return rows


@pytest.fixture(scope="module")
def exact() -> tuple[TableRun, Dataset]:
    """The exact run of Gaussian rows, and these rows."""
    x = normal_rows(2000, 0)
    data = dataset_of(pandas.DataFrame(x.numpy(), columns=["a", "b"]))
    return with_transform(conditional_run(C), data.transform), data


def test_a_run_is_compared_with_held_out_rows(exact: tuple[TableRun, Dataset]) -> None:
    """Its own samples look real; those of others, and copies of complete rows to learn from, do not."""
    run, data = exact
    result = evaluate(run, data, seed=3)
    assert isinstance(result, Comparison)
    assert result.n == len(data.test) == 200
    assert 0.38 < result.numbers["classifier"] < 0.62
    assert 0.4 < result.numbers["memorisation"] < 0.6
    # The log density is exact, in the user's units.
    test = data.transform.restore(data.test.double())
    normal = torch.distributions.MultivariateNormal(torch.full((2,), 1e3).double(), 2500 * C.double())
    expected = float(normal.log_prob(test).mean())  # type: ignore[no-untyped-call]
    assert result.numbers["log_density"] == pytest.approx(expected, abs=0.03)
    complete = data.train[~data.train.isnan().any(1)].double()
    for samples, name in ((data.transform.inverse(complete[:200]), "memorisation"), (test.flip(1) + 200, "classifier")):
        assert judge(run, data, samples)[name] > 0.95


def test_rows_with_gaps_are_judged() -> None:
    frame = pandas.DataFrame(mixed_rows(1200, 0, 0.0), columns=[*"abcd"])
    result = evaluate(ncsn.fit(frame, steps=1, quiet=True), frame, levels=3)
    assert isinstance(result, Comparison)
    assert result.n == 120
    assert all(map(math.isfinite, result.numbers.values()))
    assert {"classifier", "memorisation", "column_shapes", "log_density"} <= result.numbers.keys()


def test_the_worst_column_comes_first_beside_the_distance_of_real_rows() -> None:
    """Half of a heap is elsewhere, a third of the cells should be missing, and a column is as in real rows."""
    n = 2000
    rng = np.random.default_rng(0)
    right = rng.integers(0, 10, n).astype(float)
    heap = np.where(np.arange(n) % 2, 12.0, np.arange(n) % 17.0)
    gaps = np.where(np.arange(n) % 3, rng.standard_normal(n), np.nan)
    rows = np.stack([right, heap, gaps], 1)
    real = rows[rng.permutation(n)]
    columns = learn_columns(torch.from_numpy(rows), ["right", "heap", "gaps"])
    made = real.copy()
    made[:, 1] = np.where((made[:, 1] == 12) & (np.arange(n) % 2 == 0), 3.0, made[:, 1])
    moved = float((made[:, 1] != real[:, 1]).mean())
    made[:, 2] = rng.standard_normal(n)
    distances = column_distances(rows, real, made, columns)
    assert list(distances) == ["gaps", "heap", "right"]
    assert distances["gaps"].samples == pytest.approx(1 / 3, abs=0.001)
    assert distances["heap"] == pytest.approx((moved, 0.0))
    assert distances["right"] == pytest.approx((0.0, 0.0))
    text = str(Comparison(n=n, numbers={"classifier": 0.5}, columns=distances))
    assert [line.split()[0] for line in text.splitlines()[-3:]] == list(distances)


def test_of_many_columns_and_constraints_the_first_are_printed_and_the_others_counted() -> None:
    columns = {f"a{i}": ColumnDistance(0.5, 0.25) for i in range(13)}
    constraints = {f"a{i}": BrokenShare(0.5 * (i < 13), 0.25) for i in range(17)}
    lines = str(Comparison(n=9, numbers={}, columns=columns, constraints=constraints)).splitlines()
    assert sum(line.startswith("a") and line.endswith("0.250") for line in lines) == 2 * 10
    assert [re.findall(r"\d+", line) for line in lines if "more" in line] == [["3"], ["3"]]
    assert re.findall(r"\d+", lines[-1]) == ["4"]


def test_other_rows_than_those_of_the_training_are_refused() -> None:
    """Even if they are only shuffled: most held-out rows were trained on.  And features, which tables lack."""
    for frame in (pandas.DataFrame(mixed_rows(1200, 0, 0.0)[:, 2:], columns=["c", "d"]), frame_of_numbers(1200)):
        run = ncsn.fit(frame, steps=1, quiet=True)
        shuffled = frame.sample(frac=1.0, random_state=0)
        assert "what the run was trained on" in refused(partial(evaluate, run, shuffled))
        assert "only images have features" in refused(partial(evaluate, run, frame, "pixels"))


def test_a_table_in_memory_is_evaluated_with_a_file_of_its_rows(tmp_path: Path) -> None:
    frame = frame_of_numbers(1200).assign(text=np.where(np.arange(1200) % 3, "u", "v"))
    ncsn.fit(frame, steps=1, quiet=True).save(tmp_path / "run")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    command(f"evaluate {tmp_path / 'run'} --data {tmp_path / 'rows.csv'} --levels 3 -n 100")
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {*report["columns"]} == {*frame.columns}
    frame[::-1].to_csv(tmp_path / "others.csv", index=False)
    assert "what the run was trained on" in refused(
        lambda: ncsn.load(tmp_path / "run").data(str(tmp_path / "others.csv"))
    )


def frame_of_numbers(n: int) -> pandas.DataFrame:
    return pandas.DataFrame(mixed_rows(n, 0, 0.0)[:, :2], columns=["a", "b"])


def mixed_rows(n: int, seed: int, shift: float) -> np.ndarray:
    """Two columns of numbers and two of categories, with gaps."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(n) + shift
    b = np.round(np.exp(a + rng.standard_normal(n)))
    text, flag = rng.choice(3, n, p=[0.5, 0.3, 0.2]).astype(float), rng.random(n) < 1 / (1 + np.exp(-a))
    b[::7], text[::11] = np.nan, np.nan
    return np.stack([a, b, text, flag], 1)


def test_shapes_and_trends_are_those_of_sdmetrics() -> None:
    """Means of KSComplement and TVComplement, CorrelationSimilarity and ContingencySimilarity of SDMetrics 0.32.0.

    The last with ``continuous_column_names``; its values are stored, because plotly, which it needs, is large.
    """
    real, made = mixed_rows(300, 0, 0.0), mixed_rows(300, 1, 0.5)
    rows = mixed_rows(1000, 2, 0.0)
    texts = pandas.Series(rows[:, 2]).map({0.0: "u", 1.0: "v", 2.0: "w"})
    frame = pandas.DataFrame({"a": rows[:, 0], "b": rows[:, 1], "text": texts, "flag": rows[:, 3] > 0})
    data = split(dataset_of(frame), rows, real)
    run = fit_table(data, settings=TINY)

    def shapes_and_trends(samples: np.ndarray) -> tuple[float, float]:
        numbers = judge(run, data, torch.from_numpy(samples))
        return numbers["column_shapes"], numbers["pair_trends"]

    shapes, trends = shapes_and_trends(made)
    assert shapes == pytest.approx((0.786666667 + 0.871595331 + 0.9375 + 0.953333333) / 4)
    expected = (0.954393677, 0.766666667, 0.79, 0.83, 0.856666667, 0.923333333)
    assert trends == pytest.approx(sum(expected) / 6)
    shifted = shapes_and_trends(made + np.array([1e3, 1e3, 0, 0]))
    assert shifted[0] == pytest.approx((0.9375 + 0.953333333) / 4)
    assert shifted[1] < 0.6, "bins are those of the real rows"
    unknown, _ = shapes_and_trends(made * [np.nan, 1, 1, 1])
    assert unknown == pytest.approx((0.871595331 + 0.9375 + 0.953333333) / 3)
    _, constant = shapes_and_trends(made * [0, 1, 1, 1])
    assert constant < trends - 0.15, "no correlation is no likeness"


def test_too_few_rows_are_not_judged(exact: tuple[TableRun, Dataset]) -> None:
    run, data = exact
    assert "99 held-out rows" in refused(lambda: evaluate(run, replace(data, test=data.test[:99])))
    assert "99 training rows" in refused(lambda: evaluate(run, replace(data, train=data.train[:99])))


def test_pictures_of_a_training_show_rows_that_it_has_not_seen(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """In the user's units."""
    shown: list[np.ndarray] = []
    monkeypatch.setattr("ncsn.plots.columns", lambda real, *_: shown.append(real))
    np.save("x.npy", normal_rows(200, 0).numpy())
    command("train x.npy --steps 1 --channels 8 --blocks 1 --samples 3 --out run")
    data = load_table("run").data()
    validation = data.transform.restore(data.validation.double()).numpy()
    np.testing.assert_allclose(shown[0], validation[: len(shown[0])], rtol=1e-5)
    assert len(shown) == 1
