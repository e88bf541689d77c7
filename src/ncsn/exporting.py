"""A run's networks as ONNX files: for browsers, phones, and whatever else has no PyTorch.

A file holds a score, preconditioning included: x (batch, *shape) and sigma (batch,) in float32, and label (batch,) in
int64 if the network knows classes (−1: none), become score (batch, *shape), ∇ₓ log p_σ(x | label), for any batch.  The
mean of the clean data is x + σ²·score (Tweedie).  The smaller network that samples move away from, if there is one, is
a file of its own, so that only those who guide load it, and ask it on the noise levels where it guides:
score + (w − 1)·(score − guide).  What the program around it must know is in the file's metadata (``description``).

The module is not called export: importing it would replace the function ``ncsn.export``.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ncsn.machine.messages import quieter
from ncsn.noise import Geometric
from ncsn.run import Recipe, Run
from ncsn.run.steps import guidance_of
from ncsn.score import ScoreModel, expand
from ncsn.storage import atomic, check_out
from ncsn.validation import Json

PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the last
INPUTS = ("x", "sigma", "label")
CHECKED = 12  # noise levels on which a file is compared with PyTorch
TOLERANCE = 1e-4  # float32's own rounding is a fiftieth of it


def export(run: Run, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write a run's score to ``path``, and its smaller network, if any, to ``NAME.guide.onnx`` beside it; in float32.

    ``run``: whose score it is; not a posterior.
    ``path``: of the file, such as model.onnx.
    ``overwrite``: replace files that are there.
    Returns the paths of the files.  Nothing is written before onnxruntime has run all of them.
    Raises ValueError if a package is missing, if the score is no network or none that torch can export, if something
    is there already, or if the score of a file is off PyTorch's by over 1e-4, relative to its largest number.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ValueError(f"export needs {', '.join(missing)}: pip install 'ncsn[export]'")
    run.refuse_posterior("exported")
    if not bool(run.transform.affine(run.recipe.shape)[2].all()):
        bent = "; ".join(run.transform.describe())
        raise ValueError(f"a file only shifts and scales, and knows no {bent}; sample by ncsn sample")
    models = {Path(path): run.model}
    if run.guide is not None:
        models[Path(path).with_suffix(".guide.onnx")] = replace(run, score=run.guide).model
    for place in models:
        check_out(place, overwrite=overwrite)
    files = {place: convert(model, run) for place, model in models.items()}
    for place, content in reversed(files.items()):  # a score that is there has its guide
        with atomic(place) as temporary:
            temporary.write_bytes(content)
    return list(files)


def description(run: Run) -> Json:
    """What a file says of itself: JSON in its metadata, under the key ``ncsn``.

    ``format``: 1.  ``run``: the run's digest, the same in a score's file and its guide's.  ``recipe``: the run's:
    ``shape``, ``transform`` (of images, what 0 and 1 are in the numbers of their files), ``shares`` (the names of
    classes) and ``sampling``, with the guidance by which it samples.  ``levels``: its noise levels, descending.
    ``names``: of the classes, in their order, which some readers of ``shares`` lose.
    ``shift``, ``scale``: the user's units of each number, value = shift + scale·x; empty where they are x's own.
    """
    recipe = run.recipe
    shift, scale, _ = recipe.transform.affine(recipe.shape)
    own = recipe.transform.type in ("identity", "depth")
    label = run.labels(None, 1, torch.Generator(run.device))
    sampling = guidance_of(run, recipe.sampling, label, weight=None, guide=None)
    return {
        "format": 1,
        "run": run.digest,
        "recipe": asdict(replace(recipe, sampling=sampling)),
        "levels": sampling.ladder().tolist(),
        "names": list(recipe.shares),
        "shift": [] if own else shift.flatten().tolist(),
        "scale": [] if own else scale.flatten().tolist(),
    }


@torch.no_grad()
def convert(model: ScoreModel, run: Run) -> bytes:
    """A model of a run, its own or its guide's, as the content of a file.  Raises ValueError as ``export``."""
    model = copy.deepcopy(model).requires_grad_(False).eval().cpu().float()
    model.autocast = None
    batches = list(probes(model, run.recipe))
    try:
        content = onnx_of(model, batches[0], description(run))
        difference = farthest(content, model, batches)
    except Exception as error:  # of many kinds: torch's, protobuf's and onnxruntime's
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"torch cannot export the network ({reason})") from error
    if not difference <= TOLERANCE:  # nor if it is NaN
        raise ValueError(f"the file would differ from PyTorch by {difference:.1e}; at most {TOLERANCE:g} is allowed")
    return content


def probes(model: ScoreModel, recipe: Recipe) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several sizes of noised data, on noise levels over the whole range, of every class and of none."""
    sampling, generator = recipe.sampling, torch.Generator().manual_seed(0)
    index = torch.arange(CHECKED + model.num_classes)
    levels = Geometric(sampling.sigma_max, sampling.sigma_min, CHECKED).sigmas()
    labels = torch.arange(-1, model.num_classes).repeat(len(index))
    for part in (*torch.split(index, 7), index[:1]):
        noise = torch.randn((len(part), *recipe.shape), generator=generator, dtype=torch.float32)
        sigma = levels[part % CHECKED]
        x = model.data_mean + expand(torch.hypot(sigma, model.data_std), noise) * noise
        yield (x, sigma, labels[part]) if model.num_classes else (x, sigma)


def onnx_of(model: ScoreModel, example: tuple[Tensor, ...], metadata: Json) -> bytes:
    """The content of a file; ``example``: a batch of at least 2 of what it takes, in the order of ``INPUTS``."""
    import onnx

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), quieter(logging.ERROR, "torch.onnx"):
        warnings.simplefilter("ignore")  # they concern torch's own code, and the exported file is checked afterwards
        program: Any = torch.onnx.export(
            model,
            example,
            input_names=INPUTS[: len(example)],
            output_names=["score"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    file = program.model_proto
    forget(file)
    onnx.helper.set_model_props(file, {"ncsn": json.dumps(metadata, allow_nan=False)})
    return bytes(file.SerializeToString())


def forget(file: Any) -> None:
    """Remove what the exporter notes beside the graph: which line of which file on this machine each operation is."""
    graph = file.graph
    del graph.value_info[:]
    for part in (file, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def farthest(content: bytes, model: ScoreModel, batches: list[tuple[Tensor, ...]]) -> float:
    """How far onnxruntime is off PyTorch in any example, relative to its largest number; NaN if any number is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    apart = []
    for batch in batches:
        inputs = {name: value.numpy() for name, value in zip(INPUTS, batch, strict=False)}
        score, expected = torch.from_numpy(session.run(["score"], inputs)[0]), model(*batch)
        largest = expected.abs().flatten(1).amax(1).clamp_min(torch.finfo(expected.dtype).tiny)
        apart.append((score - expected).abs().flatten(1).amax(1) / largest)
    return float(torch.cat(apart).max())
