"""A run in one line: of points in their units, of images as the command makes it, and the average that is left."""

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas
import pytest
import torch
from helpers import refused, unchecked
from learning import pictures, tiny, unlearned
from torch import Tensor, nn

import ncsn
from ncsn.data import Dataset
from ncsn.data.dataset import rows_of
from ncsn.data.sources import Reading
from ncsn.data.units import centres
from ncsn.learn import guidance, rules
from ncsn.learn.fit import Judged, Lesson, OwnParts, learn
from ncsn.learn.record import Record, until_spoiled
from ncsn.learn.settings import Job, ResolvedSettings, TrainSettings
from ncsn.machine.distributed import ALONE
from ncsn.noise import Proposal
from ncsn.objectives import dsm
from ncsn.training import Budget, Progress, State


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
    torch.set_default_dtype(torch.float64)
    assert ncsn.fit(x, steps=1).sample(2, levels=3).isfinite().all()


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (torch.zeros(20), {}, r"\(20,\)"),
        (pictures().train, {"labels": [0, 1]}, r"\(2,\).* 300 images"),
        (torch.randn(5, 2), {}, "5 examples"),
        (pictures().train[:5], {}, "validation"),
        (torch.full((20, 2), math.nan), {}, "20 rows"),
        (torch.randn(20, 2) * 1j, {}, "complex"),
        (torch.full((20, 2), math.inf), {}, "0, 1"),
        (np.ma.masked_less(np.random.default_rng(0).normal(size=(20, 2)), 0), {}, "masked"),
        (table(1000), {"batch_size": 2.5}, "batch_size is 2.5"),
        (np.full((20, 1, 8, 8), math.nan), {}, "20"),
        (torch.full((20, 1, 8, 8), 7, dtype=torch.uint8), {}, "the same"),
        (torch.tensor([[1.0, 0.1]]).repeat(2000, 1), {}, "2,000 rows"),
        (table(1000), {"labels": torch.zeros(1000).long()}, "labels"),
        (table(1000), {"minutes": 1}, "minutes|seconds"),
        (table(1000), {"sampler": "hmc"}, "hmc"),
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
    sampling = unlearned(monkeypatch, data, noise=noise, steps=1).run.recipe.sampling
    assert [sampling.sigma_max, sampling.sigma_min, sampling.eps] == pytest.approx([5.0, 0.1, 0.1**2 / 2])


def test_points_are_learned_from_eight_tenths_of_them_at_log_normal_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons = unlearned(monkeypatch, table(1009), steps=1, batch_size=5000)
    batch, model = next(lessons.batches[-1]), lessons.states[-1].model
    assert len(batch.x) == 809
    levels = lessons.losses[-1](model, batch)[1].log().quantile(torch.tensor([0.3, 0.5, 0.7]))
    torch.testing.assert_close(levels, torch.tensor([-1.64, -0.8, 0.04]), atol=0.01, rtol=0)


def test_minutes_have_sixty_seconds_and_one_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(data: Any, **given: Any) -> float | None:
        return unlearned(monkeypatch, data, **given).budgets[-1].seconds

    assert 130 < (seconds(table(1000), minutes=2.5) or 0) <= 150
    assert 50 < (seconds(table(1000)) or 0) <= 60
    assert 50 < (seconds(pictures()) or 0) <= 60
    assert 500 < (seconds(pictures(), settings=TrainSettings(channels=(8,))) or 0) <= 600, "as of the command"
    lessons = unlearned(monkeypatch, pictures(labels=False), tiny(steps=101))
    assert lessons.budgets == [Budget(steps=11), Budget(steps=101)]


def test_ones_own_network_is_never_taken_for_the_packages_of_that_name(tmp_path: Path) -> None:
    run = ncsn.fit(table(400), steps=1, network=ncsn.MLP(3, width=8), batch_size=999)
    run.save(tmp_path / "run")
    with pytest.raises(ValueError, match="network=ncsn"):
        ncsn.load(tmp_path / "run")
    again = ncsn.load(tmp_path / "run", network=ncsn.MLP(3, width=8))
    assert torch.equal(again.sample(2, levels=4), run.sample(2, levels=4))
    own = ncsn.fit(pictures().train.float() / 255, steps=2, network=ncsn.UNet(1, (4, 6), 1, 4))
    assert (own.recipe.shares, own.guide) == ({}, None)
    assert own.sample(2, levels=4).isfinite().all()


def first_weight(model: nn.Module) -> Tensor:
    return next(model.parameters()).data


