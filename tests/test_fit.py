"""A run in one line: of points in their units, of images as the command makes it, and the average that is left."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import unchecked
from learning import pictures, tiny, unlearned
from safetensors.torch import load_file
from torch import Tensor

import ncsn
from ncsn.data.pixels import centres
from ncsn.learn import fit as maker
from ncsn.learn import rules
from ncsn.learn.fit import Lesson, learn
from ncsn.learn.record import Record
from ncsn.noise import Proposal
from ncsn.objectives import Batch, dsm, posterior_dsm
from ncsn.training import Budget, Progress, State


def table(n: int, seed: int = 0) -> Tensor:
    """Three columns in very different units: the second follows the first, the third is alone."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    return torch.tensor([1500.0, 0.4, -7.0]) + torch.tensor([1200.0, 0.02, 30.0]) * z


@pytest.fixture(scope="module")
def fitted() -> ncsn.Run:
    return ncsn.fit(table(4000), steps=250)


def test_points_come_back_in_their_units_with_their_correlations(fitted: ncsn.Run) -> None:
    x, samples = table(4000), fitted.sample(2000)
    scale = x.std(0)
    assert float(((samples.mean(0) - x.mean(0)) / scale).abs().max()) < 0.15
    torch.testing.assert_close(samples.std(0) / scale, torch.ones(3), atol=0.12, rtol=0)
    torch.testing.assert_close(torch.corrcoef(samples.T), torch.corrcoef(x.T), atol=0.1, rtol=0)
    fresh = table(300, seed=1)
    normal = torch.distributions.MultivariateNormal(x.double().mean(0), torch.cov(x.T.double()))
    truth = normal.log_prob(fresh.double())  # type: ignore[no-untyped-call]
    assert float((fitted.log_prob(fresh, tolerance=0.01) - truth).mean()) == pytest.approx(0, abs=0.15)


def test_a_missing_column_is_imputed_in_its_units(fitted: ncsn.Run) -> None:
    rows = table(40, seed=2)
    known = torch.tensor([True, False, True])
    noise = torch.tensor([1.0, 0.03])  # far below a standard deviation of 1,200, or of 30
    answers = fitted.posterior(lambda x: x[:, known], rows[:, known], noise_std=noise, solver_steps=5).sample(40)
    torch.testing.assert_close(answers[:, known], rows[:, known], atol=5.0, rtol=0.02)
    expected = 0.4 + 0.02 * 0.8 * (rows[:, 0] - 1500) / 1200
    error = (answers[:, 1] - expected) / (0.02 * 0.6)
    assert abs(float(error.mean())) < 0.7
    assert 0.5 < float(error.std()) < 1.5


def test_large_numbers_of_small_spread_keep_their_digits(tmp_path: Path) -> None:
    """In single precision numbers around 1.7·10⁹ are multiples of 128."""
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.tensor([1.7e9, 2.4e6]) + torch.tensor([150.0, 3.0]) * z
    run = ncsn.fit(x, steps=30)
    run.save(tmp_path / "run")
    samples = ncsn.load(tmp_path / "run").sample(300)
    assert torch.equal(samples, run.sample(300))
    assert len(set(samples[:, 0].tolist())) == 300
    assert bool(((samples - x.mean(0)).abs() < 6 * x.std(0)).all())
    torch.testing.assert_close(samples.std(0) / x.std(0), torch.ones(2).double(), atol=0.3, rtol=0)


@pytest.mark.slow
def test_with_few_rows_the_average_is_kept_that_held_out_rows_prefer(capsys: pytest.CaptureFixture[str]) -> None:
    """A training that only falls in its own loss ends with the rows by heart; what is kept knows better."""
    generator = torch.Generator().manual_seed(0)
    x, fresh = torch.randn(60, 6, generator=generator), torch.randn(200, 6, generator=generator)
    with pytest.warns(UserWarning, match="60 examples are few"):
        run = ncsn.fit(x, steps=900)
    assert "60 examples are too few for more training" in capsys.readouterr().err
    truth = -fresh.square().sum(1) / 2 - 3 * math.log(2 * math.pi)
    assert float((truth - run.log_prob(fresh, tolerance=0.01)).mean()) < 3  # nats; by heart it would be a hundred


