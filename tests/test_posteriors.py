"""Posteriors beside exact ones, and the measurements that they are made of."""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers import GaussianScore, per_example, refuses, with_transform, z_score
from torch import Generator, Tensor
from torch import clone as identity

from ncsn import GaussianMixture, Karras, Run, dpm_solver, posteriors
from ncsn.data.columns import Columns, Number
from ncsn.posteriors import known_pixels, masked, posterior

Measurement = Callable[[Tensor], Tensor]
COVARIANCE = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.1], [0.2, -0.1, 0.5]])
MEAN = torch.tensor([0.5, -1.0, 2.0])
TWO_ROWS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, -1.0]])


def gaussian(x: Tensor, sigma: float | Tensor, /, mean: Tensor = MEAN, covariance: Tensor = COVARIANCE) -> Tensor:
    """The exact score of a Gaussian with noise added."""
    total = covariance.to(x) + per_example(sigma, x)[:, :, None] ** 2 * torch.eye(len(mean)).to(x)
    score: Tensor = torch.linalg.solve(total, mean.to(x) - x)
    return score


def test_replaced_pixels_are_noised_to_the_level_where_the_prior_is_asked(generator: Generator) -> None:
    """Not pasted clean: the known coordinate that the prior sees has its example's level σ, around its own y."""
    inputs: list[Tensor] = []

    def prior(x: Tensor, sigma: float | Tensor, /) -> Tensor:
        inputs.append(x)
        return x**2

    known, half = torch.tensor([True, False]), torch.arange(40_000) < 20_000
    y, sigma = torch.where(half, 3.0, -1.0)[:, None].expand(-1, 2), torch.where(half, 0.7, 2.0)
    x = torch.randn(40_000, 2, generator=generator)
    score = posteriors.replacement(prior, known, y, generator=generator)(x, sigma)
    for part, centre, level in ((half, 3.0, 0.7), (~half, -1.0, 2.0)):
        assert abs(z_score(inputs[0][part, 0], centre)) < 4
        assert abs(z_score((inputs[0][part, 0] - centre) ** 2, level**2)) < 4
    assert torch.equal(inputs[0][:, 1], x[:, 1])
    torch.testing.assert_close(score, torch.stack([(y[:, 0] - x[:, 0]) / sigma**2, x[:, 1] ** 2], 1))


def solution_by(m: Tensor, b: Tensor, steps: int, noise: float) -> Tensor:
    """An approximate solution u of M u = b, as the posterior of a denoiser D x = (Mᵀ − noise²) x shows it.

    At x = 0 and σ = 1, M is the covariance noise² + ∂D/∂xᵀ of the measurement b of all numbers, and the score ∂D/∂xᵀ u.
    """
    jacobian = m - noise**2 * torch.eye(m.shape[-1]).to(m)

    def score(x: Tensor, sigma: float | Tensor, /) -> Tensor:
        return (jacobian.mT @ x[..., None])[..., 0] - x

    found = posterior(score, identity, b, noise, steps=steps)(torch.zeros_like(b), 1.0)
    solution: Tensor = torch.linalg.solve(jacobian, found)
    return solution


def test_conjugate_gradients_solve(generator: Generator) -> None:
    """In as many steps as dimensions, and after fewer with the least error in the product's own norm."""
    m = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64)
    m = m @ m.mT + torch.eye(5)
    b = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(solution_by(m, b, steps=5, noise=0.1), torch.linalg.solve(m, b))
    krylov = torch.stack([b, (m @ b[..., None])[..., 0]], 2)  # two steps search this plane
    best = torch.linalg.solve(krylov.mT @ m @ krylov, krylov.mT @ b[..., None])
    torch.testing.assert_close(solution_by(m, b, steps=2, noise=0.1), (krylov @ best)[..., 0])


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_conjugate_gradients_leave_out_what_no_covariance_can_be(steps: int) -> None:
    """One example has directions below the noise, as covariances of learned scores have; others have not."""
    bends = torch.tensor([[2.0, 1.0, 0.6], [-1.0, -3.0, 0.1], [2.0, -1.5, 4.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1.0, 2.0], [1.0, 1.0, 0.0], [1.0, -3.0, 2.0]], dtype=torch.float64)
    solution = solution_by(torch.diag_embed(bends), b, steps=steps, noise=0.5**0.5)
    assert torch.equal(solution[1], torch.zeros(3, dtype=torch.float64))
    assert bool((solution.norm(dim=1) <= b.norm(dim=1) / 0.5).all()), "however M bends"
    if steps >= 3:
        torch.testing.assert_close(solution[0], torch.tensor([0.5, 1.0, 2 / 0.6]).double())
        torch.testing.assert_close(solution[2], torch.tensor([0.5, 0.0, 0.5]).double())


