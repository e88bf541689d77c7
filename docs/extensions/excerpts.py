"""Search excerpts for a site opened from disk, where browsers may not fetch other files."""

import html
import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def text_of(page: str) -> str:
    """The text of a page, in the HTML that Sphinx's search expects."""
    main = re.findall(r'<article role="main".*?</article>', page, re.S)
    text = re.sub(r"<(script|style|annotation).*?</\1>|<[^>]*>", " ", "".join(main), flags=re.S)
    words = re.sub(r"[\s¶]+", " ", html.unescape(text))
    return f'<div role="main">{html.escape(words)}</div>'


def write(app: Sphinx, error: Exception | None) -> None:
    """Sphinx hook: write the texts of all pages into a script, which pages on disk may load."""
    if error is None and app.builder.name == "html":
        folder = Path(app.outdir)
        pages = {name: (folder / f"{name}.html").read_text(encoding="utf-8") for name in sorted(app.env.found_docs)}
        texts = json.dumps({name: text_of(page) for name, page in pages.items()}, ensure_ascii=False)
        (folder / "_static" / "pages.js").write_text(f"const PAGES = {texts};\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
