"""Notebooks executed headlessly, the registry of papers, and the store of recorded results.

>>> execute("r_drop", preset="demo", seeds=[1, 2, 3])
>>> recorded("r_drop", "results")           # what was measured before, at any scale

A notebook gets its parameters from papermill; names it does not know are refused before it starts. The executed
copy and a `status.json` lie under `runs/<paper>/<preset>-<digest>/`; a finished one is not executed again unless
the notebook or its parameters changed, and training that is finished is loaded in any case.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import kdutils.papers
from kdutils.errors import Paused, UserError, unknown
from kdutils.experiments import Record, checked_seeds, resolve
from kdutils.files import digest, exclusive, file_digest, read_json, write_json

HOME = Path(kdutils.__file__).resolve().parent.parent  # the folder with notebooks/ and results/


def runs_folder() -> str:
    """Where notebooks keep their runs: $KDUTILS_RUNS, or the folder runs/ beside kdutils, as seen from here."""
    return os.environ.get("KDUTILS_RUNS") or os.path.relpath(HOME / "runs")


def names() -> list[str]:
    """The papers that have a module, in the order of their notebooks."""
    found = [module.name for module in pkgutil.iter_modules(kdutils.papers.__path__)]
    return sorted(found, key=lambda name: str(notebook_of(name) or name))


def load(name: str) -> ModuleType:
    """The module of a paper. Raises UserError for one that does not exist."""
    if name not in names():
        raise unknown("paper", name, names())
    return importlib.import_module(f"kdutils.papers.{name}")


def notebook_of(name: str) -> Path | None:
    """The notebook of a paper (`notebooks/NN_<name>.ipynb`), or None where the notebooks are not installed."""
    return next(iter(sorted((HOME / "notebooks").glob(f"[0-9][0-9]_{name}.ipynb"))), None)


def all_notebooks() -> list[Path]:
    """Every notebook of the suite, in order."""
    return sorted((HOME / "notebooks").glob("[0-9][0-9]_*.ipynb"))


# --- results that were recorded ----------------------------------------------------------------------------------


def recorded(name: str, results: str | Path = HOME / "results") -> list[Record]:
    """The recorded runs of a paper, one a (settings, seed), in the order of their files."""
    return [read_json(path) for path in sorted(Path(results).glob(f"{name}/*/*.json"))]


def record_path(record: Record, results: str | Path = HOME / "results") -> Path:
    """Where a record is kept: `<results>/<paper>/<preset>/<task>[-setting=value...]-seed-<n>.json`."""
    changes = "".join(f"-{name}={_short(value)}" for name, value in sorted(record["overrides"].items()))
    return Path(results) / record["paper"] / record["preset"] / f"{record['task']}{changes}-seed-{record['seed']}.json"


def keep(record: Record, results: str | Path = HOME / "results") -> Path:
    """Copies a record into the store, its training curves thinned to the evaluations. Never replaces one.

    Raises UserError when a record of these settings and this seed is there already.
    """
    place = record_path(record, results)
    if place.exists():
        raise UserError(f"{place} is recorded already: delete it first if the new run is to replace it.")
    arms = {
        name: {**arm, "history": [row for row in arm["history"] if row["kind"] == "eval"]}
        for name, arm in record["arms"].items()
    }
    write_json(place, {**record, "arms": arms})
    return place


def for_claim(over: Sequence[str], records: Sequence[Record], task: str, preset: str) -> list[Record]:
    """The records of a task and preset that differ from the preset in nothing but the settings in `over`."""
    return [
        record
        for record in records
        if (record["task"], record["preset"]) == (task, preset) and set(record["overrides"]) <= set(over)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return Path(text).name if os.sep in text else text.replace(":", "-")


# --- notebooks ---------------------------------------------------------------------------------------------------


def execute(
    name: str,
    preset: str = "demo",
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    tasks: Sequence[str] | None = None,
    runs: str | Path = "runs",
    max_minutes: float = 0.0,
) -> Path:
    """Executes a paper's notebook and returns the executed copy.

    With `seeds`, one process a seed and then one that puts them together from what those computed; without, one
    process with the notebook's own seeds. Raises UserError before anything runs for a bad parameter, and after
    it for a failure, in the words of the notebook; Paused when the time guard stopped it.
    """
    paper = load(name)
    notebook = notebook_of(name)
    if notebook is None:
        raise UserError(f"There is no notebook of '{name}' beside kdutils: clone the repository, or use 'train'.")
    settings = resolve(paper.EXPERIMENTS, preset, overrides, tasks)
    parameters = {"preset": preset, "runs": str(Path(runs).resolve())}
    parameters |= {"overrides": dict(overrides)} if overrides else {}
    parameters |= {"tasks": list(tasks)} if tasks else {}
    parameters |= {"max_minutes": float(max_minutes)} if max_minutes else {}
    label = digest({task: one.digest for task, one in settings.items()})[:8]
    place = Path(runs) / name / f"{preset}-{label}"
    if seeds is None:
        return run_notebook(notebook, parameters, place / notebook.name)
    for seed in checked_seeds(seeds):
        run_notebook(notebook, {**parameters, "seeds": [seed]}, place / f"seed-{seed}.ipynb")
    return run_notebook(notebook, {**parameters, "seeds": list(seeds)}, place / notebook.name)


def run_notebook(notebook: Path, parameters: Mapping[str, Any], output: Path) -> Path:
    """Executes one notebook into `output` in a kernel of its own, unless that is done already."""
    check_parameters(notebook, parameters)
    status_file = output.with_suffix(".status.json")
    wanted = {"notebook": output.name, "source": file_digest(notebook), "parameters": dict(parameters)}
    if status_file.exists() and output.exists():
        status = read_json(status_file)
        if status.get("status") == "ok" and {key: status.get(key) for key in wanted} == wanted:
            print(f"{output}: finished already")
            return output
    started = time.monotonic()
    print(f"{notebook.name}: running, {_in_words(parameters)}", flush=True)
    with exclusive(output.parent):
        try:
            _papermill(notebook, output, parameters)
        except UserError as error:
            write_json(status_file, {**wanted, "status": "failed", "minutes": _minutes(started), "error": str(error)})
            raise
        write_json(status_file, {**wanted, "status": "ok", "minutes": _minutes(started)})
    print(f"{output}: done in {_minutes(started):.1f} min", flush=True)
    return output


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raises UserError for a parameter that the notebook does not have; papermill itself would only warn."""
    import papermill

    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise unknown("parameter", name, known)


