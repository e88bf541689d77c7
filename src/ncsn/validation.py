"""What a file says, made into the dataclass that it should be, or refused: types are strict, and nothing is converted.

A boolean is no integer and text no number; NaN, infinities and names that are not known are refused.  Ranges are the
dataclasses' own, in ``__post_init__``.
"""

import dataclasses
import inspect
import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

SamplerName: TypeAlias = Literal[
    "annealed", "consistent", "pc", "euler", "heun", "edm", "dpmpp", "dpmpp-sde", "langevin", "fast"
]
GuideName: TypeAlias = Literal["smaller", "unconditional"]
Region: TypeAlias = Literal["top", "bottom", "left", "right", "centre", "random"]

MOST_LEVELS = 10_000  # a hundred times as many as the finest ladder of the samplers
MOST_STEPS = 10**7  # of Langevin dynamics: days of work, already

Seed: TypeAlias = Annotated[int, Interval(ge=0, le=2**63 - 1)]
Count: TypeAlias = Annotated[int, Interval(ge=1, le=10**9)]
BatchSize: TypeAlias = Annotated[int, Interval(ge=1, le=10**6)]
Shown: TypeAlias = Annotated[int, Interval(ge=1, le=10**4)]  # so many fit into a picture
Levels: TypeAlias = Annotated[int, Interval(ge=1, le=MOST_LEVELS)]
LangevinSteps: TypeAlias = Annotated[int, Interval(ge=1, le=MOST_STEPS)]
Sigma: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
StepSize: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
Rate: TypeAlias = Annotated[float, Interval(gt=0, le=10**6)]
Width: TypeAlias = Annotated[int, Interval(ge=1, le=2**14)]
Depth: TypeAlias = Annotated[int, Interval(ge=1, le=100)]
Port: TypeAlias = Annotated[int, Interval(ge=0, le=2**16 - 1)]


def check_ranges(settings: Any) -> None:
    """Raises ValueError for the first field of a dataclass that holds a number outside of the range in its type."""
    for field, hint in hinted(settings.__class__):
        for interval, value in bounded(hint, getattr(settings, field.name)):
            if not inside(value, interval):
                raise ValueError(f"{field.name} is {value}; {allowed(interval)}")


@cache
def hinted(kind: Any) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """The fields of a dataclass with their types, ranges included."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(kind))


def bounded(hint: Any, value: Any) -> Iterator[tuple[Interval, float]]:
    """The numbers in ``value`` that have a range in the type ``hint``, each with its range."""
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        for interval in (item for item in metadata if isinstance(item, Interval)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield interval, value
        yield from bounded(inner, value)
    elif isinstance(value, tuple):
        for item in value:
            for argument in get_args(hint):
                yield from bounded(argument, item)
    else:
        for argument in get_args(hint):
            yield from bounded(argument, value)


def inside(value: float, interval: Interval) -> bool:
    """Whether a number is in a range; NaN is in none."""
    low = interval.ge is None or value >= interval.ge  # type: ignore[operator]
    above = interval.gt is None or value > interval.gt  # type: ignore[operator]
    high = interval.le is None or value <= interval.le  # type: ignore[operator]
    return low and above and high and not math.isnan(value)


def allowed(interval: Interval) -> str:
    """A range in words."""
    low = f"above {interval.gt}" if interval.gt is not None else f"at least {interval.ge}"
    return f"it must be {low} and at most {interval.le}"


STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, arbitrary_types_allowed=True
)
LONGEST = 400  # characters of what is said
T = TypeVar("T")


@cache
def holder(kind: Any) -> Any:
    """A model with one field, ``value``, for a dataclass to be validated strictly without knowing of it."""
    return create_model("Holder", __config__=STRICT, value=(kind, ...))


def validated(kind: type[T], values: object, where: str) -> T:
    """``values``, as JSON has them, as a dataclass of this ``kind``, and dataclasses in it likewise.

    Raises ValueError of one line that begins with ``where`` and names the field, what it is, and what it must be.
    """
    try:
        # As JSON, because strictly a list is no tuple and a dictionary no dataclass anywhere else.
        made: T = holder(kind).model_validate_json(json.dumps({"value": values})).value  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(f"{where}: {explained(error, {'value': values})}") from error
    return made


def check_call(function: Callable[..., object], arguments: Mapping[str, object]) -> None:
    """Raises ValueError unless ``function`` can be called with ``arguments``, by its signature and its types."""
    parameters = inspect.signature(function).parameters
    unknown = sorted(arguments.keys() - parameters.keys(), key=repr)
    if unknown:
        raise ValueError(f"{reprlib.repr(unknown[0])} is given; allowed are {', '.join(parameters)}")
    try:
        call_of(function)(**arguments)
    except ValidationError as error:
        raise ValueError(explained(error, arguments)) from error


@cache
def call_of(function: Callable[..., object]) -> type[BaseModel]:
    """A model with a field for each parameter."""
    fields: dict[str, Any] = {
        name: (parameter.annotation, Field(**default_of(parameter)))
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return create_model("Call", __config__=STRICT, **fields)


def default_of(parameter: inspect.Parameter) -> dict[str, Any]:
    """A parameter's default, which is not looked at: a dataclass may make it when it is called."""
    return {} if parameter.default is parameter.empty else {"default": parameter.default, "validate_default": False}


def explained(error: ValidationError, values: object) -> str:
    """The first of the things that are wrong, in one line."""
    found = error.errors(include_url=False)
    name, kind = place(found[0]["loc"], values), found[0]["type"]
    if kind == "missing":
        text = f"{name} is missing"
    elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
        text = f"{name} is no field of it"
    elif kind == "value_error":
        text = f"{name}: {found[0]['ctx']['error']}"
    else:  # one for each type that it may have
        wanted = dict.fromkeys(e["msg"] for e in found if place(e["loc"], values) == name)
        text = f"{name} is {reprlib.repr(found[0]['input'])}; {' or '.join(wanted)}"
        text = text.replace("Input should", "it should", 1).replace("or Input should be", "or")
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def place(found: tuple[int | str, ...], values: object) -> str:
    """The name of where an error was ``found`` in ``values``: without the types that pydantic ends it with."""
    names: list[str] = []
    for step in found:
        inside = isinstance(values, Mapping) and step in values
        if inside or (isinstance(values, tuple | list) and isinstance(step, int) and step < len(values)):
            values = values[step]  # type: ignore[index]
        elif not isinstance(values, Mapping):
            break
        else:
            values = None
        names.append(str(step))
    return ".".join(names[names[:1] == ["value"] :]) or "it"
