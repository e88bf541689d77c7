"""What is shared of a run: its files, and a model card, the README of a model on the hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ncsn.data.reading import short_name
from ncsn.evaluation import Metric
from ncsn.files import one_line, read_json
from ncsn.run import Run
from ncsn.sharing import FILES
from ncsn.storage import read_results
from ncsn.validation import validated

MOST_CLASSES = 20  # that are listed
HOW = ("sampler", "nfe", "class", "guidance", "seed")  # what samples were drawn by, as evaluation.json calls it


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What evaluation.json says that a card repeats; see ``ncsn.evaluation.Evaluation``."""

    n: int
    comparable: bool
    features: str
    metrics: dict[str, Metric]
    data: str
    how: dict[str, str]
    notes: tuple[str, ...] = ()


def shared(run: Run, folder: Path, model: str, *, licence: str | None = None) -> dict[str, bytes | Path]:
    """The files that are shared of the ``run`` in ``folder``, card included: contents, or where the weights are.

    In JSON, absolute paths of this machine are cut down to their last part: nobody needs to know its folders.
    ``model``, ``licence``: as for ``card``.  Raises ValueError if a file of numbers cannot be read.
    """
    found = findings_of(run, folder)
    made = card(run, model, licence=licence, results=read_results(folder), found=found)
    files: dict[str, bytes | Path] = {"README.md": made.encode()}
    for name in FILES:
        path = folder / name
        if path.suffix == ".json" and path.is_file() and (found is not None or name != "evaluation.json"):
            files[name] = (json.dumps(without_folders(read_json(path)), indent=2) + "\n").encode()
        elif path.suffix == ".safetensors" and path.is_file():
            files[name] = path
    return files


def without_folders(value: Any) -> Any:
    """The content of a JSON file with the last part of every absolute path in its place."""
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [without_folders(item) for item in value]
    absolute = isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return PureWindowsPath(value).name if absolute else value


def findings_of(run: Run, folder: Path) -> Findings | None:
    """What evaluation.json says of the run as it is now; None if it has not been evaluated since it became that.

    Raises ValueError if it cannot be read.
    """
    path = folder / "evaluation.json"
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}; an object is needed")
    if content.get("run_digest") != run.digest:
        return None
    how = {name: str(content[name]) for name in HOW if content.get(name) is not None}
    known = {name: content[name] for name in Findings.__dataclass_fields__ if name in content}
    return validated(Findings, known | {"how": how}, str(path))


def card(run: Run, model: str, *, licence: str | None, results: dict[str, Any], found: Findings | None) -> str:
    """A model card in Markdown: how to use the run, its data, numbers beside their floors, sampler and licence.

    ``model``: user/model.  ``licence``: the hub's name of one, such as mit.  ``results``: what metrics.json says.
    """
    head = ["library_name: ncsn", *([f"license: {licence}"] if licence else [])]
    head += ["pipeline_tag: unconditional-image-generation"] if run.recipe.images else []
    sections = {
        "Use": usage(model),
        "Data": data(run),
        "Quality": quality(found),
        "Training": training(results),
        "Licence": licence or "None is given: ask its owner.",
    }
    front = "\n".join(["---", *head, "tags:", "- score-matching", "- ncsn", "---"])
    about = (
        f"A noise conditional score network: {run.recipe.network}, {run.parameters:,} weights, sampled by {how(run)}."
    )
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{front}\n\n# {model.rpartition('/')[2]}\n\n{about}\n\n{body}\n"


def how(run: Run) -> str:
    """How the run is sampled."""
    sampling, guided = run.recipe.sampling, ""
    if sampling.guidance != 1 and sampling.guide == "unconditional":
        guided = f", guidance {sampling.guidance:g} by itself without the class"
    elif sampling.guidance != 1 and run.guide is not None:
        guided = f", guidance {sampling.guidance:g} by a network of {run.guide_parameters:,} weights"
    return f"{sampling.sampler} on {sampling.count} noise levels ({sampling.nfe} evaluations{guided})"


def usage(model: str) -> str:
    """Three lines."""
    lines = ("import ncsn  # pip install 'ncsn[hub]'", f'run = ncsn.load("hf://{model}")', "x = run.sample(16, seed=0)")
    return "\n".join(("```python", *lines, "```"))


def data(run: Run) -> str:
    """What the run has learned from, and its classes."""
    shape, origin = " × ".join(map(str, run.recipe.shape)), run.origin
    name = origin.dataset if origin is not None else run.settings.get("dataset") or run.settings.get("generator")
    text = f"{plain(short_name(str(name))) if name else 'Not recorded'}, examples of shape {shape}"
    if origin is not None:
        counts = " / ".join(f"{part:,}" for part in origin.split)
        text += f"; {counts} for training, validation, test; sha256 of the pixels {plain(origin.digest)}"
    shares = list(run.recipe.shares.items())
    if shares:
        more = f" and {len(shares) - MOST_CLASSES} more" if len(shares) > MOST_CLASSES else ""
        listed = ", ".join(f"{plain(name)} ({share:.1%})" for name, share in shares[:MOST_CLASSES])
        return f"{text}.\n\nClasses, and how much of the training data each is: {listed}{more}."
    return f"{text}. Classes: {run.recipe.classes or 'none'}."


def quality(found: Findings | None) -> str:
    """The numbers of an evaluation, each beside what held-out and training images score."""
    if found is None:
        return "Not evaluated."
    few = "" if found.comparable else ", too few to be comparable"
    rows = ["| | generated | held out | training |", "|---|---|---|---|"]
    for name, metric in found.metrics.items():
        rows.append(f"| {plain(name)} | {metric.generated:.4g} | {metric.held_out:.4g} | {metric.training:.4g} |")
    how = "".join(f", {name} {plain(value)}" for name, value in found.how.items())
    said = f"{found.n:,} samples{few}{how}, beside images of {plain(found.data)}, seen by {plain(found.features)}:"
    notes = [f"- {plain(note)}" for note in found.notes]
    return "\n".join([said, "", *rows, *([""] if notes else []), *notes])


def training(results: dict[str, Any]) -> str:
    """The single numbers of a metrics.json."""
    numbers = {name: value for name, value in results.items() if type(value) in (int, float)}
    rows = [f"| {plain(name)} | {f'{x:.4g}' if isinstance(x, float) else f'{x:,}'} |" for name, x in numbers.items()]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else "No numbers are recorded."


def plain(text: str) -> str:
    """Words from a file in one line of Markdown, where they mean nothing else."""
    return re.sub(r"([\\`*_\[\]<>|&])", r"\\\1", one_line(text))
