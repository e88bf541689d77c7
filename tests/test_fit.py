"""A run in one line: of points in their units, of images as the command makes it, and the average that is left."""

import copy
import inspect
import json
import logging
import math
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas
import pytest
import torch
from helpers import unchecked
from learning import pictures, tiny, unlearned
from torch import Tensor, nn

import ncsn
from ncsn.batching import centres
from ncsn.distributions import Empirical, Ring
from ncsn.images import Images
from ncsn.learn import guidance
from ncsn.learn.fit import FitOptions, Training
from ncsn.learn.history import Row
from ncsn.learn.plan import Plan, make_plan
from ncsn.learn.record import Record
from ncsn.learn.start import take_weights
from ncsn.loading import dataset_of
from ncsn.machine.messages import Stopped
from ncsn.networks import UNet
from ncsn.noise import LogNormal, LogUniform, Proposal
from ncsn.settings import Changes, Job, TrainSettings
from ncsn.tables.run import TableRun
from ncsn.training import Progress


def table(n: int, seed: int = 0) -> Tensor:
    """Three columns in very different units: the second follows the first, the third is alone."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    return torch.tensor([1500.0, 0.4, -7.0]) + torch.tensor([1200.0, 0.02, 30.0]) * z


def test_points_come_back_in_their_units_with_their_correlations() -> None:
    x, fresh = table(4000), table(300, seed=1)
    fitted, scale = ncsn.fit(x, steps=250), x.std(0)
    samples = fitted.sample(2000)
    assert float(((samples.mean(0) - x.mean(0)) / scale).abs().max()) < 0.15
    torch.testing.assert_close(samples.std(0) / scale, torch.ones(3), atol=0.12, rtol=0)
    torch.testing.assert_close(torch.corrcoef(samples.T), torch.corrcoef(x.T), atol=0.1, rtol=0)
    normal = torch.distributions.MultivariateNormal(x.double().mean(0), torch.cov(x.T.double()))
    truth = normal.log_prob(fresh.double())  # type: ignore[no-untyped-call]
    assert float((fitted.log_prob(fresh, tolerance=0.01) - truth).mean()) == pytest.approx(0, abs=0.15)


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


def test_data_may_come_in_any_form_and_the_users_random_numbers_stay() -> None:
    x = table(1000).double()
    after = torch.rand(3, generator=torch.Generator().manual_seed(3))
    forms: list[Any] = [x, x.tolist(), x.flip(0).numpy()[::-1], x.clone().requires_grad_(), x]
    weights = []
    for seed, form in zip((7, 7, 7, 7, 0), forms, strict=True):
        torch.manual_seed(3)
        with unchecked(), torch.no_grad():
            weights.append(ncsn.fit(form, steps=3, seed=seed).model.state_dict()["network.stem.weight"])
        assert torch.equal(after, torch.rand(3))
    assert [torch.equal(weight, weights[0]) for weight in weights] == [True] * 4 + [False]
    run = ncsn.fit(x, steps=1)
    assert isinstance(run, TableRun)
    gaps = x[:40].masked_fill(x[:40] > x[:40].median(), math.nan)
    given = run.posterior(lambda x: x[:, :1], x[:1, :1], noise_std=0.5)
    draws, samples, answers = run.impute(gaps, 2).draws, run.sample(40, levels=3), given.sample(40, levels=3)
    torch.set_default_dtype(torch.float64)
    assert ncsn.fit(x, steps=1).sample(2, levels=3).isfinite().all()
    torch.testing.assert_close(run.impute(gaps, 2).draws, draws, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run.sample(40, levels=3), samples, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.sample(40, levels=3), answers, rtol=1e-4, atol=1e-4)


def test_overloads_offer_the_keywords_of_fit() -> None:
    parameters = inspect.signature(ncsn.fit).parameters.values()
    own = {p.name: p.annotation for p in parameters if p.kind == p.KEYWORD_ONLY}
    assert FitOptions.__annotations__ == Changes.__annotations__ | own


class Own(nn.Module):
    """A network of somebody's own for images, which takes no classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layer(x) * c.view(-1, 1, 1, 1)  # type: ignore[no-any-return]


