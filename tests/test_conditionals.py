"""Conditionals of tables: exact scores and probabilities of a Gaussian, how training starts, and its masks."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
import torch
from helpers import SAMPLING, command, fit_table, load_table, storms, unchecked, with_transform
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import ncsn
from ncsn.batching import Batch
from ncsn.conditionals import ConditionalModel
from ncsn.data.columns import Columns, Discrete, Number
from ncsn.data.dataset import Dataset
from ncsn.loading import dataset_of
from ncsn.objectives import training_loss
from ncsn.settings import TrainSettings
from ncsn.tables.imputed import ImputedTable
from ncsn.tables.run import TableRun

D = 4
NAN = torch.nan
ABSENT = math.inf  # a number that is unknown and integrated out
PATTERNS = 16  # choices of known columns in a batch


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Gaussian(NamedTuple):
    mean: Tensor
    covariance: Tensor


class Case(NamedTuple):
    """A Gaussian of four numbers and the indicators of codes; ``inside``: those of which codes are in it."""

    gaussian: Gaussian
    counts: tuple[int, ...] = ()
    inside: tuple[int, ...] = ()


def any_gaussian(f: int) -> Gaussian:
    root = draw(f, f, seed=8)
    return Gaussian(draw(f, seed=9).float(), (root @ root.T / 2 + 0.1 * torch.eye(f)).float())


def independent(gaussian: Gaussian) -> Gaussian:
    return gaussian._replace(covariance=gaussian.covariance.diagonal().diag())


CASES = {
    "numbers": Case(any_gaussian(4)),
    "independent": Case(independent(any_gaussian(4))),
    "codes": Case(any_gaussian(9), (2, 3), (0, 1)),
    "independent codes": Case(independent(any_gaussian(9)), (2, 3), (0, 1)),
    "too many codes": Case(any_gaussian(6), (70, 2), (1,)),
}
# t: target, o: observed, a: absent.
ROLES = ["tttt", "ottt", "toot", "ooto", "oooo", "attt", "taot", "aoot", "otaa", "tata", "aaot", "aaaa"]
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
noises = pytest.mark.parametrize("noisy", [False, True], ids=["exact", "noisy"])


class Zero(nn.Module):
    """An untrained network."""

    waves = 0

    def __init__(self, codes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.codes, self.total = codes, sum(codes)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.zeros(len(x), (x.shape[1] - self.total) // (4 + 2 * self.waves) + self.total)


class Ramp(Zero):
    """A network that prefers later values, whatever it is shown."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return super().forward(x, c) + torch.arange(D + self.total)


class Waves(Zero):
    """A network that depends on all that it is shown, which it keeps, with sines and cosines of numbers among it."""

    waves = 3

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.shown = x
        numbers, codes = x[:, : x.shape[1] - self.total], x[:, x.shape[1] - self.total :]
        parts = numbers.view(len(x), 4 + 2 * self.waves, -1)
        waves = (parts + parts.roll(1, 2) / 2).sin().sum(1) + c[:, None] + codes.cumsum(1).sin().sum(1, keepdim=True)
        return torch.cat([waves, codes.roll(1, 1).cumsum(1).cos() + waves.sum(1, keepdim=True).sin()], 1)


def built(gaussian: Gaussian, network: Zero, **start: Tensor) -> ConditionalModel:
    """The model around a Gaussian of numbers and codes, with a network of the test's."""
    shape = (max(1, len(gaussian.mean)),)
    recipe = ncsn.Recipe(network="Own", arguments={}, preconditioning="conditional", shape=shape, sampling=SAMPLING)
    model = recipe.build(gaussian._asdict() | start, network=network)
    assert isinstance(model, ConditionalModel)
    return model


def model_of(case: Case, network: type[Zero] = Zero) -> ConditionalModel:
    return built(case.gaussian, network(case.counts))


def givens(patterns: list[str], counts: tuple[int, ...]) -> Tensor:
    """Observed values that lie where the Gaussian does, NaN for targets, infinity for absent ones; known codes or not.

    Four rows of five know their first code, and three of five the second one.
    """
    signs = [[{"t": torch.nan, "o": 0.0, "a": ABSENT}[letter] for letter in pattern] for pattern in patterns]
    n, codes = len(patterns), []
    for i, (count, unknown) in enumerate(zip(counts, (NAN, ABSENT), strict=False)):
        codes.append((torch.arange(n) * 7 % count).double().masked_fill(torch.arange(n) % 5 < i + 1, unknown))
    return torch.cat([torch.tensor(signs) + 1.5 * draw(n, D, seed=0), *(code[:, None] for code in codes)], 1).float()


