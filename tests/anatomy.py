"""The anatomy of a notebook that teaches a paper, one rule a function: from a notebook to a list of complaints.

>>> complaints = list(ANATOMY["parts_in_order"](notebook))  # empty: the rule is kept

A part begins at a heading of two hashes whose words begin like one of PARTS; a number before them and words behind them
are free: "## 3. The problem: one sentence, two answers". Everything before the first such heading is the opening. What
holds for every notebook of the suite, such as prose before code, stands in notebook_rules.py.
"""

from __future__ import annotations

import ast
import contextlib
import html
import itertools
import re
import statistics
from collections.abc import Callable, Iterator

from nbconvert import HTMLExporter

from kdutils.core.errors import UserError
from kdutils.notebook import exercises
from kdutils.study.claims import SYMBOLS
from tests.notebook_rules import Notebook, all_parse, begins, cells

PARTS = (
    "What came of it",
    "Set-up",
    "The problem",
    "The equations",
    "Train it yourself",
    "The claims",
    "On a GPU",
    "Ablations and play",
    "Exercises",
    "Summary",
    "References",
    "Appendix: what the paper does not say",
)
OPENING, APPENDIX = "", PARTS[-1]
WORDS = range(2_500, 4_001)
SENTENCE = re.compile(r"(?:\S+\s+){4,}\S*[.!?:][\"'*_)]*(?:\s|$)")  # five words and a mark that ends them
ANATOMY: dict[str, Callable[[Notebook], Iterator[str]]] = {}


def rule(function: Callable[[Notebook], Iterator[str]]) -> Callable:
    """Registers a rule: a notebook -> complaints."""
    ANATOMY[function.__name__] = function
    return function


# --- reading a notebook -----------------------------------------------------------------------------------------


def part_of(heading: str) -> str | None:
    """The part that a heading, without its hashes, begins."""
    words = re.sub(r"^[\d.]+\s*", "", heading.strip()).lower()
    return next((part for part in PARTS if words.startswith(part.lower())), None)


def headings(text: str) -> list[str]:
    return re.findall(r"^## +(.+)$", without_code(text), re.M)


def with_parts(node: Notebook) -> Iterator[tuple[str, Notebook]]:
    """Every cell with its part: of a cell that holds a heading, the part that the last heading begins."""
    part = OPENING
    for cell in node.cells:
        for heading in headings(cell.source) if cell.cell_type == "markdown" else ():
            part = part_of(heading) or part
        yield part, cell


def in_part(node: Notebook, wanted: str) -> list[Notebook]:
    return [cell for part, cell in with_parts(node) if part == wanted]


def without_code(text: str) -> str:
    return re.sub(r"^(```+|~~~+).*?^\1[ \t]*$", "", text, flags=re.S | re.M)


def unfolded(text: str) -> str:
    """A text without its <details>, also where one lies in another."""
    inner = re.compile(r"<details\b(?:(?!<details\b).)*?</details>", re.S)
    while inner.search(text):
        text = inner.sub("", text)
    return text


def prose(text: str) -> str:
    """The words of Markdown or HTML that a reader reads: no folded text, code, formulas, tables, tags or addresses."""
    text = without_code(unfolded(text))
    text = re.sub(r"<(style|script|table|pre)\b.*?</\1>|<[^>]*>", " ", text, flags=re.S)
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.S)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", "x", text)  # read as one word in their sentence
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|(?<=\])\([^)]*\)|^\s*\|.*$|^#+ ", " ", text, flags=re.M)
    return html.unescape(text)


def data(output: Notebook, kind: str) -> str:
    return "".join(output.get("data", {}).get(kind, ""))


def shows(output: Notebook) -> bool:
    """Whether an output is a figure, a table or a board; a folded one is not."""
    page = unfolded(data(output, "text/html"))
    image = any(kind.startswith("image/") for kind in output.get("data", {}))
    return image or bool(re.search(r"<(table|figure|img|svg)\b", page))


