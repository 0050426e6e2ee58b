"""The repository against its own rules: notebooks, dependencies, layers, safety, the files around the code.

The rules for notebooks stand in notebook_rules.py. They are held against the committed notebooks, and, to see
that they bite, against a small notebook that breaks one rule at a time.
"""

from __future__ import annotations

import ast
import graphlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdutils
from kdutils.core.setup import CELL, REVISION, colab_url
from kdutils.study.results import recorded
from tests import compared, readme
from tests.notebook_rules import RULES, Notebook, cells, current_source, unsafe

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "kdutils").rglob("*.py"))
PAPERS = sorted(path.parent.name for path in (ROOT / "kdutils/papers").glob("*/__init__.py"))


# --- the notebooks ------------------------------------------------------------------------------------------


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, name):
    complaints = list(RULES[name](nbformat.read(path, as_version=nbformat.NO_CONVERT), path.name))
    assert not complaints, f"{path.name}: " + "; ".join(complaints)


# --- the rules themselves, on a small notebook --------------------------------------------------------------

NAME = "03_r_drop.ipynb"
ABSTRACT = (
    "<details><summary>한국어 초록</summary>\n\n"
    + "두 번의 드롭아웃 결과가 서로 같아지도록 배운다. " * 10
    + "</details>"
)
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def small() -> Notebook:
    """A notebook of a few cells that keeps every rule."""
    new = nbformat.v4
    image = new.new_output("display_data", {"image/png": PNG}, metadata={"image/png": {"alt": "A dot."}})
    source = new.new_output("display_data", {"text/plain": "kdutils.core.errors:\n\n" + current_source(UNKNOWN)})
    source.metadata["kdutils"] = {"source": UNKNOWN}
    sources = [
        f"# R-Drop\n\n[![Open in Colab](https://example.org/badge.svg)]({colab_url(NAME)})\n\n{ABSTRACT}",
        CELL,
        'preset: str = "demo"  # demo, study or paper\nseeds: list = [\n    1,\n    2,\n]  # one run a seed',
        "## The equation\n\nThe loss is the sum of both.",
        "print(1)",
        "print(2)",
        "## The picture\n\nIt is a dot, see [the code](https://github.com/kd/work/tmp/).",
        "print(3)",
        "## The records\n\nThey are counted.",
        'from kdutils.study.results import recorded\n\nstore = recorded("r_drop")',
        "print(len(store))",
    ]
    kinds = {1: "code", 2: "code", 4: "code", 5: "code", 7: "code", 9: "code", 10: "code"}
    make = {"code": new.new_code_cell, "markdown": new.new_markdown_cell}
    node = new.new_notebook(cells=[make[kinds.get(i, "markdown")](text) for i, text in enumerate(sources)])
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(cells(node, "code"), start=1):
        cell.execution_count = number
    node.cells[2].metadata["tags"] = ["parameters"]
    node.cells[4].outputs = [new.new_output("stream", name="stdout", text="1\n"), source]
    node.cells[7].outputs = [image]
    node.cells[10].outputs = [new.new_output("stream", name="stdout", text=f"{len(recorded('r_drop'))}\n")]
    compared.mark(node)
    return node


UNKNOWN = "kdutils.core.errors:unknown"


def replace(number: int, old: str, new: str) -> Callable[[Notebook], None]:
    """Breaks a source: `old` must be there."""

    def change(node: Notebook) -> None:
        assert old in node.cells[number].source
        node.cells[number].source = node.cells[number].source.replace(old, new)

    return change


def output(kind: str, **content) -> Callable[[Notebook], None]:
    return lambda node: node.cells[7].outputs.append(nbformat.v4.new_output(kind, **content))


def show(mime: str, value: str) -> Callable[[Notebook], None]:
    return output("display_data", data={mime: value})


