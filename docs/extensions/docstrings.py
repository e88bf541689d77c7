"""Format docstrings for the site: one line per argument, and no markup in mathematical signs.

Examples in docstrings run when the site is built; a wrong result is a warning.
"""

import doctest
import io
import re
from contextlib import redirect_stderr
from typing import Any

import torch
from sphinx.application import Sphinx
from sphinx.util import logging

import ncsn

logger = logging.getLogger(__name__)

LITERAL = re.compile(r"(``.+?``|:\w+:`.+?`)")
ARGUMENTS = re.compile(r"(?:(?<=\.  )|(?<=\n)|^)(?=``[a-z_]\w*``(?:, ``[a-z_]\w*``)*(?: [>≥] [01])?: )")


def escaped(text: str) -> str:
    """Escape stars and bars outside of literals and formulas, and turn arXiv numbers into links."""
    text = re.sub(r"(?<=``)(?=[²³₀-₉])", r"\\ ", text)
    parts = LITERAL.split(re.sub(r"arXiv:(\d{4}\.\d{5})", r":arxiv:`\1`", text))
    return "".join(part if i % 2 else re.sub(r"([*|])", r"\\\1", part) for i, part in enumerate(parts))


def paragraphs(lines: list[str]) -> list[str]:
    """Turn arguments into a list and exceptions into a paragraph."""
    made: list[str] = []
    for text in "\n".join(lines).split("\n\n"):
        if text.lstrip().startswith((".. ", "- ", ">>> ")) or text.startswith(" "):
            made.append(text)
            continue
        text = escaped(text)
        if text.startswith("Args:"):  # options, whose docstrings are the text of --help
            entries = re.split(r"\n(?= {4}\w+: )", text.removeprefix("Args:"))
            items = [re.sub(r"^(\w+):", r"- ``\1``:", " ".join(entry.split())) for entry in entries if entry.strip()]
            made.append("\n".join(items))
            continue
        before, *raised = re.split(r"(?:(?<=\s)|^)(?=Raises )", text, maxsplit=1)
        first, *arguments = ARGUMENTS.split(before)
        items = "\n".join("- " + item.strip().replace("\n", "\n  ") for item in arguments)
        made += [part for part in (first.rstrip(), items, *raised) if part]
    return "\n\n".join(made).split("\n")


def format_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Sphinx hook: change ``lines`` in place."""
    run_examples(name, "\n".join(lines))
    lines[:] = paragraphs(lines)


def run_examples(name: str, text: str) -> None:
    """Run the examples in a docstring and warn about wrong results."""
    examples = doctest.DocTestParser().get_doctest(text, {"ncsn": ncsn, "torch": torch}, name, None, None)
    report: list[str] = []
    with redirect_stderr(io.StringIO()):
        failed = doctest.DocTestRunner().run(examples, out=report.append).failed
    if failed:
        logger.warning("an example of %s has a different result: %s", name, "".join(report))


def skip(app: Sphinx, what: str, name: str, obj: object, hidden: bool, options: object) -> bool | None:
    """Sphinx hook: skip the fields of named tuples, which the class describes."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, given: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Sphinx hook: show default factories as an ellipsis, and no signature for protocols."""
    if given is None:
        return None
    return ("" if given == "(*args, **kwargs)" else given.replace("<factory>", "...")), returned


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("autodoc-process-docstring", format_docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
