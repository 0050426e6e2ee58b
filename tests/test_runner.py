"""Notebooks executed headlessly, on small fabricated ones, and the store of recorded results.

Every test that starts a kernel takes about a second; the notebooks import nothing but `kdutils.core.errors`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

from kdutils import runner
from kdutils.core.errors import Paused, UserError
from kdutils.core.files import exclusive, read_json
from kdutils.study import results

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = """\
preset: str = "demo"  # demo, study or paper
tasks: list = ["translation"]
seeds: list = [1, 2, 3]
overrides: dict = {}
runs: str = ""  # folder for the runs
max_minutes: float = 0.0"""
TELL = """\
import json, os
told = {"preset": preset, "tasks": tasks, "seeds": seeds, "overrides": overrides, "runs": runs, "pid": os.getpid()}
told |= {"max_minutes": max_minutes, "folder": os.getcwd(), **{k: v for k, v in os.environ.items() if "KDUTILS" in k}}
print(json.dumps(told))"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A checkout with an empty folder of notebooks; the kernels still find this kdutils."""
    (tmp_path / "home/notebooks").mkdir(parents=True)
    monkeypatch.setattr(runner, "HOME", tmp_path / "home")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("KDUTILS_RUNS", raising=False)
    return tmp_path / "home"


def write_notebook(home: Path, *sources: str, name: str = "03_r_drop.ipynb", parameters: str = PARAMETERS) -> Path:
    """A notebook of a cell of parameters and these cells of code."""
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate([parameters, *sources])]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path = home / "notebooks" / name
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def told(path: Path) -> dict:
    """What the cell TELL printed into an executed notebook."""
    texts = [o.text for cell in read(path).cells for o in cell.get("outputs", []) if o.output_type == "stream"]
    return json.loads(next(text for text in texts if text.startswith("{")))


def failure(notebook: Path, output: Path, **parameters) -> UserError:
    """The error with which a notebook stops, and which its status file tells too; always one line."""
    with pytest.raises(UserError) as caught:
        runner.run_notebook(notebook, parameters, output)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    if output.with_suffix(".status.json").exists():
        assert status(output)["error"] == sentence
    return caught.value


def status(output: Path) -> dict:
    return read_json(output.with_suffix(".status.json"))


# --- the registry ------------------------------------------------------------------------------------------------


def test_papers_have_modules_and_notebooks():
    assert "r_drop" in runner.names()
    assert runner.load("r_drop").EXPERIMENTS
    assert runner.notebook_of("r_drop").name == "03_r_drop.ipynb"
    assert runner.notebook_of("r_drop") in runner.all_notebooks()


def test_an_unknown_paper_is_named_with_the_near_one():
    with pytest.raises(UserError, match="no paper 'rdrop'. Did you mean 'r_drop'?"):
        runner.load("rdrop")


