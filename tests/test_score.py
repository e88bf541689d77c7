import pytest
import torch
from helpers import GaussianScore, unchecked
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ncsn.model import Scaled, ScoreModel
from ncsn.networks import MLP, UNet
from ncsn.objectives import dsm
from ncsn.score import Counted, Sigma, batched, conditioned, even, expand, guided, tweedie


class Zero(nn.Module):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Sine(nn.Module):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.sin(3 * x) + c.view(-1, *[1] * (x.ndim - 1))


def test_expand_broadcasts_scalars_and_vectors() -> None:
    x = torch.zeros(3, 2, 4)
    assert expand(torch.tensor(2.0), x).shape == (3, 1, 1)
    assert expand(torch.tensor([1.0, 2.0, 3.0]), x).flatten().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1)])
def test_expand_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with unchecked(), pytest.raises(ValueError, match="one noise level per example"):
        expand(torch.ones(shape), torch.zeros(3, 2))


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(0.01, 50))
def test_tweedie_is_the_posterior_mean_of_a_gaussian(mean: float, std: float, sigma: float) -> None:
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    expected = (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)
    torch.testing.assert_close(tweedie(GaussianScore(mean, std), x, torch.tensor(sigma, dtype=torch.float64)), expected)


@given(st.floats(-2, 2), st.floats(0.05, 5), st.floats(0.005, 80))
def test_zero_network_is_the_score_of_a_gaussian(mean: float, std: float, sigma: float) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    model = ScoreModel(Zero(), mean, std)
    torch.testing.assert_close(model(x, torch.tensor(sigma)), GaussianScore(mean, std)(x, torch.tensor(sigma)))


def test_one_sigma_or_one_per_example_agree() -> None:
    model, x = ScoreModel(Sine(), 0.5, 2.0), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x, torch.tensor(0.3)), model(x, torch.full((4,), 0.3)))


@given(st.floats(0.01, 20))
def test_residual_weight_turns_dsm_into_the_error_of_the_residual(sigma: float) -> None:
    # F* is what the network would have to return for the score to point from the noisy to the clean example.
    mean, std, x = (
        0.3,
        1.7,
        torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
    )
    model = ScoreModel(Sine(), mean, std).double()
    level = torch.full((6,), sigma, dtype=torch.float64)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    noisy, total = x + sigma * z, (sigma**2 + model.data_std**2).sqrt()
    target = (-z / sigma + (noisy - model.data_mean) / total**2) * sigma * total / model.data_std
    error = Sine()((noisy - model.data_mean) / total, level.log() / 4) - target
    loss = dsm(model, x, level, generator=torch.Generator().manual_seed(3)) * model.residual_weight(level)
    torch.testing.assert_close(loss, error.square().sum(1))


def test_data_std_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ScoreModel(Zero(), 0.0, 0.0)


@given(st.integers(1, 9), st.booleans())
def test_batched_is_the_same_score(size: int, one_sigma: bool) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor(0.5) if one_sigma else torch.linspace(0.1, 2, 8)
    score = GaussianScore(0.0, 1.0)
    assert torch.equal(batched(score, size)(x, sigma), score(x, sigma))