class Own(nn.Module):
    """A network of somebody's own for images, which takes no classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.layer(x) * c.view(-1, 1, 1, 1)  # type: ignore[no-any-return]


def test_ones_own_network_learns_images_with_classes_and_goes_on_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    run = ncsn.fit(pictures(), settings=tiny(), network=Own())
    assert run.sample(2, levels=4).isfinite().all()
    further = unlearned(monkeypatch, pictures(), settings=tiny(), network=Own(), start=run)
    assert torch.equal(first_weight(further.states[0].model), first_weight(run.model))


def test_a_run_that_is_begun_by_resuming_has_the_weights_that_it_starts_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = ncsn.fit(pictures(), settings=tiny())
    first.save(tmp_path / "first")
    settings = tiny(tmp_path / "second", resume=True, start=str(tmp_path / "first"))
    for learned in (False, True):
        record = Record(folder=tmp_path / "second", job=settings.job)
        (state,) = unlearned(monkeypatch, pictures(), settings=settings, record=record).states
        assert torch.equal(first_weight(state.model), first_weight(first.model)) != learned, "the second time its own"
        first_weight(state.model).zero_()
        record.save(state)
        assert record.lock is not None
        record.lock.release()


FRAME = pandas.DataFrame(table(40).numpy(), columns=["a", "b", "c"])


@pytest.mark.parametrize(
    ("call", "naming"),
    [
        (lambda: ncsn.fit(FRAME, signals=True, steps=1), "signals"),
        (lambda: ncsn.fit(pictures(), signals=True, steps=1), "signals"),
        (lambda: ncsn.load_dataset("mnist", reading=Reading(signals=True)), "signals"),
        (lambda: ncsn.load_dataset(__file__, reading=Reading(signals=True)), "signals"),
        (lambda: ncsn.fit(FRAME, start=ncsn.fit(table(40), steps=1), steps=1), "start"),
        (lambda: ncsn.fit(pictures(), settings=tiny(sampler="twisted")), "twisted"),
        (lambda: ncsn.fit(pictures(), settings=tiny(guidance=2.0), network=Own()), "guidance"),
        (lambda: ncsn.fit(pictures(), settings=tiny(proposal="geometric", log_sigma_std=1.0)), "log_sigma_std"),
        (lambda: Job(precision="float16"), "precision"),  # type: ignore[arg-type]
    ],
)
def test_what_would_be_ignored_or_fail_after_the_training_is_refused(call: Callable[[], object], naming: str) -> None:
    with unchecked():
        assert naming in refused(call)


@pytest.mark.parametrize("arrays", [False, True])
def test_the_same_images_give_the_command_and_python_the_same_run(
    arrays: bool, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a data set and as arrays, in Python's usual forms, with their classes."""
    choose = Mock(side_effect=guidance.chosen_weight)
    monkeypatch.setattr(guidance, "chosen_weight", choose)
    data, labels = ncsn.load_images(str(trained / "data.npz")), None
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


def lesson(data: Dataset, settings: ResolvedSettings, device: torch.device) -> Lesson:
    """What a training of the data learns from."""
    return Lesson(data, settings, OwnParts(), Record(), device, "fp32", torch.Generator(), 16)


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_learned_towards_the_score_of_their_class_at_high_noise(flip: bool) -> None:
    data, device = pictures(), torch.device("cpu")
    assert data.labels is not None
    settings = rules.resolve(tiny(flip=flip, posterior_above=0.6, sigma_max=10.0), data, device)
    objective = lesson(data, settings, device).objective
    every, classes = centres(data.train), data.labels.train
    if flip:
        every, classes = torch.cat([every, every.flip(-1)]), classes.repeat(2)
    x, label, sigma = every[-8:], torch.tensor([0, 1, 2, 0, 1, 2, -1, -1]), torch.linspace(0.3, 3.0, 8)
    keywords = objective.keywords  # type: ignore[attr-defined]
    assert keywords["above"] == 0.6
    torch.testing.assert_close(keywords["data_score"](x, sigma, label), ncsn.Empirical(every, classes)(x, sigma, label))


def test_images_that_would_fill_a_device_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    data, device = pictures(), torch.device("meta")
    settings = replace(rules.resolve(tiny(), data, torch.device("cpu")), posterior_above=1e6)
    for memory, expected in ((4 * data.train.nbytes, "meta"), (4 * data.train.nbytes - 4, "cpu")):
        monkeypatch.setattr("ncsn.machine.hardware.memory_of", lambda device, memory=memory: memory)
        it = lesson(data, settings, device)
        assert (it.examples.device.type, it.objective) == (expected, dsm)