def problem(case: Case, noisy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three rows of each pattern: what is given, its noise, where, and at which noise levels."""
    n = 3 * len(ROLES)
    noise = draw(n, seed=1).exp() / 2 if noisy else torch.zeros(n).double()
    given = givens(3 * ROLES, case.counts)
    return given, noise.float(), 2 * draw(n, D, seed=2), 10 ** (draw(n, seed=3).clamp(-2, 2) / 2)


def coordinates(case: Case, given: Tensor) -> tuple[Tensor, Tensor]:
    """One row's coordinates of the Gaussian, NaN for unknown indicators; and which codes' are known."""
    parts = [given[:D].double()]
    for i in case.inside:
        code, count = float(given[D + i]), case.counts[i]
        parts.append((torch.arange(count) == code).double() if math.isfinite(code) else torch.full((count,), NAN))
    whole = torch.cat(parts)
    return whole, whole[D:].isfinite()


def exact_score(case: Case, given: Tensor, noise: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """By the gradient of the log density; other coordinates are points."""
    rows, mean, covariance = [], case.gaussian.mean.double(), case.gaussian.covariance.double()
    for row, τ, place, σ in zip(given, noise.double(), x, sigma, strict=True):
        values, codes = coordinates(case, row)
        target, observed = values[:D].isnan(), values[:D].isfinite()
        place = place.clone().requires_grad_()
        whole = torch.cat([torch.where(observed, values[:D], place), values[D:]])
        std = torch.cat([torch.where(observed, τ, σ), torch.zeros(len(codes)).double()])
        present, score = torch.cat([target | observed, codes]), torch.zeros_like(place)
        if target.any():
            noised = (covariance + (std**2).diag())[present][:, present]
            log = MultivariateNormal(mean[present], noised).log_prob(whole[present])  # type: ignore[no-untyped-call]
            (score,) = torch.autograd.grad(log, place)
        rows.append(torch.where(target, score, (values[:D].where(observed, 0.0) - place.detach()) / σ**2))
    return torch.stack(rows)


@noises
@cases
def test_an_untrained_network_is_the_exact_score_whatever_is_observed(case: Case, noisy: bool) -> None:
    given, noise, x, sigma = problem(case, noisy)
    model = model_of(case)
    found = model.numbers(x, sigma, model.condition(given, noise if noisy else None))
    assert found.dtype == torch.float64
    for pattern, one, right in zip(3 * ROLES, found, exact_score(case, given, noise, x, sigma), strict=True):
        torch.testing.assert_close(one, right, atol=2e-4, rtol=2e-4, msg=f"{pattern}: {one} is not {right}")
    if not noisy:
        codes = given[:, D:].double()
        expected = torch.cat([found, torch.zeros_like(codes)], 1)
        torch.testing.assert_close(model(torch.cat([x, codes], 1), sigma, given), expected)


@cases
def test_the_joint_score_is_that_of_targets_given_the_codes(case: Case) -> None:
    x, model = draw(5, D, seed=3), model_of(case, Waves)
    given = givens(["tttt"] * 5, case.counts)
    rows = torch.cat([x, given[:, D:].double()], 1)
    assert torch.equal(model(rows, 0.5), model(rows, torch.full((5,), 0.5), given))
    if not case.counts:
        right = exact_score(case, given, torch.zeros(5), x, torch.full((5,), 0.5))
        torch.testing.assert_close(model_of(case)(x, 0.5), right, atol=1e-4, rtol=1e-4)


@noises
@cases
def test_scores_of_targets_depend_on_no_other_number_and_only_theirs_on_the_network(case: Case, noisy: bool) -> None:
    given, noise, x, sigma = problem(case, noisy)
    model = model_of(case, Waves)
    condition = model.condition(given, noise)
    target, observed = given[:, :D].isnan(), given[:, :D].isfinite()
    score = model.numbers(x, sigma, condition)
    elsewhere = model.numbers(torch.where(target, x, 50 * draw(*x.shape, seed=9)), sigma, condition)
    assert torch.equal(score[target], elsewhere[target])
    untrained = model_of(case).numbers(x, sigma, condition)
    assert not torch.isclose(score, untrained, rtol=1e-4)[target].any()
    point = (torch.where(observed, given[:, :D], 0.0).double() - x) / sigma[:, None] ** 2
    assert torch.equal(score[~target], point[~target])


@cases
def test_what_a_network_says_is_scaled_by_the_conditional_spread_along_its_axes(case: Case) -> None:
    """EDM's scale of a residual; where nothing is observed, less as noise grows."""
    patterns = ["tttt", "ottt", "aott", "otto"]
    given, x, sigma = givens(patterns, case.counts), draw(4, D, seed=1), torch.tensor([0.7, 0.2, 1.0, 3.0]).double()
    model = model_of(case, Waves)
    condition = model.condition(given)
    added = model.numbers(x, sigma, condition) - model_of(case).numbers(x, sigma, condition)
    value = Waves(case.counts)(model.network.shown, (sigma.float().log() / 4)).double()
    for i, σ in enumerate(sigma):
        row, codes = coordinates(case, given[i])
        known = torch.cat([row[:D].isfinite(), codes])
        t = torch.cat([row[:D].isnan(), torch.zeros_like(codes)])
        whole = case.gaussian.covariance.double()
        gain = torch.linalg.solve(whole[known][:, known], whole[known][:, t]).T
        variances, axes = torch.linalg.eigh(whole[t][:, t] - gain @ whole[known][:, t])
        wide = variances + σ**2
        fading = 1 if given[i].isfinite().any() else variances / wide
        scale = variances.sqrt() / (σ * wide.sqrt()) * fading
        expected = axes @ (scale * (axes.T @ value[i, :D][t[:D]]))
        torch.testing.assert_close(added[i][t[:D]], expected, atol=1e-4, rtol=1e-3)


@noises
@cases
def test_the_network_is_shown_residuals_of_regressions_and_what_is_known(case: Case, noisy: bool) -> None:
    """Number by number, a regression on all others that are present, noise included, and codes, by a linear solve."""
    given, noise, x, sigma = problem(case, noisy)
    model = model_of(case, Waves)
    model.numbers(x, sigma, model.condition(given, noise))
    shown: Tensor = model.network.shown.double()  # type: ignore[assignment]
    sizes = [D, D, D, D, 2 * Waves.waves * D, sum(case.counts)]
    residuals, scaled, observed, absent, waves, codes = torch.split(shown, sizes, 1)
    mean = case.gaussian.mean.double()
    for row in range(len(x)):
        values, inside = coordinates(case, given[row])
        present = torch.cat([~values[:D].isinf(), inside])
        noises = torch.cat([torch.where(values[:D].isfinite(), noise[row].double(), sigma[row]), 0 * values[D:]])
        off = torch.cat([torch.where(values[:D].isnan(), x[row], values[:D]), values[D:]]) - mean
        covariance = case.gaussian.covariance.double() + (noises.nan_to_num() ** 2).diag()
        for i in range(D):
            others = present & (torch.arange(len(mean)) != i)
            expected, spread = torch.zeros(()).double(), covariance[i, i]
            if present[i]:
                weights = torch.linalg.solve(covariance[others][:, others], covariance[others, i])
                left, variance = off[i] - weights @ off[others], spread - weights @ covariance[others, i]
                expected, alone = left / variance.sqrt(), off[i] / spread.sqrt()
                torch.testing.assert_close(scaled[row, i], alone, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(residuals[row, i], expected, atol=1e-3, rtol=1e-3)
        hot = [torch.arange(n) == code for n, code in zip(case.counts, given[row, D:], strict=True)]
        assert torch.equal(codes[row], torch.cat([*hot, torch.zeros(0)]).double())
    numbers = given[:, :D]
    assert torch.equal(absent, numbers.isinf().double())
    torch.testing.assert_close(observed, numbers.isfinite() / (1 + 4 * noise.double()[:, None]))
    assert not scaled[numbers.isinf()].any()
    # A wave e^{iωz} of a number with noise has the mean e^{iωz − (ωs)²/2}, s being the share of the noise.
    std = torch.where(numbers.isnan(), sigma[:, None], noise.double()[:, None])
    share = std**2 / (case.gaussian.covariance.diagonal()[:D].double() + std**2)
    for octave, wave in enumerate(waves.view(len(x), Waves.waves, 2, D).unbind(1)):
        frequency = math.pi / 4 * 2**octave
        expected = torch.exp(1j * frequency * scaled - frequency**2 * share / 2) / math.sqrt(2**octave)
        expected = torch.where(numbers.isinf(), 0.0, expected)
        torch.testing.assert_close(torch.complex(*wave.unbind(1)), expected, atol=1e-4, rtol=1e-4)


@cases
def test_a_condition_serves_several_rows_for_each_of_its_examples(case: Case) -> None:
    """Consecutive ones; each is the same if drawn separately."""
    given, noise, _, _ = problem(case, True)
    b, n = len(given), 4
    x, sigma = draw(b * n, D, seed=4), draw(b * n, seed=6).exp()
    model = model_of(case, Waves)
    found = model.numbers(x, sigma, model.condition(given, noise))
    alone = []
    for i in range(b):
        condition, part = model.condition(given[i : i + 1], noise[i : i + 1]), slice(n * i, n * i + n)
        alone.append(model.numbers(x[part], sigma[part], condition))
    torch.testing.assert_close(found, torch.cat(alone), atol=1e-5, rtol=1e-4)
    apart = found.view(b, n, D)
    assert not torch.allclose(apart[0, 0], apart[0, 1], rtol=0.1)


class Level:
    """Noise levels of a training, here given."""

    def __init__(self, sigma: Tensor) -> None:
        self.sigma = sigma

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        return self.sigma


@noises
@pytest.mark.parametrize("case", [CASES["numbers"], CASES["independent"]], ids=["full", "independent"])
def test_observed_and_absent_cells_have_no_loss(case: Case, noisy: bool) -> None:
    """So that it equals one that leaves them out, of the exact score."""
    given, noise, clean, sigma = problem(case, noisy)
    target, observed = given.isnan(), given.isfinite()
    sigma = sigma.clamp(min=0.2)
    x = torch.where(observed, given.double(), clean).masked_fill(given.isinf(), 0.0)
    model = model_of(case)
    batch = Batch(x.float(), given=model.condition(given, noise))
    loss = training_loss(Level(sigma.float()), generator=torch.Generator().manual_seed(7))
    losses, levels = loss(model, batch)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).double()
    score = exact_score(case, given, noise, x + sigma[:, None] * z, sigma)
    masked = ((sigma[:, None] * score + z) ** 2 * target).sum(1) / 2
    expected = masked * 2 * (sigma**2 + 1) / D
    torch.testing.assert_close(losses.double(), expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(levels, sigma.float())
    assert bool((losses[~target.any(1)] < 1e-9).all())


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_noise_has_a_width(sigma: float) -> None:
    with unchecked(), pytest.raises(ValueError, match="sigma is"):
        model_of(CASES["numbers"])(torch.zeros(1, D), sigma)


# Codes, and tables of classes with one covariance, in which linear discriminant analysis is exact.

CELLS = torch.tensor([[0.25, 0.1], [0.05, 0.3], [0.2, 0.1]]).double()  # p(y, z)
WITHIN = torch.tensor([[1.0, 0.4], [0.4, 0.5]]).double()
CENTRES = torch.tensor([[[0.0, 0.0], [0.5, -1.0]], [[1.5, 0.0], [2.0, -1.0]], [[0.0, 2.0], [0.5, 1.0]]]).double()


def moments(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of cells."""
    mean = weights @ features / weights.sum()
    return mean, ((features - mean) * weights[:, None]).T @ (features - mean) / weights.sum()


def features_of_cells() -> Tensor:
    """Centres and indicators of y and z, cell by cell, (6, 2 + 3 + 2)."""
    y, z = torch.cartesian_prod(torch.arange(3), torch.arange(2)).T
    return torch.cat([CENTRES.view(6, 2), torch.eye(3)[y], torch.eye(2)[z]], 1).double()


def class_model(network: type[Zero] = Zero, order: tuple[int, ...] = (0, 0, 0, 0)) -> ConditionalModel:
    """The model of two numbers, and the codes y and z."""
    mean, covariance = moments(features_of_cells(), CELLS.flatten())
    covariance[:2, :2] += WITHIN
    covariance[2:, 2:] += 1e-5 * torch.eye(5)  # positive definite, as by the rows that fit_gaussian adds
    shares = torch.cat([CELLS.sum(1), CELLS.sum(0)]).log()
    gaussian = Gaussian(mean.float(), covariance.float())
    return built(gaussian, network((3, 2)), log_shares=shares.float(), order=torch.tensor(order))


def discriminant(row: Tensor, noise: float, *, code: int) -> Tensor:
    """The textbook's: of Gaussian classes with the pooled covariance within classes of all features that are known."""
    ends, z = ((2, 3), (5, 2))[code], features_of_cells()
    member = z[:, ends[0] : sum(ends)]
    other = float(row[3 - code])
    known = [i for i in range(2) if math.isfinite(float(row[i]))]
    values = [row[i].double() for i in known]
    if math.isfinite(other):  # one indicator fewer than there are values, because they add up to one
        first, count = ((2, 3), (5, 2))[1 - code]
        known += list(range(first, first + count - 1))
        values += [torch.tensor(float(other == i)).double() for i in range(count - 1)]
    chances = (CELLS.flatten() @ member).log()
    if not known:
        return chances.log_softmax(0)
    parts = [moments(z[:, known], CELLS.flatten() * each) for each in member.T]
    within = torch.stack([c * share.exp() for (_, c), share in zip(parts, chances, strict=True)]).sum(0)
    numbers = [i for i in known if i < 2]
    within[: len(numbers), : len(numbers)] += WITHIN[numbers][:, numbers] + noise**2 * torch.eye(len(numbers))
    logs = [MultivariateNormal(mean, within).log_prob(torch.stack(values)) for mean, _ in parts]  # type: ignore[no-untyped-call]
    return (chances + torch.stack(logs)).log_softmax(0)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_an_untrained_network_is_linear_discriminant_analysis_of_what_is_known(noise: float) -> None:
    """For every choice of known numbers and codes."""
    model, probabilities = class_model(), set[float]()
    for code in (0, 1):
        for known in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).bool():
            for x, other in ((torch.tensor([1.2, -0.3]), 0.0), (torch.tensor([-0.5, 0.8]), 1.0)):
                row = torch.tensor([*x, NAN, NAN])
                row[3 - code] = other
                row[[0, 1, 3 - code]] = torch.where(known, row[[0, 1, 3 - code]], torch.tensor([ABSENT, ABSENT, NAN]))
                c = model.condition(row[None], torch.full((1,), noise), wanted=[code])
                found = torch.split(model.logits(c), [3, 2], 1)[code][0].log_softmax(0)
                right = discriminant(row, noise, code=code)
                torch.testing.assert_close(found.exp(), right.exp().float(), atol=1e-3, rtol=0)
                probabilities.add(round(float(right[0].exp()), 2))
    assert len(probabilities) > 15, "they differ"


def run_of(model: ConditionalModel, columns: Columns) -> TableRun:
    run = TableRun.of(model.requires_grad_(False), (len(model.order),), sigma_max=100.0, sigma_min=0.001)
    return with_transform(run, columns)


def discrete(name: str, *values: float, gaps: bool = False) -> Discrete:
    return Discrete(name=name, values=values, gaps=gaps)


PAIR = torch.tensor([[1.0, 0.6], [0.6, 0.8]]).double()
CLASSES = torch.tensor([[0.0, 0.0], [2.0, -1.0], [3.0, 2.0]]).double()
CHANCES = torch.tensor([0.6, 0.3, 0.1]).double()


def gaussian_classes(order: tuple[int, ...] = (0, 0, 0)) -> TableRun:
    """Two numbers of three Gaussian classes, in units of two and five, untrained; the second number is called y."""
    mean, covariance = moments(torch.cat([CLASSES, torch.eye(3).double()], 1), CHANCES)
    covariance[:2, :2] += PAIR
    covariance[2:, 2:] += 1e-5 * torch.eye(3)
    gaussian = Gaussian(mean.float(), covariance.float())
    shares, numbers = CHANCES.log().float(), (Number(name=n, shift=7.0, scale=s) for n, s in (("x", 2.0), ("y", 5.0)))
    model = built(gaussian, Zero((3,)), log_shares=shares, order=torch.tensor(order))
    return run_of(model, Columns(columns=(discrete("c", 0, 1, 2), *numbers)))


def class_logs(x: Tensor, part: slice = slice(None)) -> Tensor:
    """log p(c, x) of classes, (b, 3), in the units of the run; ``part``: of the numbers."""
    z, units = (x - 7) / torch.tensor([2.0, 5.0])[part], torch.tensor([2.0, 5.0]).double()[part].log().sum()
    logs = [MultivariateNormal(mean[part], PAIR[part, part]).log_prob(z) for mean in CLASSES]  # type: ignore[no-untyped-call]
    return CHANCES.log() + torch.stack(logs, 1) - units


def test_densities_of_a_mixed_table_are_exact() -> None:
    """By the chain rule: a class, and then numbers given the class."""
    x = torch.cat([torch.arange(6)[:, None] % 3, 7 + draw(6, 2, seed=0) * torch.tensor([2.0, 5.0])], 1).double()
    joint = class_logs(x[:, 1:]).gather(1, x[:, :1].long())[:, 0]
    run, c = gaussian_classes(), {"c": 1}
    torch.testing.assert_close(run.log_prob(x, tolerance=1e-5).double(), joint, atol=3e-3, rtol=0)
    given_class = class_logs(x[:, 1:])[:, 1] - CHANCES[1].log()
    found = run.log_prob(x[:, 1:], given=c, tolerance=1e-5).double()
    torch.testing.assert_close(found, given_class, atol=3e-3, rtol=0)
    for kinds, numbers in zip(x[:3, :1], x[:3, 1:], strict=True):
        exact = class_logs(numbers[None])[0].log_softmax(0)[kinds.long()]
        found = run.log_prob(kinds[:, None], given=dict(zip("xy", numbers.tolist(), strict=True))).double()
        torch.testing.assert_close(found, exact, atol=3e-3, rtol=0)
    x[:, 2], marginal = 11.0, class_logs(torch.full((6, 1), 11.0).double(), slice(1, 2)).logsumexp(1)
    joint = class_logs(x[:, 1:]).gather(1, x[:, :1].long())[:, 0]
    found = run.log_prob(x[:, :2], given={"y": 11.0}, tolerance=1e-5).double()
    torch.testing.assert_close(found, joint - marginal, atol=3e-3, rtol=0)
    (same,) = run.log_densities(x[:1].expand(1000, -1), probes=4, batch_size=1000)
    error = float(same.standard_error.square().mean().sqrt())
    assert error == pytest.approx(float(same.log_prob.std()), rel=0.1), "of a few probes"


def test_a_group_that_is_drawn_first_is_integrated_over_later_ones() -> None:
    """Numbers have the density of their own Gaussian then, and classes their probability given the numbers."""
    x = torch.cat([torch.arange(6)[:, None] % 3, 7 + draw(6, 2, seed=0) * torch.tensor([2.0, 5.0])], 1).double()
    run, units = gaussian_classes((0, 0, 1)), torch.tensor([2.0, 5.0]).double()
    states, usual = ([step.sigma for step in each.steps(9, levels=4)] for each in (run, gaussian_classes()))
    assert states == usual, "with those in which numbers have noise"
    mean, covariance = moments(CLASSES, CHANCES)
    numbers = MultivariateNormal(7 + units * mean, (covariance + PAIR) * units * units[:, None])
    logs = class_logs(x[:, 1:]).log_softmax(1).gather(1, x[:, :1].long())[:, 0]
    expected = numbers.log_prob(x[:, 1:]) + logs  # type: ignore[no-untyped-call]
    torch.testing.assert_close(run.log_prob(x, tolerance=1e-5).double(), expected, atol=3e-3, rtol=0)


@pytest.mark.parametrize("order", [(0, 0), (1, 0)])
def test_probabilities_of_discrete_rows_add_up_to_one(order: tuple[int, int]) -> None:
    """Whatever the network says; a table of discrete columns only, one of them with gaps."""
    columns = Columns(columns=(discrete("a", 0, 1), discrete("b", 1, 2, 5, gaps=True)))
    gaussian = any_gaussian(6)
    model = built(gaussian, Waves((2, 4)), order=torch.tensor(order), gaps=torch.tensor([-1, 3]))
    run, rows = run_of(model, columns), torch.cartesian_prod(torch.tensor([0.0, 1]), torch.tensor([1.0, 2, 5])).double()
    probabilities = run.log_prob(rows).double().exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert float(probabilities.max() - probabilities.min()) > 0.1
    drawn = run.sample(4000, seed=0, complete=True)
    shares = (drawn[:, None] == rows).all(2).double().mean(0)
    assert float(((shares - probabilities).abs() / (probabilities / 4000).sqrt()).max()) < 4


def test_rows_in_which_the_same_is_known_are_evaluated_once() -> None:
    """As draws of one row are until its first code is drawn; the order of rows is kept."""
    model = model_of(CASES["codes"], Waves)
    rows = torch.tensor(
        [[1.5, NAN, 0.2, NAN, NAN, 2.0], [1.5, NAN, NAN, NAN, NAN, 0.0], [-0.5, NAN, 0.2, 1.0, NAN, NAN]]
    )
    with torch.no_grad():
        each = torch.cat([model.log_chances(row[None], 0, complete=False) for row in rows])
        which = torch.tensor([2, 0, 0, 1, 2, 0])
        torch.testing.assert_close(model.log_chances(rows[which], 0, complete=False), each[which])
    assert len(model.network.shown) == 3  # type: ignore[arg-type]


def test_where_nothing_is_known_codes_have_their_shares_in_training() -> None:
    """So how often a category occurs in samples doesn't depend on how far its head has been trained."""
    gaussian, counts = CASES["codes"].gaussian, CASES["codes"].counts
    shares = torch.tensor([0.7, 0.3, 0.5, 0.4, 0.1])
    model = built(gaussian, Ramp(counts), log_shares=shares.log())
    nothing = model.nothing_known(1)
    for code, expected in enumerate(torch.split(shares, list(counts))):
        torch.testing.assert_close(model.log_chances(nothing, code, complete=False).exp()[0], expected)
        known = nothing.index_fill(1, torch.tensor(D + 1 - code), 1.0)
        assert float((model.log_chances(known, code, complete=False).exp()[0] - expected).abs().max()) > 0.05


# What is learned.

SMALL = TrainSettings(channels=(32,), blocks=1, batch_size=256)


def trained(rows: object, steps: int, settings: TrainSettings = SMALL) -> TableRun:
    with unchecked():  # which takes half of the time
        return fit_table(rows, settings=settings, steps=steps, seed=0, device="cpu")


def test_gaps_that_depend_on_another_column_change_neither_samples_nor_imputations() -> None:
    """Rows without gaps are all hurricanes."""
    table = storms(3000)
    run = trained(table, 150)
    samples, complete = run.sample(1000, seed=0), run.sample(1000, seed=1, complete=True)
    for drawn in (samples, complete):
        hurricane = drawn["status"] == "hurricane"
        assert hurricane.mean() == pytest.approx((table["status"] == "hurricane").mean(), abs=0.05)
        assert drawn["wind"].mean() == pytest.approx(table["wind"].mean(), rel=0.1)
        assert not (drawn["wind"] % 5).any()
        assert drawn["wind"].between(table["wind"].min(), table["wind"].max()).all()
        assert (drawn["damage"] == 0).mean() == pytest.approx((table["damage"] == 0).mean(), abs=0.05)
        assert (drawn["damage"][hurricane] == 0).mean() < 0.15
    assert not complete.isna().any(axis=None)
    assert not samples.drop(columns="category").isna().any(axis=None)
    assert (samples["category"].isna() == (samples["status"] == "depression")).mean() > 0.99
    gaps = pandas.DataFrame({"status": ["depression"]})
    draws = run.impute(gaps, 300, seed=0).draws[:, 0]
    assert float(draws[:, 1].mean()) == pytest.approx(30, abs=3)
    assert float(((draws[:, 1] - 30).abs() <= 15).double().mean()) > 0.9, "within 2½ standard deviations"
    assert float((draws[:, 3] == 0).double().mean()) == pytest.approx(0.6, abs=0.1)


def test_cells_are_missing_in_samples_as_often_as_in_rows_with_the_same_text() -> None:
    rng, n = np.random.default_rng(0), 3000
    x, often = rng.standard_normal(n), rng.random(n) < 0.5
    y = np.where(rng.random(n) < np.where(often, 0.7, 0.1), np.nan, x + rng.standard_normal(n))
    run = trained(pandas.DataFrame({"x": x, "y": y, "often": often}), 150)
    gaps = run.sample(4000, seed=0).set_index("often")["y"].isna()
    for value, share in ((True, 0.7), (False, 0.1)):
        assert gaps[value].mean() == pytest.approx(share, abs=0.05)


@cache
def classes() -> TableRun:
    """Of a number x and its class c, and of numbers w around 0 that are narrow or wide.

    No linear discriminant can tell the last.
    """
    rng, n = np.random.default_rng(0), 3000
    c, narrow = rng.choice(3, n, p=[0.6, 0.3, 0.1]), rng.random(n) < 0.5
    w = rng.standard_normal(n) * np.where(narrow, 0.4, 2.0)
    table = {"c": np.array([*"abc"])[c], "x": 1.5 * c + rng.standard_normal(n), "narrow": narrow, "w": w}
    return trained(pandas.DataFrame(table), 150)


def shares_of(column: str, n: int, **values: list[float]) -> Tensor:
    """The shares of the values 0, 1 and 2 of a column among ``n`` draws of each row, (b, 3)."""
    run = classes()
    draws = run.impute(pandas.DataFrame(values), n, seed=0).draws[:, :, ["c", "x", "narrow", "w"].index(column)]
    return torch.stack([(draws == value).double().mean(0) for value in range(3)], 1)


def test_probabilities_are_those_that_draws_have() -> None:
    """Whatever the rows say in the column itself; other columns have none."""
    run = classes()
    rows = pandas.DataFrame({"x": [-1.0, NAN, 2.5], "c": ["a", None, "b"], "w": [NAN, 0.5, 1.0]}, index=[7, 5, 7])
    chances = run.probabilities(rows, "c")
    assert chances.columns.tolist() == ["a", "b", "c"]
    assert chances.index.equals(rows.index)
    assert chances.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-6)
    drawn = run.impute(rows.assign(c=None), 4000, seed=0).draws[:, :, 0]
    shares = np.stack([(drawn == value).double().mean(0).numpy() for value in range(3)], 1)
    assert chances.to_numpy() == pytest.approx(shares, abs=4 * math.sqrt(0.25 / 4000))
    assert run.probabilities(rows, "narrow").columns.tolist() == [False, True]
    numbers = np.array([[NAN, -1.0, NAN, NAN]])
    assert run.probabilities(numbers, "c").tolist()[0] == pytest.approx(chances.iloc[0].tolist(), abs=1e-6)
    for column in ("x", "y"):
        with pytest.raises(ValueError, match="c, narrow"):
            run.probabilities(rows, column)


def test_a_category_has_its_probability_given_a_number() -> None:
    """Bayes' rule, within 0.06 and two standard errors; and after few steps already what no linear discriminant tells.

    That would find narrow and wide equally likely everywhere.
    """
    x, w = torch.tensor([-1.0, 1.0, 2.5, 4.0]).double(), torch.tensor([0.0, 0.5, 1.0, 3.0]).double()
    exact = (CHANCES.log() - (x[:, None] - 1.5 * torch.arange(3)) ** 2 / 2).softmax(1)
    assert float((shares_of("c", 1000, x=x.tolist()) - exact).abs().max()) < 0.06 + 0.03
    logs = [Normal(0, std).log_prob(w) for std in (2.0, 0.4)]  # type: ignore[no-untyped-call]
    narrow = torch.stack(logs, 1).softmax(1)[:, 1]
    errors = (shares_of("narrow", 1000, w=w.tolist())[:, 1] - narrow).abs()
    assert float(errors.mean()) < 0.5 * float((0.5 - narrow).abs().mean())


def test_a_wide_table_with_gaps_knows_its_categories_from_the_first_step() -> None:
    """A category that says whether a factor behind twenty numbers with gaps is positive; the sum of numbers says it."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal(1000)
    numbers = factor[:, None] + rng.standard_normal((1000, 20))
    numbers[rng.random(numbers.shape) < 0.1] = NAN
    table = pandas.DataFrame(numbers).add_prefix("x").assign(sign=np.where(factor > 0, "up", "down"))
    hidden = table[800:].assign(sign=pandas.NA)
    filled = trained(table[:800], 1).impute(hidden, 10, seed=0)
    assert isinstance(filled, ImputedTable)
    guessed = np.where(np.nansum(numbers[800:], 1) > 0, "up", "down")
    truth = table.sign[800:]
    assert (filled.frame().sign == truth).mean() > (guessed == truth).mean() - 0.05


def test_gaps_that_follow_gaps_are_as_frequent_in_samples() -> None:
    """A cell that is missing in 5 % of rows where another one is there, and in 85 % where that is missing."""
    rng, n = np.random.default_rng(0), 3000
    x = rng.standard_normal(n)
    y = x + rng.standard_normal(n)
    lacks_y = rng.random(n) < 0.3
    lacks_z = rng.random(n) < np.where(lacks_y, 0.85, 0.05)
    z = y + rng.standard_normal(n)
    table = pandas.DataFrame({"x": x, "y": np.where(lacks_y, NAN, y), "z": np.where(lacks_z, NAN, z)})
    samples = trained(table, 400).sample(3000, seed=0)
    shares, expected = (rows.z.isna().groupby(rows.y.isna()).mean() for rows in (samples, table))
    assert shares[False] == pytest.approx(expected[False], abs=0.03)
    assert shares[True] == pytest.approx(expected[True], abs=0.06)


@cache
def learned() -> TableRun:
    """Of a correlated pair, a and b, and of y = x² with noise."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1500, 4, generator=g)
    a, b, x = z[:, 0], 0.9 * z[:, 0] + (1 - 0.81) ** 0.5 * z[:, 1], z[:, 2]
    rows = torch.stack([10 * a, b, x, x**2 + 0.2 * z[:, 3]], 1)
    return trained(rows, 300, TrainSettings(channels=(64,), blocks=1, batch_size=128))


def drawn(rows: list[list[float]], n: int) -> Tensor:
    """Draws of each row, (n, b, 4)."""
    return learned().impute(torch.tensor(rows), n).draws


def test_a_conditional_mean_is_the_parabola_not_a_line() -> None:
    """The best line is flat: y = 1, with a standard deviation of √2."""
    places = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    y = drawn([[NAN, NAN, x, NAN] for x in places], 200)[:, :, 3]
    truth = torch.tensor(places).double() ** 2
    error, line = (y.mean(0) - truth).square().mean(), (1 - truth).square().mean()
    assert float(error) < 0.1 * float(line)
    assert float(y.std(0).mean()) < 0.7 < 2**0.5


def test_a_conditional_has_both_modes() -> None:
    x = drawn([[NAN, NAN, NAN, 2.0]], 400)[:, 0, 2]
    assert float((x > 0).double().mean()) == pytest.approx(0.5, abs=0.12)
    assert float(x.abs().mean()) == pytest.approx(2**0.5, abs=0.12)
    assert float((x.abs() - 2**0.5).abs().quantile(0.9)) < 0.65


def test_a_gaussian_pair_has_its_conditionals_in_the_units_of_the_data() -> None:
    rows = drawn([[15.0, NAN, NAN, NAN], [NAN, -1.0, 0.3, NAN]], 400)
    assert float(rows[:, 0, 1].mean()) == pytest.approx(0.9 * 1.5, abs=0.12)
    assert float(rows[:, 0, 1].std()) == pytest.approx((1 - 0.81) ** 0.5, rel=0.25)
    assert float(rows[:, 1, 0].mean()) == pytest.approx(-9, abs=1.5)
    assert float(rows[:, 1, 0].std()) == pytest.approx(10 * (1 - 0.81) ** 0.5, rel=0.25)
    assert torch.equal(rows[:, 1, 1], torch.full((400,), -1.0).double())


# The Gaussian that a training starts around.

COVARIANCE = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.0], [0.2, 0.0, 1.0]]).double()
GAPS = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()


