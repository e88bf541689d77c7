"""Runs on Hugging Face's hub: fetched into its cache, and sent there; the only room that knows ``huggingface_hub``.

Only ``FILES`` are fetched or sent: text and safetensors, none larger than its limit, and never code or pickles.  What
is fetched is a folder like any other run's, and validated as one.  Tokens, caches, addresses and offline switches are
the library's own: HF_TOKEN, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ncsn.files import JSON_LIMIT, one_line, read_json, some

WEIGHTS_LIMIT = 2**33  # bytes: 2 · 10⁹ numbers, in single precision
FILES = {
    "README.md": JSON_LIMIT,
    "metrics.json": JSON_LIMIT,
    "evaluation.json": JSON_LIMIT,
    "guide/config.json": JSON_LIMIT,
    "guide/model.safetensors": WEIGHTS_LIMIT,
    "student/config.json": JSON_LIMIT,
    "student/model.safetensors": WEIGHTS_LIMIT,
    "student/metrics.json": JSON_LIMIT,
    "model.safetensors": WEIGHTS_LIMIT,
    "config.json": JSON_LIMIT,
}
"""What is shared of a run, and how many bytes each may have; config.json last: a fetched run that has it is whole."""
NEEDED, GUIDE = {"config.json", "model.safetensors"}, {"guide/config.json", "guide/model.safetensors"}
MODEL = r"[\w-][\w.-]*/[\w-][\w.-]*"
REVISION = r"(?!.*\.\.)\w[\w./-]*"


def library() -> Any:
    """The library.  Raises ValueError if it is not installed."""
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError("models are shared by huggingface_hub: pip install 'ncsn[hub]'") from error
    return huggingface_hub


@dataclass(frozen=True)
class Place:
    """Where a run is on the hub: ``user/model``, and a branch, a tag or a commit of it."""

    model: str
    revision: str = "main"

    @classmethod
    def of(cls, run: str | Path) -> "Place":
        """The place that hf://user/model or hf://user/model@revision names; a path has one slash less.

        Raises ValueError if it names none.
        """
        text = Path(run).as_posix()
        found = re.fullmatch(f"hf:/({MODEL})(?:@({REVISION}))?", text, re.ASCII)
        if found is None:
            raise ValueError(f"{one_line(text)} names no model; hf://user/model or hf://user/model@revision is needed")
        return cls(found[1], found[2] or "main")

    def __str__(self) -> str:
        """What a user writes."""
        return f"hf://{self.model}" + ("" if self.revision == "main" else f"@{self.revision}")


@contextmanager
def asking(place: Place) -> Iterator[None]:
    """Within it, whatever the library says becomes a ValueError of one line."""
    hub = library()
    try:
        yield
    except Exception as error:  # of many kinds, by the library's version
        reasons = {
            hub.errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set, and only what is in the cache can be had",
            hub.errors.GatedRepoError: "its owner has to let you in, on its page",
            hub.errors.RepositoryNotFoundError: "there is no such model, or none that your token (HF_TOKEN, or "
            "`hf auth login`) may see",
            hub.errors.RevisionNotFoundError: f"it has no revision {place.revision}",
        }
        wrapped = isinstance(error, RuntimeError | hub.errors.LocalEntryNotFoundError) and error.__cause__
        cause = wrapped or error  # of the two, what says why
        known = next((reason for kind, reason in reasons.items() if isinstance(cause, kind)), None)
        said = known or one_line(getattr(cause, "server_message", None) or cause)
        raise ValueError(f"{place} at {hub.constants.ENDPOINT}: {said}") from error


def say(line: str) -> None:
    """Tell the user; of several processes that torchrun has started, the first does."""
    if os.environ.get("RANK", "0") == "0":
        tqdm.write(line, file=sys.stderr)


def fetch(run: str | Path) -> Path:
    """The folder, in the library's cache, of the run that hf://user/model@revision names.

    A revision that is there is not asked for again: a branch stays as it was when it was fetched, which is said.
    Raises ValueError if it names none, if the hub cannot be asked or has no such run, or if that is too large.
    """
    place = Place.of(run)
    folder = cached(place)
    if folder is None:
        folder = fetched(place)
    elif place.revision != folder.name:
        say(f"{place} is commit {folder.name[:7]}, as fetched before; to ask again, delete {folder.parent.parent}")
    return folder


def cached(place: Place) -> Path | None:
    """The run's folder if all of it is in the cache, where another program may have put some of it."""
    found = library().try_to_load_from_cache(place.model, "config.json", revision=place.revision)
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and all((folder / name).is_file() for name in needed(folder)) else None