@pytest.mark.parametrize(
    ("held_out", "slack", "left"),
    [
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], 0.01, 4),
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.4, 0.403, 0.403], 0.01, 10),
        ([1.0, 0.9, 0.8, 0.5, 0.6, 0.7, 0.8, 0.4, 0.403, 0.403], 0.001, 8),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 0.001, 10),
    ],
)
def test_the_average_that_was_best_on_held_out_examples_is_left_also_after_an_interruption(
    held_out: list[float], slack: float, left: int, tmp_path: Path
) -> None:
    """Every step moves the average; the second session goes on from the first one's checkpoint."""
    script, folder = iter(held_out), tmp_path / "checkpoint.pt"

    def begun() -> State:
        return State(ncsn.ScoreModel(ncsn.MLP(2, 8, 1)), generator=torch.Generator().manual_seed(0))

    def bias(state: State) -> Tensor:
        return dict(state.average.named_parameters())["network.output.bias"]

    def judge() -> Judged:
        return Judged(torch.full((2,), next(script)), torch.tensor([0.1, 3.0]))

    def steps(state: State, last: int) -> Iterator[Progress]:
        for step in range(state.step + 1, last + 1):
            state.step = step
            bias(state).fill_(float(step))
            losses, sigmas = torch.tensor([float(step), 3.0]), torch.tensor([0.01, 2.0])
            known = {"step": step, "fraction": step / 20, "seconds": 7.0 * step}
            yield Progress(losses=losses, sigmas=sigmas, **known)  # type: ignore[arg-type]

    first, second, record = begun(), begun(), Record()
    learn(steps(first, 13), first, judge, Record(), rows=10, slack=9.0)
    first.save(folder)
    second.load(folder)
    learn(steps(second, 20), second, judge, record, rows=10, slack=slack)
    assert [row.step for row in record.rows] == list(range(2, 21, 2))
    assert [row.loss for row in record.rows] == [(2 * row.step - 1) / 4 + 1.5 for row in record.rows]
    assert record.rows[3].seconds == 56
    assert record.rows[3].validation_bands == [None, pytest.approx(held_out[3]), None, None, pytest.approx(held_out[3])]
    assert bool((bias(second) == 2 * left).all())


@pytest.mark.parametrize(
    ("held_out", "left", "looks"),
    [
        ([0.5, 0.51, 0.6, 0.62], 0, [0, 1, 4, 9]),
        ([0.5, 0.4, 0.49, 0.49], 1, [0, 1, 4, 9]),
        ([0.5, 0.4, 0.51], 1, [0, 1, 4]),
    ],
)
def test_without_slack_the_untrained_average_may_be_the_best_and_training_ends_far_above_it(
    held_out: list[float], left: int, looks: list[int]
) -> None:
    """Looks at 0, 1, 4 and 9 of 9 steps; the second moves the weights by one."""
    state = State(ncsn.ScoreModel(ncsn.MLP(2, 8, 1)), generator=torch.Generator().manual_seed(0))
    bias, script = dict(state.average.named_parameters())["network.output.bias"], iter(held_out)

    def steps() -> Iterator[Progress]:
        for step in range(1, 10):
            bias.fill_(float(step))
            yield Progress(
                step=step, fraction=step / 9, seconds=0.0, losses=torch.tensor([float(step)]), sigmas=torch.ones(1)
            )

    def judge() -> Judged:
        return Judged(torch.full((2,), next(script)), torch.ones(2))

    learn(until_spoiled(steps(), state.rows, ALONE), state, judge, Record(), rows=3, slack=0.0)
    assert [row.step for row in state.rows] == looks
    assert [row.loss for row in state.rows] == [0.5, 1.0, 3.0, 7.0][: len(looks)]
    assert bool((bias == left).all())
    goes_on = len(looks) == 4
    assert bool(list(until_spoiled(steps(), state.rows, ALONE))) == goes_on, "what has ended goes on by no step"


def test_rows_of_a_gaussian_are_learned_before_the_first_step(tmp_path: Path) -> None:
    """Of two columns with correlation .95, by 400 rows: the mean and the spread of one given the other."""
    z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 0.95 * z[:, 0] + (1 - 0.95**2) ** 0.5 * z[:, 1]
    run = ncsn.fit(z * torch.tensor([1.0, 50.0]), steps=1)
    run.save(tmp_path / "run")
    again = ncsn.load(tmp_path / "run")
    assert (again.recipe, again.digest) == (run.recipe, run.digest)
    (_, draws), *_ = again.impute([[1.0, math.nan]], 400)
    # The slope has a standard error of .02, the mean of the draws one of .8.
    assert float(draws[:, 0, 1].mean()) == pytest.approx(47.5, abs=4)
    assert float(draws[:, 0, 1].std()) == pytest.approx(50 * (1 - 0.95**2) ** 0.5, rel=0.2)