def gaussian(n: int, seed: int, covariance: Tensor = COVARIANCE) -> Tensor:
    rows: Tensor = draw(n, len(covariance), seed=seed) @ torch.linalg.cholesky(covariance).T
    return rows


def fit_gaussian(train: Tensor, held_out: Tensor) -> Gaussian:
    """What a training on these numbers starts around; NaN is missing."""
    columns = Columns(columns=tuple(Number(name=str(i), shift=0.0, scale=1.0) for i in range(train.shape[1])))
    held_out = held_out.float()
    data = replace(NINE, train=train.float(), validation=held_out, test=held_out, transform=columns)
    start = data.start("conditional")
    return Gaussian(*(torch.as_tensor(start[name]) for name in ("mean", "covariance")))


def log_density(gaussian: Gaussian, row: Tensor) -> Tensor:
    """That of what is known in a row."""
    known, (mean, covariance) = ~row.isnan(), gaussian
    if not known.any():
        return torch.zeros(()).double()
    normal = MultivariateNormal(mean[known].double(), covariance[known][:, known].double())
    log: Tensor = normal.log_prob(row[known].double())  # type: ignore[no-untyped-call]
    return log


def mean_log_density(gaussian: Gaussian, rows: Tensor) -> float:
    return float(torch.stack([log_density(gaussian, row) for row in rows]).mean())


