from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import zero_score
from learning import pictures, tiny, unlearned

import ncsn
from ncsn.data import Dataset, Labels, mnist
from ncsn.evaluation import Features
from ncsn.learn import guidance
from ncsn.learn.guidance import Trial, best
from ncsn.run import Recipe
from ncsn.samplers import Sampling

CPU = torch.device("cpu")
HELD_OUT = pictures().validation
SAMPLING = Sampling(sigma_max=10.0, sigma_min=0.01, sampler="heun", levels=6, steps=1, eps=1e-5)
RUN = ncsn.Run(score=zero_score, recipe=Recipe(network="UNet", arguments={}, shape=(1, 10, 8), sampling=SAMPLING))


def found(features: list[float | None], pixels: list[float]) -> list[Trial]:
    weights = (0.0, *guidance.WEIGHTS["smaller"])
    return [Trial(*row) for row in zip(weights, features, pixels, strict=True)]


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


FLAT = Features(name="some network", embed=lambda x: x.flatten(1).float())


@pytest.fixture(params=[False, True], ids=["guide", "classes"])
def untrained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ncsn.Run:
    return unlearned(monkeypatch, pictures(labels=request.param), tiny(levels=9)).run


def test_samples_are_compared_at_every_weight_and_real_images_first(
    untrained: ncsn.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the same noise, of the same classes, the better the nearer the weight is to 1.5."""
    calls, seen = [], []

    def embed(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.flatten(1).float()

    def sample(self: ncsn.Run, n: int, *, guidance: float, **how: Any) -> torch.Tensor:
        calls.append(how)
        real = HELD_OUT[-n:].float() / 255
        return real + abs(guidance - 1.5) * (0.5 - real)

    monkeypatch.setattr(ncsn.Run, "sample", sample)
    rows = list(guidance.trials(untrained, HELD_OUT, replace(FLAT, embed=embed), 18, seed=3))
    assert [row.weight for row in rows] == [0.0, *guidance.WEIGHTS[untrained.recipe.sampling.guide]]
    label = calls[0]["label"]
    assert all(how["seed"] == 3 and how["label"] is label for how in calls)
    assert label == "none" if isinstance(label, str) else len(label.unique()) == 3
    near = {row.weight: row for row in rows}
    assert near[1.5].pixels == pytest.approx(0, abs=2e-3), "the very images that samples are compared with"
    assert near[1.5].pixels < near[1.25].pixels < near[1.0].pixels
    assert near[0.0].pixels > 0.005, "real images are others than those they are compared with"
    assert torch.equal(seen[0], HELD_OUT[18:90]), "what features are compared with"
    assert torch.equal(seen[1], HELD_OUT[:18])


@pytest.mark.parametrize(
    ("seen", "held_out", "trials"),
    [
        (10**9, 4000, 1000),
        (10**9, 300, 100),
        (96_000, 4000, 64),  # of an evaluation for every tenth image: 37.5 a sample, at four weights
        (95_999, 4000, 0),  # too few samples would choose by chance
        (10**9, 191, 0),
    ],
)
def test_trials_are_as_many_as_training_pays_for_and_the_best_weight_is_printed(
    seen: int, held_out: int, trials: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = found([0.1, 0.5, 0.4, 0.3, 0.2], [0.03, 0.04, 0.04, 0.04, 0.041])
    counts: list[int] = []

    def noted(run: ncsn.Run, images: torch.Tensor, features: Features, n: int, *, seed: int) -> Iterator[Trial]:
        counts.append(n)
        yield from made

    monkeypatch.setattr(guidance, "trials", noted)
    monkeypatch.setattr(Sampling, "guided_nfe", 37.5)
    part = torch.zeros(held_out, 1, 10, 8, dtype=torch.uint8)
    data = replace(pictures(labels=False), validation=part)
    assert guidance.chosen_weight(RUN, data, FLAT, seen=seen, seed=0) == (2 if trials else 1)
    assert counts == ([trials] if trials else [])
    printed = capsys.readouterr().out
    assert ("0.2 from" in printed) == (trials > 0), "in features"
    assert printed.count("\n") == 1


def test_features_are_those_of_the_datas_own_classes_if_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "choose", lambda images, name, device: Features(name=name, embed=None))
    monkeypatch.setattr(guidance, "suitable", lambda images: "efficientnet" if images.labels is None else "classifier")
    colours, grey = (torch.zeros(20, n, 8, 8, dtype=torch.uint8) for n in (3, 1))
    classes = torch.arange(20) % 2
    labels = Labels(train=classes, validation=classes, test=classes, names=("a", "b"))
    told, plain = Dataset(colours, colours, colours, labels), Dataset(colours, colours, colours)
    table = [(mnist(), False, "auto"), (told, True, "classifier"), (told, False, "efficientnet")]
    table += [(plain, True, "efficientnet"), (Dataset(grey, grey, grey), True, "pixels")]
    for images, thorough, name in table:
        assert guidance.suited(images, CPU, thorough=thorough).name == name
