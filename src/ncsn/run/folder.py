"""A run's folder: what is in it, who may write there, and where runs are found.

``config.json``              the settings that it was started with, its ``Recipe``, and its data
``model.safetensors``        the averaged weights, with the data's mean and std, and their sha256
``checkpoint.pt``            the whole training state, to resume from (``training.State``); it ends in its sha256
``guide/``                   another run, of a smaller network that sampling moves away from; if there is one
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import torch
from filelock import FileLock, Timeout
from torch import nn

from ncsn.kinds.kind import Origin
from ncsn.run.recipe import Recipe
from ncsn.score import ScoreModel
from ncsn.storage import atomic, check_regular, read_tensors, seal, sweep, write_json
from ncsn.validation import Json, one_line, read_json, validated

VERSION: Final = 5
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
# What trainings and evaluations write, and --overwrite removes, config.json last: so a kill leaves no half of a run.
EVALUATION = ("evaluation.json", "evaluation.png", "evaluation.npz")
WRITTEN = (MODEL, CHECKPOINT, "metrics.jsonl", "metrics.json", *EVALUATION, "config.json")
FIGURES = ("samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png")  # that trainings draw
SHIPPED = ("mnist",)  # the runs in the package, under assets/models
RUN_FILES = ["config.json", MODEL, "metrics.json", "guide/config.json", "guide/model.safetensors"]
# What is fetched from the hub, or sent there: text and safetensors, never code or pickles.
SHARED = [*RUN_FILES, "evaluation.json", "README.md"]


def storable_settings(settings: Json) -> Json:
    """Settings as config.json keeps them: without the job, which is another one when the run is continued."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if name != "job"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The content of a config.json.

    ``settings``: how the run was trained.  ``recipe``: how to build and sample it.
    ``data``: what it has learned from, if that is known.  ``measured``: numbers about the trained run.
    """

    version: Literal[5]
    settings: Json
    recipe: Recipe
    data: Origin | None = None
    measured: dict[str, float] = field(default_factory=dict)


def write_config(folder: Path, config: Config) -> None:
    """Write config.json, with a digest of its content.

    Raises ValueError if it could not be read again, which must not turn out after the training.
    """
    content = {name: value for name, value in asdict(config).items() if value is not None}
    write_json(folder / "config.json", content | {"sha256": digest_of(content)})
    read_config(folder)


def digest_of(content: Json) -> str:
    """The sha256 of a config.json's content, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_config(folder: Path) -> Config:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, if the file cannot be read, was changed or is of another version, or if
    anything in it could not be built or sampled.
    """
    if not has_run(folder):
        raise ValueError(f"{folder} is not a run: it has no config.json")
    content = read_json(folder / "config.json")
    seal = content.pop("sha256", None)
    config = validated(Config, content, str(folder / "config.json"))
    if seal != digest_of(content):
        raise ValueError(f"{folder / 'config.json'} was changed after it was written")
    return config


def write_model(folder: Path, model: ScoreModel, *, origin: Origin | None = None) -> None:
    """Write model.safetensors, atomically.

    A metrics.json that is there goes, for its numbers are of the former weights.

    ``origin``: the data that the weights have learned from, whose sha256 goes into the file's metadata.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic(folder / MODEL) as temporary:
        # Not by save_file, whose files only their owner may read.
        temporary.write_bytes(seal(tensors, origin.digest if origin else ""))
        (folder / "metrics.json").unlink(missing_ok=True)


@torch.inference_mode(False)
@torch.random.fork_rng(devices=[])  # initial weights are drawn, and replaced
def read_model(folder: Path, config: Config, *, network: nn.Module | None = None) -> ScoreModel:
    """The model in a run's folder, as its recipe says, around a ``network`` of the user's own if it needs one.

    Also where the caller is in ``torch.inference_mode``, whose tensors have no gradients, and posteriors need them.
    ``config``: what the folder's config.json says.
    Raises ValueError if the weights are missing, damaged, of another network or other data, or if they are none.
    """
    path, recipe = folder / MODEL, config.recipe
    tensors = read_tensors(path, data=config.data.digest if config.data else "")
    try:
        start = {name: tensor for name, tensor in tensors.items() if not name.startswith("network.")}
        model = recipe.build(start, network=network)
        model.load_state_dict(tensors)
        model.data_mean.expand(recipe.shape)
        example = recipe.transform.inverse(torch.zeros(2, *recipe.shape, device="cpu"))
        finite = recipe.transform.log_abs_det_jacobian(example).isfinite().all()
        if recipe.transform.forward(example).shape[1:] != recipe.shape or not bool(finite):
            raise ValueError(f"the transform is not of examples of shape {recipe.shape}, or not finite")
    except (ValueError, LookupError, TypeError, RuntimeError) as error:  # the last is torch's, for another shape
        raise ValueError(f"{path} is not the whole model that config.json describes ({one_line(error)})") from error
    return model.requires_grad_(False).eval()


