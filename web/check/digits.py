"""Digits that the model in the package draws, and the noise of which: ``python web/check/digits.py FOLDER``.

The page is given the noise and must draw the same (web/check/digits.check.ts).  They are too large to be kept, and made
when they are wanted: NAME.json (the task, without its noise), NAME.noise (float32) and NAME.digits (bytes).  With them
goes a run of small images in colour, in the folder colour, which has learned nothing and a smaller network for a guide.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ncsn
from ncsn.run.run import PosteriorRun

SEED = 5
LABELS, NO_LABELS = [7, 2, 4, 0], [-1] * 4
TASKS: dict[str, dict[str, Any]] = {
    "default": {"labels": LABELS},
    "no class": {"labels": NO_LABELS},
    "guided": {"labels": LABELS, "guidance": 3.0, "sampler": "heun", "levels": 10},
    "annealed": {"labels": LABELS, "sampler": "annealed", "levels": 25},
    "filled": {"labels": NO_LABELS, "levels": 25},
}


def network(channels: int, *classes: int) -> ncsn.ScoreModel:
    """A network for colours whose weights leave nothing out."""
    torch.manual_seed(1)
    model = ncsn.ScoreModel(ncsn.UNet(3, (channels,), 1, channels, *classes), 0.4, 0.3).requires_grad_(False).eval()
    for weight in model.network.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    return model


def colour() -> ncsn.Run:
    """Images in colour, not square, of three classes."""
    sampling = ncsn.Sampling(
        sigma_max=5.0, sigma_min=0.02, sampler="dpmpp-sde", levels=8, steps=1, eps=5e-5, guidance=2.0, guide="smaller"
    )
    arguments: Any = {"image_channels": 3, "channels": (8,), "blocks": 1, "features": 8, "num_classes": 3}
    shares = {"red": 0.5, "green": 0.25, "blue": 0.25}
    recipe = ncsn.Recipe(network="UNet", arguments=arguments, shape=(3, 10, 14), sampling=sampling, shares=shares)
    smaller: Any = {"image_channels": 3, "channels": (4,), "blocks": 1, "features": 4}
    guide = replace(recipe, arguments=smaller, shares={})
    return ncsn.Run(score=network(8, 3), recipe=recipe, guide=network(4), guide_recipe=guide)


def write(run: ncsn.Run, path: Path, labels: list[int], **how: Any) -> None:
    """Write what the package draws, the noise of which, and how."""
    told: dict[str, Any] = {"labels": labels}
    sampler: ncsn.Run | PosteriorRun = run
    if path.name == "filled":
        known, y = torch.ones(1, 28, 28, dtype=torch.bool), (run.data().test[:1].float() + 0.5) / 256
        known[:, 14:] = False
        sampler = run.replacement(known, y)
        told["given"] = {"known": known.int().flatten().tolist(), "y": y.flatten().tolist()}
    steps = sampler.steps(len(labels), seed=SEED, label=torch.tensor(labels) if labels[0] >= 0 else "none", **how)
    sampling = steps.sampling
    *_, last = steps
    told |= {"sampler": sampling.sampler, "levels": sampling.ladder().tolist(), "steps": sampling.steps}
    told |= {"eps": sampling.eps, "guidance": sampling.guidance}
    path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    # In the order in which sampling draws it: each evaluation asks for at most two numbers for each pixel, the start
    # for one.
    generator, shape = torch.Generator().manual_seed(SEED), (len(labels), *run.recipe.shape)
    noise = [torch.randn(shape, generator=generator) for _ in range(1 + 2 * (steps.nfe + 1))]
    path.with_suffix(".noise").write_bytes(torch.stack(noise).numpy().tobytes())
    path.with_suffix(".digits").write_bytes((last.x * 256).floor().clamp(0, 255).byte().numpy().tobytes())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    mnist = ncsn.load("mnist", device="cpu")
    mnist.model.autocast = None  # the page computes in float32 on every machine
    for name, task in TASKS.items():
        write(mnist, folder / name, **task)
    colour().save(folder / "colour", overwrite=True)
    write(colour(), folder / "colour", [2, 0, 1, 1])
