"""Link the first use of a term on each page to the glossary, with its meaning as a tooltip."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \|$", re.M)
EVERYDAY = {"run", "kind", "dataset", "σ", "floor", "recipe", "step size", "ncsn"}  # used in other senses, too
PAGES = ("tutorials/", "theory/", "howto/", "quality", "paper", "posteriors", "reliability", "clusters", "index")
ELSEWHERE = (
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.title,
    nodes.raw,
    nodes.topic,
    nodes.Invisible,
    nodes.image,
)


def anchor(term: str) -> str:
    """The anchor of a term's row."""
    return "term-" + re.sub(r"\W+", "-", term.lower())


@cache
def meanings(source: Path) -> dict[str, tuple[str, str]]:
    """The anchor and the plain-text meaning of each term, in lower case."""
    known = {}
    for terms, meaning in ROW.findall(source.read_text(encoding="utf-8")):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", meaning)
        for term in terms.split(", "):
            known[term.lower()] = anchor(terms), plain
    return known


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Sphinx hook: add links after all others are resolved."""
    if docname == "glossary":
        for row in list(doctree.findall(nodes.row))[1:]:
            row["ids"].append(anchor(row[0].astext()))
    if not docname.startswith(PAGES):
        return
    known = meanings(Path(app.srcdir) / "glossary.md")
    place = app.builder.get_relative_uri(docname, "glossary")
    waiting = set(known) - EVERYDAY
    for text in list(doctree.findall(nodes.Text)):
        inside = reference_around(text)
        if inside is not None and inside.get("refuri", "").split("#")[0] == place:
            make_exact(inside, known, waiting, place)
        elif inside is None and not any(isinstance(node, ELSEWHERE) for node in ancestors(text)):
            text.parent.replace(text, with_links(text.astext(), known, waiting, place))


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """The nodes around a node."""
    return [node.parent, *ancestors(node.parent)] if node.parent is not None else []


def reference_around(text: nodes.Text) -> nodes.Element | None:
    """The link around a text, if any."""
    return next((node for node in ancestors(text) if isinstance(node, nodes.reference)), None)


def make_exact(reference: nodes.Element, known: dict[str, tuple[str, str]], waiting: set[str], place: str) -> None:
    """Point a hand-written link to the glossary at the row of its term."""
    name = reference.astext().lower()
    for term in (name, name.removesuffix("s")):
        if term in known:
            waiting.discard(term)
            reference["refuri"], reference["reftitle"] = f"{place}#{known[term][0]}", known[term][1]
            reference["classes"].append("term")
            return


def with_links(text: str, known: dict[str, tuple[str, str]], waiting: set[str], place: str) -> list[nodes.Node]:
    """Split a text so that the first use of each waiting term is a link."""
    parts: list[nodes.Node] = []
    while waiting:
        words = "|".join(sorted(map(re.escape, waiting), key=len, reverse=True))
        found = re.search(rf"(?<![\w-])({words})(?:s|es)?(?![\w-])", text, re.I)
        if found is None:
            break
        waiting.discard(term := found[1].lower())
        target, meaning = known[term]
        uri = f"{place}#{target}"
        parts += [
            nodes.Text(text[: found.start()]),
            nodes.reference("", found[0], refuri=uri, reftitle=meaning, classes=["term"], internal=True),
        ]
        text = text[found.end() :]
    return [part for part in (*parts, nodes.Text(text)) if part.astext()]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook, after everything else that makes links."""
    app.connect("doctree-resolved", link, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
