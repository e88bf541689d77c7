"""A score in one line: units, held-out examples, and what is said."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import unchecked
from torch import Tensor

import ncsn
from ncsn.data.pixels import centres
from ncsn.distributions import Empirical
from ncsn.learn.best import Best
from ncsn.learn.fitting import default_objective, split
from ncsn.noise import Proposal
from ncsn.objectives import dsm, posterior_dsm
from ncsn.units import Units


def table(n: int, seed: int = 0) -> Tensor:
    """Three columns in very different units: the second follows the first, the third is alone."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    return torch.tensor([1500.0, 0.4, -7.0]) + torch.tensor([1200.0, 0.02, 30.0]) * z


def test_points_come_back_in_their_units_with_their_correlations(capsys: pytest.CaptureFixture[str]) -> None:
    x = table(4000)
    run = ncsn.fit(x, steps=250)
    assert "held-out loss" in capsys.readouterr().err
    samples = run.sample(2000)
    scale = x.std(0)
    assert float(((samples.mean(0) - x.mean(0)) / scale).abs().max()) < 0.15
    torch.testing.assert_close(samples.std(0) / scale, torch.ones(3), atol=0.12, rtol=0)
    torch.testing.assert_close(torch.corrcoef(samples.T), torch.corrcoef(x.T), atol=0.1, rtol=0)
    fresh = table(300, seed=1)
    covariance = torch.cov(x.T.double())
    normal = torch.distributions.MultivariateNormal(x.double().mean(0), covariance)
    truth = normal.log_prob(fresh.double())  # type: ignore[no-untyped-call]
    assert float((run.log_prob(fresh, tolerance=0.01) - truth).mean()) == pytest.approx(0, abs=0.15)


def test_a_missing_column_is_imputed_in_its_units() -> None:
    run = ncsn.fit(table(4000), steps=250)
    rows = table(40, seed=2)
    known = torch.tensor([True, False, True])
    noise = torch.tensor([1.0, 0.03])  # far below a standard deviation of 1,200, or of 30
    answers = run.posterior(lambda x: x[:, known], rows[:, known], noise_std=noise, solver_steps=5).sample(40)
    assert bool(answers.isfinite().all())
    torch.testing.assert_close(answers[:, known], rows[:, known], atol=5.0, rtol=0.02)
    expected = 0.4 + 0.02 * 0.8 * (rows[:, 0] - 1500) / 1200
    error = (answers[:, 1] - expected) / (0.02 * 0.6)
    assert abs(float(error.mean())) < 0.7
    assert 0.5 < float(error.std()) < 1.5


@pytest.mark.slow
def test_with_few_rows_the_average_is_kept_that_held_out_rows_prefer(capsys: pytest.CaptureFixture[str]) -> None:
    """A training that only falls in its own loss ends with the rows by heart; what is kept knows better."""
    generator = torch.Generator().manual_seed(0)
    x, fresh = torch.randn(60, 6, generator=generator), torch.randn(200, 6, generator=generator)
    with pytest.warns(UserWarning, match="60 examples are few"):
        run = ncsn.fit(x, steps=900)
    said = capsys.readouterr().err
    assert "then it rose to" in said
    assert "60 examples are too few for more training" in said
    truth = -fresh.square().sum(1) / 2 - 3 * math.log(2 * math.pi)
    assert float((truth - run.log_prob(fresh, tolerance=0.01)).mean()) < 3  # nats; by heart it would be a hundred


def test_a_verdict_is_drawn_from_held_out_losses() -> None:
    best = Best.__new__(Best)
    best.steps = list(range(10, 110, 10))
    cases = {
        "it is still falling: more training would help": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3],
        "it falls no more": [1.0, 0.5, 0.4, 0.35, 0.331, 0.33, 0.33, 0.33, 0.33, 0.33],
        "then it rose to 0.9000: 77 examples are too few": [1.0, 0.5, 0.4, 0.5, 0.6, 0.7, 0.7, 0.8, 0.8, 0.9],
    }
    for said, losses in cases.items():
        best.losses, best.at = losses, losses.index(min(losses))
        assert said in best.verdict(77)
    assert "held-out loss 0.4000, at step 30" in best.verdict(77)


def test_a_tenth_is_held_out_and_what_remains_sets_the_units() -> None:
    x = table(1000)
    parts = split(x, None, torch.Generator().manual_seed(0))
    assert (len(parts.train), len(parts.held_out)) == (900, 100)
    torch.testing.assert_close(parts.train.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.train.std(0), torch.ones(3), atol=1e-4, rtol=0)
    assert parts.units is not None
    whole = parts.units.restore(torch.cat([parts.train, parts.held_out]))
    torch.testing.assert_close(whole.sort(0).values, x.sort(0).values, rtol=1e-4, atol=1e-3)


