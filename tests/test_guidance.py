from collections.abc import Iterator

import pytest
import torch
from helpers import unchecked
from torch import nn

import ncsn
from ncsn.data import Images, Labels, mnist
from ncsn.evaluation import PIXELS, Features, digits, features
from ncsn.learn import guidance
from ncsn.learn.guidance import Trial, best
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling, Step

CPU = torch.device("cpu")


def found(features: list[float | None], pixels: list[float]) -> list[Trial]:
    weights = (0.0, *guidance.WEIGHTS["smaller"])
    return [Trial(weight=w, features=f, pixels=p) for w, f, p in zip(weights, features, pixels, strict=True)]


def test_the_best_in_features_is_chosen() -> None:
    assert best(found([0, 1.0, 0.8, 0.6, 0.2], [1.0] * 5)).weight == 2.0


def test_a_smaller_weight_that_is_about_as_good_is_preferred() -> None:
    assert best(found([0, 1.0, 0.8, 0.25, 0.2], [1.0] * 5)).weight == 1.5


def test_a_gain_that_is_none_is_no_reason_to_guide() -> None:
    assert best(found([0, 1.0, 0.99, 0.98, 0.97], [1.0] * 5)).weight == 1.0


def test_a_weight_that_is_worse_in_pixels_is_never_chosen() -> None:
    assert best(found([0, 1.0, 0.8, 0.6, 0.2], [1.0, 1.0, 1.0, 1.05, 1.2])).weight == 1.5
    assert best(found([0, 1.0, 0.8, 0.6, 0.2], [0.1, 1.0, 2.0, 2.0, 2.0])).weight == 1.0


def test_what_real_images_vary_by_in_pixels_is_not_held_against_a_weight() -> None:
    assert best(found([0, 1.0, 0.8, 0.6, 0.2], [1.0, 0.2, 0.5, 0.9, 1.0])).weight == 2.0


def test_without_features_pixels_must_be_clearly_better() -> None:
    none: list[float | None] = [None] * 5
    assert best(found(none, [0.5, 1.0, 0.95, 0.96, 0.97])).weight == 1.0
    assert best(found(none, [0.5, 1.0, 0.8, 0.6, 0.7])).weight == 1.5


def test_a_choice_costs_as_many_evaluations_as_it_is_planned_to() -> None:
    run, seen = ncsn.load("mnist", device="cpu"), 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    assert isinstance(run.score, ncsn.ScoreModel)
    run.score.network.register_forward_pre_hook(count)
    list(guidance.trials(run, mnist().validation[:100], PIXELS, 20, seed=0))
    assert seen == 20 * guidance.evaluations(run.recipe) + 10  # and the mean of each class, where samples start


@pytest.mark.parametrize("classes", [False, True])
def test_samples_are_compared_at_every_weight_and_real_images_first(classes: bool) -> None:
    held_out = mnist().validation[:600]

    sampling = Sampling(sigma_max=9.0, sigma_min=0.1, sampler="heun", levels=6, steps=1, eps=0.001)
    unguided, guided = guidance.parted(sampling)
    assert [*unguided, *guided] == sampling.ladder().tolist()
    assert min(unguided) > sampling.guided_between[1] >= max(guided)
    by_itself = sampling.but(guide="unconditional")
    classless = Recipe(network="UNet", arguments={}, shape=(1, 28, 28), sampling=sampling)
    told = Recipe(network="UNet", arguments={"classes": 10}, shape=(1, 28, 28), sampling=by_itself)
    weights = list(guidance.WEIGHTS["unconditional" if classes else "smaller"])
    inside = sum(0.2 <= sigma <= 1.5 for sigma in guided)
    asked = len(unguided) + 4 * len(guided) + 3 * inside / 4
    assert guidance.evaluations(classless) == pytest.approx(asked * sampling.nfe / 6)
    assert by_itself.guided_nfe == pytest.approx(by_itself.nfe * (1 + inside / 6))
    assert sampling.guided_nfe == pytest.approx(sampling.nfe * (1 + inside / 24))
    drawn: list[object] = []

    class Sampled:
        recipe = told if classes else classless
        device = CPU

        def labels(self, label: None, n: int, generator: torch.Generator) -> torch.Tensor | None:
            return torch.arange(n) if classes else None

        def steps(self, n: int, *, seed: int, guidance: float, label: object) -> Iterator[Step]:
            assert guidance == 1
            drawn.append(label)
            for sigma in sampling.ladder().tolist()[1:]:
                noise = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
                yield Step(sigma, noise if sigma == guided[0] else torch.full_like(noise, torch.nan))

        def sample(
            self,
            n: int,
            *,
            seed: int,
            guidance: float,
            label: object,
            levels: tuple[float, ...],
            start: torch.Tensor,
        ) -> torch.Tensor:
            assert levels == guided
            drawn.append(label)
            real = held_out[-n:].float() / 255
            return real + abs(guidance - 1.5) * (start - real) / 2

    with unchecked():
        rows = list(guidance.trials(Sampled(), held_out, digits(), 100, seed=0))  # type: ignore[arg-type]
    assert [row.weight for row in rows] == [0.0, *weights]
    assert all(label is drawn[0] for label in drawn), "of the same classes"
    if isinstance(drawn[0], torch.Tensor):
        assert classes
        assert torch.equal(drawn[0], torch.arange(100))
    else:
        assert (drawn[0], classes) == ("none", False)
    near = {row.weight: row for row in rows}
    assert near[1.5].pixels == pytest.approx(0, abs=2e-3), "the very images that samples are compared with"
    assert near[1.5].pixels < near[1.25].pixels < near[1.0].pixels
    assert near[0.0].pixels > 0.005, "real images are others than those they are compared with"
    assert best(rows).weight == 1.5


def test_what_is_said_has_both_numbers() -> None:
    rows = found([0.1, 0.5, 0.4, 0.3, 0.2], [0.03, 0.04, 0.04, 0.04, 0.041])
    line = guidance.said(rows[4], rows, 256, Features(name="some network", embed=lambda x: x))
    assert line == (
        "guidance 2, chosen among 1, 1.25, 1.5, 2 by 256 samples beside held-out images, kernel distance in some "
        "network 0.2000 (0.5000 without guidance), pixel distance 0.0410 (0.0400 without guidance)"
    )
    assert "kernel" not in guidance.said(rows[1], found([None] * 5, [1.0] * 5), 64, PIXELS)


def test_features_are_those_of_the_datas_own_classes_if_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for maker in ("own_classifier", "efficientnet"):
        monkeypatch.setattr(features, maker, lambda *data, maker=maker: Features(name=maker, embed=None))
    monkeypatch.setattr(features, "find_spec", lambda name: True)
    pixels, classes = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 2
    labels = Labels(train=classes, validation=classes, test=classes, names=("a", "b"))

    def name(images: Images, *, thorough: bool = True) -> str:
        return guidance.suited(images, CPU, thorough=thorough).name

    assert name(mnist(), thorough=False) == "digit classifier"
    assert name(Images(pixels, pixels, pixels, labels)) == "own_classifier"
    assert name(Images(pixels, pixels, pixels, labels), thorough=False) == "efficientnet"
    assert name(Images(pixels, pixels, pixels)) == "efficientnet"
    grey = pixels[:, :1]
    assert name(Images(grey, grey, grey)) == "pixels"
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    assert name(Images(pixels, pixels, pixels)) == "pixels"
