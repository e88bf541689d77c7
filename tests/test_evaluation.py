"""The harness is tested on sets whose order is known: a ruler that ranks them wrongly measures nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ncsn
from ncsn import cli, evaluation, metrics
from ncsn.data import mnist, mnist_labels
from ncsn.networks.classifier import Classifier
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


class Read(nn.Module):
    """The digit is the 27th of the first row's pixels over 20; the last one says how sure it is: 250, or 30."""

    def forward(self, features: Tensor) -> Tensor:
        digit = (features[:, 26] * 255 / 20).round().long()
        return F.one_hot(digit, 10) * features[:, 27:] * 25.5


class Readable(Classifier):
    """A classifier that can be computed by hand: its features are the first row of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Read()  # type: ignore[assignment]

    def features(self, x: Tensor) -> Tensor:
        return x[:, 0, 0]


def readable(n: int, seed: int, *, digits: int = 10, sure: int = 10_000) -> Tensor:
    """``n`` images of random bytes below 100, of which the classifier reads ``digits`` in turn; the first are sure."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(100, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    x[:, 0, 0, 26] = 20 * (torch.arange(n) % digits).to(torch.uint8)
    x[:, 0, 0, 27] = torch.where(torch.arange(n) < sure, 250, 30).to(torch.uint8)  # 0.69 is not sure
    return x


def nearest_by_hand(x: Tensor, data: Tensor) -> Tensor:
    return torch.stack([(image.double() - data.double()).square().flatten(1).sum(1).min() for image in x]).sqrt() / 255


def test_every_number_is_about_the_sets_that_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same numbers, put together by hand from four sets that differ."""
    monkeypatch.setattr(evaluation, "load_classifier", Readable)
    n = 110
    samples = readable(n, 0, digits=5, sure=66)
    train, validation, test = readable(300, 1, digits=8), readable(130, 2, digits=9, sure=99), readable(120, 3)
    samples[:20] = train[40:60]
    samples[20:, 0, 0, 0] += 40
    found = evaluation.evaluate(samples, ncsn.data.Images(train, validation, test))
    assert found.n == n
    chosen = train[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:n]]
    features, against = {"generated": samples, "real": chosen}, test[:n, 0, 0].float() / 255
    unseen, tested = {"generated": samples, "real": validation[:n]}, nearest_by_hand(test[:n], train)
    shares = test[:n, 0, 0, 26].div(20).long().bincount(minlength=10) / n
    for kind, x in features.items():
        row, to_train = x[:, 0, 0].float() / 255, nearest_by_hand(unseen[kind], train)
        density, coverage = metrics.density_coverage(against, row)
        histogram = (x[:, 0, 0, 26] / 20).long().bincount(minlength=10) / n
        expected = {
            "frechet_distance": metrics.frechet_distance(row, against),
            "kernel_distance": metrics.kernel_distance(row, against),
            "density": density,
            "coverage": coverage,
            "confident": float((unseen[kind][:, 0, 0, 27] == 250).float().mean()),
            "class_variation": float((histogram - shares).abs().sum() / 2),
            "pixel_wasserstein": metrics.sliced_wasserstein(x.flatten(1) / 255, test[:n].flatten(1) / 255),
            "memorisation": float((to_train < tested[:, None]).double().mean()),
            "near_duplicates": float((to_train < tested.quantile(0.01)).double().mean()),
        }
        scored = {name: getattr(metric, kind) for name, metric in found.metrics.items()}
        assert scored == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert getattr(found, f"{kind}_histogram") == pytest.approx(histogram.tolist())
    for name, metric in found.metrics.items():
        if name in ("frechet_distance", "confident", "pixel_wasserstein"):
            assert metric.ratio == pytest.approx(metric.generated / metric.real)
        else:
            assert metric.ratio is None


def test_distances_and_their_ratio_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel that is brighter by δ moves every feature's mean by δ and nothing else, so the distance is δ²."""
    monkeypatch.setattr(evaluation, "load_classifier", Readable)
    test = readable(120, 0)
    samples, train = test.clone(), test.flip(0).clone()
    samples[:, 0, 0, 0] += 51
    train[:, 0, 0, 0] += 102
    images = ncsn.data.Images(train, test, test)
    for enough in (120, 121):
        monkeypatch.setattr(evaluation, "REPORTABLE", enough)
        found = evaluation.evaluate(samples, images)
        assert found.comparable is (enough == 120)
    distance = found.metrics["frechet_distance"]
    assert distance.generated == pytest.approx(0.2**2, rel=1e-4)
    assert distance.real == pytest.approx(0.4**2, rel=1e-4)
    assert distance.ratio == pytest.approx(0.25, rel=1e-4)
    # Projected, a shift δ of one coordinate of D is δ·θ₁: on average about δ·√(2/πD), over 128 directions.
    wasserstein = found.metrics["pixel_wasserstein"]
    error = 0.2 * (1 / 784) ** 0.5 * 4 / 128**0.5
    assert wasserstein.generated == pytest.approx(0.2 * (2 / (math.pi * 784)) ** 0.5, abs=error)
    assert wasserstein.ratio == pytest.approx(0.5, rel=1e-3)


def test_samples_of_one_of_two_clusters_cover_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_classifier", Readable)
    test = readable(120, 0)
    test[60:, 0, 0, :5] += 150
    train = test.clone()
    train[:, 0, 9, 9] += 100  # which the classifier does not see
    found = evaluation.evaluate(test[:60].repeat(2, 1, 1, 1), ncsn.data.Images(train, test, test)).metrics
    assert (found["coverage"].generated, found["coverage"].real) == (0.5, 1)
    # Each sample is in as many neighbourhoods as there are in one, 5 or 6 of k = 5: on its edge is one by rounding.
    assert found["density"].generated == pytest.approx(1.1, abs=0.11)


def test_what_is_reported_is_about_ten_thousand() -> None:
    assert evaluation.REPORTABLE == 10_000


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
