import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ncsn
from ncsn import data, evaluation, storage
from ncsn.cli import console
from ncsn.cli import main as cli
from ncsn.model import ScoreModel
from ncsn.networks import UNet
from ncsn.pixels import quantize
from ncsn.recipe import Recipe
from ncsn.samplers import METHODS, Sampling

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
    storage.write_config(folder, "images", {"dataset": "mnist"}, RECIPE)
    storage.write_model(folder, ScoreModel(UNet(1, (8, 8), 1, 8), 0.13, 0.31))
    return folder


def one_line(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run ``ncsn`` with arguments that must be refused; returns the line that says why."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(args))
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_sample_writes_bytes_and_the_same_for_the_same_seed(run: Path, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        path = tmp_path / f"{name}.npz"
        cli.main(["sample", str(run), "-n", "6", "--seed", seed, "--out", str(path)])
        drawn.append(np.load(path)["samples"])
    assert drawn[0].shape == (6, 1, 28, 28)
    assert drawn[0].dtype == np.uint8
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


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
    began = time.monotonic()
    cli.main(["sample", "mnist", "-n", "64"])
    assert time.monotonic() - began < 30  # a few seconds alone on the machine, see the README
    with Image.open("grid.png") as grid:
        assert grid.size == (8 * 30 * 2, 8 * 30 * 2)
    cli.main(["sample", "mnist", "-n", "200", "--out", "digits.npz"])
    digits = torch.from_numpy(np.load("digits.npz")["samples"])
    # A model that draws eights alone is confident too: what it draws must be as near to real digits as they are to
    # each other.  Measured over 200: 5.0, where as many held-out digits score 4.6 and pure eights over 100.
    found = evaluation.evaluate(digits, data.mnist())
    assert found.metrics["confident"].generated > 0.85
    assert found.metrics["frechet_distance"].generated < 2 * found.metrics["frechet_distance"].training
    assert found.metrics["class_variation"].generated < 0.2


def test_a_run_in_python_draws_the_very_images_of_the_command(run: Path, tmp_path: Path) -> None:
    for sampler in ("dpmpp-sde", "heun"):
        path = tmp_path / f"{sampler}.npz"
        cli.main(["sample", str(run), "-n", "6", "--seed", "3", "--sampler", sampler, "--out", str(path)])
        x = ncsn.load(run).sample(6, seed=3, sampler=sampler)
        assert np.array_equal(np.load(path)["samples"], quantize(x).numpy())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"ncsn {version('ncsn')}\n"


def test_samples_do_not_depend_on_the_batch_size(run: Path, tmp_path: Path) -> None:
    for size in ("2", "6"):
        cli.main(["sample", str(run), "-n", "6", "--batch-size", size, "--out", str(tmp_path / f"{size}.npz")])
    a, b = (np.load(tmp_path / f"{size}.npz")["samples"].astype(int) for size in ("2", "6"))
    assert np.abs(a - b).max() <= 1  # another summation order may round another way


@pytest.mark.parametrize(
    "problem",
    [
        "inpaint --hide bottom",
        "inpaint --hide random",
        "inpaint --hide centre --method replacement",
        "denoise",
        "superres --factor 2",
        "deblur --blur 1.5",
    ],
)
def test_inverse_problems_draw_a_page_and_measure(
    problem: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = problem.split()
    out = tmp_path / "page.png"
    few = ["--input", "7", "-n", "3", "--levels", "3", "--out", str(out)]
    cli.main([command, str(run), *options, *few])
    assert "PSNR of the posterior's mean" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.width > 500


def test_a_measurement_from_a_file_is_taken_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.zeros((7, 7), np.uint8)).save(tmp_path / "small.png")
    few = ["-n", "2", "--levels", "3", "--out", str(tmp_path / "page.png")]
    cli.main(["superres", str(run), "--input", str(tmp_path / "small.png"), "--measured", *few])
    assert "PSNR" not in capsys.readouterr().out
    small = ["--input", str(tmp_path / "small.png"), "--out", str(tmp_path / "b.png")]
    error = one_line(capsys, "denoise", str(run), *small, "--measured")
    assert "has shape (1, 7, 7) (channels, height, width); (1, 28, 28) is needed" in error
    cli.main(["denoise", str(run), *small, *few[:4]])
    assert "small.png: cropped to 28 x 28, enlarged" in capsys.readouterr().err, (
        "an image to be measured is fitted, and that is said"
    )
    (tmp_path / "b.png").unlink()
    assert "give --overwrite" in one_line(capsys, "denoise", str(run), "--out", str(tmp_path / "page.png"))
    assert "0 to 9999" in one_line(capsys, "denoise", str(run), "--input", "10000", "--out", str(tmp_path / "b.png"))
    assert "factor is 3" in one_line(capsys, "superres", str(run), "--factor", "3", "--out", str(tmp_path / "b.png"))
    assert "noise is 0.0; it must be above 0" in one_line(
        capsys, "deblur", str(run), "--noise", "0", "--out", str(tmp_path / "b.png")
    )


def test_likelihood_says_bits_and_how_sure(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that says nothing makes the model a Gaussian, N(0.13, 0.31² + σ_min²) in each of 784 pixels."""
    out = tmp_path / "bits.json"
    cli.main(["likelihood", str(run), "-n", "3", "--probes", "2", "--tolerance", "1e-3", "--out", str(out)])
    found = json.loads(out.read_text())
    x = (data.mnist().test[found["test_images"]].double() + 0.5) / 256
    variance = 0.31**2 + 0.01**2
    nats = (x - 0.13) ** 2 / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)
    bits = 8 + nats.flatten(1).mean(1) / math.log(2)
    # σ_max is 5 here, which a pixel feels a little.
    assert found["bits_per_dimension"] == pytest.approx(bits.tolist(), abs=0.03)
    printed = float(capsys.readouterr().out.split(" bits/dim ± ")[0])
    assert printed == pytest.approx(sum(found["bits_per_dimension"]) / 3, abs=6e-4)
    assert "probes is 0" in one_line(capsys, "likelihood", str(run), "--probes", "0")


def test_info_says_what_a_run_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["info", str(run)])
    printed = capsys.readouterr().out
    assert "UNet(image_channels=1" in printed
    assert "σ from 5 to 0.01" in printed
    assert "dpmpp-sde on 5 noise levels, 5 evaluations" in printed
    weights = sum(p.numel() for p in UNet(1, (8, 8), 1, 8).parameters())
    assert f"{weights:,} weights" in printed
    assert "mean 0.13, std 0.31" in printed
    assert "guidance    none" in printed
    (run / "guide").mkdir()
    storage.write_config(run / "guide", "images", {}, replace(RECIPE, arguments=RECIPE.arguments | {"channels": (8,)}))
    storage.write_model(run / "guide", ScoreModel(UNet(1, (8,), 1, 8)))
    cli.main(["info", str(run)])
    of_guide = sum(p.numel() for p in UNet(1, (8,), 1, 8).parameters())
    assert f"guidance    1, by a guide of {of_guide:,} weights" in capsys.readouterr().out


def test_mistakes_are_one_line_that_names_them(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.png")
    assert "is no run: it has no config.json" in one_line(capsys, "sample", str(tmp_path / "none"), "--out", out)
    assert "is no run" in one_line(capsys, "info", str(tmp_path))
    assert "invalid choice 'hmc'" in one_line(capsys, "sample", str(run), "--sampler", "hmc")
    assert "n is 0" in one_line(capsys, "sample", str(run), "-n", "0")
    assert "'many'" in one_line(capsys, "sample", str(run), "-n", "many")
    assert "allowed: .png, .gif, .npz, .npy, .zarr and none for a folder" in one_line(
        capsys, "sample", str(run), "--out", "x.jpg"
    )
    assert "--foo" in one_line(capsys, "sample", str(run), "--foo")
    Path(out).write_text("precious")
    assert "give --overwrite" in one_line(capsys, "sample", str(run), "--out", out)
    assert Path(out).read_text() == "precious"
    assert "is no folder" in one_line(capsys, "sample", str(run), "--out", str(tmp_path / "no" / "x.png"))
    (run / "model.safetensors").write_bytes(b"cut")
    assert "model.safetensors is damaged" in one_line(capsys, "sample", str(run), "--out", str(tmp_path / "y.png"))


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


def test_what_does_not_fit_is_refused_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ["sample", str(run), "-n", str(10**9), "--device", "cpu"]
    assert "1000000000 samples are 784 GB; " in one_line(capsys, *many, "--out", str(tmp_path / "x.npy")).replace(
        ",", ""
    )
    assert "a picture shows at most 10000" in one_line(capsys, *many, "--out", str(tmp_path / "x.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


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
        "print({'torch._dynamo', 'sympy', 'matplotlib', 'scipy', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_public_names_are_all_there() -> None:
    assert all(getattr(ncsn, name) is not None for name in dir(ncsn))
    assert {"load", "fit", "Run", "annealed_langevin", "State"} <= set(dir(ncsn))
    with pytest.raises(AttributeError, match="nothing"):
        ncsn.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_bar_passes_everything_on() -> None:
    assert list(console.bar(iter(range(5)), "x", total=5)) == [0, 1, 2, 3, 4]
