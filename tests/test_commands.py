"""What the commands print and write, in numbers: the run is a Gaussian, of which everything is known."""

import json
import logging
import math
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import (
    DIGITS,
    SAMPLING,
    GaussianScore,
    Patch,
    Printed,
    Sigma,
    expand,
    image_run,
    refusal,
    run_ncsn,
    z_score,
)
from PIL import Image
from torch import Tensor, nn

import ncsn
from ncsn import Recipe, Run, TableRun, evaluation, plots
from ncsn.batching import centres, dequantize, quantize
from ncsn.evaluation.output import show
from ncsn.images import Images
from ncsn.plots import image_grid
from ncsn.posteriors import blurred, downsampled

RECIPE = Recipe(
    network="UNet", arguments={"num_classes": 10}, shape=(1, 8, 8), sampling=replace(SAMPLING, guidance=2.0)
)
SMALL = replace(RECIPE, shape=(1, 4, 4))
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


@cache
def prior() -> Run:
    """The run of images of 4 x 4 pixels, each N(½, 0.3²)."""
    return replace(image_run(PRIOR, (1, 4, 4), sigma_max=20.0, sigma_min=0.01), recipe=SMALL)


def of_images(score: ncsn.Score, recipe: Recipe = SMALL, **parts: Any) -> Run:
    return replace(prior(), score=score, recipe=recipe, **parts)


@pytest.fixture
def given(monkeypatch: Patch) -> Run:
    """The run that every command loads."""
    return use(monkeypatch, of_images(Labelled(), RECIPE, guide=GaussianScore(0.4, 0.6)))


def use(monkeypatch: Patch, run: Run) -> Run:
    def load(name: Path, *, device: str) -> Run:
        assert str(name) == "it"
        return run.to(device)

    monkeypatch.setattr(ncsn, "load", load, raising=False)
    return run


def drawn_by(command: str, out: Path) -> Tensor:
    run_ncsn(*command.split(), "--out", str(out))
    return torch.from_numpy(np.load(out)["samples"])


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ("--seed 5", {"seed": 5}),
        ("--batch-size 3", {}),
        ("--sampler heun", {"sampler": "heun"}),
        ("--levels 5", {"levels": 5}),
        ("--sampler annealed --levels 9 --steps 3", {"sampler": "annealed", "levels": 9, "steps": 3}),
        ("--sampler annealed --levels 9 --eps 9e-5", {"sampler": "annealed", "levels": 9, "eps": 9e-5}),
        ("--guidance 3", {"guidance": 3.0}),
        ("--class any --seed 4", {"label": "any", "seed": 4}),
        ("--class 2 --guidance 30", {"label": 2, "guidance": 30.0}),
    ],
)
def test_every_option_of_sampling_is_heard(options: str, how: dict[str, Any], given: Run, tmp_path: Path) -> None:
    x = drawn_by(f"sample it -n 5 --device cpu {options}", tmp_path / "x.npz")
    assert given.score.largest == (3 if "batch-size" in options else 5)  # type: ignore[attr-defined]
    assert torch.equal(x, quantize(given.sample(5, **how)))
    for name in how:
        if name != "sampler":
            without = {other: value for other, value in how.items() if other != name}
            assert not torch.equal(x, quantize(given.sample(5, **without)))


