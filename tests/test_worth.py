"""The information that a column is expected to give about another: exact values, and what a row may be."""

from functools import cache, partial

import numpy as np
import pandas
import pytest
import torch
from helpers import THREE, conditional_run, fit_table, refused

from ncsn.tables.run import TableRun

NAN = float("nan")


def gaussian_information(covariance: torch.Tensor, i: int, j: int) -> float:
    """In nats, of two numbers given all others."""
    precision = torch.linalg.inv(covariance)
    correlation = precision[i, j] / (precision[i, i] * precision[j, j]) ** 0.5
    return float(-0.5 * torch.log(1 - correlation**2))


def test_information_of_gaussian_numbers_is_exact() -> None:
    """Given nothing, and given another number; it doesn't depend on units."""
    run = conditional_run(THREE)
    nothing_known = run.worth({}, of="2", n=4000)
    assert nothing_known.index.tolist() == ["1", "0"], "the most informative first"
    for i in (0, 1):
        exact = gaussian_information(THREE[[i, 2]][:, [i, 2]], 0, 1)
        assert abs(nothing_known["nats"][str(i)] - exact) < 4 * nothing_known["standard_error"][str(i)] + 0.002
    given = run.worth({"0": 0.7}, of="2", n=4000)
    assert given.index.tolist() == ["1"]
    error = given["nats"]["1"] - gaussian_information(THREE, 1, 2)
    assert abs(error) < 4 * given["standard_error"]["1"] + 0.002
    assert (given["standard_error"] < 0.02).all()


@cache
def patients() -> TableRun:
    """Of an illness, a marker that rises with it, a test that is right in 90 %, and a number without meaning."""
    rng, n = np.random.default_rng(0), 3000
    ill = rng.random(n) < 0.3
    marker = 100 + 10 * (2 * ill + rng.standard_normal(n))
    test = np.where(rng.random(n) < 0.9, ill, ~ill)
    names = np.array(["no", "yes"])
    rows = {"ill": names[ill.astype(int)], "marker": marker, "test": names[test.astype(int)], 7: rng.standard_normal(n)}
    return fit_table(pandas.DataFrame(rows), steps=300)


def entropy(p: np.ndarray | float) -> np.ndarray:
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log(1 - p)))


def test_information_about_categories_is_that_of_bayes_rule() -> None:
    """Within 0.05 nats, in both directions, also when something is known."""
    marker = np.linspace(-6, 8, 4001)
    healthy, ill = (share * np.exp(-0.5 * (marker - mean) ** 2) for share, mean in ((0.7, 0), (0.3, 2)))
    density = (healthy + ill) / (healthy + ill).sum()
    of_marker = entropy(0.3) - (density * entropy(ill / (healthy + ill))).sum()
    of_test = entropy(0.3 * 0.9 + 0.7 * 0.1) - entropy(0.9)
    run = patients()
    worth = run.worth({}, of="ill")["nats"]
    assert worth.to_dict() == pytest.approx({"marker": of_marker, "test": of_test, 7: 0}, abs=0.05)
    assert worth.is_monotonic_decreasing
    assert run.worth({}, of="marker")["nats"]["ill"] == pytest.approx(of_marker, abs=0.05)
    positive = 0.3 * 0.9 / (0.3 * 0.9 + 0.7 * 0.1)
    density = positive * ill / ill.sum() + (1 - positive) * healthy / healthy.sum()
    chance = positive * ill / ill.sum() / density
    exact = entropy(positive) - (density * entropy(chance)).sum()
    given = run.worth(pandas.DataFrame({"test": ["yes"], "marker": NAN, 7: NAN}), of="ill")
    assert given["nats"]["marker"] == pytest.approx(exact, abs=0.05)


def test_a_row_can_be_given_in_several_ways() -> None:
    run, known = patients(), {"marker": 110.0}
    expected = run.worth(known, of="ill", n=20)
    frame = pandas.DataFrame({"ill": [None], "marker": 110.0, "test": None, 7: NAN})
    for row in (frame, frame.iloc[0], pandas.Series(known)):
        pandas.testing.assert_frame_equal(run.worth(row, of="ill", n=20), expected)


def test_rows_without_a_question_are_refused() -> None:
    run = patients()
    rows: dict[object, tuple[dict[str, object], str]] = {
        "illness": ({}, "illness"),
        "ill": ({"ill": "yes"}, "ill"),
        7: ({"ill": "yes", "marker": 100.0, "test": "no"}, "7"),
        "test": ({"markers": 100.0}, "markers"),
        "marker": ({"test": "perhaps"}, "perhaps"),
    }
    for of, (row, named) in rows.items():
        assert refused(partial(run.worth, row, of), naming=named)
    assert refused(lambda: run.worth(pandas.DataFrame({"marker": [1.0, 2.0]}), of="ill"), naming="2 rows")
    assert refused(lambda: run.worth({}, of="ill", n=1), naming="1")
