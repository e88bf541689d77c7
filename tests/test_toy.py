"""An experiment in the plane: settings, numbers and resuming, where samples and scores are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import zero_score
from torch import Tensor

from ncsn import objectives
from ncsn.cli.console import watch
from ncsn.data import batches
from ncsn.drawn import Drawn
from ncsn.evaluation import metrics
from ncsn.learn import toy
from ncsn.learn.settings import Job, ResolvedToy, Toy
from ncsn.learn.toy import Study
from ncsn.objectives import training_loss
from ncsn.run import Run
from ncsn.training import Budget, State, train


def settings(out: Path, *, resume: bool = False, **given: Any) -> Toy:
    small = {"steps": 6, "width": 8, "layers": 1, "batch_size": 16, "samples": 2000, "levels": 5, "langevin_steps": 3}
    return Toy(job=Job(out=out, resume=resume, device="cpu"), **(small | given))


def test_langevins_steps_follow_from_the_smallest_noise_level() -> None:
    def resolved(**given: Any) -> ResolvedToy:
        return toy.resolve(Toy(**given), torch.zeros(10, 2))

    assert resolved(sigma_min=0.2).eps == pytest.approx(0.02)
    assert resolved(sigma_min=0.2).step_size == pytest.approx(0.04)
    assert resolved(generator="gaussian", sigma_min=0.2).step_size == 0.1  # the paper's
    assert (resolved(eps=0.003).eps, resolved(step_size=0.007).step_size) == (0.003, 0.007)
    views = {name: resolved(generator=name).view for name in ("circle", "gaussian", "moons")}
    assert views == {"circle": "field", "gaussian": "samples", "moons": "both"}
    assert resolved(view="both").view == "both"


def test_a_study_samples_as_its_settings_say(tmp_path: Path) -> None:
    study = Study.of(settings(tmp_path / "run", sigma_max=8.0, sigma_min=0.2))
    sampling = study.recipe.sampling
    assert (sampling.sampler, sampling.levels, sampling.steps) == ("annealed", 5, 3)
    assert [sampling.sigma_max, sampling.sigma_min, sampling.eps] == pytest.approx([8, 0.2, 0.02])
    torch.testing.assert_close(study.noise.sigmas(), 8 * (0.2 / 8) ** (torch.arange(5) / 4))
    known: dict[Any, object] = {"dsm": objectives.dsm, "ssm": objectives.ssm, "exact": objectives.exact}
    for name, objective in known.items():
        assert replace(study, settings=replace(study.settings, objective=name)).objective is objective
    state = study.state()
    assert study.run(state).score is state.average


def test_samplers_are_compared_with_the_data_over_what_other_data_differ_by(tmp_path: Path) -> None:
    """Fresh data is at about 1; what is shifted by (10, 0), at 10·E|cos θ| = 20/π over the floor."""
    study = Study.of(settings(tmp_path / "run", generator="gaussian"))
    run = Run(score=zero_score, recipe=study.recipe)
    asked: list[tuple[object, dict[str, Any]]] = []

    def draw(drawn: Run, n: int, *, start: Tensor, **options: Any) -> Drawn:
        asked.append((drawn.score, {"n": n} | options))
        x = study.truth.sample(n, generator=torch.Generator().manual_seed(77))
        x = x + torch.tensor([10.0, 0.0]) * (options["sampler"] == "langevin")
        assert float(start.min()) < -7.9 < 7.9 < float(start.max()) <= 8
        how = study.recipe.sampling.but(sampler=options["sampler"])
        done, seconds = len(asked), 2.0 * len(asked)
        return Drawn(samples=x, path=[], sampling=how, sampler=how.sampler, nfe=done, guide_nfe=0, seconds=seconds)

    numbers: dict[str, Any] = toy.compare_samplers(study, run, draw).numbers
    floor = numbers["sliced_wasserstein_floor"]
    for kind in ("learned", "exact"):
        assert 0.3 < numbers[f"annealed_{kind}"]["sliced_wasserstein_over_floor"] < 3  # mostly their weights' errors
        shifted = numbers[f"langevin_{kind}"]["sliced_wasserstein_over_floor"] * floor
        assert shifted == pytest.approx(20 / math.pi, rel=4 * 0.48 / 128**0.5)  # |cos θ| has a std of 0.48 means
    generator = torch.Generator().manual_seed(study.settings.seed + 1)
    data, *others = (study.truth.sample(2000, generator=generator) for _ in range(6))
    assert floor == pytest.approx(sum(metrics.sliced_wasserstein(data, other) for other in others) / 5)
    assert [(score is study.truth, how["sampler"]) for score, how in asked] == [
        (False, "langevin"),
        (False, "annealed"),
        (True, "langevin"),
        (True, "annealed"),
    ]
    assert asked[0][0] is zero_score
    for _, how in asked:
        assert how["n"] == numbers["n"] == 2000
        assert how.get("steps") == (15 if how["sampler"] == "langevin" else None)
        assert how.get("eps") == (0.1 if how["sampler"] == "langevin" else None)
    assert (numbers["annealed_exact"]["nfe"], numbers["annealed_exact"]["seconds"]) == (4, 8)
    assert numbers["annealed_exact"]["modes"][0]["weight"] == pytest.approx(0.2, abs=4 * 0.4 / 2000**0.5)


def test_errors_of_a_score_are_relative_to_the_exact_one(tmp_path: Path) -> None:
    """A score of zero is wrong by all of it; the exact one, by nothing."""
    study = Study.of(settings(tmp_path / "run", generator="gaussian"))
    grid = torch.cartesian_prod(torch.linspace(-8, 8, 9), torch.linspace(-8, 8, 9))
    for score, expected in ((zero_score, 1.0), (study.truth, 0.0)):
        rows = toy.score_errors(study, Run(score=score, recipe=study.recipe), grid)
        assert [row["sigma"] for row in rows] == pytest.approx(study.noise.sigmas().tolist())
        for row in rows:
            assert row["relative_error_on_noised_data"] == pytest.approx(expected)
            assert row["relative_error_beyond_distance_2"] == pytest.approx(expected)


def go_on(study: Study, state: State, steps: int, stop: int) -> None:
    """Train as the script does, but no farther than ``stop``."""
    stream = batches(study.data, study.settings.batch_size, generator=state.generator)
    loss = training_loss(study.noise, study.objective, generator=state.generator)
    for p in watch(train(state, stream, loss, budget=Budget(steps=steps)), state, study.folder, [], save_every=0.0):
        if p.step == stop + 1:  # that of ``stop`` is saved, and this one is lost
            return


def test_a_toy_that_is_resumed_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    whole = Study.of(settings(tmp_path / "whole", generator="moons", seed=3))
    state = whole.state()
    go_on(whole, state, 6, 6)
    cut = Study.of(settings(tmp_path / "cut", generator="moons", seed=3))
    go_on(cut, cut.state(), 6, 3)
    # The command line has other settings; those of the run are taken.
    again = Study.of(settings(tmp_path / "cut", generator="circle", seed=5, steps=99, resume=True))
    assert replace(again.settings, job=cut.settings.job) == cut.settings
    resumed = again.state()
    assert resumed.step == 3
    go_on(again, resumed, 6, 6)
    assert resumed.step == 6
    weights = state.average.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in resumed.average.state_dict().items())
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "model.safetensors"
    ).read_bytes()
