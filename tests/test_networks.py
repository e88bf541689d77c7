from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import SAMPLING, unchecked
from refinenet import NCSN
from torch import nn

from ncsn import Recipe
from ncsn.evaluation.classifier import Classifier
from ncsn.networks import MLP, UNet

Arguments = dict[str, Any]


def of_recipe(name: str, arguments: Arguments) -> Any:
    """The untrained network that a recipe names."""
    return Recipe(network=name, arguments=arguments, shape=(1,), sampling=SAMPLING).build().network


def of_rows(dimensions: int, blocks: int, *, conditional: bool = False) -> Any:
    """The network that ``fit`` trains on tables."""
    arguments = {"dimensions": dimensions, "width": 16, "blocks": blocks, "conditional": conditional}
    return of_recipe("ResidualMLP", arguments)


NEW = [
    (MLP(3, width=16, layers=2), (3,)),
    (of_rows(3, 2), (3,)),
    (of_rows(3, 2, conditional=True), (12,)),
    (UNet(2, channels=(8, 16), blocks=1, features=16), (2, 12, 8)),
    (UNet(2, channels=(8, 16), blocks=1, features=16, dimensions=1), (2, 13)),
    (UNet(2, channels=(8, 16), blocks=1, features=16, dimensions=3), (2, 3, 5, 4)),
    (NCSN(2, width=4, features=8), (2, 13, 7)),
    (NCSN(2, width=4, sigmas=(1.0, 10.0)), (2, 12, 8)),
]


@pytest.mark.parametrize(("network", "shape"), NEW)
def test_a_new_network_is_zero_and_a_trained_one_depends_on_everything(
    network: nn.Module, shape: tuple[int, ...], generator: torch.Generator
) -> None:
    x = torch.randn(2, *shape, generator=generator).requires_grad_()
    new = network(x, torch.tensor([0.1]))
    assert new.shape[1:] == ((3,) if shape == (12,) else shape)
    assert not new.any()
    for p in network.parameters():
        nn.init.normal_(p, std=0.2, generator=generator)
    y = network(x, torch.tensor([0.1]))
    assert not torch.allclose(y, network(x, torch.tensor([0.9])), rtol=1e-3)
    torch.testing.assert_close(y, network(x, torch.tensor([0.1, 0.1])))
    (gradient,) = torch.autograd.grad(y[0].square().sum(), x)
    assert bool((gradient[0] != 0).all())
    assert not gradient[1].any(), "examples do not mix"


