"""Reproduce figures 1, 2 and 4 to 6 of Song & Ermon 2019 with toy data and MNIST, and with numbers.

python examples/paper.py                             # about fifteen minutes on two cores; writes docs/paper.md and docs/paper/
python examples/paper.py --parts digits inpainting   # only some of it; other numbers stay as they were measured

Figure 3 is `python ./training_toy.py --generator gaussian`.  The toy model and the model with one noise level are
trained with the command under each figure.  Digits come from the packaged model or from --run, and their pictures contain
the digest of its weights.
"""

import itertools
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import torch
import tyro
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import safe_open

import ncsn
from ncsn import evaluation, metrics, plots
from ncsn.batching import centres, quantize
from ncsn.cli import console
from ncsn.data.dataset import Dataset
from ncsn.images import mnist
from ncsn.machine import hardware
from ncsn.machine.messages import bar
from ncsn.posteriors import known_pixels, masked
from ncsn.run.steps import Drawn
from ncsn.score import Sigma

ROOT = Path(__file__).parent.parent
SLICED = "training_toy.py --generator gaussian --objective ssm --levels 1 --samples 0"
NO_NOISE, SMALL_NOISE = 1e-4, 0.01  # the former is far below a step of a pixel's 256 grey levels
NOISE = 0.05  # standard deviation that moment matching takes known pixels to have
KNOWN_BY = {  # one number of each part
    "losses": "loss_noisy",
    "toys": "near",
    "digits": "annealed",
    "inpainting": "fill",
    "single": "single",
}
SINGLE = (
    "training_MNIST.py --proposal geometric --levels 1 --sigma-min 0.2 --sigma-max 0.3 --sampler langevin "
    "--langevin-steps 200 --guidance 1"
)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Draw the figures of the paper, and write a page that compares our numbers with its claims."""

    run: Path = Path("mnist")
    """The model that draws digits: the folder of a run, or mnist."""
    minutes: float = 3.0
    """Training time of the baseline with one noise level, in minutes."""
    n: int = 1000
    """Samples for each number about digits."""
    inpainted: int = 16
    """Test images to inpaint, eight times each."""
    out: Path = ROOT / "docs"
    """Folder in which paper.md, its numbers and its pictures are replaced."""
    work: Path = Path("runs/paper")
    """Folder for the runs that are trained on the way."""
    parts: tuple[Literal["losses", "toys", "digits", "inpainting", "single"], ...] = (
        "losses",
        "toys",
        "digits",
        "inpainting",
        "single",
    )
    """Parts to remake."""

    def figure(self, name: str) -> Path:
        """Where a picture is."""
        return self.out / "paper" / f"{name}.png"

    @property
    def single(self) -> str:
        """What trains the model with one noise level."""
        return f"{SINGLE} --minutes {self.minutes:g} --samples 100"


def execute(line: str, out: Path) -> dict[str, Any]:
    """Run one of the scripts as a user would, and return its numbers."""
    script, *options = shlex.split(line)
    command = [sys.executable, str(ROOT / script), *options, "--out", str(out), "--overwrite"]
    subprocess.run(command, check=True)
    numbers: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return numbers


def sign(run: ncsn.Run, path: Path) -> None:
    """Write into a picture which weights it is of: their sha256."""
    assert run.folder is not None
    with safe_open(run.folder / "model.safetensors", "pt") as weights, Image.open(path) as picture:
        info = PngInfo()
        info.add_text("weights", weights.metadata()["sha256"])
        picture.save(path, pnginfo=info, optimize=True)


def sliced_losses(images: Dataset, sigma: float) -> list[float]:
    """The loss of sliced score matching in each step of a small U-Net's training, per pixel and times 0.01².

    The score is the network's output divided by 0.01.  ``sigma``: the noise that is added to images.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = ncsn.UNet(1, channels=(16, 32))
    adam = torch.optim.Adam(network.parameters(), lr=0.001)
    level = torch.zeros(64)  # the network sees the same one in every step

    def score(x: torch.Tensor, _: Sigma) -> torch.Tensor:
        output: torch.Tensor = network(x, level)
        return output / SMALL_NOISE

    losses = []
    for batch in bar(itertools.islice(ncsn.batches(centres(images.train), 64, generator=generator), 600), total=600):
        loss = ncsn.ssm(score, batch.x, sigma, generator=generator).mean() / sigma**2
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses.append(loss.item() * SMALL_NOISE**2 / batch.x[0].numel())
    return losses


