"""The site says what is there: every public name and command is in the reference, and what pages show can be run."""

import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ncsn
from ncsn import data, evaluation, plots
from ncsn.cli import console
from ncsn.cli import main as cli
from ncsn.learn.settings import Images, Toy

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("docs/**/*.md"))
}
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/RECORDS.md")
ALL = PAGES | {name: (ROOT / name).read_text(encoding="utf-8") for name in OTHERS}
REFERENCE = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))

ELSEWHERE = ("docs/howto/python.md", "docs/howto/own-parts.md")  # whose examples test_readme.py runs, and checks
SCRIPTS = {"training_toy.py": Toy, "training_MNIST.py": Images}


def blocks(language: str, pages: dict[str, str]) -> list[Any]:
    """Every block of code of a language, named by its page and number."""
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name, text in pages.items()
        for number, code in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M))
    ]


def public_names(room: ModuleType) -> list[str]:
    """What a room offers: a list, or else its own functions without an underscore."""
    own = [name for name, thing in vars(room).items() if getattr(thing, "__module__", "") == room.__name__]
    return list(vars(room).get("__all__", [name for name in own if name[0].islower()]))


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"ncsn.{name}" for name in vars(ncsn)["__all__"] if name != "plots"}
    public |= {
        f"ncsn.{room.__name__.split('.')[-1]}.{name}"
        for room in (plots, evaluation, data)
        for name in public_names(room)
    }
    public -= {"ncsn.data.load_images", "ncsn.data.batches"}  # public one room higher
    assert set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)", REFERENCE, re.M)) == public


def test_every_command_is_in_the_reference() -> None:
    assert set(re.findall(r"^```\{command\} ncsn (\w+)$", REFERENCE, re.M)) == set(cli.COMMANDS)


@pytest.mark.filterwarnings("ignore:.*examples are few")
@pytest.mark.parametrize(
    "code", blocks("python", {name: text for name, text in PAGES.items() if name not in ELSEWHERE})
)
def test_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(code, "a page", "exec"), names)
    assert names["samples"].isfinite().all()


def ours(line: str) -> tuple[Any, list[str]] | None:
    """The settings and the options of a command line, if it is one of this project."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        if word == "ncsn" and (at == 0 or words[at - 1] in ("-m", "&&")):
            return cli.COMMANDS[words[at + 1]], words[at + 2 :]
        if (script := word.removeprefix("./")) in SCRIPTS:
            return SCRIPTS[script], words[at + 1 :]
    return None


@pytest.mark.parametrize("code", blocks("sh", ALL))
def test_commands_parse(code: str) -> None:
    """The parser takes what pages show; nothing is run."""
    for found in filter(None, map(ours, code.replace("\\\n", " ").splitlines())):
        console.parse(*found)


def anchors(text: str) -> set[str]:
    """What a heading can be linked to by."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OTHERS)
def test_links_lead_somewhere(name: str) -> None:
    """Of the pages that Sphinx does not look at: files are there, and headings in them."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", ALL[name], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "mailto:")):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / name).parent / place if place else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target
