"""The anatomy of the notebooks: held against all that teach a paper, and each rule against one that breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from kdutils.core.setup import CELL
from kdutils.notebook import plots
from kdutils.papers.r_drop.exercises import EXERCISES
from tests.anatomy import ANATOMY, PARTS, part_of, prose, unfolded
from tests.notebook_rules import Notebook

ROOT = Path(__file__).resolve().parents[2]
TEACHING = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb") if path.stem[:2] != "00")


@pytest.mark.parametrize("name", ANATOMY)
@pytest.mark.parametrize("notebook", TEACHING)
def test_notebook(notebook, name):
    node = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    complaints = list(ANATOMY[name](node))
    assert not complaints, f"{notebook}: " + "; ".join(complaints)


# --- a small notebook that keeps every rule ---------------------------------------------------------------------

new = nbformat.v4
TOLD = "The figure shows that the second pass differs from the first."
BOARD = (
    '<table class="claims"><thead><tr><th scope="col">verdict</th><th scope="col">claim</th></tr></thead><tbody>'
    + "<tr><td><b>✓ supported</b></td><td>R1</td></tr>"
    "<tr><td colspan='2'><details><summary>paper</summary>+2.6</details></td></tr>" * 6 + "</tbody></table>"
)


def shown(**kinds: str) -> Notebook:
    return new.new_output("display_data", {kind.replace("_", "/"): value for kind, value in kinds.items()})


def figure(alt: str = "Two bars.") -> Notebook:
    page = plots.Picture(b"png", alt)._repr_mimebundle_()[0]["text/html"]
    return shown(text_html=page, text_plain=alt)


def code(source: str, *outputs: Notebook) -> Notebook:
    return new.new_code_cell(source, outputs=list(outputs))


def markdown(text: str) -> Notebook:
    return new.new_markdown_cell(text)


def exercise(name: str) -> list[Notebook]:
    solved = markdown("<details><summary>Solution</summary>\n\nIt is 4.\n\n</details>")
    return [markdown("Now it is your turn."), code(f'answer = ...\nexercises.check("r_drop.{name}", answer)'), solved]


VERDICT = "**R1** is ✓ supported: +6.9 BLEU over three seeds at equal updates."
SMALL = new.new_notebook(
    cells=[
        markdown("# R-Drop\n\nTwo passes with different dropout must agree."),  # 0
        code(CELL),
        markdown("## What came of it\n\nThe headline, from the records."),  # 2
        code("show(headline)", figure(), shown(text_markdown=VERDICT)),
        markdown("## Set-up\n\nThe parameters."),  # 4
        code('preset: str = "demo"  # demo, study or paper'),
        markdown("## 1. The problem: one sentence, two answers\n\n" + "Some words of prose. " * 700),  # 6
        code("show(bars)", figure()),
        markdown(TOLD),  # 8
        markdown("## 2. The equations\n\n$$x\n\\tag{1}$$\n\n```python\n## no heading\n```"),
        code("\n".join(f"x_{i} = {i}" for i in range(20))),  # 10
        markdown("## 3. Train it yourself\n\nOne step."),
        code("step()  # trains\n\n# a comment"),  # 12
        markdown("## 4. The claims\n\nSix of them."),
        code("board(grades)", shown(text_html=BOARD)),  # 14
        code("say(grades)", shown(text_markdown="The headline holds in **every** one of the seeds.")),
        markdown("## 5. On a GPU\n\nSteps."),  # 16
        markdown("## 6. Ablations and play\n\nA widget."),
        markdown("## 7. Exercises\n\nThe solutions are folded."),  # 18
        *(cell for name in EXERCISES for cell in exercise(name)),  # 19 to 30
        markdown("## 8. Summary\n\nFindings."),
        markdown("## References\n\nThe paper."),  # 32
        markdown("## Appendix: what the paper does not say\n\n" + "Further words. " * 5000),
    ]
)
SMALL.cells[5].metadata["tags"] = ["parameters"]


def small() -> Notebook:
    return copy.deepcopy(SMALL)


def replaced(number: int, old: str, by: str) -> Callable[[Notebook], None]:
    def change(node: Notebook) -> None:
        assert old in node.cells[number].source
        node.cells[number].source = node.cells[number].source.replace(old, by)

    return change


def output(number: int, *outputs: Notebook) -> Callable[[Notebook], None]:
    return lambda node: node.cells[number].update(outputs=list(outputs))


def swapped(one: int, other: int) -> Callable[[Notebook], None]:
    def change(node: Notebook) -> None:
        node.cells[one].source, node.cells[other].source = node.cells[other].source, node.cells[one].source

    return change


BROKEN: list[tuple[str, Callable[[Notebook], object]]] = [
    ("parts_in_order", replaced(16, "## 5. On a GPU", "On a GPU")),
    ("parts_in_order", replaced(16, "## 5. On a GPU", "### On a GPU")),
    ("parts_in_order", replaced(16, "Steps.", "Steps.\n\n## More\n\nWords.")),
    ("parts_in_order", replaced(32, "The paper.", "The paper.\n\n## Summary, once more")),
    ("parts_in_order", swapped(16, 17)),
    ("setup_and_parameters", replaced(1, "from kdutils.core", "x = 1\nfrom kdutils.core")),
    ("setup_and_parameters", lambda n: n.cells.insert(1, code("import torch"))),
    ("setup_and_parameters", lambda n: n.cells[5].metadata.update(tags=[])),
    ("setup_and_parameters", lambda n: n.cells[12].metadata.update(tags=n.cells[5].metadata.pop("tags"))),
    ("sentence_after_what_is_shown", replaced(8, TOLD, "So it is.")),
    ("sentence_after_what_is_shown", replaced(8, TOLD, f"### Next\n\n{TOLD}")),
    ("sentence_after_what_is_shown", replaced(8, TOLD, f"<details>{TOLD}</details>")),
    ("sentence_after_what_is_shown", replaced(8, TOLD, f"```\n{TOLD}\n```")),
    ("sentence_after_what_is_shown", lambda n: n.cells.pop(8)),
    ("sentence_after_what_is_shown", output(3, shown(text_markdown=VERDICT), figure())),
    ("sentence_after_what_is_shown", output(15, new.new_output("stream", text="It holds in each of the seeds.\n"))),
    ("sentence_after_what_is_shown", output(12, shown(text_html="<table><tr><td>1</td></tr></table>"))),
    ("sentence_after_what_is_shown", output(12, shown(image_png="iVBORw0KGgo="))),
    ("short_code", lambda n: [c.update(source="x = 1\n" * 7) for c in n.cells[11:30] if c.cell_type == "code"]),
    (
        "length_of_prose",
        replaced(
            6,
            "Some words of prose. ",
            "",
        ),
    ),
    ("length_of_prose", replaced(6, "Some words of prose. ", "Some more words of prose. " * 2)),
    ("length_of_prose", replaced(6, "Some words of prose. ", "`Some words of prose.` ")),
    ("length_of_prose", replaced(6, "Some words of prose. " * 700, "<details>" + "Some words. " * 1500 + "</details>")),
    ("verdict_early", output(3, figure(), shown(text_markdown="It rose by 6.9 BLEU over three seeds."))),
    ("verdict_early", lambda n: n.cells.insert(11, n.cells.pop(3))),
    ("claims_table", output(14, shown(text_html=BOARD.replace("verdict", "result")))),
    ("claims_table", output(14, shown(text_html=f"<details>{BOARD}</details>"))),
    ("claims_table", output(14, shown(text_html=BOARD.replace("<tr><th", "<tr><th>id</th><th", 1)))),
    ("claims_table", output(14, shown(text_html=BOARD.replace("</tbody>", "<tr><td>✓</td></tr></tbody>")))),
    ("claims_table", output(14, shown(text_html=BOARD), shown(text_html=BOARD))),
    ("exercises_keep_their_answers", replaced(20, "answer = ...", "answer = None")),
    ("exercises_keep_their_answers", replaced(20, "answer)", "answer, 4)")),
    ("exercises_keep_their_answers", replaced(20, "answer)", 'answer, hint="It is four.")')),
    ("exercises_keep_their_answers", replaced(20, "r_drop.symmetric_kl", "r_drop.symmetric")),
    ("exercises_keep_their_answers", replaced(20, "exercises.check", "notebook.check")),
    ("exercises_keep_their_answers", replaced(21, "<details>", "<div>")),
    ("exercises_keep_their_answers", lambda n: n.cells.__delitem__(slice(19, 25))),
    ("exercises_keep_their_answers", lambda n: n.cells.__setitem__(slice(31, 31), exercise("alpha") * 2)),
    ("exercises_keep_their_answers", lambda n: n.cells.__setitem__(slice(22, 25), exercise("alpha"))),
    ("exercises_keep_their_answers", replaced(18, "## 7. Exercises", "Exercises")),
    ("exercises_keep_their_answers", lambda n: n.cells.clear()),
    ("images_have_text_on_the_page", output(7, figure(" "))),
    ("images_have_text_on_the_page", output(7, shown(image_png="iVBORw0KGgo="))),
    ("no_counts_of_verdicts", replaced(31, "Findings.", "Of all, 3 of 20 verdicts changed.")),
    ("no_counts_of_verdicts", replaced(31, "Findings.", "Seeds 1 to 3 of 20 were graded.")),
    ("no_counts_of_verdicts", output(12, new.new_output("stream", text="4 of the 6 claims are supported\n"))),
    ("no_counts_of_verdicts", output(12, shown(text_html="<p>4 out of 6 claims hold</p>"))),
]


@pytest.mark.parametrize("name", ANATOMY)
def test_the_small_notebook_keeps_the_rule(name):
    assert list(ANATOMY[name](small())) == []


@pytest.mark.parametrize(("name", "change"), BROKEN, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BROKEN)])
def test_the_rule_bites(name, change):
    node = small()
    change(node)
    complaints = list(ANATOMY[name](node))
    assert complaints and all(isinstance(one, str) and len(one.split()) > 4 for one in complaints)


def test_every_rule_has_been_seen_to_bite():
    assert set(ANATOMY) == {name for name, _ in BROKEN}


# --- what the rules read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "part"),
    [
        ("The problem", "The problem"),
        ("3. The problem: one sentence, two answers", "The problem"),
        ("10 summary", "Summary"),
        ("Appendix: What the paper does not say", PARTS[-1]),
        ("A problem", None),
        ("Our set-up", None),
    ],
)
def test_a_part_begins_with_its_words(heading, part):
    assert part_of(heading) == part


def test_folded_text_is_taken_out_with_what_is_folded_in_it():
    text = "a <details>b <details open>c</details> d</details> e <details>f</details> g"
    assert unfolded(text).split() == ["a", "e", "g"]


def test_prose_is_what_is_read_as_words():
    text = (
        "## The *loss*\n\nAn $\\alpha$ of `5`, see [the code](https://example.org/a-b).\n\n"
        "$$\nx = y\n$$\n\n| a | b |\n|---|---|\n\n```python\nprint(1)\n```\n<b>Bold</b> &amp; ![a dot](dot.png)"
    )
    assert prose(text).split() == ["The", "*loss*", "An", "x", "of", "x,", "see", "[the", "code]", ".", "Bold", "&"]
