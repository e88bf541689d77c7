"""Notebook pages: ```` ```python cell ```` starts a cell, ```` ```python cell fold ```` one that the site folds.

A description of its picture may follow: ```` ```python cell: A circle. ````.  Code hosts show cells as ordinary Python,
with their outputs below.  Each page can also be downloaded as a notebook that includes its outputs.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from outputs import without_outputs, write_outputs
from sphinx.application import Sphinx

FRONT = """---
file_format: mystnb
kernelspec:
  name: python3
  language: python
---
"""
# Two pixels per CSS pixel.  Figures have a transparent background and grey text, to be readable in light and dark mode.
SHARP = """```{code-cell}
:tags: [remove-cell]
%matplotlib inline
%config InlineBackend.figure_format = "retina"
import matplotlib as mpl
from ncsn import plots
grey = dict.fromkeys(
    ["text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], "#737a85"
)
ground = {"figure.facecolor": "none", "axes.facecolor": "none", "legend.facecolor": "#f0f0f0", "legend.framealpha": 0}
plots.STYLE |= grey | ground
mpl.rcParams |= grey | ground | {"legend.edgecolor": "none"}
```

"""
INSTALL = """# This notebook needs the package ncsn.  To install it, uncomment the next line and replace SOURCE
# by the folder, archive or address of its source code.
# %pip install --quiet SOURCE
%matplotlib inline
%config InlineBackend.figure_format = "retina\""""


def as_notebook(text: str) -> str:
    """A page with cells, as MyST-NB reads it; other pages are unchanged."""
    if "\n```python cell" not in text:
        return text
    text = re.sub(r"^```python cell( fold)?(?:: (.*))?$", cell, without_outputs(text), flags=re.M)
    return f"{FRONT}\n" + text.replace("\n```{code-cell}", f"\n{SHARP}```{{code-cell}}", 1)


def cell(fence: re.Match[str]) -> str:
    """The opening of a cell for MyST-NB, with its folding and the description of its picture."""
    lines = ["tags: [hide-input]"] if fence[1] else []
    if fence[2]:
        lines.append(f"mystnb: {{image: {{alt: {json.dumps(fence[2])}}}}}")
    return "\n".join(["```{code-cell}", "---", *lines, "---"] if lines else ["```{code-cell}"])


def portable(notebook: nbformat.NotebookNode, address: str) -> nbformat.NotebookNode:
    """The same notebook for download: it starts with what it needs, and has no relative links.

    ``address``: of the folder of its page on the site; "" if that is not known, and links to pages become their texts.
    """
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", cell.source)  # outputs contain it, too
            link = rf"[\1]({address}\2.html\3)" if address else r"\1"
            source = re.sub(r"\[([^\]]*)\]\((?!https?:)([^)#]*)\.md(#[^)]*)?\)", link, source)
            source = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", source)
            cells.append(nbformat.v4.new_markdown_cell(source))
        elif "remove-cell" not in cell.metadata.get("tags", []):
            cells.append(nbformat.v4.new_code_cell(cell.source, outputs=cell.outputs, execution_count=len(cells)))
    cells.insert(1, nbformat.v4.new_code_cell(INSTALL))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx hook: change the text of a page in place."""
    source[0] = as_notebook(source[0])


def offer(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Sphinx hook: write the notebook of a page, and link to it at the top."""
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{pagename}.ipynb"
    if doctree is None or not executed.is_file():
        return
    place = Path(app.outdir) / "notebooks" / f"{Path(pagename).name}.ipynb"
    place.parent.mkdir(exist_ok=True)
    folder = f"{app.config.html_baseurl}{Path(pagename).parent}/" if app.config.html_baseurl else ""
    notebook = nbformat.read(executed, 4)
    with suppress(KeyError):  # MyST-NB omits outputs that come from its cache
        _, notebook = get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(notebook)
    nbformat.write(portable(notebook, folder), place)
    source = Path(app.srcdir)
    write_outputs(source / f"{pagename}.md", notebook, source / "images" / "cells")
    address = context["pathto"](f"notebooks/{place.name}", 1)
    link = f'<p class="notebook"><a href="{address}" download>Download as a notebook</a></p>'
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    app.connect("source-read", read)
    app.connect("html-page-context", offer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
