"""What the search shows of a page, where the site is read from a disk: a browser may not fetch other files there."""

import html
import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def text_of(page: str) -> str:
    """The text of a page, as HTML in which the search looks for it."""
    main = re.findall(r'<article role="main".*?</article>', page, re.S)
    text = re.sub(r"<(script|style|annotation).*?</\1>|<[^>]*>", " ", "".join(main), flags=re.S)
    words = re.sub(r"[\s¶]+", " ", html.unescape(text))
    return f'<div role="main">{html.escape(words)}</div>'


def write(app: Sphinx, error: Exception | None) -> None:
    """Sphinx's hook: the texts of all pages, as a script, which a page from a disk may load."""
    if error is None and app.builder.name == "html":
        folder = Path(app.outdir)
        pages = {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in sorted(app.env.found_docs)}
        texts = json.dumps({name: text_of(page) for name, page in pages.items()}, ensure_ascii=False)
        (folder / "_static" / "pages.js").write_text(f"const PAGES = {texts};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """The texts come last."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
