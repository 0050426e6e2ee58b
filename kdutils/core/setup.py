"""The first cell of every notebook, and what it calls: fetch kdutils where it is not, install what is missing.

This module needs nothing but Python itself: it runs where torch may not be there yet. The address of the suite and
the revision that badges open and set-up cells fetch stand here; `make colab REPO=owner/name` writes others everywhere.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from kdutils.core.errors import UserError

REPOSITORY = "https://github.com/kd-notebooks/kdutils"
REVISION = "main"  # a branch or a tag: of the notebook that a badge opens, and of the code that it fetches

CELL = f"""\
# Beside a checkout this only looks around; on Colab it fetches kdutils and what it lacks, but never torch or numpy.
import importlib.util, pathlib, subprocess, sys; sys.path.insert(0, str(pathlib.Path("..").resolve()))
if getattr(importlib.util.find_spec("kdutils"), "origin", None) is None:
    home = pathlib.Path("kdutils-{REVISION}").resolve()
    fetch = ["git", "clone", "-q", "--depth=1", "--branch={REVISION}", "{REPOSITORY}", home]
    if not home.exists() and subprocess.call(fetch): sys.exit("There is no kdutils: is there a network?")
    sys.path.insert(0, str(home))
from kdutils.core import setup; setup.ready()
"""


def colab_url(name: str) -> str:
    """The address that opens notebook `name` ("03_r_drop.ipynb") in Colab, as its badge links to."""
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/{REVISION}/notebooks/{name}"


def ready() -> None:
    """Installs what is missing, then prints the environment.

    What is there is never changed: pip is held to the versions that are installed. Ends with one sentence where torch
    or numpy are missing, which decide the numbers and are not installed in passing, or where there is no network.
    """
    wanted = {re.split(r"[^\w.-]", text, maxsplit=1)[0]: text for text in requirements()}
    there = {name: version for name in wanted if (version := installed_version(name))}
    missing = [name for name in wanted if name not in there]
    if {"torch", "numpy"} & {*missing}:
        raise SystemExit("PyTorch is missing: run `make env` in the folder of kdutils, or install torch first.")
    if missing:
        constraints = Path(tempfile.mkdtemp(), "constraints.txt")
        constraints.write_text("\n".join(f"{name}=={version}" for name, version in there.items()), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
        if subprocess.call([*pip, *(wanted[name] for name in missing)]):
            names = ", ".join(missing)
            raise SystemExit(f"{names} could not be installed: check the network, then run this cell again.")
        importlib.invalidate_caches()
    importlib.import_module("kdutils.core.machine").print_environment()  # not before: it needs torch


def requirements(extra: str = "") -> Iterator[str]:
    """What the package asks for, "torch>=2.11" and so on, or what one of its extras does.

    One list, that of pyproject.toml: read there in a checkout, and from the metadata of an installed package.
    """
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        asked = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        yield from asked["optional-dependencies"][extra] if extra else asked["dependencies"]
        return
    for text in importlib.metadata.requires("kdutils") or ():
        requirement, _, condition = text.partition(";")
        if (f'extra == "{extra}"' in condition) if extra else not condition:
            yield requirement.strip()


def installed_version(package: str) -> str:
    """The version of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def readdress(home: Path, repository: str, revision: str = REVISION) -> list[Path]:
    """Writes another address ("owner/name") and revision into every file of a checkout; returns those that changed.

    Raises UserError for what is no owner/name, or a revision with characters that no branch or tag has.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository) or not re.fullmatch(r"[\w.-]+", revision):
        raise UserError(f"Give the repository as owner/name and a branch or tag, not '{repository}' and '{revision}'.")
    old, changed = REPOSITORY.removeprefix("https://github.com/"), []
    texts = {
        f"github.com/{old}": f"github.com/{repository}",
        f"/github/{old}/blob/{REVISION}/": f"/github/{repository}/blob/{revision}/",
        f"--branch={REVISION}": f"--branch={revision}",
        f"kdutils-{REVISION}": f"kdutils-{revision}",
        f'REVISION = "{REVISION}"': f'REVISION = "{revision}"',
    }
    names = ("README.md", "CITATION.cff", "pyproject.toml", "kdutils/core/setup.py", "notebooks/*.ipynb")
    for file in sorted(path for name in names for path in home.glob(name)):
        before = after = file.read_text(encoding="utf-8")
        for one, other in texts.items():
            after = after.replace(one, other)
        if after != before:
            file.write_text(after, encoding="utf-8")
            changed.append(file)
    return changed
