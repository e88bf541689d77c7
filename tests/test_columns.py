"""Columns of a table: whatever one is like, training sees no outliers, and samples are numbers like it."""

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
from ncsn.distributions import GaussianMixture
from ncsn.kinds.tables.columns import FEW, AnyColumn, Atomic, Columns, Integer, Listed, Real, learn_columns
from ncsn.run import Recipe, Run
from ncsn.samplers import Sampling

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
    "one out of sight": np.append(RNG.standard_normal(2000), 1e12),
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


def one(x: np.ndarray) -> tuple[Tensor, AnyColumn]:
    """A column, and what it is to the model."""
    rows, columns = learn(x)
    return rows[:, 0], columns.columns[0]


MIX, UNITS = learn(*COLUMNS.values())


def normals(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def test_columns_have_the_scale_that_suits_them() -> None:
    shift, scale, affine = UNITS.affine((len(COLUMNS),))
    assert affine.tolist() == [name == "normal" for name in COLUMNS]
    assert [isinstance(each, Real) and each.log for each in UNITS.columns] == [name == "lognormal" for name in COLUMNS]
    z = UNITS.forward(MIX, torch.Generator().manual_seed(1))
    torch.testing.assert_close(shift[0] + scale[0] * z[:, 0], MIX[:, 0])
    for name, column in zip(COLUMNS, z.T, strict=True):
        assert abs(float(column.mean())) < (0.3 if name == "atom" else 0.03), name
        assert float(column.std()) == pytest.approx(1, abs=0.3 if name == "atom" else 0.05), name
        assert float(column.abs().max()) < 8, name


def test_transforms_are_inverted_exactly_also_beyond_the_data() -> None:
    assert torch.equal(UNITS.inverse(UNITS.forward(MIX))[:, -2:], MIX[:, -2:]), "counts and few values"
    torch.testing.assert_close(UNITS.inverse(UNITS.forward(MIX)), MIX, rtol=1e-12, atol=1e-7)
    anywhere = torch.linspace(-9, 9, 1001).double()
    for column in UNITS.columns[:5]:
        reached = column.reach(anywhere)
        torch.testing.assert_close(column.forward(reached), anywhere, rtol=0, atol=1e-4)
        assert bool((reached.diff() > 0).all()), "monotone"


def test_the_jacobian_is_the_derivative() -> None:
    some = Columns(columns=UNITS.columns[1:6])
    inner = MIX[:300, 1:6][MIX[:300, 5] != 0]
    step = 1e-7 * inner.abs().clamp(min=1e-2)
    rise = (some.forward(inner + step) - some.forward(inner - step)) / (2 * step)
    error = (rise.log().sum(1) - some.log_abs_det_jacobian(inner)).abs()
    assert float(error.median()) < 1e-5
    assert float(error.quantile(0.95)) < 1e-2, "but for kinks"


@pytest.mark.parametrize(
    "names", [("lognormal",), ("beta",), ("uniform",), ("lognormal", "beta"), ("count",), ("few",)]
)
def test_densities_of_a_run_integrate_to_one(names: tuple[str, ...]) -> None:
    """Over the places to which a fine grid of z goes; whole numbers and few values are added up."""
    rows, transform = learn(*(COLUMNS[name] for name in names))
    d, sampling = (
        len(names),
        Sampling(sigma_max=20.0, sigma_min=1e-3, sampler="dpmpp-sde", levels=20, steps=1, eps=1e-7),
    )
    recipe = Recipe(network="none", arguments={}, shape=(d,), sampling=sampling, transform=transform)
    run = Run(score=GaussianMixture(torch.zeros(1, d)), recipe=recipe)
    if names[0] in ("count", "few"):
        total = run.log_prob(torch.unique(rows)[:, None], batch_size=999).exp().sum()
        assert float(total) == pytest.approx(1, abs=0.05), "by the middle of each cell"
        return
    n = 600 if d == 1 else 121
    axis = torch.linspace(-4.5, 4.5, n).double() if d == 1 else torch.linspace(-4, 4, n).double()
    x = transform.inverse(torch.cartesian_prod(*[axis] * d).view(-1, d)).view(*[n] * d, d)
    density = run.log_prob(x.view(-1, d), batch_size=2000).exp().view(*[n] * d)
    if d == 2:
        density = torch.trapezoid(density, x[0, :, 1], dim=1)
        x = x[:, 0]
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1, abs=0.01 * d)


