"""The book: what is gathered for it, and, where Sphinx is installed, how a notebook and a wing come out of it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from book import __main__ as build
from book import docstrings, sources
from kdutils.core.errors import UserError
from kdutils.core.setup import REPOSITORY, REVISION

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return sources.pages([])


# --- the pages ----------------------------------------------------------------------------------------------


def entries(text: str) -> list[str]:
    """What the tables of contents of a page name."""
    blocks = re.findall(r"```\{toctree\}\n((?:.*\n)*?)```|^\.\. toctree::\n((?: .*\n|\n)*)", text, re.M)
    lines = [line.strip() for block in blocks for line in "".join(block).splitlines()]
    return [re.sub(r".*<(.*)>", r"\1", line) for line in lines if line and not line.startswith(":")]


def test_every_page_is_reached_from_the_front_page(pages):
    by_name = {name.rpartition(".")[0]: name for name in pages}
    reached, new = set(), ["index"]
    while new:
        name = new.pop()
        reached.add(name)
        new += [(Path(name).parent / entry).as_posix() for entry in entries(pages[by_name[name]])]
    assert reached == set(by_name)


def test_the_notebooks_stand_in_their_order_under_short_names(pages):
    listed = re.findall(r"^(\d\d) ([^\n<]+) <notebooks/(\w+)>$", pages["index.md"], re.M)
    assert [name for _, _, name in listed] == [path.stem for path in sources.notebooks()]
    assert all(name.startswith(number) for number, _, name in listed)
    assert ("03", "R-Drop", "03_r_drop") in listed


def test_every_module_is_described_once(pages):
    described = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(pages.values()), re.M)
    modules = [path for path in (ROOT / "kdutils").rglob("*.py") if not path.parent.name.startswith("_")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules}
    assert sorted(described) == sorted(names)


def test_every_wing_and_every_paper_has_its_page(pages):
    wings = {path.parent.name for path in (ROOT / "kdutils").glob("*/__init__.py")}
    assert {*sources.wings()} == wings and {f"api/{wing}.rst" for wing in wings} <= set(pages)
    papers = {path.parent.name for path in (ROOT / "kdutils/papers").glob("*/__init__.py")}
    assert {*sources.papers()} == papers and {f"api/papers/{paper}.rst" for paper in papers} <= set(pages)


def test_every_section_of_the_readme_is_part_of_one_page(pages):
    _, sections = sources.readme_sections(sources.ROOT.joinpath("README.md").read_text(encoding="utf-8"))
    text = "\n".join(text for name, text in pages.items() if name.endswith(".md"))
    for heading in sections:
        assert len(re.findall(rf"^## {re.escape(heading)}$", text, re.M)) == 1, heading
    for start in sources.SECTIONS:
        assert any(heading.startswith(start) for heading in sections), f"the README has no section '{start}' any more"
    assert not any(mark in text for mark in (sources.HERE, sources.LIST))


def test_the_front_page_has_the_picture_and_the_papers(pages, tmp_path):
    assert "](_static/eight_teachers.png)" in pages["index.md"] and "## Eight papers" in pages["index.md"]
    sources.write(tmp_path, ["losses"])
    assert (tmp_path / "_static/eight_teachers.png").read_bytes()[:4] == b"\x89PNG"


def test_a_part_of_the_book_is_named_by_what_there_is():
    some = sources.pages(["03_r_drop", "losses"])
    assert {name for name in some if "/" in name} == {"notebooks/03_r_drop.ipynb", "api/losses.rst"}
    with pytest.raises(UserError, match="The book has no r_dorp. Known: .*03_r_drop"):
        sources.pages(["r_dorp"])


def test_what_has_not_changed_is_left_alone_and_what_is_gone_is_deleted(tmp_path):
    sources.write(tmp_path, ["losses"])
    kept, changed = tmp_path / "api/losses.rst", tmp_path / "index.md"
    before = kept.stat().st_mtime_ns
    changed.write_text("other", encoding="utf-8")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/09_gone.ipynb").write_text("{}", encoding="utf-8")
    sources.write(tmp_path, ["losses"])
    assert kept.stat().st_mtime_ns == before
    assert changed.read_text(encoding="utf-8").startswith("# kdutils")
    assert not (tmp_path / "notebooks/09_gone.ipynb").exists()


# --- equations ----------------------------------------------------------------------------------------------

TEXT = r"""### Equation (1): the loss

