"""What the doctor finds: a line for each thing, and whether training can begin."""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from types import SimpleNamespace

import pytest
import torch

from kdutils.core import machine
from kdutils.core.errors import UserError
from tests.tiny import one_sentence


@pytest.fixture
def findings(capsys, monkeypatch, tmp_path):
    """Examines a machine without a GPU; returns (all is well, {what: (state, words)})."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def examined(runs=tmp_path):
        fine = machine.examine(runs)
        lines = [
            re.fullmatch(r"(ok|note|missing) +(.{13}) (.+)", line) for line in capsys.readouterr().out.splitlines()
        ]
        assert all(lines)
        return fine, {line[2].strip(): (line[1], line[3]) for line in lines}

    return examined


def without(monkeypatch, *packages):
    """As if these packages were not installed."""
    real = importlib.metadata.version

    def version(name):
        if name in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_complete_machine_is_fine(findings, tmp_path):
    fine, found = findings()
    assert fine
    assert found["torch"] == ("ok", importlib.metadata.version("torch"))
    assert found["Python"][0] == "ok" and "thread" in found["CPU"][1]
    assert found["GPU"][0] == "note" and "demo preset runs on the CPU" in found["GPU"][1]
    assert found["precision"][1].startswith("float32")
    assert found["runs folder"] == ("ok", f"{tmp_path} can be written")
    assert "GiB free" in found["disk"][1]


def test_what_training_needs_is_missing(findings, monkeypatch):
    without(monkeypatch, "sacrebleu")
    fine, found = findings()
    assert not fine and found["sacrebleu"] == ("missing", "pip install 'sacrebleu>=2.5'")


def test_what_only_notebooks_or_the_hub_need_is_a_note(findings, monkeypatch):
    without(monkeypatch, "jupyterlab", "papermill", "ipykernel", "ipywidgets", "datasets")
    fine, found = findings()
    assert fine
    assert found["papermill"] == ("note", "only for notebooks: pip install 'papermill>=2.6'")
    assert found["datasets"] == ("note", "only for data of the hub: pip install 'datasets>=4.0'")


@pytest.mark.parametrize(("package", "state"), [("sacrebleu", "missing"), ("papermill", "note")])
def test_a_version_outside_the_range_is_told(findings, monkeypatch, package, state):
    real = machine.installed_version
    monkeypatch.setattr(machine, "installed_version", lambda name: "0.1" if name == package else real(name))
    fine, found = findings()
    assert fine == (state == "note") and found[package][0] == state
    assert found[package][1].startswith("0.1 is not >=2.") and f"pip install '{package}>=2." in found[package][1]


def test_an_old_python_is_missing(findings, monkeypatch):
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 12))
    fine, found = findings()
    assert not fine and found["Python"][0] == "missing" and "3.11 is needed" in found["Python"][1]


def test_a_folder_that_is_not_there_yet_can_be_written(findings, tmp_path):
    fine, found = findings(tmp_path / "a/b")
    assert fine and found["runs folder"][0] == "ok" and str(tmp_path) in found["disk"][1]
    assert list(tmp_path.iterdir()) == []  # looking leaves no trace


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_the_way_of_the_runs_is_found(findings, tmp_path, below):
    (tmp_path / "file").write_text("")
    fine, found = findings(tmp_path / "file" / below)
    assert not fine
    assert found["runs folder"] == ("missing", f"{tmp_path / 'file'} is a file: choose another with --runs")


def test_a_path_that_is_too_long_is_one_sentence(findings):
    with pytest.raises(UserError) as caught:
        findings("x" * 3000)
    assert "is too long for this system" in one_sentence(caught.value)


def test_a_folder_that_refuses_is_found(findings, monkeypatch):
    def refuse(**options):
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    fine, found = findings()
    assert not fine and "cannot be written: choose another with --runs" in found["runs folder"][1]


def test_a_full_disk_is_a_note(findings, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: SimpleNamespace(free=2**28))
    fine, found = findings()
    assert fine and found["disk"][0] == "note" and found["disk"][1].startswith("0.2 GiB free")


def test_the_hub_is_described(findings, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    assert findings()[1]["hub"] == (
        "note", f"cache at {tmp_path / 'cache'} (nothing in it yet); used by study and paper only",
    )  # fmt: skip
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert findings()[1]["hub"][1] == f"cache at {tmp_path / 'cache'}; offline by HF_HUB_OFFLINE"


@pytest.mark.parametrize(
    ("gigabytes", "capability", "words", "precision"),
    [(15, (7, 5), "demo and study fit", "float16"), (8, (8, 6), "lower max_tokens or batch_size", "bfloat16")],
)
def test_gpus_are_named_with_their_memory(findings, monkeypatch, gigabytes, capability, words, precision):
    card = SimpleNamespace(name="Some GPU", total_memory=gigabytes * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *index: capability)
    monkeypatch.setattr(machine, "device", lambda: torch.device("cuda"))
    fine, found = findings()
    assert fine and found["GPU 0"] == found["GPU 1"]
    assert found["GPU 0"][1].startswith(f"Some GPU, {gigabytes} GiB; ") and words in found["GPU 0"][1]
    assert found["precision"][1].startswith(precision)


def test_a_user_without_a_home_is_examined_too(findings, monkeypatch):
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does where there is no home
    fine, found = findings()
    assert fine and found["hub"][1].startswith("cache at ~")
