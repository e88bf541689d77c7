"""Columns of a table: whatever one is like, training sees no outliers, and samples are values like its own."""

import math
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from helpers import table_run, with_transform, zero_score
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ncsn
from ncsn.data.columns import Columns, Discrete, Number, learn_columns
from ncsn.distributions import GaussianMixture
from ncsn.loading import dataset_of
from ncsn.tables.run import TableRun

RNG = np.random.default_rng(0)


def mixed(n: int, share: float, rest: np.ndarray, value: float = 0.0) -> np.ndarray:
    """``value`` in a share of the rows, and other values in the rest."""
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
    "out of sight": np.random.default_rng(1).standard_cauchy(200) ** 5,
    "one out of sight": np.append(RNG.standard_normal(2000), 1e12),
    "claims in cents": mixed(3000, 0.4, RNG.lognormal(8, 1.5, 3000).round(2)),
    "zeros in whole numbers": mixed(3000, 0.3, (3e6 * RNG.standard_normal(3000)).round()),
    "zeros with six decimals": mixed(3000, 0.25, RNG.standard_normal(3000).round(6)),
    "sentinel dates": mixed(3000, 0.3, RNG.integers(18000, 19000, 3000).astype(float), 2932896.0),
    "two scales": mixed(3000, 0.6, 1e8 + 1e7 * RNG.standard_normal(3000), 0.0) + RNG.standard_normal(3000),
    "fives": 5 * RNG.integers(3, 33, 500).astype(float),
    "quarters": RNG.normal(20, 4, 500).round() / 4 + 0.125,
    "six hours": 18000.25 + RNG.integers(0, 400, 500) / 4,
    "hundreds and seven": 7 + 100 * RNG.lognormal(4, 1, 500).round(),
}
CELLS = ("a flag", "a rare flag", "ratings, one rare", "ratings, one never", "eleven values, two rare")
RNG, N = np.random.default_rng(0), 4000
COLUMNS = {
    "normal": 1e9 + 3 * RNG.standard_normal(N),
    "lognormal": np.exp(2 * RNG.standard_normal(N)),
    "beta": RNG.beta(0.5, 0.5, N),
    "heavy": RNG.standard_t(2, N),
    "uniform": RNG.uniform(20, 65, N),
    "atom": np.where(RNG.random(N) < 0.3, 0.0, RNG.random(N)),
    "count": np.round(np.exp(3 + RNG.standard_normal(N))) - 1,
    "few": RNG.choice([1.0, 2.5, 1000.0], N, p=[0.6, 0.3, 0.1]),
}


def learn(*columns: np.ndarray) -> tuple[Tensor, Columns]:
    """Rows, and what their columns are to the model."""
    rows = torch.from_numpy(np.stack(columns, 1))
    return rows, learn_columns(rows, [str(i) for i in range(len(columns))])


def one(x: np.ndarray) -> tuple[Tensor, Number | Discrete]:
    """A column, and what it is to the model."""
    rows, columns = learn(x)
    return rows[:, 0].double(), columns.columns[0]


def number_of(x: np.ndarray) -> Number:
    """A column of numbers."""
    _, column = one(x)
    assert isinstance(column, Number)
    return column


def number(name: str) -> tuple[Tensor, Number]:
    """The numbers of a case, and their column."""
    return torch.from_numpy(CASES[name]).double(), number_of(CASES[name])


MIX, UNITS = learn(*COLUMNS.values())