FRAME, IMAGES = pandas.DataFrame(table(40).numpy(), columns=["a", "b", "c"]), pictures()
WITH_GAPS = table(200).masked_fill(table(200, seed=1) > table(200, seed=2) + 40, math.nan)


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (torch.zeros(20), {}, r"\(20,\)"),
        (IMAGES.train, {"labels": [0, 1]}, r"\(2,\).* 300 images"),
        (torch.randn(5, 2), {}, "rows found: 5;"),
        (IMAGES.train[:5], {}, "5 images"),
        (torch.full((20, 2), math.nan), {}, "20 rows"),
        (torch.randn(20, 2) * 1j, {}, "complex"),
        (torch.zeros(20, 2, device="meta"), {}, "data is a tensor .* on meta"),
        (torch.full((20, 2), math.inf), {}, "0, 1"),
        (np.ma.masked_less(np.random.default_rng(0).normal(size=(20, 2)), 0), {}, "masked"),
        (table(1000), {"batch_size": 2.5}, "batch_size is 2.5"),
        (np.full((20, 1, 8, 8), math.nan), {}, "1,280"),
        (torch.full((20, 1, 8, 8), 7, dtype=torch.uint8), {}, "the same"),
        (torch.tensor([[1.0, 0.1]]).repeat(2000, 1), {}, "2,000 rows"),
        (table(1000), {"labels": torch.zeros(1000).long()}, "labels"),
        (IMAGES, {"labels": [0, 1]}, "labels"),
        (table(1000), {"minutes": 1}, "minutes|seconds"),
        (table(1000), {"sampler": "hmc"}, "hmc"),
        (IMAGES, {"settings": tiny(), "device": "quantum"}, "device is quantum"),
        # What would be ignored, or fail after the training.
        (FRAME, {"signals": True}, "signals"),
        (IMAGES, {"signals": True}, "signals"),
        (FRAME, {"start": ncsn.Run.of(Ring(), (3,), sigma_max=1.0, sigma_min=0.1)}, "start"),
        (IMAGES, {"settings": tiny(guidance=2.0), "network": Own()}, "guidance"),
        (IMAGES, {"settings": tiny(proposal="geometric", log_sigma_std=1.0)}, "log_sigma_std"),
        (WITH_GAPS, {"network": ncsn.MLP(3, 8, 1)}, "without gaps"),
        (table(100), {"settings": TrainSettings(start="mnist")}, r"start \(--from\) .*rows"),
        *((table(100), {name: "a"}, f"{name} is 'a'") for name in ("noise", "record", "network", "objective")),
        (table(100), {"start": "a"}, "start .* rows"),
        (IMAGES, {"start": "nowhere"}, "nowhere is not a run"),
        (IMAGES, {"start": 3}, "start is 3"),
        (table(100), {"settings": {}}, "settings is {}"),
    ],
)
def test_what_cannot_be_learned_as_asked_is_refused(data: Any, given: dict[str, Any], message: str) -> None:
    with unchecked(), pytest.raises(ValueError, match=message):
        ncsn.fit(data, **{"steps": 1} | given)


@pytest.mark.parametrize("noise", [LogUniform(5.0, 0.1), LogNormal(-1.0, 1.0, 5.0, 0.1)])
@pytest.mark.parametrize(("data", "settings"), [(table(100), TrainSettings(steps=1)), (IMAGES, tiny())])
def test_samples_descend_where_the_noise_was_that_is_given(noise: Proposal, data: Any, settings: TrainSettings) -> None:
    sampling = ncsn.fit(data, noise=noise, settings=settings).recipe.sampling
    assert [sampling.sigma_max, sampling.sigma_min, sampling.eps] == pytest.approx([5.0, 0.1, 0.1**2 / 2])


def plan(data: Any, **settings: Any) -> Plan:
    return make_plan(dataset_of(data), TrainSettings(**{"steps": 1} | settings))


def training(plan: Plan, data: Images = IMAGES, record: Record | None = None) -> Training:
    """A training of a network that knows nothing."""
    state = ncsn.State(plan.recipe.build(), generator=torch.Generator(), seed=0)
    return Training(plan, data, record or Record(), state)