def complete_row(gaussian: Gaussian, row: Tensor) -> tuple[Tensor, Tensor]:
    """A row with what is missing by regression on what is known, and the covariance of what is missing."""
    known, gap, whole, (mean, covariance) = ~row.isnan(), row.isnan(), row.clone(), gaussian
    spread = torch.zeros_like(covariance)
    if gap.any():
        regression = torch.linalg.solve(covariance[known][:, known], covariance[known][:, gap]).T
        whole[gap] = mean[gap] + regression @ (row[known] - mean[known])
        spread[gap.nonzero(), gap.nonzero().T] = covariance[gap][:, gap] - regression @ covariance[known][:, gap]
    return whole, spread


def em_step(gaussian: Gaussian, x: Tensor) -> Gaussian:
    """One of Dempster, Laird & Rubin, row by row; the covariance is shrunk by three rows."""
    rows, spreads = (torch.stack(part) for part in zip(*(complete_row(gaussian, row) for row in x), strict=True))
    off = rows - rows.mean(0)
    return Gaussian(rows.mean(0), (spreads.sum(0) + off.T @ off + 3 * torch.eye(x.shape[1])) / (len(x) + 3))


@pytest.mark.parametrize("gaps", [GAPS, GAPS[:1]], ids=["gaps", "complete"])
def test_a_training_starts_around_what_em_finds(gaps: Tensor) -> None:
    """From the moments of rows with zeros in their gaps, in twenty steps."""
    x = gaussian(24, 0).float().double().masked_fill(gaps.repeat(24 // len(gaps), 1), torch.nan)
    expected = em_step(Gaussian(torch.zeros(3).double(), torch.eye(3).double()), x.nan_to_num(0.0))
    for _ in range(20 if gaps.any() else 0):
        expected = em_step(expected, x)
    found = fit_gaussian(x, x)
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.covariance, expected.covariance)


def test_many_columns_have_the_moments_of_all_rows() -> None:
    """Although so many rows are read a few at a time."""
    x = draw(600, 200, seed=0).float().double() + torch.arange(200) / 50
    found, off = fit_gaussian(x, x[:9]), x - x.mean(0)
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.covariance, (off.T @ off + 3 * torch.eye(200)) / 603)