def normals(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def test_columns_have_the_scale_that_suits_them() -> None:
    numbers = [each for each in UNITS.columns if isinstance(each, Number)]
    assert [each.name for each in numbers] == [str(i) for i in range(len(COLUMNS) - 1)], "the last has few values"
    assert [name for name, each in zip(COLUMNS, numbers, strict=False) if each.log] == ["lognormal"]
    shift, scale, affine = Columns(columns=UNITS.columns[:5]).affine((5,))
    assert affine.tolist() == [True, False, False, False, False]
    z = UNITS.forward(MIX, torch.Generator().manual_seed(1))
    torch.testing.assert_close(shift[0] + scale[0] * z[:, 0], MIX[:, 0])
    for name, column in zip(COLUMNS, z[:, : len(numbers)].T, strict=False):
        column = column[~column.isnan()]
        assert abs(float(column.mean())) < 0.03, name
        assert float(column.std()) == pytest.approx(1, abs=0.05), name
        assert float(column.abs().max()) < 8, name
    fives, ones = (learn(x)[1].describe()[-1] for x in (CASES["fives"], COLUMNS["count"]))
    assert ("(5)" in fives, "(1)" in ones) == (True, False), "steps of one aren't listed"
    assert torch.equal(z[:, -2], (MIX[:, 5] == 0).double()), "whether a number has its frequent value"
    assert torch.equal(z[:, -1], (MIX[:, 7] > 1).double() + (MIX[:, 7] > 3))


def test_transforms_are_inverted_exactly_also_beyond_the_data_and_with_gaps() -> None:
    gaps = torch.rand(MIX.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    columns = tuple(replace(column, gaps=column.name in "0567") for column in UNITS.columns)
    x, units = MIX.masked_fill(gaps & torch.tensor([each.gaps for each in columns]), math.nan), Columns(columns=columns)
    z = units.forward(x)
    assert units.codes == (2, 3, 2, 4)
    assert torch.equal(z[:, 7:].isnan(), x[:, [0, 5, 6, 7]].isnan()), "unknown"
    filled = units.with_gaps(z)
    assert torch.equal(filled[:, 7:].isnan(), torch.zeros(N, 4).bool())
    back = units.inverse(filled)
    torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-7, equal_nan=True)
    assert torch.equal(back[:, -2:].nan_to_num(-1), x[:, -2:].nan_to_num(-1)), "counts and few values"
    anywhere = torch.linspace(-9, 9, 1001).double()
    for column in UNITS.columns[:5]:
        assert isinstance(column, Number)
        reached = column.reach(anywhere)
        torch.testing.assert_close(column.forward(reached), anywhere, rtol=0, atol=1e-4)
        assert bool((reached.diff() > 0).all()), "monotone"


def test_the_jacobian_is_the_derivative() -> None:
    """Of the numbers; frequent values and missing cells don't contribute."""
    some, inner = Columns(columns=UNITS.columns[1:6]), MIX[:300, 1:6].clone()
    inner[::7, 1] = math.nan
    step = 1e-7 * inner.abs().clamp(min=1e-2)
    rise = ((some.forward(inner + step) - some.forward(inner - step)) / (2 * step).repeat(1, 2)[:, :6])[:, :5]
    rise[inner[:, 4] == 0, 4] = 1.0
    error = (rise.nan_to_num(1.0).log().sum(1) - some.log_abs_det_jacobian(inner)).abs()
    assert float(error.median()) < 1e-5
    assert float(error.quantile(0.95)) < 1e-2, "but for kinks"


def run_of(score: ncsn.Score, columns: Columns, e: int) -> TableRun:
    return with_transform(TableRun.of(score, (e,), sigma_max=20.0, sigma_min=1e-3), columns)


@pytest.mark.parametrize(
    "names",
    [("lognormal",), ("beta",), ("uniform",), ("lognormal", "beta"), ("count",), ("fives",), ("quarters",)],
    ids="-".join,
)
def test_densities_of_a_run_integrate_to_one(names: tuple[str, ...]) -> None:
    """Over the places to which a fine grid of z goes; whole numbers are added up, those in steps of five, too.

    Numbers with decimals have densities, which are about equal within a cell.
    """
    rows, transform = learn(*((CASES | COLUMNS)[name] for name in names))
    d = len(names)
    run = run_of(GaussianMixture(torch.zeros(1, d)), transform, d)
    if names[0] in ("count", "fives", "quarters"):
        total = run.log_prob(torch.unique(rows)[:, None], batch_size=999).exp().sum()
        width = 0.25 if names[0] == "quarters" else 1
        assert float(total) * width == pytest.approx(1, abs=0.05), "by the middle of each cell"
        return
    n = 600 if d == 1 else 121
    axis = torch.linspace(-4.5, 4.5, n).double() if d == 1 else torch.linspace(-4, 4, n).double()
    x = transform.inverse(torch.cartesian_prod(*[axis] * d).view(-1, d)).view(*[n] * d, d)
    density = run.log_prob(x.view(-1, d), batch_size=2000).exp().view(*[n] * d)
    if d == 2:
        density = torch.trapezoid(density, x[0, :, 1], dim=1)
        x = x[:, 0]
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=0.01 * d)