def test_a_grid_shows_every_sample_where_it_belongs_and_another_their_way(given: Run, tmp_path: Path) -> None:
    run_ncsn("sample", "it", "-n", "11", "--device", "cpu", "--out", str(tmp_path / "grid.png"))
    with Image.open(tmp_path / "grid.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(image_grid(quantize(given.sample(11)), columns=8)))
    run_ncsn("sample", "it", "-n", "4", "--levels", "5", "--device", "cpu", "--out", str(tmp_path / "way.gif"))
    with Image.open(tmp_path / "way.gif") as way:
        assert way.n_frames == 5


@pytest.mark.parametrize("name", ["grid.png", "way.gif"])
def test_a_command_replaces_a_picture_only_when_told(name: str, given: Run, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / name
    line = ["sample", "it", "-n", "4", "--levels", "5", "--device", "cpu", "--out", str(out)]
    run_ncsn(*line)
    drawn = out.read_bytes()
    out.write_bytes(b"mine")
    assert "--overwrite" in refusal(capsys, *line)
    assert out.read_bytes() == b"mine"
    run_ncsn(*line, "--overwrite")
    assert out.read_bytes() == drawn
    out.unlink()
    out.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(drawn)
    assert "is a link" in refusal(capsys, *line, "--overwrite")


def test_points_are_written_as_they_are(monkeypatch: Patch, tmp_path: Path) -> None:
    run = use(monkeypatch, TableRun(score=GaussianScore(70.0, 2.0), recipe=replace(RECIPE, shape=(2,))))
    x = drawn_by("sample it -n 400 --levels 40 --device cpu", tmp_path / "x.npz")
    assert torch.equal(x, run.sample(400, levels=40))
    assert abs(z_score(x[:, 0], 70.0)) < 4


@pytest.fixture
def small(monkeypatch: Patch) -> Run:
    """A run of images that are small enough for three blocks of them."""
    return use(monkeypatch, of_images(PRIOR, replace(RECIPE, shape=(1, 2, 3))))


FAST = "--device cpu --levels 3"
JUDGED = {"evaluation.json", "evaluation.npz", "evaluation.png"}
WRITTEN = {
    f"sample run -n 3 {FAST}": {"grid.png"},
    f"sample run -n 1100 {FAST} --out x.npy": {"x.npy"},
    f"inpaint run -n 2 {FAST}": {"picture.png"},
    f"evaluate run -n 100 {FAST} --features pixels --out judged": JUDGED,
    "likelihood run -n 2 --probes 2 --tolerance 0.5 --device cpu": set[str](),
    "train data.npz --resume --steps 14 --out run --device cpu": set[str](),
}


def test_a_command_leaves_what_it_is_asked_for_and_nothing_else(trained: Path, here: Path) -> None:
    """In the folder, where a second process could find it, and in this process."""

    def state() -> list[object]:
        log, products = logging.getLogger("ncsn"), torch.backends.cuda.matmul.allow_tf32
        own = [torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), products, Path.cwd()]
        return [*own, log.level, [*log.handlers], *map(signal.getsignal, (2, 15))]

    def files() -> set[Path]:
        return {path for path in Path().rglob("*") if path.is_file()}

    shutil.copytree(trained, here, dirs_exist_ok=True)
    for line, expected in WRITTEN.items():
        before, there = state(), files()
        run_ncsn(*line.split())
        assert {path.name for path in files() - there} == expected, line
        assert state() == before, line
    numbers = json.loads(Path("run/metrics.json").read_text())
    assert (numbers["step"], numbers["images_seen"]) == (14, 14 * 16), "a new total"


MANY_SAMPLES = "sample it -n 2100 --levels 3 --seed 4 --device cpu --out"


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_any_number_of_samples_are_the_blocks_of_the_run_whatever_a_kill_leaves(
    name: str, small: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Each block is written before the next is drawn, into a file without a name; after a kill it starts again."""
    out, steps, files = tmp_path / name, Run.steps, list[int]()

    def begin_block(*arguments: Any, **options: Any) -> Any:
        files.append(len([*tmp_path.iterdir()]))
        if len(files) == 3:
            signal.raise_signal(signal.SIGTERM)
        return steps(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "steps", begin_block)
        with pytest.raises(SystemExit, match="143"):
            run_ncsn(*MANY_SAMPLES.split(), str(out))
    assert files == [0, 0, 0]
    assert [*tmp_path.iterdir()] == []
    run_ncsn(*MANY_SAMPLES.split(), str(out))
    assert [*tmp_path.iterdir()] == [out]
    expected = torch.cat([[*steps][-1].x for steps in small.blocks(2100, seed=4, levels=3)])
    written = np.load(out)["samples"] if name == "x.npz" else np.load(out)
    assert np.array_equal(written, quantize(expected).numpy())
    assert torch.equal(quantize(small.sample(1000, seed=4, levels=3)), torch.from_numpy(written[:1000]))


def small_images(shape: tuple[int, int, int], n: int = 150) -> Images:
    """Random bytes; what is for training is bright, so that another part's numbers are others."""
    g = torch.Generator().manual_seed(0)
    train = torch.randint(128, 256, (300, *shape), generator=g, dtype=torch.uint8)
    validation, test = (torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8) for _ in range(2))
    return Images(train, validation, test)


@pytest.mark.parametrize(
    ("options", "how", "n"),
    [
        ("-n 120 --seed 3", {"seed": 3}, 120),
        ("--class 7 --batch-size 40", {"label": "7"}, 150),
        ("--label 7 --seed 1", {"label": "7", "seed": 1}, 21),
    ],
)
def test_a_run_is_evaluated_as_far_as_there_are_real_images(
    options: str, how: dict[str, Any], n: int, given: Run, monkeypatch: Patch, tmp_path: Path, capsys: Printed
) -> None:
    np.save(tmp_path / "deep.npy", np.arange(20 * 28 * 28, dtype=np.uint16).reshape(20, 28, 28) % 4096)
    transform = ncsn.load_dataset(tmp_path / "deep.npy").transform
    deep = replace(RECIPE, shape=(1, 28, 28), transform=transform)  # which is judged as bytes
    run = use(monkeypatch, replace(given, recipe=deep))
    images, pages = replace(small_images((1, 28, 28), 21 if n == 21 else 150), name="letters"), []
    looked_for = Mock(return_value=images)
    monkeypatch.setattr(Run, "data", looked_for)
    monkeypatch.setattr(plots, "image_pairs", lambda *page: pages.append(page))
    common = f"--levels 8 --device cpu --data moved --features pixels --out {tmp_path / 'new'}"
    run_ncsn("evaluate", "it", *options.split(), *common.split())
    printed = capsys.readouterr().out
    looked_for.assert_called_once_with("moved")
    samples = quantize(run.sample(n, levels=8, **how))
    assert np.array_equal(np.load(tmp_path / "new" / "evaluation.npz")["samples"], samples.numpy())
    found = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    expected = evaluation.evaluate(samples, images, evaluation.PIXELS).report()
    notes = expected.pop("notes"), found.pop("notes")
    assert {name: found[name] for name in expected} == expected
    assert all(note in printed for note in notes[1])
    assert [part in printed for part in (f"{n} of 10,000", "class 7")] == [n != 120] * 2
    steps = run.steps(2, levels=8, **how)
    list(steps)
    assert (found["nfe"], found["guide_nfe"]) == (steps.nfe, steps.guide_nfe)
    assert steps.nfe > steps.guide_nfe > 0
    assert 0 < found["sampling_seconds"] < 600
    assert (found["seed"], found["class"], found["data"]) == (how.get("seed", 0), how.get("label"), "letters")
    assert (found["run_digest"], found["data_digest"]) == (run.digest, images.digest)
    assert (found["sampling"]["sampler"], found["sampling"]["guidance"]) == ("dpmpp-sde", 2)
    table = {words[0]: words[1:] for line in printed.splitlines() if (words := line.split())}
    assert table["n"] == f"= {n}, too few to be comparable".split()
    for name, metric in expected["metrics"].items():
        assert [float(word) for word in table[name]] == pytest.approx([*metric.values()], rel=1e-3, abs=0.006)
    (shown, neighbours, _), squares = pages[0], []
    samples = samples[: 20 if n == 21 else 30]  # in rows of ten
    for image in samples:
        squares.append((images.train.double() - image.double()).square().flatten(1).sum(1).argmin())
    assert torch.equal(shown, samples)
    assert torch.equal(neighbours, images.train[torch.stack(squares)])


@pytest.mark.parametrize(("folder", "place"), [("it", "it"), ("package", ".")])
def test_an_evaluation_is_written_into_ones_own_run_or_here(
    folder: str, place: str, given: Run, monkeypatch: Patch, here: Path
) -> None:
    Path("package").mkdir()
    use(monkeypatch, replace(given, folder=Path(folder)))
    monkeypatch.setattr(Run, "data", Mock(return_value=small_images((1, 8, 8))))
    run_ncsn("evaluate", "it", "-n", "100", "--features", "pixels", "--levels", "2", "--device", "cpu")
    assert [*Path().rglob("evaluation.json")] == [Path(place) / "evaluation.json"]


def correlated(x: Tensor, sigma: Sigma, /) -> Tensor:
    """The exact score of pixels that depend on each other, so that every probe has another trace."""
    covariance = 0.05 * torch.eye(16) + 0.2 + expand(sigma, x).view(-1, 1, 1) ** 2 * torch.eye(16)
    answer: Tensor = torch.linalg.solve(covariance, (0.5 - x).flatten(1)[:, :, None]).view(x.shape)
    return answer


@pytest.mark.parametrize(("options", "seed", "how"), [("", 0, {}), ("--sigma-min 0.4 --seed 2", 2, {"sigma_min": 0.4})])
def test_likelihoods_are_those_of_test_images_in_bits_per_dimension(
    options: str, seed: int, how: dict[str, float], monkeypatch: Patch, capsys: Printed
) -> None:
    images, generator = small_images((1, 4, 4)), torch.Generator().manual_seed(seed)
    monkeypatch.setattr(Run, "data", Mock(return_value=images))
    run = use(monkeypatch, of_images(correlated))
    run_ncsn(*f"likelihood it -n 30 --probes 2 --tolerance 1e-5 --device cpu {options}".split())
    x = dequantize(images.test[torch.randperm(150, generator=generator)[:30]], generator=generator)
    _, second = run.blocks(1001, seed=seed)  # the images were chosen by the seed of the first
    noise, probing = run.recipe.sampling, torch.Generator().manual_seed(second.prior.generator.initial_seed())
    ends = {"sigma_max": noise.sigma_max, "sigma_min": noise.sigma_min} | how
    found = ncsn.log_prob(run.score, x, **ends, probes=2, tolerance=1e-5, generator=probing)
    bits, errors = 8 - found.log_prob / (16 * math.log(2)), found.standard_error / (16 * math.log(2))
    expected = [float(bits.mean()), float(bits.std()) / 30**0.5, 30, float(errors.mean()), 2]
    assert expected[3] > 0.01
    printed = re.findall(r"-?[\d.]+", capsys.readouterr().out)
    assert [float(number) for number in printed[:5]] == pytest.approx(expected, abs=6e-4)


class Solved(NamedTuple):
    """What a command drew on its page and printed, of a picture of random pixels."""

    truth: Tensor
    guess: Tensor
    x: Tensor
    psnr: list[float]
    evidence: list[float]


Solve = Callable[..., Solved]
NOISE, MANY = 0.2, 300


@pytest.fixture
def solve(monkeypatch: Patch, tmp_path: Path, capsys: Printed) -> Solve:
    """Run a command on a picture of so many random pixels."""
    use(monkeypatch, prior())
    pages: list[tuple[Any, ...]] = []
    monkeypatch.setattr(plots, "posterior_page", lambda *page: pages.append(page))

    def solved(command: str, *, shape: tuple[int, int] = (4, 4)) -> Solved:
        pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(9), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "input.png")
        name, *options = command.split()
        common = f"-n {MANY} --noise {NOISE} --seed 6 --device cpu --input {tmp_path}/input.png --overwrite"
        run_ncsn(name, "it", *options, *common.split(), "--out", str(tmp_path / "page.png"))
        printed, complaints = capsys.readouterr()
        sys.stderr.write(complaints)
        psnr = [float(value) for value in re.findall(r"(-?[\d.]+) dB", printed)]
        evidence = [float(value) for value in re.findall(r"log evidence (-?[\d.]+) ±", printed)]
        truth, guess, x, _ = pages.pop()
        assert ("--measured" in options) == (truth is None)
        assert x.shape == (MANY, 1, 4, 4)
        return Solved(centres(pixels)[None], guess, x, psnr, evidence)

    return solved


