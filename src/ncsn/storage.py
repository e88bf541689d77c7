"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

``config.json``              the experiment, the settings that it was started with, the run's ``Recipe``, and its data
``model.safetensors``        the averaged weights, with the data's mean and std, and their sha256
``checkpoint.pt``            the whole training state, to resume from; it ends in its sha256
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from ncsn import hub
from ncsn.data import Origin
from ncsn.files import atomic as atomic
from ncsn.files import check_out as check_out
from ncsn.files import check_regular, one_line, parse_json
from ncsn.files import read_json as read_json
from ncsn.files import sweep as sweep
from ncsn.files import write_json as write_json
from ncsn.machine import distributed
from ncsn.recipe import Recipe, Units
from ncsn.score import ScoreModel
from ncsn.validation import validated

T = TypeVar("T")

CONFIG_VERSION = 3
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
# What trainings and evaluations write, and --overwrite removes, config.json last: so a kill leaves no half of a run.
RESULTS = ("evaluation.json", "evaluation.png", "evaluation.npz", "samples_[0-9]*.png")
WRITTEN = (MODEL, CHECKPOINT, "metrics.jsonl", "metrics.json", *RESULTS, "config.json")
JOB = ".job"  # says which of torchrun's has begun the run
SHIPPED = ("mnist",)  # the runs in the package, under assets/models
SEAL = b"\nsha256:"  # before the 64 digits at the end of a checkpoint


def begun(folder: Path) -> bool:
    """Whether there is a run in ``folder``, however short."""
    return (folder / "config.json").is_file()


def begun_by_this_job(folder: Path) -> bool:
    """Whether there is a run that torchrun has begun in ``folder``, and now starts again."""
    mark = folder / JOB
    return begun(folder) and mark.is_file() and mark.read_text(errors="replace") == distributed.job()


def check(folder: Path, *, overwrite: bool = False, resume: bool = False, pictures: tuple[str, ...] = ()) -> None:
    """Raises ValueError if a run may not write into ``folder``: it is a file, or what is there would be replaced.

    A run without a checkpoint, copied or saved from Python, cannot be resumed: it would begin anew.

    ``pictures``: the names of files that will be written beside the run's own.
    """
    for place in (folder, folder / "guide"):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; a folder is needed")
        for name in WRITTEN:
            check_regular(place / name)
        if resume and (place / MODEL).exists() and not (place / CHECKPOINT).exists():
            raise ValueError(f"{place} has weights, but no {CHECKPOINT} to go on from; give another --out")
    if (folder / "guide").is_symlink():
        raise ValueError(f"{folder / 'guide'} is a link, which is not followed; give another --out")
    if overwrite or (resume and begun(folder)):
        return
    if begun(folder):
        raise ValueError(f"{folder} holds another run; --overwrite replaces it, --resume continues it")
    for path in (path for name in (*WRITTEN, *pictures) for path in folder.glob(name)):
        raise ValueError(f"{folder} is no run, but has a {path.name}; --overwrite replaces it")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False, pictures: tuple[str, ...] = ()) -> FileLock:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed, and what a kill has left half written.
    Returns the lock that keeps other processes out for as long as it is kept; a kill releases it too.
    Raises ValueError as ``check``, and if another process writes into the folder.
    """
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing {folder}; wait for it, or give another --out") from error
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)  # again: whoever held it may have left a run
    for run in (folder / "guide", folder):
        sweep(run, everybodys=True)
        for path in (path for name in WRITTEN if overwrite for path in run.glob(name)):
            path.unlink()
    if (job := distributed.job()) is not None:
        (folder / JOB).write_text(job)
    return lock


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as config.json keeps them: without the job, which is another one when the run is continued."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if name != "job"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The content of a config.json: what made the run (images, toy or fit), its settings, recipe and data, if known."""

    version: Literal[3]
    experiment: str
    settings: dict[str, Any]
    recipe: Recipe
    data: Origin | None = None


def write_config(
    folder: Path, experiment: str, settings: dict[str, Any], recipe: Recipe, origin: Origin | None = None
) -> None:
    """Write config.json: what made the run, of which data and how, and how to rebuild and sample its model.

    Raises ValueError if it could not be read again, which must not turn out after the training.
    """
    content = {"version": CONFIG_VERSION, "experiment": experiment, "settings": settings, "recipe": asdict(recipe)}
    content |= {} if origin is None else {"data": asdict(origin)}
    write_json(folder / "config.json", content)
    read_config(folder)


