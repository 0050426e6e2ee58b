"""Which cells of a notebook show the same on every machine: those are compared when the notebook is tested.

>>> mark(notebook)  # tags them `nbval-check-output`, which nbval's lax mode looks for

`python -m tests.compared` marks the committed notebooks; `make notebooks` does so after executing them.

A cell is live when what it shows depends on a network that was trained here, on the reader's own runs or on a clock:
the last digits of those differ from machine to machine, and training makes more of them. What depends on recorded
runs, on examples made by hand or on the grammar does not, and is compared. Nobody has to remember to say which is
which: the dependence is followed through the names, statement by statement.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import nbformat

TAG = "nbval-check-output"
OWN_RUNS = {"runs"}  # the parameter with the folder that training writes to and reads from
TRAINING = ("kdutils.study.running", "kdutils.study.teachers", "kdutils.study.kept", "kdutils.training.loop")
CLOCKS = (
    "time",
    "timeit",
    "datetime",
    "kdutils.tasks.scores.latency_ms",
    "kdutils.core.machine",
    "kdutils.core.setup",
    "kdutils.study.plan",  # which counts what the kernels of this machine do
)
OPTIMISERS = "optim"  # of torch: what a notebook trains without kdutils
CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "load_state_dict"}  # methods
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def mark(notebook: nbformat.NotebookNode) -> None:
    """Tags the code cells to compare, in place, and takes the tag from all others."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, live in zip(code, live_cells([cell.source for cell in code]), strict=True):
        tags = [tag for tag in cell.metadata.get("tags", []) if tag != TAG]
        if cell.outputs and not live:
            tags.append(TAG)
        if tags or "tags" in cell.metadata:
            cell.metadata["tags"] = tags


def live_cells(sources: Iterable[str]) -> list[bool]:
    """For each cell of a notebook, given as source: whether what it shows depends on training or on a clock."""
    flow = _Flow()
    return [flow.shows_live(ast.parse(source).body) for source in sources]


def behind(sources: Sequence[str], number: int) -> list[str]:
    """The statements of the cells before cell `number` (from 0) that it builds on, in order."""
    statements = [statement for source in sources[:number] for statement in ast.parse(source).body]
    inside = {one.name: reads(one) for one in statements if isinstance(one, DEFINITIONS)}
    needed, found = _reached(ast.parse(sources[number]), inside), []
    for statement in reversed(statements):
        if needed & (assigns(statement) | changes(statement)):
            found.append(ast.unparse(statement))
            needed = (needed - _surely_assigns(statement)) | _reached(statement, inside)
    return found[::-1]


# --- the names of a piece of code ----------------------------------------------------------------------------


def reads(node: ast.AST) -> set[str]:
    """The global names whose earlier values a piece of code reads, also in its functions and comprehensions."""
    if isinstance(node, ast.Module):
        return _read_in_turn(node.body)
    if blocks := _blocks(node):
        bodies = set().union(*map(_read_in_turn, blocks)) - _targets(node)
        return bodies.union(*map(reads, _heads(node)))
    top = symtable.symtable(ast.unparse(node), "cell", "exec")
    return changes(node) | {
        symbol.get_name()
        for table in _scopes(top)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (table is top or symbol.is_global())
    }


def _reached(node: ast.AST, inside: Mapping[str, set[str]]) -> set[str]:
    """The names that it reads, itself or through the functions that it calls; `inside`: what their bodies read."""
    found, new = set(), reads(node)
    while new:
        found |= new
        new = set().union(*(inside.get(name, set()) for name in new)) - found
    return found


