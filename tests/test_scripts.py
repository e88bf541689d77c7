"""The two scripts, end to end with tiny budgets, as a user runs them; and ``ncsn train`` where they are the same."""

import json
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import Patch, Printed
from learning import TINY
from PIL import Image

import ncsn
from ncsn.batching import quantize
from ncsn.cli import console
from ncsn.distributions import TOYS
from ncsn.machine import messages as interrupts
from ncsn.plots import image_grid

ROOT = Path(__file__).parent.parent
QUICK = "--steps 5 --levels 3 --samples 500 --langevin-steps 2 --width 8 --layers 1"


Run = Callable[[str, str], int]


@pytest.fixture
def run(monkeypatch: Patch) -> Run:
    """Run a script in this process; its exit status."""

    def run(script: str, args: str) -> int:
        monkeypatch.setattr(interrupts, "quit_on_signals", lambda: None)  # signals are this process', which goes on
        monkeypatch.setattr(sys, "argv", [script, *args.split()])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def numbers(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


# A script that is sent a signal in the middle of a step.
STRUCK = """
import os, runpy, sys
from ncsn.training import State
script, at, number, *args = sys.argv[1:]
update = State.update
def struck(self, rate):
    update(self, rate)
    if self.step == int(at):
        os.kill(os.getpid(), int(number))
State.update, sys.argv = struck, [script, *args]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
def test_a_script_that_is_killed_and_resumed_makes_the_run_of_the_command_that_was_not(
    run: Run, trained: Path, tmp_path: Path, capsys: Printed
) -> None:
    """It begins by --resume, as a cluster starts the same command again and again."""
    whole, cut, script = trained / "run", tmp_path / "run", "training_MNIST.py"
    first = f"--dataset {trained}/data.npz {TINY} --steps 12 --device cpu --out {cut}"
    for at, number in ((5, signal.SIGTERM), (9, signal.SIGKILL)):
        line = [sys.executable, "-c", STRUCK, str(ROOT / script), str(at), str(int(number)), *first.split(), "--resume"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
        assert "Traceback" not in done.stderr
        assert torch.load(cut / "checkpoint.pt", weights_only=True)["step"] == 6, "of the step after the first signal"
        assert ("holds no run" in done.stdout, "--resume" in done.stderr) == (at == 5, at == 5)
        assert done.returncode == (143 if at == 5 else -number)
    assert run(script, first) == 2, "neither --resume nor --overwrite"
    assert run(script, f"--resume --out {cut} --no-compile") == 0
    capsys.readouterr()
    pictures = {"samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png"}
    files = pictures | {"config.json", "model.safetensors", "checkpoint.pt", "metrics.json", "metrics.jsonl"}
    assert names(cut) == names(whole) == files
    for name in names(whole) - {"checkpoint.pt", "metrics.json", "metrics.jsonl"}:  # which hold seconds
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (whole, cut)]
    for name in ("model", "average", "optimizers", "generator", "step"):
        assert str(states[0][name]) == str(states[1][name]), name
    for name in ("total", "best"):
        assert str(states[0]["parts"]["ledger"][name]) == str(states[1]["parts"]["ledger"][name]), name
    made = ncsn.load(cut, device="cpu")
    for name, x in (("samples", made.sample(6)), ("samples_annealed", made.sample(6, sampler="annealed"))):
        with Image.open(cut / f"{name}.png") as grid:
            assert np.array_equal(np.asarray(grid), np.asarray(image_grid(quantize(x)))), name


def test_a_folder_of_colour_images_trains_with_a_guide(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    line = f"{TINY} --guidance 2 --seed 3 --dataset {tmp_path}/images --steps 11 --out {tmp_path}/run"
    assert run("training_MNIST.py", line) == 0
    content, made = numbers(tmp_path / "run"), ncsn.load(tmp_path / "run", device="cpu")
    statistics = ncsn.load_dataset(str(tmp_path / "images")).statistics
    assert [float(made.model.data_mean), float(made.model.data_std)] == pytest.approx(statistics, abs=1e-6)
    assert (content["step"], content["nfe"], content["guidance"], content["guide_nfe"] > 0) == (11, 5, 2, True)
    guide = torch.load(tmp_path / "run" / "guide" / "checkpoint.pt", weights_only=True)
    assert guide["step"] == 2, "a tenth, rounded up"
    assert isinstance(made.guide, ncsn.ScoreModel)
    assert 0 < sum(p.numel() for p in made.guide.parameters()) < made.parameters / 2
    assert not torch.equal(made.sample(2), made.sample(2, guidance=1.0))
    # Random bytes are what a network that says nothing takes them for, uncorrelated pixels: 1 is what that costs.
    assert content["validation_loss"] == pytest.approx(1, abs=0.25)


def check_circle(folder: Path) -> None:
    """The score is right near the data and not far away; the numbers are those of the run that is saved."""
    assert names(folder) == {"config.json", "metrics.json", "model.safetensors", "score_field.png"}
    levels = numbers(folder)["levels"]
    near = [level["relative_error_on_noised_data"] for level in levels]
    assert max(near) <= 0.02
    assert levels[-1]["relative_error_beyond_distance_2"] >= 10 * near[-1]
    assert levels[0]["relative_error_beyond_distance_2"] <= 0.02
    made, truth = ncsn.load(folder, device="cpu"), TOYS["circle"]()
    x = truth.sample(20_000, generator=torch.Generator().manual_seed(9))
    noised = x + 20 * torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    error = (made.score(noised, 20.0) - truth(noised, 20.0)).square().sum() / truth(noised, 20.0).square().sum()
    assert near[0] == pytest.approx(float(error), rel=0.15)


def check_gaussian(folder: Path) -> None:
    """Only annealed dynamics mixes.  2,000 samples: the standard error of a weight of 0.2 is 0.009."""
    samplers = numbers(folder)["samplers"]
    assert samplers["annealed, learned score"]["modes"][0]["weight_error"] <= 0.05
    assert samplers["langevin, learned score"]["modes"][0]["weight_error"] >= 0.2
    assert samplers["langevin, exact score"]["modes"][0]["weight_error"] >= 0.2
    assert samplers["annealed, learned score"]["modes"][1]["std"] == pytest.approx(1, abs=0.07)
    assert samplers["annealed, exact score"]["distance"] < 0.4 * samplers["langevin, exact score"]["distance"]


def check_start(folder: Path) -> None:
    """A few steps leave a Gaussian with the data's mean and standard deviation, right only where noise is large."""
    errors = [level["relative_error_on_noised_data"] for level in numbers(folder)["levels"]]
    assert errors[0] < 0.1 < errors[-1]


LEARNED = [
    ("circle --steps 600 --levels 10", check_circle),
    ("gaussian --steps 600 --levels 10 --langevin-steps 40 --samples 2000 --seed 2", check_gaussian),
    (f"swiss-roll --objective exact {QUICK}", check_start),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "check"), LEARNED)
