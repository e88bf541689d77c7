"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

What is read is validated first: ``ncsn.untrusted`` bounds it, and ``ncsn.validation`` makes dataclasses of it.

``config.json``              the experiment, the settings that it was started with, the run's ``Recipe``, and its data
``model.safetensors``        the averaged weights, with the data's mean and std
``checkpoint.pt``            the whole training state, to resume from
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
``student/``                 another run, of a copy that draws by few evaluations; if there is one
"""

import hashlib
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from ncsn import distributed, hub, networks
from ncsn.data import Origin
from ncsn.files import HOST, JSON_LIMIT, ROWS_LIMIT, atomic, one_line, parse_json, read_bytes, read_json, some, sweep
from ncsn.model import ScoreModel
from ncsn.recipe import Recipe
from ncsn.units import Units
from ncsn.validation import validated

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # one may stand for another

DIGEST = "sha256"

T = TypeVar("T")

CONFIG_VERSION = 3
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
STUDENT = "student"  # the folder, in the run's own, of a run that has learned to draw by few evaluations
RUN_FILES = (
    MODEL,
    CHECKPOINT,
    "metrics.jsonl",
    "pace.jsonl",
    "metrics.json",
    "config.json",
)  # what a training goes on from, or leaves
TOLD = ("evaluation.json", "evaluation.png", "evaluation.npz", "samples_[0-9]*.png")  # of a run, beside its files
JOB = ".job"  # says which of torchrun's has begun the run
LONGEST_NAME = 100  # of an experiment
SHIPPED = ("mnist",)  # the runs in the package, under assets/models


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
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is needed")
    if overwrite and resume:
        raise ValueError("both --overwrite and --resume are given; at most one is allowed")
    if begun(folder) and not overwrite and not resume:
        raise ValueError(
            f"{folder} holds another run; give --overwrite to replace it, --resume to continue it, or another --out"
        )
    for run in (folder, folder / "guide"):
        if resume and (run / MODEL).exists() and not (run / CHECKPOINT).exists():
            raise ValueError(
                f"{run} has weights, but no {CHECKPOINT} to go on from; put it there, or give another --out"
            )
    foreign = next((name for name in (*RUN_FILES, *pictures) if (folder / name).exists()), None)
    if foreign is not None and not begun(folder) and not overwrite:
        raise ValueError(f"{folder} is no run, but has a {foreign}; give --overwrite to replace it, or another --out")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False, pictures: tuple[str, ...] = ()) -> FileLock:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed, and what was said of an old one, config.json last, so that a kill leaves
    nothing that another run would go on from; and what a kill has left half written.
    Returns the lock that keeps other processes out for as long as it is kept; a kill releases it too.
    Raises ValueError as ``check``, and if another process writes into the folder.
    """
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    check(folder, overwrite=overwrite, resume=resume, pictures=pictures)  # again: whoever held it may have left a run
    for run in (folder / "guide", folder / STUDENT, folder):
        sweep(run, everybodys=True)
        if overwrite or (resume and run == folder / STUDENT):  # which is of the weights as they were
            told = [path.name for pattern in TOLD for path in run.glob(pattern)] if begun(run) else []
            for name in (*told, *RUN_FILES):
                (run / name).unlink(missing_ok=True)
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
    """Write config.json: what made the run, of which data and how, and how to rebuild and sample its model.

    Raises ValueError if it could not be read again, which must not turn out after the training.
    """
    content = {"version": CONFIG_VERSION, "experiment": experiment, "settings": settings, "recipe": asdict(recipe)}
    content |= {} if origin is None else {"data": asdict(origin)}
    if len(json.dumps(content)) > JSON_LIMIT // 2:  # indented, it is longer
        raise ValueError(f"{folder / 'config.json'} would be too long to be read: {len(recipe.shares)} classes")
    config_of(parse_json(json.dumps(content).encode(), str(folder)), folder / "config.json")
    write_json(folder / "config.json", content)


@dataclass(frozen=True)
class Config:
    """The content of a config.json: what made the run (images, toy or fit), its settings, recipe and data, if known."""

    experiment: str
    settings: dict[str, Any]
    recipe: Recipe
    data: Origin | None = None

    def __post_init__(self) -> None:
        """Refuse what would not fit a line."""
        if not self.experiment.isprintable() or len(self.experiment) > LONGEST_NAME:
            raise ValueError(f"experiment is {self.experiment!r:.40}; at most {LONGEST_NAME} letters are needed")


