"""The files of a run's folder.

``config.json``              the settings, the ``Recipe`` and the origin of the data, with a sha256
``model.safetensors``        the averaged weights, with the data's mean and std, and a sha256
``checkpoint.pt``            the training state to resume from (``training.State``), followed by its sha256
``guide/``                   the run of a smaller network that guides sampling, if there is one
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import torch
from filelock import FileLock, Timeout
from torch import nn

from ncsn.data.dataset import Origin
from ncsn.machine.messages import log
from ncsn.machine.storage import atomic, check_regular, read_tensors, seal, sha256_of, sweep, write_json
from ncsn.run.recipe import Recipe
from ncsn.score import ScoreModel
from ncsn.validation import Json, from_json, one_line, read_json

VERSION: Final = 5
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.pt"
# What trainings and evaluations write and --overwrite removes; config.json last, so that a kill leaves no partial run.
EVALUATION = ("evaluation.json", "evaluation.png", "evaluation.npz")
WRITTEN = (MODEL, CHECKPOINT, "metrics.jsonl", "metrics.json", *EVALUATION, "config.json")
# What trainings draw, the toys included.
FIGURES = ("samples.png", "samples_annealed.png", "evolution.png", "evolution.gif", "loss.png", "score_field.png")
SHIPPED = ("mnist", "prior")  # the runs in the package, under assets/models
# Downloaded from the hub: JSON and safetensors, never code or pickles.
DOWNLOADED = ["config.json", MODEL, "metrics.json", "guide/config.json", "guide/model.safetensors"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The content of a config.json.

    ``settings``: how the run was trained.  ``recipe``: how to build and sample it.
    ``data``: the origin of its training data, if known.  ``measured``: metrics of the trained run.
    """

    version: Literal[5]
    settings: Json
    recipe: Recipe
    data: Origin | None = None
    measured: dict[str, float] = field(default_factory=dict)


def write_config(folder: Path, config: Config) -> None:
    """Write config.json, with a digest of its content.

    Raises ValueError if it can't be read back, which would otherwise only show after the training.
    """
    content = {name: value for name, value in asdict(config).items() if value is not None}
    write_json(folder / "config.json", content | {"sha256": digest_of(content)})
    read_config(folder)


def digest_of(content: Json) -> str:
    """The sha256 of a config.json's content, in hexadecimal."""
    return sha256_of([json.dumps(content, sort_keys=True)])


def read_config(folder: Path) -> Config:
    """The content of a run's config.json.

    Raises ValueError if the folder isn't a run, if the file can't be read, was changed or has another version, or if it
    holds an invalid value.
    """
    if not has_run(folder):
        raise ValueError(f"{folder} is not a run: it has no config.json")
    content = read_json(folder / "config.json")
    seal = content.pop("sha256", None)
    try:
        config = from_json(Config, content, str(folder / "config.json"))
    except ValueError as error:
        if seal != digest_of(content):
            raise
        # It is as ncsn has written it.
        raise ValueError(f"{folder} is a run of another version of ncsn; train it again ({error})") from error
    if seal != digest_of(content):
        raise ValueError(f"{folder / 'config.json'} was changed after it was written")
    return config


