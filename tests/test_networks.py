from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ncsn.networks import MLP, NCSN, UNet
from ncsn.networks.unet import ChannelNorm, Convolution


def networks() -> list[tuple[nn.Module, tuple[int, ...]]]:
    return [
        (MLP(3, width=16, layers=2), (3,)),
        (UNet(2, channels=(8, 16), blocks=1, features=16), (2, 12, 8)),
        (NCSN(2, width=4, features=8), (2, 12, 8)),
        (NCSN(2, width=4, sigmas=(1.0, 10.0)), (2, 12, 8)),
    ]


@pytest.mark.parametrize(("network", "shape"), networks())
def test_untrained_network_is_zero_and_keeps_the_shape(network: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(x, torch.zeros(5)), torch.zeros_like(x))


@pytest.mark.parametrize(("network", "shape"), networks())
def test_noise_level_and_every_input_matter_once_trained(network: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    x = torch.randn(2, *shape).requires_grad_()
    y = network(x, torch.tensor([0.1]))
    assert not torch.allclose(y, network(x, torch.tensor([0.9])), rtol=1e-3)
    torch.testing.assert_close(y, network(x, torch.tensor([0.1, 0.1])))
    (gradient,) = torch.autograd.grad(y[0].square().sum(), x)
    assert bool((gradient[0] != 0).all())
    assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))  # examples do not mix


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution_is_torchs(size: int, stride: int) -> None:
    layer = Convolution(4, 6, size, stride=stride)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    kernel = layer.weight.detach().view(6, size, size, 4).permute(0, 3, 1, 2)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, stride=stride, padding=size // 2))


def test_channel_norm_has_unit_mean_square_at_every_pixel() -> None:
    y = ChannelNorm(16)(7 * torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(y.square().mean(1), torch.ones(2, 3, 3), rtol=1e-4, atol=0)


def test_unet_refuses_sizes_that_do_not_halve() -> None:
    with pytest.raises(ValueError, match="30 x 28 pixels; multiples of 4"):
        UNet()(torch.zeros(1, 1, 30, 28), torch.zeros(1))


@pytest.mark.parametrize("arguments", [{"channels": ()}, {"channels": (8, 0)}, {"blocks": 0}, {"image_channels": 0}])
def test_unet_refuses_empty_parts(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="all >= 1"):
        UNet(**arguments)


def test_mlp_refuses_empty_parts() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MLP(2, width=0)


def test_classes_matter_once_trained_and_minus_one_is_none() -> None:
    torch.manual_seed(0)
    network, x, c = UNet(1, (8,), 1, 8, classes=3), torch.randn(2, 1, 4, 4), torch.zeros(2)
    for p in network.parameters():
        nn.init.normal_(p, std=0.2)
    a, b = network(x, c, torch.tensor([0, 2])), network(x, c, torch.tensor([1, 2]))
    assert not torch.allclose(a[0], b[0], rtol=1e-3)
    assert torch.equal(a[1], b[1])
    torch.testing.assert_close(network(x, c, torch.tensor([-1, -1])), network(x, c))
    torch.testing.assert_close(network(x, c[:1]), network(x, c))
