"""Gathers the sources of the book in a folder, from files that stay as they are.

>>> write(Path("build/book-sources"))

A notebook, a section of the README, a docstring: each is written once, where readers of the repository look for it.
What the book needs beside that is added here, to a copy: a numbered equation becomes a place that can be linked to, and
a mention of it ("Equation (4)") the link; a link to a file leads to the page made from it, or to the forge. Text in,
text out, and nothing of Sphinx: `python -m book` hands the folder over to it. A file whose content has not changed is
left alone, so that Sphinx renders the changed ones only.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdutils.core.errors import UserError
from kdutils.core.setup import REPOSITORY, REVISION

BOOK = Path(__file__).parent
ROOT = BOOK.parent
# Sections of the README by their first words, and the page that each is part of; the others are about getting started.
SECTIONS = {
    "How results are graded": "results",
    "Reproducibility": "results",
    "Layout": "inside",
    "A ninth paper": "inside",
    "Eight papers": "index",
    "Licence": "index",
}
HERE = "<!-- README -->"  # where a page of this folder takes up its sections
LIST = "<!-- NOTEBOOKS -->"  # where the table of contents takes up the notebooks
BADGE = re.compile(r"!\[([^\]]*)\]\(https://colab\.[^)]*\.svg\)")  # a picture from elsewhere: its words say the same


# --- equations ---------------------------------------------------------------------------------------------------

DISPLAY = re.compile(r"^([ ]*)\$\$(.+?)\$\$", re.M | re.S)
TAG = re.compile(r"\s*\\tag\{([^}]*)\}")
# What must stay as it is: code, mathematics, headings, links and HTML. Or else: a mention of equations by number.
MENTION = re.compile(
    r"```.*?```|\$\$.*?\$\$|`[^`\n]*`|\$[^$\n]+\$|^#.*?$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>"
    r"|\b(?P<word>Equations?|Eqs?\.)(?P<space>\s)(?P<list>(?:\(\d+\)|\d+)(?:(?:,\s|\sand\s|\sor\s|\sto\s)(?:\(\d+\)|\d+))*)",
    re.M | re.S,
)


@dataclass(frozen=True)
class Equation:
    """A display that carries a number: "(3, 4)" is `tag` "3, 4" and has the `numbers` 3 and 4."""

    tag: str
    latex: str
    heading: str

    @property
    def numbers(self) -> list[int]:
        low_high = [[int(end) for end in part.split("–")] for part in self.tag.split(", ")]
        return [number for ends in low_high for number in range(ends[0], ends[-1] + 1)]


def equations(text: str, heading: str = "") -> Iterator[Equation]:
    """The numbered displays of a Markdown text in order, each with the heading above it."""
    marks = re.compile(rf"^#+ (?P<heading>[^\n]*)$|{DISPLAY.pattern}", re.M | re.S)
    for mark in marks.finditer(text):
        heading = mark["heading"] or heading
        latex = mark[3] or ""
        if tag := TAG.search(latex):
            yield Equation(tag[1], TAG.sub("", latex).strip(), heading)


def label(paper: str, number: int) -> str:
    """The name of an equation in the book, and its anchor: eq-r-drop-4."""
    return f"eq-{paper.replace('_', '-')}-{number}"


def anchored(text: str, paper: str) -> str:
    """Gives every numbered display of a Markdown text the place `label(paper, number)`."""

    def add(match: re.Match) -> str:
        targets = [f"{match[1]}({label(paper, number)})=" for one in equations(match[0]) for number in one.numbers]
        return "\n".join([*targets, match[0]])

    return DISPLAY.sub(add, text)


def mentions_linked(text: str, paper: str, known: set[int]) -> str:
    """Turns "Equations (5) and (6)" into links to the equations of this paper that the notebook shows."""

    def one(word: str, match: re.Match) -> str:
        number = int(match[1])
        return f"[{word}{match[0]}](#{label(paper, number)})" if number in known else f"{word}{match[0]}"

    def link(match: re.Match) -> str:
        if not match["word"]:
            return match[0]
        word, number = match["word"] + match["space"], re.compile(r"\(?(\d+)\)?")
        if alone := number.fullmatch(match["list"]):
            return one(word, alone)
        return word + number.sub(lambda each: one("", each), match["list"])

    return MENTION.sub(link, text)


# --- links -------------------------------------------------------------------------------------------------------


def relinked(text: str, home: str, sections: dict[str, str] | None = None) -> str:
    """Makes links to files of the repository resolve in the book; `home` is the folder of the text, "" or "notebooks".

    A notebook keeps its link, because it is a page of the book; CONTRIBUTING.md and CHANGELOG.md as well; a picture of
    the book lies beside its pages; any other file is shown by the forge. `sections` maps anchors of the README to the
    page that has the section. Raises UserError for a file that is not there.
    """

    def link(match: re.Match) -> str:
        words, address = match[1], match[2]
        if re.match(r"[a-z]+:", address):
            return match[0]
        if address.startswith("#"):
            page = (sections or {}).get(address[1:])
            return f"{words}({page}.md{address})" if page else match[0]
        inside = posixpath.normpath(posixpath.join(home, address.partition("#")[0]))
        if not (ROOT / inside).exists():
            raise UserError(f"A link leads to {address}, which is not there: mend it in {home or 'the README'}.")
        if inside in ("CONTRIBUTING.md", "CHANGELOG.md") or re.fullmatch(r"notebooks/\w+\.ipynb", inside):
            return match[0]
        if inside.startswith("book/_static/"):
            return f"{words}({inside.removeprefix('book/')})"
        kind = "tree" if (ROOT / inside).is_dir() else "blob"
        return f"{words}({REPOSITORY}/{kind}/{REVISION}/{inside})"

    return re.sub(r"(\])\(([^()\s]+)\)", link, text)


# --- pages -------------------------------------------------------------------------------------------------------


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def paper_of(notebook: Path) -> str:
    return notebook.stem[3:]


def title_of(node: dict) -> str:
    return re.search(r"^# (.*)$", "".join(node["cells"][0]["source"]), re.M)[1]


def markdown_of(node: dict) -> list[dict]:
    return [cell for cell in node["cells"] if cell["cell_type"] == "markdown"]


def numbered_equations(node: dict) -> list[Equation]:
    """The numbered equations of a notebook, as json has it."""
    return list(equations("\n\n".join("".join(cell["source"]) for cell in markdown_of(node))))


def notebook_page(node: dict, paper: str) -> dict:
    """The notebook with places for its equations, and with links that lead somewhere; `node` itself is changed."""
    known = {number for one in numbered_equations(node) for number in one.numbers}
    for cell in markdown_of(node):
        text = relinked(BADGE.sub(r"\1", "".join(cell["source"])), "notebooks")
        cell["source"] = anchored(mentions_linked(text, paper, known), paper)
    for data in (output.get("data", {}) for cell in node["cells"] for output in cell.get("outputs", [])):
        if "text/markdown" in data:
            data["text/markdown"] = relinked("".join(data["text/markdown"]), "notebooks")
        if "text/html" in data:  # Sphinx hands it through: it must name a page as a file
            data["text/html"] = re.sub(r"(href=[\"']\d\d_\w+)\.ipynb\b", r"\1.html", "".join(data["text/html"]))
    return node


def equations_page(nodes: dict[str, dict]) -> str:
    """The page of all numbered equations; `nodes`: notebooks by their names, "03_r_drop"."""
    lines = [
        "# All equations",
        "",
        "Every numbered equation of the notebooks, with the number that it has there. A number leads to the place",
        "where the equation is explained, written as code and checked.",
    ]
    for name, node in nodes.items():
        found = numbered_equations(node)
        if found:
            lines += ["", f"## {name[:2]}. {title_of(node)}"]
        for one in found:
            heading = re.sub(r"^Equations? [^:]*: |^\d+\. ", "", one.heading)
            lines += [
                "",
                f"[Equation ({one.tag})](#{label(name[3:], one.numbers[0])}): {heading}",
                "",
                f"$$\n{one.latex}\n$$",
            ]
    return "\n".join(lines) + "\n"


def readme_sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands in the README before its first section, and the sections by their headings."""
    head, *sections = re.split(r"^(?=## )", text, flags=re.M)
    return head, {section.split("\n", 1)[0].removeprefix("## "): section for section in sections}


