"""Students: a Gaussian's flow is known in closed form, and so is what a student of it has to learn."""

import copy
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers import GaussianScore, z_score
from torch import Tensor, nn

import ncsn
from ncsn import storage
from ncsn.cli import main as cli
from ncsn.data import mnist
from ncsn.data.pixels import quantize
from ncsn.evaluation import digits
from ncsn.evaluation.features import PIXELS, Features
from ncsn.learn.distillation import LAST, Distillation, levels, student_of
from ncsn.learn.judging import judged
from ncsn.model import ScoreModel
from ncsn.objectives import Batch
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.score import Score, Sigma, expand, tweedie

STD, SIGMAS = 0.5, (4.0, 1.0, 0.2)
SAMPLING = Sampling(sigma_max=4.0, sigma_min=0.01, sampler="dpmpp-sde", levels=12, steps=1, eps=5e-5)
RECIPE = Recipe(network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,), sampling=SAMPLING)
TEACHER = Run(score=GaussianScore(1.0, STD), recipe=RECIPE)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flow(x: Tensor, sigma: float, following: float) -> Tensor:
    """Where the probability flow of N(1, STD² I) leads."""
    return 1 + (x - 1) * math.sqrt((STD**2 + following**2) / (STD**2 + sigma**2))


def distillation(steps: int) -> Distillation:
    return Distillation(teacher=TEACHER, sigmas=SIGMAS, generator=seeded(0), steps=steps)


def perfect(x: Tensor, sigma: Sigma, /) -> Tensor:
    """The score of who has learned all: a step of Euler's method along it is the flow."""
    at = round(float(torch.as_tensor(sigma).flatten()[0]), 6)
    following = dict(pairwise((*SIGMAS, 0.0)))[at]
    ratio = following / at
    return ((flow(x, at, following) - ratio * x) / (1 - ratio) - x) / expand(sigma, x) ** 2


class Knowing(ScoreModel):
    """A model that knows a score, and its network's output is ``off`` everywhere."""

    def __init__(self, score: Score, off: float = 0.0) -> None:
        super().__init__(nn.Identity(), 1.0, STD)
        self.known, self.off = score, off

    def forward(self, x: Tensor, sigma: Sigma, label: Tensor | None = None) -> Tensor:
        std, at = expand(sigma, x), self.data_std
        return self.known(x, sigma) + self.off * self.preconditioning.score(torch.ones_like(x), 0 * x, std, at)


@pytest.mark.parametrize(("sigma", "following"), [(4.0, 1.0), (1.0, 0.2), (0.2, 0.0)])
def test_a_student_is_led_along_the_flow(sigma: float, following: float) -> None:
    x = 1 + math.hypot(sigma, STD) * torch.randn(100, 2, generator=seeded(1))
    expected = flow(x, sigma, following)
    few, many = ((distillation(steps).led(x, None, sigma, following) - expected).norm() for steps in (3, 48))
    moved = (x - expected).norm()
    assert few < 0.15 * moved
    assert many < 0.01 * moved


def test_who_steps_along_the_flow_has_nothing_to_learn() -> None:
    """And who knows only the score, whose steps of Euler's method are shorter than the flow, has."""
    loss, batch = distillation(64), Batch(torch.ones(500, 2))
    seen = set()
    for _ in range(20):
        losses, sigmas = loss(Knowing(perfect), batch)
        assert losses.mean() < 1e-5
        seen.add(round(float(sigmas[0]), 6))
        untaught, _ = loss(Knowing(TEACHER.score), batch)
        assert untaught.mean() > 1e-4
    assert seen == set(SIGMAS), "every level has its turn"


def test_an_error_of_the_network_costs_the_same_on_every_level() -> None:
    loss, batch = distillation(64), Batch(1 + STD * torch.randn(500, 2, generator=seeded(3)))
    found = {}
    for _ in range(20):
        losses, sigmas = loss(Knowing(perfect, off=0.3), batch)
        found[round(float(sigmas[0]), 6)] = float(losses.mean())
    assert found == {sigma: pytest.approx(0.3**2, rel=0.03) for sigma in SIGMAS}


def test_a_perfect_student_who_starts_again_draws_from_the_data() -> None:
    """What it makes of its own states has the data's mean and width, for it has the flow's, at every level."""
    sampling = replace(SAMPLING, sampler="euler", levels=(*SIGMAS, *SIGMAS[-2:]))
    student = Run(score=perfect, recipe=replace(RECIPE, sampling=sampling))
    x = student.sample(20_000, start=1 + math.hypot(4, STD) * torch.randn(20_000, 2, generator=seeded(2)))
    assert abs(z_score(x[:, 0], 1)) < 4
    assert float(x.std()) == pytest.approx(STD, rel=0.02)  # 6 standard errors of 40,000 numbers
    assert student.recipe.sampling.nfe == 4


