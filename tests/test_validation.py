"""Every number that can be given on a command line has a range, and what no type allows is refused in one line."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from unittest.mock import Mock

import numpy as np
import pytest
from annotated_types import Interval
from helpers import DIGITS, Patch, edit_config, refused

import ncsn
from ncsn.cli.commands import COMMANDS
from ncsn.settings import ResolvedSettings, TrainSettings
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


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a network of the package."""
    recipe = replace(DIGITS, network="MLP", arguments={"dimensions": 2, "width": 8, "layers": 1}, shape=(2,))
    run = ncsn.Run.of(ncsn.ScoreModel(ncsn.MLP(2, 8, 1)), (2,), sigma_max=2.0, sigma_min=0.1)
    folder = tmp_path_factory.mktemp("saved") / "it"
    replace(run, recipe=recipe, settings={"seed": 0}).save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "it"))


SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"levels": 0}, "recipe.sampling is .* levels is 0; .* from 1 "),
    ({"levels": True}, "recipe.sampling.levels is True; .* integer"),
    ({"levels": "x" * 5000}, "recipe.sampling.levels is 'x.*; .* integer"),
    ({"sigma_max": math.nan}, "recipe.sampling.sigma_max is nan; .* finite number"),
    ({"sigma_max": 10**400}, "recipe.sampling.sigma_max is "),
    ({"sigma_max": "2"}, "recipe.sampling.sigma_max is '2'; .* number"),
    ({"sampler": "a"}, "recipe.sampling is .* sampler is a; .* dpmpp-sde"),
    ({"more\n": 1}, "recipe.sampling.more is 1; "),
]
CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda config: config.pop("recipe"), "recipe is missing"),
    (lambda config: config["recipe"].pop("shape"), "recipe.shape is missing"),
    (lambda config: config["recipe"].update(shape=[2, 0]), "recipe.shape.1 is 0; .* 1"),
    (lambda config: config.update(recipe=["a"]), "recipe is .*; .* object"),
    (lambda config: config.update(more=1), "more is 1; "),
    *((lambda config, x=x: config["recipe"]["sampling"].update(x), message) for x, message in SAMPLING),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_a_config_says_has_its_types_and_what_is_wrong_is_named_in_one_line(
    change: Callable[[dict[str, Any]], object], message: str, folder: Path
) -> None:
    assert ncsn.load(folder, device="cpu").recipe.shape == (2,)
    edit_config(folder, change)
    said = refused(lambda: ncsn.load(folder, device="cpu"), naming=str(folder))
    assert re.search(f"config.json: {message}", said), said
    assert len(said) < 400 + len(str(folder))


@pytest.mark.parametrize(
    ("error", "line"),
    [("a\n b\0", "a b?"), ("", "ValueError"), ("x" * 300, "x" * 300), ("x" * 301, "x" * 300 + "…")],
)
def test_an_error_of_a_library_is_repeated_in_one_line_that_ends(
    error: str, line: str, here: Path, monkeypatch: Patch
) -> None:
    np.save("x.npy", np.zeros((20, 2)))
    monkeypatch.setattr(np, "load", Mock(side_effect=ValueError(error)))
    assert refused(lambda: ncsn.load_dataset("x.npy")).endswith(f"({line})")


UNET = {"image_channels": 1, "channels": [8], "blocks": 1, "features": 8}
MLP = {"dimensions": 2, "width": 8, "layers": 1}
REFUSED: dict[str, dict[str, list[object]]] = {
    "UNet": {"channels": [[], [8, 0], [2] * 13], "blocks": [0, 101, 1.0], "image_channels": [0], "dimensions": [0, 4]},
    "MLP": {"width": [0, 8.0, "8", None, True], "dimensions": [0], "layers": [0, 1001], "depth": [2]},
}


@pytest.mark.parametrize(("network", "name"), [(network, name) for network, names in REFUSED.items() for name in names])
def test_a_recipe_has_no_networks_without_parts_or_with_too_many(network: str, name: str, folder: Path) -> None:
    written = (folder / "config.json").read_text()
    for value in REFUSED[network][name]:
        arguments = (UNET if network == "UNet" else MLP) | {name: value}
        (folder / "config.json").write_text(written)
        recipe = {"network": network, "arguments": arguments}
        edit_config(folder, lambda config, new=recipe: config["recipe"].update(new))  # type: ignore[misc]
        assert name in refused(lambda: ncsn.load(folder, device="cpu"), naming=str(folder))


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe1", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_object_in_json_is_refused(content: bytes | None, folder: Path) -> None:
    path = folder / "config.json"
    path.unlink() if content is None else path.write_bytes(content)
    said = refused(lambda: ncsn.load(folder, device="cpu"), naming=str(folder))
    assert ("is not a run" if content is None else "config.json cannot be read") in said


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