def page_of(section: str) -> str:
    """The page of the book that takes up a section of the README."""
    return next((page for start, page in SECTIONS.items() if section.startswith(start)), "getting_started")


def anchor(heading: str) -> str:
    """The anchor that the forge gives to a heading, and the book as well."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def readme_pages() -> dict[str, str]:
    """The Markdown pages of this folder, with their parts of the README."""
    head, sections = readme_sections((ROOT / "README.md").read_text(encoding="utf-8"))
    homes = {anchor(name): page_of(name) for name in sections}
    pages = {}
    for path in sorted(BOOK.glob("*.md")):
        parts = [text for name, text in sections.items() if page_of(name) == path.stem]
        text = relinked("\n".join([head, *parts] if path.stem == "index" else parts).strip(), "", homes)
        pages[path.name] = path.read_text(encoding="utf-8").replace(HERE, text)
    return pages


# --- the modules -------------------------------------------------------------------------------------------------

FIRST = ("objective", "method", "experiment", "claims")  # of a paper's modules


def wings() -> list[str]:
    """The wings of kdutils in the order of the house: as its docstring lists them."""
    docstring = ast.get_docstring(ast.parse((ROOT / "kdutils/__init__.py").read_text(encoding="utf-8")))
    return re.findall(r"^(\w+) {2,}", docstring, flags=re.M)


def papers() -> list[str]:
    """The papers in the order of their notebooks."""
    return [paper_of(path) for path in notebooks() if (ROOT / "kdutils/papers" / paper_of(path)).is_dir()]


def module_text(module: str, members: bool = True) -> str:
    """What Sphinx is told about a module: its docstring, then its public names in the order of the source."""
    path = module.replace(".", "/")
    file = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
    source = f"`{file} <{REPOSITORY}/blob/{REVISION}/{file}>`__"
    return f"{source}\n\n.. automodule:: {module}\n" + "   :members:\n" * members


def headline(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n"


def package_page(package: str, title: str) -> str:
    """A wing or a paper on one page, a section a module."""
    folder = ROOT / package.replace(".", "/")
    names = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    own = any(isinstance(part, ast.FunctionDef | ast.ClassDef) for part in tree.body)
    parts = [headline(title, "="), module_text(package, members=own)]
    for name in names:
        parts += [headline(name, "-"), module_text(f"{package}.{name}")]
    return "\n".join(parts)


def toctree(*names: str) -> str:
    return ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in names)


def api_pages() -> dict[str, str]:
    """The pages of the modules: an overview, a page a wing, a page a paper, and the command line."""
    pages = {f"api/{wing}.rst": package_page(f"kdutils.{wing}", wing) for wing in wings()}
    pages["api/papers.rst"] += "\n" + toctree(*(f"papers/{paper}" for paper in papers()))
    for paper in papers():
        pages[f"api/papers/{paper}.rst"] = package_page(f"kdutils.papers.{paper}", paper)
    command = [headline("command line", "="), module_text("kdutils.__main__")]
    for name in ("launch", "runner"):
        command += [headline(name, "-"), module_text(f"kdutils.{name}")]
    pages["api/command_line.rst"] = "\n".join(command)
    overview = [headline("Modules", "="), module_text("kdutils", members=False), toctree(*wings(), "command_line")]
    pages["api/index.rst"] = "\n".join(overview)
    return pages


# --- the folder --------------------------------------------------------------------------------------------------


def pages(only: list[str]) -> dict[str, str]:
    """All sources by their path in the folder; `only`: names of notebooks and wings, none for all of them."""
    nodes = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notebooks()}
    made = readme_pages() | api_pages()
    # in the side bar a notebook is its number and the first words of its title
    entries = [f"{name[:2]} {title_of(node).partition(':')[0]} <notebooks/{name}>" for name, node in nodes.items()]
    made["index.md"] = made["index.md"].replace(LIST, "\n".join(entries))
    made["equations.md"] = equations_page({name: node for name, node in nodes.items() if not only or name in only})
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        made[name] = relinked((ROOT / name).read_text(encoding="utf-8"), "")
    for name, node in nodes.items():
        made[f"notebooks/{name}.ipynb"] = json.dumps(notebook_page(node, name[3:]), ensure_ascii=False)
    if unknown := {*only} - {Path(name).stem for name in made}:
        raise UserError(f"The book has no {', '.join(sorted(unknown))}. Known: {', '.join(sorted(made))}.")
    return {name: text for name, text in made.items() if not only or "/" not in name or Path(name).stem in only}


def write(folder: Path, only: list[str] | None = None) -> None:
    """Writes the sources into a folder, changed ones only, and deletes what is no source any more."""
    made = {folder / name: text.encode() for name, text in pages(only or []).items()}
    made |= {folder / "_static" / picture.name: picture.read_bytes() for picture in BOOK.glob("_static/*.png")}
    for path in [*folder.rglob("*.*")]:
        if path.is_file() and path not in made:
            path.unlink()
    for path, content in made.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