def test_points_are_learned_from_eight_tenths_of_them_at_log_normal_noise(generator: torch.Generator) -> None:
    planned = plan(table(1009), batch_size=5000)
    assert planned.settings.batch_size == 809
    levels = planned.noise.sample(100_000, generator=generator).log().quantile(torch.tensor([0.3, 0.5, 0.7]))
    torch.testing.assert_close(levels, torch.tensor([-1.64, -0.8, 0.04]), atol=0.02, rtol=0)


def test_minutes_have_sixty_seconds_and_one_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    command = TrainSettings(channels=(8,), compile=False)
    for data, given, most in (
        (table(1000), {"minutes": 2.5}, 150),
        (table(1000), {}, 60),
        (IMAGES, {}, 60),
        (IMAGES, {"settings": command}, 600),
    ):
        seconds = unlearned(monkeypatch, data, **given).budgets[-1].seconds
        assert seconds is not None
        assert 0.83 * most < seconds <= most
    lessons = unlearned(monkeypatch, pictures(labels=False), tiny(steps=101))
    assert lessons.budgets == [ncsn.Budget(steps=11), ncsn.Budget(steps=101)]


def test_ones_own_network_is_never_taken_for_the_packages_of_that_name(tmp_path: Path) -> None:
    run = ncsn.fit(table(400), steps=1, network=ncsn.MLP(3, width=8), batch_size=999)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match="network=ncsn"):
        ncsn.load(tmp_path / "run")
    again = ncsn.load(tmp_path / "run", network=ncsn.MLP(3, width=8))
    before = run.sample(2, levels=4)
    assert torch.equal(again.sample(2, levels=4), before)
    state = ncsn.State(again.model, generator=torch.Generator())  # it learns on
    state.model(table(4), 1.0).square().sum().backward()
    state.update(1.0)
    assert not torch.equal(replace(again, score=state.model).sample(2, levels=4), before)
    own = ncsn.fit(IMAGES.train.float() / 255, steps=2, network=ncsn.UNet(1, (4, 6), 1, 4))
    assert (own.recipe.shares, own.guide) == ({}, None)
    assert own.sample(2, levels=4).isfinite().all()


def test_held_out_images_have_classes_of_their_own() -> None:
    """No class of the test images is one that the network knows."""
    data = pictures()
    assert data.labels is not None
    run = ncsn.fit(replace(data, labels=replace(data.labels, test=data.labels.test + 99)), settings=tiny(steps=2))
    assert run.recipe.num_classes == 3


def first_weight(model: nn.Module) -> Tensor:
    return next(model.parameters()).data


def test_ones_own_network_learns_images_with_classes_and_goes_on_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ncsn.fit(IMAGES, settings=tiny(), network=Own())
    assert run.sample(2, levels=4).isfinite().all()
    further = unlearned(monkeypatch, IMAGES, settings=tiny(), network=Own(), start=run)
    assert torch.equal(first_weight(further.states[0].model), first_weight(run.model))


def test_a_run_that_is_begun_by_resuming_has_the_weights_that_it_starts_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = ncsn.fit(IMAGES, settings=tiny())
    first.save(tmp_path / "first")
    settings = tiny(tmp_path / "second", resume=True, start=str(tmp_path / "first"))
    for learned in (False, True):
        record = Record(folder=tmp_path / "second", job=settings.job)
        (state,) = unlearned(monkeypatch, IMAGES, settings=settings, record=record).states
        assert torch.equal(first_weight(state.model), first_weight(first.model)) != learned, "the second time its own"
        first_weight(state.model).zero_()
        record.save(state)
        assert record.lock is not None
        record.lock.release()
        (tmp_path / "first" / "model.safetensors").unlink(missing_ok=True)  # no longer needed