def read_config(folder: Path) -> Config:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, if the file cannot be read or is of another version, or if anything in it
    could not be built or sampled.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: it has no config.json")
    return config_of(read_json(path), path)


def config_of(content: Any, path: Path) -> Config:
    """The content of a config.json, validated; ``path``: what errors call it.  Raises ValueError as ``read_config``."""
    if not isinstance(content, dict) or "version" not in content:
        raise ValueError(f"{path} cannot be read (it has no version)")
    version = content["version"]
    if type(version) is not int or version != CONFIG_VERSION:
        raise ValueError(f"{path} is of version {version!r:.40}; this program reads version {CONFIG_VERSION}")
    config = validated(Config, {name: value for name, value in content.items() if name != "version"}, str(path))
    if config.recipe.network in networks.__all__:
        try:
            config.recipe.outline()
        except ValueError as error:
            raise ValueError(f"{path}: recipe.arguments: {one_line(error)}") from error
    return replace(config, settings=content["settings"])  # with tuples still


def read_settings(folder: Path, experiment: str) -> dict[str, Any]:
    """The settings that the run in ``folder`` was started with, for its experiment to validate.

    Raises ValueError as ``read_config``, and if the run is of another experiment.
    """
    config = read_config(folder)
    if config.experiment != experiment:
        raise ValueError(f"{folder} is a run of {config.experiment}, not of {experiment}")
    return dict(config.settings)


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
            if not isinstance(content, dict) or type(content.get("step")) is not int:
                raise ValueError(f"{path}, line {number} has no step")
            row = made(content)
        except ValueError as error:
            tqdm.write(f"{one_line(error)}: its rows end before", file=sys.stderr)
            break
        if content["step"] <= step:
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
        raise ValueError(f"{path} holds {type(results).__name__}; an object is needed")
    return results


def write_model(folder: Path, model: ScoreModel, units: Units | None = None) -> None:
    """Write model.safetensors, atomically: the weights, and the units of the data if they are not the model's own.

    Their digest goes with them.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if units is not None:
        tensors |= {"units.shift": units.shift, "units.scale": units.scale}
    with atomic(folder / MODEL) as temporary:
        temporary.write_bytes(sealed(tensors))  # not save_file, whose files only their owner may read


def read_model(folder: Path, recipe: Recipe, *, network: nn.Module | None = None) -> tuple[ScoreModel, Units | None]:
    """The model in a run's folder, as its ``recipe`` says, around a ``network`` of the user's own if it needs one.

    Raises ValueError if the weights are missing, damaged or of another network, or if they are no weights: nothing is
    built before the file is known to hold what will be.
    """
    path = folder / MODEL
    if not path.is_file():
        raise ValueError(f"{folder} has no {MODEL}: its training has not finished a checkpoint")
    weights = read_tensors(path)
    try:
        units = units_of(weights, recipe.shape)
        mean, std = weights.get("data_mean"), weights.get("data_std")
        outline = recipe.build(network=recipe.outline() if network is None else network).state_dict()
        check_tensors(weights, outline if mean is None else outline | {"data_mean": mean})
        if mean is None or std is None or not float(std) > 0 or not fits(mean, recipe.shape):
            raise ValueError("data_mean must be like an example, and data_std positive")
    except ValueError as error:
        raise ValueError(f"{path} is not the whole model that config.json describes ({one_line(error)})") from error
    model = recipe.build(mean, std, network=network)
    model.load_state_dict(weights)
    return model.requires_grad_(False).eval(), units


def units_of(weights: dict[str, Tensor], shape: tuple[int, ...]) -> Units | None:
    """The units among the ``weights``, which are taken out.  Raises ValueError if they are none."""
    found = {name: weights.pop(f"units.{name}") for name in ("shift", "scale") if f"units.{name}" in weights}
    if not found:
        return None
    units = all(bool(tensor.isfinite().all()) and fits(tensor, shape) for tensor in found.values())
    if len(found) < 2 or not units or not bool((found["scale"] > 0).all()):
        raise ValueError("units.shift and units.scale must be like an example, finite, and the scale positive")
    return Units(**found)


def fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether the tensor broadcasts against one example."""
    try:
        return tensor.is_floating_point() and tensor.expand(shape).shape == shape
    except RuntimeError:  # torch's own name for no
        return False


