"""The directive ``samplers``: what every sampler costs and how good it is, as benchmarks/samplers.py has measured."""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

MEASURED = Path(__file__).parents[2] / "benchmarks" / "samplers.json"


def rows() -> list[str]:
    """A line of Markdown for each sampler, on its default number of levels, guided where it is by default."""
    floor, *measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = ["| `--sampler` | levels | evaluations | Fréchet distance | confident |", "|---|--:|--:|--:|--:|"]
    for row in measured:
        if [row["levels"], row["guidance"]] == floor["default"][row["sampler"]]:
            lines.append(
                f"| `{row['sampler']}` | {row['levels']} | {row['nfe']} | {row['frechet_distance']:.2f} "
                f"| {row['confident']:.3f} |"
            )
    return [*lines, f"| real images | | | {floor['frechet_distance']:.2f} | |"]


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