@pytest.mark.parametrize("arrays", [False, True])
def test_the_same_images_give_the_command_and_python_the_same_run(
    arrays: bool, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a data set and as arrays, in Python's usual forms, with their classes."""
    choose = Mock(side_effect=guidance.choose_weight)
    monkeypatch.setattr("ncsn.learn.fit.choose_weight", choose)
    data, labels = ncsn.load_dataset(str(trained / "data.npz")), None
    if arrays:
        with np.load(trained / "data.npz") as file:
            data, labels = file["images"][..., None], file["labels"].tolist()
    run, command = ncsn.fit(data, settings=tiny(steps=12), labels=labels), ncsn.load(trained / "run", device="cpu")
    assert choose.call_args.kwargs["seen"] == 12 * 16, "images, not steps"
    weights = command.model.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in run.model.state_dict().items())
    assert replace(run.recipe, shares={}) == replace(command.recipe, shares={})
    assert list(run.recipe.shares.values()) == pytest.approx([0.25, 0.25, 0.5], abs=0.05)
    assert not torch.equal(run.sample(2, label=0), run.sample(2, label=2))
    run.save(tmp_path / "images")
    assert torch.equal(ncsn.load(tmp_path / "images").sample(2), command.sample(2))


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_learned_towards_the_score_of_their_class_at_high_noise(flip: bool) -> None:
    assert IMAGES.labels is not None
    planned = replace(make_plan(IMAGES, tiny(flip=flip, posterior_above=0.6, sigma_max=10.0)), autocast=None)
    objective = training(planned).objective
    every, classes = centres(IMAGES.train), IMAGES.labels.train
    if flip:
        every, classes = torch.cat([every, every.flip(-1)]), classes.repeat(2)
    x, label, sigma = every[-8:], torch.tensor([0, 1, 2, 0, 1, 2, -1, -1]), torch.linspace(0.3, 3.0, 8)
    keywords = objective.keywords  # type: ignore[attr-defined]
    assert keywords["above"] == 0.6
    torch.testing.assert_close(keywords["data_score"](x, sigma, label), Empirical(every, classes)(x, sigma, label))


def test_images_that_would_fill_a_device_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = replace(make_plan(IMAGES, tiny(posterior_above=1e6)), device=torch.device("meta"))
    for memory, expected in ((4 * IMAGES.train.nbytes, "meta"), (4 * IMAGES.train.nbytes - 4, "cpu")):
        monkeypatch.setattr("ncsn.machine.hardware.memory_of", lambda device, memory=memory: memory)
        lesson = training(planned)
        assert (lesson.examples.device.type, lesson.objective) == (expected, ncsn.dsm)


class Scripted(Training):
    """Held-out losses that are written down, and steps that set the average to their number."""

    last, cut = 0, 0
    means: Iterator[float]

    def is_worse_than(self, best: ncsn.ScoreModel) -> bool:
        return True

    def evaluate(self, step: int, seconds: float) -> Row:
        held_out, history = next(self.means), self.history
        loss = float(history.sum) / history.count if step else held_out
        return Row(step=step, loss=loss, validation_loss=held_out, validation_bands=[], seconds=seconds)

    def steps(self, state: ncsn.State, budget: ncsn.Budget) -> Iterator[Progress]:
        for step in range(state.step + 1, self.last + 1):
            state.step = step
            bias(state).fill_(float(step))
            losses, sigmas = torch.tensor([float(step)]), torch.ones(1)
            known = {"step": step, "fraction": step / self.last, "seconds": 7.0 * step, "stop": 15 * (step == self.cut)}
            yield Progress(losses=losses, sigmas=sigmas, **known)  # type: ignore[arg-type]


def bias(state: ncsn.State) -> Tensor:
    return dict(state.average.named_parameters())["network.head.bias"]


class Rarely(Images):
    """Images that are evaluated like the rows of a table."""

    evaluations, evaluation_power, evaluates_start, tolerance, patience = 3, 2.0, True, 0.0, 0.25


class Strictly(Images):
    tolerance = 0.001


class After4(Rarely):
    evaluation_spacing = 4


class After5(Rarely):
    evaluation_spacing = 5


class Fifths(Rarely):
    evaluations, evaluation_power = 5, 1.0


class Tenths(Rarely):
    evaluations, evaluation_power = 10, 1.0


