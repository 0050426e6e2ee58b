"""How Sphinx builds the book from the sources that `book.sources` gathers."""

import importlib.util
import inspect
import sys
import tomllib
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import kdutils  # noqa: E402
from book.docstrings import as_rst  # noqa: E402
from kdutils.core.setup import REPOSITORY, REVISION  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "kdutils"
author = copyright = PROJECT["authors"][0]["name"]
version = release = kdutils.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.mathjax"]
highlight_language = "none"  # commands and tables; code says itself what it is
smartquotes = False  # "demo" and (..., V) are shown as they are typed

# --- notebooks and Markdown
nb_execution_mode = "off"  # they are shown as they were committed
nb_merge_streams = True
nb_render_markdown_format = "myst"  # outputs have tables, formulas and links like the cells around them
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# --- modules: the docstrings are read from the code as it is imported, so that what is shown is what runs
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

# --- pages
html_theme = "sphinx_book_theme"
html_title = "kdutils"
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
html_static_path = ["_static", str(MATHJAX / "tex-svg.js")]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": REVISION,
    "use_repository_button": True,
    "navbar_persistent": [],  # the search has its place in the side bar
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "show_toc_level": 1,
}
# MathJax comes with the book, in one file with its fonts: a book on a disk can be read without a network.
mathjax_path = "tex-svg.js"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The lines of a function or class at the forge."""
    found = sys.modules.get(info["module"])
    for name in info["fullname"].split("."):
        found = getattr(found, name, None)
    try:
        lines, first = inspect.getsourcelines(inspect.unwrap(found))
        path = Path(inspect.getsourcefile(inspect.unwrap(found))).resolve().relative_to(ROOT)
    except (TypeError, OSError, ValueError):  # a value, or not from here
        return None
    return f"{REPOSITORY}/blob/{REVISION}/{path.as_posix()}#L{first}-L{first + len(lines) - 1}"


def plain_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def displays_with_tags(app, doctree: nodes.document) -> None:
    """Leaves displays to MathJax as they are: Sphinx would set lines apart by an environment that admits no \\tag."""
    for node in doctree.findall(nodes.math_block):
        node["no-wrap"] = True
        node.children = [nodes.Text(f"\\[{node.astext()}\\]")]


def setup(app) -> None:
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("doctree-read", displays_with_tags)
