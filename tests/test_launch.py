"""Processes that run side by side, and those that train one experiment together; the workflow of Snakemake.

What is run here is tiny, and the two processes of a launch compute on the CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdutils import launch
from kdutils.core.errors import Paused, UserError
from kdutils.papers import r_drop
from kdutils.study.experiment import resolve
from kdutils.study.running import finished, record_file, run

ROOT = Path(__file__).resolve().parents[1]
TINY = {"train_rows": 60, "validation_rows": 20, "test_rows": 20, "updates": 2, "warmup": 1, "eval_every": 2,
        "checkpoint_every": 1, "width": 16, "layers": 1, "heads": 2, "feedforward": 16}  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")


@pytest.mark.parametrize(
    ("items", "points"),
    [
        ([], [{}]),
        (["alpha=0.5,1"], [{"alpha": "0.5"}, {"alpha": "1"}]),
        (["a=1,2", "t.b=x"], [{"a": "1", "t.b": "x"}, {"a": "2", "t.b": "x"}]),
    ],
)
def test_a_sweep_is_the_product_of_its_values(items, points):
    assert launch.sweep(items) == points


def test_every_line_stands_behind_its_name_and_every_status_is_told(capfd):
    codes = launch.side_by_side({"good": ["list"], "bad": ["list", "nobody"]}, jobs=2)
    out, err = capfd.readouterr()
    assert codes == {"good": 0, "bad": 1} and err == ""
    lines = out.splitlines()
    assert all(line.startswith(("[good] ", "[bad] ")) for line in lines)
    assert "[good] r_drop" in lines and sum(line.startswith("[bad] kdutils: There is no paper") for line in lines) == 1


def test_each_of_several_gpus_has_one_process_and_each_process_its_share(monkeypatch):
    seen, limits = [], iter([3.0, 2.0, 1.0])

    class Child:
        stdout = ()

        def __init__(self, command, env, **options):
            seen.append((command[3:], env["CUDA_VISIBLE_DEVICES"], env["OMP_NUM_THREADS"]))

        def wait(self):
            time.sleep(0.2)
            return 0

    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(launch.subprocess, "Popen", Child)
    launch.side_by_side({"a": ["x"], "b": ["y"]}, jobs=2, left=lambda: next(limits))
    assert sorted(gpu for _, gpu, _ in seen) == ["0", "1"] and {threads for *_, threads in seen} == {"4"}
    assert sorted(command[-1] for command, *_ in seen) == ["2.0", "3.0"]


SLOW = """
import sys
from kdutils import launch
launch.side_by_side({name: ["train", "r_drop", "--seeds", name, "--tasks", "translation"] for name in "12"}, jobs=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_an_interruption_stops_all_of_them():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    with subprocess.Popen([sys.executable, "-c", SLOW], preexec_fn=default, **pipes) as parent:
        while len([*Path("runs").rglob("history.jsonl")]) < 2:  # both train
            assert parent.poll() is None
            time.sleep(0.1)
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read() is not None  # ends when the last of the children has let go of it
        assert parent.wait(30) != 0


def test_two_processes_train_and_the_notebook_loads_what_they_kept(capfd):
    experiment = r_drop.EXPERIMENTS[0]
    settings = resolve([experiment], "demo", {**TINY, "alpha": 2})[experiment.name]
    launch.together(2, experiment, settings, [1], "runs", ["baseline"])
    assert record_file(experiment, settings, 1, "runs").exists()
    (record,) = run(experiment, settings, [1], "runs", ["baseline"])
    assert list(record["arms"]) == ["baseline"] and record["overrides"] == {**settings.overrides}
    assert record == finished(experiment, settings, "runs")[0]
    assert "baseline trained in" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "error"),
    [("Paused baseline, seed 1 after update 1 of 2.", Paused), ("kdutils: The launch asked for 2.", UserError)],
)
def test_what_stops_several_processes_is_one_sentence(monkeypatch, capfd, line, error):
    code = f"print('so far'); print({line!r}); print('Traceback of a launcher'); raise SystemExit(1)"
    popen = subprocess.Popen
    monkeypatch.setattr(launch.subprocess, "Popen", lambda command, **more: popen([sys.executable, "-c", code], **more))
    experiment = r_drop.EXPERIMENTS[0]
    with pytest.raises(UserError) as caught:
        launch.together(2, experiment, resolve([experiment], "demo")[experiment.name])
    assert type(caught.value) is error and str(caught.value) == line.removeprefix("kdutils: ")
    assert capfd.readouterr().out == "so far\n"


def test_settings_that_no_command_line_can_name_are_refused():
    experiment = r_drop.EXPERIMENTS[0]
    settings = resolve([experiment], "demo", TINY)[experiment.name]
    wrong = settings.changed(alpha="none")
    with pytest.raises(UserError, match="'alpha' takes a number"):
        launch.together(2, experiment, wrong)


# --- the workflow ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("snakemake") is None, reason="needs snakemake: pip install .[workflow]")
def test_the_workflow_runs_what_is_missing_and_skips_what_is_finished():
    changes = "set=" + " ".join(f"{name}={value}" for name, value in TINY.items())
    asked = ["papers=r_drop", "tasks=translation", "arms=baseline", "seeds=1,2", "notebooks=0", "minutes=60", changes]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile"), "--cores", "2"]

    def snakemake(*more: str) -> str:
        done = subprocess.run([*command, *more, "--config", *asked], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    experiment = r_drop.EXPERIMENTS[0]
    settings = resolve([experiment], "demo", TINY)[experiment.name]
    run(experiment, settings, [1], "runs", ["baseline"])
    snakemake()
    assert [record["seed"] for record in finished(experiment, settings, "runs")] == [1, 2]
    assert "Nothing to be done" in snakemake("--dry-run")
