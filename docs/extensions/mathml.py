"""Formulas as MathML, by docutils' own converter, so that readers need no scripts, fonts or network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def mathml(formula: str, *, as_block: bool) -> str:
    r"""LaTeX as MathML.  Drops ``\Big``, which docutils doesn't know, and adds braces to ``\tfrac12``.

    Bars of norms keep their height, and there is a space between log and p.
    """
    plain = re.sub(r"\\[Bb]igg?[lr]?(?![A-Za-z])", "", formula)
    made = tex2mathml(re.sub(r"frac(\d)(\d)", r"frac{\1}{\2}", plain), as_block=as_block)
    made = made.replace("<mo>‖</mo>", '<mo stretchy="false">‖</mo>')
    return made.replace("<mo>&ApplyFunction;</mo>", '<mspace width="0.17em"/>')


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """An inline formula."""
    self.body.append(mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    """A displayed formula."""
    self.body.append(f'<div class="formula">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