def noise_for(measured: Tensor) -> Tensor:
    return NOISE * torch.randn(measured.shape, generator=torch.Generator().manual_seed(6))


def decibels(guess: Tensor, truth: Tensor) -> float:
    return 10 * math.log10(1 / float((guess.clamp(0, 1) - truth).double().square().mean()))


def assert_normal(x: Tensor, mean: Tensor | float, std: float) -> None:
    """Samples of N(mean, std²), pixel by pixel; on the way there are 60 levels, which cost a few percent."""
    z = (x - mean) / std
    assert float(z.mean(0).abs().max()) < 5 / MANY**0.5
    assert float(z.std()) == pytest.approx(1, abs=0.05)


def assert_posterior(x: Tensor, y: Tensor, prior: float) -> None:
    """Of N(½, prior²), measured as y."""
    share = prior**2 / (prior**2 + NOISE**2)
    assert_normal(x, 0.5 + share * (y - 0.5), NOISE * share**0.5)


ROWS = [*range(4)]


@pytest.mark.parametrize(
    ("command", "rows"), [("denoise", ROWS), ("inpaint --hide bottom", ROWS[:2]), ("inpaint --hide top", ROWS[2:])]
)
def test_what_is_known_is_denoised_and_what_is_hidden_filled_in(command: str, rows: list[int], solve: Solve) -> None:
    """What is hidden is the prior's, and shown as the mean of what is known."""
    solved = solve(command)
    known = solved.truth[:, rows]
    y = known + noise_for(known.flatten()[None]).view(known.shape)
    torch.testing.assert_close(solved.guess[:, rows], y)
    evidence = torch.distributions.Normal(0.5, math.hypot(0.3, NOISE)).log_prob(y).sum()  # type: ignore[no-untyped-call]
    assert solved.evidence == pytest.approx([float(evidence)], abs=0.05)
    assert_posterior(solved.x[:, :, rows], y, 0.3)
    if other := sorted({*ROWS} - {*rows}):
        torch.testing.assert_close(solved.guess[:, other], y.mean().expand(1, 2, 4))
        assert_normal(solved.x[:, :, other], 0.5, 0.3)
    expected = [decibels(guess, solved.truth) for guess in (solved.x.mean(0), solved.x[0], solved.guess)]
    assert solved.psnr == pytest.approx(expected, abs=0.051)
    assert expected[0] > expected[1] + 1


