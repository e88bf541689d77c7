"""What lets pages be plain Markdown: names link themselves, and lines that are quoted from the code are checked.

A paragraph that begins with "On a code host" is for readers there; the site leaves it out.
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
    """``ncsn.heun`` in a page, as code, leads to its place in the reference, if it has one."""
    for literal in list(doctree.findall(nodes.literal)):
        name = NAME.fullmatch(literal.astext())
        if name and not in_link(literal):
            link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=name[1], refdoc=app.env.docname)
            literal.replace_self(link)
            link += literal


def in_link(node: nodes.Node) -> bool:
    """Whether a node stands in a link already, however deep."""
    around = node.parent
    return around is not None and (isinstance(around, nodes.reference | addnodes.pending_xref) or in_link(around))


def leave_out(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx's hook: the text of a page, changed in place."""
    source[0] = re.sub(r"^On a code host\b.*?\n\n", "", source[0], flags=re.S | re.M)


def check_quotes(app: Sphinx, docname: str, source: list[str]) -> None:
    """A block of ``py`` is a quotation: warn if the code does not have these lines, one after the other."""
    quotes = re.findall(r"^```py\n(.*?)^```", source[0], re.S | re.M)
    code = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")] if quotes else []
    for quote in quotes:
        if not any(same_lines(quote, text) for text in code):
            logger.warning("not in the code: %s", quote.strip(), location=docname)


def same_lines(quote: str, text: str) -> bool:
    """Whether the lines of a quotation stand in a text, indented by any one number of spaces."""
    return any(textwrap.indent(quote, " " * depth) in f"\n{text}" for depth in range(0, 20, 4))


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to Sphinx."""
    app.connect("doctree-read", link_names)
    app.connect("source-read", leave_out)
    app.connect("source-read", check_quotes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
