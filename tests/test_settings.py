"""Every option is heard: another value of a field changes the part of the training that it names."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from learning import Lessons, pictures, tiny, unlearned

import ncsn
from ncsn.learn import rules
from ncsn.learn.rules import recalled
from ncsn.learn.settings import Job, ResolvedSettings, TrainSettings
from ncsn.objectives import dsm
from ncsn.run import plain
from ncsn.validation import validated

Read = Callable[[Lessons], object]


def sampling(name: str) -> Read:
    return lambda lessons: getattr(lessons.run.recipe.sampling, name)


def argument(name: str) -> Read:
    """Of the network."""
    return lambda lessons: lessons.run.recipe.arguments.get(name)


def rate(number: int) -> Read:
    return lambda lessons: lessons.states[-1].optimizers[number].param_groups[0]["peak"]


def sigmas(lessons: Lessons) -> torch.Tensor:
    """The noise levels of ten batches."""
    state, loss = lessons.states[-1], lessons.losses[-1]
    with torch.no_grad():
        return torch.cat([loss(state.model, next(lessons.batches[-1]))[1] for _ in range(10)])


def target_above(lessons: Lessons) -> object:
    """From which level on the target is a mean over the data set; ∞ where it never is."""
    objective: Any = lessons.objectives[-1]
    return float("inf") if objective is dsm else objective.keywords["above"]


def batch(read: Callable[[ncsn.Batch], object]) -> Read:
    return lambda lessons: read(next(lessons.batches[-1]))


def dark_on_the_left(lessons: Lessons) -> bool:
    """Whether all images of twenty batches are, as all that are learned are."""
    shown = torch.cat([next(lessons.batches[-1]).x for _ in range(20)])
    return bool((shown[..., :4].mean((1, 2, 3)) < shown[..., 4:].mean((1, 2, 3))).all())


REFINENET: dict[str, Any] = {"channels": (4,), "blocks": 2, "guidance": 1.0}
USUAL: dict[str, Lessons] = {}  # by the options that they have in common with another
# The field, another value, further options that it needs, what it changes, and what that is then.
HEARD: list[tuple[str, Any, dict[str, Any], Read, object]] = [
    ("minutes", 30.0, {}, lambda x: (x.budgets[-1].seconds or 0) > 1000, True),
    ("steps", 7, {}, lambda x: x.budgets[-1].steps, 7),
    ("flip", True, {"posterior_above": 9.0}, dark_on_the_left, False),
    ("batch_size", 9, {}, batch(lambda b: len(b.x)), 9),
    ("accumulate", 2, {}, batch(lambda b: len(b.x)), 8),
    ("network", "refinenet", REFINENET, lambda x: x.run.recipe.network, "NCSN"),
    ("network", "refinenet-v2", REFINENET, lambda x: x.run.recipe.preconditioning, "scaled"),
    ("network", "refinenet-v2", REFINENET, lambda x: float(x.run.model.data_mean), 0.0),
    ("channels", (6, 4, 2), {}, argument("channels"), (6, 4, 2)),
    ("blocks", 2, {}, argument("blocks"), 2),
    ("sigma_max", 2.5, {}, sampling("sigma_max"), 2.5),
    ("sigma_min", 0.02, {}, sampling("sigma_min"), 0.02),
    ("proposal", "geometric", {}, lambda x: len(set(sigmas(x).tolist())), 5),
    ("proposal", "loguniform", {"sigma_max": 9.0}, lambda x: float((sigmas(x) > 2).float().mean()) > 0.1, True),
    ("log_sigma_mean", 0.0, {}, lambda x: float(sigmas(x).median()) > 0.8, True),
    ("log_sigma_std", 0.1, {}, lambda x: float(sigmas(x).log().std()) < 0.2, True),
    ("posterior_above", 0.7, {}, target_above, 0.7),
    ("class_conditional", False, {}, batch(lambda b: b.label is None), True),
    ("class_conditional", False, {}, argument("num_classes"), None),
    ("sampler", "heun", {}, sampling("sampler"), "heun"),
    ("levels", 8, {}, sampling("levels"), 8),
    ("langevin_steps", 3, {"sampler": "annealed", "eps": 1e-5}, sampling("steps"), 3),
    ("eps", 1e-5, {}, sampling("eps"), 1e-5),
    ("muon_rate", 0.5, {}, rate(0), 0.5),
    ("adam_rate", 0.25, {}, rate(1), 0.25),
    ("guidance", 1.5, {}, sampling("guidance"), 1.5),
    ("guidance", 1.0, {"class_conditional": False}, lambda x: len(x.states), 1),
    ("seed", 5, {}, lambda x: float(next(x.states[-1].average.parameters()).sum()), None),
    ("samples", 3, {}, lambda x: x.run.settings["samples"], 3),
]
ELSEWHERE = {"signals", "start", "job", "dataset", "compile", "size", "fit", "background", "max_broken"}


@pytest.mark.parametrize(("name", "value", "others", "read", "expected"), HEARD)
def test_every_option_is_heard(
    name: str, value: Any, others: dict[str, Any], read: Read, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = {key: other for key, other in others.items() if key not in ("channels", "blocks", "sampler", "eps")}
    changed = read(unlearned(monkeypatch, pictures(), tiny(**others, **{name: value})))
    assert expected is None or changed == expected
    if str(usual) not in USUAL:
        USUAL[str(usual)] = unlearned(monkeypatch, pictures(), tiny(**usual))
    assert read(USUAL[str(usual)]) != changed


def test_every_option_is_in_the_table() -> None:
    assert {name for name, *_ in HEARD} | ELSEWHERE == {field.name for field in dataclasses.fields(TrainSettings)}


def test_resolved_settings_have_values_of_the_data_and_come_back_from_json() -> None:
    resolved = rules.resolve(TrainSettings(dataset="somewhere"), pictures(), torch.device("cpu"))
    assert {name for name, value in vars(resolved).items() if value is None} == {
        *("steps", "size", "start", "levels", "langevin_steps", "eps")
    }
    assert resolved.minutes == 10
    text = json.dumps(plain(dataclasses.asdict(resolved)))
    assert validated(ResolvedSettings, json.loads(text), "it") == resolved
    assert rules.resolve(resolved, pictures(n=40), torch.device("cpu")) is resolved


def test_who_resumes_gets_the_runs_own_settings_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    saved = plain(dataclasses.asdict(rules.resolve(tiny(seed=3), pictures(), torch.device("cpu"))))
    again = partial(recalled, saved=saved, where="x: settings")
    same = again(TrainSettings(seed=3, channels=(8, 12), minutes=2.0, accumulate=2, job=Job(device="cpu")))
    assert (same.seed, same.channels, same.minutes, same.steps, same.accumulate) == (3, (8, 12), 2.0, None, 2)
    assert (same.job, same.compile) == (Job(device="cpu"), False)
    assert not capsys.readouterr().out
    other = again(TrainSettings(seed=5, batch_size=64))
    assert (other.seed, other.batch_size, other.steps) == (3, 16, 6)
    assert "batch_size, seed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="x: settings: channels is"):
        again(TrainSettings(), saved=saved | {"channels": "wide"})