@pytest.mark.parametrize("fits", [True, False])
def test_a_posterior_that_is_further_from_the_truth_than_the_measurement_is_remarked_on(
    fits: bool, solve: Solve, monkeypatch: Patch, capsys: Printed
) -> None:
    if not fits:
        use(monkeypatch, of_images(GaussianScore(3.0, 0.05)))
    mean, _, measurement = solve("denoise --levels 8").psnr
    assert (mean > measurement) is fits
    assert ("closer to the true image" in capsys.readouterr().err) is not fits


def test_replaced_pixels_are_as_they_were_measured(solve: Solve) -> None:
    solved = solve("inpaint --hide left --method replacement --levels 60")
    y = solved.guess[:, :, 2:].expand(MANY, -1, -1, -1)
    torch.testing.assert_close(solved.x[:, :, :, 2:], y, atol=1e-4, rtol=0)
    assert float(solved.x[:, :, :, :2].std(0).min()) > 0.1


def test_squares_are_enlarged(solve: Solve) -> None:
    solved = solve("superres --factor 2")
    means = downsampled(2)(solved.truth[None])
    y = (means + noise_for(means))[0]
    torch.testing.assert_close(solved.guess, y.repeat_interleave(2, 1).repeat_interleave(2, 2))
    assert_posterior(downsampled(2)(solved.x), y, 0.3 / 2)  # a square's mean has a prior of variance 0.3²/4