class Frame:
    """What numpy can make an array of, as of a table of another library's."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.x.numpy().astype(dtype or np.float32)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "an array": lambda x: x.numpy(),
    "backwards twice": lambda x: x.flip(0).numpy()[::-1],
    "a frame": Frame,
    "with gradients": lambda x: x.clone().requires_grad_(),
}


def test_data_may_come_in_any_form_and_within_no_grad_and_the_users_random_numbers_stay() -> None:
    x = table(1000)
    torch.manual_seed(3)
    plain = ncsn.fit(x, steps=3, seed=7).model.state_dict()
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
    for form, made in FORMS.items():
        with unchecked(), torch.no_grad():
            other = ncsn.fit(made(x), steps=3, seed=7).model.state_dict()
        assert all(torch.equal(weight, other[name]) for name, weight in plain.items()), form
    assert not torch.equal(
        ncsn.fit(x, steps=3).model.state_dict()["network.hidden.0.weight"], plain["network.hidden.0.weight"]
    )


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (torch.zeros(20), {}, r"data has shape \(20,\); points \(n, d\) or images"),
        (torch.zeros(20, 8, 8, 3, 1), {}, r"data has shape \(20, 8, 8, 3, 1\)"),
        (pictures().train, {"labels": [0, 1]}, r"labels has shape \(2,\) for 300 images"),
        (torch.randn(5, 2), {}, "data holds 5 examples; at least 10"),
        (torch.full((20, 2), math.nan), {}, "data has 40 numbers that are NaN or infinite"),
        (np.ones((20, 2), np.complex64), {}, "complex"),
        (np.full((20, 1, 8, 8), 300.0), {}, "pixels from 300 to 300; bytes, or numbers from 0 to 1"),
        (torch.full((20, 1, 8, 8), 7, dtype=torch.uint8), {}, "all training images are the same"),
        (torch.tensor([[1.0, 0.1]]).repeat(2000, 1), {}, "column 0, 1 is constant"),
        (table(1000), {"labels": torch.zeros(1000).long()}, "labels"),
        (table(1000), {"minutes": 1}, "minutes is 1 and steps is 1; at most one"),
        (table(1000), {"sampler": "hmc"}, "sampler is hmc"),
    ],
)
def test_what_cannot_be_learned_is_refused(data: Any, given: dict[str, Any], message: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        ncsn.fit(data, steps=1, **given)


@pytest.mark.parametrize("noise", [ncsn.LogUniform(5.0, 0.1), ncsn.LogNormal(-1.0, 1.0, 5.0, 0.1)])
@pytest.mark.parametrize("data", [table(1000), pictures()])
def test_samples_descend_where_the_noise_was_that_is_given(
    noise: Proposal, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unlearned(monkeypatch, data, noise=noise, steps=1).run
    assert run is not None
    sampling = run.recipe.sampling
    assert (sampling.sigma_max, sampling.sigma_min) == (5.0, 0.1)
    assert sampling.eps == pytest.approx(0.1**2 / 2)


def test_minutes_have_sixty_seconds_and_one_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(data: Any, **given: Any) -> float | None:
        return unlearned(monkeypatch, data, **given).budgets[-1].seconds

    assert seconds(table(1000), minutes=2.5) == 150
    assert seconds(table(1000)) == 60
    assert 50 < (seconds(pictures()) or 0) <= 60
    lessons = unlearned(monkeypatch, pictures(labels=False), tiny(steps=101))
    assert lessons.budgets == [Budget(steps=11), Budget(steps=101)]


def test_ones_own_network_is_never_taken_for_the_packages_of_that_name(tmp_path: Path) -> None:
    run = ncsn.fit(table(1000), steps=1, network=ncsn.MLP(3, width=8))
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"OwnMLP is no network of this package .*give network=OwnMLP\(\.\.\.\)"):
        ncsn.load(tmp_path / "run")
    again = ncsn.load(tmp_path / "run", network=ncsn.MLP(3, width=8))
    assert torch.equal(again.sample(2, levels=4), run.sample(2, levels=4))


def test_images_are_fitted_with_their_classes(tmp_path: Path) -> None:
    data = pictures()
    assert data.labels is not None
    run = ncsn.fit(data.train.numpy(), settings=tiny(steps=2), labels=data.labels.train)
    assert list(run.recipe.shares) == ["0", "1", "2"]
    assert run.recipe.shares["2"] == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(run.sample(2, label=0), run.sample(2, label=2))
    run.save(tmp_path / "images")
    assert torch.equal(ncsn.load(tmp_path / "images").sample(2), run.sample(2))
    own = ncsn.fit(data.train.float() / 255, steps=2, network=ncsn.UNet(1, (4, 6), 1, 4))
    assert (own.recipe.network, own.recipe.shares, own.guide) == ("OwnUNet", {}, None)
    assert own.sample(2, levels=4).isfinite().all()


def test_the_same_images_give_the_command_and_python_the_same_run(trained: Path) -> None:
    run = ncsn.fit(ncsn.load_images(str(trained / "data.npz")), settings=tiny(steps=12))
    weights = load_file(trained / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], weight) for name, weight in run.model.state_dict().items())
    loaded = ncsn.load(trained / "run", device="cpu")
    assert run.recipe == loaded.recipe
    # So do arrays, in Python's usual forms.
    with np.load(trained / "data.npz") as file:
        images, labels = file["images"], file["labels"]
    for x in (images, torch.from_numpy(images)[:, None], images[..., None]):
        again = ncsn.fit(x, settings=tiny(steps=12), labels=labels.tolist())
        assert all(torch.equal(weights[name], weight) for name, weight in again.model.state_dict().items())


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_learned_towards_the_score_of_their_class_at_high_noise(
    flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: False)
    data = pictures()
    assert data.labels is not None
    objective = unlearned(monkeypatch, data, tiny(flip=flip, posterior_above=0.6, sigma_max=10.0)).objectives[-1]
    every, classes = centres(data.train), data.labels.train
    if flip:
        every, classes = torch.cat([every, every.flip(-1)]), classes.repeat(2)
    truth = ncsn.Empirical(every, classes)
    x, label = every[:8], torch.tensor([0, 1, 2, 0, 1, 2, -1, -1])
    sigma = torch.tensor([0.3, 0.59, 0.61, 0.9, 1.5, 3.0, 0.3, 0.9])

    def silent(noisy: Tensor, level: Any, asked: Tensor | None = None, /) -> Tensor:
        return torch.zeros_like(noisy)

    def losses_by(loss: Any, **given: Any) -> Tensor:
        losses: Tensor = loss(silent, x, sigma, label=label, generator=torch.Generator().manual_seed(0), **given)
        return losses

    losses, plain = losses_by(objective), losses_by(dsm)
    expected = losses_by(posterior_dsm, data_score=truth, above=0.6)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(losses[sigma < 0.6], plain[sigma < 0.6])
    assert not torch.isclose(losses, plain)[sigma > 0.6].any()


def test_images_that_would_fill_a_device_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data, asked = pictures(), maker.lesson_of
    settings = rules.resolve(tiny(), data, torch.device("cpu"))
    monkeypatch.setattr("ncsn.machine.choose_device", lambda _: torch.device("meta"))
    for memory, expected in ((4 * data.train.nbytes, "meta"), (4 * data.train.nbytes - 4, "cpu")):
        monkeypatch.setattr("ncsn.machine.memory_of", lambda device, memory=memory: memory)
        lesson = asked(settings, data, ncsn.LogUniform(5.0, 0.1), dsm, torch.float32)
        assert lesson.train.x.device.type == expected


class Scripted(Lesson):
    """A lesson whose held-out losses are known before."""

    def losses(self, model: Any) -> tuple[Tensor, Tensor]:
        return torch.full((2,), next(SCRIPT)), torch.tensor([0.1, 3.0])


SCRIPT: Iterator[float] = iter(())


@pytest.mark.parametrize(
    ("held_out", "slack", "left"),
    [
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], 0.01, 4),
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.4, 0.403, 0.403], 0.01, 10),
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.4, 0.403, 0.403], 0.0, 8),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 0.0, 10),
    ],
)
def test_the_average_that_was_best_on_held_out_examples_is_left_also_after_an_interruption(
    held_out: list[float], slack: float, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step moves the average; the second session goes on from what the first one kept."""
    global SCRIPT
    SCRIPT = iter(held_out)
    generator = torch.Generator().manual_seed(0)
    state = State(ncsn.ScoreModel(ncsn.MLP(2, 8, 1)), generator=generator)
    lesson = Scripted(
        train=Batch(torch.zeros(4, 2)),
        held_out=Batch(torch.zeros(4, 2)),
        noise=ncsn.LogUniform(5.0, 0.1),
        objective=dsm,
        size=2,
        rows=10,
        trials=(2,),
        slack=slack,
    )
    bias = dict(state.average.named_parameters())["network.output.bias"]

    def steps(state: State, *_: Any, budget: Budget, **__: Any) -> Iterator[Progress]:
        for step in range(state.step + 1, (budget.steps or 0) + 1):
            state.step = step
            bias.fill_(float(step))
            losses, sigmas = torch.tensor([float(step), 3.0]), torch.tensor([0.01, 2.0])
            fraction, seconds = step / 10, 7.0 * step
            yield Progress(
                step=step, fraction=fraction, seconds=seconds, losses=losses, sigmas=sigmas, examples_per_second=5.0
            )

    monkeypatch.setattr(maker, "train", steps)
    first = Record()
    for row in learn(lesson, state, Budget(steps=10), first):
        if row.step == 6:
            break
    second = Record()
    second.rows = first.rows[:6]
    rows = [*first.rows, *learn(lesson, state, Budget(steps=10), second)]
    assert [row.step for row in rows] == list(range(1, 11))
    assert (rows[3].loss, rows[3].bands, rows[3].seconds) == (3.5, [4, None, None, None, 3], 28.0)
    assert rows[3].validation_bands == [None, pytest.approx(held_out[3]), None, None, pytest.approx(held_out[3])]
    assert bool((bias == left).all())
