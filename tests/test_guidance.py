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
from ncsn.learn.guidance import Trial, climbed
from ncsn.run import Recipe
from ncsn.samplers import Sampling
from ncsn.validation import GuideName

CPU = torch.device("cpu")
HELD_OUT = pictures().validation
SAMPLING = Sampling(sigma_max=10.0, sigma_min=0.01, sampler="heun", levels=6, steps=1, eps=1e-5)
RUN = ncsn.Run(score=zero_score, recipe=Recipe(network="UNet", arguments={}, shape=(1, 10, 8), sampling=SAMPLING))


R = torch.Generator().manual_seed(2)
REAL, NONE = Trial(1.0, torch.randn(240, 4, generator=R), torch.randn(240, 5, generator=R)), torch.empty(240, 0)


def found(shifts: list[float], pixels: list[float], *, spread: float = 0.1) -> list[Trial]:
    """Trials whose features and pixels are as far from those of held-out images, ``REAL``; perhaps without features.

    ``spread``: what chance does to each sample beside that, anew at every weight.
    """
    r = torch.Generator().manual_seed(1)
    noise = torch.randn(60, 4, generator=r)
    seen = [noise + shift + spread * torch.randn(60, 4, generator=r) for shift in shifts] or [NONE[:60]] * 9
    rows = zip(guidance.WEIGHTS["smaller"], seen, pixels, strict=False)
    return [Trial(weight, features, REAL.pixels[-60:] + shift) for weight, features, shift in rows]


SAME = [1.0] * 4


@pytest.mark.parametrize(
    ("shifts", "pixels", "weight"),
    [
        ([1.0, 0.8, 0.5, 0.2], SAME, 2.0),
        ([1.0, 0.5, 0.2, 0.5], SAME, 1.5),  # the weight before the first that is farther
        ([0.5, 1.5, 0.2, 0.2], SAME, 1.0),
        ([0.5, 0.49, 0.6, 0.2], SAME, 1.25),  # in doubt: 1.25 is farther, but by a fifth of a standard error
        ([1.0, 0.8, 0.5, 0.49], [0.2, 0.2, 0.2, 0.6], 1.5),  # what features gain is less than what pixels lose
        ([0.5, 0.5, 0.5, 0.5], [1.0, 0.7, 0.4, 0.9], 1.5),  # pixels alone come nearer
        ([], [1.0, 1.05, 1.0, 1.0], 1.25),  # without features, pixels must be clearly better
        ([], [1.0, 1.05, 0.6, 0.7], 1.5),
        ([], [1.0, 1.15, 0.6, 0.7], 1.0),
        ([], [0.0, 0.0, 0.0, 0.0], 1.25),  # images that are all the same
    ],
)
def test_the_weight_is_raised_while_samples_come_nearer(
    shifts: list[float], pixels: list[float], weight: float
) -> None:
    real = REAL if shifts else REAL._replace(seen=NONE)
    plain, choice = climbed(iter(found(shifts, pixels)), real, 1.25)
    assert (plain.weight, choice.weight) == (1.0, weight)


def test_in_doubt_a_smaller_guide_is_not_followed() -> None:
    rows = found([0.5, 0.48, 0.6, 0.2], SAME)
    assert [climbed(iter(rows), REAL, doubt)[1].weight for doubt in (1.0, 1.25)] == [1.0, 1.25]
    rows, real = found([], [1.0, 0.95, 0.94, 0.97]), REAL._replace(seen=NONE)
    assert [climbed(iter(rows), real, doubt)[1].weight for doubt in (1.0, 1.25)] == [1.0, 1.25]


def test_chance_alone_rarely_raises_the_weight() -> None:
    """Samples that are all as good: a standard error of a gain is passed by a sixth at most."""
    chosen = dict.fromkeys((1.0, 1.25, 1.5), 0)
    for seed in range(200):
        r = torch.Generator().manual_seed(seed)
        rows = (Trial(weight, *torch.randn(2, 60, 4, generator=r)) for weight in chosen)
        chosen[climbed(rows, Trial(1.0, *torch.randn(2, 240, 4, generator=r)), 1.25)[1].weight] += 1
    assert 4 <= chosen[1.0] <= 40
    assert chosen[1.25] >= 120
    assert 4 <= chosen[1.5] <= 40


FLAT = Features(name="some network", embed=lambda x: x.flatten(1).float())