def _read_in_turn(statements: Iterable[ast.stmt]) -> set[str]:
    found, known = set(), set()
    for statement in statements:
        found |= reads(statement) - known
        known |= _surely_assigns(statement)
    return found


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def assigns(node: ast.AST) -> set[str]:
    """The global names that it gives a value: assignments, imports, definitions, targets of loops."""
    symbols = symtable.symtable(ast.unparse(node), "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def _surely_assigns(statement: ast.stmt) -> set[str]:
    """The names whose earlier values are of no account after it."""
    return set() if _blocks(statement) else assigns(statement) - changes(statement)


def changes(node: ast.AST) -> set[str]:
    """The names whose values it changes in place: `rows[0] = x`, `rows.append(x)`, `total += x`."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.AugAssign):
            found.add(_base(part.target))
        elif isinstance(part, ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store):
            found.add(_base(part))
        elif isinstance(part, ast.Call) and getattr(part.func, "attr", "") in CHANGING:
            found.add(_base(part.func))
    return found - {""}


def _base(node: ast.AST) -> str:
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _blocks(statement: ast.AST) -> list[list[ast.stmt]]:
    """The blocks of a loop, a branch, a `with` or a `try`; none for any other statement."""
    if isinstance(statement, ast.For | ast.While | ast.If):
        return [statement.body, statement.orelse]
    if isinstance(statement, ast.Try):
        handled = [handler.body for handler in statement.handlers]
        return [statement.body, *handled, statement.orelse, statement.finalbody]
    return [statement.body] if isinstance(statement, ast.With) else []


def _heads(statement: ast.stmt) -> list[ast.expr]:
    """What is computed before its blocks."""
    if isinstance(statement, ast.With):
        return [item.context_expr for item in statement.items]
    return [getattr(statement, name) for name in ("iter", "test") if hasattr(statement, name)]


def _targets(statement: ast.stmt) -> set[str]:
    """The names that a loop or a `with` gives its blocks."""
    found = [statement.target] if isinstance(statement, ast.For) else []
    if isinstance(statement, ast.With):
        found = [item.optional_vars for item in statement.items if item.optional_vars]
    return {part.id for target in found for part in ast.walk(target) if isinstance(part, ast.Name)}


# --- what is live --------------------------------------------------------------------------------------------


class _Flow:
    """Goes through the statements of a notebook and keeps which names are live."""

    def __init__(self) -> None:
        self.live: set[str] = set()
        self.training: set[str] = set()  # functions that train, and say so
        self.inside: dict[str, set[str]] = {}  # function of the notebook -> the names that its body reads

    def shows_live(self, statements: Sequence[ast.stmt], within: bool = False) -> bool:
        """Whether one of the statements may show what is live; `within` a branch or loop that depends on it."""
        shows = False
        for statement in statements:
            shows |= self._shows(statement, within)
        return shows

    def _shows(self, statement: ast.stmt, within: bool) -> bool:
        if isinstance(statement, IMPORTS):
            for name, origin in _imported(statement):
                trains = origin.startswith(TRAINING)
                self._set({name}, trains or origin in CLOCKS)
                self.training = self.training | {name} if trains else self.training - {name}
            return False
        if isinstance(statement, DEFINITIONS):
            self._set({statement.name}, _optimises(statement))
            self.inside[statement.name] = reads(statement)
            return False
        if _blocks(statement):
            return self._compound(statement, within)
        live = within or self._is_live(statement)
        self._set(assigns(statement) - changes(statement), live)
        self.live |= changes(statement) if live else set()
        says = _reached(statement, self.inside) & (self.training | {"print", "display"})
        return live and (isinstance(statement, ast.Expr) or bool(says))

    def _compound(self, statement: ast.stmt, within: bool) -> bool:
        within = within or any(map(self._is_live, _heads(statement)))
        self._set(_targets(statement), within)
        before, after, shows = set(self.live), set(), False
        for block in _blocks(statement):
            if not block and not isinstance(statement, ast.If):  # a loop is taken to go round, a branch may not be
                continue
            self.live = set(before)
            shows |= self.shows_live(block, within)
            shows |= self.shows_live(block, within)  # the second time round, with what the first one left
            after |= self.live
        self.live = after
        return shows

    def _set(self, names: set[str], live: bool) -> None:
        self.live = self.live | names if live else self.live - names
        for name in names:
            self.inside.pop(name, None)

    def _is_live(self, node: ast.AST) -> bool:
        return _optimises(node) or bool(_reached(node, self.inside) & (self.live | OWN_RUNS))


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(name in the notebook, where it is from) for each name of an import."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            origin = f"{statement.module}.{alias.name}"
            yield alias.asname or alias.name, statement.module if statement.module in CLOCKS else origin
        else:
            yield alias.asname or alias.name.partition(".")[0], alias.name


def _optimises(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr == OPTIMISERS for part in ast.walk(node))


if __name__ == "__main__":
    for path in sorted(Path(__file__).resolve().parents[1].glob("notebooks/*.ipynb")):
        node = nbformat.read(path, as_version=4)
        mark(node)
        path.write_text(nbformat.writes(node).rstrip("\n") + "\n", encoding="utf-8")
        code = [cell for cell in node.cells if cell.cell_type == "code"]
        compared = sum(TAG in cell.metadata.get("tags", []) for cell in code)
        print(f"{path.name}: the outputs of {compared} of {len(code)} code cells are compared")