@pytest.mark.parametrize("size", [(28, 28), (30, 30), (33, 47), (105, 105), (1, 3), (1,), (40,), (13, 5, 8)])
def test_unet_takes_any_size_and_pads_with_zeros_inside(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = UNet(2, (8, 8, 8), blocks=1, features=8, dimensions=len(size))
    torch.nn.init.normal_(network.head.weight, std=0.1)
    x, c = torch.randn(2, 2, *size), torch.zeros(2)
    padded = F.pad(x, [n for side in reversed(size) for n in (0, -side % 8)])
    value = network(x, c)
    inside = tuple(map(slice, (2, 2, *size)))
    torch.testing.assert_close(value, network(padded, c)[inside])
    assert bool((value != 0).any())


def test_narrow_images_are_the_same_in_every_precision(generator: torch.Generator) -> None:
    """On AMX, torch's own bfloat16 convolution of them reads memory that nobody has written."""
    network, x, c = UNet(1, (8, 16), 1, 8), torch.randn(2, 1, 64, 4, generator=generator), torch.zeros(2)
    for p in network.parameters():
        nn.init.normal_(p, std=0.1, generator=generator)
    exact = network(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        values = [network(x, c) for _ in range(2)]
    assert torch.equal(*values)
    torch.testing.assert_close(values[0].float(), exact, atol=0.05, rtol=0)
    for dtype, most in ((torch.float64, 1e-4), (torch.bfloat16, 0.05)):
        value = network.to(dtype)(x.to(dtype), c.to(dtype))
        torch.testing.assert_close(value, exact.to(dtype), atol=most, rtol=0)


def test_a_new_block_is_the_identity(generator: torch.Generator) -> None:
    """However many there are, the network is that of its other layers.  Each adds its input on the way up once more."""
    few, many = (UNet(1, (4,), blocks=blocks, features=8) for blocks in (1, 3))
    nn.init.normal_(few.head.weight, generator=generator)
    for name in ("embedding", "stem", "norm", "head"):
        getattr(many, name).load_state_dict(getattr(few, name).state_dict())
    for weight in many.stem.parameters():
        weight.data /= 2
    x, c = torch.randn(3, 1, 8, 8, generator=generator), torch.randn(3, generator=generator)
    value = few(x, c)
    assert bool((value != 0).all())
    torch.testing.assert_close(many(x, c), value)


@pytest.mark.parametrize(("name", "value"), [("channels", ()), ("channels", (8, 0)), ("blocks", 0), ("dimensions", 4)])
def test_networks_of_ones_own_need_all_parts(name: str, value: Any) -> None:
    with unchecked(), pytest.raises(ValueError, match=name):
        UNet(**{name: value})


def test_classes_matter_once_trained_and_minus_one_is_none() -> None:
    torch.manual_seed(0)
    network, x, c = UNet(1, (8,), 1, 8, num_classes=3), torch.randn(2, 1, 4, 4), torch.zeros(2)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    a, b = network(x, c, torch.tensor([0, 2])), network(x, c, torch.tensor([1, 2]))
    assert not torch.allclose(a[0], b[0], rtol=1e-3)
    assert torch.equal(a[1], b[1])
    torch.testing.assert_close(network(x, c, torch.tensor([-1, -1])), network(x, c))
    torch.testing.assert_close(network(x, c[:1]), network(x, c))


@pytest.mark.parametrize(("size", "smaller"), [((28, 30), (28, 30)), ((63, 90), (63, 90)), ((96, 130), (32, 43))])
def test_the_classifier_averages_large_images(size: tuple[int, int], smaller: tuple[int, int]) -> None:
    classifier, x = Classifier(3, size, num_classes=7).eval(), torch.rand(2, 3, *size)
    assert classifier.shrink(x).shape[2:] == smaller
    assert classifier(x).shape == (2, 7)
    assert classifier.features(x).shape == (2, 128)
    with pytest.raises(ValueError, match=f"{size[0]} x 3"):
        Classifier(1, (size[0], 3))


LAST = ("output.weight", "output.bias")  # layer of a network of rows
PICTURES = (torch.arange(128.0) * 0.37).sin().view(2, 1, 8, 8)
GOLDEN: dict[str, tuple[nn.Module, list[float]]] = {
    "unet": (UNet(1, (4, 6), 2, 8), [0.4946, 0.854, -0.0295, 0.4911, 0.4942, 0.8638, -0.0427, 0.4832]),
    "classes": (UNet(1, (4, 6), 1, 8, 3), [1.0267, 0.2867, 0.7824, -0.0564, 1.0286, 0.289, 0.7586, -0.0108]),
    "three": (UNet(1, (4, 2, 6), 3, 8), [0.3266, 0.4709, 0.6395, 0.3811, 0.3265, 0.4755, 0.6405, 0.3831]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_networks_with_fixed_weights_return_what_they_always_did(name: str) -> None:
    """The first two and the last two numbers at two noise levels, written down: a change makes old weights useless.

    Those of an MLP stand in web/test/values.json.
    """
    network, expected = GOLDEN[name]
    label = [torch.tensor([2, -1])] if name == "classes" else []
    for i, p in enumerate(network.parameters()):
        waves = (torch.arange(p.numel()).double() * (1.3 + i / 50)).sin()
        p.data = (waves * (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.5 + waves / 4).view(p.shape).float()
    y = network(PICTURES, torch.tensor([-0.4, 0.7]), *label)
    torch.testing.assert_close(y.flatten(1)[:, [0, 1, -2, -1]].flatten(), torch.tensor(expected), rtol=1e-3, atol=2e-4)


def test_a_conditional_network_sees_what_is_far_out_as_if_it_were_nearer() -> None:
    """And what is near nearly as it is; of four numbers for each dimension."""
    network = of_rows(2, 1, conditional=True)
    torch.nn.init.normal_(network.output.weight)
    free = of_rows(8, 1)
    weights = network.state_dict()
    free.load_state_dict(weights | {name: weights[name].repeat(4, *[1] * (weights[name].ndim - 1)) for name in LAST})
    near, level = torch.tensor([[0.5, -0.5] * 4]), torch.zeros(1)
    far = torch.tensor([[number] * 8 for number in (60.0, 90.0, 3.0, 4.0)])
    assert network(near, level).shape == (1, 2)
    torch.testing.assert_close(network(near, level), free(near, level)[:, :2], atol=0.01, rtol=0.01)
    outer, beyond, inner, next_to_it = network(far, level)
    assert torch.equal(outer, beyond)
    assert not torch.allclose(inner, next_to_it, atol=1e-3)
    one, other = free(far[:2], level)
    assert not torch.allclose(one, other, atol=1e-3)
    torch.testing.assert_close(network(far, level), free(5 * torch.tanh(far / 5), level)[:, :2])
