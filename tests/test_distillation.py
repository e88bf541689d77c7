"""Students: a Gaussian's flow is known in closed form, and so is what a student of it has to learn."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import GaussianScore
from torch import Tensor

import ncsn
from ncsn import cli, storage
from ncsn.experiments.distillation import LAST, Distillation, levels, student_of
from ncsn.objectives import Batch
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.sampling import Sampling
from ncsn.score import Sigma, expand

STD, SIGMAS = 0.5, (4.0, 1.0, 0.2)
SAMPLING = Sampling(sigma_max=4.0, sigma_min=0.01, sampler="dpmpp-sde", levels=12, steps=1, eps=5e-5)
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
TEACHER = Run(score=GaussianScore(1.0, STD), recipe=RECIPE)


def flow(x: Tensor, sigma: float, following: float) -> Tensor:
    """Where the probability flow of N(1, STD² I) leads."""
    return 1 + (x - 1) * math.sqrt((STD**2 + following**2) / (STD**2 + sigma**2))


def distillation(steps: int) -> Distillation:
    return Distillation(teacher=TEACHER, sigmas=SIGMAS, generator=torch.Generator().manual_seed(0), steps=steps)


@pytest.mark.parametrize(("sigma", "following"), [(4.0, 1.0), (1.0, 0.2), (0.2, 0.0)])
def test_a_student_is_led_along_the_flow(sigma: float, following: float) -> None:
    x = 1 + math.hypot(sigma, STD) * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    expected = flow(x, sigma, following)
    few, many = ((distillation(steps).led(x, None, sigma, following) - expected).norm() for steps in (3, 48))
    moved = (x - expected).norm()
    assert few < 0.15 * moved
    assert many < 0.01 * moved


def test_who_steps_along_the_flow_has_nothing_to_learn() -> None:
    """And who knows only the score, whose steps of Euler's method are shorter than the flow, has."""

    def taught(x: Tensor, sigma: Sigma, /) -> Tensor:
        at = float(torch.as_tensor(sigma).flatten()[0])
        following = (*SIGMAS, 0.0)[SIGMAS.index(round(at, 6)) + 1]
        ratio = following / at
        return ((flow(x, at, following) - ratio * x) / (1 - ratio) - x) / expand(sigma, x) ** 2

    loss, batch = distillation(64), Batch(torch.ones(500, 2))
    seen = set()
    for _ in range(20):
        losses, sigmas = loss(taught, batch)
        assert losses.mean() < 1e-5
        seen.add(round(float(sigmas[0]), 6))
        untaught, _ = loss(TEACHER.score, batch)
        assert untaught.mean() > 1e-4
    assert seen == set(SIGMAS), "every level has its turn"


def test_a_students_levels_are_evenly_apart_and_its_copy_is_its_own() -> None:
    run = ncsn.load("mnist", device="cpu")
    found = levels(run, 4)
    assert found[0] == pytest.approx(10)
    assert found[-1] == pytest.approx(LAST)
    assert [a / b for a, b in pairwise(found)] == pytest.approx([(10 / LAST) ** (1 / 3)] * 3)
    student = student_of(run, found)
    assert (student.recipe.sampling.nfe, student.recipe.sampling.guidance) == (4, 1)
    with torch.no_grad():
        for weight in student.model.parameters():
            weight.zero_()
    assert any(bool(weight.any()) for weight in run.model.parameters())


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """The folder of a run of digits that has a student, which has learned for a moment."""
    folder = tmp_path / "run"
    ncsn.load("mnist", device="cpu").save(folder)
    cli.main(["distill", str(folder), *["--minutes", "0.02", "--evaluations", "3", "--batch-size", "2"]])
    return folder


def test_the_command_leaves_what_fast_then_draws_by(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ncsn.load(taught, device="cpu")
    assert run.student is not None
    assert run.student.digest != run.digest
    few = run.steps(2, sampler="fast")
    assert len([*few]) == 3
    assert few.nfe == 3
    torch.testing.assert_close(run.sample(2, sampler="fast"), run.student.sample(2))
    # What a student cannot do, the run does itself.
    for how in ({"levels": 8}, {"guidance": 1.0}, {"label": "none"}, {"guide": "unconditional"}):
        assert run.taught("fast", **how) is None, how
    assert run.taught("dpmpp-sde") is run.taught() is None
    assert replace(run, condition=lambda score, n, generator: score).taught("fast") is None
    cli.main(["sample", str(taught), "-n", "2", "--sampler", "fast", "--out", str(tmp_path / "x.npz")])
    cli.main(["info", str(taught)])
    said = capsys.readouterr().out
    assert "3 evaluations each" in said
    assert "student     3 evaluations, by the sampler fast" in said
    assert json.loads((taught / "student" / "config.json").read_text())["data"]["dataset"] == "mnist"


def test_a_student_is_replaced_only_if_asked_and_goes_when_the_training_goes_on(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", str(taught), "--minutes", "0.01"])
    assert "holds another run; give --overwrite" in capsys.readouterr().err
    for options, said in (
        ("--resume", "evaluations is 4; the student to go on with takes 3"),
        (f"--overwrite --out {taught}", "is the run itself"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["distill", str(taught), "--minutes", "0.01", *options.split()])
        assert said in capsys.readouterr().err
    checkpoint = taught / "student" / "checkpoint.pt"
    before = torch.load(checkpoint, weights_only=True)
    cli.main(["distill", str(taught), *["--minutes", "0.06", "--evaluations", "3", "--batch-size", "2", "--resume"]])
    assert torch.load(checkpoint, weights_only=True)["step"] > before["step"] > 0
    storage.claim(taught, resume=True).release()
    assert not storage.begun(taught / "student"), "it was of the weights as they were"
    assert storage.begun(taught)


def test_a_student_that_has_learned_nothing_yet_is_none(taught: Path) -> None:
    (taught / "student" / storage.MODEL).unlink()
    assert ncsn.load(taught, device="cpu").student is None


def test_a_student_of_the_packages_model_needs_a_place_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", "mnist", "--minutes", "0.01"])
    assert "mnist is no folder of yours; --out says where its student goes" in capsys.readouterr().err