def test_more_steps_are_no_worse_where_the_product_is_not_symmetric(generator: Generator) -> None:
    """Conjugate gradients by their short recursion are at 10⁶ times the solution after these 12 steps."""
    rotation = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    m = torch.diag(torch.logspace(-4, 2, 12, dtype=torch.float64)) + 0.3 * (rotation - rotation.T)
    b = torch.randn(1, 12, generator=generator, dtype=torch.float64)
    solutions = [solution_by(m[None], b, steps=steps, noise=0.01) for steps in (2, 4, 8, 12)]
    energies = [float(((u @ m.T) * u / 2 - b * u).sum()) for u in solutions]
    assert energies == sorted(energies, reverse=True)


def test_everything_may_be_made_in_inference_mode() -> None:
    def draw() -> Tensor:
        points = posterior(MODES.score, masked(torch.tensor([True, False])), torch.full((6, 1), 4.0), 0.5)
        image = posterior(lambda v, s: -v * per_example(s, v), posteriors.blurred(1.0), torch.ones(6, 1, 5, 5), 0.5)
        drawn = MODES.posterior(first, 1.0, noise_std=0.5).sample(6, levels=5)
        scores = points(torch.ones(6, 2), 0.7), image(torch.ones(6, 1, 5, 5), torch.tensor(0.3))
        return torch.cat([x.flatten() for x in (drawn, *scores)])

    expected = draw()
    with torch.inference_mode():
        assert torch.equal(draw(), expected)


def test_a_posterior_of_numbers_is_that_of_points_on_a_line_and_there_may_be_none(generator: Generator) -> None:
    line = GaussianScore(0.5, 0.8)
    x, y = torch.randn(5, generator=generator), torch.randn(5, generator=generator)
    numbers, points = posterior(line, identity, y, 0.3), posterior(line, identity, y[:, None], 0.3)
    assert torch.equal(numbers(x, 0.7), points(x[:, None], 0.7)[:, 0])
    assert posterior(line, identity, y[:0], 0.3)(x[:0], 0.7).shape == (0,)


# Measurements.


Y = torch.tensor([[3.0, 5.0], [1.0, -2.0]])


@pytest.mark.parametrize("noise", [0.5, torch.tensor([0.5, 2.0])])
@pytest.mark.parametrize("y", [Y, Y[0]])
def test_a_measurement_in_the_users_units_becomes_one_of_the_scores(noise: float | Tensor, y: Tensor) -> None:
    """One step from z on one level ends at the mean given z and A(shift + scale·x) = y + noise, in the user's units."""

    def measure(x: Tensor) -> Tensor:
        return x @ TWO_ROWS.T + 7.0

    shift, scale = torch.tensor([10.0, -5.0, 1.0]), torch.tensor([2.0, 0.5, 3.0])
    z, level = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 0.0]]), 0.8
    units = Columns(tuple(Number(name="x", shift=float(a), scale=float(b)) for a, b in zip(shift, scale, strict=True)))
    run = with_transform(Run.of(GaussianScore(0.0, 1.0), (3,), sigma_max=20.0, sigma_min=0.02), units)
    found = run.posterior(measure, y, noise_std=noise).sample(2, start=z, sampler="euler", levels=(level,))
    a, mean, variance = TWO_ROWS * scale, z / (1 + level**2), level**2 / (1 + level**2)
    total = variance * a @ a.T + torch.diag(torch.as_tensor(noise).expand(2) ** 2)
    off = y.expand(2, 2) - TWO_ROWS @ shift - 7 - mean @ a.T
    expected = mean + variance * torch.linalg.solve(total, off.T).T @ a
    torch.testing.assert_close(found.float(), shift + scale * expected, rtol=1e-4, atol=1e-4)