A sum,
$$L=\sum_i
l_i. \tag{1}$$

$$\frac ab$$

## 4. Rewards

$$R_T,\qquad R_S \tag{3, 4}$$
"""


def test_numbered_displays_are_found_with_the_heading_above_them():
    first, second = sources.equations(TEXT)
    assert (first.tag, first.heading, first.numbers) == ("1", "Equation (1): the loss", [1])
    assert first.latex == "L=\\sum_i\nl_i."
    assert (second.tag, second.heading, second.numbers) == ("3, 4", "4. Rewards", [3, 4])


@pytest.mark.parametrize(("tag", "numbers"), [("7", [7]), ("12, 13", [12, 13]), ("8–10", [8, 9, 10])])
def test_a_tag_names_all_its_numbers(tag, numbers):
    assert sources.Equation(tag, "", "").numbers == numbers


def test_a_numbered_display_becomes_a_place_and_stays_what_it_is():
    text = sources.anchored(TEXT, "r_drop")
    assert "\n(eq-r-drop-1)=\n$$L=\\sum_i\nl_i. \\tag{1}$$" in text
    assert "\n(eq-r-drop-3)=\n(eq-r-drop-4)=\n$$R_T" in text
    assert re.sub(r"^\(eq-.*\)=\n", "", text, flags=re.M) == TEXT


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("as Equation (3) says", "as [Equation (3)](#eq-lssd-3) says"),
        ("(Equation 3)", "([Equation 3](#eq-lssd-3))"),
        ("Eq. (4), and", "[Eq. (4)](#eq-lssd-4), and"),
        ("Equations (3) and (4)", "Equations [(3)](#eq-lssd-3) and [(4)](#eq-lssd-4)"),
        ("Equations (2), (3) and (4)", "Equations (2), [(3)](#eq-lssd-3) and [(4)](#eq-lssd-4)"),
        ("Equation\n(3)", "[Equation\n(3)](#eq-lssd-3)"),
        ("Equation (7) of another paper", "Equation (7) of another paper"),
        ("### Equation (3): the loss", "### Equation (3): the loss"),
        ("`Equation (3)`", "`Equation (3)`"),
        ("```python\n# Equation (3)\n```", "```python\n# Equation (3)\n```"),
        ("[see Equation (3)](x.md)", "[see Equation (3)](x.md)"),
        ("$x$ is in Equation (3), $y$ as well", "$x$ is in [Equation (3)](#eq-lssd-3), $y$ as well"),
    ],
)
def test_a_mention_becomes_a_link_where_the_notebook_has_the_equation(text, linked):
    assert sources.mentions_linked(text, "lssd", {3, 4}) == linked


def test_every_equation_of_the_suite_has_one_place_and_stands_in_the_list(pages):
    places, listed = [], re.findall(r"^\[Equation \(.*\)\]\(#(eq-[\w-]+)\)", pages["equations.md"], re.M)
    tags = 0
    for path in sources.notebooks():
        cells = json.loads(pages[f"notebooks/{path.name}"])["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        tags += len(re.findall(r"\\tag\{", text))
        here = re.findall(r"^ *\((eq-[\w-]+)\)=$", text, re.M)
        assert {*re.findall(r"\]\(#(eq-[\w-]+)\)", text)} <= {*here}
        places += here
    assert len(places) == len({*places}) and {*listed} <= {*places}
    assert len(listed) == tags > 40


# --- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "home", "found"),
    [
        ("04_seer_forcing.ipynb", "notebooks", "04_seer_forcing.ipynb"),
        ("notebooks/04_seer_forcing.ipynb", "", "notebooks/04_seer_forcing.ipynb"),
        ("CONTRIBUTING.md", "", "CONTRIBUTING.md"),
        ("../results", "notebooks", f"{REPOSITORY}/tree/{REVISION}/results"),
        ("../kdutils/runner.py", "notebooks", f"{REPOSITORY}/blob/{REVISION}/kdutils/runner.py"),
        ("LICENSE", "", f"{REPOSITORY}/blob/{REVISION}/LICENSE"),
        ("https://arxiv.org/abs/2106.14448", "", "https://arxiv.org/abs/2106.14448"),
        ("#presets", "", "getting_started.md#presets"),
        ("#elsewhere", "", "#elsewhere"),
    ],
)
def test_a_link_leads_to_the_page_or_to_the_forge(address, home, found):
    text = sources.relinked(f"`c`, [words]({address}).", home, {"presets": "getting_started"})
    assert text == f"`c`, [words]({found})."


def test_a_link_to_nothing_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="A link leads to ../lost.py, which is not there"):
        sources.relinked("[words](../lost.py)", "notebooks")


def test_links_in_outputs_lead_to_pages():
    data = {
        "text/markdown": ["[01](01_distilbert.ipynb)\n", "[r](../results)"],
        "text/html": "<a href='02_tutor_kd.ipynb#a'>",
    }
    page = sources.notebook_page({"cells": [{"cell_type": "code", "outputs": [{"data": data}]}]}, "r_drop")
    found = page["cells"][0]["outputs"][0]["data"]
    assert found["text/markdown"] == f"[01](01_distilbert.ipynb)\n[r]({REPOSITORY}/tree/{REVISION}/results)"
    assert found["text/html"] == "<a href='02_tutor_kd.html#a'>"


def test_anchors_are_those_of_the_forge():
    assert sources.anchor("How results are graded") == "how-results-are-graded"
    assert sources.anchor("A ninth paper, in `ten` lines") == "a-ninth-paper-in-ten-lines"


# --- docstrings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "rst"),
    [
        ("KL(p || q), z_* of a mask_.", r"KL(p \|\| q), z\_\* of a mask\_."),
        ("See `symmetric_kl` and `K > 2`.", "See :py:obj:`symmetric_kl` and ``K > 2``."),
        ("A ``double`` one, \\n.", r"A :py:obj:`double` one, \\n."),
        ("At https://example.org/a_b_.", "At https://example.org/a_b_."),
        ("- one `x`\n- two *", "- one :py:obj:`x`\n- two \\*"),
        (">>> f(**x)\n1", ".. code-block:: pycon\n\n   >>> f(**x)\n   1"),
        ("    make book", "::\n\n       make book"),
        ("core    errors\ndata    corpora", "::\n\n   core    errors\n   data    corpora"),
        ("The forms:\n    a | b", "The forms:\n\n::\n\n       a | b"),
        ("One.\n\nTwo.", "One.\n\nTwo."),
    ],
)
def test_a_plain_docstring_says_the_same_in_restructuredtext(plain, rst):
    assert "\n".join(docstrings.as_rst(plain.split("\n"))).strip("\n") == rst


# --- what builds it -----------------------------------------------------------------------------------------


def test_a_missing_library_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="The book needs sphinx, .*run `make book`"):
        build.main([])


def test_what_builds_the_book_is_pinned_beside_the_requirements():
    lines = (ROOT / "requirements-book.txt").read_text(encoding="utf-8").splitlines()
    assert "-c requirements.txt" in lines
    pins = [Requirement(line.split("#")[0]) for line in lines if line[:1].isalpha()]
    assert {pin.name for pin in pins} >= {"sphinx", "myst-nb", "sphinx-book-theme"}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "*" not in specifier.version


@pytest.mark.slow
def test_a_notebook_and_a_wing_as_pages(tmp_path, monkeypatch, capfd):
    for name in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(name)
    monkeypatch.setattr(build, "BUILD", tmp_path)
    build.main(["03_r_drop", "losses"])
    told = capfd.readouterr().err
    assert not [line for line in told.splitlines() if "WARNING" in line and "03_r_drop" in line and "xref" not in line]
    notebook = (tmp_path / "book-part/notebooks/03_r_drop.html").read_text(encoding="utf-8")
    assert 'id="eq-r-drop-4"' in notebook and 'href="#eq-r-drop-4"' in notebook
    assert r"\tag{4}\]" in notebook and r"\begin{split}" not in notebook
    assert "data:image/png;base64," in notebook, "its outputs are shown"
    assert "data:image/png;base64," not in (tmp_path / "book-part/searchindex.js").read_text(encoding="utf-8")
    equations = (tmp_path / "book-part/equations.html").read_text(encoding="utf-8")
    assert 'href="notebooks/03_r_drop.html#eq-r-drop-4"' in equations
    wing = (tmp_path / "book-part/api/losses.html").read_text(encoding="utf-8")
    assert 'id="kdutils.losses.divergences.symmetric_kl"' in wing and "_same_shape" not in wing
    assert f"{REPOSITORY}/blob/{REVISION}/kdutils/losses/divergences.py#L" in wing
    assert (tmp_path / "book-part/_static/tex-svg.js").stat().st_size > 1_000_000, "formulas need no network"