def test_a_column_that_is_missing_by_what_another_is_has_the_moments_of_all_rows() -> None:
    """Of the second column the larger half is missing mostly: what is known of it has another mean and correlation."""
    x, held_out = gaussian(2000, 1), gaussian(300, 2)
    for rows in (x, held_out):
        rows[rows[:, 0] > 0, 1] = torch.nan
    x[::5, 2] = torch.nan
    mean, covariance = fit_gaussian(x, held_out)
    assert x[:, 1].nanmean() < -0.6
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=0.12, rtol=0)
    torch.testing.assert_close(covariance, COVARIANCE, atol=0.15, rtol=0)


@pytest.mark.parametrize(("n", "most"), [(4000, 0.15), (150, 0.7)])
def test_a_wide_table_with_gaps_has_the_covariance_of_its_pairs(n: int, most: float) -> None:
    """Held-out rows lose at most this many nats a column against the truth; independent columns lose 1.2."""
    g, d = torch.Generator().manual_seed(0), 60
    stds = torch.logspace(-0.5, 0.5, d)
    factors = torch.randn(6, d, generator=g).double() * stds
    truth = Gaussian(5 * stds.double(), factors.T @ factors + 0.1 * stds.diag() ** 2)
    rows = truth.mean + torch.randn(n + 400, d, generator=g) @ torch.linalg.cholesky(truth.covariance).T.float()
    rows[torch.rand(rows.shape, generator=g) < 0.2] = torch.nan
    found = fit_gaussian(rows[:n], rows[n : n + 200])
    exact, ours, apart = (mean_log_density(m, rows[n + 200 :]) / d for m in (truth, found, independent(truth)))
    assert exact - apart > 1
    assert 0 < exact - ours < most, (exact - ours, exact - apart)


