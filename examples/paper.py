"""Reproduce every figure of Song & Ermon 2019 that needs no other data than MNIST and toys, with its numbers.

python examples/paper.py                # about ten minutes on two cores; writes docs/paper.md and docs/paper/

It trains the toys and the model with one noise level by the commands under each figure.  The digits come from the model
in the package; --run takes another one.
"""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import ncsn
from ncsn import data, evaluation, plots
from ncsn.cli import console
from ncsn.data.units import centres, quantize
from ncsn.evaluation import metrics
from ncsn.machine import hardware
from ncsn.problems import known_pixels, masked
from ncsn.run import Drawn

ROOT = Path(__file__).parent.parent
SLICED = "training_toy.py --generator gaussian --objective ssm --levels 1 --samples 0"
MIXING = "training_toy.py --generator gaussian"
NOISE = 0.05  # standard deviation that moment matching takes known pixels to have
SINGLE = (
    "training_MNIST.py --proposal geometric --levels 1 --sigma-min 0.2 --sigma-max 0.3 --sampler langevin "
    "--langevin-steps 200 --guidance 1"
)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Make the paper's figures, and a page with our numbers beside its claims."""

    run: Path = Path("mnist")
    """The model that draws digits: a run's folder, or the one in the package."""
    minutes: float = 3.0
    """Training of the single-σ baseline."""
    n: int = 1000
    """Samples behind each number about digits."""
    inpainted: int = 32
    """Test images to inpaint, eight times each."""
    out: Path = ROOT / "docs"
    """The folder that gets paper.md and the pictures."""
    work: Path = Path("runs/paper")
    """The folder of the runs that are trained on the way."""

    @property
    def figures(self) -> Path:
        """The folder of the pictures."""
        return self.out / "paper"


def execute(line: str, out: Path) -> dict[str, Any]:
    """Run one of the scripts as a user would, and return its numbers."""
    script, *options = shlex.split(line)
    command = [sys.executable, str(ROOT / script), *options, "--out", str(out), "--overwrite"]
    subprocess.run(command, check=True)
    numbers: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return numbers


def toys(paper: Paper) -> tuple[dict[str, Any], dict[str, float]]:
    """Figures 2 and 3: the score's errors after sliced score matching, and the weight of a mode by each sampler."""
    field = execute(SLICED, paper.work / "sliced")["levels"][-1]
    shutil.copy(paper.work / "sliced" / "score_field.png", paper.figures / "score_estimation.png")
    samplers = execute(MIXING, paper.work / "gaussian")["samplers"]
    shutil.copy(paper.work / "gaussian" / "samples.png", paper.figures / "mixing.png")
    return field, {name: row["modes"][0]["weight"] for name, row in samplers.items()}


def judged(digits: torch.Tensor, images: data.Dataset) -> tuple[float, float]:
    """The Fréchet distance to the test images, and the confident share."""
    classifier = evaluation.digits()
    seen, test = classifier(digits), classifier(images.test)
    return metrics.frechet_distance(seen.features, test.features), seen.confident


def draw(run: ncsn.Run, n: int, **how: Any) -> Drawn:
    """``n`` digits, and the first hundred of them on their way."""
    return console.draw(run, n, keep=100, **how)


def digits(paper: Paper, images: data.Dataset) -> dict[str, tuple[float, float]]:
    """Figures 4, 5a and the nearest neighbours; returns how good the samples are."""
    run = ncsn.load(paper.run)
    annealed = draw(run, paper.n, sampler="annealed")
    last = quantize(annealed.samples)
    plots.evolution(annealed.path, paper.figures / "levels.png")
    plots.image_grid(annealed.samples[:100], paper.figures / "samples.png")
    _, neighbours = evaluation.nearest(last[:20], images.train)
    plots.image_pairs(centres(last[:20]), centres(images.train[neighbours]), paper.figures / "neighbours.png")
    default = quantize(draw(run, paper.n).samples)
    real = images.validation[: paper.n]
    return {"annealed": judged(last, images), "default": judged(default, images), "real": judged(real, images)}


def inpainting(paper: Paper, images: data.Dataset) -> dict[str, float]:
    """Figure 6: the PSNR, in dB, of the hidden halves by mean fill, by samples, and by the samples' means."""
    run = ncsn.load(paper.run)
    truth = centres(images.test[: paper.inpainted])
    known = known_pixels((1, 28, 28), "bottom")
    filled = torch.where(known, truth, truth[:, known].mean(1)[:, None, None, None])
    repeated, guesses = filled.repeat_interleave(8, 0), {"fill": filled}
    answers = {
        "replacement": (run.replacement(known, repeated), {"levels": 100, "steps": 2}),
        "posterior": (run.posterior(masked(known), repeated[:, known], noise_std=NOISE), {"levels": 30}),
    }
    for name, (answer, how) in answers.items():
        x = draw(answer, len(repeated), **how).samples.view(len(truth), 8, 1, 28, 28)
        guesses |= {name: x[:, 0], f"{name}_mean": x.mean(1)}
        rows = torch.cat([truth[:, None], torch.where(known, truth, 0.5)[:, None], x], 1)
        plots.image_grid(rows[:6].flatten(0, 1), paper.figures / f"inpainting_{name}.png")
    return {name: metrics.psnr(x[:, ~known], truth[:, ~known]) for name, x in guesses.items()}