def test_densities_at_random_places_are_those_of_the_continuous_numbers_there() -> None:
    """In whole numbers, on a logarithmic scale."""
    rows = torch.arange(30, 90)[:, None].double()
    column = Number(name="n", log=True, step=1.0, shift=4.0, scale=0.5)
    found, normal = (Columns(columns=(each,)) for each in (column, replace(column, step=0.0)))
    score = GaussianMixture(torch.zeros(1, 1))
    x = normal.inverse(found.forward(rows, torch.Generator().manual_seed(5)))
    assert 0.3 < float((x - rows).abs().max()) < 0.5
    (part,) = run_of(score, found, 1).log_densities(rows, place=5, batch_size=99)
    torch.testing.assert_close(part.log_prob, run_of(score, normal, 1).log_prob(x, batch_size=99))


def test_a_frequent_value_has_a_probability_and_the_rest_a_density() -> None:
    """0.3 for zero, and a standard normal of the model's numbers with the other 0.7."""
    _, transform = learn(COLUMNS["atom"])
    start = {"mean": torch.zeros(3), "covariance": torch.tensor([1.0, 0.2, 0.2]).diag()}
    start |= {"log_shares": torch.tensor([0.7, 0.3]).log(), "indicator": torch.tensor([0])}
    run, (column,) = table_run(start, transform, sigma_max=20.0, sigma_min=1e-3), transform.columns
    assert isinstance(column, Number)
    assert float(run.log_prob(torch.zeros(1, 1).double()).exp()) == pytest.approx(0.3, abs=1e-4)
    x = column.reach(torch.linspace(-4.5, 4.5, 600).double())
    total = torch.trapezoid(run.log_prob(x[:, None], batch_size=999).exp().double(), x)
    assert float(total) == pytest.approx(0.7, abs=0.01)


def test_a_value_that_is_frequent_because_the_grid_is_coarse_has_no_code() -> None:
    """The density in its cell must be above ten per standard deviation: 0.2 in 0.05 of them isn't, half of the rows is.

    Widths as those of diamonds: whole numbers, but for a few tenths.
    """
    rng = np.random.default_rng(0)
    widths = np.where(rng.random(2000) < 0.05, 0.1, 0.0) + rng.normal(57, 2.2, 2000).round()
    assert number_of(widths).atoms == ()
    assert number_of(mixed(2000, 0.6, rng.normal(0, 5, 2000).round(1))).atoms == (0.0,)
    others = rng.standard_normal(20)
    few, enough = (np.append(np.zeros(30), np.tile(others[:n], 3)) for n in (19, 20))
    assert (number_of(few).atoms, number_of(enough).atoms) == ((), (0.0,)), "next to twenty other values"


