"""The examples: a Gaussian's flow is known in closed form, and a student is a run like any other."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import GaussianScore

import ncsn

ROOT = Path(__file__).parent.parent
STD = 0.5


@pytest.fixture(scope="module")
def distill() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distill_example", ROOT / "examples" / "distill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("sigma", "end"), [(4.0, 1.0), (1.0, 0.2), (0.2, 0.0)])
def test_the_teacher_leads_along_its_flow(distill: ModuleType, sigma: float, end: float) -> None:
    sampling = ncsn.Sampling(sigma_max=4.0, sigma_min=0.01, sampler="dpmpp-sde", levels=12, steps=1, eps=5e-5)
    recipe = ncsn.Recipe(network="MLP", arguments={"dimensions": 2}, shape=(2,), sampling=sampling)
    teacher = ncsn.Run(score=GaussianScore(1.0, STD), recipe=recipe)
    x = 1 + math.hypot(sigma, STD) * torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    expected = 1 + (x - 1) * math.sqrt((STD**2 + end**2) / (STD**2 + sigma**2))
    led = distill.follow(teacher, x, None, sigma, end)
    assert (led - expected).norm() < 0.15 * (x - expected).norm()  # 1.6 to 10 %: three steps of order 2


def test_a_student_learns_and_is_a_run_like_any_other(distill: ModuleType, tmp_path: Path) -> None:
    few = {"minutes": 0.02, "batch_size": 2, "samples": 2, "restarts": 1, "seed": 3, "device": "cpu"}
    student = distill.main(distill.Distill(run="mnist", out=tmp_path, **few))
    loaded = ncsn.load(tmp_path, device="cpu")
    assert loaded.recipe.sampling.levels == pytest.approx((10, 2.289, 0.524, 0.12, 0.524, 0.12), abs=1e-3)
    steps = loaded.steps(3, seed=1)
    *_, last = steps
    assert (steps.nfe, steps.guide_nfe) == (5, 0)
    assert torch.equal(last.x, student.sample(3, seed=1))
    before = ncsn.load("mnist", device="cpu").model.state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in loaded.model.state_dict().items())
    assert (tmp_path / "student.png").read_bytes() != (tmp_path / "teacher.png").read_bytes()
