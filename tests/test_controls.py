"""The control ladder: sets of images whose order is known must come out in it; a ruler that misranks them is none."""

from dataclasses import replace
from pathlib import Path

import platformdirs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ncsn
from ncsn import evaluation
from ncsn.data import Images, mnist
from ncsn.data.pixels import quantize
from ncsn.evaluation import Evaluation, Features, features

LADDER = ("noise 0.01", "noise 0.1", "noise 0.3", "noise 1")


def noisy(x: Tensor, sigma: float) -> Tensor:
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + 255 * sigma * z).round().clamp(0, 255).to(torch.uint8)


def controls(images: Images, n: int) -> dict[str, Tensor]:
    """Sets of ``n`` images of known quality."""
    assert images.labels is not None
    real, half = images.validation[:n], images.train[: n // 2]
    without = images.validation[images.labels.validation != 1]
    return {
        "real": real,
        **{name: noisy(real, float(name.split()[1])) for name in LADDER},
        "blurred": F.avg_pool2d(real.float(), 5, 1, 2).round().to(torch.uint8),
        "repeats": torch.cat([half, half]),
        "one class missing": without[torch.arange(n) % len(without)],
        "pure noise": noisy(torch.zeros_like(real), 1.0),
    }


def check_order(images: Images, seen_by: Features, n: int, **more: Tensor) -> dict[str, Evaluation]:
    """Judge all controls: more noise must be worse, and each fault must show in the number that is about it."""
    ruler = evaluation.Ruler(images, seen_by, n)
    found = {name: ruler.judge(x) for name, x in (controls(images, n) | more).items()}
    for distance in ("kernel_distance", "frechet_distance"):
        score = {name: each.metrics[distance].generated for name, each in found.items()}
        # As far away as pure noise nothing is recognised, and what is farther still is chance.
        steps = [min(score[name], score["pure noise"]) for name in LADDER]
        assert steps == sorted(steps), f"{distance}: {score}"
        assert score["real"] == found["real"].metrics[distance].held_out
        assert score["pure noise"] > max(score["noise 0.1"], score["repeats"]), f"{score}"
    # The Fréchet distance is mostly its bias for so few images, half of what noise 0.1 adds to it.
    kernel = {name: each.metrics["kernel_distance"].generated for name, each in found.items()}
    assert kernel["real"] < 0.5 * min(kernel["noise 0.1"], kernel["blurred"])
    numbers = {name: {k: m.generated for k, m in each.metrics.items()} for name, each in found.items()}
    assert (numbers["repeats"]["memorisation"], numbers["repeats"]["near_duplicates"]) == (1, 1)
    assert numbers["real"]["memorisation"] == pytest.approx(0.5, abs=0.1)
    assert numbers["real"]["density"] == pytest.approx(1, abs=0.15)
    assert numbers["pure noise"]["coverage"] < 0.2 < 0.8 < numbers["real"]["coverage"]
    assert numbers["one class missing"]["class_variation"] > numbers["real"]["class_variation"]
    missing = found["one class missing"]
    assert missing.generated_histogram[1] < 0.5 * missing.held_out_histogram[1]
    return found


@pytest.mark.slow
def test_the_ladder_of_digits_in_a_classifier_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path)
    monkeypatch.setattr(features, "SEEN", 12_500)
    images = replace(mnist(), train=mnist().train[:5000])
    assert images.labels is not None
    images = replace(images, labels=replace(images.labels, train=images.labels.train[:5000]))
    classifier = evaluation.choose(images, "classifier")
    assert classifier.accuracy is not None
    assert classifier.accuracy > 0.9
    check_order(images, classifier, 400)


@pytest.mark.slow
def test_the_ladder_of_digits_in_the_classifier_of_the_package() -> None:
    n, images = 1000, mnist()
    assert images.labels is not None
    gaussians = []
    for digit in range(10):
        real = images.validation[images.labels.validation == digit].flatten(1).float()
        z = torch.randn(n // 10, len(real), generator=torch.Generator().manual_seed(digit)) / len(real) ** 0.5
        gaussians.append(real.mean(0) + z @ (real - real.mean(0)))
    more = {
        "gaussians": torch.cat(gaussians).view(-1, 1, 28, 28).round().clamp(0, 255).to(torch.uint8),
        "langevin": quantize(ncsn.load("mnist").sample(n, sampler="langevin", steps=5, batch_size=250)),
    }
    found = check_order(replace(images, train=images.train[:10_000]), evaluation.digits(), n, **more)
    for distance in ("kernel_distance", "frechet_distance"):
        score = {name: each.metrics[distance].generated for name, each in found.items()}
        assert all(score["real"] < 0.5 * score[name] for name in score if name not in ("real", "noise 0.01", "repeats"))
        assert score["gaussians"] < min(score["pure noise"], score["langevin"])
    assert found["real"].metrics["confident"].generated > found["noise 0.3"].metrics["confident"].generated
    variation = {name: each.metrics["class_variation"].generated for name, each in found.items()}
    assert variation["one class missing"] > 0.09 > variation["real"]
