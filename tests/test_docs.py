"""README and the site say what is there, and what they show runs."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from pydoc import locate
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import unchecked
from learning import TINY
from PIL import Image
from safetensors import safe_open

import ncsn
from ncsn import evaluation, plots
from ncsn.cli import console
from ncsn.cli.commands import COMMANDS
from ncsn.settings import TrainSettings
from training_toy import Toy

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "benchmarks/RECORDS.md")
ALL = PAGES | {name: (ROOT / name).read_text(encoding="utf-8") for name in OTHERS}
REFERENCE = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))

DRAWN = ("levels", "samples", "neighbours", "inpainting_posterior", "inpainting_replacement")  # by examples/paper.py

NOTEBOOKS = [name for name, text in PAGES.items() if "\n```python cell" in text]
QUICK = [name for name in NOTEBOOKS if "under a minute to run" in PAGES[name]]
CELL = re.compile(r"^```python cell(?: fold)?(: [^\n]*)?\n(.*?)^```", re.S | re.M)

SCRIPTS = {"training_toy.py": Toy, "training_MNIST.py": TrainSettings}


SLOW = ("docs/reference/sklearn.md", "docs/howto/python.md", "docs/howto/calibrate.md")  # whose Python takes longest


def blocks(language: str, pages: dict[str, str]) -> list[Any]:
    """Every block of code of a language, named by its page and number."""
    return [
        pytest.param(
            code,
            id=f"{name}-{number}",
            marks=[pytest.mark.slow] if language == "python" and name in SLOW else [],
        )
        for name, text in pages.items()
        for number, code in enumerate(re.findall(rf"^```{language}(?: \.noeval)?\n(.*?)^```", text, re.S | re.M))
    ]


def public_names(room: ModuleType) -> list[str]:
    """What a room offers: its own functions without an underscore, and what it imports by the same name."""
    own = [name for name, thing in vars(room).items() if getattr(thing, "__module__", "") == room.__name__]
    place = Path(str(room.__file__))
    stub = place.with_suffix(".pyi") if place.with_suffix(".pyi").exists() else place
    imported = re.findall(r" import (\w+) as \1$", stub.read_text(encoding="utf-8"), re.M)
    return [*imported, *(name for name in own if name[0].islower())]


def test_every_public_name_is_in_the_reference() -> None:
    public = {f"ncsn.{name}" for name in vars(ncsn)["__all__"]}
    for room in (plots, evaluation):
        own = set(public_names(room)) - {*vars(ncsn)["__all__"]}
        public |= {f"{room.__name__}.{name}" for name in own}
    public -= {"ncsn.evaluation", "ncsn.plots", "ncsn.posteriors"}
    documented = re.findall(r"^(?:<!-- auto\w+|```\{py:data\}) ([^\s;(]+)", REFERENCE, re.M)
    assert public - {*documented} == set()
    assert len({*documented}) == len(documented)
    assert [name for name in documented if locate(name) is None] == []


def test_names_on_pages_exist() -> None:
    pages = {name: text for name, text in ALL.items() if name != "benchmarks/RECORDS.md"}
    pages["CHANGELOG.md"] = re.sub(r"^\|[^|]*\|", "|", pages["CHANGELOG.md"], flags=re.M)  # without what was
    names = set(re.findall(r"`(ncsn(?:\.\w+)+)`", "\n".join(pages.values())))
    assert "ncsn.noise.level_ratio" in names
    assert not [name for name in names if locate(name) is None]


def test_what_pages_import_is_in_the_reference() -> None:
    lines = re.findall(r"^ *from (ncsn\S*) import (.*)$", "\n".join(ALL.values()), re.M)
    used = {f"{room}.{name}" for room, names in lines for name in names.split(", ")}
    methods = {f"ncsn.Run.{name}" for name in re.findall(r"\brun\.(\w+)\(", "\n".join(ALL.values()))}
    hidden = {
        f"ncsn.Run.{name}" for name in re.findall(r"ncsn\.Run; exclude-members: (.*) -->", REFERENCE)[0].split(", ")
    }
    assert {name for name in used if f"{name}`" not in REFERENCE and f"`{name}." not in REFERENCE} == set()
    assert methods & hidden == set()


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "\n<!-- end -->" in text])
def test_signatures_options_and_tables_are_current(name: str) -> None:
    filled = runpy.run_path(str(ROOT / "docs/extensions/reference.py"))["filled"]
    assert filled(PAGES[name]) == PAGES[name]  # `make format` writes them anew


def test_what_is_cited_is_this_version() -> None:
    assert f"\nversion: {ncsn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_of_digits_are_of_the_model_in_the_package(name: str) -> None:
    folder = ncsn.load("mnist", device="cpu").folder
    assert folder is not None
    with (
        safe_open(folder / "model.safetensors", "pt") as weights,
        Image.open(ROOT / f"docs/paper/{name}.png") as picture,
    ):
        assert picture.info["weights"] == weights.metadata()["sha256"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_of_the_cells_above_them(name: str) -> None:
    stale = runpy.run_path(str(ROOT / "docs/extensions/outputs.py"))["stale"]
    assert not stale(PAGES[name], ROOT / "docs/images/cells")  # `make docs` writes them anew


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_says_how_to_open_it_and_its_cells_are_python(name: str) -> None:
    """Without lines for the shell or for IPython, so that they run as a script, too."""
    assert f"`jupytext --to ipynb {name}` makes a notebook" in PAGES[name]
    assert not re.search(r"^```(?:sh|python3)\n", PAGES[name], re.M)  # jupytext would make cells of them
    for _, code in CELL.findall(PAGES[name]):
        compile(code, name, "exec")


def test_thumbnails_show_what_their_page_shows() -> None:
    thumbnails = re.findall(r"^- \[!\[.*?\]\((\S+)\) .*\]\((\S+)\)$", PAGES["docs/index.md"], re.M)
    assert len(thumbnails) > 8
    for picture, page in thumbnails:
        assert f"{picture})" in PAGES[f"docs/{page}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_cells_show_their_pictures_in_a_plain_kernel(name: str, tmp_path: Path) -> None:
    """One that nothing has prepared for pictures, as the kernel of a reader."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = CELL.findall(PAGES[name])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for _, code in cells])
    patience: dict[str, Any] = {"startup_timeout": 600, "timeout": 900}  # seconds, which a busy machine must not reach
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", resources=folder, **patience).execute()
    shown = [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in notebook.cells]
    assert shown == [bool(picture) for picture, _ in cells]