def test_what_a_restart_goes_through_again_is_learned_once() -> None:
    again = Distillation(teacher=TEACHER, sigmas=(*SIGMAS, *SIGMAS[-2:] * 2), generator=seeded(0))
    assert again.ways == distillation(3).ways == [(4.0, 1.0), (1.0, 0.2), (0.2, 0.0)]


def test_a_students_levels_are_evenly_apart_and_its_copy_is_its_own() -> None:
    run = ncsn.load("mnist", device="cpu")
    found = levels(run, 4)
    assert found[0] == pytest.approx(10)
    assert found[-1] == pytest.approx(LAST)
    assert [a / b for a, b in pairwise(found)] == pytest.approx([(10 / LAST) ** (1 / 3)] * 3)
    student = student_of(run, found)
    assert (student.recipe.sampling.nfe, student.recipe.sampling.guidance) == (4, 1)
    assert levels(run, 6) == (*found, *found[-2:], *found[-2:])
    assert student_of(run, levels(run, 6)).recipe.sampling.nfe == 6
    assert len(levels(run, 3)) == 3
    with torch.no_grad():
        for weight in student.model.parameters():
            weight.zero_()
    assert any(bool(weight.any()) for weight in run.model.parameters())


@pytest.fixture(scope="module", autouse=True)
def few_samples_judge() -> Iterator[None]:
    """As many as tests have time for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ncsn.learn.judging.FEWEST", 64)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of digits that has a student, which has learned for a moment."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    ncsn.load("mnist", device="cpu").save(folder)
    shutil.rmtree(folder / "student")  # of the model in the package
    cli.main(["distill", str(folder), *["--minutes", "0.02", "--evaluations", "3", "--batch-size", "8"]])
    return folder


@pytest.fixture
def taught(finished: Path, tmp_path: Path) -> Path:
    """The same, in a folder that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


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
    assert "2 samples by fast (a student), 3 evaluations each" in said
    assert "student     3 evaluations, by the sampler fast" in said
    assert json.loads((taught / "student" / "config.json").read_text())["data"]["dataset"] == "mnist"


