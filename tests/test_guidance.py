from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import unchecked, zero_score
from torch import nn

import ncsn
from ncsn.data import Images as Pictures
from ncsn.data import Labels, mnist
from ncsn.evaluation import PIXELS, Features, digits
from ncsn.learn import guidance
from ncsn.learn.guidance import Trial, best
from ncsn.learn.settings import Images
from ncsn.recipe import Recipe
from ncsn.samplers import Sampling, Step

CPU = torch.device("cpu")


def found(features: list[float | None], pixels: list[float]) -> list[Trial]:
    weights = (0.0, *guidance.WEIGHTS["smaller"])
    return [Trial(weight=w, features=f, pixels=p) for w, f, p in zip(weights, features, pixels, strict=True)]


NONE: list[float | None] = [None] * 5


@pytest.mark.parametrize(
    ("features", "pixels", "weight"),
    [
        ([0, 1.0, 0.8, 0.6, 0.2], [1.0] * 5, 2.0),  # the best in features
        ([0, 1.0, 0.8, 0.25, 0.2], [1.0] * 5, 1.5),  # a smaller one that is about as good
        ([0, 1.0, 0.99, 0.98, 0.97], [1.0] * 5, 1.0),  # a gain that is none
        ([0, 1.0, 0.8, 0.6, 0.2], [1.0, 1.0, 1.0, 1.05, 1.2], 1.5),  # never one that is worse in pixels
        ([0, 1.0, 0.8, 0.6, 0.2], [0.1, 1.0, 2.0, 2.0, 2.0], 1.0),
        ([0, 1.0, 0.8, 0.6, 0.2], [1.0, 0.2, 0.5, 0.9, 1.0], 2.0),  # unless real images vary by as much
        (NONE, [0.5, 1.0, 0.95, 0.96, 0.97], 1.0),  # without features, pixels must be clearly better
        (NONE, [0.5, 1.0, 0.8, 0.6, 0.7], 1.5),
    ],
)
def test_the_smallest_weight_that_is_about_the_best_is_chosen(
    features: list[float | None], pixels: list[float], weight: float
) -> None:
    assert best(found(features, pixels)).weight == weight


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
    unguided, guided = guidance.at_guidance(sampling)
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


def test_the_choice_is_the_best_trials_weight_and_printed_with_its_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sampling = Sampling(sigma_max=9.0, sigma_min=0.1, sampler="heun", levels=6, steps=1, eps=0.001)
    run = ncsn.Run(score=zero_score, recipe=Recipe(network="UNet", arguments={}, shape=(1, 2, 2), sampling=sampling))
    rows = found([0.1, 0.5, 0.4, 0.3, 0.2], [0.03, 0.04, 0.04, 0.04, 0.041])
    monkeypatch.setattr(guidance, "trials", lambda *_, seed: iter(rows))
    features = Features(name="some network", embed=lambda x: x)
    held_out = torch.zeros(9, 1, 2, 2, dtype=torch.uint8)
    assert guidance.chosen_weight(run, held_out, features, 256, seed=0) == 2
    said = capsys.readouterr().out
    for part in ("guidance 2,", "1, 1.25, 1.5, 2 ", "256 samples", "some network 0.2000 (0.5000", "0.0410 (0.0400"):
        assert part in said


@pytest.mark.parametrize(
    ("given", "draws", "trials", "seconds"),
    [
        # A sample takes 37.5 ms, one by annealed Langevin dynamics 201 ms, one at all weights 77.5 ms.
        ({"minutes": 60.0}, True, 1000, 4 + 160 * 37.5e-3 + 20 * 0.201 + 1000 * 77.5e-3),
        ({"minutes": 60.0}, False, 1000, 1000 * 77.5e-3),
        ({"minutes": 5.0}, False, 96, 96 * 77.5e-3),
        ({"minutes": 1.0}, True, 0, 4 + 160 * 37.5e-3 + 9 * 0.201),  # too few samples would choose by chance
        ({"minutes": 60.0, "samples": 7}, True, 1000, 4 + 67 * 37.5e-3 + 7 * 0.201 + 1000 * 77.5e-3),
        ({"steps": 5}, True, 256, 0),
    ],
)
def test_what_comes_after_training_fits_into_its_share(
    given: dict[str, Any], draws: bool, trials: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation of an example takes a millisecond; pixels are compared for nothing."""
    monkeypatch.setattr(guidance, "seconds_of", lambda call, device: 64e-3 if call() is not None else 0.0)
    monkeypatch.setattr(guidance, "evaluations", lambda _: 77.5)
    monkeypatch.setattr(Sampling, "guided_nfe", 37.5)
    sampling = Sampling(sigma_max=10.0, sigma_min=0.01, sampler="heun", levels=6, steps=1, eps=1e-5)
    run = ncsn.Run(score=zero_score, recipe=Recipe(network="UNet", arguments={}, shape=(1, 2, 2), sampling=sampling))
    held_out = torch.zeros(10_000, 1, 2, 2, dtype=torch.uint8)
    planned, took = guidance.afterwards(run, Images(**given), held_out, PIXELS, draws=draws)
    assert planned == trials
    assert took == pytest.approx(seconds, rel=1e-3)
    assert guidance.afterwards(run, Images(**given), held_out, None, draws=draws)[0] == 0
    assert guidance.afterwards(run, Images(**given), held_out[:191], PIXELS, draws=draws)[0] == 0


def test_features_are_those_of_the_datas_own_classes_if_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "choose", lambda images, name, device: Features(name=name, embed=None))
    monkeypatch.setattr(guidance, "suitable", lambda images: "efficientnet" if images.labels is None else "classifier")
    pixels, classes = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 2
    labels = Labels(train=classes, validation=classes, test=classes, names=("a", "b"))

    def name(images: Pictures, *, thorough: bool = True) -> str:
        return guidance.suited(images, CPU, thorough=thorough).name

    grey = pixels[:, :1]
    assert name(mnist(), thorough=False) == "auto"
    assert name(Pictures(pixels, pixels, pixels, labels)) == "classifier"
    assert name(Pictures(pixels, pixels, pixels, labels), thorough=False) == "efficientnet"
    assert name(Pictures(pixels, pixels, pixels)) == "efficientnet"
    assert name(Pictures(grey, grey, grey)) == "pixels"