@given(n=st.integers(1, 3000), most=st.integers(1, 600))
def test_parts_are_even_and_as_few_as_can_be(n: int, most: int) -> None:
    size = even(n, most)
    parts = -(-n // size)
    assert 1 <= size <= most
    assert parts == -(-n // most)
    assert parts * size - n < parts, "filled up by less than one in each"


def test_counted_counts() -> None:
    score = Counted(GaussianScore(0.0, 1.0))
    for _ in range(3):
        score(torch.zeros(2, 2), torch.tensor(1.0))
    assert score.nfe == 3


@given(st.floats(0.01, 20))
def test_scaled_score_is_the_network_over_the_noise_level(sigma: float) -> None:
    model, x = (
        ScoreModel(Sine(), 0.3, 1.0, preconditioning=Scaled()),
        torch.randn(4, 3, generator=torch.Generator().manual_seed(2)),
    )
    level = torch.full((4,), sigma)
    torch.testing.assert_close(model(x, level), Sine()(x - 0.3, level.log() / 4) / sigma)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    loss = dsm(model, x, level, generator=torch.Generator().manual_seed(3)) * model.residual_weight(level)
    expected = (Sine()(x + sigma * z - 0.3, level.log() / 4) + z).square().sum(1)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


class Classed(nn.Module):
    """A network that is told classes: a constant for each, −1 for no class."""

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        known = torch.full((len(x),), -1) if label is None else label
        return known.to(x.dtype)[:, None].expand_as(x)


def test_guidance_goes_beyond_the_score_of_the_class() -> None:
    model, x, sigma = ScoreModel(Classed(), 0.0, 1.0), torch.zeros(3, 2), torch.tensor(1.0)
    label = torch.tensor([0, 4, 7])
    free, given = model(x, sigma), model(x, sigma, label)
    torch.testing.assert_close(model.given(label)(x, sigma), given)
    torch.testing.assert_close(model.given(label, guidance=0.0)(x, sigma), free)
    torch.testing.assert_close(model.given(label, guidance=2.5)(x, sigma), free + 2.5 * (given - free))
    torch.testing.assert_close(model.given(torch.tensor(4))(x, sigma)[0], given[1])
    torch.testing.assert_close(batched(model, 2, label)(x, sigma), given)


@given(st.floats(1, 4), st.floats(0.3, 2), st.floats(0.1, 5))
def test_guiding_a_gaussian_by_a_wider_one_sharpens_it(weight: float, std: float, sigma: float) -> None:
    """In closed form: precisions add up, w/(s² + σ²) − (w − 1)/(g² + σ²), around the common mean."""
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    score, guide = GaussianScore(0.5, std), GaussianScore(0.5, 2 * std)
    precision = weight / (std**2 + sigma**2) - (weight - 1) / (4 * std**2 + sigma**2)
    found = guided(score, guide, weight)(x, torch.tensor(sigma, dtype=torch.float64))
    torch.testing.assert_close(found, precision * (0.5 - x))
    assert precision >= (1 - 1e-9) / (std**2 + sigma**2)


def test_a_guide_is_asked_between_two_noise_levels_only() -> None:
    x, sigma = torch.ones(4, 2), torch.tensor([0.05, 0.5, 1.0, 5.0])
    score, guide = GaussianScore(0.0, 1.0), Counted(GaussianScore(0.0, 3.0))
    both = guided(score, guide, 2.0, between=(0.1, 1.5))
    found, everywhere = both(x, sigma), guided(score, guide, 2.0)(x, sigma)
    torch.testing.assert_close(found[[0, 3]], score(x, sigma)[[0, 3]])
    torch.testing.assert_close(found[[1, 2]], everywhere[[1, 2]])
    assert guide.nfe == 2
    both(x, torch.tensor(3.0))
    guided(score, guide, 1.0)(x, sigma)
    assert guide.nfe == 2


@pytest.mark.parametrize("sigma", [1.5, torch.tensor(1.5, dtype=torch.float64), torch.full((4,), 1.5).double()])
def test_a_noise_level_may_be_a_float_or_of_another_precision(sigma: Sigma) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for score in (GaussianScore(0.2, 0.7), ScoreModel(Sine(), 0.5, 2.0), guided(Zero3(), GaussianScore(0, 1), 2.0)):
        found = score(x, sigma)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, score(x, torch.tensor(1.5)))


class Zero3:
    def __call__(self, x: Tensor, sigma: Sigma, /) -> Tensor:
        return 0 * x


def test_points_in_double_precision_ask_a_network_in_single(generator: torch.Generator) -> None:
    model = ScoreModel(MLP(3, 8, 1), 0.5, 2.0)
    nn.init.normal_(model.network.output.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found = model(x, 0.3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), model(x.float(), 0.3))


def test_empty_batches_and_batches_of_numbers() -> None:
    model = ScoreModel(MLP(3, 8, 1), 0.5, 2.0)
    assert model(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert batched(model, 5)(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert GaussianScore(0, 1)(torch.zeros(4), 1.0).shape == (4,)
    with torch.inference_mode():
        assert model(torch.zeros(2, 3), 1.0).shape == (2, 3)


@pytest.mark.parametrize(
    ("network", "x", "needed"),
    [
        (MLP(3, 8, 1), torch.zeros(3), r"\(3,\); \(b, 3\) is needed"),
        (MLP(3, 8, 1), torch.zeros(5, 2), r"\(5, 2\); \(b, 3\) is needed"),
        (UNet(1, (8,), 1, 8), torch.zeros(1, 8, 8), r"\(1, 8, 8\); \(b, 1, h, w\) is needed"),
        (UNet(1, (8,), 1, 8), torch.zeros(2, 3, 8, 8), r"\(2, 3, 8, 8\); \(b, 1, h, w\) is needed"),
    ],
)
def test_examples_of_another_shape_are_named(network: nn.Module, x: Tensor, needed: str) -> None:
    with unchecked(), pytest.raises(ValueError, match="x has shape " + needed):
        ScoreModel(network)(x, 1.0)
    with unchecked(), pytest.raises(ValueError, match="a batch of examples"):
        expand(1.0, torch.tensor(1.0))


def test_a_network_is_told_its_labels(generator: torch.Generator) -> None:
    """By what it returns for each: the label, which the score must follow."""
    model = ScoreModel(Classed(), 0.0, 1.0)
    x, label = torch.zeros(3, 2), torch.tensor([2, 0, 5])
    # s = −x/(σ² + 1) + F/(σ√(σ² + 1)) with F the label.
    expected = label[:, None].float().expand(3, 2) / (0.5 * (0.25 + 1) ** 0.5)
    torch.testing.assert_close(model(x, 0.5, label), expected)
    torch.testing.assert_close(conditioned(model, label)(x, 0.5), expected)
    torch.testing.assert_close(conditioned(model, None)(x, 0.5), model(x, 0.5))


@pytest.mark.filterwarnings("ignore")  # of torch, inside its compiler
def test_guided_compiles_as_one_graph(generator: torch.Generator) -> None:
    both = guided(GaussianScore(0.0, 1.0), GaussianScore(0.0, 3.0), 2.0, between=(0.1, 1.5))
    x = torch.randn(4, 2, generator=generator)
    torch.compiler.reset()  # other tests' graphs count against torch's limit
    with unchecked():
        compiled = torch.compile(both, fullgraph=True, backend="eager")
        for sigma in (torch.tensor(0.5), torch.tensor(5.0), torch.tensor([0.05, 0.5, 1.0, 5.0])):
            torch.testing.assert_close(compiled(x, sigma), both(x, sigma))


def test_the_unet_can_be_mapped_and_differentiated_example_by_example(generator: torch.Generator) -> None:
    network = UNet(1, (8,), 1, 8)
    nn.init.normal_(network.head.weight, generator=generator)
    x, c = torch.randn(3, 1, 4, 4, generator=generator), torch.zeros(1)
    with unchecked():
        mapped = torch.func.vmap(lambda one: network(one[None], c)[0])(x)
        torch.testing.assert_close(mapped, network(x, c))
        jacobians = torch.func.vmap(torch.func.jacrev(lambda one: network(one[None], c)[0].sum()))(x)
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(network(x, c).sum(), x)
    torch.testing.assert_close(jacobians, expected)
