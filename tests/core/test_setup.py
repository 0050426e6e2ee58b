"""The set-up cell, run as a kernel would: beside a checkout, and where kdutils has to be fetched and completed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdutils import __version__
from kdutils.core import machine, setup
from kdutils.core.errors import UserError
from tests.tiny import one_sentence

ROOT = Path(__file__).resolve().parents[2]
# as if kdutils were not installed
HIDDEN = """
import sys
from pathlib import Path
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [entry for entry in sys.path if not Path(entry, "kdutils", "__init__.py").exists()]
"""


def run_cell(folder: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Runs the set-up cell in `folder`, which is not the folder of the script, as a kernel does."""
    script = folder.parent / "cell.py"
    script.write_text(before + "\n" + setup.CELL, encoding="utf-8")
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "GIT_TERMINAL_PROMPT": "0", **environment}
    return subprocess.run([sys.executable, script], cwd=folder, env=settings, capture_output=True, text=True)


def stub(place: Path) -> Path:
    """A checkout whose environment takes no time to print."""
    (place / "kdutils/core").mkdir(parents=True)
    for name in ("kdutils/__init__.py", "kdutils/core/__init__.py", "kdutils/core/setup.py", "kdutils/core/errors.py"):
        shutil.copy(ROOT / name, place / name)
    (place / "kdutils/core/machine.py").write_text("def print_environment(): print('READY', __file__)\n")
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


@pytest.fixture
def remote(tmp_path) -> dict[str, str]:
    """Settings of git under which the address of the suite is a repository on this disk."""
    place = stub(tmp_path / "remote")
    git = ["git", "-C", str(place), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git[:3], "init", "-q", "-b", setup.REVISION], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "All"], check=True)
    key = f"url.file://{place}.insteadOf"
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": setup.REPOSITORY}


def test_beside_a_checkout_three_lines_are_printed_and_nothing_is_installed(tmp_path):
    (tmp_path / "kdutils").symlink_to(ROOT / "kdutils", target_is_directory=True)
    (tmp_path / "notebooks").mkdir()
    done = run_cell(tmp_path / "notebooks", HIDDEN)
    assert (done.returncode, done.stderr) == (0, "")
    versions, device, precision = done.stdout.splitlines()
    assert f"kdutils {__version__}" in versions and f"torch {torch.__version__}" in versions
    assert device.startswith("Device:") and precision.startswith("Precision: ")


def test_the_cell_is_short_enough_to_be_read():
    assert len(setup.CELL.splitlines()) <= 8


@pytest.mark.parametrize("somebodys", [False, True])
def test_without_a_checkout_it_is_fetched_once(tmp_path, remote, somebodys):
    folder = tmp_path / "content" / "here"
    folder.mkdir(parents=True)
    if somebodys:
        (folder / "kdutils").mkdir()  # somebody's checkout: Python would take it for a package
    for _ in range(2):
        done = run_cell(folder, HIDDEN, **remote)
        assert done.returncode == 0, done.stderr
        word, where = done.stdout.split()
        fetched = folder / f"kdutils-{setup.REVISION}"
        assert word == "READY" and Path(where).samefile(fetched / "kdutils/core/machine.py")
        remote["GIT_CONFIG_VALUE_0"] = "nowhere"  # the second time there is no network


def test_without_a_network_there_is_a_sentence(tmp_path):
    (tmp_path / "here").mkdir()
    nowhere = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/none.insteadOf"}
    done = run_cell(tmp_path / "here", HIDDEN, **nowhere, GIT_CONFIG_VALUE_0=setup.REPOSITORY)
    assert done.returncode != 0 and done.stderr.splitlines()[-1] == "There is no kdutils: is there a network?"
    assert "Traceback" not in done.stderr


# --- what is missing ----------------------------------------------------------------------------------------


