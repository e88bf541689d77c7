"""The harness is tested on sets whose order is known: a ruler that ranks them wrongly measures nothing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ncsn
from ncsn import evaluation, metrics
from ncsn.data import Images, mnist, mnist_labels
from ncsn.data.pixels import quantize
from ncsn.evaluation import ruler
from ncsn.evaluation.report import compared
from ncsn.networks.classifier import Classifier

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
    return quantize(ncsn.load("mnist").sample(N, sampler="langevin", steps=5, batch_size=250))


def test_the_classifier_reads_digits() -> None:
    labels = mnist_labels()[2]
    right = evaluation.judge(CLASSIFIER, IMAGES.test).probabilities.argmax(1) == labels
    assert right.float().mean() >= 0.992


@pytest.mark.slow
def test_the_control_ladder_is_ranked_correctly() -> None:
    seen = {name: evaluation.judge(CLASSIFIER, x) for name, x in ladder().items()}
    distance = {name: metrics.frechet_distance(s.features, TEST.features) for name, s in seen.items()}
    kernel = {name: metrics.kernel_distance(s.features, TEST.features) for name, s in seen.items()}
    others = [evaluation.judge(CLASSIFIER, part).features for part in torch.split(IMAGES.validation, N)]
    for scale, measure in ((distance, metrics.frechet_distance), (kernel, metrics.kernel_distance)):
        spread = float(np.std([measure(features, TEST.features) for features in others]))
        assert scale["real"] < scale["noise 0.1"] < scale["noise 0.3"] < scale["pure noise"]
        assert all(scale["real"] < 0.5 * scale[name] for name in scale if name not in ("real", "noise 0.01"))
        # The eye cannot tell them apart, and so the ruler only to within what other real images differ by.
        assert scale["real"] < scale["noise 0.01"] + 2 * spread
        assert scale["noise 0.01"] < scale["noise 0.1"]
        assert scale["gaussians"] < scale["pure noise"]
        assert scale["gaussians"] < scale["single-σ Langevin"]
    assert seen["real"].confident > seen["noise 0.3"].confident
    variation = {name: float((s.histogram - TEST.histogram).abs().sum() / 2) for name, s in seen.items()}
    assert variation["no ones"] > 0.09 > variation["real"]
    density, coverage = metrics.density_coverage(TEST.features, seen["real"].features)
    assert density == pytest.approx(1, abs=0.15)
    assert coverage > 0.9
    assert metrics.density_coverage(TEST.features, seen["pure noise"].features)[1] < 0.1


def test_images_copied_from_training_are_found_out() -> None:
    judge = evaluation.Ruler.of(IMAGES, n=N).judge
    copied, held_out = judge(IMAGES.train[:500].repeat(2, 1, 1, 1)).metrics, judge(IMAGES.validation[5000:6000])
    assert copied["memorisation"].generated == 1
    assert copied["near_duplicates"].generated == 1
    rows = held_out.metrics
    assert rows["memorisation"].generated == pytest.approx(0.5, abs=0.06)
    assert rows["near_duplicates"].generated < 0.05
    for floor in ("ratio", "ratio_to_training"):
        assert getattr(rows["frechet_distance"], floor) == pytest.approx(1, abs=0.6)
    assert rows["pixel_wasserstein"].ratio_to_training == pytest.approx(1, abs=0.6)
    assert (rows["memorisation"].training, rows["near_duplicates"].training) == (1, 1)
    assert held_out.comparable is False
    assert (held_out.features, held_out.dimensions, held_out.classes) == ("digit classifier", 128, tuple("0123456789"))


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


def read() -> evaluation.Features:
    return evaluation.of_classifier(Readable(), name="readable", classes=tuple("0123456789"))


def nearest_by_hand(x: Tensor, data: Tensor) -> Tensor:
    return torch.stack([(image.double() - data.double()).square().flatten(1).sum(1).min() for image in x]).sqrt() / 255


def test_every_number_is_about_the_sets_that_its_name_says() -> None:
    """Against the same numbers, put together by hand from four sets that differ."""
    n = 110
    samples = readable(n, 0, digits=5, sure=66)
    train, validation, test = readable(300, 1, digits=8), readable(130, 2, digits=9, sure=99), readable(120, 3)
    samples[:20] = train[40:60]
    samples[20:, 0, 0, 0] += 40
    found = evaluation.evaluate(samples, Images(train, validation, test), read())
    assert found.n == n
    chosen = train[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:n]]
    sets = {"generated": samples, "held_out": validation[:n], "training": chosen}
    against, tested = test[:n, 0, 0].float() / 255, nearest_by_hand(test[:n], train)
    shares = test[:n, 0, 0, 26].div(20).long().bincount(minlength=10) / n
    for kind, x in sets.items():
        row, to_train = x[:, 0, 0].float() / 255, nearest_by_hand(x, train)
        density, coverage = metrics.density_coverage(against, row)
        histogram = (x[:, 0, 0, 26] / 20).long().bincount(minlength=10) / n
        expected = {
            "kernel_distance": metrics.kernel_distance(row, against),
            "frechet_distance": metrics.frechet_distance(row, against),
            "density": density,
            "coverage": coverage,
            "class_variation": float((histogram - shares).abs().sum() / 2),
            "confident": float((x[:, 0, 0, 27] == 250).float().mean()),
            "pixel_wasserstein": metrics.sliced_wasserstein(x.flatten(1) / 255, test[:n].flatten(1) / 255),
            "memorisation": float((to_train < tested[:, None]).double().mean()),
            "near_duplicates": float((to_train < tested.quantile(0.01)).double().mean()),
        }
        scored = {name: getattr(metric, kind) for name, metric in found.metrics.items()}
        assert scored == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert list(scored) == list(expected)  # the kernel distance first: it is unbiased
        assert getattr(found, f"{kind}_histogram") == pytest.approx(histogram.tolist())
    for name, metric in found.metrics.items():
        for ratio, floor in ((metric.ratio, metric.held_out), (metric.ratio_to_training, metric.training)):
            if name in ("frechet_distance", "pixel_wasserstein") or (name == "kernel_distance" and floor > 0):
                assert ratio == pytest.approx(metric.generated / floor)
            else:
                assert ratio is None


@pytest.mark.parametrize(("floor", "ratio"), [(2.0, 1.5), (0.0, None), (-1e-4, None)])
def test_nothing_is_divided_by_a_floor_that_is_not_positive(floor: float, ratio: float | None) -> None:
    metric = compared("kernel_distance", 3.0, floor, 4.0)
    assert (metric.ratio, metric.ratio_to_training) == (ratio, 0.75)


def test_distances_and_their_ratio_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel that is brighter by δ moves every feature's mean by δ and nothing else, so the distance is δ²."""
    test = readable(120, 0)
    samples, validation, train = test.clone(), test.clone(), test.flip(0).clone()
    samples[:, 0, 0, 0] += 51
    validation[:, 0, 0, 0] += 102
    train[:, 0, 0, 0] += 153
    images = Images(train, validation, test)
    for enough in (120, 121):
        monkeypatch.setattr(ruler, "REPORTABLE", enough)
        found = evaluation.evaluate(samples, images, read())
        assert found.comparable is (enough == 120)
        assert next(iter(found.metrics)) == ("frechet_distance" if enough == 120 else "kernel_distance")
    distance = found.metrics["frechet_distance"]
    assert distance.generated == pytest.approx(0.2**2, rel=1e-4)
    assert distance.held_out == pytest.approx(0.4**2, rel=1e-4)
    assert distance.training == pytest.approx(0.6**2, rel=1e-4)
    assert distance.ratio == pytest.approx(0.25, rel=1e-4)
    assert distance.ratio_to_training == pytest.approx(1 / 9, rel=1e-4)
    # Projected, a shift δ of one coordinate of D is δ·θ₁: on average about δ·√(2/πD), over 128 directions.
    wasserstein = found.metrics["pixel_wasserstein"]
    error = 0.2 * (1 / 784) ** 0.5 * 4 / 128**0.5
    assert wasserstein.generated == pytest.approx(0.2 * (2 / (math.pi * 784)) ** 0.5, abs=error)
    assert wasserstein.ratio == pytest.approx(0.5, rel=1e-3)


