"""Settings of the documentation site; `make docs` builds it. Building and reading need no network."""

import re
from collections.abc import Iterator
from importlib import metadata

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

project = "pendel"
author = project_copyright = "pendel developers"
version = release = metadata.version("pendel")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_url_schemes = ("http", "https")

html_theme = "furo"
html_title = f"pendel {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["formulas.css"]
smartquotes = False
html_theme_options = {"navigation_with_keys": True}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90

SECTION = re.compile(r"^(Args|Returns|Raises|Source|Note|Yields):\s*$")
CODE = re.compile(r"(`+)(.+?)\1")
MARKUP = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")
EITHER = re.compile(r"([~.\w]+)\[Array, ('[^']*')\] \| \1\[ndarray, \2\]")
logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> None:
    """Registers what this site does in its own way."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None))
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
    app.connect("autodoc-process-signature", with_short_shapes)


def visit_math(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers draw by themselves: no script, no network."""
    is_block = isinstance(node, nodes.math_block)
    try:
        formula = latex2mathml.tex2mathml(node.astext(), as_block=is_block)
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
        formula = translator.encode(node.astext())
    translator.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def as_restructured_text(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `names`, formulas on indented lines, and sections such as Args."""
    del app, what, name, thing, options
    lines[:] = list(_converted(lines))


def with_short_shapes(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Shapes of arrays of JAX or NumPy, written once."""
    del app, what, name, thing, options
    return tuple(text and EITHER.sub(r"\1[Array, \2]", text) for text in (signature, returns))


def _converted(lines: list[str]) -> Iterator[str]:
    in_section = in_formula = False
    for number, line in enumerate(lines):
        is_indented = line.startswith("    ")
        if SECTION.match(line):
            in_section, in_formula = True, False
        elif line.strip() and not is_indented:
            in_section = in_formula = False
        elif is_indented and not in_section and not in_formula and not lines[number - 1].strip():
            in_formula = True
            yield from ("::", "")
        yield line if in_formula else _escaped(line)


def _escaped(line: str) -> str:
    """`name` as code; characters that mean something in reStructuredText as themselves."""
    parts, end = [], 0
    for match in CODE.finditer(line):
        parts += [MARKUP.sub(r"\\\1", line[end : match.start()]), f"``{match[2]}``"]
        end = match.end()
    return "".join([*parts, MARKUP.sub(r"\\\1", line[end:])])
