import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learning import pictures

from ncsn import UNet, noise
from ncsn.data import Images as Pictures
from ncsn.data import mnist
from ncsn.learn import rules
from ncsn.learn.rules import Facts
from ncsn.learn.settings import Images, ResolvedImages
from ncsn.samplers import METHODS
from ncsn.training import Budget

CPU = torch.device("cpu")


def facts(**changes: object) -> Facts:
    known = {"n": 1000, "shape": (1, 28, 28), "std": 0.3, "leading_std": 2.0, "detail": 0.2, "averaging": 0.75}
    return Facts(**(known | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> Facts:
    images = mnist()
    return Facts.of(images.train, images.statistics[1])


def test_the_leading_std_is_the_root_of_the_largest_eigenvalue(generator: torch.Generator) -> None:
    x = torch.randn(4000, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    exact = float(torch.linalg.eigvalsh(torch.cov(x.T))[-1].sqrt())
    assert rules.leading_std(x) == pytest.approx(exact, rel=2e-3)


def test_examples_far_apart_are_averaged_only_by_as_much_noise(generator: torch.Generator) -> None:
    # Two examples at distance d: the posterior is in doubt once noise of σ along the line between them is about d/2.
    centres = torch.stack([torch.zeros(64), torch.full((64,), 1.0)])
    data = centres.repeat(200, 1)
    level = rules.averaging_level(data)
    assert 8 / 2 / 4 < level < 8 / 2
    assert rules.averaging_level(10 * data) > 7 * level


def test_a_data_set_far_apart_at_every_level_has_the_largest() -> None:
    data = 1e4 * torch.eye(50)
    assert rules.averaging_level(data) == rules.POSTERIOR_LEVELS[-1]


def test_detail_is_what_neighbours_differ_by() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(3, 2, 6, 8)
    assert rules.detail(stripes) == pytest.approx(0.5**0.5), "one across, nothing down"
    assert rules.detail(stripes[..., :1]) == 0
    assert rules.detail(stripes[:, :, :1]) == 1
    pixels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert rules.detail(pixels) == pytest.approx(0.5**0.5)


def test_mnist_gets_what_was_tuned_on_it(digits: Facts) -> None:
    assert digits.sigma_max == 10
    assert digits.sigma_min == 0.01
    assert 0.6 <= digits.averaging <= 0.8
    assert digits.log_sigma_mean == pytest.approx(-0.4, abs=0.1)
    assert rules.guided_between(digits.log_sigma_mean) == pytest.approx((0.2, 1.5), rel=0.1)
    assert METHODS["dpmpp-sde"].suited(digits.sigma_max, digits.sigma_min) == 30
    assert rules.channels(digits.shape, rules.SPEEDS["fast"], 600) == (64, 128)
    assert rules.channels(digits.shape, rules.SPEEDS["slow"], 600) == (32, 64)
    assert rules.channels(digits.shape, rules.SPEEDS["slow"], 1800) == (64, 128)
    assert rules.channels(digits.shape, rules.SPEEDS["slow"], 240) == (16, 32)


def test_ten_slow_minutes_of_colour_images_have_half_the_width() -> None:
    """By 111,000 images it is twice as near to CIFAR-10 as a quarter by 289,000."""
    assert rules.channels((3, 32, 32), rules.SPEEDS["slow"], 600) == (32, 64)


def test_noise_starts_several_leading_stds_up() -> None:
    assert facts(leading_std=17.3).sigma_max == 78
    assert facts(std=0.02).sigma_min < 0.01


def test_posterior_targets_begin_where_examples_are_averaged_if_they_are_cheap() -> None:
    network = UNet(1, (64, 128))
    proposal = noise.LogNormal(-0.4, 1.2, 10, 0.01)
    assert facts(n=50_000).posterior_above(network, proposal) == 0.75
    many = facts(n=1_000_000)
    assert many.posterior_above(network, proposal) == many.sigma_max, "the data's copy is too large"
    small = facts(n=50_000)
    assert small.posterior_above(UNet(1, (4, 4)), proposal) == small.sigma_max, "it takes longer than the network"
    rare = noise.LogNormal(-4, 0.5, 10, 0.01)
    assert small.posterior_above(UNet(1, (4, 4)), rare) == 0.75, "no noise level of the proposal asks for it"


def test_arithmetic_is_that_of_a_matrix_product() -> None:
    class Product(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(12, 12)

        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    assert rules.arithmetic(Product(), (12,)) == 2 * 12 * 12


@given(st.integers(8, 300), st.integers(8, 300), st.floats(30, 36_000))
def test_networks_are_deeper_for_larger_images_and_never_wider_for_more_work(h: int, w: int, seconds: float) -> None:
    widths = rules.channels((3, h, w), 500, seconds)
    assert widths[0] in rules.WIDTHS
    assert max(h, w) / 2 ** len(widths) <= rules.COARSEST
    assert rules.channels((3, 2 * h, 2 * w), 500, seconds)[0] <= widths[0]
    assert rules.channels((3, h, w), 500, 2 * seconds)[0] >= widths[0]


@given(st.floats(0.5, 500), st.floats(0.001, 0.4))
def test_a_wider_range_of_noise_has_more_levels(top: float, bottom: float) -> None:
    for method in METHODS.values():
        found = method.suited(top, bottom)
        assert found == method.suited(2 * top, bottom) == 1 or method.suited(2 * top, bottom) >= found >= 2


def settle(data: Pictures | None = None, **given: Any) -> ResolvedImages:
    return rules.resolve(Images(**given), data or pictures(), CPU)


def test_width_and_batch_suit_the_machine_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    small = pictures()
    large, held_out, test = (
        part.repeat(1, 1, 3, 4)[..., :28, :28] for part in (small.train, small.validation, small.test)
    )
    data = Pictures(large, held_out, test)
    assert math.isclose(rules.seen((3, 32, 32), 64, 500, 600), 300_000)
    for fast, widths, batch in ((True, (64, 128), 128), (False, (32, 64), 64)):
        monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _, fast=fast: fast)
        default = settle(data)
        assert (default.channels, default.batch_size) == (widths, batch)
        assert settle(data, steps=5).channels == settle(data, minutes=29.0).channels == widths
        assert settle(data, minutes=30.0).channels == (64, 128)
        assert settle(data, channels=(8, 8)).batch_size == 128, "which sees many images on any machine"
        assert settle(data, network="refinenet").channels == (64,)


def test_samplers_get_the_levels_and_steps_that_suit_them() -> None:
    data = pictures(labels=False)
    default = settle(data, channels=(8,))
    usual = METHODS["dpmpp-sde"].suited(default.sigma_max, default.sigma_min)
    assert (default.levels, default.langevin_steps, default.guidance) == (usual, 1, "chosen")
    assert default.eps == default.sigma_min**2 / 2
    assert settle(channels=(8,)).levels == round(0.4 * usual), "classes need fewer"
    assert settle(channels=(8,), proposal="geometric").levels == usual, "which are those to learn, too"
    annealed = settle(data, channels=(8,), sampler="annealed", sigma_max=10.0)
    assert (annealed.levels, annealed.langevin_steps, annealed.guidance) == (100, 2, 1.0)


def test_the_guide_is_half_as_wide_and_there_is_none_where_the_network_is_its_own() -> None:
    data = pictures(labels=False)
    settings = settle(data, channels=(24, 1))
    recipe, guide = rules.recipes(settings, data)
    assert recipe.arguments == {"image_channels": 1, "channels": (24, 1), "blocks": 2, "features": 24}
    assert guide is not None
    assert guide.arguments == {"image_channels": 1, "channels": (12, 1), "blocks": 1, "features": 12}
    assert (recipe.sampling.guidance, guide.sampling.guidance) == (1, 1), "until it is chosen"
    assert rules.recipes(replace(settings, guidance=2.0), data)[0].sampling.guidance == 2
    assert rules.recipes(replace(settings, guidance=1.0), data)[1] is None
    labelled = pictures()
    told, none = rules.recipes(settle(labelled, channels=(24, 1)), labelled)
    assert labelled.labels is not None
    assert (none, told.classes, told.sampling.guide) == (None, 3, "unconditional")
    assert told.shares == labelled.labels.shares


@pytest.mark.parametrize(
    ("names", "given", "learned", "said"),
    [
        (3, {}, True, ""),
        (15, {}, True, ""),
        (16, {}, False, "16 classes, 300 training images: not told apart"),
        (1, {}, False, "1 classes"),
        (3, {"classes": False}, False, ""),
        (3, {"network": "refinenet"}, False, "only unet can"),
        (0, {}, False, ""),
    ],
)
def test_classes_are_learned_where_there_are_some_of_enough_images(
    names: int, given: dict[str, Any], learned: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pictures(labels=names > 0)
    if data.labels is not None:
        data = replace(data, labels=replace(data.labels, names=tuple(map(str, range(names)))))
    assert settle(data, channels=(8,), **given).classes is learned
    printed = capsys.readouterr().out
    assert said in printed
    assert bool(said) == bool(printed)


def test_mirrored_images_count_where_targets_are_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Facts, "posterior_above", lambda self, network, proposal: float(self.n))
    assert [settle(channels=(8,), flip=flip).posterior_above for flip in (False, True)] == [300, 600]
    assert settle(channels=(8,), posterior_above=0.7).posterior_above == 0.7


@pytest.mark.parametrize(
    ("minutes", "slow", "thorough"), [(5.9, False, False), (6.0, False, True), (29.9, True, False), (30.0, True, True)]
)
def test_a_classifier_is_trained_where_that_is_a_small_part_of_the_time(
    minutes: float, slow: bool, thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.machine.slow", lambda device: slow)
    assert rules.thorough(settle(channels=(8,), minutes=minutes), CPU) is thorough
    assert rules.thorough(settle(channels=(8,), steps=round(minutes * 1000 / 6)), CPU) is (minutes >= 6)


def test_budgets_leave_time_for_the_guide_and_for_what_is_drawn() -> None:
    long = settle(channels=(8,), minutes=20.0)
    assert rules.budgets(long, 70.0, guided=False)[0] == Budget(seconds=1130)
    whole, guide = rules.budgets(long, 70.0, guided=True)
    assert whole.seconds == pytest.approx(0.95 * 1130)
    assert guide.seconds == pytest.approx(0.05 * 1130)
    assert rules.budgets(long, 1190.0, guided=False)[0].seconds == 120, "a tenth, whatever else there is"
    assert [rules.annealed_samples(long, each) for each in (0.1, 4.0, 99.0)] == [20, 10, 1]
    assert rules.annealed_samples(replace(long, samples=7), 0.1) == 7
