"""The three commands, end to end with tiny budgets, as a user runs them."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import ncsn
from ncsn import storage
from ncsn.cli import interrupts as signals
from ncsn.cli.train import Train
from ncsn.data import Images as Pictures
from ncsn.data import Labels, Origin, Reading, load_images, mnist
from ncsn.data.pixels import quantize
from ncsn.evaluation import PIXELS, Features
from ncsn.learn import budgets, guidance
from ncsn.learn.budgets import Plan
from ncsn.learn.images import found, recalled, recipes, resolve
from ncsn.learn.settings import ImageJob, Images, ResolvedImages, kept
from ncsn.learn.study import Study
from ncsn.plots import tile
from ncsn.progress import Clock
from ncsn.samplers import METHODS, Sampling

ROOT = Path(__file__).parent.parent
TINY = "--channels 8 8 --blocks 1 --batch-size 16 --levels 6 --samples 9 --guidance 2 --no-compile"


def command(script: str, args: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, str(ROOT / script), *args.split()]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)


def succeed(script: str, args: str) -> None:
    done = command(script, args)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_toy_circle_learns_the_score_near_the_data_and_not_far_away(tmp_path: Path) -> None:
    succeed("training_toy.py", f"--generator circle --steps 600 --out {tmp_path}/run")
    names = {p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".lock")}
    assert names == {"checkpoint.pt", "config.json", "metrics.json", "model.safetensors", "score_field.png"}
    levels = json.loads((tmp_path / "run" / "metrics.json").read_text())["levels"]
    near = [level["relative_error_on_noised_data"] for level in levels]
    assert max(near) <= 0.02
    assert levels[-1]["relative_error_beyond_distance_2"] >= 10 * near[-1]
    assert levels[0]["relative_error_beyond_distance_2"] <= 0.02


@pytest.mark.slow
def test_toy_gaussian_mixes_only_when_annealed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    succeed("training_toy.py", f"--generator gaussian --steps 600 --samples 2000 --out {out}")
    names = {
        "checkpoint.pt",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "samples.png",
        "trajectories.gif",
    }
    assert {p.name for p in out.iterdir() if not p.name.startswith(".lock")} == names
    samplers = json.loads((out / "metrics.json").read_text())["samplers"]
    # 2,000 samples: the standard error of a weight of 0.2 is 0.009.
    assert samplers["annealed_learned"]["modes"][0]["weight_error"] <= 0.05
    assert samplers["langevin_learned"]["modes"][0]["weight_error"] >= 0.2
    assert samplers["langevin_exact"]["modes"][0]["weight_error"] >= 0.2
    assert samplers["annealed_learned"]["modes"][1]["std"] == pytest.approx(1, abs=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["moons", "swiss-roll", "checkerboard"])
def test_every_other_toy_has_both_views(generator: str, tmp_path: Path) -> None:
    quick = "--steps 5 --samples 50 --levels 3 --langevin-steps 2"
    succeed("training_toy.py", f"--generator {generator} {quick} --out {tmp_path}/run")
    assert {"score_field.png", "samples.png", "trajectories.gif"} <= {p.name for p in (tmp_path / "run").iterdir()}
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [level["sigma"] for level in found["levels"]] == pytest.approx([20, 2**0.5, 0.1], rel=1e-3)
    # After five steps it is still about a Gaussian of the data's mean and std: right at high noise, and there alone.
    assert found["levels"][0]["relative_error_on_noised_data"] < 0.1
    assert found["levels"][-1]["relative_error_on_noised_data"] > 0.1
    assert {found["samplers"][f"{name}_exact"]["nfe"] for name in ("langevin", "annealed")} == {7}
    assert found["samplers"]["sliced_wasserstein_floor"] > 0


def test_mnist_writes_all_it_promises_and_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for out in runs:
        succeed("training_MNIST.py", f"{TINY} --steps 12 --out {out}")
    names = {p.name for p in runs[0].iterdir()}
    assert names >= {
        "samples.png",
        "samples_annealed.png",
        "evolution.png",
        "evolution.gif",
        "loss.png",
        "metrics.jsonl",
        "pace.jsonl",
        "metrics.json",
    }
    assert names >= {"config.json", "model.safetensors", "checkpoint.pt"}
    assert "guide" not in names, "the network without the class is one"
    for name in (
        "samples.png",
        "samples_annealed.png",
        "evolution.gif",
        "loss.png",
        "metrics.jsonl",
        "model.safetensors",
    ):  # the others hold seconds
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()
    rows = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] == 12
    assert len(rows[-1]["validation_bands"]) == 5
    sample = [
        sys.executable,
        "-m",
        "ncsn",
        "sample",
        str(runs[0]),
        "-n",
        "4",
        "--out",
        str(tmp_path / "s.npz"),
    ]
    subprocess.run(sample, check=True, capture_output=True)
    assert np.load(tmp_path / "s.npz")["samples"].shape == (4, 1, 28, 28)


def pictures(*, labels: bool = False) -> Pictures:
    """As many, of the shape and the spread of MNIST's; but nothing is read."""
    train = torch.randint(256, (300, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    classes = torch.arange(300) % 4
    named = Labels(train=classes, validation=classes, test=classes, names=("a", "b", "c", "d"))
    return Pictures(train, train, train, named if labels else None)


def resolved(**given: Any) -> ResolvedImages:
    return resolve(recalled(Images(**given)), pictures(), torch.device("cpu"))


def test_width_and_batch_suit_the_machine_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast, widths, batch in ((True, (64, 128), 128), (False, (32, 64), 64)):
        monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _, fast=fast: fast)
        assert (resolved().channels, resolved().batch_size) == (widths, batch)
        assert resolved(steps=5).channels == widths
        assert resolved(minutes=29.0).channels == widths
        assert resolved(minutes=30.0).channels == (64, 128)
        narrow = resolved(channels=(8, 8))
        assert (narrow.channels, narrow.batch_size) == ((8, 8), 128), "which sees many images on any machine"
        assert resolved(batch_size=5).batch_size == 5
        assert resolved(network="refinenet").channels == (64,)


def test_nothing_is_left_open_when_settings_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: True)
    default = resolved()
    assert (default.minutes, default.steps) == (10, None)
    assert (default.langevin_steps, default.guidance) == (1, "chosen")
    assert default.eps == default.sigma_min**2 / 2
    assert default.levels == METHODS["dpmpp-sde"].suited(default.sigma_max, default.sigma_min)
    assert default.job.out == Path("runs/mnist")
    annealed = resolved(sampler="annealed", steps=7)
    assert (annealed.minutes, annealed.steps) == (None, 7)
    assert (annealed.langevin_steps, annealed.guidance) == (2, 1.0)
    assert resolved(sampler="annealed", sigma_max=10.0).levels == 100
    given = resolved(levels=9, guidance=1.5, eps=1e-5, sampler="annealed", langevin_steps=4, dataset="some/where")
    assert (given.levels, given.guidance, given.eps, given.langevin_steps) == (9, 1.5, 1e-5, 4)
    assert given.job.out == Path("runs/where")


