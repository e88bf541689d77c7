"""Runs on Hugging Face's hub, fetched into its cache.

Only ``SHARED`` are fetched or sent: text and safetensors, never code or pickles.  What is fetched is a folder like any
other run's, and read as one.  Tokens, caches, addresses, retries and offline switches are the library's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ncsn.files import one_line

RUN_FILES = ["config.json", "model.safetensors", "metrics.json", "guide/config.json", "guide/model.safetensors"]
EVALUATION, CARD = "evaluation.json", "README.md"
SHARED = [*RUN_FILES, EVALUATION, CARD]


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
        raise ValueError(f"hf://{model}: {one_line(' '.join(str(error).split()))}") from error


def fetch(run: str | Path) -> Path:
    """The folder, in the library's cache, of the run that hf://user/model names, or hf://user/model@revision.

    A branch is asked for each time, and taken from the cache where the hub cannot be reached.
    Raises ValueError if it names none, or if the hub has no such run.
    """
    model, _, revision = Path(run).as_posix().removeprefix("hf:/").partition("@")
    with library_for(model) as library:
        return Path(library.snapshot_download(model, revision=revision or None, allow_patterns=SHARED))
