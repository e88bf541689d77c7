"""A score as the graph of an ONNX file."""

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncsn.exporting.card import KEY, LARGEST_FILE, Card
from ncsn.files import one_line
from ncsn.model import ScoreModel

INPUTS, OUTPUT = ("x", "sigma", "label"), "score"
OPSET = 18
SMALL = 256  # bytes: half of fewer is not worth a cast


def onnx_of(model: ScoreModel, example: tuple[Tensor, ...], card: Card) -> bytes:
    """The content of a file; ``example``: a batch of at least 2 of what it takes, in the order of ``INPUTS``.

    Raises ValueError if torch cannot export the network, or if the file would be too large.
    """
    import onnx

    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about torch's own code; what is exported will be checked
            program = torch.onnx.export(
                model,
                example,
                input_names=INPUTS[: len(example)],
                output_names=[OUTPUT],
                dynamic_shapes=tuple({0: batch} for _ in example),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of many kinds, by what it does not know
        raise ValueError(f"torch cannot export the {card.part}'s network ({one_line(error)})") from error
    made: Any = program.model_proto  # type: ignore[union-attr]
    if card.precision == "fp16":
        halve(made.graph)
    forget(made)
    made.producer_name, made.producer_version = "ncsn", version("ncsn")
    onnx.helper.set_model_props(made, {KEY: card.json})
    if made.ByteSize() > LARGEST_FILE:
        raise ValueError(f"the {card.part}'s file would have {made.ByteSize():,} bytes; at most {LARGEST_FILE:,} fit")
    return bytes(made.SerializeToString())


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


def forget(made: Any) -> None:
    """Remove what the exporter notes beside the graph: which line of which file on this machine each operation is."""
    graph = made.graph
    del graph.value_info[:]
    for part in (made, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
