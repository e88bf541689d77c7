"""Whether two trees of the package compute the same bytes: temporary, for a large refactoring.

python scripts/guards.py OLD NEW                # all probes, one line each; status 1 if any differs
python scripts/guards.py OLD NEW --only sample  # those whose names contain one of these words
python scripts/guards.py OLD NEW --times        # how long imports, sampling and training take

Each tree has a fresh interpreter with PYTHONPATH=TREE/src, in a temporary folder, on one thread.  A probe runs in the
one and right after it in the other.  It gives parts by name, each of which becomes a sha256.  Probes know only the
public names of ``import ncsn`` and the command line.
"""

import argparse
import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Parts = dict[str, Any]
Make = Callable[[np.random.Generator], str]
PROBES: dict[str, Callable[[], Parts]] = {}
SETS: dict[str, tuple[Make, dict[str, Any]]] = {}
LONGEST = 180  # seconds that a probe may take
TIMINGS = re.compile("second|time|memory|pace|^sha256$")  # in keys of files: what differs between two runs alike
TINY = ["--no-compile", "--channels", "8", "16", "--blocks", "1", "--batch-size", "16", "--samples", "4"]
SAMPLERS = ("annealed", "consistent", "pc", "euler", "heun", "edm", "dpmpp", "dpmpp-sde", "langevin", "fast")


def probe(name: str) -> Callable[[Callable[[], Parts]], Callable[[], Parts]]:
    """Add a probe by this name."""

    def added(function: Callable[[], Parts]) -> Callable[[], Parts]:
        PROBES[name] = function
        return function

    return added


def data_set(name: str, **reading: Any) -> Callable[[Make], Make]:
    """Add a data set by this name, which is read with these options; the function returns its path."""

    def added(make: Make) -> Make:
        SETS[name] = make, reading
        return make

    return added


# What a value is, to the byte.


def fingerprint(value: Any) -> str:
    """The sha256 of a value: of tensors and arrays their dtype, shape and bytes."""
    found = hashlib.sha256()
    feed(found, value)
    return found.hexdigest()


def feed(found: Any, value: Any) -> None:
    """Add a value to a hash, with its kind, so that no two values are alike by chance."""
    import torch

    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous()
        found.update(f"tensor {flat.dtype} {tuple(flat.shape)}\n".encode())
        found.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        found.update(f"array {value.dtype.str} {value.shape}\n".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        found.update(f"mapping {len(value)}\n".encode())
        for key, item in value.items():
            feed(found, key)
            feed(found, item)
    elif isinstance(value, list | tuple):
        found.update(f"sequence {len(value)}\n".encode())
        for item in value:
            feed(found, item)
    elif isinstance(value, bytes):
        found.update(f"bytes {len(value)}\n".encode() + value)
    elif value is None or isinstance(value, bool | int | float | complex | str | np.generic | torch.dtype):
        found.update(f"{type(value).__name__} {value!r}\n".encode())
    else:
        raise TypeError(f"a {type(value).__name__} has no stable bytes here")


def shown(value: Any) -> str:
    """A value in a line, to be read where it differs."""
    import torch

    if isinstance(value, torch.Tensor):
        x = value.detach().double()
        about = f" mean {float(x.mean()):.17g} rms {float(x.square().mean().sqrt()):.17g}" if x.numel() else ""
        return f"{value.dtype} {tuple(value.shape)}{about}"
    if isinstance(value, np.ndarray):
        about = f" mean {float(value.mean()):.17g}" if value.size and value.dtype.kind in "buif" else ""
        return f"{value.dtype} {value.shape}{about}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in list(value.items())[:20]) + "}"
    return repr(value)[:2000]


def untimed(value: Any) -> Any:
    """What a JSON file or a checkpoint says, without how long it took and where it lies."""
    if isinstance(value, str):
        return value.replace(str(Path.cwd()), "HERE")
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if not (isinstance(k, str) and TIMINGS.search(k))}
    return [untimed(item) for item in value] if isinstance(value, list | tuple) else value


def frames(path: Path) -> list[np.ndarray]:
    """The pixels of a picture, or of all frames of an animation."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]


def files(folder: Path) -> Parts:
    """What lies in a folder, file by file; of models and checkpoints tensor by tensor."""
    found: Parts = {}
    paths = sorted(
        p for p in folder.rglob("*") if p.is_file() and "student" not in p.parts and not p.name.startswith(".lock")
    )
    found["files"] = [str(p.relative_to(folder)) for p in paths]
    for path in paths:
        if path.name != "pace.jsonl":
            found |= {f"{path.relative_to(folder)}{key}": value for key, value in content(path).items()}
    return found


def content(path: Path) -> Parts:
    """What is in a file, by names that follow its own."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {f" {name}": tensors[name] for name in sorted(tensors)} | {" names": sorted(tensors)}
    if path.suffix == ".pt":
        return {f" {key}": value for key, value in untimed(torch.load(path, weights_only=True)).items()}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {f" {key}": arrays[key] for key in arrays.files}
    if path.suffix == ".npy":
        return {"": np.load(path)}
    if path.suffix in (".png", ".gif"):
        return {"": frames(path)}
    if path.suffix == ".json":
        loaded = untimed(json.loads(path.read_text(encoding="utf-8")))
        return {f" {key}": value for key, value in loaded.items()} if isinstance(loaded, dict) else {"": loaded}
    if path.suffix == ".jsonl":
        return {"": [untimed(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]}
    return {"": path.read_bytes()}


# The command line.


def command(*args: str, script: str | None = None) -> str:
    """Run ``python -m ncsn`` with these arguments, or a script of the tree; what it prints, without times."""
    start = ["-m", "ncsn"] if script is None else [str(Path(os.environ["GUARDS_TREE"]) / script)]
    done = subprocess.run([sys.executable, *start, *args], capture_output=True, text=True, timeout=LONGEST)
    if done.returncode:
        lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"status {done.returncode}")
    masked = re.sub(r"\d[\d.,]* (s|samples/s|images/s|seconds)\b", r"… \1", done.stdout)
    return re.sub(r", … s$", "", masked, flags=re.MULTILINE)


def array_of(*args: str) -> Parts:
    """The array that ``ncsn sample`` writes, and what it says."""
    said = command("sample", *args, "--out", "x.npz")
    return {key.strip(): value for key, value in content(Path("x.npz")).items()} | {"said": said}


# Scores that are known exactly.


def score_of_three(x: Any, sigma: Any) -> Any:
    """The score of a mixture of three Gaussians in the plane, of unequal weights and standard deviations."""
    import torch

    means = torch.tensor([[-3.0, -2.0], [2.5, 1.0], [0.5, 4.0]]).to(x)
    weights, stds = torch.tensor([0.2, 0.5, 0.3]).to(x), torch.tensor([0.3, 0.7, 1.1]).to(x)
    level = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x))[:, None]
    variance = stds**2 + level**2
    offsets = means - x[:, None]
    logits = weights.log() - offsets.square().sum(-1) / (2 * variance) - variance.log()
    return ((logits.softmax(1) / variance)[..., None] * offsets).sum(1)


def mixture() -> Any:
    """A mixture of three Gaussians of the package, of unequal weights."""
    import torch

    import ncsn

    means = torch.tensor([[-3.0, -2.0], [2.5, 1.0], [0.5, 4.0]])
    return ncsn.GaussianMixture(means, 0.6, torch.tensor([0.2, 0.5, 0.3]))


def seeded(seed: int) -> Any:
    """A generator with this seed."""
    import torch

    return torch.Generator().manual_seed(seed)


