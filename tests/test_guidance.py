import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from learning import pictures, tiny, unlearned

import ncsn
from ncsn.data.dataset import Labels
from ncsn.evaluation import Features
from ncsn.evaluation import images as judge
from ncsn.images import Images
from ncsn.learn import guidance
from ncsn.learn.guidance import Trial, climb
from ncsn.metrics import kernel_distance

CPU = torch.device("cpu")
R = torch.Generator().manual_seed(2)
REAL = Trial(1.0, torch.randn(240, 4, generator=R), torch.randn(240, 5, generator=R))
UNSEEN = REAL._replace(features=torch.empty(240, 0))
SAME = [1.0] * 4


CLIMBS = [
    ([1.0, 0.8, 0.5, 0.2], SAME, 1.25, 2.0),
    ([1.0, 0.5, 0.2, 0.5], SAME, 1.25, 1.5),  # the weight before the first that is farther
    ([0.5, 1.5, 0.2, 0.2], SAME, 1.25, 1.0),
    ([0.5, 0.49, 0.6, 0.2], SAME, 1.25, 1.25),  # in doubt: 1.25 is farther, but by a fifth of a standard error
    ([0.5, 0.48, 0.6, 0.2], SAME, 1.0, 1.0),  # in doubt a smaller guide is not followed
    ([0.5, 0.48, 0.6, 0.2], SAME, 1.25, 1.25),
    ([1.0, 0.8, 0.5, 0.49], [0.2, 0.2, 0.2, 0.6], 1.25, 1.5),  # what features gain is less than what pixels lose
    ([0.5, 0.5, 0.5, 0.5], [1.0, 0.7, 0.4, 0.9], 1.25, 1.5),  # pixels alone come nearer
    ([], [1.0, 1.05, 1.0, 1.0], 1.25, 1.25),  # without features, pixels must be clearly better
    ([], [1.0, 1.05, 0.6, 0.7], 1.25, 1.5),
    ([], [1.0, 1.15, 0.6, 0.7], 1.25, 1.0),
    ([], [0.0, 0.0, 0.0, 0.0], 1.25, 1.25),  # images that are all the same
    ([], [1.0, 0.95, 0.94, 0.97], 1.0, 1.0),
    ([], [1.0, 0.95, 0.94, 0.97], 1.25, 1.25),
]


@pytest.mark.parametrize(("shifts", "pixels", "doubt", "weight"), CLIMBS)
def test_the_weight_is_raised_while_samples_come_nearer(
    shifts: list[float], pixels: list[float], doubt: float, weight: float
) -> None:
    """By how far their features and pixels are from those of held-out images; perhaps there are no features."""
    r = torch.Generator().manual_seed(1)
    noise = torch.randn(60, 4, generator=r)  # common to all weights, but for a tenth
    seen = [noise + shift + 0.1 * torch.randn(60, 4, generator=r) for shift in shifts] or [UNSEEN.features[:60]] * 4
    rows = zip((1.0, 1.25, 1.5, 2.0), seen, (REAL.pixels[-60:] + shift for shift in pixels), strict=True)
    plain, choice = climb((Trial(*row) for row in rows), REAL if shifts else UNSEEN, doubt)
    assert (plain.weight, choice.weight) == (1.0, weight)


def test_chance_alone_rarely_raises_the_weight() -> None:
    """Samples that are all as good: a standard error of a gain is passed by a sixth at most."""
    chosen = dict.fromkeys((1.0, 1.25, 1.5), 0)
    for seed in range(100):
        r = torch.Generator().manual_seed(seed)
        rows = (Trial(weight, *torch.randn(2, 60, 4, generator=r)) for weight in chosen)
        chosen[climb(rows, Trial(1.0, *torch.randn(2, 240, 4, generator=r)), 1.25)[1].weight] += 1
    assert 2 <= chosen[1.0] <= 20
    assert chosen[1.25] >= 60
    assert 2 <= chosen[1.5] <= 20


@pytest.fixture(params=[False, True], ids=["guide", "classes"])
def untrained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ncsn.Run:
    return unlearned(monkeypatch, pictures(labels=request.param), tiny(levels=9)).run