@pytest.mark.parametrize("quote", blocks("py", PAGES))
def test_quoted_lines_are_in_the_code(quote: str) -> None:
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py")]
    assert any(textwrap.indent(quote, " " * depth) in text for text in code for depth in range(0, 20, 4))


def test_every_command_is_in_the_reference() -> None:
    assert set(re.findall(r"^<!-- command ncsn (\w+)(?:; as: .*)? -->$", REFERENCE, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("code", blocks("python", ALL))
def test_examples_run(code: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for fewer steps; what is known of README's and other pages' samples holds."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    monkeypatch.setitem(ncsn.SAMPLERS, "mine", ncsn.SAMPLERS["euler"])  # an example has a row of its own, for itself
    code = code.replace("minutes=0.5", "steps=200").replace("_ in range(1000)", "_ in range(300)")
    with unchecked():
        exec(compile(code, "a page", "exec"), names)
    check = next(check for name, check in CHECKS.items() if name in names)
    check(names)


def check_finite(names: dict[str, Any]) -> None:
    assert names["samples"].isfinite().all()


def check_circle(names: dict[str, Any]) -> None:
    """Samples lie near the circle of the data, to which the smallest noise level adds 0.1."""
    assert (names["samples"].norm(dim=1) - 5).square().mean().sqrt() < 0.3


def check_digits(names: dict[str, Any]) -> None:
    """16 digits that a classifier is sure of (measured over 10,000: see README), and what is known of the answers."""
    digits = names["digits"]
    seen = evaluation.digits()((256 * digits).floor().clamp(0, 255).byte())
    assert seen.confident >= 0.75
    assert (names["answers"][:, :, :14] - digits[:1, :, :14]).square().mean().sqrt() < 0.1


def check_mixture(names: dict[str, Any]) -> None:
    """The smaller of two modes has a fifth of the weight."""
    weight = (names["last"].x.sum(1) < 0).float().mean()
    assert weight == pytest.approx(0.204, abs=4 * (0.16 / 2000) ** 0.5)


def check_table(names: dict[str, Any]) -> None:
    """In the user's units: incomes of some thousand beside shares of some tenth; the run in the folder is the same."""
    quartiles = torch.tensor([0.25, 0.5, 0.75])
    expected = names["x"].quantile(quartiles, 0)
    torch.testing.assert_close(names["samples"].quantile(quartiles, 0), expected, rtol=0.15, atol=0)
    assert names["logp"].isfinite().all()
    assert torch.equal(ncsn.load("runs/mine").sample(1000), names["samples"])


def check_normal(names: dict[str, Any]) -> None:
    """A standard normal, drawn by a network or a sampler of one's own."""
    assert names["samples"].std() == pytest.approx(1, abs=0.3)


def check_covariance(names: dict[str, Any]) -> None:
    """The samples have the covariance of the data."""
    x = torch.as_tensor(names["x"])
    torch.testing.assert_close(names["samples"].T.cov(), x.T.cov(), rtol=0.25, atol=0.25)


def check_images(names: dict[str, Any]) -> None:
    """Two steps teach little: images of the right shape, in the range of pixels but for what sampling leaves."""
    samples = names["samples"]
    assert samples.shape == (4, 1, 28, 28)
    assert float(samples.min()) > -1
    assert float(samples.max()) < 2


def check_calibration(names: dict[str, Any]) -> None:
    """Both the sampler and the model were tested."""
    assert set(names["found"].calibrated) == {"run", "held-out"}


def check_surprise(names: dict[str, Any]) -> None:
    """The totals are the exact log densities, and each of two numbers that don't go together is as unusual."""
    parts = names["parts"]
    exact = -names["score"].log_prob(names["rows"], torch.tensor(0.01)).double()
    torch.testing.assert_close(parts.total, exact, rtol=0, atol=3)
    torch.testing.assert_close(parts.where[1], parts.total[1].expand(2) / 2, rtol=0.1, atol=0)


def check_pipeline(names: dict[str, Any]) -> None:
    """Trees on what is filled in predict; nothing is missing."""
    assert names["scores"].mean() > 0.15
    assert all(table.notna().all(axis=None) for table in (names["filled"], *names["tables"]))


CHECKS = {
    "parts": check_surprise,
    "found": check_calibration,
    "imputer": check_pipeline,
    "digits": check_digits,
    "mixture": check_mixture,
    "adam": check_circle,
    "income": check_table,
    "Mine": check_normal,
    "my_sampler": check_normal,
    "my_objective": check_normal,
    "data": check_images,
    "x": check_covariance,
    "samples": check_finite,
}
"""What holds of the samples of an example, by a name that it has."""


def ours(line: str) -> tuple[Any, list[str]] | None:
    """The settings and the options of a command line, if it is one of this project."""
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        if word == "ncsn" and (at == 0 or words[at - 1] in ("-m", "&&")):
            return COMMANDS[words[at + 1]], words[at + 2 :]
        if (script := word.removeprefix("./")) in SCRIPTS:
            return SCRIPTS[script], words[at + 1 :]
    return None


@pytest.mark.parametrize("code", blocks("sh", ALL))
def test_commands_parse(code: str) -> None:
    """The parser takes what pages show; nothing is run."""
    for found in filter(None, map(ours, code.replace("\\\n", " ").splitlines())):
        console.parse(*found)


@pytest.mark.slow
def test_the_first_command_of_readme_can_be_repeated(tmp_path: Path) -> None:
    """In a copy and an environment of its own, twice: the training for two steps, and the digits.

    The environment gets ncsn; what ncsn needs it finds in the environment of this test.
    """
    for name in ("README.md", "LICENSE", "pyproject.toml", "training_MNIST.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    (training,) = re.findall(r"^python3 -m venv .*training_MNIST.py$", ALL["README.md"], re.M)
    (sampling,) = re.findall(r"^(ncsn sample mnist .*?)  # ", ALL["README.md"], re.M)
    there = os.pathsep.join(path for path in sys.path if Path(path).name == "site-packages")
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        line = f"{training} {TINY} --steps 2 && {sampling}"
        subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=os.environ | {"PYTHONPATH": there, "PATH": here}, check=True
        )
    assert (tmp_path / ".venv" / "bin" / "ncsn").exists()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mnist"}
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (480, 480)  # eight digits in a row, of 28 pixels and a margin, two by two


def test_continuous_integration_runs_the_test_command_of_readme(tmp_path: Path) -> None:
    """Here make only says what it would do, and the environment is empty; it goes again unless it was there before."""
    for name in ("README.md", "Makefile", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("web", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nmkdir -p .venv/bin && touch .venv/bin/activate\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    (command,) = re.findall(r"^python3 -m venv .*make check$", ALL["README.md"], re.M)
    said = []
    for line in (".ci/run", command, ".ci/run"):
        outer = {"TESTS", "EXTRAS", "INSTALL", "MAKELEVEL", "MAKEOVERRIDES"}  # of a make that runs the tests
        environment = {name: value for name, value in os.environ.items() if name not in outer}
        environment |= {"MAKEFLAGS": "-n", "PATH": path}
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        said.append(done.stdout)
        assert (tmp_path / ".venv").exists() == (len(said) > 1)
    quick, slow = '-m pytest -m "not slow" --shapes\n', "-m pytest -m slow\n"
    for part in ("'.[test,docs]'", quick, slow, "-m sphinx", "npm run --silent check"):
        assert part in said[0]
    assert said[0] == said[2]
    for part in ("'.[test]'", '-m pytest -m "not slow"\n'):
        assert part in said[1]


def anchors(text: str) -> set[str]:
    """What a heading can be linked to by."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ALL)
def test_links_lead_somewhere(name: str) -> None:
    """On a code host, too: files are there, and headings in them.  The site has no other pages than its own."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", ALL[name], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "mailto:")):
            continue
        place, _, anchor = target.partition("#")
        path = (ROOT / name).parent / place if place else ROOT / name
        assert path.exists(), target
        if name.startswith("docs/") and path.suffix == ".md" and path.name != "RECORDS.md":  # which a page includes
            assert path.resolve().is_relative_to(ROOT / "docs"), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target