def test_examples_that_judge_samples_change_nothing_of_what_is_learned() -> None:
    data, records = rows_of("rows", table(300).numpy()), [Record(), Record()]
    for test, record in zip((data.test, data.test + 5), records, strict=True):
        ncsn.fit(replace(data, test=test), steps=3, record=record)
    one, other = ([replace(row, seconds=0.0) for row in record.rows] for record in records)
    assert one == other


def test_clusters_are_known_before_the_first_step(tmp_path: Path) -> None:
    """Also by the run that is loaded: in the middle of three, the second column is that of the middle one."""
    middles = torch.tensor([[0.0, 0.0], [5.0, 5.0], [10.0, 0.0]])
    x = middles[torch.arange(300) % 3] + 0.3 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    ncsn.fit(x, steps=1, quiet=True).save(tmp_path / "run")
    (_, draws), *_ = ncsn.load(tmp_path / "run").impute([[5.0, math.nan], [10.0, math.nan]], 100)
    middle, last = (draws[:, :, 1] > 2.5).double().mean(0).tolist()  # of one Gaussian, both would be a third
    assert middle > 0.65
    assert last < 0.1


def test_what_is_given_beside_settings_is_honoured_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choose(name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("ncsn.machine.hardware.choose_device", choose)
    unlearned(monkeypatch, pictures(), settings=tiny(), device="cuda")
    unlearned(monkeypatch, pictures(), settings=tiny())
    assert asked == ["cuda", "cpu"]
    signals = torch.randn(20, 1, 16, generator=torch.Generator().manual_seed(0))
    assert unlearned(monkeypatch, signals, settings=tiny(signals=True)).run.recipe.shape == (1, 16)
    with pytest.raises(ValueError, match="labels"):
        ncsn.fit(pictures(), labels=[0, 1], steps=1)


def test_a_run_says_by_name_what_of_ones_own_it_was_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"network": ncsn.MLP(3, 8), "objective": ncsn.ssm, "noise": ncsn.LogUniform(9.0, 0.1)}
    settings = unlearned(monkeypatch, table(100), steps=1, **own).run.settings
    assert (settings["network"], settings["objective"]) == ("ncsn.networks.mlp.MLP", "ssm")
    assert (settings["channels"], settings["log_sigma_mean"]) == (None, None)
    assert settings["proposal"] == repr(own["noise"])
    usual = unlearned(monkeypatch, table(100), steps=1).run.settings
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


def test_trainings_in_threads_are_those_of_one_after_the_other() -> None:
    alone = ncsn.fit(table(100), steps=3, quiet=True).sample(2)
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: ncsn.fit(table(100), steps=3, quiet=True), range(3)))
    assert all(torch.equal(run.sample(2), alone) for run in runs)


def test_a_training_begins_with_the_weights_of_a_run_but_for_layers_of_other_colours_and_classes(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, base = ncsn.load(trained / "run", device="cpu"), tiny(steps=1)
    theirs = start.model.network.state_dict()
    colours = np.random.default_rng(0).integers(0, 256, (250, 8, 8, 3), dtype=np.uint8)
    for data, labels, anew in (
        (pictures(), None, set()),
        (colours, np.arange(250) % 5, {"stem.weight", "head.weight", "head.bias", "labels.weight"}),
    ):
        free = replace(base, channels=None, blocks=TrainSettings.blocks)
        for how in ({"start": start}, {"settings": replace(free, start=str(trained / "run"))}):
            run = unlearned(monkeypatch, data, **({"settings": free} | how), labels=labels).run
            own = run.model.network.state_dict()
            assert {name for name in own if not torch.equal(own[name], theirs[name])} == anew
            assert (run.settings["channels"], run.settings["start"]) == ((8, 12), str(trained / "run"))
    with pytest.raises(ValueError, match=r"run has another network, to judge by [^\n]*; leave out[^\n]*$"):
        ncsn.fit(pictures(), settings=replace(base, channels=(8, 16)), start=start)
    with pytest.raises(ValueError, match="from given, which means nothing for rows"):
        ncsn.fit(table(100), steps=1, settings=TrainSettings(start=str(trained / "run")))
