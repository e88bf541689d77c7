import pytest
import torch
from torch import Tensor, nn

from ncsn.recipe import PRECONDITIONINGS, Argument, PreconditioningName, Recipe
from ncsn.samplers import Sampling

SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.5, sampler="heun", levels=4, steps=1, eps=0.05)


class ThreeQuarters(nn.Module):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return 0.75 * x + c[:, None]


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_a_recipe_builds_the_score_that_it_names(name: PreconditioningName, generator: torch.Generator) -> None:
    """In closed form, for a network that returns ¾ of what it is shown, and c; with μ = 0.3 and σ_d = 1.7."""
    recipe = Recipe(network="Mine", arguments={}, preconditioning=name, shape=(3,), sampling=SAMPLING)
    model = recipe.build(0.3, 1.7, network=ThreeQuarters())
    x, sigma = torch.randn(5, 3, generator=generator), torch.tensor([0.2, 0.5, 1.0, 3.0, 9.0])
    level, centred, total = sigma[:, None], x - 0.3, (sigma[:, None] ** 2 + 1.7**2).sqrt()
    c = level.log() / 4
    expected = {
        "karras": -centred / total**2 + 1.7 / (level * total) * (0.75 * centred / total + c),
        "scaled": (0.75 * centred + c) / level,
        "plain": 0.75 * centred + c,
    }
    torch.testing.assert_close(model(x, sigma), expected[name])
    weight = 2 * (sigma**2 + 1.7**2) / 1.7**2 if name == "karras" else torch.full((5,), 2.0)
    torch.testing.assert_close(model.residual_weight(sigma), weight)


def test_a_recipe_knows_images_and_classes() -> None:
    points = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8}, shape=(2,), sampling=SAMPLING)
    images = Recipe(network="UNet", arguments={"classes": 3}, shape=(1, 8, 8), sampling=SAMPLING)
    assert (points.images, points.classes) == (False, 0)
    assert (images.images, images.classes) == (True, 3)
    assert points.build().network.hidden[0].weight.shape == (8, 2)  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match="Mine is no network of this package"):
        Recipe(network="Mine", arguments={}, shape=(2,), sampling=SAMPLING).build()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("MLP", {"dimensions": 2, "width": 8}),
        ("UNet", {"channels": (4, 8), "classes": 3}),
        ("NCSN", {"width": 4, "sigmas": (2.0, 1.0)}),
        ("NCSN", {"width": 4, "features": 8}),
        ("NCSNv2", {"width": 4}),
    ],
)
def test_an_outline_is_the_network_and_draws_no_random_number(name: str, arguments: dict[str, Argument]) -> None:
    """Or else looking at a network first would change the one that is trained."""
    recipe = Recipe(network=name, arguments=arguments, shape=(1, 8, 8), sampling=SAMPLING)
    before = torch.get_rng_state()
    outline = recipe.outline()
    assert torch.equal(torch.get_rng_state(), before)
    network = recipe.build().network
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert [(n, p.shape) for n, p in outline.named_parameters()] == [
        (n, p.shape) for n, p in network.named_parameters()
    ]


def test_a_recipe_of_nothing_that_could_be_built_is_refused() -> None:
    for change in (
        {"shape": ()},
        {"shape": (0,)},
        {"shape": (1, 10**5, 8)},
        {"shape": (10**10,)},
        {"arguments": {"width": -1}},
    ):
        with pytest.raises(ValueError, match=r"^(shape|width) is .* are needed"):
            Recipe(**{"network": "MLP", "arguments": {}, "shape": (2,), "sampling": SAMPLING, **change})  # type: ignore[arg-type]
    large = Recipe(network="MLP", arguments={"dimensions": 2, "width": 2**20}, shape=(2,), sampling=SAMPLING)
    with pytest.raises(ValueError, match=r"MLP has [\d,]+ weights with these arguments; at most"):
        large.build()