def find(run: str | Path) -> Path:
    """The folder of a run: the one that is named, or one of those in the package (``SHIPPED``) if there is no such.

    Of hf://user/model@revision it is in the cache of the hub's library, fetched if need be.
    Raises ValueError as ``hub.fetch``.
    """
    if Path(run).parts[:1] == ("hf:",):
        return hub.fetch(run)
    if Path(run).parts[:1] in [(name,) for name in SHIPPED] and not (Path(run) / "config.json").is_file():
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)


def digest(content: object) -> str:
    """The sha256 of tensors, numbers and text, in whatever dictionaries and lists; the order of names is no matter.

    Raises ValueError for anything else.
    """
    found = hashlib.sha256()
    for piece in pieces(content):
        found.update(piece)
    return found.hexdigest()


def pieces(content: object) -> Iterator[Any]:
    """The bytes that stand for ``content``, and for nothing else."""
    if isinstance(content, Tensor):
        yield f"{content.dtype} {tuple(content.shape)}\n".encode()
        yield content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(content, dict):
        yield f"dict {len(content)}\n".encode()
        for name in sorted(content, key=repr):
            yield from pieces(name)
            yield from pieces(content[name])
    elif isinstance(content, list | tuple):
        yield f"list {len(content)}\n".encode()
        for item in content:
            yield from pieces(item)
    elif content is None or isinstance(content, bool | int | float | str):
        text = repr(content)
        yield f"{type(content).__name__} {len(text)} {text}\n".encode()
    else:
        raise ValueError(f"it holds a {type(content).__name__}; tensors, numbers and text are allowed")


def sealed(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file of ``tensors``, with their digest in its metadata."""
    return save(tensors, metadata={DIGEST: digest(tensors)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those that were written; in a file without a digest, who knows.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        with safe_open(path, "pt") as file:
            known = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        unsealed = known.keys() <= {"format"}  # as others write it, and this program did
        if not unsealed and known != {DIGEST: digest(tensors)}:
            raise ValueError("its tensors have not the digest that was written with them")
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    return tensors


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors, numbers and text as torch does, with their digest.  Raises what ``torch.save`` does."""
    torch.save(content | {DIGEST: digest(content)}, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``save_checkpoint`` wrote; in a file without a digest, which an earlier version did, what is there.

    Raises ValueError if it cannot be read, or is not as it was written.
    """
    try:
        held = check_records(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        check_storages(content, held)
        known = content.pop(DIGEST, None)
        found = None if known is None else digest(content)
    except Exception as error:  # of many kinds, by what is broken
        raise ValueError(f"{path} is no whole checkpoint ({one_line(error)})") from error
    if found != known:
        raise ValueError(f"{path} is damaged: its content has not the digest that was written with it")
    return content


def check_records(path: Path) -> int:
    """The bytes of tensors in a file that ``torch.save`` wrote.

    Raises ValueError if a record is not as it was written, or is compressed, as torch writes none.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("a record is compressed")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
    return sum(info.file_size for info in infos if "/data/" in info.filename)


def check_storages(content: object, held: int) -> None:
    """Raises ValueError if tensors claim more memory than the ``held`` bytes that the file has for them."""
    sizes: dict[int, int] = {}
    for tensor in tensors_in(content):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"a tensor is {tensor.layout}, on {tensor.device}")
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has {storage.nbytes():,} bytes")
        sizes[storage.data_ptr()] = storage.nbytes()
    if sum(sizes.values()) > held:
        raise ValueError(f"tensors claim {sum(sizes.values()):,} bytes; it has {held:,}")


def tensors_in(content: object) -> Iterator[Tensor]:
    """All tensors, however deep."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from tensors_in(item)


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless ``found`` has the names and shapes of ``expected``, and finite numbers of like kinds."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"missing are {some(missing)}; unexpected are {some(unknown)}")
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype not in (
            tensor.dtype,
            *(FLOATS if tensor.dtype in FLOATS else ()),
        ):
            raise ValueError(
                f"{name} has shape {tuple(other.shape)} of {other.dtype}; {tuple(tensor.shape)} of {tensor.dtype} "
                "is needed"
            )
        if not bool(other.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite")