def test_toys_learn(line: str, check: Callable[[Path], None], run: Run, tmp_path: Path) -> None:
    assert run("training_toy.py", f"--generator {line} --out {tmp_path}/run") == 0
    check(tmp_path / "run")


def test_a_toy_is_a_run_of_its_options_and_is_not_replaced(run: Run, tmp_path: Path, monkeypatch: Patch) -> None:
    draw, objective = Mock(side_effect=console.draw), Mock(side_effect=ncsn.ssm)
    monkeypatch.setattr(console, "draw", draw)
    monkeypatch.setattr(ncsn, "ssm", objective, raising=False)
    line = f"--generator moons --objective ssm --seed 3 {QUICK} --eps 0.001 --out {tmp_path}/run"
    assert run("training_toy.py", line) == 0
    assert objective.call_count == 5, "once a step"
    assert {"samples.png", "score_field.png", "metrics.json"} < names(tmp_path / "run")
    # Two samples of 500 points are apart by about their spread over √500; one is not apart from itself.
    assert 0.02 < numbers(tmp_path / "run")["samplers"]["floor"]["distance"] < 2
    sampling = ncsn.load(tmp_path / "run").recipe.sampling
    assert (sampling.levels, sampling.steps, sampling.eps, sampling.sampler) == (3, 2, 0.001, "annealed")
    steps = {call.kwargs.get("sampler", "annealed"): call.kwargs.get("steps", 3 * 2) for call in draw.call_args_list}
    assert steps == {"langevin": 3 * 2, "annealed": 3 * 2}, "as many of one as of the other"
    assert run("training_toy.py", line) == 2
    assert run("training_toy.py", f"{line} --overwrite") == 0
    for name in ("samples.png", "score_field.png", "metrics.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("precious")
        assert run("training_toy.py", f"--generator circle {QUICK} --out {folder}") == 2
        assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "precious")]


