"""Units of a table's columns: whatever a column is like, training sees no outliers, and samples are numbers like it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import zero_score
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ncsn
from ncsn.data.units import ATOMS, FAR, INTEGERS, LISTED, NONE, Units

RNG = np.random.default_rng(0)


def mixed(n: int, share: float, rest: np.ndarray, value: float = 0.0) -> np.ndarray:
    """``value`` in a share of rows, and the rest beside it."""
    return np.where(np.arange(n) < share * n, value, rest)


def cpus(n: int = 167) -> np.ndarray:
    """Powers and halves of them, most small, a few at 32,000, one at 64,000: as the memory of machines."""
    x = 1000 * 2 ** np.round(RNG.normal(2.5, 1, n)).clip(0, 4) - 500 * (RNG.random(n) < 0.2)
    return np.concatenate([x[:-8], [32000.0] * 7, [64000.0]])


CASES: dict[str, np.ndarray] = {
    "memory of machines": cpus(),
    "one outlier": np.append(RNG.standard_normal(5000), 1e4),
    "outliers of many sizes": RNG.standard_cauchy(500),
    "equal at the end": RNG.exponential(1, 800).clip(None, 2.5),
    "a tenth at the end": RNG.exponential(1, 800).clip(0.1, 2.5),
    "zeros and a lognormal": mixed(2000, 0.4, RNG.lognormal(0, 1, 2000)),
    "zeros and amounts": mixed(1000, 0.45, RNG.gamma(4, 30, 1000).round(1)),
    "a share": mixed(2000, 0.15, mixed(2000, 0.3, RNG.beta(2, 2, 2000), 1.0)),
    "zero in the middle": mixed(1000, 0.2, RNG.standard_normal(1000)),
    "percent": RNG.beta(1, 0.5, 400) * 100,
    "whole percent": (RNG.beta(1, 0.5, 2000) * 100).round(),
    "a flag": (np.arange(80) % 4 == 0).astype(float),
    "a rare flag": mixed(2000, 0.002, np.zeros(2000), 1.0),
    "ratings, one rare": np.append(RNG.integers(1, 10, 500), 10).astype(float),
    "ratings, one never": np.append(RNG.choice([1, 2, 4, 5], 500), [7]).astype(float),
    "eleven values, two rare": np.append(RNG.choice(np.arange(9) / 2, 400), [7.5, 9.0]),
    "counts, mostly zero": RNG.poisson(RNG.lognormal(-1, 2, 1000)).astype(float),
    "cents": RNG.lognormal(3, 1, 700).round(2),
    "tenths": RNG.normal(7, 1, 700).round(1),
    "single precision": RNG.normal(7, 1, 700).round(1).astype(np.float32),
    "twenty rows": RNG.standard_normal(20),
    "large whole numbers": RNG.integers(0, 10**9, 300).astype(float),
    "tiny": RNG.standard_normal(300) * 1e-12,
    "one not so far": np.append(RNG.standard_normal(2000), 15.0),
}
CELLS = ("a flag", "a rare flag", "ratings, one rare", "ratings, one never", "eleven values, two rare")


def column_of(x: np.ndarray) -> tuple[Tensor, Units]:
    column = torch.from_numpy(x)[:, None]
    return column, Units.of(column)


def check_units(x: np.ndarray) -> None:
    """What holds of every column."""
    column, units = column_of(x)
    z = units.standardise(column.double(), torch.Generator().manual_seed(0))
    assert float(z.abs().max()) <= 8, "no training value is an outlier"
    back = units.restore(units.standardise(column))
    torch.testing.assert_close(back, column, rtol=1e-6 if column.dtype == torch.float32 else 1e-9, atol=1e-9 * x.std())
    assert bool(units.possible(column).all())
    order = torch.from_numpy(np.unique(x.astype(float)))[:, None]
    middles = units.standardise(order)
    apart = order.diff(dim=0) > 1e-6 * x.std()
    assert bool((middles.diff(dim=0)[apart] > 0).all()), "monotone"

    made = units.restore(torch.linspace(-6, 6, 2001).double()[:, None])
    assert bool(made.isfinite().all())
    assert bool((made.diff(dim=0) >= 0).all())
    if x.min() >= 0:
        assert float(made.min()) >= 0, "signs stay"
    if not bool(units.log):
        top = column.double().amax() + 20 * column.double().std()
        assert float(made.max()) <= float(top), "nothing is far from training"
    start, end = units.knots[:, 0]
    assert bool((start.diff() > 0).all())
    assert bool((end.diff() > 0).all())
    if bool(units.cells == INTEGERS):  # no knot inside a cell that few have
        t = (start[1:-1] * units.scale + units.shift).numpy()
        inside = abs(t - np.floor(t + 0.5)) < 0.499
        shares = np.array([(x == value).mean() for value in np.floor(t + 0.5)])
        assert not (inside & (shares <= 0.05)).any()


@pytest.mark.parametrize("name", CASES)
def test_units_of_a_column_as_people_have_them(name: str) -> None:
    check_units(CASES[name])


@st.composite
def columns(draw: st.DrawFn) -> np.ndarray:
    """Bodies of many shapes, with atoms, ends, steps and outliers of any size."""
    n, rng = draw(st.integers(20, 600)), np.random.default_rng(draw(st.integers(0, 10**6)))
    body = draw(st.sampled_from(["normal", "lognormal", "beta", "t", "poisson", "choice"]))
    shape = draw(st.floats(0.3, 4))
    bodies = {
        "normal": rng.standard_normal(n),
        "lognormal": np.exp(shape * rng.standard_normal(n)),
        "beta": rng.beta(shape / 3, 0.5, n),
        "t": rng.standard_t(shape, n),
        "poisson": rng.poisson(10**shape / 2, n).astype(float),
        "choice": rng.choice(rng.standard_normal(draw(st.integers(2, 40))), n),
    }
    x = bodies[body] * 10.0 ** draw(st.integers(-3, 5))
    x[rng.random(n) < draw(st.sampled_from([0.0, 0.02, 0.2, 0.6]))] = draw(st.sampled_from([0.0, x[0]]))
    if draw(st.booleans()):
        x = x.clip(*np.quantile(x, [draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from([0.5, 0.97, 1.0]))]))
    if (decimals := draw(st.sampled_from([None, 0, 1, 3]))) is not None:
        x = x.round(decimals)
    x[: draw(st.integers(0, 5))] = draw(st.sampled_from([0.0, 1e3, -1e6, 32000.0])) + x[0]
    return x if x.std() > 1e-6 * abs(x).max() else x + rng.standard_normal(n)


@settings(max_examples=60, derandomize=True)
@given(columns())
@example(np.append(np.arange(300.0), 1e9))
def test_units_of_columns_of_any_shape(x: np.ndarray) -> None:
    check_units(x)


def share_of(x: np.ndarray, value: float) -> tuple[float, float]:
    """How often a value is in the column, and among samples whose model is right."""
    made = column_of(x)[1].restore(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1)).double())
    return float((x == value).mean()), float((made == value).double().mean())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zeros and a lognormal", 0.0),
        ("zeros and amounts", 0.0),
        ("a share", 0.0),
        ("a share", 1.0),
        ("zero in the middle", 0.0),
        ("a tenth at the end", 2.5),
        ("counts, mostly zero", 0.0),
        ("a rare flag", 1.0),
        ("ratings, one never", 3.0),
        ("eleven values, two rare", 9.0),
    ],
)
def test_samples_have_a_value_as_often_as_rows(name: str, value: float) -> None:
    real, made = share_of(CASES[name], value)
    assert made == pytest.approx(real, abs=0.012 if real > 0.01 else 0.004)


@pytest.mark.parametrize("name", ["a share", "percent", "whole percent", "a tenth at the end", "equal at the end"])
def test_samples_stay_within_what_training_never_left(name: str) -> None:
    column, units = column_of(CASES[name])
    made = units.restore(torch.linspace(-9, 9, 999).double()[:, None])
    assert (float(made.min()), float(made.max())) == (float(column.min()), float(column.max()))
    held_out = column[:1] + torch.tensor([[-0.01 * column.std()], [0.01 * column.std()]])
    assert bool((units.possible(held_out) | (units.cells == INTEGERS)).all()), "the ends of held-out rows may be others"


@pytest.mark.parametrize("name", CELLS)
def test_few_values_are_listed_also_where_some_are_rare(name: str) -> None:
    x = CASES[name]
    _, units = column_of(x)
    made = units.restore(torch.randn(5000, 1, generator=torch.Generator().manual_seed(1)).double() * 2)
    assert units.cells.tolist() == [LISTED]
    allowed = np.arange(x.min(), x.max() + 1) if (x == x.round()).all() else x
    assert set(made.flatten().tolist()) <= set(allowed.tolist())
    assert bool(units.possible(torch.from_numpy(allowed)[:, None]).all())


def test_an_outlier_is_as_rare_among_samples_as_among_rows() -> None:
    x = CASES["one outlier"]
    z = torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000)[:, None]
    made = column_of(x)[1].restore(z)
    assert float((made > 100).double().mean()) < 2.5 / len(x)


def test_categories_are_listed_however_many_they_are() -> None:
    x = torch.from_numpy(RNG.integers(0, 45, (400, 2))).double()
    assert Units.of(x, categories=[1]).cells.tolist() == [INTEGERS, LISTED]


@pytest.mark.parametrize(("name", "decimals"), [("cents", 2), ("tenths", 1), ("single precision", 1)])
def test_samples_have_the_decimals_of_their_column(name: str, decimals: int) -> None:
    column, units = column_of(CASES[name])
    made = units.restore(torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).to(column)).numpy()
    np.testing.assert_array_equal(made, made.round(decimals))
    assert {len(str(value).partition(".")[2]) for value in made[:, 0]} <= set(range(decimals + 1))
    assert bool((units.possible(column + 0.003)).all()), "held-out rows may have more"
    noise = units.reals(column, torch.rand(column.shape)) - units.reals(column, 0.5)
    if not bool(units.log):
        assert float(noise.std()) == pytest.approx(10.0**-decimals / 12**0.5, rel=0.1), "anywhere that rounds to it"


def density(units: Units, x: Tensor) -> Tensor:
    """Of a column that is standard normal to the model."""
    z = units.standardise(x)
    return (units.log_volume(x) - z[:, 0].square() / 2 - math.log(2 * math.pi) / 2).exp()


@pytest.mark.parametrize("name", ["a flag", "ratings, one rare", "eleven values, two rare", "memory of machines"])
def test_probabilities_of_cells_are_shares_of_rows(name: str) -> None:
    """In the middle of each cell: within a hundredth of the shares, one together."""
    column, units = column_of(CASES[name])
    values, counts = np.unique(CASES[name], return_counts=True)
    probabilities = density(units, torch.from_numpy(values)[:, None])
    assert float((probabilities - torch.from_numpy(counts / len(column))).abs().max()) < 0.015
    if name != "memory of machines":
        assert float(probabilities.sum()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("name", ["zeros and a lognormal", "a share", "zero in the middle"])
def test_atoms_have_probabilities_and_the_rest_a_density(name: str) -> None:
    column, units = column_of(CASES[name])
    assert units.cells.tolist() == [ATOMS]
    x = units.reached(torch.linspace(-7, 7, 40_001).double()[:, None])
    atoms = units.values[units.values < NONE][:, None]
    between = x[(x != atoms.T).all(1)]
    total = float(density(units, atoms).sum()) + float(torch.trapezoid(density(units, between), between[:, 0]))
    assert total == pytest.approx(1, abs=0.03)
    shares = (column == atoms.T).double().mean(0)
    assert density(units, atoms).tolist() == pytest.approx(shares.tolist(), abs=0.02)


def test_numbers_that_no_column_has_are_impossible_alone() -> None:
    x = torch.from_numpy(np.stack([RNG.lognormal(0, 2, 500), RNG.standard_normal(500), RNG.integers(0, 2, 500)], 1))
    units = Units.of(x)
    rows = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1e60, 0.0, 0.0], [1.0, 1e30, 2.0], [math.nan, 60.0, 0.5]])
    wrong = [[1, 0], [2, 0], [3, 1], [3, 2], [4, 1], [4, 2]]
    assert (~units.possible(rows.double())).nonzero().tolist() == wrong
    assert FAR == 30
    run = ncsn.Run.of(zero_score, (3,), sigma_max=10.0, sigma_min=0.1)
    run = replace(run, units=units, recipe=replace(run.recipe, columns=("a", "b", "c")))
    with pytest.raises(ValueError, match=r"column b \(row 2\) cannot be 1e\+30"):
        run.log_prob(rows[[0, 3]].double())


def test_units_of_older_runs_give_the_same_numbers() -> None:
    """They have neither decimals nor bounds, and knots that older versions have set."""
    knots = torch.tensor([[[-1.0, 0, 2], [-1, 0, 1]], [[-2.0, 0, 1], [-1, 0, 1]]]).double()
    units = Units(
        shift=torch.tensor([10.0, 2.0]).double(),
        scale=torch.tensor([4.0, 3.0]).double(),
        log=torch.tensor([False, False]),
        cells=torch.tensor([INTEGERS, 0]),
        values=torch.zeros(2, 1).double(),
        knots=knots,
    )
    z = torch.tensor([[-3.0, 5.25], [0.3, -7.5], [0.8, 0.0]]).double()
    assert units.restore(z).tolist() == [[4.0, 17.75], [12.0, -20.5], [16.0, 2.0]]
    assert units.standardise(torch.tensor([[14.0, 5.0]]).double()).tolist() == [[0.5, 1.0]]
    assert units.log_volume(torch.tensor([[14.0, 5.0]]).double()).tolist() == pytest.approx([math.log(0.5 / 12)])