def test_the_covariance_of_a_wide_table_is_chosen_on_held_out_rows() -> None:
    """Of sixty independent columns by forty rows: on these themselves the least smooth one looks best."""
    x = draw(100, 60, seed=0).masked_fill(draw(100, 60, seed=1) < -0.8, NAN).float()
    train, held_out = x[:40], x[40:]
    chosen, overfitted = (fit_gaussian(train, judges) for judges in (held_out, train))
    gain = mean_log_density(chosen, held_out) - mean_log_density(overfitted, held_out)
    assert gain > 60, "a nat for each column"


def test_columns_of_wide_tables_are_independent() -> None:
    """Of more than 256, a covariance would take longer than the network."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, generator=g) * torch.linspace(1, 3, 257) + torch.randn(40, 257, generator=g) + 2
    x[torch.rand(40, 257, generator=g) < 0.2] = torch.nan
    assert float(fit_gaussian(x[:30, 1:], x[30:, 1:]).covariance[0, -1]) > 1
    found, known = fit_gaussian(x[:30], x[30:]), [column[~column.isnan()] for column in x[:30].T]
    torch.testing.assert_close(found.mean, torch.stack([column.mean() for column in known]))
    variances = torch.stack([column.var(correction=0) for column in known])
    torch.testing.assert_close(found.covariance, variances.diag())


def table(n: int = 2000, *, gaps: bool = True, seed: int = 0) -> pandas.DataFrame:
    """Numbers a, b and c, zero in a third of the rows, and a text; b has gaps anywhere, and c where the text is t."""
    rng = np.random.default_rng(seed)
    text, a = rng.choice([*"rst"], n, p=[0.5, 0.2, 0.3]), rng.standard_normal(n)
    b, c = a + rng.standard_normal(n), np.where(rng.random(n) < 1 / 3, 0.0, rng.standard_normal(n))
    if gaps:
        b, c = np.where(rng.random(n) < 0.2, np.nan, b), np.where(text == "t", np.nan, c)
    return pandas.DataFrame({"a": a, "text": text, "b": b, "c": c})


@cache
def begun(data: Dataset) -> ConditionalModel:
    """A model before its first step."""
    start = {name: torch.as_tensor(value) for name, value in data.start("conditional").items()}
    gaussian = Gaussian(start.pop("mean"), start.pop("covariance"))
    return built(gaussian, Waves(data.codes), **start)


def test_a_training_starts_around_the_moments_of_numbers_and_codes() -> None:
    """Numbers a, b and c; codes of the text, of b (there or missing) and of c (a number, zero or missing)."""
    data = dataset_of(table(1200))
    model = begun(data)
    assert model.counts == (3, 2, 3)
    assert (model.order.tolist(), model.indicator.tolist()) == ([0, 0, 1, 0, 0, 1], [-1, 1, 2])
    assert model.gaps.tolist() == [-1, 1, 2]
    codes = zip(data.train[:, 3:].T, (3, 2, 3), strict=True)
    hot = torch.cat([torch.nn.functional.one_hot(code.long(), n) for code, n in codes], 1).double()
    torch.testing.assert_close(model.log_shares.exp(), hot.mean(0).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.mean[3:], hot.mean(0).float(), atol=1e-4, rtol=0)
    whole = torch.cat([data.train[:, :1].double(), hot], 1)
    rows = [0, *range(3, 11)]
    torch.testing.assert_close(model.covariance[rows][:, rows], whole.T.cov().float(), atol=5e-3, rtol=0)
    assert float(torch.linalg.eigvalsh(model.covariance.double()).min()) > 0


# The order of columns.


def groups(**values: np.ndarray) -> list[int]:
    """The group of each column, in which it is drawn."""
    data = dataset_of(pandas.DataFrame(values))
    columns, order = columns_of(data), torch.as_tensor(data.start("conditional")["order"]).tolist()
    found = dict(zip([*columns.numbers, *columns.coded], order, strict=True))
    return [found[i] for i in range(len(values))]


def test_a_column_whose_gaps_depend_on_another_one_comes_later() -> None:
    rng, n = np.random.default_rng(0), 1000
    x, other, text = rng.standard_normal(n), rng.standard_normal(n), rng.choice([*"rst"], n)
    anywhere = rng.random(n) < 0.4
    by_value, by_square = (np.where(where, np.nan, other) for where in (x > 0.5, abs(x) > 1))
    assert groups(y=by_value, x=x) == [1, 0]
    assert groups(x=x, y=by_square) == [0, 1], "also where neither end has more gaps"
    assert groups(x=np.where(text == "r", np.nan, x), text=text) == [1, 0]
    assert groups(x=x, y=np.where(anywhere, np.nan, other)) == [0, 0], "missing anywhere"
    frequent = np.where(x < 0, np.nan, rng.choice([0.0, 1.0, 2.0], n))
    last = np.where(np.isnan(frequent) | (frequent == 1), np.nan, other)
    assert groups(last=last, frequent=frequent, x=x) == [2, 1, 0]
    by_text = np.where(text == "r", np.nan, other**2)
    shared = groups(c=np.where(x > 0.8, np.nan, other), d=by_text, x=x, text=text)[:2]
    assert shared == [1, 1], "columns with the same reason or another one share a group"
    y = x + rng.standard_normal(n) / 2
    z = np.where((y > 0.5) & (rng.random(n) < 0.7), np.nan, y + rng.standard_normal(n) / 2)
    y = np.where((x > 0) & (rng.random(n) < 0.9), np.nan, y)
    assert np.isnan(z).mean() < np.isnan(y).mean()
    assert groups(z=z, y=y, x=x) == [2, 1, 0], "a chain, though every gap is correlated with every column"


def test_columns_follow_a_chain_of_gaps_whichever_has_more_of_them() -> None:
    rng, n = np.random.default_rng(0), 2000
    x, first, second = rng.standard_normal((3, n))
    y = np.where(x > 0, np.nan, x + first)
    z = np.where(y > -1, np.nan, (x + first) / 2 + second)
    assert np.isnan(z).sum() < np.isnan(y).sum()
    assert groups(z=z, y=y, x=x) == [2, 1, 0]
    anywhere = np.where(rng.random(n) < 0.6, np.nan, first)
    assert groups(z=np.where(anywhere > 0, np.nan, second), y=anywhere, x=x) == [1, 0, 0]
    x, other = rng.standard_normal((2, 20_000))
    slightly = rng.random(len(x)) < 0.3 + 0.04 * np.sign(x)
    assert groups(x=x, y=np.where(slightly, np.nan, other)) == [0, 1], "in many rows"


def test_gaps_anywhere_are_seldom_taken_for_gaps_that_depend_on_something() -> None:
    """Of 40 tables with 30 chances each."""
    later = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = np.where(rng.random((500, 6)) < 0.3, np.nan, rng.standard_normal((500, 6)))
        later += sum(groups(**dict(zip("abcdef", x.T, strict=True)))) > 0
    assert later <= 2


# Masks.


def patterns_of(n: int) -> list[slice]:
    """The rows of a part of a batch with the same mask."""
    few = max(1, min(PATTERNS, n))
    which = (torch.arange(n) * few // max(1, n)).tolist()
    return [slice(which.index(i), which.index(i) + which.count(i)) for i in range(few)]


def columns_of(data: Dataset) -> Columns:
    assert isinstance(data.transform, Columns)
    return data.transform


Masking = Callable[[Iterator[Batch], torch.Generator], Iterator[Batch]]


def masking_of(data: Dataset, hidden: tuple[str, ...] = ()) -> Masking:
    return data.curriculum(begun(data), hidden).batches


def masked(masking: Masking, x: Tensor, seed: int) -> tuple[Tensor, Any, Any, Tensor]:
    """Clean numbers, the conditions that numbers and codes are learned from, and the codes to learn."""
    batch = next(masking(iter([Batch(x)]), torch.Generator().manual_seed(seed)))
    given: Any = batch.given
    return batch.x, given.numbers, given.codes, given.truth


MIXED = dataset_of(table())
WITHOUT_GAPS = dataset_of(table(gaps=False))


def test_what_is_known_in_a_mask_does_not_depend_on_what_is_missing_in_the_row() -> None:
    """All rows of a pattern have the same role for a cell that they have, which many patterns choose."""
    masking, model = masking_of(MIXED), begun(MIXED)
    roles, counts = [set[tuple[int, ...]]() for _ in range(3)], set[int]()
    for seed in range(10):
        x = MIXED.train[torch.randperm(MIXED.n, generator=torch.Generator().manual_seed(seed))]
        _, numbers, codes, truth = masked(masking, x, seed)
        first, known = len(numbers.target), truth.isnan()
        hot = torch.split(numbers.codes, list(model.counts), 1)
        shown = torch.stack([each.any(1) for each in hot], 1)
        for part in patterns_of(first):
            rows, role = x[:first][part], numbers.target[part].int() - numbers.observed[part].int()
            for i in range(3):
                there = ~rows[:, i].isnan()
                assert len(role[there, i].unique()) == 1
                assert not role[~there, i].any()
            assert bool((shown[part] == shown[part][0]).all())
            roles[0].add((*role[~rows[:, :3].isnan().any(1)][0].tolist(), *shown[part][0].tolist()))
        for part in patterns_of(len(truth)):
            assert bool((known[part] == known[part][0]).all())
            assert not codes.target[part].any()
            for i, owned in enumerate(codes.observed[part].T):
                there = ~x[first:][part][:, i].isnan()
                assert len(owned[there].unique()) == 1
                roles[1].add((i, int(owned[there][0])))
            assert torch.equal(codes.codes[part].any(1), known[part].any(1))
            assert not known[part][0].all()
            roles[2].add(tuple(known[part][0].tolist()))
            counts.add(int(codes.observed[part][0, 0]) + int(known[part][0].sum()))
    assert len(roles[0]) > 20
    assert len(roles[1]) == 6
    assert len(roles[2]) == 7, "every choice but all"
    assert counts == {0, 1, 2, 3}, "a category is learned given all other columns, too"


def test_codes_are_learned_with_the_probabilities_with_which_they_are_drawn() -> None:
    """The cross-entropy of unknown codes, a mean over all codes, also of one that only says what is missing."""
    model = begun(MIXED)
    curriculum = MIXED.curriculum(model, ())
    batch = next(curriculum.batches(iter([Batch(MIXED.train[:400])]), torch.Generator().manual_seed(0)))
    given: Any = batch.given

    def no_loss(_: object, numbers: Batch) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(numbers.x)), torch.ones(len(numbers.x))

    with torch.no_grad():
        losses, sigmas = curriculum.loss(no_loss)(model, batch)
    truth, codes = given.truth, given.codes
    exact = codes.noise[:, 0] == 0
    assert 0 < int(exact.sum()) < len(exact)
    hot = torch.split(codes.codes, list(model.counts), 1)
    values = [torch.where(indicators.any(1), indicators.argmax(1).float(), NAN) for indicators in hot]
    rows = torch.cat([torch.where(codes.observed, codes.values, NAN), torch.stack(values, 1)], 1)
    expected = torch.zeros(len(truth))
    for code, right in enumerate(truth.T):
        with torch.no_grad():
            chances = model.log_chances(rows, code, complete=False)
        log = chances.gather(1, right.nan_to_num(0.0).long()[:, None])[:, 0]
        expected -= torch.where(right.isnan(), 0.0, log) / len(truth.T)
    assert not losses[: -len(truth)].any()
    torch.testing.assert_close(losses[-len(truth) :][exact], expected[exact], atol=1e-4, rtol=1e-4)
    assert bool(sigmas[-len(truth) :].isnan().all())


def test_numbers_are_learned_given_all_codes_of_their_group() -> None:
    """Targets are cells of one group that exist, as their own code says.  In tables with gaps, codes may be dropped.

    Columns of later groups are mostly unknown, as they are when rows are drawn, but not always.
    """
    for data, gaps in ((WITHOUT_GAPS, False), (MIXED, True)):
        model, dropped, later = begun(data), [], []
        for seed in range(6):
            _, numbers, _, _ = masked(masking_of(data), data.train, seed)
            x = data.train[: len(numbers.target)]
            assert not (numbers.target & x[:, :3].isnan()).any()
            hot = torch.stack([each.any(1) for each in torch.split(numbers.codes, list(model.counts), 1)], 1)
            right = torch.stack([each.argmax(1) for each in torch.split(numbers.codes, list(model.counts), 1)], 1)
            assert torch.equal(right[hot].float(), x[:, 3:][hot])
            for i, code in enumerate(model.indicator.tolist()):
                assert code < 0 or bool(hot[numbers.target[:, i], code].all())
            order = model.order[:3].expand(len(x), 3)
            group = torch.where(numbers.target, order, -1).amax(1)
            assert bool((numbers.target <= (order == group[:, None])).all())
            of_group = model.order[3:] <= group[:, None]
            dropped.append(float((~hot & of_group).any(1).float().mean()))
            later.append(hot[~of_group & numbers.target.any(1, keepdim=True)].float())
        assert (max(dropped) > 0) == gaps
        assert min(dropped) < 0.9
        assert not gaps or 0.05 < float(torch.cat(later).mean()) < 0.4


def test_only_observed_numbers_have_noise() -> None:
    """And in training only, so that held-out losses can be compared."""
    x = MIXED.train.repeat(5, 1)
    clean, numbers, _, truth = masked(masking_of(MIXED), x, 1)
    first = len(numbers.target)
    x, clean, rest = x[:first, :3], clean[:first], clean[first:]
    assert torch.equal(clean[numbers.target], x[numbers.target])
    assert torch.equal(clean[numbers.observed], numbers.values[numbers.observed])
    assert not (numbers.target & numbers.observed).any()
    assert not clean[~(numbers.target | numbers.observed)].any()
    assert bool(rest.isfinite().all())
    assert len(rest) == len(truth)
    off, noise = (clean - x)[numbers.observed], numbers.noise.expand(x.shape)[numbers.observed]
    assert not off[noise == 0].any()
    assert not numbers.noise[~numbers.observed.any(1)].any()
    z, levels = (off / noise)[noise > 0], torch.unique(numbers.noise[numbers.observed.any(1)])
    assert 0 in levels, "some patterns are exact"
    assert len(levels) > 3
    assert float(z.mean()) == pytest.approx(0, abs=4 / len(z) ** 0.5)
    assert float(z.std()) == pytest.approx(1, abs=4 / (2 * len(z)) ** 0.5)
    (batch,) = MIXED.curriculum(begun(MIXED), ()).held_out(Batch(MIXED.validation))(torch.Generator())
    held_out: Any = batch.given
    assert not held_out.numbers.noise.any()
    shown = batch.x[: len(held_out.numbers.target)][held_out.numbers.observed]
    assert bool(torch.isin(shown, MIXED.validation[:, :3]).all())


NINE = dataset_of(draw(500, 9, seed=1).numpy())


def test_from_one_to_all_but_one_column_are_observed_in_a_pattern_of_many_rows() -> None:
    """But for five patterns of sixteen, in which nothing is."""
    counts, columns, loudest, different = set[int](), torch.zeros(9), 0.0, 0
    for seed in range(20):
        _, numbers, codes, _ = masked(masking_of(NINE), NINE.train[:320], seed)
        assert codes is None
        signs = torch.cat([numbers.observed.float(), numbers.noise], 1)
        assert not signs[:100].any()
        signs = signs[100:]
        counts |= set(signs[:, :9].sum(1).int().tolist())
        columns += signs[:, :9].mean(0) / 20
        loudest = max(loudest, float(signs[:, 9:].max()))
        assert len(torch.unique(signs, dim=0)) <= 11
        different += len(torch.unique(signs, dim=0))
    assert different > 20 * 10.5
    assert counts == set(range(1, 9))
    assert loudest == 3.0
    assert float((columns - 0.5).abs().max()) < 0.15, "all alike"


@pytest.mark.parametrize(("rows", "share"), [(100, 0.6), (1000, 0.6), (6000, 0.1), (60_000, 0.01)])
def test_values_of_small_tables_are_mostly_noisy(rows: int, share: float) -> None:
    """The joint density is learned from three rows of ten."""
    data = replace(NINE, train=NINE.train.repeat(rows // len(NINE.train) + 1, 1)[:rows])
    masking, levels = data.curriculum(begun(NINE), ()).batches, []
    for seed in range(50):
        _, numbers, _, _ = masked(masking, NINE.train[:160], seed)
        conditional = numbers.observed.any(1)
        assert float((~conditional).double().mean()) == pytest.approx(0.3, abs=0.04)
        levels.append(numbers.noise[conditional] > 0)
    error = math.sqrt(share * (1 - share) / (50 * PATTERNS * 0.7))
    assert float(torch.cat(levels).double().mean()) == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize(
    ("data", "hidden", "shown"),
    [
        (WITHOUT_GAPS, ("b", "text"), [1.0, 0.0, 1.0]),
        (MIXED, ("b", "text"), [1.0, 0.0, 1.0]),
        (MIXED, ("c",), [1.0, 1.0, 0.0]),
    ],
)
def test_three_quarters_of_the_patterns_hide_the_columns_that_the_user_wants_hidden(
    data: Dataset, hidden: tuple[str, ...], shown: list[float]
) -> None:
    """Numbers are learned given the text and all other columns, and the text given only the others."""
    columns, masking = columns_of(data), masking_of(data, hidden)
    complete = data.train[~data.train[:, :3].isnan().any(1)][:320]
    wanted, codes_hidden, n = [False, True, False] if "b" in hidden else [False, False, True], 0, 0
    exactly, own = list[bool](), torch.tensor([columns.names[i] in hidden for i in columns.coded])
    for seed in range(40):
        _, numbers, _, truth = masked(masking, complete, seed)
        for part in patterns_of(len(numbers.target)):
            exactly.append(numbers.target[part][0].tolist() == wanted and numbers.observed[part][0].tolist() == shown)
        for part in patterns_of(len(truth)):
            codes_hidden += int(torch.equal(truth[part][0].isnan(), ~own))
            n += 1
    groups = len(set(begun(data).order[:3].tolist()))
    assert np.mean(exactly) > 0.75 / groups - 4 * math.sqrt(0.19 / len(exactly))
    assert np.mean(exactly) < 0.75 / groups + 0.2
    assert codes_hidden / n > 0.75 - 4 * math.sqrt(0.19 / n)


@pytest.mark.parametrize(
    ("hidden", "share"), [((), 1 / 3), (("b",), 1 / 12), (("text",), 5 / 6), (("b", "text"), 1 / 3)]
)
def test_rows_teach_codes_if_these_are_hidden(hidden: tuple[str, ...], share: float) -> None:
    """Three quarters of a batch are for the hidden columns, and a quarter is divided as without them."""
    x = WITHOUT_GAPS.train[:1200]
    _, _, _, truth = masked(masking_of(WITHOUT_GAPS, hidden), x, 0)
    assert len(truth) / len(x) == pytest.approx(share)


def test_what_is_hidden_in_training_is_known_more_precisely() -> None:
    """A parameter that is far narrower given five measurements than before."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(-1, 1, (2200, 2))
    slopes = rng.standard_normal((2, 5))
    x = np.sin(3 * theta @ slopes) + 0.02 * rng.standard_normal((2200, 5))
    rows = np.concatenate([theta, x], 1)
    test = rows[2000:].copy()
    test[:, :2] = np.nan
    errors = []
    for hidden in ((), ("0", "1")):
        run = trained(rows[:2000], 300, replace(SMALL, hidden=hidden))
        assert run.settings["hidden"] == hidden
        mean = run.impute(test, 10).draws.mean(0)[:, :2].numpy()
        errors.append(np.square(mean - rows[2000:, :2]).mean())
    assert errors[1] < 0.8 * errors[0]


