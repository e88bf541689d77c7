"""Docstrings as they stand in the code become pages: an argument a line; signs of mathematics are no markup."""

import re
from typing import Any

from sphinx.application import Sphinx

LITERAL = re.compile(r"(``.+?``|:\w+:`.+?`)")
ARGUMENTS = re.compile(r"(?:(?<=\.  )|(?<=\n)|^)(?=``[a-z_]\w*``(?:, ``[a-z_]\w*``)*(?: [>≥] [01])?: )")


def escaped(text: str) -> str:
    """Text in which stars and bars are themselves, but for what is literal or a formula; papers become links."""
    text = re.sub(r"(?<=``)(?=[²³₀-₉])", r"\\ ", text)
    parts = LITERAL.split(re.sub(r"arXiv:(\d{4}\.\d{5})", r":arxiv:`\1`", text))
    return "".join(part if i % 2 else re.sub(r"([*|])", r"\\\1", part) for i, part in enumerate(parts))


def paragraphs(lines: list[str]) -> list[str]:
    """Every argument becomes an item of a list, and what is raised a paragraph; other paragraphs stay."""
    made: list[str] = []
    for text in "\n".join(lines).split("\n\n"):
        if text.lstrip().startswith((".. ", "- ")) or text.startswith(" "):
            made.append(text)
            continue
        text = escaped(text)
        before, *raised = re.split(r"(?:(?<=\s)|^)(?=Raises )", text, maxsplit=1)
        first, *arguments = ARGUMENTS.split(before)
        items = "\n".join("- " + item.strip().replace("\n", "\n  ") for item in arguments)
        made += [part for part in (first.rstrip(), items, *raised) if part]
    return "\n\n".join(made).split("\n")


def mend(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Sphinx's hook: ``lines`` are changed in place."""
    lines[:] = paragraphs(lines)


def signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, given: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """Sphinx's hook: what a dataclass makes anew for each instance is an ellipsis; a protocol has no signature."""
    if given is None:
        return None
    return ("" if given == "(*args, **kwargs)" else given.replace("<factory>", "...")), returned


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to autodoc."""
    app.connect("autodoc-process-docstring", mend)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