def told(output: Notebook) -> str:
    """The prose of an output that is text and nothing else."""
    return "" if shows(output) else prose(data(output, "text/markdown") or data(output, "text/html"))


# --- the rules --------------------------------------------------------------------------------------------------


@rule
def parts_in_order(node: Notebook) -> Iterator[str]:
    found = [heading for cell in cells(node, "markdown") for heading in headings(cell.source)]
    for heading in found:
        if part_of(heading) is None:
            yield f"'## {heading}' is no part of the anatomy: make it a heading of three hashes"
    parts = [part for heading in found if (part := part_of(heading))]
    for part in PARTS:
        if parts.count(part) != 1:
            yield f"{parts.count(part)} headings begin with '## {part}', not one: each part has one, of two hashes"
    if not set(PARTS) - set(parts) and list(dict.fromkeys(parts)) != list(PARTS):
        yield f"the parts stand in the order {', '.join(parts)}: move them into that of CONTRIBUTING.md"


@rule
def setup_and_parameters(node: Notebook) -> Iterator[str]:
    code = cells(node, "code")
    if not code or "setup.ready()" not in code[0].source:
        yield "the first code cell is not the set-up cell: put kdutils.core.setup.CELL there, before any import"
    elif (lines := len(code[0].source.strip().splitlines())) > 8:
        yield f"the set-up cell has {lines} lines, the limit is 8: leave it as kdutils.core.setup.CELL is"
    if not any("parameters" in cell.metadata.get("tags", []) for cell in in_part(node, "Set-up")):
        yield "the part 'Set-up' has no cell tagged 'parameters': tag the one with the parameters, in its metadata"


@rule
def sentence_after_what_is_shown(node: Notebook) -> Iterator[str]:
    for number, cell in enumerate(node.cells):
        last = max((i for i, output in enumerate(cell.get("outputs", [])) if shows(output)), default=None)
        if last is None:
            continue
        text = " ".join(map(told, cell.outputs[last + 1 :]))
        following = node.cells[number + 1] if number + 1 < len(node.cells) else None
        if following is not None and following.cell_type == "markdown":
            text += " " + prose(re.split(r"^#{1,6} ", following.source, maxsplit=1, flags=re.M)[0])
        elif following is not None and following.get("outputs"):
            text += " " + told(following.outputs[0])
        if not SENTENCE.search(text):
            yield (
                f"nothing after what the cell {begins(cell)} shows says in a sentence what it is: "
                "let the next cell begin with one, or display it below as Markdown"
            )


@rule
def short_code(node: Notebook) -> Iterator[str]:
    counted = [cell for part, cell in with_parts(node) if cell.cell_type == "code" and part != "The equations"]
    lines = [[line.strip() for line in cell.source.splitlines()] for cell in counted]
    sizes = [sum(bool(line) and not line.startswith("#") for line in each) for each in lines]
    if sizes and statistics.median(sizes) > 6:
        yield (
            f"the median code cell has {statistics.median(sizes):g} lines, the limit is 6: "
            "split cells, with prose between, or move code into the paper's modules"
        )


@rule
def length_of_prose(node: Notebook) -> Iterator[str]:
    texts = [cell.source for part, cell in with_parts(node) if cell.cell_type == "markdown" and part != APPENDIX]
    count = len(re.findall(r"\w[\w'’-]*", " ".join(map(prose, texts))))
    if count not in WORDS:
        yield (
            f"it has {count} words of prose, not {WORDS.start} to {WORDS.stop - 1}: "
            "explain more, or move what is beside the point to the appendix or into a <details> block"
        )


@rule
def verdict_early(node: Notebook) -> Iterator[str]:
    shown = " ".join(
        data(output, kind) + output.get("text", "")
        for cell in node.cells[:10]
        for output in cell.get("outputs", [])
        for kind in ("text/html", "text/markdown", "text/plain")
    )
    if not re.search(rf"\b({'|'.join(SYMBOLS)})\b", shown):
        yield (
            "no output of the first ten cells has the verdict of the headline: display claims.sentence(...) of the "
            "records in 'What came of it', and record runs where there are none (train --record)"
        )