@pytest.mark.parametrize(
    ("script", "folder", "line"),
    [
        ("training_toy.py", "toy-moons", f"--generator moons {QUICK}"),
        ("training_MNIST.py", "data", f"--dataset DATA {TINY} --steps 2 --device cpu"),
    ],
)
def test_a_script_that_is_run_again_replaces_its_run_but_none_in_a_folder_that_it_is_given(
    script: str, folder: str, line: str, run: Run, trained: Path, here: Path, capsys: Printed
) -> None:
    line, place = line.replace("DATA", f"{trained}/data.npz"), Path("runs") / folder
    place.mkdir(parents=True)
    for name, content in (("samples.png", "precious"), ("config.json", "{}")):
        (place / name).write_text(content)
        assert run(script, line) == 2, "no run of its own"
        assert f"is not a run, but has a {name}" in capsys.readouterr().err
        assert [(path.name, path.read_text()) for path in place.iterdir()] == [(name, content)]
        (place / name).unlink()
    capsys.readouterr()
    for seed in (0, 1):
        assert run(script, f"{line} --seed {seed}") == 0
        printed = capsys.readouterr().out
        assert (f"{place} held another run, which is replaced" in printed) == (seed == 1)
        named = set(re.findall(rf"^{place}/(\S+\.(?:png|gif)): \S", printed, re.M))
        assert named == {path.name for path in place.iterdir() if path.suffix in (".png", ".gif")}
    assert [*Path("runs").iterdir()] == [place]
    last = ncsn.load(place).digest
    assert run(script, f"{line} --out {place}") == 2
    assert "holds another run" in capsys.readouterr().err
    assert ncsn.load(place).digest == last


@pytest.mark.slow
def test_two_toys_at_once_cannot_share_a_folder(run: Run, here: Path, monkeypatch: Patch, capsys: Printed) -> None:
    """The second begins in the middle of the first one's training, in another process."""
    line, update, others = f"--generator moons {QUICK}", ncsn.State.update, []

    def update_beside_others(state: ncsn.State, rate: float) -> None:
        update(state, rate)
        if state.step == 2:
            words = [sys.executable, str(ROOT / "training_toy.py"), *line.split()]
            others.append(subprocess.run(words, capture_output=True, text=True, check=False))

    monkeypatch.setattr(ncsn.State, "update", update_beside_others)
    assert run("training_toy.py", line) == 0
    assert "runs/toy-moons/score_field.png" in capsys.readouterr().out
    assert others[0].returncode == 2
    assert "another process is writing" in others[0].stderr


MISTAKES = {
    "toy --generator torus": "--generator is 'torus'",
    "toy --eps 1": "eps is 1.0",
    "toy --sigma-max 0.01": "sigma_max >= sigma_min > 0",
    "MNIST --sampler annealed --eps 1": "eps < 0.0004",
    "MNIST --sigma-max 0.01": "levels are equal",
    "MNIST --minutes 1 --steps 1": "minutes is 1.0 and steps is 1;",
    "MNIST --overwrite --resume": "--overwrite and --resume",
    "MNIST --dataset nowhere": "nowhere does not exist",
    "MNIST --dataset table.csv": "`ncsn train table.csv`",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(
    line: str, run: Run, here: Path, monkeypatch: Patch, capsys: Printed
) -> None:
    monkeypatch.setattr(ncsn.State, "update", Mock(side_effect=MemoryError))  # what is not refused ends here
    Path("table.csv").write_text("a,b\n" + "".join(f"{i % 7},{i * i % 11}\n" for i in range(60)))
    script, args = line.split(" ", 1)
    assert run(f"training_{script}.py", args) == 2
    said = capsys.readouterr().err
    assert MISTAKES[line] in said
    assert said.count("\n") == 1
    assert not Path("runs").exists()


def test_a_model_is_shipped_with_its_numbers(trained: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "argv", ["ship_model.py", str(trained / "run"), str(tmp_path / "it")])
    runpy.run_path(str(ROOT / "scripts" / "ship_model.py"), run_name="__main__")
    assert (tmp_path / "it" / "metrics.json").read_bytes() == (trained / "run" / "metrics.json").read_bytes()
    shipped, before = (ncsn.load(path, device="cpu").model.state_dict() for path in (tmp_path / "it", trained / "run"))
    for name, weight in before.items():
        torch.testing.assert_close(shipped[name].float(), weight, rtol=1e-3, atol=1e-6)