def sampler_probe(name: str) -> Callable[[], Parts]:
    """All states of a sampler, with two seeds and two scores; what its row in the table says."""

    def run() -> Parts:
        import torch

        import ncsn

        method = ncsn.METHODS[name]
        ladder = str(getattr(method.ladder, "__name__", method.ladder)).lower()
        parts: Parts = {
            "row": [ladder, method.levels, method.steps, method.langevin, method.guided_from, method.restarts],
            "numbers": [method.suited(n, 0.003) for n in (5, 50)],
        }
        sampling = ncsn.Sampling(
            sigma_max=8.0, sigma_min=0.05, sampler=name, levels=1 if name == "langevin" else 12, steps=3, eps=0.001
        )
        parts["ladder"] = sampling.ladder()
        parts["counts"] = [sampling.count, sampling.states, sampling.nfe, sampling.evaluations, sampling.guided_nfe]
        descents = {"": sampling, " usual": sampling.but(sampler=name)}
        if name not in ("annealed", "langevin"):
            descents |= {" wide": sampling.but(levels=3 if name == "consistent" else 7)}
        if name == "euler":
            descents |= {" restarts": sampling.but(levels=(8.0, 4.0, 2.0, 3.0, 1.0, 0.4, 0.6, 0.05))}
        for what, chosen in descents.items():
            for seed in (0, 7):
                for kind, score in (("own", score_of_three), ("mixture", mixture())):
                    generator = seeded(seed)
                    x = chosen.start(torch.full((1, 2), 0.25), 48, generator=generator)
                    states = list(chosen.follow(score, x, generator=generator))
                    key = f"{kind} {seed}{what}"
                    parts |= {f"{key} x": torch.stack([state.x for state in states]), f"{key} start": x}
                    parts[f"{key} sigma"] = [state.sigma for state in states]
        return parts

    return run


for known in SAMPLERS:
    PROBES[f"sampler-{known}"] = sampler_probe(known)


@probe("samplers-names")
def samplers_names() -> Parts:
    """The names in the table, in their order."""
    import ncsn

    return {"names": list(ncsn.METHODS)}


@probe("samplers-functions")
def samplers_functions() -> Parts:
    """The functions, with other options than usual."""
    import torch

    import ncsn

    ladder = ncsn.Geometric(8.0, 0.1, 14).sigmas()
    karras = ncsn.Karras(8.0, 0.05, 11, rho=5.0).sigmas()
    shares: dict[str, Callable[[Any, Any], Any]] = {
        "annealed": lambda x, g: ncsn.annealed_langevin(score_of_three, x, ladder, eps=0.03, steps=4, generator=g),
        "annealed raw": lambda x, g: ncsn.annealed_langevin(
            score_of_three, x, ladder, eps=0.002, steps=1, denoise=False, generator=g
        ),
        "consistent": lambda x, g: ncsn.consistent_annealed(score_of_three, x, ladder, eta=0.7, generator=g),
        "consistent all": lambda x, g: ncsn.consistent_annealed(
            score_of_three, x, ladder, eta=1.0, denoise=False, generator=g
        ),
        "langevin": lambda x, g: ncsn.langevin(score_of_three, x, 0.3, step_size=0.05, steps=9, generator=g),
        "langevin raw": lambda x, g: ncsn.langevin(
            score_of_three, x, torch.tensor(0.5), step_size=0.2, steps=5, denoise=False, generator=g
        ),
        "pc": lambda x, g: ncsn.predictor_corrector(score_of_three, x, ladder, snr=0.3, corrections=3, generator=g),
        "pc none": lambda x, g: ncsn.predictor_corrector(
            score_of_three, x, ladder, corrections=0, denoise=False, generator=g
        ),
        "heun": lambda x, g: ncsn.heun(score_of_three, x, karras, denoise=False),
        "euler": lambda x, g: ncsn.euler(score_of_three, x, karras, denoise=False, generator=g),
        "edm": lambda x, g: ncsn.edm(score_of_three, x, karras, churn=3.0, generator=g),
        "edm range": lambda x, g: ncsn.edm(
            score_of_three, x, karras, churn=30.0, churn_range=(0.2, 3.0), denoise=False, generator=g
        ),
        "dpm": lambda x, g: ncsn.dpm_solver(score_of_three, x, karras, stochasticity=0.4, generator=g),
        "dpm few": lambda x, g: ncsn.dpm_solver(
            score_of_three, x, karras, stochasticity=1.5, last_extrapolation=0.1, denoise=False, generator=g
        ),
        "dpm ode": lambda x, g: ncsn.dpm_solver(score_of_three, x, karras, last_extrapolation=0.5),
    }
    parts: Parts = {}
    for seed in (0, 7):
        for name, follow in shares.items():
            generator = seeded(seed)
            x = 8 * torch.randn(40, 2, generator=generator)
            states = list(follow(x, generator))
            parts[f"{name} {seed}"] = torch.stack([state.x for state in states])
            parts[f"{name} {seed} sigma"] = [state.sigma for state in states]
    wrong: dict[str, Callable[[], Any]] = {
        "eps": lambda: list(ncsn.annealed_langevin(score_of_three, x, ladder, eps=1.0, steps=1)),
        "eta": lambda: list(ncsn.consistent_annealed(score_of_three, x, ladder, eta=0.01)),
        "rising": lambda: list(ncsn.heun(score_of_three, x, ladder.flip(0))),
        "churn": lambda: list(ncsn.edm(score_of_three, x, ladder, churn=-1.0)),
    }
    for name, call in wrong.items():
        parts[f"{name} error"] = error_of(call)
    return parts


