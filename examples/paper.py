"""Every figure of Song & Ermon 2019 that needs no other data than MNIST and toys, made anew, with its numbers.

python examples/paper.py                # about ten minutes on two cores; writes docs/paper.md and docs/paper/

Toys and the single-σ baseline are trained here, by the commands that stand under each figure; the digits come from the
model in the package (--run for another one).
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ncsn import console, data, evaluation, machine, metrics, plots, runs
from ncsn.pixels import quantize
from ncsn.problems import replacement
from ncsn.score import batched

ROOT = Path(__file__).parent.parent
SINGLE = (
    "training_MNIST.py --proposal geometric --levels 1 --sigma-min 0.2 --sigma-max 0.3 --sampler langevin "
    "--langevin-steps 200 --guidance 1"
)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Make the paper's figures and a page that sets our numbers beside its claims."""

    run: Path = Path("mnist")
    """The model that draws digits: a run's folder, or the one in the package."""
    minutes: float = 3.0
    """Training of the single-σ baseline."""
    n: int = 1000
    """Samples behind each number about digits."""
    out: Path = ROOT / "docs"
    """Gets paper.md and the folder paper."""
    work: Path = Path("runs/paper")
    """Where the toys' and the baseline's runs go."""


def execute(line: str, out: Path) -> dict[str, Any]:
    """Run one of the scripts as a user would; returns its numbers."""
    script, *options = shlex.split(line)
    command = [sys.executable, str(ROOT / script), *options, "--out", str(out), "--overwrite"]
    subprocess.run(command, check=True)
    numbers: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return numbers