def test_only_columns_of_a_table_can_be_hidden() -> None:
    for data, listed in ((NINE.train, "the columns are 0, 1, 2"), (torch.rand(40, 1, 8, 8), "images have no")):
        with pytest.raises(ValueError, match=rf"^hidden names x; {listed}"):
            ncsn.fit(data, hidden=("0", "x") if data.ndim == 2 else ("x",), steps=1, quiet=True)
    with pytest.raises(ValueError, match="hidden doesn't apply to a network of your own"):
        ncsn.fit(NINE.train, network=ncsn.MLP(9, 8, 1), hidden=("0",), steps=1, quiet=True)


@pytest.mark.parametrize(("n", "d"), [(50, 1), (1, 1), (1, 3), (2, 2)])
def test_of_one_column_everything_is_a_target_and_few_rows_are_enough(n: int, d: int) -> None:
    data = dataset_of(draw(100, d, seed=1).numpy())
    x, numbers, _, _ = masked(masking_of(data), data.train[:n], 0)
    assert bool((numbers.target | numbers.observed).all())
    assert bool(numbers.observed.any()) == (d > 1)
    assert d > 1 or torch.equal(x, data.train[:n])


def test_a_row_with_gaps_of_a_wide_table_is_in_a_batch_several_times(generator: torch.Generator) -> None:
    """Of the rows that numbers are learned from: the targets of each copy are those of its own pattern."""
    for d, often in ((8, 1), (16, 3), (64, 6)):
        x = draw(200, d, seed=1).numpy()
        x[np.random.default_rng(0).random((200, d)) < 0.3] = np.nan
        data = dataset_of(x)
        batch = next(masking_of(data)(iter([Batch(data.train[:48])]), generator))
        given: Any = batch.given
        first = len(given.numbers.target)
        assert first + len(given.truth) == 48 // often
        assert len(batch.x) == often * first + len(given.truth)
        assert len(torch.unique(batch.x[: often * first], dim=0)) == first
        each = given.numbers.target.repeat_interleave(often, 0)
        assert bool((batch.x[: often * first][each] != 0).all())