def losses(paper: Paper, images: Dataset) -> dict[str, Any]:
    """Figure 1: the loss of sliced score matching without noise and with a little of it; returns the last ones."""
    noiseless, noisy = sliced_losses(images, NO_NOISE), sliced_losses(images, SMALL_NOISE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(noiseless, linewidth=1)
    left.set_title("without noise")
    right.plot(noisy, linewidth=1)
    right.set_title("with noise of σ = 0.01")
    for axis in (left, right):
        axis.set(xlabel="training step", ylabel="loss per pixel · 0.01²")
    figure.savefig(paper.figure("losses"), dpi=100)
    plt.close(figure)
    return {"loss_noiseless": statistics.mean(noiseless[-20:]), "loss_noisy": statistics.mean(noisy[-20:])}


def toys(paper: Paper, _: Dataset) -> dict[str, Any]:
    """Figure 2: the score's errors after sliced score matching."""
    field = execute(SLICED, paper.work / "sliced")["levels"][-1]
    shutil.copy(paper.work / "sliced" / "score_field.png", paper.figure("score_estimation"))
    return {"near": field["relative_error_on_noised_data"], "far": field["relative_error_beyond_distance_2"]}


def judge(digits: torch.Tensor, images: Dataset) -> tuple[float, float]:
    """The Fréchet distance to the test images, and the share of digits about which the classifier is confident."""
    classifier = evaluation.digits()
    seen, test = classifier(digits), classifier(images.test)
    return metrics.frechet_distance(seen.features, test.features), seen.confident


def draw(run: ncsn.Run | ncsn.PosteriorRun, n: int, **options: Any) -> Drawn:
    """``n`` digits, and the first hundred of them on their way."""
    began = time.perf_counter()
    steps = run.steps(n, **options)
    console.compile_for(run.prior if isinstance(run, ncsn.PosteriorRun) else run, n, steps)
    return console.follow(steps, f"{n} samples", began, keep=100)


def digits(paper: Paper, images: Dataset) -> dict[str, Any]:
    """Figures 4, 5a and the nearest neighbours; returns how good the samples are."""
    run = ncsn.load(paper.run)
    default = draw(run, paper.n)
    annealed = draw(run, paper.n, sampler="annealed")
    plots.evolution(annealed.path, paper.figure("levels"))
    plots.image_grid(annealed.samples[:100], paper.figure("samples"))
    by_sampler = {"annealed": quantize(annealed.samples), "default": quantize(default.samples)}
    shown = by_sampler["annealed"][:20]
    _, neighbours = evaluation.nearest(shown, images.train)
    plots.image_pairs(centres(shown), centres(images.train[neighbours]), paper.figure("neighbours"))
    for path in map(paper.figure, ("levels", "samples", "neighbours")):
        sign(run, path)
    compared = by_sampler | {"real": images.validation[: paper.n]}
    return {name: judge(pixels, images) for name, pixels in compared.items()} | {"n": paper.n}


def inpainting(paper: Paper, images: Dataset) -> dict[str, float]:
    """Figure 6: the PSNR, in dB, of the hidden halves by mean fill, by samples, and by the samples' means."""
    run = ncsn.load(paper.run)
    truth = centres(images.test[: paper.inpainted])
    known = known_pixels((1, 28, 28), "bottom")
    filled = torch.where(known, truth, truth[:, known].mean(1)[:, None, None, None])
    repeated = filled.repeat_interleave(8, 0)
    guesses = {"fill": filled}
    posteriors = {
        "replacement": (run.replacement(known, repeated), {"levels": 100, "steps": 2}),
        "posterior": (run.posterior(masked(known), repeated[:, known], noise_std=NOISE), {"levels": 30}),
    }
    for name, (posterior, options) in posteriors.items():
        x = draw(posterior, len(repeated), **options).samples.view(len(truth), 8, 1, 28, 28)
        guesses |= {name: x[:, 0], f"{name}_mean": x.mean(1)}
        rows = torch.cat([truth[:, None], torch.where(known, truth, 0.5)[:, None], x], 1)
        plots.image_grid(rows[:6].flatten(0, 1), paper.figure(f"inpainting_{name}"))
        sign(run, paper.figure(f"inpainting_{name}"))
    psnr = {name: metrics.psnr(x[:, ~known], truth[:, ~known]) for name, x in guesses.items()}
    return psnr | {"inpainted": len(truth)}


def single(paper: Paper, images: Dataset) -> dict[str, Any]:
    """A model with one noise level: how good its samples are."""
    execute(paper.single, paper.work / "single")
    shutil.copy(paper.work / "single" / "samples.png", paper.figure("single_sigma"))
    samples = draw(ncsn.load(paper.work / "single"), paper.n).samples
    return {"single": judge(quantize(samples), images)}


def main(paper: Paper) -> None:
    """Make the figures, then the page."""
    hardware.keep_memory()
    saved = paper.out / "paper" / "numbers.json"
    numbers = json.loads(saved.read_text()) if saved.is_file() else {}
    if missing := [part for part, name in KNOWN_BY.items() if part not in paper.parts and name not in numbers]:
        raise SystemExit(f"{saved} has no numbers of {', '.join(missing)}; add to --parts: {' '.join(missing)}")
    images = mnist()
    saved.parent.mkdir(parents=True, exist_ok=True)
    for part in (losses, toys, digits, inpainting, single):
        if part.__name__ in paper.parts:
            numbers |= part(paper, images)
            saved.write_text(json.dumps(numbers, indent=1) + "\n")
    page(paper, numbers)


def page(paper: Paper, numbers: dict[str, Any]) -> None:
    """Write the page."""
    annealed, default, real, baseline = (numbers[name] for name in ("annealed", "default", "real", "single"))
    (paper.out / "paper.md").write_text(
        f"""# The paper, figure by figure

This page reproduces figures 1 to 6 of Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution" (NeurIPS 2019), with toy data and MNIST. What the paper shows holds here, too:

| figure | what the paper shows | here |
|---|---|---|
| [1](#figure-1-why-a-little-noise) | Without noise, the loss of sliced score matching doesn't settle. | the same, with digits instead of CIFAR-10 |
| [2](#figure-2-score-estimation) | An estimated score is right near the data only. | its squared relative error is {numbers["near"]:.4f} near the data, {numbers["far"]:.2f} far from it |
| [3](#figure-3-mixing) | Langevin dynamics ignores the weights of modes, annealing respects them. | a mode that should hold 20 % holds 50 %, and 22 % with annealing |
| [4 and 5a](#figure-5a-digits) | Annealed Langevin dynamics draws digits. | their distance from test images is {annealed[0] / real[0]:.1f} times that of real digits |
| [6](#figure-6-inpainting) | The same score completes images. | completions of half a digit |

We don't reproduce its results on CelebA and CIFAR-10. Three experiments have pages of their own: [the circle](tutorials/circle.md), [the mixture](tutorials/mixture.md) and [digits](tutorials/digits.md). `python examples/paper.py` draws the figures below in about fifteen minutes, with the model in the package.

## What is the paper's, and what isn't

The default training of ncsn isn't the paper's: much has been learned since 2019. `--method ncsn` (in Python, `ncsn.fit(…, method="ncsn")`) keeps the U-Net and takes everything else from the paper; `--method ncsnv2` has the five techniques of [Song & Ermon 2020](https://arxiv.org/abs/2006.09011).

| | Song & Ermon 2019 | `training_MNIST.py` | option for the paper's |
|---|---|---|---|
| network | RefineNet with conditional instance normalisation | simplified U-Net | [examples/refinenet.py](../examples/refinenet.py) |
| score from the network's output F | s = F | EDM: a Gaussian's score plus a residual | `--preconditioning plain` |
| noise levels in training | ten, from σ = 1 to 0.01 | ln σ is normal, σ from 0.01 to 10 | `--proposal geometric` `--levels 10` `--sigma-max 1` |
| weight of a level | λ(σ) = σ², the mean over levels | 2(σ² + σ_d²)/σ_d² times that | comes with `plain` |
| target | −z/σ | at σ > 0.75, its mean over all training images | `--posterior-above 10` (σ_max) |
| labels, guidance | neither | both | `--no-classes` `--guidance 1` |
| optimiser | Adam at 0.001 | Muon and Adam, rates that decay | `--optimizer adam` `--adam-rate 0.001` `--schedule constant` |
| weights | the last ones | a moving average, as the authors' later code | – |
| sampler | annealed Langevin dynamics, 10 × 100 steps, ε = 2·10⁻⁵, from uniform noise, not denoised | SDE-DPM-Solver++, 12 levels, from N(μ, σ_max²) | `--sampler ncsn` `--langevin-steps 100` `--eps 2e-5` |

### Train with the paper's settings

`python ./training_MNIST.py --method ncsn`

After ten minutes of one core, about half of its samples are legible digits ([picture](tutorials/ladder.md#digits-by-the-papers-method)). That's 4,732 training steps; the paper takes 200,000. [From 2019 to now](tutorials/ladder.md) replaces these settings by today's, one at a time, and measures what each is worth.

The paper states ε = 2·10⁻⁵ as the α of its algorithm 1. The authors' code uses it as α/2, which is `--eps 4e-5` here.

## Terms

Three terms occur below:

- The *squared relative error* of a learned score ŝ is E‖ŝ − s‖²/E‖s‖², where s is the exact score; *far* means more than 2 away from the data.
- [Fréchet distances](glossary.md) compare samples with test images, by the features of the digit classifier in the package.
- The classifier is *confident* about a sample if it gives one digit a probability of more than 0.9.

## Figure 1: why a little noise

![The loss of sliced score matching: without noise it falls without end, with noise it settles](paper/losses.png)

`python examples/paper.py --parts losses`

Without noise (left), the loss of sliced score matching falls further and further, and fluctuates: in its last twenty steps, its mean is −{-numbers["loss_noiseless"]:.0f}. With Gaussian noise of σ = 0.01, which no eye can see (right), it settles: its mean is −{-numbers["loss_noisy"]:.2f}, and it can't fall below −½.

The reason is that digits lie near a manifold, and most of their pixels are exactly black. Where a density has no thickness, its score is infinite, so the loss has no minimum. With noise, the score is finite.

(A small U-Net, 600 steps of 64 images, Adam at 0.001, seed 0; four minutes of a busy core. Both losses are per pixel and multiplied by 0.01². The paper shows the same for CIFAR-10.)

## Figure 2: score estimation

![Exact and estimated score of two Gaussians, and the error between them](paper/score_estimation.png)

`python ./{SLICED}`

As in the paper, the score is right near the data and wrong elsewhere. It was learned by sliced score matching with almost no noise (σ = 0.1, the only level); its squared relative error is {numbers["near"]:.4f} on the data and {numbers["far"]:.2f} far from it. [The circle](tutorials/circle.md) explains why, and what noise changes.

## Figure 3: mixing

`python ./training_toy.py --generator gaussian`

![Samples of two modes; above each panel, the shares of both modes](images/gaussian_samples.png)

Langevin dynamics ignores the weights of the modes; annealed Langevin dynamics gets them right. [The mixture](tutorials/mixture.md) explains why.

As in the paper, with ten noise levels from σ = 20 to 1, T = 100 steps each, ε = 0.1, 1,280 points and no denoising:

`python ./training_toy.py --generator gaussian --sigma-max 20 --sigma-min 1 --levels 10 --langevin-steps 100 --eps 0.1 --samples 1280 --no-denoise`

This puts the following shares of the points into the left mode:

| | the paper's: exact score | learned score | should be |
|---|--:|--:|--:|
| Langevin dynamics | 50 % | 51 % | 20 % |
| annealed Langevin dynamics | 22 % | 22 % | 20 % |

(3 December 2026, seed 0, 38 s on a busy Xeon with AMX. With 1,280 points, chance gives errors of about 1.1 percentage points. The picture above has 20 levels from σ = 20 to 0.1, 75 steps each, ε = 0.005, 5,000 points, and denoises them at the end.)

## Figure 4: through the noise levels

![From noise to digits](paper/levels.png)

`ncsn sample mnist -n 36 --sampler annealed --out path.gif`

Annealed Langevin dynamics starts on the left, with 100 noise levels from σ = 10 to 0.01, two steps on each and ε = σ_min²/2 = 5·10⁻⁵. The digits take shape as σ falls from 1 to 0.3. (The command makes an animation of this.)

## Figure 5a: digits

![A hundred samples, not hand-picked](paper/samples.png)

`ncsn sample mnist -n {numbers["n"]} --sampler annealed --out samples.npz`

These are the first hundred of {numbers["n"]:,} samples by annealed Langevin dynamics, compared with as many samples by ncsn's default sampler and with as many held-out digits:

| | Fréchet distance | times the floor | confident |
|---|--:|--:|--:|
| annealed Langevin dynamics | {annealed[0]:.2f} | {annealed[0] / real[0]:.1f} | {100 * annealed[1]:.0f} % |
| the default sampler | {default[0]:.2f} | {default[0] / real[0]:.1f} | {100 * default[1]:.0f} % |
| held-out digits (the floor) | {real[0]:.2f} | 1 | {100 * real[1]:.0f} % |

Samples can be closer than held-out digits because the features come from a classifier that was trained on the images that the samples imitate.

## Figure 6: inpainting

![Digits, their visible halves, and eight completions each](paper/inpainting_replacement.png)

`ncsn inpaint mnist --input 0 --method replacement`

Each row shows a test digit, its visible half, and eight completions by the paper's method, which replaces the known pixels at every step. The picture was made with two Langevin steps per level. The command takes five, its default, and completes a single digit.

![The same by moment matching](paper/inpainting_posterior.png)

`ncsn inpaint mnist --input 0 --levels 30`

These are the same halves, completed by [moment matching](theory/posteriors.md#moment-matching). For {numbers["inpainted"]} test images, the means of eight completions have a [PSNR](glossary.md) of {numbers["replacement_mean"]:.1f} dB with the paper's method and {numbers["posterior_mean"]:.1f} dB with moment matching (a constant grey: {numbers["fill"]:.1f} dB). These are too few images to tell which is better.

## Appendix: nearest neighbours

![Samples, each above its nearest training image](paper/neighbours.png)

None of these samples (above) is a copy of its nearest training image (below).

## A single noise level

![Samples of a model with one noise level](paper/single_sigma.png)

`python ./{paper.single}`

This model was trained at a single level, σ = 0.2. Most of its samples are loose strokes, and some are empty: after {paper.minutes:g} minutes of training, the Fréchet distance of {numbers["n"]:,} of them is {baseline[0] / real[0]:.0f} times the floor ({baseline[0]:.0f}, for a floor of {real[0]:.2f}). (With a single level, `--sigma-max` doesn't matter for training; it only says with how much noise sampling starts.)
""",
        encoding="utf-8",
    )
    print(f"{paper.out / 'paper.md'} and {paper.out / 'paper'}")


if __name__ == "__main__":
    main(tyro.cli(Paper))