def read_config(folder: Path) -> Config:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, if the file cannot be read or is of another version, or if anything in it
    could not be built or sampled.
    """
    if not begun(folder):
        raise ValueError(f"{folder} is no run: it has no config.json")
    return validated(Config, read_json(folder / "config.json"), str(folder / "config.json"))


def read_settings(folder: Path, experiment: str) -> dict[str, Any]:
    """The settings that the run in ``folder`` was started with, for its experiment to validate.

    Raises ValueError as ``read_config``, and if the run is of another experiment.
    """
    config = read_config(folder)
    if config.experiment != experiment:
        raise ValueError(f"{folder} is a run of {one_line(config.experiment)}, not of {experiment}")
    return config.settings


def trim_rows(path: Path, step: int, made: Callable[[dict[str, Any]], T]) -> list[T]:
    """The rows of a metrics.jsonl up to ``step``; later ones, from before a crash, are dropped from the file too.

    So are a line that is damaged, such as one that a kill cut short, and all after it, which is said.
    ``made``: what makes a row of a line's content; ValueError where it cannot.
    """
    lines = path.read_bytes().splitlines() if path.is_file() else []
    kept, rows = b"", []
    for number, line in enumerate(lines, 1):
        try:
            content = parse_json(line, f"{path}, line {number}")
            row, later = made(content), content["step"] > step
        except (ValueError, TypeError, KeyError) as error:
            tqdm.write(f"{path}, line {number} is damaged ({one_line(error)}): its rows end before", file=sys.stderr)
            break
        if not later:
            kept += line + b"\n"
            rows.append(row)
    with atomic(path) as temporary:
        temporary.write_bytes(kept)
    return rows


def read_results(folder: Path) -> dict[str, Any]:
    """The content of a run's metrics.json; empty while the run has not finished.

    Raises ValueError if it cannot be read.
    """
    path = folder / "metrics.json"
    return read_json(path) if path.is_file() else {}


def write_model(folder: Path, model: ScoreModel, units: Units | None = None) -> None:
    """Write model.safetensors, atomically: the weights, and the units of the data if they are not the model's own."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if units is not None:
        tensors |= {"units.shift": units.shift, "units.scale": units.scale}
    with atomic(folder / MODEL) as temporary:
        temporary.write_bytes(sealed(tensors))  # not save_file, whose files only their owner may read


def read_model(folder: Path, recipe: Recipe, *, network: nn.Module | None = None) -> tuple[ScoreModel, Units | None]:
    """The model in a run's folder, as its ``recipe`` says, around a ``network`` of the user's own if it needs one.

    Raises ValueError if the weights are missing, damaged, of another network, or if they are no weights.
    """
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"{folder} has no {MODEL}: its training has not finished a checkpoint")
    tensors, units = read_tensors(path), None
    try:
        if "units.shift" in tensors:
            units = Units(tensors.pop("units.shift"), tensors.pop("units.scale"))
            units.shift.expand(recipe.shape), units.scale.expand(recipe.shape)
        model = recipe.build(tensors["data_mean"], tensors["data_std"], network=network)
        check_tensors(tensors, model.state_dict())
        tensors["data_mean"].expand(recipe.shape)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:  # the last is torch's, for another shape
        raise ValueError(f"{path} is not the whole model that config.json describes ({one_line(error)})") from error
    model.load_state_dict(tensors)
    return model.requires_grad_(False).eval(), units


def find(run: str | Path) -> Path:
    """The folder of a run: the one that is named, or one of those in the package (``SHIPPED``) if there is no such.

    Of hf://user/model@revision it is in the cache of the hub's library, fetched if need be.
    Raises ValueError as ``hub.fetch``.
    """
    if Path(run).parts[:1] == ("hf:",):
        return hub.fetch(run)
    if str(run) in SHIPPED and not begun(Path(run)):
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of tensors and their names, whatever the order of these."""
    found = hashlib.sha256(f"dict {len(tensors)}\n".encode())
    for name in sorted(tensors, key=repr):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"str {len(repr(name))} {name!r}\n{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def sealed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of ``tensors``, with their digest in its metadata."""
    return save(tensors, metadata={"sha256": digest(tensors)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those that were written; in a file without a digest, who knows.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if not metadata.keys() <= {"format"} and metadata != {"sha256": digest(tensors)}:
            raise ValueError("its tensors have not the digest that was written with them")
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    return tensors


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text as torch does, and the file's sha256 after them.

    Raises what ``torch.save`` does.
    """
    torch.save(content, path)
    seal = SEAL + hashlib.sha256(np.memmap(path, mode="r").data).hexdigest().encode()
    with path.open("ab") as file:
        file.write(seal)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote; a file without a sha256 is read as it is.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        content = np.memmap(path, mode="r")
        whole, seal = content[: -len(SEAL) - 64], content[-len(SEAL) - 64 :].tobytes()
        if seal.startswith(SEAL) and seal != SEAL + hashlib.sha256(whole.data).hexdigest().encode():
            raise ValueError("it has not the sha256 that was written with it")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is no whole checkpoint ({one_line(error)})") from error
    return state


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless ``tensors`` has the names, shapes and kinds of ``expected``, and is finite."""
    for name in sorted(tensors.keys() ^ expected.keys()):
        raise ValueError(f"{name} is {'unexpected' if name in tensors else 'missing'}")
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape or tensor.is_floating_point() != wanted.is_floating_point():
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; {tuple(wanted.shape)} is needed"
            )
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite")
