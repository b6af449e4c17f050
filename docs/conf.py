"""Settings of the documentation site, which `make docs` builds with Sphinx.

The pages are the repository's own Markdown files, as GitHub shows them. Python files are pages too, so that a
link to one works on the site.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.parsers import Parser

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import qt_jax  # noqa: E402 (from this checkout, wherever the site is built)

project = "qt_jax"
author = "The qt_jax developers"
version = release = qt_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
pages = [path for where in ("", "docs/", "qt_jax/", "experiments/**/") for path in ROOT.glob(f"{where}*.md")]
linked = {
    page.parent / link for page in pages for link in re.findall(r"\]\(([\w./]+\.py)\)", page.read_text())
}
include_patterns = [str(path.resolve().relative_to(ROOT)) for path in (*pages, *linked)]
source_suffix = {".md": "markdown", ".py": "python"}
exclude_patterns = [".*", "data", "runs", "site", "build", "dist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
html_theme = "furo"
html_title = f"qt_jax {release}"
html_show_copyright = False
html_copy_source = False
html_static_path = ["wide.css"]
html_css_files = ["wide.css"]

CONTENTS = {
    "What do you want to do?": [
        "Get started <docs/quickstart>",
        "Use my data <docs/data>",
        "Choose a method <docs/which_method>",
        "Train on a cluster <docs/cluster>",
        "Put it on a robot <docs/robot>",
        "Improve it with its own experience <docs/improve>",
        "Start from a pretrained image encoder <docs/eyes>",
        "Extend it <docs/extend>",
        "Move to another version <docs/upgrade>",
        "Troubleshooting <qt_jax/troubleshooting>",
    ],
    "How good is it?": [
        "How often it succeeds <docs/results>",
        "Why: a diagnosis <experiments/diagnosis>",
        "Speed and memory <docs/speed>",
        "Beside other projects <docs/comparison>",
    ],
    "How does it work?": [
        "The method <docs/method>",
        "The design <docs/design>",
        "API <docs/api>",
        "What changed <CHANGELOG>",
    ],
    "Project": ["CONTRIBUTING", "SECURITY"],
}


class PythonPage(Parser):
    """Shows a Python file as a page that the search leaves out."""

    supported = ("python",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parses the text of a file into its page."""
        env = document.settings.env
        docname = env.docname
        env.metadata[docname] |= {"orphan": True, "nosearch": True}
        section = nodes.section(ids=[nodes.make_id(docname)])
        section += nodes.title(text=f"{docname}.py")
        section += nodes.literal_block(inputstring, inputstring, language="python")
        document += section


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Adds what GitHub has no use for: README's table of contents, titles of tables that scripts wrote."""
    if docname == root_doc:
        for caption, pages in CONTENTS.items():
            source[0] += "\n".join(["\n\n```{toctree}", ":hidden:", f":caption: {caption}", *pages, "```\n"])
    if docname.startswith("experiments/results/"):
        source[0] = f"---\norphan: true\n---\n\n# {docname}\n\n{source[0]}"


def from_markdown(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring, which is plain text with `code` and Google's sections.

    Bars and stars stand for themselves. A list whose lines hang, or all begin with a name, keeps its layout.
    """
    blocks = "\n".join(lines).split("\n\n")
    for number, block in enumerate(blocks):
        if re.match(r"(?!\w+:\n)\S.*\n(.*\n)* |(\w[\w, ]*: .*\n)+\w[\w, ]*: .*$", block):
            blocks[number] = ".. code-block:: text\n\n" + textwrap.indent(block, "    ")
        else:
            blocks[number] = re.sub(r"`([^`]*)`|([|*])", inline, block)
    lines[:] = GoogleDocstring("\n\n".join(blocks), Config(napoleon_use_rtype=False), what="function").lines()


def inline(found: re.Match[str]) -> str:
    """Writes `code`, a link where it is the name of a class or a module, or escapes a bar or a star."""
    code, sign = found.groups()
    if sign:
        return f"\\{sign}"
    return f":py:obj:`.{code}`" if re.fullmatch(r"[A-Z][a-z]\w+|qt_jax\.[\w.]+", code) else f"``{code}``"


def setup(app: Sphinx) -> None:
    """Registers what this file adds to Sphinx."""
    app.add_source_parser(PythonPage)
    app.connect("source-read", complete)
    app.connect("autodoc-process-docstring", from_markdown)
