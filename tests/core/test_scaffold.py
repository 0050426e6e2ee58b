"""A new paper from the templates: what is written, what is refused, and that it works at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from kdutils.__main__ import main
from kdutils.core.errors import UserError
from kdutils.core.scaffold import ROW, new_paper
from tests.anatomy import ANATOMY
from tests.notebook_rules import RULES
from tests.readme import ROW as TOLD
from tests.tiny import one_sentence

ROOT = Path(__file__).resolve().parents[2]
TITLE = "Born-Again Neural Networks: Students & Teachers"
TABLE = "# Papers\n\n| # | notebook | paper | headline | verdict |\n|---|---|---|---|---|\n"
R_DROP = "| 03 | [`03_r_drop`](notebooks/03_r_drop.ipynb) | R-Drop | It helps. | not recorded yet |\n"


@pytest.fixture
def home(tmp_path):
    """A checkout as far as a new paper looks at it."""
    for folder in ("notebooks", "tests/papers", "kdutils/papers/r_drop", "results/lost"):
        (tmp_path / folder).mkdir(parents=True)
    for number, name in enumerate(("start_here", "tutor", "lssd", "r_drop")):
        (tmp_path / f"notebooks/{number:02}_{name}.ipynb").touch()
    (tmp_path / "README.md").write_text(f"{TABLE}{R_DROP}\nMore.\n", encoding="utf-8")
    return tmp_path


def everything(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is written


def test_a_paper_is_a_folder_tests_a_notebook_and_a_row(home):
    before = everything(home)
    written = {path.relative_to(home).as_posix() for path in new_paper(home, "born_again", TITLE)}
    papers = {"__init__", "claims", "experiment", "method", "objective"}
    assert written == {
        *(f"kdutils/papers/born_again/{name}.py" for name in papers),
        *(f"tests/papers/born_again/test_{name}.py" for name in ("experiment", "objective")),
        "notebooks/04_born_again.ipynb",
        "README.md",
    }
    after = everything(home)
    assert set(after) == {*before, *written}
    assert all(after[name] == text for name, text in before.items() if name != "README.md")
    for name in written - {"README.md"}:
        text = after[name].decode("utf-8")
        assert not any(left in text for left in ("my_paper", "MyPaper", "A title to come", "COLAB")), name


def test_the_row_stands_below_the_last_one_and_is_one_that_verdicts_are_written_into(home):
    new_paper(home, "born_again", TITLE)
    text = (home / "README.md").read_text(encoding="utf-8")
    _, row = ROW.findall(text)
    assert text == f"{TABLE}{R_DROP}{row}\nMore.\n"
    link = "[`04_born_again`](notebooks/04_born_again.ipynb)"
    claim = "A student has a higher test BLEU than its teacher, at the same number of updates."
    assert row == f"| 04 | {link} | {TITLE} | {claim} | not recorded yet |\n"
    assert [found[2] for found in TOLD.finditer(text)] == ["r_drop", "born_again"]


# of what is held against committed notebooks: what can be held before one was executed
BEFORE = ("format_and_kernel", "title_and_badge", "setup_cell", "parameters_cell", "prose_before_code", "safe_code",
          "no_traces_of_a_runner", "no_absolute_paths", "clean_outputs", "compared_cells")  # fmt: skip


def test_its_notebook_has_the_parts_of_the_anatomy_in_order(home):
    new_paper(home, "born_again", TITLE)
    path = home / "notebooks/04_born_again.ipynb"
    node = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    for name in BEFORE:
        assert list(RULES[name](node, path.name)) == [], name
    for name in ("parts_in_order", "setup_and_parameters", "short_code"):
        assert list(ANATOMY[name](node)) == [], name


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "title", "words"),
    [
        ("r_drop", TITLE, "there already"),
        ("lost", TITLE, "there already"),  # its records are
        ("start_here", TITLE, "there already"),
        ("Born-Again", TITLE, "small letters"),
        ("../born", TITLE, "small letters"),
        ("9_born", TITLE, "small letters"),
        ("b" * 31, TITLE, "small letters"),
        ("class", TITLE, "small letters"),
        ("baseline", TITLE, "small letters"),
        ("", TITLE, "small letters"),
        ("born_again", " ", "one line"),
        ("born_again", "Two\nlines", "one line"),
        ("born_again", 'A "quoted" title', "one line"),
        ("born_again", "a | b", "one line"),
        ("born_again", "b" * 101, "one line"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(home, name, title, words):
    before = everything(home)
    with pytest.raises(UserError, match=words) as caught:
        new_paper(home, name, title)
    one_sentence(caught.value)
    assert everything(home) == before


@pytest.mark.parametrize("missing", ["notebooks", "tests", "README.md"])
def test_an_installed_package_is_no_checkout(home, missing, monkeypatch, capsys):
    (home / missing).rename(home.parent / f"away-{home.name}")
    monkeypatch.setattr("kdutils.core.files.HOME", home)
    before = everything(home)
    assert main(["new", "born_again", TITLE]) == 1
    assert "clone the repository first" in capsys.readouterr().err and everything(home) == before


# ---------------------------------------------------------------- it works at once

TRY = """
import sys
import pytest
from kdutils.__main__ import main

name = "born_again"
tiny = "updates=4 eval_every=2 train_rows=40 test_rows=10 validation_rows=10 width=16 heads=2 feedforward=16".split()
assert main(["new", name, "Born-Again Neural Networks"]) == 0
assert main(["list", name]) == 0
assert main(["train", name, "--tasks", "translation", "--arms", name, "--seeds", "1", "--set", *tiny]) == 0
assert main(["report"]) == 0
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/papers/born_again"]))
"""


@pytest.mark.slow
def test_a_new_paper_lists_trains_reports_and_passes_its_tests(tmp_path):
    caches = shutil.ignore_patterns("__pycache__")
    for folder in ("kdutils", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=caches)
    for file in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "notebooks").mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        (tmp_path / "notebooks" / notebook.name).touch()
    done = subprocess.run([sys.executable, "-c", TRY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "translation: with baseline, which another arm needs" in done.stdout
    assert "translation, seed 1, born_again: test_bleu" in done.stdout and " passed" in done.stdout
    made = ["kdutils/papers/born_again", "tests/papers/born_again", "notebooks/09_born_again.ipynb"]
    for command in (["check"], ["format", "--check"]):  # the format of notebooks is their author's, even where named
        style = [sys.executable, "-m", "ruff", *command, "--force-exclude", *made]
        assert subprocess.run(style, cwd=tmp_path).returncode == 0