FALLS, RISES = [1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


@pytest.mark.parametrize(
    ("held_out", "kind", "last", "looks", "kept"),
    [
        ([*FALLS, 0.9, 1.0, 1.1], Images, 20, [*range(2, 21, 2)], 8),
        ([*FALLS, 0.4, 0.403, 0.403], Images, 20, [*range(2, 21, 2)], 20),
        ([*FALLS, 0.4, 0.403, 0.403], Strictly, 20, [*range(2, 21, 2)], 16),
        ([*RISES, 0.3, 0.2, 0.1], Strictly, 20, [*range(2, 21, 2)], 20),
        # Without tolerance the untrained average may be the best; and training ends far above it.
        ([0.5, 0.51, 0.6, 0.62], Rarely, 9, [0, 1, 4, 9], 0),
        ([0.5, 0.4, 0.49, 0.49], Rarely, 9, [0, 1, 4, 9], 1),
        ([0.5, 0.4, 0.51], Rarely, 9, [0, 1, 4], 1),
        ([0.5, 0.4, 0.3], After4, 9, [0, 4, 9], 9),
        ([0.5, 0.4, 0.3], After5, 9, [0, 5, 9], 9),
        # A small rise ends it after twice the steps to the minimum, and at least 200.
        ([0.5, 0.45, 0.4, 0.411, 0.411], Fifths, 500, [0, 100, 200, 300, 400], 200),
        ([0.5, 0.4, 0.411, 0.411, 0.411], Tenths, 500, [0, 50, 100, 150, 200], 50),
    ],
)
@pytest.mark.parametrize("cut", [0, 3, 4, 13])
def test_the_average_that_was_best_on_held_out_examples_is_left_also_after_an_interruption(
    held_out: list[float], kind: type[Images], last: int, looks: list[int], kept: int, cut: int, tmp_path: Path
) -> None:
    """Every step moves the average; a second session goes on from the checkpoint of the first, and a third."""
    data, means = kind(IMAGES.train, IMAGES.validation, IMAGES.test), iter(held_out)
    plan = make_plan(data, tiny(guidance=1.0))
    for session in range(3):
        record = Record(folder=tmp_path / "run", job=Job(resume=True))
        state = ncsn.State(plan.recipe.build(), generator=torch.Generator().manual_seed(0), seed=0)
        training = Scripted(plan, data, record, state)
        training.last, training.cut, training.means = last, cut, means
        try:
            training.begin()
            training.train_network()
            assert bool((bias(state) == kept).all())
        except Stopped:
            assert (state.step, session) == (cut, 0)
        assert record.lock is not None
        record.lock.release()
    assert [row.step for row in record.rows] == looks
    losses = [(before + 1 + step) / 2 for before, step in pairwise([0, *filter(None, looks)])]
    assert [row.loss for row in record.rows] == [*held_out[: looks.count(0)], *losses]
    assert record.rows[-1].seconds == 7 * looks[-1]
    assert record.kept is not None
    assert record.kept.step == kept


@pytest.mark.parametrize(("rise", "chance", "worse"), [(0.1, 1.0, False), (0.2, 1.0, True), (0.02, 0.1, True)])
def test_an_average_is_worse_only_if_its_losses_of_the_same_examples_rise_beyond_chance(
    rise: float, chance: float, worse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses themselves differ far more from example to example than they rise."""
    generator = torch.Generator().manual_seed(0)
    examples, change = torch.randn(2, 400, generator=generator)
    change = (change - change.mean()) / change.std()
    lesson = training(make_plan(IMAGES, tiny()))
    average, best = lesson.state.average, copy.deepcopy(lesson.state.average)
    losses = {average: 9 * examples + rise + chance * change, best: 9 * examples}
    monkeypatch.setattr(lesson, "held_out_losses", lambda model: (losses[model], torch.ones(400), {}))
    assert lesson.is_worse_than(best) is worse


@pytest.mark.parametrize(
    ("steps", "cut", "gaps"), [(60, 45, False), pytest.param(160, 34, True, marks=pytest.mark.slow)]
)
def test_a_table_that_is_stopped_and_goes_on_has_the_rows_and_weights_of_one_that_is_not(
    steps: int, cut: int, gaps: bool, tmp_path: Path
) -> None:
    settings, taken = TrainSettings(steps=steps, channels=(8,), blocks=1, batch_size=32), 0

    def counted(score: ncsn.Score, x: Tensor, sigma: Tensor, **how: Any) -> Tensor:
        nonlocal taken
        taken += 1
        if taken == cut:
            signal.raise_signal(signal.SIGTERM)
        return ncsn.dsm(score, x, sigma, **how)

    def session(name: str, *, resume: bool = False) -> ncsn.Run:
        record = Record(folder=tmp_path / name, job=Job(resume=resume))
        return ncsn.fit(
            WITH_GAPS if gaps else table(200), settings=settings, objective=counted, record=record, quiet=True
        )

    with pytest.raises(Stopped, match=f"step {cut}"):
        session("cut")
    weights = [session("cut", resume=True).model.state_dict(), session("whole").model.state_dict()]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    texts = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("cut", "whole")]
    cut_rows, rows = ([json.loads(line) | {"seconds": 0} for line in text.splitlines()] for text in texts)
    assert cut_rows == rows


def test_rows_of_a_gaussian_are_learned_before_the_first_step(tmp_path: Path) -> None:
    """Of two columns with correlation .95, by 400 rows: the mean and the spread of one given the other."""
    z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 0.95 * z[:, 0] + (1 - 0.95**2) ** 0.5 * z[:, 1]
    run = ncsn.fit(z * torch.tensor([1.0, 50.0]), steps=1)
    run.save(tmp_path / "run")
    again = ncsn.load(tmp_path / "run")
    assert isinstance(again, TableRun)
    assert (again.recipe, again.digest) == (run.recipe, run.digest)
    draws = again.impute([[1.0, math.nan]], 400).draws[:, 0, 1]
    # The slope has a standard error of .02, the mean of the draws one of .8.
    assert float(draws.mean()) == pytest.approx(47.5, abs=4)
    assert float(draws.std()) == pytest.approx(50 * (1 - 0.95**2) ** 0.5, rel=0.2)


def test_examples_that_judge_samples_change_nothing_of_what_is_learned() -> None:
    data, records = dataset_of(table(300)), [Record(), Record()]
    for test, record in zip((data.test, data.test + 5), records, strict=True):
        ncsn.fit(replace(data, test=test), steps=3, record=record)
    one, other = ([replace(row, seconds=0.0) for row in record.rows] for record in records)
    assert one == other


def test_a_run_says_by_name_what_of_ones_own_it_was_trained_with() -> None:
    noise, data = LogUniform(9.0, 0.1), table(100)
    usual = ncsn.fit(data, steps=1).settings
    settings = ncsn.fit(data, steps=1, network=ncsn.MLP(3, 8), objective=ncsn.ssm, noise=noise).settings
    names = ("network", "objective", "channels", "log_sigma_mean", "proposal")
    assert [settings[name] for name in names] == ["ncsn.networks.MLP", "ssm", None, None, repr(noise)]
    assert (usual["network"], usual["channels"], usual["proposal"]) == ("mlp", (128,), "lognormal")
    assert "objective" not in usual


@pytest.mark.parametrize("quiet", [False, True])
def test_a_training_says_nothing_where_it_is_to_be_quiet(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    ncsn.fit(table(200), steps=2, quiet=quiet)
    printed = capsys.readouterr()
    assert (not printed.out, not printed.err) == (quiet, quiet)
    logging.getLogger("ncsn").setLevel(logging.WARNING)
    try:
        ncsn.fit(table(200), steps=2)
        assert capsys.readouterr() == ("", "")
    finally:
        logging.getLogger("ncsn").setLevel(logging.INFO)


def process() -> list[object]:
    """What a training could leave changed."""
    own = [torch.get_default_dtype(), torch.get_default_device(), torch.get_float32_matmul_precision()]
    return [*own, torch.get_num_threads(), logging.getLogger("ncsn").level, torch.random.get_rng_state().tolist()]


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_is_left_as_it_was_found(fails: bool) -> None:
    def objective(*args: Any, **how: Any) -> Tensor:
        assert torch.get_default_dtype() == torch.float32
        torch.set_num_threads(3)
        torch.rand(1)
        if fails:
            raise ZeroDivisionError
        return ncsn.dsm(*args, **how)

    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    try:
        before = process()
        with pytest.raises(ZeroDivisionError) if fails else nullcontext():
            ncsn.fit(table(100), steps=1, objective=objective, quiet=True)
        assert process() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def test_trainings_in_threads_are_those_of_one_after_the_other() -> None:
    alone = ncsn.fit(table(100), steps=3, quiet=True).sample(2)
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: ncsn.fit(table(100), steps=3, quiet=True), range(3)))
    assert all(torch.equal(run.sample(2), alone) for run in runs)


@pytest.mark.parametrize(("theirs", "own"), [(3, 1), (3, 4), (1, 3), (3, 2)])
def test_weights_are_fitted_to_another_number_of_colours(theirs: int, own: int) -> None:
    """Fewer colours are seen as the mean colour in all, and a fourth, which is opacity, changes nothing."""
    generator = torch.Generator().manual_seed(0)
    start = ncsn.Run.of(ncsn.ScoreModel(UNet(theirs, (8, 12))), (theirs, 8, 8), sigma_max=10.0, sigma_min=0.01)
    for weights in start.model.network.parameters():
        nn.init.normal_(weights, std=0.1, generator=generator)
    network = UNet(own, (8, 12))
    take_weights(ncsn.ScoreModel(network), start, own)
    x, c = torch.randn(3, own, 8, 8, generator=generator), torch.zeros(3)
    if own == 4:
        expected = torch.cat([start.model.network(x[:, :3], c), torch.zeros(3, 1, 8, 8)], 1)
    else:
        grey = x.mean(1, keepdim=True)
        expected = start.model.network(grey.expand(3, theirs, 8, 8), c).mean(1, keepdim=True).expand(3, own, 8, 8)
    torch.testing.assert_close(network(x, c), expected)


def test_few_small_images_start_from_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    free = replace(tiny(), channels=None, blocks=None)
    few = np.random.default_rng(0).integers(0, 256, (60, 9, 12, 3), dtype=np.uint8)
    large, many = np.repeat(few, 8, axis=1), np.tile(few, (250, 1, 1, 1))
    for data, how, starts in (
        (few, {}, "prior"),
        (few[..., 0], {}, "prior"),
        (few, {"minutes": 11.0}, None),
        (few, {"start": "none"}, None),
        (few, {"channels": (8, 12)}, None),
        (few, {"blocks": 2}, None),  # as by default
        (few, {"network": UNet(3, (8, 12))}, None),
        (large, {}, None),
        (many, {}, None),
        (table(100), {}, None),
    ):
        run = unlearned(monkeypatch, data, **({"settings": free} | how)).run
        assert run.settings["start"] == starts
        if starts is not None:
            own, prior = (one.model.network.state_dict() for one in (run, ncsn.load(starts, device="cpu")))
            assert torch.equal(own["modulation.weight"], prior["modulation.weight"])


def test_a_training_begins_with_the_weights_of_a_run_but_for_layers_of_other_colours_and_classes(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, base = ncsn.load(trained / "run", device="cpu"), tiny(steps=1)
    theirs = start.model.network.state_dict()
    colours = np.random.default_rng(0).integers(0, 256, (250, 8, 8, 3), dtype=np.uint8)
    for data, labels, anew in (
        (IMAGES, None, set()),
        (colours, np.arange(250) % 5, {"stem.weight", "head.weight", "head.bias", "labels.weight"}),
    ):
        free = replace(base, channels=None, blocks=None)
        for how in ({"start": start}, {"settings": replace(free, start=str(trained / "run"))}):
            run = unlearned(monkeypatch, data, **({"settings": free} | how), labels=labels).run
            own = run.model.network.state_dict()
            assert {name for name in own if not torch.equal(own[name], theirs[name])} == anew
            assert (run.settings["channels"], run.settings["start"]) == ((8, 12), str(trained / "run"))
    for size in ({"channels": (8, 16)}, {"blocks": 2}):
        with pytest.raises(ValueError, match=r"run has a different network [^\n]*; leave out[^\n]*$"):
            ncsn.fit(IMAGES, settings=replace(base, **size), start=start)