@rule
def claims_table(node: Notebook) -> Iterator[str]:
    pages = [unfolded(data(o, "text/html")) for cell in in_part(node, "The claims") for o in cell.get("outputs", [])]
    tables = [table for page in pages for table in re.findall(r"<table\b.*?</table>", page, re.S)]
    heads = [[html.unescape(h).strip().lower() for h in re.findall(r"<th\b[^>]*>([^<]*)", t)] for t in tables]
    boards = [(head, table) for head, table in zip(heads, tables, strict=True) if "verdict" in head]
    if not boards:
        yield "the part 'The claims' shows no table with verdicts: display tables.on_beds(...) of recorded runs there"
    for head, _ in boards:
        if head[0] != "verdict":
            yield f"the first column of the claims is '{head[0]}', not 'verdict': show them by tables.on_beds(...)"
    rows = [row for _, table in boards for row in re.findall(r"<tr\b.*?</tr>", table, re.S)]
    across = sum('class="claim"' in row for row in rows)  # a claim above a line for every bed
    count = across or sum("<td" in row and "colspan" not in row for row in rows)  # else one across folds the source
    if count > 6:
        yield f"the claims are {count} rows, the limit is 6: fold the others"


@rule
def exercises_keep_their_answers(node: Notebook) -> Iterator[str]:
    part = in_part(node, "Exercises") if all_parse(node) else []
    names = []
    for cell, following in itertools.zip_longest(part, part[1:]):
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "check"]
        if not calls:
            continue
        if not any(isinstance(n, ast.Constant) and n.value is ... for n in ast.walk(tree)):
            yield f"the exercise {begins(cell)} has no `...` for the answer: write `answer = ...` above its check"
        for call in calls:
            form = re.fullmatch(r"exercises\.check\('([^']+)', answer\)", ast.unparse(call))
            if form is None:
                yield f'the exercise {begins(cell)} is not checked by exercises.check("paper.name", answer)'
            else:
                names.append(form[1])
        if following is None or following.cell_type != "markdown" or "<details" not in following.source:
            yield f"no folded solution follows the exercise {begins(cell)}: put a <details> block into the next cell"
    if not 3 <= len(names) <= 5:
        yield f"it has {len(names)} exercises, not three to five: keep them in the paper's exercises.py"
    kept = {name: known for name in names if (known := exercise_of(name))}
    for name in sorted({*names} - {*kept}):
        yield f"no paper keeps an exercise '{name}': add it to EXERCISES in the paper's exercises.py"
    if sum(bool(known.options) for known in kept.values()) < 2:
        yield "fewer than two exercises ask for a prediction: give two of them options in exercises.py"


def exercise_of(name: str) -> exercises.Exercise | None:
    with contextlib.suppress(UserError):
        return exercises.kept(name)
    return None


@rule
def images_have_text_on_the_page(node: Notebook) -> Iterator[str]:
    page, _ = HTMLExporter().from_notebook_node(node)
    for image in re.findall(r"<img\b[^>]*>", page):
        text = re.search(r"\balt=(\"([^\"]*)\"|'([^']*)')", image)
        said = (text[2] or text[3] or "").strip() if text else ""
        if not said or said == "No description has been provided for this image":  # nbconvert's own words
            yield f"an image on the exported page has no alternative text (plots.show(..., alt)): {image[:60]}"


@rule
def no_counts_of_verdicts(node: Notebook) -> Iterator[str]:
    counted = re.compile(
        r"\b\d+ (?:of|out of|from) (?:the |all )?(?:\d+ )?(?:\w+ )?(?:verdicts|claims)\b|\bseeds? \d+ to \d+ of \d+",
        re.I,
    )
    for cell in node.cells:
        texts = [prose(cell.source)] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            texts += [output.get("text", ""), prose(data(output, "text/html")), data(output, "text/markdown")]
        for found in counted.findall(" ".join(texts)):
            yield f"the cell {begins(cell)} counts verdicts ('{found}'): say what holds for which claim instead"