def error_of(call: Callable[[], Any]) -> str:
    """What a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# The run in the package.


@probe("sample-mnist")
def sample_mnist() -> Parts:
    """``ncsn sample``, as usual."""
    return array_of("mnist", "-n", "64", "--seed", "0")


@probe("sample-annealed")
def sample_annealed() -> Parts:
    """By annealed Langevin dynamics, on few levels."""
    return array_of("mnist", "-n", "4", "--sampler", "annealed", "--levels", "6", "--steps", "2", "--seed", "3")


@probe("sample-class")
def sample_class() -> Parts:
    """Of one class; without a guide; and both."""
    few = ["mnist", "-n", "5", "--levels", "6"]
    calls = {
        "class": ["--class", "3"],
        "guidance 1": ["--guidance", "1"],
        "none": ["--class", "none", "--sampler", "pc"],
        "both": ["--class", "8", "--guidance", "3", "--guide", "unconditional", "--batch-size", "2"],
    }
    parts: Parts = {}
    for name, args in calls.items():
        out = Path(f"{name.replace(' ', '-')}.npy")
        parts[f"{name} said"] = command("sample", *few, *args, "--out", str(out))
        parts[name] = np.load(out)
    return parts


@probe("sample-pictures")
def sample_pictures() -> Parts:
    """A grid, an animation and a folder of pictures."""
    few = ["mnist", "-n", "4", "--levels", "4", "--seed", "5"]
    said = [command("sample", *few, "--out", name) for name in ("grid.png", "way.gif", "folder")]
    return {"said": said} | files(Path())


@probe("run-mnist")
def run_mnist() -> Parts:
    """``ncsn.load('mnist')``: what it is, its score, and its samples by several samplers."""
    import torch

    import ncsn

    run = ncsn.load("mnist", device="cpu")
    x, sigma = torch.rand(3, 1, 28, 28, generator=seeded(1)), torch.tensor([0.02, 0.5, 6.0])
    label = torch.tensor([2, -1, 9])
    recipe, sampling = run.recipe, run.recipe.sampling
    parts: Parts = {
        "digest": run.digest,
        "parameters": run.parameters,
        "recipe": [recipe.network, recipe.shape, recipe.preconditioning, dict(recipe.shares)],
        "sampling": [getattr(sampling, name) for name in ("sampler", "levels", "steps", "eps", "guidance", "guide")],
        "ladder": sampling.ladder(),
        "weights": dict(run.model.state_dict()),
        "score": run.score(x, sigma),
        "score of classes": run.model(x, sigma, label),
        "score at one": run.model(x, 0.3),
        "guided": ncsn.guided(lambda x, sigma: run.model(x, sigma, label), run.model, 2.0)(x, sigma),
        "mean": run.means(None),
        "means": run.means(torch.tensor([1, 1, 7])),
        "walk": run.walk(1, 3, seed=2),
    }
    ways: dict[str, dict[str, Any]] = {
        "heun": {"levels": 4, "label": 3, "guidance": 1.0},
        "dpmpp": {"levels": 5, "label": "any", "guidance": 2.5},
        "consistent": {"levels": 8, "label": "none"},
        "edm": {"levels": 5, "label": torch.tensor([1, 2])},
        "euler": {"levels": (10.0, 3.0, 1.0, 1.5, 0.3, 0.01)},
        "langevin": {"steps": 4, "start": x[:2]},
    }
    for sampler, how in ways.items():
        parts[sampler] = [[step.sigma, step.x] for step in run.steps(2, seed=6, sampler=sampler, **how)]
    return parts


@probe("run-saved")
def run_saved() -> Parts:
    """A run that is saved, and loaded again."""
    import ncsn

    ncsn.load("mnist", device="cpu").save("saved")
    again = ncsn.load("saved", device="cpu")
    return files(Path("saved")) | {"digest": again.digest, "sample": again.sample(2, levels=4, seed=1)}


@probe("posterior-mnist")
def posterior_mnist() -> Parts:
    """Posteriors of the run in the package."""
    import torch

    import ncsn

    run = ncsn.load("mnist", device="cpu")
    truth = ncsn.load_images("mnist").test[3].float()[None] / 256
    half = truth[0, :, :, :14]
    known = torch.zeros(1, 28, 28, dtype=torch.bool)
    known[..., :14] = True
    return {
        "half": run.posterior(lambda x: x[..., :14], half, noise_std=0.05).sample(2, levels=5, seed=1),
        "solver": run.posterior(lambda x: x[..., :14], half, noise_std=0.2, solver_steps=1).sample(
            2, levels=4, seed=2, sampler="heun"
        ),
        "weighed": run.posterior(
            lambda x: torch.nn.functional.avg_pool2d(x, 7),
            torch.nn.functional.avg_pool2d(truth, 7)[0],
            noise_std=torch.linspace(0.05, 0.3, 4),
        ).sample(2, levels=4, seed=3, label=5),
        "replacement": run.replacement(known, truth[0]).sample(2, levels=5, steps=1, seed=4),
    }


@probe("posterior-exact")
def posterior_exact() -> Parts:
    """Posteriors of an exact mixture."""
    import torch

    import ncsn

    sampling = ncsn.Sampling(sigma_max=8.0, sigma_min=0.05, sampler="dpmpp-sde", levels=14, steps=2, eps=0.001)
    annealed = sampling.but(sampler="annealed", levels=9)
    y = torch.linspace(-1, 1, 20)[:, None]
    scores = {
        "posterior": ncsn.posterior(mixture(), lambda x: x[:, :1], y, 0.3),
        "solver": ncsn.posterior(score_of_three, lambda x: x.sum(1, keepdim=True), y, 0.1, steps=1),
    }
    parts: Parts = {}
    x = torch.randn(20, 2, generator=seeded(0))
    for name, score in scores.items():
        generator = seeded(7)
        start = sampling.start(torch.zeros(1, 2), 20, generator=generator)
        parts[name] = torch.stack([step.x for step in sampling.follow(score, start, generator=generator)])
        parts[f"{name} value"] = [score(x, 0.4), score(x, torch.linspace(0.1, 3, 20))]
    generator = seeded(8)
    known = torch.tensor([True, False])
    filled = ncsn.replacement(mixture(), known, torch.cat([y, y], 1), generator=generator)
    start = annealed.start(torch.zeros(1, 2), 20, generator=generator)
    parts["replacement"] = torch.stack([step.x for step in annealed.follow(filled, start, generator=generator)])
    return parts


def solve_probe(name: str, *args: str) -> Callable[[], Parts]:
    """A command for inverse problems: the pixels of its picture, and its numbers."""

    def run() -> Parts:
        said = command(name, "mnist", "-n", "2", "--levels", "4", "--out", "p.png", *args)
        return {"picture": frames(Path("p.png")), "said": said}

    return run


PROBES["command-inpaint"] = solve_probe("inpaint", "--hide", "right", "--seed", "2")
PROBES["command-replacement"] = solve_probe("inpaint", "--method", "replacement", "--input", "4")
PROBES["command-superres"] = solve_probe("superres", "--factor", "7")
PROBES["command-deblur"] = solve_probe("deblur", "--blur", "1.5", "--solver-steps", "2")
PROBES["command-denoise"] = solve_probe("denoise", "--noise", "0.3", "--input", "11")


@probe("command-input")
def command_input() -> Parts:
    """An inverse problem of an image file of another size, and of a measurement."""
    from PIL import Image

    rng = np.random.default_rng(5)
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save("in.png")
    Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8)).save("small.png")
    few = ["mnist", "-n", "2", "--levels", "3"]
    said = [
        command("inpaint", *few, "--hide", "centre", "--input", "in.png", "--out", "a.png"),
        command("superres", *few, "--measured", "--input", "small.png", "--out", "b.png"),
    ]
    return {"said": said, "inpaint": frames(Path("a.png")), "superres": frames(Path("b.png"))}


@probe("command-interpolate")
def command_interpolate() -> Parts:
    """Walks between samples."""
    said = command("interpolate", "mnist", "-n", "2", "--steps", "4", "--levels", "3", "--out", "a.png")
    return {"said": said, "samples": frames(Path("a.png"))}


# Densities.


@probe("likelihood-exact")
def likelihood_exact() -> Parts:
    """Log densities of a mixture, by the flow and as they are."""
    import torch

    import ncsn

    x = 3 * torch.randn(12, 2, generator=seeded(2))
    flow = ncsn.log_prob(mixture(), x, sigma_max=60.0, sigma_min=0.05)
    probed = ncsn.log_prob(
        score_of_three, x, sigma_max=60.0, sigma_min=0.1, mean=0.5, probes=3, tolerance=1e-3, generator=seeded(3)
    )
    return {
        "flow": [flow.log_prob, flow.standard_error, flow.nfe],
        "probed": [probed.log_prob, probed.standard_error, probed.nfe],
        "bits": ncsn.bits_per_dimension(flow.log_prob, 2),
        "known": [mixture().log_prob(x, 0.05), mixture().log_prob(x, torch.linspace(0.1, 5, 12))],
    }


@probe("likelihood-mnist")
def likelihood_mnist() -> Parts:
    """Log densities of digits by the run in the package."""
    import ncsn

    run = ncsn.load("mnist", device="cpu")
    x = (ncsn.load_images("mnist").test[:4].float() + 0.5) / 256
    found = [*run.likelihoods(x, probes=2, tolerance=0.1, batch_size=3, seed=5)]
    other = run.log_prob(x[:2], sigma_min=0.05, probes=1, tolerance=0.1, seed=seeded(6))
    bits = ncsn.bits_per_dimension(found[0].log_prob, 784)
    return {"parts": [[part.log_prob, part.standard_error, part.nfe] for part in found], "seed": other, "bits": bits}


@probe("command-likelihood")
def command_likelihood() -> Parts:
    """``ncsn likelihood``."""
    said = command("likelihood", "mnist", "-n", "4", "--tolerance", "0.1", "--probes", "2", "--out", "l.json")
    return {"said": said} | files(Path())


@probe("command-evaluate")
def command_evaluate() -> Parts:
    """``ncsn evaluate``: its numbers, of a run's samples and of a file's."""
    few = ["-n", "200", "--features"]
    said = [
        command(
            "evaluate", "mnist", *few, "auto", "--sampler", "dpmpp", "--levels", "5", "--guidance", "1", "--out", "run"
        ),
        command("evaluate", "run/evaluation.npz", *few, "pixels", "--out", "file"),
    ]
    return {"said": said} | files(Path())


@probe("command-info")
def command_info() -> Parts:
    """``ncsn info``."""
    return {"said": command("info", "mnist")}


# Learning.


def table(n: int = 300) -> Any:
    """Five columns that depend on each other, in odd units."""
    import torch

    z = torch.randn(n, 5, generator=seeded(11))
    mixed = z @ torch.tensor(
        [
            [1.0, 0.5, 0.0, 0.2, 0.0],
            [0.0, 0.8, 0.3, 0.0, 0.1],
            [0.0, 0.0, 1.0, 0.6, 0.0],
            [0.0, 0.0, 0.0, 0.5, 0.9],
            [0.0, 0.0, 0.0, 0.0, 0.4],
        ]
    )
    return mixed * torch.tensor([1e3, 0.02, 5.0, 273.0, 1.0]) + torch.tensor([5e3, 0.1, -7.0, 0.0, 1e2])


@probe("fit-table")
def fit_table() -> Parts:
    """``ncsn.fit`` of a table."""
    import ncsn

    x = table()
    run = ncsn.fit(x, steps=50, seed=4, device="cpu")
    assert run.units is not None
    found = next(run.likelihoods(x[:5], tolerance=1e-2))
    posterior = run.posterior(lambda v: v[:, :1], x[0, :1], noise_std=10.0)
    run.save("table")
    return {
        "weights": dict(run.model.state_dict()),
        "units": [run.units.shift, run.units.scale],
        "sample": run.sample(20, seed=1),
        "way": [[step.sigma, step.x] for step in run.steps(6, seed=2, sampler="heun", levels=6)],
        "log_prob": [found.log_prob, found.standard_error, found.nfe],
        "posterior": posterior.sample(7, seed=3, levels=8),
        "digest": run.digest,
        "settings": dict(run.settings),
        "again": ncsn.load("table", device="cpu").sample(20, seed=1),
    } | files(Path("table"))


@probe("fit-images")
def fit_images() -> Parts:
    """``ncsn.fit`` of small images with classes, and with a network and an objective of one's own."""
    import torch

    import ncsn

    x = torch.randint(0, 256, (60, 1, 8, 8), generator=seeded(1), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    torch.manual_seed(9)
    own = ncsn.UNet(1, (4,), blocks=1, features=4)
    run = ncsn.fit(x, steps=6, labels=labels, network=ncsn.UNet(1, (4, 6), 1, 4, classes=3), seed=2, device="cpu")
    other = ncsn.fit(
        (x.float() + 0.5) / 256,
        steps=4,
        network=own,
        objective=ncsn.ssm,
        noise=ncsn.LogUniform(3.0, 0.02),
        sampler="heun",
        batch_size=8,
        device="cpu",
    )
    points = ncsn.fit(table(1200)[:, :2], steps=5, sampler="annealed", device="cpu")
    return {
        "weights": dict(run.model.state_dict()),
        "sample": run.sample(4, seed=1, levels=4, sampler="dpmpp"),
        "other": dict(other.model.state_dict()),
        "other sample": other.sample(2, seed=1),
        "points": dict(points.model.state_dict()),
        "points sample": points.sample(3, seed=1, levels=5),
    }


@probe("fit-usual")
def fit_usual() -> Parts:
    """``ncsn.fit`` of images by the usual U-Net: its rules, its target at high noise, its optimisers."""
    import ncsn

    pictures = ncsn.load_images("mnist")
    assert pictures.labels is not None
    run = ncsn.fit(
        pictures.train[:300], steps=3, labels=pictures.labels.train[:300], seed=3, device="cpu", batch_size=16
    )
    s = run.recipe.sampling
    return {
        "weights": dict(run.model.state_dict()),
        "sampling": [s.sigma_max, s.sigma_min, s.sampler, s.levels, s.steps, s.eps, s.guidance, s.guided_between],
        "sample": run.sample(2, seed=1, levels=3),
    }


@probe("train-own-loop")
def train_own_loop() -> Parts:
    """``ncsn.train`` with each objective and proposal, a checkpoint in between."""
    import torch

    import ncsn

    data = mixture().sample(500, generator=seeded(0))
    ways: dict[str, tuple[Any, Any]] = {
        "dsm": (ncsn.LogNormal(-0.5, 1.2, 10.0, 0.02), ncsn.dsm),
        "ssm": (ncsn.LogUniform(10.0, 0.02), ncsn.ssm),
        "exact": (ncsn.Geometric(10.0, 0.02, 9), ncsn.exact),
    }
    parts: Parts = {}
    for name, (noise, objective) in ways.items():
        torch.manual_seed(5)
        generator = seeded(6)
        state = ncsn.State(ncsn.ScoreModel(ncsn.MLP(2, 16, 2), data.mean(0), data.std()), generator=generator)
        loss = ncsn.training_loss(noise, objective, generator=generator)
        batches = ncsn.batches(data, 32, generator=generator)
        progress = ncsn.train(state, batches, loss, budget=ncsn.Budget(steps=12))
        parts[f"{name} losses"] = [[p.step, p.losses.detach().clone(), p.sigmas] for p in progress]
        parts[f"{name} model"] = dict(state.model.state_dict())
        parts[f"{name} average"] = dict(state.average.state_dict())
        state.save(Path(f"{name}.pt"))
    return parts | files(Path())


def train_probe(name: str, dataset: str, *args: str) -> None:
    """Add a probe of ``ncsn train``: all that it writes."""

    def run() -> Parts:
        said = command("train", dataset, "--steps", "12", *TINY, "--out", "run", *args)
        return {"said": said} | files(Path("run"))

    PROBES[f"train-{name}"] = run


train_probe("classes", "mnist", "--guidance", "1")
train_probe("guide", "mnist", "--no-classes", "--guidance", "1.25", "--levels", "5", "--flip", "--seed", "3")
train_probe(
    "chosen", "mnist", "--levels", "4", "--proposal", "loguniform", "--posterior-above", "1", "--accumulate", "2"
)


def refinenet_probe(network: str, *args: str) -> None:
    """Add a probe of a training of one of the papers' networks."""

    def run() -> Parts:
        pictures_in(np.random.default_rng(9), "data", numbered(60), (8, 8))
        few = ["--steps", "2", "--no-compile", "--channels", "4", "--batch-size", "4", "--guidance", "1"]
        rest = ["--samples", "1", "--sampler", "annealed", "--levels", "3", "--out", "run"]
        return {"said": command("train", "data", "--network", network, *few, *rest, *args)} | files(Path("run"))

    PROBES[f"train-{network}"] = run


refinenet_probe("refinenet", "--proposal", "geometric")
refinenet_probe("refinenet-v2", "--noise", "given", "--sigma-max", "5")


@probe("train-folder")
def train_folder() -> Parts:
    """A training on a folder of RGB images with classes, resumed; samples of it."""
    pictures_in(np.random.default_rng(8), "data", [f"{c}/{i}.png" for c in "ab" for i in range(60)], (12, 10, 3))
    few = ["data", *TINY, "--levels", "4", "--guidance", "1", "--out", "run"]
    said = [command("train", *few, "--steps", "6"), command("train", *few, "--steps", "10", "--resume")]
    said.append(command("sample", "run", "-n", "5", "--class", "b", "--out", "x.npz"))
    said.append(command("inpaint", "run", "-n", "2", "--levels", "3", "--out", "p.png"))
    return {"said": said, "picture": frames(Path("p.png"))} | files(Path("run")) | content(Path("x.npz"))


def toy_probe(generator: str, *args: str) -> None:
    """Add a probe of ``training_toy.py``: all that it writes."""

    def run() -> Parts:
        few = ["--steps", "20", "--width", "16", "--batch-size", "64", "--levels", "5", "--langevin-steps", "3"]
        given = ["--generator", generator, *few, "--samples", "200", "--out", "toy", *args]
        return {"said": command(*given, script="training_toy.py")} | files(Path("toy"))

    PROBES[f"toy-{generator}"] = run


toy_probe("circle")
toy_probe("gaussian")
toy_probe("moons", "--objective", "ssm", "--seed", "2")


# Networks, objectives, noise.


def network_parts(network: Any, x: Any, *label: Any) -> Parts:
    """A network's first weights; its value and its gradients with others, for many begin with a last layer of zeros."""
    import torch

    names = list(network.state_dict())
    parts: Parts = {"names": names, "first": dict(network.state_dict())}
    generator = seeded(4)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    c = torch.linspace(-1, 0.8, len(x))
    value = network(x, c, *label)
    value.square().mean().backward()
    parts["value"] = value
    parts["common"] = network(x, c[:1], *label)
    parts["gradients"] = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return parts


@probe("networks")
def networks() -> Parts:
    """The four networks: weights, values and gradients."""
    import torch

    import ncsn

    def built(make: Callable[[], Any]) -> Any:
        torch.manual_seed(3)
        return make()

    grey, points = torch.rand(3, 1, 12, 16, generator=seeded(1)), torch.randn(3, 4, generator=seeded(2))
    colours, odd = torch.rand(2, 3, 14, 10, generator=seeded(3)), torch.rand(2, 1, 7, 9, generator=seeded(5))
    label = torch.tensor([0, -1, 2])
    made = {
        "MLP": network_parts(built(lambda: ncsn.MLP(4, width=24, layers=2)), points),
        "UNet": network_parts(built(lambda: ncsn.UNet(1, (8, 12), blocks=1, features=6)), grey),
        "UNet classes": network_parts(built(lambda: ncsn.UNet(1, (8, 12), 2, 8, classes=3)), grey, label),
        "UNet colours": network_parts(built(lambda: ncsn.UNet(3, (4, 6, 8))), colours),
        "UNet odd": network_parts(built(lambda: ncsn.UNet(1, (4, 6, 8), blocks=1)), odd),
        "NCSN": network_parts(built(lambda: ncsn.NCSN(1, width=4, sigmas=(2.0, 1.0, 0.3))), grey),
        "NCSN features": network_parts(built(lambda: ncsn.NCSN(3, width=4, features=8, rescale=False)), colours),
        "NCSNv2": network_parts(built(lambda: ncsn.NCSNv2(1, width=4)), grey),
    }
    usual = {name: list(built(make).state_dict()) for name, make in (("UNet", ncsn.UNet), ("NCSNv2", ncsn.NCSNv2))}
    return {f"{name} {key}": value for name, parts in made.items() for key, value in parts.items()} | {"usual": usual}


@probe("objectives")
def objectives() -> Parts:
    """What each objective says of an exact score and of a network, with and without classes."""
    import torch

    import ncsn

    x = mixture().sample(24, generator=seeded(1))
    sigma = torch.logspace(-1.5, 1, 24)
    torch.manual_seed(3)
    model = ncsn.ScoreModel(ncsn.MLP(2, 16, 2), x.mean(0), x.std())
    truth, label = mixture(), torch.arange(24) % 4 - 1
    data = ncsn.Empirical(x, torch.arange(24) % 3)

    def labelled(x: Any, sigma: Any, label: Any) -> Any:
        return truth(x, sigma) * (1 + label[:, None] / 10)

    parts: Parts = {}
    scores: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("exact score", score_of_three, {}),
        ("model", model, {}),
        ("labelled", labelled, {"label": label}),
    )
    for name, score, given in scores:
        parts[f"dsm {name}"] = ncsn.dsm(score, x, sigma, generator=seeded(2), **given)
        parts[f"ssm {name}"] = ncsn.ssm(score, x, sigma, generator=seeded(3), **given)
        parts[f"exact {name}"] = ncsn.exact(score, x, sigma, generator=seeded(4), **given)
        parts[f"posterior_dsm {name}"] = ncsn.posterior_dsm(
            score, x, sigma, data_score=data, above=0.7, generator=seeded(5), **given
        )
    parts["fisher"] = ncsn.fisher(score_of_three, truth, x, sigma)
    parts["weight"] = model.residual_weight(sigma)
    loss = ncsn.training_loss(ncsn.LogUniform(9.0, 0.1), generator=seeded(6))
    parts["training_loss"] = list(loss(model, ncsn.Batch(x)))
    parts["tweedie"] = ncsn.tweedie(truth, x, sigma)
    parts["guided"] = ncsn.guided(truth, score_of_three, 1.7, between=(0.2, 2.0))(x, sigma)
    return parts