def refresh(notebook: Path) -> None:
    """Executes a committed notebook with its default parameters and puts the tidied result in its place."""
    import nbformat

    from kdutils.notebook import tidy

    output = notebook.with_name(f".{notebook.name}")
    try:
        _papermill(notebook, output, {})
        executed = nbformat.read(output, as_version=4)
    finally:
        output.unlink(missing_ok=True)
    nbformat.write(tidy(executed), notebook)


def _papermill(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    with _headless():
        try:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=dict(parameters), cwd=str(notebook.parent),
                kernel_name="python3", progress_bar=False, store_widget_state=False, coalesce_streams=True,
                extra_arguments=["--log-level=ERROR"],  # else the kernel warns about its transport
            )  # fmt: skip
        except PapermillExecutionError as error:
            raise _translated(error, notebook, output) from None
        except Exception as error:  # a kernel that died, a broken file: still one sentence
            raise UserError(f"{notebook.name} could not be run ({type(error).__name__}: {error}).") from error


def _translated(error: Any, notebook: Path, output: Path) -> UserError:
    """The notebook's own sentence where it has one; otherwise which cell failed and where to look."""
    if error.ename == "Paused":
        return Paused(error.evalue)
    if error.ename == "UserError":
        return UserError(error.evalue)
    cell = f"cell {error.exec_count}"
    return UserError(f"{notebook.name} failed in {cell} with {error.ename}: {error.evalue}; see {output}.")


@contextlib.contextmanager
def _headless() -> Iterator[None]:
    """The kernel inherits these: no widgets, and the right to import this very kdutils."""
    before = dict(os.environ)
    os.environ["KDUTILS_HEADLESS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOME), before.get("PYTHONPATH", "")]))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _in_words(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in parameters.items() if name != "runs")


def _minutes(started: float) -> float:
    return round((time.monotonic() - started) / 60, 2)
