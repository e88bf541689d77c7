"""Names and ranges of settings, and their validation, which is strict and reports errors in one line.

Booleans aren't integers and text isn't a number; NaN, infinities and unknown names are rejected.  Dataclasses check
what a type can't express in ``__post_init__``.  Arguments of functions may have numpy's or torch's types, too.
Pydantic and torch are imported on the first check, because ``--help`` doesn't need them.
"""

import inspect
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, SupportsFloat, SupportsIndex, TypeAlias, TypeVar

from annotated_types import Interval

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from torch import Tensor

SamplerName: TypeAlias = Literal[
    "annealed", "ncsn", "ncsnv2", "consistent", "pc", "euler", "heun", "edm", "dpmpp", "dpmpp-sde", "langevin"
]
NetworkName: TypeAlias = Literal["unet", "mlp"]
GuideName: TypeAlias = Literal["smaller", "unconditional"]
Region: TypeAlias = Literal["top", "bottom", "left", "right", "centre", "random"]
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]

MOST_LEVELS = 10_000  # a hundred times the samplers' finest ladder
LEAST, LARGEST = 1e-18, 1e18  # noise levels beyond which squares overflow or underflow float32
MOST_STEPS = 10**7  # of Langevin dynamics, which already take days
MAX_WHOLE = 2**63 - 1  # the largest seed and size in torch

Seed: TypeAlias = Annotated[int, Interval(ge=0, le=MAX_WHOLE)]
Count: TypeAlias = Annotated[int, Interval(ge=1, le=10**9)]
BatchSize: TypeAlias = Annotated[int, Interval(ge=1, le=10**6)]
Shown: TypeAlias = Annotated[int, Interval(ge=1, le=10**4)]  # as many as fit in a picture
Levels: TypeAlias = Annotated[int, Interval(ge=1, le=MOST_LEVELS)]
LangevinSteps: TypeAlias = Annotated[int, Interval(ge=1, le=MOST_STEPS)]
NoiseLevel: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
Guidance: TypeAlias = Annotated[float, Interval(ge=0, le=100)]
StepSize: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
Rate: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
Width: TypeAlias = Annotated[int, Interval(ge=1, le=2**14)]
Layers: TypeAlias = Annotated[int, Interval(ge=1, le=100)]
Port: TypeAlias = Annotated[int, Interval(ge=0, le=2**16 - 1)]

OURS = {"random_state": "seed", "frac": "n", "n_samples": "n", "size": "n", "epochs": "steps", "max_iter": "steps"}
MAX_QUOTED = 300  # characters of a library's error message that are repeated
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "can't start new thread")

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]
"""A JSON object."""


def whole(name: str, value: object, least: int) -> int:
    """A user's whole number.  Raises ValueError for anything else, for less than ``least``, and for 2⁶³ or more."""
    with suppress(TypeError):
        if isinstance(value, SupportsIndex) and not is_boolean(value) and least <= index(value) <= MAX_WHOLE:
            return index(value)
    raise ValueError(f"{name} is {reprlib.repr(value)}; it must be a whole number from {least} to below 2^63")


def real(name: str, value: object, least: float | None = None, *, above: float | None = None) -> float:
    """A user's finite number.  Raises ValueError for anything else, below ``least``, and not above ``above``."""
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # torch and numpy raise them for several numbers
        # Text and arrays have none.
        single = isinstance(value, SupportsFloat) and not is_boolean(value) and not getattr(value, "ndim", 0)
        number = float(value) if single else math.nan  # type: ignore[arg-type]
        if math.isfinite(number) and (least is None or number >= least) and (above is None or number > above):
            return number
    bound = "" if least is None else f" of at least {least:g}"
    bound = bound if above is None else f" above {above:g}"
    raise ValueError(f"{name} is {reprlib.repr(value)}; it must be a finite number{bound}")


def plain(value: object) -> object:
    """A user's value, in Python's type if it is a single number of numpy's or torch's; a list is a tuple."""
    if isinstance(value, list):
        return tuple(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value


def refuse_options(name: str, options: Iterable[str]) -> None:
    """Raises TypeError if there are any, and names ours if they are those of pandas and scikit-learn."""
    for option in options:
        raise TypeError(f"{name} has no {option}" + (f"; use {OURS[option]}" if option in OURS else ""))


def require_utf8(name: str) -> None:
    """Raises ValueError if a file's name has bytes that Python couldn't decode, and other libraries refuse."""
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ValueError(f"{name} is not UTF-8; choose another name")


def is_boolean(value: object) -> bool:
    """Whether this is a boolean of Python, numpy or torch, which counts as no number."""
    return "bool" in str(getattr(value, "dtype", type(value).__name__))


def check_type(name: str, value: object, *types: Any, some: bool = False) -> None:
    """Raises ValueError unless ``value`` is an instance of one of ``types``, and if it's empty but needs ``some``."""
    if not isinstance(value, types) or (some and not value):
        allowed = f"{'a non-empty ' * some}{' or '.join(allowed_type.__name__ for allowed_type in types)}"
        raise ValueError(f"{name} is {reprlib.repr(value)}; expected {allowed}")


def as_numbers(name: str, value: object, *shapes: str) -> "Tensor":
    """A user's numbers as a tensor; other than tensors, they go to the CPU.

    ``shapes``: the shapes that are allowed, such as "n, c, h, w" or "n, 2"; by default any, even without numbers.
    Raises ValueError for other shapes, for complex or masked numbers, for tensors that are sparse or have no data, and
    for anything else.
    """
    import numpy as np
    import torch

    array = value.to_numpy() if hasattr(value, "to_numpy") else value  # pandas
    try:
        numbers = array if isinstance(array, torch.Tensor) else torch.as_tensor(array, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is a {type(value).__name__}; expected numbers") from error
    if numbers.is_meta or numbers.layout is not torch.strided:
        raise ValueError(f"{name} is a tensor of {numbers.layout} on {numbers.device}; expected a dense one with data")
    if numbers.is_complex() or np.ma.is_masked(value):
        problem = "complex numbers; expected real" if numbers.is_complex() else "masked numbers; expected known"
        raise ValueError(f"{name} holds {problem} ones")
    if shapes and not (numbers.numel() and any(has_axes(numbers, axes.split(", ")) for axes in shapes)):
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}; expected ({') or ('.join(shapes)})")
    return numbers


def has_axes(numbers: "Tensor", axes: Sequence[str]) -> bool:
    """Whether a tensor has these axes; those that are digits have that size."""
    pairs = zip(axes, numbers.shape, strict=False)
    return len(axes) == numbers.ndim and all(axis == str(size) or not axis.isdecimal() for axis, size in pairs)


def as_floats(name: str, value: object, *shapes: str) -> "Tensor":
    """A user's numbers as a tensor of floating-point numbers.

    Raises ValueError as ``as_numbers`` does, and for empty or non-finite tensors.
    """
    numbers = as_numbers(name, value, *shapes)
    numbers = numbers if numbers.is_floating_point() else numbers.float()
    if not numbers.numel():
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}; expected numbers")
    finite = numbers.isfinite()
    if not bool(finite.all()):
        raise ValueError(f"{name} has {numbers[~finite][0].item()}, which is not finite; leave such numbers out")
    return numbers


