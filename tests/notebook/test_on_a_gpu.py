"""Every code cell of every notebook on a GPU, which is a pretend one, tiny; the two precisions take turns."""

from __future__ import annotations

import json

import pytest

from kdutils.runner import all_notebooks
from tests.gpu_runs import on_a_gpu
from tests.pretend_gpu import NAMES

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("number", range(len(all_notebooks())), ids=[path.stem for path in all_notebooks()])
def test_every_cell_runs(number, tmp_path):
    notebook, capability = all_notebooks()[number], ["7.5", "9.0"][number % 2]
    done = on_a_gpu(capability, "notebook", tmp_path, notebook)
    failed = [line for line in done.stdout.splitlines() if line.startswith("pretend_gpu: ")]
    assert not failed and done.returncode == 0, "\n".join([*failed, done.stderr[-3000:]])
    results = [json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.rglob("seed-1/*/result.json")]
    assert {one["provenance"]["device"] for one in results} <= {NAMES[tuple(map(int, capability.split(".")))]}
    assert results or notebook.stem == "00_start_here"  # whose runs go to a folder that it deletes
