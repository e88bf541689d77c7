"""What the commands print and write, in numbers: the run is a Gaussian, of which everything is known."""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GaussianScore, z_score
from PIL import Image
from torch import Tensor, nn

import ncsn
from ncsn import data, evaluation, plots
from ncsn.cli import main as cli
from ncsn.data.pixels import centres, dequantize, quantize
from ncsn.machine.interrupts import Stopped
from ncsn.networks.classifier import Classifier
from ncsn.plots import image_grid
from ncsn.problems import blurred, downsampled
from ncsn.run import Recipe, Run
from ncsn.samplers import Sampling
from ncsn.score import Sigma, expand
from ncsn.storage import HOST

SAMPLING = Sampling(sigma_max=20.0, sigma_min=0.01, sampler="dpmpp-sde", levels=12, steps=1, eps=2e-5, guidance=2.0)
RECIPE = Recipe(network="UNet", arguments={"classes": 10}, shape=(1, 8, 8), sampling=SAMPLING)
PRIOR = GaussianScore(0.5, 0.3)


class Labelled(nn.Module):
    """Class k is grey of brightness k/10, up to 0.01; all classes together are around a half."""

    largest = 0

    def forward(self, x: Tensor, sigma: Sigma, label: Tensor | None = None) -> Tensor:
        self.largest = max(self.largest, len(x))
        if label is None:
            return (0.5 - x) / (0.3**2 + expand(sigma, x) ** 2)
        mean = label.view(-1, *[1] * (x.ndim - 1)) / 10 + 0.05
        return (mean - x) / (0.01**2 + expand(sigma, x) ** 2)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that every command loads."""
    return use(monkeypatch, Run(score=Labelled(), recipe=RECIPE, guide=GaussianScore(0.4, 0.6)))


def use(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    def load(name: Path, *, device: str) -> Run:
        assert str(name) == "it"
        return run.to(device)

    monkeypatch.setattr(ncsn, "load", load, raising=False)
    return run


def drawn_by(command: str, out: Path) -> Tensor:
    cli.main([*command.split(), "--out", str(out)])
    return torch.from_numpy(np.load(out)["samples"])


def test_a_class_can_be_read_from_what_is_drawn(given: Run, tmp_path: Path) -> None:
    for digit in (0, 7):
        x = drawn_by(f"sample it -n 6 --class {digit} --device cpu", tmp_path / f"{digit}.npz")
        assert bool((x.float().mean((1, 2, 3)) / 25.6).floor().eq(digit).all())
    x = drawn_by("sample it -n 300 --class any --seed 4 --device cpu", tmp_path / "any.npz")
    assert torch.equal(x, quantize(given.sample(300, label="any", seed=4)))
    shares = (x.float().mean((1, 2, 3)) / 25.6).floor().long().bincount(minlength=10) / 300
    assert float((shares - 0.1).abs().max()) < 4 * (0.09 / 300) ** 0.5


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ("--seed 5", {"seed": 5}),
        ("--sampler heun", {"sampler": "heun"}),
        ("--levels 5", {"levels": 5}),
        ("--sampler annealed --levels 9 --steps 3", {"sampler": "annealed", "levels": 9, "steps": 3}),
        ("--sampler annealed --levels 9 --eps 9e-5", {"sampler": "annealed", "levels": 9, "eps": 9e-5}),
        ("--guidance 3", {"guidance": 3.0}),
        ("--class 2 --guidance 30", {"label": 2, "guidance": 30.0}),
        ("--class 2 --guidance 3 --guide unconditional", {"label": 2, "guidance": 3.0, "guide": "unconditional"}),
    ],
)
def test_every_option_of_sampling_is_heard(options: str, how: dict[str, Any], given: Run, tmp_path: Path) -> None:
    x = drawn_by(f"sample it -n 5 --device cpu {options}", tmp_path / "x.npz")
    assert torch.equal(x, quantize(given.sample(5, **how)))
    for name in how:
        if name != "sampler" and not (name == "label" and "guide" in how):  # which needs a class
            without = {other: value for other, value in how.items() if other != name}
            assert not torch.equal(x, quantize(given.sample(5, **without)))


def test_the_network_sees_as_many_at_a_time_as_is_asked(given: Run, tmp_path: Path) -> None:
    drawn_by("sample it -n 7 --batch-size 3 --device cpu", tmp_path / "x.npz")
    assert isinstance(given.score, Labelled)
    assert given.score.largest == 3


def test_pixels_are_rounded_down_to_256_levels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    levels = torch.arange(64).view(1, 1, 8, 8) * 4

    def exact(x: Tensor, sigma: Sigma, /) -> Tensor:
        return ((levels + 0.9) / 256 - x) / expand(sigma, x) ** 2

    use(monkeypatch, Run(score=exact, recipe=RECIPE))
    x = drawn_by("sample it -n 3 --device cpu", tmp_path / "x.npz")
    assert torch.equal(x, levels.to(torch.uint8).expand(3, -1, -1, -1))


def test_a_grid_shows_every_sample_where_it_belongs(given: Run, tmp_path: Path) -> None:
    cli.main(["sample", "it", "-n", "11", "--device", "cpu", "--out", str(tmp_path / "grid.png")])
    with Image.open(tmp_path / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(image_grid(quantize(given.sample(11)), columns=8)))


def test_points_are_written_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = use(monkeypatch, Run(score=GaussianScore(70.0, 2.0), recipe=replace(RECIPE, shape=(2,))))
    x = drawn_by("sample it -n 400 --levels 40 --device cpu", tmp_path / "x.npz")
    assert torch.equal(x, run.sample(400, levels=40))
    assert abs(z_score(x[:, 0], 70.0)) < 4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of images that are small enough for three blocks of them."""
    return use(monkeypatch, Run(score=PRIOR, recipe=replace(RECIPE, shape=(1, 2, 3))))


