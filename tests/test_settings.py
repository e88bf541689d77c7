"""Every option is heard: another value of a field changes the part of the training that it names."""

import dataclasses
import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from helpers import edit_config, run_ncsn
from learning import Lessons, pictures, tiny, unlearned

import ncsn
from ncsn.objectives import dsm
from ncsn.settings import Job, TrainSettings

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
    ("method", "ncsn", {}, lambda x: (x.run.recipe.preconditioning, x.run.recipe.num_classes), ("plain", 0)),
    ("method", "ncsnv2", {}, lambda x: x.run.recipe.sampling.sampler, "ncsnv2"),
    ("preconditioning", "scaled", {}, lambda x: x.run.recipe.preconditioning, "scaled"),
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
    ("optimizer", "adam", {}, lambda x: [type(o).__name__ for o in x.states[-1].optimizers], ["Adam"]),
    ("schedule", "constant", {}, lambda x: [x.states[-1].schedule(f, 9) for f in (0.0, 0.5, 1.0)], [1.0, 1.0, 1.0]),
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
    (changes,) = get_args(inspect.signature(ncsn.fit).parameters["changes"].annotation)
    declared, keywords = get_type_hints(TrainSettings), get_type_hints(changes)
    assert all(hint in (declared[name], declared[name] | None) for name, hint in keywords.items())
    assert declared.keys() - keywords == ELSEWHERE - {"signals", "hidden", "compile"} | {"samples"}


def test_a_run_has_settings_that_follow_from_the_data() -> None:
    given = TrainSettings(dataset="somewhere", start="none", compile=False, job=Job(device="cpu"))
    settings = unlearned(pytest.MonkeyPatch(), pictures(), given).run.settings
    assert {name for name, value in settings.items() if value is None} == {
        *("steps", "size", "start", "levels", "langevin_steps", "eps")
    }
    assert settings["minutes"] == 10
    assert json.loads(json.dumps(settings)).keys() == settings.keys()


def resume(folder: Path, options: str) -> None:
    run_ncsn("train", str(folder / "data.npz"), *options.split(), "--resume", "--out", str(folder / "run"))


def test_who_resumes_gets_the_runs_own_settings_and_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the budget, and how to compute; and what config.json says instead must be settings."""
    folder = Path(shutil.copytree(trained, tmp_path / "it"))
    before = ncsn.load(folder / "run", device="cpu").settings
    resume(folder, "--steps 13 --device cpu --seed 0 --channels 8 12")
    assert "have no effect" not in capsys.readouterr().out
    assert ncsn.load(folder / "run", device="cpu").settings == before | {"steps": 13}
    resume(folder, "--steps 14 --device cpu --seed 5 --batch-size 64")
    assert "these options have no effect: batch_size, seed" in capsys.readouterr().out
    assert ncsn.load(folder / "run", device="cpu").settings == before | {"steps": 14}
    edit_config(folder / "run", lambda config: config["settings"].update(channels="wide"))
    with pytest.raises(SystemExit, match=r"^2$"):
        resume(folder, "--device cpu")
    assert re.search(r"^error: .*channels is 'wide'.*\n$", capsys.readouterr().err)
