"""Sphinx configuration: `make docs` builds the site in build/docs, with warnings as errors.

Neither building nor reading the site needs a network.
"""

import hashlib
import logging
import os
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "extensions"))

project = "ncsn"
author = "the authors of ncsn"
release = version_of("ncsn")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.extlinks",
    "sphinx.ext.viewcode",
    "docstrings",
    "excerpts",
    "glossary",
    "mathml",
    "notebooks",
    "plain",
    "reference",
]

# Pages
html_theme = "furo"
html_title = "ncsn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "../web/public/icon.svg"
myst_html_meta = {"description": "ncsn is a PyTorch package for small diffusion models of images, tables and signals."}
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/about.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
# The interactive page, if `make site` has built it, is part of the site; pages link to the matching part of it.
PAGE = ROOT / "site"
html_context = {
    "page_is_built": (PAGE / "index.html").is_file(),
    "parts": {
        "tutorials/mixture": "anneal",
        "theory/matching": "learning",
        "tutorials/digits": "digits",
        "tutorials/inverse-problems": "fill",
    },
}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
smartquotes = False  # two hyphens start an option
exclude_patterns = ["_static", "_templates", "extensions", "**.ipynb"]  # readers make notebooks of pages
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
extlinks = {"arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
html_math_renderer = "mathml"

# Reference
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "special-members": "__call__"}
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
add_module_names = False

# Notebooks run again when they or the package have changed.
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds per cell: a guard against hanging, which a busy machine must not reach
nb_merge_streams = True
nb_render_markdown_format = "gfm"
code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((ROOT / "src").rglob("*.py"))))
nb_execution_cache_path = str(ROOT / "build" / "notebooks" / code.hexdigest()[:16])
logging.getLogger("traitlets").setLevel(logging.WARNING)


def add_page(app: Sphinx, error: Exception | None) -> None:
    """Copy the interactive page into the site."""
    if error is None and html_context["page_is_built"]:
        shutil.copytree(PAGE, Path(app.outdir) / "play", dirs_exist_ok=True)


def spread_notebooks(app: Sphinx, environment: object, names: list[str]) -> None:
    """Spread notebooks, which are neighbours in alphabetical order, over the processes."""
    names[:] = names[::2] + names[1::2]


def setup(app: Sphinx) -> None:
    """Connect the hooks."""
    app.connect("env-before-read-docs", spread_notebooks)
    app.connect("build-finished", add_page)


os.environ["TQDM_DISABLE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # one notebook per core