def heaped(seed: int) -> np.ndarray:
    """Years of schooling: about a third of the rows have 12, those beside it fewer than a tenth each."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(1500) < 0.24, 12, rng.normal(12, 3.2, 1500).round().clip(0, 17))


HEAPS = {
    **{f"schooling {seed}": heaped(seed) for seed in range(4)},
    "ages in fives": np.where(
        RNG.random(2000) < 0.4, 5 * RNG.normal(9, 2.5, 2000).round(), RNG.normal(45, 13, 2000).round()
    ),
    "ages from 18": RNG.normal(40, 12, 1500).round().clip(18, 80),
    "waiting times": RNG.geometric(0.16, 2000).clip(1, 28).astype(float),
    "grades": np.where(abs((grades := RNG.normal(62, 15, 2000).round()) - 48) < 2, 50.0, grades).clip(0, 100),
    "prices": np.where(RNG.random(2000) < 0.03, 9.99, RNG.lognormal(2, 0.5, 2000).round(2)),
}


@pytest.mark.parametrize("x", HEAPS.values(), ids=HEAPS.keys())
def test_samples_of_a_right_model_have_whole_numbers_as_often_as_rows(x: np.ndarray) -> None:
    """Also heaps that a grid of coarse cells hides, and cells beside heaps."""
    column = number_of(x)
    made = column.inverse(normals(100_000)).numpy()
    values, counts = np.unique(x, return_counts=True)
    shares = counts / len(x)
    common = shares > 0.02
    made_shares = np.array([(abs(made - value) < 1e-9).mean() for value in values])
    np.testing.assert_allclose(made_shares[common], shares[common], atol=0.012)


def check_column(x: np.ndarray) -> None:
    """What holds of every column."""
    values, column = one(x)
    codes = column.encode(values)
    if isinstance(column, Discrete):
        assert torch.equal(column.decode(codes), values)
        return
    z = column.forward(values, torch.rand(len(x), generator=torch.Generator().manual_seed(0)).double())
    assert torch.equal(z.isnan(), codes > 0)
    assert float(z[codes == 0].abs().max()) <= 8, "no training value is an outlier"
    back = column.decode(z, codes).to(torch.from_numpy(x))
    torch.testing.assert_close(
        back, torch.from_numpy(x), rtol=1e-6 if x.dtype == np.float32 else 1e-9, atol=1e-9 * x.std()
    )
    assert bool(column.possible(values).all())
    order = torch.from_numpy(np.unique(x.astype(float)))
    order = order[column.encode(order) == 0]
    apart = order.diff() > 1e-6 * x.std()
    assert bool((column.forward(order).diff()[apart] > 0).all()), "monotone"
    steps = ((order - column.origin) / column.step) if column.step else torch.zeros(1)
    torch.testing.assert_close(steps, steps.round(), rtol=1e-15, atol=1e-3)
    for atom in column.atoms:
        assert (x == atom).mean() > 0.05

    made = column.inverse(torch.linspace(-6, 6, 2001).double())
    assert bool(made.isfinite().all())
    assert bool((made.diff() >= 0).all())
    assert float(made.min()) >= x.min()
    assert float(made.max()) <= x.max()
    start, end = torch.tensor(column.knots, dtype=torch.float64)
    tails = (start.diff() / end.diff())[[0, -1][: len(start)]]
    assert bool((tails > 0.999).all()), "as long as a Gaussian's or longer"
    assert bool((start.diff() > 0).all())
    assert bool((end.diff() > 0).all())
    if column.whole and column.step == 1:
        check_knots_in_cells(x[codes.numpy() == 0], (start[1:-1] * column.scale + column.shift).numpy())


def check_knots_in_cells(x: np.ndarray, knots: np.ndarray) -> None:
    """A cell of whole numbers in which a knot lies holds many rows, or more or fewer than the cells beside it."""
    values, counts = np.unique(x, return_counts=True)
    rows = dict(zip(values, counts, strict=True))
    for value in np.unique(np.floor(knots + 0.5)[abs(knots - np.floor(knots + 0.5)) < 0.499]):
        before = counts[1] if value == values[0] else rows.get(value - 1, 0)
        after = counts[-2] if value == values[-1] else rows.get(value + 1, 0)
        expected = (before + after) / 2
        uneven = abs(rows[value] - expected) > 2 * (rows[value] + expected / 2) ** 0.5
        assert rows[value] > 0.05 * len(x) or (uneven and rows[value] > 0.005 * len(x))


@pytest.mark.parametrize("x", (CASES | COLUMNS | HEAPS).values(), ids=(CASES | COLUMNS | HEAPS).keys())
def test_columns_as_people_have_them(x: np.ndarray) -> None:
    check_column(x)


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
    x = bodies[body] * 10.0 ** draw(st.integers(-4, 9))
    x[rng.random(n) < draw(st.sampled_from([0.0, 0.4]))] /= 10.0 ** draw(st.sampled_from([0, 3, 8]))
    x[rng.random(n) < draw(st.sampled_from([0.0, 0.02, 0.2, 0.6]))] = draw(st.sampled_from([0.0, x[0]]))
    if draw(st.booleans()):
        x = x.clip(*np.quantile(x, [draw(st.sampled_from([0.0, 0.1])), draw(st.sampled_from([0.5, 0.97, 1.0]))]))
    if (decimals := draw(st.sampled_from([None, 0, 1, 3, 6]))) is not None:
        x = x.round(decimals)
    x[: draw(st.integers(0, 5))] = draw(st.sampled_from([0.0, 1e3, -1e6, 32000.0])) + x[0]
    return x if x.std() > 1e-6 * np.max(abs(x)) else x + rng.standard_normal(n)


@settings(max_examples=60, derandomize=True)
@given(columns())
@example(np.append(np.arange(300.0), 1e9))
def test_columns_of_any_shape(x: np.ndarray) -> None:
    check_column(x)


ZEROS = ["zeros and a lognormal", "zeros and amounts", "a share", "zero in the middle", "counts, mostly zero"]
ZEROS += ["claims in cents", "zeros in whole numbers", "zeros with six decimals"]
OTHERS = [("a share", 1.0), ("a tenth at the end", 2.5), ("sentinel dates", 2932896.0)]


@pytest.mark.parametrize(("name", "value"), [*((name, 0.0) for name in ZEROS), *OTHERS])
def test_samples_of_a_right_model_have_a_value_as_often_as_rows(name: str, value: float) -> None:
    x, column = number(name)
    codes = column.encode(x).repeat(24_000 // len(x))
    made = column.decode(normals(24_000), codes)
    assert float((made == value).double().mean()) == pytest.approx(float((x == value).double().mean()), abs=0.012)
    others = made[made != value]
    assert x[x != value].min() <= others.min() <= others.max() <= x[x != value].max()


def test_two_scales_in_one_column_keep_their_shares_and_shapes() -> None:
    _, column = number("two scales")
    made = column.inverse(normals(20_000))
    far = made > 1e6
    assert float(far.double().mean()) == pytest.approx(0.4, abs=0.012)
    assert made[far].log10().mean() == pytest.approx(8, abs=0.05)
    assert made[~far].quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist() == pytest.approx(
        [-1.28, 0, 1.28], abs=0.15
    )


GRIDS = {"fives": (5, 0), "quarters": (0.25, 0.125), "six hours": (0.25, 0), "hundreds and seven": (100, 7)}


@pytest.mark.parametrize(("name", "grid"), GRIDS.items(), ids=GRIDS)
def test_samples_are_on_the_grid_of_their_column(name: str, grid: tuple[float, float]) -> None:
    """Numbers of other rows may lie between, and belong to the nearest sample; whole numbers stay whole."""
    x, column = number(name)
    made = column.inverse(3 * normals(2000))
    steps = (made - grid[1]) / grid[0]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-9)
    assert len(made.unique()) > 20  # type: ignore[no-untyped-call]
    between = x[:50] + (grid[0] * 0.4 if grid[0] < 1 else grid[0] // 3)
    assert bool(column.possible(between).all())
    inside = (between > x.min()) & (between < x.max())
    torch.testing.assert_close(column.inverse(column.forward(between))[inside], x[:50][inside])
    assert not column.whole or not bool(column.possible(between + 0.5).any())


@pytest.mark.parametrize("name", ["a share", "percent", "whole percent", "a tenth at the end", "equal at the end"])
def test_ends_of_held_out_rows_may_be_others(name: str) -> None:
    x, column = number(name)
    made = torch.cat(
        [column.inverse(torch.linspace(-9, 9, 999).double()), torch.tensor(column.atoms, dtype=torch.float64)]
    )
    assert (float(made.min()), float(made.max())) == (float(x.min()), float(x.max()))
    ends = torch.tensor([x.min() - 0.01 * x.std(), x.max() + 0.01 * x.std()]).double()
    if not column.whole and name != "equal at the end":
        assert bool(column.possible(ends).all())
        units = Columns(columns=(column,))
        torch.testing.assert_close(units.restore(units.forward(ends[:, None]))[:, 0], ends, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_few_values_are_listed_also_where_some_are_rare(name: str) -> None:
    x, (_, column) = CASES[name], one(CASES[name])
    assert isinstance(column, Discrete)
    allowed = np.arange(x.min(), x.max() + 1) if (x == x.round()).all() else np.unique(x)
    assert column.decode(torch.arange(column.codes).double()).tolist() == allowed.tolist()
    assert bool(column.possible(torch.from_numpy(allowed)).all())
    assert bool(column.encode(torch.tensor([torch.nan]).double()).isnan()), "a missing value stays missing"
    assert bool(replace(column, gaps=True).decode(torch.tensor([float(column.codes)]).double()).isnan())


@pytest.mark.parametrize("name", ["one outlier", "one out of sight"])
def test_an_outlier_is_as_rare_among_samples_as_among_rows(name: str) -> None:
    x = CASES[name]
    made = number(name)[1].inverse(torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000))
    assert float((made > 100).double().mean()) < 2.5 / len(x)
    assert np.quantile(made, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(x, [0.1, 0.5, 0.9]), abs=0.05)


def test_categories_are_listed_however_many_they_are() -> None:
    a, b = np.random.default_rng(0).integers(0, 45, (2, 800))
    transform = dataset_of(pandas.DataFrame({"a": a, "b": [f"t{i}" for i in b]})).transform
    assert isinstance(transform, Columns)
    assert [column.type for column in transform.columns] == ["number", "discrete"]
    assert transform.columns[1].codes == 45


@pytest.mark.parametrize(("name", "decimals"), [("cents", 2), ("tenths", 1), ("single precision", 1)])
def test_samples_have_the_decimals_of_their_column(name: str, decimals: int) -> None:
    rows, columns = learn(CASES[name])
    made = columns.inverse(normals(500, 0)[:, None].to(rows)).numpy()
    np.testing.assert_array_equal(made, made.round(decimals))
    assert {len(str(value).partition(".")[2]) for value in made[:, 0]} <= set(range(decimals + 1))
    x, column = number(name)
    assert bool(column.possible(x + 0.003).all()), "held-out rows may have more"
    if not column.log:
        noise = column.enter(x, torch.rand(len(x)).double()) - column.enter(x, 0.5)
        assert float(noise.std()) == pytest.approx(10.0**-decimals / 12**0.5, rel=0.1), "anywhere that rounds to it"


def test_small_numbers_next_to_large_ones_are_possible() -> None:
    x = np.append(np.random.default_rng(0).normal(0, 1e13, 18), 2e-4)
    assert bool(one(x)[1].possible(torch.from_numpy(x)).all())


def test_numbers_that_no_column_has_are_impossible() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(30, 500)
    _, transform = learn(rng.lognormal(0, 2, 500), rng.standard_normal(500), rng.integers(0, 2, 500), counts)
    rows = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1e60, 0.0, 0.0], [1.0, 1e30, 2.0], [math.nan, 60.0, 0.5]])
    rows = torch.cat([rows, torch.tensor([[0.0], [-1.0], [5.0], [30.0], [30.5]])], 1)
    wrong = [[1, 0], [1, 3], [2, 0], [3, 1], [3, 2], [4, 1], [4, 2], [4, 3]]
    assert (~transform.possible(rows.double())).nonzero().tolist() == wrong
    with pytest.raises(ValueError, match=r"column 1: 1\.0+2e\+30 \(row 2\)"):
        run_of(zero_score, transform, 4).log_prob(rows[[0, 3]].double())