def test_all_sets_are_as_large_as_the_smallest_and_that_is_said() -> None:
    images = Images(readable(300, 1), readable(40, 2), readable(120, 3))
    found = evaluation.evaluate(readable(110, 0), images, read())
    assert found.n == 40
    assert found.notes == (
        "40 of 110 samples are judged: there are 120 test, 40 validation and 300 training images",
        "the Fréchet distance is unreliable: 40 images for 28 features, not twice as many",
    )
    plenty = evaluation.evaluate(readable(56, 0), Images(readable(60, 0), readable(60, 1), readable(60, 2)), read())
    assert (plenty.n, plenty.notes) == (56, ())


def test_what_cannot_be_compared_is_refused() -> None:
    colour = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"samples have shape \(1, 28, 28\), the data \(3, 8, 8\)"):
        evaluation.evaluate(readable(20, 0), Images(colour, colour, colour), evaluation.PIXELS)
    few = Images(readable(20, 0), readable(9, 1), readable(20, 2))
    with pytest.raises(ValueError, match="20 test, 9 validation and 20 training images; at least 10"):
        evaluation.evaluate(readable(20, 3), few, read())


def test_deep_images_are_judged_at_8_bits_and_that_is_said() -> None:
    coarse = Images(readable(60, 0), readable(60, 1), readable(60, 2))
    train, validation, test = ((pixels + 0.7) / 256 for pixels in (coarse.train, coarse.validation, coarse.test))
    deep = Images(train, validation, test)
    found, expected = (evaluation.evaluate(readable(60, 3), images, read()) for images in (deep, coarse))
    assert found.metrics == expected.metrics
    assert found.notes == ("the data has more than 8 bits, and is judged at 8",)


