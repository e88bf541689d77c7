"""Every option is heard: another value of a field changes the part of the training that it names."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

import pytest
import torch
from learning import Lessons, pictures, tiny, unlearned

from ncsn.learn import rules
from ncsn.learn.plan import make_plan, storable_settings
from ncsn.objectives import dsm
from ncsn.settings import Changes, Job, ResolvedSettings, TrainSettings
from ncsn.validation import from_json

Read = Callable[[Lessons], object]


def sigmas(lessons: Lessons) -> torch.Tensor:
    """The noise levels of ten batches."""
    state, loss = lessons.states[-1], lessons.losses[-1]
    with torch.no_grad():
        return torch.cat([loss(state.model, next(lessons.batches[-1]))[1] for _ in range(10)])


def target_above(lessons: Lessons) -> object:
    """From which level on the target is a mean over the data set; ∞ where it never is."""
    objective: Any = lessons.objectives[-1]
    return float("inf") if objective is dsm else objective.keywords["above"]


def dark_on_the_left(lessons: Lessons) -> bool:
    """Whether all images of twenty batches are, as all that are learned are."""
    shown = torch.cat([next(lessons.batches[-1]).x for _ in range(20)])
    return bool((shown[..., :4].mean((1, 2, 3)) < shown[..., 4:].mean((1, 2, 3))).all())


# The field, another value, further options that it needs, what it changes, and what that is then.
HEARD: list[tuple[str, Any, dict[str, Any], Read, object]] = [
    ("minutes", 30.0, {}, lambda x: (x.budgets[-1].seconds or 0) > 1000, True),
    ("steps", 7, {}, lambda x: x.budgets[-1].steps, 7),
    ("flip", True, {"posterior_above": 9.0}, dark_on_the_left, False),
    ("batch_size", 9, {}, lambda x: len(next(x.batches[-1]).x), 9),
    ("channels", (6, 4, 2), {}, lambda x: x.run.recipe.arguments["channels"], (6, 4, 2)),
    ("blocks", 2, {}, lambda x: x.run.recipe.arguments["blocks"], 2),
    ("sigma_max", 2.5, {}, lambda x: x.run.recipe.sampling.sigma_max, 2.5),
    ("sigma_min", 0.02, {}, lambda x: x.run.recipe.sampling.sigma_min, 0.02),
    ("proposal", "geometric", {}, lambda x: len(set(sigmas(x).tolist())), 5),
    ("proposal", "loguniform", {"sigma_max": 9.0}, lambda x: float((sigmas(x) > 2).float().mean()) > 0.1, True),
    ("log_sigma_mean", 0.0, {}, lambda x: float(sigmas(x).median()) > 0.8, True),
    ("log_sigma_std", 0.1, {}, lambda x: float(sigmas(x).log().std()) < 0.2, True),
    ("posterior_above", 0.7, {}, target_above, 0.7),
    ("class_conditional", False, {}, lambda x: next(x.batches[-1]).label is None, True),
    ("class_conditional", False, {}, lambda x: (len(x.states), x.run.recipe.num_classes), (2, 0)),
    ("sampler", "heun", {}, lambda x: x.run.recipe.sampling.sampler, "heun"),
    ("levels", 8, {}, lambda x: x.run.recipe.sampling.levels, 8),
    ("langevin_steps", 3, {"sampler": "annealed", "eps": 1e-5}, lambda x: x.run.recipe.sampling.steps, 3),
    ("eps", 1e-5, {}, lambda x: x.run.recipe.sampling.eps, 1e-5),
    ("muon_rate", 0.5, {}, lambda x: x.states[-1].optimizers[0].param_groups[0]["peak"], 0.5),
    ("adam_rate", 0.25, {}, lambda x: x.states[-1].optimizers[1].param_groups[0]["peak"], 0.25),
    ("guidance", 1.5, {}, lambda x: x.run.recipe.sampling.guidance, 1.5),
    ("guidance", 1.0, {"class_conditional": False}, lambda x: (len(x.states), x.run.recipe.num_classes), (1, 0)),
    ("seed", 5, {}, lambda x: float(next(x.states[-1].average.parameters()).sum()), None),
    ("samples", 3, {}, lambda x: x.run.settings["samples"], 3),
]
ELSEWHERE = {
    "signals",
    "hidden",
    "start",
    "job",
    "dataset",
    "compile",
    "size",
    "fit",
    "background",
    "transparent",
    "max_broken",
}


@pytest.fixture(scope="module")
def usual() -> Lessons:
    return unlearned(pytest.MonkeyPatch(), pictures(), tiny())


@pytest.mark.parametrize(("name", "value", "others", "read", "expected"), HEARD)
def test_every_option_is_heard(
    usual: Lessons, name: str, value: Any, others: dict[str, Any], read: Read, expected: object
) -> None:
    changed = read(unlearned(pytest.MonkeyPatch(), pictures(), tiny(**others, **{name: value})))
    assert read(usual) != changed
    assert expected is None or changed == expected


def test_every_option_is_in_the_table() -> None:
    assert {name for name, *_ in HEARD} | ELSEWHERE == {field.name for field in dataclasses.fields(TrainSettings)}


def test_keywords_of_fit_are_settings_of_the_same_types() -> None:
    declared, keywords = get_type_hints(TrainSettings), get_type_hints(Changes)
    assert all(hint in (declared[name], declared[name] | None) for name, hint in keywords.items())
    assert declared.keys() - keywords == ELSEWHERE - {"signals", "hidden", "compile"} | {"samples"}


def test_resolved_settings_have_values_of_the_data_and_come_back_from_json() -> None:
    resolved = rules.resolve(TrainSettings(dataset="somewhere", start="none"), pictures(), torch.device("cpu"))
    assert {name for name, value in vars(resolved).items() if value is None} == {
        *("steps", "size", "start", "levels", "langevin_steps", "eps")
    }
    assert resolved.minutes == 10
    text = json.dumps(storable_settings(resolved))
    assert from_json(ResolvedSettings, json.loads(text), "it") == resolved
    given, data = TrainSettings(), pictures(n=40)
    assert make_plan(data, given, saved=json.loads(text)).settings == resolved, "whatever the data is"


def test_who_resumes_gets_the_runs_own_settings_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    saved = storable_settings(rules.resolve(tiny(seed=3), pictures(), torch.device("cpu")))
    again = partial(rules.recall, saved=saved)
    same = again(TrainSettings(seed=3, channels=(8, 12), minutes=2.0, job=Job(device="cpu")))
    assert (same.seed, same.channels, same.minutes, same.steps) == (3, (8, 12), 2.0, None)
    assert (same.job, same.compile) == (Job(device="cpu"), False)
    assert not capsys.readouterr().out
    other = again(TrainSettings(seed=5, batch_size=64))
    assert (other.seed, other.batch_size, other.steps) == (3, 16, 6)
    assert "batch_size, seed" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"config\.json: settings: channels is"):
        again(TrainSettings(), saved=saved | {"channels": "wide"})
