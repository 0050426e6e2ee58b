"""What a committed notebook has to keep to, one rule a function: from a notebook to a list of complaints.

>>> complaints = list(RULES["alternative_text"](notebook, "03_r_drop.ipynb"))  # empty: the rule is kept

tests/test_repository.py holds the rules against the notebooks of the suite, and each rule against a notebook
that breaks it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence

import nbformat
import pandas as pd
from IPython.core.formatters import DisplayFormatter

from kdutils.core.setup import CELL, colab_url
from tests import compared

Notebook = nbformat.NotebookNode
RULES: dict[str, Callable[[Notebook, str], Iterator[str]]] = {}


def rule(function: Callable[[Notebook, str], Iterator[str]]) -> Callable:
    """Registers a rule: (notebook, file name) -> complaints."""
    RULES[function.__name__] = function
    return function


def cells(node: Notebook, kind: str) -> list[Notebook]:
    return [cell for cell in node.cells if cell.cell_type == kind]


def outputs(node: Notebook) -> Iterator[tuple[Notebook, Notebook]]:
    """Every output with its cell."""
    for cell in cells(node, "code"):
        for output in cell.outputs:
            yield cell, output


def begins(cell: Notebook) -> str:
    """The first line of a cell, to name it by."""
    return repr(cell.source.strip().split("\n")[0][:60])


def is_map(name: str) -> bool:
    """00 is the map of the suite: it teaches no paper and has no run of its own."""
    return name.startswith("00")


@rule
def format_and_kernel(node: Notebook, name: str) -> Iterator[str]:
    if (node.nbformat, node.nbformat_minor) != (4, 5):
        yield f"the format is {node.nbformat}.{node.nbformat_minor}, not 4.5"
    try:
        nbformat.validate(node)
    except nbformat.ValidationError as error:
        yield f"it is not a valid notebook: {str(error).splitlines()[0]}"
    kernel = node.metadata.get("kernelspec", {})
    if (kernel.get("name"), kernel.get("display_name")) != ("python3", "Python 3"):
        yield f"the kernel is {dict(kernel)}, not python3, 'Python 3'"


@rule
def title_and_badge(node: Notebook, name: str) -> Iterator[str]:
    first = node.cells[0]
    if first.cell_type != "markdown" or not re.search(r"^# \S", first.source, re.M):
        yield "the first cell is not a title"
    if f"]({colab_url(name)})" not in first.source and f'href="{colab_url(name)}"' not in first.source:
        yield f"the first cell has no badge that links to {colab_url(name)}"


@rule
def korean_abstract(node: Notebook, name: str) -> Iterator[str]:
    folded = re.findall(r"<details>.*?</details>", "\n".join(c.source for c in cells(node, "markdown")), re.S)
    abstracts = [text for text in folded if len(re.findall(r"[가-힣]", text)) >= 100]
    if not is_map(name) and not abstracts:
        yield "there is no Korean abstract in a <details> block: write one of at least 100 syllables, in the first cell"


@rule
def setup_cell(node: Notebook, name: str) -> Iterator[str]:
    found = sum(cell.source.strip() == CELL.strip() for cell in cells(node, "code"))
    if found != 1:
        yield f"{found} cells are exactly kdutils.core.setup.CELL, not one"


@rule
def parameters_cell(node: Notebook, name: str) -> Iterator[str]:
    tagged = [cell for cell in node.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 and not (is_map(name) and not tagged):
        yield f"{len(tagged)} cells are tagged 'parameters', not one"
    for cell in tagged:
        commented = commented_lines(cell.source)
        for statement in ast.parse(cell.source).body:
            text = ast.unparse(statement)
            if not isinstance(statement, ast.AnnAssign) or not is_literal(statement.value):
                yield f"the parameter '{text}' is not a plain literal with a type"
            elif statement.end_lineno not in commented:
                yield f"the parameter '{text}' has no comment behind it"


def is_literal(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError):
        return False
    return True


def commented_lines(source: str) -> set[int]:
    """The numbers of the lines with a comment behind code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT and t.line.split("#")[0].strip()}