def check_floats(name: str, x: object) -> None:
    """Raises ValueError for anything but a tensor of floating-point numbers; integers would round noise levels."""
    import torch

    if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
        actual = f"{type(x).__name__}{f' of {x.dtype}' if hasattr(x, 'dtype') else ''}"
        raise ValueError(f"{name} is a {actual}; expected a tensor of floating-point numbers")


def check_ranges(settings: object) -> None:
    """Raises ValueError for the first field of a dataclass that is outside its type or range."""
    check_call(type(settings), vars(settings))


def check_call(function: Callable[..., object], arguments: Mapping[str, object]) -> None:
    """Raises ValueError unless ``arguments`` match the signature and types of ``function``."""
    from pydantic import ValidationError

    try:
        model_of(function).model_validate(arguments)
    except ValidationError as error:
        raise ValueError(explain(error, arguments)) from error


def from_json(dataclass: type[T], values: object, where: str) -> T:
    """An instance of a dataclass, with nested dataclasses, from JSON ``values``.

    Raises ValueError, which begins with ``where`` and names the field, its value and what is allowed.
    """
    from pydantic import ValidationError

    try:
        # As JSON, because pydantic's strict mode accepts lists for tuples and objects for dataclasses only there.
        model = model_of(dataclass).model_validate_json(json.dumps(values))  # type: ignore[arg-type]
        return dataclass(**{name: getattr(model, name) for name in model.model_fields_set})
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, values)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {one_line(error)}") from error


@cache
def model_of(function: Callable[..., object]) -> "type[BaseModel]":
    """A pydantic model with a field for each parameter, without conversions or extra fields."""
    from pydantic import ConfigDict, create_model

    parameters = inspect.signature(function).parameters.values()
    fields: Any = {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in parameters}
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return create_model("Strict", __config__=config, **fields)


def explain(error: "ValidationError", values: object) -> str:
    """The first error in one line: the field, its value, and what its types allow."""
    problems = [(field_name(problem["loc"], values), problem) for problem in error.errors(include_url=False)]
    name, first = problems[0]
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is missing"
    messages = dict.fromkeys(problem["msg"] for field, problem in problems if field == name)
    allowed = " or ".join(messages).replace(" or Input should be ", " or ").replace("Input should be", "it must be")
    return one_line(f"{name} is {reprlib.repr(first['input'])}; {allowed}")


def field_name(location: Sequence[str | int], values: Any) -> str:
    """The name of a field, without the names of the union members that pydantic appends."""
    names = []
    with suppress(KeyError, IndexError, TypeError):
        for key in location:
            values = values[key]
            names.append(str(key))
    return ".".join(names)


def one_line(error: object) -> str:
    """An error's message, or the name of its type, in one line of limited length and printable characters."""
    line = printable(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= MAX_QUOTED else f"{line[:MAX_QUOTED]}…"


def printable(text: str) -> str:
    """Text without control characters, which a terminal would obey; only line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "?" for c in text)


def counted(n: int, noun: str) -> str:
    """A number of things, such as "1 row" or "2,000 rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def reason(error: Exception) -> str:
    """Why a file cannot be read: the system's message without the file's name."""
    if "pickle" in str(error) or "weights_only" in str(error):  # libraries advise to load such files anyway
        return "it holds Python objects"
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, or threads, have run out, in the words of any library."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


@contextmanager
def opened_as(noun: str, path: Path) -> Iterator[None]:
    """Within it, ``path`` is read as a ``noun`` (with its article), such as "a JSON object".

    Raises ValueError of one line for anything that a library raises, and for what isn't a regular file, such as a pipe,
    which would block.  Running out of memory is not the file's fault and stays as it is.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{path} cannot be read as {noun} ({reason(error)})") from error


def read_json(path: Path) -> Json:
    """The object in a JSON file.  Raises ValueError if it cannot be read."""
    with opened_as("a JSON object", path):
        return dict(json.loads(path.read_bytes()).items())