BROKEN: list[tuple[str, Callable[[Notebook], object]]] = [
    ("format_and_kernel", lambda n: n.update(nbformat_minor=4)),
    ("format_and_kernel", lambda n: n.cells[3].update(id="not an id!")),
    ("format_and_kernel", lambda n: n.metadata.kernelspec.update(name="kdutils-venv")),
    ("title_and_badge", replace(0, "# R-Drop", "R-Drop")),
    ("title_and_badge", replace(0, "03_r_drop", "04_seer_forcing")),
    ("korean_abstract", replace(0, "<details>", "<div>")),
    ("korean_abstract", replace(0, "드롭아웃 결과가 서로 같아지도록", "dropout")),
    ("setup_cell", replace(1, "torch", "")),
    ("parameters_cell", lambda n: n.cells[2].metadata.update(tags=[])),
    ("parameters_cell", lambda n: n.cells[4].metadata.tags.append("parameters")),
    ("parameters_cell", replace(2, "preset: str", "preset")),
    ("parameters_cell", replace(2, '"demo"', "len('demo')")),
    ("parameters_cell", replace(2, "  # demo, study or paper", "")),
    ("parameters_cell", replace(2, "]  # one run a seed", "]\n# one run a seed")),
    ("no_traces_of_a_runner", lambda n: n.metadata.update(widgets={})),
    ("no_traces_of_a_runner", lambda n: n.cells[0].metadata.update(papermill={})),
    ("no_traces_of_a_runner", lambda n: n.cells[4].metadata.tags.append("injected-parameters")),
    ("clean_outputs", output("error", ename="ValueError", evalue="", traceback=[])),
    ("clean_outputs", output("stream", name="stderr", text="UserWarning: beware")),
    ("clean_outputs", output("stream", name="stdout", text="\r 50%|###   | 2/4")),
    ("clean_outputs", show("application/vnd.jupyter.widget-view+json", "{}")),
    ("executed_in_order", lambda n: n.cells[7].update(execution_count=9)),
    ("executed_in_order", lambda n: n.cells[7].update(execution_count=None)),
    ("size", output("stream", name="stdout", text="x" * 600_000)),
    ("prose_before_code", replace(3, "The loss is the sum of both.", "")),
    ("prose_before_code", replace(3, "The loss is the sum of both.", "It is this.\n\n### Code")),
    ("prose_before_code", lambda n: n.cells.pop(6)),
    ("alternative_text", show("image/png", PNG)),
    ("alternative_text", show("text/html", "<p><img src='x.png'></p>")),
    ("alternative_text", show("text/html", "<p><img src='x.png' alt=''></p>")),
    ("alternative_text", replace(6, "It is a dot", "![](dot.png) It is a dot")),
    ("no_absolute_paths", show("text/plain", "saved in /root/runs/r_drop")),
    ("no_absolute_paths", output("stream", name="stdout", text="('/tmp/x', 1)")),
    ("no_absolute_paths", replace(7, "print(3)", r"print('C:\\Users\\me')")),
    (
        "shown_sources_are_current",
        lambda n: n.cells[4].outputs[1].data.update({"text/plain": "def unknown(): ..."}),
    ),
    ("compared_cells", lambda n: n.cells[4].metadata.update(tags=[])),
    ("compared_cells", lambda n: n.cells[9].metadata.update(tags=[compared.TAG])),
    ("tables_follow_from_records", lambda n: n.cells[10].outputs[0].update(text="0\n")),
    ("tables_follow_from_records", replace(10, "len(store)", "len(store) + 1")),
    ("tables_follow_from_records", replace(9, '("r_drop")', '("r_drop").lost')),
    ("safe_code", replace(5, "print(2)", "!pip install torch")),
    ("safe_code", replace(5, "print(2)", "torch.load('weights.pt')")),
]


@pytest.mark.parametrize("name", RULES)
def test_the_small_notebook_keeps_the_rule(name):
    assert list(RULES[name](small(), NAME)) == []


@pytest.mark.parametrize(("name", "change"), BROKEN, ids=[f"{n}-{i}" for i, (n, _) in enumerate(BROKEN)])
def test_the_rule_bites(name, change):
    node = small()
    change(node)
    complained = [each for each in RULES if list(RULES[each](node, NAME))]
    assert name in complained
    # A change breaks the rule that it is meant to break, or moves cells, and nothing else.
    assert set(complained) <= {name, "executed_in_order", "safe_code"}


def test_every_rule_has_been_seen_to_bite():
    assert set(RULES) == {name for name, _ in BROKEN}


# --- safety and layers of the modules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run('ls', shell=True)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_unsafe_calls_are_seen(source):
    assert list(unsafe(ast.parse(source)))


def test_safe_calls_pass():
    assert not list(unsafe(ast.parse("torch.load(path, weights_only=True); subprocess.run(['ls']); model.eval()")))


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "benchmarks").rglob("*.py"))], ids=lambda p: p.stem)
def test_module_is_safe_and_says_what_it_is_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(unsafe(tree)) == []
    assert ast.get_docstring(tree), "a module says what it is for"