# Particles, beside exact posteriors.

MODES = Run.of(GaussianMixture(torch.tensor([[-5.0, -5.0], [5.0, 5.0]])), shape=(2,), sigma_max=40.0, sigma_min=0.02)


def first(x: Tensor) -> Tensor:
    return x[:, :1]


@pytest.mark.parametrize(("noise", "share"), [(0.1, 0.00005), (2.0, 0.1192)])
@pytest.mark.parametrize("several", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_particles_weigh_modes_as_they_should(noise: float, share: float, several: bool) -> None:
    """The mode is told by the coordinate that is not measured; moment matching gives it 0.2 and 0.35."""
    n, y = (500, np.ones((500, 1))) if several else (2000, 1.0)
    steps = MODES.posterior(first, y, noise_std=noise).steps(n, seed=1, levels=40)
    x = list(steps)[-1].x
    assert abs(float((x[:, 1] < 0).double().mean()) - share) <= (0.04 if several else 0.02)
    assert steps.particles == (64 if several else n)
    assert 0.02 * steps.particles < steps.effective < steps.particles
    assert (steps.nfe, steps.disagreeing) == (steps.sampling.nfe * (64 if several else 1), 0)
    assert steps.backward == 2 * steps.nfe
    alone = MODES.posterior(first, [1.0], noise_std=noise).sample(300, particles=1, levels=40)
    assert float((alone[:, 1] < 0).double().mean()) > share + 0.15


ONE = [(2, 1, 3, 1000), (2, 1, 1500, 1500), (64, 16, 3, 1000), (64, 17, 3, 250), (65, 1, 3, 1)]
EACH = [(64, 1, 100, 64), (64, 1, 2000, 64)]  # a measurement for each sample


@pytest.mark.parametrize(("size", "measured", "n", "particles"), ONE + EACH)
def test_a_population_is_as_large_as_time_allows(size: int, measured: int, n: int, particles: int) -> None:
    several = (size, measured, n, particles) in EACH
    y = torch.zeros((n, measured) if several else (measured,))
    prior = Run.of(GaussianScore(0.0, 1.0), shape=(size,), sigma_max=9.0, sigma_min=0.1)
    run = prior.posterior(lambda x: x[:, :measured], y, noise_std=1.0)
    steps = run.steps(n, levels=2)
    assert (steps.particles, steps.sampler) == (particles, "dpmpp-sde" if particles == 1 else "particles")
    steps.last()
    assert (n if steps.weight is None else len(steps.weight.effective)) == (n if several or particles == 1 else 1)
    alone = run.steps(n, particles=1)
    assert (alone.particles, alone.sampler) == (1, "dpmpp-sde")


def log_density(mixture: GaussianMixture, a: Tensor, y: Tensor, noise: Tensor) -> float:
    """Log p(y) of y = A x + n, n ~ N(0, ``noise``), for a mixture of Gaussians."""
    covariance = mixture.std**2 * a @ a.T + noise
    parts = torch.distributions.MultivariateNormal(mixture.means @ a.T, covariance).log_prob(y)  # type: ignore[no-untyped-call]
    return float((parts + mixture.weights.log()).logsumexp(0))


THREE = GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]]), 0.8, torch.tensor([0.2, 0.5, 0.3]))