def main(paper: Paper) -> None:
    """Make all figures, then the page."""
    hardware.keep_memory()
    paper.figures.mkdir(parents=True, exist_ok=True)
    images = data.mnist()
    field, weight = toys(paper)
    quality = digits(paper, images)
    psnr = inpainting(paper, images)
    single_line, single_run = f"{SINGLE} --minutes {paper.minutes:g} --samples 100", paper.work / "single"
    execute(single_line, single_run)
    shutil.copy(single_run / "samples.png", paper.figures / "single_sigma.png")
    baseline = judged(quantize(draw(ncsn.load(single_run), paper.n).samples), images)
    annealed, default, real = quality["annealed"], quality["default"], quality["real"]

    near, far = field["relative_error_on_noised_data"], field["relative_error_beyond_distance_2"]
    (paper.out / "paper.md").write_text(
        f"""# Does the code reproduce the paper?

Yes, as far as toys and MNIST go. The paper is Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution" (NeurIPS 2019):

| claim of the paper | where | ours |
|---|---|---|
| the score is wrong where there is no data | figure 2 | error {near:.4f} on the data, {far:.2f} beyond distance 2 of it |
| Langevin dynamics gets the modes' weights wrong (0.2 is right) | figure 3 | {weight["langevin, exact score"]:.3f} with exact scores |
| annealed Langevin dynamics gets them right | figure 3 | {weight["annealed, exact score"]:.3f} exact, {weight["annealed, learned score"]:.3f} learned |
| samples of MNIST look like digits | figure 5a | confident {annealed[1]:.3f} (real {real[1]:.3f}), distance {annealed[0]:.2f} |
| the same with this package's default sampler | | confident {default[1]:.3f}, distance {default[0]:.2f} |
| one noise level is not enough | section 4 | confident {baseline[1]:.3f}, distance {baseline[0]:.1f} |
| the same model inpaints | figure 6 | {psnr["replacement"]:.1f} dB, {psnr["replacement_mean"]:.1f} the mean of eight; {psnr["fill"]:.1f} for mean fill |
| the same by moment matching | | {psnr["posterior"]:.1f} dB, {psnr["posterior_mean"]:.1f} the mean of eight |

The paper gives no number for MNIST; its figures are the claim.

## Figure 2: score estimation

![Exact and estimated score of two Gaussians, and the error between them](paper/score_estimation.png)

Sliced score matching learned this score, with next to no noise. The error is small (dark) around the two modes, where the data is.
It is large between them and in the corners, where no example ever is.
`python ./{SLICED}`

## Figure 3: mixing

![Data, Langevin and annealed Langevin samples](paper/mixing.png)

Langevin dynamics keeps the weights of its start with exact scores, and gets other wrong ones with learned scores. Annealing recovers 0.2 and 0.8.
`python ./{MIXING}`

## Figure 4: through the noise levels

![From noise to digits](paper/levels.png)

Annealed Langevin dynamics decides what a digit is while σ is between 2 and 0.3. Below that it draws the details.

## Figure 5a: digits

![A hundred samples, not chosen](paper/samples.png)

The first hundred samples of annealed Langevin dynamics. `ncsn sample mnist -n 100 --sampler annealed`

## Figure 6: inpainting

![Digits, their visible halves, and eight completions each](paper/inpainting_replacement.png)

Test digits, their known pixels, and eight completions. As in the paper, the known pixels are replaced at every step. If the
visible half does not settle the digit, the completions differ. These take two steps a level; the command takes five:
`ncsn inpaint mnist --input 0 --method replacement`

![The same by moment matching](paper/inpainting_posterior.png)

The same by the posterior's score (moment matching): 30 evaluations of five passes each, instead of 201 of one. `ncsn inpaint mnist --input 0 --levels 30`

## Appendix: nearest neighbours

![Samples, each above its nearest training image](paper/neighbours.png)

Rows one and three are samples. Below each is the training image that is nearest in pixels: the same digit, by another hand.

## One noise level alone

![Samples of a model with one noise level](paper/single_sigma.png)

The same network and sampler with σ = 0.2 alone. This is the paper's reason for many levels.
`python ./{single_line}`

## How it was measured

`python examples/paper.py` writes this page and its pictures. It takes about ten minutes on two cores.

- Numbers about digits are over {paper.n:,} samples, judged as by `ncsn evaluate`: the distance is Fréchet's, in the features of our classifier. Held-out digits have {real[0]:.2f}.
- Errors of a score are E‖ŝ − s‖²/E‖s‖².
- PSNR is over the hidden lower halves of {paper.inpainted} test images.
""",
        encoding="utf-8",
    )
    print(f"{paper.out / 'paper.md'} and {paper.figures}")


if __name__ == "__main__":
    main(tyro.cli(Paper))
