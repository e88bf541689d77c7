"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

``config.json``              the experiment, the settings that it was started with, the run's ``Recipe``, and its data
``model.safetensors``        the averaged weights, with the data's mean and std, and their sha256
``.weights``                 the sha256 of the weights that belong to this run: the last ones, and those before
``checkpoint.pt``            the whole training state, to resume from; it ends in its sha256
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
"""

import hashlib
import json
import os
import sys
import time
import zipfile
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

from ncsn import distributed, hub
from ncsn.data import Origin
from ncsn.files import HOST, JSON_LIMIT, atomic, check_regular, one_line, parse_json, read_bytes, read_json, sweep
from ncsn.files import write_json as write_json
from ncsn.model import ScoreModel
from ncsn.recipe import Recipe, Units
from ncsn.validation import validated

T = TypeVar("T")

CONFIG_VERSION = 3
MODEL, CHECKPOINT, WEIGHTS = "model.safetensors", "checkpoint.pt", ".weights"
RUN_FILES = (MODEL, WEIGHTS, CHECKPOINT, "metrics.jsonl", "metrics.json", "config.json")
"""What a training goes on from, or leaves; in the order in which they are removed."""
RESULTS = ("evaluation.json", "evaluation.png", "evaluation.npz", "samples_[0-9]*.png")  # of a run, beside its files
JOB = ".job"  # says which of torchrun's has begun the run
SHIPPED = ("mnist",)  # the runs in the package, under assets/models
ROWS_LIMIT = 2**26  # bytes of a file with a row of JSON a line
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
    guide = folder / "guide"
    for place in (folder, guide):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; a folder is needed")
        for name in RUN_FILES if overwrite or resume else ():
            check_regular(place / name)
        if resume and (place / MODEL).exists() and not (place / CHECKPOINT).exists():
            raise ValueError(
                f"{place} has weights, but no {CHECKPOINT} to go on from; put it there, or give another --out"
            )
    if guide.is_symlink():
        raise ValueError(f"{guide} is a link, which is not followed; give another --out")
    if begun(folder) and not overwrite and not resume:
        raise ValueError(
            f"{folder} holds another run; give --overwrite to replace it, --resume to continue it, or another --out"
        )
    foreign = next((name for name in (*RUN_FILES, *pictures) if (folder / name).exists()), None)
    if foreign is not None and not begun(folder) and not overwrite:
        raise ValueError(f"{folder} is no run, but has a {foreign}; give --overwrite to replace it, or another --out")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False, pictures: tuple[str, ...] = ()) -> FileLock:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed, and the results of an old one, config.json last, so that a kill leaves
    nothing that another run would go on from; and what a kill has left half written.
    Returns the lock that keeps other processes out for as long as it is kept; a kill releases it too.
    Raises ValueError as ``check``, and if another process writes into the folder.
    """
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)  # again: whoever held it may have left a run
    for run in (folder / "guide", folder):
        sweep(run, everybodys=True)
        if overwrite:
            results = [path for pattern in RESULTS for path in run.glob(pattern)] if begun(run) else []
            for path in (*results, *(run / name for name in RUN_FILES)):
                path.unlink(missing_ok=True)
    if (job := distributed.job()) is not None:
        (folder / JOB).write_text(job)
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


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as config.json keeps them: without the job, which is another one when the run is continued."""
    kept = {name: value for name, value in settings.items() if name != "job"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


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
    path = folder / "config.json"
    if len(json.dumps(content)) > JSON_LIMIT // 2:  # indented, it is longer
        raise ValueError(f"{path} would be too long to be read: {len(recipe.shares)} classes")
    validated(Config, content, str(path))
    write_json(path, content)


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
    Raises ValueError if the file cannot be read.
    """
    lines = read_bytes(path, ROWS_LIMIT).splitlines() if path.is_file() else []
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
    results = read_json(path) if path.is_file() else {}
    if not isinstance(results, dict):
        raise ValueError(f"{path} holds a {type(results).__name__}; an object is needed")
    return results


def write_model(folder: Path, model: ScoreModel, units: Units | None = None) -> None:
    """Write model.safetensors, atomically: the weights, and the units of the data if they are not the model's own.

    Their digest goes with them, and is noted as the run's own before they are.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if units is not None:
        tensors |= {"units.shift": units.shift, "units.scale": units.scale}
    with atomic(folder / MODEL) as temporary:
        temporary.write_bytes(sealed(tensors))  # not save_file, whose files only their owner may read
        with atomic(folder / WEIGHTS) as note:
            # Those before stay the run's own until these have the name.
            note.write_text("\n".join([digest(tensors), *own_weights(folder)[:1]]))


def own_weights(folder: Path) -> list[str]:
    """The digests of the weights that the run has written, the newest first; empty if nobody has noted them."""
    path = folder / WEIGHTS
    return read_bytes(path, 1000).decode(errors="replace").split() if path.is_file() else []


def read_model(folder: Path, recipe: Recipe, *, network: nn.Module | None = None) -> tuple[ScoreModel, Units | None]:
    """The model in a run's folder, as its ``recipe`` says, around a ``network`` of the user's own if it needs one.

    Raises ValueError if the weights are missing, damaged, of another run or network, or if they are no weights.
    """
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"{folder} has no {MODEL}: its training has not finished a checkpoint")
    tensors, own = read_tensors(path), own_weights(folder)
    if own and digest(tensors) not in own:
        raise ValueError(f"{path} has the weights of another run; if they are meant, remove {folder / WEIGHTS}")
    try:
        units = None
        if "units.shift" in tensors:
            units = Units(tensors.pop("units.shift"), tensors.pop("units.scale"))
            units.restore(torch.zeros(1, *recipe.shape))
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
        with zipfile.ZipFile(path) as archive:  # torch compresses nothing, so what it reads is no larger than the file
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("a record is compressed")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
        state.pop("sha256", None)  # once, files had it here
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
