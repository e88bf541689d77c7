import math
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from learning import pictures, unlearned

import ncsn
from ncsn.data.dataset import Dataset
from ncsn.images import Images
from ncsn.learn import rules
from ncsn.learn.plan import make_plan
from ncsn.loading import dataset_of
from ncsn.noise import LogUniform
from ncsn.sampling import SAMPLERS, Sampling
from ncsn.settings import Job, ResolvedSettings, TrainSettings
from ncsn.training import Budget

CPU = Job(device="cpu")


def settle(data: Dataset | None = None, **given: Any) -> ResolvedSettings:
    return make_plan(data or pictures(), TrainSettings(job=CPU, **given)).settings


def budgeted(data: Dataset | None = None, **given: Any) -> ResolvedSettings:
    """Settings of which only the budget matters."""
    return settle(data, channels=(8,), posterior_above=9.0, **given)


def sampled(data: Dataset | None = None, **given: Any) -> Sampling:
    """How the run would be sampled, by its recipe."""
    return make_plan(data or pictures(), TrainSettings(job=CPU, **({"channels": (8,)} | given))).recipe.sampling


def unplaced(x: torch.Tensor) -> Images:
    """Images of any real numbers."""
    return Images(x, x[:10], x[:10])


def log_sigma_mean(images: Images) -> float:
    return budgeted(images).log_sigma_mean


def pairs(detail: float, std: float) -> Images:
    """Images of two pixels that differ by ``detail`` and have this standard deviation together."""
    away, half = (std**2 - detail**2 / 4) ** 0.5, detail / 2
    images = [(at - up, at + up) for at in (-away, away) for up in (-half, half)]
    return unplaced(torch.tensor(images).repeat(10, 1).view(40, 1, 1, 2))


def test_the_most_noise_is_four_and_a_half_times_what_varies_most(generator: torch.Generator) -> None:
    """Of two digits: they change where the deviation is wrong by more than two thousandths."""
    x = torch.randn(2000, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    exact = float(torch.linalg.eigvalsh(torch.cov(x.T))[-1].sqrt())
    for error, top in ((1.002, 1.1), (1 / 1.002, 1.0)):
        scaled = x * (1.05 * error / (4.5 * exact))
        assert budgeted(unplaced(scaled.view(2000, 1, 4, 5))).sigma_max == top


def test_posterior_targets_begin_where_examples_are_confused() -> None:
    """Two at distance d: the posterior is in doubt once noise of σ along the line between them is about d/2."""
    data = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]).repeat(200, 1, 1, 1)
    level, farther, farthest = (
        settle(unplaced(x), channels=(8,)).posterior_above
        for x in (data, 10 * data, 1e4 * torch.eye(50).view(50, 1, 5, 10))
    )
    assert 8 / 2 / 4 < level < 8 / 2
    assert farther > 7 * level
    assert farthest == 21, "the largest that is tried"


