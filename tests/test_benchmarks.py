"""The benchmark of tables: its scores where they are known, and its command."""

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "tables.py"))


@pytest.mark.parametrize(("width", "inside"), [(1.0, 0.9), (0.5, 0.61), (3.0, 0.999)])
def test_scores_of_gaussian_draws_are_those_of_a_gaussian(width: float, inside: float) -> None:
    rng, hidden = np.random.default_rng(0), np.ones((4000, 2), bool)
    hidden[:, 1] = False
    truth, draws = 5 * rng.standard_normal((4000, 2)), 5 * width * rng.standard_normal((19, 4000, 2))
    rmse, share, crps = TABLES["scores"](draws, truth, hidden, np.full(2, 5.0))
    assert rmse == pytest.approx((1 + width**2 / 19) ** 0.5, rel=0.03)
    assert share == pytest.approx(inside, abs=0.02)
    # E|X − y| is √(2(1 + w²)/π), and E|X − X′| is 2w/√π.
    assert crps == pytest.approx((2 * (1 + width**2) / np.pi) ** 0.5 - width / np.pi**0.5, rel=0.04)


def test_ties_are_broken_at_random() -> None:
    rng, hidden = np.random.default_rng(0), np.ones((4000, 1), bool)
    truth, draws = rng.integers(0, 2, (4000, 1)) * 1.0, rng.integers(0, 2, (19, 4000, 1)) * 1.0
    _, share, _ = TABLES["scores"](draws, truth, hidden, np.ones(1))
    assert share == pytest.approx(0.9, abs=0.02)


def test_the_command_prints_a_line_for_each_way(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--tables", "wine", "--ways", "nearest", "gaussians"])
    TABLES["main"]()
    header, *lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split()[1]: dict(zip(header.replace("in 90 %", "inside").split()[2:-2], line.split()[2:], strict=False))
        for line in lines
    }
    assert set(rows) == {"nearest", "gaussians"}
    assert 0.5 < float(rows["nearest"]["rmse"]) < 1.2
