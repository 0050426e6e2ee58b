"""A new paper that works at once: the files of `kdutils/template`, under its name, in a checkout of the suite.

>>> new_paper(HOME, "my_paper", "My Paper: What It Says")         # the files that were written
"""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path

from kdutils.core.errors import UserError
from kdutils.core.files import write_text
from kdutils.core.setup import CELL, colab_url

TEMPLATE = Path(__file__).resolve().parents[1] / "template"
RESERVED = ("baseline", "baseline_compute", "soft_target")  # what the template itself names
ROW = re.compile(r"^\| \d\d \| \[`\d\d_\w+`\].*\n", re.MULTILINE)  # of the table of papers in README.md


def new_paper(home: Path, name: str, title: str) -> list[Path]:
    """Writes a paper's folder, tests and notebook into the checkout `home`, and its row into README.md.

    It is a student of the baseline of the same seed: it lists, trains and passes its tests, to be changed from there.
    Raises UserError, before anything is written, for an installed package without notebooks and tests, for a name that
    is taken or no name of a module, and for a title that does not fit into one line.
    """
    readme = home / "README.md"
    if not (readme.is_file() and all((home / part).is_dir() for part in ("notebooks", "tests/papers"))):
        raise UserError("A paper is added to a checkout of the suite, and here is none: clone the repository first.")
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,29}", name) or keyword.iskeyword(name) or name in RESERVED:
        raise UserError(f"'{name}' cannot name a paper: use 2 to 30 small letters, digits and _, such as my_paper.")
    if not title.strip() or not title.isprintable() or len(title) > 100 or set(title) & set('"\\|`'):
        raise UserError('The title must be one line of at most 100 characters, without ", \\, | and `.')
    folders = home / "kdutils/papers" / name, home / "tests/papers" / name, home / "results" / name
    notebooks = sorted((home / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in (*folders, *notebooks):
        if path.exists() and name in (path.name, path.stem[3:]):
            raise UserError(f"'{name}' is there already ({path.relative_to(home)}): choose another name.")
    notebook = home / "notebooks" / f"{int(notebooks[-1].name[:2]) + 1 if notebooks else 1:02}_{name}.ipynb"

    def filled(text: str) -> str:
        text = text.replace("my_paper", name).replace("MyPaper", name.title().replace("_", ""))
        return text.replace("COLAB", colab_url(notebook.name)).replace("A title to come", title)

    files = {
        folder / source.name.removesuffix(".txt"): filled(source.read_text("utf-8"))
        for folder, part in zip(folders, ("paper", "tests"), strict=False)
        for source in sorted((TEMPLATE / part).glob("*.txt"))
    }
    files[notebook] = _notebook(filled((TEMPLATE / "notebook.txt").read_text("utf-8")))
    table = readme.read_text("utf-8")
    claim = re.search(r'Claim\("\w+", "([^"]+)"', files[folders[0] / "claims.py"])[1]
    link = f"[`{notebook.stem}`](notebooks/{notebook.name})"
    row = f"| {notebook.name[:2]} | {link} | {title} | {claim} | not recorded yet |\n"
    end = max((found.end() for found in ROW.finditer(table)), default=len(table))
    files[readme] = table[:end] + row + table[end:]
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def _notebook(text: str) -> str:
    """The JSON of a notebook: each cell begins with a line "%% kind" (markdown, code, parameters or setup)."""
    cells = []
    for number, part in enumerate(text.removeprefix("%% ").split("\n%% ")):
        kind, _, source = part.partition("\n")
        lines = (CELL if kind == "setup" else source).strip().splitlines(keepends=True)
        metadata = {"tags": ["parameters"]} if kind == "parameters" else {}
        cell = {"cell_type": "code", "execution_count": None, "outputs": []}
        cell = {"cell_type": "markdown"} if kind == "markdown" else cell
        cells.append(cell | {"id": f"cell-{number:02}", "metadata": metadata, "source": lines})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    node = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(node, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