def test_noise_is_the_lower_the_smoother_the_images() -> None:
    """By the mean square difference of neighbours over the standard deviation, times 5.5."""
    stripes = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(15, 4).view(30, 1, 1, 8).expand(-1, 2, 6, -1)
    greys = torch.tensor([0.0, 1.0]).repeat(15).view(30, 1, 1, 1)
    assert log_sigma_mean(unplaced(stripes)) == 1.7, "one across, nothing down"
    assert log_sigma_mean(unplaced(stripes.mT)) == 1.7
    assert log_sigma_mean(unplaced(stripes[:, :, :1])) == 2.4, "one across"
    assert log_sigma_mean(unplaced(greys)) == 1.0, "a single pixel: the standard deviation instead"
    assert log_sigma_mean(unplaced(greys.expand(-1, -1, 2, 2))) == 1.0, "no differences: the same"
    assert [log_sigma_mean(pairs(*pair)) for pair in ((0.2, 0.3), (0.0, 0.3), (0.01, 0.3))] == [-0.31, 0.5, -2]
    dim = [log_sigma_mean(pairs(*pair)) for pair in ((0.0002, 0.0003), (0.0001, 0.003), (0.001, 0.11))]
    assert dim == pytest.approx([-0.31 - math.log(1000), -2 + math.log(0.003 / 0.1), -2], abs=0.05)
    dark = replace(pictures(labels=False), train=pictures().train // 8)
    assert settle(dark, channels=(8,)).sigma_min == float(f"{dark.statistics[1] / 20:.1g}") < 0.01


def test_mnist_gets_what_was_tuned_on_it() -> None:
    plan = make_plan(ncsn.load_dataset("mnist"), TrainSettings(channels=(32, 64), job=CPU))
    settings, sampling = plan.settings, plan.recipe.sampling
    assert (settings.sigma_max, settings.sigma_min) == (10, 0.01)
    assert settings.log_sigma_mean == pytest.approx(-0.4, abs=0.1)
    assert sampling.guided_between == pytest.approx((0.2, 1.5), rel=0.1)
    assert 0.6 <= settings.posterior_above <= 0.8
    assert SAMPLERS["dpmpp-sde"].levels_for(10, 0.01) == 30


WIDTHS = [
    ((1, 28, 28), True, {}, ((64, 128), 128)),
    ((1, 28, 28), False, {}, ((32, 64), 64)),
    ((1, 28, 28), False, {"steps": 5}, ((32, 64), 64)),  # as if it were ten minutes
    ((1, 28, 28), False, {"minutes": 29.0}, ((32, 64), 128)),
    ((1, 28, 28), False, {"minutes": 30.0}, ((64, 128), 64)),
    ((1, 28, 28), False, {"minutes": 4.0}, ((16, 32), 64)),
    ((3, 32, 32), False, {}, ((32, 64), 64)),  # by 111,000 images twice as near to CIFAR-10 as a quarter by 289,000
    ((3, 40, 100), True, {"minutes": 200.0}, ((64, 128, 256, 256), 128)),
    ((1, 28, 28), False, {"channels": (8, 8)}, ((8, 8), 128)),
    ((1, 28, 28), True, {"batch_size": 999}, ((64, 128), 300)),  # all there are
]


@pytest.mark.parametrize(("shape", "fast", "given", "found"), WIDTHS)
def test_widths_and_batches_suit_the_images_the_machine_and_the_time(
    shape: tuple[int, int, int], fast: bool, given: dict[str, Any], found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.machine.hardware.fast_bfloat16", lambda _: fast)
    small, (channels, height, width) = pictures(labels=False), shape
    train, held = (x.repeat(1, channels, 5, 13)[..., :height, :width] for x in (small.train, small.validation))
    settings = settle(Images(train, held, held), posterior_above=9.0, start="none", **given)
    assert (settings.channels, settings.batch_size) == found


WORTH = [
    (50_000, 1.01, 0.8, 0.75),
    (50_000, 0.99, 0.8, 9.0),  # it takes longer than two fifths of the network
    (50_000, 0.01, 0.01, 9.0),
    (50_000, 0.65, 0.06, 0.75),  # half of the noise levels ask for it
    (228_261, 1.01, 0.8, 0.75),
    (228_262, 1.01, 0.8, 9.0),  # the data's copy is too large
]


@pytest.mark.parametrize(("n", "work", "bottom", "above"), WORTH)
def test_posterior_targets_begin_where_examples_are_averaged_if_they_are_cheap(
    n: int, work: float, bottom: float, above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``work``: the network's arithmetic over what pays for two products with all examples."""
    monkeypatch.setattr(rules, "averaging_level", lambda _: 0.75)
    monkeypatch.setattr(rules, "arithmetic", lambda *_: work * 4 * n * 28**2 / (0.4 * 3))
    images, noise = torch.zeros(1, 1, 28, 28, dtype=torch.uint8).expand(n, -1, -1, -1), LogUniform(9, bottom)
    assert rules.posterior_above(images, torch.nn.Identity(), noise, 9.0, mirrored=False) == above
    half = images[: n // 2]
    assert rules.posterior_above(half, torch.nn.Identity(), noise, 9.0, mirrored=True) == above, "twice as many"


def test_mirrored_examples_count_when_posterior_targets_are_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures(labels=False)
    monkeypatch.setattr(rules, "averaging_level", lambda _: 1e-3)  # below all noise levels
    monkeypatch.setattr(rules, "arithmetic", lambda *_: 1.5 * 4 * data.train.numel() / (3 * 0.4))
    found = [settle(data, channels=(8,), flip=flip) for flip in (False, True)]
    assert [settings.posterior_above < settings.sigma_max for settings in found] == [True, False]


def test_arithmetic_is_that_of_matrix_products() -> None:
    network = ncsn.MLP(3, 8, 2)
    assert rules.arithmetic(network, (3,)) == 2 * sum(p.numel() for p in network.parameters() if p.ndim == 2)


def test_samplers_get_the_levels_and_steps_that_suit_them() -> None:
    data = pictures(labels=False)
    default = sampled(data)
    ends = default.sigma_max, default.sigma_min
    usual = SAMPLERS["dpmpp-sde"].levels_for(*ends)
    assert (default.levels, default.steps, default.guidance) == (usual, 1, 1.0)
    assert default.eps == default.sigma_min**2 / 2
    assert sampled().levels == round(0.4 * usual), "classes need fewer"
    assert sampled(levels=7).levels == 7
    assert sampled(proposal="geometric").levels == usual, "which are those to learn, too"
    assert sampled(sampler="heun").levels == SAMPLERS["heun"].levels_for(*ends)
    annealed = sampled(data, sampler="annealed", sigma_max=10.0)
    assert (annealed.levels, annealed.steps, settle(data, sampler="annealed").guidance) == (100, 2, 1.0)
    assert sampled(sampler="langevin", levels=9).levels == 1
    geometric = TrainSettings(proposal="geometric", levels=9, job=CPU)
    assert make_plan(data, geometric).noise == ncsn.Geometric(*ends, 9)
    with pytest.raises(ValueError, match="steps is 3"):
        sampled(langevin_steps=3)


def test_the_guide_is_half_as_wide_and_there_is_none_where_the_network_is_its_own() -> None:
    data, labelled, settings = pictures(labels=False), pictures(), TrainSettings(channels=(24, 1), job=CPU)
    plan = make_plan(data, settings)
    recipe, guide = plan.recipe, plan.guide_recipe
    assert plan.settings.guidance == "chosen"
    assert guide is not None
    sizes = {"image_channels": 1, "channels": (24, 1), "blocks": 2, "features": 24}
    assert (recipe.arguments, guide.arguments) == (sizes, sizes | {"channels": (12, 1), "blocks": 1, "features": 12})
    assert (recipe.sampling.guidance, guide.sampling.guidance) == (1, 1), "until it is chosen"
    assert make_plan(data, replace(settings, guidance=2.0)).recipe.sampling.guidance == 2
    assert make_plan(data, replace(settings, guidance=1.0)).guide_recipe is None
    plan = make_plan(labelled, settings)
    assert labelled.labels is not None
    assert (plan.guide_recipe, plan.recipe.num_classes, plan.recipe.sampling.guide) == (None, 3, "unconditional")
    assert plan.recipe.shares == labelled.labels.shares


def test_rows_start_from_more_noise_than_images(generator: torch.Generator) -> None:
    """From ten leading standard deviations of standardised columns; these two are one number twice."""
    x = torch.randn(2000, 1, generator=generator)
    settings = settle(dataset_of(torch.cat([x, 7 * x], 1)))
    assert settings.sigma_max == pytest.approx(10 * 2**0.5, rel=0.05)


def test_tables_are_learned_by_their_conditionals_and_own_networks_as_they_are() -> None:
    rows = dataset_of(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)))
    for data, own, way in ((rows, None, "conditional"), (rows, ncsn.MLP(2, 8, 1), "edm"), (pictures(), None, "edm")):
        plan = make_plan(data, TrainSettings(channels=(8,), job=CPU), network=own)
        assert plan.recipe.preconditioning == way


CLASSES = [
    (3, {}, True, ""),
    (15, {}, True, ""),
    (16, {}, False, "20 images"),
    (1, {}, False, "20 images"),
    (3, {"class_conditional": False}, False, ""),
    (0, {}, False, ""),
]


@pytest.mark.parametrize(("names", "given", "learned", "said"), CLASSES)
def test_classes_are_learned_where_there_are_some_of_enough_images(
    names: int, given: dict[str, Any], learned: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(labels=names > 0)
    if data.labels is not None:
        data = replace(data, labels=replace(data.labels, names=tuple(map(str, range(names)))))
    assert settle(data, channels=(8,), **given).class_conditional is learned
    printed = capsys.readouterr().out
    assert said in printed
    assert printed.count("\n") == 1 + bool(said), "and what the data is"


def test_what_takes_time_first_is_for_trainings_in_which_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling, and a classifier to choose guidance by, which may take a twentieth."""
    compiling, classifying = Mock(), Mock(return_value=ncsn.evaluation.PIXELS)
    monkeypatch.setattr("ncsn.machine.hardware.compile_network", compiling)
    monkeypatch.setattr("ncsn.learn.fit.features_for", classifying)

    def compiled(data: Dataset, **given: Any) -> list[float]:
        """The most seconds for compiling, if there is any."""
        compiling.reset_mock()
        unlearned(monkeypatch, data, TrainSettings(channels=(8,), job=CPU, **given))
        return [call.kwargs["seconds"] for call in compiling.call_args_list]

    for given, limits, seconds, effort in (
        ({"minutes": 1.9}, [], 0, 0.5),
        ({"minutes": 2.0}, [30], 6, 0.5),
        ({"minutes": 4.0}, [60], 12, 0.5),  # a quarter
        ({"minutes": 60.0}, [900], 180, 1),
        ({"steps": 1999}, [], 0, 1),
        ({"steps": 2000}, [0], math.inf, 1),  # without a limit
    ):
        assert compiled(pictures(), **given) == limits
        assert classifying.call_args.kwargs == {"seconds": pytest.approx(seconds), "effort": effort}
    rows = dataset_of(torch.randn(40, 2))
    monkeypatch.setattr("ncsn.TableRun.measure_coverage", lambda *_: {})
    assert [compiled(rows, minutes=m) for m in (4.9, 5.0)] == [[], [75]]


def test_budgets_leave_time_for_the_guide_and_for_what_is_drawn() -> None:
    long = budgeted(minutes=20.0)
    assert rules.budgets(long, 70.0, guided=False, after=9)[0] == Budget(seconds=39 / 40 * 1200 - 70, after=9)
    assert [budget.seconds for budget in rules.budgets(long, 70.0, guided=True)] == pytest.approx([1045, 55])
    assert rules.budgets(long, 1190.0, guided=False)[0].seconds == 120, "a tenth, whatever else there is"
    assert rules.budgets(budgeted(steps=101), 9.0, guided=True) == (Budget(steps=101), Budget(steps=11))
    assert budgeted().minutes == 10


def test_images_of_little_contrast_are_learned_at_as_many_noise_levels_as_others() -> None:
    bright = (pictures().train > 60).to(torch.uint8) * 255
    for images in (bright, bright // 255):
        plan = make_plan(replace(pictures(labels=False), train=images), TrainSettings(channels=(8,), job=CPU))
        sigma = plan.noise.sample(1000, generator=torch.Generator().manual_seed(0))
        assert float((sigma == plan.settings.sigma_max).float().mean()) < 0.1
        assert plan.settings.sigma_min < plan.recipe.sampling.guided_between[0] < plan.settings.sigma_max
