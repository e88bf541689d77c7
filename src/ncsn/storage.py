"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

``config.json``              the experiment, the settings that it was started with, the run's ``Recipe``, and its data
``model.safetensors``        the averaged weights, with the data's mean and std
``checkpoint.pt``            the whole training state, to resume from
``best.safetensors``         the averaged weights that were best on held-out images so far
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from ncsn.data.options import Reading
from ncsn.data.origin import Origin
from ncsn.files import HOST, atomic, sweep
from ncsn.pixels import Depth
from ncsn.preconditioning import ScoreModel
from ncsn.recipe import Recipe
from ncsn.sampling import Sampling
from ncsn.units import Units

CONFIG_VERSION = 3
MODEL = "model.safetensors"
RUN_FILES = (
    "config.json",
    "model.safetensors",
    "checkpoint.pt",
    "best.safetensors",
    "metrics.jsonl",
    "metrics.json",
)  # what a training goes on from, or leaves
SHIPPED = ("mnist",)  # the runs in the package, under assets/models


def begun(folder: Path) -> bool:
    """Whether there is a run in ``folder``, however short."""
    return (folder / "config.json").is_file()


def check(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Raises ValueError if a run may not write into ``folder``, because it is a file or holds another run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is needed")
    if overwrite and resume:
        raise ValueError("both --overwrite and --resume are given; at most one is allowed")
    if begun(folder) and not overwrite and not resume:
        raise ValueError(
            f"{folder} holds another run; give --overwrite to replace it, --resume to continue it, or another --out"
        )


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False) -> FileLock:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed, and only where there is a run; and what a kill has left half written.
    Returns the lock that keeps other processes out for as long as it is kept; a kill releases it too.
    Raises ValueError as ``check``, and if another process writes into the folder.
    """
    check(folder, overwrite=overwrite, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    check(folder, overwrite=overwrite, resume=resume)  # again: whoever held it may have left a run
    for run in (folder, folder / "guide"):
        sweep(run)
        if overwrite and begun(run):
            for name in RUN_FILES:
                (run / name).unlink(missing_ok=True)
    return lock


def locked(folder: Path) -> FileLock:
    """The folder's lock, which this process holds from now on.  Raises ValueError, which says who, if another does."""
    lock, holder = FileLock(folder / ".lock", timeout=0, is_singleton=True), folder / ".lock-holder"
    try:
        lock.acquire()
    except Timeout as error:
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        raise ValueError(
            f"{folder} is being written by {who}; wait until it has ended, or give another --out"
        ) from error
    with atomic(holder) as temporary:
        temporary.write_text(f"process {os.getpid()} on {HOST}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    return lock


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as config.json keeps them: without the job, which is another one when the run is continued."""
    kept = {name: value for name, value in settings.items() if name != "job"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def write_config(
    folder: Path, experiment: str, settings: dict[str, Any], recipe: Recipe, origin: Origin | None = None
) -> None:
    """Write config.json: what made the run, of which data and how, and how to rebuild and sample its model."""
    content = {"version": CONFIG_VERSION, "experiment": experiment, "settings": settings, "recipe": asdict(recipe)}
    write_json(folder / "config.json", content | ({} if origin is None else {"data": asdict(origin)}))


@dataclass(frozen=True)
class Config:
    """The content of a config.json: what made the run (images, toy or fit), its settings, recipe and data, if known."""

    experiment: str
    settings: dict[str, Any]
    recipe: Recipe
    origin: Origin | None = None


def tuples(value: Any) -> Any:
    """JSON's lists as tuples, however deep."""
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def read_config(folder: Path) -> Config:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, or the file cannot be read, is of another version, or is not whole.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: it has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if version != CONFIG_VERSION:
        raise ValueError(f"{path} is of version {version}; this program reads version {CONFIG_VERSION}")
    try:
        fields, data = tuples(content["recipe"]), tuples(content.get("data"))
        parts = {"sampling": Sampling(**fields["sampling"]), "depth": Depth(**fields.get("depth", {}))}
        origin = None if data is None else Origin(**{**data, "reading": Reading(**data["reading"])})
        return Config(content["experiment"], tuples(content["settings"]), Recipe(**{**fields, **parts}), origin)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} has no whole recipe ({error})") from error


def read_settings(folder: Path, experiment: str) -> dict[str, Any]:
    """The settings that the run in ``folder`` was started with.

    Raises ValueError as ``read_config``, and if the run is of another experiment.
    """
    config = read_config(folder)
    if config.experiment != experiment:
        raise ValueError(f"{folder} is a run of {config.experiment}, not of {experiment}")
    return dict(config.settings)


def trim_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl up to ``step``; later ones, from before a crash, are dropped from the file too."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            break
        if row["step"] <= step:
            rows.append(row)
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def read_results(folder: Path) -> dict[str, Any]:
    """The content of a run's metrics.json; empty while the run has not finished."""
    path = folder / "metrics.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return results


def write_model(folder: Path, model: ScoreModel, units: Units | None = None, *, name: str = MODEL) -> None:
    """Write model.safetensors, atomically: the weights, and the units of the data if they are not the model's own."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if units is not None:
        tensors |= {"units.shift": units.shift, "units.scale": units.scale}
    with atomic(folder / name) as temporary:
        temporary.write_bytes(save(tensors))  # not save_file, whose files only their owner may read


def read_model(folder: Path, recipe: Recipe, *, network: nn.Module | None = None) -> tuple[ScoreModel, Units | None]:
    """The model in a run's folder, as its ``recipe`` says, around a ``network`` of the user's own if it needs one.

    Raises ValueError if the weights are missing, cut short or of another network.
    """
    model = recipe.build(network=network)
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        shift, scale = weights.pop("units.shift", None), weights.pop("units.scale", None)
        model.data_mean = torch.empty_like(weights["data_mean"])
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no model.safetensors: its training has not finished a checkpoint") from error
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is not the whole model that config.json describes ({str(error).splitlines()[0]})"
        ) from error
    units = None if shift is None or scale is None else Units(shift, scale)
    return model.requires_grad_(False).eval(), units


def find(run: str | Path) -> Path:
    """The folder of a run: the one that is named, or one of those in the package (``SHIPPED``) if there is no such."""
    if Path(run).parts[:1] in [(name,) for name in SHIPPED] and not (Path(run) / "config.json").is_file():
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)
