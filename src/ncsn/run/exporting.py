"""Export of a run's networks as ONNX files, for browsers, phones and other programs without PyTorch.

A file holds a score, preconditioning included.  Its inputs are x (batch, *shape) and sigma (batch,) in float32, and, if
the network is class-conditional, label (batch,) in int64 (−1: none).  Its output is score (batch, *shape),
∇ₓ log p_σ(x | label), for any batch size.  The mean of the clean data is x + σ²·score (Tweedie).  A smaller guiding
network gets a file of its own; on the noise levels where it guides, use score + (w − 1)·(score − guide).  The metadata
has everything else that a program needs (``description``).

The module isn't called export because importing it would replace the function ``ncsn.export``.
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ncsn.machine.storage import atomic, check_out
from ncsn.noise import Geometric
from ncsn.prior import with_guide
from ncsn.run.recipe import Recipe
from ncsn.run.run import Run
from ncsn.score import ScoreModel, expand
from ncsn.validation import Json, check_type

if TYPE_CHECKING:
    import onnx


PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the last
INPUTS = ("x", "sigma", "label")
CHECKED = 12  # noise levels at which a file is compared with PyTorch
TOLERANCE = 1e-4  # fifty times float32's own rounding error


def export(run: Run, path: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Export a run's score in float32, and its guiding network, if any, to ``NAME.guide.onnx`` in the same folder.

    ``run``: the run.
    ``path``: the output file, such as model.onnx.
    ``overwrite``: replace existing files.
    Returns the paths of the files, which are only written after onnxruntime has run them.
    Raises ValueError if a package is missing, if the score isn't a network that torch can export, if a file exists, or
    if onnxruntime's score differs from PyTorch's by more than 1e-4, relative to its largest number.
    """
    check_type("run", run, Run)
    check_type("path", path, str, Path)
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ValueError(f"export needs {', '.join(missing)}: pip install 'ncsn[export]'")
    if not bool(run.transform.affine(run.recipe.shape)[2].all()):
        transformed = "; ".join(run.transform.describe())
        raise ValueError(f"ONNX files only support shift and scale, not {transformed}; use ncsn sample instead")
    if type(run.model) is not ScoreModel:  # for which torch would print its whole graph
        raise ValueError(
            "the network of a table learns conditionals, for which ONNX files have no place; use ncsn sample"
        )
    models = {Path(path): run.model}
    if run.guide is not None:
        models[Path(path).with_suffix(".guide.onnx")] = replace(run, score=run.guide).model
    for place in models:
        check_out(place, overwrite=overwrite)
    files = {place: convert(model, run) for place, model in models.items()}
    for place, content in reversed(files.items()):  # the guide first, so that no score is without its guide
        with atomic(place) as temporary:
            temporary.write_bytes(content)
    return list(files)


def description(run: Run) -> Json:
    """The JSON in a file's metadata, under the key ``ncsn``.

    ``format``: 1.  ``run``: the run's digest, the same in the files of the score and its guide.  ``recipe``: the run's
    recipe, with ``shape``, ``transform`` (for images, the file values of 0 and 1), ``shares`` (of the classes) and
    ``sampling``, including the guidance scale.  ``levels``: the noise levels, descending.
    ``names``: the class names in order, because JSON readers may not keep that of ``shares``.
    ``shift``, ``scale``: the units of each number, value = shift + scale·x; empty if x is in the user's units.
    """
    recipe = run.recipe
    shift, scale, _ = recipe.transform.affine(recipe.shape)
    in_users_units = recipe.transform.type in ("identity", "depth")
    label = run.recipe.labels(None, 1, torch.Generator(run.device))
    sampling = with_guide(recipe.sampling, run.guide, label)
    return {
        "format": 1,
        "run": run.digest,
        "recipe": asdict(replace(recipe, sampling=sampling)),
        "levels": sampling.ladder().tolist(),
        "names": list(recipe.shares),
        "shift": [] if in_users_units else shift.flatten().tolist(),
        "scale": [] if in_users_units else scale.flatten().tolist(),
    }


@torch.no_grad()
def convert(model: ScoreModel, run: Run) -> bytes:
    """The content of the file for a run's own model or its guide's.  Raises ValueError as ``export`` does."""
    model = copy.deepcopy(model).requires_grad_(False).eval().cpu().float()
    model.autocast = None
    batches = list(probes(model, run.recipe))
    try:
        content = onnx_of(model, batches[0], description(run))
        difference = largest_error(content, model, batches)
    except Exception as error:  # torch, protobuf and onnxruntime raise many kinds
        reason, *_ = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"torch cannot export the network ({reason})") from error
    if not difference <= TOLERANCE:  # nor if it is NaN
        raise ValueError(f"the ONNX score differs from PyTorch's by {difference:.1e}, more than {TOLERANCE:g}")
    return content


def probes(model: ScoreModel, recipe: Recipe) -> Iterator[tuple[Tensor, ...]]:
    """Batches of several sizes with noised data over the whole range of noise levels, for every class and none."""
    sampling = recipe.sampling
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(CHECKED + model.num_classes)
    levels = Geometric(sampling.sigma_max, sampling.sigma_min, CHECKED).sigmas()
    labels = torch.arange(-1, model.num_classes).repeat(len(index))
    for batch in (*torch.split(index, 7), index[:1]):
        noise = torch.randn((len(batch), *recipe.shape), generator=generator, dtype=torch.float32)
        sigma = levels[batch % CHECKED]
        x = model.data_mean + expand(torch.hypot(sigma, model.data_std), noise) * noise
        yield (x, sigma, labels[batch]) if model.num_classes else (x, sigma)


def onnx_of(model: ScoreModel, example: tuple[Tensor, ...], metadata: Json) -> bytes:
    """The content of a file; ``example``: a batch of at least 2 inputs, in the order of ``INPUTS``."""
    import onnx

    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they concern torch's own code, and the exported file is checked afterwards
        program = torch.onnx.export(
            model,
            example,
            input_names=INPUTS[: len(example)],
            output_names=["score"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    assert program is not None
    file = program.model_proto
    remove_traces(file)
    onnx.helper.set_model_props(file, {"ncsn": json.dumps(metadata, allow_nan=False)})
    return bytes(file.SerializeToString())


def remove_traces(file: "onnx.ModelProto") -> None:
    """Remove notes of the exporter, which name the source file of each operation on this machine."""
    graph = file.graph
    del graph.value_info[:]
    for described in (file, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del described.metadata_props[:]
        described.doc_string = ""


def largest_error(content: bytes, model: ScoreModel, batches: list[tuple[Tensor, ...]]) -> float:
    """The largest difference between onnxruntime and PyTorch relative to an example's largest number, or NaN."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    errors = []
    for batch in batches:
        inputs = {name: value.numpy() for name, value in zip(INPUTS, batch, strict=False)}
        score = torch.from_numpy(session.run(["score"], inputs)[0])
        expected = model(*batch)
        largest = expected.abs().flatten(1).amax(1).clamp_min(torch.finfo(expected.dtype).tiny)
        errors.append((score - expected).abs().flatten(1).amax(1) / largest)
    return float(torch.cat(errors).max())
