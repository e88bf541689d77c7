"""The control ladder: sets of images whose order is known must come out in it; a ruler that misranks them is none."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ncsn import evaluation
from ncsn.kinds.images.judge import pick_evenly
from ncsn.kinds.images.read import mnist

LADDER = ("noise 0.01", "noise 0.1", "noise 0.3", "noise 1")
N = 1000


def noisy(x: Tensor, sigma: float) -> Tensor:
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + 255 * sigma * z).round().clamp(0, 255).to(torch.uint8)


def gaussians(validation: Tensor, labels: Tensor) -> Tensor:
    """Draws of the Gaussian of each digit's mean and covariance: better than noise."""
    draws = []
    for digit in range(10):
        real = validation[labels == digit].flatten(1).float()
        z = torch.randn(N // 10, len(real), generator=torch.Generator().manual_seed(digit)) / len(real) ** 0.5
        draws.append(real.mean(0) + z @ (real - real.mean(0)))
    return torch.cat(draws).view(-1, 1, 28, 28).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.slow
def test_the_ladder_of_digits() -> None:
    """More noise is worse, and each fault shows in the number that is about it."""
    digits = mnist()
    assert digits.labels is not None
    images, labels = replace(digits, train=digits.train[:3000]), digits.labels.validation
    real, half = pick_evenly(images.validation, N), images.train[: N // 2]
    without = images.validation[labels != 1]
    controls = {
        "real": real,
        **{name: noisy(real, float(name.split()[1])) for name in LADDER},
        "blurred": F.avg_pool2d(real.float(), 5, 1, 2).round().to(torch.uint8),
        "repeats": torch.cat([half, half]),
        "one class missing": without[:N],
        "pure noise": noisy(torch.zeros_like(real), 1.0),
        "gaussians": gaussians(images.validation, labels),
    }
    ruler = evaluation.Ruler(images, evaluation.digits(), N)
    found = {name: ruler.judge(x) for name, x in controls.items()}
    numbers = {name: {k: m.generated for k, m in each.metrics.items()} for name, each in found.items()}
    for distance in ("kernel_distance", "frechet_distance"):
        score = {name: each[distance] for name, each in numbers.items()}
        # As far away as pure noise nothing is recognised, and what is farther still is chance.
        steps = [min(score[name], score["pure noise"]) for name in LADDER]
        assert steps == sorted(steps), f"{distance}: {score}"
        assert score["real"] == found["real"].metrics[distance].held_out
        assert score["pure noise"] > max(score["noise 0.1"], score["repeats"], score["gaussians"])
    # The Fréchet distance is mostly its bias for so few images.
    kernel = {name: each["kernel_distance"] for name, each in numbers.items()}
    assert all(kernel["real"] < 0.5 * kernel[name] for name in ("noise 0.1", "blurred", "gaussians"))
    assert (numbers["repeats"]["memorisation"], numbers["repeats"]["near_duplicates"]) == (1, 1)
    assert numbers["real"]["memorisation"] == pytest.approx(0.5, abs=0.1)
    assert numbers["real"]["density"] == pytest.approx(1, abs=0.15)
    assert numbers["pure noise"]["coverage"] < 0.2 < 0.8 < numbers["real"]["coverage"]
    assert numbers["real"]["confident"] > numbers["noise 0.3"]["confident"]
    assert numbers["one class missing"]["class_variation"] > 0.09 > numbers["real"]["class_variation"]
    missing = found["one class missing"]
    assert missing.generated_histogram[1] < 0.5 * missing.held_out_histogram[1]
