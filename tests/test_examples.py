"""The example of a student: it is a run like any other."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import ncsn

ROOT = Path(__file__).parent.parent


def test_a_student_learns_and_is_a_run_like_any_other(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("distill_example", ROOT / "examples" / "distill.py")
    assert spec is not None
    assert spec.loader is not None
    distill = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = distill  # where dataclasses look for it
    spec.loader.exec_module(distill)
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
