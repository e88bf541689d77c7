"""What an exported file says of itself, in its metadata, to the program that uses it."""

import json
import math
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from ncsn.files import one_line, parse_json, read_bytes
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.validation import validated

Part: TypeAlias = Literal["score", "guide"]
Precision: TypeAlias = Literal["fp16", "fp32"]
PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # torch's exporter needs the last
KEY, FORMAT = "ncsn", 1
LARGEST_FILE = 2**31 - 1  # bytes; protobuf's limit


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a file says of itself: JSON in its metadata, under the key ``ncsn``.

    ``format``: 1.  ``ncsn``: the version that wrote it.  ``run``: the run's digest, the same in a score's file and its
    guide's.  ``part``: which of the two it is.  ``precision``: of the weights.
    ``recipe``: the run's: ``shape``, ``depth`` (what 0 and 1 are in the numbers of image files), ``shares`` (the names
    of classes) and ``sampling``, with the guidance by which it samples.  ``levels``: its noise levels, descending.
    ``names``: of the classes, in their order, which some readers of ``shares`` lose.
    ``shift``, ``scale``: the user's units of each number, value = shift + scale·x; empty where they are x's own.
    Raises ValueError for another format, noise levels that are none, or units that are not like an example.
    """

    format: int = FORMAT
    ncsn: str
    run: str
    part: Part
    precision: Precision
    recipe: Recipe
    levels: tuple[float, ...]
    names: tuple[str, ...] = ()
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no program could use."""
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}; this program reads format {FORMAT}")
        replace(self.recipe.sampling, levels=self.levels)  # which checks them
        sizes, needed = (len(self.shift), len(self.scale)), math.prod(self.recipe.shape)
        if sizes not in ((0, 0), (needed, needed)) or not all(scale > 0 for scale in self.scale):
            raise ValueError(
                f"shift has {sizes[0]:,} numbers and scale {sizes[1]:,}; none, or {needed:,} each, are needed, and a "
                "positive scale"
            )

    @classmethod
    def of(cls, run: Run, precision: Precision) -> "Card":
        """What there is to say of a run's score; of its guide's only ``part`` is another."""
        recipe, units = run.recipe, run.units
        label = run.labels(None, 1, torch.Generator(run.device))
        sampling = run.guidance(recipe.sampling, label, weight=None, guide=None)
        shift, scale = (
            ([], [])
            if units is None
            else (tensor.expand(recipe.shape).flatten().tolist() for tensor in (units.shift, units.scale))
        )
        return cls(
            ncsn=version("ncsn"),
            run=run.digest,
            part="score",
            precision=precision,
            recipe=replace(recipe, sampling=sampling),
            levels=tuple(sampling.ladder().tolist()),
            names=tuple(recipe.shares),
            shift=tuple(shift),
            scale=tuple(scale),
        )

    @property
    def json(self) -> str:
        """As the metadata has it."""
        return json.dumps(asdict(self), allow_nan=False)


def read(path: str | Path) -> Card:
    """What a file that ``ncsn.export`` wrote says of itself.

    Raises ValueError if a package is missing, if it is no such file, or if it says what cannot be.
    """
    check_packages()
    import onnx

    content = read_bytes(Path(path), LARGEST_FILE)
    try:
        # What is no UTF-8 comes as bytes.
        said = {
            item.key: item.value if isinstance(item.value, bytes) else item.value.encode()
            for item in onnx.ModelProto.FromString(content).metadata_props
        }
    except Exception as error:  # of protobuf, in whichever of its implementations
        raise ValueError(f"{path} is no ONNX file ({one_line(error)})") from error
    if KEY not in said:
        raise ValueError(f"{path} was not written by ncsn export")
    return validated(Card, parse_json(said[KEY], str(path)), str(path))


def check_packages() -> None:
    """Raises ValueError, which says what to install, if a package is missing that exporting needs."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(f"export needs {name}: pip install 'ncsn[export]'") from error
