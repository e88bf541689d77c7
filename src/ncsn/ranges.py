"""Which numbers an option may be: written beside it as its type, and checked in one place."""

import math
from collections.abc import Iterator
from dataclasses import Field, fields
from functools import cache
from typing import Annotated, Any, TypeAlias, get_args, get_origin, get_type_hints

from annotated_types import Interval

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
def hinted(kind: Any) -> tuple[tuple[Field[Any], Any], ...]:
    """The fields of a dataclass with their types, ranges included."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field, hints[field.name]) for field in fields(kind))


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
