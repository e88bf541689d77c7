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
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from ncsn.run import Run
from ncsn.score import ScoreModel
from ncsn.storage import atomic, check_out
from ncsn.validation import one_line

Precision: TypeAlias = Literal["fp16", "fp32"]
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the last
INPUTS = ("x", "sigma", "label")
CHECKED = 12  # noise levels on which a file is compared with PyTorch
TOLERANCE = 1e-4  # float32's own rounding is a fiftieth of it
SMALL = 256  # bytes: half of fewer is not worth a cast


def export(run: Run, path: str | Path, *, precision: Precision = "fp16", overwrite: bool = False) -> list[Path]:
    """Write a run's score to ``path``, and its smaller network, if any, to ``NAME.guide.onnx`` beside it.

    ``precision``: in which weights are stored; fp16 takes half as much, and is computed with in float32 as fp32 is.
    ``overwrite``: replace files that are there.
    Returns the paths of the files.  Nothing is written before onnxruntime has run all of them.
    Raises ValueError if a package is missing, if the score is no network or none that torch can export, if something
    is there already, or if the score of a file is off PyTorch's with the same weights by over 1e-4, relative to its
    largest number.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ValueError(f"export needs {', '.join(missing)}: pip install 'ncsn[export]'")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision}; allowed are fp16 and fp32")
    if run.condition is not None:
        raise ValueError("a posterior is no network; export the run that it was made of")
    path, metadata = Path(path), description(run, precision)
    models = {path: run.model}
    if run.guide is not None:
        models[path.with_suffix(".guide.onnx")] = replace(run, score=run.guide).model
    for place in models:
        check_out(place, overwrite=overwrite)
    parts = zip(models.items(), ("score", "guide"), strict=False)
    files = {place: convert(model, metadata | {"part": part}) for (place, model), part in parts}
    for place, content in reversed(files.items()):  # a score that is there has its guide
        with atomic(place) as temporary:
            temporary.write_bytes(content)
    return list(files)


def description(run: Run, precision: Precision) -> dict[str, Any]:
    """What a file says of itself: JSON in its metadata, under the key ``ncsn``.

    ``format``: 1.  ``ncsn``: the version that wrote it.  ``run``: the run's digest, the same in a score's file and its
    guide's.  ``part``: score or guide.  ``precision``: of the weights.
    ``recipe``: the run's: ``shape``, ``depth`` (what 0 and 1 are in the numbers of image files), ``shares`` (the names
    of classes) and ``sampling``, with the guidance by which it samples.  ``levels``: its noise levels, descending.
    ``names``: of the classes, in their order, which some readers of ``shares`` lose.
    ``shift``, ``scale``: the user's units of each number, value = shift + scale·x; empty where they are x's own.
    """
    recipe, units = run.recipe, run.units
    label = run.labels(None, 1, torch.Generator(run.device))
    sampling = run.guidance(recipe.sampling, label, weight=None, guide=None)
    return {
        "format": 1,
        "ncsn": version("ncsn"),
        "run": run.digest,
        "part": "score",
        "precision": precision,
        "recipe": asdict(replace(recipe, sampling=sampling)),
        "levels": sampling.ladder().tolist(),
        "names": list(recipe.shares),
        "shift": [] if units is None else units.shift.expand(recipe.shape).flatten().tolist(),
        "scale": [] if units is None else units.scale.expand(recipe.shape).flatten().tolist(),
    }


@torch.no_grad()
def convert(model: ScoreModel, metadata: dict[str, Any]) -> bytes:
    """A model as the content of a file.  Raises ValueError as ``export``."""
    part = metadata["part"]
    stored = copy.deepcopy(model).requires_grad_(False).eval().cpu().float()
    stored.autocast = None
    for weight in stored.network.parameters() if metadata["precision"] == "fp16" else ():
        weight.copy_(weight.half())
    batches = list(probes(stored, metadata["recipe"]))
    expected = [stored(*batch) for batch in batches]
    try:
        content = onnx_of(stored, batches[0], metadata)
        results = answers(content, batches)
    except Exception as error:  # of many kinds: torch's, protobuf's and onnxruntime's
        raise ValueError(f"torch cannot export the {part}'s network ({one_line(error)})") from error
    difference = farthest(results, expected)
    if not difference <= TOLERANCE:  # nor if it is NaN, of weights beyond what float16 has
        raise ValueError(f"the {part}'s file would be {difference:.1e} off PyTorch; at most {TOLERANCE:g} is allowed")
    return content


def probes(model: ScoreModel, recipe: dict[str, Any]) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several sizes of noised data, on noise levels over the whole range, of every class and of none."""
    sampling, generator = recipe["sampling"], torch.Generator().manual_seed(0)
    index = torch.arange(max(CHECKED, model.classes + 1))
    ends = math.log(sampling["sigma_max"]), math.log(sampling["sigma_min"])
    sigmas = torch.linspace(*ends, CHECKED).exp()[index % CHECKED]
    for part in (index[:2], index[2:3], *torch.split(index[3:], 7)):
        sigma, noise = sigmas[part], torch.randn((len(part), *recipe["shape"]), generator=generator)
        std = (sigma**2 + model.data_std**2).sqrt()
        x = model.data_mean + std.view(-1, *[1] * (noise.ndim - 1)) * noise
        yield (x, sigma, part % (model.classes + 1) - 1) if model.classes else (x, sigma)


def onnx_of(model: ScoreModel, example: tuple[Tensor, ...], metadata: dict[str, Any]) -> bytes:
    """The content of a file; ``example``: a batch of at least 2 of what it takes, in the order of ``INPUTS``."""
    import onnx

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are about torch's own code; what is exported will be checked
        program: Any = torch.onnx.export(
            model,
            example,
            input_names=INPUTS[: len(example)],
            output_names=["score"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            opset_version=18,
            verbose=False,
        )
    file = program.model_proto
    if metadata["precision"] == "fp16":
        halve(file.graph)
    forget(file)
    file.producer_name, file.producer_version = "ncsn", version("ncsn")
    onnx.helper.set_model_props(file, {"ncsn": json.dumps(metadata, allow_nan=False)})
    return bytes(file.SerializeToString())


def halve(graph: Any) -> None:
    """Store in float16 all tensors that it holds exactly, as it does rounded weights; a cast makes them float32."""
    import onnx

    single, casts = onnx.TensorProto.FLOAT, []
    for tensor in graph.initializer:
        if tensor.data_type != single or len(tensor.raw_data) < SMALL:
            continue
        values, name = onnx.numpy_helper.to_array(tensor), tensor.name
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=single))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def forget(file: Any) -> None:
    """Remove what the exporter notes beside the graph: which line of which file on this machine each operation is."""
    graph = file.graph
    del graph.value_info[:]
    for part in (file, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def answers(content: bytes, batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """What onnxruntime computes from a file for each of these batches."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    named = [{name: value.numpy() for name, value in zip(INPUTS, batch, strict=False)} for batch in batches]
    return [torch.from_numpy(session.run(["score"], inputs)[0]) for inputs in named]


def farthest(scores: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference in any example, relative to the largest number that is expected of it; NaN if any is."""
    pairs = [(a.flatten(1), b.flatten(1)) for a, b in zip(scores, expected, strict=True)]
    apart = [(a - b).abs().amax(1) / b.abs().amax(1).clamp_min(torch.finfo(b.dtype).tiny) for a, b in pairs]
    return float(torch.cat(apart).max())
