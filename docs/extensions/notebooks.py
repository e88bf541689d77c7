"""Pages that run: ```` ```python cell ```` is a cell of a notebook, ```` ```python cell fold ```` one that is folded.

After a colon stands what the picture shows that it draws: ```` ```python cell: A circle. ````.  A code host shows all
of them as ordinary Python, with their outputs below.  Each such page is also a file to download, with its outputs
inside, that opens anywhere.
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
# Two pixels to one of CSS.  Figures have no ground and grey letters, so that they can be read on white and on black.
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
INSTALL = """# This notebook needs the package ncsn.  If it is not installed, remove the # from the next line
# and write instead of SOURCE where its source code is: a folder, an archive or an address.
# %pip install --quiet SOURCE
%matplotlib inline
%config InlineBackend.figure_format = "retina\""""


def as_notebook(text: str) -> str:
    """A page as MyST-NB reads it; other pages stay as they are."""
    if "\n```python cell" not in text:
        return text
    text = re.sub(r"^```python cell( fold)?(?:: (.*))?$", cell, without_outputs(text), flags=re.M)
    return f"{FRONT}\n" + text.replace("\n```{code-cell}", f"\n{SHARP}```{{code-cell}}", 1)


def cell(fence: re.Match[str]) -> str:
    """The beginning of a cell for MyST-NB: whether it is folded, and what its picture shows."""
    lines = ["tags: [hide-input]"] if fence[1] else []
    if fence[2]:
        lines.append(f"mystnb: {{image: {{alt: {json.dumps(fence[2])}}}}}")
    return "\n".join(["```{code-cell}", "---", *lines, "---"] if lines else ["```{code-cell}"])


def portable(notebook: nbformat.NotebookNode, address: str) -> nbformat.NotebookNode:
    """The same notebook for elsewhere: it begins with what it needs, and no link leads to a file beside it.

    ``address``: of the folder of its page on the site; "" if that is not known, and links to pages become their texts.
    """
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", cell.source)  # outputs show the same picture
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
    """Sphinx's hook: the text of a page, changed in place."""
    source[0] = as_notebook(source[0])


def offer(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Sphinx's hook: the page of a notebook begins with a link to it."""
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{pagename}.ipynb"
    if doctree is None or not executed.is_file():
        return
    place = Path(app.outdir) / "notebooks" / f"{Path(pagename).name}.ipynb"
    place.parent.mkdir(exist_ok=True)
    folder = f"{app.config.html_baseurl}{Path(pagename).parent}/" if app.config.html_baseurl else ""
    notebook = nbformat.read(executed, 4)
    with suppress(KeyError):  # MyST-NB writes no outputs that it has from its cache
        _, notebook = get_cache(app.config.nb_execution_cache_path).merge_match_into_notebook(notebook)
    nbformat.write(portable(notebook, folder), place)
    source = Path(app.srcdir)
    write_outputs(source / f"{pagename}.md", notebook, source / "images" / "cells")
    address = context["pathto"](f"notebooks/{place.name}", 1)
    link = f'<p class="notebook"><a href="{address}" download>Download as a notebook</a></p>'
    context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to Sphinx."""
    app.connect("source-read", read)
    app.connect("html-page-context", offer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