@rule
def no_traces_of_a_runner(node: Notebook, name: str) -> Iterator[str]:
    for key in {"widgets", "papermill"} & set(node.metadata):
        yield f"the metadata hold '{key}'"
    for cell in node.cells:
        for key in {"papermill", "execution"} & set(cell.metadata):
            yield f"the metadata of the cell {begins(cell)} hold '{key}'"
        if "injected-parameters" in cell.metadata.get("tags", []):
            yield f"the cell {begins(cell)} was injected by a run"


@rule
def clean_outputs(node: Notebook, name: str) -> Iterator[str]:
    for cell, output in outputs(node):
        if output.output_type == "error":
            yield f"the cell {begins(cell)} ends with {output.ename}"
        if output.output_type == "stream" and output.name == "stderr":
            yield f"the cell {begins(cell)} writes to stderr: {output.text[:60]!r}"
        if output.output_type == "stream" and "\r" in output.text:
            yield f"the cell {begins(cell)} leaves a progress bar"
        if any("widget" in kind for kind in output.get("data", {})):
            yield f"the cell {begins(cell)} leaves a widget"


@rule
def executed_in_order(node: Notebook, name: str) -> Iterator[str]:
    counts = [cell.execution_count for cell in cells(node, "code")]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the code cells were executed in the order {counts}: run `python -m kdutils refresh`"


@rule
def size(node: Notebook, name: str) -> Iterator[str]:
    length = len(nbformat.writes(node).encode("utf-8"))
    if length >= 600_000:
        yield f"it has {length / 1000:.0f} kB, the limit is 600: show fewer or smaller figures and tables"


@rule
def prose_before_code(node: Notebook, name: str) -> Iterator[str]:
    heading, prose, run = "", True, 0
    for cell in node.cells:
        if cell.cell_type == "code":
            run += 1
            if not prose:
                yield f"the section '{heading}' goes from its heading straight into code: say first what it is about"
            if run == 3:
                yield f"{begins(cell)} is the third code cell in a row without text: write a sentence between them"
            prose = True
        elif cell.cell_type == "markdown":
            run = 0
            *before, last = re.split(r"^(#{1,6} .*)$", cell.source, flags=re.M)
            heading = before[-1] if before else heading
            prose = bool(re.search(r"\w", re.sub(r"<[^>]*>", "", last))) or (prose and not before)


@rule
def alternative_text(node: Notebook, name: str) -> Iterator[str]:
    for cell, output in outputs(node):
        for kind in output.get("data", {}):
            if kind.startswith("image/") and not output.metadata.get(kind, {}).get("alt", "").strip():
                yield f"an image of the cell {begins(cell)} has no alternative text: show it by plots.show(figure, alt)"
        page = "".join(output.get("data", {}).get("text/html", ""))
        if re.search(r"<img(?![^>]*\balt=[\"'][^\"'])", page):
            yield f"an image in the HTML of the cell {begins(cell)} has no alternative text"
    for cell in cells(node, "markdown"):
        if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"'])", cell.source):
            yield f"an image in the text {begins(cell)} has no alternative text"


@rule
def no_absolute_paths(node: Notebook, name: str) -> Iterator[str]:
    machine = re.compile(r"(?<![\w./:-])/(?:home|root|tmp|work|Users|mnt)/\w[^\s'\"]*|[A-Z]:\\+Users\b[^\s'\"]*")
    for cell in node.cells:
        text = cell.source
        for output in cell.get("outputs", []):
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            text += "\n" + output.get("text", "") + "\n" + "\n".join(map(str, data.values()))
        for found in machine.findall(text):
            yield f"the cell {begins(cell)} holds the path {found}"


@rule
def shown_sources_are_current(node: Notebook, name: str) -> Iterator[str]:
    for cell, output in outputs(node):
        shown = output.get("metadata", {}).get("kdutils", {}).get("source")
        if shown and current_source(shown) not in output.data["text/plain"]:
            yield f"the cell {begins(cell)} shows an older {shown}: run `make notebooks`"


def current_source(address: str) -> str:
    module, _, qualified = address.partition(":")
    thing = importlib.import_module(module)
    for attribute in qualified.split("."):
        thing = getattr(thing, attribute)
    return inspect.getsource(thing).rstrip()