@probe("noise")
def noise() -> Parts:
    """Ladders, proposals and suggestions."""
    import torch

    import ncsn

    found = ncsn.suggest_noise(table())
    pixels = ncsn.suggest_noise(torch.rand(30, 1, 8, 8, generator=seeded(4)), sigma_min=0.02, steps=3)
    return {
        "Geometric": [ncsn.Geometric(10.0, 0.01, n).sigmas() for n in (1, 2, 30)],
        "Karras": [ncsn.Karras(10.0, 0.01, n, rho).sigmas() for n in (1, 2, 30) for rho in (7.0, 3.0)],
        "samples": [
            proposal.sample(100, generator=seeded(7))
            for proposal in (
                ncsn.Geometric(10.0, 0.01, 12),
                ncsn.LogNormal(-0.4, 1.2, 10.0, 0.01),
                ncsn.LogUniform(10.0, 0.01),
            )
        ],
        "table": [found.noise.sigmas(), found.noise.levels, found.steps, found.eps],
        "table said": found.explanation,
        "pixels": [pixels.noise.sigmas(), pixels.noise.levels, pixels.steps, pixels.eps],
    }


@probe("distributions")
def distributions() -> Parts:
    """Mixture, ring and data set: draws, densities and scores."""
    import torch

    import ncsn

    x = 4 * torch.randn(15, 2, generator=seeded(1))
    sigma = torch.logspace(-1, 1, 15)
    parts: Parts = {}
    made: dict[str, Any] = {
        "mixture": mixture(),
        "ring": ncsn.Ring(5.0, 0.2),
        "empirical": ncsn.Empirical(table()[:, :2] / 1000),
        "half": ncsn.Empirical(table()[:, :2] / 1000, dtype=torch.bfloat16),
    }
    for name, truth in made.items():
        parts[f"{name} sample"] = truth.sample(30, generator=seeded(2))
        parts[f"{name} log_prob"] = [truth.log_prob(x, 0.5), truth.log_prob(x, sigma)]
        parts[f"{name} score"] = [truth(x, 0.5), truth(x, sigma), truth(x.double(), 0.5)]
    return parts