@pytest.mark.parametrize(("height", "width"), [(8, 6), (6, 8)])
def test_a_square_must_divide_height_and_width(
    height: int, width: int, monkeypatch: Patch, here: Path, capsys: Printed
) -> None:
    use(monkeypatch, of_images(PRIOR, replace(SMALL, shape=(1, height, width))))
    Image.fromarray(np.zeros((height, width), np.uint8)).save("input.png")
    said = refusal(capsys, *shlex.split("superres it --factor 4 --input input.png --out x.png --device cpu"))
    assert re.search(f"factor is 4.* {height} x {width} pixels", said)


def test_pixels_at_the_ends_of_the_range_are_remarked_if_the_images_have_fewer(tmp_path: Path, capsys: Printed) -> None:
    """A tenth of the images that are compared are black or white, half of each, and a line comes from 15 % on."""
    train = torch.full((40, 1, 10, 10), 100, dtype=torch.uint8)
    train[:, 0, 0] = torch.tensor([0, 255]).repeat(5)
    images = Images(train, train, train)
    train[20:] = 0
    run = of_images(PRIOR, replace(SMALL, shape=(1, 10, 10)), settings={"seed": 0})
    for more, line in (((0, 255, 0, 255), []), ((0, 255) * 3, ["16% of", "10%"])):
        samples = train[:20].clone()
        samples[:, 0, 1, : len(more)] = torch.tensor(more)
        show(run, images, centres(samples), [ncsn.Step(1.0, centres(samples[:2]))], tmp_path)
        said = "".join(capsys.readouterr())
        assert [part for part in ("16% of", "10%") if part in said] == line
    assert {"samples.png", "samples_annealed.png", "evolution.png"} < {path.name for path in tmp_path.iterdir()}


