"""What checks types and shapes at every call of the package; it must not import any of it."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from typing_extensions import Self

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked; beartype knows Self in whole classes only."""
    if getattr(function, "__annotations__", {}).get("return") is Self:
        del function.__annotations__["return"]
    return check(function)
