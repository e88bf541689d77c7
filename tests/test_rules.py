from dataclasses import replace
from typing import Any

import pytest
import torch
from learning import pictures

from ncsn import MLP, noise
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


def test_directions_examples_and_neighbours_are_measured(generator: torch.Generator) -> None:
    x = torch.randn(4000, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    exact = float(torch.linalg.eigvalsh(torch.cov(x.T))[-1].sqrt())
    assert rules.leading_std(x) == pytest.approx(exact, rel=2e-3)
    # Two examples at distance d: the posterior is in doubt once noise of σ along the line between them is about d/2.
    data = torch.stack([torch.zeros(64), torch.full((64,), 1.0)]).repeat(200, 1)
    level = rules.averaging_level(data)
    assert 8 / 2 / 4 < level < 8 / 2
    assert rules.averaging_level(10 * data) > 7 * level
    assert rules.averaging_level(1e4 * torch.eye(50)) == rules.POSTERIOR_LEVELS[-1], "the largest"
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(3, 2, 6, 8)
    details = [rules.detail(images) for images in (stripes, stripes[..., :1], stripes[:, :, :1])]
    assert details == pytest.approx([0.5**0.5, 0, 1]), "one across, nothing down"
    assert rules.detail(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)) == pytest.approx(0.5**0.5)


def test_mnist_gets_what_was_tuned_on_it() -> None:
    images = mnist()
    digits = Facts.of(images.train, images.statistics[1])
    assert (digits.sigma_max, digits.sigma_min) == (10, 0.01)
    assert 0.6 <= digits.averaging <= 0.8
    assert digits.log_sigma_mean == pytest.approx(-0.4, abs=0.1)
    assert rules.guided_between(digits.log_sigma_mean) == pytest.approx((0.2, 1.5), rel=0.1)
    assert METHODS["dpmpp-sde"].suited(digits.sigma_max, digits.sigma_min) == 30
    assert (facts(leading_std=17.3).sigma_max, facts(std=0.02).sigma_min) == (78, 0.001)


@pytest.mark.parametrize(
    ("shape", "speed", "seconds", "widths"),
    [
        ((1, 28, 28), "fast", 600, (64, 128)),
        ((1, 28, 28), "slow", None, (32, 64)),  # as if it were ten minutes
        ((1, 28, 28), "slow", 1800, (64, 128)),
        ((1, 28, 28), "slow", 240, (16, 32)),
        ((3, 32, 32), "slow", 600, (32, 64)),  # by 111,000 images twice as near to CIFAR-10 as a quarter by 289,000
        ((3, 40, 100), "cuda", 600, (64, 128, 256, 256)),
    ],
)
def test_widths_suit_the_images_the_machine_and_the_time(
    shape: tuple[int, int, int], speed: str, seconds: float | None, widths: tuple[int, ...]
) -> None:
    assert rules.channels(shape, rules.SPEEDS[speed], seconds) == widths


@pytest.mark.parametrize(
    ("n", "work", "bottom", "above"),
    [
        (50_000, 1.01, 0.8, 0.75),
        (50_000, 0.99, 0.8, 9.0),  # it takes longer than two fifths of the network
        (50_000, 0.01, 0.01, 9.0),
        (50_000, 0.65, 0.06, 0.75),  # half of the noise levels ask for it
        (228_261, 1.01, 0.8, 0.75),
        (228_262, 1.01, 0.8, 9.0),  # the data's copy is too large
    ],
)
def test_posterior_targets_begin_where_examples_are_averaged_if_they_are_cheap(
    n: int, work: float, bottom: float, above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``work``: the network's arithmetic over what pays for two products with all examples."""
    monkeypatch.setattr(rules, "arithmetic", lambda *_: work * 4 * n * 28**2 / (0.4 * 3))
    assert facts(n=n).posterior_above(torch.nn.Identity(), noise.LogUniform(9, bottom)) == above


def test_arithmetic_is_that_of_matrix_products() -> None:
    network = MLP(3, 8, 2)
    assert rules.arithmetic(network, (3,)) == 2 * sum(p.numel() for p in network.parameters() if p.ndim == 2)


def settle(data: Pictures | None = None, **given: Any) -> ResolvedImages:
    return rules.resolve(Images(**given), data or pictures(), CPU)


def test_width_and_batch_suit_the_machine_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    small = pictures()
    large, held_out, test = (
        part.repeat(1, 1, 3, 4)[..., :28, :28] for part in (small.train, small.validation, small.test)
    )
    data = Pictures(large, held_out, test)
    for fast, widths, batch in ((True, (64, 128), 128), (False, (32, 64), 64)):
        monkeypatch.setattr("ncsn.machine.hardware.fast_bfloat16", lambda _, fast=fast: fast)
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


@pytest.mark.parametrize("useless", [{"langevin_steps": 3}, {"network": "refinenet", "blocks": 1}])
def test_options_without_an_effect_are_refused(useless: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=list(useless)[-1]):
        settle(**useless)


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
        (16, {}, False, "16 classes, 300"),
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
    ("given", "slow", "compiles", "thorough"),
    [
        ({"minutes": 3.9}, False, False, False),
        ({"minutes": 4.0}, False, True, False),
        ({"minutes": 6.0, "compile": False}, False, False, True),
        ({"minutes": 29.9}, True, True, False),
        ({"minutes": 30.0}, True, True, True),
        ({"steps": 999}, False, False, False),
        ({"steps": 1999}, True, False, True),
        ({"steps": 2000}, True, True, True),
    ],
)
def test_what_takes_time_first_is_for_trainings_in_which_it_pays(
    given: dict[str, Any], slow: bool, compiles: bool, thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling, and a classifier to choose guidance by."""
    monkeypatch.setattr("ncsn.machine.hardware.slow", lambda device: slow)
    settings = settle(channels=(8,), **given)
    assert (rules.compiles(settings), rules.thorough(settings, CPU)) == (compiles, thorough)


def test_budgets_leave_time_for_the_guide_and_for_what_is_drawn() -> None:
    long = settle(channels=(8,), minutes=20.0)
    assert rules.budgets(long, 70.0, guided=False)[0] == Budget(seconds=15 / 16 * 1200 - 70)
    whole, guide = rules.budgets(long, 70.0, guided=True)
    assert whole.seconds == pytest.approx(0.95 * 1055)
    assert guide.seconds == pytest.approx(0.05 * 1055)
    assert rules.budgets(long, 1190.0, guided=False)[0].seconds == 120, "a tenth, whatever else there is"
    assert rules.budgets(settle(steps=101), 9.0, guided=True) == (Budget(steps=101), Budget(steps=11))