def test_runs_lie_beside_kdutils_unless_the_environment_says_where(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.delenv("KDUTILS_RUNS", raising=False)
    assert runner.runs_folder() == os.path.join("..", "runs")
    monkeypatch.setenv("KDUTILS_RUNS", "/somewhere")
    assert runner.runs_folder() == "/somewhere"


def test_without_notebooks_the_sentence_says_what_to_do(home, tmp_path):
    with pytest.raises(UserError, match="no notebook of 'r_drop'.*'train'"):
        runner.execute("r_drop", runs=tmp_path / "runs")


# --- one notebook ------------------------------------------------------------------------------------------------


def test_a_notebook_gets_its_parameters_and_a_quiet_headless_kernel(home, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDUTILS_RUNS", "mine")
    monkeypatch.setenv("KDUTILS_HEADLESS", "0")
    before, notebook = dict(os.environ), write_notebook(home, TELL)
    output = runner.run_notebook(notebook, {"preset": "study", "seeds": [7]}, tmp_path / "runs/x/03_r_drop.ipynb")
    said = told(output)
    assert (said["preset"], said["seeds"], said["overrides"]) == ("study", [7], {})
    assert said["pid"] != os.getpid() and said["folder"] == str(notebook.parent)
    assert said["KDUTILS_HEADLESS"] == "1"
    assert said["KDUTILS_RUNS"] == str(tmp_path / "mine")  # the kernel starts elsewhere
    assert dict(os.environ) == before
    out, err = capfd.readouterr()
    assert err == ""  # no kernel that warns about its transport, no debugger about frozen modules
    assert re.fullmatch(r"03_r_drop\.ipynb: running, preset=study, seeds=\[7\]\n.*: done in 0\.\d min\n", out)
    assert status(output)["status"] == "ok"


def test_a_finished_notebook_is_skipped_until_it_or_its_parameters_change(home, tmp_path, capsys):
    notebook, output = write_notebook(home, TELL), tmp_path / "runs/03_r_drop.ipynb"
    pids = []

    def go(**parameters):
        runner.run_notebook(notebook, parameters, output)
        pids.append(told(output)["pid"])

    go(seeds=[1])
    go(seeds=[1])
    go(seeds=[1], max_minutes=5.0)  # a time limit changes no result
    assert len(set(pids)) == 1 and capsys.readouterr().out.count("finished already") == 2
    go(seeds=[2])
    write_notebook(home, TELL, "print('new')")
    go(seeds=[2])
    output.with_suffix(".status.json").write_text("{half a fi")
    go(seeds=[2])
    assert len(set(pids)) == 4


def test_what_a_killed_runner_left_is_not_taken_for_finished(home, tmp_path, monkeypatch):
    notebook, output = write_notebook(home, TELL), tmp_path / "runs/03_r_drop.ipynb"
    runner.run_notebook(notebook, {"seeds": [1]}, output)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def interrupted(notebook, output, parameters):
            output.write_text("half of other parameters")
            raise KeyboardInterrupt

        patch.setattr(runner, "_papermill", interrupted)
        runner.run_notebook(notebook, {"seeds": [2]}, output)
    assert status(output)["status"] == "running"
    runner.run_notebook(notebook, {"seeds": [1]}, output)
    assert told(output)["seeds"] == [1]


def test_lines_that_tell_how_far_a_notebook_is_are_passed_on(home, tmp_path, capfd):
    lines = ["a table", "translation, seed 1: R-Drop trained in 3 s", "r_drop, seed 1:  40%|####  | 120/300", "8 seeds"]
    notebook = write_notebook(home, "\n".join(f"print({line!r})" for line in lines))
    runner.run_notebook(notebook, {}, tmp_path / "runs/x.ipynb")
    shown = capfd.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("  ")] == [f"  {lines[1]}", f"  {lines[2]}"]


def test_one_seed_is_executed_once(home, tmp_path, monkeypatch):
    write_notebook(home, TELL)
    executed = runner.execute("r_drop", seeds=[4], runs=tmp_path / "runs")
    assert executed.name == "seed-4.ipynb" and told(executed)["seeds"] == [4]
    assert [path.name for path in (tmp_path / "runs").rglob("*.ipynb")] == ["seed-4.ipynb"]


def test_unknown_parameters_are_refused_before_anything_runs(home, tmp_path):
    notebook, output = write_notebook(home, TELL), tmp_path / "runs/03_r_drop.ipynb"
    message = str(failure(notebook, output, seed=1))
    assert "no parameter 'seed'. Did you mean 'seeds'? Known: preset, tasks, seeds" in message
    assert not output.parent.exists()


@pytest.mark.parametrize("content", ['{"cells": [', "", '{"cells": 5}'])
def test_a_file_that_is_no_notebook_is_one_sentence(home, tmp_path, content):
    notebook = home / "notebooks/03_r_drop.ipynb"
    notebook.write_text(content)
    assert f"{notebook} is not a notebook that can be run" in str(failure(notebook, tmp_path / "runs/x.ipynb"))


def test_a_failed_cell_is_one_sentence_with_notebook_error_and_place(home, tmp_path, capfd):
    notebook, output = write_notebook(home, "print('fine')", "raise ValueError('bad\\nworse')"), tmp_path / "x/y.ipynb"
    expected = f"03_r_drop.ipynb failed in cell [3] with ValueError: bad; see {output}."
    assert str(failure(notebook, output)) == expected
    assert status(output)["status"] == "failed" and "fine" in output.read_text()
    assert capfd.readouterr().err == ""


def test_a_sentence_for_the_user_arrives_alone_and_is_stored_without_a_traceback(home, tmp_path):
    deep = "from kdutils.core.errors import unknown\ndef deep():\n    raise unknown('preset', 'dmeo', ['demo'])"
    notebook, output = write_notebook(home, deep, "deep()", "print('never')"), tmp_path / "x.ipynb"
    sentence = "There is no preset 'dmeo'. Did you mean 'demo'? Known: demo."
    assert str(failure(notebook, output)) == sentence
    errors = [o for cell in read(output).cells for o in cell.get("outputs", []) if o.output_type == "error"]
    assert [error.traceback for error in errors] == [[f"UserError: {sentence}"]]


def test_a_pause_stays_a_pause(home, tmp_path):
    pause = "from kdutils.core.errors import Paused\nraise Paused('Paused after update 3: run the same again.')"
    error = failure(write_notebook(home, pause), tmp_path / "x.ipynb")
    assert isinstance(error, Paused) and str(error) == "Paused after update 3: run the same again."
    assert status(tmp_path / "x.ipynb")["status"] == "paused"


def test_a_kernel_that_dies_is_one_sentence(home, tmp_path, capfd):
    error = failure(write_notebook(home, "import os; os._exit(9)"), tmp_path / "x.ipynb")
    assert str(error).startswith("03_r_drop.ipynb could not be run: its kernel died")
    assert capfd.readouterr().err == ""  # nor does a library say it a second time


def test_two_runners_on_one_place_are_one_too_many(home, tmp_path):
    notebook, output = write_notebook(home, TELL), tmp_path / "runs/x.ipynb"
    with exclusive(output.parent / f".{output.stem}"), pytest.raises(UserError, match="Another run is writing into"):
        runner.run_notebook(notebook, {}, output)
    assert not output.exists()


def test_a_file_in_the_way_is_one_sentence(home, tmp_path):
    (tmp_path / "runs").write_text("")
    assert "a file stands in its way" in str(failure(write_notebook(home), tmp_path / "runs/x.ipynb"))


def test_no_state_of_widgets_is_stored(home, tmp_path):
    pytest.importorskip("ipywidgets")
    slider = "import ipywidgets\nfrom IPython.display import display\ndisplay(ipywidgets.IntSlider())"
    output = runner.run_notebook(write_notebook(home, slider), {}, tmp_path / "x.ipynb")
    assert "widgets" not in read(output).metadata


def test_without_papermill_the_sentence_says_what_to_install(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "papermill", None)
    error = failure(write_notebook(home), tmp_path / "x.ipynb")
    assert "pip install papermill ipykernel" in str(error) and "'train'" in str(error)


# --- a paper's notebook ------------------------------------------------------------------------------------------


def test_seeds_run_in_a_process_each_and_then_together(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    write_notebook(home, TELL)
    changes = {"alpha": "2", "translation.data": "corpus"}
    options = {"seeds": [4, 5], "overrides": changes, "tasks": ["translation"], "runs": "runs", "max_minutes": 3}
    output = runner.execute("r_drop", "demo", **options)
    files = [output.with_name("seed-4.ipynb"), output.with_name("seed-5.ipynb"), output]
    said = [told(file) for file in files]
    assert [one["seeds"] for one in said] == [[4], [5], [4, 5]]
    assert len({one["pid"] for one in said}) == 3
    assert re.fullmatch(r"runs/r_drop/demo-[0-9a-f]{8}/03_r_drop\.ipynb", output.as_posix())
    for one in said:
        assert one["runs"] == str(tmp_path / "runs") and one["tasks"] == ["translation"]
        # the kernel has another folder, from which a relative path would not be found
        assert one["overrides"] == {"alpha": "2", "translation.data": str(tmp_path / "corpus")}
    limits = [one["max_minutes"] for one in said]
    assert 3 >= limits[0] > limits[1] > limits[2] > 2  # one limit for all of them


def test_other_settings_have_another_place(home, tmp_path, monkeypatch):
    write_notebook(home, TELL)
    monkeypatch.setattr(runner, "run_notebook", lambda notebook, parameters, output: output)
    places = {runner.execute("r_drop", overrides={"alpha": a}, runs=tmp_path).parent for a in ("1", 1, 1.0, 2)}
    assert len(places) == 2  # 1 in any spelling is the same setting
    assert runner.execute("r_drop", "study", runs=tmp_path).parent.name.startswith("study-")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "dmeo"}, "no preset 'dmeo'"),
        ({"tasks": ["translatoin"]}, "no task 'translatoin'"),
        ({"overrides": {"alpah": 1}}, "no setting 'alpah'"),
        ({"overrides": {"alpha": "big"}}, "takes a number"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"seeds": []}, "seeds must be different"),
        ({"max_minutes": -1}, "max_minutes must be 0"),
        ({"max_minutes": float("nan")}, "max_minutes must be 0"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(home, tmp_path, options, words):
    write_notebook(home, TELL)
    with pytest.raises(UserError, match=words):
        runner.execute("r_drop", **options, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_countdown_never_reaches_the_zero_that_means_no_limit(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    left, unlimited = runner.countdown(2), runner.countdown(0)
    assert left() == 2
    now[0] += 90
    assert left() == 0.5
    now[0] += 3600
    assert 0 < left() < 0.001
    assert unlimited() == 0


# --- committed notebooks -----------------------------------------------------------------------------------------


def test_refresh_puts_the_tidied_result_in_place(home, capfd):
    notebook = write_notebook(home, "print('new')", "1 + 1")
    runner.refresh(notebook)
    done = read(notebook)
    nbformat.validate(done)
    assert done.cells[1].outputs[0].text == "new\n" and done.cells[2].execution_count == 3
    assert set(done.metadata) == {"kernelspec", "language_info"}
    assert done.cells[0].metadata == {"tags": ["parameters"]} and not done.cells[1].metadata.get("tags")
    assert not any({"papermill", "execution"} & set(cell.metadata) for cell in done.cells)
    assert notebook.read_text().endswith("}\n")
    assert os.listdir(notebook.parent) == [notebook.name]  # nothing is left beside it
    assert capfd.readouterr().err == ""


def test_a_notebook_that_fails_keeps_its_committed_form(home):
    notebook = write_notebook(home, "print('partly')", "1 / 0")
    before = notebook.read_bytes()
    with pytest.raises(UserError, match="failed in cell .3. with ZeroDivisionError") as caught:
        runner.refresh(notebook)
    assert notebook.read_bytes() == before and os.listdir(notebook.parent) == [notebook.name]
    executed = Path(re.search(r"see (.*)\.$", str(caught.value)).group(1))
    assert "partly" in executed.read_text()  # what the sentence points at is there


# --- results that were recorded ----------------------------------------------------------------------------------


def record(seed: int = 1, task: str = "translation", preset: str = "demo", **overrides) -> dict:
    history = [{"update": u, "kind": kind, "loss": 1.0 / u} for u in (2, 4) for kind in ("train", "eval")]
    arms = {name: {"metrics": {"test_bleu": 30.0 + seed}, "history": history} for name in ("baseline", "r_drop")}
    about = {"paper": "r_drop", "task": task, "preset": preset, "seed": seed, "overrides": overrides}
    return {**about, "settings": {"alpha": 5.0, **overrides}, "arms": arms, "provenance": {}}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({}, "translation-seed-1.json"),
        ({"alpha": 1.0}, "translation-alpha=1.0-seed-1.json"),
        ({"updates": 50, "alpha": 0.0001}, "translation-alpha=0.0001-updates=50-seed-1.json"),
        ({"alpha": -1e-9}, "translation-alpha=-1e-09-seed-1.json"),
        ({"data": "/data/of mine/multi30k/"}, "translation-data=multi30k-seed-1.json"),
        ({"data": "../multi30k"}, "translation-data=multi30k-seed-1.json"),
        ({"data": "hub:bentrevett/multi30k"}, "translation-data=bentrevett-multi30k-seed-1.json"),
        ({"data": "hub:o/iwslt@refs/convert/parquet"}, "translation-data=o-iwslt-seed-1.json"),
        ({"betas": [0.9, 0.98]}, "translation-betas=0.9+0.98-seed-1.json"),
        ({"schedule": 'a b:*?"<>|'}, "translation-schedule=a-b--seed-1.json"),
        ({"data": "/다국어/말뭉치"}, "translation-data=말뭉치-seed-1.json"),
        ({"fast": True, "model": ""}, "translation-fast=True-model=-seed-1.json"),
    ],
)
def test_a_record_is_named_after_what_was_changed(tmp_path, overrides, name):
    assert results.record_path(record(**overrides), tmp_path) == tmp_path / "r_drop/demo" / name


def test_many_changes_make_no_name_too_long_for_a_disk(tmp_path):
    many = {f"setting_number_{i}": i for i in range(40)}
    place = results.keep(record(**many), tmp_path)
    assert place.name.startswith("translation-40-changes-")
    named = results.keep(record(**many, data="/corpora/" + "말" * 80), tmp_path)
    assert named.name.startswith("translation-data=말말") and "-41-changes-" in named.name
    assert results.record_path(record(**many | {"setting_number_3": 4}), tmp_path) != place


def test_a_kept_record_is_whole_but_for_most_lines_of_the_training(tmp_path):
    original = record(alpha=1.0)
    kept = read_json(results.keep(original, tmp_path))
    assert [row["kind"] for row in kept["arms"]["r_drop"]["history"]] == ["train", "eval", "train", "eval"]  # so few
    assert len(original["arms"]["r_drop"]["history"]) == 4  # ours is not touched
    for one in (kept, original):
        for arm in one["arms"].values():
            del arm["history"]
    assert kept == original


def test_a_record_is_never_replaced(tmp_path):
    place = results.keep(record(), tmp_path)
    before = place.read_bytes()
    with pytest.raises(UserError, match="recorded already: delete it first"):
        results.keep(record(), tmp_path)
    results.keep(record(data="/a/corpus"), tmp_path)
    with pytest.raises(UserError, match="other settings that has the same name"):
        results.keep(record(data="/b/corpus"), tmp_path)
    assert place.read_bytes() == before


def test_records_are_found_in_order_and_a_damaged_one_is_named(tmp_path):
    assert results.recorded("r_drop", tmp_path) == []
    for one in (record(2), record(1), record(1, preset="study"), {**record(1), "paper": "lssd"}):
        results.keep(one, tmp_path)
    found = results.recorded("r_drop", tmp_path)
    assert [(one["preset"], one["seed"]) for one in found] == [("demo", 1), ("demo", 2), ("study", 1)]
    (tmp_path / "r_drop/demo/broken.json").write_text("{")
    with pytest.raises(UserError, match="broken.json is not valid JSON"):
        results.recorded("r_drop", tmp_path)


def test_a_claim_gets_the_records_that_differ_in_its_settings_alone():
    plain, swept, both = record(), record(alpha=1.0), record(alpha=1.0, k=2)
    others = [record(task="classification"), record(preset="study"), record(data="/corpus"), record(k=2)]
    store = [plain, swept, both, *others]
    assert results.for_claim(("alpha",), store, "translation", "demo") == [plain, swept]
    assert results.for_claim((), store, "translation", "demo") == [plain]
    assert results.for_claim(("alpha", "k"), store, "translation", "demo") == [plain, swept, both, others[-1]]