TRIALS = [
    (1e6, 4000, 1, 1000),
    (1e6, 4000, 0.5, 500),
    (1e6, 300, 1, 100),
    (32.0, 4000, 1, 32),
    (31.9, 4000, 1, 0),
    (1e6, 95, 1, 0),
]


@pytest.mark.parametrize(("paid", "held_out", "effort", "trials"), TRIALS)
def test_trials_are_as_many_as_training_pays_for_and_the_best_weight_is_printed(
    untrained: ncsn.Run, paid: float, held_out: int, effort: float, trials: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples of each weight are of the same noise and classes, and the better, the nearer it is to 1.5.

    Of fewer than 32 the best would be chosen by chance.
    ``paid``: samples at three weights, for each of which training has seen ten images an evaluation.
    """
    calls, looked, data = list[dict[str, Any]](), list[int](), pictures(labels=False, held_out=held_out)
    sampling = untrained.recipe.sampling

    def sample(_: ncsn.Run, n: int, *, guidance: float, **how: Any) -> torch.Tensor:
        calls.append({"n": n, "weight": guidance, **how})
        real = data.validation[-n:].float() / 255
        return real + abs(guidance - 1.5) * (0.5 - real)

    def embed(x: torch.Tensor) -> torch.Tensor:
        looked.append(len(x))
        return x.flatten(1).float() / 255

    features, seen = Features(name="some network", embed=embed), math.ceil(paid * 30 * sampling.guided_nfe)
    with patch.object(ncsn.Run, "sample", sample):
        chosen = guidance.choose_weight(untrained, data, features, seen=seen, seed=3, effort=effort)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert chosen == (1.5 if trials else {"smaller": 1.0, "unconditional": 1.25}[sampling.guide])
    assert [(call["n"], call["weight"]) for call in calls] == [(trials, w) for w in (1, 1.25, 1.5, 2) if trials]
    assert sum(looked) == 4 * trials + min(4 * trials, held_out) * (trials > 0)
    if trials:
        label = calls[0]["label"]
        assert all(call["seed"] == 3 and call["label"] is label for call in calls)
        assert label == "none" if isinstance(label, str) else len(label.unique()) == 3
        real = data.validation.flatten(1).float() / 255
        for made in (real[-trials:], real[-trials:] / 2 + 0.25):
            shown = (made * 256).floor().clamp(max=255) / 255
            assert f"{kernel_distance(shown, real[: 4 * trials]):.2g}" in printed


def test_features_are_those_of_the_datas_own_classes_if_there_is_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A classifier is trained neither for too long nor for held-out images that are too few to choose by."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr(judge, "BATCH", 2)
    monkeypatch.setattr(judge, "IMAGES_SEEN", 1000)
    monkeypatch.setattr(guidance, "choose", lambda images, name, device: Features(name=name, embed=None))
    monkeypatch.setattr(
        guidance, "choose_name", lambda images: "efficientnet" if images.labels is None else "classifier"
    )
    colours, grey = (torch.zeros(96, n, 8, 8, dtype=torch.uint8) for n in (3, 1))
    classes = torch.arange(96) % 2
    labels = Labels(train=classes, validation=classes, test=classes, names=("a", "b"))
    told, plain = Images(colours, colours, colours, labels, "it"), Images(colours, colours, colours)
    few = replace(told, validation=colours[1:], labels=replace(labels, validation=classes[1:]))
    table = [
        (ncsn.load_dataset("mnist"), 0.0, "digit classifier"),
        (told, 1e-9, "efficientnet"),
        (told, 0.0, "efficientnet"),
    ]
    table += [(told, math.inf, "classifier of it"), (few, math.inf, "efficientnet")]
    table += [(told, 1e-9, "classifier of it")]  # from the cache
    table += [(plain, 60.0, "efficientnet"), (Images(grey, grey, grey), 60.0, "pixels")]
    said = []
    for images, seconds, name in table:
        assert guidance.features_for(images, CPU, seconds=seconds, effort=0.02).name == name
        said.append("without a classifier, because training one would take" in capsys.readouterr().out)
    assert said == [False, True, *[False] * 6]