@pytest.mark.parametrize("noise", [torch.tensor(0.7), pytest.param(torch.tensor([0.4, 1.5]), marks=pytest.mark.slow)])
def test_evidence_is_the_mixtures_and_other_seeds_are_as_far_off_as_it_says(noise: Tensor) -> None:
    """Two measurements, 40 populations for each, in the user's units of y."""
    a, y = torch.tensor([[1.0, 0.5], [0.0, 2.0]]), torch.tensor([[3.0, 3.0], [-6.0, -8.0]])
    run = Run.of(THREE, shape=(2,), sigma_max=40.0, sigma_min=0.02)
    posterior = run.posterior(lambda x: x @ a.T, y.repeat_interleave(40, 0), noise_std=noise)
    found = posterior.log_evidence(seed=1, particles=200, levels=50)
    logs, errors = found.log_prob.view(2, 40), found.standard_error.view(2, 40)
    for k in range(2):
        exact, spread = log_density(THREE, a, y[k], noise.expand(2).square().diag()), float(logs[k].std())
        assert abs(float(logs[k].mean()) - exact) < 4 * spread / 40**0.5
        known = errors[k][errors[k].isfinite()]  # it is infinite where all particles descend from one
        assert len(known) >= 36
        assert 1 / 1.5 < float(known.square().mean().sqrt()) / spread < 1.5


REPEATS = torch.tensor([[1.5, 0.0], [1.1, -0.5], [2.0, 0.4]])


def test_evidence_is_unknown_where_one_particle_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """The prior is seven standard deviations away, and the estimate 30 nats off."""
    found = MODES.posterior(first, [[12.0], [5.0]], noise_std=0.1).log_evidence(levels=30)
    assert found.standard_error.isinf().tolist() == [True, False]
    assert "1 of 2" in capsys.readouterr().err


def test_where_fewer_are_measured_than_there_are_numbers_the_rest_keeps_the_prior(generator: Generator) -> None:
    """In more dimensions than whose whole covariance is asked: one is measured, and correlates with one other."""
    covariance = torch.eye(20)
    covariance[0, 1] = covariance[1, 0] = 0.9
    prior = partial(gaussian, mean=torch.zeros(20), covariance=covariance)
    run = Run.of(prior, shape=(20,), sigma_max=20.0, sigma_min=0.02)
    steps = run.posterior(first, 1.5, noise_std=0.1).steps(2000, seed=4)
    x = list(steps)[-1].x
    assert steps.backward == steps.nfe
    for column, (mean, std) in enumerate([(1.5 / 1.01, 0.0995), (1.35 / 1.01, 0.4448), (0.0, 1.0)]):
        assert float(x[:, column].mean()) == pytest.approx(mean, abs=5 * std / 2000**0.5)
        assert float(x[:, column].std()) == pytest.approx(std, rel=0.1)
    # Numbers that the measurement says nothing about are drawn as by DPM-Solver++(2M), with its error at few levels.
    ladder, start = Karras(20.0, 0.02, 6).sigmas(), 20 * torch.randn(2000, 18, generator=generator)
    *_, last = dpm_solver(GaussianScore(0.0, 1.0), start, ladder, stochasticity=1.0, generator=generator)
    coarse = run.posterior(first, 1.5, noise_std=0.1).sample(2000, seed=4, levels=6)[:, 2:]
    assert float(coarse.std()) == pytest.approx(float(last.x.std()), rel=0.02)