def has_run(folder: Path) -> bool:
    """Whether there is a run in ``folder``, however short."""
    return (folder / "config.json").is_file()


def check_folder(folder: Path, *, overwrite: bool = False, resume: bool = False, figures: tuple[str, ...] = ()) -> None:
    """Raises ValueError if a run may not write into ``folder``: something else is there, or what would be replaced.

    A run without a checkpoint, copied or saved from Python, cannot be resumed: it would begin anew.

    ``figures``: names of further files that will be written there.
    """
    guide, names = folder / "guide", (*WRITTEN, *FIGURES, *figures)
    if guide.is_symlink() or guide.is_file():
        raise ValueError(f"{guide} is a link or a file instead of the run's own folder; choose another --out")
    for place in (folder, guide):
        for name in names:
            check_regular(place / name)
        if resume and (place / MODEL).exists() and not (place / CHECKPOINT).exists():
            raise ValueError(f"{place} has weights, but no {CHECKPOINT} to continue from; choose another --out")
    if overwrite or (resume and has_run(folder)):
        return
    if has_run(folder):
        raise ValueError(f"{folder} holds another run; --overwrite (overwrite=True) replaces it, --resume continues it")
    for path in (place / name for place in (folder, guide) for name in names if (place / name).exists()):
        found = path.relative_to(folder)
        raise ValueError(f"{folder} is no run, but has a {found}; --overwrite (overwrite=True) replaces it")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False, keep: bool = False) -> FileLock:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed, and what a kill has left half written.
    ``keep``: leave the old run, for ``remove_run`` when the first files of the new one are whole.
    Returns the lock that keeps other processes out for as long as it is kept; a kill releases it too.
    Raises ValueError as ``check_folder``, and if another process writes into the folder.
    """
    check_folder(folder, overwrite=overwrite, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing {folder}; wait for it, or choose another --out") from error
    check_folder(folder, overwrite=overwrite, resume=resume)  # again: whoever held the lock may have left a run
    for run in (folder / "guide", folder):
        sweep(run, everybodys=True)
    if overwrite and not keep:
        remove_run(folder)
    return lock


def remove_run(folder: Path) -> None:
    """Remove what runs write into ``folder``, which is claimed; pictures stay."""
    for run in (folder / "guide", folder):
        for name in WRITTEN:
            (run / name).unlink(missing_ok=True)


def find(run: str | Path) -> Path:
    """The folder of a run: the one that is named, or one of those in the package (``SHIPPED``) if there is no such.

    Of hf://user/model@revision it is in the cache of the hub's library, fetched if need be.
    Raises ValueError as ``fetch``.
    """
    if Path(run).parts[:1] == ("hf:",):
        return fetch(run)
    if str(run) in SHIPPED and not has_run(Path(run)):
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)


@contextmanager
def library_for(model: str) -> Iterator[Any]:
    """The library, of which every error within becomes a ValueError of one line."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("models are shared by huggingface_hub: pip install 'ncsn[hub]'") from error
    try:
        yield huggingface_hub
    except Exception as error:  # of many kinds, by the library's version
        raise ValueError(f"hf://{model}: {one_line(error)}") from error


def fetch(run: str | Path) -> Path:
    """The folder, in the library's cache, of the run that hf://user/model names, or hf://user/model@revision.

    A branch is asked for each time, and taken from the cache where the hub cannot be reached.
    Raises ValueError if it names none, or if the hub has no such run.
    """
    model, _, revision = Path(run).as_posix().removeprefix("hf:/").partition("@")
    with library_for(model) as library:
        return Path(library.snapshot_download(model, revision=revision or None, allow_patterns=SHARED))