@rule
def compared_cells(node: Notebook, name: str) -> Iterator[str]:
    code = cells(node, "code") if all_parse(node) else []
    for cell, live in zip(code, compared.live_cells([cell.source for cell in code]), strict=True):
        expected = bool(cell.outputs) and not live
        if (compared.TAG in cell.metadata.get("tags", [])) != expected:
            word = "compared" if expected else "left out"
            yield f"the output of the cell {begins(cell)} is to be {word} when it is tested: run `make notebooks`"


@rule
def tables_follow_from_records(node: Notebook, name: str) -> Iterator[str]:
    code = cells(node, "code") if all_parse(node) else []
    sources = [cell.source for cell in code]
    for number, cell in enumerate(code):
        if compared.TAG not in cell.metadata.get("tags", []):
            continue
        before = compared.behind(sources, number)
        if not any(RECORDED.search(source) for source in [*before, cell.source]):
            continue
        try:
            now = shown_again(before, cell.source)
        except Exception as error:  # of whatever kind: the notebook does not run
            yield f"the cell {begins(cell)} cannot be computed again ({type(error).__name__}: {error})"
        else:
            if now != stored(cell):
                yield f"the cell {begins(cell)} shows other numbers than the records give: run `make notebooks`"


RECORDED = re.compile(r"\brecorded\(|benchmarks")  # results/ or benchmarks/ is read


def shown_again(before: Sequence[str], source: str) -> list[str]:
    """What a cell prints and the tables that it shows, computed in this process from the statements before it."""
    names, text, tables, formatter = {}, io.StringIO(), [], DisplayFormatter()

    def display(*things: object) -> None:
        tables.extend(table(formatter.format(thing)[0]) for thing in things)

    names["display"] = display
    *body, last = ast.parse(source).body
    body += [] if isinstance(last, ast.Expr) else [last]
    with pd.option_context("display.max_columns", 20):  # as in a notebook, where no terminal is too narrow
        with contextlib.redirect_stdout(io.StringIO()):
            exec("\n".join(before), names)
        tables.clear()
        with contextlib.redirect_stdout(text):
            exec(compile(ast.Module(body, []), "a cell", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "a cell", "eval"), names)
                display(*([] if value is None else [value]))
    return [text.getvalue(), *tables]


def stored(cell: Notebook) -> list[str]:
    """What a cell printed and the tables that it showed when it was executed; without its figures."""
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    rich = [output.data for output in cell.outputs if "data" in output]
    return [text, *(table(data) for data in rich if "image/png" not in data and not table(data).startswith("<img "))]


def all_parse(node: Notebook) -> bool:
    """Whether every code cell is Python; the rule about safe code complains of those that are not."""
    with contextlib.suppress(SyntaxError):
        return all(ast.parse(cell.source) for cell in cells(node, "code"))
    return False


def table(data: dict[str, str]) -> str:
    return next(data[kind] for kind in ("text/html", "text/markdown", "text/plain") if kind in data)


@rule
def safe_code(node: Notebook, name: str) -> Iterator[str]:
    for cell in cells(node, "code"):
        if re.search(r"^\s*[!%]", cell.source, re.M):
            yield f"the cell {begins(cell)} has a shell command or a magic"
        else:
            yield from unsafe(ast.parse(cell.source))


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls that can run code from a file, from a hub or from a string of shell."""
    forbidden = {"weights_only": False, "trust_remote_code": True, "shell": True, "allow_pickle": True}
    for part in ast.walk(tree):
        imported = [alias.name for alias in part.names] if isinstance(part, ast.Import | ast.ImportFrom) else []
        origin = [part.module or ""] if isinstance(part, ast.ImportFrom) else []
        for name in {"pickle", "cloudpickle", "dill", "joblib"} & {n.split(".")[0] for n in imported + origin}:
            yield f"line {part.lineno} imports {name}"
        if not isinstance(part, ast.Call):
            continue
        called, keywords = ast.unparse(part.func), {k.arg: k.value for k in part.keywords}
        for key, value in forbidden.items():
            if isinstance(keywords.get(key), ast.Constant) and keywords[key].value is value:
                yield f"line {part.lineno} calls {called} with {key}={value}"
        if called == "torch.load" and "weights_only" not in keywords:
            yield f"line {part.lineno} calls torch.load without weights_only=True"
        if called in ("os.system", "os.popen", "eval", "exec"):
            yield f"line {part.lineno} calls {called}"
