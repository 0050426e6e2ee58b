"""Every link of the documents and the notebooks: inside the repository it leads to a file or a heading, outside to few.

Nothing is fetched: of an address elsewhere only the scheme and the host are held, and for the suite's own address on
GitHub and Colab the path.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

from kdutils.core.setup import REPOSITORY, REVISION

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "results/README.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HOSTS = {
    "arxiv.org",
    "colab.research.google.com",
    "doi.org",
    "download.pytorch.org",
    "github.com",
    "keepachangelog.com",
}
OWN = [
    f"{REPOSITORY}/blob/{REVISION}/",
    f"{REPOSITORY}/tree/{REVISION}/",
    f"https://colab.research.google.com/github/{REPOSITORY.removeprefix('https://github.com/')}/blob/{REVISION}/",
]


def without_code(text: str) -> str:
    text = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", text, flags=re.S | re.M)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def links(text: str) -> set[str]:
    """The targets of Markdown and HTML, of links and of images, and addresses that stand in the text; not in code."""
    text = without_code(text)
    found = re.findall(r"\]\(\s*<?((?:[^()\s<>]|\([^()\s]*\))+)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.M)
    found += [html.unescape(one) for one in re.findall(r"\b(?:href|src)\s*=\s*[\"']([^\"']*)[\"']", text)]
    found += re.findall(r"\bhttps?://[^\s<>()\[\]\"'`|]*[^\s<>()\[\]\"'`|.,:;*]", text)
    return {one for one in found if not one.startswith("data:")}


def anchors(text: str) -> set[str]:
    """What GitHub and Jupyter call the headings of a text, and the names that it gives itself."""
    named, counted = set(re.findall(r"\b(?:id|name)\s*=\s*[\"']([^\"']+)[\"']", text)), {}
    fenced = re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", text, flags=re.S | re.M)
    for heading in re.findall(r"^#{1,6} +(.+?)[ #]*$", fenced, re.M):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        number = counted[slug] = counted.get(slug, -1) + 1
        named.add(f"{slug}-{number}" if number else slug)
    return named


def texts(path: Path) -> Iterator[str]:
    """What a reader reads: a document, or the Markdown cells of a notebook and the pages that its outputs show."""
    if path.suffix != ".ipynb":
        yield path.read_text(encoding="utf-8")
        return
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", []):
            yield from (output.get("data", {}).get(kind, "") for kind in ("text/html", "text/markdown"))


def broken(path: Path, root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the links of a file, in words."""
    everything = "\n\n".join(texts(path))
    for link in sorted(set().union(*map(links, texts(path)))):
        address = urlsplit(link)
        own = next((link.removeprefix(one) for one in OWN if link.startswith(one)), None)
        if own is not None:
            if not (root / unquote(own.partition("#")[0])).exists():
                yield f"{link} names no file of this repository"
        elif address.scheme or address.netloc:
            if address.scheme != "https" or address.hostname not in HOSTS:
                yield f"{link} leads to another host than {', '.join(sorted(HOSTS))}, or not by https"
        else:
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            inside = target.is_relative_to(root) and not {"runs", ".venv"} & {*target.relative_to(root).parts}
            if not inside or not target.exists():
                yield f"{link} leads to no file of this repository: mend the path, or take the link out"
            elif address.fragment and unquote(address.fragment) not in anchors(
                everything if target == path else "\n\n".join(texts(target))
            ):
                yield f"{link} leads to no heading of {target.name}"


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: path.stem)
def test_every_link_resolves(path):
    complaints = list(broken(path))
    assert not complaints, f"{path.name}: " + "; ".join(complaints)


GOOD = """\
# How it *is* graded, `exactly`

[a](other.md), [b](other.md#two-words-1), [c](#how-it-is-graded-exactly), ![d](figures/dot%20one.png "A dot."), [e]
[![badge](https://github.com/x.svg)](https://arxiv.org/abs/1), <a href="other.md#here">f</a>, https://doi.org/10.1/a.

[e]: other.md

`[g](lost.md)`

```
[h](lost.md) http://example.org
```
"""


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("", ""),
        ("[x](lost.md)", "no file"),
        ("![x](figures/lost.png)", "no file"),
        ("[x](../outside.md)", "no file"),
        ("[x](runs/report.html)", "no file"),
        ("[x](other.md#three)", "no heading"),
        ("[x](#lost)", "no heading"),
        ('<img src="lost.png">', "no file"),
        ("[x](http://arxiv.org/abs/1)", "https"),
        ("See https://example.org/a.", "another host"),
        (f"[x]({OWN[0]}lost.md)", "names no file"),
        (f"[![x](https://github.com/x.svg)]({OWN[2]}notebooks/99_lost.ipynb)", "names no file"),
    ],
)
def test_a_broken_link_is_seen(tmp_path, link, words):
    root = tmp_path / "repository"
    for name, text in {"other.md": "## Two words\n\n## Two words\n\n<a id='here'></a>", "runs/report.html": ""}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "figures").mkdir()
    (root / "figures/dot one.png").write_bytes(b"")
    (tmp_path / "outside.md").write_text("")
    (root / "read.md").write_text(GOOD + "\n" + link + "\n")
    complaints = list(broken(root / "read.md", root))
    assert len(complaints) == bool(words) and all(words in one for one in complaints)


def test_what_outputs_of_a_notebook_show_is_read(tmp_path):
    new = nbformat.v4
    page = new.new_output("display_data", {"text/html": '<a href="lost.html">x</a>'})
    cells = [new.new_markdown_cell("## One\n\n[a](#one)"), new.new_code_cell("x", outputs=[page])]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "some.ipynb")
    assert [one.split()[0] for one in broken(tmp_path / "some.ipynb", tmp_path)] == ["lost.html"]