def test_what_disagrees_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement that the prior cannot explain; and noise that the last step takes away."""
    for y, count in ((1.0, 0), (40.0, 50)):
        steps = MODES.posterior(first, y, noise_std=0.5).steps(50, particles=1)
        list(steps)
        assert steps.disagreeing == count
    assert "50 of 50" in capsys.readouterr().err
    list(MODES.posterior(first, 1.0, noise_std=0.03).steps(5, particles=1))
    assert "sigma_min = 0.02" in capsys.readouterr().err


WEIGHED = MODES.posterior(first, [4.0], noise_std=0.5)
KNOWN = torch.tensor([True, False])
REPLACED = MODES.replacement(KNOWN.numpy(), [4.0, 0.0])


def test_a_posterior_has_a_score(generator: Generator) -> None:
    x = torch.randn(3, 2, generator=generator)
    expected = posterior(MODES.score, first, torch.full((3, 1), 4.0), 0.5)(x, 0.7)
    found = WEIGHED.sample(3, start=x, sampler="euler", levels=(0.7,))
    torch.testing.assert_close(found, x + 0.7**2 * expected)
    replaced = REPLACED.sample(3, start=x, sampler="euler", levels=(0.7,))
    torch.testing.assert_close(replaced[:, 0], torch.full((3,), 4.0))
    number = MODES.posterior(lambda x: x[:, 0], 4.0, noise_std=0.5)
    drawn = [run.sample(3, levels=4, particles=8) for run in (number, WEIGHED)]
    assert torch.equal(*drawn)


def solve(measure: Measurement, y: Any = (1.0, 1.0), noise: Any = 0.1) -> object:
    return MODES.posterior(measure, y, noise_std=noise)


CROOKED: list[Measurement] = [lambda x: x**2, lambda x: x.clamp(min=0), lambda x: x - x.mean(0)]


NO_MASKS = [True], [[True, False]], [1, 0]
REFUSED: list[tuple[Callable[[], object], str]] = [
    (partial(posterior, gaussian, identity, torch.zeros(1, 3), 0.0), "noise_std is 0"),
    (partial(posterior, gaussian, identity, torch.zeros(1, 3), 0.1, steps=0), "steps is 0"),
    # It would be broadcast, every measurement against every example.
    (partial(posterior(gaussian, first, torch.ones(4), 0.3), torch.ones(4, 3), 0.7), r"\(4,\); .* \(4, 1\)"),
    *((partial(solve, measure), "linear") for measure in CROOKED),  # the last of a batch, not of each example
    (partial(solve, identity, [1.0, math.nan]), "finite"),
    *((partial(solve, identity, y), "shape") for y in ([1.0], np.zeros((3, 2, 1)))),
    (partial(solve, lambda x: x[:, :0], np.zeros(0)), "hold a number"),
    *((partial(solve, identity, noise=noise), "noise_std") for noise in ([0.1, 0.0], math.nan)),
    *((partial(MODES.replacement, np.array(known), [4.0, 0.0]), "booleans") for known in NO_MASKS),
    *((partial(MODES.replacement, KNOWN, y), "y has shape") for y in ([4.0], 4.0, [[4.0]], [[[4.0, 0.0]]])),
    (partial(REPLACED.sample, 3, particles=4), "particles is 4"),
    (partial(WEIGHED.sample, 3, particles=4, sampler="heun"), "particles is 4"),
    (partial(WEIGHED.sample, 3, particles=4, start=torch.ones(3, 2)), "particles is 4"),
    (partial(WEIGHED.sample, 3, particles=0), "particles is 0"),
    (REPLACED.log_evidence, "no evidence"),
    (partial(solve, torch.detach), "not differentiable"),
    (partial(MODES.posterior(identity, REPEATS, noise_std=1.0).sample, 1000), "3 measurements for 1000 samples"),
    (partial(WEIGHED.log_evidence, particles=1), "needs particles"),
    (partial(WEIGHED.sample, 3, particles=2.5), "particles is 2.5"),  # type: ignore[arg-type]
    *((partial(MODES.posterior, first, 4.0, noise_std=1.0, solver_steps=n), "solver_steps is") for n in (0, -1)),
    *((partial(posteriors.blurred, std), "std is") for std in (0.0, -1.0, 1e5)),
    *((partial(posteriors.downsampled, factor), "factor is") for factor in (0, -1, 1.5)),  # type: ignore[arg-type]
    (partial(posteriors.downsampled(9), torch.zeros(1, 1, 8, 8)), "factor is 9"),
    (partial(posteriors.known_pixels, (1, 8, 8), "center"), "hide is 'center'"),  # type: ignore[arg-type]
    (partial(posteriors.masked, torch.ones(2)), "known has"),
    (partial(posterior, gaussian, identity, torch.zeros(1, 3), "a"), "noise_std is 'a'"),  # type: ignore[arg-type]
    (partial(posteriors.replacement(gaussian, KNOWN, torch.zeros(4, 2)), torch.zeros(3, 2), 1.0), "known has"),
    (partial(posteriors.replacement, gaussian, [1.0, 0.0], torch.zeros(3, 2)), "known has"),  # type: ignore[arg-type]
    (partial(MODES.replacement, KNOWN, [math.nan, 0.0]), "y has NaN"),
    (partial(MODES.posterior, "first", 4.0, noise_std=1.0), "measure is 'first'"),  # type: ignore[arg-type]
]

test_what_cannot_be_solved_is_refused = refuses(REFUSED)


def test_a_posterior_of_a_function_of_a_module_is_pickled_and_copied() -> None:
    for run in (WEIGHED, REPLACED, MODES.posterior(identity, [4.0, 2.0], noise_std=[0.5, 0.7])):
        for again in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
            assert torch.equal(again.sample(3, seed=1, levels=5), run.sample(3, seed=1, levels=5))


def test_replacement_takes_as_many_steps_as_the_unknown_needs() -> None:
    """The second coordinate is 1.5 above its mean; the first by the conditional Gaussian."""
    run = Run.of(gaussian, shape=(3,), sigma_max=20.0, sigma_min=0.05)
    x = run.replacement(torch.tensor([False, True, False]), [0.0, 0.5, 0.0]).sample(2000, seed=0)[:, 0]
    assert (float(x.mean()), float(x.std())) == pytest.approx((0.5 + 1.5 * 0.75, 0.55**0.5), abs=0.12)
    slow = replace(run, recipe=replace(run.recipe, sampling=run.recipe.sampling.but(sampler="annealed", steps=9)))
    assert slow.replacement(torch.tensor([False, True, False]), [0.0] * 3).steps(1).sampling.steps == 9


# Which pixels are hidden, drawn by hand.


@pytest.mark.parametrize(
    ("hide", "rows"),
    [
        ("top", ["......", "......", "######", "######", "######"]),
        ("bottom", ["######", "######", "......", "......", "......"]),
        ("left", ["...###"] * 5),
        ("right", ["###..."] * 5),
        ("centre", ["######", "#....#", "#....#", "#....#", "######"]),
    ],
)
def test_what_is_known_is_what_is_not_hidden(
    hide: Literal["top", "bottom", "left", "right", "centre"], rows: list[str]
) -> None:
    expected = torch.tensor([[pixel == "#" for pixel in row] for row in rows])
    assert torch.equal(known_pixels((3, 5, 6), hide), expected.expand(3, 5, 6))
    assert hide != "centre" or not any(known_pixels((1, side, side), hide).any() for side in (1, 2, 3))


def test_a_quarter_is_known_at_random_the_same_in_every_channel(generator: Generator) -> None:
    known = known_pixels((3, 60, 50), "random", generator=generator)
    assert torch.equal(known, known[:1].expand(3, 60, 50))
    assert abs(z_score(known[0].double().flatten(), 0.25)) < 4
    assert abs(z_score((known[0, :, 1:] & known[0, :, :-1]).double().flatten(), 0.0625)) < 5  # pixel by pixel


@pytest.mark.parametrize(
    ("scale", "off", "count"),
    [(1.0, 0.0, 0), (0.0, 0.0, 0), (1.0, 12.0, 40), (1.5, 0.0, 40)],
    ids=["noise as it was said", "none", "one number far off", "all a little too far"],
)
def test_noise_explains_as_much_as_it_is(scale: float, off: float, count: int, generator: Generator) -> None:
    """Of 896 numbers, some of 40 samples' are more than 4 noise_std off, although the noise is as it was said.

    Twenty samples are of each of two measurements, those of the first one first.
    """
    y = torch.tensor([[0.0], [9.0]]).expand(2, 896).repeat_interleave(20, 0)
    x = y + 0.1 * scale * torch.randn(40, 896, generator=generator)
    x[:, 5] += 0.1 * off

    def score(z: Tensor, sigma: float | Tensor, /) -> Tensor:
        """Of data that are ``x``, whatever is measured of them."""
        return (x[: len(z)] - z + 0 * z) / per_example(sigma, z) ** 2

    run = Run.of(score, (896,), sigma_max=20.0, sigma_min=0.1).posterior(identity, y, noise_std=0.1)
    steps = run.steps(40, start=x, sampler="euler", levels=(0.5,))
    torch.testing.assert_close(steps.last(), x)
    assert steps.disagreeing == count
