"""Digits that the model in the package draws, and the noise of which: ``python scripts/page_digits.py FOLDER``.

The page is given the noise and must draw the same (web/check/digits.check.ts).  They are too large to be kept, and made
when they are wanted: NAME.json (the task, without its noise), NAME.noise (float32) and NAME.digits (bytes).  With them
goes a run of small images in colour, colour.onnx, which has learned nothing and a smaller network for a guide.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import ncsn
from ncsn import ScoreModel, UNet
from ncsn.pixels import centres, quantize
from ncsn.problems import known_pixels
from ncsn.recipe import Argument, Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling

SEED = 5
LABELS = [7, 2, 4, 0]
TASKS: dict[str, dict[str, Any]] = {
    "default": {"labels": LABELS},
    "no class": {"labels": [-1] * 4},
    "guided": {"labels": LABELS, "guidance": 3.0, "sampler": "heun", "levels": 10},
    "annealed": {"labels": LABELS, "sampler": "annealed", "levels": 25},
    "filled": {"labels": [-1] * 4, "hide": "bottom", "levels": 25},
}


def noise(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The first ``n`` times as many normal numbers as all images have, in the order in which sampling draws them."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.stack([torch.randn((len(LABELS), *shape), generator=generator) for _ in range(n)])


def filled(*arguments: Any) -> ScoreModel:
    """A network whose weights leave nothing out."""
    torch.manual_seed(1)
    model = ScoreModel(UNet(*arguments), 0.4, 0.3).requires_grad_(False).eval()
    for weight in model.network.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return model


def colour() -> Run:
    """Images in colour, not square, of three classes."""
    sampling = Sampling(
        sigma_max=5.0, sigma_min=0.02, sampler="dpmpp-sde", levels=8, steps=1, eps=5e-5, guidance=2.0, guide="smaller"
    )
    arguments: dict[str, Argument] = {"image_channels": 3, "channels": (8,), "blocks": 1, "features": 8, "classes": 3}
    shares = {"red": 0.5, "green": 0.25, "blue": 0.25}
    recipe = Recipe(network="UNet", arguments=arguments, shape=(3, 10, 14), sampling=sampling, shares=shares)
    return Run(score=filled(3, (8,), 1, 8, 3), recipe=recipe, guide=filled(3, (4,), 1, 4))


def drawn(run: Run, task: dict[str, Any], folder: Path, name: str) -> None:
    """Write what the package draws, and how."""
    labels, hide = task["labels"], task.get("hide")
    given = None
    if hide is not None:
        known, y = known_pixels((1, 28, 28), hide), centres(run.data().test[:1])
        run, given = run.replacement(known, y), {"known": known.int().flatten().tolist(), "y": y.flatten().tolist()}
    how = {key: task[key] for key in ("sampler", "levels", "guidance") if key in task}
    label = "none" if labels[0] < 0 else torch.tensor(labels)
    states = run.steps(len(labels), seed=SEED, label=label, **how)
    sampling = states.sampling
    *_, last = states
    # Each evaluation asks for at most two numbers for each pixel, and the start for one.
    listed = noise(1 + 2 * (states.nfe + 1), run.recipe.shape)
    told = {"sampler": sampling.sampler, "levels": sampling.ladder().tolist(), "steps": sampling.steps}
    told |= {"eps": sampling.eps, "guidance": sampling.guidance, "labels": labels}
    (folder / f"{name}.json").write_text(
        json.dumps(told | ({} if given is None else {"given": given})), encoding="utf-8"
    )
    (folder / f"{name}.noise").write_bytes(listed.numpy().tobytes())
    (folder / f"{name}.digits").write_bytes(quantize(last.x).numpy().tobytes())


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    mnist = ncsn.load("mnist", device="cpu")
    mnist.model.autocast = None  # the page computes in float32 on every machine
    for name, task in TASKS.items():
        drawn(mnist, task, place, name)
    mine = colour()
    ncsn.export(mine, place / "colour.onnx", precision="fp32", overwrite=True)
    drawn(mine, {"labels": [2, 0, 1, 1]}, place, "colour")
