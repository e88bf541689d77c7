"""Extras for plain Markdown pages: link names to the reference, and check quotations of the code.

The site omits paragraphs that begin with "On a code host", and a code host what is in comments like
``<!-- {toctree} ... -->``, which are directives for the site.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

SOURCE = Path(__file__).parents[2] / "src"
NAME = re.compile(r"(ncsn(?:\.\w+)+)(?:\(.*\))?")
logger = logging.getLogger(__name__)


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Link code such as ``ncsn.heun`` to its reference entry, if it has one."""
    for literal in list(doctree.findall(nodes.literal)):
        name = NAME.fullmatch(literal.astext())
        if name and not in_link(literal):
            link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=name[1], refdoc=app.env.docname)
            literal.replace_self(link)
            link += literal


def in_link(node: nodes.Node) -> bool:
    """Whether a node is already inside a link."""
    around = node.parent
    return around is not None and (isinstance(around, nodes.reference | addnodes.pending_xref) or in_link(around))


def leave_out(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx hook: change the text of a page in place."""
    source[0] = re.sub(r"^On a code host\b.*?\n\n", "", source[0], flags=re.S | re.M)


def show_directives(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx hook: make directives of comments that contain one, in place."""
    source[0] = re.sub(r"^<!-- (\{\w+\}.*?\n)-->$", r"```\1```", source[0], flags=re.S | re.M)


def check_quotes(app: Sphinx, docname: str, source: list[str]) -> None:
    """Warn about a ``py`` block whose consecutive lines aren't in the code."""
    quotes = re.findall(r"^```py\n(.*?)^```", source[0], re.S | re.M)
    code = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")] if quotes else []
    for quote in quotes:
        if not any(same_lines(quote, text) for text in code):
            logger.warning("not in the code: %s", quote.strip(), location=docname)


def same_lines(quote: str, text: str) -> bool:
    """Whether a text contains these lines at some common indentation."""
    return any(textwrap.indent(quote, " " * depth) in f"\n{text}" for depth in range(0, 20, 4))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("doctree-read", link_names)
    app.connect("source-read", leave_out)
    app.connect("source-read", show_directives)
    app.connect("source-read", check_quotes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
