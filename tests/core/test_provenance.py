"""What a result says about where it came from, and that it says nothing that is not so."""

from __future__ import annotations

import datetime
import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kdutils import __version__
from kdutils.core import machine

ROOT = Path(__file__).resolve().parents[2]


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def placed(folder: Path) -> ModuleType:
    """The module as if kdutils lay in this folder."""
    place = folder / "kdutils/core/machine.py"
    place.parent.mkdir(parents=True, exist_ok=True)
    (place.parents[1] / "__init__.py").touch()
    shutil.copy(machine.__file__, place)
    spec = importlib.util.spec_from_file_location("placed_machine", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> tuple[Path, ModuleType]:
    """A repository with kdutils in it, all committed."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a hook
        monkeypatch.delenv(name, raising=False)
    module = placed(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "kdutils/__init__.py", "kdutils/core/machine.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / ".git/info").mkdir(exist_ok=True)
    (tmp_path / ".git/info/exclude").write_text("__pycache__\n.venv\n")
    return tmp_path, module


# --- the commit --------------------------------------------------------------------------------------------------


def test_the_commit_is_that_of_the_code(checkout):
    folder, module = checkout
    assert module.commit() == git(folder, "rev-parse", "HEAD")[:12]


def test_changed_and_added_files_of_the_code_are_told(checkout):
    folder, module = checkout
    (folder / "notes.txt").write_text("not code")
    assert not module.commit().endswith("+changes")
    (folder / "kdutils/extra.py").write_text("")
    assert module.commit() == git(folder, "rev-parse", "HEAD")[:12] + "+changes"


def test_outside_a_checkout_the_commit_is_unknown(tmp_path):
    assert placed(tmp_path / "plain").commit() == "unknown"


def test_the_checkout_around_a_virtual_environment_does_not_answer(checkout):
    folder, _ = checkout
    assert placed(folder / ".venv/lib/site-packages").commit() == "unknown"


def test_a_repository_named_by_the_environment_does_not_answer(checkout, tmp_path_factory, monkeypatch):
    folder, module = checkout
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    found = module.commit()
    monkeypatch.delenv("GIT_DIR")
    assert found == git(folder, "rev-parse", "HEAD")[:12]


def test_without_git_or_with_a_repository_without_commits_the_commit_is_unknown(tmp_path, monkeypatch):
    module = placed(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "kdutils/__init__.py")
    assert module.commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.commit() == "unknown"


# --- the rest ----------------------------------------------------------------------------------------------------


def test_provenance_is_json_that_names_code_versions_device_and_date():
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    facts = machine.provenance()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["kdutils"] == __version__ and facts["commit"] and facts["python"].count(".") == 2
    assert facts["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert {"transformers", "accelerate", "tokenizers", "numpy"} <= set(facts["versions"])
    assert before <= datetime.datetime.fromisoformat(facts["date"]) <= datetime.datetime.now(datetime.UTC)
    assert str(ROOT) not in json.dumps(facts) and str(Path.home()) not in json.dumps(facts)


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(machine, "DECISIVE", ("torch", "no-such-package"))
    assert list(machine.provenance()["versions"]) == ["torch"]


def test_the_device_is_named_in_words(monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert machine.device_name() == "cpu, 3 threads"
    monkeypatch.setattr(machine, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert machine.device_name() == "Tesla T4"


def test_the_peak_memory_is_of_this_process_in_megabytes(monkeypatch):
    monkeypatch.setattr(machine, "device", lambda: torch.device("cpu"))
    machine.reset_peak_memory()  # has nothing to do without a GPU
    first = machine.peak_memory_mb()
    assert 50 < first < 100_000
    assert machine.peak_memory_mb() >= first
    monkeypatch.setattr(machine, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    assert machine.peak_memory_mb() == 3