# Training with gaps.

RNG = np.random.default_rng(3)
WHOLE = RNG.multivariate_normal([0, 0], [[1, 0.9], [0.9, 1]], 1000)
GAPPY = np.where(np.stack([np.zeros(1000, bool), RNG.random(1000) < 0.4], 1), np.nan, WHOLE)


def test_what_is_learned_is_nearer_to_the_truth_than_with_means_filled_in() -> None:
    """The correlation is 0.9, and with means 0.9 √0.6."""
    settings, rows = TrainSettings(channels=(32,), blocks=1, batch_size=128), 30 * GAPPY - 200
    data = dataset_of(rows)
    before = data.train.clone()

    def correlation(rows: object) -> float:
        return float(trained(rows, 100, settings).sample(2000, seed=0, complete=True).T.corrcoef()[0, 1])

    assert correlation(np.where(np.isnan(rows), np.nanmean(rows, 0), rows) + 1e-3 * WHOLE) < 0.75
    assert correlation(data) > 0.85
    assert torch.equal(data.train.nan_to_num(1e3), before.nan_to_num(1e3)), "the user's dataset stays as it is"


def test_a_column_that_no_held_out_row_has_leaves_losses_finite(here: Path) -> None:
    """Two questionnaires: rows have the third column, or the fourth and the fifth."""
    x = np.random.default_rng(0).standard_normal((300, 5))
    x[:100, 3:] = x[100:, 2] = np.nan
    np.save("x.npy", x)
    command("train x.npy --channels 8 --blocks 1 --steps 3 --samples 3 --out run")
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert row["parts"].keys() == {"joint", "conditionals", "codes"}
        assert np.isfinite([row["loss"], row["validation_loss"], *row["parts"].values()]).all()
    run = load_table("run")
    samples = run.sample(200, seed=0)
    assert bool(samples[:, :2].isfinite().all())
    assert bool(run.sample(20, complete=True).isfinite().all())
    assert torch.equal(samples[:, 3].isnan(), samples[:, 4].isnan())
