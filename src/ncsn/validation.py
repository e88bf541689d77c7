"""What a file says, made into the dataclass that it should be, or refused: types are strict, and nothing is converted.

A boolean is no integer and text no number; NaN, infinities and names that are not known are refused.  Ranges are the
dataclasses' own, in ``__post_init__``.
"""

import inspect
import json
import reprlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

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