def test_pixels_need_no_network_and_claim_nothing_that_does() -> None:
    found = evaluation.evaluate(
        readable(60, 0), Images(readable(60, 0), readable(60, 1), readable(60, 2)), evaluation.PIXELS
    )
    assert list(found.metrics) == ["pixel_wasserstein", "memorisation", "near_duplicates"]
    assert {"classes", "generated_histogram", "digest", "accuracy"}.isdisjoint(found.report())


def test_the_nearest_is_found_whatever_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x, data = readable(30, 0), readable(101, 1)
    x[3], x[4] = data[100], data[0]
    for images in (1, 7, 101, 1000):
        monkeypatch.setattr(ruler, "VALUES", 784 * images)
        distance, index = evaluation.nearest(x, data)
        assert distance.tolist() == pytest.approx(nearest_by_hand(x, data).tolist(), rel=1e-6)
        assert (index[3:5].tolist(), distance[3:5].tolist()) == ([100, 0], [0, 0])


def test_samples_of_one_of_two_clusters_cover_half() -> None:
    test = readable(120, 0)
    test[60:, 0, 0, :5] += 150
    train = test.clone()
    train[:, 0, 9, 9] += 100  # which the classifier does not see
    found = evaluation.evaluate(test[:60].repeat(2, 1, 1, 1), Images(train, test, test), read()).metrics
    assert (found["coverage"].generated, found["coverage"].training) == (0.5, 1)
    # Each sample is in as many neighbourhoods as there are in one, 5 or 6 of k = 5: on its edge is one by rounding.
    assert found["density"].generated == pytest.approx(1.1, abs=0.11)


def test_what_is_reported_is_about_ten_thousand() -> None:
    assert ruler.REPORTABLE == 10_000


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
