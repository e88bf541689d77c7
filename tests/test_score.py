"""Scores, what is made of them, and networks that become one."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from helpers import SAMPLING, Counting, GaussianScore, unchecked
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ncsn

Way = Literal["edm", "scaled", "plain"]
MEAN, STD = torch.tensor([0.3, -1.0, 2.0]), 1.7
LEVELS = torch.tensor([0.05, 0.5, 1.0, 5.0])


class Sine(nn.Module):
    """A network that depends on all that it is given."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.sin(3 * x) + c.view(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize(
    "ask",
    [
        lambda score: ncsn.posterior(score, lambda x: x[:, :1], torch.ones(1, 1), noise_std=1.0)(torch.ones(2, 3), 2.0),
        lambda score: (
            ncsn.Run.of(score, shape=(3,), sigma_max=9.0, sigma_min=0.1)
            .posterior(lambda x: x[:, :1], [1.0], noise_std=1.0)
            .sample(2)
        ),
        lambda score: ncsn.log_prob(score, torch.ones(2, 3), sigma_max=9.0, sigma_min=0.1),
        lambda score: ncsn.ssm(score, torch.ones(2, 3), torch.ones(2)),
    ],
    ids=["posterior", "particles", "log_prob", "ssm"],
)
def test_what_differentiates_a_score_refuses_one_without_a_gradient(ask: Callable[[ncsn.Score], object]) -> None:
    with pytest.raises(ValueError, match="the score"):
        ask(torch.no_grad()(GaussianScore(0.3, STD)))


class Classed(nn.Module):
    """A network that is always told a class of six, −1 for none; its value is the class."""

    labels = nn.Embedding(7, 1)

    def forward(self, x: Tensor, c: Tensor, label: Tensor) -> Tensor:
        return label.to(x.dtype)[:, None].expand_as(x)


def model_by(way: Way) -> ncsn.ScoreModel:
    """The model of a run whose network is trained in this way."""
    recipe = ncsn.Recipe(network="Sine", arguments={}, preconditioning=way, shape=(3,), sampling=SAMPLING)
    return recipe.build({"data_mean": MEAN, "data_std": STD}, network=Sine())


def points(seed: int = 0, n: int = 4) -> Tensor:
    return 2 * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2,), (5,), (4, 1)])
def test_there_is_one_noise_level_for_all_examples_or_one_for_each(shape: tuple[int, ...]) -> None:
    model = ncsn.ScoreModel(ncsn.MLP(3, 8, 1))
    for function in (model, lambda x, sigma: ncsn.tweedie(model, x, sigma)):
        with unchecked(), pytest.raises(ValueError, match="one noise level per example"):
            function(points(), torch.ones(shape))


# Networks.


@pytest.mark.parametrize("way", ["edm", "scaled", "plain"])
@pytest.mark.parametrize("levels", [torch.tensor(0.3), LEVELS])
def test_a_score_is_what_the_networks_value_stands_for(way: Way, levels: Tensor) -> None:
    """By the formulas of the papers, one noise level for all or one for each."""
    x, std = points(2), levels.expand(4)[:, None]
    centred, total, c = x - MEAN, (std**2 + STD**2).sqrt(), levels.expand(4).log() / 4
    expected = {
        "edm": -centred / total**2 + STD / (std * total) * Sine()(centred / total, c),
        "scaled": Sine()(centred, c) / std,
        "plain": Sine()(centred, c),
    }[way]
    torch.testing.assert_close(model_by(way)(x, levels), expected)
    if way == "edm":
        torch.testing.assert_close(ncsn.ScoreModel(Sine(), MEAN, STD)(x, levels), expected)