@probe("adapters")
def adapters() -> Parts:
    """Others' models as scores."""
    import torch

    import ncsn

    x, sigma = torch.randn(9, 2, generator=seeded(1)), torch.logspace(-2, 1.3, 9)

    def network(x: Any, t: Any) -> Any:
        return (x * 1.5 + t[:, None]).sin()

    alphas = torch.linspace(1.0, 0.001, 200)[1:]
    scores: dict[str, Any] = {
        "denoiser": ncsn.from_denoiser(network),
        "noise": ncsn.from_noise_predictor(network),
        "flow": ncsn.from_flow(network),
        "epsilon": ncsn.from_variance_preserving(network, alphas),
        "v": ncsn.from_variance_preserving(network, alphas, prediction_type="v_prediction"),
        "sample": ncsn.from_variance_preserving(network, alphas, prediction_type="sample"),
    }
    return {name: [score(x, sigma), score(x, 0.7)] for name, score in scores.items()}


# Data sets.


def saved(image: Any, path: str, **options: Any) -> None:
    """Write an image of Pillow's into a file, and the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def pictures_in(
    rng: np.random.Generator, top: str, names: Sequence[str], shape: tuple[int, ...], mode: str | None = None
) -> str:
    """Image files of random bytes below a folder, which is returned."""
    from PIL import Image

    for name in names:
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        saved(image if mode is None else image.convert(mode), f"{top}/{name}")
    return top


def numbered(n: int, suffix: str = "png", folder: str = "") -> list[str]:
    """Names of files."""
    return [f"{folder}{i:02}.{suffix}" for i in range(n)]


@data_set("grey")
def grey(rng: np.random.Generator) -> str:
    """Grey PNG files."""
    return pictures_in(rng, "grey", numbered(20), (9, 7))


@data_set("rgb")
def rgb(rng: np.random.Generator) -> str:
    """RGB PNG files."""
    return pictures_in(rng, "rgb", numbered(20), (6, 8, 3))


@data_set("rgb-all-grey")
def rgb_all_grey(rng: np.random.Generator) -> str:
    """RGB files without colour."""
    return pictures_in(rng, "plain", numbered(20), (6, 8), "RGB")


@data_set("rgba-white")
def rgba_white(rng: np.random.Generator) -> str:
    """Transparent pixels, on white."""
    return pictures_in(rng, "rgba", numbered(20), (6, 8, 4))


@data_set("rgba-colour", background="#204060")
def rgba_colour(rng: np.random.Generator) -> str:
    """Transparent pixels, on a colour."""
    return pictures_in(rng, "rgba", numbered(20), (6, 8, 4))


@data_set("grey-alpha-black", background="black")
def grey_alpha(rng: np.random.Generator) -> str:
    """Grey files with transparent pixels."""
    return pictures_in(rng, "la", numbered(20), (6, 8, 4), "LA")


@data_set("palette")
def palette(rng: np.random.Generator) -> str:
    """Palettes, half of them with a transparent colour."""
    from PIL import Image

    for name in numbered(20):
        image = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8), "P")
        image.putpalette(rng.integers(0, 256, 768, np.uint8).tolist())
        saved(image, f"palette/{name}", **({"transparency": 3} if int(name[:2]) % 2 else {}))
    return "palette"


@data_set("sixteen-bit")
def sixteen_bit(rng: np.random.Generator) -> str:
    """Grey PNG files of 16 bits."""
    from PIL import Image

    for name in numbered(20):
        saved(Image.fromarray(rng.integers(0, 65536, (6, 5), np.uint16)), f"deep/{name}")
    return "deep"


@data_set("sixteen-and-eight-bit")
def mixed_depths(rng: np.random.Generator) -> str:
    """PNG files of 16 and of 8 bits, and a grey one among colours."""
    from PIL import Image

    pictures_in(rng, "both", numbered(12, folder="a"), (6, 5))
    for name in numbered(12, folder="b"):
        saved(Image.fromarray(rng.integers(0, 65536, (6, 5), np.uint16)), f"both/{name}")
    return "both"


@data_set("one-bit")
def one_bit(rng: np.random.Generator) -> str:
    """PNG files of one bit."""
    from PIL import Image

    for name in numbered(20):
        saved(Image.fromarray(rng.integers(0, 2, (8, 9), np.uint8) * 255).convert("1"), f"bits/{name}")
    return "bits"


@data_set("tiff-float")
def tiff_float(rng: np.random.Generator) -> str:
    """TIFF files of floats."""
    from PIL import Image

    for name in numbered(20, "tif"):
        saved(Image.fromarray(rng.normal(3, 2, (6, 5)).astype(np.float32)), f"floats/{name}")
    return "floats"


@data_set("exif", size="8x10")
def exif(rng: np.random.Generator) -> str:
    """JPEG, PNG and TIFF files that are to be turned."""
    from PIL import Image

    for i in range(24):
        image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        about = Image.Exif()
        about[0x0112] = i % 8 + 1
        saved(image, f"turned/{i:02}.{('jpg', 'png', 'tif')[i // 8]}", exif=about)
    return "turned"


@data_set("formats")
def formats(rng: np.random.Generator) -> str:
    """Many formats: JPEG grey and CMYK, BMP, GIF with frames, WebP, PPM, PGM."""
    from PIL import Image

    def image(*shape: int) -> Any:
        return Image.fromarray(rng.integers(0, 256, shape, np.uint8))

    for i in range(3):
        saved(image(8, 8), f"many/{i}.jpg", quality=90)
        saved(image(8, 8, 4).convert("CMYK"), f"many/c{i}.jpeg", quality=80)
        saved(image(8, 8, 3), f"many/{i}.bmp")
        saved(image(8, 8), f"many/{i}.gif", save_all=True, append_images=[image(8, 8)])
        saved(image(8, 8, 3), f"many/{i}.webp", lossless=True)
        saved(image(8, 8, 3), f"many/{i}.ppm")
        saved(image(8, 8), f"many/{i}.pgm")
    return "many"


def unequal(rng: np.random.Generator) -> str:
    """Images of unequal sizes, some grey, some transparent."""
    for i in range(20):
        shape = (int(rng.integers(5, 20)), int(rng.integers(5, 20)), *((), (3,), (4,))[i % 3])
        pictures_in(rng, "sizes", [f"{i:02}.png"], shape)
    return "sizes"


for what, options in {
    "": {},
    "-crop": {"size": "8"},
    "-pad": {"size": "6x10", "fit": "pad"},
    "-pad-colour": {"size": "9", "fit": "pad", "background": "#ff8800"},
    "-stretch": {"size": "12x7", "fit": "stretch", "background": "black"},
}.items():
    SETS[f"unequal{what}"] = unequal, options


@data_set("classes")
def classes(rng: np.random.Generator) -> str:
    """Folders that are classes, of unequal numbers."""
    names = [f"{c}/{i}.png" for c, n in (("cat", 14), ("dog", 9), ("élan", 5)) for i in range(n)]
    return pictures_in(rng, "zoo", names, (6, 6))


@data_set("parts")
def parts_of(rng: np.random.Generator) -> str:
    """Folders for training and testing, with classes in them."""
    names = [f"{p}/{c}/{i}.png" for p, n in (("train", 12), ("Test", 4)) for c in "xy" for i in range(n)]
    return pictures_in(rng, "parts", [*names, "left-out.png"], (5, 6))


@data_set("parts-three")
def parts_three(rng: np.random.Generator) -> str:
    """Folders for all three parts, without classes."""
    names = [f"{p}/{i}.png" for p, n in (("training", 12), ("val", 3), ("test", 5)) for i in range(n)]
    return pictures_in(rng, "three", names, (5, 6))


@data_set("nested")
def nested(rng: np.random.Generator) -> str:
    """Folders in folders, with hidden ones and other files beside."""
    pictures_in(rng, "nested", [f"all/of/them/{i // 7}/{i % 7}/{i}.png" for i in range(24)], (6, 5))
    pictures_in(rng, "nested", [".hidden/1.png", "__MACOSX/2.png"], (6, 5))
    Path("nested/read.txt").write_text("no image", encoding="utf-8")
    return "nested"


@data_set("nested-loose")
def nested_loose(rng: np.random.Generator) -> str:
    """Folders that are no classes, for some images are in none."""
    return pictures_in(rng, "loose", [*numbered(6), *(f"a/{i}.png" for i in range(9)), "b/1.png", "b/2.png"], (6, 5))


@data_set("broken", max_broken=2)
def broken(rng: np.random.Generator) -> str:
    """Two files that are cut short."""
    pictures_in(rng, "broken", numbered(20), (9, 9))
    for name in ("04", "11"):
        path = Path(f"broken/{name}.png")
        path.write_bytes(path.read_bytes()[:60])
    return "broken"


@data_set("tiny")
def tiny(rng: np.random.Generator) -> str:
    """As few as there may be."""
    return pictures_in(rng, "ten", numbered(10), (4, 4))


@data_set("too-few")
def too_few(rng: np.random.Generator) -> str:
    """One less."""
    return pictures_in(rng, "nine", numbered(9), (4, 4))


def array_set(name: str, make: Callable[[np.random.Generator], np.ndarray], **reading: Any) -> None:
    """Add a data set in an .npy."""

    def written(rng: np.random.Generator) -> str:
        np.save(f"{name}.npy", make(rng))
        return f"{name}.npy"

    SETS[f"npy-{name}"] = written, reading


array_set("bytes", lambda rng: rng.integers(0, 256, (30, 7, 6), np.uint8))
array_set("bytes-last", lambda rng: rng.integers(0, 256, (30, 7, 6, 3), np.uint8))
array_set("bytes-first", lambda rng: rng.integers(0, 256, (30, 3, 7, 6), np.uint8))
array_set("bytes-size", lambda rng: rng.integers(0, 256, (30, 7, 6, 3), np.uint8), size="5", fit="pad")
array_set("five-channels", lambda rng: rng.integers(0, 256, (25, 7, 6, 5), np.uint8))
array_set("wide-bytes", lambda rng: rng.integers(0, 256, (30, 7, 6), np.int64))
array_set("bool", lambda rng: rng.integers(0, 2, (30, 7, 6)).astype(bool))
array_set("unit", lambda rng: rng.random((30, 7, 6), np.float32))
array_set("unit-size", lambda rng: rng.random((30, 7, 6, 3), np.float32), size="4x3")
array_set("range", lambda rng: rng.normal(-2, 5, (30, 7, 6)).astype(np.float32))
array_set("float64", lambda rng: rng.random((30, 7, 6, 3)) * 255)
array_set("half", lambda rng: (rng.random((30, 7, 6)) * 2 - 1).astype(np.float16))
array_set("uint16", lambda rng: rng.integers(0, 4096, (30, 7, 6), np.uint16))
array_set("int16", lambda rng: rng.integers(-500, 900, (30, 7, 6, 1)).astype(">i2"))
array_set("fortran", lambda rng: np.asfortranarray(rng.integers(0, 256, (30, 7, 6), np.uint8)))
array_set("nan", lambda rng: np.where(rng.random((30, 7, 6)) < 0.001, np.nan, 0.5).astype(np.float32))


@data_set("npz-parts")
def npz_parts(rng: np.random.Generator) -> str:
    """Arrays for two parts, with labels."""
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (40, 6, 6), np.uint8),
        "y_train": rng.integers(0, 4, 40) * 3,
        "x_test": rng.integers(0, 256, (11, 6, 6), np.uint8),
        "y_test": rng.integers(0, 4, 11) * 3,
        "about": np.arange(3),
    }
    np.savez("parts.npz", **arrays)
    return "parts.npz"


@data_set("npz-names")
def npz_names(rng: np.random.Generator) -> str:
    """Images with labels that are words, compressed."""
    words = np.array(["red", "green", "blue"])[rng.integers(0, 3, 33)]
    np.savez_compressed("words.npz", images=rng.random((33, 6, 6, 3)), labels=words)
    return "words.npz"


@data_set("zip-classes")
def zip_classes(rng: np.random.Generator) -> str:
    """A zip archive of folders that are classes."""
    names = [f"digits/{c}/{i}.png" for c in "ab" for i in range(15)]
    pictures_in(rng, "inside", names, (7, 7))
    with zipfile.ZipFile("zoo.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(names):
            archive.write(f"inside/{name}", name)
    return "zoo.zip"


def tarred(rng: np.random.Generator, name: str, mode: str) -> str:
    """A tar archive of folders for training and testing."""
    names = [f"{p}/{c}/{i}.png" for p, n in (("train", 12), ("test", 4)) for c in "ab" for i in range(n)]
    pictures_in(rng, "inside", names, (7, 7, 3))
    with tarfile.open(name, mode) as archive:  # type: ignore[call-overload]
        for inside in names:
            archive.add(f"inside/{inside}", inside)
    return name


SETS["tar"] = (lambda rng: tarred(rng, "x.tar", "w"), {})
SETS["tar-gz"] = (lambda rng: tarred(rng, "x.tar.gz", "w:gz"), {"size": "6"})


@data_set("shards")
def shards(rng: np.random.Generator) -> str:
    """Shards in WebDataset's format, with classes."""
    from PIL import Image

    Path("shards").mkdir()
    for number in range(4):
        with tarfile.open(f"shards/x-{number:03}.tar", "w") as archive:
            for i in range(12):
                stream = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).save(stream, "PNG")
                for suffix, data in (("png", stream.getvalue()), ("cls", str(i % 3).encode())):
                    info = tarfile.TarInfo(f"{number:03}{i:03}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return "shards"


@data_set("mnist")
def mnist(rng: np.random.Generator) -> str:
    """The digits in the package."""
    return "mnist"


@data_set("mnist-small", size="9x14", fit="stretch")
def mnist_small(rng: np.random.Generator) -> str:
    """The same, smaller."""
    return "mnist"


@data_set("none")
def nothing(rng: np.random.Generator) -> str:
    """A path where there is nothing."""
    return "no-such-set"


def loaded(name: str, path: str, options: dict[str, Any]) -> Parts:
    """All that ``ncsn.load_images`` makes of a path, and batches of it; or its error."""
    import inspect

    import ncsn

    usual = inspect.signature(ncsn.load_images).parameters["reading"].default
    try:
        images = ncsn.load_images(path, reading=replace(usual, **options))
    except ValueError as error:
        return {"error": str(error)}
    labels, depth = images.labels, images.depth
    seed = 0
    parts: Parts = {
        "train": images.train,
        "validation": images.validation,
        "test": images.test,
        "labels": None
        if labels is None
        else [labels.train, labels.validation, labels.test, labels.train.bincount(minlength=len(labels.names))],
        "names": None if labels is None else [list(labels.names), labels.shares],
        "depth": [depth.dtype, depth.low, depth.high],
        "facts": [images.name, images.n, images.shape, images.digest, list(images.statistics)],
        "said": list(images.said),
        "describe": images.describe(),
        "restored": depth.restored(images.test[:2].float() / (256 if depth.dtype == "uint8" else 1)),
    }
    for flip in (False, True):
        known = None if labels is None or len(labels.train) != len(images.train) else labels.train
        drawn = ncsn.batches(images.train, 6, known, flip=flip, generator=seeded(seed))
        parts[f"batches {flip}"] = [list(next(drawn)) for _ in range(2)]
    return parts


def data_probe(name: str, make: Make, options: dict[str, Any]) -> Callable[[], Parts]:
    """A probe of a data set."""

    def run() -> Parts:
        path = make(np.random.default_rng(int.from_bytes(name.encode()[-6:], "big")))
        return loaded(name, path, options)

    return run


for known, (maker, options) in SETS.items():
    PROBES[f"data-{known}"] = data_probe(known, maker, options)


# Two interpreters, and what they say.


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a probe gave on one side: a sha256 for each part, and the part in a line; or an error."""

    seconds: float
    parts: dict[str, str]
    lines: dict[str, str]
    error: str | None = None


def worker(tree: Path) -> None:
    """Answer, in a fresh interpreter, every name of a probe that comes in."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    import torch

    import ncsn

    torch.set_num_threads(1)
    top = Path.cwd()
    assert Path(str(ncsn.__file__)).resolve().is_relative_to(tree.resolve()), f"{ncsn.__file__} is not in {tree}"
    for line in sys.stdin:
        name = line.strip()
        folder = top / name
        folder.mkdir()
        os.chdir(folder)
        answers.write(json.dumps(asdict(answered(PROBES[name]))) + "\n")
        answers.flush()
        os.chdir(top)


def answered(run: Callable[[], Parts]) -> Answer:
    """Run a probe."""
    import torch

    torch.manual_seed(1234)
    began, error, parts, lines = time.perf_counter(), None, {}, {}
    signal.signal(signal.SIGALRM, overdue)
    signal.alarm(LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run()
            assert torch.get_num_threads() == 1, "torch has more than one thread"
        parts = {key: fingerprint(value) for key, value in found.items()}
        lines = {key: shown(value) for key, value in found.items()}
    except Exception as problem:
        traceback.print_exc()
        error = traceback.format_exception_only(problem)[-1].strip()
    signal.alarm(0)
    return Answer(seconds=time.perf_counter() - began, parts=parts, lines=lines, error=error)


def overdue(number: int, frame: Any) -> None:
    """A probe takes too long."""
    raise TimeoutError(f"more than {LONGEST} s")


def environment(tree: Path, folder: Path) -> dict[str, str]:
    """What the interpreters of a tree are told: where the package is, one thread, caches of its own."""
    own = {
        "PYTHONPATH": str(tree / "src"),
        "GUARDS_TREE": str(tree),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONHASHSEED": "0",
        "MPLBACKEND": "agg",
        "TQDM_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **own, **dict.fromkeys(threads, "1")}


class Side:
    """An interpreter of one tree, started anew if it has ended."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree, self.folder = tree, folder
        self.process: subprocess.Popen[str] | None = None
        for part in ("work", "tmp"):
            (folder / part).mkdir(parents=True)

    def start(self) -> subprocess.Popen[str]:
        """The interpreter."""
        if self.process is None or self.process.poll() is not None:
            log = (self.folder / "log").open("a", encoding="utf-8")
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), "--worker", str(self.tree)],
                cwd=self.folder / "work",
                env=environment(self.tree, self.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self.process

    def ask(self, name: str) -> Answer:
        """What a probe gives."""
        process, began, line = self.start(), time.perf_counter(), ""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.write(name + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if line:
            return Answer(**json.loads(line))
        process.wait()
        last = (self.folder / "log").read_text(encoding="utf-8").strip().splitlines()[-1:] or ["it ended"]
        return Answer(seconds=time.perf_counter() - began, parts={}, lines={}, error=last[0])

    def stop(self) -> None:
        """End the interpreter."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
            self.process.wait()


def compare(trees: Sequence[Path], names: Sequence[str], folder: Path) -> int:
    """Run probes on both sides, and print a line for each; how many differ or fail on one side only."""
    sides = [Side(tree, folder / f"side{number}") for number, tree in enumerate(trees)]
    wrong, began, width = [], time.perf_counter(), max(map(len, names))
    totals = [0.0, 0.0]
    for name in names:
        answers = [side.ask(name) for side in sides]
        totals = [total + answer.seconds for total, answer in zip(totals, answers, strict=True)]
        verdict, details = judged(*answers)
        seconds = " ".join(f"{answer.seconds:7.2f}" for answer in answers)
        print(f"{name:<{width}} {verdict:<9} {seconds} s  {len(answers[0].parts):3} parts", flush=True)
        for detail in details:
            print(f"    {detail}", flush=True)
        if verdict != "equal":
            wrong.append(name)
    for side in sides:
        side.stop()
    print(
        f"{len(names) - len(wrong)} of {len(names)} probes equal; {totals[0]:.0f} + {totals[1]:.0f} s, "
        f"{time.perf_counter() - began:.0f} s in all"
    )
    if wrong:
        print(f"not equal: {' '.join(wrong)}")
    return len(wrong)


def judged(before: Answer, after: Answer) -> tuple[str, list[str]]:
    """Equal, DIFFERENT or failed; and in which parts, or why."""
    errors = [f"{side}: {a.error}" for side, a in (("before", before), ("after", after)) if a.error is not None]
    if errors:
        return "failed", errors
    keys = [*before.parts, *(key for key in after.parts if key not in before.parts)]
    other = [key for key in keys if before.parts.get(key) != after.parts.get(key)]
    if not other:
        return "equal", []
    details = [f"{len(other)} of {len(keys)} parts: {', '.join(other[:12])}{', …' if len(other) > 12 else ''}"]
    for key in other[:3]:
        for side, line in around(before.lines.get(key, "is not there"), after.lines.get(key, "is not there")):
            details.append(f"{key} {side}: {line}")
    return "DIFFERENT", details


def around(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Two lines, from a little before where they begin to differ."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    first = max(0, same - 60)
    for side, line in (("before", before), ("after", after)):
        yield side, ("…" if first else "") + line[first : first + 200]


# How long it takes.


def imports(tree: Path, folder: Path) -> tuple[float, float]:
    """Seconds of imports of ``ncsn sample``: of what is neither torch nor imported by it, and of ncsn's own modules."""
    few = ["sample", "mnist", "-n", "1", "--sampler", "dpmpp", "--levels", "2", "--guidance", "1", "--out", "i.npy"]
    said = run_timed(tree, folder, ["-X", "importtime", "-m", "ncsn", *few, "--overwrite"]).stderr
    lines = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \| ( *)(\S+)$", said, re.MULTILINE)
    others = own = 0
    above: list[tuple[int, bool]] = []  # depths of the modules around, and whether they are torch's
    for microseconds, indent, name in reversed(lines):  # a module stands behind what it has imported
        while above and above[-1][0] >= len(indent):
            above.pop()
        torchs = name.split(".")[0] in ("torch", "torchgen", "functorch") or any(inside for _, inside in above)
        above.append((len(indent), torchs))
        others += 0 if torchs else int(microseconds)
        own += int(microseconds) if name.split(".")[0] == "ncsn" else 0
    return others / 1e6, own / 1e6


def run_timed(tree: Path, folder: Path, args: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """An interpreter of a tree, with these arguments."""
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment(tree, folder), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{tree}: {done.stderr.strip().splitlines()[-1:]}")
    return done


def durations(tree: Path, folder: Path) -> dict[str, float]:
    """Seconds of everything that is timed, once, in one tree."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    found = dict(zip(("imports beside torch", "imports of ncsn's own"), imports(tree, folder), strict=True))
    began = time.perf_counter()
    run_timed(tree, folder, ["-m", "ncsn", "sample", "mnist", "-n", "64", "--out", "x.npz", "--overwrite"])
    found["sample mnist -n 64"] = time.perf_counter() - began
    began = time.perf_counter()
    few = ["--no-compile", "--channels", "32", "64", "--guidance", "1", "--samples", "1", "--levels", "2"]
    run_timed(tree, folder, ["-m", "ncsn", "train", "mnist", "--steps", "30", *few, "--out", "run", "--overwrite"])
    found["train mnist --steps 30"] = time.perf_counter() - began
    numbers = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    found["  its 30 steps alone"] = numbers.get("training_seconds", math.nan)
    return found


def time_both(trees: Sequence[Path], folder: Path, rounds: int) -> None:
    """Time both trees in turn, and print the least of each and their ratio."""
    found: list[list[dict[str, float]]] = [[], []]
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            found[side].append(durations(trees[side], folder / f"side{side}"))
            print(f"round {number + 1} of {rounds}, {trees[side]}: done", file=sys.stderr)
    print(f"{'seconds, least of ' + str(rounds):<28}{'before':>9}{'after':>9}{'ratio':>8}   all rounds")
    for name in found[0][0]:
        rows = [[row[name] for row in side] for side in found]
        least = [min(row) for row in rows]
        every = " | ".join(" ".join(f"{value:.2f}" for value in row) for row in rows)
        print(f"{name:<28}{least[0]:9.3f}{least[1]:9.3f}{least[1] / least[0]:8.3f}   {every}")


def main() -> int:
    """Compare or time two trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, help="the tree before, and the tree after")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="probes whose names contain one of these")
    parser.add_argument("--times", action="store_true", help="time imports, sampling and training instead")
    parser.add_argument("--rounds", type=int, default=3, help="of --times")
    parser.add_argument("--list", action="store_true", help="the names of all probes")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        worker(given.worker)
        return 0
    names = [name for name in PROBES if not given.only or any(word in name for word in given.only)]
    if given.list:
        print("\n".join(names))
        return 0
    if len(given.trees) != 2 or not names:
        parser.error("two trees are needed, and names of probes that there are")
    trees = [tree.resolve() for tree in given.trees]
    for tree in trees:
        if not (tree / "src" / "ncsn").is_dir():
            parser.error(f"{tree} has no src/ncsn")
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        if given.times:
            time_both(trees, Path(folder), given.rounds)
            return 0
        return min(1, compare(trees, names, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