def main(paper: Paper) -> None:
    """All figures, then the page."""
    machine.keep_memory()
    figures = paper.out / "paper"
    figures.mkdir(parents=True, exist_ok=True)
    images, classifier = data.mnist(), evaluation.load_classifier()
    test = evaluation.judge(classifier, images.test)

    def judged(x: torch.Tensor) -> tuple[float, float]:
        seen = evaluation.judge(classifier, x)
        return metrics.frechet_distance(seen.features, test.features), seen.confident

    sliced = "training_toy.py --generator gaussian --objective ssm --levels 1 --view field"
    field = execute(sliced, paper.work / "sliced")["levels"][-1]
    shutil.copy(paper.work / "sliced" / "score_field.png", figures / "score_estimation.png")

    mixing = "training_toy.py --generator gaussian"
    toy = execute(mixing, paper.work / "gaussian")["samplers"]
    shutil.copy(paper.work / "gaussian" / "samples.png", figures / "mixing.png")
    weight = {name: row["modes"][0]["weight"] for name, row in toy.items() if isinstance(row, dict)}

    model, recipe = runs.load(paper.run), runs.read_recipe(runs.find(paper.run))
    score = batched(model, min(500, paper.n))
    generator = torch.Generator().manual_seed(0)
    start = recipe.start(score, paper.n, generator=generator)
    annealing = recipe.path(score, start, sampler="annealed", generator=generator)
    ladder = recipe.states("annealed")
    # Of every state 100 examples are kept; all of them only of the last.
    kept: list[torch.Tensor] = []
    last: deque[torch.Tensor] = deque(maxlen=1)
    for x in console.bar(annealing, len(ladder), "annealed Langevin"):
        kept.append(x[:100])
        last.append(x)
    digits = quantize(last[0])
    plots.evolution(kept, ladder, figures / "levels.png")
    plots.image_grid(kept[-1], figures / "samples.png")
    _, neighbours = evaluation.nearest(digits[:20], images.train)
    pairs = torch.stack([digits[:20].view(2, 10, 1, 28, 28), images.train[neighbours].view(2, 10, 1, 28, 28)], 1)
    plots.image_grid((pairs.flatten(0, 2).float() + 0.5) / 256, figures / "neighbours.png")
    annealed = judged(digits)
    generator = torch.Generator().manual_seed(0)
    start = recipe.start(score, paper.n, generator=generator)
    guide = runs.load_guide(paper.run)
    sampled = recipe.guided(score, batched(guide, min(500, paper.n)) if guide is not None else None)
    (x,) = deque(recipe.path(sampled, start, generator=generator), maxlen=1)
    default = judged(quantize(x))
    real = judged(images.validation[: paper.n])

    rows: list[torch.Tensor] = []
    errors: dict[str, list[float]] = {"fill": [], "mean": [], "sample": []}
    for i, hidden in enumerate([slice(14), slice(14, None)] * 3):
        truth = (images.test[i : i + 1].float() + 0.5) / 256
        known = torch.ones(1, 28, 28, dtype=torch.bool)
        known[:, hidden] = False
        y = torch.where(known, truth, truth[:, known].mean())
        generator = torch.Generator().manual_seed(i)
        inpainting = replacement(model, known, y.expand(8, -1, -1, -1), generator=generator)
        start = recipe.start(model, 8, generator=generator)
        (x,) = deque(recipe.path(inpainting, start, sampler="annealed", generator=generator), maxlen=1)
        rows.append(torch.cat([truth, torch.where(known, truth, 0.5), x]))
        for name, guess in (("fill", y), ("mean", x.mean(0, keepdim=True)), ("sample", x)):
            errors[name].append(float((guess.clamp(0, 1) - truth).square().mean()))
    plots.image_grid(torch.cat(rows), figures / "inpainting.png")
    psnr = {name: -10 * float(torch.tensor(values).mean().log10()) for name, values in errors.items()}

    single_line = f"{SINGLE} --minutes {paper.minutes:g}"
    single_run = paper.work / "single"
    execute(f"{single_line} --samples 100", single_run)
    shutil.copy(single_run / "samples.png", figures / "single_sigma.png")
    alone, single = runs.read_recipe(single_run), batched(runs.load(single_run), min(500, paper.n))
    generator = torch.Generator().manual_seed(0)
    path = alone.path(single, alone.start(single, paper.n, generator=generator), generator=generator)
    (x,) = deque(console.bar(path, len(alone.states()), "one noise level"), maxlen=1)
    baseline = judged(quantize(x))

    near, far = field["relative_error_on_noised_data"], field["relative_error_beyond_distance_2"]
    (paper.out / "paper.md").write_text(
        f"""# The paper, reproduced

Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution" (NeurIPS 2019), figure by figure.
Everything on this page is written by `python examples/paper.py`; numbers about digits are over {paper.n:,} samples,
judged as `ncsn evaluate` does (Fréchet distance in the features of our classifier; {real[0]:.2f} for held-out digits).

| claim of the paper | where | ours |
|---|---|---|
| the score is wrong where there is no data | figure 2 | error {near:.4f} on the data, {far:.2f} beyond distance 2 of it |
| Langevin dynamics gets the modes' weights wrong (0.2 is right) | figure 3 | {weight["langevin_exact"]:.3f} with exact scores |
| annealed Langevin dynamics gets them right | figure 3 | {weight["annealed_exact"]:.3f} exact, {weight["annealed_learned"]:.3f} learned |
| samples of MNIST look like digits | figure 5a | confident {annealed[1]:.3f} (real {real[1]:.3f}), distance {annealed[0]:.2f} |
| the same with this package's default sampler | | confident {default[1]:.3f}, distance {default[0]:.2f} |
| one noise level is not enough | section 4 | confident {baseline[1]:.3f}, distance {baseline[0]:.1f} |
| the same model inpaints | figure 6 | PSNR {psnr["sample"]:.1f} dB a sample, {psnr["mean"]:.1f} of their mean, {psnr["fill"]:.1f} mean fill |

The errors are E‖ŝ − s‖²/E‖s‖². The paper gives no number for MNIST; its figures are the claim.

## Figure 2: score estimation

![Exact and estimated score of two Gaussians, and the error between them](paper/score_estimation.png)

Sliced score matching with next to no noise. Look at the error: small (dark) around the two modes, where the data is,
and large between them and in the corners, which no example ever visits.
`python ./{sliced}`

## Figure 3: mixing

![Data, Langevin and annealed Langevin samples](paper/mixing.png)

Langevin dynamics keeps the weights of its start, even with exact scores; annealing recovers 0.2 and 0.8.
`python ./{mixing}`

## Figure 4: through the noise levels

![From noise to digits](paper/levels.png)

Annealed Langevin dynamics decides what a digit is while σ is between 2 and 0.3; below, it draws.

## Figure 5a: digits

![A hundred samples, not chosen](paper/samples.png)

A hundred samples of annealed Langevin dynamics, the first that came. `ncsn sample mnist -n 100 --sampler annealed`

## Figure 6: inpainting

![Digits, their visible halves, and eight completions each](paper/inpainting.png)

Test digits, what is known of them, and eight completions by replacement of the known pixels. Where the visible half
does not settle the digit, the completions differ. `ncsn inpaint mnist --input 0 --hide top --method replacement`

## Appendix: nearest neighbours

![Samples, each above its nearest training image](paper/neighbours.png)

Samples in rows one and three, each above the training image that is nearest in pixels: the same digit, another hand.

## One noise level alone

![Samples of a model with one noise level](paper/single_sigma.png)

The same network and sampler with σ = 0.2 alone: the paper's reason for many levels.
`python ./{single_line}`
""",
        encoding="utf-8",
    )
    print(f"{paper.out / 'paper.md'} and {figures}")


if __name__ == "__main__":
    main(tyro.cli(Paper))
