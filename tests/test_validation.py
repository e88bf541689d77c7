"""Every number that can be given on a command line has a range, and what no type allows is refused in one line."""

import math
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from annotated_types import Interval

from ncsn.cli.commands import COMMANDS
from ncsn.settings import ResolvedSettings, TrainSettings
from ncsn.validation import Count, Levels, NoiseLevel, check_call, check_ranges, from_json, one_line, read_json
from training_toy import Toy

NEEDED: dict[str, Any] = {
    "dataset": "mnist",
    "source": Path("x"),
    "run": Path("x"),
    "out": Path("x.onnx"),
    "to": "user/model",
    "rows": Path("rows.csv"),
}
# Whole numbers begin at 1 and real ones above 0, but for these.
LEAST = {
    "Calibrate.n": 30,
    **dict.fromkeys(("seed", "max_broken", "port", "Toy.samples", "Sample.guidance", "Evaluate.guidance"), 0),
    **{"minutes": 0.001, "log_sigma_mean": -20, "guidance": 1, "tolerance": 1e-10, "Evaluate.n": 100, "Impute.n": 2},
    "blur": 0.01,
    **dict.fromkeys(("Likelihood.n", "Likelihood.probes"), 2),
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
    return [number for argument in get_args(hint) for number in numbers(argument, interval)]


@pytest.mark.parametrize("kind", [*COMMANDS.values(), TrainSettings, Toy, ResolvedSettings])
def test_every_number_has_a_range_and_is_refused_outside_of_it(kind: Any) -> None:
    hints = get_type_hints(kind, include_extras=True)
    needed = {field.name: NEEDED[field.name] for field in fields(kind) if field.name in NEEDED}
    for field in fields(kind):
        for number, interval in numbers(hints[field.name]):
            assert interval is not None, f"{kind.__name__}.{field.name} is any {number.__name__}"
            assert interval.le is not None
            assert (interval.ge is None) != (interval.gt is None)
            least = LEAST.get(f"{kind.__name__}.{field.name}", LEAST.get(field.name, int(number is int)))
            assert (interval.gt if interval.ge is None else interval.ge) == least
            low = least if interval.ge is None else least - 1
            beyond = [low, interval.le + 1] + [math.nan, math.inf] * (number is float)  # type: ignore[operator]
            for value in () if kind is ResolvedSettings else beyond:
                given = (value,) if field.name == "channels" else value
                with pytest.raises(ValueError, match=rf"^{field.name}[.\d]* is \S+; [^\n]*$"):
                    kind(**needed | {field.name: given})


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: Literal["a", "b"]
    sizes: tuple[Count, ...] = (1,)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    level: Levels | Literal["all"] = "all"
    sigma: NoiseLevel | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.level == 13:
            raise ValueError("level is 13; bring luck")


WHOLE = {"inner": {"name": "a", "sizes": [2, 3]}, "level": 7, "sigma": 2}


CHANGES = [
    ({"inner": {}}, "inner.name is missing"),
    ({"inner": {"name": "a", "sizes": [1, 0]}}, "inner.sizes.1 is 0; .* 1"),
    ({"inner": {"name": "a", "sizes": [True]}}, "inner.sizes.0 is True; .* integer"),
    ({"inner": ["a"]}, "inner is .*; .* object"),
    ({"level": "x" * 5000}, "level is 'x.*; .* integer or .* 'all'"),
    ({"level": 13}, "level is 13; bring luck"),
    ({"sigma": math.nan}, "sigma is nan; .* finite number"),
    ({"sigma": 10**400}, "sigma is "),
    ({"more\n": 1}, "more is 1; Extra inputs"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_json_says_is_a_dataclass_and_what_is_wrong_is_named_in_one_line(
    change: dict[str, Any], message: str
) -> None:
    assert from_json(Outer, WHOLE, "here") == Outer(inner=Inner(name="a", sizes=(2, 3)), level=7, sigma=2)
    with pytest.raises(ValueError, match=f"^here: {message}") as refusal:
        from_json(Outer, WHOLE | change, "here")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("error", "line"),
    [("a\n b\0", "a b?"), ("", "ValueError"), ("x" * 300, "x" * 300), ("x" * 301, "x" * 300 + "…")],
)
def test_an_error_is_repeated_in_one_line_that_ends(error: str, line: str) -> None:
    assert one_line(ValueError(error)) == line


def test_a_call_is_checked_without_being_made() -> None:
    def call(a: int, b: tuple[float, ...] = (), c: list[int] = []) -> None:  # noqa: B006
        raise AssertionError

    check_call(call, {"a": 1, "b": (1, 2.5)})
    for wrong in ({}, {"a": 1.0}, {"a": 1, "b": [1.0]}, {"a": 1, "d": 2}, {"a": 1, "c": None}):
        with pytest.raises(ValueError, match=r"^[abcd] is "):
            check_call(call, wrong)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe1", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_object_in_json_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json cannot be read"):
        read_json(path)


def test_help_needs_no_torch_and_samples_no_plots() -> None:
    code = """
import sys
from ncsn.cli.commands import main
try:
    main(["sample", "--help"])
except SystemExit:
    pass
assert not {"torch", "numpy"} & sys.modules.keys()
import ncsn
ncsn.load("mnist", device="cpu").sample(1, levels=2)
slow = {"scipy", "matplotlib", "pandas", "torch._dynamo", "sympy", "torchvision", "typeguard", "http.server"}
print("unwanted", slow & sys.modules.keys())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "unwanted set()"