# --- the house ----------------------------------------------------------------------------------------------

# Who stands on whom, from the ground up: a module imports from its own wing and from lower floors. A paper is a wing.
FLOORS = [
    {"core"},
    {"grammar", "losses", "models"},
    {"data", "training"},
    {"tasks"},
    {"study"},
    {"notebook", *(f"papers.{name}" for name in PAPERS)},
    {"runner"},
    {"launch"},
    {"__main__"},
]
KNOWS_THE_GRAMMAR = {"kdutils.data.corpora", "kdutils.tasks.truth"}


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wing(module: str) -> str:
    """The wing of a module, "papers.r_drop" for what a paper consists of; "" for the two that only hold others."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[:1] == ["papers"] and len(parts) > 1 else "".join(parts[:1])


def imports(path: Path, at_once: bool = False) -> set[str]:
    """The modules of this package that a module imports, wherever in it; `at_once`: not those in functions."""
    known, found = {dotted(module) for module in MODULES}, set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node) for part in ast.walk(tree) if isinstance(part, ast.FunctionDef) for node in ast.walk(part)}
    for part in ast.walk(tree):
        if at_once and id(part) in inside:
            continue
        names = [alias.name for alias in part.names] if isinstance(part, ast.Import | ast.ImportFrom) else []
        if isinstance(part, ast.ImportFrom):
            assert part.level == 0, f"{path.name} has a relative import"
            names = [f"{part.module}.{name}" for name in names]
            found |= {name if name in known else part.module for name in names}
        else:
            found |= set(names)
    return (found & known) - {dotted(path), "kdutils", "kdutils.papers"}


def test_every_module_lies_in_a_wing():
    homes = {wing(dotted(path)) for path in MODULES} - {"", "papers"}
    assert homes == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_downward(path):
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    own = wing(dotted(path))
    if own in ("", "papers"):
        assert imports(path) == set()
        return
    wrong = {one for one in imports(path) if wing(one) != own and floor[wing(one)] >= floor[own]}
    assert wrong == set(), f"{dotted(path)} imports from its own floor or from above"


def test_no_two_modules_import_each_other():
    graph = {dotted(path): imports(path) for path in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the cycle
    assert set(order) == set(graph)


def test_the_grammar_has_one_door_which_is_opened_when_it_is_asked_for():
    for path in MODULES:
        entered = {one for one in imports(path) if wing(one) == "grammar"} if wing(dotted(path)) != "grammar" else set()
        assert entered <= {"kdutils.grammar", "kdutils.grammar.corpus"}
        assert not entered or dotted(path) in KNOWS_THE_GRAMMAR, f"{dotted(path)} knows the grammar"
        assert not entered & imports(path, at_once=True), f"{dotted(path)} imports the grammar for everyone"


def code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments and docstrings explain it and are not counted."""
    text = path.read_text(encoding="utf-8")
    explained = {
        line
        for part in ast.walk(ast.parse(text))
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part)
        for line in range(part.body[0].lineno, part.body[0].end_lineno + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [one for one in tokenize.generate_tokens(io.StringIO(text).readline) if one.type not in silent]
    return len({line for one in tokens for line in range(one.start[0], one.end[0] + 1)} - explained)


def test_the_shared_code_stays_small_enough_to_be_read():
    shared = [path for path in MODULES if wing(dotted(path)).partition(".")[0] not in ("papers", "grammar")]
    # what teaches is below 6,500: the rest plans a run, checks exercises, starts many runs, fetches and scaffolds
    assert sum(map(code_lines, shared)) < 7150


def test_the_command_line_explains_itself_without_the_heavy_libraries():
    code = (
        "import sys; from kdutils.__main__ import main; main(['list']); "
        "print([name for name in ('torch', 'transformers', 'pandas', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"\n{paper}\n" in f"\n{done.stdout}" for paper in PAPERS)


def test_there_are_papers():
    assert PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_paper_has_its_notebook_tests_and_results(paper):
    assert list((ROOT / "notebooks").glob(f"[0-9][0-9]_{paper}.ipynb")), "no notebook"
    assert list((ROOT / f"tests/papers/{paper}").glob("test_*.py")), "no test file"
    assert list((ROOT / "results" / paper).rglob("*.json")), "no recorded run"


# --- dependencies -------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {
    canonicalize_name(r.name): r
    for name, group in PROJECT["optional-dependencies"].items()
    if name != "workflow"  # for a cluster; `make env` does not install it
    for r in map(Requirement, group)
}
PINS = {
    canonicalize_name(r.name): r
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if (text := line.split("#")[0].strip())
    for r in [Requirement(text)]
}
# What Colab ships (its backend-info of 2026-08-19). These must be good enough, or a session reinstalls them.
COLAB = {
    "torch": "2.11.0",
    "transformers": "5.15.0",
    "datasets": "4.0.0",
    "accelerate": "1.14.0",
    "tokenizers": "0.22.2",
    "safetensors": "0.8.0",
    "numpy": "2.1.3",
    "pandas": "2.2.3",
    "matplotlib": "3.10.0",
    "seaborn": "0.13.2",
    "scikit-learn": "1.6.1",
    "ipywidgets": "7.7.1",
    "tqdm": "4.67.3",
}


def pinned(name: str) -> str:
    """The version that requirements.txt pins, which must be one exact version."""
    (specifier,) = PINS[name].specifier
    assert specifier.operator == "==" and "*" not in specifier.version and "+" not in specifier.version
    return specifier.version


@pytest.mark.parametrize("name", [*CORE, *EXTRAS])
def test_a_direct_dependency_is_pinned_inside_its_range(name):
    assert {**CORE, **EXTRAS}[name].specifier.contains(pinned(name))


@pytest.mark.parametrize("name", PINS)
def test_every_pin_is_exact_and_for_every_system(name):
    assert pinned(name) and PINS[name].marker is None


@pytest.mark.parametrize("name", COLAB)
def test_colab_has_what_the_core_needs(name):
    assert CORE[name].specifier.contains(COLAB[name])


@pytest.mark.parametrize("version", ["3.11.0", "3.12.3", "3.13.1", "3.14.0"])
def test_python_versions(version):
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)


