"""The directive ``samplers``: what every sampler costs and how good it is, as benchmarks/samplers.py has measured."""

import json
import math
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from ncsn.samplers.methods import METHODS

MEASURED = Path(__file__).parents[2] / "benchmarks" / "samplers.json"


def rows() -> list[str]:
    """A line of Markdown for each sampler, on its default number of levels, guided where it is by default."""
    floor, *measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        "| `--sampler` | levels | evaluations | seconds | Fréchet distance | confident |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, method in METHODS.items():
        guided = method.guided_from < math.inf
        chosen = [row for row in measured if row["sampler"] == name and (row["guidance"] != 1) == guided]
        if not chosen:
            continue
        alone = [row for row in chosen if row["levels"] in (method.levels, None)] or chosen
        row = alone[0]
        lines.append(
            f"| `{name}` | {method.levels} | {row['nfe']} | {row['seconds']:.1f} | {row['frechet_distance']:.2f} "
            f"| {row['confident']:.3f} |"
        )
    return [*lines, f"| real images | | | | {floor['frechet_distance']:.2f} | |"]


class Samplers(SphinxDirective):
    """``{samplers}``."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        self.env.note_dependency(str(MEASURED))
        return self.parse_text_to_nodes("\n".join(rows()))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("samplers", Samplers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
