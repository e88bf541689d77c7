import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ncsn
from ncsn import data, evaluation, storage
from ncsn import run as runs
from ncsn.cli import main as cli
from ncsn.networks import UNet
from ncsn.run import Recipe, Run
from ncsn.samplers import METHODS, Sampling
from ncsn.score import ScoreModel

RECIPE = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (8, 8), "blocks": 1, "features": 8},
    shape=(1, 28, 28),
    sampling=Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp-sde", levels=5, steps=1, eps=5e-5),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    storage.claim(folder)
    runs.write_config(folder, "images", {"dataset": "mnist"}, RECIPE)
    runs.write_model(folder, ScoreModel(UNet(1, (8, 8), 1, 8), 0.13, 0.31))
    return folder


@pytest.fixture
def points(tmp_path: Path) -> Path:
    recipe = replace(RECIPE, network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,))
    Run(score=recipe.build(0.0, 1.0), recipe=recipe).save(tmp_path / "points")
    return tmp_path / "points"


def test_sample_draws_a_grid_with_every_sampler(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sampler in METHODS:
        path = tmp_path / f"{sampler}.png"
        few = ["--steps", "4"] if sampler == "langevin" else ["--levels", "4"]
        few += ["--steps", "1"] if sampler == "annealed" else []
        cli.main(["sample", str(run), "-n", "9", "--sampler", sampler, *few, "--out", str(path)])
        evaluations = {"annealed": 5, "langevin": 5, "pc": 7, "heun": 7, "edm": 7}.get(sampler, 4)
        assert f"by {sampler}, {evaluations} evaluations each" in capsys.readouterr().out
        with Image.open(path) as image:
            assert image.size == (8 * 30 * 2, 2 * 30 * 2)


def test_sample_draws_the_way_out_of_the_noise(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "way.gif"
    cli.main(["sample", str(run), "-n", "4", "--levels", "5", "--out", str(path)])
    with Image.open(path) as image:
        assert image.n_frames == 5


def test_the_model_in_the_package_draws_digits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.main(["sample", "mnist", "-n", "200", "--out", "digits.npz"])
    digits = torch.from_numpy(np.load("digits.npz")["samples"])
    # A model that draws eights alone is confident too: what it draws must be as near to real digits as they are to
    # each other.  Measured over 200: 5.0, where as many held-out digits score 4.6 and pure eights over 100.
    found = evaluation.evaluate(digits, data.mnist())
    assert found.metrics["confident"].generated > 0.85
    assert found.metrics["frechet_distance"].generated < 2 * found.metrics["frechet_distance"].training
    assert found.metrics["class_variation"].generated < 0.2


def test_info_says_what_a_run_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "guide").mkdir()
    runs.write_config(run / "guide", "images", {}, replace(RECIPE, arguments=RECIPE.arguments | {"channels": (8,)}))
    runs.write_model(run / "guide", ScoreModel(UNet(1, (8,), 1, 8)))
    (run / "metrics.json").write_text('{"loss": 0.125}')
    cli.main(["info", str(run)])
    weights, guide = (sum(p.numel() for p in UNet(1, c, 1, 8).parameters()) for c in ((8, 8), (8,)))
    printed = capsys.readouterr().out
    for part in (f"{weights:,} weights", f"{guide:,} of a guide", '"image_channels": 1', '"sigma_max": 5.0', "0.125"):
        assert part in printed


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sample nowhere", "nowhere is no run"),
        ("info nowhere", "nowhere is no run"),
        ("sample RUN --sampler hmc", "hmc"),
        ("sample RUN -n 0", "n is 0"),
        ("sample RUN -n many", "many"),
        ("sample RUN --out x.jpg", ".jpg"),
        ("sample RUN --foo", "--foo"),
        ("sample RUN --out taken.png", "--overwrite"),
        ("sample RUN --out no/x.png", "no is no folder"),
        ("sample RUN -n 20000 --out x.png", "10000"),
        ("evaluate RUN -n 99", "n is 99"),
        ("likelihood RUN --probes 1", "probes is 1"),
        ("sample RUN --class ''", "label is ''"),
        ("sample POINTS", "makes points"),
        ("interpolate POINTS", "makes points"),
        ("likelihood POINTS", "makes points"),
        ("denoise POINTS", "makes points"),
        ("evaluate POINTS", "does not say"),
        ("denoise RUN --out taken.png", "--overwrite"),
        ("denoise mnist --input 10000", "0 to 9999"),
        ("denoise RUN --input small.png --measured", "(1, 28, 28)"),
        ("superres RUN --factor 3", "factor is 3"),
        ("deblur RUN --noise 0", "noise is 0.0"),
        ("export RUN x.pt", ".pt"),
        ("play --port 70000", "port is 70000"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    line: str,
    complaint: str,
    run: Path,
    points: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(run.parent)
    Path("taken.png").write_text("precious")
    Image.fromarray(np.zeros((7, 7), np.uint8)).save("small.png")
    before = sorted(run.parent.iterdir())
    with pytest.raises(SystemExit) as stop:
        cli.main([{"RUN": str(run), "POINTS": str(points)}.get(word, word) for word in shlex.split(line)])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert complaint in printed.err
    assert Path("taken.png").read_text() == "precious"
    assert sorted(run.parent.iterdir()) == before, "nothing was written before the refusal"


def test_samples_that_are_not_finite_end_a_command_and_it_says_where(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sample", str(run), "-n", "4", "--sampler", "langevin", "--steps", "300", "--eps", "1e5"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--out", str(tmp_path / "x.png")])
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1
    assert re.match(r"error: samples are not finite from noise level [\d.]+ on, by langevin .*step size 100000", said)
    assert list(tmp_path.glob("*.png")) == []


def test_help_answers_before_torch_is_loaded() -> None:
    code = (
        "import sys; from ncsn.cli import main as cli\n"
        "try: cli.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 3  # a second alone on the machine, see the README
    assert "sample" in done.stdout
    assert "info" in done.stdout


def test_digits_are_drawn_without_what_takes_its_time_to_load(tmp_path: Path) -> None:
    code = (
        "import sys; from ncsn.cli import main as cli\n"
        "cli.main(['sample', 'mnist', '-n', '2', '--levels', '2', '--device', 'cpu', '--out', 'x.png'])\n"
        "slow = {'torch._dynamo', 'sympy', 'typeguard', 'http.server', 'matplotlib', 'scipy', 'torchvision'}\n"
        "print(slow & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_public_names_are_all_there() -> None:
    assert all(getattr(ncsn, name) is not None for name in dir(ncsn))
    assert {"load", "fit", "Run", "annealed_langevin", "State"} <= set(dir(ncsn))
    with pytest.raises(AttributeError, match="nothing"):
        ncsn.nothing  # type: ignore[attr-defined]  # noqa: B018