@pytest.fixture(params=[False, True], ids=["guide", "classes"])
def untrained(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ncsn.Run:
    return unlearned(monkeypatch, pictures(labels=request.param), tiny(levels=9)).run


def test_samples_of_each_weight_are_of_the_same_noise_and_classes(
    untrained: ncsn.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The better, the nearer the weight is to 1.5."""
    calls = []

    def sample(self: ncsn.Run, n: int, *, guidance: float, **how: Any) -> torch.Tensor:
        calls.append(how)
        real = HELD_OUT[-n:].float() / 255
        return real + abs(guidance - 1.5) * (0.5 - real)

    monkeypatch.setattr(ncsn.Run, "sample", sample)
    rows = list(guidance.trials(untrained, FLAT, 18, seed=3))
    assert [row.weight for row in rows] == [*guidance.WEIGHTS[untrained.recipe.sampling.guide]]
    label = calls[0]["label"]
    assert all(how["seed"] == 3 and how["label"] is label for how in calls)
    assert label == "none" if isinstance(label, str) else len(label.unique()) == 3
    (near,) = (row for row in rows if row.weight == 1.5)
    assert torch.equal(near.seen, HELD_OUT[-18:].flatten(1).float())
    torch.testing.assert_close(near.pixels, (HELD_OUT[-18:].flatten(1).float() + 0.5) / 256)
    apart = [float((row.pixels - near.pixels).abs().mean()) for row in rows if row.weight <= 1.5]
    assert apart[0] > apart[1] > apart[2] == 0


@pytest.mark.parametrize(
    ("seen", "held_out", "trials"),
    [
        (10**9, 4000, 1000),
        (10**9, 300, 100),
        (36_000, 4000, 32),  # of an evaluation for every tenth image: 37.5 a sample, at three weights
        (35_999, 4000, 0),  # too few samples would choose by chance
        (10**9, 95, 0),
    ],
)
@pytest.mark.parametrize("guide", [*guidance.WEIGHTS])
def test_trials_are_as_many_as_training_pays_for_and_the_best_weight_is_printed(
    guide: GuideName,
    seen: int,
    held_out: int,
    trials: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts, looked = list[int](), list[int]()
    made = [
        Trial(weight, torch.full((9, 2), a), torch.zeros(9, 80))
        for weight, a in ((1.0, 0.5), (1.25, 0.4), (1.5, 0.25), (2.0, 1.0))
    ]

    def noted(run: ncsn.Run, features: Features, n: int, *, seed: int) -> Iterator[Trial]:
        counts.append(n)
        yield from made

    def embed(x: torch.Tensor) -> torch.Tensor:
        looked.append(len(x))
        return torch.zeros(len(x), 2)

    monkeypatch.setattr(guidance, "trials", noted)
    monkeypatch.setattr(Sampling, "guided_nfe", 37.5)
    part = torch.zeros(held_out, 1, 10, 8, dtype=torch.uint8)
    data = replace(pictures(labels=False), validation=part)
    sampling = replace(SAMPLING, guide=guide)
    run = replace(RUN, recipe=replace(RUN.recipe, sampling=sampling))
    chosen = guidance.chosen_weight(run, data, replace(FLAT, embed=embed), seen=seen, seed=0)
    assert chosen == (1.5 if trials else guidance.IN_DOUBT[guide])
    assert counts == ([trials] if trials else [])
    assert sum(looked) == min(4 * trials, held_out if trials else 0)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    # Of points a, all alike, and zeros (a² + 1)³ − 1.
    assert ("0.2 from" in printed and "0.95 without" in printed) == (trials > 0)


def test_features_are_those_of_the_datas_own_classes_if_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guidance, "choose", lambda images, name, device: Features(name=name, embed=None))
    monkeypatch.setattr(guidance, "suitable", lambda images: "efficientnet" if images.labels is None else "classifier")
    colours, grey = (torch.zeros(20, n, 8, 8, dtype=torch.uint8) for n in (3, 1))
    classes = torch.arange(20) % 2
    labels = Labels(train=classes, validation=classes, test=classes, names=("a", "b"))
    told, plain = Dataset(colours, colours, colours, labels), Dataset(colours, colours, colours)
    table = [(mnist(), False, "digit classifier"), (told, True, "classifier"), (told, False, "efficientnet")]
    table += [(plain, True, "efficientnet"), (Dataset(grey, grey, grey), True, "pixels")]
    for images, thorough, name in table:
        assert guidance.suited(images, CPU, thorough=thorough).name == name
