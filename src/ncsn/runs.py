"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

``config.json``              the settings that the run was started with, and its ``Recipe``
``model.safetensors``        the averaged weights, with the data's mean and std
``checkpoint.pt``            the whole training state, to resume from
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
"""

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ncsn.files import atomic
from ncsn.machine import fast_bfloat16
from ncsn.recipe import Recipe
from ncsn.score import ScoreModel

CONFIG_VERSION = 2
SHIPPED = ("mnist",)  # the runs in the package, under assets/models

T = TypeVar("T")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed.
    Raises ValueError if the folder holds another run, or if there is nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is needed")
    if overwrite and resume:
        raise ValueError("both --overwrite and --resume are given; at most one is allowed")
    if resume:
        if not any((run / "checkpoint.pt").is_file() for run in (folder, folder / "guide")):
            raise ValueError(f"{folder} has no checkpoint.pt to resume from")
        return
    if (folder / "config.json").exists() and not overwrite:
        raise ValueError(
            f"{folder} holds another run; give --overwrite to replace it, --resume to continue it, or another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for run in (folder, folder / "guide"):
        for name in ("config.json", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "metrics.json"):
            (run / name).unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, experiment: str, settings: dict[str, Any], recipe: Recipe) -> None:
    """Write config.json: which script made the run, its settings, and how to rebuild and sample its model."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    content = {
        "version": CONFIG_VERSION,
        "experiment": experiment,
        "settings": plain,
        "recipe": asdict(recipe),
    }
    write_json(folder / "config.json", content)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, or the file cannot be read or is of another version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: it has no config.json")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if version != CONFIG_VERSION:
        raise ValueError(f"{path} is of version {version}; this program reads version {CONFIG_VERSION}")
    return content


def continued(settings: T, experiment: str, folder: Path, new: Collection[str]) -> T:
    """The settings that the run in ``folder`` was started with, but for the fields ``new``, which stay as given.

    Raises ValueError as ``read_config``, and if the run is of another experiment.
    """
    config = read_config(folder)
    if config["experiment"] != experiment:
        raise ValueError(f"{folder} is a run of {config['experiment']}, not of {experiment}")
    old = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items() if k not in new}
    return replace(settings, **old)  # type: ignore[type-var]


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


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a run's config.json.  Raises ValueError as ``read_config``, and if the recipe is not whole."""
    try:
        fields = dict(read_config(folder)["recipe"])
        return Recipe(**{**fields, "shape": tuple(fields["shape"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} has no whole recipe ({error})") from error


def save_model(folder: Path, model: ScoreModel) -> None:
    """Write model.safetensors, atomically."""
    with atomic(folder / "model.safetensors") as temporary:
        # Not save_file, whose files only their owner may read.
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def find(run: str | Path) -> Path:
    """The folder of a run: the one that is named, or one of those in the package (``SHIPPED``) if there is no such."""
    if Path(run).parts[:1] in [(name,) for name in SHIPPED] and not (Path(run) / "config.json").is_file():
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)


def load_guide(run: str | Path) -> ScoreModel | None:
    """The smaller network that samples of a run are moved away from, if the run has one.  Raises as ``load``."""
    folder = find(run) / "guide"
    return load(folder) if (folder / "config.json").is_file() else None


def load(run: str | Path) -> ScoreModel:
    """The trained score of a run: ``score(x, sigma)`` in the units of the data.

    ``run``: a run's folder, or ``"mnist"`` for the model that comes with the package.
    Raises ValueError if the folder is no run, or if its weights are missing, cut short or of another network.
    """
    folder = find(run)
    recipe = read_recipe(folder)
    images = len(recipe.shape) == 3  # their 256 levels survive bfloat16; points in the plane would lose digits
    model = recipe.build(0.0, 1.0, autocast=images and fast_bfloat16(torch.device("cpu")))
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        model.data_mean = torch.empty_like(weights["data_mean"])
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no model.safetensors: its training has not finished a checkpoint") from error
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is not the whole model that config.json describes ({str(error).splitlines()[0]})"
        ) from error
    return model.requires_grad_(False).eval()
