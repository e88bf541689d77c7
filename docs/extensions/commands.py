"""The directive ``command``: a command and all of its options, from what ``--help`` says of it."""

import io
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ncsn.cli import console
from ncsn.cli.main import COMMANDS

sys.path.append(str(Path(__file__).parents[2]))
from training_toy import Toy

DEFINED = {f"ncsn {name}": settings for name, settings in COMMANDS.items()} | {"python ./training_toy.py": Toy}


def help_of(command: str) -> str:
    """What the command says to ``--help``."""
    os.environ["COLUMNS"] = "100"
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with suppress(SystemExit), redirect_stdout(said):
        console.parse(DEFINED[command], ["--help"], command)
    said.seek(0)
    return said.read()


def options(text: str) -> list[tuple[str, str]]:
    """Each option of a help, with its values, and what is said of it; the boxes around them are gone."""
    found: list[tuple[str, str]] = []
    for line in re.findall(r"^│ (.*) │$", text, re.M):
        if line.startswith(" "):
            name, said = found.pop()
            found.append((name, f"{said} {line.strip()}"))
        else:
            name, *said = re.split(r" {2,}", line.strip(), maxsplit=1)
            found.append((name, "".join(said)))
    return [(name, said.strip()) for name, said in found if "--help" not in name]


def escaped(text: str) -> str:
    """Text of which nothing is markup, but for what stands between backticks."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else re.sub(r"([\\*_<>\[\]$|])", r"\\\1", part) for i, part in enumerate(parts))


class Command(SphinxDirective):
    """``{command} ncsn sample``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Its first paragraph, then its options."""
        name = self.arguments[0]
        if name not in DEFINED:
            raise self.error(f"{name} is no command; allowed are {', '.join(DEFINED)}")
        text = help_of(name)
        usage, about = re.split(r"\n\n", text.split("╭")[0].strip(), maxsplit=1)
        lines = [f"```text\n{usage.removeprefix('usage: ')}\n```", escaped(about), f"```{{program}} {name}\n```"]
        for option, said in options(text):
            lines.append(f"```{{option}} {option}\n{escaped(said)}\n```")
        return self.parse_text_to_nodes("\n\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
