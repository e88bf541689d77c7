"""Every number that can be given on a command line has a range, and is refused outside of it."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Interval
from hypothesis import given
from hypothesis import strategies as st

from ncsn.cli.measure import Evaluate, Info, Likelihood
from ncsn.cli.sample import Interpolate, Sample
from ncsn.cli.share import Export, Play, Push
from ncsn.cli.solve import Deblur, Denoise, Inpaint, Superres
from ncsn.cli.train import Train
from ncsn.learn.settings import Images, ResolvedImages, ResolvedToy, Toy
from ncsn.validation import inside

COMMANDS = (
    Train,
    Sample,
    Evaluate,
    Likelihood,
    Inpaint,
    Denoise,
    Superres,
    Deblur,
    Interpolate,
    Export,
    Info,
    Play,
    Push,
)
SETTINGS: tuple[Any, ...] = (*COMMANDS, Images, Toy, ResolvedImages, ResolvedToy)
NEEDED: dict[type, dict[str, Any]] = {
    Train: {"dataset": "mnist"},
    Evaluate: {"source": Path("x")},
    Export: {"run": Path("x"), "out": Path("x.onnx")},
    Play: {},
    Push: {"run": Path("x"), "to": "user/model"},
}


def numbers(hint: Any, interval: Interval | None = None) -> list[tuple[type, Interval | None]]:
    """The kinds of numbers in a type, each with its range."""
    if hint in (int, float):
        return [(hint, interval)]
    if get_origin(hint) is Literal:
        return []
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return numbers(inner, next((item for item in metadata if isinstance(item, Interval)), interval))
    return [found for argument in get_args(hint) for found in numbers(argument, interval)]


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_number_has_a_range(kind: type) -> None:
    hints = get_type_hints(kind, include_extras=True)
    assert is_dataclass(kind)
    for field in fields(kind):
        for number, interval in numbers(hints[field.name]):
            assert interval is not None, f"{kind.__name__}.{field.name} is any {number.__name__}"
            assert interval.le is not None
            assert (interval.ge is None) != (interval.gt is None)


@pytest.mark.parametrize("kind", [*COMMANDS, Images, Toy])
def test_what_is_out_of_range_is_refused_in_one_line_that_names_it(kind: Any) -> None:
    hints = get_type_hints(kind, include_extras=True)
    needed = NEEDED.get(kind, {} if kind in (Images, Toy) else {"run": Path("x")})
    kind(**needed)
    for field in fields(kind):
        for number, interval in numbers(hints[field.name]):
            assert interval is not None
            low = interval.gt if interval.gt is not None else interval.ge - 1  # type: ignore[operator]
            beyond = [low, interval.le + 1] + ([math.nan, math.inf] if number is float else [])  # type: ignore[operator]
            for value in beyond:
                given = (value,) if field.name == "channels" else value
                with pytest.raises(ValueError, match=rf"^{field.name} is \S+; it must be [^\n]* at most [^\n]*$"):
                    kind(**needed | {field.name: given})


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_a_range_is_what_it_says(value: float) -> None:
    assert inside(value, Interval(gt=0, le=1)) == (0 < value <= 1)
    assert inside(value, Interval(ge=-2, le=2)) == (-2 <= value <= 2)