def test_conda_environment_agrees_with_the_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == "kdutils"
    assert environment["channels"][0] == "conda-forge"
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    versions = dict((package.split("=") + [""])[:2] for package in packages)
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(versions.pop("python") + ".0")
    assert versions.pop("pip") == ""
    for name, version in versions.items():  # from conda-forge, in the minor version that pip would ask for
        assert f"{pinned(name)}.".startswith(f"{version}."), name


# --- the files around the code ------------------------------------------------------------------------------


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == kdutils.__version__
    assert REVISION in ("main", f"v{kdutils.__version__}")
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_continuous_integration_is_a_sound_executable_script():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in text and "make test" in text
    subprocess.run(["bash", "-n", script], check=True)


def test_sanitising_patterns_compile_and_leave_no_digits_of_a_duration():
    text = (ROOT / "tests" / "notebooks.sanitize").read_text(encoding="utf-8")
    patterns = re.findall(r"^regex: (.*)$\n^replace: (.*)$", text, flags=re.M)
    assert len(patterns) == text.count("regex: ")
    line = "trained in 12.5 s (0.2 min) at 2026-11-21T10:00:00Z, 350 MB; torch 2.13.0+cpu; difference 1.1e-16, line 12:"
    for pattern, replacement in patterns:
        line = re.sub(pattern, replacement, line)
    assert not re.search(r"\d", line)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make")


@needs_make
def test_make_lists_its_targets():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("env", "demo", "test", "lab", "notebooks", "lint", "clean"):
        assert f"make {target} " in listed


@needs_make
def test_make_can_say_what_it_would_do():
    command = ["make", "-n", "demo", "test", "lab", "notebooks", "lint", "clean"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m kdutils run --all --preset demo" in told and "--nbval-lax" in told
    assert not re.search(r"rm .*\b(runs|results)\b", told)


@needs_make
def test_an_old_python_is_refused_in_one_sentence(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "env", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "kdutils needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_recorded_runs_are_json():
    for path in (ROOT / "results").rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_the_package_under_test_is_this_one():
    assert Path(kdutils.__file__).resolve().parents[1] == ROOT, sys.path


def test_the_readme_tells_the_verdicts_of_the_records():
    text = readme.README.read_text(encoding="utf-8")
    assert readme.told(text) == text, "run `python -m tests.readme`"
