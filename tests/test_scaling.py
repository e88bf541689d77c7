"""The measurements of scaling: exponents, the model of messages, and that all of it runs on a small setting."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scaling
import scaling_page
import torch
from expected import NVLINK, Cost, Counts, Kind, Link, counted, dominates, sample_cost, step_cost
from step import NOISE, Step

from ncsn import machine

ROOT = Path(__file__).parent.parent


def test_exponents() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    found = scaling_page.power(x, [3 * value**1.5 for value in x])
    assert found == pytest.approx((1.5, 0.0, 1.5))


def test_the_error_of_an_exponent_is_how_far_it_is_off() -> None:
    """Of 400 series with 10 % of noise a point, a 95 % interval by Student's t holds the exponent in 95 % ± 3.3 %."""
    rng, x = np.random.default_rng(0), 2.0 ** np.arange(6)
    inside = 0
    for _ in range(400):
        found = scaling_page.power(list(x), list(5 * x**1.2 * np.exp(0.1 * rng.standard_normal(6))))
        inside += abs(found.exponent - 1.2) < 2.776 * found.error
    assert abs(inside / 400 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_what_does_not_grow_matters_least_at_the_end() -> None:
    x = [1.0, 10.0, 100.0, 1000.0]
    found = scaling_page.power(x, [10 + value for value in x])
    assert found.exponent < 0.8 < 0.95 < found.last < 1


def test_messages() -> None:
    link = Link("", 0.005, 125e6)
    rows = [{"numbers": n, "seconds": link.seconds(4 * n, 2)} for n in (1000, 100_000, 3_000_000)]
    assert rows[0]["seconds"] == pytest.approx(2 * 0.005 + 4000 / 125e6)
    found = scaling_page.link_of(rows)
    assert (found.alpha, found.beta) == pytest.approx((0.005, 125e6))
    # In a ring, each of N − 1 neighbours is told twice; halving and doubling takes 2·log₂N messages of the same bytes.
    assert found.seconds(1e6, 8) == pytest.approx(14 * 0.005 + 14 / 8 * 1e6 / 125e6)
    assert link.seconds(1e6, 8) == pytest.approx(6 * 0.005 + 14 / 8 * 1e6 / 125e6)


def test_costs_are_counted() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    found = counted(lambda: (a @ b).t().add_(1))
    assert found.flops == 2 * 3 * 4 * 5
    assert found.operations == 2, "a view is none"
    assert found.bytes == 4 * (12 + 20 + 15) + 4 * (15 + 15)


def test_what_a_gpu_should_do_is_the_same_whatever_processor_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    step, costs = Step(channels=(8, 16), side=8, precision="bf16"), []
    for has in (True, False):
        monkeypatch.setattr(machine, "processor_has", lambda *names, has=has: has)
        costs.append((step_cost(step), sample_cost(step)))
    assert costs[0] == costs[1]
    assert costs[0] != (step_cost(replace(step, precision="fp32")), sample_cost(replace(step, precision="fp32")))


def test_communication_dominates_until_arithmetic_takes_longer() -> None:
    cost = Cost(fixed=Counts(0, 0, 0), image=Counts(1e12, 0, 0))
    one = cost.seconds(1)[0]
    assert dominates(cost, 7.5 * one, 1) == "7 images"
    assert dominates(cost, 0.5 * one, 1) == "never"
    assert NVLINK.seconds(1e6, 8) > 0


def test_posterior_targets_end_where_their_copies_of_the_data_are_too_large() -> None:
    """2 GiB, of 12 bytes a number; or with a network so small that it is not worth them."""
    kind = Kind(shape=(3, 32, 32), channels=(64, 128), noise=NOISE, averaging=1.5)
    assert kind.posterior() == 2**31 // (12 * 3 * 32 * 32)
    assert 0 < replace(kind, channels=(8,)).posterior() < 2**31 // (12 * 3 * 32 * 32)


@pytest.mark.slow
def test_a_small_setting_is_measured_and_drawn(tmp_path: Path) -> None:
    page = tmp_path / "scaling.md"
    shutil.copy(ROOT / "docs" / "scaling.md", page)
    (tmp_path / "run").mkdir()
    seconds = {"start-up": 1.0, "training": 97.0, "checkpoints": 1.0, "logging": 0.5, "validation": 0.5}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"seconds_of": seconds}))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"settings": {"minutes": 10.0, "dataset": "mnist"}}))
    words = ["--seconds", "0.001", "--points", "2", "--out", str(tmp_path / "found.json"), "--page", str(page)]
    words += ["--only", "sampling", "overhead", "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert all(row["memory"] > 0 and min(row["seconds"]) > 0 for row in found["sampling"]["rows"])
    text = page.read_text()
    assert "| sampling | batch | 10 to 20 |" in text
    assert "| checkpoints | 1.0 |" in text
    assert (tmp_path / "images" / "scaling.png").stat().st_size > 10_000


def test_what_cannot_be_measured_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run is None; for overhead a training is needed"):
        scaling.main(scaling.Scaling(only=("training", "overhead"), out=tmp_path / "found.json"))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="this version has finished"):
        scaling.check(scaling.Scaling(only=("overhead",), run=tmp_path))
    assert not (tmp_path / "found.json").exists()


def test_the_page_has_the_marks_that_tables_go_between() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name in scaling_page.TABLES:
        assert text.index(f"<!-- {name} -->") < text.index(f"<!-- end of {name} -->")
    with pytest.raises(ValueError, match="marks"):
        scaling_page.written("no marks", {})
