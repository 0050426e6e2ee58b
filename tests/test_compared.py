"""Which cells are compared: what depends on training, on the reader's runs or on a clock is left out, and only that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests import compared

ROOT = Path(__file__).resolve().parents[1]

TRAINED = "from kdutils.study.running import run\nrecords = run(experiment, settings, runs=runs)"
STORED = 'from kdutils.study.results import recorded\nstore = recorded("r_drop")'


def live(*sources: str) -> bool:
    """Whether the last of these cells shows what is live."""
    return compared.live_cells(sources)[-1]


@pytest.mark.parametrize(
    "source",
    [
        TRAINED,  # says how long it took
        "from kdutils.study import running\nrunning.run(experiment, settings)",
        "from kdutils.study.teachers import teacher_of as teacher\nteacher(task)",
        "from kdutils.training.loop import fit\nfitted = fit(model, method)",
        "entries = gather(runs, results)\nprint(len(entries))",
        "import time\nbegun = time.monotonic()\nprint(time.monotonic() - begun)",
        "from kdutils.tasks.scores import latency_ms\nlatency_ms(model)",
        "from kdutils.core import setup; setup.ready()",
        "optimizer = torch.optim.Adam([w])\nprint(optimizer)",
        "def train():\n    return torch.optim.Adam([w])\ntrain()",
        "for seed in seeds:\n    with torch.no_grad():\n        print(score(runs, seed))",
        "def tell(x):\n    print(x)\nfound = tell(runs)",
        "try:\n    pass\nfinally:\n    print(runs)",
    ],
)
def test_a_cell_that_trains_or_measures_is_live(source):
    assert live(source)


@pytest.mark.parametrize(
    "source",
    [
        "records[0]",
        "[claims.grade(claim, records) for claim in CLAIMS]",
        "kept = [r for r in records]\nbest = max(kept)\nprint(best)",
        "def mean():\n    return sum(records)\nprint(mean())",
        "def inner():\n    return records\ndef outer():\n    return inner()\nouter()",
        "rows = []\nfor r in records:\n    rows.append(r)\nprint(rows)",
        "rows = {}\nfor r in records:\n    rows[r] = 1\nprint(rows)",
        "total = 0\nfor r in records:\n    total += r\nprint(total)",
        "x = 1\nif known:\n    x = records\nprint(x)",
        "if records:\n    print('yes')",
        "if records:\n    y = 1\nelse:\n    y = 2\nprint(y)",
        "found = old = 0\nfor i in range(3):\n    found = old\n    old = records\nprint(found)",  # one round later
        "(record,) = records\nprint(f'{record:.2f}')",
        "kinds = {**records}\nprint(kinds)",
        "x = records if known else 0\nprint(x)",
    ],
)
def test_what_came_of_training_is_followed(source):
    assert live(TRAINED, source)


@pytest.mark.parametrize(
    "source",
    [
        "print(experiment, settings)",  # given to the training, not changed by it
        "records = recorded()\nprint(records)",
        "records = 1\nprint(records)",
        "from elsewhere import records\nprint(records)",
        "def records():\n    return 1\nrecords()",
        "for records in store:\n    print(records)",
        "for r in store:\n    print(r)",  # a name that an earlier cell used in a loop over what is live
        "[records for records in store]",
        "def show(records):\n    print(records)\nshow(store)",
        "level = records[0]\nmiddle = level / 2",  # shows nothing
        "def later():\n    print(records)",
        "import time\nstarted = time.monotonic()\ntable(settings)",
        "from kdutils.study.running import folder, load_model",
    ],
)
def test_what_does_not_depend_on_it_is_compared(source):
    assert not live(TRAINED + "\nfor r in records:\n    pass", STORED, source)


def test_a_function_reads_a_name_when_it_is_called():
    before = ["found = [1]\ndef tell():\n    print(found)", "tell()"]
    assert compared.live_cells([*before, TRAINED, "found = records", "tell()"]) == [False, False, True, False, True]


def test_tags_are_set_and_taken_away():
    new = nbformat.v4
    sources = ["print(1)", TRAINED, "print(records)", "x = 2", "print(x)"]
    node = new.new_notebook(cells=[new.new_code_cell(source) for source in sources])
    for cell in node.cells[:3] + node.cells[4:]:
        cell.outputs = [new.new_output("stream", text="1\n")]
    node.cells[2].metadata["tags"] = ["mine", compared.TAG]
    node.cells.append(new.new_markdown_cell("print"))
    compared.mark(node)
    tags = [cell.metadata.get("tags") for cell in node.cells]
    assert tags == [[compared.TAG], None, ["mine"], None, [compared.TAG], None]


def test_a_cell_is_built_on_the_statements_that_give_it_its_names():
    cells = [
        "from kdutils.study import claims\nimport torch",
        TRAINED + "\nfor name in records:\n    print(name)",
        STORED + "\nrows = {}",
        "rows['a'] = 1",
        "def count(found):\n    return len(found) + extra",
        "extra = 5\nstore2 = 3",
        "for name in ('x', 'y'):\n    print(name, count(store), rows, claims)",
    ]
    assert compared.behind(cells, 6) == [
        "from kdutils.study import claims",
        "from kdutils.study.results import recorded",
        "store = recorded('r_drop')",
        "rows = {}",
        "rows['a'] = 1",
        "def count(found):\n    return len(found) + extra",
        "extra = 5",
    ]


def test_a_value_that_is_replaced_is_not_needed():
    cells = ["x = training()\nx.append(1)", "x = 2\nx += 1", "print(x)"]
    assert compared.behind(cells, 2) == ["x = 2", "x += 1"]


# --- what nbval makes of the tags ---------------------------------------------------------------------------------

TABLE = "import pandas as pd\npd.DataFrame({'BLEU': [score]})"
FIGURE = (
    "from kdutils.notebook.plots import Picture\ndisplay(Picture(bytes(range(97, 123)), f'A bar as high as {score}'))"
)
TOLD = "print(f'BLEU {score}, on 2026-01-31, in 2.5 min, 350 MB, torch 2.13.0+cpu, difference 1.1e-16')"


def write_notebook(place: Path, *, table: str, printed: str) -> None:
    """A notebook as it is committed, with 21.5 in its source and these numbers in its outputs."""
    new = nbformat.v4
    cells = [new.new_code_cell(source) for source in ("score = 21.5", TABLE, TOLD, FIGURE)]
    html = (
        "<div>\n<style scoped>\n    .dataframe tbody tr th:only-of-type {\n        vertical-align: middle;\n    }\n\n"
        "    .dataframe tbody tr th {\n        vertical-align: top;\n    }\n\n    .dataframe thead th {\n"
        '        text-align: right;\n    }\n</style>\n<table border="1" class="dataframe">\n  <thead>\n'
        '    <tr style="text-align: right;">\n      <th></th>\n      <th>BLEU</th>\n    </tr>\n  </thead>\n  <tbody>\n'
        f"    <tr>\n      <th>0</th>\n      <td>{table}</td>\n    </tr>\n  </tbody>\n</table>\n</div>"
    )
    data = {"text/html": html, "text/plain": f"   BLEU\n0  {table}"}
    cells[1].outputs = [new.new_output("execute_result", data, execution_count=2)]
    cells[2].outputs = [new.new_output("stream", text=printed)]
    page = f'<img alt="A bar as high as {table}" style="max-width:100%" src="data:image/png;base64,iVBORw0KGgo=">'
    figure = {"text/html": page, "text/plain": f"A bar as high as {table}"}  # another release draws other bytes
    cells[3].outputs = [new.new_output("display_data", figure)]
    for number, cell in enumerate(cells, start=1):
        cell.execution_count = number
    node = new.new_notebook(cells=cells)
    compared.mark(node)
    nbformat.write(node, place)


def test_nbval_sees_another_number_and_overlooks_another_time(tmp_path):
    told = "BLEU {}, on 2025-11-21, in 1 min, 1.2 GB, torch 2.11.0, difference 0.0e+00\n"
    write_notebook(tmp_path / "right.ipynb", table="21.5", printed=told.format(21.5))
    write_notebook(tmp_path / "wrong.ipynb", table="21.4", printed=told.format(21.6))
    options = ["--nbval-lax", "--nbval-current-env", f"--nbval-sanitize-with={ROOT}/tests/notebooks.sanitize"]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", *options]
    done = subprocess.run([*command, tmp_path], cwd=tmp_path, capture_output=True, text=True)
    failed = sorted(line.split(" ")[1] for line in done.stdout.splitlines() if line.startswith("FAILED"))
    assert failed == ["wrong.ipynb::Cell", "wrong.ipynb::Cell", "wrong.ipynb::Cell"], done.stdout
    assert "3 failed, 5 passed" in done.stdout
