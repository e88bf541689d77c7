"""The harness is tested on sets whose order is known: a ruler that ranks them wrongly measures nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ncsn
from ncsn import cli, evaluation, metrics
from ncsn.data import mnist, mnist_labels
from ncsn.pixels import quantize

N = 1000
IMAGES = mnist()
CLASSIFIER = evaluation.load_classifier()
TEST = evaluation.judge(CLASSIFIER, IMAGES.test[:N])


def noisy(x: Tensor, sigma: float) -> Tensor:
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + 255 * sigma * z).round().clamp(0, 255).to(torch.uint8)


def ladder() -> dict[str, Tensor]:
    real, labels = IMAGES.validation[:N], mnist_labels()[1]
    gaussians = []
    for digit in range(10):
        of_digit = IMAGES.validation[labels == digit].flatten(1).float()
        z = torch.randn(N // 10, len(of_digit), generator=torch.Generator().manual_seed(digit)) / len(of_digit) ** 0.5
        gaussians.append(of_digit.mean(0) + z @ (of_digit - of_digit.mean(0)))
    return {
        "real": real,
        "noise 0.01": noisy(real, 0.01),
        "noise 0.1": noisy(real, 0.1),
        "noise 0.3": noisy(real, 0.3),
        "blurred": F.avg_pool2d(real.float(), 5, 1, 2).round().to(torch.uint8),
        "no ones": IMAGES.validation[labels != 1][:N],
        "gaussians": torch.cat(gaussians).view(-1, 1, 28, 28).round().clamp(0, 255).to(torch.uint8),
        "pure noise": noisy(torch.zeros(N, 1, 28, 28), 1.0),
        "single-σ Langevin": langevin_alone(),
    }


def langevin_alone() -> Tensor:
    """What the shipped model draws when Langevin dynamics stays on its smallest noise level."""
    return quantize(ncsn.load("mnist").sample(N, sampler="langevin", steps=20, batch_size=250))


def test_the_classifier_reads_digits() -> None:
    labels = mnist_labels()[2]
    right = evaluation.judge(CLASSIFIER, IMAGES.test).probabilities.argmax(1) == labels
    assert right.float().mean() >= 0.992


def test_the_control_ladder_is_ranked_correctly() -> None:
    seen = {name: evaluation.judge(CLASSIFIER, x) for name, x in ladder().items()}
    distance = {name: metrics.frechet_distance(s.features, TEST.features) for name, s in seen.items()}
    kernel = {name: metrics.kernel_distance(s.features, TEST.features) for name, s in seen.items()}
    others = [evaluation.judge(CLASSIFIER, part).features for part in torch.split(IMAGES.validation, N)]
    for ruler, measure in ((distance, metrics.frechet_distance), (kernel, metrics.kernel_distance)):
        spread = float(np.std([measure(features, TEST.features) for features in others]))
        assert ruler["real"] < ruler["noise 0.1"] < ruler["noise 0.3"] < ruler["pure noise"]
        assert all(ruler["real"] < 0.5 * ruler[name] for name in ruler if name not in ("real", "noise 0.01"))
        # The eye cannot tell them apart, and so the ruler only to within what other real images differ by.
        assert ruler["real"] < ruler["noise 0.01"] + 2 * spread
        assert ruler["noise 0.01"] < ruler["noise 0.1"]
        assert ruler["gaussians"] < ruler["pure noise"]
        assert ruler["gaussians"] < ruler["single-σ Langevin"]
    assert seen["real"].confident > seen["noise 0.3"].confident
    variation = {name: float((s.histogram - TEST.histogram).abs().sum() / 2) for name, s in seen.items()}
    assert variation["no ones"] > 0.09 > variation["real"]
    density, coverage = metrics.density_coverage(TEST.features, seen["real"].features)
    assert density == pytest.approx(1, abs=0.15)
    assert coverage > 0.9
    assert metrics.density_coverage(TEST.features, seen["pure noise"].features)[1] < 0.1


def test_images_copied_from_training_are_found_out() -> None:
    copied = evaluation.evaluate(IMAGES.train[:500].repeat(2, 1, 1, 1), IMAGES).metrics
    held_out = evaluation.evaluate(IMAGES.validation[5000:6000], IMAGES)
    assert copied["memorisation"].generated == 1
    assert copied["near_duplicates"].generated == 1
    rows = held_out.metrics
    assert rows["memorisation"].generated == pytest.approx(0.5, abs=0.06)
    assert rows["near_duplicates"].generated < 0.05
    assert rows["frechet_distance"].ratio == pytest.approx(1, abs=0.6)
    assert rows["pixel_wasserstein"].ratio == pytest.approx(1, abs=0.6)
    assert held_out.comparable is False


def test_distances_agree_with_torchmetrics(generator: torch.Generator) -> None:
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    x = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(300, 6, generator=generator, dtype=torch.float64) * 1.3 + 0.2
    expected = _compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)).item()
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert metrics.kernel_distance(x[:40], y[:30]) == pytest.approx(unbiased_mmd(x[:40], y[:30]), rel=1e-6)
    assert metrics.kernel_distance(x[:300], y) == pytest.approx(poly_mmd(x[:300], y, 3, None, 1.0).item(), rel=1e-6)


def unbiased_mmd(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs)

    xs, ys = list(x), list(y)
    sub_x = mean([kernel(a, b) for i, a in enumerate(xs) for j, b in enumerate(xs) if i != j])
    sub_y = mean([kernel(a, b) for i, a in enumerate(ys) for j, b in enumerate(ys) if i != j])
    return sub_x + sub_y - 2 * mean([kernel(a, b) for a in xs for b in ys])


def test_frechet_distance_of_gaussians_in_closed_form(generator: torch.Generator) -> None:
    x = torch.randn(200_000, 2, generator=generator)
    shifted = 2 * torch.randn(200_000, 2, generator=generator) + torch.tensor([3.0, 0.0])
    assert metrics.frechet_distance(x, shifted) == pytest.approx(9 + 2 * (2 - 1) ** 2, rel=0.02)


def test_anybodys_samples_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "theirs.npz", samples=IMAGES.validation[:200].numpy())
    cli.main(["evaluate", str(tmp_path / "theirs.npz"), "--out", str(tmp_path / "out")])
    assert "n = 200, too few to be comparable" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"evaluation.json", "evaluation.png"}


@pytest.mark.parametrize("content", [None, "text", "key", "float", "shape", "few"])
def test_files_that_hold_no_samples_are_refused(content: str | None, tmp_path: Path) -> None:
    path, good = tmp_path / "x.npz", np.zeros((200, 1, 28, 28), np.uint8)
    if content == "text":
        path.write_text("no array")
    elif content == "key":
        np.savez(path, pictures=good)
    elif content is not None:
        bad: dict[str, Any] = {"float": good / 255, "shape": good[:, 0], "few": good[:50]}
        np.savez(path, samples=bad[content])
    with pytest.raises(ValueError, match="is no .npz file" if content in (None, "text", "key") else "is needed"):
        evaluation.read_samples(path)