def test_what_is_measured_is_not_measured_again(solve: Solve) -> None:
    solved = solve("superres --factor 2 --levels 3 --measured", shape=(2, 2))
    torch.testing.assert_close(solved.guess[:, ::2, ::2], solved.truth)
    assert solved.psnr == []
    for command in ("deblur --levels 3 --measured", "denoise --levels 3 --measured"):
        solved = solve(command)
        assert torch.equal(solved.guess, solved.truth)
    solved = solve("inpaint --levels 3 --measured --hide bottom")
    assert torch.equal(solved.guess[:, :2], solved.truth[:, :2])
    torch.testing.assert_close(solved.guess[:, 2:], solved.truth[:, :2].mean().expand(1, 2, 4))


def test_what_is_blurred_is_sharpened(solve: Solve) -> None:
    solved = solve("deblur --blur 1.5 --levels 8 --particles 1")
    generator, blur = torch.Generator().manual_seed(6), blurred(1.5)
    y = blur(solved.truth[None])
    y = y + NOISE * torch.randn(y.shape, generator=generator)
    torch.testing.assert_close(solved.guess, y[0])
    run = prior().posterior(blur, y, noise_std=NOISE)
    torch.testing.assert_close(solved.x, run.sample(MANY, seed=generator, levels=8, particles=1))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    smaller = replace(DIGITS, arguments=DIGITS.arguments | {"channels": (8,)})
    guided = Run(score=DIGITS.build(), recipe=DIGITS, guide=smaller.build(), guide_recipe=smaller)
    replace(guided, settings={"dataset": "mnist"}).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def points(tmp_path: Path) -> Path:
    recipe = replace(DIGITS, network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,))
    Run(score=recipe.build(), recipe=recipe).save(tmp_path / "points")
    return tmp_path / "points"