def test_the_guide_is_half_as_wide_and_there_is_none_without_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _: True)
    recipe, guide = recipes(resolved(channels=(24, 1)), pictures())
    assert recipe.arguments == {"image_channels": 1, "channels": (24, 1), "blocks": 2, "features": 24}
    assert guide is not None
    assert guide.arguments == {"image_channels": 1, "channels": (12, 1), "blocks": 1, "features": 12}
    assert (recipe.sampling.guidance, guide.sampling.guidance) == (1, 1), "until it is chosen"
    assert recipes(resolved(guidance=2.0), pictures())[0].sampling.guidance == 2
    assert recipes(resolved(guidance=1.0), pictures())[1] is None
    told = replace(resolved(), classes=True)
    recipe, guide = recipes(told, pictures(labels=True))
    assert guide is None, "without the class, the network is its own"
    assert (recipe.classes, recipe.sampling.guide) == (4, "unconditional")
    assert recipe.shares == dict.fromkeys("abcd", 0.25)
    refinenet, _ = recipes(resolved(network="refinenet-v2", channels=(16,)), pictures())
    assert (refinenet.network, refinenet.preconditioning) == ("NCSNv2", "scaled")
    assert refinenet.arguments == {"image_channels": 1, "width": 16}


@pytest.mark.parametrize(
    ("labels", "given", "learned", "said"),
    [
        (True, {}, True, ""),
        (True, {"classes": False}, False, ""),
        (False, {}, False, ""),
        (True, {"network": "refinenet"}, False, "4 classes, 300 training images: not told apart, only unet can\n"),
    ],
)
def test_classes_are_learned_where_there_are_some(
    labels: bool, given: dict[str, Any], learned: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = resolve(recalled(Images(channels=(8,), **given)), pictures(labels=labels), torch.device("cpu"))
    assert found.classes is learned
    assert capsys.readouterr().out == said


def test_classes_of_a_few_images_are_not_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    given = pictures(labels=True)
    assert given.labels is not None
    names = tuple(map(str, range(16)))
    many = replace(given, labels=replace(given.labels, names=names))
    assert not resolve(recalled(Images(channels=(8,))), many, torch.device("cpu")).classes
    assert capsys.readouterr().out == (
        "16 classes, 300 training images: not told apart, two of 20 images each are needed\n"
    )
    assert resolve(
        recalled(Images(channels=(8,))),
        replace(many, labels=replace(given.labels, names=names[:15])),
        torch.device("cpu"),
    ).classes


def study(out: Path, pictures: Pictures, **given: Any) -> Study:
    job = ImageJob(out=out, overwrite=True, device="cpu")
    origin = Origin.of("somewhere", None, Reading(), pictures)
    return Study.of(Images(channels=(8,), job=job, **given), pictures, origin, clock=Clock())


def test_images_that_would_fill_a_device_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = replace(study(tmp_path / "run", pictures(), steps=1), device=torch.device("meta"))
    bytes_of_them = begun.pictures.train.nbytes
    for memory, expected in ((4 * bytes_of_them, "meta"), (4 * bytes_of_them - 4, "cpu")):
        monkeypatch.setattr("ncsn.machine.memory_of", lambda device, memory=memory: memory)
        assert replace(begun).pixels.device.type == expected


def test_budgets_leave_time_for_the_guide_and_for_what_is_drawn(tmp_path: Path) -> None:
    begun = study(tmp_path / "run", pictures(), minutes=20.0)
    plan = Plan(trials=0, annealed=0, seconds=70.0)
    whole, guide = budgets.left(begun, plan)
    assert whole.seconds is not None
    assert guide.seconds is not None
    assert whole.seconds + guide.seconds == pytest.approx(1200 - 70, abs=5)  # but for what has passed
    assert guide.seconds == pytest.approx(whole.seconds / 19)
    short, _ = budgets.left(study(tmp_path / "run", pictures(), minutes=1.0, guidance=1.0), plan)
    assert short.seconds == pytest.approx(6), "a tenth is for training, whatever comes after it"
    whole, guide = budgets.left(study(tmp_path / "run", pictures(), steps=101), plan)
    assert (whole.steps, guide.steps) == (101, 11)


def test_what_comes_after_training_fits_into_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of an example takes a millisecond, and features of one take ten."""
    many = mnist()
    monkeypatch.setattr(budgets, "seconds_of", lambda call, device: 64e-3 if call() is not None else 0.0)
    monkeypatch.setattr(guidance, "evaluations", lambda _: 77.5)
    monkeypatch.setattr(guidance, "seen", lambda _: 4)
    monkeypatch.setattr(guidance, "suited", lambda *_, thorough: PIXELS)
    monkeypatch.setattr(Sampling, "guided_nfe", 37.5)

    def plan(**given: Any) -> Plan:
        begun = study(tmp_path / "run", many, sigma_max=10.0, **given)
        return budgets.planned(begun, begun.states()[0])

    long = plan(minutes=60.0)
    sample = 37.5e-3
    assert (long.trials, long.annealed) == (1000, 20)
    assert long.seconds == pytest.approx(4 + 160 * sample + 20 * 0.201 + 1000 * 77.5e-3, rel=0.01)
    assert plan(minutes=5.0).trials == pytest.approx(300 / 40 / 77.5e-3, abs=1)
    assert plan(minutes=1.0).annealed == pytest.approx(60 / 30 / 0.201, abs=1)
    assert plan(minutes=1.0).trials == 0, "too few samples would choose by chance"
    assert plan(minutes=60.0, guidance=2.0).trials == 0
    assert plan(steps=5) == Plan(trials=256, annealed=20, seconds=0)


@pytest.mark.parametrize(
    ("minutes", "slow", "thorough"), [(5.9, False, False), (6.0, False, True), (29.9, True, False), (30.0, True, True)]
)
def test_a_classifier_to_choose_by_is_trained_where_that_is_a_small_part_of_the_time(
    minutes: float, slow: bool, thorough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = study(tmp_path / "run", pictures(), minutes=minutes)
    asked: list[bool] = []

    def suited(images: Pictures, device: torch.device, *, thorough: bool) -> Features:
        asked.append(thorough)
        return PIXELS

    monkeypatch.setattr("ncsn.machine.slow", lambda device: slow)
    monkeypatch.setattr(guidance, "suited", suited)
    assert begun.features is PIXELS
    assert asked == [thorough]


def test_images_that_are_all_the_same_have_no_score_to_learn(tmp_path: Path) -> None:
    grey = torch.full((20, 1, 8, 8), 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="all training images are the same"):
        study(tmp_path / "run", Pictures(grey, grey, grey))


@pytest.mark.slow
def test_mnist_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    args = f"{TINY} --steps 150"
    succeed("training_MNIST.py", f"{args} --out {whole}")
    line = [sys.executable, str(ROOT / "training_MNIST.py"), *args.split(), "--out", str(cut)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (cut / "metrics.jsonl").exists() or not (cut / "metrics.jsonl").read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume goes on from it" in errors
    assert "Traceback" not in errors
    refused = command("training_MNIST.py", f"{args} --out {cut}")
    assert refused.returncode == 2
    assert "holds another run" in refused.stderr
    succeed("training_MNIST.py", f"--resume --no-compile --out {cut}")
    previews = [path.name for path in whole.glob("samples_*.png")]
    assert len(previews) > 3
    for name in ("model.safetensors", "metrics.jsonl", "samples.png", "loss.png", "evolution.gif", *previews):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (whole, cut)]
    for name in ("model", "average", "optimizers", "generator", "kept"):
        assert str(states[0][name]) == str(states[1][name]), name


@pytest.mark.parametrize(
    "size", [(16, 24), *(pytest.param(size, marks=pytest.mark.slow) for size in ((33, 47), (64, 64)))]
)
def test_a_folder_of_colour_images_trains(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    out = tmp_path / "run"
    succeed("training_MNIST.py", f"{TINY} --dataset {tmp_path}/images --steps 3 --tensorboard --out {out}")
    assert [p for p in out.iterdir() if p.name.startswith("events.out.tfevents")]
    weights = load_file(out / "model.safetensors")
    statistics = load_images(str(tmp_path / "images")).statistics
    assert [float(weights["data_mean"]), float(weights["data_std"])] == pytest.approx(statistics, abs=1e-6)
    found = json.loads((out / "metrics.json").read_text())
    assert (found["step"], found["images_seen"], found["nfe"]) == (3, 48, 6)
    # Random bytes are what a network that says nothing takes them for, uncorrelated pixels: 1 is what that costs.
    assert found["validation_loss"] == pytest.approx(1, abs=0.25)
    run = ncsn.load(out)
    low, high = run.recipe.sampling.guided_between
    ladder = run.recipe.sampling.ladder()
    assert found["guide_nfe"] == int(((ladder >= low) & (ladder <= high)).sum()) > 0
    with Image.open(out / "samples.png") as grid:
        shown = np.asarray(grid)
    assert np.array_equal(shown, np.asarray(tile(quantize(run.sample(9)), 10)))
    assert shown.shape[2] == 3
    if size == (16, 24):  # what goes on is this run: neither the data set nor the width is given again
        succeed("training_MNIST.py", f"--resume --no-compile --steps 5 --out {out}")
        assert json.loads((out / "metrics.json").read_text())["step"] == 5
        assert ncsn.load(out).recipe.shape == (3, 16, 24)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["refinenet", "refinenet-v2"])
def test_the_papers_networks_train_and_are_sampled(network: str, tmp_path: Path) -> None:
    tiny = f"--network {network} --channels 4 --batch-size 4 --samples 4 --levels 3 --steps 3 --no-compile"
    succeed("training_MNIST.py", f"{tiny} --out {tmp_path}/run")
    run = ncsn.load(tmp_path / "run")
    assert run.recipe.network == {"refinenet": "NCSN", "refinenet-v2": "NCSNv2"}[network]
    weights = load_file(tmp_path / "run" / "model.safetensors")
    # NCSNv2's network sees pixels as they are; NCSN's, under Karras' preconditioning, what is around their mean.
    assert float(weights["data_mean"]) == pytest.approx(0.0 if network == "refinenet-v2" else 0.1324, abs=1e-3)
    with Image.open(tmp_path / "run" / "samples.png") as grid:
        assert np.array_equal(np.asarray(grid), np.asarray(tile(quantize(run.sample(4)), 10)))


def test_classes_are_learned_and_drawn(tmp_path: Path) -> None:
    succeed("training_MNIST.py", f"{TINY} --steps 3 --out {tmp_path}/run")
    run = ncsn.load(tmp_path / "run")
    assert run.recipe.classes == 10
    assert sum(run.recipe.shares.values()) == pytest.approx(1)
    assert 0.08 < min(run.recipe.shares.values()) < 0.1 < max(run.recipe.shares.values()) < 0.12
    drawn = {label: run.sample(4, label=label, levels=4) for label in (3, 7)}
    assert not torch.equal(drawn[3], drawn[7])
    # One evaluation for the start and one for each of four levels; with guidance, one more where it acts.
    for options, nfe in (("--class 7 --guidance 1.5 --guide unconditional", 5), ("--guidance 1", 4)):
        line = f"sample {tmp_path}/run -n 4 --levels 4 --overwrite --out {tmp_path}/g.npz {options}"
        done = subprocess.run(
            [sys.executable, "-m", "ncsn", *line.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert f"{nfe} evaluations each" in done.stdout
    mixed = quantize(run.sample(4, label="any", guidance=1.0, levels=4)).numpy()
    assert np.array_equal(np.load(tmp_path / "g.npz")["samples"], mixed)
    line = f"sample {tmp_path}/run --class 10 --out {tmp_path}/h.png"
    done = subprocess.run([sys.executable, "-m", "ncsn", *line.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "allowed are any, none, and 0 to 9" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("proposal", ["loguniform", "geometric"])
def test_other_proposals_and_samplers_train(proposal: str, tmp_path: Path) -> None:
    options = f"--proposal {proposal} --sampler langevin --langevin-steps 6 --steps 3"
    succeed("training_MNIST.py", f"{TINY} {options} --out {tmp_path}/run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["nfe"] == 7


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ssm", "exact"])
def test_toys_learn_by_other_objectives(objective: str, tmp_path: Path) -> None:
    succeed(
        "training_toy.py",
        f"--generator circle --objective {objective} --steps 400 --batch-size 512 --out {tmp_path}/run",
    )
    levels = json.loads((tmp_path / "run" / "metrics.json").read_text())["levels"]
    assert max(level["relative_error_on_noised_data"] for level in levels[:15]) <= 0.1


def test_noise_levels_from_the_data_are_explained_and_used(tmp_path: Path) -> None:
    done = command(
        "training_toy.py", f"--generator moons --noise auto --steps 5 --samples 50 --view field --out {tmp_path}/run"
    )
    assert done.returncode == 0, done.stderr
    assert "the largest distance between two examples" in done.stdout
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert 5 < recipe["sampling"]["sigma_max"] < 25
    assert recipe["sampling"]["steps"] == 5


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run that has begun to learn from a set that is downloaded."""
    settings = resolved(dataset="cifar10", channels=(8, 8), batch_size=50)
    recipe, _ = recipes(settings, pictures())
    origin = Origin(dataset="cifar10", folder="/old", reading=Reading(), digest="0", split=(300, 300, 300))
    storage.write_config(tmp_path, "images", storage.plain(asdict(settings)), recipe, origin)
    return tmp_path


def test_who_resumes_is_told_what_stays_as_it_was(begun: Path) -> None:
    def said(**given: Any) -> str:
        asked = Images(job=ImageJob(out=begun, resume=True), **given)
        return kept(asked, recalled(asked), changed=("dataset", "minutes"))

    assert not said(), "nothing else was asked for"
    assert not said(channels=(8, 8), batch_size=50, minutes=20.0), "as it was, or as it may change"
    stays = "--resume goes on with the run's own settings: batch_size is 50, not 64, seed is 0, not 5"
    assert said(batch_size=64, seed=5) == stays


def test_who_resumes_says_where_the_images_are_now(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[tuple[str, Path | None]] = []

    def load(dataset: str, folder: Path | None, *, reading: Reading) -> Pictures:
        loaded.append((dataset, folder))
        raise ValueError("not read here")

    monkeypatch.setattr("ncsn.data.named.load_images", load)
    job = ImageJob(out=begun, resume=True)
    asked = [Train(dataset="cifar10", job=job), Images(job=job), Images(job=replace(job, data_dir=Path("/new")))]
    for given in asked:
        with pytest.raises(ValueError, match="not read here"):
            found(given)
    assert loaded == [("cifar10", Path("/old"))] * 2 + [("cifar10", Path("/new"))]
    assert capsys.readouterr().out == 2 * f"{begun} goes on with its own images, cifar10\n"
    with pytest.raises(ValueError, match=r"^the run has learned from cifar10, not from fashion-mnist$"):
        found(Images(dataset="fashion-mnist", job=job))


@pytest.mark.slow
def test_what_has_not_begun_is_begun_by_resume(tmp_path: Path) -> None:
    """As a cluster does it that starts the same command again and again."""
    line = f"{TINY} --steps 3 --resume --out {tmp_path}/run"
    first, second = command("training_MNIST.py", line), command("training_MNIST.py", line)
    assert f"{tmp_path}/run holds no run to resume: it begins" in first.stdout
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert "it begins" not in second.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 3


def test_a_diverging_run_stops_and_names_the_step(tmp_path: Path) -> None:
    rates = "--adam-rate 1e6 --muon-rate 1e6"
    done = command("training_MNIST.py", f"{TINY} --steps 500 {rates} --out {tmp_path}/run")
    assert done.returncode == 1
    assert " at step " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("training_toy.py", "--generator torus", "invalid choice 'torus'"),
        ("training_toy.py", "--steps 0", "steps is 0"),
        ("training_toy.py", "--eps 1", "eps is 1.0, steps is 75; allowed are 0 < eps < 0.04"),
        ("training_MNIST.py", "--sampler annealed --eps 1", "allowed are 0 < eps < 0.0004"),
        ("training_MNIST.py", "--eps -1", "eps is -1.0"),
        ("training_toy.py", "--sigma-min -1", "sigma_min is -1.0; it must be above 0"),
        ("training_MNIST.py", "--minutes -1", "minutes is -1.0; it must be at least 0.001"),
        ("training_MNIST.py", "--steps 0", "steps is 0; it must be at least 1"),
        ("training_MNIST.py", "--minutes 1 --steps 1", "at most one is allowed"),
        ("training_MNIST.py", "--dataset imagenet", "imagenet is no data set; allowed are mnist"),
        ("training_MNIST.py", "--data-dir nowhere", "is missing"),
        ("training_toy.py", "--sigma-max 0.01", "allowed is sigma_max >= sigma_min > 0"),
        ("training_MNIST.py", "--sigma-max 0.001 --proposal loguniform", "allowed is sigma_max >= sigma_min > 0"),
        ("training_MNIST.py", "--sigma-max 0.001 --proposal geometric", "allowed is sigma_max >= sigma_min > 0"),
        pytest.param(
            "training_MNIST.py",
            "--device cuda",
            "there are auto, cpu here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ("training_MNIST.py", "--guidance 0.5", "guidance is 0.5; it must be at least 1"),
        ("training_MNIST.py", "--size 0", "size is"),
        ("training_MNIST.py", "--background pink", "background is"),
        ("training_MNIST.py", "--network refinenet --channels 8 8", "refinenet takes one number"),
        ("training_MNIST.py", "--network refinenet --blocks 3", "blocks is 3, but refinenet has as many as its paper"),
        ("training_MNIST.py", "--langevin-steps 3", "langevin_steps is 3, but dpmpp-sde takes no Langevin steps"),
        ("training_MNIST.py", "--noise auto --sigma-max 20 --eps 1e-5", "noise is auto, which chooses sigma_max, eps"),
        ("training_toy.py", "--noise auto --levels 9", "noise is auto, which chooses levels from the data"),
        ("training_MNIST.py", "--levels 1", "levels is 1; dpmpp-sde comes from noise level"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    script: str,
    args: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(signals, "quit_on_signals", lambda: None)  # signals are this process', which goes on
    monkeypatch.setattr(sys, "argv", [script, *args.split(), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("script", ["training_toy.py", "training_MNIST.py"])
def test_without_the_package_the_scripts_say_so(script: str) -> None:
    line = [sys.executable, "-S", "-I", str(ROOT / script)]  # without site-packages
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install ." in done.stderr