@pytest.fixture
def pip(monkeypatch):
    """What pip was called with and what it was held to; call it to say what is not installed, and how pip ends."""
    real, calls = setup.installed_version, []

    def prepare(*missing: str, status: int = 0):
        def call(command: list[str]) -> int:
            kept = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8").split()
            calls.append((command, kept))
            return status

        monkeypatch.setattr(setup, "installed_version", lambda name: "" if name in missing else real(name))
        monkeypatch.setattr(setup.subprocess, "call", call)
        monkeypatch.setattr(machine, "print_environment", lambda: print("READY"))
        return calls

    return prepare


def test_only_what_is_missing_is_installed_and_nothing_else_is_moved(pip, capsys):
    calls = pip("sacrebleu", "scikit-learn")
    setup.ready()
    ((command, kept),) = calls
    assert command[:5] == [sys.executable, "-m", "pip", "install", "--quiet"]
    assert [one.split(">")[0] for one in command[-2:]] == ["sacrebleu", "scikit-learn"]
    assert f"torch=={torch.__version__}" in kept and any(pin.startswith("numpy==") for pin in kept)
    assert not any(pin.startswith(("sacrebleu", "scikit-learn")) for pin in kept)
    assert capsys.readouterr().out == "READY\n"


def test_where_nothing_is_missing_pip_is_not_called(pip):
    calls = pip()
    setup.ready()
    assert calls == []


@pytest.mark.parametrize("heavy", ["torch", "numpy"])
def test_torch_and_numpy_are_never_installed(pip, heavy):
    calls = pip(heavy, "sacrebleu")
    with pytest.raises(SystemExit, match="PyTorch is missing: run `make env`"):
        setup.ready()
    assert calls == []


def test_a_failure_of_pip_is_a_sentence(pip, capsys):
    pip("sacrebleu", status=1)
    with pytest.raises(SystemExit) as caught:
        setup.ready()
    assert str(caught.value) == "sacrebleu could not be installed: check the network, then run this cell again."
    assert capsys.readouterr().out == ""


def test_an_installed_package_knows_what_it_asks_for_without_a_checkout(monkeypatch, tmp_path):
    asked = [*setup.requirements()], [*setup.requirements("notebooks")]
    monkeypatch.setattr(setup, "__file__", str(tmp_path / "kdutils/core/setup.py"))
    found = [*setup.requirements()], [*setup.requirements("notebooks")]
    for ours, theirs in zip(asked, found, strict=True):  # the metadata may sort a requirement's bounds
        assert [one.split(">")[0] for one in ours] == [one.split("<")[0].split(">")[0] for one in theirs]


# --- another address ----------------------------------------------------------------------------------------


def test_another_address_is_written_everywhere_and_back(tmp_path):
    names = ["README.md", "CITATION.cff", "pyproject.toml", "kdutils/core/setup.py"]
    names += [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changed = setup.readdress(tmp_path, "ada/suite", "v9")
    assert {path.relative_to(tmp_path).as_posix() for path in changed} == set(names)
    text = (tmp_path / "kdutils/core/setup.py").read_text(encoding="utf-8")
    assert 'REPOSITORY = "https://github.com/ada/suite"' in text and 'REVISION = "v9"' in text
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert f"/github/ada/suite/blob/v9/notebooks/{path.name}" in text
        assert "--branch=v9" in text and "https://github.com/ada/suite" in text and '\\"kdutils-v9\\"' in text
        assert "kd-notebooks" not in text and f"kdutils-{setup.REVISION}" not in text


@pytest.mark.parametrize(
    ("repository", "revision"), [("ada", "main"), ("a/b/c", "main"), ("a b/c", "main"), ("a/b", "x y")]
)
def test_what_is_no_address_is_refused(tmp_path, repository, revision):
    with pytest.raises(UserError) as caught:
        setup.readdress(tmp_path, repository, revision)
    assert "owner/name" in one_sentence(caught.value)


def test_a_badge_opens_the_revision_that_the_cell_fetches():
    assert setup.colab_url("03_r_drop.ipynb").endswith(f"/kdutils/blob/{setup.REVISION}/notebooks/03_r_drop.ipynb")
    assert f"--branch={setup.REVISION}" in setup.CELL and setup.REPOSITORY in setup.CELL
