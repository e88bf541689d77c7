"""What checks types and shapes of the package's calls; it must not import any of it."""

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from types import CodeType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped
from typing_extensions import Self

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python
OFTEN = 10
"""Calls of each function that a test checks: a loop's later ones pass the same."""
calls = Counter[CodeType]()
"""How often each function was called in this test."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked; beartype knows Self in whole classes only."""
    if getattr(function, "__annotations__", {}).get("return") is Self:
        del function.__annotations__["return"]
    return check(function)


def jaxtyped_at_first(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """What takes the place of ``jaxtyping.jaxtyped``, whose checks take longer than many functions."""
    every = jaxtyped(typechecker=typechecker)

    def decorate(function: Any) -> Any:
        if not inspect.isfunction(function):
            return every(function)
        code = function.__code__  # the same for all functions that a call of another one defines
        checking = functools.cache(lambda: every(function))

        @functools.wraps(function)
        def first_calls(*args: Any, **kwargs: Any) -> Any:
            calls[code] += 1
            return (checking() if calls[code] <= OFTEN else function)(*args, **kwargs)

        return first_calls

    return decorate