def write_model(folder: Path, model: ScoreModel, *, origin: Origin | None = None) -> None:
    """Write model.safetensors atomically, and remove the metrics and the evaluation of other weights.

    ``origin``: the training data; its sha256 becomes part of the digest in the file.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    content, path = seal(tensors, origin.digest if origin else ""), folder / MODEL
    outdated = EVALUATION if path.exists() and path.read_bytes() != content else ()
    with atomic(path) as temporary:
        # Not save_file, because only the owner could read the file.
        temporary.write_bytes(content)
        for name in ("metrics.json", *outdated):
            (folder / name).unlink(missing_ok=True)


@torch.inference_mode(False)
@torch.random.fork_rng(devices=[])  # initial weights are drawn, and replaced
def read_model(folder: Path, config: Config, *, network: nn.Module | None = None) -> ScoreModel:
    """The model in a run's folder, built by its recipe, around a custom ``network`` if it needs one.

    It leaves ``torch.inference_mode``, because posteriors need the gradients of its tensors.
    ``config``: the content of the folder's config.json.
    Raises ValueError if the weights are missing or damaged, or belong to another network or other data.
    """
    path, recipe = folder / MODEL, config.recipe
    tensors = read_tensors(path, data=config.data.digest if config.data else "")
    try:
        start = {name: tensor for name, tensor in tensors.items() if not name.startswith("network.")}
        model = recipe.build(start, network=network)
        model.load_state_dict(tensors)
        example = recipe.transform.inverse(torch.zeros(2, *recipe.shape, device="cpu"))
        finite = recipe.transform.log_abs_det_jacobian(example).isfinite().all()
        if recipe.transform.forward(example).shape[1:] != recipe.shape or not bool(finite):
            raise ValueError(f"its transform is not finite, or not for examples of shape {recipe.shape}")
    except (ValueError, LookupError, TypeError, RuntimeError) as error:  # torch raises the last for other shapes
        raise ValueError(f"{path} is not the model that config.json describes ({one_line(error)})") from error
    return model.requires_grad_(False).eval()


def has_run(folder: Path) -> bool:
    """Whether there is a run in ``folder``, even if its training has only just begun."""
    return (folder / "config.json").is_file()


def has_own_run(folder: Path) -> bool:
    """Whether there is a run in ``folder`` whose config.json is as ncsn has written it."""
    with suppress(ValueError):
        content = read_json(folder / "config.json")
        return bool(content.pop("sha256", None) == digest_of(content))
    return False


def check_folder(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Raises ValueError if a run mustn't be written to ``folder``, because it would replace files or another run.

    A run without a checkpoint, copied or saved from Python, can't be resumed.
    """
    guide, names = folder / "guide", (*WRITTEN, *FIGURES)
    if folder.is_file() or guide.is_symlink() or guide.is_file():
        wrong = folder if folder.is_file() else guide
        raise ValueError(f"{wrong} is a link or a file instead of the run's own folder; choose another --out")
    for place in (folder, guide):
        for name in names:
            check_regular(place / name)
        if resume and (place / MODEL).exists() and not (place / CHECKPOINT).exists():
            raise ValueError(f"{place} has weights, but no {CHECKPOINT} to resume from; choose another --out")
    if overwrite or (resume and has_run(folder)):
        return
    if has_own_run(folder):
        others = "replace it with --overwrite (overwrite=True), or continue it with `ncsn train --resume`"
        raise ValueError(f"{folder} holds another run; {others}")
    for path in (place / name for place in (folder, guide) for name in names if (place / name).exists()):
        found = path.relative_to(folder)
        raise ValueError(f"{folder} is not a run, but has a {found}; --overwrite (overwrite=True) replaces it")


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False, keep: bool = False) -> FileLock:
    """Create and lock ``folder`` for a run; with ``overwrite``, remove the old run first.

    Only files that runs write are removed, and temporary files of killed processes.
    ``keep``: keep the old run for now; the caller removes it (``remove_run``) once the new one has its first files.
    Returns the lock, which keeps other processes out; a kill releases it, too.
    Raises ValueError as ``check_folder`` does, and if another process is writing to the folder.
    """
    check_folder(folder, overwrite=overwrite, resume=resume)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another process is writing to {folder}; wait for it, or choose another --out") from error
    # Again, because the previous holder of the lock may have left a run.
    check_folder(folder, overwrite=overwrite, resume=resume)
    for run in (folder / "guide", folder):
        sweep(run)
    if overwrite and not keep:
        remove_run(folder)
    return lock


def remove_run(folder: Path) -> None:
    """Remove the run in a claimed ``folder`` and say so; its figures stay."""
    if has_run(folder):
        log.info(f"{folder} held another run, which is replaced")
    for run in (folder / "guide", folder):
        for name in WRITTEN:
            (run / name).unlink(missing_ok=True)


def find(run: str | Path) -> Path:
    """The folder of a run: a path, a model in the package (``SHIPPED``), or the cached download of hf://user/model.

    Raises ValueError as ``fetch`` does.
    """
    if Path(run).parts[:1] == ("hf:",):
        return fetch(run)
    if str(run) in SHIPPED and not has_run(Path(run)):
        return Path(str(resources.files("ncsn") / "assets" / "models" / str(run)))
    return Path(run)


def fetch(run: str | Path) -> Path:
    """Download hf://user/model or hf://user/model@revision, and return its folder in the library's cache.

    Branches are looked up on the hub every time; if it can't be reached, the cached files are used.
    Raises ValueError if the name is invalid or the hub has no such run.
    """
    model, _, revision = Path(run).as_posix().removeprefix("hf:/").partition("@")
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError("runs on the hub need huggingface_hub: pip install 'ncsn[hub]'") from error
    try:
        return Path(huggingface_hub.snapshot_download(model, revision=revision or None, allow_patterns=DOWNLOADED))
    except Exception as error:  # the kinds depend on the library's version
        raise ValueError(f"hf://{model}: it can't be downloaded ({one_line(error)})") from error