MANY_SAMPLES = "sample it -n 2100 --levels 3 --seed 4 --device cpu --out"


def interrupted(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """What SIGTERM leaves of that command when two of its three blocks are on the disk: the hidden folder."""
    calls, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise Stopped(15)
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(SystemExit, match="143"):
            cli.main([*MANY_SAMPLES.split(), str(out)])
    assert "terminated; the same command goes on" in capsys.readouterr().err
    assert not out.exists()
    (folder,) = out.parent.glob(".*.partial")
    assert [path.name for path in sorted(folder.iterdir())] == ["000000.npz", "000001.npz"]
    return folder


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_any_number_of_samples_are_the_blocks_of_the_run_whatever_a_kill_leaves(
    name: str, small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    cli.main([*MANY_SAMPLES.split(), str(out)])
    expected = torch.cat([[*steps][-1].x for steps in small.blocks(2100, seed=4, levels=3)])
    written = np.load(out)["samples"] if name == "x.npz" else np.load(out)
    assert np.array_equal(written, quantize(expected).numpy())
    never = out.read_bytes()
    half = f".000001.partial.{HOST}.99999.0123456789abcdef.npz"
    damages: dict[str, Callable[[bytes], bytes]] = {
        "000001.npz": lambda whole: whole,
        half: lambda _: b"half",
        "000001.npz ": lambda whole: whole[:-9],
        "000001.npz  ": lambda whole: whole[:900] + bytes([whole[900] ^ 4]) + whole[901:],
    }
    for victim, damage in damages.items():
        out.unlink()
        folder = interrupted(out, monkeypatch, capsys)
        (folder / victim.strip()).write_bytes(damage((folder / "000001.npz").read_bytes()))
        cli.main([*MANY_SAMPLES.split(), str(out)])
        assert ("after 1000 that were there" in capsys.readouterr().out) == (victim in ("000001.npz", half))
        assert out.read_bytes() == never
        assert [*tmp_path.iterdir()] == [out]


def test_a_job_goes_on_from_its_own_blocks_and_removes_nothing_else(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted(tmp_path / "x.npz", monkeypatch, capsys)
    (folder / "chapter.tex").write_text("precious")
    x = drawn_by("sample it -n 2100 --levels 3 --seed 5 --device cpu", tmp_path / "x.npz")
    assert torch.equal(x[:1000], quantize(small.sample(1000, seed=5, levels=3)))
    assert len([*folder.iterdir()]) == 3
    cli.main([*MANY_SAMPLES.split(), str(tmp_path / "x.npz"), "--overwrite"])
    assert [path.name for path in folder.iterdir()] == ["chapter.tex"]


def small_images(shape: tuple[int, int, int], seed: int = 0) -> data.Images:
    """Random bytes; what is for training is bright, so that another part's numbers are others."""
    g = torch.Generator().manual_seed(seed)
    train = torch.randint(128, 256, (300, *shape), generator=g, dtype=torch.uint8)
    validation, test = (torch.randint(256, (150, *shape), generator=g, dtype=torch.uint8) for _ in range(2))
    return data.Images(train, validation, test)


class Quick(Classifier):
    """One that takes no time: its features are the first row of pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        head = nn.Linear(28, 10).requires_grad_(False)
        head.weight *= 40  # or it would never be sure
        self.head = head  # type: ignore[assignment]

    def features(self, x: Tensor) -> Tensor:
        return x[:, 0, 0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> evaluation.Features:
    """What every image is seen by."""
    classes = tuple("0123456789")
    features = replace(evaluation.of_classifier(Quick(), "quick", classes, "abc"), accuracy=0.875)
    monkeypatch.setattr(evaluation, "choose", lambda images, name, device: features)
    return features


def trained_on(monkeypatch: pytest.MonkeyPatch, images: data.Images) -> list[tuple[Run, str | None]]:
    """The data of every run; and what was asked for."""
    asked: list[tuple[Run, str | None]] = []

    def images_of(run: Run, dataset: str | None = None) -> data.Images:
        asked.append((run, dataset))
        return images

    monkeypatch.setattr(Run, "data", images_of)
    return asked


def test_a_run_is_evaluated(
    given: Run,
    quick: evaluation.Features,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = use(monkeypatch, replace(given, recipe=replace(RECIPE, shape=(1, 28, 28))))
    images, pages = replace(small_images((1, 28, 28)), name="letters"), []
    asked = trained_on(monkeypatch, images)
    monkeypatch.setattr(plots, "evaluation_page", lambda *page: pages.append(page))
    options = "-n 120 --seed 3 --levels 8 --device cpu --data moved"
    cli.main(["evaluate", "it", *options.split(), "--out", str(tmp_path / "new")])
    assert [place for _, place in asked] == ["moved"]
    samples = quantize(run.sample(120, seed=3, levels=8))
    assert np.array_equal(np.load(tmp_path / "new" / "evaluation.npz")["samples"], samples.numpy())
    found = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    report = evaluation.evaluate(samples, images, quick).report()
    assert {name: found[name] for name in report} == report
    assert (report["features"], report["digest"], report["accuracy"]) == ("quick", "abc", 0.875)
    assert (found["data"], found["data_digest"]) == ("letters", images.digest)
    steps = run.steps(2, levels=8)
    list(steps)
    assert (found["nfe"], found["guide_nfe"]) == (steps.nfe, steps.guide_nfe)
    assert steps.nfe > steps.guide_nfe > 0
    assert (found["seed"], found["class"]) == (3, None)
    assert (found["sampling"]["sampler"], found["sampling"]["guidance"]) == ("dpmpp-sde", 2)
    assert found["run_digest"] == run.digest
    lines = capsys.readouterr().out.splitlines()
    assert "features: quick, 87.5% right on the validation images" in lines
    printed = {words[0]: words[1:] for line in lines if (words := line.split())}
    assert printed["n"] == ["=", "120,", "too", "few", "to", "be", "comparable"]
    for name, metric in report["metrics"].items():
        kinds = ("generated", "held_out", "training", "ratio", "ratio_to_training")
        numbers = [metric[kind] for kind in kinds if kind in metric]
        assert [float(word) for word in printed[name]] == pytest.approx(numbers, rel=1e-3, abs=0.006)
    (shown, neighbours, _, _), squares = pages[0], []
    for image in samples[:30]:
        squares.append((images.train.double() - image.double()).square().flatten(1).sum(1).argmin())
    assert torch.equal(shown, samples[:30])
    assert torch.equal(neighbours, images.train[torch.stack(squares)])


def test_no_more_samples_are_drawn_than_can_be_judged(
    given: Run,
    quick: evaluation.Features,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, replace(given, recipe=replace(RECIPE, shape=(1, 28, 28))))
    trained_on(monkeypatch, small_images((1, 28, 28)))
    cli.main(["evaluate", "it", "--levels", "8", "--device", "cpu", "--class", "7", "--out", str(tmp_path)])
    printed, report = capsys.readouterr(), json.loads((tmp_path / "evaluation.json").read_text())
    assert any("150 of 10,000" in note for note in report["notes"])
    assert report["n"] == 150
    alone = [note for note in report["notes"] if "class 7" in note]
    assert len(alone) == 1, "they are beside images of all classes"
    assert alone[0] in printed.out


@pytest.mark.parametrize(("options", "sigma_min"), [("", 0.05), ("--sigma-min 0.4 --seed 2", 0.4)])
def test_likelihoods_are_those_of_test_images_in_bits_per_dimension(
    options: str, sigma_min: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of N(½, 0.3² + σ_min²) in each of 16 pixels.  Any probe has the same exact trace there, so the error is 0."""
    images = small_images((1, 4, 4))
    trained_on(monkeypatch, images)
    sampling = replace(SAMPLING, sigma_max=50.0, sigma_min=0.05)
    use(monkeypatch, Run(score=PRIOR, recipe=replace(RECIPE, shape=(1, 4, 4), sampling=sampling)))
    cli.main(f"likelihood it -n 40 --probes 2 --tolerance 1e-5 --device cpu {options}".split())
    generator = torch.Generator().manual_seed(2 if "seed" in options else 0)
    chosen = torch.randperm(150, generator=generator)[:40]
    x = dequantize(images.test[chosen], generator=generator).double()
    variance = 0.3**2 + sigma_min**2
    nats = ((x - 0.5) ** 2 / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)).flatten(1).sum(1)
    bits = 8 + nats / (16 * math.log(2))
    expected = [float(bits.mean()), float(bits.std()) / 40**0.5, 40, 0, 2]
    printed = re.findall(r"-?[\d.]+", capsys.readouterr().out)
    assert [float(number) for number in printed[:5]] == pytest.approx(expected, abs=2e-3)


def test_walks_are_guided_from_sample_to_sample(given: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = replace(given, score=PRIOR), tmp_path / "walk.png"
    given.score.forward = PRIOR  # type: ignore[attr-defined]
    cli.main(f"interpolate it -n 2 --steps 5 --levels 9 --seed 3 --device cpu --out {out}".split())
    how: dict[str, Any] = {"start": run.walk(2, 5, seed=3), "sampler": "heun", "levels": 9}
    with Image.open(out) as picture:
        shown = np.asarray(picture)
    assert np.array_equal(shown, np.asarray(image_grid(quantize(run.sample(10, **how)), columns=5)))
    assert not np.array_equal(shown, np.asarray(image_grid(quantize(run.sample(10, guidance=1.0, **how)), columns=5)))
    steps = run.steps(10, **how)
    list(steps)
    assert steps.guide_nfe > 0
    assert f"{steps.nfe} evaluations each and {steps.guide_nfe} of the guide" in capsys.readouterr().out


@dataclass(frozen=True)
class Solved:
    """What a command drew on its page and printed, of a picture of random pixels."""

    truth: Tensor
    guess: Tensor
    x: Tensor
    psnr: list[float]


NOISE, MANY = 0.2, 300


def solve(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    shape: tuple[int, int] = (8, 8),
) -> Solved:
    use(monkeypatch, Run(score=PRIOR, recipe=RECIPE))
    bytes_ = torch.randint(256, shape, generator=torch.Generator().manual_seed(9), dtype=torch.uint8)
    Image.fromarray(bytes_.numpy()).save(folder / "input.png")
    pages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(plots, "posterior_page", lambda *page: pages.append(page))
    name, *options = command.split()
    common = f"-n {MANY} --noise {NOISE} --seed 6 --device cpu --input {folder}/input.png --out {folder}/page.png"
    cli.main([name, "it", *options, *common.split()])
    psnr = [float(value) for value in re.findall(r"(-?[\d.]+) dB", capsys.readouterr().out)]
    truth, guess, x, _ = pages[0]
    assert ("--measured" in options) == (truth is None)
    assert x.shape == (MANY, 1, 8, 8)
    return Solved(centres(bytes_)[None], guess, x, psnr)


def noise_for(measured: Tensor) -> Tensor:
    return NOISE * torch.randn(measured.shape, generator=torch.Generator().manual_seed(6))


def decibels(guess: Tensor, truth: Tensor) -> float:
    return 10 * math.log10(1 / float((guess.clamp(0, 1) - truth).double().square().mean()))


def assert_normal(x: Tensor, mean: Tensor, std: float) -> None:
    """Samples of N(mean, std²), pixel by pixel; on the way there are 60 levels, which cost a few percent."""
    z = (x - mean) / std
    assert float(z.mean(0).abs().max()) < 5 / MANY**0.5
    assert float(z.std()) == pytest.approx(1, abs=0.05)


def test_what_is_noisy_is_denoised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = solve("denoise", monkeypatch, tmp_path, capsys)
    y = solved.truth + noise_for(solved.truth[None])[0]
    torch.testing.assert_close(solved.guess, y)
    share = 0.3**2 / (0.3**2 + NOISE**2)
    assert_normal(solved.x, 0.5 + share * (y - 0.5), NOISE * share**0.5)
    expected = [decibels(guess, solved.truth) for guess in (solved.x.mean(0), solved.x[0], y)]
    assert solved.psnr == pytest.approx(expected, abs=0.051)
    assert expected[0] > expected[1] + 1


@pytest.mark.parametrize(("hide", "rows"), [("bottom", slice(0, 4)), ("top", slice(4, 8))])
def test_what_is_hidden_is_filled_in(
    hide: str, rows: slice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The known half is denoised; the other is the prior's, and shown as the mean of the known one."""
    solved = solve(f"inpaint --hide {hide}", monkeypatch, tmp_path, capsys)
    other = slice(4, 8) if rows.start == 0 else slice(0, 4)
    known = solved.truth[:, rows]
    y = known + noise_for(known.flatten()[None]).view(known.shape)
    torch.testing.assert_close(solved.guess[:, rows], y)
    torch.testing.assert_close(solved.guess[:, other], y.mean().expand(1, 4, 8))
    share = 0.3**2 / (0.3**2 + NOISE**2)
    assert_normal(solved.x[:, :, rows], 0.5 + share * (y - 0.5), NOISE * share**0.5)
    assert_normal(solved.x[:, :, other], torch.full((1, 4, 8), 0.5), 0.3)


def test_replaced_pixels_are_as_they_were_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "inpaint --hide left --method replacement --levels 60"
    solved = solve(command, monkeypatch, tmp_path, capsys)
    y = solved.guess[:, :, 4:].expand(MANY, -1, -1, -1)
    torch.testing.assert_close(solved.x[:, :, :, 4:], y, atol=1e-4, rtol=0)
    assert float(solved.x[:, :, :, :4].std(0).min()) > 0.1


def test_squares_are_enlarged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = solve("superres --factor 4", monkeypatch, tmp_path, capsys)
    means = downsampled(4)(solved.truth[None])
    y = (means + noise_for(means))[0]
    torch.testing.assert_close(solved.guess, y.repeat_interleave(4, 1).repeat_interleave(4, 2))
    # A square's mean has a prior of variance 0.3²/16.
    share = (0.3**2 / 16) / (0.3**2 / 16 + NOISE**2)
    assert_normal(downsampled(4)(solved.x), 0.5 + share * (y - 0.5), NOISE * share**0.5)


def test_what_is_measured_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = solve("superres --factor 4 --measured", monkeypatch, tmp_path, capsys, shape=(2, 2))
    torch.testing.assert_close(solved.guess[:, ::4, ::4], solved.truth)
    assert solved.psnr == []
    for command in ("deblur --measured", "denoise --measured"):
        solved = solve(command, monkeypatch, tmp_path, capsys)
        assert torch.equal(solved.guess, solved.truth)
    solved = solve("inpaint --measured --hide bottom", monkeypatch, tmp_path, capsys)
    assert torch.equal(solved.guess[:, :4], solved.truth[:, :4])
    torch.testing.assert_close(solved.guess[:, 4:], solved.truth[:, :4].mean().expand(1, 4, 8))


def test_what_is_blurred_is_sharpened_in_as_many_steps_as_are_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solved = solve("deblur --blur 1.5 --solver-steps 7 --levels 8", monkeypatch, tmp_path, capsys)
    generator = torch.Generator().manual_seed(6)
    blur = blurred(1.5)
    y = blur(solved.truth[None])
    y = y + NOISE * torch.randn(y.shape, generator=generator)
    torch.testing.assert_close(solved.guess, y[0])
    run = Run(score=PRIOR, recipe=RECIPE).posterior(blur, y, noise_std=NOISE, solver_steps=7)
    torch.testing.assert_close(solved.x, run.sample(MANY, seed=generator, levels=8))
    # What is measured of the answers is nearer to it than what is measured of the prior's grey.
    assert float((blur(solved.x.mean(0)[None]) - y).std()) < float((blur(torch.full_like(y, 0.5)) - y).std())