def check_column(x: np.ndarray) -> None:
    """What holds of every column."""
    values, column = one(x)
    z = column.forward(values.double(), torch.rand(len(x), generator=torch.Generator().manual_seed(0)).double())
    assert float(z.abs().max()) <= 8, "no training value is an outlier"
    back = column.inverse(column.forward(values.double())).to(values)
    torch.testing.assert_close(back, values, rtol=1e-6 if values.dtype == torch.float32 else 1e-9, atol=1e-9 * x.std())
    assert bool(column.possible(values.double()).all())
    order = torch.from_numpy(np.unique(x.astype(float)))
    apart = order.diff() > 1e-6 * x.std()
    assert bool((column.forward(order).diff()[apart] > 0).all()), "monotone"

    made = column.inverse(torch.linspace(-6, 6, 2001).double())
    assert bool(made.isfinite().all())
    assert bool((made.diff() >= 0).all())
    if x.min() >= 0:
        assert float(made.min()) >= 0, "signs stay"
    if not (isinstance(column, Real) and column.log):
        assert float(made.max()) <= x.max() + 20 * x.astype(float).std(), "nothing is far from training"
    start, end = torch.tensor(column.knots, dtype=torch.float64)
    assert bool((start.diff() > 0).all())
    assert bool((end.diff() > 0).all())
    if isinstance(column, Integer):  # no knot inside a cell that few have
        t = (start[1:-1] * column.scale + column.shift).numpy()
        inside = abs(t - np.floor(t + 0.5)) < 0.499
        shares = np.array([(x == value).mean() for value in np.floor(t + 0.5)])
        assert not (inside & (shares <= 0.05)).any()


@pytest.mark.parametrize("x", (CASES | COLUMNS).values(), ids=(CASES | COLUMNS).keys())
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
def test_columns_of_any_shape(x: np.ndarray) -> None:
    check_column(x)


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
def test_samples_of_a_right_model_have_a_value_as_often_as_rows(name: str, value: float) -> None:
    real = float((CASES[name] == value).mean())
    made = float((one(CASES[name])[1].inverse(normals(20_000)) == value).double().mean())
    assert made == pytest.approx(real, abs=0.012 if real > 0.01 else 0.004)


@pytest.mark.parametrize("name", ["a share", "percent", "whole percent", "a tenth at the end", "equal at the end"])
def test_samples_stay_within_what_training_never_left(name: str) -> None:
    x, column = one(CASES[name])
    made = column.inverse(torch.linspace(-9, 9, 999).double())
    assert (float(made.min()), float(made.max())) == (float(x.min()), float(x.max()))
    held_out = x[:1] + torch.tensor([-0.01, 0.01]) * x.std()
    assert isinstance(column, Integer) or bool(column.possible(held_out).all()), "ends of held-out rows may be others"


@pytest.mark.parametrize("name", CELLS)
def test_few_values_are_listed_also_where_some_are_rare(name: str) -> None:
    x, (_, column) = CASES[name], one(CASES[name])
    assert isinstance(column, Listed)
    for convert in (column.forward, column.inverse):
        assert bool(convert(torch.tensor([torch.nan]).double()).isnan()), "a missing value stays missing"
    allowed = np.arange(x.min(), x.max() + 1) if (x == x.round()).all() else x
    assert set(column.inverse(2 * normals(5000)).tolist()) <= set(allowed.tolist())
    assert bool(column.possible(torch.from_numpy(allowed)).all())


@pytest.mark.parametrize("name", ["one outlier", "one out of sight"])
def test_an_outlier_is_as_rare_among_samples_as_among_rows(name: str) -> None:
    x = CASES[name]
    made = one(x)[1].inverse(torch.special.ndtri((torch.arange(100_000).double() + 0.5) / 100_000))
    assert float((made > 100).double().mean()) < 2.5 / len(x)
    assert np.quantile(made, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(x, [0.1, 0.5, 0.9]), abs=0.05)


def test_categories_are_listed_however_many_they_are() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 45, (400, 2))).double()
    found = learn_columns(x, ["a", "b"], {"b": tuple(f"t{i}" for i in range(45))}).columns
    assert [type(column) for column in found] == [Integer, Listed]