def test_the_model_in_the_package_draws_digits_at_once(here: Path) -> None:
    run_ncsn("sample", "mnist", "-n", "200", "--out", "digits.npz")
    digits = torch.from_numpy(np.load("digits.npz")["samples"])
    # A model that draws eights alone is confident too: what it draws must be as near to real digits as they are to
    # each other.  Measured over 200: 5.0, where as many held-out digits score 4.6 and pure eights over 100.
    found = evaluation.Ruler(ncsn.load_dataset("mnist"), n=200).judge(digits)
    assert isinstance(found, evaluation.Evaluation)
    assert found.metrics["confident"].generated > 0.85
    assert found.metrics["frechet_distance"].generated < 2 * found.metrics["frechet_distance"].training
    assert found.metrics["class_variation"].generated < 0.2


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sample nowhere", "nowhere is not a run"),
        ("train .", "choose another --out"),
        ("train ./takn.png", "mean taken.png?"),
        ("train mnits", "mean mnist?"),
        ("train mnist --out=", "--out is empty"),
        ("sample RUN --out ''", "--out is empty"),
        ("train quite/else", "quite/else does not exist\n"),
        ("sample RUN --out x.csv", ".png, .gif, .npz, .npy"),
        ("sample RUN --foo", "--foo"),
        ("sample RUN --out taken.png", "--overwrite"),
        ("sample RUN --out no/x.png", "no is not a folder"),
        ("sample RUN -n 10001 --out x.png", "10,000"),
        ("sample RUN --class ''", "label is ''"),
        ("sample RUN --complete", "generates images; only tables"),
        ("sample POINTS --out x.png", ".csv, .tsv, .parquet, .npz, .npy"),
        ("sample POINTS --out x.gif", ".csv"),
        ("likelihood POINTS", "run.log_prob"),
        ("denoise POINTS", "generates rows"),
        ("evaluate POINTS", "does not say which data"),
        ("evaluate POINTS --out new", "does not say which data"),
        ("evaluate mnist --out small.png", "small.png"),
        ("evaluate mnist --class ten", "class is ten"),
        ("calibrate POINTS --out taken.png", "taken.png"),
        ("calibrate RUN", "ncsn.calibrate"),
        ("inpaint RUN --input none.png", "No such file"),
        ("denoise RUN --out taken.png", "--overwrite"),
        ("denoise mnist --input 10000", "0 to 9999"),
        ("denoise RUN --input small.png --measured", "(1, 28, 28)"),
        ("superres RUN --factor 3", "factor is 3"),
        ("train taken.png --signals", "signals"),
        ("export RUN x.pt", ".pt"),
        ("evaluate POINTS --features pixels", "--features"),
        ("impute mnist x.csv", "inpaint"),
        ("impute POINTS x.csv --out y.npy", "y.npy"),
        ("doubt mnist x.csv", "only cells of a table"),
        ("doubt POINTS x.csv --out taken.png", ".csv, .tsv, .parquet"),
        # After the data is described.
        ("evaluate mnist --features nothing --out new", "features is nothing"),
        ("train x.npy --signals --from POINTS --steps 1 --out new", "generates rows"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    line: str, complaint: str, run: Path, points: Path, capsys: Printed, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(run.parent)
    np.save("x.npy", np.random.default_rng(0).standard_normal((40, 16)))
    Path("taken.png").write_text("precious")
    Image.fromarray(np.zeros((7, 7), np.uint8)).save("small.png")
    before = sorted(run.parent.iterdir())
    words = [{"RUN": str(run), "POINTS": str(points)}.get(word, word) for word in shlex.split(line)]
    with pytest.raises(SystemExit, match=r"^2$"):
        run_ncsn(*words)
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert (printed.err.count("\n"), bool(printed.out)) == (1, "--out new" in line and "POINTS --out" not in line)
    assert Path("taken.png").read_text() == "precious"
    assert sorted(run.parent.iterdir()) == before, "nothing was written before the refusal"


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_what_a_training_says_to_run_next_can_be_copied(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """A table and signals, in a folder with a blank in its name."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).random((40, 8))
    data = tmp_path / f"my data{suffix}"
    if suffix == ".csv":
        np.savetxt(data, values[:, :2], delimiter=",", header="a,b", comments="")
    else:
        np.savez(data, values)
    kind = ["--signals", "--channels", "8", "8"] if suffix == ".npz" else []
    run_ncsn("train", str(data), *kind, "--steps", "1", "--device", "cpu", "--no-compile")
    (command,) = re.findall("`(.*)`", capsys.readouterr().out)
    before = set(Path().iterdir())
    name, *words = shlex.split(command)
    assert name == "ncsn"
    run_ncsn(*words, "--device", "cpu")
    assert len(set(Path().iterdir()) - before) == 1