def needed(folder: Path) -> set[str]:
    """What a run is not whole without: its guide too, if its samples move away from one."""
    try:
        sampling = read_json(folder / "config.json")["recipe"]["sampling"]
        guided = sampling["guidance"] != 1 and sampling["guide"] == "smaller"
    except (ValueError, KeyError, TypeError):  # who reads it will say what is wrong
        guided = False
    return NEEDED | GUIDE if guided else NEEDED


def fetched(place: Place) -> Path:
    """The run's folder after its files have been fetched into the cache.  Raises ValueError as ``fetch``."""
    hub = library()
    with asking(place):
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        info = hub.HfApi().model_info(place.model, revision=place.revision, files_metadata=True, timeout=timeout)
    sizes = {file.rfilename: file.size for file in info.siblings}
    if missing := NEEDED - sizes.keys():
        raise ValueError(f"{place} is no run: it has no {min(missing)}, but {some(sorted(sizes))}")
    names = [name for name in FILES if name in sizes]
    for name in names:
        check_size(f"{place}: {name}", sizes[name], FILES[name])
    if others := sorted(sizes.keys() - FILES.keys() - {".gitattributes"}):
        say(f"{place}: not fetched, for it is no part of a run: {some(others)}")
    with asking(place):
        for name in names:
            hub.hf_hub_download(place.model, name, revision=info.sha)
        # Once more by the revision's own name, so that the cache knows which commit it is.
        folder = Path(hub.hf_hub_download(place.model, "config.json", revision=place.revision)).parent
    if folder.name != info.sha:
        raise ValueError(f"{place} has changed while it was fetched; ask again")
    say(f"{place} is commit {folder.name[:7]}: {len(names)} files, {sum(sizes[n] for n in names):,} bytes, fetched")
    return folder


def check_size(what: str, size: int | None, limit: int) -> None:
    """Raises ValueError if a file is larger than its limit, or if nobody says how large it is."""
    if size is None or size > limit:
        raise ValueError(f"{what} has {'?' if size is None else f'{size:,}'} bytes; at most {limit:,} are allowed")


def size_of(content: bytes | Path) -> int:
    """How many bytes a file has, or will have."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def send(model: str, files: dict[str, bytes | Path], *, public: bool, overwrite: bool) -> str:
    """Send a run's files to the hub, as one commit; returns what is there then, in one line.

    ``files``: some of ``FILES``, with their contents or where these are.  ``public``: whether everybody may see them.
    ``overwrite``: replace a model that is there; git keeps it.
    Raises ValueError if the hub cannot be asked or refuses, if a model is there, or if it is not as ``public``.
    """
    hub, place = library(), Place(model)
    api = hub.HfApi()
    for name, content in files.items():
        check_size(name, size_of(content), FILES[name])
    if hub.get_token() is None:
        raise ValueError(f"{place}: you have no token; `hf auth login` keeps one, or HF_TOKEN is one")
    with asking(place):
        try:
            info = api.model_info(model, timeout=hub.constants.HF_HUB_ETAG_TIMEOUT)
        except hub.errors.RepositoryNotFoundError:
            api.create_repo(model, private=not public)
            info = api.model_info(model)
    there = {file.rfilename for file in info.siblings} & FILES.keys()
    if there and not overwrite:
        raise ValueError(f"{place} has {some(sorted(there))} already; give --overwrite to replace them")
    if bool(info.private) == public:
        is_so, way = ("private", "without --public") if public else ("public", "with --public")
        raise ValueError(f"{place} is {is_so}; push {way}, or change that on its page")
    with asking(place):
        changes = [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(there - files.keys())]
        changes += [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=x) for name, x in files.items()]
        commit = api.create_commit(model, changes, commit_message="A run of ncsn", parent_commit=info.sha)
    size, seen = sum(map(size_of, files.values())), "public" if public else "private"
    return f"hf://{model}@{commit.oid}: {len(files)} files, {size:,} bytes, {seen}; {hub.constants.ENDPOINT}/{model}"
