"""Runs that are sent to Hugging Face's hub: tokens, addresses and retries are the library's own."""

import json
import re
import shutil
from pathlib import Path, PureWindowsPath
from typing import Any

from ncsn.storage import RUN_FILES, SHARED, library_for
from ncsn.validation import one_line, read_json

EVALUATION, CARD = "evaluation.json", "README.md"


def send(folder: Path, model: str, *, public: bool, overwrite: bool) -> str:
    """Send a folder that ``write_shared`` made to the hub, as one commit; returns its address.

    ``public``: whether everybody may see it.  ``overwrite``: replace a run that is there; git keeps it.
    Raises ValueError if the hub cannot be asked or refuses, if a model is there, or if it is not as ``public``.
    """
    with library_for(model) as library:
        api = library.HfApi(token=True)  # without one the library says where to get it
        if api.repo_exists(model) and not overwrite:
            raise ValueError("it is there already; give --overwrite to replace the run in it")
        api.create_repo(model, private=not public, exist_ok=True)
        if api.model_info(model).private == public:
            raise ValueError(f"it is {'private' if public else 'public'}; push it as that, or change it on its page")
        # What is there of another run and not of this goes; files that are no part of a run stay.
        patterns = {"allow_patterns": SHARED, "delete_patterns": SHARED}
        commit = api.upload_folder(repo_id=model, folder_path=folder, commit_message="A run of ncsn", **patterns)
    return f"hf://{model}@{commit.oid}"


def write_shared(folder: Path, out: Path, model: str, *, digest: str, licence: str | None = None) -> list[str]:
    """Write into ``out`` what is shared of the run in ``folder``, a model card too; returns the files' names.

    In JSON every path is cut down to its last part: nobody needs to know this machine's folders.
    ``model``: user/model.  ``digest``: of the run as it is now; the evaluation of another is left out.
    ``licence``: the hub's name of one, such as mit.  Raises ValueError if a file of numbers cannot be read.
    """
    parts = [name for name in (*RUN_FILES, EVALUATION) if (folder / name).is_file()]
    try:
        if EVALUATION in parts and read_json(folder / EVALUATION)["run_digest"] != digest:
            parts.remove(EVALUATION)
        for name in parts:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".json"):
                content = without_folders(read_json(folder / name))
                (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            else:
                shutil.copyfile(folder / name, out / name)
        (out / CARD).write_text(card(out, model, licence), encoding="utf-8")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / EVALUATION} is not as ncsn evaluate wrote it ({one_line(error)})") from error
    return [*parts, CARD]


def without_folders(value: Any) -> Any:
    """The content of a JSON file; of a text that is a path, the last part.  Lists hold sentences and are left alone."""
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    return PureWindowsPath(value).name if isinstance(value, str) and re.search(r"[/\\]", value) else value


def card(folder: Path, model: str, licence: str | None) -> str:
    """A model card in Markdown: how to use the run, its data, and its numbers beside their floors."""
    config = read_json(folder / "config.json")
    recipe, data = config["recipe"], config.get("data", {}).get("dataset", "data")
    head = ["library_name: ncsn", "tags: [score-matching, ncsn]"]
    head += [f"license: {licence}"] if licence else []
    head += ["pipeline_tag: unconditional-image-generation"] if len(recipe["shape"]) == 3 else []
    usage = ["import ncsn  # pip install 'ncsn[hub]'", f'run = ncsn.load("hf://{model}")', "x = run.sample(16, seed=0)"]
    shape = " × ".join(map(str, recipe["shape"]))
    about = f"A noise conditional score network of `{data}`, examples of shape {shape}."
    about += f"\nClasses: {', '.join(f'`{name}`' for name in recipe['shares'])}." if recipe["shares"] else ""
    lines = ["---", *head, "---", "", f"# {model.rpartition('/')[2]}", "", about, "", "```python", *usage, "```", ""]
    if not (folder / EVALUATION).exists():
        return "\n".join([*lines, "Not evaluated.", ""])
    evaluation = read_json(folder / EVALUATION)
    few = "" if evaluation["comparable"] else ", too few to be comparable"
    lines += [f"{evaluation['n']:,} samples{few}, seen by `{evaluation['features']}`:", ""]
    lines += ["| | generated | held out | training |", "|---|---|---|---|"]
    for name, metric in evaluation["metrics"].items():
        lines.append(f"| {name} | {metric['generated']:.4g} | {metric['held_out']:.4g} | {metric['training']:.4g} |")
    return "\n".join([*lines, ""])