def test_every_image_keeps_its_class_and_the_training_set_is_asked_at_high_noise(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """Class k is grey of brightness 20·k; on the low levels the target is the noise that was added."""
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: False)
    labels = torch.arange(1000) % 7
    images = (20 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    parts = split(images, labels, generator)
    assert parts.labels is not None
    assert torch.equal(parts.labels * 20, parts.train[:, 0, 0, 0])
    assert (len(parts.train), len(parts.held_out)) == (900, 100)
    assert parts.facts is not None
    above = parts.facts.averaging
    sigma, label = above * torch.tensor([0.1, 0.99, 1.01, 1.2, 5.0]), torch.tensor([-1, -1, 2, 6, -1])
    x, noise = centres(images[:5]), ncsn.LogUniform(5.0, 0.01)
    truth = Empirical(centres(parts.train), parts.labels)

    def silent(noisy: Tensor, level: Tensor, asked: Tensor) -> Tensor:
        return torch.zeros_like(noisy)

    wide = ncsn.UNet(1, (64,))
    losses, expected = (
        objective(silent, x, sigma, label=label, generator=torch.Generator().manual_seed(0))
        for objective in (
            default_objective(parts, wide, noise),
            partial(posterior_dsm, data_score=truth, above=above),
        )
    )
    torch.testing.assert_close(losses, expected)
    assert default_objective(parts, ncsn.UNet(1, (1,), 1, 1), noise) is dsm, "where it takes longer than the network"
    assert default_objective(split(table(1000), None, generator), ncsn.MLP(3), noise) is dsm


@pytest.mark.parametrize(("given", "seconds"), [({"minutes": 2.5}, 150.0), ({}, 60.0)])
def test_minutes_have_sixty_seconds(given: dict[str, float], seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        """What ends a training before it begins."""

    def train(*_: object, budget: ncsn.Budget) -> None:
        assert budget == ncsn.Budget(seconds=seconds)
        raise StopError

    monkeypatch.setattr("ncsn.learn.fitting.train", train)
    with pytest.raises(StopError):
        ncsn.fit(table(1000), minutes=given.get("minutes"))


@pytest.mark.filterwarnings("ignore:.*examples are few")
def test_images_are_fitted_with_their_classes(tmp_path: Path, generator: torch.Generator) -> None:
    pixels = torch.randint(256, (40, 1, 8, 8), generator=generator, dtype=torch.uint8)
    run = ncsn.fit(pixels.numpy(), steps=3, labels=torch.arange(40) % 4)
    assert run.recipe.classes == 4
    assert run.sample(2, label=3, levels=4).shape == (2, 1, 8, 8)
    run.save(tmp_path / "images")
    again = ncsn.load(tmp_path / "images")
    assert torch.equal(again.sample(2, levels=4), run.sample(2, levels=4))
    assert ncsn.fit(pixels.float() / 255, steps=2).sample(2, levels=4).isfinite().all()


@pytest.mark.parametrize("noise", [ncsn.LogUniform(5.0, 0.1), ncsn.LogNormal(-1.0, 1.0, 5.0, 0.1)])
def test_samples_descend_where_the_noise_was_that_is_given(noise: Proposal) -> None:
    sampling = ncsn.fit(table(1000), steps=1, noise=noise).recipe.sampling
    assert (sampling.sigma_max, sampling.sigma_min, sampling.eps) == (5.0, 0.1, 0.1**2 / 2)


def test_ones_own_network_is_never_taken_for_the_packages_of_that_name(tmp_path: Path) -> None:
    run = ncsn.fit(table(1000), steps=1, network=ncsn.MLP(3, width=8))
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"OwnMLP is no network of this package .*give network=OwnMLP\(\.\.\.\)"):
        ncsn.load(tmp_path / "run")
    again = ncsn.load(tmp_path / "run", network=ncsn.MLP(3, width=8))
    assert torch.equal(again.sample(2, levels=4), run.sample(2, levels=4))


def test_units_are_those_of_every_column() -> None:
    units = Units.of(table(500))
    x = table(3, seed=4)
    torch.testing.assert_close(units.restore(units.standardise(x)), x)
    assert units.log_volume(torch.Size([3])) == pytest.approx(float(units.scale.log().sum()))
    with pytest.raises(ValueError, match="column 1 is constant"):
        Units.of(torch.cat([table(50)[:, :1], torch.full((50, 1), 0.1)], 1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(20), r"data has shape \(20,\); points \(n, d\) or images"),
        (torch.randn(5, 2), "data holds 5 examples; at least 10"),
        (torch.full((20, 2), float("nan")), "data has 40 numbers that are NaN or infinite"),
        (np.full((20, 1, 8, 8), 300.0), "pixels from 300 to 300; bytes, or numbers from 0 to 1"),
    ],
)
def test_data_without_a_density_is_refused(data: "Tensor | np.ndarray", message: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        ncsn.fit(data, steps=1)


def test_classes_are_for_images_and_budgets_for_time_or_steps() -> None:
    with pytest.raises(ValueError, match="labels are given for points"):
        ncsn.fit(table(20), steps=1, labels=torch.zeros(20, dtype=torch.long))
    with pytest.raises(ValueError, match="minutes is 1 and steps is 1; at most one"):
        ncsn.fit(table(20), steps=1, minutes=1)
    with pytest.raises(ValueError, match="sampler is hmc"):
        ncsn.fit(table(2000), steps=1, sampler="hmc")