def test_residual_weights_undo_the_scale_of_the_networks_value() -> None:
    """2/(σb)², where b is what the value is multiplied with; NCSN's network is the score, weighed by σ²."""
    ways: tuple[Way, ...] = ("edm", "scaled", "plain")
    edm, scaled, plain = (model_by(way).residual_weight(LEVELS) for way in ways)
    torch.testing.assert_close(edm, 2 * (LEVELS**2 + STD**2) / STD**2)
    assert scaled.tolist() == plain.tolist() == [2.0] * 4


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_noise_and_data_have_a_width(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma is"):
        ncsn.ScoreModel(Sine(), 0.0, 1.0)(points(), sigma)
    with pytest.raises(ValueError, match="data_std is"):
        ncsn.ScoreModel(Sine(), 0.0, sigma)
    with unchecked(), pytest.raises(ValueError, match=r"shape \(4, 1\)"):
        ncsn.ScoreModel(lambda x, c: x[:, :1])(points(), 1.0)  # type: ignore[arg-type]


def test_points_in_double_precision_ask_a_network_in_single() -> None:
    model = ncsn.ScoreModel(ncsn.MLP(3, 8, 1), MEAN, STD)
    nn.init.normal_(model.network.output.weight)  # type: ignore[union-attr, arg-type]
    s = model(points().double(), 0.3)
    assert s.dtype == torch.float64
    torch.testing.assert_close(s.float(), model(points(), 0.3))


def test_autocast_runs_the_network_alone() -> None:
    types, network = [], ncsn.MLP(3, 8, 1)
    nn.init.normal_(network.output.weight)
    network.register_forward_hook(lambda *call: types.append(call[-1].dtype))
    plain, fast = (ncsn.ScoreModel(network, MEAN, STD, autocast=kind) for kind in (None, torch.bfloat16))
    torch.testing.assert_close(fast(points(), 0.5), plain(points(), 0.5), rtol=0.05, atol=0.05)
    assert types == [torch.bfloat16, torch.float32]
    assert fast(points(), 0.5).dtype == torch.float32


def test_empty_batches_and_batches_of_numbers() -> None:
    model = ncsn.ScoreModel(ncsn.MLP(3, 8, 1), 0.5, 2.0)
    assert model(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert ncsn.ScoreModel(Sine(), 0.5, 2.0)(torch.zeros(4), 1.0).shape == (4,)
    with torch.inference_mode():
        assert model(torch.zeros(2, 3), 1.0).shape == (2, 3)


# Classes and guidance.


def test_a_network_is_told_its_labels() -> None:
    """By what it returns for each, the label, which the score must follow; no class is −1, not the first one."""
    model, label = ncsn.ScoreModel(Classed(), 0.0, 1.0), torch.tensor([2, 0, 5])
    x = torch.zeros(3, 2)
    # s = −x/(σ² + 1) + F/(σ√(σ² + 1)) with F the label.
    expected = label[:, None].float().expand(3, 2) / (0.5 * (0.25 + 1) ** 0.5)
    torch.testing.assert_close(model(x, 0.5, label), expected)
    torch.testing.assert_close(model(x, 0.5), model(x, 0.5, torch.full((3,), -1)))
    assert [m.num_classes for m in (model, ncsn.ScoreModel(ncsn.UNet(1, (8,), 1, 8)))] == [6, 0]


def test_a_guide_is_left_behind_between_two_noise_levels_only() -> None:
    """Both of which belong to them."""
    x, score, guide = torch.ones(4, 2), GaussianScore(0.0, 1.0), Counting(GaussianScore(0.0, 3.0))
    both, always = ncsn.add_guidance(score, guide, 2.5, between=(0.5, 1.0)), ncsn.add_guidance(score, guide, 2.5)
    alone, other = score(x, LEVELS), guide(x, LEVELS)
    everywhere = other + 2.5 * (alone - other)
    torch.testing.assert_close(always(x, LEVELS), everywhere)
    inside = torch.tensor([[False], [True], [True], [False]])
    torch.testing.assert_close(both(x, LEVELS), torch.where(inside, everywhere, alone))
    for level in (0.5, 1.0):
        torch.testing.assert_close(both(x, level), always(x, level))
    evaluations = guide.nfe
    both(x, torch.tensor(3.0))
    ncsn.add_guidance(score, guide, 1.0)(x, LEVELS)
    assert guide.nfe == evaluations, "where it would not matter it is not asked"


# Batches.


@given(n=st.integers(1, 40), most=st.integers(1, 12), classed=st.booleans())
def test_batches_are_few_even_and_of_one_shape_and_samples_do_not_depend_on_them(
    n: int, most: int, classed: bool
) -> None:
    sizes: list[int] = []

    def score(x: Tensor, sigma: float | Tensor, label: Tensor | None = None, /) -> Tensor:
        sizes.append(len(x))
        return GaussianScore(0.0, 1.0)(x, sigma) + (0 if label is None else label[:, None])

    run = ncsn.Run.of(score, (3,), sigma_max=5.0, sigma_min=0.5)
    label = torch.arange(n) if classed else "none"
    if classed:
        run = replace(run, recipe=replace(run.recipe, arguments={"num_classes": n}))
    steps = run.steps(n, start=points(n=n), label=label, batch_size=most, sampler="euler", levels=2)
    x = steps.last()
    assert steps.nfe == 2
    batches, (size,) = len(sizes) // 2, {*sizes}
    assert 1 <= size <= most
    assert batches == -(-n // most)
    assert batches * size - n < batches, "filled up by less than one in each"
    assert torch.equal(x, run.sample(n, start=points(n=n), label=label, batch_size=n, sampler="euler", levels=2))