def test_a_student_is_replaced_only_if_asked_and_goes_when_the_training_goes_on(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", str(taught), "--minutes", "0.01"])
    assert "holds another run; give --overwrite" in capsys.readouterr().err
    for options, said in (
        ("--resume", "evaluations is 6; the student to go on with takes 3, on other noise levels"),
        (f"--overwrite --out {taught}", "is the run itself"),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["distill", str(taught), "--minutes", "0.01", *options.split()])
        assert said in capsys.readouterr().err
    checkpoint = taught / "student" / "checkpoint.pt"
    before = torch.load(checkpoint, weights_only=True)
    cli.main(["distill", str(taught), *["--minutes", "0.06", "--evaluations", "3", "--batch-size", "8", "--resume"]])
    assert torch.load(checkpoint, weights_only=True)["step"] > before["step"] > 0
    (taught / "checkpoint.pt").touch()
    storage.claim(taught, resume=True).release()
    assert not storage.begun(taught / "student"), "it was of the weights as they were"
    assert storage.begun(taught)


def test_only_a_student_that_has_passed_is_drawn_by(taught: Path, tmp_path: Path) -> None:
    """One that still learns, for what it was judged by is gone, or that has not passed, is none."""
    verdict = storage.read_results(taught / "student")
    assert verdict["offered"]
    assert (verdict["n"], verdict["distance"]) == (64, "Fréchet distance in digit classifier")
    assert 0 < verdict["student"] <= 1.5 * verdict["own"]
    ncsn.load(taught, device="cpu").save(tmp_path / "copy")
    assert storage.read_results(tmp_path / "copy" / "student") == verdict
    assert ncsn.load(tmp_path / "copy", device="cpu").student is not None
    storage.write_json(taught / "student" / "metrics.json", verdict | {"offered": False})
    assert ncsn.load(taught, device="cpu").student is None
    (taught / "student" / "metrics.json").unlink()
    assert ncsn.load(taught, device="cpu").student is None
    storage.write_json(taught / "student" / "metrics.json", verdict)
    (taught / "student" / storage.MODEL).unlink()
    assert ncsn.load(taught, device="cpu").student is None


def test_a_student_of_other_weights_is_no_student_of_the_run(taught: Path, tmp_path: Path) -> None:
    run = ncsn.load(taught, device="cpu")
    other = copy.deepcopy(run.model)
    other.get_parameter("network.head.bias").data += 0.1
    better = replace(run, score=other)
    assert run.student is not None
    assert better.student is replace(run, score=TEACHER.score).student is None
    better.save(tmp_path / "better")
    assert not (tmp_path / "better" / "student").exists()


def test_too_few_held_out_images_judge_nobody(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.learn.judging.FEWEST", 20_000)
    out = str(tmp_path / "student")
    cli.main(["distill", str(finished), "--minutes", "0.02", "--evaluations", "2", "--batch-size", "8", "--out", out])
    assert "there are 10,000 held-out images, and 20000 are needed to judge it" in capsys.readouterr().out
    assert storage.read_results(tmp_path / "student")["offered"] is False


def test_what_cannot_be_gone_on_with_leaves_the_student_as_it_was(
    taught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, args = taught / "student" / "checkpoint.pt", ["--minutes", "0.01", "--evaluations", "3", "--resume"]
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", str(taught), *args])
    assert "checkpoint.pt" in capsys.readouterr().err
    checkpoint.unlink()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", str(taught), *args])
    assert "has weights, but no checkpoint.pt to go on from" in capsys.readouterr().err
    assert ncsn.load(taught, device="cpu").student is not None


def test_a_student_that_was_killed_before_its_first_checkpoint_begins_anew(taught: Path) -> None:
    for name in ("checkpoint.pt", storage.MODEL, "metrics.json"):
        (taught / "student" / name).unlink()
    cli.main(["distill", str(taught), *["--minutes", "0.02", "--evaluations", "3", "--batch-size", "8", "--resume"]])
    assert (taught / "student" / storage.MODEL).exists()


def test_a_run_that_replaces_itself_keeps_its_student(taught: Path) -> None:
    run = ncsn.load(taught, device="cpu")
    run.save(taught, overwrite=True)
    assert ncsn.load(taught, device="cpu").student is not None


def test_students_need_noise_to_learn_from() -> None:
    low = replace(SAMPLING, sigma_max=0.5, sigma_min=0.2)
    teacher = replace(TEACHER, recipe=replace(RECIPE, sampling=low))
    sigmas = levels(teacher, 3)
    assert sigmas[-1] == pytest.approx(0.2)
    loss = Distillation(teacher=teacher, sigmas=sigmas, generator=seeded(0))
    x = torch.randn(4, 2, generator=seeded(1))
    assert torch.allclose(loss.led(x, None, sigmas[-1], 0.0), tweedie(TEACHER.score, x, sigmas[-1]))
    with pytest.raises(ValueError, match=r"noise levels end at 0.1; a student needs some above 0.12"):
        levels(replace(TEACHER, recipe=replace(RECIPE, sampling=replace(low, sigma_max=0.1, sigma_min=0.05))), 3)


@pytest.mark.parametrize("features", [digits(torch.device("cpu")), PIXELS])
def test_held_out_images_tell_good_students_from_bad_ones(features: Features) -> None:
    """Real images are near enough to real images, and their negatives are not."""
    images = mnist()
    real, others, held_out = images.train[:1024], images.train[1024:2048], images.validation[:2000]
    good = judged([(real[:512], others[:512]), (real[512:], others[512:])], held_out, features)
    bad = judged([(255 - real, others)], held_out, features)
    assert good.enough
    assert not bad.enough
    assert good.n == bad.n == 1024
    assert good.own == bad.own


def test_a_student_that_fast_would_be_worse_by_is_kept_from_it(
    taught: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.learn.judging.ENOUGH", 0.01)
    cli.main(["distill", str(taught), *["--minutes", "0.02", "--evaluations", "3", "--batch-size", "8", "--resume"]])
    assert "over 0.01 times as far: fast does not draw by it; --resume with more" in capsys.readouterr().out
    cli.main(["info", str(taught)])
    assert "student     3 evaluations, not offered" in capsys.readouterr().out
    run = ncsn.load(taught, device="cpu")
    assert run.student is None
    assert run.steps(2, sampler="fast").sampling.sampler == "fast"


def test_a_student_of_the_packages_model_needs_a_place_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["distill", "mnist", "--minutes", "0.01"])
    assert "mnist is no folder of yours; --out says where its student goes" in capsys.readouterr().err


def test_the_student_in_the_package_draws_the_digits_that_it_is_told() -> None:
    run, told = ncsn.load("mnist", device="cpu"), torch.arange(100) % 10
    steps = run.steps(100, sampler="fast", label=told)
    *_, last = steps
    assert steps.nfe == 6
    seen = digits(torch.device("cpu"))(quantize(last.x))
    assert float((seen.probabilities.argmax(1) == told).float().mean()) >= 0.97
    assert seen.confident >= 0.93