@pytest.mark.parametrize(("name", "decimals"), [("cents", 2), ("tenths", 1), ("single precision", 1)])
def test_samples_have_the_decimals_of_their_column(name: str, decimals: int) -> None:
    rows, columns = learn(CASES[name])
    made = columns.inverse(normals(500, 0)[:, None].to(rows)).numpy()
    np.testing.assert_array_equal(made, made.round(decimals))
    assert {len(str(value).partition(".")[2]) for value in made[:, 0]} <= set(range(decimals + 1))
    (column,), x = columns.columns, rows[:, 0].double()
    assert bool(column.possible(x + 0.003).all()), "held-out rows may have more"
    if not (isinstance(column, Real) and column.log):
        noise = column.enter(x, torch.rand(len(x)).double()) - column.enter(x, 0.5)
        assert float(noise.std()) == pytest.approx(10.0**-decimals / 12**0.5, rel=0.1), "anywhere that rounds to it"


def density(column: AnyColumn, x: Tensor) -> Tensor:
    """Of a column that is standard normal to the model."""
    logs = column.log_abs_det_jacobian(x) - column.forward(x).square() / 2
    return (logs - math.log(2 * math.pi) / 2).exp()


@pytest.mark.parametrize("name", ["a flag", "ratings, one rare", "eleven values, two rare", "memory of machines"])
def test_probabilities_of_cells_are_shares_of_rows(name: str) -> None:
    """In the middle of each cell: within a hundredth of the shares, one together."""
    x, column = one(CASES[name])
    values, counts = torch.unique(x, return_counts=True)
    probabilities = density(column, values)
    assert float((probabilities - counts / len(x)).abs().max()) < 0.015
    if name != "memory of machines":
        assert float(probabilities.sum()) == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("name", ["zeros and a lognormal", "a share", "zero in the middle"])
def test_atoms_have_probabilities_and_the_rest_a_density(name: str) -> None:
    x, column = one(CASES[name])
    assert isinstance(column, Atomic)
    atoms, between = torch.tensor(column.values).double(), column.reach(torch.linspace(-7, 7, 40_001).double())
    between = between[(between[:, None] != atoms).all(1)]
    total = density(column, atoms).sum() + torch.trapezoid(density(column, between), between)
    assert float(total) == pytest.approx(1, abs=0.03)
    shares = (x[:, None] == atoms).double().mean(0)
    assert density(column, atoms).tolist() == pytest.approx(shares.tolist(), abs=0.02)


def test_few_numbers_of_one_sign_have_samples_of_that_sign() -> None:
    column = one(np.random.default_rng(0).lognormal(0, 1, FEW - 1))[1]
    assert float(column.inverse(normals(1000)).min()) == 0


def test_small_numbers_next_to_large_ones_are_possible() -> None:
    x = np.append(np.random.default_rng(0).normal(0, 1e13, FEW - 2), 2e-4)
    assert bool(one(x)[1].possible(torch.from_numpy(x)).all())


def test_numbers_that_no_column_has_are_impossible() -> None:
    rng = np.random.default_rng(0)
    _, transform = learn(rng.lognormal(0, 2, 500), rng.standard_normal(500), rng.integers(0, 2, 500))
    rows = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1e60, 0.0, 0.0], [1.0, 1e30, 2.0], [math.nan, 60.0, 0.5]])
    wrong = [[1, 0], [2, 0], [3, 1], [3, 2], [4, 1], [4, 2]]
    assert (~transform.possible(rows.double())).nonzero().tolist() == wrong
    run = ncsn.Run.of(zero_score, (3,), sigma_max=10.0, sigma_min=0.1)
    run = replace(run, recipe=replace(run.recipe, transform=transform))
    with pytest.raises(ValueError, match=r"column 1: 1\.0+2e\+30 \(row 2\)"):
        run.log_prob(rows[[0, 3]].double())


@pytest.mark.parametrize("x", [RNG.normal(5, 1, 400), np.arange(15.0) ** 2 + 9], ids=["many", "few and whole"])
def test_a_column_without_negative_numbers_is_not_left_below_zero(x: np.ndarray) -> None:
    _, columns = learn(x)
    assert float(columns.inverse(torch.full((1, 1), -30.0, dtype=torch.float64))) == 0
